from __future__ import annotations

from datetime import timedelta

import pytest

from dockercomms.errors import ProtocolError
from dockercomms.inbox.listing import answer_to, by_thread
from dockercomms.oci.model import digest_of
from tests.fakes.mailbox import NOW, entry


def message(name, *, minutes=0, answers=None, thread=None, **changes):
    return entry(
        id=name,
        digest=digest_of(name.encode()),
        in_reply_to=None if answers is None else digest_of(answers.encode()),
        thread_id=thread,
        created_at=NOW + timedelta(minutes=minutes),
        **changes,
    )


def shown(*entries):
    return [(depth, one.id) for depth, one in by_thread(entries)]


def test_threads_put_answers_below_what_they_answer():
    assert shown(
        message("other", minutes=1),
        message("b", minutes=9, answers="a", thread="a"),
        message("c", minutes=5, answers="b", thread="a"),
        message("d", minutes=3, answers="a", thread="a"),
        message("a"),
    ) == [(0, "a"), (1, "d"), (1, "b"), (2, "c"), (0, "other")]


def test_threads_whose_beginning_is_not_here_stay_together():
    assert shown(
        message("x", minutes=2),
        message("b", minutes=1, answers="gone", thread="a"),
        message("c", minutes=3, answers="gone", thread="a"),
    ) == [(0, "b"), (0, "c"), (0, "x")]


def test_threads_that_go_in_circles_are_listed_once():
    circle = [message("a", answers="b", thread="t"), message("b", answers="a", thread="t")]
    alone = message("s", answers="s", thread="s", minutes=1)
    assert sorted(name for _, name in shown(*circle, alone)) == ["a", "b", "s"]


def test_threads_list_what_nobody_could_read_apart():
    unread = [
        entry(id="", digest=None, tag=tag, sender="", created_at=None) for tag in ("t1", "t2")
    ]
    assert [one.tag for _, one in by_thread(unread)] == ["t1", "t2"]


def test_answer_takes_names_title_and_conversation():
    answer = answer_to(entry(title="x" * 200, recipient="bob"))
    assert (answer.to, answer.sender) == ("alice", "bob")
    assert answer.title == ("Re: " + "x" * 200)[:200]
    assert answer_to(entry(title="Re: x")).title == "Re: x"
    assert answer_to(entry(title=None)).title is None
    assert answer_to(entry(thread_id="t")).thread_id == "t"


def test_answer_to_what_could_not_be_read_is_refused():
    with pytest.raises(ProtocolError, match="not read"):
        answer_to(entry(digest=None, sender=""))

"""Rows become messages: in which order, how often again, and what is kept between."""

from __future__ import annotations

from datetime import timedelta

import pytest

from dockercomms.discovery import MessageRef
from dockercomms.inbox import Inbox
from dockercomms.manifest import parse_message
from dockercomms.protocol import FILENAME, TITLE, message_tag
from dockercomms.reading import MessageCache, group_rows, is_retried, retry_time
from dockercomms.state import State
from tests.fakes.inboxes import ME, NOON, REPO, REPOSITORY, RT, World, days_ago


@pytest.fixture
def state(tmp_path):
    with State(tmp_path / "state.db") as state:
        yield state


@pytest.fixture
def world(state):
    return World(state)


def test_retry_time_doubles_up_to_an_hour():
    waits = [retry_time(NOON, tries=n) - NOON for n in (0, 1, 2, 6, 1000)]
    assert [wait.total_seconds() for wait in waits] == [60, 120, 240, 3600, 3600]


@pytest.mark.parametrize(
    ("kind", "tries", "next_try", "retried"),
    [
        ("missing", 1, NOON + timedelta(hours=1), True),
        ("missing", 5, NOON + timedelta(hours=1), False),
        ("missing", 5, NOON, True),
        ("policy", 1, None, False),
        ("future", 1, NOON + timedelta(hours=1), False),
        ("tag", 1, NOON + timedelta(minutes=1), False),
        ("tag", 1, NOON, True),
    ],
)
def test_is_retried_follows_what_time_can_cure(state, kind, tries, next_try, retried):
    rows = state.inbox
    rows.add(ME, REPO, [MessageRef(tag=f"inbox-{RT}-x")], now=NOON)
    for _ in range(tries):
        rows.set_held(ME, REPO, f"inbox-{RT}-x", kind, "", next_try=next_try)
    (row,) = rows.candidates(ME, REPO)
    assert is_retried(row, NOON) == retried


def test_group_rows_puts_the_oldest_first_and_failed_and_held_ones_last(world):
    rows = world.state.inbox
    messages = [world.sender.publish(at=days_ago(n), bell=False) for n in (4, 3, 2, 1)]
    world.inbox.poll()
    keys = [message.digest for message in messages]
    rows.set_held(ME, REPO, keys[0], "missing", "")
    rows.set_new(ME, REPO, keys[1], tried=1)
    tags = [
        message_tag(RT, days_ago(n), message.digest)
        for n, message in zip((4, 3, 2, 1), messages, strict=True)
    ]
    rows.set_held(ME, REPO, tags[0], "missing", "")
    groups = [{row.key for row in group} for group in group_rows(rows.candidates(ME, REPO))]
    assert groups == [{keys[n], tags[n]} for n in (2, 3, 1, 0)]


def test_message_cache_drops_the_newest_where_there_is_no_room(world):
    messages = [parse_message(world.sender.build()) for _ in range(3)]
    cache = MessageCache(2 * messages[0].descriptor.size)
    for message in messages + messages:
        cache.put(message)
    assert [cache.get(message.digest) for message in messages] == [*messages[:2], None]
    assert cache.get(None) is None


def test_header_keeps_only_what_the_header_is(world):
    message = world.sender.publish(title="Hello")
    (entry,) = world.run()
    header = world.state.inbox.candidate(ME, REPO, message.digest).header
    assert header[TITLE] == "Hello"
    assert set(header) <= set(message.descriptor.annotations)
    assert entry.header == message.header


def test_header_that_a_stricter_release_refuses_is_read_again(world):
    message = world.sender.publish()
    world.run()
    rows = world.state.inbox
    rows.set_read(ME, REPO, message.digest, message.digest, now=NOON, header={FILENAME: "x"})
    (entry,) = world.run()
    assert (entry.header, entry.state) == (None, "new")
    assert world.inbox.fetch(entry) == message


def test_entry_listed_by_its_tag_is_fetched_by_its_digest(world):
    message = world.sender.publish(bell=False)
    world.registry.lost.add(message.digest)
    inbox = world.open(max_fetched=0)
    inbox.poll()
    (entry,) = inbox.entries()
    assert entry.digest is None
    world.registry.lost.clear()
    other = Inbox(
        world.registry, REPOSITORY, repo=REPO, me=ME, state=world.state, clock=world.clock
    )
    other.poll()
    assert other.entries()[0].digest == message.digest
    assert inbox.fetch(entry) == message
    inbox.mark_reported([entry])


def test_fetch_of_a_tag_whose_digest_was_read_meanwhile_asks_by_digest(world):
    message = world.sender.publish(bell=False)
    tag = message_tag(RT, NOON, message.digest)
    world.registry.lost.add(message.digest)
    inbox = world.open(max_fetched=0)
    inbox.poll()
    (entry,) = inbox.entries()
    assert entry.key == tag
    rows = world.state.inbox
    rows.add(ME, REPO, [MessageRef(digest=message.digest)], now=NOON)
    rows.set_read(ME, REPO, message.digest, message.digest, now=NOON)
    assert inbox.fetch(entry) == message
    assert world.registry.asked("get_tag") == []
    assert rows.candidate(ME, REPO, tag) is None

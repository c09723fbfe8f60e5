"""Rows become messages: in which order, how often again, and what is kept between."""

from __future__ import annotations

from datetime import timedelta

import pytest

from dockercomms.inbox.inbox import Inbox
from dockercomms.inbox.read import EAGER_TRIES, READING_KINDS, MessageCache, is_retried, retry_time
from dockercomms.oci.model import Digest, digest_of
from dockercomms.protocol.header import FILENAME, TITLE
from dockercomms.protocol.manifest import parse_message
from dockercomms.protocol.tags import MessageRef, message_tag
from dockercomms.state.inbox import MAX_GROUP_ROWS
from tests.fakes.inboxes import ME, NOON, REPO, REPOSITORY, RT, days_ago


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


def next_unread(rows, now=NOON, limit=100):
    return rows.next_unread(
        ME,
        REPO,
        now=now,
        live=now,
        since=None,
        limit=limit,
        kinds=READING_KINDS,
        eager_tries=EAGER_TRIES,
    )


def test_next_unread_puts_the_oldest_first_and_failed_and_held_ones_last(world):
    """Rows that may be one message come together, digests before tags."""
    rows = world.state.inbox
    messages = [world.sender.publish(at=days_ago(n), bell=False) for n in (4, 3, 2, 1)]
    world.inbox.poll()
    keys = [message.digest for message in messages]
    tags = [
        message_tag(RT, days_ago(n), message.digest)
        for n, message in zip((4, 3, 2, 1), messages, strict=True)
    ]
    for key in (keys[0], tags[0]):
        rows.set_held(ME, REPO, key, "missing", "", next_try=NOON)
    for key in (keys[1], tags[1]):
        rows.set_new(ME, REPO, key, tried=1)
    groups = [[row.key for row in group] for group in next_unread(rows)]
    assert groups == [[keys[n], tags[n]] for n in (2, 3, 0, 1)]


@pytest.mark.parametrize("kind", sorted(READING_KINDS))
@pytest.mark.parametrize("tries", [1, EAGER_TRIES])
@pytest.mark.parametrize("next_try", [None, NOON, NOON + timedelta(minutes=1)])
def test_next_unread_and_is_retried_agree(state, kind, tries, next_try):
    """The rule about held rows stands in SQL and in Python."""
    rows = state.inbox
    rows.add(ME, REPO, [MessageRef(tag=f"inbox-{RT}-x")], now=NOON)
    for _ in range(tries):
        rows.set_held(ME, REPO, f"inbox-{RT}-x", kind, "", next_try=next_try)
    (row,) = rows.candidates(ME, REPO)
    assert bool(next_unread(rows)) == is_retried(row, NOON)


def spam(first, count):
    """Return tags that point at nothing, published long ago as they say."""
    return [
        MessageRef(tag=f"inbox-{RT}-20260101-{number:08x}-{number:016x}")
        for number in range(first, first + count)
    ]


@pytest.mark.parametrize("listed", [True, False])
def test_next_unread_starves_no_message(state, listed):
    """While someone adds more tags than a run reads, each message still has its turn."""
    rows, limit, before = state.inbox, 8, 40
    rows.add(ME, REPO, spam(0, before), now=NOON)
    real = MessageRef(digest=digest_of(b"real")) if listed else MessageRef(tag=f"inbox-{RT}-real")
    rows.add(ME, REPO, [real], now=NOON)
    runs = 0
    for runs in range(1, 100):
        now = NOON + timedelta(minutes=runs)
        rows.add(ME, REPO, spam(1000 * runs, 3 * limit), now=now)
        more = [MessageRef(digest=digest_of(b"%d" % n)) for n in range(20 * runs, 20 * runs + 20)]
        rows.add(ME, REPO, more, now=now)
        read = [row.key for group in next_unread(rows, now, limit) for row in group]
        assert len(read) == limit
        if (real.digest or real.tag) in read:
            break
        for key in read:
            rows.set_held(ME, REPO, key, "missing", "", next_try=retry_time(now, tries=1))
    assert runs <= (1 if listed else -(-(before + 1) // (limit // 4)))


def test_next_unread_starves_no_message_that_failed(state):
    """A held message is tried again within a bounded number of runs, whatever comes anew."""
    rows, limit = state.inbox, 8
    key = f"inbox-{RT}-real"
    rows.add(ME, REPO, [MessageRef(tag=key)], now=NOON)
    for _ in range(EAGER_TRIES):
        rows.set_held(ME, REPO, key, "missing", "", next_try=NOON + timedelta(minutes=5))
    turns = []
    for run in range(1, 40):
        now = NOON + timedelta(minutes=run)
        rows.add(ME, REPO, spam(1000 * run, 3 * limit), now=now)
        read = [row.key for group in next_unread(rows, now, limit) for row in group]
        turns += [run] * (key in read)
        for other in read:
            rows.set_held(ME, REPO, other, "missing", "", next_try=retry_time(now, tries=1))
    assert turns
    assert turns[0] <= 20


def test_next_unread_reads_few_of_many_rows_that_begin_alike(state):
    """False digests with the head of a message do not keep back the tag that leads to it."""
    rows = state.inbox
    tag = message_tag(RT, NOON, digest_of(b"real"))
    head = tag[-16:]
    lies = [MessageRef(digest=Digest(f"sha256:{head}{number:048x}")) for number in range(100)]
    rows.add(ME, REPO, [*lies, MessageRef(tag=tag)], now=NOON)
    (group,) = next_unread(rows)
    assert len(group) == MAX_GROUP_ROWS + 1
    assert group[-1].key == tag


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

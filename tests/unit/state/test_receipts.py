from __future__ import annotations

from datetime import timedelta

import pytest

from dockercomms.oci.model import digest_of
from dockercomms.state import State
from dockercomms.state.receipts import ReceiptRow, ReceiptsProgress
from tests.fakes.clock import FakeClock

REPO = "r.example/box"
MESSAGE = digest_of(b"message")


@pytest.fixture
def rows(tmp_path):
    with State(tmp_path / "state.db") as opened:
        yield opened.receipts


def row(status="accepted", **changes) -> ReceiptRow:
    values = {
        "repo": REPO,
        "me": "bob",
        "message": MESSAGE,
        "sender_tag": "0" * 26,
        "rid": "1" * 16,
        "status": status,
        "reason": "",
        "manifest": status.encode(),
        "digest": digest_of(status.encode()),
    }
    return ReceiptRow(**values | changes)


def test_store_gives_back_what_was_stored(rows):
    stored = rows.store(row())

    assert stored.number > 0
    assert rows.last(REPO, "bob", MESSAGE) == stored


def test_last_is_the_newest_of_one_message_and_repository(rows):
    rows.store(row("accepted"))
    newest = rows.store(row("rejected"))
    rows.store(row(message=digest_of(b"other")))
    rows.store(row(repo="r.example/other"))
    rows.store(row(me="carol"))

    assert rows.last(REPO, "bob", MESSAGE) == newest
    assert rows.last(REPO, "dave", MESSAGE) is None


def test_pending_are_those_that_are_due_oldest_first(rows):
    now = FakeClock().now()
    one, two, three = (rows.store(row(message=digest_of(b"%d" % n))) for n in range(3))
    rows.record_published(one.number, now=now)
    rows.record_failed(two.number, next_try=now + timedelta(hours=1))

    assert [item.number for item in rows.pending(REPO, "bob", now=now)] == [three.number]
    later = rows.pending(REPO, "bob", now=now + timedelta(hours=1))
    assert [(item.number, item.tries) for item in later] == [(two.number, 1), (three.number, 0)]
    assert rows.pending(REPO, "carol", now=now) == ()


def test_progress_is_kept_for_each_sender_and_repository(rows):
    now = FakeClock().now()
    done = ReceiptsProgress(day=now.date(), full_pass_at=now)
    rows.set_progress(REPO, "alice", done)

    assert rows.progress(REPO, "alice") == done
    assert rows.progress(REPO, "bob") == ReceiptsProgress()
    rows.set_progress(REPO, "alice", ReceiptsProgress())
    assert rows.progress(REPO, "alice") == ReceiptsProgress()


def test_found_receipts_are_kept_by_tag(rows):
    rows.add_found(REPO, "alice", {"b": b"2", "a": b"1"})
    rows.add_found(REPO, "alice", {"b": b"3"})
    rows.add_found(REPO, "carol", {"c": b"4"})

    assert rows.known_tags(REPO, "alice") == {"a", "b"}
    assert rows.found(REPO, "alice") == (b"1", b"3")
    rows.drop_found(REPO, "alice", ["a", "c"])
    assert rows.found(REPO, "alice") == (b"3",)
    assert rows.found(REPO, "carol") == (b"4",)

"""Candidates, deliveries and progress: what is joined, shared, kept and forgotten."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from dockercomms.oci.model import digest_of
from dockercomms.protocol.header import MESSAGE_ID
from dockercomms.protocol.tags import MessageRef, message_tag, recipient_tag
from dockercomms.state.progress import Capabilities, Progress

ME, REPO, OTHER = "bob", "r.example/box", "mirror.example/box"
RT = recipient_tag(ME)
NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
ONE, TWO = digest_of(b"one"), digest_of(b"two")
TAG = message_tag(RT, NOW, ONE)
LEGACY = f"inbox-{RT}-20261120-00000000-00000000"


@pytest.fixture
def rows(state):
    return state.inbox


def add(rows, *refs, repo=REPO, now=NOW):
    rows.add(ME, repo, refs, now=now)


def states(rows, repo=REPO):
    return {row.key: row.state for row in rows.candidates(ME, repo)}


def begin(rows, digest=ONE, **changes):
    values = {
        "repo": REPO,
        "message_id": "id",
        "sender": "alice",
        "path": Path("/x/a.txt"),
        "payload_digest": TWO,
        "expires": NOW + timedelta(days=7),
    }
    rows.begin_delivery(ME, digest, **(values | changes))


# --- candidates ----------------------------------------------------------------------------------


def test_add_keeps_what_is_known_as_it_is(rows):
    add(rows, MessageRef(tag=TAG), MessageRef(tag=TAG))
    rows.set_held(ME, REPO, TAG, "integrity", "other bytes")
    add(rows, MessageRef(tag=TAG), now=NOW + timedelta(days=2))
    (row,) = rows.candidates(ME, REPO)
    assert (row.state, row.first_seen) == ("held", NOW)


def test_add_of_nothing_opens_nothing(rows, tmp_path):
    add(rows)
    assert not (tmp_path / "state.db").exists()


def test_add_separates_recipients_and_repositories(rows):
    add(rows, MessageRef(tag=TAG))
    assert rows.candidates("carol", REPO) == []
    assert rows.candidates(ME, OTHER) == []


def test_add_keeps_a_tag_beside_a_digest_that_nobody_has_read(rows):
    add(rows, MessageRef(digest=ONE), MessageRef(tag=TAG))
    assert states(rows) == {ONE: "new", TAG: "new"}


def test_add_joins_a_tag_to_a_digest_that_was_read(rows):
    add(rows, MessageRef(digest=ONE))
    rows.set_read(ME, REPO, ONE, ONE, now=NOW)
    add(rows, MessageRef(tag=TAG))
    (row,) = rows.candidates(ME, REPO)
    assert (row.key, row.tag, row.published) == (ONE, TAG, NOW)


def test_add_joins_a_tag_to_what_another_repository_delivered(rows):
    begin(rows)
    rows.finish_delivery(ME, ONE, NOW)
    add(rows, MessageRef(tag=TAG), repo=OTHER)
    (row,) = rows.candidates(ME, OTHER)
    assert (row.key, row.state, row.digest) == (ONE, "delivered", ONE)
    add(rows, MessageRef(digest=ONE))
    assert states(rows) == {ONE: "delivered"}


def test_add_gives_a_digest_the_time_of_its_latest_tag(rows):
    later = message_tag(RT, NOW + timedelta(hours=1), ONE)
    add(rows, MessageRef(tag=TAG), MessageRef(tag=later))
    add(rows, MessageRef(digest=ONE))
    assert rows.candidate(ME, REPO, ONE).published == NOW + timedelta(hours=1)


def test_set_read_lets_no_backdated_tag_hide_a_message(rows):
    add(rows, MessageRef(tag=TAG))
    rows.set_read(ME, REPO, TAG, ONE, now=NOW)
    add(rows, MessageRef(tag=message_tag(RT, NOW - timedelta(days=9), ONE)))
    assert rows.candidate(ME, REPO, ONE).published == NOW
    add(rows, MessageRef(tag=message_tag(RT, NOW + timedelta(days=1), ONE)))
    assert rows.candidate(ME, REPO, ONE).published == NOW + timedelta(days=1)


def test_set_read_joins_a_tag_to_its_digest(rows):
    add(rows, MessageRef(tag=TAG))
    expires = NOW + timedelta(days=7)
    rows.set_read(ME, REPO, TAG, ONE, now=NOW, header={MESSAGE_ID: "x"}, expires=expires)
    (row,) = rows.candidates(ME, REPO)
    assert (row.key, row.tag, row.proven, row.legacy) == (ONE, TAG, True, False)
    assert row.header == {MESSAGE_ID: "x"}
    assert rows.candidate(ME, REPO, TAG) is None
    assert [found.key for found in rows.by_head(ME, REPO, row.head)] == [ONE]


def test_set_read_again_loses_nothing(rows):
    add(rows, MessageRef(tag=TAG))
    rows.set_read(ME, REPO, TAG, ONE, now=NOW, header={MESSAGE_ID: "x"})
    rows.set_read(ME, REPO, ONE, ONE, now=NOW)
    row = rows.candidate(ME, REPO, ONE)
    assert (row.header, row.tag, row.published) == ({MESSAGE_ID: "x"}, TAG, NOW)


def test_set_read_takes_text_that_utf8_cannot_say(rows):
    rows.set_read(ME, REPO, ONE, ONE, now=NOW, header={MESSAGE_ID: "a\ud800"})
    rows.set_held(ME, REPO, ONE, "policy", "sender \udcff")
    row = rows.candidate(ME, REPO, ONE)
    assert row.header == {MESSAGE_ID: "a\ud800"}
    assert row.reason == "sender \\udcff"
    assert [found.key for found in rows.by_prefix(ME, REPO, "a\ud800")] == [ONE]


def test_set_read_of_a_1_0_tag_remembers_its_digest(rows):
    add(rows, MessageRef(tag=LEGACY))
    rows.set_read(ME, REPO, LEGACY, ONE, now=NOW)
    add(rows, MessageRef(tag=LEGACY))
    assert states(rows) == {ONE: "new"}
    assert rows.legacy_tags(ME, REPO, limit=10) == {LEGACY: ONE}
    assert rows.candidate(ME, REPO, LEGACY).key == ONE


def test_check_legacy_makes_a_moved_tag_new(rows):
    add(rows, MessageRef(tag=LEGACY))
    rows.set_read(ME, REPO, LEGACY, ONE, now=NOW)
    rows.check_legacy(ME, REPO, [LEGACY], moved=False, now=NOW)
    assert states(rows) == {ONE: "new"}
    rows.check_legacy(ME, REPO, [LEGACY], moved=True, now=NOW)
    assert states(rows) == {ONE: "new", LEGACY: "new"}
    assert rows.candidate(ME, REPO, LEGACY).digest is None


def test_legacy_tags_come_longest_unchecked_first(rows):
    other = f"inbox-{RT}-20261120-00000000-00000001"
    for tag, digest in ((LEGACY, ONE), (other, TWO)):
        add(rows, MessageRef(tag=tag))
        rows.set_read(ME, REPO, tag, digest, now=NOW)
    rows.check_legacy(ME, REPO, [LEGACY], moved=False, now=NOW + timedelta(hours=1))
    assert list(rows.legacy_tags(ME, REPO, limit=1)) == [other]


def test_candidates_are_oldest_first_and_failed_ones_last(rows):
    published = [NOW - timedelta(hours=n) for n in (1, 3, 2)]
    tags = [message_tag(RT, at, digest_of(str(at).encode())) for at in published]
    add(rows, *(MessageRef(tag=tag) for tag in tags))
    assert [row.key for row in rows.candidates(ME, REPO)] == [tags[1], tags[2], tags[0]]
    rows.set_new(ME, REPO, tags[1], tried=1)
    assert [row.key for row in rows.candidates(ME, REPO)] == [tags[2], tags[0], tags[1]]
    after = NOW - timedelta(hours=2, minutes=30)
    left = rows.candidates(ME, REPO, published_after=after)
    assert [row.key for row in left] == [tags[2], tags[0]]


def test_candidates_leave_out_what_has_expired(rows):
    rows.set_read(ME, REPO, ONE, ONE, now=NOW, header={}, expires=NOW)
    rows.set_read(ME, REPO, TWO, TWO, now=NOW, header={}, expires=NOW + timedelta(seconds=1))
    assert len(rows.candidates(ME, REPO)) == 2
    assert [row.key for row in rows.candidates(ME, REPO, unexpired_at=NOW)] == [TWO]


def test_set_reported_holds_as_long_as_the_reason_is_the_same(rows):
    add(rows, MessageRef(digest=ONE))
    rows.set_held(ME, REPO, ONE, "missing", "not there")
    rows.set_reported(ME, REPO, [ONE])
    rows.set_new(ME, REPO, ONE)
    rows.set_held(ME, REPO, ONE, "missing", "not there again")
    row = rows.candidate(ME, REPO, ONE)
    assert (row.reported, row.tries, row.reason) == (True, 2, "not there again")
    assert rows.candidates(ME, REPO, unreported=True) == []
    rows.set_refused(ME, REPO, ONE, "malformed", "no JSON")
    assert not rows.candidate(ME, REPO, ONE).reported


def test_knows_a_digest_by_its_row_or_by_a_tag(rows):
    assert not rows.knows(ME, REPO, ONE)
    add(rows, MessageRef(tag=TAG))
    assert rows.knows(ME, REPO, ONE)
    add(rows, MessageRef(tag=LEGACY))
    rows.set_read(ME, REPO, LEGACY, TWO, now=NOW)
    assert rows.knows(ME, REPO, TWO)
    assert not rows.knows(ME, OTHER, TWO)


def test_pending_tells_what_a_watcher_may_not_sleep_on(rows):
    def pending(now: datetime) -> bool:
        return rows.pending(ME, REPO, now=now, alive_at=NOW)

    assert not pending(NOW)
    add(rows, MessageRef(digest=ONE))
    assert pending(NOW)
    rows.set_held(ME, REPO, ONE, "missing", "", next_try=NOW + timedelta(minutes=1))
    assert not pending(NOW)
    assert pending(NOW + timedelta(minutes=1))
    rows.set_refused(ME, REPO, ONE, "malformed", "")
    assert not pending(NOW + timedelta(days=1))
    rows.set_read(ME, REPO, TWO, TWO, now=NOW, header={}, expires=NOW)
    assert not pending(NOW)
    assert rows.pending(ME, REPO, now=NOW, alive_at=NOW - timedelta(seconds=1))


def test_pending_is_what_a_clock_that_was_ahead_put_off(rows):
    add(rows, MessageRef(digest=ONE))
    for kind, due in (("missing", True), ("future", False)):
        rows.set_held(ME, REPO, ONE, kind, "", next_try=NOW + timedelta(hours=1, seconds=1))
        assert rows.pending(ME, REPO, now=NOW, alive_at=NOW) is due


# --- deliveries ----------------------------------------------------------------------------------


def test_delivery_goes_through_its_states_in_every_repository(rows):
    add(rows, MessageRef(digest=ONE))
    add(rows, MessageRef(digest=ONE), repo=OTHER)
    begin(rows)
    assert states(rows) == states(rows, OTHER) == {ONE: "delivering"}
    (delivery,) = rows.delivering(ME)
    assert delivery == rows.delivery(ME, ONE)
    assert (delivery.state, delivery.path, delivery.payload_digest) == (
        "delivering",
        Path("/x/a.txt"),
        TWO,
    )
    rows.finish_delivery(ME, ONE, NOW)
    assert states(rows) == states(rows, OTHER) == {ONE: "delivered"}
    assert rows.delivering(ME) == ()
    assert rows.delivery(ME, ONE).delivered_at == NOW
    assert rows.delivery(ME, TWO) is None
    assert rows.delivery("carol", ONE) is None


def test_delivery_that_came_to_nothing_is_new_again(rows):
    add(rows, MessageRef(digest=ONE))
    begin(rows)
    rows.forget_delivery(ME, ONE)
    assert states(rows) == {ONE: "new"}
    assert rows.delivery(ME, ONE) is None


def test_delivery_stays_delivered_when_a_second_one_comes_to_nothing(rows):
    add(rows, MessageRef(digest=ONE))
    begin(rows)
    rows.finish_delivery(ME, ONE, NOW)
    begin(rows, path=Path("/y/a (2).txt"))
    assert states(rows) == {ONE: "delivering"}
    rows.forget_delivery(ME, ONE)
    assert states(rows) == {ONE: "delivered"}
    begin(rows)
    rows.finish_delivery(ME, ONE, NOW + timedelta(days=1))
    assert rows.delivery(ME, ONE).delivered_at == NOW


def test_delivery_is_not_undone_by_holding_or_refusing(rows):
    add(rows, MessageRef(digest=ONE))
    begin(rows)
    rows.finish_delivery(ME, ONE, NOW)
    rows.set_held(ME, REPO, ONE, "missing-blob", "")
    rows.set_refused(ME, REPO, ONE, "chunk", "")
    rows.set_new(ME, REPO, ONE)
    assert states(rows) == {ONE: "delivered"}


def test_delivery_keeps_a_path_of_any_bytes_and_none_of_a_stream(rows):
    begin(rows, path=Path("/x/\udcff"))
    begin(rows, TWO, path=None, payload_digest=None, expires=None)
    assert rows.delivery(ME, ONE).path == Path("/x/\udcff")
    delivery = rows.delivery(ME, TWO)
    assert (delivery.path, delivery.payload_digest, delivery.expires) == (None, None, None)


@pytest.mark.parametrize(
    ("days", "expires_in", "kept"),
    [
        (89, 7, True),
        (91, 7, False),
        (91, 100, True),
        (100.5, 100, True),
        (101.5, 100, False),
        (4000, None, True),
    ],
)
def test_sweep_forgets_deliveries_when_they_cannot_come_again(rows, days, expires_in, kept):
    add(rows, MessageRef(digest=ONE))
    expires = None if expires_in is None else NOW + timedelta(days=expires_in)
    begin(rows, expires=expires)
    rows.finish_delivery(ME, ONE, NOW)
    rows.sweep(ME, REPO, now=NOW + timedelta(days=days))
    assert (rows.delivery(ME, ONE) is not None) == kept
    assert (ONE in states(rows)) == kept


def test_sweep_forgets_candidates_that_nobody_sees(rows):
    add(rows, MessageRef(digest=ONE), MessageRef(digest=TWO))
    later = NOW + timedelta(days=20)
    add(rows, MessageRef(digest=TWO), now=later)
    rows.sweep(ME, REPO, now=NOW + timedelta(days=31))
    assert states(rows) == {TWO: "new"}


def test_batch_is_one_transaction(rows):
    def fail() -> None:
        with rows.batch():
            add(rows, MessageRef(digest=ONE))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert states(rows) == {}


# --- progress ------------------------------------------------------------------------------------


def test_progress_comes_back_as_it_was_written(state):
    assert state.progress.progress(ME, REPO) == Progress()
    progress = Progress(
        bell=ONE,
        day=date(2026, 11, 20),
        reconciled_at=NOW,
        full_pass_at=NOW - timedelta(hours=1),
        bell_searched_at=NOW - timedelta(hours=2),
    )
    state.progress.set_progress(ME, REPO, progress)
    assert state.progress.progress(ME, REPO) == progress
    assert state.progress.progress("carol", REPO) == Progress()


def test_capabilities_come_back_as_they_were_written(state):
    assert state.progress.capabilities(REPO) == Capabilities()
    known = Capabilities(referrers=False, seek=True, probed_at=NOW)
    state.progress.set_capabilities(REPO, known)
    state.progress.set_capabilities(OTHER, replace(known, bell=False))
    assert state.progress.capabilities(REPO) == known
    assert state.progress.capabilities(OTHER).bell is False


def test_anchors_are_replaced_as_a_whole(state):
    days = {date(2026, 11, 20), date(2026, 11, 19)}
    state.progress.set_anchors(ME, REPO, days)
    state.progress.set_anchors(ME, REPO, days)
    assert state.progress.anchors(ME, REPO) == days
    state.progress.set_anchors(ME, REPO, [date(2026, 11, 21)])
    assert state.progress.anchors(ME, REPO) == {date(2026, 11, 21)}
    assert state.progress.anchors("carol", REPO) == frozenset()

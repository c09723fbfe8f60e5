from __future__ import annotations

import fcntl
import os
from datetime import timedelta

import pytest

from dockercomms.oci.model import Descriptor, digest_of
from dockercomms.state.sends import SendJournal
from tests.fakes.clock import FakeClock

REPO = "r.example/box"
DIGEST = digest_of(b"x")
LAYER = Descriptor.of(b"layer", "text/plain", annotations={"a": "b"})


@pytest.fixture
def clock():
    return FakeClock()


def claim(state, clock, source="s", repo=REPO, **options):
    return state.sends.claim(
        repo=repo, source=source, sender="a", recipient="b", now=clock.now(), **options
    )


def start(state, clock, **options):
    """Claim a row and let go of it, as a process does that ends."""
    with claim(state, clock, **options) as row:
        return row.id


def test_claim_continues_what_nobody_holds(state, clock):
    assert start(state, clock) == start(state, clock)


def test_claim_gives_back_what_was_recorded(state, clock):
    send = start(state, clock)
    day = clock.now().date()
    state.sends.record_build(
        send, manifest=b"m", digest=DIGEST, day=day, now=clock.now(), bundle=b"b"
    )
    state.sends.record_tag(send, "t")

    with claim(state, clock) as row:
        assert (row.id, row.manifest, row.bundle, row.digest) == (send, b"m", b"b", DIGEST)
        assert (row.day, row.tag) == (day, "t")


def test_claim_never_joins_one_that_is_held(state, clock):
    with claim(state, clock) as one, claim(state, clock) as two:
        assert one.id != two.id


def test_claim_continues_the_oldest_that_is_free(state, clock):
    with claim(state, clock) as one, claim(state, clock) as two:
        clock.advance(1)
        with claim(state, clock) as three:
            pass
    assert len({one.id, two.id, three.id}) == 3
    with claim(state, clock) as row:
        assert row.id in (one.id, two.id)


@pytest.mark.parametrize("options", [{"source": "other"}, {"repo": "r.example/other"}])
def test_claim_tells_sources_and_repositories_apart(state, clock, options):
    assert start(state, clock) != start(state, clock, **options)


def test_claim_without_source_is_always_new(state, clock):
    assert start(state, clock, source=None) != start(state, clock, source=None)


def test_claim_again_forgets_the_old_ones(state, clock):
    send = start(state, clock)
    state.sends.record(REPO, confirmed={}, send=send, chunks={0: LAYER})

    assert start(state, clock, again=True) != send
    assert state.sends.chunk(send, 0) is None


def test_claim_again_leaves_a_living_one(state, clock):
    with claim(state, clock) as one:
        start(state, clock, again=True)
        state.sends.record_published(one.id, now=clock.now())
        assert state.sends.published(REPO, one.id)


def test_claim_ends_a_day_after_the_build(state, clock):
    send = start(state, clock)
    clock.advance(23 * 3600)
    state.sends.record_build(
        send, manifest=b"m", digest=DIGEST, day=clock.now().date(), now=clock.now()
    )
    clock.advance(23 * 3600)
    assert start(state, clock) == send
    clock.advance(3600)

    assert start(state, clock) != send


def test_claim_sweeps_old_rows_but_not_those_of_the_living(state, clock):
    old = start(state, clock, source="old")
    with claim(state, clock, source="living") as living:
        clock.advance(2 * 24 * 3600)
        start(state, clock)
        ids = {row["id"] for row in state.sends.database.rows("SELECT id FROM sends")}

    assert living.id in ids
    assert old not in ids


def test_no_statement_of_a_send_reads_a_whole_table(state, clock):
    """Each send would be slower than the one before it: 12 to 61 ms at 16,000."""
    start(state, clock)
    database, seen = state.sends.database, set()
    connection = database._opened()
    connection.set_trace_callback(seen.add)
    with claim(state, clock, source="t") as row:
        state.sends.record_build(
            row.id,
            manifest=b"m",
            digest=DIGEST,
            day=clock.now().date(),
            now=clock.now(),
            bundle=b"b",
        )
        state.sends.record_tag(row.id, "t")
    connection.set_trace_callback(None)
    reads = [sql for sql in seen if sql.lstrip().startswith("SELECT")]
    assert reads
    for sql in reads:
        plan = [step[3] for step in connection.execute(f"EXPLAIN QUERY PLAN {sql}")]
        assert not any(step.startswith("SCAN") for step in plan), (sql, plan)


def test_claim_leaves_no_lock_behind(state, clock, tmp_path):
    start(state, clock)

    assert list((tmp_path / "sends").iterdir()) == []


def test_claim_never_takes_the_lock_of_what_another_is_about_to_continue(
    state, clock, tmp_path, monkeypatch
):
    """Not even for a moment: who wants to continue it would take us for its living sender."""
    killed = start(state, clock)
    (tmp_path / "sends").mkdir(exist_ok=True)
    left = [tmp_path / "sends" / f"{name}.lock" for name in (killed, "of-a-finished-one")]
    for path in left:
        path.touch()
    files = {path.stat().st_ino: path for path in left}
    taken, flock = [], fcntl.flock

    def note(handle, how):
        taken.append(files.get(os.fstat(handle).st_ino))
        flock(handle, how)

    monkeypatch.setattr(fcntl, "flock", note)
    start(state, clock, source="another")
    assert left[0] not in taken
    assert left[1] in taken
    assert not left[1].exists()
    assert start(state, clock) == killed


def test_claim_of_a_new_one_holds_a_lock_whoever_sweeps(state, clock, tmp_path, monkeypatch):
    refused, flock = [], fcntl.flock

    def refuse_first(handle, how):
        if not refused:
            refused.extend(path.stem for path in (tmp_path / "sends").iterdir())
            raise BlockingIOError
        flock(handle, how)

    start(state, clock, source="another")  # makes the database and its folder
    monkeypatch.setattr(fcntl, "flock", refuse_first)
    with claim(state, clock) as row:
        held = [path.stem for path in (tmp_path / "sends").iterdir()]
        assert len(refused) == 1
        assert row.id in held
        assert row.id not in refused


def test_claim_lets_go_after_an_error(state, clock):
    with pytest.raises(KeyError), claim(state, clock) as row:
        raise KeyError

    assert start(state, clock) == row.id


def test_published_sends_are_found_by_prefix(state, clock):
    send = start(state, clock)
    state.sends.record_build(
        send, manifest=b"m", digest=DIGEST, day=clock.now().date(), now=clock.now()
    )
    assert state.sends.published(REPO, send) == ()
    state.sends.record_published(send, now=clock.now())

    for prefix in (send, send[:8].upper(), DIGEST, DIGEST[7:12]):
        (row,) = state.sends.published(REPO, prefix)
        assert (row.id, row.digest, row.manifest) == (send, DIGEST, None)
    assert state.sends.published("r.example/other", send) == ()
    assert start(state, clock) != send


def test_published_sends_are_forgotten_after_ninety_days(state, clock):
    send = start(state, clock)
    state.sends.record_published(send, now=clock.now())
    clock.advance(90 * 24 * 3600)
    start(state, clock)

    assert state.sends.published(REPO, send) == ()


# --- what a registry has -------------------------------------------------------------------------


def test_blobs_and_anchors_are_known_by_repository(state, clock):
    state.sends.record(REPO, confirmed={DIGEST: clock.now()})
    state.sends.record_anchor(REPO, "tag", DIGEST, now=clock.now())

    assert state.sends.confirmed(REPO, DIGEST) == clock.now().timestamp()
    assert state.sends.anchor(REPO, "tag") == DIGEST
    assert state.sends.confirmed("r.example/other", DIGEST) is None
    assert state.sends.anchor("r.example/other", "tag") is None


def test_forget_store_believes_nothing_more(state, clock):
    state.sends.record(REPO, confirmed={DIGEST: clock.now()})
    state.sends.record_anchor(REPO, "tag", DIGEST, now=clock.now())

    state.sends.forget_store(REPO)

    assert state.sends.confirmed(REPO, DIGEST) is None
    assert state.sends.anchor(REPO, "tag") is None


def test_old_blobs_and_anchors_are_swept(state, clock):
    state.sends.record(REPO, confirmed={DIGEST: clock.now()})
    state.sends.record_anchor(REPO, "tag", DIGEST, now=clock.now())
    clock.advance(timedelta(days=2).total_seconds())
    start(state, clock)

    assert state.sends.anchor(REPO, "tag") is None
    assert state.sends.confirmed(REPO, DIGEST) is not None
    clock.advance(timedelta(days=5).total_seconds())
    start(state, clock)
    assert state.sends.confirmed(REPO, DIGEST) is None


# --- the journal ---------------------------------------------------------------------------------


def test_journal_keeps_chunks_with_what_waits(state, clock):
    journal = SendJournal(state.sends, "send", REPO, clock)
    assert journal.known(DIGEST) is None
    journal.confirm(DIGEST)

    assert journal.known(DIGEST) == clock.now().timestamp()
    assert state.sends.confirmed(REPO, DIGEST) is None
    journal.record_chunk(3, LAYER)

    assert state.sends.confirmed(REPO, DIGEST) == clock.now().timestamp()
    assert journal.known(DIGEST) == clock.now().timestamp()
    assert journal.chunk(3) == LAYER
    assert journal.chunk(2) is None


def test_journal_flush_writes_what_waits(state, clock):
    journal = SendJournal(state.sends, "send", REPO, clock)
    journal.flush()
    journal.confirm(DIGEST)
    journal.flush()

    assert state.sends.confirmed(REPO, DIGEST) == clock.now().timestamp()

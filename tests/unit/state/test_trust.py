from __future__ import annotations

from datetime import timedelta

from dockercomms.oci.model import digest_of
from dockercomms.protocol.tags import MessageRef
from dockercomms.state import State
from dockercomms.state.trust import JudgedRow
from tests.fakes.clock import FakeClock

ME, REPO = "bob", "r.example/box"
ONE, TWO = digest_of(b"1"), digest_of(b"2")
NOW = FakeClock().now()


def test_policy_forgets_what_another_one_made(state):
    assert state.trust.policy(ME, REPO) is None
    state.trust.set_policy(ME, REPO, "first")
    state.trust.set_judgement(ME, REPO, ONE, JudgedRow("valid", "alice"))
    state.trust.set_judgement("carol", REPO, ONE, JudgedRow("none"))
    state.trust.set_mark(ME, REPO, ONE, "tags", "b")

    state.trust.set_policy(ME, REPO, "second")

    assert state.trust.policy(ME, REPO) == "second"
    assert state.trust.judged(ME, REPO) == {}
    assert state.trust.mark(ME, REPO, ONE, "tags") == ""
    assert state.trust.judged("carol", REPO) == {ONE: JudgedRow("none")}


def test_judgement_is_the_last_one(state):
    assert state.trust.judgement(ME, REPO, ONE) is None

    state.trust.set_judgement(ME, REPO, ONE, JudgedRow("untrusted"))
    state.trust.set_judgement(ME, REPO, ONE, JudgedRow("valid", "al\udcffice"))
    state.trust.set_judgement(ME, REPO, TWO, JudgedRow("none"))

    assert state.trust.judgement(ME, REPO, ONE) == JudgedRow("valid", "al\\udcffice")
    assert set(state.trust.judged(ME, REPO)) == {ONE, TWO}


def test_mark_belongs_to_one_source(state):
    state.trust.set_mark(ME, REPO, ONE, "tags", "a")
    state.trust.set_mark(ME, REPO, ONE, "tags", "b")
    state.trust.set_mark(ME, REPO, ONE, "tags", "b")

    assert state.trust.mark(ME, REPO, ONE, "tags") == "b"
    assert state.trust.mark(ME, REPO, ONE, "referrers") == ""


def record(state: State, digest, **changes):
    values = {"me": ME, "signer": "alice", "message_id": "m", "expires": NOW, "at": NOW} | changes
    state.trust.record_signed(
        values["me"],
        values["signer"],
        values["message_id"],
        digest,
        expires=values["expires"],
        at=values["at"],
    )


def test_first_message_of_a_signed_id_stays(state):
    record(state, ONE)
    record(state, TWO)
    record(state, TWO, signer="carol")

    assert state.trust.signed(ME, "alice", "m") == ONE
    assert state.trust.signed(ME, "carol", "m") == TWO
    assert state.trust.signed(ME, "alice", "other") is None
    assert state.trust.signed("dave", "alice", "m") is None


def test_sweep_forgets_ids_when_deliveries_are_forgotten(state):
    record(state, ONE)
    record(state, ONE, message_id="for ever", expires=None)
    record(state, ONE, message_id="long", expires=NOW + timedelta(days=200))

    state.trust.sweep(ME, REPO, now=NOW + timedelta(days=89))
    assert state.trust.signed(ME, "alice", "m") == ONE
    state.trust.sweep(ME, REPO, now=NOW + timedelta(days=91))

    assert state.trust.signed(ME, "alice", "m") is None
    assert state.trust.signed(ME, "alice", "for ever") == ONE
    assert state.trust.signed(ME, "alice", "long") == ONE


def test_sweep_forgets_what_no_candidate_stands_for(state):
    state.inbox.add(ME, REPO, [MessageRef(digest=ONE)], now=NOW)
    for digest in (ONE, TWO):
        state.trust.set_judgement(ME, REPO, digest, JudgedRow("valid", "alice"))
        state.trust.set_mark(ME, REPO, digest, "tags", "a")

    state.trust.sweep(ME, REPO, now=NOW)

    assert set(state.trust.judged(ME, REPO)) == {ONE}
    assert state.trust.mark(ME, REPO, ONE, "tags") == "a"
    assert state.trust.mark(ME, REPO, TWO, "tags") == ""


def test_reconsider_makes_new_what_was_held_for_those_reasons(state):
    for digest in (ONE, TWO):
        state.inbox.add(ME, REPO, [MessageRef(digest=digest)], now=NOW)
    state.inbox.set_held(ME, REPO, ONE, "unsigned", "not signed")
    state.inbox.set_reported(ME, REPO, [ONE])
    state.inbox.set_held(ME, REPO, TWO, "missing", "not there")

    state.inbox.reconsider(ME, REPO, {"unsigned", "unknown-sender"})

    one, two = (state.inbox.candidate(ME, REPO, digest) for digest in (ONE, TWO))
    assert (one.state, one.reported, one.tries) == ("new", True, 0)
    assert (two.state, two.reason_kind) == ("held", "missing")

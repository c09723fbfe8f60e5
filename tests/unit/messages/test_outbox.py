from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from dockercomms.errors import NetworkError, NotFoundError
from dockercomms.messages.outbox import answers, wait_for_answers
from dockercomms.oci.model import digest_of
from dockercomms.trust.owner import TrustOptions
from tests.fakes.clock import FakeClock
from tests.fakes.mail import ALICE, BOB, UNSIGNED_ALICE, open_mail
from tests.fakes.mailbox import receipt

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
ONE, TWO = digest_of(b"1"), digest_of(b"2")


@pytest.fixture
def mail(tmp_path):
    yield from open_mail(tmp_path)


def said(status="accepted", *, minutes=0, proof="valid", message=ONE, **changes):
    created = NOW + timedelta(minutes=minutes)
    return receipt(
        status=status, created_at=created, signature_status=proof, message=message, **changes
    )


# --- what counts ---------------------------------------------------------------------------------


def test_answers_are_the_newest_that_is_proven():
    first, second = said(), said("rejected", minutes=5)
    forged = said("accepted", minutes=9, proof="untrusted")
    assert answers([second, first, forged]) == {ONE: second}


def test_answers_without_proof_are_the_newest_claim():
    old, new = said(proof="none"), said("rejected", minutes=1, proof="untrusted")
    undated = receipt(created_at=None, message=ONE)
    assert answers([undated, old, new]) == {ONE: new}


def test_answers_with_an_invalid_signature_are_none():
    assert answers([said(proof="invalid")]) == {}


# --- the outbox ----------------------------------------------------------------------------------


def test_outbox_tells_what_became_of_each_message(mail):
    with mail.mailbox(ALICE) as alice:
        assert alice.outbox() == []
        rejected = alice.send([mail.file()], to=BOB, title="one", name="first.txt")
        mail.clock.advance(1)
        accepted = alice.send([mail.file("b")], to=BOB)
        mail.clock.advance(1)
        silent = alice.send(to="carol", text="anybody there?", ttl_seconds=3600)
    keys = mail.folder / "keys"
    mail.receive(mailbox={"keys_folder": keys, "trust": TrustOptions(verify=False)})
    with mail.mailbox(BOB, keys_folder=keys, trust=TrustOptions(verify=False)) as bob:
        bob.acknowledge(rejected.id, "rejected", reason="torn")
    with mail.mailbox(ALICE) as alice:
        first, second, third = alice.outbox()
    assert (first.id, first.title, first.filename, first.bytes) == (
        rejected.id,
        "one",
        "first.txt",
        5,
    )
    assert (first.recipient, first.sender, first.thread) == (BOB, ALICE, rejected.id)
    assert (first.fate, first.receipt.reason, first.proven) == ("silent", "torn", False)
    assert (second.id, second.fate) == (accepted.id, "silent")
    assert (third.id, third.fate, third.receipt, third.proven) == (silent.id, "silent", None, False)
    mail.clock.advance(3601)
    with mail.mailbox(ALICE) as alice:
        assert [entry.fate for entry in alice.outbox()] == ["silent", "silent", "expired"]
    with mail.mailbox(ALICE, trust=TrustOptions(verify=False)) as alice:
        assert [entry.fate for entry in alice.outbox()] == ["rejected", "accepted", "expired"]


def test_outbox_finds_answers_to_every_name_that_was_sent_as(mail):
    with mail.mailbox(ALICE) as alice:
        sent = alice.send([mail.file()], to=BOB, sender="alice-ci")
    mail.receive(mailbox={"keys_folder": mail.folder / "k", "trust": TrustOptions(verify=False)})
    with mail.mailbox(ALICE, trust=TrustOptions(verify=False)) as alice:
        (entry,) = alice.outbox()
    assert (entry.id, entry.fate) == (sent.id, "accepted")


def test_outbox_forgets_after_ninety_days_what_has_expired(mail):
    with mail.mailbox(ALICE) as alice:
        alice.send(to=BOB, text="old")
        kept = alice.send(to=BOB, text="long", ttl_seconds=200 * 86_400)
        mail.clock.advance(91 * 86_400)
        new = alice.send(to=BOB, text="new")
        assert len(alice.outbox()) == 3  # one run may have a clock that is wrong
        mail.clock.advance(86_400)
        last = alice.send(to=BOB, text="last")
        assert {entry.id for entry in alice.outbox()} == {kept.id, new.id, last.id}


def test_outbox_counts_what_went_elsewhere(mail):
    with mail.mailbox(ALICE) as alice:
        alice.send(to=BOB, text="x")
        assert alice.sent_elsewhere() == {}
        (row,) = alice._state.outbox.rows(alice.repo)
        alice._state.outbox.add(replace(row, id="1", repo="r/other"))
        assert alice.sent_elsewhere() == {"r/other": 1}


# --- waiting -------------------------------------------------------------------------------------


def test_wait_ends_with_the_last_proven_answer():
    clock, looks = FakeClock(), []

    def look():
        looks.append(clock.monotonic())
        found = [said("rejected", message=TWO)]
        if len(looks) > 1:
            found.append(said(proof="untrusted"))
        if len(looks) > 3:
            found.append(said())
        return found

    found = wait_for_answers(look, {ONE, TWO}, seconds=600, clock=clock)
    assert {key: one.status for key, one in found.items()} == {ONE: "accepted", TWO: "rejected"}
    assert found[ONE].signature_status == "valid"
    assert len(looks) == 4
    assert clock.sleeps == sorted(clock.sleeps)


def test_wait_ends_in_time_with_what_there_is():
    clock, claim = FakeClock(), said(proof="untrusted")
    found = wait_for_answers(lambda: [claim, said(message=TWO)], {ONE}, seconds=60, clock=clock)
    assert found == {ONE: claim}
    assert sum(clock.sleeps) == pytest.approx(60)
    assert wait_for_answers(lambda: [claim], {ONE}, seconds=60, clock=clock, claims=True) == found
    assert sum(clock.sleeps) == pytest.approx(60)


def test_wait_outlasts_a_registry_that_is_down_for_a_while():
    clock = FakeClock()
    outcomes = [NetworkError("down"), NetworkError("down"), [said()]]

    def look():
        outcome = outcomes.pop(0)
        if isinstance(outcome, NetworkError):
            raise outcome
        return outcome

    assert wait_for_answers(look, {ONE}, seconds=60, clock=clock)[ONE].status == "accepted"


def test_wait_says_that_the_registry_was_down_to_the_end():
    def look():
        raise NetworkError("down")

    with pytest.raises(NetworkError, match="down"):
        wait_for_answers(look, {ONE}, seconds=60, clock=FakeClock())


def test_wait_of_a_mailbox_hears_the_recipient_and_nobody_else(mail):
    trust = TrustOptions(policy=UNSIGNED_ALICE, verify=False)
    with mail.mailbox(ALICE, trust=trust) as alice:
        sent = alice.send([mail.file()], to=BOB)
        assert alice.wait(sent, seconds=5) == {}
        mail.receive()
        found = alice.wait([sent], seconds=5)
    assert found[sent.digest].status == "accepted"


# --- answering -----------------------------------------------------------------------------------


def test_reply_goes_to_the_sender_in_the_conversation(mail):
    with mail.mailbox(ALICE) as alice, mail.mailbox(BOB) as bob:
        first = alice.send([mail.file()], to=BOB, title="the report")
        mail.clock.advance(1)
        second = bob.reply(first.id, [mail.file("b")], text="signed")
        (entry,) = alice.inbox()
        assert (entry.id, entry.recipient, entry.sender) == (second.id, ALICE, BOB)
        assert (entry.title, entry.text) == ("Re: the report", "signed")
        assert (entry.thread, entry.in_reply_to) == (first.id, first.digest)
        mail.clock.advance(1)
        third = alice.reply(second.digest, text="thanks")
        mail.clock.advance(1)
        fourth = bob.reply(third.id, text="again", title="other")
        assert [(one.title, one.thread) for one in bob.inbox()][-1] == ("Re: the report", first.id)
        assert [one.title for one in alice.inbox()] == ["Re: the report", "other"]
        assert {entry.thread for entry in (*alice.outbox(), *bob.outbox())} == {first.id}
        assert fourth.sender == BOB
        with pytest.raises(NotFoundError):
            bob.reply("no-such-message", text="x")

"""Signed mail through a mailbox, between people with homes of their own."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dockercomms.errors import (
    ConfigError,
    LimitError,
    NotFoundError,
    ProtocolError,
    SigningError,
    SigningUnreachable,
    UnknownSender,
    Unsigned,
    UsageError,
    VerificationError,
)
from dockercomms.mailbox import Mailbox
from dockercomms.messages import receive as receiving
from dockercomms.messages import send as sending
from dockercomms.oci.memory import MemoryRegistry
from dockercomms.oci.model import MEDIA_TYPE_INDEX, Index
from dockercomms.oci.stores import Store
from dockercomms.platforms.clock import SystemClock
from dockercomms.protocol.tags import recipient_tag
from dockercomms.trust.address_book import AddressBook
from dockercomms.trust.keyless import KeylessOptions
from dockercomms.trust.keys import KeyStore
from dockercomms.trust.owner import SigningOptions, TrustOptions
from dockercomms.trust.policy import Policy
from tests.fakes.clock import FakeClock
from tests.fakes.inboxes import Sender as Author
from tests.fakes.mail import REPO, REPOSITORY, files_below
from tests.fakes.sigstore import SigstoreStub
from tests.fakes.stops import AfterWaits
from tests.fakes.watched import WatchedRegistry


@dataclass
class Town:
    """A registry, and people with a home each."""

    folder: Path
    clock: Any = field(default_factory=FakeClock)
    registry: Any = None
    notices: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.registry = WatchedRegistry(MemoryRegistry(clock=self.clock))

    def home(self, name: str) -> Path:
        return self.folder / name

    def trust_file(self, name: str) -> Path:
        return self.home(name) / "trust.toml"

    def book(self, name: str) -> AddressBook:
        return AddressBook(self.trust_file(name))

    def key(self, name: str):
        return KeyStore(self.home(name) / "keys").ensure()[0].public

    def open(self, name: str, *, me: Any = None, **options: Any) -> Mailbox:
        trust = options.pop("trust", {})
        return Mailbox(
            me=name if me is None else me,
            state_path=self.home(name) / "state.db",
            keys_folder=self.home(name) / "keys",
            trust=TrustOptions(**{"file": self.trust_file(name), **trust}),
            clock=self.clock,
            store=Store(self.registry, REPOSITORY, REPO),
            on_notice=self.notices.append,
            **options,
        )

    def send(self, name: str = "alice", to: str = "bob", text: str = "hello", **options: Any):
        call = {key: options.pop(key) for key in ("sender", "audience") if key in options}
        self.clock.advance(1)
        with self.open(name, **options) as mailbox:
            return mailbox.send(to=to, text=text, **call)

    def receive(self, name: str = "bob", ids=(), *, call: Any = None, **options: Any):
        with self.open(name, **options) as mailbox:
            return list(mailbox.receive(ids, out=self.home(name) / "in", **(call or {})))

    def files(self, name: str = "bob"):
        return files_below(self.home(name) / "in")


@pytest.fixture
def town(tmp_path):
    return Town(tmp_path)


def unsigned() -> SigningOptions:
    return SigningOptions(sign=False)


# --- strangers and friends -----------------------------------------------------------------------


def test_one_person_on_one_machine_needs_nothing(town):
    sent = town.send("alice", to="alice")

    (got,) = town.receive("alice")

    assert (got.status, got.signer, got.signature_status) == ("received", "alice", "valid")
    assert sent.signed.signer == town.key("alice").spki_sha256
    with town.open("alice") as alice:
        (receipt,) = alice.receipts()
    assert (receipt.signature_status, receipt.signer) == ("valid", "alice")
    assert receipt.claimed_verified


def test_stranger_is_held_back_and_let_in_when_trusted(town):
    sent = town.send()

    (got,) = town.receive()

    assert isinstance(got.error, UnknownSender)
    assert town.files() == {}
    assert town.receive() == []  # reported once
    town.book("bob").add("alice", key=town.key("alice"))
    (got,) = town.receive()
    assert (got.id, got.status, got.signer) == (sent.id, "received", "alice")


def test_stranger_who_was_listed_first_is_reported_with_what_can_be_done(town):
    town.send()
    with town.open("bob") as bob:
        assert bob.inbox()[0].state == "held"

    (got,) = town.receive()

    assert isinstance(got.error, UnknownSender)
    assert "--accept-new" in str(got.error.hint)
    assert town.receive() == []


def test_stranger_stays_reported_when_the_policy_changes(town):
    town.send()
    town.receive()

    town.book("bob").add("carol", allow_unsigned=True)

    assert town.receive() == []


def test_stranger_is_trusted_from_now_on_with_accept_new(town):
    first, _ = town.send(), town.send()

    got = town.receive(ids=[first.id], trust={"accept_new": True})
    rest = town.receive()

    assert [item.signer for item in (*got, *rest)] == ["alice", "alice"]
    assert [n.kind for n in town.notices if n.kind == "pinned"] == ["pinned"]
    assert town.send("mallory", sender="alice")
    (forged,) = town.receive(trust={"accept_new": True})
    assert type(forged.error) is VerificationError


def test_all_that_a_stranger_sent_comes_in_once_they_are_trusted(town):
    for number in range(3):
        town.send(text=f"{number}")
    assert len(town.receive()) == 3
    with town.open("bob") as bob:
        named = bob.inbox()[1].id

    first = town.receive(ids=[named], trust={"accept_new": True})
    rest = town.receive()

    assert [len(first), len(rest)] == [1, 2]
    assert sorted(town.files().values()) == [b"0", b"1", b"2"]


def test_poll_that_accepts_new_senders_takes_what_was_held(town):
    town.send()
    town.receive()

    (got,) = town.receive(trust={"accept_new": True})

    assert (got.status, got.signer) == ("received", "alice")


def test_stranger_is_let_in_once_with_eyes_closed(town):
    sent = town.send(signing=unsigned())
    assert isinstance(town.receive()[0].error, Unsigned)

    (got,) = town.receive(ids=[sent.id], trust={"verify": False})

    assert (got.status, got.signer, got.signature_status) == ("received", None, "unchecked")
    with town.open("alice") as alice:
        assert not alice.receipts()[0].claimed_verified


@pytest.mark.parametrize("how", [{}, {"signing": SigningOptions(sign=False)}])
def test_what_was_held_comes_in_without_verification(town, how):
    """All that a plain recv holds is due where nobody asks who sent it, by an idle watch too."""
    sent = [town.send(**how), town.send(**how)]
    assert [item.status for item in town.receive()] == ["failed", "failed"]
    assert town.receive() == []

    (first,) = town.receive(trust={"verify": False}, call={"max": 1})
    assert town.receive() == []  # the other is held as before, and not told again
    with town.open("bob", trust={"verify": False}) as bob:
        stop = AfterWaits(town.clock)
        (second,) = bob.watch(out=town.home("bob") / "in", stop=stop)

    assert [first.id, second.received.id] == [item.id for item in sent]


@pytest.mark.parametrize("flag", [True, False])
def test_what_is_too_large_comes_in_when_it_may(town, monkeypatch, flag):
    """A stranger's message that was held for its size is due once its sender is trusted."""
    monkeypatch.setattr(receiving, "MAX_UNTRUSTED_TOTAL_BYTES", 3)
    town.book("bob").add("alice", allow_unsigned=True)
    sent = town.send()
    assert isinstance(town.receive()[0].error, LimitError)
    assert town.receive() == []
    if flag:
        monkeypatch.setattr(receiving, "MAX_UNTRUSTED_TOTAL_BYTES", 10)
    else:
        town.book("bob").add("alice", key=town.key("alice"))

    assert [(item.id, item.status) for item in town.receive()] == [(sent.id, "received")]


def test_nobody_sends_under_the_name_of_somebody_else(town):
    town.book("bob").add("alice", key=town.key("alice"))
    town.send("mallory", sender="alice")

    (got,) = town.receive()

    assert isinstance(got.error, VerificationError)
    assert town.files() == {}


def test_unsigned_message_of_a_friend_is_a_claim(town):
    town.book("bob").add("alice", key=town.key("alice"), allow_unsigned=True)
    town.send(signing=unsigned())

    (got,) = town.receive()

    assert (got.status, got.signer, got.signature_status) == ("received", None, "none")


def test_rejected_messages_are_not_released_one_by_one(town):
    town.trust_file("bob").parent.mkdir()
    town.trust_file("bob").write_text('version = 1\nunsigned = "reject"\n')
    sent = town.send(signing=unsigned())
    assert [item.status for item in town.receive()] == ["failed"]

    (got,) = town.receive(ids=[sent.id], trust={"verify": False})

    assert isinstance(got.error, Unsigned)
    assert town.files() == {}
    town.book("bob").add("alice", allow_unsigned=True)
    assert [item.status for item in town.receive()] == ["received"]


def test_message_of_1_0_is_held_and_delivered_as_a_claim_if_it_may_be(town):
    author = Author(town.registry.inner, town.clock)
    author.repository = REPOSITORY
    rt = recipient_tag("bob")
    author.publish_legacy(
        recipient="bob", sender="old", tag=f"inbox-{rt}-20261120-00000001-00000001"
    )

    (held,) = town.receive()
    town.book("bob").add("old", allow_unsigned=True)
    (got,) = town.receive(call={"all": True})

    assert isinstance(held.error, Unsigned)
    assert isinstance(got.error, ProtocolError)  # let in, and found to have no real chunk


def test_broken_trust_file_stops_everything(town):
    town.send()
    town.trust_file("bob").parent.mkdir()
    town.trust_file("bob").write_text("version = 1\nnonsense = true\n")

    with pytest.raises(ConfigError, match="line 2"):
        town.receive()


# --- the same id twice ---------------------------------------------------------------------------


def test_signer_who_uses_an_id_twice_is_found_out(town, monkeypatch):
    town.book("bob").add("alice", key=town.key("alice"))
    monkeypatch.setattr("uuid.uuid4", lambda: "1a2b3c4d-0000-4000-8000-000000000001")
    town.send(text="one")
    assert [item.status for item in town.receive()] == ["received"]
    with town.open("alice") as alice:
        alice._state.sends.forget("1a2b3c4d-0000-4000-8000-000000000001")
    town.send(text="two")

    (got,) = town.receive()

    assert "used this id for another" in got.error.message
    assert list(town.files().values()) == [b"one"]


# --- looking -------------------------------------------------------------------------------------


def test_inbox_shows_who_is_proven_and_who_only_says_so(town):
    town.book("bob").add("alice", key=town.key("alice"))
    town.book("bob").add("carol", allow_unsigned=True)
    town.send("alice")
    town.send("carol", signing=unsigned())
    town.send("mallory")

    with town.open("bob") as bob:
        entries = {entry.sender: entry for entry in bob.inbox()}
        town.registry.calls.clear()
        again = {entry.sender: entry for entry in bob.inbox()}

    shown = {
        name: (entry.state, entry.signature_status, entry.signer) for name, entry in entries.items()
    }
    assert shown == {
        "alice": ("new", "valid", "alice"),
        "carol": ("new", "none", None),
        "mallory": ("held", "untrusted", None),
    }
    assert again == entries


def test_inbox_without_verifying_says_that_nobody_asked(town):
    town.send()

    with town.open("bob", trust={"verify": False}) as bob:
        (entry,) = bob.inbox()
        assert bob.show(entry.id).signature_status == "unchecked"

    assert (entry.state, entry.signature_status) == ("new", "unchecked")


def test_show_checks_one_message_again(town):
    sent = town.send()
    town.receive()
    with town.open("bob") as bob:
        assert bob.show(sent.id).signature_status == "untrusted"
        town.book("bob").add("alice", key=town.key("alice"))
        found = bob.show(sent.id)

    assert (found.state, found.signature_status, found.signer) == ("new", "valid", "alice")


def test_verify_proves_a_message_that_was_sent_to_us(town):
    town.book("bob").add("alice", key=town.key("alice"))
    sent = town.send()
    other = town.send("mallory")

    with town.open("bob") as bob:
        found = bob.verify(sent.id[:8])
        assert (found.verified.name, found.recipient) == ("alice", "bob")
        with pytest.raises(UnknownSender) as raised:
            bob.verify(other.id)
        assert "--accept-new" in raised.value.hint
        assert bob.verify_object(sent.digest) == found


@pytest.fixture
def copied(town, monkeypatch):
    """A message of Alice whose id strangers have copied, before it and after it."""
    monkeypatch.setattr(sending.uuid, "uuid4", lambda: "6f1f7f4e-1b1d-4c55-9a50-3d1d9f6f0c11")
    town.book("bob").add("alice", key=town.key("alice"))
    for number in range(3):
        town.send("mallory", sender="alice", text=f"forged {number}", signing=unsigned())
        shutil.rmtree(town.home("mallory"))
    sent = town.send("alice")
    town.send("mallory", sender="mallory", text="forged, signed")
    return sent


def test_a_copied_id_does_not_block_recv(town, copied):
    (got,) = town.receive(ids=[copied.id[:8]])
    assert (got.status, got.digest, got.signer) == ("received", copied.digest, "alice")
    (again,) = town.receive(ids=[copied.id])
    assert (again.digest, again.reason) == (copied.digest, "it was delivered before")


@pytest.mark.parametrize("delivered", [False, True])
def test_a_copied_id_does_not_block_the_other_verbs(town, copied, delivered):
    if delivered:
        town.receive()
    with town.open("bob") as bob:
        assert bob.show(copied.id).digest == copied.digest
        assert bob.verify(copied.id[:8]).digest == copied.digest
        assert bob.acknowledge(copied.id, "rejected", reason="no")
    town.book("alice").add("bob", key=town.key("bob"))
    with town.open("alice") as alice:
        assert alice.outbox()[0].receipt.status == "rejected"


def test_ids_that_are_all_forged_are_all_shown(town, copied):
    town.book("bob").remove("alice")
    with town.open("bob") as bob, pytest.raises(UsageError, match="5 messages begin") as raised:
        bob.show(copied.id)
    assert copied.digest in raised.value.hint


def test_sign_object_lets_others_verify_it(town):
    town.send()
    town.registry.inner.push_manifest(
        REPOSITORY, Index().to_bytes(), MEDIA_TYPE_INDEX, tags=("v1",)
    )
    town.book("bob").add("alice", key=town.key("alice"))
    with town.open("alice") as alice:
        alice.sign_object("v1")
    with town.open("bob") as bob:
        assert bob.verify_object("v1").verified.name == "alice"
    with town.open("alice", signing=unsigned()) as alice, pytest.raises(UsageError):
        alice.sign_object("v1")


# --- several names -------------------------------------------------------------------------------


def test_mailbox_of_several_names_looks_into_each_inbox(town):
    town.book("bob").add("alice", key=town.key("alice"))
    sent = [town.send(to=name) for name in ("bob", "team", "carol")]

    with town.open("bob", me=("bob", "team")) as bob:
        assert (bob.me, bob.names) == ("bob", ("bob", "team"))
        assert [entry.id for entry in bob.inbox()] == [sent[0].id, sent[1].id]
        assert bob.show(sent[1].id).id == sent[1].id
        with pytest.raises(NotFoundError):
            bob.show(sent[2].id)
    got = town.receive("bob", me=("bob", "team"))
    assert {item.id for item in got} == {sent[0].id, sent[1].id}
    with town.open("bob", me=("bob", "team")) as bob:
        bob.acknowledge(sent[1].id, "rejected")
    with town.open("alice") as alice:
        receipts = {(entry.sender, entry.status) for entry in alice.receipts()}
    assert receipts == {("bob", "accepted"), ("team", "accepted"), ("team", "rejected")}


def test_mailbox_of_several_names_receives_what_is_named(town):
    town.book("bob").add("alice", key=town.key("alice"))
    sent = [town.send(to=name) for name in ("bob", "team")]

    got = town.receive("bob", [sent[1].id, "ffffffff"], me=("bob", "team"))

    assert [(item.id, item.status) for item in got] == [
        (sent[1].id, "received"),
        ("ffffffff", "failed"),
    ]


def test_message_whose_id_is_in_two_inboxes_has_to_be_named_better(town, monkeypatch):
    monkeypatch.setattr("uuid.uuid4", lambda: "1a2b3c4d-0000-4000-8000-000000000001")
    first = town.send("alice", to="bob")
    second = town.send("dave", to="team")

    (got,) = town.receive("bob", [first.id], me=("bob", "team"), trust={"verify": False})

    assert isinstance(got.error, UsageError)
    assert second.digest in got.error.hint


def test_mailbox_takes_its_names_from_the_trust_file(town):
    town.trust_file("bob").parent.mkdir()
    town.trust_file("bob").write_text('version = 1\nme = ["bob", "team"]\n')

    with town.open("bob", me=()) as bob:
        assert bob.names == ("bob", "team")


def test_receipts_of_several_names_are_found_together(town):
    sent = [town.send("alice", sender=name) for name in ("alice", "sales")]
    for name in ("alice", "sales"):
        town.book("bob").add(name, key=town.key("alice"))
    town.receive()

    with town.open("alice", me=("alice", "sales")) as alice:
        assert [entry.id for entry in alice.receipts()] == [item.id for item in sent]
        assert [entry.id for entry in alice.receipts(sent[1].id)] == [sent[1].id]
        with pytest.raises(NotFoundError):
            alice.receipts("ffffffff")


# --- where from ----------------------------------------------------------------------------------


def test_audience_keeps_a_message_out_of_other_repositories(town):
    town.book("bob").add("alice", key=town.key("alice"))
    here = town.send(audience=REPO)
    elsewhere = town.send(audience="registry.example/other")

    got = {item.id: item for item in town.receive()}

    assert got[here.id].status == "received"
    assert isinstance(got[elsewhere.id].error, ProtocolError)


def test_audience_that_the_policy_lists_later_lets_a_message_in(town):
    town.book("bob").add("alice", key=town.key("alice"))
    sent = town.send(audience="registry.example/other")
    assert [item.status for item in town.receive()] == ["failed"]
    text = town.trust_file("bob").read_text()
    text = text.replace("version = 1\n", 'version = 1\naudiences = ["registry.example/other"]\n')
    town.trust_file("bob").write_text(text)

    assert [(item.id, item.status) for item in town.receive()] == [(sent.id, "received")]


def test_audience_may_be_one_that_the_policy_lists(town):
    town.trust_file("bob").parent.mkdir()
    town.trust_file("bob").write_text('version = 1\naudiences = ["registry.example/other"]\n')
    town.book("bob").add("alice", key=town.key("alice"))
    town.send(audience="registry.example/other")

    assert [item.status for item in town.receive()] == ["received"]


# --- receipts ------------------------------------------------------------------------------------


def test_receipt_proves_delivery_only_by_a_recipient_who_is_trusted(town):
    town.book("bob").add("alice", key=town.key("alice"))
    town.send()
    town.receive()

    with town.open("alice") as alice:
        assert [entry.signature_status for entry in alice.receipts()] == ["untrusted"]
    with town.open("alice", trust={"verify": False}) as alice:
        assert [entry.signature_status for entry in alice.receipts()] == ["unchecked"]
    with town.open("alice", trust={"accept_new": True}) as alice:
        assert [entry.signature_status for entry in alice.receipts()] == ["untrusted"]
        assert [entry.fate for entry in alice.outbox()] == ["silent"]
    town.book("alice").add("bob", key=town.key("bob"))
    with town.open("alice") as alice:
        assert [entry.signature_status for entry in alice.receipts()] == ["valid"]
        assert [entry.fate for entry in alice.outbox()] == ["accepted"]


def test_receipt_waits_where_nothing_can_be_signed(town):
    town.book("bob").add("alice", key=town.key("alice"))
    town.send()

    (got,) = town.receive(signing=SigningOptions(keyless=KeylessOptions(offline=True)))

    assert (got.status, got.receipt) == ("received", None)
    assert isinstance(got.error, SigningError)
    town.clock.advance(3601)
    assert town.receive() == []
    with town.open("alice") as alice:
        assert len(alice.receipts()) == 1


def test_dry_run_makes_no_key(town):
    with town.open("alice") as alice:
        assert alice.send(to="bob", text="x", dry_run=True).signed is None
        assert not (town.home("alice") / "keys").exists()
        alice.send(to="bob", text="x")
        signer = alice.send(to="bob", text="x", dry_run=True).signed.signer

    assert signer == town.key("alice").spki_sha256


# --- keyless -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sigstore(tmp_path_factory):
    with SigstoreStub(tmp_path_factory.mktemp("sigstore")) as stub:
        yield stub


@pytest.fixture
def today(tmp_path):
    return Town(tmp_path, clock=SystemClockWithAdvance())


class SystemClockWithAdvance(SystemClock):
    def advance(self, seconds: float) -> None:
        """Time passes by itself."""


def as_identity(sigstore, email: str) -> SigningOptions:
    return SigningOptions(
        keyless=KeylessOptions(
            token=sigstore.token(email),
            trusted_root=sigstore.trusted_root,
            signing_config=sigstore.signing_config,
        )
    )


def test_keyless_message_proves_an_identity(today, sigstore):
    today.send(signing=as_identity(sigstore, "alice@example.com"))

    (held,) = today.receive()
    today.book("bob").add(
        "alice",
        identity="alice@example.com",
        issuer=sigstore.issuer.url,
        root=sigstore.trusted_root,
    )
    (got,) = today.receive(signing=as_identity(sigstore, "bob@example.com"))

    assert isinstance(held.error, UnknownSender)
    assert (got.status, got.signer) == ("received", "alice")
    today.book("alice").add(
        "bob", identity="bob@example.com", issuer=sigstore.issuer.url, root=sigstore.trusted_root
    )
    with today.open("alice") as alice:
        assert [entry.signer for entry in alice.receipts()] == ["bob"]


def test_keyless_stranger_is_named_with_the_line_that_trusts_them(today, sigstore):
    today.book("bob").add(
        "carol",
        identity="carol@example.com",
        issuer=sigstore.issuer.url,
        root=sigstore.trusted_root,
    )
    today.send(signing=as_identity(sigstore, "alice@example.com"))

    (held,) = today.receive(trust={"accept_new": True})

    line = held.error.hint.splitlines()[0]
    assert line.endswith(
        f"trust add alice --identity alice@example.com --issuer {sigstore.issuer.url}"
    )


@pytest.mark.parametrize("service", ["fulcio", "tsa", "rekor"])
def test_keyless_send_publishes_nothing_where_a_service_fails(today, sigstore, service):
    sigstore.fail.add(service)
    try:
        with pytest.raises((SigningError, SigningUnreachable)):
            today.send(signing=as_identity(sigstore, "alice@example.com"))
    finally:
        sigstore.fail.clear()

    assert "push_manifest" not in today.registry.methods()


def test_keyless_without_an_identity_fails_before_anything_is_sent(today, sigstore, monkeypatch):
    options = KeylessOptions(
        trusted_root=sigstore.trusted_root, signing_config=sigstore.signing_config
    )

    with pytest.raises(SigningError, match="no identity"):
        today.send(signing=SigningOptions(keyless=options))

    assert today.registry.writes() == []


def test_policy_can_be_given_instead_of_a_file(town):
    town.send()

    with town.open("bob", trust={"file": None, "policy": Policy()}) as bob:
        assert [entry.signature_status for entry in bob.inbox()] == ["untrusted"]

"""A state that was lost: what our own receipts say was received is not received again."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dockercomms.errors import NetworkError, Notice, RegistryError
from dockercomms.mailbox import Mailbox
from dockercomms.messages.draft import Sent
from dockercomms.messages.receipts import acknowledge
from dockercomms.oci.memory import MemoryRegistry
from dockercomms.oci.model import MEDIA_TYPE_MANIFEST
from dockercomms.oci.stores import Store
from dockercomms.state import State
from dockercomms.trust.keys import KeyStore
from dockercomms.trust.owner import SigningOptions, TrustOptions
from dockercomms.trust.policy import Policy, Revocation, Sender
from tests.fakes.clock import FakeClock
from tests.fakes.people import STRANGER_SIGNS
from tests.fakes.watched import WatchedRegistry

REPO = "registry.example/team/box"
REPOSITORY = "team/box"
LETS_ALICE = Policy(senders=(Sender(name="alice", allow_unsigned=True),))


@dataclass
class Bob:
    """Bob, whose state can get lost while his keys stay."""

    folder: Path
    clock: FakeClock = field(default_factory=FakeClock)
    policy: Policy = LETS_ALICE
    notices: list[Notice] = field(default_factory=list)
    registry: Any = None
    machine: str = "one"

    def __post_init__(self) -> None:
        self.registry = WatchedRegistry(MemoryRegistry(clock=self.clock))

    @property
    def keys(self) -> KeyStore:
        return KeyStore(self.folder / "keys")

    def mailbox(self, me: str = "bob", **signing: Any) -> Mailbox:
        place = self.machine if me == "bob" else me
        return Mailbox(
            me=me,
            state_path=self.folder / place / "state.db",
            keys_folder=self.folder / ("keys" if me == "bob" else f"{me}-keys"),
            signing=SigningOptions(**signing),
            trust=TrustOptions(policy=self.policy),
            clock=self.clock,
            store=Store(self.registry, REPOSITORY, REPO),
            on_notice=self.notices.append,
        )

    def sent(self, text: str = "hello", **options: Any) -> Sent:
        with self.mailbox("alice", sign=False) as alice:
            return alice.send(text=text, to="bob", **options)

    def receive(self, *ids: str, sign: bool = True, key: str = "default", **options: Any) -> list:
        with self.mailbox(sign=sign, key=key) as bob:
            return list(bob.receive(ids, out=self.folder / f"out-{self.machine}", **options))

    def inbox(self, **options: Any) -> list[tuple[str, str]]:
        with self.mailbox() as bob:
            return [(entry.id, entry.state) for entry in bob.inbox(**options)]

    def loses_state(self) -> None:
        shutil.rmtree(self.folder / self.machine)
        self.notices.clear()

    @property
    def told(self) -> list[str]:
        return [notice.text for notice in self.notices if notice.kind == "elsewhere"]

    def requests(self, act: Any) -> int:
        """Return how many requests `act` makes."""
        made: list[str] = []
        self.registry.before = lambda name, said: made.append(name)
        try:
            act()
        finally:
            self.registry.before = None
        return len([name for name in made if name != "server_time"])


@pytest.fixture
def bob(tmp_path: Path) -> Bob:
    return Bob(tmp_path)


def statuses(results: list) -> list[tuple[str, str]]:
    return [(item.id, item.status) for item in results]


def test_state_lost_receives_nothing_twice_and_says_so(bob):
    first = bob.sent()
    assert statuses(bob.receive()) == [(first.id, "received")]
    bob.loses_state()
    second = bob.sent("later")

    assert statuses(bob.receive()) == [(second.id, "received")]

    (text,) = bob.told
    assert text.startswith("received elsewhere: 1 for bob")
    assert "--redeliver" in text
    assert bob.inbox() == []
    assert sorted(bob.inbox(all=True)) == sorted(
        [(first.id, "elsewhere"), (second.id, "delivered")]
    )
    with bob.mailbox() as box:
        reason = box.show(first.id).reason
    assert "accepted 2026-11-20" in reason
    assert "says a receipt signed by" in reason
    bob.notices.clear()
    assert bob.receive() == []
    assert bob.told == []  # once


@pytest.mark.parametrize("way", ["id", "all", "redeliver"])
def test_what_was_received_elsewhere_is_delivered_when_it_is_asked_for(bob, way):
    message = bob.sent()
    bob.receive()
    bob.loses_state()
    if way != "redeliver":
        assert bob.receive() == []
    ids = (message.id,) if way == "id" else ()
    options = {} if way == "id" else {way: True}

    assert statuses(bob.receive(*ids, **options)) == [(message.id, "received")]

    assert bob.receive(redeliver=True) == []
    assert bob.inbox(all=True) == [(message.id, "delivered")]


def test_inbox_looks_as_well_and_recv_follows(bob):
    message = bob.sent()
    bob.receive()
    bob.loses_state()

    assert bob.inbox() == []
    assert bob.inbox(all=True) == [(message.id, "elsewhere")]
    assert bob.receive() == []
    assert len(bob.told) == 1


def test_watch_runs_no_command_for_what_was_received_elsewhere(bob, tmp_path):
    command = f"sh -c 'echo $DOCKERCOMMS_MSG_ID >>{tmp_path}/ran'"

    def watch(**options: Any) -> list[str]:
        with bob.mailbox() as box:
            list(box.watch(out=tmp_path / "w", command=command, once=True, **options))
        return (tmp_path / "ran").read_text().split()

    message = bob.sent()
    assert watch() == [message.id]
    bob.loses_state()
    assert watch() == [message.id]
    assert watch(redeliver=True) == [message.id] * 2
    assert watch(redeliver=True) == [message.id] * 2


def test_a_rejected_receipt_of_ours_counts_as_well(bob, tmp_path):
    message = bob.sent()
    with bob.mailbox() as box:
        list(box.watch(out=tmp_path / "w", command="false", once=True))
    bob.loses_state()
    assert bob.receive() == []
    assert bob.inbox(all=True) == [(message.id, "elsewhere")]


def test_any_of_our_keys_counts(bob):
    bob.keys.generate("old")
    message = bob.sent()
    bob.receive(key="old")
    bob.loses_state()
    bob.machine = "two"

    assert bob.receive() == []
    assert bob.inbox(all=True) == [(message.id, "elsewhere")]


@pytest.mark.parametrize("lost", ["keys", "revoked", "unsigned", "no receipt"])
def test_what_is_not_proven_hides_no_message(bob, lost):
    message = bob.sent()
    bob.receive(sign=lost != "unsigned", receipt=lost != "no receipt")
    bob.loses_state()
    if lost == "keys":
        shutil.rmtree(bob.folder / "keys")
    if lost == "revoked":
        spki = bob.keys.find().public.spki_sha256
        bob.policy = Policy(senders=LETS_ALICE.senders, revoked=(Revocation(spki_sha256=spki),))

    assert statuses(bob.receive()) == [(message.id, "received")]
    assert bool(bob.told) == (lost != "no receipt")
    assert all("none of your keys signed" in text for text in bob.told)


def test_a_receipt_that_somebody_else_signed_hides_no_message(bob):
    message = bob.sent()
    with State(bob.folder / "mallory" / "state.db") as state:
        acknowledge(
            bob.registry,
            REPOSITORY,
            message.digest,
            "accepted",
            repo=REPO,
            me="bob",
            state=state,
            clock=bob.clock,
            signer=STRANGER_SIGNS,
        )
    # And our own receipt for another message, put under a tag of this one
    other = bob.sent("other")
    bob.keys.ensure()
    bob.receive(other.id)
    bob.loses_state()
    tags = list(bob.registry.inner.tags(REPOSITORY))
    ours = next(tag for tag in tags if tag.startswith(f"receipt-{other.digest[7:19]}-"))
    data = bob.registry.inner.get_tag(REPOSITORY, ours).read()
    moved = ours.replace(other.digest[7:19], message.digest[7:19])
    bob.registry.inner.push_manifest(REPOSITORY, data, MEDIA_TYPE_MANIFEST, tags=(moved,))

    assert statuses(bob.receive()) == [(message.id, "received")]
    assert dict(bob.inbox(all=True)) == {message.id: "delivered", other.id: "elsewhere"}


def test_a_state_that_has_rows_receives_what_came_later(bob):
    bob.receive()
    bob.sent("one")
    bob.receive()
    bob.machine = "two"
    bob.receive()  # its first look
    message = bob.sent("two")
    bob.machine = "one"
    bob.receive()
    bob.machine = "two"

    assert statuses(bob.receive()) == [(message.id, "received")]


def test_a_first_look_that_is_broken_off_goes_on(bob):
    message = bob.sent()
    bob.receive()
    bob.loses_state()

    def cut(name: str, said: Any) -> None:
        if name == "get_tag" and str(said[1]).startswith("receipt-"):
            raise NetworkError("the line was cut")

    bob.registry.before = cut
    assert statuses(bob.receive()) == [(message.id, "failed")]
    bob.registry.before = None

    assert bob.receive() == []
    assert bob.inbox(all=True) == [(message.id, "elsewhere")]


def test_first_look_asks_for_no_more_receipts_after_three_that_failed(bob):
    for number in range(9):
        bob.sent(str(number))
    bob.receive()
    bob.loses_state()

    def cut(name: str, said: Any) -> None:
        if name == "get_tag" and str(said[1]).startswith("receipt-"):
            raise NetworkError("the line was cut")

    bob.registry.before = cut
    # those that were asked for at the same time fail as well
    assert 3 <= len(statuses(bob.receive())) <= 7
    bob.registry.before = None
    assert bob.receive() == []


def test_receipts_that_cannot_be_read_hold_back_their_message_alone(bob):
    one, two = bob.sent("one"), bob.sent("two")
    bob.receive(one.id)
    bob.loses_state()

    def refuse(name: str, said: Any) -> None:
        if name == "get_tag" and str(said[1]).startswith("receipt-"):
            raise RegistryError("500", status=500)

    bob.registry.before = refuse
    assert sorted(statuses(bob.receive())) == sorted([(one.id, "failed"), (two.id, "received")])
    bob.registry.before = None
    assert bob.receive() == []
    assert bob.inbox(all=True)[0] == (one.id, "elsewhere")


def test_where_tags_cannot_be_listed_each_message_is_asked_for(bob):
    one, two = bob.sent("one"), bob.sent("two")
    bob.receive(one.id)
    bob.loses_state()

    def forbid(name: str, said: Any) -> None:
        if name == "tag_pages":
            raise RegistryError("denied", status=403)

    bob.registry.before = forbid
    assert statuses(bob.receive()) == [(two.id, "received")]


def test_a_first_look_costs_one_listing_and_one_request_a_receipt(bob):
    for number in range(40):
        bob.sent(str(number))
    with bob.mailbox() as box:
        ids = [entry.id for entry in box.inbox()]
    assert len(bob.receive(*ids[:7])) == 7
    known = bob.requests(lambda: bob.inbox(all=True))
    bob.loses_state()

    first = bob.requests(bob.inbox)

    assert len(bob.inbox()) == 33
    assert first - known <= 40 + 7 + 8


def test_an_empty_first_look_asks_for_no_receipts(bob):
    bob.sent()
    bob.receive()
    with bob.mailbox("carol") as carol:
        assert carol.inbox() == []
        assert not carol._inboxes()[0].is_first_look

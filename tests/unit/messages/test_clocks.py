"""Clocks that are wrong for one run, with the state kept: nothing is lost, doubled or forgotten."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dockercomms.errors import ClocksDiffer, ConfigError
from dockercomms.mailbox import Mailbox
from dockercomms.oci.memory import MemoryRegistry
from dockercomms.oci.stores import Store, open_store
from dockercomms.trust.owner import SigningOptions, TrustOptions
from tests.fakes.clock import FakeClock

ALICE, BOB = "alice@example.com", "bob@example.com"
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
WEEK_SECONDS = 7 * 86_400
SHIFTS = (2 * HOUR, -2 * HOUR, 30 * DAY, -30 * DAY, 91 * DAY, -91 * DAY, 365 * DAY)
TRUE = "true"
DATES: dict[str, datetime | None] = {
    "1970": datetime(1970, 1, 1, tzinfo=UTC),
    "9999": datetime(9999, 12, 31, 23, 59, tzinfo=UTC),
    "none": None,
}


class Registry(MemoryRegistry):
    """Its `Date` is the true time, or what `date` says."""

    date: datetime | str | None = TRUE

    def server_time(self) -> datetime | None:
        true = super().server_time()
        return true if isinstance(self.date, str) else self.date


@dataclass
class Shifted:
    """A clock that is `by` ahead of another."""

    true: FakeClock
    by: timedelta = timedelta()

    def now(self) -> datetime:
        return self.true.now() + self.by

    def __getattr__(self, name: str) -> Any:
        return getattr(self.true, name)


@dataclass
class World:
    """Two people with a state each, whose own clocks are the true one, or not."""

    folder: Path
    store: Store | None = None
    true: FakeClock = field(default_factory=FakeClock)
    stack: ExitStack = field(default_factory=ExitStack)
    delivered: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.own = Shifted(self.true)
        self.registry = Registry(clock=self.true)
        self.store = self.store or Store(self.registry, "team/box", "r.example/team/box")

    def box(self, me: str, store: Store | None = None, **options: Any) -> Mailbox:
        return self.stack.enter_context(
            Mailbox(
                me=me,
                store=store or self.store,
                state_path=self.folder / me / "state.db",
                signing=SigningOptions(sign=False),
                trust=TrustOptions(verify=False),
                clock=self.own,
                **options,
            )
        )

    def send(self, text: str, **options: Any) -> str:
        return self.box(ALICE).send(text=text, to=BOB, ttl_seconds=WEEK_SECONDS, **options).id

    def receive(self, *ids: str, **options: Any) -> list[str]:
        """Receive what comes; what is held is no delivery."""
        got = list(self.box(BOB, **options).receive(ids, out=self.folder / "in"))
        new = [one.id for one in got if one.status == "received"]
        self.delivered += new
        return new

    def do(self, verb: str) -> None:
        """Run a verb whose clocks may be wrong."""
        if verb == "send":
            with suppress(ConfigError):
                self.send("of a wrong clock")
        elif verb == "recv":
            self.receive()
        elif verb == "watch":
            watched = self.box(BOB).watch(out=self.folder / "in", once=True)
            self.delivered += [
                one.received.id for one in watched if one.received.status == "received"
            ]
        elif verb == "gc":
            with suppress(ConfigError):
                gone = [one.id for one in self.box(BOB).collect() if one.kind == "message"]
                assert set(gone) <= set(self.delivered)
        else:
            self.box(ALICE).receipts()

    def is_right_again(self) -> None:
        self.own.by = timedelta()
        self.registry.date = TRUE
        self.true.advance(60)


@pytest.fixture
def world(tmp_path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.stack.close()


MATRIX = [
    *((shift, date) for shift in SHIFTS for date in (TRUE, "none")),
    *((shift, date) for shift in (timedelta(), 365 * DAY) for date in ("1970", "9999")),
]
"""By how much our clock is wrong, and what the registry's `Date` says meanwhile."""
if "DOCKERCOMMS_CLOCKS_EVERY" not in os.environ:
    MATRIX = [MATRIX[number] for number in (4, 6, 8, 11, 12, 14, 15)]


@pytest.mark.parametrize("verb", ["send", "recv", "watch", "gc", "receipts"])
@pytest.mark.parametrize(("shift", "date"), MATRIX)
def test_a_clock_that_is_wrong_for_one_run_loses_doubles_and_forgets_nothing(
    world, verb, shift, date
):
    early = world.send("early")
    assert world.receive() == [early]
    world.true.advance(2 * 86_400)  # a full pass, and an older time that is confirmed
    assert world.receive() == []
    unread = world.send("unread")
    world.own.by, world.registry.date = shift, DATES.get(date, TRUE)
    world.do(verb)
    world.is_right_again()
    sent_wrongly = {entry.id for entry in world.box(ALICE).outbox()} - {early, unread}

    for _ in range(3):  # and two full passes
        world.receive()
        world.box(ALICE).receipts()
        world.true.advance(25 * 3600)

    assert sorted(set(world.delivered) - sent_wrongly) == sorted([early, unread])
    assert len(world.delivered) == len(set(world.delivered))
    answered = [receipt.id for receipt in world.box(ALICE).receipts()]
    if (verb, date) == ("gc", "none"):  # what was read may go by our clock alone
        answered.append(early)
    assert set(answered) == set(world.delivered)
    assert {early, unread} <= {entry.id for entry in world.box(ALICE).outbox()}
    world.true.advance(100 * 86_400)
    assert world.receive() == []


# --- who decides ---------------------------------------------------------------------------------


def test_message_that_one_clock_calls_expired_is_held_and_both_are_said(world):
    sent = world.send("hello")
    world.own.by = 30 * DAY
    (held,) = world.box(BOB).receive(out=world.folder / "in")
    assert (held.status, type(held.error)) == ("failed", ClocksDiffer)
    assert "this machine's clock says 2026-12-20" in str(held.error)
    assert "the registry's 2026-11-20" in str(held.error)
    assert 'clock = "registry"' in held.error.hint
    (entry,) = world.box(BOB).inbox()
    assert (entry.state, entry.expired) == ("held", False)
    assert "past by one clock and not by the other" in entry.reason
    assert world.receive(sent) == [sent]  # whoever asks for it has decided


@pytest.mark.parametrize(("choice", "found"), [("registry", True), ("own", False)])
def test_clock_that_is_chosen_decides_alone(world, choice, found):
    sent = world.send("hello")
    world.own.by = 30 * DAY
    assert world.receive() == []
    assert world.receive(clock_choice=choice) == [sent] * found


def test_registry_that_lies_about_its_date_gets_no_expired_message_in(world):
    world.send("hello")
    world.true.advance(20 * 86_400)
    world.registry.date = world.true.now() - 20 * DAY
    assert world.receive() == []
    assert world.receive(clock_choice="own") == []
    assert [entry.state for entry in world.box(BOB).inbox()] == ["held"]


def test_message_is_not_delivered_twice_by_a_registry_that_lies_after_ninety_days(world):
    sent = world.send("hello")
    assert world.receive() == [sent]
    for days in (91, 2, 2):
        world.true.advance(days * 86_400)
        world.registry.date = world.true.now() - 91 * DAY if days == 91 else TRUE
        assert world.receive() == []
    world.registry.date = world.true.now() - 95 * DAY
    assert world.receive(clock_choice="registry") == []


def test_machine_without_a_clock_sends_and_receives_by_the_registrys(world):
    world.own.by = datetime(1970, 1, 1, tzinfo=UTC) - world.true.now()
    with pytest.raises(ConfigError, match="clock: this machine says 1970") as raised:
        world.send("hello")
    assert 'clock = "registry"' in raised.value.hint
    alice = world.box(ALICE, clock_choice="registry")
    sent = alice.send(text="hello", to=BOB)
    assert sent.expires_at == world.true.now() + 7 * DAY
    assert world.receive() == []
    assert world.receive(clock_choice="registry") == [sent.id]
    (receipt,) = alice.receipts()
    assert (receipt.id, receipt.created_at) == (sent.id, world.true.now())


# --- folders, which have no clock of their own ---------------------------------------------------


@pytest.fixture
def shared(tmp_path) -> Iterator[World]:
    true = FakeClock()
    store = open_store(f"oci-layout:{tmp_path / 'box'}", clock=true, create=True)
    made = World(tmp_path, store, true)
    yield made
    made.stack.close()


def at(world: World, by: timedelta) -> Store:
    """Return the folder as a machine sees it whose clock is `by` ahead."""
    return open_store(world.store.repo, clock=Shifted(world.true, by))


@pytest.mark.parametrize("by", [-3 * DAY, -2 * DAY, 2 * DAY])
def test_folder_shared_by_machines_whose_clocks_differ_loses_nothing(shared, by):
    first = shared.send("first")
    assert shared.receive() == [first]
    shared.true.advance(3600)
    shared.own.by = by
    late = shared.box(ALICE, at(shared, by)).send(text="late", to=BOB, ttl_seconds=30 * 86_400)
    shared.own.by = timedelta()
    shared.true.advance(60)
    other = shared.send("rings the bell")

    got = set(shared.receive())

    if by > timedelta():  # it waits for its time
        assert got == {other}
        shared.true.advance(by.total_seconds())
        assert shared.receive() == [late.id]
    else:
        assert got == {other, late.id}


@pytest.mark.parametrize("by", [30 * DAY, 365 * DAY])
def test_gc_of_a_folder_removes_no_unread_mail(shared, by):
    read = shared.send("read")
    assert shared.receive() == [read]
    unread = shared.send("unread")
    shared.own.by = by
    store = at(shared, by)
    collector = shared.box(BOB, store).collector()
    gone = [one.id for one in collector.collect([BOB]) if one.kind == "message"]
    assert (gone, collector.unread) == ([read], 1)
    shared.own.by = timedelta()
    assert shared.receive() == [unread]


def test_gc_of_a_folder_keeps_what_another_machine_of_ours_has_not_read(shared):
    """Its receipt tells that a message was read, whichever machine did."""
    read = shared.send("read")
    assert shared.receive() == [read]
    shared.true.advance(20 * 86_400)
    other = Mailbox(
        me=BOB, store=shared.store, state_path=shared.folder / "other.db", clock=shared.own,
        trust=TrustOptions(verify=False),
    )  # fmt: skip
    with other:
        assert [one.kind for one in other.collect()][:2] == ["receipt", "message"]


def test_gc_of_a_folder_goes_by_our_clock_if_it_is_told_to(shared):
    shared.send("unread")
    shared.true.advance(20 * 86_400)
    assert list(shared.box(BOB).collect()) == []
    gone = [one.kind for one in shared.box(BOB, clock_choice="own").collect()]
    assert gone == ["message", "anchor"]

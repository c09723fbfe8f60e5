"""Several repositories and people: the fixture of tests of `gc` and `relay`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dockercomms.errors import NameUnknown
from dockercomms.mailbox import Mailbox
from dockercomms.oci.memory import MemoryRegistry
from dockercomms.oci.stores import Store
from dockercomms.relay.carry import Relayed
from dockercomms.relay.gc import Collected
from dockercomms.relay.relay import Relay
from dockercomms.trust.keys import KeyStore
from dockercomms.trust.owner import SigningOptions, TrustOptions
from dockercomms.trust.policy import Policy, Sender, TrustedKey
from tests.fakes.clock import FakeClock

ALICE, BOB = "alice@example.com", "bob@example.com"
DAY = 86_400


@dataclass
class Town:
    """People with one state each, and stores that they share. Messages are unsigned by default."""

    folder: Path
    clock: FakeClock = field(default_factory=FakeClock)
    stack: ExitStack = field(default_factory=ExitStack)

    def memory(self, name: str = "a", **options: Any) -> Store:
        registry = MemoryRegistry(clock=self.clock, **options)
        return Store(registry, f"team/{name}", f"{name}.example/team/{name}")

    def mailbox(
        self, store: Store, me: str, *, signed: bool = False, machine: str | None = None
    ) -> Mailbox:
        """Open somebody's mailbox in a store, which they leave open."""
        return self.stack.enter_context(
            Mailbox(
                me=me,
                store=store,
                state_path=self.folder / (machine or me) / "state.db",
                keys_folder=self.folder / "keys",
                signing=SigningOptions(sign=signed),
                trust=TrustOptions(policy=self.policy(), verify=signed),
                clock=self.clock,
            )
        )

    def policy(self) -> Policy:
        """Return whom they all trust: each other, to sign with the one key that they share."""
        key = TrustedKey(key=KeyStore(self.folder / "keys").ensure()[0].public)
        return Policy(senders=tuple(Sender(name=name, keys=(key,)) for name in (ALICE, BOB)))

    def send(self, store: Store, text: str = "hello", *, to: str = BOB, **options: Any) -> Any:
        signed = options.pop("signed", False)
        sender = options.pop("me", ALICE)
        return self.mailbox(store, sender, signed=signed).send(text=text, to=to, **options)

    def receive(self, store: Store, me: str = BOB, **options: Any) -> list[str]:
        """Receive all that is new; returns the ids."""
        signed = options.pop("signed", False)
        machine = options.pop("machine", None)
        mailbox = self.mailbox(store, me, signed=signed, machine=machine)
        got = list(mailbox.receive(out=self.folder / f"in-{me}-{machine}", **options))
        assert [one.error for one in got] == [None] * len(got)
        return [one.id for one in got]

    def relay(self, source: Store, target: Store, **options: Any) -> list[Relayed]:
        """Carry everything that is missing; `self.last` is the run."""
        on_notice = options.pop("on_notice", None)
        self.last: Relay = self.mailbox(self.memory(), "carrier").relay(
            source=source, target=target, **options
        )
        self.last.on_notice = on_notice
        return list(self.last.run())

    def collect(
        self, store: Store, names: Sequence[str] = (BOB,), **options: Any
    ) -> list[Collected]:
        return list(self.mailbox(store, names[0]).collect(**options))

    def close(self) -> None:
        self.stack.close()


def tags(store: Store, prefix: str = "") -> list[str]:
    """Return a store's tags; an empty set for a repository that does not exist."""
    try:
        return [tag for tag in store.registry.tags(store.repository) if tag.startswith(prefix)]
    except NameUnknown:
        return []


def generation(file: Path) -> tuple[int, int, int]:
    """Return a value that changes when a file is written again."""
    state = file.stat()
    return state.st_ino, state.st_mtime_ns, state.st_size


def kinds(done: Sequence[Any]) -> list[tuple[str, str]]:
    return [(one.kind, one.status) for one in done]


def open_town(folder: Path) -> Iterator[Town]:
    town = Town(folder)
    yield town
    town.close()

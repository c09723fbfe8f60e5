"""Alice, Bob and a repository: the fixture of tests that send and receive."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dockercomms.errors import Notice
from dockercomms.inbox.inbox import Inbox
from dockercomms.mailbox import Mailbox
from dockercomms.messages.deliver import ReceiveOptions
from dockercomms.messages.draft import SendOptions, Sent
from dockercomms.messages.publish import Publisher
from dockercomms.messages.receipts import acknowledge, write_receipt
from dockercomms.messages.receipts_list import list_receipts
from dockercomms.messages.receive import Received, receive
from dockercomms.messages.send import send
from dockercomms.oci.interface import read_all
from dockercomms.oci.memory import MemoryRegistry
from dockercomms.oci.model import MAX_MANIFEST_BYTES
from dockercomms.oci.stores import Store
from dockercomms.protocol.manifest import parse_message, parse_receipt
from dockercomms.state import State
from dockercomms.state.send_runs import SendRun
from dockercomms.transport.payload import payload_of
from dockercomms.trust.owner import TrustOptions
from dockercomms.trust.policy import Policy, Sender
from tests.fakes.clock import FakeClock
from tests.fakes.watched import WatchedRegistry

REPO = "registry.example/team/box"
REPOSITORY = "team/box"
ALICE = "alice@example.com"
BOB = "bob@example.com"
UNSIGNED_ALICE = Policy(senders=(Sender(name=ALICE, allow_unsigned=True),))
"""A policy that accepts, as claims, the messages that `Mail.send` sends without a signer."""
ONE_KEY = TrustOptions(policy=Policy(me=("alice", "bob", ALICE, BOB)))
"""Of people who share one folder of keys: their key speaks for all of them."""


@dataclass
class Mail:
    """Alice sends to Bob; each has a state of their own, below `folder`."""

    folder: Path
    clock: FakeClock = field(default_factory=FakeClock)
    registry: Any = None
    notices: list[Notice] = field(default_factory=list)
    published: list[Notice] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.registry is None:
            self.registry = WatchedRegistry(MemoryRegistry(clock=self.clock))
        self._stack = ExitStack()
        self.alice = self._stack.enter_context(State(self.folder / "alice" / "state.db"))
        self.bob = self._stack.enter_context(State(self.folder / "bob" / "state.db"))

    def close(self) -> None:
        self._stack.close()

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def reader(self) -> Any:
        """The registry itself, to look at without being counted."""
        return getattr(self.registry, "inner", self.registry)

    def tags(self) -> list[str]:
        return list(self.reader.tags(REPOSITORY))

    def file(self, name: str = "a.txt", data: bytes = b"hello") -> Path:
        path = self.folder / "from" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_bytes() != data:  # the same file stays the same
            path.write_bytes(data)
        return path

    def large_file(self, seed: int = 1) -> Path:
        """One whose layer is too large to stand in the manifest."""
        return self.file("large.bin", random.Random(seed).randbytes(20_000))

    def send(
        self,
        *paths: Path,
        payload: Any = None,
        to: str = BOB,
        signer: Any = None,
        run: SendRun | None = None,
        **options: Any,
    ) -> Sent:
        return send(
            self.registry,
            REPOSITORY,
            payload_of(paths or [self.file()]) if payload is None else payload,
            repo=REPO,
            sender=ALICE,
            recipient=to,
            state=self.alice,
            clock=self.clock,
            options=SendOptions(**options),
            signer=signer,
            run=run,
            on_notice=self.note,
        )

    def publisher(self, state: State | None = None) -> Publisher:
        return Publisher(
            registry=self.registry,
            repository=REPOSITORY,
            repo=REPO,
            state=self.alice if state is None else state,
            clock=self.clock,
            on_notice=self.note,
        )

    def inbox(self, me: str = BOB, **options: Any) -> Inbox:
        return Inbox(
            self.registry,
            REPOSITORY,
            repo=REPO,
            me=me,
            state=self.bob,
            clock=self.clock,
            **options,
        )

    def receive_one(self, *, verifier: Any = None, **options: Any) -> Received:
        """Poll, and receive the one entry that the inbox lists."""
        inbox = self.inbox()
        inbox.poll()
        (entry,) = inbox.entries(all=options.get("again", False))
        return receive(
            inbox,
            entry,
            registry=self.registry,
            repository=REPOSITORY,
            state=self.bob,
            clock=self.clock,
            options=ReceiveOptions(**{"out": self.out, **options}),
            verifier=verifier,
            on_notice=self.note,
        )

    def note(self, notice: Notice) -> None:
        """Keep a notice; that something is published is kept apart."""
        (self.published if notice.kind == "published" else self.notices).append(notice)

    def mailbox(self, me: str = BOB, **options: Any) -> Mailbox:
        """Return a mailbox over the same registry; the caller closes it.

        Alice may write unsigned, as `send` does unless it is given a signer.
        """
        options.setdefault("trust", TrustOptions(policy=UNSIGNED_ALICE))
        return Mailbox(
            me=me,
            state_path=self.folder / me.partition("@")[0] / "state.db",
            clock=self.clock,
            store=Store(self.registry, REPOSITORY, REPO),
            on_notice=self.note,
            **options,
        )

    def receive(
        self, me: str = BOB, *, mailbox: dict[str, Any] | None = None, **options: Any
    ) -> list[Received]:
        """Receive new messages through a mailbox with the options `mailbox`."""
        with self.mailbox(me, **(mailbox or {})) as box:
            return list(box.receive(**{"out": self.out, **options}))


def files_below(folder: Path) -> dict[str, bytes]:
    """Return every file below `folder` by its path; hidden ones too."""
    if not folder.exists():
        return {}
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def open_mail(folder: Path) -> Iterator[Mail]:
    """Yield a `Mail`, and close it: the body of a fixture."""
    mail = Mail(folder)
    yield mail
    mail.close()


def message_of(mail: Mail, sent):
    data, _ = read_all(mail.reader.get_manifest(REPOSITORY, sent.digest), MAX_MANIFEST_BYTES)
    return parse_message(data)


def receipt_at(mail: Mail, tag: str):
    data, _ = read_all(mail.reader.get_tag(REPOSITORY, tag), MAX_MANIFEST_BYTES)
    return parse_receipt(data)


def write(mail: Mail, sent, **options):
    return write_receipt(
        mail.registry,
        REPOSITORY,
        message_of(mail, sent),
        repo=REPO,
        state=mail.bob,
        clock=mail.clock,
        on_notice=mail.note,
        **options,
    )


def ack(mail: Mail, sent, status="accepted", **options):
    return acknowledge(
        mail.registry,
        REPOSITORY,
        sent.digest,
        status,
        repo=REPO,
        me=BOB,
        state=mail.bob,
        clock=mail.clock,
        **options,
    )


def listed(mail: Mail, message=None, me=ALICE, state=None):
    return list_receipts(
        Store(mail.registry, REPOSITORY, REPO),
        me=me,
        state=mail.alice if state is None else state,
        clock=mail.clock,
        message=message,
    )


def tags_with(mail: Mail, prefix: str) -> list[str]:
    return [tag for tag in mail.tags() if tag.startswith(prefix)]


def held(mail: Mail):
    """Return the one row of Bob's inbox."""
    (row,) = mail.bob.inbox.candidates(BOB, REPO)
    return row


def folder_of(mail: Mail, **files: str):
    base = mail.folder / "project"
    base.mkdir(exist_ok=True)
    for name, text in files.items():
        (base / name).write_text(text)
    return base


def three(mail: Mail):
    sent = []
    for number in range(3):
        sent.append(mail.send(mail.file(data=b"%d" % number)))
        mail.clock.advance(1)
    return sent

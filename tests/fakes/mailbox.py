"""A mailbox that answers from lists and records its calls, for tests of the command line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from dockercomms.errors import DockerCommsError, InternalError
from dockercomms.inbox.listing import InboxEntry
from dockercomms.inbox.poll import PollResult
from dockercomms.messages.command import Outcome
from dockercomms.messages.draft import Sent
from dockercomms.messages.outbox import OutboxEntry
from dockercomms.messages.receipts_list import ReceiptEntry
from dockercomms.messages.receive import Received
from dockercomms.messages.watch import Watched
from dockercomms.oci.layout.registry import Swept
from dockercomms.oci.stores import Store
from dockercomms.relay.carry import Relayed, Totals
from dockercomms.relay.gc import Collected
from dockercomms.state.send_runs import SendRun

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
ID = "1a2b3c4d-0000-4000-8000-000000000001"
DIGEST = "sha256:" + "ab" * 32
RECEIPT = "sha256:" + "cd" * 32
TAG = "inbox-bvs61fohi1cmosc8le2hrdkhu3-20261120-02932e00-abababababababab"

RUN = SendRun("a run", "its recipients")


def sent(**changes: Any) -> Sent:
    values: dict[str, Any] = {
        "id": ID,
        "digest": DIGEST,
        "repo": "r.example/box",
        "tag": TAG,
        "recipient": "bob",
        "sender": "alice",
        "total_bytes": 1536,
        "chunks": 1,
        "reused_chunks": 0,
        "expires_at": datetime(2026, 11, 27, 12, 0, tzinfo=UTC),
    }
    return Sent(**values | changes)


def entry(**changes: Any) -> InboxEntry:
    values: dict[str, Any] = {
        "id": ID,
        "digest": DIGEST,
        "tag": TAG,
        "sender": "alice",
        "title": "The report",
        "text": None,
        "filename": "report.pdf",
        "bytes": 1536,
        "created_at": NOW,
        "expires_at": datetime(2026, 11, 27, 12, 0, tzinfo=UTC),
        "state": "new",
        "expired": False,
        "reason": "",
        "recipient": "bob",
    }
    return InboxEntry(**values | changes)


def received(**changes: Any) -> Received:
    values: dict[str, Any] = {
        "id": ID,
        "digest": DIGEST,
        "status": "received",
        "sender": "alice",
        "files": (Path("/in/1a2b3c4d/report.pdf"),),
        "bytes": 1536,
        "receipt": RECEIPT,
        "error": None,
    }
    return Received(**values | changes)


def failed(error: DockerCommsError, **changes: Any) -> Received:
    return received(status="failed", files=(), bytes=0, receipt=None, error=error, **changes)


def outbox_entry(**changes: Any) -> OutboxEntry:
    values: dict[str, Any] = {
        "id": ID,
        "digest": DIGEST,
        "repo": "r.example/box",
        "tag": TAG,
        "sender": "alice",
        "recipient": "bob",
        "title": "The report",
        "filename": "report.pdf",
        "bytes": 1536,
        "thread": ID,
        "published_at": NOW,
        "expires_at": datetime(2026, 11, 27, 12, 0, tzinfo=UTC),
        "fate": "silent",
    }
    return OutboxEntry(**values | changes)


def watched(**changes: Any) -> Watched:
    values: dict[str, Any] = {
        "received": received(recipient="bob"),
        "outcome": Outcome(exit_code=0, seconds=0.25),
        "status": "accepted",
    }
    return Watched(**values | changes)


def receipt(**changes: Any) -> ReceiptEntry:
    values: dict[str, Any] = {
        "digest": RECEIPT,
        "message": DIGEST,
        "id": ID,
        "sender": "bob",
        "status": "accepted",
        "claimed_verified": False,
        "reason": "",
        "created_at": NOW,
    }
    return ReceiptEntry(**values | changes)


@dataclass(eq=False)
class FakeMailbox:
    """Returns the values of its lists, and raises an exception among them."""

    entries: list[InboxEntry] = field(default_factory=list)
    messages: list[Any] = field(default_factory=list)
    sends: list[Sent | BaseException] = field(default_factory=list)
    outbox_held: list[OutboxEntry] = field(default_factory=list)
    elsewhere: dict[str, int] = field(default_factory=dict)
    waits: list[dict[str, ReceiptEntry]] = field(default_factory=list)
    receipts_held: list[ReceiptEntry] = field(default_factory=list)
    poll: Any = None
    held_before: tuple[Received, ...] = ()
    waiting: int = 0
    gaps: tuple[Any, ...] = ()
    progress_events: tuple[Any, ...] = ()
    retry_events: tuple[Any, ...] = ()
    relayed: list[Relayed | BaseException] = field(default_factory=list)
    collected: list[Collected | BaseException] = field(default_factory=list)
    swept: Swept = field(default_factory=Swept)
    content: bytes = b""
    """The bytes that `receive` writes to standard output."""
    calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)
    defects: list[InternalError] = field(default_factory=list)
    known_defects: set[str] = field(default_factory=set)
    closed: bool = False
    repo: str = "r.example/box"

    def __call__(self, repo: str | None, **options: Any) -> FakeMailbox:
        """Be opened, as the factory of itself."""
        self.calls.append(("open", (repo,), options))
        self.options = options
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True

    def asked(self, name: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments of the only call of `name`."""
        ((_, arguments, options),) = [call for call in self.calls if call[0] == name]
        return arguments, options

    @property
    def last_poll(self) -> Any:
        return self.poll

    def _transfer(self) -> None:
        for event in self.retry_events:
            self.options["on_retry"](event)
        for event in self.progress_events:
            if self.options["progress"] is not None:
                self.options["progress"](event)

    def send(self, paths: tuple[Path, ...] = (), **options: Any) -> Sent:
        self.calls.append(("send", (paths,), options))
        self._transfer()
        outcome = self.sends.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    @contextlib.contextmanager
    def run_to(self, recipients: Sequence[str]) -> Iterator[SendRun]:
        self.calls.append(("run_to", (tuple(recipients),), {}))
        yield RUN

    def end_run(self, run: SendRun) -> None:
        self.calls.append(("end_run", (run,), {}))

    def inbox(self, **options: Any) -> list[InboxEntry]:
        self.calls.append(("inbox", (), options))
        return self.entries

    def show(self, message: str) -> InboxEntry:
        self.calls.append(("show", (message,), {}))
        return self.entries[0]

    def receive(self, ids: tuple[str, ...] = (), **options: Any) -> Iterator[Received]:
        self.calls.append(("receive", (ids,), options))
        for outcome in self.messages:
            self._transfer()
            if isinstance(outcome, BaseException):
                raise outcome
            if options["stdout"] is not None:
                options["stdout"].write(self.content)
            yield outcome

    def watch(self, **options: Any) -> Iterator[Watched]:
        self.calls.append(("watch", (), options))
        for outcome in self.messages:
            if isinstance(outcome, BaseException):
                raise outcome
            yield outcome

    def acknowledge(self, message: str, status: str, *, reason: str = "") -> str:
        self.calls.append(("acknowledge", (message, status), {"reason": reason}))
        return RECEIPT

    def is_first(self, error: InternalError) -> bool:
        return error.what not in self.known_defects

    def receipts(self, message: str | None = None) -> list[ReceiptEntry]:
        self.calls.append(("receipts", (message,), {}))
        return self.receipts_held

    def outbox(self) -> list[OutboxEntry]:
        self.calls.append(("outbox", (), {}))
        return self.outbox_held

    def sent_elsewhere(self) -> dict[str, int]:
        return self.elsewhere

    def wait(self, sent: list[Sent], *, seconds: float) -> dict[str, ReceiptEntry]:
        self.calls.append(("wait", (sent,), {"seconds": seconds}))
        return self.waits.pop(0)

    names = ("bob",)

    def collector(self, **options: Any) -> FakeCollector:
        self.calls.append(("collector", (), options))
        return FakeCollector(self.collected, self.swept)

    def relay(self, **options: Any) -> FakeRelay:
        self.calls.append(("relay", (), options))
        return FakeRelay(self.relayed, options.get("source") or Store(None, "box", "r.example/box"))


@dataclass
class FakeCollector:
    collected: list[Collected | BaseException]
    swept: Swept
    unread: int = 0

    def collect(self, names: tuple[str, ...]) -> Iterator[Collected]:
        assert names == FakeMailbox.names
        return _given(self.collected)


@dataclass
class FakeRelay:
    relayed: list[Relayed | BaseException]
    source: Store
    totals: Totals = field(default_factory=Totals)
    progress: Any = None

    def run(self) -> Iterator[Relayed]:
        for done in _given(self.relayed):
            self.totals.messages += done.status == "relayed"
            yield done


def _given(outcomes: list[Any]) -> Iterator[Any]:
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
        yield outcome


def relayed(**changes: Any) -> Relayed:
    values: dict[str, Any] = {
        "kind": "message",
        "status": "relayed",
        "digest": DIGEST,
        "id": ID,
        "sender": "alice",
        "recipient": "bob",
        "tag": "inbox-x",
        "bytes": 5,
    }
    return Relayed(**values | changes)


def collected(**changes: Any) -> Collected:
    values: dict[str, Any] = {
        "kind": "message",
        "status": "removed",
        "digest": DIGEST,
        "id": ID,
        "sender": "alice",
        "recipient": "bob",
        "tag": "inbox-x",
        "expired_at": NOW,
    }
    return Collected(**values | changes)


def poll(**changes: Any) -> PollResult:
    values: dict[str, Any] = {"complete": True}
    return PollResult(**values | changes)

"""One round of receiving: put right what a crash left, look, and receive one after another.

Example:
    >>> from dockercomms.rounds import HOPELESS_FAILURES
    >>> HOPELESS_FAILURES
    3
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from dockercomms.errors import (
    AuthError,
    DockerCommsError,
    IntegrityError,
    NetworkError,
    NotFoundError,
    ProtocolError,
    UsageError,
    VerificationError,
)
from dockercomms.inbox import Entry, Inbox, PollResult
from dockercomms.oci.interface import Registry
from dockercomms.platforms import Clock
from dockercomms.publishing import NoticeHook, Publisher
from dockercomms.reading import HELD_INTEGRITY, HELD_MISSING, HELD_POLICY, HELD_TAG
from dockercomms.receipts import publish_pending
from dockercomms.receiving import Received, ReceiveOptions, Verifier, leftovers_of, receive
from dockercomms.state import State
from dockercomms.transport.transfer import Progress

HOPELESS_FAILURES = 3
"""After so many messages in a row that the registry did not let us have, no further is tried."""

_HELD_ERRORS: dict[str, type[DockerCommsError]] = {
    HELD_POLICY: VerificationError,
    HELD_INTEGRITY: IntegrityError,
    HELD_TAG: IntegrityError,
    HELD_MISSING: NotFoundError,
}
"""What it is to a program that a message is held; anything else breaks the protocol."""


@dataclass(slots=True, kw_only=True)
class Round:
    """One round over one inbox. Not safe for several threads."""

    inbox: Inbox
    registry: Registry
    repository: str
    state: State
    clock: Clock
    options: ReceiveOptions
    progress: Progress | None = None
    verifier: Verifier | None = None
    on_notice: NoticeHook | None = None
    last_poll: PollResult | None = field(default=None, init=False)
    """How the look at the repository went."""

    def receive(
        self,
        ids: Sequence[str] = (),
        *,
        max: int | None = None,  # noqa: A002 - as the option is called
        since: datetime | None = None,
        complete: bool = False,
    ) -> Iterator[Received]:
        """Receive what is new, or `ids`; yields what became of each message.

        1. temporaries of runs that were killed go, receipts that had to wait are published
        2. new messages come before held ones, each oldest first; a delivery that an earlier run
           had nearly finished is one of the new
        3. one that fails never stops the others; it is reported once, with `ids` or
           `options.again` every time

        Args:
            ids: Only these; each the start of an id or digest.
            max: Stop after so many deliveries.
            since: Only what was created later.
            complete: Look at the whole repository, whatever is known already.

        Raises:
            UsageError: `max` is not positive.
            RegistryError, NetworkError: the registry did not let itself be looked at.
            LocalIOError: the state cannot be used.
        """
        if max is not None and max < 1:
            raise UsageError(f"max: {max} given; 1 or more expected")
        self.last_poll = self.inbox.poll(complete=complete)
        leftovers_of(self.state).sweep()
        if self.options.receipt and not self.last_poll.repository_missing:
            self._publish_pending()
        delivered = unreachable = 0
        for entry in self._wanted(ids, since):
            if isinstance(entry, Received):
                yield entry
                continue
            result = self._receive_one(entry, insist=bool(ids) or self.options.again)
            if result is None:
                continue
            yield result
            delivered += result.status == "received"
            unreachable = unreachable + 1 if _is_unreachable(result.error) else 0
            if result.status == "failed":
                self.inbox.mark_reported([entry])
            if unreachable >= HOPELESS_FAILURES or delivered == max:
                return

    def _wanted(self, ids: Sequence[str], since: datetime | None) -> Iterator[Entry | Received]:
        if not ids:
            yield from self.inbox.entries(since=since, all=self.options.again)
        for prefix in ids:
            try:
                yield self.inbox.find(prefix)
            except (NotFoundError, UsageError) as error:
                yield Received(id=prefix, digest=None, status="failed", error=error)

    def _receive_one(self, entry: Entry, *, insist: bool) -> Received | None:
        """Receive or report one message; None if there is nothing new to say of it."""
        if entry.state == "refused" or (entry.state == "held" and not (entry.retried or insist)):
            return None if entry.reported and not insist else _held_back(entry)
        result = receive(
            self.inbox,
            entry,
            registry=self.registry,
            repository=self.repository,
            state=self.state,
            clock=self.clock,
            options=self.options,
            progress=self.progress,
            verifier=self.verifier,
            on_notice=self.on_notice,
        )
        if result.status == "failed" and not insist and self._is_reported(entry):
            return None
        return result

    def _is_reported(self, entry: Entry) -> bool:
        """Return whether the user was told already of what holds a message back now."""
        row = self.state.inbox.candidate(entry.me, entry.repo, entry.key)
        return row is not None and row.state in ("held", "refused") and row.reported

    def _publish_pending(self) -> None:
        publisher = Publisher(
            registry=self.registry,
            repository=self.repository,
            repo=self.inbox.repo,
            state=self.state,
            clock=self.clock,
            on_notice=self.on_notice,
        )
        for error in publish_pending(publisher, self.inbox.me):
            publisher.notify("receipt-waits", f"{publisher.repo}: a receipt has to wait: {error}")


def _held_back(entry: Entry) -> Received:
    """Return the report of a message that is not tried: refused for good, or held."""
    kind = _HELD_ERRORS.get(entry.reason_kind, ProtocolError)
    header = entry.header
    return Received(
        id="" if header is None else header.id,
        digest=entry.digest,
        status="failed",
        sender="" if header is None else header.sender,
        bytes=0 if header is None else header.total_bytes,
        error=kind(f"{entry.digest or entry.key}: {entry.reason}"),
    )


def _is_unreachable(error: DockerCommsError | None) -> bool:
    return isinstance(error, NetworkError | AuthError)

"""One round of receiving over the inboxes of a recipient, one for each of their names.

A round cleans up after crashed runs, polls, and receives one message after another. It verifies the
next message while the receipt of the last one is published, and adds to the fallback index
meanwhile:

    deliver 1 -> receipt 1  -> deliver 2 -> receipt 2 -> ...
                 verify 2      index 1      verify 3

A message is verified only after the delivery of the one before it, to detect a sender who uses an
id twice. The index is best effort.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import field
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Generic, TypeVar

from dockercomms.errors import (
    AuthError,
    BadAnswer,
    ClocksDiffer,
    DockerCommsError,
    IntegrityError,
    InternalError,
    NetworkError,
    NotFoundError,
    NoticeHook,
    PlaceError,
    ProtocolError,
    TooManyRequests,
    UnknownSender,
    Unsigned,
    UsageError,
    VerificationError,
)
from dockercomms.inbox.entries import Entry
from dockercomms.inbox.inbox import Inbox, find_in, poll_all
from dockercomms.inbox.poll import PollResult
from dockercomms.inbox.read import (
    HELD_ANSWER,
    HELD_CLOCK,
    HELD_INTEGRITY,
    HELD_INTERNAL,
    HELD_LIMIT,
    HELD_MISSING,
    HELD_TAG,
    Failures,
)
from dockercomms.messages.deliver import ReceiveOptions
from dockercomms.messages.elsewhere import OwnReceipts, tell_first_look
from dockercomms.messages.publish import Publisher
from dockercomms.messages.receipts import publish_pending
from dockercomms.messages.receive import (
    HELD_PLACE,
    Examined,
    Received,
    Verifier,
    examine,
    failed,
    is_too_large,
    leftovers_of,
    receive,
)
from dockercomms.messages.verify import (
    HELD_CONFLICT,
    HELD_SIGNATURE,
    HELD_UNKNOWN,
    HELD_UNSIGNED,
    POLICY_KINDS,
    MessageVerifier,
    judge_entries,
)
from dockercomms.oci.interface import Registry
from dockercomms.platforms.clock import Clock
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.tags import bell_tag, recipient_tag
from dockercomms.state import State
from dockercomms.state.inbox import EntryState
from dockercomms.transport.journal import Progress
from dockercomms.transport.window import GRACE_SECONDS, workers
from dockercomms.trust.signing import Signer

T = TypeVar("T")
Key = TypeVar("Key")

FRESH_SECONDS = 60.0
"""The age at which a verdict is renewed: the caller may pause between two results."""
_THREADS = 2  # one verifies, one writes indexes


class Overlap(contextlib.AbstractContextManager["Overlap[Key, T]"], Generic[Key, T]):
    """The work beside the main thread of one round. To be used by one thread.

    At the end of the block it waits for its jobs; after Ctrl-C, or if the caller closes the
    generator, for at most `GRACE_SECONDS` each.
    """

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._pool: ThreadPoolExecutor | None = None
        self._expected: tuple[Key, Callable[[], T]] | None = None
        self._begun: tuple[Key, Future[T]] | None = None
        self._begun_at = 0.0
        self._late: Future[None] | None = None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, KeyboardInterrupt | GeneratorExit):
            if self._begun is not None:
                wait([self._begun[1]], timeout=GRACE_SECONDS)
            if self._late is not None:
                wait([self._late], timeout=GRACE_SECONDS)
        self._stack.__exit__(kind, error, trace)
        if error is None and self._late is not None:
            self._late.result()

    def expect(self, following: tuple[Key, Callable[[], T]] | None) -> None:
        """Set the work to start after the delivery of the present message, if any."""
        self._expected = following

    def delivered(self) -> None:
        """Start the work that was set: its input is in the state now."""
        if self._expected is not None:
            key, work = self._expected
            self._expected = None
            self._begun = (key, self._threads().submit(work))
            self._begun_at = time.monotonic()

    def result(self, key: Key, work: Callable[[], T]) -> T:
        """Return or raise the result of `work`, which may have been started under that key."""
        begun, self._begun = self._begun, None
        if begun is None:
            return work()
        begun[1].exception()  # wait for its end, even if the result is not used
        if begun[0] != key or time.monotonic() - self._begun_at > FRESH_SECONDS:
            return work()
        return begun[1].result()

    def later(self, job: Callable[[], None]) -> None:
        """Run a job beside the next message, or now if there is no next one."""
        if self._late is not None:
            self._late.result()
            self._late = None
        if self._begun is None:
            job()
        else:
            self._late = self._threads().submit(job)

    def _threads(self) -> ThreadPoolExecutor:
        if self._pool is None:
            self._pool = self._stack.enter_context(workers(_THREADS))
        return self._pool


def with_next(items: Iterable[T]) -> Iterator[tuple[T, T | None]]:
    """Yield each item with the next one, which is requested in advance."""
    following = iter(items)
    item = next(following, None)
    while item is not None:
        after = next(following, None)
        yield item, after
        item = after


MAX_FAILURES = 9
"""Failures of the registry or the network that end a round, since each may take minutes."""

_HELD_ONLY: tuple[EntryState, ...] = ("held",)

_HELD_ERRORS: dict[str, type[DockerCommsError]] = {
    HELD_UNSIGNED: Unsigned,
    HELD_UNKNOWN: UnknownSender,
    HELD_SIGNATURE: VerificationError,
    HELD_CONFLICT: VerificationError,
    HELD_ANSWER: BadAnswer,
    HELD_INTEGRITY: IntegrityError,
    HELD_TAG: IntegrityError,
    HELD_MISSING: NotFoundError,
    HELD_PLACE: PlaceError,
    HELD_INTERNAL: InternalError,
    HELD_CLOCK: ClocksDiffer,
}
"""The error class for each reason to hold a message; others are a `ProtocolError`."""


@dataclass(frozen=True, slots=True)
class Box:
    """An inbox with the verifier of its messages."""

    inbox: Inbox
    verifier: Verifier | None = None
    """Verifies signatures, which stay unchecked without it."""
    receipts: OwnReceipts | None = None
    """Finds messages that were received elsewhere, if they are to be left out."""


@dataclass(slots=True, kw_only=True)
class Round:
    """One round over the inboxes of one recipient. Not safe for several threads."""

    boxes: Sequence[Box]
    registry: Registry
    repository: str
    state: State
    clock: Clock
    options: ReceiveOptions
    progress: Progress | None = None
    signer: Signer | None = None
    """Signs receipts; without a signer they are claims."""
    on_notice: NoticeHook | None = None
    last_poll: PollResult | None = field(default=None, init=False)
    """The result of the last poll."""
    held_before: list[Received] = field(default_factory=list, init=False)
    """Held messages that an earlier round reported, so this one does not yield them."""

    def receive(
        self,
        ids: Sequence[str] = (),
        *,
        max: int | None = None,  # noqa: A002 - as the option is called
        since: datetime | None = None,
        complete: bool = False,
        watching: bool = False,
    ) -> Iterator[Received]:
        """Receive new messages, or `ids`; yield the result of each.

        1. Remove temporaries of killed runs, and publish receipts that earlier runs could not.
        2. Receive new messages, then held ones, each oldest first. A delivery that an earlier run
           began is a new message.
        3. If a message fails, continue with the others. Report it once; with `ids` or
           `options.again` every time. In the next round, messages that the registry failed to
           deliver come after the other new ones.

        Args:
            ids: Only these; each the start of an id or digest.
            max: Stop after so many deliveries.
            since: Only messages created later.
            complete: Search the whole repository, even parts known already.
            watching: Stop after the bell if it has not changed and no other work is due.

        Raises:
            UsageError: `max` is not positive.
            RegistryError, NetworkError: the registry did not answer the search.
            LocalIOError: the state cannot be used.
        """
        if max is not None and max < 1:
            raise UsageError(f"max: {max} given; 1 or more expected")
        self.held_before = []
        for box in self.boxes:
            self._reconsider(box)
        inboxes = [box.inbox for box in self.boxes]
        self.last_poll = poll_all(inboxes, complete=complete, watching=watching)
        if not self.last_poll.idle:
            self.state.pulls.sweep(now=self.clock.now())
        leftovers_of(self.state, self.clock).sweep()
        if self.options.receipt and not self.last_poll.repository_missing:
            self._publish_pending()
        if self.last_poll.idle:
            return
        delivered, failures = 0, Failures()
        insist = bool(ids) or self.options.again
        overlap: Overlap[Entry, Examined] = Overlap()
        with overlap:
            for found, following in with_next(self._wanted(ids, since)):
                if isinstance(found, Received):
                    yield found
                    continue
                box, entry = found
                is_last = max is not None and delivered + 1 == max
                overlap.expect(None if is_last else self._following(following, insist=insist))
                result = self._receive_one(box, entry, overlap, insist=insist)
                if result is None:
                    continue
                yield result
                delivered += result.status == "received"
                if result.status == "failed":
                    box.inbox.mark_reported([entry])
                if delivered == max:
                    return
                if self._is_hopeless(failures, box, result.error):
                    if following is not None:
                        self._tell_untried(box, result.error)
                    return

    def _is_hopeless(self, failures: Failures, box: Box, error: DockerCommsError | None) -> bool:
        """Count a result; return whether the registry is down or fails too often."""
        of_registry = isinstance(error, NetworkError | AuthError | BadAnswer | TooManyRequests)
        failures.note(error if of_registry else None)
        if failures.lost is None:
            return False
        if failures.total >= MAX_FAILURES or not self._answers(box):
            return True
        failures.forgive()
        return False

    def _answers(self, box: Box) -> bool:
        """Return whether the registry answers a small request about an inbox."""
        try:
            self.registry.resolve_tag(self.repository, bell_tag(recipient_tag(box.inbox.me)))
        except NotFoundError:
            return True
        except DockerCommsError:
            return False
        return True

    def _tell_untried(self, box: Box, error: DockerCommsError | None) -> None:
        publisher = self.publisher(box.inbox)
        publisher.notify(
            "not-tried",
            f"{publisher.repo}: the others were not tried, the next run tries them: {error}",
        )

    def _reconsider(self, box: Box) -> None:
        """Make held messages new if the options of this round end the reason.

        A message that the policy rejects stays refused.
        """
        fallen = set() if box.verifier is not None else set(POLICY_KINDS)
        if not self.options.flat:
            fallen.add(HELD_PLACE)  # a folder of its own has room for every name
        inbox = box.inbox
        self.state.inbox.reconsider(inbox.me, inbox.repo, fallen, states=_HELD_ONLY)

    def _is_due(self, box: Box, entry: Entry, *, insist: bool) -> bool:
        """Return whether to receive a message, rather than only report it."""
        if entry.state == "refused":
            return False
        if entry.state != "held" or entry.retried or insist:
            return True
        if entry.reason_kind == HELD_LIMIT and entry.header is not None:
            size, limit = entry.header.total_bytes, self.options.max_total_bytes
            return not is_too_large(size, limit, proven=box.inbox.is_meant(entry))
        # A listing that held it did not show the hint; verifying it again does
        return not entry.reported and entry.reason_kind in POLICY_KINDS

    def _following(
        self, following: tuple[Box, Entry] | Received | None, *, insist: bool
    ) -> tuple[Entry, Callable[[], Examined]] | None:
        """Return the next message with the call that examines it, if it is due."""
        if following is None or isinstance(following, Received):
            return None
        box, entry = following
        if not self._is_due(box, entry, insist=insist):
            return None
        return entry, partial(examine, box.inbox, entry, box.verifier)

    def _wanted(
        self, ids: Sequence[str], since: datetime | None
    ) -> Iterator[tuple[Box, Entry] | Received]:
        if not ids:
            for box in self.boxes:
                options = self.options
                listed = box.inbox.receivable(
                    since=since, all=options.again, elsewhere=options.redeliver
                )
                if not options.again:
                    listed = sorted(listed, key=_turn)
                for found in self._first_look(box, listed, complete=since is None):
                    yield found if isinstance(found, Received) else (box, found)
        for prefix in ids:
            try:
                inboxes = [box.inbox for box in self.boxes]
                number, entry = find_in(inboxes, prefix, judge=self._judge)
            except (NotFoundError, IntegrityError, UsageError) as error:
                yield Received(id=prefix, digest=None, status="failed", error=error)
            else:
                yield self.boxes[number], entry

    def _judge(self, inbox: Inbox, entries: Sequence[Entry]) -> None:
        """Verify messages with the same id, to choose between them."""
        verifier = next(box.verifier for box in self.boxes if box.inbox is inbox)
        if isinstance(verifier, MessageVerifier):
            judge_entries(inbox, entries, verifier, insist=True)

    def _first_look(
        self, box: Box, entries: Sequence[Entry], *, complete: bool
    ) -> Iterator[Entry | Received]:
        """Yield the entries to receive; on a new state without those received elsewhere."""
        if box.receipts is None or self.options.again or self.options.redeliver:
            yield from entries
            return
        complete = complete and self.last_poll is not None and self.last_poll.complete
        look = box.receipts.look(box.inbox, entries, complete=complete)
        tell_first_look(look, box.inbox, self.on_notice)
        yield from (failed(entry, error) for entry, error in look.waiting)
        yield from look.left

    def _receive_one(
        self, box: Box, entry: Entry, overlap: Overlap[Entry, Examined], *, insist: bool
    ) -> Received | None:
        """Receive or report one message; None if the user knows the result already."""
        if not self._is_due(box, entry, insist=insist):
            known = entry.reported and not insist
            if entry.state == "refused":
                return None if known else _held_back(entry)
            return self._told(_held_back(entry), known=known)
        result = receive(
            box.inbox,
            entry,
            registry=self.registry,
            repository=self.repository,
            state=self.state,
            clock=self.clock,
            options=self.options,
            progress=self.progress,
            verifier=box.verifier,
            signer=self.signer,
            on_notice=self.on_notice,
            beside=overlap,
        )
        known = result.status == "failed" and not insist and self._is_reported(entry)
        return self._told(result, known=known)

    def _told(self, result: Received, *, known: bool) -> Received | None:
        """Return `result`; if the user knows it, add it to `held_before` and return None."""
        if not known:
            return result
        self.held_before.append(result)
        return None

    def _is_reported(self, entry: Entry) -> bool:
        """Return whether the user has seen why a message is held or refused."""
        row = self.state.inbox.candidate(entry.me, entry.repo, entry.key)
        return row is not None and row.state in ("held", "refused") and row.reported

    def publisher(self, inbox: Inbox) -> Publisher:
        """Return a publisher for the repository of an inbox."""
        return Publisher(
            registry=self.registry,
            repository=self.repository,
            repo=inbox.repo,
            state=self.state,
            clock=self.clock,
            on_notice=self.on_notice,
            index=self.options.referrers_index,
        )

    def _publish_pending(self) -> None:
        for box in self.boxes:
            publisher = self.publisher(box.inbox)
            for error in publish_pending(publisher, box.inbox.me, signer=self.signer):
                publisher.notify(
                    "receipt-waits", f"{publisher.repo}: a receipt will be sent later: {error}"
                )


def _held_back(entry: Entry) -> Received:
    """Return the result for a refused or held message that is not tried."""
    kind = _HELD_ERRORS.get(entry.reason_kind, ProtocolError)
    return failed(entry, kind(f"{entry.digest or entry.key}: {entry.reason}"))


def _turn(entry: Entry) -> int:
    """Return the sort key of an entry: new, then new after a failure, then others."""
    if entry.state not in ("new", "delivering"):
        return 2
    return int(entry.reported or entry.header is None)

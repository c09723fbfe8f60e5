"""Receiving of one message. Every check that can be made comes before the file gets its name.

1. `Inbox.fetch` fetches the manifest by digest, hashes, parses and examines it.
2. `verify` decides by the bundles and the policy who sent it, and whether they may write to us.
3. A lock excludes other processes from this delivery. One that an earlier run renamed is finished.
4. The chunks go into a temporary beside the target, each checked for digest, size and bounds; then
   the payload's digest is checked. A folder is unpacked into a temporary folder beside its place.
5. The temporary is made durable, and its final path is recorded.
6. The temporary is renamed to its final name, which must be free.
7. One transaction records the delivery and the receipt.
8. The receipt is published.

`deliver` does steps 4 to 7. After a crash before step 6, the next run continues or removes the
temporary. After a crash later, it compares the file at the final path.

Source: SPEC.md section 8.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import field, replace
from datetime import datetime
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, Literal, Protocol

from dockercomms.errors import (
    AuthError,
    BadAnswer,
    ClocksDiffer,
    DockerCommsError,
    IntegrityError,
    InternalError,
    LimitError,
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
    Withdrawn,
    guarded,
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
    HELD_WITHDRAWN,
    REFUSED_MALFORMED,
    Failures,
)
from dockercomms.messages.deliver import DeliveryRun, ReceiveOptions
from dockercomms.messages.elsewhere import OwnReceipts, tell_first_look
from dockercomms.messages.place import Leftovers
from dockercomms.messages.publish import Publisher
from dockercomms.messages.receipts import publish_pending, publish_receipt
from dockercomms.messages.verify import (
    HELD_CONFLICT,
    HELD_SIGNATURE,
    HELD_UNKNOWN,
    HELD_UNSIGNED,
    POLICY_KINDS,
    UNCHECKED,
    Accepted,
    MessageVerifier,
    Verdict,
    Withheld,
    judge_entries,
    set_withheld,
)
from dockercomms.oci.interface import Registry
from dockercomms.oci.model import Digest
from dockercomms.platforms.clock import Clock
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.header import MAX_UNTRUSTED_TOTAL_BYTES
from dockercomms.protocol.manifest import Message
from dockercomms.protocol.tags import bell_tag, recipient_tag
from dockercomms.state import State
from dockercomms.transport.journal import Progress
from dockercomms.transport.window import GRACE_SECONDS, workers
from dockercomms.trust.owner import SignatureStatus
from dockercomms.trust.signing import Signer

WITHDRAWN = "withdrawn by its sender, or deleted by the registry"
"""The reason to skip a message whose manifest does not exist."""
HELD_PLACE = "place"
"""It does not fit into the output folder; it may fit into another one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """The result of receiving one message."""

    id: str
    """The message's id; "" if its manifest could not be read."""
    digest: Digest | None
    """None if it is not known either."""
    status: Literal["received", "skipped", "failed"]
    recipient: str = ""
    """The receiver's name to which it is addressed."""
    sender: str = ""
    """The sender's name in the header, unproven."""
    signer: str | None = None
    """The verified name of its sender; None if the signature is not verified."""
    signature_status: SignatureStatus = "unchecked"
    files: tuple[Path, ...] = ()
    """Absolute paths of the delivered files; empty after a delivery to a stream."""
    bytes: int = 0
    receipt: Digest | None = None
    error: DockerCommsError | None = None
    """The error of the message; of a received one, the error of publishing its receipt."""
    receipt_next_try: datetime | None = None
    """The time of the next try to publish the receipt; None: the next run."""
    reason: str = ""
    """The reason why it was skipped."""


class Verifier(Protocol):
    """A verifier of messages, such as `verify.MessageVerifier`."""

    def verify(self, message: Message) -> Verdict:
        """Return whether the message may be delivered, and its signer.

        Raises:
            AuthError, NetworkError, RegistryError, LocalIOError: there is no verdict now.
        """
        ...


MAX_FAILURES = 9
"""Failures of the registry or the network that end a round, since each may take minutes."""

_HELD_ERRORS: dict[str, type[DockerCommsError]] = {
    HELD_UNSIGNED: Unsigned,
    HELD_UNKNOWN: UnknownSender,
    HELD_SIGNATURE: VerificationError,
    HELD_CONFLICT: VerificationError,
    HELD_ANSWER: BadAnswer,
    HELD_INTEGRITY: IntegrityError,
    HELD_TAG: IntegrityError,
    HELD_MISSING: NotFoundError,
    HELD_WITHDRAWN: Withdrawn,
    HELD_PLACE: PlaceError,
    HELD_INTERNAL: InternalError,
    HELD_CLOCK: ClocksDiffer,
}
"""The error class for each reason to hold a message; others are a `ProtocolError`."""

_HOLDING: dict[type[DockerCommsError], tuple[str, bool]] = {
    BadAnswer: (HELD_ANSWER, True),
    IntegrityError: (HELD_INTEGRITY, True),
    NotFoundError: (HELD_MISSING, True),
    LimitError: (HELD_LIMIT, False),
    PlaceError: (HELD_PLACE, False),
}
"""The reason to hold a message for each error of a delivery, and whether it may end."""

FRESH_SECONDS = 60.0
"""The age at which a verdict is renewed: the caller may pause between two results."""
_THREADS = 2  # one verifies, one writes indexes


def examine(inbox: Inbox, entry: Entry, verifier: Verifier | None) -> tuple[Message, Verdict]:
    """Fetch and verify the message of an entry; return it with the verdict of the policy.

    Raises:
        ProtocolError, IntegrityError, NotFoundError: as `Inbox.fetch`, which records the error.
        AuthError, NetworkError, RegistryError, LocalIOError: there is no verdict now.
    """
    message = inbox.fetch(entry)
    return message, UNCHECKED if verifier is None else verifier.verify(message)


def receive(
    inbox: Inbox,
    entry: Entry,
    *,
    registry: Registry,
    repository: str,
    state: State,
    clock: Clock,
    options: ReceiveOptions | None = None,
    progress: Progress | None = None,
    verifier: Verifier | None = None,
    signer: Signer | None = None,
    on_notice: NoticeHook | None = None,
) -> Received:
    """Receive one message. Its errors are in the result, not raised.

    Args:
        inbox: The inbox that listed it.
        entry: The message.
        registry: The store.
        repository: The repository's name in it.
        state: The state of this machine.
        clock: The clock of this machine.
        options: The options of receiving.
        progress: Called as chunks arrive.
        verifier: Verifies the signature, which stays unchecked without it.
        signer: Signs the receipt; without a signer it is a claim.
        on_notice: Called with notices for the user.
    """
    box = Box(inbox, verifier)
    round_ = Round(
        boxes=[box],
        registry=registry,
        repository=repository,
        state=state,
        clock=clock,
        options=options or ReceiveOptions(),
        progress=progress,
        signer=signer,
        on_notice=on_notice,
    )
    return round_.receive_entry(box, entry)


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
    """One round over the inboxes of one recipient. Not safe for several threads.

    It verifies the next message while the receipt of the last one is published, and adds to the
    fallback index meanwhile (best effort):

        deliver 1 -> receipt 1  -> deliver 2 -> receipt 2 -> ...
                     verify 2      index 1      verify 3

    A message is verified only after the delivery of the one before it, to detect a sender who uses
    an id twice.
    """

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
    _pool: ThreadPoolExecutor = field(init=False)
    _ahead: tuple[Entry, Future[tuple[Message, Verdict]], float] | None = field(
        default=None, init=False
    )
    """The verification of the next message, with the time at which it began."""
    _indexing: Future[None] | None = field(default=None, init=False)
    """The last write of an index."""

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
        with workers(_THREADS) as self._pool:  # it starts a thread when it gets a task
            try:
                yield from self._receive_all(ids, since, max)
            except (KeyboardInterrupt, GeneratorExit):
                tasks: list[Future[Any] | None] = [self._ahead and self._ahead[1], self._indexing]
                wait([task for task in tasks if task is not None], timeout=GRACE_SECONDS)
                raise
        if self._indexing is not None:
            self._indexing.result()

    def _receive_all(
        self, ids: Sequence[str], since: datetime | None, limit: int | None
    ) -> Iterator[Received]:
        self._ahead = self._indexing = None
        delivered, failures = 0, Failures()
        insist = bool(ids) or self.options.again
        for found, following in pairwise(chain(self._wanted(ids, since), [None])):
            if isinstance(found, Received):
                yield found
            if not isinstance(found, tuple):
                continue
            box, entry = found
            after = following if isinstance(following, tuple) else None
            if delivered + 1 == limit or (after and not self._is_due(*after, insist=insist)):
                after = None
            result = self._receive_one(box, entry, after, insist=insist)
            if result is None:
                continue
            yield result
            delivered += result.status == "received"
            if result.status == "failed" or result.reason == WITHDRAWN:
                box.inbox.mark_reported([entry])
            if delivered == limit:
                return
            if self._is_hopeless(failures, box, result.error):
                if following is not None:
                    text = "the others were not tried, the next run tries them"
                    notice = f"{box.inbox.repo}: {text}: {result.error}"
                    self.publisher(box.inbox).notify("not-tried", notice)
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
            with suppress(NotFoundError):
                self.registry.resolve_tag(self.repository, bell_tag(recipient_tag(box.inbox.me)))
        except DockerCommsError:
            return False
        return True

    def _reconsider(self, box: Box) -> None:
        """Make held messages new if the options of this round end the reason.

        A message that the policy rejects stays refused.
        """
        fallen = set() if box.verifier is not None else set(POLICY_KINDS)
        if not self.options.flat:
            fallen.add(HELD_PLACE)  # a folder of its own has room for every name
        inbox = box.inbox
        self.state.inbox.reconsider(inbox.me, inbox.repo, fallen, states=["held"])

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
        yield from (_failed(entry, error) for entry, error in look.waiting)
        yield from look.left

    def _receive_one(
        self, box: Box, entry: Entry, following: tuple[Box, Entry] | None, *, insist: bool
    ) -> Received | None:
        """Receive or report one message; None if the user knows the result already."""
        if not self._is_due(box, entry, insist=insist):
            known = entry.reported and not insist
            if entry.state == "refused":
                return None if known else _held_back(entry)
            return self._told(_held_back(entry), known=known)
        result = self.receive_entry(box, entry, following)
        known = result.status == "failed" and not insist and self._is_reported(entry)
        if isinstance(result.error, Withdrawn) and not insist:
            result = replace(result, status="skipped", error=None, reason=WITHDRAWN)
        return self._told(result, known=known)

    def receive_entry(
        self, box: Box, entry: Entry, following: tuple[Box, Entry] | None = None
    ) -> Received:
        """Receive one message. Its errors are in the result, not raised.

        After its delivery, begin to verify `following`.
        """
        inbox, leftovers = box.inbox, leftovers_of(self.state, self.clock)
        try:
            with guarded(entry.key):
                message, verdict = self._examined(box, entry)
                accepted = _accepted(inbox, message, verdict)
                delivery = DeliveryRun(
                    message=message,
                    me=inbox.me,
                    publisher=self.publisher(inbox),
                    options=self.options,
                    leftovers=leftovers,
                    signer=accepted.signer,
                    sign_receipt=self.signer is not None,
                    progress=self.progress,
                )
                with leftovers.claim(delivery.key) as ours:
                    files = delivery.settle() if ours else None
                    if files is None:
                        skip = _reason_to_skip(delivery, ours=ours)
                        if skip:
                            return _skipped(message, accepted, skip)
                        with _judged(inbox, message):
                            _check_size(message, self.options.max_total_bytes, accepted)
                            files = delivery.deliver()
                return self._acknowledged(delivery, accepted, files, following)
        except InternalError as error:
            inbox.hold_defect(entry, error)
            return _failed(entry, error)
        except DockerCommsError as error:
            return _failed(entry, error)

    def _examined(self, box: Box, entry: Entry) -> tuple[Message, Verdict]:
        """Return the message of `entry` and its verdict, which may have been begun before."""
        begun, self._ahead = self._ahead, None
        if begun is not None:
            key, task, at = begun
            task.exception()  # wait for its end, even if the result is not used
            if key == entry and time.monotonic() - at <= FRESH_SECONDS:
                return task.result()
        return examine(box.inbox, entry, box.verifier)

    def _acknowledged(
        self,
        delivery: DeliveryRun,
        accepted: Accepted,
        files: tuple[Path, ...],
        following: tuple[Box, Entry] | None,
    ) -> Received:
        """Publish the receipt of a delivery. If that fails, the message still counts as received.

        Verify the next message meanwhile: its sender's earlier ids are in the state now.
        """
        receipt, error, next_try = None, None, None
        message, receipts = delivery.message, self.state.receipts
        if self.options.receipt and not self.options.handover:
            row = receipts.last(delivery.publisher.repo, delivery.me, message.digest)
            if following is not None:
                box, entry = following
                task = self._pool.submit(examine, box.inbox, entry, box.verifier)
                self._ahead = entry, task, time.monotonic()
            try:
                if row is not None:
                    receipt = publish_receipt(
                        delivery.publisher, row, signer=self.signer, later=self._later
                    )
            except DockerCommsError as failure:
                error = failure
                next_try = None if row is None else receipts.next_try(row.number)
        return replace(
            _skipped(message, accepted, ""),
            status="received",
            files=files,
            receipt=receipt,
            error=error,
            receipt_next_try=next_try,
        )

    def _later(self, job: Callable[[], None]) -> None:
        """Run a job beside the next message, or now if there is no next one; one at a time."""
        if self._indexing is not None:
            self._indexing.result()
            self._indexing = None
        if self._ahead is None:
            job()
        else:
            self._indexing = self._pool.submit(job)

    def _told(self, result: Received, *, known: bool) -> Received | None:
        """Return `result`; if the user knows it, add it to `held_before` and return None.

        A withdrawn message does not wait for the user.
        """
        if not known:
            return result
        if not isinstance(result.error, Withdrawn) and result.reason != WITHDRAWN:
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


def leftovers_of(state: State, clock: Clock) -> Leftovers:
    """Return the notes of the files that deliveries create."""
    return Leftovers(
        state.path.parent / "receives", lambda key: state.pulls.path(key, now=clock.now())
    )


def _accepted(inbox: Inbox, message: Message, verdict: Verdict) -> Accepted:
    """Return the verdict on an accepted message; record and raise that on a withheld one."""
    if isinstance(verdict, Withheld):
        set_withheld(inbox, message, verdict)
        raise verdict.error
    return verdict


def _reason_to_skip(delivery: DeliveryRun, *, ours: bool) -> str:
    """Return the reason why a sound message is not delivered now, else ""."""
    if not ours:
        return f"{delivery.leftovers.holder(delivery.key)} is receiving it"
    if delivery.options.again:
        return ""
    if delivery.publisher.state.inbox.delivery(delivery.me, delivery.message.digest) is not None:
        return "it was delivered before"
    return "it has expired" if _has_expired(delivery) else ""


def _has_expired(delivery: DeliveryRun) -> bool:
    """Return whether the message has expired by every clock that decides."""
    expires = delivery.message.header.expires
    return expires is not None and delivery.clocks().agree(lambda now: now >= expires) is True


def _check_size(message: Message, limit: int | None, accepted: Accepted) -> None:
    """Refuse a message larger than the limit, which is lower for unproven senders."""
    size = message.header.total_bytes
    if is_too_large(size, limit, proven=accepted.signer is not None):
        most = MAX_UNTRUSTED_TOTAL_BYTES if limit is None else limit
        raise LimitError(f"message {message.header.id}: {size} bytes; at most {most}")


def is_too_large(size: int, limit: int | None, *, proven: bool) -> bool:
    """Return whether a message is too large. Without `limit` only unproven senders have one."""
    if limit is None:
        return not proven and size > MAX_UNTRUSTED_TOTAL_BYTES
    return size > limit


@contextmanager
def _judged(inbox: Inbox, message: Message) -> Iterator[None]:
    """Record an error of a message in its row, then raise it again.

    Verified bytes that break a rule are refused for good. Errors that a bad line can cause hold
    the message. Errors of the network or the disk do not change the row.
    """
    try:
        yield
    except DockerCommsError as error:
        digest = message.digest
        for kind, (name, curable) in _HOLDING.items():
            if isinstance(error, kind):
                inbox.hold(digest, name, str(error), curable=curable)
                break
        else:
            if isinstance(error, ProtocolError):
                inbox.refuse(digest, REFUSED_MALFORMED, str(error))
        raise


def _skipped(message: Message, accepted: Accepted, reason: str) -> Received:
    return Received(
        id=message.header.id,
        digest=message.digest,
        status="skipped",
        recipient=message.header.recipient,
        sender=message.header.sender,
        signer=accepted.signer,
        signature_status=accepted.status,
        bytes=message.header.total_bytes,
        reason=reason,
    )


def _failed(entry: Entry, error: DockerCommsError) -> Received:
    header = entry.header
    return Received(
        id="" if header is None else header.id,
        digest=entry.digest,
        status="failed",
        recipient=entry.me,
        sender="" if header is None else header.sender,
        bytes=0 if header is None else header.total_bytes,
        error=error,
    )


def _held_back(entry: Entry) -> Received:
    """Return the result for a refused or held message that is not tried."""
    kind = _HELD_ERRORS.get(entry.reason_kind, ProtocolError)
    return _failed(entry, kind(f"{entry.digest or entry.key}: {entry.reason}"))


def _turn(entry: Entry) -> int:
    """Return the sort key of an entry: new, then new after a failure, then others."""
    if entry.state not in ("new", "delivering"):
        return 2
    return int(entry.reported or entry.header is None)

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

Example:
    >>> from dockercomms.messages.receive import ReceiveOptions
    >>> ReceiveOptions().flat
    False
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

from dockercomms.errors import (
    BadAnswer,
    DockerCommsError,
    IntegrityError,
    InternalError,
    LimitError,
    NotFoundError,
    NoticeHook,
    PlaceError,
    ProtocolError,
    guarded,
)
from dockercomms.inbox.entries import Entry
from dockercomms.inbox.inbox import Inbox
from dockercomms.inbox.read import (
    HELD_ANSWER,
    HELD_INTEGRITY,
    HELD_LIMIT,
    HELD_MISSING,
    REFUSED_MALFORMED,
)
from dockercomms.messages.deliver import DeliveryRun, ReceiveOptions
from dockercomms.messages.place import Leftovers
from dockercomms.messages.publish import Publisher
from dockercomms.messages.receipts import publish_receipt
from dockercomms.messages.verify import UNCHECKED, Accepted, Verdict, Withheld, set_withheld
from dockercomms.oci.interface import Registry
from dockercomms.oci.model import Digest
from dockercomms.platforms.clock import Clock
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.header import MAX_UNTRUSTED_TOTAL_BYTES
from dockercomms.protocol.manifest import Message
from dockercomms.state import State
from dockercomms.transport.journal import Progress
from dockercomms.trust.owner import SignatureStatus
from dockercomms.trust.signing import Signer

__all__ = ["ReceiveOptions", "Received", "Verifier", "leftovers_of", "receive"]

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


@dataclass(frozen=True, slots=True)
class Examined:
    """A message with the verdict of the policy."""

    message: Message
    verdict: Verdict


class Beside(Protocol):
    """A helper that works beside the delivery of a message, such as `rounds.Overlap`."""

    def result(self, key: Entry, work: Callable[[], Examined], /) -> Examined:
        """Return the result of `work`, which may have been computed for that entry before."""
        ...

    def delivered(self) -> None:
        """Take notice that a message is delivered, before its receipt is published."""
        ...

    def later(self, job: Callable[[], None], /) -> None:
        """Run a job that no result depends on, now or in another thread."""
        ...


def examine(inbox: Inbox, entry: Entry, verifier: Verifier | None) -> Examined:
    """Fetch and verify the message of an entry.

    Raises:
        ProtocolError, IntegrityError, NotFoundError: as `Inbox.fetch`, which records the error.
        AuthError, NetworkError, RegistryError, LocalIOError: there is no verdict now.
    """
    message = inbox.fetch(entry)
    return Examined(message, UNCHECKED if verifier is None else verifier.verify(message))


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
    beside: Beside | None = None,
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
        beside: Works beside the delivery.
    """
    options = options or ReceiveOptions()
    publisher = Publisher(
        registry=registry,
        repository=repository,
        repo=inbox.repo,
        state=state,
        clock=clock,
        on_notice=on_notice,
        index=options.referrers_index,
    )
    leftovers = leftovers_of(state, clock)
    try:
        with guarded(entry.key):
            work = partial(examine, inbox, entry, verifier)
            examined = work() if beside is None else beside.result(entry, work)
            message, accepted = examined.message, _accepted(inbox, examined)
            delivery = DeliveryRun(
                message=message,
                me=inbox.me,
                publisher=publisher,
                options=options,
                leftovers=leftovers,
                signer=accepted.signer,
                sign_receipt=signer is not None,
                progress=progress,
            )
            with leftovers.claim(delivery.key) as ours:
                files = delivery.settle() if ours else None
                if files is None:
                    skip = _reason_to_skip(delivery, ours=ours)
                    if skip:
                        return _result(message, "skipped", accepted, reason=skip)
                    with _judged(inbox, message):
                        _check_size(message, options.max_total_bytes, accepted)
                        files = delivery.deliver()
            return _acknowledged(delivery, accepted, files, signer, beside)
    except InternalError as error:
        inbox.hold_defect(entry, error)
        return failed(entry, error)
    except DockerCommsError as error:
        return failed(entry, error)


def leftovers_of(state: State, clock: Clock) -> Leftovers:
    """Return the notes of the files that deliveries create."""
    return Leftovers(
        state.path.parent / "receives", lambda key: state.pulls.path(key, now=clock.now())
    )


def _accepted(inbox: Inbox, examined: Examined) -> Accepted:
    """Return the verdict on an accepted message; record and raise that on a withheld one."""
    verdict = examined.verdict
    if isinstance(verdict, Withheld):
        set_withheld(inbox, examined.message, verdict)
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
    except BadAnswer as error:
        inbox.hold(message.digest, HELD_ANSWER, str(error))
        raise
    except IntegrityError as error:
        inbox.hold(message.digest, HELD_INTEGRITY, str(error))
        raise
    except ProtocolError as error:
        inbox.refuse(message.digest, REFUSED_MALFORMED, str(error))
        raise
    except NotFoundError as error:
        inbox.hold(message.digest, HELD_MISSING, str(error))
        raise
    except LimitError as error:
        inbox.hold(message.digest, HELD_LIMIT, str(error), curable=False)
        raise
    except PlaceError as error:
        inbox.hold(message.digest, HELD_PLACE, str(error), curable=False)
        raise


def _acknowledged(
    delivery: DeliveryRun,
    accepted: Accepted,
    files: tuple[Path, ...],
    signer: Signer | None,
    beside: Beside | None,
) -> Received:
    """Publish the receipt of a delivery. If that fails, the message still counts as received."""
    receipt, error, next_try = None, None, None
    publisher, message = delivery.publisher, delivery.message
    if delivery.options.receipt and not delivery.options.handover:
        row = publisher.state.receipts.last(publisher.repo, delivery.me, message.digest)
        if beside is not None:
            beside.delivered()
        later = None if beside is None else beside.later
        try:
            if row is not None:
                receipt = publish_receipt(publisher, row, signer=signer, later=later)
        except DockerCommsError as failure:
            error = failure
            next_try = None if row is None else publisher.state.receipts.next_try(row.number)
    result = _result(message, "received", accepted, files=files, receipt=receipt, error=error)
    return replace(result, receipt_next_try=next_try)


def _result(
    message: Message,
    status: Literal["received", "skipped"],
    accepted: Accepted,
    *,
    files: tuple[Path, ...] = (),
    receipt: Digest | None = None,
    error: DockerCommsError | None = None,
    reason: str = "",
) -> Received:
    return Received(
        id=message.header.id,
        digest=message.digest,
        status=status,
        recipient=message.header.recipient,
        sender=message.header.sender,
        signer=accepted.signer,
        signature_status=accepted.status,
        files=files,
        bytes=message.header.total_bytes,
        receipt=receipt,
        error=error,
        reason=reason,
    )


def failed(entry: Entry, error: DockerCommsError) -> Received:
    """Return the result of a message that failed."""
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

"""Receiving: nothing is written to disk before everything that can be checked was checked.

1. the manifest is fetched by digest, hashed, parsed, and examined (`Inbox.fetch`)
2. its bundles and the policy say who sent it, and whether they may write to us (`verifying`)
3. a lock makes this delivery ours alone; one that an earlier run had nearly finished is settled
4. the chunks go into a temporary beside the target: digest, size and bounds of each are checked,
   then the payload's digest; a folder is unpacked member by member beside its final place
5. all of it is made durable, and the final path is written down
6. the temporary gets its final name, at which nothing was
7. the message counts as delivered, and its receipt is stored, in one transaction
8. the receipt is published

Steps 4 to 7 are `delivering`. A crash before step 6 leaves a temporary that the next run removes;
one after it is settled by comparing what is at the final path. Source: SPEC.md section 8.

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
"""It does not fit into the folder that it was to go to; received elsewhere it may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """What became of one message."""

    id: str
    """The message's id; "" where its manifest could not be read."""
    digest: Digest | None
    """None where not even that is known."""
    status: Literal["received", "skipped", "failed"]
    recipient: str = ""
    """Which of the receiver's names it is for."""
    sender: str = ""
    """As the message claims."""
    signer: str | None = None
    """The verified name of its sender; None: who sent it is a claim."""
    signature_status: SignatureStatus = "unchecked"
    files: tuple[Path, ...] = ()
    """Absolute paths of the files that it became; none on a stream."""
    bytes: int = 0
    receipt: Digest | None = None
    error: DockerCommsError | None = None
    """Why it failed; of a message that was received, why its receipt has to wait."""
    receipt_next_try: datetime | None = None
    """When a receipt that has to wait is tried next; None: by the next run."""
    reason: str = ""
    """Why it was skipped."""


class Verifier(Protocol):
    """Says who signed a message; `verifying.MessageVerifier` is one."""

    def verify(self, message: Message) -> Verdict:
        """Return whether the message may be delivered, and who signed it.

        Raises:
            AuthError, NetworkError, RegistryError, LocalIOError: nothing can be said now.
        """
        ...


@dataclass(frozen=True, slots=True)
class Examined:
    """A message, and whether the policy lets it pass."""

    message: Message
    verdict: Verdict


class Beside(Protocol):
    """What goes on while a message is received; `overlap.Overlap` is one."""

    def result(self, key: Entry, work: Callable[[], Examined], /) -> Examined:
        """Return what `work` does, which may have been done already for that entry."""
        ...

    def delivered(self) -> None:
        """Called when a message is delivered, and its receipt to be published."""
        ...

    def later(self, job: Callable[[], None], /) -> None:
        """Do what nothing waits for, now or in another thread."""
        ...


def examine(inbox: Inbox, entry: Entry, verifier: Verifier | None) -> Examined:
    """Return the message of an entry, and who signed it.

    Raises:
        ProtocolError, IntegrityError, NotFoundError: as `Inbox.fetch`, which notes it.
        AuthError, NetworkError, RegistryError, LocalIOError: nothing can be said now.
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
    """Receive one message; what stands against it is in the result, not raised.

    Args:
        inbox: Where it was found.
        entry: The message.
        registry: The store.
        repository: The repository's name in it.
        state: What is remembered between runs.
        clock: Ours.
        options: Where to and how.
        progress: Called as chunks arrive.
        verifier: Says who signed it; None: nobody asks.
        signer: Signs the receipt; None: it is a claim.
        on_notice: Called with what the user may want to know.
        beside: What goes on meanwhile.
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
        return _failed(entry, error)
    except DockerCommsError as error:
        return _failed(entry, error)


def leftovers_of(state: State, clock: Clock) -> Leftovers:
    """Return where deliveries write down what they make on disk."""
    return Leftovers(
        state.path.parent / "receives", lambda key: state.pulls.path(key, now=clock.now())
    )


def _accepted(inbox: Inbox, examined: Examined) -> Accepted:
    """Return why the policy lets a message pass; one that it does not is noted, and raised."""
    verdict = examined.verdict
    if isinstance(verdict, Withheld):
        set_withheld(inbox, examined.message, verdict)
        raise verdict.error
    return verdict


def _reason_to_skip(delivery: DeliveryRun, *, ours: bool) -> str:
    """Return why the message is not delivered now though nothing is wrong with it, else ""."""
    if not ours:
        return f"{delivery.leftovers.holder(delivery.key)} is receiving it"
    if delivery.options.again:
        return ""
    if delivery.publisher.state.inbox.delivery(delivery.me, delivery.message.digest) is not None:
        return "it was delivered before"
    return "it has expired" if _has_expired(delivery) else ""


def _has_expired(delivery: DeliveryRun) -> bool:
    """Return whether the message has expired by every clock that counts."""
    expires = delivery.message.header.expires
    return expires is not None and delivery.clocks().agree(lambda now: now >= expires) is True


def _check_size(message: Message, limit: int | None, accepted: Accepted) -> None:
    """Refuse what is larger than its receiver takes: from strangers less than fits the disk."""
    size = message.header.total_bytes
    if is_too_large(size, limit, proven=accepted.signer is not None):
        most = MAX_UNTRUSTED_TOTAL_BYTES if limit is None else limit
        raise LimitError(f"message {message.header.id}: {size} bytes; at most {most}")


def is_too_large(size: int, limit: int | None, *, proven: bool) -> bool:
    """Return whether a message of `size` bytes is held; None limits only unproven senders."""
    if limit is None:
        return not proven and size > MAX_UNTRUSTED_TOTAL_BYTES
    return size > limit


@contextmanager
def _judged(inbox: Inbox, message: Message) -> Iterator[None]:
    """Turn what is wrong with a message into its row's state, then let the error pass.

    Bytes that are what the manifest names and break a rule are refused for good; whatever a fault
    on the way could explain is held; an error of the network or the disk says nothing about it.
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
    """Publish the receipt; that it has to wait does not make the delivery undone."""
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

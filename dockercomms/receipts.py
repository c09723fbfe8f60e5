"""Receipts: written once for an outcome, whatever crashes in between.

A receipt's bytes are in the state before the first PUT and are sent again unchanged; its tags are
drawn when it is published. `receipts_listing` finds the receipts of others.

Source: SPEC.md section 10.

Example:
    >>> from datetime import UTC, datetime
    >>> from dockercomms.protocol import receipt_id
    >>> digest = "sha256:" + 64 * "0"
    >>> receipt_id(digest, "bob", "accepted") == receipt_id(digest, "bob", "rejected")
    False
"""

from __future__ import annotations

from datetime import datetime, timedelta

from dockercomms.errors import AuthError, DockerCommsError, RegistryError, UsageError
from dockercomms.manifest import ManifestBuilder, Message, parse_message, parse_receipt
from dockercomms.oci.interface import Registry, read_all
from dockercomms.oci.model import MAX_MANIFEST_BYTES, Digest
from dockercomms.platforms import Clock
from dockercomms.protocol import (
    CREATED_AT,
    MAX_TEXT_BYTES,
    MESSAGE_ID,
    PROTOCOL_VERSION,
    RECEIPT_FOR,
    RECEIPT_REASON,
    RECEIPT_STATUS,
    RECEIPT_VERIFIED,
    RECIPIENT,
    SENDER,
    TTL_SECONDS,
    VERSION,
    ReceiptStatus,
    format_time,
    receipt_id,
    receipt_tag,
    receipts_tag,
    recipient_tag,
)
from dockercomms.publishing import NoticeHook, Publisher, ReferrersIndex, lacks_blobs
from dockercomms.receipts_listing import ReceiptEntry, list_receipts
from dockercomms.state import State
from dockercomms.state.receipt_rows import ReceiptRow

__all__ = [
    "ReceiptEntry",
    "acknowledge",
    "build_receipt",
    "list_receipts",
    "publish_pending",
    "publish_receipt",
    "store_receipt",
    "write_receipt",
]

DENIED_WAIT = timedelta(hours=1)
"""How long to wait after a registry denied a receipt; doubles each time: many may only read."""

MAX_DENIED_WAIT = timedelta(days=1)


def build_receipt(
    message: Message,
    *,
    status: ReceiptStatus,
    reason: str = "",
    verified: bool = False,
    at: datetime,
) -> tuple[bytes, Digest]:
    """Return the bytes of a receipt for `message`, read back as the sender will, and their digest.

    Args:
        message: The message.
        status: Its fate.
        reason: Why; "" leaves it out.
        verified: Whether its signature was verified.
        at: When it was delivered, or acknowledged.

    Raises:
        ProtocolError: an annotation is longer than may be sent.
    """
    header = message.header
    annotations = {
        VERSION: PROTOCOL_VERSION,
        SENDER: header.sender,
        RECIPIENT: header.recipient,
        CREATED_AT: format_time(at),
        TTL_SECONDS: str(header.ttl_seconds),
        MESSAGE_ID: header.id,
        RECEIPT_FOR: message.digest,
        RECEIPT_STATUS: status,
        RECEIPT_VERIFIED: "true" if verified else "false",
    }
    if reason:
        annotations[RECEIPT_REASON] = reason
    data, _ = ManifestBuilder.receipt(annotations, subject=message.descriptor).build()
    return data, parse_receipt(data).descriptor.digest


def store_receipt(
    state: State,
    repo: str,
    message: Message,
    *,
    status: ReceiptStatus = "accepted",
    reason: str = "",
    verified: bool = False,
    at: datetime,
) -> ReceiptRow:
    """Keep a receipt that is to be published, or return the one that said the same last.

    A reason of its own is something new to say; none is not.
    """
    recipient = message.header.recipient
    last = state.receipts.last(repo, recipient, message.digest)
    if last is not None and last.status == status and reason in ("", last.reason):
        return last
    data, digest = build_receipt(message, status=status, reason=reason, verified=verified, at=at)
    return state.receipts.store(
        ReceiptRow(
            repo=repo,
            me=recipient,
            message=message.digest,
            sender_tag=recipient_tag(message.header.sender),
            rid=receipt_id(message.digest, recipient, status),
            status=status,
            reason=reason,
            manifest=data,
            digest=digest,
        )
    )


def publish_receipt(
    publisher: Publisher, row: ReceiptRow, *, index: ReferrersIndex = "auto"
) -> Digest:
    """Put a stored receipt under its two tags, then into the message's index; return its digest.

    Raises:
        RegistryError, NetworkError: it stays stored, to be published by a later run.
    """
    if row.published is not None:
        return row.digest
    try:
        try:
            _put(publisher, row)
        except RegistryError as error:
            if not lacks_blobs(error):
                raise
            publisher.state.sends.forget_store(publisher.repo)
            publisher.ensure_config(ask=True)
            _put(publisher, row)
    except DockerCommsError as error:
        publisher.state.receipts.record_failed(
            row.number, next_try=_next_try(error, row.tries, publisher.clock.now())
        )
        raise
    publisher.state.receipts.record_published(row.number, now=publisher.clock.now())
    publisher.add_to_index(row.message, parse_receipt(row.manifest).descriptor, index)
    return row.digest


def _put(publisher: Publisher, row: ReceiptRow) -> None:
    publisher.ensure_config()
    drawn = publisher.draw_time(row.sender_tag, "receipts")
    publisher.put(row.manifest, tag=receipt_tag(row.message, drawn, row.rid))
    publisher.put(row.manifest, tag=receipts_tag(row.sender_tag, drawn, row.rid))


def _next_try(error: DockerCommsError, tries: int, now: datetime) -> datetime | None:
    """Return when to try again: the next run, but not soon where writing is denied."""
    if not isinstance(error, AuthError):
        return None
    wait: timedelta = DENIED_WAIT * 2 ** min(tries, 8)
    return now + min(wait, MAX_DENIED_WAIT)


def publish_pending(publisher: Publisher, me: str) -> tuple[DockerCommsError, ...]:
    """Publish the receipts that earlier runs stored and could not publish.

    Returns the errors; after one about credentials or the network no further one is tried.
    """
    errors: list[DockerCommsError] = []
    for row in publisher.state.receipts.pending(publisher.repo, me, now=publisher.clock.now()):
        try:
            publish_receipt(publisher, row)
        except RegistryError as error:
            errors.append(error)
            if isinstance(error, AuthError):
                break
        except DockerCommsError as error:
            errors.append(error)
            break
    return tuple(errors)


def write_receipt(
    registry: Registry,
    repository: str,
    message: Message,
    *,
    repo: str,
    state: State,
    clock: Clock,
    at: datetime | None = None,
    status: ReceiptStatus = "accepted",
    reason: str = "",
    verified: bool = False,
    index: ReferrersIndex = "auto",
    on_notice: NoticeHook | None = None,
) -> Digest:
    """Write a receipt for `message` and return its digest; what was said last is not said twice.

    Args:
        registry: The store.
        repository: The repository's name in it.
        message: The message.
        repo: The repository's full name, under which the state knows it.
        state: What is remembered between runs.
        clock: Ours.
        at: When the message was delivered; None: now.
        status: Its fate.
        reason: Why, at most 1 KiB.
        verified: Whether its signature was verified.
        index: Whether the fallback index is written.
        on_notice: Called with what the user may want to know.

    Raises:
        UsageError: the reason is too long, or not UTF-8.
        RegistryError, NetworkError: it stays stored, to be published by a later run.
    """
    _check_reason(reason)
    publisher = Publisher(
        registry=registry,
        repository=repository,
        repo=repo,
        state=state,
        clock=clock,
        on_notice=on_notice,
    )
    row = store_receipt(
        state,
        repo,
        message,
        status=status,
        reason=reason,
        verified=verified,
        at=clock.now() if at is None else at,
    )
    return publish_receipt(publisher, row, index=index)


def acknowledge(
    registry: Registry,
    repository: str,
    digest: Digest,
    status: ReceiptStatus,
    *,
    repo: str,
    me: str,
    state: State,
    clock: Clock,
    reason: str = "",
    on_notice: NoticeHook | None = None,
) -> Digest:
    """Say to its sender what became of the message `digest`; return the receipt's digest.

    Args:
        registry: The store.
        repository: The repository's name in it.
        digest: The message's manifest.
        status: Its fate; another one than was said last makes a new receipt.
        repo: The repository's full name, under which the state knows it.
        me: The recipient.
        state: What is remembered between runs.
        clock: Ours.
        reason: Why, at most 1 KiB.
        on_notice: Called with what the user may want to know.

    Raises:
        UsageError: the message is for somebody else, or the reason cannot be sent.
        ManifestUnknown: no such message.
        ProtocolError: not a message.
        RegistryError, NetworkError: it stays stored, to be published by a later run.
    """
    data, _ = read_all(registry.get_manifest(repository, digest), MAX_MANIFEST_BYTES)
    message = parse_message(data)
    if message.header.recipient != me:
        raise UsageError(
            f"message {digest}: it is for {message.header.recipient!r:.100}, not for {me!r:.100}"
        )
    return write_receipt(
        registry,
        repository,
        message,
        repo=repo,
        state=state,
        clock=clock,
        status=status,
        reason=reason,
        on_notice=on_notice,
    )


def _check_reason(reason: str) -> None:
    try:
        length = len(reason.encode("utf-8"))
    except UnicodeEncodeError:
        raise UsageError(f"reason {reason!r:.100}: not valid UTF-8") from None
    if length > MAX_TEXT_BYTES:
        raise UsageError(f"reason: {length} bytes; at most {MAX_TEXT_BYTES}")

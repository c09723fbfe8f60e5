"""Receipts: written once for an outcome, whatever crashes in between.

What a receipt says is in the state together with the delivery. It is signed when it is published
first: a service that signs may be slow, and a delivery waits for nobody. From then on its bytes are
kept, and sent again unchanged; its tags are drawn each time. `receipts_listing` finds the receipts
of others.

Source: SPEC.md section 10.

Example:
    >>> from datetime import UTC, datetime
    >>> from dockercomms.protocol.tags import receipt_id
    >>> digest = "sha256:" + 64 * "0"
    >>> receipt_id(digest, "bob", "accepted") == receipt_id(digest, "bob", "rejected")
    False
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

from dockercomms.errors import (
    AuthError,
    DockerCommsError,
    InternalError,
    NoticeHook,
    RegistryError,
    SigningError,
    UsageError,
    guarded,
)
from dockercomms.messages.publish import Publisher, ReferrersIndex, bundle_layer
from dockercomms.messages.receipts_list import ReceiptEntry, list_receipts
from dockercomms.messages.sign import prove_own_receipt
from dockercomms.oci.interface import Registry, read_all
from dockercomms.oci.model import MAX_MANIFEST_BYTES, Digest
from dockercomms.oci.tag_schema import put_or_repair
from dockercomms.platforms.clock import Clock
from dockercomms.protocol.fields import format_time
from dockercomms.protocol.header import (
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
    ManifestForm,
)
from dockercomms.protocol.manifest import ManifestBuilder, Message, parse_message, parse_receipt
from dockercomms.protocol.tags import (
    ReceiptStatus,
    receipt_id,
    receipt_tag,
    receipts_tag,
    recipient_tag,
)
from dockercomms.state import State
from dockercomms.state.receipts import ReceiptRow
from dockercomms.trust.signing import Signer

__all__ = [
    "ReceiptEntry",
    "acknowledge",
    "build_receipt",
    "list_receipts",
    "publish_pending",
    "publish_receipt",
    "sign_receipt",
    "store_receipt",
    "write_receipt",
]

DENIED_WAIT = timedelta(hours=1)
"""How long to wait after a registry denied a receipt twice, or nothing could be signed; doubles
each time: many may only read, and a service that is silent costs half a minute. After one denial
the next run tries again, since something on the way may have denied it."""

MAX_DENIED_WAIT = timedelta(days=1)

_WAITED_FOR = (AuthError, SigningError)
"""What is bound to fail again soon."""


def build_receipt(
    message: Message,
    *,
    status: ReceiptStatus,
    reason: str = "",
    verified: bool = False,
    at: datetime,
    form: ManifestForm | None = None,
) -> tuple[bytes, Digest]:
    """Return the bytes of an unsigned receipt for `message`, read back, and their digest.

    Args:
        message: The message.
        status: Its fate.
        reason: Why; "" leaves it out.
        verified: Whether its signature was verified.
        at: When it was delivered, or acknowledged.
        form: Its form; None: that of the message, which its registry took.

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
    builder = ManifestBuilder.receipt(annotations, subject=message.descriptor)
    data, _ = builder.in_form(form or message.form).build()
    return data, parse_receipt(data).descriptor.digest


def sign_receipt(data: bytes, signer: Signer) -> tuple[bytes, Digest, bytes]:
    """Return the signed form of the unsigned receipt in `data`, its digest, and its bundle.

    The bundle is the layer; a small one stands in the manifest as well.

    Raises:
        SigningError: a service that is needed refuses, or does not answer.
        VerificationError: the bundle does not satisfy our own verifier.
    """
    receipt = parse_receipt(data)
    if receipt.subject is None:
        raise AssertionError("internal: a receipt of ours without a subject")
    bundle = signer.sign_receipt(receipt)
    builder = ManifestBuilder.receipt(
        receipt.descriptor.annotations, subject=receipt.subject, layers=(bundle_layer(bundle),)
    )
    signed, descriptor = builder.in_form(receipt.form).build()
    prove_own_receipt(parse_receipt(signed), bundle, signer.signed_by)
    return signed, descriptor.digest, bundle


def store_receipt(
    state: State,
    repo: str,
    message: Message,
    *,
    status: ReceiptStatus = "accepted",
    reason: str = "",
    verified: bool = False,
    at: datetime,
    to_sign: bool = False,
) -> ReceiptRow:
    """Keep a receipt that is to be published, or return the one that said the same last.

    A reason of its own is something new to say; none is not.
    """
    recipient = message.header.recipient
    with state.inbox.batch():  # another process may be about to say the same
        last = state.receipts.last(repo, recipient, message.digest)
        if last is not None and last.status == status and reason in ("", last.reason):
            return last
        data, digest = build_receipt(
            message, status=status, reason=reason, verified=verified, at=at
        )
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
                to_sign=to_sign,
            )
        )


def publish_receipt(
    publisher: Publisher,
    row: ReceiptRow,
    *,
    signer: Signer | None = None,
    later: Callable[[Callable[[], None]], None] | None = None,
) -> Digest:
    """Put a stored receipt under its two tags, then into the message's index; return its digest.

    Args:
        publisher: The repository.
        row: The receipt.
        signer: Signs it, if it is to be signed.
        later: Takes what is left when the receipt is published, which is best effort: the index.
            None: it is done here.

    Raises:
        SigningError: it is to be signed, and cannot be now.
        RegistryError, NetworkError: it cannot be published now. It stays stored, and a later run
            publishes it.
    """
    if row.published is not None:
        return row.digest
    try:
        with guarded(f"receipt for {row.message}"):
            row = _signed(publisher, row, signer)
            if row.published is not None:
                return row.digest
            put_or_repair(partial(_put, publisher, row), partial(_repair, publisher, row))
    except DockerCommsError as error:
        publisher.state.receipts.record_failed(
            row.number,
            next_try=_next_try(error, row.tries, publisher.clock.now()),
            counts=isinstance(error, _WAITED_FOR),
        )
        raise
    publisher.state.receipts.record_published(row.number, now=publisher.clock.now())
    job = partial(_index, publisher, row)
    if later is None:
        job()
    else:
        later(job)
    return row.digest


def _index(publisher: Publisher, row: ReceiptRow) -> None:
    try:
        with guarded(f"index of {row.message}"):
            entry = parse_receipt(row.manifest).descriptor
            publisher.add_to_index(row.message, entry, publisher.index)
    except InternalError as error:
        publisher.notify("not-indexed", f"{publisher.repo}: {error.message}")


def _repair(publisher: Publisher, row: ReceiptRow) -> None:
    """Believe nothing that was known of the store, and make sure of the blobs that are named."""
    publisher.state.sends.forget_store(publisher.repo)
    publisher.ensure_config(parse_receipt(row.manifest).form, ask=True)


def _signed(publisher: Publisher, row: ReceiptRow, signer: Signer | None) -> ReceiptRow:
    """Return the row as it will be published; nobody has seen one that is still to be signed.

    Two processes may sign one at once; whoever writes it down first has signed it.
    """
    if not row.to_sign:
        return row
    final = replace(row, to_sign=False)
    if signer is not None:
        manifest, digest, bundle = sign_receipt(row.manifest, signer)
        final = replace(final, manifest=manifest, digest=digest, bundle=bundle)
    return publisher.state.receipts.record_final(final)


def _put(publisher: Publisher, row: ReceiptRow) -> None:
    form = parse_receipt(row.manifest).form
    publisher.ensure_config(form)
    if row.bundle is not None:
        publisher.push_layer(row.bundle)
    drawn = publisher.draw_time(row.sender_tag, "receipts", form=form)
    publisher.put(row.manifest, tag=receipt_tag(row.message, drawn, row.rid))
    publisher.put(row.manifest, tag=receipts_tag(row.sender_tag, drawn, row.rid))


def _next_try(error: DockerCommsError, tries: int, now: datetime) -> datetime | None:
    """Return when to try again: the next run, but not soon where it is bound to fail again."""
    before = tries - 1 if isinstance(error, AuthError) else tries
    if not isinstance(error, _WAITED_FOR) or before < 0:
        return None
    wait: timedelta = DENIED_WAIT * 2 ** min(before, 8)
    return now + min(wait, MAX_DENIED_WAIT)


def publish_pending(
    publisher: Publisher, me: str, *, signer: Signer | None = None
) -> tuple[DockerCommsError, ...]:
    """Publish the receipts that earlier runs stored and could not publish.

    Without a signer those that are to be signed wait on. Returns the errors; after one about
    credentials or the network no further one is tried.
    """
    errors: list[DockerCommsError] = []
    for row in publisher.state.receipts.pending(publisher.repo, me, now=publisher.clock.now()):
        if row.to_sign and signer is None:
            continue
        try:
            publish_receipt(publisher, row, signer=signer)
        except RegistryError as error:
            errors.append(error)
            if isinstance(error, AuthError):
                break
        except DockerCommsError as error:
            errors.append(error)
            if not isinstance(error, InternalError):
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
    signer: Signer | None = None,
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
        signer: Signs it; None: it is a claim.
        on_notice: Called with what the user may want to know.

    Raises:
        UsageError: the reason is too long, or not UTF-8.
        SigningError: it stays stored, as below.
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
        index=index,
    )
    row = store_receipt(
        state,
        repo,
        message,
        status=status,
        reason=reason,
        verified=verified,
        at=clock.now() if at is None else at,
        to_sign=signer is not None,
    )
    return publish_receipt(publisher, row, signer=signer)


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
    index: ReferrersIndex = "auto",
    signer: Signer | None = None,
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
        index: Whether the fallback index is written.
        signer: Signs the receipt; None: it is a claim.
        on_notice: Called with what the user may want to know.

    Raises:
        UsageError: the message is for somebody else, or the reason cannot be sent.
        ManifestUnknown: no such message.
        ProtocolError: not a message.
        SigningError, RegistryError, NetworkError: it stays stored, to be published by a later run.
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
        verified=_was_verified(state, me, repo, digest),
        index=index,
        signer=signer,
        on_notice=on_notice,
    )


def _was_verified(state: State, me: str, repo: str, digest: Digest) -> bool:
    """Return whether the message's signature satisfied our policy when it was asked about last."""
    judged = state.trust.judgement(me, repo, digest)
    return judged is not None and judged.signer is not None


def _check_reason(reason: str) -> None:
    try:
        length = len(reason.encode("utf-8"))
    except UnicodeEncodeError:
        raise UsageError(f"reason {reason!r:.100}: not valid UTF-8") from None
    if length > MAX_TEXT_BYTES:
        raise UsageError(f"reason: {length} bytes; at most {MAX_TEXT_BYTES}")

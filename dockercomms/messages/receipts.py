"""Receipts: written once for each status of a message, even after a crash.

The delivery stores the receipt in the same transaction. It is signed only when it is first
published, since a signing service may be slow and a delivery must not wait for it. Later tries send
the same bytes under newly drawn tags. `receipts_list` finds the receipts of others.

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
from dockercomms.trust.verifier import prove_own_receipt

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
"""The wait after a registry denied a receipt twice, or the signing failed; it doubles each time.
Many users may only read, and a silent signing service costs half a minute. After one denial the
next run tries again, since a proxy may have denied it."""

MAX_DENIED_WAIT = timedelta(days=1)

_WAITED_FOR = (AuthError, SigningError)
"""Errors that are likely to occur again soon."""


def build_receipt(
    message: Message,
    *,
    status: ReceiptStatus,
    reason: str = "",
    verified: bool = False,
    at: datetime,
    form: ManifestForm | None = None,
) -> tuple[bytes, Digest]:
    """Build an unsigned receipt for `message` and parse it; return its bytes and digest.

    Args:
        message: The message.
        status: "accepted" or "rejected".
        reason: The reason; "" leaves it out.
        verified: The message's signature was verified.
        at: The time of the delivery or the answer.
        form: Its form; by default that of the message, which its registry accepted.

    Raises:
        ProtocolError: an annotation is too long.
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
    """Sign the receipt in `data`; return the signed receipt, its digest and its bundle.

    The bundle is the layer, inline if it is small.

    Raises:
        SigningError: a signing service refuses, or does not answer.
        VerificationError: our own verifier rejects the bundle.
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
    """Store a receipt to be published, unless the last one has the same status and reason.

    A call without a reason accepts any earlier reason. Returns the stored row.
    """
    recipient = message.header.recipient
    with state.inbox.batch():  # another process may be storing the same receipt
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
    """Put a stored receipt under its two tags and into the message's index; return its digest.

    Args:
        publisher: The repository.
        row: The receipt.
        signer: Signs it, if it is to be signed.
        later: Takes the job that remains after publication (the index, best effort), which is
            done at once by default.

    Raises:
        SigningError: it must be signed, but cannot be now.
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
    """Discard the knowledge of the store, and push the config blobs that the receipt names."""
    publisher.state.sends.forget_store(publisher.repo)
    publisher.ensure_config(parse_receipt(row.manifest).form, ask=True)


def _signed(publisher: Publisher, row: ReceiptRow, signer: Signer | None) -> ReceiptRow:
    """Sign a row that is to be signed; return the row to publish.

    Of two processes that sign it at once, the first to record its signature wins.
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
    """Return the time of the next try, None for the next run."""
    before = tries - 1 if isinstance(error, AuthError) else tries
    if not isinstance(error, _WAITED_FOR) or before < 0:
        return None
    wait: timedelta = DENIED_WAIT * 2 ** min(before, 8)
    return now + min(wait, MAX_DENIED_WAIT)


def publish_pending(
    publisher: Publisher, me: str, *, signer: Signer | None = None
) -> tuple[DockerCommsError, ...]:
    """Publish the receipts that earlier runs could not publish; return the errors.

    Without a signer, those to be signed stay stored. An error of credentials or the network ends
    the run of tries.
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
    """Write a receipt for `message`, unless the last one says the same; return its digest.

    Args:
        registry: The store.
        repository: The repository's name in it.
        message: The message.
        repo: The repository's full name, its key in the state.
        state: The state of this machine.
        clock: The clock of this machine.
        at: The time of the delivery; by default now.
        status: "accepted" or "rejected".
        reason: The reason, at most 1 KiB.
        verified: The message's signature was verified.
        index: When to write the fallback index.
        signer: Signs it; without a signer it is a claim.
        on_notice: Called with notices for the user.

    Raises:
        UsageError: the reason is too long, or not UTF-8.
        SigningError, RegistryError, NetworkError: it stays stored, and a later run publishes it.
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
    """Answer the message `digest` with a receipt; return the receipt's digest.

    Args:
        registry: The store.
        repository: The repository's name in it.
        digest: The message's manifest.
        status: "accepted" or "rejected"; a change of it makes a new receipt.
        repo: The repository's full name, its key in the state.
        me: The recipient.
        state: The state of this machine.
        clock: The clock of this machine.
        reason: The reason, at most 1 KiB.
        index: When to write the fallback index.
        signer: Signs the receipt; without a signer it is a claim.
        on_notice: Called with notices for the user.

    Raises:
        UsageError: the message has another recipient, or the reason is not allowed.
        ManifestUnknown: no such message.
        ProtocolError: not a message.
        SigningError, RegistryError, NetworkError: it stays stored, and a later run publishes it.
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
    """Return whether the last check of the message's signature succeeded."""
    judged = state.trust.judgement(me, repo, digest)
    return judged is not None and judged.signer is not None


def _check_reason(reason: str) -> None:
    try:
        length = len(reason.encode("utf-8"))
    except UnicodeEncodeError:
        raise UsageError(f"reason {reason!r:.100}: not valid UTF-8") from None
    if length > MAX_TEXT_BYTES:
        raise UsageError(f"reason: {length} bytes; at most {MAX_TEXT_BYTES}")

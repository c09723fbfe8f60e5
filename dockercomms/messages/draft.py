"""Orders, and the messages that are built from them before they are published.

This module sends no request to a registry, except through `Rehearsal`.

Source: SPEC.md sections 3 and 6.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import field, replace
from datetime import UTC, date, datetime

from dockercomms import __version__
from dockercomms.errors import ProtocolError, UsageError
from dockercomms.messages.publish import FormChoice, ReferrersIndex
from dockercomms.oci.content import VerifyingReader
from dockercomms.oci.interface import BlobSource, ProgressHook, Reader
from dockercomms.oci.model import ANNOTATION_TITLE, READ_BYTES, Descriptor, Digest
from dockercomms.platforms.clock import ClockChoice
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.fields import StreamPosition
from dockercomms.protocol.header import (
    CHUNK_FILE_ENDINGS,
    DEFAULT_TTL_SECONDS,
    ManifestForm,
    MessageHeader,
)
from dockercomms.protocol.manifest import ManifestBuilder, Message, parse_message
from dockercomms.protocol.tags import recipient_tag
from dockercomms.transport.names import wire_filename
from dockercomms.transport.payload import Payload
from dockercomms.transport.push import Compress, Pushed
from dockercomms.trust.signing import SignedBy, Signer


class Rehearsal:
    """A registry for dry runs: it checks and discards every blob, and asks `real` for those it has.

    Args:
        real: The registry that this one stands for.
    """

    def __init__(self, real: Reader) -> None:
        self._real = real

    def resolve_blob(self, repository: str, digest: Digest) -> Descriptor:
        """Return the descriptor of a blob in the real registry."""
        return self._real.resolve_blob(repository, digest)

    def push_blob(
        self,
        repository: str,  # noqa: ARG002 - the blob is discarded
        descriptor: Descriptor,
        source: BlobSource,
        *,
        progress: ProgressHook | None = None,
    ) -> Descriptor:
        """Read the source to its end and verify it, as a registry does."""
        done = 0
        with source() as stream:
            checked = VerifyingReader(stream, descriptor)
            while piece := checked.read(READ_BYTES):
                done += len(piece)
                if progress is not None:
                    progress(done, descriptor.size)
        return descriptor


MAX_TTL_SECONDS = 10**12
"""The most that our parser accepts: beyond any calendar."""

MAX_CONCURRENCY = 64
"""More chunks at once are not faster, and each takes its size in memory."""

MAX_CHUNK_BYTES = 2**30
"""Memory holds a chunk several times. Ten thousand chunks of this size are the largest message."""

MAX_TITLED_LAYERS = 1000
"""A title takes 55 bytes; a manifest of 10,000 layers has no room for it (SPEC.md section 2.5)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SendOptions:
    """Options of sending."""

    title: str | None = None
    """At most 200 characters."""
    text: str | None = None
    """A note beside the payload, at most 1 KiB."""
    audience: str | None = None
    """The whole name of the only repository where receivers accept it; by default any."""
    ttl_seconds: int = DEFAULT_TTL_SECONDS
    compress: Compress = "auto"
    chunk_bytes: int | None = None
    """Payload bytes in a chunk; by default chosen from the payload's size."""
    concurrency: int = 4
    again: bool = False
    """Start over even if an interrupted send of the same source could be continued."""
    dry_run: bool = False
    """Read, split and compress the payload without writing anything."""
    clock_skew_ok: bool = False
    """Send even if our clock and the registry's are more than an hour apart."""
    clock_choice: ClockChoice = "both"
    """The clock of the message's times: ours, unless it is "registry"."""
    referrers_index: ReferrersIndex = "auto"
    manifest_form: FormChoice = "auto"
    thread_id: str | None = None
    """The id shared by the messages of a conversation."""
    in_reply_to: Digest | None = None
    """The message that this one answers."""


@dataclass(frozen=True, slots=True)
class Content:
    """A payload that a repository contains, so the next message need not push it again."""

    key: tuple[object, ...]
    """Equal for the same source, read, split and compressed in the same way."""
    pushed: Pushed
    repo: str
    repository: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A published message, or after a dry run the message that would be published."""

    id: str
    digest: Digest
    repo: str
    tag: str
    recipient: str
    sender: str
    total_bytes: int
    chunks: int
    reused_chunks: int
    """Chunks that the registry had already."""
    expires_at: datetime
    sealed: bool = False
    signed: SignedBy | None = None
    sent_before: bool = False
    """An interrupted earlier run published it."""
    content: Content | None = field(default=None, repr=False, compare=False)
    """The payload in the repository; None for a stream, which cannot be read again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A request to send a payload.

    Raises (in the constructor):
        UsageError: a name is missing, or a number or text is not allowed.
        LimitError: the title or text is too long.
    """

    payload: Payload
    sender: str
    recipient: str
    options: SendOptions
    signer: Signer | None = None

    def __post_init__(self) -> None:
        _check_names(self)
        _check_numbers(self.options)
        # Checks all but the payload's figures, to find errors before the upload.
        try:
            self.header("0" * 36, _SOME_DAY).to_annotations()
        except ProtocolError as error:
            raise UsageError(error.message) from error

    @property
    def rt(self) -> str:
        """The recipient's name in tags."""
        return recipient_tag(self.recipient)

    def header(self, message_id: str, now: datetime) -> MessageHeader:
        """Return the header without the figures of the payload, which are not known yet."""
        short, full = wire_filename(self.payload.filename)
        return MessageHeader(
            id=message_id,
            sender=self.sender,
            recipient=self.recipient,
            created_at=now.replace(microsecond=now.microsecond // 1000 * 1000),
            ttl_seconds=self.options.ttl_seconds,
            filename=short,
            filename_full=full,
            total_bytes=0,
            chunk_bytes=0,
            chunk_count=0,
            compression="zstd",
            content_type=self.payload.content_type,
            files_count=self.payload.files_count,
            title=self.options.title,
            text=self.options.text,
            audience=self.options.audience,
            thread_id=self.options.thread_id,
            in_reply_to=self.options.in_reply_to,
        )

    @property
    def content_key(self) -> tuple[object, ...] | None:
        """The key that messages with the same layers share; None for streams.

        It contains the release, since another one may encode a chunk differently.
        """
        if self.payload.source_id is None:
            return None
        options = self.options
        return (self.payload.source_id, options.compress, options.chunk_bytes, __version__)

    def source_key(self, repo: str) -> str | None:
        """Return the key by which a run finds an interrupted one to continue; None for streams.

        It contains the release, since another one may encode a chunk differently.
        """
        if self.payload.source_id is None:
            return None
        options = self.options
        parts = (
            repo,
            self.payload.source_id,
            self.payload.filename,
            self.sender,
            self.recipient,
            options.title,
            options.text,
            options.audience,
            options.ttl_seconds,
            options.thread_id,
            options.in_reply_to,
            options.compress,
            options.chunk_bytes,
            None if self.signer is None else str(self.signer.signed_by),
            __version__,
        )
        return hashlib.sha256(json.dumps(parts).encode("ascii")).hexdigest()


_SOME_DAY = datetime(2026, 11, 20, tzinfo=UTC)


def _check_names(order: Order) -> None:
    for what, name in (("recipient", order.recipient), ("sender", order.sender)):
        if not name:
            raise UsageError(f"{what}: empty; a name expected")
    for what, text in (
        ("recipient", order.recipient),
        ("sender", order.sender),
        ("title", order.options.title or ""),
        ("text", order.options.text or ""),
        ("audience", order.options.audience or ""),
        ("thread", order.options.thread_id or ""),
    ):
        if not is_unicode(text):
            raise UsageError(f"{what} {text!r:.100}: not valid UTF-8")


def is_unicode(text: str) -> bool:
    """Return whether `text` can be encoded as UTF-8; arguments of other bytes cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _check_numbers(options: SendOptions) -> None:
    for what, value, most in (
        ("ttl: seconds", options.ttl_seconds, MAX_TTL_SECONDS),
        ("chunk size: bytes", options.chunk_bytes, MAX_CHUNK_BYTES),
        ("concurrency", options.concurrency, MAX_CONCURRENCY),
    ):
        if value is not None and not 0 < value <= most:
            raise UsageError(f"{what}: {value} given; 1 to {most} expected")


@dataclass(frozen=True, slots=True)
class Draft:
    """A message that is built but not published."""

    message: Message
    manifest: bytes
    anchor_day: date
    reused_chunks: int

    @property
    def pushed(self) -> Pushed:
        """The result of `push_payload` from which this message was built."""
        header = self.message.header
        if header.payload_digest is None:
            raise AssertionError("internal: a message of ours without its payload digest")
        return Pushed(
            layers=tuple(chunk.descriptor for chunk in self.message.chunks),
            payload_digest=header.payload_digest,
            total_bytes=header.total_bytes,
            chunk_bytes=header.chunk_bytes,
            compression=header.compression,
            reused_chunks=self.reused_chunks,
        )


def build_draft(
    order: Order,
    message_id: str,
    pushed: Pushed,
    *,
    now: datetime,
    day: date,
    sequence: StreamPosition | None = None,
    form: ManifestForm = "artifact",
) -> Draft:
    """Build the manifest and parse it as a receiver does, before it is published.

    Args:
        order: The order.
        message_id: A UUID.
        pushed: The layers of the payload.
        now: The message's time of creation.
        day: The registry's day, whose anchor becomes the message's subject.
        sequence: Its number in the sender's stream, if it is signed.
        form: The form of the manifest, and of that anchor.

    Raises:
        LimitError: the manifest is too large; larger chunks make it smaller.
        ProtocolError: our own parser rejects it.
    """
    header = replace(
        order.header(message_id, now),
        total_bytes=pushed.total_bytes,
        chunk_bytes=pushed.chunk_bytes,
        chunk_count=len(pushed.layers),
        compression=pushed.compression,
        payload_digest=pushed.payload_digest,
        sequence=sequence,
    )
    builder = ManifestBuilder.message(
        header.to_annotations(), _titled(pushed), subject=day_anchor(order.rt, day, form)
    )
    manifest, _ = builder.in_form(form).build()
    message = parse_message(manifest)
    if message.header != header:
        raise AssertionError("internal: a message does not read back as it was built")
    return Draft(message, manifest, day, pushed.reused_chunks)


def _titled(pushed: Pushed) -> Sequence[Descriptor]:
    """Return the layers with file names, which `oras pull` needs to write them.

    Messages with more than `MAX_TITLED_LAYERS` layers get no names (SPEC.md section 3.3).
    """
    if len(pushed.layers) > MAX_TITLED_LAYERS:
        return pushed.layers
    ending = CHUNK_FILE_ENDINGS[pushed.compression]
    titles = (f"chunk_{index}{ending}" for index in range(len(pushed.layers)))
    return [
        replace(layer, annotations={**layer.annotations, ANNOTATION_TITLE: title})
        for layer, title in zip(pushed.layers, titles, strict=True)
    ]


def day_anchor(rt: str, day: date, form: ManifestForm = "artifact") -> Descriptor:
    """Return the descriptor of a day's inbox anchor, in the form of a subject."""
    return ManifestBuilder.inbox_anchor(rt, day, form=form).build()[1].bare()


def sent_of(draft: Draft, *, repo: str, tag: str, signer: Signer | None) -> Sent:
    """Return the result of sending a draft under `tag`."""
    header = draft.message.header
    if header.expires is None:
        raise AssertionError("internal: a message of ours that never expires")
    return Sent(
        id=header.id,
        digest=draft.message.digest,
        repo=repo,
        tag=tag,
        recipient=header.recipient,
        sender=header.sender,
        total_bytes=header.total_bytes,
        chunks=header.chunk_count,
        reused_chunks=draft.reused_chunks,
        expires_at=header.expires,
        signed=None if signer is None else signer.signed_by,
    )

"""The manifests of message, receipt, bundle and inbox anchor: built, and parsed strictly.

`ManifestBuilder` and the parse functions are each other's inverse. A manifest that was received
is never built again to learn its digest: the digest is that of the bytes.

Source: SPEC.md sections 2 to 5 and 10.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from datetime import UTC, date, datetime

from dockercomms.errors import LimitError, ProtocolError
from dockercomms.oci.model import (
    EMPTY_CONFIG,
    MAX_MANIFEST_BYTES,
    MEDIA_TYPE_MANIFEST,
    Descriptor,
    Digest,
    Manifest,
    digest_of,
    parse_digest,
    parse_manifest,
    sorted_annotations,
)
from dockercomms.oci.strict_json import canonical_json, parse_json
from dockercomms.platforms.records import dataclass
from dockercomms.protocol import header as protocol
from dockercomms.protocol.fields import (
    FIRST_TIME,
    LAST_TIME,
    is_readable_version,
    parse_chunk_index,
    parse_count,
    parse_time,
)
from dockercomms.protocol.header import IMAGE_CONFIG, ManifestForm, MessageHeader
from dockercomms.protocol.tags import ReceiptStatus

ANCHOR_VERSION = "1.1"
"""Part of the anchor's digest: another version would split senders into two inboxes."""


@dataclass(frozen=True, slots=True)
class ManifestBuilder:
    """Builds one manifest, byte for byte the same from the same values.

    Example:
        >>> data, descriptor = ManifestBuilder.receipt({"dockercomms.version": "1.1"}).build()
        >>> descriptor.artifact_type
        'application/vnd.dockercomms.receipt.v1'
    """

    artifact_type: str
    subject: Descriptor | None = None
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    layers: tuple[Descriptor, ...] | None = ()
    """None is what the 1.0 program writes as `null`; without `compat` it is the same as none."""
    form: ManifestForm = "artifact"

    @classmethod
    def message(
        cls,
        annotations: Mapping[str, str],
        layers: Sequence[Descriptor] | None,
        *,
        subject: Descriptor | None = None,
    ) -> ManifestBuilder:
        """Return the builder of a message; its subject is the anchor of its day."""
        return cls(
            protocol.ARTIFACT_TYPE_MESSAGE,
            subject,
            dict(annotations),
            None if layers is None else tuple(layers),
        )

    @classmethod
    def receipt(
        cls,
        annotations: Mapping[str, str],
        *,
        subject: Descriptor | None = None,
        layers: Sequence[Descriptor] | None = None,
    ) -> ManifestBuilder:
        """Return the builder of a receipt; its subject is the message, its layer a bundle."""
        return cls(
            protocol.ARTIFACT_TYPE_RECEIPT,
            subject,
            dict(annotations),
            None if layers is None else tuple(layers),
        )

    @classmethod
    def bundle(
        cls, subject: Descriptor, annotations: Mapping[str, str], layer: Descriptor
    ) -> ManifestBuilder:
        """Return the builder of a bundle about `subject`, always called an image manifest."""
        subject = replace(subject, media_type=MEDIA_TYPE_MANIFEST)
        return cls(protocol.ARTIFACT_TYPE_BUNDLE, subject, dict(annotations), (layer,))

    @classmethod
    def inbox_anchor(
        cls,
        recipient_tag: str,
        day: date,
        kind: str | None = None,
        *,
        form: ManifestForm = "artifact",
    ) -> ManifestBuilder:
        """Return the builder of a day's anchor; `kind` is "receipts" for the receipts anchor.

        Every sender builds the same bytes, so that all messages of a day and form have one subject.
        """
        annotations = {
            protocol.INBOX_DATE: f"{day:%Y%m%d}",
            protocol.INBOX_RECIPIENT: recipient_tag,
            protocol.VERSION: ANCHOR_VERSION,
        }
        if kind is not None:
            annotations[protocol.INBOX_KIND] = kind
        return cls(protocol.ARTIFACT_TYPE_INBOX, None, annotations, form=form)

    def in_form(self, form: ManifestForm) -> ManifestBuilder:
        """Return the builder of the same manifest in another form, which has another digest."""
        return replace(self, form=form)

    def build(self, *, compat: bool = False) -> tuple[bytes, Descriptor]:
        """Return the manifest and its descriptor, which has artifact type and annotations too.

        With `compat` these are the bytes of the 1.0 program: no media type, layers as given.

        Raises:
            ProtocolError: a message without layers, or with the empty descriptor as a layer,
                which stops every 1.0 receiver.
            LimitError: the manifest is larger than every registry takes.
        """
        out: dict[str, object] = {"schemaVersion": 2}
        if not compat:
            out["mediaType"] = MEDIA_TYPE_MANIFEST
        annotations = dict(self.annotations)
        if self.form == "image":
            out["config"] = IMAGE_CONFIG.to_json()
            annotations[protocol.ARTIFACT_TYPE] = self.artifact_type
        else:
            out["artifactType"] = self.artifact_type
            out["config"] = EMPTY_CONFIG.to_json()
        out["layers"] = self._layers_json(compat=compat)
        if self.subject is not None:
            out["subject"] = (self.subject if compat else self.subject.bare()).to_json()
        if annotations:
            out["annotations"] = sorted_annotations(annotations)
        data = canonical_json(out)
        if not compat and len(data) > protocol.MAX_SENT_MANIFEST_BYTES:
            raise LimitError(
                f"manifest: {len(data)} bytes; at most {protocol.MAX_SENT_MANIFEST_BYTES}",
                hint="larger chunks make a smaller manifest: --chunk-size",
            )
        return data, _describe(data, self.artifact_type, annotations)

    def _layers_json(self, *, compat: bool) -> list[dict[str, object]] | None:
        if compat:
            return None if self.layers is None else [layer.to_json() for layer in self.layers]
        layers = self.layers or ()
        if self.artifact_type != protocol.ARTIFACT_TYPE_MESSAGE:
            # zot answers 400 to a manifest without layers
            return [layer.to_json() for layer in layers or (EMPTY_CONFIG,)]
        if not layers or any(layer.media_type == EMPTY_CONFIG.media_type for layer in layers):
            raise ProtocolError("message: one layer or more, none of them the empty descriptor")
        return [layer.to_json() for layer in layers]


@dataclass(frozen=True, slots=True)
class ChunkLayer:
    """One chunk of a message."""

    descriptor: Descriptor
    index: int
    chunk_bytes: int | None
    """Its payload bytes, exactly; None in 1.0 messages, which do not say (see `bound`)."""

    def bound(self, header: MessageHeader) -> int:
        """Return the most payload bytes this chunk may hold."""
        if self.chunk_bytes is not None:
            return self.chunk_bytes
        if header.chunk_bytes > 0:
            return min(header.chunk_bytes, header.total_bytes)
        return header.total_bytes


@dataclass(frozen=True, slots=True)
class Message:
    """A message manifest that keeps every rule; its values are still its sender's claims."""

    descriptor: Descriptor
    header: MessageHeader
    chunks: tuple[ChunkLayer, ...]
    """In the order of their indexes, 0..N-1, whatever their order in the manifest."""
    subject: Descriptor | None = None
    form: ManifestForm = "artifact"

    @property
    def digest(self) -> Digest:
        """The digest of the manifest."""
        return self.descriptor.digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """A receipt manifest. What counts is a signed statement about it, never these claims."""

    descriptor: Descriptor
    message: Digest
    message_id: str
    """"" in receipts of 1.0."""
    sender: str
    """Who sent the message, so the one the receipt is for."""
    recipient: str
    status: ReceiptStatus
    verified: bool
    reason: str
    created_at: datetime | None
    subject: Descriptor | None
    layers: tuple[Descriptor, ...] = ()
    """The bundle of a signed receipt; the empty descriptor is left out."""
    form: ManifestForm = "artifact"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A manifest that carries a Sigstore bundle about its subject."""

    descriptor: Descriptor
    subject: Descriptor
    layer: Descriptor
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """What a day's messages, or receipts, have as their subject."""

    descriptor: Descriptor
    recipient_tag: str
    day: date
    kind: str | None = None
    form: ManifestForm = "artifact"


def parse_message(data: bytes) -> Message:
    """Return the message in the bytes of a manifest.

    Raises:
        ProtocolError: any rule of SPEC.md sections 2 to 4 is broken; nothing was fetched yet.
    """
    manifest, form = _parse(data, "message", protocol.ARTIFACT_TYPE_MESSAGE)
    if form == "artifact" and not _is(manifest.config, EMPTY_CONFIG):
        raise ProtocolError(f"message: config {manifest.config.digest}; the empty one expected")
    header = MessageHeader.from_annotations(manifest.annotations)
    chunks = _parse_chunks(manifest.layers, header)
    return Message(
        _describe(data, protocol.ARTIFACT_TYPE_MESSAGE, manifest.annotations),
        header,
        chunks,
        manifest.subject,
        form,
    )


def parse_receipt(data: bytes) -> Receipt:
    """Return the receipt in the bytes of a manifest; 1.0 receipts may lack most annotations.

    Raises:
        ProtocolError: it does not say which message and what outcome, or is malformed.
    """
    manifest, form = _parse(data, "receipt", protocol.ARTIFACT_TYPE_RECEIPT)
    annotations, subject = manifest.annotations, manifest.subject
    protocol.check_annotations(annotations, "receipt")
    lenient = _is_compat(annotations, "receipt")
    message = annotations.get(protocol.RECEIPT_FOR)
    if message is None:
        raise ProtocolError(f"receipt: annotation {protocol.RECEIPT_FOR} is missing")
    if not (lenient or subject):
        raise ProtocolError("receipt: no subject; the message expected")
    if subject is not None and subject.digest != message:
        raise ProtocolError(f"receipt: for {message!r:.100}, but its subject is {subject.digest}")
    return Receipt(
        descriptor=_describe(data, protocol.ARTIFACT_TYPE_RECEIPT, annotations),
        message=parse_digest(message),
        message_id=annotations.get(protocol.MESSAGE_ID, ""),
        sender=annotations.get(protocol.SENDER, ""),
        recipient=annotations.get(protocol.RECIPIENT, ""),
        status=_status(annotations),
        verified=annotations.get(protocol.RECEIPT_VERIFIED) == "true",
        reason=annotations.get(protocol.RECEIPT_REASON, ""),
        created_at=_receipt_time(annotations, lenient=lenient),
        subject=subject,
        layers=tuple(item for item in manifest.layers if item.digest != EMPTY_CONFIG.digest),
        form=form,
    )


def parse_bundle(data: bytes) -> Bundle:
    """Return the bundle in the bytes of a manifest: ours, the 1.0 program's, or cosign's.

    Raises:
        ProtocolError: no subject, not exactly one layer, or malformed.
    """
    manifest, _ = _parse(data, "bundle", protocol.ARTIFACT_TYPE_BUNDLE)
    protocol.check_annotations(manifest.annotations, "bundle")
    if manifest.subject is None:
        raise ProtocolError("bundle: no subject")
    if len(manifest.layers) != 1:
        raise ProtocolError(f"bundle: one layer expected, {len(manifest.layers)} received")
    return Bundle(
        descriptor=_describe(data, protocol.ARTIFACT_TYPE_BUNDLE, manifest.annotations),
        subject=manifest.subject,
        layer=manifest.layers[0],
        annotations=manifest.annotations,
    )


def kind_of(data: bytes, where: str = "manifest") -> str | None:
    """Return the artifact type that a manifest claims, in either form; None if it claims none.

    Raises:
        ProtocolError: not JSON.
    """
    value = parse_json(data, where=where)
    if not isinstance(value, dict):
        return None
    annotations = value.get("annotations")
    if not isinstance(annotations, dict):
        annotations = {}
    kind = value.get("artifactType") or annotations.get(protocol.ARTIFACT_TYPE)
    return kind if isinstance(kind, str) else None


def parse_anchor(data: bytes) -> Anchor:
    """Return the anchor in `data`, which must be its bytes exactly, in one form or the other.

    Raises:
        ProtocolError: anything but those bytes.
    """
    manifest, form = _parse(data, "anchor", protocol.ARTIFACT_TYPE_INBOX)
    get = manifest.annotations.get
    recipient, kind = get(protocol.INBOX_RECIPIENT, ""), get(protocol.INBOX_KIND)
    try:
        day = datetime.strptime(get(protocol.INBOX_DATE, ""), "%Y%m%d").replace(tzinfo=UTC).date()
    except ValueError as error:
        raise ProtocolError(f"anchor: {protocol.INBOX_DATE}: {error}") from error
    if not FIRST_TIME.year <= day.year <= LAST_TIME.year:
        raise ProtocolError(
            f"anchor: {protocol.INBOX_DATE}: {day}; a day from 1970 to 9998 expected"
        )
    expected, descriptor = ManifestBuilder.inbox_anchor(recipient, day, kind, form=form).build()
    if (
        data != expected
        or _RECIPIENT_TAG.fullmatch(recipient) is None
        or kind not in (None, "receipts")
    ):
        raise ProtocolError(f"anchor {digest_of(data)}: not the bytes of an anchor")
    return Anchor(descriptor=descriptor, recipient_tag=recipient, day=day, kind=kind, form=form)


_RECIPIENT_TAG = re.compile(r"[0-9a-v]{26}")


def _parse(data: bytes, what: str, artifact_type: str) -> tuple[Manifest, ManifestForm]:
    """Return a manifest of `artifact_type` and its form (SPEC.md 2.9)."""
    if len(data) > MAX_MANIFEST_BYTES:
        raise ProtocolError(f"{what}: {len(data)} bytes; at most {MAX_MANIFEST_BYTES}")
    manifest = parse_manifest(data, where=what)
    if manifest.media_type not in (None, MEDIA_TYPE_MANIFEST):
        raise ProtocolError(f"{what}: media type {manifest.media_type}; an OCI manifest expected")
    form: ManifestForm = "artifact"
    said = manifest.artifact_type
    annotated = manifest.annotations.get(protocol.ARTIFACT_TYPE)
    if said is None and _is(manifest.config, IMAGE_CONFIG):
        said, form = annotated, "image"
    if said != artifact_type:
        raise ProtocolError(f"{what}: artifact type {said!r:.100}; {artifact_type} expected")
    if annotated not in (None, said):
        raise ProtocolError(
            f"{what}: {protocol.ARTIFACT_TYPE} is {annotated!r:.100}; the artifact type is {said}"
        )
    return manifest, form


def _is(descriptor: Descriptor, expected: Descriptor) -> bool:
    """Return whether media type, digest and size are those expected."""
    return (descriptor.media_type, descriptor.digest, descriptor.size) == (
        expected.media_type,
        expected.digest,
        expected.size,
    )


def _describe(data: bytes, artifact_type: str, annotations: Mapping[str, str]) -> Descriptor:
    return Descriptor.of(
        data, MEDIA_TYPE_MANIFEST, annotations=annotations, artifact_type=artifact_type
    )


def _parse_chunks(layers: Sequence[Descriptor], header: MessageHeader) -> tuple[ChunkLayer, ...]:
    """Return the chunks by index, after every rule that needs no fetching.

    1. as many layers as announced, each index once
    2. media types that say what `compression` says
    3. sizes that add up, and that no layer can exceed
    """
    if len(layers) != header.chunk_count:
        raise ProtocolError(
            f"message: {header.chunk_count} chunks announced, {len(layers)} layers received"
        )
    chunks: dict[int, ChunkLayer] = {}
    for number, layer in enumerate(layers):
        chunk = _parse_chunk(layer, header, f"message: layer {number}")
        if chunk.index in chunks or chunk.index >= len(layers):
            raise ProtocolError(
                f"message: layer {number}: chunk index {chunk.index} is there twice or too high"
            )
        chunks[chunk.index] = chunk
    ordered = tuple(chunks[index] for index in range(len(layers)))
    _check_total(ordered, header)
    return ordered


def _parse_chunk(layer: Descriptor, header: MessageHeader, where: str) -> ChunkLayer:
    expected = protocol.CHUNK_MEDIA_TYPES[header.compression]
    if layer.media_type != expected:
        raise ProtocolError(f"{where}: media type {layer.media_type!r:.100}; {expected} expected")
    protocol.check_annotations(layer.annotations, where)
    index = layer.annotations.get(protocol.CHUNK_INDEX)
    size = layer.annotations.get(protocol.CHUNK_SIZE)
    if index is None or (size is None and header.version != protocol.COMPAT_VERSION):
        missing = protocol.CHUNK_INDEX if index is None else protocol.CHUNK_SIZE
        raise ProtocolError(f"{where}: annotation {missing} is missing")
    limit = header.chunk_bytes if header.chunk_bytes > 0 else header.total_bytes
    chunk_bytes = None
    if size is not None:
        what = f"{where}: {protocol.CHUNK_SIZE}"
        chunk_bytes = parse_count(size, what, limit=min(limit, header.total_bytes))
    chunk = ChunkLayer(layer, parse_chunk_index(index), chunk_bytes)
    most = max_layer_bytes(chunk.bound(header))
    if layer.size > most:
        raise ProtocolError(
            f"{where}: {layer.size} bytes for at most {chunk.bound(header)} of payload"
        )
    return chunk


def _check_total(chunks: Sequence[ChunkLayer], header: MessageHeader) -> None:
    most = sum(chunk.bound(header) for chunk in chunks)
    exact = all(chunk.chunk_bytes is not None for chunk in chunks)
    if most < header.total_bytes or (exact and most != header.total_bytes):
        raise ProtocolError(
            f"message: {header.total_bytes} payload bytes announced; its chunks hold {most}"
        )


def max_layer_bytes(chunk_bytes: int) -> int:
    """Return the most bytes a layer may have whose chunk has at most `chunk_bytes`.

    What does not shrink grows by up to 23 % in one common compressor (isal at level 0); the tar
    adds its header (with extensions), end and padding. More is refused before it is fetched.
    """
    return chunk_bytes + chunk_bytes // 4 + 65_536


def _is_compat(annotations: Mapping[str, str], what: str) -> bool:
    """Return whether this is version 1.0, which may leave its version out."""
    version = annotations.get(protocol.VERSION, protocol.COMPAT_VERSION)
    if not is_readable_version(version):
        raise ProtocolError(f"{what}: version {version!r:.50}; this program reads 1.x")
    return version == protocol.COMPAT_VERSION


def _status(annotations: Mapping[str, str]) -> ReceiptStatus:
    text = annotations.get(protocol.RECEIPT_STATUS)
    if text == "accepted":
        return "accepted"
    if text == "rejected":
        return "rejected"
    raise ProtocolError(f"receipt: status {text!r:.50}; accepted or rejected expected")


def _receipt_time(annotations: Mapping[str, str], *, lenient: bool) -> datetime | None:
    text = annotations.get(protocol.CREATED_AT)
    try:
        return None if text is None else parse_time(text)
    except ProtocolError:
        if lenient:
            return None
        raise

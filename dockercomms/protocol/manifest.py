"""The manifests of messages, receipts, bundles and inbox anchors: a builder and strict parsers.

The parse functions are the inverse of `ManifestBuilder`. To learn the digest of a received
manifest, hash the received bytes; do not build the manifest again.
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
from dockercomms.protocol.fields import (
    FIRST_TIME,
    LAST_TIME,
    is_readable_version,
    parse_chunk_index,
    parse_count,
    parse_time,
)
from dockercomms.protocol.header import (
    ARTIFACT_TYPE,
    ARTIFACT_TYPE_BUNDLE,
    ARTIFACT_TYPE_INBOX,
    ARTIFACT_TYPE_MESSAGE,
    ARTIFACT_TYPE_RECEIPT,
    CHUNK_INDEX,
    CHUNK_MEDIA_TYPES,
    CHUNK_SIZE,
    COMPAT_VERSION,
    CREATED_AT,
    IMAGE_CONFIG,
    INBOX_DATE,
    INBOX_KIND,
    INBOX_RECIPIENT,
    MAX_SENT_MANIFEST_BYTES,
    MESSAGE_ID,
    RECEIPT_FOR,
    RECEIPT_REASON,
    RECEIPT_STATUS,
    RECEIPT_VERIFIED,
    RECIPIENT,
    SENDER,
    VERSION,
    ManifestForm,
    MessageHeader,
    check_annotations,
)
from dockercomms.protocol.tags import ReceiptStatus

ANCHOR_VERSION = "1.1"
"""The version in an anchor. It changes the anchor's digest, so another version would split senders
into two inboxes."""


@dataclass(frozen=True, slots=True)
class ManifestBuilder:
    """A builder of one manifest: equal values give equal bytes.

    Example:
        >>> data, descriptor = ManifestBuilder.receipt({"dockercomms.version": "1.1"}).build()
        >>> descriptor.artifact_type
        'application/vnd.dockercomms.receipt.v1'
    """

    artifact_type: str
    subject: Descriptor | None = None
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    layers: tuple[Descriptor, ...] | None = ()
    """With `compat`, `None` is written as `null`, as the 1.0 program writes it; otherwise `None`
    means ()."""
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
            ARTIFACT_TYPE_MESSAGE,
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
            ARTIFACT_TYPE_RECEIPT,
            subject,
            dict(annotations),
            None if layers is None else tuple(layers),
        )

    @classmethod
    def bundle(
        cls, subject: Descriptor, annotations: Mapping[str, str], layer: Descriptor
    ) -> ManifestBuilder:
        """Return the builder of a bundle; the subject's media type is always image manifest."""
        subject = replace(subject, media_type=MEDIA_TYPE_MANIFEST)
        return cls(ARTIFACT_TYPE_BUNDLE, subject, dict(annotations), (layer,))

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

        All senders build the same bytes, so all messages of a day and form have one subject.
        """
        annotations = {
            INBOX_DATE: f"{day:%Y%m%d}",
            INBOX_RECIPIENT: recipient_tag,
            VERSION: ANCHOR_VERSION,
        }
        if kind is not None:
            annotations[INBOX_KIND] = kind
        return cls(ARTIFACT_TYPE_INBOX, None, annotations, form=form)

    def in_form(self, form: ManifestForm) -> ManifestBuilder:
        """Return the builder of the same manifest in another form, which has another digest."""
        return replace(self, form=form)

    def build(self, *, compat: bool = False) -> tuple[bytes, Descriptor]:
        """Return the manifest and its descriptor, which includes artifact type and annotations.

        With `compat` these are the bytes of the 1.0 program: no media type, and the layers as
        given.

        Raises:
            ProtocolError: a message has no layers, or the empty descriptor as a layer, which stops
                all 1.0 receivers.
            LimitError: the manifest is larger than all registries accept.
        """
        out: dict[str, object] = {"schemaVersion": 2}
        if not compat:
            out["mediaType"] = MEDIA_TYPE_MANIFEST
        annotations = dict(self.annotations)
        if self.form == "image":
            out["config"] = IMAGE_CONFIG.to_json()
            annotations[ARTIFACT_TYPE] = self.artifact_type
        else:
            out["artifactType"] = self.artifact_type
            out["config"] = EMPTY_CONFIG.to_json()
        out["layers"] = self._layers_json(compat=compat)
        if self.subject is not None:
            out["subject"] = (self.subject if compat else self.subject.bare()).to_json()
        if annotations:
            out["annotations"] = sorted_annotations(annotations)
        data = canonical_json(out)
        if not compat and len(data) > MAX_SENT_MANIFEST_BYTES:
            raise LimitError(
                f"manifest: {len(data)} bytes; at most {MAX_SENT_MANIFEST_BYTES}",
                hint="larger chunks make a smaller manifest: --chunk-size",
            )
        return data, _describe(data, self.artifact_type, annotations)

    def _layers_json(self, *, compat: bool) -> list[dict[str, object]] | None:
        if compat:
            return None if self.layers is None else [layer.to_json() for layer in self.layers]
        layers = self.layers or ()
        if self.artifact_type != ARTIFACT_TYPE_MESSAGE:
            # zot answers 400 to a manifest without layers
            return [layer.to_json() for layer in layers or (EMPTY_CONFIG,)]
        if not layers or any(layer.media_type == EMPTY_CONFIG.media_type for layer in layers):
            raise ProtocolError(
                "message: one or more layers expected, none of them the empty descriptor"
            )
        return [layer.to_json() for layer in layers]


@dataclass(frozen=True, slots=True)
class ChunkLayer:
    """One chunk of a message."""

    descriptor: Descriptor
    index: int
    chunk_bytes: int | None
    """The exact number of payload bytes; 1.0 messages have `None` (see `bound`)."""

    def bound(self, header: MessageHeader) -> int:
        """Return the largest number of payload bytes that this chunk may hold."""
        if self.chunk_bytes is not None:
            return self.chunk_bytes
        if header.chunk_bytes > 0:
            return min(header.chunk_bytes, header.total_bytes)
        return header.total_bytes


@dataclass(frozen=True, slots=True)
class Message:
    """A message manifest that follows all rules; its values are still its sender's claims."""

    descriptor: Descriptor
    header: MessageHeader
    chunks: tuple[ChunkLayer, ...]
    """Sorted by index, 0..N-1; the manifest may list them in another order."""
    subject: Descriptor | None = None
    form: ManifestForm = "artifact"

    @property
    def digest(self) -> Digest:
        """The digest of the manifest."""
        return self.descriptor.digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """A receipt manifest. Only a signed statement about it proves these claims."""

    descriptor: Descriptor
    message: Digest
    message_id: str
    """"" in receipts of 1.0."""
    sender: str
    """The sender of the message, to whom the receipt is addressed."""
    recipient: str
    status: ReceiptStatus
    verified: bool
    reason: str
    created_at: datetime | None
    subject: Descriptor | None
    layers: tuple[Descriptor, ...] = ()
    """The bundle of a signed receipt, without the empty descriptor."""
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
    """The subject of a day's messages or receipts."""

    descriptor: Descriptor
    recipient_tag: str
    day: date
    kind: str | None = None
    form: ManifestForm = "artifact"


def parse_message(data: bytes) -> Message:
    """Return the message in the bytes of a manifest.

    Needs no other content than the manifest.

    Raises:
        ProtocolError: the manifest breaks a rule of SPEC.md sections 2 to 4.
    """
    manifest, form = _parse(data, "message", ARTIFACT_TYPE_MESSAGE)
    if form == "artifact" and not _is(manifest.config, EMPTY_CONFIG):
        raise ProtocolError(f"message: config {manifest.config.digest}; the empty config expected")
    header = MessageHeader.from_annotations(manifest.annotations)
    chunks = _parse_chunks(manifest.layers, header)
    return Message(
        _describe(data, ARTIFACT_TYPE_MESSAGE, manifest.annotations),
        header,
        chunks,
        manifest.subject,
        form,
    )


def parse_receipt(data: bytes) -> Receipt:
    """Return the receipt in the bytes of a manifest; 1.0 receipts may lack most annotations.

    Raises:
        ProtocolError: it is malformed, or lacks its message or its outcome.
    """
    manifest, form = _parse(data, "receipt", ARTIFACT_TYPE_RECEIPT)
    annotations, subject = manifest.annotations, manifest.subject
    check_annotations(annotations, "receipt")
    lenient = _is_compat(annotations, "receipt")
    message = annotations.get(RECEIPT_FOR)
    if message is None:
        raise ProtocolError(f"receipt: annotation {RECEIPT_FOR} is missing")
    if not (lenient or subject):
        raise ProtocolError("receipt: subject is missing; the message expected")
    if subject is not None and subject.digest != message:
        raise ProtocolError(f"receipt: for {message!r:.100}, but its subject is {subject.digest}")
    return Receipt(
        descriptor=_describe(data, ARTIFACT_TYPE_RECEIPT, annotations),
        message=parse_digest(message),
        message_id=annotations.get(MESSAGE_ID, ""),
        sender=annotations.get(SENDER, ""),
        recipient=annotations.get(RECIPIENT, ""),
        status=_status(annotations),
        verified=annotations.get(RECEIPT_VERIFIED) == "true",
        reason=annotations.get(RECEIPT_REASON, ""),
        created_at=_receipt_time(annotations, lenient=lenient),
        subject=subject,
        layers=tuple(item for item in manifest.layers if item.digest != EMPTY_CONFIG.digest),
        form=form,
    )


def parse_bundle(data: bytes) -> Bundle:
    """Return the bundle in the bytes of a manifest: ours, the 1.0 program's, or cosign's.

    Raises:
        ProtocolError: it is malformed, has no subject, or has not exactly one layer.
    """
    manifest, _ = _parse(data, "bundle", ARTIFACT_TYPE_BUNDLE)
    check_annotations(manifest.annotations, "bundle")
    if manifest.subject is None:
        raise ProtocolError("bundle: subject is missing")
    if len(manifest.layers) != 1:
        raise ProtocolError(f"bundle: one layer expected, {len(manifest.layers)} received")
    return Bundle(
        descriptor=_describe(data, ARTIFACT_TYPE_BUNDLE, manifest.annotations),
        subject=manifest.subject,
        layer=manifest.layers[0],
        annotations=manifest.annotations,
    )


def kind_of(data: bytes, where: str = "manifest") -> str | None:
    """Return the artifact type that a manifest of either form claims; `None` if there is no claim.

    Raises:
        ProtocolError: `data` is not JSON.
    """
    value = parse_json(data, where=where)
    if not isinstance(value, dict):
        return None
    annotations = value.get("annotations")
    if not isinstance(annotations, dict):
        annotations = {}
    kind = value.get("artifactType") or annotations.get(ARTIFACT_TYPE)
    return kind if isinstance(kind, str) else None


def parse_anchor(data: bytes) -> Anchor:
    """Return the anchor in `data`, which must be exactly the bytes of an anchor in either form.

    Raises:
        ProtocolError: `data` is anything else.
    """
    manifest, form = _parse(data, "anchor", ARTIFACT_TYPE_INBOX)
    get = manifest.annotations.get
    recipient, kind = get(INBOX_RECIPIENT, ""), get(INBOX_KIND)
    try:
        day = datetime.strptime(get(INBOX_DATE, ""), "%Y%m%d").replace(tzinfo=UTC).date()
    except ValueError as error:
        raise ProtocolError(f"anchor: {INBOX_DATE}: {error}") from error
    if not FIRST_TIME.year <= day.year <= LAST_TIME.year:
        raise ProtocolError(f"anchor: {INBOX_DATE}: {day}; a day from 1970 to 9998 expected")
    expected, descriptor = ManifestBuilder.inbox_anchor(recipient, day, kind, form=form).build()
    if (
        data != expected
        or _RECIPIENT_TAG.fullmatch(recipient) is None
        or kind not in (None, "receipts")
    ):
        raise ProtocolError(f"anchor {digest_of(data)}: its bytes differ from those of SPEC.md 5.4")
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
    annotated = manifest.annotations.get(ARTIFACT_TYPE)
    if said is None and _is(manifest.config, IMAGE_CONFIG):
        said, form = annotated, "image"
    if said != artifact_type:
        raise ProtocolError(f"{what}: artifact type {said!r:.100}; {artifact_type} expected")
    if annotated not in (None, said):
        raise ProtocolError(
            f"{what}: {ARTIFACT_TYPE} is {annotated!r:.100}; the artifact type is {said}"
        )
    return manifest, form


def _is(descriptor: Descriptor, expected: Descriptor) -> bool:
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
    """Check all rules of the chunks that need no other content; return the chunks by index.

    1. There are as many layers as announced, and each index occurs once.
    2. The media types agree with `compression`.
    3. The sizes add up, and each chunk fits into its layer.
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
                f"message: layer {number}: chunk index {chunk.index} occurs twice or is too high"
            )
        chunks[chunk.index] = chunk
    ordered = tuple(chunks[index] for index in range(len(layers)))
    _check_total(ordered, header)
    return ordered


def _parse_chunk(layer: Descriptor, header: MessageHeader, where: str) -> ChunkLayer:
    expected = CHUNK_MEDIA_TYPES[header.compression]
    if layer.media_type != expected:
        raise ProtocolError(f"{where}: media type {layer.media_type!r:.100}; {expected} expected")
    check_annotations(layer.annotations, where)
    index = layer.annotations.get(CHUNK_INDEX)
    size = layer.annotations.get(CHUNK_SIZE)
    if index is None or (size is None and header.version != COMPAT_VERSION):
        missing = CHUNK_INDEX if index is None else CHUNK_SIZE
        raise ProtocolError(f"{where}: annotation {missing} is missing")
    limit = header.chunk_bytes if header.chunk_bytes > 0 else header.total_bytes
    chunk_bytes = None
    if size is not None:
        what = f"{where}: {CHUNK_SIZE}"
        chunk_bytes = parse_count(size, what, limit=min(limit, header.total_bytes))
    chunk = ChunkLayer(layer, parse_chunk_index(index), chunk_bytes)
    most = max_layer_bytes(chunk.bound(header))
    if layer.size > most:
        raise ProtocolError(
            f"{where}: {layer.size} bytes are too many for {chunk.bound(header)} of payload"
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
    """Return the largest size of a layer whose chunk has at most `chunk_bytes`.

    Readers refuse larger layers before they fetch them. Incompressible data grows by up to 23 % in
    one common compressor (isal at level 0); the tar adds its header (with extensions), end and
    padding.
    """
    return chunk_bytes + chunk_bytes // 4 + 65_536


def _is_compat(annotations: Mapping[str, str], what: str) -> bool:
    """Return whether this is version 1.0, in which the version may be absent."""
    version = annotations.get(VERSION, COMPAT_VERSION)
    if not is_readable_version(version):
        raise ProtocolError(f"{what}: version {version!r:.50}; this program reads 1.x")
    return version == COMPAT_VERSION


def _status(annotations: Mapping[str, str]) -> ReceiptStatus:
    text = annotations.get(RECEIPT_STATUS)
    if text == "accepted":
        return "accepted"
    if text == "rejected":
        return "rejected"
    raise ProtocolError(f"receipt: status {text!r:.50}; accepted or rejected expected")


def _receipt_time(annotations: Mapping[str, str], *, lenient: bool) -> datetime | None:
    text = annotations.get(CREATED_AT)
    try:
        return None if text is None else parse_time(text)
    except ProtocolError:
        if lenient:
            return None
        raise

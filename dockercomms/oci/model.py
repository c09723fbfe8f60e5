"""The OCI content model: descriptors, manifests, indexes and platforms.

Image indexes use Go's names of operating systems and architectures (GOOS, GOARCH); people, kernels
and other tools write `x86_64`, `aarch64` or `armhf`.

Example:
    >>> from dockercomms.oci.model import Descriptor, EMPTY_CONFIG
    >>> Descriptor.of(b"{}", "application/vnd.oci.empty.v1+json") == EMPTY_CONFIG
    True

Source: OCI image-spec v1.1.1 (descriptor.md, manifest.md, image-index.md with its table of
variants) and distribution-spec v1.1.1; Go's `go tool dist list`.
"""

from __future__ import annotations

import base64
import hashlib
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from typing import NewType

from dockercomms.errors import DigestMismatch, ProtocolError, UnreadableEntries, UsageError
from dockercomms.oci.strict_json import canonical_json as canonical_json  # noqa: PLC0414 - public here
from dockercomms.oci.strict_json import parse_json, parse_json_list, refuse_colliding_keys
from dockercomms.platforms.records import dataclass

Names = tuple[str, str, str]
"""Operating system, architecture and variant; the variant may be empty."""

_SYSTEMS = {"macos": "darwin"}
_ARCHITECTURES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "i386": ("386", ""),
    "i486": ("386", ""),
    "i586": ("386", ""),
    "i686": ("386", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv5tel": ("arm", "v5"),
    "armv6l": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "armv8l": ("arm", "v7"),  # 32 bits on a 64-bit processor: indexes have v7 for it
    "loongarch64": ("loong64", ""),
    "mips64el": ("mips64le", ""),
    "mipsel": ("mipsle", ""),
}
"""Names that kernels and people use, with their architecture and the variant that they imply."""

_DEFAULT_VARIANTS = {"arm": "v7", "arm64": "v8"}
"""The variants of entries without one."""

_BASELINES = {("amd64", "v1")}
"""Variants that mean the architecture itself, and are not written."""

_BARE_VARIANT = re.compile(r"[0-9]+")
_PART = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MIN_PARTS = 2
_MAX_PARTS = 3


def canonical_names(os: str, architecture: str, variant: str = "") -> Names:
    """Return the names as indexes write them, without adding a variant."""
    os, architecture, variant = os.lower(), architecture.lower(), variant.lower()
    architecture, implied = _ARCHITECTURES.get(architecture, (architecture, ""))
    variant = (variant or implied).removesuffix(".0")
    if architecture in _DEFAULT_VARIANTS and _BARE_VARIANT.fullmatch(variant):
        variant = f"v{variant}"
    if (architecture, variant) in _BASELINES:
        variant = ""
    return _SYSTEMS.get(os, os), architecture, variant


def normalize_names(os: str, architecture: str, variant: str) -> Names:
    """Return the names as indexes write them, with the default variant if there is none."""
    os, architecture, variant = canonical_names(os, architecture, variant)
    return os, architecture, variant or _DEFAULT_VARIANTS.get(architecture, "")


Digest = NewType("Digest", str)
"""`sha256:` and 64 lower-case hex digits (or sha384/sha512 with theirs)."""

MEDIA_TYPE_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
MEDIA_TYPE_INDEX = "application/vnd.oci.image.index.v1+json"
MEDIA_TYPE_IMAGE_CONFIG = "application/vnd.oci.image.config.v1+json"
MEDIA_TYPE_IMAGE_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
MEDIA_TYPE_EMPTY_CONFIG = "application/vnd.oci.empty.v1+json"

ANNOTATION_TITLE = "org.opencontainers.image.title"
"""The file name of a layer (image-spec v1.1.1, annotations.md)."""
ANNOTATION_UNPACK = "io.deis.oras.content.unpack"
"""`true`: the layer is the tar of a folder, named by the title (oras-go v2, content/file)."""
ANNOTATION_UNPACKED_DIGEST = "io.deis.oras.content.digest"
"""The digest of that tar, uncompressed."""
MEDIA_TYPE_DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
MEDIA_TYPE_DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
MEDIA_TYPE_DOCKER_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+json"
MEDIA_TYPE_DOCKER_SCHEMA1_SIGNED = "application/vnd.docker.distribution.manifest.v1+prettyjws"
MEDIA_TYPE_ARTIFACT = "application/vnd.oci.artifact.manifest.v1+json"
MEDIA_TYPE_OCTET_STREAM = "application/octet-stream"

MANIFEST_MEDIA_TYPES = (
    MEDIA_TYPE_MANIFEST,
    MEDIA_TYPE_INDEX,
    MEDIA_TYPE_ARTIFACT,
    MEDIA_TYPE_DOCKER_MANIFEST,
    MEDIA_TYPE_DOCKER_LIST,
    MEDIA_TYPE_DOCKER_SCHEMA1,
    MEDIA_TYPE_DOCKER_SCHEMA1_SIGNED,
)
"""Media types that a manifest request accepts, in this order."""

ANNOTATION_REF_NAME = "org.opencontainers.image.ref.name"
"""The annotation of an image layout for tags (image-spec v1.1.1, image-layout.md)."""

MAX_MANIFEST_BYTES = 4 * 2**20
"""The largest manifest to read: distribution refuses larger ones (measured: 400)."""

_MAX_SIZE = 2**63 - 1
"""The largest signed 64-bit number.
Source: image-spec v1.1.1, descriptor.md, "Properties"."""

_HEX_DIGITS = {"sha256": 64, "sha384": 96, "sha512": 128}
_DIGEST = re.compile(r"(sha256|sha384|sha512):([0-9a-f]+)")


def parse_digest(text: str) -> Digest:
    """Return `text` as a Digest.

    Raises:
        ProtocolError: unknown algorithm, wrong length, or anything but lower-case hex.

    Source: image-spec v1.1.1, descriptor.md, "Digests".
    """
    match = _DIGEST.fullmatch(text)
    if match is None or len(match[2]) != _HEX_DIGITS[match[1]]:
        raise ProtocolError(
            f"not a digest: {text!r:.200}; expected sha256: and 64 lower-case hex digits"
        )
    return Digest(text)


def digest_of(data: bytes | bytearray | memoryview) -> Digest:
    """Return the sha256 digest of `data`.

    Source: image-spec v1.1.1, descriptor.md, "SHA-256".
    """
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


@dataclass(frozen=True, slots=True)
class Platform:
    """The platform of an image.

    Source: image-spec v1.1.1, image-index.md, "platform".
    """

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""
    os_features: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Return the platform written `os/architecture[/variant]`, in the names that indexes use.

        Without a variant it fits any.

        Raises:
            UsageError: `text` has not two or three parts of letters, digits, `_`, `.` and `-`.
        """
        parts = text.split("/")
        if not _MIN_PARTS <= len(parts) <= _MAX_PARTS or not all(map(_PART.fullmatch, parts)):
            raise UsageError(
                f"not a platform: {text!r:.200}", hint="write os/architecture, such as linux/arm64"
            )
        return cls(*canonical_names(*parts))

    @classmethod
    def host(cls) -> Platform:
        """Return the platform of this machine, as an image would name it."""
        return cls(*normalize_names(platform.system(), platform.machine(), ""))

    def normalized(self) -> Platform:
        """Return this platform in the names that indexes use, the default variant filled in.

        `linux/aarch64` is `linux/arm64/v8`, `linux/arm` is `linux/arm/v7`.
        """
        os, architecture, variant = normalize_names(self.os, self.architecture, self.variant)
        return replace(self, os=os, architecture=architecture, variant=variant)

    normalize = normalized

    def to_json(self) -> dict[str, object]:
        """Return the JSON object, keys in the order of the Go reference types."""
        out: dict[str, object] = {"architecture": self.architecture, "os": self.os}
        if self.os_version:
            out["os.version"] = self.os_version
        if self.os_features:
            out["os.features"] = list(self.os_features)
        if self.variant:
            out["variant"] = self.variant
        return out

    @classmethod
    def from_json(cls, value: object, where: str) -> Platform:
        """Return the platform in `value`; errors name it `where`.

        Raises:
            ProtocolError: `value` is no object of strings.
        """
        fields = _object(value, where)
        return cls(
            os=_string(fields, "os", where, default=""),
            architecture=_string(fields, "architecture", where, default=""),
            variant=_string(fields, "variant", where, default=""),
            os_version=_string(fields, "os.version", where, default=""),
            os_features=tuple(
                _checked_string(item, f"{where}: os.features")
                for item in _list(fields, "os.features", where)
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """A media type, digest and size, with optional properties.

    Source: image-spec v1.1.1, descriptor.md.
    """

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    data: bytes | None = field(default=None, hash=False)
    """The content itself; `inline` checks it against digest and size."""
    platform: Platform | None = None
    artifact_type: str | None = None

    def __post_init__(self) -> None:
        parse_digest(self.digest)
        if isinstance(self.size, bool) or self.size < 0:
            raise ProtocolError(f"descriptor {self.digest}: size {self.size} is negative")
        if not self.media_type:
            raise ProtocolError(f"descriptor {self.digest}: no media type")

    @classmethod
    def of(
        cls,
        data: bytes,
        media_type: str,
        *,
        annotations: Mapping[str, str] | None = None,
        artifact_type: str | None = None,
    ) -> Descriptor:
        """Return the descriptor of `data`."""
        return cls(
            media_type=media_type,
            digest=digest_of(data),
            size=len(data),
            annotations=dict(annotations or {}),
            artifact_type=artifact_type,
        )

    def inline(self) -> bytes | None:
        """Return `data` if it is there and has this descriptor's size and digest.

        Raises:
            ProtocolError: `data` is there but has another size or digest.

        Source: image-spec v1.1.1, descriptor.md, "Embedded Content".
        """
        if self.data is None:
            return None
        if len(self.data) != self.size or not matches(self.data, self.digest):
            raise DigestMismatch(
                f"descriptor {self.digest}: its data ({len(self.data)} bytes) has another digest"
            )
        return self.data

    def bare(self) -> Descriptor:
        """Return media type, digest and size alone, as a `subject` is written."""
        return Descriptor(media_type=self.media_type, digest=self.digest, size=self.size)

    def to_json(self) -> dict[str, object]:
        """Return the JSON object, its keys in the order of the Go reference types."""
        out: dict[str, object] = {
            "mediaType": self.media_type,
            "digest": self.digest,
            "size": self.size,
        }
        if self.annotations:
            out["annotations"] = sorted_annotations(self.annotations)
        if self.data is not None:
            out["data"] = base64.b64encode(self.data).decode("ascii")
        if self.platform is not None:
            out["platform"] = self.platform.to_json()
        if self.artifact_type is not None:
            out["artifactType"] = self.artifact_type
        return out

    @classmethod
    def from_json(cls, value: object, where: str) -> Descriptor:
        """Return the descriptor in `value`; `where` names it in errors.

        Raises:
            ProtocolError: a member is missing, of the wrong type, or invalid.
        """
        fields = _object(value, where)
        refuse_colliding_keys(fields, where, _DESCRIPTOR_KEYS)
        data = fields.get("data")
        raw: bytes | None = None
        if data is not None:
            try:
                raw = base64.b64decode(_checked_string(data, f"{where}: data"), validate=True)
            except ValueError as error:  # also the base of binascii.Error
                raise ProtocolError(f"{where}: data is not base64: {error}") from error
        platform = fields.get("platform")
        return cls(
            media_type=_string(fields, "mediaType", where),
            digest=parse_digest(_string(fields, "digest", where)),
            size=_size(fields, where),
            annotations=_annotations(fields, where),
            data=raw,
            platform=None
            if platform is None
            else Platform.from_json(platform, f"{where}: platform"),
            artifact_type=_string(fields, "artifactType", where, default="") or None,
        )


_DESCRIPTOR_KEYS = frozenset(
    {"mediaType", "digest", "size", "urls", "annotations", "data", "platform", "artifactType"}
)
_MANIFEST_KEYS = frozenset(
    {"schemaVersion", "mediaType", "artifactType", "config", "layers", "subject", "annotations"}
)
_INDEX_KEYS = frozenset(
    {"schemaVersion", "mediaType", "artifactType", "manifests", "subject", "annotations"}
)

EMPTY_CONFIG = Descriptor(
    media_type=MEDIA_TYPE_EMPTY_CONFIG,
    digest=Digest("sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"),
    size=2,
)
"""The empty descriptor (image-spec v1.1.1, manifest.md, "Guidance for an Empty Descriptor")."""

EMPTY_CONFIG_BYTES = b"{}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """An image manifest.

    Source: image-spec v1.1.1, manifest.md.
    """

    config: Descriptor
    layers: tuple[Descriptor, ...] = ()
    artifact_type: str | None = None
    subject: Descriptor | None = None
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    media_type: str | None = MEDIA_TYPE_MANIFEST


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """An image index, also the answer of the referrers API.

    Source: image-spec v1.1.1, image-index.md.
    """

    manifests: tuple[Descriptor, ...] = ()
    artifact_type: str | None = None
    subject: Descriptor | None = None
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    media_type: str | None = MEDIA_TYPE_INDEX

    def to_bytes(self) -> bytes:
        """Return the index as compact JSON, keys in the order of the Go reference types."""
        out: dict[str, object] = {
            "schemaVersion": 2,
            "mediaType": self.media_type or MEDIA_TYPE_INDEX,
        }
        if self.artifact_type is not None:
            out["artifactType"] = self.artifact_type
        out["manifests"] = [entry.to_json() for entry in self.manifests]
        if self.subject is not None:
            out["subject"] = self.subject.to_json()
        if self.annotations:
            out["annotations"] = sorted_annotations(self.annotations)
        return canonical_json(out)


def parse_manifest(data: bytes, *, where: str = "manifest") -> Manifest:
    """Return the image manifest in `data`; errors name it `where`.

    `mediaType` may be absent, `layers` may be `[]`, `null` or absent (the 1.0 program writes all
    three). An index is refused.

    Raises:
        ProtocolError: `data` is no image manifest, or a key occurs twice or in other case, or a
            type is wrong.
    """
    fields = _object(parse_json(data, where=where), where)
    refuse_colliding_keys(fields, where, _MANIFEST_KEYS)
    if "manifests" in fields:
        raise ProtocolError(f"{where}: a manifest expected, an index received")
    _schema_version(fields, where)
    media_type = _string(fields, "mediaType", where, default="") or None
    if media_type not in (None, MEDIA_TYPE_MANIFEST, MEDIA_TYPE_DOCKER_MANIFEST):
        raise ProtocolError(f"{where}: media type {media_type!r}; expected {MEDIA_TYPE_MANIFEST}")
    subject = fields.get("subject")
    return Manifest(
        config=Descriptor.from_json(fields.get("config"), f"{where}: config"),
        layers=tuple(
            Descriptor.from_json(item, f"{where}: layer {number}")
            for number, item in enumerate(_list(fields, "layers", where))
        ),
        artifact_type=_string(fields, "artifactType", where, default="") or None,
        subject=None if subject is None else Descriptor.from_json(subject, f"{where}: subject"),
        annotations=_annotations(fields, where),
        media_type=media_type,
    )


def parse_index(data: bytes, *, where: str = "index") -> Index:
    """Return the image index in `data`; errors name it `where`.

    Raises:
        ProtocolError: `data` is no index, or a key occurs twice or in other case, or a type is
            wrong.
    """
    fields = _object(parse_json(data, where=where), where)
    index = _index_of(fields, where)
    listed = enumerate(_list(fields, "manifests", where))
    entries = tuple(Descriptor.from_json(item, f"{where}: entry {n}") for n, item in listed)
    return replace(index, manifests=entries)


def _index_of(fields: dict[str, object], where: str) -> Index:
    refuse_colliding_keys(fields, where, _INDEX_KEYS)
    if "manifests" not in fields:
        raise ProtocolError(f"{where}: not an index: manifests is missing")
    _schema_version(fields, where)
    media_type = _string(fields, "mediaType", where, default="") or None
    if media_type not in (None, MEDIA_TYPE_INDEX, MEDIA_TYPE_DOCKER_LIST):
        raise ProtocolError(f"{where}: media type {media_type!r}; expected {MEDIA_TYPE_INDEX}")
    subject = fields.get("subject")
    return Index(
        artifact_type=_string(fields, "artifactType", where, default="") or None,
        subject=None if subject is None else Descriptor.from_json(subject, f"{where}: subject"),
        annotations=_annotations(fields, where),
        media_type=media_type,
    )


@dataclass(frozen=True, slots=True)
class Listed:
    """The entries of an index that other programs wrote."""

    entries: tuple[tuple[Descriptor, object], ...] = ()
    """The descriptors, each with its JSON."""
    unread: tuple[object, ...] = ()
    """The JSON of entries that are no descriptors."""
    problem: UnreadableEntries | None = None
    """Their number, and the error of the first."""


def parse_listed(data: bytes, *, where: str) -> Listed:
    """Return the entries of the index in `data`, each parsed by itself; errors name it `where`.

    Raises:
        ProtocolError: it is no index.

    Source: SPEC.md section 7.4.
    """
    fields, items = parse_json_list(data, "manifests", where=where)
    _index_of({**fields, "manifests": None} if "manifests" in fields else fields, where)
    return read_entries(items, where)


def read_entries(items: Sequence[object], where: str) -> Listed:
    """Return the entries of an index, each parsed by itself."""
    entries, unread, first = [], [], ""
    for number, item in enumerate(items):
        try:
            if isinstance(item, ProtocolError):
                raise item
            entries.append((Descriptor.from_json(item, f"entry {number}"), item))
        except ProtocolError as error:
            unread.append(item)
            first = first or error.message
    problem = UnreadableEntries(
        f"{where}: {len(unread)} of {len(items)} entries cannot be read and are left out, "
        f"the first because of {first}"
    )
    return Listed(tuple(entries), tuple(unread), problem if unread else None)


def validate_manifest(data: bytes, media_type: str, *, where: str = "manifest") -> Manifest | Index:
    """Return the manifest or index in `data`, which must have the type `media_type`.

    Raises:
        ProtocolError: it has another type, or `media_type` is neither a manifest's nor an index's.
    """
    if media_type in (MEDIA_TYPE_INDEX, MEDIA_TYPE_DOCKER_LIST):
        found: Manifest | Index = parse_index(data, where=where)
    elif media_type in (MEDIA_TYPE_MANIFEST, MEDIA_TYPE_DOCKER_MANIFEST):
        found = parse_manifest(data, where=where)
    else:
        raise ProtocolError(f"{where}: media type {media_type!r:.200}; that of a manifest expected")
    if found.media_type not in (None, media_type):
        raise ProtocolError(
            f"{where}: mediaType {found.media_type!r:.200}; {media_type!r:.200} expected"
        )
    return found


@dataclass(frozen=True, slots=True)
class ManifestChildren:
    """The parts of a manifest or index, for either media type."""

    manifests: tuple[Descriptor, ...] = ()
    config: Descriptor | None = None
    layers: tuple[Descriptor, ...] = ()
    """Also the `blobs` of the retired artifact manifest."""

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """The config, if there is one, and the layers."""
        return self.layers if self.config is None else (self.config, *self.layers)


def parse_children(data: bytes, *, where: str = "manifest") -> ManifestChildren:
    """Return the parts of the manifest or index in `data`; errors name it `where`.

    Ignores the media type: content with the fields of both has the parts of both.

    Raises:
        ProtocolError: `data` is no JSON object, or a part is no descriptor.
    """
    fields = _object(parse_json(data, where=where), where)
    config = fields.get("config")

    def listed(key: str) -> tuple[Descriptor, ...]:
        return tuple(
            Descriptor.from_json(item, f"{where}: {key} {number}")
            for number, item in enumerate(_list(fields, key, where))
        )

    return ManifestChildren(
        manifests=listed("manifests"),
        config=None if config is None else Descriptor.from_json(config, f"{where}: config"),
        layers=(*listed("layers"), *listed("blobs")),
    )


def sorted_annotations(annotations: Mapping[str, str]) -> dict[str, str]:
    """Return a copy of `annotations` with its keys in bytewise order of their UTF-8 form."""
    return dict(sorted(annotations.items(), key=lambda item: item[0].encode("utf-8", "replace")))


def matches(data: bytes | bytearray | memoryview, digest: Digest) -> bool:
    """Return whether `data` has `digest`, in the digest's own algorithm.

    Source: image-spec v1.1.1, descriptor.md, "Verification".
    """
    algorithm, _, expected = digest.partition(":")
    return hashlib.new(algorithm, data).hexdigest() == expected


READ_BYTES = 2**20
"""Block size for copying a whole stream; larger blocks are not faster (measured)."""


def _schema_version(fields: Mapping[str, object], where: str) -> None:
    if fields.get("schemaVersion") != 2 or isinstance(fields["schemaVersion"], bool):  # noqa: PLR2004
        raise ProtocolError(
            f"{where}: schemaVersion {fields.get('schemaVersion')!r:.50}; expected 2"
        )


def _object(value: object, where: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ProtocolError(f"{where}: a JSON object expected, {_json_type(value)} received")
    return value


def _list(fields: Mapping[str, object], key: str, where: str) -> list[object]:
    value = fields.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise ProtocolError(f"{where}: {key} must be a list, {_json_type(value)} received")
    return value


def _checked_string(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise ProtocolError(f"{where}: a string expected, {_json_type(value)} received")
    return value


def _string(
    fields: Mapping[str, object], key: str, where: str, *, default: str | None = None
) -> str:
    value = fields.get(key, default)
    if value is None and default is not None:
        return default
    if value is None:
        raise ProtocolError(f"{where}: {key} is missing")
    return _checked_string(value, f"{where}: {key}")


def _size(fields: Mapping[str, object], where: str) -> int:
    value = fields.get("size")
    if not isinstance(value, int) or isinstance(value, bool) or value > _MAX_SIZE:
        raise ProtocolError(f"{where}: size must be a whole number, {value!r:.50} received")
    return value


def _annotations(fields: Mapping[str, object], where: str) -> dict[str, str]:
    value = fields.get("annotations")
    if value is None:
        return {}
    return {  # null means "": writers in Go write it for an empty text
        key: "" if item is None else _checked_string(item, f"{where}: annotation {key!r:.100}")
        for key, item in _object(value, f"{where}: annotations").items()
    }


def _json_type(value: object) -> str:
    names = {type(None): "null", bool: "a boolean", str: "a string", list: "a list"}
    return names.get(type(value), "an object" if isinstance(value, dict) else "a number")

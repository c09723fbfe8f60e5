"""What an image, artifact or index is, without pulling its layers.

Sources: image-spec v1.1.1, manifest.md, image-index.md, config.md; for the retired artifact
manifest, image-spec v1.1.0-rc2, artifact.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from dockercomms.errors import PlatformNotFound, ProtocolError, UsageError
from dockercomms.oci.images.select import (
    IMAGE_MEDIA_TYPES,
    INDEX_MEDIA_TYPES,
    ManifestContent,
    ResolvedManifest,
    get_content,
    get_reference,
    is_attestation,
    resolve_content,
    select,
)
from dockercomms.oci.interface import BlobReader, Reader, read_all
from dockercomms.oci.model import (
    MEDIA_TYPE_ARTIFACT,
    MEDIA_TYPE_IMAGE_CONFIG,
    Descriptor,
    Digest,
    Index,
    Manifest,
    Platform,
)
from dockercomms.oci.reference import Reference
from dockercomms.oci.strict_json import parse_json
from dockercomms.platforms.records import dataclass

MEDIA_TYPE_DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
CONFIG_MEDIA_TYPES = frozenset({MEDIA_TYPE_IMAGE_CONFIG, MEDIA_TYPE_DOCKER_CONFIG})
"""Configs that describe an image; an artifact's config is the artifact's own business."""

MAX_CONFIG_BYTES = 4 * 2**20
"""As for manifests: a config of an image of 127 layers has about 100 KB."""

_LABELS_PLATFORM = Platform("linux", "amd64")
"""Whose labels stand for those of an index, if it is there."""


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What an image config says that is of use here."""

    platform: Platform | None
    """None where the config does not name both system and architecture."""
    labels: Mapping[str, str] = field(hash=False)
    data: bytes = field(repr=False)
    """The config itself."""


def parse_image_config(data: bytes, *, where: str = "image config") -> ImageConfig:
    """Return the image config in `data`; `where` names it in errors.

    Raises:
        ProtocolError: not an image config.

    Source: image-spec v1.1.1, config.md.
    """
    fields = _object(parse_json(data, where=where), where)
    platform = Platform.from_json(fields, where)
    run = fields.get("config")
    labels = None if run is None else _object(run, f"{where}: config").get("Labels")
    return ImageConfig(
        platform if platform.os and platform.architecture else None,
        _strings(labels, f"{where}: labels"),
        data,
    )


def read_config(reader: Reader, repository: str, manifest: Manifest) -> ImageConfig | None:
    """Return the manifest's image config, None if its config is not one.

    Out of the descriptor's own `data` where that is there.

    Raises:
        BlobUnknown: not there.
        ProtocolError: not an image config, or above `MAX_CONFIG_BYTES`.
    """
    config = manifest.config
    if config.media_type not in CONFIG_MEDIA_TYPES:
        return None
    data = config.inline()
    if data is None:
        opened = reader.get_blob(repository, config.digest, size=config.size)
        data, _ = read_all(opened, MAX_CONFIG_BYTES)
    return parse_image_config(data, where=config.digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What there is to know of a manifest or index."""

    descriptor: Descriptor
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    artifact_type: str | None = None
    subject: Descriptor | None = None
    entries: tuple[Descriptor, ...] = ()
    """An index's entries, with platform, size and annotations; () for a manifest."""
    config: Descriptor | None = None
    """A manifest's config; None for an index."""
    layers: tuple[Descriptor, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    """The image's labels; those of an index are its linux/amd64 image's, else its first one's."""
    platform: Platform | None = None
    """What the image's own config says; None for an index, or if the config was not read."""
    schema_version: int = 2

    @property
    def media_type(self) -> str:
        """The media type."""
        return self.descriptor.media_type

    @property
    def digest(self) -> Digest:
        """The digest."""
        return self.descriptor.digest

    @property
    def is_index(self) -> bool:
        """Whether it is an index, by its media type."""
        return self.media_type in INDEX_MEDIA_TYPES

    @property
    def is_single_platform(self) -> bool:
        """Whether it is one image or artifact."""
        return not self.is_index


def inspect(
    reader: Reader, ref: Reference, *, platform: Platform | None = None, labels: bool = True
) -> Inspection:
    """Return what `ref` is; with `platform`, what the entry for it is.

    Args:
        reader: The store.
        ref: Digest, else tag, else `latest`.
        platform: Which entry of an index; a platform without a variant takes any.
        labels: Whether to read the config, one to two requests more, for labels and platform.

    Raises:
        ManifestUnknown, NameUnknown: not there.
        PlatformNotFound: no entry for `platform`, or not an index though one is given.
        ProtocolError: neither a manifest nor an index.
    """
    content = get_reference(reader, ref)
    if content.is_index:
        if platform is None:
            return _inspect_index(reader, ref.repository, content, labels=labels)
        resolved = resolve_content(reader, ref.repository, content, platform=platform)
        return _inspect_manifest(reader, ref.repository, resolved, labels=labels)
    _refuse_platform(content, platform)
    if content.descriptor.media_type == MEDIA_TYPE_ARTIFACT:
        return _inspect_artifact(content)
    resolved = ResolvedManifest(content.descriptor, content.data, content.manifest())
    return _inspect_manifest(reader, ref.repository, resolved, labels=labels)


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer, or the config, of an image; nothing is read before `open`."""

    descriptor: Descriptor
    reader: Reader = field(repr=False)
    repository: str

    def open(self) -> BlobReader:
        """Return a checked reader of the content.

        Raises:
            BlobUnknown: not there.
            SizeMismatch: the store has it with another size.
        """
        return self.reader.get_blob(
            self.repository, self.descriptor.digest, size=self.descriptor.size
        )


class Image:
    """One image or artifact; its manifest is there, config and layers are read when asked for.

    Args:
        reader: The store.
        repository: The repository's name.
        resolved: Its manifest.
    """

    def __init__(self, reader: Reader, repository: str, resolved: ResolvedManifest) -> None:
        self.descriptor = resolved.descriptor
        self.manifest = resolved.manifest
        self.data = resolved.data
        """The manifest as it is stored."""
        self._reader = reader
        self._repository = repository
        self._config: ImageConfig | None = None

    @property
    def config(self) -> ImageConfig | None:
        """The image config, read at the first use; None if the config is an artifact's own.

        Raises:
            BlobUnknown: not there.
            ProtocolError: not an image config.
        """
        if self._config is None:
            self._config = read_config(self._reader, self._repository, self.manifest)
        return self._config

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels in the image config; raises as `config`."""
        config = self.config
        return {} if config is None else config.labels

    @property
    def config_blob(self) -> Layer:
        """The config's content, whatever it is."""
        return Layer(self.manifest.config, self._reader, self._repository)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, the lowest first."""
        return tuple(Layer(layer, self._reader, self._repository) for layer in self.manifest.layers)


def get_image(reader: Reader, ref: Reference, *, platform: Platform | None = None) -> Image:
    """Return the image or artifact `ref`; only its manifest is read.

    Args:
        reader: The store.
        ref: Digest, else tag, else `latest`.
        platform: Which entry of an index.

    Raises:
        UsageError: an index, and no platform.
        PlatformNotFound: no entry for `platform`, or not an index though one is given.
        ManifestUnknown, NameUnknown: not there.
        ProtocolError: neither a manifest nor an index.
    """
    content = get_reference(reader, ref)
    if not content.is_index:
        _refuse_platform(content, platform)
    elif platform is None:
        raise UsageError(
            f"{ref.full()}: an index of several platforms", hint="name a platform: linux/amd64"
        )
    resolved = resolve_content(reader, ref.repository, content, platform=platform)
    return Image(reader, ref.repository, resolved)


def _refuse_platform(content: ManifestContent, platform: Platform | None) -> None:
    if platform is not None:
        raise PlatformNotFound(
            f"{content.descriptor.digest}: not an index, so it has no entry for {platform}",
            hint="leave the platform out",
        )


def _inspect_index(
    reader: Reader, repository: str, content: ManifestContent, *, labels: bool
) -> Inspection:
    index = content.index()
    found = _index_labels(reader, repository, index.manifests) if labels else {}
    return Inspection(
        descriptor=content.descriptor,
        annotations=index.annotations,
        artifact_type=index.artifact_type,
        subject=index.subject,
        entries=index.manifests,
        labels=found,
    )


def _index_labels(
    reader: Reader, repository: str, entries: tuple[Descriptor, ...]
) -> Mapping[str, str]:
    """Return the labels of the linux/amd64 image, else of the first entry that is no attestation.

    An index within the index, and what is no image, has none here.
    """
    images = tuple(entry for entry in entries if not is_attestation(entry))
    if not images:
        return {}
    try:
        entry = select(Index(manifests=images), _LABELS_PLATFORM)
    except PlatformNotFound:
        entry = images[0]
    if entry.media_type not in IMAGE_MEDIA_TYPES:
        return {}
    manifest = get_content(reader, repository, entry).manifest()
    config = read_config(reader, repository, manifest)
    return {} if config is None else config.labels


def _inspect_manifest(
    reader: Reader, repository: str, resolved: ResolvedManifest, *, labels: bool
) -> Inspection:
    manifest = resolved.manifest
    config = read_config(reader, repository, manifest) if labels else None
    return Inspection(
        descriptor=resolved.descriptor,
        annotations=manifest.annotations,
        artifact_type=manifest.artifact_type,
        subject=manifest.subject,
        config=manifest.config,
        layers=manifest.layers,
        labels={} if config is None else config.labels,
        platform=None if config is None else config.platform,
    )


def _inspect_artifact(content: ManifestContent) -> Inspection:
    """Return the inspection of a retired artifact manifest, whose layers are called blobs."""
    where = content.descriptor.digest
    fields = _object(parse_json(content.data, where=where), where)
    artifact_type, subject = fields.get("artifactType"), fields.get("subject")
    blobs = fields.get("blobs")
    if not isinstance(blobs, list | None):
        raise ProtocolError(f"{where}: blobs must be a list")
    return Inspection(
        descriptor=content.descriptor,
        annotations=_strings(fields.get("annotations"), f"{where}: annotations"),
        artifact_type=artifact_type if isinstance(artifact_type, str) else None,
        subject=None if subject is None else Descriptor.from_json(subject, f"{where}: subject"),
        layers=tuple(
            Descriptor.from_json(blob, f"{where}: blob {number}")
            for number, blob in enumerate(blobs or ())
        ),
    )


def _object(value: object, where: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ProtocolError(f"{where}: a JSON object expected")
    return value


def _strings(value: object, where: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, item in ({} if value is None else _object(value, where)).items():
        if not isinstance(item, str):
            raise ProtocolError(f"{where}: {key!r:.100} is not a string")
        found[key] = item
    return found

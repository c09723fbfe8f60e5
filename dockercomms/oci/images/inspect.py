"""Properties of an image, artifact or index, without pulling its layers.

Source: image-spec v1.1.1, manifest.md, image-index.md, config.md; for the retired artifact
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
"""Media types of image configs; the config of an artifact has a format of its own."""

MAX_CONFIG_BYTES = 4 * 2**20
"""As for manifests: a config of an image of 127 layers has about 100 KB."""

_LABELS_PLATFORM = Platform("linux", "amd64")
"""The labels of an index are those of its image for this platform, if there is one."""


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """The used fields of an image config."""

    platform: Platform | None
    """`None` if the config does not name both system and architecture."""
    labels: Mapping[str, str] = field(hash=False)
    data: bytes = field(repr=False)
    """The bytes of the config."""


def parse_image_config(data: bytes, *, where: str = "image config") -> ImageConfig:
    """Return the image config in `data`; `where` names it in errors.

    Raises:
        ProtocolError: `data` is no image config.

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
    """Return the manifest's image config; `None` if it is the config of an artifact.

    Takes it from the descriptor's own `data` if it is there.

    Raises:
        BlobUnknown: there is no such blob.
        ProtocolError: it is no image config, or larger than `MAX_CONFIG_BYTES`.
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
    """The properties of a manifest or index."""

    descriptor: Descriptor
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    artifact_type: str | None = None
    subject: Descriptor | None = None
    entries: tuple[Descriptor, ...] = ()
    """An index's entries, with platform, size and annotations; () for a manifest."""
    config: Descriptor | None = None
    """A manifest's config; `None` for an index."""
    layers: tuple[Descriptor, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    """The image's labels; those of an index are its linux/amd64 image's, else its first one's."""
    platform: Platform | None = None
    """The platform in the image's config; `None` for an index, or if the config was not read."""
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
        """True if the media type is one of an index."""
        return self.media_type in INDEX_MEDIA_TYPES

    @property
    def is_single_platform(self) -> bool:
        """True for one image or artifact."""
        return not self.is_index


def inspect(
    reader: Reader, ref: Reference, *, platform: Platform | None = None, labels: bool = True
) -> Inspection:
    """Return the properties of `ref`; with `platform`, those of the index entry for it.

    Args:
        reader: The store.
        ref: Digest, else tag, else `latest`.
        platform: Selects an entry of an index; without a variant it fits all variants.
        labels: Whether to read labels and platform from the config: one or two more requests.

    Raises:
        ManifestUnknown, NameUnknown: `ref` does not exist.
        PlatformNotFound: `ref` has no entry for `platform`, or is no index.
        ProtocolError: `ref` is neither a manifest nor an index.
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
    """One layer, or the config, of an image; `open` makes the first request."""

    descriptor: Descriptor
    reader: Reader = field(repr=False)
    repository: str

    def open(self) -> BlobReader:
        """Return a checked reader of the content.

        Raises:
            BlobUnknown: there is no such blob.
            SizeMismatch: it has another size in the store.
        """
        return self.reader.get_blob(
            self.repository, self.descriptor.digest, size=self.descriptor.size
        )


class Image:
    """One image or artifact: reads its config and layers only when they are used.

    Args:
        reader: The store.
        repository: The repository's name.
        resolved: Its manifest.
    """

    def __init__(self, reader: Reader, repository: str, resolved: ResolvedManifest) -> None:
        self.descriptor = resolved.descriptor
        self.manifest = resolved.manifest
        self.data = resolved.data
        """The bytes of the manifest."""
        self._reader = reader
        self._repository = repository
        self._config: ImageConfig | None = None

    @property
    def config(self) -> ImageConfig | None:
        """The image config, read at the first use; `None` if it is the config of an artifact.

        Raises:
            BlobUnknown: there is no such blob.
            ProtocolError: it is no image config.
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
        """The config's content, in any format."""
        return Layer(self.manifest.config, self._reader, self._repository)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, the lowest first."""
        return tuple(Layer(layer, self._reader, self._repository) for layer in self.manifest.layers)


def get_image(reader: Reader, ref: Reference, *, platform: Platform | None = None) -> Image:
    """Return the image or artifact `ref`; reads only its manifest.

    Args:
        reader: The store.
        ref: Digest, else tag, else `latest`.
        platform: Selects an entry of an index.

    Raises:
        UsageError: `ref` is an index, and there is no platform.
        PlatformNotFound: `ref` has no entry for `platform`, or is no index. ManifestUnknown,
            NameUnknown: `ref` does not exist.
        ProtocolError: `ref` is neither a manifest nor an index.
    """
    content = get_reference(reader, ref)
    if not content.is_index:
        _refuse_platform(content, platform)
    elif platform is None:
        raise UsageError(
            f"{ref.full()} is an index of several platforms", hint="name a platform: linux/amd64"
        )
    resolved = resolve_content(reader, ref.repository, content, platform=platform)
    return Image(reader, ref.repository, resolved)


def _refuse_platform(content: ManifestContent, platform: Platform | None) -> None:
    if platform is not None:
        raise PlatformNotFound(
            f"{content.descriptor.digest}: not an index, so it has no entry for {platform}",
            hint="leave out the platform",
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

    If that entry is an index or no image, there are no labels.
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
    """Return the properties of a retired artifact manifest, whose layers are called blobs."""
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

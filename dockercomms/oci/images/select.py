"""Selection of one manifest: the entry of an index that fits a platform.

BuildKit adds attestations to an index; they are never selected.
Source: image-spec v1.1.1, image-index.md; BuildKit's "Image attestation storage".
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from dockercomms.errors import PlatformNotFound, ProtocolError, SizeMismatch
from dockercomms.oci.interface import Reader, read_all
from dockercomms.oci.model import (
    MANIFEST_MEDIA_TYPES,
    MAX_MANIFEST_BYTES,
    MEDIA_TYPE_DOCKER_LIST,
    MEDIA_TYPE_DOCKER_MANIFEST,
    MEDIA_TYPE_INDEX,
    MEDIA_TYPE_MANIFEST,
    Descriptor,
    Digest,
    Index,
    Manifest,
    Platform,
    parse_index,
    parse_manifest,
)
from dockercomms.oci.reference import Reference
from dockercomms.oci.strict_json import parse_json
from dockercomms.platforms.records import dataclass

INDEX_MEDIA_TYPES = frozenset({MEDIA_TYPE_INDEX, MEDIA_TYPE_DOCKER_LIST})
IMAGE_MEDIA_TYPES = frozenset({MEDIA_TYPE_MANIFEST, MEDIA_TYPE_DOCKER_MANIFEST})

ANNOTATION_REFERENCE_TYPE = "vnd.docker.reference.type"
ANNOTATION_REFERENCE_DIGEST = "vnd.docker.reference.digest"
ATTESTATION = "attestation-manifest"
_UNKNOWN = "unknown"

MAX_INDEX_DEPTH = 8
"""Largest depth of indexes within indexes; real ones have at most two levels."""

MAX_INDEXES_READ = 64
"""Largest number of indexes that one search reads; eight levels could contain any number."""

_MAX_LISTED = 20
"""Number of platforms in an error."""

Fallback = Literal["none", "architecture", "first"]
"""The choice if no entry fits: an error; an entry of the same architecture with any system; such an
entry, else the first one."""


@dataclass(frozen=True, slots=True)
class ManifestContent:
    """The bytes of a manifest or index, not parsed yet."""

    descriptor: Descriptor
    """The media type is the manifest's own if the store has none."""
    data: bytes

    @property
    def is_index(self) -> bool:
        """True if the media type is one of an index."""
        return self.descriptor.media_type in INDEX_MEDIA_TYPES

    def manifest(self) -> Manifest:
        """Return it as an image manifest.

        Raises:
            ProtocolError: it is no image manifest.
        """
        if self.descriptor.media_type not in IMAGE_MEDIA_TYPES:
            raise ProtocolError(
                f"{self.descriptor.digest}: media type {self.descriptor.media_type!r:.200}; "
                f"expected {MEDIA_TYPE_MANIFEST}"
            )
        return parse_manifest(self.data, where=self.descriptor.digest)

    def index(self) -> Index:
        """Return it as an index.

        Raises:
            ProtocolError: it is no index.
        """
        return parse_index(self.data, where=self.descriptor.digest)


@dataclass(frozen=True, slots=True)
class ResolvedManifest:
    """The image or artifact manifest that a search found."""

    descriptor: Descriptor
    """The entry in the index, with platform and annotations, if there was an index."""
    data: bytes
    manifest: Manifest


def get_reference(reader: Reader, ref: Reference) -> ManifestContent:
    """Return the manifest under the digest, else the tag, of `ref`, else under `latest`.

    Raises:
        ManifestUnknown, NameUnknown: it does not exist.
        IntegrityError: the content has another digest.
    """
    if ref.digest is not None:
        opened = reader.get_manifest(ref.repository, ref.digest)
    else:
        opened = reader.get_tag(ref.repository, ref.tag_or_latest)
    data, descriptor = read_all(opened, MAX_MANIFEST_BYTES)
    return _content(descriptor, data)


def get_content(reader: Reader, repository: str, descriptor: Descriptor) -> ManifestContent:
    """Return the manifest of `descriptor`, from its own `data` if it is there.

    Raises:
        ManifestUnknown, NameUnknown: it does not exist.
        IntegrityError: the content has another digest or size.
    """
    data = descriptor.inline()
    if data is None:
        data, stored = read_all(
            reader.get_manifest(repository, descriptor.digest), MAX_MANIFEST_BYTES
        )
        if stored.size != descriptor.size:
            raise SizeMismatch(
                f"{descriptor.digest}: {descriptor.size} bytes expected, {stored.size} stored"
            )
    return _content(descriptor, data)


def is_attestation(entry: Descriptor) -> bool:
    """Return whether an index entry is an attestation, which does not run on any platform."""
    if entry.annotations.get(ANNOTATION_REFERENCE_TYPE) == ATTESTATION:
        return True
    platform = entry.platform
    return platform is not None and platform.os == platform.architecture == _UNKNOWN


def select(
    index: Index, want: Platform, *, fallback: Fallback = "none", where: str = "index"
) -> Descriptor:
    """Return the first entry of `index` for the platform `want`.

    An entry without a variant has its architecture's default: v8 for arm64, v7 for arm. A `want`
    without a variant takes any, the default first. A `want` with an `os_version` takes that version
    and those that begin with it.

    Args:
        index: The index.
        want: The platform, in any spelling.
        fallback: The choice if no entry fits.
        where: Names the index in errors.

    Raises:
        PlatformNotFound: no entry fits; the error names the platforms of the index.

    Source: image-spec v1.1.1, image-index.md.
    """
    entries = [entry for entry in index.manifests if not is_attestation(entry)]
    fitting = [entry for entry in entries if _fits(entry.platform, want)]
    if fitting:
        return next((entry for entry in fitting if _is_default(entry.platform)), fitting[0])
    if fallback != "none":
        architecture = want.normalized().architecture
        for entry in entries:
            if entry.platform and entry.platform.normalized().architecture == architecture:
                return entry
    if fallback == "first" and entries:
        return entries[0]
    raise PlatformNotFound(f"{where}: no entry for {want}; it has {_listed(entries)}")


def resolve_manifest(
    reader: Reader,
    repository: str,
    descriptor: Descriptor,
    *,
    platform: Platform | None = None,
    fallback: Fallback = "none",
) -> ResolvedManifest:
    """Return the manifest of `descriptor`; for an index, the manifest in it that fits `platform`.

    Searches indexes within the index, too: the entry that fits, else those without a platform.

    Args:
        reader: The store.
        repository: The repository's name.
        descriptor: A manifest or an index.
        platform: The platform, ignored for a manifest; `None`: this machine's.
        fallback: The choice if no entry fits; see `select`.

    Raises:
        PlatformNotFound: no entry fits. ManifestUnknown, NameUnknown: it does not exist.
        ProtocolError: it is no manifest, an index contains itself, or there are more than
            `MAX_INDEX_DEPTH` indexes within one another or `MAX_INDEXES_READ` in all.
    """
    content = get_content(reader, repository, descriptor)
    return resolve_content(reader, repository, content, platform=platform, fallback=fallback)


def resolve_content(
    reader: Reader,
    repository: str,
    content: ManifestContent,
    *,
    platform: Platform | None = None,
    fallback: Fallback = "none",
) -> ResolvedManifest:
    """Select a manifest as `resolve_manifest`, beginning with content that was already read."""
    search = _Search(reader, repository, platform or Platform.host())
    return search.descend(content, fallback, ())


class _Search:
    """One search through an index and the indexes in it."""

    def __init__(self, reader: Reader, repository: str, want: Platform) -> None:
        self._reader = reader
        self._repository = repository
        self._want = want
        self._read = 0

    def descend(
        self, content: ManifestContent, fallback: Fallback, above: tuple[Digest, ...]
    ) -> ResolvedManifest:
        """Return the manifest that fits; `above` are the indexes on the path to `content`."""
        digest = content.descriptor.digest
        if not content.is_index:
            return ResolvedManifest(content.descriptor, content.data, content.manifest())
        if len(above) == MAX_INDEX_DEPTH:
            raise ProtocolError(f"{digest}: indexes are nested more than {MAX_INDEX_DEPTH} deep")
        self._read += 1
        if self._read > MAX_INDEXES_READ:
            raise ProtocolError(f"{above[0]}: more than {MAX_INDEXES_READ} indexes in it")
        index = content.index()
        above = (*above, digest)
        try:
            return self._enter(select(index, self._want, where=digest), fallback, above)
        except PlatformNotFound:
            pass  # it may be in an index without a platform
        for entry in index.manifests:
            if entry.platform is None and entry.media_type in INDEX_MEDIA_TYPES:
                try:
                    return self._enter(entry, "none", above)
                except PlatformNotFound:
                    pass  # it is not in this one either
        entry = select(index, self._want, fallback=fallback, where=digest)
        return self._enter(entry, fallback, above)

    def _enter(
        self, entry: Descriptor, fallback: Fallback, above: tuple[Digest, ...]
    ) -> ResolvedManifest:
        if entry.digest in above:
            raise ProtocolError(f"index {entry.digest} contains itself")
        content = get_content(self._reader, self._repository, entry)
        return self.descend(content, fallback, above)


def _content(descriptor: Descriptor, data: bytes) -> ManifestContent:
    """Return the content; its media type is the manifest's own if the store has none."""
    if descriptor.media_type not in MANIFEST_MEDIA_TYPES:
        fields = parse_json(data, where=descriptor.digest)
        if isinstance(fields, dict):
            named = fields.get("mediaType")
            implied = MEDIA_TYPE_INDEX if "manifests" in fields else MEDIA_TYPE_MANIFEST
            media_type = named if isinstance(named, str) and named else implied
            descriptor = replace(descriptor, media_type=media_type)
    return ManifestContent(descriptor, data)


def _fits(platform: Platform | None, want: Platform) -> bool:
    if platform is None:
        return False
    have, asked = platform.normalized(), want.normalized()
    if (have.os, have.architecture) != (asked.os, asked.architecture):
        return False
    version = want.os_version
    if version and not f"{have.os_version}.".startswith(f"{version}."):
        return False
    return not want.variant or have.variant == asked.variant


def _is_default(platform: Platform | None) -> bool:
    return platform is not None and platform.normalized() == (
        replace(platform, variant="").normalized()
    )


def _listed(entries: list[Descriptor]) -> str:
    if not entries:
        return "no entries"
    names = list(dict.fromkeys(str(entry.platform) for entry in entries if entry.platform))
    if len(names) > _MAX_LISTED:
        names[_MAX_LISTED:] = [f"{len(names) - _MAX_LISTED} more"]
    unnamed = sum(entry.platform is None for entry in entries)
    if unnamed:
        names.append(f"{unnamed} without a platform")
    return ", ".join(names)

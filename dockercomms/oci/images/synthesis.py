"""Synthesis of an index with a platform and a source for each entry, from any manifest.

Docker's official images are built from such indexes: each entry names its architecture and the
place of its content.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from dockercomms.errors import AuthError, NotFoundError
from dockercomms.oci.images.inspect import read_config
from dockercomms.oci.images.select import (
    ANNOTATION_REFERENCE_DIGEST,
    ANNOTATION_REFERENCE_TYPE,
    ATTESTATION,
    IMAGE_MEDIA_TYPES,
    ManifestContent,
    get_content,
    get_reference,
)
from dockercomms.oci.interface import Reader
from dockercomms.oci.model import (
    ANNOTATION_REF_NAME,
    MEDIA_TYPE_DOCKER_LIST,
    MEDIA_TYPE_DOCKER_MANIFEST,
    MEDIA_TYPE_INDEX,
    Descriptor,
    Digest,
    Index,
    Platform,
    parse_index,
)
from dockercomms.oci.reference import Reference
from dockercomms.oci.strict_json import canonical_json, parse_json

ANNOTATION_BASHBREW_ARCH = "com.docker.official-images.bashbrew.arch"

_BASHBREW_ARCHES = {
    ("linux", "amd64", ""): "amd64",
    ("linux", "arm", "v5"): "arm32v5",
    ("linux", "arm", "v6"): "arm32v6",
    ("linux", "arm", "v7"): "arm32v7",
    ("linux", "arm64", "v8"): "arm64v8",
    ("linux", "386", ""): "i386",
    ("linux", "mips64le", ""): "mips64le",
    ("linux", "ppc64le", ""): "ppc64le",
    ("linux", "riscv64", ""): "riscv64",
    ("linux", "s390x", ""): "s390x",
    ("windows", "amd64", ""): "windows-amd64",
}


def bashbrew_arch(platform: Platform) -> str | None:
    """Return the official images' name of a normalized platform; `None` if they lack it."""
    return _BASHBREW_ARCHES.get((platform.os, platform.architecture, platform.variant))


def synthesize_index(
    reader: Reader,
    ref: Reference,
    *,
    name: str | None = None,
    arch_annotation: str = ANNOTATION_BASHBREW_ARCH,
    denied: Literal["missing", "raise"] = "missing",
) -> Index | None:
    """Return an index for `ref` with all fields that can be found; `None` if `ref` does not exist.

    An image becomes an index of one entry. An entry with an incomplete platform gets that of its
    config. Platforms are normalized. Of entries with one digest the first stays. An attestation
    stays if it follows its image and that has an architecture. Inline data and an architecture from
    the registry are removed.

    Args:
        reader: The store.
        ref: Digest, else tag, else `latest`.
        name: The name before `@digest` in annotations that name content; `None`: `ref`.
        arch_annotation: The annotation for an entry's architecture.
        denied: Whether a refusal of `ref` itself counts as its absence.

    Raises:
        ManifestUnknown, BlobUnknown: a needed entry or config is missing.
        ProtocolError: `ref` is neither a manifest nor an index, not strictly JSON, or not of
            version 2.

    Source: image-spec v1.1.1, image-index.md and annotations.md.
    """
    try:
        content = get_reference(reader, ref)
    except NotFoundError:
        return None
    except AuthError:
        if denied == "raise":
            raise
        return None
    source = str(replace(ref, digest=None)) if name is None else name
    index = _parse_lenient(content) if content.is_index else _index_of(content)
    synthesis = _Synthesis(reader, ref.repository, content, source, arch_annotation)
    return replace(
        index,
        manifests=synthesis.entries(index.manifests),
        annotations={**index.annotations, ANNOTATION_REF_NAME: synthesis.name(content.descriptor)},
        media_type=index.media_type or _index_media_type(index.manifests),
    )


class _Synthesis:
    """The synthesis of one index."""

    def __init__(
        self,
        reader: Reader,
        repository: str,
        known: ManifestContent,
        source: str,
        arch_annotation: str,
    ) -> None:
        self._reader = reader
        self._repository = repository
        self._known = known
        self._source = source
        self._arch_annotation = arch_annotation

    def name(self, descriptor: Descriptor) -> str:
        """Return the name of the content of `descriptor`."""
        return f"{self._source}@{descriptor.digest}"

    def entries(self, entries: tuple[Descriptor, ...]) -> tuple[Descriptor, ...]:
        """Return the entries of the new index."""
        arches: dict[Digest, str | None] = {}
        made = []
        for entry in entries:
            if entry.digest in arches:
                continue
            platform = self._platform(entry)
            annotations = {**entry.annotations}
            annotations.pop(self._arch_annotation, None)
            arch = None if platform is None else bashbrew_arch(platform)
            arches[entry.digest] = arch
            if annotations.get(ANNOTATION_REFERENCE_TYPE) == ATTESTATION:
                subject = annotations.get(ANNOTATION_REFERENCE_DIGEST, "")
                arch = arches.get(Digest(subject))
                if arch is None:
                    continue
            annotations[ANNOTATION_REF_NAME] = self.name(entry)
            if arch is not None:
                annotations[self._arch_annotation] = arch
            made.append(replace(entry, annotations=annotations, platform=platform, data=None))
        return tuple(made)

    def _platform(self, entry: Descriptor) -> Platform | None:
        """Return the entry's platform; if it is incomplete, its config's."""
        platform = entry.platform
        if platform is None or not (platform.os and platform.architecture):
            if entry.media_type not in IMAGE_MEDIA_TYPES:
                return None
            content = self._known
            if entry.digest != content.descriptor.digest:
                content = get_content(self._reader, self._repository, entry)
            config = read_config(self._reader, self._repository, content.manifest())
            platform = None if config is None else config.platform
        return None if platform is None else platform.normalized()


def _parse_lenient(content: ManifestContent) -> Index:
    """Return the index; a missing version counts as version 2."""
    where = content.descriptor.digest
    fields = parse_json(content.data, where=where)
    if isinstance(fields, dict) and fields.get("schemaVersion", 0) in (0, None):
        return parse_index(canonical_json({**fields, "schemaVersion": 2}), where=where)
    return parse_index(content.data, where=where)


def _index_of(content: ManifestContent) -> Index:
    content.manifest()  # refuses all but manifests
    return Index(manifests=(content.descriptor.bare(),), media_type=None)


def _index_media_type(entries: tuple[Descriptor, ...]) -> str:
    """Return the media type of an index without one: Docker's for a Docker image."""
    docker = bool(entries) and entries[0].media_type == MEDIA_TYPE_DOCKER_MANIFEST
    return MEDIA_TYPE_DOCKER_LIST if docker else MEDIA_TYPE_INDEX

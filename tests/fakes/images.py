"""Images as builders make them, small: gzipped tars, a config that names them, an index of both."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from dockercomms.oci.interface import Registry, read_all
from dockercomms.oci.model import (
    EMPTY_CONFIG,
    EMPTY_CONFIG_BYTES,
    MEDIA_TYPE_IMAGE_CONFIG,
    MEDIA_TYPE_IMAGE_LAYER_GZIP,
    MEDIA_TYPE_INDEX,
    MEDIA_TYPE_MANIFEST,
    Descriptor,
    Index,
    Platform,
)
from dockercomms.oci.strict_json import canonical_json

SIGNATURE_TYPE = "application/vnd.example.signature.v1"


@dataclass(frozen=True)
class Built:
    """A manifest, and the blobs it is made of."""

    data: bytes
    blobs: tuple[tuple[Descriptor, bytes], ...]
    media_type: str = MEDIA_TYPE_MANIFEST
    platform: Platform | None = None

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor.of(self.data, self.media_type)

    @property
    def entry(self) -> Descriptor:
        """The descriptor as an index has it."""
        return replace(self.descriptor, platform=self.platform)


def layer(seed: int, size: int = 200) -> tuple[Descriptor, bytes, str]:
    """Return a layer of one file with `size` random bytes, and the digest of its tar."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        member = tarfile.TarInfo(f"file-{seed}")
        member.size = size
        tar.addfile(member, io.BytesIO(random.Random(seed).randbytes(size)))
    packed = gzip.compress(file.getvalue(), 1, mtime=0)
    plain = f"sha256:{hashlib.sha256(file.getvalue()).hexdigest()}"
    return Descriptor.of(packed, MEDIA_TYPE_IMAGE_LAYER_GZIP), packed, plain


def image(seed: int = 1, *, layers: int = 2, size: int = 200, architecture: str = "amd64") -> Built:
    """Return an image; another seed gives other layers."""
    made = [layer(100 * seed + number, size) for number in range(layers)]
    config = canonical_json(
        {
            "architecture": architecture,
            "os": "linux",
            "config": {"Labels": {"seed": str(seed)}},
            "rootfs": {"type": "layers", "diff_ids": [plain for _, _, plain in made]},
        }
    )
    config_descriptor = Descriptor.of(config, MEDIA_TYPE_IMAGE_CONFIG)
    fields: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MEDIA_TYPE_MANIFEST,
        "config": config_descriptor.to_json(),
        "layers": [descriptor.to_json() for descriptor, _, _ in made],
    }
    blobs = ((config_descriptor, config), *((one, data) for one, data, _ in made))
    return Built(canonical_json(fields), blobs, platform=Platform("linux", architecture))


def artifact(
    name: str, *, subject: Descriptor | None = None, artifact_type: str = SIGNATURE_TYPE
) -> Built:
    """Return an artifact of one small blob."""
    content = f"content of {name}".encode()
    blob = Descriptor.of(content, "application/vnd.example.content")
    fields: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MEDIA_TYPE_MANIFEST,
        "artifactType": artifact_type,
        "config": EMPTY_CONFIG.to_json(),
        "layers": [blob.to_json()],
        "annotations": {"name": name},
    }
    if subject is not None:
        fields["subject"] = subject.bare().to_json()
    return Built(canonical_json(fields), ((EMPTY_CONFIG, EMPTY_CONFIG_BYTES), (blob, content)))


def index_of(*children: Built) -> Built:
    """Return the index of `children`, each with its platform."""
    data = Index(manifests=tuple(child.entry for child in children)).to_bytes()
    return Built(data, (), media_type=MEDIA_TYPE_INDEX)


def push(registry: Registry, repository: str, built: Built, *tags: str) -> Descriptor:
    """Push blobs and manifest the plain way."""
    for descriptor, data in built.blobs:
        registry.push_blob(repository, descriptor, lambda data=data: io.BytesIO(data))  # type: ignore[misc]
    return registry.push_manifest(repository, built.data, built.media_type, tags=tags)


def push_tree(registry: Registry, repository: str, children: Sequence[Built], tag: str) -> Built:
    """Push `children` and the index of them under `tag`; returns the index."""
    for child in children:
        push(registry, repository, child)
    built = index_of(*children)
    push(registry, repository, built, tag)
    return built


def layers_of(built: Built) -> list[str]:
    """Return the digests of a manifest's layers."""
    return [item["digest"] for item in json.loads(built.data)["layers"]]


def holds(registry: Registry, repository: str, built: Built) -> bool:
    """Return whether a manifest and its blobs are there, all of them right."""
    data, _ = read_all(registry.get_manifest(repository, built.descriptor.digest), 4 * 2**20)
    for blob, expected in built.blobs:
        assert read_all(registry.get_blob(repository, blob.digest), 4 * 2**20)[0] == expected
    return data == built.data

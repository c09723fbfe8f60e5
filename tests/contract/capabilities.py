"""The capabilities that stores lack, and content that the contract pushes."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dockercomms.errors import DockerCommsError, RegistryError
from dockercomms.oci.interface import Registry
from dockercomms.oci.model import (
    EMPTY_CONFIG,
    EMPTY_CONFIG_BYTES,
    MEDIA_TYPE_INDEX,
    MEDIA_TYPE_MANIFEST,
    MEDIA_TYPE_OCTET_STREAM,
    Descriptor,
)

ARTIFACT_TYPE = "application/vnd.example.contract.v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """A store's known deviations; by default it does all that the interface says."""

    referrers_api: bool = True
    """Off: `referrers` reads the tag schema."""
    referrers_artifact_type: bool = True
    """Off: the referrers API puts the config's media type into `artifactType`."""
    referrers_annotations: bool = True
    """Off: the referrers API leaves the annotations out."""
    sorted_tags: bool = True
    obeys_page_size: bool = True
    obeys_start_after: bool = True
    start_after_must_exist: bool = False
    """On: a `start_after` that is no tag is answered with NameUnknown."""
    wraps_past_end: bool = False
    """On: a `start_after` behind the last tag gives the whole list."""
    catalogue: bool = True
    catalogue_pages: bool = True
    """Off: a page of the catalogue is all that can be had of it."""
    delete_blobs: bool = True
    delete_manifests: bool = True
    delete_takes_tags: bool = True
    """Off: the tags of a deleted manifest are still listed."""
    delete_tags: bool = True
    keeps_untagged: bool = True
    """Off: a manifest whose tag moves away is gone."""
    upload_status: bool = True
    """Off: an upload cannot be resumed, because the store does not tell where it is."""
    upload_checks_offset: bool = True
    """Off: bytes at a wrong offset are taken silently."""
    upload_cancel: bool = True
    mounts: bool = True
    checks_blobs: bool = True
    """Off: a manifest may name a blob that is not there."""
    checks_manifests: bool = True
    """Off: an index may name a manifest that is not there."""
    checks_json: bool = True
    """Off: a manifest may be anything."""
    manifest_limit: bool = True
    """Off: a manifest may be larger than 4 MiB."""
    plain_errors: bool = False
    """On: some refusals are server errors that do not say what is wrong."""
    own_clock: bool = False
    """On: `server_time` is this machine's clock, known before the first call."""

    def refusal(self, *precise: type[DockerCommsError]) -> tuple[type[DockerCommsError], ...]:
        """Return the errors by which a refusal is told: `precise`, or just any of a registry."""
        return (*precise, RegistryError) if self.plain_errors else precise


def content(size: int, seed: int = 1) -> bytes:
    """Return `size` bytes that do not repeat."""
    return random.Random(seed).randbytes(size)


def push(
    registry: Registry, repository: str, data: bytes, media_type: str = MEDIA_TYPE_OCTET_STREAM
) -> Descriptor:
    """Push `data` as a blob."""
    descriptor = Descriptor.of(data, media_type)
    registry.push_blob(repository, descriptor, lambda: io.BytesIO(data))
    return descriptor


def push_empty_config(registry: Registry, repository: str) -> None:
    """Push what the manifests of this module need."""
    registry.push_blob(repository, EMPTY_CONFIG, lambda: io.BytesIO(EMPTY_CONFIG_BYTES))


def manifest_bytes(
    name: str,
    *,
    subject: Descriptor | None = None,
    layers: Sequence[Descriptor] = (EMPTY_CONFIG,),
    config: Descriptor = EMPTY_CONFIG,
    artifact_type: str = ARTIFACT_TYPE,
    annotations: Mapping[str, str] | None = None,
) -> bytes:
    """Return an artifact manifest; `name` makes it differ from others."""
    fields: dict[str, object] = {
        "schemaVersion": 2,
        "mediaType": MEDIA_TYPE_MANIFEST,
        "artifactType": artifact_type,
        "config": config.to_json(),
        "layers": [layer.to_json() for layer in layers],
    }
    if subject is not None:
        fields["subject"] = subject.bare().to_json()
    fields["annotations"] = {"example.name": name, **(annotations or {})}
    return json.dumps(fields).encode()


def push_manifest(
    registry: Registry,
    repository: str,
    name: str,
    *,
    tags: Sequence[str] = (),
    subject: Descriptor | None = None,
    artifact_type: str = ARTIFACT_TYPE,
    annotations: Mapping[str, str] | None = None,
) -> Descriptor:
    """Push an artifact manifest of `name`; the empty config has to be there."""
    data = manifest_bytes(
        name, subject=subject, artifact_type=artifact_type, annotations=annotations
    )
    return registry.push_manifest(repository, data, MEDIA_TYPE_MANIFEST, tags=tags)


def index_bytes(manifests: Sequence[Descriptor], *, subject: Descriptor | None = None) -> bytes:
    """Return an index of `manifests`."""
    fields: dict[str, object] = {
        "schemaVersion": 2,
        "mediaType": MEDIA_TYPE_INDEX,
        "manifests": [entry.to_json() for entry in manifests],
    }
    if subject is not None:
        fields["artifactType"] = ARTIFACT_TYPE
        fields["subject"] = subject.bare().to_json()
    return json.dumps(fields).encode()

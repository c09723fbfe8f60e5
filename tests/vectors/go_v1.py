"""Loads what the 1.0 program wrote, and the deviations it was shown, into a registry."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from dockercomms.oci.interface import Registry
from dockercomms.oci.model import EMPTY_CONFIG, EMPTY_CONFIG_BYTES, Descriptor, digest_of

FOLDER = Path(__file__).parents[2] / "spec" / "vectors" / "go-v1"
MEDIA_TYPE_BLOB = "application/octet-stream"


@dataclass(frozen=True)
class Deviation:
    """One case of deviations.json."""

    name: str
    tag: str
    manifest: bytes
    manifest_digest: str
    media_type: str
    blobs: tuple[bytes, ...]
    go: dict
    proposed_v1_1: str
    expect: str
    now: datetime
    reason: str = ""
    recv_args: tuple[str, ...] = ()


@dataclass(frozen=True)
class Output:
    """One thing the 1.0 program wrote: a message, receipt, bundle or index."""

    name: str
    tag: str
    manifest: bytes
    manifest_digest: str
    media_type: str
    artifact_type: str
    blobs: tuple[bytes, ...]
    payload_sha256: str = ""
    payload_size: int = 0
    filename: str = ""
    note: str = ""


def deviations() -> list[Deviation]:
    """The 61 hand-made deviations, all addressed to `bob`."""
    return [_deviation(**case) for case in _load("deviations.json")["cases"]]


def outputs() -> list[Output]:
    """Everything the 1.0 program wrote."""
    return [_output(**vector) for vector in _load("messages.json")["vectors"]]


def put(case: Deviation | Output, registry: Registry, repository: str = "mail") -> Descriptor:
    """Store a case as it stood in the registry: its blobs, and its manifest under its tag."""
    for data in (EMPTY_CONFIG_BYTES, *case.blobs):
        descriptor = Descriptor.of(data, MEDIA_TYPE_BLOB)
        registry.push_blob(repository, descriptor, lambda data=data: io.BytesIO(data))
    assert EMPTY_CONFIG.digest == digest_of(EMPTY_CONFIG_BYTES)
    return registry.push_manifest(repository, case.manifest, case.media_type, tags=[case.tag])


def _deviation(
    *, name, tag, manifest, content_type, manifest_digest, blobs, go, proposed_v1_1, now, expect,
    reason="", recv_args=(),
) -> Deviation:  # fmt: skip
    return Deviation(
        name=name,
        tag=tag,
        manifest=(FOLDER / manifest).read_bytes(),
        manifest_digest=manifest_digest,
        media_type=content_type,
        blobs=_blobs(blobs),
        go=go,
        proposed_v1_1=proposed_v1_1,
        expect=expect,
        now=datetime.fromisoformat(now),
        reason=reason,
        recv_args=tuple(recv_args),
    )


def _output(
    *, name, produced_by, tag, manifest, manifest_digest, manifest_size, content_type, blobs=(),
    artifactType="",  # noqa: N803 - as the file has it
    payload_sha256="", payload_size=0, filename="", note="",
) -> Output:  # fmt: skip
    data = (FOLDER / manifest).read_bytes()
    assert produced_by
    assert len(data) == manifest_size
    return Output(
        name=name,
        tag=tag,
        manifest=data,
        manifest_digest=manifest_digest,
        media_type=content_type,
        artifact_type=artifactType,
        blobs=_blobs(blobs),
        payload_sha256=payload_sha256,
        payload_size=payload_size,
        filename=filename,
        note=note,
    )


def _blobs(entries) -> tuple[bytes, ...]:
    out = []
    for entry in entries:
        data = (FOLDER / entry["file"]).read_bytes()
        assert digest_of(data) == entry["digest"]
        out.append(data)
    return tuple(out)


def _load(name: str) -> dict:
    return json.loads((FOLDER / name).read_text("utf-8"))

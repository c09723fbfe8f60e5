"""Looking at images and indexes against the measured behaviour of cog's registry client.

The vectors name their fixtures and give digests; `FIXTURES` makes the same bytes again, which the
digests prove.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from dockercomms.errors import DockerCommsError, PlatformNotFound, ProtocolError, UsageError
from dockercomms.oci.client import Client
from dockercomms.oci.images.inspect import Inspection, get_image, inspect
from dockercomms.oci.interface import Registry
from dockercomms.oci.model import (
    EMPTY_CONFIG,
    EMPTY_CONFIG_BYTES,
    MEDIA_TYPE_DOCKER_MANIFEST,
    MEDIA_TYPE_IMAGE_CONFIG,
    MEDIA_TYPE_INDEX,
    MEDIA_TYPE_MANIFEST,
    Descriptor,
    Platform,
)
from dockercomms.oci.reference import Reference
from tests.fakes.static_reader import StaticReader

FILE = Path(__file__).parents[2] / "spec" / "vectors" / "seeds" / "cog_inspect.json"
CALLS = (
    "Exists",
    "GetDescriptor",
    "GetImage(None)",
    "Inspect(None)",
    "Inspect(linux/amd64)",
    "Inspect(linux/arm64/v8)",
)
ROWS: dict[str, dict[str, Any]] = {
    row["fixture"]: row
    for row in json.loads(FILE.read_text("utf-8"))
    if set(row) == {*CALLS, "fixture", "ref"} or pytest.fail(f"unknown keys in {row['fixture']}")
}
REF = Reference(host="registry.example", repository="repo", tag="t")
MEDIA_TYPE_DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER = (MEDIA_TYPE_DOCKER_MANIFEST, MEDIA_TYPE_DOCKER_CONFIG)


def compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


class Fixture(StaticReader):
    """A registry that holds what one row was measured on."""

    def image(
        self,
        marker: str,
        os: str,
        arch: str,
        variant: str = "",
        types: tuple[str, str] = (MEDIA_TYPE_MANIFEST, MEDIA_TYPE_IMAGE_CONFIG),
    ) -> Descriptor:
        fields: dict[str, object] = {"architecture": arch, "os": os}
        if variant:
            fields["variant"] = variant
        if os != "unknown":
            fields["rootfs"] = {"type": "layers", "diff_ids": []}
        config = self.add_blob(compact(fields), types[1])
        return self.manifest(marker, config, types[0])

    def manifest(
        self, marker: str, config: Descriptor, media_type: str = MEDIA_TYPE_MANIFEST
    ) -> Descriptor:
        data = compact(
            {
                "schemaVersion": 2,
                "mediaType": media_type,
                "config": config.to_json(),
                "layers": [],
                "annotations": {"marker": marker},
            }
        )
        return self.add_manifest(data, media_type, "t")

    def index(
        self,
        *entries: dict[str, object],
        version: int = 2,
        media_type: str | None = MEDIA_TYPE_INDEX,
        tail: bytes = b"",
    ) -> Descriptor:
        fields: dict[str, object] = {"schemaVersion": version}
        if media_type is not None:
            fields["mediaType"] = media_type
        data = compact({**fields, "manifests": list(entries)}) + tail
        return self.add_manifest(data, MEDIA_TYPE_INDEX, "t")

    def artifact(self) -> Descriptor:
        self.add_blob(EMPTY_CONFIG_BYTES, EMPTY_CONFIG.media_type)
        return self.manifest("x", EMPTY_CONFIG)


def entry(
    image: Descriptor, os: str, arch: str, annotations: dict[str, str] | None = None
) -> dict[str, object]:
    made: dict[str, object] = {
        **image.to_json(),
        "platform": {"architecture": arch, "os": os},
    }
    return made if annotations is None else {**made, "annotations": annotations}


def attested(made: Fixture) -> Descriptor:
    image = made.image("a", "linux", "loong64")
    attestation = made.image("att", "unknown", "unknown")
    annotations = {
        "vnd.docker.reference.digest": str(image.digest),
        "vnd.docker.reference.type": "attestation-manifest",
    }
    return made.index(
        entry(image, "linux", "loong64"), entry(attestation, "unknown", "unknown", annotations)
    )


def untrusted(made: Fixture) -> Descriptor:
    claims = {
        "com.docker.official-images.bashbrew.arch": "evil",
        "keep": "me",
        "org.opencontainers.image.ref.name": "evil",
    }
    return made.index(
        entry(made.image("a", "linux", "amd64"), "linux", "amd64", claims),
        entry(made.image("b", "linux", "loong64"), "linux", "loong64", claims),
    )


FIXTURES: dict[str, Callable[[Fixture], Descriptor]] = {
    "single-oci-linux-amd64-": lambda made: made.image("x", "linux", "amd64"),
    "single-oci-linux-amd64-v2": lambda made: made.image("x", "linux", "amd64", "v2"),
    "artifact-empty-config": Fixture.artifact,
    "index-platforms-present": lambda made: made.index(
        entry(made.image("a", "linux", "amd64"), "linux", "amd64"),
        entry(made.image("b", "linux", "arm64"), "linux", "arm64"),
    ),
    "index-platform-half": lambda made: made.index(
        entry(made.image("a", "linux", "s390x"), "", "s390x")
    ),
    "index-attestation-of-unknown-arch": attested,
    "index-remote-arch-untrusted": untrusted,
    "index-no-mediaType-docker-child": lambda made: made.index(
        entry(made.image("a", "linux", "amd64", types=DOCKER), "linux", "amd64"), media_type=None
    ),
    "index-empty": lambda made: made.index(),
    "index-schema-1": lambda made: made.index(version=1),
    "index-wrong-inner-mediaType": lambda made: made.index(media_type="application/json"),
    "index-trailing-garbage": lambda made: made.index(tail=b"x"),
}
MADE_DIFFERENTLY = {"index-remote-arch-untrusted"}
"""The index itself has 72 bytes more in the original; its entries are the same."""

ANOTHER_RESULT_HERE: dict[tuple[str, str], tuple[str, object]] = {
    ("index-platforms-present", "Inspect(linux/arm64/v8)"): (
        "an arm64 entry without a variant is v8: every tool writes it so",
        "sha256:216d344625381b66b6c1ecb258727dd43aceb2af199f0e99461e4522ee9f3b4f",
    ),
    ("index-empty", "Inspect(None)"): ("an index may be empty; nothing has to be guessed", []),
    **{
        (name, call): ("what is no valid index is not taken for one without entries", ProtocolError)
        for name in ("index-schema-1", "index-wrong-inner-mediaType", "index-trailing-garbage")
        for call in CALLS[3:]
    },
}
"""Differences from cog: the reason, and our error, entries or digest."""

FEWER_REQUESTS_HERE = {
    ("artifact-empty-config", "Inspect(None)"): "an artifact's config holds no labels"
}

ERRORS: dict[str, type[DockerCommsError]] = {
    "platform must be specified for multi-platform image": UsageError,
    "platform not found in manifest list": PlatformNotFound,
    "image is not a manifest list but platform was specified": PlatformNotFound,
}
"""cog's error texts and our classes."""


@pytest.fixture(params=ROWS)
def row(request: pytest.FixtureRequest) -> dict[str, Any]:
    return ROWS[request.param]


@pytest.fixture
def reader(row: dict[str, Any]) -> Fixture:
    made = Fixture()
    descriptor = FIXTURES[row["fixture"]](made)
    measured = row["GetDescriptor"]["result"]
    if row["fixture"] not in MADE_DIFFERENTLY:
        assert (descriptor.digest, descriptor.size) == (measured["digest"], measured["size"])
    return made


def described(found: Inspection) -> dict[str, object]:
    """Return an inspection in the form of the vectors."""
    return {
        "SchemaVersion": found.schema_version,
        "MediaType": found.media_type,
        "Digest": found.digest,
        "Manifests": [described_entry(item) for item in found.entries] or None,
        "Layers": [layer.to_json() for layer in found.layers] or None,
        "Config": found.config.digest if found.config else "",
        "Labels": dict(found.labels) or None,
    }


def described_entry(item: Descriptor) -> dict[str, object]:
    platform = item.platform or Platform("", "")
    return {
        "Digest": item.digest,
        "MediaType": item.media_type,
        "Size": item.size,
        "OS": platform.os,
        "Architecture": platform.architecture,
        "Variant": platform.variant,
        "Annotations": dict(item.annotations) or None,
    }


@pytest.mark.parametrize("call", CALLS[3:])
def test_inspect_agrees_with_cog(row: dict[str, Any], reader: Fixture, call: str) -> None:
    measured, name = row[call], (row["fixture"], call)
    text = call.removeprefix("Inspect(").removesuffix(")")
    platform = None if text == "None" else Platform.parse(text)
    if name in ANOTHER_RESULT_HERE:
        _, ours = ANOTHER_RESULT_HERE[name]
        if isinstance(ours, type):
            with pytest.raises(ours):
                inspect(reader, REF, platform=platform)
        else:
            found = inspect(reader, REF, platform=platform)
            assert ours == (found.digest if isinstance(ours, str) else list(found.entries))
        return
    if "error" in measured:
        with pytest.raises(ERRORS[measured["error"]]):
            inspect(reader, REF, platform=platform)
    else:
        result = described(inspect(reader, REF, platform=platform))
        if row["fixture"] in MADE_DIFFERENTLY and platform is None:
            result["Digest"] = measured["result"]["Digest"]
        assert result == measured["result"]
    asked = [line for line in reader.requests if line.startswith("GET")]
    assert asked == measured["requests"][: 1 if name in FEWER_REQUESTS_HERE else None]


def test_get_image_agrees_with_cog(row: dict[str, Any], reader: Fixture) -> None:
    measured = row["GetImage(None)"]
    if "error" in measured:
        with pytest.raises(ERRORS[measured["error"]]):
            get_image(reader, REF)
    else:
        assert get_image(reader, REF).descriptor.digest == measured["result"]
    assert reader.requests == measured["requests"]


def test_resolve_agrees_with_cog_and_tells_existence_by_one_head(
    row: dict[str, Any], reader: Fixture
) -> None:
    client = Client(REF, registry=cast("Registry", reader))
    measured = row["GetDescriptor"]["result"]
    found = client.resolve()
    assert found.media_type == measured["mediaType"]
    if row["fixture"] not in MADE_DIFFERENTLY:
        assert (found.digest, found.size) == (measured["digest"], measured["size"])
    assert client.exists(found)
    assert reader.requests == [
        *row["GetDescriptor"]["requests"],
        f"HEAD manifests/{found.digest} 200",
    ]


def test_cog_inspect_vectors_hold_the_deliberate_differences() -> None:
    assert set(ROWS) == set(FIXTURES)
    assert len(ROWS) == 12
    for name, call in {**ANOTHER_RESULT_HERE, **FEWER_REQUESTS_HERE}:
        assert call in ROWS[name]

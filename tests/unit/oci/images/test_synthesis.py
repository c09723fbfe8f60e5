from __future__ import annotations

import json
from dataclasses import replace

import pytest

from dockercomms.errors import BlobUnknown, Denied, ProtocolError, Unauthorized
from dockercomms.oci.images.synthesis import (
    ANNOTATION_BASHBREW_ARCH,
    bashbrew_arch,
    synthesize_index,
)
from dockercomms.oci.interface import BlobReader
from dockercomms.oci.model import (
    EMPTY_CONFIG,
    MEDIA_TYPE_DOCKER_LIST,
    MEDIA_TYPE_DOCKER_MANIFEST,
    MEDIA_TYPE_IMAGE_CONFIG,
    MEDIA_TYPE_INDEX,
    MEDIA_TYPE_MANIFEST,
    Descriptor,
    Platform,
    parse_index,
)
from dockercomms.oci.reference import Reference
from tests.contract.capabilities import index_bytes, manifest_bytes
from tests.fakes.static_reader import StaticReader

REF = Reference(host="registry.example", repository="team/app", tag="v1")
REF_NAME = "org.opencontainers.image.ref.name"
ARCHES = {
    "linux/amd64": "amd64",
    "linux/arm/v5": "arm32v5",
    "linux/arm/v6": "arm32v6",
    "linux/arm": "arm32v7",
    "linux/arm64": "arm64v8",
    "linux/386": "i386",
    "linux/mips64le": "mips64le",
    "linux/ppc64le": "ppc64le",
    "linux/riscv64": "riscv64",
    "linux/s390x": "s390x",
    "windows/amd64": "windows-amd64",
}


@pytest.fixture
def reader() -> StaticReader:
    return StaticReader()


def image(
    reader: StaticReader, name: str, platform: str, media_type: str = MEDIA_TYPE_MANIFEST
) -> Descriptor:
    """Put an image there and return its entry without a platform."""
    os, architecture, *variant = platform.split("/")
    fields = {"os": os, "architecture": architecture, "variant": "".join(variant)}
    config = reader.add_blob(json.dumps(fields).encode(), MEDIA_TYPE_IMAGE_CONFIG)
    data = json.loads(manifest_bytes(name, config=config, layers=()))
    data["mediaType"] = media_type
    return reader.add_manifest(json.dumps(data).encode(), media_type, "v1")


def entries_of(reader: StaticReader, *entries: Descriptor) -> tuple[Descriptor, ...]:
    reader.add_manifest(index_bytes(entries), MEDIA_TYPE_INDEX, "v1")
    index = synthesize_index(reader, REF)
    assert index is not None
    return index.manifests


@pytest.mark.parametrize(("platform", "arch"), ARCHES.items())
def test_bashbrew_arch_knows_eleven(platform: str, arch: str) -> None:
    assert bashbrew_arch(Platform.parse(platform).normalized()) == arch


@pytest.mark.parametrize(
    "platform", ["linux/arm64/v9", "linux/amd64/v2", "linux/loong64", "windows/arm64", "a/b"]
)
def test_bashbrew_arch_knows_no_other(platform: str) -> None:
    assert bashbrew_arch(Platform.parse(platform).normalized()) is None


def test_synthesize_index_can_use_other_names(reader: StaticReader) -> None:
    made = image(reader, "x", "linux/amd64")
    index = synthesize_index(reader, REF, name="oci-layout:box:v1", arch_annotation="example.arch")
    assert index is not None
    assert index.annotations == {REF_NAME: f"oci-layout:box:v1@{made.digest}"}
    (entry,) = index.manifests
    assert entry.annotations == {
        REF_NAME: f"oci-layout:box:v1@{made.digest}",
        "example.arch": "amd64",
    }


def test_synthesize_index_names_docker_hub_shortly(reader: StaticReader) -> None:
    made = image(reader, "x", "linux/amd64")
    reader.tags["latest"] = made.digest
    index = synthesize_index(reader, Reference.parse("alpine"))
    assert index is not None
    assert index.annotations == {REF_NAME: f"alpine@{made.digest}"}


def test_synthesize_index_makes_an_index_that_parses(reader: StaticReader) -> None:
    image(reader, "x", "linux/amd64")
    index = synthesize_index(reader, REF)
    assert index is not None
    assert parse_index(index.to_bytes()) == index


def test_synthesize_index_completes_a_half_platform(reader: StaticReader) -> None:
    made = image(reader, "x", "linux/s390x")
    for half in (Platform("", "s390x"), Platform("linux", ""), None):
        (entry,) = entries_of(reader, replace(made, platform=half))
        assert entry.platform == Platform("linux", "s390x")
        assert entry.annotations[ANNOTATION_BASHBREW_ARCH] == "s390x"


def test_synthesize_index_keeps_what_the_registry_says_but_the_architecture(
    reader: StaticReader,
) -> None:
    known = replace(image(reader, "a", "linux/amd64"), platform=Platform("linux", "amd64"))
    unknown = replace(image(reader, "b", "linux/loong64"), platform=Platform("linux", "loong64"))
    claims = {ANNOTATION_BASHBREW_ARCH: "evil", "keep": "me", REF_NAME: "evil"}
    first, second = entries_of(
        reader, replace(known, annotations=claims), replace(unknown, annotations=claims)
    )
    assert first.annotations == {
        ANNOTATION_BASHBREW_ARCH: "amd64",
        "keep": "me",
        REF_NAME: f"{REF.full()}@{known.digest}",
    }
    assert second.annotations == {"keep": "me", REF_NAME: f"{REF.full()}@{unknown.digest}"}


def test_synthesize_index_drops_the_attestation_of_an_image_without_architecture(
    reader: StaticReader,
) -> None:
    made = replace(image(reader, "a", "linux/loong64"), platform=Platform("linux", "loong64"))
    attestation = replace(
        image(reader, "att", "unknown/unknown"),
        platform=Platform("unknown", "unknown"),
        annotations={
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": made.digest,
        },
    )
    nameless = replace(
        image(reader, "nameless", "unknown/unknown"),
        platform=Platform("unknown", "unknown"),
        annotations={"vnd.docker.reference.type": "attestation-manifest"},
    )
    kept = entries_of(reader, made, attestation, nameless)
    assert [entry.digest for entry in kept] == [made.digest]


def test_synthesize_index_drops_inline_data(reader: StaticReader) -> None:
    data = manifest_bytes("x", layers=())
    entry = replace(
        Descriptor.of(data, MEDIA_TYPE_MANIFEST), data=data, platform=Platform("linux", "amd64")
    )
    (kept,) = entries_of(reader, entry)
    assert kept.data is None


def test_synthesize_index_is_docker_s_for_docker_s_images(reader: StaticReader) -> None:
    made = image(reader, "x", "linux/amd64", MEDIA_TYPE_DOCKER_MANIFEST)
    body = {"schemaVersion": 2, "manifests": [made.to_json()]}
    reader.add_manifest(json.dumps(body).encode(), MEDIA_TYPE_INDEX, "v1")
    index = synthesize_index(reader, REF)
    assert index is not None
    assert index.media_type == MEDIA_TYPE_DOCKER_LIST


def test_synthesize_index_asks_no_artifact_for_a_platform(reader: StaticReader) -> None:
    made = reader.add_manifest(manifest_bytes("x", layers=()), MEDIA_TYPE_MANIFEST, "v1")
    index = synthesize_index(reader, REF)
    assert index is not None
    (entry,) = index.manifests
    assert (entry.digest, entry.platform) == (made.digest, None)
    assert reader.requests == ["GET manifests/v1 200"]
    assert EMPTY_CONFIG.digest not in reader.blobs


@pytest.mark.parametrize("version", [None, 0])
def test_synthesize_index_takes_no_version_for_version_2(
    reader: StaticReader, version: int | None
) -> None:
    body = {"schemaVersion": version, "manifests": []}
    reader.add_manifest(json.dumps(body).encode(), MEDIA_TYPE_INDEX, "v1")
    index = synthesize_index(reader, REF)
    assert index is not None
    assert index.manifests == ()


@pytest.mark.parametrize(
    "body",
    [
        b'{"schemaVersion":1,"manifests":[]}',
        b'{"schemaVersion":2,"mediaType":"application/json","manifests":[]}',
        b'{"schemaVersion":2,"manifests":[]}x',
        b'{"schemaVersion":2,"manifests":[]}' + b" " * 5000 + b"x",
        b'{"schemaVersion":2,"manifests":[]}{}',
        b'{"schemaVersion":2,"schemaVersion":2,"manifests":[]}',
        b'{"manifests":[{}]}',
        b"[]",
        b"null",
    ],
)
def test_synthesize_index_is_strict(reader: StaticReader, body: bytes) -> None:
    reader.add_manifest(body, MEDIA_TYPE_INDEX, "v1")
    with pytest.raises(ProtocolError):
        synthesize_index(reader, REF)


def test_synthesize_index_needs_the_config_it_asks_for(reader: StaticReader) -> None:
    image(reader, "x", "linux/amd64")
    reader.blobs.clear()
    with pytest.raises(BlobUnknown):
        synthesize_index(reader, REF)


@pytest.mark.parametrize("error", [Denied, Unauthorized])
def test_synthesize_index_of_what_is_denied_is_none_or_an_error(
    error: type[Denied | Unauthorized],
) -> None:
    class Closed(StaticReader):
        def get_tag(self, repository: str, tag: str) -> BlobReader:
            raise error("no")

    assert synthesize_index(Closed(), REF) is None
    with pytest.raises(error):
        synthesize_index(Closed(), REF, denied="raise")

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from dockercomms.errors import (
    BlobUnknown,
    IntegrityError,
    ManifestUnknown,
    PlatformNotFound,
    ProtocolError,
    UsageError,
)
from dockercomms.oci.images.inspect import MAX_CONFIG_BYTES, get_image, inspect, parse_image_config
from dockercomms.oci.memory import MemoryRegistry
from dockercomms.oci.model import (
    EMPTY_CONFIG,
    MEDIA_TYPE_ARTIFACT,
    MEDIA_TYPE_IMAGE_CONFIG,
    MEDIA_TYPE_INDEX,
    MEDIA_TYPE_MANIFEST,
    Descriptor,
    Platform,
    digest_of,
)
from dockercomms.oci.reference import Reference
from tests.contract.capabilities import (
    ARTIFACT_TYPE,
    index_bytes,
    manifest_bytes,
    push,
    push_empty_config,
)
from tests.fakes.static_reader import CountingRegistry, StaticReader

REF = Reference(host="registry.example", repository="team/app", tag="v1")
AMD64 = Platform("linux", "amd64")
ARM64 = Platform("linux", "arm64", "v8")


def config_bytes(platform: Platform, labels: dict[str, str] | None = None) -> bytes:
    return json.dumps({**platform.to_json(), "config": {"Labels": labels}}).encode()


def push_image(
    registry: MemoryRegistry, platform: Platform, labels: dict[str, str] | None = None
) -> Descriptor:
    """Push an image of one layer under the tag v1 and return its index entry."""
    config = push(registry, REF.repository, config_bytes(platform, labels), MEDIA_TYPE_IMAGE_CONFIG)
    layer = push(registry, REF.repository, f"layer for {platform}".encode())
    data = manifest_bytes("x", config=config, layers=[layer])
    pushed = registry.push_manifest(REF.repository, data, MEDIA_TYPE_MANIFEST, tags=("v1",))
    return replace(pushed, platform=platform)


def push_index(registry: MemoryRegistry, *entries: Descriptor) -> Descriptor:
    return registry.push_manifest(
        REF.repository, index_bytes(entries), MEDIA_TYPE_INDEX, tags=("v1",)
    )


@pytest.fixture
def registry() -> MemoryRegistry:
    return MemoryRegistry()


# --- inspect ---


def test_inspect_tells_all_of_an_image(registry: MemoryRegistry) -> None:
    entry = push_image(registry, ARM64, {"a": "b"})
    found = inspect(registry, REF)
    assert (found.descriptor, found.digest) == (entry.bare(), entry.digest)
    assert found.media_type == MEDIA_TYPE_MANIFEST
    assert found.labels == {"a": "b"}
    assert found.platform == ARM64
    assert found.config is not None
    assert found.config.digest == digest_of(config_bytes(ARM64, {"a": "b"}))
    assert [layer.digest for layer in found.layers] == [digest_of(b"layer for linux/arm64/v8")]
    assert found.artifact_type == ARTIFACT_TYPE
    assert found.annotations == {"example.name": "x"}
    assert found.entries == ()
    assert found.schema_version == 2
    assert found.is_single_platform
    assert not found.is_index


def test_inspect_without_labels_asks_once(registry: MemoryRegistry) -> None:
    push_image(registry, AMD64, {"a": "b"})
    counted = CountingRegistry(registry)
    found = inspect(counted, REF, labels=False)
    assert (found.labels, found.platform) == ({}, None)
    assert counted.calls == ["get_tag"]


def test_inspect_tells_all_of_an_artifact(registry: MemoryRegistry) -> None:
    push_empty_config(registry, REF.repository)
    subject = Descriptor.of(b"subject", MEDIA_TYPE_MANIFEST)
    data = manifest_bytes("x", subject=subject)
    registry.push_manifest(REF.repository, data, MEDIA_TYPE_MANIFEST, tags=("v1",))
    found = inspect(registry, REF)
    assert found.subject == subject
    assert found.config == EMPTY_CONFIG
    assert (found.labels, found.platform) == ({}, None)


def test_inspect_gives_an_index_the_labels_of_linux_amd64(registry: MemoryRegistry) -> None:
    arm64 = push_image(registry, ARM64, {"is": "arm64"})
    amd64 = push_image(registry, AMD64, {"is": "amd64"})
    index = push_index(registry, arm64, amd64)
    found = inspect(registry, REF)
    assert found.is_index
    assert not found.is_single_platform
    assert found.descriptor == index
    assert found.entries == (arm64, amd64)
    assert found.labels == {"is": "amd64"}
    assert (found.config, found.layers) == (None, ())
    assert inspect(registry, REF, labels=False).labels == {}


def test_inspect_gives_an_index_else_the_labels_of_its_first_image(
    registry: MemoryRegistry,
) -> None:
    attestation = replace(push_image(registry, AMD64, {"is": "no image"}), platform=None)
    attestation = replace(
        attestation, annotations={"vnd.docker.reference.type": "attestation-manifest"}
    )
    arm64 = push_image(registry, ARM64, {"is": "arm64"})
    other = push_image(registry, Platform("linux", "s390x"), {"is": "s390x"})
    push_index(registry, attestation, arm64, other)
    assert inspect(registry, REF).labels == {"is": "arm64"}


def test_inspect_needs_no_platform_in_an_index_entry(registry: MemoryRegistry) -> None:
    bare = replace(push_image(registry, ARM64, {"is": "arm64"}), platform=None)
    push_index(registry, bare)
    found = inspect(registry, REF)
    assert found.entries == (bare,)
    assert found.labels == {"is": "arm64"}
    with pytest.raises(PlatformNotFound, match="1 without a platform"):
        inspect(registry, REF, platform=ARM64)


def test_inspect_gives_no_labels_where_there_is_no_image(registry: MemoryRegistry) -> None:
    inner = push_index(registry)
    assert inspect(registry, REF).labels == {}
    push_index(registry, inner)
    assert inspect(registry, REF).labels == {}
    push_empty_config(registry, REF.repository)
    artifact = registry.push_manifest(REF.repository, manifest_bytes("x"), MEDIA_TYPE_MANIFEST)
    push_index(registry, artifact)
    assert inspect(registry, REF).labels == {}


def test_inspect_takes_the_entry_of_a_platform(registry: MemoryRegistry) -> None:
    amd64 = push_image(registry, AMD64, {"is": "amd64"})
    arm64 = push_image(registry, ARM64, {"is": "arm64"})
    push_index(registry, amd64, arm64)
    found = inspect(registry, REF, platform=Platform.parse("linux/arm64"))
    assert (found.descriptor, found.labels) == (arm64, {"is": "arm64"})
    with pytest.raises(PlatformNotFound, match=r"linux/amd64, linux/arm64/v8"):
        inspect(registry, REF, platform=Platform.parse("windows/amd64"))


@pytest.mark.parametrize("look", [inspect, get_image])
def test_an_image_has_no_entry_for_a_platform(registry: MemoryRegistry, look: type[object]) -> None:
    push_image(registry, AMD64)
    with pytest.raises(PlatformNotFound, match="not an index") as caught:
        look(registry, REF, platform=AMD64)
    assert caught.value.hint == "leave out the platform"


def test_inspect_of_nothing_is_not_found(registry: MemoryRegistry) -> None:
    push_image(registry, AMD64)
    with pytest.raises(ManifestUnknown):
        inspect(registry, replace(REF, tag="other"))


def test_inspect_knows_the_retired_artifact_manifest() -> None:
    reader = StaticReader()
    blob = Descriptor.of(b"blob", "text/plain")
    subject = Descriptor.of(b"subject", MEDIA_TYPE_MANIFEST)
    body = {
        "mediaType": MEDIA_TYPE_ARTIFACT,
        "artifactType": "a/b",
        "blobs": [blob.to_json()],
        "subject": subject.to_json(),
        "annotations": {"k": "v"},
    }
    reader.add_manifest(json.dumps(body).encode(), MEDIA_TYPE_ARTIFACT, "v1")
    found = inspect(reader, REF)
    assert (found.artifact_type, found.layers, found.subject) == ("a/b", (blob,), subject)
    assert (found.annotations, found.config) == ({"k": "v"}, None)


@pytest.mark.parametrize(
    "body", ["[]", '{"blobs":1}', '{"blobs":[{}]}', '{"annotations":{"a":1}}', '{"subject":1}']
)
def test_inspect_refuses_a_bad_artifact_manifest(body: str) -> None:
    reader = StaticReader()
    reader.add_manifest(body.encode(), MEDIA_TYPE_ARTIFACT, "v1")
    with pytest.raises(ProtocolError):
        inspect(reader, REF)


def test_inspect_of_an_empty_artifact_manifest_is_empty() -> None:
    reader = StaticReader()
    reader.add_manifest(b"{}", MEDIA_TYPE_ARTIFACT, "v1")
    found = inspect(reader, REF)
    assert (found.layers, found.subject, found.artifact_type) == ((), None, None)


# --- configs ---


@pytest.mark.parametrize(
    ("body", "labels"),
    [
        ({}, {}),
        ({"config": None}, {}),
        ({"config": {}}, {}),
        ({"config": {"Labels": None}}, {}),
        ({"config": {"Labels": {"a": "b"}}}, {"a": "b"}),
    ],
)
def test_parse_image_config_finds_labels(body: object, labels: dict[str, str]) -> None:
    config = parse_image_config(json.dumps(body).encode())
    assert config.labels == labels
    assert config.platform is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'{"os":1}',
        b'{"config":[]}',
        b'{"config":{"Labels":[]}}',
        b'{"config":{"Labels":{"a":1}}}',
        b'{"os":"linux","os":"darwin"}',
        b"{} x",
    ],
)
def test_parse_image_config_refuses_anything_else(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_image_config(body)


def test_a_config_is_read_from_its_own_descriptor_first(registry: MemoryRegistry) -> None:
    push_empty_config(registry, REF.repository)
    data = config_bytes(AMD64, {"a": "b"})
    config = push(registry, REF.repository, data, MEDIA_TYPE_IMAGE_CONFIG)
    manifest = manifest_bytes("x", config=replace(config, data=data))
    registry.push_manifest(REF.repository, manifest, MEDIA_TYPE_MANIFEST, tags=("v1",))
    counted = CountingRegistry(registry)
    assert inspect(counted, REF).labels == {"a": "b"}
    assert counted.calls == ["get_tag"]


def test_a_config_of_another_size_is_refused(registry: MemoryRegistry) -> None:
    config = push(registry, REF.repository, config_bytes(AMD64), MEDIA_TYPE_IMAGE_CONFIG)
    manifest = manifest_bytes("x", config=replace(config, size=config.size + 1), layers=())
    registry.push_manifest(REF.repository, manifest, MEDIA_TYPE_MANIFEST, tags=("v1",))
    with pytest.raises(IntegrityError):
        inspect(registry, REF)


def test_a_config_has_a_largest_size(registry: MemoryRegistry) -> None:
    data = config_bytes(AMD64) + b" " * MAX_CONFIG_BYTES
    config = push(registry, REF.repository, data, MEDIA_TYPE_IMAGE_CONFIG)
    manifest = manifest_bytes("x", config=config, layers=())
    registry.push_manifest(REF.repository, manifest, MEDIA_TYPE_MANIFEST, tags=("v1",))
    with pytest.raises(ProtocolError, match="at most"):
        inspect(registry, REF)


# --- get_image ---


def test_get_image_reads_nothing_before_it_is_asked_for(registry: MemoryRegistry) -> None:
    entry = push_image(registry, ARM64, {"a": "b"})
    counted = CountingRegistry(registry)
    image = get_image(counted, REF)
    assert image.descriptor == entry.bare()
    assert digest_of(image.data) == entry.digest
    (layer,) = image.layers
    assert counted.calls == ["get_tag"]
    assert image.labels == {"a": "b"}
    assert image.config is not None
    assert image.config.platform == ARM64
    assert counted.calls == ["get_tag", "get_blob"]
    with layer.open() as reader:
        assert reader.read() == b"layer for linux/arm64/v8"
    with image.config_blob.open() as reader:
        assert reader.read() == config_bytes(ARM64, {"a": "b"})
    assert counted.calls == ["get_tag", "get_blob", "get_blob", "get_blob"]


def test_get_image_wants_a_platform_of_an_index(registry: MemoryRegistry) -> None:
    amd64 = push_image(registry, AMD64)
    arm64 = push_image(registry, ARM64)
    push_index(registry, amd64, arm64)
    with pytest.raises(UsageError, match="several platforms"):
        get_image(registry, REF)
    assert get_image(registry, REF, platform=ARM64).descriptor == arm64
    with pytest.raises(PlatformNotFound):
        get_image(registry, REF, platform=Platform("plan9", "ppc"))


def test_get_image_of_an_artifact_has_no_image_config(registry: MemoryRegistry) -> None:
    push_empty_config(registry, REF.repository)
    registry.push_manifest(REF.repository, manifest_bytes("x"), MEDIA_TYPE_MANIFEST, tags=("v1",))
    image = get_image(registry, REF)
    assert image.config is None
    assert image.labels == {}
    with image.config_blob.open() as reader:
        assert reader.read() == b"{}"


def test_get_image_finds_out_late_that_a_blob_is_gone(registry: MemoryRegistry) -> None:
    push_image(registry, AMD64)
    image = get_image(registry, REF)
    registry.delete_blob(REF.repository, image.manifest.config.digest)
    registry.delete_blob(REF.repository, image.layers[0].descriptor.digest)
    with pytest.raises(BlobUnknown):
        _ = image.config
    with pytest.raises(BlobUnknown):
        image.layers[0].open()

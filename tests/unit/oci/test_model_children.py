"""The parts of a manifest or index."""

from __future__ import annotations

import json

import pytest

from dockercomms.errors import ProtocolError
from dockercomms.oci.model import (
    EMPTY_CONFIG,
    MEDIA_TYPE_INDEX,
    MEDIA_TYPE_MANIFEST,
    Index,
    Manifest,
    ManifestChildren,
    Platform,
    parse_children,
    validate_manifest,
)
from dockercomms.oci.strict_json import canonical_json
from tests.fakes.images import artifact, image, index_of

IMAGE = image()


def test_children_of_an_image_are_its_blobs() -> None:
    children = parse_children(IMAGE.data)
    assert children.blobs == tuple(blob for blob, _ in IMAGE.blobs)
    assert children.config == IMAGE.blobs[0][0]
    assert children.manifests == ()


def test_children_of_an_index_are_its_manifests() -> None:
    assert parse_children(index_of(IMAGE).data) == ManifestChildren(manifests=(IMAGE.entry,))


def test_children_of_a_retired_artifact_are_its_blobs() -> None:
    blob = artifact("x").blobs[1][0]
    data = json.dumps({"blobs": [blob.to_json()]}).encode()
    assert parse_children(data).blobs == (blob,)


def test_children_are_found_whatever_the_media_type_says() -> None:
    """Content that is both an image and an index has the children of both."""
    both = {**json.loads(IMAGE.data), "manifests": [IMAGE.entry.to_json()], "mediaType": "x/y"}
    children = parse_children(json.dumps(both).encode())
    assert children.manifests == (IMAGE.entry,)
    assert len(children.blobs) == len(IMAGE.blobs)


@pytest.mark.parametrize("data", [b"{}", b'{"layers":null,"config":null,"manifests":null}'])
def test_children_may_be_none(data: bytes) -> None:
    assert parse_children(data) == ManifestChildren()
    assert parse_children(data).blobs == ()


@pytest.mark.parametrize(
    "data", [b"", b"garbage", b"[]", b'{"layers":{}}', b'{"layers":[{}]}', b'{"config":1}']
)
def test_children_of_anything_else_are_an_error(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="box: "):
        parse_children(data, where="box")


def test_validate_manifest_reads_what_the_media_type_says() -> None:
    image = canonical_json({"schemaVersion": 2, "config": EMPTY_CONFIG.to_json(), "layers": []})
    index = Index().to_bytes()

    assert isinstance(validate_manifest(image, MEDIA_TYPE_MANIFEST), Manifest)
    assert isinstance(validate_manifest(index, MEDIA_TYPE_INDEX), Index)


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (Index().to_bytes(), MEDIA_TYPE_MANIFEST),
        (Index().to_bytes(), "application/vnd.docker.distribution.manifest.list.v2+json"),
        (Index().to_bytes(), "text/plain"),
        (canonical_json({"schemaVersion": 2, "config": EMPTY_CONFIG.to_json()}), MEDIA_TYPE_INDEX),
        (b"[]", MEDIA_TYPE_INDEX),
    ],
)
def test_validate_manifest_refuses_what_is_something_else(data: bytes, media_type: str) -> None:
    with pytest.raises(ProtocolError):
        validate_manifest(data, media_type, where="it")


def test_platform_normalize_is_normalized() -> None:
    assert Platform.parse("linux/aarch64").normalize() == Platform("linux", "arm64", "v8")

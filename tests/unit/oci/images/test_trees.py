"""The content of a copy, and its sources."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from dockercomms.errors import LimitError, ManifestUnknown, ProtocolError
from dockercomms.oci.images.copy import copy_manifest
from dockercomms.oci.images.trees import Plan, Planner
from dockercomms.oci.memory import MemoryRegistry
from dockercomms.oci.model import (
    EMPTY_CONFIG,
    EMPTY_CONFIG_BYTES,
    MEDIA_TYPE_ARTIFACT,
    MEDIA_TYPE_INDEX,
    MEDIA_TYPE_MANIFEST,
    Descriptor,
    Index,
)
from dockercomms.oci.stores import Location
from dockercomms.oci.strict_json import canonical_json
from tests.fakes.images import Built, artifact, holds, image, index_of, push, push_tree
from tests.fakes.registry import OCI
from tests.unit.oci.registries import R, serving

CHILDREN = (image(1, architecture="amd64"), image(2, architecture="arm64"))


FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"


def test_copy_manifest_takes_children_from_where_it_is_told() -> None:
    """A child by its digest, all others from the place under ""."""
    named, others, target = MemoryRegistry(), MemoryRegistry(), MemoryRegistry()
    top = MemoryRegistry()
    tree = index_of(*CHILDREN)
    push(named, "a", CHILDREN[0])
    for blob, data in CHILDREN[0].blobs:
        others.push_blob("b", blob, lambda data=data: io.BytesIO(data))
    push(others, "b", CHILDREN[1])
    for child in CHILDREN:
        push(top, R, child)
    push(top, R, tree, "v1")
    for child in CHILDREN:
        top.delete_manifest(R, child.descriptor.digest)
    sources = {CHILDREN[0].descriptor.digest: Location(named, "a"), "": Location(others, "b")}
    copy_manifest(Location(top, R, tag="v1"), Location(target, R, tag="v1"), sources)
    assert all(holds(target, R, child) for child in CHILDREN)


def test_copy_manifest_takes_blobs_from_where_their_manifest_came() -> None:
    named, target, top = MemoryRegistry(), MemoryRegistry(), MemoryRegistry()
    push(named, "a", CHILDREN[0])
    push_tree(top, R, CHILDREN, "v1")
    for blob, _ in CHILDREN[0].blobs:
        top.delete_blob(R, blob.digest)
    top.delete_manifest(R, CHILDREN[0].descriptor.digest)
    sources = {CHILDREN[0].descriptor.digest: Location(named, "a")}
    copy_manifest(Location(top, R, tag="v1"), Location(target, R, tag="v1"), sources)
    assert holds(target, R, CHILDREN[0])


def test_copy_manifest_moves_blobs_that_an_index_lists() -> None:
    """As BuildKit's caches do."""
    data = b"cache"
    blob = Descriptor.of(data, "application/vnd.oci.image.layer.v1.tar+gzip")
    index = Index(manifests=(blob,)).to_bytes()
    with serving(replace(OCI, missing_child=201)) as (server, registry):
        server.put_blob_raw(R, data)
        registry.push_manifest(R, index, MEDIA_TYPE_INDEX, tags=("cache",))
        with serving(replace(OCI, missing_child=201)) as (_, target):
            copy_manifest(Location(registry, R, tag="cache"), Location(target, R, tag="cache"))
            assert target.get_blob(R, blob.digest).read() == data


def test_copy_manifest_of_an_index_that_lists_too_much_fails() -> None:
    child = image()
    with serving(replace(OCI, missing_child=201)) as (_, registry):
        push(registry, R, index_of(child), "v1")
        with pytest.raises(ManifestUnknown):
            copy_manifest(Location(registry, R, tag="v1"), Location(MemoryRegistry(), R))


def test_copy_manifest_moves_retired_artifacts() -> None:
    blob, data = artifact("x").blobs[1]
    fields = {
        "mediaType": MEDIA_TYPE_ARTIFACT,
        "artifactType": "application/vnd.example",
        "blobs": [blob.to_json()],
    }
    built = Built(canonical_json(fields), ((blob, data),), media_type=MEDIA_TYPE_ARTIFACT)
    source, target = MemoryRegistry(), MemoryRegistry()
    push(source, R, built, "v1")
    copy_manifest(Location(source, R, tag="v1"), Location(target, R, tag="v1"))
    assert holds(target, R, built)


def test_copy_manifest_leaves_out_layers_that_only_their_maker_gives_out() -> None:
    foreign = Descriptor.of(b"not here", FOREIGN)
    blob, data = artifact("x").blobs[1]
    fields = {
        "schemaVersion": 2,
        "mediaType": MEDIA_TYPE_MANIFEST,
        "config": EMPTY_CONFIG.to_json(),
        "layers": [foreign.to_json(), blob.to_json()],
    }
    manifest = canonical_json(fields)
    lenient = replace(OCI, missing_blob=201)
    with serving(lenient) as (_, first), serving(lenient) as (_, second):
        for known, known_data in ((EMPTY_CONFIG, EMPTY_CONFIG_BYTES), (blob, data)):
            first.push_blob(R, known, lambda known_data=known_data: io.BytesIO(known_data))
        first.push_manifest(R, manifest, MEDIA_TYPE_MANIFEST, tags=("v1",))
        copy_manifest(Location(first, R, tag="v1"), Location(second, R, tag="v1"))
        assert second.get_blob(R, blob.digest).read() == data


def test_copy_manifest_uses_inline_data() -> None:
    inline = replace(EMPTY_CONFIG, data=EMPTY_CONFIG_BYTES)
    fields = {
        "schemaVersion": 2,
        "mediaType": MEDIA_TYPE_MANIFEST,
        "config": inline.to_json(),
        "layers": [],
    }
    lenient = replace(OCI, missing_blob=201)
    with serving(lenient) as (_, first), serving(OCI) as (_, second):
        first.push_manifest(R, canonical_json(fields), MEDIA_TYPE_MANIFEST, tags=("v1",))
        copy_manifest(Location(first, R, tag="v1"), Location(second, R, tag="v1"))
        assert second.get_blob(R, EMPTY_CONFIG.digest).read() == EMPTY_CONFIG_BYTES


def planned(**limits: int) -> Plan:
    source = MemoryRegistry()
    tree = push_tree(source, R, CHILDREN, "v1")
    with ThreadPoolExecutor(1) as executor:
        planner = Planner(
            Location(MemoryRegistry(), R),
            Location(source, R),
            None,
            referrers=False,
            executor=executor,
            **limits,
        )
        return planner.plan(tree.descriptor)


def test_plan_reads_no_more_manifests_than_its_limit() -> None:
    assert len(planned(max_manifests=3).nodes) == 3
    with pytest.raises(LimitError, match="more than 2 manifests"):
        planned(max_manifests=2)
    with pytest.raises(LimitError, match="more than 100 bytes"):
        planned(max_bytes=100)


def nested(depth: int) -> list[Built]:
    """Return an image, an index of it, an index of that, and so on."""
    chain = [image()]
    for _ in range(depth):
        chain.append(index_of(chain[-1]))
    return chain


def test_copy_manifest_follows_eight_indexes_and_no_more() -> None:
    source, target = MemoryRegistry(), MemoryRegistry()
    chain = nested(9)
    for built in chain:
        push(source, R, built)
    eighth, ninth = (built.descriptor.digest for built in chain[8:])
    copy_manifest(Location(source, R, digest=eighth), Location(target, R))
    assert all(holds(target, R, built) for built in chain[:9])
    with pytest.raises(ProtocolError, match="more than 8"):
        copy_manifest(Location(source, R, digest=ninth), Location(MemoryRegistry(), R))

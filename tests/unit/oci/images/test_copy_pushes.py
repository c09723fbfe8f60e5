"""Making sure of a manifest, pushing images and indexes."""

from __future__ import annotations

import io
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from dockercomms.errors import (
    BlobUnknown,
    DigestMismatch,
    ManifestBlobUnknown,
    NameUnknown,
    NetworkError,
    NotFoundError,
    ProtocolError,
    RegistryError,
)
from dockercomms.oci.images.copy import copy_manifest, ensure_manifest, push_image, push_index
from dockercomms.oci.images.inspect import get_image
from dockercomms.oci.memory import MemoryRegistry
from dockercomms.oci.model import MEDIA_TYPE_MANIFEST, Index, digest_of, parse_children
from dockercomms.oci.reference import Reference
from dockercomms.oci.remote.retry import RetryPolicy
from dockercomms.oci.stores import Location
from tests.fakes.images import Built, holds, image, index_of, push, push_tree
from tests.fakes.registry import DISTRIBUTION, Fault
from tests.fakes.watched import WatchedRegistry
from tests.unit.oci.registries import R, serving

CHILDREN = (image(1, architecture="amd64"), image(2, architecture="arm64"))


def test_ensure_manifest_puts_what_has_all_its_parts() -> None:
    with serving(DISTRIBUTION) as (server, registry):
        built = image()
        push(registry, R, built)
        server.forget_requests()
        place = Location(registry, R, tag="v1")
        for _ in range(2):
            assert ensure_manifest(place, built.data, built.media_type) == built.descriptor
        assert [record.method for record in server.requests] == ["HEAD", "PUT", "HEAD"]


def test_ensure_manifest_by_digest() -> None:
    memory = MemoryRegistry()
    built = image()
    push(memory, R, built)
    memory.delete_manifest(R, built.descriptor.digest)
    place = Location(memory, R, digest=built.descriptor.digest)
    ensure_manifest(place, built.data, built.media_type)
    assert holds(memory, R, built)
    with pytest.raises(DigestMismatch):
        ensure_manifest(Location(memory, R, digest=digest_of(b"x")), built.data, built.media_type)


@pytest.mark.parametrize("status", [400, 404, 500])
def test_ensure_manifest_copies_the_parts_that_are_missing(status: Any) -> None:
    quirks = replace(DISTRIBUTION, missing_blob=status, missing_child=status)
    source = MemoryRegistry()
    tree = push_tree(source, "src", CHILDREN, "v1")
    with serving(quirks) as (_, registry):
        place = Location(registry, R, tag="v1")
        sources = {"": Location(source, "src")}
        ensure_manifest(place, tree.data, tree.media_type, sources)
        assert all(holds(registry, R, child) for child in CHILDREN)
        other = image(3)
        push(source, "src", other)
        ensure_manifest(place, other.data, other.media_type, sources)
        assert holds(registry, R, other)
        assert registry.resolve_tag(R, "v1").digest == other.descriptor.digest


@pytest.mark.parametrize("retry", [RetryPolicy.none(), RetryPolicy.requests()])
def test_ensure_manifest_that_fails_with_all_its_parts_there_is_an_error(
    retry: RetryPolicy,
) -> None:
    built = image()
    with serving(DISTRIBUTION, retry=retry) as (server, registry):
        push(registry, R, built)
        server.forget_requests()
        server.fail_when(lambda request: request.method == "PUT", Fault.answer(500), times=1000)
        with pytest.raises((RegistryError, NetworkError)):
            ensure_manifest(Location(registry, R, tag="v1"), built.data, built.media_type)
        assert server.count("POST") == 0


def test_ensure_manifest_without_a_source_needs_its_parts_there() -> None:
    memory = MemoryRegistry()
    built = image()
    with pytest.raises((BlobUnknown, NameUnknown, ManifestBlobUnknown)):
        ensure_manifest(Location(memory, R), built.data, built.media_type)
    push(memory, R, image(2))
    with pytest.raises((BlobUnknown, ManifestBlobUnknown)):
        ensure_manifest(Location(memory, R), built.data, built.media_type)


@pytest.mark.parametrize("status", [401, 403])
def test_ensure_manifest_that_is_refused_copies_nothing(status: int) -> None:
    source = MemoryRegistry()
    built = image()
    push(source, "src", built)
    with serving(DISTRIBUTION, retry=RetryPolicy.none()) as (server, registry):
        server.fail_when(lambda request: request.method == "PUT", Fault.answer(status), times=10)
        with pytest.raises(RegistryError) as caught:
            ensure_manifest(
                Location(registry, R), built.data, built.media_type, {"": Location(source, "src")}
            )
        assert caught.value.status == status
        assert server.count("POST") == 0


def test_ensure_manifest_in_a_repository_that_cannot_be_is_refused_at_once() -> None:
    body = b'{"errors":[{"code":"NAME_UNKNOWN","message":"create it first"}]}'
    built = image()
    with serving(DISTRIBUTION, retry=RetryPolicy.none()) as (server, registry):
        server.fail_when(
            lambda request: request.method == "PUT",
            Fault.answer(404, body, Content_Type="application/json"),
        )
        with pytest.raises(NameUnknown, match="create it first"):
            ensure_manifest(Location(registry, R), built.data, built.media_type)
        assert server.count("POST") == 0


def test_ensure_manifest_of_garbage_is_refused() -> None:
    with pytest.raises((ProtocolError, RegistryError)):
        ensure_manifest(Location(MemoryRegistry(), R), b"garbage", MEDIA_TYPE_MANIFEST)


def test_push_image_pushes_what_is_missing() -> None:
    source = MemoryRegistry()
    built = image(layers=3)
    push(source, R, built, "v1")
    whole = get_image(source, Reference.parse("memory.example/team/box:v1"))
    with serving(DISTRIBUTION) as (server, target):
        place = Location(target, "to", tag="v1")
        target.push_blob("to", built.blobs[1][0], lambda: io.BytesIO(built.blobs[1][1]))
        server.forget_requests()
        shown: list[tuple[int, int]] = []
        done = push_image(place, whole, progress=lambda *now: shown.append(now))
        assert done == built.descriptor
        assert server.count("POST") == 3
        assert holds(target, "to", built)
        assert shown[-1][0] == shown[-1][1] == sum(blob.size for blob, _ in built.blobs)
        server.forget_requests()
        push_image(place, whole)
        assert [record.method for record in server.requests] == ["HEAD"]
        with pytest.raises(DigestMismatch):
            push_image(Location(target, "to", digest=digest_of(b"x")), whole)


def test_push_index_needs_its_manifests() -> None:
    memory = MemoryRegistry()
    index = Index(manifests=tuple(child.entry for child in CHILDREN))
    place = Location(memory, R, tag="v1")
    with pytest.raises(ManifestBlobUnknown):
        push_index(place, index)
    for child in CHILDREN:
        push(memory, R, child)
    assert push_index(place, index) == index_of(*CHILDREN).descriptor
    assert memory.resolve_tag(R, "v1").digest == index_of(*CHILDREN).descriptor.digest
    named = Location(memory, R, digest=index_of(*CHILDREN).descriptor.digest)
    assert push_index(named, index).digest == named.digest
    with pytest.raises(DigestMismatch):
        push_index(named, Index())


def losing(times: int) -> WatchedRegistry:
    """Return a registry that has lost what it was sent when a manifest follows, as many times."""
    memory, left = MemoryRegistry(), [times]

    def before(name: str, said: tuple[Any, ...]) -> None:
        if name != "push_manifest" or said[2] != MEDIA_TYPE_MANIFEST or not left[0]:
            return
        left[0] -= 1
        for blob in parse_children(said[1], where="test").blobs:
            with suppress(NotFoundError):
                memory.delete_blob(said[0], blob.digest)

    return WatchedRegistry(memory, before=before)


def copy_it(source: MemoryRegistry, tree: Built, target: Location) -> None:
    copy_manifest(Location(source, R, tag="v1"), target)


def ensure_it(source: MemoryRegistry, tree: Built, target: Location) -> None:
    ensure_manifest(target, tree.data, tree.media_type, {"": Location(source, R)})


@pytest.mark.parametrize("publish", [copy_it, ensure_it])
@pytest.mark.parametrize("children", [CHILDREN[:1], CHILDREN])
def test_blobs_that_are_denied_once_they_were_sent_are_sent_again(
    publish: Any, children: tuple[Built, ...]
) -> None:
    source, target = MemoryRegistry(), losing(1)
    tree = push_tree(source, R, children, "v1")
    publish(source, tree, Location(target, "to", tag="v2"))
    assert target.inner.resolve_tag("to", "v2").digest == tree.descriptor.digest
    assert all(holds(target.inner, "to", child) for child in children)


def test_blobs_of_a_single_image_that_are_denied_are_sent_again() -> None:
    source, built = MemoryRegistry(), image(layers=2)
    push(source, R, built, "v1")
    whole = get_image(source, Reference.parse("memory.example/team/box:v1"))
    for times, publish in (
        (1, lambda place: push_image(place, whole)),
        (1, lambda place: copy_manifest(Location(source, R, tag="v1"), place)),
        (2, lambda place: ensure_it(source, built, place)),  # it asks by a first refusal
    ):
        target = losing(times)
        publish(Location(target, "to", tag="v1"))
        assert holds(target.inner, "to", built)
    with pytest.raises(ManifestBlobUnknown):
        push_image(Location(losing(2), "to", tag="v1"), whole)

"""Copying a manifest with all that it is made of."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dockercomms.errors import (
    BlobUnknown,
    Denied,
    DigestMismatch,
    ManifestUnknown,
    NameUnknown,
    NetworkError,
)
from dockercomms.oci.hub import ProxiedRegistry
from dockercomms.oci.images.copy import copy_manifest
from dockercomms.oci.interface import Registry
from dockercomms.oci.layout.registry import LayoutRegistry
from dockercomms.oci.memory import MemoryRegistry
from dockercomms.oci.model import (
    EMPTY_CONFIG,
    EMPTY_CONFIG_BYTES,
    MEDIA_TYPE_MANIFEST,
    Descriptor,
    digest_of,
)
from dockercomms.oci.stores import Location
from dockercomms.oci.strict_json import canonical_json
from tests.fakes.images import Built, artifact, holds, image, push, push_tree
from tests.fakes.registry import DISTRIBUTION, GGCR, OCI, FakeRegistry, Fault
from tests.fakes.registry_faults import FaultPlan
from tests.fakes.watched import FailAt, WatchedRegistry
from tests.unit.oci.registries import MIB, R, client, content, serving

CHILDREN = (image(1, architecture="amd64"), image(2, architecture="arm64"))


def stores(folder: Path) -> dict[str, Callable[[], Registry]]:
    return {
        "memory": MemoryRegistry,
        "layout": lambda: LayoutRegistry(folder, create=True),
    }


@pytest.mark.parametrize("source_kind", ["memory", "layout", "http"])
@pytest.mark.parametrize("target_kind", ["memory", "layout", "http"])
def test_copy_manifest_moves_a_whole_tree(
    source_kind: str, target_kind: str, tmp_path: Path
) -> None:
    with FakeRegistry(DISTRIBUTION) as one, FakeRegistry(OCI) as two:
        with client(one.host) as first, client(two.host) as second:
            makers = {**stores(tmp_path / "source"), "http": lambda: first}
            source = makers[source_kind]()
            target = {**stores(tmp_path / "target"), "http": lambda: second}[target_kind]()
            tree = push_tree(source, R, CHILDREN, "v1")
            done = copy_manifest(Location(source, R, tag="v1"), Location(target, "to", tag="v2"))
            assert done == tree.descriptor
            assert target.resolve_tag("to", "v2").digest == tree.descriptor.digest
            assert all(holds(target, "to", child) for child in CHILDREN)


def test_copy_manifest_without_tags_copies_latest_by_digest() -> None:
    source, target = MemoryRegistry(), MemoryRegistry()
    built = image()
    push(source, R, built, "latest")
    copy_manifest(Location(source, R), Location(target, R))
    assert holds(target, R, built)
    assert list(target.tags(R)) == []


def test_copy_manifest_by_digest_to_a_tag() -> None:
    source, target = MemoryRegistry(), MemoryRegistry()
    digest = push(source, R, image(), "v1").digest
    for _ in range(2):
        copy_manifest(Location(source, R, digest=digest), Location(target, R, tag="v1"))
    assert target.resolve_tag(R, "v1").digest == digest


def test_copy_manifest_a_second_time_asks_for_two_descriptors() -> None:
    with serving(DISTRIBUTION) as (one, first), serving(DISTRIBUTION) as (two, second):
        push_tree(first, R, CHILDREN, "v1")
        places = Location(first, R, tag="v1"), Location(second, R, tag="v1")
        copy_manifest(*places)
        one.forget_requests()
        two.forget_requests()
        copy_manifest(*places)
        assert [record.method for record in one.requests] == ["HEAD"]
        assert [record.method for record in two.requests] == ["HEAD"]


def test_copy_manifest_under_another_tag_sends_the_manifest_only() -> None:
    with serving(DISTRIBUTION) as (server, registry):
        push_tree(registry, R, CHILDREN, "v1")
        server.forget_requests()
        copy_manifest(Location(registry, R, tag="v1"), Location(registry, R, tag="v2"))
        assert server.count("PUT") == 1
        assert server.count("POST") == 0
        assert server.count(part="/blobs/") == 0


def test_copy_manifest_within_a_registry_mounts() -> None:
    with serving(DISTRIBUTION) as (server, registry):
        push_tree(registry, "src", CHILDREN, "v1")
        server.forget_requests()
        copy_manifest(Location(registry, "src", tag="v1"), Location(registry, "dst", tag="v1"))
        assert server.count("POST", "mount=", status=201) == 6
        assert server.count("GET", "/blobs/") == 0
        assert all(holds(registry, "dst", child) for child in CHILDREN)


def test_copy_manifest_goes_on_where_the_last_one_broke() -> None:
    with serving(DISTRIBUTION) as (one, first), serving(DISTRIBUTION) as (two, second):
        built = image(layers=6, size=3000)
        push(first, R, built, "v1")
        places = Location(first, R, tag="v1"), Location(second, R, tag="v1")
        two.fail_when(
            lambda request: request.method == "PUT" and "/uploads/" in request.path,
            Fault.answer(403),
            after=3,
            times=100,
        )
        with pytest.raises(Denied):
            copy_manifest(*places, concurrency=1)
        sent = len(two.repository(R).blobs)
        assert sent == 3
        assert two.repository(R).tags == {}
        one.forget_requests()
        two.faults = FaultPlan()
        copy_manifest(*places, concurrency=1)
        assert one.count("GET", "/blobs/") == len(built.blobs) - sent
        assert holds(second, R, built)


def test_copy_manifest_stops_asking_a_new_repository_for_small_blobs() -> None:
    source = MemoryRegistry()
    built = image(layers=20, size=50)
    push(source, R, built, "v1")
    with serving(DISTRIBUTION) as (server, target):
        copy_manifest(Location(source, R, tag="v1"), Location(target, R, tag="v1"), concurrency=1)
        assert server.count("HEAD", "/blobs/") == 4


def test_copy_manifest_stops_mounting_where_nothing_is_mounted() -> None:
    built = image(layers=20, size=50)
    with serving(replace(OCI, mount="refuse")) as (server, registry):
        push(registry, "src", built, "v1")
        server.forget_requests()
        copy_manifest(Location(registry, "src", tag="v1"), Location(registry, "dst"), concurrency=1)
        assert server.count("POST", "mount=") == 4
        assert holds(registry, "dst", built)


def test_copy_manifest_asks_for_all_blobs_once_one_was_found() -> None:
    source = MemoryRegistry()
    built = image(layers=20, size=50)
    push(source, R, built, "v1")
    with serving(DISTRIBUTION) as (server, target):
        for blob, data in built.blobs:
            target.push_blob(R, blob, lambda data=data: io.BytesIO(data))
        server.forget_requests()
        copy_manifest(Location(source, R, tag="v1"), Location(target, R, tag="v1"))
        assert server.count("HEAD", "/blobs/") == 21
        assert server.count("POST") == 0


@pytest.mark.parametrize("method", ["push_blob", "push_manifest"])
def test_copy_manifest_publishes_last(method: str) -> None:
    """Whatever fails, there is no tag whose content is not there."""
    source = MemoryRegistry()
    push_tree(source, R, CHILDREN, "v1")
    number = 1
    while True:
        target = MemoryRegistry()
        fails = FailAt(number)
        watched: Any = WatchedRegistry(
            target, before=lambda name, _, fails=fails: fails() if name == method else None
        )
        try:
            copy_manifest(
                Location(source, R, tag="v1"), Location(watched, R, tag="v1"), concurrency=2
            )
        except NetworkError:
            assert "v1" not in list(_tags(target))
            number += 1
        else:
            break
    assert number > 3


def _tags(registry: MemoryRegistry) -> list[str]:
    try:
        return list(registry.tags(R))
    except NameUnknown:
        return []


def test_copy_manifest_copies_what_is_shared_once() -> None:
    source = MemoryRegistry()
    config = {"config": EMPTY_CONFIG.to_json()}
    twins = tuple(
        Built(
            canonical_json(
                {
                    "schemaVersion": 2,
                    "mediaType": MEDIA_TYPE_MANIFEST,
                    "annotations": {"n": str(number)},
                    "layers": [EMPTY_CONFIG.to_json()],
                    **config,
                }
            ),
            ((EMPTY_CONFIG, EMPTY_CONFIG_BYTES),),
        )
        for number in range(3)
    )
    push_tree(source, R, (*twins, twins[0]), "v1")
    target: Any = WatchedRegistry(MemoryRegistry())
    copy_manifest(Location(source, R, tag="v1"), Location(target, R, tag="v1"))
    assert target.methods().count("push_blob") == 1
    assert target.methods().count("push_manifest") == 4


def test_copy_manifest_does_not_look_into_what_is_there() -> None:
    inner = MemoryRegistry()
    push_tree(inner, R, CHILDREN, "v1")
    source: Any = WatchedRegistry(inner)
    target = MemoryRegistry()
    push(target, R, CHILDREN[0])
    copy_manifest(Location(source, R, tag="v1"), Location(target, R, tag="v1"))
    read = [said[1] for name, said in source.calls if name == "get_manifest"]
    assert CHILDREN[0].descriptor.digest not in read
    assert all(holds(target, R, child) for child in CHILDREN)


def test_copy_manifest_needs_its_source() -> None:
    memory = MemoryRegistry()
    push(memory, R, image(), "v1")
    with pytest.raises(ManifestUnknown):
        copy_manifest(Location(memory, R, tag="v2"), Location(memory, "b"))
    with pytest.raises(NameUnknown):
        copy_manifest(Location(memory, "a"), Location(memory, "b"))


def test_copy_manifest_refuses_a_target_with_another_digest() -> None:
    memory = MemoryRegistry()
    push(memory, R, image(), "v1")
    with pytest.raises(DigestMismatch):
        copy_manifest(Location(memory, R, tag="v1"), Location(memory, "b", digest=digest_of(b"x")))


def test_copy_manifest_of_an_incomplete_image_fails_before_its_tag() -> None:
    built = image()
    with serving(GGCR) as (server, registry):
        push(registry, R, built, "v1")
        server.remove_blob(R, built.blobs[1][0].digest)
        target = MemoryRegistry()
        with pytest.raises(BlobUnknown):
            copy_manifest(Location(registry, R, tag="v1"), Location(target, R, tag="v1"))
        assert _tags(target) == []


def test_copy_manifest_fills_a_registry_that_takes_manifests_without_blobs() -> None:
    source = MemoryRegistry()
    tree = push_tree(source, R, CHILDREN, "v1")
    with serving(GGCR) as (_, registry):
        copy_manifest(Location(source, R, tag="v1"), Location(registry, R, tag="v1"))
        assert all(holds(registry, R, child) for child in CHILDREN)
        assert registry.resolve_tag(R, "v1").digest == tree.descriptor.digest


def test_copy_manifest_shows_progress_that_never_goes_back() -> None:
    built = image(layers=5, size=50_000)
    source = MemoryRegistry()
    push(source, R, built, "v1")
    shown: list[tuple[int, int]] = []
    with serving(DISTRIBUTION) as (_, target):
        target.push_blob(R, built.blobs[1][0], lambda: io.BytesIO(built.blobs[1][1]))
        copy_manifest(
            Location(source, R, tag="v1"),
            Location(target, R, tag="v1"),
            progress=lambda *now: shown.append(now),
        )
    total = sum(blob.size for blob, _ in built.blobs)
    assert shown[-1] == (total, total)
    assert shown == sorted(set(shown))


def test_copy_manifest_keeps_to_its_concurrency() -> None:
    source = MemoryRegistry()
    push(source, R, image(layers=12), "v1")
    at_once, most, lock = 0, 0, threading.Lock()
    meet = threading.Barrier(3)

    def around(what: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        nonlocal at_once, most
        if what != "registry push_blob":
            return call(*args, **kwargs)
        with lock:
            at_once += 1
            most = max(most, at_once)
            number = len(pushed)
            pushed.append(what)
        if number < 12:
            meet.wait(5)
        with lock:
            at_once -= 1
        return call(*args, **kwargs)

    pushed: list[str] = []
    target: Any = WatchedRegistry(MemoryRegistry(), around=around)
    copy_manifest(Location(source, R, tag="v1"), Location(target, R, tag="v1"), concurrency=3)
    assert most == 3
    with pytest.raises(ValueError, match="1 or more"):
        copy_manifest(Location(source, R, tag="v1"), Location(target, "b"), concurrency=0)


def test_copy_manifest_gives_up_what_is_on_its_way_when_something_fails() -> None:
    """A large blob does not hold up the failure of a small one."""
    large = content(8 * MIB)
    blob = Descriptor.of(large, "application/vnd.example.large")
    failing = artifact("x").blobs[1][0]
    fields = {
        "schemaVersion": 2,
        "mediaType": MEDIA_TYPE_MANIFEST,
        "config": EMPTY_CONFIG.to_json(),
        "layers": [blob.to_json(), failing.to_json()],
    }
    with serving(replace(OCI, missing_blob=201)) as (_, source):
        for known, data in ((EMPTY_CONFIG, EMPTY_CONFIG_BYTES), (blob, large)):
            source.push_blob(R, known, lambda data=data: io.BytesIO(data))
        source.push_manifest(R, canonical_json(fields), MEDIA_TYPE_MANIFEST, tags=("v1",))
        begun = threading.Event()

        def around(what: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            if what == "registry resolve_blob" and args[1] == failing.digest:
                begun.wait(300)
            if what == "registry push_blob" and args[1].digest == blob.digest:
                deadline = time.monotonic() + 300
                with args[2]() as stream:
                    while time.monotonic() < deadline:
                        begun.set()
                        if not stream.read(1000):
                            stream.seek(0)
                pytest.fail("the blob was read to its end")
            return call(*args, **kwargs)

        target: Any = WatchedRegistry(MemoryRegistry(), around=around)
        with pytest.raises(BlobUnknown):
            copy_manifest(Location(source, R, tag="v1"), Location(target, R, tag="v1"))


def test_copy_manifest_asks_the_registry_itself_not_its_proxy() -> None:
    """The proxy believes that the tag is there; the registry has never heard of it."""
    with serving() as (hub, direct), serving() as (cache, proxy), serving() as (_, source):
        built = image()
        push(source, R, built, "v1")
        push(proxy, R, built, "v1")
        cache.forget_requests()
        target = ProxiedRegistry(direct, proxy)
        copy_manifest(Location(source, R, tag="v1"), Location(target, R, tag="v1"))
        assert cache.requests == []
        assert hub.repository(R).tags == {"v1": built.descriptor.digest}

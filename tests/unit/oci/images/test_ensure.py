"""One object at a time: lookup, ensure, copy, bytes."""

from __future__ import annotations

import io
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest

from dockercomms.errors import (
    BlobUnknown,
    Denied,
    DigestMismatch,
    NetworkError,
    ProtocolError,
    RegistryError,
    SizeMismatch,
    Truncated,
    Unauthorized,
    UsageError,
)
from dockercomms.oci.client import BLOB_SIZE_WORTH_HEAD
from dockercomms.oci.images.ensure import copy_blob, ensure_blob, fetch_bytes, lookup
from dockercomms.oci.interface import read_all
from dockercomms.oci.layout.registry import LayoutRegistry
from dockercomms.oci.memory import MemoryRegistry
from dockercomms.oci.model import EMPTY_CONFIG, MEDIA_TYPE_OCTET_STREAM, Descriptor, digest_of
from dockercomms.oci.remote.retry import RetryPolicy
from dockercomms.oci.stores import Location
from tests.fakes.images import artifact, push
from tests.fakes.registry import DISTRIBUTION, GGCR, OCI, FakeRegistry, Fault
from tests.fakes.watched import WatchedRegistry
from tests.unit.oci.registries import MIB, R, client, content, described, serving

SMALL = b"hello"
LARGE = content(BLOB_SIZE_WORTH_HEAD + 1)


class CountingSource:
    """Opens content, and counts how often and how much of it was read."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.opened = 0

    def __call__(self) -> io.BytesIO:
        self.opened += 1
        return io.BytesIO(self.data)


def stored(registry: Any, repository: str, data: bytes) -> Descriptor:
    descriptor, source = described(data)
    registry.push_blob(repository, descriptor, source)
    return descriptor


# --- lookup --------------------------------------------------------------------------------------


def test_lookup_reads_a_digest_before_a_tag_before_latest() -> None:
    memory = MemoryRegistry()
    first = push(memory, R, artifact("first"), "v1")
    last = push(memory, R, artifact("last"), "latest")
    for place, expected in (
        (Location(memory, R, tag="latest", digest=first.digest), first),
        (Location(memory, R, tag="v1"), first),
        (Location(memory, R), last),
    ):
        reader = lookup(place)
        assert reader is not None
        assert read_all(reader, 10_000)[1].digest == expected.digest
        head = lookup(place, head=True)
        assert head is not None
        assert (head.read(), head.descriptor.digest) == (b"", expected.digest)


def test_lookup_of_what_is_not_there_is_none() -> None:
    memory = MemoryRegistry()
    assert lookup(Location(memory, R)) is None
    assert lookup(Location(memory, R, digest=digest_of(b"x")), head=True) is None
    blob = stored(memory, R, SMALL)
    missing = Location(memory, R, digest=digest_of(b"y"))
    assert lookup(missing, kind="blob") is None
    assert lookup(missing, kind="blob", head=True) is None
    there = lookup(Location(memory, R, digest=blob.digest), kind="blob")
    assert there is not None
    assert there.read() == SMALL


def test_lookup_of_a_blob_needs_its_digest() -> None:
    with pytest.raises(UsageError, match="digest is missing"):
        lookup(Location(MemoryRegistry(), R, tag="v1"), kind="blob")
    with pytest.raises(UsageError, match="unknown kind"):
        lookup(Location(MemoryRegistry(), R), kind=cast("Any", "layer"))


@pytest.mark.parametrize("status", [401, 403, 404])
@pytest.mark.parametrize("head", [False, True])
def test_lookup_takes_a_refusal_for_absence_if_it_may(status: int, head: bool) -> None:
    with serving(retry=RetryPolicy.none()) as (server, registry):
        server.fail_at(1, Fault.answer(status), times=2)
        assert lookup(Location(registry, R, tag="v1"), head=head) is None


@pytest.mark.parametrize(
    ("status", "denied"), [(401, "raise"), (408, "missing"), (500, "missing"), (501, "missing")]
)
def test_lookup_raises_other_errors_and_a_refusal_where_it_is_to(status, denied) -> None:
    with serving(retry=RetryPolicy.none()) as (server, registry):
        server.fail_at(1, Fault.answer(status))
        with pytest.raises(Unauthorized if status == 401 else (RegistryError, NetworkError)):
            lookup(Location(registry, R, tag="v1"), denied=denied)


# --- fetch_bytes ---------------------------------------------------------------------------------


def test_fetch_bytes_takes_manifests_and_blobs_from_any_store(tmp_path: Path) -> None:
    for store in (MemoryRegistry(), LayoutRegistry(tmp_path / "layout", create=True)):
        built = artifact("a")
        manifest = push(store, R, built)
        blob, data = built.blobs[1]
        place = Location(store, R)
        assert fetch_bytes(place, manifest, limit=manifest.size) == built.data
        assert fetch_bytes(place, blob, limit=100) == data


def test_fetch_bytes_keeps_its_limit() -> None:
    memory = MemoryRegistry()
    blob = stored(memory, R, SMALL)
    with pytest.raises(ProtocolError, match="5 bytes; at most 4"):
        fetch_bytes(Location(memory, R), blob, limit=4)


def test_fetch_bytes_uses_inline_data_without_asking() -> None:
    inline = replace(EMPTY_CONFIG, data=b"{}")
    watched = WatchedRegistry(MemoryRegistry())
    assert fetch_bytes(Location(watched, R), inline, limit=2) == b"{}"
    assert watched.calls == []
    with pytest.raises(DigestMismatch):
        fetch_bytes(Location(watched, R), replace(EMPTY_CONFIG, data=b"[]"), limit=2)


def test_fetch_bytes_refuses_another_size() -> None:
    memory = MemoryRegistry()
    manifest = push(memory, R, artifact("a"))
    blob = stored(memory, R, SMALL)
    with pytest.raises(SizeMismatch):
        fetch_bytes(Location(memory, R), replace(manifest, size=manifest.size - 1), limit=10_000)
    with pytest.raises(SizeMismatch):
        fetch_bytes(Location(memory, R), replace(blob, size=4), limit=10_000)


# --- ensure_blob ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "opened"), [(65535, 2), (65536, 1)])
def test_ensure_blob_looks_first_where_that_is_worth_it(size: int, opened: int) -> None:
    data = content(size)
    source = CountingSource(data)
    shown: list[tuple[int, int]] = []
    with serving(DISTRIBUTION) as (_, registry):
        place = Location(registry, R, digest=digest_of(data))
        for _ in range(2):
            done = ensure_blob(place, size, source, progress=lambda *now: shown.append(now))
            assert done == Descriptor.of(data, MEDIA_TYPE_OCTET_STREAM)
        ensure_blob(place, size, source)
    assert source.opened == opened + (size <= BLOB_SIZE_WORTH_HEAD)
    assert shown[-1] == (size, size)


def test_ensure_blob_replaces_one_of_another_size() -> None:
    source = CountingSource(LARGE)
    with serving(OCI) as (server, registry):
        server.put_blob_raw(R, LARGE[:-1], digest=digest_of(LARGE))
        ensure_blob(Location(registry, R, digest=digest_of(LARGE)), len(LARGE), source)
    assert source.opened == 1


def test_ensure_blob_checks_what_it_sends() -> None:
    place = Location(MemoryRegistry(), R, digest=digest_of(SMALL))
    with pytest.raises(DigestMismatch):
        ensure_blob(place, 5, lambda: io.BytesIO(b"other"))
    with pytest.raises(Truncated):
        ensure_blob(place, 6, lambda: io.BytesIO(SMALL))


def test_ensure_blob_needs_a_digest_and_no_tag() -> None:
    memory = MemoryRegistry()
    with pytest.raises(UsageError, match="digest is missing"):
        ensure_blob(Location(memory, R), 5, lambda: io.BytesIO(SMALL))
    with pytest.raises(UsageError, match="no tags"):
        ensure_blob(
            Location(memory, R, tag="t", digest=digest_of(SMALL)), 5, lambda: io.BytesIO(SMALL)
        )


# --- copy_blob -----------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", SMALL, LARGE, content(3 * MIB)], ids=len)
def test_copy_blob_between_any_two_stores(data: bytes, tmp_path: Path) -> None:
    with FakeRegistry(DISTRIBUTION) as one, FakeRegistry(GGCR) as two:
        with client(one.host) as first, client(two.host) as second:
            layout = LayoutRegistry(tmp_path / "layout", create=True)
            memory = MemoryRegistry()
            blob = stored(first, R, data)
            chain: list[Any] = [first, layout, second, memory, first]
            for number, (source, target) in enumerate(pairwise(chain)):
                shown: list[tuple[int, int]] = []
                done = copy_blob(
                    Location(source, R if number == 0 else f"c{number - 1}", digest=blob.digest),
                    Location(target, f"c{number}"),
                    progress=lambda *now, shown=shown: shown.append(now),
                )
                assert (done.digest, done.size) == (blob.digest, len(data))
                reader = target.get_blob(f"c{number}", blob.digest)
                assert read_all(reader, len(data))[0] == data
                if data:
                    assert shown[-1] == (len(data), len(data))


def test_copy_blob_within_a_registry_is_a_mount() -> None:
    with serving(DISTRIBUTION) as (server, registry), client(server.host) as again:
        blob = stored(registry, "src", LARGE)
        server.forget_requests()
        done = copy_blob(Location(registry, "src", digest=blob.digest), Location(again, "dst"))
        assert done.size == len(LARGE)
        assert server.count("GET") == 0
        assert server.bytes_received() == 0
        assert server.count("POST", "mount=", status=201) == 1


def test_copy_blob_streams_where_a_registry_does_not_mount() -> None:
    with serving(replace(OCI, mount="refuse")) as (server, registry):
        blob = stored(registry, "src", LARGE)
        copy_blob(Location(registry, "src", digest=blob.digest), Location(registry, "dst"))
        assert registry.resolve_blob("dst", blob.digest).size == len(LARGE)
        server.forget_requests()
        copy_blob(Location(registry, "src", digest=blob.digest), Location(registry, "dst"))
        assert server.bytes_received() == 0


def test_copy_blob_streams_where_the_login_may_not_mount() -> None:
    def refuse(name: str, _: object) -> None:
        if name == "mount_blob":
            raise Denied("not yours")

    store: Any = WatchedRegistry(MemoryRegistry(), before=refuse)
    blob = stored(store, "src", SMALL)
    copy_blob(Location(store, "src", digest=blob.digest), Location(store, "dst"))
    assert read_all(store.get_blob("dst", blob.digest), 10)[0] == SMALL


def test_copy_blob_that_is_there_reads_nothing() -> None:
    with serving() as (one, first), serving() as (two, second):
        blob = stored(first, R, LARGE)
        stored(second, R, LARGE)
        one.forget_requests()
        two.forget_requests()
        copy_blob(Location(first, R, digest=blob.digest), Location(second, R))
        assert one.requests == []
        assert [record.method for record in two.requests] == ["HEAD"]


def test_copy_blob_that_is_missing_opens_no_session() -> None:
    with serving() as (_, first), serving() as (two, second):
        with pytest.raises(BlobUnknown):
            copy_blob(Location(first, R, digest=digest_of(b"x")), Location(second, R))
        assert two.count("POST") == 0


def test_copy_blob_wants_one_digest_and_no_tags() -> None:
    memory = MemoryRegistry()
    digest = stored(memory, R, SMALL).digest
    source = Location(memory, R, digest=digest)
    for bad_source, bad_target in (
        (Location(memory, R), Location(memory, "b")),
        (source, Location(memory, "b", digest=digest_of(b"y"))),
        (Location(memory, R, tag="t", digest=digest), Location(memory, "b")),
        (source, Location(memory, "b", tag="t", digest=digest)),
    ):
        with pytest.raises(UsageError):
            copy_blob(bad_source, bad_target)
    assert copy_blob(source, Location(memory, "b", digest=digest)).size == len(SMALL)


@pytest.mark.parametrize("wrong", [b"other", b"hell"])
def test_copy_blob_never_passes_on_wrong_content(wrong: bytes) -> None:
    with serving() as (one, first), serving() as (two, second):
        digest = digest_of(SMALL)
        one.put_blob_raw(R, wrong, digest=digest)
        with pytest.raises((DigestMismatch, RegistryError)):
            copy_blob(Location(first, R, digest=digest), Location(second, R))
        assert digest not in two.repository(R).blobs


def test_copy_blob_goes_on_where_either_side_broke() -> None:
    data = content(5 * MIB)
    with serving(DISTRIBUTION) as (one, first), serving(DISTRIBUTION) as (two, second):
        blob = stored(first, R, data)
        one.fail_when(lambda request: request.method == "GET", Fault.cut_body(2 * MIB))
        two.fail_when(lambda request: request.method == "PATCH", Fault.cut_request(3 * MIB))
        copy_blob(Location(first, R, digest=blob.digest), Location(second, R))
        assert read_all(second.get_blob(R, blob.digest), len(data))[0] == data
        assert two.bytes_received() < len(data) + MIB


def test_copy_blob_raises_the_sources_own_error() -> None:
    data = content(5 * MIB)
    with (
        serving(DISTRIBUTION, retry=RetryPolicy.none()) as (one, first),
        serving(DISTRIBUTION) as (two, second),
    ):
        blob = stored(first, R, data)
        one.fail_when(lambda request: request.method == "GET", Fault.cut_body(2 * MIB))
        with pytest.raises(NetworkError, match=f"GET http://{one.host}"):
            copy_blob(Location(first, R, digest=blob.digest), Location(second, R))
        assert two.count("POST") == 1
        assert two.count("DELETE", "/uploads/") == 1

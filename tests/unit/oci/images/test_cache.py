from __future__ import annotations

import io
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest

from dockercomms.errors import (
    BlobUnknown,
    IntegrityError,
    ManifestBlobUnknown,
    ManifestUnknown,
    NetworkError,
    RegistryError,
    SizeMismatch,
)
from dockercomms.oci.images.cache import MAX_OBJECT_BYTES, CachedRegistry
from dockercomms.oci.interface import BlobReader, Reader, Registry, read_all
from dockercomms.oci.memory import MemoryRegistry
from dockercomms.oci.model import (
    EMPTY_CONFIG,
    MEDIA_TYPE_MANIFEST,
    MEDIA_TYPE_OCTET_STREAM,
    Descriptor,
    Digest,
    digest_of,
)
from tests.contract.capabilities import (
    Capabilities,
    content,
    manifest_bytes,
    push,
    push_empty_config,
    push_manifest,
)
from tests.contract.registry_contract import RegistryContract
from tests.fakes.clock import FakeClock
from tests.fakes.static_reader import CountingRegistry

BOX = "team/app"
THREADS = 20


@pytest.fixture
def store() -> MemoryRegistry:
    made = MemoryRegistry()
    push_empty_config(made, BOX)
    return made


@pytest.fixture
def counted(store: MemoryRegistry) -> CountingRegistry:
    return CountingRegistry(store)


def cached(counted: CountingRegistry, **options: Any) -> CachedRegistry:
    return CachedRegistry(cast("Registry", counted), **options)


def bytes_of(reader: BlobReader) -> bytes:
    with reader:
        return reader.read()


class TestCachedRegistry(RegistryContract):
    """The whole contract holds through a cache, even one that believes tags for a minute."""

    @pytest.fixture(params=["tags", "no tags", "tiny"])
    def registry(self, request: pytest.FixtureRequest) -> Iterator[Registry]:
        options: dict[str, dict[str, Any]] = {
            "tags": {"tag_ttl": 60},
            "no tags": {},
            "tiny": {"tag_ttl": 60, "max_object": 100, "max_total": 300},
        }
        made = CachedRegistry(MemoryRegistry(), **options[request.param])
        yield made
        made.close()

    @pytest.fixture
    def repository(self) -> str:
        return f"contract/{uuid.uuid4().hex}"

    @pytest.fixture
    def capabilities(self) -> Capabilities:
        return Capabilities(own_clock=True)


# --- what is kept ---


def test_cache_asks_once_for_a_blob(store: MemoryRegistry, counted: CountingRegistry) -> None:
    data = content(1000)
    blob = push(store, BOX, data)
    registry = cached(counted)
    for _ in range(3):
        reader = registry.get_blob(BOX, blob.digest, size=1000)
        assert reader.descriptor == blob
        assert bytes_of(reader) == data
        assert registry.resolve_blob(BOX, blob.digest) == blob
    assert counted.calls == ["get_blob"]


def test_cache_asks_for_the_descriptor_and_then_for_the_content(
    store: MemoryRegistry, counted: CountingRegistry
) -> None:
    blob = push(store, BOX, b"data")
    registry = cached(counted)
    for _ in range(2):
        assert registry.resolve_blob(BOX, blob.digest) == blob
    assert bytes_of(registry.get_blob(BOX, blob.digest)) == b"data"
    assert bytes_of(registry.get_blob(BOX, blob.digest)) == b"data"
    assert counted.calls == ["resolve_blob", "get_blob"]


def test_cache_asks_once_for_a_manifest(store: MemoryRegistry, counted: CountingRegistry) -> None:
    manifest = push_manifest(store, BOX, "x")
    registry = cached(counted)
    for _ in range(2):
        reader = registry.get_manifest(BOX, manifest.digest)
        assert reader.descriptor == manifest
        assert bytes_of(reader) == manifest_bytes("x")
        assert registry.resolve_manifest(BOX, manifest.digest) == manifest
    assert counted.calls == ["get_manifest"]


@pytest.mark.parametrize(("extra", "requests"), [(0, 1), (1, 2)])
def test_cache_keeps_four_mebibytes_and_no_byte_more(
    store: MemoryRegistry, counted: CountingRegistry, extra: int, requests: int
) -> None:
    data = bytes(MAX_OBJECT_BYTES + extra)
    blob = push(store, BOX, data)
    registry = cached(counted)
    for _ in range(2):
        assert bytes_of(registry.get_blob(BOX, blob.digest)) == data
    assert registry.resolve_blob(BOX, blob.digest) == blob
    assert counted.calls == ["get_blob"] * requests


def test_cache_checks_what_it_hands_out(store: MemoryRegistry, counted: CountingRegistry) -> None:
    blob = push(store, BOX, b"data")
    registry = cached(counted)
    for _ in range(2):
        with pytest.raises(SizeMismatch):
            registry.get_blob(BOX, blob.digest, size=5)
        assert bytes_of(registry.get_blob(BOX, blob.digest, size=4)) == b"data"


def test_cache_keeps_nothing_that_was_not_proven(counted: CountingRegistry) -> None:
    class Lying(MemoryRegistry):
        lies = True

        def get_blob(
            self, repository: str, digest: Digest, *, size: int | None = None
        ) -> BlobReader:
            from dockercomms.oci.content import StoredReader

            data = b"evil" if self.lies else b"data"
            descriptor = Descriptor(media_type="a/b", digest=digest, size=4)
            return StoredReader(io.BytesIO(data), descriptor)

    lying = Lying()
    registry = CachedRegistry(lying)
    with pytest.raises(IntegrityError):
        registry.get_blob(BOX, digest_of(b"data"))
    lying.lies = False
    assert bytes_of(registry.get_blob(BOX, digest_of(b"data"))) == b"data"


def test_cache_knows_nothing_of_another_repository(
    store: MemoryRegistry, counted: CountingRegistry
) -> None:
    blob = push(store, BOX, b"data")
    push(store, "other", b"something else")
    registry = cached(counted)
    assert bytes_of(registry.get_blob(BOX, blob.digest)) == b"data"
    with pytest.raises(BlobUnknown):
        registry.get_blob("other", blob.digest)
    with pytest.raises(BlobUnknown):
        registry.resolve_blob("other", blob.digest)


def test_cache_shares_content_that_is_known_to_be_in_both(
    store: MemoryRegistry, counted: CountingRegistry
) -> None:
    blob = push(store, BOX, b"data")
    registry = cached(counted)
    assert bytes_of(registry.get_blob(BOX, blob.digest)) == b"data"
    assert registry.mount_blob("other", blob.digest, source=BOX) == blob
    assert bytes_of(registry.get_blob("other", blob.digest)) == b"data"
    assert registry.mount_blob("other", digest_of(b"none"), source=BOX) is None
    assert counted.calls == ["get_blob", "mount_blob", "mount_blob"]


def test_cache_keeps_no_error(store: MemoryRegistry, counted: CountingRegistry) -> None:
    registry = cached(counted, tag_ttl=60)
    asks: tuple[tuple[Callable[[], object], type[RegistryError]], ...] = (
        (lambda: registry.get_blob(BOX, digest_of(b"late")), BlobUnknown),
        (lambda: registry.resolve_blob(BOX, digest_of(b"late")), BlobUnknown),
        (lambda: registry.get_manifest(BOX, digest_of(b"late")), ManifestUnknown),
        (lambda: registry.resolve_manifest(BOX, digest_of(b"late")), ManifestUnknown),
        (lambda: registry.get_tag(BOX, "late"), ManifestUnknown),
        (lambda: registry.resolve_tag(BOX, "late"), ManifestUnknown),
    )
    for _ in range(2):
        for ask, error in asks:
            with pytest.raises(error):
                ask()
    assert len(counted.calls) == 12
    push(store, BOX, b"late")
    push_manifest(store, BOX, "late", tags=("late",))
    assert bytes_of(registry.get_blob(BOX, digest_of(b"late"))) == b"late"
    assert bytes_of(registry.get_tag(BOX, "late")) == manifest_bytes("late")


def test_cache_answers_ranges_out_of_what_it_has(
    store: MemoryRegistry, counted: CountingRegistry
) -> None:
    blob = push(store, BOX, b"0123456789")
    registry = cached(counted)
    assert bytes_of(registry.get_blob_range(BOX, blob.digest, 2, 5)) == b"234"
    assert bytes_of(registry.get_blob(BOX, blob.digest)) == b"0123456789"
    assert bytes_of(registry.get_blob_range(BOX, blob.digest, 2, 5)) == b"234"
    assert bytes_of(registry.get_blob_range(BOX, blob.digest, 8)) == b"89"
    assert counted.calls == ["get_blob_range", "get_blob"]


def test_cache_drops_the_oldest_when_it_is_full(
    store: MemoryRegistry, counted: CountingRegistry
) -> None:
    blobs = [push(store, BOX, content(100, seed)) for seed in range(3)]
    registry = cached(counted, max_total=250)
    for blob in (*blobs, *blobs[1:], blobs[0]):
        bytes_of(registry.get_blob(BOX, blob.digest))
    assert counted.calls == ["get_blob"] * 4


# --- tags ---


@pytest.mark.parametrize("ask", ["get_tag", "resolve_tag"])
def test_cache_believes_no_tag_by_default(
    store: MemoryRegistry, counted: CountingRegistry, ask: str
) -> None:
    registry = cached(counted)
    for name in ("x", "y"):
        manifest = push_manifest(store, BOX, name, tags=("v1",))
        for _ in range(2):
            assert descriptor_of(getattr(registry, ask)(BOX, "v1")) == manifest
    assert counted.calls == [ask] * 4


def descriptor_of(found: Any) -> Descriptor:
    return found if isinstance(found, Descriptor) else found.descriptor


@pytest.mark.parametrize("ask", ["get_tag", "resolve_tag"])
def test_cache_believes_a_tag_for_as_long_as_it_is_told_to(
    store: MemoryRegistry, counted: CountingRegistry, ask: str
) -> None:
    clock = FakeClock()
    registry = cached(counted, tag_ttl=10, clock=clock)
    old = push_manifest(store, BOX, "old", tags=("v1",))
    assert descriptor_of(getattr(registry, ask)(BOX, "v1")) == old
    new = push_manifest(store, BOX, "new", tags=("v1",))
    clock.advance(9.9)
    assert descriptor_of(getattr(registry, ask)(BOX, "v1")) == old
    clock.advance(0.2)
    assert descriptor_of(getattr(registry, ask)(BOX, "v1")) == new
    assert counted.calls == [ask, ask]


def test_cache_fetches_a_tag_and_has_its_manifest(
    store: MemoryRegistry, counted: CountingRegistry
) -> None:
    manifest = push_manifest(store, BOX, "x", tags=("v1",))
    registry = cached(counted)
    assert bytes_of(registry.get_tag(BOX, "v1")) == manifest_bytes("x")
    assert bytes_of(registry.get_manifest(BOX, manifest.digest)) == manifest_bytes("x")
    assert registry.resolve_manifest(BOX, manifest.digest) == manifest
    assert counted.calls == ["get_tag"]


def test_cache_fetches_a_tag_whose_manifest_it_resolved(
    store: MemoryRegistry, counted: CountingRegistry
) -> None:
    push_manifest(store, BOX, "x", tags=("v1",))
    registry = cached(counted, tag_ttl=60)
    registry.resolve_tag(BOX, "v1")
    for _ in range(2):
        assert bytes_of(registry.get_tag(BOX, "v1")) == manifest_bytes("x")
        registry.resolve_tag(BOX, "v1")
    assert counted.calls == ["resolve_tag", "get_tag"]


def test_cache_hands_a_large_manifest_through(
    store: MemoryRegistry, counted: CountingRegistry
) -> None:
    push_manifest(store, BOX, "x", tags=("v1",))
    registry = cached(counted, tag_ttl=60, max_object=10)
    for _ in range(2):
        assert bytes_of(registry.get_tag(BOX, "v1")) == manifest_bytes("x")
    assert counted.calls == ["get_tag"] * 2


def test_cache_knows_the_tags_it_pushed(counted: CountingRegistry) -> None:
    registry = cached(counted, tag_ttl=60)
    for name in ("x", "y"):
        manifest = push_manifest(registry, BOX, name, tags=("v1", "v2"))
        assert registry.resolve_tag(BOX, "v1") == manifest
        assert bytes_of(registry.get_tag(BOX, "v2")) == manifest_bytes(name)
        assert registry.resolve_manifest(BOX, manifest.digest) == manifest
    assert counted.calls == ["push_manifest"] * 2


def test_cache_doubts_its_tags_after_a_push_that_failed(
    store: MemoryRegistry, counted: CountingRegistry
) -> None:
    registry = cached(counted, tag_ttl=60)
    old = push_manifest(registry, BOX, "old", tags=("v1",))
    lost = Descriptor.of(b"lost", MEDIA_TYPE_OCTET_STREAM)
    with pytest.raises(ManifestBlobUnknown):
        registry.push_manifest(
            BOX, manifest_bytes("new", layers=[lost]), MEDIA_TYPE_MANIFEST, tags=("v1",)
        )
    assert registry.resolve_tag(BOX, "v1") == old
    assert counted.calls == ["push_manifest", "push_manifest", "resolve_tag"]


# --- changes ---


def test_cache_knows_the_blob_it_pushed(counted: CountingRegistry) -> None:
    registry = cached(counted)
    blob = push(registry, BOX, b"data", "text/plain")
    assert registry.resolve_blob(BOX, blob.digest).size == 4
    assert registry.resolve_blob(BOX, blob.digest).media_type == MEDIA_TYPE_OCTET_STREAM
    assert counted.calls == ["push_blob"]


def test_cache_forgets_what_it_deletes(store: MemoryRegistry, counted: CountingRegistry) -> None:
    registry = cached(counted, tag_ttl=60)
    blob = push(registry, BOX, b"data")
    manifest = push_manifest(registry, BOX, "x", tags=("v1", "v2"))
    bytes_of(registry.get_blob(BOX, blob.digest))
    registry.delete_tag(BOX, "v1")
    with pytest.raises(ManifestUnknown):
        registry.resolve_tag(BOX, "v1")
    assert registry.resolve_tag(BOX, "v2") == manifest
    registry.delete_manifest(BOX, manifest.digest)
    registry.delete_blob(BOX, blob.digest)
    for ask in (
        lambda: registry.get_tag(BOX, "v2"),
        lambda: registry.resolve_manifest(BOX, manifest.digest),
        lambda: registry.get_manifest(BOX, manifest.digest),
    ):
        with pytest.raises(ManifestUnknown):
            ask()
    with pytest.raises(BlobUnknown):
        registry.get_blob(BOX, blob.digest)


def test_cache_never_keeps_a_list(store: MemoryRegistry, counted: CountingRegistry) -> None:
    registry = cached(counted, tag_ttl=60)
    manifest = push_manifest(registry, BOX, "x", tags=("v1",))
    counted.calls.clear()
    for _ in range(2):
        assert list(registry.tags(BOX, page_size=2, limit=3)) == ["v1"]
        assert [page.tags for page in registry.tag_pages(BOX)] == [("v1",)]
        assert list(registry.repositories()) == [BOX]
        assert list(registry.referrers(BOX, manifest.digest)) == []
        assert registry.referrers_supported(BOX)
    lists = ["tags", "tag_pages", "repositories", "referrers", "referrers_supported"]
    assert counted.calls == lists * 2


def test_cache_hands_uploads_through(counted: CountingRegistry) -> None:
    registry = cached(counted)
    upload = registry.upload(BOX, chunk_size=5)
    upload.write(b"half")
    upload.close()
    upload = registry.resume_upload(BOX, upload.id)
    upload.write(b" and half")
    upload.commit(digest_of(b"half and half"))
    assert bytes_of(registry.get_blob(BOX, digest_of(b"half and half"))) == b"half and half"
    assert registry.server_time() is not None
    registry.close()
    assert counted.calls[-2:] == ["server_time", "close"]


# --- many at once ---


class Gate(CountingRegistry):
    """Lets reading go on when it is opened, and says when somebody reads."""

    def __init__(self, registry: Registry) -> None:
        super().__init__(registry)
        self.reading = threading.Event()
        self.opened = threading.Event()

    def __getattr__(self, name: str) -> Any:
        method = super().__getattr__(name)
        if not name.startswith(("get_", "resolve_")):
            return method

        def gated(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            self.reading.set()
            assert self.opened.wait(10)
            return result

        return gated


def all_at_once(gate: Gate, ask: Callable[[], object]) -> list[object]:
    barrier = threading.Barrier(THREADS + 1)

    def wait_and_ask() -> object:
        barrier.wait(10)
        return ask()

    with ThreadPoolExecutor(THREADS) as pool:
        futures = [pool.submit(wait_and_ask) for _ in range(THREADS)]
        barrier.wait(10)
        assert gate.reading.wait(10)
        gate.opened.set()
        return [future.result(10) for future in futures]


@pytest.mark.parametrize(
    "ask",
    ["get_blob", "resolve_blob", "get_manifest", "resolve_manifest", "get_tag", "resolve_tag"],
)
def test_cache_makes_one_request_of_twenty_threads(store: MemoryRegistry, ask: str) -> None:
    blob = push(store, BOX, b"data")
    manifest = push_manifest(store, BOX, "x", tags=("v1",))
    gate = Gate(store)
    registry = cached(gate, tag_ttl=60)
    key = {"blob": blob.digest, "manifest": manifest.digest, "tag": "v1"}[ask.partition("_")[2]]
    expected = blob if ask.endswith("blob") else manifest

    def call() -> object:
        found = getattr(registry, ask)(BOX, key)
        if isinstance(found, Descriptor):
            return found
        data, descriptor = read_all(found, 10_000)
        assert digest_of(data) == descriptor.digest
        return descriptor

    assert all_at_once(gate, call) == [expected] * THREADS
    assert gate.calls == [ask]


def test_cache_gives_each_thread_a_reader_of_its_own_for_a_large_object(
    store: MemoryRegistry,
) -> None:
    data = content(1000)
    blob = push(store, BOX, data)
    gate = Gate(store)
    registry = cached(gate, max_object=999)
    found = all_at_once(gate, lambda: bytes_of(registry.get_blob(BOX, blob.digest)))
    assert found == [data] * THREADS
    assert gate.calls == ["get_blob"] * THREADS


@pytest.mark.parametrize("ask", ["get_tag", "resolve_tag"])
def test_cache_keeps_no_tag_that_was_moved_while_it_was_read(
    store: MemoryRegistry, ask: str
) -> None:
    old = push_manifest(store, BOX, "old", tags=("v1",))
    gate = Gate(store)
    registry = cached(gate, tag_ttl=60)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(getattr(registry, ask), BOX, "v1")
        assert gate.reading.wait(10)
        new = push_manifest(registry, BOX, "new", tags=("v1",))
        gate.opened.set()
        assert descriptor_of(reading.result(10)) == old
    assert registry.resolve_tag(BOX, "v1") == new
    assert descriptor_of(registry.get_tag(BOX, "v1")) == new


def test_cache_keeps_nothing_that_was_deleted_while_it_was_read(store: MemoryRegistry) -> None:
    blob = push(store, BOX, b"data")
    gate = Gate(store)
    registry = cached(gate)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(registry.get_blob, BOX, blob.digest)
        assert gate.reading.wait(10)
        registry.delete_blob(BOX, blob.digest)
        gate.opened.set()
        assert bytes_of(reading.result(10)) == b"data"
    with pytest.raises(BlobUnknown):
        registry.get_blob(BOX, blob.digest)


def test_cache_does_not_believe_one_of_two_pushes_at_once(store: MemoryRegistry) -> None:
    class Slow(CountingRegistry):
        def push_manifest(self, *args: Any, **kwargs: Any) -> Descriptor:
            first = "push" not in self.calls
            self.calls.append("push")
            stored = store.push_manifest(*args, **kwargs)
            if first:  # another push comes between the registry's answer and its arrival
                push_manifest(registry, BOX, "second", tags=("v1",))
            return stored

    slow = Slow(store)
    registry = cached(slow, tag_ttl=60)
    push_manifest(registry, BOX, "first", tags=("v1",))
    assert bytes_of(registry.get_tag(BOX, "v1")) == manifest_bytes("second")


def test_cache_gives_an_error_to_the_threads_that_wait(store: MemoryRegistry) -> None:
    class Broken(Gate):
        def resolve_blob(self, repository: str, digest: Digest) -> Descriptor:
            self.reading.set()
            assert self.opened.wait(10)
            raise NetworkError("gone")

    gate = Broken(store)
    registry = cached(gate)

    def call() -> object:
        try:
            return registry.resolve_blob(BOX, EMPTY_CONFIG.digest)
        except NetworkError as error:
            return error.message

    assert all_at_once(gate, call) == ["gone"] * THREADS


def test_cached_registry_is_a_registry(store: MemoryRegistry) -> None:
    registry = CachedRegistry(store)
    assert isinstance(registry, Registry)
    assert isinstance(registry, Reader)

from __future__ import annotations

import io
from datetime import UTC, datetime

import pytest

from dockercomms.errors import (
    BlobUnknown,
    ManifestBlobUnknown,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    RangeInvalid,
    UploadUnknown,
)
from dockercomms.oci.interface import Registry
from dockercomms.oci.memory import MemoryRegistry
from dockercomms.oci.model import EMPTY_CONFIG, MEDIA_TYPE_MANIFEST, Descriptor, digest_of
from tests.contract.capabilities import manifest_bytes, push, push_empty_config, push_manifest
from tests.fakes.clock import FakeClock


def test_memory_registry_tells_the_time_of_its_clock() -> None:
    clock = FakeClock(datetime(2026, 1, 2, tzinfo=UTC))
    assert MemoryRegistry(clock=clock).server_time() == datetime(2026, 1, 2, tzinfo=UTC)


def test_memory_registry_keeps_repositories_apart() -> None:
    registry: Registry = MemoryRegistry()
    push_empty_config(registry, "a")
    manifest = push_manifest(registry, "a", "one", tags=("v1",))
    with pytest.raises(NameUnknown):
        registry.resolve_blob("b", EMPTY_CONFIG.digest)
    blob = push(registry, "b", b"another")
    with pytest.raises(BlobUnknown):
        registry.resolve_blob("a", blob.digest)
    with pytest.raises(ManifestUnknown):
        registry.resolve_manifest("b", manifest.digest)
    assert list(registry.tags("b")) == []
    with pytest.raises(ManifestBlobUnknown):
        push_manifest(registry, "b", "two")
    assert list(registry.repositories()) == ["a", "b"]


def test_memory_registry_has_no_repository_after_a_refused_push() -> None:
    registry = MemoryRegistry()
    with pytest.raises(ManifestBlobUnknown):
        registry.push_manifest("a", manifest_bytes("x"), MEDIA_TYPE_MANIFEST)
    registry.upload("a").cancel()
    assert list(registry.repositories()) == []


def test_memory_registry_refuses_a_bad_repository_name() -> None:
    registry = MemoryRegistry()
    writes = (
        lambda: push(registry, "A", b"x"),
        lambda: registry.push_manifest("A", b"{}", MEDIA_TYPE_MANIFEST),
        lambda: registry.upload("A"),
        lambda: registry.mount_blob("A", digest_of(b""), source="b"),
    )
    for write in writes:
        with pytest.raises(NameInvalid):
            write()


def test_memory_registry_limits_its_pages() -> None:
    registry = MemoryRegistry(page_size=2)
    push_empty_config(registry, "a")
    push_manifest(registry, "a", "one", tags=tuple("abcde"))
    pages = [page.tags for page in registry.tag_pages("a", page_size=1000)]
    assert pages == [("a", "b"), ("c", "d"), ("e",)]
    assert [page.tags for page in registry.tag_pages("a", page_size=1)] == [*zip("abcde")]
    assert [page.tags for page in registry.tag_pages("a")] == pages


def test_memory_registry_keeps_what_was_pushed_not_the_buffer() -> None:
    registry = MemoryRegistry()
    push_empty_config(registry, "a")
    buffer = bytearray(manifest_bytes("x"))
    pushed = registry.push_manifest("a", buffer, MEDIA_TYPE_MANIFEST)  # type: ignore[arg-type]
    buffer[0] = 0
    with registry.get_manifest("a", pushed.digest) as reader:
        assert reader.read() == manifest_bytes("x")


def test_memory_registry_upload_that_is_gone_takes_nothing() -> None:
    registry = MemoryRegistry()
    upload = registry.upload("a")
    registry.resume_upload("a", upload.id).cancel()
    with pytest.raises(UploadUnknown):
        upload.write(b"late")
    with pytest.raises(UploadUnknown):
        upload.commit(digest_of(b""))
    upload.cancel()


def test_memory_registry_upload_that_another_went_on_with_is_not_committed() -> None:
    registry = MemoryRegistry()
    upload = registry.upload("a")
    upload.write(b"first")
    registry.resume_upload("a", upload.id).write(b" second")
    with pytest.raises(RangeInvalid, match="12 bytes received, 5 written"):
        upload.commit(digest_of(b"first second"))


def test_memory_registry_keeps_nothing_of_a_broken_source() -> None:
    registry = MemoryRegistry()

    def broken() -> io.BytesIO:
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        registry.push_blob("a", Descriptor.of(b"x", "text/plain"), broken)
    assert list(registry.repositories()) == []


def test_memory_registry_keeps_its_content_when_closed() -> None:
    registry = MemoryRegistry()
    push_empty_config(registry, "a")
    registry.close()
    assert registry.resolve_blob("a", EMPTY_CONFIG.digest).size == 2

"""The contract of blobs: push, get, ranges, mount, delete."""

from __future__ import annotations

import io

import pytest

from dockercomms.errors import (
    BlobUnknown,
    DockerCommsError,
    IntegrityError,
    NameUnknown,
    RangeInvalid,
    Unsupported,
)
from dockercomms.oci.interface import Registry
from dockercomms.oci.model import MEDIA_TYPE_OCTET_STREAM, Descriptor, digest_of
from tests.contract.capabilities import Capabilities, content, push

MISSING_BLOB = (BlobUnknown, NameUnknown)
READ_STEP = 64 * 1024
SIZES = (0, 1, READ_STEP - 1, READ_STEP, READ_STEP + 1, 3 * READ_STEP, 2**20 + 1)


class BlobContract:
    """The contract of every store for blobs."""

    @pytest.mark.parametrize("size", SIZES)
    def test_get_blob_gives_back_what_was_pushed(
        self, registry: Registry, repository: str, size: int
    ) -> None:
        data = content(size)
        descriptor = Descriptor.of(data, "application/vnd.example.layer")
        assert registry.push_blob(repository, descriptor, lambda: io.BytesIO(data)) == descriptor
        with registry.get_blob(repository, descriptor.digest, size=size) as reader:
            assert reader.descriptor.digest == descriptor.digest
            assert reader.descriptor.size == size
            assert reader.read() == data

    def test_get_blob_streams_in_pieces(self, registry: Registry, repository: str) -> None:
        data = content(10_000)
        descriptor = push(registry, repository, data)
        with registry.get_blob(repository, descriptor.digest) as reader:
            assert reader.read(0) == b""
            pieces = []
            while piece := reader.read(999):
                assert len(piece) <= 999
                pieces.append(piece)
            assert b"".join(pieces) == data
            assert reader.read(10) == b""
            assert reader.read() == b""

    def test_get_blob_unknown_is_not_found(self, registry: Registry, repository: str) -> None:
        push(registry, repository, b"something else")
        with pytest.raises(BlobUnknown):
            registry.get_blob(repository, digest_of(b"not there"))
        with pytest.raises(BlobUnknown):
            registry.resolve_blob(repository, digest_of(b"not there"))
        with pytest.raises(BlobUnknown):
            registry.get_blob_range(repository, digest_of(b"not there"), 0, 1)

    def test_get_blob_of_unknown_repository_is_not_found(
        self, registry: Registry, repository: str
    ) -> None:
        with pytest.raises(MISSING_BLOB):
            registry.get_blob(repository, digest_of(b"not there"))
        with pytest.raises(MISSING_BLOB):
            registry.resolve_blob(repository, digest_of(b"not there"))

    def test_get_blob_of_another_size_than_asked_is_refused(
        self, registry: Registry, repository: str
    ) -> None:
        descriptor = push(registry, repository, b"twelve bytes")
        for size in (0, 11, 13):
            with (
                pytest.raises(IntegrityError),
                registry.get_blob(repository, descriptor.digest, size=size) as reader,
            ):
                reader.read()

    def test_blob_reader_closed_refuses_to_read(self, registry: Registry, repository: str) -> None:
        descriptor = push(registry, repository, content(200_000))
        reader = registry.get_blob(repository, descriptor.digest)
        reader.read(1)
        reader.close()
        reader.close()
        with pytest.raises((ValueError, DockerCommsError)):
            reader.read(1)

    def test_resolve_blob_gives_digest_and_size(self, registry: Registry, repository: str) -> None:
        descriptor = push(registry, repository, b"twelve bytes")
        resolved = registry.resolve_blob(repository, descriptor.digest)
        assert (resolved.digest, resolved.size) == (descriptor.digest, 12)

    def test_push_blob_twice_is_no_error(self, registry: Registry, repository: str) -> None:
        assert push(registry, repository, b"same") == push(registry, repository, b"same")

    @pytest.mark.parametrize(
        ("promised", "given"),
        [(b"expected", b"other..."), (b"expected", b"expect"), (b"expected", b"expected more")],
        ids=["other", "shorter", "longer"],
    )
    def test_push_blob_from_a_wrong_source_leaves_nothing(
        self, registry: Registry, repository: str, promised: bytes, given: bytes
    ) -> None:
        push(registry, repository, b"so that the repository is there")
        descriptor = Descriptor.of(promised, MEDIA_TYPE_OCTET_STREAM)
        with pytest.raises(IntegrityError):
            registry.push_blob(repository, descriptor, lambda: io.BytesIO(given))
        with pytest.raises(BlobUnknown):
            registry.resolve_blob(repository, descriptor.digest)
        with pytest.raises(BlobUnknown):
            registry.resolve_blob(repository, digest_of(given))

    def test_push_blob_reports_progress_up_to_the_end(
        self, registry: Registry, repository: str
    ) -> None:
        data = content(3 * 2**20 + 7)
        descriptor = Descriptor.of(data, MEDIA_TYPE_OCTET_STREAM)
        seen: list[tuple[int, int]] = []
        registry.push_blob(
            repository,
            descriptor,
            lambda: io.BytesIO(data),
            progress=lambda done, total: seen.append((done, total)),
        )
        assert seen == sorted(seen)
        assert {total for _, total in seen} == {len(data)}
        assert seen[-1][0] == len(data)

    def test_push_blob_closes_its_source(self, registry: Registry, repository: str) -> None:
        opened: list[io.BytesIO] = []

        def source() -> io.BytesIO:
            opened.append(io.BytesIO(b"some bytes"))
            return opened[-1]

        registry.push_blob(
            repository, Descriptor.of(b"some bytes", MEDIA_TYPE_OCTET_STREAM), source
        )
        assert opened
        assert all(stream.closed for stream in opened)

    @pytest.mark.parametrize(
        ("start", "end"),
        [(0, 1), (0, None), (0, 1000), (5, 10), (5, None), (999, None), (999, 1000), (7, 7)],
    )
    def test_get_blob_range_gives_that_part(
        self, registry: Registry, repository: str, start: int, end: int | None
    ) -> None:
        data = content(1000)
        descriptor = push(registry, repository, data)
        with registry.get_blob_range(repository, descriptor.digest, start, end) as reader:
            assert reader.descriptor.digest == descriptor.digest
            assert reader.read() == data[start:end]

    def test_get_blob_range_in_pieces(self, registry: Registry, repository: str) -> None:
        data = content(1000)
        descriptor = push(registry, repository, data)
        with registry.get_blob_range(repository, descriptor.digest, 100, 500) as reader:
            assert reader.read(0) == b""
            pieces = [reader.read(90) for _ in range(20)]
            assert b"".join(pieces) == data[100:500]
            assert reader.read() == b""

    def test_get_blob_range_keeps_the_size_of_the_whole(
        self, registry: Registry, repository: str
    ) -> None:
        descriptor = push(registry, repository, content(1000))
        with registry.get_blob_range(repository, descriptor.digest, 10, 20) as reader:
            assert reader.descriptor.size == 1000

    def test_get_blob_range_ends_with_the_blob(self, registry: Registry, repository: str) -> None:
        data = content(1000)
        descriptor = push(registry, repository, data)
        with registry.get_blob_range(repository, descriptor.digest, 990, 5000) as reader:
            assert reader.read() == data[990:]

    def test_get_blob_range_behind_the_end_is_invalid(
        self, registry: Registry, repository: str, capabilities: Capabilities
    ) -> None:
        descriptor = push(registry, repository, content(1000))
        with (
            pytest.raises(capabilities.refusal(RangeInvalid)),
            registry.get_blob_range(repository, descriptor.digest, 1001, 1005) as reader,
        ):
            reader.read()

    @pytest.mark.parametrize(("start", "end"), [(-1, None), (-5, -1), (5, 4), (0, -1)])
    def test_get_blob_range_that_is_none_is_an_argument_error(
        self, registry: Registry, repository: str, start: int, end: int | None
    ) -> None:
        descriptor = push(registry, repository, content(10))
        with pytest.raises(ValueError):
            registry.get_blob_range(repository, descriptor.digest, start, end)

    def test_mount_blob_makes_it_readable_or_says_no(
        self, registry: Registry, repository: str, capabilities: Capabilities
    ) -> None:
        other = repository + "-other"
        descriptor = push(registry, other, b"to be mounted")
        mounted = registry.mount_blob(repository, descriptor.digest, source=other)
        assert (mounted is not None) == capabilities.mounts
        if mounted is not None:
            assert mounted.digest == descriptor.digest
            with registry.get_blob(repository, descriptor.digest) as reader:
                assert reader.read() == b"to be mounted"

    def test_mount_blob_that_is_not_there_says_no(
        self, registry: Registry, repository: str
    ) -> None:
        other = repository + "-other"
        push(registry, other, b"something else")
        assert registry.mount_blob(repository, digest_of(b"not there"), source=other) is None

    def test_delete_blob_removes_it(
        self, registry: Registry, repository: str, capabilities: Capabilities
    ) -> None:
        descriptor = push(registry, repository, b"to be deleted")
        if not capabilities.delete_blobs:
            with pytest.raises(Unsupported):
                registry.delete_blob(repository, descriptor.digest)
            return
        registry.delete_blob(repository, descriptor.digest)
        with pytest.raises(MISSING_BLOB):
            registry.resolve_blob(repository, descriptor.digest)
        with pytest.raises(capabilities.refusal(*MISSING_BLOB)):
            registry.delete_blob(repository, descriptor.digest)

"""A payload pulled."""

from __future__ import annotations

import io
import tracemalloc
from dataclasses import replace
from random import Random

import pytest

from dockercomms.errors import (
    BlobUnknown,
    DigestMismatch,
    IntegrityError,
    LocalIOError,
    NetworkError,
    ProtocolError,
    SizeMismatch,
)
from dockercomms.oci.content import StoredReader
from dockercomms.oci.model import Descriptor, digest_of
from dockercomms.protocol.header import CHUNK_INDEX, CHUNK_SIZE
from dockercomms.protocol.manifest import ChunkLayer
from dockercomms.transport.chunks import Chunk
from dockercomms.transport.layer import encode
from dockercomms.transport.payload import payload_of
from dockercomms.transport.pull import pull_payload
from dockercomms.transport.push import Pushed, push_payload
from tests.unit.transport.stores import REPO, LyingRegistry, WatchedRegistry, message_of

DATA = Random(8).randbytes(1_000_000)
CHUNK = 100_001


@pytest.fixture
def registry() -> WatchedRegistry:
    return WatchedRegistry()


@pytest.fixture
def pushed(registry, tmp_path) -> Pushed:
    path = tmp_path / "f.bin"
    path.write_bytes(DATA)
    return push_payload(registry, REPO, payload_of([path]), chunk_bytes=CHUNK)


def pull(registry, message, **options) -> bytes:
    sink = io.BytesIO()
    pull_payload(registry, REPO, message, sink, **options)
    return sink.getvalue()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("concurrency", [1, 4])
def test_pull_gives_back_the_payload(registry, pushed, version, concurrency):
    message = message_of(pushed, version=version)
    assert pull(registry, message, concurrency=concurrency) == DATA


@pytest.mark.parametrize("buffering", [0, -1])
def test_pull_writes_into_files_of_any_kind(registry, pushed, tmp_path, buffering):
    with (tmp_path / "out").open("w+b", buffering=buffering) as sink:
        pull_payload(registry, REPO, message_of(pushed), sink)
    assert (tmp_path / "out").read_bytes() == DATA


def test_pull_does_not_need_chunks_of_one_size(registry):
    parts = [b"a" * 10, b"", b"b" * 3, b"c" * 500]
    message = message_of(pushed_parts(registry, parts))
    assert pull(registry, message) == b"".join(parts)
    assert pull(registry, message_of(pushed_parts(registry, parts), version="1.0")) == b"".join(
        parts
    )


def pushed_parts(registry, parts: list[bytes], *, sizes: list[int] | None = None) -> Pushed:
    """Return layers as an arbitrary sender could push them."""
    layers = []
    for index, part in enumerate(parts):
        layer = encode(Chunk.of(part), index, "zstd")
        descriptor = Descriptor(
            media_type="application/vnd.dockercomms.chunk.v1.tar+zstd",
            digest=layer.digest,
            size=layer.size,
            annotations={
                CHUNK_INDEX: str(index),
                CHUNK_SIZE: str(len(part) if sizes is None else sizes[index]),
            },
        )
        data = bytes(layer.content)
        registry.push_blob(REPO, descriptor, lambda data=data: io.BytesIO(data))
        layers.append(descriptor)
    whole = b"".join(parts)
    return Pushed(
        layers=tuple(layers),
        payload_digest=digest_of(whole),
        total_bytes=len(whole) if sizes is None else sum(sizes),
        chunk_bytes=max(map(len, parts)),
        compression="zstd",
        reused_chunks=0,
    )


def test_pull_tells_its_progress(registry, pushed):
    for version in ("1.0", "1.1"):
        events = []
        pull(registry, message_of(pushed, version=version), progress=events.append)
        assert events[-1].done_bytes == events[-1].total_bytes == len(DATA)
        assert sorted(event.chunk for event in events) == list(range(10))


def test_pull_of_nothing(registry, tmp_path):
    (tmp_path / "f").write_bytes(b"")
    pushed = push_payload(registry, REPO, payload_of([tmp_path / "f"]))
    assert pull(registry, message_of(pushed)) == b""
    message = message_of(pushed)
    none = replace(message, chunks=(), header=replace(message.header, chunk_count=0))
    assert pull(registry, none) == b""


def test_pull_uses_what_stands_in_the_manifest(registry):
    pushed = pushed_parts(registry, [b"hello"])
    layer = encode(Chunk.of(b"hello"), 0, "zstd")
    inline = replace(pushed.layers[0], data=bytes(layer.content))
    registry.calls.clear()
    assert pull(registry, message_of(replace(pushed, layers=(inline,)))) == b"hello"
    assert registry.calls == []


def test_pull_condemns_a_manifest_whose_data_is_other_content(registry):
    pushed = pushed_parts(registry, [b"hello"])
    inline = replace(pushed.layers[0], data=b"x" * pushed.layers[0].size)
    with pytest.raises(ProtocolError) as caught:
        pull(registry, message_of(replace(pushed, layers=(inline,))))
    assert not isinstance(caught.value, IntegrityError)


def test_pull_condemns_another_payload_digest(registry, pushed):
    message = message_of(pushed, payload_digest=digest_of(b"other"))
    with pytest.raises(ProtocolError, match="announced") as caught:
        pull(registry, message)
    assert not isinstance(caught.value, IntegrityError)


@pytest.mark.parametrize("sizes", [[4, 5], [5, 6]])
def test_pull_condemns_a_chunk_of_another_size(registry, sizes):
    message = message_of(pushed_parts(registry, [b"hello", b"world"], sizes=sizes), chunk_bytes=9)
    with pytest.raises(ProtocolError, match="bytes expected") as caught:
        pull(registry, message)
    assert not isinstance(caught.value, IntegrityError)


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ({"total_bytes": 9, "chunk_bytes": 9}, "bytes announced"),
        ({"total_bytes": 11, "chunk_bytes": 9}, "bytes announced"),
        ({"chunk_bytes": 4}, "at most 4 bytes expected"),
    ],
)
def test_pull_condemns_chunks_of_1_0_that_do_not_fit_their_sizes(registry, sizes, reason):
    message = message_of(pushed_parts(registry, [b"hello", b"world"]), version="1.0")
    message = replace(message, header=replace(message.header, **sizes))
    with pytest.raises(ProtocolError, match=reason):
        pull(registry, message)


def test_pull_reports_a_missing_chunk(registry, pushed):
    registry.delete_blob(REPO, pushed.layers[4].digest)
    with pytest.raises(BlobUnknown):
        pull(registry, message_of(pushed))


def flipped(data: bytes) -> bytes:
    return data[:600] + bytes([data[600] ^ 1]) + data[601:]


@pytest.mark.parametrize(
    "lie",
    [flipped, lambda data: data[:-1], lambda data: data + b"x", lambda data: b"x" * len(data)],
    ids=["flipped", "shorter", "longer", "other"],
)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_pull_does_not_blame_the_message_for_what_the_store_gives(lie, version):
    registry = LyingRegistry(lie)
    message = message_of(pushed_parts(registry, [DATA[:5000]]), version=version)
    with pytest.raises(IntegrityError):
        pull(registry, message)


def test_pull_blames_the_message_for_proven_bytes_that_break_a_rule(registry):
    good = pushed_parts(registry, [b"hello"])
    layer = encode(Chunk.of(b"hello"), 1, "zstd")  # says that it is chunk 1
    data = bytes(layer.content)
    wrong = replace(good.layers[0], digest=layer.digest, size=layer.size)
    registry.push_blob(REPO, wrong, lambda: io.BytesIO(data))
    with pytest.raises(ProtocolError) as caught:
        pull(registry, message_of(replace(good, layers=(wrong,))))
    assert not isinstance(caught.value, IntegrityError)


def test_pull_reads_all_of_a_layer_before_it_blames_the_message():
    taken = []

    def noted(data: bytes) -> bytes:
        taken.append(len(data))
        return data[:-1] + bytes([data[-1] ^ 1])

    registry = LyingRegistry(noted)
    message = message_of(pushed_parts(registry, [DATA, b"x"]))
    first = replace(message.chunks[0], chunk_bytes=7)  # so that decoding ends at its header
    with pytest.raises(DigestMismatch):
        pull(registry, replace(message, chunks=(first, message.chunks[1])), concurrency=1)
    assert taken == [message.chunks[0].descriptor.size]


def test_pull_reports_a_store_that_announces_another_size(registry, pushed):
    message = message_of(pushed)
    layer = message.chunks[0]
    wrong = replace(layer.descriptor, size=layer.descriptor.size + 1)
    chunks = (ChunkLayer(wrong, 0, layer.chunk_bytes), *message.chunks[1:])
    with pytest.raises(SizeMismatch):
        pull(registry, replace(message, chunks=chunks))


def test_failure_ends_the_pull_and_fetches_no_more(registry, pushed):
    def fail(name, digest):
        if name == "get":
            raise NetworkError("cut")

    registry.before = fail
    with pytest.raises(NetworkError, match="cut"):
        pull(registry, message_of(pushed), concurrency=2)
    assert len(registry.names("get")) <= 4


class FullDisk(io.BytesIO):
    """Takes 200,000 bytes."""

    def write(self, data, /):
        if self.tell() + len(data) > 200_000:
            raise OSError(28, "No space left on device")
        return super().write(data)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_pull_onto_a_full_disk_is_a_local_error(registry, pushed, version):
    with pytest.raises(LocalIOError, match="No space left") as caught:
        pull_payload(registry, REPO, message_of(pushed, version=version), FullDisk())
    assert caught.value.hint is not None


class Forgetful(io.BytesIO):
    """Cannot be read back."""

    def read(self, size=-1, /):
        return b""


def test_pull_notices_a_file_that_does_not_keep_what_is_written(registry, pushed):
    with pytest.raises(LocalIOError, match="cannot read back"):
        pull_payload(registry, REPO, message_of(pushed), Forgetful())


class Corrupting(io.BytesIO):
    """Gives back something else."""

    def read(self, size=-1, /):
        return bytes(len(super().read(size)))


def test_pull_hashes_what_is_really_in_the_file_and_blames_the_right_one(registry, pushed):
    with pytest.raises(LocalIOError, match="not those written"):
        pull_payload(registry, REPO, message_of(pushed), Corrupting())


class Generating(WatchedRegistry):
    """Makes each layer when it is asked for."""

    def get_blob(self, repository, digest, *, size=None):
        layer = encode(Chunk.of(self.content), self.indexes[digest], "zstd")
        data = bytes(layer.content)
        descriptor = Descriptor(media_type="x/y", digest=digest, size=len(data))
        return StoredReader(io.BytesIO(data), descriptor)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_pull_keeps_a_few_pieces_in_memory_and_never_the_payload(tmp_path, version):
    count, registry = 40, Generating()
    registry.content = Random(4).randbytes(2**20)
    digests = []
    for index in range(count):
        layer = encode(Chunk.of(registry.content), index, "zstd")
        digests.append((layer.digest, layer.size))
    registry.indexes = {digest: index for index, (digest, _) in enumerate(digests)}
    pushed = Pushed(
        layers=tuple(
            Descriptor(
                media_type="application/vnd.dockercomms.chunk.v1.tar+zstd",
                digest=digest,
                size=size,
                annotations={CHUNK_INDEX: str(index), CHUNK_SIZE: str(2**20)},
            )
            for index, (digest, size) in enumerate(digests)
        ),
        payload_digest=digest_of(registry.content * count),
        total_bytes=count * 2**20,
        chunk_bytes=2**20,
        compression="zstd",
        reused_chunks=0,
    )
    message = message_of(pushed, version=version)
    tracemalloc.start()
    with (tmp_path / "out").open("w+b") as sink:
        pull_payload(registry, REPO, message, sink, concurrency=3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "out").stat().st_size == count * 2**20
    assert peak < 16 * 2**20

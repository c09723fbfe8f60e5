"""Layers: what the vectors do not say."""

from __future__ import annotations

import hashlib
import io
import tracemalloc
import zlib
from random import Random

import pytest

from dockercomms.errors import DigestMismatch, ProtocolError
from dockercomms.oci.content import VerifyingReader
from dockercomms.oci.model import Descriptor
from dockercomms.transport.chunks import Chunk, split
from dockercomms.transport.in_place import optional_module
from dockercomms.transport.layer import decode, encode, gzip_engine, layer_bytes
from dockercomms.transport.tar import END, TarMember, chunk_name, write_header

RANDOM = Random(1).randbytes(700_000)
WAYS = [("zstd", None), ("gzip", "isal"), ("gzip", "zlib")]


def encoded(data: bytes, compression="zstd", engine=None, index=0) -> bytes:
    return bytes(encode(Chunk.of(data), index, compression, engine=engine).content)


def decoded(layer: bytes, compression="zstd", engine=None, *, limit, index=0, exact=True) -> bytes:
    return b"".join(
        decode(io.BytesIO(layer), compression, index, limit=limit, exact=exact, engine=engine)
    )


@pytest.mark.parametrize(("compression", "engine"), WAYS)
@pytest.mark.parametrize("data", [b"", b"x", b"a" * 2_000_000, RANDOM], ids=len)
def test_layer_comes_back(compression, engine, data):
    layer = encoded(data, compression, engine, index=7)
    assert decoded(layer, compression, engine, limit=len(data), index=7) == data


@pytest.mark.parametrize(("compression", "engine"), WAYS)
def test_layer_is_the_same_each_time(compression, engine):
    assert encoded(RANDOM, compression, engine) == encoded(RANDOM, compression, engine)


@pytest.mark.parametrize(("compression", "engine"), WAYS)
def test_layer_does_not_depend_on_how_the_source_was_read(compression, engine):
    chunk = next(split(io.BytesIO(RANDOM), len(RANDOM)))
    pieces = encode(chunk, 0, compression, engine=engine)
    again = encode(next(split(io.BufferedReader(io.BytesIO(RANDOM)), 10**6)), 0, compression,
                   engine=engine)  # fmt: skip
    assert pieces.digest == again.digest


@pytest.mark.parametrize(("compression", "engine"), WAYS)
def test_layer_of_random_bytes_grows_little(compression, engine):
    assert len(encoded(RANDOM, compression, engine)) < len(RANDOM) * 1.01


@pytest.mark.parametrize(("compression", "engine"), WAYS)
def test_layer_of_text_shrinks(compression, engine):
    text = b" ".join(b"%d" % number for number in range(100_000))
    assert len(encoded(text, compression, engine)) < len(text) / 2


def test_layer_knows_its_digest_and_size():
    layer = encode(Chunk.of(RANDOM), 0, "zstd")
    data = bytes(layer.content)
    assert layer.size == len(data)
    assert layer.digest == "sha256:" + hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(("compression", "engine"), WAYS)
@pytest.mark.parametrize("size", [0, 1, 511, 512, 10**5, 3 * 10**6])
def test_layer_fits_into_its_room(compression, engine, size):
    room = memoryview(bytearray(layer_bytes(size)))
    layer = encode(Chunk.of(Random(2).randbytes(size)), 3, compression, engine=engine, into=room)
    assert layer.content.obj is room.obj


def test_gzip_layer_has_no_time_and_no_system():
    assert encoded(b"x", "gzip")[:10] == b"\x1f\x8b\x08\0\0\0\0\0\0\xff"


def test_gzip_engine_is_the_fast_one_where_it_is_there():
    assert gzip_engine() in ("isal", "zlib")


def test_gzip_engine_that_is_not_installed_is_none():
    assert optional_module("isal.missing") is None
    assert optional_module("zlib") is zlib


def test_stored_gzip_is_read_by_anybody():
    layer = encoded(RANDOM, "gzip", "zlib")
    assert zlib.decompress(layer, wbits=31)[512 : 512 + len(RANDOM)] == RANDOM


def test_entry_is_named_for_the_index():
    assert chunk_name(12) == "chunk_12.bin"


@pytest.mark.parametrize(("compression", "engine"), WAYS)
def test_decode_hands_out_nothing_beyond_the_bound(compression, engine):
    layer = encoded(b"a" * 1000, compression, engine)
    pieces = decode(io.BytesIO(layer), compression, 0, limit=999, engine=engine)
    with pytest.raises(ProtocolError, match="at most 999 bytes expected, 1000 announced"):
        next(pieces)


@pytest.mark.parametrize(("compression", "engine"), WAYS)
def test_decode_needs_little_memory_for_a_bomb(compression, engine):
    head = write_header(TarMember(path="chunk_0.bin", size=5)) + b"hello" + bytes(507) + END
    bomb = head + bytes(40 * 2**20)
    compressor = zlib.compressobj(9, wbits=31)
    layer = compressor.compress(bomb) + compressor.flush()
    if compression == "zstd":
        layer = __import__("zstandard").compress(bomb)
    del bomb
    tracemalloc.start()
    with pytest.raises(ProtocolError, match="bytes after its end"):
        decoded(layer, compression, engine, limit=5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2**20


@pytest.mark.parametrize(("compression", "engine"), WAYS)
def test_encode_of_a_large_chunk_that_does_not_shrink_fits_its_buffer(compression, engine):
    data = Random(5).randbytes(16 * 2**20)
    assert len(data) < len(encoded(data, compression, engine)) < len(data) + 2**20


@pytest.mark.parametrize(("compression", "engine"), WAYS)
def test_decode_reads_its_source_to_the_end(compression, engine):
    layer = encoded(b"hello", compression, engine)
    wrong = Descriptor.of(b"x" * len(layer), "application/octet-stream")
    reader = VerifyingReader(io.BytesIO(layer), wrong)
    with pytest.raises(DigestMismatch):
        list(decode(reader, compression, 0, limit=5, engine=engine))


class Drip(io.BytesIO):
    """Gives one byte at a time."""

    def read(self, size=-1, /):
        return super().read(1 if size else 0)


@pytest.mark.parametrize(("compression", "engine"), WAYS)
def test_decode_takes_a_source_that_gives_little(compression, engine):
    layer = encoded(RANDOM[:5000], compression, engine)
    pieces = decode(Drip(layer), compression, 0, limit=5000, exact=True, engine=engine)
    assert b"".join(pieces) == RANDOM[:5000]


@pytest.mark.parametrize(("compression", "engine"), WAYS)
@pytest.mark.parametrize("cut", [1, 4, 8, 9, 20, 100])
def test_decode_notices_a_cut_anywhere(compression, engine, cut):
    layer = encoded(RANDOM[:300], compression, engine)
    with pytest.raises(ProtocolError):
        decoded(layer[:-cut], compression, engine, limit=300)


def test_decode_notices_a_chunk_that_ends_in_its_content():
    cut = write_header(TarMember(path="chunk_0.bin", size=500)) + b"hello"
    layer = zlib.compress(cut, wbits=31)
    with pytest.raises(ProtocolError, match="chunk 0: ends 495 bytes early"):
        decoded(layer, "gzip", limit=500)

"""zstd frames without a compressor."""

from __future__ import annotations

import hashlib
from random import Random

import pytest
import zstandard

from dockercomms.transport.in_place import (
    BLOCK_HEAD_BYTES,
    RAW_BLOCK_BYTES,
    Checksum,
    block_head,
    frame_bytes,
    frame_head,
    optional_module,
    raw_frame,
)

ENGINES = ["xxhash", "missing.xxhash"]
SIZES = [1, 511, RAW_BLOCK_BYTES - 1, RAW_BLOCK_BYTES, RAW_BLOCK_BYTES + 1, 700_000]


def frame(data: bytes, engine: str) -> bytes:
    checksum, parts = Checksum(len(data), engine=engine), [frame_head(len(data))]
    for at in range(0, len(data), RAW_BLOCK_BYTES):
        block = data[at : at + RAW_BLOCK_BYTES]
        parts += [block_head(len(block), last=at + len(block) == len(data)), block]
        checksum.update(block)
    return b"".join([*parts, checksum.end()])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("size", SIZES)
def test_frame_is_what_zstd_reads(engine, size):
    data = Random(size).randbytes(size)
    made = frame(data, engine)
    assert len(made) == frame_bytes(size)
    assert zstandard.ZstdDecompressor().decompress(made) == data
    parameters = zstandard.get_frame_parameters(made)
    assert (parameters.content_size, parameters.window_size) == (size, RAW_BLOCK_BYTES)
    assert parameters.has_checksum


@pytest.mark.parametrize("size", SIZES)
def test_frame_is_put_together_from_its_blocks(size):
    data = Random(size).randbytes(size)
    blocks = [data[at : at + RAW_BLOCK_BYTES] for at in range(0, size, RAW_BLOCK_BYTES)]
    assert b"".join(raw_frame(iter(blocks), size)) == frame(data, "xxhash")


@pytest.mark.parametrize("size", SIZES)
def test_checksum_is_the_same_without_the_fast_library(size):
    data = bytes(range(256)) * (size // 256 + 1)  # also where zstd would have shrunk it
    assert frame(data[:size], ENGINES[0]) == frame(data[:size], ENGINES[1])


@pytest.mark.parametrize("engine", ENGINES)
def test_wrong_byte_is_noticed_by_the_checksum(engine):
    made = bytearray(frame(b"hello", engine))
    made[-6] ^= 1
    with pytest.raises(zstandard.ZstdError):
        zstandard.ZstdDecompressor().decompress(bytes(made))


def test_head_of_a_block_says_its_size_and_whether_it_is_the_last():
    assert block_head(5, last=True) == bytes([5 << 3 | 1, 0, 0])
    assert block_head(RAW_BLOCK_BYTES, last=False) == b"\x00\x00\x10"
    assert len(block_head(1, last=False)) == BLOCK_HEAD_BYTES


def test_module_that_is_not_installed_is_none():
    assert optional_module("xxhash.missing") is None
    assert optional_module("zlib").__name__ == "zlib"


def test_frame_is_the_same_bytes_with_every_release():
    """The digests of what was sent before depend on them."""
    data = Random(1).randbytes(300_000)
    assert (
        hashlib.sha256(frame(data, "xxhash")).hexdigest()
        == "5e1b6b7588e48497b99bf21c4873a4f1452790c893c639581c893922b14d5259"
    )

"""Chunks that stay in their file, and layers that are made from there."""

from __future__ import annotations

import hashlib
import io
import os
from random import Random

import pytest

from dockercomms.errors import LocalIOError
from dockercomms.platforms.files import read_at
from dockercomms.transport.chunks import Chunk, room_bytes
from dockercomms.transport.in_place import (
    FRAME_HEAD_BYTES,
    RAW_BLOCK_BYTES,
    PlacedChunk,
    PlacedFile,
    store,
)
from dockercomms.transport.layer import LEAST_RAW_BYTES, decode, encode, goes_raw
from dockercomms.transport.tar import BLOCK_BYTES
from dockercomms.transport.window import PIECE_BYTES

START = 1000
SIZES = [1, 511, 512, 130_559, 130_560, 262_143, 300_001, 600_000]
RANDOM = Random(11).randbytes(START + max(SIZES) + 1000)
TEXT = b" ".join(b"%d" % number for number in range(200_000))
WAYS = [("zstd", None), ("gzip", "isal"), ("gzip", "zlib")]


@pytest.fixture
def placed(tmp_path):
    """Give the chunk of so many bytes that stands at `START` of a file with this content."""
    handles = []

    def make(size: int, data: bytes = RANDOM) -> PlacedChunk:
        path = tmp_path / f"{len(handles)}.bin"
        path.write_bytes(data)
        handles.append(os.open(path, os.O_RDONLY))
        return PlacedChunk(PlacedFile(handles[-1], "f.bin"), START, size)

    yield make
    for handle in handles:
        os.close(handle)


def held(chunk: PlacedChunk, data: bytes = RANDOM) -> Chunk:
    return Chunk.of(data[START : START + chunk.size])


def content(layer) -> bytes:
    return b"".join([bytes(block) for block in layer.blob(lambda: None).blocks(0, layer.size)])


# --- the tar -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_tar_is_the_one_around_a_chunk_in_memory(placed, size):
    tar = placed(size).tar(3)
    chunk = held(placed(size))
    encode(chunk, 3, "zstd")  # makes the tar around it
    whole = memoryview(bytearray(len(tar)))
    payload = tar.fill(whole, 0)
    assert whole == chunk.room[: room_bytes(size)]
    assert payload == RANDOM[START : START + size]


@pytest.mark.parametrize("at", [0, 1, 511, 512, 513, 1000, 1111, 1112, 1200, 1600])
@pytest.mark.parametrize("count", [1, 512, 700])
def test_tar_gives_any_part_of_itself(placed, at, count):
    tar = placed(600).tar(0)
    whole = memoryview(bytearray(len(tar)))
    tar.fill(whole, 0)
    part = memoryview(bytearray(b"?" * count))[: len(tar) - at]
    payload = tar.fill(part, at)
    assert part == whole[at : at + len(part)]
    first, last = max(at, BLOCK_BYTES), min(at + len(part), BLOCK_BYTES + 600)
    assert bytes(payload) == bytes(whole[first : max(first, last)])


@pytest.mark.parametrize("piece", [1, 100, 512, 5000])
def test_tar_gives_itself_in_pieces(placed, piece):
    tar = placed(1500).tar(0)
    whole = memoryview(bytearray(len(tar)))
    tar.fill(whole, 0)
    seen = bytearray()
    pieces = [bytes(part) for part in tar.pieces(piece, seen.extend)]
    assert b"".join(pieces) == whole
    assert {len(part) for part in pieces[:-1]} == {piece} - ({5000} if piece == 5000 else set())
    assert seen == whole[BLOCK_BYTES : BLOCK_BYTES + 1500]
    assert bytes(next(tar.pieces(7))) == bytes(whole[:7])


@pytest.mark.parametrize("native", [True, False])
def test_reading_at_a_place_works_everywhere(tmp_path, native):
    (tmp_path / "f").write_bytes(b"abcdef")
    with (tmp_path / "f").open("rb") as file:
        room = memoryview(bytearray(4))
        assert read_at(file.fileno(), room, 1, native=native) == 4
        assert room == b"bcde"
        assert read_at(file.fileno(), room, 4, native=native) == 2
        assert room == b"efde"
        assert read_at(file.fileno(), room, 6, native=native) == 0


def test_file_that_ends_early_changed(placed):
    chunk = placed(100, RANDOM[: START + 99])
    with pytest.raises(
        LocalIOError, match=r"f\.bin: 1100 bytes or more expected, nothing is left at 1099"
    ):
        store(chunk.tar(0))


def test_file_that_cannot_be_read_is_named():
    with pytest.raises(LocalIOError, match=r"gone\.bin: Bad file descriptor"):
        PlacedFile(-1, "gone.bin").fill(memoryview(bytearray(1)), 0)


# --- layers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("compression", "engine"), WAYS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("data", [RANDOM, TEXT], ids=["random", "text"])
def test_layer_is_that_of_the_same_chunk_in_memory(placed, compression, engine, size, data):
    chunk = placed(size, data)
    ours = encode(chunk, 7, compression, engine=engine)
    assert ours.content == encode(held(chunk, data), 7, compression, engine=engine).content


@pytest.mark.parametrize("size", [LEAST_RAW_BYTES, 300_001, 600_000])
def test_stored_layer_is_the_one_that_encode_makes(placed, size):
    chunk = placed(size)
    assert goes_raw(chunk.tar(7))
    seen = hashlib.sha256()
    layer = store(chunk.tar(7), seen.update)
    made = encode(chunk, 7, "zstd")
    assert (layer.digest, layer.size) == (made.digest, made.size)
    assert content(layer) == made.content
    assert seen.digest() == hashlib.sha256(RANDOM[START : START + size]).digest()
    pieces = decode(io.BytesIO(content(layer)), "zstd", 7, limit=size, exact=True)
    assert b"".join(bytes(piece) for piece in pieces) == RANDOM[START : START + size]


PLACES = [0, 1, FRAME_HEAD_BYTES - 1, FRAME_HEAD_BYTES, FRAME_HEAD_BYTES + 2, 131_000,
          FRAME_HEAD_BYTES + RAW_BLOCK_BYTES + 3, 262_500, -5, -4, -1]  # fmt: skip


@pytest.mark.parametrize("start", PLACES)
@pytest.mark.parametrize("stop", [*PLACES, None])
def test_stored_layer_can_be_sent_from_any_place_to_any(placed, start, stop):
    layer = store(placed(300_001).tar(0))
    whole = content(layer)
    first = range(len(whole))[start]
    last = len(whole) if stop is None else range(len(whole))[stop]
    blocks = layer.blob(lambda: None).blocks(first, last)
    assert b"".join([bytes(block) for block in blocks]) == whole[first:last]


def test_stored_layer_is_a_stream_too(placed):
    layer = store(placed(300_001).tar(0))
    with layer.blob(lambda: None)() as stream:
        stream.seek(200_000)
        assert stream.read() == content(layer)[200_000:]
        assert stream.read(1) == b""


def test_stored_layer_asks_before_each_block(placed):
    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        next(store(placed(300_001).tar(0)).blob(stop).blocks(0, 1))


# --- what goes raw -------------------------------------------------------------------------------


def with_text(at: int, size: int) -> bytes:
    data = bytearray(Random(3).randbytes(START + 2**22))
    data[START + at : START + at + size] = TEXT[:size]
    return bytes(data)


def test_small_chunk_is_left_to_zstd(placed):
    assert not goes_raw(placed(LEAST_RAW_BYTES - room_bytes(0) - BLOCK_BYTES).tar(0))


@pytest.mark.parametrize(
    "data",
    [
        TEXT * 4,
        with_text(0, 2**18),
        with_text(2**20, 2**18),
        with_text(2**22 - 2**18, 2**18),
        Random(4).randbytes(50_000) * 100,
        bytes(Random(5).choices(range(64), k=START + 2**22)),
    ],
    ids=["text", "begins", "middle", "ends", "repeats", "sixty-four values"],
)
def test_chunk_of_which_a_part_shrinks_is_compressed(placed, data):
    chunk = placed(2**22, data)
    assert not goes_raw(chunk.tar(0))
    assert encode(chunk, 0, "zstd").size < chunk.size


def test_chunk_goes_raw_in_a_buffer_of_its_own(placed):
    chunk = placed(600_000)
    assert encode(held(chunk), 0, "zstd").size == store(chunk.tar(0)).size > chunk.size
    assert PIECE_BYTES % RAW_BLOCK_BYTES == 0

"""Splitting and joining."""

from __future__ import annotations

import hashlib
import io

import pytest

from dockercomms.errors import LimitError, UsageError
from dockercomms.protocol.header import MAX_CHUNKS, MAX_TOTAL_BYTES
from dockercomms.transport.chunks import (
    choose_chunk_bytes,
    join,
    least_chunk_bytes,
    room_bytes,
    split,
    write_all,
)
from dockercomms.transport.window import PIECE_BYTES

MIB = 2**20


def parts(stream, chunk_bytes):
    return [bytes(chunk.data) for chunk in split(stream, chunk_bytes)]


@pytest.mark.parametrize(
    ("data", "expected"),
    [(b"", [b""]), (b"a", [b"a"]), (b"abc", [b"abc"]), (b"abcd", [b"abc", b"d"]),
     (b"abcdef", [b"abc", b"def"])],
)  # fmt: skip
def test_split_gives_consecutive_chunks_and_never_nothing(data, expected):
    assert parts(io.BytesIO(data), 3) == expected


class Drip(io.RawIOBase):
    """Gives at most 3 bytes at a time, as a pipe may."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def readable(self):
        return True

    def readinto(self, buffer):
        piece, self.data = self.data[: min(len(buffer), 3)], self.data[min(len(buffer), 3) :]
        buffer[: len(piece)] = piece
        return len(piece)


def test_split_fills_chunks_from_a_stream_that_gives_little():
    assert parts(Drip(b"abcdefgh"), 5) == [b"abcde", b"fgh"]


def test_split_reads_a_chunk_only_when_it_is_asked_for():
    stream = io.BytesIO(b"abcdef")
    chunks = split(stream, 2)
    next(chunks)
    assert stream.tell() == 2


def test_split_shows_each_piece_in_order():
    seen = []
    data = bytes(range(256)) * (4 * PIECE_BYTES // 256)
    chunks = split(
        io.BytesIO(data), 2 * PIECE_BYTES + 1, seen=lambda piece: seen.append(bytes(piece))
    )
    assert [chunk.size for chunk in chunks] == [
        2 * PIECE_BYTES + 1,
        len(data) - 2 * PIECE_BYTES - 1,
    ]
    assert b"".join(seen) == data
    assert max(map(len, seen)) == PIECE_BYTES


def test_split_uses_the_buffers_it_is_given():
    rooms = [memoryview(bytearray(room_bytes(4))) for _ in range(3)]
    waiting = list(rooms)
    chunks = list(split(io.BytesIO(b"abcdefgh"), 4, room=lambda: waiting.pop(0)))
    assert [chunk.room for chunk in chunks] == rooms[:2]


def test_split_ends_at_the_most_chunks():
    assert len(parts(io.BytesIO(bytes(MAX_CHUNKS)), 1)) == MAX_CHUNKS
    with pytest.raises(LimitError, match="10000 chunks"):
        parts(io.BytesIO(bytes(MAX_CHUNKS + 1)), 1)


def test_join_writes_in_order_and_tells_the_digest():
    sink = io.BytesIO()
    total, digest = join([b"ab", memoryview(b"cd")], sink)
    assert sink.getvalue() == b"abcd"
    assert (total, digest) == (4, "sha256:" + hashlib.sha256(b"abcd").hexdigest())


class Sips(io.BytesIO):
    """Takes at most 2 bytes at a time, as an unbuffered file may."""

    def write(self, data, /):
        return super().write(bytes(data)[:2])


def test_write_all_writes_all():
    sink = Sips()
    write_all(sink, b"abcde")
    assert sink.getvalue() == b"abcde"


@pytest.mark.parametrize(
    ("total", "chunk"),
    [
        (0, 8 * MIB),
        (128 * MIB, 8 * MIB),
        (128 * MIB + 1, 16 * MIB),
        (16 * MIB * MAX_CHUNKS, 16 * MIB),
        (16 * MIB * MAX_CHUNKS + 1, 17 * MIB),
        (MAX_TOTAL_BYTES, 1049 * MIB),
        (None, 16 * MIB),
    ],
)
def test_chunk_size_follows_from_the_payload(total, chunk):
    assert choose_chunk_bytes(total) == chunk
    assert total is None or chunk * MAX_CHUNKS >= total


def test_chunk_size_that_is_asked_for_is_taken():
    assert choose_chunk_bytes(100, 7) == 7
    assert choose_chunk_bytes(None, 7) == 7


def test_chunk_size_must_be_positive():
    with pytest.raises(UsageError):
        choose_chunk_bytes(100, 0)


def test_chunk_size_that_would_need_too_many_says_which_would_do():
    with pytest.raises(LimitError) as caught:
        choose_chunk_bytes(100 * MIB, 1024)
    assert str(least_chunk_bytes(100 * MIB)) in str(caught.value.hint)


def test_payload_above_the_limit_is_refused():
    with pytest.raises(LimitError):
        choose_chunk_bytes(MAX_TOTAL_BYTES + 1)

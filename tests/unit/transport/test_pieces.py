"""Pieces as one stream."""

from __future__ import annotations

import io

import pytest

from dockercomms.transport.pieces import PieceStream

DATA = b"abcdefgh"
PIECES = [b"abc", b"d", b"efgh"]


@pytest.mark.parametrize("start", range(10))
@pytest.mark.parametrize("size", [0, 1, 3, 100, -1])
def test_stream_reads_from_any_place(start, size):
    ours, plain = PieceStream(PIECES), io.BytesIO(DATA)
    assert ours.seek(start) == plain.seek(start)
    assert ours.read(size) == plain.read(size)
    assert ours.tell() == plain.tell()


@pytest.mark.parametrize(
    ("offset", "whence", "rest"), [(-2, io.SEEK_END, b"gh"), (1, io.SEEK_CUR, b"defgh")]
)
def test_stream_seeks_from_here_and_from_the_end(offset, whence, rest):
    stream = PieceStream(PIECES)
    stream.read(2)
    stream.seek(offset, whence)
    assert stream.read() == rest


def test_stream_of_nothing_is_empty():
    assert PieceStream([]).read() == b""


def test_stream_is_readable_and_seekable():
    stream = PieceStream(PIECES)
    assert (stream.readable(), stream.seekable(), stream.writable()) == (True, True, False)


def test_stream_refuses_a_negative_place():
    with pytest.raises(ValueError, match="negative position -1"):
        PieceStream(PIECES).seek(-1)


def test_stream_asks_at_each_read():
    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        PieceStream(PIECES, stop).read(1)

"""Content in memory as a source, and as one stream."""

from __future__ import annotations

import io

import pytest

from dockercomms.errors import DigestMismatch
from dockercomms.oci.content import BLOB_READ_BYTES, HeldBlob, ProvenBlob, checked_blocks
from dockercomms.oci.model import Descriptor

DATA = b"abcdefgh"


def stream(data=DATA, check=lambda: None):
    return HeldBlob(memoryview(data), check)()


@pytest.mark.parametrize("start", range(10))
@pytest.mark.parametrize("size", [0, 1, 3, 100, -1])
def test_stream_reads_from_any_place(start, size):
    ours, plain = stream(), io.BytesIO(DATA)
    assert ours.seek(start) == plain.seek(start)
    assert ours.read(size) == plain.read(size)
    assert ours.tell() == plain.tell()


@pytest.mark.parametrize(
    ("offset", "whence", "rest"), [(-2, io.SEEK_END, b"gh"), (1, io.SEEK_CUR, b"defgh")]
)
def test_stream_seeks_from_here_and_from_the_end(offset, whence, rest):
    ours = stream()
    ours.read(2)
    ours.seek(offset, whence)
    assert ours.read() == rest


def test_stream_is_readable_and_seekable():
    ours = stream()
    assert (ours.readable(), ours.seekable(), ours.writable()) == (True, True, False)


def test_stream_refuses_a_negative_place():
    with pytest.raises(ValueError, match="negative position -1"):
        stream().seek(-1)


def stop() -> None:
    raise InterruptedError


def test_stream_and_blocks_ask_each_time():
    with pytest.raises(InterruptedError):
        stream(check=stop).read(1)
    with pytest.raises(InterruptedError):
        next(HeldBlob(memoryview(DATA), stop).blocks(0, 1))


def test_bare_blob_has_neither_size_nor_blocks():
    with pytest.raises(NotImplementedError):
        _ = ProvenBlob().size
    with pytest.raises(NotImplementedError):
        ProvenBlob().blocks(0, 1)


def test_blob_that_is_not_in_memory_is_checked_by_a_store_of_ours():
    class Elsewhere(ProvenBlob):
        size = len(DATA)

        def blocks(self, start, stop):
            yield memoryview(b"ABCDEFGH")[start:stop]

    with pytest.raises(DigestMismatch):
        list(checked_blocks(Descriptor.of(DATA, "text/plain"), Elsewhere()))


def test_blocks_are_views_of_one_size():
    data = bytes(2 * BLOB_READ_BYTES + 5)
    blocks = list(HeldBlob(memoryview(data)).blocks(1, len(data) - 1))
    assert [len(block) for block in blocks] == [BLOB_READ_BYTES, BLOB_READ_BYTES, 3]
    assert all(block.obj is data for block in blocks)


def test_checked_blocks_check_what_nobody_else_has():
    descriptor = Descriptor.of(DATA, "text/plain")
    assert b"".join(checked_blocks(descriptor, lambda: io.BytesIO(DATA))) == DATA
    assert b"".join(checked_blocks(descriptor, HeldBlob(memoryview(DATA)))) == DATA
    with pytest.raises(DigestMismatch):
        list(checked_blocks(descriptor, lambda: io.BytesIO(b"ABCDEFGH")))

"""A file that several threads write into."""

from __future__ import annotations

import hashlib
import io
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from dockercomms.errors import LocalIOError
from dockercomms.transport.pull import places

DATA = os.urandom(100_000)


@pytest.fixture(params=["file", "memory"])
def sink(request, tmp_path):
    if request.param == "memory":
        yield io.BytesIO()
        return
    with (tmp_path / "f").open("w+b") as file:
        yield file


def test_pieces_come_to_their_places_in_any_order(sink):
    there = places(sink, len(DATA))
    starts = list(range(0, len(DATA), 7777))[::-1]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda at: there.write(at, DATA[at : at + 7777]), starts))
    hashed = hashlib.sha256()
    there.hash_into(hashed, 0, len(DATA), memoryview(bytearray(1000)))
    assert hashed.digest() == hashlib.sha256(DATA).digest()
    sink.seek(0)
    assert sink.read() == DATA


def test_holes_stay_holes(tmp_path):
    size = 2**22
    with (tmp_path / "f").open("w+b") as file:
        there = places(file, size)
        for start in range(0, size - 2**20, 2**20):
            there.write(start, bytes(2**20))
        there.write(size - 2**20, bytes(2**20 - 1) + b"x")
        status = os.stat(file.fileno())
        file.seek(0)
        assert file.read() == bytes(size - 1) + b"x"
    assert status.st_blocks * 512 <= size // 2 or not hasattr(os, "SEEK_DATA")


def test_zeros_replace_what_an_earlier_run_wrote(tmp_path):
    (tmp_path / "f").write_bytes(b"x" * 10_000)
    with (tmp_path / "f").open("r+b") as file:
        places(file, 10_000).write(100, bytes(5000))
        file.seek(0)
        assert file.read() == b"x" * 100 + bytes(5000) + b"x" * 4900


def test_part_is_hashed_alone(sink):
    there = places(sink, 6)
    there.write(0, b"abcdef")
    hashed = hashlib.sha256()
    there.hash_into(hashed, 2, 4, memoryview(bytearray(10)))
    assert hashed.digest() == hashlib.sha256(b"cd").digest()


def test_what_is_not_there_cannot_be_hashed(sink):
    there = places(sink, 2)
    there.write(0, b"ab")
    with pytest.raises(LocalIOError, match="cannot read back"):
        there.hash_into(hashlib.sha256(), 0, 3, memoryview(bytearray(10)))


def test_file_that_cannot_be_written_is_a_local_error(tmp_path):
    (tmp_path / "f").write_bytes(b"")
    with (tmp_path / "f").open("rb") as file, pytest.raises(LocalIOError, match="payload: "):
        places(file, 10)

"""The bounds of zstd frames, beyond the vectors."""

from __future__ import annotations

import io

import pytest
import zstandard

from dockercomms.errors import ProtocolError
from dockercomms.transport.zstd_frames import FrameReader

MAGIC = b"\x28\xb5\x2f\xfd"
LIMIT = 8 * 2**20


def follow(data: bytes, step: int = 7) -> None:
    reader = FrameReader(io.BytesIO(data), max_window_bytes=LIMIT)
    while reader.read(step):
        pass
    reader.check_end()


@pytest.mark.parametrize("step", [1, 2, 3, 1000])
@pytest.mark.parametrize("checksum", [True, False])
@pytest.mark.parametrize("content_size", [True, False])
@pytest.mark.parametrize("size", [0, 1, 255, 256, 65_791, 65_792, 300_000])
def test_frames_of_all_forms_are_followed(step, checksum, content_size, size):
    compressor = zstandard.ZstdCompressor(write_checksum=checksum, write_content_size=content_size)
    data = compressor.compress(bytes(range(256)) * (size // 256) + bytes(size % 256))
    follow(data + data, step)
    with pytest.raises(ProtocolError):
        follow(data[:-1], step)


def test_reader_passes_its_source_through():
    data = zstandard.compress(b"hello")
    assert FrameReader(io.BytesIO(data), max_window_bytes=LIMIT).read(1000) == data


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (MAGIC + b"\x20\x01\x07\0\0", "reserved kind of block"),
        (MAGIC + b"\x08", "reserved bit"),
        (MAGIC + b"\x00\x70" + b"\x01\0\0", "a window of 16777216 bytes"),
        (MAGIC + b"\x00\x69" + b"\x01\0\0", "a window of 9437184 bytes"),
        (MAGIC + b"\xa0" + (LIMIT + 1).to_bytes(4, "little"), "a window of 8388609 bytes"),
        (b"\x60\x2a\x4d\x18\0\0\0\0", "outside of a frame"),
        (b"\x28\xb5\x2f\xfc", "outside of a frame"),
        (b"", "ends early"),
    ],
)
def test_frames_that_are_not_read(data, why):
    with pytest.raises(ProtocolError, match=why):
        follow(data)


@pytest.mark.parametrize(
    "data",
    [
        MAGIC + b"\x20\x00" + b"\x01\0\0",  # no content
        MAGIC + b"\x20\x05" + b"\x2b\0\0a",  # one byte five times
        MAGIC + b"\x60\x00\x01" + b"\x03\x08\0a",  # 256 times, size in two bytes
        MAGIC + b"\x00\x68" + b"\x01\0\0",  # a window of 8 MiB exactly
        MAGIC + b"\x01\x00\x09" + b"\x01\0\0",  # a dictionary, which libzstd then refuses
        MAGIC + b"\xa0" + LIMIT.to_bytes(4, "little") + b"\x01\0\0",
        b"\x5f\x2a\x4d\x18\x02\0\0\0ab" + MAGIC + b"\x20\x00" + b"\x01\0\0",
    ],
)
def test_frames_that_are_read(data):
    follow(data)


def test_end_is_not_reached_while_bytes_are_left():
    data = zstandard.compress(b"hello")
    reader = FrameReader(io.BytesIO(data + data), max_window_bytes=LIMIT)
    reader.read(len(data))
    with pytest.raises(ProtocolError, match="ends early"):
        reader.check_end()

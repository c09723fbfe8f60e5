"""A payload split into consecutive chunks, and joined again.

Source: SPEC.md section 4.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, cast

from dockercomms.errors import LimitError, UsageError
from dockercomms.oci.model import Digest
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.header import DEFAULT_CHUNK_BYTES, MAX_CHUNKS, MAX_TOTAL_BYTES
from dockercomms.transport.tar import BLOCK_BYTES, END, padding_bytes
from dockercomms.transport.window import PIECE_BYTES, allocate

SMALL_CHUNK_BYTES = 8 * 2**20
"""Half of the default: a small payload needs more chunks to keep all connections busy."""
SMALL_TOTAL_BYTES = 128 * 2**20
"""Payloads up to this size get small chunks; above it, larger ones save a tenth of the time."""
_ROUND_BYTES = 2**20


def choose_chunk_bytes(total_bytes: int | None, asked: int | None = None) -> int:
    """Return the chunk size for a payload; `total_bytes` is None for a stream.

    Raises:
        UsageError: `asked` is not positive.
        LimitError: the payload, or the number of its chunks, exceeds the limits.
    """
    if asked is not None and asked < 1:
        raise UsageError(f"chunk size {asked}: at least 1 byte")
    if total_bytes is not None and total_bytes > MAX_TOTAL_BYTES:
        raise LimitError(f"payload of {total_bytes} bytes: at most {MAX_TOTAL_BYTES}")
    if asked is not None:
        if total_bytes is not None and total_bytes > asked * MAX_CHUNKS:
            raise LimitError(
                f"payload of {total_bytes} bytes in chunks of {asked}: more than {MAX_CHUNKS}",
                hint=f"use larger chunks: --chunk-size {least_chunk_bytes(total_bytes)}",
            )
        return asked
    if total_bytes is None:
        return DEFAULT_CHUNK_BYTES
    if total_bytes <= SMALL_TOTAL_BYTES:
        return SMALL_CHUNK_BYTES
    return max(DEFAULT_CHUNK_BYTES, least_chunk_bytes(total_bytes))


def least_chunk_bytes(total_bytes: int) -> int:
    """Return the least whole MiB with which `MAX_CHUNKS` chunks hold `total_bytes`."""
    return -(-total_bytes // (MAX_CHUNKS * _ROUND_BYTES)) * _ROUND_BYTES


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of the payload that becomes one layer, with space for the tar around it."""

    room: memoryview
    """`room_bytes(size)` or more: the tar header, the payload bytes, the end of the tar."""
    size: int
    """Payload bytes in it."""

    @classmethod
    def of(cls, data: bytes) -> Chunk:
        """Return the chunk with these bytes."""
        room = allocate(room_bytes(len(data)))
        room[BLOCK_BYTES : BLOCK_BYTES + len(data)] = data
        return cls(room, len(data))

    @property
    def data(self) -> memoryview:
        """The payload bytes."""
        return self.room[BLOCK_BYTES : BLOCK_BYTES + self.size]


def room_bytes(size: int) -> int:
    """Return the length of the tar of a chunk of `size` bytes."""
    return BLOCK_BYTES + size + padding_bytes(size) + len(END)


def split(
    stream: BinaryIO,
    chunk_bytes: int,
    *,
    room: Callable[[], memoryview] | None = None,
    seen: Callable[[memoryview], object] | None = None,
) -> Iterator[Chunk]:
    """Yield consecutive chunks of `chunk_bytes` bytes; the last one may be shorter.

    An empty stream gives one empty chunk. Each chunk is read when the caller asks for it.

    Args:
        stream: The payload.
        chunk_bytes: The length of a chunk.
        room: Returns the buffer for the next chunk, of `room_bytes(chunk_bytes)`. Default: a new
            buffer for each.
        seen: Called with each piece that was read, in order.

    Raises:
        LimitError: the stream has more than `MAX_CHUNKS` chunks.
    """
    count = 0
    while True:
        buffer = allocate(room_bytes(chunk_bytes)) if room is None else room()
        size = _fill(stream, buffer[BLOCK_BYTES : BLOCK_BYTES + chunk_bytes], seen)
        if not size and count:
            return
        if count == MAX_CHUNKS:
            raise LimitError(
                f"the stream is longer than {MAX_CHUNKS} chunks of {chunk_bytes} bytes",
                hint="use larger chunks: --chunk-size",
            )
        yield Chunk(buffer, size)
        if size < chunk_bytes:
            return
        count += 1


def _fill(stream: BinaryIO, room: memoryview, seen: Callable[[memoryview], object] | None) -> int:
    """Read until `room` is full or the stream ends; a pipe may return fewer bytes per read."""
    source = cast("io.RawIOBase", stream)
    done = 0
    while done < len(room):
        count = source.readinto(room[done : done + PIECE_BYTES])
        if not count:
            break
        if seen is not None:
            seen(room[done : done + count])
        done += count
    return done


def join(pieces: Iterable[bytes | bytearray | memoryview], sink: BinaryIO) -> tuple[int, Digest]:
    """Write `pieces` to `sink` in order; return their total size and digest."""
    hashed = hashlib.sha256()
    total = 0
    for piece in pieces:
        hashed.update(piece)
        write_all(sink, piece)
        total += len(piece)
    return total, Digest(f"sha256:{hashed.hexdigest()}")


def write_all(sink: BinaryIO, data: bytes | bytearray | memoryview) -> None:
    """Write all of `data`: an unbuffered file may accept fewer bytes per call."""
    with memoryview(data) as view:
        written = sink.write(view)
        while written < len(view):
            written += sink.write(view[written:])

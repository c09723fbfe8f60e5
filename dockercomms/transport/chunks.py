"""A payload cut into consecutive chunks, and put together again.

Source: SPEC.md section 4.

Example:
    >>> import io
    >>> from dockercomms.transport.chunks import join, split
    >>> chunks = [b"".join(chunk.take()) for chunk in split(io.BytesIO(b"abcdefgh"), 3)]
    >>> chunks
    [b'abc', b'def', b'gh']
    >>> out = io.BytesIO()
    >>> join(chunks, out)[0], out.getvalue()
    (8, b'abcdefgh')
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from dockercomms.errors import LimitError, UsageError
from dockercomms.oci.model import Digest
from dockercomms.protocol import DEFAULT_CHUNK_BYTES, MAX_CHUNKS, MAX_TOTAL_BYTES
from dockercomms.transport.pieces import PIECE_BYTES

SMALL_CHUNK_BYTES = 8 * 2**20
"""Half of the default and half of its memory; as fast, where a request takes milliseconds."""
SMALL_CHUNK_COUNT = 1024
"""Up to this many, small chunks cost a manifest of less than 300 KiB."""
_ROUND_BYTES = 2**20


def choose_chunk_bytes(total_bytes: int | None, asked: int | None = None) -> int:
    """Return the size of the chunks of a payload; None is a stream of unknown length.

    Raises:
        UsageError: `asked` is not positive.
        LimitError: the payload, or the number of its chunks, would pass the limits.
    """
    if asked is not None and asked < 1:
        raise UsageError(f"chunk size {asked}: at least 1 byte")
    if total_bytes is not None and total_bytes > MAX_TOTAL_BYTES:
        raise LimitError(f"payload of {total_bytes} bytes: at most {MAX_TOTAL_BYTES}")
    if asked is not None:
        if total_bytes is not None and total_bytes > asked * MAX_CHUNKS:
            raise LimitError(
                f"payload of {total_bytes} bytes in chunks of {asked}: more than {MAX_CHUNKS}",
                hint=f"chunks of {least_chunk_bytes(total_bytes)} bytes or more will do",
            )
        return asked
    if total_bytes is None:
        return DEFAULT_CHUNK_BYTES
    if total_bytes <= SMALL_CHUNK_BYTES * SMALL_CHUNK_COUNT:
        return SMALL_CHUNK_BYTES
    return max(DEFAULT_CHUNK_BYTES, least_chunk_bytes(total_bytes))


def least_chunk_bytes(total_bytes: int) -> int:
    """Return the least whole MiB of which `MAX_CHUNKS` hold `total_bytes`."""
    return -(-total_bytes // (MAX_CHUNKS * _ROUND_BYTES)) * _ROUND_BYTES


@dataclass(slots=True)
class Chunk:
    """A piece of the payload that becomes one layer."""

    pieces: deque[bytes]
    size: int
    """How many bytes it has, or had before they were taken."""

    @classmethod
    def of(cls, data: bytes) -> Chunk:
        """Return the chunk with these bytes."""
        return cls(deque([data]), len(data))

    def take(self) -> Iterator[bytes]:
        """Yield the pieces, once, letting go of each."""
        while self.pieces:
            yield self.pieces.popleft()


def split(stream: BinaryIO, chunk_bytes: int) -> Iterator[Chunk]:
    """Yield consecutive chunks of `chunk_bytes` bytes, the last one shorter; never nothing.

    An empty stream is one empty chunk. Each chunk is read when it is asked for.

    Raises:
        LimitError: the stream has more than `MAX_CHUNKS` chunks.
    """
    count = 0
    while True:
        chunk = _read_chunk(stream, chunk_bytes)
        if not chunk.size and count:
            return
        if count == MAX_CHUNKS:
            raise LimitError(
                f"the stream is longer than {MAX_CHUNKS} chunks of {chunk_bytes} bytes",
                hint="larger chunks hold more: --chunk-size",
            )
        yield chunk
        if chunk.size < chunk_bytes:
            return
        count += 1


def _read_chunk(stream: BinaryIO, chunk_bytes: int) -> Chunk:
    """Read until the chunk is full or the stream ends."""
    pieces: deque[bytes] = deque()
    left = chunk_bytes
    while left:
        want = min(left, PIECE_BYTES)
        piece = _read_piece(stream, want)
        if piece:
            pieces.append(piece)
        left -= len(piece)
        if len(piece) < want:
            break
    return Chunk(pieces, chunk_bytes - left)


def _read_piece(stream: BinaryIO, size: int) -> bytes:
    """Read `size` bytes, less only at the end; pipes give less than is asked for."""
    piece = stream.read(size)
    while piece and len(piece) < size:
        more = stream.read(size - len(piece))
        if not more:
            break
        piece += more
    return piece


def join(pieces: Iterable[bytes | bytearray | memoryview], sink: BinaryIO) -> tuple[int, Digest]:
    """Write `pieces` to `sink` one after another; return how many bytes, and their digest."""
    hashed = hashlib.sha256()
    total = 0
    for piece in pieces:
        hashed.update(piece)
        write_all(sink, piece)
        total += len(piece)
    return total, Digest(f"sha256:{hashed.hexdigest()}")


def write_all(sink: BinaryIO, data: bytes | bytearray | memoryview) -> None:
    """Write all of `data`: an unbuffered file may take less at once."""
    with memoryview(data) as view:
        written = sink.write(view)
        while written < len(view):
            written += sink.write(view[written:])

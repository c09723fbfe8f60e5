"""A layer of what does not shrink: its chunk in raw blocks, read from the file whenever it is sent.

It is put together once for its digest, and kept nowhere. The bytes are those that
`dockercomms.transport.layer.encode` gives for the same chunk.

Source: SPEC.md section 4.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

from dockercomms.oci.held import BLOCK_BYTES, ProvenBlob
from dockercomms.oci.model import Digest
from dockercomms.records import dataclass
from dockercomms.transport.buffers import allocate
from dockercomms.transport.placed import PlacedTar, Seen
from dockercomms.transport.raw_frames import (
    BLOCK_HEAD_BYTES,
    FRAME_HEAD_BYTES,
    RAW_BLOCK_BYTES,
    block_head,
    frame_bytes,
    frame_head,
    raw_frame,
)

_UNIT_BYTES = BLOCK_HEAD_BYTES + RAW_BLOCK_BYTES
_UNITS = BLOCK_BYTES // RAW_BLOCK_BYTES
"""Blocks that are read and sent at once."""


@dataclass(frozen=True, slots=True)
class StoredLayer:
    """A layer that is its chunk, and what its descriptor says about it."""

    tar: PlacedTar
    digest: Digest
    checksum: bytes

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return frame_bytes(len(self.tar))

    def blob(self, check: Callable[[], None]) -> ProvenBlob:
        """Return its bytes; `check` is called before each block."""
        return StoredBlob(self, check)


@dataclass(frozen=True, slots=True)
class StoredBlob(ProvenBlob):
    """The bytes of a `StoredLayer`, read from its file."""

    layer: StoredLayer
    check: Callable[[], None] = lambda: None

    @property
    def size(self) -> int:
        """How many bytes there are."""
        return self.layer.size

    def blocks(self, start: int, stop: int) -> Iterator[memoryview]:
        """Yield the bytes from `start` to `stop`, through one buffer.

        Raises:
            LocalIOError: the file cannot be read, or is shorter than it was.
        """
        room = allocate(_UNITS * _UNIT_BYTES)
        while start < stop:
            self.check()
            piece = self._from(start, room)[: stop - start]
            yield piece
            start += len(piece)

    def _from(self, at: int, room: memoryview) -> memoryview:
        """Return bytes from `at` on, one or more."""
        tar = self.layer.tar
        if at < FRAME_HEAD_BYTES:
            return memoryview(frame_head(len(tar)))[at:]
        end = self.size - len(self.layer.checksum)
        if at >= end:
            return memoryview(self.layer.checksum)[at - end :]
        number, inside = divmod(at - FRAME_HEAD_BYTES, _UNIT_BYTES)
        return _blocks(tar, number * RAW_BLOCK_BYTES, room)[inside:]


def store(tar: PlacedTar, seen: Seen = lambda _: None) -> StoredLayer:
    """Return the layer that holds a tar in raw blocks; its file is read once.

    Args:
        tar: What is in the layer.
        seen: Called with each piece of payload, in order.

    Raises:
        LocalIOError: the file cannot be read, or is shorter than it was.
    """
    hashed = hashlib.sha256()
    part: bytes | memoryview = b""
    for part in raw_frame(tar.pieces(RAW_BLOCK_BYTES, seen), len(tar)):
        hashed.update(part)
    return StoredLayer(tar, Digest(f"sha256:{hashed.hexdigest()}"), checksum=bytes(part))


def _blocks(tar: PlacedTar, at: int, room: memoryview) -> memoryview:
    """Put the blocks of a tar from `at` on into `room`, as many as it has place for; return them.

    Together with their heads, so that the network is handed one large piece.
    """
    done = 0
    while at < len(tar) and done < len(room):
        size = min(RAW_BLOCK_BYTES, len(tar) - at)
        begin, end = done + BLOCK_HEAD_BYTES, done + BLOCK_HEAD_BYTES + size
        room[done:begin] = block_head(size, last=at + size == len(tar))
        tar.fill(room[begin:end], at)
        at, done = at + size, end
    return room[:done]

"""Layers of incompressible chunks, read from their file whenever their bytes are needed.

A chunk that does not shrink becomes a zstd frame of raw blocks:

    magic, descriptor, window, content size | 3-byte header, up to 128 KiB | ... | checksum

The position of each byte follows from the size of the content, so any part of the frame can be
made alone. The layer is computed once for its digest and not stored: the chunks of a file need a
buffer of 256 KiB, whatever their size (measured for 1 GiB of random bytes: 54 MiB instead of
118). The bytes equal those of `dockercomms.transport.layer.encode` for the same chunk.

Source: SPEC.md section 4; RFC 8878 section 3.1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import field
from importlib import import_module
from types import ModuleType
from typing import Any

import zstandard

from dockercomms.errors import LocalIOError
from dockercomms.oci.content import BLOB_READ_BYTES, ProvenBlob
from dockercomms.oci.model import Digest
from dockercomms.platforms.files import local_errors, read_at
from dockercomms.platforms.records import dataclass
from dockercomms.transport.chunks import room_bytes
from dockercomms.transport.tar import BLOCK_BYTES, TarMember, chunk_name, write_header
from dockercomms.transport.window import allocate

RAW_BLOCK_BYTES = 2**17
"""The most content of a block; only the last one may be shorter."""
BLOCK_HEAD_BYTES = 3
CHECKSUM_BYTES = 4
_MAGIC = b"\x28\xb5\x2f\xfd"
_DESCRIPTOR = b"\xc4"
"""Eight bytes of content size, a checksum, no dictionary, a window size."""
_WINDOW = b"\x38"
"""128 KiB."""
_SIZE_BYTES = 8
FRAME_HEAD_BYTES = len(_MAGIC + _DESCRIPTOR + _WINDOW) + _SIZE_BYTES
_FASTEST_LEVEL = -100
"""The fastest level: only zstd's checksum is used."""


def optional_module(name: str) -> ModuleType | None:
    """Return a module of the extra `fast`, or None if it is not installed."""
    try:
        return import_module(name)
    except ImportError:
        return None


def frame_head(size: int) -> bytes:
    """Return the bytes before the blocks, for `size` bytes of content."""
    return _MAGIC + _DESCRIPTOR + _WINDOW + size.to_bytes(_SIZE_BYTES, "little")


def block_head(size: int, *, last: bool) -> bytes:
    """Return the header of a raw block of `size` bytes."""
    return (size << 3 | last).to_bytes(BLOCK_HEAD_BYTES, "little")


def frame_bytes(size: int) -> int:
    """Return the length of the frame of `size` bytes of content (1 or more)."""
    blocks = -(-size // RAW_BLOCK_BYTES)
    return FRAME_HEAD_BYTES + blocks * BLOCK_HEAD_BYTES + size + CHECKSUM_BYTES


class Checksum:
    """The checksum of a frame of `size` bytes: by xxhash if it is installed, else by zstd.

    The bytes are the same; zstd takes five times as long (0.38 s instead of 0.08 s for 1 GiB).
    """

    def __init__(self, size: int, *, engine: str = "xxhash") -> None:
        module = optional_module(engine)
        self._hash: Any = None if module is None else module.xxh64()
        self._zstd: Any = None
        if self._hash is None:
            self._zstd = zstandard.ZstdCompressor(
                level=_FASTEST_LEVEL, write_checksum=True
            ).compressobj(size=size)

    def update(self, piece: bytes | memoryview) -> None:
        """Add the next bytes of the content."""
        if self._hash is None:
            self._zstd.compress(piece)
        else:
            self._hash.update(piece)

    def end(self) -> bytes:
        """Return the checksum after all of the content."""
        if self._hash is None:
            made: bytes = self._zstd.flush()
            return made[-CHECKSUM_BYTES:]
        low: int = self._hash.intdigest() & 0xFFFFFFFF
        return low.to_bytes(CHECKSUM_BYTES, "little")


def raw_frame(blocks: Iterable[bytes | memoryview], size: int) -> Iterator[bytes | memoryview]:
    """Yield the parts of the frame that holds `blocks`; the last part is its checksum.

    Args:
        blocks: The content, each `RAW_BLOCK_BYTES` long except the last.
        size: Their total length, 1 or more.
    """
    checksum = Checksum(size)
    yield frame_head(size)
    for block in blocks:
        size -= len(block)
        yield block_head(len(block), last=not size)
        yield block
        checksum.update(block)
    yield checksum.end()


Seen = Callable[[memoryview], object]


@dataclass(frozen=True, slots=True)
class PlacedFile:
    """An open file that is read at given offsets. Thread-safe."""

    handle: int
    name: str
    """Its name in errors."""

    def fill(self, room: memoryview, at: int) -> None:
        """Read from offset `at` until `room` is full.

        Raises:
            LocalIOError: the file is not readable, or too short.
        """
        while room:
            with local_errors(self.name):
                count = read_at(self.handle, room, at)
            if not count:
                raise LocalIOError(
                    f"{self.name}: {at + len(room)} bytes or more expected, nothing is left at"
                    f" {at}; it changed while it was sent",
                    hint="send it again when no program writes to it, or send a copy",
                )
            room, at = room[count:], at + count


@dataclass(frozen=True, slots=True)
class PlacedChunk:
    """A piece of a file that becomes one layer."""

    file: PlacedFile
    start: int
    """Its offset in the file."""
    size: int
    """Payload bytes in it."""

    def tar(self, index: int) -> PlacedTar:
        """Return the tar that holds it as chunk `index`."""
        return PlacedTar(self, write_header(TarMember(path=chunk_name(index), size=self.size)))


@dataclass(frozen=True, slots=True)
class PlacedTar:
    """A tar that is not stored: its header, a chunk in a file, and zeros."""

    chunk: PlacedChunk
    head: bytes = field(repr=False)

    def __len__(self) -> int:
        """Return its length in bytes."""
        return room_bytes(self.chunk.size)

    def fill(self, room: memoryview, at: int) -> memoryview:
        """Fill `room` with its bytes from offset `at`; return the part of `room` that is payload.

        Raises:
            LocalIOError: see `PlacedFile.fill`.
        """
        end = BLOCK_BYTES + self.chunk.size
        first = min(max(BLOCK_BYTES - at, 0), len(room))
        last = max(first, min(end - at, len(room)))
        room[:first] = self.head[at : at + first]
        self.chunk.file.fill(room[first:last], self.chunk.start + at + first - BLOCK_BYTES)
        room[last:] = bytes(len(room) - last)
        return room[first:last]

    def pieces(self, size: int, seen: Seen = lambda _: None) -> Iterator[memoryview]:
        """Yield it from its start in pieces of `size` bytes; each is valid until the next.

        Args:
            size: The length of a piece; the last one may be shorter.
            seen: Called with the payload part of each piece, in order.

        Raises:
            LocalIOError: see `PlacedFile.fill`.
        """
        room = allocate(size)
        for at in range(0, len(self), size):
            piece = room[: len(self) - at]
            seen(self.fill(piece, at))
            yield piece


_UNIT_BYTES = BLOCK_HEAD_BYTES + RAW_BLOCK_BYTES
_UNITS = BLOB_READ_BYTES // RAW_BLOCK_BYTES
"""Blocks read and sent at once."""


@dataclass(frozen=True, slots=True)
class StoredLayer:
    """A layer that is not stored, with the fields of its descriptor."""

    tar: PlacedTar
    digest: Digest
    checksum: bytes

    @property
    def size(self) -> int:
        """Its length in bytes."""
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
        """Their length."""
        return self.layer.size

    def blocks(self, start: int, stop: int) -> Iterator[memoryview]:
        """Yield the bytes from `start` to `stop`, through one buffer.

        Raises:
            LocalIOError: the file is not readable, or shorter than it was.
        """
        room = allocate(_UNITS * _UNIT_BYTES)
        while start < stop:
            self.check()
            piece = self._from(start, room)[: stop - start]
            yield piece
            start += len(piece)

    def _from(self, at: int, room: memoryview) -> memoryview:
        """Return one or more bytes from offset `at`."""
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
        tar: The tar.
        seen: Called with each piece of payload, in order.

    Raises:
        LocalIOError: the file is not readable, or shorter than it was.
    """
    hashed = hashlib.sha256()
    part: bytes | memoryview = b""
    for part in raw_frame(tar.pieces(RAW_BLOCK_BYTES, seen), len(tar)):
        hashed.update(part)
    return StoredLayer(tar, Digest(f"sha256:{hashed.hexdigest()}"), checksum=bytes(part))


def _blocks(tar: PlacedTar, at: int, room: memoryview) -> memoryview:
    """Fill `room` with whole blocks of a tar from offset `at`; return them.

    The blocks include their headers, so that the network gets one large piece.
    """
    done = 0
    while at < len(tar) and done < len(room):
        size = min(RAW_BLOCK_BYTES, len(tar) - at)
        begin, end = done + BLOCK_HEAD_BYTES, done + BLOCK_HEAD_BYTES + size
        room[done:begin] = block_head(size, last=at + size == len(tar))
        tar.fill(room[begin:end], at)
        at, done = at + size, end
    return room[:done]

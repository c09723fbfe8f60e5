"""A chunk that stays where it is, in its file, and is read again whenever its bytes are needed.

What can be read twice need not be in memory in between: the chunks of a file take a buffer of
256 KiB, whatever their size (measured: 118 MiB before, 54 now, for 1 GiB of random bytes).

Source: SPEC.md section 4.

zstd frames of raw blocks: what holds bytes that do not shrink, without a compressor.

    magic, descriptor, window, content size | 3-byte header, up to 128 KiB | ... | checksum

Where each byte stands follows from the size of the content alone, so a frame can be made in pieces,
from any place, and needs no memory.

Source: RFC 8878 section 3.1.

A layer of what does not shrink: its chunk in raw blocks, read from the file whenever it is sent.

It is put together once for its digest, and kept nowhere. The bytes are those that
`dockercomms.transport.layer.encode` gives for the same chunk.

Source: SPEC.md section 4.
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
"""The most that a block holds; all but the last are full."""
BLOCK_HEAD_BYTES = 3
CHECKSUM_BYTES = 4
_MAGIC = b"\x28\xb5\x2f\xfd"
_DESCRIPTOR = b"\xc4"
"""Eight bytes of content size, a checksum, no dictionary, a window of its own."""
_WINDOW = b"\x38"
"""128 KiB."""
_SIZE_BYTES = 8
FRAME_HEAD_BYTES = len(_MAGIC + _DESCRIPTOR + _WINDOW) + _SIZE_BYTES
_FASTEST_LEVEL = -100
"""Where nothing but the checksum is wanted of zstd."""


def optional_module(name: str) -> ModuleType | None:
    """Return a module of the extra `fast`, or None if it is not installed."""
    try:
        return import_module(name)
    except ImportError:
        return None


def frame_head(size: int) -> bytes:
    """Return what stands before the blocks of `size` bytes of content."""
    return _MAGIC + _DESCRIPTOR + _WINDOW + size.to_bytes(_SIZE_BYTES, "little")


def block_head(size: int, *, last: bool) -> bytes:
    """Return what stands before the `size` bytes of a raw block."""
    return (size << 3 | last).to_bytes(BLOCK_HEAD_BYTES, "little")


def frame_bytes(size: int) -> int:
    """Return how long the frame of `size` bytes of content, 1 or more, is."""
    blocks = -(-size // RAW_BLOCK_BYTES)
    return FRAME_HEAD_BYTES + blocks * BLOCK_HEAD_BYTES + size + CHECKSUM_BYTES


class Checksum:
    """The checksum that ends a frame of `size` bytes: xxhash's, if it is there, else zstd's own.

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
        """Take the next bytes of the content."""
        if self._hash is None:
            self._zstd.compress(piece)
        else:
            self._hash.update(piece)

    def end(self) -> bytes:
        """Return the checksum when all of the content was taken."""
        if self._hash is None:
            made: bytes = self._zstd.flush()
            return made[-CHECKSUM_BYTES:]
        low: int = self._hash.intdigest() & 0xFFFFFFFF
        return low.to_bytes(CHECKSUM_BYTES, "little")


def raw_frame(blocks: Iterable[bytes | memoryview], size: int) -> Iterator[bytes | memoryview]:
    """Yield the parts of the frame that holds `blocks`, the last part being its checksum.

    Args:
        blocks: The content, each `RAW_BLOCK_BYTES` long but the last.
        size: How many bytes they have together, 1 or more.
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
    """An open file that is read at places. Several threads may."""

    handle: int
    name: str
    """What errors call it."""

    def fill(self, room: memoryview, at: int) -> None:
        """Read what stands from `at` on until `room` is full.

        Raises:
            LocalIOError: it cannot be read, or ends before.
        """
        while room:
            with local_errors(self.name):
                count = read_at(self.handle, room, at)
            if not count:
                raise LocalIOError(
                    f"{self.name}: {at + len(room)} bytes or more expected, nothing is left at"
                    f" {at}; it changed while it was sent",
                    hint="send it again when nothing writes to it, or send a copy",
                )
            room, at = room[count:], at + count


@dataclass(frozen=True, slots=True)
class PlacedChunk:
    """A piece of a file that becomes one layer."""

    file: PlacedFile
    start: int
    """Where in the file it begins."""
    size: int
    """How many payload bytes it has."""

    def tar(self, index: int) -> PlacedTar:
        """Return the tar that holds it as chunk `index`."""
        return PlacedTar(self, write_header(TarMember(path=chunk_name(index), size=self.size)))


@dataclass(frozen=True, slots=True)
class PlacedTar:
    """A tar that is nowhere: its header, a chunk in a file, and zeros."""

    chunk: PlacedChunk
    head: bytes = field(repr=False)

    def __len__(self) -> int:
        """Return how many bytes it has."""
        return room_bytes(self.chunk.size)

    def fill(self, room: memoryview, at: int) -> memoryview:
        """Put into `room` what stands from `at` on; return the part of it that is payload.

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
        """Yield it from its start in pieces of `size` bytes, each good until the next is asked for.

        Args:
            size: How long a piece is; the last one may be shorter.
            seen: Called with the part of each piece that is payload, in order.

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

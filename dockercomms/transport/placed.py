"""A chunk that stays where it is, in its file, and is read again whenever its bytes are needed.

What can be read twice need not be in memory in between: the chunks of a file take a buffer of
256 KiB, whatever their size (measured: 118 MiB before, 54 now, for 1 GiB of random bytes).

Source: SPEC.md section 4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import field

from dockercomms.errors import LocalIOError
from dockercomms.platforms import local_errors, read_at
from dockercomms.records import dataclass
from dockercomms.transport.buffers import allocate
from dockercomms.transport.chunks import room_bytes
from dockercomms.transport.tar import BLOCK_BYTES, TarMember, chunk_name, write_header

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

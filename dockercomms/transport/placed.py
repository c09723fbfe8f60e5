"""A chunk that stays where it is, in its file, and is read again whenever its bytes are needed.

What can be read twice need not be in memory in between: the chunks of a file take a buffer of
256 KiB, whatever their size (measured: 118 MiB before, 54 now, for 1 GiB of random bytes).

Source: SPEC.md section 4.

Example:
    >>> import tempfile
    >>> from dockercomms.transport.placed import PlacedChunk, PlacedFile
    >>> with tempfile.TemporaryFile() as file:
    ...     _ = file.write(b"abcdefgh")
    ...     file.flush()
    ...     tar = PlacedChunk(PlacedFile(file.fileno(), "f"), 2, 3).tar(0)
    ...     bytes(tar.reader().read())[512:515]
    b'cde'
"""

from __future__ import annotations

from dataclasses import field

from dockercomms.errors import LocalIOError
from dockercomms.platforms import local_errors, read_at
from dockercomms.records import dataclass
from dockercomms.transport.buffers import PIECE_BYTES, allocate
from dockercomms.transport.chunks import room_bytes
from dockercomms.transport.tar import BLOCK_BYTES, TarMember, chunk_name, write_header


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
                    f" {at}; it changed while it was sent"
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

    def reader(self, piece_bytes: int = PIECE_BYTES) -> PlacedReader:
        """Return it as a stream that gives up to `piece_bytes` at once."""
        return PlacedReader(self, allocate(piece_bytes))


class PlacedReader:
    """A `PlacedTar` read from its start to its end."""

    def __init__(self, tar: PlacedTar, room: memoryview) -> None:
        self._tar = tar
        self._room = room
        self._at = 0

    def read(self, size: int = -1, /) -> memoryview:
        """Return up to `size` bytes, as many as the buffer holds, good until the next are read."""
        most = len(self._room) if size < 0 else min(size, len(self._room))
        piece = self._room[: min(most, len(self._tar) - self._at)]
        self._tar.fill(piece, self._at)
        self._at += len(piece)
        return piece

"""Bytes kept in pieces of one small size, so that memory is let go as they are used up.

Large blocks of different sizes leave holes in the memory of a process with several threads
(measured: 30 to 100 MiB for a 1 GiB payload); pieces of one size fill the same places again.

Example:
    >>> from dockercomms.transport.pieces import PieceStream
    >>> stream = PieceStream([b"ab", b"cd"])
    >>> stream.read(3), stream.seek(1), stream.read()
    (b'abc', 1, b'bcd')
"""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

PIECE_BYTES = 256 * 2**10
"""How large pieces are made: smaller ones cost time, larger ones memory."""


class PieceStream(io.RawIOBase):
    """Pieces as one seekable stream.

    Args:
        pieces: The bytes.
        check: Called at each read; what it raises ends the reading.
    """

    def __init__(self, pieces: Sequence[bytes], check: Callable[[], None] | None = None) -> None:
        super().__init__()
        self._pieces = pieces
        self._check = check
        self._starts = [0]
        for piece in pieces:
            self._starts.append(self._starts[-1] + len(piece))
        self._at = 0
        self._number = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to `offset` bytes from the start, from here, or from the end."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._starts[-1]}[whence]
        if base + offset < 0:
            raise ValueError(f"negative position {base + offset}")
        self._at = base + offset
        self._number = max(0, bisect_right(self._starts, self._at) - 1)
        return self._at

    def tell(self) -> int:
        """Return how many bytes from the start the next read begins."""
        return self._at

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill `buffer`; less only at the end."""
        if self._check is not None:
            self._check()
        filled = 0
        with memoryview(buffer).cast("B") as room:
            while filled < len(room) and self._number < len(self._pieces):
                start = self._at - self._starts[self._number]
                with memoryview(self._pieces[self._number]) as piece:
                    count = min(len(room) - filled, len(piece) - start)
                    room[filled : filled + count] = piece[start : start + count]
                filled += count
                self._at += count
                if self._at == self._starts[self._number + 1]:
                    self._number += 1
        return filled

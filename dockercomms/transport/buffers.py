"""Memory of one size that is used again and again: what bounds a transfer, whatever its size.

Blocks that are allocated and freed for each chunk leave holes in the memory of a process with
several threads, and each costs the system a page at a time (measured: 30 to 100 MiB, and a tenth
of the time, for 1 GiB). These are made once, by the system itself and not by the allocator, and
given back whole.
"""

from __future__ import annotations

import contextlib
import mmap
import threading
from collections.abc import Iterator

from dockercomms.transport.window import Stop

PIECE_BYTES = 2**18
"""How much is read, hashed or decoded at once: what is touched again is still in the cache."""

MAPPED_BYTES = 2**18
"""From here on a buffer is the system's own mapping; below, the allocator is cheaper."""

_LOOK_SECONDS = 0.05
"""How often a thread that waits for a buffer looks whether it should stop."""


class Buffers:
    """Up to `count` buffers of `size` bytes, each made when it is first needed. Thread-safe."""

    def __init__(self, size: int, *, count: int, stop: Stop) -> None:
        self.size = size
        self._left = count
        self._stop = stop
        self._free: list[memoryview] = []
        self._changed = threading.Condition()

    def take(self) -> memoryview:
        """Return a buffer, when there is one; its content is arbitrary.

        Raises:
            CancelledError: another part of the transfer has failed meanwhile.
        """
        with self._changed:
            while not self._free and not self._left:
                self._stop.check()
                self._changed.wait(_LOOK_SECONDS)
            if self._free:
                return self._free.pop()
            self._left -= 1
        return allocate(self.size)

    def give_back(self, buffer: memoryview) -> None:
        """Make a buffer free again; nobody may use it any more."""
        with self._changed:
            self._free.append(buffer)
            self._changed.notify()

    @contextlib.contextmanager
    def lend(self) -> Iterator[memoryview]:
        """Yield a buffer that is free again after the block."""
        with self.borrowed(self.take()) as buffer:
            yield buffer

    @contextlib.contextmanager
    def borrowed(self, buffer: memoryview) -> Iterator[memoryview]:
        """Make a buffer that was taken free again after the block."""
        try:
            yield buffer
        finally:
            self.give_back(buffer)

    @contextlib.contextmanager
    def kept_unless_raised(self, buffer: memoryview) -> Iterator[memoryview]:
        """Make a buffer that was taken free again only if the block raises."""
        try:
            yield buffer
        except BaseException:
            self.give_back(buffer)
            raise


def allocate(size: int) -> memoryview:
    """Return a new buffer of `size` bytes; of a large one only what is touched takes memory.

    A large one is never the allocator's, which would keep what is as large in its heaps from then
    on: a bytearray of 512 KiB for each chunk cost 50 MiB (measured, gzip of random bytes).
    """
    return memoryview(mmap.mmap(-1, size) if size >= MAPPED_BYTES else bytearray(size))

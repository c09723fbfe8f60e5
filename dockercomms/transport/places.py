"""A file that several threads write into at once, each at its own place."""

from __future__ import annotations

import io
import os
import threading
from dataclasses import field
from typing import TYPE_CHECKING, BinaryIO, Protocol

from dockercomms.errors import LocalIOError
from dockercomms.platforms import HELPFUL_CALL_CODES, begin_writing, is_hole, local_errors, read_at
from dockercomms.records import dataclass
from dockercomms.transport.chunks import write_all

if TYPE_CHECKING:
    from hashlib import _Hash

_WHAT = "payload"
_WRITE_BYTES = 2**16
"""What the system is given at once. Linux keeps larger writes in larger pieces of memory; where
they are not backed, as in a virtual machine that gave them up, that took twice the time."""


class Places(Protocol):
    """Where the pieces of a payload go. Thread-safe."""

    def write(self, offset: int, piece: bytes | memoryview) -> None:
        """Write all of `piece` at `offset`.

        Raises:
            LocalIOError: it cannot be written.
        """
        ...

    def hash_into(self, hashed: _Hash, start: int, stop: int, room: memoryview) -> None:
        """Hash what was written from `start` to `stop`, read through `room`.

        Raises:
            LocalIOError: it cannot be read back.
        """
        ...


def places(sink: BinaryIO, total_bytes: int) -> Places:
    """Return the places of a file that is to have `total_bytes` bytes.

    Raises:
        LocalIOError: it cannot be made so long.
    """
    try:
        handle = sink.fileno()
    except (OSError, io.UnsupportedOperation):
        return _LockedPlaces(sink)
    if not hasattr(os, "pwrite"):
        return _LockedPlaces(sink)
    with local_errors(_WHAT):
        sink.flush()
        try:
            os.ftruncate(handle, total_bytes)
        except OSError as error:
            if error.errno not in HELPFUL_CALL_CODES:
                raise
            os.pwrite(handle, b"\0", total_bytes - 1)  # a payload has a byte at least
    return _FilePlaces(handle)


@dataclass(frozen=True, slots=True)
class _FilePlaces:
    """A file of the system's, which is written at any place.

    One thread at a time: Linux lets no more write to one file, and those that wait there burn their
    time (7 % of a receive, measured).
    """

    handle: int
    lock: threading.Lock = field(default_factory=threading.Lock)

    def write(self, offset: int, piece: bytes | memoryview) -> None:
        view = memoryview(piece)
        with self.lock, local_errors(_WHAT):
            if _is_zero(view) and is_hole(self.handle, offset, len(view)):
                return  # a sparse file stays one
            while view:
                count = os.pwrite(self.handle, view[:_WRITE_BYTES], offset)
                view, offset = view[count:], offset + count

    def hash_into(self, hashed: _Hash, start: int, stop: int, room: memoryview) -> None:
        at = start
        while at < stop:
            view = room[: min(len(room), stop - at)]
            with local_errors(_WHAT):
                count = read_at(self.handle, view, at)
            if not count:
                raise LocalIOError("payload: what was written cannot be read back")
            hashed.update(view[:count])
            at += count
        with local_errors(_WHAT):
            begin_writing(self.handle, start, stop)


def _is_zero(view: memoryview) -> bool:
    """Return whether a piece has zeros alone; one that ends in another byte is not looked at."""
    return not (not view or view[0] or view[-1]) and bytes(view) == bytes(len(view))


@dataclass(frozen=True, slots=True)
class _LockedPlaces:
    """Any other file, which has one position that all threads share."""

    sink: BinaryIO
    lock: threading.Lock = field(default_factory=threading.Lock)

    def write(self, offset: int, piece: bytes | memoryview) -> None:
        with self.lock, local_errors(_WHAT):
            self.sink.seek(offset)
            write_all(self.sink, piece)

    def hash_into(self, hashed: _Hash, start: int, stop: int, room: memoryview) -> None:
        at = start
        while at < stop:
            with self.lock, local_errors(_WHAT):
                self.sink.seek(at)
                piece = self.sink.read(min(len(room), stop - at))
            if not piece:
                raise LocalIOError("payload: what was written cannot be read back")
            hashed.update(piece)
            at += len(piece)

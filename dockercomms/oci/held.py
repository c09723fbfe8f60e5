"""A blob in memory whose digest was computed from these very bytes, so that nobody does it twice.

A third of the time of a push went into hashing what had just been hashed (measured). Everything
else that is pushed is checked while it is read (see `pushing.CheckedSource`).

Example:
    >>> from dockercomms.oci.held import HeldBlob
    >>> blob = HeldBlob(memoryview(b"abcdef"))
    >>> b"".join(blob.blocks(2, 5)), blob().read(4)
    (b'cde', b'abcd')
"""

from __future__ import annotations

import io
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, BinaryIO, cast

from dockercomms.oci.checked import VerifyingReader
from dockercomms.oci.interface import BlobSource
from dockercomms.oci.model import READ_BYTES, Descriptor
from dockercomms.records import dataclass

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BLOCK_BYTES = 2**18
"""How much goes out at once: the other side's time limit holds for one of these."""


@dataclass(frozen=True, slots=True)
class HeldBlob:
    """A `BlobSource` over bytes that do not change while they are pushed.

    Only for a caller that made the descriptor's digest from `view` itself.
    """

    view: memoryview
    """All of the content."""
    check: Callable[[], None] = lambda: None
    """Called before each block; what it raises ends the push."""

    def __call__(self) -> BinaryIO:
        """Return a stream of the content."""
        return cast("BinaryIO", HeldStream(self))

    def blocks(self, start: int, stop: int) -> Iterator[memoryview]:
        """Yield the bytes from `start` to `stop`, without copying them."""
        for at in range(start, stop, BLOCK_BYTES):
            self.check()
            yield self.view[at : min(at + BLOCK_BYTES, stop)]


class HeldStream(io.RawIOBase):
    """The content of a `HeldBlob` as one seekable stream."""

    def __init__(self, blob: HeldBlob) -> None:
        super().__init__()
        self._blob = blob
        self._at = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to `offset` bytes from the start, from here, or from the end."""
        size = len(self._blob.view)
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: size}[whence]
        if base + offset < 0:
            raise ValueError(f"negative position {base + offset}")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        """Return how many bytes from the start the next read begins."""
        return self._at

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill `buffer`; less only at the end."""
        self._blob.check()
        with memoryview(buffer).cast("B") as room:
            piece = self._blob.view[self._at : self._at + len(room)]
            room[: len(piece)] = piece
            self._at += len(piece)
            return len(piece)


def checked_blocks(
    descriptor: Descriptor, source: BlobSource
) -> Generator[bytes | memoryview, None, None]:
    """Yield what `source` opens, proven to be `descriptor`'s content when the last block is out.

    Raises:
        IntegrityError: it is other content.
    """
    if isinstance(source, HeldBlob) and len(source.view) == descriptor.size:
        yield from source.blocks(0, descriptor.size)
        return
    with source() as stream:
        checked = VerifyingReader(stream, descriptor)
        while block := checked.read(READ_BYTES):
            yield block

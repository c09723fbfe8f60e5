"""A blob whose digest was computed from these very bytes, so that nobody does it twice.

A third of the time of a push went into hashing what had just been hashed (measured). Everything
else that is pushed is checked while it is read (see `pushing.CheckedSource`).
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


class ProvenBlob:
    """A `BlobSource` whose owner made the descriptor's digest from these very bytes.

    They are not hashed again while they are sent; a registry checks the digest, as must any other
    store of content that may have changed meanwhile (see `checked_blocks`).
    """

    __slots__ = ()

    @property
    def size(self) -> int:
        """How many bytes there are."""
        raise NotImplementedError

    def blocks(self, start: int, stop: int) -> Iterator[memoryview]:
        """Yield the bytes from `start` to `stop`; a block is good until the next is asked for."""
        raise NotImplementedError

    def __call__(self) -> BinaryIO:
        """Return a stream of the content."""
        return cast("BinaryIO", ProvenStream(self))


@dataclass(frozen=True, slots=True)
class HeldBlob(ProvenBlob):
    """A `BlobSource` over bytes in memory that do not change while they are pushed.

    Only for a caller that made the descriptor's digest from `view` itself.
    """

    view: memoryview
    """All of the content."""
    check: Callable[[], None] = lambda: None
    """Called before each block; what it raises ends the push."""

    @property
    def size(self) -> int:
        """How many bytes there are."""
        return len(self.view)

    def blocks(self, start: int, stop: int) -> Iterator[memoryview]:
        """Yield the bytes from `start` to `stop`, without copying them."""
        for at in range(start, stop, BLOCK_BYTES):
            self.check()
            yield self.view[at : min(at + BLOCK_BYTES, stop)]


class ProvenStream(io.RawIOBase):
    """The content of a `ProvenBlob` as one seekable stream."""

    def __init__(self, blob: ProvenBlob) -> None:
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
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._blob.size}[whence]
        if base + offset < 0:
            raise ValueError(f"negative position {base + offset}")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        """Return how many bytes from the start the next read begins."""
        return self._at

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill `buffer` as far as the next block goes; 0 at the end."""
        with memoryview(buffer).cast("B") as room:
            stop = min(self._at + len(room), self._blob.size)
            for block in self._blob.blocks(self._at, stop):
                room[: len(block)] = block
                self._at += len(block)
                return len(block)
        return 0


def checked_blocks(
    descriptor: Descriptor, source: BlobSource
) -> Generator[bytes | memoryview, None, None]:
    """Yield what `source` opens, proven to be `descriptor`'s content when the last block is out.

    Only what is held in memory is believed; a file may have changed since it was hashed.

    Raises:
        IntegrityError: it is other content.
    """
    if isinstance(source, HeldBlob) and source.size == descriptor.size:
        yield from source.blocks(0, descriptor.size)
        return
    with source() as stream:
        checked = VerifyingReader(stream, descriptor)
        while block := checked.read(READ_BYTES):
            yield block

"""The reader that checks what it reads: every foreign stream is read through it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Protocol, cast, runtime_checkable

from dockercomms.errors import DigestMismatch, TrailingData, Truncated
from dockercomms.oci.model import READ_BYTES, Descriptor


class ByteStream(Protocol):
    """The one method that a checked stream needs."""

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes, b"" at the end."""
        ...


@runtime_checkable
class FillingStream(ByteStream, Protocol):
    """A stream that can read into memory of the caller's, which saves a copy and an allocation."""

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill `buffer` as far as bytes come at once; 0 at the end."""
        ...


class VerifyingReader:
    """Reads a foreign stream and proves, at its end, that it was `descriptor`'s content.

    `read` returns b"" only after size and digest were checked, so a caller that reads to the
    end knows. At most one byte more than `descriptor.size` is taken from the stream.
    Not safe for use by several threads.

    Raises (from `read`):
        Truncated: the stream ended early.
        TrailingData: the stream went on.
        DigestMismatch: it was other content of the right size.

    Source: image-spec v1.1.1, descriptor.md, "Verification".
    """

    def __init__(self, stream: ByteStream, descriptor: Descriptor, *, what: str = "") -> None:
        self.descriptor = descriptor
        self._stream = stream
        self._hash = hashlib.new(descriptor.digest.partition(":")[0])
        self._left = descriptor.size
        self._what = what or descriptor.digest
        self._checked = False

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes (all that is left if negative), b"" at the proven end."""
        if size < 0:
            return b"".join(self)
        if size == 0:
            return b""
        if self._left == 0:
            self._check_end()
            return b""
        data = self._stream.read(min(size, self._left))
        if not data:
            got = self.descriptor.size - self._left
            raise Truncated(f"{self._what}: {self.descriptor.size} bytes expected, {got} received")
        self._take(data)
        return data

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill `buffer` as far as bytes come at once, 0 at the proven end.

        Only over a stream that has `readinto` itself.
        """
        if not len(buffer):
            return 0
        if self._left == 0:
            self._check_end()
            return 0
        room = buffer[: min(len(buffer), self._left)]
        count = cast("FillingStream", self._stream).readinto(room)
        if not count:
            got = self.descriptor.size - self._left
            raise Truncated(f"{self._what}: {self.descriptor.size} bytes expected, {got} received")
        self._take(room[:count])
        return count

    def _take(self, data: bytes | memoryview) -> None:
        if len(data) > self._left:
            raise TrailingData(f"{self._what}: more than {self.descriptor.size} bytes received")
        self._hash.update(data)
        self._left -= len(data)
        if self._left == 0:
            # The last bytes are handed out only after they are known to be right.
            self._check_end()

    def __iter__(self) -> Iterator[bytes]:
        while data := self.read(READ_BYTES):
            yield data
        self._check_end()

    def _check_end(self) -> None:
        if self._checked:
            return
        if self._stream.read(1):
            raise TrailingData(f"{self._what}: more than {self.descriptor.size} bytes received")
        actual = f"{self._hash.name}:{self._hash.hexdigest()}"
        if actual != self.descriptor.digest:
            raise DigestMismatch(
                f"{self._what}: {self.descriptor.digest} expected, {actual} received"
            )
        self._checked = True

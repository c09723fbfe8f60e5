"""One store's blob as the source of a push to another, without a file in between.

Bytes go from socket to socket through 256 KiB of memory. Every push checks what it reads against
the descriptor before it hands out the last bytes (see `Writer.push_blob`), also where it had to go
on in the middle.

Source: distribution-spec v1.1.1, "Pulling blobs", "Pushing blobs".
"""

from __future__ import annotations

import io
import threading
from typing import BinaryIO, cast

from dockercomms.errors import DockerCommsError, NetworkError, RegistryError
from dockercomms.oci.interface import BlobReader, Reader
from dockercomms.oci.model import READ_BYTES, Descriptor, Digest
from dockercomms.oci.remote.registry import HTTPRegistry


class SourceError(DockerCommsError):
    """Reading failed while somebody else's push was reading.

    It is neither a `NetworkError` nor a `RegistryError`, so that the push, which would try again
    what failed at its own registry, does not take it for one of those.
    """

    def __init__(self, error: NetworkError | RegistryError) -> None:
        super().__init__(error.message, hint=error.hint)
        self.error = error


class StoppedError(DockerCommsError):
    """Another part of the same copy failed, so this one was given up."""


class BlobOpener:
    """What opens a blob of a store, again and again: a `BlobSource`. Used by one thread.

    The store is asked at once, so that a blob that is not there is known before the push begins.

    Args:
        reader: The store.
        repository: The repository's name.
        digest: The blob's digest.
        size: Its size, where that is known; any other is refused.
        stop: Set when the reading is to end with a `StoppedError`.

    Raises:
        BlobUnknown, NameUnknown: not there.
        SizeMismatch: the store has it with another size.
    """

    def __init__(
        self,
        reader: Reader,
        repository: str,
        digest: Digest,
        *,
        size: int | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self._reader = reader
        self._repository = repository
        self._digest = digest
        self._stop = stop or threading.Event()
        self._first: BlobReader | None = self._open(size)
        self.descriptor: Descriptor = self._first.descriptor

    def __call__(self) -> BinaryIO:
        """Return a new stream of the blob from its beginning."""
        return cast("BinaryIO", BlobStream(self))

    def open_at(self, start: int) -> BlobReader:
        """Return a reader of the blob from byte `start` on."""
        first, self._first = self._first, None
        if first is not None and start == 0:
            return first
        if first is not None:
            first.close()
        size = self.descriptor.size
        if start == 0:
            return self._open(size)
        return self._reader.get_blob_range(self._repository, self._digest, start, size)

    def check(self) -> None:
        """Raise StoppedError if the copy was given up."""
        if self._stop.is_set():
            raise StoppedError(f"blob {self._digest}: given up")

    def close(self) -> None:
        """Close the reader that was opened at once, if nobody took it."""
        first, self._first = self._first, None
        if first is not None:
            first.close()

    def _open(self, size: int | None) -> BlobReader:
        if isinstance(self._reader, HTTPRegistry):
            # The push hashes it: hashing it here too takes a fifth of the time (measured)
            return self._reader.get_blob_unchecked(self._repository, self._digest, size=size)
        return self._reader.get_blob(self._repository, self._digest, size=size)


class BlobStream(io.RawIOBase):
    """A seekable stream over `BlobOpener`; a seek costs a request, nothing before the next read."""

    def __init__(self, opener: BlobOpener) -> None:
        super().__init__()
        self._opener = opener
        self._at = 0
        self._reader: BlobReader | None = None

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Read on at `offset`; see `io.IOBase.seek`."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._opener.descriptor.size}[
            whence
        ]
        if base + offset != self._at:
            self._drop()
            self._at = base + offset
        return self._at

    def tell(self) -> int:
        """Return where the next read begins."""
        return self._at

    def read(self, size: int | None = -1, /) -> bytes:
        """Return up to `size` bytes, b"" at the end.

        Raises:
            SourceError: the store failed.
            StoppedError: the copy was given up.
        """
        self._opener.check()
        if size is None or size < 0:
            return b"".join(iter(lambda: self.read(READ_BYTES), b""))
        try:
            if self._reader is None:
                if self._at >= self._opener.descriptor.size > 0:
                    return b""
                self._reader = self._opener.open_at(self._at)
            data = self._reader.read(size)
        except (NetworkError, RegistryError) as error:
            raise SourceError(error) from error
        self._at += len(data)
        return data

    def close(self) -> None:
        """Release the connection."""
        self._drop()
        super().close()

    def _drop(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

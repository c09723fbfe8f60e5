"""Limits on slow registries: a minimum pace for bodies, a time limit for heads.

With a limit on silence alone, one byte a second could block a receive for ever. So a body that is
slower than `LEAST_BYTES_PER_SECOND` for `PACE_SECONDS` ends with an error, and so does a head that
takes longer than `HEAD_SECONDS` from its first byte to its last.
"""

from __future__ import annotations

import errno
import http.client
import io
import time
from collections.abc import Callable
from dataclasses import field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, BinaryIO

from dockercomms.oci.remote.exchange import LEAST_BYTES_PER_SECOND
from dockercomms.platforms.records import dataclass

if TYPE_CHECKING:
    import socket

PACE_SECONDS = 60.0
"""The time over which a body's pace is averaged; `--timeout` may allow a longer silence."""

HEAD_SECONDS = 30.0
"""The limit for all heads of one response, each from its first byte to its last. The silence before
a head is not counted, since a registry may need time for its work."""

MAX_INFORMATIONAL = 8
"""1xx responses before the final one; servers send one or two."""

MAX_FIELDS = 100
MAX_TRAILERS = 100
MAX_LINE_BYTES = 65536
"""The same limits as in `http.client`."""

_NO_BODY = frozenset({204, 304, *range(100, 200)})
FREE_CHUNKS = 4096
LEAST_CHUNK_BYTES = 128
"""The minimum average size of a body's chunks, without the first: chunks of one byte take thirty
times the memory of their body, and minutes."""
SEND_BYTES = 2**18
"""Bytes sent between two checks of the pace."""


class SlowAnswer(OSError):
    """A response comes too slowly, or a body is taken too slowly."""

    def __init__(self, text: str) -> None:
        super().__init__(errno.ETIMEDOUT, text)


class TooManyInformational(http.client.HTTPException):
    """More than `MAX_INFORMATIONAL` 1xx responses."""


class TinyChunks(http.client.HTTPException):
    """The chunks of a body are smaller than `LEAST_CHUNK_BYTES` on average."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """The time limits of one session."""

    timeout: float
    """Seconds for which the peer may send no bytes, or take none."""
    monotonic: Callable[[], float] = time.monotonic

    @property
    def window(self) -> float:
        """Return the seconds over which the pace of a body is averaged."""
        return max(PACE_SECONDS, self.timeout)


@dataclass(slots=True)
class Pace:
    """The pace of one body. Only the time spent waiting for the peer counts."""

    patience: Patience
    _seconds: float = field(default=0.0, init=False)
    _bytes: int = field(default=0, init=False)

    def note(self, count: int, seconds: float) -> None:
        """Record that `count` bytes took this time.

        Raises:
            SlowAnswer: too few bytes came within the window.
        """
        self._bytes += count
        self._seconds += seconds
        if self._seconds < self.patience.window:
            return
        if self._bytes < LEAST_BYTES_PER_SECOND * self._seconds:
            raise SlowAnswer(f"{self._bytes} bytes in {self._seconds:.0f} s are too slow")
        self._seconds, self._bytes = 0.0, 0


class PacedStream(io.RawIOBase):
    """The bytes of one response from a socket: first its heads, then its body."""

    def __init__(self, sock: socket.socket, patience: Patience) -> None:
        super().__init__()
        self._raw: Any = sock.makefile("rb", buffering=0)
        self._sock = sock
        self._patience = patience
        self._pace = Pace(patience)
        self._in_head = True
        self._head_begun = False
        self._head_seconds = 0.0

    def makefile(self, mode: str) -> io.BufferedReader:  # noqa: ARG002 - as a socket's
        """Return the buffered stream; `http.client` calls this on a socket."""
        return io.BufferedReader(self)

    def next_head(self) -> None:
        """Expect a head; only the time limit bounds the silence before it."""
        self._head_begun = False

    def end_head(self) -> None:
        """Expect the body."""
        self._in_head = False

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Fill `buffer` with the bytes available, 0 at the end.

        Raises:
            SlowAnswer: the peer is too slow.
            TimeoutError: the peer is silent.
        """
        if self._in_head:
            return self._read_head(buffer)
        started = self._patience.monotonic()
        count: int = self._raw.readinto(buffer)
        self._pace.note(count, self._patience.monotonic() - started)
        return count

    def close(self) -> None:
        """Close the stream of the socket."""
        self._raw.close()
        super().close()

    def _read_head(self, buffer: Any) -> int:
        count: int
        if not self._head_begun:
            count = self._raw.readinto(buffer)
            self._head_begun = True
            return count
        left = HEAD_SECONDS - self._head_seconds
        text = f"a head of more than {HEAD_SECONDS:.0f} s is too slow"
        if left <= 0:
            raise SlowAnswer(text)
        timeout = self._patience.timeout
        started = self._patience.monotonic()
        self._sock.settimeout(min(timeout, left))
        try:
            count = self._raw.readinto(buffer)
        except TimeoutError as error:
            raise (SlowAnswer(text) if left < timeout else error) from error
        finally:
            self._sock.settimeout(timeout)
        self._head_seconds += self._patience.monotonic() - started
        return count


def _read_fields(stream: BinaryIO) -> http.client.HTTPMessage:
    """Read header fields up to the empty line.

    http.client would give them to `email`, which takes a sixth of a request's processor time.

    Raises:
        HTTPException: the fields are too many or too long, or the header is incomplete.
    """
    fields = http.client.HTTPMessage()
    for _ in range(MAX_FIELDS):
        line = stream.readline(MAX_LINE_BYTES + 1)
        if len(line) > MAX_LINE_BYTES:
            raise http.client.LineTooLong("header line")
        if line in (b"\r\n", b"\n", b""):
            return fields
        name, colon, value = line.decode("latin-1").partition(":")
        if colon and name.strip() == name:  # malformed fields are left out, as in `email`
            fields[name] = value.strip()
    raise http.client.HTTPException(f"more than {MAX_FIELDS} headers")


def _length(fields: http.client.HTTPMessage) -> int | None:
    text = fields.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() else None


class PacedResponse(http.client.HTTPResponse):
    """A response with a minimum pace and limited numbers of heads and trailers."""

    if TYPE_CHECKING:  # of http.client, missing in its types
        _method: str

        def _check_close(self) -> bool: ...

    def __init__(self, sock: socket.socket, patience: Patience, **options: Any) -> None:
        self._stream = PacedStream(sock, patience)
        self._heads = 0
        self._chunks, self._chunk_bytes = 0, 0
        super().__init__(self._stream, **options)  # type: ignore[arg-type] # asked for its file only

    def begin(self) -> None:
        """Read the status and the header; 1xx responses before it are dropped."""
        while True:
            version, status, reason = self._read_status()
            self.headers = self.msg = _read_fields(self.fp)
            if status >= HTTPStatus.OK or status == HTTPStatus.SWITCHING_PROTOCOLS:
                break
        self._stream.end_head()
        self.code = self.status = status
        self.reason = reason.strip()
        self.version = 10 if version.startswith("HTTP/1.0") else 11
        self.chunked = self.headers.get("transfer-encoding", "").lower() == "chunked"
        self.chunk_left = None
        self.will_close = self._check_close()
        self.length = None if self.chunked else _length(self.headers)
        if status in _NO_BODY or self._method == "HEAD":
            self.length = 0
            self.chunked = False
        if not (self.will_close or self.chunked) and self.length is None:
            self.will_close = True

    def _read_status(self) -> tuple[str, int, str]:
        self._heads += 1
        if self._heads > MAX_INFORMATIONAL + 1:
            raise TooManyInformational(f"more than {MAX_INFORMATIONAL} informational answers")
        self._stream.next_head()
        line: tuple[str, int, str] = super()._read_status()  # type: ignore[misc] # not in its types
        return line

    def _read_next_chunk_size(self) -> int:
        size: int = super()._read_next_chunk_size()  # type: ignore[misc] # not in its types
        if size < 0:
            raise http.client.IncompleteRead(b"")
        self._chunks += 1
        self._chunk_bytes += size
        if self._chunks > FREE_CHUNKS and self._chunk_bytes < self._chunks * LEAST_CHUNK_BYTES:
            raise TinyChunks(f"{self._chunks} chunks for {self._chunk_bytes} bytes")
        return size

    def _read_and_discard_trailer(self) -> None:
        for _ in range(MAX_TRAILERS):
            line = self.fp.readline(MAX_LINE_BYTES + 1)
            if len(line) > MAX_LINE_BYTES:
                raise http.client.LineTooLong("trailer line")
            if line in {b"\r\n", b"\n", b""}:
                return
        raise http.client.HTTPException(f"more than {MAX_TRAILERS} trailers")


def send_paced(sock: socket.socket, piece: bytes | memoryview, pace: Pace) -> None:
    """Send all of `piece`.

    Raises:
        SlowAnswer: the peer takes it too slowly.
        TimeoutError: the peer takes no bytes.
    """
    monotonic = pace.patience.monotonic
    view = memoryview(piece)
    for start in range(0, len(view), SEND_BYTES):
        part = view[start : start + SEND_BYTES]
        started = monotonic()
        sock.sendall(part)
        pace.note(len(part), monotonic() - started)

"""Bytes of one HTTP exchange: a `Response` of a response of requests, and a body as a stream."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from dockercomms.errors import DockerCommsError
from dockercomms.oci.exchange import Body
from dockercomms.oci.failures import foreign_errors

if TYPE_CHECKING:
    import requests  # noqa: TID251 - its type only

_COPIED_BYTES = 2**18
"""How much goes through a copy at once where a proxy's connection cannot fill a buffer itself."""

_DRAIN_BYTES = 65536
"""How much of an unread body is read so that its connection can be used again."""


class HTTPResponse:
    """A `Response` over one of requests; its body's errors are ours."""

    def __init__(self, raw: requests.Response, method: str, what: str) -> None:
        self._raw = raw
        self._what = what
        self.method = method
        self.url: str = raw.url
        self.status: int = raw.status_code
        self.headers: Mapping[str, str] = raw.headers

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes of the body; see `Response.read`."""
        with foreign_errors(self._what):
            data: bytes = self._raw.raw.read(None if size < 0 else size, decode_content=False)
        return data

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill `buffer` as far as bytes come at once, 0 at the end; see `Response.readinto`."""
        raw = self._raw.raw
        with foreign_errors(self._what):
            readinto = getattr(raw, "readinto", None)
            if readinto is None or not hasattr(raw, "challenges"):
                # urllib3's own would unpack what is packed
                data = raw.read(min(len(buffer), _COPIED_BYTES), decode_content=False)
                buffer[: len(data)] = data
                return len(data)
            count: int = readinto(buffer)
        return count

    def close(self) -> None:
        """Release the connection, for use again where little of the body is left."""
        # What is closed before its end costs a new connection, so the tails of answers are read
        left = getattr(self._raw.raw, "length_remaining", None)
        if left is None or left <= _DRAIN_BYTES:
            with contextlib.suppress(DockerCommsError):
                self.read(_DRAIN_BYTES)
        self._raw.close()

    def challenges(self) -> tuple[str, ...]:
        """Return every `WWW-Authenticate` field; requests itself joins them."""
        raw = self._raw.raw
        if hasattr(raw, "challenges"):
            found: tuple[str, ...] = raw.challenges()
            return found
        return tuple(raw.headers.getlist("WWW-Authenticate"))


class SizedBody:
    """What requests sends as a stream of known length, block by block as the source gives it."""

    def __init__(self, body: Body) -> None:
        self._body = body
        self._blocks: Iterator[bytes | memoryview] | None = None

    def __len__(self) -> int:
        return self._body.length

    def __iter__(self) -> Iterator[bytes | memoryview]:
        self._blocks = self._body.open()
        return self._blocks

    def close(self) -> None:
        """Close the source, also where sending broke off in the middle of it."""
        close = getattr(self._blocks, "close", None)
        if close is not None:
            close()


def open_body(body: bytes | Body | None) -> bytes | SizedBody | None:
    """Return what requests is given to send."""
    if isinstance(body, Body):
        # requests sends an empty stream in chunks, which registries do not expect
        return SizedBody(body) if body.length else b""
    return body

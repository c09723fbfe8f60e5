"""Upload sessions over HTTP, and uploads written piece by piece.

These differences of registries decide the code (all measured):

- Only the newest `Location` is used: docker-registry 2.8 refuses every older one.
- A piece is never sent again without asking for the offset: 2.8 would append it twice.
- zot drops the session after a broken piece, and ggcr cannot tell the offset: the upload starts
  again, so its source must be one that can be opened again (see `push`).
- distribution and zot send `Range: 0-0` for 0 bytes and for 1.
- The closing PUT without a body has no `Content-Range`: distribution and zot refuse it.
- GHCR refuses pieces of more than 4 MiB with 416.
- The response to the closing PUT may be lost although the blob is there: the next try looks for the
  blob first.

Source: distribution-spec v1.1.1, "Pushing blobs".
"""

from __future__ import annotations

import contextlib
from urllib.parse import quote, urlsplit

from dockercomms.errors import (
    BlobUnknown,
    NetworkError,
    NotFoundError,
    RangeInvalid,
    RegistryError,
    Unsupported,
    UploadUnknown,
)
from dockercomms.oci.auth.token import Scope
from dockercomms.oci.model import MEDIA_TYPE_OCTET_STREAM, Descriptor, Digest, parse_digest
from dockercomms.oci.remote.exchange import (
    Body,
    Request,
    Response,
    Sender,
    api_path,
    content_length,
    location,
    settle,
    upload_offset,
)
from dockercomms.oci.remote.retry import Failure, Retrying, RetryPolicy

SMALL_CHUNK_BYTES = 4 * 2**20
"""The piece that every registry takes (GHCR refuses larger ones), the default of `BlobUpload`."""

MAX_MIN_CHUNK_BYTES = 64 * 2**20
"""A larger minimum is cut to this: a piece of that size must be kept in memory."""

_OPENED = frozenset({202})
_TAKEN = frozenset({200, 201, 202, 204})
_STORED = frozenset({200, 201, 204})
_CANCELLED = frozenset({200, 202, 204})
_BAD_REQUEST = 400
_NOT_FOUND = 404
_BROKE = 500
_OCTETS = {"Content-Type": MEDIA_TYPE_OCTET_STREAM}


class UploadSession:
    """One upload session at a registry: its address, and the bytes it was last seen to hold.

    Args:
        sender: Sends the requests.
        repository: The repository's name.
        url: The session's newest address.
        retry: The policy of requests that may be sent again; `None`: the sender's.
    """

    def __init__(
        self, sender: Sender, repository: str, url: str, *, retry: RetryPolicy | None = None
    ) -> None:
        self._sender = sender
        self._scope = Scope.push(repository)
        self._retry = retry
        self.url = url
        self.min_chunk = 0
        self.max_chunk: int | None = None

    @classmethod
    def start(
        cls, sender: Sender, repository: str, *, retry: RetryPolicy | None = None
    ) -> UploadSession:
        """Open a session."""
        path = api_path(repository, "blobs", "uploads", "")
        session = cls(sender, repository, path, retry=retry)
        session._take(session._send("POST", path, ok=_OPENED))
        return session

    @classmethod
    def of(cls, sender: Sender, repository: str, response: Response) -> UploadSession:
        """Return the session that `response` opened."""
        session = cls(sender, repository, response.url)
        session._take(response)
        return session

    def ask(self) -> int:
        """Return the number of bytes that the registry holds; 0 may be 1 (see `upload_offset`).

        Raises:
            UploadUnknown: the session is gone.
            Unsupported: the registry cannot tell.
        """
        try:
            response = self._send("GET", self.url, ok=_TAKEN)
            self._take(response, moved=False)
            return upload_offset(response.headers.get("Range", ""))
        except RegistryError as error:
            # ggcr answers 400; docker-registry 2.8 answers 404 BLOB_UPLOAD_INVALID after a broken
            # piece
            kind = {_BAD_REQUEST: Unsupported, _NOT_FOUND: UploadUnknown}.get(error.status)
            if kind is None or isinstance(error, kind):
                raise
            raise kind(error.message, status=error.status, url=error.url) from error

    def patch(self, body: bytes | Body, start: int, *, ranged: bool = False) -> int:
        """Send bytes from `start` on; return the registry's new offset. Never retried.

        Args:
            body: The bytes.
            start: Their offset in the blob.
            ranged: Send the range also for the first byte alone. ocimem refuses `0-0`, so it is
                sent only if the registry may be at another offset.

        Raises:
            RangeInvalid: the registry is at another offset, or the piece is too large for it.
        """
        length = body.length if isinstance(body, Body) else len(body)
        headers = dict(_OCTETS)
        if start + length > 1 or ranged:
            headers["Content-Range"] = f"{start}-{start + length - 1}"
        response = self._send(
            "PATCH", self.url, ok=_TAKEN, headers=headers, body=body, retry=RetryPolicy.none()
        )
        self._take(response)
        text = response.headers.get("Range")
        held = start + length
        # `upload_offset` returns 0 for one byte: the range ends at 0 either way
        return held if text is None or held <= 1 else upload_offset(text)

    def finish(
        self, digest: Digest, body: bytes | Body = b"", start: int = 0, *, ranged: bool = False
    ) -> None:
        """Close the session, with the last bytes if any are left. Never retried.

        Args:
            digest: The blob's digest.
            body: The last bytes.
            start: Their offset in the blob.
            ranged: Send the range also if it starts at 0, so that a registry at another offset
                refuses it.

        Raises:
            DigestInvalid: the registry received other content.
        """
        length = body.length if isinstance(body, Body) else len(body)
        headers = dict(_OCTETS)
        if length and (start or ranged):
            headers["Content-Range"] = f"{start}-{start + length - 1}"
        joint = "" if self.url.endswith("?") else "&" if "?" in self.url else "?"
        url = f"{self.url}{joint}digest={quote(digest, safe='')}"
        self._send("PUT", url, ok=_STORED, headers=headers, body=body, retry=RetryPolicy.none())

    def cancel(self) -> None:
        """Delete the session, if the registry supports that."""
        # ggcr and ocimem do not, and collect old sessions themselves
        with contextlib.suppress(RegistryError, NetworkError):
            self._send("DELETE", self.url, ok=_CANCELLED, retry=RetryPolicy.none())

    def chunk_size(self, wanted: int) -> int:
        """Return the size of the piece to send, near `wanted`, within the registry's limits.

        A maximum below the minimum is ignored, as no piece could satisfy both.
        """
        size = max(wanted, self.min_chunk)
        if self.max_chunk is not None and self.max_chunk >= self.min_chunk:
            size = min(size, self.max_chunk)
        return size

    def _take(self, response: Response, *, moved: bool = True) -> None:
        if moved or response.headers.get("Location"):
            self.url = self._sender.adopt(location(response))
        for name in ("OCI-Chunk-Min-Length", "OCI-Chunk-Max-Length"):
            text = response.headers.get(name, "")
            if text.isascii() and text.isdigit() and int(text[:19]) > 0:
                if name == "OCI-Chunk-Min-Length":
                    self.min_chunk = min(int(text[:19]), MAX_MIN_CHUNK_BYTES)
                else:
                    self.max_chunk = int(text[:19])

    def _send(
        self,
        method: str,
        url: str,
        *,
        ok: frozenset[int],
        headers: dict[str, str] | None = None,
        body: bytes | Body | None = None,
        retry: RetryPolicy | None = None,
    ) -> Response:
        request = Request(
            method=method,
            url=url,
            scope=self._scope,
            headers=headers or {},
            body=body,
            ok=ok,
            not_found=None if method == "POST" else UploadUnknown,
            retry=retry or self._retry,
        )
        return settle(self._sender, request)


class HTTPUpload:
    """A `BlobUpload` over HTTP, with at most a chunk and a write in memory.

    A chunk whose sending breaks continues at the registry's offset.

    Args:
        sender: Sends the requests.
        repository: The repository's name.
        session: The session.
        size: The bytes that it holds.
        chunk_size: Bytes to send in one request; 0: as many as every registry takes.
        perhaps_one: `size` is 0 because the registry sent `0-0`, which may mean 1.
    """

    def __init__(
        self,
        sender: Sender,
        repository: str,
        session: UploadSession,
        *,
        size: int = 0,
        chunk_size: int = 0,
        perhaps_one: bool = False,
    ) -> None:
        self._sender = sender
        self._repository = repository
        self._session = session
        self._sent = size
        # ocimem refuses a range of one byte at 0, which a session that may hold one needs
        least = 2 if perhaps_one else 1
        self._chunk = session.chunk_size(max(least, chunk_size or SMALL_CHUNK_BYTES))
        self._perhaps_one = perhaps_one
        self._buffer = bytearray()
        self._open = True

    @property
    def id(self) -> str:
        """Return the session's newest address."""
        return self._session.url

    @property
    def size(self) -> int:
        """Return the bytes written so far, sent or buffered."""
        return self._sent + len(self._buffer)

    @property
    def chunk_size(self) -> int:
        """Return the bytes sent in one request."""
        return self._chunk

    def write(self, data: bytes, /) -> int:
        """Add `data`, sending full chunks; see `BlobUpload.write`.

        The last full chunk stays in memory: it goes with the closing request.
        """
        self._refuse_closed()
        view = memoryview(data)
        for start in range(0, len(view), self._chunk):
            self._buffer += view[start : start + self._chunk]
            if len(self._buffer) > self._chunk:
                self._send(self._chunk)
        return len(data)

    def commit(self, digest: Digest) -> Descriptor:
        """Send the last bytes and close the session; see `BlobUpload.commit`."""
        self._refuse_closed()
        parse_digest(digest)
        size = self.size
        retrying = Retrying(self._sender.retry, self._sender.clock)
        while True:
            try:
                rest = bytes(self._buffer)
                self._session.finish(digest, rest, self._sent, ranged=self._perhaps_one)
                break
            except RangeInvalid as error:
                self._drop_first_byte(error)
            except (NetworkError, RegistryError) as error:
                if (
                    self._perhaps_one
                    and isinstance(error, RegistryError)
                    and error.status == _BROKE
                ):
                    self._drop_first_byte(error)  # ocimem's answer to a wrong offset
                    continue
                retrying.pause(Failure.of(error))
                if blob_is_there(self._sender, self._repository, digest, size):
                    break
                self._locate(len(self._buffer))
        self._open = False
        return Descriptor(media_type=MEDIA_TYPE_OCTET_STREAM, digest=digest, size=size)

    def close(self) -> None:
        """Send the buffered bytes and leave the session open; see `BlobUpload.close`."""
        if self._open:
            self._send(len(self._buffer))
            self._open = False

    def cancel(self) -> None:
        """Delete the session; see `BlobUpload.cancel`."""
        if self._open:
            self._open = False
            self._session.cancel()

    def _send(self, length: int) -> None:
        """Send the first `length` bytes of the buffer."""
        stop = self._sent + length
        retrying = Retrying(self._sender.retry, self._sender.clock)
        while self._sent < stop:
            piece = bytes(self._buffer[: stop - self._sent])
            try:
                held = self._session.patch(piece, self._sent, ranged=self._perhaps_one)
            except RangeInvalid as error:
                self._drop_first_byte(error)
                continue
            except (NetworkError, RegistryError) as error:
                retrying.pause(Failure.of(error))
                self._locate(len(piece))
                continue
            self._advance(held, len(piece))

    def _locate(self, length: int) -> None:
        """Ask for the session's offset after `length` more bytes may or may not have arrived."""
        self._advance(self._session.ask(), length)

    def _advance(self, held: int, length: int) -> None:
        if not self._sent <= held <= self._sent + length:
            raise RangeInvalid(
                f"{self._repository}: upload session holds {held} bytes; "
                f"{self._sent} to {self._sent + length} expected"
            )
        del self._buffer[: held - self._sent]
        self._sent = held

    def _drop_first_byte(self, refusal: RegistryError) -> None:
        """Continue at 1 if the registry's `0-0` meant one byte, or raise its refusal."""
        if not self._perhaps_one or self._sent or not self._buffer:
            raise refusal
        self._perhaps_one = False
        self._advance(1, 1)

    def _refuse_closed(self) -> None:
        if not self._open:
            raise ValueError("the upload is closed")


def resume(
    sender: Sender,
    repository: str,
    session: str,
    *,
    offset: int | None = None,
    chunk_size: int = 0,
) -> HTTPUpload:
    """Return the upload that continues `session`; see `Writer.resume_upload`.

    Raises:
        ValueError: `session` is no address of http or https, or `offset` is negative.
    """
    if urlsplit(session).scheme not in {"http", "https"} or not urlsplit(session).netloc:
        raise ValueError(f"not the id of an upload session: {session!r:.300}")
    if offset is not None and offset < 0:
        raise ValueError(f"offset: {offset}; 0 or more expected")
    found = UploadSession(sender, repository, sender.adopt(session))
    api_path(repository)
    held = found.ask() if offset is None else offset
    return HTTPUpload(
        sender,
        repository,
        found,
        size=held,
        chunk_size=chunk_size,
        perhaps_one=offset is None and held == 0,
    )


def blob_is_there(sender: Sender, repository: str, digest: Digest, size: int) -> bool:
    """Return whether the registry has the blob, with this size if it tells one."""
    request = Request(
        method="HEAD",
        url=api_path(repository, "blobs", digest),
        scope=Scope.pull(repository),
        not_found=BlobUnknown,
        redirects=True,
        retry=RetryPolicy.none(),
    )
    try:
        return content_length(settle(sender, request)) in {None, size}
    except NotFoundError:
        return False

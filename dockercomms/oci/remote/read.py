"""Downloads over HTTP: blobs, parts of blobs, manifests, tags.

All content is checked against the *requested* digest, whatever the response's headers say. After a
broken connection, a blob is read on from the break.

Source: distribution-spec v1.1.1, "Pulling manifests", "Pulling blobs".
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from types import TracebackType
from typing import Self

from dockercomms.errors import (
    BadAnswer,
    BlobUnknown,
    DigestMismatch,
    IntegrityError,
    ManifestUnknown,
    NetworkError,
    RangeInvalid,
    RegistryError,
    SizeMismatch,
    Unsupported,
)
from dockercomms.oci.auth.token import Scope
from dockercomms.oci.content import VerifyingReader
from dockercomms.oci.interface import BlobReader
from dockercomms.oci.model import (
    MANIFEST_MEDIA_TYPES,
    MAX_MANIFEST_BYTES,
    MEDIA_TYPE_DOCKER_SCHEMA1_SIGNED,
    READ_BYTES,
    Descriptor,
    Digest,
    digest_of,
    matches,
    parse_digest,
)
from dockercomms.oci.reference import is_valid_tag
from dockercomms.oci.remote.exchange import (
    LEAST_BYTES_PER_SECOND,
    Request,
    Response,
    Sender,
    api_path,
    bad_answers,
    content_digest,
    content_length,
    content_range,
    fetch,
    is_page,
    media_type,
    redact_url,
    settle,
)
from dockercomms.oci.remote.retry import Failure, Retrying, RetryPolicy
from dockercomms.oci.strict_json import parse_json

ACCEPT_MANIFESTS = {"Accept": ", ".join((*MANIFEST_MEDIA_TYPES, "*/*"))}

PROGRESS_BYTES = 16 * 1024
"""The bytes that must come between two breaks, at the minimum pace, for the second to be retried
like the first: a registry that sends one byte and breaks off would otherwise block its reader for
ever."""

_OK = 200
_PARTIAL = 206


class HTTPReader:
    """`Reader` over HTTP. Safe for several threads."""

    _sender: Sender

    def get_blob(self, repository: str, digest: Digest, *, size: int | None = None) -> BlobReader:
        """Return a reader of the blob; see `Reader.get_blob`."""
        return self._open_blob(repository, digest, size, checked=True)

    def get_blob_unchecked(
        self, repository: str, digest: Digest, *, size: int | None = None
    ) -> BlobReader:
        """Return a reader as `get_blob`, for a caller that hashes the bytes itself.

        Only the length is checked here.
        """
        return self._open_blob(repository, digest, size, checked=False)

    def get_blob_range(
        self, repository: str, digest: Digest, start: int, end: int | None = None
    ) -> BlobReader:
        """Return a reader of a part; see `Reader.get_blob_range`."""
        if start < 0 or (end is not None and end < start):
            raise ValueError(f"not a range of bytes: {start} to {end}")
        if start == 0 and end is None:
            return self.get_blob(repository, digest)
        request = self._blob_request(repository, digest)
        if start == end:
            api_path(repository)
            return BytesReader(b"", self.resolve_blob(repository, digest))
        response = self._ask_range(repository, digest, request, start, end)
        try:
            _check_digest_header(response, digest)
            first, stop, whole = _part(response, start, end)
        except BaseException:
            response.close()
            raise
        descriptor = Descriptor(media_type=media_type(response), digest=digest, size=whole)
        stream = ResumingStream(
            self._sender, request, response, first=first, start=start, stop=stop
        )
        return HTTPBlobReader(stream, descriptor, whole=False, what=f"{repository}@{digest}")

    def get_manifest(self, repository: str, digest: Digest) -> BlobReader:
        """Return a reader of the manifest; see `Reader.get_manifest`."""
        return self._get_manifest(repository, parse_digest(digest), digest)

    def get_tag(self, repository: str, tag: str) -> BlobReader:
        """Return a reader of the manifest under `tag`; see `Reader.get_tag`."""
        return self._get_manifest(repository, check_tag(repository, tag), None)

    def resolve_blob(self, repository: str, digest: Digest) -> Descriptor:
        """Return the blob's descriptor; see `Reader.resolve_blob`."""
        request = replace(self._blob_request(repository, digest), method="HEAD")
        response = settle(self._sender, request)
        if content_digest(response) is None:
            _check_is_blob(response, digest)
        return _described(response, digest)

    def resolve_manifest(self, repository: str, digest: Digest) -> Descriptor:
        """Return the manifest's descriptor; see `Reader.resolve_manifest`."""
        request = manifest_request("HEAD", repository, parse_digest(digest))
        response = settle(self._sender, request)
        _check_is_manifest(response)
        known = content_digest(response) or media_type(response) in MANIFEST_MEDIA_TYPES
        if not known or _is_packed(response):  # the length is not the manifest's
            return self.get_manifest(repository, digest).descriptor
        return _described(response, digest)

    def resolve_tag(self, repository: str, tag: str) -> Descriptor:
        """Return the descriptor under `tag`; see `Reader.resolve_tag`.

        Requests the manifest itself if a HEAD does not tell enough.
        """
        request = manifest_request("HEAD", repository, check_tag(repository, tag))
        try:
            response = settle(self._sender, request)
        except Unsupported:
            return self.get_tag(repository, tag).descriptor
        digest = content_digest(response)
        if digest is None or content_length(response) is None or _is_packed(response):
            return self.get_tag(repository, tag).descriptor
        _check_is_manifest(response)
        return _described(response, digest)

    def server_time(self) -> datetime | None:
        """Return the registry's clock; see `Reader.server_time`."""
        return self._sender.server_time()

    def _open_blob(
        self, repository: str, digest: Digest, size: int | None, *, checked: bool
    ) -> BlobReader:
        request = self._blob_request(repository, digest)
        response = self._sender.send(request)
        try:
            _check_digest_header(response, digest)
            announced = _blob_size(response, size)
            if announced is None:
                announced = self.resolve_blob(repository, digest).size
        except BaseException:
            response.close()
            raise
        descriptor = Descriptor(media_type=media_type(response), digest=digest, size=announced)
        stream = ResumingStream(self._sender, request, response, stop=announced)
        return HTTPBlobReader(stream, descriptor, whole=checked, what=f"{repository}@{digest}")

    def _blob_request(self, repository: str, digest: Digest) -> Request:
        return Request(
            method="GET",
            url=api_path(repository, "blobs", parse_digest(digest)),
            scope=Scope.pull(repository),
            not_found=BlobUnknown,
            redirects=True,
        )

    def _ask_range(
        self, repository: str, digest: Digest, request: Request, start: int, end: int | None
    ) -> Response:
        try:
            return self._sender.send(_ranged(request, start, end))
        except RangeInvalid:
            # ggcr refuses open ranges, and ends behind the last byte (measured)
            size = self.resolve_blob(repository, digest).size
            if start >= size or (end is not None and end <= size):
                raise
            return self._sender.send(_ranged(request, start, size))

    def _get_manifest(self, repository: str, name: str, asked: Digest | None) -> BytesReader:
        request = manifest_request("GET", repository, name)
        where = f"{repository}{':' if asked is None else '@'}{name}"
        response, data = fetch(self._sender, request, MAX_MANIFEST_BYTES, too_large=IntegrityError)
        kind = media_type(response)
        if is_page(response):
            raise BadAnswer(f"{where}: an HTML page received, a manifest expected")
        if kind == MEDIA_TYPE_DOCKER_SCHEMA1_SIGNED:
            raise Unsupported(f"{where}: signed schema 1 manifests are not read")
        said = content_digest(response)
        if asked is None and said is None:  # no header tells that it is a manifest
            _check_is_manifest(response, data)
        digest = asked or said or digest_of(data)
        _check_digest_header(response, digest)
        if not matches(data, digest):
            raise DigestMismatch(f"{where}: {digest} expected, {digest_of(data)} received")
        return BytesReader(data, Descriptor(media_type=kind, digest=digest, size=len(data)))


class ResumingStream:
    """The bytes of a blob from `start` to `stop`, requested again after a broken connection.

    Args:
        sender: Sends the request again.
        request: A GET of the whole blob.
        response: The open response.
        first: The offset in the blob at which `response` begins, at most `start`.
        start: The first byte to read.
        stop: The end of the bytes to read.

    Source: RFC 9110 sections 14.2 and 15.3.7.
    """

    def __init__(
        self,
        sender: Sender,
        request: Request,
        response: Response,
        *,
        first: int = 0,
        start: int = 0,
        stop: int,
    ) -> None:
        self._sender = sender
        self._request = replace(request, retry=RetryPolicy.none())
        self._response: Response | None = response
        self._position = first
        self._at = start
        self._stop = stop
        self._retrying: Retrying | None = None
        self._came = 0
        self._spent = 0.0

    @property
    def left(self) -> int:
        """Return the number of bytes still to come."""
        return self._stop - self._at

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes; after `stop` the bytes that a wrong response has beyond it.

        Raises:
            NetworkError, RegistryError: the connection broke, and another request did not help.
        """
        if self.left == 0:
            return self._beyond()
        wanted = self.left if size < 0 else min(size, self.left)
        while True:
            try:
                with self._timed():
                    data = self._read_some(wanted)
            except (NetworkError, RegistryError) as error:
                # Each break after enough bytes starts the policy's time anew
                if self._came >= max(PROGRESS_BYTES, LEAST_BYTES_PER_SECOND * self._spent):
                    self._retrying = None
                self._came, self._spent = 0, 0.0
                self._retrying = self._retrying or Retrying(self._sender.retry, self._sender.clock)
                self.close()
                self._response = None
                self._retrying.pause(Failure.of(error))
            else:
                self._at += len(data)
                self._came += len(data)
                return data

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill `buffer` with the bytes available; see `read`.

        After a break, and beyond the end, it calls `read`.
        """
        response = self._response
        if response is not None and self.left and self._at == self._position:
            try:
                with self._timed():
                    count = response.readinto(buffer[: self.left])
            except NetworkError:
                count = 0
            if count:
                self._position += count
                self._at += count
                self._came += count
                return count
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Release the connection."""
        if self._response is not None:
            self._response.close()

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        """Count the time that the registry takes in the block."""
        started = self._sender.clock.monotonic()
        try:
            yield
        finally:
            self._spent += self._sender.clock.monotonic() - started

    def _read_some(self, wanted: int) -> bytes:
        response = self._response
        if response is None:
            response = self._sender.send(_ranged(self._request, self._at, self._stop))
            self._response = response
            self._position, _, _ = _part(response, self._at, self._stop)
        while True:
            behind = self._at - self._position
            data = response.read(min(behind, READ_BYTES) if behind else wanted)
            if not data:
                raise NetworkError(f"GET {redact_url(response.url)}: the answer ended early")
            self._position += len(data)
            if not behind:
                return data

    def _beyond(self) -> bytes:
        try:
            return b"" if self._response is None else self._response.read(1)
        except NetworkError:
            return b""  # all requested bytes are here


class HTTPBlobReader:
    """A `BlobReader` over one stream: a whole checked blob, or a part of a blob."""

    def __init__(
        self, stream: ResumingStream, descriptor: Descriptor, *, whole: bool, what: str
    ) -> None:
        self.descriptor = descriptor
        self._stream = stream
        self._checked = VerifyingReader(stream, descriptor, what=what) if whole else None

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes, b"" at the end; see `BlobReader.read`."""
        if self._checked is not None:
            return self._checked.read(size)
        if size >= 0:
            return self._stream.read(size) if size and self._stream.left else b""
        parts = []
        while self._stream.left:
            parts.append(self._stream.read(READ_BYTES))
        return b"".join(parts)

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill `buffer` with the bytes available, 0 at the end; see `FillingStream`."""
        if self._checked is not None:
            return self._checked.readinto(buffer)
        return self._stream.readinto(buffer) if self._stream.left else 0

    def close(self) -> None:
        """Release the connection."""
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class BytesReader:
    """A `BlobReader` over checked content in memory."""

    def __init__(self, data: bytes, descriptor: Descriptor) -> None:
        self.descriptor = descriptor
        self._stream = io.BytesIO(data)

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes, b"" at the end."""
        return self._stream.read(size)

    def close(self) -> None:
        """Close the content; later reads fail."""
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def manifest_request(method: str, repository: str, name: str) -> Request:
    """Return the request for the manifest under `name`, a tag or a digest.

    Source: distribution-spec v1.1.1, "Pulling manifests".
    """
    return Request(
        method=method,
        url=api_path(repository, "manifests", name),
        scope=Scope.pull(repository),
        headers=ACCEPT_MANIFESTS,
        not_found=ManifestUnknown,
        redirects=True,  # registry.k8s.io redirects all requests
    )


def check_tag(repository: str, tag: str) -> str:
    """Return `tag` if it is a valid tag.

    Raises:
        ManifestUnknown: it is invalid, so it has no manifest; in an address it could change the
            path.
    """
    if not is_valid_tag(tag):
        raise ManifestUnknown(f"{repository}: not a tag: {tag!r:.200}")
    return tag


def _is_packed(response: Response) -> bool:
    return response.headers.get("Content-Encoding", "identity").strip().lower() != "identity"


def _check_is_manifest(response: Response, data: bytes | None = None) -> None:
    """Raise `BadAnswer` for a status other than 200, a page, or content that is no manifest."""
    where = f"{response.method} {redact_url(response.url)}"
    if response.status != _OK:
        raise BadAnswer(f"{where}: {response.status} received, 200 and a manifest expected")
    if is_page(response):
        raise BadAnswer(f"{where}: an HTML page received, a manifest expected")
    if data is None:
        return
    with bad_answers(where):
        value = parse_json(data, where=where)
    if not isinstance(value, dict) or not _MANIFEST_KEYS & value.keys():
        raise BadAnswer(f"{where}: {len(data)} bytes that are no manifest")


def _check_is_blob(response: Response, digest: Digest) -> None:
    """Raise `BadAnswer` for a response without a digest that any web server could give.

    That is a page, or an empty response although the blob is not empty.
    """
    where = f"{response.method} {redact_url(response.url)}"
    if is_page(response):
        raise BadAnswer(f"{where}: an HTML page received, a blob expected")
    if content_length(response) == 0 and not matches(b"", digest):
        raise BadAnswer(f"{where}: an empty answer received, a blob expected")


_MANIFEST_KEYS = frozenset({"schemaVersion", "mediaType", "manifests", "layers", "config"})
"""A manifest of any kind has at least one of these."""


def _check_digest_header(response: Response, asked: Digest) -> None:
    """Refuse a response that announces another digest.

    Digests of two algorithms cannot be compared.
    """
    said = content_digest(response)
    if said is not None and said != asked and said.partition(":")[0] == asked.partition(":")[0]:
        raise DigestMismatch(f"{redact_url(response.url)}: {asked} expected, {said} announced")


def _blob_size(response: Response, asked: int | None) -> int | None:
    """Return the announced or else the requested size, `None` without either.

    Raises:
        SizeMismatch: they differ.
    """
    announced = content_length(response)
    if announced is None or asked is None:
        return announced if asked is None else asked
    if announced != asked:
        where = redact_url(response.url)
        raise SizeMismatch(f"GET {where}: {asked} bytes expected, {announced} announced")
    return announced


def _described(response: Response, digest: Digest) -> Descriptor:
    _check_digest_header(response, digest)
    size = content_length(response)
    if size is None:
        raise BadAnswer(f"HEAD {redact_url(response.url)}: no Content-Length in answer")
    return Descriptor(media_type=media_type(response), digest=digest, size=size)


def _ranged(request: Request, start: int, end: int | None) -> Request:
    last = "" if end is None else str(end - 1)
    return replace(
        request,
        headers={**request.headers, "Range": f"bytes={start}-{last}"},
        ok=frozenset({_OK, _PARTIAL}),
    )


def _part(response: Response, start: int, end: int | None) -> tuple[int, int, int]:
    """Return the first byte in the response, the end of reading, and the blob's size.

    A server may ignore the range and send the whole blob.

    Raises:
        RangeInvalid: `start` lies behind the blob's end.
        BadAnswer: another part than requested, or one without a size.
    """
    where = redact_url(response.url)
    if response.status == _OK:
        whole = content_length(response)
        if whole is None:
            raise BadAnswer(f"GET {where}: the whole without its size, a part was asked for")
        if start >= whole:
            raise RangeInvalid(f"GET {where}: from byte {start} was asked for; it has {whole}")
        return 0, whole if end is None else min(end, whole), whole
    first, stop, whole = content_range(response)
    if start >= whole:  # ocimem answers a part without a byte
        raise RangeInvalid(f"GET {where}: from byte {start} was asked for; it has {whole}")
    wanted = whole if end is None else min(end, whole)
    if first != start or stop != wanted:
        raise BadAnswer(
            f"GET {where}: bytes {start} to {wanted} expected, {first} to {stop} received"
        )
    return first, stop, whole

"""The values of one exchange with a registry: request, response, parsed header fields, `Sender`.

No HTTP library is needed here: `Session` sends, and the modules above it know only the protocol
`Sender`.

Sources: OCI distribution-spec v1.1.1 ("Pushing a blob in chunks", "Listing Tags"); RFC 9110
sections 6.6.1, 10.2.2, 10.2.3 and 14.4; RFC 8288.
"""

from __future__ import annotations

import contextlib
import functools
import re
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import field, replace
from datetime import UTC, datetime
from typing import Protocol
from urllib.parse import urljoin, urlsplit

from dockercomms.errors import (
    BadAnswer,
    DockerCommsError,
    IntegrityError,
    NameInvalid,
    NotFoundError,
    ProtocolError,
)
from dockercomms.oci.auth.token import Scope
from dockercomms.oci.model import MEDIA_TYPE_OCTET_STREAM, Digest, parse_digest
from dockercomms.oci.reference import is_valid_repository
from dockercomms.oci.remote.retry import RetryPolicy, parse_date, parse_retry_after
from dockercomms.platforms.clock import Clock
from dockercomms.platforms.records import dataclass

CHECKED_BYTES = 2**16
"""Bytes of a body that are read between two checks."""

LEAST_BYTES_PER_SECOND = 1024
"""The minimum pace of a body; `pace` has the time over which it is averaged."""

_CODINGS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
"""Content codings and the `wbits` by which zlib reads them."""

SUCCESS = frozenset(range(200, 300))
ANY_STATUS = frozenset(range(100, 600))


@dataclass(frozen=True, slots=True)
class Body:
    """A request's body that can be produced again."""

    length: int
    """The length in bytes."""
    open: Callable[[], Iterator[bytes | memoryview]]
    """Yields the bytes, each time from the start; the next block may overwrite the previous one."""

    def __bool__(self) -> bool:
        """Return whether it has any bytes."""
        return self.length > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request to a registry."""

    method: str
    url: str
    """A path from the registry's root, or an absolute address."""
    scope: Scope
    headers: Mapping[str, str] = field(default_factory=dict, hash=False)
    body: bytes | Body | None = None
    ok: Collection[int] = SUCCESS
    """The statuses that are returned; others are raised as errors."""
    not_found: type[NotFoundError] | None = None
    """The error class for a 404."""
    retry: RetryPolicy | None = None
    """`None`: the session's own. `RetryPolicy.none()` if a whole operation retries itself."""
    redirects: bool = False
    """Follow redirects (GET and HEAD only)."""


class Sender(Protocol):
    """The sender of requests to one registry. Safe for several threads."""

    @property
    def clock(self) -> Clock:
        """Return the time and the waiting."""
        ...

    @property
    def retry(self) -> RetryPolicy:
        """Return the policy of single requests."""
        ...

    def send(self, request: Request) -> Response:
        """Return the response, its status in `request.ok`. Close it or read it to its end.

        Raises:
            NetworkError: no response, or passing failures until the policy gave up.
            RegistryError: another status; the class follows its code and status.
        """
        ...

    def server_time(self) -> datetime | None:
        """Return the registry's clock in UTC, `None` before its first response."""
        ...

    def adopt(self, url: str) -> str:
        """Return the address to use for one that the registry gave in `Location` or `Link`.

        A `Location` cannot downgrade requests to the registry's own host to http: a registry behind
        a TLS proxy writes http for its own https address.

        Raises:
            BadAnswer: not http or https, or http of another host while the registry is https.
        """
        ...


class Response(Protocol):
    """One response of a registry. Close it, or read it to its end."""

    @property
    def method(self) -> str:
        """Return the method of the request."""
        ...

    @property
    def url(self) -> str:
        """Return the address that answered, after redirects."""
        ...

    @property
    def status(self) -> int:
        """Return the HTTP status."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Return the header fields; their names are found in any case."""
        ...

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes of the body (all if negative), b"" at its end.

        Raises:
            NetworkError: the connection broke.
        """
        ...

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill `buffer` with the bytes available; 0 at the end, or for an empty buffer.

        Raises:
            NetworkError: the connection broke.
        """
        ...

    def close(self) -> None:
        """Release the connection; keep it if the body is at its end."""
        ...


def redact_url(url: str) -> str:
    """Return `url` without user, query and fragment, which may hold secrets.

    Malformed addresses lose the same parts, as far as their characters tell.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        scheme, slashes, rest = url.partition("?")[0].partition("#")[0].rpartition("//")
        return f"{scheme}{slashes}{rest.rpartition('@')[2]}"
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}" if parts.scheme else f"{host}{parts.path}"


def origin(url: str) -> tuple[str, str, int | None]:
    """Return scheme, host name and port: two addresses with the same three are one origin.

    Raises:
        BadAnswer: not an address, one without a host, or a host that no resolver accepts.

    Source: RFC 6454 section 4; RFC 1035 section 2.3.4.
    """
    try:
        parts = urlsplit(url)
        port, host = parts.port, (parts.hostname or "").lower()
        host.encode("idna")
    except ValueError as error:
        raise BadAnswer(f"{redact_url(url)!r:.300}: not an address: {error}") from error
    known = {"http": 80, "https": 443}.get(parts.scheme)
    if (known and not host) or not host.isprintable():
        raise BadAnswer(f"{redact_url(url)!r:.300}: not an address: no host name")
    return parts.scheme, host, known if port is None else port


def joined_url(base: str, url: str) -> str:
    """Return the absolute address for `url`, which may be relative to `base`.

    Raises:
        BadAnswer: not an address.

    Source: RFC 3986 section 5.
    """
    try:
        return urljoin(base, url)
    except ValueError as error:
        raise BadAnswer(f"{redact_url(base)}: not an address: {redact_url(url)!r:.200}") from error


@contextlib.contextmanager
def bad_answers(where: str) -> Iterator[None]:
    """Raise a `BadAnswer` for a `ProtocolError` about a response: no digest proves the response.

    Args:
        where: The source of the data, for the message.
    """
    try:
        yield
    except IntegrityError:
        raise
    except ProtocolError as error:
        text = error.message if error.message.startswith(where) else f"{where}: {error.message}"
        raise BadAnswer(text) from error


def body_of(
    response: Response,
    limit: int,
    *,
    too_large: type[DockerCommsError] = BadAnswer,
    check: Callable[[int], None] | None = None,
) -> bytes:
    """Return the whole body and close the response. `check` is that of `read_up_to`.

    Raises:
        BadAnswer: the body is larger than `limit` bytes; of the class `too_large`.
        NetworkError: the connection broke.
    """
    try:
        data = read_up_to(response, limit + 1, check)
    finally:
        response.close()
    if len(data) > limit:
        raise too_large(f"{redact_url(response.url)}: answer larger than {limit} bytes")
    return unpacked(response, data, limit, too_large=too_large)


def unpacked(
    response: Response, data: bytes, limit: int, *, too_large: type[DockerCommsError] = BadAnswer
) -> bytes:
    """Return a whole body, decoded by its `Content-Encoding`.

    Proxies compress JSON although we ask for the identity. At most `limit` bytes are decoded.

    Raises:
        BadAnswer: another coding than gzip or deflate, or damaged content; of the class `too_large`
            if there are more than `limit` bytes.

    Source: RFC 9110 section 8.4.
    """
    coding = response.headers.get("Content-Encoding", "").strip().lower()
    if not data or coding in {"", "identity"}:
        return data
    where = redact_url(response.url)
    if coding not in _CODINGS:
        raise BadAnswer(f"{where}: packed as {coding!r:.60}; no packing was asked for")
    unpacker = zlib.decompressobj(_CODINGS[coding])
    try:
        out = unpacker.decompress(data, limit + 1)
    except zlib.error as error:
        raise BadAnswer(f"{where}: not {coding}, as its header says: {error}") from error
    if len(out) > limit:
        raise too_large(f"{where}: answer larger than {limit} bytes")
    if not unpacker.eof or unpacker.unused_data:
        raise BadAnswer(f"{where}: the {coding} content does not end where the answer does")
    return out


def read_up_to(response: Response, limit: int, check: Callable[[int], None] | None = None) -> bytes:
    """Return the body, at most its first `limit` bytes.

    Args:
        response: The response.
        limit: Bytes.
        check: Called with the length of each piece received; ends the reading by raising.

    Raises:
        NetworkError: the connection broke.
    """
    parts = []
    piece = limit if check is None else CHECKED_BYTES
    while limit > 0 and (data := response.read(min(piece, limit))):
        if check is not None:
            check(len(data))
        parts.append(data)
        limit -= len(data)
    return b"".join(parts)


def fetch(
    sender: Sender,
    request: Request,
    limit: int,
    *,
    too_large: type[DockerCommsError] = BadAnswer,
    check: Callable[[int], None] | None = None,
) -> tuple[Response, bytes]:
    """Return a closed response, and its whole body.

    A failure in the middle of the body is retried like one before it. `check` is that of
    `read_up_to`.

    Raises:
        BadAnswer: the body is larger than `limit` bytes; of the class `too_large`.
        NetworkError, RegistryError: as `Sender.send`.
    """
    once = replace(request, retry=RetryPolicy.none())

    def ask() -> tuple[Response, bytes]:
        response = sender.send(once)
        return response, body_of(response, limit, too_large=too_large, check=check)

    policy = sender.retry if request.retry is None else request.retry
    return policy.call(ask, clock=sender.clock)


def settle(sender: Sender, request: Request) -> Response:
    """Send `request` and close the response, for its status and headers only."""
    response = sender.send(request)
    response.close()
    return response


def api_path(repository: str, *parts: str) -> str:
    """Return `/v2/<repository>/<parts>`.

    Raises:
        NameInvalid: not a repository name; it would change the path.
    """
    if not is_valid_repository(repository):
        raise NameInvalid(f"not a repository name: {repository!r:.300}")
    return "/".join(("/v2", repository, *parts))


_UPLOAD_RANGE = re.compile(r"(?:bytes=)?0-(-1|[0-9]{1,19})")
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})")
_LINK = re.compile(r"<([^<>]*)>((?:\s*;\s*[^;,\"]+(?:\"[^\"]*\")?)*)")
_REL_NEXT = re.compile(r";\s*rel\s*=\s*\"?next\"?\s*(?:;|$)", re.IGNORECASE)


def response_time(response: Response) -> datetime | None:
    """Return the response's `Date` in UTC, `None` if it is missing or invalid.

    Source: RFC 9110 section 6.6.1.
    """
    return _date(response.headers.get("Date", ""))


@functools.lru_cache(maxsize=4)  # all responses of one second have the same
def _date(text: str) -> datetime | None:
    return parse_date(text)


def retry_after(response: Response) -> float | None:
    """Return the seconds that the registry asks to wait, `None` if it does not.

    A date is compared with the response's own `Date`: either clock may be wrong.
    """
    text = response.headers.get("Retry-After")
    return parse_retry_after(text, response_time(response) or datetime.now(UTC))


def media_type(response: Response) -> str:
    """Return the content type without its parameters, by default octet-stream."""
    text = response.headers.get("Content-Type", "").partition(";")[0].strip()
    return text or MEDIA_TYPE_OCTET_STREAM


def is_page(response: Response) -> bool:
    """Return whether a response has the type HTML, as those of login pages and web servers."""
    return media_type(response).lower().startswith("text/html")


def content_length(response: Response) -> int | None:
    """Return the announced length of the body in bytes, `None` without one.

    Raises:
        BadAnswer: the header is not a number.

    Source: RFC 9110 section 8.6.
    """
    text = response.headers.get("Content-Length")
    if text is None:
        return None
    if re.fullmatch(r"[0-9]{1,19}", text) is None:
        raise BadAnswer(f"{redact_url(response.url)}: Content-Length is {text!r:.100}")
    return int(text)


def content_range(response: Response) -> tuple[int, int, int]:
    """Return first byte, end (exclusive) and whole size of a 206 response.

    Some servers answer a range behind a blob's end with a part that ends before it begins: an empty
    part.

    Raises:
        BadAnswer: no `Content-Range`, or not of the form `bytes 5-6/20`.

    Source: RFC 9110 section 14.4.
    """
    text = response.headers.get("Content-Range", "")
    match = _CONTENT_RANGE.fullmatch(text.strip())
    if match is None:
        raise BadAnswer(f"{redact_url(response.url)}: Content-Range is {text!r:.100}")
    first, last, whole = (int(group) for group in match.groups())
    if last >= whole:
        raise BadAnswer(f"{redact_url(response.url)}: Content-Range is {text!r:.100}")
    return first, last + 1, whole


def content_digest(response: Response) -> Digest | None:
    """Return the `Docker-Content-Digest` header, `None` without one.

    Raises:
        BadAnswer: it is not a digest.

    Source: distribution-spec v1.1.1, "Pulling manifests".
    """
    text = response.headers.get("Docker-Content-Digest", "").strip()
    if not text:
        return None
    with bad_answers(f"{response.method} {redact_url(response.url)}: Docker-Content-Digest"):
        return parse_digest(text)


def location(response: Response) -> str:
    """Return the absolute address in `Location`, which may be relative to the response's address.

    Raises:
        BadAnswer: the header is missing, or not an address.

    Source: RFC 9110 section 10.2.2.
    """
    text = response.headers.get("Location", "").strip()
    if not text:
        raise BadAnswer(f"{response.method} {redact_url(response.url)}: no Location in answer")
    return joined_url(response.url, text)


def upload_offset(text: str) -> int:
    """Return the number of bytes in an upload session, from its `Range` header.

    `0-0` is 0 bytes here, though distribution and zot write it for 1 byte too (measured), and
    olareg writes `0--1` for 0. A leading `bytes=` is allowed.

    Raises:
        BadAnswer: any other form.

    Source: distribution-spec v1.1.1, "Pushing a blob in chunks".
    """
    match = _UPLOAD_RANGE.fullmatch(text.strip())
    if match is None:
        raise BadAnswer(f"upload session: Range is {text!r:.100}; expected 0-N")
    last = int(match[1])
    return last + 1 if last > 0 else 0


def next_link(response: Response) -> str | None:
    """Return the absolute address of the next page, `None` on the last one.

    A link of another relation is not followed; one without a relation is.

    Raises:
        BadAnswer: the header is malformed, or holds no address.

    Source: RFC 8288 section 3; distribution-spec v1.1.1, "Listing Tags".
    """
    text = response.headers.get("Link", "").strip()
    if not text:
        return None
    found = False
    for match in _LINK.finditer(text):
        found = True
        if "rel" not in match[2].lower() or _REL_NEXT.search(match[2]):
            return joined_url(response.url, str(match[1]))
    if not found:
        raise BadAnswer(f"{redact_url(response.url)}: Link is {text!r:.200}")
    return None

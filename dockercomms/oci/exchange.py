"""One exchange with a registry in values: the request, the response, and who sends.

No HTTP library is needed here: `Session` sends, and what stands above it knows only the `Sender`
protocol.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import field, replace
from datetime import datetime
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
from dockercomms.oci.reference import is_valid_repository
from dockercomms.oci.retry import RetryPolicy
from dockercomms.oci.scope import Scope
from dockercomms.platforms import Clock
from dockercomms.records import dataclass

CHECKED_BYTES = 2**16
"""How much of a body is read between two checks."""

LEAST_BYTES_PER_SECOND = 1024
"""The least pace of a body; `pace` says over how long."""

_CODINGS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
"""Content codings and the `wbits` by which zlib reads them."""

SUCCESS = frozenset(range(200, 300))
ANY_STATUS = frozenset(range(100, 600))


@dataclass(frozen=True, slots=True)
class Body:
    """A request's body that can be produced again."""

    length: int
    """Bytes in all."""
    open: Callable[[], Iterator[bytes | memoryview]]
    """Gives the bytes from their start each time; a block may be gone with the next one."""

    def __bool__(self) -> bool:
        """Return whether there is anything in it."""
        return self.length > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked of a registry."""

    method: str
    url: str
    """A path from the registry's root, or an absolute address."""
    scope: Scope
    headers: Mapping[str, str] = field(default_factory=dict, hash=False)
    body: bytes | Body | None = None
    ok: Collection[int] = SUCCESS
    """The statuses that are returned; others are raised as errors."""
    not_found: type[NotFoundError] | None = None
    """What a 404 means."""
    retry: RetryPolicy | None = None
    """None: the session's own. `RetryPolicy.none()` where a whole operation retries itself."""
    redirects: bool = False
    """Whether redirects are followed (GET and HEAD only)."""


class Sender(Protocol):
    """Sends requests to one registry. Safe for several threads."""

    @property
    def clock(self) -> Clock:
        """The time and the waiting."""
        ...

    @property
    def retry(self) -> RetryPolicy:
        """The policy of single requests."""
        ...

    def send(self, request: Request) -> Response:
        """Return the response, its status in `request.ok`. Close it or read it to its end.

        Raises:
            NetworkError: no answer, or passing failures until the policy gave up.
            RegistryError: another status; the class follows its code and status.
        """
        ...

    def server_time(self) -> datetime | None:
        """Return the registry's clock in UTC, None before its first answer."""
        ...

    def adopt(self, url: str) -> str:
        """Return the address to use for one that the registry gave in `Location` or `Link`.

        The registry's own host is never spoken to in clear because a `Location` says so: where
        TLS ends in front of a registry, it writes http for its own https address.

        Raises:
            BadAnswer: not http or https, or http of another host while the registry is https.
        """
        ...


class Response(Protocol):
    """One answer of a registry. Close it, or read it to its end."""

    @property
    def method(self) -> str:
        """The method that was asked with."""
        ...

    @property
    def url(self) -> str:
        """The address that answered, after redirects."""
        ...

    @property
    def status(self) -> int:
        """The HTTP status."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """The header fields; their names are found in any case."""
        ...

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes of the body (all if negative), b"" at its end.

        Raises:
            NetworkError: the connection broke.
        """
        ...

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill `buffer` as far as bytes come at once; 0 at the end, or where it has no room.

        Raises:
            NetworkError: the connection broke.
        """
        ...

    def close(self) -> None:
        """Release the connection, for use again where the body is at its end."""
        ...


def redact_url(url: str) -> str:
    """Return `url` without user, query and fragment, which may hold secrets.

    What is no address loses the same, as far as its characters tell.
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
        BadAnswer: not an address, one without a host, or one whose host no resolver can be
            asked for.

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
    """Turn a `ProtocolError` about an answer into a `BadAnswer`: no digest proves the answer.

    Args:
        where: What was read, for the message.
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
    """Return a whole body without the packing that its `Content-Encoding` names.

    Proxies pack JSON although no packing was asked for. Nothing beyond `limit` is unpacked.

    Raises:
        BadAnswer: another packing than gzip or deflate, or a damaged one; of the class `too_large`
            where there is more than `limit` bytes.

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
        response: The answer.
        limit: Bytes.
        check: Called with the length of each piece that has come; ends the reading by raising.

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
    """Return a response that is closed, and its whole body.

    What breaks in the middle of the body is retried like what breaks before it. `check` is that of
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
    """Send `request` and close the response, which is wanted for its status and headers only."""
    response = sender.send(request)
    response.close()
    return response


def api_path(repository: str, *parts: str) -> str:
    """Return `/v2/<repository>/<parts>`.

    Raises:
        NameInvalid: not a repository name; it would be another path.
    """
    if not is_valid_repository(repository):
        raise NameInvalid(f"not a repository name: {repository!r:.300}")
    return "/".join(("/v2", repository, *parts))

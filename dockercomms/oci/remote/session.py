"""One HTTP exchange: authorise, retry, limit the rate, follow redirects, redact.

`Session` is used for all exchanges with a registry; `oci.oras` gives programs written for oras-py
the same one. These rules hold for every exchange:

- A registry's credentials go to its own origin and to the realm that it names, never along a
  redirect or a `Location`.
- Redirects are followed only if the request allows it.
- Every operation has a time limit.
- Cookies and `~/.netrc` are not used.

urllib3 is imported for the first session, not with this module.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import field
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urljoin, urlsplit

from dockercomms import __version__
from dockercomms.errors import BadAnswer, NetworkError, RegistryError, UsageError
from dockercomms.oci.auth.auth import Authenticator
from dockercomms.oci.auth.credentials import Credentials, DockerConfig
from dockercomms.oci.auth.token import MAX_TOKEN_BYTES, TokenRequest, TokenResponse
from dockercomms.oci.reference import connect_host, is_loopback, is_valid_host
from dockercomms.oci.remote.errors import error_from_response, foreign_errors, proxy_refusal
from dockercomms.oci.remote.exchange import (
    ANY_STATUS,
    Body,
    Request,
    is_page,
    location,
    origin,
    read_up_to,
    redact_url,
    response_time,
    retry_after,
    unpacked,
)
from dockercomms.oci.remote.proxies import proxy_for, shown
from dockercomms.oci.remote.retry import Failure, RateLimiter, Retrying, RetryPolicy
from dockercomms.platforms.clock import Clock
from dockercomms.platforms.records import dataclass

if TYPE_CHECKING:
    import ssl

    from dockercomms.oci.remote.wire import HTTPResponse


class SizedBody:
    """A body of known length that is sent as a stream, block by block."""

    def __init__(self, body: Body) -> None:
        self._body = body
        self._blocks: Iterator[bytes | memoryview] | None = None

    def __len__(self) -> int:
        return self._body.length

    def __iter__(self) -> Iterator[bytes | memoryview]:
        self._blocks = self._body.open()
        return self._blocks

    def close(self) -> None:
        """Close the source, also after an interrupted send."""
        close = getattr(self._blocks, "close", None)
        if close is not None:
            close()


def open_body(body: bytes | Body | None) -> bytes | SizedBody | None:
    """Return the body in the form that urllib3 sends."""
    if isinstance(body, Body):
        return SizedBody(body) if body.length else b""
    return body


TIMEOUT_SECONDS = 60.0
"""The longest time for which the registry may send no bytes, or take none."""

MAX_REDIRECTS = 5

_PLAIN_URL = re.compile(r"https?://[A-Za-z0-9.\-]+(:[0-9]+)?/[A-Za-z0-9._~:/?@!$&'()*+,;=%\-]*")
"""An address that needs no quoting, with its host in the form that is sent."""
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_LOG = logging.getLogger("dockercomms.oci")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One registry, and the settings for connections to it."""

    host: str
    """As in a reference: docker.io for Docker Hub."""
    plain_http: bool | None = None
    """`None`: http for this machine's loopback (https there too with a `ca_file`), else https."""
    insecure: bool = False
    """Skip the check of this host's certificate."""
    ca_file: str | None = None
    """Certificates that are trusted besides the system's."""
    timeout: float = TIMEOUT_SECONDS
    user_agent: str = f"dockercomms/{__version__}"
    debug_id: str = ""
    """The prefix of this session's log lines."""
    env: Mapping[str, str] = field(default_factory=lambda: dict(os.environ), repr=False, hash=False)

    def __post_init__(self) -> None:
        if not is_valid_host(self.host):
            raise UsageError(f"not a registry host: {self.host!r:.200}")
        if not self.timeout > 0:
            raise UsageError(f"timeout: {self.timeout} seconds; more than 0 expected")

    @property
    def base_url(self) -> str:
        """Return scheme and host of every request, without a final slash."""
        plain = self.plain_http
        if plain is None:
            plain = is_loopback(self.host) and self.ca_file is None
        return f"{'http' if plain else 'https'}://{connect_host(self.host)}"


class Transport(Protocol):
    """Sends single requests; `Wire` does it over the network."""

    def exchange(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        body: bytes | SizedBody | None,
        *,
        proxy: str | None,
        what: str,
    ) -> HTTPResponse:
        """Return the response, as soon as its header is read; see `Wire.exchange`."""
        ...

    def close(self) -> None:
        """Close the connections."""
        ...


class Session:
    """Exchanges with one registry. Safe for several threads.

    Args:
        endpoint: The registry.
        retry: The policy of single requests.
        clock: The time and the waiting.
        transport: Sends instead of the network, for tests.
        config: The configuration with the credentials; `None`: the user's own.
        credentials: Credentials that come before any configuration.
        limiter: Shared by all sessions below one rate; token requests count as well.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        retry: RetryPolicy,
        clock: Clock,
        transport: Transport | None = None,
        config: DockerConfig | None = None,
        credentials: Credentials | None = None,
        limiter: RateLimiter | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.base_url = endpoint.base_url
        self.clock = clock
        self.retry = retry
        self._limiter = limiter
        self._origin = origin(self.base_url)
        self._lock = threading.Lock()
        self._server_time: tuple[datetime, float] | None = None
        self._answered = False
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._proxies: dict[str, str | None] = {}
        self._transport = transport
        self._wire: Transport | None = None
        self.auth = Authenticator(
            endpoint.host,
            plain_http=self._origin[0] == "http",
            credentials=_lookup(endpoint, config, credentials),
            exchange=self._exchange_token,
            clock=clock,
        )

    def send(self, request: Request) -> HTTPResponse:
        """Return the response; see `Sender.send`."""
        policy = self.retry if request.retry is None else request.retry
        retrying = Retrying(policy, self.clock)
        while True:
            try:
                return self._ask(request)
            except (NetworkError, RegistryError) as error:
                retrying.pause(Failure.of(error))

    def adopt(self, url: str) -> str:
        """Return the address to use for one from a header; see `Sender.adopt`."""
        scheme, host, _ = origin(url)
        if scheme == "https" or (scheme == "http" and self._origin[0] == "http"):
            return url
        if scheme == "http" and host == self._origin[1]:
            return urljoin(self.base_url, urlsplit(url)._replace(scheme="", netloc="").geturl())
        raise BadAnswer(f"{redact_url(url)}: refused, because {self.base_url} is not left for it")

    def server_time(self) -> datetime | None:
        """Return the registry's clock in UTC, `None` before its first response."""
        with self._lock:
            known = self._server_time
        if known is None:
            return None
        moment, noted = known
        return moment + timedelta(seconds=self.clock.monotonic() - noted)

    @property
    def transport(self) -> Transport:
        """Return what sends; the first call imports urllib3."""
        with self._lock:
            if self._transport is not None:
                return self._transport
            if self._wire is None:
                self._wire = self._make_wire()
            return self._wire

    def close(self) -> None:
        """Close the connections; the next request opens new ones."""
        with self._lock:
            wire, self._wire, self._server_time = self._wire, None, None
        for one in (wire, self._transport):
            if one is not None:
                one.close()

    def _ask(self, request: Request) -> HTTPResponse:
        """Send once, following redirects; raise for a status that is not in `request.ok`."""
        response = self._authorised(request, self._absolute(request.url))
        for _ in range(MAX_REDIRECTS):
            if response.status not in _REDIRECTS or not request.redirects:
                break
            response.close()
            response = self._authorised(request, self.adopt(location(response)))
        if response.status in request.ok and not _is_page_for_write(request, response):
            return response
        try:
            error = error_from_response(response, not_found=request.not_found)
        finally:
            response.close()
        if response.status == HTTPStatus.TOO_MANY_REQUESTS and self._limiter is not None:
            self._limiter.drain()
        raise error

    def _absolute(self, url: str) -> str:
        path = url.startswith("/") and not url.startswith("//") and "/." not in url
        return self.base_url + url if path else urljoin(self.base_url, url)

    def _authorised(self, request: Request, url: str) -> HTTPResponse:
        """Send to one address; answer one challenge, and only the registry's own."""
        if not url.startswith(f"{self.base_url}/") and origin(url) != self._origin:
            return self._transmit(request, url, None)
        header = self.auth.header_for(request.scope)
        response = self._transmit(request, url, header)
        if response.status == HTTPStatus.UNAUTHORIZED:
            try:
                again = self.auth.answer_challenge(response.challenges(), request.scope, header)
            except BaseException:
                response.close()
                raise
            if again:
                response.close()
                response = self._transmit(request, url, self.auth.header_for(request.scope))
        self._note_time(response)
        return response

    def _transmit(self, request: Request, url: str, authorization: str | None) -> HTTPResponse:
        """Send one HTTP request to `url`; return the response with any status."""
        headers = {"Accept": "*/*", **request.headers}
        if authorization is not None:
            headers["Authorization"] = authorization
        if not request.body:
            return self._perform(request.method, url, headers, b"")
        response = self._send_body(request, url, {**headers, "Expect": "100-continue"})
        if response.status != HTTPStatus.EXPECTATION_FAILED:
            return response
        response.close()  # an old proxy; RFC 9110 section 10.1.1 says: send the same again
        return self._send_body(request, url, headers)

    def _send_body(self, request: Request, url: str, headers: Mapping[str, str]) -> HTTPResponse:
        body = open_body(request.body)
        try:
            return self._perform(request.method, url, headers, body)
        finally:
            if isinstance(body, SizedBody):
                body.close()

    def _exchange_token(self, asked: TokenRequest) -> TokenResponse:
        """Send a token request; follow no redirect, so that its secrets stay with its server."""
        response = self._perform(asked.method, asked.url, asked.headers, asked.body)
        try:
            body = read_up_to(response, MAX_TOKEN_BYTES + 1)
            if len(body) <= MAX_TOKEN_BYTES:
                body = unpacked(response, body, MAX_TOKEN_BYTES)
        finally:
            response.close()
        return TokenResponse(response.status, body, retry_after(response))

    def _perform(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | SizedBody | None
    ) -> HTTPResponse:
        if self._limiter is not None:
            self._limiter.acquire()
        proxy = self._proxy(url)
        way = f" through the proxy {shown(proxy)}" if proxy else ""
        what = f"{method} {redact_url(url)}{way}"
        started = self.clock.monotonic()
        # The bytes are hashed as stored: servers must not compress them
        ours = {"User-Agent": self.endpoint.user_agent, "Accept-Encoding": "identity"}
        if body or method not in {"GET", "HEAD"}:
            ours["Content-Length"] = str(len(body or b""))
        try:
            with foreign_errors(what):
                response = self.transport.exchange(
                    method, _sendable(url), _merged(ours, headers), body, proxy=proxy, what=what
                )
        except NetworkError as error:
            # A registry that has answered before may restart; a wrong port has never answered
            error.refused = error.refused and not self._answered
            raise
        self._answered = True
        seconds = self.clock.monotonic() - started
        _LOG.debug("%s%s: %d in %.3f s", self.endpoint.debug_id, what, response.status, seconds)
        if response.status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
            response.close()
            raise proxy_refusal(what, response.status, response.reason)
        return response

    def _proxy(self, url: str) -> str | None:
        """Return the proxy for `url`, read once from the environment for each origin."""
        parts = urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc}"
        if origin not in self._proxies:
            self._proxies[origin] = proxy_for(url)
        return self._proxies[origin]

    def _note_time(self, response: HTTPResponse) -> None:
        moment = response_time(response)
        if moment is not None:
            with self._lock:
                self._server_time = moment, self.clock.monotonic()

    def _make_wire(self) -> Transport:
        from dockercomms.oci.remote.pace import Patience  # noqa: PLC0415 - it loads http.client
        from dockercomms.oci.remote.wire import Wire  # noqa: PLC0415 - it loads urllib3

        patience = Patience(timeout=self.endpoint.timeout, monotonic=self.clock.monotonic)
        return Wire(self._tls_context, patience)

    def _tls_context(self, host: str) -> ssl.SSLContext:
        from dockercomms.oci.remote.tls import certificate_folders, make_context  # noqa: PLC0415 - HTTP needs none

        with self._lock:
            if host not in self._contexts:
                own = host == self.base_url.partition("://")[2]
                self._contexts[host] = make_context(
                    host,
                    insecure=self.endpoint.insecure and own,
                    ca_file=self.endpoint.ca_file,
                    env=self.endpoint.env,
                    folders=certificate_folders(self.endpoint.env),
                )
            return self._contexts[host]


def _sendable(url: str) -> str:
    """Return the address with the characters quoted that HTTP cannot carry."""
    if _PLAIN_URL.fullmatch(url):
        return url
    import urllib3.util  # noqa: PLC0415 - loaded with the first request

    return urllib3.util.parse_url(url).url


def _merged(*many: Mapping[str, str]) -> dict[str, str]:
    """Return the header fields of all; of one name, in any case, the last."""
    fields = {name.lower(): (name, value) for some in many for name, value in some.items()}
    return dict(fields.values())


def _is_page_for_write(request: Request, response: HTTPResponse) -> bool:
    """Return whether a web page answers a write, as login pages do with 200.

    Quay marks responses without a body as HTML as well.
    """
    return (
        request.method not in {"GET", "HEAD"}
        and request.ok is not ANY_STATUS
        and response.status == HTTPStatus.OK
        and response.headers.get("Content-Length") != "0"
        and is_page(response)
    )


def _lookup(
    endpoint: Endpoint, config: DockerConfig | None, given: Credentials | None
) -> Callable[[str], Credentials | None]:
    """Return the function that finds credentials for a repository; it reads files when called."""

    def find(repository: str) -> Credentials | None:
        if given is not None:
            return given
        known = DockerConfig.load(endpoint.env) if config is None else config
        return known.entry(endpoint.host, repository)

    return find

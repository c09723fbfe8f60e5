"""One HTTP exchange: authorise, retry, limit the rate, follow redirects, redact.

`Session` is used for all exchanges with a registry; `oci.oras` gives programs written for oras-py
the same one. These rules hold for every exchange:

- A registry's credentials go to its own origin and to the realm that it names, never along a
  redirect or a `Location`.
- Redirects are followed only if the request allows it.
- Every operation has a time limit.
- Cookies and `~/.netrc` are not used.

The transport connects directly, or through requests if there is a proxy. requests is imported for
the first session, not with this module, so the classes over it are created on first use.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import field
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from dockercomms import __version__
from dockercomms.errors import BadAnswer, DockerCommsError, NetworkError, RegistryError, UsageError
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
from dockercomms.oci.remote.proxies import login_header, proxy_for, shown
from dockercomms.oci.remote.retry import Failure, RateLimiter, Retrying, RetryPolicy
from dockercomms.platforms.clock import Clock
from dockercomms.platforms.records import dataclass

if TYPE_CHECKING:
    import ssl

    import requests  # noqa: TID251 - its type only

    from dockercomms.oci.remote.pace import Patience

CONNECT_SECONDS = 10.0
"""The time limit for connecting to one address."""

POOL_CONNECTIONS = 32
"""Connections kept for later requests; further threads open their own."""


@functools.cache
def adapter_class() -> Any:
    """Return the class of the transport: time limits everywhere, and TLS settings for each host."""
    import requests.adapters  # noqa: PLC0415, TID251 - loaded with oras

    from dockercomms.oci.remote.direct import Connections, exchange  # noqa: PLC0415 - it loads http.client
    from dockercomms.oci.remote.pace import Patience  # noqa: PLC0415 - the same

    base: Any = requests.adapters.HTTPAdapter

    class PatientAdapter(base):  # type: ignore[misc] # its parent is used without types
        def __init__(
            self,
            context_for: Callable[[str], ssl.SSLContext],
            timeout: float,
            monotonic: Callable[[], float],
        ) -> None:
            patience = Patience(timeout=timeout, monotonic=monotonic)
            self._context_for = context_for
            self._times = (min(CONNECT_SECONDS, timeout), timeout)
            self._patient = functools.cache(functools.partial(_patient_class, patience))
            self._direct = Connections(
                context_for,
                connect_seconds=self._times[0],
                patience=patience,
                keep=POOL_CONNECTIONS,
            )
            super().__init__(pool_connections=POOL_CONNECTIONS, pool_maxsize=POOL_CONNECTIONS)

        def send(self, request: Any, **options: Any) -> Any:
            if options.get("proxies"):
                return super().send(request, **{**options, "timeout": self._times})
            body = exchange(
                self._direct, request.method, request.url, request.headers, request.body
            )
            return _response_class()(request, body)

        def close(self) -> None:
            self._direct.close()
            super().close()

        def build_connection_pool_key_attributes(
            self, request: Any, *_: Any, **__: Any
        ) -> tuple[Any, dict[str, Any]]:
            host, _ignored = super().build_connection_pool_key_attributes(request, verify=True)
            if host["scheme"] != "https":
                return host, {}
            return host, {"ssl_context": self._context_for(urlsplit(request.url).netloc)}

        def get_connection_with_tls_context(self, *args: Any, **options: Any) -> Any:
            pool = super().get_connection_with_tls_context(*args, **options)
            pool.ConnectionCls = self._patient(pool.ConnectionCls)
            return pool

        def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
            # urllib3 itself trusts the system's certificates alone
            if proxy.lower().startswith("https://"):
                options["proxy_ssl_context"] = self._context_for(shown(proxy))
            return super().proxy_manager_for(proxy, **options)

        def proxy_headers(self, proxy: str) -> dict[str, str]:
            header = login_header(proxy)
            return {} if header is None else {"Proxy-Authorization": header}

        def cert_verify(self, *_: Any, **__: Any) -> None:
            """Skip the check here: the TLS context makes it."""

    return PatientAdapter


@functools.cache
def _response_class() -> Any:
    """Return a `requests.Response` class over a `DirectBody`, without the unused parts."""
    import requests  # noqa: PLC0415, TID251 - loaded with oras
    import requests.cookies  # noqa: PLC0415, TID251 - loaded with oras

    base: Any = requests.Response

    class DirectResponse(base):  # type: ignore[misc] # its parent is used without types
        def __init__(self, request: Any, body: Any) -> None:
            self._content = False
            self._content_consumed = False
            self._next = None
            self.raw = body
            self.request = request
            self.url = request.url
            self.status_code = body.answer.status
            self.reason = body.answer.reason
            self.headers = requests.structures.CaseInsensitiveDict(body.answer.fields.joined())
            self.encoding = None
            self.history: list[Any] = []
            self.elapsed = timedelta()

        @functools.cached_property
        def cookies(self) -> Any:
            return requests.cookies.RequestsCookieJar()

    return DirectResponse


def _patient_class(patience: Patience, base: Any) -> Any:
    """Return a connection class with one time limit for sending and reading, read at a pace.

    urllib3 applies the limit for connecting to sending, which is too short for a blob on a slow
    link.
    """
    from dockercomms.oci.remote.pace import PacedResponse  # noqa: PLC0415 - it loads http.client

    if hasattr(base, "send_seconds"):
        return base

    class Patient(base):  # type: ignore[misc] # its parent is known at run time
        send_seconds = patience.timeout

        @staticmethod
        def response_class(sock: Any, **options: Any) -> PacedResponse:
            return PacedResponse(sock, patience, **options)

        def connect(self) -> None:
            super().connect()
            self.sock.settimeout(self.send_seconds)

    return Patient


_COPIED_BYTES = 2**18
"""The size of copies where a proxy's connection cannot fill a buffer itself."""

_DRAIN_BYTES = 65536
"""The most bytes of an unread body that are read so that its connection can be used again."""


class HTTPResponse:
    """A `Response` over a response of requests; its body raises our errors."""

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
        """Fill `buffer` with the bytes available, 0 at the end; see `Response.readinto`."""
        raw = self._raw.raw
        with foreign_errors(self._what):
            readinto = getattr(raw, "readinto", None)
            if readinto is None or not hasattr(raw, "challenges"):
                # urllib3's own readinto would decode the content
                data = raw.read(min(len(buffer), _COPIED_BYTES), decode_content=False)
                buffer[: len(data)] = data
                return len(data)
            count: int = readinto(buffer)
        return count

    def close(self) -> None:
        """Release the connection; keep it if little of the body is left."""
        # A response closed before its end costs a new connection, so its last bytes are read
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
    """A body of known length that requests sends as a stream, block by block."""

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
    """Return the body in the form that requests sends."""
    if isinstance(body, Body):
        # requests sends an empty stream in chunks, which registries do not expect
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
        transport: requests.adapters.BaseAdapter | None = None,
        config: DockerConfig | None = None,
        credentials: Credentials | None = None,
        limiter: RateLimiter | None = None,
    ) -> None:
        import requests  # noqa: PLC0415, TID251 - only here, and lazily: 0.06 s

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
        self.session = requests.Session()
        adapter = transport or adapter_class()(self._tls_context, endpoint.timeout, clock.monotonic)
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, adapter)
        # Any callable here keeps ~/.netrc from replacing our header
        self.session.auth = lambda request: request
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

    def close(self) -> None:
        """Close the connections; open responses become unusable."""
        self.session.close()

    def _ask(self, request: Request) -> HTTPResponse:
        """Send once, following redirects; raise for a status that is not in `request.ok`."""
        response = self._authorised(request, urljoin(self.base_url, request.url))
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

    def _authorised(self, request: Request, url: str) -> HTTPResponse:
        """Send to one address; answer one challenge, and only the registry's own."""
        if origin(url) != self._origin:
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
        try:
            with foreign_errors(what):
                prepared = self._prepared(method, url, {**ours, **headers}, body)
                adapter = self.session.get_adapter(url)
                proxies = {urlsplit(url).scheme: proxy} if proxy else {}
                raw = adapter.send(prepared, stream=True, proxies=proxies)
        except NetworkError as error:
            # A registry that has answered before may restart; a wrong port has never answered
            error.refused = error.refused and not self._answered
            raise
        self._answered = True
        seconds = self.clock.monotonic() - started
        _LOG.debug("%s%s: %d in %.3f s", self.endpoint.debug_id, what, raw.status_code, seconds)
        if raw.status_code == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
            raw.close()
            raise proxy_refusal(what, raw.status_code, raw.reason)
        return HTTPResponse(raw, method, what)

    def _prepared(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | SizedBody | None
    ) -> requests.PreparedRequest:
        """Return the prepared request for an adapter.

        requests reads the environment and builds cookies for each request, which takes longer than
        sending it; only the quoting of unusual addresses is left to requests.
        """
        import requests  # noqa: PLC0415, TID251 - lazily

        if not _PLAIN_URL.fullmatch(url):
            return self.session.prepare_request(
                requests.Request(method, url, headers=dict(headers), data=body)
            )
        prepared = requests.PreparedRequest()
        prepared.method, prepared.url = method, url
        prepared.headers = requests.structures.CaseInsensitiveDict(headers)
        prepared.body = body or None  # type: ignore[assignment] # a stream of known length
        if body or method not in {"GET", "HEAD"}:
            prepared.headers["Content-Length"] = str(len(body or b""))
        return prepared

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

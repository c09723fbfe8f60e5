"""One exchange: authorise, retry, limit the rate, follow redirects, map foreign errors, redact.

`Session` is an `oras.provider.Registry` whose one HTTP method, `do_request`, is ours, so that its
inherited methods run through the same core as `send`. oras and requests are imported when the
first session is made, not when this module is.

What holds for every exchange: a registry's credentials go to its own origin and to the realm that
it names, never along a redirect or a `Location`; redirects are followed only where a request says
so; nothing is without a time limit; cookies and `~/.netrc` are unused.

Example:
    >>> from dockercomms.oci.session import Endpoint
    >>> Endpoint(host="localhost:5000").base_url
    'http://localhost:5000'
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import logging
import os
import re
import sys
import threading
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import field
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from dockercomms import __version__
from dockercomms.errors import BadAnswer, NetworkError, RegistryError, UsageError
from dockercomms.oci.adapter import adapter_class
from dockercomms.oci.auth import (
    BACKEND_NAME,
    MAX_TOKEN_BYTES,
    Authenticator,
    Credentials,
    DockerConfig,
    TokenRequest,
    TokenResponse,
    scoped_auth_class,
)
from dockercomms.oci.exchange import Request, origin, read_up_to, redact_url, unpacked
from dockercomms.oci.failures import foreign_errors, proxy_refusal
from dockercomms.oci.headers import location, response_time, retry_after
from dockercomms.oci.model import canonical_json
from dockercomms.oci.proxies import proxy_for, shown
from dockercomms.oci.reference import connect_host, is_loopback, is_valid_host
from dockercomms.oci.retry import Failure, RateLimiter, Retrying, RetryPolicy
from dockercomms.oci.scope import Scope
from dockercomms.oci.statuses import error_from_response
from dockercomms.oci.tls import certificate_folders, make_context
from dockercomms.oci.wire import HTTPResponse, SizedBody, open_body
from dockercomms.platforms import Clock
from dockercomms.records import dataclass

if TYPE_CHECKING:
    import ssl

    import requests  # noqa: TID251 - this is one of the modules that may

TIMEOUT_SECONDS = 60.0
"""How long the registry may be silent, or take none of what is sent."""

MAX_REDIRECTS = 5

_BELOW_500 = frozenset(range(100, 500)) - {HTTPStatus.TOO_MANY_REQUESTS}
_PLAIN_URL = re.compile(r"https?://[A-Za-z0-9.\-]+(:[0-9]+)?/[A-Za-z0-9._~:/?@!$&'()*+,;=%\-]*")
"""An address that needs no quoting, and whose host is written as it is sent."""
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_ENDPOINT = re.compile(r"/v2/(.+?)/(?:manifests/|blobs/(uploads/)?|tags/list|referrers/)")
_LOG = logging.getLogger("dockercomms.oci")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One registry, and how it is spoken to."""

    host: str
    """As in a reference: docker.io for Docker Hub."""
    plain_http: bool | None = None
    """None: http for this machine's loopback (https there too with a `ca_file`), else https."""
    insecure: bool = False
    """Leave the certificate of this host unchecked."""
    ca_file: str | None = None
    """Certificates that are trusted besides the system's."""
    timeout: float = TIMEOUT_SECONDS
    user_agent: str = f"dockercomms/{__version__}"
    debug_id: str = ""
    """Stands in front of this session's log lines."""
    env: Mapping[str, str] = field(default_factory=lambda: dict(os.environ), repr=False, hash=False)

    def __post_init__(self) -> None:
        if not is_valid_host(self.host):
            raise UsageError(f"not a registry host: {self.host!r:.200}")
        if not self.timeout > 0:
            raise UsageError(f"timeout: {self.timeout} seconds; more than 0 expected")

    @property
    def base_url(self) -> str:
        """Scheme and host of every request, without a final slash."""
        plain = self.plain_http
        if plain is None:
            plain = is_loopback(self.host) and self.ca_file is None
        return f"{'http' if plain else 'https'}://{connect_host(self.host)}"


@functools.cache
def session_class() -> type[SessionCore]:
    """Return `Session`, the subclass of `oras.provider.Registry`; imports oras the first time."""
    with _deferred("jsonschema"):
        import oras.provider  # noqa: PLC0415, TID251 - only here, and lazily: 0.1 s

    scoped_auth_class()  # makes itself known to oras

    class Session(SessionCore, oras.provider.Registry):  # type: ignore[misc] # oras has no types
        """`SessionCore` over what oras brings: session, cookie policy, credentials' backend."""

    return Session


class _Deferred(types.ModuleType):
    """Stands for a module until something of it is used."""

    def __getattr__(self, name: str) -> object:
        self.leave()
        return getattr(importlib.import_module(self.__name__), name)

    def leave(self) -> None:
        """Make room for the module itself."""
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]


@contextlib.contextmanager
def _deferred(name: str) -> Iterator[None]:
    """Let what is imported within have a stand-in for a module, which others never see.

    oras imports jsonschema, which takes half of the time that its own import does, and uses it
    only in methods that are not called here.
    """
    spec = importlib.util.find_spec(name)
    if name in sys.modules or spec is None:
        yield  # it is loaded, or oras will say that it is missing
        return
    module = _Deferred(name)
    module.__spec__ = spec
    sys.modules[name] = module
    try:
        yield
    finally:
        module.leave()


def __getattr__(name: str) -> object:
    """Make `Session` on first use (PEP 562)."""
    if name == "Session":
        return session_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class SessionCore:
    """What is ours of `Session`, which alone is used. Safe for several threads.

    Args:
        endpoint: The registry.
        retry: The policy of single requests.
        clock: The time and the waiting.
        transport: What sends instead of the network, for tests.
        config: Where credentials are looked up; None: the user's own configuration.
        credentials: Given credentials, which come before any configuration.
        limiter: Shared by all that must stay below one rate; token requests count as well.
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
        host = self.base_url.partition("://")[2]
        plain = self._origin[0] == "http"
        self._set_up_oras(host, plain=plain)
        adapter = transport or adapter_class()(self._tls_context, endpoint.timeout, clock.monotonic)
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, adapter)
        # Any callable here keeps ~/.netrc from replacing our header
        self.session.auth = lambda request: request
        self.auth.authenticator = Authenticator(
            endpoint.host,
            plain_http=plain,
            credentials=_lookup(endpoint, config, credentials),
            exchange=self._exchange_token,
            clock=clock,
        )

    def _set_up_oras(self, host: str, *, plain: bool) -> None:
        """Let `oras.provider.Registry` set up what it brings."""
        self.session: requests.Session
        self.auth: Any
        initialise: Any = super().__init__
        initialise(
            hostname=host,
            insecure=plain,
            tls_verify=not self.endpoint.insecure,
            auth_backend=BACKEND_NAME,
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

    def do_request(  # noqa: PLR0917 - the signature is that of oras
        self,
        url: str,
        method: str = "GET",
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        json: object = None,
        stream: bool = False,  # noqa: FBT002
        **_: object,
    ) -> requests.Response:
        """Return the answer to an inherited method's request: any status below 500 but 429.

        Bodies are read whole, at most `MAX_MANIFEST_BYTES`, unless `stream` is set.
        """
        request = Request(
            method=method,
            url=url,
            scope=scope_of(method, url),
            headers=headers or {},
            body=data if json is None else canonical_json(json),
            ok=_BELOW_500,
        )
        return self.send(request).foreign(whole=not stream)

    def adopt(self, url: str) -> str:
        """Return the address to use for one from a header; see `Sender.adopt`."""
        scheme, host, _ = origin(url)
        if scheme == "https" or (scheme == "http" and self._origin[0] == "http"):
            return url
        if scheme == "http" and host == self._origin[1]:
            return urljoin(self.base_url, urlsplit(url)._replace(scheme="", netloc="").geturl())
        raise BadAnswer(f"{redact_url(url)}: refused, because {self.base_url} is not left for it")

    def server_time(self) -> datetime | None:
        """Return the registry's clock in UTC, None before its first answer."""
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
        """Ask once, following redirects; raise for a status that is not `request.ok`."""
        response = self._authorised(request, urljoin(self.base_url, request.url))
        for _ in range(MAX_REDIRECTS):
            if response.status not in _REDIRECTS or not request.redirects:
                break
            response.close()
            response = self._authorised(request, self.adopt(location(response)))
        if response.status in request.ok:
            return response
        try:
            error = error_from_response(response, not_found=request.not_found)
        finally:
            response.close()
        if response.status == HTTPStatus.TOO_MANY_REQUESTS and self._limiter is not None:
            self._limiter.drain()
        raise error

    def _authorised(self, request: Request, url: str) -> HTTPResponse:
        """Ask one address; answer a challenge once, and only the registry's own."""
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
        """Send one HTTP request to `url` and return what comes, whatever its status."""
        headers = {"Accept": "*/*", **request.headers}
        if authorization is not None:
            headers["Authorization"] = authorization
        if not request.body:
            return self._perform(request.method, url, headers, b"")
        response = self._send_body(request, url, {**headers, "Expect": "100-continue"})
        if response.status != HTTPStatus.EXPECTATION_FAILED:
            return response
        response.close()  # an old proxy; RFC 9110 section 10.1.1 asks for the same again
        return self._send_body(request, url, headers)

    def _send_body(self, request: Request, url: str, headers: Mapping[str, str]) -> HTTPResponse:
        body = open_body(request.body)
        try:
            return self._perform(request.method, url, headers, body)
        finally:
            if isinstance(body, SizedBody):
                body.close()

    def _exchange_token(self, asked: TokenRequest) -> TokenResponse:
        """Ask a token server. What it is asked with goes nowhere else: no redirect is followed."""
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
        # What is hashed is what is stored: nothing on the way may pack it
        ours = {"User-Agent": self.endpoint.user_agent, "Accept-Encoding": "identity"}
        try:
            with foreign_errors(what):
                prepared = self._prepared(method, url, {**ours, **headers}, body)
                adapter = self.session.get_adapter(url)
                proxies = {urlsplit(url).scheme: proxy} if proxy else {}
                raw = adapter.send(prepared, stream=True, proxies=proxies)
        except NetworkError as error:
            # A registry that has answered restarts; at a wrong port nothing ever did
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
        """Return what an adapter sends.

        requests looks at the environment and builds cookies for each request, which takes longer
        than sending it; what is left is to quote addresses that need it.
        """
        import requests  # noqa: PLC0415, TID251 - loaded with oras

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
        """Return the proxy for `url`, looked up once for each origin: it reads the environment."""
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
        """Return the TLS settings for `host` (with its port), made once."""
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


def scope_of(method: str, url: str) -> Scope:
    """Return the scope that a request needs, told by its method and path.

    Source: distribution-spec v1.1.1, "Endpoints".
    """
    match = _ENDPOINT.match(urlsplit(url).path)
    if match is None:
        return Scope.catalog()
    repository, uploads = match[1], match[2] is not None
    if method in {"GET", "HEAD"} and not uploads:
        return Scope.pull(repository)
    return (
        Scope.delete(repository) if method == "DELETE" and not uploads else Scope.push(repository)
    )


def _lookup(
    endpoint: Endpoint, config: DockerConfig | None, given: Credentials | None
) -> Callable[[str], Credentials | None]:
    """Return what finds the credentials for a repository; nothing is read before it is asked."""

    def find(repository: str) -> Credentials | None:
        if given is not None:
            return given
        known = DockerConfig.load(endpoint.env) if config is None else config
        return known.entry(endpoint.host, repository)

    return find

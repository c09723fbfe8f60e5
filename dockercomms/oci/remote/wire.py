"""Connections to registries and proxies: pools of urllib3, with our limits on their peers.

urllib3 connects through proxies, speaks TLS and HTTP/1.1 and keeps connections. It follows no
redirect, tries nothing again and decodes no content here: `oci.remote.session` decides about these.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, ProxySchemeUnknown

from dockercomms.errors import BadAnswer, DockerCommsError
from dockercomms.oci.remote.dialing import dial
from dockercomms.oci.remote.errors import foreign_errors
from dockercomms.oci.remote.pace import Pace, PacedResponse, Patience, send_paced
from dockercomms.oci.remote.proxies import login_header, shown

if TYPE_CHECKING:
    import ssl

CONNECT_SECONDS = 10.0
"""The time limit for connecting to one address."""

POOL_CONNECTIONS = 32
"""Connections kept for later requests to one host; further threads open their own."""

_DRAIN_BYTES = 65536
"""The most bytes of an unread body that are read so that its connection can be used again."""

_PLAIN = frozenset({"http", "https"})
_NEVER = urllib3.Retry.from_int(retries=False, redirect=False)
"""The session tries again, by its own rules."""


class _Paced:
    """The parts of a connection that have our limits."""

    sock: Any
    host: str
    port: int
    patience: Patience
    paced: PacedResponse

    def __init__(self, *arguments: Any, patience: Patience, **options: Any) -> None:
        self.patience = patience
        self._pace = Pace(patience)
        super().__init__(*arguments, **options)

    def _new_conn(self) -> socket.socket:
        seconds = min(CONNECT_SECONDS, self.patience.timeout)
        try:
            sock = dial(self.host, self.port, seconds)
        except TimeoutError as error:
            raise ConnectTimeoutError(str(error)) from error
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def connect(self) -> None:
        """Connect; after that the time limit is that of sending and reading."""
        super().connect()  # type: ignore[misc] # of urllib3
        self.sock.settimeout(self.patience.timeout)
        self.is_verified = True  # as the TLS context says; else urllib3 warns of each request

    def putrequest(self, *arguments: Any, **options: Any) -> None:
        """Begin a request, and with it a body whose pace counts."""
        self._pace = Pace(self.patience)
        super().putrequest(*arguments, **options)  # type: ignore[misc] # of http.client

    def send(self, data: bytes | memoryview) -> None:
        """Send bytes of a request, not too slowly."""
        if self.sock is None:
            self.connect()
        send_paced(self.sock, data, self._pace)

    def response_class(self, sock: Any, **options: Any) -> PacedResponse:
        """Return the response to read; http.client calls this."""
        self.paced = PacedResponse(sock, self.patience, **options)
        return self.paced


class _PlainConnection(_Paced, HTTPConnection):  # type: ignore[misc] # narrower methods
    """A connection without TLS."""


class _TLSConnection(_Paced, HTTPSConnection):  # type: ignore[misc] # the same
    """A connection with TLS."""


class HTTPResponse:
    """A `Response`; its body raises our errors."""

    def __init__(self, raw: Any, method: str, url: str, what: str) -> None:
        self._raw = raw
        self._body: PacedResponse = raw.connection.paced
        self._what = what
        self.method = method
        self.url = url
        self.status: int = raw.status
        self.reason: str = raw.reason or ""
        self.headers: Mapping[str, str] = raw.headers
        if self._body.length == 0:
            self.close()

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes of the body; see `Response.read`."""
        with self._reading():
            left = self._body.length
            data = self._body.read(None if size < 0 else size)
            self._look(len(data), left, size)
        return data

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill `buffer` with the bytes available, 0 at the end; see `Response.readinto`."""
        with self._reading():
            left = self._body.length
            count = self._body.readinto(buffer)
            self._look(count, left, len(buffer))
        return count

    def close(self) -> None:
        """Release the connection; keep it if little of the body is left."""
        # A response closed before its end costs a new connection, so its last bytes are read
        if not self._body.isclosed() and (self._body.length or 0) <= _DRAIN_BYTES:
            with contextlib.suppress(DockerCommsError):
                self.read(_DRAIN_BYTES)
        if not self._body.isclosed():
            self._raw.close()

    def challenges(self) -> tuple[str, ...]:
        """Return every `WWW-Authenticate` field."""
        return tuple(self._raw.headers.getlist("WWW-Authenticate"))

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        with foreign_errors(self._what):
            try:
                yield
            except BaseException:
                self._raw.close()
                raise

    def _look(self, count: int, left: int | None, wanted: int) -> None:
        """Release the connection at the end of the body; raise if the end came too early."""
        if not count and left and wanted:
            raise http.client.IncompleteRead(b"", left)
        if self._body.isclosed():
            self._raw.release_conn()


class Wire:
    """The connections of one session. Safe for several threads.

    Args:
        context_for: Returns the TLS settings for a host with its port.
        patience: How long the peer may be silent, or slow.
    """

    def __init__(self, context_for: Callable[[str], ssl.SSLContext], patience: Patience) -> None:
        self._context_for = context_for
        self._patience = patience
        self._timeout = urllib3.Timeout(connect=patience.timeout, read=patience.timeout)
        self._lock = threading.Lock()
        self._pools: dict[tuple[str, str, str | None], urllib3.HTTPConnectionPool] = {}

    def exchange(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        body: bytes | Iterable[bytes | memoryview] | None,
        *,
        proxy: str | None,
        what: str,
    ) -> HTTPResponse:
        """Send one request and return its response, as soon as its header is read.

        Args:
            method: The method.
            url: An absolute address.
            headers: All header fields but `Host`; `Content-Length` too if there is a body.
            body: The body; an iterable is sent piece by piece.
            proxy: The address of the proxy, with its user and password.
            what: The request in the messages of errors.

        Raises:
            BadAnswer: HTTP cannot carry the head.
            OSError, HTTPException, HTTPError: the connection failed, or the response is not HTTP.
        """
        parts = urlsplit(url)
        _check(method, url, headers)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        pool = self._pool(parts.scheme, parts.netloc.rpartition("@")[2], proxy)
        raw = pool.urlopen(
            method,
            url if proxy and parts.scheme == "http" else target,
            body=cast("Any", body or None),
            headers=headers,
            retries=_NEVER,
            redirect=False,
            assert_same_host=False,
            timeout=self._timeout,
            preload_content=False,
            decode_content=False,
        )
        return HTTPResponse(raw, method, url, what)

    def close(self) -> None:
        """Close the idle connections, and keep no more."""
        with self._lock:
            while self._pools:
                self._pools.popitem()[1].close()

    def _pool(self, scheme: str, host: str, proxy: str | None) -> urllib3.HTTPConnectionPool:
        key = scheme, host, proxy
        with self._lock:
            if key not in self._pools:
                self._pools[key] = self._made(scheme, host, proxy)
            return self._pools[key]

    def _made(self, scheme: str, host: str, proxy: str | None) -> urllib3.HTTPConnectionPool:
        options: dict[str, Any] = {"maxsize": POOL_CONNECTIONS}
        peer = scheme, host  # the one that TLS is spoken with first
        if proxy is None:
            manager = urllib3.PoolManager(**options)
        else:
            login = login_header(proxy)
            through = urlsplit(proxy).scheme.lower()
            if through not in _PLAIN:
                raise ProxySchemeUnknown(through)
            if through == "https":
                options["proxy_ssl_context"] = self._context_for(shown(proxy))
            manager = urllib3.ProxyManager(
                f"{through}://{shown(proxy)}",
                proxy_headers=None if login is None else {"Proxy-Authorization": login},
                **options,
            )
            peer = peer if scheme == "https" else (through, shown(proxy))
        tls = {"ssl_context": self._context_for(peer[1])} if peer[0] == "https" else {}
        pool = manager.connection_from_url(f"{scheme}://{host}", tls)
        kind = _TLSConnection if peer[0] == "https" else _PlainConnection
        if proxy is not None and scheme == "https":
            kind = _TLSConnection
        pool.ConnectionCls = cast("Any", functools.partial(kind, patience=self._patience))
        return pool


def _check(method: str, url: str, headers: Mapping[str, str]) -> None:
    """Refuse a request whose head HTTP cannot carry.

    Raises:
        BadAnswer: a line break, or a character outside Latin-1.
    """
    text = "".join((url, *headers, *headers.values()))
    if "\r" in text or "\n" in text or "\0" in text:
        told = "a line break in a header"
    elif text.encode("latin-1", "ignore").decode("latin-1") != text:
        told = "a character that HTTP cannot carry"
    else:
        return
    raise BadAnswer(f"{method} {urlsplit(url).path!r:.200}: {told}")

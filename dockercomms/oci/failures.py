"""What the errors of requests, urllib3, oras and the socket layer become: one table.

`foreign_errors` is the one place that catches them; nothing above `session` sees a foreign class.
It is found by its name, so that no HTTP library is imported before it is used; a test walks the
libraries' exceptions and fails on one that the table does not have. oras has one exception of its
own, which it raises nowhere (0.2.43; a test holds that).
"""

from __future__ import annotations

import contextlib
import functools
import re
import socket
from collections.abc import Callable, Iterator
from http import HTTPStatus

from dockercomms.errors import (
    BadAnswer,
    ConfigError,
    DockerCommsError,
    NetworkError,
    ProxyError,
)
from dockercomms.oci.proxies import PROXY_HINT

_MAX_CAUSES = 20
"""How deep a chain of exceptions is followed: real ones have up to six links."""

_TUNNEL = re.compile(r"Tunnel connection failed: ([1-5][0-9]{2}) ?(.*)")
"""`http.client` has an answer to CONNECT in this text alone; a test holds it on each Python."""

_Maker = Callable[[str, BaseException], DockerCommsError]


@contextlib.contextmanager
def foreign_errors(what: str) -> Iterator[None]:
    """Raise ours for every error of the network and of its libraries in the block.

    Args:
        what: The request, for the message: method and address without its query.

    Raises:
        NetworkError: the connection failed; not `retryable` where trying again cannot help.
        ProxyError: the proxy refused, or could not be reached.
        BadAnswer: the registry gave an address or a body that cannot be used.
        ConfigError: the proxy settings are wrong.
    """
    try:
        yield
    except _foreign_classes() as error:
        ours = error_from_exception(error, what)
        if ours is None:
            raise
        raise ours from error


@functools.cache
def _foreign_classes() -> tuple[type[BaseException], ...]:
    import http.client  # noqa: PLC0415 - it loads ssl

    import urllib3.exceptions  # noqa: PLC0415 - loaded with requests

    # requests' own are OSErrors; some of urllib3's are ValueErrors and nothing else
    return OSError, ValueError, http.client.HTTPException, urllib3.exceptions.HTTPError


def error_from_exception(error: BaseException, what: str) -> DockerCommsError | None:
    """Return our error for a foreign one, None if it is no error of the network."""
    for cls in type(error).__mro__:
        maker = _FOREIGN.get(f"{cls.__module__.partition('.')[0]}.{cls.__name__}")
        if maker is not None:
            return maker(what, error)
    return _network(what, error) if isinstance(error, OSError) else None


def _network(what: str, error: BaseException) -> NetworkError:
    """Tell from the innermost cause what happened, and whether it may pass."""
    for cause in _causes(error):
        name = f"{type(cause).__module__.partition('.')[0]}.{type(cause).__name__}"
        if name in _TLS:
            return _tls(what, cause)
        if isinstance(cause, socket.gaierror):
            # EAI_AGAIN is the resolver's own trouble; every other answer is final
            return NetworkError(
                f"{what}: host name not found",
                retryable=cause.errno == socket.EAI_AGAIN,
                hint="check the spelling of the registry's host, and that this machine is online",
            )
        if name in _CAUSES:
            refused = name in _WRONG_PORT
            return NetworkError(f"{what}: {_CAUSES[name]}", refused=refused)
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.strerror:
            return NetworkError(f"{what}: {cause.strerror.lower()}")
    return NetworkError(f"{what}: connection failed")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield `error` and what led to it, the innermost first."""
    found: list[BaseException] = []
    pending: list[object] = [error]
    while pending and len(found) < _MAX_CAUSES:
        item = pending.pop(0)
        if isinstance(item, BaseException) and item not in found:
            found.append(item)
            pending += [getattr(item, "reason", None), item.__cause__, item.__context__, *item.args]
    yield from reversed(found)


def _tls(what: str, cause: BaseException) -> NetworkError:
    name = type(cause).__name__
    if name == "SSLCertVerificationError":
        reason = getattr(cause, "verify_message", "") or "not trusted"
        return NetworkError(
            f"{what}: the server's certificate is refused: {reason}",
            retryable=False,
            hint="give the certificate of its authority with --ca-file, or put it into "
            "/etc/docker/certs.d/HOST/ca.crt",
        )
    reason = str(getattr(cause, "reason", "") or "failed").replace("_", " ").lower()
    # The connection was cut in the middle of TLS: no verdict about anything
    passing = name in {"SSLEOFError", "SSLZeroReturnError", "SSLSyscallError"}
    return NetworkError(
        f"{what}: TLS: {reason}",
        retryable=passing,
        hint="if the registry speaks plain HTTP, say --plain-http",
    )


_TLS = frozenset(
    {
        "ssl.SSLError",
        "ssl.SSLCertVerificationError",
        "ssl.SSLEOFError",
        "ssl.SSLZeroReturnError",
        "ssl.SSLSyscallError",
        "ssl.SSLWantReadError",
        "ssl.SSLWantWriteError",
    }
)

_CAUSES = {
    "builtins.ConnectionRefusedError": "connection refused",
    "builtins.ConnectionResetError": "connection reset",
    "builtins.ConnectionAbortedError": "connection aborted",
    "builtins.BrokenPipeError": "connection closed by the server",
    "http.RemoteDisconnected": "connection closed by the server",
    "http.IncompleteRead": "the answer ended early",
    "urllib3.IncompleteRead": "the answer ended early",
    "urllib3.InvalidChunkLength": "the answer is garbled",
    "http.BadStatusLine": "the answer is not HTTP",
    "http.LineTooLong": "a line of the answer is too long",
    "dockercomms.TinyChunks": "the answer comes in too small chunks",
    "dockercomms.TooManyInformational": "too many informational answers (1xx)",
    "urllib3.ConnectTimeoutError": "no connection in time",
    "urllib3.ReadTimeoutError": "no answer in time",
    "builtins.TimeoutError": "no answer in time",
}

_WRONG_PORT = {"builtins.ConnectionRefusedError", "http.BadStatusLine"}
"""Where nothing has answered before, no registry is there."""


def _address(what: str, error: BaseException) -> DockerCommsError:
    return BadAnswer(f"{what}: not an address or header that can be sent: {error!s:.200}")


def _body(what: str, error: BaseException) -> DockerCommsError:
    return BadAnswer(f"{what}: the answer cannot be read: {error!s:.200}")


def _proxy(what: str, error: BaseException) -> DockerCommsError:
    return ConfigError(
        f"{what}: the proxy cannot be used: {error!s:.200}",
        hint=PROXY_HINT,
    )


def _proxy_failed(what: str, error: BaseException) -> DockerCommsError:
    """Tell what the proxy answered to CONNECT, or why no answer came: no fault of the registry."""
    for cause in _causes(error):
        answered = _TUNNEL.match(str(cause))
        if answered is not None:
            return proxy_refusal(what, int(answered[1]), answered[2])
    refused = any(isinstance(cause, ConnectionRefusedError) for cause in _causes(error))
    reason = _network(f"{what}: the proxy cannot be used", error)
    return ProxyError(reason.message, retryable=reason.retryable and not refused, hint=PROXY_HINT)


def proxy_refusal(what: str, status: int, reason: str) -> ProxyError:
    """Return the error for an answer that the proxy itself gave."""
    answer = f"{status} {reason}".strip()
    if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        return ProxyError(
            f"{what}: the proxy wants a login, or refuses the one it was given ({answer:.200})",
            retryable=False,
            hint="set HTTPS_PROXY (HTTP_PROXY for plain http) to http://USER:PASSWORD@HOST:PORT; "
            "write special characters of a password as %XX",
        )
    return ProxyError(
        f"{what}: the proxy opens no connection to the host: it answered {answer:.200}",
        retryable=status >= HTTPStatus.INTERNAL_SERVER_ERROR,
        hint=PROXY_HINT,
    )


def _redirected(what: str, _: BaseException) -> DockerCommsError:
    return BadAnswer(f"{what}: too many redirects")


_FOREIGN: dict[str, _Maker] = {
    "requests.ProxyError": _proxy_failed,
    "requests.ConnectionError": _network,
    "requests.Timeout": _network,
    "requests.ChunkedEncodingError": _network,
    "requests.RetryError": _network,
    "requests.HTTPError": _network,
    "requests.StreamConsumedError": _network,
    "requests.UnrewindableBodyError": _network,
    "requests.TooManyRedirects": _redirected,
    "requests.InvalidJSONError": _body,
    "requests.ContentDecodingError": _body,
    "requests.InvalidProxyURL": _proxy,
    "requests.InvalidSchema": _proxy,
    "requests.InvalidURL": _address,
    "requests.InvalidHeader": _address,
    "requests.MissingSchema": _address,
    "requests.URLRequired": _address,
    "urllib3.ProxyError": _proxy_failed,
    "urllib3.ProxySchemeUnknown": _proxy,
    "urllib3.ProxySchemeUnsupported": _proxy,
    "urllib3.LocationValueError": _address,
    "urllib3.InvalidHeader": _address,
    "urllib3.DecodeError": _body,
    "urllib3.HTTPError": _network,
    "http.HTTPException": _network,
}
"""Package and class name, found along the method resolution order, to what it becomes.

`InvalidSchema` is what requests says where a SOCKS proxy is set and PySocks is missing: our own
addresses are always http or https.
"""

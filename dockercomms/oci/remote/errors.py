"""The conversion of foreign errors and of refusing responses into errors of dockercomms.

`foreign_errors` is the only place that catches errors of urllib3, oras and the socket
layer. Its table `_FOREIGN` names them as text, so that no HTTP library is imported before it is
used; a test walks the libraries' exceptions and fails on one that the table does not have. oras has
one exception of its own, which it never raises (0.2.43; a test holds that).

`error_from_response` chooses the error for a response's status and body. It is here because
`dockercomms.errors` knows no responses.

Source: OCI distribution-spec v1.1.1, "Error Codes".
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import socket
from collections.abc import Callable, Iterator
from http import HTTPStatus
from urllib.parse import urlsplit

from dockercomms.errors import (
    OCI_ERROR_CLASSES,
    AuthError,
    BadAnswer,
    BlobUnknown,
    ConfigError,
    Denied,
    DockerCommsError,
    ManifestUnknown,
    NameUnknown,
    NetworkError,
    NotFoundError,
    ProxyError,
    RangeInvalid,
    RegistryError,
    TooManyRequests,
    Unauthorized,
    Unsupported,
    UploadUnknown,
)
from dockercomms.oci.remote.exchange import (
    SUCCESS,
    Response,
    read_up_to,
    redact_url,
    retry_after,
    unpacked,
)
from dockercomms.oci.remote.proxies import PROXY_HINT

MAX_ERROR_BODY_BYTES = 8192
"""The most bytes of an error's body that are read: several times the size of real ones."""

MAX_MESSAGE_CHARACTERS = 500
"""The longest part of a registry's own text in an error message."""

_PART_UNKNOWN = (ManifestUnknown, BlobUnknown, UploadUnknown)
"""Errors about missing content of an existing repository."""

_STATUS_CLASSES: dict[int, type[RegistryError]] = {
    HTTPStatus.UNAUTHORIZED: Unauthorized,
    HTTPStatus.FORBIDDEN: Denied,
    HTTPStatus.NOT_FOUND: NotFoundError,
    HTTPStatus.METHOD_NOT_ALLOWED: Unsupported,
    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE: RangeInvalid,
    HTTPStatus.TOO_MANY_REQUESTS: TooManyRequests,
    HTTPStatus.NOT_IMPLEMENTED: Unsupported,
}
"""The class for a status without an OCI code."""


def check_response(
    response: Response, *ok: int, not_found: type[NotFoundError] | None = None
) -> None:
    """Accept a response whose status is in `ok` (any 2xx if it is empty).

    Args:
        response: The response; closed if it is refused.
        ok: The accepted statuses.
        not_found: The class for a 404 of this request.

    Raises:
        RegistryError: any other status; the class follows code and status.
    """
    if response.status in (ok or SUCCESS):
        return
    error = error_from_response(response, not_found=not_found)
    response.close()
    raise error


def error_from_response(
    response: Response, *, not_found: type[NotFoundError] | None = None
) -> RegistryError:
    """Return the error for `response`; reads at most `MAX_ERROR_BODY_BYTES` of its body.

    The first known code decides the class; a JSON body is read with any content type. Without a
    code the status decides, and `not_found` is the class for a 404. 416 is always `RangeInvalid`,
    and a 404 is never an `AuthError`.
    """
    body = _body(response)
    too_large = len(body) > MAX_ERROR_BODY_BYTES
    body = body[:MAX_ERROR_BODY_BYTES]
    entries = () if too_large else _entries(body)
    code = next((entry[0] for entry in entries if entry[0] in OCI_ERROR_CLASSES), "")
    if not code and entries:
        code = entries[0][0]
    text = "; ".join(filter(None, (_entry_text(*entry) for entry in entries)))
    if not entries and not too_large:
        text = body.decode("utf-8", "replace")
    if response.status in _REDIRECTS and not entries:
        text = f"to {redact_url(response.headers.get('Location', ''))}"
    reason = _reason(response.status)
    url = redact_url(response.url)
    message = f"{response.method} {url}: {response.status} {reason}".rstrip()
    shown = "error body too large" if too_large else _printable(text)
    cls = _class_for(response, code, not_found)
    return cls(
        f"{message}: {shown}" if shown else message,
        code=code or cls.code,
        status=response.status,
        method=response.method,
        url=url,
        detail=next((entry[2] for entry in entries if entry[2]), ""),
        body=body,
        retry_after_seconds=retry_after(response),
        hint=_hint(OCI_ERROR_CLASSES.get(code, cls), response, url),
    )


def _body(response: Response) -> bytes:
    if response.method == "HEAD":
        return b""
    try:
        body = read_up_to(response, MAX_ERROR_BODY_BYTES + 1)
        return unpacked(response, body, MAX_ERROR_BODY_BYTES + 1)
    except (NetworkError, BadAnswer):
        # docker-registry 2.8 announces a body with some 416 and never sends it (measured)
        return b""


def _class_for(
    response: Response, code: str, not_found: type[NotFoundError] | None
) -> type[RegistryError]:
    status = response.status
    if status == HTTPStatus.BAD_REQUEST and response.method == "HEAD":
        return Unsupported
    if status < HTTPStatus.BAD_REQUEST:
        return BadAnswer  # a login page, or a redirect to one
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        return RangeInvalid
    cls = OCI_ERROR_CLASSES.get(code) or _STATUS_CLASSES.get(status, RegistryError)
    if status == HTTPStatus.NOT_FOUND and issubclass(cls, AuthError):
        cls = NotFoundError  # some registries answer 404 to hide content from strangers
    # Registries name the wrong missing object: ggcr says NAME_UNKNOWN for a missing tag's index,
    # others MANIFEST_UNKNOWN for a blob. The request tells the object, except for NAME_UNKNOWN.
    if not_found is not None and issubclass(cls, NotFoundError) and cls is not NameUnknown:
        return not_found
    return cls


def _entries(body: bytes) -> tuple[tuple[str, str, str], ...]:
    """Return code, message and detail of each OCI error in `body`, empty for other text."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return ()
    errors = value.get("errors") if isinstance(value, dict) else None
    if not isinstance(errors, list):
        return ()
    out = []
    for item in errors:
        if isinstance(item, dict):
            code, message = item.get("code"), item.get("message")
            detail = item.get("detail")
            out.append(
                (
                    code if isinstance(code, str) else "",
                    message if isinstance(message, str) else "",
                    "" if detail is None else json.dumps(detail)[:MAX_MESSAGE_CHARACTERS],
                )
            )
    return tuple(out)


def _entry_text(code: str, message: str, detail: str) -> str:
    """Return the text of one error; often only its detail tells the cause (GitLab, Harbor)."""
    name = code.replace("_", " ").lower()
    if message.lower() == name:
        message = ""
    said = ": ".join(filter(None, (name, message)))
    more = "" if detail in _NO_DETAIL else detail.strip('"')
    return f"{said} ({more})" if said and more and more not in said else said or more


_NO_DETAIL = ("", '""', "{}", "[]")


def _printable(text: str) -> str:
    """Return a registry's text on one line, short, without control characters."""
    text = " ".join(text[: 2 * MAX_MESSAGE_CHARACTERS].split())
    return "".join(char if char.isprintable() else "?" for char in text)[:MAX_MESSAGE_CHARACTERS]


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase.lower()
    except ValueError:
        return ""


_REDIRECTS = range(300, 400)
_IMMUTABLE = frozenset({409, 412})
_WRITES = frozenset({"POST", "PUT", "PATCH"})


def _hint(cls: type[RegistryError], response: Response, url: str) -> str | None:
    host, is_write = urlsplit(url).netloc, response.method in _WRITES
    if is_write and issubclass(cls, NotFoundError) and not issubclass(cls, _PART_UNKNOWN):
        return (
            f"some registries make no repository by themselves: create it at {host} first (ECR: "
            "aws ecr create-repository; Harbor: the project), and check its name in --repo"
        )
    if issubclass(cls, AuthError):
        login = f"log in with `docker login {host}`, or give --username and --password-stdin"
        if is_write:
            login += (
                "; the login needs the right to push, and some registries say this of a "
                "repository or project that has to be created first"
            )
        if response.method == "DELETE":
            login += (
                "; deleting needs a right of its own, and Docker Hub and Google refuse to delete "
                "what has tags: delete those first"
            )
        return login
    if response.status in _IMMUTABLE and response.method == "PUT":
        return "a rule at the registry keeps this tag where it is: take another, or change the rule"
    if cls is TooManyRequests:
        return "wait a while, or log in: many registries allow more to users they know"
    return None


_MAX_CAUSES = 20
"""The depth to which a chain of exceptions is followed: real ones have up to six links."""

_TUNNEL = re.compile(r"Tunnel connection failed: ([1-5][0-9]{2}) ?(.*)")
"""`http.client` has the answer to CONNECT in this text alone; a test holds it on each Python."""

_Maker = Callable[[str, BaseException], DockerCommsError]


@contextlib.contextmanager
def foreign_errors(what: str) -> Iterator[None]:
    """Raise our error for every error of the network and of its libraries in the block.

    Args:
        what: The request, for the message: method and address without its query.

    Raises:
        NetworkError: the connection failed; not `retryable` if another try cannot help.
        ProxyError: the proxy refused, or could not be reached.
        BadAnswer: the registry sent an unusable address or body.
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

    import urllib3.exceptions  # noqa: PLC0415 - loaded with the first request

    # Some of urllib3's are only ValueErrors
    return OSError, ValueError, http.client.HTTPException, urllib3.exceptions.HTTPError


def error_from_exception(error: BaseException, what: str) -> DockerCommsError | None:
    """Return our error for a foreign one, `None` if it is no error of the network."""
    for cls in type(error).__mro__:
        maker = _FOREIGN.get(f"{cls.__module__.partition('.')[0]}.{cls.__name__}")
        if maker is not None:
            return maker(what, error)
    return _network(what, error) if isinstance(error, OSError) else None


def _network(what: str, error: BaseException) -> NetworkError:
    """Return the error for the innermost cause, which decides whether a retry may help."""
    for cause in _causes(error):
        name = f"{type(cause).__module__.partition('.')[0]}.{type(cause).__name__}"
        if name in _TLS:
            return _tls(what, cause)
        if isinstance(cause, socket.gaierror):
            # EAI_AGAIN is a failure of the resolver; every other result is final
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
    """Yield `error` and its causes, the innermost first."""
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
    # The connection broke inside TLS; the certificate was not refused
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
"""Before the first response, these mean that no registry listens on this port."""


def _address(what: str, error: BaseException) -> DockerCommsError:
    return BadAnswer(f"{what}: not an address or header that can be sent: {error!s:.200}")


def _unreadable_body(what: str, error: BaseException) -> DockerCommsError:
    return BadAnswer(f"{what}: the answer cannot be read: {error!s:.200}")


def _proxy(what: str, error: BaseException) -> DockerCommsError:
    return ConfigError(
        f"{what}: the proxy cannot be used: {error!s:.200}",
        hint=PROXY_HINT,
    )


def _proxy_failed(what: str, error: BaseException) -> DockerCommsError:
    """Return the error for the proxy's answer to CONNECT, or for its absence."""
    for cause in _causes(error):
        answered = _TUNNEL.match(str(cause))
        if answered is not None:
            return proxy_refusal(what, int(answered[1]), answered[2])
    refused = any(isinstance(cause, ConnectionRefusedError) for cause in _causes(error))
    reason = _network(f"{what}: the proxy cannot be used", error)
    return ProxyError(reason.message, retryable=reason.retryable and not refused, hint=PROXY_HINT)


def proxy_refusal(what: str, status: int, reason: str) -> ProxyError:
    """Return the error for a response of the proxy itself."""
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


_FOREIGN: dict[str, _Maker] = {
    "urllib3.ProxyError": _proxy_failed,
    "urllib3.ProxySchemeUnknown": _proxy,
    "urllib3.ProxySchemeUnsupported": _proxy,
    "urllib3.LocationValueError": _address,
    "urllib3.InvalidHeader": _address,
    "urllib3.DecodeError": _unreadable_body,
    "urllib3.HTTPError": _network,
    "http.HTTPException": _network,
}
"""The conversion for each package and class name, searched along the method resolution order."""

"""Every exception of requests and urllib3 becomes one of ours."""

from __future__ import annotations

import errno
import http.client
import inspect
import socket
import ssl

import pytest
import urllib3.exceptions

from dockercomms.errors import BadAnswer, ConfigError, DockerCommsError, NetworkError
from dockercomms.oci.remote import errors as failures
from dockercomms.oci.remote.errors import error_from_exception, foreign_errors

WHAT = "GET http://h.example/v2/"


def classes(module: object) -> list[type[Exception]]:
    found = [
        item
        for _, item in inspect.getmembers(module, inspect.isclass)
        if issubclass(item, Exception) and not issubclass(item, Warning)
    ]
    return [item for item in found if item.__module__.partition(".")[0] in {"requests", "urllib3"}]


def bare(cls: type[Exception]) -> Exception:
    """An instance without the arguments that some of these insist on."""
    return cls.__new__(cls)


@pytest.mark.parametrize(
    "cls",
    [
        *(cls for cls in classes(urllib3.exceptions) if cls.__name__ != "RequestException"),
        *classes(urllib3.exceptions),
        http.client.HTTPException,
        http.client.IncompleteRead,
    ],
    ids=lambda cls: f"{cls.__module__}.{cls.__name__}",
)
def test_error_from_exception_knows_every_class(cls):
    names = [f"{base.__module__.partition('.')[0]}.{base.__name__}" for base in cls.__mro__]
    assert any(name in failures._FOREIGN for name in names), f"{cls} is in no table"
    assert isinstance(error_from_exception(bare(cls), WHAT), DockerCommsError)


@pytest.mark.parametrize(
    ("cause", "text", "retryable"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "x"), "connection refused", True),
        (ConnectionResetError(errno.ECONNRESET, "x"), "connection reset", True),
        (BrokenPipeError(errno.EPIPE, "x"), "connection closed by the server", True),
        (http.client.RemoteDisconnected("x"), "connection closed by the server", True),
        (http.client.BadStatusLine("x"), "the answer is not HTTP", True),
        (TimeoutError("x"), "no answer in time", True),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "no route to host", True),
        (socket.gaierror(socket.EAI_NONAME, "x"), "host name not found", False),
        (socket.gaierror(socket.EAI_AGAIN, "x"), "host name not found", True),
        (ssl.SSLError(1, "x"), "TLS: failed", False),
        (ssl.SSLEOFError(8, "x"), "TLS: failed", True),
        (
            ssl.SSLCertVerificationError(1, "x"),
            "the server's certificate is refused: not trusted",
            False,
        ),
    ],
)
def test_error_from_exception_looks_for_the_innermost_cause(cause, text, retryable):
    outer = urllib3.exceptions.ProtocolError("x", cause)
    error = error_from_exception(outer, WHAT)
    assert isinstance(error, NetworkError)
    assert error.message == f"{WHAT}: {text}"
    assert error.retryable is retryable


def test_error_from_exception_without_a_cause_says_what_is_known():
    error = error_from_exception(urllib3.exceptions.HTTPError("x"), WHAT)
    assert error is not None
    assert error.message == f"{WHAT}: connection failed"


def test_error_from_exception_endless_chains_end():
    first, second = urllib3.exceptions.HTTPError("a"), ConnectionError("b")
    first.__cause__, second.__cause__ = second, first
    assert isinstance(error_from_exception(first, WHAT), NetworkError)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (urllib3.exceptions.ProxySchemeUnknown("socks5"), ConfigError),
        (urllib3.exceptions.ProxySchemeUnsupported("x"), ConfigError),
        (urllib3.exceptions.LocationParseError("x"), BadAnswer),
        (urllib3.exceptions.InvalidHeader("x"), BadAnswer),
        (urllib3.exceptions.DecodeError("x"), BadAnswer),
    ],
)
def test_error_from_exception_what_the_network_is_innocent_of(error, kind):
    assert type(error_from_exception(error, WHAT)) is kind


def test_error_from_exception_leaves_other_errors_alone():
    assert error_from_exception(KeyError("x"), WHAT) is None
    assert error_from_exception(ValueError("x"), WHAT) is None


def test_foreign_errors_raises_ours_from_theirs():
    theirs = urllib3.exceptions.ReadTimeoutError(None, "/", "x")
    with pytest.raises(NetworkError) as caught, foreign_errors(WHAT):
        raise theirs
    assert caught.value.__cause__ is theirs


def test_foreign_errors_leaves_mistakes_alone():
    with pytest.raises(ValueError, match="mine"), foreign_errors(WHAT):
        raise ValueError("mine")
    with pytest.raises(BadAnswer), foreign_errors(WHAT):
        raise BadAnswer("ours already")

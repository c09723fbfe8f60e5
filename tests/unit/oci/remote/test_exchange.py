"""Requests and responses in values."""

from __future__ import annotations

import io

import pytest

from dockercomms.errors import BadAnswer, IntegrityError, NameInvalid, NetworkError
from dockercomms.oci.auth.token import Scope
from dockercomms.oci.remote.exchange import (
    Request,
    api_path,
    body_of,
    fetch,
    origin,
    read_up_to,
    redact_url,
)
from dockercomms.oci.remote.retry import RetryPolicy
from tests.fakes.clock import FakeClock


class Answer:
    """A response out of memory, which gives its body in small pieces."""

    def __init__(self, body=b"", *, method="GET", status=200, breaks=False, **headers):
        self.method, self.status = method, status
        self.url = "https://h.example/v2/x?secret=1"
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.closed = False
        self._body, self._breaks = io.BytesIO(body), breaks

    def read(self, size=-1, /):
        data = self._body.read(min(size, 7) if size >= 0 else -1)
        if not data and self._breaks:
            raise NetworkError("broken")
        return data

    def close(self):
        self.closed = True


class Sender:
    def __init__(self, *answers, retry):
        self.answers, self.retry, self.clock = list(answers), retry, FakeClock()
        self.requests = []

    def send(self, request):
        self.requests.append(request)
        return self.answers.pop(0)

    def adopt(self, url):
        return url


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://u:p@h.example:5/v2/x?a=b#c", "https://h.example:5/v2/x"),
        ("/v2/x?a=b", "/v2/x"),
        ("https://h.example", "https://h.example"),
        ("http://u:p@[::1/v2/x?a=b#c", "http://[::1/v2/x"),
        ("http://[::1#c?a=b", "http://[::1"),
        ("//[", "//["),
    ],
)
def test_redact_url_leaves_host_and_path(url, expected):
    assert redact_url(url) == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://H.example/x", ("https", "h.example", 443)),
        ("https://h.example:443/x", ("https", "h.example", 443)),
        ("http://h.example", ("http", "h.example", 80)),
        ("http://h.example:8080", ("http", "h.example", 8080)),
        ("https://[::1]:5000/", ("https", "::1", 5000)),
        ("ftp://h.example", ("ftp", "h.example", None)),
    ],
)
def test_origin_is_scheme_host_and_port(url, expected):
    assert origin(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "https://h.example:port/",
        "https://h.example:99999/",
        "https://h.example:-1/",
        "http://[::1/v2/",
        "https:///v2/",
        "https://:5000/",
        "https://h..example/",
        "https://.example/",
        f"https://{'n' * 64}.example/",
        "https://h\0.example/",
        "https://h\xad\u2488.example/",
    ],
)
def test_origin_of_nonsense_is_refused(url):
    with pytest.raises(BadAnswer, match="not an address"):
        origin(url)


def test_api_path_wants_a_repository():
    assert api_path("team/box", "tags", "list") == "/v2/team/box/tags/list"
    with pytest.raises(NameInvalid):
        api_path("../x", "tags")


def test_body_of_reads_all_and_closes():
    answer = Answer(b"x" * 20)
    assert body_of(answer, 20) == b"x" * 20
    assert answer.closed


def test_body_of_is_bounded():
    answer = Answer(b"x" * 21)
    with pytest.raises(BadAnswer, match=r"https://h\.example/v2/x: answer larger than 20"):
        body_of(answer, 20)
    assert answer.closed
    with pytest.raises(IntegrityError):
        body_of(Answer(b"x" * 21), 20, too_large=IntegrityError)


def test_body_of_closes_what_breaks():
    answer = Answer(b"x" * 9, breaks=True)
    with pytest.raises(NetworkError):
        body_of(answer, 20)
    assert answer.closed


def test_read_up_to_stops():
    assert read_up_to(Answer(b"x" * 20), 10) == b"x" * 10
    assert read_up_to(Answer(b"x" * 5), 10) == b"x" * 5


def test_fetch_retries_what_breaks_in_the_body():
    request = Request(method="GET", url="/v2/x", scope=Scope.pull("x"))
    sender = Sender(Answer(b"ab", breaks=True), Answer(b"abc"), retry=RetryPolicy.requests())
    response, data = fetch(sender, request, 100)
    assert data == b"abc"
    assert response.closed
    assert len(sender.clock.sleeps) == 1
    # the requests themselves are not retried a second time below
    assert all(sent.retry == RetryPolicy.none() for sent in sender.requests)


def test_fetch_uses_the_requests_own_policy():
    request = Request(method="GET", url="/v2/x", scope=Scope.pull("x"), retry=RetryPolicy.none())
    sender = Sender(Answer(breaks=True), retry=RetryPolicy.requests())
    with pytest.raises(NetworkError):
        fetch(sender, request, 100)
    assert len(sender.requests) == 1

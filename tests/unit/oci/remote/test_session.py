"""One exchange: where it goes, and what comes back."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

import pytest

from dockercomms import __version__
from dockercomms.errors import (
    ConfigError,
    ManifestUnknown,
    NetworkError,
    RegistryError,
    TooManyRequests,
    UsageError,
)
from dockercomms.oci.remote.retry import RateLimiter
from dockercomms.oci.remote.session import Endpoint
from tests.fakes.clock import FakeClock
from tests.fakes.scripted import Drop, Reply, ScriptedServer
from tests.unit.oci.sessions import pull, session


@pytest.mark.parametrize(
    ("host", "plain_http", "ca_file", "expected"),
    [
        ("registry.example", None, None, "https://registry.example"),
        ("registry.example:5000", None, None, "https://registry.example:5000"),
        ("registry.example", True, None, "http://registry.example"),
        ("registry", None, None, "https://registry"),
        ("docker.io", None, None, "https://registry-1.docker.io"),
        ("localhost", None, None, "http://localhost"),
        ("localhost:5000", None, None, "http://localhost:5000"),
        ("box.localhost:5000", None, None, "http://box.localhost:5000"),
        ("127.0.0.1:5000", None, None, "http://127.0.0.1:5000"),
        ("[::1]:5000", None, None, "http://[::1]:5000"),
        ("localhost:5000", False, None, "https://localhost:5000"),
        ("localhost:5000", None, "ca.pem", "https://localhost:5000"),
        ("127.0.0.1.example", None, None, "https://127.0.0.1.example"),
    ],
)
def test_endpoint_speaks_http_only_to_loopback_or_when_told(host, plain_http, ca_file, expected):
    assert Endpoint(host=host, plain_http=plain_http, ca_file=ca_file).base_url == expected


@pytest.mark.parametrize(
    "host", ["", "host/path", "http://host", "user@host", "ho st", "host:abc", "host?x", "host:0"]
)
def test_endpoint_refuses_what_is_no_host(host):
    with pytest.raises(UsageError, match="not a registry host"):
        Endpoint(host=host)


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_endpoint_refuses_a_time_limit_that_is_not_positive(seconds):
    with pytest.raises(UsageError, match="timeout"):
        Endpoint(host="h.example", timeout=seconds)


def test_session_sends_its_headers_and_no_cookie():
    with (
        ScriptedServer(Reply(200, headers={"Set-Cookie": "a=b; Path=/"}), Reply(200)) as server,
        session(server.host, user_agent="me/1") as one,
    ):
        one.send(pull(headers={"Accept": "text/plain"})).close()
        one.send(pull()).close()
    first, second = server.requests
    assert first.headers["user-agent"] == "me/1"
    assert first.headers["accept-encoding"] == "identity"
    assert first.headers["accept"] == "text/plain"
    assert second.headers["accept"] == "*/*"
    assert "expect" not in first.headers
    assert "cookie" not in second.headers
    assert "authorization" not in first.headers


def test_session_default_user_agent_names_the_version():
    with ScriptedServer(Reply(200)) as server, session(server.host) as one:
        one.send(pull()).close()
    assert server.requests[0].headers["user-agent"] == f"dockercomms/{__version__}"


def test_session_uses_a_connection_again_whatever_was_left_of_an_answer():
    replies = [Reply(202), Reply(404, b"x" * 20_000), Reply(200, b"y" * 5000), Reply(200)]
    with ScriptedServer(*replies) as server, session(server.host) as one:
        one.send(pull(method="POST")).close()
        with pytest.raises(RegistryError):
            one.send(pull())
        one.send(pull()).close()
        one.send(pull(method="HEAD")).close()
    assert {seen.connection for seen in server.requests} == {0}


def test_session_does_not_read_a_large_answer_that_nobody_wants():
    with ScriptedServer(Reply(200, b"x" * 300_000), Reply(200)) as server:
        with session(server.host) as one:
            one.send(pull()).close()
            one.send(pull()).close()
        assert [seen.connection for seen in server.requests] == [0, 1]


def test_session_ignores_proxies_for_loopback(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with ScriptedServer(Reply(200)) as server, session(server.host) as one:
        assert one.send(pull()).status == 200


def test_session_goes_through_the_proxy_for_other_hosts(monkeypatch):
    with ScriptedServer(Reply(200, b"via proxy")) as proxy:
        monkeypatch.setenv("http_proxy", f"http://{proxy.host}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        with session("registry.example", plain_http=True) as one:
            assert one.send(pull()).read() == b"via proxy"
    assert proxy.requests[0].target == "http://registry.example/v2/a/b/manifests/t"


def test_session_proxy_settings_that_cannot_be_used_are_a_configuration_error(monkeypatch):
    monkeypatch.setenv("http_proxy", "nonsense://x:y:z")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with (
        session("registry.example", plain_http=True) as one,
        pytest.raises(ConfigError, match="proxy"),
    ):
        one.send(pull())


def test_session_returns_wanted_statuses_and_raises_the_others():
    with ScriptedServer(Reply(404), Reply(404), Reply(204)) as server:
        with session(server.host) as one:
            assert one.send(pull(ok=(200, 404))).status == 404
            with pytest.raises(ManifestUnknown) as caught:
                one.send(pull(not_found=ManifestUnknown))
            assert one.send(pull()).status == 204
        assert caught.value.status == 404
        assert caught.value.method == "GET"
        assert caught.value.url == f"{server.url}/v2/a/b/manifests/t"


def test_session_keeps_the_registrys_clock():
    clock = FakeClock()
    with ScriptedServer(
        Reply(200, headers={"Date": "Fri, 20 Nov 2026 20:44:40 GMT"}),
        Reply(200, headers={"Date": "rubbish"}),
        Reply(200),
    ) as server:
        with session(server.host, clock=clock) as one:
            assert one.server_time() is None
            one.send(pull()).close()
            noted = datetime(2026, 11, 20, 20, 44, 40, tzinfo=UTC)
            assert one.server_time() == noted
            one.send(pull()).close()
            one.send(pull()).close()
            clock.advance(90)
            assert one.server_time() == noted + timedelta(seconds=90)


def test_session_logs_without_queries_or_headers(caplog):
    caplog.set_level(logging.DEBUG, logger="dockercomms.oci")
    with ScriptedServer(Reply(200)) as server, session(server.host, debug_id="id7: ") as one:
        one.send(pull("/v2/a/b/blobs/uploads/1?_state=secret")).close()
        url = server.url
    line = next(r.getMessage() for r in caplog.records if r.name == "dockercomms.oci")
    assert line.startswith(f"id7: GET {url}/v2/a/b/blobs/uploads/1: 200 in ")
    assert "secret" not in line


def test_session_errors_have_no_query():
    with ScriptedServer(Reply(400), Drop()) as server, session(server.host) as one:
        with pytest.raises(RegistryError) as caught:
            one.send(pull("/v2/x?token=secret"))
        assert "secret" not in str(caught.value) + caught.value.url
        with pytest.raises(NetworkError) as broken:
            one.send(pull("/v2/x?token=secret"))
        assert "secret" not in str(broken.value)


def test_session_asks_the_limiter_and_drains_it_after_429():
    clock = FakeClock()
    limiter = RateLimiter(1, 100, clock=clock)
    with ScriptedServer(Reply(200), Reply(429), Reply(200)) as server:
        with session(server.host, clock=clock, limiter=limiter) as one:
            one.send(pull()).close()
            assert clock.sleeps == []
            with pytest.raises(TooManyRequests):
                one.send(pull())
            one.send(pull()).close()
    assert clock.sleeps == [1.0]

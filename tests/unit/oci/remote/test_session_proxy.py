"""A proxy that refuses, fails or is away is what the error names, and never by its password."""

from __future__ import annotations

import logging

import pytest

from dockercomms.errors import Denied, NetworkError, ProxyError
from dockercomms.oci.remote.retry import RetryPolicy
from tests.fakes.clock import FakeClock
from tests.fakes.scripted import Drop, Reply, ScriptedServer
from tests.unit.oci.sessions import pull, session


@pytest.fixture
def setting(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


@pytest.mark.parametrize("plain_http", [True, False], ids=["http", "https"])
@pytest.mark.parametrize(
    ("step", "text", "tries"),
    [
        (Reply(407), r"the proxy wants a login.*\(407", 1),
        (Drop(reset=True), "connection reset", 2),
    ],
)
def test_session_names_the_proxy_that_refuses(setting, caplog, plain_http, step, text, tries):
    retry = RetryPolicy(max_attempts=2, retry_connection=True, initial=0)
    caplog.set_level(logging.DEBUG)
    with ScriptedServer(rest=step) as proxy:
        host = proxy.host
        setting.setenv("all_proxy", f"http://ann:hush@{host}")
        with session("registry.example", plain_http=plain_http, retry=retry) as one:
            with pytest.raises(NetworkError, match=text) as caught:
                one.send(pull())
    assert f"through the proxy {host}: " in caught.value.message
    assert proxy.requests[0].headers["proxy-authorization"] == "Basic YW5uOmh1c2g="
    assert len(proxy.requests) == caught.value.attempts == tries
    chain = [caught.value, caught.value.__cause__, caught.value.__context__]
    assert "hush" not in f"{chain} {caught.value.hint} {caplog.text}"


@pytest.mark.parametrize(
    ("status", "tries"), [(403, 1), (404, 1), (407, 1), (502, 2), (503, 2), (504, 2)]
)
def test_session_tells_what_the_proxy_answered_to_connect(setting, status, tries):
    # the standard library has the answer in the text of its error alone, on every Python
    retry = RetryPolicy(max_attempts=2, retry_connection=True, initial=0)
    with ScriptedServer(rest=Reply(status)) as proxy:
        setting.setenv("https_proxy", proxy.host)
        with session("registry.example", retry=retry) as one:
            with pytest.raises(ProxyError, match=f"{status}") as caught:
                one.send(pull())
    assert [seen.method for seen in proxy.requests] == ["CONNECT"] * tries
    assert caught.value.exit_code == 6
    assert "PROXY" in caught.value.hint


@pytest.mark.parametrize("plain_http", [True, False], ids=["http", "https"])
def test_session_proxy_that_is_away_is_asked_once(setting, plain_http):
    with ScriptedServer() as proxy:
        host = proxy.host
    setting.setenv("all_proxy", host)
    clock = FakeClock()
    before = clock.monotonic()
    with session(
        "registry.example", plain_http=plain_http, retry=RetryPolicy.requests(), clock=clock
    ) as one:
        with pytest.raises(ProxyError, match=f"{host}: the proxy cannot be used: connection ref"):
            one.send(pull())
    assert clock.monotonic() == before


def test_session_proxy_whose_name_is_unknown_is_named(setting):
    setting.setenv("https_proxy", "http://ann:hush@no-such-host.invalid:3128")
    with session("registry.example") as one:
        with pytest.raises(ProxyError, match=r"no-such-host\.invalid:3128: .*not found") as caught:
            one.send(pull())
    assert caught.value.hint == "look at HTTPS_PROXY, HTTP_PROXY and NO_PROXY"


def test_session_exempt_host_is_asked_without_the_proxy(setting):
    setting.setenv("all_proxy", "http://127.0.0.1:9")
    setting.setenv("NO_PROXY", "*.invalid:80")
    with session("registry.invalid", plain_http=True) as one:
        with pytest.raises(NetworkError, match="host name not found") as caught:
            one.send(pull())
    assert not isinstance(caught.value, ProxyError)
    assert "proxy" not in caught.value.message


@pytest.mark.parametrize("plain_http", [True, False], ids=["http", "https"])
def test_session_trusts_the_proxys_certificate_as_a_registrys(setting, tmp_path, plain_http):
    with ScriptedServer(rest=Reply(403, b"go away"), tls=True) as proxy:
        setting.setenv("all_proxy", f"https://ann:hush@{proxy.host}")
        with session("registry.example", plain_http=plain_http) as one:
            with pytest.raises(ProxyError, match="certificate is refused"):
                one.send(pull())
        authority = tmp_path / "ca.pem"
        proxy.authority.cert_pem.write_to_path(str(authority))
        with session("registry.example", plain_http=plain_http, ca_file=str(authority)) as one:
            with pytest.raises((Denied, ProxyError), match=r"go away|answered 403"):
                one.send(pull())


def test_session_login_for_the_proxy_may_hold_any_character(setting):
    with ScriptedServer(Reply(200)) as proxy:
        setting.setenv("http_proxy", f"http://ann:p%C3%A4%E2%82%AC@{proxy.host}")
        with session("registry.example", plain_http=True) as one:
            one.send(pull()).close()
    assert proxy.requests[0].headers["proxy-authorization"] == "Basic YW5uOnDDpOKCrA=="

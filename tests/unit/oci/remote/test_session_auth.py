"""The hosts that get the credentials, and those that do not."""

from __future__ import annotations

import threading

import pytest

from dockercomms.errors import (
    AuthError,
    BadAnswer,
    Denied,
    NetworkError,
    RegistryError,
    Unauthorized,
)
from dockercomms.oci.auth.credentials import Credentials
from dockercomms.oci.auth.token import Scope
from dockercomms.oci.remote.exchange import ANY_STATUS
from dockercomms.oci.remote.retry import RetryPolicy
from tests.fakes.registry import FakeRegistry, Quirks
from tests.fakes.scripted import Reply, ScriptedServer
from tests.fakes.token_server import TokenServer, User
from tests.unit.oci.sessions import ANN, pull, session


def test_session_answers_basic_once_and_then_sends_it_at_once():
    with FakeRegistry(Quirks(auth="basic"), users={"ann": "secret"}) as registry:
        with session(registry.host, credentials=ANN) as one:
            for _ in range(3):
                one.send(pull("/v2/", ok=ANY_STATUS)).close()
        assert [record.status for record in registry.requests] == [401, 200, 200, 200]


def test_session_wrong_password_is_tried_once():
    with FakeRegistry(Quirks(auth="basic"), users={"ann": "secret"}) as registry:
        wrong = Credentials(username="ann", password="wrong")
        with (
            session(registry.host, credentials=wrong, retry=RetryPolicy.requests()) as one,
            pytest.raises(Unauthorized) as caught,
        ):
            one.send(pull())
        assert registry.count() == 2
    assert caught.value.exit_code == 3
    assert caught.value.hint is not None


def test_session_wrong_password_asks_one_token():
    users = {"ann": User("secret")}
    with (
        TokenServer(users=users) as tokens,
        FakeRegistry(
            Quirks(auth="token"), realm=tokens.realm, check_token=tokens.claims
        ) as registry,
    ):
        wrong = Credentials(username="ann", password="wrong")
        with (
            session(registry.host, credentials=wrong, retry=RetryPolicy.requests()) as one,
            pytest.raises(AuthError) as caught,
        ):
            one.send(pull())
        assert tokens.count() == 1
    assert caught.value.exit_code == 3


def test_session_gets_a_token_for_each_scope():
    users = {"ann": User("secret")}
    with (
        TokenServer(users=users) as tokens,
        FakeRegistry(
            Quirks(auth="token"), realm=tokens.realm, check_token=tokens.claims
        ) as registry,
        session(registry.host, credentials=ANN) as one,
    ):
        for _ in range(2):
            one.send(pull("/v2/a/b/tags/list", ok=ANY_STATUS)).close()
            one.send(pull("/v2/a/b/blobs/uploads/", method="POST", scope=Scope.push("a/b"))).close()
            one.send(pull("/v2/c/d/blobs/uploads/", method="POST", scope=Scope.push("c/d"))).close()
        assert tokens.count() == 3


def test_session_token_is_shared_by_threads():
    users = {"ann": User("secret")}
    with (
        TokenServer(users=users) as tokens,
        FakeRegistry(
            Quirks(auth="token"), realm=tokens.realm, check_token=tokens.claims
        ) as registry,
        session(registry.host, credentials=ANN) as one,
    ):
        statuses = []

        def work() -> None:
            response = one.send(
                pull("/v2/a/b/blobs/uploads/", method="POST", scope=Scope.push("a/b"))
            )
            statuses.append(response.status)
            response.close()

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert statuses == [202] * 8
        assert tokens.count() == 1


def test_session_refused_token_server_leaves_no_connection_open():
    with (
        ScriptedServer(
            Reply(401, b"x" * 100_000, {"WWW-Authenticate": 'Bearer realm="http://evil.example/t"'})
        ) as server,
        session(server.host, plain_http=None, credentials=ANN) as one,
    ):
        # a loopback registry may name a realm without TLS, so that the host is what fails
        with pytest.raises((AuthError, NetworkError)):
            one.send(pull())


def test_session_netrc_never_replaces_our_header(tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login eve password stolen\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with FakeRegistry(Quirks(auth="basic"), users={"ann": "secret"}) as registry:
        with session(registry.host, credentials=ANN) as one:
            assert one.send(pull("/v2/")).status == 200
        first, second = registry.requests
        assert "authorization" not in first.headers
        assert second.headers["authorization"] == ANN.basic_header()


def test_session_credentials_stay_at_the_registry():
    """Neither a redirect nor an absolute address elsewhere gets them."""
    with (
        ScriptedServer(rest=Reply(200, b"elsewhere")) as other,
        ScriptedServer(
            Reply(401, headers={"WWW-Authenticate": "Basic realm=r"}),
            Reply(307, headers={"Location": f"{other.url}/signed?x=1"}),
        ) as server,
        session(server.host, credentials=ANN) as one,
    ):
        response = one.send(pull("/v2/a/b/blobs/x", redirects=True, headers={"Range": "bytes=1-"}))
        assert response.read() == b"elsewhere"
        one.send(pull(f"{other.url}/v2/a/b/blobs/uploads/1", method="PATCH", body=b"x")).close()
    assert "authorization" in server.requests[1].headers
    assert other.requests[0].target == "/signed?x=1"
    assert other.requests[0].headers["range"] == "bytes=1-"
    for seen in other.requests:
        assert "authorization" not in seen.headers


def test_session_does_not_answer_the_challenge_of_another_host():
    challenge = Reply(401, headers={"WWW-Authenticate": "Basic realm=r"})
    with (
        ScriptedServer(rest=challenge) as other,
        ScriptedServer() as server,
        session(server.host, credentials=ANN) as one,
        pytest.raises(Unauthorized),
    ):
        one.send(pull(f"{other.url}/v2/"))
    assert len(other.requests) == 1
    assert "authorization" not in other.requests[0].headers


def test_session_follows_redirects_only_where_asked():
    with ScriptedServer(rest=Reply(307, headers={"Location": "/v2/other"})) as server:
        with session(server.host) as one:
            with pytest.raises(RegistryError) as caught:
                one.send(pull())
            assert caught.value.status == 307
            assert len(server.requests) == 1
            with pytest.raises(RegistryError) as caught:
                one.send(pull(redirects=True))
            assert caught.value.status == 307
            assert len(server.requests) == 1 + 6


def test_session_redirect_without_an_address_is_refused():
    with (
        ScriptedServer(Reply(307)) as server,
        session(server.host) as one,
        pytest.raises(BadAnswer, match="no Location"),
    ):
        one.send(pull(redirects=True))


def test_session_never_leaves_tls_for_an_address_from_an_answer():
    with session("registry.example") as one:
        assert one.adopt("https://cdn.example/x?y") == "https://cdn.example/x?y"
        # TLS ends in front of the registry, which does not know it
        assert one.adopt("http://registry.example/v2/x?y") == "https://registry.example/v2/x?y"
        for url in ("http://cdn.example/x", "ftp://registry.example/x", "file:///etc/passwd"):
            with pytest.raises(BadAnswer, match="refused"):
                one.adopt(url)
    with session("registry.example", plain_http=True) as one:
        assert one.adopt("http://cdn.example/x") == "http://cdn.example/x"
        with pytest.raises(BadAnswer):
            one.adopt("gopher://cdn.example/x")


def test_session_another_port_is_another_origin():
    with (
        ScriptedServer(rest=Reply(200)) as other,
        FakeRegistry(Quirks(auth="basic"), users={"ann": "secret"}) as registry,
        session(registry.host, credentials=ANN) as one,
    ):
        one.send(pull("/v2/")).close()
        one.send(pull(f"http://{other.host}/v2/")).close()
        one.send(pull(f"{registry.url}/v2/")).close()
        assert "authorization" in registry.requests[-1].headers
    assert "authorization" not in other.requests[0].headers


def test_session_denied_is_an_auth_error():
    with ScriptedServer(Reply(403)) as server, session(server.host) as one:
        with pytest.raises(Denied) as caught:
            one.send(pull())
    assert caught.value.exit_code == 3

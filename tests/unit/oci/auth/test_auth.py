from __future__ import annotations

import base64
import inspect
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from dockercomms.errors import (
    AuthError,
    BadAnswer,
    Denied,
    NetworkError,
    TooManyRequests,
    Unauthorized,
)
from dockercomms.oci.auth import auth
from dockercomms.oci.auth.auth import BACKEND_NAME, Authenticator, scoped_auth_class
from dockercomms.oci.auth.credentials import Credentials
from dockercomms.oci.auth.token import Scope, TokenRequest, TokenResponse
from tests.fakes.clock import FakeClock
from tests.fakes.token_exchange import exchange
from tests.fakes.token_server import TokenServer, User

ANN = Credentials(username="ann", password="secret", source="config.json")
PULL, PUSH = Scope.pull("team/box"), Scope.push("team/box")
BASIC = "Basic " + base64.b64encode(b"ann:secret").decode()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def server(clock: FakeClock) -> Iterator[TokenServer]:
    users = {"ann": User("secret"), "bob": User("b", {"team/*": frozenset({"pull"})})}
    with TokenServer(users=users, clock=clock) as running:
        yield running


def authenticator(
    clock: FakeClock,
    login: Credentials | Callable[[str], Credentials | None] | None = ANN,
    *,
    host: str = "localhost:5000",
    plain_http: bool = True,
    send: Callable[[TokenRequest], TokenResponse] = exchange,
) -> Authenticator:
    return Authenticator(
        host,
        plain_http=plain_http,
        credentials=login if callable(login) else lambda _: login,
        exchange=send,
        clock=clock,
    )


def allowed(server: TokenServer, header: str | None) -> list[str]:
    """Return what the token in `header` allows, as scopes."""
    assert header is not None
    claims = server.claims(header.removeprefix("Bearer "))
    assert claims is not None
    return [f"{e['type']}:{e['name']}:{','.join(e['actions'])}" for e in claims["access"]]


# --- tokens


def test_nothing_is_sent_before_a_challenge(clock: FakeClock, server: TokenServer) -> None:
    one = authenticator(clock)
    assert one.header_for(PULL) is None
    assert server.count() == 0


def test_challenge_is_answered_with_a_token_for_its_scope(
    clock: FakeClock, server: TokenServer
) -> None:
    one = authenticator(clock)
    assert one.answer_challenge([server.challenge(str(PULL))], PULL, None)
    assert allowed(server, one.header_for(PULL)) == ["repository:team/box:pull"]
    (call,) = server.calls
    assert (call.method, call.user) == ("GET", "ann")
    assert call.parameters["service"] == ("fake",)
    assert call.scopes == ("repository:team/box:pull",)


def test_token_is_asked_for_with_the_challenges_scope_as_well(
    clock: FakeClock, server: TokenServer
) -> None:
    one = authenticator(clock)
    header = server.challenge("repository:team/base:pull repository:team/box:pull")
    assert one.answer_challenge([header], PUSH, None)
    assert server.calls[0].scopes == ("repository:team/base:pull", "repository:team/box:pull,push")


def test_reading_first_and_then_writing_gets_a_second_token(
    clock: FakeClock, server: TokenServer
) -> None:
    """Plain oras answers the second challenge with the first token, and fails to push."""
    one = authenticator(clock)
    assert one.answer_challenge([server.challenge(str(PULL))], PULL, None)
    assert one.header_for(PUSH) is None
    assert one.answer_challenge([server.challenge(str(PUSH))], PUSH, None)
    assert allowed(server, one.header_for(PUSH)) == ["repository:team/box:pull,push"]
    assert server.count() == 2


def test_token_for_writing_does_for_reading(clock: FakeClock, server: TokenServer) -> None:
    one = authenticator(clock)
    assert one.answer_challenge([server.challenge()], PUSH, None)
    assert one.header_for(PULL) == one.header_for(PUSH) is not None


def test_each_repository_has_its_token(clock: FakeClock, server: TokenServer) -> None:
    one = authenticator(clock)
    other = Scope.push("team/other")
    for scope in (PUSH, other):
        assert one.header_for(scope) is None
        assert one.answer_challenge([server.challenge()], scope, None)
    assert allowed(server, one.header_for(other)) == ["repository:team/other:pull,push"]
    assert allowed(server, one.header_for(PUSH)) == ["repository:team/box:pull,push"]


@pytest.mark.parametrize(
    ("said", "good_seconds"),
    [({"lifetime": 100}, 90), ({"lifetime": 2}, 1.5), ({"say_lifetime": False}, 50)],
    ids=["before-it-ends", "three-quarters-of-a-short-life", "a-minute-if-not-said"],
)
def test_token_is_renewed_before_it_ends(
    clock: FakeClock, server: TokenServer, said: dict[str, int], good_seconds: float
) -> None:
    vars(server).update(said)
    one = authenticator(clock)
    one.answer_challenge([server.challenge()], PUSH, None)
    first = one.header_for(PUSH)
    clock.advance(good_seconds - 0.1)
    assert one.header_for(PUSH) == first
    clock.advance(0.1)
    renewed = one.header_for(PUSH)
    assert renewed != first
    assert allowed(server, renewed) == ["repository:team/box:pull,push"]
    assert server.count() == 2


def test_ended_token_covers_nothing(clock: FakeClock, server: TokenServer) -> None:
    one = authenticator(clock)
    one.answer_challenge([server.challenge()], PUSH, None)
    clock.advance(1000)
    assert one.header_for(PULL) is None


def test_rejected_token_is_replaced(clock: FakeClock, server: TokenServer) -> None:
    one = authenticator(clock)
    one.answer_challenge([server.challenge()], PUSH, None)
    revoked = one.header_for(PUSH)
    assert one.answer_challenge([server.challenge()], PULL, revoked)
    assert one.header_for(PULL) != revoked
    assert one.header_for(PUSH) is None


def test_token_server_that_repeats_a_rejected_token_is_no_help(clock: FakeClock) -> None:
    one = authenticator(clock, send=lambda _: TokenResponse(200, b'{"token":"same"}'))
    challenge = 'Bearer realm="http://auth.example/t"'
    assert one.answer_challenge([challenge], PULL, None)
    assert not one.answer_challenge([challenge], PULL, "Bearer same")


def test_anonymous_token(clock: FakeClock, server: TokenServer) -> None:
    server.anonymous = {"team/*": frozenset({"pull"})}
    one = authenticator(clock, None)
    assert one.answer_challenge([server.challenge()], PUSH, None)
    assert allowed(server, one.header_for(PUSH)) == ["repository:team/box:pull"]
    assert "authorization" not in server.calls[0].headers


def test_no_anonymous_token_means_that_a_login_is_wanted(
    clock: FakeClock, server: TokenServer
) -> None:
    one = authenticator(clock, None)
    with pytest.raises(Unauthorized, match="wants a login") as caught:
        one.answer_challenge([server.challenge()], PULL, None)
    assert "docker login localhost:5000" in (caught.value.hint or "")


def test_member_access_token_is_understood(clock: FakeClock, server: TokenServer) -> None:
    server.token_member = "access_token"
    one = authenticator(clock)
    assert one.answer_challenge([server.challenge()], PULL, None)
    assert allowed(server, one.header_for(PULL)) == ["repository:team/box:pull"]


# --- identity and registry tokens


def test_identity_token_is_exchanged_by_post(clock: FakeClock, server: TokenServer) -> None:
    identity = server.identity_token("ann")
    one = authenticator(clock, Credentials(identity_token=identity))
    assert one.answer_challenge([server.challenge()], PUSH, None)
    assert allowed(server, one.header_for(PUSH)) == ["repository:team/box:pull,push"]
    (call,) = server.calls
    assert call.method == "POST"
    assert call.parameters["grant_type"] == ("refresh_token",)
    assert "authorization" not in call.headers


def test_identity_token_that_is_replaced_is_used_from_then_on(
    clock: FakeClock, server: TokenServer
) -> None:
    server.rotate = True
    one = authenticator(clock, Credentials(identity_token=server.identity_token("ann")))
    assert one.answer_challenge([server.challenge()], PULL, None)
    assert one.answer_challenge([server.challenge()], PUSH, None)
    used = [call.parameters["refresh_token"] for call in server.calls]
    assert len(set(used)) == 2


def test_identity_token_that_is_refused(clock: FakeClock, server: TokenServer) -> None:
    one = authenticator(clock, Credentials(identity_token="old", source="config.json"))
    with pytest.raises(Unauthorized, match=r"login from config\.json was refused"):
        one.answer_challenge([server.challenge()], PULL, None)
    assert server.count("POST") == 1


class WithoutPost:
    """Answers a POST with `status`, and asks the token server all else."""

    def __init__(self, status: int) -> None:
        self.status = status

    def __call__(self, request: TokenRequest) -> TokenResponse:
        return TokenResponse(self.status) if request.method == "POST" else exchange(request)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 411, 415, 501])
def test_token_server_without_post_is_asked_with_the_password(
    clock: FakeClock, server: TokenServer, status: int
) -> None:
    login = replace(ANN, identity_token="it")
    one = authenticator(clock, login, send=WithoutPost(status))
    assert one.answer_challenge([server.challenge()], PUSH, None)
    assert allowed(server, one.header_for(PUSH)) == ["repository:team/box:pull,push"]
    (call,) = server.calls
    assert call.parameters["account"] == ("ann",)
    assert call.headers["authorization"] == BASIC


@pytest.mark.parametrize("status", [404, 405, 411, 415, 501])
@pytest.mark.parametrize(("username", "sent"), [("0000", "0000"), ("", "<token>")])
def test_token_server_without_post_gets_the_identity_token_as_password(
    clock: FakeClock, status: int, username: str, sent: str
) -> None:
    def send(request: TokenRequest) -> TokenResponse:
        if request.method == "POST":
            return TokenResponse(status)
        asked.append(request)
        return TokenResponse(200, b'{"token": "t"}')

    asked: list[TokenRequest] = []
    one = authenticator(clock, Credentials(username=username, identity_token="it"), send=send)
    assert one.answer_challenge(['Bearer realm="http://localhost:1/t"'], PULL, None)
    assert one.header_for(PULL) == "Bearer t"
    pair = base64.b64encode(f"{sent}:it".encode()).decode()
    assert [request.headers["Authorization"] for request in asked] == [f"Basic {pair}"]


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, Unauthorized), (401, Unauthorized), (403, Denied), (429, TooManyRequests)],
)
def test_identity_token_alone_that_is_refused_is_sent_once(
    clock: FakeClock, server: TokenServer, status: int, kind: type[Exception]
) -> None:
    login = Credentials(username="0000", identity_token="it")
    with pytest.raises(kind):
        authenticator(clock, login, send=WithoutPost(status)).answer_challenge(
            [server.challenge()], PULL, None
        )
    assert server.count() == 0


@pytest.mark.parametrize("status", [429, 500, 503])
def test_token_server_that_is_busy_is_not_asked_by_get(
    clock: FakeClock, server: TokenServer, status: int
) -> None:
    one = authenticator(clock, replace(ANN, identity_token="it"), send=WithoutPost(status))
    with pytest.raises((TooManyRequests, NetworkError)):
        one.answer_challenge([server.challenge()], PULL, None)
    assert server.count() == 0


def test_registry_token_is_sent_to_the_registry_itself(
    clock: FakeClock, server: TokenServer
) -> None:
    one = authenticator(clock, Credentials(registry_token="rt"))
    assert one.answer_challenge([server.challenge()], PULL, None)
    assert one.header_for(PULL) == "Bearer rt"
    assert not one.answer_challenge([server.challenge()], PULL, "Bearer rt")
    assert one.answer_challenge(["Bearer"], PUSH, None)
    assert server.count() == 0


# --- Basic


def test_basic_is_remembered_for_the_whole_registry(clock: FakeClock) -> None:
    one = authenticator(clock)
    assert one.answer_challenge(['Basic realm="Registry Realm"'], PULL, None)
    assert one.header_for(PULL) == BASIC
    assert one.header_for(Scope.push("other/box")) == BASIC
    assert one.header_for(Scope.catalog()) == BASIC


@pytest.mark.parametrize("login", [None, Credentials(identity_token="it")])
def test_basic_without_a_password_is_not_answered(
    clock: FakeClock, login: Credentials | None
) -> None:
    one = authenticator(clock, login)
    assert not one.answer_challenge(['Basic realm="r"'], PULL, None)
    assert one.header_for(PULL) is None


def test_basic_that_is_refused_is_not_sent_again(clock: FakeClock) -> None:
    one = authenticator(clock)
    assert one.answer_challenge(['Basic realm="r"'], PULL, None)
    assert not one.answer_challenge(['Basic realm="r"'], PULL, BASIC)


def test_basic_that_is_refused_is_read_anew(clock: FakeClock) -> None:
    logins = iter([Credentials(username="ann", password="secret"), Credentials(username="new")])
    one = authenticator(clock, lambda _: next(logins))
    assert one.answer_challenge(['Basic realm="r"'], PULL, None)
    assert one.answer_challenge(['Basic realm="r"'], PULL, BASIC)
    assert one.header_for(PULL) == Credentials(username="new").basic_header()


def test_login_is_looked_up_once_for_each_repository(clock: FakeClock) -> None:
    asked: list[str] = []

    def lookup(repository: str) -> Credentials | None:
        asked.append(repository)
        return Credentials(username=repository or "all")

    one = authenticator(clock, lookup)
    one.answer_challenge(["Basic"], PULL, None)
    for scope in (PULL, PUSH, Scope.pull("other"), PULL, Scope.catalog(), Scope.pull("other")):
        one.header_for(scope)
    assert asked == ["team/box", "other", ""]
    assert one.header_for(Scope.pull("other")) == Credentials(username="other").basic_header()


def test_no_login_is_looked_up_before_it_is_wanted(clock: FakeClock) -> None:
    def lookup(repository: str) -> Credentials | None:
        raise AssertionError(repository)

    assert authenticator(clock, lookup).header_for(PULL) is None


# --- which challenge


def test_bearer_is_preferred_to_basic(clock: FakeClock, server: TokenServer) -> None:
    for headers in (
        ['Basic realm="r"', server.challenge()],
        [f'Basic realm="r", {server.challenge()}'],
    ):
        one = authenticator(clock)
        assert one.answer_challenge(headers, PULL, None)
        assert (one.header_for(PULL) or "").startswith("Bearer ")


def test_bearer_after_basic_changes_the_registrys_ways(
    clock: FakeClock, server: TokenServer
) -> None:
    one = authenticator(clock)
    one.answer_challenge(["Basic"], PULL, None)
    assert one.answer_challenge([server.challenge()], PULL, BASIC)
    assert (one.header_for(PULL) or "").startswith("Bearer ")


@pytest.mark.parametrize("headers", [[], [""], ["Negotiate"], ["Digest realm=x"], ["Bearer"]])
def test_challenge_that_nobody_can_answer(clock: FakeClock, headers: list[str]) -> None:
    assert not authenticator(clock).answer_challenge(headers, PULL, None)


# --- where a login goes


class Sent:
    """An exchange that notes what it was asked to send."""

    def __init__(self, response: TokenResponse = TokenResponse(200, b'{"token":"t"}')) -> None:  # noqa: B008
        self.requests: list[TokenRequest] = []
        self.response = response

    def __call__(self, request: TokenRequest) -> TokenResponse:
        self.requests.append(request)
        return self.response


@pytest.mark.parametrize(
    ("host", "plain_http", "realm", "good"),
    [
        ("registry.example", False, "https://auth.other.example/token", True),
        ("registry.example", False, "http://registry.example/token", False),
        ("registry.example", False, "http://127.0.0.1:1/token", False),
        ("registry.example", True, "http://auth.example/token", True),
        ("localhost:5000", False, "http://localhost:5001/token", True),
        ("127.0.0.1:5000", True, "http://127.0.0.1:5001/token", True),
        ("registry.example", True, "ftp://auth.example/token", False),
        ("registry.example", False, "Registry Realm", False),
    ],
)
def test_login_goes_to_https_or_where_the_registry_has_none(
    clock: FakeClock, host: str, plain_http: bool, realm: str, good: bool
) -> None:
    for login in (ANN, None):
        send = Sent()
        one = authenticator(clock, login, host=host, plain_http=plain_http, send=send)
        challenge = f'Bearer realm="{realm}"'
        if good:
            assert one.answer_challenge([challenge], PULL, None)
            assert [request.url.startswith(realm) for request in send.requests] == [True]
        else:
            with pytest.raises(AuthError):
                one.answer_challenge([challenge], PULL, None)
            assert send.requests == []


def test_two_registries_share_no_login(clock: FakeClock) -> None:
    with TokenServer(users={"ann": User("secret")}) as a, TokenServer(anonymous={}) as b:
        logins = {"a.example": ANN}
        both = [
            authenticator(clock, logins.get(host), host=host) for host in ("a.example", "b.example")
        ]
        both[0].answer_challenge([a.challenge()], PULL, None)
        both[1].answer_challenge([b.challenge()], PULL, None)
        assert "authorization" in a.calls[0].headers
        assert "authorization" not in b.calls[0].headers
        assert both[0].header_for(PULL) != both[1].header_for(PULL)


# --- failures of the token server


def test_wrong_password_is_tried_once(clock: FakeClock, server: TokenServer) -> None:
    one = authenticator(clock, Credentials(username="ann", password="wrong", source="config.json"))
    for scope in (PULL, PUSH, PULL, Scope.pull("other")):
        with pytest.raises(Unauthorized, match=r"login from config\.json was refused") as caught:
            one.answer_challenge([server.challenge()], scope, None)
        assert caught.value.status == 401
    assert server.count() == 1
    assert clock.sleeps == []


def test_wrong_password_is_tried_again_after_a_while(clock: FakeClock, server: TokenServer) -> None:
    one = authenticator(clock, Credentials(username="ann", password="wrong"))
    for seconds in (0, 59.9, 0.2):
        clock.advance(seconds)
        with pytest.raises(Unauthorized):
            one.answer_challenge([server.challenge()], PULL, None)
    assert server.count() == 2


def test_wrong_password_that_was_corrected_works_at_once(
    clock: FakeClock, server: TokenServer
) -> None:
    logins = iter([Credentials(username="ann", password="wrong"), ANN])
    one = authenticator(clock, lambda _: next(logins))
    with pytest.raises(Unauthorized):
        one.answer_challenge([server.challenge()], PULL, None)
    assert one.answer_challenge([server.challenge()], PULL, None)
    assert server.count() == 2


def test_login_that_may_not_do_this_is_denied(clock: FakeClock, server: TokenServer) -> None:
    server.deny_empty = True
    one = authenticator(clock, Credentials(username="bob", password="b"))
    with pytest.raises(Denied):
        one.answer_challenge([server.challenge()], Scope.push("private"), None)
    assert one.answer_challenge([server.challenge()], PULL, None)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (403, b"{}", Denied),
        (500, b"", NetworkError),
        (503, b"", NetworkError),
        (200, b"<html>", BadAnswer),
        (307, b"", AuthError),
    ],
)
def test_failure_of_the_token_server_is_mapped_and_not_remembered(
    clock: FakeClock, server: TokenServer, status: int, body: bytes, kind: type[Exception]
) -> None:
    one = authenticator(clock)
    server.status, server.body = status, body
    with pytest.raises(kind):
        one.answer_challenge([server.challenge()], PULL, None)
    server.status = server.body = None
    assert one.answer_challenge([server.challenge()], PULL, None)


def test_token_server_that_is_gone(clock: FakeClock) -> None:
    with TokenServer() as server:
        challenge = server.challenge()
    with pytest.raises(NetworkError):
        authenticator(clock).answer_challenge([challenge], PULL, None)


def test_renewal_that_fails_is_an_error_of_the_request(
    clock: FakeClock, server: TokenServer
) -> None:
    one = authenticator(clock)
    one.answer_challenge([server.challenge()], PUSH, None)
    server.status = 503
    clock.advance(1000)
    with pytest.raises(NetworkError):
        one.header_for(PUSH)
    server.status = None
    assert one.header_for(PUSH) is not None


# --- threads


def _together(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Run `work` in so many threads at one moment; returns results, or errors."""
    start = threading.Barrier(count)

    def one(number: int) -> Any:
        start.wait()
        try:
            return work(number)
        except Unauthorized as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return [future.result() for future in [pool.submit(one, n) for n in range(count)]]


def test_many_threads_ask_for_one_token_each_scope(clock: FakeClock, server: TokenServer) -> None:
    one = authenticator(clock)
    scopes = (PUSH, Scope.push("team/other"))

    def work(number: int) -> str | None:
        scope = scopes[number % 2]
        assert one.answer_challenge([server.challenge()], scope, None)
        return one.header_for(scope)

    headers = _together(8, work)
    assert len(set(headers)) == 2
    assert server.count() == 2


def test_many_threads_renew_a_token_once(clock: FakeClock, server: TokenServer) -> None:
    one = authenticator(clock)
    one.answer_challenge([server.challenge()], PUSH, None)
    clock.advance(1000)
    assert len(set(_together(8, lambda _: one.header_for(PUSH)))) == 1
    assert server.count() == 2


def test_many_threads_replace_a_rejected_token_once(clock: FakeClock, server: TokenServer) -> None:
    one = authenticator(clock)
    one.answer_challenge([server.challenge()], PUSH, None)
    old = one.header_for(PUSH)
    answers = _together(8, lambda _: one.answer_challenge([server.challenge()], PUSH, old))
    assert answers == [True] * 8
    assert server.count() == 2


def test_many_threads_try_a_wrong_password_once(clock: FakeClock, server: TokenServer) -> None:
    one = authenticator(clock, Credentials(username="ann", password="wrong"))
    scopes = [Scope.pull(f"team/box{n}") for n in range(8)]
    errors = _together(8, lambda n: one.answer_challenge([server.challenge()], scopes[n], None))
    assert all(isinstance(error, Unauthorized) for error in errors)
    assert len(set(map(id, errors))) == 8
    assert server.count() == 1


def test_many_threads_look_up_one_login(clock: FakeClock) -> None:
    logins = [Credentials(username=str(n)) for n in range(8)]
    turn = iter(logins)
    one = authenticator(clock, lambda _: next(turn))
    one.answer_challenge(["Basic"], Scope.catalog(), None)
    assert len(set(_together(7, lambda _: one.header_for(PULL)))) == 1


# --- what is shown


def test_log_names_the_source_and_no_secret(
    clock: FakeClock, server: TokenServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "dockercomms")
    one = authenticator(clock, replace(ANN, also_in=("other.json",)))
    one.answer_challenge([server.challenge()], PULL, None)
    token = (one.header_for(PULL) or "").removeprefix("Bearer ")
    authenticator(clock, None, send=Sent()).answer_challenge([server.challenge()], PULL, None)
    assert "login for 'team/box' from config.json, which hides the one in other.json" in caplog.text
    assert "token for repository:team/box:pull from" in caplog.text
    assert "without login" in caplog.text
    for secret in ("secret", BASIC.split()[1], token):
        assert secret not in caplog.text
        assert secret not in repr(one.__dict__)


# --- oras


def test_importing_auth_imports_neither_oras_nor_requests() -> None:
    code = (
        "import sys, dockercomms.oci.auth.auth, dockercomms.oci.remote.retry\n"
        "print([m for m in ('oras', 'requests', 'urllib3') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_scoped_auth_is_a_backend_of_oras() -> None:
    import oras.auth  # noqa: TID251

    assert scoped_auth_class() is auth.ScopedAuth
    backend = oras.auth.get_auth_backend(BACKEND_NAME, None, insecure=True, tls_verify=False)
    backend.session.close()
    assert isinstance(backend, oras.auth.TokenAuth)
    assert backend.authenticate_request(object(), {"A": "b"}) == ({"A": "b"}, False)
    assert backend.authenticate_request(object(), None) == ({}, False)
    for name in ("load_configs", "authenticate_request", "set_basic_auth", "logout"):
        ours = list(inspect.signature(getattr(backend, name)).parameters)
        theirs = list(
            inspect.signature(inspect.unwrap(getattr(oras.auth.TokenAuth, name))).parameters
        )
        assert ours == theirs[1:]


def test_auth_has_no_other_attribute() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        auth.Nothing  # noqa: B018

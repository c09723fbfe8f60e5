from __future__ import annotations

import base64
from urllib.parse import parse_qs, urlsplit

import pytest

from dockercomms.errors import (
    AuthError,
    BadAnswer,
    Denied,
    DockerCommsError,
    ServerFailed,
    TooManyRequests,
    Unauthorized,
)
from dockercomms.oci.auth.credentials import Credentials
from dockercomms.oci.auth.token import (
    MAX_TOKEN_BYTES,
    Challenge,
    Scope,
    Token,
    TokenRequest,
    TokenResponse,
    build_request,
    check_realm,
    parse_challenges,
    parse_response,
)

REALM = "https://auth.example/token"
LOGIN = Credentials(username="ann", password="hush", source="config.json")
IDENTITY = Credentials(identity_token="hush+/=", source="config.json")


def challenge(text: str = 'service="registry.example"') -> Challenge:
    return parse_challenges([f'Bearer realm="{REALM}",{text}'])[0]


# --- where a login may go


@pytest.mark.parametrize(
    "realm",
    [
        "https://auth.example/token",
        "https://other.example:8443/v2/token?x=1",
        "HTTPS://auth.example",
        "https://[::1]:5001/token",
    ],
)
def test_check_realm_takes_any_https_host(realm: str) -> None:
    assert check_realm(realm, host="r", http_allowed=False).lower() == realm.lower()


def test_check_realm_takes_http_only_where_it_is_allowed() -> None:
    realm = "http://auth.example/token"
    assert check_realm(realm, host="localhost", http_allowed=True) == realm
    with pytest.raises(AuthError, match=r"registry\.example names a token server without TLS"):
        check_realm(realm, host="registry.example", http_allowed=False)


@pytest.mark.parametrize(
    "realm",
    [
        "",
        "Registry Realm",
        "auth.example/token",
        "/token",
        "https://",
        "https:///token",
        "file:///etc/passwd",
        "ftp://auth.example/token",
        "https://user:pass@auth.example/token",
        "https://@auth.example/token",
        "https://auth.example/to ken",
        "https://auth.example:0/token",
        "https://auth.example:99999/token",
        "https://[::1/token",
        "https://auth.example\r\n/token",
    ],
)
@pytest.mark.parametrize("http_allowed", [False, True])
def test_check_realm_refuses_what_is_no_token_server(realm: str, http_allowed: bool) -> None:
    with pytest.raises(AuthError):
        check_realm(realm, host="r", http_allowed=http_allowed)


def test_check_realm_drops_the_fragment() -> None:
    assert check_realm("https://a/t#x", host="r", http_allowed=False) == "https://a/t"


# --- requests


def test_build_request_sends_a_password_as_basic() -> None:
    scope = Scope.mount("team/box", "team/base")
    request = build_request(REALM, challenge(), scope, LOGIN)
    parts = urlsplit(request.url)
    assert (request.method, request.body) == ("GET", None)
    assert request.url.startswith(REALM + "?")
    assert parse_qs(parts.query) == {
        "service": ["registry.example"],
        "scope": ["repository:team/base:pull", "repository:team/box:pull,push"],
        "account": ["ann"],
    }
    assert request.headers == {
        "Accept": "application/json",
        "Authorization": "Basic " + base64.b64encode(b"ann:hush").decode(),
    }


def test_build_request_keeps_the_realms_own_query() -> None:
    request = build_request("https://a/t?tenant=1%2F2", challenge(), Scope.pull("a"), None)
    assert request.url.startswith("https://a/t?tenant=1%2F2&service=registry.example&scope=")


def test_build_request_without_a_login_is_anonymous() -> None:
    request = build_request(REALM, challenge(), Scope.pull("a"), None)
    assert set(request.headers) == {"Accept"}
    assert "account" not in request.url


def test_build_request_leaves_out_what_there_is_not() -> None:
    request = build_request(REALM, challenge("x=y"), Scope(), None)
    assert request.url == REALM
    request = build_request(REALM, challenge("x=y"), Scope(), IDENTITY)
    assert set(parse_qs((request.body or b"").decode())) == {
        "grant_type",
        "refresh_token",
        "client_id",
    }


def test_build_request_sends_an_identity_token_in_a_form() -> None:
    login = Credentials(identity_token="hush+/=", username="0000", password="x")
    request = build_request(REALM, challenge(), Scope.mount("b", "a"), login)
    assert (request.method, request.url) == ("POST", REALM)
    assert parse_qs((request.body or b"").decode()) == {
        "grant_type": ["refresh_token"],
        "refresh_token": ["hush+/="],
        "service": ["registry.example"],
        "client_id": ["dockercomms"],
        "scope": ["repository:a:pull repository:b:pull,push"],
    }
    assert request.headers == {
        "Accept": "application/json",
        "Content-Type": "application/x-www-form-urlencoded",
    }


@pytest.mark.parametrize("login", [LOGIN, IDENTITY])
def test_token_values_show_no_secret(login: Credentials) -> None:
    request = build_request(REALM, challenge(), Scope.pull("a"), login)
    values = (request, TokenResponse(200, b'{"token":"hush"}'), Token("hush", 60, "hush"))
    assert "hush" not in repr(values)
    assert base64.b64encode(b"ann:hush").decode() not in repr(values)


# --- answers


def parse(
    response: TokenResponse, login: Credentials | None = LOGIN, *, method: str = "GET"
) -> Token:
    request = TokenRequest(method=method, url=f"{REALM}?account=ann")
    return parse_response(response, host="registry.example", request=request, credentials=login)


@pytest.mark.parametrize(
    ("body", "token"),
    [
        (b'{"token":"t"}', Token("t")),
        (b'{"access_token":"t","expires_in":300}', Token("t", 300)),
        (b'{"token":"t","access_token":"t","expires_in":0.5}', Token("t", 0.5)),
        (b'{"token":"t","expires_in":0}', Token("t", 60)),
        (b'{"token":"t","expires_in":-5}', Token("t", 60)),
        (b'{"token":"t","expires_in":"300"}', Token("t", 60)),
        (b'{"token":"t","expires_in":NaN}', Token("t", 60)),
        (b'{"token":"t","expires_in":Infinity}', Token("t", 60)),
        (b'{"token":"t","expires_in":1' + b"0" * 400 + b"}", Token("t", 60)),
        (b'{"token":"t","refresh_token":"\\ud800"}', Token("t", 60)),
        (b'{"token":"t","refresh_token":"a b"}', Token("t", 60)),
        (b'{"token":"t","expires_in":null,"issued_at":"yesterday"}', Token("t", 60)),
        (b'{"access_token":"t","refresh_token":"r"}', Token("t", 60, "r")),
        (b'{"access_token":"t","refresh_token":7}', Token("t")),
    ],
)
def test_parse_response_reads_a_token(body: bytes, token: Token) -> None:
    assert parse(TokenResponse(200, body)) == token


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not JSON"),
        (b"<html>hush</html>", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'["hush"]', "not a JSON object"),
        (b"{}", "contains no token"),
        (b'{"token":""}', "contains no token"),
        (b'{"token":["hush"]}', "contains no token"),
        (b'{"token":"hush\\r\\nX: y"}', "contains no token"),
        (b'{"token":"h\xc3\xbcsh"}', "contains no token"),
        (b" " * MAX_TOKEN_BYTES + b"{}", "larger than 1048576 bytes"),
    ],
)
def test_parse_response_refuses_what_is_no_token(body: bytes, message: str) -> None:
    with pytest.raises(BadAnswer, match=f"token server auth.example: .*{message}") as caught:
        parse(TokenResponse(200, body))
    assert "hush" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("status", "method", "kind"),
    [
        (401, "GET", Unauthorized),
        (401, "POST", Unauthorized),
        (400, "POST", Unauthorized),
        (400, "GET", AuthError),
        (403, "GET", Denied),
        (404, "GET", AuthError),
        (302, "GET", AuthError),
        (204, "GET", AuthError),
        (429, "GET", TooManyRequests),
        (500, "GET", ServerFailed),
        (503, "POST", ServerFailed),
    ],
)
def test_parse_response_maps_every_status(
    status: int, method: str, kind: type[DockerCommsError]
) -> None:
    with pytest.raises(kind, match=r"auth\.example") as caught:
        parse(TokenResponse(status, b"hush"), method=method)
    assert type(caught.value) is kind
    assert "hush" not in str(caught.value)
    assert "account" not in f"{caught.value} {getattr(caught.value, 'url', '')}"


def test_parse_response_says_whose_login_was_refused() -> None:
    with pytest.raises(Unauthorized) as caught:
        parse(TokenResponse(401))
    assert "registry.example: the login from config.json was refused" in caught.value.message
    assert "docker login registry.example" in (caught.value.hint or "")
    assert (caught.value.status, caught.value.url, caught.value.method) == (401, REALM, "GET")
    with pytest.raises(Unauthorized, match=r"registry\.example: the login was refused"):
        parse(TokenResponse(401), Credentials(username="ann"))
    with pytest.raises(Unauthorized, match=r"registry\.example wants a login"):
        parse(TokenResponse(401), None)


def test_parse_response_keeps_how_long_to_wait() -> None:
    with pytest.raises(TooManyRequests) as caught:
        parse(TokenResponse(429, retry_after_seconds=7))
    assert caught.value.retry_after_seconds == 7

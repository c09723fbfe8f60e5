"""Tokens of a registry's token server: scopes, challenges, and the request and response.

- A `Scope` is a set of actions on repositories, in the registries' own notation.
- A `Challenge` comes from the `WWW-Authenticate` headers of a 401.
- Token requests and responses are built and read here, and sent by the session. A user name and
  password go as Basic in a GET, an identity token in the form of an OAuth2 POST, so that no address
  contains a secret.

Sources: distribution's "Token Authentication Specification", "OAuth2 Token Authentication" and
"Token Scope Documentation"; RFC 6749 sections 5 and 6.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import field, replace
from urllib.parse import urlencode, urlsplit, urlunsplit

from dockercomms.errors import (
    AuthError,
    BadAnswer,
    Denied,
    DockerCommsError,
    ServerFailed,
    TooManyRequests,
    Unauthorized,
)
from dockercomms.oci.auth.credentials import IDENTITY_USER, Credentials
from dockercomms.platforms.records import dataclass

_WORD = re.compile(r"[\x21-\x7e]+")
_ANY = "*"


@dataclass(frozen=True, slots=True)
class Scope:
    """A set of actions on resources. The order of writing has no effect on equality.

    Source: distribution v3.1.2, docs/content/spec/auth/scope.md.
    """

    access: frozenset[tuple[str, str, str]] = frozenset()
    """Triples of resource type, resource name and action."""
    repository: str = field(default="", compare=False)
    """The repository whose login is used; "" for the registry as a whole."""

    def __post_init__(self) -> None:
        for triple in self.access:
            if not all(_WORD.fullmatch(word) for word in triple):
                raise ValueError(f"not a scope: {triple!r:.300}")

    @classmethod
    def _of(cls, repository: str, *actions: str) -> Scope:
        return cls(frozenset(("repository", repository, action) for action in actions), repository)

    @classmethod
    def pull(cls, repository: str) -> Scope:
        """Return the scope of reading from `repository`."""
        return cls._of(repository, "pull")

    @classmethod
    def push(cls, repository: str) -> Scope:
        """Return the scope of writing to `repository`, which includes reading."""
        return cls._of(repository, "pull", "push")

    @classmethod
    def mount(cls, repository: str, source: str) -> Scope:
        """Return the scope of mounting a blob of `source` into `repository`."""
        return cls.push(repository) | cls.pull(source)

    @classmethod
    def delete(cls, repository: str) -> Scope:
        """Return the scope of deleting from `repository`."""
        return cls._of(repository, "delete")

    @classmethod
    def catalog(cls) -> Scope:
        """Return the scope of listing the registry's repositories."""
        return cls(frozenset({("registry", "catalog", _ANY)}))

    @classmethod
    def parse(cls, text: str) -> Scope:
        """Return the scope in a challenge's notation; malformed pieces are left out."""
        access: set[tuple[str, str, str]] = set()
        for piece in text.split():
            kind, _, rest = piece.partition(":")
            # a resource's name may hold colons (a host with its port), an action may not
            name, colon, actions = rest.rpartition(":")
            if not (colon and kind and name and _WORD.fullmatch(piece)):
                continue
            access.update((kind, name, action) for action in actions.split(",") if action)
        return cls(frozenset(access))

    def __or__(self, other: Scope) -> Scope:
        """Return the union, with this scope's repository."""
        return Scope(self.access | other.access, self.repository or other.repository)

    def covers(self, other: Scope) -> bool:
        """Return whether a token for this scope is sufficient for `other`."""
        return all(
            triple in self.access or (triple[0], triple[1], _ANY) in self.access
            for triple in other.access
        )

    def resources(self) -> tuple[str, ...]:
        """Return the scope resource by resource, sorted: `repository:team/box:pull,push`."""
        actions: dict[tuple[str, str], list[str]] = {}
        for kind, name, action in sorted(self.access):
            actions.setdefault((kind, name), []).append(action)
        return tuple(f"{kind}:{name}:{','.join(found)}" for (kind, name), found in actions.items())

    def __str__(self) -> str:
        """Return the notation of challenges and token requests."""
        return " ".join(self.resources())


_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - the grammar's word for a name
_SCHEME = re.compile(rf"[\s,]*({_TOKEN})(?=[\s,]|$)")
_TOKEN68 = re.compile(r"\s+([A-Za-z0-9._~+/-]+=*)\s*(?=,|$)")
# more than the grammar allows: registries write unquoted addresses, and omit commas
_PARAMETER = re.compile(
    rf'[\s,]*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))(?=[\s,]|$)', re.DOTALL
)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to authenticate that a registry offers."""

    scheme: str
    """In lower case: `bearer`, `basic`, or another scheme."""
    parameters: tuple[tuple[str, str], ...] = ()
    """Names in lower case and values, in the order of the header."""

    def get(self, name: str) -> str:
        """Return the first parameter called `name`, "" if it is missing."""
        return next((value for key, value in self.parameters if key == name), "")


def parse_challenges(headers: Iterable[str]) -> tuple[Challenge, ...]:
    """Return the challenges of all `WWW-Authenticate` headers, in their order.

    A header may hold several. Malformed text ends its header without an error.

    Source: RFC 9110 section 11.6.1.
    """
    return tuple(challenge for header in headers for challenge in _parse_one(header))


def _parse_one(header: str) -> list[Challenge]:
    found: list[tuple[str, list[tuple[str, str]]]] = []
    position = 0
    while position < len(header):
        if found and (match := _PARAMETER.match(header, position)):
            name, quoted, plain = match.groups()
            value = plain if quoted is None else _ESCAPED.sub(r"\1", quoted)
            found[-1][1].append((name.lower(), value))
        elif match := _SCHEME.match(header, position):
            found.append((match[1].lower(), []))
            # a token68 (Negotiate) has no meaning here: it is skipped
            match = _TOKEN68.match(header, match.end()) or match
        else:
            break
        position = match.end()
    return [Challenge(scheme, tuple(parameters)) for scheme, parameters in found]


MAX_TOKEN_BYTES = 2**20
"""The limit of a token server's response, which usually has a few KiB."""

CLIENT_ID = "dockercomms"
DEFAULT_LIFETIME_SECONDS = 60.0
"""The lifetime of a token whose server does not tell; the token specification's own default."""

MAX_LIFETIME_SECONDS = 366 * 86_400
"""A longer lifetime counts as unknown."""

_TOKEN_TEXT = re.compile(r"[\x21-\x7e]+")
_OK = 200
_BAD_REQUEST = 400
_UNAUTHORIZED = 401
_FORBIDDEN = 403
_TOO_MANY = 429
_NO_POST = frozenset({404, 405, 411, 415, 501})
"""Statuses of a token server without the OAuth2 form; distribution's oauth.md names the 404."""
_PERHAPS_NO_POST = frozenset({_BAD_REQUEST, _UNAUTHORIZED, _FORBIDDEN})
"""Some servers answer every POST with these (Artifactory: 401), but a refusal looks the same."""
_SERVER_ERRORS = range(500, 600)
_LASTING = frozenset({501, 505})
"""Statuses that another try does not cure; the same as in `RetryPolicy`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRequest:
    """A request to a token server. Its headers and body hold secrets, and never show."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)
    body: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class TokenResponse:
    """The response of a token server."""

    status: int
    body: bytes = field(default=b"", repr=False)
    """At most MAX_TOKEN_BYTES + 1 bytes: one more than the limit, to notice a longer body."""
    retry_after_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Token:
    """An access token."""

    text: str = field(repr=False)
    lifetime_seconds: float = DEFAULT_LIFETIME_SECONDS
    identity_token: str = field(default="", repr=False)
    """The identity token to use from now on, "" if the old one stays."""


def check_realm(realm: str, *, host: str, http_allowed: bool) -> str:
    """Return the token server's address if a login for `host` may be sent there.

    Any https host is allowed: Docker Hub's and GitLab's token servers are other hosts than their
    registries. Plain http only if the registry itself is used without TLS.

    Raises:
        AuthError: no address, another scheme, or http if it is not allowed.
    """
    try:
        parts = urlsplit(realm)
        good = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good or parts.username is not None or any(c.isspace() for c in realm):
        raise AuthError(f"{host} names an unusable token server: {realm!r:.300}")
    if parts.scheme == "https" or (parts.scheme == "http" and http_allowed):
        return urlunsplit(parts._replace(fragment=""))
    raise AuthError(
        f"{host} names a token server without TLS: {realm!r:.300}; no login is sent there"
    )


def build_request(
    realm: str, challenge: Challenge, scope: Scope, credentials: Credentials | None
) -> TokenRequest:
    """Return the request for a token of `scope`, anonymous without credentials.

    Source: distribution v3.1.2, docs/content/spec/auth/token.md and oauth.md.
    """
    service = challenge.get("service")
    if credentials is not None and credentials.identity_token:
        form = {
            "grant_type": "refresh_token",
            "refresh_token": credentials.identity_token,
            "service": service,
            "client_id": CLIENT_ID,
            "scope": str(scope),
        }
        return TokenRequest(
            method="POST",
            url=realm,
            headers={
                "Accept": "application/json",
                "Content-Type": "application/x-www-form-urlencoded",
            },
            body=urlencode({name: value for name, value in form.items() if value}).encode(),
        )
    query = [("service", service)] if service else []
    query += [("scope", resource) for resource in scope.resources()]
    headers = {"Accept": "application/json"}
    basic = credentials.basic_header() if credentials else None
    if credentials is not None and basic is not None:
        headers["Authorization"] = basic
        query.append(("account", credentials.username))
    parts = urlsplit(realm)
    joined = "&".join(part for part in (parts.query, urlencode(query)) if part)
    return TokenRequest(method="GET", url=urlunsplit(parts._replace(query=joined)), headers=headers)


def login_for_get(response: TokenResponse, credentials: Credentials | None) -> Credentials | None:
    """Return the login for a GET after this response to a POST, `None` to accept the response.

    It is the password of the same entry, else the identity token in its place, as in containerd. If
    the response may be a true refusal, only another secret justifies a second request.

    Source: distribution v3.1.2, docs/content/spec/auth/oauth.md, "Refresh Token Format".
    """
    if credentials is None or not credentials.identity_token:
        return None
    if credentials.password and response.status in _NO_POST | _PERHAPS_NO_POST:
        return replace(credentials, identity_token="")
    if response.status in _NO_POST:
        username = credentials.username or IDENTITY_USER
        return replace(
            credentials, username=username, password=credentials.identity_token, identity_token=""
        )
    return None


def parse_response(
    response: TokenResponse, *, host: str, request: TokenRequest, credentials: Credentials | None
) -> Token:
    """Return the token in a response.

    Raises:
        Unauthorized: the login was refused, or there is no token without one.
        Denied: the login is valid but has no rights to the scope.
        TooManyRequests, NetworkError: the token server is busy, or fails.
        BadAnswer: the response holds no token.
        AuthError: any other response.

    Source: distribution v3.1.2, docs/content/spec/auth/token.md.
    """
    server = urlsplit(request.url).netloc
    if response.status != _OK:
        raise _refusal(response, host, request, credentials)
    if len(response.body) > MAX_TOKEN_BYTES:
        raise BadAnswer(f"token server {server}: its answer is larger than {MAX_TOKEN_BYTES} bytes")
    try:
        data = json.loads(response.body)
    except (ValueError, RecursionError):
        # from None: the original error holds the whole text
        raise BadAnswer(f"token server {server}: its answer is not JSON") from None
    if not isinstance(data, dict):
        raise BadAnswer(f"token server {server}: its answer is not a JSON object")
    text = data.get("token") or data.get("access_token")
    if not isinstance(text, str) or not _TOKEN_TEXT.fullmatch(text):
        raise BadAnswer(f"token server {server}: its answer contains no token")
    lifetime = data.get("expires_in")
    if not isinstance(lifetime, int | float) or not 0 < lifetime <= MAX_LIFETIME_SECONDS:
        lifetime = DEFAULT_LIFETIME_SECONDS
    renewed = data.get("refresh_token")
    if not isinstance(renewed, str) or not _TOKEN_TEXT.fullmatch(renewed):
        renewed = ""
    return Token(text, float(lifetime), renewed)


def _refusal(
    response: TokenResponse, host: str, request: TokenRequest, credentials: Credentials | None
) -> DockerCommsError:
    status = response.status
    parts = urlsplit(request.url)
    server = parts.netloc
    if status in _SERVER_ERRORS:
        return ServerFailed(
            f"token server {server} answered {status}", retryable=status not in _LASTING
        )
    method, url = request.method, urlunsplit(parts._replace(query=""))
    if status == _TOO_MANY:
        return TooManyRequests(
            f"token server {server} answered 429",
            status=status,
            method=method,
            url=url,
            retry_after_seconds=response.retry_after_seconds,
        )
    hint = f"log in with `docker login {host}`, or give --username and --password-stdin"
    kind: type[AuthError] = AuthError
    message = f"{host}: token server {server} answered {status}"
    # RFC 6749 section 5.2: a 400 means an invalid identity token
    if status == _UNAUTHORIZED or (method == "POST" and status == _BAD_REQUEST):
        kind = Unauthorized
        if credentials is None:
            message = f"{host} wants a login: token server {server} gives no token without one"
        else:
            source = f" from {credentials.source}" if credentials.source else ""
            message = f"{host}: the login{source} was refused by token server {server}"
    elif status == _FORBIDDEN:
        kind, message = Denied, f"{host}: access was denied by token server {server}"
    return kind(message, status=status, method=method, url=url, hint=hint)

"""Authentication at one registry: answers challenges, keeps and renews tokens.

An `Authenticator` belongs to one registry host. It needs no HTTP library: the caller asks it for a
header before each request, passes it the challenges of a 401, and sends its token requests:

    header = authenticator.header_for(scope)
    response = send(request, authorization=header)
    if response.status == 401 and not answered:
        answered = True
        if authenticator.answer_challenge(challenges_of(response), scope, header):
            continue                                  # once more, with header_for(scope)

The caller must keep these rules, which cannot be checked here:

- The header goes to the registry's own origin only (scheme, host, port): never along a redirect, a
  `Location` or a `Link` elsewhere. `answer_challenge` gets the headers of a 401 of that origin
  only, and once per request.
- `~/.netrc` must not replace the header, as requests does by default.
- The exchange sends a `TokenRequest` with the session's own TLS settings, proxies, time limit and
  rate limiter; follows no redirect; reads at most MAX_TOKEN_BYTES + 1 bytes of the response; raises
  `NetworkError` without one. It may retry as its policy says.
- No request or response of it is logged with headers, query or body.

Sources: distribution's "Token Authentication Specification"; RFC 9110 section 11.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import field, replace
from typing import Any
from urllib.parse import urlsplit

from dockercomms.errors import Unauthorized, UsageError
from dockercomms.oci.auth.credentials import ConfigSource, Credentials, DockerConfig
from dockercomms.oci.auth.token import (
    MAX_TOKEN_BYTES,
    Challenge,
    Scope,
    TokenRequest,
    TokenResponse,
    build_request,
    check_realm,
    login_for_get,
    parse_challenges,
    parse_response,
)
from dockercomms.oci.reference import DEFAULT_HOST, HUB_HOSTS, is_loopback
from dockercomms.platforms.clock import Clock
from dockercomms.platforms.records import dataclass

__all__ = [
    "BACKEND_NAME",
    "MAX_TOKEN_BYTES",
    "Authenticator",
    "Challenge",
    "ConfigSource",
    "Credentials",
    "DockerConfig",
    "Scope",
    "ScopedAuth",  # noqa: F822 - created by __getattr__, because it needs oras
    "TokenRequest",
    "TokenResponse",
    "parse_challenges",
    "scoped_auth_class",
]

BACKEND_NAME = "dockercomms"
"""The name of `ScopedAuth` among oras's authentication backends."""

MAX_LEEWAY_SECONDS = 10.0
"""A token is renewed this long before its end, or at three quarters of a shorter life."""

REFUSAL_SECONDS = 60.0
"""A refused login is not tried again for this time: guesses can lock an account."""

_logger = logging.getLogger(__name__)

CredentialLookup = Callable[[str], Credentials | None]
"""Takes a repository ("" for the registry as a whole); called when a challenge asks for a login."""

Exchange = Callable[[TokenRequest], TokenResponse]


@dataclass(frozen=True, slots=True)
class _Grant:
    """A header that a registry accepted, or is expected to."""

    header: str = field(repr=False)
    scope: Scope
    challenge: Challenge
    until: float | None
    """The monotonic time of its renewal, `None` for never."""


class Authenticator:
    """The authentication at one registry. Safe for several threads.

    A login goes only to the token server that a 401 of this registry names; a header only to the
    caller of `header_for`. Before the first token, threads ask one at a time, so that a wrong
    password is tried once; after that, one at a time for each scope.

    Args:
        host: The registry in the user's notation, for errors and to recognise loopback.
        plain_http: The registry is used without TLS.
        credentials: The login for a repository, such as `DockerConfig.entry` with its host.
        exchange: Sends a token request; see the module's text.
        clock: The time.
    """

    def __init__(
        self,
        host: str,
        *,
        plain_http: bool,
        credentials: CredentialLookup,
        exchange: Exchange,
        clock: Clock,
    ) -> None:
        self._host = host
        self._http_allowed = plain_http or is_loopback(host)
        self._lookup = credentials
        self._exchange = exchange
        self._clock = clock
        # guards all attributes below; no thread waits while it holds this
        self._lock = threading.Lock()
        self._logins: dict[str, Credentials | None] = {}
        self._refused: dict[Credentials, tuple[float, Unauthorized]] = {}
        self._grants: dict[str, dict[Scope, _Grant]] = {}
        self._basic = False
        self._proven = False
        self._first_turn = threading.Lock()
        self._turns: dict[Scope, threading.Lock] = {}

    def header_for(self, scope: Scope) -> str | None:
        """Return the `Authorization` header for `scope`, `None` if none is known yet.

        A token that is about to end is renewed first, so that no body is sent in vain.

        Raises:
            AuthError, NetworkError, BadAnswer: the renewal failed.
            ConfigError: the login cannot be read.
        """
        with self._lock:
            basic, grant = self._basic, self._grant_for(scope)
        if basic:
            login = self._login(scope.repository)
            return login.basic_header() if login else None
        if grant is None:
            return None
        if not self._ended(grant):
            return grant.header
        with self._turn(scope):
            with self._lock:
                grant = self._grant_for(scope) or grant
            if not self._ended(grant):
                return grant.header  # another thread has renewed it
            return self._obtain(grant.challenge, scope)

    def answer_challenge(
        self, www_authenticate: Sequence[str], scope: Scope, rejected: str | None
    ) -> bool:
        """Obtain another header for `scope`; return whether one more try is worthwhile.

        Args:
            www_authenticate: All headers of that name of the 401.
            scope: The scope of the request.
            rejected: The header that it was sent with, `None` without one.

        Raises:
            Unauthorized: the token server refused the login, now or less than 60 s ago.
            Denied: the token server grants the login no part of the scope.
            AuthError: the registry names no token server that may receive a login.
            TooManyRequests, NetworkError: the token server is busy, or cannot be reached.
            BadAnswer: the token server's response is no token.
            ConfigError: the login cannot be read.
        """
        challenges = parse_challenges(www_authenticate)
        bearer = next((one for one in challenges if one.scheme == "bearer"), None)
        if bearer is not None:
            return self._answer_bearer(bearer, scope, rejected)
        if any(one.scheme == "basic" for one in challenges):
            return self._answer_basic(scope, rejected)
        return False

    def _answer_basic(self, scope: Scope, rejected: str | None) -> bool:
        with self._lock:
            self._basic = True
        login = self._login(scope.repository)
        if rejected is not None and login is not None and login.basic_header() == rejected:
            # the user may have logged in again since it was read
            self._forget_login(scope.repository)
            login = self._login(scope.repository)
        header = login.basic_header() if login else None
        return header is not None and header != rejected

    def _answer_bearer(self, challenge: Challenge, scope: Scope, rejected: str | None) -> bool:
        with self._turn(scope):
            with self._lock:
                self._basic = False
                self._forget_header(rejected)
                grant = self._grant_for(scope)
            if grant is not None and not self._ended(grant):
                return True  # another thread has obtained it
            header = self._obtain(challenge, scope)
            return header is not None and header != rejected

    def _obtain(self, challenge: Challenge, scope: Scope) -> str | None:
        """Get, keep and return a header, `None` if there is no way; in this scope's turn only."""
        login = self._login(scope.repository)
        if login is not None and login.registry_token:
            header = f"Bearer {login.registry_token}"
            self._keep(scope, _Grant(header, scope, challenge, None))
            return header
        if not challenge.get("realm"):
            return None
        realm = check_realm(
            challenge.get("realm"), host=self._host, http_allowed=self._http_allowed
        )
        self._check_not_refused(login)
        wanted = scope | Scope.parse(challenge.get("scope"))
        request = build_request(realm, challenge, wanted, login)
        kind = "with" if login else "without"
        server = urlsplit(realm).netloc
        _logger.debug("%s: token for %s from %s %s login", self._host, wanted, server, kind)
        response = self._exchange(request)
        if by_get := login_for_get(response, login):
            request = build_request(realm, challenge, wanted, by_get)
            response = self._exchange(request)
        try:
            token = parse_response(response, host=self._host, request=request, credentials=login)
        except Unauthorized as error:
            self._remember_refusal(login, scope.repository, error)
            raise
        self._renew_identity(login, scope.repository, token.identity_token)
        leeway = min(MAX_LEEWAY_SECONDS, token.lifetime_seconds / 4)
        until = self._clock.monotonic() + token.lifetime_seconds - leeway
        header = f"Bearer {token.text}"
        self._keep(scope, _Grant(header, wanted, challenge, until))
        return header

    @contextmanager
    def _turn(self, scope: Scope) -> Iterator[None]:
        """Exclude other threads that want a token for `scope`, or any token before the first."""
        with self._lock:
            proven = self._proven
            turn = self._turns.setdefault(scope, threading.Lock())
        if proven:
            with turn:
                yield
        else:
            with self._first_turn, turn:
                yield

    def _login(self, repository: str) -> Credentials | None:
        """Return the login for `repository`, looked up once."""
        with self._lock:
            if repository in self._logins:
                return self._logins[repository]
        login = self._lookup(repository)
        if login is not None:
            hidden = f", which hides the one in {', '.join(login.also_in)}" if login.also_in else ""
            source = login.source or "the caller"
            _logger.debug("%s: login for %r from %s%s", self._host, repository, source, hidden)
        with self._lock:
            return self._logins.setdefault(repository, login)

    def _forget_login(self, repository: str) -> None:
        with self._lock:
            self._logins.pop(repository, None)

    def _renew_identity(self, login: Credentials | None, repository: str, token: str) -> None:
        """Use the identity token that came with an access token: some work only once."""
        if login is not None and login.identity_token and token:
            with self._lock:
                self._logins[repository] = replace(login, identity_token=token)

    def _check_not_refused(self, login: Credentials | None) -> None:
        if login is None:
            return
        with self._lock:
            until, error = self._refused.get(login, (0.0, None))
        if error is not None and self._clock.monotonic() < until:
            raise Unauthorized(
                error.message,
                status=error.status,
                method=error.method,
                url=error.url,
                hint=error.hint,
            )

    def _remember_refusal(
        self, login: Credentials | None, repository: str, error: Unauthorized
    ) -> None:
        """Block further tries of a refused login, and read it again next time."""
        if login is not None:
            with self._lock:
                self._refused[login] = (self._clock.monotonic() + REFUSAL_SECONDS, error)
        self._forget_login(repository)

    # The next four are called with the lock held, or use only constant attributes.

    def _grant_for(self, scope: Scope) -> _Grant | None:
        """Return a valid grant that covers `scope`, else the ended one for exactly it."""
        grants = self._grants.get(scope.repository, {})
        exact = grants.get(scope)
        if exact is not None and not self._ended(exact):
            return exact
        lasting = (one for one in grants.values() if not self._ended(one))
        return next((one for one in lasting if one.scope.covers(scope)), exact)

    def _ended(self, grant: _Grant) -> bool:
        return grant.until is not None and self._clock.monotonic() >= grant.until

    def _forget_header(self, header: str | None) -> None:
        for grants in self._grants.values():
            for scope in [key for key, grant in grants.items() if grant.header == header]:
                del grants[scope]

    def _keep(self, scope: Scope, grant: _Grant) -> None:
        with self._lock:
            self._grants.setdefault(scope.repository, {})[scope] = grant
            self._proven = True


@functools.cache
def scoped_auth_class() -> type[Any]:
    """Return `ScopedAuth`, the backend of `oci.oras.Registry`.

    The first call creates it and registers it with oras, because oras is slow to import.
    """
    import oras.auth  # noqa: PLC0415, TID251 - with oci.oras only

    class ScopedAuth(oras.auth.TokenAuth):  # type: ignore[misc] # oras has no types
        """An oras authentication backend: it finds logins, and an `Authenticator` uses them."""

        hostname: str | None = None
        """The registry of logins that name none."""
        config: DockerConfig | None = None
        """The configuration with the logins; `None`: this user's files."""

        def give(self, login: Credentials, host: str | None = None) -> None:
            """Use a login for `host`, else for `hostname`.

            Raises:
                UsageError: neither is known, and the login would go to any registry.
            """
            host = host or self.hostname
            if not host:
                raise UsageError("missing registry to log in to", hint="give the hostname")
            self._given()[DEFAULT_HOST if host in HUB_HOSTS else host] = login

        def _given(self) -> dict[str, Credentials]:
            found: dict[str, Credentials] = self.__dict__.setdefault("given", {})
            return found

        def entry(self, host: str, repository: str = "") -> Credentials | None:
            """Return the login for a repository; see `DockerConfig.entry`."""
            given = self._given().get(host)
            if given is not None:
                return given
            if self.config is None:
                self.config = DockerConfig.load()
            return self.config.entry(host, repository)

        def set_basic_auth(self, username: str, password: str) -> None:
            """Use a login for `hostname`."""
            self.give(Credentials(username=username, password=password, source="set_basic_auth"))

        def logout(self, hostname: str) -> None:
            """Forget the login given for a registry."""
            self._given().pop(DEFAULT_HOST if hostname in HUB_HOSTS else hostname, None)

        def load_configs(
            self,
            container: object,  # noqa: ARG002 - the signature of oras
            configs: Sequence[str] | None = None,
        ) -> None:
            """Read logins from the first of `configs`, if any, instead of this user's files."""
            if configs:
                self.config = DockerConfig.load(authfile=configs[0])

        def authenticate_request(
            self,
            original: object,  # noqa: ARG002 - the signature of oras
            headers: dict[str, str] | None,
            refresh: bool = False,  # noqa: ARG002, FBT002
        ) -> tuple[dict[str, str], bool]:
            """Return the headers unchanged: the session knows the scope and answers challenges."""
            return headers or {}, False

    oras.auth.auth_backends[BACKEND_NAME] = ScopedAuth
    return ScopedAuth


def __getattr__(name: str) -> object:
    """Create `ScopedAuth` on first use (PEP 562)."""
    if name == "ScopedAuth":
        return scoped_auth_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""A registry's token server in this process, good enough for the real distribution registry.

Example:
    with TokenServer(users={"ann": User("secret", {"team/*": {"pull", "push"}})}) as server:
        registry = FakeRegistry(..., realm=server.realm, check_token=server.claims)
        ...
        assert server.count() == 1

Source: distribution's "Token Authentication Specification" and "OAuth2 Token Authentication".
"""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import itertools
import json
import ssl
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.hashes import SHA256

from dockercomms.platforms.clock import Clock, SystemClock

_SCALAR_BYTES = 32
_BACKDATED_SECONDS = 5
"""Tokens are valid from a little before now, for registries whose clock is behind."""

EVERYTHING: Mapping[str, frozenset[str]] = {"*": frozenset({"pull", "push", "delete", "*"})}


@dataclass(frozen=True, slots=True)
class User:
    """A password, and the actions allowed by a pattern of resource names."""

    password: str
    allowed: Mapping[str, frozenset[str]] = field(default_factory=lambda: dict(EVERYTHING))


@dataclass(frozen=True, slots=True)
class TokenCall:
    """One request as it came in, and how it was answered."""

    method: str
    path: str
    headers: Mapping[str, str]
    """Names in lower case."""
    parameters: Mapping[str, tuple[str, ...]]
    """The query, and the form of a POST."""
    user: str
    """The authenticated user, "" for an anonymous request."""
    status: int | None
    """None: no answer was sent."""

    @property
    def scopes(self) -> tuple[str, ...]:
        """The scopes asked for, one by one."""
        return tuple(" ".join(self.parameters.get("scope", ())).split())


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class _Key:
    """An ECDSA key on P-256 that signs and verifies JSON Web Tokens (RFC 7515, ES256)."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        point = self._key.public_key().public_numbers()
        self._jwk = {
            "crv": "P-256",
            "kty": "EC",
            "x": _encode(point.x.to_bytes(_SCALAR_BYTES, "big")),
            "y": _encode(point.y.to_bytes(_SCALAR_BYTES, "big")),
        }
        thumbprint = json.dumps(self._jwk, separators=(",", ":"), sort_keys=True).encode()
        self.id = _encode(hashlib.sha256(thumbprint).digest())

    def jwks(self) -> dict[str, Any]:
        return {"keys": [{**self._jwk, "kid": self.id, "alg": "ES256", "use": "sig"}]}

    def sign(self, claims: Mapping[str, Any]) -> str:
        header = {"typ": "JWT", "alg": "ES256", "kid": self.id}
        parts = (json.dumps(part, separators=(",", ":")).encode() for part in (header, claims))
        text = ".".join(_encode(part) for part in parts)
        r, s = decode_dss_signature(self._key.sign(text.encode(), ec.ECDSA(SHA256())))
        signature = r.to_bytes(_SCALAR_BYTES, "big") + s.to_bytes(_SCALAR_BYTES, "big")
        return f"{text}.{_encode(signature)}"

    def verify(self, token: str) -> dict[str, Any] | None:
        text, _, signature = token.rpartition(".")
        try:
            raw = _decode(signature)
            pair = (int.from_bytes(raw[:_SCALAR_BYTES], "big"), raw[_SCALAR_BYTES:])
            der = encode_dss_signature(pair[0], int.from_bytes(pair[1], "big"))
            self._key.public_key().verify(der, text.encode(), ec.ECDSA(SHA256()))
            claims = json.loads(_decode(text.partition(".")[2]))
        except (ValueError, InvalidSignature):
            return None
        return claims if isinstance(claims, dict) else None


class TokenServer(AbstractContextManager["TokenServer"]):
    """Serves tokens on a free loopback port from `__enter__` to `__exit__`.

    Args:
        users: By name.
        anonymous: What is allowed without a login; None: nobody without one gets a token.
        service: The registry's name in tokens and challenges.
        issuer: This server's name in tokens.
        lifetime: Seconds that a token is good for, said as `expires_in` while `say_lifetime` is set.
        rotate: Whether an identity token is replaced whenever it is used.
        tls: Serves https with it.
        clock: The time in tokens.

    The switches may be set at any time:
        status: Answer this to everything, with `body`.
        body: Answer this in place of a token.
        silent: Never answer; requests are held until the server ends.
        say_lifetime: Whether answers say `expires_in`.
        token_member: The member of the answer that holds the token.
        deny_empty: Answer 403 to who may do nothing of what is asked for; else there comes a
            token that allows nothing.
        retry_after: Say this in every answer.
    """

    def __init__(
        self,
        *,
        users: Mapping[str, User] | None = None,
        anonymous: Mapping[str, frozenset[str]] | None = None,
        service: str = "fake",
        issuer: str = "token-server.test",
        lifetime: float = 300,
        rotate: bool = False,
        tls: ssl.SSLContext | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.users = dict(users or {})
        self.anonymous = anonymous
        self.service = service
        self.issuer = issuer
        self.lifetime = lifetime
        self.rotate = rotate
        self.status: int | None = None
        self.body: bytes | None = None
        self.retry_after: str | None = None
        self.silent = False
        self.deny_empty = False
        self.say_lifetime = True
        self.token_member = "token"
        self._clock = clock or SystemClock()
        self._key = _Key()
        self._lock = threading.Lock()
        self._calls: list[TokenCall] = []
        self._identities: dict[str, str] = {}
        self._serial = itertools.count(1)
        self._ending = threading.Event()
        self._server = _Server(("127.0.0.1", 0), self)
        self._scheme = "http"
        if tls is not None:
            self._scheme = "https"
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def host(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    @property
    def realm(self) -> str:
        """The address that a registry's challenge names."""
        return f"{self._scheme}://{self.host}/token"

    @property
    def calls(self) -> tuple[TokenCall, ...]:
        """Every request so far, in order."""
        with self._lock:
            return tuple(self._calls)

    def count(self, method: str | None = None) -> int:
        """Return how many requests came in."""
        return sum(method in (None, call.method) for call in self.calls)

    def challenge(self, scope: str = "") -> str:
        """Return the `WWW-Authenticate` header of a registry that uses this server."""
        text = f'Bearer realm="{self.realm}",service="{self.service}"'
        return f'{text},scope="{scope}"' if scope else text

    def identity_token(self, user: str) -> str:
        """Return a new identity (refresh) token of `user`."""
        with self._lock:
            token = f"identity-{next(self._serial)}-{user}"
            self._identities[token] = user
        return token

    def token(
        self, user: str = "", scopes: Sequence[str] = (), *, lifetime: float | None = None
    ) -> str:
        """Return a token that allows `scopes`, whatever the user may do."""
        return self._sign(user, [_access(scope) for scope in scopes], lifetime)

    def claims(self, token: str) -> Mapping[str, Any] | None:
        """Return the claims of a token that this server made, None for any other."""
        return self._key.verify(token)

    def distribution_auth(self, folder: Path) -> dict[str, Any]:
        """Return the `auth` block for distribution's configuration; writes its key to `folder`."""
        keys = folder / "jwks.json"
        keys.write_text(json.dumps(self._key.jwks()))
        return {
            "token": {
                "realm": self.realm,
                "service": self.service,
                "issuer": self.issuer,
                "jwks": str(keys),
                "signingalgorithms": ["ES256"],
            }
        }

    # --- answering

    def _answer(self, method: str, parameters: Mapping[str, tuple[str, ...]], login: str) -> _Made:
        """Return the answer to one request."""
        if self.status is not None:
            return _Made(self.status, self.body or b"")
        user, identity = self._who(method, parameters, login)
        if user is None:
            status = 400 if method == "POST" else 401
            return _Made(status, b'{"error":"invalid_grant","details":"wrong login"}')
        if self.body is not None:
            return _Made(200, self.body, user)
        allowed = self.users[user].allowed if user else self.anonymous or {}
        access = [
            _cut(_access(scope), allowed) for scope in " ".join(parameters.get("scope", ())).split()
        ]
        if access and not any(entry["actions"] for entry in access) and self.deny_empty:
            return _Made(403, b'{"errors":[{"code":"DENIED"}]}', user)
        data: dict[str, Any] = {self.token_member: self._sign(user, access, None)}
        if self.say_lifetime:
            data["expires_in"] = self.lifetime
        if identity:
            data["refresh_token"] = identity
        return _Made(200, json.dumps(data).encode(), user)

    def _who(
        self, method: str, parameters: Mapping[str, tuple[str, ...]], login: str
    ) -> tuple[str | None, str]:
        """Return the user (None: refused) and the identity token to hand out."""
        if method == "POST":
            old = parameters.get("refresh_token", ("",))[0]
            with self._lock:
                user = self._identities.get(old)
                if user is None or parameters.get("grant_type") != ("refresh_token",):
                    return None, ""
                if not self.rotate:
                    return user, old
                del self._identities[old]
            return user, self.identity_token(user)
        kind, _, value = login.partition(" ")
        if kind.lower() != "basic":
            return ("" if self.anonymous is not None else None), ""
        name, _, password = base64.b64decode(value).decode().partition(":")
        known = self.users.get(name)
        return (name if known is not None and known.password == password else None), ""

    def _sign(self, user: str, access: list[dict[str, Any]], lifetime: float | None) -> str:
        now = self._clock.now().timestamp()
        with self._lock:
            serial = next(self._serial)
        return self._key.sign(
            {
                "iss": self.issuer,
                "sub": user,
                "aud": self.service,
                "exp": int(now + (self.lifetime if lifetime is None else lifetime)),
                "nbf": int(now) - _BACKDATED_SECONDS,
                "iat": int(now),
                "jti": str(serial),
                "access": [entry for entry in access if entry["actions"]],
            }
        )

    def _serve(self, handler: _Handler) -> None:
        parts = urlsplit(handler.path)
        parameters = {name: tuple(values) for name, values in parse_qs(parts.query).items()}
        length = int(handler.headers.get("Content-Length") or 0)
        for name, values in parse_qs(handler.rfile.read(length).decode()).items():
            parameters[name] = tuple(values)
        made = _Made(None)
        if not self.silent:
            made = self._answer(
                handler.command, parameters, handler.headers.get("Authorization", "")
            )
        headers = {name.lower(): value for name, value in handler.headers.items()}
        call = TokenCall(handler.command, parts.path, headers, parameters, made.user, made.status)
        with self._lock:
            self._calls.append(call)
        if made.status is None:
            self._ending.wait()
            return
        handler.send_response(made.status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(made.body)))
        if self.retry_after is not None:
            handler.send_header("Retry-After", self.retry_after)
        handler.end_headers()
        handler.wfile.write(made.body)


@dataclass(frozen=True, slots=True)
class _Made:
    status: int | None
    body: bytes = b""
    user: str = ""


def _access(scope: str) -> dict[str, Any]:
    kind, _, rest = scope.partition(":")
    name, _, actions = rest.rpartition(":")
    return {"type": kind, "name": name, "actions": actions.split(",")}


def _cut(entry: dict[str, Any], allowed: Mapping[str, frozenset[str]]) -> dict[str, Any]:
    """Return `entry` with what is allowed of it."""
    actions = {
        action
        for pattern, some in allowed.items()
        if fnmatch.fnmatchcase(entry["name"], pattern)
        for action in some
    }
    return {**entry, "actions": [action for action in entry["actions"] if action in actions]}


class _Server(ThreadingHTTPServer):
    daemon_threads = False

    def __init__(self, address: tuple[str, int], owner: TokenServer) -> None:
        self.owner = owner
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that hangs up early is part of some tests."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        self.server.owner._serve(self)

    def do_POST(self) -> None:
        self.server.owner._serve(self)

    def log_message(self, *_: object) -> None:
        """Say nothing."""

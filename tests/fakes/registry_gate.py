"""The authentication of a fake registry."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dockercomms.platforms.clock import Clock
from tests.fakes.registry_answers import error
from tests.fakes.registry_wire import Answer

TokenCheck = Callable[[str], Mapping[str, Any] | None]
"""Takes a bearer token; returns its claims, or `None` for an invalid token."""


def unverified_claims(token: str) -> Mapping[str, Any] | None:
    """Return the claims of a JWT without looking at its signature."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        value = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, binascii.Error):
        return None
    return value if isinstance(value, dict) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Checks credentials before any endpoint sees the request."""

    auth: Literal["none", "basic", "token"]
    clock: Clock
    word: str = "Basic"
    """The name of `basic` in the challenge."""
    users: Mapping[str, str] = field(default_factory=dict)
    """Passwords by name, for `basic`."""
    realm: str = ""
    """URL of the token server, for `token`."""
    service: str = "fake"
    check_token: TokenCheck = unverified_claims

    def refuse(
        self, authorization: str, repository: str, actions: tuple[str, ...]
    ) -> Answer | None:
        """Return the 401 for a request that may not do `actions`, else `None`.

        `repository` is "" for `/v2/` and, with actions, for the catalogue.
        """
        if self.auth == "none":
            return None
        if self.auth == "basic":
            return self._refuse_basic(authorization)
        return self._refuse_bearer(authorization, repository, actions)

    def _refuse_basic(self, authorization: str) -> Answer | None:
        kind, _, value = authorization.partition(" ")
        if kind.lower() == "basic":
            try:
                user, _, password = base64.b64decode(value, validate=True).decode().partition(":")
            except ValueError:
                user, password = "", ""
            if user in self.users and self.users[user] == password:
                return None
        return error(401, "UNAUTHORIZED", **{"WWW-Authenticate": f'{self.word} realm="fake"'})

    def _refuse_bearer(
        self, authorization: str, repository: str, actions: tuple[str, ...]
    ) -> Answer | None:
        challenge = f'Bearer realm="{self.realm}",service="{self.service}"'
        resource = ("repository", repository) if repository else ("registry", "catalog")
        if actions:
            challenge += f',scope="{resource[0]}:{resource[1]}:{",".join(actions)}"'
        kind, _, token = authorization.partition(" ")
        if kind.lower() == "bearer":
            claims = self.check_token(token)
            if claims is None or claims.get("exp", 0) <= self.clock.now().timestamp():
                challenge += ',error="invalid_token"'
            elif set(actions) <= _allowed(claims, resource):
                return None
            else:
                challenge += ',error="insufficient_scope"'
        return error(401, "UNAUTHORIZED", **{"WWW-Authenticate": challenge})


def _allowed(claims: Mapping[str, Any], resource: tuple[str, str]) -> set[str]:
    return {
        action
        for entry in claims.get("access") or ()
        if (entry.get("type"), entry.get("name")) == resource
        for action in entry.get("actions") or ()
    }

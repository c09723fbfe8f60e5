"""An OpenID Connect issuer: it gives anybody any token that a test asks for.

Source: OpenID Connect Core 1.0, section 2; RFC 7515, section 3.1; RFC 7518, section 3.4.
"""

from __future__ import annotations

import base64
import json
import time
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

AUDIENCE = "sigstore"
_SCALAR_BYTES = 32
_KEY_ID = "k1"
_BACKDATED_SECONDS = 5


class TokenRefused(Exception):
    """The issuer did not make this token, or it is over."""


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class Issuer:
    """Signs tokens with a key of its own; `url` is set by whoever serves it."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.url = ""

    def discovery(self) -> dict[str, object]:
        """Return the document at `/.well-known/openid-configuration`."""
        return {
            "issuer": self.url,
            "jwks_uri": f"{self.url}/keys",
            "authorization_endpoint": f"{self.url}/auth",
            "token_endpoint": f"{self.url}/token",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        }

    def keys(self) -> dict[str, object]:
        """Return the key set that verifies the tokens."""
        numbers = self.key.public_key().public_numbers()
        x, y = (_encode(n.to_bytes(_SCALAR_BYTES, "big")) for n in (numbers.x, numbers.y))
        use = {"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": _KEY_ID}
        return {"keys": [{**use, "x": x, "y": y}]}

    def token(self, email: str, *, seconds: int = 600, **claims: object) -> str:
        """Return a token for `email` that lives `seconds`; `claims` replace the usual ones."""
        now = int(time.time())
        body = {
            "iss": self.url,
            "sub": email,
            "aud": AUDIENCE,
            "iat": now,
            "nbf": now - _BACKDATED_SECONDS,
            "exp": now + seconds,
            "email": email,
            "email_verified": True,
            **claims,
        }
        head = {"alg": "ES256", "typ": "JWT", "kid": _KEY_ID}
        signed = ".".join(_encode(json.dumps(part).encode()) for part in (head, body))
        r, s = decode_dss_signature(self.key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        raw = r.to_bytes(_SCALAR_BYTES, "big") + s.to_bytes(_SCALAR_BYTES, "big")
        return f"{signed}.{_encode(raw)}"

    def claims(self, token: str) -> dict[str, Any]:
        """Return the claims of a token of ours that is not over.

        Raises:
            TokenRefused: it is not.
        """
        try:
            signed, _, signature = token.rpartition(".")
            raw = _decode(signature)
            r, s = (int.from_bytes(raw[i : i + _SCALAR_BYTES], "big") for i in (0, _SCALAR_BYTES))
            self.key.public_key().verify(
                encode_dss_signature(r, s), signed.encode(), ec.ECDSA(hashes.SHA256())
            )
            found: dict[str, Any] = json.loads(_decode(signed.partition(".")[2]))
        except (InvalidSignature, ValueError) as error:
            raise TokenRefused("not a token of this issuer") from error
        if found["iss"] != self.url or found["aud"] != AUDIENCE or found["exp"] < time.time():
            raise TokenRefused("token is over, or for somebody else")
        if not found["email_verified"]:
            raise TokenRefused("email_verified is false")
        return found

"""DSSE envelopes around in-toto statements, signed and verified with a key.

Source: Dead Simple Signing Envelope v1.0.2 (protocol.md); SPEC.md section 9.
"""

from __future__ import annotations

from typing import Protocol

from dockercomms.records import dataclass

PAYLOAD_TYPE_INTOTO = "application/vnd.in-toto+json"
SIGNED_PREFIX = b"DSSEv1 "
"""How the bytes begin that the signature of an envelope is over."""


class Signs(Protocol):
    """What can sign bytes: a private key, or a service in front of one."""

    def sign(self, data: bytes) -> bytes:
        """Return the signature over `data`."""
        ...


class Verifies(Protocol):
    """What can verify a signature."""

    def verifies(self, signature: bytes, data: bytes) -> bool:
        """Return whether `signature` is over `data`."""
        ...


@dataclass(frozen=True, slots=True)
class Envelope:
    """A payload, its type, and one signature over both."""

    payload: bytes
    payload_type: str
    signature: bytes


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return the pre-authentication encoding: the bytes that are signed."""
    kind = payload_type.encode("utf-8")
    return SIGNED_PREFIX + b"%d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign(payload: bytes, key: Signs, *, payload_type: str = PAYLOAD_TYPE_INTOTO) -> Envelope:
    """Return `payload` in an envelope signed by `key`."""
    return Envelope(payload, payload_type, key.sign(pae(payload_type, payload)))


def verify(envelope: Envelope, key: Verifies) -> bool:
    """Return whether the envelope's signature is `key`'s. Says nothing about the payload."""
    return key.verifies(envelope.signature, pae(envelope.payload_type, envelope.payload))

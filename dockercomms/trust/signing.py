"""Signers of messages, receipts and other objects: they return Sigstore bundles.

`KeySigner` signs with a key pair; the keyless signer is in `trust.keyless`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

from dockercomms.errors import VerificationError
from dockercomms.oci.model import Digest, matches
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.manifest import Message, Receipt
from dockercomms.trust.bundle import build_key_bundle, parse_bundle_json, sign, verify
from dockercomms.trust.keys import PrivateKey
from dockercomms.trust.statement import (
    ForeignPredicate,
    build_statement,
    message_predicate,
    receipt_predicate,
)


@dataclass(frozen=True, slots=True)
class SignedBy:
    """The key or identity that signs."""

    kind: Literal["key", "keyless"]
    signer: str
    """The key's `spki_sha256`, or an identity."""


class Signer(Protocol):
    """Signs messages, receipts, and any object by its digest."""

    @property
    def signed_by(self) -> SignedBy:
        """The key or identity. Keyless: gets the identity's token on first use.

        Raises:
            SigningError: there is no identity.
        """
        ...

    def sign(self, message: Message, manifest: bytes) -> bytes:
        """Return a Sigstore bundle about the message whose bytes are `manifest`.

        The bundle has been verified as a receiver would verify it.

        Raises:
            VerificationError: the bundle does not satisfy our own verifier.
            SigningError: signing failed; SigningUnreachable: a service does not answer.
            ProtocolError: the message cannot be signed.
        """
        ...

    def sign_receipt(self, receipt: Receipt) -> bytes:
        """Return a Sigstore bundle with the values of the manifest of `receipt`.

        The receipt's own layers have no influence: build it without, sign, build it with the
        bundle.

        Raises:
            As `sign`.
        """
        ...

    def approve(self, name: str, digest: Digest) -> bytes:
        """Return an approval of the object with `digest`: a bundle as `cosign sign` writes.

        Args:
            name: The object's name, for people.
            digest: Of any manifest or file.

        Raises:
            As `sign`.
        """
        ...


TimestampSource = Callable[[bytes], bytes]
"""Returns the DER RFC 3161 response about a signature."""


@dataclass(frozen=True, slots=True)
class KeySigner:
    """Signs with a key pair; see `Signer` for the contract.

    Args:
        key: The key pair.
        timestamp: Gets a timestamp for each signature, if given.
    """

    key: PrivateKey
    timestamp: TimestampSource | None = None

    @property
    def signed_by(self) -> SignedBy:
        """The key."""
        return SignedBy("key", self.key.public_key().spki_sha256)

    def sign(self, message: Message, manifest: bytes) -> bytes:
        """Return a bundle about a message."""
        check_bytes(message, manifest)
        predicate = message_predicate(message, signer_spki=self.key.public_key().spki)
        return self._bundle(build_statement(message.header.id, message.digest, predicate))

    def sign_receipt(self, receipt: Receipt) -> bytes:
        """Return a bundle about a receipt."""
        predicate = receipt_predicate(receipt, signer_spki=self.key.public_key().spki)
        return self._bundle(build_statement(receipt.message_id, receipt.message, predicate))

    def approve(self, name: str, digest: Digest) -> bytes:
        """Return a bundle that approves of `digest`."""
        return self._bundle(build_statement(name, digest, ForeignPredicate()))

    def _bundle(self, statement: bytes) -> bytes:
        envelope = sign(statement, self.key)
        tokens = () if self.timestamp is None else (self.timestamp(envelope.signature),)
        data = build_key_bundle(envelope, self.signed_by.signer, timestamps=tokens)
        # Read back and verify before publishing: memory may be faulty.
        if not verify(parse_bundle_json(data).envelope, self.key.public_key()):
            raise VerificationError("the signature just made does not verify")
        return data


def check_bytes(message: Message, manifest: bytes) -> None:
    """Check that `message` was read from `manifest`.

    Raises:
        VerificationError: it was not.
    """
    if not matches(manifest, message.digest):
        raise VerificationError(
            f"message {message.header.id}: the manifest is not the one that was parsed"
        )

"""Messages, receipts and bundles, honest and forged, for the tests of trust."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from dockercomms.oci.model import Descriptor, Digest, digest_of
from dockercomms.protocol.fields import format_time
from dockercomms.protocol.header import (
    CHUNK_INDEX,
    CHUNK_MEDIA_TYPES,
    CHUNK_SIZE,
    CREATED_AT,
    MESSAGE_ID,
    PROTOCOL_VERSION,
    RECEIPT_FOR,
    RECEIPT_REASON,
    RECEIPT_STATUS,
    RECEIPT_VERIFIED,
    RECIPIENT,
    SENDER,
    VERSION,
    MessageHeader,
)
from dockercomms.protocol.manifest import (
    ManifestBuilder,
    Message,
    Receipt,
    parse_message,
    parse_receipt,
)
from dockercomms.trust import bundle as dsse
from dockercomms.trust.bundle import PAYLOAD_TYPE_INTOTO, build_key_bundle
from dockercomms.trust.checks import Terms
from dockercomms.trust.keyless import SigstoreRoots
from dockercomms.trust.keys import PrivateKey, PublicKey
from dockercomms.trust.policy import Policy, Sender, TrustedKey
from dockercomms.trust.signing import KeySigner
from tests.fakes.sigstore_certificates import spki

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
ALICE, BOB, CAROL, EVE = (f"{name}@example.com" for name in ("alice", "bob", "carol", "eve"))
REPO = "registry.example/team/box"
MESSAGE_UUID = "00000000-0000-0000-0000-0000000000a1"

KEYS = {name: PrivateKey.generate() for name in (ALICE, BOB, CAROL, EVE)}


def public(name: str) -> PublicKey:
    return KEYS[name].public_key()


@cache
def foreign_keys() -> dict[str, Any]:
    """Return a private key of each kind that only verifies here, by what it is called."""
    return {
        "ed25519": ed25519.Ed25519PrivateKey.generate(),
        "rsa-2048": rsa.generate_private_key(public_exponent=65537, key_size=2048),
    }


def public_of(key: Any) -> PublicKey:
    return PublicKey(spki(key.public_key()))


def manifest(**changes: object) -> bytes:
    """Return a message from Alice to Bob."""
    header = MessageHeader(
        id=MESSAGE_UUID,
        sender=ALICE,
        recipient=BOB,
        created_at=NOW,
        ttl_seconds=604_800,
        filename="a.txt",
        total_bytes=1,
        chunk_bytes=1,
        chunk_count=1,
        compression="zstd",
        payload_digest=digest_of(b"x"),
    )
    layer = Descriptor.of(
        b"any layer",
        CHUNK_MEDIA_TYPES["zstd"],
        annotations={CHUNK_INDEX: "0", CHUNK_SIZE: "1"},
    )
    header = replace(header, **changes)  # type: ignore[arg-type]
    return ManifestBuilder.message(header.to_annotations(), (layer,)).build()[0]


def message(**changes: object) -> Message:
    return parse_message(manifest(**changes))


def legacy_message() -> Message:
    """Return a message of version 1.0 without a time, which no statement of ours can describe."""
    annotations = {
        "dockercomms.message.id": "old",
        "dockercomms.sender": ALICE,
        "dockercomms.recipient": BOB,
        "dockercomms.version": "1.0",
        "dockercomms.filename": "a.txt",
        "dockercomms.total_bytes": "1",
        "dockercomms.chunk_bytes": "1",
        "dockercomms.chunk_count": "1",
        "dockercomms.compression": "zstd",
    }
    layer = Descriptor.of(b"any", CHUNK_MEDIA_TYPES["zstd"], annotations={CHUNK_INDEX: "0"})
    return parse_message(ManifestBuilder.message(annotations, (layer,)).build()[0])


def receipt(about: Message | None = None, **changes: str) -> Receipt:
    """Return Bob's receipt for a message of Alice's."""
    about = about or message()
    annotations = {
        VERSION: PROTOCOL_VERSION,
        SENDER: about.header.sender,
        RECIPIENT: about.header.recipient,
        CREATED_AT: format_time(NOW + timedelta(minutes=2)),
        MESSAGE_ID: about.header.id,
        RECEIPT_FOR: about.digest,
        RECEIPT_STATUS: "accepted",
        RECEIPT_VERIFIED: "true",
        RECEIPT_REASON: "looks good",
        **changes,
    }
    return parse_receipt(ManifestBuilder.receipt(annotations, subject=about.descriptor).build()[0])


def legacy_receipt() -> Receipt:
    """Return a receipt of version 1.0 without a time."""
    annotations = {RECEIPT_FOR: message().digest, RECEIPT_STATUS: "accepted"}
    return parse_receipt(ManifestBuilder.receipt(annotations).build()[0])


def signed(about: Message | None = None, by: str = ALICE, **changes: object) -> bytes:
    """Return the bundle of `by` about a message."""
    data = manifest(**changes)
    return KeySigner(KEYS[by]).sign(about or parse_message(data), data)


def signed_receipt(about: Receipt | None = None, by: str = BOB) -> bytes:
    return KeySigner(KEYS[by]).sign_receipt(about or receipt())


def statement(bundle: bytes) -> dict[str, Any]:
    """Return the statement in a bundle."""
    found: dict[str, Any] = json.loads(envelope(bundle)["payload"])
    return found


def envelope(bundle: bytes) -> dict[str, Any]:
    found = json.loads(bundle)["dsseEnvelope"]
    return {**found, "payload": base64.b64decode(found["payload"])}


def forged(
    payload: bytes | Mapping[str, object],
    by: str | Any = ALICE,
    *,
    kind: str = PAYLOAD_TYPE_INTOTO,
    hint: str | None = None,
    timestamps: tuple[bytes, ...] = (),
) -> bytes:
    """Return a bundle of any payload, truly signed by `by`: a name, or any private key."""
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    key = KEYS[by] if isinstance(by, str) else by
    spki_sha256 = key.public_key().spki_sha256 if hint is None else hint
    return build_key_bundle(
        dsse.sign(data, key, payload_type=kind), spki_sha256, timestamps=timestamps
    )


def approval(digest: Digest, by: str = ALICE) -> bytes:
    return KeySigner(KEYS[by]).approve("", digest)


def sender(name: str = ALICE, **changes: Any) -> Sender:
    """Return an entry that trusts `name` with its own key."""
    return replace(Sender(name=name, keys=(TrustedKey(key=public(name)),)), **changes)


def policy(*senders: Sender, **changes: Any) -> Policy:
    """Return a policy that trusts `senders`, Alice if there are none."""
    return Policy(senders=senders or (sender(),), **changes)


def terms(rules: Policy | None = None, **changes: Any) -> Terms:
    """Return Bob's terms, an hour after the message was sent."""
    found = Terms(
        policy=policy() if rules is None else rules,
        me=(BOB,),
        repo=REPO,
        now=NOW + timedelta(hours=1),
        roots=SigstoreRoots(),
    )
    return replace(found, **changes)

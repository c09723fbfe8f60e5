"""Sigstore bundles v0.3 with a DSSE envelope: the form that cosign 3 writes and reads.

There are two kinds: signed by a key (with the key's hint) and keyless (a certificate, log entries,
timestamps). This module builds and parses the first kind, and signs and verifies its envelope with
a key. Of the second kind it reads the envelope; `trust.keyless` reads the rest.

Source: sigstore protobuf-specs v0.5.0, `sigstore_bundle.proto`; Dead Simple Signing Envelope
v1.0.2 (protocol.md); SPEC.md sections 2 and 9.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Literal, Protocol

from dockercomms.errors import ProtocolError
from dockercomms.oci.strict_json import canonical_json, parse_json
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.header import ARTIFACT_TYPE_BUNDLE
from dockercomms.trust.statement import base64_bytes, base64_text, json_list, json_object, json_text

BUNDLE_CONTENT = "dev.sigstore.bundle.content"
BUNDLE_PREDICATE_TYPE = "dev.sigstore.bundle.predicateType"
"""The annotations that cosign writes beside a bundle and searches for (SPEC.md section 2)."""
BUNDLE_SIGNER = "dockercomms.signer"
"""The `spki_sha256` of the signing key, to find its bundle among many (SPEC.md section 2)."""

PAYLOAD_TYPE_INTOTO = "application/vnd.in-toto+json"
SIGNED_PREFIX = b"DSSEv1 "
"""The first bytes of every signed pre-authentication encoding."""


class Signs(Protocol):
    """A signer of bytes: a private key, or a service that has one."""

    def sign(self, data: bytes) -> bytes:
        """Return the signature over `data`."""
        ...


class Verifies(Protocol):
    """A verifier of signatures, such as a public key."""

    def verifies(self, signature: bytes, data: bytes) -> bool:
        """Return whether `signature` is valid for `data`."""
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
    """Return whether `key` made the envelope's signature. It does not check the payload."""
    return key.verifies(envelope.signature, pae(envelope.payload_type, envelope.payload))


MAX_BUNDLE_BYTES = 2**20
"""The limit of SPEC.md section 8; a keyless bundle has about 5 KB."""

MAX_TIMESTAMPS = 32
"""The same limit as in sigstore clients: each one costs a verification."""

BundleKind = Literal["key", "keyless"]

_TOP_KEYS = frozenset({"mediaType", "verificationMaterial", "dsseEnvelope"})
_MATERIAL_KEYS = frozenset({"publicKey", "certificate", "tlogEntries", "timestampVerificationData"})
_ENVELOPE_KEYS = frozenset({"payload", "payloadType", "signatures"})
_SIGNATURE_KEYS = frozenset({"sig", "keyid"})
_HINT_KEYS = frozenset({"hint"})
_TIMESTAMP_KEYS = frozenset({"signedTimestamp"})


@dataclass(frozen=True, slots=True, kw_only=True)
class SigstoreBundle:
    """A parsed bundle, not verified."""

    kind: BundleKind
    envelope: Envelope
    hint: str = ""
    """The claimed key of a key bundle, which is tried first; it is no proof."""
    timestamps: tuple[bytes, ...] = ()
    """DER RFC 3161 timestamp responses over the signature."""
    value: Mapping[str, object] = field(repr=False, hash=False)
    """The JSON, parsed once: every reader sees the same members."""


def build_key_bundle(envelope: Envelope, hint: str, *, timestamps: tuple[bytes, ...] = ()) -> bytes:
    """Return the bundle of `envelope` signed by the key with `hint`.

    `parse_bundle_json` is its inverse. Members without a value are left out, as cosign does.
    """
    material: dict[str, object] = {"publicKey": {"hint": hint}}
    if timestamps:
        material["timestampVerificationData"] = {
            "rfc3161Timestamps": [{"signedTimestamp": base64_text(item)} for item in timestamps]
        }
    return canonical_json(
        {
            "mediaType": ARTIFACT_TYPE_BUNDLE,
            "verificationMaterial": material,
            "dsseEnvelope": {
                "payload": base64_text(envelope.payload),
                "payloadType": envelope.payload_type,
                "signatures": [{"sig": base64_text(envelope.signature)}],
            },
        }
    )


def parse_bundle_json(
    data: bytes, *, where: str = "bundle", max_bytes: int = MAX_BUNDLE_BYTES
) -> SigstoreBundle:
    """Return the bundle in `data`; `where` names it in errors.

    It refuses malformed bundles, other versions, unknown members, a message signature instead of
    an envelope, more than one signature, and a certificate beside a key.

    Raises:
        ProtocolError: any of these, or more than `max_bytes`.
    """
    if len(data) > max_bytes:
        raise ProtocolError(f"{where}: {len(data)} bytes; at most {max_bytes} are read")
    return bundle_of(parse_json(data, where=where), where=where)


def bundle_of(value: object, *, where: str = "bundle") -> SigstoreBundle:
    """Return the bundle in a parsed JSON value; see `parse_bundle_json`."""
    top = json_object(value, where, known=_TOP_KEYS)
    if top.get("mediaType") != ARTIFACT_TYPE_BUNDLE:
        raise ProtocolError(
            f"{where}: media type {top.get('mediaType')!r:.100}; {ARTIFACT_TYPE_BUNDLE} expected"
        )
    material = json_object(
        top.get("verificationMaterial"), f"{where}: material", known=_MATERIAL_KEYS
    )
    kind, hint = _kind(material, where)
    json_list(material.get("tlogEntries"), f"{where}: tlogEntries")
    return SigstoreBundle(
        kind=kind,
        envelope=parse_envelope(top.get("dsseEnvelope"), f"{where}: envelope"),
        hint=hint,
        timestamps=_timestamps(material.get("timestampVerificationData"), f"{where}: timestamps"),
        value=top,
    )


def _kind(material: Mapping[str, object], where: str) -> tuple[BundleKind, str]:
    if "publicKey" in material and "certificate" in material:
        raise ProtocolError(f"{where}: a key or a certificate expected, both received")
    if "certificate" in material:
        return "keyless", ""
    if "publicKey" not in material:
        raise ProtocolError(f"{where}: a key or a certificate expected, neither received")
    key = json_object(material["publicKey"], f"{where}: publicKey", known=_HINT_KEYS)
    return "key", json_text(key.get("hint", ""), f"{where}: hint")


def parse_envelope(value: object, where: str) -> Envelope:
    """Return the envelope in a parsed JSON value, which must have exactly one signature.

    Raises:
        ProtocolError: it is not such an envelope.
    """
    fields = json_object(value, where, known=_ENVELOPE_KEYS)
    signatures = json_list(fields.get("signatures"), f"{where}: signatures")
    if len(signatures) != 1:
        raise ProtocolError(f"{where}: {len(signatures)} signatures; exactly one expected")
    signature = json_object(signatures[0], f"{where}: signature", known=_SIGNATURE_KEYS)
    return Envelope(
        payload=base64_bytes(fields.get("payload"), f"{where}: payload"),
        payload_type=json_text(fields.get("payloadType"), f"{where}: payloadType"),
        signature=base64_bytes(signature.get("sig"), f"{where}: sig"),
    )


def _timestamps(value: object, where: str) -> tuple[bytes, ...]:
    if value is None:
        return ()
    fields = json_object(value, where, known=frozenset({"rfc3161Timestamps"}))
    tokens = json_list(fields.get("rfc3161Timestamps"), where)
    if len(tokens) > MAX_TIMESTAMPS:
        raise ProtocolError(f"{where}: {len(tokens)} timestamps; at most {MAX_TIMESTAMPS}")
    return tuple(
        base64_bytes(json_object(item, where, known=_TIMESTAMP_KEYS).get("signedTimestamp"), where)
        for item in tokens
    )


def named_signer(bundle: SigstoreBundle) -> dict[str, str]:
    """Return the annotation with the fingerprint of the signing key; empty for a certificate."""
    return {BUNDLE_SIGNER: bundle.hint} if bundle.hint else {}

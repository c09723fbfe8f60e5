"""Bundles about files, and about manifests that are not messages, by this program and by cosign.

It accepts more than messages may carry: bundles v0.1 to v0.3, with an envelope or a plain signature
(of `cosign sign-blob`). Such a bundle means that its signer approves of the content.

Source: sigstore client specification v1.0; sigstore protobuf-specs v0.5.0, `sigstore_bundle.proto`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import field

from dockercomms.errors import ProtocolError, UsageError, VerificationError
from dockercomms.oci.model import Digest
from dockercomms.oci.strict_json import parse_json
from dockercomms.platforms.records import dataclass
from dockercomms.trust.bundle import (
    MAX_BUNDLE_BYTES,
    MAX_TIMESTAMPS,
    PAYLOAD_TYPE_INTOTO,
    BundleKind,
    Envelope,
    pae,
    parse_envelope,
    verify,
)
from dockercomms.trust.keyless import SigstoreRoots
from dockercomms.trust.keys import PublicKey
from dockercomms.trust.policy import Root
from dockercomms.trust.roots import KeylessProof
from dockercomms.trust.sigstore_gaps import with_zero_values
from dockercomms.trust.statement import (
    STATEMENT_TYPE,
    base64_bytes,
    json_list,
    json_object,
    json_text,
)

STATEMENT_TYPES = frozenset({STATEMENT_TYPE, "https://in-toto.io/Statement/v0.1"})
"""They differ only in members that this module ignores. Source: in-toto attestation framework
v1.1.0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """A parsed bundle, not verified."""

    kind: BundleKind
    signature: bytes
    envelope: Envelope | None
    """Missing with a plain signature over the file."""
    predicate_type: str = ""
    """The type in the envelope's statement."""
    subjects: frozenset[str] = frozenset()
    """The SHA-256 digests that the statement is about."""
    hint: str = ""
    timestamps: tuple[bytes, ...] = ()
    entries: tuple[Mapping[str, object], ...] = ()
    """Entries of transparency logs."""
    value: Mapping[str, object] = field(repr=False, hash=False)


def parse_material(data: bytes, *, where: str = "bundle") -> Material:
    """Return the bundle in `data`; `where` names it in errors.

    Raises:
        ProtocolError: not a bundle, or more than `MAX_BUNDLE_BYTES`.
    """
    if len(data) > MAX_BUNDLE_BYTES:
        raise ProtocolError(f"{where}: {len(data)} bytes; at most {MAX_BUNDLE_BYTES} are read")
    top = json_object(parse_json(data, where=where), where)
    top = with_zero_values(top)
    material = json_object(top.get("verificationMaterial"), f"{where}: material")
    key = material.get("publicKey")
    stamps = json_object(material.get("timestampVerificationData") or {}, f"{where}: timestamps")
    tokens = json_list(stamps.get("rfc3161Timestamps"), f"{where}: timestamps")
    if len(tokens) > MAX_TIMESTAMPS:
        raise ProtocolError(f"{where}: {len(tokens)} timestamps; at most {MAX_TIMESTAMPS}")
    envelope, statement, signature = _content(top, where)
    return Material(
        kind="keyless" if key is None else "key",
        signature=signature,
        envelope=envelope,
        predicate_type="" if statement is None else statement.predicate_type,
        subjects=frozenset() if statement is None else statement.subjects,
        hint="" if key is None else json_text(json_object(key, where).get("hint", ""), where),
        timestamps=tuple(
            base64_bytes(json_object(item, where).get("signedTimestamp"), where) for item in tokens
        ),
        entries=tuple(
            json_object(item, f"{where}: log entry")
            for item in json_list(material.get("tlogEntries"), f"{where}: log entries")
        ),
        value=top,
    )


def _content(
    top: Mapping[str, object], where: str
) -> tuple[Envelope | None, _Statement | None, bytes]:
    """Return the envelope and its statement (for a plain signature neither), and the signature."""
    if "dsseEnvelope" not in top:
        plain = json_object(top.get("messageSignature"), f"{where}: messageSignature")
        return None, None, base64_bytes(plain.get("signature"), f"{where}: signature")
    envelope = parse_envelope(top["dsseEnvelope"], f"{where}: envelope")
    if envelope.payload_type != PAYLOAD_TYPE_INTOTO:
        raise ProtocolError(f"{where}: payload type {envelope.payload_type!r:.100}")
    statement = json_object(parse_json(envelope.payload, where=where), f"{where}: statement")
    kind = json_text(statement.get("_type"), f"{where}: statement: _type")
    if kind not in STATEMENT_TYPES:
        raise ProtocolError(f"{where}: statement of type {kind!r:.100}")
    subjects = json_list(statement.get("subject"), f"{where}: subject")
    digests = (
        json_object(json_object(item, where).get("digest"), f"{where}: digest") for item in subjects
    )
    return (
        envelope,
        _Statement(
            json_text(statement.get("predicateType"), f"{where}: predicateType"),
            frozenset(json_text(item.get("sha256", ""), f"{where}: sha256") for item in digests),
        ),
        envelope.signature,
    )


@dataclass(frozen=True, slots=True)
class _Statement:
    """The parts used of a statement, which may have any type and several subjects."""

    predicate_type: str
    subjects: frozenset[str]


def prove_key(material: Material, digest: Digest, key: PublicKey) -> None:
    """Check that `key` signed the content with `digest`.

    Raises:
        VerificationError: it did not.
    """
    if material.kind != "key":
        raise VerificationError("signed with a certificate; a key expected")
    _check_subject(material, digest)
    if not _signed_by(material, digest, key):
        raise VerificationError(f"not signed with key {key.spki_sha256}")


def prove_logged(
    material: Material, digest: Digest, key: PublicKey, roots: SigstoreRoots, root: Root
) -> None:
    """Check that a log of `root` has each log entry of a key's bundle, about this signature.

    Raises:
        VerificationError: an entry is not proven.
    """
    for entry in material.entries:
        body = roots.prove_log_entry(entry, root)
        try:
            _check_body(body, material, digest, key)
        except (ProtocolError, UsageError, ValueError) as error:
            raise VerificationError(f"log entry: {error}") from error


def prove_certificate(
    material: Material, digest: Digest, roots: SigstoreRoots, root: Root
) -> KeylessProof:
    """Return the proof that a certificate signed the content with `digest`.

    Raises:
        VerificationError: `root` does not prove it.
    """
    if material.kind != "keyless":
        raise VerificationError("signed with a key; a certificate expected")
    _check_subject(material, digest)
    bundle = roots.parse(material.value)
    if material.envelope is None:
        return roots.prove_file(bundle, root, digest)
    proof, envelope = roots.prove_envelope(bundle, root)
    if envelope != (material.envelope.payload_type, material.envelope.payload):
        raise VerificationError("sigstore read another payload than the envelope's")
    return proof


def _check_subject(material: Material, digest: Digest) -> None:
    if material.envelope is not None and digest.partition(":")[2] not in material.subjects:
        raise VerificationError("the statement is for another file")


def _signed_by(material: Material, digest: Digest, key: PublicKey) -> bool:
    if material.envelope is not None:
        return verify(material.envelope, key)
    if key.algorithm == "ed25519":
        raise VerificationError(
            "a plain signature with Ed25519 needs the file's bytes, not its digest; sign with an "
            "envelope"
        )
    return key.verifies_sha256(material.signature, bytes.fromhex(digest.partition(":")[2]))


def _check_body(body: bytes, material: Material, digest: Digest, key: PublicKey) -> None:
    """Check that a log entry is about this signature.

    Source: sigstore/rekor, types/hashedrekord/v0.0.1; rekor-tiles, `hashedrekord/v002`.
    """
    signed = bytes.fromhex(digest.partition(":")[2])
    if material.envelope is not None:
        envelope = material.envelope
        signed = hashlib.sha256(pae(envelope.payload_type, envelope.payload)).digest()
    top = json_object(parse_json(body, where="log entry"), "log entry")
    spec = json_object(top.get("spec"), "log entry")
    if top.get("apiVersion") == "0.0.2":
        found = _body_v2(json_object(spec.get("hashedRekordV002"), "log entry"))
    else:
        found = _body_v1(spec)
    if found != (material.signature, signed, key):
        raise VerificationError("the log entry is for another signature")


def _body_v1(spec: Mapping[str, object]) -> tuple[bytes, bytes, PublicKey]:
    signature = json_object(spec.get("signature"), "log entry")
    public = json_object(signature.get("publicKey"), "log entry")
    data = json_object(spec.get("data"), "log entry")
    hashed = json_object(data.get("hash"), "log entry")
    pem = base64_bytes(public.get("content"), "log entry")
    return (
        base64_bytes(signature.get("content"), "log entry"),
        bytes.fromhex(json_text(hashed.get("value"), "log entry")),
        PublicKey.from_pem(pem, where="log entry"),
    )


def _body_v2(spec: Mapping[str, object]) -> tuple[bytes, bytes, PublicKey]:
    signature = json_object(spec.get("signature"), "log entry")
    verifier = json_object(signature.get("verifier"), "log entry")
    public = json_object(verifier.get("publicKey"), "log entry")
    data = json_object(spec.get("data"), "log entry")
    return (
        base64_bytes(signature.get("content"), "log entry"),
        base64_bytes(data.get("digest"), "log entry"),
        PublicKey(base64_bytes(public.get("rawBytes"), "log entry")),
    )

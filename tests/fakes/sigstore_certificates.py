"""Certificates of a Sigstore: authorities, certificates by Fulcio, and the certificate log.

The certificate log keeps no tree: it gives valid time stamps and remembers its submissions.

Source: RFC 5280; RFC 6962, section 3.2; sigstore/fulcio, docs/certificate-specification.md.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from tests.fakes.sigstore_der import EXPLICIT_3, OCTET_STRING, UTF8_STRING, children, sequence, wrap

AnyPublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey

CERTIFICATE_LIFE = timedelta(minutes=10)
_AUTHORITY_LIFE = timedelta(days=3650)
_BACKDATED = timedelta(hours=1)
_ISSUER = ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
_ISSUER_V2 = ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
_SCT_LIST = ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
_POISON = bytes.fromhex("060a2b06010401d679020403")
"""The DER of the identifier 1.3.6.1.4.1.11129.2.4.3."""
_SHA256_ECDSA = (4, 3)


def spki(key: AnyPublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def key_usage(*on: str) -> x509.KeyUsage:
    names = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement "
        "key_cert_sign crl_sign encipher_only decipher_only"
    )
    return x509.KeyUsage(**{name: name in on for name in names.split()})


def _name(text: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "stub"),
            x509.NameAttribute(NameOID.COMMON_NAME, text),
        ]
    )


@dataclass(frozen=True, slots=True)
class Holder:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @classmethod
    def root(cls, name: str, *, depth: int = 1) -> Self:
        """Return an authority that signed itself, with `depth` authorities below it at most."""
        return cls._issue(name, None, depth=depth)

    def issue(
        self, name: str, *, depth: int | None, usage: ObjectIdentifier, critical: bool = False
    ) -> Holder:
        """Return a certificate for `usage`; with `depth` it is an authority."""
        return Holder._issue(name, self, depth=depth, usage=usage, critical=critical)

    @classmethod
    def _issue(
        cls,
        name: str,
        above: Holder | None,
        *,
        depth: int | None,
        usage: ObjectIdentifier | None = None,
        critical: bool = False,
    ) -> Self:
        now = datetime.now(UTC)
        key = ec.generate_private_key(ec.SECP256R1())
        signer = key if above is None else above.key
        bits = ("digital_signature",) if depth is None else ("key_cert_sign", "crl_sign")
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name(name) if above is None else above.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATED)
            .not_valid_after(now + _AUTHORITY_LIFE)
            .add_extension(x509.BasicConstraints(depth is not None, depth), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False
            )
            .add_extension(key_usage(*bits), critical=True)
        )
        if usage is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=critical)
        return cls(builder.sign(signer, hashes.SHA256()), key)


class CertificateLog:
    """Gives certificates their time stamps."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.log_id = hashlib.sha256(spki(self.key.public_key())).digest()
        self.seen: list[Sequence[str]] = []

    def add_pre_chain(self, chain: Sequence[str]) -> dict[str, object]:
        """Answer a request of Fulcio: `chain` is base64 DER, the precertificate first."""
        leaf, issuer = (
            x509.load_der_x509_certificate(base64.b64decode(item)) for item in chain[:2]
        )
        leaf.verify_directly_issued_by(issuer)
        self.seen.append(chain)
        now = datetime.now(UTC)
        signature = self.sign(_without_poison(leaf.tbs_certificate_bytes), issuer.public_key(), now)
        return {
            "sct_version": 0,
            "id": base64.b64encode(self.log_id).decode(),
            "timestamp": _milliseconds(now),
            "extensions": "",
            "signature": base64.b64encode(signature).decode(),
        }

    def stamp(self, tbs: bytes, issuer: AnyPublicKey, now: datetime) -> bytes:
        """Return the list of time stamps that stands in a certificate."""
        entry = b"\0" + self.log_id + struct.pack("!QH", _milliseconds(now), 0)
        entry += self.sign(tbs, issuer, now)
        return struct.pack("!HH", len(entry) + 2, len(entry)) + entry

    def sign(self, tbs: bytes, issuer: AnyPublicKey, now: datetime) -> bytes:
        """Return the digitally-signed structure over a precertificate's content."""
        signed = struct.pack("!BBQH", 0, 0, _milliseconds(now), 1)
        signed += (
            hashlib.sha256(spki(issuer)).digest() + len(tbs).to_bytes(3, "big") + tbs + b"\0\0"
        )
        signature = self.key.sign(signed, ec.ECDSA(hashes.SHA256()))
        return struct.pack("!BBH", *_SHA256_ECDSA, len(signature)) + signature


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _without_poison(tbs: bytes) -> bytes:
    """Return a precertificate's content without the extension that makes it one."""
    fields = b""
    for tag, field in children(tbs):
        if tag == EXPLICIT_3:
            ((_, extensions),) = children(field)
            kept = (item for _, item in children(extensions) if _POISON not in item)
            field = wrap(EXPLICIT_3, sequence(*kept))
        fields += field
    return sequence(fields)


@dataclass(frozen=True, slots=True)
class Issuance:
    """The content of a certificate to issue."""

    key: AnyPublicKey
    identity: str
    issuer: str


def issue_for_identity(
    wanted: Issuance, authority: Holder, log: CertificateLog, now: datetime
) -> x509.Certificate:
    """Return the certificate of an identity, as Fulcio issues it, with its time stamp inside."""
    general = x509.UniformResourceIdentifier if "://" in wanted.identity else x509.RFC822Name
    issuer = wanted.issuer.encode()
    key_of_authority = authority.key.public_key()
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (key_usage("digital_signature"), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), False),
        (x509.SubjectKeyIdentifier.from_public_key(wanted.key), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(key_of_authority), False),
        (x509.SubjectAlternativeName([general(wanted.identity)]), True),
        (x509.UnrecognizedExtension(_ISSUER, issuer), False),
        (x509.UnrecognizedExtension(_ISSUER_V2, wrap(UTF8_STRING, issuer)), False),
    ]
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(authority.certificate.subject)
        .public_key(wanted.key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + CERTIFICATE_LIFE)
    )
    for value, critical in extensions:
        builder = builder.add_extension(value, critical)
    content = builder.sign(authority.key, hashes.SHA256()).tbs_certificate_bytes
    stamps = wrap(OCTET_STRING, log.stamp(content, key_of_authority, now))
    builder = builder.add_extension(x509.UnrecognizedExtension(_SCT_LIST, stamps), False)
    return builder.sign(authority.key, hashes.SHA256())


Now = Callable[[], datetime]

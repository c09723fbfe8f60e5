"""A time stamp authority.

Source: RFC 3161, sections 2.4.1 and 2.4.2; RFC 5652, section 5; RFC 5816.
"""

from __future__ import annotations

import hashlib
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from tests.fakes.sigstore_certificates import Holder
from tests.fakes.sigstore_der import (
    EXPLICIT_0,
    INTEGER,
    OCTET_STRING,
    SET,
    TIME,
    children,
    integer,
    sequence,
    wrap,
)

_SHA256 = bytes.fromhex("300b0609608648016503040201")
_ECDSA_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")
_SIGNED_DATA = bytes.fromhex("06092a864886f70d010702")
_TST_INFO = bytes.fromhex("060b2a864886f70d0109100104")
_CONTENT_TYPE = bytes.fromhex("06092a864886f70d010903")
_MESSAGE_DIGEST = bytes.fromhex("06092a864886f70d010904")
_SIGNING_CERTIFICATE_V2 = bytes.fromhex("060b2a864886f70d010910022f")
_POLICY = bytes.fromhex("06092b0601040183bf3002")
"""1.3.6.1.4.1.57264.2, that of Sigstore's own authority."""


def time_stamp(request: bytes, authority: Holder, now: datetime) -> bytes:
    """Return the granted response to `request`: its content existed at `now`."""
    parts = children(request)
    imprint = parts[1][1]
    nonce = b"".join(part for tag, part in parts[2:] if tag == INTEGER)
    moment = wrap(TIME, now.strftime("%Y%m%d%H%M%SZ").encode())
    serial = integer(x509.random_serial_number())
    info = sequence(integer(1), _POLICY, imprint, serial, moment, nonce)
    signed = sequence(
        integer(3),
        wrap(SET, _SHA256),
        sequence(_TST_INFO, wrap(EXPLICIT_0, wrap(OCTET_STRING, info))),
        wrap(EXPLICIT_0, authority.der),
        wrap(SET, _signer_info(info, authority)),
    )
    granted = sequence(integer(0))
    return sequence(granted, sequence(_SIGNED_DATA, wrap(EXPLICIT_0, signed)))


def _signer_info(info: bytes, authority: Holder) -> bytes:
    certificate = authority.certificate
    digest, mark = (hashlib.sha256(item).digest() for item in (info, authority.der))
    attributes = b"".join(
        sorted(
            (
                _attribute(_CONTENT_TYPE, _TST_INFO),
                _attribute(_MESSAGE_DIGEST, wrap(OCTET_STRING, digest)),
                _attribute(
                    _SIGNING_CERTIFICATE_V2, sequence(sequence(sequence(wrap(OCTET_STRING, mark))))
                ),
            )
        )
    )
    signature = authority.key.sign(wrap(SET, attributes), ec.ECDSA(hashes.SHA256()))
    return sequence(
        integer(1),
        sequence(certificate.issuer.public_bytes(), integer(certificate.serial_number)),
        _SHA256,
        wrap(EXPLICIT_0, attributes),
        _ECDSA_SHA256,
        wrap(OCTET_STRING, signature),
    )


def _attribute(kind: bytes, value: bytes) -> bytes:
    return sequence(kind, wrap(SET, value))

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ObjectIdentifier

from dockercomms.errors import VerificationError
from dockercomms.trust.sigstore_gaps import Holder, with_zero_values
from tests.fakes.sigstore_der import UTF8_STRING, wrap
from tests.unit.trust.signed import ALICE, KEYS

FULCIO = "1.3.6.1.4.1.57264.1."
ISSUER = b"https://accounts.example"


def certificate(*names: x509.GeneralName, **issuers: bytes) -> x509.Certificate:
    """Return a certificate for `names`; v1 and v2 are the two ways to write the issuer."""
    key = KEYS[ALICE].key
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([]))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .add_extension(
            x509.UnrecognizedExtension(ObjectIdentifier(FULCIO + "2"), b"push"), critical=False
        )
    )
    for number, value in issuers.items():
        oid = ObjectIdentifier(FULCIO + {"v1": "1", "v2": "8"}[number])
        raw = value if number == "v1" else wrap(UTF8_STRING, value)
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, raw), critical=False)
    return builder.sign(key, hashes.SHA256())


@pytest.mark.parametrize("issuers", [{"v1": ISSUER}, {"v2": ISSUER}, {"v1": ISSUER, "v2": ISSUER}])
def test_holder_reads_names_and_issuer(issuers):
    names = (
        x509.RFC822Name("a@example.com"),
        x509.UniformResourceIdentifier("https://ci.example/x"),
        x509.OtherName(ObjectIdentifier(FULCIO + "7"), wrap(UTF8_STRING, b"user")),
        x509.OtherName(ObjectIdentifier("1.2.3"), wrap(UTF8_STRING, b"nobody")),
        x509.DNSName("example.com"),
    )
    holder = Holder()
    holder.verify(certificate(*names, **issuers))
    assert holder.identities == ("a@example.com", "https://ci.example/x", "user")
    assert holder.issuer == ISSUER.decode()


@pytest.mark.parametrize(
    ("issuers", "count"), [({}, 0), ({"v1": ISSUER, "v2": b"https://other.example"}, 2)]
)
def test_holder_needs_one_issuer(issuers, count):
    with pytest.raises(VerificationError, match=f"{count} issuers in the certificate"):
        Holder().verify(certificate(x509.RFC822Name("a@example.com"), **issuers))


@pytest.mark.parametrize(
    "material",
    [
        None,
        1,
        {},
        {"tlogEntries": None},
        {"tlogEntries": True},
        {"tlogEntries": [None]},
        {"tlogEntries": [{"logIndex": "3", "inclusionProof": 1}]},
    ],
)
def test_zero_values_leave_everything_else_alone(material):
    value = {"verificationMaterial": material, "mediaType": "x"}
    assert with_zero_values(value) == value


def test_zero_values_are_filled_in_a_copy():
    value = {"verificationMaterial": {"tlogEntries": [{"inclusionProof": {"hashes": ["AA=="]}}]}}
    found = with_zero_values(value)
    assert found["verificationMaterial"]["tlogEntries"] == [
        {
            "logIndex": "0",
            "inclusionProof": {"logIndex": "0", "treeSize": "0", "hashes": ["AA=="]},
        }
    ]
    assert value["verificationMaterial"]["tlogEntries"] == [
        {"inclusionProof": {"hashes": ["AA=="]}}
    ]

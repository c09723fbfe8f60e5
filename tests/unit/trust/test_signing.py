from __future__ import annotations

import json

import pytest

from dockercomms.errors import ProtocolError, VerificationError
from dockercomms.oci.model import digest_of
from dockercomms.trust.bundle import parse_bundle_json
from dockercomms.trust.keys import PrivateKey
from dockercomms.trust.signing import KeySigner, SignedBy
from tests.unit.trust.signed import (
    ALICE,
    KEYS,
    legacy_message,
    legacy_receipt,
    manifest,
    message,
    public,
    receipt,
    statement,
)

SIGNER = KeySigner(KEYS[ALICE])


def test_key_signer_says_which_key():
    assert SIGNER.signed_by == SignedBy("key", public(ALICE).spki_sha256)


def test_key_signer_names_itself_in_hint_and_statement():
    bundle = SIGNER.sign(message(), manifest())
    found = json.loads(bundle)
    assert found["verificationMaterial"] == {"publicKey": {"hint": public(ALICE).spki_sha256}}
    assert statement(bundle)["predicate"]["signer"].keys() == {"spki"}


def test_key_signer_signs_only_the_manifest_that_was_parsed():
    with pytest.raises(VerificationError, match="not the one that was parsed"):
        SIGNER.sign(message(), manifest() + b" ")


def test_key_signer_cannot_sign_what_has_no_time():
    old = legacy_message()
    with pytest.raises(ProtocolError, match="no created_at"):
        SIGNER.sign_receipt(legacy_receipt())
    with pytest.raises(VerificationError, match="not the one that was parsed"):
        SIGNER.sign(old, b"")


def test_receipt_is_signed_about_the_message():
    about = receipt()
    found = statement(SIGNER.sign_receipt(about))
    assert found["subject"][0]["digest"]["sha256"] == about.message[7:]


def test_approval_is_what_cosign_writes():
    found = statement(SIGNER.approve("a.txt", digest_of(b"hello")))
    assert found["predicateType"] == "https://sigstore.dev/cosign/sign/v1"
    assert found["predicate"] == {}
    assert found["subject"] == [
        {"name": "a.txt", "digest": {"sha256": digest_of(b"hello").partition(":")[2]}}
    ]


def test_time_stamp_is_asked_for_the_signature():
    asked = []

    def source(signature: bytes) -> bytes:
        asked.append(signature)
        return b"token"

    bundle = parse_bundle_json(KeySigner(KEYS[ALICE], source).sign(message(), manifest()))
    assert bundle.timestamps == (b"token",)
    assert asked == [bundle.envelope.signature]


def test_faulty_signature_does_not_leave():
    class Faulty(PrivateKey):
        def sign(self, data: bytes) -> bytes:
            return super().sign(data + b"!")

    with pytest.raises(VerificationError, match="does not verify"):
        KeySigner(Faulty(KEYS[ALICE].key)).approve("x", digest_of(b"x"))

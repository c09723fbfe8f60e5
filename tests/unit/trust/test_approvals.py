from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding

from dockercomms.errors import ProtocolError, UnknownSender, VerificationError
from dockercomms.oci.model import digest_of
from dockercomms.trust.approvals import verify_approval
from dockercomms.trust.keyless import timestamp_source
from dockercomms.trust.material import parse_material, prove_certificate, prove_key, prove_logged
from dockercomms.trust.policy import Policy, Revocation, Root, Sender, TrustedKey
from dockercomms.trust.signing import KeySigner
from tests.fakes.sigstore_certificates import spki
from tests.unit.trust import keyless
from tests.unit.trust.signed import (
    ALICE,
    BOB,
    EVE,
    KEYS,
    NOW,
    approval,
    foreign_keys,
    forged,
    policy,
    public,
    public_of,
    sender,
    statement,
    terms,
)

FILE = b"hello"
DIGEST = digest_of(FILE)
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"


def check(data, given, digest=DIGEST, **options):
    return verify_approval(data, digest, given, title="a.txt", **options)


def plain(signature: bytes, hint: str = "") -> bytes:
    """Return what `cosign sign-blob` writes."""
    return json.dumps(
        {
            "mediaType": BUNDLE,
            "verificationMaterial": {"publicKey": {"hint": hint}},
            "messageSignature": {
                "messageDigest": {
                    "algorithm": "SHA2_256",
                    "digest": base64.b64encode(bytes.fromhex(DIGEST[7:])).decode(),
                },
                "signature": base64.b64encode(signature).decode(),
            },
        }
    ).encode()


def test_approval_names_whom_the_policy_knows():
    found = check(approval(DIGEST), terms(policy(sender(BOB), sender(ALICE))))
    assert (found.name, found.kind, found.signer) == (ALICE, "key", public(ALICE).spki_sha256)
    assert (found.own, found.approval) == (False, True)


def test_approval_of_our_own_key():
    found = check(approval(DIGEST, BOB), terms(Policy(), own_key=public(BOB)))
    assert (found.name, found.own) == ("", True)


def test_approval_of_another_file_is_refused():
    with pytest.raises(VerificationError, match=r"^a\.txt: the statement is for another file"):
        check(approval(digest_of(b"other")), terms())


def test_approval_by_nobody_we_know_is_of_an_unknown_sender():
    with pytest.raises(UnknownSender, match="nobody whom the policy knows"):
        check(approval(DIGEST, EVE), terms())


def test_approval_with_a_hint_that_lies_is_broken():
    data = forged(statement(approval(DIGEST)), EVE, hint=public(ALICE).spki_sha256)
    with pytest.raises(VerificationError, match="not signed with key"):
        check(data, terms())


def test_approval_must_say_that_it_is_one():
    data = forged(
        {**statement(approval(DIGEST)), "predicateType": "https://slsa.dev/provenance/v1"}
    )
    with pytest.raises(VerificationError, match="the bundle says 'https://slsa"):
        check(data, terms())
    assert check(data, terms(), predicate_type="https://slsa.dev/provenance/v1").name == ALICE


def test_approval_by_a_revoked_key_is_refused():
    rules = policy(revoked=(Revocation(spki_sha256=public(ALICE).spki_sha256),))
    with pytest.raises(VerificationError, match="is revoked"):
        check(approval(DIGEST), terms(rules))


def test_approval_by_a_key_that_is_over_is_refused():
    key = TrustedKey(key=public(ALICE), valid_before=NOW)
    with pytest.raises(VerificationError, match="is not valid at"):
        check(approval(DIGEST), terms(policy(sender(keys=(key,)))))


def test_approval_by_a_key_that_was_valid_then(sigstore):
    by = KeySigner(KEYS[ALICE], timestamp=timestamp_source(sigstore.instance.tsa_url))
    key = TrustedKey(
        key=public(ALICE),
        valid_before=keyless.now() + timedelta(minutes=1),
        timestamp="required",
    )
    rules = keyless.policy(sigstore, senders=(Sender(name=ALICE, keys=(key,)),))
    given = keyless.terms(rules, now=keyless.now() + timedelta(days=9))
    assert check(by.approve("a.txt", DIGEST), given).signed_at


def test_approval_of_an_identity(sigstore):
    data = keyless.signer(sigstore).approve("a.txt", DIGEST)
    found = check(data, keyless.terms(keyless.policy(sigstore)))
    assert (found.name, found.kind, found.signer) == (ALICE, "keyless", ALICE)
    assert found.issuer == sigstore.issuer.url


def test_approval_of_an_identity_that_nobody_named(sigstore):
    data = keyless.signer(sigstore, EVE).approve("a.txt", DIGEST)
    with pytest.raises(UnknownSender):
        check(data, keyless.terms(keyless.policy(sigstore)))
    wrong = keyless.policy(sigstore, keyless.identity(sigstore, identity=EVE, issuer="https://x"))
    with pytest.raises(VerificationError, match="https://x expected"):
        check(data, keyless.terms(wrong))


def test_approval_of_an_identity_for_another_file(sigstore):
    data = keyless.signer(sigstore).approve("a.txt", DIGEST)
    with pytest.raises(VerificationError, match="another file"):
        check(data, keyless.terms(keyless.policy(sigstore)), digest_of(b"other"))


def test_plain_signature_of_each_kind_of_key():
    keys = {**foreign_keys(), "p256": KEYS[ALICE].key}
    rsa, p256 = keys["rsa-2048"], keys["p256"]
    signatures = {
        "rsa-2048": rsa.sign(FILE, padding.PKCS1v15(), hashes.SHA256()),
        "p256": p256.sign(FILE, ec.ECDSA(hashes.SHA256())),
    }
    for kind, signature in signatures.items():
        key = TrustedKey(key=public_of(keys[kind]))
        rules = policy(Sender(name=kind, keys=(key,)))
        assert check(plain(signature), terms(rules)).name == kind
        with pytest.raises(UnknownSender):
            check(plain(signature), terms(rules), digest_of(b"other"))


def test_plain_signature_with_ed25519_cannot_be_checked_by_digest():
    private = foreign_keys()["ed25519"]
    key = public_of(private)
    rules = policy(Sender(name="ed", keys=(TrustedKey(key=key),)))
    with pytest.raises(VerificationError, match="needs the file's bytes"):
        check(plain(private.sign(FILE), key.spki_sha256), terms(rules))


def test_plain_signature_of_an_identity(sigstore):
    data = json.loads(keyless.signer(sigstore).approve("a.txt", DIGEST))
    data["messageSignature"] = json.loads(plain(b"x"))["messageSignature"]
    del data["dsseEnvelope"]
    with pytest.raises(VerificationError):
        check(json.dumps(data).encode(), keyless.terms(keyless.policy(sigstore)))


# --- material ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "not valid JSON"),
        (b"{}", "material: a JSON object expected"),
        (b" " * (2**20 + 1), "1048577 bytes"),
        (b'{"verificationMaterial":{}}', "messageSignature: a JSON object expected"),
        (b'{"verificationMaterial":{"tlogEntries":1}}', "log entries: a list expected"),
        (b'{"verificationMaterial":{"tlogEntries":[1]}}', "log entry: a JSON object"),
        (b'{"verificationMaterial":{"timestampVerificationData":1}}', "timestamps"),
    ],
)
def test_material_that_is_none_is_refused(data, text):
    filled = data
    if b"tlogEntries" in data:
        filled = data[:-1] + b',"messageSignature":{"signature":"AA=="}}'
    with pytest.raises(ProtocolError, match=text):
        parse_material(filled)


def test_material_with_too_many_timestamps_is_refused():
    value = json.loads(approval(DIGEST))
    stamps = {"rfc3161Timestamps": [{"signedTimestamp": "AA=="}] * 33}
    value["verificationMaterial"]["timestampVerificationData"] = stamps
    with pytest.raises(ProtocolError, match="33 timestamps; at most 32"):
        parse_material(json.dumps(value).encode())


@pytest.mark.parametrize("kind", [[], {}, ["https://in-toto.io/Statement/v1"], None, 1])
def test_material_with_a_statement_of_no_type_is_refused(kind):
    value = statement(approval(DIGEST)) | {"_type": kind}
    with pytest.raises(ProtocolError, match="type"):
        parse_material(forged(value))


def test_material_of_another_payload_type_is_refused():
    with pytest.raises(ProtocolError, match="payload type 'text/plain'"):
        parse_material(forged(statement(approval(DIGEST)), kind="text/plain"))


def test_material_of_the_other_kind_is_refused(sigstore):
    by_key = parse_material(approval(DIGEST))
    by_identity = parse_material(keyless.signer(sigstore).approve("x", DIGEST))
    root = Root(name="stub", path=sigstore.trusted_root)
    roots = keyless.terms(keyless.policy(sigstore)).roots
    with pytest.raises(VerificationError, match="a certificate expected"):
        prove_certificate(by_key, DIGEST, roots, root)
    with pytest.raises(VerificationError, match="a key expected"):
        prove_key(by_identity, DIGEST, public(ALICE))


def test_material_of_which_sigstore_reads_something_else_is_refused(sigstore):
    material = parse_material(keyless.signer(sigstore).approve("x", DIGEST))
    other = replace(material, envelope=replace(material.envelope, payload=b"{}"))
    root = Root(name="stub", path=sigstore.trusted_root)
    roots = keyless.terms(keyless.policy(sigstore)).roots
    assert prove_certificate(material, DIGEST, roots, root).identities == (ALICE,)
    with pytest.raises(VerificationError, match="another payload"):
        prove_certificate(other, DIGEST, roots, root)


def logged(sigstore, key=KEYS[ALICE].key, data=None):
    """Return an approval with the log's entry about it."""
    from dockercomms.trust import bundle as dsse
    from dockercomms.trust.bundle import parse_bundle_json

    data = data or approval(DIGEST)
    bundle = parse_bundle_json(data)
    hashed = hashes.Hash(hashes.SHA256())
    hashed.update(dsse.pae(bundle.envelope.payload_type, bundle.envelope.payload))
    public_key = base64.b64encode(spki(key.public_key())).decode()
    request = {
        "digest": base64.b64encode(hashed.finalize()).decode(),
        "signature": {
            "content": base64.b64encode(bundle.envelope.signature).decode(),
            "verifier": {"publicKey": {"rawBytes": public_key}, "keyDetails": "x"},
        },
    }
    value = json.loads(data)
    entry = sigstore.log.create({"hashedRekordRequestV002": request})
    value["verificationMaterial"]["tlogEntries"] = [entry]
    return value


def prove_log(sigstore, value):
    material = parse_material(json.dumps(value).encode())
    prove_key(material, DIGEST, public(ALICE))
    root = Root(name="stub", path=sigstore.trusted_root)
    roots = keyless.terms(keyless.policy(sigstore)).roots
    prove_logged(material, DIGEST, public(ALICE), roots, root)


def test_log_entry_of_a_key_is_proven(sigstore):
    prove_log(sigstore, logged(sigstore))


@pytest.mark.parametrize("what", ["signature", "key", "digest"])
def test_log_entry_about_something_else_is_refused(sigstore, what):
    if what == "key":
        value = logged(sigstore, KEYS[EVE].key)
    else:
        other = approval(DIGEST) if what == "signature" else approval(digest_of(b"other"))
        value = json.loads(approval(DIGEST))
        value["verificationMaterial"] = logged(sigstore, data=other)["verificationMaterial"]
    with pytest.raises(VerificationError, match="for another signature"):
        prove_log(sigstore, value)


def test_log_entry_that_no_log_has_is_refused(sigstore):
    value = logged(sigstore)
    value["verificationMaterial"]["tlogEntries"][0]["canonicalizedBody"] = "e30="
    with pytest.raises(VerificationError):
        prove_log(sigstore, value)


@pytest.mark.parametrize("signature", [None, {"content": "?"}, {"content": "", "verifier": {}}])
def test_log_entry_that_is_malformed_is_refused(sigstore, signature):
    value = logged(sigstore)
    request = {"digest": "", "signature": signature}
    entry = sigstore.log.create({"hashedRekordRequestV002": request})
    value["verificationMaterial"]["tlogEntries"] = [entry]
    with pytest.raises(VerificationError, match="log entry"):
        prove_log(sigstore, value)

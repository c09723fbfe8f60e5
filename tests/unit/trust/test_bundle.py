from __future__ import annotations

import base64
import json

import pytest

from dockercomms.errors import ProtocolError
from dockercomms.trust.bundle import MAX_TIMESTAMPS, Envelope, build_key_bundle, parse_bundle_json

ENVELOPE = Envelope(b"{}", "application/vnd.in-toto+json", b"signature")


def value(**changes: object) -> dict[str, object]:
    found = json.loads(build_key_bundle(ENVELOPE, "hint"))
    return {**found, **changes}


def parse(given: dict[str, object]):
    return parse_bundle_json(json.dumps(given).encode())


def test_key_bundle_is_written_as_cosign_writes_it():
    assert build_key_bundle(ENVELOPE, "hint") == (
        b'{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json",'
        b'"verificationMaterial":{"publicKey":{"hint":"hint"}},'
        b'"dsseEnvelope":{"payload":"e30=","payloadType":"application/vnd.in-toto+json",'
        b'"signatures":[{"sig":"c2lnbmF0dXJl"}]}}'
    )


def test_parse_is_the_inverse_of_build():
    found = parse_bundle_json(build_key_bundle(ENVELOPE, "hint", timestamps=(b"1", b"2")))
    assert (found.kind, found.hint, found.envelope) == ("key", "hint", ENVELOPE)
    assert found.timestamps == (b"1", b"2")


def test_parse_reads_what_cosign_adds():
    found = parse(value(verificationMaterial={"publicKey": {}, "tlogEntries": [{}]}))
    assert (found.kind, found.hint) == ("key", "")
    given = value(verificationMaterial={"certificate": {"rawBytes": ""}, "tlogEntries": []})
    given["dsseEnvelope"]["signatures"][0]["keyid"] = ""
    assert parse(given).kind == "keyless"


MATERIAL = "verificationMaterial"
STAMPS = {"rfc3161Timestamps": [{"signedTimestamp": "AA=="}] * (MAX_TIMESTAMPS + 1)}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"mediaType": "application/vnd.dev.sigstore.bundle.v0.4+json"}, "media type"),
        ({"mediaType": None}, "media type None"),
        ({"messageSignature": {}}, "unknown member 'messageSignature'"),
        ({MATERIAL: None}, "material: a JSON object expected"),
        ({MATERIAL: {}}, "a certificate expected, neither received"),
        ({MATERIAL: {"publicKey": {}, "certificate": {}}}, "a certificate expected, both received"),
        ({MATERIAL: {"publicKey": {}, "x509CertificateChain": {}}}, "unknown member"),
        ({MATERIAL: {"publicKey": {"rawBytes": ""}}}, "unknown member 'rawBytes'"),
        ({MATERIAL: {"publicKey": {"hint": 1}}}, "hint: a string expected"),
        ({MATERIAL: {"publicKey": {}, "tlogEntries": {}}}, "tlogEntries: a list expected"),
        (
            {MATERIAL: {"publicKey": {}, "timestampVerificationData": STAMPS}},
            "33 timestamps; at most 32",
        ),
        ({"dsseEnvelope": None}, "envelope: a JSON object expected"),
        ({"dsseEnvelope": {"signatures": []}}, "0 signatures; exactly one"),
        ({"dsseEnvelope": {"signatures": [{}, {}]}}, "2 signatures; exactly one"),
        ({"dsseEnvelope": {"signatures": [{}]}}, "payload: a string expected"),
        ({"dsseEnvelope": {"signatures": [{}], "payload": ""}}, "payloadType: a string"),
        ({"dsseEnvelope": {"signatures": [{"x": 1}]}}, "unknown member 'x'"),
    ],
)
def test_parse_refuses(changes, text):
    with pytest.raises(ProtocolError, match=f"^bundle.*{text}"):
        parse(value(**changes))


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"[]", b"nonsense", b"[" * 100_000, b'{"a":1,"a":1}', b"\xef\xbb\xbf{}"]
)
def test_parse_refuses_what_is_no_bundle_at_all(data):
    with pytest.raises(ProtocolError, match=r"^a bundle"):
        parse_bundle_json(data, where="a bundle")


def test_bundle_does_not_show_what_is_in_it():
    assert base64.b64encode(b"signature").decode() not in repr(parse(value()))

"""Bundles of the Sigstore project's own conformance suite, each accepted or refused as it says."""

from __future__ import annotations

import json
import shutil
from base64 import b64decode
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.x509 import load_der_x509_certificate

from dockercomms.errors import ConfigError, ProtocolError, VerificationError
from dockercomms.oci.model import digest_of
from dockercomms.trust import bundle as dsse
from dockercomms.trust.bundle import build_key_bundle
from dockercomms.trust.keyless import SigstoreRoots
from dockercomms.trust.keys import PrivateKey, PublicKey
from dockercomms.trust.material import parse_material, prove_certificate, prove_key, prove_logged
from dockercomms.trust.policy import PUBLIC_ROOT, Root
from dockercomms.trust.sigstore_gaps import check_intoto_entry

VECTORS = Path(__file__).parent.parent.parent / "spec" / "vectors" / "sigstore-conformance"
FOLDERS = sorted(path.name for path in VECTORS.iterdir() if path.is_dir())
KNOWN_FILES = {
    "README",
    "artifact",
    "bundle.sigstore.json",
    "identity",
    "issuer",
    "key.pub",
    "trusted_root.json",
}

IDENTITY = (
    "https://github.com/sigstore-conformance/extremely-dangerous-public-oidc-beacon/"
    ".github/workflows/extremely-dangerous-oidc-beacon.yml@refs/heads/main"
)
ISSUER = "https://token.actions.githubusercontent.com"

REFUSALS = (VerificationError, ProtocolError, ConfigError)
"""Of a bundle; of one that is none; of a root that is none."""


def verify(folder: Path, roots: SigstoreRoots) -> None:
    """Accept what is in `folder`.

    Raises:
        VerificationError, ProtocolError, ConfigError: it is refused.
    """
    artifact = folder / "artifact"
    digest = digest_of((artifact if artifact.exists() else VECTORS / "a.txt").read_bytes())
    own_root = folder / "trusted_root.json"
    root = Root(name=PUBLIC_ROOT, path=own_root if own_root.exists() else None)
    material = parse_material((folder / "bundle.sigstore.json").read_bytes())
    if (folder / "key.pub").exists():
        key = PublicKey.load(folder / "key.pub")
        prove_key(material, digest, key)
        prove_logged(material, digest, key, roots, root)
        return
    proof = prove_certificate(material, digest, roots, root)
    identity, issuer = said(folder / "identity", IDENTITY), said(folder / "issuer", ISSUER)
    if identity not in proof.identities or issuer != proof.issuer:
        raise VerificationError(f"of {proof.identities} by {proof.issuer}")


def said(path: Path, otherwise: str) -> str:
    return path.read_text().strip() if path.exists() else otherwise


@pytest.fixture(scope="module")
def roots() -> SigstoreRoots:
    return SigstoreRoots()


@pytest.mark.parametrize("name", FOLDERS)
def test_bundle_is_accepted_or_refused_as_its_folder_says(name, roots):
    folder = VECTORS / name
    if name.endswith("_fail"):
        with pytest.raises(REFUSALS):
            verify(folder, roots)
    else:
        verify(folder, roots)


def test_every_folder_is_understood():
    assert len(FOLDERS) >= 35
    for name in FOLDERS:
        assert {path.name for path in (VECTORS / name).iterdir()} <= KNOWN_FILES


# Cases that are made from those above, as the suite makes such ones.


def changed(name: str, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Return a copy of a case whose root `change` has changed."""
    copy = Path(shutil.copytree(VECTORS / name, folder / name))
    path = copy / "trusted_root.json"
    root = json.loads(path.read_text())
    change(root)
    path.write_text(json.dumps(root))
    return copy


def test_validity_is_not_borrowed_from_another_time_stamp_authority(roots, tmp_path):
    def lend(root: dict[str, Any]) -> None:
        valid = {"start": "2025-06-01T00:00:00Z", "end": "2035-07-01T00:00:00Z"}
        root["timestampAuthorities"].append(
            {**root["timestampAuthorities"][0], "certChain": {}, "validFor": valid}
        )

    name = "rekor2-timestamp-outside-trust-root-tsa-validity_fail"
    with pytest.raises(REFUSALS):
        verify(changed(name, tmp_path, lend), roots)


def test_log_without_a_beginning_is_not_valid_for_ever(roots, tmp_path):
    def forget(root: dict[str, Any]) -> None:
        for log in root["tlogs"]:
            del log["publicKey"]["validFor"]["start"]

    with pytest.raises(REFUSALS):
        verify(changed("trust-root-tlog-validity-end-inclusive", tmp_path, forget), roots)


@pytest.mark.parametrize("end", ["inclusive", "over"])
def test_end_of_a_log_is_inclusive_and_no_later(roots, tmp_path, end):
    def shorten(root: dict[str, Any]) -> None:
        for log in root["tlogs"]:
            valid = log["publicKey"]["validFor"]
            if valid.get("end"):
                moment = datetime.fromisoformat(valid["end"]) - timedelta(seconds=end == "over")
                valid["end"] = moment.isoformat().replace("+00:00", "Z")

    copy = changed("trust-root-tlog-validity-end-inclusive", tmp_path, shorten)
    if end == "over":
        with pytest.raises(REFUSALS):
            verify(copy, roots)
    else:
        verify(copy, roots)


def test_another_managed_key_is_refused(roots, tmp_path):
    copy = Path(shutil.copytree(VECTORS / "managed-key-and-trusted-root", tmp_path / "case"))
    verify(copy, roots)
    (copy / "key.pub").write_text(PrivateKey.generate().public_key().to_pem())
    with pytest.raises(REFUSALS):
        verify(copy, roots)


def test_log_entry_of_another_bundle_is_refused(roots, tmp_path):
    """CVE-2022-36056: a good entry, of another signature."""
    copy = Path(shutil.copytree(VECTORS / "happy-path-v0.3", tmp_path / "case"))
    verify(copy, roots)
    path = copy / "bundle.sigstore.json"
    bundle = json.loads(path.read_text())
    other = json.loads((VECTORS / "happy-path-v0.1" / "bundle.sigstore.json").read_text())
    entries = other["verificationMaterial"]["tlogEntries"]
    assert entries != bundle["verificationMaterial"]["tlogEntries"]
    bundle["verificationMaterial"]["tlogEntries"] = entries
    path.write_text(json.dumps(bundle))
    with pytest.raises(REFUSALS):
        verify(copy, roots)


@pytest.mark.parametrize(
    ("kind", "good"),
    [
        ("https://in-toto.io/Statement/v1", True),
        ("https://in-toto.io/Statement/v0.1", True),
        ("https://in-toto.io/Statement/v2", False),
        (1, False),
        (None, False),
    ],
)
def test_statement_says_its_type(roots, tmp_path, kind, good):
    digest = digest_of((VECTORS / "a.txt").read_bytes())
    statement = {
        **({} if kind is None else {"_type": kind}),
        "subject": [{"name": "a.txt", "digest": {"sha256": digest.partition(":")[2]}}],
        "predicateType": "https://example.com/any",
        "predicate": {},
    }
    key = PrivateKey.generate()
    payload = json.dumps(statement).encode()
    envelope = dsse.sign(payload, key)
    (tmp_path / "key.pub").write_text(key.public_key().to_pem())
    (tmp_path / "bundle.sigstore.json").write_bytes(
        build_key_bundle(envelope, key.public_key().spki_sha256)
    )
    if good:
        verify(tmp_path, roots)
    else:
        with pytest.raises(REFUSALS):
            verify(tmp_path, roots)


# --- an entry that is read by hand: each of its parts counts -------------------------------------


def intoto_entry() -> dict[str, Any]:
    """Return what `check_intoto_entry` takes, of the case of the suite."""
    data = (VECTORS / "intoto-with-custom-trust-root" / "bundle.sigstore.json").read_bytes()
    bundle = json.loads(data)
    (entry,) = bundle["verificationMaterial"]["tlogEntries"]
    (chain,) = bundle["verificationMaterial"]["x509CertificateChain"]["certificates"][:1]
    envelope = bundle["dsseEnvelope"]
    return {
        "body": b64decode(entry["canonicalizedBody"]),
        "payload_type": envelope["payloadType"],
        "payload": b64decode(envelope["payload"]),
        "signatures": [b64decode(item["sig"]) for item in envelope["signatures"]],
        "certificate": load_der_x509_certificate(b64decode(chain["rawBytes"])),
    }


def check(entry: dict[str, Any]) -> None:
    check_intoto_entry(entry.pop("body"), **entry)


def test_an_intoto_entry_is_about_its_envelope():
    check(intoto_entry())


@pytest.mark.parametrize("part", ["payload_type", "payload", "signatures"])
def test_an_intoto_entry_is_about_no_other_envelope(part):
    entry = intoto_entry()
    change = {"payload_type": "x", "payload": b"x", "signatures": [b"x"]}

    with pytest.raises(VerificationError, match="another envelope"):
        check({**entry, part: change[part]})


@pytest.mark.parametrize(
    "path",
    [
        ("kind",),
        ("apiVersion",),
        ("spec", "content", "payloadHash", "algorithm"),
        ("spec", "content", "payloadHash", "value"),
        ("spec", "content", "envelope", "payloadType"),
    ],
    ids=lambda path: path[-1],
)
def test_an_intoto_entry_that_says_something_else_is_refused(path):
    entry = intoto_entry()
    body = json.loads(entry["body"])
    place = body
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = "other"

    with pytest.raises(VerificationError, match="another envelope"):
        check({**entry, "body": json.dumps(body).encode()})


@pytest.mark.parametrize("number", [0, 2])
def test_an_intoto_entry_has_as_many_signatures_as_the_envelope(number):
    entry = intoto_entry()
    body = json.loads(entry["body"])
    envelope = body["spec"]["content"]["envelope"]
    envelope["signatures"] *= number

    with pytest.raises(VerificationError, match="another envelope"):
        check({**entry, "body": json.dumps(body).encode()})


def test_an_intoto_entry_of_another_certificate_is_refused():
    entry = intoto_entry()
    other = json.loads((VECTORS / "happy-path-v0.1" / "bundle.sigstore.json").read_bytes())
    (first, *_) = other["verificationMaterial"]["x509CertificateChain"]["certificates"]
    certificate = load_der_x509_certificate(b64decode(first["rawBytes"]))

    with pytest.raises(VerificationError, match="another envelope"):
        check({**entry, "certificate": certificate})


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"spec":{"content":{"envelope":[]}}}'])
def test_an_intoto_entry_that_is_none_is_refused(body):
    with pytest.raises(ProtocolError):
        check({**intoto_entry(), "body": body})

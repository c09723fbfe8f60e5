"""Bundles of the Sigstore project's own conformance suite, each accepted or refused as it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from dockercomms.errors import ProtocolError, VerificationError
from dockercomms.oci.model import digest_of
from dockercomms.trust.keyless import SigstoreRoots
from dockercomms.trust.keys import PublicKey
from dockercomms.trust.material import parse_material, prove_certificate, prove_key, prove_logged
from dockercomms.trust.policy import PUBLIC_ROOT, Root

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

DECIDED_OTHERWISE = {
    "intoto-with-custom-trust-root": "an `intoto` 0.0.2 log entry, which sigstore 4.5 cannot read "
    "and nothing has written since cosign 2",
}
"""Refused here though they could be accepted; the other way round there is none."""


def verify(folder: Path, roots: SigstoreRoots) -> None:
    """Accept what is in `folder`.

    Raises:
        VerificationError, ProtocolError: it is refused.
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
    if name.endswith("_fail") or name in DECIDED_OTHERWISE:
        with pytest.raises((VerificationError, ProtocolError)):
            verify(folder, roots)
    else:
        verify(folder, roots)


def test_every_folder_is_understood():
    assert len(FOLDERS) >= 35
    assert set(DECIDED_OTHERWISE) <= set(FOLDERS)
    for name in FOLDERS:
        assert {path.name for path in (VECTORS / name).iterdir()} <= KNOWN_FILES

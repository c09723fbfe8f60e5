"""Verification of approvals: signatures of files, and of manifests other than messages.

`sign` writes them about anything but a message; so do `cosign sign`, `cosign sign-blob` and
`cosign attest-blob`. Source: docs/trust.md.
"""

from __future__ import annotations

from collections.abc import Iterator

from dockercomms.errors import (
    UnknownSender,
    VerificationError,
)
from dockercomms.oci.model import Digest
from dockercomms.trust.checks import (
    SIGNER_CHECKS,
    Claim,
    SignerEvidence,
    Terms,
)
from dockercomms.trust.material import Material, parse_material, prove_certificate, prove_key
from dockercomms.trust.policy import Sender, TrustedIdentity, TrustedKey
from dockercomms.trust.statement import PREDICATE_TYPE_COSIGN_SIGN
from dockercomms.trust.verifier import LazyProofs, Verified


def verify_approval(
    data: bytes,
    digest: Digest,
    terms: Terms,
    *,
    title: str,
    predicate_type: str = PREDICATE_TYPE_COSIGN_SIGN,
) -> Verified:
    """Return the sender of the policy who approves of the content with `digest`.

    Args:
        data: The JSON of one bundle.
        digest: Of the file, or of the manifest.
        terms: The policy and the clocks; `me` and `repo` are ignored.
        title: The name of the content in errors.
        predicate_type: The required type of a statement; ignored for a plain signature.

    Raises:
        ProtocolError: not a bundle.
        UnknownSender: no sender of the policy signed it.
        VerificationError: the signature is invalid, or must not count.
        ConfigError, LocalIOError: a root is not readable.
    """
    material = parse_material(data, where=f"{title}: bundle")
    try:
        return _verify(material, digest, terms, predicate_type)
    except VerificationError as error:
        raise type(error)(f"{title}: {error.message}") from error


def _verify(material: Material, digest: Digest, terms: Terms, predicate_type: str) -> Verified:
    if material.envelope is not None and material.predicate_type != predicate_type:
        raise VerificationError(
            f"the bundle says {material.predicate_type!r:.100}; {predicate_type} expected"
        )
    claim = Claim(kind="approval", title="", subject=digest)
    proofs = _approval_proofs(material, digest, terms)
    reason: VerificationError = UnknownSender("signed by nobody whom the policy knows")
    for signer, sender in _signers(material, digest, terms, proofs):
        evidence = SignerEvidence(
            claim=claim, terms=terms, signer=signer, sender=sender, proofs=proofs
        )
        try:
            for check in SIGNER_CHECKS:
                check(evidence)
        except VerificationError as error:
            reason = error
            continue
        return _verified(evidence, material)
    raise reason


def _approval_proofs(material: Material, digest: Digest, terms: Terms) -> LazyProofs:
    roots = terms.policy.roots
    return LazyProofs(
        roots,
        lambda root: prove_certificate(material, digest, terms.roots, root),
        lambda: terms.roots.signed_at(material.timestamps, material.signature, roots.values()),
    )


def _signers(
    material: Material, digest: Digest, terms: Terms, proofs: LazyProofs
) -> Iterator[tuple[TrustedKey | TrustedIdentity, Sender | None]]:
    """Yield the signers of the policy who made the signature.

    Raises:
        VerificationError: no root proves the certificate, or the key of the hint did not sign.
    """
    senders = terms.policy.senders
    if material.kind == "keyless":
        proof = proofs.by_any()
        for sender in senders:
            for identity in sender.identities:
                if identity.identity in proof.identities:
                    yield identity, sender
        return
    keys: list[tuple[TrustedKey, Sender | None]] = []
    if terms.own_key is not None:
        keys.append((TrustedKey(key=terms.own_key), None))
    keys += [(key, sender) for sender in senders for key in sender.keys]
    broken: VerificationError | None = None
    for key, holder in keys:
        try:
            prove_key(material, digest, key.key)
        except VerificationError as error:
            if key.key.spki_sha256 == material.hint:
                broken = error
            continue
        yield key, holder
    if broken is not None:
        raise broken


def _verified(evidence: SignerEvidence, material: Material) -> Verified:
    signer, proof = evidence.signer, evidence.proof
    return Verified(
        name="" if evidence.sender is None else evidence.sender.name,
        kind=material.kind,
        signer=signer.key.spki_sha256 if isinstance(signer, TrustedKey) else signer.identity,
        issuer="" if proof is None else proof.issuer,
        signed_at=evidence.signed_at,
        own=evidence.sender is None,
        approval=True,
    )

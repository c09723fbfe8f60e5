"""Proving what we sign ourselves, before anybody else sees it: by our own verifier."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from dockercomms.errors import VerificationError
from dockercomms.manifest import Message, Receipt
from dockercomms.trust.bundle import SigstoreBundle
from dockercomms.trust.checks import Claim, Terms
from dockercomms.trust.keyless import SigstoreRoots
from dockercomms.trust.policy import Policy, Root, Sender, TrustedIdentity
from dockercomms.trust.roots import KeylessProof
from dockercomms.trust.signing import SignedBy
from dockercomms.trust.verifier import key_of_new_sender, verify_claim


def prove_own(
    message: Message, bundle: bytes, signed_by: SignedBy, *, repo: str, now: datetime
) -> None:
    """Prove that a receiver who trusts its signer will take `bundle` for proof of `message`.

    Of a keyless bundle the signer has proven the certificate by its root; here is what it signed.

    Raises:
        VerificationError: it proves something else, or by another signer.
    """
    repo = message.header.audience or repo
    _prove_claim(Claim.of_message(message), bundle, signed_by, repo=repo, now=now)


def prove_own_receipt(receipt: Receipt, bundle: bytes, signed_by: SignedBy) -> None:
    """Prove that a sender who trusts its signer will take `bundle` for proof of `receipt`.

    Raises:
        VerificationError: as `prove_own`.
    """
    claim = Claim.of_receipt(receipt)
    if claim.created is None:
        raise AssertionError("internal: a receipt of ours without a time")
    _prove_claim(claim, bundle, signed_by, repo="", now=claim.created)


def _prove_claim(
    claim: Claim, bundle: bytes, signed_by: SignedBy, *, repo: str, now: datetime
) -> None:
    terms = Terms(
        policy=Policy(),
        me=(claim.recipient,),
        repo=repo,
        now=now,
        roots=_SelfProven(signed_by, now),
    )
    if signed_by.kind == "key":
        key, _ = key_of_new_sender(claim, [bundle], terms)
        if key.spki_sha256 != signed_by.signer:
            raise VerificationError(
                f"{claim.title}: signed with {key.spki_sha256}; {signed_by.signer} expected"
            )
        return
    identity = TrustedIdentity(identity=signed_by.signer, issuer=_SelfProven.ISSUER)
    sender = Sender(name=claim.name, identities=(identity,))
    verify_claim(claim, [bundle], replace(terms, policy=Policy(senders=(sender,))))


class _SelfProven(SigstoreRoots):
    """Stands for the root that the signer has asked already."""

    ISSUER = "our own signer"

    def __init__(self, signed_by: SignedBy, now: datetime) -> None:
        super().__init__()
        self._signer = signed_by.signer
        self._now = now

    def prove(self, bundle: SigstoreBundle, root: Root) -> KeylessProof:  # noqa: ARG002 - it was proven
        """Return that the bundle is the signer's, of this moment."""
        return KeylessProof(
            root=root.name, identities=(self._signer,), issuer=self.ISSUER, signed_at=self._now
        )

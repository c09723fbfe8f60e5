"""The checks of a signature, one function for each.

`verifier` describes their order. `RULES` lists them, so that a test can remove one check and show
that the forgery it stops would pass.

Source: SPEC.md sections 8 to 10.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Literal, Protocol

from dockercomms.errors import ClocksDiffer, TooEarly, VerificationError
from dockercomms.oci.model import Digest
from dockercomms.platforms.clock import ClockChoice, Clocks
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.header import PREDICATE_TYPE_MESSAGE, PREDICATE_TYPE_RECEIPT
from dockercomms.protocol.manifest import Message, Receipt
from dockercomms.trust.bundle import PAYLOAD_TYPE_INTOTO, SigstoreBundle, parse_bundle_json, verify
from dockercomms.trust.keyless import SigstoreRoots
from dockercomms.trust.keys import PublicKey
from dockercomms.trust.policy import Kind, Policy, Sender, TrustedIdentity, TrustedKey
from dockercomms.trust.roots import KeylessProof
from dockercomms.trust.statement import (
    PREDICATE_TYPE_COSIGN_SIGN,
    OwnPredicate,
    Statement,
    difference,
    message_predicate,
    parse_statement,
    receipt_predicate,
)

MAX_BUNDLES = 32
"""The limit of SPEC.md section 8: anyone with push access can add bundles."""

MAX_SIGNING_DISTANCE = timedelta(hours=1)
"""SPEC.md section 3: the most time between a proven time and the claimed one of our statement."""

ClaimKind = Kind | Literal["approval"]
"""An approval is about a file, or a manifest that is not a message."""

_PREDICATE_TYPES: Mapping[ClaimKind, str] = {
    "message": PREDICATE_TYPE_MESSAGE,
    "receipt": PREDICATE_TYPE_RECEIPT,
    "approval": PREDICATE_TYPE_COSIGN_SIGN,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The values of an object that a signature must prove."""

    kind: ClaimKind
    title: str
    """The name of the object in errors."""
    subject: Digest
    """The message's manifest, also for a receipt."""
    name: str = ""
    """The required signer; "": any sender of the policy."""
    recipient: str = ""
    """The recipient of the object."""
    subject_name: str = ""
    audience: str | None = None
    created: datetime | None = None
    predicate: OwnPredicate | None = None
    """The expected statement; None if the manifest lacks values that our statements need."""

    @classmethod
    def of_message(cls, message: Message) -> Claim:
        """Return the claim of `message`."""
        header = message.header
        return cls(
            kind="message",
            title=f"message {header.id!r:.60} from {header.sender!r:.100}",
            subject=message.digest,
            name=header.sender,
            recipient=header.recipient,
            subject_name=header.id,
            audience=header.audience,
            created=header.created_at,
            predicate=None if header.created_at is None else message_predicate(message),
        )

    @classmethod
    def of_receipt(cls, receipt: Receipt) -> Claim:
        """Return the claim of `receipt`: its author is the message's recipient."""
        return cls(
            kind="receipt",
            title=f"receipt of {receipt.recipient!r:.100} for {receipt.message_id!r:.60}",
            subject=receipt.message,
            name=receipt.recipient,
            recipient=receipt.sender,
            subject_name=receipt.message_id,
            created=receipt.created_at,
            predicate=None if receipt.created_at is None else receipt_predicate(receipt),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The policy, names, clocks and roots by which a claim is judged."""

    policy: Policy
    me: tuple[str, ...]
    """The user's own names."""
    repo: str
    """The repository's full name."""
    own_key: PublicKey | None = None
    """The user's own key: trusted for the user's own names without a trust file."""
    own_names: tuple[str, ...] | None = None
    """The names that the own key may sign as; default: those in `me`."""
    now: datetime
    registry_now: datetime | None = None
    """The registry's clock."""
    choice: ClockChoice = "both"
    """The clock that decides."""
    roots: SigstoreRoots
    """Verifies certificates and times; shared by many claims, because it caches roots."""

    def own_key_for(self, name: str) -> PublicKey | None:
        """Return the user's own key if it may sign as `name`."""
        names = self.me if self.own_names is None else self.own_names
        return self.own_key if name in names else None

    @property
    def clocks(self) -> Clocks:
        """The clocks by which the claim is judged."""
        return Clocks(self.now, self.registry_now, self.choice)


class Proofs(Protocol):
    """The proofs by one bundle's certificate and timestamps, computed on first use."""

    def proof(self, signer: TrustedKey | TrustedIdentity) -> KeylessProof | None:
        """Return the proof by the certificate; see `Evidence.proof`."""
        ...

    def signed_at(self, signer: TrustedKey | TrustedIdentity) -> datetime | None:
        """Return the proven time of the signature; see `Evidence.signed_at`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SignerEvidence:
    """A possible signer of an object."""

    claim: Claim
    terms: Terms
    signer: TrustedKey | TrustedIdentity
    sender: Sender | None = None
    """The policy's entry of the signer; None for the own key, and for one to be pinned."""
    proofs: Proofs

    @property
    def proof(self) -> KeylessProof | None:
        """The proof by the certificate, if there is one.

        Raises:
            VerificationError: no root proves it.
        """
        return self.proofs.proof(self.signer)

    @property
    def signed_at(self) -> datetime | None:
        """The time of the signature, proven by an authority or a log; None without proof."""
        return self.proofs.signed_at(self.signer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence(SignerEvidence):
    """One bundle with its statement, and one possible signer."""

    bundle: SigstoreBundle
    statement: Statement


ClaimCheck = Callable[[Claim, Terms], None]
SignerCheck = Callable[[SignerEvidence], None]
Check = Callable[[Evidence], None]
"""Each returns, or raises VerificationError."""


# --- 1: without a signature ----------------------------------------------------------------------


def check_recipient(claim: Claim, terms: Terms) -> None:
    """Check that it is for one of our names: a message can be copied into another inbox."""
    if claim.recipient not in terms.me:
        raise VerificationError(
            f"sent to {claim.recipient!r:.100}; your names are {', '.join(terms.me):.200}"
        )


def check_audience(claim: Claim, terms: Terms) -> None:
    """Check that it is for this repository, or for one of the policy's audiences."""
    if claim.audience not in (None, terms.repo, *terms.policy.audiences):
        raise VerificationError(
            f"sent for repository {claim.audience!r:.200}; this one is {terms.repo}"
        )


def check_not_future(claim: Claim, terms: Terms) -> None:
    """Check that it was not created in the future; the clocks must agree about it."""
    if claim.created is None:
        return
    clocks, start = terms.clocks, claim.created - terms.policy.clock_skew
    is_early = clocks.agree(lambda now: now < start)
    if is_early is None:
        raise ClocksDiffer(
            f"created {claim.created}, in the future by only one of two clocks: {clocks}"
        )
    if is_early:
        raise TooEarly(f"created {claim.created}, in the future: held until {start}; {clocks}")


def check_age(claim: Claim, terms: Terms) -> None:
    """Check that it is not older than the policy allows; the clocks must agree about it."""
    most = terms.policy.max_age
    created, clocks = claim.created, terms.clocks
    if most is None or created is None:
        return
    is_old = clocks.agree(lambda now: now - created > most)
    if is_old is None:
        raise ClocksDiffer(
            f"created {claim.created}, older than the policy's {most} by only one of two clocks: "
            f"{clocks}"
        )
    if is_old:
        raise VerificationError(
            f"created {claim.created}; the policy accepts an age of at most {most}"
        )


# --- 3a: the signature ---------------------------------------------------------------------------


def check_payload_type(evidence: Evidence) -> None:
    """Check that the envelope's type is that of a statement."""
    kind = evidence.bundle.envelope.payload_type
    if kind != PAYLOAD_TYPE_INTOTO:
        raise VerificationError(f"payload type {kind!r:.100}; {PAYLOAD_TYPE_INTOTO} expected")


def check_signature(evidence: Evidence) -> None:
    """Check that the key, or the key of a proven certificate, made the signature."""
    signer = evidence.signer
    if isinstance(signer, TrustedIdentity):
        evidence.proofs.proof(signer)
    elif not verify(evidence.bundle.envelope, signer.key):
        raise VerificationError(f"not signed with key {signer.key.spki_sha256}")


def check_identity(evidence: SignerEvidence) -> None:
    """Check that the certificate is for the trusted identity."""
    signer, proof = evidence.signer, evidence.proof
    if isinstance(signer, TrustedIdentity) and proof and signer.identity not in proof.identities:
        raise VerificationError(
            f"signed by {', '.join(proof.identities):.300}; {signer.identity} expected"
        )


def check_issuer(evidence: SignerEvidence) -> None:
    """Check that the trusted issuer vouches for it: another may call anybody by any name."""
    signer, proof = evidence.signer, evidence.proof
    if isinstance(signer, TrustedIdentity) and proof and signer.issuer != proof.issuer:
        raise VerificationError(
            f"identity vouched for by issuer {proof.issuer}; {signer.issuer} expected"
        )


def check_root(evidence: SignerEvidence) -> None:
    """Check the root: a private Sigstore must not vouch for an identity of the public one."""
    signer, proof = evidence.signer, evidence.proof
    if isinstance(signer, TrustedIdentity) and proof and signer.root != proof.root:
        raise VerificationError(f"certificate from root {proof.root!r}; {signer.root!r} expected")


# --- 3b: the statement ---------------------------------------------------------------------------


def check_subject(evidence: Evidence) -> None:
    """Check that the statement is about this manifest."""
    if evidence.statement.subject != evidence.claim.subject:
        raise VerificationError(
            f"the signature is for {evidence.statement.subject}; {evidence.claim.subject} expected"
        )


def check_predicate_type(evidence: Evidence) -> None:
    """Check the predicate type: the subject of a receipt's statement is a message too."""
    claim, found = evidence.claim, evidence.statement.predicate_type
    expected = _PREDICATE_TYPES[claim.kind]
    if found == expected:
        return
    if found == PREDICATE_TYPE_COSIGN_SIGN and claim.kind == "message":
        if evidence.terms.policy.accept_cosign_sign:
            return
        raise VerificationError(
            "signed only with `cosign sign`; the policy has no accept_cosign_sign = true"
        )
    raise VerificationError(f"predicate type {found!r:.100}; {expected} expected")


def check_values(evidence: Evidence) -> None:
    """Check that the statement's values equal the manifest's."""
    statement, claim = evidence.statement, evidence.claim
    if statement.predicate_type != _PREDICATE_TYPES[claim.kind] or claim.kind == "approval":
        return
    if claim.predicate is None:
        raise VerificationError("the manifest has no created_at to compare with the statement")
    found = difference(claim.predicate, statement.predicate)
    if found is None and statement.subject_name != claim.subject_name:
        found = (
            f"the statement's subject is called {statement.subject_name!r:.100}; "
            f"{claim.subject_name!r:.100} expected"
        )
    if found is not None:
        raise VerificationError(found)


# --- 3c: the time --------------------------------------------------------------------------------


def check_timestamp(evidence: SignerEvidence) -> None:
    """Check that there is a trusted time, if the policy requires one for that key."""
    signer = evidence.signer
    if (
        isinstance(signer, TrustedKey)
        and signer.timestamp == "required"
        and evidence.signed_at is None
    ):
        raise VerificationError(
            f"key {signer.key.spki_sha256}: no timestamp of a trusted authority, and the policy "
            "requires one"
        )


def check_signing_time(evidence: Evidence) -> None:
    """Check that our own statement was signed near its claimed time; approvals may be later."""
    created, signed_at = evidence.claim.created, evidence.signed_at
    if evidence.statement.predicate_type == PREDICATE_TYPE_COSIGN_SIGN:
        return
    if created and signed_at and abs(signed_at - created) > MAX_SIGNING_DISTANCE:
        raise VerificationError(f"signed {signed_at}, but created {created}")


def check_key_validity(evidence: SignerEvidence) -> None:
    """Check that the key was valid at the proven time, else at the claimed one."""
    signer = evidence.signer
    moment = evidence.signed_at or evidence.claim.created or evidence.terms.now
    if isinstance(signer, TrustedKey) and not signer.valid_at(moment):
        raise VerificationError(f"key {signer.key.spki_sha256} is not valid at {moment}")


def check_revocation(evidence: SignerEvidence) -> None:
    """Check that the signer is not revoked; a signature without a proven time counts as late."""
    policy, signer = evidence.terms.policy, evidence.signer
    if isinstance(signer, TrustedKey):
        revoked = policy.revocation_of_key(signer.key, evidence.signed_at)
        what = f"key {signer.key.spki_sha256}"
    else:
        revoked = policy.revocation_of_identity(signer.identity, evidence.signed_at)
        what = signer.identity
    if revoked is not None:
        since = "" if revoked.since is None else f" from {revoked.since}"
        reason = f": {revoked.reason}" if revoked.reason else ""
        raise VerificationError(f"{what} is revoked{since}{reason}")


# --- 3d: the sender ------------------------------------------------------------------------------


def check_permission(evidence: Evidence) -> None:
    """Check that the policy lets that name send such an object here; the own key always may."""
    claim, sender = evidence.claim, evidence.sender
    if sender is None or claim.kind == "approval":
        return
    if not sender.may(claim.kind, recipient=claim.recipient, repo=evidence.terms.repo):
        raise VerificationError(
            f"the policy does not let {sender.name!r:.100} send a {claim.kind} to "
            f"{claim.recipient!r:.100} in {evidence.terms.repo}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The parts of the verifier."""

    claim_checks: tuple[ClaimCheck, ...]
    checks: tuple[Check, ...]
    """In order: the error of the signer that passed most of them is reported."""
    parse_bundle: Callable[[bytes], SigstoreBundle] = parse_bundle_json
    """Refuses bundles larger than `MAX_BUNDLE_BYTES`."""
    parse_statement: Callable[[bytes], Statement] = parse_statement
    max_bundles: int = MAX_BUNDLES

    def without(self, check: Check | ClaimCheck) -> Rules:
        """Return these rules without `check`, to show its purpose."""
        return replace(
            self,
            claim_checks=tuple(item for item in self.claim_checks if item is not check),
            checks=tuple(item for item in self.checks if item is not check),
        )


RULES = Rules(
    claim_checks=(check_recipient, check_audience, check_not_future, check_age),
    checks=(
        check_payload_type,
        check_signature,
        check_identity,
        check_issuer,
        check_root,
        check_subject,
        check_predicate_type,
        check_values,
        check_timestamp,
        check_signing_time,
        check_key_validity,
        check_revocation,
        check_permission,
    ),
)

SIGNER_CHECKS: tuple[SignerCheck, ...] = (
    check_identity,
    check_issuer,
    check_root,
    check_timestamp,
    check_key_validity,
    check_revocation,
)
"""The checks that need only the signer and the time."""

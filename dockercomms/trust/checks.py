"""What a signature has to prove, and each single check of it.

The order and the whole are told in `verifier`. Every check is a function of its own in `RULES`, so
that a test can take one out and see that the forgery it stops would pass.

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
from dockercomms.trust import bundle as dsse
from dockercomms.trust.bundle import SigstoreBundle, parse_bundle_json
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
"""SPEC.md section 8: so many are tried at once; anybody who may write here can add more."""

MAX_SIGNING_DISTANCE = timedelta(hours=1)
"""SPEC.md section 3: how far a proven time may be from the one that our own statement claims."""

ClaimKind = Kind | Literal["approval"]
"""An approval is of anything: a file, or a manifest that is no message."""

_PREDICATE_TYPES: Mapping[ClaimKind, str] = {
    "message": PREDICATE_TYPE_MESSAGE,
    "receipt": PREDICATE_TYPE_RECEIPT,
    "approval": PREDICATE_TYPE_COSIGN_SIGN,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What an object says, all of which a signature has to prove."""

    kind: ClaimKind
    title: str
    """What errors call it."""
    subject: Digest
    """The message's manifest, also of a receipt."""
    name: str = ""
    """Who must have signed it; "": anybody whom the policy knows."""
    recipient: str = ""
    """For whom it is."""
    subject_name: str = ""
    audience: str | None = None
    created: datetime | None = None
    predicate: OwnPredicate | None = None
    """What the statement has to say; None where the manifest lacks what our statements need."""

    @classmethod
    def of_message(cls, message: Message) -> Claim:
        """Return what `message` claims."""
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
        """Return what `receipt` claims: its author is the message's recipient."""
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
    """On whose behalf a claim is judged, and by what."""

    policy: Policy
    me: tuple[str, ...]
    """The names that we answer to."""
    repo: str
    """The repository's whole name."""
    own_key: PublicKey | None = None
    """Ours: trusted for our own names without a file, so that one person alone needs none."""
    own_names: tuple[str, ...] | None = None
    """The names that our own key speaks for; None: those in `me`."""
    now: datetime
    registry_now: datetime | None = None
    """The registry's clock."""
    choice: ClockChoice = "both"
    """Whose time decides."""
    roots: SigstoreRoots
    """Proves certificates and times; one for many claims, since it keeps what it has read."""

    def own_key_for(self, name: str) -> PublicKey | None:
        """Return our own key if it may speak for `name`."""
        names = self.me if self.own_names is None else self.own_names
        return self.own_key if name in names else None

    @property
    def clocks(self) -> Clocks:
        """What the clocks show by which it is judged."""
        return Clocks(self.now, self.registry_now, self.choice)


class Proofs(Protocol):
    """What certificate and timestamps of one bundle prove, found out when it is asked for."""

    def proof(self, signer: TrustedKey | TrustedIdentity) -> KeylessProof | None:
        """Return what the certificate proves; see `Evidence.proof`."""
        ...

    def signed_at(self, signer: TrustedKey | TrustedIdentity) -> datetime | None:
        """Return the proven time of the signature; see `Evidence.signed_at`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SignerEvidence:
    """One signer who may have made a signature."""

    claim: Claim
    terms: Terms
    signer: TrustedKey | TrustedIdentity
    sender: Sender | None = None
    """The policy's entry that names the signer; None: it is our own key, or one to be pinned."""
    proofs: Proofs

    @property
    def proof(self) -> KeylessProof | None:
        """What the certificate proves; of key bundles None.

        Raises:
            VerificationError: no root proves it.
        """
        return self.proofs.proof(self.signer)

    @property
    def signed_at(self) -> datetime | None:
        """When it was signed, proven by an authority or a log; None if nobody says so."""
        return self.proofs.signed_at(self.signer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence(SignerEvidence):
    """One bundle with a statement, and one signer who may have made it."""

    bundle: SigstoreBundle
    statement: Statement


ClaimCheck = Callable[[Claim, Terms], None]
SignerCheck = Callable[[SignerEvidence], None]
Check = Callable[[Evidence], None]
"""Each raises VerificationError, or lets pass."""


# --- 1: without a signature ----------------------------------------------------------------------


def check_recipient(claim: Claim, terms: Terms) -> None:
    """It is for one of our names: a whole message can be copied into another inbox."""
    if claim.recipient not in terms.me:
        raise VerificationError(f"for {claim.recipient!r:.100}; we are {', '.join(terms.me):.200}")


def check_audience(claim: Claim, terms: Terms) -> None:
    """It is for this repository, or for one that the policy takes for it."""
    if claim.audience not in (None, terms.repo, *terms.policy.audiences):
        raise VerificationError(f"meant for {claim.audience!r:.200}; this is {terms.repo}")


def check_not_future(claim: Claim, terms: Terms) -> None:
    """It was not created in the future; the clocks have to say the same."""
    if claim.created is None:
        return
    clocks, start = terms.clocks, claim.created - terms.policy.clock_skew
    is_early = clocks.agree(lambda now: now < start)
    if is_early is None:
        raise ClocksDiffer(f"created {claim.created}, in the future by one clock only: {clocks}")
    if is_early:
        raise TooEarly(f"created {claim.created}, in the future: it waits until {start}; {clocks}")


def check_age(claim: Claim, terms: Terms) -> None:
    """It is not older than the policy allows; the clocks have to say the same."""
    most = terms.policy.max_age
    created, clocks = claim.created, terms.clocks
    if most is None or created is None:
        return
    is_old = clocks.agree(lambda now: now - created > most)
    if is_old is None:
        raise ClocksDiffer(
            f"created {claim.created}, over the policy's {most} ago by one clock only: {clocks}"
        )
    if is_old:
        raise VerificationError(f"created {claim.created}; the policy takes nothing over {most}")


# --- 3a: the signature ---------------------------------------------------------------------------


def check_payload_type(evidence: Evidence) -> None:
    """The envelope says that it holds a statement."""
    kind = evidence.bundle.envelope.payload_type
    if kind != dsse.PAYLOAD_TYPE_INTOTO:
        raise VerificationError(f"payload type {kind!r:.100}; {dsse.PAYLOAD_TYPE_INTOTO} expected")


def check_signature(evidence: Evidence) -> None:
    """The key made the signature, or the key of a certificate that root, log and time prove."""
    signer = evidence.signer
    if isinstance(signer, TrustedIdentity):
        evidence.proofs.proof(signer)
    elif not dsse.verify(evidence.bundle.envelope, signer.key):
        raise VerificationError(f"not signed with key {signer.key.spki_sha256}")


def check_identity(evidence: SignerEvidence) -> None:
    """The certificate was given to the trusted identity."""
    signer, proof = evidence.signer, evidence.proof
    if isinstance(signer, TrustedIdentity) and proof and signer.identity not in proof.identities:
        raise VerificationError(
            f"signed by {', '.join(proof.identities):.300}; {signer.identity} expected"
        )


def check_issuer(evidence: SignerEvidence) -> None:
    """The trusted issuer vouched for the identity: another may call anybody by any name."""
    signer, proof = evidence.signer, evidence.proof
    if isinstance(signer, TrustedIdentity) and proof and signer.issuer != proof.issuer:
        raise VerificationError(f"identity of issuer {proof.issuer}; {signer.issuer} expected")


def check_root(evidence: SignerEvidence) -> None:
    """The identity's own root proves it: a private Sigstore cannot vouch for public names."""
    signer, proof = evidence.signer, evidence.proof
    if isinstance(signer, TrustedIdentity) and proof and signer.root != proof.root:
        raise VerificationError(f"proven by root {proof.root!r}; {signer.root!r} expected")


# --- 3b: the statement ---------------------------------------------------------------------------


def check_subject(evidence: Evidence) -> None:
    """It is about this manifest."""
    if evidence.statement.subject != evidence.claim.subject:
        raise VerificationError(
            f"signed for {evidence.statement.subject}; {evidence.claim.subject} expected"
        )


def check_predicate_type(evidence: Evidence) -> None:
    """It says what such an object has to say: a receipt is about a message too."""
    claim, found = evidence.claim, evidence.statement.predicate_type
    expected = _PREDICATE_TYPES[claim.kind]
    if found == expected:
        return
    if found == PREDICATE_TYPE_COSIGN_SIGN and claim.kind == "message":
        if evidence.terms.policy.accept_cosign_sign:
            return
        raise VerificationError(
            "only approved of, with `cosign sign`; the policy does not say accept_cosign_sign"
        )
    raise VerificationError(f"predicate type {found!r:.100}; {expected} expected")


def check_values(evidence: Evidence) -> None:
    """Each of its values is that of the manifest; `check_predicate_type` says of what kind."""
    statement, claim = evidence.statement, evidence.claim
    if statement.predicate_type != _PREDICATE_TYPES[claim.kind] or claim.kind == "approval":
        return
    if claim.predicate is None:
        raise VerificationError("the manifest has no created_at, so no statement can agree with it")
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
    """There is a trusted time, where the policy wants one of that key."""
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
    """Our own statement was signed near the time that it claims; an approval may come later."""
    created, signed_at = evidence.claim.created, evidence.signed_at
    if evidence.statement.predicate_type == PREDICATE_TYPE_COSIGN_SIGN:
        return
    if created and signed_at and abs(signed_at - created) > MAX_SIGNING_DISTANCE:
        raise VerificationError(f"signed {signed_at}, but created {created}")


def check_key_validity(evidence: SignerEvidence) -> None:
    """The key was valid: at the proven time, else at the one that its owner claims."""
    signer = evidence.signer
    moment = evidence.signed_at or evidence.claim.created or evidence.terms.now
    if isinstance(signer, TrustedKey) and not signer.valid_at(moment):
        raise VerificationError(f"key {signer.key.spki_sha256} is not valid at {moment}")


def check_revocation(evidence: SignerEvidence) -> None:
    """Neither the key nor the identity is revoked; nobody helps a signature without a time."""
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
    """The policy lets that name send such an object to us, here. Our own key may do anything."""
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
    """What the verifier does, part by part."""

    claim_checks: tuple[ClaimCheck, ...]
    checks: tuple[Check, ...]
    """In their order: of a bundle that fails, the reason of the signer who got furthest is told."""
    parse_bundle: Callable[[bytes], SigstoreBundle] = parse_bundle_json
    """Refuses what is larger than `MAX_BUNDLE_BYTES`."""
    parse_statement: Callable[[bytes], Statement] = parse_statement
    max_bundles: int = MAX_BUNDLES

    def without(self, check: Check | ClaimCheck) -> Rules:
        """Return these rules without `check`, to show what it is for."""
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
"""Those that look at nothing but who signed, and when."""

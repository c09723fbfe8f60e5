"""Verification of the bundles of one message or receipt against the policy.

1. check the claims that need no signature: it is for us and for this repository, and it is
   neither of the future nor too old
2. parse its bundles, strictly and within limits; put those of known signers first
3. for each bundle, try each signer that the policy (or the own key) allows for the name:
   a. the signature is valid: by the key, or by the certificate with its root, log and time
   b. the statement is one of ours, of the right kind, about this manifest, and repeats its values
   c. the signer could sign then: validity of the key, revocation, a trusted time if it is
      required, near the time that the object claims
   d. the policy lets that name send such an object to us here
4. return the first signer for which all checks pass; else report the reason of each bundle

`checks.RULES` has one function for each check. No check uses a network.

Source: SPEC.md sections 8 to 10.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import field, replace
from datetime import datetime

from dockercomms.errors import (
    DockerCommsError,
    InternalError,
    ProtocolError,
    UnknownSender,
    Unsigned,
    UsageError,
    VerificationError,
    guarded,
)
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.manifest import Message, Receipt
from dockercomms.trust.bundle import BundleKind, SigstoreBundle, verify
from dockercomms.trust.checks import (
    RULES,
    Claim,
    Evidence,
    Rules,
    Terms,
)
from dockercomms.trust.keyless import SigstoreRoots
from dockercomms.trust.keys import PublicKey
from dockercomms.trust.policy import Policy, Root, Sender, TrustedIdentity, TrustedKey
from dockercomms.trust.roots import KeylessProof
from dockercomms.trust.signing import SignedBy
from dockercomms.trust.statement import PREDICATE_TYPE_COSIGN_SIGN, ForeignPredicate, Statement


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """The verified signer of an object."""

    name: str
    """The signer's name in the policy: the object's author."""
    kind: BundleKind
    signer: str
    """The key's `spki_sha256`, or the certificate's identity."""
    issuer: str = ""
    """The issuer of an identity."""
    signed_at: datetime | None = None
    """The proven latest time of the signature, if there is a proof."""
    own: bool = False
    """Signed with the user's own key."""
    approval: bool = False
    """A statement of cosign, not ours: the signer only approves of the object."""


def verify_message(
    message: Message, bundles: Sequence[bytes], terms: Terms, *, rules: Rules = RULES
) -> Verified:
    """Return the verified signer of `message`.

    Args:
        message: The message.
        bundles: The JSON of its bundles, at most 32 of them, 1 MiB each; more are ignored.
        terms: The policy, the user's names, and the clocks.
        rules: The checks.

    Raises:
        Unsigned: there is no bundle.
        UnknownSender: there is one, and the policy has no signer for the sender.
        VerificationError: no bundle satisfies the policy; the text gives the reason of each.
        InternalError: the same, and a bundle caused a defect of this program.
        ConfigError, LocalIOError: a root is not readable.
    """
    return verify_claim(Claim.of_message(message), bundles, terms, rules=rules)


def verify_receipt(
    receipt: Receipt, bundles: Sequence[bytes], terms: Terms, *, rules: Rules = RULES
) -> Verified:
    """Return the verified signer of `receipt`, by the entry of the message's recipient.

    Args and errors are those of `verify_message`; `bundles` is the content of its one layer.
    """
    return verify_claim(Claim.of_receipt(receipt), bundles, terms, rules=rules)


def verify_claim(
    claim: Claim, bundles: Sequence[bytes], terms: Terms, *, rules: Rules = RULES
) -> Verified:
    """Return the verified signer of `claim`; see `verify_message`."""
    sender = terms.policy.sender(claim.name)
    run = _Run(claim, terms, rules, sender)
    found = run.first(bundles, run.signers)
    if found is not None:  # 4
        return run.verdict(found)
    if sender is None or not (sender.keys or sender.identities):
        raise UnknownSender(
            f"{claim.title}: no key or identity of {claim.name!r:.100} is trusted{run.told()}"
        )
    text = f"{claim.title}: no signature satisfies the policy{run.told()}"
    if run.defect is not None:
        raise InternalError(text, what=claim.title) from run.defect
    raise VerificationError(text)


def key_of_new_sender(
    claim: Claim, bundles: Sequence[bytes], terms: Terms, *, rules: Rules = RULES
) -> tuple[PublicKey, Verified]:
    """Return the key that signed for a sender without an entry, to be pinned, as ssh does.

    It checks everything except the owner of the key. Source: SPEC.md section 9.

    Raises:
        Unsigned, VerificationError: as `verify_message`; also if the policy has an entry of that
            name, which only the user may change.
    """
    if terms.policy.sender(claim.name) is not None:
        raise VerificationError(
            f"{claim.title}: the policy has an entry for this name: no key is trusted on first use"
        )
    run = _Run(claim, terms, rules, None)
    found = run.first(bundles, _self_named)
    if found is None or not isinstance(found.signer, TrustedKey):
        raise VerificationError(
            f"{claim.title}: no signature with a key that could be trusted{run.told()}"
        )
    return found.signer.key, run.verdict(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signatory:
    """The proven signer of a bundle, who may not be in the policy."""

    kind: BundleKind
    signer: str
    """The key's `spki_sha256`, or the certificate's identity."""
    issuer: str = ""
    root: str = ""


def signatories(
    bundles: Sequence[bytes], terms: Terms, *, rules: Rules = RULES
) -> tuple[Signatory, ...]:
    """Return the proven signers of `bundles`, for a user who decides about trust.

    It does not check the signed content.

    Raises:
        ConfigError, LocalIOError: a root is not readable.
    """
    found: dict[Signatory, None] = {}
    for data in bundles[: rules.max_bundles]:
        try:
            with guarded("bundle"):
                found |= dict.fromkeys(_signatories(data, terms, rules))
        except (ProtocolError, VerificationError, InternalError):
            continue  # it proves no signer
    return tuple(found)


def _signatories(data: bytes, terms: Terms, rules: Rules) -> Iterator[Signatory]:
    bundle = rules.parse_bundle(data)
    if bundle.kind == "keyless":
        proof = _proofs(bundle, terms).by_any()
        for identity in proof.identities:
            yield Signatory(kind="keyless", signer=identity, issuer=proof.issuer, root=proof.root)
        return
    statement = rules.parse_statement(bundle.envelope.payload)
    for signer, _ in _self_named(bundle, statement):
        if isinstance(signer, TrustedKey) and verify(bundle.envelope, signer.key):
            yield Signatory(kind="key", signer=signer.key.spki_sha256)


Candidate = tuple[TrustedKey | TrustedIdentity, Sender | None]


def _self_named(bundle: SigstoreBundle, statement: Statement) -> Iterator[Candidate]:
    """Yield the key that the statement itself names, if it is the one that the hint names."""
    predicate = statement.predicate
    spki = None if isinstance(predicate, ForeignPredicate) else predicate.signer_spki
    if bundle.kind != "key" or spki is None:
        return
    try:
        key = PublicKey(spki)
    except UsageError as error:
        raise VerificationError(f"signer: {error.message}") from error
    if key.spki_sha256 == bundle.hint:
        yield TrustedKey(key=key), None


@dataclass(slots=True)
class _Run:
    """One call of `verify_claim`, with the reasons of the bundles that failed."""

    claim: Claim
    terms: Terms
    rules: Rules
    sender: Sender | None
    reasons: list[str] = field(default_factory=list)
    defect: InternalError | None = None
    """A defect of this program, caused by a bundle: its signer is not known."""

    def first(
        self,
        bundles: Sequence[bytes],
        signers: Callable[[SigstoreBundle, Statement], Iterable[Candidate]],
    ) -> Evidence | None:
        """Return the first evidence that passes all checks."""
        for claim_check in self.rules.claim_checks:  # 1
            try:
                claim_check(self.claim, self.terms)
            except VerificationError as error:
                raise type(error)(f"{self.claim.title}: {error.message}") from error
        if not bundles:
            raise Unsigned(f"{self.claim.title}: not signed")
        for number, bundle in self._parsed(bundles):  # 2
            try:
                with guarded(self.claim.title):
                    return self._examine(bundle, signers)  # 3
            except (VerificationError, ProtocolError, InternalError) as error:
                self._failed(number, error)
        return None

    def _failed(self, number: int, error: DockerCommsError) -> None:
        self.reasons.append(f"bundle {number}: {error.message}")
        if isinstance(error, InternalError):
            self.defect = error

    def told(self) -> str:
        """Return the reasons, one per line."""
        return "".join(f"\n  {reason}" for reason in self.reasons)

    def verdict(self, evidence: Evidence) -> Verified:
        """Return the verified signer of the evidence."""
        signer, proof = evidence.signer, evidence.proof
        return Verified(
            name=self.claim.name,
            kind=evidence.bundle.kind,
            signer=signer.key.spki_sha256 if isinstance(signer, TrustedKey) else signer.identity,
            issuer="" if proof is None else proof.issuer,
            signed_at=evidence.signed_at,
            own=isinstance(signer, TrustedKey) and signer.key == self.terms.own_key,
            approval=evidence.statement.predicate_type == PREDICATE_TYPE_COSIGN_SIGN,
        )

    def signers(self, bundle: SigstoreBundle, _: Statement) -> Iterator[Candidate]:
        """Yield the signers that the policy allows for the name, first the key of the hint."""
        if bundle.kind == "keyless":
            for identity in () if self.sender is None else self.sender.identities:
                yield identity, self.sender
            return
        keys: list[Candidate] = []
        own = self.terms.own_key_for(self.claim.name)
        if own is not None:
            keys.append((TrustedKey(key=own), None))
        if self.sender is not None:
            keys += [(key, self.sender) for key in self.sender.keys]
        yield from sorted(keys, key=lambda item: not _is_hinted(item, bundle.hint))

    def _parsed(self, bundles: Sequence[bytes]) -> list[tuple[int, SigstoreBundle]]:
        """Return the bundles that can be parsed, those of known signers first."""
        found = []
        for number, data in enumerate(bundles[: self.rules.max_bundles], start=1):
            try:
                with guarded(self.claim.title):
                    found.append((number, self.rules.parse_bundle(data)))
            except (ProtocolError, InternalError) as error:
                self._failed(number, error)
        if len(bundles) > self.rules.max_bundles:
            self.reasons.append(f"{len(bundles) - self.rules.max_bundles} more were not looked at")
        return sorted(found, key=lambda item: not self._is_known(item[1]))

    def _is_known(self, bundle: SigstoreBundle) -> bool:
        if bundle.kind == "keyless":
            return self.sender is not None and bool(self.sender.identities)
        return bundle.hint in signers_of(self.claim.name, self.terms)

    def _examine(
        self,
        bundle: SigstoreBundle,
        signers: Callable[[SigstoreBundle, Statement], Iterable[Candidate]],
    ) -> Evidence:
        """Return the evidence of the first signer for whom every check passes.

        Raises:
            VerificationError, ProtocolError: the reason of the signer who passed most checks.
        """
        statement = self.rules.parse_statement(bundle.envelope.payload)
        furthest, reason = -1, VerificationError(_nobody(bundle))
        proofs = _proofs(bundle, self.terms)
        for signer, sender in signers(bundle, statement):
            passed = 0
            evidence = Evidence(
                claim=self.claim,
                terms=self.terms,
                bundle=bundle,
                statement=statement,
                signer=signer,
                sender=sender,
                proofs=proofs,
            )
            try:
                for check in self.rules.checks:
                    check(evidence)
                    passed += 1
            except VerificationError as error:
                if passed > furthest:
                    furthest, reason = passed, error
                continue
            return evidence
        raise reason


def signers_of(name: str, terms: Terms) -> frozenset[str]:
    """Return the `spki_sha256` of every key that may sign as `name`."""
    sender = terms.policy.sender(name)
    keys = [] if sender is None else [key.key for key in sender.keys]
    own = terms.own_key_for(name)
    return frozenset(key.spki_sha256 for key in (*keys, *([] if own is None else [own])))


def _is_hinted(candidate: Candidate, hint: str) -> bool:
    signer = candidate[0]
    return isinstance(signer, TrustedKey) and signer.key.spki_sha256 == hint


def _nobody(bundle: SigstoreBundle) -> str:
    if bundle.kind == "key":
        return f"signed with key {bundle.hint!r:.60}, which is not trusted here"
    return "signed by an identity, but no identity is trusted here"


@dataclass(slots=True)
class LazyProofs:
    """The implementation of `checks.Proofs` for one bundle: it computes each proof once, on use."""

    roots: Mapping[str, Root]
    prove: Callable[[Root], KeylessProof]
    """Raises VerificationError."""
    attest: Callable[[], datetime | None]
    """Returns the proven time of a key's signature."""
    known: dict[str, KeylessProof | VerificationError] = field(default_factory=dict)
    attested: list[datetime | None] = field(default_factory=list)

    def proof(self, signer: TrustedKey | TrustedIdentity) -> KeylessProof | None:
        """Return the proof by the signer's own root, else by another one of the policy."""
        if isinstance(signer, TrustedKey):
            return None
        return self.by_any(signer.root)

    def by_any(self, first: str = "") -> KeylessProof:
        """Return the proof by the root called `first`, else by another one.

        Raises:
            VerificationError: no root proves it; the reason is that of the first one.
        """
        reason = VerificationError("no trusted root to check a certificate with")
        names = sorted(self.roots, key=lambda name: name != first)
        for number, name in enumerate(names):
            found = self._by(self.roots[name])
            if isinstance(found, KeylessProof):
                return found
            if not number:
                reason = found
        raise reason

    def _by(self, root: Root) -> KeylessProof | VerificationError:
        if root.name not in self.known:
            try:
                self.known[root.name] = self.prove(root)
            except VerificationError as error:
                self.known[root.name] = error
        return self.known[root.name]

    def signed_at(self, signer: TrustedKey | TrustedIdentity) -> datetime | None:
        """Return the proven time of the signature."""
        proof = self.proof(signer)
        if proof is not None:
            return proof.signed_at
        if not self.attested:
            self.attested.append(self.attest())
        return self.attested[0]


def _proofs(bundle: SigstoreBundle, terms: Terms) -> LazyProofs:
    roots, signature = terms.policy.roots, bundle.envelope.signature
    return LazyProofs(
        roots,
        lambda root: terms.roots.prove(bundle, root),
        lambda: terms.roots.signed_at(bundle.timestamps, signature, roots.values()),
    )


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

"""Who signed this: the bundles of one message or receipt against the policy.

1. what can be said without a signature: it is for us, for this repository, not of the future, not
   too old
2. its bundles are parsed, strictly, within limits; those of known signers come first
3. for each bundle, each signer whom the policy (or our own key) lets speak for the name is tried:
   a. the signature is the signer's: by the key, or by the certificate with its root, log and time
   b. the statement is one of ours, of the right kind, about this very manifest, and says what the
      manifest says
   c. the signer could sign then: validity of the key, revocation, a trusted time where one is
      required, and near the time that the object claims
   d. the policy lets that name send such an object to us here
4. the first signer for whom all of it holds is the answer; else the reason of each bundle is told

Every check is a function of its own in `checks.RULES`. Nothing here reads a network.

Source: SPEC.md sections 8 to 10.

Approvals of files, and of manifests that are no messages, against the policy.

What `sign` writes about anything but a message, and what `cosign sign`, `cosign sign-blob` and
`cosign attest-blob` write, says that its signer approves of the content, and no more.

Source: docs/trust.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import field
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
from dockercomms.oci.model import Digest
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.manifest import Message, Receipt
from dockercomms.trust import bundle as dsse
from dockercomms.trust.bundle import BundleKind, SigstoreBundle
from dockercomms.trust.checks import (
    RULES,
    SIGNER_CHECKS,
    Claim,
    Evidence,
    Rules,
    SignerEvidence,
    Terms,
)
from dockercomms.trust.keys import PublicKey
from dockercomms.trust.material import Material, parse_material, prove_certificate, prove_key
from dockercomms.trust.policy import Root, Sender, TrustedIdentity, TrustedKey
from dockercomms.trust.roots import KeylessProof
from dockercomms.trust.statement import PREDICATE_TYPE_COSIGN_SIGN, ForeignPredicate, Statement


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """Who signed an object, and what that proves."""

    name: str
    """The name that the signer has in the policy: the object's author."""
    kind: BundleKind
    signer: str
    """The key's `spki_sha256`, or the certificate's identity."""
    issuer: str = ""
    """Who vouched for an identity."""
    signed_at: datetime | None = None
    """When it was signed at the latest, as an authority attests; None: nobody does."""
    own: bool = False
    """Signed with our own key."""
    approval: bool = False
    """Not our own statement but cosign's: the signer approves of it and says no more."""


def verify_message(
    message: Message, bundles: Sequence[bytes], terms: Terms, *, rules: Rules = RULES
) -> Verified:
    """Return who signed `message`.

    Args:
        message: The message.
        bundles: The JSON of its bundles, at most 32 of them, 1 MiB each; more is not looked at.
        terms: Who may sign as whom, who we are, and when.
        rules: What is checked.

    Raises:
        Unsigned: there is no bundle.
        UnknownSender: there is one, and the policy does not say how the sender signs.
        VerificationError: no bundle satisfies the policy; the text gives the reason of each.
        InternalError: the same, and a bundle brought out a defect of ours.
        ConfigError, LocalIOError: a root cannot be read.
    """
    return verify_claim(Claim.of_message(message), bundles, terms, rules=rules)


def verify_receipt(
    receipt: Receipt, bundles: Sequence[bytes], terms: Terms, *, rules: Rules = RULES
) -> Verified:
    """Return who signed `receipt`; its signer has to satisfy the entry of the message's recipient.

    Args and errors are those of `verify_message`; `bundles` is the content of its one layer.
    """
    return verify_claim(Claim.of_receipt(receipt), bundles, terms, rules=rules)


def verify_claim(
    claim: Claim, bundles: Sequence[bytes], terms: Terms, *, rules: Rules = RULES
) -> Verified:
    """Return who signed what `claim` says; see `verify_message`."""
    sender = terms.policy.sender(claim.name)
    run = _Run(claim, terms, rules, sender)
    found = run.first(bundles, run.signers)
    if found is not None:  # 4
        return run.verdict(found)
    if sender is None or not (sender.keys or sender.identities):
        raise UnknownSender(
            f"{claim.title}: the policy does not say how {claim.name!r:.100} signs{run.told()}"
        )
    text = f"{claim.title}: no signature satisfies the policy{run.told()}"
    if run.defect is not None:
        raise InternalError(text, what=claim.title) from run.defect
    raise VerificationError(text)


def key_of_new_sender(
    claim: Claim, bundles: Sequence[bytes], terms: Terms, *, rules: Rules = RULES
) -> tuple[PublicKey, Verified]:
    """Return the key that signed what a sender without an entry says, to be pinned, as ssh does.

    Everything is checked but who has the key. Source: SPEC.md section 9.

    Raises:
        Unsigned, VerificationError: as `verify_message`; also where the policy has an entry of
            that name, whose owner has to change it.
    """
    if terms.policy.sender(claim.name) is not None:
        raise VerificationError(
            f"{claim.title}: the policy has an entry of that name; no key is pinned beside it"
        )
    run = _Run(claim, terms, rules, None)
    found = run.first(bundles, _self_named)
    if found is None or not isinstance(found.signer, TrustedKey):
        raise VerificationError(f"{claim.title}: no signature names a key to be pinned{run.told()}")
    return found.signer.key, run.verdict(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signatory:
    """Whom a bundle names as its signer: true, but perhaps nobody whom we know."""

    kind: BundleKind
    signer: str
    """The key's `spki_sha256`, or the certificate's identity."""
    issuer: str = ""
    root: str = ""


def signatories(
    bundles: Sequence[bytes], terms: Terms, *, rules: Rules = RULES
) -> tuple[Signatory, ...]:
    """Return who signed `bundles`, as far as they prove it, to tell a person whom to trust.

    What was signed is not looked at.

    Raises:
        ConfigError, LocalIOError: a root cannot be read.
    """
    found: dict[Signatory, None] = {}
    for data in bundles[: rules.max_bundles]:
        try:
            with guarded("bundle"):
                found |= dict.fromkeys(_signatories(data, terms, rules))
        except (ProtocolError, VerificationError, InternalError):
            continue  # it names nobody
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
        if isinstance(signer, TrustedKey) and dsse.verify(bundle.envelope, signer.key):
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
    """One call of `verify_claim`, and why each bundle failed so far."""

    claim: Claim
    terms: Terms
    rules: Rules
    sender: Sender | None
    reasons: list[str] = field(default_factory=list)
    defect: InternalError | None = None
    """A defect of ours that a bundle brought out: what it proves is not known."""

    def first(
        self,
        bundles: Sequence[bytes],
        signers: Callable[[SigstoreBundle, Statement], Iterable[Candidate]],
    ) -> Evidence | None:
        """Return the first evidence that holds."""
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
        """Return the reasons, one in a line."""
        return "".join(f"\n  {reason}" for reason in self.reasons)

    def verdict(self, evidence: Evidence) -> Verified:
        """Return what the evidence proves."""
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
        """Yield who may speak for the name: first the key that the bundle hints at."""
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
        """Return the evidence of the first signer for whom every check holds.

        Raises:
            VerificationError, ProtocolError: why there is none, of the signer who got furthest.
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
    """Return the `spki_sha256` of every key that may speak for `name`."""
    sender = terms.policy.sender(name)
    keys = [] if sender is None else [key.key for key in sender.keys]
    own = terms.own_key_for(name)
    return frozenset(key.spki_sha256 for key in (*keys, *([] if own is None else [own])))


def _is_hinted(candidate: Candidate, hint: str) -> bool:
    signer = candidate[0]
    return isinstance(signer, TrustedKey) and signer.key.spki_sha256 == hint


def _nobody(bundle: SigstoreBundle) -> str:
    if bundle.kind == "key":
        return f"signed with a key (hint {bundle.hint!r:.60}) of nobody who may sign here"
    return "signed by an identity, and the policy names none that may sign here"


@dataclass(slots=True)
class LazyProofs:
    """`checks.Proofs` of one bundle: nothing is proven before it is asked for, nor twice."""

    roots: Mapping[str, Root]
    prove: Callable[[Root], KeylessProof]
    """Raises VerificationError."""
    attest: Callable[[], datetime | None]
    """Gives the proven time of a key's signature."""
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
            VerificationError: why the first that was asked does not prove it, if none does.
        """
        reason = VerificationError("no trusted root to prove a certificate by")
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


def verify_approval(
    data: bytes,
    digest: Digest,
    terms: Terms,
    *,
    title: str,
    predicate_type: str = PREDICATE_TYPE_COSIGN_SIGN,
) -> Verified:
    """Return which of those whom the policy knows approves of the content with `digest`.

    Args:
        data: The JSON of one bundle.
        digest: Of the file, or of the manifest.
        terms: Who may sign as whom, and when; `me` and `repo` do not matter.
        title: What errors call the content.
        predicate_type: What a statement must say; a plain signature says no more than that.

    Raises:
        ProtocolError: not a bundle.
        UnknownSender: signed by nobody whom the policy knows.
        VerificationError: the signature does not hold, or may not count.
        ConfigError, LocalIOError: a root cannot be read.
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
    """Yield those whom the policy knows, and whose signature it is.

    Raises:
        VerificationError: it is nobody's.
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

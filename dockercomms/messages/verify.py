"""Verification of messages: their signers, by bundles and the trust policy, and the verdict.

1. Accept a claim if the policy allows this sender to write unsigned and trusts no key of theirs.
2. Judge the bundles that refer to the message; if none satisfies, those tagged for it. A message is
   "not signed" only after both.
3. Pin the key of a new sender, if the caller asked for it.
4. Hold a message whose signer used its id for another message that was delivered.
5. Withhold a message that does not satisfy the policy, with the reason and the possible remedies.

A message must pass before its payload is written to disk; only judgements are stored earlier.

Source: SPEC.md sections 7 to 9.
"""

from __future__ import annotations

import shlex
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import field, replace

from dockercomms.errors import (
    ClocksDiffer,
    DockerCommsError,
    InternalError,
    NetworkError,
    ProtocolError,
    RegistryError,
    TooEarly,
    UnknownSender,
    Unsigned,
    VerificationError,
    guarded,
)
from dockercomms.inbox.entries import Entry
from dockercomms.inbox.inbox import Inbox
from dockercomms.inbox.read import HELD_CLOCK, HELD_LIMIT, REFUSED_AUDIENCE
from dockercomms.messages.bundles import BUNDLES_A_RUN, SOURCES, BundleFinder, Look
from dockercomms.oci.model import Digest
from dockercomms.oci.stores import Store
from dockercomms.platforms.clock import Clock, ClockChoice
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.manifest import Message
from dockercomms.state import State
from dockercomms.state.trust import JudgedRow
from dockercomms.transport.window import workers
from dockercomms.trust.checks import MAX_BUNDLES, RULES, Claim, Rules, Terms
from dockercomms.trust.owner import Pin, SignatureStatus, Trust, reason_not_to_pin
from dockercomms.trust.verifier import (
    Verified,
    key_of_new_sender,
    signatories,
    signers_of,
    verify_message,
)

HELD_UNSIGNED = "unsigned"
"""It has no bundle yet."""
HELD_SIGNATURE = "signature"
"""The bundles read so far do not satisfy the policy."""
HELD_UNKNOWN = "unknown-sender"
"""The policy does not say how its sender signs."""
HELD_CONFLICT = "conflict"
"""Its signer used the same id for another message."""

POLICY_KINDS = frozenset({HELD_UNSIGNED, HELD_SIGNATURE, HELD_UNKNOWN, HELD_CONFLICT})
"""Reasons of the verifier; a change of the policy may end each."""

_OF_THE_POLICY = POLICY_KINDS | {HELD_LIMIT, REFUSED_AUDIENCE}
"""The policy also lists audiences, and proven senders may send more than others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A message that may be delivered."""

    status: SignatureStatus
    verified: Verified | None = None
    """The proof of its signer; None: the sender's name is a claim."""

    @property
    def signer(self) -> str | None:
        """The verified name of its sender."""
        return None if self.verified is None else self.verified.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Withheld:
    """A message that does not satisfy the policy."""

    kind: str
    """A reason of `POLICY_KINDS`, or `HELD_CLOCK`."""
    status: SignatureStatus
    error: VerificationError
    """The reason, with possible remedies as the hint."""
    curable: bool = False
    """A later try may succeed: a bundle may still arrive."""
    more: bool = False
    """It has more bundles than one run reads; the next run continues after them."""
    refused: bool = False
    """The policy rejects such messages; they are not listed as held."""


Verdict = Accepted | Withheld

UNCHECKED = Accepted(status="unchecked")
"""Accepted without verification (`--no-verify`)."""


@dataclass(slots=True, kw_only=True)
class _Tried:
    """The result of judging the bundles of one message."""

    verified: Verified | None = None
    error: VerificationError | None = None
    """The reason why no bundle satisfies, if there is a bundle."""
    bundles: list[bytes] = field(default_factory=list)
    """The first bundles, at most `MAX_BUNDLES`."""
    problems: list[str] = field(default_factory=list)
    """The first errors of bundles that could not be read, at most `MAX_BUNDLES`."""
    number: int = 0
    """The number of bundles."""
    more: bool = False
    """It has more bundles than one run reads."""
    curable: bool = False
    """A later run may read some that failed now."""
    defect: InternalError | None = None
    """A defect of ours that one of them met, so its proof is unknown."""

    def add(self, look: Look) -> None:
        """Add the bundles of a look. Keeps only as many as a person reads."""
        self.bundles = [*self.bundles, *look.bundles][:MAX_BUNDLES]
        self.problems = [*self.problems, *look.problems][:MAX_BUNDLES]
        self.number += len(look.bundles) + len(look.problems)
        self.curable = self.curable or look.curable
        self.defect = self.defect or look.defect


class MessageVerifier:
    """A verifier of the messages of one inbox. Safe for several threads.

    Args:
        store: The repository.
        me: The recipient.
        state: The state of this machine.
        clock: The clock of this machine.
        trust: Our names, keys and policy.
        pin: Pins the key of a sender who is not in the policy; without it they are withheld.
        words: The options that command lines in hints repeat: our name and the repository.
        choice: The clock that decides about times.
        rules: The checks of a signature.
    """

    def __init__(
        self,
        store: Store,
        *,
        me: str,
        state: State,
        clock: Clock,
        trust: Trust,
        pin: Pin | None = None,
        words: Sequence[str] = (),
        choice: ClockChoice = "both",
        rules: Rules = RULES,
    ) -> None:
        self._finder = BundleFinder(
            store.registry,
            store.repository,
            has_referrers=state.progress.capabilities(store.repo).referrers,
        )
        self._registry = store.registry
        self._choice = choice
        self._repo = store.repo
        self._me = me
        self._state = state
        self._clock = clock
        self._trust = trust
        self._pin = pin
        self._words = tuple(words)
        self._rules = rules
        self._pinning = threading.Lock()

    def notice_policy(self) -> None:
        """Make messages new that another policy withheld, or whose senders are now to be pinned."""
        fingerprint = self._trust.fingerprint()
        state, me, repo = self._state, self._me, self._repo
        if state.trust.policy(me, repo) == fingerprint:
            if self._pin is not None:
                state.inbox.reconsider(me, repo, {HELD_UNKNOWN})
            return
        with state.inbox.batch():
            state.inbox.reconsider(me, repo, _OF_THE_POLICY)
            state.trust.set_policy(me, repo, fingerprint)

    def verify(self, message: Message) -> Verdict:
        """Return the verdict of the policy on `message`, and store it for listings.

        Raises:
            AuthError, NetworkError, RegistryError, ProtocolError: the registry cannot list its
                bundles.
            InternalError: a bundle met a defect of ours, and no other one satisfies.
            ConfigError, LocalIOError: a root or the state cannot be read.
        """
        verdict = self.judge(message)
        signer = verdict.signer if isinstance(verdict, Accepted) else None
        sequence = message.header.sequence
        if signer is not None and sequence is not None:
            self._state.streams.record(
                self._me,
                signer,
                sequence,
                digest=message.digest,
                message=message.header.id,
                now=self._clock.now(),
            )
        self._state.trust.set_judgement(
            self._me, self._repo, message.digest, JudgedRow(verdict.status, signer)
        )
        return verdict

    def proven(self) -> frozenset[Digest]:
        """Return the messages whose signatures this policy has accepted."""
        judged = self._state.trust.judged(self._me, self._repo)
        return frozenset(digest for digest, row in judged.items() if row.status == "valid")

    def judge(self, message: Message) -> Verdict:
        """Return the verdict like `verify`, but store only the position in the bundles."""
        theirs = self._registry.server_time()
        terms = self._trust.terms(self._repo, self._clock, theirs, self._choice)
        claim = Claim.of_message(message)
        if self._state.outbox.sender_of(message.header.id, message.digest) == claim.name:
            # Sent from here, perhaps under a name that is no longer ours: no proof is needed
            terms = replace(terms, own_names=(*(terms.own_names or ()), claim.name))
        try:
            for check in self._rules.claim_checks:
                check(claim, terms)
        except VerificationError as error:
            return Withheld(
                kind=HELD_CLOCK if isinstance(error, ClocksDiffer) else HELD_SIGNATURE,
                status="unchecked",
                error=type(error)(f"{claim.title}: {error.message}"),
                curable=isinstance(error, TooEarly | ClocksDiffer),
            )
        if self._may_be_claim(claim) and not self._can_sign(claim, terms):  # 1
            return Accepted(status="none")
        tried = self._try(message, claim, terms)  # 2, 3
        if tried.verified is not None:
            return self._unless_conflict(message, tried.verified)  # 4
        return self._unproven(message, claim, tried, terms)  # 5

    # --- unsigned messages -----------------------------------------------------------------------

    def _may_be_claim(self, claim: Claim) -> bool:
        return self._trust.policy.accepts_unsigned(claim.name, self._repo)

    def _can_sign(self, claim: Claim, terms: Terms) -> bool:
        """Return whether the policy has a key or identity for that name."""
        sender = terms.policy.sender(claim.name)
        identities = sender is not None and bool(sender.identities)
        return identities or bool(signers_of(claim.name, terms))

    # --- bundles ---------------------------------------------------------------------------------

    def _try(self, message: Message, claim: Claim, terms: Terms) -> _Tried:
        """Judge the bundles of both sources, trusted keys first, until one satisfies.

        If no bundle can satisfy, it reads only as many as are needed to name the signers.
        """
        tried = _Tried()
        known: frozenset[Digest] = frozenset()
        broken: DockerCommsError | None = None
        hopeful = self._pin is not None or self._can_sign(claim, terms)
        for source in SOURCES:
            marks = (self._me, self._repo, message.digest, source)
            mark = after = self._state.trust.mark(*marks)
            try:
                with guarded(f"the bundles of {message.digest}"):
                    for look in self._finder.looks(
                        source,
                        message.digest,
                        after=after,
                        known=known,
                        signers=signers_of(claim.name, terms),
                        limit=BUNDLES_A_RUN if hopeful else MAX_BUNDLES,
                    ):
                        known |= look.tried
                        tried.add(look)
                        self._judge(message, claim, look, terms, tried)
                        if tried.verified is not None:
                            return tried
                        mark = look.mark
            except (NetworkError, RegistryError, ProtocolError, InternalError) as error:
                if broken is not None:
                    raise
                broken = error  # the other source may succeed
            finally:
                self._state.trust.set_mark(*marks, mark)
            tried.more = tried.more or bool(mark)
        if broken is not None and not tried.bundles:
            raise broken
        return tried

    def _judge(
        self, message: Message, claim: Claim, look: Look, terms: Terms, tried: _Tried
    ) -> None:
        """Write to `tried` the signer proven by the bundles of `look`, or the error."""
        if not look.bundles:
            return
        try:
            tried.verified = verify_message(message, look.bundles, terms, rules=self._rules)
        except InternalError as error:
            tried.defect = error
        except VerificationError as error:
            tried.error = tried.error or error
            if self._pin is not None and isinstance(error, UnknownSender):
                self._pinned(self._pin, claim, look.bundles, terms, tried)  # 3

    def _pinned(
        self, pin: Pin, claim: Claim, bundles: Sequence[bytes], terms: Terms, tried: _Tried
    ) -> None:
        """Pin the key of a new sender, if a bundle names a key and the name may be pinned."""
        with self._pinning:
            try:
                key, verified = key_of_new_sender(
                    claim, bundles, replace(terms, policy=self._trust.policy), rules=self._rules
                )
                self._trust = replace(self._trust, policy=pin(claim, key, self._repo))
            except UnknownSender as error:
                tried.error = error
            except VerificationError:
                return
            else:
                tried.verified = verified

    # --- verdicts --------------------------------------------------------------------------------

    def _unless_conflict(self, message: Message, verified: Verified) -> Verdict:
        known = self._state.trust.signed(self._me, verified.name, message.header.id)
        if known in (None, message.digest):
            return Accepted(status="valid", verified=verified)
        error = VerificationError(
            f"message {message.header.id!r:.60}: {verified.name!r:.100} used this id for another "
            f"message, {known}, that was delivered",
            hint="ask its sender which of them is meant, and for the other to be sent again",
        )
        return Withheld(kind=HELD_CONFLICT, status="valid", error=error)

    def _unproven(self, message: Message, claim: Claim, tried: _Tried, terms: Terms) -> Verdict:
        """Return the verdict on a message without a satisfying bundle: a claim, or withheld."""
        error, problems = tried.error, "".join(f"\n  {item}" for item in tried.problems)
        status: SignatureStatus
        if error is None and not tried.problems:
            status = "none"
            error = Unsigned(f"{claim.title}: not signed")
        elif isinstance(error, UnknownSender):
            status = "untrusted"
        else:
            status = "invalid"
            error = error or VerificationError(f"{claim.title}: no bundle can be read")
        if self._may_be_claim(claim):
            return Accepted(status=status)
        if tried.defect is not None:
            raise tried.defect
        more = (f"\n  {tried.number} bundles read; the next run reads the rest") * tried.more
        changed = _changed_key(claim, error, tried.bundles, terms)
        return self._withheld(
            type(error)(
                f"{error.message}{changed}{problems}{more}",
                hint="\n".join(self._ways_out(message, error, tried, terms)),
            ),
            status,
            curable=tried.curable or self._can_sign(claim, terms),
            more=tried.more,
        )

    def _ways_out(
        self, message: Message, error: VerificationError, tried: _Tried, terms: Terms
    ) -> list[str]:
        """Return the command lines that accept the message, for a user who knows its sender."""
        sender = message.header.sender
        if isinstance(error, Unsigned) and self._can_sign(Claim.of_message(message), terms):
            return [f"ask {sender!r:.100} to send it again with a trusted key"]
        if not isinstance(error, Unsigned | UnknownSender):
            return [
                f"ask {sender!r:.100} for their fingerprint, and compare: dockercomms trust list"
            ]
        known = [entry.name for entry in terms.policy.senders]
        unlike = reason_not_to_pin(sender, known=known)
        if unlike is not None:
            return [f"check this name: {unlike}; ask its sender before you trust it"]
        receive = ("dockercomms", "recv", message.header.short_id)
        trust = ("dockercomms", "trust", "add", sender)
        if isinstance(error, Unsigned):
            return [
                f"to receive it anyway: {shlex.join((*receive, '--no-verify', *self._words))}",
                f"to accept all such messages: {shlex.join((*trust, '--allow-unsigned'))}",
            ]
        lines = []
        found = signatories(tried.bundles, terms)
        for who in found:
            if who.kind == "keyless":
                named = ("--identity", who.signer, "--issuer", who.issuer)
                lines.append(f"if this is the sender's identity: {shlex.join((*trust, *named))}")
            else:
                lines.append(
                    f"if the sender's 'dockercomms keys list' shows {who.signer}: "
                    f"{shlex.join((*receive, '--accept-new', *self._words))}"
                )
        if self._names_identities(tried.bundles) and not any(
            who.kind == "keyless" for who in found
        ):
            line = (*trust, "--identity", "I", "--issuer", "U", "--root", "FILE")
            lines.append(f"with the trusted root of the sender's Sigstore: {shlex.join(line)}")
        lines.append(
            "with the sender's public key (dockercomms keys export --public): "
            f"{shlex.join((*trust, 'KEYFILE'))}"
        )
        return lines

    def _names_identities(self, bundles: Sequence[bytes]) -> bool:
        """Return whether a certificate signed any of the bundles, by any issuer."""
        for data in bundles[: self._rules.max_bundles]:
            with suppress(ProtocolError):
                if self._rules.parse_bundle(data).kind == "keyless":
                    return True
        return False

    def _withheld(
        self, error: VerificationError, status: SignatureStatus, *, curable: bool, more: bool
    ) -> Withheld:
        policy = self._trust.policy
        kind, refused = HELD_SIGNATURE, False
        if isinstance(error, Unsigned):
            kind, refused = HELD_UNSIGNED, policy.unsigned == "reject"
        elif isinstance(error, UnknownSender):
            kind, refused = HELD_UNKNOWN, policy.unknown_sender == "reject"
        return Withheld(
            kind=kind, status=status, error=error, curable=curable, more=more, refused=refused
        )


# --- listings ------------------------------------------------------------------------------------


def judge_entries(
    inbox: Inbox,
    entries: Iterable[Entry],
    verifier: MessageVerifier,
    *,
    insist: bool = False,
    concurrency: int = 4,
) -> bool:
    """Judge listed messages that are new, or held by the policy and due, and update their rows.

    Messages that this policy has accepted before are left out, since receiving verifies them again;
    `insist` judges them too. Messages that cannot be fetched now stay as they are; receiving them
    reports the error.

    Returns:
        Whether it judged any, so their rows may have changed.

    Raises:
        ConfigError, LocalIOError: the policy's roots, or the state.
    """
    messages = []
    looked = False
    proven = frozenset() if insist else verifier.proven()
    for entry in entries:
        due = insist or (_is_due(entry) and entry.digest not in proven)
        if entry.header is not None and due and inbox.can_fetch(entry):
            looked = True
            try:
                with guarded(entry.key):
                    messages.append((entry, inbox.fetch(entry)))
            except InternalError as error:
                inbox.hold_defect(entry, error)
            except (RegistryError, NetworkError, ProtocolError):
                continue

    def judge(item: tuple[Entry, Message]) -> Verdict | InternalError | None:
        try:
            with guarded(item[0].key):
                return verifier.verify(item[1])
        except InternalError as error:
            return error
        except (RegistryError, NetworkError, ProtocolError):
            return None

    if not messages:
        return looked
    with workers(concurrency) as pool:
        verdicts = list(pool.map(judge, messages))
    with inbox.batch():
        for (entry, message), verdict in zip(messages, verdicts, strict=True):
            if isinstance(verdict, Withheld):
                set_withheld(inbox, message, verdict)
            elif isinstance(verdict, InternalError):
                inbox.hold_defect(entry, verdict)
    return looked


def set_withheld(inbox: Inbox, message: Message, verdict: Withheld) -> None:
    """Write to the message's row that it is withheld, and the reason."""
    reason = "; ".join(line.strip() for line in str(verdict.error).splitlines())
    if verdict.refused and not verdict.more:
        inbox.refuse(message.digest, verdict.kind, reason)
    else:
        inbox.hold(
            message.digest,
            verdict.kind,
            reason,
            curable=verdict.curable or verdict.more,
            at_once=verdict.more,
        )


def _is_due(entry: Entry) -> bool:
    return entry.state == "new" or (entry.reason_kind in POLICY_KINDS and entry.retried)


def _changed_key(
    claim: Claim, error: VerificationError, bundles: Sequence[bytes], terms: Terms
) -> str:
    """Return the warning that another key than the trusted one signed, or ""."""
    entry = terms.policy.sender(claim.name)
    if entry is None or not entry.keys or isinstance(error, Unsigned | UnknownSender):
        return ""
    trusted = [item.key.spki_sha256 for item in entry.keys]
    signed = [who.signer for who in signatories(bundles, terms) if who.kind == "key"]
    if not signed or any(key in trusted for key in signed):
        return ""
    return (
        f"\n  WARNING: the key of {claim.name!r:.100} has changed. "
        f"Trusted: {', '.join(trusted)}. This message: {signed[0]}"
    )

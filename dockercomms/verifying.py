"""Verifying: who signed a message, by its bundles and the trust policy, and what follows from it.

1. a sender who may write unsigned, and has nothing to sign with, is let in as a claim
2. the bundles that refer to the message are judged; where none satisfies, those tagged for it;
   "not signed" is concluded only after both
3. a new sender's key is pinned, if that was asked for
4. a signer who used the same id for another message that was delivered is found out
5. what does not satisfy the policy is withheld, with a reason and with what can be done

Nothing is written to disk before this was passed, but what is remembered of it. Source: SPEC.md
sections 7 to 9.

Example:
    >>> from dockercomms.verifying import HELD_UNSIGNED, POLICY_KINDS
    >>> HELD_UNSIGNED in POLICY_KINDS
    True
"""

from __future__ import annotations

import shlex
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace

from dockercomms.bundles import SOURCES, BundleFinder, Look
from dockercomms.discovery import ListingReader
from dockercomms.errors import (
    DockerCommsError,
    NetworkError,
    ProtocolError,
    RegistryError,
    TooEarly,
    UnknownSender,
    Unsigned,
    VerificationError,
)
from dockercomms.inbox import Entry, Inbox
from dockercomms.manifest import Message
from dockercomms.oci.model import Digest
from dockercomms.platforms import Clock
from dockercomms.records import dataclass
from dockercomms.state import State
from dockercomms.state.trust_rows import JudgedRow
from dockercomms.transport.window import workers
from dockercomms.trust.checks import RULES, Claim, Rules, Terms
from dockercomms.trust.verifier import Verified, key_of_new_sender, signatories, verify_message
from dockercomms.trusting import Pin, SignatureStatus, Trust

HELD_UNSIGNED = "unsigned"
"""No bundle, yet."""
HELD_SIGNATURE = "signature"
"""No bundle satisfies the policy, as far as they were looked at."""
HELD_UNKNOWN = "unknown-sender"
"""The policy does not say how its sender signs."""
HELD_CONFLICT = "conflict"
"""Its signer used the same id for another message."""

POLICY_KINDS = frozenset({HELD_UNSIGNED, HELD_SIGNATURE, HELD_UNKNOWN, HELD_CONFLICT})
"""Reasons that a change of the policy may take away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A message that may be delivered."""

    status: SignatureStatus
    verified: Verified | None = None
    """Who signed it; None: what it says of its sender is a claim."""

    @property
    def signer(self) -> str | None:
        """The verified name of its sender."""
        return None if self.verified is None else self.verified.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Withheld:
    """A message that does not satisfy the policy."""

    kind: str
    """One of `POLICY_KINDS`."""
    status: SignatureStatus
    error: VerificationError
    """Why, and what can be done."""
    curable: bool = False
    """Time can cure it: a bundle may come yet, or there are more to look at."""
    refused: bool = False
    """The policy rejects such messages: they are not listed as waiting."""


Verdict = Accepted | Withheld

UNCHECKED = Accepted(status="unchecked")
"""What is accepted with its eyes closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tried:
    """What came of looking at the bundles of one message."""

    verified: Verified | None = None
    bundles: tuple[bytes, ...] = ()
    problems: tuple[str, ...] = ()
    failures: tuple[VerificationError, ...] = ()
    more: bool = False
    curable: bool = False
    """Some could not be read, which may pass."""

    @property
    def error(self) -> VerificationError | None:
        """The failure that tells most; None if there was no bundle at all."""
        return next(iter(self.failures), None)


class MessageVerifier:
    """Judges the messages of one inbox. Safe for several threads.

    Args:
        registry: The store.
        repository: The repository's name in it.
        repo: Its whole name.
        me: Whose inbox it is.
        state: What is remembered between runs.
        clock: The time.
        trust: Whom we believe.
        pin: Pins the key of a sender who is not in the policy; None: such senders are withheld.
        words: What the command lines in hints repeat: who we are, and where.
        rules: What is checked.
    """

    def __init__(
        self,
        registry: ListingReader,
        repository: str,
        *,
        repo: str,
        me: str,
        state: State,
        clock: Clock,
        trust: Trust,
        pin: Pin | None = None,
        words: Sequence[str] = (),
        rules: Rules = RULES,
    ) -> None:
        self._finder = BundleFinder(
            registry, repository, has_referrers=state.progress.capabilities(repo).referrers
        )
        self._registry = registry
        self._repo = repo
        self._me = me
        self._state = state
        self._clock = clock
        self._trust = trust
        self._pin = pin
        self._words = tuple(words)
        self._rules = rules
        self._pinning = threading.Lock()

    def notice_policy(self) -> None:
        """Have judged anew what was withheld by another policy, or what is to be pinned now."""
        fingerprint = self._trust.fingerprint()
        state, me, repo = self._state, self._me, self._repo
        if state.trust.policy(me, repo) == fingerprint:
            if self._pin is not None:
                state.inbox.reconsider(me, repo, {HELD_UNKNOWN})
            return
        with state.inbox.batch():
            state.inbox.reconsider(me, repo, POLICY_KINDS)
            state.trust.set_policy(me, repo, fingerprint)

    def verify(self, message: Message) -> Verdict:
        """Return whether the policy lets `message` pass; remembers it for listings.

        Raises:
            AuthError, NetworkError, RegistryError, ProtocolError: the registry cannot tell what
                refers to it.
            ConfigError, LocalIOError: a root cannot be read; or the state.
        """
        verdict = self.judge(message)
        signer = verdict.signer if isinstance(verdict, Accepted) else None
        self._state.trust.set_judgement(
            self._me, self._repo, message.digest, JudgedRow(verdict.status, signer)
        )
        return verdict

    def proven(self) -> frozenset[Digest]:
        """Return the messages that this policy was seen to let pass."""
        judged = self._state.trust.judged(self._me, self._repo)
        return frozenset(digest for digest, row in judged.items() if row.status == "valid")

    def judge(self, message: Message) -> Verdict:
        """Return the same, and remember nothing but how far bundles were tried; see `verify`."""
        terms = self._trust.terms(self._repo, self._clock, self._registry.server_time())
        claim = Claim.of_message(message)
        try:
            for check in self._rules.claim_checks:
                check(claim, terms)
        except VerificationError as error:
            return Withheld(
                kind=HELD_SIGNATURE,
                status="unchecked",
                error=type(error)(f"{claim.title}: {error.message}"),
                curable=isinstance(error, TooEarly),
            )
        if self._may_be_claim(claim) and not self._can_sign(claim):  # 1
            return Accepted(status="none")
        tried = self._try(message, terms)  # 2
        verified = tried.verified
        if verified is None and self._pin is not None and isinstance(tried.error, UnknownSender):
            verified = self._pinned(self._pin, claim, tried.bundles, terms)  # 3
        if verified is not None:
            return self._unless_conflict(message, verified)  # 4
        return self._unproven(message, claim, tried, terms)  # 5

    # --- who may do without ----------------------------------------------------------------------

    def _may_be_claim(self, claim: Claim) -> bool:
        return self._trust.policy.accepts_unsigned(claim.name, self._repo)

    def _can_sign(self, claim: Claim) -> bool:
        """Return whether any bundle could prove that name."""
        sender = self._trust.policy.sender(claim.name)
        listed = sender is not None and bool(sender.keys or sender.identities)
        return listed or (self._trust.own_key is not None and claim.name in self._trust.me)

    # --- bundles ---------------------------------------------------------------------------------

    def _try(self, message: Message, terms: Terms) -> _Tried:
        """Judge the next bundles of both sources, until one satisfies."""
        bundles: list[bytes] = []
        problems: list[str] = []
        failures: list[VerificationError] = []
        known: frozenset[Digest] = frozenset()
        broken: DockerCommsError | None = None
        more = curable = False
        for source in SOURCES:
            marks = (self._me, self._repo, message.digest, source)
            after = self._state.trust.mark(*marks)
            try:
                look = self._finder.look(source, message.digest, after=after, known=known)
            except (RegistryError, ProtocolError) as error:
                if broken is not None:
                    raise
                broken = error  # the other source may do
                continue
            verified, failure = self._judge(message, look, terms)
            if verified is not None:
                return _Tried(verified=verified)
            self._state.trust.set_mark(*marks, look.mark)
            known |= look.tried
            bundles += look.bundles
            problems += look.problems
            failures += [] if failure is None else [failure]
            more = more or bool(look.mark)
            curable = curable or look.curable
        if broken is not None and not bundles:
            raise broken
        return _Tried(
            bundles=tuple(bundles),
            problems=tuple(problems),
            failures=tuple(failures),
            more=more,
            curable=curable,
        )

    def _judge(
        self, message: Message, look: Look, terms: Terms
    ) -> tuple[Verified | None, VerificationError | None]:
        if not look.bundles:
            return None, None
        try:
            return verify_message(message, look.bundles, terms, rules=self._rules), None
        except VerificationError as error:
            return None, error

    def _pinned(
        self, pin: Pin, claim: Claim, bundles: Sequence[bytes], terms: Terms
    ) -> Verified | None:
        """Pin the key of a new sender; returns who they are from now on, None if there is none."""
        with self._pinning:
            try:
                key, verified = key_of_new_sender(
                    claim, bundles, replace(terms, policy=self._trust.policy), rules=self._rules
                )
            except VerificationError:
                return None
            self._trust = replace(self._trust, policy=pin(claim.name, key))
            return verified

    # --- what follows ----------------------------------------------------------------------------

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
        """Let in as a claim, or withhold, what no bundle proves."""
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
        more = "\n  there are more bundles; the next look goes on behind these" * tried.more
        return self._withheld(
            type(error)(
                f"{error.message}{problems}{more}",
                hint="\n".join(self._ways_out(message, error, tried, terms)),
            ),
            status,
            curable=tried.more or tried.curable or self._can_sign(claim),
        )

    def _ways_out(
        self, message: Message, error: VerificationError, tried: _Tried, terms: Terms
    ) -> list[str]:
        """Return the command lines that would let the message in, for whoever knows its sender."""
        sender = message.header.sender
        receive = ("dockercomms", "recv", message.header.short_id)
        trust = ("dockercomms", "trust", "add", sender)
        if isinstance(error, Unsigned):
            return [
                f"to let in this one: {shlex.join((*receive, '--no-verify', *self._words))}",
                f"to let in all of them: {shlex.join((*trust, '--allow-unsigned'))}",
            ]
        if not isinstance(error, UnknownSender):
            return [f"ask {sender!r:.100} how they sign, and compare: dockercomms trust list"]
        lines = []
        found = signatories(tried.bundles, terms)
        for who in found:
            if who.kind == "keyless":
                named = ("--identity", who.signer, "--issuer", who.issuer)
                lines.append(f"if that is their identity: {shlex.join((*trust, *named))}")
            else:
                lines.append(
                    f"if {who.signer} is their key, as 'dockercomms keys list' tells them: "
                    f"{shlex.join((*receive, '--accept-new', *self._words))}"
                )
        if self._names_identities(tried.bundles) and not any(
            who.kind == "keyless" for who in found
        ):
            line = (*trust, "--identity", "I", "--issuer", "U", "--root", "FILE")
            lines.append(f"if you have the trusted root of their Sigstore: {shlex.join(line)}")
        lines.append(
            "with the file that 'dockercomms keys export --public' gives them: "
            f"{shlex.join((*trust, 'KEYFILE'))}"
        )
        return lines

    def _names_identities(self, bundles: Sequence[bytes]) -> bool:
        """Return whether a certificate signed, whoever vouches for it."""
        for data in bundles[: self._rules.max_bundles]:
            with suppress(ProtocolError):
                if self._rules.parse_bundle(data).kind == "keyless":
                    return True
        return False

    def _withheld(
        self, error: VerificationError, status: SignatureStatus, *, curable: bool
    ) -> Withheld:
        policy = self._trust.policy
        kind, refused = HELD_SIGNATURE, False
        if isinstance(error, Unsigned):
            kind, refused = HELD_UNSIGNED, policy.unsigned == "reject"
        elif isinstance(error, UnknownSender):
            kind, refused = HELD_UNKNOWN, policy.unknown_sender == "reject"
        return Withheld(kind=kind, status=status, error=error, curable=curable, refused=refused)


# --- listings ------------------------------------------------------------------------------------


def judge_entries(
    inbox: Inbox,
    entries: Iterable[Entry],
    verifier: MessageVerifier,
    *,
    insist: bool = False,
    concurrency: int = 4,
) -> bool:
    """Judge the messages that are listed as new, or held by the policy and due; rows remember it.

    What the same policy has let pass before is not asked for again: whoever receives it checks it
    once more. With `insist` all of them.

    What cannot be fetched now stays as it is, and is told by whoever receives it.

    Returns:
        Whether any was looked at, so that its row may say something else now.

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
                messages.append(inbox.fetch(entry))
            except (RegistryError, NetworkError, ProtocolError):
                continue

    def judge(message: Message) -> Verdict | None:
        try:
            return verifier.verify(message)
        except (RegistryError, NetworkError, ProtocolError):
            return None

    if not messages:
        return looked
    with workers(concurrency) as pool:
        verdicts = list(pool.map(judge, messages))
    with inbox.batch():
        for message, verdict in zip(messages, verdicts, strict=True):
            if isinstance(verdict, Withheld):
                set_withheld(inbox, message, verdict)
    return looked


def set_withheld(inbox: Inbox, message: Message, verdict: Withheld) -> None:
    """Write to the message's row why it is withheld."""
    reason = "; ".join(line.strip() for line in str(verdict.error).splitlines())
    if verdict.refused:
        inbox.refuse(message.digest, verdict.kind, reason)
    else:
        inbox.hold(message.digest, verdict.kind, reason, curable=verdict.curable)


def _is_due(entry: Entry) -> bool:
    return entry.state == "new" or (entry.reason_kind in POLICY_KINDS and entry.retried)

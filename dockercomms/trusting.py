"""Whom we believe, who we are, and the words for what checking a signature gave.

Example:
    >>> from dockercomms.trust.policy import Policy, Sender
    >>> from dockercomms.trusting import Trust
    >>> trust = Trust(me=("bob",))
    >>> trusting = Trust(me=("bob",), policy=Policy(senders=(Sender(name="alice"),)))
    >>> trust.fingerprint() == trusting.fingerprint()
    False
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import field
from datetime import datetime
from typing import Literal

from dockercomms.platforms import Clock, ClockChoice, local_errors
from dockercomms.records import dataclass
from dockercomms.trust.checks import Claim, Terms
from dockercomms.trust.keyless import SigstoreRoots
from dockercomms.trust.keys import PublicKey
from dockercomms.trust.policy import Policy
from dockercomms.trust.verifier import Verified

SignatureStatus = Literal["none", "unchecked", "valid", "invalid", "untrusted"]
"""none: not signed · unchecked: nobody asked · valid: proven, by whom the policy trusts · invalid:
no signature satisfies the policy · untrusted: signed, and the policy does not know its sender."""

Identity = Verified
"""What was verified of whoever signed."""

Pin = Callable[[Claim, PublicKey, str], Policy]
"""Writes the key of who made a claim in a repository into the policy, and returns that.

Raises UnknownSender where that name is not to be pinned on first use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """Whom we believe, and who we are."""

    policy: Policy = field(default_factory=Policy)
    me: tuple[str, ...]
    """The names that we answer to."""
    own_key: PublicKey | None = None
    """Ours: it speaks for our own names."""
    own_names: tuple[str, ...] | None = None
    """The names that our own key speaks for; None: those in `me`."""
    roots: SigstoreRoots = field(default_factory=SigstoreRoots, repr=False)

    def terms(
        self,
        repo: str,
        clock: Clock,
        registry_now: datetime | None = None,
        choice: ClockChoice = "both",
    ) -> Terms:
        """Return what a claim found in `repo` is judged by now, by our clock and the registry's."""
        return Terms(
            policy=self.policy,
            me=self.me,
            repo=repo,
            own_key=self.own_key,
            own_names=self.me if self.own_names is None else self.own_names,
            now=clock.now(),
            registry_now=registry_now,
            choice=choice,
            roots=self.roots,
        )

    def fingerprint(self) -> str:
        """Return what changes whenever the judgement of any message may.

        Raises:
            LocalIOError: the file of a root cannot be read.
        """
        hashed = hashlib.sha256(repr((self.policy, self.own_key, self.me, self.own_names)).encode())
        for root in self.policy.roots.values():
            if root.path is not None:
                with local_errors(f"root {root.name}: {root.path}"):
                    hashed.update(hashlib.sha256(root.path.read_bytes()).digest())
        return hashed.hexdigest()

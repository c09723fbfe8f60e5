"""What the bundle of a receipt proves: that the message's recipient, and nobody else, wrote it.

Source: SPEC.md section 10.

Example:
    >>> from dockercomms.platforms import SystemClock
    >>> from dockercomms.receipts_verifying import ReceiptVerifier
    >>> from dockercomms.trusting import Trust
    >>> verifier = ReceiptVerifier(
    ...     repo="r.example/box", clock=SystemClock(), trust=Trust(me=("alice",))
    ... )
"""

from __future__ import annotations

from dataclasses import replace

from dockercomms.errors import UnknownSender, VerificationError
from dockercomms.manifest import Receipt
from dockercomms.oci.interface import Reader
from dockercomms.platforms import Clock
from dockercomms.trust.checks import RULES, Claim, Rules, Terms, check_age
from dockercomms.trust.verifier import Verified, key_of_new_sender, verify_receipt
from dockercomms.trusting import Pin, SignatureStatus, Trust


class ReceiptVerifier:
    """Judges receipts: one counts as proof only if its signer satisfies its recipient's entry.

    Args:
        repo: The whole name of the repository they are in.
        clock: The time.
        registry: Where they are; by its clock they may be judged as well. None: by ours alone.
        trust: Whom we believe.
        pin: Pins the key of a recipient who is not in the policy; None: nobody's is.
        rules: What is checked.
    """

    def __init__(
        self,
        *,
        repo: str,
        clock: Clock,
        registry: Reader | None = None,
        trust: Trust,
        pin: Pin | None = None,
        rules: Rules = RULES,
    ) -> None:
        self._repo = repo
        self._clock = clock
        self._registry = registry
        self._trust = trust
        self._pin = pin
        # Proof does not grow old: `max_age` is about what is let in.
        self._rules = rules.without(check_age)

    def _terms(self) -> Terms:
        theirs = None if self._registry is None else self._registry.server_time()
        return self._trust.terms(self._repo, self._clock, theirs)

    def prove(self, receipt: Receipt, bundle: bytes) -> Verified:
        """Return who signed a receipt.

        Raises:
            UnknownSender: the policy does not say how its recipient signs.
            VerificationError: the bundle does not prove that they wrote it.
            ConfigError, LocalIOError: a root cannot be read.
        """
        terms = self._terms()
        return verify_receipt(receipt, [bundle], terms, rules=self._rules)

    def verify(self, receipt: Receipt, bundle: bytes) -> tuple[SignatureStatus, Verified | None]:
        """Return what the bundle of a receipt proves, and who signed it if that is trusted.

        Raises:
            ConfigError, LocalIOError: a root, or the policy, cannot be read.
        """
        try:
            return "valid", self.prove(receipt, bundle)
        except UnknownSender:
            verified = self._pinned(receipt, bundle)
            return ("untrusted", None) if verified is None else ("valid", verified)
        except VerificationError:
            return "invalid", None

    def _pinned(self, receipt: Receipt, bundle: bytes) -> Verified | None:
        if self._pin is None:
            return None
        terms = self._terms()
        try:
            key, verified = key_of_new_sender(
                Claim.of_receipt(receipt), [bundle], terms, rules=self._rules
            )
        except VerificationError:
            return None
        self._trust = replace(self._trust, policy=self._pin(receipt.recipient, key))
        return verified

"""What the bundle of a receipt proves: that the message's recipient, and nobody else, wrote it.

Source: SPEC.md section 10.
"""

from __future__ import annotations

from dataclasses import replace

from dockercomms.errors import UnknownSender, VerificationError
from dockercomms.manifest import Receipt
from dockercomms.oci.interface import Reader
from dockercomms.platforms import Clock
from dockercomms.trust.checks import RULES, Rules, check_age, check_not_future
from dockercomms.trust.verifier import Verified, verify_receipt
from dockercomms.trusting import SignatureStatus, Trust


class ReceiptVerifier:
    """Judges receipts: one counts as proof only if its signer satisfies its recipient's entry.

    Args:
        repo: The whole name of the repository they are in.
        clock: The time.
        registry: Where they are; by its clock they may be judged as well. None: by ours alone.
        trust: Whom we believe.
        rules: What is checked.
    """

    def __init__(
        self,
        *,
        repo: str,
        clock: Clock,
        registry: Reader | None = None,
        trust: Trust,
        rules: Rules = RULES,
    ) -> None:
        self._repo = repo
        self._clock = clock
        self._registry = registry
        self._trust = trust
        # Proof does not grow old, and a receiver's clock that was ahead makes it no less a proof:
        # both rules are about what is let in.
        self._rules = rules.without(check_age).without(check_not_future)

    def prove(self, receipt: Receipt, bundle: bytes, *, is_ours: bool = False) -> Verified:
        """Return who signed a receipt.

        Args:
            receipt: The receipt.
            bundle: Its signature.
            is_ours: It was written here, perhaps under a name that is not among ours today.

        Raises:
            UnknownSender: the policy does not say how its recipient signs.
            VerificationError: the bundle does not prove that they wrote it.
            ConfigError, LocalIOError: a root cannot be read.
        """
        theirs = None if self._registry is None else self._registry.server_time()
        terms = self._trust.terms(self._repo, self._clock, theirs)
        if is_ours:
            terms = replace(terms, own_names=(*(terms.own_names or ()), receipt.recipient))
        return verify_receipt(receipt, [bundle], terms, rules=self._rules)

    def verify(
        self, receipt: Receipt, bundle: bytes, *, is_ours: bool = False
    ) -> tuple[SignatureStatus, Verified | None]:
        """Return what the bundle of a receipt proves, and who signed it if that is trusted.

        Args are those of `prove`.

        Raises:
            ConfigError, LocalIOError: a root, or the policy, cannot be read.
        """
        try:
            return "valid", self.prove(receipt, bundle, is_ours=is_ours)
        except UnknownSender:
            return "untrusted", None
        except VerificationError:
            return "invalid", None

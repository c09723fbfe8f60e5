"""The collaborators of a mailbox, and the inboxes and verifiers that it makes from them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import field, replace
from typing import TYPE_CHECKING

from dockercomms.oci.stores import Store
from dockercomms.platforms.clock import Clock, ClockChoice
from dockercomms.platforms.records import dataclass
from dockercomms.state import State
from dockercomms.trust.owner import Owner, Trust

if TYPE_CHECKING:
    from dockercomms.inbox.inbox import Inbox
    from dockercomms.inbox.poll import Discovery
    from dockercomms.messages.bundles import ReceiptVerifier
    from dockercomms.messages.elsewhere import OwnReceipts
    from dockercomms.messages.sign import ObjectVerifier
    from dockercomms.messages.verify import MessageVerifier


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """A store, its owner and a state. Not safe for several threads."""

    store: Store
    owner: Owner
    state: State
    clock: Clock
    discovery: Discovery = "auto"
    """The way to find messages; see `Mailbox`."""
    choice: ClockChoice = "both"
    """The clock that decides; see `Mailbox`."""
    _inboxes: dict[tuple[str, ClockChoice], Inbox] = field(
        default_factory=dict, init=False, repr=False, hash=False
    )

    def inboxes(self, choice: ClockChoice | None = None) -> list[Inbox]:
        """Return the inbox of each of the owner's names.

        Args:
            choice: The clock that decides. Default: `self.choice`.

        Raises:
            ConfigError, LocalIOError: the trust file is malformed, or cannot be read.
        """
        audiences = self.owner.policy().audiences if self.owner.verifies else ()
        choice = choice or self.choice
        return [self._inbox(name, audiences, choice) for name in self.owner.names]

    def _inbox(self, name: str, audiences: Sequence[str], choice: ClockChoice) -> Inbox:
        from dockercomms.inbox.inbox import Inbox

        if (name, choice) not in self._inboxes:
            self._inboxes[name, choice] = Inbox(
                self.store.registry,
                self.store.repository,
                repo=self.store.repo,
                me=name,
                state=self.state,
                clock=self.clock,
                audiences=audiences,
                choice=choice,
                discovery=self.discovery,
            )
        return self._inboxes[name, choice]

    def verifier(self, inbox: Inbox, choice: ClockChoice | None = None) -> MessageVerifier | None:
        """Return a verifier of messages by the current policy, if the owner verifies.

        Args:
            inbox: The inbox of the messages.
            choice: The clock that decides. Default: `self.choice`.

        Raises:
            ConfigError, LocalIOError: the trust file, or a trusted root, cannot be read.
        """
        from dockercomms.messages.verify import MessageVerifier

        if not self.owner.verifies:
            return None
        verifier = MessageVerifier(
            self.store.registry,
            self.store.repository,
            repo=self.store.repo,
            me=inbox.me,
            state=self.state,
            clock=self.clock,
            trust=self.owner.trust(),
            pin=self.owner.pin,
            words=self.owner.words,
            choice=choice or self.choice,
        )
        verifier.notice_policy()
        return verifier

    def receipt_verifier(self, senders: Iterable[str] = ()) -> ReceiptVerifier | None:
        """Return a verifier of receipts by the current policy, if the owner verifies.

        Args:
            senders: Names that messages were sent as, beside the owner's own.

        Raises:
            ConfigError, LocalIOError: as `verifier`.
        """
        from dockercomms.messages.bundles import ReceiptVerifier

        owner = self.owner
        if not owner.verifies:
            return None
        trust = owner.trust()
        names = tuple(dict.fromkeys((*trust.me, *senders)))
        trust = replace(trust, me=names, own_names=trust.me)
        return ReceiptVerifier(
            repo=self.store.repo,
            clock=self.clock,
            registry=self.store.registry,
            trust=trust,
        )

    def own_receipts(self) -> OwnReceipts:
        """Return a finder of the messages that a key of the owner has acknowledged."""
        from dockercomms.messages.elsewhere import OwnReceipts

        return OwnReceipts(
            registry=self.store.registry,
            repository=self.store.repository,
            clock=self.clock,
            trusts=self._own_trusts,
        )

    def _own_trusts(self) -> list[Trust]:
        """Return one trust for each of the owner's keys, to verify receipts of the owner.

        Raises:
            ConfigError, LocalIOError: as `verifier`.
            UsageError: the own key cannot be read.
        """
        trust = self.owner.trust()
        policy = trust.policy
        ours = replace(
            policy, senders=tuple(one for one in policy.senders if one.name in self.owner.names)
        )
        keys = dict.fromkeys((*self.owner.own_keys(), trust.own_key))
        return [replace(trust, policy=ours, own_key=key) for key in keys]

    def object_verifier(self) -> ObjectVerifier:
        """Return a verifier of any object by the current policy.

        Raises:
            ConfigError, LocalIOError: as `verifier`.
        """
        from dockercomms.messages.sign import ObjectVerifier

        return ObjectVerifier(
            registry=self.store.registry,
            repository=self.store.repository,
            repo=self.store.repo,
            state=self.state,
            clock=self.clock,
            trust=self.owner.trust(),
            words=self.owner.words,
        )

"""The base class of a mailbox: store, owner, state and hooks.

`mailbox.outgoing`, `mailbox.incoming` and `mailbox.whole` add the methods; `mailbox` combines them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, ParamSpec, Self, TypeVar

from dockercomms.errors import DockerCommsError, InternalError
from dockercomms.oci.stores import ConnectionSettings, Store, default_mailbox, open_store
from dockercomms.platforms.arguments import checks_arguments
from dockercomms.platforms.clock import Clock, ClockChoice, SystemClock
from dockercomms.state import State
from dockercomms.state.progress import PieceLimits
from dockercomms.trust.owner import Owner, SigningOptions, Trust, TrustOptions

if TYPE_CHECKING:
    from dockercomms.errors import NoticeHook
    from dockercomms.inbox.inbox import Inbox
    from dockercomms.inbox.poll import Discovery, PollResult
    from dockercomms.messages.bundles import ReceiptVerifier
    from dockercomms.messages.elsewhere import OwnReceipts
    from dockercomms.messages.publish import FormChoice, ReferrersIndex
    from dockercomms.messages.receive import Received
    from dockercomms.messages.sign import ObjectVerifier
    from dockercomms.messages.verify import MessageVerifier
    from dockercomms.oci.remote.retry import RetryHook
    from dockercomms.state.streams import Gap
    from dockercomms.transport.journal import Progress

P = ParamSpec("P")
T = TypeVar("T")
Box = TypeVar("Box", bound="MailboxBase")


def only_looks(method: Callable[Concatenate[Box, P], T]) -> Callable[Concatenate[Box, P], T]:
    """Let a method continue, without a memory of its results, if the state cannot be written.

    Source: `state.database.Database.look`.
    """

    @wraps(method)
    def look(self: Box, /, *args: P.args, **kwargs: P.kwargs) -> T:
        work = lambda: method(self, *args, **kwargs)  # noqa: E731 - with the types of `method`
        return self._state.look(work, tell=self._tell_not_remembered)

    return look


@checks_arguments
class MailboxBase:
    """One user's place in one repository; see `Mailbox` for the arguments."""

    def __init__(
        self,
        repo: str | None = None,
        *,
        me: str | Sequence[str] | None = None,
        settings: ConnectionSettings | None = None,
        state_path: Path | None = None,
        keys_folder: Path | None = None,
        signing: SigningOptions | None = None,
        trust: TrustOptions | None = None,
        clock: Clock | None = None,
        progress: Progress | None = None,
        on_retry: RetryHook | None = None,
        on_notice: NoticeHook | None = None,
        store: Store | None = None,
        discovery: Discovery = "auto",
        referrers_index: ReferrersIndex = "auto",
        manifest_form: FormChoice = "auto",
        clock_choice: ClockChoice = "both",
    ) -> None:
        self._clock = clock or SystemClock()
        self._owner = Owner(me, keys=keys_folder, signing=signing, trust=trust, on_notice=on_notice)
        self.names = self._owner.names
        """The names to receive as."""
        self._state = State(state_path)
        if store is None:
            own = f"oci-layout:{default_mailbox(os.environ)}" if repo is None else None
            store = open_store(
                own or repo or "",
                settings,
                clock=self._clock,
                on_retry=on_retry,
                create=True,
                private=own is not None,
            )
        self._store = store
        self._remember_pieces(store)
        self._progress = progress
        self._on_notice = on_notice
        self._referrers_index: ReferrersIndex = referrers_index
        self._manifest_form: FormChoice = manifest_form
        self._discovery: Discovery = discovery
        self._choice: ClockChoice = clock_choice
        self._opened: dict[tuple[str, ClockChoice], Inbox] = {}
        self.last_poll: PollResult | None = None
        """The result of the last poll of the repository."""
        self.held_before: tuple[Received, ...] = ()
        """Held messages that the last `receive` skipped because an earlier run reported them."""
        self.waiting = 0
        """Candidates that the last `inbox` or `receive` left for the next one: a run fetches at
        most 2,000 manifests."""
        self.defects: list[InternalError] = []
        """Defects of dockercomms at single objects that no earlier mailbox reported."""
        self.gaps: tuple[Gap, ...] = ()
        """Missing messages of verified senders, found by the last `inbox`: those of the last week,
        or with `all` every known one."""

    @property
    def me(self) -> str:
        """Return the name to send as."""
        return self.names[0]

    @property
    def repo(self) -> str:
        """Return the full name of the repository."""
        return self._store.repo

    def _remember_pieces(self, store: Store) -> None:
        """Store the registry's request size limits in the state."""
        pieces = getattr(store.registry, "pieces", None)  # an `HTTPRegistry` has it
        if pieces is not None:
            pieces.memory = PieceLimits(self._state.progress, self._clock)

    def _inboxes(self, choice: ClockChoice | None = None) -> list[Inbox]:
        """Return the inbox of each of the owner's names.

        Args:
            choice: The clock that decides. Default: the mailbox's.

        Raises:
            ConfigError, LocalIOError: the trust file is malformed, or cannot be read.
        """
        audiences = self._owner.policy().audiences if self._owner.verifies else ()
        choice = choice or self._choice
        return [self._inbox(name, audiences, choice) for name in self._owner.names]

    def _inbox(self, name: str, audiences: Sequence[str], choice: ClockChoice) -> Inbox:
        from dockercomms.inbox.inbox import Inbox

        if (name, choice) not in self._opened:
            self._opened[name, choice] = Inbox(
                self._store.registry,
                self._store.repository,
                repo=self._store.repo,
                me=name,
                state=self._state,
                clock=self._clock,
                audiences=audiences,
                choice=choice,
                discovery=self._discovery,
            )
        return self._opened[name, choice]

    def _verifier(self, inbox: Inbox, choice: ClockChoice | None = None) -> MessageVerifier | None:
        """Return a verifier of messages by the current policy, if the owner verifies.

        Args:
            inbox: The inbox of the messages.
            choice: The clock that decides. Default: the mailbox's.

        Raises:
            ConfigError, LocalIOError: the trust file, or a trusted root, cannot be read.
        """
        from dockercomms.messages.verify import MessageVerifier

        if not self._owner.verifies:
            return None
        verifier = MessageVerifier(
            self._store,
            me=inbox.me,
            state=self._state,
            clock=self._clock,
            trust=self._owner.trust(),
            pin=self._owner.pin,
            words=self._owner.words,
            choice=choice or self._choice,
        )
        verifier.notice_policy()
        return verifier

    def _receipt_verifier(self, senders: Iterable[str] = ()) -> ReceiptVerifier | None:
        """Return a verifier of receipts by the current policy, if the owner verifies.

        Args:
            senders: Names that messages were sent as, beside the owner's own.

        Raises:
            ConfigError, LocalIOError: as `_verifier`.
        """
        from dockercomms.messages.bundles import ReceiptVerifier

        owner = self._owner
        if not owner.verifies:
            return None
        trust = owner.trust()
        names = tuple(dict.fromkeys((*trust.me, *senders)))
        trust = replace(trust, me=names, own_names=trust.me)
        return ReceiptVerifier(
            repo=self._store.repo,
            clock=self._clock,
            registry=self._store.registry,
            trust=trust,
        )

    def _own_receipts(self) -> OwnReceipts:
        """Return a finder of the messages that a key of the owner has acknowledged."""
        from dockercomms.messages.elsewhere import OwnReceipts

        return OwnReceipts(store=self._store, clock=self._clock, trusts=self._own_trusts)

    def _own_trusts(self) -> list[Trust]:
        """Return one trust for each of the owner's keys, to verify receipts of the owner.

        Raises:
            ConfigError, LocalIOError: as `_verifier`.
            UsageError: the own key cannot be read.
        """
        trust = self._owner.trust()
        policy = trust.policy
        ours = replace(
            policy, senders=tuple(one for one in policy.senders if one.name in self._owner.names)
        )
        keys = dict.fromkeys((*self._owner.own_keys(), trust.own_key))
        return [replace(trust, policy=ours, own_key=key) for key in keys]

    def _object_verifier(self) -> ObjectVerifier:
        """Return a verifier of any object by the current policy.

        Raises:
            ConfigError, LocalIOError: as `_verifier`.
        """
        from dockercomms.messages.sign import ObjectVerifier

        return ObjectVerifier(
            store=self._store,
            state=self._state,
            clock=self._clock,
            trust=self._owner.trust(),
            words=self._owner.words,
        )

    def is_first(self, error: InternalError) -> bool:
        """Return whether this is the first report of the defect at its object in 90 days."""
        return self._state.defects.add(self.repo, error.what, now=self._clock.now())

    def _meet(self, error: InternalError) -> None:
        if self.is_first(error):
            self.defects.append(error)

    def _meet_in_poll(self) -> None:
        for _, error in () if self.last_poll is None else self.last_poll.errors:
            if isinstance(error, InternalError):
                self._meet(error)

    def _tell_not_remembered(self, error: DockerCommsError) -> None:
        from dockercomms.errors import Notice

        if self._on_notice is not None:
            hint = "" if error.hint is None else f" ({error.hint})"
            text = f"cannot save the local state: {error.message}{hint}"
            self._on_notice(Notice("not-remembered", text))

    def close(self) -> None:
        """Release connections and the state; may be called again."""
        self._store.registry.close()
        self._state.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

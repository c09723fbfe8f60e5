"""The base class of a mailbox: store, owner, state and hooks.

`mailbox.outgoing`, `mailbox.incoming` and `mailbox.whole` add the methods; `mailbox` combines them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, ParamSpec, Self, TypeVar

from dockercomms.errors import DockerCommsError, InternalError
from dockercomms.mailbox.desk import Desk
from dockercomms.oci.stores import ConnectionSettings, Store, default_mailbox, open_store
from dockercomms.platforms.arguments import checks_arguments
from dockercomms.platforms.clock import Clock, ClockChoice, SystemClock
from dockercomms.state import State
from dockercomms.state.progress import PieceLimits
from dockercomms.trust.owner import Owner, SigningOptions, TrustOptions

if TYPE_CHECKING:
    from dockercomms.errors import NoticeHook
    from dockercomms.inbox.poll import Discovery, PollResult
    from dockercomms.messages.publish import FormChoice, ReferrersIndex
    from dockercomms.messages.receive import Received
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
        self._desk = Desk(
            store=store,
            owner=self._owner,
            state=self._state,
            clock=self._clock,
            discovery=discovery,
            choice=clock_choice,
        )
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

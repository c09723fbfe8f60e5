"""What a mailbox does with its repository as a whole: cleaning it, and carrying what it holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from dockercomms.mailbox.base import MailboxBase
from dockercomms.oci.interface import ProgressHook
from dockercomms.oci.stores import Store
from dockercomms.platforms.arguments import checks_arguments

if TYPE_CHECKING:
    from dockercomms.relay.gc import Collected, Collector
    from dockercomms.relay.relay import Relay


@checks_arguments
class Whole(MailboxBase):
    """The part of `Mailbox` that works on the whole repository."""

    def collector(self, *, dry_run: bool = False, clock_skew_ok: bool = False) -> Collector:
        """Return what removes garbage from this repository; see `collect`."""
        from dockercomms.relay.gc import Collector  # noqa: PLC0415 - most mailboxes never do this

        return Collector(
            registry=self._store.registry,
            repository=self._store.repository,
            repo=self.repo,
            clock=self._clock,
            state=self._state,
            dry_run=dry_run,
            choice="registry" if clock_skew_ok else self._desk.choice,
        )

    def collect(self, *, dry_run: bool = False, clock_skew_ok: bool = False) -> Iterator[Collected]:
        """Remove what expired more than a day ago from our inboxes; yields what became of each.

        Args:
            dry_run: Only say what would go.
            clock_skew_ok: Go by the registry's clock even if ours is more than an hour away; as a
                mailbox with `clock_choice="registry"` does.

        Raises:
            ConfigError: our clock and the registry's are more than an hour apart.
            AuthError, Unsupported: the registry lets nothing be listed, or deleted; what to do
                instead is in the hint.
            RegistryError, NetworkError: the registry cannot tell.
        """
        collector = self.collector(dry_run=dry_run, clock_skew_ok=clock_skew_ok)
        return collector.collect(self.names)

    def relay(
        self,
        *,
        source: Store | None = None,
        target: Store | None = None,
        to: Sequence[str] = (),
        ids: Sequence[str] = (),
        complete: bool = False,
        concurrency: int = 4,
        progress: ProgressHook | None = None,
    ) -> Relay:
        """Return the run that carries what one repository holds to another; see `Relay`.

        A repository, folder or archive that was opened for it is closed by whoever opened it; an
        archive is written then.

        Args:
            source: Where it is; None: this repository.
            target: Where it goes; None: this repository.
            to: Only what is addressed to these.
            ids: Only the messages whose id or digest begins so.
            complete: Look for bundles that have no tag, too, whatever is there already.
            concurrency: Blobs under way at once.
            progress: Told how many bytes of what one message is made of have come.
        """
        from dockercomms.relay.relay import Relay  # noqa: PLC0415 - the same

        if target is not None:
            self._remember_pieces(target)
        return Relay(
            source=source or self._store,
            target=target or self._store,
            state=self._state,
            clock=self._clock,
            to=to,
            ids=ids,
            complete=complete,
            concurrency=concurrency,
            progress=progress,
            on_notice=self._on_notice,
        )

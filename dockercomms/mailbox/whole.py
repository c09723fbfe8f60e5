"""The methods of a mailbox that clean a repository or copy messages between repositories."""

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
        """Return the garbage collector of this repository; see `collect`."""
        from dockercomms.relay.gc import Collector

        return Collector(
            store=self._store,
            clock=self._clock,
            state=self._state,
            dry_run=dry_run,
            choice="registry" if clock_skew_ok else self._choice,
        )

    def collect(self, *, dry_run: bool = False, clock_skew_ok: bool = False) -> Iterator[Collected]:
        """Remove messages that expired more than a day ago; yield the result of each.

        Args:
            dry_run: Only list the messages to remove.
            clock_skew_ok: Use the registry's clock even if ours is more than an hour away, as a
                mailbox with `clock_choice="registry"` does.

        Raises:
            ConfigError: our clock and the registry's are more than an hour apart.
            AuthError, Unsupported: the registry refuses to list or delete; the hint names an
                alternative.
            RegistryError, NetworkError: the registry refused, or did not answer.
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
        """Return a run that copies messages from one repository to another; see `Relay`.

        The caller closes a repository, folder or archive that it opened for the run; closing writes
        an archive.

        Args:
            source: The store to read. Default: this repository.
            target: The store to write. Default: this repository.
            to: Only messages to these recipients.
            ids: Only messages whose id or digest begins with one of these.
            complete: Also find bundles that have no tag, even for messages that the target has.
            concurrency: Parallel copies of blobs.
            progress: Called with the number of bytes of a message that were copied.
        """
        from dockercomms.relay.relay import Relay

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

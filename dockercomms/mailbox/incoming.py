"""The half of a mailbox that lists, receives, answers and says who signed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from dockercomms.errors import IntegrityError, InternalError, NotFoundError, UsageError
from dockercomms.inbox.inbox import find_in, poll_all
from dockercomms.inbox.listing import InboxEntry, inbox_entry
from dockercomms.inbox.poll import DEFAULT_INTERVAL_SECONDS
from dockercomms.inbox.read import HELD_INTERNAL
from dockercomms.mailbox.base import MailboxBase, only_looks
from dockercomms.messages.verify import judge_entries
from dockercomms.oci.model import Digest
from dockercomms.platforms.arguments import checks_arguments
from dockercomms.protocol.tags import ReceiptStatus

if TYPE_CHECKING:
    from dockercomms.inbox.entries import Entry
    from dockercomms.inbox.inbox import Inbox
    from dockercomms.inbox.poll import PollResult
    from dockercomms.messages.command import Command
    from dockercomms.messages.deliver import ReceiveOptions
    from dockercomms.messages.receive import Received
    from dockercomms.messages.rounds import Round
    from dockercomms.messages.sign import Signature, Verification
    from dockercomms.messages.watch import Ack, Stop, Watched
    from dockercomms.state.streams import Gap

SHOWN_GAPS = timedelta(days=7)
"""How long `inbox` says that messages are missing before one that came."""


@checks_arguments
class Incoming(MailboxBase):
    """Listing, receiving, acknowledging, verifying."""

    @only_looks
    def inbox(
        self,
        *,
        since: datetime | None = None,
        all: bool = False,  # noqa: A002 - as the option is called
        complete: bool = False,
    ) -> list[InboxEntry]:
        """Return what the inbox holds: new before held before refused, each oldest first.

        Args:
            since: Leave out what was created before.
            all: Also what is delivered, expired, or refused and reported.
            complete: Look at the whole repository, whatever is known already.

        Raises:
            RegistryError, NetworkError: nothing was answered at all; what single ways of looking
                failed at is in `last_poll`.
        """
        entries: list[InboxEntry] = []
        shown: list[Gap] = []
        inboxes = self._desk.inboxes()
        self.last_poll = poll_all(inboxes, complete=complete)
        whole = self.last_poll.complete and since is None
        for inbox in inboxes:
            listed = inbox.entries(since=since, all=all)
            if inbox.is_first_look and self._look_elsewhere(inbox, listed, complete=whole):
                listed = inbox.entries(since=since, all=all)
            verifier = self._desk.verifier(inbox)
            if verifier is not None and judge_entries(inbox, listed, verifier):
                listed = inbox.entries(since=since, all=all)
            judged = {} if verifier is None else self._state.trust.judged(inbox.me, self.repo)
            gaps = {gap.digest: gap for gap in self._state.streams.gaps(inbox.me)}
            entries += [
                inbox_entry(
                    entry,
                    judged.get(entry.digest) if entry.digest else None,
                    missing_before=gaps[entry.digest].missing if entry.digest in gaps else 0,
                )
                for entry in listed
            ]
            self._report_defects(inbox, listed)
            recent = self._clock.now() - SHOWN_GAPS
            shown += [gap for gap in gaps.values() if all or gap.seen >= recent]
        self.gaps = tuple(shown)
        self.waiting = sum(inbox.waiting for inbox in inboxes)
        self._meet_in_poll()
        return entries

    def _look_elsewhere(self, inbox: Inbox, listed: Sequence[Entry], *, complete: bool) -> bool:
        """Return whether messages of the inbox turned out to have been received elsewhere."""
        from dockercomms.messages.elsewhere import tell_first_look  # noqa: PLC0415 - it loads what publishes

        look = self._desk.own_receipts().look(inbox, listed, complete=complete)
        tell_first_look(look, inbox, self._on_notice)
        return bool(look.elsewhere)

    def _report_defects(self, inbox: Inbox, listed: Sequence[Entry]) -> None:
        """Keep the defects that are met at listed messages for the first time."""
        new = [one for one in listed if one.reason_kind == HELD_INTERNAL and not one.reported]
        inbox.mark_reported(new)
        self.defects += [InternalError(one.reason, what=one.digest or one.key) for one in new]

    def _find(self, prefix: str) -> tuple[Inbox, Entry]:
        """Return a message that is known, or found by looking, and the inbox that it is in."""
        inboxes = self._desk.inboxes()
        try:
            number, entry = find_in(inboxes, prefix, judge=self._judge)
        except (NotFoundError, IntegrityError):
            self.last_poll = poll_all(inboxes)
            number, entry = find_in(inboxes, prefix, judge=self._judge)
        return inboxes[number], entry

    def _judge(self, inbox: Inbox, entries: Sequence[Entry]) -> None:
        """Have the signatures of messages checked, by the policy as it is now."""
        verifier = self._desk.verifier(inbox)
        if verifier is not None:
            judge_entries(inbox, entries, verifier, insist=True)

    @only_looks
    def show(self, id: str) -> InboxEntry:  # noqa: A002 - as the argument is called
        """Return the one message whose id or digest begins with `id`, its signature checked.

        Raises:
            NotFoundError: none does.
            UsageError: several do, or `id` is too short to say.
            RegistryError, NetworkError: the registry does not answer.
        """
        inbox, entry = self._find(id)
        verifier = self._desk.verifier(inbox)
        if verifier is None:
            return inbox_entry(entry, None)
        judge_entries(inbox, [entry], verifier, insist=True)
        _, entry = self._find(id)
        digest = entry.digest
        judged = (
            None if digest is None else self._state.trust.judgement(inbox.me, self.repo, digest)
        )
        gaps = {gap.digest: gap.missing for gap in self._state.streams.gaps(inbox.me)}
        return inbox_entry(entry, judged, missing_before=gaps.get(digest, 0) if digest else 0)

    @only_looks
    def verify(self, id: str) -> Verification:  # noqa: A002 - as the argument is called
        """Return who signed the one message whose id or digest begins with `id`, proven.

        Raises:
            NotFoundError, UsageError, RegistryError, NetworkError: as `show`.
            VerificationError: nobody whom the trust file trusts.
            ProtocolError: the message is malformed.
        """
        inbox, entry = self._find(id)
        return self._desk.object_verifier().verify_message(inbox.fetch(entry))

    @only_looks
    def verify_object(self, reference: str) -> Verification:
        """Return who signed what a tag or digest of this repository names, proven.

        Raises:
            NotFoundError: it is not there.
            VerificationError: nobody whom the trust file trusts.
            ProtocolError: it calls itself a message or receipt, and is malformed.
            RegistryError, NetworkError: the registry cannot tell.
        """
        return self._desk.object_verifier().verify(reference)

    def sign_object(self, reference: str, *, is_message: bool = False) -> Signature:
        """Sign what a tag or digest of this repository names, and attach the signature to it.

        Args:
            reference: A tag or digest.
            is_message: Sign it although it is a message that was not sent from here.

        Raises:
            NotFoundError: it is not there.
            UsageError: signing is switched off; or it is such a message.
            SigningError, VerificationError: nothing was signed, and nothing added.
            RegistryError, NetworkError: the registry refused, or did not answer.
        """
        from dockercomms.messages.sign import sign  # noqa: PLC0415 - listing needs nothing of it

        signer = self._owner.signer()
        if signer is None:
            raise UsageError("signing is switched off")
        return sign(
            self._store.registry,
            self._store.repository,
            reference,
            repo=self.repo,
            state=self._state,
            clock=self._clock,
            signer=signer,
            names=self.names,
            is_message=is_message,
            index=self._referrers_index,
            manifest_form=self._manifest_form,
            on_notice=self._on_notice,
        )

    def acknowledge(
        self,
        id: str,  # noqa: A002 - as the argument is called
        status: ReceiptStatus,
        *,
        reason: str = "",
    ) -> Digest:
        """Tell its sender what became of a message; return the receipt's digest.

        Raises:
            NotFoundError, UsageError: as `show`; or the reason is longer than 1 KiB.
            SigningError, RegistryError, NetworkError: the receipt stays stored, and is published
                by a later `receive`.
        """
        from dockercomms.messages.receipts import acknowledge  # noqa: PLC0415 - the same

        inbox, entry = self._find(id)
        return acknowledge(
            self._store.registry,
            self._store.repository,
            inbox.fetch(entry).digest if entry.digest is None else entry.digest,
            status,
            repo=self.repo,
            me=inbox.me,
            state=self._state,
            clock=self._clock,
            reason=reason,
            index=self._referrers_index,
            signer=self._owner.signer(),
            on_notice=self._on_notice,
        )

    def receive(
        self,
        ids: Sequence[str] = (),
        *,
        out: Path | str = Path(),
        max: int | None = None,  # noqa: A002 - as the option is called
        since: datetime | None = None,
        all: bool = False,  # noqa: A002 - as the option is called
        stdout: BinaryIO | None = None,
        flat: bool = False,
        overwrite: bool = False,
        receipt: bool = True,
        complete: bool = False,
        redeliver: bool = False,
        concurrency: int = 4,
    ) -> Iterator[Received]:
        """Receive what is new, one message after another; yields what became of each.

        Whom the trust file does not trust is held back. One that fails never stops the others, and
        is reported once. What an earlier run left unfinished is put right first. Nothing happens
        before the first result is asked for.

        Args:
            ids: Only these; each the start of an id or digest. Where the clocks differ, one of
                them suffices.
            out: The folder that takes them; made if it is not there.
            max: Stop after so many deliveries.
            since: Only what was created later.
            all: Deliver also what was delivered before or has expired, and report again.
            stdout: Write payloads here instead of to files.
            flat: Leave out the folder that each message gets.
            overwrite: Replace files that are there already.
            receipt: Write a receipt for what is delivered.
            complete: Look at the whole repository, whatever is known already.
            redeliver: Deliver also what was received elsewhere: on a new state that is what a
                receipt signed by a key of ours says.
            concurrency: Chunks under way at once.

        Raises:
            UsageError: `max` is not positive.
            RegistryError, NetworkError: the registry did not let itself be looked at.
            LocalIOError: the state cannot be used.
        """
        from dockercomms.messages.deliver import ReceiveOptions  # noqa: PLC0415 - the same

        options = ReceiveOptions(
            out=Path(out),
            flat=flat,
            overwrite=overwrite,
            stdout=stdout,
            receipt=receipt,
            again=all,
            redeliver=redeliver,
            concurrency=concurrency,
            referrers_index=self._referrers_index,
            choice="either" if ids and self._desk.choice == "both" else self._desk.choice,
        )
        run = self._round(options)
        for result in run.receive(ids, max=max, since=since, complete=complete):
            self.last_poll = run.last_poll
            yield result
        self.last_poll = run.last_poll
        self.held_before = tuple(run.held_before)
        self.waiting = sum(box.inbox.waiting for box in run.boxes)
        self._meet_in_poll()

    def _round(self, options: ReceiveOptions) -> Round:
        """Return a round by the policy as it is now."""
        from dockercomms.messages.rounds import Box, Round  # noqa: PLC0415 - the same

        return Round(
            boxes=[
                Box(inbox, self._desk.verifier(inbox, options.choice), self._desk.own_receipts())
                for inbox in self._desk.inboxes(options.choice)
            ],
            registry=self._store.registry,
            repository=self._store.repository,
            state=self._state,
            clock=self._clock,
            options=options,
            progress=self._progress,
            signer=self._owner.signer(),
            on_notice=self._on_notice,
        )

    def watch(
        self,
        *,
        out: Path | str = Path(),
        interval_seconds: float = DEFAULT_INTERVAL_SECONDS,
        command: Command | str | None = None,
        ack: Ack = "always",
        once: bool = False,
        stop: Stop | None = None,
        flat: bool = False,
        overwrite: bool = False,
        redeliver: bool = False,
        concurrency: int = 4,
        output: int | None = None,
        on_poll: Callable[[PollResult], None] | None = None,
    ) -> Iterator[Watched]:
        """Receive what comes, for as long as it is iterated; yields what became of each message.

        An idle look costs one request. What fails and may pass is waited out, and told as a notice.
        With a command, each message is handed to it when it is on disk, at least once, and how it
        ends becomes the receipt.

        Args:
            out: The folder that takes messages; made if it is not there.
            interval_seconds: How often to look; longer when nothing comes for long.
            command: What is run for each message, `{dir}` standing for its folder. No shell reads
                it; see `handover`.
            ack: Whether senders are told: always, of what the command took, or never.
            once: Look once, as `receive` does, and return.
            stop: Set it to end the watch after the message in hand; None: it goes on.
            flat: Leave out the folder that each message gets; not with a command.
            overwrite: Replace files that are there already.
            redeliver: Deliver also what was received elsewhere; see `receive`.
            concurrency: Chunks under way at once.
            output: The descriptor that takes what commands print; None: nobody reads it.
            on_poll: Called with how each look went that saw more than a silent bell.

        Raises:
            UsageError: the command cannot be run, or is to be with `flat`.
            AuthError, ConfigError, RegistryError, NetworkError: the first look failed, and not by
                what may pass.
            LocalIOError: the state, or the command, cannot be used.
        """
        from dockercomms.messages.command import parse_command  # noqa: PLC0415 - the same
        from dockercomms.messages.deliver import ReceiveOptions  # noqa: PLC0415 - the same
        from dockercomms.messages.watch import Watcher, WatchOptions  # noqa: PLC0415 - the same

        if isinstance(command, str):
            command = parse_command(command)
        if command is not None and flat:
            raise UsageError(
                "a command gets a folder with its message alone, which flat leaves out",
                hint="set DOCKERCOMMS_RECV_FLAT=false, or recv.flat = false in the configuration",
            )
        options = ReceiveOptions(
            out=Path(out),
            flat=flat,
            overwrite=overwrite,
            receipt=ack != "never",
            handover=command is not None,
            redeliver=redeliver,
            concurrency=concurrency,
            referrers_index=self._referrers_index,
            choice=self._desk.choice,
        )

        def heard(poll: PollResult) -> None:
            self.last_poll = poll
            if on_poll is not None:
                on_poll(poll)

        watcher = Watcher(
            rounds=lambda: self._round(options),
            clock=self._clock,
            stop=threading.Event() if stop is None else stop,
            options=WatchOptions(
                interval_seconds=interval_seconds,
                command=command,
                ack=ack,
                once=once,
                output=output,
            ),
            on_notice=self._on_notice,
            on_poll=heard,
        )
        yield from watcher.run()

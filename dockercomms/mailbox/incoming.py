"""The methods of a mailbox that list, receive, acknowledge and verify messages."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from dockercomms.errors import IntegrityError, InternalError, NotFoundError, UsageError
from dockercomms.mailbox.base import MailboxBase, only_looks
from dockercomms.oci.model import Digest
from dockercomms.platforms.arguments import checks_arguments
from dockercomms.protocol.header import DEFAULT_INTERVAL_SECONDS
from dockercomms.protocol.tags import ReceiptStatus

if TYPE_CHECKING:
    from dockercomms.inbox.entries import Entry
    from dockercomms.inbox.inbox import Inbox
    from dockercomms.inbox.listing import InboxEntry
    from dockercomms.inbox.poll import PollResult
    from dockercomms.messages.command import Command
    from dockercomms.messages.deliver import ReceiveOptions
    from dockercomms.messages.receive import Received, Round
    from dockercomms.messages.sign import Signature, Verification
    from dockercomms.messages.watch import Ack, Stop, Watched
    from dockercomms.state.streams import Gap

SHOWN_GAPS = timedelta(days=7)
"""The age up to which `inbox` reports a gap: missing messages before one that arrived."""


@checks_arguments
class Incoming(MailboxBase):
    """The part of `Mailbox` that lists, receives, acknowledges and verifies."""

    @only_looks
    def inbox(
        self,
        *,
        since: datetime | None = None,
        all: bool = False,  # noqa: A002 - as the option is called
        complete: bool = False,
    ) -> list[InboxEntry]:
        """Return the messages of the inbox: new before held before refused, each oldest first.

        Args:
            since: Leave out messages created before this time.
            all: Include messages that were delivered, have expired, or were refused and reported.
            complete: Read the whole repository again.

        Raises:
            RegistryError, NetworkError: every way to find messages failed; `last_poll` has the
                errors of single ways.
        """
        from dockercomms.inbox.inbox import poll_all
        from dockercomms.inbox.listing import inbox_entry
        from dockercomms.messages.verify import judge_entries

        entries: list[InboxEntry] = []
        shown: list[Gap] = []
        inboxes = self._inboxes()
        self.last_poll = poll_all(inboxes, complete=complete)
        whole = self.last_poll.complete and since is None
        for inbox in inboxes:
            listed = inbox.entries(since=since, all=all)
            if inbox.is_first_look and self._look_elsewhere(inbox, listed, complete=whole):
                listed = inbox.entries(since=since, all=all)
            verifier = self._verifier(inbox)
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
        """Return whether receipts show that messages of the inbox were received elsewhere."""
        from dockercomms.messages.elsewhere import tell_first_look

        look = self._own_receipts().look(inbox, listed, complete=complete)
        tell_first_look(look, inbox, self._on_notice)
        return bool(look.elsewhere)

    def _report_defects(self, inbox: Inbox, listed: Sequence[Entry]) -> None:
        """Add the defects at listed messages that no run has reported."""
        from dockercomms.inbox.read import HELD_INTERNAL

        new = [one for one in listed if one.reason_kind == HELD_INTERNAL and not one.reported]
        inbox.mark_reported(new)
        self.defects += [InternalError(one.reason, what=one.digest or one.key) for one in new]

    def _find(self, prefix: str) -> tuple[Inbox, Entry]:
        """Return the inbox and the entry of a message; poll if it is not known."""
        from dockercomms.inbox.inbox import find_in, poll_all

        inboxes = self._inboxes()
        try:
            number, entry = find_in(inboxes, prefix, judge=self._judge)
        except (NotFoundError, IntegrityError):
            self.last_poll = poll_all(inboxes)
            number, entry = find_in(inboxes, prefix, judge=self._judge)
        return inboxes[number], entry

    def _judge(self, inbox: Inbox, entries: Sequence[Entry]) -> None:
        from dockercomms.messages.verify import judge_entries

        verifier = self._verifier(inbox)
        if verifier is not None:
            judge_entries(inbox, entries, verifier, insist=True)

    @only_looks
    def show(self, id: str) -> InboxEntry:  # noqa: A002 - as the argument is called
        """Return the message whose id or digest begins with `id`, with a verified signature.

        Raises:
            NotFoundError: no id or digest begins so.
            UsageError: several do, or `id` is too short.
            RegistryError, NetworkError: the registry does not answer.
        """
        from dockercomms.inbox.listing import inbox_entry
        from dockercomms.messages.verify import judge_entries

        inbox, entry = self._find(id)
        verifier = self._verifier(inbox)
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
        """Return the verified signer of the message whose id or digest begins with `id`.

        Raises:
            NotFoundError, UsageError, RegistryError, NetworkError: as `show`.
            VerificationError: no signature is by a sender in the trust file.
            ProtocolError: the message is malformed.
        """
        inbox, entry = self._find(id)
        return self._object_verifier().verify_message(inbox.fetch(entry))

    @only_looks
    def verify_object(self, reference: str) -> Verification:
        """Return the verified signer of the object with a tag or digest of this repository.

        Raises:
            NotFoundError: it does not exist.
            VerificationError: no signature is by a sender in the trust file.
            ProtocolError: it is a malformed message or receipt.
            RegistryError, NetworkError: the registry refused, or did not answer.
        """
        return self._object_verifier().verify(reference)

    def sign_object(self, reference: str, *, is_message: bool = False) -> Signature:
        """Sign the object with a tag or digest of this repository, and attach the signature to it.

        Args:
            reference: A tag or digest.
            is_message: Also sign a message that was sent from another machine.

        Raises:
            NotFoundError: it does not exist.
            UsageError: signing is disabled, or `is_message` is missing for such a message.
            SigningError, VerificationError: signing failed; nothing was published.
            RegistryError, NetworkError: the registry refused, or did not answer.
        """
        from dockercomms.messages.sign import sign

        signer = self._owner.signer()
        if signer is None:
            raise UsageError("signing is disabled (--no-sign)")
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
        """Publish a receipt for a message; return the receipt's digest.

        Raises:
            NotFoundError, UsageError: as `show`; or the reason is longer than 1 KiB.
            SigningError, RegistryError, NetworkError: the receipt stays stored, and a later
                `receive` publishes it.
        """
        from dockercomms.messages.receipts import acknowledge

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
        """Receive new messages one after another; yield the result of each.

        Messages of senders outside the trust file are held. A failed message does not stop the
        others, and is reported once. The first step completes deliveries that an earlier run left
        unfinished. The generator starts no work before the first `next()`.

        Args:
            ids: Receive only messages whose id or digest begins with one of these. For them, one of
                two clocks that disagree is enough.
            out: The folder for the files; created if it is missing.
            max: Stop after so many deliveries.
            since: Only messages created later.
            all: Deliver delivered and expired messages again, and report errors again.
            stdout: Write payloads to this stream instead of to files.
            flat: Do not make a folder for each message.
            overwrite: Replace existing files.
            receipt: Publish a receipt for each delivery.
            complete: Read the whole repository again.
            redeliver: Deliver also messages that were received elsewhere; with a new state,
                receipts signed by a key of this user show them.
            concurrency: Parallel downloads of chunks.

        Raises:
            UsageError: `max` is not positive.
            RegistryError, NetworkError: the poll of the registry failed.
            LocalIOError: the state cannot be used.
        """
        from dockercomms.messages.deliver import ReceiveOptions

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
            choice="either" if ids and self._choice == "both" else self._choice,
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
        from dockercomms.messages.receive import Box, Round

        return Round(
            boxes=[
                Box(inbox, self._verifier(inbox, options.choice), self._own_receipts())
                for inbox in self._inboxes(options.choice)
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
        """Receive messages as they arrive, while the caller iterates; yield the result of each.

        Polling an empty inbox costs one request. The watch waits out errors that may pass, and
        reports each as a notice. A command gets each message at least once, after its files are on
        disk; the command's exit code decides the receipt.

        Args:
            out: The folder for the files; created if it is missing.
            interval_seconds: The time between polls; longer after a long time without messages.
            command: The command to run for each message, without a shell; `{dir}` stands for its
                folder. See `messages.command`.
            ack: The receipts to send: "always", "on-success" (of the command), or "never".
            once: Poll once, as `receive` does, and return.
            stop: An event that ends the watch after the current message. Default: it never ends.
            flat: Do not make a folder for each message; not with a command.
            overwrite: Replace existing files.
            redeliver: Deliver also messages that were received elsewhere; see `receive`.
            concurrency: Parallel downloads of chunks.
            output: The descriptor for the output of commands. Default: discard it.
            on_poll: Called with the result of each poll, except if the newest-message pointer is
                unchanged.

        Raises:
            UsageError: the command cannot be run, or is combined with `flat`.
            AuthError, ConfigError, RegistryError, NetworkError: the first poll failed with an error
                that will not pass.
            LocalIOError: the state, or the command, cannot be used.
        """
        from dockercomms.messages.command import parse_command
        from dockercomms.messages.deliver import ReceiveOptions
        from dockercomms.messages.watch import Watcher, WatchOptions

        if isinstance(command, str):
            command = parse_command(command)
        if command is not None and flat:
            raise UsageError(
                "--exec needs a folder per message, which recv.flat disables",
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
            choice=self._choice,
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

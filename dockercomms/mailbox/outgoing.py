"""The methods of a mailbox that send messages and list their receipts."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from dockercomms.errors import NotFoundError
from dockercomms.mailbox.base import MailboxBase, only_looks
from dockercomms.oci.model import Digest
from dockercomms.platforms.arguments import checks_arguments
from dockercomms.protocol.header import DEFAULT_TTL_SECONDS, MAX_TEXT_BYTES

if TYPE_CHECKING:
    from dockercomms.messages.draft import Sent
    from dockercomms.messages.outbox import OutboxEntry
    from dockercomms.messages.receipts_list import ReceiptEntry
    from dockercomms.state.send_runs import SendRun
    from dockercomms.transport.files import Links
    from dockercomms.transport.push import Compress


@checks_arguments
class Outgoing(MailboxBase):
    """The part of `Mailbox` that sends messages and lists their receipts."""

    def send(
        self,
        paths: Path | str | Sequence[Path | str] = (),
        *,
        to: str,
        sender: str | None = None,
        title: str | None = None,
        text: str | None = None,
        name: str | None = None,
        stdin: BinaryIO | None = None,
        ttl_seconds: int = DEFAULT_TTL_SECONDS,
        compress: Compress = "auto",
        chunk_bytes: int | None = None,
        concurrency: int = 4,
        keep_mtime: bool = False,
        exclude: Sequence[str] = (),
        links: Links = "keep",
        again: bool = False,
        dry_run: bool = False,
        clock_skew_ok: bool = False,
        audience: str | None = None,
        thread_id: str | None = None,
        in_reply_to: Digest | None = None,
        like: Sent | None = None,
        run: SendRun | None = None,
    ) -> Sent:
        """Send files, a folder, a stream or a note; return after it is published.

        Args:
            paths: One path, or several; `-` is `stdin`. Several, or a folder, become one tar.
            to: The recipient; must equal the recipient's own name byte for byte.
            sender: The name to send as. Default: `me`.
            title: At most 200 characters.
            text: A note of at most 1 KiB; without `paths` it is the payload and may be longer.
            name: The file name for the receiver.
            stdin: The stream that `-` stands for.
            ttl_seconds: The lifetime of the message.
            compress: The compression.
            chunk_bytes: Payload bytes in a chunk. Default: depends on the payload's size.
            concurrency: Parallel uploads of chunks.
            keep_mtime: Keep the times of the files in a tar.
            exclude: Patterns of files to leave out of a folder: `*.o`, `node_modules`,
                `/top/build`.
            links: "keep" symbolic links as links, "skip" them, or "follow" them and send their
                targets.
            again: Start over instead of resuming an interrupted send.
            dry_run: Read, split and compress everything, and write nothing anywhere.
            clock_skew_ok: Send even if our clock and the registry's are an hour apart.
            audience: The only repository from which receivers may accept the message.
            thread_id: The id that all messages of one conversation share.
            in_reply_to: The message that this one replies to; see `reply`.
            like: A message just sent to another recipient: equal content is neither read nor
                uploaded again.
            run: The run to several recipients; see `run_to`.

        Raises:
            UsageError, LimitError: an argument is wrong; nothing was sent.
            LocalIOError: the source cannot be read, or changed during the send.
            ConfigError: our clock and the registry's are more than an hour apart.
            SigningError, VerificationError: signing failed; nothing was published.
            RegistryError, NetworkError: the registry refused, or did not answer.
        """
        from dockercomms.errors import Notice
        from dockercomms.messages.draft import SendOptions
        from dockercomms.messages.send import send
        from dockercomms.transport.files import Packing
        from dockercomms.transport.payload import payload_of

        sources = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
        payload = payload_of(
            [Path(path) for path in sources],
            name=name,
            stdin=stdin,
            text=text,
            packing=Packing(keep_mtime=keep_mtime, exclude=tuple(exclude), links=links),
        )
        if not sources and text is not None and not _fits_beside(text):
            text = None  # the note is the payload; only a short one is in the listing as well
        is_new = not dry_run and self._store.is_missing_folder()
        sent = send(
            self._store.registry,
            self._store.repository,
            payload,
            repo=self._store.repo,
            sender=self.me if sender is None else sender,
            recipient=to,
            state=self._state,
            clock=self._clock,
            options=SendOptions(
                title=title,
                text=text,
                ttl_seconds=ttl_seconds,
                compress=compress,
                chunk_bytes=chunk_bytes,
                concurrency=concurrency,
                again=again,
                dry_run=dry_run,
                clock_skew_ok=clock_skew_ok,
                clock_choice=self._choice,
                audience=audience,
                thread_id=thread_id,
                in_reply_to=in_reply_to,
                referrers_index=self._referrers_index,
                manifest_form=self._manifest_form,
            ),
            progress=self._progress,
            signer=None if dry_run else self._owner.signer(),
            like=like,
            run=run,
            on_notice=self._on_notice,
        )
        if dry_run:
            sent = replace(sent, signed=self._owner.known_signer())
        if is_new and self._on_notice is not None:
            self._on_notice(Notice("created", f"Created local mailbox {self.repo}"))
        return sent

    @contextlib.contextmanager
    def run_to(self, recipients: Sequence[str]) -> Iterator[SendRun]:
        """Yield a run of `send` to several recipients, in one or several repositories.

        After an interrupted or partly failed run, the next run to the same recipients skips those
        who already have the same content. `end_run` marks a run as complete.

        Raises:
            LocalIOError: the state cannot be used.
        """
        with self._state.send_runs.open(recipients) as run:
            yield run

    def end_run(self, run: SendRun) -> None:
        """End a run: the next send of the same content to the same recipients sends it again.

        Raises:
            LocalIOError: the state cannot be used.
        """
        self._state.send_runs.end(run)

    @only_looks
    def receipts(self, id: str | None = None) -> list[ReceiptEntry]:  # noqa: A002 - the option's
        """Return the receipts for messages sent as `me`, oldest first; with `id` for one message.

        Raises:
            NotFoundError: the id of no sent message begins with `id`.
            UsageError: several do.
            RegistryError, NetworkError: the registry refused, or did not answer.
        """
        return self._receipts_for(self.names, id)

    def _receipts_for(
        self,
        senders: Collection[str],
        message: str | None = None,
        *,
        wanted: Collection[Digest] | None = None,
    ) -> list[ReceiptEntry]:
        from dockercomms.messages.receipts_list import list_receipts

        found: list[ReceiptEntry] = []
        missing: NotFoundError | None = None
        verifier = self._receipt_verifier(senders)
        for name in senders:
            try:
                found += list_receipts(
                    self._store,
                    me=name,
                    state=self._state,
                    clock=self._clock,
                    message=message,
                    wanted=wanted,
                    verifier=verifier,
                    on_problem=self._tell_unreadable,
                    on_defect=self._meet,
                )
            except NotFoundError as error:
                missing = error
            else:
                if message is not None:
                    return found
        if missing is not None:
            raise missing
        return sorted(found, key=lambda entry: (entry.created_at is not None, entry.created_at))

    def _tell_unreadable(self, text: str) -> None:
        from dockercomms.errors import Notice

        if self._on_notice is not None:
            self._on_notice(Notice("receipt-unreadable", text))

    @only_looks
    def outbox(self) -> list[OutboxEntry]:
        """Return the messages sent from here to this repository with their receipts, oldest first.

        The state keeps each for at least 90 days, and until it has expired.

        Raises:
            RegistryError, NetworkError: the registry refused, or did not answer.
        """
        from dockercomms.messages.outbox import list_outbox

        rows = self._state.outbox.rows(self.repo)
        senders = dict.fromkeys(row.sender for row in rows)
        receipts = self._receipts_for(senders)
        claims = not self._owner.verifies
        return list_outbox(rows, receipts, now=self._clock.now(), claims=claims)

    @only_looks
    def sent_elsewhere(self) -> dict[str, int]:
        """Return the number of messages sent from here to each other repository."""
        return self._state.outbox.elsewhere(self.repo)

    def wait(self, sent: Sent | Sequence[Sent], *, seconds: float) -> dict[Digest, ReceiptEntry]:
        """Wait for a receipt of each message; return the receipts by message digest.

        Without verification, unsigned claims end the wait as well. After `seconds`, return the
        receipts found so far: verified ones, and claims for messages without one (see
        `ReceiptEntry.signer`).

        Args:
            sent: Messages that were sent to this repository.
            seconds: The longest time to wait.

        Raises:
            RegistryError, NetworkError: the registry refused, or did not answer.
        """
        from dockercomms.messages.outbox import wait_for_answers

        waited = list(sent) if isinstance(sent, Sequence) else [sent]
        senders = dict.fromkeys(one.sender for one in waited)
        messages = {one.digest for one in waited}
        return wait_for_answers(
            lambda: self._receipts_for(senders, wanted=messages),
            messages,
            seconds=seconds,
            clock=self._clock,
            claims=not self._owner.verifies,
        )


def _fits_beside(text: str) -> bool:
    return len(text.encode("utf-8", "replace")) <= MAX_TEXT_BYTES

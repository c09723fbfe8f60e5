"""Mailbox: the library's face. One object to send, list, receive, acknowledge and ask for receipts.

It never prints, and reads neither configuration files nor `DOCKERCOMMS_*` variables: what it needs
is passed in. Progress, retries and notices leave as values to hooks. Messages and receipts are
signed with the user's own key, and senders have to be trusted by the user's trust file; the own key
is trusted without one.

Example:
    >>> import pathlib, tempfile
    >>> from dockercomms import Mailbox
    >>> base = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (base / "report.txt").write_text("all is well")
    >>> box, keys = f"oci-layout:{base}/box", base / "keys"
    >>> with Mailbox(box, me="alice", keys_folder=keys, state_path=base / "alice.db") as alice:
    ...     sent = alice.send([base / "report.txt"], to="bob", title="weekly")
    >>> with Mailbox(box, me="bob", keys_folder=keys, state_path=base / "bob.db") as bob:
    ...     [(entry.signer, entry.title) for entry in bob.inbox()]
    ...     (received,) = bob.receive(out=base / "in")
    ...     received.files[0].read_text()
    [('alice', 'weekly')]
    'all is well'
    >>> with Mailbox(box, me="alice", keys_folder=keys, state_path=base / "alice.db") as alice:
    ...     [(receipt.signer, receipt.status) for receipt in alice.receipts()]
    [('bob', 'accepted')]
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from dockercomms.approving import Signature, Verification, sign
from dockercomms.desk import Desk
from dockercomms.errors import IntegrityError, NotFoundError, UsageError
from dockercomms.inbox import Entry, Inbox, PollResult
from dockercomms.listing import InboxEntry, inbox_entry
from dockercomms.oci.model import Digest
from dockercomms.oci.retry import RetryHook
from dockercomms.owner import Owner, SigningOptions, TrustOptions
from dockercomms.platforms import Clock, SystemClock
from dockercomms.protocol import DEFAULT_TTL_SECONDS, MAX_TEXT_BYTES, ReceiptStatus
from dockercomms.publishing import Notice, NoticeHook
from dockercomms.receipts import ReceiptEntry, acknowledge, list_receipts
from dockercomms.receiving import Received, ReceiveOptions
from dockercomms.rounds import Box, Round, find_in, poll_all
from dockercomms.sending import SendOptions, Sent, send
from dockercomms.state import State, default_path
from dockercomms.stores import ConnectionSettings, Store, default_mailbox, open_store
from dockercomms.transport.payload import payload_of
from dockercomms.transport.transfer import Compress, Progress
from dockercomms.verifying import judge_entries

__all__ = [
    "ConnectionSettings",
    "InboxEntry",
    "Mailbox",
    "Signature",
    "SigningOptions",
    "Store",
    "TrustOptions",
    "Verification",
    "open_store",
]


class Mailbox(AbstractContextManager["Mailbox"]):
    """One user's mail in one repository. Not safe for several threads.

    Args:
        repo: `host[:port]/path`, `oci://host/path`, or `oci-layout:FOLDER`; None is the user's
            own mailbox folder, `$XDG_DATA_HOME/dockercomms/mailbox`.
        me: The name to receive as, and to send as, or several to receive as, the first one to send
            as; None is those in the trust file, else the login name.
        settings: How to reach a registry.
        state_path: The file to remember in; None is `$XDG_STATE_HOME/dockercomms/state.db`.
        keys_folder: Where the keys are; None is `$XDG_DATA_HOME/dockercomms/keys`.
        signing: What messages and receipts are signed with; None is the own key.
        trust: Whom to believe; None is the trust file.
        clock: The time.
        progress: Called as chunks of payload arrive, there or here.
        on_retry: Called before a request is tried again; False gives up.
        on_notice: Called with what the user may want to know.
        store: A store to use instead of the one that `repo` and `settings` say.

    Raises:
        UsageError: `repo` is not a repository, or there is no login name.
        ConfigError: the trust file is wrong, where it has to say who we are.
    """

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
    ) -> None:
        self._clock = clock or SystemClock()
        self._owner = Owner(me, keys=keys_folder, signing=signing, trust=trust, on_notice=on_notice)
        self.names = self._owner.names
        """The names to receive as."""
        if store is None:
            repo = f"oci-layout:{default_mailbox(os.environ)}" if repo is None else repo
            store = open_store(repo, settings, clock=self._clock, on_retry=on_retry, create=True)
        self._store = store
        self._state = State(default_path(os.environ) if state_path is None else state_path)
        self._progress = progress
        self._on_notice = on_notice
        self._desk = Desk(store=store, owner=self._owner, state=self._state, clock=self._clock)
        self.last_poll: PollResult | None = None
        """How the last look at the repository went."""

    @property
    def me(self) -> str:
        """The name to send as."""
        return self.names[0]

    @property
    def repo(self) -> str:
        """The repository's whole name."""
        return self._store.repo

    def close(self) -> None:
        """Release connections and the state; may be called again."""
        self._store.registry.close()
        self._state.close()

    def __exit__(self, *exc: object) -> None:
        self.close()

    # --- sending ---------------------------------------------------------------------------------

    def send(
        self,
        paths: Sequence[Path | str] = (),
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
        again: bool = False,
        dry_run: bool = False,
        clock_skew_ok: bool = False,
        audience: str | None = None,
    ) -> Sent:
        """Send files, a folder, a stream or a note; when this returns, it is published.

        Args:
            paths: What to send; `-` is `stdin`. Several, or a folder, travel as one tar.
            to: The recipient, byte for byte as they call themselves.
            sender: The name to send as; None is `me`.
            title: At most 200 characters.
            text: A note: with `paths` at most 1 KiB, alone it is the message.
            name: What the receiver's file is called.
            stdin: What `-` stands for.
            ttl_seconds: After how long the message expires.
            compress: How.
            chunk_bytes: Payload bytes in a chunk; None: chosen from the payload's size.
            concurrency: Chunks under way at once.
            keep_mtime: Keep the times of the files in a tar.
            again: Start afresh even if an interrupted send could be continued.
            dry_run: Read, cut and compress everything, and write nothing anywhere.
            clock_skew_ok: Send even if our clock and the registry's are an hour apart.
            audience: The only repository from which it is to be accepted.

        Raises:
            UsageError, LimitError: an argument is wrong; nothing was sent.
            LocalIOError: the source cannot be read, or changed while it was sent.
            ConfigError: our clock and the registry's are more than an hour apart.
            SigningError, VerificationError: it could not be signed; nothing was published.
            RegistryError, NetworkError: the registry refused, or did not answer.
        """
        payload = payload_of(
            [Path(path) for path in paths],
            name=name,
            stdin=stdin,
            text=text,
            keep_mtime=keep_mtime,
        )
        if not paths and text is not None and not _fits_beside(text):
            text = None  # the note is the payload; only a short one is in the listing as well
        is_new = not dry_run and self._desk.is_missing_folder()
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
                audience=audience,
            ),
            progress=self._progress,
            signer=None if dry_run else self._owner.signer(),
            on_notice=self._on_notice,
        )
        if dry_run:
            sent = replace(sent, signed=self._owner.known_signer())
        if is_new and self._on_notice is not None:
            self._on_notice(Notice("created", f"{self.repo}: this folder was made"))
        return sent

    def receipts(self, id: str | None = None) -> list[ReceiptEntry]:  # noqa: A002 - the option's
        """Return the receipts for what `me` sent, oldest first; with `id` for one message.

        Raises:
            NotFoundError: nothing that was sent begins with `id`.
            UsageError: several messages do.
            RegistryError, NetworkError: the registry cannot tell.
        """
        found: list[ReceiptEntry] = []
        missing: NotFoundError | None = None
        verifier = self._desk.receipt_verifier()
        for name in self.names:
            try:
                found += list_receipts(
                    self._store.registry,
                    self._store.repository,
                    repo=self.repo,
                    me=name,
                    state=self._state,
                    clock=self._clock,
                    message=id,
                    verifier=verifier,
                )
            except NotFoundError as error:
                missing = error
            else:
                if id is not None:
                    return found
        if missing is not None:
            raise missing
        return sorted(found, key=lambda entry: (entry.created_at is not None, entry.created_at))

    # --- receiving -------------------------------------------------------------------------------

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
        inboxes = self._desk.inboxes()
        self.last_poll = poll_all(inboxes, complete=complete)
        for inbox in inboxes:
            listed = inbox.entries(since=since, all=all)
            verifier = self._desk.verifier(inbox)
            if verifier is not None:
                judge_entries(inbox, listed, verifier)
                listed = inbox.entries(since=since, all=all)
            judged = {} if verifier is None else self._state.trust.judged(inbox.me, self.repo)
            entries += [
                inbox_entry(entry, judged.get(entry.digest) if entry.digest else None)
                for entry in listed
            ]
        return entries

    def _find(self, prefix: str) -> tuple[Inbox, Entry]:
        """Return a message that is known, or found by looking, and the inbox that it is in."""
        inboxes = self._desk.inboxes()
        try:
            number, entry = find_in(inboxes, prefix)
        except (NotFoundError, IntegrityError):
            self.last_poll = poll_all(inboxes)
            number, entry = find_in(inboxes, prefix)
        return inboxes[number], entry

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
        return inbox_entry(entry, judged)

    def verify(self, id: str) -> Verification:  # noqa: A002 - as the argument is called
        """Return who signed the one message whose id or digest begins with `id`, proven.

        Raises:
            NotFoundError, UsageError, RegistryError, NetworkError: as `show`.
            VerificationError: nobody whom the trust file trusts.
            ProtocolError: the message is malformed.
        """
        inbox, entry = self._find(id)
        return self._desk.object_verifier().verify_message(inbox.fetch(entry))

    def verify_object(self, reference: str) -> Verification:
        """Return who signed what a tag or digest of this repository names, proven.

        Raises:
            NotFoundError: it is not there.
            VerificationError: nobody whom the trust file trusts.
            ProtocolError: it calls itself a message or receipt, and is malformed.
            RegistryError, NetworkError: the registry cannot tell.
        """
        return self._desk.object_verifier().verify(reference)

    def sign_object(self, reference: str) -> Signature:
        """Sign what a tag or digest of this repository names, and attach the signature to it.

        Raises:
            NotFoundError: it is not there.
            UsageError: signing is switched off.
            SigningError, VerificationError: nothing was signed, and nothing added.
            RegistryError, NetworkError: the registry refused, or did not answer.
        """
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
        concurrency: int = 4,
    ) -> Iterator[Received]:
        """Receive what is new, one message after another; yields what became of each.

        Whom the trust file does not trust is held back. One that fails never stops the others, and
        is reported once. What an earlier run left unfinished is put right first. Nothing happens
        before the first result is asked for.

        Args:
            ids: Only these; each the start of an id or digest.
            out: The folder that takes them; made if it is not there.
            max: Stop after so many deliveries.
            since: Only what was created later.
            all: Deliver also what was delivered before or has expired, and report again.
            stdout: Write payloads here instead of to files.
            flat: Leave out the folder that each message gets.
            overwrite: Replace files that are there already.
            receipt: Write a receipt for what is delivered.
            complete: Look at the whole repository, whatever is known already.
            concurrency: Chunks under way at once.

        Raises:
            UsageError: `max` is not positive.
            RegistryError, NetworkError: the registry did not let itself be looked at.
            LocalIOError: the state cannot be used.
        """
        options = ReceiveOptions(
            out=Path(out),
            flat=flat,
            overwrite=overwrite,
            stdout=stdout,
            receipt=receipt,
            again=all,
            concurrency=concurrency,
        )
        run = Round(
            boxes=[Box(inbox, self._desk.verifier(inbox)) for inbox in self._desk.inboxes()],
            registry=self._store.registry,
            repository=self._store.repository,
            state=self._state,
            clock=self._clock,
            options=options,
            progress=self._progress,
            signer=self._owner.signer(),
            on_notice=self._on_notice,
        )
        for result in run.receive(ids, max=max, since=since, complete=complete):
            self.last_poll = run.last_poll
            yield result
        self.last_poll = run.last_poll


def _fits_beside(text: str) -> bool:
    return len(text.encode("utf-8", "replace")) <= MAX_TEXT_BYTES

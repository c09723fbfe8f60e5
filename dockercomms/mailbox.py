"""Mailbox: the library's face. One object to send, list, receive, acknowledge and ask for receipts.

It never prints, and reads neither configuration files nor `DOCKERCOMMS_*` variables: what it needs
is passed in. Progress, retries and notices leave as values to hooks.

Example:
    >>> import pathlib, tempfile
    >>> from dockercomms import Mailbox
    >>> base = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (base / "report.txt").write_text("all is well")
    >>> with Mailbox(
    ...     f"oci-layout:{base}/box", me="alice", state_path=base / "alice.db"
    ... ) as alice:
    ...     sent = alice.send([base / "report.txt"], to="bob", title="weekly")
    >>> with Mailbox(f"oci-layout:{base}/box", me="bob", state_path=base / "bob.db") as bob:
    ...     [(entry.sender, entry.title) for entry in bob.inbox()]
    ...     (received,) = bob.receive(out=base / "in")
    ...     received.files[0].read_text()
    [('alice', 'weekly')]
    'all is well'
    >>> with Mailbox(
    ...     f"oci-layout:{base}/box", me="alice", state_path=base / "alice.db"
    ... ) as alice:
    ...     [(receipt.sender, receipt.status) for receipt in alice.receipts()]
    [('bob', 'accepted')]
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Literal

from dockercomms.errors import NotFoundError, UsageError
from dockercomms.inbox import Entry, Inbox, PollResult
from dockercomms.oci.layout import LayoutRegistry
from dockercomms.oci.model import Digest
from dockercomms.oci.retry import RetryHook
from dockercomms.platforms import Clock, SystemClock
from dockercomms.protocol import DEFAULT_TTL_SECONDS, MAX_TEXT_BYTES, ReceiptStatus
from dockercomms.publishing import Notice, NoticeHook
from dockercomms.receipts import ReceiptEntry, acknowledge, list_receipts
from dockercomms.receiving import Received, ReceiveOptions
from dockercomms.rounds import Round
from dockercomms.sending import SendOptions, Sent, send
from dockercomms.state import State, default_path
from dockercomms.stores import ConnectionSettings, Store, default_mailbox, open_store
from dockercomms.transport.payload import payload_of
from dockercomms.transport.transfer import Compress, Progress

__all__ = ["ConnectionSettings", "InboxEntry", "Mailbox", "Store", "open_store"]


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxEntry:
    """One message as it is listed. What it says of itself is its sender's claim."""

    id: str
    """"" while its manifest could not be read."""
    digest: Digest | None
    tag: str | None
    sender: str
    title: str | None
    text: str | None
    filename: str
    """As its sender calls it; escape it before showing it."""
    bytes: int | None
    created_at: datetime | None
    expires_at: datetime | None
    state: Literal["new", "delivered", "held", "refused"]
    expired: bool
    reason: str
    """Why it is held or refused."""
    signature_status: Literal["none", "unchecked", "valid", "invalid", "untrusted"] = "none"
    signer: str | None = None


class Mailbox(AbstractContextManager["Mailbox"]):
    """One user's mail in one repository. Not safe for several threads.

    Args:
        repo: `host[:port]/path`, `oci://host/path`, or `oci-layout:FOLDER`; None is the user's
            own mailbox folder, `$XDG_DATA_HOME/dockercomms/mailbox`.
        me: The name to receive as, and to send as; None is the login name.
        settings: How to reach a registry.
        state_path: The file to remember in; None is `$XDG_STATE_HOME/dockercomms/state.db`.
        clock: The time.
        progress: Called as chunks of payload arrive, there or here.
        on_retry: Called before a request is tried again; False gives up.
        on_notice: Called with what the user may want to know.
        store: A store to use instead of the one that `repo` and `settings` say.

    Raises:
        UsageError: `repo` is not a repository, or there is no login name.
    """

    def __init__(
        self,
        repo: str | None = None,
        *,
        me: str | None = None,
        settings: ConnectionSettings | None = None,
        state_path: Path | None = None,
        clock: Clock | None = None,
        progress: Progress | None = None,
        on_retry: RetryHook | None = None,
        on_notice: NoticeHook | None = None,
        store: Store | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        if store is None:
            repo = f"oci-layout:{default_mailbox(os.environ)}" if repo is None else repo
            store = open_store(repo, settings, clock=self._clock, on_retry=on_retry, create=True)
        self._store = store
        self.me = _login_name() if me is None else me
        self._state = State(default_path(os.environ) if state_path is None else state_path)
        self._progress = progress
        self._on_notice = on_notice
        self._inbox: Inbox | None = None
        self.last_poll: PollResult | None = None
        """How the last look at the repository went."""

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

        Raises:
            UsageError, LimitError: an argument is wrong; nothing was sent.
            LocalIOError: the source cannot be read, or changed while it was sent.
            ConfigError: our clock and the registry's are more than an hour apart.
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
        is_new = not dry_run and self._is_missing_folder()
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
            ),
            progress=self._progress,
            on_notice=self._on_notice,
        )
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
        return list_receipts(
            self._store.registry,
            self._store.repository,
            repo=self._store.repo,
            me=self.me,
            state=self._state,
            clock=self._clock,
            message=id,
        )

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
        opened = self._opened()
        self.last_poll = opened.poll(complete=complete)
        return [_inbox_entry(entry) for entry in opened.entries(since=since, all=all)]

    def show(self, id: str) -> InboxEntry:  # noqa: A002 - as the argument is called
        """Return the one message whose id or digest begins with `id`.

        Raises:
            NotFoundError: none does.
            UsageError: several do, or `id` is too short to say.
            RegistryError, NetworkError: the registry does not answer.
        """
        return _inbox_entry(self._find(id))

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
            RegistryError, NetworkError: the receipt stays stored, and is published by a later
                `receive`.
        """
        entry = self._find(id)
        return acknowledge(
            self._store.registry,
            self._store.repository,
            self._opened().fetch(entry).digest if entry.digest is None else entry.digest,
            status,
            repo=self._store.repo,
            me=self.me,
            state=self._state,
            clock=self._clock,
            reason=reason,
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

        One that fails never stops the others, and is reported once. What an earlier run left
        unfinished is put right first. Nothing happens before the first result is asked for.

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
            inbox=self._opened(),
            registry=self._store.registry,
            repository=self._store.repository,
            state=self._state,
            clock=self._clock,
            options=options,
            progress=self._progress,
            on_notice=self._on_notice,
        )
        for result in run.receive(ids, max=max, since=since, complete=complete):
            self.last_poll = run.last_poll
            yield result
        self.last_poll = run.last_poll

    # --- inside ----------------------------------------------------------------------------------

    def _opened(self) -> Inbox:
        if self._inbox is None:
            self._inbox = Inbox(
                self._store.registry,
                self._store.repository,
                repo=self._store.repo,
                me=self.me,
                state=self._state,
                clock=self._clock,
            )
        return self._inbox

    def _is_missing_folder(self) -> bool:
        registry = self._store.registry
        return isinstance(registry, LayoutRegistry) and not registry.exists()

    def _find(self, prefix: str) -> Entry:
        """Return a message that is known, or found by looking."""
        try:
            return self._opened().find(prefix)
        except NotFoundError:
            self.last_poll = self._opened().poll()
            return self._opened().find(prefix)


def _inbox_entry(entry: Entry) -> InboxEntry:
    header = entry.header
    return InboxEntry(
        id="" if header is None else header.id,
        digest=entry.digest,
        tag=entry.tag,
        sender="" if header is None else header.sender,
        title=None if header is None else header.title,
        text=None if header is None else header.text,
        filename="" if header is None else header.display_name,
        bytes=None if header is None else header.total_bytes,
        created_at=None if header is None else header.created_at,
        expires_at=None if header is None else header.expires,
        state="new" if entry.state == "delivering" else entry.state,
        expired=entry.expired,
        reason=entry.reason,
    )


def _fits_beside(text: str) -> bool:
    return len(text.encode("utf-8", "replace")) <= MAX_TEXT_BYTES


def _login_name() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError) as error:
        raise UsageError(f"no login name: {error}", hint="say who you are with --me") from error

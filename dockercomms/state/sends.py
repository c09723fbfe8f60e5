"""The rows of sends: unfinished sends, and the blobs and anchors that a registry has.

A send has a row from its first byte to its publication. While its sender lives, it holds the file
lock named by the row's id. A row without a holder is of an interrupted send, which the next send of
the same source continues (SPEC.md section 6).
"""

from __future__ import annotations

import contextlib
import json
import threading
import uuid
from collections.abc import Iterator
from dataclasses import field
from datetime import date, datetime, timedelta
from pathlib import Path

from dockercomms.oci.model import Descriptor, Digest
from dockercomms.platforms.clock import Clock
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.header import CONTINUE_SEND_SECONDS, KEEP_DELIVERED_SECONDS
from dockercomms.state.database import Database
from dockercomms.state.locks import try_lock
from dockercomms.state.values import to_unix

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS sends (
        id TEXT PRIMARY KEY,
        repo TEXT NOT NULL,
        source TEXT,
        sender TEXT NOT NULL,
        recipient TEXT NOT NULL,
        started REAL NOT NULL,
        built REAL,
        manifest BLOB,
        bundle BLOB,
        digest TEXT,
        day TEXT,
        tag TEXT,
        published REAL
    )""",
    "CREATE INDEX IF NOT EXISTS sends_source ON sends (source)",
    "CREATE INDEX IF NOT EXISTS sends_digest ON sends (digest)",
    "CREATE INDEX IF NOT EXISTS sends_published ON sends (published)",
    """CREATE TABLE IF NOT EXISTS send_chunks (
        send TEXT NOT NULL,
        chunk INTEGER NOT NULL,
        descriptor TEXT NOT NULL,
        PRIMARY KEY (send, chunk)
    ) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS blobs (
        repo TEXT NOT NULL,
        digest TEXT NOT NULL,
        confirmed REAL NOT NULL,
        PRIMARY KEY (repo, digest)
    ) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS blobs_confirmed ON blobs (confirmed)",
    """CREATE TABLE IF NOT EXISTS anchor_tags (
        repo TEXT NOT NULL,
        tag TEXT NOT NULL,
        digest TEXT NOT NULL,
        confirmed REAL NOT NULL,
        PRIMARY KEY (repo, tag)
    ) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS anchor_tags_confirmed ON anchor_tags (confirmed)",
)

KEEP_BLOBS = timedelta(days=7)
"""The time for which a confirmed blob is trusted; later it is pushed without asking."""

KEEP_ANCHORS = timedelta(days=2)
"""Senders write to an anchor on its own day only; the second day covers a continued send."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SendRow:
    """One send."""

    id: str
    """The message's id."""
    repo: str
    sender: str
    recipient: str
    started: datetime
    manifest: bytes | None = None
    """The message, after it is built; its bytes never change again."""
    bundle: bytes | None = None
    """The message's signature, if it is signed."""
    digest: Digest | None = None
    day: date | None = None
    """The day of the anchor that is the message's subject."""
    tag: str | None = None
    """The tag drawn last; the message may be under it."""


@dataclass(frozen=True, slots=True)
class Sends:
    """The tables above. Each method is one transaction, on disk when it returns."""

    database: Database

    # --- sends -----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def claim(
        self,
        *,
        repo: str,
        source: str | None,
        sender: str,
        recipient: str,
        now: datetime,
        again: bool = False,
    ) -> Iterator[SendRow]:
        """Yield the row of an interrupted send of the same source, or a new one; hold its lock.

        A send of another living process or thread is never joined.

        Args:
            repo: The repository.
            source: The key of source, recipient and options; `None`: never continued.
            sender: The sender.
            recipient: The recipient.
            now: The time; a send is continued for 24 h from its build, or from its start.
            again: Delete interrupted sends of the same source instead of continuing one.
        """
        self._sweep(now)
        with contextlib.ExitStack() as stack:
            row = None
            if source is not None:
                row = self._interrupted(repo, source, now, stack, forget=again)
            if row is None:
                row = SendRow(
                    id=self._new_id(stack),
                    repo=repo,
                    sender=sender,
                    recipient=recipient,
                    started=now,
                )
                self._insert(row, source)
            yield row

    def record_build(
        self,
        send: str,
        *,
        manifest: bytes,
        digest: Digest,
        day: date,
        now: datetime,
        bundle: bytes | None = None,
    ) -> None:
        """Store the message's bytes and its anchor's day, before they are published."""
        self.database.execute(
            """UPDATE sends SET manifest = ?, digest = ?, day = ?, built = ?, bundle = ?, tag = NULL
                WHERE id = ?""",
            (manifest, digest, day, now, bundle, send),
        )

    def record_tag(self, send: str, tag: str) -> None:
        """Store the tag under which the message is about to be published."""
        self.database.execute("UPDATE sends SET tag = ? WHERE id = ?", (tag, send))

    def record_published(self, send: str, *, now: datetime) -> None:
        """Record that the message is published, and delete the data that only publishing needed."""
        with self.database.transaction():
            self.database.execute(
                """UPDATE sends SET published = ?, source = NULL, manifest = NULL, bundle = NULL
                    WHERE id = ?""",
                (now, send),
            )
            self.database.execute("DELETE FROM send_chunks WHERE send = ?", (send,))

    def forget(self, send: str) -> None:
        """Delete a send that cannot be continued."""
        with self.database.transaction():
            self.database.execute("DELETE FROM send_chunks WHERE send = ?", (send,))
            self.database.execute("DELETE FROM sends WHERE id = ?", (send,))

    def published(self, repo: str, prefix: str) -> tuple[SendRow, ...]:
        """Return the published sends whose id or hex digest begins with `prefix`, newest first."""
        return self.database.rows_as(
            SendRow,
            """SELECT * FROM sends WHERE repo = :repo AND published IS NOT NULL AND
                (substr(id, 1, length(:id)) = :id OR substr(digest, 8, length(:hex)) = :hex)
                ORDER BY published DESC, id""",
            {"repo": repo, "id": prefix.lower(), "hex": prefix.lower().removeprefix("sha256:")},
        )

    # --- chunks and blobs ------------------------------------------------------------------------

    def chunk(self, send: str, index: int) -> Descriptor | None:
        """Return the layer that an interrupted run of this send made of chunk `index`."""
        row = self.database.row(
            "SELECT descriptor FROM send_chunks WHERE send = ? AND chunk = ?", (send, index)
        )
        if row is None:
            return None
        return Descriptor.from_json(json.loads(row["descriptor"]), f"chunk {index} of send {send}")

    def record(
        self,
        repo: str,
        *,
        confirmed: dict[Digest, datetime],
        send: str = "",
        chunks: dict[int, Descriptor] | None = None,
    ) -> None:
        """Store the blobs that the repository was seen to have, and the layers of chunks.

        A power failure may lose these; then the registry is asked again.
        """
        with self.database.transaction(durable=False) as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO send_chunks VALUES (?, ?, ?)",
                [
                    (send, index, json.dumps(descriptor.to_json()))
                    for index, descriptor in (chunks or {}).items()
                ],
            )
            connection.executemany(
                "INSERT OR REPLACE INTO blobs VALUES (?, ?, ?)",
                [(repo, digest, to_unix(at)) for digest, at in confirmed.items()],
            )

    def confirmed(self, repo: str, digest: Digest) -> float | None:
        """Return when the repository was last seen to have a blob, as a unix time."""
        row = self.database.row(
            "SELECT confirmed FROM blobs WHERE repo = ? AND digest = ?", (repo, digest)
        )
        return None if row is None else float(row["confirmed"])

    # --- anchors ---------------------------------------------------------------------------------

    def anchor(self, repo: str, tag: str) -> Digest | None:
        """Return the digest of the manifest last seen, or put, under an anchor's tag."""
        row = self.database.row(
            "SELECT digest FROM anchor_tags WHERE repo = ? AND tag = ?", (repo, tag)
        )
        return None if row is None else Digest(row["digest"])

    def record_anchor(self, repo: str, tag: str, digest: Digest, *, now: datetime) -> None:
        """Record that the registry has an anchor."""
        self.database.execute(
            "INSERT OR REPLACE INTO anchor_tags VALUES (?, ?, ?, ?)", (repo, tag, digest, now)
        )

    def forget_store(self, repo: str) -> None:
        """Delete all rows about the content of a repository that has lost content."""
        with self.database.transaction():
            self.database.execute("DELETE FROM blobs WHERE repo = ?", (repo,))
            self.database.execute("DELETE FROM anchor_tags WHERE repo = ?", (repo,))

    # --- private ---------------------------------------------------------------------------------

    def _interrupted(
        self,
        repo: str,
        source: str,
        now: datetime,
        stack: contextlib.ExitStack,
        *,
        forget: bool,
    ) -> SendRow | None:
        """Return the oldest unfinished row of the source with a free lock, held on `stack`."""
        ids = self.database.rows(
            """SELECT id FROM sends WHERE repo = ? AND source = ? AND published IS NULL
                AND COALESCE(built, started) > ? ORDER BY started, id""",
            (repo, source, now - timedelta(seconds=CONTINUE_SEND_SECONDS)),
        )
        for found in ids:
            held = contextlib.ExitStack()
            if not held.enter_context(try_lock(self._lock_path(found["id"]))):
                held.close()
                continue
            # Read again under the lock: its holder may have finished in between.
            sql = "SELECT * FROM sends WHERE id = ? AND published IS NULL"
            row = self.database.row_as(SendRow, sql, (found["id"],))
            if row is None or forget:
                if row is not None:
                    self.forget(found["id"])
                held.close()
                continue
            stack.push(held)
            return row
        return None

    def _new_id(self, stack: contextlib.ExitStack) -> str:
        """Return the id of a new row, its lock on `stack`.

        The lock comes first: a row without a living holder counts as interrupted. An id is dropped
        if `_sweep` opened its lock file before we held it.
        """
        while True:
            found = str(uuid.uuid4())
            if stack.enter_context(try_lock(self._lock_path(found))):
                return found

    def _insert(self, row: SendRow, source: str | None) -> None:
        self.database.execute(
            """INSERT INTO sends (id, repo, source, sender, recipient, started)
                VALUES (?, ?, ?, ?, ?, ?)""",
            (row.id, row.repo, source, row.sender, row.recipient, row.started),
        )

    def _sweep(self, now: datetime) -> None:
        """Delete old rows. Reads first, so that the usual send writes no rows."""
        old = now - timedelta(seconds=CONTINUE_SEND_SECONDS)
        for row in self.database.rows(
            "SELECT id FROM sends WHERE published IS NULL AND COALESCE(built, started) <= ?", (old,)
        ):
            with try_lock(self._lock_path(row["id"])) as held:
                if held:
                    self.forget(row["id"])
        paths = list(self._folder.glob("*.lock"))
        if paths:
            # Remove the lock files of killed processes, but not those of unfinished rows: a process
            # that continues such a row now would take us for its living sender, and send a second
            # message.
            rows = self.database.rows("SELECT id FROM sends WHERE published IS NULL")
            unfinished = {row["id"] for row in rows}
            for path in paths:
                if path.stem not in unfinished:
                    with try_lock(path):
                        pass
        for table, column, age in (
            ("sends", "published", timedelta(seconds=KEEP_DELIVERED_SECONDS)),
            ("blobs", "confirmed", KEEP_BLOBS),
            ("anchor_tags", "confirmed", KEEP_ANCHORS),
            ("served", "published", timedelta(seconds=CONTINUE_SEND_SECONDS)),
        ):
            where = f"FROM {table} WHERE {column} <= ?"  # constants of this function
            if self.database.row(f"SELECT 1 {where} LIMIT 1", (now - age,)):
                self.database.execute(f"DELETE {where}", (now - age,))

    @property
    def _folder(self) -> Path:
        return self.database.path.parent / "sends"

    def _lock_path(self, send: str) -> Path:
        return self._folder / f"{send}.lock"


@dataclass(slots=True)
class SendJournal:
    """One send's journal for `transport`. Safe for several threads.

    A confirmation is only a time that saves a request, so it waits in memory for the next recorded
    chunk, or for `flush`: a transaction costs more than the request.
    """

    sends: Sends
    send: str
    repo: str
    clock: Clock
    _waiting: dict[Digest, datetime] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def known(self, digest: Digest) -> float | None:
        """Return when the store last confirmed that it has the blob, as a unix time."""
        with self._lock:
            waiting = self._waiting.get(digest)
        return self.sends.confirmed(self.repo, digest) if waiting is None else to_unix(waiting)

    def confirm(self, digest: Digest) -> None:
        """Record that the store has the blob now."""
        with self._lock:
            self._waiting[digest] = self.clock.now()

    def chunk(self, index: int) -> Descriptor | None:
        """Return the layer that an interrupted run of this send made of chunk `index`."""
        return self.sends.chunk(self.send, index)

    def record_chunk(self, index: int, descriptor: Descriptor) -> None:
        """Store the layer of chunk `index`."""
        self.sends.record(
            self.repo, confirmed=self._taken(), send=self.send, chunks={index: descriptor}
        )

    def flush(self) -> None:
        """Write the waiting confirmations."""
        waiting = self._taken()
        if waiting:
            self.sends.record(self.repo, confirmed=waiting)

    def _taken(self) -> dict[Digest, datetime]:
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        return waiting

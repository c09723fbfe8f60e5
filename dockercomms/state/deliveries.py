"""The rows of deliveries, of unfinished downloads, and of messages that a command must process.

- A delivery is keyed by recipient and manifest digest alone, so that a message copied to another
  repository is not delivered again.
- The rows of an unfinished download name its file and the chunks in it. They let the next receive
  resume, which hashes the file before it trusts them (see `transport.pull`).
- The row of a message for a command is added in the transaction that records the delivery, and
  deleted in the one that stores the receipt. After a crash in between, the command runs again.

Source: SPEC.md sections 7 and 8.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from dockercomms.oci.model import Descriptor, Digest
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.header import KEEP_DELIVERED_SECONDS
from dockercomms.state.database import Database

PULL_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS pulls (
        key TEXT PRIMARY KEY,
        path BLOB NOT NULL,
        started REAL NOT NULL
    )""",
    """CREATE TABLE IF NOT EXISTS pull_chunks (
        key TEXT NOT NULL,
        chunk INTEGER NOT NULL,
        PRIMARY KEY (key, chunk)
    ) WITHOUT ROWID""",
)

KEEP_PULL = timedelta(hours=24)
"""The next run resumes an incomplete file for this time, the same as an interrupted send."""


class PullRows:
    """The tables `pulls` and `pull_chunks`, written by the holder of a delivery's lock.

    No method waits for the disk: data lost in a power failure is fetched again.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, key: str, path: Path, *, now: datetime) -> None:
        """Record that the payload goes into the new file `path`."""
        with self._database.transaction(durable=False):
            self._database.execute("DELETE FROM pull_chunks WHERE key = ?", (key,))
            self._database.execute(
                "INSERT OR REPLACE INTO pulls VALUES (?, ?, ?)", (key, path, now)
            )

    def path(self, key: str, *, now: datetime) -> Path | None:
        """Return the file that an earlier run left, unless it is too old to resume."""
        row = self._database.row(
            "SELECT path FROM pulls WHERE key = ? AND started > ?", (key, now - KEEP_PULL)
        )
        return None if row is None else Path(os.fsdecode(row["path"]))

    def chunks(self, key: str) -> frozenset[int]:
        """Return the indexes of the chunks in the file."""
        rows = self._database.rows("SELECT chunk FROM pull_chunks WHERE key = ?", (key,))
        return frozenset(row["chunk"] for row in rows)

    def record(self, key: str, chunk: int) -> None:
        """Record that a chunk is in the file."""
        sql = "INSERT OR IGNORE INTO pull_chunks VALUES (?, ?)"
        self._database.execute(sql, (key, chunk), durable=False)

    def forget_chunks(self, key: str) -> None:
        """Record that the content of the file cannot be trusted."""
        sql = "DELETE FROM pull_chunks WHERE key = ?"
        self._database.execute(sql, (key,), durable=False)

    def forget(self, key: str) -> None:
        """Delete the rows of the file. Reads first, as most messages have no such row."""
        if self._database.row("SELECT 1 FROM pulls WHERE key = ?", (key,)) is None:
            return
        with self._database.transaction(durable=False):
            self._database.execute("DELETE FROM pull_chunks WHERE key = ?", (key,))
            self._database.execute("DELETE FROM pulls WHERE key = ?", (key,))

    def sweep(self, *, now: datetime) -> None:
        """Forget files that are too old to resume; they are temporaries to remove from then on."""
        sql = "SELECT key FROM pulls WHERE started <= ?"
        for row in self._database.rows(sql, (now - KEEP_PULL,)):
            self.forget(row["key"])


KEEP_AFTER_EXPIRY = timedelta(days=1)
"""The minimum time for which a delivery is kept after the message has expired."""

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS deliveries (
        me TEXT NOT NULL,
        digest TEXT NOT NULL,
        head TEXT NOT NULL,
        state TEXT NOT NULL,
        repo TEXT NOT NULL,
        message_id TEXT NOT NULL,
        sender TEXT NOT NULL,
        path BLOB,
        payload_digest TEXT,
        expires REAL,
        delivered_at REAL,
        PRIMARY KEY (me, digest)
    )""",
    "CREATE INDEX IF NOT EXISTS deliveries_head ON deliveries (me, head)",
)
"""The table of (me, verified signer, message id) is in `state.trust`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A delivered message, or one whose delivery has begun."""

    me: str
    digest: Digest
    state: Literal["delivering", "delivered"]
    repo: str
    message_id: str
    sender: str
    path: Path | None
    """The destination; `None` for a stream."""
    payload_digest: Digest | None
    expires: datetime | None
    """When the row may be deleted, after the minimum times above; `None`: never."""
    delivered_at: datetime | None
    """When it was first delivered. Stays while it is delivered again."""


class DeliveryRows:
    """The table `deliveries`. Each method is one transaction, on disk when it returns."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def batch(self) -> AbstractContextManager[object]:
        """Return a block whose calls of these methods are one transaction.

        Send no request to a registry inside: every other process waits for the block.
        """
        return self._database.transaction()

    def begin_delivery(
        self,
        me: str,
        digest: Digest,
        *,
        repo: str,
        message_id: str,
        sender: str,
        path: Path | None,
        payload_digest: Digest | None,
        expires: datetime | None,
    ) -> None:
        """Record that the message is about to get its final name `path`."""
        with self._database.transaction():
            self._database.execute(
                """INSERT INTO deliveries VALUES (?, ?, ?, 'delivering', ?, ?, ?, ?, ?, ?, NULL)
                    ON CONFLICT (me, digest) DO UPDATE SET state = 'delivering',
                    repo = excluded.repo, path = excluded.path, expires = excluded.expires,
                    payload_digest = excluded.payload_digest""",
                (
                    me,
                    digest,
                    head_of(digest),
                    repo,
                    message_id,
                    sender,
                    path,
                    payload_digest,
                    expires,
                ),
            )
            self._mirror(me, digest, "delivering")

    def finish_delivery(self, me: str, digest: Digest, at: datetime) -> None:
        """Record that the message is delivered; the time of the first delivery stays."""
        with self._database.transaction():
            self._database.execute(
                """UPDATE deliveries SET state = 'delivered',
                    delivered_at = COALESCE(delivered_at, ?) WHERE me = ? AND digest = ?""",
                (at, me, digest),
            )
            self._mirror(me, digest, "delivered")

    def forget_delivery(self, me: str, digest: Digest) -> None:
        """Record that the current delivery failed; an earlier one stays delivered."""
        with self._database.transaction():
            gone = self._database.execute(
                "DELETE FROM deliveries WHERE me = ? AND digest = ? AND delivered_at IS NULL",
                (me, digest),
            )
            self._database.execute(
                "UPDATE deliveries SET state = 'delivered' WHERE me = ? AND digest = ?",
                (me, digest),
            )
            if gone:
                self._mirror(me, digest, "new")
            else:
                self._mirror(me, digest, "delivered", was="delivering")

    def delivering(self, me: str) -> tuple[Delivery, ...]:
        """Return the deliveries that a run began and did not finish."""
        sql = "SELECT * FROM deliveries WHERE me = ? AND state = 'delivering' ORDER BY digest"
        return self._database.rows_as(Delivery, sql, (me,))

    def delivery(self, me: str, digest: Digest) -> Delivery | None:
        """Return the delivery of a message, `None` if it has no row."""
        sql = "SELECT * FROM deliveries WHERE me = ? AND digest = ?"
        return self._database.row_as(Delivery, sql, (me, digest))

    def is_taken(self, path: Path, *, but: Digest) -> bool:
        """Return whether another message than `but` was delivered to `path` or below it."""
        raw = os.fsencode(path)
        below = raw + os.fsencode(os.sep)
        row = self._database.row(
            """SELECT 1 FROM deliveries WHERE state = 'delivered' AND digest != ?
                AND (path = ? OR substr(path, 1, ?) = ?) LIMIT 1""",
            (but, raw, len(below), below),
        )
        return row is not None

    def sweep_deliveries(self, *, now: datetime) -> None:
        """Delete deliveries of messages that expired long ago, at the earliest after 90 days."""
        with self._database.transaction():
            swept = self._database.execute(
                """DELETE FROM deliveries
                    WHERE state = 'delivered' AND expires < ? AND delivered_at < ?""",
                (now - KEEP_AFTER_EXPIRY, now - timedelta(seconds=KEEP_DELIVERED_SECONDS)),
            )
            if swept:
                self._database.execute(
                    """DELETE FROM candidates WHERE state = 'delivered' AND NOT EXISTS
                        (SELECT 1 FROM deliveries AS d
                         WHERE d.me = candidates.me AND d.digest = candidates.digest)"""
                )

    def _mirror(self, me: str, digest: Digest, state: str, *, was: str | None = None) -> None:
        """Give the candidates of `digest`, in every repository, the state of its delivery.

        Queries then find unfinished rows without reading the finished ones.
        """
        self._database.execute(
            """UPDATE candidates SET state = ?, reason_kind = '', reason = '', next_try = NULL
                WHERE me = ? AND digest = ? AND state != 'joined' AND state = COALESCE(?, state)""",
            (state, me, digest, was),
        )


def head_of(digest: Digest) -> str:
    """Return the first 16 hex digits of a digest, with which a message's tag ends."""
    return digest.partition(":")[2][:16]


HANDOVER_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS owed (
        me TEXT NOT NULL,
        digest TEXT NOT NULL,
        repo TEXT NOT NULL,
        descriptor TEXT NOT NULL,
        signer TEXT,
        since REAL NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (me, digest)
    ) WITHOUT ROWID""",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """A message on disk whose command has not ended yet."""

    me: str
    digest: Digest
    repo: str
    descriptor: Descriptor
    """The message's, with its annotations: the command and the receipt need no more."""
    signer: str | None
    """The verified name of the sender at the delivery; `None`: the sender is unverified."""
    attempts: int
    """The number of times that the command was started for it."""


class HandoverRows:
    """The table `owed`. Each method is one transaction, on disk when it returns."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def owe(
        self, me: str, descriptor: Descriptor, *, repo: str, signer: str | None, now: datetime
    ) -> None:
        """Record that a command must run for a message; call it in the delivery's transaction."""
        self._database.execute(
            "INSERT OR REPLACE INTO owed VALUES (?, ?, ?, ?, ?, ?, 0)",
            (me, descriptor.digest, repo, descriptor, signer, now),
        )

    def owed(self, me: str, repo: str) -> tuple[Handover, ...]:
        """Return the messages whose command must still run, oldest first."""
        sql = "SELECT * FROM owed WHERE me = ? AND repo = ? ORDER BY since, digest"
        return self._database.rows_as(Handover, sql, (me, repo))

    def begin(self, me: str, digest: Digest) -> Handover | None:
        """Count one more attempt; return `None` if the message has no row (any more)."""
        with self._database.transaction():
            self._database.execute(
                "UPDATE owed SET attempts = attempts + 1 WHERE me = ? AND digest = ?",
                (me, digest),
            )
            sql = "SELECT * FROM owed WHERE me = ? AND digest = ?"
            return self._database.row_as(Handover, sql, (me, digest))

    def settle(self, me: str, digest: Digest) -> None:
        """Delete the row of a finished command; call it in the receipt's transaction."""
        self._database.execute("DELETE FROM owed WHERE me = ? AND digest = ?", (me, digest))

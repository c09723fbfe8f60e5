"""The rows of sent messages, kept as long as the sender may ask for their receipts."""

from __future__ import annotations

from dataclasses import astuple
from datetime import datetime, timedelta

from dockercomms.oci.model import Digest
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.header import KEEP_DELIVERED_SECONDS
from dockercomms.state.database import Database
from dockercomms.state.deliveries import KEEP_AFTER_EXPIRY

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS outbox (
        id TEXT PRIMARY KEY,
        repo TEXT NOT NULL,
        digest TEXT NOT NULL,
        tag TEXT NOT NULL,
        sender TEXT NOT NULL,
        recipient TEXT NOT NULL,
        title TEXT NOT NULL,
        filename TEXT NOT NULL,
        bytes INTEGER NOT NULL,
        thread TEXT NOT NULL,
        published REAL NOT NULL,
        expires REAL NOT NULL
    )""",
    "CREATE INDEX IF NOT EXISTS outbox_repo ON outbox (repo, published)",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxRow:
    """One sent message."""

    id: str
    repo: str
    digest: Digest
    tag: str
    sender: str
    recipient: str
    title: str
    """Empty if the message has no title."""
    filename: str
    bytes: int
    thread: str
    published: datetime
    expires: datetime


class OutboxRows:
    """The table `outbox`. Each method is one transaction, on disk when it returns."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, row: OutboxRow, *, now: datetime | None = None) -> None:
        """Record a published message, and delete old rows of expired messages.

        Args:
            row: The message.
            now: The time for the deletion; `None`: delete no rows.
        """
        with self._database.transaction():
            self._database.execute(
                "INSERT OR REPLACE INTO outbox VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                astuple(row),
            )
            if now is not None:
                old = now - timedelta(seconds=KEEP_DELIVERED_SECONDS)
                self._database.execute(
                    "DELETE FROM outbox WHERE published < ? AND expires < ?",
                    (old, now - KEEP_AFTER_EXPIRY),
                )

    def sender_of(self, message_id: str, digest: Digest) -> str | None:
        """Return the sender's name of a message that this machine sent, otherwise `None`."""
        row = self._database.row(
            "SELECT sender FROM outbox WHERE id = ? AND digest = ?", (message_id, digest)
        )
        return None if row is None else str(row["sender"])

    def rows(self, repo: str) -> tuple[OutboxRow, ...]:
        """Return the messages sent to a repository, oldest first."""
        sql = "SELECT * FROM outbox WHERE repo = ? ORDER BY published, rowid"
        return self._database.rows_as(OutboxRow, sql, (repo,))

    def elsewhere(self, repo: str) -> dict[str, int]:
        """Return the number of messages sent to each other repository."""
        found = self._database.rows(
            "SELECT repo, COUNT(*) AS number FROM outbox WHERE repo != ? GROUP BY repo", (repo,)
        )
        return {row["repo"]: row["number"] for row in found}

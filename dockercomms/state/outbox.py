"""What was sent from this machine, as long as answers to it may be asked for."""

from __future__ import annotations

import sqlite3
from dataclasses import astuple, fields
from datetime import datetime, timedelta

from dockercomms.oci.model import Digest
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.header import KEEP_DELIVERED_SECONDS
from dockercomms.state.database import Database, from_unix, to_unix
from dockercomms.state.deliveries import KEEP_AFTER_EXPIRY, storable

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
    """One message that was sent."""

    id: str
    repo: str
    digest: Digest
    tag: str
    sender: str
    recipient: str
    title: str
    """"" where it has none."""
    filename: str
    bytes: int
    thread: str
    published: datetime
    expires: datetime


class OutboxRows:
    """The table above. Each method is one transaction, on disk when it returns.

    Every method may raise `LocalIOError` (see `Database`).
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, row: OutboxRow, *, now: datetime | None = None) -> None:
        """Note that a message is published, and forget what is old and has expired.

        Args:
            row: The message.
            now: What is old is told by this time; None: nothing is forgotten.
        """
        values = [to_unix(v) if isinstance(v, datetime) else v for v in astuple(row)]
        marks = ", ".join("?" * len(values))
        with self._database.transaction() as connection:
            connection.execute(
                f"INSERT OR REPLACE INTO outbox VALUES ({marks})",  # noqa: S608 - ?, ?
                [storable(value) if isinstance(value, str) else value for value in values],
            )
            if now is not None:
                old = now - timedelta(seconds=KEEP_DELIVERED_SECONDS)
                connection.execute(
                    "DELETE FROM outbox WHERE published < ? AND expires < ?",
                    (to_unix(old), to_unix(now - KEEP_AFTER_EXPIRY)),
                )

    def sender_of(self, message_id: str, digest: Digest) -> str | None:
        """Return the name under which a message was sent from here; None: it was not."""
        row = self._database.row(
            "SELECT sender FROM outbox WHERE id = ? AND digest = ?", (storable(message_id), digest)
        )
        return None if row is None else str(row["sender"])

    def rows(self, repo: str) -> tuple[OutboxRow, ...]:
        """Return what was sent to a repository, oldest first."""
        found = self._database.rows(
            "SELECT * FROM outbox WHERE repo = ? ORDER BY published, rowid", (repo,)
        )
        return tuple(_outbox_row(row) for row in found)

    def elsewhere(self, repo: str) -> dict[str, int]:
        """Return how many messages were sent to each other repository."""
        found = self._database.rows(
            "SELECT repo, COUNT(*) AS number FROM outbox WHERE repo != ? GROUP BY repo", (repo,)
        )
        return {row["repo"]: row["number"] for row in found}


def _outbox_row(row: sqlite3.Row) -> OutboxRow:
    values = {field.name: row[field.name] for field in fields(OutboxRow)}
    values["digest"] = Digest(row["digest"])
    values["published"] = from_unix(row["published"])
    values["expires"] = from_unix(row["expires"])
    return OutboxRow(**values)

"""Messages that were delivered for a command, until the command has ended.

A row is made in the transaction that notes the delivery and goes in the one that stores the
receipt, so that a crash in between is found: the command is then run again. Source: SPEC.md
section 8.
"""

from __future__ import annotations

import json
import sqlite3
from datetime import datetime

from dockercomms.oci.model import Descriptor, Digest
from dockercomms.records import dataclass
from dockercomms.state.database import Database, to_unix
from dockercomms.state.delivery_rows import storable

SCHEMA = (
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
    """A message on disk that a command has not been done with yet."""

    me: str
    digest: Digest
    repo: str
    descriptor: Descriptor
    """The message's, with its annotations: all that its command and its receipt need."""
    signer: str | None
    """The verified name of its sender when it was delivered; None: who sent it is a claim."""
    attempts: int
    """How often a command was started for it."""


class HandoverRows:
    """The table above. Each method is one transaction, on disk when it returns.

    Every method may raise `LocalIOError` (see `Database`).
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def owe(
        self, me: str, descriptor: Descriptor, *, repo: str, signer: str | None, now: datetime
    ) -> None:
        """Note that a command is to be run for a message; call it with its delivery."""
        self._database.execute(
            "INSERT OR REPLACE INTO owed VALUES (?, ?, ?, ?, ?, ?, 0)",
            (
                me,
                descriptor.digest,
                repo,
                json.dumps(descriptor.to_json()),
                None if signer is None else storable(signer),
                to_unix(now),
            ),
        )

    def owed(self, me: str, repo: str) -> tuple[Handover, ...]:
        """Return what commands are still to be run for, oldest first."""
        rows = self._database.rows(
            "SELECT * FROM owed WHERE me = ? AND repo = ? ORDER BY since, digest",
            (me, repo),
        )
        return tuple(_handover(row) for row in rows)

    def begin(self, me: str, digest: Digest) -> Handover | None:
        """Count one more attempt; None if nothing is owed (any more)."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE owed SET attempts = attempts + 1 WHERE me = ? AND digest = ?",
                (me, digest),
            )
            row = connection.execute(
                "SELECT * FROM owed WHERE me = ? AND digest = ?", (me, digest)
            ).fetchone()
        return None if row is None else _handover(row)

    def settle(self, me: str, digest: Digest) -> None:
        """Note that the command has ended; call it with its receipt."""
        self._database.execute("DELETE FROM owed WHERE me = ? AND digest = ?", (me, digest))


def _handover(row: sqlite3.Row) -> Handover:
    return Handover(
        me=row["me"],
        digest=Digest(row["digest"]),
        repo=row["repo"],
        descriptor=Descriptor.from_json(json.loads(row["descriptor"]), "state"),
        signer=row["signer"],
        attempts=row["attempts"],
    )

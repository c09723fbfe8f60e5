"""Rows of objects at which a defect of dockercomms was met: later runs do not fail anew."""

from __future__ import annotations

from datetime import datetime, timedelta

from dockercomms.state.database import Database, to_unix
from dockercomms.state.deliveries import storable

KEEP_DEFECTS = timedelta(days=90)
"""After so long it is told again, if it is still there."""

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS defects (
        repo TEXT NOT NULL,
        what TEXT NOT NULL,
        met REAL NOT NULL,
        PRIMARY KEY (repo, what)
    )""",
)


class DefectRows:
    """The objects of every repository. Every method may raise `LocalIOError`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, repo: str, what: str, *, now: datetime) -> bool:
        """Remember an object; return whether it was not known."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM defects WHERE met < ?", (to_unix(now - KEEP_DEFECTS),))
            done = connection.execute(
                "INSERT OR IGNORE INTO defects VALUES (?, ?, ?)",
                (repo, storable(what), to_unix(now)),
            )
            return done.rowcount > 0

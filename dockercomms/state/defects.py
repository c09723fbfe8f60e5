"""The rows of objects that showed a defect of dockercomms, so that each is reported once."""

from __future__ import annotations

from datetime import datetime, timedelta

from dockercomms.state.database import Database

KEEP_DEFECTS = timedelta(days=90)
"""A defect is reported again after this time, if it is still there."""

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS defects (
        repo TEXT NOT NULL,
        what TEXT NOT NULL,
        met REAL NOT NULL,
        PRIMARY KEY (repo, what)
    )""",
)


class DefectRows:
    """The table `defects`, for all repositories."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, repo: str, what: str, *, now: datetime) -> bool:
        """Record an object; return whether it is new."""
        with self._database.transaction():
            self._database.execute("DELETE FROM defects WHERE met < ?", (now - KEEP_DEFECTS,))
            sql = "INSERT OR IGNORE INTO defects VALUES (?, ?, ?)"
            return self._database.execute(sql, (repo, what, now)) > 0

"""Payloads that are on their way to disk: which file, and which chunks it holds already.

The rows of a receive that was killed are what lets the next one go on. They are a claim: what is in
the file is hashed from there before anything is believed (see `transport.pulling`).

Source: SPEC.md section 8.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from pathlib import Path

from dockercomms.state.database import Database, to_unix

SCHEMA = (
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
"""How long a file that is not whole is kept for the next run: as long as an interrupted send."""


class PullRows:
    """The tables above, by the key of a delivery; whoever holds its lock writes.

    Nothing is waited for until it is on the disk: what a power failure takes is fetched again.
    Every method may raise `LocalIOError` (see `Database`).
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, key: str, path: Path, *, now: datetime) -> None:
        """Note that the payload goes into the new file `path`."""
        with self._database.transaction(durable=False) as connection:
            connection.execute("DELETE FROM pull_chunks WHERE key = ?", (key,))
            connection.execute(
                "INSERT OR REPLACE INTO pulls VALUES (?, ?, ?)",
                (key, os.fsencode(path), to_unix(now)),
            )

    def path(self, key: str, *, now: datetime) -> Path | None:
        """Return the file that an earlier run left, if it is not too old to be gone on with."""
        row = self._database.row(
            "SELECT path FROM pulls WHERE key = ? AND started > ?", (key, to_unix(now - KEEP_PULL))
        )
        return None if row is None else Path(os.fsdecode(row["path"]))

    def chunks(self, key: str) -> frozenset[int]:
        """Return the indexes of the chunks that are in the file."""
        rows = self._database.rows("SELECT chunk FROM pull_chunks WHERE key = ?", (key,))
        return frozenset(row["chunk"] for row in rows)

    def record(self, key: str, chunk: int) -> None:
        """Note that a chunk is in the file."""
        with self._database.transaction(durable=False) as connection:
            connection.execute("INSERT OR IGNORE INTO pull_chunks VALUES (?, ?)", (key, chunk))

    def forget_chunks(self, key: str) -> None:
        """Note that nothing in the file is to be believed."""
        with self._database.transaction(durable=False) as connection:
            connection.execute("DELETE FROM pull_chunks WHERE key = ?", (key,))

    def forget(self, key: str) -> None:
        """Note that there is no such file any more; asks first, as most messages never had one."""
        if self._database.row("SELECT 1 FROM pulls WHERE key = ?", (key,)) is None:
            return
        with self._database.transaction(durable=False) as connection:
            connection.execute("DELETE FROM pull_chunks WHERE key = ?", (key,))
            connection.execute("DELETE FROM pulls WHERE key = ?", (key,))

    def sweep(self, *, now: datetime) -> None:
        """Forget what nobody goes on with any more; its files are leftovers from then on."""
        old = self._database.rows(
            "SELECT key FROM pulls WHERE started <= ?", (to_unix(now - KEEP_PULL),)
        )
        for row in old:
            self.forget(row["key"])

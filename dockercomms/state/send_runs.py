"""The rows of `send` runs: the recipients already served, until the caller knows the result.

A run may have several recipients. It ends when its caller knows that all of them were served. If an
earlier run was killed or failed for one recipient, the user repeats it: a recipient who was served
gets no second message (SPEC.md section 6.2).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import astuple, field
from datetime import date, datetime, timedelta
from pathlib import Path

from dockercomms.platforms.records import dataclass
from dockercomms.protocol.header import CONTINUE_SEND_SECONDS
from dockercomms.state.database import Database
from dockercomms.state.locks import try_lock
from dockercomms.state.values import from_row

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS served (
        send TEXT PRIMARY KEY,
        run TEXT NOT NULL,
        recipients TEXT NOT NULL,
        source TEXT NOT NULL,
        manifest BLOB NOT NULL,
        day TEXT NOT NULL,
        tag TEXT NOT NULL,
        published REAL NOT NULL
    ) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS served_source ON served (source, recipients)",
    "CREATE INDEX IF NOT EXISTS served_published ON served (published)",
)


@dataclass(frozen=True, slots=True)
class SendRun:
    """One run: its recipients, and a lock that shows that it is alive."""

    id: str
    recipients: str
    """Equal for two runs to the same recipients."""


@dataclass(frozen=True, slots=True)
class Served:
    """A message that an earlier run published."""

    manifest: bytes = field(repr=False)
    day: date
    tag: str


@dataclass(frozen=True, slots=True)
class SendRuns:
    """The table `served`. Each method is one transaction, on disk when it returns."""

    database: Database

    @contextlib.contextmanager
    def open(self, recipients: Iterable[str]) -> Iterator[SendRun]:
        """Yield a new run; it counts as alive during the block."""
        names = json.dumps(sorted(set(recipients))).encode("ascii")
        run = SendRun(f"run-{uuid.uuid4()}", hashlib.sha256(names).hexdigest())
        with try_lock(self._lock_path(run.id)):
            yield run

    def served(self, run: SendRun, source: str, *, now: datetime) -> Served | None:
        """Return the message that an unfinished run to the same recipients published of a source.

        The message moves to this run. A run that is alive is never joined; after 24 hours a run
        counts as finished.

        Args:
            run: The run that asks.
            source: The key of source, recipient and options.
            now: The time.
        """
        since = now - timedelta(seconds=CONTINUE_SEND_SECONDS)
        found: Served | None = None
        for row in self.database.rows(
            """SELECT * FROM served WHERE source = ? AND recipients = ? AND published > ?
                ORDER BY published, send""",
            (source, run.recipients, since),
        ):
            with try_lock(self._lock_path(row["run"])) as is_dead:
                # A run that ended since the query has deleted its row, and must not be joined.
                taken = is_dead and self.database.execute(
                    "UPDATE served SET run = ? WHERE send = ? AND run = ?",
                    (run.id, row["send"], row["run"]),
                )
                if taken:
                    found = found or from_row(Served, row)
        return found

    def record(
        self, run: SendRun, send: str, source: str, served: Served, *, now: datetime
    ) -> None:
        """Store a published message until the run ends."""
        self.database.execute(
            "INSERT OR REPLACE INTO served VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (send, run.id, run.recipients, source, *astuple(served), now),
        )

    def forget(self, source: str) -> None:
        """Delete the row of a source, so that it can be sent again."""
        self.database.execute("DELETE FROM served WHERE source = ?", (source,))

    def end(self, run: SendRun) -> None:
        """Record that the caller knows the result: all recipients were served.

        A power failure may lose this; the next run then finds that they were served.
        """
        self.database.execute("DELETE FROM served WHERE run = ?", (run.id,), durable=False)

    def _lock_path(self, run: str) -> Path:
        return self.database.path.parent / "sends" / f"{run}.lock"

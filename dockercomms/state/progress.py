"""The rows of repositories and inboxes: abilities of registries, and the progress of discovery.

Source: SPEC.md section 7.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from dataclasses import astuple
from datetime import date, datetime, timedelta
from typing import Literal

from dockercomms.errors import LocalIOError
from dockercomms.oci.model import Digest
from dockercomms.platforms.clock import Clock
from dockercomms.platforms.records import dataclass
from dockercomms.state.database import Database
from dockercomms.state.values import to_unix

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS repositories (
        repo TEXT PRIMARY KEY,
        referrers INTEGER,
        seek INTEGER,
        bell INTEGER,
        probed_at REAL
    )""",
    """CREATE TABLE IF NOT EXISTS inboxes (
        me TEXT NOT NULL,
        repo TEXT NOT NULL,
        bell TEXT,
        day TEXT,
        reconciled_at REAL,
        full_pass_at REAL,
        bell_searched_at REAL,
        PRIMARY KEY (me, repo)
    )""",
    # The largest request of a registry that refused a larger one; trusted as long as abilities.
    """CREATE TABLE IF NOT EXISTS pieces (
        host TEXT PRIMARY KEY,
        largest INTEGER NOT NULL,
        noted_at REAL NOT NULL
    ) WITHOUT ROWID""",
    # Never expires: every registry takes the image form, and a new try would only cost a refusal.
    """CREATE TABLE IF NOT EXISTS image_forms (
        repo TEXT PRIMARY KEY,
        needed INTEGER NOT NULL
    ) WITHOUT ROWID""",
    # A row stays until a run has found the messages of this inbox that were received elsewhere.
    """CREATE TABLE IF NOT EXISTS first_looks (
        me TEXT NOT NULL,
        repo TEXT NOT NULL,
        began REAL NOT NULL,
        PRIMARY KEY (me, repo)
    ) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS anchors (
        me TEXT NOT NULL,
        repo TEXT NOT NULL,
        day TEXT NOT NULL,
        PRIMARY KEY (me, repo, day)
    ) WITHOUT ROWID""",
)


ImageForm = Literal["needed", "seen"]
"""The image form (SPEC.md 2.9) in a repository: it takes no other, or has messages in it."""

BELIEVED = timedelta(days=1)
"""The time for which known abilities of a repository are trusted; registries are upgraded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """The known abilities of a repository; `None` for an unknown one."""

    referrers: bool | None = None
    seek: bool | None = None
    """The registry lists tags in byte order, and obeys `last`."""
    bell: bool | None = None
    """The registry lets senders move the bell tag."""
    probed_at: datetime | None = None
    """When the first of these was found; all of them are asked for again after a day."""

    def believed(self, now: datetime) -> Capabilities:
        """Return the abilities, or unknown ones after a day or if our clock was set back."""
        age = None if self.probed_at is None else now - self.probed_at
        if age is not None and timedelta(0) <= age < BELIEVED:
            return self
        return Capabilities(probed_at=now)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The progress of discovery in one inbox."""

    bell: Digest | None = None
    """The digest under the bell tag before the last complete pass."""
    day: date | None = None
    """The registry's day at the start of the last complete pass."""
    reconciled_at: datetime | None = None
    """When the last complete pass was."""
    full_pass_at: datetime | None = None
    """When the last complete pass over the whole inbox was."""
    bell_searched_at: datetime | None = None
    """When discovery last searched for a digest that only the bell tag named."""


class PieceLimits:
    """The table `pieces` as `PieceMemory` of the uploads; errors of the file count as unknown.

    Args:
        rows: The rows.
        clock: The time.
    """

    def __init__(self, rows: ProgressRows, clock: Clock) -> None:
        self._rows = rows
        self._clock = clock

    def largest_piece(self, host: str, /) -> int | None:
        """Return the size in bytes; see `ProgressRows.largest_piece`."""
        with contextlib.suppress(LocalIOError):
            return self._rows.largest_piece(host, self._clock.now())
        return None

    def note_largest_piece(self, host: str, size: int, /) -> None:
        """Record the size in bytes; see `ProgressRows.note_largest_piece`."""
        with contextlib.suppress(LocalIOError):
            self._rows.note_largest_piece(host, size, self._clock.now())


class ProgressRows:
    """The tables above. Each method is one transaction, on disk when it returns."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def capabilities(self, repo: str) -> Capabilities:
        """Return the known abilities of a repository."""
        sql = "SELECT * FROM repositories WHERE repo = ?"
        return self._database.row_as(Capabilities, sql, (repo,)) or Capabilities()

    def set_capabilities(self, repo: str, capabilities: Capabilities) -> None:
        """Replace the known abilities of a repository."""
        self._database.execute(
            "INSERT OR REPLACE INTO repositories VALUES (?, ?, ?, ?, ?)",
            (repo, *astuple(capabilities)),
        )

    def largest_piece(self, host: str, now: datetime) -> int | None:
        """Return the most bytes that a registry takes in one request, as found in the last day."""
        row = self._database.row("SELECT * FROM pieces WHERE host = ?", (host,))
        if row is None or not 0 <= to_unix(now) - row["noted_at"] < BELIEVED.total_seconds():
            return None
        return int(row["largest"])

    def note_largest_piece(self, host: str, size: int, now: datetime) -> None:
        """Record the most bytes that a registry takes in one request."""
        values = (host, size, now)
        self._database.execute("INSERT OR REPLACE INTO pieces VALUES (?, ?, ?)", values)

    def image_form(self, repo: str) -> ImageForm | None:
        """Return the state of the image form in a repository, `None` if unknown."""
        row = self._database.row("SELECT needed FROM image_forms WHERE repo = ?", (repo,))
        if row is None:
            return None
        return "needed" if row["needed"] else "seen"

    def note_image_form(self, repo: str, how: ImageForm) -> None:
        """Record that manifests in image form were seen, or that a repository takes no others."""
        if self.image_form(repo) in (how, "needed"):
            return
        self._database.execute(
            "INSERT OR REPLACE INTO image_forms VALUES (?, ?)", (repo, how == "needed")
        )

    def progress(self, me: str, repo: str) -> Progress:
        """Return the progress of discovery in the inbox of `me` in `repo`."""
        sql = "SELECT * FROM inboxes WHERE me = ? AND repo = ?"
        return self._database.row_as(Progress, sql, (me, repo)) or Progress()

    def set_progress(self, me: str, repo: str, progress: Progress) -> None:
        """Replace the progress of discovery; call it after the candidates were written."""
        self._database.execute(
            "INSERT OR REPLACE INTO inboxes VALUES (?, ?, ?, ?, ?, ?, ?)",
            (me, repo, *astuple(progress)),
        )

    def begin_first_look(self, me: str, repo: str, *, now: datetime) -> None:
        """Record that the first look at the inbox begins, unless the inbox is known."""
        if self._database.row("SELECT 1 FROM inboxes WHERE me = ? AND repo = ?", (me, repo)):
            return
        self._database.execute(
            """INSERT OR IGNORE INTO first_looks SELECT :me, :repo, :now WHERE NOT EXISTS
                (SELECT 1 FROM candidates WHERE me = :me AND repo = :repo)""",
            {"me": me, "repo": repo, "now": now},
        )

    def is_first_look(self, me: str, repo: str) -> bool:
        """Return whether the first look at the inbox has begun and not ended."""
        sql = "SELECT 1 FROM first_looks WHERE me = ? AND repo = ?"
        return self._database.row(sql, (me, repo)) is not None

    def end_first_look(self, me: str, repo: str) -> None:
        """Record that the first look at the inbox has ended."""
        self._database.execute("DELETE FROM first_looks WHERE me = ? AND repo = ?", (me, repo))

    def anchors(self, me: str, repo: str) -> frozenset[date]:
        """Return the days whose anchors were seen."""
        rows = self._database.rows("SELECT day FROM anchors WHERE me = ? AND repo = ?", (me, repo))
        return frozenset(date.fromisoformat(row["day"]) for row in rows)

    def set_anchors(self, me: str, repo: str, days: Collection[date]) -> None:
        """Replace the days whose anchors were seen; write only if they differ."""
        if self.anchors(me, repo) == frozenset(days):
            return
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM anchors WHERE me = ? AND repo = ?", (me, repo))
            connection.executemany(
                "INSERT INTO anchors VALUES (?, ?, ?)",
                [(me, repo, day.isoformat()) for day in sorted(days)],
            )

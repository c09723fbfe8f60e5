"""What is known of a repository, and how far discovery got in an inbox.

Source: SPEC.md section 7.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from datetime import date, datetime, timedelta
from typing import Literal

from dockercomms.errors import LocalIOError
from dockercomms.oci.model import Digest
from dockercomms.platforms.clock import Clock
from dockercomms.platforms.records import dataclass
from dockercomms.state.database import Database, from_unix, to_unix

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
    # Below what a registry refused in one request; believed as long as the capabilities.
    """CREATE TABLE IF NOT EXISTS pieces (
        host TEXT PRIMARY KEY,
        largest INTEGER NOT NULL,
        noted_at REAL NOT NULL
    ) WITHOUT ROWID""",
    # For good: the image form is taken everywhere, so that asking again would only cost a refusal.
    """CREATE TABLE IF NOT EXISTS image_forms (
        repo TEXT PRIMARY KEY,
        needed INTEGER NOT NULL
    ) WITHOUT ROWID""",
    # A row as long as nobody has found out which of its messages were received elsewhere.
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
"""What is known of the image form (SPEC.md 2.9) in a repository: it takes no other, or it has
messages in it."""

BELIEVED = timedelta(days=1)
"""How long it is believed what a repository can do; registries are upgraded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a repository was found able to do; None where nobody knows yet."""

    referrers: bool | None = None
    seek: bool | None = None
    """Tags come in byte order, and `last` is obeyed."""
    bell: bool | None = None
    """The bell tag may be moved."""
    probed_at: datetime | None = None
    """When the first of this was found out; all of it is asked again after a day."""

    def believed(self, now: datetime) -> Capabilities:
        """Return what of this is not too old; nothing either if our clock was set back since."""
        age = None if self.probed_at is None else now - self.probed_at
        if age is not None and timedelta(0) <= age < BELIEVED:
            return self
        return Capabilities(probed_at=now)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far discovery got in one inbox."""

    bell: Digest | None = None
    """What the bell said before the last complete pass."""
    day: date | None = None
    """The registry's day at the start of the last complete pass."""
    reconciled_at: datetime | None = None
    """When the last complete pass was."""
    full_pass_at: datetime | None = None
    """When the last complete pass over the whole inbox was."""
    bell_searched_at: datetime | None = None
    """When a digest that only the bell named was searched for last."""


class PieceLimits:
    """The `pieces` as `oci.pushing.PieceMemory`: what cannot be read or written is not known.

    Args:
        rows: Holds them.
        clock: The time.
    """

    def __init__(self, rows: ProgressRows, clock: Clock) -> None:
        self._rows = rows
        self._clock = clock

    def largest_piece(self, host: str, /) -> int | None:
        """Return the bytes; see `ProgressRows.largest_piece`."""
        with contextlib.suppress(LocalIOError):
            return self._rows.largest_piece(host, self._clock.now())
        return None

    def note_largest_piece(self, host: str, size: int, /) -> None:
        """Remember the bytes; see `ProgressRows.note_largest_piece`."""
        with contextlib.suppress(LocalIOError):
            self._rows.note_largest_piece(host, size, self._clock.now())


class ProgressRows:
    """The tables above. Each method is one transaction, on disk when it returns.

    Every method may raise `LocalIOError` (see `Database`).
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def capabilities(self, repo: str) -> Capabilities:
        """Return what is known of a repository."""
        row = self._database.row("SELECT * FROM repositories WHERE repo = ?", (repo,))
        if row is None:
            return Capabilities()
        return Capabilities(
            referrers=_flag(row["referrers"]),
            seek=_flag(row["seek"]),
            bell=_flag(row["bell"]),
            probed_at=from_unix(row["probed_at"]),
        )

    def set_capabilities(self, repo: str, capabilities: Capabilities) -> None:
        """Replace what is known of a repository."""
        self._database.execute(
            "INSERT OR REPLACE INTO repositories VALUES (?, ?, ?, ?, ?)",
            (
                repo,
                capabilities.referrers,
                capabilities.seek,
                capabilities.bell,
                to_unix(capabilities.probed_at),
            ),
        )

    def largest_piece(self, host: str, now: datetime) -> int | None:
        """Return the most bytes that a registry takes in one request, as found out in a day."""
        row = self._database.row("SELECT * FROM pieces WHERE host = ?", (host,))
        if row is None or not 0 <= to_unix(now) - row["noted_at"] < BELIEVED.total_seconds():
            return None
        return int(row["largest"])

    def note_largest_piece(self, host: str, size: int, now: datetime) -> None:
        """Note the most bytes that a registry takes in one request."""
        values = (host, size, to_unix(now))
        self._database.execute("INSERT OR REPLACE INTO pieces VALUES (?, ?, ?)", values)

    def image_form(self, repo: str) -> ImageForm | None:
        """Return whether a repository needs our manifests in image form, or has some."""
        row = self._database.row("SELECT needed FROM image_forms WHERE repo = ?", (repo,))
        if row is None:
            return None
        return "needed" if row["needed"] else "seen"

    def note_image_form(self, repo: str, how: ImageForm) -> None:
        """Note that manifests in image form were seen, or that a repository takes no others."""
        if self.image_form(repo) in (how, "needed"):
            return
        self._database.execute(
            "INSERT OR REPLACE INTO image_forms VALUES (?, ?)", (repo, how == "needed")
        )

    def progress(self, me: str, repo: str) -> Progress:
        """Return how far discovery got in the inbox of `me` in `repo`."""
        row = self._database.row("SELECT * FROM inboxes WHERE me = ? AND repo = ?", (me, repo))
        if row is None:
            return Progress()
        return Progress(
            bell=None if row["bell"] is None else Digest(row["bell"]),
            day=None if row["day"] is None else date.fromisoformat(row["day"]),
            reconciled_at=from_unix(row["reconciled_at"]),
            full_pass_at=from_unix(row["full_pass_at"]),
            bell_searched_at=from_unix(row["bell_searched_at"]),
        )

    def set_progress(self, me: str, repo: str, progress: Progress) -> None:
        """Replace how far discovery got; to be called after the candidates were written."""
        self._database.execute(
            "INSERT OR REPLACE INTO inboxes VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                me,
                repo,
                progress.bell,
                None if progress.day is None else progress.day.isoformat(),
                to_unix(progress.reconciled_at),
                to_unix(progress.full_pass_at),
                to_unix(progress.bell_searched_at),
            ),
        )

    def begin_first_look(self, me: str, repo: str, *, now: datetime) -> None:
        """Note that the inbox is looked at for the first time, unless it has been before."""
        if self._database.row("SELECT 1 FROM inboxes WHERE me = ? AND repo = ?", (me, repo)):
            return
        self._database.execute(
            """INSERT OR IGNORE INTO first_looks SELECT :me, :repo, :now WHERE NOT EXISTS
                (SELECT 1 FROM candidates WHERE me = :me AND repo = :repo)""",
            {"me": me, "repo": repo, "now": to_unix(now)},
        )

    def is_first_look(self, me: str, repo: str) -> bool:
        """Return whether the first look at the inbox has not ended."""
        sql = "SELECT 1 FROM first_looks WHERE me = ? AND repo = ?"
        return self._database.row(sql, (me, repo)) is not None

    def end_first_look(self, me: str, repo: str) -> None:
        """Note that the first look at the inbox has ended."""
        self._database.execute("DELETE FROM first_looks WHERE me = ? AND repo = ?", (me, repo))

    def anchors(self, me: str, repo: str) -> frozenset[date]:
        """Return the days of which an anchor was seen."""
        rows = self._database.rows("SELECT day FROM anchors WHERE me = ? AND repo = ?", (me, repo))
        return frozenset(date.fromisoformat(row["day"]) for row in rows)

    def set_anchors(self, me: str, repo: str, days: Collection[date]) -> None:
        """Replace the days of which an anchor was seen; writes only if they differ."""
        if self.anchors(me, repo) == frozenset(days):
            return
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM anchors WHERE me = ? AND repo = ?", (me, repo))
            connection.executemany(
                "INSERT INTO anchors VALUES (?, ?, ?)",
                [(me, repo, day.isoformat()) for day in sorted(days)],
            )


def _flag(value: int | None) -> bool | None:
    return None if value is None else bool(value)

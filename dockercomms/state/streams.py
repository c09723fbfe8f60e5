"""Numbers of messages: those drawn for what is sent, and those seen in what was verified.

Each state draws a random stream for each sender, recipient and repository, and numbers its messages
from 1. A number that was drawn and never published is declared void by the next message, so that a
receiver sees a gap only where a message was withheld or lost. Source: SPEC.md section 9.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from datetime import datetime, timedelta
from itertools import pairwise

from dockercomms.oci.model import Digest
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.fields import MAX_VOID_RANGES, StreamPosition
from dockercomms.protocol.header import KEEP_DELIVERED_SECONDS
from dockercomms.state.database import Database, from_unix, to_unix
from dockercomms.state.deliveries import storable

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS streams (
        repo TEXT NOT NULL,
        sender TEXT NOT NULL,
        recipient TEXT NOT NULL,
        stream TEXT NOT NULL,
        last INTEGER NOT NULL,
        PRIMARY KEY (repo, sender, recipient)
    ) WITHOUT ROWID""",
    # `abandoned`: its send has failed. `declared`: the message that calls the number void.
    """CREATE TABLE IF NOT EXISTS open_numbers (
        stream TEXT NOT NULL,
        number INTEGER NOT NULL,
        message TEXT NOT NULL,
        drawn REAL NOT NULL,
        abandoned INTEGER NOT NULL DEFAULT 0,
        declared TEXT,
        PRIMARY KEY (stream, number)
    ) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS open_numbers_message ON open_numbers (message)",
    """CREATE TABLE IF NOT EXISTS seen_numbers (
        me TEXT NOT NULL,
        sender TEXT NOT NULL,
        stream TEXT NOT NULL,
        number INTEGER NOT NULL,
        digest TEXT NOT NULL,
        message TEXT NOT NULL,
        void TEXT NOT NULL,
        seen REAL NOT NULL,
        PRIMARY KEY (me, sender, stream, number)
    ) WITHOUT ROWID""",
)

ABANDONED_AFTER = timedelta(minutes=10)
"""A number is published seconds after it is drawn; later its process was killed, or is hung."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Messages of a sender that did not arrive, before one that did."""

    sender: str
    """Its verified name."""
    missing: int
    message: str
    """The id of the message after the gap."""
    digest: Digest
    """That of its manifest."""
    seen: datetime
    """When that one was verified."""


class StreamRows:
    """The tables above. Each method is one transaction, on disk when it returns.

    Every method may raise `LocalIOError` (see `Database`).
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    # --- what is sent ----------------------------------------------------------------------------

    def draw(
        self, message: str, repo: str, sender: str, recipient: str, *, now: datetime
    ) -> StreamPosition:
        """Return the number of a message that is about to be built; it is never drawn again.

        With it come the numbers before it that are void: drawn, and not published.
        """
        key = (repo, storable(sender), storable(recipient))
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO streams VALUES (?, ?, ?, ?, 0)",
                (*key, secrets.token_hex(16)),
            )
            stream, number = connection.execute(
                """UPDATE streams SET last = last + 1 WHERE repo = ? AND sender = ?
                    AND recipient = ? RETURNING stream, last""",
                key,
            ).fetchone()
            connection.execute(
                """UPDATE open_numbers SET declared = ? WHERE stream = ?
                    AND (abandoned OR drawn < ?)""",
                (message, stream, to_unix(now - ABANDONED_AFTER)),
            )
            void = connection.execute(
                "SELECT number FROM open_numbers WHERE declared = ? ORDER BY number", (message,)
            ).fetchall()
            connection.execute(
                "INSERT INTO open_numbers (stream, number, message, drawn) VALUES (?, ?, ?, ?)",
                (stream, number, message, to_unix(now)),
            )
        return StreamPosition(
            stream=stream, number=number, void=_ranges(row["number"] for row in void)
        )

    def abandon(self, message: str) -> None:
        """Note that a message was not published, so that the next one calls its number void."""
        self._database.execute(
            "UPDATE open_numbers SET abandoned = 1 WHERE message = ?", (message,)
        )

    def publish(self, message: str) -> None:
        """Note that a message is published: its number is used, and what it declares is said."""
        if self._database.row(
            "SELECT 1 FROM open_numbers WHERE message = ? OR declared = ?", (message, message)
        ):
            self._database.execute(
                "DELETE FROM open_numbers WHERE message = ? OR declared = ?", (message, message)
            )

    # --- what arrives ----------------------------------------------------------------------------

    def record(
        self,
        me: str,
        sender: str,
        position: StreamPosition,
        *,
        digest: Digest,
        message: str,
        now: datetime,
    ) -> None:
        """Note the number of a message whose sender was verified; the first one with it stays."""
        key = (me, storable(sender), position.stream, position.number)
        if self._database.row(
            "SELECT 1 FROM seen_numbers WHERE me = ? AND sender = ? AND stream = ? AND number = ?",
            key,
        ):
            return
        void = ",".join(f"{first}-{last}" for first, last in position.void)
        self._database.execute(
            "INSERT OR IGNORE INTO seen_numbers VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (*key, digest, storable(message), void, to_unix(now)),
        )

    def gaps(self, me: str) -> list[Gap]:
        """Return what did not arrive between the first and the last that did, oldest first."""
        rows = self._database.rows(
            "SELECT * FROM seen_numbers WHERE me = ? ORDER BY sender, stream, number", (me,)
        )
        void: dict[tuple[str, str], list[tuple[int, int]]] = {}
        for row in rows:
            ranges = (part.split("-") for part in row["void"].split(",") if part)
            void.setdefault((row["sender"], row["stream"]), []).extend(
                (int(first), int(last)) for first, last in ranges
            )
        found = []
        for before, row in pairwise(rows):
            stream = (row["sender"], row["stream"])
            if stream != (before["sender"], before["stream"]):
                continue
            missing = _missing(before["number"] + 1, row["number"] - 1, void[stream])
            if missing:
                found.append(
                    Gap(
                        sender=row["sender"],
                        missing=missing,
                        message=row["message"],
                        digest=Digest(row["digest"]),
                        seen=from_unix(row["seen"]),
                    )
                )
        return sorted(found, key=lambda gap: gap.seen)

    def sweep(self, *, now: datetime) -> None:
        """Forget numbers that were seen as long ago as deliveries are remembered."""
        old = now - timedelta(seconds=KEEP_DELIVERED_SECONDS)
        self._database.execute("DELETE FROM seen_numbers WHERE seen < ?", (to_unix(old),))


def _ranges(numbers: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Return increasing numbers as ranges, the newest ones if there are too many to be said."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return tuple(found[-MAX_VOID_RANGES:])


def _missing(first: int, last: int, void: Iterable[tuple[int, int]]) -> int:
    """Return how many numbers from `first` to `last` are in none of the ranges `void`."""
    missing, start = 0, first
    for begin, end in sorted(void):
        if end < start or begin > last:
            continue
        missing += max(0, begin - start)
        start = max(start, end + 1)
    return missing + max(0, last - start + 1)

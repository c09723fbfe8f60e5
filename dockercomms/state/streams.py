"""The rows of message numbers: those drawn for sent messages, and those seen in verified ones.

Each state draws a random stream for each sender, recipient and repository, and numbers its messages
from 1. The next message declares the numbers void that were drawn and never published, so that a
receiver sees a gap only where a message was withheld or lost.

Source: SPEC.md section 9.
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
from dockercomms.state.database import Database
from dockercomms.state.values import from_unix

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS streams (
        repo TEXT NOT NULL,
        sender TEXT NOT NULL,
        recipient TEXT NOT NULL,
        stream TEXT NOT NULL,
        last INTEGER NOT NULL,
        PRIMARY KEY (repo, sender, recipient)
    ) WITHOUT ROWID""",
    # `abandoned`: its send has failed. `declared`: the message that declares the number void.
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
"""A message is published seconds after its number is drawn; later, its process is dead or hung."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Messages of a sender that did not arrive, before one that did."""

    sender: str
    """The sender's verified name."""
    missing: int
    message: str
    """The id of the message after the gap."""
    digest: Digest
    """That message's manifest digest."""
    seen: datetime
    """When that message was verified."""


class StreamRows:
    """The tables above. Each method is one transaction, on disk when it returns."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # --- sent messages ---------------------------------------------------------------------------

    def draw(
        self, message: str, repo: str, sender: str, recipient: str, *, now: datetime
    ) -> StreamPosition:
        """Draw a number for a message that is about to be built; it is never drawn again.

        The result includes the void numbers before it: drawn, and not published.
        """
        key = (repo, sender, recipient)
        with self._database.transaction():
            self._database.execute(
                "INSERT OR IGNORE INTO streams VALUES (?, ?, ?, ?, 0)",
                (*key, secrets.token_hex(16)),
            )
            ((stream, number),) = self._database.rows(
                """UPDATE streams SET last = last + 1 WHERE repo = ? AND sender = ?
                    AND recipient = ? RETURNING stream, last""",
                key,
            )
            self._database.execute(
                """UPDATE open_numbers SET declared = ? WHERE stream = ?
                    AND (abandoned OR drawn < ?)""",
                (message, stream, now - ABANDONED_AFTER),
            )
            void = self._database.rows(
                "SELECT number FROM open_numbers WHERE declared = ? ORDER BY number", (message,)
            )
            self._database.execute(
                "INSERT INTO open_numbers (stream, number, message, drawn) VALUES (?, ?, ?, ?)",
                (stream, number, message, now),
            )
        return StreamPosition(
            stream=stream, number=number, void=_ranges(row["number"] for row in void)
        )

    def abandon(self, message: str) -> None:
        """Record that a message was not published, so that the next one voids its number."""
        self._database.execute(
            "UPDATE open_numbers SET abandoned = 1 WHERE message = ?", (message,)
        )

    def publish(self, message: str) -> None:
        """Record that a message is published, and with it the void numbers that it declares."""
        if self._database.row(
            "SELECT 1 FROM open_numbers WHERE message = ? OR declared = ?", (message, message)
        ):
            self._database.execute(
                "DELETE FROM open_numbers WHERE message = ? OR declared = ?", (message, message)
            )

    # --- received messages -----------------------------------------------------------------------

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
        """Record the number of a verified message; the first message with a number stays."""
        key = (me, sender, position.stream, position.number)
        if self._database.row(
            "SELECT 1 FROM seen_numbers WHERE me = ? AND sender = ? AND stream = ? AND number = ?",
            key,
        ):
            return
        void = ",".join(f"{first}-{last}" for first, last in position.void)
        self._database.execute(
            "INSERT OR IGNORE INTO seen_numbers VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (*key, digest, message, void, now),
        )

    def gaps(self, me: str) -> list[Gap]:
        """Return the gaps between the first and the last message that arrived, oldest first."""
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
        """Delete numbers that were seen longer ago than deliveries are kept."""
        old = now - timedelta(seconds=KEEP_DELIVERED_SECONDS)
        self._database.execute("DELETE FROM seen_numbers WHERE seen < ?", (old,))


def _ranges(numbers: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Return increasing numbers as ranges, only the newest ones if there are too many."""
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

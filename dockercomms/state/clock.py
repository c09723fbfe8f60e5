"""A cautious reading of this machine's clocks, to decide when rows may be deleted.

A message would be delivered again if its row were deleted too early. A clock that is wrong during
one run must not have this effect. So a time counts only after a later run has read a time that is
at least a day later, and only if the clocks agree in both runs. The largest difference that was
ever seen between two clocks is subtracted from it.

Source: SPEC.md section 7.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from dockercomms.platforms.clock import Clocks
from dockercomms.protocol.header import CLOCK_ERROR_SECONDS
from dockercomms.state.database import Database
from dockercomms.state.values import from_unix

CONFIRMED_AFTER = timedelta(days=1)
"""A time counts once a later run reads a time that is later by this much."""

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS clocks (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        seen REAL NOT NULL,
        settled REAL,
        gap REAL NOT NULL
    )""",
)


class ClockRows:
    """The table `clocks`, with one row. Each method is one transaction, on disk when it returns."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def settle(self, clocks: Clocks) -> datetime | None:
        """Record the times of the clocks; return the time by which rows may be deleted.

        Returns:
            A time that every clock seen so far has passed; `None` if there is no such time yet, or
            if the clocks now differ by more than an hour.
        """
        times = [clocks.own] if clocks.registry is None else [clocks.own, clocks.registry]
        now, between = min(times), max(times) - min(times)
        with self._database.transaction():
            row = self._database.row("SELECT seen, settled, gap FROM clocks")
            known: tuple[float, float | None, float] = (
                (now.timestamp(), None, 0.0) if row is None else tuple(row)
            )
            seen, settled, gap = known
            gap = max(gap, between.total_seconds())
            agree = between <= timedelta(seconds=CLOCK_ERROR_SECONDS)
            if agree:
                seen, settled = _advanced(now.timestamp(), seen, settled)
            if row is None or (seen, settled, gap) != known:
                self._database.execute(
                    "INSERT OR REPLACE INTO clocks VALUES (1, ?, ?, ?)", (seen, settled, gap)
                )
        if not agree or settled is None:
            return None
        return from_unix(max(0.0, settled - gap))


def _advanced(now: float, seen: float, settled: float | None) -> tuple[float, float | None]:
    """Return the time that a later run must confirm, and the confirmed time."""
    if now < seen:  # the clock was ahead, or is behind now
        return now, None if settled is None else min(settled, now)
    if now < seen + CONFIRMED_AFTER.total_seconds():
        return seen, settled
    return now, seen

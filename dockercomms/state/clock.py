"""How late it may be: what was forgotten too early would be delivered again.

A clock that is wrong for one run must not age what is remembered. So a time counts only after a
later run has seen one that is at least a day later, and the clocks have to agree in both runs; and
the widest gap that was ever seen between two clocks is taken off it.

Source: SPEC.md section 7.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from dockercomms.platforms.clock import Clocks
from dockercomms.protocol.header import CLOCK_ERROR_SECONDS
from dockercomms.state.database import Database, from_unix

CONFIRMED_AFTER = timedelta(days=1)
"""How much later a time has to be seen again before it counts."""

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS clocks (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        seen REAL NOT NULL,
        settled REAL,
        gap REAL NOT NULL
    )""",
)


class ClockRows:
    """The table above: one row. Each method is one transaction, on disk when it returns.

    Every method may raise `LocalIOError` (see `Database`).
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def settle(self, clocks: Clocks) -> datetime | None:
        """Note what the clocks show; return the time by which things may be forgotten.

        Returns:
            A time that no clock which was ever seen is behind; None if there is none yet, or if the
            clocks are more than an hour apart now.
        """
        times = [clocks.own] if clocks.registry is None else [clocks.own, clocks.registry]
        now, between = min(times), max(times) - min(times)
        with self._database.transaction() as connection:
            row = connection.execute("SELECT seen, settled, gap FROM clocks").fetchone()
            known: tuple[float, float | None, float] = (
                (now.timestamp(), None, 0.0) if row is None else tuple(row)
            )
            seen, settled, gap = known
            gap = max(gap, between.total_seconds())
            agree = between <= timedelta(seconds=CLOCK_ERROR_SECONDS)
            if agree:
                seen, settled = _advanced(now.timestamp(), seen, settled)
            if row is None or (seen, settled, gap) != known:
                connection.execute(
                    "INSERT OR REPLACE INTO clocks VALUES (1, ?, ?, ?)", (seen, settled, gap)
                )
        if not agree or settled is None:
            return None
        return from_unix(max(0.0, settled - gap))


def _advanced(now: float, seen: float, settled: float | None) -> tuple[float, float | None]:
    """Return the time that waits to be seen again, and the time that counts."""
    if now < seen:  # the clock was ahead, or is behind
        return now, None if settled is None else min(settled, now)
    if now < seen + CONFIRMED_AFTER.total_seconds():
        return seen, settled
    return now, seen

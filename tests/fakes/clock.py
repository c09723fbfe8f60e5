"""A clock that moves only when it is told to, or when somebody sleeps."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta


class FakeClock:
    """`sleep` moves the time and is noted in `sleeps`; `random` gives `fraction`."""

    def __init__(
        self,
        now: datetime = datetime(2026, 11, 20, 12, 0, tzinfo=UTC),
        *,
        fraction: float = 0.5,
    ) -> None:
        self._now = now
        self._monotonic = 1000.0
        self._lock = threading.Lock()
        self.fraction = fraction
        self.sleeps: list[float] = []

    def now(self) -> datetime:
        with self._lock:
            return self._now

    def monotonic(self) -> float:
        with self._lock:
            return self._monotonic

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.sleeps.append(seconds)
            self._now += timedelta(seconds=seconds)
            self._monotonic += seconds

    def random(self) -> float:
        return self.fraction

    def advance(self, seconds: float) -> None:
        """Move the time without noting a sleep."""
        with self._lock:
            self._now += timedelta(seconds=seconds)
            self._monotonic += seconds

    def set(self, now: datetime) -> None:
        """Jump to `now`; the monotonic clock stays."""
        with self._lock:
            self._now = now

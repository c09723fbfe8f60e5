"""The clock of this machine, and what it and a registry's clock say together."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Literal, Protocol

from dockercomms.platforms.records import dataclass


class Clock(Protocol):
    """The time, and waiting for it; tests put a fake one in its place."""

    def now(self) -> datetime:
        """Return the time of day in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds since some fixed moment; never goes back."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait `seconds`."""
        ...

    def random(self) -> float:
        """Return a number from 0 up to 1, for jitter."""
        ...


@dataclass(frozen=True, slots=True)
class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        """Return the time of day in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds since some fixed moment."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait `seconds`."""
        time.sleep(seconds)

    def random(self) -> float:
        """Return a number from 0 up to 1."""
        return random.random()  # noqa: S311 - jitter, not a secret


def moment_of(seconds: float) -> datetime:
    """Return the time in UTC that is so many seconds after 1970, at the latest the end of 9998."""
    return datetime.fromtimestamp(min(max(seconds, 0.0), _LAST_SECOND), UTC)


_LAST_SECOND = 253_370_764_799.999
"""The end of the year 9998 (SPEC.md section 3.7)."""

ClockChoice = Literal["both", "own", "registry", "either"]
"""Whose time decides: both clocks, where they say the same; one of them; or "either": a message
passes that one of them lets pass, since its receiver has asked for it."""


@dataclass(frozen=True, slots=True)
class Clocks:
    """What this machine's clock shows, and the registry's, where it tells its own.

    Source: SPEC.md section 3.7.
    """

    own: datetime
    registry: datetime | None = None
    choice: ClockChoice = "both"

    @property
    def times(self) -> tuple[datetime, ...]:
        """The times that count."""
        if self.registry is None or self.choice == "own":
            return (self.own,)
        return (self.registry,) if self.choice == "registry" else (self.own, self.registry)

    @property
    def earliest(self) -> datetime:
        """The earlier of the times that count."""
        return min(self.times)

    @property
    def apart(self) -> timedelta:
        """By how much the times that count differ."""
        return max(self.times) - min(self.times)

    def agree(self, stands_against: Callable[[datetime], bool]) -> bool | None:
        """Return what `stands_against` says by each time that counts; None where they differ."""
        answers = {stands_against(now) for now in self.times}
        if len(answers) == 1:
            return answers.pop()
        return False if self.choice == "either" else None

    def __str__(self) -> str:
        own = f"this machine's clock says {self.own:%Y-%m-%d %H:%M:%S}Z"
        if self.registry is None:
            return own
        return f"{own}, the registry's {self.registry:%Y-%m-%d %H:%M:%S}Z"

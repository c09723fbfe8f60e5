"""The clock of this machine, and its comparison with a registry's clock."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Literal, Protocol

from dockercomms.platforms.records import dataclass


class Clock(Protocol):
    """The time and waits. Tests use a fake clock."""

    def now(self) -> datetime:
        """Return the time of day in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds since a fixed moment; never decreases."""
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
    """Return the UTC time `seconds` after 1970, limited to the years 1970 to 9998."""
    return datetime.fromtimestamp(min(max(seconds, 0.0), _LAST_SECOND), UTC)


_LAST_SECOND = 253_370_764_799.999
"""The end of the year 9998 (SPEC.md section 3.7)."""

ClockChoice = Literal["both", "own", "registry", "either"]
"""The clock that decides: "both", which needs them to agree, one of them, or "either": a message
passes that one clock accepts, since its receiver asked for it."""


@dataclass(frozen=True, slots=True)
class Clocks:
    """The time of this machine's clock, and of the registry's clock if it sends one.

    Source: SPEC.md section 3.7.
    """

    own: datetime
    registry: datetime | None = None
    choice: ClockChoice = "both"

    @property
    def times(self) -> tuple[datetime, ...]:
        """Return the times of the clocks that decide."""
        if self.registry is None or self.choice == "own":
            return (self.own,)
        return (self.registry,) if self.choice == "registry" else (self.own, self.registry)

    @property
    def earliest(self) -> datetime:
        """Return the earlier of the times."""
        return min(self.times)

    @property
    def apart(self) -> timedelta:
        """Return the difference of the times."""
        return max(self.times) - min(self.times)

    def agree(self, stands_against: Callable[[datetime], bool]) -> bool | None:
        """Return the result of `stands_against` for all times; `None` if the clocks disagree."""
        answers = {stands_against(now) for now in self.times}
        if len(answers) == 1:
            return answers.pop()
        return False if self.choice == "either" else None

    def __str__(self) -> str:
        own = f"this machine's clock says {self.own:%Y-%m-%d %H:%M:%S}Z"
        if self.registry is None:
            return own
        return f"{own}, the registry's {self.registry:%Y-%m-%d %H:%M:%S}Z"

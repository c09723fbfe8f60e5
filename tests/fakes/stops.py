"""A stop event for tests: it ends a watch after a number of waits, which take no time."""

from __future__ import annotations

from collections.abc import Callable

from tests.fakes.clock import FakeClock


class AfterWaits:
    """Stops a watch when it has waited `number` times; each wait moves the clock.

    Args:
        clock: Each wait moves it.
        number: The number of waits before the stop.
        between: Called with the number of each wait but the last, to let things happen meanwhile.
    """

    def __init__(
        self, clock: FakeClock, number: int = 1, between: Callable[[int], object] | None = None
    ) -> None:
        self.waits: list[float] = []
        self._clock = clock
        self._number = number
        self._between = between
        self._set = False

    def set(self) -> None:
        self._set = True

    def is_set(self) -> bool:
        return self._set

    def wait(self, timeout: float) -> bool:
        self.waits.append(timeout)
        self._clock.advance(timeout)
        self._set = self._set or len(self.waits) >= self._number
        if not self._set and self._between is not None:
            self._between(len(self.waits))
        return self._set

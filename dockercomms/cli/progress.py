"""The progress of transfers: a bar on a terminal, a line per ten percent elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

from dockercomms.cli.render import count_of, human_bytes, visible

if TYPE_CHECKING:
    from rich.progress import Progress

    from dockercomms.cli.render import Screen
    from dockercomms.cli.session import Session
    from dockercomms.platforms.clock import Clock
    from dockercomms.transport.journal import ProgressEvent

LINE_EVERY_PERCENT = 10
LINE_EVERY_SECONDS = 10.0
"""The interval for streams of unknown length, which have no percentage."""
SHOWN_BYTES = 16 * 2**20
"""The smallest transfer with a meter: a smaller one ends before a bar is seen."""

Hook = Callable[[int, int], None]


class Meter(AbstractContextManager["Meter"]):
    """A meter without output, and the base of the others. `show` is safe for several threads.

    One meter serves several transfers in turn: `finish` ends one, the next event begins another.
    """

    def show(self, event: ProgressEvent) -> None:
        """Show the progress of an event."""

    def finish(self) -> None:
        """End the transfer; call it before any other output to the terminal."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the transfer that still runs."""
        self.finish()


class LineMeter(Meter):
    """A meter that writes a line per ten percent, or per ten seconds if the size is unknown."""

    def __init__(self, screen: Screen, clock: Clock, label: str) -> None:
        self._screen = screen
        self._clock = clock
        self._label = label
        self._lock = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self._started = self._clock.monotonic()
        self._said = self._started
        self._tenths = 0
        self._reused: set[int] = set()

    def show(self, event: ProgressEvent) -> None:
        """Write a line if another tenth is complete."""
        with self._lock:
            if event.reused:
                self._reused.add(event.chunk)
            now = self._clock.monotonic()
            if event.total_bytes is None:
                due = now - self._said >= LINE_EVERY_SECONDS
            else:
                tenths = _percent(event.done_bytes, event.total_bytes) // LINE_EVERY_PERCENT
                due = tenths > self._tenths
                self._tenths = max(self._tenths, tenths)
            if due:
                self._said = now
                self._screen.note(self._line(event, now - self._started))

    def _line(self, event: ProgressEvent, seconds: float) -> str:
        done, total = event.done_bytes, event.total_bytes
        parts = [human_bytes(done)]
        if total is not None:
            parts = [f"{_percent(done, total)} %", f"{human_bytes(done)} of {human_bytes(total)}"]
        if seconds > 0:
            parts.append(f"{human_bytes(int(done / seconds))}/s")
        if self._reused:
            parts.append(f"{count_of(len(self._reused), 'chunk')} reused")
        return f"{self._label}: {', '.join(parts)}"

    def finish(self) -> None:
        """Reset the meter for the next transfer."""
        with self._lock:
            self._begin()


class BarMeter(Meter):
    """A bar with rate, remaining time and reused chunks, removed at the end."""

    def __init__(self, screen: Screen, label: str) -> None:
        self._screen = screen
        self._label = visible(label)
        self._lock = threading.Lock()
        self._bar: Progress | None = None
        self._reused: set[int] = set()

    def show(self, event: ProgressEvent) -> None:
        """Update the bar; the first event shows it."""
        with self._lock:
            if event.reused:
                self._reused.add(event.chunk)
            reused = f"{count_of(len(self._reused), 'chunk')} reused" if self._reused else ""
            if self._bar is None:
                self._bar = _bar(self._screen)
                self._bar.add_task(self._label, total=event.total_bytes, reused=reused)
                self._bar.start()
                self._screen.divert(self._bar.console.print)
            self._bar.update(
                self._bar.task_ids[0],
                completed=event.done_bytes,
                total=event.total_bytes,
                reused=reused,
            )

    def finish(self) -> None:
        """Remove the bar."""
        with self._lock:
            bar, self._bar = self._bar, None
            self._reused = set()
        if bar is not None:
            bar.stop()
            self._screen.divert(None)


def meter_for(screen: Screen, clock: Clock, label: str) -> Meter:
    """Return a silent meter with -q, a bar on a terminal that can redraw a line, else lines."""
    if screen.quiet:
        return Meter()
    return BarMeter(screen, label) if screen.moves() else LineMeter(screen, clock, label)


def _percent(done: int, total: int) -> int:
    return 100 if done >= total else done * 100 // total


def _bar(screen: Screen) -> Progress:
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[reused]}", markup=False),
        console=screen.console(screen.stderr),
        transient=True,
    )


@contextmanager
def metering(session: Session, label: str) -> Iterator[Hook]:
    """Yield a progress hook that shows a meter for large transfers."""
    with meter_for(session.screen_of("text"), session.clock, label) as meter:
        yield hook_of(meter)


def hook_of(meter: Meter) -> Hook:
    """Return a progress hook that passes finished and total bytes to `meter`."""
    from dockercomms.transport.journal import ProgressEvent

    def show(done: int, total: int) -> None:
        if total < SHOWN_BYTES:
            return
        meter.show(ProgressEvent(done_bytes=done, total_bytes=total, chunk=0, reused=False))
        if done >= total:
            meter.finish()  # the next blob begins at zero

    return show

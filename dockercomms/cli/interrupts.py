"""Ctrl-C held back for the moment between a thing that is done and the line that says so.

Whoever is told "interrupted, run it again" about a message that is published sends it twice.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Holds SIGINT and SIGTERM back; of two that come, the second interrupts at once."""

    def __init__(self) -> None:
        self._former: dict[int, Any] = {}
        self._came = False

    def hold(self) -> None:
        """Hold back what comes from now on; nothing happens where they are held already."""
        if self._former or threading.current_thread() is not threading.main_thread():
            return  # no other thread may say what a signal does
        self._came = False
        for number in _NUMBERS:
            self._former[number] = signal.signal(number, self._note)

    def release(self) -> bool:
        """Let signals interrupt again; return whether one came."""
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former = {}
        return self._came

    def obey(self) -> None:
        """Let signals interrupt again, and interrupt if one came."""
        if self.release():
            raise KeyboardInterrupt

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        if self._came:
            raise KeyboardInterrupt
        self._came = True

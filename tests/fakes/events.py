"""Counts the calls of a run to registry, disk and state, and interrupts it at one of them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from typing import Any

from tests.fakes.watched import WatchedRegistry

FILE_CALLS = (
    "open",
    "fsync",
    "replace",
    "rename",
    "link",
    "unlink",
    "mkdir",
    "rmdir",
    "write",
    "pwrite",
)


class Events:
    """Calls `fault` in the `number`-th event, before or after it happens; 0: never."""

    def __init__(self, number: int, fault: Callable[[], None], *, after: bool = False) -> None:
        self.seen = 0
        self.names: list[str] = []
        self.after = after
        self._number = number
        self._fault = fault
        self._lock = threading.Lock()

    def happen(self, name: str) -> bool:
        """Count an event; return whether it is the one."""
        with self._lock:
            self.seen += 1
            self.names.append(name)
            return self.seen == self._number

    def around(self, name: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Make a call that is an event."""
        chosen = self.happen(name)
        if chosen and not self.after:
            self._fault()
        try:
            return call(*args, **kwargs)
        finally:
            if chosen and self.after:
                self._fault()

    def registry(self, inner: Any) -> WatchedRegistry:
        """Return `inner` with every call an event."""
        return WatchedRegistry(inner, around=self.around)

    @contextlib.contextmanager
    def files(self, *, skip: str = "\0") -> Iterator[None]:
        """Make every file operation an event, but those on paths that contain `skip`."""
        real = {name: getattr(os, name) for name in FILE_CALLS}
        libc = ctypes.CDLL

        def counted(name: str) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                if any(skip in str(arg) for arg in args[:2]):
                    return real[name](*args, **kwargs)
                return self.around(f"os.{name}", real[name], *args, **kwargs)

            return call

        try:
            for name in FILE_CALLS:
                setattr(os, name, counted(name))
            ctypes.CDLL = lambda *args, **kwargs: _Libc(self, libc(*args, **kwargs))
            yield
        finally:
            for name, call in real.items():
                setattr(os, name, call)
            ctypes.CDLL = libc

    @contextlib.contextmanager
    def commits(self) -> Iterator[None]:
        """Make every commit of every database that is opened meanwhile an event."""
        connect = sqlite3.connect

        def watched(*args: Any, **kwargs: Any) -> sqlite3.Connection:
            return connect(*args, factory=_connection_class(self), **kwargs)

        sqlite3.connect = watched
        try:
            yield
        finally:
            sqlite3.connect = connect


class _Libc:
    def __init__(self, events: Events, real: Any) -> None:
        self._events = events
        self._real = real

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._real, name)
        return lambda *args: self._events.around(f"libc {name}", call, *args)


def _connection_class(events: Events) -> type[sqlite3.Connection]:
    class Watched(sqlite3.Connection):
        def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
            if sql == "COMMIT":
                return events.around("commit", super().execute, sql, *args)
            return super().execute(sql, *args)

    return Watched

"""A registry that notes every call to another one, and fails where it is told to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from dockercomms.errors import NetworkError

WRITES = frozenset({"push_blob", "push_manifest", "delete_blob", "delete_manifest", "delete_tag"})
UNCOUNTED = frozenset({"server_time", "close"})
REQUESTS = {"push_blob": 2}
"""HTTP requests of one call, where it is not one (POST and PUT)."""


class WatchedRegistry:
    """Implements the registry interface over `inner`.

    Args:
        inner: Answers.
        before: Called with method and arguments before each call; may raise.
        after: The same after each call that succeeded.
        around: Makes the call itself, given "registry " and its name, the method and arguments.
        time: What `server_time` tells; None: what `inner` does.
    """

    def __init__(
        self,
        inner: Any,
        *,
        before: Callable[[str, tuple[Any, ...]], None] | None = None,
        after: Callable[[str, tuple[Any, ...]], None] | None = None,
        around: Callable[..., Any] | None = None,
        time: Callable[[], datetime | None] | None = None,
    ) -> None:
        self.inner = inner
        self.before = before
        self.after = after
        self.around = around
        self.time = time
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        target = getattr(self.inner, name)
        if name in UNCOUNTED or not callable(target):
            return target

        def whole(*args: Any, **kwargs: Any) -> Any:
            result = target(*args, **kwargs)
            if isinstance(result, Iterator):
                return iter(list(result))  # so that after the call means after all requests
            return result

        def call(*args: Any, **kwargs: Any) -> Any:
            said = (*args, *kwargs.values())
            with self._lock:
                self.calls.append((name, said))
            if self.before is not None:
                self.before(name, said)
            if self.around is None:
                result = whole(*args, **kwargs)
            else:
                result = self.around(f"registry {name}", whole, *args, **kwargs)
            if self.after is not None:
                self.after(name, said)
            return result

        return call

    def server_time(self) -> datetime | None:
        return self.inner.server_time() if self.time is None else self.time()

    def methods(self) -> list[str]:
        return [name for name, _ in self.calls]

    def writes(self) -> list[str]:
        return [name for name in self.methods() if name in WRITES]

    def requests(self) -> int:
        """Return how many HTTP requests these calls are."""
        return sum(REQUESTS.get(name, 1) for name in self.methods())


class FailAt:
    """Raises in the `number`-th call; `failed` says whether it did."""

    def __init__(self, number: int, error: Callable[[], BaseException] | None = None) -> None:
        self.left = number
        self.error = error or (lambda: NetworkError("the line was cut"))
        self.failed = False
        self._lock = threading.Lock()

    def __call__(self, *_: object) -> None:
        with self._lock:
            self.left -= 1
            if self.left != 0:
                return
            self.failed = True
        raise self.error()

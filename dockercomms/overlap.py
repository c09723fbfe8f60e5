"""What goes on beside the slow steps of a message: the next one is judged, the last one indexed.

A message that is received waits for the registry about ten times, most of them for its receipt.

    deliver 1 -> receipt 1  -> deliver 2 -> receipt 2 -> ...
                 judge 2       index 1      judge 3

A message is judged when the one before it is delivered, so that whoever uses an id twice is found
out; the index is best effort, and nothing waits for it. Threads are started when there is a next
message, and end with the round.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Generic, TypeVar

from dockercomms.transport.window import GRACE_SECONDS, workers

T = TypeVar("T")
Key = TypeVar("Key")

FRESH_SECONDS = 60.0
"""What was judged earlier is judged anew: whoever loops over a round may take their time."""
_THREADS = 2
"""One that judges, and one that indexes."""


class Overlap(contextlib.AbstractContextManager["Overlap[Key, T]"], Generic[Key, T]):
    """The threads of one round, and what they do. To be used by one thread.

    When the block ends so has what was begun, but where its caller left, perhaps by Ctrl-C: then
    each of the two is waited for a second at most.
    """

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._pool: ThreadPoolExecutor | None = None
        self._expected: tuple[Key, Callable[[], T]] | None = None
        self._begun: tuple[Key, Future[T]] | None = None
        self._begun_at = 0.0
        self._late: Future[None] | None = None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, KeyboardInterrupt | GeneratorExit):
            if self._begun is not None:
                wait([self._begun[1]], timeout=GRACE_SECONDS)
            if self._late is not None:
                wait([self._late], timeout=GRACE_SECONDS)
        self._stack.__exit__(kind, error, trace)
        if error is None and self._late is not None:
            self._late.result()

    def expect(self, following: tuple[Key, Callable[[], T]] | None) -> None:
        """Note what may be done, if anything, beside the receipt of this message."""
        self._expected = following

    def delivered(self) -> None:
        """Begin what was noted, if anything was: what it looks at is in the state by now."""
        if self._expected is not None:
            key, work = self._expected
            self._expected = None
            self._begun = (key, self._threads().submit(work))
            self._begun_at = time.monotonic()

    def result(self, key: Key, work: Callable[[], T]) -> T:
        """Return what `work` does, or raise it; it may have been begun under that key."""
        begun, self._begun = self._begun, None
        if begun is None:
            return work()
        begun[1].exception()  # what nobody asked for is not left running
        if begun[0] != key or time.monotonic() - self._begun_at > FRESH_SECONDS:
            return work()
        return begun[1].result()

    def later(self, job: Callable[[], None]) -> None:
        """Do something that nothing waits for: beside the next message, now if there is none."""
        if self._late is not None:
            self._late.result()
            self._late = None
        if self._begun is None:
            job()
        else:
            self._late = self._threads().submit(job)

    def _threads(self) -> ThreadPoolExecutor:
        if self._pool is None:
            self._pool = self._stack.enter_context(workers(_THREADS))
        return self._pool


def with_next(items: Iterable[T]) -> Iterator[tuple[T, T | None]]:
    """Yield each item and the one after it, which is asked for before its turn."""
    following = iter(items)
    item = next(following, None)
    while item is not None:
        after = next(following, None)
        yield item, after
        item = after

"""A bounded number of tasks in threads, and buffers that are used again.

The buffers bound the memory of a transfer of any size. A buffer for each chunk would leave holes
in the memory of a process with several threads, and the system would supply its pages anew each
time (measured: 30 to 100 MiB, and a tenth of the time, for 1 GiB). So each buffer is mapped once,
without the allocator, and released as a whole.
"""

from __future__ import annotations

import contextlib
import mmap
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from typing import TypeVar

T = TypeVar("T")

GRACE_SECONDS = 1.0
"""Time to wait for stopped tasks after the caller has left, perhaps by Ctrl-C."""


class Stop:
    """A flag that running tasks check: set after another task has failed."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Ask all tasks to end."""
        self._event.set()

    def check(self) -> None:
        """End this task if the flag is set.

        Raises:
            CancelledError: the flag is set. `run_window` raises the failure that set it instead.
        """
        if self._event.is_set():
            raise CancelledError


@contextlib.contextmanager
def workers(concurrency: int) -> Iterator[ThreadPoolExecutor]:
    """Yield threads that end before the block does, except after Ctrl-C.

    Ctrl-C does not wait: a thread may hang in a request for a minute. Files on disk must be right
    without the rest of a task. The threads end by themselves, or with the process.
    """
    pool = ThreadPoolExecutor(concurrency, thread_name_prefix="dockercomms")
    try:
        yield pool
    except (KeyboardInterrupt, GeneratorExit):
        # A Ctrl-C in the caller reaches a generator as GeneratorExit.
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    except BaseException:
        pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown()


def run_window(
    tasks: Iterable[Callable[[], T]], *, concurrency: int, stop: Stop, alone: bool = False
) -> Generator[tuple[int, T], None, None]:
    """Yield the number and result of each task, as they end; the first failure ends all.

    Loop over it inside `looped`, which ends it when the loop ends. With `alone` there is one task,
    and it runs without a thread, whose start costs more than a small message (0.5 ms of CPU).

    The caller's thread takes a task from `tasks` when at most `concurrency` others are running.
    When this has ended, all tasks have ended, except after Ctrl-C: `stop` asked them to.
    """
    if alone:
        yield from _in_turn(tasks, stop)
        return
    pending: dict[Future[T], int] = {}
    with workers(concurrency) as pool:
        try:
            for number, task in enumerate(tasks):
                while len(pending) >= concurrency:
                    yield from _finished(pending)
                pending[pool.submit(task)] = number
                del task  # release its buffers as soon as it has run
            while pending:
                yield from _finished(pending)
        except GeneratorExit:
            stop.set()
            wait(pending, timeout=GRACE_SECONDS)
            raise
        except BaseException:
            stop.set()
            raise


def _in_turn(tasks: Iterable[Callable[[], T]], stop: Stop) -> Iterator[tuple[int, T]]:
    """Yield the number and result of each task, run in the caller's thread."""
    whole = False
    try:
        for number, task in enumerate(tasks):
            yield number, task()
        whole = True
    finally:
        if not whole:
            stop.set()


@contextlib.contextmanager
def looped(window: Generator[tuple[int, T], None, None]) -> Iterator[Iterator[tuple[int, T]]]:
    """Yield the iterator of `run_window`; at the end of the block, stop its tasks.

    After an error in the block too, it stops the tasks and waits for them, so that no thread
    writes to a closed file. Close the generator here: its finalizer joins threads and can deadlock
    if the garbage collector runs it inside Thread.start().
    """
    try:
        yield window
    except BaseException as error:
        with contextlib.suppress(type(error)):
            window.throw(error)
        raise
    window.close()


def _finished(pending: dict[Future[T], int]) -> Iterator[tuple[int, T]]:
    """Wait for one or more tasks, and yield them."""
    done, _ = wait(pending, return_when=FIRST_COMPLETED)
    for future in sorted(done, key=pending.__getitem__):
        yield pending.pop(future), future.result()


PIECE_BYTES = 2**18
"""Bytes read, hashed or decoded at once: the next step finds them in the cache."""

MAPPED_BYTES = 2**18
"""From this size a buffer is its own mapping; below, the allocator is cheaper."""

_LOOK_SECONDS = 0.05
"""Interval at which a thread that waits for a buffer checks the stop flag."""


class Buffers:
    """Up to `count` buffers of `size` bytes, each made when it is first needed. Thread-safe."""

    def __init__(self, size: int, *, count: int, stop: Stop) -> None:
        self.size = size
        self._left = count
        self._stop = stop
        self._free: list[memoryview] = []
        self._changed = threading.Condition()

    def take(self) -> memoryview:
        """Return a free buffer, with arbitrary content; wait for one.

        Raises:
            CancelledError: another part of the transfer has failed meanwhile.
        """
        with self._changed:
            while not self._free and not self._left:
                self._stop.check()
                self._changed.wait(_LOOK_SECONDS)
            if self._free:
                return self._free.pop()
            self._left -= 1
        return allocate(self.size)

    def give_back(self, buffer: memoryview) -> None:
        """Make a buffer free again; the caller must not use it any more."""
        with self._changed:
            self._free.append(buffer)
            self._changed.notify()

    @contextlib.contextmanager
    def lend(self) -> Iterator[memoryview]:
        """Yield a buffer that is free again after the block."""
        with self.borrowed(self.take()) as buffer:
            yield buffer

    @contextlib.contextmanager
    def borrowed(self, buffer: memoryview) -> Iterator[memoryview]:
        """Free a taken buffer after the block."""
        try:
            yield buffer
        finally:
            self.give_back(buffer)

    @contextlib.contextmanager
    def kept_unless_raised(self, buffer: memoryview) -> Iterator[memoryview]:
        """Free a taken buffer if the block raises."""
        try:
            yield buffer
        except BaseException:
            self.give_back(buffer)
            raise


def allocate(size: int) -> memoryview:
    """Return a new buffer of `size` bytes; a large one takes memory as it is filled.

    A large one does not come from the allocator, which would keep blocks of its size from then on:
    a bytearray of 512 KiB for each chunk cost 50 MiB (measured, gzip of random bytes).
    """
    return memoryview(mmap.mmap(-1, size) if size >= MAPPED_BYTES else bytearray(size))

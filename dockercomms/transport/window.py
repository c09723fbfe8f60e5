"""Work in several threads at once, never more than a window ahead.

Memory of one size that is used again and again: what bounds a transfer, whatever its size.

Blocks that are allocated and freed for each chunk leave holes in the memory of a process with
several threads, and each costs the system a page at a time (measured: 30 to 100 MiB, and a tenth
of the time, for 1 GiB). These are made once, by the system itself and not by the allocator, and
given back whole.
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
"""How long work that was told to stop is waited for when the caller has left, perhaps by Ctrl-C."""


class Stop:
    """A flag that work in progress looks at: set when another part of it has failed."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Ask all work to end."""
        self._event.set()

    def check(self) -> None:
        """Do nothing, or end this piece of work.

        Raises:
            CancelledError: the flag is set. `run_window` shows the failure that set it instead.
        """
        if self._event.is_set():
            raise CancelledError


@contextlib.contextmanager
def workers(concurrency: int) -> Iterator[ThreadPoolExecutor]:
    """Yield threads that have ended when the block has, unless the user interrupts it.

    Ctrl-C waits for nobody: a thread may hang in a request for a minute, and nothing that threads
    do may be needed for what is on disk to be right. They end by themselves, or with the process.
    """
    pool = ThreadPoolExecutor(concurrency, thread_name_prefix="dockercomms")
    try:
        yield pool
    except (KeyboardInterrupt, GeneratorExit):
        # GeneratorExit is what a generator sees of a Ctrl-C that met its caller
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
    and no thread is started for it: that takes longer than many a small message (0.5 ms of CPU).

    A task is taken from `tasks`, in the caller's thread, when at most `concurrency` others are
    running, so one waits while those run. Nothing is running any more when this has ended, by
    whatever way but Ctrl-C: what still ran was asked to by `stop`.
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
                del task  # what it holds is let go as soon as it has run
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
    """Yield what `run_window` gave, and have its work ended when the block is, however that ends.

    A failure of the block is one of the window too: what runs is stopped and waited for, so that
    no thread writes to a file that is closed by then. What is left to the garbage collector waits
    for its threads wherever that happens to run; in one that is about to start it waits for ever.
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
"""How much is read, hashed or decoded at once: what is touched again is still in the cache."""

MAPPED_BYTES = 2**18
"""From here on a buffer is the system's own mapping; below, the allocator is cheaper."""

_LOOK_SECONDS = 0.05
"""How often a thread that waits for a buffer looks whether it should stop."""


class Buffers:
    """Up to `count` buffers of `size` bytes, each made when it is first needed. Thread-safe."""

    def __init__(self, size: int, *, count: int, stop: Stop) -> None:
        self.size = size
        self._left = count
        self._stop = stop
        self._free: list[memoryview] = []
        self._changed = threading.Condition()

    def take(self) -> memoryview:
        """Return a buffer, when there is one; its content is arbitrary.

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
        """Make a buffer free again; nobody may use it any more."""
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
        """Make a buffer that was taken free again after the block."""
        try:
            yield buffer
        finally:
            self.give_back(buffer)

    @contextlib.contextmanager
    def kept_unless_raised(self, buffer: memoryview) -> Iterator[memoryview]:
        """Make a buffer that was taken free again only if the block raises."""
        try:
            yield buffer
        except BaseException:
            self.give_back(buffer)
            raise


def allocate(size: int) -> memoryview:
    """Return a new buffer of `size` bytes; of a large one only what is touched takes memory.

    A large one is never the allocator's, which would keep what is as large in its heaps from then
    on: a bytearray of 512 KiB for each chunk cost 50 MiB (measured, gzip of random bytes).
    """
    return memoryview(mmap.mmap(-1, size) if size >= MAPPED_BYTES else bytearray(size))

"""Work in several threads at once, never more than a window ahead."""

from __future__ import annotations

import contextlib
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

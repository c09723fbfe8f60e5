"""Work in a window."""

from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError, Future

import pytest

from dockercomms.transport.window import Stop, looped, run_window, workers


def test_window_gives_every_result_with_its_number():
    tasks = [lambda number=number: number * number for number in range(20)]
    results = dict(run_window(tasks, concurrency=3, stop=Stop()))
    assert results == {number: number * number for number in range(20)}


def test_window_of_nothing_is_empty():
    assert list(run_window([], concurrency=3, stop=Stop())) == []


def test_window_runs_no_more_than_it_may_and_takes_one_ahead():
    lock, gate = threading.Lock(), threading.Event()
    running, most, taken = 0, 0, 0

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        gate.wait(10)
        with lock:
            running -= 1

    def tasks():
        nonlocal taken
        for _ in range(12):
            taken += 1
            if taken == 4:  # three are under way; nothing may end before they are let go
                gate.set()
            yield work

    list(run_window(tasks(), concurrency=3, stop=Stop()))
    assert most <= 3
    assert taken == 12


def test_window_ends_with_the_first_failure_and_stops_the_rest():
    stop, started = Stop(), threading.Event()
    ended = []

    def endless() -> None:
        started.set()
        try:
            while True:
                stop.check()
        finally:
            ended.append(True)

    def fail() -> None:
        started.wait(10)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        list(run_window([endless, fail, fail], concurrency=2, stop=stop))
    assert ended == [True]
    with pytest.raises(CancelledError):
        stop.check()


def test_window_stops_when_its_tasks_break():
    stop = Stop()

    def tasks():
        yield lambda: 1
        raise OSError("unreadable")

    with pytest.raises(OSError, match="unreadable"):
        list(run_window(tasks(), concurrency=2, stop=stop))
    with pytest.raises(CancelledError):
        stop.check()


def test_window_left_early_stops_what_runs():
    stop = Stop()

    def until_stopped() -> None:
        while True:
            stop.check()

    results = run_window([lambda: 1, until_stopped], concurrency=2, stop=stop)
    assert next(results) == (0, 1)
    results.close()
    with pytest.raises(CancelledError):
        stop.check()


def broken_off(error: BaseException, wait_seconds: float) -> list[Future[bool]]:
    """Return what came of two waits for one worker, in a block that ends with `error`."""
    gate = threading.Event()
    futures: list[Future[bool]] = []

    def run() -> None:
        with workers(1) as pool:
            futures.extend(pool.submit(gate.wait, wait_seconds) for _ in range(2))
            raise error

    with pytest.raises(type(error)):
        run()
    left = [future.done() for future in futures]
    gate.set()
    assert futures[0].result() is not None
    assert futures[1].cancelled()
    return left


def test_workers_do_not_keep_who_interrupts_them():
    assert broken_off(KeyboardInterrupt(), 10) == [False, True]


def test_workers_are_waited_for_after_any_other_error():
    assert broken_off(ValueError("broken"), 0.01) == [True, True]


@pytest.mark.parametrize("fails", [False, True])
def test_window_that_is_left_early_has_no_work_left(fails):
    """Whatever the loop was left for; a thread that writes on would write to another file."""
    before, stop = set(threading.enumerate()), Stop()

    def work():
        while True:
            stop.check()
            time.sleep(0.001)

    def loop():
        tasks = [lambda: 1, *[work] * 3]
        with looped(run_window(tasks, concurrency=4, stop=stop)) as window:
            for _ in window:
                if fails:
                    raise OSError("the disk")
                break

    if fails:
        with pytest.raises(OSError, match="the disk"):
            loop()
        assert set(threading.enumerate()) <= before
    else:
        loop()
    with pytest.raises(CancelledError):
        stop.check()


def test_window_of_one_runs_in_the_callers_thread():
    found = run_window([threading.get_ident] * 2, concurrency=3, stop=Stop(), alone=True)
    with looped(found) as window:
        assert list(window) == [(0, threading.get_ident()), (1, threading.get_ident())]


def test_window_of_one_that_fails_is_stopped():
    stop = Stop()

    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        list(run_window([fail], concurrency=3, stop=stop, alone=True))
    with pytest.raises(CancelledError):
        stop.check()

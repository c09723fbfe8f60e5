from __future__ import annotations

import threading
from functools import partial

import pytest

from dockercomms.errors import NetworkError
from dockercomms.messages import rounds as module
from dockercomms.messages.rounds import Overlap, with_next

WAIT_SECONDS = 120.0


def here() -> str:
    return threading.current_thread().name


def begin(overlap, *jobs, work=lambda: "ahead", error=None):
    """Begin `work`, then `jobs` beside it; raise `error`, if one is given, as a caller would."""
    with overlap:
        overlap.expect(("a", work))
        overlap.delivered()
        for job in jobs:
            overlap.later(job)
        if error is not None:
            raise error


def fail() -> str:
    raise NetworkError("the line was cut")


def test_what_was_not_begun_is_done_by_its_caller():
    with Overlap() as overlap:
        overlap.delivered()
        assert overlap.result("a", here) == here()


def test_what_was_expected_and_not_begun_is_done_by_its_caller():
    with Overlap() as overlap:
        overlap.expect(("a", lambda: "ahead"))
        assert overlap.result("a", here) == here()


def test_what_is_not_expected_any_more_is_not_begun():
    with Overlap() as overlap:
        overlap.expect(("a", lambda: "ahead"))
        overlap.expect(None)
        overlap.delivered()
        assert overlap.result("a", here) == here()


def test_what_comes_next_is_expected_before_this_one_is_done():
    with Overlap() as overlap:
        overlap.expect(("b", lambda: "ahead"))
        assert overlap.result("a", here) == here()
        overlap.delivered()
        assert overlap.result("b", here) == "ahead"


def test_what_was_begun_goes_on_beside_its_caller():
    met = threading.Barrier(2, timeout=WAIT_SECONDS)
    with Overlap() as overlap:
        overlap.expect(("a", lambda: (met.wait(), here())[1]))
        overlap.delivered()
        met.wait()
        assert overlap.result("a", lambda: "again") not in (here(), "again")


def test_what_was_begun_is_told_once():
    with Overlap() as overlap:
        overlap.expect(("a", lambda: "ahead"))
        overlap.delivered()
        assert [overlap.result("a", here) for _ in range(2)] == ["ahead", here()]


def test_what_was_begun_may_fail():
    with Overlap() as overlap:
        overlap.expect(("a", fail))
        overlap.delivered()
        with pytest.raises(NetworkError, match="the line was cut"):
            overlap.result("a", here)


@pytest.mark.parametrize("work", [lambda: "ahead", fail], ids=["done", "failed"])
def test_what_was_begun_for_another_says_nothing(work):
    with Overlap() as overlap:
        overlap.expect(("a", work))
        overlap.delivered()
        assert overlap.result("b", here) == here()


def test_what_was_begun_long_ago_is_done_anew(monkeypatch):
    monkeypatch.setattr(module, "FRESH_SECONDS", -1.0)
    with Overlap() as overlap:
        overlap.expect(("a", lambda: "ahead"))
        overlap.delivered()
        assert overlap.result("a", here) == here()


def test_what_may_be_late_is_done_at_once_where_nothing_comes_after():
    done: list[str] = []
    with Overlap() as overlap:
        overlap.later(lambda: done.append(here()))
        assert done == [here()]


def test_what_may_be_late_goes_on_beside_its_caller_and_is_done_at_the_end():
    go, done = threading.Event(), []

    def job() -> None:
        assert go.wait(WAIT_SECONDS)
        done.append(here())

    with Overlap() as overlap:
        overlap.expect(("a", lambda: "ahead"))
        overlap.delivered()
        overlap.later(job)
        assert done == []
        go.set()
    assert len(done) == 1
    assert done != [here()]


def test_what_may_be_late_is_never_two_at_once():
    running, most = 0, 0

    def job() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        running -= 1

    with Overlap() as overlap:
        for number in range(20):
            overlap.expect((number, lambda: "ahead"))
            overlap.delivered()
            overlap.later(job)
            assert overlap.result(number, here) == "ahead"
    assert most == 1


def test_a_fault_of_what_was_late_is_not_swallowed():
    with pytest.raises(ZeroDivisionError):
        begin(Overlap(), lambda: 1 // 0)


@pytest.mark.parametrize("error", [KeyboardInterrupt, GeneratorExit])
def test_who_leaves_waits_for_nobody(monkeypatch, error):
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.01)
    go = threading.Event()
    hangs = partial(go.wait, WAIT_SECONDS)
    try:
        with pytest.raises(error):
            begin(Overlap(), hangs, work=hangs, error=error)
        assert not go.is_set()
    finally:
        go.set()


def test_who_leaves_still_has_done_what_takes_no_time():
    done = threading.Event()
    with pytest.raises(GeneratorExit):
        begin(Overlap(), done.set, error=GeneratorExit)
    assert done.is_set()


@pytest.mark.parametrize(
    ("items", "pairs"),
    [
        ([], []),
        ([1], [(1, None)]),
        ([1, 2, 3], [(1, 2), (2, 3), (3, None)]),
    ],
)
def test_with_next_yields_each_item_and_the_one_after_it(items, pairs):
    assert list(with_next(items)) == pairs

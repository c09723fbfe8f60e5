from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from dockercomms.platforms.clock import Clocks
from dockercomms.state import State

START = datetime(2026, 11, 20, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def rows(tmp_path):
    with State(tmp_path / "state.db") as state:
        yield state.clocks


def at(days: float, theirs: float | None = None) -> Clocks:
    """Return our clock on a day, and the registry's, the same unless told otherwise."""
    return Clocks(START + days * DAY, START + (days if theirs is None else theirs) * DAY)


def test_time_counts_when_it_was_seen_again_a_day_later(rows):
    assert rows.settle(at(0)) is None
    assert rows.settle(at(0.9)) is None
    assert rows.settle(at(1)) == START
    assert rows.settle(at(1.5)) == START
    assert rows.settle(at(90)) == START + DAY


@pytest.mark.parametrize("registry", [True, False])
def test_clock_that_was_ahead_for_one_run_does_not_count(rows, registry):
    for day in (0, 1, 365, 1.1, 2.2, 3.2):
        clocks = at(day) if registry else Clocks(START + day * DAY)
        settled = rows.settle(clocks)
    assert settled == START + 2.2 * DAY


def test_clock_that_went_back_takes_with_it_what_counted(rows):
    for day in (0, 10, 20, 2):
        settled = rows.settle(at(day))
    assert settled == START + 2 * DAY


def test_nothing_counts_while_the_clocks_disagree(rows):
    rows.settle(at(0))
    assert rows.settle(at(1)) == START
    assert rows.settle(at(2, theirs=2.05)) is None
    assert rows.settle(Clocks(START, datetime(9999, 12, 31, tzinfo=UTC))) is None


def test_widest_gap_that_was_ever_seen_is_taken_off(rows):
    for day in (0, 1):
        rows.settle(at(day))
    rows.settle(at(2, theirs=-40))
    assert rows.settle(at(3)) == START + 1 * DAY - 42 * DAY
    rows.settle(at(4, theirs=6))
    assert rows.settle(at(5)) == START + 3 * DAY - 42 * DAY


def test_registry_of_1970_lets_nothing_be_forgotten_from_then_on(rows):
    rows.settle(at(0))
    rows.settle(Clocks(START, datetime(1970, 1, 1, tzinfo=UTC)))
    assert rows.settle(at(2)) == datetime(1970, 1, 1, tzinfo=UTC)

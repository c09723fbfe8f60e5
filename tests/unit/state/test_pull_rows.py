"""State rows of payloads during their download."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dockercomms.state import State

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
PATH = Path("/in/x/.dockercomms-0123456789abcdef.part")


def test_chunks_are_known_to_the_next_run(state):
    state.pulls.begin("a", PATH, now=NOW)
    for chunk in (3, 1, 3):
        state.pulls.record("a", chunk)
    with State(state.path) as again:
        assert again.pulls.chunks("a") == {1, 3}
        assert again.pulls.path("a", now=NOW) == PATH
        assert again.pulls.chunks("b") == frozenset()


def test_new_file_holds_nothing(state):
    state.pulls.begin("a", PATH, now=NOW)
    state.pulls.record("a", 1)
    state.pulls.begin("a", Path("/other"), now=NOW)
    assert state.pulls.chunks("a") == frozenset()


def test_forgetting_takes_the_file_or_its_chunks_alone(state):
    for key in "ab":
        state.pulls.begin(key, PATH, now=NOW)
        state.pulls.record(key, 1)
    state.pulls.forget_chunks("a")
    assert (state.pulls.chunks("a"), state.pulls.path("a", now=NOW)) == (frozenset(), PATH)
    state.pulls.forget("a")
    state.pulls.forget("a")
    assert state.pulls.path("a", now=NOW) is None
    assert state.pulls.chunks("b") == {1}


@pytest.mark.parametrize(("hours", "kept"), [(23, True), (24, False)])
def test_file_is_gone_on_with_for_a_day(state, hours, kept):
    state.pulls.begin("a", PATH, now=NOW)
    later = NOW + timedelta(hours=hours)
    assert (state.pulls.path("a", now=later) is not None) == kept
    state.pulls.sweep(now=later)
    assert (state.pulls.path("a", now=NOW) is not None) == kept

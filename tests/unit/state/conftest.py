"""A state file."""

from __future__ import annotations

import pytest

from dockercomms.state import State


@pytest.fixture
def state(tmp_path):
    with State(tmp_path / "state.db") as state:
        yield state

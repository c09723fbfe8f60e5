"""An inbox with its state file and its senders."""

from __future__ import annotations

import pytest

from dockercomms.state import State
from tests.fakes.inboxes import World


@pytest.fixture
def state(tmp_path):
    with State(tmp_path / "state.db") as state:
        yield state


@pytest.fixture
def world(state):
    return World(state)

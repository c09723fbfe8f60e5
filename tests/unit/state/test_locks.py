from __future__ import annotations

import pytest

from dockercomms.errors import LocalIOError
from dockercomms.state.locks import try_lock


def test_try_lock_is_free_again_after_an_error(tmp_path):
    path = tmp_path / "deep" / "x.lock"
    held = []

    def fail():
        with try_lock(path) as ours:
            held.append(ours)
            raise KeyError

    for _ in range(2):
        with pytest.raises(KeyError):
            fail()

    assert held == [True, True]


def test_try_lock_says_what_is_in_the_way(tmp_path):
    (tmp_path / "file").write_text("x")

    with pytest.raises(LocalIOError, match="lock"), try_lock(tmp_path / "file" / "x.lock"):
        pass

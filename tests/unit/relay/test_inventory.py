from __future__ import annotations

import threading

import pytest

from dockercomms.errors import NetworkError, NotFoundError
from dockercomms.oci.memory import MemoryRegistry
from dockercomms.relay.inventory import fetch_all


def test_fetch_all_that_is_left_early_has_no_threads_left():
    """Whoever leaves it to the collector would wait for threads wherever that runs."""
    before = set(threading.enumerate())

    found = fetch_all(MemoryRegistry(), "team/box", ["a", "b", "c"])

    first = next(found)
    assert isinstance(first.error, NotFoundError)
    assert set(threading.enumerate()) <= before


def test_fetch_all_ends_with_the_failure_after_what_came_before_it():
    class Failing(MemoryRegistry):
        def get_tag(self, repository, tag):
            if int(tag) >= 3:
                raise NetworkError("the line is dead")
            return super().get_tag(repository, tag)

    found = fetch_all(Failing(), "team/box", [str(number) for number in range(200)])

    assert [next(found).ref for _ in range(3)] == ["0", "1", "2"]
    with pytest.raises(NetworkError, match="dead"):
        next(found)

"""Memory that is used again."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError

import pytest

from dockercomms.transport.window import MAPPED_BYTES, Buffers, Stop, allocate


def test_buffers_are_made_once_and_used_again():
    buffers = Buffers(10, count=2, stop=Stop())
    one, two = buffers.take(), buffers.take()
    buffers.give_back(two)
    assert buffers.take() is two
    assert one is not two
    assert len(one) == 10


def test_take_waits_for_a_buffer():
    buffers = Buffers(10, count=1, stop=Stop())
    one = buffers.take()
    timer = threading.Timer(0.01, buffers.give_back, [one])
    timer.start()
    assert buffers.take() is one
    timer.join()


def test_take_ends_when_the_work_is_to_stop():
    stop = Stop()
    buffers = Buffers(10, count=0, stop=stop)
    stop.set()
    with pytest.raises(CancelledError):
        buffers.take()


def test_buffers_come_back_from_blocks():
    buffers = Buffers(10, count=1, stop=Stop())
    with buffers.lend() as one:
        pass
    with pytest.raises(InterruptedError), buffers.kept_unless_raised(buffers.take()):
        raise InterruptedError
    with buffers.kept_unless_raised(buffers.take()) as two:
        pass
    assert one is two
    with buffers.borrowed(two):
        pass
    assert buffers.take() is one


@pytest.mark.parametrize("size", [0, 1, MAPPED_BYTES - 1, MAPPED_BYTES, MAPPED_BYTES + 1])
def test_allocated_memory_has_its_size_and_can_be_written(size):
    room = allocate(size)
    room[:] = b"x" * size
    assert len(room) == size

"""Several processes write one layout at once: nothing is lost, no reader sees half of anything."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from pathlib import Path

import pytest

from dockercomms.errors import ManifestUnknown, NameUnknown
from dockercomms.oci.layout.registry import LayoutRegistry
from tests.contract.layout_processes import SUBJECT, delete, read, send

PROCESSES = 3
MESSAGES = 15


@pytest.fixture
def pool() -> Iterator[Executor]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, mp_context=context) as started:
        yield started


def test_layout_loses_nothing_of_many_processes(pool: Executor, tmp_path: Path) -> None:
    folder = tmp_path / "box"
    sending = [pool.submit(send, folder, sender, MESSAGES) for sender in range(PROCESSES)]
    watching = LayoutRegistry(folder)
    seen = 0
    while not all(task.done() for task in sending):
        try:
            now = read(watching), read(LayoutRegistry(folder))
        except NameUnknown:
            assert seen == 0
            continue
        assert seen <= now[0] <= now[1]
        seen = now[1]
    sent = sorted(tag for task in sending for tag in task.result())
    assert len(sent) == PROCESSES * MESSAGES
    assert list(watching.tags("")) == sorted([*sent, "bell"])
    assert len(list(watching.referrers("", SUBJECT.digest))) == len(sent)
    last = {
        watching.resolve_tag("", f"message-{n:02d}-{MESSAGES - 1:02d}") for n in range(PROCESSES)
    }
    assert watching.resolve_tag("", "bell") in last


def test_layout_is_deleted_from_and_written_at_once(pool: Executor, tmp_path: Path) -> None:
    folder = tmp_path / "box"
    old = pool.submit(send, folder, 90, MESSAGES).result()
    changing: list[Future[object]] = [
        pool.submit(delete, folder, old),
        pool.submit(send, folder, 0, MESSAGES),
    ]
    watching = LayoutRegistry(folder)
    while not all(task.done() for task in changing):
        try:
            read(watching)
        except ManifestUnknown:
            pass  # deleted between the list and the look
    for task in changing:
        task.result()
    assert set(watching.tags("")) == {f"message-00-{number:02d}" for number in range(MESSAGES)} | {
        "bell"
    }
    assert read(watching) == MESSAGES + 1

"""Each HTTP request of a small send, and of a small receive, fails in turn; the next run puts it
right: one message, one delivery, one receipt, nothing left behind.

What a run does to its disk is broken off, operation by operation, in test_crash_points.py.
"""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from dockercomms.platforms.clock import SystemClock
from tests.cli.harness import Result
from tests.fakes.clock import FakeClock
from tests.fakes.registry import DISTRIBUTION, OCI, FakeRegistry, Fault
from tests.faults.people import REPOSITORY, Person, messages, receipt_digests
from tests.faults.zygote import Ended, Zygote

DATA = os.urandom(3000)
MOST_REQUESTS = 60
FOREVER = 10_000
PATIENCE_SECONDS = 120.0
"""For a process to start and to get to its request on a busy machine."""

REGISTRIES = {"referrers-api": OCI, "tag-schema": DISTRIBUTION}

EVERYTHING = os.environ.get("DOCKERCOMMS_CRASH_EVERY") == "1"
"""Every combination, as in the long run of the tests; else each fault on one of the registries."""

FAULTS = {
    "500": Fault.answer(500),
    "drop-before": Fault.drop_before(),
    "drop-after": Fault.drop_after(),
    "cut": Fault.cut_body(),
    "garbage": Fault.garbage(),
}
LIES = {"wrong-bytes": Fault.wrong_body(), "wrong-digest": Fault.wrong_digest()}
if EVERYTHING:
    FAULTS |= LIES
OUTAGES = tuple(FAULTS) if EVERYTHING else ("drop-before", "garbage")


def combined(names: Iterable[str]) -> list[tuple[str, str]]:
    """Return pairs of a name and a registry: all, or every name with the next registry."""
    if EVERYTHING:
        return list(itertools.product(names, REGISTRIES))
    return list(zip(names, itertools.cycle(REGISTRIES), strict=False))


class Trial(AbstractContextManager["Trial"]):
    """A registry of its own, and two people."""

    def __init__(self, folder: Path, registry: str, clock: Any) -> None:
        folder.mkdir()
        (folder / "a.bin").write_bytes(DATA)
        self.registry = FakeRegistry(REGISTRIES[registry], clock=clock).start()
        repo = f"{self.registry.host}/{REPOSITORY}"
        self.alice = Person("alice", folder, repo, clock)
        self.bob = Person("bob", folder, repo, clock)

    def __exit__(self, *_: object) -> None:
        self.registry.close()

    def send(self) -> Result:
        return self.alice.send(str(self.alice.folder / "a.bin"), "--chunk-size", "2000")

    def send_ok(self) -> None:
        result = self.send()
        assert result.exit_code == 0, result.stderr

    def recv(self) -> Result:
        return self.bob.recv()

    def check(self) -> None:
        """Check that one message was published, and that it arrives, or has arrived, once."""
        self.bob.received()
        assert self.bob.content() == [DATA]
        assert self.bob.received() == []
        assert len(messages(self.registry)) == 1
        assert len(receipt_digests(self.registry)) == 1
        assert len(list(self.bob.out.iterdir())) == 1
        assert list(self.bob.home.rglob("receives/*")) == []
        assert list(self.alice.home.rglob("sends/*.lock")) == []


# --- a request fails -----------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["send", "recv"])
@pytest.mark.parametrize(
    ("fault", "registry", "times"),
    [(*one, 1) for one in combined(FAULTS)] + [(*one, FOREVER) for one in combined(OUTAGES)],
)
def test_registry_that_fails_at_a_request_is_put_right(
    tmp_path: Path, registry: str, verb: str, fault: str, times: int
) -> None:
    """Once: mostly the same run tries again. Till the run gives up: the next run does."""
    for number in range(1, MOST_REQUESTS):
        with Trial(tmp_path / str(number), registry, FakeClock()) as trial:
            if verb == "recv":
                trial.send_ok()
            trial.registry.fail_at(number, FAULTS[fault], times=times)
            code = (trial.send if verb == "send" else trial.recv)().exit_code
            left = trial.registry.faults.pending
            trial.registry.faults.clear()
            if verb == "send" and code != 0:
                trial.send_ok()
            trial.check()
            if left == times:
                assert [told["status"] for told in trial.alice.receipts()] == ["accepted"]
        if left == times:
            assert number > 5
            return
    pytest.fail("a small transfer takes that many requests")


# --- the process is stopped ----------------------------------------------------------------------

STOPS = {
    # The request was answered, the next one is on its way and not done.
    "killed-between": (Fault.silent(), signal.SIGKILL),
    # The request was done, and its answer is not heard any more.
    "killed-after": (Fault.silent_after(), signal.SIGKILL),
    "interrupted": (Fault.silent_after(), signal.SIGINT),
}


def stop_at(trial: Trial, zygote: Zygote, verb: str, number: int, how: str) -> Ended:
    """Run a verb in a process that is stopped at its `number`-th request, if it gets so far."""
    fault, sign = STOPS[how]
    person = trial.alice if verb == "send" else trial.bob
    arguments = {
        "send": ["send", "--to", "bob", str(person.folder / "a.bin"), "--chunk-size", "2000"],
        "recv": ["recv", "--out", str(person.out)],
    }[verb]
    trial.registry.fail_at(number, fault)
    child = zygote.start(
        [*arguments, "-q", "--repo", person.repo, "--me", person.name],
        folder=person.folder,
        environ={"HOME": str(person.home), **person.environ},
    )
    ended: list[Ended] = []
    waiting = threading.Thread(target=lambda: ended.append(child.wait()))
    waiting.start()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while waiting.is_alive() and time.monotonic() < deadline:
        if any(record.fault is fault for record in trial.registry.asked()):
            os.kill(child.pid, sign)
            break
        waiting.join(0.002)
    waiting.join(PATIENCE_SECONDS)
    if not ended:
        os.kill(child.pid, signal.SIGKILL)
        waiting.join()
        pytest.fail(f"request {number}: told to stop, it went on for {PATIENCE_SECONDS} s")
    return ended[0]


@pytest.mark.parametrize(("how", "registry"), combined(STOPS))
@pytest.mark.parametrize("verb", ["send", "recv"])
def test_process_that_is_stopped_at_a_request_is_put_right(
    tmp_path: Path, zygote: Zygote, registry: str, verb: str, how: str
) -> None:
    for number in range(1, MOST_REQUESTS):
        with Trial(tmp_path / str(number), registry, SystemClock()) as trial:
            if verb == "recv":
                trial.send_ok()
            ended = stop_at(trial, zygote, verb, number, how)
            left = trial.registry.faults.pending
            trial.registry.faults.clear()
            if left:
                assert ended.exit_code == 0, ended.stderr
                assert number > 5
                return
            if how == "interrupted":
                assert ended.exit_code == 130, ended.stderr
                assert ended.stderr.splitlines()[0] == f"error: {verb}: interrupted"
            else:
                assert ended.exit_code == -signal.SIGKILL
            if verb == "send":
                trial.send_ok()
            trial.check()
    pytest.fail("a small transfer takes that many requests")

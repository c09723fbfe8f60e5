"""`watch` as real processes against a real registry: shared on one machine, whole on each of two."""

from __future__ import annotations

import json
import signal
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from dockercomms import Mailbox
from tests.real.launch import Server
from tests.real.program import Machine, Run, finish

MESSAGES = 6
SECONDS = 60


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < deadline, "it does not come to that"
        time.sleep(0.02)


def stop(watch: subprocess.Popen[bytes]) -> Run:
    watch.send_signal(signal.SIGTERM)
    return finish(watch).ok()


def test_watches_of_two_machines(distribution: Server, tmp_path: Path) -> None:
    repo = f"{distribution.host}/watched/{uuid.uuid4().hex}"
    log = tmp_path / "log"
    log.touch()
    one, two = (Machine(tmp_path / name) for name in ("one", "two"))
    script = f"sh -c 'echo {{}} $DOCKERCOMMS_MSG_ID $DOCKERCOMMS_MSG_SIGNER >>{log}'"

    def start(machine: Machine, name: str) -> subprocess.Popen[bytes]:
        words = (
            "--me",
            "bob",
            "--repo",
            repo,
            "--interval",
            "1s",
            "--out",
            str(machine.home / "in"),
        )
        return machine.start("watch", *words, "--exec", script.format(name), "--accept-new")

    watches = [start(one, "one"), start(one, "one"), start(two, "two")]
    with Mailbox(
        repo, me="alice", state_path=tmp_path / "alice.db", keys_folder=tmp_path / "keys"
    ) as alice:
        sent = {alice.send(to="bob", text=f"{number}").id for number in range(MESSAGES)}
        until(lambda: len(log.read_text().splitlines()) >= 2 * MESSAGES)
        runs = [stop(watch) for watch in watches]
        lines = [tuple(line.split()) for line in log.read_text().splitlines()]
        assert Counter(lines) == Counter(
            (name, message, "alice") for name in ("one", "two") for message in sent
        )
        printed = [json.loads(line) for run in runs for line in run.stdout.splitlines()]
        assert Counter(row["id"] for row in printed) == Counter({message: 2 for message in sent})
        assert {row["told"] for row in printed} == {"accepted"}
        # She has no key of bob's, so that his answers are claims.
        assert {receipt.status for receipt in alice.receipts()} == {"accepted"}
        assert {entry.fate for entry in alice.outbox()} == {"silent"}

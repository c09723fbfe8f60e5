"""Watches that share an inbox, and watches that are killed: no message is lost, none is done twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dockercomms import Mailbox
from tests.fakes.signalled import bare

MESSAGES = 12
SECONDS = 240
PROGRAM = (sys.executable, "-m", "dockercomms")
# Says when it begins and ends; two of them for one message at once would find each other's folder.
SCRIPT = """
mkdir "$1/busy" || echo "clash $DOCKERCOMMS_MSG_ID" >>"$2"
echo "begin $DOCKERCOMMS_MSG_ID $DOCKERCOMMS_MSG_ATTEMPT" >>"$2"
sleep "$3"
rmdir "$1/busy"
echo "end $DOCKERCOMMS_MSG_ID" >>"$2"
"""


class Site:
    """A machine with an inbox in a folder, and watches of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.log.touch()
        self.script = folder / "script"
        self.script.write_text(SCRIPT)
        self.environ = {
            **bare(os.environ),
            "HOME": str(folder),
            "LOGNAME": "bob",
            **{f"XDG_{kind}_HOME": str(folder / kind) for kind in ("CONFIG", "DATA", "STATE")},
        }

    def run(self, *words: str) -> str:
        done = subprocess.run(
            [*PROGRAM, *words], env=self.environ, capture_output=True, text=True, check=True
        )
        return done.stdout

    def send(self, number: int) -> set[str]:
        data, state = self.folder / "DATA" / "dockercomms", self.folder / "STATE" / "dockercomms"
        with Mailbox(
            f"oci-layout:{data / 'mailbox'}",
            me="bob",
            keys_folder=data / "keys",
            state_path=state / "state.db",
        ) as bob:
            return {bob.send(to="bob", text=f"{n}").id for n in range(number)}

    def watch(self, seconds: float) -> subprocess.Popen[bytes]:
        command = f"sh {self.script} {{dir}} {self.log} {seconds}"
        return subprocess.Popen(
            [*PROGRAM, "watch", "--interval", "1s", "--out", str(self.folder / "in"),
             "--exec", command],
            env=self.environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip

    def said(self, word: str) -> list[str]:
        lines = [line.split() for line in self.log.read_text().splitlines()]
        return [line[1] for line in lines if line[0] == word]


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < deadline, "it does not come to that"
        time.sleep(0.02)


def stop(*watches: subprocess.Popen[bytes]) -> None:
    for watch in watches:
        watch.send_signal(signal.SIGTERM)
    for watch in watches:
        _, said = watch.communicate(timeout=SECONDS)
        assert watch.returncode == 0, said.decode()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_watches_of_one_machine_share_the_work(site: Site) -> None:
    sent = site.send(MESSAGES)
    watches = [site.watch(0.05) for _ in range(3)]
    until(lambda: len(site.said("end")) >= MESSAGES)
    stop(*watches)
    assert sorted(site.said("begin")) == sorted(sent)
    assert site.said("clash") == []
    told = [line.split("\t")[1] for line in site.run("outbox").splitlines()]
    assert told == ["accepted"] * MESSAGES


def test_watch_that_is_killed_loses_nothing_and_its_command_is_not_met(site: Site) -> None:
    """SIGKILL while a command runs: it lives on, and is run again only after it has ended."""
    (one,) = site.send(1)
    first = site.watch(1.5)
    until(lambda: site.said("begin") == [one])
    first.kill()
    first.communicate()
    second = site.watch(0)
    until(lambda: len(site.said("end")) == 2)
    stop(second)
    assert site.said("begin") == [one, one]
    assert site.said("clash") == []
    assert [line.split()[-1] for line in site.log.read_text().splitlines() if "begin" in line] == [
        "1",
        "2",
    ]
    (told,) = site.run("outbox").splitlines()
    assert told.split("\t")[1] == "accepted"

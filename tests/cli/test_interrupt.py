"""A process that is told to stop, stops: in order, at once, and with the exit code for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dockercomms.errors import Notice
from dockercomms.messages.draft import Sent
from tests.cli.harness import invoke
from tests.fakes.mailbox import FakeMailbox, sent
from tests.fakes.scripted import Reply, ScriptedServer, Stall
from tests.fakes.signalled import unmeasured

PATIENCE_SECONDS = 120.0
"""For a process to start and to end on a busy machine."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_process_that_is_told_to_stop_exits_130(tmp_path: Path, number: signal.Signals) -> None:
    environ = {**unmeasured(os.environ), "HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path)}
    environ |= {"XDG_CONFIG_HOME": str(tmp_path), "NO_COLOR": "1"}
    with ScriptedServer(rest=Stall(Reply(200))) as server:
        child = subprocess.Popen(
            [sys.executable, "-m", "dockercomms", "recv", "--repo", f"{server.host}/team/box"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environ,
            cwd=tmp_path,
        )
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not server.requests and time.monotonic() < deadline:
            time.sleep(0.01)
        child.send_signal(number)
        stdout, stderr = child.communicate(timeout=PATIENCE_SECONDS)
    assert child.returncode == 130
    assert stdout == ""
    assert stderr.splitlines() == [
        "error: recv: interrupted",
        "why: stopped by a signal",
        "hint: run the same command again; it resumes",
    ]


class MakesAClass(FakeMailbox):
    """Is interrupted where Python wraps whatever is raised, as imports may be."""

    def inbox(self, **_: Any) -> Any:
        class Field:
            def __set_name__(self, owner: type, name: str) -> None:
                raise KeyboardInterrupt

        class Made:
            field = Field()

        return Made


def test_interrupt_while_a_class_is_made_is_one() -> None:
    result = invoke(["inbox"], factory=MakesAClass())
    assert (result.exit_code, result.stdout) == (130, "")
    assert "interrupted" in result.stderr


# --- Ctrl-C behind the publication ---------------------------------------------------------------


class Interrupted(FakeMailbox):
    """Publishes, is told to stop, and only then returns."""

    def send(self, paths: Any, **options: Any) -> Sent:
        found = super().send(paths, **options)
        self.options["on_notice"](Notice("published", "the message is published"))
        signal.raise_signal(signal.SIGINT)
        return found


def test_interrupt_behind_the_publication_waits_for_the_line() -> None:
    """Else its user is told to run it again, which sends the message twice."""
    before = signal.getsignal(signal.SIGINT)
    result = invoke(["send", "x", "--to", "bob"], factory=Interrupted(sends=[sent()]))
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 2
    assert signal.getsignal(signal.SIGINT) is before


def test_interrupt_behind_one_publication_stops_before_the_next() -> None:
    mailbox = Interrupted(sends=[sent(), sent()])
    result = invoke(["send", "x", "--to", "bob", "--to", "carol"], factory=mailbox)
    assert result.exit_code == 130
    assert len(result.stdout.splitlines()) == 2
    assert (
        "warning: sent to bob; to send to the others, run the same command again: it sends no second copy"
        in result.stderr
    )
    assert len([call for call in mailbox.calls if call[0] == "send"]) == 1


def test_second_interrupt_is_not_held_back() -> None:
    class Impatient(Interrupted):
        def send(self, paths: Any, **options: Any) -> Sent:
            super().send(paths, **options)
            signal.raise_signal(signal.SIGINT)
            raise AssertionError("not interrupted")

    result = invoke(["send", "x", "--to", "bob"], factory=Impatient(sends=[sent()]))
    assert (result.exit_code, result.stdout) == (130, "")


def test_interrupt_while_an_answer_is_awaited_does_not_say_send_again() -> None:
    words = ["send", "x", "--to", "bob", "--wait", "1m"]
    result = invoke(words, factory=Interrupted(sends=[sent()]))
    assert result.exit_code == 130
    assert "run the same command again" not in result.stderr
    assert "dockercomms outbox" in result.stderr

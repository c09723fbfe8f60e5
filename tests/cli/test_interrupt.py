"""A process that is told to stop, stops: in order, at once, and with the exit code for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fakes.scripted import Reply, ScriptedServer, Stall
from tests.fakes.signalled import unmeasured

PATIENCE_SECONDS = 20.0
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
        "why: a signal asked to stop",
        "hint: run the same command again; it goes on where it stopped",
    ]

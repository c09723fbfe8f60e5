"""Starts the program as processes of its own, many of them, in a few milliseconds each.

Everything is imported once, in a process without threads that then forks for each command line.

    with Zygote() as zygote:
        child = zygote.start(["inbox"], folder=tmp_path, environ={"HOME": ...})
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait().exit_code == -signal.SIGKILL
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.fakes.signalled import bare, unmeasured

ROOT = Path(__file__).parents[2]
INTERRUPTS = {signal.SIGINT, signal.SIGTERM}

EAGER = """
import click, cryptography, filelock, rich, sqlite3, zstandard
import dockercomms.cli.mail.inbox, dockercomms.cli.mail.receipts, dockercomms.cli.mail.receive
import dockercomms.cli.mail.send, dockercomms.cli.session, dockercomms.cli.program
import dockercomms.cli.records, dockercomms.mailbox, dockercomms.cli.config
import dockercomms.oci.remote.session, dockercomms.oci.remote.wire
"""


@dataclass(frozen=True)
class Ended:
    """A process that has ended; the exit code is negative where a signal ended it."""

    exit_code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Child:
    """A process that was started."""

    pid: int
    zygote: Zygote
    stdout: Path
    stderr: Path

    def wait(self) -> Ended:
        code = self.zygote.ask(wait=self.pid)
        return Ended(code, self.stdout.read_text(), self.stderr.read_text())


class Zygote(AbstractContextManager["Zygote"]):
    """Lives from `__enter__` to `__exit__`. For one thread."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.zygote"],
            cwd=ROOT,
            env=unmeasured(os.environ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._count = 0
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def ask(self, **what: Any) -> int:
        """Ask for a start, which gives a process id, or a wait, which gives an exit code."""
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise RuntimeError("no pipes")
        stdin.write(json.dumps(what) + "\n")
        stdin.flush()
        return int(stdout.readline())

    def start(self, arguments: Sequence[str], *, folder: Path, environ: Mapping[str, str]) -> Child:
        """Run `dockercomms ARGUMENTS` in `folder`: no environment but this, the path, the clock."""
        self._count += 1
        out, err = folder / f".stdout{self._count}", folder / f".stderr{self._count}"
        pid = self.ask(
            start=list(arguments),
            folder=str(folder),
            environ=bare(os.environ) | dict(environ),
            files=[str(out), str(err)],
        )
        return Child(pid, self, out, err)


def _run(order: Mapping[str, Any]) -> None:
    """Be the program, in a process of its own; does not return."""
    os.environ.clear()
    os.environ.update(order["environ"])
    os.chdir(order["folder"])
    devnull = os.open(os.devnull, os.O_RDONLY)
    os.dup2(devnull, 0)
    for number, path in enumerate(order["files"], start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    code = 99
    try:
        from dockercomms.cli.main import process

        sys.argv[1:] = order["start"]
        signal.pthread_sigmask(signal.SIG_UNBLOCK, INTERRUPTS)
        process()
    except SystemExit as done:
        code = int(done.code or 0)
        sys.stdout.flush()
        sys.stderr.flush()
    except KeyboardInterrupt:
        code = 130  # before the program had begun, or when it had ended
    finally:
        os._exit(code)


def _serve() -> None:
    exec(EAGER, {})  # noqa: S102 - nothing of it is used here
    # A child that is interrupted before it is the program waits until it is.
    signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS)
    for line in sys.stdin:
        order = json.loads(line)
        if "start" in order:
            pid = os.fork()
            if pid == 0:
                _run(order)
            answer = pid
        else:
            answer = os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1])
        os.write(1, f"{answer}\n".encode())


if __name__ == "__main__":
    _serve()

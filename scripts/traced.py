"""Send and receive a small file over HTTP and print as JSON which of our code was used.

    python scripts/traced.py               `send`, then `recv`
    python scripts/traced.py send          `send` alone

The registry is tests/fakes/registry.py on loopback. Each command runs in its own process, both in
one new home; `PYTHONPATH` names the folder of the package and of tests. For each command:

- `modules`: modules of the package in `sys.modules` when the command ends
- `files`: files with a function that was called; a call made by an import does not count
- `frames`: for each HTTP method, the functions of the package on the stack when the first request
  with that method is written to its socket, on the stack of the thread that writes
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

PACKAGE = "dockercomms"
PAYLOAD = b"x" * 600
COMMANDS = {
    "send": ("send", "note", "--to", "bob", "--from", "alice"),
    "recv": ("recv", "--me", "bob", "--out", "in"),
}
METHODS = ("HEAD", "POST")
KEPT_VARIABLES = ("PATH", "LD_PRELOAD", "LD_LIBRARY_PATH", "TEST_CLOCK_SHIFT", "PYTHONPATH")
FUNCTION_FLAG = 0x01
"""`CO_OPTIMIZED`: set for functions, not for the bodies of modules and classes."""


class Trace:
    """Notes of one command in this process."""

    def __init__(self, package: Path) -> None:
        self._within = f"{package}{os.sep}"
        self.files: set[str] = set()
        self.frames: dict[str, int] = {}

    def start(self) -> None:
        """Note all calls and all writes to sockets from now on, in all threads."""
        for name in ("send", "sendall", "sendmsg"):
            setattr(socket.socket, name, self._noted(getattr(socket.socket, name)))
        threading.setprofile(self._call)
        sys.setprofile(self._call)

    def _call(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename not in self.files and self._is_function(code):
            outer = (each.f_code for each in _stack(frame))
            if not any(each.co_name == "<module>" and self._is_ours(each) for each in outer):
                self.files.add(code.co_filename)

    def _is_ours(self, code: CodeType) -> bool:
        return code.co_filename.startswith(self._within)

    def _is_function(self, code: CodeType) -> bool:
        return self._is_ours(code) and bool(code.co_flags & FUNCTION_FLAG)

    def _noted(self, write: Callable[..., int | None]) -> Callable[..., int | None]:
        def noted(connection: socket.socket, data: Any, *rest: Any) -> int | None:
            if write.__name__ == "sendmsg":
                data = [*data]
            head = bytes(data[0] if write.__name__ == "sendmsg" else data[:8])
            method = head.partition(b" ")[0].decode("latin-1")
            if method in METHODS and method not in self.frames:
                codes = (frame.f_code for frame in _stack(sys._getframe(1)))  # noqa: SLF001
                self.frames[method] = sum(map(self._is_function, codes))
            return write(connection, data, *rest)

        return noted


def _stack(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def run_noted(arguments: list[str], to: Path) -> None:
    """Run a command line in this process and write its notes to a file.

    Raises:
        SystemExit: as the command exits.
    """
    package = importlib.import_module(PACKAGE)
    assert package.__file__ is not None
    trace = Trace(Path(package.__file__).parent)
    trace.start()
    try:
        importlib.import_module(f"{PACKAGE}.cli.main").main(arguments)
    finally:
        sys.setprofile(None)
        modules = sum(name.partition(".")[0] == PACKAGE for name in sys.modules)
        notes = {"modules": modules, "files": len(trace.files), "frames": trace.frames}
        to.write_text(json.dumps(notes))


def trace_all(verbs: list[str], home: Path) -> dict[str, object]:
    """Run the commands one after the other against one registry; returns their notes."""
    from tests.fakes.registry import FakeRegistry  # noqa: PLC0415 - not needed in the commands

    (home / "note").write_bytes(PAYLOAD)
    environ = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    environ |= {"HOME": str(home), "LOGNAME": "alice"}
    notes = {}
    with FakeRegistry() as registry:
        for verb in verbs:
            to = home / f"{verb}.json"
            words = (*COMMANDS[verb], "--repo", f"{registry.host}/team/mail", "--quiet")
            subprocess.run(
                [sys.executable, __file__, "--to", to, *words],
                cwd=home, env=environ, stdout=subprocess.DEVNULL, check=True,
            )  # fmt: skip
            notes[verb] = json.loads(to.read_text())
    return notes


if __name__ == "__main__":
    if sys.argv[1:2] == ["--to"]:
        run_noted(sys.argv[3:], Path(sys.argv[2]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(trace_all(sys.argv[1:] or [*COMMANDS], Path(folder))))

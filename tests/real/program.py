"""Runs the program under test as a user would, and says what it cost."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

MIB = 2**20

# Linux counts what a process had before it became another program, so what is started by a test
# begins with the memory of the tests (getrusage(2), ru_maxrss). This starts it from a small one.
MEASURED = """
import os, sys
pid = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(pid, 0)
with open(sys.argv[1], "w") as out:
    out.write(str(usage.ru_maxrss))
sys.exit(os.waitstatus_to_exitcode(status))
"""


@dataclass(frozen=True)
class Run:
    """One finished process."""

    code: int
    stdout: str
    stderr: str
    peak_bytes: int
    """Resident memory at its highest: of this process alone where `Machine.run` started it."""

    def objects(self) -> list[dict[str, object]]:
        """The JSON lines of stdout."""
        return [json.loads(line) for line in self.stdout.splitlines()]

    def ok(self) -> Run:
        assert self.code == 0, f"exit code {self.code}\n{self.stdout}\n{self.stderr}"
        return self


@dataclass(frozen=True)
class Machine:
    """One user's machine: a home of its own, so that nothing is shared but the registry."""

    home: Path
    settings: Mapping[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("DOCKERCOMMS_", "XDG_", "DOCKER_", "REGISTRY_"))
        }
        kept.update(
            HOME=str(self.home),
            XDG_STATE_HOME=str(self.home / "state"),
            XDG_DATA_HOME=str(self.home / "data"),
            XDG_CONFIG_HOME=str(self.home / "config"),
            **self.settings,
        )
        return kept

    def start(self, *arguments: str, cwd: Path | None = None) -> subprocess.Popen[bytes]:
        """Start the program; its output goes to files that `finish` reads."""
        return self._start("-m", "dockercomms", *arguments, cwd=cwd)

    def start_script(self, source: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a Python program that uses the library."""
        return self._start("-c", source, *arguments)

    def _start(self, *arguments: str, cwd: Path | None = None) -> subprocess.Popen[bytes]:
        self.home.mkdir(parents=True, exist_ok=True)
        out = tempfile.TemporaryFile()
        err = tempfile.TemporaryFile()
        process = subprocess.Popen(
            [sys.executable, *arguments],
            env=self.environment(),
            cwd=cwd or self.home,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )
        process.files = (out, err)  # type: ignore[attr-defined]
        return process

    def run(self, *arguments: str, cwd: Path | None = None) -> Run:
        return self._measured("-m", "dockercomms", *arguments, cwd=cwd)

    def run_script(self, source: str, *arguments: str) -> Run:
        """Run a Python program that uses the library."""
        return self._measured("-c", source, *arguments)

    def _measured(self, *arguments: str, cwd: Path | None = None) -> Run:
        with tempfile.TemporaryDirectory() as folder:
            peak = Path(folder) / "peak"
            words = ("-I", "-S", "-c", MEASURED, str(peak), sys.executable, *arguments)
            run = finish(self._start(*words, cwd=cwd))
            scale = 1 if sys.platform == "darwin" else 1024
            return replace(run, peak_bytes=int(peak.read_text()) * scale)


def finish(process: subprocess.Popen[bytes]) -> Run:
    """Wait for a process of `Machine.start`."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    texts = []
    for file in process.files:  # type: ignore[attr-defined]
        file.seek(0)
        texts.append(file.read().decode("utf-8", "replace"))
        file.close()
    scale = 1 if sys.platform == "darwin" else 1024
    return Run(process.returncode, texts[0], texts[1], usage.ru_maxrss * scale)


def random_file(path: Path, size: int, *, seed: int = 1) -> str:
    """Write `size` incompressible bytes and return their sha256."""
    source = random.Random(seed)
    hasher = hashlib.sha256()
    with path.open("wb") as file:
        while size > 0:
            piece = source.randbytes(min(size, MIB))
            hasher.update(piece)
            file.write(piece)
            size -= len(piece)
    return hasher.hexdigest()


def small_files(folder: Path, count: int, *, seed: int = 2) -> str:
    """Write `count` files of up to 4 KiB in subfolders of 100 and return the tree's digest."""
    source = random.Random(seed)
    for number in range(count):
        path = folder / f"part{number // 100:03d}" / f"file {number:05d}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source.randbytes(source.randrange(4096)))
    return tree_digest(folder)


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_digest(folder: Path) -> str:
    """A digest over the relative names and contents of all files below `folder`."""
    hasher = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        hasher.update(f"{path.relative_to(folder).as_posix()}\0{file_digest(path)}\n".encode())
    return hasher.hexdigest()


def files_below(folder: Path) -> list[Path]:
    """All regular files below `folder`, hidden ones too: a left-over temporary is found by it."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def run_all(processes: Iterable[subprocess.Popen[bytes]]) -> Sequence[Run]:
    return [finish(process) for process in processes]

"""A send and a receive that are killed at any moment go on where they were.

SIGKILL at seeded points of the transfer, then the same command in another process: what crosses
again is at most a chunk for each connection and a hundredth. DOCKERCOMMS_TEST_SIZE=full, as
scripts/acceptance sets it, draws 50 points for each direction and registry, else 5.
"""

from __future__ import annotations

import os
import random
import signal
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.zygote import Zygote
from tests.real.counting_proxy import CountingProxy, Counts
from tests.real.launch import Server
from tests.real.program import MIB, Machine, file_digest, files_below, random_file

POINTS = 50 if os.environ.get("DOCKERCOMMS_TEST_SIZE", "test") == "full" else 5
CHUNK_BYTES = MIB // 4
CONCURRENCY = 2
FILE_BYTES = 6 * MIB
AGAIN_BYTES = CONCURRENCY * CHUNK_BYTES + FILE_BYTES // 100
HEADER_BYTES = 64 * 1024
"""Manifests and lists, which are fetched by both runs, and what layers are larger than chunks."""


class Killer:
    """Kills a process when enough body bytes have passed the proxy."""

    def __init__(self, moved: Callable[[Counts], int]) -> None:
        self._moved = moved
        self.pid: int | None = None
        self.point = FILE_BYTES

    def look(self, counts: Counts) -> None:
        """Called by the proxy after each piece of a body."""
        if self.pid is not None and self._moved(counts) >= self.point:
            pid, self.pid = self.pid, None
            os.kill(pid, signal.SIGKILL)


def killed_and_again(
    zygote: Zygote, killer: Killer, machine: Machine, arguments: list[str], point: int
) -> bool:
    """Run a command that is killed at `point`, then again; return whether it was killed."""
    machine.home.mkdir(parents=True, exist_ok=True)
    environ = machine.environment()
    killer.point = point
    child = zygote.start(arguments, folder=machine.home, environ=environ)
    killer.pid = child.pid
    first = child.wait()
    killer.pid = None
    assert first.exit_code in (0, -signal.SIGKILL), first.stderr
    again = zygote.start(arguments, folder=machine.home, environ=environ).wait()
    assert again.exit_code == 0, again.stderr
    return first.exit_code != 0


def options(repo: str) -> list[str]:
    return ["--repo", repo, "-q", "--concurrency", str(CONCURRENCY)]


@pytest.fixture
def source(open_server: Server, tmp_path: Path) -> Path:
    path = tmp_path / "big.bin"
    random_file(path, FILE_BYTES, seed=zlib.crc32(open_server.name.encode()))
    return path


def test_a_killed_send_goes_on(
    zygote: Zygote, open_server: Server, source: Path, tmp_path: Path
) -> None:
    draw = random.Random(f"send {open_server.name}")
    killer = Killer(lambda counts: counts.sent)
    killed = 0
    with CountingProxy(open_server.address, on_bytes=killer.look) as proxy:
        for number in range(POINTS):
            proxy.reset()
            os.truncate(source, FILE_BYTES - 1 - number)  # another file, so nothing is there
            with source.open("r+b") as file:
                file.write(draw.randbytes(1024))
                for at in range(0, FILE_BYTES - CHUNK_BYTES, CHUNK_BYTES):
                    file.seek(at)
                    file.write(draw.randbytes(16))
            machine = Machine(tmp_path / f"m{number}")
            repo = f"{proxy.host}/resume/{tmp_path.name.lower()}-{number}"
            words = ["send", str(source), "--to", "bob", *options(repo)]
            words += ["--chunk-size", str(CHUNK_BYTES)]
            point = draw.randrange(1, FILE_BYTES)
            killed += killed_and_again(zygote, killer, machine, words, point)
            again = proxy.counts.sent - FILE_BYTES
            assert again <= AGAIN_BYTES + HEADER_BYTES, f"killed at {point}: {again} bytes again"
    assert killed >= POINTS - 1  # one may end before its last bytes are counted


def test_a_killed_receive_goes_on(
    zygote: Zygote, open_server: Server, source: Path, tmp_path: Path
) -> None:
    draw = random.Random(f"recv {open_server.name}")
    killer = Killer(lambda counts: counts.received)
    alice = Machine(tmp_path / "alice")
    killed = 0
    with CountingProxy(open_server.address, on_bytes=killer.look) as proxy:
        repo = f"{proxy.host}/resume/{tmp_path.name.lower()}"
        alice.run(
            "send", str(source), "--to", "bob", *options(repo), "--chunk-size", str(CHUNK_BYTES)
        ).ok()
        for number in range(POINTS):
            proxy.reset()
            machine = Machine(tmp_path / f"m{number}")
            out = tmp_path / f"in{number}"
            words = ["recv", "--me", "bob", *options(repo), "--out", str(out)]
            words += ["--accept-new", "--no-receipt"]
            point = draw.randrange(1, FILE_BYTES)
            killed += killed_and_again(zygote, killer, machine, words, point)
            (got,) = files_below(out)
            assert file_digest(got) == file_digest(source)
            again = proxy.counts.received - FILE_BYTES
            assert again <= AGAIN_BYTES + HEADER_BYTES, f"killed at {point}: {again} bytes again"
            got.unlink()
    assert killed >= POINTS - 1

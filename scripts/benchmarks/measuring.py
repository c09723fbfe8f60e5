"""Run commands in turn and measure them: the base of every benchmark.

The commands of a benchmark run A B C A B C ..., so that other load on the machine affects all of
them. Medians are compared. Times depend on the machine, so compare the ratios.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.real.launch import Server

MIB = 2**20


@dataclass(frozen=True, slots=True)
class Cost:
    """Time and memory of one command."""

    seconds: float
    peak_bytes: int = 0
    """Peak resident memory; 0 if it was not measured."""


Command = Callable[[], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The medians of one benchmark in seconds, and the ratio of ours to the peer's."""

    name: str
    seconds: Mapping[str, float]
    ratio: float
    bar: float | None = None
    """The target: the highest ratio that is wanted; None: no target."""
    peak_mib: Mapping[str, float] = field(default_factory=dict, hash=False)
    note: str = ""
    of_floor: float | None = None
    """The ratio to the minimal Python program (`floor.py`), if that was run."""

    @property
    def kept(self) -> bool:
        """Return True if the target is met."""
        return self.bar is None or self.ratio <= self.bar


@dataclass(frozen=True, slots=True)
class Bench:
    """The servers, the folder and the options of all benchmarks."""

    server: Server
    other: Server
    folder: Path
    size: int
    rounds: int

    def compare(
        self,
        name: str,
        commands: Mapping[str, Command],
        *,
        bar: float | None = None,
        against: str | None = None,
        note: str = "",
    ) -> Result:
        """Run the commands in turn.

        Args:
            name: Of the benchmark.
            commands: The first one is ours.
            bar: The target: the highest ratio that is wanted.
            against: The label of the peer; None: the fastest of the others.
            note: A remark for the table.
        """
        costs: dict[str, list[Cost]] = {label: [] for label in commands}
        for number in range(self.rounds):
            for label, command in commands.items():
                os.sync()  # so that this command does not wait for writes of the previous one
                begin = time.perf_counter()
                known = command()
                taken = known if isinstance(known, Cost) else Cost(time.perf_counter() - begin)
                costs[label].append(taken)
                print(f"  {name} {number + 1}: {label} {taken.seconds:.3f} s", file=sys.stderr)
        medians = {k: statistics.median(c.seconds for c in v) for k, v in costs.items()}
        peaks = {k: max(c.peak_bytes for c in v) / MIB for k, v in costs.items()}
        ours, *peers = medians.values()
        base = medians[against] if against is not None else min(peers)
        return Result(
            name=name,
            seconds=medians,
            ratio=ours / base,
            bar=bar,
            peak_mib={label: peak for label, peak in peaks.items() if peak},
            note=note,
            of_floor=ours / medians["minimal"] if "minimal" in medians else None,
        )


def run(*command: str, stdin: Path | None = None, stdout: Path | None = None) -> Cost:
    """Run a command that must succeed."""
    with (
        (stdin or Path(os.devnull)).open("rb") as source,
        (stdout or Path(os.devnull)).open("wb") as target,
    ):
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdin=source, stdout=target, stderr=subprocess.PIPE)
        if process.stderr is None:
            raise AssertionError("internal: no pipe")
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        process.stderr.close()
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: {process.returncode}\n{said.decode()}")
    return Cost(seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))


def shell(command: str) -> Cost:
    """Run a line of the shell; each command of its pipe must succeed."""
    return run("bash", "-c", f"set -o pipefail; {command}")


def ours(*arguments: str, stdout: Path | None = None) -> Cost:
    """Run the program."""
    return run(sys.executable, "-m", "dockercomms", *arguments, "-q", stdout=stdout)


def open_upload(host: str, repository: str) -> str:
    """Open an upload session; return its address, ready for the digest to be appended."""
    connection = http.client.HTTPConnection(host)
    connection.request("POST", f"/v2/{repository}/blobs/uploads/")
    answer = connection.getresponse()
    answer.read()
    location = answer.headers["Location"]
    connection.close()
    url = location if location.startswith("http") else f"http://{host}{location}"
    return f"{url}{'&' if '?' in url else '?'}digest="


def curl_upload(host: str, path: Path, digest: str, repository: str | None = None) -> None:
    """Upload a file with a known digest by POST and PUT, the fewest requests possible."""
    url = open_upload(host, repository or f"curl/{fresh()}") + digest
    octets = "Content-Type: application/octet-stream"
    run("curl", "-sSf", "-X", "PUT", "-H", octets, "-T", str(path), url)


def random_payload(folder: Path, size: int) -> tuple[Path, str]:
    """Return a file of incompressible bytes and its digest."""
    source = random.Random(7)  # noqa: S311 - only has to be incompressible
    return _written(folder / "payload.bin", size, iter(lambda: source.randbytes(MIB), b""))


def text_payload(folder: Path, size: int) -> tuple[Path, str]:
    """Return a file of text, the sources of this Python and lines of a log in turn."""
    return _written(folder / "payload.txt", size, _text())


def _written(path: Path, size: int, pieces: Iterator[bytes]) -> tuple[Path, str]:
    hasher = hashlib.sha256()
    left = size
    with path.open("wb") as file:
        while left:
            piece = next(pieces)[:left]
            hasher.update(piece)
            file.write(piece)
            left -= len(piece)
    return path, "sha256:" + hasher.hexdigest()


def _text() -> Iterator[bytes]:
    """Yield text for ever: a mebibyte of sources, then one of a log."""
    sources = sorted(Path(os.__file__).parent.rglob("*.py"))
    draw = random.Random(3)  # noqa: S311 - no secret
    while True:
        draw.shuffle(sources)
        code = b""
        for path in sources:
            code += path.read_bytes()
            if len(code) >= MIB:
                yield code[:MIB]
                yield _log(draw)
                code = b""


def _log(draw: random.Random) -> bytes:
    """Return a mebibyte of lines as a registry writes them."""
    lines: list[str] = []
    size = 0
    while size < MIB:
        address = ".".join(str(draw.randrange(256)) for _ in range(3))
        lines.append(
            f"10.{address} - - [20/Nov/2026:12:{draw.randrange(60):02}:{draw.randrange(60):02} "
            f'+0000] "GET /v2/team{draw.randrange(50)}/blobs/sha256:{draw.getrandbits(64):016x} '
            f'HTTP/1.1" {draw.choice((200, 200, 200, 404, 201))} {draw.randrange(100000)} '
            '"" "Go-http-client/1.1"\n'
        )
        size += len(lines[-1])
    return "".join(lines).encode()[:MIB]


def fresh() -> str:
    """Return a name that was not used before."""
    return f"n{time.time_ns()}"


def settle(commands: Sequence[str] = ("sync",)) -> None:
    """Wait until what was written before is on the disk, so that it does not fall on the next."""
    for command in commands:
        subprocess.run([command], check=True)

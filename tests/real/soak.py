"""Senders and watchers at work for a long time, in bad weather: nothing lost, doubled or leaked.

    python -m tests.real.soak [--minutes N] [--seed S] [--senders N] [--watchers N] [--rate R]

Runs distribution with toxiproxy before it. Senders send small files, each at random moments, and
run a send that failed again; the watchers are of one machine and watch one inbox. Meanwhile the
line is slow, narrow, cut, and down for 20 s, in an order that the seed draws. Prints one JSON
object; what is asked of it stands in `Census.check` and `Soak.judge`.

A program of its own, because it forks: everything is imported once.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dockercomms.cli.records import received_record
from dockercomms.errors import DockerCommsError, NetworkError
from dockercomms.mailbox import Mailbox
from dockercomms.trust.owner import TrustOptions
from tests.faults.zygote import EAGER
from tests.real.census import Census, Task
from tests.real.launch import Toxic, distribution, toxiproxy
from tests.real.storm import SENDERS_OF_A_MACHINE, SIGNALS, Child, be, end, errors_of

RECIPIENT = "fleet"
INTERVAL_SECONDS = 1.0
"""Between the looks of a watcher."""
AGAIN_SECONDS = 0.5
"""After which a sender runs a send again that failed."""
SAMPLE_SECONDS = 0.5
MEMORY_BYTES = 10 * 2**20
"""The allowed difference of a watcher's memory from that after warm-up, to either side."""
MORE_DESCRIPTORS = 4
"""The allowed growth of the smallest number of open descriptors from the first half to the second:
some connections. A leak with each message or poll would be larger."""
MOST_DESCRIPTORS = 40
"""The allowed number of open descriptors at any time."""
LATENCY = {"latency": 150, "jitter": 100}
NARROW = {"rate": 100}
"""KiB/s of each connection."""
DOWN_SECONDS = 20
PATIENCE_SECONDS = 240
"""In which everything is to come to its end when the weather is good again."""


@dataclass(frozen=True)
class Ended:
    """Is set when a file is there; what `watch` takes as its `stop`.

    It waits in short pieces, so that the end is seen soon, and lets one more look be made after it.
    """

    path: Path

    def is_set(self) -> bool:
        return False

    def wait(self, timeout: float) -> bool:
        until = time.monotonic() + min(timeout, 10 * INTERVAL_SECONDS)
        while time.monotonic() < until and not self.path.exists():
            time.sleep(0.1)
        return self.path.exists()


def send_until(repo: str, name: str, folder: Path, ended: Path, seed: str, pause: float) -> None:
    """Send one file after another until `ended` is there; print each when it is sent."""
    source, number = random.Random(seed), 0
    with Mailbox(repo, me=name) as mailbox:
        while not ended.exists():
            number += 1
            path = folder / f"{name}-{number}.txt"
            path.write_text(f"{name} {number}\n")
            while True:
                try:
                    sent = mailbox.send([path], to=RECIPIENT)
                except DockerCommsError as error:
                    print(json.dumps({"failed": str(error)}), flush=True)
                    time.sleep(AGAIN_SECONDS)
                else:
                    break
            line = {"digest": sent.digest, "text": path.read_text(), "from": name}
            print(json.dumps(line), flush=True)
            path.unlink()
            time.sleep(2 * pause * source.random())


def watch_until(repo: str, out: Path, ended: Path) -> None:
    """Watch; look once more after `ended` is there."""
    trust = TrustOptions(accept_new=True)
    with Mailbox(repo, me=RECIPIENT, trust=trust) as mailbox:
        options = {"out": out, "interval_seconds": INTERVAL_SECONDS, "stop": Ended(ended)}
        for watched in mailbox.watch(**options):
            print(json.dumps(received_record(watched.received)), flush=True)


@dataclass(kw_only=True)
class Weather:
    """Changes the line; the phases of each cycle have an order of their own."""

    toxic: Toxic
    source: random.Random
    seen: Counter = field(default_factory=Counter)
    _phases: list[Callable[[], Iterator[float]]] = field(default_factory=list)
    _phase: Iterator[float] = field(default_factory=lambda: iter(()))
    _next: float = 0.0

    def blow(self) -> None:
        """Do what is due; returns at once."""
        if time.monotonic() < self._next:
            return
        wait = next(self._phase, None)
        while wait is None:
            if not self._phases:
                self._phases = [self.slow, self.narrow, self.cut, self.down, self.calm]
                self.source.shuffle(self._phases)
            phase = self._phases.pop()
            self.seen[phase.__name__] += 1
            self._phase = phase()
            wait = next(self._phase, None)
        self._next = time.monotonic() + wait

    def clear(self) -> None:
        """Let the phase end, and no other begin."""
        for _ in self._phase:
            pass

    def calm(self) -> Iterator[float]:
        yield 5

    def slow(self) -> Iterator[float]:
        self.toxic.add("latency", LATENCY)
        yield 12
        self.toxic.remove("latency")

    def narrow(self) -> Iterator[float]:
        self.toxic.add("bandwidth", NARROW)
        yield 10
        self.toxic.remove("bandwidth")

    def cut(self) -> Iterator[float]:
        for _ in range(20):
            self.toxic.reset()
            yield self.source.random()

    def down(self) -> Iterator[float]:
        self.toxic.down()
        yield DOWN_SECONDS
        self.toxic.up()


@dataclass
class Vitals:
    """Memory and descriptors of one watcher, as the system tells them."""

    memory: list[int] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)

    def sample(self, pid: int) -> None:
        with contextlib.suppress(OSError):  # it has ended
            status = Path(f"/proc/{pid}/status").read_text()
            if "VmRSS" in status:
                self.memory.append(int(status.split("VmRSS:")[1].split()[0]) * 1024)
                self.descriptors.append(len(os.listdir(f"/proc/{pid}/fd")))


@dataclass
class Soak(Census):
    """One run of it."""

    folder: Path
    toxic: Toxic
    options: argparse.Namespace
    running: dict[int, Child] = field(default_factory=dict)
    vitals: dict[int, Vitals] = field(default_factory=dict)
    warm: dict[int, int] = field(default_factory=dict)
    """Samples of a watcher until it was warm."""
    failures: Counter = field(default_factory=Counter)

    def start(self, verb: str, work: Callable[[], object], home: Path) -> int:
        home.mkdir(exist_ok=True)
        child = Child(verb, work, home, self.folder / f"out{len(self.running)}", 0.0, None)
        for path in (child.out, child.err):
            path.touch()
        pid = os.fork()
        if not pid:
            be(child)
        self.running[pid] = child
        return pid

    def run(self) -> None:
        """Start everybody, let the weather blow, end it, and count."""
        seconds, ended = self.options.minutes * 60, self.folder / "ended"
        pause = self.options.senders / self.options.rate
        for number in range(self.options.senders):
            home = self.folder / f"machine{number // SENDERS_OF_A_MACHINE}"
            seed = f"{self.options.seed} {number}"
            name = f"sender{number}"
            work = functools.partial(send_until, self.repo, name, home, ended, seed, pause)
            self.start("send", work, home)
        last = self.folder / "all sent"
        for _ in range(self.options.watchers):
            work = functools.partial(watch_until, self.repo, self.inbox, last)
            self.vitals[self.start("watch", work, self.folder / "receiver")] = Vitals()
        weather = Weather(toxic=self.toxic, source=random.Random(self.options.seed))
        began = time.monotonic()
        self.until(lambda: time.monotonic() > began + seconds, weather.blow, began + seconds / 3)
        weather.clear()
        ended.touch()
        self.until(lambda: "send" not in {child.verb for child in self.running.values()})
        last.touch()
        self.until(lambda: not self.running)
        self.failures.update(weather.seen)
        self.judge()
        self.check()

    def until(
        self,
        done: Callable[[], bool],
        meanwhile: Callable[[], None] = lambda: None,
        warm_at: float = 0.0,
    ) -> None:
        """Look after the processes until `done`."""
        patience = time.monotonic() + self.options.minutes * 60 + PATIENCE_SECONDS
        sampled = 0.0
        while not done():
            meanwhile()
            signal.sigtimedwait([signal.SIGCHLD], 0.1)
            now = time.monotonic()
            if now > patience:
                raise SystemExit(f"{len(self.running)} processes do not end: {self.last_words()}")
            if now > sampled + SAMPLE_SECONDS:
                sampled = now
                for pid, vitals in self.vitals.items():
                    vitals.sample(pid)
                    if now < warm_at:
                        self.warm[pid] = len(vitals.memory)
            for pid in list(self.running):
                if os.waitpid(pid, os.WNOHANG)[0]:
                    self.note(self.running.pop(pid))

    def last_words(self) -> str:
        return "; ".join(f"{child.verb}: {errors_of(child)}" for child in self.running.values())

    def note(self, child: Child) -> None:
        """Take down what a process has said until it ended."""
        said = errors_of(child)
        if said:
            self.wrong.append(f"{child.verb}: {said}")
        for line in child.lines:
            if child.verb == "watch":
                self.received.append(line)
            elif "failed" in line:
                self.failures["sends that failed and were run again"] += 1
            else:
                task = Task(line["from"], child.home, child.out, line["text"])
                task.told = line["digest"]
                self.tasks.append(task)

    def may_fail(self, row: dict) -> bool:
        return row["error"]["exit_code"] == NetworkError.exit_code

    def judge(self) -> None:
        """Compare each watcher's memory and descriptors with those after warm-up."""
        for pid, vitals in self.vitals.items():
            warm = self.warm.get(pid, 1)
            level, later = vitals.memory[warm - 1], vitals.memory[warm:]
            worst = max((abs(size - level) for size in later), default=0)
            if worst > MEMORY_BYTES:
                self.wrong.append(f"watcher {pid}: memory {level}, then {worst} bytes away from it")
            later = vitals.descriptors[warm:]
            first, second = later[: len(later) // 2], later[len(later) // 2 :]
            leaked = min(second, default=0) > min(first, default=0) + MORE_DESCRIPTORS
            if leaked or max(later, default=0) > MOST_DESCRIPTORS:
                self.wrong.append(f"watcher {pid}: descriptors {later}")

    def report(self) -> dict:
        """Return what there is to tell."""
        mib = 2**20
        return {
            "seed": self.options.seed,
            "messages": len(self.tasks),
            "received": len([row for row in self.received if row["status"] == "received"]),
            "cut off and received later": len(
                [row for row in self.received if row["status"] == "failed"]
            ),
            **self.failures,
            "watchers": [
                {
                    "warm_mib": round(vitals.memory[self.warm[pid] - 1] / mib, 1),
                    "least_mib": round(min(vitals.memory[self.warm[pid] :]) / mib, 1),
                    "most_mib": round(max(vitals.memory[self.warm[pid] :]) / mib, 1),
                    "most_descriptors": max(vitals.descriptors[self.warm[pid] :]),
                }
                for pid, vitals in self.vitals.items()
            ],
            "wrong": self.wrong,
        }


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--senders", type=int, default=20)
    parser.add_argument("--watchers", type=int, default=5)
    parser.add_argument("--rate", type=float, default=5, help="messages a second, all together")
    options = parser.parse_args(words)
    exec(EAGER, {})  # noqa: S102 - nothing of it is used here
    import dockercomms.messages.watch  # noqa: F401 - the same

    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "registry").mkdir()
        server = stack.enter_context(distribution(folder / "registry"))
        toxic = stack.enter_context(toxiproxy(server.address))
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        repo = f"{toxic.host}/soak/box"
        soak = Soak(folder, toxic, options, repo=repo, inbox=folder / "in")
        try:
            soak.run()
        finally:
            end(soak.running)
        print(json.dumps(soak.report(), indent=1))
    return 1 if soak.wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

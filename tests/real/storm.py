"""Many senders and two receivers at once on one inbox, some of them killed, and the count after it.

A program of its own, because it forks: everything is imported once.

    python -m tests.real.storm STORE FOLDER [--rounds N] [--senders N] [--messages N] [--seed N]
        [--kill SHARE]

With `--kill` each message, and each `recv`, is a command line of its own, started again and again;
so many of them die by SIGKILL at moments that a seed draws, and one that was killed is run again,
as its user would. Without it, senders and receivers are one process each that uses the library.

Prints one JSON object: what was killed where, and what was found to be wrong. Each round has a
repository, machines and a receiver of its own. What is asked of a round stands in `Census.check`.
"""

from __future__ import annotations

import argparse
import collections
import functools
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from dockercomms.cli.main import main as program
from dockercomms.cli.records import received_record
from dockercomms.errors import NotFoundError
from dockercomms.mailbox import Mailbox
from dockercomms.oci.model import Digest
from dockercomms.state import State
from dockercomms.trust.owner import TrustOptions
from tests.faults.zygote import EAGER
from tests.real.census import Census, Task, state_path
from tests.real.program import Machine

RECIPIENT = "all"
SENDERS_OF_A_MACHINE = 4
"""They share keys and a state."""
RECEIVERS = 2
"""Of one machine: they share a state and the folder that messages go to."""
RECEIVER_PAUSE = 0.1
"""Seconds from the end of one `recv` to the start of the next one of the same receiver."""
MAX_KILLS = 3
"""Of one command line, so that every round ends."""
SIGNALS = {signal.SIGCHLD}


@dataclass
class Child:
    """A process on its way."""

    verb: str
    work: Callable[[], object]
    """The work of the child; its standard output has a JSON object for each message."""
    home: Path
    out: Path
    began: float
    dies: float | None
    """When it is killed, by the monotonic clock; None: it lives."""

    @property
    def err(self) -> Path:
        return self.out.with_suffix(".err")

    @property
    def lines(self) -> list[dict]:
        """The whole JSON lines that it has printed; a killed one may have broken off."""
        whole, _, _ = self.out.read_text().rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]


@dataclass
class Round(Census):
    """One storm; `kill` is the share of command lines that are killed."""

    folder: Path
    source: random.Random
    senders: int
    messages: int
    kill: float
    counts: collections.Counter = field(default_factory=collections.Counter)
    running: dict[int, tuple[Child, Task | None]] = field(default_factory=dict)
    typical: dict[str, float] = field(default_factory=lambda: {"send": 0.1, "recv": 0.1})
    """Seconds that a command line takes, by verb: the last one that lived."""
    made: int = 0

    # --- children --------------------------------------------------------------------------------

    def start(
        self,
        verb: str,
        work: Callable[[], object],
        home: Path,
        *,
        may_die: bool = False,
        task: Task | None = None,
    ) -> Child:
        """Fork a process; it may be doomed."""
        self.made += 1
        now, dies = time.monotonic(), None
        if may_die and self.source.random() < self.kill:
            part = max(self.source.random(), self.source.random())  # the end is the richer part
            dies = now + 1.2 * part * self.typical[verb]
        child = Child(verb, work, home, self.folder / f"out{self.made}", now, dies)
        for path in (child.out, child.err):
            path.touch()
        pid = os.fork()
        if not pid:
            be(child)
        self.running[pid] = (child, task)
        return child

    def wait(self) -> Iterator[tuple[Child, Task | None, int]]:
        """Wait until something ends, or a doomed one's time has come; yield what has ended."""
        now = time.monotonic()
        for pid, (child, _) in self.running.items():
            if child.dies is not None and child.dies <= now:
                os.kill(pid, signal.SIGKILL)
                child.dies = now + 60
        next_death = min((c.dies for c, _ in self.running.values() if c.dies), default=now + 1)
        signal.sigtimedwait([signal.SIGCHLD], max(0.0, min(next_death - now, 0.02)))
        for pid in list(self.running):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                child, task = self.running.pop(pid)
                code = os.waitstatus_to_exitcode(status)
                if code >= 0:
                    self.typical[child.verb] = time.monotonic() - child.began
                yield child, task, code

    # --- the storm -------------------------------------------------------------------------------

    def run(self) -> None:
        """Let everybody loose until each message is sent and received, then count."""
        waiting = self.queues()
        receivers = [0.0] * RECEIVERS  # when each may begin again
        receiving: dict[int, int] = {}  # which of them a child is
        for queue in waiting:
            self.send(queue[0])
        while any(waiting) or receiving:
            for number, ready in enumerate(receivers):
                if any(waiting) and number not in receiving.values() and ready <= time.monotonic():
                    self.recv(may_die=True)
                    receiving[self.made] = number
            for child, task, code in self.wait():
                if task is not None:
                    queue = next(queue for queue in waiting if queue and queue[0] is task)
                    if self.sent(child, task, code):
                        queue.pop(0)
                    if queue:
                        self.send(queue[0])
                else:
                    number = receiving.pop(int(child.out.name.removeprefix("out")))
                    receivers[number] = time.monotonic() + RECEIVER_PAUSE
                    self.took(child, code)
        self.settle()

    def run_library(self) -> None:
        """Let long-lived processes send and receive until each message is sent, then count."""
        senders, ended = {}, self.folder / "ended"
        for queue in self.queues():
            work = functools.partial(send_all, self.repo, queue)
            child = self.start("send", work, queue[0].home)
            senders[child.out] = queue
        for _ in range(RECEIVERS):
            work = functools.partial(receive_until, self.repo, self.inbox, ended)
            self.start("recv", work, self.receiver)
        while self.running:
            for child, _, code in self.wait():
                if child.verb == "recv":
                    self.took(child, code)
                    continue
                lines = child.lines
                for task, line in zip(senders.pop(child.out), lines, strict=code == 0):
                    task.told = line["digest"]
                self.counts["sends"] += len(lines)
                self.expect(f"send, {errors_of(child)}", code, 0)
                if not senders:
                    ended.touch()
        self.settle()

    def settle(self) -> None:
        """Receive what a killed one left, and then nothing more; count."""
        for _ in range(2):
            self.recv(may_die=False)
            while self.running:
                for child, _, code in self.wait():
                    self.took(child, code)
        self.check()

    def queues(self) -> list[list[Task]]:
        """Return the messages of each sender."""
        queues = []
        for number in range(self.senders):
            name = f"sender{number}"
            home = self.folder / f"machine{number // SENDERS_OF_A_MACHINE}"
            home.mkdir(exist_ok=True)
            queue = []
            for message in range(self.messages):
                text = f"{name} {message}\n"
                path = home / f"{name}-{message}.txt"
                path.write_text(text)
                queue.append(Task(name, home, path, text))
            queues.append(queue)
        self.tasks = [task for queue in queues for task in queue]
        return queues

    def send(self, task: Task) -> None:
        arguments = ["send", str(task.source), "--to", RECIPIENT, "--repo", self.repo]
        arguments += ["--from", task.sender, "--format", "jsonl", "-q"]
        may_die = task.kills < MAX_KILLS
        self.start("send", lambda: program(arguments), task.home, may_die=may_die, task=task)

    def recv(self, *, may_die: bool) -> None:
        arguments = ["recv", "--me", RECIPIENT, "--repo", self.repo, "--out", str(self.inbox)]
        arguments += ["--format", "jsonl", "-q", "--accept-new"]
        self.start("recv", lambda: program(arguments), self.receiver, may_die=may_die)

    @functools.cached_property
    def receiver(self) -> Path:
        """Return the home of those who receive."""
        home = self.folder / "receiver"
        home.mkdir()
        return home

    # --- what became of them ---------------------------------------------------------------------

    def sent(self, child: Child, task: Task, code: int) -> bool:
        """Note how a send ended; return whether its message need not be sent again."""
        self.counts["sends"] += 1
        if code == 0:
            (line,) = child.lines
            task.told = line["digest"]
            self.look_for_an_earlier_one(task, line["id"])
            return True
        if code != -signal.SIGKILL:
            self.wrong.append(f"{task.text!r}: send ended with {code}: {errors_of(child)}")
            return True
        task.kills += 1
        self.counts["killed sends"] += 1
        row = self.row_of(task)
        if row is None:
            self.counts["killed before the journal"] += 1
        elif row["published"] is not None:
            # It is done, as its journal knows: running it again would be another message.
            self.counts["killed after the journal was closed"] += 1
            task.told = row["digest"]
            return True
        elif row["tag"] is None:
            self.counts["killed before the PUT"] += 1
            if row["digest"] is not None and self.is_there(row["digest"]):
                self.wrong.append(f"{task.text!r}: visible before its PUT was sent")
        else:
            self.counts["killed at or after the PUT"] += 1
            task.left = row["id"]
        return False

    def look_for_an_earlier_one(self, task: Task, sent: str) -> None:
        """Count the message that a killed send had closed its journal of, after all.

        Who dies between the write of a commit and saying so in the log's index leaves it undecided:
        others do not see it until the log is read anew (SQLite's documentation, "WAL-mode File
        Format"). Then it is as if the journal was closed: running it again is another message.
        """
        if task.left in ("", sent):
            return
        with State(state_path(task.home)) as state:
            rows = state.sends.published(self.repo, task.left)
        for row in rows:
            self.counts["killed while the journal was closed"] += 1
            told = str(row.digest)
            self.tasks.append(Task(task.sender, task.home, task.source, task.text, told=told))

    def row_of(self, task: Task) -> dict | None:
        """Return what the sender's journal says of the message that is being sent."""
        with State(state_path(task.home)) as state:
            rows = state.sends.database.rows(
                """SELECT id, digest, tag, published FROM sends WHERE sender = ?
                    ORDER BY started DESC LIMIT 1""",
                (task.sender,),
            )
        known = {other.told for other in self.tasks}
        return next((dict(row) for row in rows if row["digest"] not in known), None)

    def is_there(self, digest: str) -> bool:
        store = self.store
        try:
            store.registry.resolve_manifest(store.repository, Digest(digest))
        except NotFoundError:
            return False
        return True

    def took(self, child: Child, code: int) -> None:
        """Note what a `recv` said."""
        self.counts["recvs"] += 1
        self.received += child.lines
        if code == -signal.SIGKILL:
            self.counts["killed recvs"] += 1
        elif code != 0:
            self.wrong.append(f"recv ended with {code}: {errors_of(child)}")


def send_all(repo: str, tasks: list[Task]) -> None:
    """Send one message after another, and print each when `send` has returned."""
    with Mailbox(repo, me=tasks[0].sender) as mailbox:
        for task in tasks:
            sent = mailbox.send([task.source], to=RECIPIENT)
            print(json.dumps({"digest": sent.digest}), flush=True)


def receive_until(repo: str, out: Path, ended: Path) -> None:
    """Receive again and again, once more after the file `ended` is there."""
    with Mailbox(repo, me=RECIPIENT, trust=TrustOptions(accept_new=True)) as mailbox:
        last = False
        while not last:
            last = ended.exists()
            for received in mailbox.receive(out=out):
                print(json.dumps(received_record(received)), flush=True)
            time.sleep(RECEIVER_PAUSE)


def be(child: Child) -> NoReturn:
    """Be the process."""
    code = 99
    try:
        os.environ.clear()
        os.environ.update(Machine(child.home).environment())
        os.chdir(child.home)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, path in ((1, child.out), (2, child.err)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        child.work()
        sys.stdout.flush()
        code = 0
    except SystemExit as done:
        code = int(done.code or 0)
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def errors_of(child: Child) -> str:
    return child.err.read_text(errors="replace")[-1500:]


def end(pids: Iterable[int]) -> None:
    """Leave no process behind, whatever ended us."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", help="a layout folder or repository, to which the round is added")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--senders", type=int, default=16)
    parser.add_argument("--messages", type=int, default=20, help="of each sender")
    parser.add_argument("--kill", type=float, default=0.0, help="the share that is killed")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(words)
    exec(EAGER, {})  # noqa: S102 - nothing of it is used here
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    counts: collections.Counter = collections.Counter()
    wrong: list[str] = []
    began = time.monotonic()
    for number in range(options.rounds):
        folder = options.folder / f"round{number}"
        folder.mkdir(parents=True)
        storm = Round(
            repo=f"{options.store}/round{number}",
            inbox=folder / "in",
            folder=folder,
            source=random.Random(f"{options.seed} {number}"),
            senders=options.senders,
            messages=options.messages,
            kill=options.kill,
        )
        try:
            if options.kill:
                storm.run()
            else:
                storm.run_library()
        finally:
            end(storm.running)
        counts += storm.counts
        wrong += [f"round {number}: {text}" for text in storm.wrong]
        if not storm.wrong:
            shutil.rmtree(folder)
    seconds = round(time.monotonic() - began, 1)
    print(json.dumps({"seconds": seconds, "counts": dict(counts), "wrong": wrong}, indent=1))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

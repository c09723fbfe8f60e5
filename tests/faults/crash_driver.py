"""Kills a send, a receive or a watch after each of its events in turn, and checks that the next run
puts everything right. A program of its own, because it forks.

    python -m tests.faults.crash_driver FOLDER send|receive-file|receive-folder|watch [EVERY]
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import traceback
from pathlib import Path

from dockercomms.mailbox import Mailbox
from dockercomms.oci.layout.registry import LayoutRegistry
from dockercomms.oci.stores import Store
from dockercomms.protocol.tags import parse_tag
from dockercomms.state import State
from dockercomms.trust.keys import KeyStore
from dockercomms.trust.owner import TrustOptions
from dockercomms.trust.policy import Policy
from tests.fakes.clock import FakeClock
from tests.fakes.events import Events
from tests.fakes.mail import files_below
from tests.fakes.people import knows

KILLED = 77
DATA = {"a.txt": b"0123456789" * 10, "project/b.txt": b"b", "project/sub/c.txt": b"c"}


class Trial:
    """One folder with everything in it: sources, layout, states, deliveries."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = FakeClock()
        for name, data in DATA.items():
            path = folder / "from" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        stores = {name: KeyStore(folder / name / "keys") for name in ("alice", "bob")}
        for store in stores.values():
            store.ensure()
        self.policy = Policy(
            senders=tuple(knows(name, store.private_key()) for name, store in stores.items())
        )

    def registry(self):
        return LayoutRegistry(self.folder / "layout", create=True, clock=self.clock)

    def mailbox(self, me: str, registry=None) -> Mailbox:
        return Mailbox(
            me=me,
            state_path=self.folder / me / "state.db",
            clock=self.clock,
            store=Store(registry or self.registry(), "mailbox", "oci-layout:/box"),
            keys_folder=self.folder / me / "keys",
            trust=TrustOptions(policy=self.policy),
        )

    def send(self, what: str = "a.txt", registry=None):
        with self.mailbox("alice", registry) as alice:
            return alice.send([self.folder / "from" / what], to="bob", chunk_bytes=30)

    def receive(self, registry=None):
        with self.mailbox("bob", registry) as bob:
            return list(bob.receive(out=self.folder / "out"))

    def watch(self, registry=None):
        command = f"sh -c 'echo $DOCKERCOMMS_MSG_ID >>{self.folder}/commands'"
        with self.mailbox("bob", registry) as bob:
            return list(bob.watch(out=self.folder / "out", command=command, once=True))

    def commands(self) -> list[str]:
        log = self.folder / "commands"
        return log.read_text().split() if log.exists() else []

    def messages(self) -> set[str]:
        registry = self.registry()
        if not registry.exists():
            return set()
        return {
            registry.resolve_tag("", tag).digest
            for tag in registry.tags("")
            if (said := parse_tag(tag)) and said.kind == "message"
        }

    def receipts(self) -> set[str]:
        registry = self.registry()
        tags = [tag for tag in registry.tags("") if tag.startswith("receipt-")]
        return {registry.resolve_tag("", tag).digest for tag in tags}

    def unfinished(self) -> int:
        with State(self.folder / "alice" / "state.db") as state:
            rows = state.sends.database.rows(
                "SELECT id FROM sends WHERE published IS NULL UNION SELECT send FROM served"
            )
            return len(rows)


def run_killed(trial: Trial, act, number: int) -> tuple[bool, str]:
    """Run `act` in a process that ends after its `number`-th event; return if it did, and which."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            events = Events(number, lambda: end(events, write), after=True)
            with events.files(skip="layout"), events.commits():
                act(registry=events.registry(trial.registry()))
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        name = stream.read().decode()
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code not in (0, KILLED):
        raise SystemExit(f"event {number}: the run ended with {code}")
    return code == KILLED, name


def end(events: Events, write: int) -> None:
    with os.fdopen(write, "wb") as stream:
        stream.write(f"{events.seen} {events.names[-1]}".encode())
    os._exit(KILLED)


def check_send(trial: Trial, number: int) -> tuple[bool, str, list[str]]:
    killed, name = run_killed(trial, trial.send, number)
    early = trial.messages()
    if killed and (trial.unfinished() or not early):
        trial.send()
    wrong = []
    if len(trial.messages()) != 1:
        wrong.append(f"{len(trial.messages())} messages")
    if early - trial.messages():
        wrong.append("what was visible is gone")
    got = [item.files[0].read_bytes() for item in trial.receive()]
    if got != [DATA["a.txt"]]:
        wrong.append(f"received {got!r}")
    return killed, name, wrong


def check_receive(trial: Trial, number: int, what: str) -> tuple[bool, str, list[str]]:
    sent = trial.send(what)
    killed, name = run_killed(trial, trial.receive, number)
    trial.receive()
    wrong = []
    expected = {
        f"{sent.id[:8]}/{name}": data for name, data in DATA.items() if name.startswith(what)
    }
    if files_below(trial.folder / "out") != expected:
        wrong.append(f"files {sorted(files_below(trial.folder / 'out'))}")
    if sorted(p.name for p in (trial.folder / "out").iterdir()) != [sent.id[:8]]:
        wrong.append(f"left {sorted(p.name for p in (trial.folder / 'out').iterdir())}")
    if len(trial.receipts()) != 1:
        wrong.append(f"{len(trial.receipts())} receipts")
    if trial.receive():
        wrong.append("delivered once more")
    made = [path.name for path in (trial.folder / "bob" / "receives").iterdir()]
    if made:
        wrong.append(f"notes left: {made}")
    return killed, name, wrong


def check_watch(trial: Trial, number: int) -> tuple[bool, str, list[str]]:
    sent = trial.send()
    killed, name = run_killed(trial, trial.watch, number)
    early = trial.commands()
    again = trial.watch()
    wrong = []
    if files_below(trial.folder / "out") != {f"{sent.id[:8]}/a.txt": DATA["a.txt"]}:
        wrong.append(f"files {sorted(files_below(trial.folder / 'out'))}")
    expected = [*early, *([sent.id] if again else [])]
    if trial.commands() != expected or len(expected) not in (1, 2):
        wrong.append(f"commands {early}, then {trial.commands()}")
    if len(trial.receipts()) != 1:
        wrong.append(f"{len(trial.receipts())} receipts")
    if trial.watch() or trial.commands() != expected:
        wrong.append("done once more")
    for folder in ("receives", "handovers"):
        made = [path.name for path in (trial.folder / "bob" / folder).iterdir()]
        if made:
            wrong.append(f"left in {folder}: {made}")
    return killed, name, wrong


def main(folder: Path, mode: str, every: int) -> int:
    failures, number = [], 1
    while True:
        trial = Trial(folder / f"{mode}-{number}")
        if mode == "send":
            killed, name, wrong = check_send(trial, number)
        elif mode == "watch":
            killed, name, wrong = check_watch(trial, number)
        else:
            what = "a.txt" if mode == "receive-file" else "project"
            killed, name, wrong = check_receive(trial, number, what)
        failures += [f"killed after event {name}: {text}" for text in wrong]
        shutil.rmtree(trial.folder)
        if not killed:
            break
        number += every
    print(json.dumps({"events": number - 1, "failures": failures}))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 1))

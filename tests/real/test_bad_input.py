"""A disk that fills, Ctrl-C at any moment, and two receivers at once, with a real registry."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.zygote import Ended, Zygote
from tests.real.launch import Server
from tests.real.program import (
    Machine,
    file_digest,
    files_below,
    random_file,
    run_all,
    small_files,
    tree_digest,
)

KIB = 1024
DISK_BYTES = 1024 * KIB
FORBIDDEN = (
    "a file system cannot be mounted here, not even in a namespace of our own: allow it by the"
    " settings kernel.unprivileged_userns_clone=1, user.max_user_namespaces>0 and"
    " kernel.apparmor_restrict_unprivileged_userns=0 (sysctl), or run the tests as root"
)
NAMESPACES = [("--mount",)] if os.geteuid() == 0 else []
NAMESPACES.append(("--map-root-user", "--mount"))
"""Of which `unshare` makes new ones: root needs no users of its own, unless in a container."""


@dataclass(frozen=True)
class Member(Machine):
    """One user of a machine whose users have one address book and one key."""

    def environment(self) -> dict[str, str]:
        shared = self.home.parent / "shared"
        book = shared / "config/dockercomms/trust.toml"
        if not book.exists():  # the one key speaks for all of them
            book.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
            book.write_text('version = 1\nme = ["alice", "bob"]\n')
            book.chmod(0o600)
        return super().environment() | {
            "XDG_DATA_HOME": str(shared / "data"),
            "XDG_CONFIG_HOME": str(shared / "config"),
        }


@pytest.fixture
def repo(distribution: Server) -> str:
    return f"{distribution.host}/bad/{uuid.uuid4().hex}"


def states(machine: Machine, repo: str, me: str = "bob") -> list[str]:
    run = machine.run("inbox", "--all", "--me", me, "--repo", repo, "--format", "jsonl", "-q").ok()
    return [str(row["state"]) for row in run.objects()]


def test_a_repository_that_does_not_exist_yet_is_an_empty_inbox(
    open_server: Server, tmp_path: Path
) -> None:
    bob, missing = Member(tmp_path / "bob"), f"{open_server.host}/not/there/yet"
    common = ("--me", "bob", "--repo", missing)
    for verb, what in (("inbox", "no messages"), ("recv", "no new messages")):
        run = bob.run(verb, *common).ok()
        assert run.stdout == ""
        assert run.stderr.splitlines() == [
            f"No mailbox at {missing} yet: the inbox is empty.",
            f"{what} for bob",
        ]
    assert bob.run("receipts", *common, "-q").ok().stdout == ""
    assert bob.run("show", "1a2b3c4d", *common).code == 5


# --- a disk that fills ---------------------------------------------------------------------------


class Disk:
    """A real file system of 1 MiB, mounted in a namespace of a process that waits there.

    What is on it is seen below `root`, which is that process' view.
    """

    def __init__(self, folder: Path, options: str = "") -> None:
        point = folder / "disk"
        point.mkdir()
        mount = f"mount -t tmpfs -o size={DISK_BYTES}{options} none '{point}'"
        script = f"{mount} && echo mounted && read -r _"
        said = []
        for spaces in NAMESPACES:
            self.process = subprocess.Popen(
                ["unshare", *spaces, "sh", "-c", script],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            if self.process.stdout is not None and self.process.stdout.readline() == "mounted\n":
                break
            said.append(self.process.communicate()[1].strip())
        else:
            pytest.fail(f"{'; '.join(said)}; {FORBIDDEN}")
        entered = ["--mount"] if spaces == ("--mount",) else ["--user", "--mount"]
        self.enter = [
            "nsenter", f"--target={self.process.pid}", *entered, "--preserve-credentials",
        ]  # fmt: skip
        self.point = point
        self.root = Path(f"/proc/{self.process.pid}/root{point}")

    def close(self) -> None:
        self.process.communicate("\n")

    def fill(self, leave_bytes: int) -> None:
        """Fill it until so many bytes are left, in whole blocks."""
        self.free()
        room = os.statvfs(self.root)
        blocks = room.f_bavail - leave_bytes // room.f_bsize
        (self.root / "filler").write_bytes(bytes(max(0, blocks) * room.f_bsize))

    def free(self) -> None:
        (self.root / "filler").unlink(missing_ok=True)

    def files(self) -> list[Path]:
        return [path for path in files_below(self.root) if path.name != "filler"]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path)
    yield made
    made.close()


def recv_into(out: Path, repo: str) -> tuple[str, ...]:
    return ("recv", "--me", "bob", "--repo", repo, "--out", str(out), "-q")


@dataclass(frozen=True)
class Outcome:
    code: int
    stdout: str
    stderr: str

    def told_full(self) -> None:
        """Check that it failed as a full disk is told: of the message, and of the state after it."""
        assert self.code == 8, f"{self.code}\n{self.stdout}\n{self.stderr}"
        lines = self.stderr.splitlines()
        whys = [line for line in lines if line.startswith("why: ")]
        assert 1 <= len(whys) <= 2, self.stderr
        for why in whys:
            assert "/disk/" in why or "No space left on device" in why, self.stderr
        assert any(line.startswith("hint: free some space") for line in lines), self.stderr


def inside(disk: Disk, machine: Machine, *arguments: str, **variables: str) -> Outcome:
    """Run the program where the disk is mounted."""
    machine.home.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [*disk.enter, sys.executable, "-m", "dockercomms", *arguments],
        cwd=Path(__file__).parents[2],
        env=machine.environment() | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def test_a_disk_without_room_leaves_the_message_new(disk: Disk, repo: str, tmp_path: Path) -> None:
    alice, bob = Member(tmp_path / "alice"), Member(tmp_path / "bob")
    digest = random_file(tmp_path / "big.bin", 800 * KIB)
    alice.run("send", str(tmp_path / "big.bin"), "--to", "bob", "--repo", repo, "-q").ok()
    recv = recv_into(disk.point / "in", repo)
    disk.fill(500 * KIB)
    inside(disk, bob, *recv).told_full()
    assert disk.files() == []
    assert states(bob, repo) == ["new"]
    disk.free()
    assert inside(disk, bob, *recv).code == 0
    (got,) = disk.files()
    assert (got.name, file_digest(got)) == ("big.bin", digest)
    assert states(bob, repo) == ["delivered"]


def test_a_disk_that_fills_while_a_folder_is_unpacked_leaves_nothing(
    tmp_path: Path, repo: str
) -> None:
    """There is room for the bytes and none for so many files, which nobody can know before."""
    alice, bob = Member(tmp_path / "alice"), Member(tmp_path / "bob")
    tree = small_files(tmp_path / "many", 40)
    alice.run("send", str(tmp_path / "many"), "--to", "bob", "--repo", repo, "-q").ok()
    disk = Disk(tmp_path, ",nr_inodes=30")
    recv = recv_into(disk.point / "in", repo)
    try:
        inside(disk, bob, *recv).told_full()
        assert [path.name for path in disk.root.rglob("*")] == ["in"]
        assert states(bob, repo) == ["new"]
    finally:
        disk.close()
    out = tmp_path / "elsewhere"
    bob.run("recv", "--me", "bob", "--repo", repo, "--out", str(out), "-q").ok()
    (got,) = out.glob("*/many")
    assert tree_digest(got) == tree


def test_a_disk_that_fills_anywhere_loses_nothing(disk: Disk, repo: str, tmp_path: Path) -> None:
    """The state is on the same disk; the room it leaves ends now here, now there."""
    alice, bob = Member(tmp_path / "alice"), Member(tmp_path / "bob")
    on_disk = {"XDG_STATE_HOME": str(disk.point / "state")}
    recv = recv_into(disk.point / "in", repo)
    digests, codes = [], []
    for number, room in enumerate(range(0, 400, 40)):
        path = tmp_path / f"{number}.bin"
        digests.append(random_file(path, 20 * KIB, seed=number))
        alice.run("send", str(path), "--to", "bob", "--repo", repo, "-q").ok()
        disk.fill(room * KIB)
        outcome = inside(disk, bob, *recv, **on_disk)
        codes.append(outcome.code)
        if outcome.code:
            outcome.told_full()
        names = {got.name for got in (disk.root / "in").rglob("*") if got.is_file()}
        assert names <= {f"{earlier}.bin" for earlier in range(number + 1)}, "a partial file"
        disk.free()
        assert inside(disk, bob, *recv, **on_disk).code == 0
        got = sorted((disk.root / "in").rglob("*.bin"))
        assert len(got) == number + 1
    assert {0, 8} <= set(codes)
    assert sorted(map(file_digest, got)) == sorted(digests)


def test_a_full_disk_at_the_sender_publishes_nothing(disk: Disk, tmp_path: Path) -> None:
    """The mailbox is a folder on that disk."""
    digest = random_file(tmp_path / "big.bin", 300 * KIB)
    alice, bob = Member(tmp_path / "alice"), Member(tmp_path / "bob")
    repo = f"oci-layout:{disk.point / 'box'}"
    send = ("send", str(tmp_path / "big.bin"), "--to", "bob", "--repo", repo, "-q")
    recv = recv_into(tmp_path / "in", repo)
    for room in (0, 16, 100, 250, 304):
        disk.fill(room * KIB)
        inside(disk, alice, *send).told_full()
        assert inside(disk, bob, *recv).code in (0, 8)
        assert not (tmp_path / "in").exists()
    disk.free()
    assert inside(disk, alice, *send).code == 0
    assert inside(disk, bob, *recv).code == 0
    (got,) = files_below(tmp_path / "in")
    assert file_digest(got) == digest
    assert not [path for path in disk.files() if "tmp" in path.name or "part" in path.name]


# --- Ctrl-C --------------------------------------------------------------------------------------

POINTS = 16


def run(zygote: Zygote, machine: Machine, *arguments: str) -> Ended:
    """Run the program to its end, which has to be good."""
    machine.home.mkdir(parents=True, exist_ok=True)
    ended = zygote.start(arguments, folder=machine.home, environ=machine.environment()).wait()
    assert ended.exit_code == 0, ended.stderr
    return ended


def interrupted(
    zygote: Zygote, machine: Machine, arguments: list[str], after_seconds: float
) -> Ended:
    """Run the program and press Ctrl-C after a while."""
    machine.home.mkdir(parents=True, exist_ok=True)
    child = zygote.start(arguments, folder=machine.home, environ=machine.environment())
    time.sleep(after_seconds)
    os.kill(child.pid, signal.SIGINT)  # it waits for nobody but the zygote, so the id is its own
    return child.wait()


@dataclass
class Moments:
    """Moments all over a run, counted from its start, by how long the last whole one took."""

    zygote: Zygote
    whole_seconds: float

    @classmethod
    def after(cls, zygote: Zygote, machine: Machine, arguments: list[str]) -> Moments:
        """Run the program once to see how long it takes."""
        started = time.monotonic()
        run(zygote, machine, *arguments)
        return cls(zygote, time.monotonic() - started)

    def interrupted(self, machine: Machine, arguments: list[str], number: int) -> Ended:
        """Run the program and press Ctrl-C at moment `number` of `POINTS`."""
        started = time.monotonic()
        ended = interrupted(self.zygote, machine, arguments, self.whole_seconds * number / POINTS)
        if ended.exit_code == 0:  # it was faster: a machine is not as busy all the time
            self.whole_seconds = min(self.whole_seconds, time.monotonic() - started)
        return ended


def check_ended(verb: str, ended: Ended) -> None:
    """Check that it was done, or stopped as Ctrl-C stops: at once, in order, and told."""
    assert ended.exit_code in (0, 130), ended.stderr
    if ended.exit_code == 130 and ended.stderr:
        # Which verb it is, it knows a moment after it began.
        said = ended.stderr.replace("error: interrupted", f"error: {verb}: interrupted")
        assert said.splitlines() == [
            f"error: {verb}: interrupted",
            "why: stopped by a signal",
            "hint: run the same command again; it resumes",
        ]


def unfinished(machine: Machine) -> bool:
    """Return whether a send is not published as far as its sender knows."""
    path = machine.home / "state" / "dockercomms" / "state.db"
    if not path.exists():
        return True
    connection = sqlite3.connect(path)
    try:
        counts = connection.execute("SELECT count(*), count(published) FROM sends").fetchone()
    except sqlite3.OperationalError:
        return True  # there is no table yet
    finally:
        connection.close()
    return counts[0] == 0 or counts[0] > counts[1]


@pytest.fixture(params=["distribution", "layout"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the start of a repository's name."""
    if request.param == "layout":
        return f"oci-layout:{tmp_path}/box"
    server: Server = request.getfixturevalue(request.param)
    return f"{server.host}/interrupted/{uuid.uuid4().hex}"


def test_ctrl_c_at_any_moment_of_a_send(zygote: Zygote, place: str, tmp_path: Path) -> None:
    source = tmp_path / "data.bin"
    digest = random_file(source, 4 * 1024 * KIB)

    def send(repo: str) -> list[str]:
        return ["send", str(source), "--to", "bob", "--repo", repo, "--chunk-size", "512KiB", "-q"]

    moments = Moments.after(zygote, Member(tmp_path / "first"), send(f"{place}x"))
    stopped = 0
    for number in range(POINTS):
        repo = f"{place}{number}"
        alice, bob = Member(tmp_path / f"alice{number}"), Member(tmp_path / f"bob{number}")
        ended = moments.interrupted(alice, send(repo), number)
        check_ended("send", ended)
        stopped += ended.exit_code == 130
        if ended.exit_code and unfinished(alice):
            run(zygote, alice, *send(repo))
        out = bob.home / "in"
        run(zygote, bob, *recv_into(out, repo))
        assert [file_digest(path) for path in files_below(out)] == [digest]
    assert stopped >= POINTS // 4


def test_ctrl_c_at_any_moment_of_a_recv(zygote: Zygote, place: str, tmp_path: Path) -> None:
    source = tmp_path / "data.bin"
    digest = random_file(source, 4 * 1024 * KIB)
    alice = Member(tmp_path / "alice")
    for name in ("x", *map(str, range(POINTS))):
        run(
            zygote, alice, "send", str(source), "--to", "bob", "--repo", f"{place}{name}",
            "--chunk-size", "512KiB", "-q",
        )  # fmt: skip

    def recv(machine: Machine, name: str) -> list[str]:
        return [*recv_into(machine.home / "in", f"{place}{name}")]

    first = Member(tmp_path / "first")
    moments = Moments.after(zygote, first, recv(first, "x"))
    stopped = 0
    for number in range(POINTS):
        bob = Member(tmp_path / f"bob{number}")
        ended = moments.interrupted(bob, recv(bob, str(number)), number)
        check_ended("recv", ended)
        stopped += ended.exit_code == 130
        run(zygote, bob, *recv(bob, str(number)))
        assert [file_digest(path) for path in files_below(bob.home / "in")] == [digest]
        told = run(
            zygote, alice, "receipts", "--repo", f"{place}{number}", "--format", "jsonl"
        ).stdout.splitlines()
        assert [json.loads(line)["status"] for line in told] == ["accepted"], ended
        assert list((bob.home / "state/dockercomms").glob("receives/*")) == []
    assert stopped >= POINTS // 4


# --- two at once ---------------------------------------------------------------------------------


def test_two_receivers_at_once_deliver_each_message_once(any_store: str, tmp_path: Path) -> None:
    messages = 20
    alice = Member(tmp_path / "alice")
    run_all([alice.start_script(SEND_MANY, any_store, str(messages))])[0].ok()
    bob = Member(tmp_path / "bob")
    out = tmp_path / "in"
    recv = (
        "recv",
        "--me",
        "bob",
        "--repo",
        any_store,
        "--out",
        str(out),
        "--format",
        "jsonl",
        "--accept-new",
    )
    runs = run_all([bob.start(*recv, "-q") for _ in range(3)])
    rows = [row for run in runs for row in run.ok().objects()]
    received = [row["id"] for row in rows if row["status"] == "received"]
    assert len(received) == len(set(received)) == messages
    assert {row["status"] for row in rows} <= {"received", "skipped"}
    assert sorted(path.read_text() for path in files_below(out)) == sorted(
        f"{number}\n" for number in range(messages)
    )
    assert bob.run(*recv, "-q").ok().objects() == []
    told = alice.run("receipts", "--repo", any_store, "--me", "alice", "--format", "jsonl", "-q")
    assert [row["status"] for row in told.ok().objects()] == ["accepted"] * messages


SEND_MANY = """
import io, sys
from dockercomms import Mailbox
with Mailbox(sys.argv[1], me="alice") as mailbox:
    for number in range(int(sys.argv[2])):
        mailbox.send(["-"], to="bob", name="n.txt", stdin=io.BytesIO(f"{number}\\n".encode()))
"""

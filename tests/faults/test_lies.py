"""Whatever stands between us and a registry may lie once, at any request, in any of the ways below.

A command that was lied to ends with a documented exit code, prints neither a secret nor a control
character, and stays small. Commands that come after it, over an honest way, deliver the message once
and show one receipt. `DOCKERCOMMS_LIES=all` tells every lie at every request (with the tag schema each
once in every command); else a sample is told, drawn by `DOCKERCOMMS_LIES_SEED`.
"""

from __future__ import annotations

import copy
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path

import pytest

from tests.cli.harness import Result
from tests.fakes.clock import FakeClock
from tests.fakes.lies import LIES, TLS_LIES, TOKEN_HOSTS, token_server
from tests.fakes.registry import DISTRIBUTION, OCI, FakeRegistry, Fault, Quirks
from tests.fakes.registry_state import Store
from tests.faults.people import REPOSITORY, Person, lines, messages, receipt_digests

EVERYTHING = os.environ.get("DOCKERCOMMS_LIES") == "all"
SEED = os.environ.get("DOCKERCOMMS_LIES_SEED", "13")
SAMPLE = 8
"""Lies for each command and registry, unless all are told."""

DATA = random.Random(13).randbytes(20 * 1024)
"""More than may stand in a manifest, so that there is a blob to ask for."""
PASSWORD = "correct-horse-battery"
SECRETS = (PASSWORD, "hunter2")
EXIT_CODES = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}
SILENT_SECONDS = 0.1
MOST_GROWTH_KIB = 190 * 2**10
"""For one lie. With what Python and our modules take, 250 MiB. What the process holds from the lies
and tests before is not counted: the heap of thousands of them grows by itself."""
CLEAN_RUNS = 3
"""So many honest receives at most put right what one lie left: a message may be new to the first."""

VERBS = ("send", "inbox", "recv", "receipts")
WAYS: dict[str, tuple[Quirks, bool]] = {
    "referrers-api": (OCI, False),
    "tag-schema": (DISTRIBUTION, False),
    "tls": (OCI, True),
}


class World:
    """One registry, and alice and bob in front of it, at the moment before a command."""

    def __init__(self, folder: Path, way: str) -> None:
        quirks, tls = WAYS[way]
        self.folder = folder
        self.clock = FakeClock()
        self.registry = FakeRegistry(quirks, clock=self.clock, tls=tls).start()
        self.extra: tuple[str, ...] = ()
        if self.registry.authority is not None:
            ca = folder / "ca.pem"
            self.registry.authority.cert_pem.write_to_path(str(ca))
            self.extra = ("--ca-file", str(ca))
        (folder / "a.bin").write_bytes(DATA)
        repo = f"{self.registry.host}/{REPOSITORY}"
        self.alice = Person("alice", folder, repo, self.clock, timeout=SILENT_SECONDS)
        self.bob = Person("bob", folder, repo, self.clock, timeout=SILENT_SECONDS)
        self._kept: dict[str, Store] = {}
        self.requests: dict[str, int] = {}
        for verb in VERBS:
            self._keep(verb)
            before = self.registry.count()
            result = self.run(verb)
            assert result.exit_code == 0, result.stderr
            self.requests[verb] = self.registry.count() - before
            if verb == "inbox":  # the next command is to find all by itself
                self.restore("inbox")

    def close(self) -> None:
        self.registry.close()

    def run(self, verb: str) -> Result:
        """Run a command as whoever it is for."""
        environ = {"DOCKERCOMMS_USERNAME": "alice", "DOCKERCOMMS_PASSWORD": PASSWORD}
        words = {
            "send": ("send", "--to", "bob", str(self.folder / "a.bin")),
            "inbox": ("inbox", "--format", "jsonl"),
            "recv": ("recv", "--out", str(self.bob.out), "--format", "jsonl"),
            "receipts": ("receipts", "--format", "jsonl"),
        }[verb]
        person = self.bob if verb in ("inbox", "recv") else self.alice
        return person.run(*words, *self.extra, environ=environ)

    def restore(self, verb: str) -> None:
        """Go back to the moment before a command."""
        with self.registry.api.lock:
            kept = copy.deepcopy(self._kept[verb])
            for one in fields(Store):
                setattr(self.registry.store, one.name, getattr(kept, one.name))
        for name in ("alice", "bob", "in-bob"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
            if (self.folder / verb / name).exists():
                shutil.copytree(self.folder / verb / name, self.folder / name)
        self.registry.forget_requests()

    def _keep(self, verb: str) -> None:
        self._kept[verb] = copy.deepcopy(self.registry.store)
        for name in ("alice", "bob", "in-bob"):
            if (self.folder / name).exists():
                shutil.copytree(self.folder / name, self.folder / verb / name, dirs_exist_ok=True)

    def lie(self, verb: str, number: int, name: str) -> None:
        """Lie at the `number`-th request of a command, and check what comes of it."""
        told = f"lie {name} at request {number} of {verb}"
        self.restore(verb)
        before = memory_kib("VmRSS")
        Path("/proc/self/clear_refs").write_text(
            "5"
        )  # the peak begins anew (proc_pid_clear_refs(5))
        tell = (TLS_LIES if self.extra else LIES)[name]
        self.registry.fail_at(number, Fault.told(tell))
        result = self.run(verb)
        self.registry.faults.clear()
        check_told(result, told)
        self._check_clean(verb, result, told)
        grown = memory_kib("VmHWM") - before
        assert grown <= MOST_GROWTH_KIB, f"{told}: {grown} KiB more"

    def _check_clean(self, verb: str, lied: Result, told: str) -> None:
        """Check that the message is delivered once, and receipted once, over an honest way."""
        if verb == "send" and lied.exit_code:
            again = self.run("send")
            assert again.exit_code == 0, f"{told}: {again.stderr}"
        for _ in range(CLEAN_RUNS):
            clean = self.run("recv")
            assert clean.exit_code == 0, f"{told}: {lied.stderr}---\n{clean.stderr}"
            if self.bob.content() == [DATA] and receipt_digests(self.registry):
                break
        assert self.bob.content() == [DATA], f"{told}: {lied.stderr}---\n{clean.stderr}"
        assert lines(self.run("recv")) == [], told
        assert len(messages(self.registry)) == 1, told
        assert len(receipt_digests(self.registry)) == 1, told
        receipts = self.run("receipts")
        assert [one["status"] for one in lines(receipts)] == ["accepted"], (
            f"{told}: {lied.stderr}---\n{receipts.stderr}"
        )


def memory_kib(name: str) -> int:
    """Return the memory of this process, `VmRSS`, or its peak, `VmHWM` (Linux, proc_pid_status(5))."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(name))


def check_told(result: Result, told: str) -> None:
    """Check how a command ended that was lied to, and what it printed."""
    said = result.stdout + result.stderr
    assert result.exit_code in EXIT_CODES, f"{told}: exit code {result.exit_code}"
    assert "internal error" not in said, f"{told}: {said}"
    assert "Traceback" not in said, f"{told}: {said}"
    odd = {char for char in said if not char.isprintable()} - {"\n", "\t"}
    assert not odd, f"{told}: {odd} in {said!r}"
    assert not any(secret in said for secret in SECRETS), f"{told}: {said}"


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, World]]:
    with ExitStack() as stack:
        tokens = stack.enter_context(token_server())
        TOKEN_HOSTS.append(tokens.host)
        made = {way: World(tmp_path_factory.mktemp(way), way) for way in WAYS}
        for world in made.values():
            stack.callback(world.close)
        yield made
        TOKEN_HOSTS.pop()


def lies_of(way: str) -> list[str]:
    return list(TLS_LIES if way == "tls" else LIES)


def told_lies() -> list[tuple[str, str, str]]:
    """Return way, command and lie of each test; "" draws some."""
    names = lies_of if EVERYTHING else lambda _: [""]
    return [(way, verb, name) for way in WAYS for verb in VERBS for name in names(way)]


@pytest.mark.parametrize(("way", "verb", "name"), told_lies())
def test_one_lie_loses_and_doubles_nothing(
    worlds: dict[str, World], way: str, verb: str, name: str
) -> None:
    world = worlds[way]
    numbers = range(1, world.requests[verb] + 1)
    drawn = random.Random(f"{SEED} {way} {verb} {name}")
    if name:
        for number in [drawn.choice(numbers)] if way == "tag-schema" else numbers:
            world.lie(verb, number, name)
        return
    for lie in drawn.sample(lies_of(way), SAMPLE):
        world.lie(verb, drawn.choice(numbers), lie)

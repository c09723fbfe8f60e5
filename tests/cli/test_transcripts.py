"""Plays the transcripts beside this file: whole command lines over real mailboxes.

A transcript is a TOML file: `about`, optionally `server` (what stands behind `<host>`), `env` (of
all steps), `files` (name to text, or to a number of random bytes), and steps with `run`, `exit`,
`stdout`, `stderr` and optionally `env`, `stdin`, `tty`, `advance` (days that pass before it), `remove_largest` (a folder whose largest file goes first),
`save` (a file that standard output goes to), `present` and `absent` (paths). A step whose `env`
names other homes is somebody else's. Outputs are compared whole. In them `<kind>` stands for
anything of that kind, `<kind=name>` also remembers it, and `<name>` stands for what was remembered.
"""

from __future__ import annotations

import re
import shlex
import socket
import tomllib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.cli.harness import invoke
from tests.fakes.clock import FakeClock
from tests.fakes.registry import OCI, FakeRegistry, Quirks
from tests.fakes.registry_faults import Fault
from tests.fakes.scripted import Reply, ScriptedServer

FOLDER = Path(__file__).parent / "transcripts"
STEP_KEYS = {
    "run",
    "exit",
    "stdout",
    "stderr",
    "env",
    "stdin",
    "tty",
    "absent",
    "present",
    "remove_largest",
    "save",
    "advance",
}
FILE_KEYS = {"about", "server", "env", "files", "step"}

KINDS = {
    "id": r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    "id8": r"[0-9a-f]{8}",
    "digest": r"sha256:[0-9a-f]{64}",
    "tag": r"inbox-[0-9a-v]{26}-\d{8}-[0-9a-f]{8}-[0-9a-f]{16}",
    "held": r"(?:bundle|receipts?|inbox)-[0-9a-v-]+",
    "time": r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z",
    "key": r"[A-Za-z0-9+/]{43}=",
    "line": r"[^\n]*",
}


@contextmanager
def closed_port(_: FakeClock) -> Iterator[str]:
    """Give an address where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@contextmanager
def fake(
    clock: FakeClock, quirks: Quirks = OCI, fault: Fault | None = None, **options: Any
) -> Iterator[str]:
    with FakeRegistry(quirks, clock=clock, **options) as registry:
        if fault is not None:
            registry.fail_when(lambda request: "/v2/" in request.target, fault, times=10_000)
        yield registry.host


@contextmanager
def answering(_: FakeClock, reply: Reply) -> Iterator[str]:
    with ScriptedServer(rest=reply) as server:
        yield server.host


SERVERS: dict[str, Callable[[FakeClock], AbstractContextManager[str]]] = {
    "closed": closed_port,
    "open": fake,
    "basic": lambda clock: fake(clock, Quirks(auth="basic"), users={"bot": "right"}),
    "garbage": lambda clock: answering(clock, Reply(200, b"<html>not a registry</html>")),
    "too-many": lambda clock: answering(clock, Reply(429, b"", {"Retry-After": "600"})),
    "broken": lambda clock: answering(clock, Reply(500, b"")),
}


def noise(size: int) -> bytes:
    """Return `size` bytes that no compression shrinks, the same ones each time."""
    return Random(size).randbytes(size)


def expectation(text: str, known: dict[str, str]) -> re.Pattern[str]:
    """Return what matches `text`; remembered values are filled in, new ones become groups."""
    parts, end = [], 0
    for match in re.finditer(r"<([a-z0-9]+)(?:=([a-z]+))?>", text):
        parts.append(re.escape(text[end : match.start()]))
        end = match.end()
        kind, name = match.groups()
        if kind in known:
            parts.append(re.escape(known[kind]))
        else:
            parts.append(f"(?P<{name}>{KINDS[kind]})" if name else f"(?:{KINDS[kind]})")
    return re.compile("".join(parts) + re.escape(text[end:]))


def filled(text: str, known: dict[str, str]) -> str:
    return re.sub(r"<([a-z0-9]+)>", lambda match: known[match[1]], text)


class Player:
    """Plays one transcript in a folder of its own."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, host: str, clock: FakeClock
    ) -> None:
        self.folder = folder
        self.clock = clock
        self.known = {"here": str(folder), "host": host}
        self.environ = {"HOME": str(folder / "home"), "LOGNAME": "alice"}
        for kind in ("CONFIG", "DATA", "STATE", "CACHE", "RUNTIME"):
            name = "XDG_RUNTIME_DIR" if kind == "RUNTIME" else f"XDG_{kind}_HOME"
            self.environ[name] = str(folder / "home" / kind.lower())
        for name in ("DOCKER_CONFIG", "DOCKER_AUTH_CONFIG", "REGISTRY_AUTH_FILE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in self.environ.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(folder)

    def play(self, step: dict[str, Any]) -> None:
        assert set(step) <= STEP_KEYS, "unknown keys"
        if "remove_largest" in step:
            blobs = (self.folder / step["remove_largest"]).iterdir()
            max(blobs, key=lambda blob: blob.stat().st_size).unlink()
        words = shlex.split(filled(step["run"], self.known))
        assert words.pop(0) == "dockercomms"
        env = {name: filled(value, self.known) for name, value in step.get("env", {}).items()}
        environ = {**self.environ, **env}
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environ.items():
                patch.setenv(name, value)
            result = invoke(
                words,
                environ=environ,
                folder=self.folder,
                stdin=step.get("stdin", "").encode(),
                tty=step.get("tty", False),
                clock=self.clock,
            )
        if "save" in step:
            (self.folder / step["save"]).write_text(result.stdout)
        shown = f"{step['run']}\n{result.stdout}---\n{result.stderr}"
        assert result.exit_code == step.get("exit", 0), shown
        for expected, got in (
            (step.get("stdout", ""), result.stdout),
            (step.get("stderr"), result.stderr),
        ):
            if expected is not None:
                match = expectation(expected.lstrip("\n"), self.known).fullmatch(got)
                assert match is not None, shown
                self.known |= match.groupdict()
        for path in step.get("present", ()):
            assert (self.folder / filled(path, self.known)).exists(), path
        for path in step.get("absent", ()):
            assert not (self.folder / filled(path, self.known)).exists(), path


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.toml")), ids=lambda path: path.stem)
def test_transcript(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transcript = tomllib.loads(path.read_text("utf-8"))
    assert set(transcript) <= FILE_KEYS
    assert transcript["about"]
    for name, text in transcript.get("files", {}).items():
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text.encode() if isinstance(text, str) else noise(text))
    clock = FakeClock()
    with ExitStack() as stack:
        host = ""
        if "server" in transcript:
            host = stack.enter_context(SERVERS[transcript["server"]](clock))
        player = Player(tmp_path, monkeypatch, host, clock)
        player.environ |= transcript.get("env", {})
        for step in transcript["step"]:
            clock.advance(1 + 86_400 * step.get("advance", 0))
            player.play(step)


def test_there_is_a_transcript_for_every_exit_code() -> None:
    played = {
        step.get("exit", 0)
        for path in FOLDER.glob("*.toml")
        for step in tomllib.loads(path.read_text("utf-8"))["step"]
    }
    # 10 needs somebody who answers meanwhile (tests/unit/cli/test_outbox); 130 a process to stop.
    assert played == {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 64}

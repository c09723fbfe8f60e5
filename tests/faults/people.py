"""People at their terminals: whole command lines in this process, each with a home of their own.

Alice and Bob sign with their own keys, and trust each other's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dockercomms.mailbox import Mailbox
from dockercomms.oci.stores import ConnectionSettings
from dockercomms.protocol.tags import parse_tag
from dockercomms.trust.address_book import AddressBook
from dockercomms.trust.keys import KeyStore, default_keys_folder
from dockercomms.trust.owner import default_trust_file
from tests.cli.harness import Result, invoke
from tests.fakes.clock import FakeClock
from tests.fakes.mail import files_below
from tests.fakes.registry import FakeRegistry

REPOSITORY = "team/box"
NAMES = ("alice", "bob")


@dataclass
class Person:
    """Runs command lines as `name`; `repo` and `me` are given for them.

    `timeout`, in seconds, takes the place of what `--timeout` says: a test has no whole second to
    wait. What it said is in `timeouts`.
    """

    name: str
    folder: Path
    repo: str
    clock: Any = field(default_factory=FakeClock)
    timeout: float | None = None
    timeouts: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Make the keys of both, and trust the other's."""
        keys = {
            name: KeyStore(default_keys_folder(self._homes(name))).ensure()[0] for name in NAMES
        }
        book = AddressBook(default_trust_file(self.environ))
        for name in set(NAMES) - {self.name}:
            book.add(name, key=keys[name].public)

    @property
    def home(self) -> Path:
        return self.folder / self.name

    @property
    def environ(self) -> dict[str, str]:
        """The variables for this person's keys, trust file and state."""
        return self._homes(self.name)

    def _homes(self, name: str) -> dict[str, str]:
        home = self.folder / name
        return {
            f"XDG_{kind}_HOME": str(home / kind.lower()) for kind in ("CONFIG", "DATA", "STATE")
        }

    @property
    def out(self) -> Path:
        return self.folder / f"in-{self.name}"

    def _open(self, repo: str | None, *, settings: ConnectionSettings, **options: Any) -> Mailbox:
        self.timeouts.append(settings.timeout)
        if self.timeout is not None:
            settings = replace(settings, timeout=self.timeout)
        state = self.home / "state" / "dockercomms" / "state.db"
        keys = default_keys_folder(self.environ)
        return Mailbox(repo, settings=settings, state_path=state, keys_folder=keys, **options)

    def run(
        self,
        verb: str,
        *arguments: str,
        repo: str | None = None,
        quiet: bool = True,
        environ: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Result:
        """Run `dockercomms VERB --repo R --me NAME ARGUMENTS`."""
        words = [verb, "--repo", self.repo if repo is None else repo, "--me", self.name]
        return invoke(
            [*words, *(["-q"] if quiet else []), *arguments],
            folder=self.folder,
            clock=self.clock,
            factory=self._open,
            environ={**self.environ, **(environ or {})},
            **options,
        )

    def send(self, *arguments: str, to: str = "bob", **options: Any) -> Result:
        return self.run("send", "--to", to, *arguments, **options)

    def send_ok(self, *arguments: str, **options: Any) -> dict[str, Any]:
        """Send, and return the object that is printed of it."""
        result = self.send("--json", *arguments, **options)
        assert result.exit_code == 0, result.stderr
        sent = json.loads(result.stdout)
        return sent[0] if isinstance(sent, list) else sent

    def recv(self, *arguments: str, **options: Any) -> Result:
        return self.run("recv", "--out", str(self.out), "--format", "jsonl", *arguments, **options)

    def received(self, *arguments: str, **options: Any) -> list[dict[str, Any]]:
        """Receive, and return what became of each message; nothing may fail."""
        result = self.recv(*arguments, **options)
        assert result.exit_code == 0, result.stderr + result.stdout
        return lines(result)

    def inbox(self, *arguments: str) -> list[dict[str, Any]]:
        result = self.run("inbox", "--format", "jsonl", *arguments)
        assert result.exit_code == 0, result.stderr
        return lines(result)

    def receipts(self, *arguments: str) -> list[dict[str, Any]]:
        result = self.run("receipts", "--format", "jsonl", *arguments)
        assert result.exit_code == 0, result.stderr
        return lines(result)

    def content(self) -> list[bytes]:
        """Return every file that was received, hidden ones and temporaries too."""
        return list(files_below(self.out).values())


def lines(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def told(result: Result, exit_code: int, *parts: str, hint: Sequence[str] = ()) -> str:
    """Check that a command failed with this code and said so in three lines or a few more.

    `parts` are all in the second line, `hint` in the third and those after it. Returns stderr.
    """
    said = result.stderr.splitlines()
    shown = f"{result.exit_code}\n{result.stdout}---\n{result.stderr}"
    assert result.exit_code == exit_code, shown
    assert len(said) >= 3, shown
    assert said[0].startswith("error: "), shown
    assert said[1].startswith("why: "), shown
    assert all(line.startswith("hint: ") for line in said[2:]), shown
    for part in parts:
        assert part in said[1], shown
    for part in hint:
        assert any(part in line for line in said[2:]), shown
    assert "internal error" not in result.stderr
    assert "Traceback" not in result.stderr
    return result.stderr


def messages(registry: FakeRegistry) -> dict[str, str]:
    """Return the tags of published messages and their digests."""
    tags = registry.repository(REPOSITORY).tags
    return {
        tag: digest
        for tag, digest in tags.items()
        if (said := parse_tag(tag)) is not None and said.kind == "message"
    }


def receipt_digests(registry: FakeRegistry) -> set[str]:
    """Return the digests of published receipts."""
    tags = registry.repository(REPOSITORY).tags
    return {digest for tag, digest in tags.items() if tag.startswith("receipt-")}

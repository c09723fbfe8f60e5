"""A repository to work with: once in a registry, once in a folder; and a machine with no settings."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dockercomms.oci.interface import Registry, read_all
from dockercomms.oci.layout.registry import LayoutRegistry
from dockercomms.oci.model import Descriptor, Digest, digest_of
from dockercomms.oci.remote.registry import HTTPRegistry
from tests.cli.harness import Result, invoke
from tests.fakes.images import Built, push
from tests.fakes.registry import FakeRegistry


@dataclass
class Box:
    """A repository, and the command line that works with it."""

    base: str
    """As a command line names it."""
    store: Registry
    name: str
    """As the store names it."""
    folder: Path
    """The folder for files of the test."""
    fake: FakeRegistry | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """The repository as the program prints it."""
        return self.base

    def reg(self, *words: str, **options: Any) -> Result:
        return invoke(["reg", *map(str, words)], **{**self.options, **options})

    def ok(self, *words: str, **options: Any) -> Result:
        result = self.reg(*words, **options)
        assert result.exit_code == 0, result.stderr
        return result

    def json(self, *words: str, **options: Any) -> Any:
        return json.loads(self.ok(*words, "--json", "-q", **options).stdout)

    def rows(self, *words: str, **options: Any) -> list[Any]:
        lines = self.ok(*words, "--format", "jsonl", **options).stdout.splitlines()
        return [json.loads(line) for line in lines]

    def push(self, built: Built, *tags: str) -> Descriptor:
        return push(self.store, self.name, built, *tags)

    def push_blob(self, data: bytes) -> Digest:
        descriptor = Descriptor.of(data, "application/octet-stream")
        self.store.push_blob(self.name, descriptor, lambda: io.BytesIO(data))
        return descriptor.digest

    def blob(self, digest: Digest) -> bytes:
        return read_all(self.store.get_blob(self.name, digest), 2**30)[0]

    def tags(self) -> list[str]:
        return sorted(self.store.tags(self.name))

    def file(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(data)
        return path


MISSING = digest_of(b"what nobody has")


@pytest.fixture
def quiet_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An own current folder, and no logins, proxies or settings of whoever runs the tests."""
    home = tmp_path / "home"
    home.mkdir()
    for name in ("DOCKER_CONFIG", "DOCKER_AUTH_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        yield registry


@pytest.fixture
def remote(fake: FakeRegistry, quiet_machine: Path) -> Iterator[Box]:
    """A repository in a registry."""
    with HTTPRegistry(fake.host) as store:
        yield Box(f"{fake.host}/team/app", store, "team/app", quiet_machine, fake)


@pytest.fixture
def layout(quiet_machine: Path) -> Box:
    """A repository in a folder."""
    store = LayoutRegistry(quiet_machine / "box", create=True)
    return Box(f"oci-layout:{quiet_machine}/box", store, "mailbox", quiet_machine)


@pytest.fixture(params=["remote", "layout"])
def box(request: pytest.FixtureRequest) -> Box:
    """Each of the two."""
    found: Box = request.getfixturevalue(request.param)
    return found

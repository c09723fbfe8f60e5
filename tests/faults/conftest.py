"""Nobody's home but the test's own, and nobody's logins."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.clock import FakeClock
from tests.fakes.registry import FakeRegistry
from tests.faults.people import Person
from tests.faults.zygote import Zygote

FOREIGN = ("DOCKER_", "DOCKERCOMMS_", "REGISTRY_", "XDG_")


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(FOREIGN):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for kind in ("CONFIG", "DATA", "STATE", "CACHE"):
        monkeypatch.setenv(f"XDG_{kind}_HOME", str(home / kind.lower()))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry(clock=FakeClock()) as running:
        yield running


@pytest.fixture
def bob(alice: Person, tmp_path: Path) -> Person:
    return Person("bob", tmp_path, alice.repo, alice.clock)


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote() as running:
        yield running

"""Nobody's home but the test's own, and nobody's logins."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

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

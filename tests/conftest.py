"""A home of their own for all tests: keys, trust files and states never touch those of a person."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

# A shell makes what it starts in the background ignore Ctrl-C; what tests start is to hear it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give this process, and those it starts, folders that are nobody's.

    One key serves all tests of a process: one person on one machine, who trusts themselves.
    """
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        for kind in ("CONFIG", "DATA", "STATE"):
            patch.setenv(f"XDG_{kind}_HOME", str(folder / kind.lower()))
        yield


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name a parameter of bytes by its argument: content with a time in it differs in each worker."""
    return argname if isinstance(val, bytes) else None

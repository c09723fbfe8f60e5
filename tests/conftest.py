"""A home of their own for all tests: keys, trust files and states never touch those of a person."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from dockercomms.trust.keys import DEFAULT_KEY, KeyStore, default_keys_folder

MEMORY = Path("/dev/shm")
"""Linux has a file system in memory here, where `fsync` costs nothing: 45 s instead of 61."""
ROOM_BYTES = 2 << 30
"""More than twice what the quick tier writes."""
REAL_ROOM_BYTES = 10 << 30
"""More than twice what tests/real write in their small sizes, registries and all."""
FOLDER = "dockercomms-tests-"
_FOLDER = pytest.StashKey[Path]()

# hypothesis fails what takes longer than 200 ms, which depends on what else a machine does.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

# A shell makes what it starts in the background ignore Ctrl-C; what tests start is to hear it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give this process, and those it starts, folders that are nobody's.

    One key serves all tests of a process: one person on one machine, who trusts themselves. It is
    made here: what makes it says so, and no test is to hear that because it happens to come first.
    """
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        for kind in ("CONFIG", "DATA", "STATE"):
            patch.setenv(f"XDG_{kind}_HOME", str(folder / kind.lower()))
        KeyStore(default_keys_folder(os.environ)).ensure(DEFAULT_KEY)
        yield


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name a parameter of bytes by its argument: content with a time in it differs in each worker."""
    return argname if isinstance(val, bytes) else None


def pytest_configure(config: pytest.Config) -> None:
    """Let the tests write to memory, if there is room; the full sizes of tests/real go to a disk.

    The folder is left where a test failed, until the next run.
    """
    if hasattr(config, "workerinput") or "TMPDIR" in os.environ:
        return
    real = has_real(config)
    if real and os.environ.get("DOCKERCOMMS_TEST_SIZE") == "full":
        return
    if not os.access(MEMORY, os.W_OK) or free_bytes() < (REAL_ROOM_BYTES if real else ROOM_BYTES):
        return
    for left in MEMORY.glob(f"{FOLDER}*"):
        if not is_alive(left.name):
            shutil.rmtree(left, ignore_errors=True)
    folder = MEMORY / f"{FOLDER}{os.getpid()}"
    folder.mkdir(mode=0o700)
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    config.stash[_FOLDER] = folder


def free_bytes() -> int:
    """Return what may be written to `MEMORY`: its size is a limit, and what is in use elsewhere another."""
    free = shutil.disk_usage(MEMORY).free
    with open("/proc/meminfo", encoding="ascii") as lines:
        for line in lines:
            if line.startswith("MemAvailable:"):
                return min(free, int(line.split()[1]) << 10)
    return free


def has_real(config: pytest.Config) -> bool:
    """Return whether a run has tests/real in it, or may have."""
    if any(Path(path).match("tests/real") for path in config.getoption("ignore") or ()):
        return False
    named = [Path(arg.partition("::")[0]) for arg in config.args]
    return any(path.name == "tests" or "real" in path.parts or path == Path() for path in named)


def is_alive(name: str) -> bool:
    """Return whether the run that made a folder goes on."""
    try:
        os.kill(int(name.removeprefix(FOLDER)), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return True


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    folder = session.config.stash.get(_FOLDER, None)
    if folder is not None and exitstatus == 0:
        shutil.rmtree(folder, ignore_errors=True)

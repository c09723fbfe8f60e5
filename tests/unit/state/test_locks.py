from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys

import pytest

from dockercomms.errors import LocalIOError
from dockercomms.platforms.files import holder_of
from dockercomms.state import State, locks
from dockercomms.state.locks import lock_within, sweep_locks, try_lock, try_shared_lock


def test_try_lock_is_free_again_after_an_error(tmp_path):
    path = tmp_path / "deep" / "x.lock"
    held = []

    def fail():
        with try_lock(path) as ours:
            held.append(ours)
            raise KeyError

    for _ in range(2):
        with pytest.raises(KeyError):
            fail()

    assert held == [True, True]


def test_try_lock_says_what_is_in_the_way(tmp_path):
    (tmp_path / "file").write_text("x")

    with pytest.raises(LocalIOError, match="lock"), try_lock(tmp_path / "file" / "x.lock"):
        pass


# --- locks that programs inherit -----------------------------------------------------------------


def test_shared_lock_is_held_once_and_leaves_no_file(tmp_path):
    path = tmp_path / "new" / "one.lock"
    before = len(os.listdir("/proc/self/fd"))
    with try_shared_lock(path) as first, try_shared_lock(path) as second:
        assert first is not None
        assert second is None
    assert not path.exists()
    with try_shared_lock(path) as again:
        assert again is not None
    assert len(os.listdir("/proc/self/fd")) == before


def test_shared_lock_is_held_by_who_inherits_it(tmp_path):
    path = tmp_path / "one.lock"
    reads, writes = os.pipe()
    with try_shared_lock(path) as held:
        program = subprocess.Popen(["cat"], stdin=reads, stdout=subprocess.DEVNULL, pass_fds=held)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, held[0])  # as if whoever started it was killed
        os.close(nothing)
        with try_shared_lock(path) as second:
            assert second is None
        os.close(writes)
        os.close(reads)
        program.wait()
        with try_shared_lock(path) as third:
            assert third is not None


def test_shared_lock_that_was_removed_meanwhile_is_not_taken(tmp_path, monkeypatch):
    path = tmp_path / "one.lock"
    flock, removed = fcntl.flock, []

    def remove_first(handle, how):
        if not removed:
            removed.append(path.unlink())
        flock(handle, how)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    with try_shared_lock(path) as held:
        assert os.fstat(held[0]).st_ino == path.stat().st_ino


def test_shared_lock_without_such_locks_is_ours_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "INHERITABLE", False)
    with try_shared_lock(tmp_path / "l") as first, try_shared_lock(tmp_path / "l") as second:
        assert (first, second) == ((), None)


def test_shared_lock_that_cannot_be_made_names_the_file(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(LocalIOError, match=r"file/x\.lock"),
        try_shared_lock(tmp_path / "file" / "x.lock"),
    ):
        pass


def test_sweep_removes_what_nobody_holds(tmp_path):
    for name in ("dead.lock", "held.lock", "other"):
        (tmp_path / name).touch()
    with try_shared_lock(tmp_path / "held.lock"):
        sweep_locks(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["held.lock", "other"]
    sweep_locks(tmp_path / "nowhere")


# --- locks that cannot be had --------------------------------------------------------------------


HOLD = """
import pathlib, sys
from dockercomms.state.locks import try_lock
with try_lock(pathlib.Path(sys.argv[1])) as held:
    print(held, flush=True)
    sys.stdin.read()
"""


def test_lock_within_names_the_process_that_holds_it(tmp_path):
    path = tmp_path / "one.lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout.readline() == "True\n"
        with (
            pytest.raises(LocalIOError, match=rf"one\.lock: held by process {other.pid} for 0 s"),
            lock_within(path, 0),
        ):
            pass
        other.stdin.close()
        other.wait()
    with lock_within(path, 0):
        assert holder_of(path) == "this process"
    assert holder_of(path) == "another process"  # nobody is known


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch, number):
    def refuse(handle, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (
        pytest.raises(LocalIOError, match=r"one\.lock: this file system has no file locks: ") as no,
        try_lock(tmp_path / "one.lock"),
    ):
        pass
    assert "XDG_STATE_HOME" in no.value.hint
    with State(tmp_path / "state.db") as state, pytest.raises(LocalIOError) as caught:
        state.inbox.delivering("bob")
    assert "XDG_STATE_HOME" in caught.value.hint

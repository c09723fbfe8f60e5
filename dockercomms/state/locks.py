"""Locks that end with their process, one file each, taken without waiting.

A lock shows that a living process works on a send or a delivery. The holder removes the file at the
end of its work, so that the folder does not grow.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from dockercomms.errors import LocalIOError
from dockercomms.platforms.clock import SystemClock
from dockercomms.platforms.files import (
    LOCK_POLL_SECONDS,
    NO_LOCKS_CODES,
    holder_of,
    local_errors,
    make_folder,
)

OTHER_FILE_SYSTEM = (
    "set XDG_STATE_HOME to a folder on a file system that has file locks, such as a disk of this "
    "machine: export XDG_STATE_HOME=/var/tmp/state-of-$USER"
)
"""The hint for a state on a file system without locks: NFS without lockd, Lustre without flock."""

INHERITABLE = find_spec("fcntl") is not None
"""Locks belong to open files, which child processes inherit. False on Windows."""


@contextlib.contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Try to take the lock `path` for the block; yield False at once if it is held elsewhere.

    Threads of one process exclude each other as well. The file is removed while the lock is still
    held: a process that opened it before sees that it is gone and does not take it for the lock.

    Raises:
        LocalIOError: the file cannot be created, or its file system has no locks.
    """
    with try_shared_lock(path) as held:
        yield held is not None


@contextlib.contextmanager
def try_shared_lock(path: Path) -> Iterator[tuple[int, ...] | None]:
    """Yield descriptors that hold the lock `path` in every process that has them; `None` if taken.

    A child process that inherits the descriptors holds the lock as well, so that the lock outlives
    a killed parent. Where the system has no such locks, only this process holds it, and the tuple
    is empty. The file is removed while the lock is held, as by `try_lock`.

    Raises:
        LocalIOError: the file cannot be created, or its file system has no locks.
    """
    if not INHERITABLE:
        with _file_lock(path) as held:
            yield () if held else None
        return
    with local_errors(f"lock {path}", base="XDG_STATE_HOME"):
        handle = _flocked(path)
    if handle is None:
        yield None
        return
    try:
        yield (handle,)
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(handle)


@contextlib.contextmanager
def lock_within(path: Path, seconds: float) -> Iterator[None]:
    """Hold the lock `path` during the block; wait at most `seconds` for it.

    Raises:
        LocalIOError: another process holds it (the message names the process if the system tells
            its number), or the file cannot be created.
    """
    clock = SystemClock()
    end = clock.monotonic() + seconds
    while True:
        with try_lock(path) as held:
            if held:
                yield
                return
            if clock.monotonic() >= end:
                raise LocalIOError(
                    f"lock {path}: held by {holder_of(path)} for {seconds:.0f} s",
                    hint="end that process, or try again",
                )
        clock.sleep(LOCK_POLL_SECONDS)


def sweep_locks(folder: Path) -> None:
    """Remove the files of shared locks in `folder` whose processes have died.

    Raises:
        LocalIOError: the folder cannot be read.
    """
    with local_errors(str(folder)):
        paths = list(folder.glob("*.lock"))
    for path in paths:
        with try_shared_lock(path):
            pass


def _flocked(path: Path) -> int | None:
    """Return a descriptor of `path` that holds its lock; `None` if the lock is held elsewhere."""
    import fcntl  # noqa: PLC0415 - not everywhere

    while True:
        handle = _opened(path)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        except BaseException as error:
            os.close(handle)
            if isinstance(error, OSError) and error.errno in NO_LOCKS_CODES:
                raise LocalIOError(
                    f"lock {path}: this file system has no file locks: {error.strerror}",
                    hint=OTHER_FILE_SYSTEM,
                ) from error
            raise
        if os.fstat(handle).st_nlink:
            return handle
        os.close(handle)  # its last holder removed the file in between


def _opened(path: Path) -> int:
    """Return a descriptor of `path`; create the file and its folder if they are missing."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags, 0o600)
    except FileNotFoundError:
        make_folder(path.parent, mode=0o700)
        return os.open(path, flags, 0o600)


@contextlib.contextmanager
def _file_lock(path: Path) -> Iterator[bool]:
    """Try to take the lock `path` where the system has no `flock`; see `try_lock`."""
    from filelock import FileLock, Timeout  # noqa: PLC0415 - seldom needed, and 8 ms to load

    lock = FileLock(path, mode=0o600)
    with local_errors(f"lock {path}", base="XDG_STATE_HOME"):
        make_folder(path.parent, mode=0o700)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            yield False
            return
    try:
        yield True
    finally:
        with contextlib.suppress(OSError):  # Windows keeps open files; the next holder removes it
            path.unlink()
        lock.release()

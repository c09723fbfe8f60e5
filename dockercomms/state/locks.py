"""Locks that end with their process, one file each, taken without waiting.

A lock says that somebody is alive and at work on something: on a send, or on a delivery. Its file
goes when the work is done, so that the folder does not grow.
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
"""The hint where the state's own file system has none: NFS without lockd, Lustre without flock."""

INHERITABLE = find_spec("fcntl") is not None
"""Whether locks belong to open files, which programs inherit: not on Windows."""


@contextlib.contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Yield whether this block holds the lock `path`; False at once where another one does.

    Threads of one process exclude each other as well. The file is removed while the lock is still
    held: whoever opened it before sees that it is gone and does not take it for the lock.

    Raises:
        LocalIOError: the file cannot be made, or its file system has no locks.
    """
    with try_shared_lock(path) as held:
        yield held is not None


@contextlib.contextmanager
def try_shared_lock(path: Path) -> Iterator[tuple[int, ...] | None]:
    """Yield descriptors that hold the lock `path` for every process that has them; None if taken.

    A program that inherits them holds the lock as well: it stays locked when we are killed and the
    program lives on. Where the system has no such locks it is ours alone, and nothing is yielded
    to be inherited. The file is removed while the lock is held, as by `try_lock`.

    Raises:
        LocalIOError: the file cannot be made, or its file system has no locks.
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
        LocalIOError: another process holds it, which the message names if the system tells; or
            the file cannot be made.
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
    """Remove the files of shared locks in `folder` that nobody holds: of processes that died.

    Raises:
        LocalIOError: the folder cannot be read.
    """
    with local_errors(str(folder)):
        paths = list(folder.glob("*.lock"))
    for path in paths:
        with try_shared_lock(path):
            pass


def _flocked(path: Path) -> int | None:
    """Return a descriptor of `path` that holds its lock; None if another one does."""
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
        os.close(handle)  # its last holder removed it in between: it is nobody's lock any more


def _opened(path: Path) -> int:
    """Return a descriptor of `path`; it and its folder are made if they are not there."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags, 0o600)
    except FileNotFoundError:
        make_folder(path.parent, mode=0o700)
        return os.open(path, flags, 0o600)


@contextlib.contextmanager
def _file_lock(path: Path) -> Iterator[bool]:
    """Yield whether this block holds the lock `path`, where the system has no `flock`."""
    from filelock import FileLock, Timeout  # noqa: PLC0415 - for few, and 8 ms to load

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

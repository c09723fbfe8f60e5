"""Locks that end with their process, one file each, taken without waiting.

A lock says that somebody is alive and at work on something: on a send, or on a delivery. Its file
goes when the work is done, so that the folder does not grow.

Example:
    >>> import pathlib, tempfile
    >>> from dockercomms.state.locks import try_lock
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "one.lock"
    >>> with try_lock(path) as first, try_lock(path) as second:
    ...     (first, second)
    (True, False)
    >>> path.exists()
    False
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from dockercomms.platforms import local_errors


@contextlib.contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Yield whether this block holds the lock `path`; False at once where another one does.

    Threads of one process exclude each other as well. The file is removed while the lock is still
    held: whoever opened it before sees that it is gone and does not take it for the lock.

    Raises:
        LocalIOError: the file cannot be made.
    """
    lock = FileLock(path, mode=0o600)
    with local_errors(f"lock {path}"):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        held = _try(lock)
    if not held:
        yield False
        return
    try:
        yield True
    finally:
        with contextlib.suppress(OSError):  # Windows keeps open files; the next holder removes it
            path.unlink()
        lock.release()


def _try(lock: BaseFileLock) -> bool:
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    return True

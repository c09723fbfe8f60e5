"""What differs by operating system, each with a portable fallback, and the clock.

`native` is the switch: with it off, only calls that every system has are used, so that the
fallbacks can be tested on any machine.

Example:
    >>> import pathlib, tempfile
    >>> from dockercomms.platforms import rename_new
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "a").write_text("x")
    >>> rename_new(folder / "a", folder / "b")
    >>> (folder / "b").read_text()
    'x'
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import random
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from dockercomms.errors import LocalIOError

_AT_FDCWD = -100
_LINUX_RENAME_NOREPLACE = 1
_DARWIN_RENAME_EXCL = 4
LOCK_POLL_SECONDS = 0.02
"""How often a lock held by another process is asked for again."""


class Clock(Protocol):
    """The time, and waiting for it; tests put a fake one in its place."""

    def now(self) -> datetime:
        """Return the time of day in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds since some fixed moment; never goes back."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait `seconds`."""
        ...

    def random(self) -> float:
        """Return a number from 0 up to 1, for jitter."""
        ...


@dataclass(frozen=True, slots=True)
class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        """Return the time of day in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds since some fixed moment."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait `seconds`."""
        time.sleep(seconds)

    def random(self) -> float:
        """Return a number from 0 up to 1."""
        return random.random()  # noqa: S311 - jitter, not a secret


@contextlib.contextmanager
def local_errors(what: str) -> Iterator[None]:
    """Turn an OSError of the block into a LocalIOError that names `what`.

    Raises:
        LocalIOError: with a hint where the disk is full or permission is missing.
    """
    try:
        yield
    except OSError as error:
        hint = None
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "free some space, or choose another folder with --out"
        elif error.errno in (errno.EACCES, errno.EPERM):
            hint = "check the permissions of the file and of its folder"
        reason = error.strerror or str(error)
        raise LocalIOError(f"{what}: {reason}", hint=hint) from error


def create_new(path: Path, *, mode: int = 0o600) -> int:
    """Return a descriptor of the new file `path`, for reading and writing.

    Never opens what is there already, nor what a symbolic link points at.

    Raises:
        FileExistsError: something is there.
        OSError: as `os.open`.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    return os.open(path, flags, mode)


def rename_new(source: Path, target: Path, *, native: bool = True) -> None:
    """Rename a file or folder to a name at which nothing is.

    The kernel's rename-without-replace where there is one; else a hard link for files, and for
    folders a rename, which on POSIX replaces nothing but an empty folder.

    Raises:
        FileExistsError: something is at `target`.
        OSError: as `os.rename`.
    """
    if native:
        done = _rename_exclusive(source, target)
        if done:
            return
    if source.is_dir():
        target.mkdir()  # claims the name: FileExistsError if anything is there
        os.rename(source, target)  # noqa: PTH104 - beside os.link
        return
    try:
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError:
        _claim_and_replace(source, target)
        return
    os.unlink(source)  # noqa: PTH108 - beside os.link


def _claim_and_replace(source: Path, target: Path) -> None:
    """Rename on file systems without hard links: claim the name, then replace our own claim."""
    os.close(create_new(target))
    os.replace(source, target)  # noqa: PTH105 - beside os.link


def _rename_exclusive(source: Path, target: Path) -> bool:
    """Use renameat2 or renamex_np; False where the system or file system has neither."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        old, new = os.fsencode(source), os.fsencode(target)
        if sys.platform == "darwin":
            result = libc.renamex_np(old, new, _DARWIN_RENAME_EXCL)
        else:
            result = libc.renameat2(_AT_FDCWD, old, _AT_FDCWD, new, _LINUX_RENAME_NOREPLACE)
    except (AttributeError, OSError, TypeError):
        return False
    if result == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(target))


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable; nothing where folders cannot be opened (Windows).

    Raises:
        OSError: as `os.fsync`.
    """
    try:
        handle = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    except PermissionError:
        if os.name == "nt":
            return
        raise
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def free_bytes(folder: Path) -> int:
    """Return how many bytes this user may still write in the file system of `folder`."""
    return shutil.disk_usage(folder).free

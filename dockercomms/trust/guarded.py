"""Files that decide whom we trust: nobody else may write them, or replace what they lie in.

As ssh does (OpenSSH 9.9, misc.c, `safe_path`): the file and every folder above it, up to the home
folder, belong to the user or to root, and no one else can write there. In a folder with the sticky
bit, such as /tmp, only its owner can replace a file.
"""

from __future__ import annotations

import os
import stat
from dataclasses import field
from pathlib import Path

from dockercomms.platforms import home_folder, local_errors
from dockercomms.records import dataclass

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, slots=True)
class Unguarded:
    """A file or folder that others can change."""

    reason: str
    """What is wrong, with the path."""
    hint: str = field(repr=False)
    """The command that mends it."""


def who_else_can_change(
    path: Path, *, uid: int | None = None, home: Path | None = None
) -> Unguarded | None:
    """Return why somebody else can change what the file `path` holds; None: nobody else can.

    On Windows it is always None: modes say nothing there.

    Args:
        path: The file; links are followed.
        uid: Whose it must be, if it is not root's; None: this process's.
        home: The folder above which nothing is looked at; None: the user's.

    Raises:
        LocalIOError: something on the way cannot be looked at.
    """
    if os.name == "nt":
        return None
    uid = os.geteuid() if uid is None else uid
    with local_errors(str(path)):
        real = path.resolve(strict=True)
        top = _home() if home is None else home.resolve()
        for place in (real, *real.parents):
            found = _unguarded(place, place.stat(), uid)
            if found is not None or place == top:
                return found
    return None


def _unguarded(place: Path, status: os.stat_result, uid: int) -> Unguarded | None:
    if status.st_uid not in (0, uid):
        return Unguarded(
            f"{place}: belongs to user {status.st_uid}: not to you ({uid}) or root",
            f"chown {uid} {place}",
        )
    mode = stat.S_IMODE(status.st_mode)
    if mode & _OTHERS_WRITE and not (stat.S_ISDIR(status.st_mode) and mode & stat.S_ISVTX):
        return Unguarded(f"{place}: mode {mode:04o}: others can write it", f"chmod go-w {place}")
    return None


def _home() -> Path | None:
    home = home_folder(os.environ)
    try:
        return None if home is None else home.resolve()
    except (RuntimeError, OSError):
        return None  # a process without a home: everything up to / is looked at

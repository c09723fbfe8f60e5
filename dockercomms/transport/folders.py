"""An open folder whose entries are reached through its descriptor, and never through a link.

The system resolves a path anew in every call, so another program can replace a folder by a link
between two calls; an open folder stays the same folder. Windows has no calls relative to a
descriptor: there this module checks each path before it uses it. It refuses a link that it
finds, but does not notice one that is created between check and use.

Source: POSIX.1-2017, openat; SPEC.md section 8.5.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Self

from dockercomms.platforms.files import (
    HELPFUL_CALL_CODES,
    create_new,
    left_out,
    rename_new,
    sync_file,
    sync_folder,
    write_all,
)

NATIVE = (
    {os.open, os.mkdir, os.stat, os.rename, os.unlink, os.rmdir, os.symlink} <= os.supports_dir_fd
    and os.listdir in os.supports_fd
    and hasattr(os, "O_DIRECTORY")
    and hasattr(os, "O_NOFOLLOW")
)
"""True if this system has calls relative to an open folder."""

_OPEN_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_PLAIN = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


class Folder:
    """An open folder, to be closed or used as a context manager. Names contain no separator.

    Every method raises OSError as the function of `os` with the same name does.

    Args:
        path: Its path; with a `handle` it is only for messages.
        handle: Its descriptor, None on systems without calls relative to one.
    """

    __slots__ = ("handle", "path")

    def __init__(self, path: Path, handle: int | None) -> None:
        self.path = path
        self.handle = handle

    @classmethod
    def open(cls, path: Path, *, native: bool = NATIVE) -> Folder:
        """Open the folder at `path`, following links on the way.

        Args:
            path: The folder.
            native: False: do not use calls relative to a descriptor.

        Raises:
            OSError: there is no folder, or it is not readable.
        """
        if native:
            return cls(path, os.open(path, _OPEN_FOLDER))
        if not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
        return cls(path, None)

    def enter(self, name: str) -> Folder:
        """Open the folder `name`.

        Raises:
            NotADirectoryError: the entry is a link or a file.
            OSError: as `os.open`.
        """
        status = self.status(name)
        if status is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.path / name))
        if not _is_folder(status):
            raise NotADirectoryError(
                errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(self.path / name)
            )
        if self.handle is None:
            return Folder(self.path / name, None)
        handle = os.open(name, _OPEN_FOLDER | _NO_LINK, dir_fd=self.handle)
        return Folder(self.path / name, handle)

    def close(self) -> None:
        """Close its descriptor."""
        if self.handle is not None:
            os.close(self.handle)
            self.handle = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- looking ---------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Return the names of its entries, sorted."""
        return sorted(os.listdir(self.path if self.handle is None else self.handle))  # noqa: PTH208 - a descriptor

    def status(self, name: str) -> os.stat_result | None:
        """Return the status of `name` without following a link; None if there is no such entry."""
        try:
            return os.stat(self._at(name), dir_fd=self.handle, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def is_folder(self, name: str) -> bool:
        """Return whether `name` is a folder, and no link to one."""
        status = self.status(name)
        return status is not None and _is_folder(status)

    def open_file(self, name: str, flags: int = os.O_RDONLY) -> int:
        """Return a descriptor of `name`, which must not be a link.

        Opening a FIFO does not block: check the type of the descriptor.
        """
        if self.handle is None and stat.S_ISLNK(os.lstat(self.path / name).st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(self.path / name))
        return os.open(self._at(name), flags | _NO_LINK | _PLAIN, dir_fd=self.handle)

    # --- making and moving -----------------------------------------------------------------------

    def create(self, name: str, *, mode: int = 0o600) -> int:
        """Create the file `name`; return its descriptor, for reading and writing.

        Raises:
            FileExistsError: there is an entry, even a dangling link.
        """
        return create_new(self._at(name), mode=mode, dir_fd=self.handle)

    def mkdir(self, name: str, mode: int = 0o777) -> None:
        """Make the folder `name`."""
        os.mkdir(self._at(name), mode, dir_fd=self.handle)

    def symlink(self, target: str, name: str) -> None:
        """Create the link `name`; on a file system without links, a file that holds `target`.

        Git writes the same file there (git-config(1), core.symlinks).
        """
        try:
            os.symlink(target, self._at(name), dir_fd=self.handle)
        except OSError as error:
            if error.errno not in HELPFUL_CALL_CODES:
                raise
            left_out("making a symbolic link", error, "a file that names its target stands there")
            handle = self.create(name, mode=0o666)
            try:
                write_all(handle, os.fsencode(target))
                sync_file(handle)
            finally:
                os.close(handle)

    def unlink(self, name: str) -> None:
        """Remove the file or link `name`."""
        os.unlink(self._at(name), dir_fd=self.handle)

    def rename_new(self, name: str, target: Folder, new_name: str) -> None:
        """Move `name` to a free name in `target`, as `platforms.files.rename_new`."""
        rename_new(
            self._at(name),
            target._at(new_name),
            src_dir_fd=self.handle,
            dst_dir_fd=target.handle,
        )

    def replace(self, name: str, target: Folder, new_name: str) -> None:
        """Move `name` to a name in `target`, replacing a file or link there."""
        os.replace(
            self._at(name),
            target._at(new_name),
            src_dir_fd=self.handle,
            dst_dir_fd=target.handle,
        )

    def sync(self) -> None:
        """Make its names durable."""
        if self.handle is None:
            sync_folder(self.path)
        else:
            sync_folder(self.handle)

    def _at(self, name: str) -> Path:
        """Return an entry's name for a system call: relative to the descriptor, else its path."""
        if not name or "/" in name or name in (".", ".."):
            raise AssertionError(f"internal: {name!r} is not the name of an entry")
        return Path(name) if self.handle is not None else self.path / name


def _is_folder(status: os.stat_result) -> bool:
    """Return whether it is a folder, and not a link or a junction of Windows."""
    return stat.S_ISDIR(status.st_mode) and not getattr(status, "st_reparse_tag", 0)

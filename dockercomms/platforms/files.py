"""File operations that differ by operating system, each with a portable fallback.

Tests switch the system's own calls off with `native=False`, to run the fallbacks anywhere.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import stat
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, BinaryIO, Literal

from dockercomms.errors import LocalIOError, NoHomeError, UsageError
from dockercomms.platforms.records import dataclass

if TYPE_CHECKING:
    from filelock import BaseFileLock

_LINUX_AT_FDCWD = -100
_DARWIN_AT_FDCWD = -2
_LINUX_RENAME_NOREPLACE = 1
_DARWIN_RENAME_EXCL = 4
LOCK_POLL_SECONDS = 0.02
"""The time between two tries to get a lock that another process holds."""
_PROC_LOCKS = Path("/proc/locks")
_log = logging.getLogger("dockercomms.platforms")
logging.getLogger("dockercomms").addHandler(logging.NullHandler())  # a library prints no logs
_POSITION = threading.Lock()
"""Held between a seek and its read on systems without `preadv`."""

BaseVariable = Literal["XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"]
_BELOW_HOME: Mapping[BaseVariable, str] = MappingProxyType({
    "XDG_CONFIG_HOME": ".config",
    "XDG_DATA_HOME": ".local/share",
    "XDG_STATE_HOME": ".local/state",
})  # fmt: skip
"""The default base folders below the home folder (XDG Base Directory 0.8)."""
MISSING_CALL_CODES = frozenset(
    {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY}
)
"""Error codes of file systems that lack a call: CIFS, FUSE, 9p, Lustre, NFS, FAT."""
HELPFUL_CALL_CODES = MISSING_CALL_CODES | {errno.EPERM, errno.EACCES}
"""The same for calls that are not essential: FAT refuses links and modes with EPERM, and a folder
without read permission cannot be opened for a sync."""
NO_LOCKS_CODES = MISSING_CALL_CODES | {errno.ENOLCK}
"""Error codes of `flock` on file systems without locks (flock(2); NFS, Lustre, FUSE, measured)."""
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


def home_folder(environ: Mapping[str, str]) -> Path | None:
    """Return the user's home folder, if a variable or the user database names one.

    A container that runs under a bare user number has no home folder. A relative `HOME` is ignored.
    """
    for place in (environ.get("HOME", ""), os.path.expanduser("~")):  # noqa: PTH111 - may stay "~"
        if os.path.isabs(place):  # noqa: PTH117 - of a string
            return Path(place)
    return None


def base_folder(variable: BaseVariable, environ: Mapping[str, str]) -> Path:
    """Return one of the user's base folders, which may not exist.

    A relative value of the variable is ignored.

    Raises:
        NoHomeError: there is no home folder either; names the variable.

    Source: XDG Base Directory Specification 0.8, "Environment variables".
    """
    base = Path(environ.get(variable, ""))
    if base.is_absolute():
        return base
    home = home_folder(environ)
    if home is None:
        raise NoHomeError(
            "no home folder: HOME is not set, and the system has no entry for your user ID",
            hint=f"set {variable}, or HOME, to a folder that you may read and write",
        )
    return home / _BELOW_HOME[variable]


def expand_home(path: str | os.PathLike[str]) -> Path:
    """Return `path` with a leading `~` or `~USER` replaced by the home folder.

    Raises:
        UsageError: there is no such user or home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{path!s:.300}: there is no home folder to replace ~") from error


@contextlib.contextmanager
def local_errors(what: str, *, base: BaseVariable | None = None) -> Iterator[None]:
    """Turn an OSError of the block into a LocalIOError that names `what`.

    Args:
        what: The file, for the message.
        base: The variable that moves the file to another folder, for the hint.

    Raises:
        LocalIOError: with a hint if the disk is full or permission is missing.
    """
    try:
        yield
    except OSError as error:
        raise local_error(error, what, base=base) from error


def local_error(error: OSError, what: str, *, base: BaseVariable | None = None) -> LocalIOError:
    """Return the LocalIOError for an OSError, as `local_errors` raises it."""
    hint = None
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "free some space, or choose a folder on another disk"
    elif error.errno in _DENIED and base is not None:
        hint = f"set {base}, or HOME, to a folder that you may read and write"
    elif error.errno in (errno.EACCES, errno.EPERM):
        hint = "check the permissions of the file and of its folder"
    return LocalIOError(f"{what}: {error.strerror or error}", hint=hint)


def holder_of(*paths: Path) -> str:
    """Return the process with an exclusive lock on one of `paths`, for an error message.

    Only Linux names the process, and only in the same container and for a user who may see its
    files. Source: proc_locks(5).
    """
    for path in paths:
        with contextlib.suppress(OSError, ValueError):
            status = path.stat()
            for line in _PROC_LOCKS.read_text("ascii").splitlines():
                fields = line.split()
                if fields[1] == "->" or fields[3] != "WRITE":
                    continue  # it waits for the lock, or shares it
                process, inode = int(fields[4]), int(fields[5].rpartition(":")[2])
                if inode == status.st_ino and _has_open(process, status):
                    return "this process" if process == os.getpid() else f"process {process}"
    return "another process"


def _has_open(process: int, status: os.stat_result) -> bool:
    """Return whether a process has the file of `status` open: inodes repeat across devices."""
    with contextlib.suppress(OSError):
        for file in Path(f"/proc/{process}/fd").iterdir():
            with contextlib.suppress(OSError):
                if os.path.samestat(file.stat(), status):
                    return True
    return False


def begin_writing(handle: int, start: int, stop: int) -> None:
    """Start writing the bytes of a file from `start` to `stop` to the disk, if the system can.

    The call returns at once; the final `fsync` becomes shorter (by 0.5 s for 1 GiB, measured). A
    refusal is ignored. Linux starts the write for POSIX_FADV_DONTNEED, and keeps the bytes in
    memory until they are written.
    """
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):
            os.posix_fadvise(handle, start, stop - start, os.POSIX_FADV_DONTNEED)


def is_hole(handle: int, start: int, size: int) -> bool:
    """Return whether a file has a hole of at least `size` bytes at `start`.

    A hole reads as zeros and takes no space. The result is False if the file system does not tell.
    """
    if not hasattr(os, "SEEK_DATA"):
        return False
    try:
        return os.lseek(handle, start, os.SEEK_DATA) >= start + size
    except OSError as error:
        return error.errno == errno.ENXIO  # no data from there to the end


def create_new(path: Path, *, mode: int = 0o600, dir_fd: int | None = None) -> int:
    """Create the file `path`; return its descriptor, for reading and writing.

    It never opens an existing file, nor the target of a symbolic link.

    Args:
        path: The file.
        mode: Its permissions, reduced by the umask.
        dir_fd: The open folder that `path` starts from.

    Raises:
        FileExistsError: the path exists.
        OSError: as `os.open`.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    return os.open(path, flags, mode, dir_fd=dir_fd)


def open_regular(path: Path) -> BinaryIO:
    """Open the regular file `path`; refuse a FIFO or device without waiting.

    It follows symbolic links: use it only for paths that the user named, or check the content.

    Raises:
        LocalIOError: not a regular file.
        OSError: as `os.open`.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)
    handle = os.open(path, flags | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise LocalIOError(f"{path}: not a regular file")
    return os.fdopen(handle, "rb")


def read_at(handle: int, room: memoryview, at: int, *, native: bool = True) -> int:
    """Read the bytes of a descriptor from the offset `at` into `room`; return their number.

    0 means the end; a read may return fewer bytes than `room` before it. Several threads may read
    one descriptor; its own position may move and does not matter.

    Raises:
        OSError: as `os.preadv`.
    """
    if native and hasattr(os, "preadv"):
        return os.preadv(handle, [room], at)
    with _POSITION:
        os.lseek(handle, at, os.SEEK_SET)
        data = os.read(handle, len(room))
    room[: len(data)] = data
    return len(data)


def write_all(handle: int, data: bytes | bytearray | memoryview) -> None:
    """Write all of `data` to the descriptor `handle`, in as many calls as needed.

    Raises:
        OSError: as `os.write`; a part may be written.
    """
    left = memoryview(data)
    while left:
        left = left[os.write(handle, left) :]


def rename_new(
    source: Path,
    target: Path,
    *,
    src_dir_fd: int | None = None,
    dst_dir_fd: int | None = None,
    native: bool = True,
    hard_links: bool = True,
) -> None:
    """Rename a file or folder to a name that does not exist.

    It uses the kernel's rename without replacement; else, for a file, a hard link; else it creates
    an empty file or folder with the name, and replaces that by a rename.

    Args:
        source: The file or folder.
        target: Its new name, in the same file system.
        src_dir_fd: The open folder that `source` starts from.
        dst_dir_fd: The open folder that `target` starts from.
        native: False: do not use the kernel's call.
        hard_links: False: do not use hard links.

    Raises:
        FileExistsError: `target` exists.
        OSError: as `os.rename`.
    """
    places = _Places(source, target, src_dir_fd, dst_dir_fd)
    if native and _rename_exclusive(places):
        return
    if stat.S_ISDIR(os.stat(source, dir_fd=src_dir_fd, follow_symlinks=False).st_mode):
        os.mkdir(target, dir_fd=dst_dir_fd)  # claims the name, or FileExistsError
        _replace_claim(places, os.rmdir)
        return
    if hard_links:
        try:
            os.link(
                source, target,
                src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd, follow_symlinks=False,
            )  # fmt: skip
        except FileExistsError:
            raise
        except OSError:
            pass  # a file system without hard links
        else:
            os.unlink(source, dir_fd=src_dir_fd)
            return
    os.close(create_new(target, dir_fd=dst_dir_fd))
    _replace_claim(places, os.unlink)


@dataclass(frozen=True, slots=True)
class _Places:
    """The paths of a rename, and the open folders that they start from."""

    source: Path
    target: Path
    src_dir_fd: int | None
    dst_dir_fd: int | None


def _replace_claim(places: _Places, give_up: Callable[..., None]) -> None:
    """Rename over the empty file or folder that we created; remove it if that fails."""
    try:
        os.replace(
            places.source, places.target,
            src_dir_fd=places.src_dir_fd, dst_dir_fd=places.dst_dir_fd,
        )  # fmt: skip
    except OSError:
        with contextlib.suppress(OSError):
            give_up(places.target, dir_fd=places.dst_dir_fd)
        raise


def _rename_exclusive(places: _Places) -> bool:
    """Call renameat2 or renameatx_np; return False if the system or file system has neither."""
    import ctypes  # noqa: PLC0415 - a third of this module's import time, rarely used

    old, new = os.fsencode(places.source), os.fsencode(places.target)
    if b"\0" in old + new:
        raise ValueError("embedded null byte")  # C would take only the part before it
    here = _DARWIN_AT_FDCWD if sys.platform == "darwin" else _LINUX_AT_FDCWD
    source_fd = here if places.src_dir_fd is None else places.src_dir_fd
    target_fd = here if places.dst_dir_fd is None else places.dst_dir_fd
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "darwin":
            result = libc.renameatx_np(source_fd, old, target_fd, new, _DARWIN_RENAME_EXCL)
        else:
            result = libc.renameat2(source_fd, old, target_fd, new, _LINUX_RENAME_NOREPLACE)
    except (AttributeError, OSError, TypeError):
        return False
    if result == 0:
        return True
    code = ctypes.get_errno()
    if code in MISSING_CALL_CODES or code == errno.EPERM:
        return False
    raise OSError(code, os.strerror(code), str(places.target))


def sync_file(handle: int, *, sync: Callable[[int], None] | None = None) -> None:
    """Make the content of an open file durable, as far as its file system can.

    Some FUSE file systems lack the call and write later; the function logs that.

    Args:
        handle: The descriptor.
        sync: The system's call. Default: `os.fsync`.

    Raises:
        OSError: as `os.fsync`: the disk is full, or fails.
    """
    try:
        (sync or os.fsync)(handle)
    except OSError as error:
        if error.errno not in MISSING_CALL_CODES:
            raise
        left_out("syncing a file", error, "a power failure may lose what was written last")


def sync_folder(folder: Path | int, *, sync: Callable[[int], None] | None = None) -> None:
    """Make the names in `folder` durable, as far as its file system can.

    It ignores folders that cannot be opened (Windows, missing permission), and the refusal of CIFS,
    sshfs and others, whose server decides when names are durable.

    Args:
        folder: The path, or a descriptor.
        sync: The system's call. Default: `os.fsync`.

    Raises:
        OSError: as `os.open` and `os.fsync`: the folder is gone, or the disk fails.
    """
    if os.name == "nt":
        return
    try:
        if isinstance(folder, int):
            (sync or os.fsync)(folder)
            return
        handle = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
        try:
            (sync or os.fsync)(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in HELPFUL_CALL_CODES:
            raise
        left_out("syncing a folder", error, "a power failure may lose the newest names in it")


def share_like(target: int | Path, folder: Path) -> None:
    """Give a new file or folder the permissions of the shared `folder`, whatever the umask.

    Users who may read or write the folder may read or write `target`; a new folder passes that on.
    `target` gets the folder's group; if this user may not set it, the group's permissions stay. In
    a folder with the sticky bit, others may not write `target`. A refusal by a file system without
    permissions is ignored.

    Args:
        target: The path, or a descriptor.
        folder: The shared folder, an ancestor of `target`.

    Raises:
        OSError: `folder` or `target` does not exist.
    """
    if os.name == "nt":
        return
    shared, own = folder.stat(), os.stat(target)  # noqa: PTH116 - perhaps a descriptor
    mode = stat.S_IMODE(shared.st_mode) & 0o777
    if shared.st_mode & stat.S_ISVTX:
        mode &= ~stat.S_IWOTH
    is_folder = stat.S_ISDIR(own.st_mode)
    mode = mode | 0o700 if is_folder else mode & 0o666 | 0o600
    if own.st_gid != shared.st_gid:
        try:
            os.chown(target, -1, shared.st_gid)
        except OSError:
            mode = mode & ~stat.S_IRWXG | own.st_mode & stat.S_IRWXG
    if is_folder:
        mode |= (shared.st_mode | own.st_mode) & stat.S_ISGID
    if stat.S_IMODE(own.st_mode) != mode:
        try:
            os.chmod(target, mode)  # noqa: PTH101 - perhaps a descriptor
        except OSError as error:
            left_out("setting permissions", error)


def make_folder(folder: Path, *, mode: int | None = None, like: Path | None = None) -> None:
    """Create `folder` and its missing parents, durably, unless it exists.

    Args:
        folder: The folder.
        mode: The mode of each created folder, whatever the umask. Default: by the umask.
        like: A shared folder; created folders below it get its permissions.

    Raises:
        FileExistsError: the path exists and is not a folder.
        OSError: as `os.mkdir` and `os.fsync`.
    """
    if folder.is_dir():
        return
    make_folder(folder.parent, mode=mode, like=like)
    if mode is None:
        folder.mkdir(exist_ok=True)
        if like is not None and like in folder.parents:
            share_like(folder, like)
    else:
        folder.mkdir(mode, exist_ok=True)
        with tolerated("setting permissions"):
            folder.chmod(mode)
    sync_folder(folder.parent)


def free_bytes(folder: Path) -> int | None:
    """Return the free bytes for this user in the file system of `folder`, if it tells.

    Some file systems refuse the call or report a size of 0 (FUSE).
    """
    try:
        usage = shutil.disk_usage(folder)
    except OSError as error:
        if error.errno not in HELPFUL_CALL_CODES:
            raise
        left_out("telling the free space", error, "the disk may fill up")
        return None
    return usage.free if usage.total else None


@contextlib.contextmanager
def tolerated(what: str) -> Iterator[None]:
    """Ignore the failure of an optional call that the file system lacks.

    Args:
        what: The skipped step, for the log.

    Raises:
        OSError: the call failed in any other way.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in HELPFUL_CALL_CODES:
            raise
        left_out(what, error)


def left_out(what: str, error: OSError, instead: str = "it was left out") -> None:
    """Log that the file system refused an optional call, and the outcome."""
    _log.info("%s: refused by the file system (%s); %s", what, error.strerror or error, instead)


def acquire_lock(path: Path, *, mode: int = 0o600, timeout: float = -1) -> BaseFileLock:
    """Acquire the lock `path` and return it.

    On a file system without locks, the lock is the existence of the file `path`.soft. If its holder
    died, the next process of this machine removes it.

    Args:
        path: The lock's file.
        mode: The mode of that file, whatever the umask.
        timeout: Seconds to wait for another process; -1: without limit.

    Raises:
        filelock.Timeout: another process held it for so long.
        OSError: the file cannot be created.
    """
    from filelock import FileLock, SoftFileLock  # noqa: PLC0415 - 8 ms to load, for writers only

    lock: BaseFileLock = FileLock(path, mode=mode)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # filelock does the same for ENOSYS, and warns
            lock.acquire(timeout=timeout, poll_interval=LOCK_POLL_SECONDS)
    except OSError as error:
        if error.errno not in NO_LOCKS_CODES:
            raise
        left_out("locking a file", error, f"the file {path}.soft is the lock")
        lock = SoftFileLock(path.with_name(f"{path.name}.soft"), mode=mode)
        lock.acquire(timeout=timeout, poll_interval=LOCK_POLL_SECONDS)
    return lock

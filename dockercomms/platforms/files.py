"""What differs by operating system, each with a portable fallback, and the clock.

`native` is the switch: with it off, only calls that every system has are used, so that the
fallbacks can be tested on any machine.
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
"""How often a lock held by another process is asked for again."""
_PROC_LOCKS = Path("/proc/locks")
_log = logging.getLogger("dockercomms.platforms")
logging.getLogger("dockercomms").addHandler(logging.NullHandler())  # a library prints nothing
_POSITION = threading.Lock()
"""Held from a seek to its read, where a system cannot read at a place."""

BaseVariable = Literal["XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"]
_BELOW_HOME: Mapping[BaseVariable, str] = MappingProxyType({
    "XDG_CONFIG_HOME": ".config",
    "XDG_DATA_HOME": ".local/share",
    "XDG_STATE_HOME": ".local/state",
})  # fmt: skip
"""Where the base folders are unless a variable says otherwise (XDG Base Directory 0.8)."""
MISSING_CALL_CODES = frozenset(
    {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY}
)
"""How file systems refuse a call that they do not have: CIFS, FUSE, 9p, Lustre, NFS, FAT."""
HELPFUL_CALL_CODES = MISSING_CALL_CODES | {errno.EPERM, errno.EACCES}
"""The same of a call without which all that was promised holds as well: FAT refuses links and modes
with EPERM, and a folder that may not be read cannot be opened to be synced."""
NO_LOCKS_CODES = MISSING_CALL_CODES | {errno.ENOLCK}
"""How `flock` fails where there are no file locks (flock(2); NFS, Lustre and FUSE, measured)."""
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


def home_folder(environ: Mapping[str, str]) -> Path | None:
    """Return the home folder of the user; None where no variable nor user database names one.

    A container that runs as a number has none. A relative `HOME` counts as none.
    """
    for place in (environ.get("HOME", ""), os.path.expanduser("~")):  # noqa: PTH111 - may stay "~"
        if os.path.isabs(place):  # noqa: PTH117 - of a string
            return Path(place)
    return None


def base_folder(variable: BaseVariable, environ: Mapping[str, str]) -> Path:
    """Return one of the user's base folders, whether or not it exists.

    A relative value of the variable counts as none.

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
            "you have no home folder: HOME is not set, and the system knows no user of your number",
            hint=f"set {variable}, or HOME, to a folder that you may read and write",
        )
    return home / _BELOW_HOME[variable]


def expand_home(path: str | os.PathLike[str]) -> Path:
    """Return `path` with the home folder that `~` or `~USER` at its beginning stands for.

    Raises:
        UsageError: there is no such user or home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{path!s:.300}: there is no home folder to put for ~") from error


@contextlib.contextmanager
def local_errors(what: str, *, base: BaseVariable | None = None) -> Iterator[None]:
    """Turn an OSError of the block into a LocalIOError that names `what`.

    Args:
        what: The file, for the message.
        base: The variable that can move it to another folder, for the hint.

    Raises:
        LocalIOError: with a hint where the disk is full or permission is missing.
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
    """Return who has an exclusive lock on one of `paths`: `process 123`, or `another process`.

    Linux alone tells, and only of processes of this container whose files this user may see.
    Source: proc_locks(5).
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
    """Have the system write what a file has from `start` to `stop` to the disk now, if it can.

    Nobody waits for it; `fsync` at the end has less to wait for (0.5 s of 1 GiB, measured). It only
    helps, so a refusal is passed over. Linux does it for bytes that are said not to be
    needed, which stay in memory until they are written.
    """
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):
            os.posix_fadvise(handle, start, stop - start, os.POSIX_FADV_DONTNEED)


def is_hole(handle: int, start: int, size: int) -> bool:
    """Return whether a file has no data of its own from `start` on for `size` bytes.

    They read as zeros and take no space. False where the file system does not tell.
    """
    if not hasattr(os, "SEEK_DATA"):
        return False
    try:
        return os.lseek(handle, start, os.SEEK_DATA) >= start + size
    except OSError as error:
        return error.errno == errno.ENXIO  # no data from there to the end


def create_new(path: Path, *, mode: int = 0o600, dir_fd: int | None = None) -> int:
    """Return a descriptor of the new file `path`, for reading and writing.

    Never opens what is there already, nor what a symbolic link points at.

    Args:
        path: The file.
        mode: Its permissions, less the process' mask.
        dir_fd: The open folder that `path` starts from.

    Raises:
        FileExistsError: something is there.
        OSError: as `os.open`.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    return os.open(path, flags, mode, dir_fd=dir_fd)


def open_regular(path: Path) -> BinaryIO:
    """Return a stream of the regular file `path`; a FIFO or device is refused without waiting.

    A symbolic link is followed: read only what is checked afterwards, or what the user named.

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
    """Read into `room` what the descriptor `handle` has from `at` on; return how many bytes.

    0 is its end; less than `room` may come before it. Several threads may read one descriptor,
    whose own position does not count and may move.

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
    """Write all of `data` to the descriptor `handle`, however much the system takes at once.

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
    """Rename a file or folder to a name at which nothing is.

    The kernel's rename-without-replace where there is one; else, for files, a hard link; and where
    there are none, and for folders, the name is claimed by an empty one that a rename replaces.

    Args:
        source: What is renamed.
        target: Its new name, in the same file system.
        src_dir_fd: The open folder that `source` starts from.
        dst_dir_fd: The open folder that `target` starts from.
        native: Off: without the kernel's call.
        hard_links: Off: as if the file system had none.

    Raises:
        FileExistsError: something is at `target`.
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
            pass  # a file system without them
        else:
            os.unlink(source, dir_fd=src_dir_fd)
            return
    os.close(create_new(target, dir_fd=dst_dir_fd))
    _replace_claim(places, os.unlink)


@dataclass(frozen=True, slots=True)
class _Places:
    """A rename: two paths, and the open folders that they start from."""

    source: Path
    target: Path
    src_dir_fd: int | None
    dst_dir_fd: int | None


def _replace_claim(places: _Places, give_up: Callable[..., None]) -> None:
    """Rename over a claim of ours; if that fails, the name is free again as far as possible."""
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
    """Use renameat2 or renameatx_np; False where the system or file system has neither."""
    import ctypes  # noqa: PLC0415 - a third of this module's import time, for few callers

    old, new = os.fsencode(places.source), os.fsencode(places.target)
    if b"\0" in old + new:
        raise ValueError("embedded null byte")  # C would take what stands before it
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

    One that has no such call (some FUSE ones) writes when it likes; that is noted.

    Args:
        handle: The descriptor.
        sync: The system's call; None: `os.fsync`.

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

    Nothing is done where folders cannot be opened (Windows, a folder that may not be read). CIFS,
    sshfs and others refuse the call: their server says when names are durable.

    Args:
        folder: The path, or a descriptor.
        sync: The system's call; None: `os.fsync`.

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
    """Give a new file or folder to those who may use `folder`, whatever the umask.

    Who may read the folder may read it, and who may write there may write it; a new folder hands
    that on. It gets the folder's group; where this user may not give it, the rights of its own
    group stay as they are. In a folder with the sticky bit others may not write it. A file system
    that knows no such rights refuses, and all stays as it is.

    Args:
        target: The path, or a descriptor.
        folder: The shared folder, which `target` is somewhere in.

    Raises:
        OSError: `folder` or `target` is not there.
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
    """Make `folder` and what is missing above it, durably; nothing if it is there.

    Args:
        folder: The folder.
        mode: Of each folder that is made, whatever the umask; without it the umask decides.
        like: A shared folder; those that are made in it are shared as it is.

    Raises:
        FileExistsError: something else is there.
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
    """Return how many bytes this user may still write in the file system of `folder`.

    None where it does not tell: it refuses to, or says that it has no size at all (FUSE).
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
    """Let the block's call fail where the file system does not have it: it only helps.

    Args:
        what: What is then left out, for the user.

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
    """Note for the user that the file system refused a call that only helps, and the outcome."""
    _log.info("%s: refused by the file system (%s); %s", what, error.strerror or error, instead)


def acquire_lock(path: Path, *, mode: int = 0o600, timeout: float = -1) -> BaseFileLock:
    """Return the lock `path`, held.

    Where the file system has no file locks, the existence of a file `path`.soft is the lock, which
    the next process of this machine removes if its holder died.

    Args:
        path: The lock's file.
        mode: Of that file, whatever the umask.
        timeout: Seconds to wait for another process; -1: for ever.

    Raises:
        filelock.Timeout: another process held it for so long.
        OSError: the file cannot be made.
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

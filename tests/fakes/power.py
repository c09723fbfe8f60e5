"""A disk that keeps only what was synced when the power fails.

`Disk.recording` looks at a folder before each file operation and at each fsync and commit.
`Disk.images` then yields what may be found there after a power failure at each of these moments.
Names are safe once their folder was synced, content once its file was. Of the rest, each name may
be as it was or as it is now, and content may be old, zero, cut or new. The folder itself is read,
so nothing depends on how the program writes there: by path or by descriptor.

A database is one file with its write-ahead log: it goes back to the last commit at
`synchronous = FULL`, or to a later one.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import os
import shutil
import sqlite3
import stat
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = 0
"""The number of the recorded folder."""
SYNCED = 2
"""From this `PRAGMA synchronous` on a commit waits for the disk (sqlite.org/pragma.html)."""
DATABASE = ".db"
BESIDE_A_DATABASE = ("-wal", "-shm", "-journal")
MOMENTS = frozenset(
    {
        *("open", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink"),
        *("os.truncate", "os.utime", "os.chmod", "ctypes.dlsym", "subprocess.Popen"),
    }
)
"""Audit events before which the folder is looked at (docs.python.org, "Audit events table")."""
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

Content = bytes | tuple[bytes, bytes] | str
"""Of a file, of a database and its log, of a symbolic link."""
Tree = dict[str, tuple[int, Content | None]]
"""Mode and content by path; None for a folder."""
Change = tuple[int, str]
"""A name in a folder that may be as it was, or as it is now."""


@dataclass
class Files:
    """Names by folder, and content, both by the number of the file."""

    names: dict[int, dict[str, int]] = field(default_factory=dict)
    data: dict[int, Content] = field(default_factory=dict)

    def copy(self) -> Files:
        return Files({number: dict(names) for number, names in self.names.items()}, dict(self.data))

    def at(self, change: Change) -> int | None:
        return self.names.get(change[0], {}).get(change[1])


@dataclass
class Moment:
    """The state of disk and program at a power failure."""

    what: str
    facts: frozenset[str]
    now: Files
    durable: Files
    remote: dict[str, bytes]


@dataclass(repr=False)
class Image:
    """One possible state after a power failure."""

    disk: Disk
    moment: Moment
    kept: str
    """The new names, and the fate of unsynced content, for the test's message."""
    tree: Tree

    @property
    def facts(self) -> frozenset[str]:
        """The promises of the program before the failure."""
        return self.moment.facts

    def __repr__(self) -> str:
        return f"power lost at {self.moment.what}; {self.kept}"

    def restore(self) -> None:
        """Replace the folder with the image, and set the remote to the same moment."""
        _empty(self.disk.root)
        for path, (mode, content) in sorted(self.tree.items()):
            place = self.disk.root / path
            if isinstance(content, str):
                place.symlink_to(content)
                continue
            if content is None:
                place.mkdir()
            elif isinstance(content, tuple):
                place.write_bytes(content[0])
                place.with_name(f"{place.name}-wal").write_bytes(content[1])
            else:
                place.write_bytes(content)
            place.chmod(mode)
        if self.disk.remote is not None:
            _empty(self.disk.remote)
            for path, data in self.moment.remote.items():
                place = self.disk.remote / path
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(data)


class Disk:
    """The folder `root` on a disk that loses power, and `remote`, which is on another machine.

    Every database in it is opened and closed within `recording`.
    """

    def __init__(self, root: Path, remote: Path | None = None) -> None:
        self.root = root
        self.remote = remote
        self.moments: list[Moment] = []
        self._facts: frozenset[str] = frozenset()
        self._durable = Files()
        self._numbers: dict[tuple[int, int], int] = {}
        self._handles: dict[int, int] = {}
        """Open handles by number: an open file keeps its inode, so a number is one file for ever.
        """
        self._modes: dict[int, int] = {}
        self._committed: dict[int, Content] = {}
        self._content: dict[int, Content] = {}
        """As last seen; a name that was removed may come back."""
        self._remote: dict[tuple[int, int, int], bytes] = {}
        self._lock = threading.RLock()
        self._is_looking = False
        self._failing: str | None = None

    # --- recording -------------------------------------------------------------------------------

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Record the file operations of the block; existing files count as synced."""
        self._number(os.fspath(self.root), self.root.stat())
        for path in self.root.rglob(f"*{DATABASE}"):
            self._take_commit(path)
        self._durable = self._now()
        try:
            with _replaced(self):
                yield
            self.happen("the end")
        finally:
            for handle in self._handles.values():
                os.close(handle)
            self._handles.clear()

    def tell(self, fact: str) -> None:
        """Note a promise of the program to its user."""
        self._facts |= {fact}
        self.happen(f"{fact!r} told")

    def happen(self, what: str) -> None:
        """Look at the folder, unless another look is in progress."""
        with self._lock:
            if self._is_looking:
                return
            self._is_looking = True
            try:
                remote = {} if self.remote is None else self._remote_files(self.remote)
                moment = Moment(what, self._facts, self._now(), self._durable.copy(), remote)
                self.moments.append(moment)
            finally:
                self._is_looking = False

    def fsync(self, handle: int) -> None:
        """Stand for `os.fsync`: the disk is this model."""
        status = os.fstat(handle)
        with self._lock:
            self.happen("fsync")
            number = self._numbers.get((status.st_dev, status.st_ino))
            if number is None:
                return
            now = self.moments[-1].now
            path = self._path(number, now)
            self.moments[-1].what = f"fsync of {path}"
            if path == self._failing:
                self._failing = None
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            if number in now.data:
                self._durable.data[number] = now.data[number]
            elif number in now.names:
                self._durable.names[number] = dict(now.names[number])

    @contextlib.contextmanager
    def failing(self, path: str) -> Iterator[None]:
        """Have the first fsync of `path`, which begins with a slash, fail within the block."""
        self._failing = path
        yield
        assert self._failing is None, f"{path} was not synced"

    def syncfs(self, _: int) -> int:
        """Stand for the system call: all is synced."""
        with self._lock:
            self.happen("syncfs")
            kept = self._durable.data
            self._durable = self.moments[-1].now.copy()
            for number in self._committed:
                if number in kept:  # not SQLite's business: it may hold back what it has committed
                    self._durable.data[number] = kept[number]
        return 0

    def commit(self, path: Path, synchronous: int) -> None:
        """Note that a database has committed."""
        with self._lock:
            number = self._take_commit(path)
            if number is not None and synchronous >= SYNCED:
                self._durable.data[number] = self._committed[number]
            self.happen(f"commit to {path.name}, synchronous {synchronous}")

    def _take_commit(self, path: Path) -> int | None:
        if self.root not in path.parents:
            return None
        number = self._number(os.fspath(path), path.stat())
        log = path.with_name(f"{path.name}-wal")
        logged = self._read(self._number(os.fspath(log), log.stat())) if log.exists() else b""
        self._committed[number] = (self._read(number), logged)
        return number

    def _now(self) -> Files:
        files = Files()
        self._look(os.fspath(self.root), ROOT, files)
        files.data = dict(self._content)
        return files

    def _look(self, folder: str, number: int, files: Files) -> None:
        names = files.names[number] = {}
        with os.scandir(folder) as found:
            entries = list(found)
        for entry in entries:
            if entry.name.endswith(BESIDE_A_DATABASE):
                continue
            with contextlib.suppress(FileNotFoundError):  # another thread goes on meanwhile
                child = names[entry.name] = self._number(
                    entry.path, entry.stat(follow_symlinks=False)
                )
                if entry.is_symlink():
                    self._content[child] = self._durable.data[child] = os.readlink(entry.path)
                elif entry.is_dir():
                    self._look(entry.path, child, files)
                elif entry.name.endswith(DATABASE):
                    self._content[child] = self._committed.setdefault(child, (b"", b""))
                else:
                    self._content[child] = self._read(child)

    def _remote_files(self, folder: Path) -> dict[str, bytes]:
        found = {}
        for parent, _, names in os.walk(folder):
            for name in names:
                path = os.path.join(parent, name)
                status = os.stat(path)
                key = (status.st_ino, status.st_mtime_ns, status.st_size)
                if key not in self._remote:
                    self._remote[key] = Path(path).read_bytes()
                found[os.path.relpath(path, folder)] = self._remote[key]
        return found

    def _number(self, path: str, status: os.stat_result) -> int:
        key = (status.st_dev, status.st_ino)
        if key not in self._numbers:
            number = self._numbers[key] = len(self._numbers)
            if not stat.S_ISLNK(status.st_mode):
                self._handles[number] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._modes[self._numbers[key]] = stat.S_IMODE(status.st_mode)
        return self._numbers[key]

    def _read(self, number: int) -> bytes:
        handle = self._handles[number]
        return os.pread(handle, os.fstat(handle).st_size, 0)

    def _path(self, number: int, files: Files) -> str:
        """Return the path of a file below the root, to be told."""
        for folder, names in files.names.items():
            for name, child in names.items():
                if child == number:
                    return f"{self._path(folder, files)}/{name}"
        return ""

    # --- after it --------------------------------------------------------------------------------

    def images(self, *, thorough: bool = False) -> Iterator[Image]:
        """Yield each different state that a power failure may leave.

        Before each sync there are two: old names with old content, and new names with zeros. With
        `thorough`, every moment counts, each name may be new or old alone, each choice of names has
        all kinds of content, and one file alone may have old content.
        """
        seen: set[object] = set()
        for moment in self.moments if thorough else self._last_of_each():
            names, contents = list(_names_left(moment)), list(_data_left(moment))
            few = [(names[0], contents[0]), (names[1], contents[1]), (names[0], contents[-1])]
            many = itertools.product(names, contents)
            for (which, there), (how, data) in many if thorough else few:
                tree: Tree = {}
                self._plant(ROOT, "", there, data, tree)
                remote = frozenset(moment.remote.items())
                key = frozenset(tree.items()), moment.facts, remote
                if key not in seen:
                    seen.add(key)
                    yield Image(self, moment, f"{which}; {how}", tree)

    def _last_of_each(self) -> Iterator[Moment]:
        """Yield the last moment before something more is synced or told, and the end."""
        for moment, after in itertools.pairwise(self.moments):
            if (moment.durable, moment.facts) != (after.durable, after.facts):
                yield moment
        yield self.moments[-1]

    def _plant(
        self,
        folder: int,
        path: str,
        names: dict[int, dict[str, int]],
        data: dict[int, Content],
        tree: Tree,
    ) -> None:
        for name, number in names.get(folder, {}).items():
            if number in data:
                tree[path + name] = self._modes[number], data[number]
            else:
                tree[path + name] = self._modes[number], None
                self._plant(number, f"{path}{name}/", names, data, tree)


def _names_left(moment: Moment) -> Iterator[tuple[str, dict[int, dict[str, int]]]]:
    """Yield choices of new names among the unsynced ones, and all names; the first choice is empty."""
    units = _units(moment)
    every = {change for unit in units for change in unit}
    yield "no new name", _names(moment, set())
    yield "all new names", _names(moment, every)
    if len(units) > 1:
        folders = {change[0] for change in every}
        parts = units + [{change for change in every if change[0] == one} for one in folders]
        for part in parts:
            told = ", ".join(sorted(name for _, name in part))
            yield f"of the new names {told}", _names(moment, part)
            yield f"of the new names all but {told}", _names(moment, every - part)


def _units(moment: Moment) -> list[set[Change]]:
    """Return the changes of names that were not synced; a rename in one folder is one."""
    now, durable = moment.now, moment.durable
    changes = [
        (folder, name)
        for folder in {**now.names, **durable.names}
        for name in {**now.names.get(folder, {}), **durable.names.get(folder, {})}
        if now.at((folder, name)) != durable.at((folder, name))
    ]
    gone = {(change[0], durable.at(change)): change for change in changes if not now.at(change)}
    units = []
    for change in changes:
        source = gone.pop((change[0], now.at(change)), None)
        if source is not None:
            units.append({change, source})
        elif now.at(change):
            units.append({change})
    return units + [{change} for change in gone.values()]


def _names(moment: Moment, new: set[Change]) -> dict[int, dict[str, int]]:
    """Return the names of all folders: the synced ones, and of the others those that are `new`."""
    names = moment.durable.copy().names
    for change in new:
        number = moment.now.at(change)
        if number is None:
            names[change[0]].pop(change[1])
        else:
            names.setdefault(change[0], {})[change[1]] = number
    return names


def _data_left(moment: Moment) -> Iterator[tuple[str, dict[int, Content]]]:
    """Yield the fates of unsynced content, and all content: first old content, then zeros."""
    now, durable = moment.now.data, moment.durable.data
    base = {number: _lost(content) for number, content in now.items()} | durable
    loose = {number for number in now if now[number] != base[number]}
    commits = {number: now[number] for number in loose if isinstance(now[number], tuple)}
    new = {number: now[number] for number in loose - set(commits)}
    kinds = {
        "old content": {},
        "zeros": {number: _cut(now[number], base[number], zeros=True) for number in new},
        "cut content": {number: _cut(now[number], base[number], zeros=False) for number in new},
        "new content": new,
    }
    for number in new if len(new) > 1 else ():
        kinds[f"new content but of file {number}"] = {n: new[n] for n in new if n != number}
    for kind, data in kinds.items():
        yield f"{kind}, last commits lost" if commits else kind, base | data
    for kind, data in kinds.items() if commits else ():
        yield f"{kind}, last commits there", base | commits | data
    if commits:
        yield "old content, last commits there", base | commits


def _lost(content: Content) -> Content:
    """Return the content of a file that was never synced."""
    return (
        content if isinstance(content, str) else (b"", b"") if isinstance(content, tuple) else b""
    )


def _cut(now: Content, synced: Content, *, zeros: bool) -> Content:
    """Return `now` without half of its unsynced bytes, or with zeros in their place."""
    if not isinstance(now, bytes) or not isinstance(synced, bytes):
        raise AssertionError("links and databases are whole")
    pairs = enumerate(zip(now, synced, strict=False))
    same = next((at for at, (new, old) in pairs if new != old), min(len(now), len(synced)))
    left = len(now) - same
    return now[:same] + bytes(left) if zeros else now[: same + left // 2]


# --- the seams -----------------------------------------------------------------------------------

_RECORDING: list[Disk] = []


def _audited(event: str, args: tuple[Any, ...]) -> None:
    if not _RECORDING or event not in MOMENTS or (event == "open" and not args[2] & WRITES):
        return
    for disk in _RECORDING:
        disk.happen(f"{event} {args[0] if args else ''}")


_audited.__cantrace__ = True  # type: ignore[attr-defined] - coverage sees no calls in it otherwise
_HOOKED: list[bool] = []


@contextlib.contextmanager
def _replaced(disk: Disk) -> Iterator[None]:
    """Let `disk` observe the calls that change or sync a folder."""
    if not _HOOKED:
        sys.addaudithook(_audited)  # for ever: Python takes none away
        _HOOKED.append(True)
    fsync, connect, library = os.fsync, sqlite3.connect, ctypes.CDLL

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
            done = super().execute(sql, *args)
            if sql == "COMMIT":
                (_, _, file), *_ = super().execute("PRAGMA database_list").fetchall()
                disk.commit(Path(file), super().execute("PRAGMA synchronous").fetchone()[0])
            return done

    os.fsync = disk.fsync
    sqlite3.connect = lambda *args, **kwargs: connect(*args, factory=Connection, **kwargs)
    ctypes.CDLL = lambda *args, **kwargs: _Library(disk, library(*args, **kwargs))  # type: ignore[assignment,misc]
    _RECORDING.append(disk)
    try:
        yield
    finally:
        _RECORDING.remove(disk)
        os.fsync, sqlite3.connect, ctypes.CDLL = fsync, connect, library  # type: ignore[misc]


class _Library:
    def __init__(self, disk: Disk, real: Any) -> None:
        self._disk = disk
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return self._disk.syncfs if name == "syncfs" else getattr(self._real, name)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()

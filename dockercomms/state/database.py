"""One SQLite file: opened at the first use, durable at every commit, safe to share."""

from __future__ import annotations

import contextlib
import os
import shlex
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

from dockercomms.errors import DockerCommsError, LocalIOError, NoHomeError
from dockercomms.platforms.clock import SystemClock
from dockercomms.platforms.files import (
    create_new,
    holder_of,
    local_errors,
    make_folder,
    sync_folder,
)
from dockercomms.state.locks import OTHER_FILE_SYSTEM, lock_within
from dockercomms.state.values import Parameters, all_stored, from_row

T = TypeVar("T")

SCHEMA_VERSION = 13
"""Counted up with every change that older releases cannot work with.

3 added `outbox`, 4 `owed`, 5 `pulls`; 6 judges refused messages once more; 7 added `served` and
`first_looks`, 8 `defects`, 9 `streams`, 10 `image_forms`, 11 `clocks`, 12 `pieces`. A change that
only adds tables needs only their statements: an older file gets the missing tables by running the
schema again. A change of rows needs a migration.
"""

BUSY_TIMEOUT_SECONDS = 30.0
"""The wait for another process's transaction, which takes milliseconds."""

_BUSY_PAUSE_SECONDS = 0.005

_HINTS = {
    sqlite3.SQLITE_FULL: "free some space on that disk",
    # SQLite's code for a full disk if the shared memory of the log does not fit on it
    sqlite3.SQLITE_IOERR: "free some space on that disk; if there is enough, the disk fails",
    sqlite3.SQLITE_PROTOCOL: OTHER_FILE_SYSTEM,
    sqlite3.SQLITE_CORRUPT: "move the file away; what was delivered will then be found anew",
    sqlite3.SQLITE_NOTADB: "move the file away; what was delivered will then be found anew",
}
_PRIMARY_CODE = 0xFF
"""The extended result code's low byte is the primary one (sqlite.org/rescode.html)."""

_LOCK_FAILURES = frozenset(
    {
        sqlite3.SQLITE_IOERR_LOCK,
        sqlite3.SQLITE_IOERR_RDLOCK,
        sqlite3.SQLITE_IOERR_SHMLOCK,
        sqlite3.SQLITE_IOERR_CHECKRESERVEDLOCK,
    }
)
"""Error codes of file systems without locks."""

_SIDE_FILES = ("-wal", "-shm", "-journal")
"""The files that SQLite keeps beside a database (sqlite.org/tempfiles.html)."""

_REFUSING = frozenset(
    {
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_PERM,
    }
)
"""SQLite's error codes for a file that cannot be written, whatever its content."""

_OTHER_FOLDER = "set XDG_STATE_HOME, or HOME, to a folder that you may read and write"

_OWNER_MODE = stat.S_IRUSR | stat.S_IWUSR


class Database(AbstractContextManager["Database"]):
    """One connection, made at the first use, and used by one thread at a time.

    Every method raises `LocalIOError`, which names the file, if the file cannot be opened, is
    damaged, is locked for longer than the timeout, or the disk is full; and ValueError once closed.

    Args:
        path: The file, or a function that returns it. It is created with mode 0600, missing folders
            above it with 0700.
        schema: SQL statements that run once on a new or older file; they leave existing tables
            unchanged (IF NOT EXISTS).
        migrations: SQL statements that run once, after `schema`, on a file of a version below their
            key.
        busy_timeout_seconds: How long to wait for another process's transaction.
    """

    def __init__(
        self,
        path: Path | Callable[[], Path],
        *,
        schema: Sequence[str],
        migrations: Mapping[int, Sequence[str]] | None = None,
        busy_timeout_seconds: float = BUSY_TIMEOUT_SECONDS,
    ) -> None:
        self._path = path
        self._schema = tuple(schema)
        self._migrations = dict(migrations or {})
        self._timeout = busy_timeout_seconds
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._closed = False
        self._memory: sqlite3.Connection | None = None
        self._looks = False
        self._refusal: DockerCommsError | None = None
        """The last error because of which the file could not be written."""

    @property
    def path(self) -> Path:
        """Return the file.

        Raises:
            NoHomeError: the user has no folder for it.
        """
        return self._path() if callable(self._path) else self._path

    def look(self, work: Callable[[], T], *, tell: Callable[[DockerCommsError], None]) -> T:
        """Return the result of `work`, whose changes need not be kept.

        If the file cannot be written, `work` runs again on a copy in memory of the readable part of
        the file. Outside `work` the file is needed as before.

        Args:
            work: Reads and writes as usual. Changes that it made before the error stay in the file.
            tell: Called with the reason, once for this database.
        """
        try:
            return work()
        except (LocalIOError, NoHomeError) as error:
            if error is not self._refusal or self._looks:
                raise
            if self._memory is None:
                self._memory = self._copied()
                tell(error)
        self._looks = True
        try:
            return work()
        finally:
            self._looks = False

    def _copied(self) -> sqlite3.Connection:
        """Return a database in memory with the readable content of the file."""
        memory = _connected(":memory:")
        with contextlib.suppress(NoHomeError):
            address = self.path.absolute().as_uri()
            # SQLite cannot read the log beside the file if it cannot write to the folder.
            for mode in ("mode=ro", "immutable=1"):
                with contextlib.suppress(sqlite3.Error):
                    with contextlib.closing(sqlite3.connect(f"{address}?{mode}", uri=True)) as file:
                        file.backup(memory)
                    break
        if not self._is_current(memory):
            self._make_tables(memory)
        return memory

    @contextlib.contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """Yield the connection inside one transaction: the block is written whole, or not at all.

        It takes the write lock at the start, so that rows do not change between reading and
        writing. A transaction inside a transaction of the same thread is part of the outer one.

        Args:
            durable: Wait for the disk. Otherwise a killed process still loses no rows, but a power
                failure may lose them: for rows that cost only time to find again.
        """
        with self._lock, self._errors():
            connection = self._opened()
            if _is_inside(connection):
                yield connection
                return
            if not durable:  # the next durable transaction writes the log through
                connection.execute("PRAGMA synchronous = NORMAL")
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if _is_inside(connection):  # SQLite may have rolled back by itself on a full disk
                    connection.execute("ROLLBACK")
                raise
            finally:
                if not durable:
                    connection.execute("PRAGMA synchronous = FULL")

    def execute(self, sql: str, parameters: Parameters = (), *, durable: bool = True) -> int:
        """Run one statement as a `transaction`; return the number of rows that it changed."""
        with self.transaction(durable=durable) as connection:
            return connection.execute(sql, all_stored(parameters)).rowcount

    def rows(self, sql: str, parameters: Parameters = ()) -> list[sqlite3.Row]:
        """Return all rows of a query, without taking the write lock."""
        with self._lock, self._errors():
            return self._opened().execute(sql, all_stored(parameters)).fetchall()

    def row(self, sql: str, parameters: Parameters = ()) -> sqlite3.Row | None:
        """Return the first row of a query, `None` for an empty result."""
        with self._lock, self._errors():
            cursor = self._opened().execute(sql, all_stored(parameters))
            found: sqlite3.Row | None = cursor.fetchone()
            return found

    def rows_as(
        self, into: Callable[..., T], sql: str, parameters: Parameters = ()
    ) -> tuple[T, ...]:
        """Return all rows of a query as dataclasses: see `from_row`."""
        return tuple(from_row(into, row) for row in self.rows(sql, parameters))

    def row_as(self, into: Callable[..., T], sql: str, parameters: Parameters = ()) -> T | None:
        """Return the first row of a query as a dataclass, `None` for an empty result."""
        row = self.row(sql, parameters)
        return None if row is None else from_row(into, row)

    def close(self) -> None:
        """Close the connection. Later uses of the database fail; a second call has no effect."""
        with self._lock, self._errors():
            self._closed = True
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            if self._memory is not None:
                self._memory.close()
                self._memory = None

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _opened(self) -> sqlite3.Connection:
        if self._closed:
            raise ValueError(f"{self.path}: the state is closed")
        if self._looks and self._memory is not None:
            return self._memory
        if self._connection is None:
            try:
                self._connection = self._open()
            except (LocalIOError, NoHomeError) as error:
                if isinstance(error, NoHomeError) or isinstance(error.__cause__, OSError):
                    self._refusal = error
                raise
        return self._connection

    def _open(self) -> sqlite3.Connection:
        with local_errors(f"state {self.path}", base="XDG_STATE_HOME"):
            make_folder(self.path.parent, mode=0o700)
            with contextlib.suppress(FileExistsError):
                _create_private_file(self.path)
        self._mend_side_files()
        connection = _connected(self.path, timeout=self._timeout)
        try:
            connection.execute("PRAGMA synchronous = FULL")
            if not self._is_current(connection):
                self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _mend_side_files(self) -> None:
        """Let the owner write the side files of a database that the owner may write.

        SQLite creates them with the mode that the database has at that moment. A database that was
        read-only at that moment has read-only side files until their mode is changed.
        """
        with contextlib.suppress(OSError):
            if not self.path.stat().st_mode & stat.S_IWUSR:
                return  # the user made it read-only on purpose
            for side in self._files()[1:]:
                with contextlib.suppress(OSError):  # missing, or another user's: SQLite reports it
                    mode = side.stat(follow_symlinks=False).st_mode
                    if stat.S_ISREG(mode) and mode & _OWNER_MODE != _OWNER_MODE:
                        side.chmod(stat.S_IMODE(mode) | _OWNER_MODE)

    def _files(self) -> list[Path]:
        """Return the database's file and those that SQLite keeps beside it."""
        names = [self.path.name + suffix for suffix in ("", *_SIDE_FILES)]
        return [self.path.with_name(name) for name in names]

    def _is_current(self, connection: sqlite3.Connection) -> bool:
        version = _version_of(connection)
        if version > SCHEMA_VERSION:
            raise LocalIOError(
                f"state {self.path}: version {version}; at most {SCHEMA_VERSION} expected: "
                "a newer release of dockercomms wrote it",
                hint="use that release, or set XDG_STATE_HOME to another folder",
            )
        return version == SCHEMA_VERSION

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Create the tables and turn on the write-ahead log, one process at a time.

        A file system without shared memory refuses the log. SQLite then works without it, only
        slower.
        """
        with lock_within(self.path.with_name(f"{self.path.name}.lock"), self._timeout):
            if self._is_current(connection):
                return
            self._turn_log_on(connection)
            self._make_tables(connection)

    def _make_tables(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        for statement in (*self._schema, *self._due_migrations(_version_of(connection))):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")

    def _due_migrations(self, version: int) -> list[str]:
        """Return the statements that bring a file of `version` up to date, oldest first."""
        due = [number for number in sorted(self._migrations) if number > version]
        return [statement for number in due for statement in self._migrations[number]]

    def _turn_log_on(self, connection: sqlite3.Connection) -> None:
        """Change the journal mode, which SQLite's busy timeout does not cover.

        The change fails at once if another process holds a lock. That happens if a third process
        was killed here, and another one rolls back its transaction at the same time.
        """
        clock = SystemClock()
        end = clock.monotonic() + self._timeout
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                is_busy = error.sqlite_errorcode & _PRIMARY_CODE == sqlite3.SQLITE_BUSY
                if not is_busy or clock.monotonic() > end:
                    raise
            else:
                return
            clock.sleep(_BUSY_PAUSE_SECONDS)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise `LocalIOError` for errors of the file, the disk or another process.

        Misuse of SQL (IntegrityError, ProgrammingError) is a defect of ours and passes.
        """
        try:
            yield
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
            raise
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0)
            told = LocalIOError(f"state {self.path}: {error}", hint=self._hint(code))
            if code & _PRIMARY_CODE in _REFUSING:
                self._refusal = told
            raise told from error

    def _hint(self, code: int) -> str | None:
        """Return advice for an SQLite error code, `None` for a code without known advice."""
        if code in _LOCK_FAILURES:
            return OTHER_FILE_SYSTEM
        primary = code & _PRIMARY_CODE
        if primary == sqlite3.SQLITE_BUSY:
            holder = holder_of(*self._files())
            # A file system without locks may return the code for a held lock (ENOLCK).
            known = f"{holder} holds it; end that one, or try again"
            return known if holder != "another process" else f"{known}; or {OTHER_FILE_SYSTEM}"
        if primary in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
            return self._rights_hint()
        return _HINTS.get(primary)

    def _rights_hint(self) -> str:
        """Return the command that gives this user access to the files, as far as modes tell."""
        if _is_read_only(self.path.parent) or not _is_ours(self.path.parent):
            return _OTHER_FOLDER
        if not os.access(self.path.parent, os.R_OK | os.W_OK | os.X_OK):
            return f"chmod u+rwx {shlex.quote(str(self.path.parent))}"
        known = [file for file in self._files() if file.exists()]
        wrong = [file for file in known if not os.access(file, os.R_OK | os.W_OK)]
        if not wrong:
            return "make the file and its folder readable and writable"
        names = shlex.join(map(str, wrong))
        if any(file.stat().st_uid != os.geteuid() for file in wrong):
            return f"they belong to another user: sudo chown {os.geteuid()} {names}"
        return f"chmod u+rw {names}"


def _version_of(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


def _connected(path: Path | str, *, timeout: float = 0.0) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=timeout, isolation_level=None, check_same_thread=False
    )
    connection.row_factory = sqlite3.Row
    return connection


def _is_read_only(folder: Path) -> bool:
    """Return whether the file system of `folder` is read-only, False if the system cannot tell."""
    try:
        return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
    except (OSError, AttributeError):
        return False


def _is_ours(folder: Path) -> bool:
    """Return whether the user can change the mode of `folder`, True if the system cannot tell."""
    try:
        return os.geteuid() in (0, folder.stat().st_uid)
    except (OSError, AttributeError):
        return True


def _is_inside(connection: sqlite3.Connection) -> bool:
    return connection.in_transaction


def _create_private_file(path: Path) -> None:
    descriptor = create_new(path)
    with open(descriptor, "wb"):  # noqa: PTH123 - a descriptor, to be closed
        pass
    sync_folder(path.parent)

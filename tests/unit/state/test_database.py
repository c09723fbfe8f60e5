"""One file for many threads and processes: durable, private, and its faults named."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dockercomms.errors import LocalIOError, NoHomeError
from dockercomms.protocol.tags import MessageRef
from dockercomms.state import State, default_path
from dockercomms.state.database import SCHEMA_VERSION, Database
from dockercomms.state.values import from_unix, to_unix
from tests.faults.privileges import as_everybody

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
SCHEMA = ("CREATE TABLE t (x INTEGER PRIMARY KEY, y TEXT)",)


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "deep" / "folder" / "state.db"


@pytest.fixture
def database(path):
    with Database(path, schema=SCHEMA, busy_timeout_seconds=0.05) as database:
        yield database


def insert(database: Database, *numbers: int) -> None:
    with database.transaction() as connection:
        connection.executemany("INSERT INTO t VALUES (?, 'y')", [(n,) for n in numbers])


def numbers(database: Database) -> list[int]:
    return [row["x"] for row in database.rows("SELECT x FROM t ORDER BY x")]


def test_database_is_made_at_its_first_use(path):
    with Database(path, schema=SCHEMA):
        assert not path.exists()
    with Database(path, schema=SCHEMA) as database:
        assert database.row("SELECT * FROM t") is None
    assert path.exists()


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_database_is_private(path, database):
    insert(database, 1)
    for file in path.parent.iterdir():
        assert file.stat().st_mode & 0o077 == 0, file
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.parent.parent.stat().st_mode & 0o777 == 0o700


def test_database_leaves_folders_that_exist_as_they_are(tmp_path):
    tmp_path.chmod(0o755)
    with Database(tmp_path / "state.db", schema=SCHEMA) as database:
        insert(database, 1)
    assert tmp_path.stat().st_mode & 0o777 == 0o755


def test_database_writes_ahead_and_waits_for_the_disk(path, database):
    insert(database, 1)
    assert database.row("PRAGMA journal_mode")[0] == "wal"
    assert database.row("PRAGMA synchronous")[0] == 2
    assert database.row("PRAGMA user_version")[0] == SCHEMA_VERSION


def test_database_keeps_what_was_committed(path, database):
    insert(database, 1, 2)
    assert database.execute("UPDATE t SET y = ?", ("z",)) == 2
    database.close()
    with Database(path, schema=SCHEMA) as again:
        assert numbers(again) == [1, 2]
        assert again.row("SELECT y FROM t WHERE x = :x", {"x": 1})["y"] == "z"


def test_transaction_takes_everything_back_on_an_error(database):
    insert(database, 1)

    def fail() -> None:
        with database.transaction() as connection:
            connection.execute("INSERT INTO t VALUES (2, '')")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert numbers(database) == [1]
    insert(database, 3)
    assert numbers(database) == [1, 3]


def test_transaction_within_a_transaction_is_part_of_it(database):
    def fail() -> None:
        with database.transaction():
            insert(database, 1)
            assert numbers(database) == [1]
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert numbers(database) == []
    with database.transaction():
        insert(database, 1)
        insert(database, 2)
    assert numbers(database) == [1, 2]


def test_transactions_of_threads_come_one_after_another(database):
    insert(database, 0)

    def count() -> None:
        for _ in range(25):
            with database.transaction() as connection:
                (value,) = connection.execute("SELECT y FROM t WHERE x = 0").fetchone()
                connection.execute("UPDATE t SET y = ?", (str(int(value or 0) + 1),))

    database.execute("UPDATE t SET y = '0'")
    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert database.row("SELECT y FROM t")["y"] == "200"


PROCESS = """
import pathlib, sys
from dockercomms.state.database import Database
schema = ("CREATE TABLE t (x INTEGER PRIMARY KEY, y TEXT)",)
with Database(pathlib.Path(sys.argv[1]), schema=schema) as database:
    for number in range(20):
        with database.transaction() as connection:
            (highest,) = connection.execute("SELECT COALESCE(MAX(x), 0) FROM t").fetchone()
            connection.execute("INSERT INTO t VALUES (?, '')", (highest + 1,))
"""


def test_database_is_made_and_written_by_several_processes_at_once(path):
    processes = [
        subprocess.Popen([sys.executable, "-c", PROCESS, str(path)], stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    with Database(path, schema=SCHEMA) as database:
        assert numbers(database) == list(range(1, 81))


def test_database_survives_a_process_that_is_killed_in_a_transaction(path):
    insert_and_die = PROCESS.replace(
        "            connection.execute(", "            import os; connection.execute("
    ).replace("(highest + 1,))", "(highest + 1,)); os._exit(9) if number == 5 else None")
    done = subprocess.run([sys.executable, "-c", insert_and_die, str(path)], check=False)
    assert done.returncode == 9
    with Database(path, schema=SCHEMA) as database:
        assert numbers(database) == [1, 2, 3, 4, 5]


def test_database_that_is_locked_says_by_what(path, database):
    insert(database, 1)
    other = sqlite3.connect(path, isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        assert numbers(database) == [1]
        with pytest.raises(LocalIOError, match=r"state\.db: database is locked") as caught:
            insert(database, 2)
        assert "this process holds it" in caught.value.hint
    finally:
        other.close()
    insert(database, 2)


def test_database_that_is_no_database_says_so(path, database):
    path.parent.mkdir(parents=True)
    path.write_bytes(b"garbage " * 1000)
    with pytest.raises(LocalIOError, match=r"state\.db: .*not a database") as caught:
        numbers(database)
    assert "move the file away" in caught.value.hint
    assert path.read_bytes().startswith(b"garbage")


def test_database_that_is_damaged_says_so(path, database):
    insert(database, *range(1000))
    database.close()
    data = bytearray(path.read_bytes())
    data[4096:] = os.urandom(len(data) - 4096)
    path.write_bytes(data)
    with (
        Database(path, schema=SCHEMA) as again,
        pytest.raises(LocalIOError, match=r"state\.db: .*malformed"),
    ):
        numbers(again)


def test_database_on_a_full_disk_says_so(path, database):
    insert(database, 1)
    database.row("PRAGMA max_page_count = 5")
    with pytest.raises(LocalIOError, match="full") as caught, database.transaction() as connection:
        connection.execute("INSERT INTO t VALUES (2, ?)", ("z" * 100_000,))
    assert "free some space" in caught.value.hint
    assert numbers(database) == [1]
    insert(database, 3)


def test_database_that_may_not_be_written_says_so(path, database):
    insert(database, 1)
    database.row("PRAGMA query_only = 1")
    with pytest.raises(LocalIOError, match="readonly") as caught:
        insert(database, 2)
    assert "writable" in caught.value.hint


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_database_that_was_read_only_once_heals_with_the_files_beside_it(path, database):
    """SQLite makes -wal and -shm as read-only as the database is at that moment."""
    insert(database, 1)
    database.close()
    path.chmod(0o400)

    def write() -> None:
        with Database(path, schema=SCHEMA) as again:
            insert(again, 2)

    def read_and_die() -> None:
        with Database(path, schema=SCHEMA) as reader:
            assert numbers(reader) == [1]
            for side in ("-wal", "-shm"):
                shutil.copy(f"{path}{side}", f"{path}{side}.kept")

    as_everybody(read_and_die)
    for side in ("-wal", "-shm"):
        path.with_name(f"{path.name}{side}.kept").rename(f"{path}{side}")
    with pytest.raises(LocalIOError, match="readonly") as caught:
        as_everybody(write)
    wrong = [f"{path}{side}" for side in ("", "-wal", "-shm")]
    assert caught.value.hint == f"chmod u+rw {' '.join(wrong)}"

    path.chmod(0o600)
    as_everybody(write)
    with Database(path, schema=SCHEMA) as again:
        assert numbers(again) == [1, 2]


def test_database_below_a_file_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        Database(tmp_path / "file" / "state.db", schema=SCHEMA) as database,
        pytest.raises(LocalIOError, match=r"state .*state\.db"),
    ):
        numbers(database)


def test_database_that_is_a_folder_says_so(tmp_path):
    with (
        Database(tmp_path, schema=SCHEMA) as database,
        pytest.raises(LocalIOError, match="unable to open") as caught,
    ):
        numbers(database)
    assert "readable" in caught.value.hint


def test_database_of_a_newer_release_is_left_alone(path, database):
    insert(database, 1)
    database.row(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    database.close()
    with (
        Database(path, schema=SCHEMA) as again,
        pytest.raises(LocalIOError, match="newer release") as caught,
    ):
        numbers(again)
    assert "XDG_STATE_HOME" in caught.value.hint


def test_database_lets_wrong_statements_pass_as_what_they_are(database):
    insert(database, 1)
    with pytest.raises(sqlite3.IntegrityError):
        insert(database, 1)
    with pytest.raises(sqlite3.ProgrammingError):
        database.rows("SELECT ?", ())


def test_database_is_not_used_after_it_was_closed(database):
    insert(database, 1)
    database.close()
    database.close()
    with pytest.raises(ValueError, match="closed"):
        numbers(database)


def test_times_survive_the_database():
    moment = datetime(2026, 11, 20, 12, 0, 0, 123456, tzinfo=UTC)
    assert from_unix(to_unix(moment)) == moment
    assert from_unix(to_unix(None)) is None


@pytest.mark.parametrize("seconds", [-1e99, -62135596800.0, 253402300800.0, 1e18, 9e99])
def test_times_that_no_clock_shows_are_the_nearest_that_one_does(seconds):
    assert from_unix(seconds).year == (1970 if seconds < 0 else 9998)


def test_state_opens_its_file_when_it_is_needed(path):
    with State(path) as state:
        assert state.path == path
        assert not path.exists()
        assert state.inbox.delivering("bob") == ()
    assert path.exists()


def test_default_path_follows_the_environment(tmp_path):
    assert default_path({"XDG_STATE_HOME": str(tmp_path)}) == tmp_path / "dockercomms" / "state.db"
    fallback = Path.home() / ".local" / "state" / "dockercomms" / "state.db"
    assert default_path({}) == fallback
    assert default_path({"XDG_STATE_HOME": "relative"}) == fallback


def test_older_file_gets_the_tables_that_were_added_since(tmp_path):
    path = tmp_path / "state.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE old (x INTEGER)")
        connection.execute("INSERT INTO old VALUES (7)")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION - 1}")
    connection.close()
    schema = ("CREATE TABLE IF NOT EXISTS old (x)", "CREATE TABLE IF NOT EXISTS added (x)")
    with Database(path, schema=schema) as database:
        assert database.rows("SELECT * FROM added") == []
        assert database.row("SELECT x FROM old")["x"] == 7
        assert database.row("PRAGMA user_version")[0] == SCHEMA_VERSION


def test_migrations_run_once_on_files_of_lower_versions(tmp_path):
    path = tmp_path / "state.db"
    schema = ("CREATE TABLE IF NOT EXISTS t (x INTEGER)",)
    steps = {
        SCHEMA_VERSION: ("UPDATE t SET x = x * 10",),
        SCHEMA_VERSION - 1: ("UPDATE t SET x = x + 1",),
        SCHEMA_VERSION - 2: ("UPDATE t SET x = 0",),
    }
    with sqlite3.connect(path) as connection:
        connection.execute(schema[0])
        connection.execute("INSERT INTO t VALUES (7)")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION - 2}")
    connection.close()
    for _ in range(2):
        with Database(path, schema=schema, migrations=steps) as database:
            assert database.row("SELECT x FROM t")["x"] == 80


def test_messages_that_an_earlier_release_refused_as_malformed_are_judged_anew(tmp_path):
    path = tmp_path / "state.db"
    with State(path) as state:
        for key, kind in (("a", "malformed"), ("b", "audience")):
            state.inbox.add("bob", "r/b", [MessageRef(tag=key)], now=NOW)
            state.inbox.set_refused("bob", "r/b", key, kind, "a login page")
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 5")
    connection.close()
    with State(path) as state:
        found = [state.inbox.candidate("bob", "r/b", key) for key in ("a", "b")]
    assert [(row.state, row.tries) for row in found] == [("new", 0), ("refused", 1)]


def test_new_file_is_prepared_when_another_process_lets_go_of_it(tmp_path):
    """SQLite does not wait for a lock when it changes the journal mode: it fails at once."""
    path = tmp_path / "state.db"
    path.touch()
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    leave = threading.Timer(0.03, lambda: other.execute("COMMIT"))
    leave.start()
    with Database(path, schema=SCHEMA) as database:
        assert database.row("PRAGMA journal_mode")[0] == "wal"
    leave.join()
    other.close()


def test_new_file_that_stays_locked_is_told(tmp_path):
    path = tmp_path / "state.db"
    path.touch()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with (
            Database(path, schema=SCHEMA, busy_timeout_seconds=0.01) as database,
            pytest.raises(LocalIOError, match="locked"),
        ):
            database.rows("SELECT 1")


# --- looking only --------------------------------------------------------------------------------


def look_and_add(database, told):
    """Add a number where anything can be, and return all of them."""

    def work():
        insert(database, 7)
        return numbers(database)

    return database.look(work, tell=told.append)


def test_look_writes_where_it_can(path, database):
    told = []
    assert look_and_add(database, told) == [7]
    database.close()
    with Database(path, schema=SCHEMA) as again:
        assert numbers(again) == [7]
    assert told == []


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
@pytest.mark.parametrize("what", ["file", "folder"])
def test_look_reads_a_state_that_cannot_be_written(path, database, what):
    insert(database, 1)
    database.close()
    path.chmod(0o400)
    if what == "folder":
        path.parent.chmod(0o500)

    def look():
        told = []
        with Database(path, schema=SCHEMA) as again:
            found = look_and_add(again, told)
            with pytest.raises(LocalIOError):
                insert(again, 8)
        return found, told

    try:
        found, told = as_everybody(look)
    finally:
        path.parent.chmod(0o700)
    assert found == [1, 7]
    assert len(told) == 1
    path.chmod(0o600)
    with Database(path, schema=SCHEMA) as again:
        assert numbers(again) == [1]


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_look_without_any_state_begins_with_none(tmp_path):
    (tmp_path / "home").mkdir(mode=0o500)

    def look():
        told = []
        with Database(tmp_path / "home" / "x" / "state.db", schema=SCHEMA) as database:
            return look_and_add(database, told), told

    found, told = as_everybody(look)
    assert found == [7]
    assert "XDG_STATE_HOME" in told[0].hint


def test_look_without_a_home_begins_with_none():
    def nowhere():
        raise NoHomeError("no home")

    told = []
    with Database(nowhere, schema=SCHEMA) as database:
        assert look_and_add(database, told) == [7]
        with pytest.raises(NoHomeError):
            numbers(database)
    assert [str(error) for error in told] == ["no home"]


def test_look_on_a_full_disk_goes_on_in_memory(path, database):
    told = []
    insert(database, 1)
    database.row("PRAGMA max_page_count = 5")

    def work():
        with database.transaction() as connection:
            connection.execute("INSERT INTO t VALUES (2, ?)", ("z" * 100_000,))
        return numbers(database)

    assert database.look(work, tell=told.append) == [1, 2]
    assert "full" in str(told[0])
    assert numbers(database) == [1]


def test_look_does_not_hide_a_damaged_state_nor_errors_of_the_work(path, database):
    def fail():
        raise LocalIOError("something else")

    with pytest.raises(LocalIOError, match="something else"):
        database.look(fail, tell=pytest.fail)
    insert(database, 1)
    database.close()
    path.write_bytes(b"no database" * 1000)
    with Database(path, schema=SCHEMA) as again, pytest.raises(LocalIOError, match="not a data"):
        look_and_add(again, [])


def test_look_leaves_the_state_of_a_newer_release_alone(path, database):
    database.row(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    database.close()
    path.chmod(0o400)

    def look():
        with Database(path, schema=SCHEMA) as again, pytest.raises(LocalIOError, match="newer"):
            look_and_add(again, [])

    as_everybody(look)

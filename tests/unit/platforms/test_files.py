from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest

from dockercomms.errors import LocalIOError, NoHomeError, UsageError
from dockercomms.platforms.clock import Clock, SystemClock
from dockercomms.platforms.files import (
    acquire_lock,
    base_folder,
    create_new,
    expand_home,
    free_bytes,
    home_folder,
    local_errors,
    make_folder,
    open_regular,
    rename_new,
    sync_file,
    sync_folder,
    tolerated,
    write_all,
)

WAYS = pytest.mark.parametrize(
    "way",
    [{}, {"native": False}, {"native": False, "hard_links": False}],
    ids=["native", "hard-link", "claim"],
)


def test_system_clock_tells_the_time_in_utc() -> None:
    clock: Clock = SystemClock()
    before = time.time()
    assert before - 1 < clock.now().timestamp() < before + 60
    assert clock.now().utcoffset() == timedelta(0)


def test_system_clock_moves_on_while_it_sleeps() -> None:
    clock = SystemClock()
    start = clock.monotonic()
    clock.sleep(0.001)
    assert clock.monotonic() > start


def test_system_clock_draws_fractions() -> None:
    drawn = {SystemClock().random() for _ in range(20)}
    assert all(0 <= number < 1 for number in drawn)
    assert len(drawn) > 1


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EACCES, "check the permissions"),
        (errno.EPERM, "check the permissions"),
        (errno.EIO, None),
    ],
)
def test_local_errors_maps_an_os_error(code: int, hint: str | None) -> None:
    cause = OSError(code, os.strerror(code))
    with pytest.raises(LocalIOError) as caught, local_errors("a file"):
        raise cause
    assert caught.value.message == f"a file: {os.strerror(code)}"
    assert caught.value.__cause__ is cause
    assert caught.value.exit_code == 8
    assert (caught.value.hint or "").startswith(hint or "")
    assert (caught.value.hint is None) == (hint is None)


def test_local_errors_maps_an_os_error_without_a_number() -> None:
    with pytest.raises(LocalIOError, match="a file: odd"), local_errors("a file"):
        raise OSError("odd")


def test_local_errors_leaves_other_errors_alone() -> None:
    with pytest.raises(KeyError), local_errors("a file"):
        raise KeyError("x")
    with local_errors("a file"):
        pass


def test_create_new_makes_a_private_file(tmp_path: Path) -> None:
    handle = create_new(tmp_path / "new")
    try:
        write_all(handle, b"data")
        assert os.pread(handle, 4, 0) == b"data"
        assert stat.S_IMODE(os.fstat(handle).st_mode) == 0o600
    finally:
        os.close(handle)


def test_create_new_never_opens_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"kept")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("file", "link"):
        with pytest.raises(FileExistsError):
            create_new(tmp_path / name)
    assert (tmp_path / "file").read_bytes() == b"kept"
    assert not (tmp_path / "elsewhere").exists()


def test_open_regular_reads_a_file_and_a_link_to_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"data")
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        with open_regular(tmp_path / name) as stream:
            assert stream.read() == b"data"


def test_open_regular_refuses_what_would_wait_or_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path, Path("/dev/null")):
        with pytest.raises(LocalIOError, match="not a regular file"):
            open_regular(path)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "missing")


def test_write_all_goes_on_after_a_part(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, True)
    data = bytes(range(256)) * 4096
    received = bytearray()

    def drain() -> None:
        while piece := os.read(reading, 65536):
            received.extend(piece)

    thread = threading.Thread(target=drain)
    thread.start()
    write_all(writing, data)
    os.close(writing)
    thread.join()
    os.close(reading)
    assert received == data


@WAYS
def test_rename_new_moves_files_folders_and_links_themselves(
    tmp_path: Path, way: dict[str, bool]
) -> None:
    (tmp_path / "file").write_bytes(b"data")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inside").write_bytes(b"inner")
    (tmp_path / "link").symlink_to("new-folder")
    for kind in ("file", "folder", "link"):
        rename_new(tmp_path / kind, tmp_path / f"new-{kind}", **way)
        assert not os.path.lexists(tmp_path / kind)
    assert (tmp_path / "new-file").read_bytes() == b"data"
    assert (tmp_path / "new-folder" / "inside").read_bytes() == b"inner"
    assert (tmp_path / "new-link").readlink() == Path("new-folder")


@WAYS
@pytest.mark.parametrize("source", ["file", "folder"])
@pytest.mark.parametrize("target", ["file", "folder", "empty folder", "link"])
def test_rename_new_replaces_nothing(
    tmp_path: Path, way: dict[str, bool], source: str, target: str
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    if source == "file":
        old.write_bytes(b"mine")
    else:
        old.mkdir()
    if target == "file":
        new.write_bytes(b"kept")
    elif target == "link":
        new.symlink_to("nowhere")
    else:
        new.mkdir()
        if target == "folder":
            (new / "inside").touch()
    with pytest.raises(FileExistsError):
        rename_new(old, new, **way)
    assert old.exists()
    assert new.is_symlink() == (target == "link")
    if target == "file":
        assert new.read_bytes() == b"kept"


@WAYS
def test_rename_new_that_cannot_be_leaves_nothing_behind(
    tmp_path: Path, way: dict[str, bool]
) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError, match="Invalid argument"):
        rename_new(tmp_path / "a", tmp_path / "a" / "b", **way)
    assert list((tmp_path / "a").iterdir()) == []


def test_rename_new_refuses_a_name_that_c_would_cut(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(ValueError, match="null"):
        rename_new(tmp_path / "a", tmp_path / "b\0c")
    assert (tmp_path / "a").exists()


@WAYS
def test_rename_new_of_nothing_leaves_nothing(tmp_path: Path, way: dict[str, bool]) -> None:
    with pytest.raises(FileNotFoundError):
        rename_new(tmp_path / "missing", tmp_path / "new", **way)
    assert list(tmp_path.iterdir()) == []


@WAYS
def test_rename_new_lets_one_of_many_win(tmp_path: Path, way: dict[str, bool]) -> None:
    sources = [tmp_path / f"source{number}" for number in range(8)]
    for source in sources:
        source.write_text(source.name)
    failures: list[OSError] = []

    def race(source: Path) -> None:
        try:
            rename_new(source, tmp_path / "target", **way)
        except FileExistsError as error:
            failures.append(error)

    threads = [threading.Thread(target=race, args=(source,)) for source in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failures) == 7
    winner = (tmp_path / "target").read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        {source.name for source in sources} - {winner} | {"target"}
    )


def test_sync_folder_takes_folders_only(tmp_path: Path) -> None:
    sync_folder(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        sync_folder(tmp_path / "file")


def test_make_folder_makes_what_is_missing(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b" / "c")
    make_folder(tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c").is_dir()


def test_make_folder_refuses_a_file_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        make_folder(tmp_path / "file")
    with pytest.raises(OSError, match="file"):
        make_folder(tmp_path / "file" / "inside")


def test_make_folder_by_many_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b" / "c"
    errors: list[OSError] = []

    def make() -> None:
        try:
            make_folder(folder)
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert folder.is_dir()


def test_free_bytes_is_what_is_left(tmp_path: Path) -> None:
    assert 0 < free_bytes(tmp_path) < 2**60


@pytest.mark.parametrize("mask", [0, 0o022, 0o377])
def test_make_folder_makes_one_for_the_user_alone_whatever_the_mask(
    tmp_path: Path, mask: int
) -> None:
    before = os.umask(mask)
    try:
        make_folder(tmp_path / "a" / "b", mode=0o700)
    finally:
        os.umask(before)
    for folder in (tmp_path / "a", tmp_path / "a" / "b"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_make_folder_leaves_one_that_is_there_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a").chmod(0o755)
    make_folder(tmp_path / "a", mode=0o700)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o755


# --- the user's folders --------------------------------------------------------------------------


@pytest.fixture
def nobody(monkeypatch):
    """A user without HOME whose number no user database knows: `docker run --user 12345`."""
    pwd = pytest.importorskip("pwd")
    monkeypatch.delenv("HOME")

    def unknown(number):
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", unknown)


@pytest.mark.parametrize(
    ("variable", "below"),
    [
        ("XDG_CONFIG_HOME", ".config"),
        ("XDG_DATA_HOME", ".local/share"),
        ("XDG_STATE_HOME", ".local/state"),
    ],
)
def test_base_folder_follows_its_variable_and_then_home(variable, below):
    assert base_folder(variable, {variable: "/x", "HOME": "/h"}) == Path("/x")
    assert base_folder(variable, {variable: "x", "HOME": "/h"}) == Path("/h") / below
    assert base_folder(variable, {"HOME": "h"}) == Path.home() / below


@pytest.mark.parametrize("environ", [{}, {"HOME": ""}, {"HOME": "relative"}])
def test_base_folder_without_a_home_names_the_variables(nobody, environ):
    with pytest.raises(NoHomeError, match="HOME") as caught:
        base_folder("XDG_STATE_HOME", environ)
    assert "XDG_STATE_HOME" in caught.value.hint
    assert home_folder(environ) is None
    assert base_folder("XDG_STATE_HOME", {"XDG_STATE_HOME": "/x"}) == Path("/x")


def test_expand_home_without_a_home_says_so(nobody):
    with pytest.raises(UsageError, match="~/box"):
        expand_home("~/box")
    with pytest.raises(UsageError, match="no home folder"):
        expand_home("~nobody-of-this-name/box")
    assert expand_home("/box") == Path("/box")


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_local_errors_names_the_variable_that_moves_the_file(code):
    with pytest.raises(LocalIOError) as caught, local_errors("x", base="XDG_DATA_HOME"):
        raise OSError(code, os.strerror(code))
    assert "XDG_DATA_HOME" in caught.value.hint


# --- file systems that lack a call ---------------------------------------------------------------


def refuse(code):
    def call(*_args, **_options):
        raise OSError(code, os.strerror(code))

    return call


MISSING = [errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY]


@pytest.mark.parametrize("code", MISSING)
def test_sync_goes_on_where_the_file_system_has_no_such_call(tmp_path, code):
    sync_folder(tmp_path, sync=refuse(code))
    with (tmp_path / "x").open("wb") as file:
        sync_file(file.fileno(), sync=refuse(code))


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_sync_tells_a_disk_that_is_full_or_fails(tmp_path, code):
    with pytest.raises(OSError, match=os.strerror(code)):
        sync_folder(tmp_path, sync=refuse(code))
    with (tmp_path / "x").open("wb") as file, pytest.raises(OSError, match=os.strerror(code)):
        sync_file(file.fileno(), sync=refuse(code))


def test_sync_of_a_file_that_may_not_be_synced_is_told(tmp_path):
    sync_folder(tmp_path, sync=refuse(errno.EPERM))
    with (tmp_path / "x").open("wb") as file, pytest.raises(PermissionError):
        sync_file(file.fileno(), sync=refuse(errno.EPERM))


@pytest.mark.parametrize(("code", "passes"), [(errno.EPERM, True), (errno.EIO, False)])
def test_tolerated_lets_calls_fail_that_only_help(code, passes, caplog):
    caplog.set_level("INFO", "dockercomms")
    with contextlib.nullcontext() if passes else pytest.raises(OSError), tolerated("a call"):
        refuse(code)()
    assert ("a call: refused by the file system (Operation" in caplog.text) is passes


def test_each_call_that_only_helps_is_noted_where_it_is_refused(tmp_path, caplog):
    caplog.set_level("INFO", "dockercomms")
    sync_folder(tmp_path, sync=refuse(errno.EINVAL))
    with (tmp_path / "x").open("wb") as file:
        sync_file(file.fileno(), sync=refuse(errno.EINVAL))
    assert [record.getMessage().partition(" (")[0] for record in caplog.records] == [
        "syncing a folder: refused by the file system",
        "syncing a file: refused by the file system",
    ]


def test_acquire_lock_excludes_others_and_is_free_afterwards(tmp_path):
    filelock = pytest.importorskip("filelock")
    lock = acquire_lock(tmp_path / "lock")
    with pytest.raises(filelock.Timeout):
        acquire_lock(tmp_path / "lock", timeout=0)
    lock.release()
    acquire_lock(tmp_path / "lock", timeout=0).release()

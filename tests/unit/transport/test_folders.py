from __future__ import annotations

import errno
import io
import os
import tarfile

import pytest

from dockercomms.errors import LocalIOError
from dockercomms.transport.folders import NATIVE, Folder
from dockercomms.transport.tar import END, TYPE_FOLDER, TarMember, write_header
from dockercomms.transport.unpack import unpack_files

WAYS = pytest.mark.parametrize("native", [NATIVE, False], ids=["native", "portable"])


@pytest.fixture(params=[NATIVE, False], ids=["native", "portable"])
def folder(request, tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    with Folder.open(path, native=request.param) as opened:
        yield opened


@pytest.fixture
def victim(tmp_path):
    """A folder elsewhere that a link leads to."""
    path = tmp_path / "victim"
    path.mkdir()
    (path / "a").write_text("untouched")
    return path


@WAYS
def test_folder_may_be_reached_through_a_link(tmp_path, victim, native):
    (tmp_path / "link").symlink_to(victim)

    with Folder.open(tmp_path / "link", native=native) as folder:
        assert folder.names() == ["a"]
        assert folder.path == tmp_path / "link"


@WAYS
def test_folder_is_not_a_file(tmp_path, native):
    (tmp_path / "file").touch()

    with pytest.raises(NotADirectoryError):
        Folder.open(tmp_path / "file", native=native)


@pytest.mark.parametrize("kind", ["link", "link to a link", "file", "fifo"])
def test_folder_enters_nothing_but_a_folder(folder, victim, kind):
    if kind == "link":
        (folder.path / "sub").symlink_to(victim)
    elif kind == "link to a link":
        (folder.path / "one").symlink_to(victim)
        (folder.path / "sub").symlink_to("one")
    elif kind == "file":
        (folder.path / "sub").touch()
    else:
        os.mkfifo(folder.path / "sub")

    assert not folder.is_folder("sub")
    with pytest.raises(NotADirectoryError):
        folder.enter("sub")


def test_folder_enters_nothing_that_is_missing(folder):
    assert folder.status("sub") is None
    assert not folder.is_folder("sub")
    with pytest.raises(FileNotFoundError):
        folder.enter("sub")


def test_folder_opens_no_file_through_a_link(folder, victim):
    (folder.path / "a").symlink_to(victim / "a")

    with pytest.raises(OSError, match="symbolic") as caught:
        folder.open_file("a")
    assert caught.value.errno == errno.ELOOP


def test_folder_creates_nothing_through_a_link(folder, tmp_path):
    (folder.path / "a").symlink_to(tmp_path / "nowhere")

    with pytest.raises(FileExistsError):
        folder.create("a")
    assert not (tmp_path / "nowhere").exists()


def test_folder_makes_moves_and_removes_its_entries(folder):
    os.close(folder.create("a", mode=0o640))
    folder.mkdir("sub")
    folder.symlink("a", "link")
    with folder.enter("sub") as sub:
        folder.rename_new("a", sub, "b")
        folder.replace("link", sub, "b")
        sub.sync()
        assert sub.names() == ["b"]
        assert (sub.path / "b").is_symlink()
        sub.unlink("b")
        assert sub.names() == []
    folder.sync()
    assert folder.names() == ["sub"]


def test_folder_renames_onto_nothing_that_is_there(folder):
    for name in "ab":
        (folder.path / name).write_text(name)

    with pytest.raises(FileExistsError):
        folder.rename_new("a", folder, "b")
    assert [(folder.path / name).read_text() for name in "ab"] == ["a", "b"]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc"])
def test_folder_knows_only_names_of_entries(folder, name):
    with pytest.raises(AssertionError, match="not the name of an entry"):
        folder.create(name)


def test_folder_stays_the_one_that_was_opened(tmp_path, victim):
    (tmp_path / "folder").mkdir()
    with Folder.open(tmp_path / "folder") as folder:
        (tmp_path / "folder").rename(tmp_path / "moved")
        (tmp_path / "folder").symlink_to(victim)
        os.close(folder.create("b"))

    assert [path.name for path in victim.iterdir()] == ["a"]
    assert (tmp_path / "moved" / "b").exists()


def test_folder_that_is_swapped_between_look_and_use_is_not_entered(tmp_path, victim, monkeypatch):
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    real = os.open

    def swap(path, flags, mode=0o777, **options):
        (tmp_path / "folder" / "sub").rename(tmp_path / "moved")
        (tmp_path / "folder" / "sub").symlink_to(victim)
        return real(path, flags, mode, **options)

    with Folder.open(tmp_path / "folder") as folder:
        monkeypatch.setattr(os, "open", swap)
        with pytest.raises(NotADirectoryError):
            folder.enter("sub")


# --- unpacking into one --------------------------------------------------------------------------


def tar_of(*paths):
    data = b""
    for path in paths:
        kind = {"type": TYPE_FOLDER} if path.endswith("/") else {"mode": 0o6755}
        data += write_header(TarMember(path=path.rstrip("/"), mtime=1_000_000_000, **kind))
    return io.BytesIO(data + END)


def test_unpacking_goes_from_folder_to_folder(folder):
    made = unpack_files(tar_of("a/", "a/b/", "a/b/c", "a/d", "e/f/g", "h"), folder)

    assert [path.relative_to(folder.path).as_posix() for path in made] == [
        "a", "a/b", "a/b/c", "a/d", "e", "e/f", "e/f/g", "h",
    ]  # fmt: skip
    assert all(path.exists() for path in made)
    assert (folder.path / "a" / "b" / "c").stat().st_mtime == 1_000_000_000
    assert (folder.path / "a" / "b").stat().st_mtime == 1_000_000_000


def test_unpacking_makes_no_file_that_runs_as_its_owner(folder):
    (path,) = unpack_files(tar_of("a"), folder)

    assert path.stat().st_mode & 0o7000 == 0


def test_unpacking_writes_nothing_through_a_link_that_is_swapped_in(tmp_path, victim, monkeypatch):
    (tmp_path / "folder").mkdir()
    real = os.mkdir

    def swap(path, *args, **options):
        real(path, *args, **options)
        if os.fspath(path) == "sub":
            (tmp_path / "folder" / "sub").rename(tmp_path / "folder" / "moved")
            (tmp_path / "folder" / "sub").symlink_to(victim)

    monkeypatch.setattr(os, "mkdir", swap)
    monkeypatch.delattr(tarfile, "data_filter")  # the second line would see it too
    with Folder.open(tmp_path / "folder") as folder, pytest.raises(LocalIOError):
        unpack_files(tar_of("sub/", "sub/a"), folder)

    assert (victim / "a").read_text() == "untouched"
    assert [path.name for path in victim.iterdir()] == ["a"]

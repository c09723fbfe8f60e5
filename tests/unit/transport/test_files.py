"""Files planned, packed, and unpacked again."""

from __future__ import annotations

import errno
import io
import os
import socket
import tarfile
import threading
from pathlib import Path

import pytest

from dockercomms.errors import LimitError, LocalIOError, ProtocolError, UsageError
from dockercomms.transport import files
from dockercomms.transport.files import MAX_NAMED, Packing, check_unchanged, pack_files, plan_files
from dockercomms.transport.folders import Folder
from dockercomms.transport.tar import END, TarMember, write_header
from dockercomms.transport.unpack import unpack_files


@pytest.fixture
def tree(tmp_path) -> Path:
    root = tmp_path / "tree"
    (root / "sub").mkdir(parents=True)
    (root / "a.txt").write_text("hello")
    (root / "sub" / "b").write_bytes(bytes(2_000_000))
    (root / "sub" / "link").symlink_to("../a.txt")
    return root


def packed(*paths: Path, **options) -> bytes:
    return b"".join(pack_files(plan_files(paths, Packing(**options))))


def names(*paths: Path, **options) -> list[str]:
    return [entry.member.path for entry in plan_files(paths, Packing(**options)).entries]


def unpacked(data: bytes, folder: Path) -> list[str]:
    folder.mkdir()
    return [str(path.relative_to(folder)) for path in unpack_files(io.BytesIO(data), folder)]


def test_plan_lists_folders_and_keeps_the_top_name(tree):
    assert names(tree) == ["tree", "tree/a.txt", "tree/sub", "tree/sub/b", "tree/sub/link"]


def test_plan_knows_length_and_count_beforehand(tree):
    plan = plan_files([tree])
    assert plan.total_bytes == len(b"".join(pack_files(plan)))
    assert plan.files_count == 3


def test_tar_does_not_depend_on_times_owners_or_order(tree, tmp_path):
    before = packed(tree)
    os.utime(tree / "a.txt", (1, 1))
    os.utime(tree, (2, 2))
    (tree / "a.txt").chmod(0o600)
    assert packed(tree) == before
    assert packed(tree / "a.txt", tree / "sub") == packed(tree / "sub", tree / "a.txt")


def test_tar_keeps_whole_seconds_if_asked(tree, tmp_path):
    os.utime(tree / "a.txt", (1_700_000_000.9, 1_700_000_000.9))
    os.utime(tree / "sub" / "b", (-5, -5))
    data = packed(tree, keep_mtime=True)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.getmember("tree/a.txt").mtime == 1_700_000_000
        assert tar.getmember("tree/sub/b").mtime == -5
    unpacked(data, tmp_path / "out")
    assert (tmp_path / "out/tree/sub/b").stat().st_mtime == -5
    assert (tmp_path / "out/tree/a.txt").stat().st_mtime == 1_700_000_000


@pytest.mark.parametrize("mtime", [2**80, -(2**80), 2**63, 10**18])
def test_a_time_that_no_file_can_have_refuses_a_tar(mtime, tmp_path):
    """GNU tar writes numbers of up to 95 bits, which no system call takes."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.GNU_FORMAT) as tar:
        member = tarfile.TarInfo("a")
        member.mtime = mtime
        tar.addfile(member)
    with pytest.raises(ProtocolError, match="mtime"):
        unpacked(data.getvalue(), tmp_path / "out")


def test_tree_comes_back(tree, tmp_path):
    assert unpacked(packed(tree), tmp_path / "out") == names(tree)
    out = tmp_path / "out" / "tree"
    assert (out / "a.txt").read_text() == "hello"
    assert (out / "sub" / "b").stat().st_size == 2_000_000
    assert (out / "sub" / "link").read_text() == "hello"


def test_several_files_lie_side_by_side(tree):
    assert names(tree / "sub", tree / "a.txt") == ["a.txt", "sub", "sub/b", "sub/link"]


def test_link_the_user_named_is_followed(tree, tmp_path):
    (tmp_path / "alias").symlink_to(tree / "a.txt")
    plan = plan_files([tmp_path / "alias", tree / "sub" / "b"])
    assert plan.entries[0].member.path == "alias"
    assert plan.entries[0].member.size == 5
    check_unchanged(plan)
    assert b"hello" in b"".join(pack_files(plan))


def test_folder_named_by_a_dot_has_its_own_name(tree, monkeypatch):
    monkeypatch.chdir(tree)
    assert names(Path())[0] == "tree"
    assert names(Path("sub/.."))[0] == "tree"


@pytest.mark.parametrize("target", ["/etc/passwd", "../..", "../../x", "../elsewhere"])
def test_link_out_of_the_tree_is_refused(tree, target):
    (tree / "bad").symlink_to(target)
    with pytest.raises(UsageError, match="not among what is sent"):
        plan_files([tree])


def test_link_to_another_named_folder_stays_inside(tree, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "l").symlink_to("../tree/a.txt")
    assert "other/l" in names(other, tree)
    with pytest.raises(UsageError):
        plan_files([other])


def test_socket_and_pipe_are_refused(tree):
    os.mkfifo(tree / "pipe")
    with pytest.raises(UsageError, match="tree/pipe: a pipe, which can be sent only by itself"):
        plan_files([tree])
    (tree / "pipe").unlink()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tree / "s"))
        with pytest.raises(UsageError, match="tree/s: a socket"):
            plan_files([tree])


def test_device_is_refused():
    with pytest.raises(UsageError):
        plan_files([Path("/dev/null")])


def test_name_that_is_not_utf_8_is_refused(tree):
    try:
        os.close(os.open(os.fsencode(tree) + b"/\xff", os.O_CREAT | os.O_WRONLY))
    except OSError:
        pytest.skip("this file system takes no such name")
    with pytest.raises(UsageError, match="not UTF-8"):
        plan_files([tree])


def test_link_to_a_name_that_is_not_utf_8_is_refused(tree):
    try:
        os.symlink(b"\xff", os.fsencode(tree / "l"))
    except OSError:
        pytest.skip("this file system takes no such target")
    with pytest.raises(UsageError, match="not UTF-8"):
        plan_files([tree])


@pytest.mark.parametrize(("one", "other"), [("a", "A"), ("\u00e9", "e\u0301"), ("ß", "ss")])
def test_names_that_some_system_takes_for_the_same_travel(tree, one, other):
    (tree / one).write_text("1")
    (tree / other).write_text("2")
    if len(os.listdir(tree)) < 4:
        pytest.skip("this file system takes the two names for one")
    assert {f"tree/{one}", f"tree/{other}"} < set(names(tree))


@pytest.mark.parametrize(
    ("one", "other"), [("a", "a "), ("a", "a."), ("a\\b", "a_b"), ("nul", "_nul"), ("a\tb", "a_b")]
)
def test_names_that_arrive_as_one_are_refused(tree, one, other):
    (tree / one).write_text("1")
    (tree / other).mkdir()
    with pytest.raises(UsageError, match="arrives as"):
        plan_files([tree])


def test_all_that_cannot_travel_is_named_at_once(tree):
    os.mkfifo(tree / "pipe")
    (tree / "out").symlink_to("/etc/passwd")
    with pytest.raises(UsageError) as caught:
        plan_files([tree])
    assert "tree/pipe" in caught.value.message
    assert "tree/out" in caught.value.message
    for number in range(MAX_NAMED):
        os.mkfifo(tree / f"pipe{number}")
    with pytest.raises(UsageError, match="and 2 more"):
        plan_files([tree])


@pytest.mark.parametrize(
    ("pattern", "left_out"),
    [
        ("b", {"tree/sub/b"}),
        ("*.txt", {"tree/a.txt"}),
        ("sub", {"tree/sub", "tree/sub/b", "tree/sub/link"}),
        ("sub/", {"tree/sub", "tree/sub/b", "tree/sub/link"}),
        ("sub/*", {"tree/sub/b", "tree/sub/link"}),
        ("/tree/sub/b", {"tree/sub/b"}),
        ("/sub", set()),
        ("*", None),
    ],
)
def test_what_a_pattern_names_is_left_out(tree, pattern, left_out):
    if left_out is None:
        with pytest.raises(UsageError, match="--exclude excludes everything"):
            names(tree, exclude=(pattern,))
        return
    assert set(names(tree)) - set(names(tree, exclude=(pattern,))) == left_out


def test_what_cannot_travel_may_be_left_out(tree):
    os.mkfifo(tree / "sub" / "pipe")
    assert names(tree, exclude=("pipe",)) == names(tree, exclude=("sub/pipe",))


def test_links_may_be_left_out(tree):
    (tree / "out").symlink_to("/etc/passwd")
    assert names(tree, links="skip") == ["tree", "tree/a.txt", "tree/sub", "tree/sub/b"]


def test_links_may_be_followed(tree, tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "f").write_text("far")
    (tree / "out").symlink_to("../far")
    unpacked(packed(tree, links="follow"), tmp_path / "got")
    assert (tmp_path / "got/tree/out/f").read_text() == "far"
    assert (tmp_path / "got/tree/sub/link").read_text() == "hello"
    assert not (tmp_path / "got/tree/sub/link").is_symlink()
    check_unchanged(plan_files([tree], Packing(links="follow")))


@pytest.mark.parametrize(
    ("target", "reason"),
    [("missing", "broken symbolic link"), ("loop", "broken symbolic link"), (".", "that it is in")],
)
def test_links_that_cannot_be_followed_are_named(tree, target, reason):
    (tree / "loop").symlink_to(target)
    with pytest.raises(UsageError, match=f"tree/loop.*{reason}"):
        names(tree, links="follow")


@pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="Linux alone has /proc")
def test_files_of_no_size_are_held_up_to_a_limit(tree, monkeypatch):
    monkeypatch.setattr(files, "MAX_UNSIZED_BYTES", 3)
    with pytest.raises(LimitError, match="reports no size"):
        names(Path("/proc/self/limits"), tree)


def test_two_files_of_one_name_are_refused(tree, tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UsageError):
        plan_files([tree / "a.txt", tmp_path / "a.txt"])


def test_missing_and_unreadable_are_told_apart_from_nothing(tree):
    with pytest.raises(LocalIOError, match="missing"):
        plan_files([tree / "missing"])


def test_too_deep_is_refused(tmp_path):
    deepest = tmp_path / "top"
    for _ in range(63):
        deepest /= "d"
    deepest.mkdir(parents=True)
    assert len(plan_files([tmp_path / "top"]).entries) == 64
    (deepest / "more").mkdir()
    with pytest.raises(LimitError, match="64 folders deep"):
        plan_files([tmp_path / "top"])


def test_too_long_a_path_is_refused(tmp_path):
    long = tmp_path / "top"
    for _ in range(4):
        long /= "d" * 250
    long.mkdir(parents=True)
    assert plan_files([tmp_path / "top"])
    (long / ("f" * 16)).write_text("")
    assert plan_files([tmp_path / "top"])
    (long / ("f" * 17)).write_text("")
    with pytest.raises(LimitError, match="1025 bytes"):
        plan_files([tmp_path / "top"])


def test_too_many_are_refused(tree):
    assert plan_files([tree], Packing(max_entries=5))
    with pytest.raises(LimitError, match="more than 4"):
        plan_files([tree], Packing(max_entries=4))


def grow(tree: Path) -> None:
    (tree / "a.txt").write_text("hello, world")


def shrink(tree: Path) -> None:
    (tree / "a.txt").write_text("")


def remove(tree: Path) -> None:
    (tree / "a.txt").unlink()


def add(tree: Path) -> None:
    (tree / "sub" / "new").write_text("")


def swap(tree: Path) -> None:
    (tree / "a.txt").unlink()
    (tree / "a.txt").symlink_to("sub/b")


def to_pipe(tree: Path) -> None:
    (tree / "a.txt").unlink()
    os.mkfifo(tree / "a.txt")


@pytest.mark.parametrize("change", [grow, shrink, remove, add, swap, to_pipe])
def test_tree_that_changes_is_noticed(tree, change):
    plan = plan_files([tree])
    change(tree)
    with pytest.raises(LocalIOError):
        check_unchanged(plan)


@pytest.mark.parametrize("change", [grow, shrink, remove, swap, to_pipe])
def test_file_that_changed_is_not_packed(tree, change):
    plan = plan_files([tree])
    change(tree)
    with pytest.raises(LocalIOError):
        b"".join(pack_files(plan))


def test_file_that_shrinks_while_it_is_read_is_noticed(tree):
    plan = plan_files([tree])
    pieces = pack_files(plan)
    for piece in pieces:
        if len(piece) == 2**20:  # the first of two pieces of tree/sub/b
            os.truncate(tree / "sub" / "b", 2**20)
            break
    with pytest.raises(LocalIOError, match="2000000 bytes expected by its size"):
        b"".join(pieces)


def test_tree_that_holds_still_is_not_suspected(tree):
    plan = plan_files([tree])
    b"".join(pack_files(plan))
    check_unchanged(plan)


# --- unpacking: what the vectors do not say ------------------------------------------------------


def member(path: str, data: bytes = b"", **fields) -> bytes:
    head = write_header(TarMember(path=path, size=len(data), **fields))
    return head + data + bytes(-len(data) % 512)


def test_unpack_never_writes_over_what_is_there(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "f").write_text("mine")
    with pytest.raises(LocalIOError, match="File exists"):
        unpack_files(io.BytesIO(member("f", b"theirs") + END), folder)
    assert (folder / "f").read_text() == "mine"


@pytest.mark.parametrize("filtered", [True, False])
def test_unpack_never_writes_through_a_link(tmp_path, monkeypatch, filtered):
    if not filtered:
        monkeypatch.delattr(tarfile, "data_filter")
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "f").symlink_to(tmp_path / "victim")
    with pytest.raises(LocalIOError, match="File exists"):  # no fault of the tar
        unpack_files(io.BytesIO(member("f", b"theirs") + END), folder)
    assert not (tmp_path / "victim").exists()


class CaseBlind(Folder):
    """A folder of a file system that takes names for the same that differ by case alone."""

    def create(self, name, *, mode=0o600):
        self._refuse(name)
        return super().create(name, mode=mode)

    def mkdir(self, name, mode=0o777):
        self._refuse(name)
        super().mkdir(name, mode)

    def _refuse(self, name):
        if name.casefold() in map(str.casefold, self.names()):
            raise FileExistsError(17, "File exists")


def test_unpack_numbers_names_that_the_file_system_takes_for_the_same(tmp_path):
    data = member("a.h", b"1") + member("A.h", b"2") + member("B", type=b"5") + member("b") + END
    with CaseBlind.open(tmp_path) as folder:
        made = unpack_files(io.BytesIO(data), folder)
    assert [path.name for path in made] == ["a.h", "A (2).h", "B", "b (2)"]
    assert (tmp_path / "A (2).h").read_bytes() == b"2"


def test_unpack_numbers_names_that_become_the_same_and_leads_links_to_them(tmp_path):
    data = b"".join(
        [
            member("c", type=b"5"), member("c ", type=b"5"),
            member("c/notes", b"1"), member("c/notes ", b"2"), member("c /notes ", b"3"),
            member("c/l", type=b"2", link_target="notes "),
            member("c/m", type=b"2", link_target="../c /notes "),
            member("c/n", type=b"2", link_target="m"),
            member("c/o", type=b"2", link_target="./nowhere "),
            END,
        ]
    )  # fmt: skip
    assert unpacked(data, tmp_path / "out") == [
        "c", "c (2)", "c/notes", "c/notes (2)", "c (2)/notes", "c/l", "c/m", "c/n", "c/o",
    ]  # fmt: skip
    out = tmp_path / "out"
    assert [(out / "c" / name).read_bytes() for name in "lmn"] == [b"2", b"3", b"3"]
    assert os.readlink(out / "c/o") == "./nowhere"


def test_unpack_refuses_a_link_that_leads_out_by_the_names_that_others_have_here(tmp_path):
    """In the tar "x " is nowhere; here it is x, which leads up."""
    data = b"".join(
        [
            member("t", type=b"5"), member("t/d", type=b"5"),
            member("t/d/x", type=b"2", link_target="../.."),
            member("t/d/y", type=b"2", link_target="x /../../etc"),
            END,
        ]
    )  # fmt: skip
    with pytest.raises(ProtocolError, match="points outside"):
        unpacked(data, tmp_path / "out")


def test_unpack_numbers_many_names(tmp_path):
    data = b"".join(member(" " * number + "a") for number in range(1, 100)) + END
    assert len(set(unpacked(data, tmp_path / "out"))) == 99


def test_unpack_ends_at_too_many_entries(tmp_path):
    data = member("a") + member("b") + member("c") + END
    with pytest.raises(ProtocolError, match="more than 2 entries"):
        unpack_files(io.BytesIO(data), tmp_path, max_entries=2)
    assert list(tmp_path.iterdir()) == []  # counted before anything is written


def test_unpack_syncs_several_files_at_once(tmp_path, monkeypatch):
    fsync, lock, first, second = os.fsync, threading.Lock(), [], threading.Event()

    def wait_for_another(handle):
        with lock:
            first.append(handle)
            if len(first) == 2:
                second.set()
        assert second.wait(60)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", wait_for_another)
    data = b"".join(member(f"{number}", b"x") for number in range(20)) + END
    unpack_files(io.BytesIO(data), tmp_path)
    assert len(first) == 21


def test_unpack_names_the_file_that_cannot_be_synced(tmp_path, monkeypatch):
    def fail(handle):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    data = b"".join(member(f"f{number}", b"x") for number in range(20)) + END
    with pytest.raises(LocalIOError, match=r"f\d+: Input/output error"):
        unpack_files(io.BytesIO(data), tmp_path)


def test_unpack_asks_the_standard_library_too(tmp_path, monkeypatch):
    def refuse(info, folder):
        raise tarfile.OutsideDestinationError(info, folder)

    monkeypatch.setattr(tarfile, "data_filter", refuse)
    with pytest.raises(ProtocolError):
        unpacked(member("a") + END, tmp_path / "out")


def test_unpack_does_without_a_filter_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.delattr(tarfile, "data_filter")
    assert unpacked(member("a") + END, tmp_path / "out") == ["a"]


def test_unpack_into_a_full_disk_is_a_local_error(tmp_path):
    with pytest.raises(LocalIOError):
        unpack_files(io.BytesIO(member("a") + END), tmp_path / "missing")

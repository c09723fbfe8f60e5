from __future__ import annotations

import os

import pytest

from dockercomms.errors import LocalIOError
from dockercomms.landing import (
    Leftovers,
    delivery_key,
    file_digest,
    is_in_place,
    numbered,
    put_in_place,
    tree,
    tree_digest,
)
from dockercomms.oci.model import digest_of

KEY = "0" * 32


@pytest.fixture
def leftovers(tmp_path):
    return Leftovers(tmp_path / "state" / "receives")


@pytest.mark.parametrize(
    ("name", "number", "expected"),
    [
        ("a.txt", 1, "a.txt"),
        ("a.txt", 2, "a (2).txt"),
        ("a", 2, "a (2)"),
        (".bashrc", 2, ".bashrc (2)"),
        ("a.tar.gz", 10, "a.tar (10).gz"),
    ],
)
def test_numbered_keeps_the_ending(name, number, expected):
    assert numbered(name, number) == expected


def test_numbered_folder_has_no_ending():
    assert numbered("v1.2", 2, folder=True) == "v1.2 (2)"


def test_numbered_never_grows_too_long():
    name = numbered("ü" * 125 + ".txt", 9999)

    assert len(name.encode()) <= 255
    assert name.endswith(" (9999).txt")


def test_delivery_key_tells_recipients_and_messages_apart():
    digest = digest_of(b"x")

    assert len({delivery_key(me, digest) for me in ("a", "b", "a\0")}) == 3
    assert delivery_key("b\udc80", digest)


# --- leftovers -----------------------------------------------------------------------------------


def test_leftovers_are_removed_when_the_block_ends(leftovers, tmp_path):
    with leftovers.claim(KEY) as ours:
        assert ours
        path, handle = leftovers.new_file(KEY, tmp_path / "own")
        os.close(handle)
        folder = leftovers.new_folder(KEY, tmp_path)
        (folder / "x").write_text("x")
        assert path.parent.name == "own"

    assert sorted(path.name for path in tmp_path.iterdir()) == ["state"]
    assert list(leftovers.folder.iterdir()) == []


def test_leftovers_keep_what_was_given_its_name(leftovers, tmp_path):
    with leftovers.claim(KEY):
        path, handle = leftovers.new_file(KEY, tmp_path / "own")
        os.close(handle)
        path.rename(tmp_path / "own" / "final")

    assert (tmp_path / "own" / "final").exists()


def test_leftovers_of_a_living_process_stay(leftovers, tmp_path):
    with leftovers.claim(KEY):
        path, handle = leftovers.new_file(KEY, tmp_path)
        os.close(handle)
        leftovers.sweep()
        with leftovers.claim(KEY) as ours:
            assert not ours
        assert path.exists()


def abandon(leftovers, tmp_path):
    """Leave what a killed process leaves."""
    leftovers.folder.mkdir(parents=True)
    path, handle = leftovers.new_file(KEY, tmp_path)
    os.close(handle)
    return path


def test_leftovers_of_a_dead_process_are_swept(leftovers, tmp_path):
    path = abandon(leftovers, tmp_path)

    leftovers.sweep()

    assert not path.exists()
    assert list(leftovers.folder.iterdir()) == []


def test_leftovers_sweep_without_a_folder_is_nothing(leftovers):
    leftovers.sweep()

    assert not leftovers.folder.exists()


def test_leftovers_remove_nothing_but_temporaries(leftovers, tmp_path):
    abandon(leftovers, tmp_path).unlink()
    mine = tmp_path / "mine"
    mine.write_text("mine")
    full = tmp_path / "full"
    full.mkdir()
    (full / "x").write_text("x")
    note = leftovers.folder / f"{KEY}.made"
    note.write_bytes(b"t%b\0d%b\0x%b\0\0\0tcut off" % tuple(map(os.fsencode, (mine, full, mine))))

    leftovers.sweep()

    assert mine.exists()
    assert (full / "x").exists()
    assert not note.exists()


def test_leftovers_keep_in_mind_what_cannot_be_removed_yet(leftovers, tmp_path, monkeypatch):
    path = abandon(leftovers, tmp_path)

    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "unlink", refuse)
    leftovers.sweep()
    with leftovers.claim(KEY) as ours:
        assert ours
    monkeypatch.undo()
    assert path.exists()

    leftovers.sweep()

    assert not path.exists()


def test_leftovers_unlink_a_link_and_not_what_it_leads_to(leftovers, tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    (target / "x").write_text("x")
    path = abandon(leftovers, tmp_path)
    path.unlink()
    path.symlink_to(target)

    leftovers.sweep()

    assert not path.is_symlink()
    assert (target / "x").exists()


def test_leftovers_say_what_cannot_be_made(leftovers, tmp_path):
    with leftovers.claim(KEY):
        for make in (leftovers.new_file, leftovers.new_folder):
            with pytest.raises(LocalIOError, match="missing"):
                make(KEY, tmp_path / "missing" / "deep")


def test_leftovers_leave_a_folder_that_was_there(leftovers, tmp_path):
    (tmp_path / "own").mkdir()
    with leftovers.claim(KEY):
        _, handle = leftovers.new_file(KEY, tmp_path / "own")
        os.close(handle)

    assert (tmp_path / "own").is_dir()


# --- names ---------------------------------------------------------------------------------------


def place(tmp_path, name="a", **options):
    temporary = tmp_path / "temporary"
    temporary.write_text("new")
    said = []
    final = put_in_place(temporary, tmp_path, name, announce=said.append, **options)
    return final, said


def test_put_in_place_announces_the_name_first(tmp_path):
    final, said = place(tmp_path)

    assert said == [final]
    assert final.read_text() == "new"


def test_put_in_place_goes_on_when_somebody_is_faster(tmp_path):
    temporary = tmp_path / "temporary"
    temporary.write_text("new")
    said = []

    def announce(final):
        said.append(final.name)
        if len(said) == 1:
            final.write_text("theirs")

    final = put_in_place(temporary, tmp_path, "a", announce=announce)

    assert said == ["a", "a (2)"]
    assert (tmp_path / "a").read_text() == "theirs"
    assert final.read_text() == "new"


def test_put_in_place_leaves_a_rename_without_answer_to_be_settled(tmp_path):
    temporary = tmp_path / "temporary"
    temporary.write_text("new")

    def announce(final):
        temporary.rename(final)  # as a server does whose answer is lost

    with pytest.raises(LocalIOError):
        put_in_place(temporary, tmp_path, "a", announce=announce)

    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_put_in_place_says_why_not(tmp_path):
    with pytest.raises(LocalIOError):
        put_in_place(tmp_path / "temporary", tmp_path, "a", announce=lambda final: None)


def test_put_in_place_gives_up_in_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(os.path, "lexists", lambda path: True)

    with pytest.raises(LocalIOError, match="are there already"):
        place(tmp_path)


def test_put_in_place_merges_links_and_folders(tmp_path):
    new = tmp_path / "new"
    (new / "sub").mkdir(parents=True)
    (new / "sub" / "a").write_text("new")
    (new / "link").symlink_to("sub")
    old = tmp_path / "out" / "box"
    (old / "sub").mkdir(parents=True)
    (old / "sub" / "a").write_text("old")
    (old / "sub" / "b").write_text("kept")

    put_in_place(new, tmp_path / "out", "box", overwrite=True, announce=lambda final: None)

    assert (old / "sub" / "a").read_text() == "new"
    assert (old / "sub" / "b").read_text() == "kept"
    assert (old / "link").is_symlink()
    assert not new.exists()


# --- what is in place ----------------------------------------------------------------------------


def test_tree_digest_tells_trees_apart(tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    seen = {tree_digest(base)}
    for change in (
        lambda: (base / "a").write_text("1"),
        lambda: (base / "a").write_text("12"),
        lambda: (base / "a").rename(base / "b"),
        (base / "a").mkdir,
        lambda: (base / "l").symlink_to("b"),
        lambda: ((base / "l").unlink(), (base / "l").symlink_to("a")),
    ):
        change()
        seen.add(tree_digest(base))

    assert len(seen) == 7
    assert [path.name for path in tree(base)] == ["a", "b", "l"]


def test_is_in_place_wants_the_whole(tmp_path):
    path = tmp_path / "a"
    assert not is_in_place(path, digest_of(b"hello"))
    path.write_bytes(b"hell")
    assert not is_in_place(path, digest_of(b"hello"))
    path.write_bytes(b"hello")
    assert is_in_place(path, digest_of(b"hello"))
    assert is_in_place(tmp_path, tree_digest(tmp_path))


def test_file_digest_refuses_a_fifo(tmp_path):
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(LocalIOError):
        file_digest(tmp_path / "pipe")


def test_tree_digest_says_what_cannot_be_read(tmp_path):
    with pytest.raises(LocalIOError, match="nowhere"):
        tree_digest(tmp_path / "nowhere")

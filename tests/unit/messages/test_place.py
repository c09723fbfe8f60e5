from __future__ import annotations

import os

import pytest

from dockercomms.errors import LocalIOError, PlaceError
from dockercomms.messages.place import (
    Leftovers,
    delivery_key,
    file_digest,
    is_in_place,
    put_in_place,
    tree,
    tree_digest,
)
from dockercomms.oci.model import digest_of
from dockercomms.transport.folders import NATIVE, Folder
from dockercomms.transport.names import numbered

KEY = "0" * 32


@pytest.fixture
def leftovers(tmp_path):
    return Leftovers(tmp_path / "state" / "receives")


@pytest.fixture(params=[NATIVE, False], ids=["native", "portable"])
def out(request, tmp_path):
    """The folder that messages go to, open; the portable way is what Windows gets."""
    path = tmp_path / "out"
    path.mkdir()
    with Folder.open(path, native=request.param) as folder:
        yield folder


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


def test_leftovers_are_removed_when_the_block_ends(leftovers, out):
    with leftovers.claim(KEY) as ours:
        assert ours
        _, handle = leftovers.new_file(KEY, out)
        os.close(handle)
        folder = leftovers.new_folder(KEY, out)
        (out.path / folder / "x").write_text("x")

    assert out.names() == []
    assert list(leftovers.folder.iterdir()) == []


def test_leftovers_keep_what_was_given_its_name(leftovers, out):
    with leftovers.claim(KEY):
        name, handle = leftovers.new_file(KEY, out)
        os.close(handle)
        out.replace(name, out, "final")

    assert out.names() == ["final"]


def test_leftovers_of_a_living_process_stay(leftovers, out):
    with leftovers.claim(KEY):
        name, handle = leftovers.new_file(KEY, out)
        os.close(handle)
        leftovers.sweep()
        with leftovers.claim(KEY) as ours:
            assert not ours
        assert out.names() == [name]


def abandon(leftovers, tmp_path):
    """Leave what a killed process leaves."""
    leftovers.folder.mkdir(parents=True)
    with Folder.open(tmp_path) as folder:
        name, handle = leftovers.new_file(KEY, folder)
    os.close(handle)
    return tmp_path / name


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


def test_leftovers_say_what_cannot_be_made(leftovers, out):
    out.path.rmdir()
    with leftovers.claim(KEY):
        for make in (leftovers.new_file, leftovers.new_folder):
            with pytest.raises(LocalIOError, match=r"out/\.dockercomms-"):
                make(KEY, out)


def test_leftovers_remove_the_empty_folder_that_an_earlier_version_made(leftovers, tmp_path):
    leftovers.folder.mkdir(parents=True)
    (tmp_path / "1a2b3c4d").mkdir()
    note = leftovers.folder / f"{KEY}.made"
    note.write_bytes(b"d%b\0" % os.fsencode(tmp_path / "1a2b3c4d"))

    leftovers.sweep()

    assert not (tmp_path / "1a2b3c4d").exists()


KEPT = ".dockercomms-0123456789abcdef.part"


def test_leftovers_reopen_a_temporary(leftovers, out):
    (out.path / KEPT).write_text("half")

    handle = leftovers.reopen(out, KEPT)

    assert os.read(handle, 10) == b"half"
    os.close(handle)


@pytest.mark.parametrize("kind", ["link", "hard link", "fifo", "folder", "missing", "other name"])
def test_leftovers_reopen_nothing_but_a_file_of_their_own(leftovers, out, kind):
    mine = out.path / "mine"
    mine.write_text("mine")
    if kind == "link":
        (out.path / KEPT).symlink_to("mine")
    elif kind == "hard link":
        os.link(mine, out.path / KEPT)
    elif kind == "fifo":
        os.mkfifo(out.path / KEPT)
    elif kind == "folder":
        (out.path / KEPT).mkdir()

    assert leftovers.reopen(out, "mine" if kind == "other name" else KEPT) is None


# --- names ---------------------------------------------------------------------------------------


def place(out, name="a", **options):
    (out.path / "temporary").write_text("new")
    said = []
    final = put_in_place(out, "temporary", out, name, announce=said.append, **options)
    return final, said


def test_put_in_place_announces_the_name_first(out):
    final, said = place(out)

    assert said == [final]
    assert final.read_text() == "new"


def test_put_in_place_goes_on_when_somebody_is_faster(out):
    (out.path / "temporary").write_text("new")
    said = []

    def announce(final):
        said.append(final.name)
        if len(said) == 1:
            final.write_text("theirs")

    final = put_in_place(out, "temporary", out, "a", announce=announce)

    assert said == ["a", "a (2)"]
    assert (out.path / "a").read_text() == "theirs"
    assert final.read_text() == "new"


def test_put_in_place_leaves_a_rename_without_answer_to_be_settled(out):
    (out.path / "temporary").write_text("new")

    def announce(final):
        (out.path / "temporary").rename(final)  # as a server does whose answer is lost

    with pytest.raises(LocalIOError):
        put_in_place(out, "temporary", out, "a", announce=announce)

    assert out.names() == ["a"]


def test_put_in_place_says_why_not(out):
    with pytest.raises(LocalIOError):
        put_in_place(out, "temporary", out, "a", announce=lambda final: None)


def test_put_in_place_gives_up_in_the_end(out, monkeypatch):
    monkeypatch.setattr("dockercomms.messages.place.MAX_NUMBER", 2)
    (out.path / "a").touch()
    (out.path / "a (2)").touch()

    with pytest.raises(LocalIOError, match="2 files of that name are there already"):
        place(out)


@pytest.mark.parametrize("kind", ["file", "hard link", "link", "link to nowhere", "fifo"])
def test_put_in_place_replaces_a_name_and_never_what_it_leads_to(out, tmp_path, kind):
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    victim.chmod(0o4755)
    if kind == "hard link":
        os.link(victim, out.path / "a")
    elif kind == "link":
        (out.path / "a").symlink_to(victim)
    elif kind == "link to nowhere":
        (out.path / "a").symlink_to(tmp_path / "nowhere")
    elif kind == "fifo":
        os.mkfifo(out.path / "a")
    else:
        (out.path / "a").write_text("old")

    final, _ = place(out, overwrite=True)

    assert final.read_text() == "new"
    assert not final.is_symlink()
    assert final.stat().st_mode & 0o7111 == 0
    assert victim.read_text() == "untouched"
    assert not (tmp_path / "nowhere").exists()


def test_put_in_place_replaces_no_folder_by_a_file(out):
    (out.path / "a").mkdir()

    with pytest.raises(PlaceError, match="a file does not replace it"):
        place(out, overwrite=True)


# --- one folder merged into another --------------------------------------------------------------


def merge(out, tmp_path, **entries):
    """Merge a folder of `entries` into `out/box`: a text, a link's target after `->`, or None."""
    fill(out.path / "new", **entries)
    put_in_place(out, "new", out, "box", overwrite=True, announce=lambda final: None)


def fill(folder, **entries):
    folder.mkdir(parents=True)
    for name, content in entries.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.mkdir()
        elif content.startswith("->"):
            path.symlink_to(content.removeprefix("->"))
        else:
            path.write_text(content)
    return folder


def test_put_in_place_merges_links_and_folders(out, tmp_path):
    box = fill(out.path / "box", sub__a="old", sub__b="kept")

    merge(out, tmp_path, sub__a="new", sub__c__d="deep", link="->sub", sub__up="->../sub/b")

    assert (box / "sub" / "a").read_text() == "new"
    assert (box / "sub" / "b").read_text() == "kept"
    assert (box / "sub" / "c" / "d").read_text() == "deep"
    assert (box / "link").readlink().as_posix() == "sub"


def test_put_in_place_gives_a_folder_a_name_that_is_free(out, tmp_path):
    merge(out, tmp_path, a="1", link="->a")

    assert (out.path / "box" / "link").read_text() == "1"


ESCAPES = {
    "a folder's link, planted before": ({"sub": "->../../victim"}, {"sub__a": "new"}),
    "the user's own link": ({"sub": "->{victim}"}, {"sub__a": "new"}),
    "a link inside the folder": ({"sub": "->real", "real__a": "old"}, {"sub__a": "new"}),
    "deep below": ({"one__two": "->../../../victim"}, {"one__two__three__a": "new"}),
    "a link through the user's own": ({"data": "->{victim}"}, {"x": "->data/a"}),
    "a link through the user's own, in other letters": (
        {"data": "->{victim}"}, {"x": "->DATA/a"}),
    "a link through the user's own, in another normalisation": (
        {"da\u0308ta": "->{victim}"}, {"x": "->d\u00e4ta/../da\u0308ta/a"}),
    "up after a name that is a link there": ({"p": "->."}, {"q__x": "", "l": "->p/q/../../a"}),
    "up after a name that becomes a link": ({"l": "->p/q/../../a"}, {"p": "->.", "q__x": ""}),
    "up after a name": ({"x": ""}, {"l": "->p/../x"}),
    "a chain that closes over both": ({"one": "->two"}, {"two": "->one"}),
    "out by itself": ({"x": ""}, {"l": "->../a"}),
    "absolute": ({"x": ""}, {"l": "->/etc/passwd"}),
    "a file in a folder's place": ({"sub__a": "old"}, {"sub": "new"}),
    "a link in a folder's place": ({"sub__a": "old"}, {"sub": "->x"}),
    "a folder in a file's place": ({"sub": "old"}, {"sub__a": "new"}),
}  # fmt: skip


@pytest.mark.parametrize("case", ESCAPES)
def test_put_in_place_refuses_what_leads_out_of_the_merged_folder(out, tmp_path, case):
    there, new = ESCAPES[case]
    victim = fill(tmp_path / "victim", a="untouched")
    there = {name: text.replace("{victim}", str(victim)) for name, text in there.items()}
    box = fill(out.path / "box", z="kept", **there)
    before = {path: path.lstat().st_ino for path in tree(box)}

    with pytest.raises(PlaceError) as caught:
        merge(out, tmp_path, a="first", **new)

    assert {path: path.lstat().st_ino for path in tree(box)} == before  # not even a part of it
    assert (victim / "a").read_text() == "untouched"
    assert "--flat" in caught.value.hint


@pytest.mark.parametrize("kind", ["link", "file"])
def test_put_in_place_enters_no_link_in_the_place_of_the_folder(out, tmp_path, kind):
    victim = fill(tmp_path / "victim", a="untouched")
    if kind == "link":
        (out.path / "box").symlink_to(victim)
    else:
        (out.path / "box").touch()

    with pytest.raises(PlaceError, match="a folder does not replace it"):
        merge(out, tmp_path, a="new")

    assert (victim / "a").read_text() == "untouched"


def test_put_in_place_replaces_links_file_by_file(out, tmp_path):
    victim = fill(tmp_path / "victim", a="untouched")
    box = fill(out.path / "box", a=f"->{victim}/a", b=f"->{victim}", c="old")
    os.link(victim / "a", box / "d")

    merge(out, tmp_path, a="new", b="->c", c="new", d="new")

    assert {path.name: path.read_text() for path in box.iterdir()} == dict.fromkeys("abcd", "new")
    assert not (box / "a").is_symlink()
    assert files(victim) == {"a": "untouched"}


def test_put_in_place_leaves_links_of_the_user_that_lead_out(out, tmp_path):
    box = fill(out.path / "box", out="->/nowhere", old="")

    merge(out, tmp_path, link="->old")

    assert (box / "out").readlink().as_posix() == "/nowhere"
    assert (box / "link").exists()


def files(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_put_in_place_follows_no_link_that_is_swapped_in_while_it_merges(tmp_path, monkeypatch):
    victim = fill(tmp_path / "victim", a="untouched")
    box = fill(tmp_path / "out" / "box", sub__a="old")
    fill(tmp_path / "out" / "new", sub__a="new")
    real = os.replace

    def swap(source, target, **options):
        (box / "sub").rename(tmp_path / "moved")
        (box / "sub").symlink_to(victim)
        real(source, target, **options)

    monkeypatch.setattr(os, "replace", swap)
    with Folder.open(tmp_path / "out") as out:
        put_in_place(out, "new", out, "box", overwrite=True, announce=lambda final: None)

    assert files(victim) == {"a": "untouched"}
    assert files(tmp_path / "moved") == {"a": "new"}


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

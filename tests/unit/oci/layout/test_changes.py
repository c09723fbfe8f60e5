"""The files of a large layout beside index.json, which keep the cost of a push constant."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from dockercomms.errors import ManifestUnknown
from dockercomms.oci.layout.changes import ChangesFile
from dockercomms.oci.layout.files import CHANGES_SHARE, SMALL_INDEX_BYTES
from dockercomms.oci.layout.registry import LayoutRegistry
from dockercomms.oci.model import ANNOTATION_REF_NAME, MEDIA_TYPE_MANIFEST, Descriptor
from tests.contract.capabilities import push_empty_config, push_manifest
from tests.contract.layout_processes import SUBJECT, send

OLD = 1500


@pytest.fixture
def box(tmp_path: Path) -> Path:
    """A layout of 1,500 manifests that another tool has written, 400 KB of index.json."""
    folder = tmp_path / "box"
    registry = LayoutRegistry(folder, create=True)
    push_empty_config(registry, "")
    entries = []
    for number in range(OLD):
        descriptor = Descriptor.of(b"%d" % number, MEDIA_TYPE_MANIFEST).to_json()
        padding = {"of": "x" * 60, ANNOTATION_REF_NAME: f"old-{number:04d}"}
        entries.append({**descriptor, "annotations": padding})
    index = {"schemaVersion": 2, "manifests": entries, "theirs": 1}
    (folder / "index.json").write_bytes(json.dumps(index).encode())
    assert (folder / "index.json").stat().st_size > SMALL_INDEX_BYTES
    return folder


def written(box: Path) -> set[str]:
    """Return the tags that other tools see."""
    entries = json.loads((box / "index.json").read_bytes())["manifests"]
    return {entry.get("annotations", {}).get(ANNOTATION_REF_NAME) for entry in entries} - {None}


def generation(box: Path) -> tuple[int, int]:
    """Return what tells one index.json from the next."""
    state = (box / "index.json").stat()
    return state.st_ino, state.st_mtime_ns


def changes(box: Path) -> Path:
    return box / ".dockercomms" / "changes"


def test_a_push_into_a_large_layout_does_not_write_its_index(box: Path) -> None:
    registry, other = LayoutRegistry(box), LayoutRegistry(box)
    assert len(list(other.tags(""))) == OLD
    before = generation(box)
    pushed = push_manifest(registry, "", "new", tags=("new", "bell"), subject=SUBJECT)
    assert generation(box) == before
    for reader in (registry, other, LayoutRegistry(box)):
        assert reader.resolve_tag("", "new").digest == pushed.digest
        assert [found.digest for found in reader.referrers("", SUBJECT.digest)] == [pushed.digest]


def test_close_writes_the_index_for_other_tools(box: Path) -> None:
    registry = LayoutRegistry(box)
    push_manifest(registry, "", "new", tags=("new",))
    registry.delete_tag("", "old-0000")
    registry.close()
    registry.close()
    assert written(box) == {f"old-{number:04d}" for number in range(1, OLD)} | {"new"}
    assert json.loads((box / "index.json").read_bytes())["theirs"] == 1
    assert not changes(box).exists()


def test_the_end_of_a_layout_that_nobody_closed_writes_its_index(box: Path) -> None:
    registry = LayoutRegistry(box)
    push_manifest(registry, "", "new", tags=("new",))
    assert "new" not in written(box)
    del registry
    assert "new" in written(box)


def test_the_index_of_a_large_layout_is_written_seldom(box: Path) -> None:
    """The bytes written for one push do not grow with the layout."""
    registry = LayoutRegistry(box)
    states = set()
    for number in range(400):
        push_manifest(registry, "", str(number), tags=(f"new-{number:03d}",))
        states.add((box / "index.json").stat().st_ino)
    most = (box / "index.json").stat().st_size * len(states)
    assert most < 400 * 200 * 2 * CHANGES_SHARE
    assert len(list(LayoutRegistry(box).tags(""))) == OLD + 400


def test_a_batch_in_a_large_layout_writes_its_changes_at_its_end(box: Path) -> None:
    registry = LayoutRegistry(box)
    before = generation(box)
    with registry.batch():
        for number in range(3):
            push_manifest(registry, "", str(number), tags=(f"new-{number}",))
        assert not changes(box).exists()
    assert generation(box) == before
    assert len(list(LayoutRegistry(box).tags(""))) == OLD + 3


@pytest.mark.parametrize("kept", [0, 10, 33, 60])
def test_what_a_crash_cut_off_is_no_change_and_is_overwritten(box: Path, kept: int) -> None:
    registry = LayoutRegistry(box)
    push_manifest(registry, "", "one", tags=("one",))
    whole = changes(box).read_bytes()
    push_manifest(registry, "", "two", tags=("two",))
    data = changes(box).read_bytes()
    cut = data[:kept] if kept < len(whole) - 40 else data[:-20]
    changes(box).write_bytes(cut)
    other = LayoutRegistry(box)
    push_manifest(other, "", "three", tags=("three",))
    tags = set(LayoutRegistry(box).tags(""))
    assert "three" in tags
    assert "two" not in tags


def test_changes_that_the_index_has_already_change_nothing(box: Path) -> None:
    """A crash may come between the new index.json and the end of the changes."""
    registry = LayoutRegistry(box)
    push_manifest(registry, "", "one", tags=("one", "bell"))
    push_manifest(registry, "", "two", tags=("two", "bell"))
    gone = push_manifest(registry, "", "gone", tags=("gone",)).digest
    registry.delete_manifest("", gone)
    registry.delete_tag("", "one")
    kept = changes(box).read_bytes()
    registry.close()
    tags, index = list(registry.tags("")), written(box)
    changes(box).write_bytes(kept)
    other = LayoutRegistry(box)
    assert list(other.tags("")) == tags == sorted(index)
    assert other.resolve_tag("", "bell") == other.resolve_tag("", "two")
    with pytest.raises(ManifestUnknown):
        other.resolve_manifest("", gone)
    push_manifest(other, "", "three", tags=("three",))
    other.close()
    assert written(box) == index | {"three"}


def test_another_tool_that_writes_the_index_keeps_what_was_pushed(box: Path) -> None:
    registry = LayoutRegistry(box)
    push_manifest(registry, "", "ours", tags=("ours",))
    index = json.loads((box / "index.json").read_bytes())
    theirs = Descriptor.of(b"0", MEDIA_TYPE_MANIFEST).to_json()
    index["manifests"] = [{**theirs, "annotations": {ANNOTATION_REF_NAME: "theirs"}}]
    (box / "index.json").write_bytes(json.dumps(index).encode())
    assert list(registry.tags("")) == ["ours", "theirs"]
    assert list(LayoutRegistry(box).tags("")) == ["ours", "theirs"]
    registry.close()
    assert written(box) == {"ours", "theirs"}


def test_changes_of_another_file_are_read_anew(box: Path) -> None:
    """A reader that knows the changes up to some byte does not go on in a new file there."""
    registry, reader = LayoutRegistry(box), LayoutRegistry(box)
    push_manifest(registry, "", "one", tags=("one",))
    assert "one" in set(reader.tags(""))
    registry.close()
    push_manifest(registry, "", "two", tags=("two",))
    assert {"one", "two"} <= set(reader.tags(""))


def test_changes_that_are_no_changes_end_the_file(tmp_path: Path) -> None:
    file = ChangesFile(tmp_path / "changes")
    file.append([{"untag": "a"}, {"untag": "b"}], file.read())
    data = (tmp_path / "changes").read_bytes()
    (tmp_path / "changes").write_bytes(data.replace(b'"b"', b'"c"'))
    read = file.read()
    assert read.changes == ({"untag": "a"},)
    file.append([{"untag": "d"}], read)
    assert file.read().changes == ({"untag": "a"}, {"untag": "d"})


def test_a_copy_without_our_private_folder_is_the_layout_as_it_was_closed(
    box: Path, tmp_path: Path
) -> None:
    registry = LayoutRegistry(box)
    push_manifest(registry, "", "new", tags=("new",))
    registry.close()
    copy = tmp_path / "copy"
    shutil.copytree(box, copy, ignore=shutil.ignore_patterns(".dockercomms"))
    assert list(LayoutRegistry(copy).tags("")) == list(registry.tags(""))


def test_a_large_layout_loses_nothing_of_many_processes(box: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(3, mp_context=context) as pool:
        sending = [pool.submit(send, box, sender, 20) for sender in range(3)]
        watching, seen = LayoutRegistry(box), 0
        while not all(task.done() for task in sending):
            now = len(list(watching.tags("")))
            assert seen <= now <= len(list(LayoutRegistry(box).tags("")))
            seen = now
        sent = [tag for task in sending for tag in task.result()]
    assert len(sent) == 60
    assert set(sent) <= set(watching.tags(""))
    assert set(sent) <= written(box)

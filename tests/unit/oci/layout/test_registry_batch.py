"""Many changes of a layout, written to its index once."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from dockercomms.errors import LocalIOError, ManifestUnknown
from dockercomms.oci.interface import read_all
from dockercomms.oci.layout.archive import ArchiveRegistry
from dockercomms.oci.layout.files import LayoutFiles
from dockercomms.oci.layout.index import EMPTY_INDEX, LayoutIndex, parse_layout_index
from dockercomms.oci.layout.registry import LayoutRegistry
from dockercomms.oci.model import MEDIA_TYPE_INDEX, Descriptor, Index

TYPE = MEDIA_TYPE_INDEX


def data(number: int) -> bytes:
    return Index(annotations={"number": str(number)}).to_bytes()


def digest(number: int) -> str:
    return Descriptor.of(data(number), TYPE).digest


@pytest.fixture(params=["folder", "tar"])
def layout(request: pytest.FixtureRequest, tmp_path: Path):
    if request.param == "folder":
        yield LayoutRegistry(tmp_path / "box", create=True)
        return
    archive = ArchiveRegistry(tmp_path / "box.tar", create=True)
    yield archive
    archive.abandon()


def push(layout: LayoutRegistry, *numbers: int) -> None:
    for number in numbers:
        layout.push_manifest("", data(number), TYPE, tags=[f"v{number}"])


def index_file(layout: LayoutRegistry) -> Path:
    return layout.files.folder / "index.json"


def test_the_index_is_written_at_the_end_of_a_batch(layout):
    push(layout, 1)
    before = index_file(layout).read_bytes()

    with layout.batch():
        push(layout, 2, 3)
        assert list(layout.tags("")) == ["v1", "v2", "v3"]
        assert index_file(layout).read_bytes() == before

    assert len(parse_layout_index(index_file(layout).read_bytes(), where="x").entries) == 3


def test_what_ends_a_batch_keeps_what_was_done_in_it(layout):
    def failing() -> None:
        with layout.batch():
            push(layout, 1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        failing()
    assert list(layout.tags("")) == ["v1"]
    push(layout, 2)
    assert list(layout.tags("")) == ["v1", "v2"]


def test_content_goes_when_the_index_no_longer_names_it(layout):
    push(layout, 1, 2)
    before = index_file(layout).read_bytes()
    content = layout.files.blob_path(digest(1))

    with layout.batch():
        layout.delete_manifest("", digest(1))
        assert content.exists()
        assert index_file(layout).read_bytes() == before
        with pytest.raises(ManifestUnknown):
            layout.get_manifest("", digest(1))
        with pytest.raises(ManifestUnknown):
            layout.get_tag("", "v1")

    assert not content.exists()
    assert list(layout.tags("")) == ["v2"]


def test_what_is_deleted_and_pushed_again_in_a_batch_stays(layout):
    push(layout, 1)
    with layout.batch():
        layout.delete_manifest("", digest(1))
        push(layout, 1)

    assert read_all(layout.get_tag("", "v1"), 1000)[0] == data(1)


def test_a_batch_without_a_change_writes_nothing(layout):
    push(layout, 1)
    before = index_file(layout).stat().st_mtime_ns
    with layout.batch():
        push(layout, 1)

    assert index_file(layout).stat().st_mtime_ns == before


def test_other_writers_wait_for_the_end_of_a_batch(tmp_path):
    layout = LayoutRegistry(tmp_path / "box", create=True)
    push(layout, 1)
    other = LayoutFiles(tmp_path / "box", create=False, lock_wait_seconds=0.01)
    late = threading.Thread(target=push, args=(layout, 3))
    with layout.batch():
        push(layout, 2)
        with pytest.raises(LocalIOError, match="locked by this process"), other.locked():
            pass
        late.start()
    late.join(10)

    assert list(layout.tags("")) == ["v1", "v2", "v3"]


def entry(number: int, tag: str | None) -> dict[str, object]:
    named = {} if tag is None else {"annotations": {"org.opencontainers.image.ref.name": tag}}
    return Descriptor.of(data(number), TYPE).to_json() | named


def foreign(*entries: dict[str, object]) -> LayoutIndex:
    text = EMPTY_INDEX.to_bytes()
    return parse_layout_index(
        json.dumps({**json.loads(text), "manifests": list(entries)}).encode(), where="x"
    )


def test_of_two_entries_of_one_tag_the_other_counts_when_one_is_deleted():
    index = foreign(entry(1, "v"), entry(2, "v"), entry(3, "w"))

    left = index.without_manifest(digest(2))

    assert left.tagged("v").digest == digest(1)
    assert left.without_manifest(digest(1)).tags() == ["w"]


def test_all_entries_of_a_manifest_go_with_it():
    index = foreign(entry(1, "a"), entry(1, "b"), entry(1, None), entry(2, "c"))

    left = index.without_manifest(digest(1))

    assert left.tags() == ["c"]
    assert left.manifest(digest(1)) is None
    assert [one.digest for one in left.manifests()] == [digest(2)]
    assert left.without_manifest(digest(1)).to_bytes() == left.to_bytes()

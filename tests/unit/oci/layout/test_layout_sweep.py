"""A sweep removes exactly the unreferenced content of a folder."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from dockercomms.errors import IntegrityError, NotFoundError, ProtocolError
from dockercomms.oci.layout.archive import ArchiveRegistry
from dockercomms.oci.layout.registry import SWEEP_SECONDS, LayoutRegistry, Swept, sweep_layout
from dockercomms.oci.model import MEDIA_TYPE_INDEX, Descriptor, Digest, Index
from tests.fakes.images import image, push, push_tree

OLD = SWEEP_SECONDS + 60


def blob(layout: LayoutRegistry, content: bytes) -> Digest:
    descriptor = Descriptor.of(content, "application/octet-stream")
    layout.push_blob("", descriptor, lambda: io.BytesIO(content))
    return descriptor.digest


def age(folder: Path, seconds: float = OLD) -> None:
    for path in folder.glob("blobs/*/*"):
        then = path.stat().st_mtime - seconds
        os.utime(path, (then, then))


@pytest.fixture
def layout(tmp_path: Path) -> LayoutRegistry:
    return LayoutRegistry(tmp_path / "box", create=True)


def has(layout: LayoutRegistry, digest: Digest) -> bool:
    try:
        return layout.resolve_blob("", digest).size > 0
    except NotFoundError:
        return False


def test_old_content_that_nothing_refers_to_goes_and_young_content_stays(layout, tmp_path):
    old = blob(layout, b"old")
    age(tmp_path / "box")
    young = blob(layout, b"young")

    assert sweep_layout(layout) == Swept(1, 3)

    assert (has(layout, old), has(layout, young)) == (False, True)
    assert sweep_layout(layout) == Swept()


def test_what_a_manifest_or_an_index_in_an_index_refers_to_stays(layout, tmp_path):
    one, two = image(1, architecture="amd64"), image(2, architecture="arm64")
    push_tree(layout, "", (one, two), "v1")
    age(tmp_path / "box")
    count = len(list((tmp_path / "box").glob("blobs/*/*")))

    assert sweep_layout(layout) == Swept()
    layout.delete_tag("", "v1")
    assert sweep_layout(layout) == Swept()
    assert len(list((tmp_path / "box").glob("blobs/*/*"))) == count


def test_the_content_of_a_deleted_manifest_goes_but_what_others_share_stays(layout, tmp_path):
    one, two = image(1), image(2)
    for tag, built in (("one", one), ("two", two)):
        push(layout, "", built, tag)
    age(tmp_path / "box")
    digest = layout.resolve_tag("", "one").digest
    layout.delete_manifest("", digest)

    swept = sweep_layout(layout)

    assert swept.blobs > 0
    assert layout.resolve_tag("", "two")
    assert sweep_layout(layout) == Swept()


def test_a_damaged_manifest_ends_it_before_anything_goes(layout, tmp_path):
    lone = blob(layout, b"lone")
    manifest = layout.push_manifest("", Index().to_bytes(), MEDIA_TYPE_INDEX, tags=["v1"])
    (tmp_path / "box" / "blobs" / "sha256" / manifest.digest[7:]).write_bytes(b"{}")
    age(tmp_path / "box")

    with pytest.raises(IntegrityError):
        sweep_layout(LayoutRegistry(tmp_path / "box"))
    assert has(layout, lone)


def test_a_missing_layout_has_nothing(tmp_path):
    assert sweep_layout(LayoutRegistry(tmp_path / "none")) == Swept()


def test_an_archive_is_swept_as_a_folder_is(tmp_path):
    file = tmp_path / "box.tar"
    archive = ArchiveRegistry(file, create=True)
    lone = blob(archive, b"lone")
    archive.push_manifest("", Index().to_bytes(), MEDIA_TYPE_INDEX, tags=["v1"])
    archive.close()
    then = file.stat().st_mtime - OLD
    os.utime(file, (then, then))

    archive = ArchiveRegistry(file)
    young = blob(archive, b"young")
    assert sweep_layout(archive) == Swept(1, 4)
    archive.close()

    archive = ArchiveRegistry(file)
    assert (has(archive, lone), has(archive, young)) == (False, True)
    assert list(archive.tags("")) == ["v1"]
    archive.close()


def test_nothing_goes_where_an_entry_cannot_be_read(layout, tmp_path):
    old = blob(layout, b"old")
    age(tmp_path / "box")
    path = tmp_path / "box" / "index.json"
    path.write_text(path.read_text().replace("[", '[{"size":"1"}', 1))

    with pytest.raises(ProtocolError, match=r"1 entries of index\.json cannot be read"):
        sweep_layout(LayoutRegistry(tmp_path / "box"))

    assert has(layout, old)

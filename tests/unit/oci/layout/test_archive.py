"""An image layout in a tar: read in place, replaced as a whole, believed in nothing."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from dockercomms.errors import (
    BlobUnknown,
    LimitError,
    LocalIOError,
    ManifestUnknown,
    NameUnknown,
    ProtocolError,
)
from dockercomms.oci.content import blob_descriptor
from dockercomms.oci.interface import read_all
from dockercomms.oci.layout import archive_files
from dockercomms.oci.layout.archive import ArchiveRegistry
from dockercomms.oci.layout.archive_files import ArchiveFiles, read_table
from dockercomms.oci.layout.registry import LayoutRegistry
from dockercomms.oci.model import (
    EMPTY_CONFIG,
    EMPTY_CONFIG_BYTES,
    MEDIA_TYPE_INDEX,
    Descriptor,
    Index,
    digest_of,
)

INDEX = Index().to_bytes()
INDEX_DIGEST = Descriptor.of(INDEX, MEDIA_TYPE_INDEX).digest
WORK = ".box.tar.work"


OPENED: list[ArchiveRegistry] = []


@pytest.fixture(autouse=True)
def nothing_stays_open() -> Iterator[None]:
    yield
    while OPENED:
        OPENED.pop().abandon()


def opened(file: Path, **options: bool) -> ArchiveRegistry:
    """Open an archive that is left as it is at the end, unless the test closes it."""
    OPENED.append(ArchiveRegistry(file, **options))
    return OPENED[-1]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "box.tar"


def filled(file: Path, *tags: str) -> Path:
    """Make, or add to, an archive with one blob and one manifest under `tags`."""
    archive = opened(file, create=True)
    archive.push_blob("", EMPTY_CONFIG, lambda: io.BytesIO(EMPTY_CONFIG_BYTES))
    archive.push_manifest("", INDEX, MEDIA_TYPE_INDEX, tags=tags or ("v1",))
    archive.close()
    return file


def tar_of(file: Path, *members: tuple[str, bytes] | tarfile.TarInfo) -> Path:
    with tarfile.open(file, "w") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return file


LAYOUT = ("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
EMPTY = ("index.json", b'{"schemaVersion":2,"manifests":[]}')


def info(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    return made


def test_what_was_written_is_there_when_it_is_closed(file):
    filled(file)

    archive = opened(file)
    assert list(archive.tags("")) == ["v1"]
    data, descriptor = read_all(archive.get_tag("", "v1"), 1000)
    assert (data, descriptor.digest) == (INDEX, INDEX_DIGEST)
    assert archive.resolve_blob("", EMPTY_CONFIG.digest).size == 2
    assert os.listdir(file.parent) == ["box.tar"]


def test_it_is_a_layout_when_it_is_unpacked(file, tmp_path):
    with tarfile.open(filled(file)) as tar:
        assert [member.name for member in tar][:2] == ["oci-layout", "index.json"]
        tar.extractall(tmp_path / "out", filter="data")

    assert list(LayoutRegistry(tmp_path / "out").tags("")) == ["v1"]


def test_a_layout_that_tar_packed_is_read(file, tmp_path):
    layout = LayoutRegistry(tmp_path / "box", create=True)
    layout.push_manifest("", INDEX, MEDIA_TYPE_INDEX, tags=("v1",))
    with tarfile.open(file, "w") as tar:
        tar.add(tmp_path / "box", arcname=".")

    assert opened(file).resolve_tag("", "v1").digest == INDEX_DIGEST


def test_equal_layouts_are_equal_files(tmp_path):
    one, other = filled(tmp_path / "a.tar"), filled(tmp_path / "b.tar")

    assert one.read_bytes() == other.read_bytes()


def test_reading_and_writing_what_is_there_leaves_the_file_alone(file):
    before = filled(file).stat()

    filled(file)  # a blob is written whether or not it is there, and is the same one
    archive = opened(file, create=True)
    archive.push_manifest("", INDEX, MEDIA_TYPE_INDEX, tags=("v1",))
    archive.close()

    assert opened(file).resolve_tag("", "v1").digest == INDEX_DIGEST
    assert file.stat().st_size == before.st_size
    assert not (file.parent / WORK).exists()


def test_more_is_added_and_what_is_deleted_is_gone(file):
    filled(file)
    archive = opened(file)
    archive.push_manifest("", INDEX, MEDIA_TYPE_INDEX, tags=("v2",))
    archive.delete_tag("", "v1")
    archive.delete_blob("", EMPTY_CONFIG.digest)
    with pytest.raises(BlobUnknown):
        archive.get_blob("", EMPTY_CONFIG.digest)
    archive.close()

    archive = opened(file)
    assert list(archive.tags("")) == ["v2"]
    with pytest.raises(BlobUnknown):
        archive.resolve_blob("", EMPTY_CONFIG.digest)
    with tarfile.open(file) as tar:
        assert not any(EMPTY_CONFIG.digest[7:] in name for name in tar.getnames())


def test_parts_of_a_blob_are_read_by_their_offsets(file):
    content = bytes(range(256)) * 40
    blob = Descriptor.of(content, "application/octet-stream")
    archive = opened(file, create=True)
    archive.push_blob("", blob, lambda: io.BytesIO(content))
    archive.close()

    archive = opened(file)
    with archive.get_blob_range("", blob.digest, 300, 310) as part:
        assert part.read() == content[300:310]
    with archive.get_blob("", blob.digest) as one, archive.get_blob("", blob.digest) as two:
        assert one.read(10) == content[:10]
        assert two.read() == content
        assert one.read() == content[10:]


def test_nothing_is_there_until_it_is_closed_and_nothing_when_it_is_abandoned(file):
    archive = opened(file, create=True)
    archive.push_manifest("", INDEX, MEDIA_TYPE_INDEX, tags=("v1",))
    assert list(archive.tags("")) == ["v1"]
    archive.abandon()

    assert not file.exists()
    with pytest.raises(NameUnknown):
        opened(file).resolve_tag("", "v1")


def test_a_run_reuses_the_blobs_of_one_that_was_killed(file):
    filled(file)
    blobs = {digest_of(data): data for data in (b"wanted", b"of another choice")}
    wanted, other = blobs
    archive = opened(file)
    for digest, data in blobs.items():
        archive.push_blob("", blob_descriptor(digest, len(data)), partial(io.BytesIO, data))
    archive.push_manifest("", INDEX, MEDIA_TYPE_INDEX, tags=("v2",))
    archive.abandon()  # as if killed: the folder stays
    assert list(opened(file).tags("")) == ["v1"]

    archive = opened(file, create=True)
    assert list(archive.tags("")) == ["v1"]
    archive.push_manifest("", INDEX, MEDIA_TYPE_INDEX, tags=("v3",))
    assert archive.resolve_blob("", wanted).size == len(blobs[wanted])
    archive.close()

    archive = opened(file)
    assert list(archive.tags("")) == ["v1", "v3"]
    with archive.get_blob("", wanted) as blob:
        assert blob.read() == blobs[wanted]
    with pytest.raises(BlobUnknown):
        archive.resolve_blob("", other)
    assert not (file.parent / WORK).exists()


def test_what_a_living_run_has_not_finished_is_not_seen(file):
    filled(file)
    writer = opened(file)
    writer.push_manifest("", INDEX, MEDIA_TYPE_INDEX, tags=("v2",))

    assert list(opened(file, create=True).tags("")) == ["v1"]


def test_what_was_begun_on_another_archive_of_that_name_is_only_used_for_its_blobs(file):
    archive = opened(file, create=True)
    archive.push_manifest("", INDEX, MEDIA_TYPE_INDEX, tags=("old",))
    archive.abandon()
    tar_of(file, LAYOUT, EMPTY)

    archive = opened(file)
    archive.push_blob("", EMPTY_CONFIG, lambda: io.BytesIO(EMPTY_CONFIG_BYTES))
    assert list(archive.tags("")) == []
    archive.close()
    assert list(opened(file).tags("")) == []


def test_a_writer_sees_what_another_one_has_put_there_meanwhile(file):
    filled(file)
    early = opened(file)
    assert list(early.tags("")) == ["v1"]
    filled(file, "v2")

    early.push_manifest("", INDEX, MEDIA_TYPE_INDEX, tags=("v3",))
    early.close()

    assert list(opened(file).tags("")) == ["v1", "v2", "v3"]


def test_one_process_writes_at_a_time(file):
    held = ArchiveFiles(file, create=True)
    held.prepare()

    with pytest.raises(LocalIOError, match="this process has been writing"):
        ArchiveFiles(file, create=True, lock_wait_seconds=0.01).prepare()

    held.abandon()
    other = ArchiveFiles(file, create=True, lock_wait_seconds=0.01)
    other.prepare()
    other.abandon()


def test_what_cannot_be_written_leaves_the_old_archive_and_what_was_added(file):
    filled(file)
    before = file.read_bytes()
    archive = opened(file)
    archive.push_manifest("", INDEX, MEDIA_TYPE_INDEX, tags=("v2",))
    incoming = file.parent / WORK / ".dockercomms" / "incoming"
    shutil.rmtree(incoming)

    with pytest.raises(LocalIOError, match=r"box\.tar"):
        archive.close()

    assert file.read_bytes() == before
    assert any((file.parent / WORK / "blobs" / "sha256").iterdir())
    archive = opened(file)
    archive.push_manifest("", INDEX, MEDIA_TYPE_INDEX, tags=("v2",))
    archive.close()
    assert list(opened(file).tags("")) == ["v1", "v2"]


def test_a_missing_archive_is_made_only_where_it_may_be(file):
    with pytest.raises(LocalIOError, match="archive not found"):
        opened(file).push_blob("", EMPTY_CONFIG, lambda: io.BytesIO(EMPTY_CONFIG_BYTES))
    assert not opened(file).exists()

    archive = opened(file, create=True)
    archive.make()
    archive.close()
    assert list(opened(file).tags("")) == []
    with pytest.raises(ManifestUnknown):
        opened(file).resolve_tag("", "v1")


# --- what others made ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "match"),
    [
        ((LAYOUT, EMPTY, info("blobs/sha256/" + "0" * 64, tarfile.SYMTYPE, "/etc/passwd")), "link"),
        ((LAYOUT, EMPTY, info("a", tarfile.LNKTYPE, "index.json")), "link"),
        ((LAYOUT, EMPTY, ("/etc/cron.d/x", b"x")), "outside of the archive"),
        ((LAYOUT, EMPTY, ("blobs/../../x", b"x")), "outside of the archive"),
        ((LAYOUT, EMPTY, EMPTY), "two entries index.json"),
        ((LAYOUT,), "no OCI image layout"),
        ((EMPTY,), "no OCI image layout"),
        ((("oci-layout", b'{"imageLayoutVersion":"2.0.0"}'), EMPTY), "version '2.0.0'"),
        ((LAYOUT, ("index.json", b"[]")), "object expected"),
        ((("manifest.json", b"[]"), ("repositories", b"{}")), "docker save"),
    ],
)
def test_a_hostile_or_foreign_archive_is_refused_by_name(file, members, match):
    archive = opened(tar_of(file, *members), create=True)

    with pytest.raises(ProtocolError, match=match) as raised:
        list(archive.tags(""))
    assert str(file) in raised.value.message
    with pytest.raises(ProtocolError):
        archive.push_manifest("", INDEX, MEDIA_TYPE_INDEX, tags=("v1",))


def test_an_archive_that_ends_early_is_refused_wherever_it_ends(file):
    whole = filled(file).read_bytes()
    for size in (*range(0, len(whole) - 1024, 512), 700, len(whole) - 1024, len(whole) - 512):
        file.write_bytes(whole[:size])
        with pytest.raises(ProtocolError):
            list(opened(file).tags(""))


@pytest.mark.parametrize(("head", "match"), [(b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd")])
def test_a_compressed_archive_is_refused_without_unpacking_it(file, head, match):
    file.write_bytes(head + bytes(600))

    with pytest.raises(ProtocolError, match=match):
        list(opened(file).tags(""))


def test_a_size_beyond_the_file_and_an_index_too_large_cost_nothing():
    claimed = tarfile.TarInfo("blobs/sha256/" + "0" * 64)
    claimed.size = 2**50
    data = claimed.tobuf(tarfile.GNU_FORMAT) + bytes(512)
    with pytest.raises(ProtocolError, match=r"ends .* bytes early"):
        read_table(io.BytesIO(data), where="x")

    claimed.name, claimed.size = "index.json", 2**40
    with pytest.raises(ProtocolError, match="at most"):
        read_table(io.BytesIO(claimed.tobuf(tarfile.GNU_FORMAT) + bytes(512)), where="x")


def test_too_many_members_are_refused(file, monkeypatch):
    monkeypatch.setattr(archive_files, "MAX_ARCHIVE_ENTRIES", 3)
    tar_of(file, LAYOUT, EMPTY, ("a", b""), ("b", b""))

    with pytest.raises(LimitError, match=r"box\.tar: .*more than 3 entries"):
        list(opened(file).tags(""))


def test_content_that_is_not_its_digest_is_refused_when_it_is_read(file):
    filled(file)
    file.write_bytes(file.read_bytes().replace(INDEX, INDEX[:-1] + b" "))

    with pytest.raises(ProtocolError):
        read_all(opened(file).get_tag("", "v1"), 1000)


@pytest.mark.parametrize(
    "names", [["manifest.json", "repositories"], [f"{'a' * 64}/layer.tar", "manifest.json"]]
)
@pytest.mark.parametrize("has_link", [False, True])
def test_tar_of_an_old_docker_save_is_refused_by_its_name(
    file: Path, names: list[str], has_link: bool
) -> None:
    with tarfile.open(file, "w") as tar:
        if has_link:  # skopeo writes them for Docker's older forms
            link = tarfile.TarInfo(f"{'b' * 64}/layer.tar")
            link.type, link.linkname = tarfile.SYMTYPE, "../layer.tar"
            tar.addfile(link)
        for name in names:
            tar.addfile(tarfile.TarInfo(name))

    with pytest.raises(ProtocolError, match="docker save") as caught:
        list(opened(file).tags(""))
    assert "skopeo copy docker-archive:" in (caught.value.hint or "")


def test_tar_of_docker_save_since_25_is_read(file: Path) -> None:
    """A layout, and beside it the files of the older form."""
    folder = file.parent / "made"
    layout = LayoutRegistry(folder, create=True)
    layout.push_manifest("", INDEX, MEDIA_TYPE_INDEX, tags=("v1",))
    layout.close()
    (folder / "manifest.json").write_text("[]")
    (folder / "repositories").write_text("{}")
    with tarfile.open(file, "w") as tar:
        for name in ("manifest.json", "repositories", "oci-layout", "index.json", "blobs"):
            tar.add(folder / name, name)

    assert list(opened(file).tags("")) == ["v1"]

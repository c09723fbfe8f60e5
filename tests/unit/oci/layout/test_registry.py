from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dockercomms.errors import (
    BlobUnknown,
    DigestMismatch,
    IntegrityError,
    LocalIOError,
    ManifestUnknown,
    NameUnknown,
    TrailingData,
    Truncated,
    Unsupported,
)
from dockercomms.oci.interface import Registry, read_all
from dockercomms.oci.layout.index import ANNOTATION_SUBJECT
from dockercomms.oci.layout.registry import LayoutRegistry
from dockercomms.oci.model import (
    EMPTY_CONFIG,
    MAX_MANIFEST_BYTES,
    MEDIA_TYPE_INDEX,
    MEDIA_TYPE_MANIFEST,
    Descriptor,
    Digest,
    digest_of,
)
from dockercomms.oci.reference import referrers_tag
from tests.contract.capabilities import (
    index_bytes,
    manifest_bytes,
    push,
    push_empty_config,
    push_manifest,
)
from tests.fakes.clock import FakeClock

ANY = "ignored"
SUBJECT = Descriptor.of(b"subject", MEDIA_TYPE_MANIFEST)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "box"


@pytest.fixture
def layout(folder: Path) -> LayoutRegistry:
    made = LayoutRegistry(folder, create=True)
    push_empty_config(made, ANY)
    return made


def blob_file(folder: Path, digest: Digest) -> Path:
    return folder / "blobs" / "sha256" / digest.partition(":")[2]


def entries(folder: Path) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads((folder / "index.json").read_bytes())["manifests"]
    return found


READS: dict[str, Callable[[Registry], object]] = {
    "get_blob": lambda store: store.get_blob(ANY, SUBJECT.digest),
    "get_blob_range": lambda store: store.get_blob_range(ANY, SUBJECT.digest, 0),
    "resolve_blob": lambda store: store.resolve_blob(ANY, SUBJECT.digest),
    "get_manifest": lambda store: store.get_manifest(ANY, SUBJECT.digest),
    "resolve_manifest": lambda store: store.resolve_manifest(ANY, SUBJECT.digest),
    "get_tag": lambda store: store.get_tag(ANY, "v1"),
    "resolve_tag": lambda store: store.resolve_tag(ANY, "v1"),
    "tags": lambda store: list(store.tags(ANY)),
    "tag_pages": lambda store: list(store.tag_pages(ANY)),
    "delete_tag": lambda store: store.delete_tag(ANY, "v1"),
    "delete_manifest": lambda store: store.delete_manifest(ANY, SUBJECT.digest),
    "delete_blob": lambda store: store.delete_blob(ANY, SUBJECT.digest),
}
WRITES: dict[str, Callable[[Registry], object]] = {
    "push_blob": lambda store: push(store, ANY, b"data"),
    "push_manifest": lambda store: store.push_manifest(ANY, b"{}", MEDIA_TYPE_MANIFEST),
    "upload": lambda store: store.upload(ANY),
}


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize("name", READS)
def test_layout_that_is_missing_has_nothing_and_is_not_made(
    folder: Path, name: str, create: bool
) -> None:
    layout = LayoutRegistry(folder, create=create)
    with pytest.raises(NameUnknown, match="image layout not found"):
        READS[name](layout)
    assert list(layout.referrers(ANY, SUBJECT.digest)) == []
    assert layout.mount_blob(ANY, SUBJECT.digest, source="other") is None
    assert not layout.exists()
    assert not folder.exists()


@pytest.mark.parametrize("name", WRITES)
def test_layout_is_made_by_the_first_write_if_that_is_allowed(folder: Path, name: str) -> None:
    with pytest.raises(LocalIOError, match="image layout not found"):
        WRITES[name](LayoutRegistry(folder))
    assert not folder.exists()
    WRITES[name](LayoutRegistry(folder, create=True))
    assert LayoutRegistry(folder).exists()


def test_layout_is_read_and_written_by_another_registry(
    layout: LayoutRegistry, folder: Path
) -> None:
    pushed = push_manifest(layout, "one", "m", tags=("v1",))
    other = LayoutRegistry(folder)
    assert other.resolve_tag("two", "v1") == pushed.bare()
    more = push_manifest(other, "three", "n", tags=("v2",))
    assert layout.resolve_tag("four", "v2") == more.bare()


def test_layout_tells_the_time_of_its_clock(folder: Path) -> None:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    assert LayoutRegistry(folder, clock=FakeClock(now)).server_time() == now


def test_layout_lists_no_repositories(layout: LayoutRegistry) -> None:
    with pytest.raises(Unsupported):
        layout.repositories()


def test_layout_keeps_a_manifest_listed_when_its_tag_moves(
    layout: LayoutRegistry, folder: Path
) -> None:
    old = push_manifest(layout, ANY, "old", tags=("bell",))
    new = push_manifest(layout, ANY, "new", tags=("bell",))
    assert [entry["digest"] for entry in entries(folder)] == [old.digest, new.digest]
    assert "annotations" not in entries(folder)[0]


def test_layout_writes_the_index_only_when_it_changes(layout: LayoutRegistry, folder: Path) -> None:
    push_manifest(layout, ANY, "m", tags=("v1",))
    before = (folder / "index.json").stat()
    push_manifest(layout, ANY, "m", tags=("v1",))
    push_manifest(layout, ANY, "m")
    assert (folder / "index.json").stat().st_ino == before.st_ino


@pytest.mark.parametrize(
    ("damage", "error"),
    [(b"other data", DigestMismatch), (b"other", Truncated), (b"some bytes more", TrailingData)],
)
def test_layout_gives_no_manifest_that_was_damaged(
    layout: LayoutRegistry, folder: Path, damage: bytes, error: type[IntegrityError]
) -> None:
    pushed = push_manifest(layout, ANY, "m", tags=("v1",))
    data = blob_file(folder, pushed.digest).read_bytes()
    damaged = damage + data[len(damage) :] if error is DigestMismatch else damage
    damaged = data + damage if error is TrailingData else damaged
    blob_file(folder, pushed.digest).write_bytes(damaged)
    for reader in (layout.get_tag(ANY, "v1"), layout.get_manifest(ANY, pushed.digest)):
        with reader, pytest.raises(error):
            reader.read()


def test_layout_gives_no_blob_that_was_damaged(layout: LayoutRegistry, folder: Path) -> None:
    pushed = push(layout, ANY, b"some bytes")
    blob_file(folder, pushed.digest).write_bytes(b"some other")
    with layout.get_blob(ANY, pushed.digest) as reader, pytest.raises(DigestMismatch):
        reader.read()
    push(layout, ANY, b"some bytes")
    with layout.get_blob(ANY, pushed.digest) as reader:
        assert reader.read() == b"some bytes"


def test_layout_manifest_whose_content_is_lost_is_unknown(
    layout: LayoutRegistry, folder: Path
) -> None:
    pushed = push_manifest(layout, ANY, "m", tags=("v1",))
    blob_file(folder, pushed.digest).unlink()
    with pytest.raises(ManifestUnknown):
        layout.get_tag(ANY, "v1")
    with pytest.raises(ManifestUnknown):
        layout.get_manifest(ANY, pushed.digest)


def test_layout_does_not_read_a_manifest_above_the_limit(
    layout: LayoutRegistry, folder: Path
) -> None:
    pushed = push_manifest(layout, ANY, "m", tags=("v1",))
    index = json.loads((folder / "index.json").read_bytes())
    index["manifests"][0]["size"] = MAX_MANIFEST_BYTES + 1
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(IntegrityError, match="at most 4194304"):
        layout.get_manifest(ANY, pushed.digest)


def test_layout_finds_manifests_that_only_an_index_names(
    layout: LayoutRegistry, folder: Path
) -> None:
    # As other tools write a layout of several platforms.
    data = manifest_bytes("nested")
    nested = push(layout, ANY, data)
    text = push(layout, ANY, b'{"mediaType":"application/json"}')
    large = push(layout, ANY, b" " * (MAX_MANIFEST_BYTES + 1))
    index = index_bytes([Descriptor.of(data, MEDIA_TYPE_MANIFEST)])
    layout.push_manifest(ANY, index, MEDIA_TYPE_INDEX, tags=("index",))
    assert len(entries(folder)) == 1
    assert read_all(layout.get_manifest(ANY, nested.digest), 10_000) == (
        data,
        Descriptor.of(data, MEDIA_TYPE_MANIFEST),
    )
    for other in (text, large):
        with pytest.raises(ManifestUnknown):
            layout.get_manifest(ANY, other.digest)


def test_layout_does_not_delete_a_manifest_as_a_blob(layout: LayoutRegistry) -> None:
    pushed = push_manifest(layout, ANY, "m")
    with pytest.raises(BlobUnknown, match="is a manifest"):
        layout.delete_blob(ANY, pushed.digest)
    assert layout.resolve_manifest(ANY, pushed.digest) == pushed.bare()


def test_layout_deletes_the_file_of_a_manifest(layout: LayoutRegistry, folder: Path) -> None:
    pushed = push_manifest(layout, ANY, "m", tags=("a", "b"))
    layout.delete_manifest(ANY, pushed.digest)
    assert entries(folder) == []
    assert not blob_file(folder, pushed.digest).exists()
    with pytest.raises(ManifestUnknown):
        layout.resolve_manifest(ANY, pushed.digest)


def test_layout_stores_content_of_other_algorithms(layout: LayoutRegistry, folder: Path) -> None:
    sha512 = Digest("sha512:" + hashlib.sha512(b"data").hexdigest())
    descriptor = Descriptor(media_type="text/plain", digest=sha512, size=4)
    layout.push_blob(ANY, descriptor, lambda: io.BytesIO(b"data"))
    assert (folder / "blobs" / "sha512" / sha512.partition(":")[2]).read_bytes() == b"data"
    upload = layout.upload(ANY)
    upload.write(b"data")
    assert upload.commit(sha512).size == 4


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()])
def test_layout_keeps_nothing_of_a_push_that_broke_off(
    layout: LayoutRegistry, folder: Path, error: BaseException
) -> None:
    class Breaks(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() > 0:
                raise error
            return super().read(5)

    descriptor = Descriptor.of(b"some bytes", "text/plain")
    with pytest.raises(type(error)):
        layout.push_blob(ANY, descriptor, lambda: Breaks(b"some bytes"))
    assert list((folder / ".dockercomms" / "incoming").iterdir()) == []
    assert not blob_file(folder, descriptor.digest).exists()


def test_layout_that_cannot_be_written_is_still_read(layout: LayoutRegistry, folder: Path) -> None:
    pushed = push_manifest(layout, ANY, "m", tags=("v1",), subject=SUBJECT)
    os.rename(folder / ".dockercomms", folder / "elsewhere")
    (folder / ".dockercomms").touch()
    other = LayoutRegistry(folder)
    assert list(other.tags(ANY)) == ["v1"]
    assert read_all(other.get_tag(ANY, "v1"), 10_000)[1] == pushed.bare()
    assert [found.digest for found in other.referrers(ANY, SUBJECT.digest)] == [pushed.digest]
    for write in (*WRITES.values(), READS["delete_manifest"]):
        with pytest.raises(LocalIOError):
            write(other)


def test_layout_push_reads_no_other_manifest(layout: LayoutRegistry, folder: Path) -> None:
    for number in range(3):
        pushed = push_manifest(layout, ANY, f"m{number}", tags=(f"m{number}",), subject=SUBJECT)
        blob_file(folder, pushed.digest).unlink()
        os.mkfifo(blob_file(folder, pushed.digest))  # an error to whoever opens it
    other = LayoutRegistry(folder)
    push_manifest(other, ANY, "new", tags=("new",), subject=SUBJECT)
    other.delete_tag(ANY, "m0")
    assert list(other.tags(ANY)) == ["m1", "m2", "new"]


def test_layout_at_a_path_that_cannot_be_is_a_local_error(tmp_path: Path) -> None:
    layout = LayoutRegistry(tmp_path / ("x" * 300), create=True)
    for use in (layout.exists, lambda: list(layout.tags(ANY)), lambda: push(layout, ANY, b"x")):
        with pytest.raises(LocalIOError, match="File name too long"):
            use()


# --- referrers -----------------------------------------------------------------------------------


def test_layout_referrers_read_each_manifest_once(layout: LayoutRegistry, folder: Path) -> None:
    pushed = push_manifest(layout, ANY, "r", subject=SUBJECT)
    other = LayoutRegistry(folder)
    assert len(list(other.referrers(ANY, SUBJECT.digest))) == 1
    blob_file(folder, pushed.digest).unlink()
    assert len(list(other.referrers(ANY, SUBJECT.digest))) == 1
    assert list(LayoutRegistry(folder).referrers(ANY, SUBJECT.digest)) == []


def test_layout_referrers_do_not_read_what_refers_to_others(
    layout: LayoutRegistry, folder: Path
) -> None:
    pushed = push_manifest(layout, ANY, "other", subject=EMPTY_CONFIG)
    blob_file(folder, pushed.digest).unlink()
    os.mkfifo(blob_file(folder, pushed.digest))  # an error to whoever opens it
    assert list(LayoutRegistry(folder).referrers(ANY, SUBJECT.digest)) == []
    with pytest.raises(LocalIOError):
        list(LayoutRegistry(folder).referrers(ANY, EMPTY_CONFIG.digest))


def test_layout_referrers_do_not_believe_an_entry(layout: LayoutRegistry, folder: Path) -> None:
    push_manifest(layout, ANY, "says no such thing")
    index = json.loads((folder / "index.json").read_bytes())
    index["manifests"][0]["annotations"] = {ANNOTATION_SUBJECT: SUBJECT.digest}
    (folder / "index.json").write_text(json.dumps(index))
    assert list(layout.referrers(ANY, SUBJECT.digest)) == []


def test_layout_referrers_of_entries_without_a_hint_are_found(
    layout: LayoutRegistry, folder: Path
) -> None:
    pushed = push_manifest(layout, ANY, "r", subject=SUBJECT)
    push_manifest(layout, ANY, "no referrer")
    text = push(layout, ANY, b"no manifest at all")
    index = json.loads((folder / "index.json").read_bytes())
    del index["manifests"][0]["annotations"]
    index["manifests"].append({**text.to_json(), "mediaType": "text/plain"})
    (folder / "index.json").write_text(json.dumps(index))
    (found,) = LayoutRegistry(folder).referrers(ANY, SUBJECT.digest)
    assert found.bare() == pushed.bare()
    assert found.annotations == {"example.name": "r"}


def test_layout_referrers_show_a_damaged_one_by_its_claim(
    layout: LayoutRegistry, folder: Path
) -> None:
    broken = push_manifest(layout, ANY, "broken", subject=SUBJECT, artifact_type="a/b")
    whole = push_manifest(layout, ANY, "whole", subject=SUBJECT, artifact_type="a/b")
    blob_file(folder, broken.digest).write_bytes(b"damaged")
    push_manifest(layout, ANY, "unrelated")
    found = list(LayoutRegistry(folder).referrers(ANY, SUBJECT.digest, artifact_type="a/b"))
    assert [entry.digest for entry in found] == [broken.digest, whole.digest]
    assert found[0].annotations == {}
    # Damaged, and without a claim: nothing says that it refers to anything.
    index = json.loads((folder / "index.json").read_bytes())
    del index["manifests"][0]["annotations"]
    (folder / "index.json").write_text(json.dumps(index))
    found = list(LayoutRegistry(folder).referrers(ANY, SUBJECT.digest))
    assert [entry.digest for entry in found] == [whole.digest]


def test_layout_referrers_find_what_another_tool_lists_by_the_tag_schema(
    layout: LayoutRegistry, folder: Path
) -> None:
    ours = push_manifest(layout, ANY, "ours", subject=SUBJECT)
    theirs = push(layout, ANY, manifest_bytes("theirs", subject=SUBJECT))
    liar = push(layout, ANY, manifest_bytes("liar"))
    gone = push(layout, ANY, manifest_bytes("gone", subject=SUBJECT))
    listed = [
        Descriptor(media_type=MEDIA_TYPE_MANIFEST, digest=entry.digest, size=entry.size)
        for entry in (gone, ours, theirs, liar, theirs)
    ]
    layout.push_manifest(
        ANY, index_bytes(listed), MEDIA_TYPE_INDEX, tags=(referrers_tag(SUBJECT.digest),)
    )
    blob_file(folder, gone.digest).unlink()
    found = list(LayoutRegistry(folder).referrers(ANY, SUBJECT.digest))
    assert [entry.digest for entry in found] == [ours.digest, theirs.digest]
    assert found[1].media_type == MEDIA_TYPE_MANIFEST
    assert found[1].annotations == {"example.name": "theirs"}


def test_layout_referrers_do_without_a_damaged_tag_schema_index(
    layout: LayoutRegistry, folder: Path
) -> None:
    ours = push_manifest(layout, ANY, "ours", subject=SUBJECT)
    index = layout.push_manifest(
        ANY, index_bytes([ours]), MEDIA_TYPE_INDEX, tags=(referrers_tag(SUBJECT.digest),)
    )
    blob_file(folder, index.digest).write_bytes(b"damaged")
    assert len(list(LayoutRegistry(folder).referrers(ANY, SUBJECT.digest))) == 1
    blob_file(folder, index.digest).unlink()
    assert len(list(LayoutRegistry(folder).referrers(ANY, SUBJECT.digest))) == 1


def test_layout_referrers_remember_a_bounded_number(layout: LayoutRegistry, folder: Path) -> None:
    small = LayoutRegistry(folder, max_remembered=2)
    pushed = [push_manifest(layout, ANY, f"r{number}", subject=SUBJECT) for number in range(5)]
    for _ in range(2):
        found = list(small.referrers(ANY, SUBJECT.digest))
        assert [entry.digest for entry in found] == [entry.digest for entry in pushed]


def test_layout_mounts_what_it_has(layout: LayoutRegistry) -> None:
    mounted = layout.mount_blob(ANY, EMPTY_CONFIG.digest, source="other")
    assert mounted is not None
    assert mounted.size == 2
    assert layout.mount_blob(ANY, digest_of(b"missing"), source="other") is None

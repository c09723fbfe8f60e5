"""`reg get` and `reg pull`."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Mapping
from typing import Any

import pytest

from dockercomms.cli.reg.output import watched
from dockercomms.oci.model import (
    EMPTY_CONFIG,
    EMPTY_CONFIG_BYTES,
    MEDIA_TYPE_IMAGE_LAYER_GZIP,
    MEDIA_TYPE_MANIFEST,
    Descriptor,
)
from dockercomms.oci.strict_json import canonical_json
from tests.fakes.images import Built, image, push_tree
from tests.fakes.registry import FakeRegistry
from tests.unit.cli.conftest import Box

TITLE = "org.opencontainers.image.title"


def files(content: Mapping[str, bytes], *, titled: bool = True) -> Built:
    """Return an artifact with a layer for each file."""
    blobs = [(EMPTY_CONFIG, EMPTY_CONFIG_BYTES)]
    layers = []
    for name, data in content.items():
        descriptor = Descriptor.of(data, "text/plain", annotations={TITLE: name} if titled else {})
        blobs.append((descriptor, data))
        layers.append(descriptor.to_json())
    fields: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MEDIA_TYPE_MANIFEST,
        "artifactType": "application/x-files",
        "config": EMPTY_CONFIG.to_json(),
        "layers": layers,
    }
    return Built(canonical_json(fields), tuple(blobs))


def archive(content: Mapping[str, bytes]) -> Built:
    """Return an artifact of one gzipped tar."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    packed = gzip.compress(file.getvalue())
    descriptor = Descriptor.of(packed, MEDIA_TYPE_IMAGE_LAYER_GZIP)
    fields: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MEDIA_TYPE_MANIFEST,
        "config": EMPTY_CONFIG.to_json(),
        "layers": [descriptor.to_json()],
    }
    blobs = ((EMPTY_CONFIG, EMPTY_CONFIG_BYTES), (descriptor, packed))
    return Built(canonical_json(fields), blobs)


# --- get -----------------------------------------------------------------------------------------


def test_get_writes_every_file_into_a_folder_that_it_makes(box: Box) -> None:
    built = files({"a.txt": b"one", "sub/b.txt": b"two"})
    pushed = box.push(built, "v1")
    result = box.ok("get", f"{box.base}:v1", "-o", "new/site")
    site = box.folder / "new" / "site"
    assert (site / "a.txt").read_bytes() == b"one"
    assert (site / "sub" / "b.txt").read_bytes() == b"two"
    digests = [one.digest for one, _ in built.blobs[1:]]
    assert result.stdout.splitlines() == [
        f"{site}/a.txt\t3\t{digests[0]}",
        f"{site}/sub/b.txt\t3\t{digests[1]}",
    ]
    assert result.stderr == "got 2 files\n"
    (row, _) = box.rows("get", f"{box.base}:v1", "-o", "new/site", "--overwrite")
    assert row == {
        "schema": "dockercomms/reg-get/v1",
        "reference": f"{box.place}:v1",
        "manifest": pushed.digest,
        "digest": digests[0],
        "media_type": "text/plain",
        "bytes": 3,
        "title": "a.txt",
        "path": f"{site}/a.txt",
    }


def test_get_never_replaces_a_file_by_itself(box: Box) -> None:
    box.push(files({"a.txt": b"new", "b.txt": b"new"}), "v1")
    box.file("b.txt", b"mine")
    result = box.reg("get", f"{box.base}:v1")
    assert result.exit_code == 8
    assert "--overwrite" in result.stderr
    assert (box.folder / "b.txt").read_bytes() == b"mine"
    assert not (box.folder / "a.txt").exists()
    box.ok("get", f"{box.base}:v1", "--overwrite")
    assert (box.folder / "b.txt").read_bytes() == b"new"


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "a\\b"])
def test_get_refuses_a_name_that_leads_out_and_leaves_nothing(box: Box, name: str) -> None:
    box.push(files({"good": b"x", name: b"evil"}), "v1")
    result = box.reg("get", f"{box.base}:v1", "-o", "out")
    assert result.exit_code == 4
    assert not (box.folder / "out").exists()


def test_get_leaves_nothing_where_a_layer_is_missing(remote: Box, fake: FakeRegistry) -> None:
    built = files({"a": b"one", "b": b"two"})
    remote.push(built, "v1")
    fake.remove_blob("team/app", built.blobs[2][0].digest)
    assert remote.reg("get", f"{remote.base}:v1", "-o", "out").exit_code == 5
    assert not (remote.folder / "out").exists()
    (remote.folder / "out").mkdir()
    assert remote.reg("get", f"{remote.base}:v1", "-o", "out").exit_code == 5
    assert list((remote.folder / "out").iterdir()) == []


def test_get_of_layers_without_names_has_to_be_asked_for(box: Box) -> None:
    built = image()
    box.push(built, "v1")
    refused = box.reg("get", f"{box.base}:v1", "-o", "out")
    assert refused.exit_code == 64
    assert "2 of 2 layers without a file name" in refused.stderr
    box.ok("get", f"{box.base}:v1", "-o", "out", "--all")
    names = {path.name for path in (box.folder / "out").iterdir()}
    assert names == {one.digest.replace(":", "-") for one, _ in built.blobs[1:]}


def test_get_takes_the_entry_of_a_platform(box: Box) -> None:
    other = image(2, architecture="s390x")
    push_tree(box.store, box.name, [image(1), other], "v1")
    words = ["get", f"{box.base}:v1", "--all", "-o", "out", "--platform", "linux/s390x"]
    assert {row["manifest"] for row in box.rows(*words)} == {other.descriptor.digest}


def test_get_on_a_terminal_is_a_table(box: Box) -> None:
    box.push(files({"a.txt": b"one"}), "v1")
    assert "FILE" in box.ok("get", f"{box.base}:v1", tty=True).stdout


def test_get_into_a_file_is_8(box: Box) -> None:
    box.push(files({"a.txt": b"one"}), "v1")
    box.file("out", b"")
    assert box.reg("get", f"{box.base}:v1", "-o", "out").exit_code == 8


# --- pull ----------------------------------------------------------------------------------------


def test_pull_takes_a_file_by_the_title_of_its_layer(box: Box) -> None:
    built = files({"bin/tool": b"the tool", "readme": b"read"})
    pushed = box.push(built, "v1")
    result = box.ok("pull", f"{box.base}:v1", "--file", "bin/tool")
    assert result.raw == b"the tool"
    found = box.json("pull", f"{box.base}:v1", "--file", "tool", "--path", "bin", "-o", "t")
    assert found == {
        "schema": "dockercomms/reg-pull/v1",
        "reference": f"{box.place}:v1",
        "manifest": pushed.digest,
        "layer": built.blobs[1][0].digest,
        "member": None,
        "bytes": 8,
        "path": str(box.folder / "t"),
    }
    assert (box.folder / "t").read_bytes() == b"the tool"


def test_pull_takes_a_file_out_of_a_tar(box: Box) -> None:
    box.push(archive({"etc/motd": b"hello", "usr/bin/tool": b"tool"}), "v1")
    result = box.ok("pull", f"{box.base}:v1", "--file", "usr/bin/tool")
    assert result.raw == b"tool"
    assert result.stderr.endswith(" as usr/bin/tool\n")
    beside = box.ok("pull", f"{box.base}:v1", "--file", "motd", "--json")
    assert (beside.raw, json.loads(beside.stderr)["member"]) == (b"hello", "etc/motd")


def test_pull_without_a_name_takes_the_only_layer(box: Box) -> None:
    box.push(files({"x": b"all"}, titled=False), "v1")
    assert box.ok("pull", f"{box.base}:v1").raw == b"all"
    box.push(files({"x": b"1", "y": b"2"}), "v2")
    assert box.reg("pull", f"{box.base}:v2").exit_code == 64


def test_pull_of_a_file_that_is_not_in_it_is_5_and_leaves_what_was_there(box: Box) -> None:
    box.push(archive({"a": b"x"}), "v1")
    box.file("out", b"before")
    result = box.reg("pull", f"{box.base}:v1", "--file", "b", "-o", "out")
    assert result.exit_code == 5
    assert "reg inspect" in result.stderr
    assert (box.folder / "out").read_bytes() == b"before"
    assert sorted(path.name for path in box.folder.iterdir()) in (["box", "out"], ["out"])
    missing = box.reg("pull", f"{box.base}:no", "--file", "b", "-o", "out")
    assert "reg tags" in missing.stderr


def test_pull_is_bounded_and_kept_from_a_terminal(box: Box) -> None:
    box.push(archive({"a": b"x" * 100}), "v1")
    assert box.reg("pull", f"{box.base}:v1", "--file", "a", "--max-size", "99").exit_code == 9
    assert box.ok("pull", f"{box.base}:v1", "--file", "a", "--max-size", "100").raw == b"x" * 100
    assert box.reg("pull", f"{box.base}:v1", "--file", "a", tty=True).exit_code == 64


def test_pull_shows_how_far_a_long_layer_is(layout: Box) -> None:
    layout.push(files({"long": bytes(17 * 2**20)}), "v1")
    result = layout.ok("pull", f"{layout.base}:v1", "--file", "long")
    assert "searching: 100 %" in result.stderr
    assert len(result.raw) == 17 * 2**20


def test_a_watched_store_is_otherwise_what_it_is(layout: Box) -> None:
    seen: list[tuple[int, int]] = []
    digest = layout.push_blob(b"hello")
    store = watched(layout.store, lambda *now: seen.append(now))
    assert store.resolve_blob("", digest).size == 5
    with store.get_blob("", digest) as reader:
        assert (reader.descriptor.size, reader.read(2), reader.read()) == (5, b"he", b"llo")
    assert seen == [(2, 5), (5, 5)]

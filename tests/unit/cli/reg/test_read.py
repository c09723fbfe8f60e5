"""`reg manifest`, `reg blob`, `reg index`."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from random import Random

import pytest

from dockercomms.cli.reg.read import parse_range
from dockercomms.errors import UsageError
from dockercomms.oci.model import digest_of
from tests.fakes.images import Built, artifact, image, push_tree
from tests.fakes.registry import FakeRegistry, Fault, Quirks
from tests.unit.cli.conftest import MISSING, Box

BLOB = Random(5).randbytes(3000)


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "box")


# --- manifest ------------------------------------------------------------------------------------


def test_manifest_prints_the_very_bytes(box: Box) -> None:
    built = image()
    pushed = box.push(built, "v1")
    for end in (":v1", f"@{pushed.digest}"):
        result = box.ok("manifest", box.base + end)
        assert (result.raw, result.stderr) == (built.data, "")
    assert box.ok("manifest", f"{box.base}:v1", "-o", "m.json").raw == b""
    assert (box.folder / "m.json").read_bytes() == built.data


def test_manifest_as_json_stands_in_an_object(box: Box) -> None:
    built = image()
    box.push(built, "v1")
    found = box.json("manifest", f"{box.base}:v1")
    assert found["manifest"] == json.loads(built.data)
    assert (found["digest"], found["path"]) == (built.descriptor.digest, None)
    assert box.json("manifest", f"{box.base}:v1", "-o", "m")["path"] == str(box.folder / "m")
    assert (box.folder / "m").read_bytes() == built.data


def test_manifest_takes_the_entry_of_a_platform(box: Box) -> None:
    other = image(2, architecture="arm64")
    push_tree(box.store, box.name, [image(1), other], "v1")
    assert box.ok("manifest", f"{box.base}:v1", "--platform", "linux/arm64").raw == other.data


def test_manifest_on_a_terminal_is_indented_and_harmless(box: Box) -> None:
    built = artifact("evil \x9b \u202e")
    box.push(built, "v1")
    shown = box.ok("manifest", f"{box.base}:v1", tty=True)
    assert shown.raw.isascii()
    assert b"\x1b" not in shown.raw
    assert json.loads(shown.stdout) == json.loads(built.data)
    assert shown.stdout.startswith('{\n  "')


def test_manifest_that_is_not_strict_json_is_kept_from_a_terminal(remote: Box) -> None:
    assert remote.fake is not None
    data = b'{"mediaType": "application/vnd.oci.image.manifest.v1+json", "a": 1, "a": 2}'
    remote.fake.put_manifest_raw("team/app", data, tag="v1")
    result = remote.reg("manifest", f"{remote.base}:v1", tty=True)
    assert (result.exit_code, result.stdout) == (64, "")
    assert remote.ok("manifest", f"{remote.base}:v1").raw == data
    assert remote.reg("manifest", f"{remote.base}:v1", "--json").exit_code == 4


# --- blob ----------------------------------------------------------------------------------------


def test_blob_goes_to_standard_output_or_a_file(box: Box) -> None:
    digest = box.push_blob(BLOB)
    result = box.ok("blob", f"{box.base}@{digest}")
    assert (result.raw, result.stderr) == (BLOB, "got 2.9 KiB\n")
    assert box.ok("blob", f"{box.base}@{digest}", "-o", "-", "-q").raw == BLOB
    target = box.file("out.bin", b"what was there before")
    assert box.ok("blob", f"{box.base}@{digest}", "-o", "out.bin").raw == b""
    assert target.read_bytes() == BLOB
    assert leftovers(box.folder) == ["out.bin"]


@pytest.mark.parametrize(
    ("text", "start", "stop"),
    [("0-0", 0, 1), ("10-19", 10, 20), ("2990-", 2990, 3000), ("2990-9999", 2990, 3000)],
)
def test_blob_gives_a_part(box: Box, text: str, start: int, stop: int) -> None:
    digest = box.push_blob(BLOB)
    result = box.ok("blob", f"{box.base}@{digest}", "--range", text)
    assert result.raw == BLOB[start:stop]
    assert "of 2.9 KiB" in result.stderr
    words = ["blob", f"{box.base}@{digest}", "--range", text, "-o", "part"]
    assert box.json(*words) == {
        "schema": "dockercomms/reg-blob/v1",
        "reference": f"{box.place}@{digest}",
        "digest": digest,
        "size": 3000,
        "first_byte": start,
        "bytes": stop - start,
        "path": str(box.folder / "part"),
    }
    assert (box.folder / "part").read_bytes() == BLOB[start:stop]


def test_blob_says_its_record_beside_the_content(box: Box) -> None:
    digest = box.push_blob(BLOB)
    result = box.ok("blob", f"{box.base}@{digest}", "--json")
    assert result.raw == BLOB
    record = json.loads(result.stderr)
    assert (record["bytes"], record["first_byte"], record["path"]) == (3000, 0, None)


def test_range_behind_the_end_is_an_error_and_leaves_nothing(box: Box) -> None:
    digest = box.push_blob(BLOB)
    result = box.reg("blob", f"{box.base}@{digest}", "--range", "3000-", "-o", "part")
    assert result.exit_code == 1
    assert leftovers(box.folder) == []


@pytest.mark.parametrize(
    "text", ["", "-", "-5", "5", "9-3", "a-b", "1-2-3", "0-1,3-4", "٣-4", "1" * 20 + "-"]
)
def test_parse_range_refuses(text: str) -> None:
    with pytest.raises(UsageError, match="first and the last byte"):
        parse_range(text)


@pytest.mark.parametrize(("text", "span"), [("0-0", (0, 1)), ("5-", (5, None)), ("3-9", (3, 10))])
def test_parse_range_reads_ranges_as_curl_has_them(text: str, span: object) -> None:
    assert parse_range(text) == span


def test_blob_needs_a_digest_and_no_tag(box: Box) -> None:
    digest = box.push_blob(BLOB)
    for end in ("", ":v1", f":v1@{digest}"):
        result = box.reg("blob", box.base + end)
        assert result.exit_code == 64
        assert "a digest is needed" in result.stderr


def test_blob_is_kept_from_a_terminal_before_anything_is_asked(remote: Box) -> None:
    assert remote.fake is not None
    result = remote.reg("blob", f"{remote.base}@{MISSING}", tty=True)
    assert (result.exit_code, result.raw) == (64, b"")
    assert "terminal" in result.stderr
    assert remote.fake.count() == 0
    digest = remote.push_blob(BLOB)
    remote.ok("blob", f"{remote.base}@{digest}", "-o", "x", tty=True)


def test_blob_that_is_not_there_is_5_and_leaves_nothing(box: Box) -> None:
    box.push_blob(BLOB)
    assert box.reg("blob", f"{box.base}@{MISSING}", "-o", "x").exit_code == 5
    assert leftovers(box.folder) == []


def test_blob_with_other_content_is_4_and_leaves_nothing(remote: Box) -> None:
    assert remote.fake is not None
    digest = remote.fake.put_blob_raw("team/app", b"evil", digest=digest_of(b"good"))
    remote.file("x", b"before")
    assert remote.reg("blob", f"{remote.base}@{digest}", "-o", "x").exit_code == 4
    assert (remote.folder / "x").read_bytes() == b"before"
    assert leftovers(remote.folder) == ["x"]


def test_output_goes_through_links_into_devices_and_never_over_a_folder(box: Box) -> None:
    digest = box.push_blob(BLOB)
    reference = f"{box.base}@{digest}"
    (box.folder / "link").symlink_to(box.folder / "target")
    box.ok("blob", reference, "-o", "link")
    assert (box.folder / "link").is_symlink()
    assert (box.folder / "target").read_bytes() == BLOB
    box.ok("blob", reference, "-o", os.devnull)
    assert Path(os.devnull).is_char_device()
    (box.folder / "folder").mkdir()
    assert box.reg("blob", reference, "-o", "folder").exit_code == 8
    assert box.reg("blob", reference, "-o", "none/x").exit_code == 8


def test_output_into_a_fifo_is_written_as_it_comes(box: Box) -> None:
    digest = box.push_blob(BLOB)
    os.mkfifo(box.folder / "pipe")
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append((box.folder / "pipe").read_bytes()))
    reader.start()
    box.ok("blob", f"{box.base}@{digest}", "-o", "pipe")
    reader.join()
    assert got == [BLOB]


def test_full_disk_is_8(box: Box) -> None:
    digest = box.push_blob(BLOB)
    assert box.reg("blob", f"{box.base}@{digest}", "-o", "/dev/full").exit_code == 8


def test_a_long_blob_shows_how_far_it_is(layout: Box) -> None:
    digest = layout.push_blob(bytes(17 * 2**20))
    said = layout.ok("blob", f"{layout.base}@{digest}", "-o", os.devnull).stderr
    assert said.splitlines()[0].startswith("getting: 1")
    assert "getting: 100 %" in said
    quiet = layout.ok("blob", f"{layout.base}@{digest}", "-o", os.devnull, "-q")
    assert quiet.stderr == ""


def test_a_range_that_the_server_ignores_is_cut_here(quiet_machine: Path) -> None:
    from tests.cli.harness import invoke

    with FakeRegistry(Quirks(range_get="ignored")) as fake:
        digest = fake.put_blob_raw("a/b", BLOB)
        result = invoke(["reg", "blob", f"{fake.host}/a/b@{digest}", "--range", "5-9"])
        assert result.raw == BLOB[5:10]


def test_a_passing_failure_is_told_and_bounded(remote: Box) -> None:
    from tests.fakes.clock import FakeClock

    assert remote.fake is not None
    remote.fake.fail_when(lambda _: True, Fault.answer(503), times=1000)
    words = ["blob", f"{remote.base}@{MISSING}", "--retry-max-time", "2s"]
    result = remote.reg(*words, clock=FakeClock())
    assert result.exit_code == 6
    assert "retrying in" in result.stderr
    assert 1 < remote.fake.count() < 6


# --- index ---------------------------------------------------------------------------------------


def test_index_makes_an_index_of_an_image(box: Box) -> None:
    pushed = box.push(image(), "v1")
    result = box.ok("index", f"{box.base}:v1")
    index = json.loads(result.raw)
    (entry,) = index["manifests"]
    assert entry["digest"] == pushed.digest
    assert entry["platform"] == {"architecture": "amd64", "os": "linux"}
    assert entry["annotations"] == {
        "com.docker.official-images.bashbrew.arch": "amd64",
        "org.opencontainers.image.ref.name": f"{box.place}:v1@{pushed.digest}",
    }
    found = box.json("index", f"{box.base}:v1", "-o", "i", "--arch-annotation", "arch")
    assert found["index"]["manifests"][0]["annotations"]["arch"] == "amd64"
    stored = (box.folder / "i").read_bytes()
    assert (found["digest"], found["size"]) == (digest_of(stored), len(stored))


def test_index_of_what_is_not_there_is_5(box: Box) -> None:
    box.push(image(), "v1")
    assert box.reg("index", f"{box.base}:no").exit_code == 5


def test_index_refused_is_3(remote: Box) -> None:
    assert remote.fake is not None
    remote.fake.fail_when(lambda _: True, Fault.answer(403), times=9)
    assert remote.reg("index", f"{remote.base}:v1").exit_code == 3


def test_index_can_be_pushed(box: Box) -> None:
    box.push(image(), "v1")
    made = box.ok("index", f"{box.base}:v1").raw
    box.ok("put-manifest", f"{box.base}:index", "-", stdin=made)
    assert box.ok("manifest", f"{box.base}:index").raw == made
    assert Built(made, ()).descriptor.size == len(made)

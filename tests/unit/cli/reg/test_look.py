"""`reg resolve`, `reg exists`, `reg inspect`."""

from __future__ import annotations

import pytest

from dockercomms.oci.model import EMPTY_CONFIG, Platform
from tests.fakes.images import artifact, image, push_tree
from tests.fakes.registry import FakeRegistry, Fault
from tests.unit.cli.conftest import MISSING, Box

# --- resolve -------------------------------------------------------------------------------------


def test_resolve_prints_the_digest_and_nothing_else(box: Box) -> None:
    pushed = box.push(image(), "v1", "latest")
    for end in (":v1", "", f"@{pushed.digest}", f":other@{pushed.digest}"):
        result = box.ok("resolve", box.base + end)
        assert (result.stdout, result.stderr) == (f"{pushed.digest}\n", "")
    assert box.json("resolve", f"{box.base}:v1") == {
        "schema": "dockercomms/reg-resolve/v1",
        "reference": f"{box.place}:v1",
        "media_type": pushed.media_type,
        "digest": pushed.digest,
        "size": pushed.size,
        "platform": None,
        "artifact_type": None,
        "annotations": {},
    }


def test_resolve_takes_the_entry_of_a_platform(box: Box) -> None:
    one, other = image(1), image(2, architecture="arm64")
    push_tree(box.store, box.name, [one, other], "v1")
    words = ["resolve", f"{box.base}:v1", "--platform", "linux/arm64"]
    assert box.ok(*words).stdout == f"{other.descriptor.digest}\n"
    assert box.json(*words)["platform"] == "linux/arm64"
    missing = box.reg("resolve", f"{box.base}:v1", "--platform", "linux/s390x")
    assert missing.exit_code == 5
    assert "linux/amd64, linux/arm64" in missing.stderr
    assert box.reg("resolve", f"{box.base}:v1", "--platform", "linux").exit_code == 64


def test_resolve_tells_about_a_blob(box: Box) -> None:
    digest = box.push_blob(b"hello")
    words = ["resolve", f"{box.base}@{digest}", "--blob"]
    assert box.ok(*words).stdout == f"{digest}\n"
    assert box.json(*words)["size"] == 5
    assert box.reg("resolve", f"{box.base}:v1", "--blob").exit_code == 64
    assert box.reg(*words, "--platform", "linux/amd64").exit_code == 64
    assert box.reg("resolve", f"{box.base}@{MISSING}", "--blob").exit_code == 5


def test_resolve_of_what_is_not_there_is_5(box: Box) -> None:
    box.push(image(), "v1")
    for end in (":no", f"@{MISSING}"):
        assert box.reg("resolve", box.base + end).exit_code == 5


# --- exists --------------------------------------------------------------------------------------


def test_exists_answers_by_its_exit_code(box: Box) -> None:
    pushed = box.push(image(), "v1")
    blob = box.push_blob(b"hello")
    there = box.ok("exists", f"{box.base}:v1")
    assert (there.stdout, there.stderr) == ("", f"{box.place}:v1: there, {pushed.digest}\n")
    assert box.ok("exists", f"{box.base}@{blob}", "--blob", "-q").stderr == ""
    gone = box.reg("exists", f"{box.base}:no")
    assert (gone.exit_code, gone.stdout) == (5, "")
    assert gone.stderr == f"{box.place}:no: not there\n"
    assert box.reg("exists", f"{box.base}@{MISSING}", "--blob").exit_code == 5
    assert box.json("exists", f"{box.base}:v1") == {
        "schema": "dockercomms/reg-exists/v1",
        "reference": f"{box.place}:v1",
        "exists": True,
        "digest": pushed.digest,
    }


@pytest.mark.parametrize(("status", "code"), [(401, 3), (403, 3), (418, 1)])
def test_exists_takes_no_refusal_for_an_answer(
    remote: Box, fake: FakeRegistry, status: int, code: int
) -> None:
    fake.fail_when(lambda request: "/manifests/" in request.target, Fault.answer(status), times=9)
    assert remote.reg("exists", f"{remote.base}:v1").exit_code == code


# --- inspect -------------------------------------------------------------------------------------


def test_inspect_describes_an_image(box: Box) -> None:
    built = image(7)
    pushed = box.push(built, "v1")
    found = box.json("inspect", f"{box.base}:v1")
    assert found["digest"] == pushed.digest
    assert found["platform"] == "linux/amd64"
    assert found["labels"] == {"seed": "7"}
    assert [layer["digest"] for layer in found["layers"]] == [
        one.digest for one, _ in built.blobs[1:]
    ]
    assert found["config"]["digest"] == built.blobs[0][0].digest
    assert (found["entries"], found["is_index"], found["subject"]) == ([], False, None)
    shown = dict(
        line.split("\t") for line in box.ok("inspect", f"{box.base}:v1").stdout.splitlines()
    )
    assert shown["reference"] == f"{box.place}:v1"
    assert shown["label"] == "seed=7"
    plain = box.json("inspect", f"{box.base}:v1", "--no-labels")
    assert (plain["labels"], plain["platform"]) == ({}, None)


def test_inspect_describes_an_index_and_its_entries(box: Box) -> None:
    children = [image(1), image(2, architecture="arm64")]
    push_tree(box.store, box.name, children, "v1")
    found = box.json("inspect", f"{box.base}:v1")
    assert found["is_index"] is True
    assert [entry["platform"] for entry in found["entries"]] == ["linux/amd64", "linux/arm64"]
    shown = box.ok("inspect", f"{box.base}:v1").stdout
    assert shown.count("entry\t") == 2
    assert f"{children[1].descriptor.digest} linux/arm64" in shown
    one = box.json("inspect", f"{box.base}:v1", "--platform", "linux/arm64/v8")
    assert one["digest"] == children[1].descriptor.digest


def test_inspect_describes_an_artifact_with_a_subject(box: Box) -> None:
    subject = box.push(image())
    box.push(artifact("x", subject=subject), "sig")
    found = box.json("inspect", f"{box.base}:sig")
    assert found["subject"]["digest"] == subject.digest
    assert found["config"]["digest"] == EMPTY_CONFIG.digest
    assert found["annotations"] == {"name": "x"}
    table = box.ok("inspect", f"{box.base}:sig", tty=True).stdout
    assert "artifact   application/vnd.example.signature.v1\n" in table
    assert "subject    sha256:" in table
    assert "annotation name=x\n" in table


def test_inspect_shows_labels_harmless(box: Box) -> None:
    import json

    from dockercomms.oci.model import MEDIA_TYPE_IMAGE_CONFIG, Descriptor
    from tests.fakes.images import Built

    config = json.dumps(
        {"os": "linux", "architecture": "amd64", "config": {"Labels": {"a\x1b[2J": "b\r\nc"}}}
    ).encode()
    descriptor = Descriptor.of(config, MEDIA_TYPE_IMAGE_CONFIG)
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor.to_json(),
        "layers": [],
    }
    box.push(Built(json.dumps(manifest).encode(), ((descriptor, config),)), "v1")
    for tty in (False, True):
        shown = box.ok("inspect", f"{box.base}:v1", tty=tty).stdout
        assert r"a\x1b[2J=b\r\nc" in shown


def test_platform_without_an_index_is_5(box: Box) -> None:
    box.push(image(), "v1")
    assert box.reg("inspect", f"{box.base}:v1", "--platform", "linux/amd64").exit_code == 5
    assert Platform.parse("linux/amd64")

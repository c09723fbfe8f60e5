"""`reg put-manifest`, `reg tag`, `reg delete`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dockercomms.cli.reg.write import media_type_of
from dockercomms.errors import UsageError
from dockercomms.oci.model import MEDIA_TYPE_INDEX, MEDIA_TYPE_MANIFEST, digest_of
from dockercomms.oci.reference import referrers_tag
from tests.cli.harness import invoke
from tests.fakes.images import Built, artifact, image, index_of, push_tree
from tests.fakes.registry import DISTRIBUTION, FakeRegistry, Quirks
from tests.unit.cli.conftest import MISSING, Box


def push_blobs(box: Box, built: Built) -> None:
    for _, data in built.blobs:
        box.push_blob(data)


# --- put-manifest --------------------------------------------------------------------------------


def test_put_manifest_pushes_the_very_bytes_under_every_tag(box: Box) -> None:
    built = image()
    push_blobs(box, built)
    path = box.file("m.json", built.data)
    result = box.ok("put-manifest", f"{box.base}:v1", str(path), "--tag", "v2", "--tag", "v3")
    assert result.stdout == f"{built.descriptor.digest}\n"
    assert result.stderr == f"pushed to {box.place}: v1, v2, v3\n"
    assert box.tags() == ["v1", "v2", "v3"]
    assert box.ok("manifest", f"{box.base}:v3").raw == built.data


def test_put_manifest_without_a_tag_goes_by_its_digest(box: Box) -> None:
    built = image()
    push_blobs(box, built)
    digest = built.descriptor.digest
    for end in ("", f"@{digest}"):
        found = box.json("put-manifest", box.base + end, "-", stdin=built.data)
        assert found == {
            "schema": "dockercomms/reg-put-manifest/v1",
            "reference": box.place + end,
            "digest": digest,
            "media_type": MEDIA_TYPE_MANIFEST,
            "size": len(built.data),
            "tags": [],
        }
    assert box.tags() == []


def test_put_manifest_refuses_another_digest(box: Box) -> None:
    built = image()
    push_blobs(box, built)
    result = box.reg("put-manifest", f"{box.base}@{MISSING}", "-", stdin=built.data)
    assert result.exit_code == 4
    assert box.reg("exists", f"{box.base}@{built.descriptor.digest}").exit_code == 5


def test_put_manifest_with_missing_parts_is_refused_by_the_store(box: Box) -> None:
    assert box.reg("put-manifest", f"{box.base}:v1", "-", stdin=image().data).exit_code == 1


@pytest.mark.parametrize("checked", [True, False])
def test_put_manifest_with_children_brings_them(
    remote: Box, fake: FakeRegistry, checked: bool
) -> None:
    """Also where the registry takes a manifest whose parts are missing, as ggcr does."""
    if not checked:
        fake.quirks = Quirks(missing_blob=201, missing_child=201)
    children = [image(1), image(2, architecture="arm64")]
    push_tree(remote.store, "origin", children, "v1")
    index = index_of(*children)
    target = f"{fake.host}/team/new:v1"
    words = ["put-manifest", target, "-", "--tag", "v2", "--with-children", f"{fake.host}/origin"]
    remote.ok(*words, stdin=index.data)
    for child in children:
        for descriptor, _ in child.blobs:
            remote.ok("exists", f"{fake.host}/team/new@{descriptor.digest}", "--blob")
    assert sorted(remote.store.tags("team/new")) == ["v1", "v2"]
    fake.forget_requests()
    remote.ok(*words, stdin=index.data)
    assert fake.count("POST") == 0


def test_put_manifest_with_children_of_an_image_from_a_folder(remote: Box, layout: Box) -> None:
    built = image()
    layout.push(built, "v1")
    words = ["put-manifest", remote.base, "-", "--with-children", layout.base, "--tag", "x"]
    remote.ok(*words, stdin=built.data)
    assert remote.tags() == ["x"]
    again = ["put-manifest", f"{remote.base}:x", "-", "--with-children", layout.base]
    assert remote.ok(*again, stdin=built.data).stdout == f"{built.descriptor.digest}\n"
    assert remote.reg(*again[:-1], f"{layout.base}:v1", stdin=built.data).exit_code == 64


@pytest.mark.parametrize("api", [True, False])
def test_put_manifest_makes_a_referrer_known(remote: Box, fake: FakeRegistry, api: bool) -> None:
    fake.quirks = Quirks(referrers=api)
    subject = remote.push(image(), "v1")
    signature = artifact("signature", subject=subject)
    push_blobs(remote, signature)
    remote.ok("put-manifest", remote.base, "-", stdin=signature.data)
    listed = remote.ok("referrers", f"{remote.base}:v1").stdout
    assert listed.startswith(signature.descriptor.digest)
    schema_tag = subject.digest.replace(":", "-")
    assert (schema_tag in remote.tags()) is not api


def test_put_manifest_says_so_if_the_list_of_referrers_is_full(
    remote: Box, fake: FakeRegistry
) -> None:
    fake.quirks = Quirks(referrers=False)
    subject = remote.push(image(), "v1")
    entry = {"mediaType": MEDIA_TYPE_MANIFEST, "size": 1}
    full = {
        "schemaVersion": 2,
        "manifests": [{**entry, "digest": digest_of(str(n).encode())} for n in range(500)],
    }
    fake.put_manifest_raw(
        "team/app", json.dumps(full).encode(), tag=subject.digest.replace(":", "-")
    )
    signature = artifact("signature", subject=subject)
    push_blobs(remote, signature)
    result = remote.ok("put-manifest", remote.base, "-", stdin=signature.data)
    assert "the fallback index is full" in result.stderr


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"mediaType": "a/b"}', "a/b"),
        (b'{"manifests": []}', MEDIA_TYPE_INDEX),
        (b'{"layers": []}', MEDIA_TYPE_MANIFEST),
        (b'{"config": {}, "mediaType": ""}', MEDIA_TYPE_MANIFEST),
    ],
)
def test_media_type_is_what_a_manifest_says_or_looks_like(data: bytes, expected: str) -> None:
    assert media_type_of(data) == expected


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff", b'{"a":1,"a":2}', b'{"mediaType":1}'])
def test_media_type_of_anything_else_has_to_be_given(data: bytes) -> None:
    with pytest.raises(UsageError):
        media_type_of(data)


def test_put_manifest_takes_a_media_type(box: Box) -> None:
    data = b'{"schemaVersion": 2}'
    words = ["put-manifest", f"{box.base}:v1", "-"]
    assert box.reg(*words, stdin=data).exit_code == 64
    box.ok(*words, "--media-type", "application/vnd.oci.image.index.v1+json", stdin=data)
    assert box.json("resolve", f"{box.base}:v1")["media_type"] == MEDIA_TYPE_INDEX


def test_put_manifest_reads_what_there_is(box: Box) -> None:
    words = ["put-manifest", f"{box.base}:v1"]
    assert box.reg(*words, "no-such-file").exit_code == 8
    assert box.reg(*words, ".").exit_code == 8
    assert box.reg(*words, "-", stdin=b" " * (4 * 2**20 + 1)).exit_code == 9
    assert box.reg(*words, "-", "--tag", "bad tag", stdin=image().data).exit_code == 64
    twice = box.reg(*words, "-", "--username", "x", "--password-stdin", stdin=b"{}")
    assert twice.exit_code == 64
    assert "standard input" in twice.stderr


def test_put_manifest_into_a_folder_that_is_not_there_makes_it(quiet_machine: Path) -> None:
    data = index_of().data
    result = invoke(["reg", "put-manifest", "oci-layout:new:v1", "-"], stdin=data)
    assert result.exit_code == 0
    assert (quiet_machine / "new" / "index.json").exists()


# --- tag -----------------------------------------------------------------------------------------


def test_tag_puts_more_tags_on_a_manifest(box: Box) -> None:
    pushed = box.push(image(), "v1")
    result = box.ok("tag", f"{box.base}:v1", "v2", "latest")
    assert (result.stdout, result.stderr) == (f"{pushed.digest}\n", "tagged v2, latest\n")
    assert box.tags() == ["latest", "v1", "v2"]
    other = box.push(image(2), "other")
    found = box.json("tag", f"{box.base}@{other.digest}", "v1")
    assert (found["digest"], found["tags"]) == (other.digest, ["v1"])
    assert box.store.resolve_tag(box.name, "v1").digest == other.digest


def test_tag_refuses_what_is_no_tag_before_it_asks(remote: Box, fake: FakeRegistry) -> None:
    assert remote.reg("tag", f"{remote.base}:v1", "good", "../bad").exit_code == 64
    assert fake.count() == 0
    assert remote.reg("tag", f"{remote.base}:v1").exit_code == 64
    assert remote.reg("tag", f"{remote.base}:no", "x").exit_code == 5


# --- delete --------------------------------------------------------------------------------------


def test_delete_of_a_tag_leaves_the_manifest_and_its_other_tags(box: Box) -> None:
    pushed = box.push(image(), "v1", "v2")
    result = box.ok("delete", f"{box.base}:v1")
    assert (result.stdout, result.stderr) == ("", f"deleted tag {box.place}:v1\n")
    assert box.tags() == ["v2"]
    box.ok("exists", f"{box.base}@{pushed.digest}")


def test_delete_of_a_manifest_takes_its_tags(box: Box) -> None:
    pushed = box.push(image(), "v1", "v2")
    found = box.json("delete", f"{box.base}@{pushed.digest}")
    assert (found["kind"], found["reference"]) == ("manifest", f"{box.place}@{pushed.digest}")
    assert box.tags() == []
    assert box.reg("delete", f"{box.base}@{pushed.digest}").exit_code == 5


def test_delete_of_a_referrer_takes_its_entry_in_the_list(box: Box) -> None:
    subject = box.push(image(), "v1")
    made = [artifact(name, subject=subject) for name in ("one", "two")]
    for number, built in enumerate(made):
        push_blobs(box, built)
        box.ok("put-manifest", box.base, str(box.file(f"{number}.json", built.data)))
    where = f"{box.base}@{subject.digest}"
    for left in (made[1:], []):
        box.ok("delete", f"{box.base}@{made[1 - len(left)].descriptor.digest}")
        rows = [row["digest"] for row in box.rows("referrers", where)]
        assert rows == [built.descriptor.digest for built in left]
    assert box.tags() == ["v1"]


def test_delete_of_a_referrer_leaves_a_tag_alone_that_is_no_list(
    remote: Box, fake: FakeRegistry
) -> None:
    fake.quirks = DISTRIBUTION
    subject = remote.push(image(), "v1")
    built = artifact("one", subject=subject)
    push_blobs(remote, built)
    remote.ok("put-manifest", remote.base, str(remote.file("one.json", built.data)))
    remote.ok("tag", f"{remote.base}:v1", referrers_tag(subject.digest))
    result = remote.ok("delete", f"{remote.base}@{built.descriptor.digest}")
    assert "still listed" not in result.stderr
    assert remote.rows("referrers", f"{remote.base}:v1") == []
    assert set(remote.tags()) == {"v1", referrers_tag(subject.digest)}


def test_delete_of_a_blob_has_to_be_said(box: Box) -> None:
    digest = box.push_blob(b"x")
    assert box.reg("delete", f"{box.base}@{digest}").exit_code == 5
    assert box.json("delete", f"{box.base}@{digest}", "--blob")["kind"] == "blob"
    assert box.reg("exists", f"{box.base}@{digest}", "--blob").exit_code == 5
    assert box.reg("delete", f"{box.base}:v1", "--blob").exit_code == 64


@pytest.mark.parametrize("end", ["", f":v1@{MISSING}"])
def test_delete_never_guesses(box: Box, end: str) -> None:
    box.push(image(), "latest", "v1")
    assert box.reg("delete", box.base + end).exit_code == 64
    assert box.tags() == ["latest", "v1"]


def test_delete_says_what_a_registry_that_deletes_no_tags_does(
    remote: Box, fake: FakeRegistry
) -> None:
    fake.quirks = Quirks(tag_delete=405)
    remote.push(image(), "v1")
    result = remote.reg("delete", f"{remote.base}:v1")
    assert result.exit_code == 1
    assert "reg delete REPO@DIGEST" in result.stderr

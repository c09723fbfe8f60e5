"""`reg ls`, `reg tags`, `reg referrers`."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from dockercomms.cli.reg.list import MAX_UNTAGGED
from dockercomms.oci.layout.registry import LayoutRegistry
from tests.cli.harness import invoke
from tests.fakes.images import SIGNATURE_TYPE, Built, artifact, image, push
from tests.fakes.registry import FakeRegistry, Quirks
from tests.unit.cli.conftest import MISSING, Box


def test_ls_lists_repositories_as_other_verbs_take_them(remote: Box) -> None:
    assert remote.fake is not None
    for name in ("a/one", "b", "team/app"):
        remote.fake.repository(name)
    host = remote.fake.host
    assert remote.ok("ls", host).stdout.splitlines() == [
        f"{host}/a/one", f"{host}/b", f"{host}/team/app",
    ]  # fmt: skip
    assert remote.ok("ls", host, "--limit", "1", "--start-after", "a/one").stdout == f"{host}/b\n"
    (row,) = remote.rows("ls", host, "--limit", "1", "--page-size", "1")
    assert row == {
        "schema": "dockercomms/reg-ls/v1",
        "host": host,
        "repository": "a/one",
        "reference": f"{host}/a/one",
    }


def test_ls_lists_the_one_repository_of_a_folder(layout: Box) -> None:
    layout.push(artifact("x"), "v1")
    assert layout.ok("ls", layout.base).stdout == f"{layout.base}\n"
    assert layout.reg("ls", "oci-layout:nothing-here").exit_code == 5
    assert layout.reg("ls", f"{layout.base}:v1").exit_code == 64


@pytest.mark.parametrize("host", ["", "r.example/path", "user@host", "https://r.example"])
def test_ls_refuses_what_is_no_host(remote: Box, host: str) -> None:
    assert remote.reg("ls", host).exit_code == 64


def test_tags_lists_tags(box: Box) -> None:
    box.push(artifact("x"), "v3", "v1", "v2")
    assert box.ok("tags", box.base).stdout.splitlines() == ["v1", "v2", "v3"]
    assert box.ok("tags", box.base, "--limit", "2").stdout.splitlines() == ["v1", "v2"]
    words = ["tags", box.base, "--start-after", "v1", "--page-size", "1"]
    assert box.ok(*words).stdout.splitlines() == ["v2", "v3"]
    assert box.rows("tags", box.base, "--limit", "1") == [
        {"schema": "dockercomms/reg-tags/v1", "repository": box.place, "tag": "v1"}
    ]
    assert len(json.loads(box.ok("tags", box.base, "--json").stdout)) == 3


def test_tags_on_a_terminal_are_a_table(box: Box) -> None:
    box.push(artifact("x"), "v1")
    lines = box.ok("tags", box.base, tty=True).stdout.splitlines()
    assert [line.strip() for line in lines] == ["\x1b[1mTAG\x1b[0m", "v1"]


def test_tags_of_a_repository_that_is_not_there_is_5(remote: Box, layout: Box) -> None:
    assert remote.reg("tags", f"{remote.base}/none").exit_code == 5
    assert layout.reg("tags", f"{layout.base}x", "--json").stdout == "[]\n"
    assert layout.reg("tags", f"{layout.base}x").exit_code == 5


@pytest.mark.parametrize("end", [":v1", f"@{MISSING}"])
def test_tags_refuses_a_reference(box: Box, end: str) -> None:
    result = box.reg("tags", box.base + end)
    assert result.exit_code == 64
    assert "a repository expected" in result.stderr


def test_referrers_lists_what_refers_to_a_manifest(box: Box) -> None:
    subject = box.push(image(), "v1")
    signature = box.push(artifact("signature", subject=subject))
    other = box.push(artifact("other", subject=subject, artifact_type="application/x-other"))
    listed = box.ok("referrers", f"{box.base}:v1").stdout.splitlines()
    assert sorted(listed) == sorted([
        f"{signature.digest}\t{SIGNATURE_TYPE}\t{signature.size}\t{signature.media_type}",
        f"{other.digest}\tapplication/x-other\t{other.size}\t{other.media_type}",
    ])  # fmt: skip
    (row,) = box.rows("referrers", f"{box.base}@{subject.digest}", "--type", SIGNATURE_TYPE)
    assert row == {
        "schema": "dockercomms/reg-referrers/v1",
        "subject": subject.digest,
        "digest": signature.digest,
        "media_type": signature.media_type,
        "size": signature.size,
        "artifact_type": SIGNATURE_TYPE,
        "annotations": {"name": "signature"},
    }
    table = box.ok("referrers", f"{box.base}:v1", tty=True).stdout
    assert "ARTIFACT TYPE" in table


def test_referrers_of_what_has_none_says_so(box: Box) -> None:
    subject = box.push(image(), "latest")
    result = box.ok("referrers", box.base)
    assert (result.stdout, result.stderr) == ("", f"no referrers of {subject.digest}\n")


def test_referrers_of_a_tag_that_is_not_there_is_5(box: Box) -> None:
    box.push(image(), "v1")
    assert box.reg("referrers", f"{box.base}:no").exit_code == 5


def test_what_a_registry_says_is_shown_harmless(remote: Box) -> None:
    assert remote.fake is not None
    index = {
        "schemaVersion": 2,
        "manifests": [
            {
                "mediaType": "a/b",
                "digest": MISSING,
                "size": 1,
                "artifactType": "evil\x1b[2J\u202e\n",
            }
        ],
    }
    tag = MISSING.replace(":", "-")
    remote.fake.quirks = Quirks(referrers=False)
    remote.fake.put_manifest_raw("team/app", json.dumps(index).encode(), tag=tag)
    result = remote.ok("referrers", f"{remote.base}@{MISSING}")
    assert "\x1b" not in result.stdout
    assert r"evil\x1b[2J\u202e\n" in result.stdout
    assert len(result.stdout.splitlines()) == 1
    assert remote.ok("referrers", f"{remote.base}@{MISSING}", "--json").raw.isascii()


def test_a_login_that_is_refused_is_3(quiet_machine: object) -> None:
    with FakeRegistry(Quirks(auth="basic"), users={"bot": "right"}) as fake:
        for verb in (["tags", f"{fake.host}/x"], ["ls", fake.host], ["ping", fake.host]):
            result = invoke(["reg", *verb])
            assert result.exit_code == 3, result.stderr
            assert "docker login" in result.stderr
        words = ["reg", "ls", fake.host, "--username", "bot", "--password-stdin"]
        assert invoke(words, stdin=b"right").exit_code == 0
        assert invoke(words, stdin=b"wrong").exit_code == 3


def write_untagged(folder: Path, *built: Built, **names: str) -> None:
    """Write a layout as skopeo and crane do: no tag, or a name that is none."""
    store = LayoutRegistry(folder, create=True)
    for one in built:
        push(store, "", one)
    store.close()
    index = json.loads((folder / "index.json").read_text())
    for entry, name in zip(index["manifests"], names.values(), strict=False):
        entry["annotations"] = {"org.opencontainers.image.ref.name": name}
    (folder / "index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("names", [{}, {"podman": "docker.io/library/app:v1"}, {"tag": "v7"}])
@pytest.mark.parametrize("is_tar", [False, True])
def test_layout_of_one_manifest_is_read_by_itself_alone(
    remote: Box, names: dict[str, str], is_tar: bool
) -> None:
    built = artifact("x")
    write_untagged(remote.folder / "sk", built, **names)
    base = f"oci-layout:{remote.folder}/sk"
    if is_tar:
        base = f"oci-archive:{remote.folder}/sk.tar"
        with tarfile.open(remote.folder / "sk.tar", "w") as tar:
            tar.add(remote.folder / "sk", ".")
    digest = built.descriptor.digest

    assert remote.ok("resolve", base).stdout == f"{digest}\n"
    assert remote.json("inspect", base)["digest"] == digest
    assert json.loads(remote.ok("manifest", base).stdout)["schemaVersion"] == 2
    assert remote.ok("exists", base).exit_code == 0
    assert remote.reg("exists", f"{base}:latest").exit_code == 5
    assert remote.ok("copy", base, f"{remote.base}:v1").exit_code == 0
    assert remote.ok("resolve", f"{remote.base}:v1").stdout == f"{digest}\n"
    assert remote.reg("copy", "--blob", base, remote.base).exit_code == 64
    assert remote.reg("delete", base).exit_code == 64

    told = remote.ok("tags", base)
    assert told.stdout == ("v7\n" if "tag" in names else "")
    assert (digest in told.stderr) == ("tag" not in names)
    assert ("docker.io/library/app:v1" in told.stderr) == ("podman" in names)


def test_layout_of_one_manifest_gets_its_first_tag(layout: Box) -> None:
    built = artifact("x")
    layout.push(built)
    assert layout.ok("tag", layout.base, "v1").exit_code == 0
    assert layout.tags() == ["v1"]
    assert layout.ok("tags", layout.base).stderr == ""


def test_layout_of_several_manifests_has_to_be_told_which(layout: Box) -> None:
    for name in "xyz":
        layout.push(artifact(name))
    layout.push(artifact("tagged"), "v1")
    assert layout.reg("resolve", layout.base).exit_code == 5
    assert layout.reg("exists", layout.base).exit_code == 5
    told = layout.ok("tags", layout.base)
    assert told.stdout == "v1\n"
    assert told.stderr.count("without a tag") == 3
    layout.push(artifact("newest"), "latest")
    assert layout.ok("exists", layout.base).exit_code == 0


def test_layout_with_many_manifests_without_a_tag_names_the_first(layout: Box) -> None:
    for number in range(MAX_UNTAGGED + 2):
        layout.push(artifact(f"{number}"))
    told = layout.ok("tags", layout.base).stderr.splitlines()
    assert len(told) == MAX_UNTAGGED + 1
    assert "and 2 more without a tag" in told[-1]
    assert layout.ok("tags", layout.base, "-q").stderr == ""


def test_layout_that_is_to_be_written_takes_the_tag_latest(layout: Box) -> None:
    """One manifest in a target says nothing of the tag that is written."""
    layout.push(artifact("x"), "v1")
    layout.ok("copy", f"{layout.base}:v1", f"oci-layout:{layout.folder}/other:v1")
    layout.push(artifact("y"), "v2")
    layout.ok("copy", f"{layout.base}:v2", f"oci-layout:{layout.folder}/other")
    there = LayoutRegistry(layout.folder / "other")
    assert len(there.listed()) == 2

"""`reg ls`, `reg tags`, `reg referrers`."""

from __future__ import annotations

import json

import pytest

from tests.cli.harness import invoke
from tests.fakes.images import SIGNATURE_TYPE, artifact, image
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
    assert "a repository is without" in result.stderr


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
    assert (result.stdout, result.stderr) == ("", f"nothing refers to {subject.digest}\n")


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

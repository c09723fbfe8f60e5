"""`reg copy` and `reg mount`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.harness import invoke
from tests.fakes.images import artifact, image, push_tree
from tests.fakes.registry import FakeRegistry, Quirks
from tests.unit.cli.conftest import MISSING, Box


def test_copy_moves_an_index_with_all_its_parts(remote: Box, layout: Box) -> None:
    children = [image(1), image(2, architecture="arm64")]
    built = push_tree(remote.store, remote.name, children, "v1")
    result = remote.ok("copy", f"{remote.base}:v1", f"{layout.base}:v2")
    assert result.stdout == f"{built.descriptor.digest}\n"
    assert result.stderr == f"copied {remote.place}:v1 to {layout.place}:v2\n"
    assert layout.ok("manifest", f"{layout.base}:v2").raw == built.data
    for child in children:
        for descriptor, data in child.blobs:
            assert layout.blob(descriptor.digest) == data


def test_copy_back_and_without_a_tag_goes_by_its_digest(remote: Box, layout: Box) -> None:
    pushed = layout.push(image(), "latest")
    assert remote.json("copy", layout.base, remote.base) == {
        "schema": "dockercomms/reg-copy/v1",
        "source": layout.place,
        "target": remote.place,
        "digest": pushed.digest,
        "media_type": pushed.media_type,
        "size": pushed.size,
    }
    assert remote.tags() == []
    remote.ok("exists", f"{remote.base}@{pushed.digest}")


def test_copy_a_second_time_moves_nothing(remote: Box, layout: Box, fake: FakeRegistry) -> None:
    layout.push(image(), "v1")
    words = ["copy", f"{layout.base}:v1", f"{remote.base}:v1", "--concurrency", "2"]
    remote.ok(*words)
    fake.forget_requests()
    remote.ok(*words)
    assert {record.method for record in fake.asked()} == {"HEAD"}


def test_copy_takes_the_referrers_if_asked(remote: Box, layout: Box) -> None:
    subject = remote.push(image(), "v1")
    signature = remote.push(artifact("signature", subject=subject))
    remote.ok("copy", f"{remote.base}:v1", f"{layout.base}:v1")
    assert layout.ok("referrers", f"{layout.base}:v1").stdout == ""
    remote.ok("copy", f"{remote.base}:v1", f"{layout.base}:v1", "--referrers")
    assert layout.ok("referrers", f"{layout.base}:v1").stdout.startswith(signature.digest)


def test_copy_takes_the_entry_of_a_platform(remote: Box, layout: Box) -> None:
    other = image(2, architecture="arm64")
    push_tree(remote.store, remote.name, [image(1), other], "v1")
    words = ["copy", f"{remote.base}:v1", f"{layout.base}:v1", "--platform", "linux/arm64"]
    assert remote.ok(*words).stdout == f"{other.descriptor.digest}\n"
    assert layout.ok("manifest", f"{layout.base}:v1").raw == other.data
    assert layout.reg("exists", f"{layout.base}@{image(1).descriptor.digest}").exit_code == 5


def test_copy_within_a_registry_moves_nothing(remote: Box, fake: FakeRegistry) -> None:
    remote.push(image(size=100_000), "v1")
    fake.forget_requests()
    remote.ok("copy", f"{remote.base}:v1", f"{fake.host}/other:v1")
    assert fake.count("GET", "/blobs/") == 0
    assert fake.count("POST", "mount=") == 3


def test_copy_of_a_blob(remote: Box, layout: Box) -> None:
    digest = remote.push_blob(b"hello")
    words = ["copy", "--blob", f"{remote.base}@{digest}", layout.base]
    assert remote.ok(*words).stdout == f"{digest}\n"
    assert layout.blob(digest) == b"hello"
    assert remote.reg("copy", "--blob", remote.base, layout.base).exit_code == 64
    assert remote.reg(*words, "--referrers").exit_code == 64
    assert remote.reg(*words[:-1], f"{layout.base}:v1").exit_code == 64
    assert remote.reg("copy", "--blob", f"{remote.base}@{MISSING}", layout.base).exit_code == 5


def test_copy_of_what_is_not_there_is_5_and_makes_nothing(remote: Box) -> None:
    remote.push(image(), "v1")
    assert remote.reg("copy", f"{remote.base}:no", "oci-layout:new:v1").exit_code == 5
    assert not (remote.folder / "new").exists()


def test_copy_to_another_digest_is_4(remote: Box, layout: Box) -> None:
    remote.push(image(), "v1")
    assert remote.reg("copy", f"{remote.base}:v1", f"{layout.base}@{MISSING}").exit_code == 4


def test_copy_shows_how_far_it_is(remote: Box, layout: Box) -> None:
    built = image(layers=1, size=17 * 2**20)
    layout.push(built, "v1")
    assert "copying: 100 %" in remote.ok("copy", f"{layout.base}:v1", f"{remote.base}:v1").stderr
    moved = remote.ok("copy", f"{layout.base}:v1", f"{remote.base}:v1", tty=True, stderr_tty=True)
    assert "copied" in moved.stderr


def test_one_password_is_never_sent_to_two_registries(remote: Box, fake: FakeRegistry) -> None:
    with FakeRegistry() as other:
        words = ["copy", f"{fake.host}/a:v1", f"{other.host}/b:v1"]
        login = ["--username", "bot", "--password-stdin"]
        result = remote.reg(*words, *login, stdin=b"secret")
        assert result.exit_code == 64
        assert "two registries" in result.stderr
        assert (fake.count(), other.count()) == (0, 0)


def test_copy_can_speak_http_to_one_of_two(quiet_machine: Path) -> None:
    with FakeRegistry(tls=True) as secure, FakeRegistry() as plain:
        assert secure.authority is not None
        secure.authority.cert_pem.write_to_path(str(quiet_machine / "ca.pem"))
        index_type = "application/vnd.oci.image.index.v1+json"
        index = b'{"schemaVersion":2,"manifests":[]}'
        plain.put_manifest_raw("a", index, tag="v1", media_type=index_type)
        there, back = f"{plain.host}/a:v1", f"{secure.host}/b:v1"
        reg = ["reg", "--ca-file", "ca.pem"]
        assert invoke([*reg, "copy", there, back, "--from-plain-http"]).exit_code == 0
        assert invoke([*reg, "copy", back, f"{plain.host}/c:v1", "--to-plain-http"]).exit_code == 0
        assert plain.repository("c").tags.keys() == {"v1"}


# --- mount ---------------------------------------------------------------------------------------


def test_mount_makes_a_blob_known(remote: Box, fake: FakeRegistry) -> None:
    digest = remote.push_blob(b"hello")
    words = ["mount", f"{remote.base}@{digest}", f"{fake.host}/other"]
    assert remote.ok(*words).stdout == f"{digest}\n"
    assert remote.json(*words) == {
        "schema": "dockercomms/reg-mount/v1",
        "source": f"{remote.place}@{digest}",
        "target": f"{fake.host}/other@{digest}",
        "digest": digest,
        "size": 5,
    }
    assert fake.count("GET", "/blobs/") == 0


def test_mount_that_is_refused_says_what_to_do(remote: Box, fake: FakeRegistry) -> None:
    digest = remote.push_blob(b"hello")
    fake.quirks = Quirks(mount="refuse")
    result = remote.reg("mount", f"{remote.base}@{digest}", f"{fake.host}/other")
    assert result.exit_code == 1
    assert "reg copy --blob" in result.stderr
    assert fake.count("DELETE", "/uploads/") == 1


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("r.example/a@DIGEST", "other.example/b"),
        ("oci-layout:a@DIGEST", "oci-layout:a"),
        ("r.example/a", "r.example/b"),
        ("r.example/a:v1@DIGEST", "r.example/b"),
        ("r.example/a@DIGEST", "r.example/b:v1"),
    ],
)
def test_mount_refuses_what_cannot_be_meant(source: str, target: str) -> None:
    result = invoke(["reg", "mount", source.replace("DIGEST", MISSING), target])
    assert result.exit_code == 64

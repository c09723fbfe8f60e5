from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from dockercomms.errors import ProtocolError, UsageError
from dockercomms.oci.model import Digest
from dockercomms.oci.reference import (
    HUB_HOSTS,
    Reference,
    connect_host,
    is_loopback,
    is_valid_digest,
    is_valid_host,
    is_valid_repository,
    is_valid_tag,
    referrers_tag,
)

D = Digest("sha256:" + "a" * 64)


@pytest.mark.parametrize(
    "text",
    ["a", "a.b", "A-b.example:80", "1.2.3.4:65535", "[::1]", "[2001:db8::1]:5000", "x:1"],
)
def test_is_valid_host_takes_names_addresses_and_ports(text: str) -> None:
    assert is_valid_host(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-a",
        "a-",
        "a..b",
        "a_b",
        "a:",
        "a:0",
        "a:65536",
        "a:1234567",
        "a:b",
        "::1",
        "[::1",
        "[g]",
        "[1.2.3.4]",
        "[fe80::1%eth0]",
        "a/b",
        "user@host",
        "a b",
        "a\n",
        "é.example",
    ],
)
def test_is_valid_host_refuses(text: str) -> None:
    assert not is_valid_host(text)


@pytest.mark.parametrize("text", ["a", "a/b/c", "a.b_c__d-e---f", "0", "a" * 255])
def test_is_valid_repository_takes(text: str) -> None:
    assert is_valid_repository(text)


@pytest.mark.parametrize("text", ["", "A", "a//b", "/a", "a/", "a..b", "a___b", "a\n", "a" * 256])
def test_is_valid_repository_refuses(text: str) -> None:
    assert not is_valid_repository(text)


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("_", True),
        ("A.b-c_1", True),
        ("a" * 128, True),
        ("a" * 129, False),
        ("", False),
        ("-a", False),
        (".a", False),
        ("a b", False),
        ("a\n", False),
        ("a:b", False),
    ],
)
def test_is_valid_tag(text: str, valid: bool) -> None:
    assert is_valid_tag(text) is valid


def test_is_valid_digest_knows_three_algorithms() -> None:
    assert is_valid_digest(D)
    assert is_valid_digest("sha384:" + "0" * 96)
    assert is_valid_digest("sha512:" + "f" * 128)
    assert not is_valid_digest("md5:" + "0" * 32)
    assert not is_valid_digest("sha256:" + "A" * 64)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("localhost:5000", True),
        ("reg.localhost:1", True),
        ("[::1]", True),
        ("[::1]:5000", True),
        ("127.0.0.1:80", True),
        ("127.1.2.3", True),
        ("127.0.0.1.nip.io", False),
        ("localhost.example", False),
        ("registry", False),
        ("128.0.0.1", False),
        ("[::2]:5000", False),
    ],
)
def test_is_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_connect_host_is_another_for_docker_hub_only() -> None:
    assert connect_host("docker.io") == "registry-1.docker.io"
    assert connect_host("registry.example:5000") == "registry.example:5000"


def test_referrers_tag_cuts_the_hex_part_to_64() -> None:
    assert referrers_tag(D) == "sha256-" + "a" * 64
    assert referrers_tag("sha512:" + "b" * 128) == "sha512-" + "b" * 64
    with pytest.raises(ProtocolError):
        referrers_tag("latest")


def test_reference_parse_reads_all_parts() -> None:
    reference = Reference.parse(f"registry.example:5000/team/box:v1@{D}")
    assert reference == Reference(
        host="registry.example:5000", repository="team/box", tag="v1", digest=D
    )
    assert reference.full() == str(reference) == f"registry.example:5000/team/box:v1@{D}"


def test_reference_parse_without_tag_has_none() -> None:
    reference = Reference.parse("registry.example/team/box")
    assert reference.tag is None
    assert reference.digest is None
    assert reference.tag_or_latest == "latest"
    assert Reference.parse("registry.example/team/box:v1").tag_or_latest == "v1"


@pytest.mark.parametrize("host", sorted(HUB_HOSTS))
def test_reference_parse_knows_docker_hub_by_all_its_names(host: str) -> None:
    assert Reference.parse(f"{host}/alpine") == Reference.parse("alpine")
    assert Reference.parse(f"{host}/a/b:1") == Reference.parse("a/b:1")
    assert Reference.parse(f"{host}/alpine").repository == "library/alpine"


@pytest.mark.parametrize(
    ("full", "short"),
    [
        ("docker.io/library/alpine:3", "alpine:3"),
        ("docker.io/user/app", "user/app"),
        ("docker.io/library/x/y", "library/x/y"),
        ("docker.io/library/library", "library"),
        ("docker.io/library/localhost", "localhost"),
        ("docker.io/library/a.b", "a.b"),
        ("docker.io/localhost/x", "docker.io/localhost/x"),
        ("docker.io/a.b/x", "docker.io/a.b/x"),
        ("ghcr.io/library/x", "ghcr.io/library/x"),
    ],
)
def test_reference_short_form_reads_back_as_itself(full: str, short: str) -> None:
    reference = Reference.parse(full)
    assert str(reference) == short
    assert Reference.parse(short) == reference
    assert Reference.parse(short).full() == full


def test_reference_made_by_hand_prints_an_address_on_docker_hub_in_full() -> None:
    by_hand = Reference(host="docker.io", repository="alpine")
    assert str(by_hand) == "docker.io/alpine"
    assert by_hand.normalized() == Reference.parse("alpine")
    assert Reference(host="index.docker.io", repository="a/b").normalized().host == "docker.io"


def test_reference_parse_takes_localhost_for_a_host_unless_told_otherwise() -> None:
    assert Reference.parse("localhost/foo/bar").host == "localhost"
    other = Reference.parse("localhost/foo/bar", localhost_is_host=False)
    assert (other.host, other.repository) == ("docker.io", "localhost/foo/bar")
    assert Reference.parse(str(other)) == other


def test_reference_parse_without_default_host_wants_one() -> None:
    assert Reference.parse("reg.example/a", default_host=None).host == "reg.example"
    with pytest.raises(UsageError) as caught:
        Reference.parse("team/box", default_host=None)
    assert caught.value.hint == "write host/path, such as registry.example/team/box"
    assert caught.value.exit_code == 64


def test_reference_parse_uses_another_default_host() -> None:
    assert Reference.parse("team/box", default_host="reg.example").full() == "reg.example/team/box"
    assert Reference.parse("box", default_host="reg.example").repository == "box"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "not a repository name"),
        (":tag", "missing repository before the tag"),
        ("reg.example/a@sha256:12", "not a digest after @"),
        ("reg.example/a@", "not a digest after @"),
        ("reg.example/a:", "not a tag"),
        ("reg.example/A", "not a repository name"),
        ("https://reg.example/a", "not a registry host"),
        ("reg.example:0/a", "not a registry host"),
        ("reg_x.example/a", "not a registry host"),
        ("a" * 250, "repository name is too long"),
        ("docker.io/", "not a repository name"),
        ("a b", "not a repository name"),
    ],
)
def test_reference_parse_names_the_part_that_is_wrong(text: str, part: str) -> None:
    with pytest.raises(UsageError, match=part):
        Reference.parse(text)


@pytest.mark.parametrize(
    "wrong",
    [
        {"host": "not a host"},
        {"repository": "Not/One"},
        {"tag": "not a tag"},
        {"digest": "sha256:12"},
    ],
    ids=str,
)
def test_reference_that_is_none_cannot_be_made(wrong: dict[str, str]) -> None:
    parts = {"host": "reg.example", "repository": "a", **wrong}
    with pytest.raises(UsageError):
        Reference(**parts)  # type: ignore[arg-type]


def test_reference_without_digest_drops_only_that_digest() -> None:
    reference = Reference.parse(f"reg.example/a:v1@{D}")
    assert str(reference.without_digest(D)) == "reg.example/a:v1"
    assert reference.without_digest("sha256:" + "b" * 64) is reference


def test_reference_from_json_refuses_what_is_no_string() -> None:
    assert Reference.from_json('"alpine"') == Reference.parse("alpine")
    for text in ("alpine", "7", '["alpine"]', '"'):
        with pytest.raises(UsageError, match="not a JSON string"):
            Reference.from_json(text)


def test_reference_never_changes() -> None:
    with pytest.raises(FrozenInstanceError):
        Reference.parse("alpine").tag = "v1"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "default", "expected"),
    [
        ("app", "r.example", "r.example/app"),
        ("app:v1", "r.example:5000", "r.example:5000/app:v1"),
        ("team/app:v1", "r.example", "r.example/team/app:v1"),
        ("library/x/y", "r.example", "r.example/library/x/y"),
        ("other.example/app", "r.example", "other.example/app"),
        ("localhost/app", "r.example", "localhost/app"),
        ("localhost:5000/app", "r.example", "localhost:5000/app"),
        ("app", "", "docker.io/library/app"),
    ],
)
def test_reference_qualified_moves_only_what_has_no_host(text, default, expected):
    assert Reference.parse(text).qualified(default).full() == expected


def test_reference_qualified_wants_a_host():
    with pytest.raises(UsageError):
        Reference.parse("app").qualified("not a host")

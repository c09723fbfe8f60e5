from __future__ import annotations

from pathlib import Path

import pytest

from dockercomms.errors import UsageError
from dockercomms.oci.layout.registry import LayoutRegistry
from dockercomms.oci.remote.registry import HTTPRegistry
from dockercomms.oci.stores import (
    ConnectionSettings,
    default_mailbox,
    open_store,
    parse_place,
    parse_repo,
)

DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("text", "host", "repository", "repo"),
    [
        ("r.example/a/b", "r.example", "a/b", "r.example/a/b"),
        ("r.example:5000/a", "r.example:5000", "a", "r.example:5000/a"),
        ("oci://r.example/a", "r.example", "a", "r.example/a"),
        ("localhost/a/b", "localhost", "a/b", "localhost/a/b"),
        ("index.docker.io/a", "docker.io", "library/a", "docker.io/library/a"),
        ("[::1]:5000/a", "[::1]:5000", "a", "[::1]:5000/a"),
    ],
)
def test_parse_repo_reads_registries(text, host, repository, repo):
    place = parse_repo(text)

    assert (place.host, place.repository, place.repo) == (host, repository, repo)
    assert place.folder is None


@pytest.mark.parametrize("prefix", ["oci-layout:", "oci:", "ocidir://"])
def test_parse_repo_reads_folders(prefix, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    for text in ("box", "./box", f"{tmp_path}/x/../box"):
        place = parse_repo(prefix + text)
        assert place.folder == tmp_path.resolve() / "box"
        assert place.repo == f"oci-layout:{tmp_path.resolve()}/box"


def test_parse_repo_expands_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))

    assert parse_repo("oci-layout:~/box").folder == tmp_path.resolve() / "box"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "team/box",
        "box",
        "oci://",
        "oci://team/box",
        "r.example/a:tag",
        "r.example/a@sha256:" + "0" * 64,
        "oci://r.example/a:tag",
        "r.example/UPPER",
        "r.example/",
        "oci-layout:",
        "oci-layout:box:tag",
        "oci:box@sha256:" + "0" * 64,
        "http://r.example/a",
        "https://r.example/a",
        "docker://r.example/a",
        "oci-archive:",
        "oci-archive:box.tar:tag",
        "docker-archive:box.tar",
    ],
)
def test_parse_repo_refuses_everything_else(text):
    with pytest.raises(UsageError):
        parse_repo(text)


def test_parse_repo_says_what_is_missing():
    with pytest.raises(UsageError, match="missing registry host") as raised:
        parse_repo("team/box")

    assert "host/path" in raised.value.hint


@pytest.mark.parametrize(
    ("text", "repo", "tag", "digest"),
    [
        ("r.example/a:v1", "r.example/a", "v1", None),
        (f"oci://r.example/a@{DIGEST}", "r.example/a", None, DIGEST),
        (f"r.example:5000/a:v1@{DIGEST}", "r.example:5000/a", "v1", DIGEST),
        ("oci-layout:/x/box", "oci-layout:/x/box", None, None),
        ("oci:/x/box:v1", "oci-layout:/x/box", "v1", None),
        ("oci-archive:/x/box.tar:v1", "oci-archive:/x/box.tar", "v1", None),
        (f"ocidir:///x/box:v1@{DIGEST}", "oci-layout:/x/box", "v1", DIGEST),
        (f"oci-layout:/x/box@{DIGEST}", "oci-layout:/x/box", None, DIGEST),
        ("oci-layout:/x/me@host/box:v1", "oci-layout:/x/me@host/box", "v1", None),
        ("oci-layout:/x/me@host:v1", "oci-layout:/x/me@host", "v1", None),
        ("oci-layout:/x/box/:v1", "oci-layout:/x/box", "v1", None),
        ("oci-layout:/x/y/..:v1", "oci-layout:/x", "v1", None),
    ],
)
def test_parse_place_reads_a_tag_and_a_digest(text, repo, tag, digest):
    place = parse_place(text)

    assert (place.repo, place.tag, place.digest) == (repo, tag, digest)
    assert parse_place(str(place)) == place


@pytest.mark.parametrize(
    "text",
    [
        "oci-layout:/x/box:bad tag",
        "oci-layout:/x/box:",
        "oci-layout:/x/box@sha256:short",
        "oci-layout::v1",
        f"oci-layout:@{DIGEST}",
        "r.example/a:bad tag",
        "oci://team/a:v1",
    ],
)
def test_parse_place_refuses(text):
    with pytest.raises(UsageError):
        parse_place(text, default_host="r.example")


def test_parse_place_takes_a_default_host():
    assert parse_place("team/a:v1", default_host="r.example").repo == "r.example/team/a"


def test_open_store_opens_a_folder(tmp_path):
    store = open_store(f"oci-layout:{tmp_path}/box")

    assert isinstance(store.registry, LayoutRegistry)
    assert not (tmp_path / "box").exists()


def test_open_store_opens_a_registry_with_its_settings(tmp_path):
    auth = tmp_path / "auth.json"
    auth.write_text("{}")
    settings = ConnectionSettings(username="u", password="secret", authfile=str(auth))

    store = open_store("r.example/a", settings)

    assert isinstance(store.registry, HTTPRegistry)
    assert (store.repository, store.repo) == ("a", "r.example/a")
    assert "secret" not in repr(settings)
    store.registry.close()


def test_open_store_refuses_a_password_without_a_name():
    with pytest.raises(UsageError, match="user name"):
        open_store("r.example/a", ConnectionSettings(password="secret"))


def test_default_mailbox_follows_xdg(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    own = Path("dockercomms") / "mailbox"

    assert default_mailbox({"XDG_DATA_HOME": "/data"}) == Path("/data") / own
    assert default_mailbox({}) == tmp_path / ".local" / "share" / own
    assert default_mailbox({"XDG_DATA_HOME": "relative"}) == tmp_path / ".local" / "share" / own

"""The stores that references on a command line open."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dockercomms.cli.session import Session
from dockercomms.cli.stores import Stores, parse_platform
from dockercomms.errors import ConfigError, UsageError
from dockercomms.oci.hub import ProxiedRegistry
from dockercomms.oci.images.cache import CachedRegistry
from dockercomms.oci.layout.registry import LayoutRegistry
from dockercomms.oci.remote.registry import HTTPRegistry
from dockercomms.oci.remote.retry import RetryPolicy
from tests.fakes.registry import FakeRegistry
from tests.unit.cli.conftest import MISSING


def stores(
    environ: Mapping[str, str] | None = None, *, cached: bool = False, **flags: Any
) -> Stores:
    session = Session(
        stdin=io.BytesIO(),
        stdout=io.StringIO(),
        stderr=io.StringIO(),
        environ={"HOME": "/nonexistent", **(environ or {})},
        folder=Path("/nonexistent"),
    )
    session._flags = dict(flags)
    return Stores(session, cached=cached)


def test_a_host_and_a_folder_are_opened_once() -> None:
    with stores() as opened:
        one, two = opened.open("r.example/a:v1"), opened.open(f"r.example/b@{MISSING}")
        assert one.registry is two.registry
        assert isinstance(one.registry, HTTPRegistry)
        assert opened.open("registry-1.docker.io/a").registry is opened.open("docker.io/b").registry
        box = opened.open("oci-layout:/x/box:v1")
        assert box.registry is opened.open(f"ocidir:///x/box@{MISSING}").registry
        assert isinstance(box.registry, LayoutRegistry)


def test_what_is_opened_says_what_it_is() -> None:
    with stores() as opened:
        one = opened.open(f"r.example/a/b:v1@{MISSING}")
        assert str(one) == str(one.reference) == str(one.location) == f"r.example/a/b:v1@{MISSING}"
        assert str(one.at(MISSING)) == f"r.example/a/b@{MISSING}"
        box = opened.open("oci:/x/box:v1")
        assert str(box) == str(box.location) == "oci-layout:/x/box:v1"
        assert (box.reference.tag, box.repository) == ("v1", "mailbox")


def test_a_digest_or_a_bare_repository_can_be_asked_for() -> None:
    with stores() as opened:
        assert opened.open(f"r.example/a@{MISSING}").need_digest() == MISSING
        for text in ("r.example/a", "r.example/a:v1", f"r.example/a:v1@{MISSING}"):
            with pytest.raises(UsageError, match="a digest is needed"):
                opened.open(text).need_digest()
        assert str(opened.repository("r.example/a")) == "r.example/a"
        for text in ("r.example/a:v1", f"r.example/a@{MISSING}", "oci:box:v1"):
            with pytest.raises(UsageError, match="a repository expected"):
                opened.repository(text)


def test_a_default_registry_is_for_references_without_a_host_only() -> None:
    with stores(default_registry="r.example") as opened:
        assert str(opened.place("team/app:v1")) == "r.example/team/app:v1"
        assert str(opened.place("other.example/app")) == "other.example/app"
        assert str(opened.place("oci-layout:/x")) == "oci-layout:/x"
        with pytest.raises(UsageError):
            opened.place("oci://team/app")
    with stores() as opened, pytest.raises(UsageError, match="missing registry host"):
        opened.place("team/app")


def test_requests_are_retried_as_long_as_asked() -> None:
    with stores(retry_seconds=7) as opened:
        registry, hub = opened.registry("r.example"), opened.registry("docker.io")
        assert registry._sender.retry.max_elapsed == 7.0
        assert hub._sender.retry.max_elapsed == 7.0
        assert hub._sender.retry.max_attempts == RetryPolicy.hub().max_attempts
    with stores() as opened:
        expected = RetryPolicy.requests().max_elapsed
        assert opened.registry("r.example")._sender.retry.max_elapsed == expected


@pytest.mark.parametrize(
    ("environ", "flags"),
    [
        ({}, {"hub_proxy": "http://cache.example:5000"}),
        ({"DOCKERHUB_PUBLIC_PROXY": "http://cache.example:5000"}, {}),
        (
            {"DOCKERHUB_PUBLIC_PROXY": "https://x.example"},
            {"hub_proxy": "http://cache.example:5000"},
        ),
    ],
)
def test_the_hub_is_read_through_a_proxy(environ: dict[str, str], flags: dict[str, str]) -> None:
    login = {"username": "bot", "password": "secret"}
    with stores(environ, **flags, **login) as opened:
        hub = opened.registry("docker.io")
        assert isinstance(hub, ProxiedRegistry)
        assert hub.proxy.endpoint.base_url == "http://cache.example:5000"
        assert hub.direct.endpoint.host == "docker.io"


def test_a_proxy_reads_without_the_hubs_password(quiet_machine: Path) -> None:
    with FakeRegistry() as fake:
        fake.put_manifest_raw("library/x", b"{}", tag="v1")
        chosen = {"hub_proxy": f"http://{fake.host}", "username": "bot", "password": "secret"}
        with stores(**chosen) as opened:
            one = opened.open("docker.io/x:v1")
            assert list(one.registry.tags(one.repository)) == ["v1"]
        assert all("authorization" not in str(record.headers).lower() for record in fake.asked())


def test_a_wrong_proxy_is_a_wrong_configuration() -> None:
    with stores(hub_proxy="cache.example") as opened, pytest.raises(ConfigError):
        opened.registry("docker.io")


def test_a_cache_is_put_before_registries_where_asked() -> None:
    with stores(cached=True) as opened:
        assert isinstance(opened.open("r.example/a").registry, CachedRegistry)
        assert opened.open("r.example/a").registry is opened.open("r.example/b").registry
        assert isinstance(opened.open("oci:box").registry, LayoutRegistry)
    with stores(cached=True, hub_proxy="https://cache.example") as opened:
        assert isinstance(opened.open("docker.io/a").registry, ProxiedRegistry)


def test_one_login_is_for_one_registry() -> None:
    with stores(username="bot", password="secret") as opened:
        opened.open("r.example/a")
        opened.open("oci-layout:box")
        opened.open("r.example/b")
        with pytest.raises(UsageError, match=r"two registries: r\.example and other\.example"):
            opened.open("other.example/a")


def test_a_folder_is_made_only_where_asked(tmp_path: Path) -> None:
    from dockercomms.errors import LocalIOError
    from dockercomms.oci.model import EMPTY_CONFIG, EMPTY_CONFIG_BYTES

    def push(opened: Any) -> None:
        opened.registry.push_blob("", EMPTY_CONFIG, lambda: io.BytesIO(EMPTY_CONFIG_BYTES))

    with stores() as opened:
        push(opened.open(f"oci:{tmp_path}/new", create=True))
        with pytest.raises(LocalIOError):
            push(opened.open(f"oci:{tmp_path}/other"))
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_parse_platform() -> None:
    assert parse_platform(None) is None
    assert str(parse_platform("linux/arm64/v8")) == "linux/arm64/v8"
    with pytest.raises(UsageError):
        parse_platform("linux")

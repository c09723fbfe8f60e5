"""Docker Hub, and a proxy that is read in its place."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from dockercomms.errors import ConfigError, Unauthorized
from dockercomms.oci.auth.credentials import Credentials, DockerConfig
from dockercomms.oci.hub import HubProxy, ProxiedRegistry, direct, hub_registry
from dockercomms.oci.interface import Registry
from dockercomms.oci.memory import MemoryRegistry
from dockercomms.oci.model import MEDIA_TYPE_MANIFEST, Descriptor
from dockercomms.oci.remote.pace import Patience
from dockercomms.oci.remote.registry import HTTPRegistry
from dockercomms.oci.remote.retry import RetryPolicy
from dockercomms.oci.remote.wire import HTTPResponse, Wire
from tests.fakes.clock import FakeClock
from tests.fakes.images import artifact, push
from tests.fakes.registry import OCI, FakeRegistry
from tests.unit.oci.registries import R, client

BUILT = artifact("a")
DIGEST = BUILT.descriptor.digest
BLOB, DATA = BUILT.blobs[1]


class Detour(Wire):
    """Sends what is for one address to another."""

    def __init__(self, address: str, instead: str) -> None:
        super().__init__(pytest.fail, Patience(timeout=60.0))
        self._change = address, instead

    def exchange(self, method: str, url: str, *args: Any, **options: Any) -> HTTPResponse:
        return super().exchange(method, url.replace(*self._change), *args, **options)


@contextmanager
def proxied() -> Iterator[tuple[FakeRegistry, FakeRegistry, ProxiedRegistry]]:
    """Give a registry, its proxy, and the client of both; both have the same content."""
    with FakeRegistry(OCI) as hub, FakeRegistry(OCI) as cache:
        with ProxiedRegistry(client(hub.host), client(cache.host)) as registry:
            for server in (hub, cache):
                with client(server.host) as plain:
                    push(plain, R, BUILT, "v1")
                server.forget_requests()
            yield hub, cache, registry


READS: dict[str, Callable[[Registry], object]] = {
    "get_blob": lambda registry: registry.get_blob(R, BLOB.digest).read(),
    "get_blob_unchecked": lambda registry: registry.get_blob_unchecked(R, BLOB.digest).read(),  # type: ignore[attr-defined]
    "get_blob_range": lambda registry: registry.get_blob_range(R, BLOB.digest, 1, 3).read(),
    "get_manifest": lambda registry: registry.get_manifest(R, DIGEST).read(),
    "get_tag": lambda registry: registry.get_tag(R, "v1").read(),
    "resolve_blob": lambda registry: registry.resolve_blob(R, BLOB.digest),
    "resolve_manifest": lambda registry: registry.resolve_manifest(R, DIGEST),
    "resolve_tag": lambda registry: registry.resolve_tag(R, "v1"),
    "tags": lambda registry: list(registry.tags(R)),
    "tag_pages": lambda registry: list(registry.tag_pages(R)),
    "repositories": lambda registry: list(registry.repositories()),
    "referrers": lambda registry: list(registry.referrers(R, DIGEST)),
    "referrers_supported": lambda registry: registry.referrers_supported(R),
}
WRITES: dict[str, Callable[[Registry], object]] = {
    "push_blob": lambda registry: registry.push_blob(R, BLOB, lambda: io.BytesIO(DATA)),
    "push_layer": lambda registry: registry.push_layer(R, lambda: io.BytesIO(DATA)),  # type: ignore[attr-defined]
    "push_manifest": lambda registry: registry.push_manifest(R, BUILT.data, MEDIA_TYPE_MANIFEST),
    "mount_blob": lambda registry: registry.mount_blob("x/y", BLOB.digest, source=R),
    "upload": lambda registry: registry.upload(R).cancel(),
    "resume_upload": lambda registry: registry.resume_upload(R, registry.upload(R).id).cancel(),
    "delete_blob": lambda registry: registry.delete_blob(R, BLOB.digest),
    "delete_manifest": lambda registry: registry.delete_manifest(R, DIGEST),
    "delete_tag": lambda registry: registry.delete_tag(R, "v1"),
}


@pytest.mark.parametrize("name", [*READS, *WRITES])
def test_proxied_reads_and_lists_from_the_proxy_and_writes_directly(name: str) -> None:
    with proxied() as (hub, cache, registry):
        (READS | WRITES)[name](registry)
        assert bool(cache.requests) == (name in READS)
        assert bool(hub.requests) == (name in WRITES)


def test_proxied_covers_the_whole_interface() -> None:
    methods = {name for name in vars(Registry) if not name.startswith("_")}
    for base in Registry.__mro__:
        methods |= {name for name in vars(base) if not name.startswith("_") and name.islower()}
    assert methods - {"server_time", "close"} <= set(READS) | set(WRITES)


def test_proxied_tells_the_time_of_either() -> None:
    with proxied() as (_, _, registry):
        assert registry.server_time() is None
        registry.resolve_tag(R, "v1")
        assert registry.server_time() is not None
        assert direct(registry) is registry.direct
    memory = MemoryRegistry()
    assert direct(memory) is memory


def test_hub_without_a_proxy_is_one_registry() -> None:
    with hub_registry(auth=DockerConfig()) as hub:
        assert type(hub) is HTTPRegistry
        assert hub.endpoint.host == "docker.io"
        assert hub.session.retry == RetryPolicy.hub()


def test_hub_sends_its_credentials_to_the_hub_only() -> None:
    locked = replace(OCI, auth="basic")
    login = Credentials(username="alice", password="wonderland")
    with (
        FakeRegistry(locked) as hub,
        FakeRegistry(locked) as cache,
        hub_registry(
            proxy=HubProxy(cache.host, plain_http=True),
            auth=DockerConfig(),
            credentials=login,
            transport=Detour("https://registry-1.docker.io", hub.url),
            clock=FakeClock(),
        ) as registry,
    ):
        with pytest.raises(Unauthorized):
            registry.resolve_tag(R, "v1")
        with pytest.raises(Unauthorized):
            registry.upload(R)
        assert all("authorization" not in seen.headers for seen in cache.requests)
        assert any("authorization" in seen.headers for seen in hub.requests)


def test_hub_uses_the_first_of_its_names_that_has_a_login() -> None:
    def login(*names: str) -> str | None:
        auths = {name: {"username": name, "password": "x"} for name in names}
        env = {"DOCKER_AUTH_CONFIG": json.dumps({"auths": auths})}
        found = DockerConfig.load(env).entry("docker.io")
        return None if found is None else found.username

    aliases = ["docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"]
    for first in range(len(aliases)):
        assert login(*reversed(aliases[first:])) == aliases[first]
    assert login("cache.example") is None


# --- HubProxy ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "host", "plain"),
    [
        ("https://cache.example", "cache.example", False),
        ("https://cache.example/", "cache.example", False),
        ("http://cache.example:5000", "cache.example:5000", True),
        ("//cache.example", "cache.example", False),
    ],
)
def test_proxy_is_an_address(address: str, host: str, plain: bool) -> None:
    assert HubProxy.parse(address) == HubProxy(host, plain)


@pytest.mark.parametrize(
    "address",
    [
        "cache.example",
        "cache.example:5000",
        "ftp://cache.example",
        "https://",
        "https://cache.example/mirror",
        "https://cache.example?x=1",
        "https://cache.example/#x",
        "https://user:password@cache.example",
        "https://cache.example:port",
        "https://[::1",
        "",
    ],
)
def test_proxy_refuses_what_is_no_address(address: str) -> None:
    with pytest.raises(ConfigError, match="proxy for Docker Hub"):
        HubProxy.parse(address)


def test_proxy_of_the_environment() -> None:
    assert HubProxy.from_env({}) is None
    assert HubProxy.from_env({"DOCKERHUB_PUBLIC_PROXY": ""}) is None
    host = {"DOCKERHUB_PUBLIC_PROXY_HOST": "cache.example:5000"}
    assert HubProxy.from_env(host) == HubProxy("cache.example:5000")
    both = {**host, "DOCKERHUB_PUBLIC_PROXY": "http://other.example"}
    assert HubProxy.from_env(both) == HubProxy("other.example", plain_http=True)
    with pytest.raises(ConfigError, match="not a host"):
        HubProxy.from_env({"DOCKERHUB_PUBLIC_PROXY_HOST": "http://cache.example"})


def test_proxy_never_shows_a_password() -> None:
    with pytest.raises(ConfigError) as caught:
        HubProxy.parse("https://user:secret@cache.example")
    assert "secret" not in str(caught.value)


def test_descriptor_of_a_blob_is_the_proxys() -> None:
    with proxied() as (_, cache, registry):
        data = b"newer"
        digest = cache.put_blob_raw(R, data)
        assert registry.resolve_blob(R, Descriptor.of(data, "x/y").digest).digest == digest

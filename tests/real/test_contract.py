"""The registry contract, held by the HTTP client on every real server with every login."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from dockercomms.oci.auth.credentials import DockerConfig
from dockercomms.oci.images.copy import ensure_manifest
from dockercomms.oci.interface import Registry
from dockercomms.oci.memory import MemoryRegistry
from dockercomms.oci.remote.registry import HTTPRegistry
from dockercomms.oci.remote.retry import RetryPolicy
from dockercomms.oci.stores import Location
from tests.contract.capabilities import Capabilities
from tests.contract.registry_contract import RegistryContract
from tests.contract.servers import SERVERS
from tests.fakes.images import holds, image, push_tree
from tests.real.launch import Server


@pytest.fixture(scope="module")
def registry(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    config = DockerConfig.load(server.environment(tmp_path_factory.mktemp("login")))
    with HTTPRegistry(server.host, auth=config, retry=RetryPolicy.none()) as client:
        yield client


@pytest.fixture
def repository() -> str:
    return f"contract/{uuid.uuid4().hex}"


@pytest.fixture
def capabilities(server: Server) -> Capabilities:
    return SERVERS[server.preset]


class TestRealRegistry(RegistryContract):
    pass


def test_ensure_manifest_copies_what_is_missing(
    registry: Registry, repository: str, capabilities: Capabilities
) -> None:
    """However the registry says that parts are missing; ocimem answers 500."""
    if not (capabilities.checks_blobs and capabilities.checks_manifests):
        pytest.skip("the store takes manifests without their parts")
    source = MemoryRegistry()
    children = (image(1, architecture="amd64"), image(2, architecture="arm64"))
    tree = push_tree(source, "src", children, "v1")
    target = Location(registry, repository, tag="v1")
    ensure_manifest(target, tree.data, tree.media_type, {"": Location(source, "src")})
    assert all(holds(registry, repository, child) for child in children)
    assert registry.resolve_tag(repository, "v1").digest == tree.descriptor.digest

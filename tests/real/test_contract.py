"""The registry contract, held by the HTTP client on every real server with every login."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from dockercomms.oci.auth import DockerConfig
from dockercomms.oci.client import HTTPRegistry
from dockercomms.oci.interface import Registry
from dockercomms.oci.retry import RetryPolicy
from tests.contract.capabilities import Capabilities
from tests.contract.registry_contract import RegistryContract
from tests.contract.servers import SERVERS
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

"""The contract, held by the HTTP client on the fake registry with each server's switches."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from dockercomms.oci.auth.credentials import DockerConfig
from dockercomms.oci.interface import Registry
from dockercomms.oci.remote.registry import HTTPRegistry
from dockercomms.oci.remote.retry import RetryPolicy
from tests.contract.capabilities import Capabilities
from tests.contract.registry_contract import RegistryContract
from tests.contract.servers import SERVERS
from tests.fakes.registry import OCI, PRESETS, FakeRegistry

FAKES = {
    "oci": (OCI, None, Capabilities()),
    "oci-pages-of-2": (OCI, 2, Capabilities()),
    **{name: (PRESETS[name], None, known) for name, known in SERVERS.items()},
}


@pytest.fixture(params=FAKES, scope="module")
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def registry(name: str) -> Iterator[Registry]:
    quirks, page_size, _ = FAKES[name]
    with (
        FakeRegistry(quirks, page_size=page_size) as fake,
        HTTPRegistry(fake.host, auth=DockerConfig(), retry=RetryPolicy.none()) as client,
    ):
        yield client


@pytest.fixture
def repository() -> str:
    return f"contract/{uuid.uuid4().hex}"


@pytest.fixture
def capabilities(name: str) -> Capabilities:
    return FAKES[name][2]


class TestHTTPRegistry(RegistryContract):
    pass

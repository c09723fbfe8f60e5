"""Every real server, started once for each worker that needs it, on a port of its own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.token_server import TokenServer
from tests.faults.zygote import Zygote
from tests.real import launch
from tests.real.launch import Server

OPEN_SERVERS = ("distribution", "docker_registry", "ggcr", "ocimem")
SERVERS = (
    *OPEN_SERVERS,
    "distribution_htpasswd",
    "distribution_token",
    "docker_registry_htpasswd",
)


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    """A process that starts the program in milliseconds, if a test does not measure the start."""
    with Zygote() as running:
        yield running


@pytest.fixture(scope="session")
def token_server() -> Iterator[TokenServer]:
    with launch.token_server() as server:
        yield server


@pytest.fixture(scope="session")
def distribution(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with launch.distribution(tmp_path_factory.mktemp("distribution")) as server:
        yield server


@pytest.fixture(scope="session")
def distribution_htpasswd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("distribution-htpasswd")
    with launch.distribution(folder, auth="htpasswd") as server:
        yield server


@pytest.fixture(scope="session")
def distribution_token(
    tmp_path_factory: pytest.TempPathFactory, token_server: TokenServer
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("distribution-token")
    with launch.distribution(folder, auth="token", token=token_server) as server:
        yield server


@pytest.fixture(scope="session")
def docker_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with launch.docker_registry(tmp_path_factory.mktemp("docker-registry")) as server:
        yield server


@pytest.fixture(scope="session")
def docker_registry_htpasswd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("docker-registry-htpasswd")
    with launch.docker_registry(folder, auth="htpasswd") as server:
        yield server


@pytest.fixture(scope="session")
def ggcr(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with launch.ggcr(tmp_path_factory.mktemp("ggcr")) as server:
        yield server


@pytest.fixture(scope="session")
def ocimem(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with launch.ocimem(tmp_path_factory.mktemp("ocimem")) as server:
        yield server


@pytest.fixture(scope="session", params=SERVERS)
def server(request: pytest.FixtureRequest) -> Server:
    """Each registry with each login it has."""
    found: Server = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="session", params=OPEN_SERVERS)
def open_server(request: pytest.FixtureRequest) -> Server:
    """Each registry without a login."""
    found: Server = request.getfixturevalue(request.param)
    return found


@pytest.fixture(params=("layout", *OPEN_SERVERS))
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The name of a new, empty store: a layout folder, and a repository on each registry."""
    if request.param == "layout":
        return f"oci-layout:{tmp_path / 'mailbox'}"
    found: Server = request.getfixturevalue(request.param)
    return f"{found.host}/stores/{uuid.uuid4().hex}"


@pytest.fixture(
    scope="session",
    params=("distribution_htpasswd", "distribution_token", "docker_registry_htpasswd"),
)
def login_server(request: pytest.FixtureRequest) -> Server:
    """Each registry that wants a login."""
    found: Server = request.getfixturevalue(request.param)
    return found

"""The contract, held by the stores that need nothing but this machine."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from dockercomms.oci.interface import Registry
from dockercomms.oci.layout.archive import ArchiveRegistry
from dockercomms.oci.layout.registry import LayoutRegistry
from dockercomms.oci.memory import MemoryRegistry
from tests.contract.capabilities import Capabilities
from tests.contract.registry_contract import RegistryContract


@dataclass(frozen=True, slots=True)
class Store:
    """A store under test, its constructor and the capabilities that it lacks."""

    make: Callable[[pytest.FixtureRequest], Registry]
    capabilities: Capabilities


STORES = {
    "memory": Store(lambda _: MemoryRegistry(), Capabilities(own_clock=True)),
    "memory-pages-of-2": Store(lambda _: MemoryRegistry(page_size=2), Capabilities(own_clock=True)),
    "memory-without-referrers": Store(
        lambda _: MemoryRegistry(referrers=False),
        Capabilities(own_clock=True, referrers_api=False),
    ),
    "memory-without-delete": Store(
        lambda _: MemoryRegistry(delete=False),
        Capabilities(own_clock=True, delete_blobs=False, delete_manifests=False, delete_tags=False),
    ),
    "layout": Store(
        lambda request: LayoutRegistry(request.getfixturevalue("tmp_path") / "box", create=True),
        Capabilities(own_clock=True, catalogue=False),
    ),
    "archive": Store(
        lambda request: ArchiveRegistry(request.getfixturevalue("tmp_path") / "a.tar", create=True),
        Capabilities(own_clock=True, catalogue=False),
    ),
}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> Store:
    return STORES[request.param]


@pytest.fixture
def registry(store: Store, request: pytest.FixtureRequest) -> Iterator[Registry]:
    made = store.make(request)
    yield made
    made.close()


@pytest.fixture
def repository() -> str:
    return f"contract/{uuid.uuid4().hex}"


@pytest.fixture
def capabilities(store: Store) -> Capabilities:
    return store.capabilities


class TestRegistry(RegistryContract):
    pass

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fakes.sigstore import SigstoreStub


@pytest.fixture(scope="module")
def shared_stub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SigstoreStub]:
    with SigstoreStub(tmp_path_factory.mktemp("sigstore")) as stub:
        yield stub


@pytest.fixture
def sigstore(shared_stub: SigstoreStub) -> Iterator[SigstoreStub]:
    """A Sigstore in order; whatever a test breaks is mended afterwards."""
    shared_stub.asked.clear()
    yield shared_stub
    for broken in (shared_stub.fail, shared_stub.silent, shared_stub.garbage):
        broken.clear()
    shared_stub.shift.clear()

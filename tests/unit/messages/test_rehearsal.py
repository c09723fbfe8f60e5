from __future__ import annotations

import io

import pytest

from dockercomms.errors import BlobUnknown, DigestMismatch
from dockercomms.messages.draft import Rehearsal
from dockercomms.oci.memory import MemoryRegistry
from dockercomms.oci.model import EMPTY_CONFIG, EMPTY_CONFIG_BYTES
from tests.fakes.clock import FakeClock


def test_rehearsal_checks_and_keeps_nothing():
    real = MemoryRegistry(clock=FakeClock())
    rehearsal = Rehearsal(real)
    seen = []

    rehearsal.push_blob(
        "a",
        EMPTY_CONFIG,
        lambda: io.BytesIO(EMPTY_CONFIG_BYTES),
        progress=lambda *x: seen.append(x),
    )
    rehearsal.push_blob("a", EMPTY_CONFIG, lambda: io.BytesIO(EMPTY_CONFIG_BYTES))

    assert seen == [(2, 2)]
    assert list(real.repositories()) == []
    with pytest.raises(DigestMismatch):
        rehearsal.push_blob("a", EMPTY_CONFIG, lambda: io.BytesIO(b"[]"))


def test_rehearsal_asks_the_real_registry():
    clock = FakeClock()
    real = MemoryRegistry(clock=clock)
    real.push_blob("a", EMPTY_CONFIG, lambda: io.BytesIO(EMPTY_CONFIG_BYTES))
    rehearsal = Rehearsal(real)

    assert rehearsal.resolve_blob("a", EMPTY_CONFIG.digest).size == 2
    real.delete_blob("a", EMPTY_CONFIG.digest)
    with pytest.raises(BlobUnknown):
        rehearsal.resolve_blob("a", EMPTY_CONFIG.digest)

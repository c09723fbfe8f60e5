"""A fake registry with a plain client of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.fakes.probe_client import Probe
from tests.fakes.registry import OCI, FakeRegistry, Quirks

Start = Callable[..., tuple[FakeRegistry, Probe]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a registry and a plain client of it; both end with the test."""
    opened: list[FakeRegistry | Probe] = []

    def begin(quirks: Quirks = OCI, **options: Any) -> tuple[FakeRegistry, Probe]:
        registry = FakeRegistry(quirks, **options).start()
        client = Probe(registry.host)
        opened.extend((registry, client))
        return registry, client

    yield begin
    for one in reversed(opened):
        one.close()

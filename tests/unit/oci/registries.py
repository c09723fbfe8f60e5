"""A client for tests: nothing of this machine's own configuration, no waiting."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dockercomms.oci.auth.credentials import DockerConfig
from dockercomms.oci.model import MEDIA_TYPE_OCTET_STREAM, Descriptor
from dockercomms.oci.remote.registry import HTTPRegistry
from dockercomms.oci.remote.retry import RetryPolicy
from tests.fakes.clock import FakeClock
from tests.fakes.registry import OCI, FakeRegistry, Quirks

R = "team/box"
MIB = 2**20


def content(length: int, *, seed: int = 1) -> bytes:
    """Return `length` bytes that do not repeat."""
    return random.Random(seed).randbytes(length)


def described(data: bytes) -> tuple[Descriptor, Callable[[], io.BytesIO]]:
    """Return the descriptor of a blob and what opens it."""
    return Descriptor.of(data, MEDIA_TYPE_OCTET_STREAM), lambda: io.BytesIO(data)


def client(
    host: str, *, retry: RetryPolicy | None = None, clock: FakeClock | None = None
) -> HTTPRegistry:
    """Return a client that waits on a clock of its own."""
    return HTTPRegistry(
        host,
        auth=DockerConfig(),
        retry=RetryPolicy.requests() if retry is None else retry,
        clock=clock or FakeClock(),
        timeout=60.0,
    )


@contextmanager
def serving(
    quirks: Quirks = OCI, *, retry: RetryPolicy | None = None, clock: FakeClock | None = None
) -> Iterator[tuple[FakeRegistry, HTTPRegistry]]:
    """Give a fake registry and a client of it."""
    with FakeRegistry(quirks) as server, client(server.host, retry=retry, clock=clock) as registry:
        yield server, registry

"""The rows that docker/oci's client was measured by, and a client that replays them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dockercomms.oci.auth.credentials import DockerConfig
from dockercomms.oci.model import Digest
from dockercomms.oci.remote.registry import HTTPRegistry
from dockercomms.oci.remote.retry import RetryPolicy
from tests.fakes.clock import FakeClock
from tests.fakes.scripted import Reply, ScriptedServer

SEEDS = Path(__file__).parents[2] / "spec/vectors/seeds"
CONTENT = b"0123456789abcdefghij"
DIGEST = Digest("sha256:6bc14bdc4517a7a682c6910de2e2946eb8e1ecd04090728fef6d092a7ceb62c5")
OTHER_HOST = "http://other.example"


def rows(name: str, members: set[str]) -> list[dict[str, Any]]:
    """Return the rows of one file; a member that no test knows is an error."""
    found: list[dict[str, Any]] = json.loads((SEEDS / f"ociclient_{name}.json").read_text())
    for row in found:
        unknown = set(row) - members
        if unknown:
            raise ValueError(f"{row.get('name')}: unknown members {unknown}")
    return found


@contextmanager
def replaying(*replies: Reply) -> Iterator[tuple[HTTPRegistry, ScriptedServer]]:
    """Give a client of a server that gives `replies` in turn."""
    with (
        ScriptedServer(*replies) as server,
        HTTPRegistry(
            server.host, auth=DockerConfig(), retry=RetryPolicy.none(), clock=FakeClock()
        ) as registry,
    ):
        yield registry, server


def headers_of(request: dict[str, Any]) -> dict[str, str]:
    """Return the response headers that a row's request was answered with."""
    return dict(request.get("response_headers") or {})

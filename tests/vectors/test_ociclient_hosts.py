"""The hosts that docker/oci's client accepts, the addresses it asks, and our behaviour."""

from __future__ import annotations

from typing import Any

import pytest

from dockercomms.errors import UsageError
from dockercomms.oci.remote.registry import HTTPRegistry
from tests.vectors.ociclient import rows

ROWS = rows("hosts", {"host", "insecure", "request", "error"})

DIFFERENCES: dict[str, tuple[str | None, str]] = {
    "": (None, "no host is no registry"),
    "localhost": ("http://localhost", "this machine's loopback is spoken to without TLS"),
    "[::1]:5000": ("http://[::1]:5000", "the same"),
}
"""Host: where ours asks in place of it, None for an error, and why."""


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["host"] or "empty")
def test_host_is_taken_as_measured(row: dict[str, Any]) -> None:
    assert row["insecure"] is False
    expected = None if "error" in row else row["request"].partition("/v2/")[0]
    if row["host"] in DIFFERENCES:
        expected = DIFFERENCES[row["host"]][0]
    if expected is None:
        with pytest.raises(UsageError):
            HTTPRegistry(row["host"])
    else:
        assert HTTPRegistry(row["host"]).endpoint.base_url == expected

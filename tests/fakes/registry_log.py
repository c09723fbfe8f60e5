"""The records of requests to a fake registry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tests.fakes.registry_faults import Fault


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """One request as it was served, noted before its answer leaves."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    """Request headers, names in lower case."""
    request_bytes: int
    """Body bytes that came in."""
    status: int | None
    """`None` for a request without an answer."""
    response_headers: Mapping[str, str]
    response_bytes: int
    """Body bytes that were sent; 0 for HEAD."""
    fault: Fault | None

    @property
    def target(self) -> str:
        """Path and query, the query's pairs in the order they came."""
        pairs = "&".join(f"{k}={v}" for k, values in self.query.items() for v in values)
        return f"{self.path}?{pairs}" if pairs else self.path

"""What is remembered of a transfer, and what it tells while it runs.

Example:
    >>> from dockercomms.transport.journal import NullJournal
    >>> NullJournal().chunk(0) is None
    True
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from dockercomms.oci.model import Descriptor, Digest

DEFAULT_CONCURRENCY = 4
"""Chunks under way at once: enough to hide a registry's latency, little enough memory."""


class Journal(Protocol):
    """What is remembered of a transfer, so that an interrupted one can go on. Thread-safe."""

    def known(self, digest: Digest) -> float | None:
        """Return the unix time at which the store last confirmed a blob; None if never."""
        ...

    def confirm(self, digest: Digest) -> None:
        """Note that the store has this blob now."""
        ...

    def chunk(self, index: int) -> Descriptor | None:
        """Return the layer an earlier run made of this chunk of the same unchanged source."""
        ...

    def record_chunk(self, index: int, descriptor: Descriptor) -> None:
        """Note which layer a chunk became."""
        ...


@dataclass(frozen=True, slots=True)
class NullJournal:
    """Remembers nothing."""

    def known(self, digest: Digest) -> float | None:  # noqa: ARG002 - the interface's
        """Return None."""
        return None

    def confirm(self, digest: Digest) -> None:
        """Do nothing."""

    def chunk(self, index: int) -> Descriptor | None:  # noqa: ARG002 - the interface's
        """Return None."""
        return None

    def record_chunk(self, index: int, descriptor: Descriptor) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressEvent:
    """A chunk has arrived. Events come in the caller's thread, in the order of arrival."""

    done_bytes: int
    """Payload bytes of all chunks that have arrived."""
    total_bytes: int | None
    """None for a stream of unknown length."""
    chunk: int
    reused: bool
    """The store had it already, so nothing was sent."""


Progress = Callable[[ProgressEvent], None]

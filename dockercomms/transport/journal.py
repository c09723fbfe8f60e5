"""The record of a transfer for resuming it, and its progress events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from dockercomms.oci.model import Descriptor, Digest
from dockercomms.platforms.records import dataclass

DEFAULT_CONCURRENCY = 4
"""Chunks under way at once: hides a registry's latency, and needs little memory."""


class Journal(Protocol):
    """A record of a push, so that an interrupted one can continue. Thread-safe."""

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
        """Note the layer of a chunk."""
        ...


@dataclass(frozen=True, slots=True)
class NullJournal:
    """A journal without a record."""

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


class PullJournal(Protocol):
    """A record of the chunks in the file that a payload is pulled into. Thread-safe."""

    def arrived(self) -> frozenset[int]:
        """Return the indexes of the chunks that an earlier run wrote into the same file."""
        ...

    def record(self, index: int) -> None:
        """Note that a chunk is in the file, complete, and verified by its layer's digest."""
        ...

    def forget(self) -> None:
        """Delete the record of the file."""
        ...


@dataclass(frozen=True, slots=True)
class NullPullJournal:
    """A journal without a record."""

    def arrived(self) -> frozenset[int]:
        """Return an empty set."""
        return frozenset()

    def record(self, index: int) -> None:
        """Do nothing."""

    def forget(self) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressEvent:
    """The arrival of a chunk, reported in the caller's thread, in the order of arrival."""

    done_bytes: int
    """Payload bytes of all chunks that have arrived."""
    total_bytes: int | None
    """None for a stream of unknown length."""
    chunk: int
    reused: bool
    """The store had it already, so it was not sent."""


Progress = Callable[[ProgressEvent], None]

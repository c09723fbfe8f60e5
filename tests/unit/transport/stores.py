"""The fixtures of the tests of pushing and pulling: a watched store, and messages about it."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from dockercomms.oci.content import StoredReader
from dockercomms.oci.memory import MemoryRegistry
from dockercomms.oci.model import Descriptor, Digest
from dockercomms.protocol.header import CHUNK_SIZE, MessageHeader
from dockercomms.protocol.manifest import ManifestBuilder, Message, parse_message
from dockercomms.transport.push import Pushed

REPO = "mail"
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


class WatchedRegistry(MemoryRegistry):
    """Notes what is asked of it; `before` may raise."""

    def __init__(self, before: Callable[[str, Digest], None] = lambda name, digest: None) -> None:
        super().__init__()
        self.before = before
        self.calls: list[tuple[str, Digest]] = []
        self._watch = threading.Lock()

    def _note(self, name: str, digest: Digest) -> None:
        with self._watch:
            self.calls.append((name, digest))
        self.before(name, digest)

    def names(self, name: str) -> list[Digest]:
        return [digest for called, digest in self.calls if called == name]

    def resolve_blob(self, repository, digest):
        self._note("resolve", digest)
        return super().resolve_blob(repository, digest)

    def push_blob(self, repository, descriptor, source, *, progress=None):
        self._note("push", descriptor.digest)
        return super().push_blob(repository, descriptor, source, progress=progress)

    def get_blob(self, repository, digest, *, size=None):
        self._note("get", digest)
        return super().get_blob(repository, digest, size=size)


class LyingRegistry(WatchedRegistry):
    """Gives other bytes than it was asked for."""

    def __init__(self, lie) -> None:
        super().__init__()
        self.lie = lie

    def get_blob(self, repository, digest, *, size=None):
        data = super().get_blob(repository, digest, size=size).read()
        descriptor = Descriptor(
            media_type="application/octet-stream", digest=digest, size=len(data)
        )
        return StoredReader(io.BytesIO(self.lie(data)), descriptor)


@dataclass
class MemoryJournal:
    """Remembers in dicts."""

    confirmed: dict[Digest, float] = field(default_factory=dict)
    chunks: dict[int, Descriptor] = field(default_factory=dict)
    now: float = NOW.timestamp()

    def known(self, digest):
        return self.confirmed.get(digest)

    def confirm(self, digest):
        self.confirmed[digest] = self.now

    def chunk(self, index):
        return self.chunks.get(index)

    def record_chunk(self, index, descriptor):
        self.chunks[index] = descriptor


def message_of(pushed: Pushed, *, version: str = "1.1", **changes) -> Message:
    """The message about a pushed payload; version 1.0 does not say how large a chunk is."""
    fields = {
        "id": "4608761c-de19-4c43-bc0f-e9ca4a852f8d",
        "sender": "alice",
        "recipient": "bob",
        "created_at": NOW,
        "ttl_seconds": 3600,
        "filename": "f.bin",
        "total_bytes": pushed.total_bytes,
        "chunk_bytes": pushed.chunk_bytes,
        "chunk_count": len(pushed.layers),
        "compression": pushed.compression,
        "payload_digest": pushed.payload_digest,
    }
    annotations = MessageHeader(**(fields | changes)).to_annotations(compat=version == "1.0")
    layers = pushed.layers
    if version == "1.0":
        layers = tuple(
            Descriptor(
                media_type=layer.media_type,
                digest=layer.digest,
                size=layer.size,
                annotations={
                    key: value for key, value in layer.annotations.items() if key != CHUNK_SIZE
                },
            )
            for layer in layers
        )
    return parse_message(ManifestBuilder.message(annotations, layers).build()[0])

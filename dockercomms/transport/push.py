"""A payload pushed as layers: several at once, in bounded memory, each of them once.

    payload -- split --> chunk -- encode --> layer -- push --> descriptor

One thread processes a chunk from end to end. The caller's thread reads the payload and computes
its digest in order. Memory is a window of fixed size: a chunk's buffer is free when its layer is
made, a layer's when the store has it. Chunks of a file are read from the file and need no buffer.
If such a chunk does not shrink, the caller's thread computes the layer's digest together with the
payload's, while the bytes are in the cache, and the layer needs no buffer either.

Source: SPEC.md sections 4 and 6.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import threading
from collections.abc import Callable, Iterator
from dataclasses import field, replace
from functools import partial
from typing import BinaryIO, Literal, Protocol

from dockercomms.errors import DigestInvalid, DigestMismatch, LocalIOError, NotFoundError
from dockercomms.oci.interface import BlobSource, ProgressHook, Registry
from dockercomms.oci.model import Descriptor, Digest
from dockercomms.platforms.clock import Clock
from dockercomms.platforms.files import local_errors
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.header import (
    BLOB_CONFIRMED_SECONDS,
    CHUNK_INDEX,
    CHUNK_MEDIA_TYPES,
    CHUNK_SIZE,
    MAX_INLINE_BYTES,
    MAX_INLINE_TOTAL_BYTES,
    Compression,
)
from dockercomms.transport.chunks import Chunk, choose_chunk_bytes, room_bytes, split
from dockercomms.transport.files import wrong_size
from dockercomms.transport.in_place import PlacedChunk, PlacedFile, PlacedTar, StoredLayer, store
from dockercomms.transport.journal import (
    DEFAULT_CONCURRENCY,
    Journal,
    NullJournal,
    Progress,
    ProgressEvent,
)
from dockercomms.transport.layer import Layer, encode, goes_raw, layer_bytes
from dockercomms.transport.payload import Payload
from dockercomms.transport.window import PIECE_BYTES, Buffers, Stop, looped, run_window

Compress = Literal["auto", "zstd", "gzip"]
ASK_FIRST_BYTES = 65_535
"""A layer up to this size is cheaper to send again than to ask for (one request, not three)."""
ASK_EACH = 16
"""After the store lacked a layer, only every 16th is asked for before it is sent."""
ENCODERS = 2
"""Extra threads that make the next layers while a registry writes to its disk."""
SMALL_BYTES = 2**16
"""The least size of a buffer; a smaller payload than a chunk gets smaller buffers."""
MAX_INLINE_LAYERS = 64
"""The most small layers that are kept for the manifest."""
LARGE_TOTAL_BYTES = 512 * 2**20
LARGE_CHUNK_BYTES = 32 * 2**20
"""Chunk size for files of 512 MiB and more that do not shrink: no memory, 5 % less time."""
WINDOW_BYTES = 64 * 2**20
"""Memory for all chunks and layers, or two chunks with their layers if those are larger."""
_COMPRESSIONS: dict[Compress, Compression] = {"auto": "zstd", "zstd": "zstd", "gzip": "gzip"}
"""With zstd, `encode` leaves incompressible chunks uncompressed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """The values for a message's manifest; the store has the layers."""

    layers: tuple[Descriptor, ...]
    """In order, with their index and payload bytes as annotations."""
    payload_digest: Digest
    total_bytes: int
    chunk_bytes: int
    """The most payload bytes in a chunk."""
    compression: Compression
    reused_chunks: int


class BlobTarget(Protocol):
    """A store that says which blobs it has, and takes others."""

    def resolve_blob(self, repository: str, digest: Digest) -> Descriptor:
        """As `Reader.resolve_blob`."""

    def push_blob(
        self,
        repository: str,
        descriptor: Descriptor,
        source: BlobSource,
        *,
        progress: ProgressHook | None = None,
    ) -> Descriptor:
        """As `Writer.push_blob`."""


def push_payload(
    registry: BlobTarget,
    repository: str,
    payload: Payload,
    *,
    compress: Compress = "auto",
    chunk_bytes: int | None = None,
    concurrency: int = DEFAULT_CONCURRENCY,
    journal: Journal | None = None,
    progress: Progress | None = None,
) -> Pushed:
    """Push a payload's chunks; they stay invisible until a manifest names them.

    A stream is read once; a file a second time to be sent, and a third time if it shrinks. Memory
    holds at most `concurrency` chunks or their layers and one chunk more; for a file that does
    not shrink, one buffer for each connection.

    Args:
        registry: The store.
        repository: The repository's name in it.
        payload: The payload.
        compress: The compression; "auto" is zstd.
        chunk_bytes: The size of the chunks; default: chosen by the payload's size.
        concurrency: Chunks sent at once.
        journal: The record of an earlier run of the same send.
        progress: Called for each chunk that has arrived.

    Raises:
        LocalIOError: the payload is not readable, or changed meanwhile.
        LimitError: it is too large, or too large for such chunks.
        RegistryError, NetworkError: the store refuses or is not reachable.
    """
    size = choose_chunk_bytes(payload.total_bytes, chunk_bytes)
    compression = _COMPRESSIONS[compress]
    stop = Stop()
    line = threading.Semaphore(concurrency)
    reading = _Reading()
    results: dict[int, _PushedChunk] = {}
    done = 0
    with payload.open() as stream, _unchanged(payload):
        file = _placed(stream, payload)
        if file is not None and chunk_bytes is None and compression == "zstd":
            size = _enlarged(size, file, payload.total_bytes or 0)
        cut = _cut_bytes(size, payload)
        room = _Room(cut, concurrency, stop, placed=file is not None)
        pusher = _Pusher(
            registry, repository, compression, journal or NullJournal(), stop, room, line
        )
        tasks = (
            _tasks(pusher, reading, stream, cut, payload.filename)
            if file is None
            else _tasks_in_place(pusher, reading, file, cut, payload.total_bytes or 0)
        )
        alone = payload.total_bytes is not None and payload.total_bytes <= cut
        running = run_window(tasks, concurrency=concurrency + ENCODERS, stop=stop, alone=alone)
        with looped(running) as window:
            for index, result in window:
                results[index] = result
                done += result.chunk_bytes
                if progress is not None:
                    progress(
                        ProgressEvent(
                            done_bytes=done,
                            total_bytes=payload.total_bytes,
                            chunk=index,
                            reused=result.reused,
                        )
                    )
    payload.check_unchanged()
    if payload.total_bytes not in (None, reading.total_bytes):
        raise wrong_size(payload.filename, payload.total_bytes or 0, str(reading.total_bytes))
    return Pushed(
        layers=_inlined([results[index] for index in range(len(results))]),
        payload_digest=reading.digest(),
        total_bytes=reading.total_bytes,
        chunk_bytes=min(size, reading.total_bytes),
        compression=compression,
        reused_chunks=sum(result.reused for result in results.values()),
    )


def _placed(stream: BinaryIO, payload: Payload) -> PlacedFile | None:
    """Return the file behind `stream`, if it can be read at any offset."""
    if isinstance(stream, io.FileIO) and (payload.total_bytes or 0) > PIECE_BYTES:
        return PlacedFile(stream.fileno(), payload.filename)
    return None


def _enlarged(chunk_bytes: int, file: PlacedFile, total_bytes: int) -> int:
    """Return the chunk size of a file: larger if it is large and does not shrink."""
    if total_bytes < LARGE_TOTAL_BYTES or chunk_bytes >= LARGE_CHUNK_BYTES:
        return chunk_bytes
    first = PlacedChunk(file, 0, chunk_bytes)
    return LARGE_CHUNK_BYTES if goes_raw(first.tar(0)) else chunk_bytes


def _cut_bytes(chunk_bytes: int, payload: Payload) -> int:
    """Return the number of bytes to read for one chunk."""
    if payload.total_bytes is None:
        return chunk_bytes
    return min(chunk_bytes, max(payload.total_bytes, SMALL_BYTES))


@contextlib.contextmanager
def _unchanged(payload: Payload) -> Iterator[None]:
    """Report that the payload changed, if its bytes do not have the digest any more."""
    try:
        yield
    except (DigestInvalid, DigestMismatch):
        payload.check_unchanged()
        raise


def _tasks(
    pusher: _Pusher, reading: _Reading, stream: BinaryIO, chunk_bytes: int, what: str
) -> Iterator[Callable[[], _PushedChunk]]:
    for index, chunk in enumerate(reading.chunks(stream, chunk_bytes, pusher.room, what)):
        yield partial(pusher.push, index, chunk)


def _tasks_in_place(
    pusher: _Pusher, reading: _Reading, file: PlacedFile, chunk_bytes: int, total_bytes: int
) -> Iterator[Callable[[], _PushedChunk]]:
    for index, start in enumerate(range(0, total_bytes, chunk_bytes)):
        chunk = PlacedChunk(file, start, min(chunk_bytes, total_bytes - start))
        if pusher.goes_raw(index, chunk):
            layer = reading.stored(chunk.tar(index))
            yield partial(pusher.push_placed, index, chunk, layer)
        else:
            yield partial(pusher.push_placed, index, chunk, None)
            reading.placed(chunk.tar(index))


def _inlined(results: list[_PushedChunk]) -> tuple[Descriptor, ...]:
    """Return the layers' descriptors, with content if all layers together are small enough.

    Then a receiver needs only the manifest. Source: SPEC.md section 2.
    """
    contents = [result.content for result in results]
    if any(content is None for content in contents):
        return tuple(result.layer for result in results)
    if sum(len(content or b"") for content in contents) > MAX_INLINE_TOTAL_BYTES:
        return tuple(result.layer for result in results)
    return tuple(replace(result.layer, data=result.content) for result in results)


class _Room:
    """The buffers of one push: for layers, and for chunks that are not in a file."""

    def __init__(
        self, chunk_bytes: int, concurrency: int, stop: Stop, *, placed: bool = False
    ) -> None:
        count = max(2 if placed else 4, WINDOW_BYTES // chunk_bytes)
        chunks = 0 if placed else max(2, count * 3 // 8)
        self.chunks = Buffers(
            room_bytes(chunk_bytes), count=min(chunks, concurrency + 1), stop=stop
        )
        self.layers = Buffers(
            layer_bytes(chunk_bytes),
            count=min(count - chunks, concurrency + (ENCODERS if placed else 0)),
            stop=stop,
        )


class _Reading:
    """Counts and hashes the payload while it is read."""

    def __init__(self) -> None:
        self.total_bytes = 0
        self._hash = hashlib.sha256()

    def chunks(self, stream: BinaryIO, chunk_bytes: int, room: _Room, what: str) -> Iterator[Chunk]:
        """Yield the chunks of `stream`; the receiver of each gives its buffer back."""
        chunks = split(stream, chunk_bytes, room=room.chunks.take, seen=self._hash.update)
        while True:
            with local_errors(what):
                chunk = next(chunks, None)
            if chunk is None:
                return
            self.total_bytes += chunk.size
            yield chunk

    def placed(self, tar: PlacedTar) -> None:
        """Read a chunk."""
        for _ in tar.pieces(PIECE_BYTES, self._hash.update):
            pass
        self.total_bytes += tar.chunk.size

    def stored(self, tar: PlacedTar) -> StoredLayer:
        """Read a chunk, and return the layer that holds it in raw blocks."""
        layer = store(tar, self._hash.update)
        self.total_bytes += tar.chunk.size
        return layer

    def digest(self) -> Digest:
        """Return the digest of all bytes read."""
        return Digest(f"sha256:{self._hash.hexdigest()}")


@dataclass(frozen=True, slots=True)
class _PushedChunk:
    layer: Descriptor
    chunk_bytes: int
    reused: bool
    content: bytes | None = None
    """The layer, if it is small."""


class _Expectation:
    """Decides whether to ask the store for a layer: if it had the last one, or every 16th."""

    def __init__(self) -> None:
        self._had = True

    def worth_asking(self, index: int) -> bool:
        """Return whether to ask before sending."""
        return self._had or index % ASK_EACH == 0

    def note(self, *, had: bool) -> None:
        """Note the store's answer. Thread-safe; the order of answers is not important."""
        self._had = had


@dataclass(frozen=True, slots=True)
class _Pusher:
    """Pushes one chunk at a time. Thread-safe."""

    registry: BlobTarget
    repository: str
    compression: Compression
    journal: Journal
    stop: Stop
    room: _Room
    line: threading.Semaphore
    """Held during a request, so that other threads compress meanwhile."""
    expectation: _Expectation = field(default_factory=_Expectation)

    def push(self, index: int, chunk: Chunk) -> _PushedChunk:
        """Push the layer of `chunk` if the store lacks it, and give the chunk's buffer back."""
        with self.room.chunks.borrowed(chunk.room):
            known = self._known(index, chunk.size)
            if known is not None:
                return known
            buffer, layer = self._encoded(index, chunk)
        with self.room.layers.borrowed(buffer):
            return self._push(index, chunk.size, layer)

    def push_placed(
        self, index: int, chunk: PlacedChunk, stored: StoredLayer | None
    ) -> _PushedChunk:
        """Push the layer of `chunk` if the store lacks it; `stored` is that layer, if known."""
        known = self._known(index, chunk.size)
        if known is not None:
            return known
        if stored is not None:
            return self._push(index, chunk.size, stored)
        buffer, layer = self._encoded(index, chunk)
        with self.room.layers.borrowed(buffer):
            return self._push(index, chunk.size, layer)

    def goes_raw(self, index: int, chunk: PlacedChunk) -> bool:
        """Return whether the layer of `chunk` will be a frame of raw blocks."""
        if self.compression != "zstd" or self._recorded(index, chunk.size) is not None:
            return False
        return goes_raw(chunk.tar(index))

    def _known(self, index: int, chunk_bytes: int) -> _PushedChunk | None:
        """Return the layer that an earlier run made, if the store has it."""
        self.stop.check()
        recorded = self._recorded(index, chunk_bytes)
        if recorded is None or not self.has(recorded):
            return None
        return _PushedChunk(recorded, chunk_bytes, reused=True, content=recorded.data)

    def _encoded(self, index: int, chunk: Chunk | PlacedChunk) -> tuple[memoryview, Layer]:
        """Return the buffer and the layer of a chunk; the caller gives the buffer back."""
        buffer = self.room.layers.take()
        with self.room.layers.kept_unless_raised(buffer):
            return buffer, encode(chunk, index, self.compression, into=buffer)

    def _push(self, index: int, chunk_bytes: int, layer: Layer | StoredLayer) -> _PushedChunk:
        small = layer.size <= MAX_INLINE_BYTES and index < MAX_INLINE_LAYERS
        content = bytes(layer.content) if small and isinstance(layer, Layer) else None
        descriptor = Descriptor(
            media_type=CHUNK_MEDIA_TYPES[self.compression],
            digest=layer.digest,
            size=layer.size,
            annotations={CHUNK_INDEX: str(index), CHUNK_SIZE: str(chunk_bytes)},
        )
        reused = self._may_be_there(index, descriptor) and self.has(descriptor)
        if not reused:
            self.send(descriptor, layer)
        recorded = descriptor if content is None else replace(descriptor, data=content)
        self.journal.record_chunk(index, recorded)
        return _PushedChunk(descriptor, chunk_bytes, reused=reused, content=content)

    def _may_be_there(self, index: int, descriptor: Descriptor) -> bool:
        """Return whether to ask for a layer before it is sent."""
        if self.journal.known(descriptor.digest) is not None:
            return True
        return descriptor.size > ASK_FIRST_BYTES and self.expectation.worth_asking(index)

    def send(self, descriptor: Descriptor, layer: Layer | StoredLayer) -> None:
        """Push a layer, and record it."""
        self.stop.check()
        blob = layer.blob(self.stop.check)
        with self.line:
            self.stop.check()
            self.registry.push_blob(self.repository, descriptor, blob)
        self.journal.confirm(descriptor.digest)

    def _recorded(self, index: int, chunk_bytes: int) -> Descriptor | None:
        """Return the recorded layer of a chunk, if it has this run's compression and chunk size."""
        recorded = self.journal.chunk(index)
        if recorded is None or recorded.media_type != CHUNK_MEDIA_TYPES[self.compression]:
            return None
        place = (recorded.annotations.get(CHUNK_INDEX), recorded.annotations.get(CHUNK_SIZE))
        return recorded if place == (str(index), str(chunk_bytes)) else None

    def has(self, descriptor: Descriptor) -> bool:
        """Return whether the store has this blob, in this size."""
        self.stop.check()
        try:
            with self.line:
                there = self.registry.resolve_blob(self.repository, descriptor.digest)
        except NotFoundError:
            self.expectation.note(had=False)
            return False
        self.expectation.note(had=there.size == descriptor.size)
        if there.size != descriptor.size:
            return False
        self.journal.confirm(descriptor.digest)
        return True


def confirm_blobs(
    registry: Registry,
    repository: str,
    payload: Payload,
    pushed: Pushed,
    *,
    journal: Journal,
    clock: Clock,
    concurrency: int = DEFAULT_CONCURRENCY,
) -> int:
    """Check that the store has every layer, just before a manifest names them.

    Registries remove blobs without a manifest. Each layer that was not confirmed in the last ten
    minutes is asked for, and made again from the payload if it is gone.

    Returns:
        The number of layers pushed again.

    Raises:
        LocalIOError: the payload is needed again and has changed, or was a stream.
    """
    stop = Stop()
    room = _Room(1, concurrency, stop)
    line = threading.Semaphore(concurrency)
    pusher = _Pusher(registry, repository, pushed.compression, journal, stop, room, line)
    now = clock.now().timestamp()
    stale = [
        layer
        for layer in pushed.layers
        if now - (journal.known(layer.digest) or 0) > BLOB_CONFIRMED_SECONDS
    ]
    tasks = (partial(pusher.has, layer) for layer in stale)
    gone = [
        stale[number]
        for number, there in run_window(tasks, concurrency=concurrency, stop=stop)
        if not there
    ]
    if gone:
        _push_again(pusher, payload, pushed, {layer.digest for layer in gone})
    return len(gone)


def _push_again(pusher: _Pusher, payload: Payload, pushed: Pushed, gone: set[Digest]) -> None:
    """Make the layers `gone` again from the payload, one after another: this is rare."""
    with payload.open() as stream:
        for index, layer in enumerate(pushed.layers):
            with local_errors(payload.filename):
                chunk = next(split(stream, max(1, int(layer.annotations[CHUNK_SIZE]))))
            if layer.digest not in gone:
                continue
            again = encode(chunk, index, pushed.compression)
            if again.digest != layer.digest:
                raise LocalIOError(
                    f"{payload.filename}: chunk {index} changed since the interrupted send",
                    hint="send it again with --again",
                )
            pusher.send(layer, again)
    payload.check_unchanged()

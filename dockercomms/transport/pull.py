"""A payload pulled from its layers: several at once, in bounded memory.

    descriptor -- get --> layer -- decode --> pieces -- write at offset --> payload

One thread processes a layer from end to end, through two small buffers of its own, and writes its
pieces at their offset in the file. The caller's thread computes the payload's digest in order,
from the chunks that have arrived, and from chunks that an earlier run left in the file.

Source: SPEC.md sections 4 and 8.
"""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import field
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, BinaryIO, Protocol, cast

from dockercomms.errors import IntegrityError, LocalIOError, ProtocolError
from dockercomms.oci.content import ByteStream, FillingStream
from dockercomms.oci.interface import Reader
from dockercomms.oci.model import Descriptor, Digest
from dockercomms.platforms.files import (
    HELPFUL_CALL_CODES,
    begin_writing,
    is_hole,
    local_errors,
    read_at,
)
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.manifest import ChunkLayer, Message
from dockercomms.transport.chunks import join, write_all
from dockercomms.transport.journal import (
    DEFAULT_CONCURRENCY,
    NullPullJournal,
    Progress,
    ProgressEvent,
    PullJournal,
)
from dockercomms.transport.layer import decode
from dockercomms.transport.window import Buffers, Stop, looped, run_window

if TYPE_CHECKING:
    from hashlib import _Hash

_WHAT = "payload"
_WRITE_BYTES = 2**16
"""Bytes per write. For larger writes Linux allocates larger pieces of memory; where the host must
supply them first (a virtual machine that released memory), that took twice the time."""


class Places(Protocol):
    """The file of a payload, written at any offset. Thread-safe."""

    def write(self, offset: int, piece: bytes | memoryview) -> None:
        """Write all of `piece` at `offset`.

        Raises:
            LocalIOError: the file is not writable.
        """
        ...

    def hash_into(self, hashed: _Hash, start: int, stop: int, room: memoryview) -> None:
        """Hash the bytes of the file from `start` to `stop`, read through `room`.

        Raises:
            LocalIOError: the file is not readable.
        """
        ...


def places(sink: BinaryIO, total_bytes: int) -> Places:
    """Return a writer for a file that will have `total_bytes` bytes.

    Raises:
        LocalIOError: the file cannot become that long.
    """
    try:
        handle = sink.fileno()
    except (OSError, io.UnsupportedOperation):
        return _LockedPlaces(sink)
    if not hasattr(os, "pwrite"):
        return _LockedPlaces(sink)
    with local_errors(_WHAT):
        sink.flush()
        try:
            os.ftruncate(handle, total_bytes)
        except OSError as error:
            if error.errno not in HELPFUL_CALL_CODES:
                raise
            os.pwrite(handle, b"\0", total_bytes - 1)  # a payload has at least one byte
    return _FilePlaces(handle)


@dataclass(frozen=True, slots=True)
class _FilePlaces:
    """A file with a descriptor, written at any offset.

    One thread at a time: Linux allows one writer per file, and waiting writers use up processor
    time (7 % of a receive, measured).
    """

    handle: int
    lock: threading.Lock = field(default_factory=threading.Lock)

    def write(self, offset: int, piece: bytes | memoryview) -> None:
        view = memoryview(piece)
        with self.lock, local_errors(_WHAT):
            if _is_zero(view) and is_hole(self.handle, offset, len(view)):
                return  # keeps a sparse file sparse
            while view:
                count = os.pwrite(self.handle, view[:_WRITE_BYTES], offset)
                view, offset = view[count:], offset + count

    def hash_into(self, hashed: _Hash, start: int, stop: int, room: memoryview) -> None:
        at = start
        while at < stop:
            view = room[: min(len(room), stop - at)]
            with local_errors(_WHAT):
                count = read_at(self.handle, view, at)
            if not count:
                raise LocalIOError("payload: cannot read back the written bytes")
            hashed.update(view[:count])
            at += count
        with local_errors(_WHAT):
            begin_writing(self.handle, start, stop)


def _is_zero(view: memoryview) -> bool:
    """Return whether a piece has only zeros; if its last byte is not, the rest is not read."""
    return not (not view or view[0] or view[-1]) and bytes(view) == bytes(len(view))


@dataclass(frozen=True, slots=True)
class _LockedPlaces:
    """Any other file, which has one position that all threads share."""

    sink: BinaryIO
    lock: threading.Lock = field(default_factory=threading.Lock)

    def write(self, offset: int, piece: bytes | memoryview) -> None:
        with self.lock, local_errors(_WHAT):
            self.sink.seek(offset)
            write_all(self.sink, piece)

    def hash_into(self, hashed: _Hash, start: int, stop: int, room: memoryview) -> None:
        at = start
        while at < stop:
            with self.lock, local_errors(_WHAT):
                self.sink.seek(at)
                piece = self.sink.read(min(len(room), stop - at))
            if not piece:
                raise LocalIOError("payload: cannot read back the written bytes")
            hashed.update(piece)
            at += len(piece)


PIECE_BYTES = 2**20
"""Bytes received, hashed and decoded at once. Each step releases the interpreter lock and waits for
it again: pieces of 256 KiB cost a tenth of the time of a receive (measured)."""
SMALL_PIECE_BYTES = 2**13
"""The least size of a buffer; a smaller payload than a piece gets smaller buffers."""


def pull_payload(
    registry: Reader,
    repository: str,
    message: Message,
    sink: BinaryIO,
    *,
    concurrency: int = DEFAULT_CONCURRENCY,
    progress: Progress | None = None,
    journal: PullJournal | None = None,
) -> None:
    """Write the payload of a message into `sink`, and verify it against the manifest.

    `sink` is a file, open for writing and reading, at its start; it is empty, or an earlier run
    with the same `journal` left it. Do not use its content before this returns. Memory is bounded
    for every message.

    Args:
        registry: The store.
        repository: The repository's name in it.
        message: The message; its manifest has been checked.
        sink: The file to write.
        concurrency: Chunks under way at once. A 1.0 message does not give the offset of a chunk
            before the earlier ones are known, so its chunks are pulled one by one.
        progress: Called for each chunk that has arrived.
        journal: The chunks that `sink` holds already. They count only if the payload, hashed from
            the file, has the digest in the manifest; else all chunks are pulled again.

    Raises:
        IntegrityError: the store sent bytes with a wrong digest; another try may succeed.
        ProtocolError: the bytes have the digest in the manifest, but break a rule or contradict
            the manifest; another try cannot succeed.
        NotFoundError: a chunk is missing in the store.
        LocalIOError: `sink` is not writable, or changes its content.
    """
    stop = Stop()
    piece = min(PIECE_BYTES, max(SMALL_PIECE_BYTES, message.header.total_bytes))
    rooms = Buffers(2 * piece, count=concurrency + 1, stop=stop)
    puller = _Puller(registry, repository, message, stop, rooms)
    expected = message.header.payload_digest
    if any(chunk.chunk_bytes is None for chunk in message.chunks):
        digest = _pull_in_order(puller, sink, progress)
    else:
        kept = NullPullJournal() if journal is None or expected is None else journal
        parts = places(sink, message.header.total_bytes)
        arrived = kept.arrived()
        digest = _pull_at_once(puller, parts, concurrency, progress, kept)
        if digest != expected and arrived:
            kept.forget()
            digest = _pull_at_once(puller, parts, concurrency, progress, kept)
        if expected not in (None, digest) and _digest_in_order(puller) == expected:
            raise LocalIOError("payload: the bytes read back are not those written")
    if expected not in (None, digest):
        raise ProtocolError(f"payload: {expected} announced, {digest} received")


@dataclass(frozen=True, slots=True)
class _Puller:
    """Yields the payload bytes of one chunk at a time. Thread-safe."""

    registry: Reader
    repository: str
    message: Message
    stop: Stop
    rooms: Buffers

    def pieces(self, chunk: ChunkLayer) -> Iterator[bytes | memoryview]:
        """Yield the payload bytes of a chunk, each piece valid until the next.

        After a broken rule the rest of the layer is read all the same: the message is at fault only
        if the layer has its digest.
        """
        header = self.message.header
        with self._open(chunk.descriptor) as layer, self.rooms.lend() as room:
            half = len(room) // 2
            fill = layer.readinto if isinstance(layer, FillingStream) else None
            source = _Stoppable(layer, fill, self.stop, room[:half])
            try:
                yield from decode(
                    cast("ByteStream", source),
                    header.compression,
                    chunk.index,
                    limit=chunk.bound(header),
                    exact=chunk.chunk_bytes is not None,
                    room=room[half:],
                )
            except IntegrityError:
                raise
            except ProtocolError:
                while layer.read(PIECE_BYTES):
                    self.stop.check()
                raise

    def _open(self, layer: Descriptor) -> AbstractContextManager[ByteStream]:
        """Return the layer, from the manifest if it is inline, else from the store."""
        try:
            data = layer.inline()
        except IntegrityError as error:  # the manifest contradicts itself, permanently
            raise ProtocolError(str(error)) from error
        if data is not None:
            return io.BytesIO(data)
        return self.registry.get_blob(self.repository, layer.digest, size=layer.size)

    def pull(self, chunk: ChunkLayer, places: Places, offset: int, journal: PullJournal) -> None:
        """Write the payload bytes of a chunk at their offset."""
        self.stop.check()
        for piece in self.pieces(chunk):
            places.write(offset, piece)
            offset += len(piece)
        journal.record(chunk.index)


@dataclass(frozen=True, slots=True)
class _Stoppable:
    """A stream whose reads fail after another chunk has failed. `room` holds the last piece."""

    stream: ByteStream
    fill: Callable[[memoryview], int] | None
    """Reads the stream into a buffer, if it can."""
    stop: Stop
    room: memoryview

    def read(self, size: int = -1, /) -> bytes | memoryview:
        """Return up to `size` bytes."""
        self.stop.check()
        if self.fill is None:
            return self.stream.read(size)
        view = self.room[: min(size, len(self.room))]
        return view[: self.fill(view)]


def _pull_at_once(
    puller: _Puller,
    places: Places,
    concurrency: int,
    progress: Progress | None,
    journal: PullJournal,
) -> Digest:
    """Pull chunks of known offsets; hash the payload after them, in order."""
    chunks = puller.message.chunks
    offsets = [0, *accumulate(chunk.chunk_bytes or 0 for chunk in chunks)]
    arrived = {index for index in journal.arrived() if index < len(chunks)}
    missing = [chunk for chunk in chunks if chunk.index not in arrived]
    done = sum(chunks[index].chunk_bytes or 0 for index in arrived)
    tasks = (
        partial(puller.pull, chunk, places, offsets[chunk.index], journal) for chunk in missing
    )
    hashed = hashlib.sha256()
    following = 0
    running = run_window(tasks, concurrency=concurrency, stop=puller.stop, alone=len(missing) == 1)
    with puller.rooms.lend() as room, looped(running) as window:
        for number, _ in window:
            index = missing[number].index
            arrived.add(index)
            done += offsets[index + 1] - offsets[index]
            _tell(progress, puller.message, done, index)
            while following in arrived:
                places.hash_into(hashed, offsets[following], offsets[following + 1], room)
                following += 1
        while following in arrived:  # all chunks were there
            places.hash_into(hashed, offsets[following], offsets[following + 1], room)
            following += 1
    return Digest(f"sha256:{hashed.hexdigest()}")


def _pull_in_order(puller: _Puller, sink: BinaryIO, progress: Progress | None) -> Digest:
    """Pull chunks one by one: the offset of each is known after the one before it."""
    header = puller.message.header

    def pieces() -> Iterator[bytes | memoryview]:
        done = 0
        for chunk in puller.message.chunks:
            for piece in puller.pieces(chunk):
                done += len(piece)
                if done > header.total_bytes:
                    raise ProtocolError(
                        f"payload: {header.total_bytes} bytes announced, more received"
                    )
                yield piece
            _tell(progress, puller.message, done, chunk.index)

    with local_errors("payload"):
        total, digest = join(pieces(), sink)
    if total != header.total_bytes:
        raise ProtocolError(f"payload: {header.total_bytes} bytes announced, {total} received")
    return digest


def _digest_in_order(puller: _Puller) -> Digest:
    """Return the payload's digest without the file, to tell a bad disk from a bad message."""
    hashed = hashlib.sha256()
    for chunk in puller.message.chunks:
        for piece in puller.pieces(chunk):
            hashed.update(piece)
    return Digest(f"sha256:{hashed.hexdigest()}")


def _tell(progress: Progress | None, message: Message, done: int, chunk: int) -> None:
    if progress is not None:
        total = message.header.total_bytes
        progress(ProgressEvent(done_bytes=done, total_bytes=total, chunk=chunk, reused=False))

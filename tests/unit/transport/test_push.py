"""A payload pushed."""

from __future__ import annotations

import hashlib
import io
import os
import tracemalloc
from datetime import timedelta
from pathlib import Path
from random import Random

import pytest

from dockercomms.errors import DigestInvalid, DigestMismatch, LimitError, LocalIOError, NetworkError
from dockercomms.oci.model import Descriptor
from dockercomms.protocol.header import CHUNK_INDEX, CHUNK_SIZE, MEDIA_TYPE_CHUNK_GZIP
from dockercomms.transport import chunks
from dockercomms.transport import push as pushing
from dockercomms.transport.journal import NullJournal
from dockercomms.transport.payload import payload_of
from dockercomms.transport.push import confirm_blobs, push_payload
from tests.fakes.clock import FakeClock
from tests.unit.transport.stores import NOW, REPO, MemoryJournal, WatchedRegistry

DATA = Random(7).randbytes(1_000_000)
CHUNK = 100_000


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "f.bin"
    path.write_bytes(DATA)
    return path


def push(registry, file, **options):
    return push_payload(registry, REPO, payload_of([file]), **({"chunk_bytes": CHUNK} | options))


@pytest.mark.parametrize("compress", ["auto", "zstd", "gzip"])
def test_push_says_what_a_message_has_to_say(file, compress):
    pushed = push(WatchedRegistry(), file, compress=compress)
    assert pushed.total_bytes == len(DATA)
    assert pushed.payload_digest == "sha256:" + hashlib.sha256(DATA).hexdigest()
    assert pushed.chunk_bytes == CHUNK
    assert pushed.compression == ("gzip" if compress == "gzip" else "zstd")
    assert [layer.annotations for layer in pushed.layers] == [
        {CHUNK_INDEX: str(index), CHUNK_SIZE: str(CHUNK)} for index in range(10)
    ]
    assert pushed.reused_chunks == 0


def test_push_stores_every_layer(file):
    registry = WatchedRegistry()
    pushed = push(registry, file)
    assert sorted(registry.names("push")) == sorted(layer.digest for layer in pushed.layers)


def test_push_chooses_the_chunk_size(file):
    pushed = push(WatchedRegistry(), file, chunk_bytes=None)
    assert (len(pushed.layers), pushed.chunk_bytes) == (1, len(DATA))


@pytest.mark.parametrize("concurrency", [1, 3, 20])
def test_push_gives_the_same_layers_whatever_the_concurrency(file, concurrency):
    expected = push(WatchedRegistry(), file).layers
    assert push(WatchedRegistry(), file, concurrency=concurrency).layers == expected


def test_push_of_nothing_is_one_empty_chunk(file):
    file.write_bytes(b"")
    pushed = push(WatchedRegistry(), file)
    assert (pushed.total_bytes, pushed.chunk_bytes, len(pushed.layers)) == (0, 0, 1)
    assert pushed.layers[0].annotations[CHUNK_SIZE] == "0"


def test_push_of_a_stream_learns_its_length():
    payload = payload_of([Path("-")], name="n", stdin=io.BytesIO(DATA))
    pushed = push_payload(WatchedRegistry(), REPO, payload, chunk_bytes=CHUNK + 1)
    assert pushed.total_bytes == len(DATA)
    assert pushed.layers[-1].annotations[CHUNK_SIZE] == str(len(DATA) - 9 * (CHUNK + 1))


def test_push_of_a_stream_that_is_too_long_for_its_chunks_ends():
    payload = payload_of([Path("-")], name="n", stdin=io.BytesIO(bytes(10_001)))
    with pytest.raises(LimitError):
        push_payload(WatchedRegistry(), REPO, payload, chunk_bytes=1)


def test_push_tells_its_progress(file):
    events = []
    push(WatchedRegistry(), file, progress=events.append)
    assert [event.done_bytes for event in events] == [CHUNK * n for n in range(1, 11)]
    assert {event.total_bytes for event in events} == {len(DATA)}
    assert sorted(event.chunk for event in events) == list(range(10))
    assert not any(event.reused for event in events)


def test_second_push_sends_nothing(file):
    registry = WatchedRegistry()
    first = push(registry, file)
    registry.calls.clear()
    second = push(registry, file)
    assert second.layers == first.layers
    assert second.reused_chunks == 10
    assert registry.names("push") == []


def test_small_layers_are_pushed_without_asking(file):
    file.write_bytes(b"hello")
    registry = WatchedRegistry()
    push(registry, file)
    assert [name for name, _ in registry.calls] == ["push"]


def test_small_layers_that_are_known_are_asked_for(file):
    file.write_bytes(b"hello")
    registry, journal = WatchedRegistry(), MemoryJournal()
    push(registry, file, journal=journal)
    registry.calls.clear()
    journal.chunks.clear()
    assert push(registry, file, journal=journal).reused_chunks == 1
    assert [name for name, _ in registry.calls] == ["resolve"]


def test_layer_of_another_size_in_the_store_is_pushed_again(file):
    class Wrong(WatchedRegistry):
        def resolve_blob(self, repository, digest):
            there = super().resolve_blob(repository, digest)
            return Descriptor(media_type=there.media_type, digest=digest, size=there.size + 1)

    registry = Wrong()
    push(registry, file)
    assert push(registry, file).reused_chunks == 0


def test_interrupted_push_goes_on_where_it_was(file):
    journal = MemoryJournal()

    def fail(name, digest):
        if name == "push" and len(journal.chunks) >= 4:
            raise NetworkError("cut")

    registry = WatchedRegistry(fail)
    with pytest.raises(NetworkError, match="cut"):
        push(registry, file, journal=journal, concurrency=1)
    done = len(journal.chunks)
    registry.before = lambda name, digest: None
    registry.calls.clear()
    pushed = push(registry, file, journal=journal)
    assert pushed.reused_chunks == done == 4
    assert len(registry.names("push")) == 6
    assert pushed.layers == push(WatchedRegistry(), file).layers
    assert pushed.payload_digest == "sha256:" + hashlib.sha256(DATA).hexdigest()


@pytest.mark.parametrize(
    "changes",
    [
        {"media_type": MEDIA_TYPE_CHUNK_GZIP},
        {"annotations": {CHUNK_INDEX: "0", CHUNK_SIZE: "7"}},
        {"annotations": {CHUNK_INDEX: "1", CHUNK_SIZE: str(CHUNK)}},
        {"annotations": {}},
    ],
)
def test_recorded_layer_that_does_not_fit_is_not_believed(file, changes):
    registry, journal = WatchedRegistry(), MemoryJournal()
    right = push(registry, file).layers
    fields = {"media_type": right[0].media_type, "digest": right[1].digest, "size": right[1].size}
    journal.chunks[0] = Descriptor(**({"annotations": right[0].annotations} | fields | changes))
    assert push(registry, file, journal=journal).layers == right


def test_recorded_layer_that_is_gone_is_pushed_again(file):
    journal = MemoryJournal()
    first = push(WatchedRegistry(), file, journal=journal)
    registry = WatchedRegistry()
    assert push(registry, file, journal=journal).layers == first.layers
    assert len(registry.names("push")) == 10


def test_failure_ends_the_push_and_reads_no_more(file):
    def fail(name, digest):
        if name == "push":
            raise NetworkError("refused")

    registry = WatchedRegistry(fail)
    payload = payload_of([file])
    with pytest.raises(NetworkError, match="refused"):
        push_payload(registry, REPO, payload, chunk_bytes=1000, concurrency=2)
    assert len(registry.calls) < 20


@pytest.mark.parametrize("data", [DATA[:-1], DATA + b"x", DATA[:-1] + b"x"])
def test_file_that_changes_while_it_is_pushed_is_noticed(file, data):
    def change(name, digest):
        if name == "push" and not changed:
            changed.append(digest)
            file.write_bytes(data)
            os.utime(file, ns=(0, 0))

    changed = []
    with pytest.raises(LocalIOError, match="changed while it was sent"):
        push(WatchedRegistry(change), file)


def test_file_that_has_another_length_than_it_says_is_noticed():
    class Payload:  # as the files of /proc, which say that they are empty
        filename, total_bytes = "f", 0

        def open(self):
            return io.BytesIO(b"hello")

        def check_unchanged(self):
            pass

    with pytest.raises(LocalIOError, match="0 bytes expected by its size, 5 read"):
        push_payload(WatchedRegistry(), REPO, Payload())


def test_file_that_cannot_be_read_on_is_a_local_error(file):
    class Broken(io.BytesIO):
        def readinto(self, buffer, /):
            raise OSError(5, "Input/output error")

    class Payload:
        filename, total_bytes = "f", 10

        def open(self):
            return Broken()

    with pytest.raises(LocalIOError, match="f: Input/output error"):
        push_payload(WatchedRegistry(), REPO, Payload())


def test_push_reads_through_a_source_that_can_be_opened_again(file):
    class Twice(WatchedRegistry):
        def push_blob(self, repository, descriptor, source, *, progress=None):
            with source() as first:
                first.read(1000)
            return super().push_blob(repository, descriptor, source, progress=progress)

    assert len(push(Twice(), file).layers) == 10


# --- files, whose chunks stay where they are -----------------------------------------------------

LARGE = 400_000
LARGE_TEXT = b" ".join(b"%d" % number for number in range(200_000))[: 2 * LARGE]
CONTENTS = [DATA, LARGE_TEXT, DATA[:LARGE] + LARGE_TEXT]
CONTENT_NAMES = ["random", "text", "both"]


@pytest.mark.parametrize("data", CONTENTS, ids=CONTENT_NAMES)
@pytest.mark.parametrize("compress", ["zstd", "gzip"])
@pytest.mark.parametrize("chunk_bytes", [LARGE, 2 * LARGE, None])
def test_file_becomes_the_layers_of_a_stream_with_its_bytes(file, data, compress, chunk_bytes):
    file.write_bytes(data)
    stream = payload_of([Path("-")], name="n", stdin=io.BytesIO(data))
    options = {"chunk_bytes": chunk_bytes, "compress": compress}
    there, piped = WatchedRegistry(), WatchedRegistry()
    pushed = push(there, file, **options)
    assert pushed.layers == push_payload(piped, REPO, stream, **options).layers
    assert pushed.payload_digest == "sha256:" + hashlib.sha256(data).hexdigest()
    assert pushed.total_bytes == len(data)
    for layer in pushed.layers:
        assert (
            there.get_blob(REPO, layer.digest).read() == piped.get_blob(REPO, layer.digest).read()
        )


@pytest.mark.parametrize("data", CONTENTS, ids=CONTENT_NAMES)
def test_large_chunks_that_are_recorded_are_not_made_again(file, data):
    file.write_bytes(data)
    registry, journal = WatchedRegistry(), MemoryJournal()
    first = push(registry, file, journal=journal, chunk_bytes=LARGE)
    registry.calls.clear()
    again = push(registry, file, journal=journal, chunk_bytes=LARGE)
    assert again.layers == first.layers
    assert again.payload_digest == first.payload_digest
    assert again.reused_chunks == len(first.layers)
    assert registry.names("push") == []


@pytest.mark.parametrize("data", CONTENTS, ids=CONTENT_NAMES)
def test_large_chunks_that_are_recorded_and_gone_are_made_again(file, data):
    file.write_bytes(data)
    journal = MemoryJournal()
    first = push(WatchedRegistry(), file, journal=journal, chunk_bytes=LARGE)
    registry = WatchedRegistry()
    assert push(registry, file, journal=journal, chunk_bytes=LARGE).layers == first.layers
    assert sorted(registry.names("push")) == sorted(layer.digest for layer in first.layers)


@pytest.mark.parametrize("data", CONTENTS, ids=CONTENT_NAMES)
def test_confirm_pushes_large_chunks_again(file, data):
    file.write_bytes(data)
    registry = WatchedRegistry()
    pushed = push(registry, file, chunk_bytes=LARGE)
    gone = [layer.digest for layer in pushed.layers]
    for digest in gone:
        registry.delete_blob(REPO, digest)
    registry.calls.clear()
    assert confirm(registry, payload_of([file]), pushed) == len(gone)
    assert registry.names("push") == gone


def test_large_file_that_does_not_shrink_has_large_chunks(file, monkeypatch):
    monkeypatch.setattr(pushing, "LARGE_TOTAL_BYTES", len(DATA))
    monkeypatch.setattr(pushing, "LARGE_CHUNK_BYTES", 700_000)
    monkeypatch.setattr(chunks, "SMALL_CHUNK_BYTES", 300_000)
    assert push(WatchedRegistry(), file, chunk_bytes=None).chunk_bytes == 700_000
    assert push(WatchedRegistry(), file).chunk_bytes == CHUNK
    assert push(WatchedRegistry(), file, chunk_bytes=None, compress="gzip").chunk_bytes == 300_000
    file.write_bytes((LARGE_TEXT * 2)[: len(DATA)])
    assert push(WatchedRegistry(), file, chunk_bytes=None).chunk_bytes == 300_000
    file.write_bytes(DATA[:-1])
    assert push(WatchedRegistry(), file, chunk_bytes=None).chunk_bytes == 300_000


@pytest.mark.parametrize("error", [DigestInvalid, DigestMismatch])
def test_bytes_that_change_between_hashing_and_sending_are_the_files_change(file, error):
    def change(name, digest):
        if name == "push":
            file.write_bytes(DATA[::-1])
            os.utime(file, ns=(0, 0))
            raise error("other bytes")

    with pytest.raises(LocalIOError, match="changed while it was sent"):
        push(WatchedRegistry(change), file, chunk_bytes=LARGE)


def test_bytes_that_arrive_wrongly_are_not_blamed_on_the_file(file):
    def refuse(name, digest):
        if name == "push":
            raise DigestInvalid("other bytes")

    with pytest.raises(DigestInvalid, match="other bytes"):
        push(WatchedRegistry(refuse), file, chunk_bytes=LARGE)


def test_file_that_becomes_shorter_while_it_is_read_is_noticed(file):
    def cut(name, digest):
        os.truncate(file, LARGE)

    with pytest.raises(LocalIOError, match="changed while it was sent"):
        push(WatchedRegistry(cut), file, chunk_bytes=LARGE, concurrency=1)


# --- confirm_blobs -------------------------------------------------------------------------------


def confirm(registry, payload, pushed, journal=None, clock=None) -> int:
    return confirm_blobs(
        registry,
        REPO,
        payload,
        pushed,
        journal=journal or NullJournal(),
        clock=clock or FakeClock(NOW),
    )


def test_confirm_asks_for_every_blob_it_does_not_know(file):
    registry = WatchedRegistry()
    pushed = push(registry, file)
    registry.calls.clear()
    assert confirm(registry, payload_of([file]), pushed) == 0
    assert len(registry.names("resolve")) == 10
    assert registry.names("push") == []


@pytest.mark.parametrize(("later", "asked"), [(600, 0), (601, 10)])
def test_confirm_believes_what_is_not_ten_minutes_old(file, later, asked):
    registry, journal, clock = WatchedRegistry(), MemoryJournal(), FakeClock(NOW)
    pushed = push(registry, file, journal=journal)
    registry.calls.clear()
    clock.set(NOW + timedelta(seconds=later))
    confirm(registry, payload_of([file]), pushed, journal, clock)
    assert len(registry.calls) == asked


@pytest.mark.parametrize("compress", ["zstd", "gzip"])
def test_confirm_pushes_again_what_is_gone(file, compress):
    registry, journal = WatchedRegistry(), MemoryJournal()
    pushed = push(registry, file, compress=compress)
    gone = [pushed.layers[index].digest for index in (3, 9)]
    for digest in gone:
        registry.delete_blob(REPO, digest)
    registry.calls.clear()
    assert confirm(registry, payload_of([file]), pushed, journal) == 2
    assert registry.names("push") == gone
    assert set(journal.confirmed) == {layer.digest for layer in pushed.layers}


def test_confirm_pushes_the_empty_chunk_again(file):
    file.write_bytes(b"")
    registry = WatchedRegistry()
    pushed = push(registry, file)
    registry.delete_blob(REPO, pushed.layers[0].digest)
    assert confirm(registry, payload_of([file]), pushed) == 1


def test_confirm_cannot_push_a_stream_again():
    registry = WatchedRegistry()
    payload = payload_of([Path("-")], name="n", stdin=io.BytesIO(b"hello"))
    pushed = push_payload(registry, REPO, payload)
    registry.delete_blob(REPO, pushed.layers[0].digest)
    with pytest.raises(LocalIOError, match="a second time"):
        confirm(registry, payload, pushed)


def test_confirm_notices_that_the_file_is_another(file):
    registry = WatchedRegistry()
    pushed = push(registry, file)
    registry.delete_blob(REPO, pushed.layers[0].digest)
    file.write_bytes(b"x" + DATA[1:])
    with pytest.raises(LocalIOError, match="changed since the interrupted send"):
        confirm(registry, payload_of([file]), pushed)


# --- memory --------------------------------------------------------------------------------------


class Discarding(WatchedRegistry):
    """Reads what is pushed and keeps nothing."""

    def push_blob(self, repository, descriptor, source, *, progress=None):
        with source() as stream:
            while stream.read(2**16):
                pass
        return descriptor


class Endless(io.RawIOBase):
    """Gives `size` bytes that do not shrink, without keeping them."""

    def __init__(self, size: int) -> None:
        self.random = Random(3)
        self.left = size

    def readable(self):
        return True

    def readinto(self, buffer):
        count = min(len(buffer), self.left)
        buffer[:count] = self.random.randbytes(count)
        self.left -= count
        return count


def test_push_of_a_file_that_does_not_shrink_keeps_none_of_it_in_memory(file):
    with file.open("wb") as target:
        for _ in range(20):
            target.write(os.urandom(2**20))
    tracemalloc.start()
    pushed = push(Discarding(), file, chunk_bytes=5 * 2**20, concurrency=3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert pushed.total_bytes == 20 * 2**20
    assert peak < 4 * 2**20


def test_push_keeps_a_few_chunks_in_memory_and_never_the_payload():
    chunk = 2**20
    payload = payload_of([Path("-")], name="n", stdin=io.BufferedReader(Endless(40 * chunk)))
    tracemalloc.start()
    pushed = push_payload(Discarding(), REPO, payload, chunk_bytes=chunk, concurrency=3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert pushed.total_bytes == 40 * chunk
    assert peak < 8 * chunk

"""A blob of one store as the stream that another one is given."""

from __future__ import annotations

import io
import threading

import pytest

from dockercomms.errors import NameUnknown, NetworkError, SizeMismatch
from dockercomms.oci.images.stream import BlobOpener, BlobStream, SourceError, StoppedError
from dockercomms.oci.memory import MemoryRegistry
from dockercomms.oci.model import digest_of
from dockercomms.oci.remote.retry import RetryPolicy
from tests.fakes.registry import OCI, Fault
from tests.unit.oci.registries import R, content, described, serving

DATA = content(1000)


def opener(**options: object) -> BlobOpener:
    memory = MemoryRegistry()
    descriptor, source = described(DATA)
    memory.push_blob(R, descriptor, source)
    return BlobOpener(memory, R, descriptor.digest, **options)  # type: ignore[arg-type]


def test_stream_reads_from_wherever_it_is_told() -> None:
    blob = opener()
    with blob() as stream:
        assert (stream.readable(), stream.seekable(), stream.tell()) == (True, True, 0)
        assert stream.read(10) == DATA[:10]
        assert stream.seek(500) == 500
        assert stream.read(10) == DATA[500:510]
        assert stream.seek(-10, io.SEEK_CUR) == 500
        assert stream.seek(-5, io.SEEK_END) == 995
        assert stream.read() == DATA[995:]
        assert stream.read(1) == b""
        stream.seek(0)
        stream.seek(1000)
        assert stream.read(1) == b""
        stream.seek(0)
        assert stream.read() == DATA


def test_stream_opens_again_and_again() -> None:
    blob = opener()
    for _ in range(3):
        with blob() as stream:
            assert stream.read(-1) == DATA


def test_opener_asks_at_once() -> None:
    with pytest.raises(NameUnknown):
        BlobOpener(MemoryRegistry(), R, digest_of(b"x"))
    with pytest.raises(SizeMismatch):
        opener(size=999)


def test_opener_gives_its_connection_back_if_nobody_reads() -> None:
    with serving() as (server, registry):
        digest = server.put_blob_raw(R, DATA)
        blob = BlobOpener(registry, R, digest)  # type: ignore[arg-type]
        blob.close()
        blob.close()
        with blob() as stream:
            stream.seek(900)
            assert stream.read() == DATA[900:]


def test_opener_that_is_read_from_the_middle_first() -> None:
    with serving() as (server, registry):
        digest = server.put_blob_raw(R, DATA)
        blob = BlobOpener(registry, R, digest)  # type: ignore[arg-type]
        with blob() as stream:
            stream.seek(900)
            assert stream.read() == DATA[900:]


def test_stream_of_an_empty_blob() -> None:
    memory = MemoryRegistry()
    descriptor, source = described(b"")
    memory.push_blob(R, descriptor, source)
    with BlobOpener(memory, R, descriptor.digest)() as stream:
        assert stream.read() == b""
        assert stream.read(5) == b""


def test_stream_tells_its_own_failures_from_those_of_a_push() -> None:
    with serving(OCI, retry=RetryPolicy.none()) as (server, registry):
        digest = server.put_blob_raw(R, DATA)
        blob = BlobOpener(registry, R, digest)  # type: ignore[arg-type]
        server.fail_at(1, Fault.drop_before(), times=2)
        with blob() as stream:
            stream.seek(1)
            with pytest.raises(SourceError) as caught:
                stream.read()
        assert isinstance(caught.value.error, NetworkError)


def test_stream_ends_when_it_is_stopped() -> None:
    stop = threading.Event()
    blob = opener(stop=stop)
    with BlobStream(blob) as stream:
        assert stream.read(1) == DATA[:1]
        stop.set()
        with pytest.raises(StoppedError, match="the copy was stopped"):
            stream.read(1)

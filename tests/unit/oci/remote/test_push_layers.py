"""A layer: looked for first, and retried as a whole."""

from __future__ import annotations

import pytest

from dockercomms.errors import LocalIOError, NetworkError, RetryAborted
from dockercomms.oci.remote.registry import LAYER_CHUNK_BYTES, LAYER_WHOLE_BYTES
from dockercomms.oci.remote.retry import RetryEvent, RetryPolicy
from tests.fakes.clock import FakeClock
from tests.fakes.registry import (
    DISTRIBUTION,
    Fault,
)
from tests.fakes.scripted import Reply, ScriptedServer
from tests.unit.oci.registries import MIB, R, client, content, described, serving
from tests.unit.oci.traffic import NOT_THERE, is_patch, methods, stored


def test_push_layer_that_is_there_is_not_sent():
    data = content(1000)
    _, source = described(data)
    seen = []
    with serving() as (server, registry):
        server.put_blob_raw(R, data)
        descriptor = registry.push_layer(R, source, progress=lambda *now: seen.append(now))
        registry.push_layer(R, source)
        assert (descriptor.digest, descriptor.size) == (described(data)[0].digest, 1000)
        assert methods(server) == ["HEAD", "HEAD"]
    assert seen == [(1000, 1000)]


def test_push_layer_sends_pieces_of_the_size_asked_for():
    data = content(250)
    descriptor, source = described(data)
    with serving() as (server, registry):
        registry.push_layer(R, source, descriptor=descriptor, chunk_bytes=100)
        assert stored(server, descriptor) == data
        assert [r.request_bytes for r in server.asked("PATCH")] == [100, 100, 50]


def test_push_layer_retries_with_exact_events():
    events: list[RetryEvent] = []
    clock = FakeClock()
    with (
        ScriptedServer(NOT_THERE, rest=Reply(503)) as server,
        client(server.host, clock=clock) as registry,
    ):
        with pytest.raises(NetworkError, match="tried 5 times"):
            registry.push_layer(
                R, described(b"abc")[1], retry=RetryPolicy.upload(on_retry=events.append)
            )
        assert len(server.requests) == 1 + 5
    assert [event.attempt for event in events] == [1, 2, 3, 4]
    assert {event.max_attempts for event in events} == {5}
    assert clock.sleeps == pytest.approx([2.1, 4.2, 8.4, 16.8])


def test_push_layer_hook_can_abort():
    policy = RetryPolicy.upload(on_retry=lambda event: False)
    with ScriptedServer(NOT_THERE, rest=Reply(503)) as server, client(server.host) as registry:
        with pytest.raises(RetryAborted):
            registry.push_layer(R, described(b"abc")[1], retry=policy)
        assert len(server.requests) == 2


def test_push_layer_goes_on_where_the_registry_is():
    data = content(6 * MIB)
    descriptor, source = described(data)
    with serving(DISTRIBUTION) as (server, registry):
        server.fail_when(is_patch, Fault.cut_request(5 * MIB))
        registry.push_layer(R, source)
        assert stored(server, descriptor) == data
        assert server.bytes_received() <= 1.1 * len(data)


def test_push_layer_of_an_unreadable_source_is_a_local_error(tmp_path):
    with serving() as (_, registry), pytest.raises(LocalIOError):
        registry.push_layer(R, lambda: (tmp_path / "missing").open("rb"))


def test_push_layer_sends_a_large_one_in_pieces_that_proxies_take():
    data = bytes(LAYER_WHOLE_BYTES + 1)
    descriptor, source = described(data)
    with serving() as (server, registry):
        registry.push_layer(R, source, descriptor=descriptor)
        sizes = [record.request_bytes for record in server.requests if record.method == "PATCH"]
        assert sizes == [LAYER_CHUNK_BYTES, len(data) - LAYER_CHUNK_BYTES]

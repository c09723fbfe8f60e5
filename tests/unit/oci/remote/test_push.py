"""One blob pushed whole, whatever the registry does and wherever the connection breaks."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest

from dockercomms.errors import NetworkError
from dockercomms.oci.content import BLOB_READ_BYTES
from dockercomms.oci.remote.push import MAX_REPAIRS, ONE_REQUEST_BYTES
from tests.fakes.clock import FakeClock
from tests.fakes.registry import (
    DISTRIBUTION,
    DOCKER_REGISTRY_2_8,
    GGCR,
    OCI,
    OCIMEM,
    OLAREG,
    PRESETS,
    ZOT,
    Fault,
)
from tests.fakes.scripted import Drop, Reply, ScriptedServer, Seen
from tests.unit.oci.registries import MIB, R, client, content, described, serving
from tests.unit.oci.traffic import LARGE, is_patch, is_post, is_put, methods, stored


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("length", [0, 1, ONE_REQUEST_BYTES, ONE_REQUEST_BYTES + 1, 5 * MIB])
def test_push_blob_arrives_at_every_kind_of_registry(preset, length):
    data = content(length)
    descriptor, source = described(data)
    with serving(PRESETS[preset]) as (server, registry):
        assert registry.push_blob(R, descriptor, source) == descriptor
        assert stored(server, descriptor) == data


def test_push_blob_small_is_two_requests():
    descriptor, source = described(content(ONE_REQUEST_BYTES))
    with serving(DISTRIBUTION) as (server, registry):
        registry.push_blob(R, descriptor, source)
        assert methods(server) == ["POST", "PUT"]


def test_push_blob_large_is_one_stream():
    descriptor, source = described(content(LARGE))
    with serving(DISTRIBUTION) as (server, registry):
        registry.push_blob(R, descriptor, source)
        assert methods(server) == ["POST", "PATCH", "PUT"]
        patch, put = server.requests[1:]
        assert patch.headers["content-range"] == f"0-{LARGE - 1}"
        assert patch.headers["content-length"] == str(LARGE)
        assert "content-range" not in put.headers


def test_push_blob_reads_its_source_in_blocks():
    sizes = []

    class Source(io.BytesIO):
        def read(self, size=-1, /):
            sizes.append(size)
            return super().read(size)

    data = content(3 * MIB)
    with serving() as (_, registry):
        registry.push_blob(R, described(data)[0], lambda: Source(data))
    assert max(sizes) <= BLOB_READ_BYTES


def test_push_blob_progress_never_goes_back():
    data = content(9 * MIB)
    descriptor, source = described(data)
    seen: list[tuple[int, int]] = []
    with serving(ZOT) as (server, registry):
        server.fail_when(is_patch, Fault.cut_request(5 * MIB))
        registry.push_blob(R, descriptor, source, progress=lambda *now: seen.append(now))
    assert seen == sorted(seen)
    assert len(set(seen)) == len(seen)
    assert seen[-1] == (len(data), len(data))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    "fault",
    [Fault.cut_request(700_000), Fault.drop_before(), Fault.drop_after(), Fault.answer(502)],
    ids=lambda fault: f"{fault.kind}-{fault.status}",
)
@pytest.mark.parametrize("which", [is_post, is_patch, is_put], ids=["POST", "PATCH", "PUT"])
@pytest.mark.parametrize("length", [1000, LARGE])
def test_push_blob_arrives_whatever_fails_once(preset, fault, which, length):
    data = content(length)
    descriptor, source = described(data)
    with serving(PRESETS[preset]) as (server, registry):
        server.fail_when(which, fault)
        assert registry.push_blob(R, descriptor, source) == descriptor
        assert stored(server, descriptor) == data


@pytest.mark.parametrize("quirks", [OCI, DISTRIBUTION, OLAREG, OCIMEM])
def test_push_blob_sends_nothing_twice_where_the_registry_can_resume(quirks):
    data = content(9 * MIB)
    descriptor, source = described(data)
    with serving(quirks) as (server, registry):
        for number in range(3):
            server.fail_when(is_patch, Fault.cut_request(2 * MIB), after=number)
        registry.push_blob(R, descriptor, source)
        assert stored(server, descriptor) == data
        assert server.bytes_received() <= 1.2 * len(data)
        assert server.count("POST") == 1


@pytest.mark.parametrize("quirks", [ZOT, GGCR, DOCKER_REGISTRY_2_8])
def test_push_blob_begins_again_where_the_registry_cannot_resume(quirks):
    data = content(9 * MIB)
    descriptor, source = described(data)
    with serving(quirks) as (server, registry):
        server.fail_when(is_patch, Fault.cut_request(2 * MIB))
        registry.push_blob(R, descriptor, source)
        assert stored(server, descriptor) == data
        assert server.count("POST") == 2
        assert server.bytes_received() <= len(data) + 3 * MIB


def test_push_blob_lost_answer_to_the_closing_request_is_looked_for_first():
    for length in (1000, LARGE):
        data = content(length)
        descriptor, source = described(data)
        with serving(DISTRIBUTION) as (server, registry):
            server.fail_when(is_put, Fault.drop_after())
            registry.push_blob(R, descriptor, source)
            assert server.count("PUT") == 1
            assert methods(server)[-1] == "HEAD"


def test_push_blob_first_requests_to_a_new_repository_may_fail():
    data = content(1000)
    descriptor, source = described(data)
    clock = FakeClock()
    with serving(replace(DISTRIBUTION, new_repository_500s=3), clock=clock) as (server, registry):
        registry.push_blob(R, descriptor, source)
        assert server.count("POST", status=500) == 3
        assert stored(server, descriptor) == data
    assert len(clock.sleeps) == 3


def test_push_blob_closing_request_may_fail_three_times():
    data = content(1000)
    descriptor, source = described(data)
    with serving(DISTRIBUTION) as (server, registry):
        server.fail_when(is_put, Fault.answer(500), times=3)
        registry.push_blob(R, descriptor, source)
        assert stored(server, descriptor) == data


def test_push_blob_time_of_the_policy_counts_from_the_last_progress():
    """Nine cuts, each after a long time, are no reason to give up while the blob gets further."""
    data = content(11 * MIB)
    descriptor, source = described(data)
    clock = FakeClock()
    with serving(OCI, clock=clock) as (server, registry):
        for number in range(9):
            server.fail_when(is_patch, Fault.cut_request(MIB), after=number)

        def late(done: int, total: int) -> None:
            clock.advance(20)

        registry.push_blob(R, descriptor, source, progress=late)
        assert stored(server, descriptor) == data


def test_push_blob_long_transfers_that_break_may_begin_again_though_late():
    data = content(6 * MIB)
    descriptor, source = described(data)
    clock = FakeClock()
    with serving(ZOT, clock=clock) as (server, registry):
        for number in range(3):
            server.fail_when(is_patch, Fault.cut_request(5 * MIB), after=number)

        def late(done: int, total: int) -> None:
            clock.advance(20)

        registry.push_blob(R, descriptor, source, progress=late)
        assert stored(server, descriptor) == data


def test_push_blob_gives_up_where_nothing_gets_further():
    descriptor, source = described(content(6 * MIB))
    with serving(ZOT) as (server, registry):
        server.fail_when(is_patch, Fault.cut_request(5 * MIB), times=1000)
        with pytest.raises(NetworkError, match="tried"):
            registry.push_blob(R, descriptor, source)
        assert server.count("PATCH") <= MAX_REPAIRS + 12


def test_push_blob_gives_up_with_the_policy():
    descriptor, source = described(content(10))
    clock = FakeClock()
    with ScriptedServer(rest=Drop()) as server, client(server.host, clock=clock) as registry:
        with pytest.raises(NetworkError) as caught:
            registry.push_blob(R, descriptor, source)
    assert caught.value.attempts == len(server.requests) == len(clock.sleeps) + 1
    assert sum(clock.sleeps) <= 30


def test_push_blob_does_not_look_before():
    descriptor, source = described(b"abc")

    def answer(seen: Seen) -> Reply:
        assert seen.method != "HEAD"
        return Reply(202 if seen.method == "POST" else 201, headers={"Location": "/u"})

    with ScriptedServer(rest=answer) as server, client(server.host) as registry:
        registry.push_blob(R, descriptor, source)
        assert [seen.method for seen in server.requests] == ["POST", "PUT"]

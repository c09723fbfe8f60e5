"""Reading parts of blobs, and on from where a connection broke."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from dockercomms.errors import BadAnswer, BlobUnknown, NetworkError, RangeInvalid
from dockercomms.oci.model import digest_of
from tests.fakes.clock import FakeClock
from tests.fakes.registry import OCI, PRESETS, Fault
from tests.fakes.scripted import Drop, Raw, Reply, ScriptedServer, Seen
from tests.unit.oci.registries import R, client, serving
from tests.unit.oci.traffic import DATA, DIGEST, NO_RETRY, is_get, whole


@pytest.mark.parametrize("preset", PRESETS)
def test_get_blob_goes_on_from_the_break(preset):
    clock = FakeClock()
    with serving(PRESETS[preset], clock=clock) as (server, registry):
        server.put_blob_raw(R, DATA)
        for number in range(3):
            server.fail_when(is_get, Fault.cut_body(20_000), after=number)
        assert whole(registry.get_blob(R, DIGEST), 3000) == DATA
        assert server.count("GET") == 4
        assert server.bytes_sent() <= 1.2 * len(DATA)
    assert len(clock.sleeps) == 3


@pytest.mark.parametrize("answers", ["ignored", "no-content-range"])
def test_get_blob_goes_on_where_ranges_are_ignored(answers):
    with serving(replace(OCI, range_get="ignored")) as (server, registry):
        server.put_blob_raw(R, DATA)
        server.fail_when(is_get, Fault.cut_body(20_000))
        assert whole(registry.get_blob(R, DIGEST)) == DATA


def test_get_blob_goes_on_after_server_errors_too():
    replies = [
        Reply(200, DATA[:500], length=len(DATA)),
        Reply(503),
        Drop(),
        Reply(206, DATA[500:], {"Content-Range": f"bytes 500-{len(DATA) - 1}/{len(DATA)}"}),
    ]
    with ScriptedServer(*replies) as server, client(server.host) as registry:
        assert whole(registry.get_blob(R, DIGEST)) == DATA
        assert server.requests[3].headers["range"] == f"bytes=500-{len(DATA) - 1}"


def test_get_blob_goes_on_where_an_answer_of_unknown_length_ends_early():
    rest = Reply(206, DATA[500:], {"Content-Range": f"bytes 500-{len(DATA) - 1}/{len(DATA)}"})
    with ScriptedServer(Reply(200, DATA[:500], length=None), rest) as server:
        with client(server.host) as registry:
            assert whole(registry.get_blob(R, DIGEST, size=len(DATA))) == DATA


def test_get_blob_time_of_the_policy_counts_from_the_last_bytes():
    clock = FakeClock()
    with serving(clock=clock) as (server, registry):
        server.put_blob_raw(R, DATA)
        for number in range(4):
            server.fail_when(is_get, Fault.cut_body(20_000), after=number)
        with registry.get_blob(R, DIGEST) as reader:
            got = b""
            while part := reader.read(10_000):
                got += part
                clock.advance(20)
        assert got == DATA


def test_get_blob_a_byte_at_a_time_is_given_up_with_the_policy():
    """A byte and a break: each comes in time, and there is no end to them."""
    clock = FakeClock()
    at = itertools.count()

    def answer(seen: Seen) -> Reply:
        number = next(at)
        part = {"Content-Range": f"bytes {number}-{len(DATA) - 1}/{len(DATA)}"}
        return Reply(
            206 if number else 200, b"x", part if number else {}, length=len(DATA) - number
        )

    with ScriptedServer(rest=answer) as server, client(server.host, clock=clock) as registry:
        with registry.get_blob(R, DIGEST) as reader, pytest.raises(NetworkError, match="tried"):
            reader.read()
        assert len(server.requests) < 100
    assert sum(clock.sleeps) <= 30


def test_get_blob_gives_up_with_the_policy():
    clock = FakeClock()
    with ScriptedServer(Reply(200, b"abc", length=10), rest=Drop()) as server:
        with client(server.host, clock=clock) as registry:
            with registry.get_blob(R, DIGEST) as reader:
                assert reader.read(3) == b"abc"
                with pytest.raises(NetworkError, match="tried"):
                    reader.read(3)
    assert 0 < sum(clock.sleeps) <= 30


def test_get_blob_that_is_gone_when_asked_again():
    with ScriptedServer(Reply(200, b"abc", length=10), Reply(404)) as server:
        with client(server.host) as registry, registry.get_blob(R, DIGEST) as reader:
            reader.read(3)
            with pytest.raises(BlobUnknown):
                reader.read(3)


def test_get_blob_another_part_when_asked_again_is_refused():
    wrong = Reply(206, b"abcdefg", {"Content-Range": "bytes 2-8/10"})
    with ScriptedServer(Reply(200, b"abc", length=10), wrong) as server:
        with client(server.host) as registry, registry.get_blob(R, DIGEST) as reader:
            reader.read(3)
            with pytest.raises(BadAnswer, match="bytes 3 to 10 expected, 2 to 9 received"):
                reader.read(3)


def test_get_blob_break_behind_the_last_byte_is_none():
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
    with ScriptedServer(Raw(head)) as server, client(server.host, retry=NO_RETRY) as registry:
        assert whole(registry.get_blob(R, digest_of(b"abc"), size=3)) == b"abc"


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    ("start", "end"), [(0, 1), (5, None), (5, 9), (0, None), (99_999, None), (99_000, 200_000)]
)
def test_get_blob_range_at_every_kind_of_registry(preset, start, end):
    with serving(PRESETS[preset]) as (server, registry):
        server.put_blob_raw(R, DATA)
        reader = registry.get_blob_range(R, DIGEST, start, end)
        assert reader.descriptor.size == len(DATA)
        assert whole(reader, 700) == DATA[start:end]
        assert whole(registry.get_blob_range(R, DIGEST, start, end)) == DATA[start:end]


@pytest.mark.parametrize("preset", PRESETS)
def test_get_blob_range_behind_the_end(preset):
    with serving(PRESETS[preset], retry=NO_RETRY) as (server, registry):
        server.put_blob_raw(R, DATA)
        for end in (None, 200_000):
            with pytest.raises(RangeInvalid):
                registry.get_blob_range(R, DIGEST, len(DATA), end)


def test_get_blob_range_where_ranges_are_ignored():
    with serving(replace(OCI, range_get="ignored")) as (server, registry):
        server.put_blob_raw(R, DATA)
        assert whole(registry.get_blob_range(R, DIGEST, 50_000, 50_010)) == DATA[50_000:50_010]
        with pytest.raises(RangeInvalid):
            registry.get_blob_range(R, DIGEST, len(DATA))


def test_get_blob_range_without_content_range_is_refused():
    with serving(replace(OCI, range_get="no-content-range")) as (server, registry):
        server.put_blob_raw(R, DATA)
        with pytest.raises(BadAnswer, match="Content-Range"):
            registry.get_blob_range(R, DIGEST, 5, 9)


def test_get_blob_range_whole_without_a_size_is_refused():
    with (
        ScriptedServer(Reply(200, b"abc", length=None)) as server,
        client(server.host) as registry,
        pytest.raises(BadAnswer, match="without its size"),
    ):
        registry.get_blob_range(R, DIGEST, 1, 2)


def test_get_blob_range_goes_on_from_the_break():
    with serving() as (server, registry):
        server.put_blob_raw(R, DATA)
        server.fail_when(is_get, Fault.cut_body(1000))
        assert whole(registry.get_blob_range(R, DIGEST, 10_000, 30_000)) == DATA[10_000:30_000]
        assert server.asked("GET")[1].headers["range"] == "bytes=11000-29999"


@pytest.mark.parametrize(("start", "end"), [(-1, None), (-1, 5), (5, 4)])
def test_get_blob_range_wants_a_range(start, end):
    with serving() as (server, registry), pytest.raises(ValueError, match="not a range"):
        registry.get_blob_range(R, DIGEST, start, end)
    assert server.requests == []

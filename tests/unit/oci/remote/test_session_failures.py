"""One exchange that fails: what is tried again, how it ends, what is said."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from dockercomms.errors import NetworkError, ProtocolError, RegistryError, RetryAborted
from dockercomms.oci.remote.exchange import Body
from dockercomms.oci.remote.retry import RetryPolicy
from tests.fakes.clock import FakeClock
from tests.fakes.scripted import Drop, Raw, Reply, ScriptedServer, Stall
from tests.unit.oci.sessions import pull, session


def test_session_retries_server_errors_and_broken_connections():
    clock = FakeClock()
    with ScriptedServer(Reply(500), Drop(), Drop(reset=True), Reply(503), Reply(200)) as server:
        with session(server.host, retry=RetryPolicy.requests(), clock=clock) as one:
            assert one.send(pull()).status == 200
        assert server.left == 0
    assert len(clock.sleeps) == 4


def test_session_waits_as_long_as_retry_after_says():
    clock = FakeClock()
    date = {"Date": "Fri, 20 Nov 2026 12:00:00 GMT", "Retry-After": "Fri, 20 Nov 2026 12:00:09 GMT"}
    with ScriptedServer(
        Reply(429, headers={"Retry-After": "7"}), Reply(503, headers=date), Reply(200)
    ) as server:
        with session(server.host, retry=RetryPolicy.requests(), clock=clock) as one:
            one.send(pull()).close()
    assert clock.sleeps == [7, 9]


def test_session_sends_a_body_again_whole():
    opened = []

    def blocks() -> Iterator[bytes]:
        opened.append(1)
        yield b"12"
        yield b"34"

    with ScriptedServer(Reply(500), Reply(201)) as server:
        with session(server.host, retry=RetryPolicy.requests()) as one:
            one.send(pull(method="PUT", body=Body(4, blocks))).close()
        assert [seen.body for seen in server.requests] == [b"1234", b"1234"]
        assert server.requests[0].headers["content-length"] == "4"
        assert server.requests[0].headers["expect"] == "100-continue"
    assert len(opened) == 2


def test_session_sends_an_empty_body_with_its_length():
    with ScriptedServer(Reply(201), Reply(201), Reply(202)) as server:
        with session(server.host) as one:
            one.send(pull(method="PUT", body=Body(0, lambda: iter([])))).close()
            one.send(pull(method="PUT", body=b"")).close()
            one.send(pull(method="POST")).close()
        for seen in server.requests:
            assert seen.headers["content-length"] == "0"
            assert "expect" not in seen.headers
            assert "transfer-encoding" not in seen.headers


def test_session_closes_the_source_of_a_body_that_was_not_taken_whole():
    closed = threading.Event()

    def blocks() -> Iterator[bytes]:
        try:
            for _ in range(64):
                yield b"x" * 2**20
        finally:
            closed.set()

    with (
        ScriptedServer(Drop(after=10, reset=True)) as server,
        session(server.host) as one,
        pytest.raises(NetworkError),
    ):
        one.send(pull(method="PUT", body=Body(64 * 2**20, blocks)))
    assert closed.is_set()


def test_session_errors_of_a_bodys_source_are_its_own():
    def blocks() -> Iterator[bytes]:
        yield b"x"
        raise ProtocolError("the source is wrong")

    with (
        ScriptedServer(Reply(201)) as server,
        session(server.host, retry=RetryPolicy.requests()) as one,
        pytest.raises(ProtocolError, match="the source is wrong"),
    ):
        one.send(pull(method="PUT", body=Body(9, blocks)))


def test_session_request_policy_replaces_the_sessions_own():
    with (
        ScriptedServer(Reply(500), Reply(200)) as server,
        session(server.host, retry=RetryPolicy.requests()) as one,
        pytest.raises(RegistryError) as caught,
    ):
        one.send(pull(retry=RetryPolicy.none()))
    assert caught.value.status == 500
    assert len(server.requests) == 1


def test_session_gives_up_with_the_number_of_tries():
    with (
        ScriptedServer(rest=Reply(502, b"<h1>bad gateway</h1>")) as server,
        session(server.host, retry=RetryPolicy.requests(), clock=FakeClock()) as one,
        pytest.raises(NetworkError, match=r"502 bad gateway.* \(tried 9 times\)") as caught,
    ):
        one.send(pull())
    assert caught.value.attempts == len(server.requests)
    assert 0 < caught.value.waited_seconds <= 30
    assert isinstance(caught.value.__cause__, RegistryError)


def test_session_retry_hook_can_abort():
    policy = RetryPolicy.requests(on_retry=lambda event: False)
    with (
        ScriptedServer(Reply(500)) as server,
        session(server.host, retry=policy) as one,
        pytest.raises(RetryAborted),
    ):
        one.send(pull())


def test_session_silent_server_ends_by_the_time_limit():
    with (
        ScriptedServer(Stall(Reply(200))) as server,
        session(server.host, timeout=0.05) as one,
        pytest.raises(NetworkError, match="no answer in time"),
    ):
        one.send(pull())


def test_session_body_that_stops_ends_by_the_time_limit():
    """The limit grows until the head comes within it."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"
    for seconds in (0.05, 1, 20, 400):
        with ScriptedServer(Raw(head, then="stall")) as server:
            with session(server.host, timeout=seconds) as one:
                try:
                    response = one.send(pull())
                except NetworkError:
                    continue
                with pytest.raises(NetworkError, match="no answer in time"):
                    response.read()
                response.close()
                return
    pytest.fail("the head never came")


def test_session_server_that_takes_nothing_ends_by_the_time_limit():
    # more than the sockets hold, so that sending itself has to stop
    body = Body(64 * 2**20, lambda: (b"x" * 2**20 for _ in range(64)))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        host = f"127.0.0.1:{listener.getsockname()[1]}"
        with session(host, timeout=0.05) as one, pytest.raises(NetworkError):
            one.send(pull(method="PUT", body=body))


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (Raw(b"nonsense\r\n\r\n"), "the answer is not HTTP"),
        (Raw(b""), "connection closed by the server"),
        (Drop(reset=True), "connection reset"),
    ],
)
def test_session_says_plainly_what_happened(step, text):
    with (
        ScriptedServer(step) as server,
        session(server.host) as one,
        pytest.raises(NetworkError, match=text),
    ):
        one.send(pull())


def test_session_refused_connection_is_a_network_error():
    with ScriptedServer() as server:
        host = server.host
    with session(host) as one, pytest.raises(NetworkError, match="connection refused") as caught:
        one.send(pull())
    assert caught.value.exit_code == 6


def test_session_unknown_host_is_a_network_error():
    with session("no-such-host.invalid", retry=RetryPolicy.requests()) as one:
        with pytest.raises(NetworkError, match="host name not found") as caught:
            one.send(pull())
    assert caught.value.hint is not None


def test_session_body_shorter_than_said_is_a_network_error():
    with ScriptedServer(Reply(200, b"abc", length=10)) as server, session(server.host) as one:
        response = one.send(pull())
        with pytest.raises(NetworkError, match="ended early"):
            response.read()
        response.close()


def test_session_body_is_sent_without_expect_where_that_is_refused():
    with ScriptedServer(Reply(417), Reply(201)) as server, session(server.host) as one:
        one.send(pull(method="PUT", body=b"abc")).close()
        first, second = server.requests
    assert first.headers["expect"] == "100-continue"
    assert "expect" not in second.headers
    assert second.body == b"abc"

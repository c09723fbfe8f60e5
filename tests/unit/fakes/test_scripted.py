"""The scripted server plays its script."""

from __future__ import annotations

import http.client
import ssl
import threading

import pytest

from tests.fakes.scripted import Drop, Raw, Reply, ScriptedServer, Seen, Stall, Step


def ask(
    server: ScriptedServer, method: str = "GET", target: str = "/", body: bytes | None = None
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(server.host, timeout=5)
    try:
        connection.request(method, target, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_replies_come_in_order_then_the_rest() -> None:
    with ScriptedServer(Reply(201, b"a"), rest=Reply(204)) as server:
        server.add(Reply(202, b"b", {"X-Kind": "test"}))
        assert server.left == 2
        assert [ask(server) for _ in range(4)] == [(201, b"a"), (202, b"b"), (204, b""), (204, b"")]
        assert (server.left, server.beyond) == (0, 2)
        assert server.url == f"http://{server.host}"
    with pytest.raises(RuntimeError, match="not running"):
        _ = server.host


def test_request_beyond_the_script_is_an_error_of_the_server() -> None:
    with ScriptedServer() as server:
        assert ask(server)[0] == 500
        assert server.beyond == 1


def test_requests_are_seen_whole() -> None:
    with ScriptedServer(Reply(200), Reply(200), rest=Reply(200)) as server:
        connection = http.client.HTTPConnection(server.host)
        for number in range(2):
            connection.request("PUT", f"/x?n={number}", b"body", {"X-A": "b"})
            connection.getresponse().read()
        connection.close()
        ask(server, "POST", "/y")
    first, second, third = server.requests
    assert (first.method, first.target, first.body) == ("PUT", "/x?n=0", b"body")
    assert first.headers["x-a"] == "b"
    assert (first.connection, second.connection, third.connection) == (0, 0, 1)


def test_step_may_depend_on_the_request() -> None:
    def echo(seen: Seen) -> Step:
        return Reply(200, seen.body)

    with ScriptedServer(echo, rest=echo) as server:
        assert ask(server, "PUT", "/", b"one") == (200, b"one")
        assert ask(server, "PUT", "/", b"two") == (200, b"two")


def test_length_may_lie_or_be_missing() -> None:
    with ScriptedServer(Reply(200, b"abc", length=5), Reply(200, b"abc", length=None)) as server:
        with pytest.raises(http.client.IncompleteRead):
            ask(server)
        assert ask(server) == (200, b"abc")


def test_head_has_no_body() -> None:
    with ScriptedServer(Reply(200, b"abc")) as server:
        assert ask(server, "HEAD") == (200, b"")


def test_drop_reads_the_body_first_or_a_part_of_it() -> None:
    with ScriptedServer(
        Drop(), Drop(after=3), Drop(reset=True), Drop(after=1, reset=True)
    ) as server:
        for _ in range(4):
            with pytest.raises((http.client.HTTPException, OSError)):
                ask(server, "PUT", "/", b"0123456789")
        bodies = [seen.body for seen in server.requests]
    assert bodies == [b"0123456789", b"012", b"0123456789", b"0"]


@pytest.mark.parametrize("then", ["close", "reset"])
def test_raw_bytes_are_all_that_is_sent(then: object) -> None:
    with ScriptedServer(Raw(b"not HTTP", then)) as server:  # type: ignore[arg-type]
        with pytest.raises((http.client.HTTPException, OSError)):
            ask(server)


def test_raw_connection_may_go_on() -> None:
    with ScriptedServer(
        Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", "keep"), Reply(201)
    ) as server:
        connection = http.client.HTTPConnection(server.host)
        for status in (200, 201):
            connection.request("GET", "/")
            answer = connection.getresponse()
            answer.read()
            assert answer.status == status
        connection.close()


def test_stalled_answer_comes_when_it_is_released() -> None:
    half = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab"
    with ScriptedServer(Stall(Reply(200, b"late")), Raw(half, "stall")) as server:
        answers: list[tuple[int, bytes]] = []
        thread = threading.Thread(target=lambda: answers.append(ask(server)))
        thread.start()
        thread.join(0.05)
        assert answers == []
        server.release()
        thread.join()
        assert answers == [(200, b"late")]
        with pytest.raises(http.client.IncompleteRead):
            ask(server)


def test_stalled_answer_ends_with_the_server() -> None:
    with ScriptedServer(Stall(Drop())) as server:
        connection = http.client.HTTPConnection(server.host, timeout=0.05)
        connection.request("GET", "/")
        with pytest.raises(TimeoutError):
            connection.getresponse()
        connection.close()


def test_tls_uses_a_certificate_of_its_authority() -> None:
    with ScriptedServer(Reply(200, b"sealed"), tls=True) as server:
        assert server.authority is not None
        context = ssl.create_default_context()
        server.authority.configure_trust(context)
        connection = http.client.HTTPSConnection(server.host, context=context)
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"sealed"
        connection.close()
        assert server.url.startswith("https://")

"""Bytes in and out of one HTTP exchange."""

from __future__ import annotations

import gc
import http.client
import select
import socket

import pytest

from dockercomms.errors import BadAnswer, NetworkError
from dockercomms.oci.remote.exchange import Body
from dockercomms.oci.remote.session import Session, SizedBody, open_body
from tests.fakes.scripted import Raw, Reply, ScriptedServer
from tests.unit.oci.sessions import pull, session


@pytest.mark.parametrize(
    ("headers", "target"),
    [({"A": "x\r\nB: y"}, "/"), ({"A": "x\ny"}, "/"), ({"A\0": "x"}, "/")],
)
def test_wire_lets_no_value_end_its_line(headers, target):
    with ScriptedServer() as server, session(server.host) as one:
        with pytest.raises(BadAnswer, match="line break"):
            one.send(pull(target, headers=headers))


def test_wire_refuses_a_head_that_http_cannot_carry():
    with ScriptedServer() as server, session(server.host) as one:
        with pytest.raises(BadAnswer, match="cannot carry"):
            one.send(pull(headers={"A": "\u20ac"}))


def test_wire_uses_one_connection_for_one_request_after_another():
    with ScriptedServer(rest=Reply(200, b"abc")) as server, session(server.host) as one:
        for _ in range(3):
            assert one.send(pull()).read() == b"abc"
            one.send(pull()).close()
        one.send(pull(method="HEAD"))
        one.send(pull(method="HEAD"))
        assert {seen.connection for seen in server.requests} == {0}


def test_wire_makes_a_new_connection_where_the_server_ended_the_last():
    with (
        ScriptedServer(Reply(200, b"a", close=True), Reply(200, b"b")) as server,
        session(server.host) as one,
    ):
        assert one.send(pull()).read() == b"a"
        assert one.send(pull()).read() == b"b"
        assert [seen.connection for seen in server.requests] == [0, 1]


def test_wire_drops_a_connection_that_was_closed_while_it_was_kept():
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na"
    with ScriptedServer(Raw(answer), Reply(200, b"b")) as server, session(server.host) as one:
        assert one.send(pull()).read() == b"a"
        assert select.select([kept_socket(one)], [], [], 30)[0]
        assert one.send(pull()).read() == b"b"


@pytest.mark.parametrize(
    ("raw", "status", "body"),
    [
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            200,
            b"abc",
        ),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 C\r\nContent-Length: 0\r\n\r\n", 201, b""),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", 200, b"until the end"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.1 200 OK\r\nno field\r\ncontent-LENGTH:  1 \r\n\r\nx", 200, b"x"),
    ],
)
def test_wire_reads_every_kind_of_answer(raw, status, body):
    with ScriptedServer(Raw(raw)) as server, session(server.host) as one:
        response = one.send(pull())
        assert (response.status, response.read()) == (status, body)


def test_wire_joins_fields_of_one_name_and_keeps_challenges_apart():
    raw = (
        b"HTTP/1.1 200 OK\r\nLink: a\r\nlink: b\r\nWWW-Authenticate: Basic\r\n"
        b"www-authenticate: Bearer x\r\nContent-Length: 0\r\n\r\n"
    )
    with ScriptedServer(Raw(raw)) as server, session(server.host) as one:
        response = one.send(pull())
        assert response.headers["LINK"] == "a, b"
        assert response.challenges() == ("Basic", "Bearer x")


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "closed by the server"),
        (b"nonsense\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 101 + b"\r\n", "connection failed"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70000 + b"\r\n\r\n", "too long"),
    ],
)
def test_wire_answers_that_are_none_are_errors_of_the_network(raw, reason):
    with (
        ScriptedServer(Raw(raw)) as server,
        session(server.host) as one,
        pytest.raises(NetworkError, match=reason),
    ):
        one.send(pull())


@pytest.mark.parametrize(
    "read", [lambda r: r.read(3), lambda r: r.readinto(memoryview(bytearray(3)))]
)
def test_wire_body_that_ends_early_is_an_error(read):
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc"
    with ScriptedServer(Raw(raw)) as server, session(server.host) as one:
        response = one.send(pull())
        read(response)
        with pytest.raises(NetworkError, match="ended early"):
            read(response)


def test_wire_readinto_fills_a_buffer():
    with ScriptedServer(Reply(200, b"abcdef")) as server, session(server.host) as one:
        response, room = one.send(pull()), bytearray(4)
        assert response.readinto(memoryview(room)) == 4
        assert bytes(room) == b"abcd"
        assert response.readinto(memoryview(room)) == 2
        assert response.readinto(memoryview(room)) == 0


def test_wire_read_answer_before_a_refused_body_was_taken():
    raw = b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    with ScriptedServer(Raw(raw)) as server, session(server.host) as one:
        response = one.send(pull(method="PUT", body=b"x" * 10, ok=frozenset({413})))
        assert response.status == 413


@pytest.mark.parametrize("count", [3, 2**16])
def test_wire_sends_a_body_whose_blocks_share_one_buffer(count):
    def blocks():
        room = bytearray(2)
        for number in range(count):
            room[:] = number.to_bytes(2, "big")
            yield memoryview(room)

    sent = Body(2 * count, blocks)
    with ScriptedServer(Reply(201)) as server, session(server.host) as one:
        one.send(pull(method="PUT", body=sent, ok=frozenset({201})))
        assert server.requests[0].body == b"".join(n.to_bytes(2, "big") for n in range(count))


def test_wire_closed_session_keeps_no_connection():
    with ScriptedServer(rest=Reply(200, b"abc")) as server, session(server.host) as one:
        one.send(pull()).read()
        kept = kept_socket(one)
        response = one.send(pull())
        one.close()
        response.read()
        assert kept.fileno() == -1


def test_wire_connections_that_nobody_closes_are_closed_with_their_pool():
    """Else the collector warns of each of them, in whatever program forgot to close its client."""
    with ScriptedServer(rest=Reply(200, b"abc")) as server, session(server.host) as one:
        one.send(pull()).read()
        kept = kept_socket(one)
        one._wire = None
        gc.collect()
        assert kept.fileno() == -1


def test_http_client_has_what_responses_are_made_of():
    for name in (
        "_read_status", "_check_close", "_close_conn",
        "_read_next_chunk_size", "_read_and_discard_trailer",
    ):  # fmt: skip
        assert callable(getattr(http.client.HTTPResponse, name))


def kept_socket(one: Session) -> socket.socket:
    """Return the socket of the connection that a session keeps."""
    (pool,) = one.transport._pools.values()
    return pool.pool.queue[-1].sock


def test_open_body_streams_with_a_known_length():
    body = open_body(Body(3, lambda: iter([b"ab", b"c"])))
    assert isinstance(body, SizedBody)
    assert len(body) == 3
    assert b"".join(body) == b"abc"
    assert b"".join(body) == b"abc"
    body.close()


def test_open_body_of_nothing_is_bytes():
    assert open_body(Body(0, lambda: iter([]))) == b""
    assert open_body(b"x") == b"x"
    assert open_body(None) is None
    assert not Body(0, lambda: iter([]))


def test_sized_body_may_be_closed_before_it_is_read():
    body = open_body(Body(3, lambda: iter([b"abc"])))
    assert isinstance(body, SizedBody)
    body.close()

"""A registry that answers too slowly is given up, by a clock that only moves when it is told to."""

from __future__ import annotations

import http.client

import pytest

from dockercomms.errors import NetworkError
from dockercomms.oci.remote.errors import error_from_exception
from dockercomms.oci.remote.pace import (
    HEAD_SECONDS,
    MAX_INFORMATIONAL,
    PACE_SECONDS,
    Pace,
    PacedResponse,
    Patience,
    SlowAnswer,
    TinyChunks,
    TooManyInformational,
    send_paced,
)
from tests.fakes.clock import FakeClock

OK = b"HTTP/1.1 200 OK\r\n"


class SlowSocket:
    """Gives each piece of its script after so many seconds; takes bytes at a pace of its own."""

    def __init__(self, clock: FakeClock, *script: tuple[float, bytes], takes: float = 0.0) -> None:
        self.clock = clock
        self.script = list(script)
        self.takes = takes
        self.timeout = 60.0
        self.sent = 0

    def makefile(self, mode: str, buffering: int) -> SlowSocket:
        assert (mode, buffering) == ("rb", 0)
        return self

    def settimeout(self, seconds: float) -> None:
        self.timeout = seconds

    def readinto(self, buffer: memoryview) -> int:
        seconds, piece = self.script.pop(0) if self.script else (0.0, b"")
        if seconds > self.timeout:
            self.clock.advance(self.timeout)
            raise TimeoutError("timed out")
        self.clock.advance(seconds)
        buffer[: len(piece)] = piece
        return len(piece)

    def sendall(self, data: memoryview) -> None:
        self.clock.advance(len(data) * self.takes)
        self.sent += len(data)

    def close(self) -> None:
        """Do nothing."""


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def patience(clock: FakeClock, timeout: float = 60.0) -> Patience:
    return Patience(timeout=timeout, monotonic=clock.monotonic)


def answer(clock: FakeClock, *script: tuple[float, bytes], timeout: float = 60.0) -> PacedResponse:
    sock = SlowSocket(clock, *script)
    sock.timeout = timeout
    made = PacedResponse(sock, patience(clock, timeout), method="GET")
    made.begin()
    return made


def test_body_of_a_byte_a_second_ends_after_a_minute(clock):
    started = clock.monotonic()
    slow = answer(clock, (0, OK + b"Content-Length: 9999\r\n\r\n"), *[(1, b"x")] * 9999)
    with pytest.raises(SlowAnswer, match="60 bytes in 60 s are too slow"):
        slow.read(9999)
    assert clock.monotonic() - started == PACE_SECONDS


def test_body_at_the_least_pace_is_read_to_its_end(clock):
    pieces = [(1, bytes(1024))] * 300
    slow = answer(clock, (59, OK), (0, b"Content-Length: 307200\r\n\r\n"), *pieces)
    assert len(slow.read()) == 307200


def test_body_may_be_as_silent_as_the_time_limit_says(clock):
    """Whoever gives a registry five minutes to answer does not mean one."""
    head = (0, OK + b"Content-Length: 8001\r\n\r\n")
    assert answer(clock, head, (290, b"x"), (9, bytes(8000)), timeout=300).read(8001)
    started = clock.monotonic()
    with pytest.raises(SlowAnswer):
        answer(clock, head, *[(1, b"x")] * 8001, timeout=300).read(8001)
    assert clock.monotonic() - started == 300


def test_time_that_the_reader_takes_is_not_the_registrys(clock):
    slow = answer(clock, (0, OK + b"Content-Length: 20\r\n\r\n"), *[(1, b"x" * 10)] * 2)
    assert slow.read(10)
    clock.advance(3600)
    assert slow.read(10)


def test_head_of_a_byte_a_second_ends_after_half_a_minute(clock):
    started = clock.monotonic()
    drip = [(1, bytes([byte])) for byte in OK + b"X-Long: " + b"y" * 9999]
    with pytest.raises(SlowAnswer, match="head"):
        answer(clock, *drip)
    assert clock.monotonic() - started == HEAD_SECONDS + 1  # the first byte's is silence


def test_head_that_stops_ends_half_a_minute_after_it_began(clock):
    started = clock.monotonic()
    with pytest.raises(SlowAnswer, match="head"):
        answer(clock, (59, OK), (61, b"\r\n"))
    assert clock.monotonic() - started == 59 + HEAD_SECONDS


def test_silence_before_a_head_is_bounded_by_the_time_limit_alone(clock):
    assert answer(clock, (59, OK + b"Content-Length: 0\r\n\r\n")).status == 200
    with pytest.raises(TimeoutError):
        answer(clock, (61, OK))


def test_informational_answers_are_few(clock):
    wait = b"HTTP/1.1 100 Continue\r\n\r\n"
    end = OK + b"Content-Length: 0\r\n\r\n"
    assert answer(clock, (0, wait * MAX_INFORMATIONAL + end)).status == 200
    with pytest.raises(TooManyInformational):
        answer(clock, (0, wait * (MAX_INFORMATIONAL + 1) + end))


def test_informational_answers_may_each_be_waited_for(clock):
    """A registry that says 102 while it puts a blob together is at work."""
    wait = [(50, b"HTTP/1.1 102 Processing\r\n\r\n")] * MAX_INFORMATIONAL
    assert answer(clock, *wait, (50, OK + b"Content-Length: 0\r\n\r\n")).status == 200


@pytest.mark.parametrize("end", [b"X: y\r\n" * 200, b"X: " + b"y" * 70_000])
def test_trailers_without_end_are_refused(clock, end):
    head = OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n"
    pieces = [(0, end[at : at + 4000]) for at in range(0, len(end), 4000)]
    slow = answer(clock, (0, head), *pieces)
    with pytest.raises(http.client.HTTPException):
        slow.read()


@pytest.mark.parametrize("size", [b"-5", b"zz", b""])
def test_chunk_of_no_length_ends_the_answer(clock, size):
    head = OK + b"Transfer-Encoding: chunked\r\n\r\n"
    odd = answer(clock, (0, head + size + b"\r\nabc\r\n0\r\n\r\n"))
    with pytest.raises(http.client.IncompleteRead):
        odd.read()


def test_chunks_of_a_byte_are_refused_before_they_take_memory(clock):
    head = OK + b"Transfer-Encoding: chunked\r\n\r\n"
    pieces = [(0, b"1\r\nx\r\n" * 1000)] * 50
    with pytest.raises(TinyChunks):
        answer(clock, (0, head), *pieces).read()


def test_small_chunks_are_read_as_long_as_they_are_few(clock):
    head = OK + b"Transfer-Encoding: chunked\r\n\r\n"
    pieces = [(0, b"1\r\nx\r\n" * 1000)] * 4
    assert answer(clock, (0, head), *pieces, (0, b"0\r\n\r\n")).read() == b"x" * 4000


def test_body_that_is_taken_too_slowly_is_given_up(clock):
    sock = SlowSocket(clock, takes=1 / 500)
    with pytest.raises(SlowAnswer):
        send_paced(sock, bytes(2**22), Pace(patience(clock)))
    assert sock.sent < 2**20


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (SlowAnswer("60 bytes in 60 s are too slow"), "60 bytes in 60 s are too slow"),
        (TooManyInformational("x"), "too many informational answers (1xx)"),
    ],
)
def test_what_is_too_slow_is_a_network_error_that_says_so(error, text):
    ours = error_from_exception(error, "GET http://r.example/")
    assert isinstance(ours, NetworkError)
    assert ours.message == f"GET http://r.example/: {text}"

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError, replace
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime

import pytest

from dockercomms.errors import (
    BlobUnknown,
    DigestMismatch,
    DockerCommsError,
    NetworkError,
    RegistryError,
    RetryAborted,
    TooManyRequests,
    UploadInvalid,
)
from dockercomms.oci.remote.retry import (
    Failure,
    RateLimiter,
    RetryEvent,
    Retrying,
    RetryPolicy,
    parse_retry_after,
)
from tests.fakes.clock import FakeClock

LOWEST, MIDDLE, HIGHEST = 0.0, 0.5, 1.0


def status(code: int, *, retry_after: float | None = None) -> RegistryError:
    kind = TooManyRequests if code == 429 else RegistryError
    return kind(f"answered {code}", status=code, retry_after_seconds=retry_after)


def failing(*errors: DockerCommsError) -> Callable[[], str]:
    """Return an operation that fails so often, then says how often it was called."""
    left: Iterator[DockerCommsError] = iter(errors)
    calls = 0

    def operation() -> str:
        nonlocal calls
        calls += 1
        for error in left:
            raise error
        return f"call {calls}"

    return operation


def always(error: DockerCommsError) -> tuple[Callable[[], None], list[int]]:
    calls: list[int] = []

    def operation() -> None:
        calls.append(len(calls) + 1)
        raise error

    return operation, calls


# --- the preset for requests (agentfile)


@pytest.mark.parametrize(
    ("cap", "sleeps"),
    [
        (30.0, [0.5, 0.75, 1.125, 1.6875, 2.53125, 3.796875, 5.6953125, 8.54296875]),
        (2.0, [0.5, 0.75]),  # three tries, and the third wait is not begun
        (6.0, [0.5, 0.75, 1.125, 1.6875]),  # five tries
        (0.0, []),
    ],
)
def test_requests_begins_no_wait_that_would_pass_the_cap(cap: float, sleeps: list[float]) -> None:
    clock = FakeClock(fraction=MIDDLE)
    operation, calls = always(status(500))
    with pytest.raises(NetworkError) as caught:
        replace(RetryPolicy.requests(), max_elapsed=cap).call(operation, clock=clock)
    assert clock.sleeps == pytest.approx(sleeps)
    assert len(calls) == len(sleeps) + 1
    assert caught.value.attempts == len(calls)
    assert caught.value.waited_seconds == pytest.approx(sum(sleeps))


def test_requests_numbers() -> None:
    policy = RetryPolicy.requests()
    assert (policy.initial, policy.factor, policy.jitter) == (0.5, 1.5, (-0.5, 0.5))
    assert (policy.max_elapsed, policy.max_delay, policy.max_attempts) == (30.0, 60.0, None)


def test_requests_cap_counts_the_tries_themselves() -> None:
    clock = FakeClock()
    calls = []

    def slow() -> None:
        calls.append(1)
        clock.advance(29.4)
        raise status(500)

    with pytest.raises(NetworkError):
        RetryPolicy.requests().call(slow, clock=clock)
    assert clock.sleeps == [0.5]
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("fraction", "first", "second"), [(LOWEST, 0.25, 0.375), (HIGHEST, 0.75, 1.125)]
)
def test_requests_jitter_is_half_either_way_and_does_not_add_up(
    fraction: float, first: float, second: float
) -> None:
    clock = FakeClock(fraction=fraction)
    RetryPolicy.requests().call(failing(status(500), status(500)), clock=clock)
    assert clock.sleeps == pytest.approx([first, second])


@pytest.mark.parametrize("code", [408, 425, 429, 500, 502, 503, 504, 506, 507, 599])
def test_requests_retries_server_errors_that_may_pass(code: int) -> None:
    assert RetryPolicy.requests().call(failing(status(code), status(code)), clock=FakeClock()) == (
        "call 3"
    )


@pytest.mark.parametrize("code", [200, 204, 304, 400, 401, 403, 404, 409, 416, 501, 505])
def test_requests_tries_other_statuses_once(code: int) -> None:
    clock = FakeClock()
    error = status(code)
    operation, calls = always(error)
    with pytest.raises(RegistryError) as caught:
        RetryPolicy.requests().call(operation, clock=clock)
    assert caught.value is error
    assert (len(calls), clock.sleeps) == (1, [])


def test_requests_three_500_and_then_success() -> None:
    assert RetryPolicy.requests().call(failing(*[status(500)] * 3), clock=FakeClock()) == "call 4"


def test_requests_retries_connections_that_fail() -> None:
    error = NetworkError("connection refused")
    assert RetryPolicy.requests().call(failing(error), clock=FakeClock()) == "call 2"


def test_connection_that_cannot_get_better_is_not_retried() -> None:
    error = NetworkError("certificate of another host", retryable=False)
    operation, calls = always(error)
    with pytest.raises(NetworkError) as caught:
        RetryPolicy.requests().call(operation, clock=FakeClock())
    assert caught.value is error
    assert len(calls) == 1


def test_what_cannot_be_sent_twice_is_tried_once() -> None:
    for error in (status(500), NetworkError("broken pipe"), status(429, retry_after=1)):
        clock = FakeClock()
        operation, calls = always(error)
        with pytest.raises(DockerCommsError):
            RetryPolicy.requests().call(operation, clock=clock, replayable=False)
        assert (len(calls), clock.sleeps) == (1, [])


def test_what_cannot_be_sent_twice_says_so() -> None:
    cause = status(500)
    with pytest.raises(
        NetworkError, match=r"answered 500 \(tried once; its body cannot be sent"
    ) as e:
        RetryPolicy.requests().call(always(cause)[0], clock=FakeClock(), replayable=False)
    assert e.value.__cause__ is cause
    assert e.value.attempts == 1


# --- Retry-After


def test_too_many_requests_is_retried_where_it_says_when() -> None:
    clock = FakeClock()
    RetryPolicy.requests().call(failing(status(429, retry_after=7)), clock=clock)
    assert clock.sleeps == [7]


def test_retry_after_is_the_least_that_is_waited() -> None:
    clock = FakeClock()
    RetryPolicy.requests().call(failing(*[status(503, retry_after=1)] * 4), clock=clock)
    assert clock.sleeps == pytest.approx([1, 1, 1.125, 1.6875])
    clock = FakeClock()
    RetryPolicy.requests().call(failing(*[status(503, retry_after=0)] * 3), clock=clock)
    assert clock.sleeps == pytest.approx([0.5, 0.75, 1.125])


def test_retry_after_beyond_the_limits_is_reported_and_not_waited_for() -> None:
    for policy, seconds in ((RetryPolicy.requests(), 31.0), (RetryPolicy.upload(), 61.0)):
        clock = FakeClock()
        error = status(429, retry_after=seconds)
        with pytest.raises(TooManyRequests) as caught:
            policy.call(always(error)[0], clock=clock)
        assert caught.value is error
        assert caught.value.hint == f"the registry asks to wait {seconds:.0f} s"
        assert clock.sleeps == []


def test_retry_after_stands_before_a_hint_that_is_there() -> None:
    error = TooManyRequests("x", status=429, retry_after_seconds=100, hint="ask the owner")
    with pytest.raises(TooManyRequests) as caught:
        RetryPolicy.requests().call(always(error)[0], clock=FakeClock())
    assert caught.value.hint == "the registry asks to wait 100 s\nask the owner"


def test_retry_after_is_said_once_by_policies_within_one_another() -> None:
    error = TooManyRequests("x", status=429, retry_after_seconds=100, hint="ask the owner")
    inner = always(error)[0]

    def outer() -> object:
        return RetryPolicy.none().call(inner, clock=FakeClock())

    with pytest.raises(TooManyRequests) as caught:
        RetryPolicy.requests().call(outer, clock=FakeClock())
    assert caught.value.hint == "the registry asks to wait 100 s\nask the owner"


@pytest.mark.parametrize("seconds", [31, 100])
def test_retry_after_of_a_5xx_that_is_not_waited_for_is_told(seconds: int) -> None:
    with pytest.raises(NetworkError) as caught:
        RetryPolicy.requests().call(always(status(503, retry_after=seconds))[0], clock=FakeClock())
    assert caught.value.hint == f"the registry asks to wait {seconds} s"
    assert caught.value.attempts == 1


def test_retry_after_may_be_ignored() -> None:
    policy = replace(RetryPolicy.requests(), respect_retry_after=False)
    clock = FakeClock()
    policy.call(failing(status(503, retry_after=20)), clock=clock)
    assert clock.sleeps == [0.5]
    with pytest.raises(TooManyRequests):
        policy.call(always(status(429, retry_after=1))[0], clock=clock)


NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("0", 0.0),
        (" 120 ", 120.0),
        ("-1", None),
        ("1.5", None),
        ("9" * 400, None),
        ("\u0661", None),  # a digit, but not HTTP's
        ("soon", None),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90.0),
        (format_datetime(NOW - timedelta(seconds=90), usegmt=True), 0.0),
        ("Fri, 20 Nov 2026 12:00:07 -0000", 7.0),
        ("Fri, 20 Nov 2026 13:00:07 +0100", 7.0),
        ("Fri, 99 Nov 2026 12:00:07 GMT", None),
        ("Fri, 20 Nov 99999999 12:00:07 GMT", None),
    ],
)
def test_parse_retry_after_reads_seconds_and_dates(
    value: str | None, seconds: float | None
) -> None:
    assert parse_retry_after(value, NOW) == seconds


def test_parse_retry_after_compares_moments_not_wall_clocks() -> None:
    text = format_datetime(NOW + timedelta(seconds=5), usegmt=True)
    assert parse_retry_after(text, NOW.astimezone(timezone(timedelta(hours=5)))) == 5.0


# --- the preset for uploads (cog)


def test_upload_tries_five_times_and_doubles() -> None:
    events: list[RetryEvent] = []
    clock = FakeClock(fraction=LOWEST)
    error = status(503)
    operation, calls = always(error)
    with pytest.raises(NetworkError, match="tried 5 times") as caught:
        RetryPolicy.upload(on_retry=events.append).call(operation, clock=clock)
    assert clock.sleeps == [2, 4, 8, 16]
    assert len(calls) == 5
    assert events == [
        RetryEvent(attempt=n, max_attempts=5, error=error, next_retry_in=seconds)
        for n, seconds in ((1, 2), (2, 4), (3, 8), (4, 16))
    ]
    assert caught.value.__cause__ is error
    assert (caught.value.attempts, caught.value.waited_seconds) == (5, 30)


def test_upload_adds_up_to_a_tenth() -> None:
    clock = FakeClock(fraction=HIGHEST)
    RetryPolicy.upload().call(failing(*[status(500)] * 3), clock=clock)
    assert clock.sleeps == pytest.approx([2.2, 4.4, 8.8])


@pytest.mark.parametrize("code", [408, 499, 500, 502, 503, 504, 522])
def test_upload_retries_these_statuses(code: int) -> None:
    assert RetryPolicy.upload().call(failing(status(code)), clock=FakeClock()) == "call 2"


@pytest.mark.parametrize("code", [400, 401, 403, 404, 416, 429, 501, 505, 507, 520, 524])
def test_upload_tries_these_statuses_once(code: int) -> None:
    error = status(code)
    with pytest.raises(RegistryError) as caught:
        RetryPolicy.upload().call(always(error)[0], clock=FakeClock())
    assert caught.value is error


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (TooManyRequests("x", status=403), True),
        (RegistryError("x", status=400, code="UNKNOWN"), True),
        (RegistryError("x", status=400, code="UNAVAILABLE"), True),
        (UploadInvalid("x", status=404), True),
        (RegistryError("x", status=400, code="DENIED"), False),
        (BlobUnknown("x", status=404), False),
        (status(429, retry_after=1), True),
        (TooManyRequests("x", status=429), False),
        (NetworkError("reset by peer"), True),
        (DigestMismatch("other bytes"), False),
    ],
)
def test_upload_retries_by_code_too(error: DockerCommsError, again: bool) -> None:
    if again:
        assert RetryPolicy.upload().call(failing(error), clock=FakeClock()) == "call 2"
    else:
        with pytest.raises(type(error)):
            RetryPolicy.upload().call(failing(error), clock=FakeClock())


def test_hook_that_returns_false_aborts() -> None:
    clock = FakeClock()
    cause = status(503)
    with pytest.raises(RetryAborted, match=r"answered 503 \(retry aborted\)") as caught:
        RetryPolicy.upload(on_retry=lambda event: event.attempt < 2).call(
            always(cause)[0], clock=clock
        )
    assert caught.value.__cause__ is cause
    assert len(clock.sleeps) == 1


def test_hook_is_not_called_where_nothing_is_retried() -> None:
    events: list[RetryEvent] = []
    policy = RetryPolicy.upload(on_retry=events.append)
    with pytest.raises(RegistryError):
        policy.call(always(status(404))[0], clock=FakeClock())
    assert policy.call(lambda: "fine", clock=FakeClock()) == "fine"
    assert events == []


# --- the preset for Docker Hub (meta-scripts)


def test_hub_tries_once_a_second() -> None:
    clock = FakeClock(fraction=HIGHEST)
    RetryPolicy.hub().call(failing(status(503), status(503)), clock=clock)
    assert clock.sleeps == [1, 1]


@pytest.mark.parametrize("code", [500, 502, 503, 504])
def test_hub_sends_three_times_for_server_errors(code: int) -> None:
    operation, calls = always(status(code))
    with pytest.raises(NetworkError):
        RetryPolicy.hub().call(operation, clock=FakeClock())
    assert len(calls) == 3


def test_hub_does_not_count_429() -> None:
    errors = [status(code) for code in (429, 500, 429, 500, 429)]
    events: list[RetryEvent] = []
    policy = RetryPolicy.hub(on_retry=events.append)
    assert policy.call(failing(*errors), clock=FakeClock()) == "call 6"
    assert [event.max_attempts for event in events] == [None, 3, None, 3, None]
    assert [event.attempt for event in events] == [1, 2, 3, 4, 5]


def test_hub_gives_up_on_429_after_its_time() -> None:
    clock = FakeClock()
    operation, calls = always(status(429))
    with pytest.raises(TooManyRequests):
        RetryPolicy.hub().call(operation, clock=clock)
    assert sum(clock.sleeps) == 300
    assert len(calls) == 301


@pytest.mark.parametrize(
    "error", [status(501), status(408), status(404), NetworkError("connection refused")]
)
def test_hub_tries_these_once(error: DockerCommsError) -> None:
    clock = FakeClock()
    with pytest.raises(type(error)):
        RetryPolicy.hub().call(always(error)[0], clock=clock)
    assert clock.sleeps == []


# --- the rest of the policy


@pytest.mark.parametrize(
    "error", [status(500), status(429, retry_after=0), NetworkError("x"), UploadInvalid("x")]
)
def test_none_raises_what_it_got(error: DockerCommsError) -> None:
    with pytest.raises(type(error)) as caught:
        RetryPolicy.none().call(always(error)[0], clock=FakeClock())
    assert caught.value is error


def test_policy_wait_grows_up_to_its_ceiling() -> None:
    clock = FakeClock()
    policy = RetryPolicy(
        max_attempts=6,
        max_elapsed=None,
        initial=4,
        factor=3,
        max_delay=20,
        statuses=frozenset({500}),
    )
    with pytest.raises(NetworkError):
        policy.call(always(status(500))[0], clock=clock)
    assert clock.sleeps == [4, 12, 20, 20, 20]


def test_policy_does_not_swallow_other_exceptions() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        RetryPolicy.requests().call(interrupted, clock=FakeClock())


@pytest.mark.parametrize(
    "values",
    [
        {"max_attempts": 0},
        {"max_elapsed": -1},
        {"initial": -1},
        {"factor": 0.5},
        {"jitter": (0.5, 0.1)},
        {"jitter": (-1.5, 0)},
        {"max_delay": -1},
    ],
)
def test_policy_that_makes_no_sense_does_not_exist(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"retry policy: {next(iter(values))} out of range"):
        RetryPolicy(**values)


def test_policy_is_a_value() -> None:
    assert RetryPolicy.upload() == RetryPolicy.upload(on_retry=lambda event: None)
    assert hash(RetryPolicy.hub()) == hash(RetryPolicy.hub())
    with pytest.raises(FrozenInstanceError):
        RetryPolicy.none().factor = 3  # type: ignore[misc]


# --- the engine by hand, as the session drives it


def test_retrying_leaves_the_last_answer_to_its_caller() -> None:
    clock = FakeClock()
    retrying = Retrying(RetryPolicy.requests(), clock)
    failure = Failure.of(status(503))
    assert retrying.again(failure)
    assert not retrying.again(Failure.of(status(404)))
    assert (retrying.attempts, retrying.waited_seconds) == (2, 0.5)


def test_retrying_final_keeps_the_hint() -> None:
    retrying = Retrying(RetryPolicy.none(), FakeClock())
    error = NetworkError("x", hint="look at the proxy")
    assert retrying.final(Failure(error)) is error
    retrying = Retrying(RetryPolicy.requests(), FakeClock())
    final = retrying.final(Failure.of(error))
    assert (final.hint, final.message) == ("look at the proxy", "x (tried once)")


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (NetworkError("x"), {"connection": True}),
        (NetworkError("x", retryable=False), {"connection": False}),
        (
            TooManyRequests("x", status=429, retry_after_seconds=3, body=b"{}"),
            {"status": 429, "code": "TOOMANYREQUESTS", "retry_after": 3},
        ),
        (TooManyRequests("x", status=429), {"status": 429, "code": ""}),
        (RetryAborted("x"), {}),
    ],
)
def test_failure_of_an_error(error: DockerCommsError, failure: dict[str, object]) -> None:
    assert Failure.of(error) == Failure(error, **failure)


# --- the rate


def test_rate_limiter_lets_a_burst_through_and_then_keeps_its_rate() -> None:
    clock = FakeClock()
    limiter = RateLimiter(5, 3, clock=clock)
    for _ in range(5):
        limiter.acquire()
    assert clock.sleeps == pytest.approx([0.2, 0.2])


def test_rate_limiter_fills_up_to_its_burst() -> None:
    clock = FakeClock()
    limiter = RateLimiter(5, 3, clock=clock)
    for _ in range(3):
        limiter.acquire()
    clock.advance(3600)
    for _ in range(3):
        limiter.acquire()
    assert clock.sleeps == []
    limiter.acquire()
    assert clock.sleeps == pytest.approx([0.2])


def test_rate_limiter_drained_waits_for_the_next() -> None:
    clock = FakeClock()
    limiter = RateLimiter.hub(clock=clock)
    limiter.drain()
    limiter.acquire()
    assert clock.sleeps == pytest.approx([0.2])


def test_rate_limiter_of_docker_hub() -> None:
    clock = FakeClock()
    limiter = RateLimiter.hub(clock=clock)
    for _ in range(301):
        limiter.acquire()
    assert clock.sleeps == pytest.approx([0.2])


def test_rate_limiter_serves_threads_one_after_the_other() -> None:
    class Waiting(FakeClock):
        """Sleeps are noted, but time stands still: as if all asked at one moment."""

        def sleep(self, seconds: float) -> None:
            with self._lock:
                self.sleeps.append(seconds)

    clock = Waiting()
    limiter = RateLimiter(10, 1, clock=clock)
    start = threading.Barrier(8)

    def worker() -> None:
        start.wait()
        limiter.acquire()

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(worker) for _ in range(8)]:
            future.result()
    assert sorted(clock.sleeps) == pytest.approx([0.1 * n for n in range(1, 8)])


def test_rate_limiter_has_the_systems_clock_by_default() -> None:
    RateLimiter(1000, 1).acquire()


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (-1, 1), (1, 0)])
def test_rate_limiter_that_lets_nothing_through_does_not_exist(rate: float, burst: int) -> None:
    with pytest.raises(ValueError, match="rate limiter"):
        RateLimiter(rate, burst)

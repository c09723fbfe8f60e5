"""The retry policy: which failures are tried again, after which wait, and how many times.

The policy works on values and needs no HTTP library: the caller converts a failure into a
`DockerCommsError`. Two levels use it: the session for each HTTP request, and the uploader for a
whole upload. An upload that retries sends its requests with `RetryPolicy.none()`, so that attempts
and events stay exact.

`RetryPolicy.call` retries a function that raises on failure:

Example:
    >>> from dockercomms.errors import NetworkError
    >>> from dockercomms.oci.remote.retry import RetryPolicy
    >>> from dockercomms.platforms.clock import SystemClock
    >>> answers = iter([NetworkError("connection refused"), "201"])
    >>> def operation() -> object:
    ...     answer = next(answers)
    ...     if isinstance(answer, Exception):
    ...         raise answer
    ...     return answer
    >>> policy = RetryPolicy(initial=0.001, retry_connection=True, on_retry=lambda event: None)
    >>> policy.call(operation, clock=SystemClock())
    '201'

A caller that also needs the responses of failures (the session) drives `Retrying` itself:

    retrying = Retrying(policy, clock, replayable=body_can_be_sent_again)
    while True:
        try:
            response = send()
        except NetworkError as error:
            retrying.pause(Failure.of(error))       # waits, or raises the final error
            continue
        failure = failure_from(response)            # no failure for a success
        if failure is None or not retrying.again(failure):
            return response                         # or raise retrying.final(failure)

Sources: RFC 9110 section 10.2.3 (Retry-After). The presets' numbers are those of agentfile
(`requests`), cog (`upload`) and Docker's meta-scripts (`hub`), as measured in spec/seeds.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable
from dataclasses import field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Self, TypeVar

from dockercomms.errors import (
    DockerCommsError,
    NetworkError,
    ProxyError,
    RegistryError,
    RetryAborted,
    ServerFailed,
    TooManyRequests,
)
from dockercomms.platforms.clock import Clock, SystemClock
from dockercomms.platforms.records import dataclass

T = TypeVar("T")

_TOO_MANY_REQUESTS = 429
_FINAL = frozenset({501, 505})
"""Not implemented, unsupported version: a second try changes neither (RFC 9110 section 15.6)."""
_SERVER_ERRORS = frozenset(range(500, 600)) - _FINAL
REQUESTS_MAX_ELAPSED_SECONDS = 30.0
"""The limit of one HTTP request with all its retries; a user who waits longer thinks it hangs."""

MAX_DELAY_SECONDS = 60.0
"""The longest single wait; if a registry asks for more, the request fails."""

HUB_MAX_ELAPSED_SECONDS = 300.0
"""Docker Hub fills a bucket of 300 at 5 per second in 60 s; this is five times as long."""

REFUSED_ATTEMPTS = 2
"""Tries of a refused connection before the first response: at most 2 s."""

_PROBE_ATTEMPTS = 2

HUB_RATE_PER_SECOND = 5.0
HUB_BURST = 300
_FIRST_YEAR, _LAST_YEAR = 1970, 9998
"""The years of accepted dates: one span before or after them is still a valid datetime."""
_RETRY_AFTER_SECONDS = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed try, with the values that the policy decides by."""

    error: DockerCommsError
    """Raised if this was the last try."""
    status: int = 0
    """The HTTP status; 0 without a response."""
    code: str = ""
    """The OCI error code of the response, "" without one."""
    retry_after: float | None = None
    """Seconds that the registry asks to wait, `None` if it does not say."""
    connection: bool = False
    """The connection failed in a way that may pass."""
    refused: bool = False
    """The connection was refused, or the peer spoke no HTTP, before the first response: a wrong
    port, or the server is down."""

    @classmethod
    def of(cls, error: DockerCommsError) -> Failure:
        """Return the failure for `error`; errors of other classes are never retried."""
        if isinstance(error, NetworkError):
            return cls(error, connection=error.retryable, refused=error.refused)
        if isinstance(error, RegistryError):
            # The code of a bare 429 comes from our class, not from the registry
            bare = error.status == _TOO_MANY_REQUESTS and not error.body
            return cls(error, error.status, "" if bare else error.code, error.retry_after_seconds)
        return cls(error)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryEvent:
    """A failed try that will be followed by another one."""

    attempt: int
    """The number of the failed try, from 1."""
    max_attempts: int | None
    """The maximum number of tries; `None` if only time limits them."""
    error: DockerCommsError
    next_retry_in: float
    """Seconds until the next try."""


RetryHook = Callable[[RetryEvent], bool | None]
"""Called before each wait. False aborts with `RetryAborted`; any other value continues."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """A policy: the failures to retry, the waits, and the number of tries.

    The n-th wait is `initial * factor ** (n - 1)`, at most `max_delay`, changed at random by a
    share between the two of `jitter`. The jitter has no effect on the next wait.
    """

    max_attempts: int | None = None
    """Tries in all, the first included; `None`: only `max_elapsed` limits them."""
    max_elapsed: float | None = REQUESTS_MAX_ELAPSED_SECONDS
    """Seconds in all, the tries included. A wait beyond it is not begun."""
    initial: float = 0.5
    """Seconds before the second try."""
    factor: float = 1.5
    jitter: tuple[float, float] = (0.0, 0.0)
    """Lowest and highest share of the wait that is added to it."""
    max_delay: float = MAX_DELAY_SECONDS
    """The longest wait before its jitter. A longer Retry-After ends the retrying."""
    statuses: frozenset[int] = frozenset()
    """HTTP statuses that are retried."""
    codes: frozenset[str] = frozenset()
    """OCI error codes that are retried with any status."""
    uncounted: frozenset[int] = frozenset()
    """Statuses whose tries do not count towards `max_attempts`."""
    refused_attempts: int | None = None
    """Tries of a refused connection before the first response; `None`: no separate limit."""
    retry_connection: bool = False
    """Retry failed and broken connections."""
    respect_retry_after: bool = False
    """Wait as long as Retry-After says, and retry a 429 that has one."""
    on_retry: RetryHook | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        low, high = self.jitter
        checks = {
            "max_attempts": self.max_attempts is None or self.max_attempts >= 1,
            "max_elapsed": self.max_elapsed is None or self.max_elapsed >= 0,
            "initial": self.initial >= 0,
            "factor": self.factor >= 1,
            "jitter": -1 <= low <= high,
            "max_delay": self.max_delay >= 0,
        }
        for name, good in checks.items():
            if not good:
                raise ValueError(f"retry policy: {name} out of range: {getattr(self, name)}")

    @classmethod
    def requests(cls, *, on_retry: RetryHook | None = None) -> RetryPolicy:
        """Return the policy of single HTTP requests: failures that pass by themselves within 30 s.

        It retries failed connections, every 5xx but 501 and 505, and the 4xx that ask for another
        try (RFC 9110, RFC 6585, RFC 8470): 408, 425 and 429, with or without Retry-After: Quay,
        ECR, ACR and GHCR send a bare one.
        """
        return cls(
            jitter=(-0.5, 0.5),
            statuses=_SERVER_ERRORS | {408, 425, _TOO_MANY_REQUESTS},
            retry_connection=True,
            refused_attempts=REFUSED_ATTEMPTS,
            respect_retry_after=True,
            on_retry=on_retry,
        )

    @classmethod
    def upload(cls, *, on_retry: RetryHook | None = None) -> RetryPolicy:
        """Return the policy of whole uploads: 5 tries, waiting 2, 4, 8 and 16 s and up to 10 %."""
        return cls(
            max_attempts=5,
            max_elapsed=None,
            initial=2.0,
            factor=2.0,
            jitter=(0.0, 0.1),
            # nginx and CDNs send 499 and 522 if the registry behind them does not answer in time
            statuses=frozenset({408, 499, 500, 502, 503, 504, 522}),
            codes=frozenset({"TOOMANYREQUESTS", "UNKNOWN", "UNAVAILABLE", "BLOB_UPLOAD_INVALID"}),
            retry_connection=True,
            respect_retry_after=True,
            on_retry=on_retry,
        )

    @classmethod
    def hub(cls, *, on_retry: RetryHook | None = None) -> RetryPolicy:
        """Return the policy for Docker Hub: one try each second, for a 429 until the time is up.

        5xx are tried three times in all. Use it together with `RateLimiter.hub`.
        """
        return cls(
            max_attempts=3,
            max_elapsed=HUB_MAX_ELAPSED_SECONDS,
            initial=1.0,
            factor=1.0,
            statuses=frozenset({_TOO_MANY_REQUESTS, 500, 502, 503, 504}),
            uncounted=frozenset({_TOO_MANY_REQUESTS}),
            respect_retry_after=True,
            on_retry=on_retry,
        )

    @classmethod
    def none(cls) -> RetryPolicy:
        """Return the policy that tries once."""
        return cls(max_attempts=1)

    def for_probes(self) -> RetryPolicy:
        """Return this policy for a question that any response decides: responses are final.

        A broken connection is tried once more: a kept connection may have ended.
        """
        return replace(
            self,
            max_attempts=min(_PROBE_ATTEMPTS, self.max_attempts or _PROBE_ATTEMPTS),
            statuses=frozenset(),
            codes=frozenset(),
            respect_retry_after=False,
        )

    def retryable(self, failure: Failure) -> bool:
        """Return whether failures like `failure` are retried, if time and tries allow it."""
        if failure.connection:
            return self.retry_connection
        if failure.status in _FINAL:
            return False  # with any code
        if failure.status in self.statuses or failure.code in self.codes:
            return True
        return (
            self.respect_retry_after
            and failure.status == _TOO_MANY_REQUESTS
            and failure.retry_after is not None
        )

    def call(self, operation: Callable[[], T], *, clock: Clock, replayable: bool = True) -> T:
        """Return the result of `operation`, calling it again as this policy says.

        Args:
            operation: Raises a `DockerCommsError` on failure.
            clock: The time and the waiting.
            replayable: False if `operation` cannot be repeated (its body is used up).

        Raises:
            RetryAborted: `on_retry` returned False.
            NetworkError: the tries or the time are used up; has the attempts and the waited
                seconds.
            DockerCommsError: the error of `operation`, if it is not retried.
        """
        retrying = Retrying(self, clock, replayable=replayable)
        while True:
            try:
                return operation()
            except DockerCommsError as error:
                retrying.pause(Failure.of(error))


class Retrying:
    """One operation under a policy: counts the tries, waits, and decides when to stop.

    The time starts when the object is created. Not for several threads.

    Args:
        policy: The policy.
        clock: The time, the waiting and the randomness.
        replayable: False if it cannot be tried twice, such as a request whose body is used up.
    """

    def __init__(self, policy: RetryPolicy, clock: Clock, *, replayable: bool = True) -> None:
        self._policy = policy
        self._clock = clock
        self._replayable = replayable
        self._start = clock.monotonic()
        self._base = min(policy.initial, policy.max_delay)
        self._counted = 0
        self.attempts = 0
        """Failed tries so far."""
        self.waited_seconds = 0.0
        """Seconds waited between them."""

    def again(self, failure: Failure) -> bool:
        """Count `failure`; wait and return True if another try follows, else return False.

        Raises:
            RetryAborted: the policy's hook returned False.
        """
        self.attempts += 1
        policy = self._policy
        if not self._replayable or not policy.retryable(failure):
            return False
        most = policy.refused_attempts
        if failure.refused and most is not None and self.attempts >= most:
            return False
        counted = failure.status not in policy.uncounted
        self._counted += counted
        if counted and policy.max_attempts is not None and self._counted >= policy.max_attempts:
            return False
        delay = self._delay(failure)
        if delay is None:
            return False
        self._announce(failure, delay, policy.max_attempts if counted else None)
        self._clock.sleep(delay)
        self.waited_seconds += delay
        self._base = min(self._base * policy.factor, policy.max_delay)
        return True

    def pause(self, failure: Failure) -> None:
        """Wait for the next try.

        Raises:
            RetryAborted: the policy's hook returned False.
            DockerCommsError: no other try follows; see `final`.
        """
        if self.again(failure):
            return
        error = self.final(failure)
        if error is failure.error:
            raise error
        raise error from failure.error

    def final(self, failure: Failure) -> DockerCommsError:
        """Return the error to raise after the last try.

        That is `failure.error` for a 429 or a failure that is not retried, otherwise a
        `NetworkError` with the number of tries and the time waited.
        """
        error = failure.error
        if isinstance(error, TooManyRequests) or failure.status == _TOO_MANY_REQUESTS:
            error.hint = self._hint(failure)
            return error
        if not self._policy.retryable(failure):
            return error
        tried = "once" if self.attempts <= 1 else f"{self.attempts} times"
        reason = "" if self._replayable else "; its body cannot be sent again"
        longest = min(self._policy.max_delay, self._policy.max_elapsed or math.inf)
        asked = failure.retry_after is not None and failure.retry_after > longest
        kind = type(error) if isinstance(error, ProxyError | ServerFailed) else NetworkError
        if failure.status:
            kind = ServerFailed
        return kind(
            f"{error.message} (tried {tried}{reason})",
            attempts=max(1, self.attempts),
            waited_seconds=self.waited_seconds,
            refused=failure.refused,
            hint=self._hint(failure) if asked else error.hint,
        )

    @staticmethod
    def _hint(failure: Failure) -> str | None:
        """Return the wait that the registry asks for, before the error's own hint."""
        own = (failure.error.hint or "").splitlines()
        if failure.retry_after is not None:
            asked = f"the registry asks to wait {failure.retry_after:.0f} s"
            # The errors of an operation that retries as a whole have the hint of their request
            # already
            own = own if asked in own else [asked, *own]
        return "\n".join(own) or None

    def _delay(self, failure: Failure) -> float | None:
        """Return the seconds to wait now, `None` if they are too many."""
        policy = self._policy
        low, high = policy.jitter
        delay = self._base * (1 + low + (high - low) * self._clock.random())
        if policy.respect_retry_after and failure.retry_after is not None:
            if failure.retry_after > policy.max_delay:
                return None
            # Retry-After is a minimum; our own wait still grows, to spare a registry that says 0
            delay = max(delay, failure.retry_after)
        elapsed = self._clock.monotonic() - self._start
        if policy.max_elapsed is not None and elapsed + delay > policy.max_elapsed:
            return None
        return delay

    def _announce(self, failure: Failure, delay: float, max_attempts: int | None) -> None:
        hook = self._policy.on_retry
        if hook is None:
            return
        event = RetryEvent(
            attempt=self.attempts,
            max_attempts=max_attempts,
            error=failure.error,
            next_retry_in=delay,
        )
        if hook(event) is False:
            raise RetryAborted(f"{failure.error.message} (retry aborted)") from failure.error


def parse_retry_after(value: str | None, now: datetime) -> float | None:
    """Return the seconds that a Retry-After header asks to wait, `None` for an unusable value.

    Args:
        value: The header: a number of seconds or an HTTP date; `None` without one.
        now: The time in UTC to compare a date with: best the `Date` of the same response, so that a
            wrong clock on either side has no effect.

    Source: RFC 9110 section 10.2.3.
    """
    if value is None:
        return None
    text = value.strip()
    if _RETRY_AFTER_SECONDS.fullmatch(text):
        return float(text)
    moment = parse_date(text)
    return None if moment is None else max(0.0, (moment - now).total_seconds())


def parse_date(text: str) -> datetime | None:
    """Return an HTTP date as a time in UTC, `None` if it is invalid or not from 1970 to 9998.

    Source: RFC 9110 section 5.6.7.
    """
    try:
        moment = parsedate_to_datetime(text)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError, TypeError, LookupError):  # `email` raises all four
        return None
    return moment if _FIRST_YEAR <= moment.year <= _LAST_YEAR else None


class RateLimiter:
    """A bucket of requests that fills at a steady rate. Safe for several threads.

    Args:
        rate: Requests per second in the long run.
        burst: Requests that may follow each other at once.
        clock: The time and the waiting.
    """

    def __init__(self, rate: float, burst: int, *, clock: Clock | None = None) -> None:
        if rate <= 0 or burst < 1:
            raise ValueError(f"rate limiter: rate {rate} and burst {burst} must be positive")
        self._rate = rate
        self._burst = burst
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._tokens = float(burst)
        self._at = self._clock.monotonic()

    @classmethod
    def hub(cls, *, clock: Clock | None = None) -> Self:
        """Return the limiter for Docker Hub: 5 requests per second, 300 at once."""
        return cls(HUB_RATE_PER_SECOND, HUB_BURST, clock=clock)

    def acquire(self) -> None:
        """Take one request from the bucket; wait if it is empty.

        Threads are served in the order of their calls.
        """
        with self._lock:
            self._refill()
            self._tokens -= 1
            wait = -self._tokens / self._rate
        if wait > 0:
            self._clock.sleep(wait)

    def drain(self) -> None:
        """Empty the bucket: the registry sent a 429, so its own count differs from ours."""
        with self._lock:
            self._refill()
            self._tokens = min(self._tokens, 0.0)

    def _refill(self) -> None:
        now = self._clock.monotonic()
        self._tokens = min(float(self._burst), self._tokens + (now - self._at) * self._rate)
        self._at = now

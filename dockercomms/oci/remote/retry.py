"""One retry policy: which failures are tried again, after how long, and how often.

It works on values and knows nothing of HTTP libraries: whoever tries something turns what went
wrong into a `DockerCommsError`, and asks. Two levels use it: the session for each HTTP request,
and the uploader for a whole upload. An upload that retries runs its requests with
`RetryPolicy.none()`, so that attempts and events stay exact.

A whole operation, which raises where it fails:

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

A single exchange whose caller also wants the answers that are no success (the session) drives
`Retrying` itself:

    retrying = Retrying(policy, clock, replayable=body_can_be_sent_again)
    while True:
        try:
            response = send()
        except NetworkError as error:
            retrying.pause(Failure.of(error))       # waits, or raises the final error
            continue
        failure = failure_from(response)            # None for what is no failure
        if failure is None or not retrying.again(failure):
            return response                         # or raise retrying.final(failure)

Sources: RFC 9110 section 10.2.3 (Retry-After); the presets' numbers are those of agentfile
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
"""Not implemented, no such HTTP version: a second try changes neither (RFC 9110 section 15.6)."""
_SERVER_ERRORS = frozenset(range(500, 600)) - _FINAL
REQUESTS_MAX_ELAPSED_SECONDS = 30.0
"""One HTTP request with all its repetitions; a user who waits longer thinks that it hangs."""

MAX_DELAY_SECONDS = 60.0
"""No single wait is longer; a registry that asks for more is not waited for, but reported."""

HUB_MAX_ELAPSED_SECONDS = 300.0
"""Docker Hub fills a bucket of 300 at 5 per second in 60 s; five times that has seen it refill."""

REFUSED_ATTEMPTS = 2
"""Tries where a connection is refused and nothing has answered before: at most 2 s."""

_PROBE_ATTEMPTS = 2

HUB_RATE_PER_SECOND = 5.0
HUB_BURST = 300
_FIRST_YEAR, _LAST_YEAR = 1970, 9998
"""Of dates that are believed: a span more or less is still a time that Python can hold."""
_RETRY_AFTER_SECONDS = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Failure:
    """One try that failed, in the words the policy decides by."""

    error: DockerCommsError
    """What is raised if this was the last try."""
    status: int = 0
    """The HTTP status; 0 if there was no answer."""
    code: str = ""
    """The OCI error code of the answer, "" if it had none."""
    retry_after: float | None = None
    """Seconds the registry asks to wait, None if it does not say."""
    connection: bool = False
    """Whether the connection failed in a way that may pass."""
    refused: bool = False
    """Whether it was refused, or answered by no HTTP, where nothing has answered before: a wrong
    port, or nothing runs."""

    @classmethod
    def of(cls, error: DockerCommsError) -> Failure:
        """Return what `error` says about itself; other classes than these are never retried."""
        if isinstance(error, NetworkError):
            return cls(error, connection=error.retryable, refused=error.refused)
        if isinstance(error, RegistryError):
            # The code of a bare 429 is its class's: the registry did not say it
            bare = error.status == _TOO_MANY_REQUESTS and not error.body
            return cls(error, error.status, "" if bare else error.code, error.retry_after_seconds)
        return cls(error)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryEvent:
    """A try failed and there will be another one."""

    attempt: int
    """The try that failed, from 1."""
    max_attempts: int | None
    """How many there may be; None where only time limits them."""
    error: DockerCommsError
    next_retry_in: float
    """Seconds until the next try."""


RetryHook = Callable[[RetryEvent], bool | None]
"""Called before each wait. False aborts with `RetryAborted`; anything else goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Which failures are tried again, after how long, and how often.

    The n-th wait is `initial * factor ** (n - 1)`, at most `max_delay`, changed at random by a
    share between the two of `jitter`. The jitter never feeds back into the next wait.
    """

    max_attempts: int | None = None
    """Tries in all, the first included; None: only `max_elapsed` ends it."""
    max_elapsed: float | None = REQUESTS_MAX_ELAPSED_SECONDS
    """Seconds in all, the tries included. A wait that would pass it is not begun."""
    initial: float = 0.5
    """Seconds before the second try."""
    factor: float = 1.5
    jitter: tuple[float, float] = (0.0, 0.0)
    """Lowest and highest share of the wait that is added to it."""
    max_delay: float = MAX_DELAY_SECONDS
    """Ceiling of a wait before its jitter. A longer Retry-After ends the retrying."""
    statuses: frozenset[int] = frozenset()
    """HTTP statuses that are retried."""
    codes: frozenset[str] = frozenset()
    """OCI error codes that are retried whatever the status."""
    uncounted: frozenset[int] = frozenset()
    """Statuses whose tries do not count towards `max_attempts`."""
    refused_attempts: int | None = None
    """Tries where a connection is refused and nothing has answered before; None: as any other."""
    retry_connection: bool = False
    """Whether connections that fail or break are retried."""
    respect_retry_after: bool = False
    """Whether a Retry-After lengthens the wait, and a 429 that carries one is retried."""
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
        """Return the policy of single HTTP requests: what passes by itself within 30 s.

        Connections that fail, every 5xx but 501 and 505, and of the 4xx those that ask for another
        try (RFC 9110, RFC 6585, RFC 8470): 408, 425 and 429, with Retry-After or without: Quay,
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
            # 499 and 522 are answers of nginx and of a CDN whose registry did not answer in time
            statuses=frozenset({408, 499, 500, 502, 503, 504, 522}),
            codes=frozenset({"TOOMANYREQUESTS", "UNKNOWN", "UNAVAILABLE", "BLOB_UPLOAD_INVALID"}),
            retry_connection=True,
            respect_retry_after=True,
            on_retry=on_retry,
        )

    @classmethod
    def hub(cls, *, on_retry: RetryHook | None = None) -> RetryPolicy:
        """Return the policy for Docker Hub: a try each second, 429 until the time is up.

        Of the 5xx, three tries in all. Used together with `RateLimiter.hub`.
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
        """Return this policy for a question that any answer decides: its answers are final.

        A connection that breaks is tried once more: one that was kept open may have ended.
        """
        return replace(
            self,
            max_attempts=min(_PROBE_ATTEMPTS, self.max_attempts or _PROBE_ATTEMPTS),
            statuses=frozenset(),
            codes=frozenset(),
            respect_retry_after=False,
        )

    def retryable(self, failure: Failure) -> bool:
        """Return whether `failure` is of a kind that is tried again, time and tries permitting."""
        if failure.connection:
            return self.retry_connection
        if failure.status in _FINAL:
            return False  # whatever its code says
        if failure.status in self.statuses or failure.code in self.codes:
            return True
        return (
            self.respect_retry_after
            and failure.status == _TOO_MANY_REQUESTS
            and failure.retry_after is not None
        )

    def call(self, operation: Callable[[], T], *, clock: Clock, replayable: bool = True) -> T:
        """Return what `operation` returns, calling it again as this policy says.

        Args:
            operation: Raises a `DockerCommsError` where it fails.
            clock: The time and the waiting.
            replayable: False if `operation` cannot be done twice (a body that is used up).

        Raises:
            RetryAborted: `on_retry` returned False.
            NetworkError: the tries or the time are used up; carries how many and how long.
            DockerCommsError: what `operation` raised, if it is not to be retried.
        """
        retrying = Retrying(self, clock, replayable=replayable)
        while True:
            try:
                return operation()
            except DockerCommsError as error:
                retrying.pause(Failure.of(error))


class Retrying:
    """One thing being tried under a policy: counts, waits, and says when to stop.

    The time starts when it is made. Not for several threads.

    Args:
        policy: What is retried.
        clock: The time, the waiting and the chance.
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
        """Tries that failed so far."""
        self.waited_seconds = 0.0
        """Seconds waited between them."""

    def again(self, failure: Failure) -> bool:
        """Count `failure`; wait and return True if there is to be another try, else False.

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
            DockerCommsError: there is to be no other try; see `final`.
        """
        if self.again(failure):
            return
        error = self.final(failure)
        if error is failure.error:
            raise error
        raise error from failure.error

    def final(self, failure: Failure) -> DockerCommsError:
        """Return the error to raise after the last try.

        That is `failure.error` where it was not of a kind to retry or is a 429; otherwise a
        `NetworkError` that says how often was tried and how long was waited.
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
        """Return how long the registry asks to wait, before the error's own hint."""
        own = (failure.error.hint or "").splitlines()
        if failure.retry_after is not None:
            asked = f"the registry asks to wait {failure.retry_after:.0f} s"
            # An operation that retries as a whole gets errors whose request said it already
            own = own if asked in own else [asked, *own]
        return "\n".join(own) or None

    def _delay(self, failure: Failure) -> float | None:
        """Return the seconds to wait now, None if they would be too many."""
        policy = self._policy
        low, high = policy.jitter
        delay = self._base * (1 + low + (high - low) * self._clock.random())
        if policy.respect_retry_after and failure.retry_after is not None:
            if failure.retry_after > policy.max_delay:
                return None
            # Retry-After says how long at least; our own wait grows from try to try, so that a
            # registry that says 0 for ever is not hammered
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
    """Return the seconds that a Retry-After header asks to wait, None if it says nothing usable.

    Args:
        value: The header: a number of seconds or an HTTP date; None where there is none.
        now: The time in UTC that a date is compared with: best the same answer's `Date`, so that
            a wrong clock on either side does not matter.

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
    """Return the time in UTC that an HTTP date says, None if it says none from 1970 to 9998.

    Source: RFC 9110 section 5.6.7.
    """
    try:
        moment = parsedate_to_datetime(text)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError, TypeError, LookupError):  # `email` reads no date in some
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
        """Take one request from the bucket, waiting until there is one.

        Threads are served in the order in which they ask.
        """
        with self._lock:
            self._refill()
            self._tokens -= 1
            wait = -self._tokens / self._rate
        if wait > 0:
            self._clock.sleep(wait)

    def drain(self) -> None:
        """Empty the bucket: the registry said 429, so it counts otherwise than we do."""
        with self._lock:
            self._refill()
            self._tokens = min(self._tokens, 0.0)

    def _refill(self) -> None:
        now = self._clock.monotonic()
        self._tokens = min(float(self._burst), self._tokens + (now - self._at) * self._rate)
        self._at = now

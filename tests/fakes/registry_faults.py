"""Faults of single requests, and the plan that chooses the requests."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from tests.fakes.registry_state import sha256
from tests.fakes.registry_wire import Answer, Connection, Request

OTHER_DIGEST = sha256(b"some other content")
"""The digest in a wrong `Docker-Content-Digest`."""

Kind = Literal[
    "answer", "drop-before", "drop-after", "cut-request", "cut-body", "silent", "silent-after",
    "garbage", "wrong-digest", "wrong-body", "resized-body", "overrun", "told",
]  # fmt: skip


Tell = Callable[[Connection, Request, Answer], bool]
"""Answers a request itself, given the answer that would be right; returns whether the connection
goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One way to fail. Made by the class methods."""

    kind: Kind
    status: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    count: int | None = None
    tell: Tell | None = None

    @classmethod
    def answer(cls, status: int, body: bytes = b"", **headers: str) -> Fault:
        """Answer with `status`, without doing the work. `Retry_After="1"` is a header."""
        named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
        return cls(kind="answer", status=status, headers=named, body=body)

    @classmethod
    def told(cls, tell: Tell) -> Fault:
        """Do the work and let `tell` answer."""
        return cls(kind="told", tell=tell)

    @classmethod
    def unavailable(cls, retry_after: int = 1) -> Fault:
        """Answer 503 with Retry-After in seconds."""
        return cls.answer(503, Retry_After=str(retry_after))

    @classmethod
    def drop_before(cls) -> Fault:
        """Close the connection without doing the work."""
        return cls(kind="drop-before")

    @classmethod
    def drop_after(cls) -> Fault:
        """Do the work and close the connection without an answer."""
        return cls(kind="drop-after")

    @classmethod
    def cut_request(cls, at: int) -> Fault:
        """Read `at` bytes of the request's body, handle them as a broken body, and close."""
        return cls(kind="cut-request", count=at)

    @classmethod
    def cut_body(cls, at: int | None = None) -> Fault:
        """Close after `at` bytes of the answer's body; by default half of it."""
        return cls(kind="cut-body", count=at)

    @classmethod
    def silent(cls) -> Fault:
        """Never answer and do no work; the connection stays until either side closes."""
        return cls(kind="silent")

    @classmethod
    def silent_after(cls) -> Fault:
        """Do the work, but never answer."""
        return cls(kind="silent-after")

    @classmethod
    def garbage(cls) -> Fault:
        """Do the work and answer with a body that is no JSON, right in all else."""
        return cls(kind="garbage")

    @classmethod
    def wrong_digest(cls) -> Fault:
        """Do the work and say another digest in `Docker-Content-Digest`."""
        return cls(kind="wrong-digest")

    @classmethod
    def wrong_body(cls) -> Fault:
        """Do the work and change a byte of the answer's body."""
        return cls(kind="wrong-body")

    @classmethod
    def longer(cls, count: int = 1) -> Fault:
        """Answer with `count` bytes more; Content-Length says so too."""
        return cls(kind="resized-body", count=count)

    @classmethod
    def shorter(cls, count: int = 1) -> Fault:
        """Answer with `count` bytes less; Content-Length says so too."""
        return cls(kind="resized-body", count=-count)

    @classmethod
    def overrun(cls, count: int = 1) -> Fault:
        """Send `count` bytes behind the end that Content-Length announces, then close."""
        return cls(kind="overrun", count=count)


@dataclass(slots=True)
class _Rule:
    matches: Callable[[Request], bool]
    skip: int
    times: int
    fault: Fault


@dataclass(slots=True)
class FaultPlan:
    """Decides for each request, in the order they come, whether it fails."""

    _rules: list[_Rule] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fail_at(self, n: int, fault: Fault, *, times: int = 1) -> None:
        """Fail the `n`-th request from now on (1: the next), and the following up to `times`."""
        self.fail_when(lambda _: True, fault, after=n - 1, times=times)

    def fail_when(
        self, matches: Callable[[Request], bool], fault: Fault, *, after: int = 0, times: int = 1
    ) -> None:
        """Fail `times` requests that match, leaving the first `after` of them alone."""
        if after < 0 or times < 1:
            raise ValueError(f"after {after}, times {times}: nothing would fail")
        with self._lock:
            self._rules.append(_Rule(matches, after, times, fault))

    def clear(self) -> None:
        """Remove all faults."""
        with self._lock:
            self._rules.clear()

    @property
    def pending(self) -> int:
        """Faults that have not happened yet."""
        with self._lock:
            return sum(rule.times for rule in self._rules)

    def next(self, request: Request) -> Fault | None:
        """Return the fault of `request`, counting it for every rule."""
        chosen: Fault | None = None
        with self._lock:
            for rule in self._rules:
                if not rule.matches(request):
                    continue
                if rule.skip:
                    rule.skip -= 1
                elif chosen is None:
                    rule.times -= 1
                    chosen = rule.fault
            self._rules = [rule for rule in self._rules if rule.times]
        return chosen


def spoil(answer: Answer, body: bytes, fault: Fault, *, keep: bool) -> tuple[bytes, bool]:
    """Return the body that is sent, and whether the connection goes on; changes `answer`."""
    match fault.kind:
        case "garbage":
            answer.body = body and b'{"garbage": '
            answer.headers.pop("Content-Length", None)
            return answer.body, keep
        case "wrong-digest":
            if "Docker-Content-Digest" in answer.headers:
                answer.headers["Docker-Content-Digest"] = OTHER_DIGEST
        case "wrong-body":
            if body:
                answer.body = body[:-1] + bytes([body[-1] ^ 1])
            return answer.body if body else body, keep
        case "resized-body":
            count = fault.count or 0
            answer.body = answer.body + b"x" * count if count > 0 else answer.body[:count]
            return answer.body if body else body, keep
        case "cut-body":
            at = len(body) // 2 if fault.count is None else fault.count
            answer.chunked = False
            answer.headers["Content-Length"] = str(len(answer.body))
            return body[:at], False
        case "overrun":
            answer.chunked = False
            answer.headers["Content-Length"] = str(len(answer.body))
            return body + b"x" * (fault.count or 0), False
        case _:
            pass
    return body, keep

"""A server that sends scripted answers, request by request, down to the raw bytes.

Example:
    with ScriptedServer(Reply(500), Drop(), Reply(200, b"x")) as server:
        ...  # three requests to server.host
        assert [seen.method for seen in server.requests] == ["GET", "GET", "GET"]
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Self

from tests.fakes.registry_wire import Answer, BrokenBodyError, Connection, Listener, Request

if TYPE_CHECKING:
    import trustme


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete answer; `length` replaces the true Content-Length, `None` leaves it out."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    length: int | Literal["true"] | None = "true"
    close: bool = False


@dataclass(frozen=True, slots=True)
class Raw:
    """Exactly these bytes; then the connection ends, breaks, continues or stalls."""

    data: bytes
    then: Literal["close", "reset", "keep", "stall"] = "close"


@dataclass(frozen=True, slots=True)
class Drop:
    """No answer. With `after`, it reads that many body bytes first; `None`: all of them."""

    after: int | None = None
    reset: bool = False


@dataclass(frozen=True, slots=True)
class Stall:
    """Waits for `release`, then plays `then`."""

    then: Reply | Raw | Drop


Step = Reply | Raw | Drop | Stall
Answerer = Callable[["Seen"], Step]


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as it came."""

    method: str
    target: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    connection: int
    """The number of the request's connection, counted from 0."""


class ScriptedServer(AbstractContextManager["ScriptedServer"]):
    """Plays `steps` in the order of the requests, then `rest` for ever (default: 500).

    A step may be a function that takes the request and returns the step to play. Requests after the
    script are in `requests` like all others, and counted in `beyond`.
    """

    def __init__(
        self, *steps: Step | Answerer, rest: Step | Answerer | None = None, tls: bool = False
    ) -> None:
        self._steps = list(steps)
        self._rest = rest
        self._lock = threading.Lock()
        self._released = threading.Event()
        self._connections = 0
        self._listener: Listener | None = None
        self._tls = tls
        self.authority: trustme.CA | None = None
        self.requests: list[Seen] = []
        self.beyond = 0

    def __enter__(self) -> Self:
        context: ssl.SSLContext | None = None
        if self._tls:
            import trustme

            self.authority = trustme.CA()
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
        self._listener = Listener(self._serve, tls=context)
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    @property
    def host(self) -> str:
        """Host and port, as a reference begins."""
        if self._listener is None:
            raise RuntimeError("the scripted server is not running")
        return f"127.0.0.1:{self._listener.port}"

    @property
    def url(self) -> str:
        """Scheme, host and port."""
        return f"{'https' if self._tls else 'http'}://{self.host}"

    @property
    def left(self) -> int:
        """Steps not played yet."""
        with self._lock:
            return len(self._steps)

    def add(self, *steps: Step | Answerer) -> None:
        """Append to the script."""
        with self._lock:
            self._steps.extend(steps)

    def release(self) -> None:
        """Let every stalled answer, and those to come, go on."""
        self._released.set()

    def _serve(self, connection: Connection) -> None:
        with self._lock:
            number = self._connections
            self._connections += 1
        while (request := connection.next_request()) is not None:
            if not self._play(connection, request, number):
                return

    def _play(self, connection: Connection, request: Request, number: int) -> bool:
        step = self._next()
        if isinstance(step, Drop) and step.after is not None:
            request.body.cut_at = step.after
        body = bytearray()
        broken = False
        try:
            for piece in request.body.pieces():
                body += piece
        except (BrokenBodyError, OSError):
            broken = True
        seen = Seen(request.method, request.target, request.headers, bytes(body), number)
        with self._lock:
            self.requests.append(seen)
        if callable(step):
            step = step(seen)
        if broken:
            return self._end(connection, step)
        return self._do(connection, seen, step)

    def _end(self, connection: Connection, step: Step) -> bool:
        if isinstance(step, Drop) and step.reset:
            connection.reset()
        return False

    def _next(self) -> Step | Answerer:
        with self._lock:
            if self._steps:
                return self._steps.pop(0)
            self.beyond += 1
        return self._rest or Reply(500, b"the script has ended")

    def _do(self, connection: Connection, seen: Seen, step: Step) -> bool:
        """Play one step; returns whether the connection goes on."""
        match step:
            case Stall(then):
                self._released.wait()
                return self._do(connection, seen, then)
            case Drop():
                return self._end(connection, step)
            case Raw(data, then):
                connection.send(data)
                if then == "stall":
                    self._released.wait()
                if then == "reset":
                    connection.reset()
                return then == "keep"
            case Reply():
                return _reply(connection, seen, step)


def _reply(connection: Connection, seen: Seen, step: Reply) -> bool:
    answer = Answer(step.status, dict(step.headers), step.body)
    close = step.close
    if isinstance(step.length, int):
        answer.headers["Content-Length"] = str(step.length)
        close = close or step.length != len(step.body)
    head = answer.head(close=close)
    if step.length is None:
        # Without a length the end of the connection is the end of the body.
        close = True
        head = b"\r\n".join(
            line for line in head.split(b"\r\n") if not line.startswith(b"Content-Length:")
        )
    connection.send(head + (b"" if seen.method == "HEAD" else step.body))
    return not close

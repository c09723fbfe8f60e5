"""A loopback HTTP proxy that counts body bytes and can cut its connections at given counts.

It stands between the program under test and the server (or toxiproxy before the server):

    program -> CountingProxy -> upstream

Only what HTTP/1.1 clients and registries use is understood: Content-Length and chunked bodies.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, Self

_BUFFER_BYTES = 64 * 1024
_SOCKET_BYTES = 64 * 1024
"""The kernel's buffer for a connection: the bytes in flight at a cut are sent again, and their
number must not depend on buffers of several MiB, to which loopback grows."""


@dataclass
class Counts:
    """Counters of body bytes, and of requests by method and path."""

    sent: int = 0
    received: int = 0
    requests: list[tuple[str, str, int]] = field(default_factory=list)

    def methods(self, *wanted: str) -> int:
        return sum(1 for method, _, _ in self.requests if not wanted or method in wanted)


class CountingProxy:
    """Relays to `upstream` (host, port).

    `on_bytes(counts)` is called after each piece of a body, `on_request(head, body)` when a request
    has gone through.
    """

    def __init__(
        self,
        upstream: tuple[str, int],
        *,
        on_bytes: Callable[[Counts], None] | None = None,
        on_request: Callable[[bytes, bytes], None] | None = None,
    ) -> None:
        self.counts = Counts()
        self._on_request = on_request
        self._upstream = upstream
        self._on_bytes = on_bytes
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        # Accepted sockets inherit it; it has to stand before the connection is made.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BYTES)
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._closing = False
        self.port: int = self._listener.getsockname()[1]
        self.host = f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(timeout=10)

    def reset(self) -> Counts:
        """Start counting anew; returns what was counted."""
        with self._lock:
            old, self.counts = self.counts, Counts()
        return old

    def cut(self) -> None:
        """Break every open connection, on both sides."""
        with self._lock:
            sockets, self._open = self._open, set()
        for connection in sockets:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closing:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError, ValueError):
            with socket.socket() as server:
                server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)
                server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                server.settimeout(60)
                server.connect(self._upstream)
                with self._lock:
                    self._open |= {client, server}
                with client.makefile("rb") as from_client, server.makefile("rb") as from_server:
                    while self._exchange(client, server, from_client, from_server):
                        pass
        with self._lock:
            self._open -= {client}

    def _exchange(
        self,
        client: socket.socket,
        server: socket.socket,
        from_client: BinaryIO,
        from_server: BinaryIO,
    ) -> bool:
        head, headers = _read_head(from_client)
        if not head:
            return False
        method, target, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
        expects_continue = headers.get("expect", "").lower() == "100-continue"
        server.sendall(head)
        if expects_continue:
            client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        kept = []
        for piece in _body(from_client, headers, until_close=False):
            with self._lock:
                self.counts.sent += len(piece)
            server.sendall(piece)
            self._tell()
            if self._on_request is not None:
                kept.append(piece)
        if self._on_request is not None:
            self._on_request(head, b"".join(kept))
        while True:
            answer, answer_headers = _read_head(from_server)
            if not answer:
                return False
            status = int(answer.split(b" ", 2)[1])
            if status != 100:
                break
        with self._lock:
            self.counts.requests.append((method, target, status))
        client.sendall(answer)
        if method != "HEAD" and status not in (204, 304):
            for piece in _body(from_server, answer_headers, until_close=True):
                with self._lock:
                    self.counts.received += len(piece)
                client.sendall(piece)
                self._tell()
        closing = "close" in (headers.get("connection", "") + answer_headers.get("connection", ""))
        return not closing

    def _tell(self) -> None:
        if self._on_bytes is not None:
            self._on_bytes(self.counts)


def _read_head(stream: BinaryIO) -> tuple[bytes, dict[str, str]]:
    """Return the raw head with its empty line, and the headers in lower case."""
    lines = []
    while line := stream.readline():
        lines.append(line)
        if line in (b"\r\n", b"\n"):
            break
    else:
        return b"", {}
    headers = {}
    for line in lines[1:-1]:
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    return b"".join(lines), headers


def _body(stream: BinaryIO, headers: dict[str, str], *, until_close: bool) -> Iterator[bytes]:
    """Yield the raw pieces of a body, chunk framing included."""
    if "chunked" in headers.get("transfer-encoding", ""):
        while True:
            line = stream.readline()
            if not line:
                raise OSError("cut")
            size = int(line.split(b";")[0], 16)
            yield line
            yield from _exactly(stream, size + 2)
            if size == 0:
                return
    elif "content-length" in headers:
        yield from _exactly(stream, int(headers["content-length"]))
    elif until_close:
        while piece := stream.read1(_BUFFER_BYTES):  # type: ignore[attr-defined]
            yield piece


def _exactly(stream: BinaryIO, size: int) -> Iterator[bytes]:
    while size > 0:
        piece = stream.read1(min(size, _BUFFER_BYTES))  # type: ignore[attr-defined]
        if not piece:
            raise OSError("cut")
        size -= len(piece)
        yield piece

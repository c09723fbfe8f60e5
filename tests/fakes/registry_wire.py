"""HTTP/1.1 over loopback sockets, as little of it as fakes need, quick and without leftovers.

The standard library's server parses headers as e-mail (slow), resolves its own name when it
starts, and takes half a second to stop; a fake that is started hundreds of times cannot.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import parse_qs, unquote

READ_BYTES = 256 * 1024
DRAIN_BYTES = 256 * 1024
"""The number of unread body bytes that are read after the answer; for a longer body the connection
closes, as Go's server and all measured registries do."""
LINGER_SECONDS = 0.05
"""The time that such a connection stays half open (Go: 0.5 s): a client loses an answer that
arrives together with a reset."""


class BrokenBodyError(Exception):
    """The peer went away in the middle of a body."""


class DropConnectionError(Exception):
    """The connection ends without an answer."""


class Body:
    """The body of a request, read as it arrives; counts its bytes."""

    def __init__(self, connection: Connection, headers: dict[str, str]) -> None:
        self._connection = connection
        self._chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        self.length: int | None = None if self._chunked else int(headers.get("content-length", "0"))
        self._expects = headers.get("expect", "").lower() == "100-continue"
        self._done = self.length == 0
        self._started = False
        self.received = 0
        self.cut_at: int | None = None
        """After so many bytes the body breaks, whatever the peer does."""

    def pieces(self) -> Iterator[bytes]:
        """Yield the body. Raises `BrokenBodyError` where it breaks off."""
        self._started = True
        if self._done:
            return
        if self._expects:
            self._connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        for piece in self._chunks() if self._chunked else self._plain():
            if self.cut_at is not None and self.received + len(piece) > self.cut_at:
                piece = piece[: self.cut_at - self.received]
                self.received += len(piece)
                yield piece
                raise BrokenBodyError
            self.received += len(piece)
            yield piece
        self._done = True

    def read(self) -> bytes:
        """Return the whole body."""
        return b"".join(self.pieces())

    def finish(self, *, limit: int | None = DRAIN_BYTES) -> bool:
        """Read the rest of the body; return whether the connection can be used again.

        It does not read a body longer than `limit` (by default there is no limit), nor one that the
        peer sends only on request.
        """
        if self._done:
            return True
        if self._started or self._expects:
            return False
        if limit is not None and (self.length is None or self.length > limit):
            return False
        try:
            for _ in self.pieces():
                pass
        except (BrokenBodyError, OSError):
            return False
        return True

    def _plain(self) -> Iterator[bytes]:
        left = self.length or 0
        while left:
            piece = self._connection.reader.read1(min(left, READ_BYTES))
            if not piece:
                raise BrokenBodyError
            left -= len(piece)
            yield piece

    def _chunks(self) -> Iterator[bytes]:
        reader = self._connection.reader
        while True:
            line = reader.readline(100)
            if not line.endswith(b"\n"):
                raise BrokenBodyError
            size = int(line.split(b";")[0], 16)
            piece = reader.read(size)
            if len(piece) < size or reader.readline(3) != b"\r\n":
                raise BrokenBodyError
            if size == 0:
                return
            yield piece


@dataclass(slots=True)
class Request:
    """One request; header names are lower-case."""

    method: str
    target: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: Body

    def first(self, key: str) -> str:
        """Return the first value of a query parameter, "" without one."""
        return self.query.get(key, [""])[0]


@dataclass(slots=True)
class Answer:
    """An answer. Without `chunked`, it gets the Content-Length of `body`."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    chunked: bool = False

    def head(self, *, close: bool = False) -> bytes:
        """Return status line and headers."""
        try:
            phrase = HTTPStatus(self.status).phrase
        except ValueError:
            phrase = "Unknown"
        lines = [f"HTTP/1.1 {self.status} {phrase}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        if self.chunked:
            lines.append("Transfer-Encoding: chunked")
        elif "Content-Length" not in self.headers and self.status not in {204, 304}:
            lines.append(f"Content-Length: {len(self.body)}")
        if close:
            lines.append("Connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


class Connection:
    """One accepted socket."""

    def __init__(self, sock: socket.socket, ending: threading.Event) -> None:
        self.socket = sock
        self._ending = ending
        self.reader = sock.makefile("rb")

    def send(self, data: bytes | memoryview) -> None:
        """Send all of `data`; ignore a peer that has gone."""
        with contextlib.suppress(OSError):
            self.socket.sendall(data)

    def next_request(self) -> Request | None:
        """Return the next request, if there is one."""
        try:
            line = self.reader.readline(65536)
            parts = line.split()
            if len(parts) != 3:
                return None
            headers: dict[str, str] = {}
            while (raw := self.reader.readline(65536)) not in {b"\r\n", b""}:
                name, _, value = raw.decode("latin-1").partition(":")
                headers[name.lower()] = value.strip()
        except (OSError, ValueError):
            return None
        target = parts[1].decode("latin-1")
        path, _, query = target.partition("?")
        return Request(
            parts[0].decode("latin-1"),
            target,
            unquote(path),
            parse_qs(query, keep_blank_values=True) if query else {},
            headers,
            Body(self, headers),
        )

    def reset(self) -> None:
        """Close so that the peer sees a reset instead of an orderly end."""
        with contextlib.suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def linger(self) -> None:
        """Shut down the sending side, and give the peer a moment to read."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self.socket, socket.SHUT_WR)
        self._ending.wait(LINGER_SECONDS)

    def wait_closed(self) -> None:
        """Return when the peer has closed, or the server is closing."""
        with contextlib.suppress(OSError, ValueError):
            while self.reader.read(65536):
                pass

    def close(self) -> None:
        """Release the socket."""
        with contextlib.suppress(OSError):
            self.reader.close()
        with contextlib.suppress(OSError):
            self.socket.close()


class Listener:
    """Serves every connection to a free loopback port on a thread of its own."""

    def __init__(
        self, serve: Callable[[Connection], None], *, tls: ssl.SSLContext | None = None
    ) -> None:
        self._serve = serve
        self._tls = tls
        self._open: dict[threading.Thread, socket.socket] = {}
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._waker, self._woken = socket.socketpair()
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(
            target=self._accept, name=f"listener:{self.port}", daemon=True
        )
        self._thread.start()

    def _accept(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while not self._ending.is_set():
                for key, _ in selector.select():
                    if key.fileobj is self._socket:
                        self._start()

    def _start(self) -> None:
        try:
            sock, _ = self._socket.accept()
        except OSError:
            return  # gone again before it was taken
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is not None:
            sock = self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(
            target=self._run, args=(sock,), name=f"connection:{self.port}", daemon=True
        )
        with self._lock:
            self._open[thread] = sock
        thread.start()

    def _run(self, sock: socket.socket) -> None:
        connection = Connection(sock, self._ending)
        try:
            if isinstance(sock, ssl.SSLSocket):
                with contextlib.suppress(OSError):
                    sock.do_handshake()
            self._serve(connection)
        finally:
            with self._lock:
                self._open.pop(threading.current_thread(), None)
            connection.close()

    def drop_connections(self) -> None:
        """End every open connection; new ones are served."""
        with self._lock:
            for sock in self._open.values():
                _wake(sock)

    def close(self) -> None:
        """Stop listening, end every connection and wait for their threads."""
        self._ending.set()
        self._waker.send(b"x")
        self._thread.join()
        with self._lock:
            threads = list(self._open)
        self.drop_connections()
        for thread in threads:
            thread.join()
        for sock in (self._socket, self._waker, self._woken):
            sock.close()


def _wake(sock: socket.socket) -> None:
    """Make whatever thread waits on `sock` find its end."""
    with contextlib.suppress(OSError):
        # Not SSLSocket.shutdown, which drops the TLS layer under the reading thread.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)

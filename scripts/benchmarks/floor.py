"""A minimal Python program for the same work as dockercomms, as a base for comparisons.

    python floor.py send PATH HOST REPOSITORY      prints the digest and size of each layer
    python floor.py receive LAYERS HOST REPOSITORY PATH
    python floor.py folder PATH HOST REPOSITORY

It uses only the standard library and zstandard. It checks digests and nothing else, does not
survive a crash, retry, sign, journal or sync, and writes no manifest. If it takes longer than the
peer, that time is needed for hashing, compressing and requests for many blobs.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import socket
import sys
import tarfile
import urllib.parse
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import local

import zstandard

CHUNK_BYTES = 16 * 2**20
PIECE_BYTES = 2**18
THREADS = 4

_of_thread = local()


class Line:
    """One connection."""

    def __init__(self, host: str) -> None:
        self._connection = http.client.HTTPConnection(host)
        self._connection.connect()
        self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @classmethod
    def of_thread(cls, host: str) -> Line:
        """Return the connection of the calling thread."""
        if not hasattr(_of_thread, "line"):
            _of_thread.line = cls(host)
        line: Line = _of_thread.line
        return line

    def ask(self, method: str, url: str, body: bytes | None = None) -> http.client.HTTPResponse:
        """Make a request and return the answer, whose body is still to be read."""
        headers = {"Content-Type": "application/octet-stream"} if body else {}
        self._connection.request(method, url, body, headers)
        return self._connection.getresponse()

    def upload(self, repository: str, data: bytes) -> str:
        """Put a blob in the store; return its digest."""
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        answer = self.ask("POST", f"/v2/{repository}/blobs/uploads/")
        answer.read()
        parts = urllib.parse.urlsplit(answer.headers["Location"])
        answer = self.ask("PUT", f"{parts.path}?{parts.query}&digest={digest}", data)
        answer.read()
        if answer.status != http.client.CREATED:
            raise SystemExit(f"{digest}: {answer.status}")
        return digest


def _push(host: str, repository: str, chunk: bytes) -> tuple[str, int]:
    data = zstandard.ZstdCompressor(level=1).compress(chunk)
    return Line.of_thread(host).upload(repository, data), len(data)


def _send(chunks: Iterator[bytes], host: str, repository: str) -> list[tuple[str, int]]:
    """Hash the payload here, and push its chunks in other threads, four in memory at once."""
    hashed = hashlib.sha256()
    pending, layers = [], []
    with ThreadPoolExecutor(THREADS) as pool:
        for chunk in chunks:
            pending.append(pool.submit(_push, host, repository, chunk))
            hashed.update(chunk)
            while len(pending) > THREADS:
                layers.append(pending.pop(0).result())
        layers += [each.result() for each in pending]
    return layers


def send(path: str, host: str, repository: str) -> None:
    """Push a file."""
    handle = os.open(path, os.O_RDONLY)
    starts = range(0, os.fstat(handle).st_size, CHUNK_BYTES)
    print(json.dumps(_send((os.pread(handle, CHUNK_BYTES, at) for at in starts), host, repository)))


def folder(path: str, host: str, repository: str) -> None:
    """Push the files below a folder, as a tar."""

    def chunks() -> Iterator[bytes]:
        chunk = bytearray()
        for at, _, names in os.walk(path):
            for name in names:
                status = os.lstat(f"{at}/{name}")
                handle = os.open(f"{at}/{name}", os.O_RDONLY)
                data = os.read(handle, status.st_size)
                os.close(handle)
                member = tarfile.TarInfo(f"{at}/{name}")
                member.size = len(data)
                chunk += member.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512)
                if len(chunk) >= CHUNK_BYTES:
                    yield bytes(chunk)
                    chunk.clear()
        yield bytes(chunk)

    _send(chunks(), host, repository)


def receive(layers: str, host: str, repository: str, path: str) -> None:
    """Pull the layers into a file; hash each of them, and the payload behind them."""
    listed = json.loads(Path(layers).read_bytes())
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)

    def pull(number: int) -> None:
        digest, size = listed[number]
        answer = Line.of_thread(host).ask("GET", f"/v2/{repository}/blobs/{digest}")
        hashed, at = hashlib.sha256(), number * CHUNK_BYTES
        room, plain = (
            memoryview(bytearray(PIECE_BYTES)),
            zstandard.ZstdDecompressor().decompressobj(),
        )
        while count := answer.readinto(room):
            hashed.update(room[:count])
            at += os.pwrite(handle, plain.decompress(room[:count]), at)
        if "sha256:" + hashed.hexdigest() != digest:
            raise SystemExit(f"{digest}: other bytes of {size}")

    hashed, room = hashlib.sha256(), memoryview(bytearray(PIECE_BYTES))
    with ThreadPoolExecutor(THREADS) as pool:
        for number, _ in enumerate(pool.map(pull, range(len(listed)))):
            for at in range(number * CHUNK_BYTES, (number + 1) * CHUNK_BYTES, PIECE_BYTES):
                hashed.update(room[: os.preadv(handle, [room], at)])
    print(hashed.hexdigest())


if __name__ == "__main__":
    verbs: dict[str, Callable[..., None]] = {"send": send, "receive": receive, "folder": folder}
    verbs[sys.argv[1]](*sys.argv[2:])

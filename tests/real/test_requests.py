"""The requests of an inbox as a service, by the registry's own access log.

A HEAD has no body; the log counts the bytes that a GET would have returned.
"""

from __future__ import annotations

import http.client
import os
import re
import time
import uuid
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from dockercomms import Mailbox
from dockercomms.oci.model import MEDIA_TYPE_MANIFEST
from dockercomms.oci.remote.registry import HTTPRegistry
from dockercomms.platforms.clock import SystemClock
from dockercomms.protocol.manifest import ManifestBuilder, parse_message
from dockercomms.protocol.tags import message_tag, recipient_tag
from tests.fakes.inboxes import Sender
from tests.fakes.mail import ONE_KEY
from tests.real.counting_proxy import CountingProxy
from tests.real.launch import Server
from tests.real.program import MIB, file_digest, random_file

OLD = 1000 if os.environ.get("DOCKERCOMMS_TEST_SIZE") == "full" else 300
NEW = 20
PER_MESSAGE = 10
"""A signed message and its signed receipt, on a registry without referrers API: manifest, index of
its bundles, bundle, chunk; blob (2), two tags, index read and written."""
IDLE_RECV = 4
LINE = re.compile(r'"(?P<method>[A-Z]+) (?P<path>\S+) HTTP/1\.1" (?P<status>\d+) ')


@dataclass(frozen=True)
class Logged:
    method: str
    path: str
    status: int


class Log:
    """The access log of a server, as far as it is about one repository."""

    def __init__(self, server: Server, repository: str) -> None:
        self._server = server
        self._repository = repository
        self._seen = 0

    def since(self, act: Callable[[], object]) -> list[Logged]:
        """Return what was asked while `act` ran; the log is written a little later."""
        self._settle()
        self._seen = len(self._server.access_log())
        act()
        self._settle()
        lines = self._server.access_log()[self._seen :]
        found = [Logged(m["method"], m["path"], int(m["status"]))
                 for line in lines if (m := LINE.search(line))]  # fmt: skip
        return [one for one in found if f"/v2/{self._repository}/" in one.path]

    def _settle(self) -> None:
        """Ask for something that nobody else asks for, and wait until the log has it."""
        mark = uuid.uuid4().hex
        connection = http.client.HTTPConnection(*self._server.address, timeout=10)
        connection.request("HEAD", f"/v2/mark/manifests/{mark}")
        connection.getresponse().read()
        connection.close()
        deadline = time.monotonic() + 10
        while not any(mark in line for line in self._server.access_log()):
            assert time.monotonic() < deadline, "the log does not come"
            time.sleep(0.01)


class Looks:
    """Stops a watch after so many looks, without waiting."""

    def __init__(self, number: int) -> None:
        self._left = number

    def is_set(self) -> bool:
        return self._left <= 0

    def wait(self, timeout: float) -> bool:
        self._left -= 1
        return self.is_set()


@pytest.fixture(params=["distribution", "docker_registry"])
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(request.param)
    return found


def box(server: Server, repository: str, me: str, folder: Path) -> Mailbox:
    return Mailbox(
        f"{server.host}/{repository}",
        me=me,
        state_path=folder / me / "state.db",
        keys_folder=folder / "keys",
        trust=ONE_KEY,
    )


def publish_old(server: Server, repository: str, number: int) -> None:
    """Publish expired messages for bob under tags of today: they are listed by every look."""
    registry = HTTPRegistry(server.host)
    clock = SystemClock()
    sender = Sender(registry, clock, repository=repository)
    now, rt = clock.now(), recipient_tag("bob")
    anchor_data, anchor = ManifestBuilder.inbox_anchor(rt, now.date()).build()
    sender.push(anchor_data, f"inbox-{rt}-{now:%Y%m%d}")

    def put(index: int) -> None:
        header = sender.header(
            recipient="bob", id=str(uuid.uuid4()), created_at=now - timedelta(days=8)
        )
        data, _ = ManifestBuilder.message(
            header.to_annotations(), (sender.layer(),), subject=anchor.bare()
        ).build()
        at = now - timedelta(milliseconds=OLD - index)
        tag = message_tag(rt, at if at.date() == now.date() else now, parse_message(data).digest)
        registry.push_manifest(repository, data, MEDIA_TYPE_MANIFEST, tags=(tag,))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(put, range(number)))
    registry.close()


def test_requests_of_a_service_by_the_log_of_the_registry(server: Server, tmp_path: Path) -> None:
    repository = f"service/{uuid.uuid4().hex}"
    log = Log(server, repository)
    publish_old(server, repository, OLD)
    with box(server, repository, "bob", tmp_path) as bob:
        assert list(bob.watch(out=tmp_path / "in", stop=Looks(1))) == []  # all has expired

        idle = log.since(lambda: list(bob.watch(out=tmp_path / "in", stop=Looks(5))))
        assert [one.method for one in idle] == ["HEAD"] * 5  # one request each, without a body

        idle = log.since(lambda: list(bob.receive(out=tmp_path / "in")))
        pages = sum("/tags/list" in one.path for one in idle)
        assert len(idle) <= IDLE_RECV + pages - 1

    with box(server, repository, "alice", tmp_path) as alice:
        alice.send(to="bob", text="the first of the day, whose receipt makes the day's anchor")
        with box(server, repository, "bob", tmp_path) as bob:
            assert len(list(bob.receive(out=tmp_path / "in"))) == 1
        assert len(alice.receipts()) == 1
        for number in range(NEW):
            alice.send(to="bob", text=f"{number}")
        got: list[object] = []
        with box(server, repository, "bob", tmp_path) as bob:
            asked = log.since(lambda: got.extend(bob.watch(out=tmp_path / "in", stop=Looks(1))))
        assert len(got) == NEW
        assert len(asked) <= 5 + NEW * PER_MESSAGE, len(asked)

        found: list[object] = []
        asked = log.since(lambda: found.extend(alice.receipts()))
        assert len(found) == 1 + NEW
        pages = sum("/tags/list" in one.path for one in asked)
        assert len(asked) <= 1 + 2 * NEW + pages


def test_one_upload_serves_several_recipients(open_server: Server, tmp_path: Path) -> None:
    """Also in another repository of the registry, wherever it mounts blobs."""
    source, name = tmp_path / "big.bin", uuid.uuid4().hex
    size = 8 * MIB
    digest = random_file(source, size, seed=zlib.crc32(name.encode()))
    with CountingProxy(open_server.address) as proxy:

        def box(repository: str, me: str) -> Mailbox:
            return Mailbox(
                f"{proxy.host}/{repository}",
                me=me,
                state_path=tmp_path / f"{me}.db",
                keys_folder=tmp_path / "keys",
                trust=ONE_KEY,
            )

        with box(f"several/{name}", "alice") as here, box(f"other/{name}", "alice") as there:
            first = here.send([source], to="bob", chunk_bytes=MIB)
            assert proxy.reset().sent >= size
            second = here.send([source], to="carol", chunk_bytes=MIB, like=first)
            asked = proxy.reset()
            assert asked.sent < MIB // 8
            assert not [path for method, path, _ in asked.requests if method == "PATCH"]
            third = there.send([source], to="dave", chunk_bytes=MIB, like=second)
            assert proxy.reset().sent < MIB // 8
        assert len({first.id, second.id, third.id}) == 3
        for repository, me in ((f"several/{name}", "carol"), (f"other/{name}", "dave")):
            with box(repository, me) as receiver:
                (got,) = receiver.receive(out=tmp_path / me)
            assert file_digest(got.files[0]) == digest

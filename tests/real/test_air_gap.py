"""Across an air gap: registry, tar, folder, registry, and the receipt all the way back."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dockercomms.oci.interface import read_all
from dockercomms.oci.stores import open_store
from tests.fakes.clock import FakeClock
from tests.fakes.moving import ALICE, DAY, Town, generation
from tests.faults.zygote import Ended, Zygote
from tests.real.counting_proxy import CountingProxy
from tests.real.launch import Server, binary
from tests.real.program import Machine, file_digest, random_file

MESSAGES = 10


class People:
    """Alice and Bob with a key each, who have told each other whose it is."""

    def __init__(self, zygote: Zygote, folder: Path) -> None:
        self._zygote = zygote
        self.folder = folder
        for name, other in (("alice", "bob"), ("bob", "alice")):
            self.run(name, "keys", "generate")
            pem = folder / f"{name}.pub"
            pem.write_text(self.run(name, "keys", "export", "--public").stdout)
            assert other != name
        self.run("alice", "trust", "add", "bob", str(folder / "bob.pub"))
        self.run("bob", "trust", "add", "alice", str(folder / "alice.pub"))

    def run(self, who: str, *arguments: str, code: int = 0) -> Ended:
        machine = Machine(self.folder / who)
        machine.home.mkdir(parents=True, exist_ok=True)
        ended = self._zygote.start(
            arguments, folder=machine.home, environ=machine.environment()
        ).wait()
        assert ended.exit_code == code, ended.stderr
        return ended

    def lines(self, who: str, *arguments: str) -> list[dict[str, object]]:
        text = self.run(who, *arguments, "--format", "jsonl").stdout
        return [json.loads(line) for line in text.splitlines()]


def repository(server: Server, name: str) -> str:
    return f"{server.host}/{name}/{uuid.uuid4().hex}"


def test_a_message_crosses_the_gap_and_its_receipt_comes_back(
    zygote: Zygote, distribution: Server, open_server: Server, tmp_path: Path
) -> None:
    people = People(zygote, tmp_path)
    outside, inside = repository(distribution, "out"), repository(open_server, "in")
    sha = random_file(tmp_path / "build.bin", 3 * 2**20)
    send = ("send", str(tmp_path / "build.bin"), "--to", "bob", "--me", "alice")
    (sent,) = people.lines("alice", *send, "--repo", outside)
    tar, folder = tmp_path / "bob.tar", tmp_path / "disk"

    people.run("alice", "export", "--to", "bob", "-o", str(tar), "--repo", outside)
    people.run("bob", "import", str(tar), "--repo", f"oci-layout:{folder}")
    (carried,) = people.lines("bob", "relay", f"oci-layout:{folder}", inside)
    assert (carried["kind"], carried["digest"]) == ("message", sent["digest"])
    receive = ("recv", "--me", "bob", "--repo", inside, "--out", str(tmp_path / "got"))
    (got,) = people.lines("bob", *receive)
    assert (got["status"], got["signer"]) == ("received", "alice")
    (file,) = got["files"]  # type: ignore[misc]
    assert file_digest(Path(file)) == sha

    back = tmp_path / "back.tar"
    (moved,) = people.lines("bob", "export", "--to", "alice", "-o", str(back), "--repo", inside)
    assert moved["kind"] == "receipt"
    assert back.stat().st_size < 100_000  # the payload stays where it is
    people.run("alice", "import", str(back), "--repo", outside)
    (receipt,) = people.lines("alice", "receipts", "--me", "alice", "--repo", outside)
    assert receipt["message"] == sent["digest"]
    assert receipt["signature"] == {"status": "valid", "signer": "bob"}

    # The same again moves nothing, nor does the same message at its first place
    assert people.lines("bob", "relay", f"oci-layout:{folder}", inside) == []
    assert people.lines("bob", *receive[:4], outside, "--out", str(tmp_path / "got")) == []


def test_a_message_a_week_late_is_found_where_others_came_before_it(
    open_server: Server, tmp_path: Path
) -> None:
    clock = FakeClock(datetime.now(UTC) - timedelta(days=7))
    town = Town(tmp_path, clock)
    here = open_store(f"oci-layout:{tmp_path / 'box'}", clock=clock, create=True)
    late = [town.send(here, f"late {n}", signed=True, ttl_seconds=60 * DAY) for n in range(2)]
    clock.set(datetime.now(UTC))
    there = open_store(repository(open_server, "late"), clock=clock)
    town.send(there, "of today", signed=True)
    assert len(town.receive(there, signed=True)) == 1

    out = open_store(f"oci-archive:{tmp_path / 'out.tar'}", clock=clock, create=True)
    town.relay(here, out)
    town.relay(out, there)
    out.registry.close()

    assert set(town.receive(there, signed=True)) == {sent.id for sent in late}
    town.relay(there, here)
    receipts = town.mailbox(here, ALICE, signed=True).receipts()
    assert {sent.id for sent in late} <= {receipt.id for receipt in receipts}
    assert {receipt.signature_status for receipt in receipts} == {"valid"}
    there.registry.close()
    town.close()


def test_a_second_export_asks_little_and_moves_no_blob(open_server: Server, tmp_path: Path) -> None:
    town = Town(tmp_path, FakeClock(datetime.now(UTC)))
    with CountingProxy(open_server.address) as proxy:
        here = open_store(f"{proxy.host}/twice/{uuid.uuid4().hex}")
        for number in range(MESSAGES):
            town.send(here, f"note {number}" * 9_999, signed=True)
        assert len(town.receive(here, signed=True)) == MESSAGES
        for export in range(2):
            proxy.reset()
            out = open_store(f"oci-archive:{tmp_path / 'out.tar'}", create=True)
            moved = town.relay(here, out)
            out.registry.close()
            asked = Counter(
                (method, "blob" if "/blobs/" in path else "tags" if "/tags/" in path else "other")
                for method, path, _ in proxy.counts.requests
            )
            if export == 0:
                assert len(moved) == 2 * MESSAGES
                before = generation(tmp_path / "out.tar")
        assert moved == []
        assert town.last.totals.blobs == 0
        assert generation(tmp_path / "out.tar") == before
        # One look at each range of tags, and a HEAD for each receipt, whose tag tells no digest
        assert asked.pop(("HEAD", "other")) <= MESSAGES + 1
        assert asked.pop(("GET", "tags")) <= 6
        assert not asked
        here.registry.close()
    town.close()


def test_other_tools_read_the_tar(open_server: Server, tmp_path: Path) -> None:
    town = Town(tmp_path, FakeClock(datetime.now(UTC)))
    here = open_store(repository(open_server, "peers"))
    sent = town.send(here, "hello", signed=True)
    town.receive(here, signed=True)
    file = tmp_path / "out.tar"
    out = open_store(f"oci-archive:{file}", create=True)
    (message, _) = town.relay(here, out)
    out.registry.close()
    here.registry.close()
    town.close()
    data = _read(f"oci-archive:{file}", str(message.tag))

    home = {**os.environ, "HOME": str(tmp_path)}

    def run(program: str, *arguments: str) -> bytes:
        done = subprocess.run(
            [str(binary(program)), *arguments], capture_output=True, env=home, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    raw = run(
        "skopeo", "--insecure-policy", "inspect", "--raw", f"oci-archive:{file}:{message.tag}"
    )
    assert raw == data
    run("skopeo", "--insecure-policy", "copy", "--dest-tls-verify=false",
        f"oci-archive:{file}:{message.tag}", f"docker://{open_server.host}/peers/skopeo:v1")  # fmt: skip
    assert _read(f"{open_server.host}/peers/skopeo", "v1") == data

    folder = tmp_path / "layout"
    with tarfile.open(file) as tar:
        tar.extractall(folder, filter="data")
    assert run("regctl", "manifest", "get", "--format", "raw-body",
               f"ocidir://{folder}:{message.tag}") == data  # fmt: skip
    tree = run("regctl", "artifact", "list", f"ocidir://{folder}:{message.tag}", "--format",
               "{{ len .Descriptors }}")  # fmt: skip
    assert tree.strip() == b"2"  # the bundle and the receipt
    host = f"reg={open_server.host},tls=disabled"
    run("regctl", "--host", host, "image", "import", f"{open_server.host}/peers/regctl:v1",
        str(file), "--name", str(message.tag))  # fmt: skip
    assert _read(f"{open_server.host}/peers/regctl", "v1") == data
    run(
        "crane", "--insecure", "push", str(folder), f"{open_server.host}/peers/crane:all", "--index"
    )
    assert sent.digest.encode() in _read(f"{open_server.host}/peers/crane", "all")


def _read(repo: str, tag: str) -> bytes:
    store = open_store(repo)
    try:
        return read_all(store.registry.get_tag(store.repository, tag), 10**6)[0]
    finally:
        store.registry.close()


@pytest.mark.parametrize("verb", ["export", "import"])
def test_a_login_is_used_on_the_way(
    zygote: Zygote, login_server: Server, tmp_path: Path, verb: str
) -> None:
    people = People(zygote, tmp_path)
    settings = tmp_path / "docker"
    settings.mkdir()
    assert login_server.has_login
    environment = login_server.environment(settings)
    repo = repository(login_server, "alice")
    machine = Machine(tmp_path / "alice", environment)

    def run(*arguments: str) -> Ended:
        return zygote.start(arguments, folder=machine.home, environ=machine.environment()).wait()

    tar = str(tmp_path / "x.tar")
    if verb == "export":
        assert run("send", "--text", "hi", "--to", "bob", "--repo", repo).exit_code == 0
        assert run("export", "-o", tar, "--repo", repo).exit_code == 0
    else:
        people.run("alice", "send", "--text", "hi", "--to", "bob")
        people.run("alice", "export", "-o", tar)
        assert run("import", tar, "--repo", repo).exit_code == 0
    refused = people.run("bob", "export", "-o", str(tmp_path / "y.tar"), "--repo", repo, code=3)
    assert "refused the credentials" in refused.stderr
    assert not (tmp_path / "y.tar").exists()

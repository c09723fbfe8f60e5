"""The main job against every real registry, with every kind of login it has.

Sizes come from DOCKERCOMMS_TEST_SIZE: `test` (64 MiB, 200 files) or `full` (1 GiB, 2,000 files,
what scripts/acceptance runs).
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path

from tests.fakes.token_server import TokenServer
from tests.real.counting_proxy import CountingProxy, Counts
from tests.real.launch import Server, toxiproxy
from tests.real.program import (
    MIB,
    Machine,
    file_digest,
    files_below,
    random_file,
    small_files,
    tree_digest,
)

FULL = os.environ.get("DOCKERCOMMS_TEST_SIZE", "test") == "full"
FILE_BYTES = 1024 * MIB if FULL else 64 * MIB
FILES = 2000 if FULL else 200
PEAK_BYTES = 128 * MIB
CUTS = 5
IDLE_REQUESTS = 4
"""An idle `recv`: the bell, one seek, at most two anchors."""


def machine(folder: Path, server: Server) -> Machine:
    return Machine(folder, server.environment(folder))


def login_requests(counts: Counts) -> int:
    """Requests that were answered 401, and thereby are part of the login."""
    return sum(1 for _, _, status in counts.requests if status == 401)


def test_a_large_file_and_a_folder_travel_both_ways(server: Server, tmp_path: Path) -> None:
    """Digests are equal, memory is bounded, and a second recv delivers nothing in few requests."""
    alice, bob = machine(tmp_path / "alice", server), machine(tmp_path / "bob", server)
    source = tmp_path / "big.bin"
    digest = random_file(source, FILE_BYTES)
    folder = tmp_path / "many"
    tree = small_files(folder, FILES)
    repo = f"{server.host}/team/{tmp_path.name}".lower()
    for sender, receiver, name in ((alice, bob, "bob"), (bob, alice, "alice")):
        for path in (source, folder):
            sent = sender.run("send", str(path), "--to", name, "--repo", repo, "-q").ok()
            assert sent.peak_bytes <= PEAK_BYTES
        out = receiver.home / "in"
        received = receiver.run(
            "recv",
            "--me",
            name,
            "--repo",
            repo,
            "--out",
            str(out),
            "--format",
            "jsonl",
            "-q",
            "--accept-new",
        ).ok()
        assert received.peak_bytes <= PEAK_BYTES
        assert [row["status"] for row in received.objects()] == ["received", "received"]
        (got,) = out.glob("*/big.bin")
        assert file_digest(got) == digest
        (got_folder,) = out.glob("*/many")
        assert tree_digest(got_folder) == tree
        assert len(files_below(out)) == 1 + FILES  # nothing left over
        got.unlink()
    with CountingProxy(server.address) as proxy:
        through = f"{proxy.host}/team/{tmp_path.name}".lower()
        again = Machine(bob.home, server.environment(bob.home, host=proxy.host))
        once = again.run("recv", "--me", "bob", "--repo", through, "-q", "--format", "jsonl").ok()
        proxy.reset()
        second = again.run("recv", "--me", "bob", "--repo", through, "-q", "--format", "jsonl").ok()
        assert (once.objects(), second.objects()) == ([], [])
        assert len(proxy.counts.requests) - login_requests(proxy.counts) <= IDLE_REQUESTS


def test_an_interrupted_upload_and_download_end_right(server: Server, tmp_path: Path) -> None:
    """Five cuts in each direction; at most a fifth is sent twice where the registry can resume."""
    source = tmp_path / "big.bin"
    # Other content for each server: some find a blob of another repository.
    digest = random_file(source, FILE_BYTES, seed=zlib.crc32(server.host.encode()))
    repo_path = f"cuts/{tmp_path.name}".lower()
    with toxiproxy(server.address) as toxic:
        cut_at = [FILE_BYTES * (number + 1) // (CUTS + 1) for number in range(CUTS)]

        def cut(total: int) -> None:
            while cut_at and total >= cut_at[0]:
                cut_at.pop(0)
                toxic.reset()

        with CountingProxy(toxic.address, on_bytes=lambda counts: cut(counts.sent)) as proxy:
            alice = Machine(tmp_path / "a", server.environment(tmp_path / "a", host=proxy.host))
            repo = f"{proxy.host}/{repo_path}"
            alice.run("send", str(source), "--to", "bob", "--repo", repo, "-q").ok()
            assert cut_at == []
            again = proxy.counts.sent - FILE_BYTES
            limit = FILE_BYTES // 5 if server.resumes else CUTS * server.bytes_in_flight
            assert again <= limit, f"{again / MIB:.1f} MiB sent twice"
        cut_at = [FILE_BYTES * (number + 1) // (CUTS + 1) for number in range(CUTS)]
        with CountingProxy(toxic.address, on_bytes=lambda counts: cut(counts.received)) as proxy:
            bob = Machine(tmp_path / "b", server.environment(tmp_path / "b", host=proxy.host))
            repo = f"{proxy.host}/{repo_path}"
            out = tmp_path / "in"
            bob.run(
                "recv", "--me", "bob", "--repo", repo, "--out", str(out), "-q", "--accept-new"
            ).ok()
            assert cut_at == []
            assert proxy.counts.received - FILE_BYTES <= FILE_BYTES // 5
    (got,) = out.glob("*/big.bin")
    assert file_digest(got) == digest


def test_a_wrong_password_is_told_at_once(
    login_server: Server, token_server: TokenServer, tmp_path: Path
) -> None:
    """Exit code 3, and the token server was asked once at most."""
    asked = token_server.count()
    settings = {"DOCKERCOMMS_USERNAME": "alice", "DOCKERCOMMS_PASSWORD": "guess"}
    run = Machine(tmp_path / "eve", settings).run(
        "inbox", "--me", "bob", "--repo", f"{login_server.host}/team/box"
    )
    assert run.code == 3, run.stderr
    assert token_server.count() - asked <= 1
    assert "guess" not in run.stderr

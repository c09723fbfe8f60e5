"""Memory does not depend on the payload: a limit at three times the bound, and the peak itself."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.real.launch import Server
from tests.real.program import MIB, Machine, Run, file_digest, random_file

FULL = os.environ.get("DOCKERCOMMS_TEST_SIZE", "test") == "full"
SIZES = (1024, 8192) if FULL else (192, 320)
BOUND_BYTES = 128 * MIB
LIMITED = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_DATA, ({3 * BOUND_BYTES}, {3 * BOUND_BYTES}))
from dockercomms.cli.main import main
main(sys.argv[1:])
"""


def limited(machine: Machine, *arguments: str) -> Run:
    """Run the program where it gets no more than three times the bound."""
    return machine.run_script(LIMITED, *arguments).ok()


@pytest.mark.parametrize("compress", ["zstd", "gzip"])
def test_send_and_receive_stay_below_their_bound(
    distribution: Server, tmp_path: Path, compress: str
) -> None:
    alice, bob = Machine(tmp_path / "alice"), Machine(tmp_path / "bob")
    peaks = []
    for size in SIZES:
        path, out = tmp_path / f"{size}.bin", tmp_path / "in"
        digest = random_file(path, size * MIB)
        repo = f"{distribution.host}/memory/{tmp_path.name.lower()}{size}"
        words = ("--repo", repo, "--concurrency", "4", "-q")
        # A name of its own: what --accept-new pins counts in one repository only.
        order = ("send", str(path), "--from", f"alice{size}", "--to", "bob", "--compress", compress)
        sent = limited(alice, *order, *words)
        got = limited(bob, "recv", "--me", "bob", "--out", str(out), "--accept-new", *words)
        (received,) = out.glob(f"*/{size}.bin")
        assert file_digest(received) == digest
        assert max(sent.peak_bytes, got.peak_bytes) <= BOUND_BYTES
        peaks.append((sent.peak_bytes, got.peak_bytes))
        shutil.rmtree(out)
        path.unlink()
    (small_send, small_recv), (large_send, large_recv) = peaks
    assert large_send - small_send < 16 * MIB
    assert large_recv - small_recv < 16 * MIB

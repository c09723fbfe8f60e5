"""Many senders and two receivers at once, on every real registry and on a layout folder.

What is asked of each round stands in `Census.check`. DOCKERCOMMS_TEST_SIZE=full, as
scripts/acceptance sets it, makes it 20 messages of each sender instead of 8, and 200 rounds of
kills instead of 5, for each store.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

FULL = os.environ.get("DOCKERCOMMS_TEST_SIZE", "test") == "full"
ROOT = Path(__file__).parents[2]


def storm(store: str, folder: Path, **options: float) -> dict[str, Any]:
    """Run rounds of it and return the counts; anything wrong fails the test."""
    words = [f"--{name}={value}" for name, value in options.items()]
    done = subprocess.run(
        [sys.executable, "-m", "tests.real.storm", store, str(folder), *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["wrong"] == [], done.stdout + done.stderr
    assert done.returncode == 0
    print(done.stdout)
    counts: dict[str, Any] = report["counts"]
    return counts


def test_sixteen_senders_and_two_receivers_lose_nothing(any_store: str, tmp_path: Path) -> None:
    """16 x 8 or 20 messages, received while they are sent: each is delivered exactly once."""
    messages = 20 if FULL else 8
    counts = storm(any_store, tmp_path / "storm", senders=16, messages=messages)
    assert counts["sends"] == 16 * messages


def test_killed_senders_and_receivers_lose_and_double_nothing(
    any_store: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """SIGKILL at random moments: what was told is delivered once, the rest once it is run again."""
    seed = zlib.crc32(request.node.name.encode())
    rounds = 200 if FULL else 5
    options = {"rounds": rounds, "senders": 4, "messages": 2, "kill": 0.4, "seed": seed}
    counts = storm(any_store, tmp_path / "storm", **options)
    assert counts["killed sends"] > rounds
    assert counts["killed recvs"] > 0

"""A minute of scripts/soak."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SEED = 6


def test_a_minute_of_bad_weather_loses_doubles_and_leaks_nothing() -> None:
    """20 senders, 5 watchers; the line is slow, narrow, cut, and down for 20 s."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.real.soak", "--minutes", "1", "--seed", str(SEED)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["wrong"] == []
    assert report["messages"] == report["received"] > 100
    assert {"slow", "narrow", "cut", "down"} <= set(report)

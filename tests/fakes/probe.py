"""Asks a registry how it behaves where registries differ; one answer for each row.

    python -m tests.fakes.probe 127.0.0.1:5000

Written on `http.client` alone, so that no client of ours can hide what a registry does. Content is
made in repositories whose names begin with `probe/`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.fakes import probe_blobs, probe_manifests
from tests.fakes.probe_client import Probe, Result, Row, digest_of

__all__ = ["ANSWERS", "ROWS", "Result", "digest_of", "expected", "main", "run"]

ROWS: Mapping[str, Row] = {**probe_blobs.ROWS, **probe_manifests.ROWS}
"""Every question, and the function that finds its answer, in the order they are asked."""

ANSWERS = Path(__file__).parents[2] / "spec" / "vectors" / "registries_probe.json"
"""The answers of the six measured registries."""


def run(host: str, *, headers: Mapping[str, str] | None = None) -> dict[str, Result]:
    """Return every row's result; `headers` go with each request (credentials)."""
    probe = Probe(host, headers)
    try:
        return {name: find(probe) for name, find in ROWS.items()}
    finally:
        probe.close()


def expected(name: str) -> dict[str, Result]:
    """Return the known answers of a server from the data file."""
    rows = json.loads(ANSWERS.read_text())["rows"]
    return {row: answers[name] for row, answers in rows.items() if name in answers}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("host", help="host:port of a registry without login, over plain HTTP")
    host = parser.parse_args(arguments).host
    json.dump(run(host), sys.stdout, indent=2)
    sys.stdout.write("\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

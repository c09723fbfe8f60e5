"""Environments for the processes that tests start."""

from __future__ import annotations

from collections.abc import Mapping


def unmeasured(environ: Mapping[str, str]) -> dict[str, str]:
    """Return `environ` without the variables that make coverage measure the process.

    coverage takes a lock in the tracing of each function. A Ctrl-C at that moment leaves it locked,
    and the process waits for itself for ever (one run in ten of the Ctrl-C tests).
    """
    return {name: value for name, value in environ.items() if not name.startswith("COVERAGE_")}


def bare(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that each process needs: the path, and the clock of the tests."""
    return {n: environ[n] for n in ("PATH", "LD_PRELOAD", "TEST_CLOCK_SHIFT") if n in environ}

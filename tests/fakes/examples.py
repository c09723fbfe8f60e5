"""How many examples a property is tried on."""

from __future__ import annotations

import os

TIMES = int(os.environ.get("DOCKERCOMMS_EXAMPLES", "1"))
"""scripts/acceptance asks for many times what the quick tier has the time for."""


def examples(number: int) -> int:
    """Return how many examples to try of a property of which the quick tier tries `number`."""
    return number * TIMES

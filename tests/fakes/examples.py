"""The number of examples for a property."""

from __future__ import annotations

import os

TIMES = int(os.environ.get("DOCKERCOMMS_EXAMPLES", "1"))
"""A factor for the number of examples; scripts/acceptance sets a large one."""


def examples(number: int) -> int:
    """Return the number of examples for a property that tries `number` in the quick tier."""
    return number * TIMES

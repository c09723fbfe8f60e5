"""Print the pins of constraints.txt that the installed package needs to run.

    python scripts/runtime_pins.py constraints.txt >pins.txt

A wheel tested with only these fails if it imports a package of tests or developers.
Needs `packaging`, as pytest does.
"""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name


def needed(name: str) -> set[NormalizedName]:
    """Return the names of all packages that `name` requires here, without extras."""
    found: set[tuple[NormalizedName, str]] = set()
    wanted = [(canonicalize_name(name), "")]
    while wanted:
        package, extra = wanted.pop()
        for line in metadata.requires(package) or ():
            requirement = Requirement(line)
            if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
                continue
            new = {(canonicalize_name(requirement.name), e) for e in ("", *requirement.extras)}
            wanted += new - found
            found |= new
    return {package for package, _ in found}


def main(path: str) -> None:
    """Print the needed pins of the file at `path`."""
    names = needed("dockercomms")
    blocks = re.split(
        r"^(?=[A-Za-z0-9])", Path(path).read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    pins = {canonicalize_name(re.split(r"[=\[; ]", block)[0]): block for block in blocks[1:]}
    sys.stdout.write("".join(pins[name] for name in sorted(names)))


if __name__ == "__main__":
    main(sys.argv[1])

"""Write the Python examples of README.md and docs/ as modules, for type checkers.

    python scripts/typed_examples.py FOLDER

Each file with examples gives a module with its `python` blocks, in order. Prompts of interactive
sessions are removed; `host` and `folder`, which the tests pass in, are declared.
"""

from __future__ import annotations

import doctest
import re
import sys
from pathlib import Path

_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
_GIVEN = """\
from pathlib import Path as _Path

host: str = "registry.example"
folder: _Path = _Path()
"""


def examples(text: str) -> str:
    """Return the source of all examples in a Markdown text, "" if there are none."""
    found: list[str] = []
    for block in _BLOCK.findall(text):
        lines = doctest.DocTestParser().get_examples(block)
        found += [line.source for line in lines] if lines else [block]
    return "".join(found)


def main(folder: Path) -> None:
    """Create `folder` and write the modules into it."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in (Path("README.md"), *sorted(Path("docs").glob("*.md"))):
        source = examples(path.read_text("utf-8"))
        if source:
            name = f"example_{path.stem.lower().replace('-', '_')}.py"
            (folder / name).write_text(_GIVEN + source, "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

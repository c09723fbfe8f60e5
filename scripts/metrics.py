"""Print the numbers that the style guide sets limits to, and fail on request where one is passed.

    python scripts/metrics.py dockercomms              print them
    python scripts/metrics.py dockercomms --limits     and exit 1 if a limit is passed

Sizes are lines, rates are per 1,000 lines. Only the syntax is read; nothing is imported.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

MAX_P90_FUNCTION_LINES = 45
LONG_FUNCTION_LINES = 50
MAX_LONG_FUNCTION_SHARE = 0.08
MAX_P90_FILE_LINES = 500
MAX_FILE_LINES = 700
MIN_TYPED_SHARE = 0.99
MAX_IGNORES_RATE = 1.5
MAX_ANY_RATE = 3.0
MAX_BROAD_EXCEPT_RATE = 0.5
MAX_MUTABLE_SHARE = 0.1
"""Of the dataclasses; those are objects with a state (a journal, a running count), not values."""

PRINTERS = ("cli/render.py",)
"""Files that may print, by the end of their path."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Found:
    """A place in the source."""

    path: Path
    line: int
    name: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """What was counted in a package."""

    file_lines: dict[Path, int]
    function_lines: tuple[int, ...]
    untyped: tuple[Found, ...]
    undocumented: tuple[Found, ...]
    public_functions: int
    dataclasses: int
    mutable_dataclasses: tuple[Found, ...]
    """Public dataclasses that are not frozen."""
    unslotted_dataclasses: tuple[Found, ...]
    broad_excepts: tuple[Found, ...]
    prints: tuple[Found, ...]
    ignores: int
    any_names: int

    @property
    def lines(self) -> int:
        """Lines in all."""
        return sum(self.file_lines.values())

    @property
    def p90_file(self) -> int:
        """Nine of ten files have at most so many lines."""
        return _p90(self.file_lines.values())

    @property
    def p90_function(self) -> int:
        """Nine of ten functions have at most so many lines."""
        return _p90(self.function_lines)

    @property
    def long_share(self) -> float:
        """The share of functions above `LONG_FUNCTION_LINES`."""
        long = sum(lines > LONG_FUNCTION_LINES for lines in self.function_lines)
        return long / max(1, len(self.function_lines))

    @property
    def typed_share(self) -> float:
        """The share of functions with every argument and the result annotated."""
        return 1 - len(self.untyped) / max(1, len(self.function_lines))

    def rate(self, count: int) -> float:
        """Return `count` per 1,000 lines."""
        return count * 1000 / max(1, self.lines)


def _p90(values: Iterable[int]) -> int:
    ordered = sorted(values)
    return ordered[int(len(ordered) * 0.9)] if ordered else 0


def measure(folder: Path) -> Metrics:
    """Return the numbers of the package in `folder`.

    Raises:
        SyntaxError: a file is not Python.
    """
    texts = {path: path.read_text("utf-8") for path in sorted(folder.rglob("*.py"))}
    trees = {path: ast.parse(text, str(path)) for path, text in texts.items()}
    functions = list(_each(trees, ast.FunctionDef, ast.AsyncFunctionDef))
    classes = list(_dataclasses(trees))
    public = [place for path, tree in trees.items() for place in _public(path, tree)]
    everything = "\n".join(texts.values())
    return Metrics(
        file_lines={path: text.count("\n") for path, text in texts.items()},
        function_lines=tuple(_lines(node) for _, node in functions),
        untyped=tuple(_found(path, node) for path, node in functions if not _is_typed(node)),
        undocumented=tuple(
            _found(path, node) for path, node in public if not ast.get_docstring(node)
        ),
        public_functions=len(public),
        dataclasses=len(classes),
        mutable_dataclasses=tuple(
            place for place, how in classes if "frozen=True" not in how and place.name[0] != "_"
        ),
        unslotted_dataclasses=tuple(place for place, how in classes if "slots=True" not in how),
        broad_excepts=tuple(
            Found(path, node.lineno, "broad except")
            for path, node in _each(trees, ast.ExceptHandler)
            if isinstance(node, ast.ExceptHandler) and _is_broad(node)
        ),
        prints=tuple(
            Found(path, node.lineno, "print")
            for path, node in _each(trees, ast.Call)
            if isinstance(node, ast.Call)
            and ast.unparse(node.func) == "print"
            and not path.as_posix().endswith(PRINTERS)
        ),
        ignores=len(re.findall(r"#\s*type: ignore", everything)),
        any_names=sum(
            isinstance(node, ast.Name) and node.id == "Any" for _, node in _each(trees, ast.Name)
        ),
    )


def _each(trees: dict[Path, ast.Module], *kinds: type[ast.AST]) -> Iterator[tuple[Path, ast.AST]]:
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, kinds):
                yield path, node


def _lines(node: ast.AST) -> int:
    assert isinstance(node, Function)
    return (node.end_lineno or node.lineno) - node.lineno + 1


def _found(path: Path, node: ast.AST) -> Found:
    assert isinstance(node, Function)
    return Found(path, node.lineno, node.name)


def _is_typed(node: ast.AST) -> bool:
    assert isinstance(node, Function)
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    starred = [argument for argument in (node.args.vararg, node.args.kwarg) if argument]
    named = [argument for argument in arguments if argument.arg not in {"self", "cls"}]
    return node.returns is not None and all(argument.annotation for argument in named + starred)


def _dataclasses(trees: dict[Path, ast.Module]) -> Iterator[tuple[Found, str]]:
    """Yield each dataclass and how it was made one."""
    for path, node in _each(trees, ast.ClassDef):
        assert isinstance(node, ast.ClassDef)
        for decorator in map(ast.unparse, node.decorator_list):
            if re.match(r"(dataclasses\.)?dataclass\b", decorator):
                yield Found(path, node.lineno, node.name), decorator


def _public(path: Path, scope: ast.Module | ast.ClassDef) -> Iterator[tuple[Path, Function]]:
    """Yield the functions that can be called from outside: nothing private on their way."""
    for node in scope.body:
        if isinstance(node, ast.ClassDef | Function) and node.name.startswith("_"):
            continue
        if isinstance(node, ast.ClassDef):
            yield from _public(path, node)
        elif isinstance(node, Function) and "overload" not in map(ast.unparse, node.decorator_list):
            yield path, node


def _is_broad(node: ast.ExceptHandler) -> bool:
    caught = "" if node.type is None else ast.unparse(node.type)
    return re.search(r"\b(Base)?Exception\b", caught) is not None or not caught


def report(found: Metrics) -> Iterator[str]:
    """Yield the numbers, in lines for a person."""
    longest = max(found.file_lines.values(), default=0)
    yield (
        f"files {len(found.file_lines)}  lines {found.lines}  "
        f"p90 file {found.p90_file}  longest file {longest}"
    )
    yield (
        f"functions {len(found.function_lines)}  p90 function {found.p90_function}  "
        f"above {LONG_FUNCTION_LINES} lines {found.long_share:.1%}  typed {found.typed_share:.1%}"
    )
    documented = found.public_functions - len(found.undocumented)
    frozen = found.dataclasses - len(found.mutable_dataclasses)
    yield (
        f"public functions with docstring {documented}/{found.public_functions}  "
        f"frozen dataclasses {frozen}/{found.dataclasses}, "
        f"without slots {len(found.unslotted_dataclasses)}"
    )
    yield (
        f"per 1,000 lines: type: ignore {found.rate(found.ignores):.1f}  "
        f"Any {found.rate(found.any_names):.1f}  "
        f"broad except {found.rate(len(found.broad_excepts)):.1f}  print {len(found.prints)} in all"
    )


def violations(found: Metrics) -> Iterator[str]:
    """Yield a line for every limit that is passed, naming places where there are any."""
    for path, lines in found.file_lines.items():
        if lines > MAX_FILE_LINES:
            yield f"{path}: {lines} lines; at most {MAX_FILE_LINES}"
    numbers = (
        ("p90 file", found.p90_file, MAX_P90_FILE_LINES),
        ("p90 function", found.p90_function, MAX_P90_FUNCTION_LINES),
        ("share of long functions", found.long_share, MAX_LONG_FUNCTION_SHARE),
        ("share of untyped functions", 1 - found.typed_share, 1 - MIN_TYPED_SHARE),
        (
            "share of mutable dataclasses",
            len(found.mutable_dataclasses) / max(1, found.dataclasses),
            MAX_MUTABLE_SHARE,
        ),
        ("type: ignore per 1,000 lines", found.rate(found.ignores), MAX_IGNORES_RATE),
        ("Any per 1,000 lines", found.rate(found.any_names), MAX_ANY_RATE),
        (
            "broad except per 1,000 lines",
            found.rate(len(found.broad_excepts)),
            MAX_BROAD_EXCEPT_RATE,
        ),
    )
    for name, number, limit in numbers:
        if number > limit:
            yield f"{name}: {number:.3g}; at most {limit:.3g}"
    places = (
        ("no docstring", found.undocumented),
        ("a dataclass without slots", found.unslotted_dataclasses),
        ("prints", found.prints),
    )
    for complaint, at in places:
        for place in at:
            yield f"{place}: {complaint}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the numbers of a package; returns the exit code."""
    parser = argparse.ArgumentParser(description="Print the numbers the style guide limits.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--limits", action="store_true", help="exit 1 if a limit is passed")
    chosen = parser.parse_args(arguments)
    found = measure(chosen.folder)
    for line in report(found):
        print(line)
    passed = list(violations(found)) if chosen.limits else []
    for line in passed:
        print(line, file=sys.stderr)
    return 1 if passed else 0


if __name__ == "__main__":
    sys.exit(main())

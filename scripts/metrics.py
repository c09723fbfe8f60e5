"""Print the sizes of a package and the measures of its layout.

    python scripts/metrics.py dockercomms              print both
    python scripts/metrics.py dockercomms --run        run `send`, `recv` and import-linter as well
    python scripts/metrics.py dockercomms --limits     print the sizes, exit 1 if one is too large

Sizes are lines, rates are per 1,000 lines. Without `--run` only the source is read. The measures
of the layout count:

- names: the folders with Python files and the .py files, without __init__.py and __main__.py
- statements: the nodes of the syntax trees that are statements, docstrings included
- lines: all lines of all .py files, empty ones included
- words: runs of letters and apostrophes in docstrings, in the strings below fields and constants
  and in comments; not the code between backticks
- docstrings: those of modules, classes and functions, and the strings below fields and constants;
  "Which" and "How" count like "What" at their beginning
- modules, files and frames: see scripts/traced.py; frames are those of `send`
- planted bad imports: those of `PLANTED`, written into a copy of the package, that no contract of
  pyproject.toml reports
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tokenize
from collections.abc import Iterable, Iterator, Mapping, Sequence
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

UNNAMED_FILES = ("__init__.py", "__main__.py")

BAR_SLACK = 0.05
"""The share of a bar by which a measured number may be below it."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Measure:
    """A number that the layout limits."""

    name: str
    target: float
    bar: float | None = None
    """The most that tests allow today, until it is at the target; None: no test measures it."""

    def complaint(self, value: float) -> str | None:
        """Return why a test fails: above the bar, or so far below that the bar can be lowered."""
        if self.bar is None:
            return None
        if value > self.bar:
            return f"{self.name}: {value:g}; at most {self.bar:g}"
        if self.bar > self.target and value < self.bar - max(1, self.bar * BAR_SLACK):
            return f"{self.name}: {value:g}; lower its bar in {__file__}"
        return None


PLANTED = (
    ("oci.model", "oci.remote.session"),
    ("oci.strict_json", "oci.remote.tls"),
    ("oci.reference", "oci.auth.credentials"),
    ("oci.memory", "oci.layout.registry"),
    ("oci.layout.registry", "oci.remote.session"),
    ("oci.interface", "oci.remote.session"),
    ("oci.layout.registry", "oci.client"),
    ("trust.policy", "transport.push"),
    ("protocol.header", "relay.relay"),
)
"""Modules of the package, and modules that they may not import."""

MEASURES = (
    Measure("names at the top", target=15, bar=13),
    Measure("names in any folder", target=16, bar=16),
    Measure("statements", target=23_288),
    Measure("lines", target=44_058),
    Measure("p90 function", target=40),
    Measure("p90 file", target=500),
    Measure("largest file", target=700),
    Measure('"what" per 1,000 words', target=2),
    Measure('"nobody", "nothing", "none" per 1,000 words', target=4),
    Measure("% of docstrings that begin with What, Where, Whether, Who", target=2),
    Measure("modules loaded by send", target=80, bar=99),
    Measure("files whose functions run in send", target=50),
    Measure("files whose functions run in recv", target=60),
    Measure("frames at the first POST", target=18, bar=35),
    Measure("frames at the first HEAD", target=14, bar=26),
    Measure("planted bad imports not caught", target=0),
)
"""Statements and lines: 18 % and 19 % fewer than the 28,400 and 54,393 of commit ab299ce."""


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


def count_names(folder: Path) -> Iterator[tuple[str, float]]:
    """Yield the measures of names in `folder` and in the folders below it."""
    files = [path for path in folder.rglob("*.py") if path.name not in UNNAMED_FILES]
    names = {folder: set[Path]()}
    for path in files:
        while path != folder:
            names.setdefault(path.parent, set()).add(path)
            path = path.parent
    yield "names at the top", len(names[folder])
    yield "names in any folder", max(map(len, names.values()))


def count_words(texts: Iterable[str], nodes: Iterable[ast.AST]) -> Iterator[tuple[str, float]]:
    """Yield the measures of docstrings and comments in Python sources and their trees."""
    docstrings = list(_docstrings(nodes))
    tokens = (
        token for text in texts for token in tokenize.generate_tokens(io.StringIO(text).readline)
    )
    comments = [token.string for token in tokens if token.type == tokenize.COMMENT]
    prose = re.sub(r"`[^`]*`", "", "\n".join([*docstrings, *comments]))
    words = len(re.findall(r"\b[A-Za-z']+\b", prose)) / 1000
    for name, pattern in (
        ('"what" per 1,000 words', r"\bwhat\b"),
        ('"nobody", "nothing", "none" per 1,000 words', r"\b(nobody|nothing|none)\b"),
    ):
        yield name, len(re.findall(pattern, prose, re.IGNORECASE)) / max(words, 0.001)
    begun = re.compile(r"(What|Where|Whether|Who|Which|How)\b")
    share = sum(begun.match(text) is not None for text in docstrings) / max(1, len(docstrings))
    yield "% of docstrings that begin with What, Where, Whether, Who", 100 * share


def _docstrings(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Yield the strings that stand alone as statements."""
    for node in nodes:
        value = node.value if isinstance(node, ast.Expr) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield value.value.strip()


def count_source(folder: Path, found: Metrics) -> Iterator[tuple[str, float]]:
    """Yield the measures that the source alone shows."""
    yield from count_names(folder)
    texts = [path.read_text("utf-8") for path in found.file_lines]
    nodes = [node for text in texts for node in ast.walk(ast.parse(text))]
    yield "statements", sum(isinstance(node, ast.stmt) for node in nodes)
    yield "lines", found.lines
    yield "p90 function", found.p90_function
    yield "p90 file", found.p90_file
    yield "largest file", max(found.file_lines.values(), default=0)
    yield from count_words(texts, nodes)


def count_run(folder: Path, *verbs: str) -> Iterator[tuple[str, float]]:
    """Yield the measures of `send`, and of `recv`, in processes of their own."""
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("traced.py"), *verbs],
        env={**os.environ, "PYTHONPATH": str(folder.resolve().parent)},
        stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    notes = json.loads(done.stdout)
    yield "modules loaded by send", notes["send"]["modules"]
    for method, frames in notes["send"]["frames"].items():
        yield f"frames at the first {method}", frames
    for verb, noted in notes.items():
        yield f"files whose functions run in {verb}", noted["files"]


def plant_imports(package: Path) -> Iterator[str]:
    """Yield the imports of `PLANTED` that break no contract in a copy of the package.

    Raises:
        FileNotFoundError: a module of `PLANTED` does not exist.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / package.name
        shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(package.resolve().parent / "pyproject.toml", folder)
        for importer, imported in PLANTED:
            _source(copy, imported)
            with _source(copy, importer).open("a", encoding="utf-8") as file:
                file.write(f"\nimport {package.name}.{imported}\n")
        lint = "from importlinter.cli import lint_imports_command as lint; lint()"
        done = subprocess.run(
            [sys.executable, "-c", lint, "--no-cache"],
            cwd=folder, env={**os.environ, "PYTHONPATH": folder},
            stdout=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    alone = r"^- (\S+ -> \S+) \(l\.[^)]*\)\n(?! )"  # a line below it would make it a longer chain
    reported = set(re.findall(alone, done.stdout, re.MULTILINE))
    for importer, imported in PLANTED:
        chain = f"{package.name}.{importer} -> {package.name}.{imported}"
        if chain not in reported:
            yield chain


def _source(package: Path, module: str) -> Path:
    path = package.joinpath(*module.split("."))
    return (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).resolve(strict=True)


def report_measures(values: Mapping[str, float]) -> Iterator[str]:
    """Yield a line for each measure of the layout that has a value."""
    for measure in MEASURES:
        if measure.name in values:
            value = round(values[measure.name], 1)
            yield f"{measure.name:<58}{value:>8,}  at most {measure.target:,}"


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
    parser.add_argument("--limits", action="store_true", help="print sizes, exit 1 on excess")
    parser.add_argument(
        "--run", action="store_true", help="run send, recv and import-linter as well"
    )
    chosen = parser.parse_args(arguments)
    found = measure(chosen.folder)
    for line in report(found):
        print(line)
    values = {} if chosen.limits else dict(count_source(chosen.folder, found))
    if chosen.run:
        values |= count_run(chosen.folder)
        values["planted bad imports not caught"] = len(list(plant_imports(chosen.folder)))
    for line in report_measures(values):
        print(line)
    passed = list(violations(found)) if chosen.limits else []
    for line in passed:
        print(line, file=sys.stderr)
    return 1 if passed else 0


if __name__ == "__main__":
    sys.exit(main())

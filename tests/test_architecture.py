"""Rules about the whole package: imports, names, sizes, start-up."""

from __future__ import annotations

import ast
import doctest
import functools
import importlib
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import dockercomms
from dockercomms import errors
from dockercomms.cli.program import VERBS
from scripts import metrics

ROOT = Path(__file__).parent.parent
PACKAGE = Path(dockercomms.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))

ALLOWED_IMPORTS = {
    "click": ("cli/",),
    "rich": ("cli/",),
    "oras": ("oci/auth/auth.py", "oci/oras.py"),
    "requests": ("oci/oras.py", "trust/keyless.py"),
    "sigstore": ("trust/keyless.py",),
    "urllib3": ("oci/remote/", "trust/keyless.py"),
}
"""Foreign package to the only files, or folders, that may import it."""

BANNED_WORDS = {"util", "utils", "helper", "helpers", "manager", "managers", "common", "misc"}
"""Module names that say nothing about what is in them."""

MAX_EXAMPLES = 30
"""Docstrings with examples."""

SLOW_PACKAGES = {
    "oras",
    "sigstore",
    "requests",
    "urllib3",
    "pydantic",
    "rich",
    "cryptography",
    "zstandard",
}
"""Packages that `--help` must not import, because they load slowly."""


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@functools.cache
def trees() -> dict[str, ast.Module]:
    """Return the syntax tree of each file of the package."""
    return {relative(path): ast.parse(path.read_text("utf-8")) for path in SOURCES}


def imports_of(tree: ast.AST) -> Iterator[str]:
    """Yield the top-level packages a file imports, also within functions; types do not count."""
    nodes = list(ast.walk(tree))
    unseen = {
        each
        for node in nodes
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for part in node.body
        for each in ast.walk(part)
    }
    for node in nodes:
        if node in unseen:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def without_coverage() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("COV")}


def test_public_names_are_all_there() -> None:
    for name in dockercomms.__all__:
        assert getattr(dockercomms, name) is not None
    assert len(set(dockercomms.__all__)) == len(dockercomms.__all__)
    assert set(dockercomms.__all__) <= set(dir(dockercomms))


def test_type_checkers_see_every_public_name():
    tree = ast.parse((PACKAGE / "__init__.pyi").read_text("utf-8"))
    typed = {
        alias.asname: f"{node.module}.{alias.name}"
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == {name: f"{where}.{name}" for name, where in dockercomms._PUBLIC.items()}


def test_public_names_are_imported_on_first_use_only() -> None:
    code = (
        "import sys, dockercomms; print([m for m in sys.modules if m.startswith('dockercomms.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_public_names_hold_every_error() -> None:
    classes = {
        name
        for name, cls in inspect.getmembers(errors, inspect.isclass)
        if issubclass(cls, errors.DockerCommsError)
    }
    assert classes <= set(dockercomms.__all__)


def test_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        dockercomms.Nonsense  # noqa: B018


def modules() -> Iterator[ModuleType]:
    for path in SOURCES:
        if path.stem != "__main__":
            name = ".".join(("dockercomms", *path.relative_to(PACKAGE).with_suffix("").parts))
            yield importlib.import_module(name.removesuffix(".__init__"))


def test_module_exports_exist() -> None:
    missing = [
        f"{module.__name__}.{each}"
        for module in modules()
        for each in getattr(module, "__all__", ())
        if not hasattr(module, each)
    ]
    assert missing == []


def test_docstring_examples_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Examples stand only at public names, so that there are few and all are run here."""
    monkeypatch.chdir(tmp_path)
    finder = doctest.DocTestFinder()
    examples = [test for module in modules() for test in finder.find(module) if test.examples]
    assert 0 < len(examples) <= MAX_EXAMPLES
    runner = doctest.DocTestRunner()
    assert [test.name for test in examples if runner.run(test).failed] == []


def test_modules_have_names_that_say_what_is_in_them() -> None:
    named = [relative(path) for path in SOURCES if BANNED_WORDS.intersection(path.stem.split("_"))]
    assert named == []


def test_foreign_packages_are_imported_only_where_they_are_mapped() -> None:
    found = {where: set(imports_of(tree)) for where, tree in trees().items()}
    assert found, "no file was read"
    elsewhere = [
        f"{where} imports {package}"
        for where, packages in found.items()
        for package in packages & set(ALLOWED_IMPORTS)
        if not where.startswith(ALLOWED_IMPORTS[package])
    ]
    assert elsewhere == []


def test_nothing_prints_but_the_command_line() -> None:
    printing = [
        f"{where}:{node.lineno}"
        for where, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in {"print", "pprint", "click.echo", "click.secho"}
    ]
    assert [where for where in printing if not where.startswith("cli/render.py:")] == []


def test_streams_are_arguments() -> None:
    named = {
        where
        for where, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr in ("stdout", "stderr")
        and ast.unparse(node) in {"sys.stdout", "sys.stderr"}
    }
    assert named <= {"cli/main.py", "cli/session.py"}


def modules_after(*arguments: str) -> set[str]:
    """Return the top-level packages in memory after a command line."""
    code = (
        "import sys, json\n"
        "from dockercomms.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as done:\n    assert not done.code\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True, text=True, check=True, env=without_coverage(),
    )  # fmt: skip
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_version_imports_no_click() -> None:
    loaded = modules_after("--version")
    assert not loaded & (SLOW_PACKAGES | {"click", "inspect", "dataclasses", "pathlib"})


@pytest.mark.parametrize("verb", [None, *VERBS], ids=str)
def test_help_imports_nothing_slow(verb: str | None) -> None:
    loaded = modules_after(*([verb] if verb else []), "--help")
    assert not loaded & SLOW_PACKAGES
    assert "tomllib" not in loaded


def test_top_level_help_imports_no_verb() -> None:
    code = (
        "import sys\nfrom dockercomms.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(*sorted(name for name in sys.modules if name.startswith('dockercomms.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert not loaded & {f"dockercomms.cli.{module}" for module, _ in VERBS.values()}


def test_layout_is_within_its_bars() -> None:
    """A bar that is passed fails, and one that can be lowered."""
    values = {**dict(metrics.count_names(PACKAGE)), **dict(metrics.count_run(PACKAGE, "send"))}
    held = [measure for measure in metrics.MEASURES if measure.bar is not None]
    assert len(held) == 5
    complaints = [measure.complaint(values[measure.name]) for measure in held]
    assert [complaint for complaint in complaints if complaint] == []

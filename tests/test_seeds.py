"""spec/seeds.toml: everything that the earlier packages export is here, on the command line, tested."""

from __future__ import annotations

import ast
import functools
import tomllib
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import click
import pytest

from dockercomms.cli.options import VerbTable
from dockercomms.cli.program import program

ROOT = Path(__file__).parent.parent
SEEDS = tomllib.loads((ROOT / "spec" / "seeds.toml").read_text("utf-8"))
ROWS: list[dict[str, str]] = SEEDS["seed"]
NAMES = [f"dockercomms.{module}.{name}" for module, names in SEEDS["names"].items() for name in names]  # fmt: skip


def row_id(row: dict[str, str]) -> str:
    return f"{row['table']} {row['name']}"


def resolve(dotted: str) -> Any:
    """Return what a dotted name names; a field of a dataclass counts by its annotation."""
    try:
        return resolve_name(dotted)
    except AttributeError:
        owner, _, name = dotted.rpartition(".")
        return resolve_name(owner).__annotations__[name]


@functools.cache
def functions_in(path: str) -> frozenset[str]:
    """Return the names of the test functions in a file that pytest collects."""
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    return frozenset(
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    )


def command_of(words: list[str]) -> tuple[click.Command, list[str]]:
    """Return the command that `words` name, and the words behind it."""
    command: click.Command = program()
    while words and isinstance(command, VerbTable):
        found = command.get_command(click.Context(command), words[0])
        if found is None:
            break
        command, words = found, words[1:]
    return command, words


def options_of(command: click.Command) -> set[str]:
    """Return the options of a command; of a table, those that all of its verbs have."""
    own = {name for parameter in command.params for name in parameter.opts}
    if not isinstance(command, VerbTable):
        return own
    verbs = (command.get_command(click.Context(command), name) for name in command.verbs)
    shared = [options_of(verb) for verb in verbs if verb is not None]
    return own | set.intersection(*shared)


@pytest.mark.parametrize("table", SEEDS["tables"])
def test_every_exported_name_has_a_row(table: str) -> None:
    rows = [row["name"] for row in ROWS if row["table"] == table]
    assert len(rows) == len(set(rows)), "a row twice"
    names = SEEDS["tables"][table]["names"]
    assert len(names) == len(set(names)), "a name twice"
    assert set(names) <= set(rows), "names without a row"
    assert {row.partition(": ")[0] for row in rows} <= set(names), "rows without a name"


def test_rows_are_of_known_form() -> None:
    assert set(SEEDS) == {"tables", "names", "seed"}
    assert set(SEEDS["tables"]) == {"AF", "OC", "MS", "DC", "CG"}
    for row in ROWS:
        assert set(row) == {"table", "name", "ours", "verb", "test"}, row
        assert row["table"] in SEEDS["tables"], row
        assert row["ours"].startswith("dockercomms."), row


def is_there(name: str) -> bool:
    try:
        return resolve(name) is not None
    except (AttributeError, KeyError, ModuleNotFoundError):
        return False


def test_our_name_of_each_row_is_there() -> None:
    assert [row_id(row) for row in ROWS if not is_there(row["ours"])] == []


def test_promised_names_are_there() -> None:
    assert [name for name in NAMES if not is_there(name)] == []


@pytest.mark.parametrize("row", [row for row in ROWS if row["verb"]], ids=row_id)
def test_verb_of_a_row_is_there(row: dict[str, str]) -> None:
    words = row["verb"].split()
    command, left = command_of(words)
    assert command.name == words[len(words) - len(left) - 1]
    assert set(left) <= options_of(command), f"{row['verb']}: no such verb or option"


def test_test_of_each_row_is_there() -> None:
    missing = []
    for row in ROWS:
        path, _, name = row["test"].partition("::")
        if not Path(path).name.startswith("test_") or name not in functions_in(path):
            missing.append(f"{row_id(row)}: {row['test']}")
    assert missing == []


def test_a_name_that_is_not_there_is_found() -> None:
    with pytest.raises((AttributeError, KeyError)):
        resolve("dockercomms.oci.model.Descriptor.nonsense")
    with pytest.raises((ModuleNotFoundError, KeyError)):
        resolve("dockercomms.oci.nonsense")
    command, left = command_of(["reg", "nonsense"])
    assert (command.name, left) == ("reg", ["nonsense"])
    assert "--hub-proxy" in options_of(command)
    assert "--from-json" not in options_of(command)

"""The group `reg`: its table, its help, and what it says when something goes wrong."""

from __future__ import annotations

import json
import subprocess
import sys

import click
import pytest

from dockercomms import errors
from dockercomms.cli.options import Verb, VerbTable
from dockercomms.cli.reg import table as reg
from tests.cli.harness import invoke
from tests.unit.cli.conftest import Box

ASKED_FOR = (
    "ls tags manifest blob referrers resolve exists inspect get copy ensure mount put-blob "
    "put-manifest tag delete index pull ping ref raw"
)
COMMANDS = {
    name: reg.reg_command.get_command(click.Context(reg.reg_command), name) for name in reg.VERBS
}


def test_reg_has_every_verb() -> None:
    assert set(reg.VERBS) == set(ASKED_FOR.split())
    assert isinstance(reg.reg_command, VerbTable)
    assert reg.reg_command.get_command(click.Context(reg.reg_command), "nonsense") is None


@pytest.mark.parametrize("name", reg.VERBS)
def test_reg_verb_says_in_its_help_what_the_table_says(name: str) -> None:
    command = COMMANDS[name]
    assert isinstance(command, Verb)
    assert command.name == name
    assert (command.help or "").splitlines()[0] == reg.VERBS[name][1]


@pytest.mark.parametrize("name", [None, *reg.VERBS])
def test_reg_help_fits_one_screen_and_has_an_example(name: str | None) -> None:
    result = invoke(["reg", *([name] if name else []), "--help"])
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert len(lines) <= 48
    assert all(len(line) <= 100 for line in lines)
    assert f"dockercomms reg {name or ''}" in result.stdout.partition("Example:\n")[2]


@pytest.mark.parametrize("words", [[], *([name] for name in reg.VERBS)])
def test_reg_without_arguments_prints_its_help_and_is_wrong_usage(words: list[str]) -> None:
    result = invoke(["reg", *words])
    assert (result.exit_code, result.stdout) == (64, "")
    assert result.stderr.startswith("Usage: dockercomms reg ")


def test_reg_help_imports_nothing_slow() -> None:
    code = (
        "import sys, json\nfrom dockercomms.cli.main import main\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    try:\n        main(['reg', *words, '--help'])\n    except SystemExit:\n        pass\n"
        "print(json.dumps(sorted(name.partition('.')[0] for name in sys.modules)))"
    )
    words = json.dumps([[], *([name] for name in reg.VERBS)])
    done = subprocess.run([sys.executable, "-c", code, words], capture_output=True, text=True)
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert not loaded & {"oras", "requests", "rich", "zstandard", "cryptography", "sigstore"}


def test_reg_takes_common_options_at_all_three_places(box: Box) -> None:
    box.push_blob(b"x")
    for words in (
        ["--json", "reg", "exists", f"{box.base}:no"],
        ["reg", "--json", "exists", f"{box.base}:no"],
        ["reg", "exists", f"{box.base}:no", "--json"],
    ):
        result = invoke(words)
        assert result.exit_code == 5
        assert json.loads(result.stdout)["exists"] is False


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (errors.PlatformNotFound("x"), "reg inspect"),
        (errors.ManifestUnknown("x"), "reg tags"),
        (errors.RangeInvalid("x"), "--blob"),
        (errors.NetworkError("x"), "network"),
        (errors.DigestMismatch("x"), "changed at the registry"),
        (errors.ProtocolError("x"), "registry's operator"),
        (errors.LimitError("x"), "--help"),
    ],
)
def test_with_hint_says_what_to_do_next(error: errors.DockerCommsError, hint: str) -> None:
    assert reg.with_hint(error) is error
    assert hint in (error.hint or "")


def test_with_hint_leaves_a_hint_that_is_there() -> None:
    error = errors.ManifestUnknown("x", hint="mine")
    assert reg.with_hint(error).hint == "mine"
    assert reg.with_hint(errors.Unsupported("x")).hint is None


def test_reg_says_what_is_wrong_in_three_lines_without_repeating_the_address(remote: Box) -> None:
    result = remote.reg("manifest", f"{remote.base}:no")
    assert result.exit_code == 5
    what, why, hint = result.stderr.splitlines()
    assert what == "error: reg manifest: not found"
    assert why.count("http://") == 1
    assert "dockercomms reg tags REPO" in hint


@pytest.mark.parametrize("text", ["team/app:v1", "app", "http://r.example/x", "r.example/UP:v1"])
def test_reg_refuses_what_names_no_registry(text: str) -> None:
    result = invoke(["reg", "resolve", text])
    assert result.exit_code == 64
    assert "error: reg resolve: wrong usage" in result.stderr

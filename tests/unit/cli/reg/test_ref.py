"""`reg ref`."""

from __future__ import annotations

import json

import pytest

from tests.cli.harness import invoke
from tests.unit.cli.conftest import MISSING


@pytest.mark.parametrize(
    ("text", "short", "full"),
    [
        ("alpine", "alpine", "docker.io/library/alpine"),
        ("index.docker.io/library/alpine:3", "alpine:3", "docker.io/library/alpine:3"),
        ("docker.io/library/x/y", "library/x/y", "docker.io/library/x/y"),
        ("localhost/foo/bar", "localhost/foo/bar", "localhost/foo/bar"),
        (
            f"r.example:5000/a@{MISSING}",
            f"r.example:5000/a@{MISSING}",
            f"r.example:5000/a@{MISSING}",
        ),
    ],
)
def test_ref_writes_a_reference_short_or_full(text: str, short: str, full: str) -> None:
    assert invoke(["reg", "ref", "short", text]).stdout == f"{short}\n"
    assert invoke(["reg", "ref", "full", text]).stdout == f"{full}\n"


def test_ref_takes_a_reference_apart() -> None:
    result = invoke(["reg", "ref", "parse", "team/app:v1"])
    assert result.stdout.splitlines() == [
        "host\tdocker.io",
        "repository\tteam/app",
        "tag\tv1",
        "digest\t",
        "short\tteam/app:v1",
        "full\tdocker.io/team/app:v1",
    ]
    found = json.loads(invoke(["reg", "ref", "short", "team/app", "--json"]).stdout)
    assert (found["text"], found["host"], found["tag"]) == ("team/app", "docker.io", None)


def test_ref_takes_a_default_registry() -> None:
    words = ["reg", "ref", "full", "team/app", "--default-registry", "r.example"]
    assert invoke(words).stdout == "r.example/team/app\n"


@pytest.mark.parametrize(
    "text", ["", "host.io/a//b", "host.io/a/b:bad tag!", "http://r.example/a", "a b"]
)
def test_ref_refuses_what_is_none(text: str) -> None:
    result = invoke(["reg", "ref", "parse", text])
    assert (result.exit_code, result.stdout) == (64, "")

"""The tests of `scripts/check`: what holds, and that what is planted is found.

Not of the quick tier, which would run the checks a second time; `scripts/test` runs them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import dockercomms
from scripts import metrics

ROOT = Path(__file__).parent.parent
PACKAGE = Path(dockercomms.__file__).parent


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()", "--no-cache"],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)}, capture_output=True, text=True,
    )  # fmt: skip


def copy_of_package(folder: Path) -> Path:
    shutil.copytree(PACKAGE, folder / "dockercomms", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder / "dockercomms"


def test_import_contracts_hold() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("where", "planted"),
    [
        ("errors.py", "import dockercomms.protocol.header"),
        ("protocol.py", "from dockercomms.mailbox import Mailbox"),
        ("oci/reference.py", "from dockercomms.oci.client import Client"),
        (
            "oci/layout/registry.py",
            "def late():\n    from dockercomms.protocol.manifest import Message",
        ),
        ("sending.py", "import dockercomms.messages.receive"),
        ("config.py", "import dockercomms.mailbox"),
        ("mailbox.py", "import rich"),
        ("oci/layout/registry.py", "import requests"),
    ],
)
def test_import_contracts_are_broken_by_a_bad_import(
    tmp_path: Path, where: str, planted: str
) -> None:
    with (copy_of_package(tmp_path) / where).open("a") as file:
        file.write(f"\n{planted}\n")
    done = lint_imports(tmp_path)
    assert done.returncode != 0, planted
    assert "BROKEN" in done.stdout, done.stdout


def test_import_contracts_report_every_planted_import() -> None:
    assert list(metrics.plant_imports(PACKAGE)) == []


def test_metrics_are_within_their_limits() -> None:
    assert list(metrics.violations(metrics.measure(PACKAGE))) == []


def test_metrics_find_what_is_planted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = "\n".join("    x = 1" for _ in range(60))
    (tmp_path / "bad.py").write_text(
        "from dataclasses import dataclass\nfrom typing import Any\n"
        "@dataclass\nclass Loose:\n    x: Any  # type: ignore[misc]\n    y: Any  # type: ignore[misc]\n"
        f"def long(a):\n{body}\n"
        "def _quiet() -> None:\n    try:\n        print(1)\n    except Exception:\n        pass\n"
        + "\n"
        * 700
    )
    assert metrics.main([str(tmp_path)]) == 0
    assert metrics.main([str(tmp_path), "--limits"]) == 1
    said = capsys.readouterr().err
    for complaint in (
        "lines; at most 700", "p90 file", "p90 function", "share of long functions",
        "share of untyped functions", "type: ignore", "broad except", "long: no docstring",
        "Loose: a dataclass without slots", "share of mutable dataclasses", "print: prints",
    ):  # fmt: skip
        assert complaint in said


@pytest.mark.parametrize(
    ("bar", "value", "said"),
    [
        (None, 99, None),
        (15, 16, "at most 15"),
        (15, 3, None),
        (40, 39, None),
        (40, 37, "lower its bar"),
        (40, 3, "lower its bar"),
    ],
)
def test_bar_is_passed_or_can_be_lowered(bar: int | None, value: int, said: str | None) -> None:
    complaint = metrics.Measure("names", target=15, bar=bar).complaint(value)
    assert (said in complaint) if said and complaint else said is complaint


def addresses(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "scripts" / "check", "addresses", folder], capture_output=True, text=True
    )


def test_no_file_names_a_package_index() -> None:
    done = addresses(ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "address",
    [
        "https://py" + "pi.org/simple",
        "files.python" + "hosted.org",
        "proxy.go" + "lang.org",
        "registry.npm" + "js.org",
        "http://deb." + "debian.org/debian",
        "--index-url=https" + "://mirror.example/x",
    ],
)
def test_a_planted_package_index_is_found(tmp_path: Path, address: str) -> None:
    (tmp_path / "planted.txt").write_text(f"see {address}\n")
    assert addresses(tmp_path).returncode == 1


# --- the clock that tests run by -----------------------------------------------------------------


def in_environment(script: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a line behind scripts/environment, by the machine's clock wherever the tests run."""
    environ = {**os.environ, "TEST_CLOCK_SHIFT": "0", **variables}
    return subprocess.run(
        ["bash", "-c", f". scripts/environment; {script}"],
        cwd=ROOT, env=environ, capture_output=True, text=True,
    )  # fmt: skip


def test_commands_run_at_another_date_and_what_they_start_too() -> None:
    done = in_environment("at_date '2040-02-29 12:00' sh -c 'date -u +%F'; date -u +%Y")
    there, here = done.stdout.split()
    assert there == "2040-02-29", done.stderr
    assert here != "2040"


def test_date_that_is_drawn_is_printed_and_can_be_given() -> None:
    assert in_environment("draw_date", DOCKERCOMMS_TEST_DATE="2030-01-02").stdout == (
        "2030-01-02 00:00:00\n"
    )
    drawn, today = in_environment("draw_date; date -ud @$(date +%s) +%F").stdout.splitlines()
    assert drawn > today


def test_compiler_that_is_missing_is_named() -> None:
    done = in_environment("at_date 2040-02-29 true", CC="no-such-compiler")
    assert done.returncode == 1
    assert "no C compiler: no program 'no-such-compiler'" in done.stderr
    assert "apt-get install gcc" in done.stderr

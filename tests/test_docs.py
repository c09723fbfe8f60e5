"""The examples of the documentation do what they say they do."""

from __future__ import annotations

import doctest
import re
import shlex
from pathlib import Path

import pytest

from dockercomms.cli.config import duration_seconds
from dockercomms.cli.reg.table import VERBS
from dockercomms.messages.command import (
    DEFAULT_TIMEOUT_SECONDS,
    GRACE_SECONDS,
    MAX_REASON_BYTES,
    variables,
)
from dockercomms.messages.watch import (
    IDLE_LOOKS,
    JITTER,
    MAX_ASKED_WAIT_SECONDS,
    MAX_FAILURE_WAIT_SECONDS,
    MAX_IDLE_FACTOR,
)
from dockercomms.protocol.header import DEFAULT_INTERVAL_SECONDS
from tests.cli.harness import invoke
from tests.fakes.mail import Mail, message_of
from tests.fakes.registry import FakeRegistry

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "oci.md"
EXAMPLES = 10


@pytest.fixture
def no_logins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the examples from reading the logins of whoever runs the tests."""
    for name in ("DOCKER_CONFIG", "DOCKER_AUTH_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


@pytest.mark.usefixtures("no_logins")
@pytest.mark.parametrize(("page", "least"), [(PAGE, 5 * EXAMPLES), (DOCS / "oras.md", 10)])
def test_examples_of_the_registry_side(tmp_path: Path, page: Path, least: int) -> None:
    with FakeRegistry() as registry:
        result = doctest.testfile(
            str(page),
            module_relative=False,
            globs={"host": registry.host, "folder": tmp_path},
            encoding="utf-8",
            optionflags=doctest.FAIL_FAST,
        )
    assert result.failed == 0
    assert result.attempted > least


def test_there_are_ten_examples_and_they_are_short() -> None:
    text = PAGE.read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) == len(re.findall(r"^## \d+\. ", text, re.MULTILINE)) == EXAMPLES
    assert all(block.count("\n") <= 20 for block in blocks)


def test_the_page_names_every_verb() -> None:
    table = PAGE.read_text("utf-8").partition("## On the command line")[2]
    for verb in VERBS:
        assert f"`{verb} " in table


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda path: path.name)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target


# --- docs/watching.md ----------------------------------------------------------------------------

WATCHING = DOCS / "watching.md"


def test_watching_describes_every_variable_of_a_command(tmp_path: Path) -> None:
    mail = Mail(tmp_path)
    message = message_of(mail, mail.send())
    told = variables(message, signer=None, repo="r", files=(), folder=tmp_path, attempt=1)
    mail.close()
    table = {
        name
        for line in WATCHING.read_text("utf-8").splitlines()
        if line.startswith("| `DOCKERCOMMS_MSG_")
        for name in re.findall(r"`(DOCKERCOMMS_MSG_\w+)`", line.split("|")[1])
    }
    assert table == {*told, "DOCKERCOMMS_MSG_REASON_FILE"}


def test_watching_names_options_that_there_are() -> None:
    """Every command line of the page, the unit and the pipelines is understood by its verb."""
    text = WATCHING.read_text("utf-8")
    lines = re.findall(r"dockercomms ((?:watch|send|reply|outbox|receipts|inbox) [^`\n]*)", text)
    assert len(lines) >= 10
    for line in lines:
        words = line.partition("  #")[0].replace("&&", "").split()
        known = invoke([words[0], "--help"]).stdout + invoke(["--help"]).stdout
        for word in words[1:]:
            if word.startswith("--"):
                assert re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", known), line


def test_watching_unit_names_settings_that_systemd_has() -> None:
    """Above all, systemd must send SIGTERM only to watch, not to its command."""
    (unit,) = re.findall(
        r"^```ini\n(.*?)^```$", WATCHING.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    settings = dict(
        line.split("=", 1) for line in unit.splitlines() if "=" in line and not line.startswith("#")
    )
    assert settings["KillMode"] == "mixed"
    words = shlex.split(settings["ExecStart"])
    assert words[:2] == ["/usr/bin/dockercomms", "watch"]
    timeout = words[words.index("--exec-timeout") + 1]
    stop = settings["TimeoutStopSec"].removesuffix("in")
    assert duration_seconds(stop) > duration_seconds(timeout)


def test_watching_says_the_numbers_that_the_code_has() -> None:
    text = WATCHING.read_text("utf-8")
    assert f"{DEFAULT_INTERVAL_SECONDS} s unless you say otherwise" in text
    assert f"after {GRACE_SECONDS:.0f} s SIGKILL" in text
    assert f"at most {MAX_REASON_BYTES // 100 * 100} bytes" in text
    assert DEFAULT_TIMEOUT_SECONDS == 3600
    assert (JITTER, MAX_IDLE_FACTOR, IDLE_LOOKS) == (0.2, 4, 10)
    assert (MAX_FAILURE_WAIT_SECONDS, MAX_ASKED_WAIT_SECONDS) == (600, 3600)


NAMED_TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


@pytest.mark.parametrize(
    "page", [DOCS / "threat-model.md", DOCS / "reliability.md", DOCS.parent / "SECURITY.md"]
)
def test_a_promise_names_a_test_that_there_is(page: Path) -> None:
    for file, name in NAMED_TEST.findall(page.read_text("utf-8")):
        assert f"def {name}(" in (DOCS.parent / file).read_text("utf-8"), name


def test_each_row_of_the_threat_model_has_a_test_or_says_that_nothing_holds() -> None:
    rows = [line.split("|")[1:-1] for line in (DOCS / "threat-model.md").read_text().splitlines()]
    rows = [row for row in rows if row][2:]
    assert {row[0].partition("(")[0].strip() for row in rows} == {
        "owner of the registry", "network", "other sender", "other local user",
        "thief of a key", "lost machine",
    }  # fmt: skip
    for row in rows:
        tested = NAMED_TEST.search(row[3]) is not None
        assert tested or "not covered" in row[2] or "as the thief" in row[2], row

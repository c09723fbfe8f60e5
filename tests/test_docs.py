"""The examples of the documentation do what they say they do."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

from dockercomms.cli.reg import VERBS
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
def test_examples_of_the_registry_side(tmp_path: Path) -> None:
    with FakeRegistry() as registry:
        result = doctest.testfile(
            str(PAGE),
            module_relative=False,
            globs={"host": registry.host, "folder": tmp_path},
            encoding="utf-8",
            optionflags=doctest.FAIL_FAST,
        )
    assert result.failed == 0
    assert result.attempted > 5 * EXAMPLES


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

"""Every command, table and link of the README, tried.

A registry in this process, which wants a login, stands in for registry.example, and small shell
scripts for other programs.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dockercomms import errors
from dockercomms.cli.failures import INTERRUPTED
from tests.cli.harness import invoke
from tests.fakes.registry import FakeRegistry, Quirks
from tests.fakes.signalled import bare

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
MOST_LINES = 10
USERS = {"bob": "builder", "ci": "token of the job"}

OTHER_PROGRAMS = {
    "dockercomms": f'exec "{sys.executable}" -m dockercomms "$@"',
    # As docker writes it, without its question for the password.
    "docker": """
        mkdir -p "$HOME/.docker"
        login=$(printf %s bob:builder | base64)
        printf '{"auths": {"%s": {"auth": "%s"}}}' "$2" "$login" >"$HOME/.docker/config.json"
        """,
    "pg_dump": 'echo "CREATE TABLE $1 (id int);"',
    "psql": 'cat >"$HOME/restored-$1"',
}


@dataclass(frozen=True)
class Block:
    """One fenced block, and the headings it stands under."""

    kind: str
    text: str
    section: str

    @property
    def commands(self) -> list[str]:
        return [line[2:] for line in self.text.splitlines() if line.startswith("$ ")]


def blocks(kind: str) -> list[Block]:
    found = []
    for match in BLOCK.finditer(README):
        headings = HEADING.findall(BLOCK.sub("", README[: match.start()]))
        found.append(Block(match[1], match[2], headings[-1]))
    return [block for block in found if block.kind == kind]


@dataclass
class Desk:
    """A folder with a home, a PATH, and a registry that wants a login."""

    folder: Path
    registry: FakeRegistry
    variables: dict[str, str] = field(default_factory=dict)

    def run(self, *commands: str, at: str = ".", **variables: str) -> str:
        """Run lines in one shell, the first that fails ends it; returns their output."""
        where = self.folder / at
        where.mkdir(exist_ok=True)
        script = "\n".join(commands).replace("registry.example", self.registry.host)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=where,
            env=self.environment() | variables,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def environment(self) -> dict[str, str]:
        kept = {"LD_LIBRARY_PATH", "COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG"}
        return {
            **bare(os.environ),
            **{name: value for name, value in os.environ.items() if name in kept},
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "LOGNAME": "alice",
            "PYTHONPATH": str(ROOT),
        }

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def found(self, pattern: str) -> str:
        (path,) = self.folder.glob(pattern)
        return path.read_text()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    for name, body in OTHER_PROGRAMS.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{textwrap.dedent(body)}\n")
        path.chmod(0o755)
    with FakeRegistry(Quirks(auth="basic"), users=USERS) as registry:
        yield Desk(tmp_path, registry)


# --- the commands ------------------------------------------------------------------------------


def scripts(desk: Desk, commands: list[str]) -> None:
    """They set the machine up, so they are not run here; what quickstart shows is."""
    for command in commands:
        path = ROOT / command.split()[0]
        assert path.stat().st_mode & stat.S_IXUSR
        desk.run(f"bash -n '{path}'")
    shown = re.findall(r"^show (.*)$", (ROOT / "scripts/quickstart").read_text(), re.MULTILINE)
    assert len(shown) == 5
    os.symlink(ROOT / "SPEC.md", desk.folder / "SPEC.md")
    os.symlink(ROOT / "spec", desk.folder / "spec")
    variables = {"WORK": str(desk.folder / "work"), "DOCKERCOMMS_ME": "alice@example.com"}
    out = desk.run(*shown, **variables)
    assert out.count("accepted") == 2
    assert desk.found("work/inbox/*/SPEC.md") == (ROOT / "SPEC.md").read_text()
    desk.run(f"diff -r '{ROOT / 'spec'}' work/inbox/*/spec")


def own_mailbox(desk: Desk, commands: list[str]) -> None:
    desk.write("report.pdf", "a report")
    desk.run(*commands)
    assert desk.found("[0-9a-f]*/report.pdf") == "a report"


def install(desk: Desk, commands: list[str]) -> None:
    """The wheel is built and installed by scripts/test; here only what is asked of pip."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [re.fullmatch(r"pip install '?([\w-]+)(?:\[(\w+)\])?'? .*", c) for c in commands]
    assert [match and match[1] for match in wanted] == [project["name"]] * len(commands)
    assert {match[2] for match in wanted if match and match[2]} <= set(
        project["optional-dependencies"]
    )
    assert project["requires-python"] == ">=3.11"


def login(desk: Desk, commands: list[str]) -> None:
    desk.write("build.tar.gz", "a build")
    out = desk.run(*commands)
    assert "build.tar.gz" in out
    assert desk.found("incoming/*/build.tar.gz") == "a build"
    assert desk.registry.count("PUT", "/manifests/", status=201) > 0
    assert desk.registry.count(status=401) > 0


def pipeline(desk: Desk, commands: list[str]) -> None:
    """The two jobs run on two runners."""
    desk.write("one/dist/app.txt", "an app")
    variables = {"CI_PIPELINE_ID": "4711", "REGISTRY_TOKEN": USERS["ci"]}
    settings, send, recv = commands
    desk.run(settings, send, at="one", **variables)
    desk.run(settings, recv, at="two", **variables)
    assert desk.found("two/**/app.txt") == "an app"
    assert (desk.folder / "two/dist/app.txt").is_file()


def streams(desk: Desk, commands: list[str]) -> None:
    desk.run(*commands)
    assert desk.found("restored-shop") == "CREATE TABLE shop (id int);\n"


def service(desk: Desk, commands: list[str]) -> None:
    """The sender waits until the service, which is started after it, has run its command."""
    desk.write("dist/app.txt", "an app")
    desk.write("signed.pdf", "signed")
    desk.write("deploy", '#!/bin/sh\ncp "$1/dist/app.txt" "$HOME/deployed"\n')
    (desk.folder / "deploy").chmod(0o755)
    watch, send, reply, outbox = (command.partition("  #")[0] for command in commands)
    out = desk.run(
        f"{send} &",
        "sender=$!",
        "until dockercomms outbox -q | grep -q silent; do :; done",
        f"{watch} >log.jsonl &",
        "service=$!",
        "wait $sender",
        "kill $service",
        "wait $service",
        outbox,
    )
    assert desk.found("deployed") == "an app"
    assert "\taccepted\tdeploy@example.com\t" in out
    assert '"told": "accepted"' in desk.found("log.jsonl")
    (entry,) = desk.run("dockercomms inbox --all --me deploy@example.com -q").splitlines()
    desk.run(reply.replace("1a2b3c4d", entry[:8]) + " --me deploy@example.com")
    assert "signed.pdf" in desk.run("dockercomms inbox --threads")


def air_gap(desk: Desk, commands: list[str]) -> None:
    """Outside is the registry, inside a disk; alice and bob share one key here."""
    desk.write("build.bin", "a build")
    inside = {"DOCKERCOMMS_USERNAME": "ci", "DOCKERCOMMS_PASSWORD": USERS["ci"]}
    repo = "--repo registry.example/team/mail"
    send = f"dockercomms send build.bin --to bob@example.com --from alice@example.com -q {repo}"
    desk.run(send, *commands, **inside)
    assert desk.found("incoming/*/build.bin") == "a build"
    (receipt,) = desk.run(
        f"dockercomms receipts --me alice@example.com {repo}", **inside
    ).splitlines()
    assert receipt.split("\t")[2] == "accepted"
    assert receipt.endswith("valid")


SCENES: dict[str, Callable[[Desk, list[str]], None]] = {
    "scripts/quickstart": scripts,
    "dockercomms send report.pdf --to bob@example.com": own_mailbox,
    "pip install dockercomms": install,
    "docker login registry.example": login,
    "export DOCKERCOMMS_REPO=registry.example/team/mail": pipeline,
    "dockercomms watch --me deploy@example.com --out in": service,
    "dockercomms export --to bob@example.com -o bob.tar": air_gap,
    "pg_dump shop | dockercomms send - --name shop.sql": streams,
}
"""The test of each block, by the start of the block's first command."""


@pytest.mark.parametrize("start", SCENES)
def test_readme_console_block_works(desk: Desk, start: str) -> None:
    (block,) = (b for b in blocks("console") if b.commands[0].startswith(start))
    SCENES[start](desk, block.commands)


def test_readme_has_no_console_block_that_is_not_tried() -> None:
    found = blocks("console")
    assert len(found) == len(SCENES)
    for block in found:
        assert sum(block.commands[0].startswith(start) for start in SCENES) == 1, block.text
        assert len(block.text.splitlines()) <= MOST_LINES
        assert all(line.startswith("$ ") for line in block.text.splitlines()), block.text


def test_readme_opens_with_quickstart_and_test() -> None:
    first = blocks("console")[0]
    assert [command.split()[0] for command in first.commands] == [
        "scripts/quickstart",
        "scripts/test",
    ]
    assert README.index(first.text) < README.index("\n## ")


def test_readme_library_example_works(desk: Desk) -> None:
    (block,) = blocks("python")
    desk.write("a.txt", "hello")
    desk.write("example.py", block.text.replace("registry.example", desk.registry.host))
    desk.run(
        "docker login registry.example",
        "dockercomms send a.txt --to bob@example.com --repo registry.example/team/mail",
    )
    out = desk.run(f"'{sys.executable}' example.py")
    assert out.startswith("received ")
    assert desk.found("incoming/*/a.txt") == "hello"


# --- the tables and words ----------------------------------------------------------------------


def table(heading: str) -> list[list[str]]:
    """Return the rows of the first table under a heading, without its head."""
    section = README.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


MEANINGS = {
    0: "done",
    1: "anything else",
    2: "verification",
    3: "credentials",
    4: "protocol",
    5: "not found",
    6: "network",
    7: "some messages failed",
    8: "local files",
    9: "limit",
    10: "rejected",
    11: "no receipt",
    12: "nothing new",
    64: "command line",
    130: "interrupted",
}


def test_readme_exit_codes_are_those_of_the_classes() -> None:
    classes, codes = [errors.DockerCommsError], {0, INTERRUPTED}
    while classes:
        cls = classes.pop()
        codes.add(cls.exit_code)
        classes += cls.__subclasses__()
    rows = {int(code): meaning for code, meaning in table("What it prints")}
    assert set(rows) == codes == set(MEANINGS)
    for code, meaning in MEANINGS.items():
        assert meaning in rows[code]


def test_readme_dependencies_are_those_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [re.match(r"[\w-]+", item)[0] for item in project["dependencies"]]  # type: ignore[index]
    rows = [re.match(r"\[([\w-]+)\]", row[0])[1] for row in table("Dependencies")]  # type: ignore[index]
    assert rows == sorted(names)


def test_readme_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", README)
    assert links
    for link in links:
        assert link.startswith("https://") or (ROOT / link).exists(), link


def test_readme_options_exist() -> None:
    helps = {
        verb: invoke([verb, "--help"]).stdout
        for verb in (
            "send",
            "recv",
            "watch",
            "reply",
            "outbox",
            "inbox",
            "show",
            "ack",
            "receipts",
            "export",
            "import",
        )
    }
    common = invoke(["--help"]).stdout
    for block in blocks("console"):
        for line in block.commands:
            for verb, rest in re.findall(r"dockercomms (\w+)([^|]*)", line):
                for option in re.findall(r"(?<!\w)--[a-z-]+", rest):
                    assert option in helps[verb] or option in common, line

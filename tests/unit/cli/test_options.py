"""The options that every verb has, and the values they take."""

from __future__ import annotations

import click
import pytest

from dockercomms.cli import config, options
from dockercomms.cli.program import VERBS, program
from tests.cli.harness import invoke
from tests.fakes.clock import FakeClock
from tests.fakes.mailbox import FakeMailbox, poll, sent

COMMANDS = {name: program().get_command(click.Context(program()), name) for name in VERBS}


def test_choices_are_those_of_the_configuration() -> None:
    assert options.FORMATS == config.FORMATS
    assert options.COMPRESS == config.COMPRESS
    assert options.DISCOVERY == config.DISCOVERY
    assert options.REFERRERS_INDEX == config.REFERRERS_INDEX
    assert options.FORM_CHOICES == config.FORM_CHOICES
    assert options.MAX_CONCURRENCY == config.MAX_CONCURRENCY


@pytest.mark.parametrize("name", VERBS)
def test_verb_says_in_its_help_what_the_table_says(name: str) -> None:
    command = COMMANDS[name]
    assert isinstance(command, options.Verb | options.VerbTable)
    assert command.name == name
    assert (command.help or "").splitlines()[0] == VERBS[name][1]


@pytest.mark.parametrize("name", [None, *VERBS])
def test_help_fits_one_screen_and_has_an_example(name: str | None) -> None:
    result = invoke([*([name] if name else []), "--help"])
    assert result.exit_code == 0
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert len(lines) <= 48
    assert all(len(line) <= 100 for line in lines)
    example = result.stdout.partition("Example:\n")[2]
    assert "dockercomms " in example


@pytest.mark.parametrize(
    ("former", "name"),
    [
        ("--recipient", "send"),
        ("--chunk-bytes", "send"),
        ("--parallel", "send"),
        ("--ttl-seconds", "send"),
        ("--parallel", "recv"),
        ("--write-receipt", "recv"),
        ("--no-write-receipt", "recv"),
    ],
)
def test_former_names_work_and_are_not_shown(former: str, name: str) -> None:
    command = COMMANDS[name]
    assert command is not None
    known = {
        word
        for parameter in command.params
        for word in (*parameter.opts, *parameter.secondary_opts)
    }
    assert former in known
    assert former not in invoke([name, "--help"]).stdout


def send(*arguments: str, **options_: object) -> FakeMailbox:
    mailbox = FakeMailbox(sends=[sent()])
    result = invoke(["send", "x", "--to", "bob", *arguments], factory=mailbox, **options_)  # type: ignore[arg-type]
    assert result.exit_code == 0, result.stderr
    return mailbox


def test_former_names_of_send_mean_the_same() -> None:
    mailbox = FakeMailbox(sends=[sent()])
    arguments = [
        "--recipient",
        "bob",
        "--chunk-bytes",
        "1048576",
        "--parallel",
        "2",
        "--ttl-seconds",
        "60",
    ]
    assert invoke(["send", "x", *arguments], factory=mailbox).exit_code == 0
    asked = mailbox.asked("send")[1]
    assert (asked["to"], asked["chunk_bytes"], asked["concurrency"], asked["ttl_seconds"]) == (
        "bob",
        2**20,
        2,
        60,
    )


@pytest.mark.parametrize(
    ("flags", "receipt"),
    [
        ([], True),
        (["--no-receipt"], False),
        (["--no-write-receipt"], False),
        (["--write-receipt"], True),
        (["--receipt"], True),
    ],
)
def test_receipt_flags_of_both_ages(flags: list[str], receipt: bool) -> None:
    mailbox = FakeMailbox(poll=poll())
    assert invoke(["recv", *flags], factory=mailbox).exit_code == 0
    assert mailbox.asked("receive")[1]["receipt"] is receipt


@pytest.mark.parametrize(
    ("before", "after", "repo", "me"),
    [
        (["--repo", "r.example/a", "--me", "x"], [], "r.example/a", ("x",)),
        ([], ["-R", "r.example/b", "--me", "y"], "r.example/b", ("y",)),
        (["--repo", "r.example/a", "--me", "x"], ["--repo", "r.example/b"], "r.example/b", ("x",)),
    ],
)
def test_common_options_stand_before_or_after_the_verb(
    before: list[str], after: list[str], repo: str, me: tuple[str, ...]
) -> None:
    mailbox = FakeMailbox(poll=poll())
    assert invoke([*before, "inbox", *after], factory=mailbox).exit_code == 0
    arguments, asked = mailbox.asked("open")
    assert (arguments[0], asked["me"]) == (repo, me)


def test_common_options_reach_the_connection() -> None:
    mailbox = send(
        "--plain-http", "--insecure", "--ca-file", "ca.pem", "--authfile", "a.json", "--timeout", "5s",
        "--username", "bot", "--password-stdin", stdin=b"s3cret\n",
    )  # fmt: skip
    settings = mailbox.asked("open")[1]["settings"]
    assert (settings.plain_http, settings.insecure, settings.timeout) == (True, True, 5)
    assert (settings.ca_file, settings.authfile) == ("ca.pem", "a.json")
    assert (settings.username, settings.password) == ("bot", "s3cret")


def test_connection_is_careful_by_default() -> None:
    settings = send().asked("open")[1]["settings"]
    assert (settings.plain_http, settings.insecure, settings.username) == (None, False, None)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2d", "2026-11-18T12:00:00+00:00"),
        ("2d ago", "2026-11-18T12:00:00+00:00"),
        ("12h", "2026-11-20T00:00:00+00:00"),
        ("P1D", "2026-11-19T12:00:00+00:00"),
        ("90", "2026-11-20T11:58:30+00:00"),
        ("2026-11-01", "2026-11-01T00:00:00+00:00"),
        ("2026-11-01T10:00:00+02:00", "2026-11-01T08:00:00+00:00"),
        ("2026-11-01T10:00:00.5Z", "2026-11-01T10:00:00.500000+00:00"),
    ],
)
def test_since_is_a_moment(text: str, moment: str) -> None:
    mailbox = FakeMailbox(poll=poll())
    assert invoke(["inbox", "--since", text], factory=mailbox, clock=FakeClock()).exit_code == 0
    assert mailbox.asked("inbox")[1]["since"].isoformat() == moment


@pytest.mark.parametrize(
    "arguments",
    [
        ["inbox", "--since", "yesterday"],
        ["inbox", "--since", "2026-13-01"],
        ["inbox", "--since", "0001-01-01"],
        ["inbox", "--since", "9999-12-31"],
        ["inbox", "--since", "2026-11-01T10:00:00"],
        ["inbox", "--format", "yaml"],
        ["inbox", "--me", ""],
        ["inbox", "--repo", " "],
        ["inbox", "--timeout", "soon"],
        ["send", "x", "--to", ""],
        ["send", "x", "--to", "bob, carl"],
        ["send", "x", "--to", "bob\t"],
        ["send", "x", "--to", " bob"],
        ["send", "x", "--to", "@team.txt"],
        ["send", "x", "--to", "edge*"],
        ["send", "x"],
        ["send", "x", "--to", "bob", "--ttl", "0"],
        ["send", "x", "--to", "bob", "--chunk-size", "0"],
        ["send", "x", "--to", "bob", "--concurrency", "0"],
        ["send", "x", "--to", "bob", "--compress", "brotli"],
        ["recv", "--max", "0"],
        ["ack", "1a2b"],
        ["ack", "1a2b", "--status", "banana"],
        ["ack", "--status", "accepted"],
        ["show"],
        ["show", "1", "2"],
        ["completion", "tcsh"],
        ["--nonsense"],
        ["nonsense"],
        ["--username", "bot", "inbox"],
        ["inbox", "--username", "bot"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_64_in_three_lines(arguments: list[str]) -> None:
    mailbox = FakeMailbox()
    result = invoke(arguments, factory=mailbox)
    assert result.exit_code == 64
    assert result.stdout == ""
    assert [line.partition(":")[0] for line in result.stderr.splitlines()] == [
        "error",
        "why",
        "hint",
    ]
    assert mailbox.calls == []

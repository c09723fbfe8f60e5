"""The edge: what becomes of every way a command can end."""

from __future__ import annotations

import errno
import io
import logging
import os
import signal
import subprocess
import sys
import threading
from typing import Any

import pytest

from dockercomms.cli.main import main
from dockercomms.cli.program import run
from dockercomms.cli.session import Session, process_session
from dockercomms.errors import LocalIOError, NetworkError, NotFoundError
from tests.cli.harness import Input, Stream, invoke
from tests.fakes.mailbox import FakeMailbox, entry, poll, received, sent
from tests.fakes.signalled import unmeasured


def labels(stderr: str) -> list[str]:
    return [line.partition(":")[0] for line in stderr.splitlines()]


@pytest.mark.parametrize("arguments", [[], ["send"]])
def test_no_arguments_print_the_help_on_stderr(arguments: list[str]) -> None:
    result = invoke(arguments)
    assert result.exit_code == 64
    assert result.stdout == ""
    assert result.stderr.startswith("Usage: dockercomms ")


@pytest.mark.parametrize("arguments", [["--version"], ["-q", "--version"]])
def test_version_option(arguments: list[str]) -> None:
    result = invoke(arguments)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "dockercomms 1.1.0\n", "")


def test_mistyped_verb_is_named() -> None:
    result = invoke(["sned\x1b[2J"])
    assert result.exit_code == 64
    assert "no such command" in result.stderr
    assert "\x1b" not in result.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotFoundError("no message 1a2b"), 5),
        (NetworkError("r.example: refused"), 6),
        (LocalIOError("x: disk full"), 8),
        (KeyboardInterrupt(), 130),
        (ZeroDivisionError("division"), 1),
        (OSError(errno.ENOSPC, "No space left on device"), 8),
    ],
)
def test_error_has_three_lines_and_a_code(error: BaseException, code: int) -> None:
    mailbox = FakeMailbox(sends=[error])  # type: ignore[list-item]
    result = invoke(["send", "x", "--to", "bob"], factory=mailbox)
    assert result.exit_code == code
    assert result.stdout == ""
    assert labels(result.stderr) == ["error", "why", "hint"]
    assert result.stderr.startswith("error: send: ")
    assert "Traceback" not in result.stderr
    assert mailbox.closed


@pytest.mark.parametrize("arguments", [["-v", "send"], ["send", "--verbose"]])
def test_verbose_shows_the_traceback(arguments: list[str]) -> None:
    mailbox = FakeMailbox(sends=[ZeroDivisionError("division")])
    result = invoke([*arguments, "x", "--to", "bob"], factory=mailbox)
    assert result.exit_code == 1
    assert labels(result.stderr)[1:4] == ["error", "why", "hint"]
    assert "Traceback (most recent call last)" in result.stderr


class Logging(FakeMailbox):
    def inbox(self, **options: Any) -> list[Any]:
        logging.getLogger("dockercomms.test").debug("GET %s", "a\x1b")
        return []


def test_verbose_shows_the_log_and_leaves_logging_as_it_was() -> None:
    logger = logging.getLogger("dockercomms")
    before = (logger.level, list(logger.handlers))
    shown = invoke(["inbox", "-v"], factory=Logging(poll=poll()))
    hidden = invoke(["inbox"], factory=Logging(poll=poll()))
    assert "dockercomms.test: GET a\\x1b\n" in shown.stderr
    assert "GET" not in hidden.stderr
    assert (logger.level, list(logger.handlers)) == before


class Noting(FakeMailbox):
    def inbox(self, **options: Any) -> list[Any]:
        for count in (7, 7, 8, 9):
            logging.getLogger("dockercomms.test").warning("1 of %d entries", count)
            logging.getLogger("dockercomms.test").info("syncing a folder: refused")
        return []


def test_warnings_and_notes_of_the_log_are_shown_once() -> None:
    shown = invoke(["inbox"], factory=Noting(poll=poll()))
    quiet = invoke(["inbox", "-q"], factory=Noting(poll=poll()))
    assert shown.stderr.splitlines()[:2] == [
        "warning: 1 of 7 entries",
        "syncing a folder: refused",
    ]
    assert shown.stderr.count("entries") == shown.stderr.count("folder") == 1
    assert quiet.stderr.splitlines() == [
        "warning: 1 of 7 entries",
        "warning: 2 more warnings of these kinds; show them with --verbose",
    ]


class BrokenOutput(Stream):
    """Standard output whose reader is gone, or whose disk is full."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self._code = code

    def write(self, text: str) -> int:
        raise OSError(self._code, os.strerror(self._code))

    def value(self) -> bytes:
        return b""


def test_broken_pipe_is_quiet() -> None:
    result = invoke(
        ["inbox"],
        factory=FakeMailbox(entries=[entry()], poll=poll()),
        stdout=BrokenOutput(errno.EPIPE),
    )
    assert (result.exit_code, result.stderr) == (1, "")


@pytest.mark.parametrize("style", ["text", "json", "jsonl"])
def test_full_output_is_a_local_error(style: str) -> None:
    mailbox = FakeMailbox(entries=[entry()], poll=poll())
    result = invoke(
        ["inbox", "--format", style], factory=mailbox, stdout=BrokenOutput(errno.ENOSPC)
    )
    assert result.exit_code == 8
    assert "No space left on device; the command has done its work" in result.stderr
    assert "do not send again" in result.stderr


def test_broken_standard_error_leaves_the_exit_code() -> None:
    result = invoke(["show", "x"], factory=FakeMailbox(), stderr=BrokenOutput(errno.EPIPE))
    assert result.exit_code == 1


def hang_up() -> LocalIOError:
    error = LocalIOError("standard output: broken pipe")
    error.__cause__ = BrokenPipeError()
    return error


@pytest.mark.parametrize(
    "message", [hang_up(), received(status="failed", files=(), error=hang_up())]
)
def test_reader_that_leaves_in_the_middle_of_a_content_is_quiet(message: Any) -> None:
    mailbox = FakeMailbox(messages=[message], poll=poll())
    result = invoke(["recv", "--stdout", "-q"], factory=mailbox)
    assert (result.exit_code, result.stderr) == (1, "")


def test_terminate_is_an_interrupt() -> None:
    class Terminated(FakeMailbox):
        def inbox(self, **options: Any) -> list[Any]:
            signal.raise_signal(signal.SIGTERM)
            return []

    before = signal.getsignal(signal.SIGTERM)
    result = invoke(["inbox"], factory=Terminated())
    assert result.exit_code == 130
    assert result.stderr.startswith("error: inbox: interrupted\n")
    assert signal.getsignal(signal.SIGTERM) is before


def test_run_works_outside_the_main_thread() -> None:
    codes: list[int] = []
    session = Session(stdin=Input(), stdout=Stream(), stderr=Stream(), environ={})
    thread = threading.Thread(target=lambda: codes.append(run(["version"], session)))
    thread.start()
    thread.join()
    assert codes == [0]


def test_wrong_configuration_is_1_and_names_the_file(tmp_path: Any) -> None:
    path = tmp_path / "c.toml"
    path.write_text("nonsense = 1\n")
    result = invoke(["inbox"], environ={"DOCKERCOMMS_CONFIG": str(path)}, factory=FakeMailbox())
    assert result.exit_code == 1
    assert f"{path}, line 1: nonsense" in result.stderr


def test_password_is_not_read_from_a_terminal() -> None:
    result = invoke(["inbox", "--username", "x", "--password-stdin"], stdin=Input(b"", tty=True))
    assert result.exit_code == 64
    assert "a terminal would show" in result.stderr


def test_empty_password_is_refused() -> None:
    result = invoke(["inbox", "--username", "x", "--password-stdin"], stdin=b"\n")
    assert result.exit_code == 64


@pytest.mark.parametrize(("words", "incomplete", "expected"), [
    ("dockercomms se", "1", "plain,send"),
    ("dockercomms inbox --form", "2", "plain,--format"),
    ("dockercomms inbox --format j", "3", "plain,jsonl"),
    ("dockercomms completion f", "2", "plain,fish"),
])  # fmt: skip
def test_completion_answers_without_a_mailbox(
    monkeypatch: pytest.MonkeyPatch, words: str, incomplete: str, expected: str
) -> None:
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", incomplete)
    mailbox = FakeMailbox()
    result = invoke([], environ={"_DOCKERCOMMS_COMPLETE": "bash_complete"}, factory=mailbox)
    assert result.exit_code == 0
    assert expected in result.stdout.splitlines()
    assert mailbox.calls == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell: str) -> None:
    result = invoke(["completion", shell])
    assert result.exit_code == 0
    assert "_DOCKERCOMMS_COMPLETE" in result.stdout


def test_completion_script_is_bash() -> None:
    script = invoke(["completion", "bash"]).stdout
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_main_prints_the_version_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["--version"])
    assert done.value.code == 0
    assert capsys.readouterr().out == "dockercomms 1.1.0\n"


def test_main_takes_the_arguments_of_the_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["dockercomms", "version", "--json"])
    with pytest.raises(SystemExit) as done:
        main()
    assert done.value.code == 0
    assert capsys.readouterr().out.startswith('{"schema": "dockercomms/version/v1"')


def test_main_takes_a_factory(capsys: pytest.CaptureFixture[str]) -> None:
    mailbox = FakeMailbox(sends=[sent()])
    with pytest.raises(SystemExit) as done:
        main(["send", "x", "--to", "bob", "-q"], mailbox_factory=mailbox)
    assert done.value.code == 0
    assert capsys.readouterr().err == ""


def test_process_session_stands_in_for_missing_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    session = process_session()
    with session.stdin, session.stdout, session.stderr:
        assert session.stdin.read() == b""
        session.stdout.write("nowhere")
        assert isinstance(session.stdout, io.TextIOBase)


ENDING = """
import atexit, sys, threading
from dockercomms.cli.main import process
sys.argv[1:] = ["--version"]
atexit.register(print, "registered", flush=True)
{before}
try:
    process()
except SystemExit as done:
    print("the long way", done.code)
"""


def ended(before: str = "", end: str = "") -> list[str]:
    """Return what a process prints that ends as the program does; coverage would trace it."""
    code = ENDING.format(before=before) + end
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=unmeasured(os.environ),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_process_ends_at_once_when_all_is_done() -> None:
    assert ended() == ["dockercomms 1.1.0", "registered"]


@pytest.mark.parametrize("trace", ["settrace", "setprofile"])
def test_process_ends_the_long_way_for_who_traces_it(trace: str) -> None:
    said = ended(f"sys.{trace}(lambda *seen: None)")
    assert said == ["dockercomms 1.1.0", "the long way 0", "registered"]


def test_process_waits_for_its_threads() -> None:
    said = ended(
        "go = threading.Event()\n"
        "threading.Thread(target=lambda: (go.wait(), print('a thread', flush=True))).start()",
        "go.set()",
    )
    assert said == ["dockercomms 1.1.0", "the long way 0", "a thread", "registered"]


PYTHON = [sys.executable, "-m", "dockercomms"]


def test_process_survives_a_reader_that_leaves() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*PYTHON, "--help"], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["version"]])
def test_process_reports_a_full_disk(arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([*PYTHON, *arguments], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 8
    assert labels(done.stderr) == ["error", "why", "hint"]


def test_process_without_streams_still_has_an_exit_code() -> None:
    done = subprocess.run(["sh", "-c", f"exec {' '.join(PYTHON)} --version >&- 2>&-"])
    assert done.returncode in {0, 8}

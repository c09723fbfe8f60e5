from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

import pytest

from dockercomms.cli.session import PASSPHRASE_VARIABLE
from dockercomms.errors import LocalIOError, UsageError
from dockercomms.messages.command import (
    MAX_REASON_BYTES,
    WITHHELD,
    Command,
    Outcome,
    parse_command,
    run_command,
    variables,
)
from dockercomms.platforms.clock import SystemClock
from tests.fakes.mail import message_of, open_mail


@pytest.fixture
def mail(tmp_path):
    yield from open_mail(tmp_path)


def run(command: str, folder, *, told=None, timeout: float = 60, **options) -> Outcome:
    parsed = parse_command(command, timeout_seconds=timeout)
    return run_command(parsed, folder, told or {}, clock=SystemClock(), **options)


def stopped(command: str, folder, begun: Path) -> Outcome:
    """Run what never ends, with the first time limit in which it gets as far as writing `begun`."""
    for seconds in (0.1, 1, 20, 400):
        outcome = run(command, folder, timeout=seconds)
        if begun.exists() and begun.read_text().endswith("\n"):
            break
    return outcome


def interrupt_after(begun: Path) -> threading.Thread:
    """Have this process get SIGALRM once `begun` is written and the end of a process waited for."""

    def is_waiting() -> bool:
        stack = traceback.walk_stack(sys._current_frames()[threading.main_thread().ident])
        return any(frame.f_code is subprocess.Popen.wait.__code__ for frame, _ in stack)

    def wait() -> None:
        while not (begun.exists() and begun.read_text().endswith("\n") and is_waiting()):
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGALRM)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b") ")[2][:1] != b"Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# --- its environment -----------------------------------------------------------------------------

SECRETS = {
    **dict.fromkeys(WITHHELD, "secret"),
    "https_proxy": "http://user:secret@proxy.example",
    "HTTP_PROXY": "http://user:secret@proxy.example",
}


def told(tmp_path, *, secrets=()) -> str:
    """Return the environment of a command, which is told that `secrets` are meant for it."""
    environ = {"PATH": os.environ["PATH"], "LANG": "C", **SECRETS}
    environ["all_proxy"] = "http://proxy.example"
    parsed = parse_command(f"sh -c 'env >{tmp_path}/told'", secrets=secrets)
    run_command(parsed, tmp_path, {"DOCKERCOMMS_MSG_ID": "1"}, clock=SystemClock(), environ=environ)
    return (tmp_path / "told").read_text()


def test_command_gets_no_secret_of_ours(tmp_path):
    said = told(tmp_path)

    assert "secret" not in said
    assert all(f"{name}=" not in said for name in SECRETS)
    assert "LANG=C\n" in said
    assert "all_proxy=http://proxy.example\n" in said
    assert "DOCKERCOMMS_MSG_ID=1\n" in said


@pytest.mark.parametrize("name", sorted(SECRETS))
def test_command_gets_a_secret_that_is_meant_for_it(tmp_path, name):
    assert f"{name}={SECRETS[name]}\n" in told(tmp_path, secrets=[name])


def test_every_secret_that_settings_are_read_from_is_withheld():
    read = {"DOCKERCOMMS_PASSWORD", "DOCKERCOMMS_IDENTITY_TOKEN", PASSPHRASE_VARIABLE}

    assert read <= WITHHELD


# --- the command line ----------------------------------------------------------------------------


def test_command_is_split_as_a_shell_splits_and_read_by_none(tmp_path):
    command = parse_command("sh -c 'exit 0' \"{dir}/a b\" $HOME ; x{dir}")
    folder = "/in/it's; rm -rf $(x)"
    assert command.words(folder) == (
        "sh", "-c", "exit 0", f"{folder}/a b", "$HOME", ";", f"x{folder}",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "why"),
    [("", "empty"), ("  ", "empty"), ("sh 'x", "No closing quotation"),
     ("no-such-program-here {dir}", r"program .* not found")],
)  # fmt: skip
def test_command_that_cannot_be_run_is_found_before_any_message(text, why):
    with pytest.raises(UsageError, match=why):
        parse_command(text)


def test_command_is_looked_for_where_the_environment_says(tmp_path):
    program = tmp_path / "here"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert parse_command("here", path=str(tmp_path)).argv == ("here",)
    assert parse_command("{dir}/install").argv == ("{dir}/install",)  # the sender's own program


# --- running it ----------------------------------------------------------------------------------


def test_command_that_succeeds_and_one_that_fails(tmp_path):
    assert run("true", tmp_path).succeeded
    failed = run("sh -c 'exit 3'", tmp_path)
    assert (failed.exit_code, failed.succeeded, failed.timed_out) == (3, False, False)
    assert str(failed) == "the command ended with exit code 3"


def test_command_that_a_signal_ends_has_the_code_that_shells_give(tmp_path):
    assert run("sh -c 'kill -9 $$'", tmp_path).exit_code == 128 + signal.SIGKILL


def test_command_reads_nothing_and_prints_where_it_is_told(tmp_path):
    reads, writes = os.pipe()
    assert run("sh -c 'cat; echo $X; echo err >&2'", tmp_path, told={"X": "1"}, output=writes)
    os.close(writes)
    with open(reads, "rb") as printed:
        assert printed.read() == b"1\nerr\n"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("printf 'page 3\\nis   torn\\0' >$DOCKERCOMMS_MSG_REASON_FILE; exit 2",
         "the command ended with exit code 2: page 3 is torn"),
        ("printf fine >$DOCKERCOMMS_MSG_REASON_FILE", "fine"),
        ("exit 0", ""),
        ("printf '\\377ok' >$DOCKERCOMMS_MSG_REASON_FILE", "ok"),
    ],
)  # fmt: skip
def test_command_may_say_why(tmp_path, script, said):
    assert str(run(f'sh -c "{script}"', tmp_path)) == said


def test_command_that_gives_a_book_as_its_reason_is_cut_short(tmp_path):
    outcome = run(
        "sh -c 'head -c 99999 /dev/zero | tr \\\\0 x >$DOCKERCOMMS_MSG_REASON_FILE'", tmp_path
    )
    assert len(outcome.reason) == MAX_REASON_BYTES


def test_command_whose_reason_cannot_be_read(tmp_path):
    with pytest.raises(LocalIOError, match="reason"):
        run("sh -c 'mkdir $DOCKERCOMMS_MSG_REASON_FILE'", tmp_path)


def test_command_that_never_ends_is_stopped_with_its_children(tmp_path):
    pid = tmp_path / "pid"
    outcome = stopped("sh -c 'sleep 9999 & echo $! >$0/pid; wait' {dir}", tmp_path, pid)
    assert (outcome.timed_out, outcome.succeeded) == (True, False)
    assert re.search(r"did not end within \d+ s and was stopped", str(outcome))
    while is_alive(int(pid.read_text())):
        time.sleep(0.01)


def test_command_that_ignores_being_asked_to_end_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr("dockercomms.messages.command.GRACE_SECONDS", 0.05)
    command = "sh -c 'trap : TERM; echo >$0/deaf; while :; do sleep 0.02; done' {dir}"
    outcome = stopped(command, tmp_path, tmp_path / "deaf")
    assert (outcome.exit_code, outcome.timed_out) == (128 + signal.SIGKILL, True)


def test_command_is_killed_alone_where_there_are_no_groups(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "killpg")
    outcome = run("sleep 1000", tmp_path, timeout=0.05)
    assert (outcome.exit_code, outcome.timed_out) == (128 + signal.SIGKILL, True)


def test_command_is_stopped_when_whoever_waits_for_it_is_interrupted(tmp_path):
    def interrupt(_number, _frame):
        raise KeyboardInterrupt

    former = signal.signal(signal.SIGALRM, interrupt)
    interrupting = interrupt_after(tmp_path / "pid")
    try:
        with pytest.raises(KeyboardInterrupt):
            run("sh -c 'echo $$ >$0/pid; exec sleep 9999' {dir}", tmp_path, timeout=9999)
    finally:
        interrupting.join()
        signal.signal(signal.SIGALRM, former)
    assert not is_alive(int((tmp_path / "pid").read_text()))


def test_command_that_cannot_be_started_is_our_trouble_not_the_messages(tmp_path):
    with pytest.raises(LocalIOError, match="command '/nowhere/x': No such file"):
        run_command(Command(("/nowhere/x",)), tmp_path, {}, clock=SystemClock())


def test_command_leaves_no_descriptor_behind(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        run("true", tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before


# --- what it is told -----------------------------------------------------------------------------


def test_variables_tell_all_of_the_message(mail, tmp_path):
    message = message_of(mail, mail.send(title="a\0b\nc", text="note"))
    file = tmp_path / "in" / "a.txt"
    told = variables(
        message, signer="alice", repo="r/box", files=(file,), folder=tmp_path / "in", attempt=2
    )
    assert told == {
        "DOCKERCOMMS_MSG_ID": message.header.id,
        "DOCKERCOMMS_MSG_DIGEST": message.digest,
        "DOCKERCOMMS_MSG_REPO": "r/box",
        "DOCKERCOMMS_MSG_FROM": "alice@example.com",
        "DOCKERCOMMS_MSG_SIGNER": "alice",
        "DOCKERCOMMS_MSG_TO": "bob@example.com",
        "DOCKERCOMMS_MSG_TITLE": "a\ufffdb\nc",
        "DOCKERCOMMS_MSG_TEXT": "note",
        "DOCKERCOMMS_MSG_CREATED": "2026-11-20T12:00:00.000Z",
        "DOCKERCOMMS_MSG_BYTES": "5",
        "DOCKERCOMMS_MSG_THREAD": "",
        "DOCKERCOMMS_MSG_IN_REPLY_TO": "",
        "DOCKERCOMMS_MSG_DIR": str(tmp_path / "in"),
        "DOCKERCOMMS_MSG_FILE": str(file),
        "DOCKERCOMMS_MSG_FILES": "1",
        "DOCKERCOMMS_MSG_ATTEMPT": "2",
    }
    several = variables(
        message, signer=None, repo="r/box", files=(file, file), folder=tmp_path, attempt=1
    )
    assert (several["DOCKERCOMMS_MSG_FILE"], several["DOCKERCOMMS_MSG_FILES"]) == ("", "2")
    assert several["DOCKERCOMMS_MSG_SIGNER"] == ""

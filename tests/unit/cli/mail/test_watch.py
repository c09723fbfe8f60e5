"""The mailbox calls and output of `watch`, and its end."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from dockercomms.cli.mail.watch import PollTeller, SignalStop, descriptor_of, stopping
from dockercomms.errors import LocalIOError, Truncated, UnknownSender
from dockercomms.messages.command import Command, Outcome
from tests.cli.harness import invoke
from tests.fakes.mailbox import FakeMailbox, failed, poll, received, watched
from tests.fakes.signalled import bare


def test_watch_asks_for_what_the_flags_say(tmp_path):
    mailbox = FakeMailbox(poll=poll())
    words = ["watch", "--once", "--interval", "5m", "--exec", "true {dir}", "--exec-timeout", "10m"]
    result = invoke(
        [
            *words,
            "--exec-env",
            "TOKEN",
            "--exec-env",
            "DOCKERCOMMS_PASSWORD",
            "--ack",
            "on-success",
            "--out",
            str(tmp_path),
            "--concurrency",
            "2",
            "--me",
            "bob",
        ],
        factory=mailbox,
    )
    assert result.exit_code == 0
    _, asked = mailbox.asked("watch")
    asked.pop("stop"), asked.pop("on_poll")
    assert asked == {
        "out": tmp_path,
        "interval_seconds": 300,
        "command": Command(("true", "{dir}"), 600, frozenset({"TOKEN", "DOCKERCOMMS_PASSWORD"})),
        "ack": "on-success",
        "once": True,
        "flat": False,
        "redeliver": False,
        "concurrency": 2,
        "output": None,
    }
    assert result.stderr == "no new messages for bob\n"


def test_watch_without_flags():
    mailbox = FakeMailbox(poll=poll())
    result = invoke(["watch", "--me", "bob"], factory=mailbox)
    _, asked = mailbox.asked("watch")
    assert (asked["interval_seconds"], asked["command"], asked["ack"]) == (30, None, "always")
    assert result.exit_code == 0
    assert result.stderr == (
        "watching r.example/box for bob every 30 s; stop with Ctrl-C\nstopped; 0 messages received\n"
    )


def test_watch_prints_json_lines_when_piped_and_what_is_asked_for_otherwise():
    def printed(*words: str, **options) -> str:
        mailbox = FakeMailbox(messages=[watched()], poll=poll())
        return invoke(["watch", *words], factory=mailbox, **options).stdout

    assert json.loads(printed())["told"] == "accepted"
    assert json.loads(printed("--json"))[0]["told"] == "accepted"
    assert printed("--format", "text").split("\t")[1:] == [
        "received", "alice", "1536", "/in/1a2b3c4d/report.pdf", "0", "accepted\n",
    ]  # fmt: skip
    shown = printed("-q", tty=True, environ={"TERM": "dumb"})
    assert "1a2b3c4d from alice (claimed)" in shown
    assert shown.endswith("(1.5 KiB), accepted\n")


def test_watch_goes_on_after_failures_and_counts_them():
    messages = [
        watched(outcome=Outcome(exit_code=2), status="rejected"),
        watched(received=failed(Truncated("short")), outcome=None, status=None),
        watched(received=failed(UnknownSender("who")), outcome=None, status=None),
        watched(),
    ]
    result = invoke(["watch"], factory=FakeMailbox(messages=messages, poll=poll()))
    assert result.exit_code == 0
    assert result.stderr.endswith("stopped; 1 message received, 2 failed\n")
    assert "the command failed" in result.stderr
    assert "is held: who" in result.stderr
    statuses = [json.loads(line)["status"] for line in result.stdout.splitlines()]
    assert statuses == ["received", "failed", "skipped", "received"]


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        ([watched()], 0),
        ([watched(outcome=Outcome(exit_code=2), status="rejected")], 1),
        ([watched(outcome=Outcome(exit_code=2), status="rejected"), watched()], 7),
        ([watched(received=failed(Truncated("short")), outcome=None)], 4),
    ],
)
def test_watch_once_ends_as_recv_does(messages, code):
    mailbox = FakeMailbox(messages=messages, poll=poll())
    assert invoke(["watch", "--once"], factory=mailbox).exit_code == code


def test_watch_ends_quietly_when_its_reader_goes_away():
    error = LocalIOError("stdout")
    error.__cause__ = BrokenPipeError()
    mailbox = FakeMailbox(messages=[watched(received=received(error=error))], poll=poll())
    result = invoke(["watch", "-q"], factory=mailbox)
    assert (result.exit_code, result.stderr) == (1, "")


def test_watch_refuses_the_network_when_told_to():
    result = invoke(["watch", "--offline", "--repo", "r.example/box"], factory=FakeMailbox())
    assert result.exit_code == 64


def test_trouble_is_told_once_until_it_is_over():
    told = []

    class Telling:
        def tell_poll(self, one):
            told.append(one)

    teller = PollTeller(Telling())
    fine, broken = poll(), poll(complete=False, errors=(("tags", Truncated("x")),))
    for one in (fine, fine, broken, broken, fine, broken):
        teller.tell(one)
    assert told == [fine, broken, fine, broken]


# --- stopping ------------------------------------------------------------------------------------


def test_stop_cuts_a_wait_short():
    stop = SignalStop()
    assert (stop.is_set(), stop.wait(0.001)) == (False, False)
    stop.set()
    assert stop.wait(1_000_000)
    for _ in range(100_000):  # more than any socket holds
        stop.set()
    assert stop.is_set()
    stop.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_first_signal_stops_and_the_second_interrupts(number):
    former = signal.getsignal(number)
    with stopping() as stop:
        signal.raise_signal(number)
        assert stop.wait(60)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is former


def test_no_signal_is_taken_from_another_thread():
    seen = []

    def use():
        with stopping() as stop:
            seen.append(stop.is_set())

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert seen == [False]


def test_descriptor_of_streams(tmp_path):
    with open(tmp_path / "x", "w") as file:
        assert descriptor_of(file) == file.fileno()
    assert descriptor_of(file) is None
    assert descriptor_of(io.StringIO()) is None


def test_signal_lets_the_message_in_hand_be_finished(tmp_path):
    """A real process: SIGTERM comes while the command runs, which ends as if nothing was."""
    environ = {
        **bare(os.environ),
        "HOME": str(tmp_path),
        "LOGNAME": "bob",
        **{f"XDG_{kind}_HOME": str(tmp_path / kind) for kind in ("CONFIG", "DATA", "STATE")},
    }
    program = [sys.executable, "-m", "dockercomms"]
    subprocess.run([*program, "send", "--text", "hi", "--to", "bob", "-q"], env=environ, check=True)
    (tmp_path / "go").touch()
    os.remove(tmp_path / "go")
    os.mkfifo(tmp_path / "go")
    script = tmp_path / "script"
    script.write_text('echo begun; read line <"$1"; echo "$line" >"$2"')
    command = f"sh {script} {tmp_path / 'go'} {tmp_path / 'done'}"
    watch = subprocess.Popen(
        [*program, "watch", "--out", str(tmp_path / "in"), "--exec", command],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert watch.stderr is not None
    while watch.stderr.readline() != "begun\n":
        assert watch.poll() is None
    watch.send_signal(signal.SIGTERM)
    with open(tmp_path / "go", "w") as go:
        go.write("ended\n")
    printed, said = watch.communicate(timeout=60)
    assert watch.returncode == 0, said
    assert json.loads(printed)["told"] == "accepted"
    assert (tmp_path / "done").read_text() == "ended\n"
    assert "stopped; 1 message received" in said

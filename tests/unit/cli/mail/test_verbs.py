"""The mailbox calls, output and exit codes of each verb."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dockercomms.cli.local.completion import _installed
from dockercomms.cli.mail.received import Tally
from dockercomms.errors import (
    DockerCommsError,
    InternalError,
    LocalIOError,
    ManifestUnknown,
    NetworkError,
    NotFoundError,
    Notice,
    ProtocolError,
    Truncated,
    VerificationError,
)
from dockercomms.platforms.clock import Clocks
from dockercomms.transport.layer import gzip_engine
from tests.cli.harness import Input, invoke
from tests.fakes.clock import FakeClock
from tests.fakes.mailbox import (
    DIGEST,
    ID,
    RECEIPT,
    RUN,
    TAG,
    FakeMailbox,
    entry,
    failed,
    poll,
    receipt,
    received,
    sent,
)

HOSTILE = "evil\x1b[2J\u202ename\n"
SHOWN = r"evil\x1b[2J\u202ename\n"


def rows(stdout: str) -> list[list[str]]:
    return [line.split("\t") for line in stdout.splitlines()]


# --- send ----------------------------------------------------------------------------------------


def test_send_asks_for_what_was_typed(tmp_path: Path) -> None:
    mailbox = FakeMailbox(sends=[sent()])
    result = invoke(
        [
            "send", "a.txt", "dir", "--to", "bob", "--from", "carol", "--title", "T", "--text", "hi",
            "--name", "n", "--ttl", "1d", "--compress", "zstd", "--chunk-size", "1M",
            "--concurrency", "2", "--keep-mtime", "--again", "--clock-skew-ok",
            "--exclude", "*.o", "--exclude", "build", "--links", "skip", "--me", "dave",
        ],
        factory=mailbox,
    )  # fmt: skip
    assert result.exit_code == 0
    (paths,), asked = mailbox.asked("send")
    assert paths == (Path("a.txt"), Path("dir"))
    stdin = asked.pop("stdin")
    assert isinstance(stdin, Input)
    assert asked == {
        "to": "bob", "sender": "carol", "title": "T", "text": "hi", "name": "n",
        "ttl_seconds": 86_400, "compress": "zstd", "chunk_bytes": 2**20, "concurrency": 2,
        "keep_mtime": True, "again": True, "dry_run": False, "clock_skew_ok": True,
        "audience": None, "like": None, "exclude": ("*.o", "build"), "links": "skip",
        "run": RUN,
    }  # fmt: skip
    assert mailbox.asked("open")[1]["me"] == ("dave",)
    assert mailbox.closed


def test_send_takes_defaults_from_the_configuration(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[send]\nttl = '1h'\ncompress = 'gzip'\nkeep_mtime = true\n")
    mailbox = FakeMailbox(sends=[sent()])
    environ = {"DOCKERCOMMS_CONFIG": str(config)}
    assert (
        invoke(
            ["send", "x", "--to", "bob", "--compress", "zstd"], factory=mailbox, environ=environ
        ).exit_code
        == 0
    )
    asked = mailbox.asked("send")[1]
    assert (asked["ttl_seconds"], asked["compress"], asked["keep_mtime"]) == (3600, "zstd", True)


def test_send_piped_ends_with_what_the_recipient_types() -> None:
    result = invoke(["send", "x", "--to", "bob"], factory=FakeMailbox(sends=[sent()]))
    lines = result.stdout.splitlines()
    assert lines[0].split("\t") == [ID, DIGEST, "bob", TAG, "1536", "2026-11-27T12:00:00.000Z"]
    assert lines[1:] == ["dockercomms recv 1a2b3c4d --repo r.example/box --me bob"]
    assert (
        result.stderr
        == "Sent message 1a2b3c4d (1.5 KiB) to bob. Available until 27 Nov 2026 12:00 UTC. Not signed.\n"
    )


def test_send_on_a_terminal_prints_the_line_alone() -> None:
    result = invoke(["send", "x", "--to", "bob"], factory=FakeMailbox(sends=[sent()]), tty=True)
    assert result.stdout == "dockercomms recv 1a2b3c4d --repo r.example/box --me bob\n"


def test_send_quotes_what_the_recipient_types() -> None:
    one = sent(repo="oci-layout:/my box", recipient="Bob's\x1b")
    result = invoke(["send", "x", "--to", "b", "--plain-http"], factory=FakeMailbox(sends=[one]))
    line = result.stdout.splitlines()[-1]
    assert (
        line
        == "dockercomms recv 1a2b3c4d --repo 'oci-layout:/my box' --me $'Bob\\x27s\\x1b' --plain-http"
    )


@pytest.mark.parametrize("style", [["--format", "json"], ["--format", "jsonl"], ["--json"]])
def test_send_prints_one_object(style: list[str]) -> None:
    by = SimpleNamespace(kind="key", signer="alice.pub")
    result = invoke(
        ["send", "x", "--to", "bob", *style], factory=FakeMailbox(sends=[sent(signed=by)])
    )
    assert json.loads(result.stdout) == {
        "schema": "dockercomms/send/v1", "id": ID, "digest": DIGEST, "repo": "r.example/box",
        "tag": TAG, "to": "bob", "from": "alice", "bytes": 1536, "chunks": 1, "reused_chunks": 0,
        "sealed": False, "signed": {"kind": "key", "signer": "alice.pub"},
        "expires_at": "2026-11-27T12:00:00.000Z", "sent_before": False,
    }  # fmt: skip
    assert result.stderr.splitlines()[-1].startswith(
        "the recipient runs: dockercomms recv 1a2b3c4d"
    )


def test_send_to_several_prints_an_object_a_line() -> None:
    mailbox = FakeMailbox(sends=[sent(), sent(recipient="carol")])
    result = invoke(["send", "x", "--to", "bob", "--to", "carol", "--json", "-q"], factory=mailbox)
    assert [json.loads(line)["to"] for line in result.stdout.splitlines()] == ["bob", "carol"]
    assert [call[2]["to"] for call in mailbox.calls if call[0] == "send"] == ["bob", "carol"]
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [
        ([ManifestUnknown("a"), sent(recipient="carol")], 7),
        ([NetworkError("a"), NetworkError("b")], 6),
        ([NetworkError("a"), LocalIOError("b")], 7),
    ],
)
def test_send_to_several_goes_on_after_a_failure(outcomes: list[Any], code: int) -> None:
    mailbox = FakeMailbox(sends=list(outcomes))
    result = invoke(["send", "x", "--to", "bob", "--to", "carol"], factory=mailbox)
    assert result.exit_code == code
    assert result.stderr.startswith("error: send: to bob: ")
    assert result.stderr.count("error: ") == sum(
        isinstance(outcome, DockerCommsError) for outcome in outcomes
    )


def test_send_dry_run_says_so_and_names_no_line() -> None:
    mailbox = FakeMailbox(sends=[sent(reused_chunks=1)])
    result = invoke(["send", "x", "--to", "bob", "--dry-run"], factory=mailbox)
    assert mailbox.asked("send")[1]["dry_run"] is True
    assert (
        result.stderr == "Would send message 1a2b3c4d (1.5 KiB) to bob. Available until "
        "27 Nov 2026 12:00 UTC. 1 of 1 chunk already in the repository. Not signed.\n"
    )
    assert len(result.stdout.splitlines()) == 1
    again = FakeMailbox(sends=[sent()])
    assert (
        "the recipient runs"
        not in invoke(["send", "x", "--to", "bob", "--dry-run", "--json"], factory=again).stderr
    )


def test_send_needs_a_path_or_a_text() -> None:
    mailbox = FakeMailbox(sends=[sent()])
    result = invoke(["send", "--to", "bob"], factory=mailbox)
    assert result.exit_code == 64
    assert "--text" in result.stderr
    assert invoke(["send", "--text", "hi", "--to", "bob"], factory=mailbox).exit_code == 0
    assert mailbox.asked("send")[0] == ((),)


def test_send_does_not_take_a_file_for_standard_input(tmp_path: Path) -> None:
    mailbox = FakeMailbox(sends=[sent(), sent()])
    invoke(["send", "-", "--name", "n", "--to", "bob"], factory=mailbox)
    invoke(["send", "./-", "--to", "bob"], factory=mailbox)
    first, second = (call[1][0] for call in mailbox.calls if call[0] == "send")
    assert first == (Path("-"),)
    assert second == (Path("-").absolute(),)


def test_send_refuses_one_stream_for_several(tmp_path: Path) -> None:
    import os

    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for source in ("-", str(fifo)):
        result = invoke(
            ["send", source, "--name", "n", "--to", "a", "--to", "b"], factory=FakeMailbox()
        )
        assert result.exit_code == 64
        assert "read only once" in result.stderr


def test_send_refuses_password_and_content_on_one_stream() -> None:
    result = invoke(
        ["send", "-", "--name", "n", "--to", "a", "--username", "x", "--password-stdin"],
        factory=FakeMailbox(), stdin=b"s3cret\n",
    )  # fmt: skip
    assert result.exit_code == 64
    assert "both a password" in result.stderr


def event(done: int, total: int) -> Any:
    return SimpleNamespace(done_bytes=done, total_bytes=total, chunk=0, reused=False)


def test_send_shows_progress_and_retries_on_standard_error() -> None:
    retry = SimpleNamespace(
        attempt=1, max_attempts=5, error=NetworkError("refused\x1b"), next_retry_in=2.0
    )
    elapsing = SimpleNamespace(
        attempt=2, max_attempts=None, error=NetworkError("x"), next_retry_in=0.5
    )
    events = (event(50, 100), event(100, 100))
    mailbox = FakeMailbox(
        sends=[sent(), sent()], progress_events=events, retry_events=(retry, elapsing)
    )
    result = invoke(["send", "x", "--to", "bob"], factory=mailbox, clock=FakeClock())
    assert result.stderr.splitlines()[:4] == [
        "attempt 1 of 5 failed: refused\\x1b; retrying in 2.0 s",
        "attempt 2 failed: x; retrying in 0.5 s",
        "sending: 50 %, 50 B of 100 B",
        "sending: 100 %, 100 B of 100 B",
    ]
    quiet = invoke(["send", "x", "--to", "bob", "-q"], factory=mailbox)
    assert quiet.stderr == ""


# --- inbox, show ---------------------------------------------------------------------------------


def test_inbox_piped() -> None:
    entries = [
        entry(),
        entry(
            title=None,
            sender=HOSTILE,
            filename=HOSTILE,
            state="held",
            reason="no bundle yet",
            created_at=None,
        ),
    ]
    result = invoke(
        ["inbox", "--all"], factory=(mailbox := FakeMailbox(entries=entries, poll=poll()))
    )
    assert mailbox.asked("inbox")[1] == {"since": None, "all": True}
    assert rows(result.stdout) == [
        [
            ID,
            "new",
            "alice",
            "report.pdf",
            "1536",
            "2026-11-20T12:00:00.000Z",
            "2026-11-27T12:00:00.000Z",
            "The report",
            "",
            "none",
        ],
        [
            ID, "held", SHOWN, SHOWN, "1536", "", "2026-11-27T12:00:00.000Z", "", "no bundle yet",
            "none",
        ],
    ]  # fmt: skip
    assert result.stderr == ""


def test_inbox_as_json_lines() -> None:
    mailbox = FakeMailbox(
        entries=[entry(sender=HOSTILE, signature_status="valid", signer="alice")], poll=poll()
    )
    result = invoke(["inbox", "--format", "jsonl"], factory=mailbox)
    assert json.loads(result.stdout) == {
        "schema": "dockercomms/inbox/v1", "id": ID, "digest": DIGEST, "tag": TAG, "from": HOSTILE,
        "title": "The report", "filename": "report.pdf", "bytes": 1536,
        "created_at": "2026-11-20T12:00:00.000Z", "expires_at": "2026-11-27T12:00:00.000Z",
        "state": "new", "expired": False, "reason": "",
        "signature": {"status": "valid", "signer": "alice"},
        "to": "bob", "thread": ID, "in_reply_to": None, "missing_before": 0,
    }  # fmt: skip
    assert result.raw.isascii()


def test_inbox_on_a_terminal() -> None:
    entries = [
        entry(sender=HOSTILE),
        entry(title=None, state="refused", reason="not a chunk index", expired=True),
    ]
    environ = {"NO_COLOR": "1", "COLUMNS": "160"}
    result = invoke(
        ["inbox"], factory=FakeMailbox(entries=entries, poll=poll()), tty=True, environ=environ
    )
    head, first, second = result.stdout.splitlines()
    assert head.split() == ["ID", "FROM", "WHAT", "SIZE", "SENT", "STATE"]
    assert first.split() == [
        "1a2b3c4d",
        SHOWN,
        "(claimed)",
        "The",
        "report",
        "(report.pdf)",
        "1.5",
        "KiB",
        "2026-11-20",
        "12:00Z",
        "new",
    ]
    assert second.rstrip().endswith("refused, expired: not a chunk index")


def test_inbox_empty() -> None:
    text = invoke(["inbox", "--me", "bob"], factory=FakeMailbox(poll=poll()))
    assert (text.exit_code, text.stdout, text.stderr) == (0, "", "no messages for bob\n")
    assert invoke(["inbox", "--json"], factory=FakeMailbox(poll=poll())).stdout == "[]\n"
    assert invoke(["inbox", "--format", "jsonl"], factory=FakeMailbox(poll=poll())).stdout == ""


def test_inbox_without_a_repository_is_empty() -> None:
    missing = FakeMailbox(poll=poll(repository_missing=True))
    result = invoke(["inbox", "--repo", "r.example/none"], factory=missing)
    assert result.exit_code == 0
    assert result.stderr.startswith("No mailbox at r.example/none yet: the inbox is empty.\n")


def test_inbox_reports_ways_that_failed_and_clocks_that_differ() -> None:
    trouble = poll(
        complete=False,
        errors=(("tags", NetworkError("reset\x1b")),),
        clocks=Clocks(datetime(2026, 11, 20, tzinfo=UTC), datetime(2026, 11, 20, 2, tzinfo=UTC)),
    )
    result = invoke(["inbox"], factory=FakeMailbox(entries=[entry()], poll=trouble))
    assert result.exit_code == 0
    clock, way = result.stderr.splitlines()
    assert clock.startswith("warning: this machine's clock says ")
    assert clock.endswith("choose the right clock with --clock own or --clock registry")
    assert way == "warning: search by tags failed, there may be more messages: reset\\x1b"


def test_inbox_that_saw_nothing_at_all_fails() -> None:
    blind = poll(complete=False, errors=(("tags", NetworkError("reset")),))
    assert invoke(["inbox"], factory=FakeMailbox(poll=blind)).exit_code == 6


def test_show_as_json() -> None:
    result = invoke(
        ["show", "1a2b", "--json"],
        factory=(mailbox := FakeMailbox(entries=[entry(text="hi\nyou")])),
    )
    assert mailbox.asked("show")[0] == ("1a2b",)
    record = json.loads(result.stdout)
    assert (record["schema"], record["text"], record["filename"]) == (
        "dockercomms/show/v1",
        "hi\nyou",
        "report.pdf",
    )


def test_show_piped_and_on_a_terminal() -> None:
    one = entry(
        title=None, text=f"first\n{HOSTILE}", signature_status="valid", signer="alice", digest=None
    )
    piped = invoke(["show", "1a2b"], factory=FakeMailbox(entries=[one]))
    assert rows(piped.stdout) == [
        ["id", ID], ["digest", ""], ["from", "alice"], ["title", ""], ["file", "report.pdf"],
        ["size", "1.5 KiB"], ["sent", "2026-11-20 12:00Z"], ["expires", "2026-11-27 12:00Z"],
        ["state", "new"], ["signature", "valid alice"], ["note", "first"],
        ["note", r"evil\x1b[2J\u202ename"],
    ]  # fmt: skip
    shown = invoke(["show", "1a2b"], factory=FakeMailbox(entries=[one]), tty=True)
    assert "from       alice" in shown.stdout.splitlines()
    assert "\x1b" not in shown.stdout


# --- recv ----------------------------------------------------------------------------------------


def test_recv_asks_for_what_was_typed() -> None:
    mailbox = FakeMailbox(poll=poll())
    result = invoke(
        [
            "recv", "1a2b", "3c4d", "--out", "in", "--max", "3", "--since", "2026-11-01", "--all",
            "--flat", "--overwrite", "--no-receipt", "--complete", "--concurrency", "2",
        ],
        factory=mailbox,
    )  # fmt: skip
    assert result.exit_code == 0
    assert mailbox.asked("receive") == (
        (("1a2b", "3c4d"),),
        {
            "out": Path("in"), "max": 3, "since": datetime(2026, 11, 1, tzinfo=UTC), "all": True,
            "stdout": None, "flat": True, "overwrite": True, "receipt": False, "complete": True,
            "redeliver": False,
            "concurrency": 2,
        },
    )  # fmt: skip


def test_recv_piped() -> None:
    folder = (Path("/in/1a2b3c4d/x/a"), Path("/in/1a2b3c4d/x/b/c"))
    messages = [
        received(),
        received(files=folder, sender=HOSTILE),
        received(status="skipped", files=(), bytes=0, reason="it was delivered before"),
    ]
    result = invoke(["recv"], factory=FakeMailbox(messages=messages, poll=poll()))
    assert result.exit_code == 0
    assert rows(result.stdout) == [
        [ID, "received", "alice", "1536", "/in/1a2b3c4d/report.pdf"],
        [ID, "received", SHOWN, "1536", "/in/1a2b3c4d/x"],
        [ID, "skipped", "alice", "0", ""],
    ]
    assert result.stderr == (
        "message 1a2b3c4d skipped: it was delivered before\n2 received, 1 skipped\n"
    )


def test_recv_as_json_lines_has_absolute_paths_and_the_error() -> None:
    messages = [
        received(files=(Path("in/1a2b3c4d/r"),)),
        failed(Truncated("12 bytes expected, 5 received")),
    ]
    result = invoke(
        ["recv", "--format", "jsonl"], factory=FakeMailbox(messages=messages, poll=poll())
    )
    assert result.exit_code == 7
    good, bad = map(json.loads, result.stdout.splitlines())
    assert good == {
        "schema": "dockercomms/recv/v1", "id": ID, "digest": DIGEST, "status": "received",
        "from": "alice", "signer": None, "files": [str(Path("in/1a2b3c4d/r").absolute())],
        "bytes": 1536, "receipt": RECEIPT, "error": None, "receipt_wait": None,
    }  # fmt: skip
    assert bad["error"] == {
        "exit_code": 4,
        "kind": "Truncated",
        "message": "12 bytes expected, 5 received",
    }


def test_recv_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    messages = [
        received(files=(tmp_path / "1a2b3c4d" / "report.pdf",), sender=HOSTILE),
        received(files=(tmp_path / "1a2b3c4d" / "report.pdf",), signer="alice"),
        failed(VerificationError("no bundle yet")),
        failed(Truncated("short")),
    ]
    environ = {"NO_COLOR": "1"}
    result = invoke(
        ["recv"], factory=FakeMailbox(messages=messages, poll=poll()), tty=True, environ=environ
    )
    assert result.stdout.splitlines() == [
        f"1a2b3c4d from {SHOWN} (claimed): 1a2b3c4d/report.pdf (1.5 KiB)",
        "1a2b3c4d from alice: 1a2b3c4d/report.pdf (1.5 KiB)",
    ]
    assert result.stderr.splitlines()[:3] == [
        "message 1a2b3c4d from alice is held: no bundle yet",
        "hint: do not trust it; ask its sender",
        "error: recv: message 1a2b3c4d from alice: the content does not match its digest or size",
    ]
    assert "2 received, 1 failed; 1 message held. Review" in result.stderr


def test_recv_what_the_policy_holds_back_is_skipped_in_a_poll_and_failed_when_asked_for() -> None:
    def statuses(*arguments: str) -> list[str]:
        mailbox = FakeMailbox(messages=[UNTRUSTED], poll=poll())
        result = invoke(["recv", *arguments, "--format", "jsonl"], factory=mailbox)
        record = json.loads(result.stdout)
        return [record["status"], record["error"]["kind"], str(result.exit_code)]

    assert statuses() == ["skipped", "VerificationError", "0"]
    assert statuses("--strict") == ["skipped", "VerificationError", "2"]
    assert statuses("1a2b") == ["failed", "VerificationError", "2"]


def test_recv_strict_minds_what_was_held_back_and_reported_before() -> None:
    def code(*flags: str) -> tuple[int, str]:
        mailbox = FakeMailbox(messages=[], poll=poll(), held_before=(UNTRUSTED,))
        result = invoke(["recv", *flags], factory=mailbox)
        return result.exit_code, result.stderr

    assert code() == (0, "no new messages for alice\n")
    held = "1 message held. Review with: dockercomms inbox --all\n"
    assert code("--strict") == (2, held)
    assert code("--strict", "--fail-empty") == (2, held)


def test_recv_tells_failures_of_one_kind_once_with_their_number() -> None:
    gone = [failed(NotFoundError(f"tag {n}"), id=f"{n:08x}-1", sender="") for n in range(1, 10)]
    short = failed(Truncated("short"))
    result = invoke(["recv"], factory=FakeMailbox(messages=[*gone, short], poll=poll()))
    assert result.stderr.count("error: ") == 2
    assert (
        "8 more messages failed for the same reason (NotFoundError): 00000002, 00000003,"
        in result.stderr
    )
    assert "00000007" not in result.stderr
    assert len(result.stdout.splitlines()) == 10


def test_recv_tells_of_each_message_that_was_named() -> None:
    gone = [failed(NotFoundError(f"tag {n}"), id=f"{n:08x}-1") for n in range(1, 4)]
    result = invoke(["recv", "a", "b", "c"], factory=FakeMailbox(messages=gone, poll=poll()))
    assert result.stderr.count("error: ") == 3


@pytest.mark.parametrize("verb", ["recv", "inbox"])
def test_verb_says_what_a_run_left_for_the_next_one(verb: str) -> None:
    result = invoke([verb, "--fail-empty"][: 1 + (verb == "recv")], factory=FakeMailbox(
        poll=poll(), waiting=18_000))  # fmt: skip
    assert result.exit_code == 0
    assert "18000 candidate messages not read yet" in result.stderr
    assert "no new messages" not in result.stderr


def test_recv_whose_receipt_has_to_wait_is_received() -> None:
    late = received(receipt=None, error=NetworkError("reset"))
    result = invoke(["recv"], factory=FakeMailbox(messages=[late], poll=poll()))
    assert result.exit_code == 0
    assert (
        "warning: message 1a2b3c4d received; its receipt will be sent later: reset\n"
        in result.stderr
    )


def test_recv_names_a_message_that_could_not_be_read_by_its_digest() -> None:
    bad = failed(Truncated("short"), id="", sender="")
    result = invoke(["recv"], factory=FakeMailbox(messages=[bad], poll=poll()))
    assert result.stderr.startswith("error: recv: message abababab: the content")
    unknown = failed(Truncated("short"), id="", sender="", digest=None)
    result = invoke(["recv"], factory=FakeMailbox(messages=[unknown], poll=poll()))
    assert result.stderr.startswith("error: recv: message ?: the content")


def test_recv_nothing_new() -> None:
    result = invoke(["recv", "--me", "bob"], factory=FakeMailbox(poll=poll()))
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "no new messages for bob\n")


def test_recv_fail_empty_is_12_and_no_error() -> None:
    result = invoke(["recv", "--fail-empty"], factory=FakeMailbox(poll=poll()))
    assert (result.exit_code, result.stderr) == (12, "no new messages for alice\n")


def test_recv_to_standard_output_keeps_it_clean() -> None:
    mailbox = FakeMailbox(messages=[received(files=())], content=b"\x00\xff\x1b", poll=poll())
    result = invoke(["recv", "1a2b", "--stdout"], factory=mailbox)
    assert result.raw == b"\x00\xff\x1b"
    assert result.stderr.splitlines()[0].split("\t")[:2] == [ID, "received"]
    quiet = FakeMailbox(messages=[received(files=())], content=b"x", poll=poll())
    assert (
        json.loads(invoke(["recv", "--stdout", "-q", "--format", "jsonl"], factory=quiet).stderr)[
            "id"
        ]
        == ID
    )


def test_recv_does_not_write_content_to_a_terminal() -> None:
    mailbox = FakeMailbox(messages=[received()], poll=poll())
    result = invoke(
        ["recv", "1a2b", "--stdout"], factory=mailbox, tty=True, environ={"NO_COLOR": "1"}
    )
    assert result.exit_code == 64
    assert "does not write to a terminal" in result.stderr
    assert mailbox.calls == []


def test_recv_keeps_what_was_printed_when_it_is_interrupted() -> None:
    mailbox = FakeMailbox(messages=[received(), KeyboardInterrupt()])
    result = invoke(["recv", "--json"], factory=mailbox)
    assert result.exit_code == 130
    assert [record["status"] for record in json.loads(result.stdout)] == ["received"]


def test_recv_failure_without_a_reason_is_still_a_failure() -> None:
    mailbox = FakeMailbox(messages=[received(status="failed", sender="", files=())], poll=poll())
    result = invoke(["recv"], factory=mailbox)
    assert result.exit_code == 1
    assert "message 1a2b3c4d: " in result.stderr


GOOD, SKIPPED = received(), received(status="skipped", files=())
UNTRUSTED = failed(VerificationError("unknown sender"))
BAD_4, ALSO_4, BAD_5 = (
    failed(Truncated("a")),
    failed(ProtocolError("b")),
    failed(ManifestUnknown("c")),
)
BROKEN = failed(InternalError("d", what="x"))
UNTOLD = received(error=InternalError("e", what="y"))
OTHER_1 = failed(DockerCommsError("f"))
BLIND = poll(complete=False, errors=(("tags", NetworkError("x")),))
HALF_BLIND = poll(complete=True, errors=(("referrers", NetworkError("x")),))


@pytest.mark.parametrize(
    ("messages", "flags", "result", "code"),
    [
        ([], "", poll(), 0),
        ([], "fail_empty", poll(), 12),
        ([SKIPPED], "fail_empty", poll(), 12),
        ([GOOD], "fail_empty strict", poll(), 0),
        ([GOOD, UNTRUSTED], "", poll(), 0),
        ([UNTRUSTED], "", poll(), 0),
        ([UNTRUSTED], "fail_empty", poll(), 12),
        ([UNTRUSTED], "strict", poll(), 2),
        ([GOOD, UNTRUSTED], "strict", poll(), 2),
        ([BAD_4], "", poll(), 4),
        ([BAD_4, ALSO_4], "", poll(), 4),
        ([BAD_4, BAD_5], "", poll(), 7),
        ([GOOD, BAD_4], "", poll(), 7),
        ([SKIPPED, BAD_4], "", poll(), 7),
        ([UNTRUSTED, BAD_4], "strict", poll(), 7),
        ([UNTRUSTED], "asked", poll(), 2),
        ([GOOD, UNTRUSTED], "asked", poll(), 7),
        ([BAD_5], "fail_empty", poll(), 5),
        ([BROKEN], "", poll(), 1),
        ([GOOD, BROKEN, SKIPPED], "", poll(), 1),
        ([GOOD, UNTOLD], "", poll(), 1),
        ([BROKEN, BAD_4], "", poll(), 7),
        ([BROKEN, OTHER_1], "", poll(), 7),
        ([], "", BLIND, 6),
        ([GOOD], "", BLIND, 7),
        ([GOOD], "", HALF_BLIND, 0),
        ([], "", HALF_BLIND, 0),
        ([], "", None, 0),
    ],
)
def test_tally_exit_code(messages: list[Any], flags: str, result: Any, code: int) -> None:
    tally = Tally(asked="asked" in flags)
    for message in messages:
        tally.add(message)
    assert (
        tally.exit_code(result, fail_empty="fail_empty" in flags, strict="strict" in flags) == code
    )


# --- ack, receipts, version ----------------------------------------------------------------------


def test_ack() -> None:
    mailbox = FakeMailbox(entries=[entry()])
    arguments = ["ack", "1a2b", "--status", "rejected", "--reason", "page 3"]
    result = invoke([*arguments, "--json"], factory=mailbox)
    assert mailbox.asked("acknowledge") == ((DIGEST, "rejected"), {"reason": "page 3"})
    assert json.loads(result.stdout) == {
        "schema": "dockercomms/ack/v1", "digest": RECEIPT, "message": DIGEST, "id": ID,
        "status": "rejected", "reason": "page 3",
    }  # fmt: skip
    piped = invoke(arguments, factory=FakeMailbox(entries=[entry()]))
    assert rows(piped.stdout) == [["message", ID], ["status", "rejected"], ["receipt", RECEIPT]]


def test_receipts() -> None:
    held = [receipt(), receipt(status="rejected", reason=HOSTILE, sender="carol", created_at=None)]
    mailbox = FakeMailbox(receipts_held=held)
    piped = invoke(["receipts", "1a2b"], factory=mailbox)
    assert mailbox.asked("receipts")[0] == ("1a2b",)
    assert rows(piped.stdout) == [
        [ID, "bob", "accepted", "2026-11-20T12:00:00.000Z", "", RECEIPT, DIGEST, "none"],
        [ID, "carol", "rejected", "", SHOWN, RECEIPT, DIGEST, "none"],
    ]
    first = invoke(
        ["receipts", "--format", "jsonl"], factory=FakeMailbox(receipts_held=held)
    ).stdout.splitlines()[0]
    assert json.loads(first) == {
        "schema": "dockercomms/receipts/v1", "digest": RECEIPT, "message": DIGEST, "id": ID,
        "from": "bob", "status": "accepted", "claimed_verified": False, "reason": "",
        "created_at": "2026-11-20T12:00:00.000Z", "signature": {"status": "none", "signer": None},
    }  # fmt: skip
    table = invoke(
        ["receipts"], factory=FakeMailbox(receipts_held=held), tty=True, environ={"COLUMNS": "160"}
    )
    assert "accepted" in table.stdout
    assert HOSTILE not in table.stdout


def test_receipts_of_nothing() -> None:
    result = invoke(["receipts"], factory=FakeMailbox())
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "no receipts yet\n")


def test_version_reads_no_configuration(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("=")
    environ = {"DOCKERCOMMS_CONFIG": str(broken)}
    result = invoke(["version", "--json"], environ=environ)
    assert result.exit_code == 0
    record = json.loads(result.stdout)
    assert (record["version"], record["protocol"]) == ("1.1.0", "1.1")
    assert record["packages"]["oras"].startswith("0.2.")
    assert invoke(["version"], environ=environ).stdout.startswith("dockercomms\t1.1.0\n")


def test_version_says_what_is_not_installed() -> None:
    assert _installed("no-such-distribution-of-dockercomms") is None


class Noticing(FakeMailbox):
    def send(self, paths: tuple[Path, ...] = (), **options: Any) -> Any:
        for kind in ("created", "clock-skew", "no-bell"):
            self.options["on_notice"](Notice(kind, f"{kind}!"))  # type: ignore[arg-type]
        return super().send(paths, **options)


def test_notices_are_said_by_their_weight() -> None:
    def said(*flags: str) -> list[str]:
        result = invoke(["send", "x", "--to", "bob", *flags], factory=Noticing(sends=[sent()]))
        return [line for line in result.stderr.splitlines() if line.endswith("!")]

    assert said() == ["created!", "warning: clock-skew!"]
    assert said("-v") == ["created!", "warning: clock-skew!", "no-bell!"]
    assert said("-q") == ["warning: clock-skew!"]


def test_send_says_with_verbose_what_makes_its_gzip() -> None:
    result = invoke(["send", "x", "--to", "bob", "-v"], factory=FakeMailbox(sends=[sent()]))
    assert f"gzip library: {gzip_engine()}\n" in result.stderr


# --- how messages are looked for, and made easy to find ------------------------------------------


@pytest.mark.parametrize(
    ("words", "environ", "discovery", "index"),
    [
        (["inbox", "--discovery", "tags"], {}, "tags", "auto"),
        (["recv", "--discovery", "referrers", "--referrers-index", "never"], {}, "referrers", "never"),
        (["ack", "x", "--status", "accepted", "--referrers-index", "always"], {}, "auto", "always"),
        (["receipts"], {"DOCKERCOMMS_DISCOVERY": "tags", "DOCKERCOMMS_REFERRERS_INDEX": "never"}, "tags", "never"),
    ],
)  # fmt: skip
def test_mailbox_is_opened_as_discovery_is_asked_for(words, environ, discovery, index) -> None:
    mailbox = FakeMailbox(entries=[entry()], poll=poll())
    assert invoke(words, factory=mailbox, environ=environ).exit_code == 0
    opened = mailbox.asked("open")[1]
    assert (opened["discovery"], opened["referrers_index"]) == (discovery, index)

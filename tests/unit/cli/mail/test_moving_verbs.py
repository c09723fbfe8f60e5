"""`export`, `import`, `relay` and `gc`: exit codes, and what is left where something goes wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dockercomms.errors import (
    BlobUnknown,
    Denied,
    InternalError,
    LocalIOError,
    NetworkError,
    ProtocolError,
    Truncated,
    Unsupported,
)
from dockercomms.oci.layout.registry import Swept
from tests.cli.harness import Result, invoke
from tests.fakes.mailbox import FakeMailbox, collected, relayed


def moved(*arguments: str, outcomes: list[Any]) -> tuple[Result, FakeMailbox]:
    mailbox = FakeMailbox(relayed=outcomes)
    return invoke(list(arguments), factory=mailbox), mailbox


RELAY = ("relay", "r.example/a", "q.example/b")


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [
        ([], 0),
        ([relayed()], 0),
        ([relayed(), relayed(status="failed", error=BlobUnknown("lost"))], 7),
        ([relayed(status="failed", error=BlobUnknown("lost"))], 5),
        ([relayed(status="failed", error=ProtocolError("2.0"))], 4),
        (
            [relayed(status="failed", error=ProtocolError("2.0")),
             relayed(status="failed", error=Truncated("short"))],
            4,
        ),
        (
            [relayed(status="failed", error=ProtocolError("2.0")),
             relayed(status="failed", error=BlobUnknown("lost"))],
            7,
        ),
        ([relayed(), NetworkError("cut")], 6),
        ([Denied("no")], 3),
    ],
)  # fmt: skip
def test_exit_codes_of_a_relay(outcomes: list[Any], code: int) -> None:
    result, _ = moved(*RELAY, outcomes=outcomes)

    assert result.exit_code == code


def test_what_could_not_be_carried_is_explained_beside_its_line() -> None:
    failed = relayed(status="failed", error=BlobUnknown("the chunk is lost"))
    result, _ = moved(*RELAY, outcomes=[failed])

    assert result.stdout.split("\t")[2] == "failed"
    assert "error: relay: message 1a2b3c4d: not found" in result.stderr
    assert "why: the chunk is lost" in result.stderr


def test_options_reach_the_relay() -> None:
    _, mailbox = moved(*RELAY, "--to", "bob", "--to", "carol", "--complete", outcomes=[])

    options = mailbox.asked("relay")[1]
    assert (options["to"], options["complete"]) == (("bob", "carol"), True)
    assert options["source"].repo == "r.example/a"
    assert options["target"].repo == "q.example/b"


def test_a_table_is_drawn_for_a_person() -> None:
    mailbox = FakeMailbox(relayed=[relayed(), relayed(kind="receipt", bytes=0)])
    result = invoke([*RELAY, "--quiet"], factory=mailbox, tty=True, environ={"NO_COLOR": "1"})

    head, message, receipt = (line.split() for line in result.stdout.splitlines())
    assert head == ["WHAT", "MESSAGE", "FROM", "TO", "SIZE", "STATUS"]
    assert message == ["message", "1a2b3c4d", "alice", "bob", "5", "B", "relayed"]
    assert receipt == ["receipt", "1a2b3c4d", "alice", "bob", "relayed"]


def test_an_export_without_messages_makes_an_empty_tar(tmp_path: Path) -> None:
    file = tmp_path / "x.tar"
    result, mailbox = moved("export", "-o", str(file), "--to", "bob", "1a2b", outcomes=[])

    assert result.exit_code == 0
    assert file.exists()
    options = mailbox.asked("relay")[1]
    assert (options["to"], options["ids"]) == (("bob",), ("1a2b",))
    assert "0 messages, 0 receipts copied" in result.stderr
    assert "no messages or receipts to copy in r.example/box" in result.stderr


@pytest.mark.parametrize("error", [NetworkError("cut"), KeyboardInterrupt(), LocalIOError("full")])
def test_an_export_that_is_cut_leaves_no_file(tmp_path: Path, error: BaseException) -> None:
    file = tmp_path / "x.tar"
    result, _ = moved("export", "-o", str(file), outcomes=[relayed(), error])

    assert result.exit_code == (130 if isinstance(error, KeyboardInterrupt) else error.exit_code)  # type: ignore[union-attr]
    assert not file.exists()


def test_an_export_of_which_a_message_failed_keeps_the_others(tmp_path: Path) -> None:
    file = tmp_path / "x.tar"
    failed = relayed(status="failed", error=BlobUnknown("lost"))
    result, _ = moved("export", "-o", str(file), outcomes=[relayed(), failed])

    assert result.exit_code == 7
    assert file.exists()


def test_a_relay_into_a_tar_that_is_cut_leaves_no_file(tmp_path: Path) -> None:
    file = tmp_path / "x.tar"
    outcomes = [relayed(), NetworkError("cut")]
    result, _ = moved("relay", "r.example/a", f"oci-archive:{file}", outcomes=outcomes)

    assert result.exit_code == 6
    assert not file.exists()


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [
        ([], 0),
        ([collected()], 0),
        ([collected(), collected(status="failed", error=Denied("locked"))], 7),
        ([collected(status="failed", error=Denied("locked")), Denied("no", hint="do this")], 3),
        ([Unsupported("no", status=405)], 1),
    ],
)
def test_exit_codes_of_gc(outcomes: list[Any], code: int) -> None:
    result = invoke(["gc"], factory=FakeMailbox(collected=outcomes))

    assert result.exit_code == code


BROKEN = InternalError("x: internal error", what="x")
VERBS: list[tuple[tuple[str, ...], dict[str, Any]]] = [
    (("gc",), {"collected": [collected(), collected(status="failed", digest=None, error=BROKEN)]}),
    (RELAY, {"relayed": [relayed(), relayed(status="failed", error=BROKEN)]}),
]


@pytest.mark.parametrize(("words", "outcomes"), VERBS, ids=["gc", "relay"])
def test_a_defect_at_one_object_is_an_error_in_the_run_that_first_meets_it(
    words: tuple[str, ...], outcomes: dict[str, Any]
) -> None:
    first = invoke(list(words), factory=FakeMailbox(**outcomes))
    assert first.exit_code == 1
    assert "internal error: this is a bug in dockercomms" in first.stderr

    later = invoke(list(words), factory=FakeMailbox(**outcomes, known_defects={"x"}))
    assert later.exit_code == 0
    assert "internal error" not in later.stderr
    assert later.stdout == first.stdout


def test_a_defect_beside_another_failure_is_7() -> None:
    outcomes = [relayed(status="failed", error=BROKEN), relayed(status="failed", error=Denied("x"))]
    assert moved(*RELAY, outcomes=outcomes)[0].exit_code == 7


@pytest.mark.parametrize("verb", ["inbox", "receipts", "outbox", "recv"])
def test_listings_end_with_1_where_a_defect_is_met(verb: str) -> None:
    result = invoke([verb], factory=FakeMailbox(defects=[BROKEN]))
    assert result.exit_code == 1
    assert "x: internal error" in result.stderr


def test_gc_says_what_it_did_and_what_a_folder_gave_back() -> None:
    mailbox = FakeMailbox(collected=[collected(), collected(), collected(kind="index")])
    mailbox.swept = Swept(3, 2048)
    result = invoke(["gc", "--dry-run", "--clock-skew-ok"], factory=mailbox)

    assert mailbox.asked("collector")[1] == {"dry_run": True, "clock_skew_ok": True}
    assert "2 messages, 1 referrers list would be removed for bob" in result.stderr
    assert "3 unused blobs would be removed (2.0 KiB)" in result.stderr


def test_gc_draws_a_table_for_a_person() -> None:
    mailbox = FakeMailbox(collected=[collected()])
    result = invoke(["gc", "-q"], factory=mailbox, tty=True, environ={"NO_COLOR": "1"})

    head, row = (line.split() for line in result.stdout.splitlines())
    assert head == ["WHAT", "MESSAGE", "FROM", "EXPIRED", "STATUS"]
    assert row == ["message", "1a2b3c4d", "alice", "2026-11-20", "12:00Z", "removed"]

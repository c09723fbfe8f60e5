"""The calls, output and exit codes of `outbox`, `reply`, `inbox --threads` and `send --wait`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.harness import invoke
from tests.fakes.mailbox import (
    DIGEST,
    ID,
    FakeMailbox,
    entry,
    outbox_entry,
    poll,
    receipt,
    sent,
)

OTHER = "sha256:" + "ef" * 32


def test_outbox_in_a_table_tells_claims_from_proofs():
    mailbox = FakeMailbox(
        outbox_held=[
            outbox_entry(fate="accepted", receipt=receipt(signature_status="valid")),
            outbox_entry(title="", receipt=receipt(status="rejected", reason="torn")),
            outbox_entry(),
        ],
        elsewhere={"r.example/other": 2},
    )
    result = invoke(["outbox"], factory=mailbox, tty=True, environ={"COLUMNS": "120"})
    proven, claimed, silent = result.stdout.splitlines()[1:]
    assert "The report (report.pdf)" in proven
    assert "accepted" in proven
    assert "claimed" not in proven
    assert "no answer yet (rejected claimed)" in claimed
    assert claimed.rstrip().endswith("torn")
    assert silent.rstrip().endswith("no answer yet")
    assert result.stderr == "2 messages sent to another repository: --repo r.example/other\n"


@pytest.mark.parametrize(
    ("only", "fates"), [([], ["silent", "expired"]), (["--only", "expired"], ["expired"])]
)
def test_outbox_of_one_fate(only, fates):
    mailbox = FakeMailbox(outbox_held=[outbox_entry(), outbox_entry(fate="expired")])
    result = invoke(["outbox", *only], factory=mailbox)
    assert [line.split("\t")[1] for line in result.stdout.splitlines()] == fates


def test_outbox_that_is_empty_says_so():
    assert (
        invoke(["outbox"], factory=FakeMailbox()).stderr == "no messages sent from this machine\n"
    )
    only = invoke(["outbox", "--only", "rejected"], factory=FakeMailbox())
    assert only.stderr == "no messages in this state\n"


def test_inbox_by_threads_indents_answers():
    answer = entry(id="2", digest=OTHER, in_reply_to=DIGEST, thread_id=ID, title="Re: The report")
    mailbox = FakeMailbox(entries=[answer, entry()], poll=poll())
    shown = invoke(["inbox", "--threads"], factory=mailbox, tty=True, environ={"COLUMNS": "140"})
    first, second = shown.stdout.splitlines()[1:]
    assert first.index("The report") + 2 == second.index("Re: The report")
    piped = invoke(["inbox", "--threads"], factory=mailbox).stdout.splitlines()
    assert [line.split("\t")[-2:] for line in piped] == [[ID, ""], [ID, DIGEST]]
    assert len(invoke(["inbox"], factory=mailbox).stdout.splitlines()[0].split("\t")) == 10


def test_show_tells_what_a_message_answers():
    mailbox = FakeMailbox(entries=[entry(in_reply_to=OTHER)])
    assert f"answers\t{OTHER}\n" in invoke(["show", "1a2b"], factory=mailbox).stdout


# --- reply ---------------------------------------------------------------------------------------


def test_reply_sends_to_whom_the_message_is_from():
    mailbox = FakeMailbox(entries=[entry(thread_id="t")], sends=[sent(recipient="alice")])
    result = invoke(["reply", "1a2b", "a.txt", "--text", "hi", "--ttl", "1d"], factory=mailbox)
    assert result.exit_code == 0
    (paths,), asked = mailbox.asked("send")
    asked.pop("stdin")
    assert paths == (Path("a.txt"),)
    assert asked == {
        "to": "alice", "sender": "bob", "title": "Re: The report", "text": "hi", "name": None,
        "ttl_seconds": 86_400, "compress": "auto", "chunk_bytes": None, "concurrency": 4,
        "keep_mtime": False, "exclude": (), "links": "keep", "thread_id": "t", "in_reply_to": DIGEST,
    }  # fmt: skip
    assert result.stdout.endswith("--me alice\n")


def test_reply_goes_to_the_address_of_the_sender(tmp_path):
    trust = tmp_path / "trust.toml"
    trust.write_text(
        'version = 1\n[[sender]]\nname = "alice"\nallow_unsigned = true\naddress = "r.example/hers"\n'
    )
    mailbox = FakeMailbox(entries=[entry()], sends=[sent()])
    environ = {"DOCKERCOMMS_TRUST": str(trust)}
    assert invoke(["reply", "1a2b", "--text", "x"], factory=mailbox, environ=environ).exit_code == 0
    opened = [call[1][0] for call in mailbox.calls if call[0] == "open"]
    assert opened == [None, "r.example/hers"]


@pytest.mark.parametrize("words", [["reply", "1a2b"], ["reply", "1a2b", "--text", "x", "--no-verify", "--wrong"]])  # fmt: skip
def test_reply_that_cannot_be_meant_is_refused(words):
    assert invoke(words, factory=FakeMailbox(entries=[entry()])).exit_code == 64


def test_reply_can_wait_for_the_answer():
    mailbox = FakeMailbox(entries=[entry()], sends=[sent()], waits=[{}])
    assert invoke(["reply", "1a2b", "--text", "x", "--wait", "5m"], factory=mailbox).exit_code == 11
    assert mailbox.asked("wait")[1]["seconds"] == pytest.approx(300, abs=5)


# --- send ----------------------------------------------------------------------------------------


def test_send_to_several_gives_the_next_what_was_sent_last():
    first, second = sent(), sent(digest=OTHER)
    mailbox = FakeMailbox(sends=[first, second])
    invoke(["send", "x", "--to", "bob", "--to", "carol", "--to", "bob"], factory=mailbox)
    likes = [call[2]["like"] for call in mailbox.calls if call[0] == "send"]
    assert likes == [None, first]


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        ({DIGEST: ("accepted", "valid"), OTHER: ("accepted", "valid")}, 0),
        ({DIGEST: ("accepted", "valid"), OTHER: ("accepted", "unchecked")}, 0),
        ({DIGEST: ("accepted", "valid")}, 11),
        ({DIGEST: ("rejected", "valid")}, 10),
        ({DIGEST: ("accepted", "valid"), OTHER: ("accepted", "untrusted")}, 11),
        ({DIGEST: ("accepted", "valid"), OTHER: ("rejected", "none")}, 11),
    ],
)
def test_send_that_waits_exits_with_the_worst_answer(answers, code):
    found = {
        digest: receipt(message=digest, status=status, signature_status=proof, reason="because")
        for digest, (status, proof) in answers.items()
    }
    mailbox = FakeMailbox(sends=[sent(), sent(digest=OTHER, recipient="carol")], waits=[found])
    result = invoke(["send", "x", "--to", "bob", "--to", "carol", "--wait", "60"], factory=mailbox)
    assert result.exit_code == code
    assert "waiting up to 60 s for 2 receipts" in result.stderr
    assert len(mailbox.asked("wait")[0][0]) == 2
    if code == 0:
        assert "message 1a2b3c4d to carol: accepted: because" in result.stderr


def test_send_that_waits_says_why_it_was_rejected_and_how_to_prove_a_claim():
    found = {
        DIGEST: receipt(status="rejected", signature_status="valid", reason="page 3 is torn"),
        OTHER: receipt(message=OTHER, signature_status="untrusted"),
    }
    mailbox = FakeMailbox(sends=[sent(), sent(digest=OTHER, recipient="carol")], waits=[found])
    result = invoke(["send", "x", "--to", "bob", "--to", "carol", "--wait", "60"], factory=mailbox)
    assert "the recipient rejected the message\nwhy: page 3 is torn" in result.stderr
    assert "hint: trust the recipient's key: dockercomms trust add carol KEY.pub" in result.stderr


def test_send_that_failed_for_one_waits_for_the_others_and_keeps_its_code():
    from dockercomms.errors import LimitError

    answered = {DIGEST: receipt(signature_status="valid")}
    mailbox = FakeMailbox(sends=[LimitError("too large"), sent()], waits=[answered])
    result = invoke(["send", "x", "--to", "bob", "--to", "carol", "--wait", "60"], factory=mailbox)
    assert result.exit_code == 7
    assert mailbox.asked("open")[1]["trust"].accept_new is False


def test_dry_run_waits_for_nothing():
    mailbox = FakeMailbox(sends=[sent()])
    words = ["send", "x", "--to", "bob", "--dry-run", "--wait", "60"]
    assert invoke(words, factory=mailbox).exit_code == 0
    assert not [call for call in mailbox.calls if call[0] == "wait"]

"""Registries that refuse, lie, break off or say nothing: told by class, and nothing is lost."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes.registry import DISTRIBUTION, OCI, FakeRegistry, Fault, Quirks
from tests.fakes.token_server import TokenServer, User
from tests.faults.people import REPOSITORY, Person, lines, messages, receipt_digests, told

DATA = random.Random(5).randbytes(20 * 1024)
"""More than the 16 KiB that may stand in a manifest, so that there is a blob to ask for."""
FOREVER = 10_000
SILENT_SECONDS = 0.1
"""The time that these tests wait for a silent registry."""


@pytest.fixture
def alice(tmp_path: Path, registry: FakeRegistry) -> Person:
    (tmp_path / "a.bin").write_bytes(DATA)
    return Person("alice", tmp_path, f"{registry.host}/{REPOSITORY}", registry.clock)


def fail(
    registry: FakeRegistry, method: str, part: str, fault: Fault, times: int = FOREVER
) -> None:
    """Fail every request of this method whose target holds `part`; "" is any."""
    registry.fail_when(
        lambda asked: method in ("", asked.method) and part in asked.target, fault, times=times
    )


def check_delivered_once(alice: Person, bob: Person, registry: FakeRegistry) -> None:
    """Check that the message arrived, once and whole, that this is known, and nothing is left."""
    bob.received()
    assert bob.received() == []
    assert bob.content() == [DATA]
    assert [entry["state"] for entry in bob.inbox("--all")] == ["delivered"]
    assert [receipt["status"] for receipt in alice.receipts()] == ["accepted"]
    assert len(messages(registry)) == len(receipt_digests(registry)) == 1
    assert [path.name for path in bob.home.rglob("receives/*")] == []


# --- logins ------------------------------------------------------------------------------------

USERS = {"alice": User("wonderland")}
LOGINS = {
    "flag": (("--username", "alice", "--password-stdin"), {"stdin": b"guess\n"}),
    "environment": (
        (),
        {"environ": {"DOCKERCOMMS_USERNAME": "alice", "DOCKERCOMMS_PASSWORD": "guess"}},
    ),
}
VERBS = {
    "send": ("--to", "bob", "--text", "hi"),
    "inbox": (),
    "show": ("1a2b3c4d",),
    "recv": (),
    "ack": ("1a2b3c4d", "--status", "accepted"),
    "receipts": (),
}


WRONG_LOGINS = [*((verb, "flag") for verb in VERBS), ("recv", "environment")]


@pytest.mark.parametrize(("verb", "login"), WRONG_LOGINS)
def test_wrong_password_is_told_after_one_token_request(
    tmp_path: Path, verb: str, login: str
) -> None:
    arguments, options = LOGINS[login]
    with (
        TokenServer(users=USERS) as tokens,
        FakeRegistry(
            Quirks(auth="token"), realm=tokens.realm, check_token=tokens.claims
        ) as registry,
    ):
        alice = Person("alice", tmp_path, f"{registry.host}/{REPOSITORY}")
        result = alice.run(verb, *VERBS[verb], *arguments, **options)
        assert alice.clock.sleeps == []
        assert tokens.count() == 1
        assert registry.count() == 1
    said = told(result, 3, "127.0.0.1", "401", hint=["docker login"])
    assert "guess" not in said


@pytest.mark.parametrize(("verb", "login"), WRONG_LOGINS)
def test_wrong_password_without_tokens_is_told_after_two_requests(
    tmp_path: Path, verb: str, login: str
) -> None:
    arguments, options = LOGINS[login]
    with FakeRegistry(Quirks(auth="basic"), users={"alice": "wonderland"}) as registry:
        alice = Person("alice", tmp_path, f"{registry.host}/{REPOSITORY}")
        result = alice.run(verb, *VERBS[verb], *arguments, **options)
        assert alice.clock.sleeps == []
        assert registry.count() <= 2
    said = told(result, 3, "127.0.0.1", "401", hint=["docker login"])
    assert "guess" not in said


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'{"token": 7}', b'{"token": ""}', b"[1]"])
def test_garbage_from_a_token_server_is_a_protocol_error(tmp_path: Path, body: bytes) -> None:
    with (
        TokenServer(users=USERS) as tokens,
        FakeRegistry(
            Quirks(auth="token"), realm=tokens.realm, check_token=tokens.claims
        ) as registry,
    ):
        tokens.body = body
        alice = Person("alice", tmp_path, f"{registry.host}/{REPOSITORY}")
        arguments, options = "--username alice --password-stdin".split(), {"stdin": b"wonderland"}
        told(alice.run("inbox", *arguments, **options), 4, tokens.host)
        tokens.body = None
        assert alice.run("inbox", *arguments, **options).exit_code == 0


# --- what is not there -------------------------------------------------------------------------


@pytest.mark.parametrize("store", ["registry", "distribution", "folder"])
def test_repository_that_does_not_exist_yet_is_an_empty_inbox(
    alice: Person, tmp_path: Path, registry: FakeRegistry, store: str
) -> None:
    if store == "folder":
        alice.repo = f"oci-layout:{tmp_path / 'box'}"
    if store == "distribution":
        registry.quirks = DISTRIBUTION
    for verb in ("inbox", "recv", "receipts"):
        result = alice.run(verb, "--format", "json")
        assert (result.exit_code, json.loads(result.stdout or "[]")) == (0, []), verb
    for verb, what in (("inbox", "no messages"), ("recv", "no new messages")) * 2:
        result = alice.run(verb, quiet=False)
        assert result.exit_code == 0
        assert result.stderr.splitlines() == [
            f"No mailbox at {alice.repo} yet: the inbox is empty.",
            f"{what} for alice",
        ]
    told(alice.run("show", "1a2b3c4d"), 5, "1a2b3c4d", hint=["inbox --all"])
    told(alice.run("ack", "1a2b3c4d", "--status", "accepted"), 5, "1a2b3c4d")
    told(alice.run("receipts", "1a2b3c4d"), 5, "1a2b3c4d")
    result = alice.run("recv", "1a2b3c4d")
    assert result.exit_code == 5
    assert "1a2b3c4d" in result.stderr
    assert not (tmp_path / "box").exists()
    assert registry.count("POST") == registry.count("PUT") == 0


def test_what_answers_404_to_everything_is_no_empty_inbox(
    alice: Person, registry: FakeRegistry
) -> None:
    fail(registry, "", "", Fault.answer(404, b"<html>nothing here</html>"))
    for verb in ("inbox", "recv", "receipts"):
        result = alice.run(verb, quiet=False)
        told(result, 4, registry.host, "no registry", hint=["--repo"])
        assert "no new messages" not in result.stderr


@pytest.mark.parametrize("body", [b"null", b'{"schemaVersion": NaN}', b"{}", b""])
def test_receipt_that_comes_as_something_else_once_is_reported_and_read_again(
    alice: Person, bob: Person, registry: FakeRegistry, body: bytes
) -> None:
    registry.quirks = replace(OCI, digest_header=False)
    alice.send_ok("a.bin")
    bob.received("--no-verify")
    fail(registry, "GET", "/manifests/receipts-", Fault.answer(200, body), times=1)
    lied = alice.run("receipts", "--format", "jsonl", quiet=False)
    assert lied.exit_code == 0, lied.stderr
    assert "no receipt that can be read" in lied.stderr
    # Its other tag leads to it all the same.
    assert [one["status"] for one in lines(lied)] == ["accepted"]
    assert [receipt["status"] for receipt in alice.receipts()] == ["accepted"]


def test_empty_repository_is_no_missing_one(
    alice: Person, bob: Person, registry: FakeRegistry
) -> None:
    registry.quirks = DISTRIBUTION
    registry.repository(REPOSITORY)
    assert bob.run("inbox", quiet=False).stderr == "no messages for bob\n"


# --- answers that are errors -------------------------------------------------------------------

BAD_STATUSES = {
    500: 6,
    502: 6,
    503: 6,
    504: 6,
    429: 9,
    401: 3,
    403: 3,
    418: 1,
}


REFUSALS = [
    *((verb, status) for verb in ("send", "recv") for status in BAD_STATUSES),
    *((verb, status) for verb in VERBS if verb not in ("send", "recv") for status in (401, 500)),
]


@pytest.mark.parametrize(("verb", "status"), REFUSALS)
def test_registry_that_only_refuses(
    alice: Person, bob: Person, registry: FakeRegistry, verb: str, status: int
) -> None:
    sent = alice.send_ok("a.bin")
    fail(registry, "", "", Fault.answer(status, b"<html>out of order</html>"))
    arguments = [sent["id"][:8] if word == "1a2b3c4d" else word for word in VERBS[verb]]
    result = bob.run(verb, *arguments)
    assert f": {status}" in told(result, BAD_STATUSES[status], registry.host)
    registry.faults.clear()
    check_delivered_once(alice, bob, registry)


@pytest.mark.parametrize("verb", ["send", "recv"])
def test_one_500_is_tried_again(
    alice: Person, bob: Person, registry: FakeRegistry, verb: str
) -> None:
    # A list of referrers is asked for once more only, so it does not count here.
    asked = ("POST", "/v2/") if verb == "send" else ("GET", "/manifests/")
    fail(registry, *asked, Fault.answer(500), times=3)
    alice.send_ok("a.bin")
    check_delivered_once(alice, bob, registry)
    assert registry.faults.pending == 0
    assert 3 <= len(registry.clock.sleeps) <= 4


def test_503_is_waited_for_as_long_as_it_says(
    alice: Person, bob: Person, registry: FakeRegistry
) -> None:
    fail(registry, "PUT", "/manifests/", Fault.unavailable(7), times=1)
    alice.send_ok("a.bin")
    assert registry.clock.sleeps == [7.0]
    registry.clock.sleeps.clear()
    fail(registry, "GET", "/blobs/", Fault.unavailable(11), times=1)
    check_delivered_once(alice, bob, registry)
    assert registry.clock.sleeps == [11.0]


@pytest.mark.parametrize("status", [503, 429])
def test_waiting_longer_than_a_minute_is_left_to_the_user(
    alice: Person, bob: Person, registry: FakeRegistry, status: int
) -> None:
    alice.send_ok("a.bin")
    fail(registry, "", "", Fault.answer(status, Retry_After="600"))
    told(bob.recv(), BAD_STATUSES[status], registry.host, str(status), hint=["600 s"])
    assert registry.clock.sleeps == []
    registry.faults.clear()
    check_delivered_once(alice, bob, registry)


# --- answers that are wrong --------------------------------------------------------------------


def test_message_that_comes_as_garbage_is_held_and_arrives_when_it_is_right(
    alice: Person, bob: Person, registry: FakeRegistry
) -> None:
    """The tag has its digest: the message is known, though not one answer can be read."""
    sent = alice.send_ok("a.bin")
    fail(registry, "GET", "", Fault.garbage())
    listed = bob.run("inbox", "--format", "jsonl")
    (entry,) = lines(listed)
    assert (entry["state"], entry["digest"]) == ("held", sent["digest"])
    assert f"search by tags failed, there may be more messages: http://{registry.host}" in (
        listed.stderr
    )
    received = bob.recv()
    assert received.exit_code == 4
    (record,) = lines(received)
    assert (record["status"], record["digest"]) == ("failed", sent["digest"])
    assert f"{sent['digest']} expected" in record["error"]["message"]
    registry.faults.clear()
    check_delivered_once(alice, bob, registry)


@pytest.mark.parametrize("verb", ["show", "ack", "receipts"])
def test_garbage_json_is_a_protocol_error(
    alice: Person, bob: Person, registry: FakeRegistry, verb: str
) -> None:
    sent = alice.send_ok("a.bin")
    bob.received("--no-receipt") if verb == "receipts" else None
    fail(registry, "GET", "", Fault.garbage())
    reader = alice if verb == "receipts" else bob
    arguments = [sent["id"][:8] if word == "1a2b3c4d" else word for word in VERBS[verb]]
    told(reader.run(verb, *arguments), 4, registry.host)
    registry.faults.clear()
    if verb != "receipts":
        check_delivered_once(alice, bob, registry)


def test_garbage_in_one_way_does_not_hide_what_the_others_find(
    alice: Person, bob: Person, registry: FakeRegistry
) -> None:
    alice.send_ok("a.bin")
    fail(registry, "GET", "/tags/list", Fault.garbage())
    result = bob.recv()
    assert "search by tags failed" in result.stderr
    assert [got["status"] for got in lines(result)] == ["received"]
    registry.faults.clear()
    check_delivered_once(alice, bob, registry)


WRONG = {
    "other bytes": (Fault.wrong_body(), 4),
    "garbage": (Fault.garbage(), 4),
    "longer": (Fault.longer(), 4),
    "much longer": (Fault.longer(5 * 2**20), 4),
    "shorter": (Fault.shorter(), 4),
    "another digest announced": (Fault.wrong_digest(), 4),
    "cut": (Fault.cut_body(), 6),
    "cut at once": (Fault.cut_body(0), 6),
    "closed": (Fault.drop_before(), 6),
    "silent": (Fault.silent(), 6),
}


@pytest.mark.parametrize("how", WRONG)
@pytest.mark.parametrize("what", ["/blobs/", "/manifests/"])
def test_wrong_content_is_not_delivered_and_arrives_when_it_is_right(
    alice: Person, bob: Person, registry: FakeRegistry, what: str, how: str
) -> None:
    fault, code = WRONG[how]
    alice.send_ok("a.bin")
    bob.timeout = SILENT_SECONDS
    fail(registry, "GET", what, fault)
    result = bob.recv()
    assert result.exit_code == code, result.stderr
    (record,) = lines(result)
    assert (record["status"], record["error"]["exit_code"]) == ("failed", code)
    assert what in record["error"]["message"] or "sha256:" in record["error"]["message"]
    assert bob.content() == []
    assert [entry["state"] for entry in bob.inbox()] == (["held"] if code == 4 else ["new"])
    registry.faults.clear()
    bob.timeout = None
    check_delivered_once(alice, bob, registry)


ONCE = [
    *((what, how) for what in ("/blobs/", "/manifests/") for how in WRONG),
    *((what, how) for what in ("/tags/list", "/referrers/") for how in ("garbage", "cut")),
]


@pytest.mark.parametrize(("what", "how"), ONCE)
def test_wrong_content_once_costs_nothing(
    alice: Person, bob: Person, registry: FakeRegistry, what: str, how: str
) -> None:
    fault, _ = WRONG[how]
    alice.send_ok("a.bin")
    bob.timeout = SILENT_SECONDS
    fail(registry, "GET", what, fault, times=1)
    bob.recv()
    assert registry.faults.pending == 0
    bob.timeout = None
    check_delivered_once(alice, bob, registry)


def test_bytes_behind_the_end_of_an_answer_are_no_part_of_it(
    alice: Person, bob: Person, registry: FakeRegistry
) -> None:
    alice.send_ok("a.bin")
    fail(registry, "GET", "", Fault.overrun(100))
    check_delivered_once(alice, bob, registry)


def test_wrong_answer_about_the_bell_leaves_no_trace(
    alice: Person, bob: Person, registry: FakeRegistry
) -> None:
    alice.send_ok("a.bin")
    fail(registry, "HEAD", "/manifests/inbox-", Fault.wrong_digest(), times=1)
    assert len(bob.inbox("--all")) == 1
    assert registry.faults.pending == 0
    check_delivered_once(alice, bob, registry)


# --- answers that do not come ------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
def test_registry_that_never_answers(
    alice: Person, bob: Person, registry: FakeRegistry, verb: str
) -> None:
    sent = alice.send_ok("a.bin")
    fail(registry, "", "", Fault.silent())
    bob.timeout = SILENT_SECONDS
    arguments = [sent["id"][:8] if word == "1a2b3c4d" else word for word in VERBS[verb]]
    result = bob.run(verb, *arguments, "--timeout", "7s")
    told(result, 6, registry.host, "no answer in time", hint=["network"])
    assert bob.timeouts == [7.0]
    registry.faults.clear()
    bob.timeout = None
    check_delivered_once(alice, bob, registry)


UNANSWERED = [("POST", "/blobs/uploads/"), ("PUT", "/blobs/"), ("PUT", "/manifests/"), ("HEAD", "")]


@pytest.mark.parametrize("asked", UNANSWERED)
@pytest.mark.parametrize("fault", [Fault.silent(), Fault.silent_after()], ids=["before", "after"])
def test_send_that_gets_no_answer_is_continued(
    alice: Person, bob: Person, registry: FakeRegistry, asked: tuple[str, str], fault: Fault
) -> None:
    alice.timeout = SILENT_SECONDS
    fail(registry, *asked, fault)
    result = alice.send("a.bin")
    if asked == ("PUT", "/blobs/") and fault.kind == "silent-after":
        assert result.exit_code == 0  # the blob was looked for, and found
    else:
        told(result, 6, registry.host, "no answer in time", hint=["network"])
    registry.faults.clear()
    alice.timeout = None
    if result.exit_code:
        alice.send_ok("a.bin")
    check_delivered_once(alice, bob, registry)


def test_timeout_is_a_minute_unless_said(alice: Person, bob: Person) -> None:
    bob.inbox()
    bob.inbox("--timeout", "2m")
    assert bob.timeouts == [60.0, 120.0]

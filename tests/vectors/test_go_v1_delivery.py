"""Messages of the 1.0 program, and every deviation from them, received completely."""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta

import pytest

from dockercomms.errors import ProtocolError
from dockercomms.mailbox import Mailbox
from dockercomms.oci.memory import MemoryRegistry
from dockercomms.oci.stores import Store
from dockercomms.protocol.fields import parse_time
from dockercomms.transport.names import safe_filename
from dockercomms.trust.owner import TrustOptions
from dockercomms.trust.policy import InboxRule, Policy
from tests.fakes.clock import FakeClock
from tests.fakes.mail import files_below
from tests.vectors import go_v1

DEVIATIONS = go_v1.deviations()
OUTPUTS = go_v1.outputs()
MESSAGES = [output for output in OUTPUTS if output.payload_sha256]
GOOD = "the good message behind it"
REPO = "registry.example/mail"
LETS_1_0_IN = Policy(inboxes=(InboxRule(repository=REPO, accept_unsigned=True),))
"""1.0 senders sign nothing that we would take; in this inbox their word is enough, as a claim."""


def named(cases):
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


class Place:
    """A registry with one case in it, and mailboxes over it at the case's time."""

    def __init__(self, folder, case, now) -> None:
        self.folder = folder
        self.clock = FakeClock(now)
        self.registry = MemoryRegistry(clock=self.clock)
        go_v1.put(case, self.registry)

    def mailbox(self, me: str) -> Mailbox:
        return Mailbox(
            me=me,
            state_path=self.folder / "state" / "state.db",
            clock=self.clock,
            store=Store(self.registry, "mail", REPO),
            trust=TrustOptions(policy=LETS_1_0_IN),
        )

    def receive(self, me: str):
        with self.mailbox(me) as mailbox:
            return list(mailbox.receive(out=self.folder / "out"))

    def state_of(self, me: str, digest: str) -> str:
        with self.mailbox(me) as mailbox:
            states = [entry.state for entry in mailbox.inbox(all=True) if entry.digest == digest]
        return states[0] if states else "absent"


@named(DEVIATIONS)
def test_deviation_ends_as_expected_and_stops_nothing(case, tmp_path):
    place = Place(tmp_path, case, case.now)
    with place.mailbox("alice") as alice:
        good = alice.send(to="bob", text=GOOD)

    results = {result.digest: result for result in place.receive("bob")}

    assert results[good.digest].status == "received"
    assert results[good.digest].files[0].read_text() == GOOD
    got = results.get(case.manifest_digest)
    if case.expect in ("deliver", "deliver-renamed"):
        check_delivered(case, got)
    else:
        assert got is None or (got.status == "failed" and got.files == ())
        assert len(files_below(tmp_path / "out")) == 1
        expected = {"refuse": "refused", "hold": "held"}
        state = place.state_of("bob", case.manifest_digest)
        assert state == expected.get(case.expect, state)
        assert state not in ("new", "delivered")
    # whatever it was, it is reported once and delivered once
    place.clock.advance(1)
    assert place.receive("bob") == []


def check_delivered(case, got) -> None:
    assert got.status == "received"
    (path,) = got.files
    header = json.loads(case.manifest)["annotations"]
    name = header.get("dockercomms.filename", "")
    assert path.name == safe_filename(name)
    assert (path.name == name) == (case.expect == "deliver")
    if case.go["delivered"]:
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        assert content.startswith(case.go["delivered"][0]["sha256_12"])


@named(MESSAGES)
def test_message_of_the_1_0_program_is_delivered(case, tmp_path):
    header = json.loads(case.manifest)["annotations"]
    now = parse_time(header["dockercomms.created_at"]) + timedelta(hours=1)
    place = Place(tmp_path, case, now)

    (got,) = place.receive(header["dockercomms.recipient"])

    assert (got.status, got.digest, got.bytes) == (
        "received",
        case.manifest_digest,
        case.payload_size,
    )
    assert hashlib.sha256(got.files[0].read_bytes()).hexdigest() == case.payload_sha256
    assert got.files[0].name == safe_filename(case.filename)
    assert got.receipt is not None


@named([case for case in OUTPUTS if "receipt" in case.name])
def test_receipt_of_the_1_0_program_is_listed(case, tmp_path):
    header = json.loads(case.manifest)["annotations"]
    place = Place(tmp_path, case, parse_time(header["dockercomms.created_at"]))
    message = header["dockercomms.receipt.for"]

    with place.mailbox(header["dockercomms.sender"]) as mailbox:
        (entry,) = mailbox.receipts(message)

    assert entry.digest == case.manifest_digest
    assert (entry.message, entry.sender) == (message, header["dockercomms.recipient"])
    assert entry.status == header["dockercomms.receipt.status"]
    assert entry.claimed_verified == (header["dockercomms.receipt.verified"] == "true")


def test_message_of_the_1_0_program_expires(tmp_path):
    case = MESSAGES[0]
    header = json.loads(case.manifest)["annotations"]
    created = parse_time(header["dockercomms.created_at"])
    place = Place(tmp_path, case, created + timedelta(days=7, seconds=1))

    assert place.receive(header["dockercomms.recipient"]) == []
    with place.mailbox(header["dockercomms.recipient"]) as mailbox:
        (entry,) = mailbox.inbox(all=True)
    assert entry.expired


def test_refusals_say_what_is_wrong(tmp_path):
    case = next(case for case in DEVIATIONS if case.name == "dup json keys")
    place = Place(tmp_path, case, case.now)

    (got,) = place.receive("bob")

    assert isinstance(got.error, ProtocolError)
    assert "duplicate" in str(got.error)

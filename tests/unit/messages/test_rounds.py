from __future__ import annotations

import threading
from collections import defaultdict

import pytest

from dockercomms.errors import (
    Denied,
    IntegrityError,
    NetworkError,
    NotFoundError,
    ProtocolError,
    Unsigned,
    UsageError,
)
from dockercomms.messages import receive as receiving
from dockercomms.messages import send as sending
from dockercomms.messages.deliver import ReceiveOptions
from dockercomms.messages.receive import WITHDRAWN, Box, Round
from dockercomms.messages.verify import UNCHECKED
from dockercomms.oci.interface import read_all
from dockercomms.oci.memory import MemoryRegistry
from dockercomms.oci.model import EMPTY_CONFIG, MAX_MANIFEST_BYTES, MEDIA_TYPE_MANIFEST
from dockercomms.oci.tag_schema import tag_schema_entries
from dockercomms.protocol.manifest import parse_receipt
from dockercomms.protocol.tags import recipient_tag
from dockercomms.state import State
from dockercomms.trust.owner import TrustOptions
from dockercomms.trust.policy import Policy
from tests.fakes.mail import ALICE, BOB, REPOSITORY, Mail, files_below, open_mail, three
from tests.fakes.people import ALICE_SIGNS, KNOWS_ALICE
from tests.fakes.watched import WatchedRegistry

WAIT_SECONDS = 120.0


@pytest.fixture
def mail(tmp_path):
    yield from open_mail(tmp_path)


def test_mailbox_receives_the_oldest_first_and_no_more_than_max(mail):
    sent = three(mail)

    first = mail.receive(max=2)
    rest = mail.receive()

    assert [item.id for item in first] == [item.id for item in sent[:2]]
    assert [item.id for item in rest] == [sent[2].id]


def test_mailbox_refuses_a_max_of_nothing(mail):
    with pytest.raises(UsageError, match="max"):
        mail.receive(max=0)


def test_mailbox_receives_only_what_is_named(mail):
    sent = three(mail)

    got = mail.receive(ids=[sent[1].id[:8], "ffffffff", sent[0].digest])

    assert [(item.id, item.status) for item in got] == [
        (sent[1].id, "received"),
        ("ffffffff", "failed"),
        (sent[0].id, "received"),
    ]
    assert isinstance(got[1].error, NotFoundError)


def test_mailbox_receives_everything_again_with_all(mail):
    three(mail)
    mail.receive()

    again = mail.receive(all=True)

    assert [item.status for item in again] == ["received"] * 3
    assert len(files_below(mail.out)) == 6


def blobs_of(mail: Mail):
    return mail.reader._repositories[REPOSITORY].blobs


def damage_newest(mail: Mail):
    digest = [digest for digest in blobs_of(mail) if digest != EMPTY_CONFIG.digest][-1]
    kept, blobs_of(mail)[digest] = blobs_of(mail)[digest], b"damaged"
    return lambda: blobs_of(mail).__setitem__(digest, kept)


def test_mailbox_one_bad_message_never_stops_another(mail):
    one = mail.send(mail.large_file(1))
    mail.clock.advance(1)
    two = mail.send(mail.large_file(2))
    damage_newest(mail)
    mail.clock.advance(1)
    three = mail.send(mail.large_file(3))

    got = mail.receive()

    assert {item.id: item.status for item in got} == {
        one.id: "received",
        two.id: "failed",
        three.id: "received",
    }
    (bad,) = [item for item in got if item.status == "failed"]
    assert isinstance(bad.error, IntegrityError)


def test_mailbox_reports_a_held_message_once_and_delivers_it_when_cured(mail):
    sent = mail.send(mail.large_file())
    cure = damage_newest(mail)
    assert [item.status for item in mail.receive()] == ["failed"]

    assert mail.receive() == []  # tried again, and nothing new to say
    assert [item.status for item in mail.receive(ids=[sent.id])] == ["failed"]
    cure()
    assert [item.status for item in mail.receive()] == ["received"]


def test_mailbox_skips_a_withdrawn_message_once_and_delivers_it_when_it_is_there_again(mail):
    sent = mail.send()
    manifests = mail.reader._repositories[REPOSITORY].manifests
    kept = manifests.pop(sent.digest)

    (skipped,) = mail.receive()

    assert (skipped.status, skipped.reason, skipped.error) == ("skipped", WITHDRAWN, None)
    assert mail.receive() == []
    (asked,) = mail.receive(ids=[sent.digest])
    assert asked.status == "failed"
    assert isinstance(asked.error, NotFoundError)
    manifests[sent.digest] = kept
    assert [item.id for item in mail.receive()] == [sent.id]


def test_mailbox_reports_a_refused_message_once(mail):
    sent = mail.send()
    data = b'{"schemaVersion":2}'
    mail.reader.push_manifest(
        REPOSITORY, data, "application/vnd.oci.image.manifest.v1+json", tags=(sent.tag + "x",)
    )

    got = mail.receive()

    assert sorted(item.status for item in got) == ["failed", "received"]
    assert mail.receive() == []
    again = [item for item in mail.receive(all=True) if item.status == "failed"]
    assert [type(item.error) for item in again] == [ProtocolError]


def test_mailbox_gives_up_when_the_registry_is_gone(mail):
    for number in range(8):
        mail.send(mail.large_file(number))

    gone = set()

    def before(name, said):
        if name == "get_blob":
            gone.add("resolve_tag")  # what is asked after three in a row
        if name in {"get_blob", *gone}:
            raise NetworkError("cut")

    mail.registry.before = before

    got = mail.receive()

    assert [item.status for item in got] == ["failed"] * 3
    mail.registry.before = None
    assert len(mail.receive()) == 8


def test_mailbox_gives_up_after_nine_where_only_messages_fail(mail):
    sent = {mail.send(mail.large_file(number)).id for number in range(11)}

    def before(name, said):
        if name == "get_blob":
            raise NetworkError("cut")

    mail.registry.before = before
    tried = {item.id for item in mail.receive()}
    assert len(tried) == 9
    # those that were not tried come first now
    assert {item.id for item in mail.receive()[:2]} == sent - tried


def test_mailbox_network_errors_are_reported_every_time(mail):
    mail.send(mail.large_file())

    def before(name, said):
        if name == "get_blob":
            raise NetworkError("cut")

    mail.registry.before = before

    assert [len(mail.receive()) for _ in range(3)] == [1, 1, 1]


def round_of(mail, box, *, receipt):
    return Round(
        boxes=[box],
        registry=mail.registry,
        repository=REPOSITORY,
        state=mail.bob,
        clock=mail.clock,
        options=ReceiveOptions(out=mail.out, receipt=receipt),
    )


def limited(mail, most):
    """Return a round over Bob's inbox that may fetch so many manifests."""
    return round_of(mail, Box(mail.inbox(max_fetched=most)), receipt=False)


def spam(mail, count):
    """Add tags of Bob's inbox that lead to a manifest that is none of theirs."""
    digest = mail.send(to="somebody").digest
    data, _ = read_all(mail.reader.get_manifest(REPOSITORY, digest), MAX_MANIFEST_BYTES)
    rt = recipient_tag(BOB)
    tags = tuple(f"inbox-{rt}-20261101-{number:08x}-{number:016x}" for number in range(count))
    mail.reader.push_manifest(REPOSITORY, data, MEDIA_TYPE_MANIFEST, tags=tags)


def test_round_fetches_no_more_manifests_than_a_run_may(mail):
    spam(mail, 50)
    fetched = []
    mail.registry.before = lambda name, said: (
        fetched.append(name) if name in {"get_manifest", "get_tag"} else None
    )
    round_ = limited(mail, 8)
    seen = 0
    for run in range(1, 12):
        fetched.clear()
        seen += len(list(round_.receive()))
        assert len(fetched) <= 8, run
        assert round_.boxes[0].inbox.waiting == max(0, 50 - 8 * run)
    assert seen == 50


def test_round_delivers_what_referrers_list_in_the_run_that_finds_it(mail):
    spam(mail, 50)
    sent = mail.send()
    got = [item.id for item in limited(mail, 8).receive() if item.status == "received"]
    assert got == [sent.id]


def test_round_delivers_in_turn_what_only_a_tag_shows(mail):
    spam(mail, 50)
    sent = mail.send()
    mail.reader.referrers = lambda *_args, **_named: iter(())
    found = []
    for run in range(1, 8):
        found += [run for item in limited(mail, 8).receive() if item.status == "received"]
    assert found == [7]
    assert sent.id


def test_round_that_delivers_one_fetches_what_an_earlier_run_read(mail):
    """Messages that were read and not delivered get a share of the fetches beside new ones."""
    sent = three(mail)
    assert [item.id for item in limited(mail, 8).receive(max=1)] == [sent[0].id]
    spam(mail, 50)
    got = [item.id for item in limited(mail, 8).receive() if item.status == "received"]
    assert got == [item.id for item in sent[1:]]


def test_round_reports_once_what_the_policy_withholds(mail):
    sent = mail.send()
    trust = TrustOptions(policy=Policy())

    first = mail.receive(mailbox={"trust": trust})
    with mail.mailbox(trust=trust) as box:
        again = list(box.receive(out=mail.out))
        told = box.held_before

    assert [type(item.error) for item in first] == [Unsigned]
    assert again == []
    assert [type(item.error) for item in told] == [Unsigned]
    asked = mail.receive(mailbox={"trust": trust}, ids=[sent.id])
    assert [type(item.error) for item in asked] == [Unsigned]


def test_mailbox_publishes_receipts_that_had_to_wait(mail):
    sent = mail.send()

    def before(name, said):
        if name == "push_manifest":
            raise NetworkError("cut")

    mail.registry.before = before
    (got,) = mail.receive()
    assert (got.status, got.receipt) == ("received", None)

    mail.receive()
    assert [notice.kind for notice in mail.notices] == ["receipt-waits"]
    mail.registry.before = None
    assert mail.receive(receipt=False) == []
    assert not [tag for tag in mail.tags() if tag.startswith("receipt-")]
    assert mail.receive() == []

    with mail.mailbox(ALICE) as alice:
        (receipt,) = alice.receipts(sent.id)
    assert receipt.status == "accepted"


def test_mailbox_does_not_ask_a_read_only_registry_again_and_again(mail):
    mail.send()

    def before(name, said):
        if name == "push_manifest":
            raise Denied("read only", status=403)

    mail.registry.before = before
    mail.receive()
    mail.receive()  # one denial may be a fault of the way
    mail.registry.calls.clear()

    mail.receive()

    assert mail.registry.writes() == []


# --- beside one another --------------------------------------------------------------------------


class NotingVerifier:
    """Accepts every message, and notes the order and whether another thread asked."""

    def __init__(self):
        self.ahead = {}
        self.asked = defaultdict(threading.Event)

    def verify(self, message):
        ahead = threading.current_thread() is not threading.main_thread()
        assert message.digest not in self.ahead
        self.ahead[message.digest] = ahead
        self.asked[message.digest].set()
        return UNCHECKED


def verified_by(mail, verifier, *, receipt=True, **options):
    """Receive a round of Bob's inbox whose messages `verifier` verifies."""
    return list(round_of(mail, Box(mail.inbox(), verifier), receipt=receipt).receive(**options))


def test_the_next_message_is_examined_while_a_receipt_is_published(mail):
    one, two, last = three(mail)
    after = {one.digest: two.digest, two.digest: last.digest}
    verifier, met = NotingVerifier(), []

    def before(name, said):
        if name != "push_manifest" or not said[-1][0].startswith("receipt-"):
            return
        subject = parse_receipt(said[1]).subject.digest
        if subject in after:
            met.append(verifier.asked[after.pop(subject)].wait(WAIT_SECONDS))

    mail.registry.before = before

    assert [item.id for item in verified_by(mail, verifier)] == [one.id, two.id, last.id]
    assert met == [True, True]


def test_what_is_examined_beside_others_is_delivered_once_in_its_order(mail):
    sent, verifier = three(mail), NotingVerifier()

    got = verified_by(mail, verifier)

    assert [(item.id, item.status) for item in got] == [(one.id, "received") for one in sent]
    assert len({item.receipt for item in got}) == 3
    assert list(verifier.ahead.items()) == list(
        zip((one.digest for one in sent), (False, True, True), strict=True)
    )


@pytest.mark.parametrize("options", [{"max": 1}, {"receipt": False}], ids=["max", "no receipt"])
def test_nothing_is_examined_ahead_where_that_saves_nothing(mail, options):
    three(mail)
    verifier = NotingVerifier()

    verified_by(mail, verifier, **options)

    assert not any(verifier.ahead.values())


class HookedVerifier:
    """Accepts every message after a call of `before` with its digest; notes the digests."""

    def __init__(self, before=lambda digest: None):
        self.before = before
        self.asked = []

    def verify(self, message):
        self.asked.append(message.digest)
        self.before(message.digest)
        return UNCHECKED


def test_failure_of_a_verification_ahead_is_the_result_of_its_message(mail):
    one, two, last = three(mail)

    def before(digest):
        if digest == two.digest:
            raise NetworkError("the line was cut")

    got = verified_by(mail, HookedVerifier(before))

    assert {item.digest: item.status for item in got} == {
        one.digest: "received",
        two.digest: "failed",
        last.digest: "received",
    }
    assert isinstance(got[1].error, NetworkError)


def test_old_verdict_is_renewed(mail, monkeypatch):
    monkeypatch.setattr(receiving, "FRESH_SECONDS", -1.0)
    one, two, last = three(mail)
    verifier = HookedVerifier()

    got = verified_by(mail, verifier)

    assert [item.status for item in got] == ["received"] * 3
    assert verifier.asked == [one.digest, *[two.digest] * 2, *[last.digest] * 2]


def test_round_that_is_closed_does_not_wait_for_a_verification_that_hangs(mail, monkeypatch):
    monkeypatch.setattr(receiving, "GRACE_SECONDS", 0.01)
    one, two, _ = three(mail)
    began, go = threading.Event(), threading.Event()

    def before(digest):
        if digest == two.digest:
            began.set()
            assert go.wait(WAIT_SECONDS)

    verifier = HookedVerifier(before)
    results = round_of(mail, Box(mail.inbox(), verifier), receipt=True).receive()
    try:
        assert next(results).digest == one.digest
        assert began.wait(WAIT_SECONDS)
        results.close()
        assert not go.is_set()
    finally:
        go.set()


def test_every_receipt_is_in_an_index_at_the_end_of_a_round(mail):
    mail.registry = WatchedRegistry(MemoryRegistry(clock=mail.clock, referrers=False))
    sent, writers = three(mail), []

    def before(name, said):
        if name == "push_manifest" and said[-1] and said[-1][0].startswith("sha256-"):
            writers.append(threading.current_thread() is threading.main_thread())

    mail.registry.before = before
    got = verified_by(mail, HookedVerifier())

    entries = [tag_schema_entries(mail.reader, REPOSITORY, one.digest) for one in sent]
    assert [[entry.digest for entry in found] for found in entries] == [
        [item.receipt] for item in got
    ]
    assert writers == [False, False, True]


def test_an_id_used_twice_is_found_out_in_one_round(mail, monkeypatch, tmp_path):
    monkeypatch.setattr(sending.uuid, "uuid4", lambda: "6f1f7f4e-1b1d-4c55-9a50-3d1d9f6f0c11")
    first = mail.send(mail.file(data=b"one"), signer=ALICE_SIGNS)
    mail.clock.advance(1)
    with State(tmp_path / "another machine of hers" / "state.db") as mail.alice:
        mail.send(mail.file(data=b"two"), signer=ALICE_SIGNS)

    got = mail.receive(mailbox={"trust": TrustOptions(policy=KNOWS_ALICE)})

    assert [item.status for item in got] == ["received", "failed"]
    assert got[0].digest == first.digest
    assert "used this id for another message" in str(got[1].error)


def test_who_stops_after_a_message_finds_the_next_one_new(mail):
    sent = three(mail)
    with mail.mailbox() as box:
        for item in box.receive(out=mail.out):
            assert item.id == sent[0].id
            break

    assert [item.id for item in mail.receive()] == [one.id for one in sent[1:]]

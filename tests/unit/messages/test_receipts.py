from __future__ import annotations

import pytest

from dockercomms.errors import (
    Denied,
    ManifestBlobUnknown,
    ManifestUnknown,
    NetworkError,
    ProtocolError,
    RegistryError,
    UsageError,
)
from dockercomms.messages.receipts import acknowledge, build_receipt, publish_pending, write_receipt
from dockercomms.oci.memory import MemoryRegistry
from dockercomms.oci.model import EMPTY_CONFIG
from dockercomms.oci.tag_schema import tag_schema_entries
from dockercomms.protocol.tags import (
    parse_tag,
    receipt_id,
    receipts_anchor_tag,
    receipts_tag,
    recipient_tag,
)
from tests.fakes.mail import (
    ALICE,
    BOB,
    REPO,
    REPOSITORY,
    Mail,
    ack,
    message_of,
    open_mail,
    receipt_at,
    tags_with,
    write,
)
from tests.fakes.watched import WatchedRegistry

RT = recipient_tag(ALICE)


@pytest.fixture
def mail(tmp_path):
    yield from open_mail(tmp_path)


# --- writing -------------------------------------------------------------------------------------


def test_receipt_says_what_became_of_the_message(mail):
    sent = mail.send()

    digest = write(mail, sent, status="rejected", reason="wrong file")

    (tag,) = tags_with(mail, f"receipt-{sent.digest[7:19]}-")
    receipt = receipt_at(mail, tag)
    assert receipt.descriptor.digest == digest
    assert (receipt.message, receipt.message_id) == (sent.digest, sent.id)
    assert (receipt.sender, receipt.recipient) == (ALICE, BOB)
    assert (receipt.status, receipt.reason, receipt.verified) == ("rejected", "wrong file", False)
    assert receipt.created_at == mail.clock.now()
    assert receipt.subject.digest == sent.digest
    assert receipt.layers == ()


def test_receipt_is_the_same_from_the_same_values(mail):
    message = message_of(mail, mail.send())
    at = mail.clock.now()

    assert build_receipt(message, status="accepted", at=at) == build_receipt(
        message, status="accepted", at=at
    )


def test_receipt_has_both_tags_and_an_anchor(mail):
    sent = mail.send()

    digest = write(mail, sent)

    rid = receipt_id(sent.digest, BOB, "accepted")
    now = mail.clock.now()
    assert f"receipt-{sent.digest[7:19]}-{int(now.timestamp())}-{rid[:6]}" in mail.tags()
    assert receipts_tag(RT, now, rid) in mail.tags()
    assert receipts_anchor_tag(RT, now.date()) in mail.tags()
    for tag in tags_with(mail, f"receipt-{sent.digest[7:19]}"):
        assert mail.reader.resolve_tag(REPOSITORY, tag).digest == digest


def test_receipt_tags_tell_the_time_of_publication(mail):
    sent = mail.send()
    delivered = mail.clock.now()
    mail.clock.advance(90)

    write(mail, sent, at=delivered)

    (tag,) = [t for t in tags_with(mail, "receipts-") if parse_tag(t).kind == "receipts"]
    assert parse_tag(tag).published == mail.clock.now()
    assert receipt_at(mail, tag).created_at == delivered


def test_receipt_needs_two_requests_once_the_repository_is_known(mail):
    write(mail, mail.send(mail.file(data=b"1")))
    message = message_of(mail, mail.send(mail.file(data=b"2")))
    mail.registry.calls.clear()

    write_receipt(mail.registry, REPOSITORY, message, repo=REPO, state=mail.bob, clock=mail.clock)

    assert mail.registry.methods() == ["push_manifest", "push_manifest"]


@pytest.mark.parametrize(("index", "entries"), [("auto", 1), ("never", 0), ("always", 1)])
def test_receipt_is_listed_in_the_messages_index(mail, index, entries):
    mail.registry = WatchedRegistry(MemoryRegistry(clock=mail.clock, referrers=False))
    sent = mail.send()

    digest = write(mail, sent, index=index)

    found = tag_schema_entries(mail.reader, REPOSITORY, sent.digest)
    assert [entry.digest for entry in found] == [digest] * entries


def test_receipt_is_not_written_twice_for_the_same_outcome(mail):
    sent = mail.send()
    first = write(mail, sent)
    mail.clock.advance(60)
    mail.registry.calls.clear()

    assert write(mail, sent) == first
    assert ack(mail, sent) == first
    assert mail.registry.writes() == []


def test_receipt_with_another_outcome_is_a_new_one(mail):
    sent = mail.send()
    digests = []
    for status in ("accepted", "rejected", "accepted"):
        mail.clock.advance(1)
        digests.append(ack(mail, sent, status))

    assert len(set(digests)) == 3


def test_receipt_with_a_reason_of_its_own_is_a_new_one(mail):
    sent = mail.send()
    first = write(mail, sent)
    mail.clock.advance(1)

    second = ack(mail, sent, reason="thank you")

    assert second != first
    assert ack(mail, sent) == second
    assert ack(mail, sent, reason="thank you") == second


@pytest.mark.parametrize("reason", ["x" * 1025, "\udc80"])
def test_receipt_refuses_a_reason_that_cannot_be_sent(mail, reason):
    with pytest.raises(UsageError, match="reason"):
        write(mail, mail.send(), reason=reason)


def test_acknowledge_refuses_what_is_for_somebody_else(mail):
    sent = mail.send(to="carol")

    with pytest.raises(UsageError, match="carol"):
        ack(mail, sent)


def test_acknowledge_needs_the_message(mail):
    sent = mail.send()
    mail.reader.delete_manifest(REPOSITORY, sent.digest)

    with pytest.raises(ManifestUnknown):
        ack(mail, sent)


def test_acknowledge_needs_a_message(mail):
    sent = mail.send()
    receipt = write(mail, sent)

    with pytest.raises(ProtocolError):
        acknowledge(
            mail.registry,
            REPOSITORY,
            receipt,
            "accepted",
            repo=REPO,
            me=BOB,
            state=mail.bob,
            clock=mail.clock,
        )


# --- retrying ------------------------------------------------------------------------------------


def fail_puts(error, times=1):
    left = [times]

    def before(name, said):
        if name == "push_manifest" and left[0]:
            left[0] -= 1
            raise error

    return before


def pending(mail: Mail):
    return mail.bob.receipts.pending(REPO, BOB, now=mail.clock.now())


def test_receipt_that_failed_is_sent_again_with_the_same_bytes(mail):
    sent = mail.send()
    mail.registry.before = fail_puts(NetworkError("cut"))
    with pytest.raises(NetworkError):
        write(mail, sent)
    (row,) = pending(mail)
    mail.clock.advance(3600)

    assert publish_pending(mail.publisher(mail.bob), BOB) == ()

    assert pending(mail) == ()
    (tag,) = tags_with(mail, "receipt-")
    assert receipt_at(mail, tag).descriptor.digest == row.digest


def test_receipt_repairs_what_the_registry_lost(mail):
    write(mail, mail.send(mail.file(data=b"1")))
    sent = mail.send(mail.file(data=b"2"))
    held = mail.reader._repositories[REPOSITORY]
    held.blobs.clear()
    held.tags.pop(receipts_anchor_tag(RT, mail.clock.now().date()))

    write(mail, sent)

    assert EMPTY_CONFIG.digest in held.blobs
    assert receipts_anchor_tag(RT, mail.clock.now().date()) in mail.tags()


def test_receipt_repair_is_tried_only_once(mail):
    sent = mail.send()
    mail.registry.before = fail_puts(ManifestBlobUnknown("no such blob", status=404), times=99)

    with pytest.raises(ManifestBlobUnknown):
        write(mail, sent)


def test_receipt_that_is_denied_waits_longer_each_time(mail):
    sent = mail.send()
    mail.registry.before = fail_puts(Denied("read only", status=403), times=999)
    with pytest.raises(Denied):
        write(mail, sent)
    (error,) = publish_pending(mail.publisher(mail.bob), BOB)  # the next run tries at once
    assert isinstance(error, Denied)
    waits = []
    for _ in range(8):
        assert pending(mail) == ()
        waited = 0
        while not pending(mail):
            mail.clock.advance(1800)
            waited += 1800
        waits.append(waited // 3600)
        (error,) = publish_pending(mail.publisher(mail.bob), BOB)
        assert isinstance(error, Denied)

    assert waits == [1, 2, 4, 8, 16, 24, 24, 24]


def test_receipt_that_is_denied_once_is_published_by_the_next_run(mail):
    sent = mail.send()
    mail.registry.before = fail_puts(NetworkError("cut"), times=1)
    with pytest.raises(NetworkError):
        write(mail, sent)
    mail.registry.before = fail_puts(Denied("a proxy said so", status=403), times=999)
    (error,) = publish_pending(mail.publisher(mail.bob), BOB)
    assert isinstance(error, Denied)
    mail.registry.before = None

    assert publish_pending(mail.publisher(mail.bob), BOB) == ()
    assert pending(mail) == ()


@pytest.mark.parametrize(
    ("error", "tried"),
    [(Denied("no", status=403), 1), (NetworkError("cut"), 1), (RegistryError("?", status=500), 2)],
)
def test_publish_pending_stops_where_going_on_is_useless(mail, error, tried):
    one, two = mail.send(mail.file(data=b"1")), mail.send(mail.file(data=b"2"))
    mail.registry.before = fail_puts(NetworkError("cut"), times=2)
    for sent in (one, two):
        with pytest.raises(NetworkError):
            write(mail, sent)
    mail.registry.before = fail_puts(error, times=9)

    assert publish_pending(mail.publisher(mail.bob), BOB) == (error,) * tried


def test_receipt_on_an_immutable_tag_of_its_own_is_done(mail):
    sent = mail.send()

    def after(name, said):
        if name == "push_manifest" and said[3][0].startswith("receipt-"):
            raise RegistryError("immutable", status=400)

    mail.registry.after = after

    assert write(mail, sent)

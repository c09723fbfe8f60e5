from __future__ import annotations

import io
from datetime import timedelta

import pytest

from dockercomms.errors import ManifestUnknown, NotFoundError, UsageError
from dockercomms.messages.receipts import build_receipt
from dockercomms.oci.interface import read_all
from dockercomms.oci.memory import MemoryRegistry
from dockercomms.oci.model import (
    EMPTY_CONFIG,
    MAX_MANIFEST_BYTES,
    MEDIA_TYPE_EMPTY_CONFIG,
    MEDIA_TYPE_MANIFEST,
)
from dockercomms.protocol.manifest import ManifestBuilder
from dockercomms.protocol.tags import receipts_anchor_tag, receipts_tag, recipient_tag
from tests.fakes.mail import (
    ALICE,
    BOB,
    REPO,
    REPOSITORY,
    Mail,
    ack,
    listed,
    message_of,
    open_mail,
    write,
)
from tests.fakes.watched import WatchedRegistry

RT = recipient_tag(ALICE)


@pytest.fixture
def mail(tmp_path):
    yield from open_mail(tmp_path)


def test_list_receipts_shows_what_was_written(mail):
    sent = mail.send()
    digest = write(mail, sent, reason="fine")

    (entry,) = listed(mail)

    assert (entry.digest, entry.message, entry.id) == (digest, sent.digest, sent.id)
    assert (entry.sender, entry.status, entry.reason) == (BOB, "accepted", "fine")
    assert entry.created_at == mail.clock.now()
    assert not entry.claimed_verified
    assert entry.signature_status == "none"


def test_list_receipts_of_an_empty_repository_is_empty(mail):
    assert listed(mail) == []


def test_list_receipts_is_for_the_sender_only(mail):
    write(mail, mail.send())

    assert listed(mail, me="carol") == []


def test_list_receipts_reads_each_once(mail):
    write(mail, mail.send())
    listed(mail)
    mail.registry.calls.clear()

    assert len(listed(mail)) == 1
    assert mail.registry.methods() == ["tag_pages"]


def test_list_receipts_finds_new_ones_from_the_day_before_on(mail):
    for _ in range(3):
        write(mail, mail.send())
        assert listed(mail)
        mail.clock.advance(20 * 3600)
        mail.file(data=str(mail.clock.now()).encode())
    mail.registry.calls.clear()
    sent = mail.send(mail.file(data=b"new"))
    write(mail, sent)

    assert sent.digest in [entry.message for entry in listed(mail)]


def test_list_receipts_seeks_from_the_anchor_of_the_day_before(mail):
    write(mail, mail.send())
    listed(mail)
    mail.registry.calls.clear()

    listed(mail)

    (call,) = [said for name, said in mail.registry.calls if name == "tag_pages"]
    day = mail.clock.now().date() - timedelta(days=1)
    assert call[1] == receipts_anchor_tag(RT, day)


def test_list_receipts_looks_at_everything_once_a_day(mail):
    write(mail, mail.send())
    listed(mail)
    mail.clock.advance(24 * 3600)
    mail.registry.calls.clear()

    listed(mail)

    (call,) = [said for name, said in mail.registry.calls if name == "tag_pages"]
    assert call[1] == f"receipts-{RT}"


def test_list_receipts_forgets_what_was_deleted_at_the_next_full_look(mail):
    digest = write(mail, mail.send())
    listed(mail)
    mail.reader.delete_manifest(REPOSITORY, digest)
    assert len(listed(mail)) == 1
    mail.clock.advance(24 * 3600)

    assert listed(mail) == []


def test_list_receipts_folds_retries_and_keeps_the_newest(mail):
    sent = mail.send()
    message = message_of(mail, sent)
    for number, seconds in enumerate((0, 20, 10)):
        at = mail.clock.now() + timedelta(seconds=seconds)
        data, _ = build_receipt(message, status="accepted", at=at)
        tag_as_receipt(mail, data, sent, mail.clock.now() + timedelta(seconds=number))

    (entry,) = listed(mail)

    assert entry.created_at == mail.clock.now() + timedelta(seconds=20)


def tag_as_receipt(mail: Mail, data, sent, at, tail="0" * 16):
    mail.reader.push_manifest(
        REPOSITORY, data, MEDIA_TYPE_MANIFEST, tags=(receipts_tag(RT, at, tail),)
    )


def test_list_receipts_keeps_different_outcomes_apart(mail):
    sent = mail.send()
    ack(mail, sent, "accepted")
    mail.clock.advance(1)
    ack(mail, sent, "rejected")

    assert [entry.status for entry in listed(mail)] == ["accepted", "rejected"]


def test_list_receipts_passes_over_junk(mail):
    sent = mail.send()
    digest = write(mail, sent)
    message, _ = read_all(mail.reader.get_manifest(REPOSITORY, sent.digest), MAX_MANIFEST_BYTES)
    tag_as_receipt(mail, message, sent, mail.clock.now(), "1" * 16)
    carol = mail.send(to="carol")
    other, _ = build_receipt(message_of(mail, carol), status="accepted", at=mail.clock.now())
    other = other.replace(ALICE.encode(), b"mallory@example.co")
    tag_as_receipt(mail, other, sent, mail.clock.now(), "2" * 16)

    assert [entry.digest for entry in listed(mail)] == [digest]
    mail.registry.calls.clear()
    listed(mail)
    assert "get_tag" not in mail.registry.methods()  # junk is read once as well


def test_list_receipts_survives_a_tag_that_goes_meanwhile(mail):
    write(mail, mail.send())
    mail.registry.before = lambda name, said: (
        (_ for _ in ()).throw(ManifestUnknown("gone")) if name == "get_tag" else None
    )

    assert listed(mail) == []
    mail.registry.before = None
    assert len(listed(mail)) == 1


def test_list_receipts_reads_a_bounded_number_in_a_run(mail):
    sent = mail.send()
    data, _ = build_receipt(message_of(mail, sent), status="accepted", at=mail.clock.now())
    tags = [receipts_tag(RT, mail.clock.now(), f"{number:016x}") for number in range(2001)]
    mail.reader.push_blob(REPOSITORY, EMPTY_CONFIG, lambda: io.BytesIO(b"{}"))
    mail.reader.push_manifest(REPOSITORY, data, MEDIA_TYPE_MANIFEST, tags=tags)

    listed(mail)
    assert mail.registry.methods().count("get_tag") == 2000
    assert mail.alice.receipts.progress(REPO, ALICE).day is None
    listed(mail)
    assert mail.registry.methods().count("get_tag") == 2001
    assert mail.alice.receipts.progress(REPO, ALICE).day == mail.clock.now().date()


@pytest.mark.parametrize("api", [True, False])
def test_list_receipts_for_one_message(mail, api):
    if not api:
        mail.registry = WatchedRegistry(MemoryRegistry(clock=mail.clock, referrers=False))
    one, two = mail.send(mail.file(data=b"1")), mail.send(mail.file(data=b"2"))
    wanted = write(mail, one)
    write(mail, two)

    for prefix in (one.id, one.id[:8], one.digest[7:19], one.digest):
        assert [entry.digest for entry in listed(mail, prefix)] == [wanted]


def test_list_receipts_finds_an_untagged_one_by_its_subject(mail):
    sent = mail.send()
    data, digest = build_receipt(message_of(mail, sent), status="accepted", at=mail.clock.now())
    mail.reader.push_manifest(REPOSITORY, data, MEDIA_TYPE_MANIFEST)

    assert [entry.digest for entry in listed(mail, sent.digest)] == [digest]


def write_1_0(mail, sent, status="accepted", tag="1-abcdef", **annotations):
    """Write a receipt as the 1.0 program does: no subject, and a tag of the message alone."""
    said = {
        "dockercomms.receipt.for": sent.digest,
        "dockercomms.receipt.status": status,
        "dockercomms.receipt.verified": "true",
        "dockercomms.version": "1.0",
        **{f"dockercomms.{key}": value for key, value in annotations.items()},
    }
    data, _ = ManifestBuilder.receipt(said).build(compat=True)
    mail.reader.push_manifest(
        REPOSITORY, data, MEDIA_TYPE_MANIFEST, tags=(f"receipt-{sent.digest[7:19]}-{tag}",)
    )


@pytest.mark.parametrize("sender", [{}, {"sender": ALICE}, {"sender": "unknown"}])
def test_list_receipts_finds_one_of_1_0_by_its_tag(mail, sender):
    sent = mail.send()
    write_1_0(mail, sent, **sender)

    (entry,) = listed(mail, sent.id)

    assert (entry.id, entry.sender, entry.claimed_verified) == (sent.id, "", True)
    assert entry.created_at is None
    assert listed(mail) == [entry]
    assert listed(mail) == [entry]  # kept, and not found twice
    assert listed(mail, me="carol") == []


def test_outbox_shows_receipts_of_1_0_as_claims(mail):
    sent = [mail.send(), mail.send(), mail.send()]
    mail.clock.advance(60)
    write(mail, sent[0])
    write_1_0(mail, sent[1])
    write_1_0(mail, sent[1], "rejected", tag="2-abcdee", sender="unknown")

    with mail.mailbox(ALICE) as alice:
        entries = alice.outbox()
        assert [(one.fate, one.proven) for one in entries] == [("silent", False)] * 3
        claimed = [
            one.receipt and (one.receipt.id, one.receipt.signature_status) for one in entries
        ]
        assert claimed == [(sent[0].id, "none"), (sent[1].id, "none"), None]
        assert {one.status for one in alice.receipts() if one.id == sent[1].id} == {
            "accepted",
            "rejected",
        }


def test_receipts_of_1_0_that_come_later_are_found(mail):
    sent = mail.send()
    write_1_0(mail, sent)
    assert [entry.status for entry in listed(mail)] == ["accepted"]
    write_1_0(mail, sent, "rejected", tag="2-abcdee")

    assert sorted(entry.status for entry in listed(mail)) == ["accepted", "rejected"]
    mail.clock.advance(86400)  # the day's whole pass
    assert sorted(entry.status for entry in listed(mail)) == ["accepted", "rejected"]


def test_list_receipts_passes_over_other_referrers(mail):
    sent = mail.send()
    message = message_of(mail, sent)
    mail.publisher().push_bundle(message.descriptor.bare(), b"{}", index="auto", fresh=True)
    other = ManifestBuilder(MEDIA_TYPE_EMPTY_CONFIG, message.descriptor.bare()).build()[0]
    mail.reader.push_manifest(REPOSITORY, other, MEDIA_TYPE_MANIFEST)
    mail.reader.push_manifest(
        REPOSITORY,
        build_receipt(
            message_of(mail, mail.send(to="carol")), status="accepted", at=mail.clock.now()
        )[0],
        MEDIA_TYPE_MANIFEST,
        tags=(f"receipt-{sent.digest[7:19]}-1-abcdef",),
    )

    assert listed(mail, sent.digest) == []


@pytest.mark.parametrize("method", ["referrers", "get_manifest"])
def test_list_receipts_goes_on_where_referrers_lead_nowhere(mail, method):
    sent = mail.send()
    digest = write(mail, sent)

    def before(name, said):
        if name == method:
            raise ManifestUnknown("an index may name what is not there")

    mail.registry.before = before

    assert [entry.digest for entry in listed(mail, sent.digest)] == [digest]


def test_list_receipts_for_a_message_found_by_its_receipt(mail):
    sent = mail.send()
    digest = write(mail, sent)

    # another machine of the same sender, which remembers nothing
    (entry,) = listed(mail, sent.id[:8], state=mail.bob)

    assert entry.digest == digest


def test_list_receipts_for_an_unknown_message(mail):
    mail.send()

    with pytest.raises(NotFoundError, match="begins with 'ffffffff'") as raised:
        listed(mail, "ffffffff")

    assert "whole digest" in raised.value.hint
    assert listed(mail, "sha256:" + "0" * 64) == []


def test_list_receipts_for_an_ambiguous_message(mail):
    for number in range(17):
        mail.send(mail.file(data=str(number).encode()))
    rows = mail.alice.sends.database.rows("SELECT digest FROM sends")
    heads = [row["digest"][7:8] for row in rows]
    twice = next(head for head in heads if heads.count(head) > 1)

    with pytest.raises(UsageError, match="messages begin so"):
        listed(mail, f"sha256:{twice}")


def test_list_receipts_refuses_an_empty_prefix(mail):
    with pytest.raises(UsageError, match="empty"):
        listed(mail, "")


def test_list_receipts_in_a_repository_that_is_not_there(mail):
    assert listed(mail, "sha256:" + "0" * 64) == []

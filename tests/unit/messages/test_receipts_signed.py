"""Signed receipts: written, kept until they can be published, and what they prove."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from dockercomms.errors import (
    ManifestBlobUnknown,
    NetworkError,
    SigningError,
    SigningUnreachable,
    VerificationError,
)
from dockercomms.messages.bundles import ReceiptVerifier
from dockercomms.messages.publish import bundle_layer
from dockercomms.messages.receipts import (
    publish_pending,
    publish_receipt,
    sign_receipt,
    store_receipt,
    write_receipt,
)
from dockercomms.messages.receipts_list import list_receipts
from dockercomms.oci.interface import read_all
from dockercomms.oci.memory import MemoryRegistry
from dockercomms.oci.model import MAX_MANIFEST_BYTES, MEDIA_TYPE_MANIFEST
from dockercomms.oci.stores import Store
from dockercomms.protocol.manifest import ManifestBuilder, parse_receipt
from dockercomms.state.trust import JudgedRow
from dockercomms.trust.owner import Trust
from dockercomms.trust.policy import Policy, Sender
from tests.fakes.clock import FakeClock
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
from tests.fakes.people import ALICE_SIGNS, BOB_SIGNS, BOBS, ROOTS, STRANGER_SIGNS, knows
from tests.fakes.watched import WatchedRegistry

KNOWS_BOB = Policy(senders=(knows(BOB, BOBS),))


@pytest.fixture
def mail(tmp_path):
    yield from open_mail(tmp_path)


def verifier(mail: Mail, policy: Policy = KNOWS_BOB) -> ReceiptVerifier:
    trust = Trust(policy=policy, me=(ALICE,), roots=ROOTS)
    return ReceiptVerifier(repo=REPO, clock=mail.clock, trust=trust)


def listed(mail: Mail, policy: Policy = KNOWS_BOB, *, message=None):
    return list_receipts(
        Store(mail.registry, REPOSITORY, REPO),
        me=ALICE,
        state=mail.alice,
        clock=mail.clock,
        message=message,
        verifier=verifier(mail, policy),
    )


def statuses(mail: Mail, policy: Policy = KNOWS_BOB, **options):
    return [(entry.signature_status, entry.signer) for entry in listed(mail, policy, **options)]


def only(mail: Mail):
    return receipt_at(mail, tags_with(mail, "receipt-")[0])


# --- writing -------------------------------------------------------------------------------------


def test_signed_receipt_is_one_object_whose_layer_is_the_bundle(mail):
    sent = mail.send()

    digest = write(mail, sent, signer=BOB_SIGNS)

    receipt = only(mail)
    (layer,) = receipt.layers
    assert receipt.descriptor.digest == digest
    assert receipt.subject.digest == sent.digest
    blob, _ = read_all(mail.reader.get_blob(REPOSITORY, layer.digest), layer.size)
    assert layer.inline() == blob
    assert layer.media_type == "application/vnd.dev.sigstore.bundle.v0.3+json"


def test_receipt_that_two_processes_publish_at_once_is_one_object(mail):
    """Each has read the row before the other has signed it; two signatures never are the same."""
    store_receipt(mail.bob, REPO, message_of(mail, mail.send()), at=mail.clock.now(), to_sign=True)
    first, second = (
        mail.bob.receipts.pending(REPO, BOB, now=mail.clock.now())[0] for _ in range(2)
    )

    digest = publish_receipt(mail.publisher(mail.bob), first, signer=BOB_SIGNS)

    assert publish_receipt(mail.publisher(mail.bob), second, signer=BOB_SIGNS) == digest
    assert only(mail).descriptor.digest == digest
    assert len(tags_with(mail, "receipt-")) == 1


def test_receipt_signed_twice_before_it_is_published_has_the_first_signature(mail):
    row = store_receipt(
        mail.bob, REPO, message_of(mail, mail.send()), at=mail.clock.now(), to_sign=True
    )
    finals = []
    for _ in range(2):
        data, digest, bundle = sign_receipt(row.manifest, BOB_SIGNS)
        signed = replace(row, to_sign=False, manifest=data, digest=digest, bundle=bundle)
        finals.append((signed, mail.bob.receipts.record_final(signed)))

    assert finals[0][0] == finals[0][1] == finals[1][1] != finals[1][0]


@pytest.mark.parametrize(("api", "most"), [(True, 4), (False, 6)])
def test_signed_receipt_keeps_its_budget_of_requests(tmp_path, api, most):
    mail = Mail(tmp_path)
    mail.registry = WatchedRegistry(MemoryRegistry(clock=mail.clock, referrers=api))
    write(mail, mail.send(), signer=BOB_SIGNS)
    sent = mail.send(mail.file("b"))
    message = message_of(mail, sent)
    mail.registry.calls.clear()

    write_receipt(
        mail.registry,
        REPOSITORY,
        message,
        repo=REPO,
        state=mail.bob,
        clock=mail.clock,
        signer=BOB_SIGNS,
    )

    assert mail.registry.requests() <= most
    mail.close()


def test_sign_receipt_proves_what_it_signed(mail):
    write(mail, mail.send())
    (row,) = [mail.bob.receipts.last(REPO, BOB, only(mail).message)]

    class Lying:
        signed_by = BOB_SIGNS.signed_by

        def sign_receipt(self, receipt):
            return BOB_SIGNS.sign_receipt(replace(receipt, status="rejected"))

    with pytest.raises(VerificationError):
        sign_receipt(row.manifest, Lying())


class Unreachable:
    signed_by = BOB_SIGNS.signed_by

    def sign_receipt(self, receipt):
        raise SigningUnreachable("no Fulcio")


def pending(mail: Mail):
    return mail.bob.receipts.pending(REPO, BOB, now=mail.clock.now())


def test_receipt_waits_for_a_service_that_signs(mail):
    sent = mail.send()
    with pytest.raises(SigningError):
        write(mail, sent, signer=Unreachable())
    assert not tags_with(mail, "receipt")
    assert pending(mail) == ()  # not at once: a silent service costs half a minute
    mail.clock.advance(3601)
    (row,) = pending(mail)
    assert row.to_sign

    assert publish_pending(mail.publisher(mail.bob), BOB) == ()
    assert not tags_with(mail, "receipt-")
    assert publish_pending(mail.publisher(mail.bob), BOB, signer=BOB_SIGNS) == ()

    assert len(only(mail).layers) == 1
    assert only(mail).created_at == row_time(row)


def row_time(row):
    return parse_receipt(row.manifest).created_at


def test_signed_receipt_that_failed_is_sent_again_with_the_same_bytes(mail):
    sent = mail.send()
    left = [1]

    def before(name, said):
        if name == "push_manifest" and left[0]:
            left[0] -= 1
            raise NetworkError("cut")

    mail.registry.before = before
    with pytest.raises(NetworkError):
        write(mail, sent, signer=BOB_SIGNS)
    (row,) = pending(mail)
    assert not row.to_sign

    publish_pending(mail.publisher(mail.bob), BOB, signer=ALICE_SIGNS)

    assert only(mail).descriptor.digest == row.digest
    assert mail.bob.receipts.last(REPO, BOB, sent.digest).bundle is None


def test_signed_receipt_is_repaired_with_its_bundle(mail):
    write(mail, mail.send(), signer=BOB_SIGNS)
    sent = mail.send(mail.file("b"))
    broken = []

    def before(name, said):
        if name == "push_manifest" and said[3][0].startswith("receipt-") and not broken:
            broken.append(said)
            mail.reader._repositories[REPOSITORY].blobs.clear()
            raise ManifestBlobUnknown("gone", status=404)

    mail.registry.before = before

    digest = write(mail, sent, signer=BOB_SIGNS)

    assert broken
    assert statuses(mail, message=sent.digest) == [("valid", BOB)]
    mail.reader.resolve_manifest(REPOSITORY, digest)


def test_receipt_that_was_to_be_signed_is_published_unsigned_when_told_to(mail):
    sent = mail.send()
    with pytest.raises(SigningError):
        write(mail, sent, signer=Unreachable())

    ack(mail, sent)

    assert only(mail).layers == ()
    assert not mail.bob.receipts.last(REPO, BOB, sent.digest).to_sign


@pytest.mark.parametrize("status", ["valid", "none", None])
def test_acknowledge_says_whether_the_message_was_verified(mail, status):
    sent = mail.send()
    if status is not None:
        signer = ALICE if status == "valid" else None
        mail.bob.trust.set_judgement(BOB, REPO, sent.digest, JudgedRow(status, signer))

    ack(mail, sent, signer=BOB_SIGNS)

    assert only(mail).verified is (status == "valid")


# --- what they prove -----------------------------------------------------------------------------


def test_receipt_proves_who_signed_it(mail):
    write(mail, mail.send(), signer=BOB_SIGNS)

    assert statuses(mail) == [("valid", BOB)]
    assert statuses(mail, message=only(mail).message) == [("valid", BOB)]


def test_receipt_proves_nothing_without_a_verifier(mail):
    write(mail, mail.send(), signer=BOB_SIGNS)
    (entry,) = list_receipts(
        Store(mail.registry, REPOSITORY, REPO), me=ALICE, state=mail.alice, clock=mail.clock
    )

    assert (entry.signature_status, entry.signer) == ("unchecked", None)


@pytest.mark.parametrize(
    ("signer", "policy", "status"),
    [
        (None, KNOWS_BOB, "none"),
        (BOB_SIGNS, Policy(), "untrusted"),
        (BOB_SIGNS, Policy(senders=(Sender(name=BOB, allow_unsigned=True),)), "untrusted"),
        (STRANGER_SIGNS, KNOWS_BOB, "invalid"),
        (BOB_SIGNS, Policy(senders=(knows(BOB, BOBS, kinds=("message",)),)), "invalid"),
    ],
)
def test_receipt_is_shown_though_it_proves_nothing(mail, signer, policy, status):
    write(mail, mail.send(), signer=signer)

    assert statuses(mail, policy) == [(status, None)]


def test_receipt_does_not_grow_old(mail):
    write(mail, mail.send(), signer=BOB_SIGNS)
    mail.clock.advance(400 * 86_400)

    policy = Policy(senders=KNOWS_BOB.senders, max_age=timedelta(days=1))
    assert statuses(mail, policy) == [("valid", BOB)]


def publish(mail: Mail, sent, bundle: bytes, *, layers=None, **changes) -> None:
    """Publish a receipt with any layer, as a stranger can."""
    write(mail, sent)
    honest = only(mail)
    annotations = dict(honest.descriptor.annotations) | changes
    publisher = mail.publisher(mail.bob)
    publisher.push_layer(bundle)
    data, _ = ManifestBuilder.receipt(
        annotations, subject=honest.subject, layers=layers or (bundle_layer(bundle),)
    ).build()
    for tag in tags_with(mail, "receipt"):
        if tag.count("-") > 2:
            mail.reader.push_manifest(REPOSITORY, data, MEDIA_TYPE_MANIFEST, tags=(tag,))


def test_claim_hides_no_proof_and_proof_no_claim(mail):
    sent = mail.send()
    write(mail, sent, signer=BOB_SIGNS)
    mail.clock.advance(60)
    forged, _ = ManifestBuilder.receipt(
        {**only(mail).descriptor.annotations, "dockercomms.created_at": "2027-01-01T00:00:00.000Z"},
        subject=only(mail).subject,
    ).build()
    mail.reader.push_manifest(
        REPOSITORY, forged, MEDIA_TYPE_MANIFEST, tags=(f"receipt-{sent.digest[7:19]}-9-ffffff",)
    )

    assert statuses(mail, message=sent.digest) == [("valid", BOB), ("none", None)]


def test_signed_receipt_of_somebody_else_is_no_proof(mail):
    """Mallory is trusted to write receipts, in her own name; the message went to Bob."""
    sent = mail.send()
    mallory = Policy(senders=(*KNOWS_BOB.senders, knows("mallory", BOBS)))
    write(mail, sent)
    honest = only(mail)
    annotations = {**honest.descriptor.annotations, "dockercomms.recipient": "mallory"}
    data, _ = ManifestBuilder.receipt(annotations, subject=honest.subject).build()
    signed, _, bundle = sign_receipt(data, BOB_SIGNS)
    mail.publisher(mail.bob).push_layer(bundle)
    mail.reader.push_manifest(
        REPOSITORY, signed, MEDIA_TYPE_MANIFEST, tags=(f"receipt-{sent.digest[7:19]}-9-ffffff",)
    )

    found = {
        entry.sender: entry.signature_status for entry in listed(mail, mallory, message=sent.id)
    }

    assert found == {BOB: "none", "mallory": "invalid"}


@pytest.mark.parametrize("how", ["gone", "large", "two", "not inline"])
def test_bundle_of_a_receipt_is_read_with_care(mail, how):
    sent = mail.send()
    write(mail, sent, signer=BOB_SIGNS)
    receipt = only(mail)
    (layer,) = receipt.layers
    bare = layer.bare()
    layers = {
        "gone": (bare,),
        "not inline": (bare,),
        "large": (replace(bare, size=2**20 + 1),),
        "two": (layer, layer),
    }[how]
    data, _ = ManifestBuilder.receipt(
        receipt.descriptor.annotations, subject=receipt.subject, layers=layers
    ).build()
    for tag in tags_with(mail, "receipt-"):
        mail.reader.delete_tag(REPOSITORY, tag)
    mail.reader.delete_manifest(REPOSITORY, receipt.descriptor.digest)
    mail.reader.push_manifest(
        REPOSITORY, data, MEDIA_TYPE_MANIFEST, tags=(f"receipt-{sent.digest[7:19]}-9-ffffff",)
    )
    if how == "gone":
        mail.reader._repositories[REPOSITORY].blobs.pop(layer.digest)

    expected = ("valid", BOB) if how == "not inline" else ("invalid", None)
    assert statuses(mail, message=sent.digest) == [expected]


def test_receipts_are_read_from_the_registry_once(mail):
    write(mail, mail.send(), signer=BOB_SIGNS)
    listed(mail)
    mail.registry.calls.clear()

    assert statuses(mail) == [("valid", BOB)]
    assert {"get_tag", "get_blob", "get_manifest"}.isdisjoint(mail.registry.methods())
    data, _ = read_all(
        mail.reader.get_manifest(REPOSITORY, only(mail).descriptor.digest), MAX_MANIFEST_BYTES
    )
    assert parse_receipt(data).layers[0].data is not None


@pytest.mark.parametrize("registry_is_known", [True, False])
def test_receipt_proves_what_it_says_also_by_a_clock_that_is_behind(mail, registry_is_known):
    sent = mail.send()
    write(mail, sent, signer=BOB_SIGNS)
    slow = FakeClock(mail.clock.now() - timedelta(hours=1))
    trust = Trust(policy=KNOWS_BOB, me=(ALICE,), roots=ROOTS)
    registry = mail.registry if registry_is_known else None
    judging = ReceiptVerifier(repo=REPO, clock=slow, registry=registry, trust=trust)
    receipt = only(mail)
    bundle, _ = read_all(
        mail.reader.get_blob(REPOSITORY, receipt.layers[0].digest), receipt.layers[0].size
    )

    assert judging.verify(receipt, bundle)[0] == "valid"

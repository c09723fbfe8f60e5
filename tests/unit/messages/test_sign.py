from __future__ import annotations

import hashlib
import json

import pytest

from dockercomms.errors import (
    LocalIOError,
    ManifestUnknown,
    NetworkError,
    ProtocolError,
    UnknownSender,
    Unsigned,
    UsageError,
    VerificationError,
)
from dockercomms.messages.receipts import write_receipt
from dockercomms.messages.sign import sign, sign_file, verify, verify_file
from dockercomms.oci.interface import read_all
from dockercomms.oci.memory import MemoryRegistry
from dockercomms.oci.model import MAX_MANIFEST_BYTES, MEDIA_TYPE_INDEX, Index, digest_of
from dockercomms.protocol.header import ARTIFACT_TYPE_BUNDLE, PREDICATE_TYPE_MESSAGE
from dockercomms.protocol.manifest import parse_bundle
from dockercomms.trust.approvals import verify_approval
from dockercomms.trust.bundle import pae, parse_bundle_json
from dockercomms.trust.owner import Trust
from dockercomms.trust.policy import Policy, Sender
from dockercomms.trust.statement import PREDICATE_TYPE_COSIGN_SIGN, base64_text
from tests.fakes.clock import FakeClock
from tests.fakes.mail import ALICE, BOB, REPO, REPOSITORY, Mail, message_of
from tests.fakes.people import (
    ALICE_SIGNS,
    ALICES,
    BOB_SIGNS,
    BOBS,
    KNOWS_ALICE,
    ROOTS,
    STRANGER_SIGNS,
    attach,
    knows,
)
from tests.fakes.watched import WatchedRegistry

KNOWS_BOTH = Policy(senders=(knows(ALICE, ALICES), knows(BOB, BOBS)))


@pytest.fixture(params=[True, False], ids=["api", "index"])
def mail(request, tmp_path):
    mail = Mail(tmp_path)
    mail.registry = WatchedRegistry(MemoryRegistry(clock=mail.clock, referrers=request.param))
    yield mail
    mail.close()


def trust(policy: Policy = KNOWS_ALICE, **changes) -> Trust:
    return Trust(**{"policy": policy, "me": ("carol",), "roots": ROOTS, **changes})


def check(mail: Mail, reference: str, believed: Trust | None = None):
    return verify(
        mail.registry,
        REPOSITORY,
        reference,
        repo=REPO,
        state=mail.bob,
        clock=mail.clock,
        trust=believed or trust(),
    )


def put(mail: Mail, reference: str, signer=ALICE_SIGNS, **options):
    return sign(
        mail.registry,
        REPOSITORY,
        reference,
        repo=REPO,
        signer=signer,
        **{"state": mail.alice, "clock": mail.clock, **options},
    )


def index(mail: Mail, tag: str = "v1"):
    mail.send(to="somebody")  # makes the repository
    return mail.reader.push_manifest(REPOSITORY, Index().to_bytes(), MEDIA_TYPE_INDEX, tags=(tag,))


# --- messages and receipts -----------------------------------------------------------------------


@pytest.mark.parametrize("by", ["digest", "tag"])
def test_verify_says_who_signed_a_message_for_somebody_else(mail, by):
    sent = mail.send(signer=ALICE_SIGNS)

    found = check(mail, sent.digest if by == "digest" else sent.tag)

    assert (found.what, found.digest, found.id) == ("message", sent.digest, sent.id)
    assert (found.verified.name, found.recipient) == (ALICE, BOB)
    assert mail.bob.trust.judged(BOB, REPO) == {}


@pytest.mark.parametrize(
    ("signer", "policy", "error"),
    [
        (None, KNOWS_ALICE, Unsigned),
        (None, Policy(senders=(Sender(name=ALICE, allow_unsigned=True),)), Unsigned),
        (ALICE_SIGNS, Policy(), UnknownSender),
        (STRANGER_SIGNS, KNOWS_ALICE, VerificationError),
    ],
)
def test_verify_refuses_a_message_that_nobody_trusted_signed(mail, signer, policy, error):
    sent = mail.send(signer=signer)

    with pytest.raises(VerificationError) as raised:
        check(mail, sent.digest, trust(policy))

    assert type(raised.value) is error


def receipt(mail: Mail, signer=BOB_SIGNS) -> str:
    sent = mail.send(signer=ALICE_SIGNS)
    return write_receipt(
        mail.registry,
        REPOSITORY,
        message_of(mail, sent),
        repo=REPO,
        state=mail.bob,
        clock=mail.clock,
        signer=signer,
    )


def test_verify_says_who_signed_a_receipt(mail):
    found = check(mail, receipt(mail), trust(KNOWS_BOTH))

    assert (found.what, found.verified.name, found.recipient) == ("receipt", BOB, ALICE)


@pytest.mark.parametrize(
    ("signer", "policy", "error"),
    [
        (None, KNOWS_BOTH, Unsigned),
        (BOB_SIGNS, KNOWS_ALICE, UnknownSender),
        (ALICE_SIGNS, KNOWS_BOTH, VerificationError),
    ],
)
def test_verify_refuses_a_receipt_that_its_recipient_did_not_sign(mail, signer, policy, error):
    with pytest.raises(VerificationError) as raised:
        check(mail, receipt(mail, signer), trust(policy))

    assert type(raised.value) is error


def test_verify_refuses_what_calls_itself_a_message_and_is_none(mail):
    mail.send()
    data = b'{"schemaVersion":2,"artifactType":"application/vnd.dockercomms.message.v1"}'
    mail.reader.push_manifest(
        REPOSITORY, data, "application/vnd.oci.image.manifest.v1+json", tags=("bad",)
    )

    with pytest.raises(ProtocolError):
        check(mail, "bad")


def test_verify_needs_an_object(mail):
    mail.send()

    with pytest.raises(ManifestUnknown):
        check(mail, "missing")


# --- anything else -------------------------------------------------------------------------------


def test_sign_attaches_what_verify_takes(mail):
    subject = index(mail)

    done = put(mail, "v1")
    found = check(mail, "v1")

    assert (done.subject, done.signed_by) == (subject.digest, ALICE_SIGNS.signed_by)
    data, _ = read_all(mail.reader.get_manifest(REPOSITORY, done.attached), MAX_MANIFEST_BYTES)
    bundle = parse_bundle(data)
    assert bundle.subject == subject.bare()
    assert bundle.annotations["dev.sigstore.bundle.predicateType"] == PREDICATE_TYPE_COSIGN_SIGN
    assert (found.what, found.digest, found.verified.name) == ("object", subject.digest, ALICE)
    assert found.verified.approval


def test_sign_adds_to_the_signatures_of_others(mail):
    index(mail)

    put(mail, "v1", STRANGER_SIGNS)
    put(mail, "v1", ALICE_SIGNS)

    assert check(mail, "v1").verified.name == ALICE


def test_verify_refuses_an_object_that_nobody_signed(mail):
    index(mail)

    with pytest.raises(Unsigned, match="not signed"):
        check(mail, "v1")


def test_verify_refuses_an_object_that_strangers_signed(mail):
    index(mail)
    put(mail, "v1", STRANGER_SIGNS)

    with pytest.raises(UnknownSender, match="no signature of a trusted sender"):
        check(mail, "v1")


def test_verify_says_what_else_is_wrong(mail):
    subject = index(mail)
    attach(mail, subject.bare(), b"junk", predicate_type=PREDICATE_TYPE_COSIGN_SIGN)
    attach(mail, subject.bare(), b"x" * (2**20 + 1), predicate_type=PREDICATE_TYPE_COSIGN_SIGN)

    with pytest.raises(VerificationError) as raised:
        check(mail, "v1")

    assert type(raised.value) is VerificationError
    assert "1048577 bytes" in raised.value.message


def test_sign_makes_a_message_of_ours_a_signed_one(mail):
    sent = mail.send()

    done = put(mail, sent.digest, names=(ALICE,))

    data, _ = read_all(mail.reader.get_manifest(REPOSITORY, done.attached), MAX_MANIFEST_BYTES)
    annotations = parse_bundle(data).annotations
    assert annotations["dev.sigstore.bundle.predicateType"] == PREDICATE_TYPE_MESSAGE
    assert not check(mail, sent.digest).verified.approval


def test_sign_shows_a_message_that_was_not_sent_from_here_before_it_signs(mail):
    """Whoever can move a tag would have us say that we sent what they wrote."""
    sent = mail.send()
    before = set(mail.tags())

    with pytest.raises(UsageError) as raised:
        put(mail, sent.tag, names=(ALICE,), state=mail.bob)

    for said in (ALICE, BOB, "a.txt", "5 bytes"):
        assert said in raised.value.message
    assert "--message" in raised.value.hint
    assert set(mail.tags()) == before
    done = put(mail, sent.tag, names=(ALICE,), state=mail.bob, is_message=True)
    assert done.header.sender == ALICE
    assert not check(mail, sent.digest).verified.approval


def test_sign_only_approves_of_a_message_of_others(mail):
    sent = mail.send(signer=ALICE_SIGNS)

    put(mail, sent.digest, STRANGER_SIGNS, names=("mallory",), state=mail.bob, is_message=True)

    assert check(mail, sent.digest).verified.name == ALICE


def test_approval_of_a_message_counts_only_if_the_policy_says_so(mail):
    sent = mail.send()
    put(mail, sent.digest)
    policy = Policy(senders=KNOWS_ALICE.senders, accept_cosign_sign=True)

    assert check(mail, sent.digest, trust(policy)).verified.approval
    with pytest.raises(VerificationError, match="accept_cosign_sign"):
        check(mail, sent.digest)


def test_sign_attaches_nothing_that_failed(mail):
    class Failing:
        signed_by = ALICE_SIGNS.signed_by

        def approve(self, name, digest):
            raise NetworkError("no Fulcio")

    index(mail)
    before = set(mail.tags())

    with pytest.raises(NetworkError):
        put(mail, "v1", Failing())

    assert set(mail.tags()) == before


# --- files ---------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("hello")
    return path


def test_verify_file_says_who_signed_it(file):
    done = sign_file(file, ALICE_SIGNS)
    clock = FakeClock()

    found = verify_file(file, done.bundle, trust=trust(), clock=clock)

    assert (found.what, found.digest, found.verified.name) == ("file", done.subject, ALICE)
    assert done.attached is None
    with pytest.raises(UnknownSender):
        verify_file(file, sign_file(file, STRANGER_SIGNS).bundle, trust=trust(), clock=clock)
    file.write_text("hell0")
    with pytest.raises(VerificationError):
        verify_file(file, done.bundle, trust=trust(), clock=clock)


def test_verify_file_refuses_what_a_messages_signature_is_over(mail, tmp_path):
    """With one key the signature of a message is one over a file: that of its envelope's bytes."""
    message = message_of(mail, mail.send())
    data, _ = read_all(mail.reader.get_manifest(REPOSITORY, message.digest), MAX_MANIFEST_BYTES)
    envelope = parse_bundle_json(ALICE_SIGNS.sign(message, data)).envelope
    path = tmp_path / "file"
    path.write_bytes(pae(envelope.payload_type, envelope.payload))
    forged = {
        "mediaType": ARTIFACT_TYPE_BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": ALICES.public_key().spki_sha256}},
        "messageSignature": {
            "messageDigest": {
                "algorithm": "SHA2_256",
                "digest": base64_text(hashlib.sha256(path.read_bytes()).digest()),
            },
            "signature": base64_text(envelope.signature),
        },
    }
    bundle = json.dumps(forged).encode()

    with pytest.raises(VerificationError, match="DSSEv1"):
        verify_file(path, bundle, trust=trust(), clock=FakeClock())
    digest = digest_of(path.read_bytes())
    terms = trust().terms("", FakeClock())
    assert verify_approval(bundle, digest, terms, title="x").name == ALICE  # what it would be


def test_verify_file_needs_a_file_and_a_bundle(file, tmp_path):
    clock = FakeClock()

    with pytest.raises(LocalIOError):
        sign_file(tmp_path / "missing", ALICE_SIGNS)
    with pytest.raises(ProtocolError):
        verify_file(file, b"{}", trust=trust(), clock=clock)

"""Floods: what anybody who may write to a repository can put before a message that is good.

Small here, at full size in scripts/acceptance; the bounds are the same.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import pytest

from dockercomms.messages.publish import bundle_layer
from dockercomms.messages.verify import judge_entries
from dockercomms.oci.memory import MemoryRegistry
from dockercomms.oci.model import MEDIA_TYPE_MANIFEST, Digest
from dockercomms.protocol.header import PREDICATE_TYPE_MESSAGE
from dockercomms.protocol.manifest import ManifestBuilder, Message
from dockercomms.protocol.tags import bundle_tag, message_tag, recipient_tag
from dockercomms.trust.bundle import BUNDLE_PREDICATE_TYPE, BUNDLE_SIGNER
from tests.fakes.mail import BOB, REPO, REPOSITORY, Mail, message_of
from tests.fakes.people import ALICE_SIGNS, ALICES, Judging, sign_as_others_do
from tests.fakes.watched import WatchedRegistry

FULL = os.environ.get("DOCKERCOMMS_TEST_SIZE") == "full"
JUNK_BUNDLES = 10_000 if FULL else 300


def junk_bundles(mail: Mail, message: Message, number: int, *, named: bool, tagged: bool) -> None:
    """Attach bundles that prove nothing; `named`: they say that Alice's key signed them."""
    publisher = mail.publisher()
    publisher.push_layer(b"{}")
    layer = bundle_layer(b"{}")
    annotations = {BUNDLE_PREDICATE_TYPE: PREDICATE_TYPE_MESSAGE}
    if named:
        annotations[BUNDLE_SIGNER] = ALICES.public_key().spki_sha256
    for count in range(number):
        builder = ManifestBuilder.bundle(
            message.descriptor.bare(), {**annotations, "count": str(count)}, layer
        )
        tag = bundle_tag(message.digest, mail.clock.now(), layer.digest) + f"{count:08}"
        mail.reader.push_manifest(
            REPOSITORY, builder.build()[0], MEDIA_TYPE_MANIFEST, tags=[tag] if tagged else []
        )


@pytest.mark.parametrize("tagged", [True, False], ids=["tagged", "referring"])
@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
def test_a_message_is_proven_in_one_run_whatever_bundles_are_before_its_own(
    tmp_path, named, tagged
):
    """SPEC.md 8.4: up to 20,000 of each kind and source."""
    mail = Mail(tmp_path)
    message = message_of(mail, mail.send())
    junk_bundles(mail, message, JUNK_BUNDLES, named=named, tagged=tagged)
    sign_as_others_do(mail, message)

    assert Judging(mail).verifier().verify(message).status == "valid"
    mail.close()


def test_a_bundle_that_names_its_signer_is_the_first_one_read(tmp_path):
    mail = Mail(tmp_path)
    message = message_of(mail, mail.send(signer=ALICE_SIGNS))
    junk_bundles(mail, message, JUNK_BUNDLES, named=False, tagged=True)
    verifier = Judging(mail).verifier()
    mail.registry.calls.clear()

    assert verifier.verify(message).status == "valid"
    assert mail.registry.methods().count("get_manifest") <= 32
    mail.close()


SPAM_TAGS = 100_000 if FULL else 150
BARE_TAGS = 20_000 if FULL else 150
"""Fewer, as it takes a run for each 300 of them in the worst case, and each lists all."""
FETCHES = 2_000 if FULL else 20


def spam(mail: Mail, number: int) -> None:
    """Put tags into Bob's inbox, older than any message, that lead to what is no message."""
    data, _ = ManifestBuilder.inbox_anchor("other", mail.clock.now().date()).build()
    day = mail.clock.now() - timedelta(days=1)
    tags = [message_tag(recipient_tag(BOB), day, Digest(f"sha256:{n:064x}")) for n in range(number)]
    tags = [tag[:-16] + f"{n:016x}" for n, tag in enumerate(tags)]
    mail.reader.push_manifest(REPOSITORY, data, MEDIA_TYPE_MANIFEST, tags=tags)


def runs_until_found(mail: Mail, digest: Digest, *, most: int, **options: Any) -> int:
    """Return how many runs it takes to read a message and prove its sender."""
    for run in range(1, most + 1):
        inbox = mail.inbox(max_fetched=FETCHES, **options)
        inbox.poll()
        entries = inbox.receivable()
        judge_entries(inbox, entries, Judging(mail).verifier())
        judged = mail.bob.trust.judgement(BOB, REPO, digest)
        if judged is not None:
            assert judged.status == "valid"
            return run
        assert inbox.waiting > 0  # never "no new messages" while something waits
        mail.clock.advance(60)
    raise AssertionError(f"not found in {most} runs")


def test_a_listed_message_is_found_in_one_run_whatever_tags_there_are(tmp_path):
    mail = Mail(tmp_path)
    sent = mail.send(signer=ALICE_SIGNS)
    spam(mail, SPAM_TAGS)

    assert runs_until_found(mail, sent.digest, most=1) == 1
    mail.close()


def without_referrers(tmp_path) -> Mail:
    mail = Mail(tmp_path)
    mail.registry = WatchedRegistry(MemoryRegistry(clock=mail.clock, referrers=False))
    return mail


def test_a_signed_message_that_only_its_tag_shows_is_found_in_one_run(tmp_path):
    """SPEC.md 7.6: those for which a bundle is tagged have turns of their own."""
    mail = without_referrers(tmp_path)
    sent = mail.send(signer=ALICE_SIGNS, referrers_index="never")
    spam(mail, SPAM_TAGS)
    mail.registry.calls.clear()

    assert runs_until_found(mail, sent.digest, most=1) == 1
    asked = [arguments for method, arguments in mail.registry.calls if method == "get_tag"]
    assert sum(tag.startswith("inbox-") for _, tag in asked) <= FETCHES
    mail.close()


def test_a_signed_message_is_found_within_the_runs_that_spec_states(tmp_path):
    """SPEC.md 7.6: k candidates with tagged bundles before it cost k/300 runs of 2,000 fetches."""
    mail = without_referrers(tmp_path)
    sent = mail.send(signer=ALICE_SIGNS, referrers_index="never")
    spam(mail, BARE_TAGS)
    data, _ = ManifestBuilder.inbox_anchor("other", mail.clock.now().date()).build()
    tags = [f"bundle-{n >> 16:012x}-1-000000" for n in range(0, BARE_TAGS << 16, 1 << 16)]
    mail.reader.push_manifest(REPOSITORY, data, MEDIA_TYPE_MANIFEST, tags=tags)

    most = 1 + -(-BARE_TAGS * 20 // (3 * FETCHES))
    assert 1 < runs_until_found(mail, sent.digest, most=most) <= most
    mail.close()


def test_a_message_without_a_tagged_bundle_is_found_within_the_runs_that_spec_states(tmp_path):
    """SPEC.md 7.6: k candidates before it in its queue cost k/300 runs of 2,000 fetches at most."""
    mail = Mail(tmp_path)
    sent = mail.send()
    sign_as_others_do(mail, message_of(mail, sent), tagged=False)
    spam(mail, BARE_TAGS)

    most = 1 + -(-BARE_TAGS * 20 // (3 * FETCHES))
    assert 1 < runs_until_found(mail, sent.digest, most=most, discovery="tags") <= most
    mail.close()

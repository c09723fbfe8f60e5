"""Floods: what anybody who may write to a repository can put before a message that is good.

Small here, at full size in scripts/acceptance; the bounds are the same.
"""

from __future__ import annotations

import os

import pytest

from dockercomms.bundles import BUNDLE_PREDICATE_TYPE, BUNDLE_SIGNER
from dockercomms.manifest import ManifestBuilder, Message
from dockercomms.oci.model import MEDIA_TYPE_MANIFEST
from dockercomms.protocol import PREDICATE_TYPE_MESSAGE, bundle_tag
from dockercomms.publishing import bundle_layer
from tests.fakes.mail import REPOSITORY, Mail, message_of
from tests.fakes.people import ALICE_SIGNS, ALICES, Judging, sign_as_others_do

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

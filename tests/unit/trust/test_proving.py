from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from dockercomms.errors import VerificationError
from dockercomms.messages.receipts import build_receipt
from dockercomms.protocol.manifest import parse_message, parse_receipt
from dockercomms.trust.keyless import KeylessOptions, KeylessSigner
from dockercomms.trust.signing import SignedBy
from dockercomms.trust.verifier import prove_own, prove_own_receipt
from tests.fakes.clock import FakeClock
from tests.fakes.inboxes import HabitRegistry
from tests.fakes.inboxes import Sender as Author
from tests.fakes.people import ALICE_SIGNS, STRANGER_SIGNS
from tests.fakes.sigstore import SigstoreStub

REPO = "registry.example/team/box"


def built(**changes):
    clock = FakeClock()
    author = Author(HabitRegistry(clock=clock), clock)
    data = author.build(**changes)
    return parse_message(data), data, clock.now()


def prove(message, bundle, signed_by=ALICE_SIGNS.signed_by, *, now):
    prove_own(message, bundle, signed_by, repo=REPO, now=now)


@pytest.mark.parametrize("audience", [None, "registry.example/elsewhere"])
def test_prove_own_takes_what_was_signed(audience):
    message, data, now = built(audience=audience)

    prove(message, ALICE_SIGNS.sign(message, data), now=now)


def test_prove_own_refuses_another_key():
    message, data, now = built()

    with pytest.raises(VerificationError, match="expected"):
        prove(message, STRANGER_SIGNS.sign(message, data), now=now)


def test_prove_own_refuses_another_message():
    message, _, now = built()
    other, data, _ = built(title="other")

    with pytest.raises(VerificationError, match="the signature is for"):
        prove(message, ALICE_SIGNS.sign(other, data), now=now)


@pytest.mark.parametrize("garbage", [b"", b"{}", b"null"])
def test_prove_own_refuses_garbage(garbage):
    message, _, now = built()

    with pytest.raises(VerificationError):
        prove(message, garbage, now=now)


def test_prove_own_takes_a_keyless_bundle_for_what_its_signer_proved(tmp_path):
    with SigstoreStub(tmp_path) as stub:
        moment = stub.now("fulcio").replace(microsecond=0)
        message, data, _ = built(created_at=moment)
        signer = KeylessSigner(
            KeylessOptions(
                token=stub.token("alice@example.com"),
                trusted_root=stub.trusted_root,
                signing_config=stub.signing_config,
            )
        )
        bundle = signer.sign(message, data)

    prove(message, bundle, signer.signed_by, now=moment)
    with pytest.raises(VerificationError):
        prove(message, bundle, SignedBy("key", "x"), now=moment)
    late = moment + timedelta(hours=2)
    with pytest.raises(VerificationError, match="signed"):
        prove(message, bundle, signer.signed_by, now=late)


def receipt_of(message, now):
    data, _ = build_receipt(message, status="accepted", at=now)
    return parse_receipt(data)


def test_prove_own_receipt_takes_what_was_signed():
    message, _, now = built()
    receipt = receipt_of(message, now)

    prove_own_receipt(receipt, ALICE_SIGNS.sign_receipt(receipt), ALICE_SIGNS.signed_by)


@pytest.mark.parametrize("change", [{"status": "rejected"}, {"reason": "x"}, {"verified": True}])
def test_prove_own_receipt_refuses_what_says_something_else(change):
    message, _, now = built()
    receipt = receipt_of(message, now)
    bundle = ALICE_SIGNS.sign_receipt(replace(receipt, **change))

    with pytest.raises(VerificationError):
        prove_own_receipt(receipt, bundle, ALICE_SIGNS.signed_by)

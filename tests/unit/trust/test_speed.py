"""What signing and verifying cost, in calls of functions: no other load on the machine changes it."""

from __future__ import annotations

import sys
from collections.abc import Callable

from dockercomms.trust.policy import Policy, Sender
from dockercomms.trust.signing import KeySigner
from dockercomms.trust.verifier import verify_message, verify_receipt
from tests.unit.trust import keyless
from tests.unit.trust.signed import (
    ALICE,
    BOB,
    KEYS,
    manifest,
    message,
    policy,
    receipt,
    sender,
    signed,
    signed_receipt,
    terms,
)

SIGN_CALLS = 400
VERIFY_CALLS = 700
KEYLESS_CALLS = 5_500


def calls(work: Callable[[], object]) -> int:
    """Return how many functions a call of `work` calls, after one that fills caches."""
    work()
    count = 0

    def note(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def test_signing_with_a_key_is_quick():
    signer, about, data = KeySigner(KEYS[ALICE]), message(), manifest()
    assert calls(lambda: signer.sign(about, data)) <= SIGN_CALLS


def test_verifying_with_a_key_is_quick():
    about, bundle, given = message(), signed(), terms()
    assert calls(lambda: verify_message(about, [bundle], given)) <= VERIFY_CALLS


def test_verifying_against_a_large_address_book_is_quick():
    others = tuple(Sender(name=f"{number}@example.com") for number in range(999))
    given = terms(Policy(senders=(*others, *policy().senders)))
    about, bundle = message(), signed()
    assert calls(lambda: verify_message(about, [bundle], given)) <= VERIFY_CALLS


def test_verifying_a_receipt_is_quick():
    about, bundle, given = receipt(), signed_receipt(), terms(policy(sender(BOB)), me=(ALICE,))
    assert calls(lambda: verify_receipt(about, [bundle], given)) <= VERIFY_CALLS


def test_verifying_keyless_is_quick(sigstore):
    about, bundle = keyless.signed_now(sigstore)
    given = keyless.terms(keyless.policy(sigstore))
    assert calls(lambda: verify_message(about, [bundle], given)) <= KEYLESS_CALLS

"""What signing and verifying cost in CPU time; the best of a few, on a machine that others use."""

from __future__ import annotations

import time
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

SIGN_SECONDS = 0.030
VERIFY_SECONDS = 0.010
RUNS = 9


def best(work: Callable[[], object]) -> float:
    """Return the least CPU time of a few calls, after one that fills caches."""
    work()
    taken = []
    for _ in range(RUNS):
        begin = time.process_time()
        work()
        taken.append(time.process_time() - begin)
    return min(taken)


def test_signing_with_a_key_is_quick():
    signer, about, data = KeySigner(KEYS[ALICE]), message(), manifest()
    assert best(lambda: signer.sign(about, data)) <= SIGN_SECONDS


def test_verifying_with_a_key_is_quick():
    about, bundle, given = message(), signed(), terms()
    assert best(lambda: verify_message(about, [bundle], given)) <= VERIFY_SECONDS


def test_verifying_against_a_large_address_book_is_quick():
    others = tuple(Sender(name=f"{number}@example.com") for number in range(999))
    given = terms(Policy(senders=(*others, *policy().senders)))
    about, bundle = message(), signed()
    assert best(lambda: verify_message(about, [bundle], given)) <= VERIFY_SECONDS


def test_verifying_a_receipt_is_quick():
    about, bundle, given = receipt(), signed_receipt(), terms(policy(sender(BOB)), me=(ALICE,))
    assert best(lambda: verify_receipt(about, [bundle], given)) <= VERIFY_SECONDS


def test_verifying_keyless_is_quick(sigstore):
    about, bundle = keyless.signed_now(sigstore)
    given = keyless.terms(keyless.policy(sigstore))
    assert best(lambda: verify_message(about, [bundle], given)) <= VERIFY_SECONDS

"""Benchmark the verification of signatures in this process."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from measuring import Bench, Result

from dockercomms.protocol.manifest import Message
from dockercomms.trust.checks import Terms
from dockercomms.trust.policy import Policy, Sender
from dockercomms.trust.verifier import verify_message
from tests.fakes.sigstore import SigstoreStub
from tests.unit.trust import keyless, signed

VERIFICATIONS = 300
SENDERS = 1_000


def _verify(about: Message, bundles: Sequence[bytes], terms: Terms) -> None:
    for _ in range(VERIFICATIONS):
        verify_message(about, bundles, terms)


def address_book(bench: Bench) -> Result:
    """Verify a signed message with a large address book; compare with a book of one sender."""
    others = tuple(Sender(name=f"{number}@example.com") for number in range(SENDERS - 1))
    books = {f"{SENDERS:,} senders": (*others, signed.sender()), "one sender": (signed.sender(),)}
    verify = partial(_verify, signed.message(), (signed.signed(),))
    return bench.compare(
        f"{VERIFICATIONS} verifications with a key",
        {name: partial(verify, signed.terms(Policy(senders=book))) for name, book in books.items()},
        bar=1.5,
    )


def keyless_proof(bench: Bench) -> Result:
    """Verify a keyless signature; compare with the signature of a key."""
    with SigstoreStub(bench.folder) as stub:
        about, bundle = keyless.signed_now(stub)
        trusted = keyless.terms(keyless.policy(stub))
        return bench.compare(
            f"{VERIFICATIONS} keyless verifications",
            {
                "keyless": partial(_verify, about, (bundle,), trusted),
                "key": partial(_verify, signed.message(), (signed.signed(),), signed.terms()),
            },
            bar=15,
        )

from __future__ import annotations

from dataclasses import replace

from dockercomms.trust.bundle import PAYLOAD_TYPE_INTOTO, pae, sign, verify
from tests.unit.trust.signed import ALICE, BOB, KEYS, public


def test_pae_is_that_of_the_specification_and_counts_bytes():
    # Source: DSSE v1.0.2, protocol.md, test vectors
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )
    assert pae("\u00e9", b"") == b"DSSEv1 2 \xc3\xa9 0 "  # lengths in bytes


def test_envelope_verifies_with_its_key_only_and_whole():
    envelope = sign(b"payload", KEYS[ALICE])
    assert envelope.payload_type == PAYLOAD_TYPE_INTOTO
    assert verify(envelope, public(ALICE))
    assert not verify(envelope, public(BOB))
    for change in ({"payload": b"Payload"}, {"payload_type": "x"}, {"signature": b""}):
        assert not verify(replace(envelope, **change), public(ALICE))

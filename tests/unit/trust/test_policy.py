from __future__ import annotations

from datetime import timedelta

import pytest

from dockercomms.trust.policy import (
    InboxRule,
    Policy,
    Revocation,
    Sender,
    TrustedKey,
    matches_pattern,
)
from tests.unit.trust.signed import ALICE, BOB, CAROL, NOW, REPO, public, sender

SECOND = timedelta(seconds=1)


def test_empty_policy_trusts_nobody_and_holds():
    empty = Policy()
    assert (empty.unsigned, empty.unknown_sender) == ("hold", "hold")
    assert empty.sender(ALICE) is None
    assert not empty.accepts_unsigned(ALICE, REPO)
    assert not empty.accept_cosign_sign


def test_sender_is_found_byte_for_byte():
    rules = Policy(senders=(sender(ALICE), sender(BOB)))
    assert rules.sender(BOB) is rules.senders[1]
    for name in (ALICE.upper(), ALICE + " ", ""):
        assert rules.sender(name) is None


@pytest.mark.parametrize(
    ("after", "before", "expected"),
    [
        (None, None, True),
        (NOW, None, True),
        (NOW + SECOND, None, False),
        (None, NOW + SECOND, True),
        (None, NOW, False),
        (NOW, NOW, False),
    ],
)
def test_key_is_valid_from_and_until(after, before, expected):
    key = TrustedKey(key=public(ALICE), valid_after=after, valid_before=before)
    assert key.valid_at(NOW) is expected


def test_sender_without_limits_may_send_anything():
    for kind in ("message", "receipt"):
        assert Sender(name=ALICE).may(kind, recipient=BOB, repo=REPO)


def test_sender_is_limited_in_three_ways():
    limited = Sender(name=ALICE, recipients=(BOB,), repositories=("r/*",), kinds=("message",))
    assert limited.may("message", recipient=BOB, repo="r/x")
    assert not limited.may("receipt", recipient=BOB, repo="r/x")
    assert not limited.may("message", recipient=CAROL, repo="r/x")
    assert not limited.may("message", recipient=BOB, repo="s/x")


@pytest.mark.parametrize(
    ("repo", "pattern", "expected"),
    [
        ("r.example/a/b", "r.example/*", True),
        ("r.example/a/b", "*/b", True),
        ("r.example/a/b", "*", True),
        ("r.example/a", "r.example/a", True),
        ("r.example/ab", "r.example/a", False),
        ("rxexample/a", "r.example/a", False),
        ("[::1]:5000/a", "[::1]:5000/*", True),
        ("1:5000/a", "[::1]:5000/*", False),
        ("r/a", "r/?", False),
        ("r/a\nb", "r/*", True),
        ("evil.example/r.example/a", "r.example/*", False),
    ],
)
def test_pattern_knows_nothing_but_the_star(repo, pattern, expected):
    assert matches_pattern(repo, pattern) is expected


def test_unsigned_is_let_in_for_a_sender_or_for_an_inbox():
    rules = Policy(
        senders=(Sender(name=ALICE, allow_unsigned=True), Sender(name=BOB)),
        inboxes=(InboxRule(repository=REPO, accept_unsigned=True),),
    )
    assert rules.accepts_unsigned(ALICE, "elsewhere")
    assert rules.accepts_unsigned(BOB, REPO)
    assert not rules.accepts_unsigned(BOB, "elsewhere")
    assert rules.accepts_unsigned(CAROL, REPO)


@pytest.mark.parametrize(
    ("since", "signed_at", "expected"),
    [
        (None, None, True),
        (None, NOW, True),
        (NOW, None, True),
        (NOW, NOW, True),
        (NOW, NOW + SECOND, True),
        (NOW, NOW - SECOND, False),
    ],
)
def test_revocation_covers_what_is_not_proven_to_be_older(since, signed_at, expected):
    assert Revocation(identity=ALICE, since=since).covers(signed_at) is expected


def test_revocation_is_of_a_key_or_of_an_identity():
    of_key = Revocation(spki_sha256=public(ALICE).spki_sha256, since=NOW)
    of_identity = Revocation(identity=BOB)
    rules = Policy(revoked=(of_key, of_identity))
    assert rules.revocation_of_key(public(ALICE), NOW) is of_key
    assert rules.revocation_of_key(public(ALICE), NOW - SECOND) is None
    assert rules.revocation_of_key(public(BOB), NOW) is None
    assert rules.revocation_of_identity(BOB, NOW) is of_identity
    assert rules.revocation_of_identity(ALICE, NOW) is None

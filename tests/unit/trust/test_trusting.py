from __future__ import annotations

import pytest

from dockercomms.errors import LocalIOError
from dockercomms.trust.owner import Trust
from dockercomms.trust.policy import Policy, Root
from tests.fakes.clock import FakeClock
from tests.fakes.mail import ALICE, BOB
from tests.fakes.people import ALICES, BOBS, KNOWS_ALICE, ROOTS, knows


def trust(**changes) -> Trust:
    return Trust(**{"me": (BOB,), "roots": ROOTS, **changes})


def test_terms_are_those_of_the_moment():
    clock = FakeClock()

    terms = trust(policy=KNOWS_ALICE, own_key=BOBS.public_key()).terms("r.example/box", clock)

    assert (terms.me, terms.repo, terms.now) == ((BOB,), "r.example/box", clock.now())
    assert (terms.policy, terms.own_key) == (KNOWS_ALICE, BOBS.public_key())


def test_fingerprint_changes_with_all_that_matters(tmp_path):
    root = tmp_path / "root.json"
    root.write_text("one")
    rooted = Policy(roots={"acme": Root(name="acme", path=root)})
    seen = {
        trust().fingerprint(),
        trust(me=(BOB, "team")).fingerprint(),
        trust(own_key=BOBS.public_key()).fingerprint(),
        trust(policy=KNOWS_ALICE).fingerprint(),
        trust(policy=Policy(senders=(knows(ALICE, BOBS),))).fingerprint(),
        trust(policy=rooted).fingerprint(),
    }
    root.write_text("two")
    seen.add(trust(policy=rooted).fingerprint())

    assert len(seen) == 7
    assert trust(policy=KNOWS_ALICE).fingerprint() == trust(policy=KNOWS_ALICE).fingerprint()


def test_fingerprint_needs_the_files_of_roots(tmp_path):
    policy = Policy(roots={"acme": Root(name="acme", path=tmp_path / "missing.json")})

    with pytest.raises(LocalIOError, match="root acme"):
        trust(policy=policy).fingerprint()


def test_keys_of_the_tests_are_two():
    assert ALICES.public_key() != BOBS.public_key()

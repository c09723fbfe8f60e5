from __future__ import annotations

import pytest

from dockercomms.trust.owner import reason_not_to_pin

ALICE = "alice@example.com"


@pytest.mark.parametrize(
    "name", ["carol", "carol@example.com", "Carol Smith", "josé@example.com", "team-a/ci", "x"]
)
def test_an_ordinary_name_may_be_pinned(name):
    assert reason_not_to_pin(name, known=[ALICE, "bob"]) is None


def test_a_name_does_not_stand_in_its_own_way():
    assert reason_not_to_pin(ALICE, known=[ALICE]) is None


@pytest.mark.parametrize(
    "name",
    [
        "Alice@Example.com",
        "aIice@example.com",
        "a1ice@example.com",
        "alice@examp1e.com",
        "alice@example.c0m",
        "alice@exarnple.com",
        "älice@example.com",
        "a|ice@example.com",
    ],
)
def test_a_name_that_looks_like_a_known_one_is_not_pinned(name):
    assert reason_not_to_pin(name, known=["bob", ALICE]) == f"it looks like {ALICE!r}"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "empty"),
        (" carol", "space"),
        ("carol\t", "space"),
        ("carol\u00a0", "space"),
        ("c\u0430rol", "U+0430"),
        ("carol\u200d", "U+200D"),
        ("carol\ufe0f", "U+FE0F"),
        ("carol\u00ad", "U+00AD"),
        ("car\u034fol", "U+034F"),
        ("\u202ecarol", "U+202E"),
        ("carol\U000e0041", "U+E0041"),
        ("car\u3164ol", "NFKC"),
        ("car\nol", "U+000A"),
        ("\uff43arol", "NFKC"),
        ("cafe\u0301", "NFKC"),
        ("c\u0131rol", "U+0131"),
        ("ca\u2000rol", "NFKC"),
    ],
)
def test_a_name_that_cannot_be_judged_is_not_pinned(name, reason):
    assert reason in (reason_not_to_pin(name, known=[]) or "")


@pytest.mark.parametrize(
    ("known", "name"),
    [("\u0430lice", "alice"), ("\u0440\u0430ul", "paul"), ("b\u200bob", "bob"), ("Bjørn", "bjorn")],
)
def test_a_known_name_of_other_letters_counts_as_what_it_may_look_like(known, name):
    assert reason_not_to_pin(name, known=[known]) == f"it looks like {known!r}"


def test_no_name_takes_long_to_compare_with_a_known_one_of_other_letters():
    """A pattern with a choice for each letter would not end within the life of the machine."""
    known = ["Ж" * 60 + "@почта.example"]
    assert reason_not_to_pin("a" * 121 + "@x.example", known=known) is None
    assert reason_not_to_pin("a" * 120 + "@x.example", known=known) is not None

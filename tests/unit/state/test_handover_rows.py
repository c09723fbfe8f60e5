from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from dockercomms.oci.model import digest_of
from dockercomms.state import State

NOW = datetime(2026, 11, 20, tzinfo=UTC)
ONE, TWO = digest_of(b"1"), digest_of(b"2")


@pytest.fixture
def rows(tmp_path):
    with State(tmp_path / "state.db") as state:
        yield state.handovers


def test_what_is_owed_is_settled_once(rows):
    rows.owe("bob", TWO, repo="r", signer="alice\udc80", now=NOW)
    rows.owe("bob", ONE, repo="r", signer=None, now=NOW + timedelta(seconds=1))
    rows.owe("carol", ONE, repo="r", signer=None, now=NOW)
    rows.owe("bob", digest_of(b"3"), repo="other", signer=None, now=NOW)
    assert [(row.digest, row.signer) for row in rows.owed("bob", "r")] == [
        (TWO, "alice\\udc80"),
        (ONE, None),
    ]
    rows.settle("bob", TWO)
    assert [row.digest for row in rows.owed("bob", "r")] == [ONE]
    assert rows.begin("bob", TWO) is None


def test_attempts_are_counted_until_it_is_owed_anew(rows):
    rows.owe("bob", ONE, repo="r", signer=None, now=NOW)
    assert [rows.begin("bob", ONE).attempts for _ in range(3)] == [1, 2, 3]
    rows.owe("bob", ONE, repo="r", signer=None, now=NOW)
    assert rows.begin("bob", ONE).attempts == 1

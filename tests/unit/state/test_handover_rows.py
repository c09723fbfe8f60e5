from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from dockercomms.oci.model import MEDIA_TYPE_MANIFEST, Descriptor
from dockercomms.state import State

NOW = datetime(2026, 11, 20, tzinfo=UTC)
A, B, C = (
    Descriptor.of(data, MEDIA_TYPE_MANIFEST, annotations={"dockercomms.title": "\udc80"})
    for data in (b"1", b"2", b"3")
)
ONE, TWO = A.digest, B.digest


@pytest.fixture
def rows(tmp_path):
    with State(tmp_path / "state.db") as state:
        yield state.handovers


def test_what_is_owed_is_settled_once(rows):
    rows.owe("bob", B, repo="r", signer="alice\udc80", now=NOW)
    rows.owe("bob", A, repo="r", signer=None, now=NOW + timedelta(seconds=1))
    rows.owe("carol", A, repo="r", signer=None, now=NOW)
    rows.owe("bob", C, repo="other", signer=None, now=NOW)
    assert [(row.digest, row.signer) for row in rows.owed("bob", "r")] == [
        (TWO, "alice\\udc80"),
        (ONE, None),
    ]
    assert rows.owed("bob", "r")[0].descriptor == B
    rows.settle("bob", TWO)
    assert [row.digest for row in rows.owed("bob", "r")] == [ONE]
    assert rows.begin("bob", TWO) is None


def test_attempts_are_counted_until_it_is_owed_anew(rows):
    rows.owe("bob", A, repo="r", signer=None, now=NOW)
    assert [rows.begin("bob", ONE).attempts for _ in range(3)] == [1, 2, 3]
    rows.owe("bob", A, repo="r", signer=None, now=NOW)
    assert rows.begin("bob", ONE).attempts == 1

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from rfc3161_client import HashAlgorithm, TimestampRequestBuilder

from dockercomms.errors import ConfigError, SigningError, SigningUnreachable
from dockercomms.trust.keyless import SigstoreRoots, timestamp_source
from dockercomms.trust.policy import PUBLIC_ROOT, Root
from dockercomms.trust.roots import read_root
from dockercomms.trust.timestamps import TimestampAuthority, authorities_of, earliest_time
from tests.fakes.sigstore_certificates import Holder
from tests.fakes.sigstore_time import time_stamp

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
TOP = Holder.root("top", depth=2)
MIDDLE = TOP.issue("middle", depth=0, usage=ExtendedKeyUsageOID.TIME_STAMPING)
CLOCK = MIDDLE.issue("clock", depth=None, usage=ExtendedKeyUsageOID.TIME_STAMPING, critical=True)


def authority(*chain: Holder, start=NOW - DAY, end=None) -> TimestampAuthority:
    return TimestampAuthority(
        chain=tuple(item.der for item in chain or (CLOCK, MIDDLE, TOP)),
        valid_from=start,
        valid_until=end,
    )


def token(signature: bytes = b"signature", moment: datetime = NOW, by: Holder = CLOCK) -> bytes:
    builder = TimestampRequestBuilder().hash_algorithm(HashAlgorithm.SHA256)
    query = builder.data(signature).nonce(nonce=True).build()
    return time_stamp(query.as_bytes(), by, moment)


def test_time_is_proven_through_a_chain():
    assert earliest_time([token()], b"signature", [authority()]) == NOW


def test_earliest_proven_time_counts():
    tokens = [token(moment=NOW + DAY), token(moment=NOW), token(b"other", NOW - DAY)]
    assert earliest_time(tokens, b"signature", [authority()]) == NOW


def test_second_authority_is_asked_where_the_first_proves_nothing():
    other = Holder.root("other")
    authorities = [authority(other, other), authority()]
    assert earliest_time([token()], b"signature", authorities) == NOW


@pytest.mark.parametrize(
    ("given", "authorities"),
    [
        ([], [authority()]),
        ([token()], []),
        ([token(b"other")], [authority()]),
        ([b""], [authority()]),
        ([b"\x30\x00"], [authority()]),
        ([token()[:-1]], [authority()]),
        ([token()], [authority(CLOCK)]),
        ([token()], [authority(TOP, TOP)]),
        ([token(by=Holder.root("own"))], [authority()]),
    ],
)
def test_nothing_is_proven(given, authorities):
    assert earliest_time(given, b"signature", authorities) is None


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (NOW, NOW, NOW),
        (NOW - DAY, NOW + DAY, NOW),
        (NOW + timedelta(seconds=1), None, None),
        (NOW - DAY, NOW - timedelta(seconds=1), None),
    ],
)
def test_validity_of_an_authority_includes_both_ends(start, end, expected):
    given = authority(start=start, end=end)
    assert earliest_time([token()], b"signature", [given]) == expected


@pytest.mark.parametrize("at", range(0, 1000, 37))
def test_damaged_time_stamp_proves_nothing_and_raises_nothing(at):
    data = bytearray(token())
    data[at % len(data)] ^= 0xFF
    assert earliest_time([bytes(data)], b"signature", [authority()]) in (None, NOW)


def test_authorities_of_the_public_root():
    found = SigstoreRoots().authorities(Root(name=PUBLIC_ROOT))
    assert found == authorities_of(read_root(Root(name=PUBLIC_ROOT)), where="x")
    assert all(len(item.chain) >= 2 for item in found)


@pytest.mark.parametrize(
    "item",
    [
        None,
        {},
        {"certChain": {}},
        {"certChain": {"certificates": [{"rawBytes": "?"}]}, "validFor": {"start": "2026"}},
        {"certChain": {}, "validFor": {"start": "2026"}},
        {"certChain": {}, "validFor": {"start": "2026-01-01T00:00:00Z", "end": 1}},
    ],
)
def test_authority_that_is_none_is_refused(item):
    with pytest.raises(ConfigError, match="x"):
        authorities_of({"timestampAuthorities": [item]}, where="x")


def test_root_without_authorities_has_none():
    assert authorities_of({}, where="x") == ()


def test_source_gives_the_answer_of_the_authority(sigstore):
    before = datetime.now(UTC).replace(microsecond=0)
    found = timestamp_source(sigstore.instance.tsa_url)(b"signature")
    root = Root(name="stub", path=sigstore.trusted_root)
    moment = SigstoreRoots().signed_at([found], b"signature", [root])
    assert before <= moment <= datetime.now(UTC)


def test_source_that_is_down_is_named(sigstore):
    sigstore.fail.add("tsa")
    with pytest.raises(SigningUnreachable, match=r"127\.0\.0\.1:\d+: no timestamp received: 500"):
        timestamp_source(sigstore.instance.tsa_url)(b"signature")
    with pytest.raises(SigningUnreachable, match=r"127\.0\.0\.1:1: no timestamp received"):
        timestamp_source("http://127.0.0.1:1/tsa")(b"signature")


def test_source_that_is_silent_is_given_up(sigstore):
    sigstore.silent.add("tsa")
    with pytest.raises(SigningUnreachable, match=r"no timestamp received: .*timed out"):
        timestamp_source(sigstore.instance.tsa_url, timeout_seconds=0.2)(b"signature")


def test_source_that_answers_nonsense_is_refused(sigstore):
    sigstore.garbage.add("tsa")
    with pytest.raises(SigningError, match="not a timestamp"):
        timestamp_source(sigstore.instance.tsa_url)(b"signature")


def test_source_that_answers_for_something_else_is_refused(sigstore):

    old = token(b"old")
    sigstore.time_stamp = lambda request: old
    try:
        with pytest.raises(SigningError, match="the timestamp is for other content"):
            timestamp_source(sigstore.instance.tsa_url)(b"signature")
    finally:
        del sigstore.time_stamp

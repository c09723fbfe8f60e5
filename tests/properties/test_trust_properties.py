"""Properties of every bundle and statement, honest or not."""

from __future__ import annotations

import base64
import json
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import tomlkit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dockercomms.errors import VerificationError
from dockercomms.oci.model import Digest
from dockercomms.protocol.fields import format_time
from dockercomms.trust.bundle import Envelope, build_key_bundle, parse_bundle_json
from dockercomms.trust.policy_file import parse_policy
from dockercomms.trust.statement import (
    MessagePredicate,
    ReceiptPredicate,
    build_statement,
    parse_statement,
)
from dockercomms.trust.verifier import verify_message
from tests.fakes.examples import examples
from tests.fakes.fuzzing import places
from tests.fakes.sigstore import SigstoreStub
from tests.unit.trust import keyless, signed
from tests.unit.trust.signed import ALICE

MANY = settings(
    max_examples=examples(150),
    suppress_health_check=[HealthCheck.too_slow],
    database=None,
)
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)
DIGESTS = st.binary(min_size=32, max_size=32).map(lambda raw: Digest(f"sha256:{raw.hex()}"))
TIMES = st.integers(0, 10**13).map(
    lambda milliseconds: format_time(
        datetime(2000, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)
    )
)
SPKIS = st.none() | st.binary(min_size=1, max_size=60)
MESSAGES = st.builds(
    MessagePredicate,
    id=TEXTS,
    sender=TEXTS,
    recipients=st.tuples(TEXTS),
    created=TIMES,
    expires=TIMES,
    audience=st.none() | TEXTS,
    signer_spki=SPKIS,
)
RECEIPTS = st.builds(
    ReceiptPredicate,
    message=DIGESTS,
    id=TEXTS,
    sender=TEXTS,
    recipient=TEXTS,
    status=TEXTS,
    reason=TEXTS,
    verified=st.booleans(),
    created=TIMES,
    signer_spki=SPKIS,
)


@MANY
@given(name=TEXTS, digest=DIGESTS, predicate=MESSAGES | RECEIPTS)
def test_parse_of_a_statement_is_the_inverse_of_build(name, digest, predicate):
    found = parse_statement(build_statement(name, digest, predicate))
    assert (found.subject_name, found.subject, found.predicate) == (name, digest, predicate)


@MANY
@given(
    payload=st.binary(),
    kind=TEXTS,
    signature=st.binary(),
    hint=TEXTS,
    timestamps=st.lists(st.binary(), max_size=3).map(tuple),
)
def test_parse_of_a_bundle_is_the_inverse_of_build(payload, kind, signature, hint, timestamps):
    envelope = Envelope(payload, kind, signature)
    found = parse_bundle_json(build_key_bundle(envelope, hint, timestamps=timestamps))
    assert (found.envelope, found.hint, found.timestamps) == (envelope, hint, timestamps)


@MANY
@given(at=st.integers(min_value=0), mask=st.integers(1, 255))
def test_key_bundle_with_any_byte_changed_is_refused_or_says_the_same(at, mask):
    data = bytearray(signed.signed())
    data[at % len(data)] ^= mask
    changed = bytes(data)
    try:
        found = verify_message(signed.message(), [changed], signed.terms())
    except VerificationError:
        return
    honest, envelope = json.loads(signed.signed()), json.loads(changed)["dsseEnvelope"]
    assert envelope["payload"] == honest["dsseEnvelope"]["payload"]  # the hint, or white space
    assert found.signer == signed.public(ALICE).spki_sha256


JUNK = st.sampled_from(
    [None, {}, [], "", 0, -1, True, 1e308, "AAAA", "18446744073709551616", [[]], [None], {"a": 1}]
)


@pytest.fixture(scope="module")
def honest():
    with tempfile.TemporaryDirectory() as name, SigstoreStub(Path(name)) as stub:
        about, bundle = keyless.signed_now(stub)
        yield about, bundle, keyless.terms(keyless.policy(stub))


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@MANY
@given(data=st.data())
def test_keyless_bundle_with_any_value_changed_is_refused_or_says_the_same(honest, data):
    about, bundle, terms = honest
    value = json.loads(bundle)
    path = data.draw(st.sampled_from(places(value)))
    parent = value
    for step in path[:-1]:
        parent = parent[step]
    old = parent[path[-1]]
    if isinstance(old, str) and data.draw(st.booleans()):
        try:
            raw = bytearray(base64.b64decode(old, validate=True))
        except ValueError:
            raw = bytearray(old.encode())
        at = data.draw(st.integers(0, max(len(raw) - 1, 0)))
        raw[at : at + 1] = data.draw(st.binary(min_size=1, max_size=2))
        parent[path[-1]] = base64.b64encode(bytes(raw)).decode()
    else:
        parent[path[-1]] = data.draw(JUNK)
    try:
        found = verify_message(about, [json.dumps(value).encode()], terms)
    except VerificationError:
        return
    assert found.signer == ALICE


@MANY
@given(name=TEXTS.filter(bool), me=st.lists(TEXTS.filter(bool), min_size=1, max_size=3))
def test_policy_keeps_names_as_they_are(name, me):
    document = tomlkit.document()
    document["version"] = 1
    document["me"] = me
    document["sender"] = tomlkit.aot()
    document["sender"].append({"name": name, "allow_unsigned": True})
    found = parse_policy(document.as_string(), where="trust.toml")
    assert found.me == tuple(me)
    assert found.senders[0].name == name

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from functools import partial

import pytest

from dockercomms.errors import ClocksDiffer, TooEarly, UnknownSender, Unsigned, VerificationError
from dockercomms.oci.model import digest_of
from dockercomms.protocol.manifest import parse_message
from dockercomms.trust import checks
from dockercomms.trust.bundle import parse_bundle_json
from dockercomms.trust.checks import RULES, Claim
from dockercomms.trust.policy import Policy, Revocation, TrustedIdentity, TrustedKey
from dockercomms.trust.signing import KeySigner
from dockercomms.trust.statement import parse_statement
from dockercomms.trust.verifier import (
    Signatory,
    key_of_new_sender,
    signatories,
    verify_claim,
    verify_message,
    verify_receipt,
)
from tests.unit.trust.signed import (
    ALICE,
    BOB,
    CAROL,
    EVE,
    KEYS,
    NOW,
    REPO,
    approval,
    forged,
    legacy_message,
    legacy_receipt,
    manifest,
    message,
    policy,
    public,
    receipt,
    sender,
    signed,
    signed_receipt,
    statement,
    terms,
)

JUNK = b'{"mediaType":"junk"}'


# --- what holds ----------------------------------------------------------------------------------


def test_verify_message_names_the_trusted_signer():
    found = verify_message(message(), [signed()], terms())
    assert (found.name, found.kind, found.signer) == (ALICE, "key", public(ALICE).spki_sha256)
    assert (found.own, found.approval, found.signed_at, found.issuer) == (False, False, None, "")


def test_verify_message_trusts_our_own_key_for_our_own_names_without_a_file():
    data = signed(by=BOB)
    ours = terms(Policy(), own_key=public(BOB), own_names=(BOB, ALICE))
    found = verify_message(message(), [data], ours)
    assert (found.name, found.own) == (ALICE, True)
    with pytest.raises(UnknownSender):
        verify_message(message(), [data], terms(Policy(), own_key=public(BOB)))


def test_verify_message_trusts_either_key_while_one_replaces_the_other():
    keys = (TrustedKey(key=public(EVE)), TrustedKey(key=public(ALICE)))
    assert verify_message(message(), [signed()], terms(policy(sender(keys=keys)))).name == ALICE


@pytest.mark.parametrize(
    "hint", ["", "garbage", public(EVE).spki_sha256], ids=["none", "garbage", "of-eve"]
)
def test_verify_message_takes_the_hint_for_no_more_than_a_hint(hint):
    data = forged(statement(signed()), hint=hint)
    assert verify_message(message(), [data], terms()).signer == public(ALICE).spki_sha256


def test_verify_message_is_not_stopped_by_junk_that_comes_first():
    stolen = forged(statement(signed()), EVE, hint=public(ALICE).spki_sha256)
    bundles = [b"", b"\xff", JUNK, b"[" * 100_000, stolen, signed()]
    assert verify_message(message(), bundles, terms()).name == ALICE


def test_verify_message_tries_known_signers_before_unknown_ones():
    seen = []
    watching = replace(RULES, checks=(lambda e: seen.append(e.bundle.hint), *RULES.checks))
    found = verify_message(
        message(), [signed(by=EVE), signed(by=CAROL), signed()], terms(), rules=watching
    )
    assert found.name == ALICE
    assert seen == [public(ALICE).spki_sha256]


def test_verify_receipt_names_the_recipient_of_the_message():
    found = verify_receipt(receipt(), [signed_receipt()], terms(policy(sender(BOB)), me=(ALICE,)))
    assert (found.name, found.signer) == (BOB, public(BOB).spki_sha256)


def test_verify_message_accepts_an_approval_of_cosign_where_the_policy_says_so():
    rules = policy(accept_cosign_sign=True)
    found = verify_message(message(), [approval(message().digest)], terms(rules))
    assert (found.name, found.approval) == (ALICE, True)


def test_verify_message_accepts_an_approval_of_a_message_without_a_time():
    old = legacy_message()
    found = verify_message(old, [approval(old.digest)], terms(policy(accept_cosign_sign=True)))
    assert found.approval


# --- who is missing ------------------------------------------------------------------------------


def test_verify_message_without_bundles_is_unsigned():
    with pytest.raises(
        Unsigned, match=f"message '{message().header.id}' from '{ALICE}'.*not signed"
    ):
        verify_message(message(), [], terms())


@pytest.mark.parametrize(
    "rules", [Policy(), policy(sender(CAROL)), policy(sender(keys=(), allow_unsigned=True))]
)
def test_verify_message_of_a_name_without_key_or_identity_is_of_an_unknown_sender(rules):
    with pytest.raises(UnknownSender, match=f"identity of '{ALICE}' is trusted"):
        verify_message(message(), [signed()], terms(rules, own_key=public(BOB)))


def test_verify_message_tells_why_each_bundle_failed():
    other = message(title="other")
    with pytest.raises(VerificationError) as caught:
        verify_message(other, [JUNK, signed(), signed(by=EVE)], terms())
    first, *reasons = str(caught.value).split("\n  ")
    assert first.endswith("no signature satisfies the policy")
    assert sorted(reason.partition(":")[0] for reason in reasons) == [
        "bundle 1",
        "bundle 2",
        "bundle 3",
    ]
    assert any("media type 'junk'" in reason for reason in reasons)
    assert any(f"the signature is for {message().digest}" in reason for reason in reasons)
    assert any("not signed with key" in reason for reason in reasons)


def test_verify_message_tells_the_reason_of_the_signer_who_got_furthest():
    over = TrustedKey(key=public(ALICE), valid_before=NOW)
    rules = policy(sender(keys=(TrustedKey(key=public(EVE)), over, TrustedKey(key=public(CAROL)))))
    with pytest.raises(VerificationError, match="is not valid at"):
        verify_message(message(), [signed()], terms(rules))


def test_verify_message_of_a_key_bundle_for_a_sender_with_identities_only():
    identity = TrustedIdentity(identity=ALICE, issuer="https://issuer.example")
    rules = policy(sender(keys=(), identities=(identity,)))
    with pytest.raises(VerificationError, match="which is not trusted here"):
        verify_message(message(), [signed()], terms(rules))


# --- forgeries: refused, and accepted by the same verifier without the one check -------------------


def refused(check, about, bundles, given, *, match, verify=verify_message):
    """Refuse, and accept without `check`: that check alone stands in the way."""
    with pytest.raises(VerificationError, match=match):
        verify(about, bundles, given)
    return verify(about, bundles, given, rules=RULES.without(check))


def test_message_copied_into_another_inbox_is_refused():
    refused(
        checks.check_recipient, message(), [signed()], terms(me=(CAROL,)), match=f"sent to '{BOB}'"
    )


def test_message_for_one_of_our_names_is_accepted():
    assert verify_message(message(), [signed()], terms(me=(CAROL, BOB))).name == ALICE


def test_message_meant_for_another_repository_is_refused():
    data = manifest(audience="other.example/box")
    about = message(audience="other.example/box")
    bundle = KeySigner(KEYS[ALICE]).sign(about, data)
    refused(
        checks.check_audience,
        about,
        [bundle],
        terms(),
        match="sent for repository 'other.example/box'",
    )
    listed = policy(audiences=("other.example/box",))
    assert verify_message(about, [bundle], terms(listed)).name == ALICE
    assert verify_message(about, [bundle], terms(repo="other.example/box")).name == ALICE


def test_message_of_the_future_is_refused():
    early = terms(now=NOW - timedelta(minutes=5, seconds=1))
    refused(checks.check_not_future, message(), [signed()], early, match="in the future")
    assert verify_message(message(), [signed()], terms(now=NOW - timedelta(minutes=5)))
    slow = terms(now=NOW - timedelta(hours=1), registry_now=NOW)
    with pytest.raises(ClocksDiffer, match="by only one of two clocks: this machine's clock says"):
        verify_message(message(), [signed()], slow)
    for choice in ("registry", "either"):
        assert verify_message(message(), [signed()], replace(slow, choice=choice))
    with pytest.raises(TooEarly, match="held until"):
        verify_message(message(), [signed()], replace(slow, choice="own"))


def test_message_older_than_the_policy_allows_is_refused():
    rules = policy(max_age=timedelta(minutes=59))
    refused(checks.check_age, message(), [signed()], terms(rules), match="an age of at most 0:59")
    assert verify_message(message(), [signed()], terms(policy(max_age=timedelta(hours=1))))
    fast = terms(policy(max_age=timedelta(hours=1)), now=NOW + timedelta(days=9), registry_now=NOW)
    with pytest.raises(ClocksDiffer, match="the policy's 1:00:00 by only one of two clocks"):
        verify_message(message(), [signed()], fast)
    assert verify_message(message(), [signed()], replace(fast, choice="registry"))


def test_unrelated_bundle_replayed_is_refused():
    other = message(title="another one")
    bundle = forged({**statement(signed(other, title="another one")), "subject": subject("0" * 64)})
    refused(checks.check_subject, other, [bundle], terms(), match="the signature is for sha256:000")


def test_bundle_replayed_with_a_lying_digest_header_is_refused():
    """Other layers under the annotations of a signed message: only the hash tells them apart."""
    honest = message()
    data = manifest().replace(digest_of(b"any layer").encode(), digest_of(b"evil one!").encode())
    evil = parse_message(data)
    assert (evil.header, evil.digest == honest.digest) == (honest.header, False)
    refused(
        checks.check_subject,
        evil,
        [signed()],
        terms(),
        match=f"the signature is for {honest.digest}",
    )
    said = replace(evil, descriptor=replace(evil.descriptor, digest=honest.digest))
    assert verify_message(said, [signed()], terms()).name == ALICE  # whoever believes the header


def subject(encoded: str, name: str | None = None) -> list[object]:
    return [{"name": name or message().header.id, "digest": {"sha256": encoded}}]


def test_signature_by_somebody_else_is_refused():
    refused(checks.check_signature, message(), [signed(by=EVE)], terms(), match="not signed with")


def test_signature_of_another_payload_is_refused():
    bundle = signed()
    other = forged({**statement(bundle), "extra": 1})
    mixed = bundle.replace(payload_of(bundle), payload_of(other))
    assert mixed != bundle
    refused(checks.check_signature, message(), [mixed], terms(), match="not signed with")


def payload_of(bundle: bytes) -> bytes:
    return bundle.split(b'"payload":"')[1].split(b'"')[0]


def test_payload_of_another_type_is_refused():
    bundle = forged(statement(signed()), kind="application/json")
    refused(checks.check_payload_type, message(), [bundle], terms(), match="application/json")


def test_receipt_used_as_message_is_refused():
    # Bob acknowledges whatever claims to be from him to himself; that must not become his message.
    about = message(sender=BOB)
    stolen = signed_receipt(receipt(about))
    refused(
        checks.check_predicate_type,
        about,
        [stolen],
        terms(policy(sender(BOB))),
        match="receipt/v1.*message/v1 expected",
    )


def test_message_used_as_receipt_is_refused():
    about = message(recipient=ALICE)
    stolen = signed(about, recipient=ALICE)
    refused(
        checks.check_predicate_type,
        receipt(about),
        [stolen],
        terms(me=(ALICE,)),
        match="message/v1.*receipt/v1 expected",
        verify=verify_receipt,
    )


def test_approval_used_as_message_is_refused_unless_the_policy_takes_it():
    about = message()
    found = refused(
        checks.check_predicate_type,
        about,
        [approval(about.digest)],
        terms(),
        match="accept_cosign_sign",
    )
    assert found.approval


def test_approval_used_as_receipt_is_refused_whatever_the_policy_says():
    rules = policy(sender(BOB), accept_cosign_sign=True)
    bundle = approval(message().digest, BOB)
    with pytest.raises(VerificationError, match="receipt/v1 expected"):
        verify_receipt(receipt(), [bundle], terms(rules, me=(ALICE,)))


MESSAGE_FIELDS = {
    "id": "00000000-0000-0000-0000-0000000000ff",
    "sender": CAROL,
    "recipients": [CAROL],
    "created": "2026-11-20T12:00:00.001Z",
    "expires": "2026-11-27T12:00:00.001Z",
    "audience": REPO,
}
RECEIPT_FIELDS = {
    "message": "sha256:" + "0" * 64,
    "id": "00000000-0000-0000-0000-0000000000ff",
    "sender": CAROL,
    "recipient": CAROL,
    "status": "rejected",
    "reason": "",
    "verified": False,
    "created": "2026-11-20T12:02:00.001Z",
}


def altered(bundle, field, value, by):
    content = statement(bundle)
    content["predicate"][field] = value
    return forged(content, by)


@pytest.mark.parametrize(("field", "value"), MESSAGE_FIELDS.items())
def test_statement_that_differs_from_the_message_in_one_field_is_refused(field, value):
    bundle = altered(signed(), field, value, ALICE)
    refused(checks.check_values, message(), [bundle], terms(), match=f"statement's {field}")


@pytest.mark.parametrize(("field", "value"), RECEIPT_FIELDS.items())
def test_statement_that_differs_from_the_receipt_in_one_field_is_refused(field, value):
    bundle = altered(signed_receipt(), field, value, BOB)
    given = terms(policy(sender(BOB)), me=(ALICE,))
    refused(
        checks.check_values,
        receipt(),
        [bundle],
        given,
        match=f"statement's {field}",
        verify=verify_receipt,
    )


def test_statement_fields_are_all_forged():
    assert set(MESSAGE_FIELDS) | {"signer"} == set(statement(signed())["predicate"]) | {"audience"}
    assert set(RECEIPT_FIELDS) | {"signer"} == set(statement(signed_receipt())["predicate"])


def test_statement_that_calls_its_subject_otherwise_is_refused():
    content = statement(signed())
    content["subject"][0]["name"] = "other"
    refused(
        checks.check_values,
        message(),
        [forged(content)],
        terms(),
        match="subject is called 'other'",
    )


@pytest.mark.parametrize("field", ["created", "expires"])
def test_statement_times_are_compared_as_instants(field):
    content = statement(signed())
    text = content["predicate"][field]
    content["predicate"][field] = text.replace("12:00:00.000Z", "13:00:00+01:00")
    assert content["predicate"][field] != text
    assert verify_message(message(), [forged(content)], terms()).name == ALICE


def test_statement_about_a_manifest_without_a_time_agrees_with_nothing():
    old = legacy_message()
    content = statement(signed())
    content["subject"] = [{"name": "old", "digest": {"sha256": old.digest[7:]}}]
    refused(checks.check_values, old, [forged(content)], terms(), match="no created_at")
    about = legacy_receipt()
    assert Claim.of_receipt(about).predicate is None


def test_key_outside_its_validity_is_refused():
    over = TrustedKey(key=public(ALICE), valid_before=NOW)
    early = TrustedKey(key=public(ALICE), valid_after=NOW + timedelta(seconds=1))
    for key in (over, early):
        refused(
            checks.check_key_validity,
            message(),
            [signed()],
            terms(policy(sender(keys=(key,)))),
            match="is not valid at 2026-11-20 12:00",
        )
    right = TrustedKey(
        key=public(ALICE), valid_after=NOW, valid_before=NOW + timedelta(milliseconds=1)
    )
    assert verify_message(message(), [signed()], terms(policy(sender(keys=(right,)))))


@pytest.mark.parametrize(
    ("since", "text"), [(None, "is revoked: lost"), (NOW + timedelta(days=9), "is revoked from")]
)
def test_revoked_key_is_refused_and_a_time_that_nobody_proves_does_not_help(since, text):
    item = Revocation(spki_sha256=public(ALICE).spki_sha256, since=since, reason="lost")
    given = terms(policy(revoked=(Revocation(identity=ALICE), item)))
    refused(checks.check_revocation, message(), [signed()], given, match=text)


def test_revoked_own_key_is_refused():
    item = Revocation(spki_sha256=public(BOB).spki_sha256)
    with pytest.raises(VerificationError, match=r"is revoked$"):
        verify_message(
            message(),
            [signed(by=BOB)],
            terms(policy(revoked=(item,)), own_key=public(BOB), own_names=(ALICE,)),
        )


def test_key_without_a_timestamp_is_refused_where_one_is_required():
    key = TrustedKey(key=public(ALICE), timestamp="required")
    given = terms(policy(sender(keys=(key,))))
    refused(checks.check_timestamp, message(), [signed()], given, match="no timestamp")


@pytest.mark.parametrize(
    "limit",
    [
        {"recipients": (CAROL,)},
        {"repositories": ("registry.example/other/*",)},
        {"kinds": ("receipt",)},
    ],
)
def test_sender_who_may_not_send_this_here_is_refused(limit):
    given = terms(policy(sender(**limit)))
    refused(
        checks.check_permission,
        message(),
        [signed()],
        given,
        match="does not let .* send a message",
    )


def test_sender_who_may_send_this_here_is_accepted():
    allowed = {"recipients": (CAROL, BOB), "repositories": ("*/team/*",), "kinds": ("message",)}
    assert verify_message(message(), [signed()], terms(policy(sender(**allowed))))


def test_receipt_by_somebody_else_is_refused():
    refused(
        checks.check_signature,
        receipt(),
        [signed_receipt(by=EVE)],
        terms(policy(sender(BOB), sender(EVE)), me=(ALICE,)),
        match="not signed with",
        verify=verify_receipt,
    )


def lenient(data: bytes) -> bytes:
    """Return JSON as a parser that takes the last of two equal keys would read it."""
    return json.dumps(json.loads(data)).encode()


def test_bundle_with_duplicate_keys_is_refused():
    honest = json.dumps(json.loads(signed())["dsseEnvelope"]).encode()
    doubled = signed(by=EVE)[:-1] + b',"dsseEnvelope":' + honest + b"}"
    with pytest.raises(VerificationError, match="duplicate key 'dsseEnvelope'"):
        verify_message(message(), [doubled], terms())
    rules = replace(RULES, parse_bundle=lambda data: parse_bundle_json(lenient(data)))
    assert verify_message(message(), [doubled], terms(), rules=rules).name == ALICE


def test_statement_with_duplicate_keys_is_refused():
    payload = b'{"predicateType":"x",' + json.dumps(statement(signed())).encode()[1:]
    with pytest.raises(VerificationError, match="duplicate key 'predicateType'"):
        verify_message(message(), [forged(payload)], terms())
    rules = replace(RULES, parse_statement=lambda data: parse_statement(lenient(data)))
    assert verify_message(message(), [forged(payload)], terms(), rules=rules).name == ALICE


def test_bundle_beyond_the_size_that_is_read_is_refused():
    bundle = signed()
    padded = bundle + b" " * (2**20 + 1 - len(bundle))
    with pytest.raises(VerificationError, match="1048577 bytes; at most 1048576"):
        verify_message(message(), [padded], terms())
    larger = replace(RULES, parse_bundle=partial(parse_bundle_json, max_bytes=2**20 + 1))
    assert verify_message(message(), [padded], terms(), rules=larger).name == ALICE
    assert verify_message(message(), [padded[:-1]], terms()).name == ALICE


def test_bundles_beyond_the_number_that_is_tried_are_not_looked_at():
    bundles = [*[JUNK] * 32, signed()]
    with pytest.raises(VerificationError, match="1 more were not looked at"):
        verify_message(message(), bundles, terms())
    assert verify_message(message(), bundles, terms(), rules=replace(RULES, max_bundles=33))
    assert verify_message(message(), bundles[1:], terms()).name == ALICE


# --- a new sender ----------------------------------------------------------------------------------


def test_key_of_new_sender_is_the_one_that_signed():
    claim = Claim.of_message(message())
    key, found = key_of_new_sender(claim, [JUNK, signed()], terms(Policy()))
    assert key == public(ALICE)
    assert (found.name, found.signer, found.own) == (ALICE, key.spki_sha256, False)


def test_key_of_new_sender_of_a_receipt():
    claim = Claim.of_receipt(receipt())
    key, _ = key_of_new_sender(claim, [signed_receipt()], terms(Policy(), me=(ALICE,)))
    assert key == public(BOB)


def test_key_of_new_sender_needs_a_name_without_an_entry():
    claim = Claim.of_message(message())
    with pytest.raises(VerificationError, match="has an entry for this name"):
        key_of_new_sender(claim, [signed()], terms(policy(sender(keys=()))))


def signer_field(value):
    content = statement(signed())
    content["predicate"]["signer"] = value
    return content


@pytest.mark.parametrize(
    ("bundle", "text"),
    [
        (forged(statement(signed()), EVE, hint=public(ALICE).spki_sha256), "not signed with"),
        (forged(statement(signed()), EVE), "which is not trusted"),
        (forged(signer_field({"spki": "AAAA"})), "signer: not a public key"),
        (forged(signer_field({"spki": "?"})), "spki: not base64"),
        (signed(title="other"), "the signature is for"),
        (approval(message().digest), "which is not trusted"),
        (signed_receipt(by=ALICE), "receipt/v1"),
    ],
    ids=["stolen", "by-eve", "no-key", "no-base64", "other-message", "approval", "receipt"],
)
def test_key_of_new_sender_is_pinned_only_after_everything_else_holds(bundle, text):
    with pytest.raises(VerificationError, match=text):
        key_of_new_sender(Claim.of_message(message()), [bundle], terms(Policy()))


def test_key_of_new_sender_without_bundles_is_unsigned():
    with pytest.raises(Unsigned):
        key_of_new_sender(Claim.of_message(message()), [], terms(Policy()))


def test_signatories_are_who_truly_signed():
    stolen = forged(statement(signed()), EVE, hint=public(ALICE).spki_sha256)
    found = signatories([JUNK, stolen, signed(), signed(), approval(message().digest)], terms())
    assert found == (Signatory(kind="key", signer=public(ALICE).spki_sha256),)


def test_verify_claim_reads_statements_strictly():
    payload = b'{"_type":"x"}'
    with pytest.raises(VerificationError, match="bundle 1: statement: type 'x'"):
        verify_claim(Claim.of_message(message()), [forged(payload)], terms())

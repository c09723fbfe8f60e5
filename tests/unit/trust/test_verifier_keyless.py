from __future__ import annotations

import base64
import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from dockercomms.errors import UnknownSender, VerificationError
from dockercomms.protocol.manifest import parse_message
from dockercomms.trust import checks
from dockercomms.trust.checks import RULES
from dockercomms.trust.keyless import SigstoreRoots, timestamp_source
from dockercomms.trust.policy import PUBLIC_ROOT, Policy, Revocation, Root, Sender, TrustedKey
from dockercomms.trust.signing import KeySigner
from dockercomms.trust.verifier import Signatory, signatories, verify_message, verify_receipt
from tests.fakes.sigstore import SigstoreStub
from tests.fakes.sigstore_config import instant
from tests.unit.trust.keyless import (
    STUB,
    changed_root,
    identity,
    now,
    policy,
    signed_now,
    signer,
    terms,
)
from tests.unit.trust.signed import (
    ALICE,
    BOB,
    EVE,
    KEYS,
    forged,
    manifest,
    public,
    receipt,
    signed,
    statement,
)

HOUR = timedelta(hours=1)


def refused(check, about, bundle, given, *, match):
    """Refuse, and accept without `check`: that check alone stands in the way."""
    with pytest.raises(VerificationError, match=match):
        verify_message(about, [bundle], given)
    return verify_message(about, [bundle], given, rules=RULES.without(check))


# --- certificates --------------------------------------------------------------------------------


def test_verify_message_names_the_trusted_identity(sigstore):
    before = datetime.now(UTC).replace(microsecond=0)
    about, bundle = signed_now(sigstore)
    found = verify_message(about, [bundle], terms(policy(sigstore)))
    assert (found.name, found.kind, found.signer) == (ALICE, "keyless", ALICE)
    assert found.issuer == sigstore.issuer.url
    assert before <= found.signed_at <= datetime.now(UTC)
    assert not found.own


def test_verify_message_names_an_identity_that_is_an_address_of_a_workflow(sigstore):
    workflow = "https://ci.example/acme/app/.ci/release.yml@refs/heads/main"
    about, bundle = signed_now(sigstore, workflow)
    rules = policy(sigstore, identity(sigstore, identity=workflow))
    assert verify_message(about, [bundle], terms(rules)).signer == workflow
    refs = policy(sigstore, identity(sigstore, identity=workflow.replace("main", "dev")))
    refused(checks.check_identity, about, bundle, terms(refs), match="dev expected")


def test_verify_receipt_of_an_identity(sigstore):
    about = receipt(**{"dockercomms.created_at": instant(now())})
    bundle = signer(sigstore, BOB).sign_receipt(about)
    rules = policy(
        sigstore, senders=(Sender(name=BOB, identities=(identity(sigstore, identity=BOB),)),)
    )
    assert verify_receipt(about, [bundle], terms(rules, me=(ALICE,))).signer == BOB


def test_verify_message_asks_no_service(sigstore):
    about, bundle = signed_now(sigstore)
    sigstore.asked.clear()
    verify_message(about, [bundle], terms(policy(sigstore)))
    assert sigstore.asked == []


@pytest.mark.parametrize(
    ("check", "by", "trusted", "reason"),
    [
        (checks.check_identity, EVE, {}, f"signed by {EVE}; {ALICE}"),
        (
            checks.check_issuer,
            ALICE,
            {"issuer": "https://a.example"},
            "vouched for by issuer http:",
        ),
        (checks.check_root, ALICE, {"root": PUBLIC_ROOT}, "certificate from root 'stub'; 'public'"),
    ],
    ids=["identity", "issuer", "root"],
)
def test_another_identity_issuer_or_root_is_refused(sigstore, check, by, trusted, reason):
    about, bundle = signed_now(sigstore, by)
    rules = policy(sigstore, identity(sigstore, **trusted))
    refused(check, about, bundle, terms(rules), match=reason)


def test_a_root_under_two_names_proves_for_both(sigstore):
    about, bundle = signed_now(sigstore)
    roots = {
        PUBLIC_ROOT: Root(name=PUBLIC_ROOT, path=sigstore.trusted_root),
        STUB: Root(name=STUB, path=sigstore.trusted_root),
    }
    for root in roots:
        rules = policy(sigstore, identity(sigstore, root=root), roots=roots)
        assert verify_message(about, [bundle], terms(rules)).name == ALICE


def test_without_any_root_nothing_is_proven(sigstore):
    about, bundle = signed_now(sigstore)
    given = terms(policy(sigstore, roots={}))
    with pytest.raises(VerificationError, match="no trusted root to check a certificate with"):
        verify_message(about, [bundle], given)
    assert signatories([bundle], given) == ()


def test_a_sigstore_that_nobody_trusts_is_refused(sigstore, tmp_path):
    with SigstoreStub(tmp_path) as other:
        other.issuer.url = sigstore.issuer.url
        about, bundle = signed_now(other)
    with pytest.raises(VerificationError, match="bundle 1: "):
        verify_message(about, [bundle], terms(policy(sigstore)))


def test_revoked_identity_is_refused_from_its_time_on(sigstore):
    about, bundle = signed_now(sigstore)
    item = Revocation(identity=ALICE, since=now() - HOUR, reason="left")
    rules = policy(sigstore, revoked=(item,))
    refused(checks.check_revocation, about, bundle, terms(rules), match="is revoked from .*: left")
    later = Revocation(identity=ALICE, since=now() + HOUR)
    assert verify_message(about, [bundle], terms(policy(sigstore, revoked=(later,))))


def test_statement_signed_long_after_it_claims_is_refused(sigstore):
    about, bundle = signed_now(sigstore, age=HOUR + timedelta(minutes=1))
    refused(
        checks.check_signing_time,
        about,
        bundle,
        terms(policy(sigstore)),
        match="signed .* but created",
    )


def test_approval_long_after_the_message_is_accepted(sigstore):
    about = parse_message(manifest(created_at=now() - 9 * HOUR))
    bundle = signer(sigstore).approve("", about.digest)
    rules = policy(sigstore, accept_cosign_sign=True)
    assert verify_message(about, [bundle], terms(rules)).approval


def test_keyless_bundle_for_a_sender_with_keys_only_is_refused(sigstore):
    about, bundle = signed_now(sigstore)
    rules = policy(sigstore, senders=(Sender(name=ALICE, keys=(TrustedKey(key=public(ALICE)),)),))
    with pytest.raises(VerificationError, match="no identity is trusted here"):
        verify_message(about, [bundle], terms(rules))


def test_keyless_bundle_of_an_unknown_sender_tells_who_signed(sigstore):
    about, bundle = signed_now(sigstore)
    given = terms(policy(sigstore, senders=()))
    with pytest.raises(UnknownSender):
        verify_message(about, [bundle], given)
    assert signatories([bundle, b"{}"], given) == (
        Signatory(kind="keyless", signer=ALICE, issuer=sigstore.issuer.url, root=STUB),
    )


def test_keyless_bundles_come_before_those_of_keys_for_a_sender_with_identities(sigstore):
    about, bundle = signed_now(sigstore)
    junk = signed(by=EVE)
    assert verify_message(about, [junk, bundle], terms(policy(sigstore))).kind == "keyless"


# --- what sigstore leaves to its caller ----------------------------------------------------------


def ended(part):
    def change(root):
        for item in root[part]:
            owner = item["publicKey"] if "publicKey" in item else item
            owner["validFor"]["end"] = instant(datetime.now(UTC) - HOUR)

    return change


@pytest.mark.parametrize("part", ["certificateAuthorities", "ctlogs", "tlogs"])
def test_service_that_ended_before_the_signature_proves_nothing(sigstore, tmp_path, part):
    about, bundle = signed_now(sigstore)
    root = changed_root(sigstore, tmp_path, ended(part))
    rules = policy(sigstore, roots={STUB: root})
    with pytest.raises(VerificationError, match="bundle 1: "):
        verify_message(about, [bundle], terms(rules))
    careless = SigstoreRoots(narrow=lambda root, _: root)
    assert verify_message(about, [bundle], terms(rules, roots=careless)).name == ALICE


def test_time_stamp_authority_that_ended_before_the_signature_proves_nothing(sigstore, tmp_path):
    about, bundle = signed_now(sigstore)
    root = changed_root(sigstore, tmp_path, ended("timestampAuthorities"))
    with pytest.raises(VerificationError, match="not enough sources of verified time"):
        verify_message(about, [bundle], terms(policy(sigstore, roots={STUB: root})))


@pytest.mark.parametrize(("seconds", "accepted"), [(0, True), (-1, False)])
def test_end_of_a_time_stamp_authority_is_inclusive(sigstore, tmp_path, seconds, accepted):
    about, bundle = signed_now(sigstore)
    moment = verify_message(about, [bundle], terms(policy(sigstore))).signed_at

    def end(root):
        valid = root["timestampAuthorities"][0]["validFor"]
        valid["end"] = instant(moment + timedelta(seconds=seconds))

    given = terms(policy(sigstore, roots={STUB: changed_root(sigstore, tmp_path, end)}))
    if accepted:
        assert verify_message(about, [bundle], given).signed_at == moment
    else:
        with pytest.raises(VerificationError, match="not enough sources of verified time"):
            verify_message(about, [bundle], given)


@pytest.mark.parametrize(
    "part", ["certificateAuthorities", "ctlogs", "tlogs", "timestampAuthorities"]
)
def test_root_that_lacks_a_part_proves_nothing(sigstore, tmp_path, part):
    about, bundle = signed_now(sigstore)
    root = changed_root(sigstore, tmp_path, lambda value: value.update({part: []}))
    with pytest.raises(VerificationError, match="bundle 1: "):
        verify_message(about, [bundle], terms(policy(sigstore, roots={STUB: root})))


def unhurried(root):
    """Return sigstore's verifier without a look at when a certificate was valid."""
    from sigstore.verify import Verifier  # noqa: TID251 - one of its checks is taken out

    class Unhurried(Verifier):
        def _establish_time(self, bundle):
            times = super()._establish_time(bundle)
            for item in times:
                item.time = bundle.signing_certificate.not_valid_before_utc
            return times

    return Unhurried(trusted_root=root)


def test_certificate_that_had_expired_when_it_was_used_is_refused(sigstore):
    sigstore.shift["tsa"] = timedelta(minutes=11)
    about, bundle = signed_now(sigstore, gullible=True)
    given = terms(policy(sigstore))
    with pytest.raises(VerificationError, match="chain"):
        verify_message(about, [bundle], given)
    careless = SigstoreRoots(verifier=unhurried)
    assert verify_message(about, [bundle], terms(policy(sigstore), roots=careless)).name == ALICE


def test_certificate_that_was_not_yet_valid_is_refused(sigstore):
    sigstore.shift["tsa"] = timedelta(minutes=-1)
    about, bundle = signed_now(sigstore, gullible=True)
    with pytest.raises(VerificationError, match="chain"):
        verify_message(about, [bundle], terms(policy(sigstore)))


def test_each_of_several_time_stamps_has_to_be_within_the_certificate(sigstore):
    about, bundle = signed_now(sigstore)
    given = json.loads(bundle)
    signature = base64.b64decode(given["dsseEnvelope"]["signatures"][0]["sig"])
    stamps = given["verificationMaterial"]["timestampVerificationData"]["rfc3161Timestamps"]
    for minutes, good in ((1, True), (11, False)):
        sigstore.shift["tsa"] = timedelta(minutes=minutes)
        token = timestamp_source(sigstore.instance.tsa_url)(signature)
        stamps.append({"signedTimestamp": base64.b64encode(token).decode()})
        data, trusted = json.dumps(given).encode(), terms(policy(sigstore))
        if good:
            assert verify_message(about, [data], trusted).name == ALICE
        else:
            with pytest.raises(VerificationError):
                verify_message(about, [data], trusted)


def test_another_authority_of_the_same_name_does_not_stand_in_the_way(sigstore, tmp_path):
    """The certificate's issuer is who signed it, not who is called so."""
    about, bundle = signed_now(sigstore)
    given = policy(sigstore)
    assert verify_message(about, [bundle], terms(given)).name == ALICE
    with SigstoreStub(tmp_path / "decoy") as decoy:
        others = decoy.instance.trusted_root()["certificateAuthorities"]

    def prepend(root):
        root["certificateAuthorities"] = [*others, *root["certificateAuthorities"]]

    root = changed_root(sigstore, tmp_path, prepend)
    rules = replace(given, roots={**given.roots, STUB: root})
    assert verify_message(about, [bundle], terms(rules)).name == ALICE


def test_bundle_without_the_zero_values_that_go_leaves_out_is_accepted(tmp_path):
    with SigstoreStub(tmp_path, fresh_log=True) as stub:
        about, bundle = signed_now(stub)
        given = json.loads(bundle)
        entry = given["verificationMaterial"]["tlogEntries"][0]
        assert entry["logIndex"] == "0"
        del (
            entry["logIndex"],
            entry["inclusionProof"]["logIndex"],
            entry["inclusionProof"]["hashes"],
        )
        found = verify_message(about, [json.dumps(given).encode()], terms(policy(stub)))
    assert found.name == ALICE


def altered(bundle, *path, value):
    given = json.loads(bundle)
    at = given
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    return json.dumps(given).encode()


MATERIAL = ("verificationMaterial",)
ENTRY = (*MATERIAL, "tlogEntries", 0)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ((*MATERIAL, "tlogEntries"), []),
        ((*MATERIAL, "tlogEntries"), [None]),
        ((*MATERIAL, "timestampVerificationData"), {}),
        ((*MATERIAL, "certificate"), {}),
        ((*MATERIAL, "certificate", "rawBytes"), "AAAA"),
        ((*ENTRY, "logIndex"), "-1"),
        ((*ENTRY, "kindVersion"), {"kind": "hashedrekord", "version": "0.0.9"}),
        ((*ENTRY, "canonicalizedBody"), "e30="),
        ((*ENTRY, "inclusionProof", "rootHash"), "AAAA"),
        ((*ENTRY, "inclusionProof"), None),
        (("dsseEnvelope", "payload"), "e30="),
        (("dsseEnvelope", "signatures", 0, "sig"), ""),
    ],
)
def test_altered_bundle_is_refused_and_nothing_else(sigstore, path, value):
    about, bundle = signed_now(sigstore)
    with pytest.raises(VerificationError):
        verify_message(about, [altered(bundle, *path, value=value)], terms(policy(sigstore)))


@pytest.mark.parametrize(
    "seconds", ["1", "99999999999", "99999999999999999", "18446744073709551615"]
)
def test_time_that_no_log_promised_is_refused(sigstore, seconds):
    about, bundle = signed_now(sigstore)
    promised = altered(bundle, *ENTRY, "inclusionPromise", value={"signedEntryTimestamp": "AAAA"})
    bad = altered(promised, *ENTRY, "integratedTime", value=seconds)
    with pytest.raises(VerificationError):
        verify_message(about, [bad], terms(policy(sigstore)))


def test_foreign_log_entry_is_refused(sigstore):
    about, bundle = signed_now(sigstore)
    _, other = signed_now(sigstore)
    entries = json.loads(other)["verificationMaterial"]["tlogEntries"]
    mixed = altered(bundle, *MATERIAL, "tlogEntries", value=entries)
    with pytest.raises(VerificationError, match="log entry"):
        verify_message(about, [mixed], terms(policy(sigstore)))


# --- time stamps of keys -------------------------------------------------------------------------


def stamped(sigstore, **changes):
    """Return a message created now, and Alice's key bundle with a time stamp."""
    data = manifest(**{"created_at": now(), **changes})
    about = parse_message(data)
    by = KeySigner(KEYS[ALICE], timestamp=timestamp_source(sigstore.instance.tsa_url))
    return about, by.sign(about, data)


def key_policy(sigstore, **changes) -> Policy:
    key = TrustedKey(key=public(ALICE), **changes)
    return policy(sigstore, senders=(Sender(name=ALICE, keys=(key,)),))


def test_time_stamp_of_a_key_proves_when_it_signed(sigstore):
    before = datetime.now(UTC).replace(microsecond=0)
    about, bundle = stamped(sigstore)
    given = terms(key_policy(sigstore, timestamp="required"))
    found = verify_message(about, [bundle], given)
    assert before <= found.signed_at <= datetime.now(UTC)


def test_time_stamp_of_an_unknown_authority_counts_as_none(sigstore, tmp_path):
    about, bundle = stamped(sigstore)
    public_only = {PUBLIC_ROOT: Root(name=PUBLIC_ROOT)}
    for required in ("required", "if-present"):
        key = TrustedKey(key=public(ALICE), timestamp=required)
        rules = Policy(roots=public_only, senders=(Sender(name=ALICE, keys=(key,)),))
        if required == "required":
            refused(checks.check_timestamp, about, bundle, terms(rules), match="no timestamp")
        else:
            assert verify_message(about, [bundle], terms(rules)).signed_at is None


def test_time_stamp_of_another_signature_counts_as_none(sigstore):
    about, _ = stamped(sigstore)
    data = KeySigner(KEYS[ALICE]).sign(about, manifest(created_at=about.header.created_at))
    token = timestamp_source(sigstore.instance.tsa_url)(b"another signature")
    for tokens in ((token,), (b"junk",), (b"",)):
        bundle = forged(statement(data), timestamps=tokens)
        given = terms(key_policy(sigstore, timestamp="required"))
        refused(checks.check_timestamp, about, bundle, given, match="no timestamp")


def test_key_that_was_valid_when_it_signed_is_accepted_however_it_claims(sigstore):
    about, bundle = stamped(sigstore)
    over = key_policy(sigstore, valid_before=now() - timedelta(minutes=1))
    refused(checks.check_key_validity, about, bundle, terms(over), match="is not valid at")
    early = key_policy(sigstore, valid_before=now() + timedelta(minutes=1))
    assert verify_message(about, [bundle], terms(early)).name == ALICE


def test_key_revoked_later_than_it_signed_is_accepted_with_a_time_stamp(sigstore):
    about, bundle = stamped(sigstore)
    item = Revocation(spki_sha256=public(ALICE).spki_sha256, since=now() + timedelta(minutes=1))
    rules = key_policy(sigstore)
    given = Policy(roots=rules.roots, senders=rules.senders, revoked=(item,))
    assert verify_message(about, [bundle], terms(given)).name == ALICE
    past = Revocation(spki_sha256=public(ALICE).spki_sha256, since=now() - timedelta(minutes=1))
    given = Policy(roots=rules.roots, senders=rules.senders, revoked=(past,))
    refused(checks.check_revocation, about, bundle, terms(given), match="is revoked")


def test_stolen_key_cannot_backdate_where_a_time_stamp_is_required(sigstore):
    about, bundle = stamped(sigstore, created_at=now() - 2 * HOUR)
    given = terms(key_policy(sigstore, timestamp="required"))
    refused(checks.check_signing_time, about, bundle, given, match="signed .* but created")


def test_time_stamp_from_before_the_message_is_refused(sigstore):
    about, bundle = stamped(sigstore, created_at=now() + 2 * HOUR)
    given = terms(key_policy(sigstore), now=now() + 2 * HOUR)
    refused(checks.check_signing_time, about, bundle, given, match="signed .* but created")


def test_time_stamp_is_read_without_sigstore(sigstore, tmp_path):
    _, bundle = stamped(sigstore)
    (tmp_path / "bundle").write_bytes(bundle)
    code = (
        "import sys, pathlib\n"
        "from dockercomms.trust.bundle import parse_bundle_json\n"
        "from dockercomms.trust.keyless import SigstoreRoots\n"
        "from dockercomms.trust.policy import Root\n"
        "bundle = parse_bundle_json(pathlib.Path(sys.argv[1]).read_bytes())\n"
        "root = Root(name='stub', path=pathlib.Path(sys.argv[2]))\n"
        "signature = bundle.envelope.signature\n"
        "assert SigstoreRoots().signed_at(bundle.timestamps, signature, [root])\n"
        "print('sigstore' in sys.modules, 'requests' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "bundle", sigstore.trusted_root],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False False\n"

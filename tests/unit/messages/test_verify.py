from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from dockercomms.errors import (
    ClocksDiffer,
    ConfigError,
    DigestMismatch,
    NetworkError,
    ProtocolError,
    RegistryError,
    TooEarly,
    UnknownSender,
    Unsigned,
    VerificationError,
)
from dockercomms.inbox.read import HELD_CLOCK
from dockercomms.messages.verify import (
    HELD_CONFLICT,
    HELD_SIGNATURE,
    HELD_UNKNOWN,
    HELD_UNSIGNED,
    POLICY_KINDS,
    Accepted,
    Withheld,
    judge_entries,
)
from dockercomms.oci.interface import read_all
from dockercomms.oci.memory import MemoryRegistry
from dockercomms.oci.model import MAX_MANIFEST_BYTES, digest_of
from dockercomms.trust.checks import MAX_BUNDLES, RULES, check_signature
from dockercomms.trust.policy import InboxRule, Policy, Revocation, Sender, TrustedIdentity
from tests.fakes.clock import FakeClock
from tests.fakes.mail import ALICE, BOB, REPO, REPOSITORY, Mail, message_of, open_mail
from tests.fakes.people import (
    ALICE_SIGNS,
    ALICES,
    BOB_SIGNS,
    BOBS,
    KNOWS_ALICE,
    STRANGER_SIGNS,
    STRANGERS,
    Judging,
    attach,
    knows,
    sign_as_others_do,
)
from tests.fakes.watched import WatchedRegistry


@pytest.fixture(params=[True, False], ids=["api", "index"])
def mail(request, tmp_path):
    mail = Mail(tmp_path)
    if not request.param:
        mail.registry = WatchedRegistry(MemoryRegistry(clock=mail.clock, referrers=False))
    yield mail
    mail.close()


@pytest.fixture
def plain(tmp_path):
    yield from open_mail(tmp_path)


def fails(verdict, kind, error, **expected) -> Withheld:
    assert isinstance(verdict, Withheld)
    assert (verdict.kind, type(verdict.error)) == (kind, error)
    for name, value in expected.items():
        assert getattr(verdict, name) == value, name
    return verdict


# --- who it was ----------------------------------------------------------------------------------


def test_verify_names_the_sender_whom_the_policy_trusts(mail):
    sent = mail.send(signer=ALICE_SIGNS)

    verdict = Judging(mail).judge(sent)

    assert isinstance(verdict, Accepted)
    assert (verdict.status, verdict.signer) == ("valid", ALICE)
    assert verdict.verified.signer == ALICES.public_key().spki_sha256
    judged = mail.bob.trust.judgement(BOB, REPO, sent.digest)
    assert (judged.status, judged.signer) == ("valid", ALICE)


def test_verify_trusts_the_own_key_for_our_own_names(mail):
    sent = mail.send(signer=ALICE_SIGNS)

    verdict = Judging(mail, Policy(), own_key=ALICES.public_key(), me=(BOB, ALICE)).judge(sent)

    assert verdict.verified.own
    assert verdict.signer == ALICE


def test_verify_trusts_the_own_key_for_nobody_elses_name(mail):
    """Otherwise a thief of our key could send as any sender whom we know."""
    sent = mail.send(signer=BOB_SIGNS)

    for policy, error in ((Policy(), UnknownSender), (KNOWS_ALICE, VerificationError)):
        verdict = Judging(mail, policy, own_key=BOBS.public_key()).judge(sent)
        assert isinstance(verdict, Withheld)
        assert type(verdict.error) is error


def test_verify_trusts_the_own_key_for_what_was_sent_from_here(mail):
    """One person with two names, `send --me alice` and `recv --me bob`, needs no trust file."""
    sent = mail.send(signer=ALICE_SIGNS)
    mail.bob.outbox.add(mail.alice.outbox.rows(REPO)[0])

    judging = Judging(mail, Policy(), own_key=ALICES.public_key())

    assert judging.judge(sent).signer == ALICE
    mail.clock.advance(1)
    other = mail.send(mail.file("b"), signer=ALICE_SIGNS)
    assert isinstance(judging.judge(other), Withheld)


@pytest.mark.parametrize("stamp", [True, False])
def test_verify_takes_no_approval_of_ours_for_another_name(mail, stamp):
    sent = mail.send()
    attach(mail, message_of(mail, sent), BOB_SIGNS.approve("x", sent.digest))
    policy = Policy(accept_cosign_sign=stamp)

    assert isinstance(Judging(mail, policy, own_key=BOBS.public_key()).judge(sent), Withheld)


def test_judge_remembers_nothing(plain):
    sent = plain.send(signer=ALICE_SIGNS)

    Judging(plain).verifier().judge(message_of(plain, sent))

    assert plain.bob.trust.judgement(BOB, REPO, sent.digest) is None


def test_verify_needs_two_requests(plain):
    sent = plain.send(signer=ALICE_SIGNS)
    message, verifier = message_of(plain, sent), Judging(plain).verifier()
    plain.registry.calls.clear()

    verifier.verify(message)

    assert plain.registry.methods() == ["referrers", "get_manifest"]


def test_verify_needs_two_requests_where_no_api_is_known(tmp_path):
    mail = Mail(tmp_path)
    mail.registry = WatchedRegistry(MemoryRegistry(clock=mail.clock, referrers=False))
    sent = mail.send(signer=ALICE_SIGNS)
    mail.inbox().poll()  # finds out that there is none
    message, verifier = message_of(mail, sent), Judging(mail).verifier()
    mail.registry.calls.clear()

    verifier.verify(message)

    assert mail.registry.methods() == ["get_tag", "get_manifest"]
    mail.close()


# --- what is withheld ----------------------------------------------------------------------------


def test_verify_withholds_what_is_not_signed(mail):
    sent = mail.send()

    verdict = fails(Judging(mail).judge(sent), HELD_UNSIGNED, Unsigned, status="none", curable=True)

    assert verdict.error.hint == f"ask {ALICE!r} to send it again with a trusted key"


def test_verify_says_how_to_let_in_an_unsigned_message_of_an_unknown_sender(mail):
    sent = mail.send()

    verdict = Judging(mail, Policy()).judge(sent)

    assert f"dockercomms recv {sent.id[:8]} --no-verify" in verdict.error.hint
    assert f"dockercomms trust add {ALICE} --allow-unsigned" in verdict.error.hint


@pytest.mark.parametrize("known", ["alise@example.com", "Alice@example.com", "alicе@example.com"])
@pytest.mark.parametrize("signer", [None, STRANGER_SIGNS])
@pytest.mark.parametrize("policy", ["key", "identity"])
def test_hints_offer_nothing_for_a_name_that_looks_like_one_with_a_key(
    plain, known, signer, policy
):
    """A forger's message must not come with the command that lets it in."""
    sent = plain.send(signer=signer)
    entry = knows(known, ALICES)
    if policy == "identity":
        entry = Sender(name=known, identities=(TrustedIdentity(identity="a", issuer="https://i"),))

    hint = Judging(plain, Policy(senders=(entry,))).judge(sent).error.hint

    offered = any(word in hint for word in ("--no-verify", "--allow-unsigned", "--accept-new"))
    assert offered is (known == "alise@example.com")


@pytest.mark.parametrize("signer", [None, STRANGER_SIGNS])
def test_hints_never_offer_to_skip_the_check_for_a_sender_with_a_key(plain, signer):
    sent = plain.send(signer=signer)
    identity = TrustedIdentity(identity="a", issuer="https://i")
    for entry in (knows(ALICE, ALICES), Sender(name=ALICE, identities=(identity,))):
        hint = Judging(plain, Policy(senders=(entry,))).judge(sent).error.hint
        assert "--no-verify" not in hint
        assert "--allow-unsigned" not in hint
        assert "--accept-new" not in hint


def test_verify_concludes_that_nothing_is_signed_only_after_both_sources(mail):
    sent = mail.send()
    mail.registry.calls.clear()

    Judging(mail).judge(sent)

    assert "referrers" in mail.registry.methods()
    assert "tag_pages" in mail.registry.methods()


def test_verify_finds_a_bundle_that_only_a_tag_leads_to(tmp_path):
    mail = Mail(tmp_path)
    mail.registry = WatchedRegistry(MemoryRegistry(clock=mail.clock, referrers=False))
    sent = mail.send(signer=ALICE_SIGNS, referrers_index="never")

    assert Judging(mail).judge(sent).status == "valid"
    mail.close()


def test_verify_withholds_what_an_unknown_sender_signed(mail):
    sent = mail.send(signer=ALICE_SIGNS)

    verdict = fails(
        Judging(mail, Policy(), options={"words": ("--me", "bob")}).judge(sent),
        HELD_UNKNOWN,
        UnknownSender,
        status="untrusted",
        curable=False,
    )

    key, add = verdict.error.hint.splitlines()
    assert ALICES.public_key().spki_sha256 in key
    assert key.endswith(f"dockercomms recv {sent.id[:8]} --accept-new --me bob")
    assert add.endswith(f"dockercomms trust add {ALICE} KEYFILE")


def test_verify_withholds_what_somebody_else_signed_as_the_sender(mail):
    sent = mail.send(signer=STRANGER_SIGNS)

    fails(
        Judging(mail).judge(sent), HELD_SIGNATURE, VerificationError, status="invalid", curable=True
    )


def test_verify_holds_what_is_from_the_future_until_it_is_over(plain):
    sent, registry_clock = plain.send(signer=ALICE_SIGNS), plain.clock
    slow = FakeClock(registry_clock.now() - timedelta(hours=1))
    unclear = Judging(plain, options={"clock": slow}).judge(sent)
    fails(unclear, HELD_CLOCK, ClocksDiffer, status="unchecked", curable=True)
    asked = Judging(plain, options={"clock": slow, "choice": "either"})
    assert asked.judge(sent).signer == ALICE

    registry_clock.set(slow.now())
    early = Judging(plain, options={"clock": slow}).judge(sent)
    fails(early, HELD_SIGNATURE, TooEarly, status="unchecked", curable=True)


@pytest.mark.parametrize("word", ["hold", "reject"])
def test_verify_rejects_what_the_policy_rejects(plain, word):
    unsigned, unknown = plain.send(), plain.send(plain.file("b"), signer=ALICE_SIGNS)
    judging = Judging(plain, Policy(unsigned=word, unknown_sender=word))

    assert judging.judge(unsigned).refused is (word == "reject")
    assert judging.judge(unknown).refused is (word == "reject")


def test_verify_says_why_each_bundle_failed(plain):
    sent = plain.send(signer=STRANGER_SIGNS)
    attach(plain, message_of(plain, sent), b"{}")

    text = Judging(plain).judge(sent).error.message

    assert f"not signed with key {ALICES.public_key().spki_sha256}" in text
    trusted, other = ALICES.public_key().spki_sha256, STRANGER_SIGNS.signed_by.signer
    assert f"WARNING: the key of 'alice@example.com' has changed. Trusted: {trusted}. This" in text
    assert f"This message: {other}" in text
    assert "media type None" in text


def test_verify_says_what_could_not_be_read(plain):
    sent = plain.send(signer=ALICE_SIGNS)
    entry = next(plain.reader.referrers(REPOSITORY, sent.digest))
    plain.reader.delete_manifest(REPOSITORY, entry.digest)
    attach(plain, message_of(plain, sent), b"x" * (2**20 + 1))

    verdict = fails(Judging(plain).judge(sent), HELD_SIGNATURE, VerificationError, status="invalid")

    assert "1048577 bytes" in verdict.error.message
    assert "no bundle can be read" in verdict.error.message


@pytest.mark.parametrize("error", [DigestMismatch("other bytes"), ProtocolError("no bundle")])
def test_verify_tries_again_what_a_fault_on_the_way_hid(plain, error):
    """Also of a sender whom the policy does not know; a tag does not name the digest under it."""
    sent = plain.send(signer=ALICE_SIGNS)
    judging = Judging(plain, Policy())
    message, verifier = message_of(plain, sent), judging.verifier()

    def fault(name, _):
        if name in ("get_manifest", "get_tag"):
            raise error

    plain.registry.before = fault
    verdict = fails(verifier.verify(message), HELD_SIGNATURE, VerificationError, curable=True)
    assert error.message in verdict.error.message


def test_verify_withholds_what_is_older_than_the_policy_takes(plain):
    sent = plain.send(signer=ALICE_SIGNS)
    plain.clock.advance(3 * 86_400)
    judging = Judging(plain, Policy(max_age=timedelta(days=2), senders=(knows(ALICE, ALICES),)))
    plain.registry.calls.clear()

    fails(judging.judge(sent), HELD_SIGNATURE, VerificationError, status="unchecked", curable=False)

    assert "referrers" not in plain.registry.methods()


def test_verify_withholds_what_a_revoked_key_signed(plain):
    sent = plain.send(signer=ALICE_SIGNS)
    revoked = Revocation(spki_sha256=ALICES.public_key().spki_sha256, reason="laptop lost")
    policy = Policy(senders=(knows(ALICE, ALICES),), revoked=(revoked,))

    assert "laptop lost" in Judging(plain, policy).judge(sent).error.message


def test_verify_withholds_a_message_that_was_copied_to_us(plain):
    sent = plain.send(to="carol", signer=ALICE_SIGNS)

    fails(Judging(plain).judge(sent), HELD_SIGNATURE, VerificationError)


def test_verify_takes_a_rule_out_on_demand(plain):
    sent = plain.send(signer=STRANGER_SIGNS)

    assert Judging(plain).judge(sent, rules=RULES.without(check_signature)).status == "valid"


# --- claims --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "policy",
    [
        Policy(senders=(Sender(name=ALICE, allow_unsigned=True),)),
        Policy(inboxes=(InboxRule(repository=REPO, accept_unsigned=True),)),
    ],
)
def test_verify_lets_in_a_claim_without_asking_for_bundles(mail, policy):
    sent = mail.send()
    message = message_of(mail, sent)
    mail.registry.calls.clear()

    verdict = Judging(mail, policy).verifier().verify(message)

    assert (verdict.status, verdict.signer) == ("none", None)
    assert mail.registry.calls == []


def test_verify_proves_a_sender_who_may_also_write_unsigned(mail):
    policy = Policy(senders=(knows(ALICE, ALICES, allow_unsigned=True),))
    signed, unsigned = mail.send(signer=ALICE_SIGNS), mail.send(mail.file("b"))
    forged = mail.send(mail.file("c"), signer=STRANGER_SIGNS)

    verdicts = [Judging(mail, policy).judge(sent) for sent in (signed, unsigned, forged)]

    assert [(v.status, v.signer) for v in verdicts] == [
        ("valid", ALICE),
        ("none", None),
        ("invalid", None),
    ]


def test_verify_proves_our_own_name_though_anybody_may_claim_it(plain):
    policy = Policy(senders=(Sender(name=ALICE, allow_unsigned=True),))
    sent = plain.send(signer=ALICE_SIGNS)

    verdict = Judging(plain, policy, own_key=ALICES.public_key(), me=(BOB, ALICE)).judge(sent)

    assert (verdict.status, verdict.signer) == ("valid", ALICE)


def test_verify_takes_no_claim_that_is_too_old(plain):
    sent = plain.send()
    plain.clock.advance(3 * 86_400)
    entry = Sender(name=ALICE, allow_unsigned=True)

    fails(
        Judging(plain, Policy(max_age=timedelta(days=2), senders=(entry,))).judge(sent),
        HELD_SIGNATURE,
        VerificationError,
    )


# --- many bundles --------------------------------------------------------------------------------


def junk(mail: Mail, sent, number: int, **options) -> None:
    message = message_of(mail, sent)
    for count in range(number):
        attach(mail, message, b'{"junk":%d}' % count, **options)


def test_verify_is_not_stopped_by_junk(mail):
    sent = mail.send(signer=ALICE_SIGNS)
    junk(mail, sent, 5)
    attach(mail, message_of(mail, sent), STRANGER_SIGNS.sign(*parts(mail, sent)))

    assert Judging(mail).judge(sent).status == "valid"


def parts(mail: Mail, sent):
    data, _ = read_all(mail.reader.get_manifest(REPOSITORY, sent.digest), MAX_MANIFEST_BYTES)
    return message_of(mail, sent), data


@pytest.mark.parametrize("tag", [True, False], ids=["tagged", "referring"])
def test_verify_reads_all_bundles_in_one_run(tmp_path, tag):
    mail = Mail(tmp_path)
    sent = mail.send()
    junk(mail, sent, MAX_BUNDLES * 3, tag=tag)
    sign_as_others_do(mail, message_of(mail, sent))

    assert Judging(mail).judge(sent).status == "valid"
    mail.close()


def test_verify_goes_on_in_the_next_run_where_there_are_more_than_one_reads(plain, monkeypatch):
    sent = plain.send()
    junk(plain, sent, 50, tag=False)
    sign_as_others_do(plain, message_of(plain, sent), tagged=False)
    monkeypatch.setattr("dockercomms.messages.verify.BUNDLES_A_RUN", 20)

    verdicts = [Judging(plain).judge(sent) for _ in range(3)]

    assert [v.status for v in verdicts] == ["invalid", "invalid", "valid"]
    assert [v.more for v in verdicts[:2]] == [True, True]
    assert "20 bundles read; the next run reads the rest" in verdicts[0].error.message


def test_verify_keeps_how_far_it_got_where_the_network_breaks_off(plain):
    sent = plain.send()
    junk(plain, sent, MAX_BUNDLES * 2, tag=False)
    sign_as_others_do(plain, message_of(plain, sent), tagged=False)
    read = 0

    def before(name, said):
        nonlocal read
        read += name == "get_manifest" and said[1] != sent.digest
        if read > MAX_BUNDLES * 2:
            raise NetworkError("cut")

    message = message_of(plain, sent)
    plain.registry.before = before
    with pytest.raises(NetworkError):
        Judging(plain).verifier().verify(message)
    plain.registry.before = None
    plain.registry.calls.clear()

    assert Judging(plain).judge(sent).status == "valid"
    assert len(plain.registry.calls) < MAX_BUNDLES


def test_verify_pins_a_new_senders_key_though_junk_comes_first(plain):
    sent = plain.send()
    junk(plain, sent, MAX_BUNDLES * 2, tag=False)
    sign_as_others_do(plain, message_of(plain, sent), tagged=False)
    judging = Judging(plain, Policy())

    assert judging.judge(sent, pin=judging.pin).status == "valid"


def test_verify_goes_on_though_the_sender_is_unknown(plain):
    sent = plain.send(signer=ALICE_SIGNS)
    junk(plain, sent, MAX_BUNDLES + 1, tag=False)

    verdict = Judging(plain, Policy()).judge(sent)

    assert verdict.more
    plain.registry.calls.clear()
    Judging(plain, Policy()).judge(sent)
    assert len(plain.registry.calls) < 2 * MAX_BUNDLES  # none of them could prove anything


# --- faults --------------------------------------------------------------------------------------


def break_at(mail: Mail, *methods: str, error: Exception) -> None:
    def before(name, said):
        if name in methods:
            raise error

    mail.registry.before = before


@pytest.mark.parametrize(
    "error", [RegistryError("no such thing", status=500), NetworkError("too slow")]
)
def test_verify_does_with_one_source_where_the_other_is_broken(plain, error):
    sent = plain.send(signer=ALICE_SIGNS)
    verifier, message = Judging(plain).verifier(), message_of(plain, sent)
    break_at(plain, "referrers", error=error)

    assert verifier.verify(message).status == "valid"


@pytest.mark.parametrize("methods", [("referrers",), ("referrers", "tag_pages")])
def test_verify_passes_on_that_the_registry_cannot_tell(plain, methods):
    sent = plain.send()
    verifier, message = Judging(plain).verifier(), message_of(plain, sent)
    break_at(plain, *methods, error=RegistryError("no such thing", status=500))

    with pytest.raises(RegistryError):
        verifier.verify(message)

    assert plain.bob.trust.judgement(BOB, REPO, sent.digest) is None


def test_verify_passes_on_that_nothing_answers(plain):
    sent = plain.send(signer=ALICE_SIGNS)
    verifier, message = Judging(plain).verifier(), message_of(plain, sent)
    break_at(plain, "referrers", "tag_pages", error=NetworkError("cut"))

    with pytest.raises(NetworkError):
        verifier.verify(message)


def test_verify_passes_on_that_a_root_is_wrong(plain, tmp_path):
    class Broken:
        def prove(self, bundle, root):
            raise ConfigError("root public: not a trusted root")

    sent = plain.send(signer=ALICE_SIGNS)
    identity = TrustedIdentity(identity="a", issuer="i")
    policy = Policy(senders=(Sender(name=ALICE, identities=(identity,)),))

    fails(Judging(plain, policy).judge(sent), HELD_SIGNATURE, VerificationError)


# --- pinning -------------------------------------------------------------------------------------


def test_verify_pins_the_key_of_a_new_sender(mail):
    first, second = mail.send(signer=ALICE_SIGNS), mail.send(mail.file("b"), signer=ALICE_SIGNS)
    stranger = mail.send(mail.file("c"), signer=STRANGER_SIGNS)
    judging = Judging(mail, Policy())
    verifier = judging.verifier(pin=judging.pin)

    verdicts = [verifier.verify(message_of(mail, sent)) for sent in (first, second, stranger)]

    assert [v.status for v in verdicts] == ["valid", "valid", "invalid"]
    assert judging.pinned == [(ALICE, ALICES.public_key())]
    assert verdicts[0].signer == ALICE


@pytest.mark.parametrize("why", ["unsigned", "junk", "known"])
def test_verify_pins_nothing_else(plain, why):
    sent = plain.send(signer=STRANGER_SIGNS if why == "known" else None)
    if why == "junk":
        junk(plain, sent, 1)
    judging = Judging(plain) if why == "known" else Judging(plain, Policy())

    verdict = judging.judge(sent, pin=judging.pin)

    assert isinstance(verdict, Withheld)
    assert judging.pinned == []


def test_verify_pins_no_key_that_signed_something_else(plain):
    one, two = plain.send(signer=ALICE_SIGNS), plain.send(plain.file("b"))
    attach(plain, message_of(plain, two), ALICE_SIGNS.sign(*parts(plain, one)))
    judging = Judging(plain, Policy())

    fails(judging.judge(two, pin=judging.pin), HELD_UNKNOWN, UnknownSender)

    assert judging.pinned == []


# --- ids -----------------------------------------------------------------------------------------


def test_verify_finds_out_that_an_id_was_used_twice(plain):
    sent = plain.send(signer=ALICE_SIGNS)
    plain.bob.trust.record_signed(
        BOB, ALICE, sent.id, digest_of(b"another"), expires=None, at=plain.clock.now()
    )

    verdict = Judging(plain).judge(sent)

    fails(verdict, HELD_CONFLICT, VerificationError, status="valid", curable=False)
    assert digest_of(b"another") in verdict.error.message


def test_verify_takes_the_same_message_again(plain):
    sent = plain.send(signer=ALICE_SIGNS)
    plain.bob.trust.record_signed(
        BOB, ALICE, sent.id, sent.digest, expires=None, at=plain.clock.now()
    )

    assert Judging(plain).judge(sent).status == "valid"


def test_verify_lets_no_stranger_take_an_id_beforehand(plain):
    sent = plain.send(signer=ALICE_SIGNS)
    hers = digest_of(b"hers")
    plain.bob.trust.record_signed(BOB, "mallory", sent.id, hers, expires=None, at=plain.clock.now())

    assert Judging(plain).judge(sent).status == "valid"

    # The same, if what she only claimed to be counted.
    plain.bob.trust.record_signed(BOB, ALICE, sent.id, hers, expires=None, at=plain.clock.now())
    fails(Judging(plain).judge(sent), HELD_CONFLICT, VerificationError, status="valid")


# --- another policy ------------------------------------------------------------------------------


def test_notice_policy_has_everything_judged_anew(plain):
    sent = plain.send(signer=ALICE_SIGNS)
    plain.inbox().poll()
    plain.inbox().entries()
    stranger = Judging(plain, Policy()).verifier()
    stranger.notice_policy()
    plain.bob.inbox.set_refused(BOB, REPO, sent.digest, HELD_UNKNOWN, "who?")

    stranger.notice_policy()
    assert plain.bob.inbox.candidate(BOB, REPO, sent.digest).state == "refused"
    Judging(plain).verifier().notice_policy()

    assert plain.bob.inbox.candidate(BOB, REPO, sent.digest).state == "new"


def test_notice_policy_has_strangers_judged_anew_that_are_to_be_pinned(plain):
    sent = plain.send(signer=ALICE_SIGNS)
    plain.inbox().poll()
    plain.inbox().entries()
    judging = Judging(plain, Policy())
    judging.verifier().notice_policy()
    row = (BOB, REPO, sent.digest)
    for kind, state in ((HELD_UNKNOWN, "new"), (HELD_UNSIGNED, "held")):
        plain.bob.inbox.set_held(*row, kind, "why")

        judging.verifier(pin=judging.pin).notice_policy()

        assert plain.bob.inbox.candidate(*row).state == state


# --- listings ------------------------------------------------------------------------------------


def entries(mail: Mail):
    inbox = mail.inbox()
    inbox.poll()
    return inbox, inbox.entries()


def test_judge_entries_writes_what_it_found_to_the_rows(plain):
    good, bad = plain.send(signer=ALICE_SIGNS), plain.send(plain.file("b"), signer=STRANGER_SIGNS)
    inbox, listed = entries(plain)

    judge_entries(inbox, listed, Judging(plain).verifier())

    found = {entry.digest: entry for entry in inbox.entries()}
    assert found[good.digest].state == "new"
    assert (found[bad.digest].state, found[bad.digest].reason_kind) == ("held", HELD_SIGNATURE)
    assert "\n" not in found[bad.digest].reason
    judged = plain.bob.trust.judged(BOB, REPO)
    assert {digest: row.status for digest, row in judged.items()} == {
        good.digest: "valid",
        bad.digest: "invalid",
    }


def test_judge_entries_leaves_alone_what_is_not_due(plain):
    plain.send(signer=ALICE_SIGNS)
    inbox, listed = entries(plain)
    verifier = Judging(plain, Policy()).verifier()
    judge_entries(inbox, listed, verifier)
    plain.registry.calls.clear()

    judge_entries(inbox, inbox.entries(), verifier)
    assert plain.registry.calls == []
    judge_entries(inbox, inbox.entries(), verifier, insist=True)

    assert "referrers" in plain.registry.methods()


def test_judge_entries_looks_again_for_a_bundle_that_may_come(plain):
    sent = plain.send()
    inbox, listed = entries(plain)
    verifier = Judging(plain).verifier()
    judge_entries(inbox, listed, verifier)
    attach(plain, message_of(plain, sent), ALICE_SIGNS.sign(*parts(plain, sent)))

    judge_entries(inbox, inbox.entries(), verifier)

    assert plain.bob.trust.judgement(BOB, REPO, sent.digest).status == "valid"


def test_judge_entries_leaves_what_cannot_be_fetched(plain):
    plain.send(signer=ALICE_SIGNS)
    inbox, listed = entries(plain)
    ghost = replace(listed[0], key="gone", digest=digest_of(b"gone"), tag=None)
    break_at(plain, "referrers", "tag_pages", error=NetworkError("cut"))

    judge_entries(inbox, [*listed, ghost], Judging(plain).verifier())

    assert inbox.entries()[0].state == "new"
    assert plain.bob.trust.judged(BOB, REPO) == {}


def test_judge_entries_refuses_what_the_policy_rejects(plain):
    sent = plain.send()
    inbox, listed = entries(plain)

    judge_entries(inbox, listed, Judging(plain, Policy(unsigned="reject")).verifier())

    row = plain.bob.inbox.candidate(BOB, REPO, sent.digest)
    assert (row.state, row.reason_kind) == ("refused", HELD_UNSIGNED)
    assert row.reason_kind in POLICY_KINDS


def test_keys_of_the_tests_differ():
    assert len({key.public_key() for key in (ALICES, BOBS, STRANGERS)}) == 3

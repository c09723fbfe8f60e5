from __future__ import annotations

import io
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from dockercomms.errors import (
    ConfigError,
    Denied,
    LocalIOError,
    ManifestBlobUnknown,
    NetworkError,
    RegistryError,
    UsageError,
    VerificationError,
)
from dockercomms.messages.draft import SendOptions
from dockercomms.messages.send import send
from dockercomms.oci.interface import read_all
from dockercomms.oci.memory import MemoryRegistry
from dockercomms.oci.model import EMPTY_CONFIG, MAX_MANIFEST_BYTES, MEDIA_TYPE_MANIFEST, digest_of
from dockercomms.oci.tag_schema import put_index, tag_schema_entries
from dockercomms.protocol.header import PREDICATE_TYPE_MESSAGE
from dockercomms.protocol.manifest import ManifestBuilder, parse_anchor, parse_bundle, parse_message
from dockercomms.protocol.tags import anchor_tag, bell_tag, parse_tag, recipient_tag
from dockercomms.transport.payload import payload_of
from dockercomms.transport.push import ENCODERS
from dockercomms.trust.bundle import parse_bundle_json
from dockercomms.trust.keys import PrivateKey
from dockercomms.trust.signing import KeySigner, SignedBy
from dockercomms.trust.statement import parse_statement
from tests.fakes.clock import FakeClock
from tests.fakes.mail import ALICE, BOB, REPO, REPOSITORY, Mail, message_of, open_mail
from tests.fakes.people import ALICE_SIGNS
from tests.fakes.watched import FailAt, WatchedRegistry

RT = recipient_tag(BOB)


@pytest.fixture
def mail(tmp_path):
    yield from open_mail(tmp_path)


def without_api(mail: Mail) -> None:
    mail.registry = WatchedRegistry(MemoryRegistry(clock=mail.clock, referrers=False))


def message_at(mail: Mail, tag: str):
    data, _ = read_all(mail.reader.get_tag(REPOSITORY, tag), MAX_MANIFEST_BYTES)
    return parse_message(data)


def test_send_publishes_the_message_under_its_tag(mail):
    sent = mail.send(title="weekly", text="as promised")

    message = message_at(mail, sent.tag)
    assert message.digest == sent.digest
    assert message.header.id == sent.id
    assert (message.header.sender, message.header.recipient) == (ALICE, BOB)
    assert (message.header.title, message.header.text) == ("weekly", "as promised")
    assert (sent.total_bytes, sent.chunks, sent.reused_chunks) == (5, 1, 0)
    assert sent.expires_at == mail.clock.now() + timedelta(days=7)
    assert sent.signed is None
    assert not sent.sealed


def test_send_tag_says_when_and_what(mail):
    sent = mail.send()

    said = parse_tag(sent.tag)
    assert said.kind == "message"
    assert said.published == mail.clock.now()
    assert said.head == sent.digest[7:23]


def test_send_makes_the_anchor_its_subject_and_rings_the_bell(mail):
    sent = mail.send()

    message = message_at(mail, sent.tag)
    anchor, _ = read_all(
        mail.reader.get_tag(REPOSITORY, anchor_tag(RT, mail.clock.now().date())), 4096
    )
    assert parse_anchor(anchor).descriptor.digest == message.subject.digest
    assert mail.reader.resolve_tag(REPOSITORY, bell_tag(RT)).digest == sent.digest


def test_send_publishes_last(mail):
    sent = mail.send()

    puts = [said[3] for name, said in mail.registry.calls if name == "push_manifest"]
    assert puts == [
        (anchor_tag(RT, mail.clock.now().date()),),
        (sent.tag,),
        (bell_tag(RT),),
    ]
    last_blob = max(i for i, name in enumerate(mail.registry.methods()) if name == "push_blob")
    assert last_blob < mail.registry.methods().index("push_manifest")


def test_send_needs_four_requests_once_the_repository_is_known(mail):
    mail.send(mail.file(data=b"one"))
    mail.registry.calls.clear()

    mail.send(mail.file(data=b"two"))

    assert mail.registry.methods() == ["push_blob", "push_manifest", "push_manifest"]
    assert mail.registry.requests() == 4


def test_send_needs_six_requests_without_the_referrers_api(mail):
    without_api(mail)
    mail.send(mail.file(data=b"one"))
    mail.registry.calls.clear()

    mail.send(mail.file(data=b"two"))

    assert mail.registry.requests() == 6
    assert mail.registry.methods()[-2:] == ["get_tag", "push_manifest"]


@pytest.mark.parametrize(("mode", "listed"), [("auto", 1), ("always", 1), ("never", 0)])
def test_send_lists_the_message_in_the_fallback_index(mail, mode, listed):
    without_api(mail)

    sent = mail.send(referrers_index=mode)

    anchor = message_at(mail, sent.tag).subject.digest
    entries = tag_schema_entries(mail.reader, REPOSITORY, anchor)
    assert [entry.digest for entry in entries] == [sent.digest] * listed
    assert all(entry.artifact_type and entry.annotations for entry in entries)


def test_send_writes_no_index_where_the_api_is(mail):
    sent = mail.send()

    assert not [tag for tag in mail.tags() if tag.startswith("sha256-")]
    (entry,) = mail.reader.referrers(REPOSITORY, message_at(mail, sent.tag).subject.digest)
    assert entry.digest == sent.digest


def test_send_goes_on_when_the_index_cannot_be_written(mail):
    without_api(mail)

    def before(name, said):
        if name == "push_manifest" and said[3][0].startswith("sha256-"):
            raise Denied("no indexes here", status=403)

    mail.registry.before = before

    sent = mail.send()

    assert sent.tag in mail.tags()
    assert [notice.kind for notice in mail.notices] == ["not-indexed"]


def test_send_says_that_the_index_is_full(mail):
    without_api(mail)
    anchor = message_at(mail, mail.send().tag).subject.digest
    others = []
    for n in range(500):
        data, _ = ManifestBuilder.inbox_anchor("other", date.fromordinal(700_000 + n)).build()
        others.append(mail.reader.push_manifest(REPOSITORY, data, MEDIA_TYPE_MANIFEST))
    put_index(mail.reader, REPOSITORY, anchor, others)

    mail.send(mail.file(data=b"2"))

    assert [notice.kind for notice in mail.notices] == ["not-indexed"]
    assert "full" in mail.notices[0].text


# --- clocks --------------------------------------------------------------------------------------


def test_send_stamps_our_time_and_tags_the_registrys(mail):
    theirs = mail.clock.now() + timedelta(seconds=200)
    mail.registry.time = lambda: theirs

    sent = mail.send()

    assert message_at(mail, sent.tag).header.created_at == mail.clock.now()
    assert parse_tag(sent.tag).published == theirs
    assert mail.notices == []


@pytest.mark.parametrize(("seconds", "word"), [(301, "behind"), (-301, "ahead of")])
def test_send_warns_of_a_clock_five_minutes_off(mail, seconds, word):
    mail.registry.time = lambda: mail.clock.now() + timedelta(seconds=seconds)

    mail.send()

    (notice,) = mail.notices
    assert notice.kind == "clock-skew"
    assert f"301 s {word}" in notice.text


def test_send_refuses_a_clock_an_hour_off(mail):
    mail.registry.time = lambda: mail.clock.now() + timedelta(seconds=3601)

    with pytest.raises(ConfigError, match="3601 s behind") as raised:
        mail.send()

    assert "--clock-skew-ok" in raised.value.hint
    assert mail.tags() == []


def test_send_refuses_a_clock_that_was_never_set(mail):
    mail.clock.set(datetime(1970, 1, 1, 0, 10, tzinfo=UTC))
    mail.registry.time = lambda: None

    with pytest.raises(ConfigError, match="this machine says 1970-01-01"):
        mail.send()

    assert mail.tags() == []
    assert mail.send(clock_skew_ok=True).digest


def test_send_with_clock_skew_ok_uses_the_registrys_day(mail):
    mail.registry.time = lambda: mail.clock.now() + timedelta(days=3)

    sent = mail.send(clock_skew_ok=True)

    day = (mail.clock.now() + timedelta(days=3)).date()
    assert parse_tag(sent.tag).day == day
    assert anchor_tag(RT, day) in mail.tags()


# --- dry run -------------------------------------------------------------------------------------


def test_send_dry_run_writes_nothing_anywhere(mail):
    sent = mail.send(dry_run=True)

    assert mail.registry.writes() == []
    assert sent.total_bytes == 5
    assert parse_tag(sent.tag).head == sent.digest[7:23]
    assert mail.alice.sends.published(REPO, sent.id) == ()


def test_send_dry_run_knows_what_is_there_already(mail):
    big = mail.file(data=bytes(range(256)) * 1024)
    mail.send(big, chunk_bytes=100_000, compress="gzip")

    sent = mail.send(big, chunk_bytes=100_000, compress="gzip", dry_run=True)

    assert sent.chunks == 3
    assert sent.reused_chunks == 0  # they are small, and cheaper to send than to ask for


def test_send_dry_run_finds_wrong_arguments(mail):
    with pytest.raises(UsageError):
        mail.send(to="", dry_run=True)


# --- refusals and repairs ------------------------------------------------------------------------


def refuse(method, *, tag, times=1, error=None, status=409):
    """Return a hook that refuses the first `times` PUTs of a tag that begins with `tag`."""
    left = [times]

    def before(name, said):
        if name == method and any(text.startswith(tag) for text in said[3]) and left[0]:
            left[0] -= 1
            raise (error or RegistryError)("refused", status=status)

    return before


@pytest.mark.parametrize("status", [400, 403, 409, 412])
def test_send_takes_a_refused_put_for_done_if_the_tag_is_its_own(mail, status):
    arrived = []

    def after(name, said):
        if name == "push_manifest" and parse_tag(said[3][0]).kind == "message" and not arrived:
            arrived.append(said[3][0])
            raise RegistryError("tag is immutable", status=status)

    mail.registry.after = after

    assert mail.send().tag == arrived[0]


def test_send_is_continued_where_no_tag_may_be_moved(tmp_path):
    """The first run's index of the bundle is there, and stays as it is."""
    mail = Mail(tmp_path)
    mail.registry = WatchedRegistry(MemoryRegistry(clock=mail.clock, referrers=False))
    mail.registry.before = refuse("push_manifest", tag=f"inbox-{RT}-20261120-")
    with pytest.raises(RegistryError, match="refused"):
        mail.send(signer=ALICE_SIGNS)

    def moves_nothing(name, said):
        if name == "push_manifest" and set(said[3]) & set(mail.tags()):
            raise RegistryError("tag is immutable", status=409)

    mail.registry.before = moves_nothing
    sent = mail.send(signer=ALICE_SIGNS)

    assert sent.tag in mail.tags()
    assert mail.notices == []
    mail.close()


def test_send_does_without_an_index_that_may_not_be_written(tmp_path):
    mail = Mail(tmp_path)
    mail.registry = WatchedRegistry(MemoryRegistry(clock=mail.clock, referrers=False))
    mail.registry.before = refuse("push_manifest", tag="sha256-", times=9)

    sent = mail.send(signer=ALICE_SIGNS)

    assert sent.tag in mail.tags()
    assert {notice.kind for notice in mail.notices} == {"not-indexed"}
    mail.close()


def test_send_fails_when_the_tag_is_refused_and_not_there(mail):
    mail.registry.before = refuse("push_manifest", tag=f"inbox-{RT}-20261120-", times=9)

    with pytest.raises(RegistryError, match="refused"):
        mail.send()

    assert bell_tag(RT) not in mail.tags()


@pytest.mark.parametrize("put", [f"inbox-{RT}-20261120-", "bundle-"], ids=["message", "bundle"])
def test_send_repairs_blobs_the_registry_has_lost(mail, put):
    lost = []

    def before(name, said):
        if name == "push_manifest" and said[3][0].startswith(put) and not lost:
            held = mail.reader._repositories[REPOSITORY]
            lost.extend(held.blobs)
            held.blobs.clear()

    mail.registry.before = before

    sent = mail.send(signer=ALICE_SIGNS)

    assert len(lost) == 3
    assert EMPTY_CONFIG.digest in lost
    assert len([tag for tag in mail.tags() if tag.startswith("bundle-")]) == 1
    assert message_at(mail, sent.tag).digest == sent.digest
    for chunk in message_at(mail, sent.tag).chunks:
        mail.reader.resolve_blob(REPOSITORY, chunk.descriptor.digest)


def test_send_tries_a_repair_only_once(mail):
    mail.registry.before = refuse(
        "push_manifest",
        tag=f"inbox-{RT}-20261120-",
        times=99,
        error=ManifestBlobUnknown,
        status=404,
    )

    with pytest.raises(ManifestBlobUnknown):
        mail.send()

    puts = [said for name, said in mail.registry.calls if name == "push_manifest"]
    assert len([said for said in puts if said[3][0].count("-") == 4]) == 2


def test_send_overwrites_a_foreign_anchor(mail):
    tag = anchor_tag(RT, mail.clock.now().date())
    other = mail.send(to="somebody else")
    data, _ = read_all(mail.reader.get_tag(REPOSITORY, other.tag), MAX_MANIFEST_BYTES)
    mail.reader.push_manifest(
        REPOSITORY, data, "application/vnd.oci.image.manifest.v1+json", tags=(tag,)
    )

    sent = mail.send()

    subject = message_at(mail, sent.tag).subject.digest
    assert mail.reader.resolve_tag(REPOSITORY, tag).digest == subject


def test_send_goes_on_with_an_untagged_anchor(mail):
    tag = anchor_tag(RT, mail.clock.now().date())

    def before(name, said):
        if name == "push_manifest" and said[3:4] == ((tag,),):
            raise Denied("immutable", status=403)

    mail.registry.before = before

    sent = mail.send()

    assert tag not in mail.tags()
    mail.reader.resolve_manifest(REPOSITORY, message_at(mail, sent.tag).subject.digest)
    assert [notice.kind for notice in mail.notices] == ["anchor-untagged"]


def test_send_fails_when_an_anchor_cannot_be_pushed_at_all(mail):
    mail.registry.before = refuse(
        "push_manifest",
        tag=anchor_tag(RT, mail.clock.now().date()),
        error=RegistryError,
        status=500,
    )

    with pytest.raises(RegistryError):
        mail.send()


def test_send_remembers_that_the_bell_may_not_be_moved(mail):
    mail.registry.before = refuse("push_manifest", tag=bell_tag(RT), times=9)
    mail.registry.before = _only_bell(status=403)

    mail.send(mail.file(data=b"1"))
    mail.registry.calls.clear()
    mail.send(mail.file(data=b"2"))

    assert [notice.kind for notice in mail.notices] == ["no-bell"]
    assert mail.registry.methods() == ["push_blob", "push_manifest"]


def _only_bell(*, status=0, error=None):
    def before(name, said):
        if name == "push_manifest" and said[3] == (bell_tag(RT),):
            raise error or RegistryError("immutable", status=status)

    return before


@pytest.mark.parametrize("error", [NetworkError("cut"), RegistryError("busy", status=503)])
def test_send_rings_again_after_a_passing_fault(mail, error):
    mail.registry.before = _only_bell(error=error)
    mail.send(mail.file(data=b"1"))
    mail.registry.before = None

    sent = mail.send(mail.file(data=b"2"))

    assert mail.reader.resolve_tag(REPOSITORY, bell_tag(RT)).digest == sent.digest
    assert [notice.kind for notice in mail.notices] == ["no-bell"]


# --- going on with an interrupted send -----------------------------------------------------------


def interrupted(mail: Mail, hook, **options) -> None:
    """Send until the hook raises a NetworkError."""
    mail.registry.before, before = hook, mail.registry.before
    with pytest.raises(NetworkError):
        mail.send(**options)
    mail.registry.before = before
    mail.registry.calls.clear()


def at_message_put():
    def before(name, said):
        said_tag = parse_tag(said[3][0]) if name == "push_manifest" and said[3] else None
        if said_tag is not None and said_tag.kind == "message":
            raise NetworkError("cut")

    return before


def test_send_continues_an_interrupted_one_with_the_same_bytes(mail):
    interrupted(mail, at_message_put())
    ids = {row["id"] for row in mail.alice.sends.database.rows("SELECT id FROM sends")}
    mail.clock.advance(60)

    sent = mail.send()

    assert {sent.id} == ids
    assert message_at(mail, sent.tag).header.created_at == mail.clock.now() - timedelta(seconds=60)
    assert "push_blob" not in mail.registry.methods()


def test_send_keeps_the_tag_it_drew_on_the_same_day(mail):
    interrupted(mail, at_message_put())
    mail.clock.advance(60)

    sent = mail.send()

    assert parse_tag(sent.tag).published == mail.clock.now() - timedelta(seconds=60)


def test_send_draws_the_tag_anew_on_another_day_and_keeps_the_subject(mail):
    interrupted(mail, at_message_put())
    built = mail.clock.now().date()
    mail.clock.advance(13 * 3600)

    sent = mail.send()

    assert parse_tag(sent.tag).day == built + timedelta(days=1)
    assert {anchor_tag(RT, built), anchor_tag(RT, built + timedelta(days=1))} <= set(mail.tags())
    anchor = mail.reader.resolve_tag(REPOSITORY, anchor_tag(RT, built)).digest
    assert message_at(mail, sent.tag).subject.digest == anchor


def test_send_finds_that_the_lost_answer_was_a_success(mail):
    def after(name, said):
        said_tag = parse_tag(said[3][0]) if name == "push_manifest" and said[3] else None
        if said_tag is not None and said_tag.kind == "message":
            raise NetworkError("answer lost")

    mail.registry.after = after
    with pytest.raises(NetworkError):
        mail.send()
    mail.registry.after = None
    mail.registry.calls.clear()

    sent = mail.send()

    messages = [tag for tag in mail.tags() if parse_tag(tag) and parse_tag(tag).kind == "message"]
    assert messages == [sent.tag]
    assert mail.registry.methods()[:2] == ["resolve_tag", "push_manifest"]  # its tag, the bell


def test_send_checks_blobs_again_after_ten_minutes(mail):
    interrupted(mail, at_message_put())
    mail.clock.advance(601)
    mail.reader._repositories[REPOSITORY].blobs.clear()

    sent = mail.send()

    for chunk in message_at(mail, sent.tag).chunks:
        mail.reader.resolve_blob(REPOSITORY, chunk.descriptor.digest)


def test_send_reuses_the_chunks_of_an_interrupted_one(mail):
    big = mail.file(data=b"".join(bytes([n]) * 1000 for n in range(100)))
    count = []

    def before(name, said):
        count.append(name)
        if count.count("push_blob") == 60:
            raise NetworkError("cut")

    mail.registry.before = before
    with pytest.raises(NetworkError):
        mail.send(big, chunk_bytes=1000, concurrency=1)
    mail.registry.before = None

    count.clear()
    mail.registry.before = lambda name, said: count.append(name)
    sent = mail.send(big, chunk_bytes=1000, concurrency=1)

    # What was on its way when the line was cut may have arrived as well.
    assert 59 <= sent.reused_chunks <= 59 + ENCODERS
    assert (sent.chunks, count.count("push_blob") - 1) == (100, 100 - sent.reused_chunks)  # {}


def test_send_again_starts_afresh(mail):
    interrupted(mail, at_message_put())
    old = {row["id"] for row in mail.alice.sends.database.rows("SELECT id FROM sends")}

    sent = mail.send(again=True)

    assert sent.id not in old
    ids = {row["id"] for row in mail.alice.sends.database.rows("SELECT id FROM sends")}
    assert ids == {sent.id}


@pytest.mark.parametrize(
    "options", [{"to": "carol"}, {"title": "other"}, {"ttl_seconds": 60}, {"compress": "gzip"}]
)
def test_send_with_other_options_is_another_message(mail, options):
    interrupted(mail, at_message_put())
    old = {row["id"] for row in mail.alice.sends.database.rows("SELECT id FROM sends")}

    assert mail.send(**options).id not in old


def test_send_after_a_day_is_another_message(mail):
    interrupted(mail, at_message_put())
    mail.clock.advance(24 * 3600 + 1)

    mail.send()

    rows = mail.alice.sends.database.rows("SELECT published FROM sends")
    assert [row["published"] is not None for row in rows] == [True]  # the old one was swept


def test_send_after_a_success_is_another_message(mail):
    assert mail.send().id != mail.send().id


def test_send_of_a_changed_file_is_another_message(mail):
    path = mail.file()
    interrupted(mail, at_message_put())
    path.write_bytes(b"other")

    sent = mail.send(path)

    message = message_at(mail, sent.tag)
    (row,) = [
        row
        for row in mail.alice.sends.database.rows("SELECT * FROM sends")
        if row["published"] is None
    ]
    assert message.header.id == sent.id != row["id"]


def test_send_never_joins_a_running_one(mail):
    inner = []

    def before(name, said):
        if name == "push_manifest" and not inner:
            inner.append(None)
            inner[0] = mail.send()

    mail.registry.before = before

    outer = mail.send()

    assert outer.id != inner[0].id
    assert {outer.tag, inner[0].tag} <= set(mail.tags())


def test_send_of_a_stream_is_not_continued(mail):
    interrupted(mail, at_message_put(), payload=payload_of([], name="x", text="x"))
    payload = payload_of(["-"], name="s.bin", stdin=io.BytesIO(b"stream"))
    mail.registry.before = at_message_put()
    with pytest.raises(NetworkError):
        mail.send(payload=payload)

    rows = mail.alice.sends.database.rows("SELECT source FROM sends")
    assert [row["source"] is not None for row in rows] == [True]


def test_send_fails_when_a_file_changes_meanwhile(mail):
    path = mail.file(data=b"x" * 1000)

    def before(name, said):
        if name == "push_blob":
            path.write_bytes(b"y" * 1001)

    mail.registry.before = before

    with pytest.raises(LocalIOError, match=r"a\.txt"):
        mail.send(path)

    assert not [tag for tag in mail.tags() if parse_tag(tag)]


# --- signing -------------------------------------------------------------------------------------


KEY = PrivateKey.generate()


class Signing:
    """Signs with a key, unless it is to fail; counts how often."""

    def __init__(self, fails: Exception | None = None) -> None:
        self.real = KeySigner(KEY)
        self.fails = fails
        self.count = 0

    @property
    def signed_by(self):
        return self.real.signed_by

    def sign(self, message, manifest):
        self.count += 1
        if self.fails:
            raise self.fails
        return self.real.sign(message, manifest)


def bundle_at(mail: Mail, tag: str):
    data, descriptor = read_all(mail.reader.get_tag(REPOSITORY, tag), MAX_MANIFEST_BYTES)
    return parse_bundle(data), descriptor


@pytest.mark.parametrize("api", [True, False])
def test_send_pushes_the_signature_before_the_message(mail, api):
    if not api:
        without_api(mail)

    sent = mail.send(signer=Signing())

    tags = [said[3][0] for name, said in mail.registry.calls if name == "push_manifest"]
    tag = next(tag for tag in tags if tag.startswith("bundle-"))
    assert tags.index(tag) < tags.index(sent.tag)
    bundle, descriptor = bundle_at(mail, tag)
    assert bundle.subject == message_at(mail, sent.tag).descriptor.bare()
    assert bundle.annotations["dev.sigstore.bundle.predicateType"] == PREDICATE_TYPE_MESSAGE
    listed = [entry.digest for entry in mail.reader.referrers(REPOSITORY, sent.digest)]
    assert listed == [descriptor.digest]
    assert sent.signed == SignedBy("key", KEY.public_key().spki_sha256)


def test_send_puts_the_signature_into_the_manifest_beside_the_blob(mail):
    sent = mail.send(signer=Signing())

    (tag,) = [tag for tag in mail.tags() if tag.startswith("bundle-")]
    layer = bundle_at(mail, tag)[0].layer
    blob, _ = read_all(mail.reader.get_blob(REPOSITORY, layer.digest), layer.size)
    assert layer.inline() == blob
    assert (
        tag
        == f"bundle-{sent.digest[7:19]}-{int(mail.clock.now().timestamp())}-{layer.digest[7:13]}"
    )


def test_send_publishes_nothing_when_signing_fails(mail):
    with pytest.raises(NetworkError, match="no Fulcio"):
        mail.send(signer=Signing(NetworkError("no Fulcio")))

    assert mail.tags() == []


@pytest.mark.parametrize("lie", ["another message", "another signer", "garbage"])
def test_send_publishes_nothing_that_its_own_verifier_refuses(mail, lie):
    other = message_at(mail, mail.send(mail.file("other")).tag)
    before = set(mail.tags())

    class Lying(Signing):
        def sign(self, message, manifest):
            if lie == "garbage":
                return b"{}"
            if lie == "another signer":
                return KeySigner(PrivateKey.generate()).sign(message, manifest)
            data, _ = read_all(
                mail.reader.get_manifest(REPOSITORY, other.digest), MAX_MANIFEST_BYTES
            )
            return self.real.sign(other, data)

    with pytest.raises(VerificationError):
        mail.send(signer=Lying())

    assert set(mail.tags()) == before


def test_send_continued_publishes_the_signature_it_made(mail):
    without_api(mail)
    signer = Signing()
    interrupted(mail, at_message_put(), signer=signer)

    sent = mail.send(signer=signer)

    assert signer.count == 1
    assert len(list(mail.reader.referrers(REPOSITORY, sent.digest))) == 1


def test_send_signed_otherwise_is_another_message(mail):
    interrupted(mail, at_message_put(), signer=Signing())

    first = mail.alice.sends.database.rows("SELECT id FROM sends")[0]["id"]

    assert mail.send().id != first


@pytest.mark.parametrize(("api", "most"), [(True, 7), (False, 10)])
def test_send_signed_keeps_its_budget_of_requests(mail, api, most):
    if not api:
        without_api(mail)
    mail.send(mail.file(data=b"1"), signer=Signing())
    mail.registry.calls.clear()

    mail.send(mail.file(data=b"2"), signer=Signing())

    assert mail.registry.requests() <= most


def test_send_for_an_audience_says_so_in_what_is_signed(mail):
    sent = mail.send(signer=Signing(), audience="registry.example/other/box")

    (tag,) = [tag for tag in mail.tags() if tag.startswith("bundle-")]
    bundle = parse_bundle_json(bundle_at(mail, tag)[0].layer.inline())
    statement = parse_statement(bundle.envelope.payload)
    assert message_at(mail, sent.tag).header.audience == "registry.example/other/box"
    assert statement.predicate.audience == "registry.example/other/box"


@pytest.mark.parametrize("stage", ["bell", "index"])
def test_send_interrupted_after_publication_is_continued_not_sent_twice(mail, stage):
    without_api(mail)
    wanted = bell_tag(RT) if stage == "bell" else "sha256-"

    def before(name, said):
        if name == "push_manifest" and said[3][0].startswith(wanted) and said[3][0].count("-") == 1:
            raise KeyboardInterrupt

    mail.registry.before = before
    with pytest.raises(KeyboardInterrupt):
        mail.send()
    mail.registry.before = None
    first = [tag for tag in mail.tags() if parse_tag(tag) and parse_tag(tag).kind == "message"]

    sent = mail.send()

    assert [sent.tag] == first
    assert bell_tag(RT) in mail.tags()


def test_send_that_was_killed_before_its_run_ended_is_continued(mail):
    with mail.alice.send_runs.open([BOB]) as run:
        first = mail.send(run=run)
        with mail.alice.send_runs.open([BOB]) as other:
            second = mail.send(run=other)  # a run that is alive is never joined
            assert second.id != first.id

    again = mail.send()

    assert again.sent_before
    assert again.digest in (first.digest, second.digest)
    fresh = mail.send()
    assert not fresh.sent_before
    assert fresh.id not in (first.id, second.id)


@pytest.mark.parametrize("hours", [1, 25])
def test_send_that_was_killed_is_sent_anew_when_its_message_expired_or_after_a_day(mail, hours):
    with mail.alice.send_runs.open([BOB]) as run:
        first = mail.send(run=run, ttl_seconds=30 if hours == 1 else 10**6)
    mail.clock.advance(hours * 3600)

    assert mail.send(ttl_seconds=30 if hours == 1 else 10**6).id != first.id


# --- several, and other stores -------------------------------------------------------------------


def test_send_to_several_gives_each_a_message_of_their_own(mail):
    path = mail.file()

    one, two = mail.send(path, to="bob"), mail.send(path, to="carol")

    assert one.id != two.id
    assert one.digest != two.digest
    first, second = message_at(mail, one.tag).chunks, message_at(mail, two.tag).chunks
    assert [c.descriptor.digest for c in first] == [c.descriptor.digest for c in second]


def test_send_survives_midnight_between_anchor_and_tag(tmp_path):
    clock = FakeClock(datetime(2026, 11, 20, 23, 59, 59, tzinfo=UTC))
    mail = Mail(tmp_path, clock=clock)

    def after(name, said):
        if name == "push_manifest" and said[3] == (anchor_tag(RT, clock.now().date()),):
            clock.advance(2)

    mail.registry.after = after

    sent = mail.send()

    assert parse_tag(sent.tag).day == clock.now().date()
    assert len([tag for tag in mail.tags() if parse_tag(tag).kind == "anchor"]) == 2
    mail.close()


def test_fail_at_counts(mail):
    fault = FailAt(2)
    fault("a")
    with pytest.raises(NetworkError):
        fault("b")
    assert fault.failed


# --- one upload for several recipients -----------------------------------------------------------


def send_like(mail, first, *, to, repository="team/box", file=None, **options):
    return send(
        mail.registry,
        repository,
        payload_of([file or mail.file()]),
        repo=f"registry.example/{repository}",
        sender=ALICE,
        recipient=to,
        state=mail.alice,
        clock=mail.clock,
        options=SendOptions(**options),
        like=first,
    )


def asked(mail):
    names = [name for name, _ in mail.registry.calls]
    mail.registry.calls.clear()
    return {name: names.count(name) for name in names}


def test_send_to_a_second_recipient_pushes_no_chunk_again(mail):
    first = mail.send(mail.file(data=b"x" * 100_000), compress="gzip", chunk_bytes=10_000)
    asked(mail)
    file = mail.file(data=b"x" * 100_000)
    second = send_like(mail, first, to="carol", file=file, compress="gzip", chunk_bytes=10_000)
    counted = asked(mail)
    assert "push_blob" not in counted
    assert "resolve_blob" not in counted
    assert (second.chunks, second.reused_chunks) == (10, 10)
    assert second.id != first.id
    assert message_of(mail, second).chunks == message_of(mail, first).chunks


def test_send_to_another_repository_of_the_registry_mounts(mail):
    first = mail.send()
    asked(mail)
    second = send_like(mail, first, to="carol", repository="team/other")
    assert asked(mail)["mount_blob"] == 1
    data = read_all(mail.reader.get_manifest("team/other", second.digest), 4 * 2**20)[0]
    (chunk,) = parse_message(data).chunks
    assert mail.reader.resolve_blob("team/other", chunk.descriptor.digest).size


@pytest.mark.parametrize("outcome", [None, Denied("not yours")])
def test_send_to_another_repository_pushes_what_cannot_be_mounted(mail, outcome):
    first = mail.send()

    class NoMount(WatchedRegistry):
        def mount_blob(self, *_args, **_options):
            if outcome is not None:
                raise outcome

    mail.registry = NoMount(mail.reader)
    second = send_like(mail, first, to="carol", repository="team/other")
    assert asked(mail)["push_blob"] >= 1
    assert second.chunks == 1


def test_send_does_not_believe_that_another_payload_is_the_same(mail):
    first = mail.send()
    second = send_like(mail, first, to="carol", file=mail.file("b", b"other"))
    assert message_of(mail, second).header.payload_digest == digest_of(b"other")
    third = send_like(mail, first, to="dave", compress="gzip")
    assert message_of(mail, third).header.compression == "gzip"
    fourth = send_like(mail, first, to="erin", file=mail.file("a.txt", b"changed"))
    assert message_of(mail, fourth).header.payload_digest == digest_of(b"changed")


def test_send_of_a_stream_is_like_nothing(mail):
    stream = mail.send(payload=payload_of([Path("-")], name="s", stdin=io.BytesIO(b"x")))
    assert stream.content is None
    second = send_like(mail, stream, to="carol")
    assert message_of(mail, second).header.payload_digest == digest_of(b"hello")


def test_send_says_that_it_is_published_before_it_is_noted(mail):
    """Whoever holds Ctrl-C back from there on has no message that is noted and not told of."""
    noted = []

    def note(notice):
        if notice.kind == "published":
            noted.append((notice.text, mail.alice.sends.published(REPO, "")))

    mail.note = note
    sent = mail.send()
    assert noted == [(f"message {sent.id} is published", ())]
    assert [row.id for row in mail.alice.sends.published(REPO, "")] == [sent.id]

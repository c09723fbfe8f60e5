"""Numbers of messages: that one was withheld is seen, and that a send failed is not taken for it."""

from __future__ import annotations

import pytest

from dockercomms.errors import NetworkError, ProtocolError, RegistryError
from dockercomms.oci.model import digest_of
from dockercomms.protocol.fields import StreamPosition
from dockercomms.state import State
from dockercomms.trust.bundle import parse_bundle_json
from dockercomms.trust.owner import TrustOptions
from dockercomms.trust.statement import parse_statement
from tests.fakes.mail import ALICE, BOB, REPO, REPOSITORY, Mail, message_of, open_mail
from tests.fakes.people import ALICE_SIGNS, KNOWS_ALICE, STRANGER_SIGNS, Judging
from tests.fakes.people import attach as attach_bundle

STREAM = "0123456789abcdef" * 2


@pytest.fixture
def mail(tmp_path):
    yield from open_mail(tmp_path)


def send(mail: Mail, name: str, **options):
    mail.clock.advance(1)
    return mail.send(mail.file(name), **{"signer": ALICE_SIGNS, **options})


def position(mail: Mail, sent) -> StreamPosition:
    return message_of(mail, sent).header.sequence


def withhold(mail: Mail, sent) -> None:
    mail.reader.delete_manifest(REPOSITORY, sent.digest)


def listed(mail: Mail, **options):
    """Return how many messages are missing before each that Bob sees, and what is said."""
    with mail.mailbox(BOB, trust=TrustOptions(policy=KNOWS_ALICE)) as bob:
        entries = bob.inbox(**options)
        said = [(gap.sender, gap.missing, gap.message) for gap in bob.gaps]
        return {entry.id: entry.missing_before for entry in entries}, said


# --- what is sent --------------------------------------------------------------------------------


def test_messages_are_numbered_in_a_stream_of_their_own(mail):
    one, two = send(mail, "a"), send(mail, "b")
    other = send(mail, "c", to="carol")

    first, second, third = (position(mail, sent) for sent in (one, two, other))

    assert (first.number, second.number, third.number) == (1, 2, 1)
    assert first.stream == second.stream != third.stream
    assert first.void == second.void == ()


def test_what_is_not_signed_has_no_number(mail):
    one = send(mail, "a")
    unsigned = send(mail, "b", signer=None)
    two = send(mail, "c")

    assert position(mail, unsigned) is None
    assert (position(mail, one).number, position(mail, two).number) == (1, 2)


def test_another_state_draws_another_stream(mail, tmp_path):
    first = position(mail, send(mail, "a"))
    with State(tmp_path / "another machine" / "state.db") as mail.alice:
        second = position(mail, send(mail, "b"))

    assert second.number == 1
    assert second.stream != first.stream


def test_the_number_is_signed(mail):
    sent = send(mail, "a")
    data = ALICE_SIGNS.sign(message := message_of(mail, sent), manifest_of(mail, message))
    predicate = parse_statement(parse_bundle_json(data).envelope.payload).predicate

    assert predicate.sequence == str(position(mail, sent))


def manifest_of(mail: Mail, message) -> bytes:
    with mail.reader.get_manifest(REPOSITORY, message.digest) as reader:
        return reader.read()


def fail_at(mail: Mail, method: str, count: int = 1) -> None:
    calls = 0

    def before(name, said):
        nonlocal calls
        calls += name == method
        if name == method and calls >= count:
            raise NetworkError("cut")

    mail.registry.before = before


def test_a_failed_send_is_declared_void_by_the_next_message(mail):
    one = send(mail, "a")
    for name in ("b", "c"):
        fail_at(mail, "push_manifest")
        with pytest.raises((NetworkError, RegistryError)):
            send(mail, name)
        mail.registry.before = None
    two, three = send(mail, "d"), send(mail, "e")

    assert position(mail, two).number == 4
    assert position(mail, two).void == ((2, 3),)
    assert position(mail, three).void == ()  # said once
    missing, said = listed(mail)
    assert missing == {one.id: 0, two.id: 0, three.id: 0}
    assert said == []


def test_a_void_number_is_said_again_if_who_said_it_was_not_published(mail):
    send(mail, "a")
    for name in ("b", "c"):
        fail_at(mail, "push_manifest")
        with pytest.raises(NetworkError):
            send(mail, name)
        mail.registry.before = None

    assert position(mail, send(mail, "d")).void == ((2, 3),)


def test_a_failed_send_that_is_continued_keeps_its_number(mail):
    send(mail, "a")
    fail_at(mail, "push_manifest")
    with pytest.raises(NetworkError):
        send(mail, "b")
    mail.registry.before = None
    later = send(mail, "c")
    continued = send(mail, "b")

    assert position(mail, continued).number == 2
    assert position(mail, later).void == ((2, 2),)
    assert listed(mail)[1] == []


def test_a_number_is_on_disk_before_anybody_sees_it(mail, tmp_path):
    """A process that is killed at publication never gives its number to another message."""

    class Killed(BaseException):
        pass

    def before(name, said):
        if name == "push_manifest":
            raise Killed

    send(mail, "a")
    mail.registry.before = before
    with pytest.raises(Killed):
        send(mail, "b")
    mail.registry.before = None
    mail.alice.close()

    with State(mail.folder / "alice" / "state.db") as mail.alice:
        assert position(mail, send(mail, "c")).number == 3


# --- what arrives --------------------------------------------------------------------------------


def test_a_withheld_message_is_seen(mail):
    one, two, three = send(mail, "a"), send(mail, "b"), send(mail, "c")
    withhold(mail, two)

    missing, said = listed(mail)

    assert missing == {one.id: 0, three.id: 1}
    assert said == [(ALICE, 1, three.id)]


def test_a_gap_is_said_after_delivery_and_closes_when_the_message_comes(mail):
    sent = [send(mail, name) for name in "abcd"]
    manifest = manifest_of(mail, message_of(mail, sent[1]))
    withhold(mail, sent[1])
    mail.receive(mailbox={"trust": TrustOptions(policy=KNOWS_ALICE)})

    assert listed(mail) == ({}, [(ALICE, 1, sent[2].id)])
    assert listed(mail, all=True)[0][sent[2].id] == 1
    mail.reader.push_manifest(
        REPOSITORY, manifest, "application/vnd.oci.image.manifest.v1+json", tags=[sent[1].tag]
    )
    listed(mail, complete=True)
    assert listed(mail)[1] == []


def test_a_gap_is_forgotten_after_a_week(mail):
    one, two, three = send(mail, "a"), send(mail, "b"), send(mail, "c")
    withhold(mail, two)
    assert len(listed(mail)[1]) == 1
    mail.clock.advance(8 * 86_400)

    assert listed(mail)[1] == []
    assert len(listed(mail, all=True)[1]) == 1
    assert one.id != three.id


def test_who_comes_late_misses_nothing(mail):
    """Messages that expired, or that another machine received, before the first one are no gap."""
    for name in "abc":
        withhold(mail, send(mail, name))
    sent = send(mail, "d")

    assert listed(mail) == ({sent.id: 0}, [])


def test_what_nobody_proves_opens_and_closes_no_gap(mail):
    one, two, three = send(mail, "a"), send(mail, "b"), send(mail, "c")
    withhold(mail, two)
    with State(mail.folder / "mallory" / "state.db") as mallory:
        mine, mail.alice = mail.alice, mallory
        send(mail, "x", signer=STRANGER_SIGNS)
        send(mail, "y", signer=None)
        mail.alice = mine

    assert listed(mail)[1] == [(ALICE, 1, three.id)]
    assert one.id != two.id


def test_another_number_in_the_manifest_than_was_signed_is_refused(mail):
    from dockercomms.oci.model import MEDIA_TYPE_MANIFEST
    from dockercomms.protocol.manifest import ManifestBuilder, parse_message

    sent = send(mail, "a", signer=None)
    message = message_of(mail, sent)
    annotations = dict(message.descriptor.annotations)
    annotations["dockercomms.sequence"] = f"{STREAM}/7"
    data, _ = ManifestBuilder.message(
        annotations, [chunk.descriptor for chunk in message.chunks], subject=message.subject
    ).build()
    forged = parse_message(data)
    mail.reader.push_manifest(REPOSITORY, data, MEDIA_TYPE_MANIFEST)
    honest = ALICE_SIGNS.sign(message, manifest_of(mail, message))
    attach_bundle(mail, forged, honest)

    assert Judging(mail).verifier().verify(forged).status == "invalid"


def test_gaps_are_counted_without_what_is_void(mail):
    state, now = mail.bob, mail.clock.now()
    digest = digest_of(b"x")

    def seen(number: int, *void: tuple[int, int]) -> None:
        position = StreamPosition(stream=STREAM, number=number, void=void)
        state.streams.record(BOB, ALICE, position, digest=digest, message=f"m{number}", now=now)

    seen(5)
    seen(10, (6, 7), (9, 9))
    seen(20, (9, 12), (15, 19))
    seen(10)  # the first one stays

    assert [(gap.message, gap.missing) for gap in state.streams.gaps(BOB)] == [
        ("m10", 1),
        ("m20", 2),
    ]
    assert state.streams.gaps("carol") == []
    state.streams.sweep(now=now)
    mail.clock.advance(91 * 86_400)
    state.streams.sweep(now=mail.clock.now())
    assert state.streams.gaps(BOB) == []


# --- the annotation ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", [f"{STREAM}/1", f"{STREAM}/999999999999999", f"{STREAM}/9;void=1-1,3-8"]
)
def test_position_reads_what_it_writes(text):
    assert str(StreamPosition.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        STREAM,
        f"{STREAM}/0",
        f"{STREAM}/01",
        f"{STREAM}/1000000000000000",
        f"{STREAM[:-1]}/1",
        f"{STREAM.upper()}/1",
        f"{STREAM}/9;void=",
        f"{STREAM}/9;void=1",
        f"{STREAM}/9;void=2-1",
        f"{STREAM}/9;void=1-9",
        f"{STREAM}/9;void=3-4,1-2",
        f"{STREAM}/9;void=1-2,2-3",
        f"{STREAM}/999;void=" + ",".join(f"{n}-{n}" for n in range(1, 66)),
        f"{STREAM}/9;void=1-2 ",
    ],
)
def test_position_refuses_what_is_none(text):
    with pytest.raises(ProtocolError, match="not a sequence"):
        StreamPosition.parse(text)


def test_a_message_says_at_most_so_many_ranges(mail):
    """The newest; the rest shows as a gap, which is the truth as far as anybody can say it."""
    state, now = mail.alice, mail.clock.now()
    for number in range(200):
        state.streams.draw(f"m{number}", REPO, ALICE, BOB, now=now)
        if number % 2:
            state.streams.publish(f"m{number}")
        else:
            state.streams.abandon(f"m{number}")

    drawn = state.streams.draw("last", REPO, ALICE, BOB, now=now)

    assert StreamPosition.parse(str(drawn)) == drawn

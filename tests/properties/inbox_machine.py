"""An inbox, its sender and its receiver, and beside them a model that says what each must see.

A hypothesis state machine over whole mailboxes and the fake registry with every switch. Each step
opens its mailbox anew, as each run of the program does; three clocks tell the time: the registry's,
which never goes back, and those of the two people, which may differ from it by most of an hour.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dockercomms.errors import AuthError, DockerCommsError, Unsupported
from dockercomms.mailbox import Mailbox
from dockercomms.oci.model import Digest
from dockercomms.oci.stores import open_store
from dockercomms.protocol.tags import bell_tag, parse_tag, recipient_tag
from dockercomms.state.deliveries import head_of
from dockercomms.trust.keys import KeyStore
from dockercomms.trust.owner import TrustOptions
from dockercomms.trust.policy import Policy, Sender, TrustedKey
from tests.fakes.clock import FakeClock
from tests.fakes.mail import files_below
from tests.fakes.registry import OCI, PRESETS, FakeRegistry, Fault, Quirks

ALICE, BOB = "alice@example.com", "bob@example.com"
REPOSITORY = "team/box"
HERE, MIRROR = "here", "mirror"
"""The registry, where Alice sends to, and the folder that it is relayed to and from."""
HOUR, DAY = 3600, 86_400
MAX_EARLY_SECONDS = 300
"""A message created later than that by both clocks has to wait."""
SKEWS = (0, 200, -200, 3000, -3000)
"""Seconds by which somebody's clock is ahead: less than the hour from which it is called wrong."""
STEP_SECONDS = 2
"""Between two publications: what was published first is then known to the second."""


def whole_if_unsorted(quirks: Quirks) -> Quirks:
    """A server that sorts nothing gives the whole list, as docker-registry does.

    Of one that would page it, a short page may look sorted by chance.
    """
    if quirks.tags_sorted:
        return quirks
    return replace(quirks, tags_n="ignored", tags_last="ignored", tags_page_max=None)


switches = st.one_of(
    st.sampled_from(sorted(PRESETS)).map(
        lambda name: replace(PRESETS[name], referrers_lose_every=0)
    ),
    st.builds(
        replace,
        st.just(OCI),
        digest_header=st.booleans(),
        tags_sorted=st.booleans(),
        tags_n=st.sampled_from(["obeyed", "ignored"]),
        tags_n_max=st.sampled_from([None, 3]),
        tags_page_max=st.sampled_from([None, 2]),
        tags_last=st.sampled_from(["obeyed", "must-exist"]),
        tags_past_end=st.sampled_from(["empty", "null", "whole"]),
        tags_link=st.sampled_from(["more", "always"]),
        immutable_tags=st.sampled_from([0, 0, 409]),
        missing_blob=st.sampled_from([201, 400]),
        put_tags=st.sampled_from(["honoured", "ignored"]),
        referrers=st.booleans(),
        referrers_filter=st.booleans(),
        referrers_artifact_type=st.sampled_from(["manifest", "config"]),
        referrers_annotations=st.booleans(),
        referrers_page=st.sampled_from([None, 1]),
        moved_tag_drops_manifest=st.booleans(),
        redirect_blobs=st.booleans(),
        reads_refused_bodies=st.just(True),
    ).map(whole_if_unsorted),
)


places = st.sampled_from([HERE, HERE, MIRROR])


class SkewedClock:
    """The time as somebody has it whose clock is wrong."""

    def __init__(self, base: FakeClock) -> None:
        self.base = base
        self.seconds = 0

    def now(self) -> datetime:
        return self.base.now() + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.base.monotonic()

    def sleep(self, seconds: float) -> None:
        self.base.sleep(seconds)

    def random(self) -> float:
        return self.base.random()


@dataclass
class Letter:
    """One message as the model knows it."""

    digest: str
    id: str
    text: bytes
    created: datetime
    expires: datetime
    published: datetime
    """By its tag: that of the first try, where a later one of the same day published it."""
    places: set[str] = field(default_factory=lambda: {HERE})
    """The repositories with the message."""
    delivered: str = ""
    """Whence it was received."""
    held: set[str] = field(default_factory=set)
    """Repositories in which Bob polled the message while he had to hold it."""

    def is_past(self, now: datetime) -> bool:
        """Return whether it is garbage."""
        return now > self.expires + timedelta(seconds=DAY)


class InboxMachine(RuleBasedStateMachine):
    """Alice sends to Bob. `letters` is the model: what is published, in that order."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.clock = FakeClock(datetime(2026, 11, 20, 20, 0, tzinfo=UTC))
        self.alices, self.bobs = SkewedClock(self.clock), SkewedClock(self.clock)
        self.letters: list[Letter] = []
        self.receipts: dict[str, set[tuple[str, str]]] = {HERE: set(), MIRROR: set()}
        self.unpublished: list[tuple[Path, int]] = []
        self.trusted = True
        self.count = 0

    @initialize(quirks=switches)
    def open_registry(self, quirks: Quirks) -> None:
        self.fake = self.stack.enter_context(FakeRegistry(quirks, clock=self.clock))
        self.repos = {
            HERE: f"{self.fake.host}/{REPOSITORY}",
            MIRROR: f"oci-layout:{self.folder / MIRROR}",
        }
        self.policies = {
            name: Policy(senders=(Sender(name=other, keys=(self.key_of(other),)),))
            for name, other in ((ALICE, BOB), (BOB, ALICE))
        }

    def teardown(self) -> None:
        """In the end, everything that has not expired has arrived, once, and Alice knows."""
        try:
            if hasattr(self, "fake"):
                self.trusted = True
                self.alices.seconds = self.bobs.seconds = 0
                self.clock.advance(2 * HOUR)
                self.receive(HERE, most=None, complete=True)
                self.receive(MIRROR, most=None, complete=True)
                self.relay(back=True)
                self.list_receipts(strict=True)
                assert not [letter for letter in self.due(HERE) if not letter.delivered]
        finally:
            self.stack.close()

    def key_of(self, name: str) -> TrustedKey:
        return TrustedKey(key=KeyStore(self.folder / name / "keys").ensure("default")[0].public)

    def mailbox(self, name: str, place: str = HERE) -> Mailbox:
        trusts = self.policies.get(name, Policy()) if name == ALICE or self.trusted else Policy()
        return Mailbox(
            self.repos[place],
            me=name,
            state_path=self.folder / name / "state.db",
            keys_folder=self.folder / name / "keys",
            trust=TrustOptions(policy=trusts),
            clock={ALICE: self.alices, BOB: self.bobs}.get(name, self.clock),
        )

    def due(self, place: str) -> list[Letter]:
        """Return the messages in a place that Bob must still receive: some clock calls them alive."""
        now = min(self.clocks(place))
        return [
            letter
            for letter in self.letters
            if place in letter.places and not letter.delivered and now < letter.expires
        ]

    def clocks(self, place: str) -> list[datetime]:
        """Return Bob's time, and the registry's: a folder has none."""
        return [self.bobs.now(), *([self.clock.now()] if place == HERE else [])]

    # --- Alice -----------------------------------------------------------------------------------

    def publish(self, path: Path, ttl: int) -> None:
        self.clock.advance(STEP_SECONDS)
        with self.mailbox(ALICE) as mailbox:
            sent = mailbox.send([path], to=BOB, ttl_seconds=ttl)
        known = {letter.digest for letter in self.letters}
        assert sent.digest not in known
        text, created = path.read_bytes(), sent.expires_at - timedelta(seconds=ttl)
        published = self.tag_time(sent.digest)
        self.letters.append(Letter(sent.digest, sent.id, text, created, sent.expires_at, published))

    def tag_time(self, digest: Digest) -> datetime:
        """Return when a message was published, by its tag."""
        said = [parse_tag(tag) for tag in self.fake.repository(REPOSITORY).tags]
        (published,) = [
            tag.published
            for tag in said
            if tag is not None and tag.kind == "message" and tag.head == head_of(digest)
        ]
        assert published is not None
        return published

    def new_file(self) -> Path:
        self.count += 1
        path = self.folder / f"file{self.count}.txt"
        path.write_text(f"content {self.count}")
        return path

    @rule(ttl=st.sampled_from([2 * HOUR, DAY, 7 * DAY, 30 * DAY]))
    def send(self, ttl: int) -> None:
        self.publish(self.new_file(), ttl)

    @rule(ttl=st.sampled_from([DAY, 7 * DAY]))
    def send_and_be_cut_off_before_publication(self, ttl: int) -> None:
        self.clock.advance(STEP_SECONDS)
        path = self.new_file()

        def is_publication(request) -> bool:
            name = request.path.rpartition("/manifests/")[2]
            said = parse_tag(name)
            return request.method == "PUT" and said is not None and said.kind == "message"

        self.fake.fail_when(is_publication, Fault.answer(403))
        with self.mailbox(ALICE) as mailbox, pytest.raises(DockerCommsError):
            mailbox.send([path], to=BOB, ttl_seconds=ttl)
        assert self.fake.faults.pending == 0
        self.unpublished.append((path, ttl))

    @precondition(lambda self: self.unpublished)
    @rule()
    def publish_late(self) -> None:
        self.publish(*self.unpublished.pop(0))

    @rule()
    def list_receipts(self, *, strict: bool = False) -> None:
        """Look what became of what was sent; what is from the future proves nothing yet."""
        with self.mailbox(ALICE) as mailbox:
            found = mailbox.receipts()
        said = {(entry.message, entry.status) for entry in found}
        listed = {(entry.message, entry.status, entry.signature_status) for entry in found}
        assert len(found) == len(said if strict else listed)
        assert {entry.signer for entry in found} <= ({BOB} if strict else {BOB, None})
        collected = {letter.digest for letter in self.letters if HERE not in letter.places}
        assert said <= self.receipts[HERE]
        assert {digest for digest, _ in self.receipts[HERE] - said} <= collected

    # --- Bob -------------------------------------------------------------------------------------

    @rule(place=places)
    def look(self, place: str) -> None:
        with self.mailbox(BOB, place) as mailbox:
            entries = mailbox.inbox()
            assert mailbox.last_poll is not None
            assert mailbox.last_poll.errors == ()
        found = [entry.digest for entry in entries]
        assert len(found) == len(set(found))
        assert set(found) == {letter.digest for letter in self.due(place)}
        self.looked_at(place)

    @rule(place=places)
    def receive_all(self, place: str) -> None:
        self.receive(place, None, complete=False)

    @rule(place=places, most=st.sampled_from([None, 1, 2]), complete=st.booleans())
    def receive(self, place: str, most: int | None, *, complete: bool) -> None:
        due = [letter for letter in self.due(place) if self.may_have(letter, place)]
        with self.mailbox(BOB, place) as mailbox:
            results = list(mailbox.receive(out=self.folder / "in", max=most, complete=complete))
            note(f"receive: {mailbox.last_poll}")
        note("\n".join(f"{result.digest}: {result.status} {result.error}" for result in results))
        arrived = [result for result in results if result.status == "received"]
        assert all(result.error is None for result in arrived)
        got = [result.digest for result in arrived]
        wanted = [x.digest for x in sorted(due, key=lambda x: x.published)[:most]]
        if place == MIRROR or (most is not None and any(place in x.held for x in due)):
            # In which order held ones are tried again is not said; a relay draws tags anew.
            assert len(got) == len(set(got)) == len(wanted)
            assert set(got) <= {letter.digest for letter in due}
        else:
            assert sorted(got) == sorted(wanted)
        for letter in self.letters:
            if letter.digest in got:
                letter.delivered = place
                self.receipts[place].add((letter.digest, "accepted"))
        self.looked_at(place)

    def looked_at(self, place: str) -> None:
        for letter in self.due(place):
            if not self.may_have(letter, place):
                letter.held.add(place)

    def may_have(self, letter: Letter, place: str) -> bool:
        """Return whether the policy accepts it and no clock calls it past or future (SPEC.md 7.4)."""
        clocks = self.clocks(place)
        early = (letter.created - min(clocks)).total_seconds()
        return self.trusted and early <= MAX_EARLY_SECONDS and max(clocks) < letter.expires

    @precondition(lambda self: self.answerable)
    @rule(number=st.integers(0, 99), status=st.sampled_from(["accepted", "rejected"]))
    def acknowledge(self, number: int, status: str) -> None:
        letter = self.answerable[number % len(self.answerable)]
        self.clock.advance(STEP_SECONDS)
        with self.mailbox(BOB) as mailbox:
            mailbox.acknowledge(letter.digest, status)
        self.receipts[HERE].add((letter.digest, status))

    @property
    def answerable(self) -> list[Letter]:
        """The messages that Bob received here, and that still exist."""
        return [x for x in self.letters if x.delivered == HERE and HERE in x.places]

    # --- those who look after the repositories ---------------------------------------------------

    @rule(back=st.booleans())
    def relay(self, *, back: bool) -> None:
        source, target = (MIRROR, HERE) if back else (HERE, MIRROR)
        now = self.clock.now()
        with (
            self.mailbox("carol@example.com", source) as mailbox,
            self.mailbox("carol@example.com", target) as other,
        ):
            run = mailbox.relay(target=open_store(other.repo, clock=self.clock, create=True))
            assert [relayed.error for relayed in run.run() if relayed.status == "failed"] == []
        held = [letter for letter in self.letters if source in letter.places]
        # What is past its time is not carried; where it is already, its receipts still come to it.
        carried = {x.digest for x in held if target in x.places or not x.is_past(now)}
        for letter in self.letters:
            if letter.digest in carried:
                letter.places.add(target)
        self.receipts[target] |= {
            receipt for receipt in self.receipts[source] if receipt[0] in carried
        }

    @rule(dry_run=st.booleans())
    def collect_garbage(self, *, dry_run: bool) -> None:
        now = self.clock.now()
        past = [x for x in self.letters if HERE in x.places and x.is_past(now)]
        refuses = self.fake.quirks.manifest_delete != 202
        with self.mailbox(BOB) as mailbox:
            try:
                done = list(mailbox.collect(dry_run=dry_run))
            except (AuthError, Unsupported):
                assert refuses
                return
        told = {item.digest for item in done if item.kind == "message"}
        assert told == {letter.digest for letter in past}
        if not dry_run and not refuses:
            assert {item.status for item in done} <= {"removed"}
            for letter in past:
                letter.places.discard(HERE)

    @rule()
    def change_trust(self) -> None:
        self.trusted = not self.trusted

    # --- the world -------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([60, 600, 6 * HOUR, DAY, 3 * DAY]))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule(whose=st.sampled_from(["alices", "bobs"]), seconds=st.sampled_from(SKEWS))
    def clock_jumps(self, whose: str, seconds: int) -> None:
        getattr(self, whose).seconds = seconds

    @rule(
        lose=st.sets(st.sampled_from(["bell", "indexes"])),
        every=st.sampled_from([0, 1, 2]),
        lag=st.sampled_from([0.0, 60.0]),
    )
    def registry_loses(self, lose: set[str], every: int, lag: float) -> None:
        """Lose the bell, or all indexes of the tag schema; from now on, referrers get lost or lag."""
        tags = self.fake.repository(REPOSITORY).tags
        for tag in list(tags):
            is_bell = tag == bell_tag(recipient_tag(BOB))
            if ("bell" in lose and is_bell) or ("indexes" in lose and tag.startswith("sha256-")):
                del tags[tag]
        self.fake.quirks = replace(
            self.fake.quirks, referrers_lose_every=every, referrers_lag_seconds=lag
        )

    @invariant()
    def what_is_not_garbage_stays(self) -> None:
        there = self.fake.repository(REPOSITORY).manifests if hasattr(self, "fake") else ()
        for letter in self.letters:
            assert (letter.digest in there) == (HERE in letter.places)

    @invariant()
    def files_are_those_of_what_was_delivered(self) -> None:
        expected = sorted(letter.text for letter in self.letters if letter.delivered)
        assert sorted(files_below(self.folder / "in").values()) == expected

"""The inbox as its users see it: discovery in its three ways, entries, fetch, find."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from dockercomms.errors import (
    ClocksDiffer,
    DigestMismatch,
    LocalIOError,
    NetworkError,
    NotFoundError,
    ProtocolError,
    UsageError,
)
from dockercomms.inbox.inbox import Inbox, find_in
from dockercomms.oci.model import EMPTY_CONFIG, MEDIA_TYPE_MANIFEST, Descriptor, digest_of
from dockercomms.oci.remote.read import BytesReader
from dockercomms.protocol.manifest import ManifestBuilder
from dockercomms.protocol.tags import anchor_tag, message_tag
from dockercomms.state import State
from tests.fakes.inboxes import (
    ME,
    NOON,
    REPO,
    REPOSITORY,
    RT,
    TODAY,
    HabitRegistry,
    Habits,
    World,
    days_ago,
    digests,
)

# --- the three ways ------------------------------------------------------------------------------


def test_inbox_referrers(world):
    message = world.sender.publish(tagged=False, bell=False)
    world.inbox = world.open(discovery="referrers")

    assert world.inbox.poll().complete
    (entry,) = world.inbox.entries()

    assert entry.digest == message.digest
    assert world.inbox.fetch(entry) == message
    assert world.registry.asked("tags") == []


def test_inbox_tag_schema_fallback(state):
    world = World(state, Habits(referrers=False))
    message = world.sender.publish(tagged=False, bell=False)

    (entry,) = world.run()

    assert entry.digest == message.digest
    assert world.inbox.fetch(entry) == message
    assert world.registry.asked("referrers") == []


def test_inbox_tag_seek(world):
    old = world.sender.publish(at=days_ago(5))
    yesterday = world.sender.publish(at=days_ago(1))
    assert digests(world.run()) == [old.digest, yesterday.digest]
    today = world.sender.publish()

    assert digests(world.run()) == [old.digest, yesterday.digest, today.digest]

    assert world.registry.asked("tags") == [anchor_tag(RT, days_ago(1).date())]


def test_inbox_finds_untagged_message_through_its_anchor_with_tags_listed(world):
    message = world.sender.publish(tagged=False, bell=False)
    assert digests(world.run()) == [message.digest]


# --- entries -------------------------------------------------------------------------------------


def test_entries_are_empty_where_there_is_no_repository(world):
    inbox = Inbox(
        world.registry, "no/such", repo="r/no/such", me=ME, state=world.state, clock=world.clock
    )
    result = inbox.poll()
    assert result.repository_missing
    assert result.complete
    assert result.errors == ()
    assert inbox.entries() == []


def test_entries_say_what_the_message_says(world):
    message = world.sender.publish(title="Hello")
    (entry,) = world.run()
    assert entry.state == "new"
    assert entry.header == message.header
    assert entry.published == NOON
    assert (entry.reason, entry.reason_kind, entry.expired, entry.reported) == (
        "",
        "",
        False,
        False,
    )


def test_entries_ask_for_each_manifest_once(world):
    for _ in range(3):
        world.sender.publish()
    entries = world.run()
    for entry in entries:
        world.inbox.fetch(entry)
    assert len(world.registry.asked("get_manifest")) == 3
    assert world.registry.asked("get_tag") == []
    assert len(world.run()) == 3
    assert world.registry.asked("get_manifest") == []


def test_entries_are_oldest_first(world):
    published = [world.sender.publish(at=days_ago(n)) for n in (1, 3, 2)]
    assert digests(world.run()) == [published[i].digest for i in (1, 2, 0)]


def test_entries_put_new_before_held_before_refused(world):
    refused = world.sender.publish(at=days_ago(3), recipient="somebody else")
    held = world.sender.publish(at=days_ago(2), created_at=NOON + timedelta(days=1))
    new = world.sender.publish(at=days_ago(1))
    assert digests(world.run()) == [new.digest, held.digest, refused.digest]


def test_entries_leave_out_expired_but_list_them_with_all(world):
    message = world.sender.publish(at=days_ago(8), bell=False)
    assert world.run() == []
    (entry,) = world.run(all=True)
    assert entry.digest == message.digest
    assert entry.expired
    assert world.inbox.fetch(entry) == message


@pytest.mark.parametrize("ahead", [timedelta(hours=-2), -timedelta(days=30), timedelta(days=400)])
def test_entries_hold_what_has_expired_by_one_clock_only(world, ahead):
    expires = days_ago(7) if ahead < timedelta() else days_ago(0)  # by the other clock it has not
    world.sender.publish(at=expires - timedelta(minutes=30), bell=False)
    world.registry.server_clock = NOON + ahead
    (entry,) = world.run()
    assert (entry.expired, entry.state, entry.reason_kind) == (False, "held", "clock")
    assert f"{NOON:%Y-%m-%d %H:%M:%S}Z" in entry.reason
    assert f"{NOON + ahead:%Y-%m-%d %H:%M:%S}Z" in entry.reason
    with pytest.raises(ClocksDiffer) as raised:
        world.inbox.fetch(entry)
    assert "--clock registry" in raised.value.hint
    world.registry.server_clock = NOON
    assert [entry.state for entry in world.run()] == ([] if ahead < timedelta() else ["new"])


def test_entries_since_leaves_older_messages_unfetched(world):
    world.sender.publish(at=days_ago(5))
    new = world.sender.publish(at=days_ago(1))
    assert digests(world.run(since=days_ago(2))) == [new.digest]
    assert len(world.registry.asked("get_manifest")) == 1
    assert len(world.run()) == 2


def test_entries_since_goes_by_the_time_of_creation(world):
    early = world.sender.publish(created_at=NOON - timedelta(minutes=30))
    assert world.run(since=NOON - timedelta(minutes=10)) == []
    assert digests(world.run(since=NOON - timedelta(minutes=40))) == [early.digest]
    assert digests(world.run(since=datetime.min.replace(tzinfo=UTC))) == [early.digest]


def test_entries_leave_out_delivered_but_list_them_with_all(world):
    message = world.sender.publish()
    world.run()
    world.deliver(message)
    assert world.run() == []
    (entry,) = world.run(all=True)
    assert entry.state == "delivered"
    assert world.inbox.fetch(entry) == message


def test_entries_do_not_list_anew_what_another_repository_delivered(world):
    message = world.sender.publish()
    world.run()
    world.deliver(message)
    inbox = world.open(repo="mirror.example/box")
    inbox.poll()
    assert inbox.entries() == []
    assert world.registry.asked("get_manifest") == []
    assert [entry.state for entry in inbox.entries(all=True)] == ["delivered"]


def test_entries_fetch_so_many_and_leave_the_rest_new(world):
    published = [world.sender.publish(at=days_ago(n / 10)) for n in range(5, 0, -1)]

    inbox = world.open(max_fetched=3)
    inbox.poll()
    entries = inbox.entries()

    assert [entry.header is not None for entry in entries] == [True] * 3 + [False] * 2
    assert {entry.state for entry in entries} == {"new"}
    assert digests(entries[:3]) == [message.digest for message in published[:3]]
    assert all(entry.header for entry in world.run())


def test_entries_list_good_messages_behind_bad_ones(world):
    bad = world.sender.push(b'{"schemaVersion":2,"layers":7}', f"inbox-{RT}-20261119-0-0")
    other = world.sender.publish(at=days_ago(1), recipient="mallory")
    good = world.sender.publish()

    entries = {entry.digest: entry.state for entry in world.run()}

    assert entries == {bad.digest: "refused", other.digest: "refused", good.digest: "new"}


def test_entries_report_refused_once(world):
    message = world.sender.publish(recipient="mallory")
    (entry,) = world.run()
    assert not entry.reported
    world.inbox.mark_reported([entry])
    assert world.run() == []
    (entry,) = world.run(all=True)
    assert entry.reported
    assert entry.digest == message.digest
    assert world.registry.asked("get_manifest") == []


# --- fetch: refused and held ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"recipient": "bob@Example.com"}, "recipient"),
        ({"recipient": f"{ME} "}, "recipient"),
        ({"audience": "registry.example/other"}, "audience"),
        ({"encryption": "age-v1"}, "sealed"),
        ({"created_at": NOON + timedelta(seconds=301)}, "future"),
        ({"version": "2.0"}, "malformed"),
        ({"critical": ("dockercomms.unheard_of",)}, "malformed"),
        ({"chunk_count": 2}, "malformed"),
    ],
)
def test_fetch_raises_what_stands_against_a_message(world, changes, kind):
    data = world.sender.build(day=TODAY, **changes)
    digest = digest_of(data)
    world.sender.push(data, message_tag(RT, NOON, digest))
    (entry,) = world.run()
    assert entry.reason_kind == kind
    assert entry.state == ("held" if kind in ("sealed", "future") else "refused")
    assert entry.reason
    assert entry.digest == digest
    for _ in range(2):
        with pytest.raises(ProtocolError):
            world.inbox.fetch(entry)


@pytest.mark.parametrize("audience", [REPO, "mirror.example/box"])
def test_fetch_accepts_its_own_audience_and_those_it_is_told(world, audience):
    message = world.sender.publish(audience=audience)
    world.inbox = world.open(audiences=["mirror.example/box"])
    world.inbox.poll()
    (entry,) = world.inbox.entries()
    assert world.inbox.fetch(entry) == message


def test_fetch_delivers_a_message_from_the_future_when_its_time_has_come(world):
    message = world.sender.publish(created_at=NOON + timedelta(hours=1))
    (entry,) = world.run()
    assert (entry.state, entry.retried) == ("held", False)
    assert "held until 2026-11-20 12:55:00Z" in entry.reason
    assert world.run()
    assert world.registry.asked("get_manifest") == []

    world.clock.advance(3600)
    world.registry.server_clock = world.clock.now()
    (entry,) = world.run()

    assert entry.state == "new"
    assert world.inbox.fetch(entry) == message


def test_fetch_holds_what_is_from_the_future_by_one_clock_only(world):
    message = world.sender.publish(created_at=NOON + timedelta(hours=3))
    world.registry.server_clock = NOON + timedelta(hours=3)
    (entry,) = world.run()
    assert (entry.state, entry.reason_kind) == ("held", "clock")
    world.clock.advance(3 * 3600)
    (entry,) = world.run()
    assert world.inbox.fetch(entry) == message


def test_fetch_holds_other_bytes_than_were_asked_for(world):
    message = world.sender.publish()
    world.registry.faults["get_manifest"] = world.registry.faults["get_tag"] = DigestMismatch("x")
    (entry,) = world.run()
    assert (entry.state, entry.reason_kind, entry.retried) == ("held", "integrity", True)
    with pytest.raises(DigestMismatch):
        world.inbox.fetch(entry)

    world.registry.faults.clear()
    (entry,) = world.run()
    assert entry.state == "new"
    assert world.inbox.fetch(entry) == message


def test_fetch_does_not_believe_a_store_that_does_not_check(world):
    message = world.sender.publish()
    other = world.sender.publish()

    class Swapping(HabitRegistry):
        def get_manifest(self, repository, digest):
            return super().get_manifest(repository, other.digest)

    world.run()
    world.registry.__class__ = Swapping
    entry = find_in([world.open()], message.digest)[1]
    world.inbox = world.open()
    with pytest.raises(DigestMismatch, match=message.digest):
        world.inbox.fetch(entry)
    assert world.state.inbox.candidate(ME, REPO, message.digest).state == "held"


def test_fetch_holds_what_is_listed_and_not_there(world):
    message = world.sender.publish(tagged=False, bell=False)
    anchor = ManifestBuilder.inbox_anchor(RT, TODAY).build()[1].digest
    world.registry.false_entries[anchor] = [message.descriptor]
    world.registry.delete_manifest(REPOSITORY, message.digest)
    (entry,) = world.run()
    assert (entry.state, entry.reason_kind) == ("held", "withdrawn")
    with pytest.raises(NotFoundError):
        world.inbox.fetch(entry)


def test_fetch_stops_asking_each_time_for_what_stays_missing(world):
    message = world.sender.publish(tagged=False, bell=False)
    anchor = ManifestBuilder.inbox_anchor(RT, TODAY).build()[1].digest
    world.registry.false_entries[anchor] = [message.descriptor]
    world.registry.delete_manifest(REPOSITORY, message.digest)
    asked = []
    for _ in range(8):
        world.run()
        asked.append(len(world.registry.asked("get_manifest")))
        world.clock.advance(1)
    assert asked == [1, 1, 1, 1, 1, 0, 0, 0]
    world.clock.advance(3600)
    world.run()
    assert len(world.registry.asked("get_manifest")) == 1


def test_fetch_leaves_a_row_new_after_a_network_error(world):
    message = world.sender.publish()
    world.registry.faults["get_manifest"] = world.registry.faults["get_tag"] = NetworkError("down")
    (entry,) = world.run()
    assert (entry.state, entry.header) == ("new", None)
    with pytest.raises(NetworkError):
        world.inbox.fetch(entry)

    world.registry.faults.clear()
    assert world.inbox.fetch(entry) == message
    assert world.run()[0].state == "new"


def test_entries_give_up_after_three_failures_in_a_row(world):
    for number in range(6):
        world.sender.publish(at=days_ago(number / 10))
    world.run()
    world.state.inbox.sweep(ME, REPO, now=NOON + timedelta(days=40))
    world.registry.faults["get_manifest"] = world.registry.faults["get_tag"] = NetworkError("down")
    world.inbox = world.open()
    world.inbox.poll(complete=True)
    entries = world.inbox.entries()
    assert len(world.registry.asked("get_manifest") + world.registry.asked("get_tag")) == 6
    assert [entry.state for entry in entries] == ["new"] * 6
    for entry in entries:
        with pytest.raises(NetworkError):
            world.inbox.fetch(entry)


def test_entries_read_what_failed_before_after_what_did_not(world):
    bad = world.sender.publish(at=days_ago(2))
    tag = message_tag(RT, days_ago(2), bad.digest)
    world.registry.faults[("get_manifest", bad.digest)] = NetworkError("500 for ever")
    world.registry.faults[("get_tag", tag)] = NetworkError("500 for ever")
    world.run()
    good = world.sender.publish()
    world.run()
    assert world.registry.asked("get_manifest") == [good.digest, bad.digest]


def test_fetch_of_an_entry_that_is_gone_says_so(world):
    world.sender.publish()
    (entry,) = world.run()
    world.state.inbox.sweep(ME, REPO, now=NOON + timedelta(days=40))
    with pytest.raises(NotFoundError):
        world.inbox.fetch(entry)
    world.inbox.mark_reported([entry])


# --- tags that lie, indexes that lie -------------------------------------------------------------


def test_fetch_holds_a_changed_tag_and_finds_its_message_by_the_anchor(world):
    other = world.sender.publish(at=days_ago(6), bell=False)
    world.run()
    # Built six days ago, published today, and then somebody else moved its tag.
    message = world.sender.push(world.sender.build(day=days_ago(6).date()))
    tag = message_tag(RT, NOON, message.digest)
    world.sender.push(world.sender.build(day=TODAY), tag)

    entries = {entry.key: entry for entry in world.run()}

    assert entries[tag].state == "held"
    assert entries[tag].reason_kind == "tag"
    assert entries[message.digest].state == "new"
    assert entries[other.digest].state == "new"
    assert "expected" in entries[tag].reason
    assert world.inbox.fetch(entries[tag]).digest == message.digest


def test_entries_ask_all_anchors_once_for_a_changed_tag(world):
    message = world.sender.publish(at=days_ago(4), bell=False)
    world.run()
    world.deliver(message)
    world.sender.push(world.sender.build(), message_tag(RT, NOON, digest_of(b"something else")))
    anchor = ManifestBuilder.inbox_anchor(RT, days_ago(4).date()).build()[1].digest
    assert len(world.run()) == 1
    assert anchor in world.registry.asked("referrers")
    world.clock.advance(120)
    assert len(world.run()) == 1
    assert world.registry.asked("get_tag") != []
    assert anchor not in world.registry.asked("referrers")


def test_fetch_reads_the_tag_where_an_index_names_a_false_digest(world):
    message = world.sender.publish(bell=False, listed=False)
    world.registry.lost.add(message.digest)
    false = message.digest[:23] + "0" * 48
    anchor = ManifestBuilder.inbox_anchor(RT, TODAY).build()[1].digest
    entry = Descriptor(media_type=MEDIA_TYPE_MANIFEST, digest=false, size=1)
    world.registry.false_entries[anchor] = [entry]

    entries = {entry.digest: entry for entry in world.run()}

    assert entries[false].reason_kind == "withdrawn"
    assert world.inbox.fetch(entries[message.digest]) == message


def test_entries_join_a_tag_published_again(world):
    message = world.sender.publish()
    world.run()
    data = world.registry.get_manifest(REPOSITORY, message.digest).read()
    world.sender.push(data, message_tag(RT, NOON + timedelta(seconds=5), message.digest))
    assert len(world.run()) == 1
    assert world.registry.asked("get_tag") + world.registry.asked("get_manifest") == []


# --- 1.0 -----------------------------------------------------------------------------------------


def test_fetch_reads_a_message_of_1_0(world):
    message, tag = world.sender.publish_legacy()
    (entry,) = world.run()
    assert entry.digest == message.digest
    assert entry.tag == tag
    assert entry.published == NOON.replace(hour=0)
    assert world.inbox.fetch(entry) == message
    assert len(world.run()) == 1
    assert world.registry.asked("get_tag") == []


def test_entries_find_a_1_0_tag_with_any_ending(world):
    message, _ = world.sender.publish_legacy(tag=f"inbox-{RT}-x")
    assert digests(world.run()) == [message.digest]


def test_entries_find_a_1_0_tag_that_was_overwritten(world):
    first, tag = world.sender.publish_legacy()
    world.run()
    world.deliver(first)
    second, _ = world.sender.publish_legacy(tag=tag)
    assert world.run() == []
    world.clock.advance(24 * 3600)
    assert digests(world.run()) == [second.digest]
    assert world.run(all=True)[-1].digest == first.digest


def test_1_0_tag_that_was_answered_wrongly_once_is_held_and_read_again(world):
    message, tag = world.sender.publish_legacy()
    honest = world.registry.get_tag

    def lies(repository, name):
        world.registry.get_tag = honest
        return BytesReader(b"null", Descriptor.of(b"null", MEDIA_TYPE_MANIFEST))

    world.registry.get_tag = lies
    (entry,) = world.run()
    assert (entry.key, entry.state, entry.reason_kind) == (tag, "held", "integrity")
    (entry,) = world.run()
    assert (entry.digest, entry.state) == (message.digest, "new")


def test_1_0_tag_of_what_is_no_message_is_refused_when_it_is_answered_twice(world):
    world.sender.push(b'{"schemaVersion": 2}', f"inbox-{RT}-x")
    (entry,) = world.run()
    assert (entry.state, entry.reason_kind) == ("refused", "malformed")


# --- find ----------------------------------------------------------------------------------------


def test_find_takes_a_prefix_of_id_or_digest(world):
    message = world.sender.publish()
    world.sender.publish()
    inbox = world.open()
    inbox.poll()
    for prefix in (message.header.id, message.header.id[:8], message.digest, message.digest[7:19]):
        assert find_in([inbox], prefix)[1].digest == message.digest


def test_find_refuses_what_is_too_short_or_ambiguous(world):
    first = world.sender.publish(id="aaaa0000-0000-4000-8000-000000000001")
    second = world.sender.publish(id="aaaa0000-0000-4000-8000-000000000002")
    inbox = world.open()
    inbox.poll()
    with pytest.raises(UsageError, match="4 characters"):
        find_in([inbox], "aaa")
    with pytest.raises(UsageError) as caught:
        find_in([inbox], "aaaa")
    assert set(caught.value.hint.split()) == {first.digest, second.digest}
    assert find_in([inbox], first.header.id)[1].digest == first.digest


def test_find_says_that_nothing_is_there(world):
    world.sender.publish()
    inbox = world.open()
    inbox.poll()
    with pytest.raises(NotFoundError, match="ffff"):
        find_in([inbox], "ffffffff")


def test_find_lets_no_refused_copy_hide_a_message(world):
    message = world.sender.publish()
    copy = world.sender.publish(id=message.header.id, recipient="mallory")
    inbox = world.open()
    inbox.poll()
    inbox.entries()
    assert find_in([inbox], message.header.id)[1].digest == message.digest
    assert find_in([inbox], copy.digest)[1].state == "refused"


def test_find_prefers_the_whole_id_over_a_longer_one(world):
    short, _ = world.sender.publish_legacy(id="job-1")
    world.sender.publish_legacy(id="job-12")
    inbox = world.open()
    inbox.poll()
    assert find_in([inbox], "job-1")[1].digest == short.digest


# --- verdicts ------------------------------------------------------------------------------------


def test_hold_and_refuse_keep_their_reason_until_delivery(world):
    message = world.sender.publish()
    world.run()
    world.inbox.hold(message.digest, "missing-blob", "chunk 0 is not there")
    (entry,) = world.run()
    assert (entry.state, entry.reason_kind, entry.retried) == ("held", "missing-blob", True)
    assert world.inbox.fetch(entry) == message
    world.inbox.mark_reported([entry])
    world.inbox.hold(message.digest, "missing-blob", "chunk 0 is still not there")
    assert world.run()[0].reported
    world.inbox.refuse(message.digest, "chunk", "chunk 0 is no tar")
    (entry,) = world.run()
    assert (entry.state, entry.reported) == ("refused", False)


# --- odds ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("me", ["", "bob\udcff"])
def test_inbox_refuses_a_recipient_that_is_no_text(world, me):
    with pytest.raises(UsageError):
        world.open(me=me)


def test_inbox_of_two_recipients_share_a_repository(world):
    message = world.sender.publish()
    assert len(world.run()) == 1
    carol = world.open(me="carol@example.com")
    assert carol.poll().complete
    assert carol.entries() == []
    assert carol.me == "carol@example.com"
    assert carol.repo == REPO
    assert world.run()[0].digest == message.digest


def test_entries_fail_when_the_state_cannot_be_written(world, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with State(tmp_path / "file" / "state.db") as state:
        inbox = world.open(state=state)
        with pytest.raises(LocalIOError, match="state"):
            inbox.poll()


def test_entries_ignore_an_anchor_referrer_that_says_it_is_something_else(world):
    anchor = world.sender.anchor(TODAY)
    note = ManifestBuilder(
        "application/vnd.example.scan", anchor, {"a": "b"}, (EMPTY_CONFIG,)
    ).build()[0]
    world.sender.push(note)
    assert world.run() == []


def test_entries_read_with_several_threads(world):
    published = [world.sender.publish(at=days_ago(n / 100)) for n in range(80, 0, -1)]
    inbox = Inbox(
        world.registry, REPOSITORY, repo=REPO, me=ME, state=world.state, clock=world.clock
    )
    inbox.poll()
    assert digests(inbox.entries()) == [message.digest for message in published]

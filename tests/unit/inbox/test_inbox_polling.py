"""Passes: what is asked, what counts as complete, what is remembered, what a fault may not hide."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from dockercomms.errors import (
    Denied,
    ManifestUnknown,
    NameUnknown,
    NetworkError,
    ProtocolError,
    RegistryError,
    Unauthorized,
    Unsupported,
)
from dockercomms.inbox.discover import anchor_digest
from dockercomms.inbox.poll import FIRST_PASS_DAYS, MAX_ANCHORS, PollResult
from dockercomms.oci.model import digest_of
from dockercomms.platforms.clock import Clocks
from dockercomms.protocol.header import FORMS
from dockercomms.protocol.manifest import ManifestBuilder
from dockercomms.protocol.tags import anchor_tag, bell_tag, message_tag
from tests.fakes.inboxes import (
    ME,
    NOON,
    REPO,
    REPOSITORY,
    RT,
    TODAY,
    Habits,
    World,
    days_ago,
    digests,
)

BELL = bell_tag(RT)
YESTERDAY = TODAY - timedelta(days=1)


def anchor(day: date) -> str:
    return ManifestBuilder.inbox_anchor(RT, day).build()[1].digest


# --- what is asked -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "habits",
    [
        Habits(),
        Habits(referrers=False),
        Habits(tags_last="must-exist"),
        Habits(tags_last="ignored", tags_n="ignored", tags_sorted=False, referrers=False),
        Habits(tags_link=False, tags_past_end="whole", entries_type="config"),
    ],
    ids=["oci", "distribution", "zot", "docker-registry-2.8", "ggcr"],
)
def test_poll_of_an_idle_inbox_asks_four_requests(state, habits):
    world = World(state, habits)
    for number in range(4):
        world.sender.publish(at=days_ago(number / 2))
    world.run()
    world.run()
    entries = world.run()
    assert len(entries) == 4
    assert len(world.registry.calls) <= 4
    assert world.registry.calls[0] == ("resolve_tag", BELL)


def test_poll_on_zot_starts_at_an_anchor_that_exists(state):
    world = World(state, Habits(tags_last="must-exist"))
    message = world.sender.publish(at=days_ago(10), created_at=NOON)
    world.run()
    assert digests(world.run()) == [message.digest]
    assert world.registry.calls == [
        ("resolve_tag", BELL),
        ("tags", anchor_tag(RT, days_ago(10).date())),
    ]


def test_poll_on_zot_falls_back_to_an_older_anchor_then_the_bell_then_the_start(state):
    world = World(state, Habits(tags_last="must-exist"))
    for number in (3, 2, 1):
        world.sender.publish(at=days_ago(number))
    world.run()
    for number in (1, 2):
        world.registry.delete_tag(REPOSITORY, anchor_tag(RT, days_ago(number).date()))
    world.run()
    assert world.registry.asked("tags") == [
        anchor_tag(RT, days_ago(1).date()),
        anchor_tag(RT, days_ago(2).date()),
        BELL,
    ]
    world.registry.delete_tag(REPOSITORY, BELL)
    world.run()
    assert world.registry.asked("tags")[-1] == "None"


def test_poll_lists_from_the_start_where_last_is_no_tag(world):
    world.sender.publish()
    world.run()
    for tag in (BELL, anchor_tag(RT, TODAY), anchor_tag(RT, YESTERDAY)):
        world.registry.faults["tags", tag] = RegistryError("bad token", status=400)
    world.run()
    assert world.registry.asked("tags")[-1] == "None"


def test_poll_stops_behind_the_recipients_tags(world):
    world.sender.publish()
    for number in range(2500):
        world.sender.push(b'{"schemaVersion":2}', f"other-{number:04d}", f"zother-{number:04d}")
    world.run()
    assert world.registry.asked("tags") == [BELL]


def test_poll_reads_all_pages_of_a_long_inbox(state):
    world = World(state, Habits(tags_page_max=7))
    published = [world.sender.publish(at=days_ago(n / 10)) for n in range(40, 0, -1)]
    assert digests(world.run()) == [message.digest for message in published]


def test_poll_reads_an_unsorted_list_to_its_end_and_seeks_no_more(state):
    world = World(state, Habits(tags_sorted=False, tags_page_max=5))
    published = {world.sender.publish(at=days_ago(n / 10)).digest for n in range(30)}
    assert set(digests(world.run())) == published
    assert state.progress.capabilities(REPO).seek is False
    world.run()
    assert world.registry.asked("tags")[0] == "None"
    world.clock.advance(24 * 3600)
    world.run()
    assert world.registry.asked("tags")[0] != "None"


def test_poll_finds_all_where_the_list_starts_anew_behind_its_end(state):
    world = World(state, Habits(tags_past_end="whole", tags_link=False, referrers=False))
    published = [
        world.sender.publish(at=days_ago(n / 400), listed=False) for n in range(997, 0, -1)
    ]
    # With three anchors the page is full, so that the client asks behind the last tag.
    assert len(published) + len({m.header.created_at.date() for m in published}) == 1000
    assert len(world.run()) == len(published)
    assert len(world.registry.asked("tags")) == 3


def test_poll_with_complete_asks_everything(world):
    world.sender.publish(at=days_ago(9), created_at=NOON)
    world.sender.publish()
    world.run()
    world.registry.calls.clear()
    world.inbox.poll(complete=True)
    assert world.registry.asked("tags") == ["None"]
    assert world.registry.asked("referrers") == [anchor(days_ago(9).date()), anchor(TODAY)]


def test_poll_goes_over_the_whole_inbox_once_a_day(world):
    world.sender.publish(at=days_ago(5))
    world.run()
    assert world.registry.asked("tags") == [BELL]
    legacy, _ = world.sender.publish_legacy(tag=f"inbox-{RT}-20261101-00000000-00000000")
    assert legacy.digest not in digests(world.run())
    world.clock.advance(24 * 3600)
    assert legacy.digest in digests(world.run())
    assert world.registry.asked("tags") == [BELL]


def test_poll_with_referrers_lists_no_tags_and_asks_every_day(world):
    message = world.sender.publish(at=days_ago(3), bell=False)
    world.inbox = world.open(discovery="referrers")
    result = world.inbox.poll()
    assert result.complete
    assert digests(world.inbox.entries()) == [message.digest]
    assert world.registry.asked("tags") == []
    assert len(world.registry.asked("referrers")) == 2 * (FIRST_PASS_DAYS + 2)
    world.inbox = world.open(discovery="referrers")
    world.inbox.poll()
    assert world.registry.asked("referrers") == [
        anchor_digest(RT, TODAY + timedelta(days=n), form) for n in (-1, 0, 1) for form in FORMS
    ]
    world.inbox = world.open(discovery="referrers")
    world.inbox.poll(complete=True)
    assert len(world.registry.asked("referrers")) == 2 * (FIRST_PASS_DAYS + 2)


def test_poll_asks_no_more_anchors_than_may_be_asked_where_the_registry_is_far_ahead(world):
    world.inbox = world.open(discovery="referrers")
    world.inbox.poll()
    world.registry.server_clock = datetime(9998, 12, 30, tzinfo=UTC)
    world.inbox = world.open(discovery="referrers")
    world.inbox.poll()
    asked = world.registry.asked("referrers")
    assert len(asked) == 2 * MAX_ANCHORS
    assert asked[-1] == anchor_digest(RT, date(9998, 12, 31), "image")


def test_poll_with_tags_asks_no_anchors(world):
    world.sender.publish(bell=False)
    world.inbox = world.open(discovery="tags")
    assert world.inbox.poll().complete
    assert len(world.inbox.entries()) == 1
    assert world.registry.asked("referrers") == []
    world.sender.push(world.sender.build(), message_tag(RT, NOON, digest_of(b"else")))
    world.inbox = world.open(discovery="tags")
    world.inbox.poll()
    assert [entry.reason_kind for entry in world.inbox.entries()] == ["", "tag"]
    assert world.registry.asked("referrers") == []


def test_poll_probes_for_referrers_once_a_day(world):
    world.sender.publish()
    world.run()
    world.run()
    assert world.registry.asked("referrers_supported") == []
    world.clock.advance(24 * 3600)
    world.run()
    assert len(world.registry.asked("referrers_supported")) == 1


def test_poll_asks_the_newest_anchors_only_where_there_are_too_many(world):
    for number in range(450):
        world.sender.anchor(TODAY - timedelta(days=number))
    world.sender.anchor(TODAY + timedelta(days=30))
    world.run()
    asked = world.registry.asked("referrers")
    assert len(asked) == 400
    assert asked[-1] == anchor(TODAY)


# --- watching ------------------------------------------------------------------------------------


def test_poll_while_watching_asks_one_request_of_a_silent_bell(world):
    message = world.sender.publish()
    world.run()
    world.deliver(message)
    result = world.open().poll(watching=True)
    assert result.idle
    assert world.registry.calls == [("resolve_tag", BELL)]


def test_poll_while_watching_goes_on_when_the_bell_rings(world):
    world.deliver(world.sender.publish())
    world.run()
    new = world.sender.publish()
    inbox = world.open()
    assert not inbox.poll(watching=True).idle
    assert digests(inbox.entries()) == [new.digest]


def test_poll_while_watching_goes_on_every_five_minutes(world):
    world.deliver(world.sender.publish())
    world.run()
    legacy, _ = world.sender.publish_legacy()
    assert world.open().poll(watching=True).idle
    world.clock.advance(300)
    inbox = world.open()
    assert not inbox.poll(watching=True).idle
    assert digests(inbox.entries()) == [legacy.digest]


def test_poll_while_watching_goes_on_where_our_clock_was_set_back(world):
    world.deliver(world.sender.publish())
    world.run()
    assert world.open().poll(watching=True).idle
    world.clock.set(NOON - timedelta(hours=1))
    assert not world.open().poll(watching=True).idle


def test_poll_while_watching_goes_on_for_rows_that_are_new_or_due(world):
    message = world.sender.publish()
    world.run()
    assert not world.open().poll(watching=True).idle
    world.inbox.hold(message.digest, "no-bundle", "no bundle yet")
    assert world.open().poll(watching=True).idle
    world.clock.advance(120)
    assert not world.open().poll(watching=True).idle


# --- the bell ------------------------------------------------------------------------------------


def test_poll_finds_what_only_the_bell_names(world):
    world.sender.publish(at=days_ago(3))
    world.run()
    lost = world.sender.publish(tagged=False)
    world.registry.lost.add(lost.digest)

    assert lost.digest in digests(world.run())
    assert BELL in world.registry.asked("tags")
    world.run()
    assert BELL not in world.registry.asked("tags")


def test_poll_searches_for_what_the_bell_names_once_in_five_minutes(world):
    def ring():
        lost = world.sender.publish(tagged=False)
        world.registry.lost.add(lost.digest)
        return lost.digest

    world.sender.publish(at=days_ago(3))
    world.run()
    ring()
    world.run()
    assert BELL in world.registry.asked("tags")
    second = ring()
    world.clock.advance(10)
    assert second in digests(world.run())
    assert BELL not in world.registry.asked("tags")
    ring()
    world.clock.advance(300)
    world.run()
    assert BELL in world.registry.asked("tags")


def test_poll_survives_a_bell_that_fails(world):
    message = world.sender.publish()
    world.registry.faults["resolve_tag", BELL] = RegistryError("no", status=500)
    inbox = world.open()
    result = inbox.poll()
    assert [way for way, _ in result.errors] == ["bell"]
    assert result.complete
    assert digests(inbox.entries()) == [message.digest]
    assert not world.open().poll(watching=True).idle


def test_poll_while_watching_goes_on_where_the_bell_fails_that_never_rang(world):
    legacy, _ = world.sender.publish_legacy()
    world.run()
    world.deliver(legacy)
    assert world.open().poll(watching=True).idle
    world.registry.faults["resolve_tag", BELL] = RegistryError("no", status=500)
    assert not world.open().poll(watching=True).idle


@pytest.mark.parametrize("fault", [NetworkError("no such host"), Unauthorized("no")])
def test_poll_ends_where_nobody_answers_or_credentials_are_refused(world, fault):
    if isinstance(fault, NetworkError):
        world.registry.server_clock = None
    world.registry.faults["resolve_tag"] = fault
    with pytest.raises(type(fault)):
        world.open().poll()
    assert len(world.registry.calls) == 1


# --- faults of single ways -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "fault", "complete", "way"),
    [
        ("referrers", ProtocolError("garbage"), True, "referrers"),
        ("referrers_supported", NetworkError("down"), True, "referrers"),
        ("tags", NetworkError("down"), False, "tags"),
    ],
)
def test_poll_reports_a_way_that_fails_and_takes_the_other(world, asked, fault, complete, way):
    message = world.sender.publish()
    world.registry.faults[asked] = fault
    inbox = world.open()
    result = inbox.poll()
    assert result.complete == complete
    assert [way for way, _ in result.errors] == [way]
    assert digests(inbox.entries()) == [message.digest]
    if asked == "referrers_supported":
        assert world.registry.asked("referrers") == []
    if asked == "tags":
        assert state_day(world) is None


def test_poll_asks_the_other_anchors_where_one_fails(world):
    old = world.sender.publish(at=days_ago(1), tagged=False, bell=False)
    new = world.sender.publish(tagged=False, bell=False)
    world.registry.faults["referrers", anchor(YESTERDAY)] = ProtocolError("garbage")
    assert digests(world.run()) == [new.digest]
    world.registry.faults = {("referrers", anchor(YESTERDAY)): NetworkError("down")}
    world.run()
    assert world.registry.asked("referrers") == [anchor(YESTERDAY)]
    world.registry.faults.clear()
    assert set(digests(world.run())) == {old.digest, new.digest}


def state_day(world):
    return world.state.progress.progress(ME, REPO).day


@pytest.mark.parametrize(
    "error",
    [
        Denied("no"),
        Unsupported("no"),
        RegistryError("no", status=405),
        ManifestUnknown("no", status=404),
    ],
)
def test_poll_is_complete_by_anchors_where_listing_is_forbidden(world, error):
    if not error.status:
        error.status = 403
    message = world.sender.publish(tagged=False, bell=False)
    world.registry.faults["tags"] = error
    inbox = world.open()
    result = inbox.poll()
    assert result.complete
    assert [way for way, _ in result.errors] == ["tags"]
    assert digests(inbox.entries()) == [message.digest]
    assert state_day(world) == TODAY
    assert len(world.registry.asked("referrers")) == 2 * (FIRST_PASS_DAYS + 2)
    world.run()
    assert len(world.registry.asked("referrers")) == 2 * 3


def test_poll_does_not_pass_off_a_silent_registry_as_an_empty_inbox(world):
    world.sender.publish()
    world.registry.faults["tags"] = NetworkError("down")
    world.registry.faults["referrers"] = NetworkError("down too")
    with pytest.raises(NetworkError, match=r"^down$"):
        world.open().poll()
    world.registry.faults["referrers_supported"] = NetworkError("down too")
    with pytest.raises(NetworkError, match=r"^down$"):
        world.open().poll()


def test_poll_keeps_what_came_before_a_listing_broke_off(state):
    world = World(state, Habits(tags_page_max=3))
    first = world.sender.publish(at=days_ago(1), listed=False)
    world.registry.lost.add(first.digest)
    for _ in range(5):
        world.sender.publish()
    tag = anchor_tag(RT, TODAY)
    world.registry.faults["tags", tag] = NetworkError("broke off")
    inbox = world.open()
    assert not inbox.poll().complete
    assert first.digest in digests(inbox.entries())


def test_poll_writes_day_and_bell_only_after_a_complete_pass(world):
    world.sender.publish()
    world.run()
    before = world.state.progress.progress(ME, REPO)
    assert before.day == TODAY
    assert before.bell is not None
    world.clock.advance(24 * 3600)
    world.registry.server_clock = NOON + timedelta(days=1)
    world.sender.publish()
    world.registry.faults["tags"] = NetworkError("down")
    world.run()
    assert world.state.progress.progress(ME, REPO) == before


def test_poll_goes_back_to_the_day_of_the_last_complete_pass(world):
    world.sender.publish()
    world.run()
    world.clock.advance(5 * 24 * 3600)
    world.registry.server_clock = world.clock.now()
    late = world.sender.publish(at=NOON + timedelta(days=2), tagged=False, bell=False)
    world.sender.anchor(world.clock.now().date())
    assert late.digest in digests(world.run())


def test_poll_recovers_from_a_registry_whose_clock_was_ahead(world):
    world.registry.server_clock = NOON + timedelta(days=30)
    world.sender.publish(at=days_ago(1))
    world.run()
    world.registry.server_clock = NOON
    new = world.sender.publish(bell=False)
    assert new.digest in digests(world.run())
    assert state_day(world) == TODAY


def test_poll_tells_how_far_the_clocks_are_apart(world):
    world.sender.publish()
    assert not world.open().poll().clocks_differ
    theirs = world.registry.server_clock = NOON - timedelta(hours=1, seconds=1)
    result = world.open().poll()
    assert result.clocks == Clocks(NOON, theirs)
    assert result.clocks_differ
    world.registry.server_clock = None
    result = world.open().poll()
    assert result.clocks == Clocks(NOON)
    assert not result.clocks_differ


def test_poll_of_a_missing_repository_leaves_the_first_pass_to_come(world):
    world.registry.faults["tags"] = NameUnknown("no such repository")
    inbox = world.open()
    result = inbox.poll()
    assert result.repository_missing
    assert result == PollResult(complete=True, repository_missing=True, clocks=Clocks(NOON, NOON))
    assert state_day(world) is None
    world.registry.faults.clear()
    message = world.sender.publish(at=days_ago(6))
    assert digests(world.run()) == [message.digest]


# --- 1.0 tags ------------------------------------------------------------------------------------


def test_poll_looks_at_1_0_tags_again_once_a_day(world):
    _, first = world.sender.publish_legacy()
    _, second = world.sender.publish_legacy()
    world.run()
    world.run()
    assert world.registry.asked("resolve_tag") == [BELL]
    world.registry.delete_tag(REPOSITORY, second)
    world.clock.advance(24 * 3600)
    world.run()
    assert world.registry.asked("resolve_tag") == [BELL, first, second]


def test_poll_reports_a_1_0_tag_that_cannot_be_looked_at(world):
    _, tag = world.sender.publish_legacy()
    world.run()
    world.registry.faults["resolve_tag", tag] = NetworkError("down")
    result = world.open().poll(complete=True)
    assert result.complete
    assert [way for way, _ in result.errors] == ["tags"]


def test_poll_forgets_what_no_pass_has_seen_for_a_month(world):
    message = world.sender.publish(bell=False)
    world.run()
    world.registry.delete_manifest(REPOSITORY, message.digest)
    for _ in range(32):
        world.clock.advance(24 * 3600)
        world.registry.server_clock = world.clock.now()
        world.run()
    assert world.run(all=True) == []

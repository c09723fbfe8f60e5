"""The three ways, each by itself."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

from dockercomms.errors import LimitError, NameUnknown, NetworkError, RegistryError
from dockercomms.inbox.discover import (
    TagsSeen,
    anchor_digest,
    discover_by_referrers,
    discover_by_tag_schema,
    discover_by_tags,
)
from dockercomms.oci.interface import TagPage
from dockercomms.oci.model import Descriptor, digest_of
from dockercomms.protocol.header import MAX_PAGES
from dockercomms.protocol.manifest import ManifestBuilder
from dockercomms.protocol.tags import MessageRef, anchor_tag, bell_tag, message_tag, recipient_tag
from tests.fakes.clock import FakeClock
from tests.fakes.inboxes import (
    NOON,
    REPOSITORY,
    RT,
    TODAY,
    HabitRegistry,
    Habits,
    Sender,
    days_ago,
)


@pytest.fixture
def registry():
    return HabitRegistry(clock=FakeClock(NOON))


@pytest.fixture
def sender(registry):
    return Sender(registry, FakeClock(NOON))


def refs_of(*messages) -> list[MessageRef]:
    return [MessageRef(digest=message.digest) for message in messages]


def tags_of(refs) -> list[str]:
    return [ref.tag for ref in refs]


# --- what a reference says -----------------------------------------------------------------------


def test_ref_of_a_tag_says_time_and_head():
    digest = digest_of(b"x")
    ref = MessageRef(tag=message_tag(RT, NOON, digest))
    assert (ref.head, ref.legacy, ref.published) == (digest[7:23], False, NOON)


def test_ref_of_a_digest_says_its_head():
    digest = digest_of(b"x")
    ref = MessageRef(digest=digest)
    assert (ref.head, ref.legacy, ref.published) == (digest[7:23], False, None)


def test_ref_of_a_1_0_tag_says_its_day():
    ref = MessageRef(tag=f"inbox-{RT}-20261120-2122f6aa-201d6dae")
    midnight = datetime(2026, 11, 20, tzinfo=UTC)
    assert (ref.head, ref.legacy, ref.published) == (None, True, midnight)
    assert MessageRef(tag=f"inbox-{RT}-20261399-x").published is None
    assert MessageRef(tag=f"inbox-{RT}-x").legacy


def test_anchor_digest_is_the_golden_one():
    digest = "sha256:447b160632b064ce7b162adbef7e05bb8bc906f78409592d029adc5a4e9ea2f0"
    assert anchor_digest(recipient_tag("bob@example.com"), date(2026, 11, 20)) == digest


# --- referrers and tag schema --------------------------------------------------------------------


def test_discover_by_referrers_yields_the_messages_of_the_days_asked(registry, sender):
    sender.publish(at=days_ago(2))
    yesterday = sender.publish(at=days_ago(1), tagged=False)
    today = sender.publish(tagged=False)
    days = [days_ago(1).date(), TODAY]
    found = list(discover_by_referrers(registry, REPOSITORY, RT, days))
    assert found == refs_of(yesterday, today)


@pytest.mark.parametrize("annotated", [True, False])
def test_discover_by_referrers_takes_entries_with_the_configs_type(annotated):
    habits = Habits(entries_type="config", entries_annotated=annotated)
    registry = HabitRegistry(clock=FakeClock(NOON), habits=habits)
    message = Sender(registry, FakeClock(NOON)).publish()
    assert list(discover_by_referrers(registry, REPOSITORY, RT, [TODAY])) == refs_of(message)


def test_discover_by_referrers_is_lazy_and_asks_no_other_day(registry, sender):
    message = sender.publish()
    registry.calls.clear()
    found = discover_by_referrers(registry, REPOSITORY, RT, [TODAY, TODAY - timedelta(days=1)])
    assert registry.calls == []
    assert next(found).digest == message.digest
    assert len(registry.calls) == 1


def test_discover_by_referrers_goes_on_where_an_anchor_is_unknown(registry, sender):
    message = sender.publish()
    yesterday = anchor_digest(RT, days_ago(1).date())
    registry.faults["referrers", yesterday] = NameUnknown("no such manifest")
    days = [days_ago(1).date(), TODAY]
    assert list(discover_by_referrers(registry, REPOSITORY, RT, days)) == refs_of(message)


def test_discover_by_tag_schema_yields_untagged_messages():
    registry = HabitRegistry(clock=FakeClock(NOON), habits=Habits(referrers=False))
    sender = Sender(registry, FakeClock(NOON))
    messages = [sender.publish(tagged=False) for _ in range(3)]
    days = [days_ago(1).date(), TODAY]
    assert list(discover_by_tag_schema(registry, REPOSITORY, RT, days)) == refs_of(*messages)


def test_discover_by_tag_schema_leaves_out_what_says_it_is_something_else(registry, sender):
    message = sender.publish()
    anchor = sender.anchor(TODAY)
    sender.list_in_index(anchor.digest, message)
    scan, descriptor = ManifestBuilder("application/vnd.example.scan", anchor, {"a": "b"}).build()
    sender.push(scan)
    sender.list_in_index(anchor.digest, replace(message, descriptor=descriptor))
    found = list(discover_by_tag_schema(registry, REPOSITORY, RT, [TODAY]))
    assert found == refs_of(message)


def test_discover_by_tag_schema_finds_nothing_in_no_repository(registry):
    assert list(discover_by_tag_schema(registry, "no/such", RT, [TODAY])) == []


# --- tags ----------------------------------------------------------------------------------------


class PageRegistry(HabitRegistry):
    """Gives the pages it is made of, whatever is asked."""

    def __init__(self, *pages: TagPage) -> None:
        super().__init__(clock=FakeClock(NOON))
        self.pages = pages

    def tag_pages(self, repository, *, start_after=None, page_size=None):
        self._called("tags", start_after)
        for page in self.pages:
            self._called("page", "")
            yield page


TAGS = tuple(f"inbox-{RT}-20261120-0000000{n}-000000000000000{n}" for n in range(4))


def test_discover_by_tags_takes_every_tag_with_the_prefix_but_anchors(registry, sender):
    message = sender.publish()
    _, legacy = sender.publish_legacy()
    other = f"inbox-{recipient_tag('carol')}-20261120-00000000-0000000000000000"
    sender.push(b'{"schemaVersion":2}', "latest", other, f"inbox-{RT}-", f"inbox-{RT}-note")
    seen = TagsSeen()
    found = tags_of(discover_by_tags(registry, REPOSITORY, RT, seen=seen))
    tag = message_tag(RT, NOON, message.digest)
    assert found == sorted([tag, legacy, f"inbox-{RT}-", f"inbox-{RT}-note"])
    assert seen.anchors == {TODAY}
    assert seen.ordered


def test_discover_by_tags_takes_a_messages_day_for_its_anchors(registry):
    registry = PageRegistry(TagPage((TAGS[0],), has_link=False))
    seen = TagsSeen()
    list(discover_by_tags(registry, REPOSITORY, RT, seen=seen))
    assert seen.anchors == {TODAY}


def test_discover_by_tags_takes_tags_before_the_mark(registry):
    registry = PageRegistry(TagPage(TAGS, has_link=False))
    found = tags_of(discover_by_tags(registry, REPOSITORY, RT, start_after=[TAGS[2]]))
    assert found == list(TAGS)


def test_discover_by_tags_drops_what_is_no_tag():
    registry = PageRegistry(TagPage((f"inbox-{RT}-20261120-\udcff", TAGS[0]), has_link=False))
    assert tags_of(discover_by_tags(registry, REPOSITORY, RT)) == [TAGS[0]]


def test_discover_by_tags_stops_behind_the_prefix():
    registry = PageRegistry(
        TagPage((TAGS[0], "zebra"), has_link=True), TagPage((TAGS[1],), has_link=False)
    )
    assert tags_of(discover_by_tags(registry, REPOSITORY, RT)) == [TAGS[0]]
    assert tags_of(discover_by_tags(registry, REPOSITORY, RT, whole=True)) == list(TAGS[:2])


def test_discover_by_tags_judges_a_page_whole_before_it_stops():
    registry = PageRegistry(
        TagPage((TAGS[1], TAGS[0], "zebra"), has_link=True),
        TagPage(("alpha", TAGS[2]), has_link=True),
        TagPage((), has_link=False),
    )
    seen = TagsSeen()
    found = tags_of(discover_by_tags(registry, REPOSITORY, RT, seen=seen))
    assert sorted(found) == list(TAGS[:3])
    assert not seen.ordered


def test_discover_by_tags_asks_nothing_after_more_than_was_asked_for():
    whole = tuple(f"zebra-{n:04d}" for n in range(1001, 0, -1))
    registry = PageRegistry(
        TagPage((TAGS[0], *whole), has_link=False), TagPage((TAGS[1],), has_link=False)
    )
    assert tags_of(discover_by_tags(registry, REPOSITORY, RT)) == [TAGS[0]]
    assert len(registry.asked("page")) == 1


def test_discover_by_tags_lists_anew_where_order_and_mark_do_not_agree():
    habits = Habits(tags_sorted=False)
    registry = HabitRegistry(clock=FakeClock(NOON), habits=habits)
    sender = Sender(registry, FakeClock(NOON))
    messages = {sender.publish(at=days_ago(n / 24)).digest for n in range(21)}
    mark = anchor_tag(RT, TODAY)
    found = {ref.head for ref in discover_by_tags(registry, REPOSITORY, RT, start_after=[mark])}
    assert found == {digest[7:23] for digest in messages}
    assert registry.asked("tags") == [mark, "None"]


def test_discover_by_tags_tries_mark_after_mark(registry, sender):
    registry.habits = Habits(tags_last="must-exist")
    message = sender.publish()
    found = discover_by_tags(
        registry, REPOSITORY, RT, start_after=["nobody", "nothing", bell_tag(RT)]
    )
    assert tags_of(found) == [message_tag(RT, NOON, message.digest)]
    assert registry.asked("tags") == ["nobody", "nothing", bell_tag(RT)]


def test_discover_by_tags_raises_what_is_not_about_the_mark(registry, sender):
    sender.publish()
    registry.faults["tags", "mark"] = RegistryError("broken", status=500)
    with pytest.raises(RegistryError):
        list(discover_by_tags(registry, REPOSITORY, RT, start_after=["mark"]))
    registry.faults = {("tags", "None"): RegistryError("refused", status=400)}
    with pytest.raises(RegistryError):
        list(discover_by_tags(registry, REPOSITORY, RT))
    registry.faults.clear()
    with pytest.raises(NameUnknown):
        list(discover_by_tags(registry, "no/such", RT, start_after=["mark"]))


def test_discover_by_tags_yields_what_came_before_a_break(registry):
    pages = (TagPage((TAGS[0],), has_link=True), TagPage((TAGS[1],), has_link=True))

    class Breaking(PageRegistry):
        def tag_pages(self, repository, *, start_after=None, page_size=None):
            yield from super().tag_pages(repository)
            raise NetworkError("broke off")

    found = []
    with pytest.raises(NetworkError):
        found.extend(discover_by_tags(Breaking(*pages), REPOSITORY, RT))
    assert tags_of(found) == list(TAGS[:2])


def test_discover_by_tags_ends_a_list_without_end():
    pages = (TagPage((f"a{n:06d}",), has_link=True) for n in range(MAX_PAGES + 2))
    registry = PageRegistry(*pages)
    with pytest.raises(LimitError, match="1000 pages"):
        list(discover_by_tags(registry, REPOSITORY, RT))


def test_entry_without_anything_to_say_may_be_a_message(registry, sender):
    digest = digest_of(b"x")
    bare = Descriptor(media_type="application/json", digest=digest, size=1)
    registry.false_entries[anchor_digest(RT, TODAY)] = [bare]
    sender.anchor(TODAY)
    assert list(discover_by_referrers(registry, REPOSITORY, RT, [TODAY])) == [
        MessageRef(digest=digest)
    ]

"""Collecting garbage: what goes, what stays, and what happens where nothing may be deleted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from dockercomms.errors import (
    AuthError,
    ConfigError,
    Denied,
    DigestMismatch,
    ManifestUnknown,
    UnreadableEntries,
    Unsupported,
)
from dockercomms.oci.memory import MemoryRegistry
from dockercomms.oci.model import (
    MEDIA_TYPE_INDEX,
    MEDIA_TYPE_MANIFEST,
    Descriptor,
    Digest,
    Index,
    digest_of,
)
from dockercomms.oci.reference import referrers_tag
from dockercomms.oci.stores import Store, open_store
from dockercomms.protocol.tags import anchor_tag, bell_tag, message_tag, recipient_tag
from tests.fakes.clock import FakeClock
from tests.fakes.moving import BOB, DAY, Town, kinds, open_town, tags

RT = recipient_tag(BOB)
HOUR = 3600


@pytest.fixture
def town(tmp_path) -> Iterator[Town]:
    yield from open_town(tmp_path)


class Stubborn(MemoryRegistry):
    """A registry that deletes in a way of its own, or refuses to."""

    def __init__(self, clock: FakeClock, **options: Any) -> None:
        super().__init__(clock=clock, **options)
        self.refusal: Any = None
        self.asked: list[str] = []
        self.tags_first = False
        self.tags_stay = False
        self.now = clock.now

    def server_time(self) -> Any:
        return self.now()

    def delete_tag(self, repository: str, tag: str) -> None:
        if self.refusal is not None:
            raise self.refusal
        super().delete_tag(repository, tag)

    def delete_manifest(self, repository: str, digest: Digest) -> None:
        self.asked.append(digest)
        if self.refusal is not None:
            raise self.refusal
        held = [
            tag
            for tag in self.tags(repository)
            if self.resolve_tag(repository, tag).digest == digest
        ]
        if self.tags_first and held:
            raise Denied("still tagged", status=403)
        data = self.get_manifest(repository, digest).read() if self.tags_stay else b""
        super().delete_manifest(repository, digest)
        if self.tags_stay:
            self.left = getattr(self, "left", {}) | dict.fromkeys(held, digest)
            self.push_manifest(repository, data, MEDIA_TYPE_MANIFEST, tags=held)


def stubborn(town: Town, **options: Any) -> tuple[Store, Stubborn]:
    registry = Stubborn(town.clock, **options)
    return Store(registry, "team/a", "a.example/team/a"), registry


# --- what goes and what stays --------------------------------------------------------------------


def test_an_expired_message_goes_with_its_bundle_and_receipt_and_nothing_else_does(town):
    box = town.memory()
    old = town.send(box, "old", ttl_seconds=HOUR, signed=True)
    young = town.send(box, "young", ttl_seconds=30 * DAY, signed=True)
    assert len(town.receive(box, signed=True)) == 2
    town.clock.advance(DAY + 2 * HOUR)

    done = town.collect(box)

    assert kinds(done) == [("bundle", "removed"), ("receipt", "removed"), ("message", "removed")]
    assert {one.id for one in done} == {old.id}
    assert done[2].digest == old.digest
    assert done[2].expired_at == old.expires_at
    left = tags(box)
    assert not any(old.digest[7:19] in tag for tag in left)
    assert sum(young.digest[7:19] in tag for tag in left) == 3
    assert town.collect(box) == []


def test_a_message_stays_for_a_day_after_its_expiry(town):
    box = town.memory()
    town.send(box, ttl_seconds=HOUR)
    town.clock.advance(HOUR + DAY)
    assert town.collect(box) == []

    town.clock.advance(1)
    assert kinds(town.collect(box)) == [("message", "removed")]


def test_a_dry_run_says_what_would_go_and_removes_nothing(town):
    box = town.memory()
    town.send(box, ttl_seconds=HOUR)
    town.clock.advance(5 * DAY)
    before = tags(box)

    assert kinds(town.collect(box, dry_run=True)) == [
        ("message", "would-remove"),
        ("anchor", "would-remove"),
    ]
    assert tags(box) == before


def test_only_the_inboxes_asked_for_are_cleaned(town):
    box = town.memory()
    town.send(box, ttl_seconds=HOUR)
    town.send(box, to="carol", ttl_seconds=HOUR)
    town.clock.advance(3 * DAY)

    town.collect(box, [BOB])

    assert tags(box, f"inbox-{RT}") == []
    assert len(tags(box, bell_tag(recipient_tag("carol")))) == 3


def test_what_cannot_be_read_or_is_of_a_later_protocol_stays_with_its_anchor(town):
    box = town.memory()
    sent = town.send(box, ttl_seconds=HOUR)
    data = box.registry.get_tag(box.repository, sent.tag).read()
    later = data.replace(b'"dockercomms.version":"1.1"', b'"dockercomms.version":"2.0"')
    tag = message_tag(RT, town.clock.now(), digest_of(later))
    box.registry.push_manifest(box.repository, later, MEDIA_TYPE_MANIFEST, tags=[tag])
    town.clock.advance(9 * DAY)

    assert kinds(town.collect(box)) == [("message", "removed")]
    assert tags(box) == [anchor_tag(RT, FakeClock().now().date()), tag]


# --- anchors -------------------------------------------------------------------------------------


def test_an_anchor_goes_when_its_day_is_more_than_two_days_past(town):
    box = town.memory()
    town.send(box, ttl_seconds=1)
    town.clock.advance(2 * DAY)
    assert kinds(town.collect(box)) == [("message", "removed")]

    town.clock.advance(DAY)
    assert kinds(town.collect(box)) == [("anchor", "removed")]
    assert tags(box) == []


def test_an_anchor_stays_while_a_message_under_another_days_tag_refers_to_it(town):
    """A relayed message has a tag of the day it arrived and the anchor of the day it was built."""
    box = town.memory()
    sent = town.send(box, ttl_seconds=30 * DAY)
    built = town.clock.now()
    data = box.registry.get_tag(box.repository, sent.tag).read()
    town.clock.advance(5 * DAY)
    box.registry.push_manifest(
        box.repository,
        data,
        MEDIA_TYPE_MANIFEST,
        tags=[message_tag(RT, town.clock.now(), sent.digest)],
    )
    box.registry.delete_tag(box.repository, sent.tag)

    assert town.collect(box) == []
    assert anchor_tag(RT, built.date()) in tags(box)


def test_an_anchor_stays_while_an_untagged_message_refers_to_it(town):
    box = town.memory()
    sent = town.send(box, ttl_seconds=30 * DAY)
    for tag in (sent.tag, bell_tag(RT)):
        box.registry.delete_tag(box.repository, tag)
    town.clock.advance(5 * DAY)

    assert town.collect(box) == []
    assert box.registry.resolve_manifest(box.repository, sent.digest)


def test_an_untagged_message_past_its_time_is_removed_too(town):
    box = town.memory()
    sent = town.send(box, ttl_seconds=HOUR)
    for tag in (sent.tag, bell_tag(RT)):
        box.registry.delete_tag(box.repository, tag)
    town.clock.advance(5 * DAY)

    assert kinds(town.collect(box)) == [("message", "removed"), ("anchor", "removed")]


def test_what_else_stands_under_an_anchors_tag_is_left_alone(town):
    box = town.memory()
    tag = anchor_tag(RT, town.clock.now().date())
    box.registry.push_manifest(box.repository, Index().to_bytes(), MEDIA_TYPE_INDEX, tags=[tag])
    town.clock.advance(9 * DAY)

    assert town.collect(box) == []
    assert tags(box) == [tag]


def test_no_anchor_goes_while_something_in_the_inbox_cannot_be_read(town):
    class Damaged(MemoryRegistry):
        bad = ""

        def get_tag(self, repository: str, tag: str) -> Any:
            if tag == self.bad:
                raise DigestMismatch("other content")
            return super().get_tag(repository, tag)

    box = Store(Damaged(clock=town.clock), "team/a", "a.example/team/a")
    town.send(box, ttl_seconds=HOUR)
    box.registry.bad = town.send(box, ttl_seconds=HOUR).tag
    town.clock.advance(9 * DAY)

    assert kinds(town.collect(box)) == [("message", "removed")] * 2


def test_no_anchor_goes_while_an_entry_of_its_referrers_cannot_be_read(town):
    class Odd(MemoryRegistry):
        def referrers(self, *words: Any, **options: Any) -> Iterator[Descriptor]:
            yield from super().referrers(*words, **options)
            raise UnreadableEntries("1 of 2 entries")

    box = Store(Odd(clock=town.clock), "team/a", "a.example/team/a")
    town.send(box, ttl_seconds=HOUR)
    town.clock.advance(9 * DAY)

    assert kinds(town.collect(box)) == [("message", "removed")]


# --- the tag schema's indexes --------------------------------------------------------------------


def test_the_referrers_indexes_go_with_their_message_and_anchor(town):
    box = town.memory(referrers=False)
    sent = town.send(box, ttl_seconds=HOUR, signed=True)
    assert referrers_tag(sent.digest) in tags(box)
    town.clock.advance(5 * DAY)

    done = town.collect(box)

    assert [one.kind for one in done] == ["bundle", "message", "index", "anchor", "index"]
    assert tags(box) == []


def test_an_index_that_lists_what_lives_is_not_removed_under_another_name(town):
    """Whoever may push, but not delete, could else have the owner delete for them."""
    box = town.memory(referrers=False)
    old = town.send(box, "old", ttl_seconds=HOUR)
    young = town.send(box, "young", ttl_seconds=30 * DAY, signed=True)
    index = box.registry.get_tag(box.repository, referrers_tag(young.digest)).read()
    message = box.registry.get_tag(box.repository, young.tag).read()
    for data, kind, name in (
        (index, MEDIA_TYPE_INDEX, referrers_tag(old.digest)),
        (message, MEDIA_TYPE_MANIFEST, f"bundle-{old.digest[7:19]}-1-abcdef"),
        (message, MEDIA_TYPE_MANIFEST, f"receipt-{old.digest[7:19]}-1-abcdef"),
    ):
        box.registry.push_manifest(box.repository, data, kind, tags=[name])
    town.clock.advance(5 * DAY)

    assert kinds(town.collect(box)) == [("message", "removed")]
    assert {young.tag, referrers_tag(young.digest)} <= set(tags(box))


# --- registries that delete in their own way -----------------------------------------------------


def test_tags_that_outlive_their_manifest_are_removed_as_well(town):
    box, registry = stubborn(town)
    registry.tags_stay = True
    town.send(box, ttl_seconds=HOUR, signed=True)
    town.receive(box, signed=True)
    town.clock.advance(2 * DAY)

    town.collect(box)

    assert [tag for tag in tags(box) if not tag.endswith("20261120")] == []


def test_where_tags_have_to_go_first_they_do(town):
    box, registry = stubborn(town)
    registry.tags_first = True
    town.send(box, ttl_seconds=HOUR)
    other = town.send(box, "other", ttl_seconds=30 * DAY)
    town.clock.advance(2 * DAY)

    assert kinds(town.collect(box)) == [("message", "removed")]
    assert registry.resolve_tag(box.repository, bell_tag(RT)).digest == other.digest


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        (Unsupported("not here", status=405), Unsupported),
        (ManifestUnknown("no such", status=404), Unsupported),
        (Denied("no", status=403), AuthError),
        (Unsupported("delete is disabled", status=400), Unsupported),
    ],
)
def test_a_registry_that_forbids_deletion_is_said_to_with_what_to_do_instead(town, refusal, kind):
    box, registry = stubborn(town)
    for number in range(5):
        town.send(box, f"note {number}", ttl_seconds=HOUR)
    town.clock.advance(5 * DAY)
    before = tags(box)
    registry.refusal = refusal

    with pytest.raises(kind, match=r"a\.example/team/a: what has expired cannot be deleted") as no:
        town.collect(box)

    assert no.value.exit_code == kind.exit_code
    assert "REGISTRY_STORAGE_DELETE_ENABLED" in no.value.hint
    assert "inbox-*" in no.value.hint
    assert len(registry.asked) == 3  # then it is clear
    assert tags(box) == before


def test_a_single_refusal_is_said_too(town):
    box, registry = stubborn(town)
    town.send(box, ttl_seconds=HOUR)
    town.clock.advance(DAY + 2 * HOUR)
    registry.refusal = Unsupported("no", status=405)
    run = town.mailbox(box, BOB).collect()

    assert kinds([next(run)]) == [("message", "failed")]
    with pytest.raises(Unsupported):
        next(run)


def test_a_message_stays_when_its_bundle_cannot_go(town):
    class Locked(Stubborn):
        def delete_manifest(self, repository: str, digest: Digest) -> None:
            if digest == self.locked:
                raise Denied("locked", status=403)
            super().delete_manifest(repository, digest)

    registry = Locked(town.clock)
    box = Store(registry, "team/a", "a.example/team/a")
    one = town.send(box, "one", ttl_seconds=HOUR, signed=True)
    town.send(box, "two", ttl_seconds=HOUR, signed=True)
    (bundle,) = (tag for tag in tags(box) if tag.startswith(f"bundle-{one.digest[7:19]}"))
    registry.locked = registry.resolve_tag(box.repository, bundle).digest
    town.clock.advance(5 * DAY)

    done = town.collect(box)

    assert sorted(kinds(done)) == [
        ("bundle", "failed"),
        ("bundle", "removed"),
        ("message", "removed"),
    ]
    assert one.tag in tags(box)
    assert anchor_tag(RT, FakeClock().now().date()) in tags(box)


def test_a_repository_whose_tags_may_not_be_listed_is_refused_with_a_reason(town):
    class Silent(MemoryRegistry):
        def tag_pages(self, *_: Any, **__: Any) -> Any:
            raise Denied("no listing", status=403)

    box = Store(Silent(clock=town.clock), "team/a", "a.example/team/a")
    town.send(box)

    with pytest.raises(Denied, match="tags cannot be listed") as raised:
        town.collect(box)
    assert "may list tags" in raised.value.hint


def test_a_repository_that_does_not_exist_has_no_garbage(town):
    assert town.collect(town.memory()) == []


# --- clocks --------------------------------------------------------------------------------------


def test_the_earlier_clock_decides(town):
    box, registry = stubborn(town)
    town.send(box, ttl_seconds=HOUR)
    town.clock.advance(HOUR + DAY)
    assert town.collect(box) == []

    registry.now = lambda: town.clock.now() + timedelta(minutes=30)
    assert town.collect(box) == []
    town.clock.advance(1)
    assert kinds(town.collect(box)) == [("message", "removed")]


def test_clocks_two_hours_apart_remove_nothing_unless_the_registrys_is_chosen(town):
    box, registry = stubborn(town)
    town.send(box, ttl_seconds=HOUR)
    town.clock.advance(HOUR + DAY)
    registry.now = lambda: town.clock.now() + timedelta(hours=2)

    with pytest.raises(ConfigError, match=r"2\.0 h apart; nothing was removed") as raised:
        town.collect(box)

    assert "--clock registry" in raised.value.hint
    assert kinds(town.collect(box, clock_skew_ok=True)) == [("message", "removed")]


# --- stopped in between --------------------------------------------------------------------------


@pytest.mark.parametrize("steps", range(5))
def test_a_run_that_is_stopped_anywhere_is_finished_by_the_next(town, steps):
    box = town.memory()
    town.send(box, "old", ttl_seconds=HOUR, signed=True)
    kept = town.send(box, "kept", ttl_seconds=90 * DAY, signed=True)
    town.receive(box, signed=True)
    town.clock.advance(5 * DAY)
    run = town.mailbox(box, BOB).collect()
    for _, _ in zip(range(steps), run, strict=False):
        pass
    run.close()

    town.collect(box)

    day = f"{FakeClock().now():%Y%m%d}"
    about = {"bundle", "receipt"}
    left = [tag for tag in tags(box) if tag.split("-")[0] in about or tag == kept.tag]
    assert len(left) == 3
    assert all(kept.digest[7:19] in tag for tag in left)
    assert set(tags(box, "inbox-")) == {bell_tag(RT), f"{bell_tag(RT)}-{day}", kept.tag}


# --- folders -------------------------------------------------------------------------------------


def test_a_folder_gives_back_what_the_message_was_made_of(town, tmp_path):
    box = open_store(f"oci-layout:{tmp_path / 'box'}", clock=town.clock, create=True)
    town.send(box, "old" * 99, ttl_seconds=HOUR, signed=True)
    kept = town.send(box, "kept" * 99, ttl_seconds=90 * DAY, signed=True)
    town.clock.advance(5 * DAY)
    for path in (tmp_path / "box").glob("blobs/*/*"):
        os.utime(path, (1, 1))
    collector = town.mailbox(box, BOB).collector()
    collector.choice = "own"

    done = list(collector.collect([BOB]))

    assert kinds(done) == [("bundle", "removed"), ("message", "removed")]
    assert collector.swept.blobs == 2  # the chunk and the bundle
    assert town.receive(box, signed=True) == [kept.id]

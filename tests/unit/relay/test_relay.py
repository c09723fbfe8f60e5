"""Carrying messages and receipts between repositories: what moves, once, and what stays whole."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from dockercomms.errors import (
    BlobUnknown,
    Denied,
    LimitError,
    ManifestBlobUnknown,
    NetworkError,
    NotFoundError,
    ProtocolError,
    UsageError,
)
from dockercomms.oci.interface import read_all
from dockercomms.oci.memory import MemoryRegistry
from dockercomms.oci.model import MEDIA_TYPE_MANIFEST, Descriptor, Digest, digest_of, parse_children
from dockercomms.oci.reference import referrers_tag
from dockercomms.oci.stores import Store, open_store
from dockercomms.oci.strict_json import canonical_json
from dockercomms.protocol.header import MEDIA_TYPE_BUNDLE_CONFIG
from dockercomms.protocol.manifest import ManifestBuilder, Receipt, parse_message
from dockercomms.protocol.tags import anchor_tag, bell_tag, message_tag, parse_tag, recipient_tag
from dockercomms.relay.inventory import attached_to
from dockercomms.trust.bundle import MAX_BUNDLE_BYTES
from tests.fakes.inboxes import Sender
from tests.fakes.moving import ALICE, BOB, DAY, Town, generation, kinds, open_town, tags

RT = recipient_tag(BOB)


@pytest.fixture
def town(tmp_path) -> Iterator[Town]:
    yield from open_town(tmp_path)


def message_under(store: Store, tag: str) -> Any:
    return parse_message(read_all(store.registry.get_tag(store.repository, tag), 10**6)[0])


def blobs(town: Town) -> int:
    return town.last.totals.blobs


# --- messages ------------------------------------------------------------------------------------


def test_a_message_keeps_its_digest_and_gets_a_tag_of_its_arrival(town):
    here, there = town.memory("a"), town.memory("b")
    sent = town.send(here, signed=True, ttl_seconds=30 * DAY)
    built = town.clock.now()
    town.clock.advance(7 * DAY)

    (done,) = town.relay(here, there)

    assert (done.kind, done.status, done.id, done.digest) == (
        "message", "relayed", sent.id, sent.digest,
    )  # fmt: skip
    assert (done.sender, done.recipient) == (ALICE, BOB)
    assert done.tag == message_tag(RT, town.clock.now(), sent.digest)
    assert there.registry.resolve_tag(there.repository, bell_tag(RT)).digest == sent.digest
    assert {anchor_tag(RT, built.date()), anchor_tag(RT, town.clock.now().date())} <= set(
        tags(there)
    )
    assert len(tags(there, f"bundle-{sent.digest[7:19]}-")) == 1


def test_a_message_a_week_late_is_found_and_verified_at_the_destination(town):
    here, there = town.memory("a"), town.memory("b")
    sent = town.send(here, signed=True, ttl_seconds=30 * DAY)
    town.clock.advance(7 * DAY)
    town.send(there, "of today", signed=True)
    assert len(town.receive(there, signed=True)) == 1  # bob's cursor is at today

    town.relay(here, there)

    assert town.receive(there, signed=True) == [sent.id]


def test_what_was_delivered_at_one_place_is_not_delivered_at_the_other(town):
    here, there = town.memory("a"), town.memory("b")
    town.send(here)
    town.relay(here, there)

    assert len(town.receive(here)) == 1
    assert town.receive(there) == []


def test_a_second_run_moves_and_writes_nothing(town):
    here, there = town.memory("a"), town.memory("b")
    for number in range(3):
        town.send(here, f"note {number}", signed=True)
    town.receive(here, signed=True)
    assert kinds(town.relay(here, there)) == [("message", "relayed"), ("receipt", "relayed")] * 3
    before = tags(there)
    town.clock.advance(60)

    assert town.relay(here, there) == []

    assert (town.last.totals.present, blobs(town)) == (3, 0)
    assert tags(there) == before


def test_progress_is_told_of_what_each_message_is_made_of(town):
    here, there = town.memory("a"), town.memory("b")
    town.send(here, random.Random(1).randbytes(20_000).hex())
    told: list[tuple[int, int]] = []

    town.relay(here, there, progress=lambda done, total: told.append((done, total)))

    assert told[-1][0] == told[-1][1] > 20_000
    assert told == sorted(told)


def test_blobs_that_messages_share_are_moved_once(town, tmp_path):
    here, there = town.memory("a"), town.memory("b")
    for name in (BOB, "carol", "dave"):
        town.send(here, to=name, compress="gzip")

    town.relay(here, there)

    assert (town.last.totals.messages, blobs(town)) == (3, 1)


def test_within_one_registry_blobs_are_mounted(town):
    here = town.memory("a")
    there = Store(here.registry, "team/b", "a.example/team/b")
    town.send(here)

    town.relay(here, there)

    assert (town.last.totals.messages, blobs(town)) == (1, 0)
    assert len(town.receive(there)) == 1


def test_only_what_is_addressed_to_a_name_is_carried(town):
    here, there = town.memory("a"), town.memory("b")
    bobs = town.send(here)
    town.send(here, to="carol")
    replied = town.send(here, "from bob", me=BOB, to="carol")
    town.receive(here, "carol")

    done = town.relay(here, there, to=[BOB])

    assert [(one.kind, one.id) for one in done] == [("message", bobs.id), ("receipt", replied.id)]


def test_only_the_messages_named_are_carried(town):
    here, there = town.memory("a"), town.memory("b")
    one, two = town.send(here, "one"), town.send(here, "two")
    town.receive(here)

    done = town.relay(here, there, ids=[two.id[:8]])
    assert [(item.kind, item.id) for item in done] == [("message", two.id), ("receipt", two.id)]
    done = town.relay(here, there, ids=[one.digest[:20]])
    assert [item.id for item in done] == [one.id, one.id]


@pytest.mark.parametrize(
    ("ids", "error", "match"),
    [
        (["ffffffff-"], NotFoundError, "no message begins with"),
        (["sha256:"], UsageError, "2 messages begin so"),
        (["abc"], UsageError, "at least 4"),
    ],
)
def test_a_name_of_none_or_of_several_carries_nothing(town, ids, error, match):
    here, there = town.memory("a"), town.memory("b")
    town.send(here, "one"), town.send(here, "two")

    with pytest.raises(error, match=match):
        town.relay(here, there, ids=ids)
    assert tags(there) == []


def test_messages_arrive_in_the_order_in_which_they_were_published(town):
    here, there = town.memory("a"), town.memory("b")
    ids = []
    for name in (BOB, "carol", BOB, "aaron"):
        ids.append(town.send(here, to=name).id)
        town.clock.advance(1)

    assert [done.id for done in town.relay(here, there)] == ids


def test_messages_of_the_old_program_are_carried_once(town):
    here, there = town.memory("a"), town.memory("b")
    sender = Sender(here.registry, town.clock, repository=here.repository)
    message, _ = sender.publish_legacy()

    (done,) = town.relay(here, there)
    assert (done.status, done.digest) == ("relayed", message.digest)
    assert parse_tag(done.tag).kind == "message"
    assert town.relay(here, there) == []
    assert town.last.totals.present == 1


def test_what_gc_would_remove_is_left_behind(town):
    here, there = town.memory("a"), town.memory("b")
    town.send(here, ttl_seconds=3600)
    town.receive(here)
    town.clock.advance(2 * DAY)

    assert town.relay(here, there) == []
    assert town.last.totals.expired == 2
    assert tags(there, "inbox-") == []


def test_source_and_destination_are_two(town):
    here = town.memory("a")
    with pytest.raises(UsageError, match="both the source and the destination"):
        town.relay(here, here)


# --- signatures and receipts ---------------------------------------------------------------------


def test_receipts_travel_back_and_count_as_proof(town):
    here, there = town.memory("a"), town.memory("b")
    sent = town.send(here, signed=True)
    town.relay(here, there)
    town.receive(there, signed=True)

    assert kinds(town.relay(there, here)) == [("receipt", "relayed")]

    (receipt,) = town.mailbox(here, ALICE, signed=True).receipts()
    assert (receipt.id, receipt.status, receipt.signature_status) == (sent.id, "accepted", "valid")
    (alone,) = town.mailbox(here, ALICE, signed=True).receipts(sent.id)
    assert alone == receipt


def test_a_changed_receipt_follows_the_first(town):
    here, there = town.memory("a"), town.memory("b")
    sent = town.send(here)
    town.relay(here, there)
    town.receive(there)
    town.relay(there, here)
    bob = town.mailbox(there, BOB)
    bob.acknowledge(sent.id, "rejected", reason="page 3")
    town.clock.advance(1)
    bob.acknowledge(sent.id, "rejected", reason="page 4, too")

    assert kinds(town.relay(there, here)) == [("receipt", "relayed")] * 2

    receipts = town.mailbox(here, ALICE).receipts()
    assert [(one.status, one.reason) for one in receipts] == [
        ("accepted", ""),
        ("rejected", "page 4, too"),
    ]
    # Both rejections have the same rid and came in one moment: neither hides the other's tags
    assert len(tags(here, f"receipt-{sent.digest[7:19]}-")) == 3


def test_receipts_without_a_tag_for_the_sender_are_carried(town):
    """Those of the 1.0 program have none."""
    here, there = town.memory("a"), town.memory("b")
    town.send(here)
    town.receive(here)
    for tag in tags(here, "receipts-"):
        if parse_tag(tag).kind == "receipts":
            here.registry.delete_tag(here.repository, tag)

    assert kinds(town.relay(here, there)) == [("message", "relayed"), ("receipt", "relayed")]
    assert town.relay(here, there) == []
    assert len(town.mailbox(there, ALICE).receipts()) == 1


def test_a_receipt_that_was_put_under_one_tag_only_gets_the_other(town):
    here, there = town.memory("a"), town.memory("b")
    town.send(here)
    town.receive(here)
    town.relay(here, there)
    (bulk,) = (tag for tag in tags(there, "receipts-") if parse_tag(tag).kind == "receipts")
    there.registry.delete_tag(there.repository, bulk)
    town.clock.advance(5)

    assert kinds(town.relay(here, there)) == [("receipt", "relayed")]
    assert len(town.mailbox(there, ALICE).receipts()) == 1


def test_a_signature_that_came_later_follows_its_message(town):
    here, there = town.memory("a"), town.memory("b")
    sent = town.send(here)
    town.relay(here, there)
    town.clock.advance(5)
    town.mailbox(here, ALICE, signed=True).sign_object(sent.digest)

    assert kinds(town.relay(here, there)) == [("bundle", "relayed")]
    assert town.relay(here, there) == []
    assert len(attached_to(there.registry, there.repository, sent.digest)) == 1


def test_a_later_signature_without_a_tag_is_found_when_asked_for(town):
    here, there = town.memory("a"), town.memory("b")
    sent = town.send(here)
    town.relay(here, there)
    town.mailbox(here, ALICE, signed=True).sign_object(sent.digest)
    for tag in tags(here, "bundle-"):
        here.registry.delete_tag(here.repository, tag)

    assert town.relay(here, there) == []
    assert kinds(town.relay(here, there, complete=True)) == [("bundle", "relayed")]
    assert len(tags(there, "bundle-")) == 1


def test_where_there_is_no_referrers_api_the_index_lists_what_was_carried(town):
    here, there = town.memory("a"), town.memory("b", referrers=False)
    sent = town.send(here, signed=True)
    town.receive(here, signed=True)

    town.relay(here, there)

    assert referrers_tag(sent.digest) in tags(there)
    found = attached_to(there.registry, there.repository, sent.digest)
    assert [isinstance(one.what, Receipt) for one in found] == [False, True]
    # The receipt was carried too: another machine counts the message as received elsewhere.
    assert town.receive(there, signed=True, machine="other") == []
    assert town.receive(there, signed=True, machine="other", redeliver=True) == [sent.id]


# --- archives and folders ------------------------------------------------------------------------


def archive(town: Town, path: Path) -> Store:
    return open_store(f"oci-archive:{path}", clock=town.clock, create=True)


def test_an_air_gap_is_crossed_by_a_tar_and_the_receipt_comes_back_the_same_way(town, tmp_path):
    here, there = town.memory("a"), town.memory("b")
    sent = town.send(here, signed=True, ttl_seconds=30 * DAY)
    out = archive(town, tmp_path / "out.tar")
    town.relay(here, out, to=[BOB])
    out.registry.close()
    town.clock.advance(7 * DAY)

    disk = archive(town, tmp_path / "out.tar")
    town.relay(disk, there)
    disk.registry.close()
    assert town.receive(there, signed=True) == [sent.id]
    back = archive(town, tmp_path / "back.tar")
    assert kinds(town.relay(there, back, to=[ALICE])) == [("receipt", "relayed")]
    back.registry.close()
    disk = archive(town, tmp_path / "back.tar")
    town.relay(disk, here)
    disk.registry.close()

    (receipt,) = town.mailbox(here, ALICE, signed=True).receipts()
    assert (receipt.id, receipt.signature_status) == (sent.id, "valid")


def test_a_second_export_copies_nothing_and_leaves_the_file_alone(town, tmp_path):
    here = town.memory("a")
    for number in range(3):
        town.send(here, f"note {number}", signed=True)
    town.receive(here, signed=True)
    file = tmp_path / "out.tar"
    out = archive(town, file)
    town.relay(here, out)
    out.registry.close()
    assert blobs(town) > 0
    before = generation(file)

    out = archive(town, file)
    assert town.relay(here, out) == []
    out.registry.close()

    assert blobs(town) == 0
    assert generation(file) == before


def test_an_archive_can_be_received_from_as_it_is(town, tmp_path):
    here = town.memory("a")
    sent = town.send(here, signed=True)
    out = archive(town, tmp_path / "out.tar")
    town.relay(here, out)
    out.registry.close()

    box = archive(town, tmp_path / "out.tar")
    assert town.receive(box, signed=True) == [sent.id]
    box.registry.close()
    box = archive(town, tmp_path / "out.tar")
    assert len(town.mailbox(box, ALICE, signed=True).receipts()) == 1
    box.registry.close()


# --- what goes wrong -----------------------------------------------------------------------------


class Faulty(MemoryRegistry):
    """Raises what `faults` says for a method, at its n-th call."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.fail_at = -1
        self.calls = 0
        self.error: Exception = NetworkError("cut")
        self.lost: set[Digest] = set()
        self.silent = False

    def _step(self) -> None:
        self.calls += 1
        if self.calls == self.fail_at:
            raise self.error

    def push_blob(self, *args: Any, **options: Any) -> Descriptor:
        self._step()
        return super().push_blob(*args, **options)

    def push_manifest(self, *args: Any, **options: Any) -> Descriptor:
        self._step()
        return super().push_manifest(*args, **options)

    def get_blob(self, repository: str, digest: Digest, *, size: int | None = None) -> Any:
        if digest in self.lost:
            raise BlobUnknown("lost")
        return super().get_blob(repository, digest, size=size)

    def tag_pages(self, *args: Any, **options: Any) -> Any:
        if self.silent:
            raise Denied("no listing", status=403)
        return super().tag_pages(*args, **options)


def faulty(town: Town, name: str = "b") -> tuple[Store, Faulty]:
    registry = Faulty(clock=town.clock)
    return Store(registry, f"team/{name}", f"{name}.example/team/{name}"), registry


def test_a_run_that_is_cut_anywhere_is_finished_by_the_next_and_shows_nothing_half(town):
    here = town.memory("a")
    sent = town.send(here, signed=True)
    town.receive(here, signed=True)
    for step in range(1, 40, 2):
        there, registry = faulty(town, f"b{step}")
        registry.fail_at = step
        try:
            town.relay(here, there)
        except NetworkError:
            held = [tag for tag in tags(there, "inbox-") if parse_tag(tag).kind == "message"]
            if held:  # then it is complete and signed
                assert town.receive(there, signed=True, machine=f"m{step}") == [sent.id]
        else:
            break
        registry.fail_at = -1
        town.clock.advance(1)
        town.relay(here, there)
        assert town.receive(there, signed=True, machine=f"n{step}") in ([sent.id], [])
        (receipt,) = town.mailbox(there, ALICE, signed=True).receipts()
        assert receipt.signature_status == "valid"
        held = [tag for tag in tags(there, "inbox-") if parse_tag(tag).kind == "message"]
        assert len(held) == 1
    assert step > 8


def test_content_that_is_collected_before_its_message_comes_is_sent_again(town):
    class Collecting(MemoryRegistry):
        collected = False

        def push_manifest(self, repository: str, data: bytes, *args: Any, **options: Any) -> Any:
            if b"message.v1" in data[:200] and not self.collected:
                self.collected = True
                for blob in parse_children(data).layers:
                    self.delete_blob(repository, blob.digest)
                raise ManifestBlobUnknown("blob unknown", status=400)
            return super().push_manifest(repository, data, *args, **options)

    here = town.memory("a")
    there = Store(Collecting(clock=town.clock), "team/b", "b.example/team/b")
    town.send(here)

    assert kinds(town.relay(here, there)) == [("message", "relayed")]
    assert blobs(town) == 2
    assert len(town.receive(there)) == 1


def test_an_anchor_that_is_collected_meanwhile_is_put_back(town):
    """Somebody's gc saw no message of that day, because it had not come yet."""

    class Losing(MemoryRegistry):
        def push_manifest(self, repository: str, data: bytes, *args: Any, **options: Any) -> Any:
            done = super().push_manifest(repository, data, *args, **options)
            if any(len(tag) > 60 and tag.startswith("inbox-") for tag in options.get("tags", ())):
                self.delete_tag(repository, old)
            return done

    here = town.memory("a")
    there = Store(Losing(clock=town.clock), "team/b", "b.example/team/b")
    town.send(here, ttl_seconds=30 * DAY)
    old = anchor_tag(RT, town.clock.now().date())
    town.clock.advance(4 * DAY)

    town.relay(here, there)

    assert old in tags(there)


def test_the_anchor_of_another_day_than_the_messages_is_found_by_its_content(town):
    here, there = town.memory("a"), town.memory("b")
    sender = Sender(here.registry, town.clock, repository=here.repository)
    built = town.clock.now() - timedelta(days=9)
    sender.publish(at=built, created_at=town.clock.now())

    assert kinds(town.relay(here, there)) == [("message", "relayed")]
    assert anchor_tag(RT, built.date()) in tags(there)


def test_a_subject_that_is_no_anchor_of_the_recipient_is_not_made_one(town):
    here, there = town.memory("a"), town.memory("b")
    sender = Sender(here.registry, town.clock, repository=here.repository)
    data = sender.build()
    fields = json.loads(data)
    for number, subject in enumerate((Descriptor.of(data, MEDIA_TYPE_MANIFEST), None)):
        fields["annotations"]["dockercomms.title"] = str(number)
        if subject is not None:
            fields["subject"] = subject.to_json()
            here.registry.push_manifest(here.repository, data, MEDIA_TYPE_MANIFEST)
        else:
            fields.pop("subject")
        message = canonical_json(fields)
        name = message_tag(RT, town.clock.now(), digest_of(message))
        here.registry.push_manifest(here.repository, message, MEDIA_TYPE_MANIFEST, tags=[name])

    assert kinds(town.relay(here, there)) == [("message", "relayed")] * 2
    assert len(tags(there, "inbox-")) == 2 + 1 + 1  # messages, the bell, the anchor of today


def test_an_index_that_cannot_be_written_is_noticed_and_stops_nothing(town):
    class Strict(MemoryRegistry):
        def push_manifest(self, repository: str, data: bytes, *args: Any, **options: Any) -> Any:
            if any(tag.startswith("sha256-") for tag in options.get("tags", ())):
                raise Denied("no such tags", status=403)
            return super().push_manifest(repository, data, *args, **options)

    notices: list[Any] = []
    here = town.memory("a")
    there = Store(Strict(clock=town.clock, referrers=False), "team/b", "b.example/team/b")
    sent = town.send(here, signed=True)

    town.relay(here, there, on_notice=notices.append)

    assert {notice.kind for notice in notices} == {"not-indexed"}
    assert town.receive(there, signed=True) == [sent.id]


def test_a_registry_that_ends_a_run_leaves_what_was_put_before(town):
    here = town.memory("a")
    there, registry = faulty(town)
    one = town.send(here, "one")
    town.clock.advance(1)
    town.send(here, "two")
    registry.error, registry.fail_at = Denied("no more", status=403), 6

    with pytest.raises(Denied):
        town.relay(here, there)
    assert town.receive(there) == [one.id]


@pytest.mark.parametrize("signed", [False, True])
def test_what_cannot_be_put_is_reported_each_by_itself(town, signed):
    """A manifest too large for the destination, say."""

    class Small(MemoryRegistry):
        def push_manifest(self, repository: str, data: bytes, *args: Any, **options: Any) -> Any:
            if len(data) > 800:
                raise LimitError("too large")
            return super().push_manifest(repository, data, *args, **options)

    here = town.memory("a")
    there = Store(Small(clock=town.clock), "team/b", "b.example/team/b")
    town.send(here, signed=signed)
    town.receive(here, signed=signed)

    done = town.relay(here, there)

    assert kinds(done) == [("message", "failed"), ("receipt", "failed")]
    assert town.last.totals.failed == 2


def test_one_message_whose_content_is_lost_stops_no_other(town):
    here, registry = faulty(town, "a")
    there = town.memory("b")
    one = town.send(here, random.Random(1).randbytes(20_000).hex())  # too long to be inline
    town.clock.advance(1)
    two = town.send(here, "two")
    layer = message_under(here, one.tag).chunks[0].descriptor
    registry.lost = {layer.digest}

    done = town.relay(here, there)

    assert [(item.id, item.status) for item in done] == [(one.id, "failed"), (two.id, "relayed")]
    assert isinstance(done[0].error, BlobUnknown)
    assert done[0].tag == one.tag
    assert len(town.receive(there)) == 1


def test_a_message_of_another_major_version_is_reported_and_left_where_it_is(town):
    here, there = town.memory("a"), town.memory("b")
    sent = town.send(here)
    data = read_all(here.registry.get_tag(here.repository, sent.tag), 10**6)[0]
    later = data.replace(b'"dockercomms.version":"1.1"', b'"dockercomms.version":"2.0"')
    tag = message_tag(RT, town.clock.now(), digest_of(later))
    here.registry.push_manifest(here.repository, later, MEDIA_TYPE_MANIFEST, tags=[tag])

    done = town.relay(here, there)

    assert sorted(kinds(done)) == [("message", "failed"), ("message", "relayed")]
    (failed,) = (one for one in done if one.error)
    assert failed.tag == tag
    assert "version '2.0'" in failed.error.message
    assert failed.error.exit_code == 4


def test_a_tag_that_speaks_of_another_digest_or_person_is_not_believed(town):
    here, there = town.memory("a"), town.memory("b")
    sent = town.send(here)
    data = read_all(here.registry.get_tag(here.repository, sent.tag), 10**6)[0]
    other = message_tag(RT, town.clock.now(), digest_of(b"other"))
    carols = message_tag(recipient_tag("carol"), town.clock.now(), sent.digest)
    here.registry.push_manifest(here.repository, data, MEDIA_TYPE_MANIFEST, tags=[other, carols])

    done = town.relay(here, there)

    assert sorted(kinds(done)) == [("message", "failed")] * 2 + [("message", "relayed")]
    assert all(isinstance(one.error, ProtocolError) for one in done if one.error)


def test_a_false_tag_at_the_destination_keeps_nothing_away(town):
    here, there = town.memory("a"), town.memory("b")
    decoy = town.send(there, "decoy")
    sent = town.send(here)
    data = read_all(there.registry.get_tag(there.repository, decoy.tag), 10**6)[0]
    false = message_tag(RT, town.clock.now() - timedelta(hours=1), sent.digest)
    there.registry.push_manifest(there.repository, data, MEDIA_TYPE_MANIFEST, tags=[false])

    assert [one.id for one in town.relay(here, there)] == [sent.id]


def test_a_source_that_lists_no_tags_is_refused_with_a_reason(town):
    here, registry = faulty(town, "a")
    town.send(here)
    registry.silent = True

    with pytest.raises(Denied, match="tags cannot be listed") as raised:
        town.relay(here, town.memory("b"))
    assert "may list tags" in raised.value.hint


def test_a_destination_that_lists_no_tags_gets_each_message_once(town):
    here = town.memory("a")
    there, registry = faulty(town, "b")
    registry.silent = True
    town.send(here, signed=True)
    town.receive(here, signed=True)

    assert len(town.relay(here, there)) == 2
    assert town.relay(here, there) == []


def test_a_destination_that_moves_no_tags_gets_everything_but_the_bell(town):
    class Immutable(MemoryRegistry):
        def push_manifest(self, repository: str, data: bytes, *args: Any, **options: Any) -> Any:
            for tag in options.get("tags", ()):
                if tag in self.tags(repository):
                    raise Denied("tag is immutable", status=409)
            return super().push_manifest(repository, data, *args, **options)

    registry = Immutable(clock=town.clock)
    there = Store(registry, "team/b", "b.example/team/b")
    here = town.memory("a")
    for number in range(2):
        sent = town.send(here, f"note {number}")
        town.clock.advance(1)
        assert kinds(town.relay(here, there)) == [("message", "relayed")]
    assert len(town.receive(there)) == 2
    assert registry.resolve_tag(there.repository, bell_tag(RT)).digest != sent.digest


def test_bundles_that_no_reader_would_read_are_left(town):
    here, there = town.memory("a"), town.memory("b")
    sent = town.send(here, signed=True)
    message = message_under(here, sent.tag).descriptor
    huge = replace(Descriptor.of(b"x", MEDIA_TYPE_BUNDLE_CONFIG), size=MAX_BUNDLE_BYTES + 1)
    data, _ = ManifestBuilder.bundle(message, {}, huge).build()
    here.registry._repository(here.repository).blobs[huge.digest] = b"x"
    here.registry.push_manifest(
        here.repository, data, MEDIA_TYPE_MANIFEST, tags=[f"bundle-{sent.digest[7:19]}-7-abcdef"]
    )

    assert kinds(town.relay(here, there)) == [("message", "relayed")]
    assert len(attached_to(there.registry, there.repository, sent.digest)) == 1
    assert town.relay(here, there) == []


def test_a_receipt_that_cannot_be_read_is_reported(town):
    here, there = town.memory("a"), town.memory("b")
    sent = town.send(here)
    data = read_all(here.registry.get_tag(here.repository, sent.tag), 10**6)[0]
    here.registry.push_manifest(
        here.repository, data, MEDIA_TYPE_MANIFEST, tags=[f"receipt-{sent.digest[7:19]}-7-abcdef"]
    )

    done = town.relay(here, there)

    assert kinds(done) == [("message", "relayed"), ("receipt", "failed")]
    assert "no receipt that this program can read" in done[1].error.message


def test_clocks_two_hours_apart_hide_no_message(town):
    here = town.memory("a")
    late = replace(town.memory("b"), registry=MemoryRegistry(clock=_Behind(town.clock)))
    first = town.send(late, "a first one", clock_skew_ok=True)
    assert town.receive(late, ids=[first.id]) == [first.id]
    sent = town.send(here)

    town.relay(here, late)

    assert town.receive(late, ids=[sent.id]) == [sent.id]


class _Behind:
    """A clock two hours behind another."""

    def __init__(self, clock: Any) -> None:
        self._clock = clock

    def now(self) -> Any:
        return self._clock.now() - timedelta(hours=2)

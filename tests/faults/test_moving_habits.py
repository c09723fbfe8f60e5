"""Cleaning and carrying over HTTP, on registries with every habit that was seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from dockercomms.errors import Unsupported
from dockercomms.oci.remote.registry import HTTPRegistry
from dockercomms.oci.stores import Store
from dockercomms.protocol.tags import bell_tag, recipient_tag
from tests.fakes.moving import BOB, DAY, Town, kinds, open_town, tags
from tests.fakes.presets import PRESETS
from tests.fakes.registry import OCI, FakeRegistry
from tests.fakes.registry_quirks import Quirks

HABITS = {
    **PRESETS,
    "hub": replace(OCI, delete_refuses_tagged=True),
    "ecr": replace(OCI, manifest_delete=404, tag_delete=404),
    "immutable": replace(OCI, immutable_tags=409),
}
FORBIDS = {"ghcr", "ecr"}


@pytest.fixture
def town(tmp_path) -> Iterator[Town]:
    yield from open_town(tmp_path)


def at(town: Town, registry: FakeRegistry, name: str) -> Store:
    store = HTTPRegistry(registry.host, clock=town.clock)
    town.stack.callback(store.close)
    return Store(store, f"team/{name}", f"{registry.host}/team/{name}")


@pytest.fixture(params=HABITS)
def habit(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def quirks(habit: str) -> Quirks:
    return HABITS[habit]


def test_gc_removes_what_expired_or_says_what_to_do(town: Town, habit: str) -> None:
    with FakeRegistry(quirks(habit), clock=town.clock) as registry:
        box = at(town, registry, "box")
        old = town.send(box, "old", ttl_seconds=3600, signed=True)
        new = town.send(box, "new", ttl_seconds=90 * DAY, signed=True)
        town.receive(box, signed=True)
        town.clock.advance(5 * DAY)
        before = set(tags(box))

        if habit in FORBIDS:
            with pytest.raises(Unsupported, match="what has expired cannot be deleted"):
                town.collect(box)
            assert set(tags(box)) == before
            return
        done = town.collect(box)

        assert {one.status for one in done} == {"removed"}
        assert {"message", "bundle", "receipt"} <= {one.kind for one in done}
        left = set(tags(box))
        assert not any(old.digest[7:19] in tag for tag in left)
        assert left == {tag for tag in before if old.digest[7:19] not in tag} - _bulk(before, left)
        assert new.tag in left
        assert town.collect(box) == []


def _bulk(before: set[str], left: set[str]) -> set[str]:
    """Return the tags that name no message: of receipts in bulk, one of two; the bell of the old."""
    gone = {tag for tag in before - left if tag.startswith("receipts-")}
    assert len(gone) == 1
    return gone | {tag for tag in before - left if tag == bell_tag(recipient_tag(BOB))}


def test_a_relay_carries_everything_once(town: Town, habit: str) -> None:
    clock = town.clock
    with (
        FakeRegistry(quirks(habit), clock=clock) as one,
        FakeRegistry(quirks(habit), clock=clock) as two,
    ):
        here, there = at(town, one, "a"), at(town, two, "b")
        sent = [town.send(here, f"note {number}", signed=True).id for number in range(2)]
        town.receive(here, signed=True)
        clock.advance(DAY)

        assert sorted(kinds(town.relay(here, there))) == [
            ("message", "relayed"), ("message", "relayed"),
            ("receipt", "relayed"), ("receipt", "relayed"),
        ]  # fmt: skip
        clock.advance(1)
        assert town.relay(here, there) == []
        assert town.last.totals.present == 2
        # The receipts were carried too: another machine counts both as received elsewhere.
        assert town.receive(there, signed=True, machine="b") == []
        got = town.receive(there, signed=True, machine="b", redeliver=True)
        assert sorted(got) == sorted(sent)


@pytest.mark.parametrize(("habit", "moves"), [("distribution", 0), ("ggcr", 0), ("zot", 2)])
def test_within_a_registry_nothing_moves_that_is_mounted_or_there(
    town: Town, habit: str, moves: int
) -> None:
    with FakeRegistry(quirks(habit), clock=town.clock) as registry:
        here, there = at(town, registry, "a"), at(town, registry, "b")
        there = replace(there, registry=here.registry)
        town.send(here, signed=True)

        town.relay(here, there)

        assert town.last.totals.blobs == moves
        assert len(town.receive(there, signed=True)) == 1

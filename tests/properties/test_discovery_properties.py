"""A complete discovery finds the same, whatever the habits of the store."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dockercomms.inbox.inbox import Inbox
from dockercomms.oci.model import Descriptor, Digest
from dockercomms.oci.remote.listing import ZERO_DIGEST
from dockercomms.oci.remote.registry import HTTPRegistry
from dockercomms.protocol.tags import recipient_tag
from dockercomms.state import State
from tests.fakes.clock import FakeClock
from tests.fakes.examples import examples
from tests.fakes.inboxes import (
    ME,
    NOON,
    REPO,
    REPOSITORY,
    HabitRegistry,
    Habits,
    Sender,
)
from tests.fakes.registry import OCI, PRESETS, FakeRegistry, Quirks

quick = settings(
    max_examples=examples(25),
    suppress_health_check=[HealthCheck.too_slow],
    database=None,
)


@dataclass(frozen=True)
class Plan:
    """One message to publish."""

    hours_ago: float
    tagged: bool = True
    legacy: bool = False


def publish(sender: Sender, plans: list[Plan]) -> set[Digest]:
    found = set()
    for plan in plans:
        at = NOON - timedelta(hours=plan.hours_ago)
        if plan.legacy:
            found.add(sender.publish_legacy(at=at, created_at=NOON)[0].digest)
        else:
            found.add(sender.publish(at=at, created_at=NOON, tagged=plan.tagged).digest)
    carol = recipient_tag("carol@example.com")
    for tag in ("latest", "a-1", "zebra", f"inbox-{carol}", f"inbox-{carol}-20261120-0-0"):
        sender.push(b'{"schemaVersion":2}', tag)
    return found


def discover(registry, folder: str | Path, *, polls: int = 1) -> set[Digest]:
    with State(Path(folder) / "state.db") as state:
        for _ in range(polls):
            inbox = Inbox(
                registry, REPOSITORY, repo=REPO, me=ME, state=state, clock=FakeClock(NOON)
            )
            result = inbox.poll(complete=True)
            assert result.complete
        entries = inbox.entries()
        assert {entry.state for entry in entries} <= {"new"}
        found = [entry.digest for entry in entries]
        assert len(found) == len(set(found))
        return set(found)


plans = st.lists(
    st.builds(
        Plan,
        hours_ago=st.integers(0, 27 * 24),
        tagged=st.booleans(),
        legacy=st.booleans(),
    ),
    max_size=8,
)

habits = st.builds(
    Habits,
    tags_sorted=st.booleans(),
    tags_last=st.sampled_from(["obeyed", "ignored", "must-exist"]),
    tags_n=st.sampled_from(["obeyed", "ignored"]),
    tags_page_max=st.sampled_from([None, 1, 2, 5]),
    tags_past_end=st.sampled_from(["empty", "whole"]),
    referrers=st.booleans(),
    entries_type=st.sampled_from(["manifest", "config"]),
    entries_annotated=st.booleans(),
)


@quick
@given(plans=plans, habits=habits)
def test_discovery_does_not_depend_on_habits_of_lists(plans, habits):
    if habits.tags_last == "ignored" and habits.tags_n == "obeyed":
        habits = replace(habits, tags_page_max=None)  # such pages would never end
    clock = FakeClock(NOON)
    registry = HabitRegistry(clock=clock, habits=habits)
    expected = publish(Sender(registry, clock), plans)
    with tempfile.TemporaryDirectory() as folder:
        assert discover(registry, folder) == expected


@quick
@given(plans=plans, split=st.integers(0, 8), habits=habits)
def test_discovery_in_two_passes_finds_what_one_finds(plans, split, habits):
    clock = FakeClock(NOON)
    registry = HabitRegistry(
        clock=clock,
        habits=replace(habits, tags_page_max=None, tags_sorted=True),
    )
    sender = Sender(registry, clock)
    with tempfile.TemporaryDirectory() as folder, State(Path(folder) / "state.db") as state:
        found: set[Digest | None] = set()
        # What is published after a pass is published today, as senders do.
        late = [replace(plan, hours_ago=plan.hours_ago % 12) for plan in plans[split:]]
        expected = set()
        for part in (plans[:split], late):
            expected |= publish(sender, part)
            inbox = Inbox(registry, REPOSITORY, repo=REPO, me=ME, state=state, clock=clock)
            assert inbox.poll().complete
            found |= {entry.digest for entry in inbox.entries()}
        assert found == expected


class Planter:
    """Puts what a `Sender` publishes into a fake registry without asking it."""

    def __init__(self, fake: FakeRegistry) -> None:
        self.fake = fake

    def push_blob(self, repository: str, descriptor: Descriptor, source: Callable) -> Descriptor:
        with source() as stream:
            self.fake.put_blob_raw(repository, stream.read())
        return descriptor

    def push_manifest(self, repository: str, data: bytes, media_type: str, *, tags=()):
        for tag in tags or [None]:
            self.fake.put_manifest_raw(repository, data, tag=tag, media_type=media_type)
        return Descriptor.of(data, media_type)

    def referrers_supported(self, repository: str) -> bool:
        return self.fake.quirks.referrers


MESSAGES = [
    Plan(hours_ago=0),
    Plan(hours_ago=1, tagged=False),
    Plan(hours_ago=2, legacy=True),
    Plan(hours_ago=30),
    Plan(hours_ago=31, tagged=False),
    Plan(hours_ago=200, legacy=True),
    Plan(hours_ago=300),
]

quirks = st.builds(
    replace,
    st.just(OCI),
    digest_header=st.booleans(),
    tags_sorted=st.booleans(),
    tags_n=st.sampled_from(["obeyed", "ignored"]),
    tags_n_max=st.sampled_from([None, 3]),
    tags_page_max=st.sampled_from([None, 1, 4]),
    tags_last=st.sampled_from(["obeyed", "must-exist"]),
    tags_past_end=st.sampled_from(["empty", "null", "whole"]),
    tags_link=st.sampled_from(["more", "always"]),
    tags_link_absolute=st.booleans(),
    referrers=st.booleans(),
    referrers_unsupported=st.sampled_from(["text-404", "json-404", "json-405", "json-400"]),
    referrers_filter=st.booleans(),
    referrers_artifact_type=st.sampled_from(["manifest", "config"]),
    referrers_annotations=st.booleans(),
    referrers_page=st.sampled_from([None, 1]),
    referrers_empty_null=st.booleans(),
    unknown_repository_code=st.sampled_from(["NAME_UNKNOWN", "MANIFEST_UNKNOWN"]),
)


@settings(quick, max_examples=examples(15))
@given(quirks=quirks)
def test_discovery_does_not_depend_on_the_registry(quirks: Quirks):
    clock = FakeClock(NOON)
    with FakeRegistry(quirks, clock=clock) as fake, tempfile.TemporaryDirectory() as folder:
        expected = publish(Sender(Planter(fake), clock), MESSAGES)
        with HTTPRegistry(fake.host, clock=clock) as registry:
            assert discover(registry, folder) == expected


@pytest.mark.parametrize("lose_every", [0, 2])
@pytest.mark.parametrize("name", sorted(PRESETS))
def test_discovery_finds_all_and_tags_where_referrers_lose(name, lose_every, tmp_path):
    clock = FakeClock(NOON)
    plans = [replace(plan, tagged=True) for plan in MESSAGES] if lose_every else MESSAGES
    with FakeRegistry(replace(PRESETS[name], referrers_lose_every=lose_every), clock=clock) as fake:
        expected = publish(Sender(Planter(fake), clock), plans)
        with HTTPRegistry(fake.host, clock=clock) as registry:
            assert discover(registry, tmp_path) == expected


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_discovery_of_an_idle_inbox_asks_four_requests(name, tmp_path):
    clock = FakeClock(NOON)
    full = replace(PRESETS[name], referrers_lose_every=0)
    with FakeRegistry(full, clock=clock) as fake, State(tmp_path / "state.db") as state:
        publish(Sender(Planter(fake), clock), MESSAGES)
        for _ in range(3):
            fake.forget_requests()
            with HTTPRegistry(fake.host, clock=clock) as registry:
                inbox = Inbox(registry, REPOSITORY, repo=REPO, me=ME, state=state, clock=clock)
                assert inbox.poll().complete
                assert len(inbox.entries()) == len(MESSAGES)
        # A client may ask each time it is started whether there is a referrers API.
        probes = fake.count(part=f"/referrers/{ZERO_DIGEST}")
        assert fake.count() - probes <= 4
        assert fake.count("HEAD") == 1

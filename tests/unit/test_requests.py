"""The requests of an inbox as a service, counted by the registry: watch, receive, receipts."""

from __future__ import annotations

import pytest

from dockercomms import Mailbox
from tests.fakes.clock import FakeClock
from tests.fakes.mail import ONE_KEY
from tests.fakes.registry import PRESETS, FakeRegistry, Fault
from tests.fakes.stops import AfterWaits

SEEK_PAGES = 3
"""Marks that a registry refuses for being no tag (zot), and the page that is read at last."""

UNANSWERED_PAGES = 2
"""A mark and a page: receipts of 1.0 programs are looked for where a message has no answer."""


@pytest.fixture(params=["distribution", "zot"])  # without the referrers API, and with it
def registry(request):
    with FakeRegistry(PRESETS[request.param], clock=FakeClock()) as registry:
        yield registry


def box(registry: FakeRegistry, me: str, folder, **options) -> Mailbox:
    options.setdefault("trust", ONE_KEY)
    return Mailbox(
        f"{registry.host}/team/box",
        me=me,
        state_path=folder / me / "state.db",
        clock=registry.clock,
        **options,
    )


def test_idle_watch_is_one_request_without_a_body(registry, tmp_path):
    with box(registry, "alice", tmp_path) as alice:
        alice.send(to="bob", text="one")
    with box(registry, "bob", tmp_path) as bob:
        assert len(list(bob.watch(out=tmp_path / "in", stop=AfterWaits(registry.clock)))) == 1
    with box(registry, "bob", tmp_path) as bob:
        registry.forget_requests()
        assert list(bob.watch(out=tmp_path / "in", stop=AfterWaits(registry.clock, 4))) == []

    assert [record.method for record in registry.requests] == ["HEAD"] * 4
    assert sum(record.response_bytes for record in registry.requests) == 0


def test_idle_watch_of_an_empty_inbox_costs_no_more(registry, tmp_path):
    with box(registry, "alice", tmp_path) as alice:
        alice.send(to="carol", text="one")
    with box(registry, "bob", tmp_path) as bob:
        list(bob.watch(out=tmp_path / "in", stop=AfterWaits(registry.clock)))
        registry.forget_requests()
        assert list(bob.watch(out=tmp_path / "in", stop=AfterWaits(registry.clock, 4))) == []

    assert [record.method for record in registry.requests] == ["HEAD"] * 4


def test_receipts_in_bulk_cost_as_many_requests_as_there_are_new_ones(registry, tmp_path):
    """r receipts of n messages: at most 1 + 2r + pages."""
    with box(registry, "alice", tmp_path) as alice, box(registry, "bob", tmp_path) as bob:
        for number in range(3):
            alice.send(to="bob", text=f"{number}")
        registry.forget_requests()
        assert alice.receipts() == []
        assert registry.count() <= 1 + SEEK_PAGES

        assert len(list(bob.receive(out=tmp_path / "in", max=2))) == 2
        registry.forget_requests()
        assert len(alice.receipts()) == 2
        assert registry.count() <= 1 + 2 * 2 + SEEK_PAGES

        registry.forget_requests()
        assert [entry.fate for entry in alice.outbox()].count("accepted") == 2
        assert registry.count() <= 1 + SEEK_PAGES + UNANSWERED_PAGES

        assert len(list(bob.receive(out=tmp_path / "in"))) == 1
        assert len(alice.receipts()) == 3
        registry.forget_requests()
        assert len(alice.receipts()) == 3
        assert registry.count() <= 1 + SEEK_PAGES


def test_waiting_for_an_answer_is_one_look_at_a_time(registry, tmp_path):
    with box(registry, "alice", tmp_path) as alice:
        sent = alice.send(to="bob", text="one")
        alice.receipts()
        registry.forget_requests()
        assert alice.wait(sent, seconds=60) == {}

    looks = len(registry.clock.sleeps) + 1
    assert registry.count() <= looks * (1 + SEEK_PAGES)
    assert looks <= 20


def test_watch_grants_a_busy_registry_what_it_asks_for(registry, tmp_path):
    """One request, then a wait as long as Retry-After says; nothing else is asked meanwhile."""
    notices = []
    with box(registry, "alice", tmp_path) as alice:
        alice.send(to="bob", text="one")
    with box(registry, "bob", tmp_path, on_notice=notices.append) as bob:
        list(bob.watch(out=tmp_path / "in", stop=AfterWaits(registry.clock)))
        registry.forget_requests()
        busy = Fault.answer(429, **{"Retry-After": "900"})
        registry.fail_when(lambda request: request.method == "HEAD", busy, times=2)
        stop = AfterWaits(registry.clock, 4)
        assert list(bob.watch(out=tmp_path / "in", stop=stop)) == []

    assert [wait >= 900 for wait in stop.waits] == [True, True, False, False]
    assert [record.method for record in registry.requests[:2]] == ["HEAD", "HEAD"]
    assert [notice.kind for notice in notices if notice.kind == "watch-waits"] == [
        "watch-waits"
    ] * 2

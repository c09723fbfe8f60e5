"""The flows over HTTP: every kind of registry, requests counted as the registry sees them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from dockercomms.errors import ConfigError, NetworkError, TooManyRequests
from dockercomms.mailbox import Mailbox
from dockercomms.messages.draft import Sent
from dockercomms.protocol.tags import parse_tag
from dockercomms.trust.owner import SigningOptions, TrustOptions
from dockercomms.trust.policy import Policy, Sender
from tests.fakes.clock import FakeClock
from tests.fakes.mail import ONE_KEY, files_below
from tests.fakes.registry import OCI, PRESETS, FakeRegistry, Fault


def box(registry: FakeRegistry, me: str, folder: Path, **options) -> Mailbox:
    options.setdefault("trust", ONE_KEY)
    return Mailbox(
        f"{registry.host}/team/box",
        me=me,
        state_path=folder / me / "state.db",
        clock=registry.clock,
        **options,
    )


@pytest.fixture(params=sorted(PRESETS))
def registry(request):
    with FakeRegistry(PRESETS[request.param], clock=FakeClock()) as registry:
        yield registry


def test_mailbox_over_http_from_send_to_receipt(registry, tmp_path):
    data = os.urandom(10_000)
    (tmp_path / "a.bin").write_bytes(data)
    with box(registry, "alice", tmp_path) as alice:
        sent = alice.send([tmp_path / "a.bin"], to="bob", chunk_bytes=4096)
        with box(registry, "bob", tmp_path) as bob:
            (got,) = bob.receive(out=tmp_path / "in")
            assert got.error is None
            assert list(bob.receive(out=tmp_path / "in")) == []
        for wanted in (None, sent.id, sent.digest):
            assert [entry.digest for entry in alice.receipts(wanted)] == [got.receipt]

    assert files_below(tmp_path / "in") == {f"{sent.id[:8]}/a.bin": data}


def has_api(registry: FakeRegistry) -> bool:
    return not any(tag.startswith("sha256-") for tag in registry.repository("team/box").tags)


@pytest.mark.parametrize(("sign", "with_api", "without"), [(False, 5, 7), (True, 7, 10)])
def test_mailbox_over_http_send_counts_its_requests(registry, tmp_path, sign, with_api, without):
    signing = SigningOptions(sign=sign)
    with box(registry, "alice", tmp_path, signing=signing) as alice:
        alice.send(to="bob", text="one")
    registry.forget_requests()
    # another process, which remembers only what is in the state
    with box(registry, "alice", tmp_path, signing=signing) as alice:
        alice.send(to="bob", text="two")

    assert registry.count(status=404) <= 1  # the index that is not there yet
    assert registry.count() <= (with_api if has_api(registry) else without)


@pytest.mark.parametrize(("sign", "most"), [(False, 2), (True, 4)])
def test_mailbox_over_http_receive_counts_its_requests(registry, tmp_path, sign, most):
    alice = Sender(name="alice", allow_unsigned=not sign)
    names = ("alice", "bob") if sign else ()
    trust = TrustOptions(policy=Policy(me=names, senders=(alice,)))

    def received(number: int) -> int:
        with box(registry, "alice", tmp_path, signing=SigningOptions(sign=sign)) as alice:
            for _ in range(number):
                alice.send(to="bob", text="hello")
        registry.forget_requests()
        with box(registry, "bob", tmp_path, trust=trust) as bob:
            got = list(bob.receive(out=tmp_path / "in", receipt=False))
        assert [item.signer for item in got] == ["alice" if sign else None] * number
        return registry.count()

    received(1)

    assert received(4) - received(1) <= 3 * most


def test_mailbox_over_http_idle_receive_asks_little(registry, tmp_path):
    with box(registry, "alice", tmp_path) as alice:
        alice.send(to="bob", text="one")
    with box(registry, "bob", tmp_path) as bob:
        assert len(list(bob.receive(out=tmp_path / "in"))) == 1
    with box(registry, "bob", tmp_path) as bob:
        registry.forget_requests()
        assert list(bob.receive(out=tmp_path / "in")) == []

    assert registry.count() <= 4


@pytest.mark.parametrize(("sign", "with_api", "without"), [(False, 2, 4), (True, 4, 6)])
def test_mailbox_over_http_receipt_counts_its_requests(registry, tmp_path, sign, with_api, without):
    signing = SigningOptions(sign=sign)

    def received(*, receipt: bool) -> int:
        with box(registry, "alice", tmp_path) as alice:
            alice.send(to="bob", text="hello")
        registry.forget_requests()
        with box(registry, "bob", tmp_path, signing=signing) as bob:
            (got,) = bob.receive(out=tmp_path / "in", receipt=receipt)
        assert (got.receipt is not None, got.error) == (receipt, None)
        return registry.count()

    received(receipt=True)

    most = with_api if has_api(registry) else without
    assert received(receipt=True) - received(receipt=False) <= most


@pytest.mark.parametrize("number", range(1, 12))
def test_mailbox_over_http_survives_any_one_request_that_is_never_answered(number, tmp_path):
    with FakeRegistry(OCI, clock=FakeClock()) as registry:
        with box(registry, "alice", tmp_path) as alice:
            registry.fail_at(number, Fault.drop_after())
            sent = alice.send(to="bob", text="hello")
        with box(registry, "bob", tmp_path) as bob:
            registry.fail_at(number, Fault.drop_after())
            got = [*bob.receive(out=tmp_path / "in"), *bob.receive(out=tmp_path / "in")]

        tags = registry.repository("team/box").tags
        messages = [tag for tag in tags if (said := parse_tag(tag)) and said.kind == "message"]
        assert messages == [sent.tag]
        assert [item.status for item in got] == ["received"]
        assert files_below(tmp_path / "in") == {f"{sent.id[:8]}/note.txt": b"hello"}
        assert len({tags[tag] for tag in tags if tag.startswith("receipt-")}) == 1


BUSY = {
    "429": Fault.answer(429),
    "429-hour": Fault.answer(429, Retry_After="3600"),
    "503-hour": Fault.answer(503, Retry_After="3600"),
    "closed": Fault.drop_before(),
}


def five_sent(registry: FakeRegistry, folder: Path) -> list[Sent]:
    """Send five messages whose content is not in their manifests."""
    found = []
    with box(registry, "alice", folder) as alice:
        for number in range(5):
            (folder / "a.bin").write_bytes(os.urandom(20_000))
            found.append(alice.send([folder / "a.bin"], to="bob", title=str(number)))
            registry.clock.advance(1)
    return found


# Three manifests in a row that fail end a look (HOPELESS_FAILURES), and threads read them in any order.
@pytest.mark.parametrize(("what", "bad"), [("blobs", 3), ("manifests", 2)])
@pytest.mark.parametrize("fault", BUSY)
def test_mailbox_over_http_gets_what_can_be_got_and_the_rest_later(tmp_path, what, bad, fault):
    with FakeRegistry(OCI, clock=FakeClock()) as registry:
        sent = five_sent(registry, tmp_path)
        parts = [one.digest for one in sent[:bad]]
        if what == "blobs":
            held = registry.repository("team/box").manifests
            parts = [held[digest].parsed["layers"][0]["digest"] for digest in parts]
        registry.fail_when(
            lambda request: any(request.path.endswith(part) for part in parts),
            BUSY[fault],
            times=999,
        )
        with box(registry, "bob", tmp_path) as bob:
            first = list(bob.receive(out=tmp_path / "in"))
            got = {item.id for item in first if item.error is None}
            assert got == {one.id for one in sent[bad:]}
            assert len(first) == 5
            registry.faults.clear()
            registry.clock.advance(3600)
            second = list(bob.receive(out=tmp_path / "in"))
        assert [(item.error, item.id) for item in second] == [(None, one.id) for one in sent[:bad]]


def test_mailbox_over_http_ends_a_run_where_nothing_can_be_got_and_says_so(tmp_path):
    notices = []
    with FakeRegistry(OCI, clock=FakeClock()) as registry:
        five_sent(registry, tmp_path)
        answered = Fault.answer(429)
        with box(registry, "bob", tmp_path, on_notice=notices.append) as bob:
            bob.inbox()
            registry.fail_when(lambda request: "blobs/" in request.path, answered, times=999)
            run = bob.receive(out=tmp_path / "in")
            got = [next(run), next(run)]
            registry.fail_when(lambda _: True, answered, times=999)
            got += run
    assert [type(item.error) for item in got] == [TooManyRequests] * 3
    (notice,) = [notice for notice in notices if notice.kind == "not-tried"]
    assert "the next run tries them" in notice.text


@pytest.mark.parametrize("fault", BUSY)
def test_mailbox_over_http_new_state_reads_one_message_whose_receipts_fail_later(tmp_path, fault):
    with FakeRegistry(OCI, clock=FakeClock()) as registry:
        sent = five_sent(registry, tmp_path)
        with box(registry, "bob", tmp_path) as bob:
            (read,) = bob.receive([sent[0].id], out=tmp_path / "in")
        registry.fail_when(
            lambda request: f"receipt-{sent[0].digest[7:19]}" in request.path,
            BUSY[fault],
            times=999,
        )
        with box(registry, "bob", tmp_path / "new") as bob:
            got = list(bob.receive(out=tmp_path / "again"))
    assert [item.id for item in got if item.error is None] == [one.id for one in sent[1:]]
    assert [item.id for item in got if item.error] == [read.id]


def test_mailbox_over_http_passes_on_that_the_registry_is_down(tmp_path):
    with FakeRegistry(OCI, clock=FakeClock()) as registry:
        box_of_bob = box(registry, "bob", tmp_path)
    with box_of_bob as bob, pytest.raises(NetworkError):
        bob.inbox()


def test_mailbox_over_http_refuses_a_clock_far_off(tmp_path):
    quirks = replace(OCI, date_skew_seconds=4000)
    with (
        FakeRegistry(quirks, clock=FakeClock()) as registry,
        box(registry, "alice", tmp_path) as alice,
    ):
        with pytest.raises(ConfigError, match="behind"):
            alice.send(to="bob", text="hello")
        assert alice.send(to="bob", text="hello", clock_skew_ok=True)

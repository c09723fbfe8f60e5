"""The flows over registries whose answer to the referrers API is no index, whatever it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dockercomms.errors import Notice
from dockercomms.mailbox import Mailbox
from dockercomms.oci.stores import open_store
from dockercomms.trust.keys import KeyStore, default_keys_folder
from dockercomms.trust.owner import SigningOptions, TrustOptions
from dockercomms.trust.policy import Policy, Sender, TrustedKey
from tests.fakes.clock import FakeClock
from tests.fakes.mail import files_below
from tests.fakes.no_referrers import NO_INDEX, asks_for_referrers
from tests.fakes.registry import OCI, FakeRegistry, Fault

ANSWERS = {
    name: NO_INDEX[name]
    for name in ("see-other", "401", "403", "404-html", "406", "429", "501", "503", "html", "reset")
} | {"said-to-be-missing": Fault.answer(404, b'{"errors":[{"code":"NAME_UNKNOWN"}]}')}
"""One of each kind; `NO_INDEX` has them all."""


@pytest.fixture(params=sorted(ANSWERS))
def answer(request):
    return request.param


@pytest.fixture
def registry(answer):
    with FakeRegistry(OCI, clock=FakeClock()) as registry:
        registry.faults.fail_when(asks_for_referrers, ANSWERS[answer], times=10**6)
        yield registry


def trust() -> TrustOptions:
    """Trust the key of this test run for both."""
    key = KeyStore(default_keys_folder(os.environ)).private_key().public_key()
    keys = (TrustedKey(key=key),)
    return TrustOptions(
        policy=Policy(senders=(Sender(name="alice", keys=keys), Sender(name="bob", keys=keys)))
    )


def box(registry: FakeRegistry, me: str, folder: Path, notices: list[Notice]) -> Mailbox:
    return Mailbox(
        f"{registry.host}/team/box",
        me=me,
        state_path=folder / me / "state.db",
        clock=registry.clock,
        signing=SigningOptions(sign=True),
        trust=trust(),
        on_notice=notices.append,
    )


def asked(registry: FakeRegistry) -> int:
    return sum("/referrers/" in request.target for request in registry.requests)


def test_mailbox_delivers_where_the_referrers_api_answers_oddly(registry, answer, tmp_path):
    notices: list[Notice] = []
    with box(registry, "alice", tmp_path, notices) as alice:
        sent = alice.send(to="bob", text="hello")
        with box(registry, "bob", tmp_path, notices) as bob:
            (got,) = bob.receive(out=tmp_path / "in")
            assert (got.id, got.signer, got.error) == (sent.id, "alice", None)
            assert bob.last_poll.errors == ()
        assert [entry.digest for entry in alice.receipts()] == [got.receipt]
        assert [entry.digest for entry in alice.receipts(sent.id)] == [got.receipt]

    assert files_below(tmp_path / "in") == {f"{sent.id[:8]}/note.txt": b"hello"}
    assert {notice.kind for notice in notices} == {"published"}


def test_mailbox_asks_for_the_referrers_api_once_a_day(registry, answer, tmp_path):
    """A process that comes later knows it from the state, and says nothing of it."""
    for number in range(3):
        with box(registry, "alice", tmp_path, []) as alice:
            alice.send(to="bob", text=f"{number}")
    broken = ANSWERS[answer].kind != "answer"
    assert asked(registry) == 1 + broken
    for number in range(3):
        with box(registry, "bob", tmp_path, []) as bob:
            assert len(list(bob.receive(out=tmp_path / "in"))) == (3 if number == 0 else 0)
            assert bob.last_poll.errors == ()
    if answer != "said-to-be-missing":  # that decides nothing, and the anchors are asked for
        assert asked(registry) == 2 * (1 + broken)


def test_messages_are_exported_where_the_referrers_api_answers_oddly(registry, answer, tmp_path):
    with box(registry, "alice", tmp_path, []) as alice:
        sent = alice.send(to="bob", text="hello")
        with box(registry, "bob", tmp_path, []) as bob:
            (got,) = bob.receive(out=tmp_path / "in")
        out = open_store(f"oci-archive:{tmp_path}/out.tar", clock=registry.clock, create=True)
        done = list(alice.relay(target=out).run())
        out.registry.close()

    assert [(one.kind, one.digest) for one in done] == [
        ("message", sent.digest), ("receipt", got.receipt),
    ]  # fmt: skip

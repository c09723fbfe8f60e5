"""Registries that forbid what a service would like to do, clocks far apart, commands that hang."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.clock import FakeClock
from tests.fakes.registry import DISTRIBUTION, OCI, OLAREG, FakeRegistry, Quirks
from tests.faults.people import REPOSITORY, Person, lines, told

TWO_HOURS = 7200.0


@contextlib.contextmanager
def people(tmp_path: Path, quirks: Quirks) -> Iterator[tuple[FakeRegistry, Person, Person]]:
    clock = FakeClock()
    with FakeRegistry(quirks, clock=clock) as registry:
        repo = f"{registry.host}/{REPOSITORY}"
        yield registry, Person("alice", tmp_path, repo, clock), Person("bob", tmp_path, repo, clock)


def watch_once(bob: Person, *arguments: str, quiet: bool = True) -> Any:
    words = ("--once", "--out", str(bob.out), "--exec", "test -f {dir}/note.txt", *arguments)
    return bob.run("watch", *words, quiet=quiet)


def serve(alice: Person, bob: Person, number: int = 3) -> None:
    """Send, watch, answer: every message once, and every answer heard."""
    for count in range(number):
        alice.clock.advance(1)
        alice.send_ok("--text", f"{count}")
        got = lines(watch_once(bob))
        assert [(one["status"], one["told"]) for one in got] == [("received", "accepted")]
        assert lines(watch_once(bob)) == []
    outbox = alice.run("outbox", "--format", "jsonl")
    assert [json.loads(line)["state"] for line in outbox.stdout.splitlines()] == [
        "accepted"
    ] * number
    assert sorted(bob.content()) == [str(count).encode() for count in range(number)]


@pytest.mark.parametrize(
    ("base", "status"),
    [(OCI, 400), (OCI, 403), (DISTRIBUTION, 409), (OLAREG, 412)],
    ids=["oci-400", "oci-403", "distribution-409", "olareg-412"],
)
def test_registry_whose_tags_may_not_be_moved_serves_all_the_same(tmp_path, base, status) -> None:
    with people(tmp_path, replace(base, immutable_tags=status)) as (registry, alice, bob):
        serve(alice, bob)
        bells = [r for r in registry.requests if r.method == "PUT" and r.path.endswith("dhku3")]
        assert len(bells) <= 2  # the refusal is remembered


def test_registry_whose_tags_may_not_be_moved_is_watched_without_a_bell(tmp_path) -> None:
    """The bell was rung once and never again; what comes later is found, and that is told."""
    with people(tmp_path, replace(OCI, immutable_tags=409)) as (_, alice, bob):
        said = alice.send("--text", "1", "-v", quiet=False).stderr
        assert "not moved" not in said  # the first one sets it
        alice.clock.advance(1)
        said = alice.send("--text", "2", "-v", quiet=False).stderr
        assert "not moved" in said
        assert [one["told"] for one in lines(watch_once(bob))] == ["accepted", "accepted"]


@pytest.mark.parametrize("status", [401, 403, 405])
def test_registry_that_lists_no_tags_serves_all_the_same(tmp_path, status) -> None:
    with people(tmp_path, replace(OCI, tags_status=status)) as (_, alice, bob):
        for count in range(3):
            alice.clock.advance(1)
            alice.send_ok("--text", f"{count}")
            result = watch_once(bob)
            assert [one["told"] for one in lines(result)] == ["accepted"], result.stderr
        assert sorted(bob.content()) == [b"0", b"1", b"2"]
        said = bob.run("recv", quiet=False)
        assert said.exit_code in (0, 3, 1)
        assert "search by tags failed, there may be more messages" in said.stderr
        quiet = bob.run("recv", "--discovery", "referrers", quiet=False)
        assert (quiet.exit_code, quiet.stderr) == (0, "no new messages for bob\n")
        for verb in ("receipts", "outbox"):  # they ask what refers to each message
            result = alice.run(verb, "--format", "jsonl")
            assert result.exit_code == 0, result.stderr
            key = "status" if verb == "receipts" else "state"
            assert [one[key] for one in lines(result)] == ["accepted"] * 3
        waited = alice.send("--text", "4", "--wait", "1s")
        assert waited.exit_code == 11


@pytest.mark.parametrize("skew", [TWO_HOURS, -TWO_HOURS])
def test_clocks_two_hours_apart_stop_a_sender_and_hold_the_message(tmp_path, skew) -> None:
    with people(tmp_path, replace(OCI, date_skew_seconds=skew)) as (registry, alice, bob):
        told(alice.send("--text", "x"), 1, "clock: ours is 7200 s", hint=["--clock-skew-ok"])
        assert registry.count("PUT", "/manifests/") == 0
        sent = alice.send_ok("--text", "x", "--clock-skew-ok", "--ttl", "1h")
        result = watch_once(bob, quiet=False)
        # By one of the two clocks its hour is over, or has not begun: both are said, and it waits.
        assert "choose the right clock with --clock own or --clock registry" in result.stderr
        assert [one["status"] for one in lines(result)] == ["skipped"]
        chosen = watch_once(bob, "--clock", "own")
        assert [(one["id"], one["told"]) for one in lines(chosen)] == [(sent["id"], "accepted")]


def test_command_that_never_ends_is_stopped_and_its_message_rejected(tmp_path) -> None:
    with people(tmp_path, OCI) as (_, alice, bob):
        alice.send_ok("--text", "x")
        result = bob.run(
            "watch", "--once", "--out", str(bob.out), "--exec", "sleep 1000", "--exec-timeout", "1"
        )
        (one,) = lines(result)
        assert (one["told"], one["command"]["timed_out"]) == ("rejected", True)
        told(result, 1, "did not end within", hint=["the files of the message are kept"])
        (receipt,) = alice.receipts()
        assert receipt["status"] == "rejected"
        assert "did not end within" in receipt["reason"]
        assert bob.content() == [b"x"]


def test_command_that_never_ends_and_nobody_is_told(tmp_path) -> None:
    with people(tmp_path, OCI) as (_, alice, bob):
        alice.send_ok("--text", "x")
        words = ("--exec", "sleep 1000", "--exec-timeout", "1", "--ack", "on-success")
        result = bob.run("watch", "--once", "--out", str(bob.out), *words)
        told(result, 1, "did not end within")
        assert alice.receipts() == []

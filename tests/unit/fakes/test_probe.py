"""With a server's switches, the fake registry gives that server's answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fakes import probe
from tests.fakes.registry import OLAREG, PRESETS, FakeRegistry, Quirks

SEEDS = Path(__file__).parents[3] / "spec" / "vectors" / "seeds" / "three_registries.json"
THREE = {"distribution": "distribution v3.1.2", "zot": "zot (minimal)", "olareg": "olareg"}
"""Presets, and what the measured three are called in the data file."""


def answers(quirks: Quirks) -> dict[str, probe.Result]:
    with FakeRegistry(quirks) as fake:
        return probe.run(fake.host)


@pytest.mark.parametrize("name", PRESETS)
def test_fake_answers_as_the_measured_registry(name: str) -> None:
    expected = probe.expected(name)
    got = answers(PRESETS[name])
    assert {row: got[row] for row in expected} == expected


@pytest.mark.parametrize("name", THREE)
def test_fake_agrees_with_the_three_measured_by_plain_requests(name: str) -> None:
    seed = json.loads(SEEDS.read_text())[THREE[name]]
    got = answers(PRESETS[name])
    wrong, right = got["PATCH at a wrong offset, then at the right one"]
    assert {
        "closing PUT, no body, no Content-Range": got["closing PUT, no body, no Content-Range"],
        "closing PUT, no body, Content-Range 300-299": got[
            "closing PUT, no body, Content-Range n-(n-1)"
        ],
        "empty blob, PUT without Content-Range": got["empty blob, PUT without Content-Range"],
        "Range after 0 bytes": got["Range after 0 bytes"],
        "Range after 1 byte": got["Range after 1 byte"],
        "PATCH at the right offset afterwards": right,
        "DELETE of the session": got["DELETE of the session"],
        "mount refused, then PUT through the session it opened": got[
            "mount refused, then PUT through the session it opened"
        ],
        "manifest with layers null": got["layers [] / [empty descriptor] / null"][2],
        "manifest without mediaType": got["manifest without mediaType"],
    } == {row: value for row, value in seed.items() if row != "PATCH at a wrong offset"}
    assert wrong == 416
    said = "with Range" if "with Range" in seed["PATCH at a wrong offset"] else "without Range"
    assert got["PATCH with a gap"] == f"416 {said}"


def test_expected_knows_every_row_of_the_servers_that_were_run() -> None:
    for name in ("distribution", "docker-registry-2.8", "ggcr", "ocimem"):
        assert set(probe.expected(name)) == set(probe.ROWS)
    assert set(probe.expected("zot")) < set(probe.ROWS)


def test_run_sends_the_credentials_it_is_given() -> None:
    quirks = Quirks(auth="basic")
    login = {"Authorization": "Basic YWxpY2U6c2VjcmV0"}
    with FakeRegistry(quirks, users={"alice": "secret"}) as fake:
        got = probe.run(fake.host, headers=login)
    assert got == {**answers(Quirks()), "auth": "basic"}


def test_main_prints_the_answers_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    with FakeRegistry(OLAREG) as fake:
        assert probe.main([fake.host]) == 0
    assert json.loads(capsys.readouterr().out) == answers(OLAREG)

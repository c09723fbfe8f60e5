"""The waits of docker-library's meta-scripts for Docker Hub, compared with ours; a fake clock."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dockercomms.errors import DockerCommsError, NetworkError, TooManyRequests
from dockercomms.oci.auth.credentials import DockerConfig
from dockercomms.oci.client import ClientPool
from dockercomms.oci.hub import HubProxy, hub_registry
from dockercomms.oci.images.ensure import lookup
from dockercomms.oci.interface import read_all
from dockercomms.oci.reference import Reference
from dockercomms.oci.stores import Location
from tests.fakes.clock import FakeClock
from tests.fakes.scripted import Reply, ScriptedServer

ROWS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "spec/vectors/seeds/hub_rate_limit_retry.json").read_text()
)
MEMBERS = {"name", "statuses_served", "gaps_ms", "result", "error", "UA", "Paths"}
CONTENT = b'{"schemaVersion":2}'
MANIFEST = {"Content-Type": "application/vnd.oci.image.manifest.v1+json"}
TOLERANCE_MS = 2


def test_rows_are_of_known_form() -> None:
    assert all(set(row) <= MEMBERS for row in ROWS)
    assert {row["result"] for row in ROWS} <= {"null", "content"}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["name"])
def test_hub_waits_as_it_was_measured(row: dict[str, Any]) -> None:
    replies = [
        Reply(status, CONTENT, MANIFEST) if status == 200 else Reply(status)
        for status in row["statuses_served"]
    ]
    clock = FakeClock()
    with (
        ScriptedServer(*replies) as server,
        hub_registry(
            proxy=HubProxy.parse(f"http://{server.host}"),
            user_agent=row["UA"][0],
            auth=DockerConfig(),
            clock=clock,
        ) as hub,
    ):
        found, failed = None, None
        place = Location.of(hub, Reference.parse(f"{row['name']}:t"))
        try:
            reader = lookup(place)
            found = None if reader is None else read_all(reader, 100)[0]
        except DockerCommsError as error:
            failed = error
    assert (failed is not None) == ("error" in row)
    assert found == (CONTENT if row["result"] == "content" else None)
    gaps = [1000 * seconds for seconds in clock.sleeps]
    assert gaps == pytest.approx(row["gaps_ms"] or [], abs=TOLERANCE_MS)
    assert [f"{seen.method} {seen.target}" for seen in server.requests] == row["Paths"]
    assert [seen.headers["user-agent"] for seen in server.requests] == row["UA"]


@pytest.mark.parametrize(
    ("status", "tries"), [(500, 3), (502, 3), (503, 3), (504, 3), (501, 1), (400, 1), (408, 1)]
)
def test_hub_tries_passing_failures_three_times(status: int, tries: int) -> None:
    clock = FakeClock()
    with (
        ScriptedServer(rest=Reply(status)) as server,
        hub_registry(
            proxy=HubProxy.parse(f"http://{server.host}"), auth=DockerConfig(), clock=clock
        ) as hub,
    ):
        with pytest.raises(DockerCommsError) as caught:
            lookup(Location(hub, "library/x", tag="t"))
        assert len(server.requests) == tries
    assert clock.sleeps == [1.0] * (tries - 1)
    if tries > 1:
        assert isinstance(caught.value, NetworkError)
        assert caught.value.attempts == tries


def test_hub_gives_up_on_429_after_five_minutes() -> None:
    """The original never does."""
    clock = FakeClock()
    with (
        ScriptedServer(rest=Reply(429)) as server,
        hub_registry(
            proxy=HubProxy.parse(f"http://{server.host}"), auth=DockerConfig(), clock=clock
        ) as hub,
        pytest.raises(TooManyRequests),
    ):
        lookup(Location(hub, "library/x", tag="t"))
    assert sum(clock.sleeps) == pytest.approx(300, abs=2)


def test_hub_waits_as_long_as_it_is_told() -> None:
    """The original does not read Retry-After."""
    clock = FakeClock()
    with (
        ScriptedServer(
            Reply(429, headers={"Retry-After": "17"}), Reply(200, CONTENT, MANIFEST)
        ) as server,
        hub_registry(
            proxy=HubProxy.parse(f"http://{server.host}"), auth=DockerConfig(), clock=clock
        ) as hub,
    ):
        assert lookup(Location(hub, "library/x", tag="t")) is not None
    assert clock.sleeps == [17.0]


def test_hub_takes_three_hundred_at_once_and_then_five_a_second() -> None:
    clock = FakeClock()
    with (
        ScriptedServer(rest=Reply(200, CONTENT, MANIFEST)) as server,
        hub_registry(
            proxy=HubProxy.parse(f"http://{server.host}"), auth=DockerConfig(), clock=clock
        ) as hub,
    ):
        for _ in range(300):
            hub.get_tag("library/x", "t").close()
        assert clock.sleeps == []
        for _ in range(10):
            hub.get_tag("library/x", "t").close()
    assert clock.sleeps == pytest.approx([0.2] * 10)


def test_hub_and_its_proxy_share_one_rate() -> None:
    with hub_registry(proxy=HubProxy("cache.example"), auth=DockerConfig()) as hub:
        limiters = {id(one.session._limiter) for one in (hub.direct, hub.proxy)}  # type: ignore[attr-defined]
    assert len(limiters) == 1


def test_pool_reads_the_environment_for_docker_hub_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKERHUB_PUBLIC_PROXY", "http://cache.example:5000")
    with ClientPool() as pool:
        for name in ("docker.io", "index.docker.io", "registry.hub.docker.com"):
            hub: Any = pool.client_for(name)
            assert hub.proxy.endpoint.base_url == "http://cache.example:5000"
            assert hub.direct.endpoint.base_url == "https://registry-1.docker.io"
            assert hub is pool.client_for("docker.io")
        other = pool.client_for("registry.example")
        assert other.endpoint.base_url == "https://registry.example"
        assert not hasattr(other, "proxy")
        # These two are not Docker Hub's names (measured)
        for name in ("DOCKER.IO", "docker.io:443"):
            assert not hasattr(pool.client_for(name), "proxy")

"""The real registries answer the probe as the data file and the fake's switches say."""

from __future__ import annotations

import http.client

import pytest

from tests.fakes import probe
from tests.fakes.registry import PRESETS, FakeRegistry
from tests.fakes.token_server import TokenServer
from tests.real.launch import Server


def test_real_registry_answers_as_the_data_file_says(open_server: Server) -> None:
    assert probe.run(open_server.host) == probe.expected(open_server.preset)


def test_fake_registry_answers_as_the_real_one(open_server: Server) -> None:
    with FakeRegistry(PRESETS[open_server.preset]) as fake:
        assert probe.run(fake.host) == probe.run(open_server.host)


@pytest.mark.parametrize("name", ["distribution_htpasswd", "docker_registry_htpasswd"])
def test_a_login_changes_nothing_but_the_challenge(
    name: str, request: pytest.FixtureRequest
) -> None:
    server: Server = request.getfixturevalue(name)
    answers = probe.run(server.host, headers={"Authorization": server.authorization()})
    assert answers == {**probe.expected(server.preset), "auth": "basic"}


def test_token_challenge_names_the_token_server(
    distribution_token: Server, token_server: TokenServer
) -> None:
    connection = http.client.HTTPConnection(distribution_token.host, timeout=10)
    connection.request("GET", "/v2/a/b/tags/list")
    answer = connection.getresponse()
    answer.read()
    connection.close()
    assert answer.status == 401
    assert answer.getheader("WWW-Authenticate") == token_server.challenge("repository:a/b:pull")


def test_referrers_are_refused_before_the_login(distribution_htpasswd: Server) -> None:
    """The 404 of a missing API needs no credentials, on the fake as well."""
    with FakeRegistry(PRESETS["distribution"]) as fake:
        for host in (distribution_htpasswd.host, fake.host):
            connection = http.client.HTTPConnection(host, timeout=10)
            connection.request("GET", f"/v2/a/b/referrers/{probe.digest_of(b'')}")
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == (404, b"404 page not found\n")
            connection.close()

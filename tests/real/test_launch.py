"""The launcher itself: what it starts runs, and what it ends is gone."""

from __future__ import annotations

import http.client
import json
from pathlib import Path

import pytest

from tests.fakes.probe_client import Probe, digest_of
from tests.real import launch
from tests.real.launch import LaunchError, Server, binary


def test_missing_program_is_an_error_that_names_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKERCOMMS_TEST_BIN", str(tmp_path))
    with pytest.raises(LaunchError, match="zot is not in"):
        binary("zot")
    monkeypatch.delenv("DOCKERCOMMS_TEST_BIN")
    with pytest.raises(LaunchError, match="DOCKERCOMMS_TEST_BIN is not set"):
        binary("zot")


def test_program_that_ends_at_once_is_an_error_with_its_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "ggcr"
    program.write_text("#!/bin/sh\necho no such port >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("DOCKERCOMMS_TEST_BIN", str(tmp_path))
    with pytest.raises(LaunchError, match=r"ended with 3: .*no such port"), launch.ggcr(tmp_path):
        pass


def test_server_is_gone_after_its_block(tmp_path: Path) -> None:
    with launch.ocimem(tmp_path) as server:
        assert server.process.poll() is None
    assert server.process.poll() is not None
    connection = http.client.HTTPConnection(server.host, timeout=1)
    with pytest.raises(ConnectionRefusedError):
        connection.connect()


def test_login_is_known_to_the_server(server: Server, tmp_path: Path) -> None:
    """The token server's registry takes no password itself."""
    settings = server.environment(tmp_path, host="proxy:1")
    if not server.has_login:
        assert settings == {}
        return
    config = json.loads((Path(settings["DOCKER_CONFIG"]) / "config.json").read_text())
    login = {"Authorization": "Basic " + config["auths"]["proxy:1"]["auth"]}
    client = Probe(server.host)
    expected = 401 if server.auth == "token" else 200
    assert client.ask("GET", "/v2/", headers=login).status == expected
    assert client.ask("GET", "/v2/").status == 401
    client.close()


@pytest.mark.parametrize("name", ["distribution", "docker_registry"])
def test_access_log_has_a_line_for_each_request(name: str, request: pytest.FixtureRequest) -> None:
    server: Server = request.getfixturevalue(name)
    client = Probe(server.host)
    client.ask("GET", "/v2/log/line/tags/list")
    client.close()
    assert any("GET /v2/log/line/tags/list" in line for line in server.access_log())
    assert "listening on" in server.server_log()


def test_in_memory_storage_sorts_the_tags_of_docker_registry(tmp_path: Path) -> None:
    """The other tests run docker-registry on files for this reason."""
    with launch.docker_registry(tmp_path, storage="inmemory") as server:
        client = Probe(server.host)
        names = [f"t{number:02}" for number in range(12)]
        assert client.tags(client.tagged(*reversed(names))).json()["tags"] == names
        client.close()


def test_ggcr_can_do_without_referrers(tmp_path: Path) -> None:
    with launch.ggcr(tmp_path, referrers=False) as server:
        client = Probe(server.host)
        answer = client.ask("GET", f"/v2/a/referrers/{digest_of(b'')}")
        assert (answer.status, answer.code) == (404, "METHOD_UNKNOWN")
        client.close()


def test_toxiproxy_cuts_what_is_open_and_serves_on(ocimem: Server) -> None:
    with launch.toxiproxy(ocimem.address) as toxic:
        assert toxic.address == ("127.0.0.1", int(toxic.host.rpartition(":")[2]))
        connection = http.client.HTTPConnection(toxic.host, timeout=10)
        connection.request("GET", "/v2/")
        connection.getresponse().read()
        toxic.reset()
        assert connection.sock.recv(1) == b""
        connection.close()
        client = Probe(toxic.host)
        assert client.ask("GET", "/v2/").status == 200
        toxic.add("limit_data", {"bytes": 10})
        with pytest.raises((http.client.HTTPException, OSError)):
            client.ask("GET", "/v2/")
        toxic.remove("limit_data")
        assert client.ask("GET", "/v2/").status == 200
        with pytest.raises(LaunchError, match="404"):
            toxic.remove("limit_data")
        client.close()

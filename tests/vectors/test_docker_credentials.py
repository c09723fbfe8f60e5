"""The credentials that docker/oci finds in a docker configuration, compared with ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dockercomms.errors import ConfigError
from dockercomms.oci.auth.credentials import Credentials, DockerConfig
from tests.fakes.credential_programs import FAILS, answer, install_program

ROWS = json.loads(
    (Path(__file__).parents[2] / "spec/vectors/seeds/docker_credentials.json").read_text()
)
HOSTS = ("docker.io", "index.docker.io", "registry.example", "registry.example:5000")
MEMBERS = {"Name", "Env", "Config", "Hosts", "Err"}
ENTRY_MEMBERS = {"RefreshToken", "AccessToken", "Username", "Password"}

DIFFERENCES: dict[tuple[str, str], tuple[Credentials, str]] = {
    ("identity token and username", "registry.example"): (
        Credentials(username="user", password="pass", identity_token="it"),
        "registries store both: the token comes first, a token server may refuse it",
    ),
    ("Docker Hub legacy key", "docker.io"): (
        Credentials(username="user", password="pass"),
        "docker.io is another name of the registry that docker keeps under index.docker.io/v1/",
    ),
}
"""Row and host: what we say in place of what was measured, and why."""


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    install_program(folder, "good", answer("hu", "hs"))
    install_program(folder, "fail", FAILS)
    return folder


def _expected(row: dict[str, Any], host: str) -> Credentials | type[ConfigError] | None:
    if (row["Name"], host) in DIFFERENCES:
        return DIFFERENCES[row["Name"], host][0]
    measured = row["Hosts"].get(host)
    if measured is None:
        return None
    if "error" in measured:
        assert set(measured) == {"error"}
        return ConfigError
    assert set(measured) == ENTRY_MEMBERS
    return Credentials(
        username=measured["Username"],
        password=measured["Password"],
        identity_token=measured["RefreshToken"],
        registry_token=measured["AccessToken"],
    )


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["Name"])
def test_docker_config_does_what_was_measured(
    row: dict[str, Any], programs: Path, tmp_path: Path
) -> None:
    assert set(row) == MEMBERS
    assert set(row["Hosts"]) <= set(HOSTS)
    assert row["Err"] == ""
    env = {"PATH": str(programs)}
    if row["Env"] == "DOCKER_AUTH_CONFIG":
        env["DOCKER_AUTH_CONFIG"] = row["Config"]
    else:
        assert row["Env"] == "DOCKER_CONFIG"
        (tmp_path / "config.json").write_text(row["Config"])
        env["DOCKER_CONFIG"] = str(tmp_path)
    config = DockerConfig.load(env)
    for host in HOSTS:
        expected = _expected(row, host)
        if expected is ConfigError:
            with pytest.raises(ConfigError):
                config.entry(host)
        else:
            assert config.entry(host) == expected


def test_differences_are_all_of_known_rows() -> None:
    names = {row["Name"] for row in ROWS}
    assert {name for name, _ in DIFFERENCES} <= names
    assert all(reason for _, reason in DIFFERENCES.values())

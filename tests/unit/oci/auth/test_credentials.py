from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from dockercomms.errors import ConfigError
from dockercomms.oci.auth.credentials import (
    HUB_KEY,
    MAX_CONFIG_BYTES,
    ConfigSource,
    Credentials,
    DockerConfig,
)
from tests.fakes.credential_programs import FAILS, NOT_FOUND, answer, asked, install_program

HOST = "registry.example"


def auth(pair: str) -> dict[str, str]:
    return {"auth": base64.b64encode(pair.encode()).decode()}


def load(config: dict[str, Any], **env: str) -> DockerConfig:
    return DockerConfig.load({"DOCKER_AUTH_CONFIG": json.dumps(config), **env})


def write(path: Path, config: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(config))
    return path


def user(config: DockerConfig, host: str = HOST, repository: str = "") -> str | None:
    found = config.entry(host, repository)
    return found.username if found else None


# --- the value


def test_credentials_show_no_secret() -> None:
    login = Credentials(
        username="ann", password="hush1", identity_token="hush2", registry_token="hush3", source="s"
    )
    assert "hush" not in f"{login!r} {login}"
    assert "ann" in repr(login)


def test_credentials_basic_header_is_utf8() -> None:
    header = Credentials(username="ann", password="p:ä").basic_header()
    assert header == "Basic " + base64.b64encode("ann:p:ä".encode()).decode()
    assert Credentials(identity_token="t").basic_header() is None
    assert Credentials(username="ann").basic_header() == "Basic YW5uOg=="


@pytest.mark.parametrize("values", [{"username": "a:b"}, {"registry_token": "a\r\nX: y"}])
def test_credentials_refuse_what_no_header_can_say(values: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"^config\.json: ") as caught:
        Credentials(**values, source="config.json")
    assert "X: y" not in str(caught.value)


def test_credentials_are_equal_wherever_they_come_from() -> None:
    one = Credentials(username="u", source="a")
    assert one == Credentials(username="u", source="b", also_in=("c",))
    assert len({one, Credentials(username="u", source="b")}) == 1


# --- which source


def _everything(home: Path) -> dict[str, str]:
    """Put another user into each source; returns the environment that has them all."""
    entry = {HOST: auth("auth-config:p")}
    write(home / "authfile.json", {"auths": {HOST: auth("authfile:p")}})
    write(home / "docker/config.json", {"auths": {HOST: auth("docker-config:p")}})
    write(home / ".docker/config.json", {"auths": {HOST: auth("home:p")}})
    write(home / "run/containers/auth.json", {"auths": {HOST: auth("runtime:p")}})
    write(home / "conf/containers/auth.json", {"auths": {HOST: auth("conf:p")}})
    write(home / ".config/containers/auth.json", {"auths": {HOST: auth("home-conf:p")}})
    return {
        "HOME": str(home),
        "DOCKER_AUTH_CONFIG": json.dumps({"auths": entry}),
        "REGISTRY_AUTH_FILE": str(home / "authfile.json"),
        "DOCKER_CONFIG": str(home / "docker"),
        "XDG_RUNTIME_DIR": str(home / "run"),
        "XDG_CONFIG_HOME": str(home / "conf"),
    }


def test_docker_config_sources_come_in_their_order(tmp_path: Path) -> None:
    env = _everything(tmp_path)
    seen = []
    for name in (
        "DOCKER_AUTH_CONFIG",
        "REGISTRY_AUTH_FILE",
        "DOCKER_CONFIG",
        None,
        "XDG_RUNTIME_DIR",
        "XDG_CONFIG_HOME",
        None,
    ):
        seen.append(user(DockerConfig.load(env)))
        if name is not None:
            del env[name]
        elif len(seen) == 4:
            (tmp_path / ".docker/config.json").unlink()
    assert seen == [
        "auth-config",
        "authfile",
        "docker-config",
        "home",
        "runtime",
        "conf",
        "home-conf",
    ]


def test_docker_config_reads_podmans_folder_where_no_runtime_folder_is_named(
    tmp_path: Path,
) -> None:
    everywhere = tmp_path / "everywhere"
    write(everywhere / str(os.getuid()) / "auth.json", {"auths": {HOST: auth("podman:p")}})
    write(everywhere / str(os.getuid() + 1) / "auth.json", {"auths": {HOST: auth("other:p")}})
    write(tmp_path / "conf/containers/auth.json", {"auths": {HOST: auth("conf:p")}})
    env = {"XDG_CONFIG_HOME": str(tmp_path / "conf")}

    def found(**more: str) -> Credentials | None:
        return DockerConfig.load({**env, **more}, runtime_folder=everywhere).entry(HOST)

    login = found()
    assert login is not None
    assert login.username == "podman"
    assert login.source == str(everywhere / str(os.getuid()) / "auth.json")
    assert login.also_in == (str(tmp_path / "conf/containers/auth.json"),)
    # set but empty is unset (XDG base directories 0.8)
    assert found(XDG_RUNTIME_DIR="") == login
    # one that is named is the only one, whether or not it holds a file
    assert found(XDG_RUNTIME_DIR=str(tmp_path / "run")) == Credentials(
        username="conf", password="p"
    )
    write(tmp_path / ".docker/config.json", {"auths": {HOST: auth("home:p")}})
    assert found(HOME=str(tmp_path)) == Credentials(username="home", password="p")


def test_docker_config_reads_a_kubernetes_pull_secret(tmp_path: Path) -> None:
    # what `kubectl create secret docker-registry` writes under .dockerconfigjson
    entry = {"username": "ann", "password": "secret", "email": "a@b.example", **auth("ann:secret")}
    secret = write(tmp_path / ".dockerconfigjson", {"auths": {f"https://{HOST}/v1/": entry}})
    expected = Credentials(username="ann", password="secret")
    assert DockerConfig.load({}, authfile=secret).entry(HOST, "team/box") == expected
    named = DockerConfig.load({"REGISTRY_AUTH_FILE": str(secret)})
    assert named.entry(HOST, "team/box") == expected


def test_docker_config_authfile_argument_stands_before_its_variable(tmp_path: Path) -> None:
    env = _everything(tmp_path)
    del env["DOCKER_AUTH_CONFIG"]
    mine = write(tmp_path / "mine.json", {"auths": {HOST: auth("mine:p")}})
    assert user(DockerConfig.load(env, authfile=mine)) == "mine"


def test_docker_config_authfile_excludes_the_other_files(tmp_path: Path) -> None:
    env = _everything(tmp_path)
    del env["DOCKER_AUTH_CONFIG"]
    empty = write(tmp_path / "empty.json", {})
    assert DockerConfig.load(env, authfile=empty).entry(HOST) is None


def test_docker_config_variable_falls_back_to_the_file(tmp_path: Path) -> None:
    write(tmp_path / ".docker/config.json", {"auths": {HOST: auth("home:p")}})
    config = load({"auths": {"other.example": auth("u:p")}}, HOME=str(tmp_path))
    assert user(config) == "home"


def test_docker_config_entry_names_its_source_and_what_it_hides(tmp_path: Path) -> None:
    env = _everything(tmp_path)
    del env["REGISTRY_AUTH_FILE"]
    found = DockerConfig.load(env).entry(HOST)
    assert found is not None
    assert found.source == "DOCKER_AUTH_CONFIG"
    assert found.also_in == (
        str(tmp_path / "docker/config.json"),
        str(tmp_path / "run/containers/auth.json"),
        str(tmp_path / "conf/containers/auth.json"),
    )


def test_docker_config_hidden_sources_run_no_program_and_break_nothing(tmp_path: Path) -> None:
    install_program(tmp_path, "p", answer("u", "s"))
    twice = {f"https://{HOST}/v1/": auth("a:b"), f"https://{HOST}/v2/": auth("c:d")}
    write(tmp_path / "run/containers/auth.json", {"auths": twice})
    write(tmp_path / ".docker/config.json", {"credHelpers": {HOST: "p"}, "credsStore": "p"})
    config = load(
        {"auths": {HOST: auth("u:p")}},
        HOME=str(tmp_path),
        XDG_RUNTIME_DIR=str(tmp_path / "run"),
        PATH=str(tmp_path),
    )
    found = config.entry(HOST)
    assert found is not None
    assert len(found.also_in) == 2
    assert asked(tmp_path) == []


def test_docker_config_without_any_source_has_no_login(tmp_path: Path) -> None:
    assert DockerConfig.load({"HOME": str(tmp_path)}).entry(HOST) is None
    assert DockerConfig.load({}).entry(HOST) is None
    assert DockerConfig().entry(HOST) is None


def test_docker_config_of_this_process_reads_its_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in (
        "DOCKER_AUTH_CONFIG",
        "REGISTRY_AUTH_FILE",
        "DOCKER_CONFIG",
        "XDG_RUNTIME_DIR",
        "XDG_CONFIG_HOME",
    ):
        monkeypatch.delenv(name, raising=False)
    write(tmp_path / ".docker/config.json", {"auths": {HOST: auth("home:p")}})
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user(DockerConfig.load()) == "home"
    monkeypatch.setattr(os.path, "expanduser", lambda _: str(tmp_path))
    monkeypatch.delenv("HOME")
    assert user(DockerConfig.load()) == "home"
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert DockerConfig.load().entry(HOST) is None


# --- which entry


@pytest.mark.parametrize(
    ("key", "host"),
    [
        (HOST, HOST),
        (f"https://{HOST}", HOST),
        (f"http://{HOST}", HOST),
        (f"https://{HOST}/", HOST),
        (f"https://{HOST}/v2/", HOST),
        (f"https://{HOST}/v1/", HOST),
        (f"{HOST}/", HOST),
        (f"{HOST}/v2/", HOST),
        (f"{HOST}/v1", HOST),
        (f"{HOST}:5000", f"{HOST}:5000"),
        (f"https://{HOST}:5000", f"{HOST}:5000"),
        ("Registry.Example", HOST),
        (HOST, "Registry.Example"),
        ("[::1]:5000", "[::1]:5000"),
        *(
            (key, host)
            for key in (
                HUB_KEY,
                "docker.io",
                "index.docker.io",
                "https://registry-1.docker.io",
                "https://index.docker.io/v2/",
            )
            for host in ("docker.io", "index.docker.io", "registry-1.docker.io")
        ),
    ],
)
def test_docker_config_reads_every_form_of_a_key(key: str, host: str) -> None:
    config = load({"auths": {key: auth("ann:secret")}})
    assert config.entry(host) == Credentials(username="ann", password="secret")
    assert config.entry(host, "team/box") == Credentials(username="ann", password="secret")


@pytest.mark.parametrize("host", ["registry.example:5000", "example", "sub.registry.example"])
def test_docker_config_is_for_exactly_its_host(host: str) -> None:
    assert load({"auths": {HOST: auth("ann:secret")}}).entry(host) is None


def test_docker_config_takes_the_most_specific_namespace() -> None:
    auths = {
        HOST: auth("host:p"),
        f"{HOST}/team": auth("team:p"),
        f"{HOST}/team/box": auth("box:p"),
        f"{HOST}/empty": {},
    }
    config = load({"auths": auths})
    assert user(config, HOST, "team/box") == "box"
    assert user(config, HOST, "team/box/deep") == "box"
    assert user(config, HOST, "team/other") == "team"
    assert user(config, HOST, "teamwork/box") == "host"
    assert user(config, HOST, "empty/box") == "host"
    assert user(config, HOST) == "host"


def test_docker_config_namespaces_of_docker_hub() -> None:
    config = load({"auths": {"docker.io/ann": auth("ann:p"), HUB_KEY: auth("all:p")}})
    assert user(config, "docker.io", "ann/box") == "ann"
    assert user(config, "docker.io", "library/alpine") == "all"


def test_docker_config_plain_name_stands_before_addresses() -> None:
    auths = {f"https://{HOST}/v2/": auth("address:p"), HOST: auth("plain:p")}
    assert user(load({"auths": auths})) == "plain"


def test_docker_config_docker_hubs_own_key_stands_first() -> None:
    auths = {"docker.io": auth("podman:p"), HUB_KEY: auth("docker:p")}
    assert user(load({"auths": auths}), "docker.io") == "docker"


def test_docker_config_two_addresses_of_one_host_are_an_error() -> None:
    auths = {f"https://{HOST}/v1/": auth("a:b"), f"https://{HOST}/v2/": auth("c:d")}
    with pytest.raises(ConfigError, match=r"more than one entry for registry\.example"):
        load({"auths": auths}).entry(HOST)
    # docker leaves empty ones behind where a program keeps the secrets
    auths[f"https://{HOST}/v2/"] = {}
    assert user(load({"auths": auths})) == "a"


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({}, None),
        ({"auth": ""}, None),
        ({"auth": None, "email": "a@b"}, None),
        (auth("ann:secret"), Credentials(username="ann", password="secret")),
        (auth("ann:se:cr:et"), Credentials(username="ann", password="se:cr:et")),
        (auth("ann:"), Credentials(username="ann")),
        (auth("ann:sec\0\0"), Credentials(username="ann", password="sec")),
        (auth("ann:sécret"), Credentials(username="ann", password="sécret")),
        (
            {"username": "ann", "password": "secret"},
            Credentials(username="ann", password="secret"),
        ),
        (
            {"username": "other", "password": "x", **auth("ann:secret")},
            Credentials(username="ann", password="secret"),
        ),
        ({"identitytoken": "it"}, Credentials(identity_token="it")),
        (
            {"identitytoken": "it", **auth("ann:secret")},
            Credentials(username="ann", password="secret", identity_token="it"),
        ),
        (
            {"identitytoken": "it", "username": "0000"},
            Credentials(username="0000", identity_token="it"),
        ),
        ({"identitytoken": "it", "auth": "placeholder"}, Credentials(identity_token="it")),
        ({"registrytoken": "rt"}, Credentials(registry_token="rt")),
        (
            {"registrytoken": "rt", "identitytoken": "it"},
            Credentials(registry_token="rt", identity_token="it"),
        ),
    ],
)
def test_docker_config_reads_every_field(
    entry: dict[str, str], expected: Credentials | None
) -> None:
    assert load({"auths": {HOST: entry}}).entry(HOST) == expected


@pytest.mark.parametrize(
    ("text", "password"),
    [
        ("YW5uOnNlY3JldDE=\n", "secret1"),  # `base64` without -w0
        ("YW5uOnNl\r\nY3JldDE=\r\n", "secret1"),
        (" YW5uOnNl Y3JldDE=\t", "secret1"),
        ("YW5uOnNlY3JldDE", "secret1"),
        ("YW5uOnNlY3JldA", "secret"),
        ("YW5uOnNlY3JldA=", "secret"),
        (base64.b64encode(b"ann:\0sec\0\0").decode(), "sec"),
    ],
)
def test_docker_config_reads_auth_as_other_clients_do(text: str, password: str) -> None:
    login = load({"auths": {HOST: {"auth": text}}}).entry(HOST)
    assert login == Credentials(username="ann", password=password)


def test_docker_config_sends_a_password_that_is_no_utf8_as_it_is() -> None:
    pair = base64.b64encode(b"ann:s\xe9cret").decode()
    login = load({"auths": {HOST: {"auth": pair}}}).entry(HOST)
    assert login is not None
    assert login.basic_header() == "Basic " + pair


def test_credentials_user_name_beside_an_identity_token_is_no_basic_login() -> None:
    assert Credentials(username="0000", identity_token="it").basic_header() is None
    both = Credentials(username="ann", password="secret", identity_token="it")
    assert both.basic_header() == Credentials(username="ann", password="secret").basic_header()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ([], None),  # an empty entry, whatever it is
        (["x"], "a JSON object expected"),
        ("hush", "a JSON object expected"),
        ({"auth": ["hush"]}, "auth: text expected"),
        ({"username": 7}, "username: text expected"),
        ({"auth": "hush!"}, "auth is not base64"),
        ({"auth": "dTp=w"}, "auth is not base64"),
        ({"auth": base64.b64encode(b"\xff:p").decode()}, "auth is not base64 of UTF-8"),
        ({"auth": base64.b64encode(b"hush").decode()}, "auth has no colon"),
        ({"registrytoken": "hush\n"}, "registry token is not printable"),
    ],
)
def test_docker_config_broken_entry_is_an_error_when_it_is_used(
    entry: object, message: str | None
) -> None:
    config = load({"auths": {HOST: entry, "other.example": auth("u:p")}})
    assert user(config, "other.example") == "u"
    if message is None:
        assert config.entry(HOST) is None
        return
    with pytest.raises(ConfigError, match=message) as caught:
        config.entry(HOST)
    assert str(caught.value).startswith("DOCKER_AUTH_CONFIG: ")
    assert "hush" not in str(caught.value)
    assert caught.value.__cause__ is None


# --- files that are no configuration


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{hush", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "a JSON object expected"),
        ('{"auths": []}', None),
        ('{"auths": ["x"]}', "auths: a JSON object expected"),
        ('{"credHelpers": "x"}', "credHelpers: "),
        ('{"credHelpers": {"a": 1}}', "credHelpers: "),
        ('{"credsStore": {"a": 1}}', "credsStore: "),
        ("", None),
        (" \n", None),
        ("{}", None),
        ("\ufeff{}", None),
        ("\ufeff", None),
        ('{"auths": null, "credHelpers": null, "credsStore": null}', None),
    ],
)
def test_config_source_that_is_no_configuration_is_named(text: str, message: str | None) -> None:
    if message is None:
        assert ConfigSource.parse("some/config.json", text).auths in ({}, [])
        return
    with pytest.raises(ConfigError, match=f"^some/config.json: .*{message}") as caught:
        ConfigSource.parse("some/config.json", text)
    assert caught.value.__cause__ is None
    assert "hush" not in str(caught.value)


def test_docker_config_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / ".docker/config.json").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"config\.json: "):
        DockerConfig.load({"HOME": str(tmp_path)})


def test_docker_config_file_asked_for_must_be_there(tmp_path: Path) -> None:
    missing = tmp_path / "missing.json"
    for env, argument in (({"REGISTRY_AUTH_FILE": str(missing)}, None), ({}, missing)):
        with pytest.raises(ConfigError, match=r"missing\.json: "):
            DockerConfig.load(env, authfile=argument)


def test_docker_config_home_that_is_no_folder_has_no_file(tmp_path: Path) -> None:
    (tmp_path / ".docker").write_text("")
    assert DockerConfig.load({"HOME": str(tmp_path)}).sources == ()


def test_docker_config_file_is_bounded_and_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b" " * (MAX_CONFIG_BYTES + 1))
    with pytest.raises(ConfigError, match="larger than"):
        DockerConfig.load({}, authfile=path)
    path.write_bytes(b"\xff{}")
    with pytest.raises(ConfigError, match="not UTF-8"):
        DockerConfig.load({}, authfile=path)
    path.write_bytes(b"\xef\xbb\xbf{}")
    assert DockerConfig.load({}, authfile=path).entry(HOST) is None


def test_docker_config_shows_no_secret() -> None:
    config = load({"auths": {HOST: auth("ann:hush")}})
    assert auth("ann:hush")["auth"] not in repr(config)
    assert hash(config) == hash(load({"auths": {HOST: auth("ann:hush")}}))


# --- credential programs


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    install_program(folder, "good", answer("ann", "secret"))
    install_program(folder, "token", answer("<token>", "it"))
    install_program(folder, "none", NOT_FOUND)
    install_program(folder, "empty", answer("", ""))
    install_program(folder, "fail", FAILS)
    return folder


def test_docker_config_program_for_the_host_stands_first(programs: Path) -> None:
    config = load(
        {"credHelpers": {HOST: "good"}, "credsStore": "fail", "auths": {HOST: auth("inline:p")}},
        PATH=str(programs),
    )
    found = config.entry(HOST)
    assert found == Credentials(username="ann", password="secret")
    assert found is not None
    assert found.source == "DOCKER_AUTH_CONFIG (docker-credential-good)"
    assert asked(programs) == [("good", "get", HOST)]


def test_docker_config_store_stands_before_what_is_inline(programs: Path) -> None:
    config = load(
        {"credsStore": "good", "auths": {HOST: auth("inline:p")}, "credHelpers": {"other": "fail"}},
        PATH=str(programs),
    )
    assert user(config) == "ann"


@pytest.mark.parametrize(
    ("suffix", "expected"), [("none", None), ("empty", None), ("missing", "inline")]
)
def test_docker_config_store_without_a_login_decides(
    programs: Path, suffix: str, expected: str | None
) -> None:
    config = load({"credsStore": suffix, "auths": {HOST: auth("inline:p")}}, PATH=str(programs))
    assert user(config) == expected


def test_docker_config_program_without_a_login_leaves_the_next_source(
    programs: Path, tmp_path: Path
) -> None:
    write(tmp_path / ".docker/config.json", {"auths": {HOST: auth("home:p")}})
    config = load({"credHelpers": {HOST: "none"}}, PATH=str(programs), HOME=str(tmp_path))
    assert user(config) == "home"


@pytest.mark.parametrize("suffix", ["fail", "missing"])
def test_docker_config_program_that_fails_is_an_error(programs: Path, suffix: str) -> None:
    config = load(
        {"credHelpers": {HOST: suffix}, "auths": {HOST: auth("inline:p")}}, PATH=str(programs)
    )
    with pytest.raises(ConfigError, match=f"docker-credential-{suffix}"):
        config.entry(HOST)


def test_docker_config_program_may_answer_an_identity_token(programs: Path) -> None:
    config = load({"credHelpers": {HOST: "token"}}, PATH=str(programs))
    assert config.entry(HOST) == Credentials(identity_token="it")


@pytest.mark.parametrize("key", [HUB_KEY, "docker.io", "index.docker.io"])
def test_docker_config_program_for_docker_hub_is_asked_for_its_address(
    programs: Path, key: str
) -> None:
    config = load({"credHelpers": {key: "good"}}, PATH=str(programs))
    assert user(config, "docker.io", "library/alpine") == "ann"
    assert asked(programs) == [("good", "get", HUB_KEY)]


def test_docker_config_program_may_be_for_a_namespace(programs: Path) -> None:
    config = load({"credHelpers": {f"{HOST}/team": "good"}}, PATH=str(programs))
    assert user(config, HOST, "team/box") == "ann"
    assert user(config, HOST, "other/box") is None
    assert asked(programs) == [("good", "get", HOST)]


def test_docker_config_program_has_its_time_limit(programs: Path) -> None:
    install_program(programs, "slow", "exec /bin/sleep 5")
    config = DockerConfig.load(
        {
            "DOCKER_AUTH_CONFIG": json.dumps({"credHelpers": {HOST: "slow"}}),
            "PATH": str(programs),
        },
        helper_timeout_seconds=0.05,
    )
    with pytest.raises(ConfigError, match="no answer"):
        config.entry(HOST)

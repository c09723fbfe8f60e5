"""The sources of settings, their order, and refused values."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockercomms.cli.config import (
    MAX_DURATION_SECONDS,
    MAX_SIZE_BYTES,
    PROJECT_FILE,
    Settings,
    duration_seconds,
    load,
    project_file,
    size_bytes,
    user_file,
)
from dockercomms.errors import ConfigError, UsageError


class Place:
    """A home, a checkout in it, and an environment."""

    def __init__(self, root: Path) -> None:
        self.home = root / "home"
        self.checkout = self.home / "src" / "app"
        (self.checkout / ".git").mkdir(parents=True)
        self.environ = {"HOME": str(self.home), "LOGNAME": "alice"}

    def user(self, text: str) -> Path:
        path = self.home / ".config" / "dockercomms" / "config.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def project(self, text: str) -> Path:
        path = self.checkout / PROJECT_FILE
        path.write_text(text)
        return path

    def load(self, *, named: str | None = None, allowed: bool = False, **flags: object) -> Settings:
        return load(
            flags,
            environ=self.environ,
            folder=self.checkout,
            named=named,
            allowed=lambda path, data: allowed,
        )


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7d", 604_800),
        ("12h", 43_200),
        ("30m", 1800),
        ("45s", 45),
        ("2w", 1_209_600),
        ("1d12h", 129_600),
        ("1d 12h", 129_600),
        ("7d 12h 30m 45s", 604_800 + 43_200 + 1800 + 45),
        ("3600", 3600),
        (" 45 ", 45),
        ("P7D", 604_800),
        ("PT12H", 43_200),
        ("P1DT30M", 88_200),
        ("P2W", 1_209_600),
        ("PT45S", 45),
        ("36500d", 36_500 * 86_400),
    ],
)
def test_duration_reads(text: str, seconds: int) -> None:
    assert duration_seconds(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "0",
        "0s",
        "d",
        "P",
        "PT",
        "-1d",
        "1.5h",
        "7 days",
        "12h 1d",
        "7D",
        "٣d",
        "1e3",
        "40000d",
        "9" * 5000,
    ],
)
def test_duration_refuses(text: str) -> None:
    with pytest.raises(ValueError):
        duration_seconds(text)


@given(st.integers(1, MAX_DURATION_SECONDS))
def test_duration_in_seconds_is_itself(seconds: int) -> None:
    assert duration_seconds(str(seconds)) == duration_seconds(f"{seconds}s") == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1000000", 1_000_000),
        ("16MiB", 16 * 2**20),
        ("4M", 4 * 2**20),
        ("4m", 4 * 2**20),
        ("4MB", 4_000_000),
        ("1 KiB", 1024),
        ("1k", 1024),
        ("2G", 2**31),
        ("1TiB", 2**40),
        ("12B", 12),
    ],
)
def test_size_reads(text: str, size: int) -> None:
    assert size_bytes(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "0", "M", "-1", "1.5M", "16MiBs", "1E", "16 iB", str(MAX_SIZE_BYTES + 1), "9" * 5000],
)
def test_size_refuses(text: str) -> None:
    with pytest.raises(ValueError):
        size_bytes(text)


def test_load_defaults(place: Place) -> None:
    settings = place.load()
    assert settings == Settings(me="alice", origins={"me": "login name"})
    assert settings.repo is None
    assert settings.ttl_seconds == 604_800


def test_load_stronger_layers_win(place: Place) -> None:
    user = place.user('repo = "u.example/x"\nme = "u"\nformat = "json"\nconcurrency = 2\n')
    project = place.project('repo = "p.example/x"\nformat = "jsonl"\nconcurrency = 3\n')
    place.environ["DOCKERCOMMS_REPO"] = "e.example/x"
    place.environ["DOCKERCOMMS_CONCURRENCY"] = "5"
    settings = place.load(repo="f.example/x")
    assert (settings.repo, settings.concurrency, settings.format, settings.me) == (
        "f.example/x",
        5,
        "jsonl",
        "u",
    )
    assert settings.origins == {
        "repo": "flag",
        "concurrency": "DOCKERCOMMS_CONCURRENCY",
        "format": str(project),
        "me": str(user),
    }


def test_load_reads_every_key(place: Place) -> None:
    user = place.user(
        """
        repo = "r.example/x"
        me = "bob"
        format = "json"
        plain_http = true
        insecure = true
        ca_file = "ca.pem"
        authfile = "~/auth.json"
        timeout = "30s"
        concurrency = 8
        discovery = "tags"
        referrers_index = "never"
        manifest_form = "image"
        default_registry = "docker.io"
        trust = "people.toml"
        clock = "registry"
        sign = false
        key = "work"
        keyless = true
        identity_token_file = "token"
        trusted_root = "root.json"
        signing_config = "/etc/config.json"
        timestamp = "https://tsa.example"
        [send]
        ttl = "1d"
        compress = "gzip"
        chunk_size = "1MiB"
        keep_mtime = true
        [recv]
        out = "incoming"
        flat = true
        receipt = false
        [registry]
        chunk_size = "64MiB"
        hub_proxy = "https://cache.example"
        """
    )
    settings = place.load()
    expected = {
        "repo": "r.example/x",
        "me": "bob",
        "format": "json",
        "plain_http": True,
        "insecure": True,
        "ca_file": str(user.parent / "ca.pem"),
        "authfile": str(Path("~/auth.json").expanduser()),
        "timeout": 30,
        "concurrency": 8,
        "ttl_seconds": 86_400,
        "compress": "gzip",
        "chunk_bytes": 2**20,
        "keep_mtime": True,
        "out": "incoming",
        "flat": True,
        "receipt": False,
        "discovery": "tags",
        "referrers_index": "never",
        "manifest_form": "image",
        "default_registry": "docker.io",
        "registry_chunk_bytes": 64 * 2**20,
        "hub_proxy": "https://cache.example",
        "trust": str(user.parent / "people.toml"),
        "clock": "registry",
        "sign": False,
        "key": "work",
        "keyless": True,
        "identity_token": str(user.parent / "token"),
        "trusted_root": str(user.parent / "root.json"),
        "signing_config": "/etc/config.json",
        "timestamp": "https://tsa.example",
    }
    for name, value in expected.items():
        assert getattr(settings, name) == value, name
    unset = {field.name for field in fields(Settings)} - set(expected)
    assert unset == {
        "repo_is_named",
        "not_allowed",
        "username", "password", "token", "interactive", "retry_seconds", "origins",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("variable", "text", "field", "value"),
    [
        ("DOCKERCOMMS_ME", "carol", "me", "carol"),
        ("DOCKERCOMMS_FORMAT", "jsonl", "format", "jsonl"),
        ("DOCKERCOMMS_PLAIN_HTTP", "yes", "plain_http", True),
        ("DOCKERCOMMS_INSECURE", "0", "insecure", False),
        ("DOCKERCOMMS_SEND_TTL", "P1D", "ttl_seconds", 86_400),
        ("DOCKERCOMMS_SEND_CHUNK_SIZE", "4M", "chunk_bytes", 4 * 2**20),
        ("DOCKERCOMMS_RECV_OUT", "in", "out", "in"),
        ("DOCKERCOMMS_TIMEOUT", "90", "timeout", 90),
        ("DOCKERCOMMS_CA_FILE", "ca.pem", "ca_file", "ca.pem"),
    ],
)
def test_load_reads_variables(
    place: Place, variable: str, text: str, field: str, value: object
) -> None:
    place.environ[variable] = text
    settings = place.load()
    assert getattr(settings, field) == value
    assert settings.origins[field] == variable


def test_load_takes_an_empty_variable_for_unset(place: Place) -> None:
    place.environ["DOCKERCOMMS_REPO"] = ""
    assert place.load().repo is None


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        ("DOCKERCOMMS_FORMAT", "yaml", "one of text, json, jsonl expected"),
        ("DOCKERCOMMS_INSECURE", "maybe", "true or false expected"),
        ("DOCKERCOMMS_CONCURRENCY", "0", "a number from 1 to 64 expected"),
        ("DOCKERCOMMS_TIMEOUT", "soon", "a duration such as"),
        ("DOCKERCOMMS_ME", "  ", "a text that is not empty expected"),
    ],
)
def test_load_refuses_a_wrong_variable(
    place: Place, variable: str, text: str, expected: str
) -> None:
    place.environ[variable] = text
    with pytest.raises(ConfigError, match=f"^{variable}: {expected}"):
        place.load()


def test_load_takes_credentials_from_variables(place: Place) -> None:
    place.environ |= {"DOCKERCOMMS_USERNAME": "bot", "DOCKERCOMMS_PASSWORD": "s3cret"}
    settings = place.load()
    assert (settings.username, settings.password) == ("bot", "s3cret")
    assert "s3cret" not in repr(settings)


@pytest.mark.parametrize("variable", ["DOCKERCOMMS_USERNAME", "DOCKERCOMMS_PASSWORD"])
def test_load_refuses_half_of_the_credentials(place: Place, variable: str) -> None:
    place.environ[variable] = "x"
    with pytest.raises(UsageError, match="or neither"):
        place.load()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("recipient = 'x'", "line 3: recipient: unknown key"),
        ("[sned]\nttl = '7d'", "line 3: sned: unknown key"),
        ("[send]\n\nttll = '7d'", "line 5: send.ttll: unknown key"),
        ("send.ttll = '7d'", "line 3: send.ttll: unknown key"),
        ("send = {ttll = '7d'}", "line 3: send.ttll: unknown key"),
        ('"re po" = 1', "line 3: re po: unknown key"),
        (r'"\u0072epro" = 1', "line 1: repro: unknown key"),  # spelled so that it is not found
        ("repo = ''", "line 3: repo: a text that is not empty expected, got ''"),
        ("repo = 7", "line 3: repo: a text that is not empty expected, got 7"),
        ("insecure = 'maybe'", "line 3: insecure: true or false expected"),
        ("concurrency = true", "line 3: concurrency: a number from 1 to 64 expected"),
        ("timeout = true", "line 3: timeout: a duration such as"),
        ("timeout = 1.5", "line 3: timeout: a duration such as"),
        ("[send]\nchunk_size = false", "line 4: send.chunk_size: a size such as"),
        ("[send]\ncompress = 'brotli'", "line 4: send.compress: one of auto, zstd, gzip expected"),
        ("send = 7", "line 3: send: unknown key"),
    ],
)
def test_load_names_file_line_and_key(place: Place, line: str, expected: str) -> None:
    path = place.user(f"# mine\nme = 'bob'\n{line}\n")
    with pytest.raises(ConfigError) as caught:
        place.load()
    assert str(caught.value).startswith(f"{path}, {expected}")


@pytest.mark.parametrize("content", [b"repo = \n", b"\xff\xfe", b"a = 1\na = 2\n"])
def test_load_refuses_what_is_not_toml(place: Place, content: bytes) -> None:
    place.user("").write_bytes(content)
    with pytest.raises(ConfigError, match="not a TOML file"):
        place.load()


def test_load_refuses_an_unreadable_file(place: Place) -> None:
    path = place.user("")
    path.unlink()
    path.mkdir()
    with pytest.raises(ConfigError, match=r"config\.toml: Is a directory"):
        place.load()


@pytest.mark.parametrize(
    "line",
    [
        "trust = 'all.toml'",
        "[trust]\nfile = 'x'",
        "key = 'k'",
        "keys = ['k']",
        "hooks = {}",
        "helper = 'sh'",
        "[helpers]\nx = 'sh'",
        "insecure = true",
        "plain_http = true",
        "ca_file = 'ca.pem'",
        "authfile = 'a.json'",
        "timeout = 1",
        "[recv]\nout = '.git/hooks'",
        "[recv]\nflat = true",
        "me = 'bob'",
    ],
)
def test_load_refuses_what_a_project_must_not_set(place: Place, line: str) -> None:
    path = place.project(f"{line}\n")
    with pytest.raises(ConfigError, match="comes with a checkout") as caught:
        place.load()
    assert str(caught.value).startswith(f"{path}, line ")
    assert caught.value.hint is not None


def test_load_lets_a_project_set_defaults(place: Place) -> None:
    place.project("[send]\nttl = '1h'\n[recv]\nreceipt = false\n")
    settings = place.load()
    assert (settings.ttl_seconds, settings.receipt) == (3600, False)


EVIL = "repo = 'evil.example/x'\n"


def test_load_takes_no_repository_from_a_project_that_is_not_allowed(place: Place) -> None:
    path = place.project(EVIL)
    settings = place.load()
    assert settings.repo is None
    assert settings.not_allowed == (str(path), "evil.example/x")
    assert "repo" not in settings.origins


def test_load_keeps_the_users_own_repository(place: Place) -> None:
    path = place.project(EVIL)
    place.user("repo = 'mine.example/x'\n")
    settings = place.load()
    assert (settings.repo, settings.repo_is_named) == ("mine.example/x", True)
    assert settings.not_allowed == (str(path), "evil.example/x")


def test_load_takes_the_repository_of_a_project_that_is_allowed(place: Place) -> None:
    path = place.project("repo = 'r.example/x'\n")
    place.user("repo = 'mine.example/x'\n")
    settings = place.load(allowed=True)
    assert (settings.repo, settings.origins["repo"]) == ("r.example/x", str(path))
    assert (settings.repo_is_named, settings.not_allowed) == (False, None)


def test_load_asks_whether_just_that_content_is_allowed(place: Place) -> None:
    path = place.project(EVIL)
    asked = []

    def allowed(*said: object) -> bool:
        asked.append(said)
        return False

    load({}, environ=place.environ, folder=place.checkout, allowed=allowed)
    assert asked == [(path, EVIL.encode())]


@pytest.mark.parametrize("allowed", [True, False])
def test_load_says_nothing_of_a_project_where_the_user_named_the_repository(
    place: Place, allowed: bool
) -> None:
    place.project(EVIL)
    own = place.user("repo = 'mine.example/x'\n")
    named = place.load(named=str(own), allowed=allowed)
    flag = place.load(repo="mine.example/x", allowed=allowed)
    place.environ["DOCKERCOMMS_REPO"] = "mine.example/x"
    variable = place.load(allowed=allowed)
    for settings in (named, flag, variable):
        assert (settings.repo, settings.repo_is_named) == ("mine.example/x", True)
        assert settings.not_allowed is None


@pytest.mark.parametrize("how", ["flag", "variable", "relative", "link"])
def test_load_reads_a_project_file_that_is_named_as_the_users(
    place: Place, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = place.project("repo = 'ci.example/x'\nme = 'ci'\ninsecure = true\n")
    monkeypatch.chdir(place.checkout)
    named = PROJECT_FILE if how == "relative" else str(path)
    if how == "link":
        (place.home / "config.toml").symlink_to(path)
        named = str(place.home / "config.toml")
    if how == "variable":
        place.environ["DOCKERCOMMS_CONFIG"] = named
        settings = place.load()
    else:
        settings = place.load(named=named)
    assert (settings.repo, settings.me, settings.insecure) == ("ci.example/x", "ci", True)
    assert settings.repo_is_named


def test_load_names_a_file_that_the_flag_names_and_is_not_there(place: Place) -> None:
    with pytest.raises(ConfigError, match="no such file") as caught:
        place.load(named="/nowhere/ci.toml")
    assert caught.value.hint == "correct --config FILE"


@pytest.mark.parametrize("prefix", ["oci-layout:", "oci:", "ocidir://"])
def test_load_resolves_a_layout_folder_beside_its_file(place: Place, prefix: str) -> None:
    place.project(f"repo = '{prefix}box'\n")
    assert place.load(allowed=True).repo == f"{prefix}{place.checkout / 'box'}"


def test_load_leaves_a_registry_as_it_is(place: Place) -> None:
    place.project("repo = 'oci://r.example/x'\n")
    assert place.load(allowed=True).repo == "oci://r.example/x"


def test_load_leaves_a_layout_folder_of_a_variable_to_the_current_one(place: Place) -> None:
    place.environ["DOCKERCOMMS_REPO"] = "oci-layout:box"
    assert place.load().repo == "oci-layout:box"


def test_load_refuses_an_unknown_home(place: Place) -> None:
    place.user("authfile = '~nobody-of-this-name/x'\n")
    with pytest.raises(ConfigError, match="no home folder"):
        place.load()


def test_project_file_is_found_up_to_the_top_of_the_checkout(place: Place) -> None:
    deep = place.checkout / "a" / "b"
    deep.mkdir(parents=True)
    above = place.home / PROJECT_FILE
    above.write_text("")
    assert project_file(deep, place.environ) is None
    path = place.project("")
    assert project_file(deep, place.environ) == path
    nearer = deep / PROJECT_FILE
    nearer.write_text("")
    assert project_file(deep, place.environ) == nearer


def test_project_file_counts_only_here_without_a_checkout(tmp_path: Path) -> None:
    (tmp_path / PROJECT_FILE).write_text("")
    below = tmp_path / "below"
    below.mkdir()
    assert project_file(below, {"HOME": "/nowhere"}) is None
    assert project_file(tmp_path, {"HOME": "/nowhere"}) == tmp_path / PROJECT_FILE


def test_user_file_that_is_a_project_file_is_read_as_the_users(place: Place) -> None:
    path = place.project("insecure = true\n")
    place.environ["DOCKERCOMMS_CONFIG"] = str(path)
    assert place.load().insecure is True


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"HOME": "/h"}, "/h/.config/dockercomms/config.toml"),
        ({"HOME": "/h", "XDG_CONFIG_HOME": "/x"}, "/x/dockercomms/config.toml"),
        ({"HOME": "/h", "XDG_CONFIG_HOME": "relative"}, "/h/.config/dockercomms/config.toml"),
        ({"HOME": "/h", "DOCKERCOMMS_CONFIG": "/c.toml"}, "/c.toml"),
    ],
)
def test_user_file_follows_the_variables(environ: dict[str, str], expected: str) -> None:
    assert user_file(environ) == Path(expected)


def test_load_refuses_a_named_file_that_is_missing(place: Place) -> None:
    place.environ["DOCKERCOMMS_CONFIG"] = str(place.home / "none.toml")
    with pytest.raises(ConfigError, match="no such file"):
        place.load()


def test_load_takes_the_null_device_for_no_configuration(place: Place) -> None:
    place.user("repo = 'u.example/x'\n")
    place.environ["DOCKERCOMMS_CONFIG"] = "/dev/null"
    assert place.load().repo is None


def test_load_finds_the_login_name_without_variables(place: Place) -> None:
    pwd = pytest.importorskip("pwd")
    del place.environ["LOGNAME"]
    import os

    assert place.load().me == pwd.getpwuid(os.getuid()).pw_name


def test_load_copes_with_a_user_the_system_does_not_know(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.getuid", lambda: 2**32 - 3)
    del place.environ["LOGNAME"]
    assert place.load().me is None


def test_file_that_begins_with_a_byte_order_mark_is_read(place: Place) -> None:
    place.user("\ufeffme = 'alice'\n")
    assert place.load().me == "alice"

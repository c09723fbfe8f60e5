"""`config`, the limits of project files, and the hosts that get the user's password."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.cli.harness import Input, Result, invoke
from tests.fakes.mailbox import FakeMailbox, poll, sent

EVIL = "repo = 'evil.example/x'\n"
LOGIN = {"DOCKERCOMMS_USERNAME": "alice", "DOCKERCOMMS_PASSWORD": "secret"}


class Home:
    """A user with an empty home, in a checkout that somebody else wrote."""

    def __init__(self, root: Path) -> None:
        self.checkout = root / "src"
        (self.checkout / ".git").mkdir(parents=True)
        self.environ = {
            f"XDG_{kind}_HOME": str(root / kind.lower()) for kind in ("CONFIG", "DATA", "STATE")
        }
        self.settings = root / "config" / "dockercomms"

    def project(self, text: str = EVIL) -> Path:
        path = self.checkout / ".dockercomms.toml"
        path.write_text(text)
        return path

    def own(self, name: str, text: str) -> Path:
        self.settings.mkdir(parents=True, exist_ok=True)
        path = self.settings / name
        path.write_text(text)
        return path

    def run(self, *words: str, stdin: bytes = b"", **environ: str) -> tuple[Result, FakeMailbox]:
        mailbox = FakeMailbox(poll=poll(), sends=[sent(), sent()])
        result = invoke(
            words,
            environ={**self.environ, **environ},
            folder=self.checkout,
            factory=mailbox,
            stdin=Input(stdin),
        )
        return result, mailbox

    def opened(self, *words: str, **options: object) -> tuple[str | None, str | None, str]:
        """Return the repository that is opened, the password for it, and what is said."""
        result, mailbox = self.run(*words, **options)  # type: ignore[arg-type]
        assert result.exit_code == 0, result.stderr
        (repo, *_), asked = mailbox.asked("open")
        return repo, asked["settings"].password, result.stderr


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.chdir(tmp_path)
    return Home(tmp_path)


# --- the repository of a project file ------------------------------------------------------------


def test_a_checkout_that_is_not_allowed_stops_what_has_no_other_repository(home: Home) -> None:
    path = home.project()
    result, mailbox = home.run("inbox", **LOGIN)
    assert result.exit_code == 1
    assert not mailbox.calls
    assert f"{path}: sets the repository evil.example/x, but you have not" in result.stderr
    assert "dockercomms config allow" in result.stderr


def test_a_checkout_that_is_not_allowed_does_not_replace_the_users_own(home: Home) -> None:
    path = home.project()
    home.own("config.toml", "repo = 'mine.example/x'\n")
    repo, password, said = home.opened("inbox", **LOGIN)
    assert (repo, password) == ("mine.example/x", "secret")
    assert f"warning: {path} sets another repository, evil.example/x: ignored" in said


@pytest.mark.parametrize("how", ["flag", "variable", "config", "config variable"])
def test_a_checkout_says_nothing_where_the_user_does(home: Home, how: str) -> None:
    home.project()
    mine = home.own("ci.toml", "repo = 'mine.example/x'\n")
    words, environ = ["inbox"], dict(LOGIN)
    if how == "flag":
        words += ["--repo", "mine.example/x"]
    elif how == "variable":
        environ["DOCKERCOMMS_REPO"] = "mine.example/x"
    elif how == "config":
        words += ["--config", str(mine)]
    else:
        environ["DOCKERCOMMS_CONFIG"] = str(mine)
    repo, password, said = home.opened(*words, **environ)
    assert (repo, password) == ("mine.example/x", "secret")
    assert "evil" not in said


def test_a_checkout_in_ci_is_named_as_meant(home: Home) -> None:
    home.project("repo = 'ci.example/x'\nme = 'ci'\n")
    repo, password, said = home.opened("inbox", "--config", ".dockercomms.toml", **LOGIN)
    assert (repo, password) == ("ci.example/x", "secret")
    assert "ci.example" not in said


def test_a_checkout_never_says_who_the_user_is(home: Home) -> None:
    path = home.project("me = 'bob'\n")
    result, _ = home.run("inbox")
    assert result.exit_code == 1
    assert f"{path}, line 1: me: a project file may not set this" in result.stderr


def test_verbs_without_a_repository_do_not_care(home: Home) -> None:
    home.project()
    result, _ = home.run("keys", "list")
    assert (result.exit_code, result.stderr) == (0, "")


# --- allow and deny ------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [(), (".dockercomms.toml",)])
def test_allow_lets_a_project_file_name_the_repository(home: Home, words: tuple[str, ...]) -> None:
    path = home.project("repo = 'r.example/x'\n")
    result, _ = home.run("config", "allow", *words)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"allowed {path}: repository r.example/x\n"
    for _ in range(2):
        repo, _, said = home.opened("inbox")
        assert repo == "r.example/x"
        assert f"repository r.example/x, from {path}\n" in said


def test_allow_holds_for_the_very_content(home: Home) -> None:
    path = home.project("repo = 'r.example/x'\n")
    home.run("config", "allow")
    home.project(EVIL)
    assert home.run("inbox")[0].exit_code == 1
    path.write_text("repo = 'r.example/x'\n")
    assert home.opened("inbox")[0] == "r.example/x"


def test_allow_holds_for_the_very_place(home: Home) -> None:
    path = home.project("repo = 'oci-layout:box'\n")
    home.run("config", "allow")
    path.rename(home.checkout.parent / ".dockercomms.toml")
    home.checkout = home.checkout.parent
    assert home.run("inbox")[0].exit_code == 1


def test_deny_takes_it_back(home: Home) -> None:
    path = home.project()
    home.run("config", "allow")
    result, _ = home.run("config", "deny")
    assert (result.exit_code, result.stderr) == (0, f"no longer allowed: {path}\n")
    assert home.run("inbox")[0].exit_code == 1
    result, _ = home.run("config", "deny")
    assert result.exit_code == 5
    assert "this file is not allowed" in result.stderr


def test_allow_says_what_cannot_be_allowed(home: Home) -> None:
    result, _ = home.run("config", "allow")
    assert result.exit_code == 5
    assert "no .dockercomms.toml in this folder" in result.stderr
    home.project("format = 'json'\n")
    result, _ = home.run("config", "allow")
    assert result.exit_code == 64
    assert "sets no repository" in result.stderr
    home.project("insecure = true\nrepo = 'r.example/x'\n")
    assert home.run("config", "allow")[0].exit_code == 1
    assert home.run("config", "allow", "missing.toml")[0].exit_code == 1


def test_allow_is_remembered_for_the_user_alone(home: Home) -> None:
    home.project()
    home.run("config", "allow")
    folder = Path(home.environ["XDG_STATE_HOME"]) / "dockercomms" / "allowed"
    (record,) = folder.iterdir()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder.parent, folder, record)] == [
        0o700, 0o700, 0o600,
    ]  # fmt: skip


# --- who gets the password -----------------------------------------------------------------------


def test_the_password_does_not_go_where_a_project_file_says(home: Home) -> None:
    home.project()
    home.run("config", "allow")
    repo, password, said = home.opened("inbox", **LOGIN)
    assert (repo, password) == ("evil.example/x", None)
    assert "warning: evil.example/x: user name and password not used" in said


def test_the_password_of_a_flag_neither(home: Home) -> None:
    home.project()
    home.run("config", "allow")
    words = ("inbox", "--username", "alice", "--password-stdin")
    assert home.opened(*words, stdin=b"secret")[:2] == ("evil.example/x", None)


TRUST = "version = 1\n[[sender]]\nname = 'bob'\naddress = '{}'\nallow_unsigned = true\n"


@pytest.mark.parametrize(
    ("own", "address", "password"),
    [
        ("mine.example/x", "other.example/bob", None),
        ("mine.example/x", "mine.example:5000/bob", None),
        ("mine.example/x", "mine.example.evil/bob", None),
        ("mine.example/x", "mine.example/bob", "secret"),
        (None, "other.example/bob", None),
    ],
)
def test_the_password_goes_to_an_address_only_at_a_host_that_the_user_named(
    home: Home, own: str | None, address: str, password: str | None
) -> None:
    if own is not None:
        home.own("config.toml", f"repo = '{own}'\n")
    home.own("trust.toml", TRUST.format(address))
    (home.checkout / "a.txt").write_text("hello")
    got = home.opened("send", str(home.checkout / "a.txt"), "--to", "bob", **LOGIN)
    assert got[:2] == (address, password)


def test_the_password_goes_to_what_an_argument_names(home: Home) -> None:
    _, mailbox = home.run("verify", "r.example/x:v1", **LOGIN)
    (repo, *_), asked = mailbox.asked("open")
    assert (repo, asked["settings"].password) == ("r.example/x", "secret")


def test_a_folder_needs_no_password_and_nothing_is_said(home: Home) -> None:
    home.own("trust.toml", TRUST.format("oci-layout:/box"))
    (home.checkout / "a.txt").write_text("hello")
    _, _, said = home.opened("send", str(home.checkout / "a.txt"), "--to", "bob", **LOGIN)
    assert "password" not in said


# --- folders of the user's own -------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0, 0o022])
def test_mailbox_keys_and_state_are_for_the_user_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mask: int
) -> None:
    home = {f"XDG_{kind}_HOME": str(tmp_path / kind.lower()) for kind in ("DATA", "STATE")}
    for name, value in home.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "a.txt").write_text("hello")
    before = os.umask(mask)
    try:
        result = invoke(["send", str(tmp_path / "a.txt"), "--to", "bob"], environ=home)
    finally:
        os.umask(before)
    assert result.exit_code == 0, result.stderr
    own = tmp_path / "data" / "dockercomms"
    for folder in (own, own / "mailbox", own / "keys", tmp_path / "state" / "dockercomms"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700, folder


def test_a_mailbox_folder_that_is_named_is_as_others_are(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    words = ["send", str(tmp_path / "a.txt"), "--to", "bob", "--no-sign"]
    environ = {f"XDG_{kind}_HOME": str(tmp_path / kind) for kind in ("DATA", "STATE")}
    before = os.umask(0o027)
    try:
        result = invoke([*words, "--repo", f"oci-layout:{tmp_path / 'box'}"], environ=environ)
    finally:
        os.umask(before)
    assert result.exit_code == 0, result.stderr
    assert stat.S_IMODE((tmp_path / "box").stat().st_mode) == 0o750

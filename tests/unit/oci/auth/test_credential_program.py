from __future__ import annotations

from pathlib import Path

import pytest

from dockercomms.errors import ConfigError
from dockercomms.oci.auth.credentials import MAX_ANSWER_BYTES, ProgramAnswer, ask_program
from tests.fakes.credential_programs import FAILS, NOT_FOUND, answer, asked, install_program


def _ask(folder: Path, suffix: str = "p", **options: object) -> ProgramAnswer | None:
    options = {"timeout_seconds": 20.0, "named_by": "config.json", **options}
    return ask_program(suffix, "registry.example", env={"PATH": str(folder)}, **options)


def test_ask_program_returns_the_login(tmp_path: Path) -> None:
    install_program(tmp_path, "p", answer("ann", "secret"))
    assert _ask(tmp_path) == ProgramAnswer("ann", "secret")
    assert asked(tmp_path) == [("p", "get", "registry.example")]


def test_ask_program_hands_the_environment_on(tmp_path: Path) -> None:
    install_program(tmp_path, "p", """printf '{"Username":"%s","Secret":"s"}' "$LOGIN" """)
    env = {"PATH": str(tmp_path), "LOGIN": "from-env"}
    found = ask_program("p", "r", env=env, named_by="x")
    assert found is not None
    assert found.username == "from-env"


def test_ask_program_answer_hides_its_secret(tmp_path: Path) -> None:
    install_program(tmp_path, "p", answer("ann", "hush"))
    assert "hush" not in repr(_ask(tmp_path))


@pytest.mark.parametrize("where", ["", " >&2"])
def test_ask_program_without_a_login_is_none(tmp_path: Path, where: str) -> None:
    install_program(tmp_path, "p", NOT_FOUND.replace("'; exit", f"'{where}; exit"))
    assert _ask(tmp_path) is None


def test_ask_program_that_is_missing_is_an_error_only_where_it_is_needed(tmp_path: Path) -> None:
    assert _ask(tmp_path, required=False) is None
    with pytest.raises(ConfigError, match="docker-credential-p is not installed") as caught:
        _ask(tmp_path)
    assert "config.json" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (FAILS, "docker-credential-p .* failed for registry.example with code 1: 'boom'"),
        ("echo broken >&2; exit 3", "with code 3: 'broken'"),
        ("echo not json hush", "docker-credential-p .*: its answer is not JSON"),
        ("echo '[]'", "not a JSON object"),
        ("""echo '{"Username":1,"Secret":"hush"}'""", "must be text"),
    ],
)
def test_ask_program_that_fails_is_named(tmp_path: Path, body: str, message: str) -> None:
    install_program(tmp_path, "p", body)
    with pytest.raises(ConfigError, match=message) as caught:
        _ask(tmp_path)
    assert "hush" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_ask_program_bounds_the_answer(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * (MAX_ANSWER_BYTES + 1))
    install_program(tmp_path, "p", f"exec /bin/cat {tmp_path / 'big'}")
    with pytest.raises(ConfigError, match="larger than 1048576 bytes"):
        _ask(tmp_path)


@pytest.mark.parametrize(
    "body",
    ["exec /bin/sleep 5", "/bin/sleep 5 & wait"],
    ids=["itself", "a child that keeps the pipes"],
)
def test_ask_program_that_hangs_is_killed(tmp_path: Path, body: str) -> None:
    install_program(tmp_path, "p", body)
    with pytest.raises(ConfigError, match=r"gave no answer for registry.example in 0.05 s"):
        _ask(tmp_path, timeout_seconds=0.05)


def test_ask_program_that_reads_nothing_still_answers(tmp_path: Path) -> None:
    path = tmp_path / "docker-credential-p"
    path.write_text("#!/bin/sh\n" + answer("ann", "secret"))
    path.chmod(0o755)
    assert _ask(tmp_path) == ProgramAnswer("ann", "secret")


def test_ask_program_that_cannot_be_run_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "docker-credential-p"
    path.write_text("#!/no/such/shell\n")
    path.chmod(0o755)
    with pytest.raises(ConfigError, match="cannot be run"):
        _ask(tmp_path)


@pytest.mark.parametrize("suffix", ["", "../evil", "a b", "-x", "a/b"])
def test_ask_program_takes_plain_names_only(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(ConfigError, match="not the name of a credential program"):
        _ask(tmp_path, suffix)

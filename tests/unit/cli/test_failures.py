"""From an exception to three lines and an exit code."""

from __future__ import annotations

import inspect

import click
import pytest

from dockercomms import errors
from dockercomms.cli.failures import (
    exit_code_of,
    explain,
    explain_internal,
    explain_usage,
    is_hang_up,
)

CLASSES = [
    cls
    for _, cls in inspect.getmembers(errors, inspect.isclass)
    if issubclass(cls, errors.DockerCommsError)
]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_explain_has_something_to_say_of_every_class(cls: type[errors.DockerCommsError]) -> None:
    what, why, hints = explain(cls("the reason"))
    assert why == "the reason"
    assert what
    assert all(hints)
    assert what[0].islower()
    assert not what.endswith(".")


def test_explain_prefers_the_hint_of_the_error() -> None:
    assert explain(errors.LocalIOError("x", hint="one\ntwo"))[2] == ("one", "two")


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (
            errors.Unauthorized("log in", status=401, method="GET", url="https://r.example/v2/"),
            "GET https://r.example/v2/: 401 UNAUTHORIZED: log in",
        ),
        (
            errors.RegistryError("oops", method="PUT", url="https://r.example/v2/x"),
            "PUT https://r.example/v2/x: no answer: oops",
        ),
        (errors.ManifestUnknown("no message 1a2b"), "no message 1a2b"),
    ],
)
def test_explain_names_request_and_answer_of_a_registry_error(
    error: errors.RegistryError, why: str
) -> None:
    assert explain(error)[1] == why


def test_explain_internal_asks_for_a_report() -> None:
    what, why, hints = explain_internal(ZeroDivisionError("division by zero"))
    assert "bug in dockercomms" in what
    assert why == "ZeroDivisionError: division by zero"
    assert "--verbose" in hints[0]


def test_explain_usage_points_to_the_help_of_the_verb() -> None:
    ctx = click.Context(
        click.Command("send"),
        info_name="send",
        parent=click.Context(click.Group("dockercomms"), info_name="dockercomms"),
    )
    assert explain_usage(click.UsageError("No such thing.", ctx)) == (
        "no such thing",
        ("see 'dockercomms send --help'",),
    )
    assert explain_usage(click.ClickException("Bad."))[1] == ("see 'dockercomms --help'",)


@pytest.mark.parametrize(
    ("failures", "code"),
    [
        ([errors.ManifestUnknown("a")], 5),
        ([errors.ManifestUnknown("a"), errors.BlobUnknown("b")], 5),
        ([errors.Truncated("a"), errors.DigestMismatch("b"), errors.ProtocolError("c")], 4),
        ([errors.ManifestUnknown("a"), errors.Truncated("b")], 7),
    ],
)
def test_exit_code_of_several_failures(failures: list[errors.DockerCommsError], code: int) -> None:
    assert exit_code_of(failures) == code


def raised(error: errors.DockerCommsError, cause: Exception) -> errors.DockerCommsError:
    error.__cause__ = cause
    return error


def test_is_hang_up_is_a_local_broken_pipe_only() -> None:
    assert is_hang_up(raised(errors.LocalIOError("stdout"), BrokenPipeError()))
    assert not is_hang_up(raised(errors.NetworkError("r.example"), BrokenPipeError()))
    assert not is_hang_up(raised(errors.LocalIOError("disk"), OSError()))
    assert not is_hang_up(None)

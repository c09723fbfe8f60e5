"""Each argument of each method of a mailbox refuses what it cannot take, by name."""

from __future__ import annotations

import inspect
import io
import os
import typing
from datetime import date, datetime
from pathlib import Path

import pytest

from dockercomms import Mailbox, UsageError
from dockercomms.inbox.poll import Discovery
from dockercomms.messages.publish import FormChoice, ReferrersIndex
from dockercomms.messages.watch import Ack
from dockercomms.oci.stores import ConnectionSettings
from dockercomms.platforms import arguments
from dockercomms.platforms.clock import ClockChoice
from dockercomms.protocol.tags import ReceiptStatus
from dockercomms.transport.files import Links
from dockercomms.transport.push import Compress
from dockercomms.trust.keyless import KeylessOptions
from dockercomms.trust.owner import SigningOptions, TrustOptions
from tests.fakes.mail import ALICE, BOB, open_mail

METHODS = {
    name: getattr(method, "__wrapped__", method)
    for name, method in inspect.getmembers(Mailbox, inspect.isfunction)
    if name == "__init__" or not name.startswith("_")
}
ARGUMENTS = [
    (method, name, str(one.annotation))
    for method, function in METHODS.items()
    for name, one in inspect.signature(function).parameters.items()
    if name != "self" and one.kind is not one.VAR_KEYWORD
]


@pytest.fixture
def mail(tmp_path):
    yield from open_mail(tmp_path)


class Odd:
    """Fits no argument."""


def test_argument_of_a_wrong_type_is_named(mail):
    with mail.mailbox(ALICE) as alice:
        for method, name, annotation in ARGUMENTS:
            call = Mailbox if method == "__init__" else getattr(alice, method)
            for value in (Odd(), b"bytes", None)[: 2 + ("None" not in annotation)]:
                kind = "None" if value is None else type(value).__name__
                with pytest.raises(TypeError, match=rf"^{name}: .* expected, .*{kind}"):
                    call(**{name: value})


@pytest.mark.parametrize(
    "options", [ConnectionSettings, KeylessOptions, SigningOptions, TrustOptions]
)
def test_field_of_options_of_a_wrong_type_is_named(options):
    for name in options.__annotations__:
        with pytest.raises(TypeError, match=rf"^{name}: .* expected, .*Odd"):
            options(**{name: Odd()})
    options(**{name: getattr(options(), name) for name in options.__annotations__})


def test_secret_of_a_wrong_type_is_not_shown():
    with pytest.raises(TypeError) as caught:
        ConnectionSettings(username="ann", password=b"hunter2")
    assert str(caught.value) == "password: a string or None expected, a value (bytes) received"
    assert TrustOptions(file="trust.toml").file == Path("trust.toml")


class BytesPath:
    def __fspath__(self):
        return b"report"


@pytest.mark.parametrize(
    ("method", "given", "message"),
    [
        ("send", {"to": ["a", 3]}, r"to: a string expected, \['a', 3\] \(list\) received"),
        ("send", {"paths": ["a", 3]}, r"paths: a path expected, 3 \(int\) received"),
        ("send", {"paths": 3}, "paths: a path or a list of such expected"),
        ("send", {"paths": BytesPath()}, "paths: a path"),
        ("send", {"paths": ""}, "paths: a path or a list of such expected, ''"),
        ("send", {"paths": ["a", b"b"]}, "paths: a path expected, b'b'"),
        ("send", {"stdin": io.StringIO("text")}, "stdin: a stream of bytes or None expected"),
        ("send", {"ttl_seconds": "60"}, "ttl_seconds: a whole number expected, '60'"),
        ("send", {"ttl_seconds": 1.5}, "ttl_seconds: a whole number"),
        ("send", {"concurrency": True}, r"concurrency: a whole number expected, True \(bool\)"),
        ("send", {"again": "no"}, "again: True or False expected, 'no'"),
        ("send", {"exclude": ["*.o", None]}, "exclude: a string expected, None"),
        ("receive", {"ids": [7]}, "ids: a string expected, 7"),
        ("receive", {"out": ""}, "out: a path expected, ''"),
        ("receive", {"since": datetime(2026, 1, 1)}, "since: a time with its zone or None"),
        ("inbox", {"since": date(2026, 1, 1)}, "since: a time with its zone or None"),
        ("watch", {"interval_seconds": float("nan")}, "interval_seconds: a number expected, nan"),
        ("watch", {"interval_seconds": float("inf")}, "interval_seconds: a number expected, inf"),
        ("wait", {"sent": ["1a2b"]}, "sent: Sent expected, '1a2b'"),
        ("__init__", {"me": ["a", 3]}, "me: a string expected, 3"),
        ("__init__", {"repo": Path("box")}, "repo: a string or None expected, "),
        ("__init__", {"on_notice": "print"}, "on_notice: a function or None expected, 'print'"),
    ],
)
def test_argument_says_what_was_expected_and_what_came(mail, method, given, message):
    with mail.mailbox(ALICE) as alice, pytest.raises(TypeError, match=f"^{message}"):
        (Mailbox if method == "__init__" else getattr(alice, method))(**given)


def test_positional_arguments_are_checked_and_unknown_ones_are_pythons(mail):
    with mail.mailbox(ALICE) as alice:
        with pytest.raises(TypeError, match=r"^paths: a path"):
            alice.send(5, to=BOB)
        with pytest.raises(TypeError, match=r"^status: a string expected, None"):
            alice.acknowledge("1a2b", None)
        with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
            alice.send(to=BOB, colour="red")
        with pytest.raises(TypeError, match=r"^ttl_seconds: a whole number"):
            alice.reply(alice.send(to=ALICE, text="x").id, ttl_seconds=None)
    with pytest.raises(TypeError, match=r"takes .* positional"):
        Mailbox("oci-layout:x", "alice")


def test_one_of_several_may_stand_alone_and_several_may_be_any_iterable(mail):
    folder = mail.file().parent / "folder"
    folder.mkdir()
    for name in ("keep.csv", "leave.o"):
        (folder / name).write_text(name)
    with mail.mailbox(ALICE) as alice:
        sent = [
            alice.send(str(folder), to=BOB, exclude="*.o"),
            alice.send((path for path in folder.glob("*.csv")), to=BOB),
            alice.send(os.fspath(folder / "keep.csv"), to=BOB),
        ]
    with mail.mailbox(BOB) as bob:
        got = [
            *bob.receive(sent[0].id, out=str(mail.out)),
            *bob.receive({sent[1].id, sent[2].id}, out=mail.out),
        ]
        assert [one.status for one in got] == ["received"] * 3
        assert not any(path.name == "leave.o" for one in got for path in one.files)


@pytest.mark.parametrize(
    "alias",
    [ClockChoice, Compress, Discovery, FormChoice, Links, ReceiptStatus, ReferrersIndex, Ack],
)
def test_choices_are_those_of_the_types(alias):
    assert typing.get_args(alias) in arguments._CHOICES.values()


def test_choice_that_is_none_is_refused(mail):
    with (
        mail.mailbox(ALICE) as alice,
        pytest.raises(UsageError, match=r"^links: one of keep, skip"),
    ):
        alice.send(to=BOB, links="folow")


@pytest.mark.parametrize(
    ("method", "given"),
    [
        *(("receive", {"concurrency": value}) for value in (0, -1, 65)),
        ("watch", {"concurrency": 0}),
        ("relay", {"concurrency": 0}),
        ("watch", {"interval_seconds": -5}),
        ("wait", {"sent": [], "seconds": -1}),
        ("__init__", {"me": ""}),
        ("__init__", {"me": ["a", ""]}),
    ],
)
def test_number_or_name_that_means_nothing_is_refused(mail, method, given):
    with mail.mailbox(ALICE) as alice, pytest.raises(UsageError, match=r"given; [01] to|empty"):
        (Mailbox if method == "__init__" else getattr(alice, method))(**given)


def test_every_annotation_is_known_to_the_table():
    """Whatever is no kind of the table has to be a class, or it would refuse all that is given."""
    known = {*arguments._KINDS, *arguments._CHOICES}
    classes = {
        *("Command", "ConnectionSettings", "InternalError", "SendRun", "Sent", "SigningOptions"),
        *("Store", "TrustOptions"),
    }
    for _, _, annotation in ARGUMENTS:
        for word in arguments._UNION.split(annotation):
            inner = word.removeprefix("Sequence[").rstrip("]") if "Sequence" in word else word
            for one in inner.split(" | "):
                assert one in known | classes, annotation

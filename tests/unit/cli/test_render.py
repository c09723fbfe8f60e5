"""Output to the terminal, and the characters that must not reach it."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockercomms.cli.render import (
    Screen,
    count_of,
    human_bytes,
    human_time,
    shell_words,
    to_json,
    visible,
    write_line,
)
from tests.cli.harness import Stream

ESC = "\x1b"


def screen_on(*, tty: bool = False, **options: object) -> tuple[Screen, Stream, Stream]:
    out, err = Stream(tty=tty), Stream(tty=tty)
    environ = options.pop("environ", {})
    return Screen(out, err, environ=environ, **options), out, err  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("report.pdf", "report.pdf"),
        ("Grüße 報告 🎁", "Grüße 報告 🎁"),
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("a\nb\rc\td", r"a\nb\rc\td"),
        ("a\x00\x07\x7f", r"a\x00\x07\x7f"),
        ("a\x9b31mb\x85", r"a\x9b31mb\x85"),
        ("gpj\u202etxt.exe", r"gpj\u202etxt.exe"),
        ("\u2066x\u2069\u200f", r"\u2066x\u2069\u200f"),
        ("a\u200bb\ufeff", r"a\u200bb\ufeff"),
        ("a\u2028b\u2029c", r"a\u2028b\u2029c"),
        ("\udc80.bin", r"\udc80.bin"),
        ("\U000e0041", r"\U000e0041"),
        ("", ""),
    ],
)
def test_visible_spells_out_what_is_not_printable(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.text(st.characters()))
def test_visible_is_printable_and_keeps_what_was(text: str) -> None:
    shown = visible(text)
    assert shown.isprintable()
    assert visible(shown) == shown
    assert not any(0x80 <= ord(char) < 0xA0 or ord(char) < 0x20 for char in shown)
    kept = [char for char in text if char.isprintable()]
    rest = iter(shown)
    assert all(char in rest for char in kept)


@given(st.text(st.characters()))
def test_visible_never_hides_a_difference_in_printable_text(text: str) -> None:
    printable = "".join(char for char in text if char.isprintable())
    assert visible(printable) == printable


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (2**20 - 1, "1.0 MiB"),
        (2**30, "1.0 GiB"),
        (2**40, "1.0 TiB"),
        (5000 * 2**40, "5000.0 TiB"),
    ],
)
def test_human_bytes(count: int, shown: str) -> None:
    assert human_bytes(count) == shown


def test_human_time() -> None:
    assert human_time(datetime(2026, 11, 20, 20, 44, 59, tzinfo=UTC)) == "2026-11-20 20:44Z"
    assert human_time(None) == "-"


def test_count_of() -> None:
    assert (count_of(0, "chunk"), count_of(1, "chunk"), count_of(2, "chunk")) == (
        "0 chunks",
        "1 chunk",
        "2 chunks",
    )


@pytest.mark.parametrize(
    "word",
    [
        "plain",
        "two words",
        "it's",
        "$HOME `x`",
        "-dash",
        "",
        "Grüße",
        "a\nb",
        "\x1b[2J\x9b'",
        "\udc80",
    ],
)
def test_shell_words_come_back_from_a_shell(word: str) -> None:
    line = shell_words(["printf", "%s", word])
    assert line.isprintable()
    done = subprocess.run(["bash", "-c", line], capture_output=True, check=True)
    assert done.stdout == word.encode("utf-8", "surrogateescape")


def test_to_json_is_ascii() -> None:
    record = {"from": "Grüße\x9b\u202e", "bytes": 1}
    line = to_json(record)
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line) == record


def test_write_line_spells_out_what_the_encoding_lacks() -> None:
    stream = Stream(encoding="ascii")
    write_line(stream, "Grüße 🎁")
    assert stream.value() == b"Gr\\xfc\\xdfe \\U0001f381\n"


def test_screen_row_is_one_line_of_tab_separated_values() -> None:
    screen, out, _ = screen_on()
    screen.row(["a\tb", "c\nd", f"{ESC}[0m"])
    assert out.value() == rb"a\tb" + b"\t" + rb"c\nd" + b"\t" + rb"\x1b[0m" + b"\n"


@pytest.mark.parametrize(
    ("tty", "environ", "colours"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),
        (True, {"TERM": "dumb"}, False),
        (False, {"FORCE_COLOR": "1"}, True),
        (False, {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
    ],
)
def test_screen_colours(tty: bool, environ: dict[str, str], colours: bool) -> None:
    screen, _, err = screen_on(tty=tty, environ=environ)
    screen.failure("what", "why", ["next"])
    assert (ESC in err.value().decode()) is colours
    assert screen.colours(err) is colours


def test_screen_failure_is_three_lines() -> None:
    screen, out, err = screen_on(quiet=True)
    screen.failure("it\nbroke", f"because {ESC}[2J", ["do this", "or that"])
    assert (
        err.value().decode()
        == "error: it\\nbroke\nwhy: because \\x1b[2J\nhint: do this\nhint: or that\n"
    )
    assert out.value() == b""


def test_screen_quiet_leaves_out_notes_only() -> None:
    screen, out, err = screen_on(quiet=True)
    screen.note("a note")
    screen.warn("a warning")
    screen.data("data")
    assert err.value() == b"warning: a warning\n"
    assert out.value() == b"data\n"


def test_screen_diverts_talk_while_a_line_is_redrawn() -> None:
    screen, _, err = screen_on(tty=True)
    said: list[str] = []
    screen.divert(said.append)
    screen.note("one\x1b")
    screen.warn("two")
    screen.divert(None)
    screen.note("three")
    assert said == ["one\\x1b", "warning: two"]
    assert err.value() == b"three\n"


@pytest.mark.parametrize(
    ("environ", "moves"), [({}, True), ({"TERM": "dumb"}, False), ({"NO_COLOR": "1"}, True)]
)
def test_screen_moves_only_on_a_terminal_that_can(environ: dict[str, str], moves: bool) -> None:
    assert screen_on(tty=True, environ=environ)[0].moves() is moves
    assert screen_on(tty=False, environ=environ)[0].moves() is False


def test_listing_as_json_lines_is_written_as_it_comes() -> None:
    screen, out, _ = screen_on(style="jsonl")
    with screen.listing(("A",)) as listing:
        listing.add({"a": 1}, ("1",))
        assert out.value() == b'{"a": 1}\n'
        listing.add({"a": 2}, ("2",))
    assert out.value() == b'{"a": 1}\n{"a": 2}\n'


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_listing_as_json_is_one_array(rows: int) -> None:
    screen, out, _ = screen_on(style="json", tty=True)
    with screen.listing(("A",)) as listing:
        for row in range(rows):
            listing.add({"a": row}, (str(row),), (str(row),))
    assert json.loads(out.value()) == [{"a": row} for row in range(rows)]


def test_listing_as_json_is_closed_by_an_error() -> None:
    screen, out, _ = screen_on(style="json")

    def interrupted() -> None:
        with screen.listing(("A",)) as listing:
            listing.add({"a": 1}, ("1",))
            raise ValueError

    with pytest.raises(ValueError):
        interrupted()
    assert json.loads(out.value()) == [{"a": 1}]


def test_listing_writes_nothing_more_to_a_reader_that_left() -> None:
    screen, out, _ = screen_on(style="json")
    with pytest.raises(BrokenPipeError), screen.listing(("A",)):
        raise BrokenPipeError
    assert out.value() == b""


def test_listing_piped_is_tab_separated_without_head_or_colour() -> None:
    screen, out, _ = screen_on(environ={"FORCE_COLOR": "1"})
    with screen.listing(("ID", "FROM")) as listing:
        listing.add({}, ("1", "bob"), ("one", "Bob"))
    assert out.value() == b"1\tbob\n"


def test_listing_on_a_terminal_is_a_table_that_cuts_nothing() -> None:
    screen, out, _ = screen_on(tty=True, environ={"NO_COLOR": "1"})
    name = "build-bot@ci." + "x" * 150
    with screen.listing(("ID", "FROM")) as listing:
        listing.add({}, ("1", name), ("1a2b3c4d", f"[red]{name}{ESC}[2J:smile:"))
        assert out.value() == b""
    text = out.value().decode()
    assert text.splitlines()[0].split() == ["ID", "FROM"]
    folded = "".join(line[10:].strip() for line in text.splitlines()[1:])
    assert folded == f"[red]{name}\\x1b[2J:smile:"
    assert ESC not in text


def test_listing_leaves_out_rows_that_have_no_place_in_the_table() -> None:
    screen, out, _ = screen_on(tty=True)
    with screen.listing(("A",)) as listing:
        listing.add({}, ("1",))
    assert out.value() == b""


def test_details_in_all_three_forms() -> None:
    record, rows = {"id": "1"}, [("id", "1"), ("note", "a\tb")]
    for tty, style, expected in (
        (False, "json", '{"id": "1"}\n'),
        (False, "text", "id\t1\nnote\ta\\tb\n"),
        (True, "text", "id         1\nnote       a\\tb\n"),
    ):
        screen, out, _ = screen_on(tty=tty, style=style)
        screen.details(record, rows)
        assert out.value().decode() == expected

r"""Terminal output; only this module writes to the terminal.

Data goes to standard output, notes and errors to standard error. Text of other people passes
through `visible` first. `dockercomms --version` imports this module, so it must load fast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from datetime import datetime

    from rich.console import Console
    from rich.table import Table

SHORT_ID_CHARACTERS = 8
"""The length of the id in the folder name of a message."""

_NAMED_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_LATIN_1 = 0x100
_BASIC_PLANE = 0x10000


def visible(text: str) -> str:
    r"""Return `text` with everything that is not a printable character spelled out, as `\x1b`.

    That includes terminal escapes (C0, C1, ESC), line breaks, tabs, characters that change the
    writing direction or have no width, and halves of surrogate pairs. The result is safe on any
    terminal, on one line, and in a cell of tab-separated values.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    code = ord(char)
    if char in _NAMED_ESCAPES:
        return _NAMED_ESCAPES[char]
    if code < _LATIN_1:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < _BASIC_PLANE else f"\\U{code:08x}"


def human_bytes(count: int) -> str:
    """Return `count` bytes for people: 12 B, 1.5 MiB."""
    if count < 1024:  # noqa: PLR2004 - the unit itself
        return f"{count} B"
    size = float(count)
    for unit in ("KiB", "MiB", "GiB"):
        size /= 1024
        if round(size, 1) < 1024:  # noqa: PLR2004 - the unit itself
            return f"{size:.1f} {unit}"
    return f"{size / 1024:.1f} TiB"


def human_time(moment: datetime | None) -> str:
    """Return `moment` to the minute, in UTC: 2026-11-20 20:44Z; "-" without one."""
    return "-" if moment is None else moment.strftime("%Y-%m-%d %H:%MZ")


def shown_sender(claimed: str, verified: str | None) -> str:
    """Return the verified name of a sender, or the claimed name marked as a claim."""
    if verified is not None:
        return verified
    return f"{claimed} (claimed)" if claimed else ""


def count_of(number: int, noun: str) -> str:
    """Return `1 message`, `2 messages`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def shell_words(words: Iterable[str]) -> str:
    r"""Return a line that a POSIX shell splits into `words`.

    Words with control characters are written as `$'...'`, which bash and zsh read.
    """
    from shlex import quote

    def spelled(word: str) -> str:
        if word.isprintable():
            return quote(word)
        octets = word.encode("utf-8", "surrogateescape")
        plain = (chr(octet) if bytes([octet]).isalnum() else f"\\x{octet:02x}" for octet in octets)
        return "$'" + "".join(plain) + "'"

    return " ".join(map(spelled, words))


def to_json(record: Mapping[str, object]) -> str:
    """Return one line of JSON in ASCII, which is safe on any terminal and in any locale."""
    import json

    return json.dumps(record, ensure_ascii=True, allow_nan=False)


def write_line(stream: TextIO, line: str) -> None:
    """Write one line; spell out characters outside the stream's encoding."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")


class Screen:
    """The two streams of one command, and the format of data on them.

    Args:
        stdout: The stream for data.
        stderr: The stream for notes, warnings and errors.
        environ: For NO_COLOR, FORCE_COLOR and TERM.
        style: `text`, `json` (one document) or `jsonl` (an object a line).
        quiet: Leave out notes and progress; keep warnings, errors and data.
    """

    def __init__(
        self,
        stdout: TextIO,
        stderr: TextIO,
        *,
        environ: Mapping[str, str],
        style: str = "text",
        quiet: bool = False,
    ) -> None:
        self.stdout = stdout
        self.stderr = stderr
        self.style = style
        self.quiet = quiet
        self._environ = environ
        self._diverted: Callable[[str], object] | None = None

    @property
    def is_json(self) -> bool:
        """Return whether data is written as JSON or JSON lines."""
        return self.style != "text"

    @property
    def is_table(self) -> bool:
        """Return whether data is laid out for people: text, to a terminal."""
        return not self.is_json and self.stdout.isatty()

    def colours(self, stream: TextIO) -> bool:
        """Return whether to use colours on `stream`: https://no-color.org, then FORCE_COLOR."""
        if self._environ.get("NO_COLOR") or self._environ.get("TERM") == "dumb":
            return False
        return bool(self._environ.get("FORCE_COLOR")) or stream.isatty()

    def moves(self) -> bool:
        """Return whether standard error is a terminal that can redraw a line."""
        return self.stderr.isatty() and self._environ.get("TERM") != "dumb"

    def data(self, line: str) -> None:
        """Write one line of data, and flush it."""
        write_line(self.stdout, line)
        self.stdout.flush()

    def row(self, cells: Iterable[str]) -> None:
        """Write one line of tab-separated values."""
        self.data("\t".join(visible(cell) for cell in cells))

    def divert(self, to: Callable[[str], object] | None) -> None:
        """Write notes through `to`, which redraws the terminal's last line; `None` ends that."""
        self._diverted = to

    def note(self, line: str) -> None:
        """Write a note, except with `-q`."""
        if self.quiet:
            return
        if self._diverted is not None:
            self._diverted(visible(line))
        else:
            write_line(self.stderr, visible(line))
            self.stderr.flush()

    def warn(self, line: str) -> None:
        """Write a warning."""
        self._label("warning", "yellow", line)

    def failure(self, what: str, why: str, hints: Sequence[str]) -> None:
        """Write an error: the failure, the reason and the next steps, a line each."""
        self._label("error", "red", what)
        self._label("why", "bold", why)
        for hint in hints:
            self._label("hint", "bold", hint)
        self.stderr.flush()

    def _label(self, label: str, colour: str, line: str) -> None:
        if self._diverted is not None:
            self._diverted(f"{label}: {visible(line)}")
            return
        codes = {"red": "1;31", "yellow": "1;33", "bold": "1"}
        shown = (
            f"\x1b[{codes[colour]}m{label}:\x1b[0m" if self.colours(self.stderr) else f"{label}:"
        )
        write_line(self.stderr, f"{shown} {visible(line)}")

    def console(self, stream: TextIO) -> Console:
        """Return a rich console on `stream` without markup and automatic highlighting."""
        from rich.console import Console

        columns = self._environ.get("COLUMNS", "")
        return Console(
            file=stream,
            width=int(columns) if columns.isdecimal() and int(columns) else None,
            force_terminal=True,
            color_system="standard" if self.colours(stream) else None,
            markup=False,
            emoji=False,
            highlight=False,
        )

    def listing(self, columns: Sequence[str]) -> Listing:
        """Return a listing; `columns` are the headings of the table for people."""
        return Listing(self, columns)

    def details(self, record: Mapping[str, object], rows: Iterable[tuple[str, str]]) -> None:
        """Write one object: as JSON, as `name TAB value` lines, or aligned for a person."""
        if self.is_json:
            self.data(to_json(record))
            return
        for name, value in rows:
            if self.is_table:
                self.data(f"{name:<10} {visible(value)}".rstrip())
            else:
                self.row((name, value))


class Listing(AbstractContextManager["Listing"]):
    """Rows of one kind: a JSON array, JSON lines, tab-separated values, or a table at the end.

    All but the table are written row by row. An error that ends the listing also closes the array,
    so that the output can be parsed.
    """

    def __init__(self, screen: Screen, columns: Sequence[str]) -> None:
        self._screen = screen
        self._columns = columns
        self._rows: list[Sequence[str]] = []
        self._written = 0

    def add(
        self, record: Mapping[str, object], cells: Sequence[str], shown: Sequence[str] | None = None
    ) -> None:
        """Add a row.

        Args:
            record: The row as JSON.
            cells: The row as tab-separated values.
            shown: The row in the table, a cell for each column. Default: not in the table.
        """
        screen = self._screen
        if screen.style == "jsonl":
            screen.data(to_json(record))
        elif screen.style == "json":
            screen.data(("[" if self._written == 0 else ",") + to_json(record))
        elif not screen.is_table:
            screen.row(cells)
        elif shown is not None:
            self._rows.append(shown)
        self._written += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the array, or draw the table."""
        if isinstance(error, BrokenPipeError):
            return
        if self._screen.style == "json":
            self._screen.data("]" if self._written else "[]")
        elif self._rows:
            self._screen.console(self._screen.stdout).print(self._table())

    def _table(self) -> Table:
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in self._columns:
            # Folding keeps every character: two long names may differ only at their end.
            table.add_column(column, overflow="fold", no_wrap=column in {"ID", "SIZE"})
        for row in self._rows:
            table.add_row(*(visible(cell) for cell in row))
        return table

"""The common parts of the verbs: value types, common options, help and log output.

Every `--help` imports this module, so it must load fast.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import click

if TYPE_CHECKING:
    from dockercomms.cli.session import Session

_MOST_NOTES = 1000
"""The number of different notes that are remembered: a watch runs for months."""


@contextlib.contextmanager
def shown_log(session: Session) -> Iterator[None]:
    """Show the log of `dockercomms.*` during the block: warnings and notes, all with `--verbose`.

    Each note is shown once: a watch meets the same file system at every poll. Of the warnings of
    one kind the first is shown, and their count at the end: every message of a repository may have
    an unreadable list.
    """
    import logging

    from dockercomms.cli.render import visible, write_line

    told: set[str] = set()
    warned: dict[str, int] = {}

    class ToTerminal(logging.Handler):
        """A log handler that writes records with terminal escapes spelled out."""

        def emit(self, record: logging.LogRecord) -> None:
            """Write one line, and the traceback of a defect."""
            text = record.getMessage()
            if record.levelno >= logging.INFO and text not in told and len(told) < _MOST_NOTES:
                told.add(text)
                if record.levelno < logging.WARNING:
                    session.screen.note(text)
                    return
                warned[record.msg] = warned.get(record.msg, 0) + 1
                if warned[record.msg] == 1:
                    session.screen.warn(text)
                    return
            if not session.verbose:
                return
            write_line(session.stderr, visible(f"{record.name}: {text}"))
            if record.exc_info:
                lines = logging.Formatter().formatException(record.exc_info).splitlines()
                for line in lines:
                    write_line(session.stderr, visible(line))

    logger, handler = logging.getLogger("dockercomms"), ToTerminal()
    former = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if session.verbose else logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(former)
        more = sum(warned.values()) - len(warned)
        if more:
            session.screen.warn(f"{more} more warnings of these kinds; show them with --verbose")


if TYPE_CHECKING:
    from datetime import datetime

    from dockercomms.cli.session import Session

    _IntType = click.ParamType[int]
    _TimeType = click.ParamType[datetime]
    _TextType = click.ParamType[str]
else:  # before click 8.3 the class takes no arguments
    _IntType = _TimeType = _TextType = click.ParamType

FORMATS = ("text", "json", "jsonl")
"""A copy of `config.FORMATS`, because importing that slows the help; a test compares the two."""
COMPRESS = ("auto", "zstd", "gzip")
CLOCKS = ("both", "own", "registry")
LINKS = ("keep", "skip", "follow")
DISCOVERY = ("auto", "referrers", "tags")
REFERRERS_INDEX = ("auto", "never", "always")
FORM_CHOICES = ("auto", "artifact", "image")
MAX_CONCURRENCY = 64
HELP_COLUMNS = 100


class _Quantity(_IntType):
    """A value that `dockercomms.cli.config` parses."""

    def __init__(self, name: str, reader: str) -> None:
        self.name = name
        self._reader = reader

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from dockercomms.cli import config

        read: Callable[[str], int] = getattr(config, self._reader)
        try:
            return read(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _Since(_TimeType):
    """A time: an age, an RFC 3339 time, or a date (its first moment, in UTC)."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        from datetime import timedelta

        from dockercomms.cli.config import duration_seconds
        from dockercomms.errors import ProtocolError
        from dockercomms.protocol.fields import parse_time

        text = str(value)
        if ctx is None:
            raise AssertionError("internal: a time is read within a command")
        session: Session = ctx.obj
        ago = text.strip().removesuffix("ago")
        try:
            return session.clock.now() - timedelta(seconds=duration_seconds(ago))
        except ValueError:
            pass
        try:
            return parse_time(f"{text}T00:00:00Z" if len(text) == len("2026-11-20") else text)
        except ProtocolError:
            self.fail(
                "a time ago (2d, 12h), a date (2026-11-20) or an RFC 3339 time with its zone "
                f"(2026-11-20T20:44:40Z) expected, got {text!r:.60}",
                param,
                ctx,
            )


class _Name(_TextType):
    """A text that is not blank: a message to the recipient "" would be lost without an error."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not str(value).strip():
            self.fail(f"a text that is not empty expected, got {value!r}", param, ctx)
        return str(value)


class _Recipient(_Name):
    """A recipient; refuses a value that looks like several names, a file or a pattern.

    A message to such a name would never arrive.
    """

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        name = super().convert(value, param, ctx)
        if "," in name:
            self.fail(f"{name!r}: several names; give --to for each", param, ctx)
        if name != name.strip():
            self.fail(f"{name!r}: space around the name; write {name.strip()!r}", param, ctx)
        if name.startswith("@"):
            self.fail(f"{name!r}: files of names are not read; give --to for each", param, ctx)
        if any(mark in name for mark in "*?["):
            self.fail(f"{name!r}: patterns are not names; give --to for each", param, ctx)
        return name


DURATION = _Quantity("duration", "duration_seconds")
SIZE = _Quantity("size", "size_bytes")
SINCE = _Since()
NAME = _Name()
RECIPIENT = _Recipient()


class Option(click.Option):
    """An option; the names in `former` also work but the help leaves them out."""

    def __init__(
        self, declarations: Sequence[str], *, former: Sequence[str] = (), **attributes: Any
    ) -> None:
        super().__init__([*declarations, *former], **attributes)
        self.former = frozenset(part.strip() for name in former for part in name.split("/"))

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return names and help for the list of options, without the former names."""
        shown = copy(self)
        shown.opts = [name for name in self.opts if name not in self.former]
        shown.secondary_opts = [name for name in self.secondary_opts if name not in self.former]
        return click.Option.get_help_record(shown, ctx)


_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])


def option(*declarations: str, **attributes: Any) -> Callable[[_Decorated], _Decorated]:
    """Return the decorator that adds an `Option`."""
    return click.option(*declarations, cls=Option, **attributes)


def discovery_option() -> Callable[[_Decorated], _Decorated]:
    """Return the option of verbs that find messages."""
    return option("--discovery", type=click.Choice(DISCOVERY), metavar="HOW",
                  help="Search by: tags, referrers (may miss some), auto.")  # fmt: skip


def clock_option() -> Callable[[_Decorated], _Decorated]:
    """Return the option of verbs that check the time of messages."""
    return option("--clock", type=click.Choice(CLOCKS), metavar="WHOSE",
                  help="Clock that decides: both, own or registry.")  # fmt: skip


def index_option() -> Callable[[_Decorated], _Decorated]:
    """Return the option of verbs that write referrers of a message."""
    return option("--referrers-index", type=click.Choice(REFERRERS_INDEX), metavar="HOW",
                  help="Fallback index: auto, never or always.")  # fmt: skip


def form_option() -> Callable[[_Decorated], _Decorated]:
    """Return the option of verbs that may write manifests in either form."""
    return option("--manifest-form", type=click.Choice(FORM_CHOICES), metavar="HOW",
                  help="Manifest form: artifact, image or auto.")  # fmt: skip


def packing_options(command: _Decorated) -> _Decorated:
    """Add the options of verbs that send a folder."""
    for decorate in (
        option("--keep-mtime", is_flag=True, default=None, help="Keep file modification times."),
        option("--links", type=click.Choice(LINKS), default="keep", metavar="HOW",
               help="Symbolic links: keep, skip, or follow."),
        option("--exclude", multiple=True, metavar="PATTERN",
               help="Exclude from a folder: '*.o', 'build', '/a/b'."),
    ):  # fmt: skip
        command = decorate(command)
    return command


def common_options() -> list[click.Parameter]:
    """Return the options that may stand before or after any verb.

    They have no defaults here: a default would override the same option on the other side of the
    verb, or in a file.
    """
    return [
        Option(["--repo", "-R", "repo"], type=NAME, metavar="R",
               help="host/path, oci-layout:DIR or oci-archive:FILE."),
        Option(["--me"], type=NAME, metavar="NAME", help="Your name.  [default: login name]"),
        Option(["--config"], type=click.Path(readable=False), metavar="FILE",
               help="Use this file as your own configuration."),
        Option(["--format"], type=click.Choice(FORMATS), help="Output format.  [default: text]"),
        Option(["--json", "as_json"], is_flag=True, default=None, help="Same as --format json."),
        Option(["--quiet", "-q", "quiet"], is_flag=True, default=None,
               help="Print only results and errors."),
        Option(["--verbose", "-v", "verbose"], is_flag=True, default=None,
               help="Print details and the traceback of errors."),
        Option(["--plain-http"], is_flag=True, default=None,
               help="Use HTTP without TLS.  [default: loopback only]"),
        Option(["--insecure"], is_flag=True, default=None,
               help="Do not verify the registry's certificate."),
        Option(["--ca-file"], type=click.Path(readable=False), metavar="FILE",
               help="Trust the CAs in this PEM file."),
        Option(["--authfile"], type=click.Path(readable=False), metavar="FILE",
               help="Read registry credentials from this file."),
        Option(["--username"], type=NAME, metavar="NAME",
               help="User name at the registry."),
        Option(["--password-stdin"], is_flag=True, default=None,
               help="Read the password from standard input."),
        Option(["--timeout"], type=DURATION, metavar="T",
               help="Timeout of a registry's answer.  [default: 60s]"),
    ]  # fmt: skip


COMMON = frozenset(str(parameter.name) for parameter in common_options())
"""The parameter names of the common options."""

_COMMON_HELP = (
    "--repo R, --me NAME, --config FILE, --format text|json|jsonl, --json, -q, -v,",
    "--plain-http, --insecure, --ca-file FILE, --authfile FILE, --username NAME,",
    "--password-stdin, --timeout T; 'dockercomms --help' explains them.",
)


class Verb(click.Command):
    """A command that takes the common options and calls its function with the session.

    The function gets the session first, and its own parameters by keyword. A parameter named like a
    field of `Settings` is a flag that overrides that setting; read it from `session.settings`.

    Args:
        example: Command lines for the help, without indentation.
    """

    of_all_verbs: ClassVar[frozenset[str]] = COMMON
    """The parameters that every verb of the program has."""
    shared: ClassVar[frozenset[str]] = COMMON
    """The parameters that the help mentions in `shared_help` only."""
    shared_help: ClassVar[tuple[str, ...]] = _COMMON_HELP

    def __init__(self, *, example: str, **attributes: Any) -> None:
        attributes["params"] = [*attributes.get("params", []), *self.shared_options()]
        super().__init__(**attributes)
        self.example = example

    @classmethod
    def shared_options(cls) -> list[click.Parameter]:
        """Return the options that every verb of this class takes."""
        return common_options()

    def invoke(self, ctx: click.Context) -> int:
        """Call the function; return the exit code.

        Raises:
            Any exception of the function.
        """
        session: Session = ctx.obj
        own = session.begin(ctx)
        if self.callback is None:
            raise AssertionError("internal: a verb without a function")
        with shown_log(session):
            return int(ctx.invoke(self.callback, session, **own) or 0)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verb's own options in full and the common ones in short."""
        own = [
            parameter.get_help_record(ctx)
            for parameter in self.get_params(ctx)
            if parameter.name not in self.shared and isinstance(parameter, click.Option)
        ]
        with formatter.section("Options"):
            formatter.write_dl([record for record in own if record is not None], col_max=34)
        _write_shared(formatter, self.shared_help)

    def format_epilog(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example."""
        write_example(formatter, self.example)


def _write_shared(formatter: click.HelpFormatter, lines: Sequence[str]) -> None:
    with formatter.section("Common options, before or after the verb"):
        for line in lines:
            formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


def write_example(formatter: click.HelpFormatter, example: str) -> None:
    """Write each command line on a line of its own, without wrapping."""
    with formatter.section("Example"):
        for line in example.splitlines():
            formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


def verb(
    name: str, *, example: str, no_args_is_help: bool = False, kind: type[Verb] = Verb
) -> Callable[[Callable[..., int | None]], Verb]:
    """Return the decorator that makes a function the verb `name`."""
    return click.command(
        name,
        cls=kind,
        example=example,
        no_args_is_help=no_args_is_help,
        context_settings=HELP_SETTINGS,
    )


class VerbTable(click.Group):
    """A group with a table of verbs; it imports the module of a verb only to run the verb.

    Args:
        verbs: Verb to module (below `dockercomms.cli`) and one-line help. The module holds
            `<verb>_command`.
        example: Command lines for the help, without indentation.
        nested: True for a group below the program; its help has the common options in short.
    """

    def __init__(
        self,
        *,
        verbs: Mapping[str, tuple[str, str]],
        example: str,
        nested: bool = False,
        **attributes: Any,
    ) -> None:
        super().__init__(params=common_options(), context_settings=HELP_SETTINGS, **attributes)
        self.verbs = verbs
        self.example = example
        self.nested = nested

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """Return the verbs."""
        return list(self.verbs)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of a verb, if there is such a verb."""
        if cmd_name not in self.verbs:
            return None
        module = import_module(f"dockercomms.cli.{self.verbs[cmd_name][0]}")
        command: click.Command = getattr(module, f"{cmd_name.replace('-', '_')}_command")
        return command

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the common options, and the table of verbs."""
        if not self.nested:
            super().format_options(ctx, formatter)
            return
        _write_shared(formatter, _COMMON_HELP)
        self.format_commands(ctx, formatter)

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of verbs without an import of their modules."""
        with formatter.section("Verbs"):
            formatter.write_dl([(name, text) for name, (_, text) in self.verbs.items()])

    def format_epilog(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example."""
        write_example(formatter, self.example)


HELP_SETTINGS: dict[str, Any] = {
    "help_option_names": ["-h", "--help"],
    "max_content_width": HELP_COLUMNS,
}

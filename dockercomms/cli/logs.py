"""Show the library's log on standard error: warnings and notes once, all with `--verbose`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dockercomms.cli.session import Session


_MOST_NOTES = 1000
"""So many notes are told apart: a watch runs for months."""


@contextlib.contextmanager
def shown_log(session: Session) -> Iterator[None]:
    """Show the log of `dockercomms.*` while the body runs.

    A note is shown once, however often it is logged: a watch meets the same file system at each
    look. Of warnings of one kind the first is shown, and at the end how many there were more: each
    message of a repository may have a list that cannot be read whole.
    """
    import logging

    from dockercomms.cli.render import visible, write_line

    told: set[str] = set()
    warned: dict[str, int] = {}

    class ToTerminal(logging.Handler):
        """Writes what a log record says, made safe for a terminal."""

        def emit(self, record: logging.LogRecord) -> None:
            """Write one line, and the traceback of a defect of ours."""
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
            session.screen.warn(f"{more} more warnings like this; --verbose shows them")

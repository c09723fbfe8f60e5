"""What the library logs, shown on standard error with `--verbose`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dockercomms.cli.session import Session


@contextlib.contextmanager
def debug_log(session: Session) -> Iterator[None]:
    """Show the log of `dockercomms.*` while the body runs, if the session is verbose."""
    if not session.verbose:
        yield
        return
    import logging

    from dockercomms.cli.render import visible, write_line

    class ToTerminal(logging.Handler):
        """Writes what a log record says, made safe for a terminal."""

        def emit(self, record: logging.LogRecord) -> None:
            """Write one line, and the traceback of a defect of ours."""
            write_line(session.stderr, visible(f"{record.name}: {record.getMessage()}"))
            if record.exc_info:
                lines = logging.Formatter().formatException(record.exc_info).splitlines()
                for line in lines:
                    write_line(session.stderr, visible(line))

    logger, handler = logging.getLogger("dockercomms"), ToTerminal()
    former = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(former)

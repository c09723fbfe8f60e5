"""The entry point of `dockercomms` and `python -m dockercomms`.

This module imports only the version and the function that writes a line: scripts and prompts call
`dockercomms --version`, which costs little more than the start of Python.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from dockercomms import __version__
from dockercomms.cli.render import write_line

if TYPE_CHECKING:
    from dockercomms.cli.session import MailboxFactory

INTERRUPTED = 130
"""Equals `failures.INTERRUPTED`, for a Ctrl-C before that can be imported."""


def main(
    arguments: Sequence[str] | None = None, *, mailbox_factory: MailboxFactory | None = None
) -> NoReturn:
    """Run one command line and end the process.

    Args:
        arguments: The command line without the program's name. Default: the process' own.
        mailbox_factory: Opens mailboxes. Default: `Mailbox`.

    Raises:
        SystemExit: always, with the exit code.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words == ["--version"] and _write_version():
        sys.exit(0)
    try:
        from dockercomms.cli.program import run
        from dockercomms.cli.session import process_session
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except RuntimeError as error:
        if isinstance(error.__cause__, KeyboardInterrupt):  # during the creation of a class
            sys.exit(INTERRUPTED)
        raise
    code = run(words, process_session(mailbox_factory))
    if code == INTERRUPTED:
        _leave_at_once(code)
    sys.exit(code)


def process() -> NoReturn:
    """Run the command line of this process and end the process with `os._exit`.

    The normal exit of Python takes 50 to 80 ms after a verb has loaded its modules, a quarter of a
    small `send`. The verb has closed its files by then, so the process ends at once, except under a
    tracer or with running threads.

    Raises:
        SystemExit: the process must end the normal way.
    """
    try:
        main()
    except SystemExit as done:
        if isinstance(done.code, int):
            _leave(done.code)
        raise


def _leave(code: int) -> None:
    """End the process at once; return if it must end the normal way."""
    import atexit
    import os
    import signal

    threading = sys.modules.get("threading")
    if sys.gettrace() or sys.getprofile() or (threading and threading.active_count() > 1):
        return
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except (OSError, ValueError):
        return  # Python reports it
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the result is printed: too late to interrupt
    atexit._run_exitfuncs()  # noqa: SLF001 - as Python's exit does
    os._exit(code)


def _leave_at_once(code: int) -> None:
    """End the process if threads are left that may hang in a request: Python would wait for them.

    Files on disk are consistent at any time, as they must be for a killed process.
    """
    import contextlib
    import os
    import threading

    if threading.active_count() == 1:
        return
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.flush()
    os._exit(code)


def _write_version() -> bool:
    """Write the version; return False on failure, which the caller reports the normal way."""
    try:
        write_line(sys.stdout, f"dockercomms {__version__}")
        sys.stdout.flush()
    except (OSError, AttributeError):  # AttributeError: no standard output
        return False
    return True

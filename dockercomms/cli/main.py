"""The way in: `dockercomms` and `python -m dockercomms`.

Importing this module imports nothing but the version and what writes a line, so that
`dockercomms --version`, which scripts and prompts call, costs little more than Python itself.
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
"""As `failures.INTERRUPTED`, for a Ctrl-C that comes before that can be imported."""


def main(
    arguments: Sequence[str] | None = None, *, mailbox_factory: MailboxFactory | None = None
) -> NoReturn:
    """Run one command line and end the process.

    Args:
        arguments: The command line without the program's name; None: the process' own.
        mailbox_factory: Opens mailboxes; None: `Mailbox`.

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
        if isinstance(error.__cause__, KeyboardInterrupt):  # while a class was made
            sys.exit(INTERRUPTED)
        raise
    code = run(words, process_session(mailbox_factory))
    if code == INTERRUPTED:
        _leave_at_once(code)
    sys.exit(code)


def process() -> NoReturn:
    """Run the command line of this process and end it; what `dockercomms` is.

    Taking the interpreter apart, module by module, takes 50 to 80 ms where a verb has loaded what
    it needs, which is a quarter of a small `send`. Everything that is to be closed is closed by
    then, so the process just ends, unless somebody traces it or threads are left to be waited for.

    Raises:
        SystemExit: it has to end the long way.
    """
    try:
        main()
    except SystemExit as done:
        if isinstance(done.code, int):
            _leave(done.code)
        raise


def _leave(code: int) -> None:
    """End the process; return where that needs the interpreter's own way."""
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
        return  # Python says so, in its own way
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done, and told: there is nothing to stop
    atexit._run_exitfuncs()  # noqa: SLF001 - as the long way does
    os._exit(code)


def _leave_at_once(code: int) -> None:
    """End the process if threads are left, which Python would wait for: they may hang in a request.

    Whatever they do, what is on disk is right: that holds for a process that is killed, too.
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
    """Write the version; False if that fails, which the long way then reports."""
    try:
        write_line(sys.stdout, f"dockercomms {__version__}")
        sys.stdout.flush()
    except (OSError, AttributeError):  # AttributeError: started without a standard output
        return False
    return True

"""The table of verbs, and the function that turns every exception into an exit code.

A verb is a row of `VERBS` and a module that the program imports when the verb is used. The module
holds `<verb>_command`: a command made by `options.verb`, or an `options.VerbTable` of such
commands.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType, MappingProxyType
from typing import TYPE_CHECKING

import click

from dockercomms import __version__
from dockercomms.cli import failures
from dockercomms.cli.options import VerbTable
from dockercomms.errors import DockerCommsError

if TYPE_CHECKING:
    from dockercomms.cli.session import Session

VERBS: Mapping[str, tuple[str, str]] = MappingProxyType({
    "send": ("mail.send", "Send files, a folder or a note to a recipient."),
    "inbox": ("mail.inbox", "List the messages sent to you."),
    "show": ("mail.inbox", "Show one message without receiving it."),
    "recv": ("mail.receive", "Receive new messages, or the messages named."),
    "watch": ("mail.watch", "Receive messages as they arrive, and run a command for each."),
    "reply": ("mail.send", "Answer a message with files or a note."),
    "ack": ("mail.receipts", "Accept or reject a message you received."),
    "receipts": ("mail.receipts", "List the receipts for the messages you sent."),
    "outbox": ("mail.receipts", "List the messages sent from this machine, and their state."),
    "export": ("mail.relay", "Write messages and receipts to a tar archive."),
    "import": ("mail.relay", "Import messages and receipts from a tar archive."),
    "relay": ("mail.relay", "Copy messages and receipts to another repository."),
    "gc": ("mail.relay", "Delete expired messages from your inbox."),
    "verify": ("mail.verify", "Check who signed a message, a manifest or a file."),
    "sign": ("mail.verify", "Sign a manifest or a file."),
    "keys": ("local.keys", "Create, list, export and import signing keys."),
    "trust": ("local.trust", "Manage trusted senders and their keys or identities."),
    "config": ("local.config", "Allow or deny project files that set the repository."),
    "reg": ("reg.table", "Work with a registry directly: list, get, copy, push, delete."),
    "completion": ("local.completion", "Print a shell completion script."),
    "version": ("local.completion", "Print the versions of dockercomms and its dependencies."),
})  # fmt: skip
"""Verb to module and one-line help, in the order of the help."""

PROGRAM_NAME = "dockercomms"
COMPLETE_VARIABLE = "_DOCKERCOMMS_COMPLETE"

_EXAMPLE = """\
dockercomms send report.pdf --to bob
dockercomms recv --me bob"""


def program() -> VerbTable:
    """Return the whole command line as a click command."""
    version = click.version_option(__version__, message="%(prog)s %(version)s")
    return version(
        VerbTable(
            name=PROGRAM_NAME,
            verbs=VERBS,
            example=_EXAMPLE,
            help="Send files to a named recipient through any OCI registry or a folder.",
            no_args_is_help=True,
        )
    )


def run(arguments: Sequence[str], session: Session) -> int:
    """Run one command line; return its exit code.

    It raises no exception: each becomes three lines on standard error and an exit code.
    """
    try:
        with _termination_interrupts():
            return _dispatch(arguments, session)
    except KeyboardInterrupt as error:
        return _tell(session, error, failures.INTERRUPTION, failures.INTERRUPTED)
    except click.ClickException as error:
        return _tell_usage(session, error)
    except DockerCommsError as error:
        if failures.is_hang_up(error):
            return _hang_up(session)
        return _tell(session, error, failures.explain(error), error.exit_code)
    except BrokenPipeError:
        return _hang_up(session)
    except OSError as error:
        _give_up_stdout(session)
        local = failures.local_error(error)
        return _tell(session, error, failures.explain(local), local.exit_code)
    except Exception as error:  # noqa: BLE001 - the outermost function reports all errors
        # Raised while a class was made, or while a lock was taken
        if isinstance(error.__cause__ or error.__context__, KeyboardInterrupt):
            return _tell(session, error, failures.INTERRUPTION, failures.INTERRUPTED)
        return _tell(session, error, failures.explain_internal(error), failures.INTERNAL_ERROR)


def _dispatch(arguments: Sequence[str], session: Session) -> int:
    """Parse the command line and run its verb.

    Raises:
        click.ClickException: the command line is wrong.
        Any exception of the verb.
    """
    # click's own `main` would replace the exception of an interrupt and print a line.
    line = program()
    instruction = session.environ.get(COMPLETE_VARIABLE)
    if instruction:
        from click.shell_completion import shell_complete

        return shell_complete(line, {}, PROGRAM_NAME, COMPLETE_VARIABLE, instruction)
    try:
        with line.make_context(PROGRAM_NAME, list(arguments), obj=session) as ctx:
            code = int(line.invoke(ctx) or 0)
    except click.exceptions.Exit as done:
        code = done.exit_code
    finally:
        session.interrupts.release()
    session.stdout.flush()
    return code


def _tell_usage(session: Session, error: click.ClickException) -> int:
    """Print why the command line is wrong; for the bare program's name print the help."""
    from dockercomms.errors import UsageError

    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        session.stderr.write(error.format_message() + "\n")
        return UsageError.exit_code
    why, hints = failures.explain_usage(error)
    return _tell(session, error, ("wrong usage", why, hints), UsageError.exit_code)


def _tell(session: Session, error: BaseException, said: failures.Explanation, code: int) -> int:
    what, why, hints = said
    where = f"{session.verb}: " if session.verb else ""
    try:
        session.screen_of("text").failure(where + what, why, hints)
        if session.verbose:
            import traceback

            session.stderr.write("".join(traceback.format_exception(error)))
            session.stderr.flush()
    except OSError:
        pass  # standard error is closed: only the exit code is left
    return code


def _hang_up(session: Session) -> int:
    """End quietly after the reader went away, as with `| head`; return the exit code."""
    _give_up_stdout(session)
    return DockerCommsError.exit_code


def _give_up_stdout(session: Session) -> None:
    """Discard buffered output: Python would complain at exit, and change the exit code."""
    try:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, session.stdout.fileno())
        os.close(nothing)
    except OSError:
        pass  # not a real file: Python does not flush it at exit


@contextlib.contextmanager
def _termination_interrupts() -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C, so that both leave files in the same state."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set signal handlers
        return
    former = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt

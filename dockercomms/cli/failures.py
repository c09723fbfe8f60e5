"""The text of three lines and the exit code for an exception.

The class gives the first line, the exception the reason. The next step is the exception's hint,
else that of the class. No code here parses a message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dockercomms import errors

if TYPE_CHECKING:
    import click

    from dockercomms.inbox.poll import PollResult
    from dockercomms.mailbox import Mailbox

INTERRUPTED = 130
"""128 + SIGINT, as shells report it."""
INTERNAL_ERROR = 1
SAME_AGAIN = "run the same command again; it resumes"

Explanation = tuple[str, str, tuple[str, ...]]
"""The failure, the reason, and the lines with the next steps."""
INTERRUPTION: Explanation = ("interrupted", "stopped by a signal", (SAME_AGAIN,))

_MEANINGS: dict[type[errors.DockerCommsError], tuple[str, str]] = {
    errors.DockerCommsError: ("the command failed", "run it again with --verbose for details"),
    errors.ConfigError: ("invalid configuration", "correct the setting named above"),
    errors.UsageError: ("wrong usage", "see 'dockercomms --help'"),
    errors.NetworkError: (
        "the registry could not be reached",
        "check the host in --repo and your network, then run the same command again",
    ),
    errors.ProxyError: (
        "the proxy does not let the request through",
        "look at HTTPS_PROXY, HTTP_PROXY and NO_PROXY",
    ),
    errors.ServerFailed: (
        "the registry reports a failure of its own",
        f"wait a while, or ask its operator; then {SAME_AGAIN}",
    ),
    errors.RetryAborted: ("stopped while retrying", SAME_AGAIN),
    errors.RegistryError: (
        "the registry answered with an error",
        "to see the requests, run it again with --verbose",
    ),
    errors.AuthError: (
        "the registry refused the credentials",
        "docker login HOST, --authfile FILE, or --username NAME --password-stdin",
    ),
    errors.NotFoundError: (
        "not found",
        "check --repo and --me; to list all messages: dockercomms inbox --all",
    ),
    errors.TooManyRequests: (
        "too many requests: the registry limits the rate",
        f"wait a while; then {SAME_AGAIN}",
    ),
    errors.BadAnswer: (
        "the registry gave an invalid answer",
        f"check whether a login page or a proxy answers instead; then {SAME_AGAIN}",
    ),
    errors.Unsupported: (
        "the registry does not support this",
        "docs/registries.md lists the registries that do, and alternatives",
    ),
    errors.ProtocolError: (
        "the message is invalid",
        "ask the sender to send it again",
    ),
    errors.IntegrityError: (
        "the content does not match its digest or size",
        f"{SAME_AGAIN}; if the error stays, the content was changed at the registry",
    ),
    errors.LimitError: ("a limit is exceeded", "stay within the limit named above"),
    errors.VerificationError: (
        "the message could not be verified",
        "do not trust it; ask its sender",
    ),
    errors.CommandError: (
        "the command failed",
        "the files of the message are kept; correct the command and run it on them",
    ),
    errors.RejectedError: (
        "the recipient rejected the message",
        "correct the reason named above, then send it again",
    ),
    errors.NoAnswerError: (
        "no receipt in time",
        "the message is sent and can still be received; follow it with: dockercomms outbox",
    ),
    errors.PartialError: ("some of it failed", "follow the hints of the errors above"),
    errors.InternalError: (
        "internal error: this is a bug in dockercomms",
        "run it again with --verbose and report the output to the project; the rest was processed",
    ),
    errors.NothingNewError: (
        "no new messages",
        "this is not an error; leave out --fail-empty to exit with 0",
    ),
    errors.LocalIOError: (
        "cannot read or write a local file",
        "check the path, its permissions and the free disk space",
    ),
}


def exit_code_of(failures: list[errors.DockerCommsError]) -> int:
    """Return the exit code for several failures: that of their class if it is one, else 7."""
    codes = {failure.exit_code for failure in failures}
    return codes.pop() if len(codes) == 1 else errors.PartialError.exit_code


def exit_code_of_some(failures: list[errors.DockerCommsError], *, others: bool) -> int:
    """Return the exit code after failures: 7 if other objects succeeded, else as `exit_code_of`.

    If all failures are defects of dockercomms it is 1, even if other objects succeeded.
    """
    defects = [isinstance(failure, errors.InternalError) for failure in failures]
    if all(defects):
        return errors.InternalError.exit_code
    return errors.PartialError.exit_code if others or any(defects) else exit_code_of(failures)


def is_counted(mailbox: Mailbox, error: errors.DockerCommsError) -> bool:
    """Return whether a failure counts: a defect counts only in the first run that meets it."""
    return not isinstance(error, errors.InternalError) or mailbox.is_first(error)


def exit_code_of_poll(poll: PollResult | None) -> int:
    """Return the exit code of a poll without messages: 0, unless a way to find messages failed."""
    if poll is None or poll.complete or not poll.errors:
        return 0
    return exit_code_of([error for _, error in poll.errors])


def is_hang_up(error: errors.DockerCommsError | None) -> bool:
    """Return whether the reader of our standard output went away.

    Only a local write counts: a registry that breaks a connection is a network error.
    """
    return isinstance(error, errors.LocalIOError) and isinstance(error.__cause__, BrokenPipeError)


def explain(error: errors.DockerCommsError) -> Explanation:
    """Return the lines for an error of ours."""
    what, hint = next(_MEANINGS[cls] for cls in type(error).__mro__ if cls in _MEANINGS)
    return what, _why(error), tuple((error.hint or hint).splitlines())


def _why(error: errors.DockerCommsError) -> str:
    # Most messages contain the address.
    if isinstance(error, errors.RegistryError) and error.url and error.url not in error.message:
        answer = " ".join(part for part in (str(error.status or ""), error.code) if part)
        return f"{error.method} {error.url}: {answer or 'no answer'}: {error.message}".strip()
    if isinstance(error, errors.VerificationError):  # one line for each bundle
        return "; ".join(line.strip() for line in error.message.splitlines())
    return error.message


def local_error(error: OSError) -> errors.LocalIOError:
    """Return the error for a local file, or for a closed or full standard output.

    The command prints results after its work is done, so a second run would repeat the work.
    """
    if error.filename is not None:
        return errors.LocalIOError(f"{error.filename}: {error.strerror or error}")
    return errors.LocalIOError(
        f"standard output: {error.strerror or error}; the command has done its work",
        hint="do not send again: see what was sent with 'dockercomms outbox', and what was received"
        " with 'dockercomms inbox --all'",
    )


def explain_usage(error: click.ClickException) -> tuple[str, tuple[str, ...]]:
    """Return click's reason to refuse a command line, and the next steps."""
    from click import NoSuchOption

    text = error.format_message()
    why = text[:1].lower() + text[1:].rstrip(".")
    ctx = getattr(error, "ctx", None)
    hints = [f"see '{ctx.command_path if ctx else 'dockercomms'} --help'"]
    if isinstance(error, NoSuchOption) and ctx is not None and ctx.info_name == "send":
        hints.append("write a file name that begins with - as ./-NAME")
    return why, tuple(hints)


def explain_internal(error: BaseException) -> Explanation:
    """Return the lines for an unexpected exception."""
    return (
        "internal error: this is a bug in dockercomms",
        f"{type(error).__name__}: {error}",
        (
            (
                "run it again with --verbose, and report the output and that of 'dockercomms "
                "version' to the project"
            ),
        ),
    )

"""The command that a watch runs for each message, without a shell.

The command finds the sender's data only in its environment, never in its arguments. It gets our
environment without the secrets that we read from there. Its standard input is empty, and its output
goes where our diagnostics go. It runs in its own process group, so signals to ours do not reach it;
at its time limit we kill it with all its children.

Source: SPEC.md section 8.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from dockercomms.errors import LocalIOError, UsageError
from dockercomms.platforms.clock import Clock
from dockercomms.platforms.files import local_errors
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.fields import format_time
from dockercomms.protocol.header import MAX_TEXT_BYTES
from dockercomms.protocol.manifest import Message

DIR_FIELD = "{dir}"
"""The placeholder for the message's folder in a command."""

DEFAULT_TIMEOUT_SECONDS = 3600
"""The default time limit of a command: one that hangs must not stop an inbox."""

GRACE_SECONDS = 5.0
"""The time between asking a command to end and killing it."""

VARIABLES = "DOCKERCOMMS_MSG_"
"""The prefix of the environment variables that describe the message."""

WITHHELD = frozenset({
    "DOCKERCOMMS_USERNAME", "DOCKERCOMMS_PASSWORD", "DOCKERCOMMS_PASSPHRASE",
    "DOCKERCOMMS_IDENTITY_TOKEN", "DOCKER_AUTH_CONFIG",
    # Requests for the identity of a CI job (read by the library `id`, which sigstore uses)
    "ACTIONS_ID_TOKEN_REQUEST_TOKEN", "ACTIONS_ID_TOKEN_REQUEST_URL", "SIGSTORE_ID_TOKEN",
    "BUILDKITE_AGENT_ACCESS_TOKEN",
})  # fmt: skip
"""The variables with secrets that we read ourselves; a command does not get them."""

_PROXIES = frozenset({"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "DOCKERHUB_PUBLIC_PROXY"})
"""Addresses; withheld if they contain a user name or password."""

MAX_REASON_BYTES = MAX_TEXT_BYTES - 100
"""The most bytes of the command's own reason; the rest is for our words."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command to run for each message."""

    argv: tuple[str, ...]
    """The program and its arguments, with `{dir}` not yet replaced."""
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    secrets: frozenset[str] = frozenset()
    """The names of secret variables that the command gets."""

    def words(self, folder: str) -> tuple[str, ...]:
        """Return the program and its arguments for a message in `folder`."""
        return tuple(word.replace(DIR_FIELD, folder) for word in self.argv)

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return the part of `environ` for the command, without our secrets except `secrets`."""
        return {
            name: value
            for name, value in environ.items()
            if name in self.secrets or not _is_secret(name, value)
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The end of a command."""

    exit_code: int
    """The exit code as shells report it: 128 + the number of the signal that ended it."""
    timed_out: bool = False
    seconds: float = 0.0
    reason: str = ""
    """The reason that the command wrote."""

    @property
    def succeeded(self) -> bool:
        """The command accepted the message."""
        return self.exit_code == 0 and not self.timed_out

    def __str__(self) -> str:
        """Return the reason of the receipt, as the sender reads it."""
        if self.timed_out:
            said = f"the command did not end within {self.seconds:.0f} s and was stopped"
        elif self.exit_code:
            said = f"the command ended with exit code {self.exit_code}"
        else:
            return self.reason
        return f"{said}: {self.reason}" if self.reason else said


def _is_secret(name: str, value: str) -> bool:
    return name in WITHHELD or (name.upper() in _PROXIES and "@" in value)


def parse_command(
    text: str,
    *,
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    secrets: Iterable[str] = (),
    path: str | None = None,
) -> Command:
    """Split `text` into words as a POSIX shell does, and return the command.

    Args:
        text: The program and its arguments; quotes are the only shell syntax in it.
        timeout_seconds: The time limit.
        secrets: The names of secret variables that the command gets.
        path: The folders to search for programs; by default those of the process.

    Raises:
        UsageError: the text is empty, a quote is not closed, or the program does not exist.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"command {text!r:.200}: {error}") from error
    if not words:
        raise UsageError("command is empty; a program and its arguments expected")
    if DIR_FIELD not in words[0] and shutil.which(words[0], path=path) is None:
        raise UsageError(
            f"command {text!r:.200}: program {words[0]!r:.200} not found",
            hint="the command runs without a shell; to use a shell: "
            """--exec 'sh -c "cd \\"$0\\" && make" {dir}'""",
        )
    return Command(tuple(words), timeout_seconds, frozenset(secrets))


def variables(
    message: Message,
    *,
    signer: str | None,
    repo: str,
    files: tuple[Path, ...],
    folder: Path,
    attempt: int,
) -> dict[str, str]:
    """Return the environment variables that describe the message to its command.

    The values are the sender's claims, except SIGNER (the verified name) and those of this machine.

    Args:
        message: The message.
        signer: The verified name of its sender.
        repo: The repository that it came from.
        files: The delivered files.
        folder: Their folder.
        attempt: The number of this start of the command for the message, from 1.
    """
    header = message.header
    told = {
        "ID": header.id,
        "DIGEST": message.digest,
        "REPO": repo,
        "FROM": header.sender,
        "SIGNER": signer or "",
        "TO": header.recipient,
        "TITLE": header.title or "",
        "TEXT": header.text or "",
        "CREATED": "" if header.created_at is None else format_time(header.created_at),
        "BYTES": str(header.total_bytes),
        "THREAD": header.thread_id or "",
        "IN_REPLY_TO": header.in_reply_to or "",
        "DIR": str(folder),
        "FILE": str(files[0]) if len(files) == 1 else "",
        "FILES": str(len(files)),
        "ATTEMPT": str(attempt),
    }
    # JSON may contain NUL and lone surrogates; environment variables cannot.
    return {
        f"{VARIABLES}{name}": value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
        if name not in {"DIR", "FILE"}
        else value
        for name, value in told.items()
    }


def run_command(
    command: Command,
    folder: Path,
    told: Mapping[str, str],
    *,
    clock: Clock,
    environ: Mapping[str, str] | None = None,
    output: int | None = None,
    keep_open: tuple[int, ...] = (),
) -> Outcome:
    """Run a command for the message in `folder`, and wait for its end.

    The command may write its reason for accepting or rejecting the message to the file that
    `DOCKERCOMMS_MSG_REASON_FILE` names.

    Args:
        command: The command.
        folder: The message's folder.
        told: The variables to add to the environment.
        clock: The clock of this machine.
        environ: The environment; by default that of the process.
        output: The descriptor for its output, which is discarded by default.
        keep_open: Further descriptors that it inherits.

    Raises:
        LocalIOError: it cannot be started.
        BaseException: an interrupt of the wait; the command is stopped before.
    """
    with tempfile.TemporaryDirectory(prefix="dockercomms-") as private:
        reason = Path(private) / "reason"
        argv = command.words(str(folder))
        given = command.environment(os.environ if environ is None else environ)
        environment = {**given, **told}
        environment[f"{VARIABLES}REASON_FILE"] = str(reason)
        sink = subprocess.DEVNULL if output is None else output
        started = clock.monotonic()
        with local_errors(f"command {argv[0]!r:.200}"):
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                env=environment,
                start_new_session=True,
                pass_fds=keep_open,
            )
        timed_out = _wait(process, command.timeout_seconds)
        code = process.returncode
        return Outcome(
            exit_code=128 - code if code < 0 else code,
            timed_out=timed_out,
            seconds=clock.monotonic() - started,
            reason=_reason(reason),
        )


def _wait(process: subprocess.Popen[bytes], timeout_seconds: float) -> bool:
    """Wait for the end of a command; return whether it was stopped at its time limit."""
    try:
        process.wait(timeout_seconds)
    except subprocess.TimeoutExpired:
        _stop(process)
        return True
    except BaseException:
        _stop(process)
        raise
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Send SIGTERM to the command and its children, and SIGKILL after `GRACE_SECONDS`."""
    _signal_group(process, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_SECONDS)
    _signal_group(process, getattr(signal, "SIGKILL", signal.SIGTERM))
    process.wait()


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    try:
        if hasattr(os, "killpg"):
            # The group keeps its number after the leader's end while a child lives.
            os.killpg(process.pid, number)
        else:
            process.kill()
    except (ProcessLookupError, PermissionError):
        pass  # all processes of the group have ended


def _reason(path: Path) -> str:
    """Return the reason that a command wrote, shortened to `MAX_REASON_BYTES`, on one line."""
    try:
        with path.open("rb") as reason:
            text = reason.read(MAX_REASON_BYTES).decode("utf-8", "ignore")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise LocalIOError(f"{path}: {error.strerror or error}") from error
    return " ".join(text.replace("\0", " ").split())

"""A command that is run for a message: argv without a shell, what it is told, how it ended.

The command gets nothing of what a sender chose on its command line, only in its environment. It
gets our own environment without the secrets that we read there. Its standard input is empty, and
what it prints goes where our own talk goes. It runs in a process group of its own: what is sent to
ours does not reach it, and one that does not end in time is killed with all its children.

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
"""What stands for the message's folder in a command."""

DEFAULT_TIMEOUT_SECONDS = 3600
"""How long a command may run unless said otherwise: one that hangs must not stop an inbox."""

GRACE_SECONDS = 5.0
"""How long a command has between being asked to end and being killed."""

VARIABLES = "DOCKERCOMMS_MSG_"
"""What the names of the variables begin with that tell a command about its message."""

WITHHELD = frozenset({
    "DOCKERCOMMS_USERNAME", "DOCKERCOMMS_PASSWORD", "DOCKERCOMMS_PASSPHRASE",
    "DOCKERCOMMS_IDENTITY_TOKEN", "DOCKER_AUTH_CONFIG",
    # What a CI job's identity is asked for with (the library `id`, which sigstore uses)
    "ACTIONS_ID_TOKEN_REQUEST_TOKEN", "ACTIONS_ID_TOKEN_REQUEST_URL", "SIGSTORE_ID_TOKEN",
    "BUILDKITE_AGENT_ACCESS_TOKEN",
})  # fmt: skip
"""The variables with secrets that we read ourselves, and that a command does not get."""

_PROXIES = frozenset({"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "DOCKERHUB_PUBLIC_PROXY"})
"""Addresses, withheld if a user name or password is in them."""

MAX_REASON_BYTES = MAX_TEXT_BYTES - 100
"""Of what a command gives as its reason; the rest is for what we say ourselves."""


@dataclass(frozen=True, slots=True)
class Command:
    """What is run for each message."""

    argv: tuple[str, ...]
    """The program and its arguments, `{dir}` still in them."""
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    secrets: frozenset[str] = frozenset()
    """The names of variables that it gets although secrets are in them."""

    def words(self, folder: str) -> tuple[str, ...]:
        """Return the program and its arguments for a message in `folder`."""
        return tuple(word.replace(DIR_FIELD, folder) for word in self.argv)

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return what it gets of `environ`: no secret of ours that is not meant for it."""
        return {
            name: value
            for name, value in environ.items()
            if name in self.secrets or not _is_secret(name, value)
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a command ended."""

    exit_code: int
    """As shells report it: 128 + the signal's number if one ended it."""
    timed_out: bool = False
    seconds: float = 0.0
    reason: str = ""
    """What the command itself gave as the reason."""

    @property
    def succeeded(self) -> bool:
        """Whether the command took the message."""
        return self.exit_code == 0 and not self.timed_out

    def __str__(self) -> str:
        """Return why the message is taken or not, as its sender may read it."""
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
    """Return the command written in `text`, split into words as a POSIX shell does.

    Args:
        text: The program and its arguments; no other rule of a shell holds in it.
        timeout_seconds: How long it may run.
        secrets: The names of variables that it gets although secrets are in them.
        path: The folders that programs are looked for in; None: those of the process.

    Raises:
        UsageError: nothing is in it, a quote is not closed, or there is no such program.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"command {text!r:.200}: {error}") from error
    if not words:
        raise UsageError("command: empty; a program and its arguments expected")
    if DIR_FIELD not in words[0] and shutil.which(words[0], path=path) is None:
        raise UsageError(
            f"command {text!r:.200}: there is no program {words[0]!r:.200}",
            hint="no shell reads the command; to use one: "
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
    """Return what a command is told about its message, by the names of environment variables.

    All but SIGNER, the verified name, and what concerns this machine is the sender's claim.

    Args:
        message: The message.
        signer: The verified name of its sender.
        repo: Where it came from.
        files: What it became.
        folder: Where that is.
        attempt: How often the command was started for it, this time included.
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
    # No variable can hold a NUL, which JSON can; nor may half a character stop a message.
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

    It may write why it takes the message, or does not, into the file that
    `DOCKERCOMMS_MSG_REASON_FILE` names.

    Args:
        command: What to run.
        folder: The message's folder.
        told: What to add to the environment.
        clock: Ours.
        environ: The environment; None: the process' own.
        output: The descriptor that takes what it prints; None: nobody reads it.
        keep_open: Descriptors that it inherits beside.

    Raises:
        LocalIOError: it cannot be started.
        BaseException: what interrupts the wait; the command is stopped before.
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
    """Wait for the end of a command; return whether it had to be stopped for being late."""
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
    """Ask the command and all its children to end; kill them if they do not."""
    _signal_group(process, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_SECONDS)
    _signal_group(process, getattr(signal, "SIGKILL", signal.SIGTERM))
    process.wait()


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    try:
        if hasattr(os, "killpg"):
            # Its group is named by its own number, also after its end, as long as a child lives.
            os.killpg(process.pid, number)
        else:
            process.kill()
    except (ProcessLookupError, PermissionError):
        pass  # all of them have ended


def _reason(path: Path) -> str:
    """Return what a command wrote as its reason: at most so much of it, on one line."""
    try:
        with path.open("rb") as reason:
            text = reason.read(MAX_REASON_BYTES).decode("utf-8", "ignore")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise LocalIOError(f"{path}: {error.strerror or error}") from error
    return " ".join(text.replace("\0", " ").split())

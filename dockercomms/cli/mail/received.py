"""Texts and exit codes for received messages."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dockercomms.cli.failures import exit_code_of, exit_code_of_poll, exit_code_of_some
from dockercomms.cli.render import SHORT_ID_CHARACTERS, count_of
from dockercomms.errors import (
    DockerCommsError,
    InternalError,
    NothingNewError,
    PartialError,
    UnknownSender,
    VerificationError,
)

if TYPE_CHECKING:
    from dockercomms.cli.session import Session
    from dockercomms.inbox.poll import PollResult
    from dockercomms.messages.receive import Received

SHOWN_ALIKE = 5
"""The number of messages with the same failure to name; data on standard output names all."""


class Tally:
    """Counts the results of messages, for the summary and the exit code.

    Args:
        asked: The user named the messages. Otherwise a message that breaks the policy is held, not
            failed.
    """

    def __init__(self, *, asked: bool) -> None:
        self._asked = asked
        self.received = 0
        self.skipped = 0
        self.failed: list[DockerCommsError] = []
        self.withheld: list[DockerCommsError] = []
        self._alike: dict[tuple[str, str], list[str]] = {}

    def add(self, received: Received) -> Received:
        """Count one message; return it with the status "skipped" if it is held."""
        error = received.error
        if received.status == "received":
            self.received += 1
            if isinstance(error, InternalError):  # at its receipt, or its command
                self.failed.append(error)
        elif received.status == "skipped":
            self.skipped += 1
        elif isinstance(error, VerificationError) and not self._asked:
            self.withheld.append(error)
            return replace(received, status="skipped")
        else:
            self.failed.append(error or DockerCommsError("no reason given"))
        return received

    def is_alike(self, received: Received) -> bool:
        """Return whether an earlier message had the same kind of failure."""
        if received.error is None:
            return False
        names = self._alike.setdefault((received.status, received.error.kind), [])
        names.append(message_name(received))
        return len(names) > 1

    def alike_lines(self) -> Iterator[str]:
        """Yield a line for each kind of failure that several messages had."""
        for (status, kind), (_, *others) in self._alike.items():
            if others:
                what = "failed" if status == "failed" else "held"
                names = ", ".join(others[:SHOWN_ALIKE]) + ", ..." * (len(others) > SHOWN_ALIKE)
                more = count_of(len(others), "more message")
                yield f"{more} {what} for the same reason ({kind}): {names}"

    def add_held_before(self, held: Sequence[Received]) -> None:
        """Count messages that are still held, and that an earlier run reported."""
        self.withheld += [received.error for received in held if received.error is not None]

    def exit_code(self, poll: PollResult | None, *, fail_empty: bool, strict: bool) -> int:
        """Return 0 without failures, the code of the class if all failures have one, else 7.

        An incomplete poll counts as a failure.
        """
        if self.failed:
            others = self.received + self.skipped + len(self.withheld)
            return exit_code_of_some(self.failed, others=bool(others))
        if strict and self.withheld:
            return exit_code_of(self.withheld)
        if self.received:
            return PartialError.exit_code if exit_code_of_poll(poll) else 0
        return exit_code_of_poll(poll) or (NothingNewError.exit_code if fail_empty else 0)

    def __str__(self) -> str:
        """Return the counts as text, "" without messages."""
        counts = (
            (self.received, "received"),
            (len(self.failed), "failed"),
            (self.skipped, "skipped"),
        )
        parts = [", ".join(f"{number} {what}" for number, what in counts if number)]
        if self.withheld:
            held = f"{count_of(len(self.withheld), 'message')} held"
            if all(isinstance(error, UnknownSender) for error in self.withheld):
                held += ": sender not trusted"
            parts.append(f"{held}. Review with: dockercomms inbox --all")
        return "; ".join(part for part in parts if part)


def place_of(files: Sequence[Path]) -> str:
    """Return the path of a message: its file, or the folder with all its files."""
    if not files:
        return ""
    return os.path.commonpath([path.absolute() for path in files])


def explain(session: Session, received: Received) -> None:
    """Report the failure of a message, or the reason why it was not received."""
    name = message_name(received)
    error = received.error
    if received.status == "failed":
        sender = f" from {received.sender}" if received.sender else ""
        failure = error or DockerCommsError("no reason given")
        session.tell_failure(f"message {name}{sender}", failure)
    elif received.status == "received" and error is not None:
        session.screen.warn(f"message {name} received; its receipt will be sent later: {error}")
    elif error is not None:
        session.tell_withheld(f"message {name} from {received.sender}", error)
    elif received.status == "skipped":
        session.screen.note(f"message {name} skipped: {received.reason}")


def message_name(received: Received) -> str:
    """Return the short name of a message: the start of its id, or of its digest without an id."""
    digest = (received.digest or "").partition(":")[2]
    return (received.id or digest)[:SHORT_ID_CHARACTERS] or "?"

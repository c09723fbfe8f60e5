"""Waiting for what becomes of what was just sent, and saying it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dockercomms.cli.render import SHORT_ID_CHARACTERS, count_of, shell_words
from dockercomms.errors import NoAnswerError, RejectedError

if TYPE_CHECKING:
    from dockercomms.cli.session import Session
    from dockercomms.mailbox import Mailbox
    from dockercomms.oci.model import Digest
    from dockercomms.receipts import ReceiptEntry
    from dockercomms.sending import Sent


def await_answers(session: Session, done: Sequence[tuple[Mailbox, Sent]], seconds: int) -> int:
    """Wait for the answers to what was sent, say what they are, and return the exit code.

    Args:
        session: Says it.
        done: What was sent, and from which mailbox.
        seconds: How long to wait, in all.

    Raises:
        RegistryError, NetworkError: a registry cannot tell.
    """
    session.screen.note(f"waiting for {count_of(len(done), 'answer')}, at most {seconds} s")
    until = session.clock.monotonic() + seconds
    found: dict[Digest, ReceiptEntry] = {}
    for box in dict.fromkeys(box for box, _ in done):
        sent = [one for of, one in done if of is box]
        left = max(0.0, until - session.clock.monotonic())
        found |= box.wait(sent, seconds=left)
    failures = [
        failure for _, one in done if (failure := _told(session, one, found.get(one.digest)))
    ]
    # One that rejects it is the worse news, whoever is silent.
    return min((failure.exit_code for failure in failures), default=0)


def _told(
    session: Session, sent: Sent, receipt: ReceiptEntry | None
) -> RejectedError | NoAnswerError | None:
    """Say what became of one message; return what is wrong with it, None if it was accepted."""
    name = shell_words([sent.recipient])
    message = f"message {sent.id[:SHORT_ID_CHARACTERS]} to {sent.recipient}"
    failure: RejectedError | NoAnswerError
    if receipt is None:
        failure = NoAnswerError(f"{sent.recipient!r:.100} has not answered so far")
    elif receipt.signature_status not in {"valid", "unchecked"}:
        failure = NoAnswerError(
            f"somebody says it was {receipt.status}, but it is not proven that "
            f"{sent.recipient!r:.100} says so (signature: {receipt.signature_status})",
            hint=f"tell how they sign: dockercomms trust add {name} KEY.pub",
        )
    elif receipt.status == "rejected":
        failure = RejectedError(receipt.reason or "no reason given")
    else:
        reason = f": {receipt.reason}" if receipt.reason else ""
        session.screen.note(f"{message}: accepted{reason}")
        return None
    session.tell_failure(message, failure)
    return failure

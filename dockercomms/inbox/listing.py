"""Messages as a mailbox lists them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Literal, cast

from dockercomms.errors import ProtocolError
from dockercomms.inbox.entries import Entry
from dockercomms.oci.model import Digest
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.header import MAX_TITLE_CHARACTERS
from dockercomms.state.trust import JudgedRow
from dockercomms.trust.owner import SignatureStatus

ANSWER_PREFIX = "Re: "
"""What the title of an answer begins with, as in mail."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxEntry:
    """One message as it is listed. What it says of itself is its sender's claim."""

    id: str
    """"" while its manifest could not be read."""
    digest: Digest | None
    tag: str | None
    sender: str
    """As the message claims."""
    title: str | None
    text: str | None
    filename: str
    """As its sender calls it; escape it before showing it."""
    bytes: int | None
    created_at: datetime | None
    expires_at: datetime | None
    state: Literal["new", "delivered", "held", "refused", "elsewhere"]
    """elsewhere: another state of ours received it, as a receipt of ours proves."""
    expired: bool
    reason: str
    """Why it is held or refused, or how it is known that it was received elsewhere."""
    signature_status: SignatureStatus = "none"
    signer: str | None = None
    """The verified name of its sender; None: who sent it is a claim."""
    recipient: str = ""
    """Which of the receiver's names it is for."""
    thread_id: str | None = None
    in_reply_to: Digest | None = None
    """The message that it answers, as it says."""
    missing_before: int = 0
    """How many messages of its sender are missing between the one before it and it."""

    @property
    def thread(self) -> str:
        """What the messages of its conversation share: what a reply to it carries."""
        return self.thread_id or self.id


def inbox_entry(entry: Entry, judged: JudgedRow | None, *, missing_before: int = 0) -> InboxEntry:
    """Return what is shown of a row, and of what its signature was found to be."""
    header = entry.header
    return InboxEntry(
        id="" if header is None else header.id,
        digest=entry.digest,
        tag=entry.tag,
        sender="" if header is None else header.sender,
        title=None if header is None else header.title,
        text=None if header is None else header.text,
        filename="" if header is None else header.display_name,
        bytes=None if header is None else header.total_bytes,
        created_at=None if header is None else header.created_at,
        expires_at=None if header is None else header.expires,
        state="new" if entry.state == "delivering" else entry.state,
        expired=entry.expired,
        reason=entry.reason,
        signature_status="unchecked" if judged is None else cast("SignatureStatus", judged.status),
        signer=None if judged is None else judged.signer,
        recipient=entry.me,
        thread_id=None if header is None else header.thread_id,
        in_reply_to=None if header is None else header.in_reply_to,
        missing_before=missing_before,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What an answer to a message takes from it."""

    to: str
    sender: str
    title: str | None
    thread_id: str
    in_reply_to: Digest


def answer_to(entry: InboxEntry) -> Answer:
    """Return what an answer to `entry` takes from it: who to whom, the conversation, the title.

    It goes to whom the message says it is from: a signer can sign for no other name.

    Raises:
        ProtocolError: the message could not be read, so nobody knows who sent it.
    """
    if entry.digest is None or not entry.sender:
        raise ProtocolError(f"message {entry.digest or entry.tag}: not read, so it has no sender")
    title = entry.title
    if title is not None and not title.startswith(ANSWER_PREFIX):
        title = f"{ANSWER_PREFIX}{title}"[:MAX_TITLE_CHARACTERS]
    return Answer(
        to=entry.sender,
        sender=entry.recipient,
        title=title,
        thread_id=entry.thread,
        in_reply_to=entry.digest,
    )


def by_thread(entries: Iterable[InboxEntry]) -> list[tuple[int, InboxEntry]]:
    """Return entries by conversation, the oldest first, and how deep each answers another one.

    An answer stands below what it answers if that is here, else at the start of its conversation.
    Whoever claims to answer goes in a circle finds their messages at the end of it.
    """
    threads: dict[str, list[InboxEntry]] = {}
    for entry in sorted(entries, key=_age):
        threads.setdefault(entry.thread or entry.digest or entry.tag or "", []).append(entry)
    return [placed for thread in threads.values() for placed in _tree(thread)]


def _tree(thread: Sequence[InboxEntry]) -> Iterator[tuple[int, InboxEntry]]:
    here = {entry.digest for entry in thread if entry.digest is not None}
    below: dict[Digest | None, list[InboxEntry]] = {}
    for entry in thread:
        parent = entry.in_reply_to if entry.in_reply_to in here else None
        below.setdefault(parent, []).append(entry)
    waiting = [(0, entry) for entry in reversed(below.pop(None, []))]
    while waiting or below:
        if not waiting:  # what is left answers itself in a circle
            waiting = [(0, entry) for entry in below.pop(next(iter(below)))]
        depth, entry = waiting.pop()
        yield depth, entry
        if entry.digest is not None:
            answers = below.pop(entry.digest, [])
            waiting += [(depth + 1, answer) for answer in reversed(answers)]


def _age(entry: InboxEntry) -> tuple[bool, float]:
    known = entry.created_at
    return known is not None, 0.0 if known is None else known.timestamp()

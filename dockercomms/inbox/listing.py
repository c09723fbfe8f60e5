"""Messages in the form in which a mailbox lists them."""

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
"""The prefix of an answer's title, as in mail."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxEntry:
    """A listed message. Its header contains unproven claims of the sender."""

    id: str
    """"" until its manifest is read."""
    digest: Digest | None
    tag: str | None
    sender: str
    """The sender's name in the header, unproven."""
    title: str | None
    text: str | None
    filename: str
    """The name that the sender gave it. Escape it before you show it."""
    bytes: int | None
    created_at: datetime | None
    expires_at: datetime | None
    state: Literal["new", "delivered", "held", "refused", "elsewhere"]
    """elsewhere: another machine of ours received it and wrote a receipt."""
    expired: bool
    reason: str
    """The reason it is held or refused, or the proof that it was received elsewhere."""
    signature_status: SignatureStatus = "none"
    signer: str | None = None
    """The verified name of its sender; None if the signature is not verified."""
    recipient: str = ""
    """The receiver's name to which it is addressed."""
    thread_id: str | None = None
    in_reply_to: Digest | None = None
    """The message that it claims to answer."""
    missing_before: int = 0
    """The number of the sender's messages that are missing just before this one."""

    @property
    def thread(self) -> str:
        """The thread id that a reply carries: its own, or its message id at the start."""
        return self.thread_id or self.id


def inbox_entry(entry: Entry, judged: JudgedRow | None, *, missing_before: int = 0) -> InboxEntry:
    """Return the entry to show for a row and the judgement of its signature."""
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
    """The header fields of an answer to a message."""

    to: str
    sender: str
    title: str | None
    thread_id: str
    in_reply_to: Digest


def answer_to(entry: InboxEntry) -> Answer:
    """Return the header fields of an answer to `entry`.

    The answer goes to the claimed sender; no other signer may sign with that name.

    Raises:
        ProtocolError: the message was not read, so its sender is unknown.
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
    """Return entries by conversation, the oldest first, each with its depth in the tree of answers.

    An answer stands below the message that it answers if that is listed, else at the start of its
    conversation. Messages that answer each other in a circle come last in theirs.
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
        if not waiting:  # the remaining messages answer each other in a circle
            waiting = [(0, entry) for entry in below.pop(next(iter(below)))]
        depth, entry = waiting.pop()
        yield depth, entry
        if entry.digest is not None:
            answers = below.pop(entry.digest, [])
            waiting += [(depth + 1, answer) for answer in reversed(answers)]


def _age(entry: InboxEntry) -> tuple[bool, float]:
    known = entry.created_at
    return known is not None, 0.0 if known is None else known.timestamp()

"""Messages as a mailbox lists them.

Example:
    >>> from dockercomms.entries import Entry
    >>> from dockercomms.listing import inbox_entry
    >>> from datetime import UTC, datetime
    >>> seen = datetime(2026, 11, 20, tzinfo=UTC)
    >>> entry = Entry(
    ...     me="bob", repo="r/box", key="k", digest=None, tag="k", state="new", first_seen=seen
    ... )
    >>> inbox_entry(entry, None).signature_status
    'unchecked'
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, cast

from dockercomms.entries import Entry
from dockercomms.oci.model import Digest
from dockercomms.state.trust_rows import JudgedRow
from dockercomms.trusting import SignatureStatus


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
    state: Literal["new", "delivered", "held", "refused"]
    expired: bool
    reason: str
    """Why it is held or refused."""
    signature_status: SignatureStatus = "none"
    signer: str | None = None
    """The verified name of its sender; None: who sent it is a claim."""


def inbox_entry(entry: Entry, judged: JudgedRow | None) -> InboxEntry:
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
    )

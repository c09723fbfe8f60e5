"""The messages that were sent from here, each with the answer of its recipient.

Example:
    >>> from dockercomms.messages.outbox import answers
    >>> answers([])
    {}
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from datetime import datetime
from typing import Literal

from dockercomms.errors import NetworkError, TooManyRequests
from dockercomms.messages.receipts_list import ReceiptEntry
from dockercomms.oci.model import Digest
from dockercomms.platforms.clock import Clock
from dockercomms.platforms.records import dataclass
from dockercomms.state.outbox import OutboxRow

FIRST_WAIT_SECONDS = 1.0
WAIT_GROWTH = 1.5
MAX_WAIT_SECONDS = 15.0
"""Waits between polls for an answer, each with jitter; each poll costs one request."""

Fate = Literal["accepted", "rejected", "silent", "expired"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxEntry:
    """A message that was sent from here, with its answer."""

    id: str
    digest: Digest
    repo: str
    tag: str
    sender: str
    recipient: str
    title: str
    filename: str
    bytes: int
    thread: str
    published_at: datetime
    expires_at: datetime
    fate: Fate
    """silent: no verified answer yet; expired: no verified answer, and the message has expired."""
    receipt: ReceiptEntry | None = None
    """The answer, verified or claimed. A claim leaves the message silent."""

    @property
    def proven(self) -> bool:
        """The recipient's signature is verified."""
        return self.receipt is not None and self.receipt.signature_status == "valid"


def answers(receipts: Iterable[ReceiptEntry]) -> dict[Digest, ReceiptEntry]:
    """Return the receipt that counts for each message: the newest verified one.

    Without a verified receipt it is the newest claim. Invalid signatures are ignored.
    """
    found: dict[Digest, ReceiptEntry] = {}
    for receipt in receipts:
        known = found.get(receipt.message)
        if receipt.signature_status != "invalid" and (
            known is None or _rank(receipt) > _rank(known)
        ):
            found[receipt.message] = receipt
    return found


def _rank(receipt: ReceiptEntry) -> tuple[bool, float, bool]:
    """Return the sort key of a receipt. A rejection wins over an acceptance in one millisecond."""
    created = receipt.created_at
    age = float("-inf") if created is None else created.timestamp()
    return receipt.signature_status == "valid", age, receipt.status == "rejected"


def list_outbox(
    rows: Iterable[OutboxRow],
    receipts: Iterable[ReceiptEntry],
    *,
    now: datetime,
    claims: bool = False,
) -> list[OutboxEntry]:
    """Return the sent messages with their answers, in the order of `rows`.

    Args:
        rows: The sent messages.
        receipts: The known receipts.
        now: The time.
        claims: An unverified answer counts too.
    """
    known = answers(receipts)
    return [_entry(row, known.get(row.digest), now, claims=claims) for row in rows]


def _entry(
    row: OutboxRow, receipt: ReceiptEntry | None, now: datetime, *, claims: bool
) -> OutboxEntry:
    fate: Fate = "expired" if row.expires <= now else "silent"
    if receipt is not None and (claims or receipt.signature_status == "valid"):
        fate = receipt.status
    return OutboxEntry(
        id=row.id,
        digest=row.digest,
        repo=row.repo,
        tag=row.tag,
        sender=row.sender,
        recipient=row.recipient,
        title=row.title,
        filename=row.filename,
        bytes=row.bytes,
        thread=row.thread,
        published_at=row.published,
        expires_at=row.expires,
        fate=fate,
        receipt=receipt,
    )


def wait_for_answers(
    look: Callable[[], Iterable[ReceiptEntry]],
    messages: Collection[Digest],
    *,
    seconds: float,
    clock: Clock,
    claims: bool = False,
) -> dict[Digest, ReceiptEntry]:
    """Return the answers to `messages`, as soon as each has a verified one.

    After `seconds` it returns the answers so far: verified ones, else claims.

    Args:
        look: Returns the known receipts.
        messages: The sent messages.
        seconds: The longest wait.
        clock: The clock to wait by.
        claims: An unverified answer counts too.

    Raises:
        NetworkError, TooManyRequests: the last poll failed.
        RegistryError: the registry refuses the search.
    """
    until = clock.monotonic() + seconds
    pause = FIRST_WAIT_SECONDS
    while True:
        left = until - clock.monotonic()
        found: dict[Digest, ReceiptEntry] = {}
        try:
            found = {k: v for k, v in answers(look()).items() if k in messages}
        except (NetworkError, TooManyRequests):
            if left <= 0:
                raise
        enough = [one for one in found.values() if claims or one.signature_status == "valid"]
        if len(enough) == len(messages) or left <= 0:
            return found
        clock.sleep(min(left, pause * (0.5 + clock.random() / 2)))
        pause = min(pause * WAIT_GROWTH, MAX_WAIT_SECONDS)

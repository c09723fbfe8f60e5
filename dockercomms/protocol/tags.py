"""The grammar of the tags of inboxes and receipts.

`parse_tag` is the inverse of the builders.
Source: SPEC.md section 5.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import field
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal

from dockercomms.oci.model import Digest
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.fields import FIRST_TIME, LAST_TIME

ReceiptStatus = Literal["accepted", "rejected"]


def recipient_tag(recipient: str) -> str:
    """Return the 26 characters that stand for `recipient` in tags.

    They are lower-case base32hex of the SHA-256 of the UTF-8 bytes, without trimming or folding.
    Source: SPEC.md section 5.
    """
    hashed = hashlib.sha256(recipient.encode("utf-8", "surrogatepass")).digest()
    return base64.b32hexencode(hashed).decode("ascii").lower()[:26]


TagKind = Literal["bell", "anchor", "message", "message-1.0", "receipts-anchor", "receipts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxTag:
    """The parts of a tag of an inbox, or of a sender's receipts."""

    kind: TagKind
    recipient_tag: str
    day: date | None = None
    milliseconds: int | None = None
    """Milliseconds of the UTC day; `None` for 1.0 messages, whose third field is random."""
    head: str | None = None
    """The first 16 hex digits of the manifest's digest (of the receipt's rid)."""

    @property
    def published(self) -> datetime | None:
        """The time of publication; `None` if the tag has no time."""
        if self.day is None or self.milliseconds is None:
            return None
        midnight = datetime.combine(self.day, time(0), tzinfo=UTC)
        return midnight + timedelta(milliseconds=self.milliseconds)


BUNDLE_PREFIX = "bundle-"
RECEIPT_PREFIX = "receipt-"
HEAD_DIGITS = 12
"""Number of hex digits of a message's digest behind these prefixes."""

_DAY = r"(?P<day>[0-9]{8})"
_STAMP = r"(?P<ms>0[0-9a-f]{7})-(?P<head>[0-9a-f]{16})"
_INBOX_TAG = re.compile(
    rf"inbox-(?P<rt>[0-9a-v]{{26}})(?:-(?:{_DAY}(?:-(?:{_STAMP}|(?P<rest>.*)))?|(?P<odd>.*)))?",
    re.DOTALL,
)
_RECEIPTS_TAG = re.compile(rf"receipts-(?P<rt>[0-9a-v]{{26}})-{_DAY}(?:-{_STAMP})?")
_DAY_MILLISECONDS = 86_400_000


def bell_tag(rt: str) -> str:
    """Return the tag that senders move to the newest message."""
    return f"inbox-{rt}"


def anchor_tag(rt: str, day: date) -> str:
    """Return the tag of a day's inbox anchor."""
    return f"inbox-{rt}-{day:%Y%m%d}"


def receipts_anchor_tag(rt: str, day: date) -> str:
    """Return the tag of a day's receipts anchor."""
    return f"receipts-{rt}-{day:%Y%m%d}"


def message_tag(rt: str, published: datetime, digest: Digest) -> str:
    """Return the tag of a message that is published at `published`."""
    return f"inbox-{rt}-{_stamp(published)}-{digest.partition(':')[2][:16]}"


def receipts_tag(rt: str, published: datetime, rid: str) -> str:
    """Return the tag by which the message's sender finds a receipt together with all others."""
    return f"receipts-{rt}-{_stamp(published)}-{rid}"


def receipt_prefix(message: Digest) -> str:
    """Return the common prefix of the tags of receipts of one message."""
    return f"{RECEIPT_PREFIX}{digest_head(message)}-"


def receipt_tag(message: Digest, at: datetime, rid: str) -> str:
    """Return the tag of a receipt of one message."""
    return f"{receipt_prefix(message)}{int(at.timestamp())}-{rid[:6]}"


def bundle_prefix(message: Digest) -> str:
    """Return the common prefix of the tags of bundles of one message."""
    return f"{BUNDLE_PREFIX}{digest_head(message)}-"


def bundle_tag(message: Digest, at: datetime, layer: Digest) -> str:
    """Return the tag of a bundle of one message."""
    tail = layer.partition(":")[2][:6]
    return f"{bundle_prefix(message)}{int(at.timestamp())}-{tail}"


def digest_head(digest: Digest) -> str:
    """Return the digits of a message's digest that the tags of its receipts and bundles contain."""
    return digest.partition(":")[2][:HEAD_DIGITS]


def parse_tag(tag: str) -> InboxTag | None:
    """Return the parts of `tag`; `None` if it is no tag of an inbox or of a sender's receipts.

    Any tag with the prefix of an inbox may belong to a 1.0 message.
    """
    match = _INBOX_TAG.fullmatch(tag)
    if match is not None:
        return _inbox_tag(match)
    match = _RECEIPTS_TAG.fullmatch(tag)
    day = None if match is None else _day(match["day"])
    if match is None or day is None:
        return None
    if match["ms"] is None:
        return InboxTag(kind="receipts-anchor", recipient_tag=match["rt"], day=day)
    return _stamped(match, day, "receipts")


def _inbox_tag(match: re.Match[str]) -> InboxTag:
    rt, day = match["rt"], _day(match["day"])
    if match["day"] is None and match["odd"] is None:
        return InboxTag(kind="bell", recipient_tag=rt)
    if day is not None and match["rest"] is None:
        if match["ms"] is None:
            return InboxTag(kind="anchor", recipient_tag=rt, day=day)
        stamped = _stamped(match, day, "message")
        if stamped is not None:
            return stamped
    return InboxTag(kind="message-1.0", recipient_tag=rt, day=day)


def _stamped(match: re.Match[str], day: date, kind: TagKind) -> InboxTag | None:
    """Return a tag with time and head; `None` if no day has that many milliseconds."""
    milliseconds = int(match["ms"], 16)
    if milliseconds >= _DAY_MILLISECONDS:
        return None
    return InboxTag(
        kind=kind,
        recipient_tag=match["rt"],
        day=day,
        milliseconds=milliseconds,
        head=match["head"],
    )


def _day(text: str | None) -> date | None:
    """Return the day in eight digits; `None` if it is no day from 1970 to 9998."""
    try:
        day = None if text is None else date.fromisoformat(f"{text[:4]}-{text[4:6]}-{text[6:]}")
    except ValueError:
        return None
    return day if day is not None and FIRST_TIME.year <= day.year <= LAST_TIME.year else None


def receipt_id(message: Digest, recipient: str, status: ReceiptStatus) -> str:
    """Return the rid, which all receipts of one outcome share, so that a retry adds no receipt.

    Source: SPEC.md section 10.
    """
    parts = (
        message.encode("ascii"),
        recipient.encode("utf-8", "surrogatepass"),
        status.encode("ascii"),
    )
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _stamp(moment: datetime) -> str:
    moment = moment.astimezone(UTC)
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    milliseconds = (moment - midnight) // timedelta(milliseconds=1)
    return f"{moment:%Y%m%d}-{milliseconds:08x}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageRef:
    """A possible message: a tag, a digest, or both."""

    tag: str | None = None
    digest: Digest | None = None
    head: str | None = field(init=False, compare=False)
    """The first 16 hex digits of the digest, or those in the tag."""
    legacy: bool = field(init=False, compare=False)
    """Only a 1.0 tag is known: it does not contain the digest, and it may move."""
    published: datetime | None = field(init=False, compare=False)
    """The time of publication in the tag; for 1.0 tags the day's first moment."""

    def __post_init__(self) -> None:
        said = None if self.tag is None else parse_tag(self.tag)
        head = None if said is None else said.head
        if self.digest is not None:
            head = self.digest.partition(":")[2][:16]
        published = None if said is None else said.published
        if said is not None and published is None and said.day is not None:
            published = datetime.combine(said.day, time(0), tzinfo=UTC)
        object.__setattr__(self, "head", head)
        object.__setattr__(self, "legacy", head is None)
        object.__setattr__(self, "published", published)

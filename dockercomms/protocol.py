"""The constants of SPEC.md, the message header, and the grammar of tags.

Every value that travels is defined here and nowhere else. `MessageHeader` and the annotations of
a manifest are each other's inverse; so are the tag builders and `parse_tag`.

Example:
    >>> from dockercomms.protocol import recipient_tag
    >>> recipient_tag("bob@example.com")
    'bvs61fohi1cmosc8le2hrdkhu3'
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal

from dockercomms.errors import ProtocolError
from dockercomms.oci.model import Digest

PROTOCOL_VERSION = "1.1"
COMPAT_VERSION = "1.0"

# SPEC.md section 1
ARTIFACT_TYPE_MESSAGE = "application/vnd.dockercomms.message.v1"
ARTIFACT_TYPE_RECEIPT = "application/vnd.dockercomms.receipt.v1"
ARTIFACT_TYPE_INBOX = "application/vnd.dockercomms.inbox.v1"
ARTIFACT_TYPE_BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
MEDIA_TYPE_BUNDLE_CONFIG = ARTIFACT_TYPE_BUNDLE
MEDIA_TYPE_CHUNK_GZIP = "application/vnd.dockercomms.chunk.v1.tar+gzip"
MEDIA_TYPE_CHUNK_ZSTD = "application/vnd.dockercomms.chunk.v1.tar+zstd"
CONTENT_TYPE_FILES_TAR = "application/vnd.dockercomms.files.v1+tar"
PREDICATE_TYPE_MESSAGE = "https://dockercomms.dev/message/v1"
PREDICATE_TYPE_RECEIPT = "https://dockercomms.dev/receipt/v1"

Compression = Literal["gzip", "zstd"]
CHUNK_MEDIA_TYPES: dict[Compression, str] = {
    "gzip": MEDIA_TYPE_CHUNK_GZIP,
    "zstd": MEDIA_TYPE_CHUNK_ZSTD,
}

ReceiptStatus = Literal["accepted", "rejected"]

# SPEC.md section 3: annotation keys
VERSION = "dockercomms.version"
SENDER = "dockercomms.sender"
RECIPIENT = "dockercomms.recipient"
CREATED_AT = "dockercomms.created_at"
TTL_SECONDS = "dockercomms.ttl_seconds"
FILENAME = "dockercomms.filename"
FILENAME_FULL = "dockercomms.filename.full"
TOTAL_BYTES = "dockercomms.total_bytes"
CHUNK_BYTES = "dockercomms.chunk_bytes"
CHUNK_COUNT = "dockercomms.chunk_count"
COMPRESSION = "dockercomms.compression"
MESSAGE_ID = "dockercomms.message.id"
CHUNK_INDEX = "dockercomms.chunk.index"
CHUNK_SIZE = "dockercomms.chunk.bytes"
PAYLOAD_DIGEST = "dockercomms.payload.digest"
CONTENT_TYPE = "dockercomms.content.type"
TITLE = "dockercomms.title"
TEXT = "dockercomms.text"
SESSION_ID = "dockercomms.session.id"
THREAD_ID = "dockercomms.thread.id"
IN_REPLY_TO = "dockercomms.in_reply_to"
EXPIRES_AT = "dockercomms.expires_at"
AUDIENCE = "dockercomms.audience"
ENCRYPTION = "dockercomms.encryption"
FILES_COUNT = "dockercomms.files.count"
CRITICAL = "dockercomms.critical"
RECEIPT_FOR = "dockercomms.receipt.for"
RECEIPT_STATUS = "dockercomms.receipt.status"
RECEIPT_VERIFIED = "dockercomms.receipt.verified"
RECEIPT_REASON = "dockercomms.receipt.reason"
INBOX_DATE = "dockercomms.inbox.date"
INBOX_RECIPIENT = "dockercomms.inbox.recipient"
INBOX_KIND = "dockercomms.inbox.kind"

UNDERSTOOD_KEYS = frozenset(
    {
        VERSION, SENDER, RECIPIENT, CREATED_AT, TTL_SECONDS, FILENAME, FILENAME_FULL, TOTAL_BYTES,
        CHUNK_BYTES, CHUNK_COUNT, COMPRESSION, MESSAGE_ID, CHUNK_INDEX, CHUNK_SIZE, PAYLOAD_DIGEST,
        CONTENT_TYPE, TITLE, TEXT, SESSION_ID, THREAD_ID, IN_REPLY_TO, EXPIRES_AT, CRITICAL,
        FILES_COUNT, AUDIENCE,
    }
)  # fmt: skip
"""Keys a message may name in `dockercomms.critical` and still be read (sealing comes later)."""

# SPEC.md section 3: limits of annotations
DEFAULT_TTL_SECONDS = 604_800
MAX_FILENAME_BYTES = 237
"""A 1.0 receiver adds 18 bytes to the name; more than 255 stop its whole inbox."""
MAX_TITLE_CHARACTERS = 200
MAX_TEXT_BYTES = 1024
MAX_ANNOTATIONS = 128
MAX_ANNOTATION_BYTES = 4096

# SPEC.md sections 2 and 4: limits of manifests and chunks
MAX_SENT_MANIFEST_BYTES = 3 * 2**20
"""Distribution refuses 4 MiB with 400, zot with 413; a margin for what the index adds."""
MAX_INLINE_BYTES = 16 * 2**10
MAX_INLINE_TOTAL_BYTES = 64 * 2**10
MAX_CHUNKS = 10_000
MAX_TOTAL_BYTES = 10 * 2**40
DEFAULT_CHUNK_BYTES = 16 * 2**20
MAX_ZSTD_WINDOW_BYTES = 8 * 2**20
MAX_TAR_PADDING_BYTES = 10_240
"""What a tar writer may pad a chunk to; all of it zero."""

# SPEC.md sections 3 and 8: files and names
MAX_FILES_ENTRIES = 100_000
MAX_FILES_DEPTH = 64
MAX_FILES_PATH_BYTES = 1024
NOTE_FILENAME = "note.txt"

# SPEC.md sections 6 to 8: times and limits
BLOB_CONFIRMED_SECONDS = 600
CONTINUE_SEND_SECONDS = 24 * 3600
CLOCK_WARN_SECONDS = 300
CLOCK_ERROR_SECONDS = 3600
MAX_FUTURE_SECONDS = 300
RECONCILE_SECONDS = 300
FULL_PASS_SECONDS = 24 * 3600
MAX_FETCHED_MANIFESTS = 2000
MAX_PAGES = 1000
MAX_FALLBACK_INDEX_ENTRIES = 500
KEEP_DELIVERED_SECONDS = 90 * 24 * 3600
MAX_UNTRUSTED_TOTAL_BYTES = 10 * 2**30
TAG_PAGE_SIZE = 1000

_VERSION = re.compile(r"1\.(0|[1-9][0-9]*)")
_INDEX = re.compile(r"0|[1-9][0-9]{0,3}")
_RFC3339 = re.compile(
    r"(\d{4}-\d{2}-\d{2})[Tt](\d{2}:\d{2}:\d{2})(?:\.(\d{1,9}))?([Zz]|[+-]\d{2}:\d{2})"
)


def recipient_tag(recipient: str) -> str:
    """Return the 26 characters that stand for `recipient` in tags.

    Lower-case base32hex of the SHA-256 of its UTF-8 bytes: no trimming, no folding.
    Source: SPEC.md section 5.
    """
    hashed = hashlib.sha256(recipient.encode("utf-8", "surrogatepass")).digest()
    return base64.b32hexencode(hashed).decode("ascii").lower()[:26]


def format_time(moment: datetime) -> str:
    """Return `moment` in UTC with three fraction digits: 2026-11-20T20:44:40.000Z.

    Source: SPEC.md section 3.
    """
    moment = moment.astimezone(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def parse_time(text: str) -> datetime:
    """Return the instant in `text`: RFC 3339 with 0 to 9 fraction digits, in UTC.

    Raises:
        ProtocolError: not such a time.
    """
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ProtocolError(f"not an RFC 3339 time: {text!r:.100}")
    fraction = (match[3] or "").ljust(6, "0")[:6]
    offset = "+00:00" if match[4] in "Zz" else match[4]
    try:
        return datetime.fromisoformat(f"{match[1]}T{match[2]}.{fraction}{offset}").astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ProtocolError(f"not an RFC 3339 time: {text!r:.100}") from error


def is_readable_version(text: str) -> bool:
    """Return whether a message of protocol version `text` can be read: any 1.x."""
    return _VERSION.fullmatch(text) is not None


def parse_chunk_index(text: str) -> int:
    """Return the chunk index in `text`.

    Raises:
        ProtocolError: anything but 0 or 1 to 4 digits without leading zero.
    """
    if _INDEX.fullmatch(text) is None:
        raise ProtocolError(f"not a chunk index: {text!r:.100}")
    return int(text)


# --- tags: SPEC.md section 5 ---------------------------------------------------------------------

TagKind = Literal["bell", "anchor", "message", "message-1.0", "receipts-anchor", "receipts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxTag:
    """What a tag of an inbox, or of a sender's receipts, says."""

    kind: TagKind
    recipient_tag: str
    day: date | None = None
    milliseconds: int | None = None
    """Milliseconds of the UTC day; None for 1.0 messages, whose third field is random."""
    head: str | None = None
    """The first 16 hex digits of the manifest's digest (of the receipt's rid)."""

    @property
    def published(self) -> datetime | None:
        """The moment of publication, None where the tag does not say."""
        if self.day is None or self.milliseconds is None:
            return None
        midnight = datetime.combine(self.day, time(0), tzinfo=UTC)
        return midnight + timedelta(milliseconds=self.milliseconds)


_DAY = r"(?P<day>[0-9]{8})"
_STAMP = r"(?P<ms>0[0-9a-f]{7})-(?P<head>[0-9a-f]{16})"
_INBOX_TAG = re.compile(rf"inbox-(?P<rt>[0-9a-v]{{26}})(?:-{_DAY}(?:-(?:{_STAMP}|(?P<rest>.*)))?)?")
_RECEIPTS_TAG = re.compile(rf"receipts-(?P<rt>[0-9a-v]{{26}})-{_DAY}(?:-{_STAMP})?")
_DAY_MILLISECONDS = 86_400_000


def bell_tag(rt: str) -> str:
    """Return the tag that is moved to the newest message."""
    return f"inbox-{rt}"


def anchor_tag(rt: str, day: date) -> str:
    """Return the tag of a day's inbox anchor."""
    return f"inbox-{rt}-{day:%Y%m%d}"


def receipts_anchor_tag(rt: str, day: date) -> str:
    """Return the tag of a day's receipts anchor."""
    return f"receipts-{rt}-{day:%Y%m%d}"


def message_tag(rt: str, published: datetime, digest: Digest) -> str:
    """Return the tag under which a message is published at `published`."""
    return f"inbox-{rt}-{_stamp(published)}-{digest.partition(':')[2][:16]}"


def receipts_tag(rt: str, published: datetime, rid: str) -> str:
    """Return the tag under which a receipt is found in bulk by the message's sender."""
    return f"receipts-{rt}-{_stamp(published)}-{rid}"


def receipt_tag(message: Digest, at: datetime, rid: str) -> str:
    """Return the tag under which a receipt of one message is found."""
    return f"receipt-{message.partition(':')[2][:12]}-{int(at.timestamp())}-{rid[:6]}"


def bundle_tag(message: Digest, at: datetime, layer: Digest) -> str:
    """Return the tag under which a bundle of one message is found."""
    head, tail = message.partition(":")[2][:12], layer.partition(":")[2][:6]
    return f"bundle-{head}-{int(at.timestamp())}-{tail}"


def parse_tag(tag: str) -> InboxTag | None:
    """Return what `tag` says, None if it is no tag of an inbox or of bulk receipts.

    A tag with an inbox prefix and day that is not of our form is a 1.0 message's.
    """
    match = _INBOX_TAG.fullmatch(tag)
    prefix: Literal["inbox", "receipts"] = "inbox"
    if match is None:
        match, prefix = _RECEIPTS_TAG.fullmatch(tag), "receipts"
    if match is None:
        return None
    if match["day"] is None:
        return InboxTag(kind="bell", recipient_tag=match["rt"])
    try:
        day = datetime.strptime(match["day"], "%Y%m%d").replace(tzinfo=UTC).date()
    except ValueError:
        return (
            None
            if prefix == "receipts"
            else InboxTag(kind="message-1.0", recipient_tag=match["rt"])
        )
    if match["ms"] is not None and int(match["ms"], 16) < _DAY_MILLISECONDS:
        return InboxTag(
            kind="message" if prefix == "inbox" else "receipts",
            recipient_tag=match["rt"],
            day=day,
            milliseconds=int(match["ms"], 16),
            head=match["head"],
        )
    if prefix == "receipts":
        return (
            InboxTag(kind="receipts-anchor", recipient_tag=match["rt"], day=day)
            if match["ms"] is None
            else None
        )
    kind: TagKind = "anchor" if match["rest"] is None and match["ms"] is None else "message-1.0"
    return InboxTag(kind=kind, recipient_tag=match["rt"], day=day)


def receipt_id(message: Digest, recipient: str, status: ReceiptStatus) -> str:
    """Return the rid: the same for every receipt of one outcome, so that retries fold.

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

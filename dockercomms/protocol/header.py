"""The constants of SPEC.md, and the header of a message.

Only this module defines values that appear in messages. `MessageHeader` converts to and from the
annotations of a message.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Literal

from dockercomms.errors import LimitError, ProtocolError
from dockercomms.oci.model import (
    MEDIA_TYPE_EMPTY_CONFIG,
    MEDIA_TYPE_IMAGE_CONFIG,
    Descriptor,
    Digest,
    parse_digest,
)
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.fields import (
    LAST_TIME,
    StreamPosition,
    format_time,
    is_readable_version,
    parse_count,
    parse_time,
)

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

ManifestForm = Literal["artifact", "image"]
"""The way a manifest names its kind: by its artifact type, or as an image with an annotation."""

FORMS: tuple[ManifestForm, ...] = ("artifact", "image")

IMAGE_CONFIG_BYTES = (
    b'{"architecture":"unknown","os":"unknown","rootfs":{"type":"layers","diff_ids":[]}}'
)
"""The config of the image form: only the fields that image-spec v1.1.1 requires."""

IMAGE_CONFIG = Descriptor.of(IMAGE_CONFIG_BYTES, MEDIA_TYPE_IMAGE_CONFIG)

UNTELLING_TYPES = (None, MEDIA_TYPE_EMPTY_CONFIG, MEDIA_TYPE_IMAGE_CONFIG)
"""Artifact types in a list of referrers that may stand for any kind of our manifests. Lists may
leave the artifact type out. In the image form they may give the media type of the config
(image-spec v1.1.1 requires it, go-containerregistry does it)."""

Compression = Literal["gzip", "zstd"]
CHUNK_MEDIA_TYPES: dict[Compression, str] = {
    "gzip": MEDIA_TYPE_CHUNK_GZIP,
    "zstd": MEDIA_TYPE_CHUNK_ZSTD,
}

CHUNK_FILE_ENDINGS: dict[Compression, str] = {"gzip": ".tar.gz", "zstd": ".tar.zst"}
"""The endings of the file names that `oras pull` gives to layers (SPEC.md section 3.3)."""

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
SEQUENCE = "dockercomms.sequence"
CRITICAL = "dockercomms.critical"
RECEIPT_FOR = "dockercomms.receipt.for"
RECEIPT_STATUS = "dockercomms.receipt.status"
RECEIPT_VERIFIED = "dockercomms.receipt.verified"
RECEIPT_REASON = "dockercomms.receipt.reason"
INBOX_DATE = "dockercomms.inbox.date"
INBOX_RECIPIENT = "dockercomms.inbox.recipient"
INBOX_KIND = "dockercomms.inbox.kind"
ARTIFACT_TYPE = "dockercomms.artifact_type"
"""The kind of a manifest in image form (SPEC.md 2.9)."""

UNDERSTOOD_KEYS = frozenset(
    {
        VERSION, SENDER, RECIPIENT, CREATED_AT, TTL_SECONDS, FILENAME, FILENAME_FULL, TOTAL_BYTES,
        CHUNK_BYTES, CHUNK_COUNT, COMPRESSION, MESSAGE_ID, CHUNK_INDEX, CHUNK_SIZE, PAYLOAD_DIGEST,
        CONTENT_TYPE, TITLE, TEXT, SESSION_ID, THREAD_ID, IN_REPLY_TO, EXPIRES_AT, CRITICAL,
        FILES_COUNT, SEQUENCE, AUDIENCE,
    }
)  # fmt: skip
"""Keys that this program accepts in `dockercomms.critical` (sealing comes later)."""

# SPEC.md section 3: limits of annotations
DEFAULT_INTERVAL_SECONDS = 30
"""The default pause between two looks of a watch."""
DEFAULT_TTL_SECONDS = 604_800
MAX_FILENAME_BYTES = 237
"""A 1.0 receiver adds 18 bytes to the name, and a name above 255 bytes stops its whole inbox."""
MAX_TITLE_CHARACTERS = 200
MAX_TEXT_BYTES = 1024
MAX_ANNOTATIONS = 128
MAX_ANNOTATION_BYTES = 4096

# SPEC.md sections 2 and 4: limits of manifests and chunks
MAX_SENT_MANIFEST_BYTES = 3 * 2**20
"""Distribution refuses 4 MiB with 400, zot with 413. The margin is for the index."""
MAX_INLINE_BYTES = 16 * 2**10
MAX_INLINE_TOTAL_BYTES = 64 * 2**10
MAX_CHUNKS = 10_000
MAX_TOTAL_BYTES = 10 * 2**40
DEFAULT_CHUNK_BYTES = 16 * 2**20
MAX_ZSTD_WINDOW_BYTES = 8 * 2**20
MAX_TAR_PADDING_BYTES = 10_240
"""Largest padding that a tar writer may add to a chunk; all of it zero bytes."""

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
EARLIEST_CLOCK = datetime(2024, 1, 1, tzinfo=UTC)
"""An earlier time means that the clock is not set: the protocol is younger than that."""
MAX_FUTURE_SECONDS = 300
LAST_RETRY_SECONDS = 3600
RECONCILE_SECONDS = 300
FULL_PASS_SECONDS = 24 * 3600
MAX_FETCHED_MANIFESTS = 2000
MAX_PAGES = 1000
MAX_FALLBACK_INDEX_ENTRIES = 500
KEEP_DELIVERED_SECONDS = 90 * 24 * 3600
MAX_UNTRUSTED_TOTAL_BYTES = 10 * 2**30
TAG_PAGE_SIZE = 1000


def check_annotations(annotations: Mapping[str, str], where: str) -> None:
    """Refuse annotations beyond the limits of SPEC.md section 3; errors name them `where`.

    Raises:
        ProtocolError: more than `MAX_ANNOTATIONS`, or one longer than `MAX_ANNOTATION_BYTES`.
    """
    if len(annotations) > MAX_ANNOTATIONS:
        raise ProtocolError(f"{where}: {len(annotations)} annotations; at most {MAX_ANNOTATIONS}")
    for key, value in annotations.items():
        length = _utf8_bytes(key) + _utf8_bytes(value)
        if length > MAX_ANNOTATION_BYTES:
            raise ProtocolError(
                f"{where}: annotation {key!r:.100} has {length} bytes; at most "
                f"{MAX_ANNOTATION_BYTES}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageHeader:
    """The annotations of a message as typed values; all of them are the sender's claims.

    Source: SPEC.md section 3.
    """

    id: str
    """A UUID. A 1.0 sender may write any text, so build file names from `short_id`."""
    sender: str
    recipient: str
    created_at: datetime | None
    """`None` if a 1.0 message has no readable time."""
    ttl_seconds: int
    """The default if a 1.0 message has no readable value."""
    filename: str
    """The received text, unsafe as a file name; "" if a 1.0 message has no name."""
    total_bytes: int
    chunk_bytes: int
    """Largest number of payload bytes in a chunk; 0 or less from a 1.0 sender means unknown."""
    chunk_count: int
    compression: Compression
    version: str = PROTOCOL_VERSION
    filename_full: str | None = None
    payload_digest: Digest | None = None
    content_type: str | None = None
    title: str | None = None
    text: str | None = None
    session_id: str | None = None
    thread_id: str | None = None
    in_reply_to: Digest | None = None
    expires_at: datetime | None = None
    audience: str | None = None
    encryption: str | None = None
    files_count: int | None = None
    sequence: StreamPosition | None = None
    """The number among the sender's messages; readers detect missing messages by it."""
    critical: tuple[str, ...] = ()

    @property
    def display_name(self) -> str:
        """The sender's file name; escape it before you show it."""
        return self.filename_full or self.filename

    @property
    def short_id(self) -> str:
        """Eight hex digits that stand for the id, safe in a file name."""
        head = self.id.replace("-", "")[:8].lower()
        if _SHORT_ID.fullmatch(head):
            return head
        return hashlib.sha256(self.id.encode("utf-8", "surrogatepass")).hexdigest()[:8]

    @property
    def expires(self) -> datetime | None:
        """The time when the message expires; `None` without creation and expiry time."""
        if self.created_at is None:
            return self.expires_at
        try:
            by_ttl = self.created_at + timedelta(seconds=self.ttl_seconds)
        except OverflowError:
            by_ttl = LAST_TIME
        by_ttl = min(by_ttl, LAST_TIME)
        return by_ttl if self.expires_at is None else min(by_ttl, self.expires_at)

    def to_annotations(self, *, compat: bool = False) -> dict[str, str]:
        """Return the annotations of this header; with `compat` only those of version 1.0.

        Raises:
            LimitError: the name, title or text is too long.
            ProtocolError: the name contains NUL, or a time is missing.
        """
        self._check_writable()
        if self.created_at is None:
            raise ProtocolError(f"message {self.id}: created_at is missing")
        created = format_time(self.created_at)
        out = {
            VERSION: COMPAT_VERSION if compat else self.version,
            SENDER: self.sender,
            RECIPIENT: self.recipient,
            CREATED_AT: f"{created[:19]}Z" if compat else created,
            TTL_SECONDS: str(self.ttl_seconds),
            FILENAME: self.filename,
            TOTAL_BYTES: str(self.total_bytes),
            CHUNK_BYTES: str(self.chunk_bytes),
            CHUNK_COUNT: str(self.chunk_count),
            COMPRESSION: self.compression,
            MESSAGE_ID: self.id,
        }
        if not compat:
            out |= self._later_annotations()
        check_annotations(out, f"message {self.id}")
        return out

    def _later_annotations(self) -> dict[str, str]:
        """Return the annotations that version 1.1 added."""
        values = {
            FILENAME_FULL: self.filename_full,
            PAYLOAD_DIGEST: self.payload_digest,
            CONTENT_TYPE: self.content_type,
            TITLE: self.title,
            TEXT: self.text,
            SESSION_ID: self.session_id,
            THREAD_ID: self.thread_id,
            IN_REPLY_TO: self.in_reply_to,
            EXPIRES_AT: None if self.expires_at is None else format_time(self.expires_at),
            AUDIENCE: self.audience,
            ENCRYPTION: self.encryption,
            FILES_COUNT: None if self.files_count is None else str(self.files_count),
            SEQUENCE: None if self.sequence is None else str(self.sequence),
            CRITICAL: ",".join(self.critical) or None,
        }
        return {key: value for key, value in values.items() if value is not None}

    def _check_writable(self) -> None:
        """Refuse values that would stop a 1.0 receiver or that our own readers refuse."""
        if "\0" in self.filename or not self.filename:
            raise ProtocolError(
                f"message {self.id}: file name {self.filename!r:.100} is empty or contains NUL"
            )
        for what, unit, length, limit in (
            ("file name", "bytes", _utf8_bytes(self.filename), MAX_FILENAME_BYTES),
            ("title", "characters", len(self.title or ""), MAX_TITLE_CHARACTERS),
            ("text", "bytes", _utf8_bytes(self.text or ""), MAX_TEXT_BYTES),
        ):
            if length > limit:
                raise LimitError(f"the {what} is too long: {length} of at most {limit} {unit}")

    @classmethod
    def from_annotations(cls, annotations: Mapping[str, str]) -> MessageHeader:
        """Return the header in the annotations of a message.

        Reads version 1.0 as leniently as the 1.0 program does, later versions strictly.

        Raises:
            ProtocolError: a required annotation is missing, an annotation is malformed or too long,
                the version is not 1.x, or `dockercomms.critical` names an unknown key.
        """
        check_annotations(annotations, "message")
        return _HeaderReader(annotations).read()


_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_SHORT_ID = re.compile(r"[0-9a-f]{8}")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_MAX_TTL_SECONDS = 10**12
"""More than 30,000 years: longer than any time in a message, and sums stay small."""


@dataclass(frozen=True, slots=True)
class _HeaderReader:
    """Reads one header by the rules of its version."""

    annotations: Mapping[str, str]

    def read(self) -> MessageHeader:
        version = self._required(VERSION)
        if not is_readable_version(version):
            raise ProtocolError(f"message: version {version!r:.50}; this program reads 1.x")
        lenient = version == COMPAT_VERSION
        get = self.annotations.get
        in_reply_to = get(IN_REPLY_TO)
        files_count = get(FILES_COUNT)
        return MessageHeader(
            version=version,
            critical=self._critical(),
            id=self._id(lenient=lenient),
            sender=self._required(SENDER),
            recipient=self._required(RECIPIENT),
            created_at=self._created_at(lenient=lenient),
            ttl_seconds=self._ttl_seconds(lenient=lenient),
            filename=get(FILENAME, "") if lenient else self._required(FILENAME),
            total_bytes=self._count(TOTAL_BYTES, MAX_TOTAL_BYTES),
            chunk_bytes=self._chunk_bytes(lenient=lenient),
            chunk_count=self._count(CHUNK_COUNT, MAX_CHUNKS),
            compression=self._compression(),
            filename_full=get(FILENAME_FULL),
            payload_digest=self._payload_digest(lenient=lenient),
            content_type=get(CONTENT_TYPE),
            title=self._limited(TITLE, MAX_TITLE_CHARACTERS, len),
            text=self._limited(TEXT, MAX_TEXT_BYTES, _utf8_bytes),
            session_id=get(SESSION_ID),
            thread_id=get(THREAD_ID),
            in_reply_to=None if in_reply_to is None else parse_digest(in_reply_to),
            expires_at=parse_time(self.annotations[EXPIRES_AT])
            if EXPIRES_AT in self.annotations
            else None,
            audience=get(AUDIENCE),
            encryption=get(ENCRYPTION),
            files_count=None
            if files_count is None
            else self._count(FILES_COUNT, MAX_FILES_ENTRIES),
            sequence=StreamPosition.parse(self.annotations[SEQUENCE])
            if SEQUENCE in self.annotations and not lenient
            else None,
        )

    def _required(self, key: str) -> str:
        value = self.annotations.get(key)
        if value is None:
            raise ProtocolError(f"message: annotation {key} is missing")
        return value

    def _count(self, key: str, limit: int) -> int:
        return parse_count(self._required(key), f"message: {key}", limit=limit)

    def _limited(self, key: str, limit: int, measure: Callable[[str], int]) -> str | None:
        value = self.annotations.get(key)
        if value is not None and measure(value) > limit:
            raise ProtocolError(f"message: {key}: at most {limit}, {measure(value)} received")
        return value

    def _critical(self) -> tuple[str, ...]:
        keys = tuple(key.strip() for key in self.annotations.get(CRITICAL, "").split(","))
        keys = tuple(key for key in keys if key)
        unknown = [key for key in keys if key not in UNDERSTOOD_KEYS]
        if unknown:
            raise ProtocolError(
                f"message: unknown critical annotation {unknown[0]!r:.100}",
                hint="a newer release of dockercomms may read it",
            )
        return keys

    def _id(self, *, lenient: bool) -> str:
        text = self._required(MESSAGE_ID)
        if not text or not (lenient or _UUID.fullmatch(text)):
            raise ProtocolError(f"message: {MESSAGE_ID}: a UUID expected, {text!r:.100} received")
        return text

    def _created_at(self, *, lenient: bool) -> datetime | None:
        # The 1.0 program delivers a message whatever its time is, so its time may be unreadable.
        try:
            return parse_time(self._required(CREATED_AT))
        except ProtocolError:
            if lenient:
                return None
            raise

    def _ttl_seconds(self, *, lenient: bool) -> int:
        if not lenient:
            seconds = self._count(TTL_SECONDS, _MAX_TTL_SECONDS)
            if seconds > 0:
                return seconds
            raise ProtocolError(f"message: {TTL_SECONDS}: 0; at least 1 expected")
        text = self.annotations.get(TTL_SECONDS, "")
        seconds = int(text) if _INTEGER.fullmatch(text) else 0
        return min(seconds, _MAX_TTL_SECONDS) if seconds > 0 else DEFAULT_TTL_SECONDS

    def _chunk_bytes(self, *, lenient: bool) -> int:
        text = self._required(CHUNK_BYTES)
        if lenient and _INTEGER.fullmatch(text):  # the text of its --chunk-bytes option
            return min(int(text), MAX_TOTAL_BYTES)
        return self._count(CHUNK_BYTES, MAX_TOTAL_BYTES)

    def _compression(self) -> Compression:
        text = self._required(COMPRESSION)
        for known in CHUNK_MEDIA_TYPES:
            if text == known:
                return known
        raise ProtocolError(f"message: compression {text!r:.50}; gzip or zstd expected")

    def _payload_digest(self, *, lenient: bool) -> Digest | None:
        text = self.annotations.get(PAYLOAD_DIGEST)
        if text is None and lenient:
            return None
        digest = parse_digest(self._required(PAYLOAD_DIGEST))
        if not digest.startswith("sha256:"):
            raise ProtocolError(f"message: {PAYLOAD_DIGEST}: sha256 expected, {digest!r:.20} given")
        return digest


def _utf8_bytes(text: str) -> int:
    return len(text.encode("utf-8", "replace"))

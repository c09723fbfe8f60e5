"""The entries of an inbox."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from dockercomms.errors import InternalError, ProtocolError, guarded
from dockercomms.inbox.read import examine_times, is_retried
from dockercomms.oci.model import Digest
from dockercomms.platforms.clock import Clocks
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.header import MessageHeader
from dockercomms.state.inbox import Candidate, EntryState

SINCE_MARGIN = timedelta(hours=1)
"""Margin for wrong clocks: `since` includes messages published up to so much earlier."""

_FIRST_TIME = datetime(1970, 1, 1, tzinfo=UTC)


def published_after(since: datetime | None) -> datetime | None:
    """Return the earliest publishing time of a message created at or after `since`."""
    return None if since is None else max(since, _FIRST_TIME) - SINCE_MARGIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A listed message. Its header contains unproven claims of the sender."""

    me: str
    repo: str
    key: str
    """The row's key in the state: the digest, or the tag until the manifest is read."""
    digest: Digest | None
    tag: str | None
    state: EntryState
    reason_kind: str = ""
    """The reason it is held or refused, as a word for programs."""
    reason: str = ""
    """The reason as text for people; "" unless it is held, refused, or was received elsewhere."""
    reported: bool = False
    """The user has seen why it was not received (`Inbox.mark_reported`)."""
    retried: bool = False
    """`recv` tries this held message again now."""
    header: MessageHeader | None = None
    """None until its manifest is read."""
    expired: bool = False
    first_seen: datetime
    published: datetime | None = None

    @property
    def time(self) -> datetime:
        """The time of publishing, or the time we first saw it."""
        return self.published or self.first_seen

    @property
    def created(self) -> datetime:
        """The time of creation in its header, or `time`."""
        created = None if self.header is None else self.header.created_at
        return created or self.time


def entry_of(row: Candidate, clocks: Clocks) -> Entry:
    """Return the entry of a row, judged by the present times of the clocks."""
    header = _header(row)
    state, kind, reason = row.state, row.reason_kind, row.reason
    against = None
    if state == "new" and header is not None:  # the row has no verdict, but the clocks moved on
        against = examine_times(clocks, header.created_at, header.expires)
    if against is not None:
        state, kind, reason = "held", against.kind, against.reason
    stopped = state in ("held", "refused", "elsewhere")
    expires = None if header is None else header.expires
    return Entry(
        me=row.me,
        repo=row.repo,
        key=row.key,
        digest=row.digest,
        tag=row.tag,
        state=state,
        reason_kind=kind if stopped else "",
        reason=reason if stopped else "",
        reported=row.reported,
        retried=against is not None or (state == "held" and is_retried(row, clocks.own)),
        header=header,
        expired=expires is not None and clocks.agree(lambda now: now >= expires) is True,
        first_seen=row.first_seen,
        published=row.published,
    )


def id_of(row: Candidate) -> str:
    """Return the message id of a row, "" if its header is unknown."""
    header = _header(row)
    return "" if header is None else header.id


def _header(row: Candidate) -> MessageHeader | None:
    if row.header is None:
        return None
    try:
        with guarded(row.key):
            return MessageHeader.from_annotations(row.header)
    except (ProtocolError, InternalError):
        return None  # an older release accepted a header that this release rejects

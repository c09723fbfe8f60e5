"""Reading of candidates: fetch, hash and parse the manifest, then examine its header.

A message is refused for good only after its bytes were proven to be the candidate's. Errors that a
fault on the way can explain hold it for a later run. Source: SPEC.md section 7.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta

from dockercomms.errors import (
    BadAnswer,
    ClocksDiffer,
    DigestMismatch,
    DockerCommsError,
    InternalError,
    LocalIOError,
    NetworkError,
    NotFoundError,
    ProtocolError,
    RegistryError,
    Withdrawn,
    guarded,
)
from dockercomms.inbox.discover import ListingReader
from dockercomms.oci.interface import read_all
from dockercomms.oci.layout.registry import LayoutRegistry
from dockercomms.oci.model import MAX_MANIFEST_BYTES, Digest, matches
from dockercomms.platforms.clock import Clock, ClockChoice, Clocks
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.header import (
    ENCRYPTION,
    LAST_RETRY_SECONDS,
    MAX_FUTURE_SECONDS,
    UNDERSTOOD_KEYS,
)
from dockercomms.protocol.manifest import Message, parse_message
from dockercomms.protocol.tags import recipient_tag
from dockercomms.state import State
from dockercomms.state.deliveries import head_of
from dockercomms.state.inbox import Candidate
from dockercomms.transport.window import workers

HELD_INTEGRITY = "integrity"
"""The registry sent other bytes than requested: maybe a fault on the way."""
HELD_ANSWER = "answer"
"""The registry's answer is unusable, for example a login page. The message may be sound."""
HELD_MISSING = "missing"
"""A blob of it does not exist."""
HELD_WITHDRAWN = "withdrawn"
"""The manifest is listed but does not exist: deleted, or not there yet."""
HELD_TAG = "tag"
"""The digest of the tag's bytes is not the one in the tag's name."""
HELD_FUTURE = "future"
"""Created in the future."""
HELD_CLOCK = "clock"
"""This machine's clock and the registry's disagree about it."""
HELD_SEALED = "sealed"
"""Encrypted; this release cannot decrypt it."""
HELD_LIMIT = "limit"
"""Larger than the receiver accepts at all, or from a sender without a verified signature."""
HELD_INTERNAL = "internal"
"""It met a defect of ours. It is tried again, since a later release may read it."""
REFUSED_MALFORMED = "malformed"
REFUSED_RECIPIENT = "recipient"
REFUSED_AUDIENCE = "audience"

TIME_KINDS = frozenset({HELD_FUTURE, HELD_CLOCK})
"""Reasons that may end when the clocks are read again."""

READING_KINDS = TIME_KINDS | {
    HELD_ANSWER,
    HELD_INTEGRITY,
    HELD_INTERNAL,
    HELD_MISSING,
    HELD_TAG,
    HELD_SEALED,
    HELD_WITHDRAWN,
}
"""Reasons that reading finds; a successful reading ends them."""

FIRST_RETRY_SECONDS = 60
SHARE_FOR_READ = 4
"""One of so many fetches is kept for messages that an earlier run read and did not deliver."""

EAGER_TRIES = 5
"""Tries of a held row by every run. After them only due rows are tried, so an
index of deleted messages does not cost a request for each of them in every run."""

BATCH = 64
"""Manifests read between two writes to the state."""

HOPELESS_FAILURES = 3
"""Failures in a row after which no more requests are sent: the registry is down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxPlace:
    """An inbox in a repository, with the state and the clock to use."""

    registry: ListingReader
    repository: str
    repo: str
    """The repository's whole name, its key in the state."""
    me: str
    state: State
    clock: Clock
    audiences: frozenset[str] = frozenset()
    """Further repositories that are accepted as a message's audience."""
    choice: ClockChoice = "both"
    """The clock that decides about times."""

    @property
    def recipient_tag(self) -> str:
        """The name of `me` in tags."""
        return recipient_tag(self.me)

    @property
    def has_writers_clocks(self) -> bool:
        """The times in tags are those of the writers' clocks, so a new tag may sort anywhere."""
        return isinstance(self.registry, LayoutRegistry) or self.registry.server_time() is None

    def clocks(self) -> Clocks:
        """Return the present times of the clocks that judge messages."""
        return Clocks(self.clock.now(), self.registry.server_time(), self.choice)


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The reason why a message is not delivered now."""

    kind: str
    reason: str
    curable: bool = True
    """A later run tries it again."""
    again: datetime | None = None
    """The earliest time of that try, if it is known."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The reason why a message is never delivered."""

    kind: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The result of reading one row."""

    row: Candidate
    digest: Digest | None = None
    """The digest of the bytes, if they are proven to be the row's."""
    message: Message | None = None
    verdict: Held | Refused | None = None
    error: DockerCommsError | None = None
    """The verdict as an error; without a verdict, a fault unrelated to the message."""
    asked: bool = True
    """False if no request was sent, after too many failures."""


def retry_time(now: datetime, *, tries: int) -> datetime:
    """Return the time of the next try after `tries` failures: 1 min later, doubling up to 1 h."""
    seconds = min(FIRST_RETRY_SECONDS * 2 ** min(tries, 10), LAST_RETRY_SECONDS)
    return now + timedelta(seconds=seconds)


def is_retried(row: Candidate, now: datetime) -> bool:
    """Return whether a run started by a person tries a held row again."""
    if row.next_try is None:
        return False
    if row.next_try <= now or is_out_of_time(row, now):
        return True
    return row.tries < EAGER_TRIES and row.reason_kind not in (HELD_TAG, HELD_FUTURE)


def is_out_of_time(row: Candidate, now: datetime) -> bool:
    """Return whether a row waits too long: our clock was ahead when the row was held."""
    if row.next_try is None or row.reason_kind == HELD_FUTURE:
        return False
    return row.next_try > now + timedelta(seconds=LAST_RETRY_SECONDS)


def examine(place: InboxPlace, message: Message) -> Held | Refused | None:
    """Return the verdict on a message by its header, None if it may be delivered.

    Expiry is no verdict, since each pass compares it anew. Clocks that disagree about it are one.
    """
    header = message.header
    if header.recipient != place.me:
        return Refused(
            REFUSED_RECIPIENT, f"for {header.recipient!r:.200}, found in the inbox of {place.me!r}"
        )
    if header.audience is not None and header.audience not in (place.repo, *place.audiences):
        return Refused(REFUSED_AUDIENCE, f"meant for {header.audience!r:.300} only")
    if header.encryption is not None:
        return Held(
            kind=HELD_SEALED,
            reason=f"sealed with {header.encryption!r:.50}, which this release cannot open",
            curable=False,
        )
    return examine_times(place.clocks(), header.created_at, header.expires)


def examine_times(
    clocks: Clocks, created: datetime | None, expires: datetime | None
) -> Held | None:
    """Return the verdict on a message by the clocks, None if it may be delivered."""
    if created is not None:
        start = created - timedelta(seconds=MAX_FUTURE_SECONDS)
        is_early = clocks.agree(lambda now: now < start)
        if is_early:
            return Held(
                kind=HELD_FUTURE,
                reason=f"created in the future, {created:%Y-%m-%d %H:%M:%S}Z: "
                f"held until {start:%Y-%m-%d %H:%M:%S}Z; {clocks}",
                again=start,
            )
        if is_early is None:
            return Held(
                kind=HELD_CLOCK,
                reason=f"created {created:%Y-%m-%d %H:%M:%S}Z, in the future by one clock and not "
                f"by the other: {clocks}",
            )
    if expires is not None and clocks.agree(lambda now: now >= expires) is None:
        return Held(
            kind=HELD_CLOCK,
            reason=f"expires {expires:%Y-%m-%d %H:%M:%S}Z, past by one clock and not by the "
            f"other: {clocks}",
        )
    return None


def read_row(place: InboxPlace, row: Candidate) -> Reading:
    """Return the result of fetching and examining one row. It writes and raises no error.

    A 1.0 tag names no digest, so its bytes are refused only if a second request confirms their
    digest.
    """
    try:
        with guarded(row.key):
            return _read_row(place, row)
    except InternalError as error:
        return _held(row, HELD_INTERNAL, error)


def _read_row(place: InboxPlace, row: Candidate) -> Reading:
    reading = _read_once(place, row)
    digest, error = reading.digest, reading.error
    if digest is None or error is None or not isinstance(reading.verdict, Refused):
        return reading
    if row.digest is None and row.head is None and not _is_confirmed(place, row.key, digest):
        return _held(row, HELD_INTEGRITY, error)
    return reading


def _is_confirmed(place: InboxPlace, tag: str, digest: Digest) -> bool:
    try:
        return place.registry.resolve_tag(place.repository, tag).digest == digest
    except (RegistryError, NetworkError, ProtocolError):
        return False


def _read_once(place: InboxPlace, row: Candidate) -> Reading:
    try:
        data, digest = _fetch(place, row)
    except NotFoundError as error:
        text = f"{row.digest or row.key}: withdrawn by its sender or the registry: {error}"
        return _held(row, HELD_WITHDRAWN, Withdrawn(text))
    except BadAnswer as error:
        return _held(row, HELD_ANSWER, error)
    except ProtocolError as error:
        return _held(row, HELD_INTEGRITY, error)
    except (RegistryError, NetworkError, LocalIOError) as error:
        return Reading(row=row, error=error)
    if row.digest is None and row.head is not None and head_of(digest) != row.head:
        found = f"{place.repo}:{row.key}: sha256:{row.head}… expected, {digest} found"
        hint = "the tag was changed; the message may still be found by its digest"
        return _held(row, HELD_TAG, DigestMismatch(found, hint=hint))
    try:
        message = parse_message(data)
    except ProtocolError as error:
        verdict = Refused(REFUSED_MALFORMED, str(error))
        return Reading(row=row, digest=digest, verdict=verdict, error=error)
    return examined(place, row, message)


def examined(place: InboxPlace, row: Candidate, message: Message) -> Reading:
    """Return the reading of a row with its parsed message."""
    if message.form == "image":
        place.state.progress.note_image_form(place.repo, "seen")
    verdict = examine(place, message)
    error: DockerCommsError | None = None
    if verdict is not None:
        kind = ClocksDiffer if verdict.kind == HELD_CLOCK else ProtocolError
        error = kind(f"{message.digest}: {verdict.reason}")
    return Reading(row=row, digest=message.digest, message=message, verdict=verdict, error=error)


def _fetch(place: InboxPlace, row: Candidate) -> tuple[bytes, Digest]:
    """Return the row's bytes and their digest.

    Raises:
        DockerCommsError: as `Reader.get_manifest` and `get_tag`.
    """
    registry, repository = place.registry, place.repository
    if row.digest is None:
        data, descriptor = read_all(registry.get_tag(repository, row.key), MAX_MANIFEST_BYTES)
        return data, descriptor.digest
    data, _ = read_all(registry.get_manifest(repository, row.digest), MAX_MANIFEST_BYTES)
    if not matches(data, row.digest):
        raise DigestMismatch(f"{row.digest}: other content of {len(data)} bytes received")
    return data, row.digest


def _held(row: Candidate, kind: str, error: DockerCommsError) -> Reading:
    return Reading(row=row, verdict=Held(kind=kind, reason=str(error)), error=error)


class Allowance:
    """The number of manifests that this run may still fetch. Safe for several threads."""

    def __init__(self, manifests: int) -> None:
        self._lock = threading.Lock()
        self.left = manifests

    def take(self, *, keep: int = 0) -> bool:
        """Take one fetch if more than `keep` are left; return whether it did."""
        with self._lock:
            has = self.left > keep
            self.left -= has
            return has


def read_group(
    place: InboxPlace,
    rows: Sequence[Candidate],
    allowance: Allowance | None = None,
    *,
    keep: int = 0,
) -> list[Reading]:
    """Return the results of reading rows that may be one message: digests first, then tags.

    A tag that ends in the head of a digest read before belongs to that message and is not fetched.
    If the digest cannot be read, the tag is: an index may lie. Rows beyond the allowance are left
    for another run.
    """
    readings: list[Reading] = []
    proven: Digest | None = None
    for row in sorted(rows, key=lambda row: row.digest is None):
        if row.digest is None and row.head is not None and proven is None:
            known = place.state.inbox.by_head(place.me, place.repo, row.head)
            proven = next((other.digest for other in known if other.proven), None)
        if row.digest is None and proven is not None:
            readings.append(Reading(row=row, digest=proven))
            continue
        if allowance is not None and not allowance.take(keep=keep):
            break
        reading = read_row(place, row)
        readings.append(reading)
        proven = reading.digest if not row.legacy else None
    return readings


def read_groups(
    place: InboxPlace,
    groups: Sequence[Sequence[Candidate]],
    *,
    concurrency: int,
    allowance: Allowance | None = None,
    keep: int = 0,
) -> Iterator[list[Reading]]:
    """Yield readings of `groups` in batches, each written to the state before it is yielded.

    After `HOPELESS_FAILURES` in a row, the rest is yielded as failed without a request.

    Args:
        place: The inbox.
        groups: Rows that may be one message each.
        concurrency: The number of manifests fetched at the same time.
        allowance: The manifests that may be fetched; None: all.
        keep: The part of the allowance to leave for other work.
    """
    failures = Failures()

    def read(group: Sequence[Candidate]) -> list[Reading]:
        if failures.lost is not None:
            return [Reading(row=row, error=failures.lost, asked=False) for row in group]
        readings = read_group(place, group, allowance, keep=keep)
        failures.note(next((r.error for r in readings if r.error and _is_hopeless(r)), None))
        return readings

    for start in range(0, len(groups), BATCH):
        with workers(max(1, concurrency)) as pool:  # its threads end before the yield
            batch = [r for rs in pool.map(read, groups[start : start + BATCH]) for r in rs]
        record(place, batch)
        yield batch


def _is_hopeless(reading: Reading) -> bool:
    """Return whether the registry failed, not the message."""
    return reading.verdict is None or isinstance(reading.error, BadAnswer)


class Failures:
    """A count of failures in a row, with the last error once there are too many. Thread-safe."""

    def __init__(self) -> None:
        self._in_row = 0
        self._lock = threading.Lock()
        self.total = 0
        self.lost: DockerCommsError | None = None
        """The error after `HOPELESS_FAILURES` in a row."""

    def note(self, failure: DockerCommsError | None) -> None:
        """Count a failure, or a success."""
        with self._lock:
            self._in_row = 0 if failure is None else self._in_row + 1
            self.total += failure is not None
            if self._in_row >= HOPELESS_FAILURES:
                self.lost = failure

    def forgive(self) -> None:
        """Start a new row of failures."""
        self._in_row, self.lost = 0, None


class MessageCache:
    """The messages read in this run, up to a limit in bytes of manifests."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._size = 0
        self._messages: dict[Digest, Message] = {}

    def get(self, digest: Digest | None) -> Message | None:
        """Return a message, None if it is not cached."""
        return None if digest is None else self._messages.get(digest)

    def put(self, message: Message) -> None:
        """Add a message; without room, drop the newest, since the oldest are fetched first."""
        if message.digest in self._messages:
            return
        self._messages[message.digest] = message
        self._size += message.descriptor.size
        while self._size > self._limit:
            _, dropped = self._messages.popitem()
            self._size -= dropped.descriptor.size


def record(place: InboxPlace, readings: Iterable[Reading]) -> None:
    """Write the results of reading to the state, in one transaction."""
    with place.state.inbox.batch():
        for reading in readings:
            try:
                with guarded(reading.row.key):
                    _record(place, reading)
            except InternalError as error:
                _record(place, _held(reading.row, HELD_INTERNAL, error))


def is_recorded(reading: Reading) -> bool:
    """Return whether the state already has this reading, so no commit to disk is needed."""
    row = reading.row
    return (
        reading.error is None
        and reading.verdict is None
        and row.proven
        and row.state == "new"
        and row.digest == reading.digest
        and row.reason_kind not in READING_KINDS
    )


def _record(place: InboxPlace, reading: Reading) -> None:
    rows, me, repo = place.state.inbox, place.me, place.repo
    row, message, now = reading.row, reading.message, place.clock.now()
    key = row.key
    if reading.digest is not None:
        header = None
        if message is not None:
            header = {
                name: value
                for name, value in message.descriptor.annotations.items()
                if name in UNDERSTOOD_KEYS or name == ENCRYPTION
            }
        expires = None if message is None else message.header.expires
        rows.set_read(me, repo, key, reading.digest, now=now, header=header, expires=expires)
        key = reading.digest
    verdict = reading.verdict
    if isinstance(verdict, Refused):
        rows.set_refused(me, repo, key, verdict.kind, verdict.reason)
    elif verdict is not None:
        again = verdict.again
        if again is None and verdict.curable:
            again = retry_time(now, tries=row.tries)
        rows.set_held(me, repo, key, verdict.kind, verdict.reason, next_try=again)
    elif reading.error is not None:
        if reading.asked and row.state == "new":
            rows.set_new(me, repo, key, tried=1)
    elif message is not None and (row.state == "refused" or row.reason_kind in READING_KINDS):
        rows.set_new(me, repo, key)

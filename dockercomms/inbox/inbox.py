"""The inbox of one recipient.

    poll      writes new messages of the repository as rows of the state
    entries   reads the manifests of these rows and lists them
    fetch     returns the message of an entry, or raises why it cannot be received

Source: SPEC.md section 7.

Example:
    >>> import pathlib, tempfile
    >>> from dockercomms.inbox.inbox import Inbox
    >>> from dockercomms.oci.memory import MemoryRegistry
    >>> from dockercomms.platforms.clock import SystemClock
    >>> from dockercomms.state import State
    >>> with State(pathlib.Path(tempfile.mkdtemp()) / "state.db") as state:
    ...     inbox = Inbox(
    ...         MemoryRegistry(), "box", repo="r.example/box", me="bob@example.com",
    ...         state=state, clock=SystemClock(),
    ...     )
    ...     inbox.poll().repository_missing, inbox.entries()
    (True, [])
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from datetime import datetime
from itertools import islice

from dockercomms.errors import (
    DockerCommsError,
    IntegrityError,
    InternalError,
    LimitError,
    NetworkError,
    NotFoundError,
    ProtocolError,
    RegistryError,
    UsageError,
)
from dockercomms.inbox.discover import (
    ListingReader,
    discover_by_referrers,
    discover_by_tag_schema,
    discover_by_tags,
    seek_tags,
)
from dockercomms.inbox.entries import Entry, entry_of, id_of, published_after
from dockercomms.inbox.poll import REFS_AT_ONCE, Discovery, Poller, PollResult
from dockercomms.inbox.read import (
    EAGER_TRIES,
    HELD_INTEGRITY,
    HELD_INTERNAL,
    HELD_TAG,
    READING_KINDS,
    SHARE_FOR_READ,
    Allowance,
    Held,
    InboxPlace,
    MessageCache,
    Reading,
    Refused,
    examined,
    is_recorded,
    read_groups,
    record,
    retry_time,
)
from dockercomms.oci.model import Digest
from dockercomms.platforms.clock import Clock, ClockChoice
from dockercomms.protocol.header import MAX_FETCHED_MANIFESTS
from dockercomms.protocol.manifest import Message
from dockercomms.protocol.tags import BUNDLE_PREFIX, HEAD_DIGITS, MessageRef
from dockercomms.state import State
from dockercomms.state.inbox import Candidate, EntryState
from dockercomms.state.trust import JudgedRow

__all__ = [
    "Entry",
    "Inbox",
    "MessageRef",
    "PollResult",
    "discover_by_referrers",
    "discover_by_tag_schema",
    "discover_by_tags",
]

MAX_ALIKE = 20
"""The most messages with one id in a hint."""

MAX_JUDGED = MAX_FETCHED_MANIFESTS
"""The most messages with one id whose signatures are checked to choose between them."""

MIN_PREFIX_CHARACTERS = 4
"""Shorter ids collide too often."""

_HEAD = slice(len(BUNDLE_PREFIX), len(BUNDLE_PREFIX) + HEAD_DIGITS)
"""The place of the message's digest in a bundle's tag (SPEC.md section 5)."""

CACHED_MANIFEST_BYTES = 32 * 2**20
"""The most bytes of manifests kept from listing until fetching, to ask for each only once."""

_HELD: tuple[EntryState, ...] = ("held",)
_REFUSED: tuple[EntryState, ...] = ("refused",)
_ELSEWHERE: tuple[EntryState, ...] = ("elsewhere",)
_SETTLED: tuple[EntryState, ...] = ("refused", "elsewhere", "delivered")
_LISTED_ORDER = {
    "delivering": 0,
    "new": 0,
    "held": 1,
    "refused": 2,
    "elsewhere": 3,
    "delivered": 4,
}


class Inbox:
    """One recipient's inbox in one repository.

    Not safe for several threads; any number of processes may use the same state.

    Args:
        registry: The store.
        repository: The repository's name in that store.
        repo: The repository's whole name: its key in the state, and the name to compare an
            `audience` with.
        me: The recipient, byte for byte as senders write it.
        state: The state of this machine.
        clock: The clock of this machine.
        discovery: "referrers" lists no tags, "tags" asks no anchors, "auto" does both.
        audiences: Further repositories that are accepted as a message's audience.
        choice: The clock that decides whether a message has expired or comes from the future.
        concurrency: The number of manifests fetched at the same time.
        max_fetched: The most manifests fetched between two calls of `poll`, besides those that
            are requested by name.

    Raises:
        UsageError: `me` is empty or not Unicode text.
    """

    def __init__(
        self,
        registry: ListingReader,
        repository: str,
        *,
        repo: str,
        me: str,
        state: State,
        clock: Clock,
        discovery: Discovery = "auto",
        audiences: Iterable[str] = (),
        choice: ClockChoice = "both",
        concurrency: int = 4,
        max_fetched: int = MAX_FETCHED_MANIFESTS,
    ) -> None:
        if not me or not _is_text(me):
            raise UsageError(f"not a recipient: {me!r:.200}", hint="give your name with --me")
        self._place = InboxPlace(
            registry=registry,
            repository=repository,
            repo=repo,
            me=me,
            state=state,
            clock=clock,
            audiences=frozenset(audiences),
            choice=choice,
        )
        self._poller = Poller(self._place, discovery=discovery)
        self._concurrency = concurrency
        self._max_fetched = max_fetched
        self._allowance = Allowance(max_fetched)
        self._unread = self._left_out = 0
        self._has_bundles = False
        self._rows = state.inbox
        self._messages = MessageCache(CACHED_MANIFEST_BYTES)
        self._failures: dict[str, DockerCommsError] = {}
        self._tag_changed = False

    @property
    def me(self) -> str:
        """The recipient."""
        return self._place.me

    @property
    def repo(self) -> str:
        """The repository's whole name."""
        return self._place.repo

    @property
    def waiting(self) -> int:
        """The number of candidates that a later run reads, as the allowance of this one is used."""
        return self._unread + self._left_out

    def poll(self, *, complete: bool = False, watching: bool = False) -> PollResult:
        """Find new messages in the repository; see `Poller.poll`."""
        self._failures.clear()
        self._allowance = Allowance(self._max_fetched)
        self._unread = self._left_out = 0
        self._has_bundles = False
        self._messages = MessageCache(CACHED_MANIFEST_BYTES)  # a watch polls for months
        return self._poller.poll(complete=complete, watching=watching)

    # --- listing ---------------------------------------------------------------------------------

    def entries(
        self,
        *,
        since: datetime | None = None,
        all: bool = False,  # noqa: A002 - as the option is called
        elsewhere: bool = False,
    ) -> list[Entry]:
        """Return the messages of the inbox: new before held before refused, each oldest first.

        Fetches manifests not seen before, at most `max_fetched` in a run; the other messages stay
        new without a header. A message that cannot be read does not hide another.

        Args:
            since: Leave out messages created before.
            all: Also messages delivered, expired, received elsewhere, or refused and reported.
            elsewhere: Also messages received elsewhere.

        Raises:
            LocalIOError: the state, or a local store.
        """
        self._read(since=since, expired=all)
        live = None if all else self._place.clocks().earliest
        published = published_after(since)
        listed: tuple[EntryState, ...] = ("new", "delivering", "held")
        if all:
            rows = self._candidates((*listed, *_SETTLED), live, published)
        else:
            rows = self._candidates(listed, live, published)
            rows += self._candidates(_REFUSED, live, published, unreported=True)
            rows += self._candidates(_ELSEWHERE, live, published) if elsewhere else []
        return self._listed(rows, since)

    def receivable(
        self,
        *,
        since: datetime | None = None,
        all: bool = False,  # noqa: A002 - as the option is called
        elsewhere: bool = False,
    ) -> list[Entry]:
        """Return the messages that a run delivers or reports, in the order of `entries`.

        Leaves out messages that it failed to read or cannot fetch any more (see `waiting`).

        Args:
            since: As in `entries`.
            all: As in `entries`; delivered messages need no fetch of the allowance.
            elsewhere: As in `entries`.

        Raises:
            LocalIOError: the state, or a local store.
        """
        if all:
            entries = self.entries(since=since, all=True)
            read = [entry for entry in entries if entry.header or entry.state != "new"]
            failed = [entry for entry in entries if entry.key in self._failures]
            return self._affordable([*read, *(entry for entry in failed if entry not in read)])
        self._read(since=since)
        rows = self._rows.receivable(
            self.me,
            self.repo,
            unexpired_at=self._place.clocks().earliest,
            published_after=published_after(since),
            limit=max(1, self._max_fetched),
        )
        if elsewhere:
            published = published_after(since)
            rows += self._candidates(_ELSEWHERE, None, published)
        found = {row.key for row in rows}
        failed_rows = (self._rows.candidate(self.me, self.repo, key) for key in self._failures)
        rows += [row for row in failed_rows if row is not None and row.key not in found]
        return self._affordable(self._listed(rows, since))

    def _listed(self, rows: Iterable[Candidate], since: datetime | None) -> list[Entry]:
        """Return the entries of rows, without the row of a tag if its digest has a row too."""
        rows = list(rows)
        clocks = self._place.clocks()
        heads = {row.head for row in rows if row.digest is not None}
        entries = [
            entry_of(row, clocks)
            for row in rows
            if row.digest is not None or row.reason_kind == HELD_TAG or row.head not in heads
        ]
        entries = [entry for entry in entries if since is None or entry.created >= since]
        return sorted(entries, key=lambda entry: (_LISTED_ORDER[entry.state], entry.time))

    def can_fetch(self, entry: Entry) -> bool:
        """Return whether the run's allowance permits fetching the message."""
        return self._is_free(entry) or self._allowance.left > 0

    def _is_free(self, entry: Entry) -> bool:
        """Return whether receiving or reporting an entry needs no fetch of the allowance."""
        if entry.key in self._failures or self._messages.get(entry.digest) is not None:
            return True
        if entry.state in ("refused", "delivered"):
            return True
        return entry.state == "held" and not entry.retried and (entry.reported or not entry.header)

    def _affordable(self, entries: Sequence[Entry]) -> list[Entry]:
        """Return the entries that the run can fetch; up to half of the fetches go to held ones."""
        waits = {e.key for e in entries if e.state == "held" and not e.header and e.retried}
        entries = [e for e in entries if self._is_free(e) or e.key not in waits]  # read later
        costly = [entry for entry in entries if not self._is_free(entry)]
        held = [entry for entry in costly if entry.state == "held"]
        left = max(0, self._allowance.left)
        first = [entry for entry in costly if entry.state != "held"]
        chosen = first[: left - min(len(held), left // 2)]
        chosen += held[: left - len(chosen)]
        self._left_out = len(costly) - len(chosen)
        kept = {entry.key for entry in chosen}
        return [entry for entry in entries if entry.key in kept or self._is_free(entry)]

    def find(self, prefix: str) -> list[Entry]:
        """Return the messages whose id or digest begins with `prefix`, at least one.

        Refused messages are returned only without another match: a copied id hides no message.

        Raises:
            UsageError: fewer than 4 characters.
            NotFoundError: no message matches.
            IntegrityError: no message matches, but one could not be read.
        """
        if len(prefix.removeprefix("sha256:")) < MIN_PREFIX_CHARACTERS:
            raise UsageError(
                f"ID prefix {prefix!r:.100} too short: at least {MIN_PREFIX_CHARACTERS} characters"
            )
        found = self._match(prefix)
        if not found:
            self._read(expired=True)
            found = self._match(prefix)
        if not found:
            raise self._missing(prefix)
        clocks = self._place.clocks()
        return [entry_of(row, clocks) for row in found]

    def is_meant(self, entry: Entry) -> bool:
        """Return whether an entry is delivered, or its signature is verified."""
        if entry.state in ("delivering", "delivered"):
            return True
        judged = self._judgement(entry)
        return judged is not None and judged.signer is not None

    def is_judged(self, entry: Entry) -> bool:
        """Return whether the signature was checked under the present policy."""
        return self._judgement(entry) is not None

    def _judgement(self, entry: Entry) -> JudgedRow | None:
        if entry.digest is None:
            return None
        return self._place.state.trust.judgement(self.me, self.repo, entry.digest)

    def _missing(self, prefix: str) -> DockerCommsError:
        """Return the error that no readable message begins with `prefix`."""
        text = f"no message {prefix!r:.100} in the inbox of {self.me!r} in {self.repo}"
        damaged = [
            row
            for row in self._candidates(_HELD, None, None)
            if row.header is None and row.reason_kind in (HELD_INTEGRITY, HELD_TAG, HELD_INTERNAL)
        ]
        for row in damaged:
            return IntegrityError(f"{text}, but {len(damaged)} cannot be read: {row.reason}")
        return NotFoundError(text, hint="dockercomms inbox --all lists them")

    def mark_reported(self, entries: Iterable[Entry]) -> None:
        """Record that the user has seen why these are held or refused."""
        rows = [row for entry in entries if (row := self._current(entry)) is not None]
        self._rows.set_reported(self.me, self.repo, [row.key for row in rows])

    # --- the first look --------------------------------------------------------------------------

    @property
    def is_first_look(self) -> bool:
        """It is not yet known which messages were received elsewhere."""
        return self._place.state.progress.is_first_look(self.me, self.repo)

    def end_first_look(self) -> None:
        """Record that the messages received elsewhere are known."""
        self._place.state.progress.end_first_look(self.me, self.repo)

    def has_answered(self, digest: Digest) -> bool:
        """Return whether this machine wrote a receipt for a message."""
        place = self._place
        return place.state.receipts.last(self.repo, self.me, digest) is not None

    def set_elsewhere(self, digest: Digest, reason: str) -> None:
        """Record that a message was received elsewhere, with the proof."""
        self._rows.set_elsewhere(self.me, self.repo, digest, reason)

    def has_failed(self, entry: Entry) -> bool:
        """Return whether this run failed to read an entry; `fetch` raises the error."""
        return entry.key in self._failures

    # --- fetching --------------------------------------------------------------------------------

    def fetch(self, entry: Entry) -> Message:
        """Return the message of an entry, verified by its digest and examined by its header.

        Uses the manifests that `entries` read in the same run. The caller checks the expiry
        (`Entry.expired`).

        Raises:
            ProtocolError: it is refused, or held: damaged, from the future or encrypted.
            NotFoundError: it is held because the registry does not have it.
            AuthError, NetworkError, RegistryError: no verdict; the row stays as it is.
            LocalIOError: the state, or a local store.
        """
        failure = self._failures.pop(entry.key, None)
        if failure is not None:
            raise failure
        row = self._current(entry)
        if row is None:
            raise NotFoundError(f"{entry.digest or entry.key}: no longer in the inbox")
        return self._message(row)

    def batch(self) -> AbstractContextManager[object]:
        """Return a block that makes its calls of `hold` and `refuse` one transaction.

        Send no request inside: every other process waits for the transaction.
        """
        return self._rows.batch()

    def hold(
        self,
        digest: Digest,
        kind: str,
        reason: str,
        *,
        curable: bool = True,
        at_once: bool = False,
    ) -> None:
        """Hold a fetched message and, if it is curable, note when to try it again.

        Args:
            digest: The message.
            kind: The reason, as a word for programs.
            reason: The reason, for people.
            curable: A later try may succeed.
            at_once: The next run tries it again.
        """
        row = self._rows.candidate(self.me, self.repo, digest)
        now = again = self._place.clock.now() if curable else None
        if now is not None and not at_once:
            again = retry_time(now, tries=0 if row is None else row.tries)
        self._rows.set_held(self.me, self.repo, digest, kind, reason, next_try=again)

    def hold_defect(self, entry: Entry, error: InternalError) -> None:
        """Hold a message that met a defect of ours, unless `_read` has held it for one."""
        row = self._current(entry)
        if row is None or (row.state == "held" and row.reason_kind == HELD_INTERNAL):
            return
        again = retry_time(self._place.clock.now(), tries=row.tries)
        key = row.key
        self._rows.set_held(self.me, self.repo, key, HELD_INTERNAL, str(error), next_try=again)

    def refuse(self, digest: Digest, kind: str, reason: str) -> None:
        """Refuse a fetched message for good: its own bytes break the protocol."""
        self._rows.set_refused(self.me, self.repo, digest, kind, reason)

    # --- inside ----------------------------------------------------------------------------------

    def _read(self, *, since: datetime | None = None, expired: bool = False) -> None:
        """Read the candidates; if a tag was changed, also the messages that its anchors list."""
        self._read_rows(since=since, expired=expired)
        if self._look_behind_changed_tags():
            self._read_rows(since=since, expired=expired)

    def _read_rows(self, *, since: datetime | None, expired: bool) -> None:
        """Fetch the candidates that are due, within the run's allowance."""
        clocks = self._place.clocks()
        live = None if expired else clocks.earliest
        share = self._max_fetched // SHARE_FOR_READ
        read_before = self._rows.receivable(self.me, self.repo, unexpired_at=live, limit=share)
        entries = [entry_of(row, clocks) for row in read_before if row.header]
        keep = min(share, sum(not self._is_free(entry) for entry in entries))
        limit = max(0, self._allowance.left - keep)
        self._look_for_bundles(limit, live)
        groups = self._rows.next_unread(
            self.me,
            self.repo,
            now=clocks.own,
            live=live,
            since=published_after(since),
            limit=limit,
            kinds=READING_KINDS,
            eager_tries=EAGER_TRIES,
        )
        groups = [group for group in groups if not any(row.key in self._failures for row in group)]
        for batch in read_groups(
            self._place,
            groups,
            concurrency=self._concurrency,
            allowance=self._allowance,
            keep=keep,
        ):
            for reading in batch:
                self._note(reading)
        self._unread = 0
        if self._allowance.left <= keep:
            self._unread = self._rows.count_unread(self.me, self.repo, live=live)

    def _look_for_bundles(self, limit: int, live: datetime | None) -> None:
        """Mark candidates that have a bundle, if the run cannot read every candidate.

        Lists the tags of all bundles, once in a run. Signed messages are read first, so a flood of
        tags does not delay them.
        """
        if self._has_bundles or self._rows.count_unread(self.me, self.repo, live=live) <= limit:
            return
        self._has_bundles = True
        self._rows.set_bundled((), anew=True)
        tags = seek_tags(
            self._place.registry, self._place.repository, BUNDLE_PREFIX, start_after=["bundle"]
        )
        with suppress(RegistryError, NetworkError, ProtocolError, LimitError):  # optional
            while heads := {tag[_HEAD] for tag in islice(tags, REFS_AT_ONCE)}:
                self._rows.set_bundled(heads, anew=False)

    def _note(self, reading: Reading) -> None:
        if reading.message is not None:
            self._messages.put(reading.message)
        if isinstance(reading.verdict, Held) and reading.verdict.kind == HELD_TAG:
            self._tag_changed |= reading.row.reason_kind != HELD_TAG
        elif reading.error is not None and not isinstance(reading.verdict, Refused):
            self._failures[reading.digest or reading.row.key] = reading.error

    def _look_behind_changed_tags(self) -> bool:
        """Ask all anchors if a tag was found changed since the last call; return whether."""
        asked = self._tag_changed
        if asked:
            self._tag_changed = False
            self._poller.ask_all_anchors()
        return asked

    def _message(self, row: Candidate) -> Message:
        """Return the message of a row; raise its verdict as an error."""
        message = self._messages.get(row.digest)
        if message is not None:
            reading = examined(self._place, row, message)
            if not is_recorded(reading):
                record(self._place, [reading])
        else:
            self._allowance.take()
            (batch,) = read_groups(self._place, [[row]], concurrency=1)
            reading = batch[-1]
            self._note(reading)
            self._failures.pop(row.key, None)
            self._look_behind_changed_tags()
        if reading.error is not None:
            raise reading.error
        if reading.message is not None:
            return reading.message
        # The row of the tag was joined to that of its digest, which was read before.
        joined = self._rows.candidate(self.me, self.repo, reading.digest or row.key)
        if joined is None or joined.key == row.key:
            raise AssertionError("internal: a reading without message and error")
        return self._message(joined)

    def _candidates(
        self,
        states: Collection[EntryState],
        live: datetime | None,
        published: datetime | None,
        *,
        unreported: bool = False,
    ) -> list[Candidate]:
        return self._rows.candidates(
            self.me,
            self.repo,
            states=states,
            unexpired_at=live,
            published_after=published,
            unreported=unreported,
        )

    def _current(self, entry: Entry) -> Candidate | None:
        """Return the row of an entry, or the row to which it was joined."""
        row = self._rows.candidate(self.me, self.repo, entry.key)
        if row is None and entry.digest is not None:
            row = self._rows.candidate(self.me, self.repo, entry.digest)
        if row is None and entry.tag is not None:
            head = MessageRef(tag=entry.tag).head
            rows = [] if head is None else self._rows.by_head(self.me, self.repo, head)
            row = rows[0] if rows else None
        return row

    def _match(self, prefix: str) -> list[Candidate]:
        rows = self._rows.by_prefix(self.me, self.repo, prefix)
        rows = [row for row in rows if row.state != "refused"] or rows
        whole = [row for row in rows if id_of(row) == prefix]
        return whole or rows


def _is_text(text: str) -> bool:
    return text == text.encode("utf-8", "replace").decode("utf-8")


# --- several names ------------------------------------------------------------------------------


def poll_all(
    inboxes: Sequence[Inbox], *, complete: bool = False, watching: bool = False
) -> PollResult:
    """Poll the inbox of each name; return one result for all.

    Args:
        inboxes: One for each name.
        complete: Search the whole repository, even parts known already.
        watching: Stop after a bell that has not changed, if no other work is due.

    Raises:
        RegistryError, NetworkError: the registry did not answer the search.
        LocalIOError: the state cannot be used.
    """
    polls = [inbox.poll(complete=complete, watching=watching) for inbox in inboxes]
    return PollResult(
        complete=all(poll.complete for poll in polls),
        errors=tuple(error for poll in polls for error in poll.errors),
        repository_missing=all(poll.repository_missing for poll in polls),
        idle=all(poll.idle for poll in polls),
        rang=any(poll.rang for poll in polls),
        clocks=polls[-1].clocks,
    )


def find_in(
    inboxes: Sequence[Inbox],
    prefix: str,
    *,
    judge: Callable[[Inbox, Sequence[Entry]], object] | None = None,
) -> tuple[int, Entry]:
    """Return the one message that begins with `prefix`, and the number of its inbox.

    Of several matches it is the one that was delivered or has a verified signature: a copied id
    does not make the original ambiguous.

    Args:
        inboxes: One for each name.
        prefix: The start of an id or digest.
        judge: Checks signatures; None: use the stored judgements.

    Raises:
        NotFoundError: no inbox has it.
        IntegrityError: no inbox has it, but one has a message that cannot be read.
        UsageError: `prefix` is too short, or several messages begin with it.
    """
    found: list[tuple[int, Entry]] = []
    missing: NotFoundError | IntegrityError | None = None
    for number, inbox in enumerate(inboxes):
        try:
            found += [(number, entry) for entry in inbox.find(prefix)]
        except (NotFoundError, IntegrityError) as error:
            missing = error
    if len(found) > 1:
        meant = [one for one in found if inboxes[one[0]].is_meant(one[1])]
        if judge is not None and len(meant) != 1:
            for number, inbox in enumerate(inboxes):
                ours = [entry for of, entry in found if of == number]
                judge(inbox, [one for one in ours if not inbox.is_judged(one)][:MAX_JUDGED])
            meant = [one for one in found if inboxes[one[0]].is_meant(one[1])]
        found = meant or found
    if len(found) > 1:
        several = len(inboxes) > 1
        raise UsageError(
            f"{len(found)} messages begin with {prefix!r:.100}",
            hint="\n".join(
                f"{entry.digest or entry.key}{f', for {entry.me}' * several}"
                for _, entry in found[:MAX_ALIKE]
            ),
        )
    for one in found:
        return one
    raise missing or AssertionError("internal: no inbox to find anything in")

"""One pass of discovery over an inbox.

1. Send HEAD for the bell, before any listing.
2. List tags from the last complete pass on, then ask the anchors of the same days by referrers or,
   without that API, by the tag schema. If one way fails, the finds of the others are kept.
3. Write the finds of each way as rows. Write the bell's digest and the day of the pass after all
   rows, and only if the pass was complete.

Source: SPEC.md section 7.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Literal

from dockercomms.errors import (
    AuthError,
    BadAnswer,
    DockerCommsError,
    InternalError,
    LimitError,
    NameUnknown,
    NetworkError,
    NotFoundError,
    ProtocolError,
    RegistryError,
    TooManyRequests,
    guarded,
)
from dockercomms.inbox.discover import (
    LISTING_FORBIDDEN,
    TagsSeen,
    Way,
    discover_by_referrers,
    discover_by_tag_schema,
    discover_by_tags,
)
from dockercomms.inbox.read import HELD_CLOCK, TIME_KINDS, InboxPlace
from dockercomms.oci.model import Digest
from dockercomms.platforms.clock import Clocks
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.header import (
    CLOCK_ERROR_SECONDS,
    FORMS,
    FULL_PASS_SECONDS,
    MAX_FETCHED_MANIFESTS,
    RECONCILE_SECONDS,
    ManifestForm,
)
from dockercomms.protocol.tags import MessageRef, anchor_tag, bell_tag
from dockercomms.state.progress import Capabilities, Progress

Discovery = Literal["auto", "referrers", "tags"]


FIRST_PASS_DAYS = 30
"""Days whose anchors the first pass asks if the registry does not list tags: four times the default
time to live, at one request for each day."""

REFS_AT_ONCE = 1000
"""The most finds in memory before they are written: a watch stays small on a day with many
messages."""

MAX_ANCHORS = 400
"""The most anchors asked in one pass, the newest ones: every client that can push can add more."""

_NOT_FOUND = 404
_WAY_ERRORS = (RegistryError, NetworkError, ProtocolError, LimitError, InternalError)


@dataclass(frozen=True, slots=True, kw_only=True)
class PollResult:
    """The result of a pass."""

    complete: bool
    """The pass listed the whole inbox."""
    errors: tuple[tuple[Way | Literal["bell"], DockerCommsError], ...] = ()
    """The ways that failed; the state has the finds of the others."""
    repository_missing: bool = False
    """The repository does not exist yet; the inbox counts as empty."""
    idle: bool = False
    """The pass read only the bell, which has not changed."""
    rang: bool = False
    """The bell has changed since the last complete pass."""
    clocks: Clocks | None = None
    """The times of our clock and the registry's; None before the first request."""

    @property
    def clocks_differ(self) -> bool:
        """The deciding clocks are so far apart that messages may be held for it."""
        return self.clocks is not None and self.clocks.apart > timedelta(
            seconds=CLOCK_ERROR_SECONDS
        )


class Poller:
    """Makes passes over one inbox. Not safe for several threads; several processes may poll.

    Args:
        place: The inbox.
        discovery: "referrers" lists no tags, "tags" asks no anchors, "auto" does both.
    """

    def __init__(self, place: InboxPlace, *, discovery: Discovery = "auto") -> None:
        self._place = place
        self._discovery = discovery

    def poll(self, *, complete: bool = False, watching: bool = False) -> PollResult:
        """Find new messages and write them to the state.

        Args:
            complete: Read the whole tag list and ask all anchors, even those seen before.
            watching: Stop after the bell if it has not changed and no other work is due.

        Raises:
            AuthError, NetworkError, RegistryError, ProtocolError: no request was answered.
            LocalIOError: the state, or a local store.
        """
        place = self._place
        place.state.progress.begin_first_look(place.me, place.repo, now=place.clock.now())
        step = _Pass(self._place, self._discovery, complete=complete)
        step.listen(watching=watching)
        if watching and step.is_idle():
            return replace(step.result(), complete=False, idle=True)
        step.search()
        step.note()
        return step.result()

    def ask_all_anchors(self) -> PollResult:
        """Ask every known anchor, by referrers or tag schema, after a tag was found changed.

        Raises:
            LocalIOError: the state, or a local store.
        """
        step = _Pass(self._place, self._discovery, complete=True)
        if self._discovery != "tags":
            known = self._place.state.progress.anchors(self._place.me, self._place.repo)
            step.ask_anchors(sorted(known)[-MAX_ANCHORS:])
        return step.result()


class _Pass:
    """One pass, with its finds so far."""

    def __init__(self, place: InboxPlace, discovery: Discovery, *, complete: bool) -> None:
        self._place = place
        self._discovery = discovery
        self._thorough = complete
        self._rows = place.state.inbox
        self._before: Progress = place.state.progress.progress(place.me, place.repo)
        self._anchors = place.state.progress.anchors(place.me, place.repo)
        self._now = place.clock.now()
        self._today = self._now.date()
        self._bell: Digest | None = None
        self._full = complete or self._is_due(self._before.full_pass_at, FULL_PASS_SECONDS)
        self._errors: list[tuple[Way | Literal["bell"], DockerCommsError]] = []
        self._answered: set[Way] = set()
        self._forbidden = discovery == "referrers"
        self._missing = False
        self._searched_at = self._before.bell_searched_at

    # --- the bell --------------------------------------------------------------------------------

    def listen(self, *, watching: bool = False) -> None:
        """Read the bell; fail if the registry does not answer at all or denies access.

        A watch also fails if the registry is busy or unreachable: it comes again later.
        """
        place = self._place
        try:
            with guarded(bell_tag(place.recipient_tag)):
                bell = place.registry.resolve_tag(place.repository, bell_tag(place.recipient_tag))
            self._bell = bell.digest
        except NotFoundError:
            pass  # 1.0 senders move no bell tag, and some registries let no tag be moved
        except AuthError:
            raise
        except _WAY_ERRORS as error:
            busy = isinstance(error, TooManyRequests | NetworkError)
            if place.registry.server_time() is None or (watching and busy):
                raise
            self._errors.append(("bell", error))
        today = (place.registry.server_time() or self._now).date()
        self._today = min(today, date.max - timedelta(days=1))  # the next day is asked for, too
        self._reconsider()

    def _reconsider(self) -> None:
        """Read again the messages held because of the clocks, if the clocks agree now."""
        clocks = self._place.clocks()
        if clocks.apart <= timedelta(seconds=CLOCK_ERROR_SECONDS) or clocks.choice == "either":
            kinds = TIME_KINDS if clocks.choice != "both" else {HELD_CLOCK}
            self._rows.reconsider(self._place.me, self._place.repo, kinds)

    def is_idle(self) -> bool:
        """Return whether the bell has not changed and no work is due."""
        return (
            not self._errors
            and self._bell == self._before.bell
            and not self._is_due(self._before.reconciled_at, RECONCILE_SECONDS)
            and not self._rows.pending(
                self._place.me,
                self._place.repo,
                now=self._now,
                alive_at=self._place.clocks().earliest,
            )
        )

    # --- the ways --------------------------------------------------------------------------------

    def search(self) -> None:
        """Search all ways, and the whole inbox again if no way found the bell's message."""
        self._search_once()
        if self._missing or self._bell is None or self._is_known(self._bell):
            return
        listed = "tags" in self._answered and not self._full
        if listed and self._is_due(self._searched_at, RECONCILE_SECONDS):
            self._full = True
            self._list_tags()
        if not self._is_known(self._bell) and not self._is_gone(self._bell):
            self._rows.add(
                self._place.me, self._place.repo, [MessageRef(digest=self._bell)], now=self._now
            )
        self._searched_at = self._now

    def _is_gone(self, digest: Digest) -> bool:
        """Return whether the bell's message does not exist: deleted, or a wrong answer."""
        try:
            with guarded(digest):
                self._place.registry.resolve_manifest(self._place.repository, digest)
        except NotFoundError:
            return True
        except _WAY_ERRORS:
            pass  # reading the message later shows the error
        return False

    def _search_once(self) -> None:
        if self._discovery != "referrers":
            self._list_tags()
        if self._discovery != "tags" and not self._missing:
            self.ask_anchors(self._days())
        if not self._answered and not self._missing and self._errors:
            # Without any answer the inbox must not look empty.
            raise self._errors[0][1]

    def _list_tags(self) -> None:
        place, seen = self._place, TagsSeen()
        refs = discover_by_tags(
            place.registry,
            place.repository,
            place.recipient_tag,
            start_after=self._starts(),
            whole=self._thorough,
            seen=seen,
        )
        error = self._take("tags", refs)
        if error is None and not seen.anything:
            error = self._look_for_repository()
        anchors = frozenset(seen.anchors)
        if error is None:
            self._forbidden = False
            self._anchors = anchors if self._full else self._anchors | anchors
            self._learn(replace(self._capabilities(), seek=seen.ordered))
            if self._full:
                self._check_legacy()
        else:
            if isinstance(error, BadAnswer) and error.status == _NOT_FOUND:
                raise error  # the server is no registry, so the inbox is unknown, not empty
            self._anchors |= anchors
            self._missing = isinstance(error, NameUnknown) and self._bell is None
            self._forbidden = isinstance(error, RegistryError) and (
                isinstance(error, AuthError | NotFoundError) or error.status in LISTING_FORBIDDEN
            )
            if not self._missing:
                self._errors.append(("tags", error))
        place.state.progress.set_anchors(place.me, place.repo, self._anchors)

    def _look_for_repository(self) -> NameUnknown | None:
        """Return the error of a missing repository, None if it may exist.

        distribution answers 200 and no tags to a list after a tag for a repository that it does
        not know (measured on v3.1.2). Asked only until the first complete pass.
        """
        place = self._place
        if self._bell is not None or self._before.day is not None:
            return None
        try:
            with guarded("the answer about tags"):
                next(iter(place.registry.tag_pages(place.repository, page_size=1)), None)
        except NameUnknown as error:
            self._answered.discard("tags")
            return error
        except _WAY_ERRORS:
            pass  # the tag list was read before; this request only tells empty from missing
        return None

    def _starts(self) -> list[str]:
        """Return the tags after which to list, best first: the latest that misses no message.

        Anchors known to exist come first: zot answers 404 for a missing tag. An older anchor does
        not lengthen the list, since a day without an anchor has no messages.
        """
        if self._thorough or self._capabilities().seek is False:
            return []
        rt = self._place.recipient_tag
        starts = []
        first = self._first_day()
        if not self._full and first is not None and not self._place.has_writers_clocks:
            older = sorted((day for day in self._anchors if day <= first), reverse=True)[:2]
            starts = [anchor_tag(rt, day) for day in older or [first]]
        return [*starts, bell_tag(rt)]

    def _first_day(self) -> date | None:
        """Return the day before the last complete pass, None before the first one."""
        if self._before.day is None:
            return None
        return min(self._before.day, self._today) - timedelta(days=1)

    def _days(self) -> list[date]:
        """Return the days whose anchors are asked, oldest first, at most `MAX_ANCHORS`.

        If tags were listed, these are only days with a known anchor.
        """
        first, last = self._first_day(), self._today + timedelta(days=1)
        if self._thorough:
            first = None
        if "tags" in self._answered:
            known = sorted(day for day in self._anchors if day <= last)
            return [day for day in known if first is None or day >= first][-MAX_ANCHORS:]
        earliest = self._today - timedelta(days=FIRST_PASS_DAYS)
        if self._thorough and self._before.day is not None:
            earliest = min(earliest, self._before.day - timedelta(days=1))
        first = earliest if first is None else first
        count = min((last - first).days + 1, MAX_ANCHORS)  # a registry may send the year 9998
        days = {last - timedelta(days=number) for number in range(count)}
        if self._thorough:
            days |= {day for day in self._anchors if day <= last}
        return sorted(days)[-MAX_ANCHORS:]

    def ask_anchors(self, days: Sequence[date]) -> None:
        """Ask the anchors of `days`, in order, by referrers or by the tag schema.

        An error of one day does not stop the others, except a NetworkError.
        """
        place = self._place
        if not days:
            return
        way: Way = "referrers"
        try:
            with guarded(f"the answer about {way}"):
                if not self._has_referrers():
                    way = "tag-schema"
        except _WAY_ERRORS as error:
            self._errors.append((way, error))
            return
        forms = self._forms()
        for day in days:
            rt = place.recipient_tag
            if way == "referrers":
                refs = discover_by_referrers(place.registry, place.repository, rt, [day], forms)
            else:
                refs = discover_by_tag_schema(place.registry, place.repository, rt, [day], forms)
            broken = self._take(way, refs)
            if broken is not None:
                self._errors.append((way, broken))
            if isinstance(broken, NetworkError):
                return

    def _forms(self) -> tuple[ManifestForm, ...]:
        """Return the forms of anchors to ask: both if senders use, or may use, the image form."""
        place = self._place
        if "tags" in self._answered and place.state.progress.image_form(place.repo) is None:
            return ("artifact",)
        return FORMS

    def _take(self, way: Way, refs: Iterator[MessageRef]) -> DockerCommsError | None:
        """Write the finds of a way, also if it fails; return its error."""
        found: list[MessageRef] = []
        error: DockerCommsError | None = None
        try:
            with guarded(f"the answer about {way}"):
                for ref in refs:
                    found.append(ref)
                    if len(found) == REFS_AT_ONCE:
                        self._write(found)
                        found = []
        except _WAY_ERRORS as broken:
            error = broken
        self._write(found)
        if error is None:
            self._answered.add(way)
        return error

    def _write(self, found: Sequence[MessageRef]) -> None:
        self._rows.add(self._place.me, self._place.repo, found, now=self._now)

    def _check_legacy(self) -> None:
        """Resolve known 1.0 tags again: the 1.0 program overwrites them without notice."""
        place = self._place
        same: list[str] = []
        moved: list[str] = []
        known = self._rows.legacy_tags(place.me, place.repo, limit=MAX_FETCHED_MANIFESTS)
        for tag, digest in known.items():
            try:
                with guarded(tag):
                    found = place.registry.resolve_tag(place.repository, tag).digest
            except NotFoundError:
                found = digest  # deleted
            except InternalError as error:
                self._errors.append(("tags", error))
                continue
            except _WAY_ERRORS as error:
                self._errors.append(("tags", error))
                break
            (same if found == digest else moved).append(tag)
        for tags, was_moved in ((same, False), (moved, True)):
            self._rows.check_legacy(place.me, place.repo, tags, moved=was_moved, now=self._now)

    # --- progress --------------------------------------------------------------------------------

    def note(self) -> None:
        """Write the progress of a complete pass, after its rows."""
        place = self._place
        if self._missing:
            return
        listed = "tags" in self._answered
        progress = replace(self._before, bell_searched_at=self._searched_at)
        if self._is_complete():
            progress = replace(progress, bell=self._bell, day=self._today, reconciled_at=self._now)
            if self._full and listed:
                progress = replace(progress, full_pass_at=self._now)
        if progress != self._before:
            place.state.progress.set_progress(place.me, place.repo, progress)
        if self._full and listed:
            now = place.state.clocks.settle(place.clocks())
            if now is not None:
                self._rows.sweep(place.me, place.repo, now=now)
                place.state.trust.sweep(place.me, place.repo, now=now)
                place.state.streams.sweep(now=now)

    def result(self) -> PollResult:
        return PollResult(
            complete=self._is_complete(),
            errors=tuple(self._errors),
            repository_missing=self._missing,
            rang=self._bell != self._before.bell,
            clocks=self._place.clocks(),
        )

    def _is_complete(self) -> bool:
        if self._missing or "tags" in self._answered:
            return True
        return self._forbidden and bool(self._answered)

    def _is_known(self, digest: Digest) -> bool:
        return self._rows.knows(self._place.me, self._place.repo, digest)

    def _is_due(self, last: datetime | None, seconds: float) -> bool:
        """Return whether `last` is `seconds` ago, or in the future because our clock went back."""
        return last is None or not 0 <= (self._now - last).total_seconds() < seconds

    def _capabilities(self) -> Capabilities:
        """Return the known capabilities of the repository, without outdated ones."""
        return self._place.state.progress.capabilities(self._place.repo).believed(self._now)

    def _has_referrers(self) -> bool:
        known = self._capabilities()
        if known.referrers is not None:
            return known.referrers
        supported = self._place.registry.referrers_supported(self._place.repository)
        self._learn(replace(known, referrers=supported))
        return supported

    def _learn(self, capabilities: Capabilities) -> None:
        if capabilities != self._capabilities():
            self._place.state.progress.set_capabilities(self._place.repo, capabilities)

"""Collecting garbage: what expired more than a day ago goes, and what only served it.

The registry's clock decides, and what the annotations say; bundles and receipts go before their
message, so that a run that is stopped leaves messages whole or without them, and the next run goes
on. Nothing that cannot be read, or is of a later protocol, is touched.

Source: SPEC.md section 11.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import field, replace
from datetime import date, datetime, timedelta
from typing import Literal

from dockercomms.errors import (
    AuthError,
    ConfigError,
    DockerCommsError,
    InternalError,
    NotFoundError,
    ProtocolError,
    RegistryError,
    TooManyRequests,
    Unsupported,
    guarded,
)
from dockercomms.inbox.discover import anchor_digest
from dockercomms.oci.client import direct
from dockercomms.oci.interface import Registry
from dockercomms.oci.layout.registry import LayoutRegistry, Swept, sweep_layout
from dockercomms.oci.model import Digest, digest_of, parse_index
from dockercomms.oci.reference import referrers_tag
from dockercomms.platforms.clock import Clock, ClockChoice, Clocks
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.header import CLOCK_ERROR_SECONDS, FORMS
from dockercomms.protocol.manifest import Message, Receipt, parse_message
from dockercomms.protocol.tags import bell_tag, receipt_id, recipient_tag
from dockercomms.relay.inventory import (
    Fetched,
    attached_to,
    digest_at,
    fetch,
    fetch_all,
    is_past,
    list_tags,
    message_about,
    subject_of,
)
from dockercomms.relay.retention import advice_for
from dockercomms.state import State

ANCHOR_DAYS = 2
"""An anchor stays for so many days after its own: a send that was begun then may still go on."""

LOCAL_BATCH = 64
"""Messages for which a folder's index is written once: each time costs as much as it is long."""

REFUSALS_ENOUGH = 3
"""After so many deletions that were refused, and none that was not, no further is tried."""

_TAGS_FIRST = frozenset({400, 403, 409, 412})
"""How registries refuse to delete what still has tags (Docker Hub, Google)."""

CollectedKind = Literal["message", "receipt", "bundle", "index", "anchor"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """One thing that was removed, or would be, or could not be."""

    kind: CollectedKind
    digest: Digest | None
    """None where not even that is known."""
    status: Literal["removed", "would-remove", "failed"]
    tag: str | None = None
    id: str = ""
    """Of the message that it is, or is about."""
    sender: str = ""
    recipient: str = ""
    expired_at: datetime | None = None
    error: DockerCommsError | None = None


@dataclass(slots=True)
class _Seen:
    """What is in the inbox of `name`; of what stays no more is kept than its fate depends on."""

    name: str
    now: datetime
    past: list[Message] = field(default_factory=list)
    """Past their time."""
    staying: set[Digest | None] = field(default_factory=set)
    """The subjects of everything else."""
    tags: dict[Digest, list[str]] = field(default_factory=dict)
    """Of all manifests."""
    blind: bool = False
    """Something could not be read, so nobody knows what its subject is."""
    defects: list[Collected] = field(default_factory=list)
    """At which a defect of ours was met; they stay."""

    def add(self, fetched: Fetched) -> None:
        """Take what was under a tag or digest; what is gone meanwhile is nothing."""
        try:
            with guarded(fetched.ref):
                self._take(fetched)
        except InternalError as error:
            self._stay(fetched, error)

    def _stay(self, fetched: Fetched, error: InternalError) -> None:
        self.blind = True
        digest = fetched.digest if fetched.error is None else None
        tag = fetched.ref if fetched.is_tag else None
        self.defects.append(
            Collected(kind="message", digest=digest, status="failed", tag=tag, error=error)
        )

    def _take(self, fetched: Fetched) -> None:
        if isinstance(fetched.error, InternalError):
            raise fetched.error
        if fetched.error is not None:
            self.blind = self.blind or not isinstance(fetched.error, NotFoundError)
            return
        digest = fetched.digest
        if digest not in self.tags:
            message = _message_in(fetched.data)
            if message is not None and self._is_past(message):
                self.past.append(message)
            else:
                self.staying.add(subject_of(fetched.data))
            self.tags[digest] = []
        if fetched.is_tag:
            self.tags[digest].append(fetched.ref)

    def _is_past(self, message: Message) -> bool:
        return message.header.recipient == self.name and is_past(message, self.now)


@dataclass(slots=True)
class _AttachedTags:
    """The tags of bundles and receipts."""

    about: dict[str, list[str]] = field(default_factory=dict)
    """By the head of the digest of the message that they are about."""
    in_bulk: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    """Those under which a sender finds receipts, by sender and rid."""

    def bulk_tags(self, receipt: Receipt) -> list[str]:
        """Return the tags under which the message's sender finds a receipt, or one like it."""
        rid = receipt_id(receipt.message, receipt.recipient, receipt.status)
        return self.in_bulk.get((recipient_tag(receipt.sender), rid), [])


def _described(kind: CollectedKind, digest: Digest, message: Message | None) -> Collected:
    """Return an object that could not be removed, of the message that it is or is about."""
    done = Collected(kind=kind, digest=digest, status="failed")
    if message is None:
        return done
    header = message.header
    return replace(
        done,
        id=header.id,
        sender=header.sender,
        recipient=header.recipient,
        expired_at=header.expires,
    )


def _message_in(data: bytes) -> Message | None:
    try:
        return parse_message(data)
    except ProtocolError:
        return None


@dataclass(slots=True, kw_only=True)
class Collector:
    """Removes garbage from one repository. Not safe for several threads.

    Args:
        registry: The store.
        repository: The repository's name in it.
        repo: Its full name, for errors.
        clock: Ours.
        state: Knows what was delivered; None: nothing was.
        dry_run: Only say what would go.
        choice: Whose time decides; "both": they may be an hour apart, and the earlier one counts.
    """

    registry: Registry
    repository: str
    repo: str
    clock: Clock
    state: State | None = None
    dry_run: bool = False
    choice: ClockChoice = "both"
    unread: int = field(default=0, init=False)
    """Messages that expired by our clock alone, that nobody has read, and that stay therefore."""
    swept: Swept = field(default_factory=Swept, init=False)
    """Content that went with it from a folder or archive; a registry has its own collection."""
    _done: int = field(default=0, init=False)
    _refused: list[RegistryError] = field(default_factory=list, init=False)
    _tags_stay: bool | None = field(default=None, init=False)
    """Whether the tags of a manifest outlive its deletion by digest (go-containerregistry)."""

    def collect(self, names: Sequence[str]) -> Iterator[Collected]:
        """Remove what is past its time in the inboxes of `names`; yields what became of each.

        1. the clocks, which must agree
        2. every manifest in the inbox, by its tags and by the anchors' referrers
        3. of each message past its time: receipts and bundles, then itself, then its index
        4. the anchors of days long past that no manifest which stays has as its subject
        5. in a folder or archive, the content that nothing refers to any more

        Raises:
            ConfigError: our clock and the registry's are more than an hour apart.
            AuthError, Unsupported: tags may not be listed, or nothing may be deleted; with a hint
                that says what to do instead. The latter comes last.
            RegistryError, NetworkError: the registry cannot tell.
        """
        now = self._now(recipient_tag(names[0]) if names else "")
        for name in names:
            yield from self._collect(name, now)
        layout = direct(self.registry)
        if self._done and isinstance(layout, LayoutRegistry):
            self.swept = sweep_layout(layout)
        if self._refused and not self._done:
            raise self._explained(self._refused[0])

    # --- looking ---------------------------------------------------------------------------------

    def _now(self, rt: str) -> datetime:
        """Return the time by which things are removed.

        Raises:
            ConfigError: our clock and the registry's are more than an hour apart.
        """
        try:
            self.registry.resolve_tag(self.repository, bell_tag(rt))
        except NotFoundError:
            pass
        clocks = Clocks(self.clock.now(), self.registry.server_time(), self.choice)
        hours = clocks.apart.total_seconds() / 3600
        if clocks.apart > timedelta(seconds=CLOCK_ERROR_SECONDS):
            raise ConfigError(
                f"{self.repo}: {clocks}, {hours:.1f} h apart; nothing was removed",
                hint="set the wrong one right, or say which is right: --clock own, or "
                "--clock registry",
            )
        return clocks.earliest

    def _is_alone(self) -> bool:
        """Return whether our clock alone says what has expired, and nobody said that it may."""
        has_clock = self.registry.server_time() is not None and not isinstance(
            direct(self.registry), LayoutRegistry
        )
        return not has_clock and self.choice == "both"

    def _collect(self, name: str, now: datetime) -> Iterator[Collected]:
        rt = recipient_tag(name)
        tags: list[str] = []
        anchors: dict[date, str] = {}
        for tag in list_tags(self.registry, self.repository, f"{bell_tag(rt)}-"):
            if tag.kind == "anchor" and tag.day is not None:
                anchors[tag.day] = tag.name
            else:
                tags.append(tag.name)
        seen = _Seen(name, now)
        self._read(seen, rt, tags, anchors)
        yield from seen.defects
        extra = self._attached_tags() if seen.past else _AttachedTags()
        if self._is_alone():
            self._keep_unread(seen, extra)
        layout = direct(self.registry)
        if not isinstance(layout, LayoutRegistry) or self.dry_run:
            for message in seen.past:
                yield from self._remove(seen, message, extra)
        else:
            for first in range(0, len(seen.past), LOCAL_BATCH):
                done: list[Collected] = []
                with layout.batch():
                    for message in seen.past[first : first + LOCAL_BATCH]:
                        done += self._remove(seen, message, extra)
                yield from done
        if not seen.blind:
            yield from self._remove_anchors(rt, anchors, now.date(), seen.staying)

    def _read(self, seen: _Seen, rt: str, tags: Sequence[str], anchors: Mapping[date, str]) -> None:
        """Take in all that has a tag in an inbox, or refers to one of its anchors."""
        for fetched in fetch_all(self.registry, self.repository, tags):
            seen.add(fetched)
        loose = {digest for digest in self._referring(rt, anchors, seen) if digest not in seen.tags}
        for fetched in fetch_all(self.registry, self.repository, loose):
            seen.add(fetched)

    def _referring(self, rt: str, anchors: Iterable[date], seen: _Seen) -> Iterator[Digest]:
        """Yield what is listed for the anchors, by the registry or by the tag schema."""
        for day in anchors:
            try:
                with guarded(f"the referrers of the anchor of {day}"):
                    for form in FORMS:
                        subject = anchor_digest(rt, day, form)
                        for entry in self.registry.referrers(self.repository, subject):
                            yield entry.digest
            except NotFoundError:
                continue
            except (RegistryError, ProtocolError, InternalError):
                seen.blind = True

    def _attached_tags(self) -> _AttachedTags:
        """Return the tags of all bundles and receipts."""
        found = _AttachedTags()
        for prefix in ("bundle-", "receipt"):
            for tag in list_tags(self.registry, self.repository, prefix):
                if tag.kind == "receipts":
                    found.in_bulk.setdefault((tag.rt, tag.head or ""), []).append(tag.name)
                else:
                    found.about.setdefault(tag.about, []).append(tag.name)
        return found

    def _keep_unread(self, seen: _Seen, extra: _AttachedTags) -> None:
        """Take out of what is past its time what nobody has read: our clock may be ahead."""
        past, seen.past = seen.past, []
        for message in past:
            if self._is_read(message, extra):
                seen.past.append(message)
            else:
                self.unread += 1
                seen.staying.add(None if message.subject is None else message.subject.digest)

    def _is_read(self, message: Message, extra: _AttachedTags) -> bool:
        """Return whether a message was delivered here, or its recipient has answered it."""
        recipient, digest = message.header.recipient, message.digest
        if self.state is not None and self.state.inbox.delivery(recipient, digest) is not None:
            return True
        tags = extra.about.get(message_about(digest), [])
        attached = attached_to(self.registry, self.repository, digest, tags)
        return any(
            isinstance(item.what, Receipt) and item.what.recipient == recipient for item in attached
        )

    # --- removing --------------------------------------------------------------------------------

    def _remove(self, seen: _Seen, message: Message, extra: _AttachedTags) -> Iterator[Collected]:
        gone = False
        try:
            with guarded(message.digest):
                gone = yield from self._remove_message(message, seen.tags[message.digest], extra)
        except InternalError as error:
            yield replace(_described("message", message.digest, message), error=error)
        if not gone:
            seen.staying.add(None if message.subject is None else message.subject.digest)

    def _remove_message(
        self, message: Message, tags: Sequence[str], extra: _AttachedTags
    ) -> Generator[Collected, None, bool]:
        """Remove one message and what is about it; returns whether it is gone."""
        own = extra.about.get(message_about(message.digest), [])
        removed: set[Digest] = set()
        for item in attached_to(self.registry, self.repository, message.digest, own):
            is_receipt = isinstance(item.what, Receipt)
            bulk = extra.bulk_tags(item.what) if isinstance(item.what, Receipt) else []
            done = self._remove_manifest(
                "receipt" if is_receipt else "bundle", item.digest, (*item.tags, *bulk), message
            )
            yield done
            if done.status == "failed":
                return False
            removed.add(item.digest)
        bell = bell_tag(recipient_tag(message.header.recipient))
        done = self._remove_manifest("message", message.digest, (*tags, bell), message)
        yield done
        if done.status == "failed":
            return False
        yield from self._remove_index(message.digest, removed, message)
        return True

    def _remove_index(
        self, subject: Digest, removed: Collection[Digest], message: Message | None
    ) -> Iterator[Collected]:
        """Remove the tag schema's index of what is gone, if it is one and of nothing else."""
        tag = referrers_tag(subject)
        try:
            data = fetch(self.registry, self.repository, tag)
            entries = parse_index(data, where=tag).manifests
        except (NotFoundError, ProtocolError):
            return
        left = {entry.digest for entry in entries} - set(removed)
        for fetched in fetch_all(self.registry, self.repository, left):
            # It is the index of something that lives as well, and its own digest is that one's.
            if fetched.error is None and subject_of(fetched.data) != subject:
                return
        yield self._remove_manifest("index", digest_of(data), (tag,), message)

    def _remove_anchors(
        self, rt: str, anchors: Mapping[date, str], today: date, staying: set[Digest | None]
    ) -> Iterator[Collected]:
        for day, tag in sorted(anchors.items()):
            forms = [anchor_digest(rt, day, form) for form in FORMS]
            if (today - day).days <= ANCHOR_DAYS or not staying.isdisjoint(forms):
                continue
            try:
                with guarded(tag):
                    yield from self._remove_anchor(forms, tag)
            except InternalError as error:
                yield replace(_described("anchor", forms[0], None), tag=tag, error=error)

    def _remove_anchor(self, forms: Collection[Digest], tag: str) -> Iterator[Collected]:
        """Remove what an anchor's tag points at, if it is one of `forms` of that anchor."""
        try:
            digest = self.registry.resolve_tag(self.repository, tag).digest
        except NotFoundError:
            return
        if digest not in forms:
            return  # somebody else's
        done = self._remove_manifest("anchor", digest, (tag,), None)
        yield done
        if done.status != "failed":
            yield from self._remove_index(digest, (), None)

    def _remove_manifest(
        self, kind: CollectedKind, digest: Digest, tags: Sequence[str], message: Message | None
    ) -> Collected:
        """Remove one manifest with its tags.

        Raises:
            AuthError, Unsupported: it seems that nothing may be deleted here.
            TooManyRequests, NetworkError: the registry gave no answer about it.
        """
        done = replace(_described(kind, digest, message), tag=next(iter(tags), None))
        if self.dry_run:
            return replace(done, status="would-remove")
        try:
            self._delete(digest, tags)
        except TooManyRequests:
            raise
        except RegistryError as error:
            self._refused.append(error)
            if not self._done and len(self._refused) >= REFUSALS_ENOUGH:
                raise self._explained(error) from error
            return replace(done, status="failed", error=error)
        self._done += 1
        return replace(done, status="removed")

    def _delete(self, digest: Digest, tags: Sequence[str]) -> None:
        try:
            self.registry.delete_manifest(self.repository, digest)
        except NotFoundError:
            pass  # somebody else removed it; its tags may be left
        except RegistryError as error:
            if error.status not in _TAGS_FIRST or not self._delete_tags(digest, tags):
                raise
            self.registry.delete_manifest(self.repository, digest)
        for tag in tags:
            if self._tags_stay is False:
                return
            self._tags_stay = self._tags_stay or self._points_at(tag, digest)
            if self._tags_stay and self._points_at(tag, digest):
                self.registry.delete_tag(self.repository, tag)

    def _delete_tags(self, digest: Digest, tags: Sequence[str]) -> bool:
        """Delete tags, where a manifest may only go after them; return whether all are gone.

        Raises:
            Unsupported: this registry deletes no tags.
        """
        try:
            for tag in tags:
                if self._points_at(tag, digest):
                    self.registry.delete_tag(self.repository, tag)
        except Unsupported:
            raise
        except RegistryError:
            return False
        return bool(tags)

    def _points_at(self, tag: str, digest: Digest) -> bool:
        return digest_at(self.registry, self.repository, tag) == digest

    def _explained(self, error: RegistryError) -> RegistryError:
        """Return a refusal with what to do instead."""
        kind = type(error) if isinstance(error, AuthError) else Unsupported
        return kind(
            f"{self.repo}: what has expired cannot be deleted: {error.message}",
            code=error.code or None,
            status=error.status,
            method=error.method,
            url=error.url,
            hint=advice_for(self.repo),
        )

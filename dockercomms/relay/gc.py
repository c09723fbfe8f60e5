"""Removal of messages that expired more than a day ago, with their bundles, receipts and indexes.

The registry's clock and the annotations decide. Bundles and receipts go before their message, so
that the next run can continue an interrupted one. Manifests that are unreadable, or of a later
protocol version, stay.

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
from dockercomms.oci.hub import direct
from dockercomms.oci.layout.registry import LayoutRegistry, Swept, sweep_layout
from dockercomms.oci.model import Digest, digest_of, parse_index
from dockercomms.oci.reference import referrers_tag
from dockercomms.oci.stores import Store
from dockercomms.platforms.clock import Clock, ClockChoice, Clocks
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.header import CLOCK_ERROR_SECONDS, FORMS
from dockercomms.protocol.manifest import Message, Receipt, parse_message
from dockercomms.protocol.tags import bell_tag, recipient_tag
from dockercomms.relay.compare import AttachedTags, bulk_key
from dockercomms.relay.inventory import (
    LOCAL_BATCH,
    Fetched,
    attached_to,
    digest_at,
    fetch,
    fetch_all,
    is_past,
    list_tags,
    subject_of,
)
from dockercomms.relay.retention import advice_for
from dockercomms.state import State

ANCHOR_DAYS = 2
"""An anchor stays this many days after its own day: a send that began then may still run."""

REFUSALS_ENOUGH = 3
"""The run stops deleting after this many refusals without a success."""

_TAGS_FIRST = frozenset({400, 403, 409, 412})
"""Status codes of registries that refuse to delete a tagged manifest (Docker Hub, Google)."""

CollectedKind = Literal["message", "receipt", "bundle", "index", "anchor"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """An object that was removed, would be removed, or could not be removed."""

    kind: CollectedKind
    digest: Digest | None
    """Missing if the digest is not known."""
    status: Literal["removed", "would-remove", "failed"]
    tag: str | None = None
    id: str = ""
    """The id of the message, or of the message that the object is about."""
    sender: str = ""
    recipient: str = ""
    expired_at: datetime | None = None
    error: DockerCommsError | None = None


@dataclass(slots=True)
class _Seen:
    """The content of one inbox. Of objects that stay it keeps only their subjects and tags."""

    name: str
    now: datetime
    past: list[Message] = field(default_factory=list)
    """Expired messages."""
    staying: set[Digest | None] = field(default_factory=set)
    """The subjects of all other objects."""
    tags: dict[Digest, list[str]] = field(default_factory=dict)
    """The tags of all manifests."""
    blind: bool = False
    """A manifest was unreadable, so its subject is unknown and may be any anchor."""
    defects: list[Collected] = field(default_factory=list)
    """Objects that met a defect of this program; they stay."""

    def add(self, fetched: Fetched) -> None:
        """Add a manifest; ignore one that was removed meanwhile."""
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


def _described(kind: CollectedKind, digest: Digest, message: Message | None) -> Collected:
    """Return the record of an object that failed, with the message that it is or is about."""
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
    """Removes expired objects from one repository. Not safe for several threads.

    Args:
        store: The repository.
        clock: The local clock.
        state: The record of received messages; None: there is no record.
        dry_run: Only report the objects that a run would remove.
        choice: The clock that decides; "both": the earlier one, and they may differ by an hour.
    """

    store: Store
    clock: Clock
    state: State | None = None
    dry_run: bool = False
    choice: ClockChoice = "both"
    unread: int = field(default=0, init=False)
    """Unread messages that expired only by the local clock; they stay."""
    swept: Swept = field(default_factory=Swept, init=False)
    """Content removed from a folder or archive; a registry removes content by itself."""
    _done: int = field(default=0, init=False)
    _refused: list[RegistryError] = field(default_factory=list, init=False)
    _tags_stay: bool | None = field(default=None, init=False)
    """True if the tags of a manifest outlive its deletion by digest (go-containerregistry)."""

    def collect(self, names: Sequence[str]) -> Iterator[Collected]:
        """Remove expired objects from the inboxes of `names`; yield a result for each.

        1. compare the clocks
        2. read every manifest in the inbox: its tags, and its anchors' referrers
        3. for each expired message: remove receipts and bundles, the message, its index
        4. remove old anchors that are not the subject of a manifest that stays
        5. in a folder or archive, remove content without a reference

        Raises:
            ConfigError: the local clock and the registry's differ by more than an hour.
            AuthError, Unsupported: the registry refuses to list tags, or to delete; with a hint
                for its owner. A refusal to delete is raised last.
            RegistryError, NetworkError: the registry refuses or is not reachable.
        """
        now = self._now(recipient_tag(names[0]) if names else "")
        for name in names:
            yield from self._collect(name, now)
        layout = direct(self.store.registry)
        if self._done and isinstance(layout, LayoutRegistry):
            self.swept = sweep_layout(layout)
        if self._refused and not self._done:
            raise self._explained(self._refused[0])

    # --- looking ---------------------------------------------------------------------------------

    def _now(self, rt: str) -> datetime:
        """Return the time that decides.

        Raises:
            ConfigError: the local clock and the registry's differ by more than an hour.
        """
        try:
            self.store.registry.resolve_tag(self.store.repository, bell_tag(rt))
        except NotFoundError:
            pass
        clocks = Clocks(self.clock.now(), self.store.registry.server_time(), self.choice)
        hours = clocks.apart.total_seconds() / 3600
        if clocks.apart > timedelta(seconds=CLOCK_ERROR_SECONDS):
            raise ConfigError(
                f"{self.store.repo}: {clocks}, {hours:.1f} h apart; nothing was removed",
                hint="correct the wrong clock, or choose the right one: --clock own, or "
                "--clock registry",
            )
        return clocks.earliest

    def _is_alone(self) -> bool:
        """Return whether only the local clock decides, and the user did not choose that."""
        has_clock = self.store.registry.server_time() is not None and not isinstance(
            direct(self.store.registry), LayoutRegistry
        )
        return not has_clock and self.choice == "both"

    def _collect(self, name: str, now: datetime) -> Iterator[Collected]:
        rt = recipient_tag(name)
        tags: list[str] = []
        anchors: dict[date, str] = {}
        for tag in list_tags(self.store.registry, self.store.repository, f"{bell_tag(rt)}-"):
            if tag.kind == "anchor" and tag.day is not None:
                anchors[tag.day] = tag.name
            else:
                tags.append(tag.name)
        seen = _Seen(name, now)
        self._read(seen, rt, tags, anchors)
        yield from seen.defects
        extra = AttachedTags.at(self.store) if seen.past else AttachedTags()
        if self._is_alone():
            self._keep_unread(seen, extra)
        layout = direct(self.store.registry)
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
        """Read every manifest that has a tag in an inbox, or refers to one of its anchors."""
        for fetched in fetch_all(self.store.registry, self.store.repository, tags):
            seen.add(fetched)
        loose = {digest for digest in self._referring(rt, anchors, seen) if digest not in seen.tags}
        for fetched in fetch_all(self.store.registry, self.store.repository, loose):
            seen.add(fetched)

    def _referring(self, rt: str, anchors: Iterable[date], seen: _Seen) -> Iterator[Digest]:
        """Yield the referrers of the anchors, from the referrers API or the tag schema."""
        for day in anchors:
            try:
                with guarded(f"the referrers of the anchor of {day}"):
                    for form in FORMS:
                        subject = anchor_digest(rt, day, form)
                        for entry in self.store.registry.referrers(self.store.repository, subject):
                            yield entry.digest
            except NotFoundError:
                continue
            except (RegistryError, ProtocolError, InternalError):
                seen.blind = True

    def _keep_unread(self, seen: _Seen, extra: AttachedTags) -> None:
        """Keep expired messages that are unread: the local clock may be ahead."""
        past, seen.past = seen.past, []
        for message in past:
            if self._is_read(message, extra):
                seen.past.append(message)
            else:
                self.unread += 1
                seen.staying.add(None if message.subject is None else message.subject.digest)

    def _is_read(self, message: Message, extra: AttachedTags) -> bool:
        """Return whether this machine received a message, or its recipient sent a receipt."""
        recipient, digest = message.header.recipient, message.digest
        if self.state is not None and self.state.inbox.delivery(recipient, digest) is not None:
            return True
        tags = [tag.name for tag in extra.of(digest)]
        attached = attached_to(self.store.registry, self.store.repository, digest, tags)
        return any(
            isinstance(item.what, Receipt) and item.what.recipient == recipient for item in attached
        )

    # --- removing --------------------------------------------------------------------------------

    def _remove(self, seen: _Seen, message: Message, extra: AttachedTags) -> Iterator[Collected]:
        gone = False
        try:
            with guarded(message.digest):
                gone = yield from self._remove_message(message, seen.tags[message.digest], extra)
        except InternalError as error:
            yield replace(_described("message", message.digest, message), error=error)
        if not gone:
            seen.staying.add(None if message.subject is None else message.subject.digest)

    def _remove_message(
        self, message: Message, tags: Sequence[str], extra: AttachedTags
    ) -> Generator[Collected, None, bool]:
        """Remove one message with its bundles and receipts; return whether it is gone."""
        own = [tag.name for tag in extra.of(message.digest)]
        removed: set[Digest] = set()
        for item in attached_to(self.store.registry, self.store.repository, message.digest, own):
            kind: CollectedKind = "receipt" if isinstance(item.what, Receipt) else "bundle"
            bulk = extra.bulk.get(bulk_key(item.what), ()) if isinstance(item.what, Receipt) else ()
            found = (*item.tags, *(tag.name for tag in bulk))
            done = self._remove_manifest(kind, item.digest, found, message)
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
        """Remove the tag schema's index of removed manifests, unless it lists others too."""
        tag = referrers_tag(subject)
        try:
            data = fetch(self.store.registry, self.store.repository, tag)
            entries = parse_index(data, where=tag).manifests
        except (NotFoundError, ProtocolError):
            return
        left = {entry.digest for entry in entries} - set(removed)
        for fetched in fetch_all(self.store.registry, self.store.repository, left):
            # A living index can have the same bytes, and so the same digest.
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
        """Remove the manifest under an anchor's tag, if it is one of the anchor's `forms`."""
        try:
            digest = self.store.registry.resolve_tag(self.store.repository, tag).digest
        except NotFoundError:
            return
        if digest not in forms:
            return  # another program's manifest
        done = self._remove_manifest("anchor", digest, (tag,), None)
        yield done
        if done.status != "failed":
            yield from self._remove_index(digest, (), None)

    def _remove_manifest(
        self, kind: CollectedKind, digest: Digest, tags: Sequence[str], message: Message | None
    ) -> Collected:
        """Remove one manifest with its tags.

        Raises:
            AuthError, Unsupported: the registry seems to refuse all deletions.
            TooManyRequests, NetworkError: the registry gave no answer.
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
            self.store.registry.delete_manifest(self.store.repository, digest)
        except NotFoundError:
            pass  # removed by another program; its tags may be left
        except RegistryError as error:
            if error.status not in _TAGS_FIRST or not self._delete_tags(digest, tags):
                raise
            self.store.registry.delete_manifest(self.store.repository, digest)
        for tag in tags:
            if self._tags_stay is False:
                return
            self._tags_stay = self._tags_stay or self._points_at(tag, digest)
            if self._tags_stay and self._points_at(tag, digest):
                self.store.registry.delete_tag(self.store.repository, tag)

    def _delete_tags(self, digest: Digest, tags: Sequence[str]) -> bool:
        """Delete tags first, for registries that require it; return whether all are gone.

        Raises:
            Unsupported: this registry deletes no tags.
        """
        try:
            for tag in tags:
                if self._points_at(tag, digest):
                    self.store.registry.delete_tag(self.store.repository, tag)
        except Unsupported:
            raise
        except RegistryError:
            return False
        return bool(tags)

    def _points_at(self, tag: str, digest: Digest) -> bool:
        return digest_at(self.store.registry, self.store.repository, tag) == digest

    def _explained(self, error: RegistryError) -> RegistryError:
        """Return a refusal with advice for the registry's owner."""
        kind = type(error) if isinstance(error, AuthError) else Unsupported
        return kind(
            f"{self.store.repo}: what has expired cannot be deleted: {error.message}",
            code=error.code or None,
            status=error.status,
            method=error.method,
            url=error.url,
            hint=advice_for(self.store.repo),
        )

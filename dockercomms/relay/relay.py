"""Copies of a repository's messages and receipts, put into another repository.

Messages keep their bytes, so signatures stay valid and receivers recognise duplicates. Tags are
drawn anew, so receivers who list new tags find a message that is a week late. Source and target
are registries, layout folders or archives.

Source: SPEC.md section 13.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import field
from datetime import datetime

from dockercomms.errors import (
    AuthError,
    DockerCommsError,
    InternalError,
    LocalIOError,
    NetworkError,
    NotFoundError,
    NoticeHook,
    ProtocolError,
    TooManyRequests,
    UsageError,
    guarded,
)
from dockercomms.messages.publish import Publisher
from dockercomms.oci.images.trees import has_manifest
from dockercomms.oci.interface import ProgressHook
from dockercomms.oci.model import Digest
from dockercomms.oci.stores import Location, Store
from dockercomms.platforms.clock import Clock
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.manifest import Message, Receipt
from dockercomms.protocol.tags import recipient_tag
from dockercomms.relay.carry import (
    Carrier,
    Parcel,
    Relayed,
    Totals,
    message_relayed,
    receipt_relayed,
)
from dockercomms.relay.compare import Key, TagsHere, TagsThere, message_tags
from dockercomms.relay.inventory import (
    READERS,
    Attached,
    HeldTag,
    attached_to,
    digest_at,
    fetch_all,
    is_past,
    message_about,
    message_head,
    parse_attached,
    read_message,
)
from dockercomms.state import State
from dockercomms.trust.bundle import MAX_BUNDLE_BYTES

__all__ = ["Relay", "Relayed", "Totals"]

MIN_ID_CHARACTERS = 4
"""The shortest prefix of an id or digest that may name a message."""

_ENDS = (AuthError, NetworkError, TooManyRequests, LocalIOError)
"""Errors that end a run; others end only one message."""


@dataclass(slots=True, kw_only=True)
class Relay:
    """One run from a repository to another. For one call of `run`, in one thread.

    Args:
        source: The store to read.
        target: The store to write.
        state: This machine's record; the target's part of it is a cache.
        clock: The local clock.
        to: Recipients: copy only messages to them, the receipts for those messages, and receipts
            for messages that they sent. Empty: copy all.
        ids: Prefixes of ids or digests: copy only these messages, with their receipts.
        complete: Ask for the referrers of present messages as well, to find bundles without a tag.
        concurrency: Blobs copied at once.
        progress: Called with the bytes done of one message.
        on_notice: Called with notes for the user.
    """

    source: Store
    target: Store
    state: State
    clock: Clock
    to: Sequence[str] = ()
    ids: Sequence[str] = ()
    complete: bool = False
    concurrency: int = 4
    progress: ProgressHook | None = None
    on_notice: NoticeHook | None = None
    totals: Totals = field(default_factory=Totals, init=False)
    _there: TagsThere = field(default_factory=TagsThere, init=False)
    _seen: set[Digest] = field(default_factory=set, init=False)
    """Receipts that this run has handled."""
    _past: set[Digest] = field(default_factory=set, init=False)
    """Messages at the source that have expired."""
    _carried: set[Digest] = field(default_factory=set, init=False)

    def run(self) -> Iterator[Relayed]:
        """Copy all objects that the target lacks; yield a result for each copy and each failure.

        1. list the tags of both sides and compare them
        2. copy messages, oldest first, each with its bundles and then its receipts
        3. copy bundles and receipts that were added later to messages that the target had
        4. move newest-message tags (bells), and restore anchors that `gc` removed meanwhile

        A failed object does not stop the others. The next run continues an interrupted one.

        Raises:
            UsageError: source and target are one, or an id names several messages.
            NotFoundError: there is no message with one of the ids.
            AuthError, Unsupported: the registry does not allow us to list the source's tags.
            RegistryError, NetworkError, LocalIOError: a store refuses or is not reachable.
        """
        if self.source.repo == self.target.repo:
            raise UsageError(f"{self.source.repo}: both the source and the destination")
        self.state.sends.forget_store(self.target.repo)  # gc may have removed anchors
        publisher = Publisher(
            registry=self.target.registry,
            repository=self.target.repository,
            repo=self.target.repo,
            state=self.state,
            clock=self.clock,
            on_notice=self.on_notice,
        )
        publisher.hear_clock("")
        with Carrier(
            self.source, publisher, concurrency=self.concurrency, progress=self.progress
        ) as carrier:
            try:
                for relayed in self._run(carrier, self._earliest(publisher)):
                    self._count(relayed)
                    yield relayed
                carrier.finish()
            finally:
                self.totals.blobs = carrier.sent_blobs
                self.totals.blob_bytes = carrier.sent_bytes

    def _earliest(self, publisher: Publisher) -> datetime:
        """Return the earliest time of all clocks, so that a fast clock expires no message."""
        source = self.source.registry.server_time()
        return min(publisher.now(), publisher.clock.now(), source or publisher.now())

    def _run(self, carrier: Carrier, now: datetime) -> Iterator[Relayed]:
        rts = [recipient_tag(name) for name in self.to]
        scope = message_tags(self.source, rts)
        if self.ids:
            scope = self._named(scope)
        self._there = TagsThere.at(self.target, rts)
        attached = TagsHere.at(self.source)
        present = self._present(scope)
        self.totals.present = len(present)
        missing = {tag.name: tag for key, tag in scope.items() if key not in present}
        yield from self._carry(carrier, self._messages(missing, attached, now))
        yield from self._carry(carrier, self._later_bundles(present, attached))
        heads = {message_about(digest) for digest in (*present.values(), *self._carried)}
        tags = attached.receipt_tags(rts, heads if rts or self.ids else None)
        yield from self._carry(carrier, self._receipts(tags))

    def _carry(self, carrier: Carrier, parcels: Iterable[Parcel | Relayed]) -> Iterator[Relayed]:
        """Copy parcels, several at once if the target is a folder or an archive."""
        waiting: list[Parcel] = []
        for parcel in parcels:
            if isinstance(parcel, Relayed):
                yield parcel  # it was not readable
                continue
            try:
                with guarded(parcel.digest):
                    carrier.bring(parcel.manifests())
            except _ENDS:
                raise
            except DockerCommsError as error:
                yield from parcel.failed(error)
                continue
            waiting.append(parcel)
            if len(waiting) >= carrier.batch_size:
                yield from self._put(carrier, waiting)
                waiting = []
        yield from self._put(carrier, waiting)

    def _put(self, carrier: Carrier, parcels: Sequence[Parcel]) -> list[Relayed]:
        """Put the manifests of parcels; the target has all their blobs."""
        done: list[Relayed] = []
        if parcels:
            with carrier.batch():
                for parcel in parcels:
                    done += self._put_one(carrier, parcel)
        return done

    def _put_one(self, carrier: Carrier, parcel: Parcel) -> Iterator[Relayed]:
        message, digest = parcel.message, parcel.digest
        try:
            with guarded(digest):
                if message is not None:
                    tag = carrier.put_message(message, parcel.data, parcel.bundles())
                    self._carried.add(digest)
                    yield message_relayed(message, tag=tag)
                else:
                    carrier.put_bundles(digest, parcel.bundles())
                    for bundle in parcel.bundles():
                        yield Relayed(kind="bundle", status="relayed", digest=bundle.digest)
        except _ENDS:
            raise
        except DockerCommsError as error:
            yield from parcel.failed(error)
            return
        receipts = parcel.receipts()
        try:
            with guarded(f"receipts for {digest}"):
                receipts = [one for one in receipts if self._is_wanted(*one)]
                tags = carrier.put_receipts(receipts)
        except _ENDS:
            raise
        except DockerCommsError as error:
            yield from (receipt_relayed(receipt, error=error) for receipt, _ in receipts)
        else:
            for (receipt, _), tag in zip(receipts, tags, strict=True):
                yield receipt_relayed(receipt, tag=tag)

    def _is_wanted(self, receipt: Receipt, _: bytes) -> bool:
        """Return whether to copy a receipt; True at most once for each."""
        digest = receipt.descriptor.digest
        if digest in self._seen:
            return False
        self._seen.add(digest)
        if receipt.message in self._past:
            self.totals.expired += 1
            return False
        return not (self._there.has_receipt(receipt) and self._is_there(digest))

    # --- tags ------------------------------------------------------------------------------------

    def _named(self, scope: dict[Key, HeldTag]) -> dict[Key, HeldTag]:
        """Return the messages that `ids` name.

        Raises:
            UsageError: one is too short, or names several.
            NotFoundError: one names no message.
        """
        for wanted in self.ids:
            if len(wanted) < MIN_ID_CHARACTERS:
                raise UsageError(
                    f"ID prefix {wanted!r:.100} too short: at least {MIN_ID_CHARACTERS} characters"
                )
        found: dict[str, dict[Digest, Key]] = {wanted: {} for wanted in self.ids}
        keys = {tag.name: key for key, tag in scope.items()}
        for fetched in fetch_all(self.source.registry, self.source.repository, keys):
            try:
                with guarded(fetched.ref):
                    message = read_message(fetched, scope[keys[fetched.ref]])
            except DockerCommsError:
                continue
            for wanted, matches in found.items():
                if _is_named(message, wanted):
                    matches[message.digest] = keys[fetched.ref]
        for wanted, matches in found.items():
            if not matches:
                raise NotFoundError(f"{self.source.repo}: no message begins with {wanted!r:.100}")
            if len(matches) > 1:
                raise UsageError(f"{wanted!r:.100}: {len(matches)} messages begin so")
        chosen = {key for matches in found.values() for key in matches.values()}
        return {key: tag for key, tag in scope.items() if key in chosen}

    def _present(self, scope: dict[Key, HeldTag]) -> dict[Key, Digest]:
        """Return the messages that the target has, each under a tag, with their digests.

        A tag's head does not identify a message, so each tag is resolved to its digest.
        """
        there = self._there.messages
        if not self._there.listed:
            return {}
        known = [key for key in scope if key in there]

        def ask(key: Key) -> Digest | None:
            try:
                with guarded(there[key]):
                    return digest_at(self.target.registry, self.target.repository, there[key])
            except InternalError:
                return None  # the attempt to put it there reports the cause

        with ThreadPoolExecutor(READERS, thread_name_prefix="dockercomms-read") as executor:
            found = zip(known, executor.map(ask, known), strict=True)
            return {key: it for key, it in found if it and message_head(it) == key[1]}

    def _is_there(self, digest: Digest) -> bool:
        return has_manifest(Location(self.target.registry, self.target.repository), digest)

    # --- missing objects -------------------------------------------------------------------------

    def _messages(
        self, tags: Mapping[str, HeldTag], attached: TagsHere, now: datetime
    ) -> Iterator[Parcel | Relayed]:
        """Yield the messages under `tags` that the target lacks, with bundles and receipts."""
        for fetched in fetch_all(self.source.registry, self.source.repository, tags):
            tag = tags[fetched.ref]
            if isinstance(fetched.error, NotFoundError):
                continue  # removed meanwhile
            message: Message | None = None
            try:
                with guarded(tag.name):
                    message = read_message(fetched, tag)
                    if recipient_tag(message.header.recipient) != tag.rt:
                        raise ProtocolError(f"tag {tag.name}: the message has another recipient")
                    if self._is_known(message, tag):
                        self.totals.present += 1
                    elif is_past(message, now):
                        self.totals.expired += 1
                        self._past.add(message.digest)
                    else:
                        about = self._attached_to(message.digest, attached.about(message.digest))
                        yield Parcel(message.digest, tag.name, about, message, fetched.data)
            except _ENDS:
                raise
            except DockerCommsError as error:
                yield message_relayed(message, tag=tag.name, error=error)

    def _is_known(self, message: Message, tag: HeldTag) -> bool:
        """Return whether the target has a message that its tags may not show (1.0, unlisted)."""
        if message.digest in self._carried:
            return True
        if tag.head is not None and self._there.listed:
            return False
        listed = (tag.rt, message_head(message.digest)) in self._there.messages
        if self._there.listed and not listed:
            return False
        return self._is_there(message.digest)

    def _attached_to(self, message: Digest, tags: Iterable[str]) -> tuple[Attached, ...]:
        """Return a message's bundles and receipts, without those too large for a reader."""
        found = attached_to(self.source.registry, self.source.repository, message, tags)
        return tuple(filter(_is_readable, found))

    def _later_bundles(
        self, present: Mapping[Key, Digest], attached: TagsHere
    ) -> Iterator[Parcel | Relayed]:
        """Yield the bundles that came later to messages that the target has."""
        for digest in present.values():
            tags = attached.bundles.get(message_about(digest), ())
            try:
                with guarded(f"bundles of {digest}"):
                    wanted = self._missing_bundles(digest, tags)
            except InternalError as error:
                yield Relayed(kind="bundle", status="failed", error=error)
                continue
            if wanted:
                yield Parcel(digest, None, wanted)

    def _missing_bundles(self, digest: Digest, tags: Sequence[HeldTag]) -> tuple[Attached, ...]:
        if self.complete:
            found = self._attached_to(digest, [tag.name for tag in tags])
        else:
            new = [t.name for t in tags if (t.about, t.tail) not in self._there.bundles]
            read = fetch_all(self.source.registry, self.source.repository, new) if new else ()
            parsed = (parse_attached(one.data, digest) for one in read if one.error is None)
            found = tuple(item for item in parsed if item is not None and _is_readable(item))
        return tuple(
            item
            for item in found
            if isinstance(item.what, Receipt) or not self._is_there(item.digest)
        )

    def _receipts(self, tags: Sequence[HeldTag]) -> Iterator[Parcel | Relayed]:
        """Yield the receipts under `tags` that the target lacks."""

        def is_missing(tag: HeldTag) -> bool:
            try:
                with guarded(tag.name):
                    digest = digest_at(self.source.registry, self.source.repository, tag.name)
                    if digest is None or digest in self._seen:
                        return False
                    return not (self._there.has(tag) and self._is_there(digest))
            except InternalError:
                return True  # the read reports the cause

        with ThreadPoolExecutor(READERS, thread_name_prefix="dockercomms-read") as executor:
            missing = zip(tags, executor.map(is_missing, tags), strict=True)
            wanted = [tag.name for tag, is_wanted in missing if is_wanted]
        for fetched in fetch_all(self.source.registry, self.source.repository, wanted):
            if isinstance(fetched.error, NotFoundError):
                continue  # removed meanwhile
            error, item = fetched.error, None
            try:
                with guarded(fetched.ref):
                    item = None if error is not None else parse_attached(fetched.data)
            except InternalError as defect:
                error = defect
            if item is not None and isinstance(item.what, Receipt) and _is_readable(item):
                if item.digest not in self._seen:
                    yield Parcel(item.what.message, fetched.ref, (item,))
                continue
            error = error or ProtocolError(
                f"tag {fetched.ref}: no receipt that this program can read"
            )
            yield Relayed(kind="receipt", status="failed", tag=fetched.ref, error=error)

    # --- inside ----------------------------------------------------------------------------------

    def _count(self, done: Relayed) -> None:
        totals = self.totals
        if done.status == "failed":
            totals.failed += 1
        elif done.kind == "message":
            totals.messages += 1
        elif done.kind == "bundle":
            totals.bundles += 1
        else:
            totals.receipts += 1


def _is_readable(item: Attached) -> bool:
    """Return whether a bundle or receipt of this size is within a reader's limits."""
    what = item.what
    layers = what.layers if isinstance(what, Receipt) else (what.layer,)
    return all(layer.size <= MAX_BUNDLE_BYTES for layer in layers)


def _is_named(message: Message, wanted: str) -> bool:
    wanted = wanted.lower()
    return message.header.id.lower().startswith(wanted) or message.digest.startswith(
        (wanted, f"sha256:{wanted}")
    )

"""Relaying: what one repository holds of messages goes to another, and receipts come back.

Messages keep their bytes, so that signatures hold and nobody is delivered anything twice; their
tags are drawn anew, so that receivers who look at what is new find what is a week late. Both sides
may be a registry, a layout folder or an archive.

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
"""The shortest beginning of an id or digest that names a message."""

_ENDS = (AuthError, NetworkError, TooManyRequests, LocalIOError)
"""What makes it pointless to go on with the next message."""


@dataclass(slots=True, kw_only=True)
class Relay:
    """One run from a repository to another. Used once, by one thread.

    Args:
        source: Where it is.
        target: Where it goes.
        state: What is remembered between runs: of the target only what may be forgotten.
        clock: Ours.
        to: Only what is addressed to these: messages to them, with the receipts for those, and
            receipts for what they sent. Nobody: everything.
        ids: Only the messages whose id or digest begins so, with the receipts for them.
        complete: Ask for the referrers of messages that are there, too, for bundles without a tag.
        concurrency: Blobs under way at once.
        progress: Told how many bytes of what one message is made of have come.
        on_notice: Called with what the user may want to know.
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
    """Receipts that were dealt with."""
    _past: set[Digest] = field(default_factory=set, init=False)
    """Messages at the source that are past their time."""
    _carried: set[Digest] = field(default_factory=set, init=False)

    def run(self) -> Iterator[Relayed]:
        """Carry what is missing at the target; yields each object that was put there, or failed.

        1. the tags of both sides, which say what is missing
        2. messages, oldest first, each with its bundles and then its receipts
        3. bundles and receipts that came later to messages which were there
        4. bells, and anchors that somebody collected meanwhile

        One that fails never stops another. A run that is stopped is continued by the next.

        Raises:
            UsageError: source and target are one, or an id names several messages.
            NotFoundError: there is no message with one of the ids.
            AuthError, Unsupported: the source's tags may not be listed.
            RegistryError, NetworkError, LocalIOError: one of the stores refuses or is not there.
        """
        if self.source.repo == self.target.repo:
            raise UsageError(f"{self.source.repo}: both the source and the destination")
        self.state.sends.forget_store(self.target.repo)  # anchors may have been collected
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
        """Return the earliest time that a clock shows: no mail is left behind for one ahead."""
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
        """Carry parcels, several at once where the target is a folder or a tar."""
        waiting: list[Parcel] = []
        for parcel in parcels:
            if isinstance(parcel, Relayed):
                yield parcel  # it could not be read
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
        """Put what parcels hold; all that they are made of is at the target."""
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
        """Return whether a receipt is to be put; each is asked about once."""
        digest = receipt.descriptor.digest
        if digest in self._seen:
            return False
        self._seen.add(digest)
        if receipt.message in self._past:
            self.totals.expired += 1
            return False
        return not (self._there.has_receipt(receipt) and self._is_there(digest))

    # --- what there is ---------------------------------------------------------------------------

    def _named(self, scope: dict[Key, HeldTag]) -> dict[Key, HeldTag]:
        """Return those that `ids` name.

        Raises:
            UsageError: one is too short, or names several.
            NotFoundError: one names none.
        """
        for wanted in self.ids:
            if len(wanted) < MIN_ID_CHARACTERS:
                raise UsageError(
                    f"{wanted!r:.100}: at least {MIN_ID_CHARACTERS} characters of an id or digest"
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
        """Return which of the messages the target has, each under a tag, with their digests.

        A tag's head identifies nothing, so what is under it is asked for.
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
                return None  # putting it there tells

        with ThreadPoolExecutor(READERS, thread_name_prefix="dockercomms-read") as executor:
            found = zip(known, executor.map(ask, known), strict=True)
            return {key: it for key, it in found if it and message_head(it) == key[1]}

    def _is_there(self, digest: Digest) -> bool:
        return has_manifest(Location(self.target.registry, self.target.repository), digest)

    # --- what is missing -------------------------------------------------------------------------

    def _messages(
        self, tags: Mapping[str, HeldTag], attached: TagsHere, now: datetime
    ) -> Iterator[Parcel | Relayed]:
        """Yield the messages under `tags` that the target lacks, each with what is about it."""
        for fetched in fetch_all(self.source.registry, self.source.repository, tags):
            tag = tags[fetched.ref]
            if isinstance(fetched.error, NotFoundError):
                continue  # removed meanwhile
            message: Message | None = None
            try:
                with guarded(tag.name):
                    message = read_message(fetched, tag)
                    if recipient_tag(message.header.recipient) != tag.rt:
                        raise ProtocolError(f"tag {tag.name}: the message is for somebody else")
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
        """Return whether the target has what its tags could not tell: 1.0, or nothing is listed."""
        if message.digest in self._carried:
            return True
        if tag.head is not None and self._there.listed:
            return False
        listed = (tag.rt, message_head(message.digest)) in self._there.messages
        if self._there.listed and not listed:
            return False
        return self._is_there(message.digest)

    def _attached_to(self, message: Digest, tags: Iterable[str]) -> tuple[Attached, ...]:
        """Return what is about a message and may be read: anybody could have added the rest."""
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
                return True  # reading it tells

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
    """Return whether a reader would look at a bundle or receipt of this size."""
    what = item.what
    layers = what.layers if isinstance(what, Receipt) else (what.layer,)
    return all(layer.size <= MAX_BUNDLE_BYTES for layer in layers)


def _is_named(message: Message, wanted: str) -> bool:
    wanted = wanted.lower()
    return message.header.id.lower().startswith(wanted) or message.digest.startswith(
        (wanted, f"sha256:{wanted}")
    )

"""Copies of a repository's messages and receipts, put into another repository.

Messages keep their bytes, so signatures stay valid and receivers recognise duplicates. Tags are
drawn anew, so receivers who list new tags find a message that is a week late. Source and target
are registries, layout folders or archives.

Source: SPEC.md section 13.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import field, replace
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
from dockercomms.protocol.manifest import Bundle, Message, Receipt
from dockercomms.protocol.tags import recipient_tag
from dockercomms.relay.carry import (
    Carrier,
    Relayed,
    RelayedKind,
    Totals,
    relayed,
)
from dockercomms.relay.compare import AttachedTags, TagsThere, message_tags
from dockercomms.relay.inventory import (
    Attached,
    HeldTag,
    Key,
    attached_to,
    digest_at,
    fetch_all,
    in_threads,
    is_past,
    message_about,
    message_head,
    message_of,
    parse_attached,
    read_message,
)
from dockercomms.state import State
from dockercomms.trust.bundle import MAX_BUNDLE_BYTES

__all__ = ["Relay", "Relayed", "Totals"]

MIN_ID_CHARACTERS = 4
"""The shortest prefix of an id or digest that may name a message."""

Group = tuple[Attached, ...]
"""A message with its bundles and receipts, or later ones for a message that the target has."""

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
        with ThreadPoolExecutor(self.concurrency, thread_name_prefix="dockercomms-relay") as pool:
            carrier = Carrier(self.source, publisher, pool, self.progress)
            try:
                for done in self._run(carrier, self._earliest(publisher)):
                    self.totals.add(done)
                    yield done
                carrier.finish()
            finally:
                self.totals.blobs = carrier.luck.sent
                self.totals.blob_bytes = carrier.luck.sent_bytes

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
        attached = AttachedTags.at(self.source)
        present = self._present(scope)
        self.totals.present = len(present)
        missing = {tag.name: tag for key, tag in scope.items() if key not in present}
        yield from self._carry(carrier, self._messages(missing, attached, now))
        yield from self._carry(carrier, self._later_bundles(present, attached))
        heads = {message_about(digest) for digest in (*present.values(), *self._carried)}
        tags = attached.receipt_tags(rts, heads if rts or self.ids else None)
        yield from self._carry(carrier, self._receipts(tags))

    def _carry(self, carrier: Carrier, groups: Iterable[Group | Relayed]) -> Iterator[Relayed]:
        """Copy groups, several at once if the target is a folder or an archive."""
        waiting: list[Group] = []
        for group in groups:
            if isinstance(group, Relayed):
                yield group  # it was not readable
                continue
            with _caught(message_of(group[0].what)) as errors:
                carrier.bring(item.data for item in group)
            if errors:
                yield from _failed(group, errors[0])
                continue
            waiting.append(group)
            if len(waiting) >= carrier.batch_size:
                yield from self._put(carrier, waiting)
                waiting = []
        yield from self._put(carrier, waiting)

    def _put(self, carrier: Carrier, groups: Sequence[Group]) -> list[Relayed]:
        """Put the manifests of groups; the target has all their blobs."""
        done: list[Relayed] = []
        if groups:
            with carrier.batch():
                for group in groups:
                    done += self._put_one(carrier, group)
        return done

    def _put_one(self, carrier: Carrier, group: Group) -> Iterator[Relayed]:
        first, digest = group[0], message_of(group[0].what)
        bundles = [item for item in group if isinstance(item.what, Bundle)]
        receipts = [(item.what, item.data) for item in group if isinstance(item.what, Receipt)]
        with _caught(digest) as errors:
            if isinstance(first.what, Message):
                tag = carrier.put_message(first.what, first.data, bundles)
                self._carried.add(digest)
                yield relayed("message", first.what, tag=tag)
            else:
                carrier.put_bundles(digest, bundles)
                yield from (relayed("bundle", bundle.what) for bundle in bundles)
        if errors:
            yield from _failed(group, errors[0])
            return
        with _caught(f"receipts for {digest}") as errors:
            receipts = [one for one in receipts if self._is_wanted(one[0])]
            for (receipt, _), tag in zip(receipts, carrier.put_receipts(receipts), strict=True):
                yield relayed("receipt", receipt, tag=tag)
        for error in errors:
            yield from (relayed("receipt", receipt, error=error) for receipt, _ in receipts)

    def _is_wanted(self, receipt: Receipt) -> bool:
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
        names = self._there.names

        def ask(key: Key) -> Digest | None:
            try:
                with guarded(names[key]):
                    return digest_at(self.target.registry, self.target.repository, names[key])
            except InternalError:
                return None  # the attempt to put it there reports the cause

        known = [key for key in scope if key in names]
        found = zip(known, in_threads(ask, known), strict=True)
        return {key: it for key, it in found if it and message_head(it) == key[2]}

    def _is_there(self, digest: Digest) -> bool:
        return has_manifest(Location(self.target.registry, self.target.repository), digest)

    # --- missing objects -------------------------------------------------------------------------

    def _messages(
        self, tags: Mapping[str, HeldTag], attached: AttachedTags, now: datetime
    ) -> Iterator[Group | Relayed]:
        """Yield the messages under `tags` that the target lacks, with bundles and receipts."""
        for fetched in fetch_all(self.source.registry, self.source.repository, tags):
            tag = tags[fetched.ref]
            if isinstance(fetched.error, NotFoundError):
                continue  # removed meanwhile
            message: Message | None = None
            with _caught(tag.name) as errors:
                message = read_message(fetched, tag)
                if recipient_tag(message.header.recipient) != tag.rt:
                    raise ProtocolError(f"tag {tag.name}: the message has another recipient")
                if self._is_known(message, tag):
                    self.totals.present += 1
                elif is_past(message, now):
                    self.totals.expired += 1
                    self._past.add(message.digest)
                else:
                    about = self._attached_to(message.digest, attached.of(message.digest))
                    yield Attached(message, fetched.data, (tag.name,)), *about
            for error in errors:
                yield relayed("message", message, tag=tag.name, error=error)

    def _is_known(self, message: Message, tag: HeldTag) -> bool:
        """Return whether the target has a message that its tags may not show (1.0, unlisted)."""
        if message.digest in self._carried:
            return True
        if tag.head is not None and self._there.listed:
            return False
        key: Key = ("message", tag.rt, message_head(message.digest))
        return self._there.has(key) and self._is_there(message.digest)

    def _attached_to(self, message: Digest, tags: Iterable[HeldTag]) -> Group:
        """Return a message's bundles and receipts, without those too large for a reader."""
        names = [tag.name for tag in tags]
        found = attached_to(self.source.registry, self.source.repository, message, names)
        return tuple(filter(_is_readable, found))

    def _later_bundles(
        self, present: Mapping[Key, Digest], attached: AttachedTags
    ) -> Iterator[Group | Relayed]:
        """Yield the bundles that came later to messages that the target has."""
        for digest in present.values():
            tags = attached.of(digest, "bundle")
            try:
                with guarded(f"bundles of {digest}"):
                    wanted = self._missing_bundles(digest, tags)
            except InternalError as error:
                yield relayed("bundle", error=error)
                continue
            if wanted:
                yield wanted

    def _missing_bundles(self, digest: Digest, tags: Sequence[HeldTag]) -> Group:
        if self.complete:
            found = self._attached_to(digest, tags)
        else:
            new = [tag.name for tag in tags if not self._there.has(tag.key)]
            read = fetch_all(self.source.registry, self.source.repository, new) if new else ()
            parsed = (parse_attached(one.data, digest) for one in read if one.error is None)
            found = tuple(item for item in parsed if item is not None and _is_readable(item))
        return tuple(
            item
            for item in found
            if isinstance(item.what, Receipt) or not self._is_there(item.digest)
        )

    def _receipts(self, tags: Sequence[HeldTag]) -> Iterator[Group | Relayed]:
        """Yield the receipts under `tags` that the target lacks."""

        def is_missing(tag: HeldTag) -> bool:
            try:
                with guarded(tag.name):
                    digest = digest_at(self.source.registry, self.source.repository, tag.name)
                    if digest is None or digest in self._seen:
                        return False
                    return not (self._there.has(tag.key) and self._is_there(digest))
            except InternalError:
                return True  # the read reports the cause

        missing = zip(tags, in_threads(is_missing, tags), strict=True)
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
                    yield (replace(item, tags=(fetched.ref,)),)
                continue
            error = error or ProtocolError(
                f"tag {fetched.ref}: no receipt that this program can read"
            )
            yield relayed("receipt", tag=fetched.ref, error=error)


@contextmanager
def _caught(what: str) -> Iterator[list[DockerCommsError]]:
    """Yield a list that gets the error of the block, unless it ends the run."""
    errors: list[DockerCommsError] = []
    try:
        with guarded(what):
            yield errors
    except _ENDS:
        raise
    except DockerCommsError as error:
        errors.append(error)


def _failed(group: Group, error: DockerCommsError) -> Iterator[Relayed]:
    """Yield the results that report `error` for the whole group."""
    for item in group:
        tag = next(iter(item.tags), None)
        if isinstance(item.what, Message):
            yield relayed("message", item.what, tag=tag, error=error)
            return
        kind: RelayedKind = "receipt" if isinstance(item.what, Receipt) else "bundle"
        yield relayed(kind, item.what, tag=tag, error=error)


def _is_readable(item: Attached) -> bool:
    """Return whether a bundle or receipt of this size is within a reader's limits."""
    what = item.what
    if isinstance(what, Bundle):
        return what.layer.size <= MAX_BUNDLE_BYTES
    return isinstance(what, Receipt) and all(one.size <= MAX_BUNDLE_BYTES for one in what.layers)


def _is_named(message: Message, wanted: str) -> bool:
    wanted = wanted.lower()
    return message.header.id.lower().startswith(wanted) or message.digest.startswith(
        (wanted, f"sha256:{wanted}")
    )

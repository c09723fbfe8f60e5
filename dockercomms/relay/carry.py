"""Copies of messages from one repository to another: the same bytes, under newly drawn tags.

Blobs come first, then bundles, anchors, and last the one PUT that publishes, as in a send. An
interrupted relay leaves only whole messages visible; the next run does not move them again.

Source: SPEC.md sections 5, 6 and 13.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import date, datetime, timedelta
from functools import partial
from typing import Literal

from dockercomms.errors import DockerCommsError, NotFoundError, ProtocolError, RegistryError
from dockercomms.inbox.discover import anchor_digest
from dockercomms.messages.publish import Publisher
from dockercomms.oci.hub import direct
from dockercomms.oci.images.copy import TotalProgress
from dockercomms.oci.images.ensure import BlobCopy, TargetLuck
from dockercomms.oci.interface import ProgressHook
from dockercomms.oci.layout.registry import LayoutRegistry
from dockercomms.oci.model import EMPTY_CONFIG, Descriptor, Digest, parse_children
from dockercomms.oci.stores import Location, Store
from dockercomms.oci.tag_schema import append_entry, put_or_repair
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.header import ManifestForm
from dockercomms.protocol.manifest import Bundle, Message, Receipt, parse_anchor
from dockercomms.protocol.tags import (
    anchor_tag,
    bundle_tag,
    message_tag,
    receipt_id,
    receipt_tag,
    receipts_tag,
    recipient_tag,
)
from dockercomms.relay.inventory import LOCAL_BATCH, Attached, fetch

RelayedKind = Literal["message", "bundle", "receipt"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Relayed:
    """An object that was put at the target, or that failed."""

    kind: RelayedKind
    status: Literal["relayed", "failed"]
    digest: Digest | None = None
    """Missing if the object was not readable."""
    id: str = ""
    """The id of the message, or of the message that the object is about."""
    sender: str = ""
    """The sender of that message."""
    recipient: str = ""
    """The recipient of that message."""
    tag: str | None = None
    """The object's tag at the target; if it failed, at the source."""
    bytes: int = 0
    """The size of a message's payload."""
    error: DockerCommsError | None = None


@dataclass(slots=True)
class Totals:
    """The counts of a relay so far."""

    messages: int = 0
    bundles: int = 0
    """Bundles added to messages that the target had before."""
    receipts: int = 0
    present: int = 0
    """Messages that the target had already."""
    expired: int = 0
    """Messages and receipts that `gc` would remove; the relay does not copy them."""
    failed: int = 0
    blobs: int = 0
    """Blobs whose bytes were moved."""
    blob_bytes: int = 0

    def add(self, done: Relayed) -> None:
        """Count a result."""
        name = "failed" if done.error is not None else f"{done.kind}s"
        setattr(self, name, getattr(self, name) + 1)


def relayed(
    kind: RelayedKind,
    what: Message | Bundle | Receipt | None = None,
    *,
    tag: str | None = None,
    error: DockerCommsError | None = None,
) -> Relayed:
    """Return the result for an object (None: not readable); it failed if there is an `error`."""
    status: Literal["relayed", "failed"] = "relayed" if error is None else "failed"
    done = Relayed(kind=kind, status=status, tag=tag, error=error)
    if what is None:
        return done
    done = replace(done, digest=what.descriptor.digest)
    if isinstance(what, Receipt):
        return replace(done, id=what.message_id, sender=what.sender, recipient=what.recipient)
    if isinstance(what, Bundle):
        return done
    head = what.header
    return replace(
        done, id=head.id, sender=head.sender, recipient=head.recipient, bytes=head.total_bytes
    )


_NEAR_DAYS = 2
"""Days around a message's creation in which its anchor is searched."""

_OLD_ANCHOR = timedelta(days=2)
"""A `gc` may remove an anchor of this age while a message is put beside it."""


class Carrier:
    """Copies objects of one repository to another. For one thread.

    Args:
        source: The store to read.
        publisher: Writes to the target.
        pool: Copies several blobs at once.
        progress: Called with the bytes done of each group of blobs.
    """

    def __init__(
        self,
        source: Store,
        publisher: Publisher,
        pool: Executor,
        progress: ProgressHook | None,
    ) -> None:
        self._source = source
        self._progress = progress
        self._publisher = publisher
        self._pool = pool
        self._target = direct(publisher.registry)
        self.luck = TargetLuck()
        """Counts the blobs whose bytes were moved."""
        self._copy_blob = BlobCopy(
            source.registry,
            source.repository,
            Location(publisher.registry, publisher.repository),
            luck=self.luck,
        )
        self._there: set[Digest] = set()
        self._drawn: set[str] = set()
        self._anchors: dict[Digest, tuple[str, date, ManifestForm]] = {}
        self._newest: dict[str, bytes] = {}
        self._unlisted: dict[Digest, list[Descriptor]] = {}

    # --- operations ------------------------------------------------------------------------------

    @property
    def batch_size(self) -> int:
        """The number of messages to put in one `batch`."""
        return LOCAL_BATCH if isinstance(self._target, LayoutRegistry) else 1

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Write a folder's index once for all puts inside. Call `bring` for their blobs before."""
        target = self._target
        with target.batch() if isinstance(target, LayoutRegistry) else nullcontext():
            try:
                yield
            finally:
                unlisted, self._unlisted = self._unlisted, {}
                for message, entries in unlisted.items():
                    self._write_list(message, entries)

    def bring(self, manifests: Iterable[bytes]) -> None:
        """Copy all blobs of `manifests` that the target lacks.

        Raises:
            BlobUnknown: a blob is missing at the source.
            RegistryError, NetworkError, LocalIOError: a store refuses or is not reachable.
        """
        self._publisher.ensure_config("artifact")
        self._copy(blob for data in manifests for blob in parse_children(data).blobs)

    def put_message(self, message: Message, data: bytes, bundles: Sequence[Attached]) -> str:
        """Publish a message at the target after its bundles; return its tag there.

        Raises:
            RegistryError, NetworkError, LocalIOError: a store refuses or is not reachable.
        """
        publisher, rt = self._publisher, recipient_tag(message.header.recipient)
        self.put_bundles(message.digest, bundles)
        self._ensure_subject(message, rt)
        drawn = publisher.draw_time(rt, form=message.form)
        self._note_anchor(rt, drawn.date(), message.form)
        tag = message_tag(rt, drawn, message.digest)

        def repair() -> None:
            blobs = parse_children(data).blobs
            self._there.difference_update(blob.digest for blob in blobs)
            publisher.ensure_config(message.form, ask=True)
            self._copy(blobs)

        put_or_repair(partial(publisher.put, data, tag=tag), repair)
        self._newest[rt] = data
        if message.subject is not None:
            publisher.add_to_index(message.subject.digest, message.descriptor, "auto")
        return tag

    def put_bundles(self, message: Digest, bundles: Sequence[Attached]) -> None:
        """Put bundles about a message at the target; the message may follow later.

        Raises:
            As `put_message`.
        """
        for bundle in bundles:
            layers = parse_children(bundle.data).layers
            layer = layers[0].digest if layers else EMPTY_CONFIG.digest
            tag_at = partial(bundle_tag, message, layer=layer)
            tag = self._unused(tag_at, self._publisher.now(), timedelta(seconds=1))
            self._publisher.put(bundle.data, tag=tag)
        self._list(message, [bundle.what.descriptor for bundle in bundles])

    def put_receipts(self, receipts: Sequence[tuple[Receipt, bytes]]) -> list[str]:
        """Put receipts of one message at the target, each under its two tags.

        Returns:
            The tags for the message's sender.

        Raises:
            As `put_message`.
        """
        tags = []
        for receipt, data in receipts:
            rt = recipient_tag(receipt.sender)
            rid = receipt_id(receipt.message, receipt.recipient, receipt.status)
            drawn = self._publisher.draw_time(rt, "receipts", form=receipt.form)
            tags.append(
                self._unused(partial(receipts_tag, rt, rid=rid), drawn, timedelta(milliseconds=1))
            )
            self._publisher.put(data, tag=tags[-1])
            own = partial(receipt_tag, receipt.message, rid=rid)
            self._publisher.put(data, tag=self._unused(own, drawn, timedelta(seconds=1)))
        if receipts:
            self._list(receipts[0][0].message, [receipt.descriptor for receipt, _ in receipts])
        return tags

    def finish(self) -> None:
        """Move the newest-message tags (bells) of the recipients, and ensure the anchors again."""
        for rt, data in self._newest.items():
            self._publisher.ring_bell(rt, data)
        self._newest.clear()
        today = self._publisher.now().date()
        for digest, (rt, day, form) in self._anchors.items():
            tag = anchor_tag(rt, day)
            if today - day >= _OLD_ANCHOR and not self._publisher.holds(tag, digest):
                self._publisher.state.sends.forget_store(self._publisher.repo)
                self._publisher.ensure_anchor(rt, day, form=form)

    # --- inside ----------------------------------------------------------------------------------

    def _copy(self, blobs: Iterable[Descriptor]) -> None:
        """Copy blobs that the target lacks, each once."""
        wanted = {blob.digest: blob for blob in blobs if blob.digest not in self._there}
        wanted.pop(EMPTY_CONFIG.digest, None)
        total = TotalProgress(sum(blob.size for blob in wanted.values()), self._progress)

        def run(blob: Descriptor) -> Descriptor:
            return self._copy_blob.run(blob.digest, known=blob, progress=total.part(blob.size))

        for blob in self._pool.map(run, wanted.values()):
            self._there.add(blob.digest)

    def _ensure_subject(self, message: Message, rt: str) -> None:
        """Put the anchor that is a message's subject, if it is an anchor of the recipient."""
        subject, created = message.subject, message.header.created_at
        if subject is None or subject.digest in self._anchors:
            return
        day = None
        if created is not None:
            near = (created.date() + timedelta(days=n) for n in range(-_NEAR_DAYS, _NEAR_DAYS + 1))
            days = (one for one in near if anchor_digest(rt, one, message.form) == subject.digest)
            day = next(days, None)
        if day is None:
            day = self._read_day(rt, subject.digest)
        if day is not None:
            self._publisher.ensure_anchor(rt, day, form=message.form)
            self._note_anchor(rt, day, message.form)

    def _read_day(self, rt: str, subject: Digest) -> date | None:
        try:
            anchor = parse_anchor(fetch(self._source.registry, self._source.repository, subject))
        except (NotFoundError, ProtocolError):
            return None
        return anchor.day if anchor.recipient_tag == rt and anchor.kind is None else None

    def _note_anchor(self, rt: str, day: date, form: ManifestForm) -> None:
        self._anchors[anchor_digest(rt, day, form)] = (rt, day, form)

    def _unused(self, tag_at: Callable[[datetime], str], at: datetime, step: timedelta) -> str:
        """Return a tag that no other object of this run has, of the first free moment."""
        while (tag := tag_at(at)) in self._drawn:
            at += step
        self._drawn.add(tag)
        return tag

    def _list(self, message: Digest, entries: Sequence[Descriptor]) -> None:
        """Add to the message's index of the referrers tag schema.

        regctl and oras write the same index in a layout; our layout registry does not need it.
        """
        if not entries:
            return
        if isinstance(self._target, LayoutRegistry):
            self._unlisted.setdefault(message, []).extend(entries)
        elif not self._publisher.has_referrers():
            self._write_list(message, entries)

    def _write_list(self, message: Digest, entries: Sequence[Descriptor]) -> None:
        publisher = self._publisher
        try:
            append_entry(
                publisher.registry, publisher.repository, message, *entries, max_entries=None
            )
        except RegistryError as error:
            publisher.notify(
                "not-indexed", f"{publisher.repo}: the index of {message}: {error.message}"
            )

"""Putting a message of one repository into another: the same bytes, under tags of its own time.

The order is that of a send: blobs, bundles, anchors, then the one PUT that publishes. Whatever
stops it leaves nothing visible that is not whole, and what has arrived is not moved again.

Source: SPEC.md sections 5, 6 and 13.

What is carried in one piece, and what becomes of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import date, datetime, timedelta
from functools import partial
from typing import Literal

from dockercomms.errors import DockerCommsError, NotFoundError, ProtocolError, RegistryError
from dockercomms.inbox.discover import anchor_digest
from dockercomms.messages.publish import Publisher
from dockercomms.oci.client import direct
from dockercomms.oci.images.copy import TotalProgress
from dockercomms.oci.images.ensure import BlobCopy, TargetLuck
from dockercomms.oci.interface import ProgressHook
from dockercomms.oci.layout.registry import LayoutRegistry
from dockercomms.oci.model import EMPTY_CONFIG, Descriptor, Digest, parse_children
from dockercomms.oci.stores import Location, Store
from dockercomms.oci.tag_schema import append_entry, put_or_repair
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.header import ManifestForm
from dockercomms.protocol.manifest import Message, Receipt, parse_anchor
from dockercomms.protocol.tags import (
    anchor_tag,
    bundle_tag,
    message_tag,
    receipt_id,
    receipt_tag,
    receipts_tag,
    recipient_tag,
)
from dockercomms.relay.inventory import Attached, fetch

RelayedKind = Literal["message", "bundle", "receipt"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Relayed:
    """One object that was put at the target, or could not be."""

    kind: RelayedKind
    status: Literal["relayed", "failed"]
    digest: Digest | None = None
    """None where nothing could be read."""
    id: str = ""
    """Of the message that it is, or is about."""
    sender: str = ""
    """Of that message."""
    recipient: str = ""
    """Of that message."""
    tag: str | None = None
    """Its tag at the target; at the source where it failed."""
    bytes: int = 0
    """Of a message's payload."""
    error: DockerCommsError | None = None


@dataclass(slots=True)
class Totals:
    """What a relay came to so far."""

    messages: int = 0
    bundles: int = 0
    """Bundles of messages that were there before."""
    receipts: int = 0
    present: int = 0
    """Messages that were there already."""
    expired: int = 0
    """Messages and receipts that `gc` would remove, and that are left where they are."""
    failed: int = 0
    blobs: int = 0
    """Blobs whose bytes were moved."""
    blob_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Parcel:
    """What is carried in one piece: a message with what is about it, or what came later."""

    digest: Digest
    """Of the message."""
    tag: str | None
    """At the source."""
    attached: tuple[Attached, ...] = ()
    message: Message | None = None
    """None: the target has it."""
    data: bytes = b""

    def manifests(self) -> Iterator[bytes]:
        """Yield all manifests."""
        if self.message is not None:
            yield self.data
        yield from (item.data for item in self.attached)

    def bundles(self) -> list[Attached]:
        """Return the bundles."""
        return [item for item in self.attached if not isinstance(item.what, Receipt)]

    def receipts(self) -> list[tuple[Receipt, bytes]]:
        """Return the receipts with their manifests."""
        found = ((item.what, item.data) for item in self.attached)
        return [(what, data) for what, data in found if isinstance(what, Receipt)]

    def failed(self, error: DockerCommsError) -> Iterator[Relayed]:
        """Yield what to say when it could not be carried."""
        if self.message is not None:
            yield message_relayed(self.message, tag=self.tag, error=error)
            return
        for item in self.attached:
            if isinstance(item.what, Receipt):
                yield receipt_relayed(item.what, tag=self.tag, error=error)
            else:
                yield Relayed(kind="bundle", status="failed", digest=item.digest, error=error)


def receipt_relayed(
    receipt: Receipt, *, tag: str | None = None, error: DockerCommsError | None = None
) -> Relayed:
    """Return what became of a receipt; it failed if there is an `error`."""
    return Relayed(
        kind="receipt",
        status="relayed" if error is None else "failed",
        digest=receipt.descriptor.digest,
        id=receipt.message_id,
        sender=receipt.sender,
        recipient=receipt.recipient,
        tag=tag,
        error=error,
    )


def message_relayed(
    message: Message | None, *, tag: str | None, error: DockerCommsError | None = None
) -> Relayed:
    """Return what became of a message, None where it could not be read."""
    status: Literal["relayed", "failed"] = "relayed" if error is None else "failed"
    if message is None:
        return Relayed(kind="message", status=status, tag=tag, error=error)
    header = message.header
    return Relayed(
        kind="message",
        status=status,
        digest=message.digest,
        id=header.id,
        sender=header.sender,
        recipient=header.recipient,
        tag=tag,
        bytes=header.total_bytes,
        error=error,
    )


_TagAt = Callable[[datetime], str]

LOCAL_BATCH = 64
"""Messages for which a folder's index is written once: each time costs as much as it is long."""

_NEAR_DAYS = 2
"""How far from the day of a message's creation its anchor's day is looked for."""

_OLD_ANCHOR = timedelta(days=2)
"""An anchor of a day so long past may be collected while a message is put beside it."""


class Carrier(AbstractContextManager["Carrier"]):
    """Carries what one repository holds to another. Used by one thread, as a context manager.

    Args:
        source: Where it is.
        publisher: Where it goes.
        concurrency: Blobs under way at once.
        progress: Told how many bytes of what is brought at once are done.
    """

    def __init__(
        self,
        source: Store,
        publisher: Publisher,
        *,
        concurrency: int = 4,
        progress: ProgressHook | None = None,
    ) -> None:
        self._source = source
        self._progress = progress
        self._publisher = publisher
        self._target = Location(publisher.registry, publisher.repository)
        self._executor = ThreadPoolExecutor(concurrency, thread_name_prefix="dockercomms-relay")
        self._luck = TargetLuck()
        self._there: set[Digest] = set()
        self._drawn: set[str] = set()
        self._anchors: dict[Digest, tuple[str, date, ManifestForm]] = {}
        self._newest: dict[str, bytes] = {}
        self._is_local = isinstance(direct(publisher.registry), LayoutRegistry)
        self._unlisted: dict[Digest, list[Descriptor]] = {}

    @property
    def sent_blobs(self) -> int:
        """How many blobs' bytes were moved; what was mounted or there is not counted."""
        return self._luck.sent

    @property
    def sent_bytes(self) -> int:
        """How many bytes they have."""
        return self._luck.sent_bytes

    def __exit__(self, *exc: object) -> None:
        self._executor.shutdown(cancel_futures=True)

    # --- what is carried -------------------------------------------------------------------------

    @property
    def batch_size(self) -> int:
        """How many things to put in one `batch`."""
        return LOCAL_BATCH if self._is_local else 1

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Have several things put, so that a folder's index is written once for all of them.

        What they are made of has to be there: see `bring`.
        """
        target = direct(self._publisher.registry)
        with target.batch() if isinstance(target, LayoutRegistry) else nullcontext():
            try:
                yield
            finally:
                unlisted, self._unlisted = self._unlisted, {}
                for message, entries in unlisted.items():
                    self._write_list(message, entries)

    def bring(self, manifests: Iterable[bytes]) -> None:
        """Make sure that all that `manifests` are made of is at the target.

        Raises:
            BlobUnknown: a part is missing at the source.
            RegistryError, NetworkError, LocalIOError: one of the stores refuses or is not there.
        """
        self._publisher.ensure_config("artifact")
        self._copy(blob for data in manifests for blob in parse_children(data).blobs)

    def put_message(self, message: Message, data: bytes, bundles: Sequence[Attached]) -> str:
        """Publish a message at the target after its bundles; return its tag there.

        Raises:
            RegistryError, NetworkError, LocalIOError: one of the stores refuses or is not there.
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
        """Put bundles about a message, which may come after them, at the target.

        Raises:
            As `put_message`.
        """
        for bundle in bundles:
            layers = parse_children(bundle.data).layers
            layer = layers[0].digest if layers else EMPTY_CONFIG.digest
            self._publisher.put(bundle.data, tag=self._bundle_tag(message, layer))
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
            tags.append(self._unused(partial(_bulk_tag, rt, rid), drawn, timedelta(milliseconds=1)))
            self._publisher.put(data, tag=tags[-1])
            own = partial(_own_tag, receipt.message, rid)
            self._publisher.put(data, tag=self._unused(own, drawn, timedelta(seconds=1)))
        if receipts:
            self._list(receipts[0][0].message, [receipt.descriptor for receipt, _ in receipts])
        return tags

    def finish(self) -> None:
        """Ring the bells of those who got something, and make sure of the anchors once more."""
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
        """Make sure that blobs are at the target; each is moved once."""
        wanted = {blob.digest: blob for blob in blobs if blob.digest not in self._there}
        wanted.pop(EMPTY_CONFIG.digest, None)
        copy = BlobCopy(
            self._source.registry, self._source.repository, self._target, luck=self._luck
        )
        total = TotalProgress(sum(blob.size for blob in wanted.values()), self._progress)

        def run(blob: Descriptor) -> Descriptor:
            return copy.run(blob.digest, known=blob, progress=total.part(blob.size))

        for blob in self._executor.map(run, wanted.values()):
            self._there.add(blob.digest)

    def _ensure_subject(self, message: Message, rt: str) -> None:
        """Make sure of the anchor that a message refers to, if it is one of its recipient's."""
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

    def _bundle_tag(self, message: Digest, layer: Digest) -> str:
        return self._unused(
            lambda at: bundle_tag(message, at, layer), self._publisher.now(), timedelta(seconds=1)
        )

    def _unused(self, tag_at: _TagAt, at: datetime, step: timedelta) -> str:
        """Return the tag of the first moment that no other object of this run has."""
        while (tag := tag_at(at)) in self._drawn:
            at += step
        self._drawn.add(tag)
        return tag

    def _list(self, message: Digest, entries: Sequence[Descriptor]) -> None:
        """Add to the message's index, where others find referrers by the tag schema.

        regctl and oras do so in a layout, too; ours do not need it there.
        """
        if not entries:
            return
        if self._is_local:
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


def _bulk_tag(rt: str, rid: str, at: datetime) -> str:
    return receipts_tag(rt, at, rid)


def _own_tag(message: Digest, rid: str, at: datetime) -> str:
    return receipt_tag(message, at, rid)

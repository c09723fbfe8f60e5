"""An inbox to fill: a sender that publishes messages, and a store with every habit of tag lists."""

from __future__ import annotations

import io
import random
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta

from dockercomms.errors import DockerCommsError, NameUnknown
from dockercomms.inbox.entries import Entry
from dockercomms.inbox.inbox import Inbox
from dockercomms.oci.interface import BlobReader, TagPage
from dockercomms.oci.memory import MemoryRegistry
from dockercomms.oci.model import (
    EMPTY_CONFIG,
    EMPTY_CONFIG_BYTES,
    MEDIA_TYPE_INDEX,
    MEDIA_TYPE_MANIFEST,
    Descriptor,
    Digest,
    Index,
    digest_of,
)
from dockercomms.oci.reference import referrers_tag
from dockercomms.platforms.clock import Clock
from dockercomms.protocol.header import (
    CHUNK_INDEX,
    CHUNK_SIZE,
    MEDIA_TYPE_CHUNK_ZSTD,
    MessageHeader,
)
from dockercomms.protocol.manifest import ManifestBuilder, Message, parse_message
from dockercomms.protocol.tags import anchor_tag, bell_tag, message_tag, recipient_tag
from dockercomms.state import State
from tests.fakes.clock import FakeClock

ME = "bob@example.com"
RT = recipient_tag(ME)
REPOSITORY = "team/box"
REPO = "registry.example/team/box"
NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
TODAY = NOON.date()
CHUNK = b"not a chunk, but nobody reads it here"


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """The list behaviour of a store; the fields have the names and values of `Quirks`."""

    tags_sorted: bool = True
    tags_last: str = "obeyed"  # or ignored, must-exist, refused
    tags_n: str = "obeyed"  # or ignored
    tags_page_max: int | None = None
    tags_past_end: str = "empty"  # or whole
    tags_link: bool = True
    referrers: bool = True
    entries_type: str = "manifest"  # or config
    entries_annotated: bool = True


class HabitRegistry(MemoryRegistry):
    """A memory registry with habits and faults, which counts its calls.

    `calls` holds (method, argument); `faults` maps such a pair, or a method, to an exception.
    """

    def __init__(self, *, clock: Clock, habits: Habits | None = None) -> None:
        self.habits = habits or Habits()
        super().__init__(clock=clock, referrers=self.habits.referrers)
        self.calls: list[tuple[str, str]] = []
        self.faults: dict[object, DockerCommsError] = {}
        self.lost: set[Digest] = set()
        """Manifests that referrers do not list."""
        self.false_entries: dict[Digest, list[Descriptor]] = {}
        """Entries that referrers list for a subject although their manifests do not exist."""
        self.server_clock: datetime | None = NOON
        """The time that `server_time` returns; `None` before the first answer."""

    def asked(self, method: str) -> list[str]:
        return [argument for called, argument in self.calls if called == method]

    def _called(self, method: str, argument: object) -> None:
        self.calls.append((method, str(argument)))
        for key in ((method, str(argument)), method):
            if key in self.faults:
                raise self.faults[key]

    def server_time(self) -> datetime | None:
        return self.server_clock

    def resolve_tag(self, repository: str, tag: str) -> Descriptor:
        self._called("resolve_tag", tag)
        return super().resolve_tag(repository, tag)

    def get_tag(self, repository: str, tag: str) -> BlobReader:
        self._called("get_tag", tag)
        return super().get_tag(repository, tag)

    def get_manifest(self, repository: str, digest: Digest) -> BlobReader:
        self._called("get_manifest", digest)
        return super().get_manifest(repository, digest)

    def referrers_supported(self, repository: str) -> bool:
        self._called("referrers_supported", repository)
        return super().referrers_supported(repository)

    def referrers(
        self, repository: str, digest: Digest, *, artifact_type: str | None = None
    ) -> Iterator[Descriptor]:
        self._called("referrers", digest)
        yield from self.false_entries.get(digest, [])
        for entry in super().referrers(repository, digest):
            if self.habits.entries_type == "config":
                entry = replace(entry, artifact_type=EMPTY_CONFIG.media_type)
            if not self.habits.entries_annotated:
                entry = replace(entry, annotations={})
            if entry.digest in self.lost:
                continue
            if artifact_type is None or entry.artifact_type == artifact_type:
                yield entry

    def tag_pages(
        self, repository: str, *, start_after: str | None = None, page_size: int | None = None
    ) -> Iterator[TagPage]:
        """Ask page after page as a client does: along `Link`, else while pages are full."""
        last, pages = start_after, set()
        while True:
            self._called("tags", last)
            page = self._page(repository, last, page_size)
            if page.tags in pages:
                return
            pages.add(page.tags)
            yield page
            if not page.tags or not (page.has_link or len(page.tags) == page_size):
                return
            last = page.tags[-1]

    def _page(self, repository: str, last: str | None, size: int | None) -> TagPage:
        habits = self.habits
        (page,) = super().tag_pages(repository)
        tags = list(page.tags)
        if not habits.tags_sorted:
            random.Random(len(tags)).shuffle(tags)
        if habits.tags_last == "must-exist" and last is not None and last not in tags:
            raise NameUnknown(f"{repository}: no tag {last}")
        left = tags
        if habits.tags_last in ("obeyed", "must-exist") and last is not None:
            if habits.tags_sorted:
                left = [tag for tag in tags if tag > last]
            elif last in tags:
                left = tags[tags.index(last) + 1 :]
        if not left and habits.tags_past_end == "whole":
            left = tags
        if habits.tags_n == "ignored" or size is None:
            return TagPage(tuple(left), has_link=False)
        size = min(size, habits.tags_page_max or size)
        return TagPage(tuple(left[:size]), has_link=habits.tags_link and len(left) > size)


class Sender:
    """Publishes messages as the protocol says, or as it forbids."""

    def __init__(self, registry: MemoryRegistry, clock: Clock, *, repository: str = REPOSITORY):
        self.registry = registry
        self.clock = clock
        self.repository = repository
        self.count = 0
        self.indexes: dict[Digest, list[Descriptor]] = {}
        for data, descriptor in (
            (EMPTY_CONFIG_BYTES, EMPTY_CONFIG),
            (CHUNK, self.layer().bare()),
        ):
            registry.push_blob(repository, descriptor, lambda data=data: io.BytesIO(data))

    @staticmethod
    def layer() -> Descriptor:
        annotations = {CHUNK_INDEX: "0", CHUNK_SIZE: "1"}
        return Descriptor.of(CHUNK, MEDIA_TYPE_CHUNK_ZSTD, annotations=annotations)

    def push(self, data: bytes, *tags: str) -> Descriptor:
        return self.registry.push_manifest(self.repository, data, MEDIA_TYPE_MANIFEST, tags=tags)

    def anchor(self, day: date) -> Descriptor:
        data, descriptor = ManifestBuilder.inbox_anchor(RT, day).build()
        self.push(data, anchor_tag(RT, day))
        return descriptor

    def header(self, **changes: object) -> MessageHeader:
        self.count += 1
        header = MessageHeader(
            id=str(uuid.UUID(int=self.count << 96)),
            sender="alice@example.com",
            recipient=ME,
            created_at=self.clock.now(),
            ttl_seconds=604_800,
            filename="a.txt",
            total_bytes=1,
            chunk_bytes=1,
            chunk_count=1,
            compression="zstd",
            payload_digest=None if changes.get("version") == "1.0" else digest_of(b"x"),
        )
        return replace(header, **changes)  # type: ignore[arg-type]

    def build(self, *, day: date | None = None, compat: bool = False, **changes: object) -> bytes:
        header = self.header(**changes)
        subject = None if day is None else ManifestBuilder.inbox_anchor(RT, day).build()[1]
        return ManifestBuilder.message(
            header.to_annotations(compat=compat), (self.layer(),), subject=subject
        ).build(compat=compat)[0]

    def publish(
        self,
        *,
        at: datetime | None = None,
        tagged: bool = True,
        listed: bool = True,
        bell: bool = True,
        **changes: object,
    ) -> Message:
        """Publish one message, created and tagged at `at`."""
        at = at or self.clock.now()
        changes.setdefault("created_at", at)
        anchor = self.anchor(at.date())
        data = self.build(day=at.date(), **changes)
        message = parse_message(data)
        self.push(data, *([message_tag(RT, at, message.digest)] if tagged else []))
        if listed and not self.registry.referrers_supported(self.repository):
            self.list_in_index(anchor.digest, message)
        if bell:
            self.push(data, bell_tag(RT))
        return message

    def publish_legacy(self, *, at: datetime | None = None, tag: str = "", **changes: object):
        """Publish one message as the 1.0 program does: no subject, pointer or day index."""
        at = at or self.clock.now()
        changes.setdefault("created_at", at)
        data = self.build(compat=True, version="1.0", **changes)
        tag = tag or f"inbox-{RT}-{at:%Y%m%d}-{self.count:08x}-{self.count:08x}"
        self.push(data, tag)
        return parse_message(data), tag

    def list_in_index(self, subject: Digest, message: Message) -> None:
        """Add a message to the `sha256-` index of `subject`."""
        entries = self.indexes.setdefault(subject, [])
        entries.append(message.descriptor)
        self.registry.push_manifest(
            self.repository,
            Index(manifests=tuple(entries)).to_bytes(),
            MEDIA_TYPE_INDEX,
            tags=[referrers_tag(subject)],
        )


def days_ago(days: float) -> datetime:
    return NOON - timedelta(days=days)


class World:
    """A store, a sender, and a receiver with a state."""

    def __init__(self, state: State, habits: Habits | None = None) -> None:
        self.clock = FakeClock(NOON)
        self.state = state
        self.registry = HabitRegistry(clock=self.clock, habits=habits)
        self.sender = Sender(self.registry, self.clock)
        self.inbox = self.open()

    def open(self, **options: object) -> Inbox:
        """Return an inbox as a new run has it."""
        self.registry.calls.clear()
        options = {"repo": REPO, "me": ME, "state": self.state, "clock": self.clock} | options
        return Inbox(self.registry, REPOSITORY, concurrency=1, **options)  # type: ignore[arg-type]

    def run(self, **options: object) -> list[Entry]:
        """Return the entries of one new run."""
        self.inbox = self.open()
        self.inbox.poll()
        return self.inbox.entries(**options)

    def deliver(self, message: Message) -> None:
        self.state.inbox.begin_delivery(
            ME,
            message.digest,
            repo=REPO,
            message_id=message.header.id,
            sender=message.header.sender,
            path=None,
            payload_digest=None,
            expires=message.header.expires,
        )
        self.state.inbox.finish_delivery(ME, message.digest, self.clock.now())


def digests(entries: list[Entry]) -> list[Digest | None]:
    return [entry.digest for entry in entries]

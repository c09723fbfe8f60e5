"""The entries of `index.json` of an image layout, and their changes by pushes and deletions.

This module accesses no file. An index is an immutable value: a change returns another one. It keeps
all fields that it does not know, so that other tools find them again.

An entry stands for a manifest under one tag, or without a tag. Each stored manifest has at least
one entry, or is in an image index that has one, so that garbage collectors of other tools keep it.
When a tag moves, its former manifest keeps an entry without a tag. Our own entries also carry the
manifest's artifact type, and the digest of its subject under `ANNOTATION_SUBJECT`. That digest only
saves reading manifests while we list referrers: the list itself comes from the manifests, never
from entries.
Source: image-spec v1.1.1, image-layout.md, "index.json file".
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from dockercomms.errors import ProtocolError
from dockercomms.oci.model import (
    ANNOTATION_REF_NAME,
    MEDIA_TYPE_INDEX,
    Descriptor,
    Digest,
    parse_digest,
    read_entries,
)
from dockercomms.oci.reference import is_valid_tag
from dockercomms.oci.strict_json import canonical_json, parse_json
from dockercomms.platforms.records import dataclass

_log = logging.getLogger("dockercomms.oci")

ANNOTATION_SUBJECT = "dev.dockercomms.layout.subject"
"""The annotation of our entries with the subject's digest; a hint only, see the module's text."""

_MIN_DEAD = 1024
"""The remaining entries are copied only when at least so many entries have been removed."""


@dataclass(frozen=True, slots=True, eq=False)
class IndexEntry:
    """One entry, and its JSON object."""

    descriptor: Descriptor
    fields: Mapping[str, object]

    @property
    def digest(self) -> Digest:
        """The manifest's digest."""
        return self.descriptor.digest

    @property
    def tag(self) -> str | None:
        """The tag; `None` for an entry without one."""
        return self.descriptor.annotations.get(ANNOTATION_REF_NAME)

    @property
    def subject(self) -> str | None:
        """The subject's digest as the entry claims it; `None` without a claim."""
        return self.descriptor.annotations.get(ANNOTATION_SUBJECT)

    def untagged(self) -> IndexEntry:
        """Return this entry without its tag, otherwise unchanged."""
        annotations = dict(self.descriptor.annotations)
        annotations.pop(ANNOTATION_REF_NAME, None)
        fields = {**self.fields, "annotations": annotations}
        if not annotations:
            del fields["annotations"]
        return IndexEntry(replace(self.descriptor, annotations=annotations), fields)


@dataclass(frozen=True, slots=True)
class ListedManifest:
    """One manifest of an `index.json`, which may have several entries there."""

    descriptor: Descriptor
    names: tuple[str, ...]
    """Its tags, and other names, such as docker.io/library/app:v1."""
    subject: str | None
    """The subject's digest in our own entries."""

    @property
    def digest(self) -> Digest:
        """The manifest's digest."""
        return self.descriptor.digest

    @property
    def has_tag(self) -> bool:
        """Whether one of the names is a tag."""
        return any(map(is_valid_tag, self.names))


class _Entries:
    """The entries of all versions of one index, with lookup tables; entries are only added."""

    def __init__(self, entries: Iterable[IndexEntry]) -> None:
        self.entries: list[IndexEntry] = []
        self._texts: list[bytes] = []
        self.born: list[int] = []
        self.died: list[float] = []
        """The first version without the entry; infinity if it is in the newest version."""
        self.by_digest: dict[Digest, list[int]] = {}
        self.by_tag: dict[str, list[int]] = {}
        self.by_subject: dict[str | None, list[int]] = {}
        self.last = 0
        self.dead = 0
        for entry in entries:
            self.add(entry, 0)

    def add(self, entry: IndexEntry, version: int) -> None:
        number = len(self.entries)
        self.born.append(version)
        self.died.append(math.inf)
        self.entries.append(entry)
        self.by_digest.setdefault(entry.digest, []).append(number)
        self.by_subject.setdefault(entry.subject, []).append(number)
        if entry.tag is not None:
            self.by_tag.setdefault(entry.tag, []).append(number)

    def text(self, number: int) -> bytes:
        """Return an entry as JSON, made only once because each small push writes all entries."""
        while len(self._texts) <= number:
            self._texts.append(canonical_json(self.entries[len(self._texts)].fields))
        return self._texts[number]


class LayoutIndex:
    """An immutable version of the entries of an `index.json`, found by tag, digest and subject.

    A change returns another version, which shares the entries of this one. Its cost depends on the
    size of the change, not on the number of entries.
    """

    def __init__(
        self,
        entries: Iterable[IndexEntry],
        fields: Mapping[str, object] | None = None,
        unread: Sequence[object] = (),
    ) -> None:
        self._fields = fields or {"schemaVersion": 2, "mediaType": MEDIA_TYPE_INDEX}
        self.unread = unread
        """The JSON of entries that are no descriptors; it keeps its place."""
        self._all = _Entries(entries)
        self._version = 0
        self._tags: list[str] | None = None

    @property
    def entries(self) -> tuple[IndexEntry, ...]:
        """All entries, in the order of the file."""
        numbers = range(len(self._all.entries))
        return tuple(self._all.entries[number] for number in self._alive(numbers))

    def tagged(self, tag: str) -> IndexEntry | None:
        """Return the entry under `tag`.

        The image-spec allows two entries of one tag; the later one counts, as in oras.
        Source: image-spec v1.1.1, annotations.md (`org.opencontainers.image.ref.name`).
        """
        numbers = self._all.by_tag.get(tag, ())
        number = next(self._alive(reversed(numbers)), None)
        return None if number is None else self._all.entries[number]

    def manifest(self, digest: Digest) -> IndexEntry | None:
        """Return the first entry of the manifest with `digest`."""
        number = self.position(digest)
        return None if number is None else self._all.entries[number]

    def position(self, digest: Digest) -> int | None:
        """Return a number that grows in the order in which manifests were added."""
        return next(self._alive(self._all.by_digest.get(digest, ())), None)

    def manifests(self) -> Iterator[IndexEntry]:
        """Yield one entry of each manifest, in the order in which they were added."""
        found: dict[Digest, IndexEntry] = {}
        for entry in self.entries:
            found.setdefault(entry.digest, entry)
        return iter(found.values())

    def listed(self) -> list[ListedManifest]:
        """Return each manifest with the names of all its entries, in the order of `manifests`."""
        names: dict[Digest, list[str]] = {}
        for entry in self.entries:
            names.setdefault(entry.digest, []).extend([] if entry.tag is None else [entry.tag])
        return [
            ListedManifest(entry.descriptor, tuple(names[entry.digest]), entry.subject)
            for entry in self.manifests()
        ]

    def referring(self, subject: Digest) -> list[IndexEntry]:
        """Return the first entry of each manifest whose entry names `subject`, in their order."""
        found: dict[Digest, IndexEntry] = {}
        for number in self._alive(self._all.by_subject.get(subject, ())):
            entry = self._all.entries[number]
            found.setdefault(entry.digest, entry)
        return list(found.values())

    def unclaimed(self, seen: tuple[object, int]) -> tuple[tuple[object, int], list[IndexEntry]]:
        """Return entries that name no subject, and the mark behind them.

        Args:
            seen: The mark of an earlier call. If that was at a version of this index, only the
                entries added since are returned.
        """
        numbers = self._all.by_subject.get(None, [])
        begin = seen[1] if seen[0] is self._all else 0
        end = len(numbers)
        return (self._all, end), [self._all.entries[number] for number in numbers[begin:end]]

    def tags(self) -> list[str]:
        """Return the tags in bytewise order.

        Other tools write whole image names under the same annotation. They are not listed if they
        are no valid tag, but `tagged` finds them.
        """
        if self._tags is None:
            tags = {entry.tag for entry in self.entries if entry.tag is not None}
            self._tags = sorted(tag for tag in tags if is_valid_tag(tag))
        return self._tags

    def with_manifest(
        self, descriptor: Descriptor, tags: Sequence[str], *, subject: Digest | None = None
    ) -> LayoutIndex:
        """Return the index after a push: under each of `tags`, or without a tag if `tags` is empty.

        Returns `self` if the push changes no entry.
        """
        held = self.manifest(descriptor.digest)
        if held is not None and self._holds(descriptor, tags, held):
            return self
        names: Sequence[str | None] = tuple(dict.fromkeys(tags)) or (None,)
        added = [_new_entry(descriptor, tag, subject) for tag in names]
        return self._changed(tags, descriptor.digest, added)

    def without_tag(self, tag: str) -> LayoutIndex:
        """Return the index without `tag`; its manifest stays."""
        return self._changed((tag,), None, ())

    def without_manifest(self, digest: Digest) -> LayoutIndex:
        """Return the index without the manifest and all its tags."""
        return self._next(list(self._alive(self._all.by_digest.get(digest, ()))), ())

    def without_loose(self, digests: Iterable[Digest]) -> LayoutIndex:
        """Return the index without the entries of `digests` that have neither tag nor subject.

        Returns `self` if there are no such entries.
        """
        numbers = [
            number
            for digest in dict.fromkeys(digests)
            for number in self._alive(self._all.by_digest.get(digest, ()))
        ]
        entries = self._all.entries
        gone = [n for n in numbers if not (entries[n].tag or entries[n].subject)]
        return self._next(gone, ()) if gone else self

    def changed_by(self, change: Mapping[str, object]) -> LayoutIndex:
        """Return the index after one change of `oci.layout.changes`; `self` if it has it already.

        Raises:
            ProtocolError: it is no change.
        """
        match change:
            case {"push": entry, "tags": [*tags], "subject": subject}:
                descriptor = Descriptor.from_json(entry, "change")
                claimed = None if subject is None else parse_digest(str(subject))
                return self.with_manifest(descriptor, [str(tag) for tag in tags], subject=claimed)
            case {"untag": str(tag)}:
                return self.without_tag(tag)
            case {"remove": str(digest)}:
                return self.without_manifest(Digest(digest))
            case {"unlist": [*digests]}:
                return self.without_loose([Digest(str(digest)) for digest in digests])
            case _:
                raise ProtocolError(f"not a change of an index: {change!r:.200}")

    def to_bytes(self) -> bytes:
        """Return `index.json` as compact JSON, with the fields of other tools."""
        members = {name: canonical_json(value) for name, value in self._fields.items()}
        numbers = self._alive(range(len(self._all.entries)))
        entries = [*map(self._all.text, numbers), *map(canonical_json, self.unread)]
        members["manifests"] = b"[%b]" % b",".join(entries)
        return b"{%b}" % b",".join(b"%b:%b" % (canonical_json(n), v) for n, v in members.items())

    def _alive(self, numbers: Iterable[int]) -> Iterator[int]:
        born, died, version = self._all.born, self._all.died, self._version
        return (number for number in numbers if born[number] <= version < died[number])

    def _changed(
        self, freed: Sequence[str], pushed: Digest | None, added: Sequence[IndexEntry]
    ) -> LayoutIndex:
        """Take `freed` tags from their manifests, and put `added` entries of `pushed` at the end.

        A manifest that loses its last tag keeps one entry without a tag. Entries of all other
        manifests stay as they are.
        """
        entries = self._all.entries
        gone = {n for tag in freed for n in self._alive(self._all.by_tag.get(tag, ()))}
        loosened = {entries[n].digest: entries[n].untagged() for n in sorted(gone)}
        if pushed is not None:
            own = self._alive(self._all.by_digest.get(pushed, ()))
            gone |= {n for n in own if entries[n].tag is None}
        idle = [
            entry
            for digest, entry in loosened.items()
            if digest != pushed and all(n in gone for n in self._alive(self._all.by_digest[digest]))
        ]
        return self._next(gone, [*idle, *added])

    def _next(self, gone: Collection[int], added: Sequence[IndexEntry]) -> LayoutIndex:
        """Return the next version; only one thread at a time may call this."""
        shared = self._all
        is_newest = self._version == shared.last
        if not is_newest or shared.dead > len(shared.entries) // 2 + _MIN_DEAD:
            numbers = self._alive(range(len(shared.entries)))
            left = (shared.entries[n] for n in numbers if n not in gone)
            return LayoutIndex([*left, *added], self._fields, self.unread)
        version = shared.last + 1
        for number in gone:
            shared.died[number] = version
        for entry in added:
            shared.add(entry, version)
        shared.dead += len(gone)
        shared.last = version
        index = LayoutIndex((), self._fields, self.unread)
        index._all, index._version = shared, version
        return index

    def _holds(self, descriptor: Descriptor, tags: Sequence[str], held: IndexEntry) -> bool:
        found = [self.tagged(tag) for tag in tags] or [held]
        return all(
            entry is not None and entry.descriptor.bare() == descriptor.bare() for entry in found
        )


EMPTY_INDEX = LayoutIndex(())


def parse_layout_index(data: bytes, *, where: str) -> LayoutIndex:
    """Return the index in `data`; the log counts entries that are no descriptors.

    Raises:
        ProtocolError: `data` is no image index; the error names the file `where`.

    Source: image-spec v1.1.1, image-layout.md, "index.json file".
    """
    fields = parse_json(data, where=where)
    if not isinstance(fields, dict):
        raise ProtocolError(f"{where}: a JSON object expected")
    manifests = fields.get("manifests")
    # Go's encoder writes an empty list of a new layout as null.
    if not isinstance(manifests, list) and ("manifests" not in fields or manifests is not None):
        raise ProtocolError(f"{where}: not an index: the list of manifests is missing")
    if fields.get("schemaVersion") != 2 or isinstance(fields["schemaVersion"], bool):  # noqa: PLR2004
        raise ProtocolError(
            f"{where}: schemaVersion {fields.get('schemaVersion')!r:.50}; expected 2"
        )
    listed = read_entries(manifests or (), where)
    if listed.problem is not None:
        _log.warning("%s", listed.problem)
    entries = (IndexEntry(found, item) for found, item in listed.entries if isinstance(item, dict))
    fields["manifests"] = None  # keeps the position of the key; `entries` has the list
    return LayoutIndex(entries, fields, listed.unread)


def _new_entry(descriptor: Descriptor, tag: str | None, subject: Digest | None) -> IndexEntry:
    annotations: dict[str, str] = {}
    if subject is not None:
        annotations[ANNOTATION_SUBJECT] = subject
    if tag is not None:
        annotations[ANNOTATION_REF_NAME] = tag
    written = replace(descriptor, annotations=annotations)
    return IndexEntry(written, written.to_json())

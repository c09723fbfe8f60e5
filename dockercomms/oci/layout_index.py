"""`index.json` of an image layout: its entries, and what a push or a deletion makes of them.

Nothing here touches a file. An index is a value: a change returns another one. What this module
does not know in an entry or beside the entries is kept, so that other tools find it again.

An entry stands for a manifest under one tag, or under none. Every stored manifest has at least one
entry, so that tools which collect garbage see it, or is in an image index that has one; a tag that
moves leaves an entry without a tag behind. Our own entries also carry the manifest's artifact
type, and where it has a subject, that subject's digest under `ANNOTATION_SUBJECT`. The latter only
says which manifests need not be read to answer "what refers to X": the answer itself is taken from
the manifests, never from entries.

Source: image-spec v1.1.1, image-layout.md, "index.json file".

Example:
    >>> from dockercomms.oci.layout_index import EMPTY_INDEX
    >>> from dockercomms.oci.model import Descriptor, MEDIA_TYPE_MANIFEST
    >>> manifest = Descriptor.of(b"{}", MEDIA_TYPE_MANIFEST)
    >>> EMPTY_INDEX.with_manifest(manifest, ("v1",)).tags()
    ['v1']
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import cast

from dockercomms.errors import ProtocolError
from dockercomms.oci.model import (
    ANNOTATION_REF_NAME,
    MEDIA_TYPE_INDEX,
    Descriptor,
    Digest,
    canonical_json,
    parse_json,
)
from dockercomms.oci.reference import is_valid_tag
from dockercomms.records import dataclass

ANNOTATION_SUBJECT = "dev.dockercomms.layout.subject"
"""Where our entries say which manifest theirs refers to; a hint, see the module's text."""


@dataclass(frozen=True, slots=True, eq=False)
class IndexEntry:
    """One entry: what it says, and the JSON object it came from or will be written as."""

    descriptor: Descriptor
    fields: Mapping[str, object]

    @property
    def digest(self) -> Digest:
        """The manifest's digest."""
        return self.descriptor.digest

    @property
    def tag(self) -> str | None:
        """The tag, None for an entry without one."""
        return self.descriptor.annotations.get(ANNOTATION_REF_NAME)

    @property
    def subject(self) -> str | None:
        """The subject's digest as the entry claims it, None where it claims nothing."""
        return self.descriptor.annotations.get(ANNOTATION_SUBJECT)

    def untagged(self) -> IndexEntry:
        """Return this entry without its tag, with all else that it has."""
        annotations = dict(self.descriptor.annotations)
        annotations.pop(ANNOTATION_REF_NAME, None)
        fields = {**self.fields, "annotations": annotations}
        if not annotations:
            del fields["annotations"]
        return IndexEntry(replace(self.descriptor, annotations=annotations), fields)


class LayoutIndex:
    """The entries of an `index.json`, found by tag and by digest. Never changed once made."""

    def __init__(
        self, entries: Iterable[IndexEntry], fields: Mapping[str, object] | None = None
    ) -> None:
        self.entries = tuple(entries)
        self._fields = fields or {"schemaVersion": 2, "mediaType": MEDIA_TYPE_INDEX}
        self._by_digest: dict[Digest, IndexEntry] = {}
        self._by_tag: dict[str, IndexEntry] = {}
        self._repeated: dict[Digest, int] = {}
        """How many entries those manifests have that have several."""
        self._has_equal_tags = False
        self._texts: list[bytes] | None = None
        """The text of each entry, once it was needed."""
        self._find(self.entries)

    def tagged(self, tag: str) -> IndexEntry | None:
        """Return the entry under `tag`.

        Source: image-spec v1.1.1, annotations.md (`org.opencontainers.image.ref.name`).
        """
        return self._by_tag.get(tag)

    def manifest(self, digest: Digest) -> IndexEntry | None:
        """Return the first entry of the manifest with `digest`."""
        return self._by_digest.get(digest)

    def manifests(self) -> Iterator[IndexEntry]:
        """Yield one entry of each manifest, in the order in which they were added."""
        return iter(self._by_digest.values())

    def tags(self) -> list[str]:
        """Return the tags in bytewise order.

        Other tools write whole image names under the same annotation; what could not be a
        registry's tag is not listed, though `tagged` finds it.
        """
        return sorted(tag for tag in self._by_tag if is_valid_tag(tag))

    def with_manifest(
        self, descriptor: Descriptor, tags: Sequence[str], *, subject: Digest | None = None
    ) -> LayoutIndex:
        """Return the index after a push: under each of `tags`, or without a tag if there are none.

        Returns `self` where that changes nothing.
        """
        held = self._by_digest.get(descriptor.digest)
        if held is not None and self._holds(descriptor, tags):
            return self
        names: Sequence[str | None] = tuple(dict.fromkeys(tags)) or (None,)
        added = [_new_entry(descriptor, tag, subject) for tag in names]
        moved = None
        if held is None or held.tag is not None:
            moved = self._moved(names, descriptor.digest, added)
        return moved or self._changed(set(tags), descriptor.digest, added)

    def without_tag(self, tag: str) -> LayoutIndex:
        """Return the index without `tag`; its manifest stays."""
        return self._changed({tag}, None, ())

    def without_manifest(self, digest: Digest) -> LayoutIndex:
        """Return the index without the manifest and every tag on it."""
        kept: list[IndexEntry] = []
        gone: list[IndexEntry] = []
        for entry in self.entries:
            (gone if entry.descriptor.digest == digest else kept).append(entry)
        freed = [entry.tag for entry in gone if entry.tag is not None]
        if len({*freed}) < len(freed) or self._has_equal_tags:
            return LayoutIndex(kept, self._fields)  # another entry of the tag counts now
        index: LayoutIndex = self._copy()
        index.entries, index._texts = tuple(kept), None
        index._repeated.pop(digest, None)
        index._by_digest.pop(digest, None)
        for tag in freed:
            del index._by_tag[tag]
        return index

    def without_loose(self, digests: Collection[Digest]) -> LayoutIndex:
        """Return the index without the entries of `digests` that have neither tag nor subject.

        Returns `self` where there is none.
        """
        kept = [e for e in self.entries if e.digest not in digests or e.tag or e.subject]
        return self if len(kept) == len(self.entries) else LayoutIndex(kept, self._fields)

    def to_bytes(self) -> bytes:
        """Return `index.json` as compact JSON, members that are not ours included."""
        written = self._written()
        head, tail = self._frame()
        if not written:
            return head + tail
        texts = written.copy()
        texts[0] = head + texts[0]
        texts[-1] += tail
        return b",".join(texts)  # one copy of what may be megabytes

    def changed_to(self, data: bytes) -> LayoutIndex | None:
        """Return the index in `data`, of which only those entries are parsed that are new here.

        None where `data` is not written as `to_bytes` would, or has other members beside the
        entries: then all of it has to be parsed. Of some 1,000 entries, this takes a tenth of that.
        """
        head, tail = self._frame()
        if not (data.startswith(head + b"{") and data.endswith(b"}" + tail)):
            return None
        # Pieces that are JSON objects each on their own are, joined by commas, a list of these;
        # where a string or a list of objects was cut apart, one of them is none.
        pieces = data[len(head) + 1 : -len(tail) - 1].split(b"},{")
        texts = [b"{" + piece + b"}" for piece in pieces]
        known = dict(zip(self._written(), self.entries, strict=True))
        entries = []
        for text in texts:
            entry = known.get(text)
            if entry is None:
                try:
                    item = cast("Mapping[str, object]", parse_json(text))
                    entry = IndexEntry(Descriptor.from_json(item, "index.json"), item)
                except ProtocolError:
                    return None  # parsing all of it says what is wrong
            entries.append(entry)
        index = LayoutIndex(entries, self._fields)
        index._texts = texts
        return index

    def _written(self) -> list[bytes]:
        """Return the text of each entry; not to be changed."""
        if self._texts is None:
            # All at once takes a third of the time of one by one. Cut apart in as many pieces as
            # there are entries, nothing within one of them was cut.
            pieces = canonical_json([entry.fields for entry in self.entries])[2:-2].split(b"},{")
            if len(pieces) == len(self.entries):
                self._texts = [b"{" + piece + b"}" for piece in pieces]
            else:
                self._texts = [canonical_json(entry.fields) for entry in self.entries]
        return self._texts

    def _frame(self) -> tuple[bytes, bytes]:
        """Return what stands before the first entry, and behind the last one."""
        names = list(self._fields)
        at = names.index("manifests") if "manifests" in names else len(names)
        before = canonical_json({name: self._fields[name] for name in names[:at]})
        after = canonical_json({name: self._fields[name] for name in names[at + 1 :]})
        head = before[:-1] + (b"," if at else b"") + b'"manifests":['
        return head, b"]" + (b"," if names[at + 1 :] else b"") + after[1:]

    def _find(self, entries: Iterable[IndexEntry]) -> None:
        """Let entries be found that come after all that are found already."""
        for entry in entries:
            if self._by_digest.setdefault(entry.digest, entry) is not entry:
                self._repeated[entry.digest] = self._repeated.get(entry.digest, 1) + 1
            if entry.tag is not None:
                self._has_equal_tags = self._has_equal_tags or entry.tag in self._by_tag
                # Two entries of one tag are allowed by the image-spec; the later one counts, as
                # for oras.
                self._by_tag[entry.tag] = entry

    def _copy(self) -> LayoutIndex:
        """Return one like it, to be changed before anybody sees it."""
        index = LayoutIndex((), self._fields)
        index.entries = self.entries
        index._by_digest = self._by_digest.copy()
        index._by_tag = self._by_tag.copy()
        index._repeated = self._repeated.copy()
        index._has_equal_tags = self._has_equal_tags
        index._texts = None if self._texts is None else self._texts.copy()
        return index

    def _append(self, added: Sequence[IndexEntry]) -> LayoutIndex:
        """Add entries that take nothing from others; only to a copy, which is returned."""
        self.entries = (*self.entries, *added)
        if self._texts is not None:
            self._texts += [canonical_json(entry.fields) for entry in added]
        self._find(added)
        return self

    def _moved(
        self, tags: Iterable[str | None], pushed: Digest, added: Sequence[IndexEntry]
    ) -> LayoutIndex | None:
        """Add entries under new `tags`, or under those that others have, as every bell does.

        None if that is not as simple as it mostly is. Of many entries, a tenth of the time of
        `_changed`.
        """
        held = [self._by_tag[tag] for tag in tags if tag in self._by_tag]
        digests = {entry.digest for entry in held}
        if pushed in digests or len(digests) < len(held) or (held and self._has_equal_tags):
            return None
        index: LayoutIndex = self._copy()
        held.sort(key=self.entries.index)
        if not all(index._lose(entry) for entry in held):
            return None
        loose = [entry.untagged() for entry in held if entry.digest not in index._by_digest]
        return index._append([*loose, *added])

    def _lose(self, entry: IndexEntry) -> bool:
        """Take out an entry with a tag, only of a copy.

        False if it is the first of several of its manifest.
        """
        left = self._repeated.get(entry.digest, 1) - 1
        if left and self._by_digest[entry.digest] is entry:
            return False  # which one is the first then is not known
        at = self.entries.index(entry)
        self.entries = self.entries[:at] + self.entries[at + 1 :]
        if self._texts is not None:
            del self._texts[at]
        if entry.tag is not None:
            del self._by_tag[entry.tag]
        if not left:
            del self._by_digest[entry.digest]
        elif left == 1:
            del self._repeated[entry.digest]
        else:
            self._repeated[entry.digest] = left
        return True

    def _changed(
        self, freed: set[str], pushed: Digest | None, added: Iterable[IndexEntry]
    ) -> LayoutIndex:
        """Take `freed` tags from their manifests, and put `added` entries of `pushed` at the end.

        A manifest whose last tag goes keeps one entry without a tag; entries of manifests that
        this does not concern stay as they are, whoever wrote them.
        """
        kept: list[IndexEntry] = []
        loosened: dict[Digest, IndexEntry] = {}
        for entry in self.entries:
            if entry.tag in freed:
                loosened[entry.digest] = entry.untagged()
            elif entry.tag is not None or entry.digest != pushed:
                kept.append(entry)
        listed = {entry.digest for entry in kept} | {pushed}
        idle = (entry for digest, entry in loosened.items() if digest not in listed)
        return LayoutIndex((*kept, *idle, *added), self._fields)

    def _holds(self, descriptor: Descriptor, tags: Sequence[str]) -> bool:
        found = [self._by_tag.get(tag) for tag in tags] or [self._by_digest[descriptor.digest]]
        return all(
            entry is not None and entry.descriptor.bare() == descriptor.bare() for entry in found
        )


EMPTY_INDEX = LayoutIndex(())


def parse_layout_index(data: bytes, *, where: str, known: LayoutIndex = EMPTY_INDEX) -> LayoutIndex:
    """Return the index in `data`.

    Args:
        data: The content of an `index.json`.
        where: Names the file in errors.
        known: What it was before; entries that it still has are not parsed again.

    Raises:
        ProtocolError: not an image index, or an entry is none.

    Source: image-spec v1.1.1, image-layout.md, "index.json file".
    """
    found = known.changed_to(data) if known.entries else None
    if found is not None:
        return found
    fields = parse_json(data, where=where)
    if not isinstance(fields, dict):
        raise ProtocolError(f"{where}: a JSON object expected")
    manifests = fields.get("manifests")
    # A fresh layout of Go's encoder has null for no manifests.
    if not isinstance(manifests, list) and ("manifests" not in fields or manifests is not None):
        raise ProtocolError(f"{where}: no list of manifests, so not an index")
    if fields.get("schemaVersion") != 2 or isinstance(fields["schemaVersion"], bool):  # noqa: PLR2004
        raise ProtocolError(f"{where}: schemaVersion {fields.get('schemaVersion')!r:.50} is not 2")
    return LayoutIndex(
        (
            IndexEntry(Descriptor.from_json(item, f"{where}: entry {number}"), item)
            for number, item in enumerate(manifests or ())
        ),
        fields,
    )


def _new_entry(descriptor: Descriptor, tag: str | None, subject: Digest | None) -> IndexEntry:
    annotations: dict[str, str] = {}
    if subject is not None:
        annotations[ANNOTATION_SUBJECT] = subject
    if tag is not None:
        annotations[ANNOTATION_REF_NAME] = tag
    written = replace(descriptor, annotations=annotations)
    return IndexEntry(written, written.to_json())

"""A registry in an OCI image-layout folder, which all other tools can read.

One folder holds one repository; the methods ignore the repository's name. Several threads and
several processes may write at once without blocking readers: see `oci.layout.files`.

A push and a list of referrers cost about as much with 20,000 messages as with 1,000 (measured: 12.5
and 7.9 ms, in memory on a busy machine). A new process reads `index.json` once, 35 µs for each
entry. A large `index.json` may lag behind until the layout is closed; `oci.layout.changes` has the
rest. The first list of referrers in a process also reads each manifest whose entry names no
subject.

Only this package uses its lock: if another tool writes into the layout at the same moment, the
later `index.json` of the two stays.

`sweep_layout` removes unreferenced content, since a folder has no garbage collector. Content
younger than a day stays: a push may be about to refer to it, and an interrupted send can resume for
that long. A sender that refers to an older blob a moment after its removal gets the error "unknown
blob", as at a registry, and pushes the blob again.
Source: image-spec v1.1.1, image-layout.md.
"""

from __future__ import annotations

import contextlib
import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path

from dockercomms.errors import (
    BlobUnknown,
    IntegrityError,
    LimitError,
    LocalIOError,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameUnknown,
    NotFoundError,
    ProtocolError,
    Unsupported,
)
from dockercomms.oci.content import (
    ManifestFacts,
    PagedTags,
    StoredReader,
    StoredUpload,
    blob_descriptor,
    check_manifest,
    check_range,
    checked_blocks,
    open_blob,
    open_range,
    read_facts,
    referrer_entry,
    tag_pages,
)
from dockercomms.oci.interface import (
    BlobReader,
    BlobSource,
    BlobUpload,
    ProgressHook,
    TagPage,
    read_all,
)
from dockercomms.oci.layout.files import LayoutFiles, LayoutSession
from dockercomms.oci.layout.index import IndexEntry, LayoutIndex, ListedManifest
from dockercomms.oci.model import MANIFEST_MEDIA_TYPES, MAX_MANIFEST_BYTES, Descriptor, Digest
from dockercomms.oci.reference import referrers_tag
from dockercomms.oci.tag_schema import tag_schema_entries
from dockercomms.platforms.clock import Clock, SystemClock
from dockercomms.platforms.files import local_errors
from dockercomms.platforms.records import dataclass

# The interface names the repository in each call; a layout has only one.
# ruff: noqa: ARG002


MAX_REMEMBERED_MANIFESTS = 20_000
"""About 3 KB each, so 60 MB at most."""


class LayoutRegistry(PagedTags):
    """Implements `oci.interface.Registry` over an image-layout folder.

    Args:
        folder: The path of the layout.
        create: Whether the first write makes a missing layout; otherwise that write raises
            LocalIOError. Reading a missing layout always raises NameUnknown.
        private: Whether only this user may access a new layout.
        clock: The clock of `server_time`.
        max_remembered: Number of manifests whose facts stay in memory; the oldest go first.
    """

    def __init__(
        self,
        folder: Path,
        *,
        create: bool = False,
        private: bool = False,
        clock: Clock | None = None,
        max_remembered: int = MAX_REMEMBERED_MANIFESTS,
    ) -> None:
        self._folder = folder
        self._files = self._open_files(folder, create=create, private=private)
        self._clock = clock or SystemClock()
        self._max_remembered = max_remembered
        self._facts: dict[Digest, ManifestFacts | None] = {}
        self._facts_lock = threading.Lock()
        self._subjects: dict[Digest, Digest | None] = {}
        """The subject of each manifest whose entry does not name it."""
        self._referring: dict[Digest, list[Digest]] = {}
        self._unread: dict[Digest, IndexEntry] = {}
        self._seen: tuple[object, int] = (None, 0)
        self._subjects_lock = threading.Lock()

    @staticmethod
    def _open_files(folder: Path, *, create: bool, private: bool) -> LayoutFiles:
        return LayoutFiles(folder, create=create, private=private)

    def exists(self) -> bool:
        """Return whether the layout exists."""
        return self._files.exists()

    # --- reading ---------------------------------------------------------------------------------

    def get_blob(self, repository: str, digest: Digest, *, size: int | None = None) -> BlobReader:
        """See `Reader.get_blob`."""
        stream, stored = self._files.open_blob(digest)
        return open_blob(stream, digest, stored, size)

    def get_blob_range(
        self, repository: str, digest: Digest, start: int, end: int | None = None
    ) -> BlobReader:
        """See `Reader.get_blob_range`."""
        check_range(start, end)
        stream, size = self._files.open_blob(digest)
        return open_range(stream, digest, size, start, end)

    def get_manifest(self, repository: str, digest: Digest) -> BlobReader:
        """See `Reader.get_manifest`; manifests that only an index names are found too."""
        return self._open(self.resolve_manifest(repository, digest))

    def get_tag(self, repository: str, tag: str) -> BlobReader:
        """See `Reader.get_tag`."""
        return self._open(self.resolve_tag(repository, tag))

    def resolve_blob(self, repository: str, digest: Digest) -> Descriptor:
        """See `Reader.resolve_blob`."""
        return blob_descriptor(digest, self._files.blob_size(digest))

    def resolve_manifest(self, repository: str, digest: Digest) -> Descriptor:
        """See `Reader.resolve_manifest`."""
        entry = self._files.index().manifest(digest)
        return entry.descriptor.bare() if entry is not None else self._nested(digest)

    def resolve_tag(self, repository: str, tag: str) -> Descriptor:
        """See `Reader.resolve_tag`."""
        return self._tagged(tag).descriptor.bare()

    def server_time(self) -> datetime | None:
        """See `Reader.server_time`: this machine's clock."""
        return self._clock.now()

    # --- writing ---------------------------------------------------------------------------------

    def push_blob(
        self,
        repository: str,
        descriptor: Descriptor,
        source: BlobSource,
        *,
        progress: ProgressHook | None = None,
    ) -> Descriptor:
        """See `Writer.push_blob`; the blob is on the disk when this returns."""
        self._files.prepare()
        what = f"{self._folder}: {descriptor.digest}"
        with local_errors(what):
            new = self._files.new_file()
        with new, contextlib.closing(checked_blocks(descriptor, source)) as pieces:
            done = 0
            for piece in pieces:
                with local_errors(what):
                    new.write(piece)
                done += len(piece)
                if progress is not None:
                    progress(done, descriptor.size)
            with local_errors(what):
                self._files.publish_blob(new, descriptor.digest)
        return descriptor

    def push_manifest(
        self,
        repository: str,
        data: bytes,
        media_type: str,
        *,
        tags: Sequence[str] = (),
        digest: Digest | None = None,
    ) -> Descriptor:
        """See `Writer.push_manifest`; it is on the disk when this returns.

        As at a registry, the blobs and child manifests must exist; the subject need not.
        """
        descriptor, facts = check_manifest(
            data, media_type, tags=tuple(tags), digest=digest, what=str(self._folder)
        )
        self._files.prepare()
        entry = Descriptor(
            media_type=media_type,
            digest=descriptor.digest,
            size=descriptor.size,
            artifact_type=facts.artifact_type,
        )
        # The lock also prevents the deletion of the checked content meanwhile.
        with self._files.locked():
            for part in (*facts.required, *facts.manifests):
                if not self._files.has_blob(part):
                    raise ManifestBlobUnknown(
                        f"{self._folder}: manifest needs {part}, which is not there"
                    )
            self._files.write_blob(descriptor.digest, data)
            self._files.change(
                {"push": entry.to_json(), "tags": list(tags), "subject": facts.subject}
            )
        return descriptor

    def fold(self, digest: Digest) -> None:
        """Remove the entries of the manifests of the image index `digest`, as other tools do.

        Without further options, crane accepts only a layout that lists one manifest. Each manifest
        can still be found by its digest. Manifests with a tag or a subject, and those without a
        media type of their own, stay listed.

        Raises:
            ManifestUnknown: there is no such index.
        """
        facts = self._facts_of(self.resolve_manifest("", digest))
        children = () if facts is None else facts.manifests
        self._files.prepare()
        with self._files.locked():
            named = [
                child
                for child in children
                if self._said_type(child, self._files.blob_size(child)) in MANIFEST_MEDIA_TYPES
            ]
            self._files.change({"unlist": named})

    def batch(self) -> AbstractContextManager[None]:
        """Return a context manager that writes `index.json` only at the end of its block.

        For many manifests whose content is in place. Other writers wait meanwhile; other threads
        must not write manifests.
        """
        return self._files.batch()

    def mount_blob(self, repository: str, digest: Digest, *, source: str) -> Descriptor | None:
        """See `Writer.mount_blob`: all repository names mean this layout."""
        try:
            return self.resolve_blob(repository, digest)
        except NotFoundError:
            return None

    def upload(self, repository: str, *, chunk_size: int = 0) -> BlobUpload:
        """See `Writer.upload`."""
        self._files.prepare()
        return StoredUpload(self._files.start_upload(), 0, chunk_size)

    def resume_upload(
        self, repository: str, session: str, *, offset: int | None = None, chunk_size: int = 0
    ) -> BlobUpload:
        """See `Writer.resume_upload`; also continues sessions of other processes."""
        found = LayoutSession(self._files, session)
        size = found.size()
        return StoredUpload(found, size if offset is None else offset, chunk_size)

    # --- deleting --------------------------------------------------------------------------------

    def delete_blob(self, repository: str, digest: Digest) -> None:
        """See `Deleter.delete_blob`; does not delete manifests."""
        self._existing()
        with self._files.locked():
            if self._files.index().manifest(digest) is not None:
                raise BlobUnknown(f"{self._folder}: {digest} is a manifest, not a blob")
            self._files.blob_size(digest)
            self._files.remove_blob(digest)

    def delete_manifest(self, repository: str, digest: Digest) -> None:
        """See `Deleter.delete_manifest`."""
        self._existing()
        with self._files.locked():
            if self._files.index().manifest(digest) is None:
                raise ManifestUnknown(f"{self._folder}: no manifest {digest}")
            # Remove the entry first: after a crash, each entry must still have its content.
            self._files.change({"remove": digest})
            self._files.remove_blob(digest)

    def delete_tag(self, repository: str, tag: str) -> None:
        """See `Deleter.delete_tag`."""
        self._existing()
        with self._files.locked():
            self._tagged(tag)
            self._files.change({"untag": tag})

    @property
    def files(self) -> LayoutFiles:
        """The files, for functions that work on all of them."""
        return self._files

    def needed(self) -> set[Digest]:
        """Return the digests of all listed manifests and of all content that they refer to.

        Raises:
            NameUnknown: there is no layout. IntegrityError, ProtocolError: a manifest is damaged,
                or an entry cannot be read.
        """
        needed: set[Digest] = set()
        index = self._files.index()
        if index.unread:
            raise ProtocolError(
                f"{self._folder}: {len(index.unread)} entries of index.json cannot be read, "
                "so that the blobs they need are unknown"
            )
        waiting = [entry.digest for entry in index.manifests()]
        while waiting:
            digest = waiting.pop()
            if digest in needed:
                continue
            needed.add(digest)
            try:
                size = self._files.blob_size(digest)
                # An index may list content of any size that is no manifest.
                found = None if size > MAX_MANIFEST_BYTES else blob_descriptor(digest, size)
                facts = None if found is None else self._facts_of(found)
            except NotFoundError:
                continue
            if facts is not None:
                needed.update(facts.blobs)
                waiting += facts.manifests
        return needed

    # --- listing ---------------------------------------------------------------------------------

    def listed(self) -> list[ListedManifest]:
        """Return the manifests of `index.json` in its order, with or without names.

        Raises:
            NameUnknown: there is no layout.
            ProtocolError: `index.json` is damaged.
        """
        return self._files.index().listed()

    def tag_pages(
        self, repository: str, *, start_after: str | None = None, page_size: int | None = None
    ) -> Iterator[TagPage]:
        """See `Lister.tag_pages`: in bytewise order; one page unless `page_size` is smaller."""

        def after(last: str) -> list[str]:
            names = self._files.index().tags()
            return names[bisect_right(names, last) :]

        return tag_pages(after, start_after, page_size)

    def repositories(
        self,
        *,
        start_after: str | None = None,
        page_size: int | None = None,
        limit: int | None = None,
    ) -> Iterator[str]:
        """See `Lister.repositories`: a layout's one repository has no name."""
        raise Unsupported(f"{self._folder}: an image layout lists no repositories")

    def referrers(
        self, repository: str, digest: Digest, *, artifact_type: str | None = None
    ) -> Iterator[Descriptor]:
        """See `Lister.referrers`: in the order in which they were pushed.

        Referrers that another tool lists only in the index of the tag schema come last.
        """
        try:
            index = self._files.index()
        except NameUnknown:
            return
        entries = index.referring(digest) + self._unclaimed(index, digest)
        entries.sort(key=lambda entry: index.position(entry.digest) or 0)
        for entry in (*entries, *self._schema_entries(index, digest)):
            found = self._referrer(entry, digest)
            if found is not None and artifact_type in (None, found.artifact_type):
                yield found

    def referrers_supported(self, repository: str) -> bool:
        """See `Lister.referrers_supported`."""
        return True

    def close(self) -> None:
        """Write all pushes to `index.json`; a second call does no harm.

        If `index.json` cannot be written now, the pushes stay in the file of changes, where this
        program finds them.
        """
        with contextlib.suppress(LocalIOError, LimitError):
            self._files.settle()

    # --- inside ----------------------------------------------------------------------------------

    def _open(self, descriptor: Descriptor) -> BlobReader:
        if descriptor.size > MAX_MANIFEST_BYTES:
            raise IntegrityError(
                f"{self._folder}: manifest {descriptor.digest} has {descriptor.size} bytes; "
                f"at most {MAX_MANIFEST_BYTES}"
            )
        try:
            stream, _ = self._files.open_blob(descriptor.digest)
        except BlobUnknown as error:
            # Deleted since the index was read, or lost.
            raise ManifestUnknown(f"{self._folder}: no manifest {descriptor.digest}") from error
        return StoredReader(stream, descriptor)

    def _tagged(self, tag: str) -> IndexEntry:
        entry = self._files.index().tagged(tag)
        if entry is None:
            raise ManifestUnknown(f"{self._folder}: no tag {tag!r:.200}")
        return entry

    def _nested(self, digest: Digest) -> Descriptor:
        """Return the descriptor of a manifest that has no entry of its own.

        Some tools list only an image index and not its manifests. Content counts as such a manifest
        if its media type says so.
        """
        try:
            size = self._files.blob_size(digest)
            media_type = "" if size > MAX_MANIFEST_BYTES else self._said_type(digest, size)
        except BlobUnknown:
            media_type = ""
        if media_type not in MANIFEST_MEDIA_TYPES:
            raise ManifestUnknown(f"{self._folder}: no manifest {digest}")
        return Descriptor(media_type=media_type, digest=digest, size=size)

    def _said_type(self, digest: Digest, size: int) -> str:
        facts = self._facts_of(blob_descriptor(digest, size))
        return (facts.media_type if facts is not None else None) or ""

    def _unclaimed(self, index: LayoutIndex, digest: Digest) -> list[IndexEntry]:
        """Return the entries that do not name `digest` but whose manifests refer to it.

        Reads each manifest once whose entry names no subject.
        """
        with self._subjects_lock:
            self._seen, new = index.unclaimed(self._seen)
            fresh = {entry.digest: entry for entry in new if entry.digest not in self._subjects}
            for found, entry in (self._unread | fresh).items():
                facts = self._facts_or_none(entry.descriptor.bare())
                if facts is None and not self._files.has_blob(found):
                    self._unread[found] = entry  # its content may arrive later
                    continue
                self._unread.pop(found, None)
                subject = None if facts is None else facts.subject
                self._subjects[found] = subject
                if subject is not None:
                    self._referring.setdefault(subject, []).append(found)
            held = (index.manifest(found) for found in self._referring.get(digest, ()))
            return [entry for entry in held if entry is not None and entry.subject != digest]

    def _schema_entries(self, index: LayoutIndex, digest: Digest) -> Iterator[IndexEntry]:
        """Yield the entries of the index under the referrers tag of `digest` that `index` lacks.

        regctl stores referrers in a layout this way.
        """
        listed = index.tagged(referrers_tag(digest))
        entries: tuple[Descriptor, ...] = ()
        with contextlib.suppress(NotFoundError, ProtocolError):
            entries = () if listed is None else tag_schema_entries(self, "", digest)
        for child in dict.fromkeys(entry.digest for entry in entries):
            if index.manifest(child) is None:
                # These are claims of another tool: a wrong one must not hide the others.
                with contextlib.suppress(NotFoundError, IntegrityError):
                    yield IndexEntry(self._nested(child), {})

    def _referrer(self, entry: IndexEntry, digest: Digest) -> Descriptor | None:
        """Return the descriptor of a referrer if the manifest refers to `digest`."""
        descriptor = entry.descriptor.bare()
        try:
            facts = self._facts_of(descriptor)
        except NotFoundError:
            return None
        except IntegrityError:
            # Damaged content must not hide the others nor itself: its reader will get the error.
            facts = ManifestFacts(
                media_type=None,
                artifact_type=entry.descriptor.artifact_type,
                subject=None if entry.subject is None else digest,
            )
        if facts is None or facts.subject != digest:
            return None
        return referrer_entry(descriptor, facts)

    def _facts_or_none(self, descriptor: Descriptor) -> ManifestFacts | None:
        try:
            return self._facts_of(descriptor)
        except (NotFoundError, IntegrityError):
            return None

    def _facts_of(self, descriptor: Descriptor) -> ManifestFacts | None:
        """Return the facts of the manifest, read and checked once; `None` if it is no manifest."""
        with self._facts_lock:
            if descriptor.digest in self._facts:
                return self._facts[descriptor.digest]
        data, _ = read_all(self._open(descriptor), MAX_MANIFEST_BYTES)
        try:
            facts = read_facts(data, descriptor.digest)
        except ManifestInvalid:
            facts = None
        with self._facts_lock:
            while len(self._facts) >= self._max_remembered:
                del self._facts[next(iter(self._facts))]
            self._facts[descriptor.digest] = facts
        return facts

    def _existing(self) -> None:
        """Refuse to delete in a missing layout, and make the lock's folder."""
        self._files.index()
        self._files.prepare()


SWEEP_SECONDS = 24 * 3600.0
"""Smallest age of removed content: an interrupted send can resume for a day."""


@dataclass(frozen=True, slots=True)
class Swept:
    """The number and size of the removed contents."""

    blobs: int = 0
    bytes: int = 0


def sweep_layout(layout: LayoutRegistry, *, older_than_seconds: float = SWEEP_SECONDS) -> Swept:
    """Remove the content that no manifest of the layout refers to, if the layout exists.

    Args:
        layout: The layout, or an archive. Other writers wait meanwhile.
        older_than_seconds: Younger content stays.

    Raises:
        IntegrityError, ProtocolError: a manifest is damaged, so that its references are unknown; no
        content was removed.
        LocalIOError: a file cannot be read or written.
    """
    try:
        layout.needed()  # reads the manifests before other writers have to wait
    except NameUnknown:
        return Swept()
    blobs = size = 0
    with layout.files.exclusive():
        needed = layout.needed()
        for digest, age in layout.files.contents():
            if digest in needed or age <= older_than_seconds:
                continue
            try:
                size += layout.files.blob_size(digest)
            except BlobUnknown:
                continue
            layout.files.remove_blob(digest)
            blobs += 1
    return Swept(blobs, size)

"""A registry in an OCI image-layout folder, which any other tool can read.

One folder holds one repository; the repository's name in each call is ignored. Several threads and
several processes may write at once, and readers never wait for them: see `oci.layout_files`.

A push costs about as much in a layout of 20,000 messages as in one of 1,000, and so does "what
refers to X" (measured: 12.5 and 7.9 ms, in memory on a busy machine). A new process reads
`index.json` once, 35 µs for each entry. An `index.json` of more than 256 KiB says all that was
pushed when the layout is closed; until then it may lag, and a file beside it has the rest (see
`oci.layout_changes`). "What refers to X" also reads each manifest whose entry says nothing of a
subject, once in a process.

The lock is this package's own: another tool that writes into the layout at the same moment knows
nothing of it, and the later `index.json` of the two stays.

Removing from a layout what nothing in it refers to any more.

A registry has its own garbage collection; a folder has only its users. What is younger than a day
stays: somebody may be about to refer to it, and a send that was interrupted is continued for so
long. Whoever finds an old blob there and refers to it a moment later gets the store's "unknown
blob", as at a registry, and sends it again.

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
    StoredReader,
    StoredUpload,
    blob_descriptor,
    check_manifest,
    check_range,
    checked_blocks,
    flat_tags,
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

# The interface names the repository in each call; a layout has but one.
# ruff: noqa: ARG002


MAX_REMEMBERED_MANIFESTS = 20_000
"""About 3 KB each, so 60 MB at most."""


class LayoutRegistry:
    """Implements `oci.interface.Registry` over an image-layout folder.

    Args:
        folder: Where the layout is, or is to be.
        create: Whether the first write makes it where it is missing; else that write raises
            LocalIOError. Reading a missing layout raises NameUnknown either way.
        private: Whether the folder is then made for this user alone.
        clock: What `server_time` tells.
        max_remembered: How many manifests' facts are kept in memory; the oldest go first.
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
        """Which manifests refer to what, of those whose entry does not say so."""
        self._referring: dict[Digest, list[Digest]] = {}
        self._unread: dict[Digest, IndexEntry] = {}
        self._seen: tuple[object, int] = (None, 0)
        self._subjects_lock = threading.Lock()

    @staticmethod
    def _open_files(folder: Path, *, create: bool, private: bool) -> LayoutFiles:
        return LayoutFiles(folder, create=create, private=private)

    def exists(self) -> bool:
        """Return whether the layout is there."""
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

        As at a registry, what the manifest is made of has to be there, its subject has not.
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
        # The lock also keeps what is checked and written here from being deleted meanwhile.
        with self._files.locked():
            for part in (*facts.required, *facts.manifests):
                if not self._files.has_blob(part):
                    raise ManifestBlobUnknown(f"{self._folder}: manifest names unknown {part}")
            self._files.write_blob(descriptor.digest, data)
            self._files.change(
                {"push": entry.to_json(), "tags": list(tags), "subject": facts.subject}
            )
        return descriptor

    def fold(self, digest: Digest) -> None:
        """List the manifests of the image index `digest` there only, as other tools do.

        crane takes a layout without being told more only if it lists one thing. Each stays to be
        found by its digest; those with a tag or a subject, and those that do not say their own
        media type, stay listed.

        Raises:
            ManifestUnknown: no such index.
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
        """Return the block in which `index.json` is not written before its end.

        For many manifests at once, whose content is in place. Other writers wait meanwhile; other
        threads must not write manifests.
        """
        return self._files.batch()

    def mount_blob(self, repository: str, digest: Digest, *, source: str) -> Descriptor | None:
        """See `Writer.mount_blob`: a layout's repositories are all one."""
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
        """See `Writer.resume_upload`; another process may have begun the session."""
        found = LayoutSession(self._files, session)
        size = found.size()
        return StoredUpload(found, size if offset is None else offset, chunk_size)

    # --- deleting --------------------------------------------------------------------------------

    def delete_blob(self, repository: str, digest: Digest) -> None:
        """See `Deleter.delete_blob`. A listed manifest is no blob, and is not deleted here."""
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
            # First the entry: a reader may find an entry's content gone, but no crash leaves one.
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
        """The files, for what works on all of them."""
        return self._files

    def needed(self) -> set[Digest]:
        """Return the digests of all manifests that are listed, and of all that they refer to.

        Raises:
            NameUnknown: there is no layout.
            IntegrityError, ProtocolError: a manifest is damaged, or an entry cannot be read.
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
                # An index may list content that is no manifest, of any size
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
        """Return the manifests of `index.json` in its order, whether they have a name or not.

        Raises:
            NameUnknown: there is no layout.
            ProtocolError: `index.json` is damaged.
        """
        return self._files.index().listed()

    def tags(
        self,
        repository: str,
        *,
        start_after: str | None = None,
        page_size: int | None = None,
        limit: int | None = None,
    ) -> Iterator[str]:
        """See `Lister.tags`: in bytewise order, and `start_after` is obeyed."""
        pages = self.tag_pages(repository, start_after=start_after, page_size=page_size)
        return flat_tags(pages, limit)

    def tag_pages(
        self, repository: str, *, start_after: str | None = None, page_size: int | None = None
    ) -> Iterator[TagPage]:
        """See `Lister.tag_pages`: one page unless `page_size` asks for smaller ones."""

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
        """Have `index.json` say all that was pushed; may be called again.

        Where it cannot be written now, what was pushed stays beside it, where this program finds
        it: no push has failed.
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

        Other tools list an image index only, and its manifests in it. Content counts as such a
        manifest if it says so itself.
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
        """Return the entries of manifests that refer to `digest` where their entry does not say so.

        Each manifest whose entry names no subject is read once.
        """
        with self._subjects_lock:
            self._seen, new = index.unclaimed(self._seen)
            fresh = {entry.digest: entry for entry in new if entry.digest not in self._subjects}
            for found, entry in (self._unread | fresh).items():
                facts = self._facts_or_none(entry.descriptor.bare())
                if facts is None and not self._files.has_blob(found):
                    self._unread[found] = entry  # its content may come yet
                    continue
                self._unread.pop(found, None)
                subject = None if facts is None else facts.subject
                self._subjects[found] = subject
                if subject is not None:
                    self._referring.setdefault(subject, []).append(found)
            held = (index.manifest(found) for found in self._referring.get(digest, ()))
            return [entry for entry in held if entry is not None and entry.subject != digest]

    def _schema_entries(self, index: LayoutIndex, digest: Digest) -> Iterator[IndexEntry]:
        """Yield what the index under the referrers tag of `digest` names and `index` does not.

        regctl keeps referrers in a layout so.
        """
        listed = index.tagged(referrers_tag(digest))
        entries: tuple[Descriptor, ...] = ()
        with contextlib.suppress(NotFoundError, ProtocolError):
            entries = () if listed is None else tag_schema_entries(self, "", digest)
        for child in dict.fromkeys(entry.digest for entry in entries):
            if index.manifest(child) is None:
                # Claims of another tool, one by one: a bad one does not hide the rest.
                with contextlib.suppress(NotFoundError, IntegrityError):
                    yield IndexEntry(self._nested(child), {})

    def _referrer(self, entry: IndexEntry, digest: Digest) -> Descriptor | None:
        """Return the answer's entry if the manifest refers to `digest`."""
        descriptor = entry.descriptor.bare()
        try:
            facts = self._facts_of(descriptor)
        except NotFoundError:
            return None
        except IntegrityError:
            # Damaged content must not hide the rest, nor itself: whoever fetches it will see.
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
        """Return what the content says, read and checked once; None if it is no manifest."""
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
        """Refuse to delete in a layout that is not there, and make sure of the lock's folder."""
        self._files.index()
        self._files.prepare()


SWEEP_SECONDS = 24 * 3600.0
"""How old content has to be: an interrupted send is continued for a day."""


@dataclass(frozen=True, slots=True)
class Swept:
    """What was removed."""

    blobs: int = 0
    bytes: int = 0


def sweep_layout(layout: LayoutRegistry, *, older_than_seconds: float = SWEEP_SECONDS) -> Swept:
    """Remove the content that no manifest of the layout refers to; nothing from a missing layout.

    Args:
        layout: The layout, or an archive. Other writers wait meanwhile.
        older_than_seconds: What is younger stays.

    Raises:
        IntegrityError, ProtocolError: a manifest is damaged, so that nobody knows what it needs;
            nothing was removed.
        LocalIOError: it cannot be read or written.
    """
    try:
        layout.needed()  # read and remembered, before anybody has to wait
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

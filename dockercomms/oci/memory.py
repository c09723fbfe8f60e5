"""A registry in dicts: the reference of the contract suite, and the store of many tests.

Source: distribution-spec v1.1.1, with distribution's checks: a manifest's config, layers and
children must exist before it, its subject need not.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import field
from datetime import datetime

from dockercomms.errors import (
    BlobUnknown,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestUnknown,
    NameUnknown,
    RangeInvalid,
    Unsupported,
    UploadUnknown,
)
from dockercomms.oci.content import (
    ManifestFacts,
    PagedTags,
    StoredReader,
    StoredUpload,
    VerifyingReader,
    blob_descriptor,
    check_manifest,
    check_range,
    check_repository,
    open_blob,
    open_range,
    referrer_entry,
    tag_pages,
)
from dockercomms.oci.interface import BlobReader, BlobSource, BlobUpload, ProgressHook, TagPage
from dockercomms.oci.model import READ_BYTES, Descriptor, Digest, matches
from dockercomms.oci.tag_schema import tag_schema_entries
from dockercomms.platforms.clock import Clock, SystemClock
from dockercomms.platforms.records import dataclass


@dataclass(frozen=True, slots=True)
class _Manifest:
    data: bytes
    descriptor: Descriptor
    facts: ManifestFacts


@dataclass(slots=True)
class _Repository:
    blobs: dict[Digest, bytes] = field(default_factory=dict)
    manifests: dict[Digest, _Manifest] = field(default_factory=dict)
    tags: dict[str, Digest] = field(default_factory=dict)


class _Uploads:
    """The open sessions of all repositories."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.received: dict[str, bytearray] = {}

    def start(self) -> str:
        with self.lock:
            session = os.urandom(16).hex()
            self.received[session] = bytearray()
            return session


class _Session:
    """One upload session; `keep` receives the finished blob."""

    def __init__(
        self, uploads: _Uploads, session: str, keep: Callable[[Digest, bytes], None]
    ) -> None:
        self.id = session
        self._uploads = uploads
        self._keep = keep

    def size(self) -> int:
        with self._uploads.lock:
            return len(self._received())

    def append(self, data: bytes, offset: int) -> None:
        with self._uploads.lock:
            received = self._received()
            if offset != len(received):
                raise RangeInvalid(
                    f"upload {self.id}: byte {len(received)} expected, byte {offset} received"
                )
            received += data

    def finish(self, digest: Digest) -> Descriptor:
        with self._uploads.lock:
            data = bytes(self._received())
            del self._uploads.received[self.id]
        if not matches(data, digest):
            raise DigestInvalid(f"upload {self.id}: the content is not {digest}")
        self._keep(digest, data)
        return blob_descriptor(digest, len(data))

    def discard(self) -> None:
        with self._uploads.lock:
            self._uploads.received.pop(self.id, None)

    def _received(self) -> bytearray:
        try:
            return self._uploads.received[self.id]
        except KeyError:
            raise UploadUnknown(f"upload {self.id}: no such session") from None


class MemoryRegistry(PagedTags):
    """Implements `oci.interface.Registry` in memory, with several repositories.

    Args:
        clock: The clock of `server_time`.
        referrers: Whether there is a referrers API; without it `referrers` reads the tag schema.
        page_size: Largest number of tags in a page; `None` for no limit.
        delete: Whether deletions are supported.
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        referrers: bool = True,
        page_size: int | None = None,
        delete: bool = True,
    ) -> None:
        self._clock = clock or SystemClock()
        self._referrers = referrers
        self._page_size = page_size
        self._delete = delete
        self._lock = threading.RLock()
        self._repositories: dict[str, _Repository] = {}
        self._uploads = _Uploads()

    # --- reading ---------------------------------------------------------------------------------

    def get_blob(self, repository: str, digest: Digest, *, size: int | None = None) -> BlobReader:
        """See `Reader.get_blob`."""
        data = self._blob(repository, digest)
        return open_blob(io.BytesIO(data), digest, len(data), size)

    def get_blob_range(
        self, repository: str, digest: Digest, start: int, end: int | None = None
    ) -> BlobReader:
        """See `Reader.get_blob_range`."""
        check_range(start, end)
        data = self._blob(repository, digest)
        return open_range(io.BytesIO(data), digest, len(data), start, end)

    def get_manifest(self, repository: str, digest: Digest) -> BlobReader:
        """See `Reader.get_manifest`."""
        manifest = self._manifest(repository, digest)
        return StoredReader(io.BytesIO(manifest.data), manifest.descriptor)

    def get_tag(self, repository: str, tag: str) -> BlobReader:
        """See `Reader.get_tag`."""
        manifest = self._tagged(repository, tag)
        return StoredReader(io.BytesIO(manifest.data), manifest.descriptor)

    def resolve_blob(self, repository: str, digest: Digest) -> Descriptor:
        """See `Reader.resolve_blob`."""
        return blob_descriptor(digest, len(self._blob(repository, digest)))

    def resolve_manifest(self, repository: str, digest: Digest) -> Descriptor:
        """See `Reader.resolve_manifest`."""
        return self._manifest(repository, digest).descriptor

    def resolve_tag(self, repository: str, tag: str) -> Descriptor:
        """See `Reader.resolve_tag`."""
        return self._tagged(repository, tag).descriptor

    def server_time(self) -> datetime | None:
        """See `Reader.server_time`: the clock's time."""
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
        """See `Writer.push_blob`."""
        check_repository(repository)
        received = bytearray()
        with source() as stream:
            checked = VerifyingReader(stream, descriptor)
            while piece := checked.read(READ_BYTES):
                received += piece
                if progress is not None:
                    progress(len(received), descriptor.size)
        with self._lock:
            self._create(repository).blobs[descriptor.digest] = bytes(received)
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
        """See `Writer.push_manifest`."""
        check_repository(repository)
        descriptor, facts = check_manifest(
            data, media_type, tags=tuple(tags), digest=digest, what=repository
        )
        with self._lock:
            held = self._repositories.get(repository, _Repository())
            missing = [part for part in facts.required if part not in held.blobs]
            missing += [part for part in facts.manifests if part not in held.manifests]
            if missing:
                raise ManifestBlobUnknown(
                    f"{repository}: manifest needs {missing[0]}, which is not there"
                )
            held = self._create(repository)
            held.manifests[descriptor.digest] = _Manifest(bytes(data), descriptor, facts)
            for tag in tags:
                held.tags[tag] = descriptor.digest
        return descriptor

    def mount_blob(self, repository: str, digest: Digest, *, source: str) -> Descriptor | None:
        """See `Writer.mount_blob`."""
        check_repository(repository)
        with self._lock:
            held = self._repositories.get(source)
            data = None if held is None else held.blobs.get(digest)
            if data is None:
                return None
            self._create(repository).blobs[digest] = data
            return blob_descriptor(digest, len(data))

    def upload(self, repository: str, *, chunk_size: int = 0) -> BlobUpload:
        """See `Writer.upload`."""
        check_repository(repository)
        return StoredUpload(self._session(repository, self._uploads.start()), 0, chunk_size)

    def resume_upload(
        self, repository: str, session: str, *, offset: int | None = None, chunk_size: int = 0
    ) -> BlobUpload:
        """See `Writer.resume_upload`."""
        found = self._session(repository, session)
        size = found.size()
        return StoredUpload(found, size if offset is None else offset, chunk_size)

    # --- deleting --------------------------------------------------------------------------------

    def delete_blob(self, repository: str, digest: Digest) -> None:
        """See `Deleter.delete_blob`."""
        with self._lock:
            self._refuse_delete()
            self._blob(repository, digest)
            del self._repository(repository).blobs[digest]

    def delete_manifest(self, repository: str, digest: Digest) -> None:
        """See `Deleter.delete_manifest`."""
        with self._lock:
            self._refuse_delete()
            self._manifest(repository, digest)
            held = self._repository(repository)
            del held.manifests[digest]
            held.tags = {tag: other for tag, other in held.tags.items() if other != digest}

    def delete_tag(self, repository: str, tag: str) -> None:
        """See `Deleter.delete_tag`."""
        with self._lock:
            self._refuse_delete()
            self._tagged(repository, tag)
            del self._repository(repository).tags[tag]

    # --- listing ---------------------------------------------------------------------------------

    def tag_pages(
        self, repository: str, *, start_after: str | None = None, page_size: int | None = None
    ) -> Iterator[TagPage]:
        """See `Lister.tag_pages`: sorted, beginning behind `start_after`."""

        def after(last: str) -> list[str]:
            with self._lock:
                return sorted(tag for tag in self._repository(repository).tags if tag > last)

        sizes = [size for size in (page_size, self._page_size) if size is not None]
        return tag_pages(after, start_after, min(sizes, default=None))

    def repositories(
        self,
        *,
        start_after: str | None = None,
        page_size: int | None = None,  # noqa: ARG002 - one page holds them all
        limit: int | None = None,
    ) -> Iterator[str]:
        """See `Lister.repositories`: sorted."""
        with self._lock:
            names = sorted(name for name in self._repositories if name > (start_after or ""))
        return iter(names[:limit])

    def referrers(
        self, repository: str, digest: Digest, *, artifact_type: str | None = None
    ) -> Iterator[Descriptor]:
        """See `Lister.referrers`: in the order in which they were pushed."""
        if self._referrers:
            entries = self._native_referrers(repository, digest)
        else:
            entries = tag_schema_entries(self, repository, digest)
        for entry in entries:
            if artifact_type is None or entry.artifact_type == artifact_type:
                yield entry

    def referrers_supported(self, repository: str) -> bool:  # noqa: ARG002 - the same for all
        """See `Lister.referrers_supported`."""
        return self._referrers

    def close(self) -> None:
        """Keep the content: there are no connections to close."""

    # --- inside ----------------------------------------------------------------------------------

    def _session(self, repository: str, session: str) -> _Session:
        def keep(digest: Digest, data: bytes) -> None:
            with self._lock:
                self._create(repository).blobs[digest] = data

        return _Session(self._uploads, session, keep)

    def _native_referrers(self, repository: str, digest: Digest) -> tuple[Descriptor, ...]:
        with self._lock:
            held = self._repositories.get(repository, _Repository())
            return tuple(
                referrer_entry(manifest.descriptor, manifest.facts)
                for manifest in held.manifests.values()
                if manifest.facts.subject == digest
            )

    def _create(self, repository: str) -> _Repository:
        return self._repositories.setdefault(repository, _Repository())

    def _repository(self, repository: str) -> _Repository:
        try:
            return self._repositories[repository]
        except KeyError:
            raise NameUnknown(f"{repository}: no such repository") from None

    def _blob(self, repository: str, digest: Digest) -> bytes:
        with self._lock:
            data = self._repository(repository).blobs.get(digest)
        if data is None:
            raise BlobUnknown(f"{repository}@{digest}: no such blob")
        return data

    def _manifest(self, repository: str, digest: Digest) -> _Manifest:
        with self._lock:
            manifest = self._repository(repository).manifests.get(digest)
        if manifest is None:
            raise ManifestUnknown(f"{repository}@{digest}: no such manifest")
        return manifest

    def _tagged(self, repository: str, tag: str) -> _Manifest:
        with self._lock:
            digest = self._repository(repository).tags.get(tag)
            if digest is None:
                raise ManifestUnknown(f"{repository}:{tag}: no such tag")
            return self._manifest(repository, digest)

    def _refuse_delete(self) -> None:
        if not self._delete:
            raise Unsupported("this registry does not support deletion")

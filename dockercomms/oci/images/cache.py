"""A registry that caches another one and joins concurrent requests for the same object.

Content under a digest never changes, so it stays in the cache while there is room. Tags do change:
they stay for the time that the caller sets, by default not at all. Lists, by which an inbox is
polled, and errors are never cached.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from dockercomms.errors import SizeMismatch
from dockercomms.oci.content import blob_descriptor, check_range, open_range
from dockercomms.oci.images.cache_store import Content, Flights, Held, Key, Mark
from dockercomms.oci.interface import (
    BlobReader,
    BlobSource,
    BlobUpload,
    ProgressHook,
    Registry,
    TagPage,
    read_all,
)
from dockercomms.oci.model import Descriptor, Digest
from dockercomms.platforms.clock import Clock, SystemClock

MAX_OBJECT_BYTES = 4 * 2**20
"""The largest cached object, inclusive: all manifests fit, layers seldom do."""

MAX_TOTAL_BYTES = 128 * 2**20
"""All cached content; the least recently used goes first."""


class CachedRegistry:
    """Implements `oci.interface.Registry` over another one. Safe for several threads.

    Objects are cached for each repository by itself, because an object in one may be missing in
    another. Content that is known to be in both is kept once. Objects written through this registry
    are known to be there without a request.

    Args:
        registry: The cached registry; `close` closes it.
        max_object: The largest object whose content is cached, in bytes, inclusive.
        tag_ttl: For how many seconds tags are cached; `None`: not at all.
        max_total: All cached content, in bytes.
        clock: Measures the seconds of `tag_ttl`.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        max_object: int = MAX_OBJECT_BYTES,
        tag_ttl: float | None = None,
        max_total: int = MAX_TOTAL_BYTES,
        clock: Clock | None = None,
    ) -> None:
        self._registry = registry
        self._max_object = max_object
        self._tag_ttl = tag_ttl
        self._clock = clock or SystemClock()
        self._held = Held(max_total)
        self._reads: Flights[Content | None] = Flights()
        self._resolves: Flights[Descriptor] = Flights()

    # --- reading ---------------------------------------------------------------------------------

    def get_blob(self, repository: str, digest: Digest, *, size: int | None = None) -> BlobReader:
        """See `Reader.get_blob`."""
        reader = self._get(
            ("blob", repository, digest),
            lambda: self._registry.get_blob(repository, digest, size=size),
            size,
        )
        if size not in (None, reader.descriptor.size):
            reader.close()
            raise SizeMismatch(f"{digest}: {size} bytes expected, {reader.descriptor.size} stored")
        return reader

    def get_blob_range(
        self, repository: str, digest: Digest, start: int, end: int | None = None
    ) -> BlobReader:
        """See `Reader.get_blob_range`; parts are not cached."""
        check_range(start, end)
        held = self._held.content(("blob", repository, digest))
        if held is None:
            return self._registry.get_blob_range(repository, digest, start, end)
        return open_range(io.BytesIO(held.data), digest, len(held.data), start, end)

    def get_manifest(self, repository: str, digest: Digest) -> BlobReader:
        """See `Reader.get_manifest`."""
        return self._get(
            ("manifest", repository, digest),
            lambda: self._registry.get_manifest(repository, digest),
        )

    def get_tag(self, repository: str, tag: str) -> BlobReader:
        """See `Reader.get_tag`."""
        since, began = self._held.mark(), self._clock.monotonic()
        opened: list[BlobReader] = []

        def find() -> Content | None:
            known = self._tagged(repository, tag)
            if known is None:
                return None
            return self._held.content(("manifest", repository, known.digest))

        def load() -> Content | None:
            found = find()
            if found is None:
                reader = self._registry.get_tag(repository, tag)
                descriptor = reader.descriptor
                found = self._read(
                    ("manifest", repository, descriptor.digest), reader, opened, since
                )
                self._keep_tag(repository, tag, descriptor, began, since)
            return found

        held = find() or self._reads.once(("tag", repository, tag, since), load)
        if held is not None:
            return held.open()
        return opened[0] if opened else self._registry.get_tag(repository, tag)

    def resolve_blob(self, repository: str, digest: Digest) -> Descriptor:
        """See `Reader.resolve_blob`."""
        return self._resolve(
            ("blob", repository, digest), lambda: self._registry.resolve_blob(repository, digest)
        )

    def resolve_manifest(self, repository: str, digest: Digest) -> Descriptor:
        """See `Reader.resolve_manifest`."""
        return self._resolve(
            ("manifest", repository, digest),
            lambda: self._registry.resolve_manifest(repository, digest),
        )

    def resolve_tag(self, repository: str, tag: str) -> Descriptor:
        """See `Reader.resolve_tag`."""
        since, began = self._held.mark(), self._clock.monotonic()

        def load() -> Descriptor:
            found = self._tagged(repository, tag)
            if found is None:
                found = self._registry.resolve_tag(repository, tag)
                self._keep_tag(repository, tag, found, began, since)
            return found

        found = self._tagged(repository, tag)
        return found or self._resolves.once(("tag", repository, tag, since), load)

    def server_time(self) -> datetime | None:
        """See `Reader.server_time`."""
        return self._registry.server_time()

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
        since = self._held.mark()
        pushed = self._registry.push_blob(repository, descriptor, source, progress=progress)
        stored = blob_descriptor(descriptor.digest, descriptor.size)
        self._held.keep(("blob", repository, stored.digest), stored, None, since)
        return pushed

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
        began = self._clock.monotonic()
        before = self._held.change_tags(repository, tags)
        try:
            stored = self._registry.push_manifest(
                repository, data, media_type, tags=tags, digest=digest
            )
        finally:
            since = self._held.change_tags(repository, tags)
        kept = bytes(data) if len(data) <= self._max_object else None
        self._held.keep(("manifest", repository, stored.digest), stored, kept, since)
        if since.tags == before.tags + 1:  # else another push changed tags meanwhile, perhaps later
            for tag in tags:
                self._keep_tag(repository, tag, stored, began, since)
        return stored

    def mount_blob(self, repository: str, digest: Digest, *, source: str) -> Descriptor | None:
        """See `Writer.mount_blob`."""
        since = self._held.mark()
        mounted = self._registry.mount_blob(repository, digest, source=source)
        if mounted is not None:
            self._held.keep(("blob", repository, digest), mounted, None, since)
        return mounted

    def upload(self, repository: str, *, chunk_size: int = 0) -> BlobUpload:
        """See `Writer.upload`."""
        return self._registry.upload(repository, chunk_size=chunk_size)

    def resume_upload(
        self, repository: str, session: str, *, offset: int | None = None, chunk_size: int = 0
    ) -> BlobUpload:
        """See `Writer.resume_upload`."""
        return self._registry.resume_upload(
            repository, session, offset=offset, chunk_size=chunk_size
        )

    # --- deleting --------------------------------------------------------------------------------

    def delete_blob(self, repository: str, digest: Digest) -> None:
        """See `Deleter.delete_blob`."""
        self._held.delete(("blob", repository, digest))
        try:
            self._registry.delete_blob(repository, digest)
        finally:
            self._held.delete(("blob", repository, digest))

    def delete_manifest(self, repository: str, digest: Digest) -> None:
        """See `Deleter.delete_manifest`."""
        self._held.delete(("manifest", repository, digest))
        try:
            self._registry.delete_manifest(repository, digest)
        finally:
            self._held.delete(("manifest", repository, digest))

    def delete_tag(self, repository: str, tag: str) -> None:
        """See `Deleter.delete_tag`."""
        self._held.change_tags(repository, (tag,))
        try:
            self._registry.delete_tag(repository, tag)
        finally:
            self._held.change_tags(repository, (tag,))

    # --- listing: never kept ---------------------------------------------------------------------

    def tags(
        self,
        repository: str,
        *,
        start_after: str | None = None,
        page_size: int | None = None,
        limit: int | None = None,
    ) -> Iterator[str]:
        """See `Lister.tags`."""
        return self._registry.tags(
            repository, start_after=start_after, page_size=page_size, limit=limit
        )

    def tag_pages(
        self, repository: str, *, start_after: str | None = None, page_size: int | None = None
    ) -> Iterator[TagPage]:
        """See `Lister.tag_pages`."""
        return self._registry.tag_pages(repository, start_after=start_after, page_size=page_size)

    def repositories(
        self,
        *,
        start_after: str | None = None,
        page_size: int | None = None,
        limit: int | None = None,
    ) -> Iterator[str]:
        """See `Lister.repositories`."""
        return self._registry.repositories(
            start_after=start_after, page_size=page_size, limit=limit
        )

    def referrers(
        self, repository: str, digest: Digest, *, artifact_type: str | None = None
    ) -> Iterator[Descriptor]:
        """See `Lister.referrers`."""
        return self._registry.referrers(repository, digest, artifact_type=artifact_type)

    def referrers_supported(self, repository: str) -> bool:
        """See `Lister.referrers_supported`."""
        return self._registry.referrers_supported(repository)

    def close(self) -> None:
        """Close the registry underneath."""
        self._registry.close()

    # --- inside ----------------------------------------------------------------------------------

    def _get(
        self, key: Key, fetch: Callable[[], BlobReader], size: int | None = None
    ) -> BlobReader:
        since = self._held.mark()
        opened: list[BlobReader] = []

        def load() -> Content | None:
            return self._held.content(key) or self._read(key, fetch(), opened, since)

        known = self._held.descriptor(key)
        if known is not None and known.size > self._max_object:
            return fetch()
        held = self._held.content(key) or self._reads.once((key, size, since.deletes), load)
        if held is not None:
            return held.open()
        return opened[0] if opened else fetch()

    def _read(
        self, key: Key, reader: BlobReader, opened: list[BlobReader], since: Mark
    ) -> Content | None:
        """Return the content of `reader` and cache it; if it is too large, leave it in `opened`."""
        descriptor = reader.descriptor
        if descriptor.size > self._max_object:
            self._held.keep(key, descriptor, None, since)
            opened.append(reader)
            return None
        data, _ = read_all(reader, self._max_object)
        self._held.keep(key, descriptor, data, since)
        return Content(data, descriptor)

    def _resolve(self, key: Key, ask: Callable[[], Descriptor]) -> Descriptor:
        since = self._held.mark()

        def load() -> Descriptor:
            found = self._held.descriptor(key)
            if found is None:
                found = ask()
                self._held.keep(key, found, None, since)
            return found

        found = self._held.descriptor(key)
        return found or self._resolves.once((key, since.deletes), load)

    def _tagged(self, repository: str, tag: str) -> Descriptor | None:
        return self._held.tag(repository, tag, self._clock.monotonic())

    def _keep_tag(
        self, repository: str, tag: str, descriptor: Descriptor, began: float, since: Mark
    ) -> None:
        if self._tag_ttl is not None:
            self._held.keep_tag(repository, tag, descriptor, began + self._tag_ttl, since)

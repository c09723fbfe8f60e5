"""The registry interface: four small roles and their union.

`HTTPRegistry`, `LayoutRegistry` and `MemoryRegistry` implement it; one contract suite
(`tests/contract`) tests all three. Every method takes the repository's name first; a store that
holds one repository only (an image layout) ignores it. All methods are safe to call from several
threads. Every method may also raise, over HTTP, `AuthError`, `NetworkError`, `TooManyRequests` or
another `RegistryError`, and on a local store `LocalIOError`; the lists below name the errors that
are special to each method.
Source: OCI distribution-spec v1.1.1.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import BinaryIO, Protocol, runtime_checkable

from dockercomms.errors import ProtocolError, UnreadableEntries
from dockercomms.oci.model import Descriptor, Digest
from dockercomms.platforms.records import dataclass

_log = logging.getLogger("dockercomms.oci")

BlobSource = Callable[[], BinaryIO]
"""Opens the same bytes again, from their start, each time it is called. The stream is seekable."""

ProgressHook = Callable[[int, int], None]
"""Takes bytes done and bytes in all; done never decreases."""


class BlobReader(AbstractContextManager["BlobReader"], Protocol):
    """A stream of content, checked against `descriptor` when it is read to the end."""

    @property
    def descriptor(self) -> Descriptor:
        """Media type, digest and size of the content. A range read keeps the whole's size."""
        ...

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes, b"" at the end.

        Raises:
            IntegrityError: another digest or size than asked for; raised before the last bytes are
                returned. A range read cannot check the digest, only the length.
            NetworkError: the stream broke, and resuming it failed.
        """
        ...

    def close(self) -> None:
        """Release the connection; a read after that is an error."""
        ...


class BlobUpload(Protocol):
    """One upload session. Not safe for several threads; close, commit or cancel it.

    Source: distribution-spec v1.1.1, "Pushing a blob in chunks".
    """

    @property
    def id(self) -> str:
        """The argument of `resume_upload` that continues this session."""
        ...

    @property
    def size(self) -> int:
        """Bytes written so far, sent or buffered."""
        ...

    @property
    def chunk_size(self) -> int:
        """Bytes sent in one request."""
        ...

    def write(self, data: bytes, /) -> int:
        """Take `data`, sending full chunks; returns its length.

        Raises:
            RangeInvalid: the registry is at another offset.
            UploadUnknown: the session is gone.
        """
        ...

    def commit(self, digest: Digest) -> Descriptor:
        """Send the rest, close the session and return the blob's descriptor.

        Raises:
            DigestInvalid: the registry received other content.
        """
        ...

    def close(self) -> None:
        """Send what is buffered and leave the session open for `resume_upload`.

        Raises:
            RangeInvalid: the store is at another offset.
            UploadUnknown: the session is gone.
        """
        ...

    def cancel(self) -> None:
        """Delete the session; a store that refuses this causes no error."""
        ...


@runtime_checkable
class Reader(Protocol):
    """Reads content."""

    def get_blob(self, repository: str, digest: Digest, *, size: int | None = None) -> BlobReader:
        """Return a reader of the blob; with `size`, a blob of any other size is refused.

        Raises:
            BlobUnknown, NameUnknown: there is no such blob.
            IntegrityError: another size than `size` is announced or received.

        Source: distribution-spec v1.1.1, "Pulling blobs".
        """
        ...

    def get_blob_range(
        self, repository: str, digest: Digest, start: int, end: int | None = None
    ) -> BlobReader:
        """Return a reader of bytes `start` up to but not including `end` (default: the blob's end).

        It checks the length, since a part cannot be checked against the digest.

        Raises:
            ValueError: negative `start`, or `end` before `start`.
            RangeInvalid: `start` lies behind the end of the blob. BlobUnknown, NameUnknown: there
                is no such blob.

        Source: distribution-spec v1.1.1, "Pulling blobs"; RFC 9110 section 14.2.
        """
        ...

    def get_manifest(self, repository: str, digest: Digest) -> BlobReader:
        """Return a reader of the manifest with `digest`.

        Raises:
            ManifestUnknown, NameUnknown: there is no such manifest.
            IntegrityError: other content than asked for, or above `MAX_MANIFEST_BYTES`.

        Source: distribution-spec v1.1.1, "Pulling manifests".
        """
        ...

    def get_tag(self, repository: str, tag: str) -> BlobReader:
        """Return a reader of the manifest under `tag`; its descriptor's digest is computed here.

        Raises:
            ManifestUnknown, NameUnknown: there is no such manifest.
            IntegrityError: the content differs from the registry's own digest header, or is too
                large.

        Source: distribution-spec v1.1.1, "Pulling manifests".
        """
        ...

    def resolve_blob(self, repository: str, digest: Digest) -> Descriptor:
        """Return the blob's descriptor without its content.

        Raises:
            BlobUnknown, NameUnknown: there is no such blob.

        Source: distribution-spec v1.1.1, "Checking if content exists in the registry".
        """
        ...

    def resolve_manifest(self, repository: str, digest: Digest) -> Descriptor:
        """Return the manifest's descriptor without its content.

        Raises:
            ManifestUnknown, NameUnknown: there is no such manifest.

        Source: distribution-spec v1.1.1, "Checking if content exists in the registry".
        """
        ...

    def resolve_tag(self, repository: str, tag: str) -> Descriptor:
        """Return the descriptor of the manifest under `tag`; its digest is the registry's claim.

        Raises:
            ManifestUnknown, NameUnknown: there is no such manifest.

        Source: distribution-spec v1.1.1, "Checking if content exists in the registry".
        """
        ...

    def server_time(self) -> datetime | None:
        """Return the store's clock in UTC: the newest answer's `Date`, moved on by our own clock.

        `None` before the first answer. A local store answers with this machine's clock.
        Source: RFC 9110 section 6.6.1 (Date).
        """
        ...


@runtime_checkable
class Writer(Protocol):
    """Writes content."""

    def push_blob(
        self,
        repository: str,
        descriptor: Descriptor,
        source: BlobSource,
        *,
        progress: ProgressHook | None = None,
    ) -> Descriptor:
        """Upload a blob whose digest and size are known; return `descriptor`.

        The source is read as often as the registry makes it necessary, and its bytes are checked
        against `descriptor`. It is sent whether or not the registry has it: see `resolve_blob`.

        Raises:
            IntegrityError: the source's content has another digest or size. DigestInvalid,
                SizeInvalid: the registry received other content.

        Source: distribution-spec v1.1.1, "Pushing blobs".
        """
        ...

    def push_manifest(
        self,
        repository: str,
        data: bytes,
        media_type: str,
        *,
        tags: Sequence[str] = (),
        digest: Digest | None = None,
    ) -> Descriptor:
        """Store a manifest under each of `tags`; without tags, by its digest.

        Raises:
            ValueError: `digest` is given and is not that of `data`. ManifestBlobUnknown,
                ManifestInvalid: the registry refuses it.
            LimitError: the registry finds it too large.

        Source: distribution-spec v1.1.1, "Pushing Manifests".
        """
        ...

    def mount_blob(self, repository: str, digest: Digest, *, source: str) -> Descriptor | None:
        """Make the blob of repository `source` one of `repository` without moving it.

        Returns `None` if the store refuses; the blob then has to be pushed.

        Raises:
            NameInvalid: one of the two is no repository name.

        Source: distribution-spec v1.1.1, "Mounting a blob from another repository".
        """
        ...

    def upload(self, repository: str, *, chunk_size: int = 0) -> BlobUpload:
        """Open an upload session; `chunk_size` 0 leaves the size to the store.

        Raises:
            NameInvalid: no repository name.

        Source: distribution-spec v1.1.1, "Pushing a blob in chunks".
        """
        ...

    def resume_upload(
        self, repository: str, session: str, *, offset: int | None = None, chunk_size: int = 0
    ) -> BlobUpload:
        """Continue `session` (a `BlobUpload.id`); without `offset`, ask the store for it.

        Raises:
            UploadUnknown: the session is gone.
            Unsupported: the store cannot tell its offset.

        Source: distribution-spec v1.1.1, "Pushing a blob in chunks".
        """
        ...


@runtime_checkable
class Deleter(Protocol):
    """Deletes content."""

    def delete_blob(self, repository: str, digest: Digest) -> None:
        """Delete a blob.

        Raises:
            Unsupported: the store does not delete.
            BlobUnknown: there is no such blob.

        Source: distribution-spec v1.1.1, "Deleting Blobs".
        """
        ...

    def delete_manifest(self, repository: str, digest: Digest) -> None:
        """Delete a manifest and every tag on it.

        Raises:
            Unsupported: the store does not delete.
            ManifestUnknown: there is no such manifest.

        Source: distribution-spec v1.1.1, "Deleting Manifests".
        """
        ...

    def delete_tag(self, repository: str, tag: str) -> None:
        """Delete one tag, but not its manifest.

        Raises:
            Unsupported: the store does not delete tags.
            ManifestUnknown: there is no such tag.

        Source: distribution-spec v1.1.1, "Deleting tags".
        """
        ...


@dataclass(frozen=True, slots=True)
class TagPage:
    """One page of a tag list, whole."""

    tags: tuple[str, ...]
    """The page's tags in the order they came."""
    has_link: bool
    """Whether the store said that there is a next page."""


@runtime_checkable
class Lister(Protocol):
    """Lists content. The iterators request pages when needed, and always end."""

    def tags(
        self,
        repository: str,
        *,
        start_after: str | None = None,
        page_size: int | None = None,
        limit: int | None = None,
    ) -> Iterator[str]:
        """Yield tags in the store's order, each once, at most `limit`.

        Some registries neither sort nor obey `start_after`, so do not rely on either (see
        `tag_pages` for whole pages).

        Raises:
            NameUnknown: no such repository (some stores return an empty list instead).
            BadAnswer: as `tag_pages`.

        Source: distribution-spec v1.1.1, "Listing Tags".
        """
        ...

    def tag_pages(
        self, repository: str, *, start_after: str | None = None, page_size: int | None = None
    ) -> Iterator[TagPage]:
        """Yield the pages of the tag list as the store returns them.

        If the store refuses `page_size` as too large, requests the page again with half of it. A
        page seen before ends the listing, if it was asked for by its last tag.

        Raises:
            NameUnknown: no such repository, or (zot) `start_after` is not one of its tags.
            BadAnswer: a `Link` leads back to a page seen before, or pages without end. With status
                404: there is no registry at all.
        """
        ...

    def repositories(
        self,
        *,
        start_after: str | None = None,
        page_size: int | None = None,
        limit: int | None = None,
    ) -> Iterator[str]:
        """Yield the store's repositories.

        Raises:
            Unsupported: the store has no catalogue.
        """
        ...

    def referrers(
        self, repository: str, digest: Digest, *, artifact_type: str | None = None
    ) -> Iterator[Descriptor]:
        """Yield the referrers of `digest`: by the referrers API, else by the tag schema.

        Filters the entries again, because a registry's own filter is not reliable. An entry's
        artifact type and annotations are claims; fetch the manifest to know.

        Raises:
            NameUnknown: no such repository.
            BadAnswer: an answer that is no index, or pages without end.
            UnreadableEntries: after all other entries, if some are no descriptors; `readable` logs
                it instead.

        Source: distribution-spec v1.1.1, "Listing Referrers".
        """
        ...

    def referrers_supported(self, repository: str) -> bool:
        """Return whether the store has the referrers API; asks once per repository and day.

        Any other answer than an index, or a failed request, counts as no: this check must not stop
        a flow.
        Source: distribution-spec v1.1.1, "Unavailable Referrers API".
        """
        ...


@runtime_checkable
class Registry(Reader, Writer, Deleter, Lister, Protocol):
    """The whole interface."""

    def close(self) -> None:
        """Release connections and locks."""
        ...


def readable(entries: Iterable[Descriptor]) -> Iterator[Descriptor]:
    """Yield the entries of `Lister.referrers`; the log counts those that cannot be read."""
    try:
        yield from entries
    except UnreadableEntries as error:
        _log.warning("%s", error)


def read_all(reader: BlobReader, limit: int) -> tuple[bytes, Descriptor]:
    """Return all content of `reader`, checked, and its descriptor; close the reader.

    Raises:
        ProtocolError: more than `limit` bytes are announced.
        IntegrityError: as `BlobReader.read`.
    """
    with reader:
        if reader.descriptor.size > limit:
            raise ProtocolError(
                f"{reader.descriptor.digest}: {reader.descriptor.size} bytes; at most {limit}"
            )
        return reader.read(), reader.descriptor

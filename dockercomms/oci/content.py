"""Checked readers of content, and helpers that the local stores share.

A push reads and checks each source again, except `ProvenBlob`: a third of the time of a push went
into hashing bytes that had just been hashed (measured). For other sources see
`remote.push.CheckedSource`.

Like registries, stores accept lenient manifests: Go's decoder takes the last of two equal keys and
ignores unknown ones. So `read_facts`, unlike the strict parser of `oci.model`, only finds the
references of a manifest.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import field, replace
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Protocol, Self, cast, runtime_checkable

from dockercomms.errors import (
    DigestMismatch,
    LimitError,
    ManifestInvalid,
    NameInvalid,
    ProtocolError,
    RangeInvalid,
    SizeMismatch,
    TrailingData,
    Truncated,
)
from dockercomms.oci.interface import BlobReader, BlobSource, TagPage
from dockercomms.oci.model import (
    MAX_MANIFEST_BYTES,
    MEDIA_TYPE_OCTET_STREAM,
    READ_BYTES,
    Descriptor,
    Digest,
    digest_of,
    matches,
    parse_digest,
)
from dockercomms.oci.reference import is_valid_repository, is_valid_tag
from dockercomms.platforms.files import local_errors
from dockercomms.platforms.records import dataclass

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class ByteStream(Protocol):
    """The one method that a checked stream needs."""

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes, b"" at the end."""
        ...


@runtime_checkable
class FillingStream(ByteStream, Protocol):
    """A stream that reads into the caller's memory, which saves a copy and an allocation."""

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill `buffer` with the bytes available at once; return 0 at the end."""
        ...


class VerifyingReader:
    """Reads a foreign stream and proves at its end that it had `descriptor`'s content.

    `read` returns b"" only after it has checked size and digest. It takes at most one byte more
    than `descriptor.size` from the stream. Not safe for use by several threads.

    Raises (from `read`):
        Truncated: the stream ended early.
        TrailingData: the stream continued after the content.
        DigestMismatch: the content has the right size and another digest.

    Source: image-spec v1.1.1, descriptor.md, "Verification".
    """

    def __init__(self, stream: ByteStream, descriptor: Descriptor, *, what: str = "") -> None:
        self.descriptor = descriptor
        self._stream = stream
        self._hash = hashlib.new(descriptor.digest.partition(":")[0])
        self._left = descriptor.size
        self._what = what or descriptor.digest
        self._checked = False

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes (all that is left if negative), b"" at the proven end."""
        if size < 0:
            return b"".join(self)
        if size == 0:
            return b""
        if self._left == 0:
            self._check_end()
            return b""
        data = self._stream.read(min(size, self._left))
        if not data:
            got = self.descriptor.size - self._left
            raise Truncated(f"{self._what}: {self.descriptor.size} bytes expected, {got} received")
        self._take(data)
        return data

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill `buffer` with the bytes available at once; return 0 at the proven end.

        Only over a stream that has `readinto` itself.
        """
        if not len(buffer):
            return 0
        if self._left == 0:
            self._check_end()
            return 0
        room = buffer[: min(len(buffer), self._left)]
        count = cast("FillingStream", self._stream).readinto(room)
        if not count:
            got = self.descriptor.size - self._left
            raise Truncated(f"{self._what}: {self.descriptor.size} bytes expected, {got} received")
        self._take(room[:count])
        return count

    def _take(self, data: bytes | memoryview) -> None:
        if len(data) > self._left:
            raise TrailingData(f"{self._what}: more than {self.descriptor.size} bytes received")
        self._hash.update(data)
        self._left -= len(data)
        if self._left == 0:
            # Return the last bytes only after the check.
            self._check_end()

    def __iter__(self) -> Iterator[bytes]:
        while data := self.read(READ_BYTES):
            yield data
        self._check_end()

    def _check_end(self) -> None:
        if self._checked:
            return
        if self._stream.read(1):
            raise TrailingData(f"{self._what}: more than {self.descriptor.size} bytes received")
        actual = f"{self._hash.name}:{self._hash.hexdigest()}"
        if actual != self.descriptor.digest:
            raise DigestMismatch(
                f"{self._what}: {self.descriptor.digest} expected, {actual} received"
            )
        self._checked = True


BLOB_READ_BYTES = 2**18
"""Bytes sent at once: the server's time limit holds for one such block."""


class ProvenBlob:
    """A `BlobSource` whose owner computed the descriptor's digest from these bytes.

    They are not hashed again while they are sent. A registry checks the digest; other stores must
    check content that may have changed meanwhile (see `checked_blocks`).
    """

    __slots__ = ()

    @property
    def size(self) -> int:
        """Return the number of bytes."""
        raise NotImplementedError

    def blocks(self, start: int, stop: int) -> Iterator[memoryview]:
        """Yield the bytes from `start` to `stop`; a block is valid until the next request."""
        raise NotImplementedError

    def __call__(self) -> BinaryIO:
        """Return a stream of the content."""
        return cast("BinaryIO", ProvenStream(self))


@dataclass(frozen=True, slots=True)
class HeldBlob(ProvenBlob):
    """A `BlobSource` over bytes in memory that do not change while they are pushed.

    The caller must have computed the descriptor's digest from `view`.
    """

    view: memoryview
    """All of the content."""
    check: Callable[[], None] = lambda: None
    """Called before each block; an exception stops the push."""

    @property
    def size(self) -> int:
        """How many bytes there are."""
        return len(self.view)

    def blocks(self, start: int, stop: int) -> Iterator[memoryview]:
        """Yield the bytes from `start` to `stop`, without copying them."""
        for at in range(start, stop, BLOB_READ_BYTES):
            self.check()
            yield self.view[at : min(at + BLOB_READ_BYTES, stop)]


class ProvenStream(io.RawIOBase):
    """The content of a `ProvenBlob` as one seekable stream."""

    def __init__(self, blob: ProvenBlob) -> None:
        super().__init__()
        self._blob = blob
        self._at = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Seek to `offset` bytes from the start, from the current position, or from the end."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._blob.size}[whence]
        if base + offset < 0:
            raise ValueError(f"negative position {base + offset}")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        """Return the offset of the next read."""
        return self._at

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill `buffer` from the current block; return 0 at the end."""
        with memoryview(buffer).cast("B") as room:
            stop = min(self._at + len(room), self._blob.size)
            for block in self._blob.blocks(self._at, stop):
                room[: len(block)] = block
                self._at += len(block)
                return len(block)
        return 0


def checked_blocks(
    descriptor: Descriptor, source: BlobSource
) -> Generator[bytes | memoryview, None, None]:
    """Yield the bytes of `source`; before the last block, prove that they are `descriptor`'s.

    Bytes in memory are not hashed again; a file is, because it may have changed.

    Raises:
        IntegrityError: the content has another digest or size.
    """
    if isinstance(source, HeldBlob) and source.size == descriptor.size:
        yield from source.blocks(0, descriptor.size)
        return
    with source() as stream:
        checked = VerifyingReader(stream, descriptor)
        while block := checked.read(READ_BYTES):
            yield block


DEFAULT_CHUNK_BYTES = 2**20
"""The default chunk size of a local store, which accepts writes of any size."""


class StoredReader:
    """A `BlobReader` over a local stream, which it closes."""

    def __init__(self, stream: BinaryIO, descriptor: Descriptor) -> None:
        self._stream = stream
        self._checked = VerifyingReader(stream, descriptor)

    @property
    def descriptor(self) -> Descriptor:
        """Media type, digest and size of the content."""
        return self._checked.descriptor

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes, b"" at the proven end."""
        _refuse_closed(self._stream)
        with local_errors(self.descriptor.digest):
            return self._checked.read(size)

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill `buffer` with the bytes available at once; return 0 at the proven end."""
        _refuse_closed(self._stream)
        with local_errors(self.descriptor.digest):
            return self._checked.readinto(buffer)

    def close(self) -> None:
        """Close the stream."""
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class StoredRange(StoredReader):
    """A `BlobReader` of a part of a local stream; it checks only the length."""

    def __init__(self, stream: BinaryIO, descriptor: Descriptor, length: int) -> None:
        super().__init__(stream, descriptor)
        self._left = length

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes, b"" at the end of the part."""
        _refuse_closed(self._stream)
        if size < 0:
            return b"".join(iter(lambda: self.read(DEFAULT_CHUNK_BYTES), b""))
        wanted = min(size, self._left)
        with local_errors(self.descriptor.digest):
            data = self._stream.read(wanted)
        if wanted and not data:
            raise Truncated(f"{self.descriptor.digest}: ends {self._left} bytes early")
        self._left -= len(data)
        return data

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill `buffer` with the bytes available at once; return 0 at the end of the part."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _refuse_closed(stream: BinaryIO) -> None:
    if stream.closed:
        raise ValueError("read from a closed blob reader")


def open_blob(stream: BinaryIO, digest: Digest, size: int, wanted: int | None) -> BlobReader:
    """Return a checked reader of the blob in `stream`, which has `size` bytes.

    Raises:
        SizeMismatch: `wanted` is another size; the stream is closed.
    """
    if wanted is not None and wanted != size:
        stream.close()
        raise SizeMismatch(f"{digest}: {wanted} bytes expected, {size} stored")
    return StoredReader(stream, blob_descriptor(digest, size))


def open_range(
    stream: BinaryIO, digest: Digest, size: int, start: int, end: int | None
) -> BlobReader:
    """Return a reader of bytes `start` up to `end` of the blob in `stream`, which has `size` bytes.

    Raises:
        RangeInvalid: `start` is behind the last byte, and the range is not empty; the stream is
            closed.
    """
    if start >= size and end != start and (start, end) != (0, None):
        stream.close()
        raise RangeInvalid(f"{digest}: cannot read from byte {start}: it has {size} bytes")
    stream.seek(start)
    length = max(0, (size if end is None else min(end, size)) - start)
    return StoredRange(stream, blob_descriptor(digest, size), length)


def check_range(start: int, end: int | None) -> None:
    """Refuse a range that is invalid for all blobs.

    Raises:
        ValueError: negative `start`, or `end` before `start`.

    Source: RFC 9110 section 14.1.2.
    """
    if start < 0 or (end is not None and end < start):
        raise ValueError(f"not a byte range: {start} to {end}")


def blob_descriptor(digest: Digest, size: int) -> Descriptor:
    """Return the descriptor of a blob of which only digest and size are known."""
    return Descriptor(media_type=MEDIA_TYPE_OCTET_STREAM, digest=digest, size=size)


def check_repository(repository: str) -> None:
    """Refuse an invalid repository name before a write.

    Raises:
        NameInvalid: `repository` is no repository name.
    """
    if not is_valid_repository(repository):
        raise NameInvalid(f"not a repository name: {repository!r:.300}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestFacts:
    """The fields of a manifest that a store uses."""

    media_type: str | None
    """The media type in the manifest itself; `None` if there is none."""
    artifact_type: str | None
    """The artifact type; without one, the config's media type.

    Source: distribution-spec v1.1.1, "Listing Referrers"."""
    subject: Digest | None
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    blobs: tuple[Digest, ...] = ()
    """Config and layers."""
    required: tuple[Digest, ...] = ()
    """The blobs that a store must have before the manifest: all but non-distributable layers."""
    manifests: tuple[Digest, ...] = ()
    """Children of an index; a store must have all of them before the index."""


def read_facts(data: bytes, what: str) -> ManifestFacts:
    """Return the facts of the manifest `data`, leniently parsed; errors name it `what`.

    Raises:
        ManifestInvalid: `data` is no JSON object, or has an invalid digest.
    """
    try:
        value: object = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ManifestInvalid(f"{what}: manifest is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ManifestInvalid(f"{what}: manifest is not a JSON object")
    config = _digests([value.get("config")], what)
    config_type = None
    if isinstance(value.get("config"), dict):
        config_type = _text(value["config"], "mediaType")
    annotations = value.get("annotations")
    layers = value.get("layers")
    given_out = (
        [layer for layer in layers if not _is_undistributed_layer(layer)]
        if isinstance(layers, list)
        else layers
    )
    other = config + _digests(value.get("blobs"), what)
    return ManifestFacts(
        media_type=_text(value, "mediaType"),
        artifact_type=_text(value, "artifactType") or config_type,
        subject=next(iter(_digests([value.get("subject")], what)), None),
        annotations={
            key: item
            for key, item in (annotations if isinstance(annotations, dict) else {}).items()
            if isinstance(item, str)
        },
        blobs=other + _digests(layers, what),
        required=other + _digests(given_out, what),
        manifests=_digests(value.get("manifests"), what),
    )


_UNDISTRIBUTED = ("vnd.docker.image.rootfs.foreign.", "vnd.oci.image.layer.nondistributable.")
"""Layers that only their vendor distributes, so stores accept manifests without them."""


def is_undistributed(media_type: str) -> bool:
    """Return whether only the vendor distributes the layer, such as a base layer of Windows."""
    return any(mark in media_type for mark in _UNDISTRIBUTED)


def _is_undistributed_layer(layer: object) -> bool:
    return isinstance(layer, dict) and is_undistributed(_text(layer, "mediaType") or "")


def _digests(items: object, what: str) -> tuple[Digest, ...]:
    found = []
    for item in items if isinstance(items, list) else []:
        if item is None:
            continue
        digest = item.get("digest") if isinstance(item, dict) else item
        try:
            found.append(parse_digest(digest if isinstance(digest, str) else ""))
        except ProtocolError as error:
            raise ManifestInvalid(f"{what}: a descriptor has no valid digest") from error
    return tuple(found)


def _text(fields: Mapping[str, object], key: str) -> str | None:
    value = fields.get(key)
    return value if isinstance(value, str) and value else None


def referrer_entry(descriptor: Descriptor, facts: ManifestFacts) -> Descriptor:
    """Return the entry of a manifest in a list of referrers.

    Source: distribution-spec v1.1.1, "Listing Referrers".
    """
    return replace(
        descriptor, artifact_type=facts.artifact_type, annotations=dict(facts.annotations)
    )


def check_manifest(
    data: bytes, media_type: str, *, tags: tuple[str, ...], digest: Digest | None, what: str
) -> tuple[Descriptor, ManifestFacts]:
    """Return descriptor and facts of a manifest before it is stored.

    Raises:
        ValueError: `digest` is given and is not that of `data`.
        LimitError: it is larger than registries accept.
        ManifestInvalid: it is not JSON, its own media type is another one, or a tag is invalid.

    Source: distribution-spec v1.1.1, "Pushing Manifests".
    """
    if digest is not None and not matches(data, parse_digest(digest)):
        raise ValueError(f"{digest} is not the digest of the manifest, {digest_of(data)} is")
    if len(data) > MAX_MANIFEST_BYTES:
        raise LimitError(f"{what}: manifest of {len(data)} bytes; at most {MAX_MANIFEST_BYTES}")
    facts = read_facts(data, what)
    if facts.media_type not in (None, media_type):
        raise ManifestInvalid(
            f"{what}: mediaType {facts.media_type!r:.200}, but pushed as {media_type!r:.200}"
        )
    for tag in tags:
        if not is_valid_tag(tag):
            raise ManifestInvalid(f"{what}: not a tag: {tag!r:.200}")
    stored = Descriptor(media_type=media_type, digest=digest or digest_of(data), size=len(data))
    return stored, facts


def tag_pages(
    tags_after: Callable[[str], Sequence[str]], start_after: str | None, page_size: int | None
) -> Iterator[TagPage]:
    """Yield pages of the tags of `tags_after(tag)`, which is called again for each page.

    Raises:
        ValueError: `page_size` is not positive.

    Source: distribution-spec v1.1.1, "Listing Tags".
    """
    if page_size is not None and page_size < 1:
        raise ValueError(f"a page of {page_size} tags")
    last = start_after or ""
    while True:
        left = tags_after(last)
        page = tuple(left if page_size is None else left[:page_size])
        more = len(page) < len(left)
        yield TagPage(page, has_link=more)
        if not more:
            return
        last = page[-1]


class PagedTags(Protocol):
    """The list of tags of a local store, from its pages."""

    def tag_pages(
        self, repository: str, *, start_after: str | None = None, page_size: int | None = None
    ) -> Iterator[TagPage]:
        """See `Lister.tag_pages`."""
        ...

    def tags(
        self,
        repository: str,
        *,
        start_after: str | None = None,
        page_size: int | None = None,
        limit: int | None = None,
    ) -> Iterator[str]:
        """See `Lister.tags`."""
        pages = self.tag_pages(repository, start_after=start_after, page_size=page_size)
        return islice((tag for page in pages for tag in page.tags), limit)


class UploadSession(Protocol):
    """The received bytes of an upload in a local store."""

    @property
    def id(self) -> str:
        """The name by which the store finds the session again."""
        ...

    def size(self) -> int:
        """Return the number of bytes received.

        Raises:
            UploadUnknown: the session is gone.
        """
        ...

    def append(self, data: bytes, offset: int) -> None:
        """Add `data` at `offset`.

        Raises:
            RangeInvalid: `offset` is not the session's size.
            UploadUnknown: the session is gone.
        """
        ...

    def finish(self, digest: Digest) -> Descriptor:
        """Make the bytes received a blob and end the session.

        Raises:
            DigestInvalid: they have another digest; the session is gone, as at registries.
            UploadUnknown: the session is gone.
        """
        ...

    def discard(self) -> None:
        """End the session, if it exists."""
        ...


class StoredUpload:
    """A `BlobUpload` that passes each write to its session at once, without a buffer."""

    def __init__(self, session: UploadSession, offset: int, chunk_size: int) -> None:
        self._session = session
        self._size = offset
        self._chunk_size = chunk_size or DEFAULT_CHUNK_BYTES
        self._open = True

    @property
    def id(self) -> str:
        """The argument of `resume_upload` that continues this session."""
        return self._session.id

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._size

    @property
    def chunk_size(self) -> int:
        """The requested chunk size; a local store takes writes of any size."""
        return self._chunk_size

    def write(self, data: bytes, /) -> int:
        """Append `data`; return its length."""
        self._refuse_closed()
        self._session.append(data, self._size)
        self._size += len(data)
        return len(data)

    def commit(self, digest: Digest) -> Descriptor:
        """Close the session and return the blob's descriptor."""
        self._refuse_closed()
        if self._session.size() != self._size:
            raise RangeInvalid(
                f"upload {self.id}: {self._session.size()} bytes received, {self._size} written"
            )
        self._open = False
        return self._session.finish(parse_digest(digest))

    def close(self) -> None:
        """Leave the session open for `resume_upload`."""
        self._open = False

    def cancel(self) -> None:
        """Delete the session."""
        self._open = False
        self._session.discard()

    def _refuse_closed(self) -> None:
        if not self._open:
            raise ValueError(f"upload {self.id} is closed")

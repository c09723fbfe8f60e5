"""Operations on one object: look it up, push a blob if it is missing, copy a blob, read it.

Objects that the target has are not sent again, and all sent bytes are checked.
"""

from __future__ import annotations

import io
import math
import threading
from typing import Literal

from dockercomms.errors import AuthError, NotFoundError, ProtocolError, SizeMismatch, UsageError
from dockercomms.oci.client import BLOB_SIZE_WORTH_HEAD
from dockercomms.oci.hub import direct
from dockercomms.oci.images.stream import BlobOpener, SourceError
from dockercomms.oci.interface import BlobReader, BlobSource, ProgressHook, Reader, read_all
from dockercomms.oci.model import MANIFEST_MEDIA_TYPES, MEDIA_TYPE_OCTET_STREAM, Descriptor, Digest
from dockercomms.oci.remote.read import BytesReader
from dockercomms.oci.stores import Location, same_store

Kind = Literal["manifest", "blob"]

FAILURES_ENOUGH = 4
"""After so many failures without a success, copies stop trying to mount, or to look for small
blobs."""


def lookup(
    location: Location,
    *,
    kind: Kind = "manifest",
    head: bool = False,
    denied: Literal["missing", "raise"] = "missing",
) -> BlobReader | None:
    """Return a reader of the object at `location`; `None` if there is no object.

    Args:
        location: Its digest, else its tag, else `latest`; for a blob its digest.
        kind: The kind of the object.
        head: Request the descriptor only; the reader has no content, whatever its size is.
        denied: Whether a refusal (401, 403) counts as absence. Some registries answer so for
            missing objects, to hide which objects exist.

    Raises:
        UsageError: `kind` is unknown, or it is a blob without a digest.
        AuthError: the registry refused, and `denied` is "raise".
    """
    if kind not in {"manifest", "blob"}:
        raise UsageError(f"{location}: unknown kind of object {kind!r:.100}")
    try:
        return _head(location, kind) if head else _get(location, kind)
    except NotFoundError:
        return None
    except AuthError:
        if denied == "raise":
            raise
        return None


def fetch_bytes(source: Location, descriptor: Descriptor, *, limit: int) -> bytes:
    """Return the whole content of `descriptor`, checked against its size and digest.

    Takes it from the descriptor's own `data` if it is there.

    Args:
        source: The repository, in any store.
        descriptor: A manifest or a blob, according to the media type.
        limit: Largest content in memory, in bytes.

    Raises:
        ProtocolError: the descriptor's size is larger than `limit`.
        IntegrityError: the content has another digest or size.
        NotFoundError: there is no such object.
    """
    if descriptor.size > limit:
        raise ProtocolError(f"{descriptor.digest}: {descriptor.size} bytes; at most {limit}")
    data = descriptor.inline()
    if data is not None:
        return data
    registry, repository, digest = source.registry, source.repository, descriptor.digest
    if descriptor.media_type in MANIFEST_MEDIA_TYPES:
        reader = registry.get_manifest(repository, digest)
    else:
        reader = registry.get_blob(repository, digest, size=descriptor.size)
    data, stored = read_all(reader, limit)
    if stored.size != descriptor.size:
        raise SizeMismatch(f"{digest}: {descriptor.size} bytes expected, {stored.size} stored")
    return data


def ensure_blob(
    target: Location, size: int, source: BlobSource, *, progress: ProgressHook | None = None
) -> Descriptor:
    """Push the blob `target` unless it is there, and return its descriptor.

    Looks for blobs above 65,535 bytes first, and then does not open `source` if the blob is there.
    For smaller ones a request costs as much as the push.

    Args:
        target: With the blob's digest.
        size: The blob's size in bytes.
        source: Opens the content, which is checked while it is sent.
        progress: Called with the number of bytes sent.

    Raises:
        UsageError: no digest, or a tag.
        IntegrityError: the content of `source` has another digest or size.
    """
    target.refuse_tag()
    digest = target.blob_digest()
    descriptor = Descriptor(media_type=MEDIA_TYPE_OCTET_STREAM, digest=digest, size=size)
    if size > BLOB_SIZE_WORTH_HEAD and has_blob(target, descriptor):
        if progress is not None:
            progress(size, size)
        return descriptor
    return target.registry.push_blob(target.repository, descriptor, source, progress=progress)


def copy_blob(
    source: Location, target: Location, *, progress: ProgressHook | None = None
) -> Descriptor:
    """Copy one blob, and return its descriptor.

    Within a registry it is mounted, without moving bytes. Between two registries, or if the mount
    fails, this looks for it at the target and otherwise sends it while reading it.

    Args:
        source: With the blob's digest.
        target: Without a digest, or with the same.
        progress: Called with the number of bytes sent.

    Raises:
        UsageError: no digest at the source, another one at the target, or a tag. BlobUnknown,
            NameUnknown: the source lacks it.
        IntegrityError: the source's content has another digest.
    """
    source.refuse_tag()
    target.refuse_tag()
    digest = source.blob_digest()
    if target.digest not in {None, digest}:
        raise UsageError(f"{target}: its digest differs from that of {source}")
    return BlobCopy(source.registry, source.repository, target).run(digest, progress=progress)


class TargetLuck:
    """The results of mounts and look-ups at a target, so that a copy stops useless requests.

    Thread-safe. `FAILURES_ENOUGH` failures without a success end the operations of a kind.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left: dict[str, float] = {"mount": FAILURES_ENOUGH, "find": FAILURES_ENOUGH}
        self.sent = 0
        """Number of blobs whose bytes were sent to the target."""
        self.sent_bytes = 0

    def lasts(self, kind: Literal["mount", "find"]) -> bool:
        """Return whether to try again: it has succeeded once, or has not failed often."""
        with self._lock:
            return self._left[kind] > 0

    def note(self, kind: Literal["mount", "find"], *, good: bool) -> None:
        """Count a success or a failure."""
        with self._lock:
            self._left[kind] = math.inf if good else self._left[kind] - 1

    def note_sent(self, size: int) -> None:
        """Count a blob that was sent."""
        with self._lock:
            self.sent += 1
            self.sent_bytes += size

    def worth_asking(self, size: int | None) -> bool:
        """Return whether to ask the target for a blob of `size` bytes (`None`: unknown).

        A request for a large blob is always worth it. In a new repository, a hundred requests for
        small blobs are a quarter of all requests.
        """
        return size is None or size > BLOB_SIZE_WORTH_HEAD or self.lasts("find")


class BlobCopy:
    """Copies blobs from one repository to another. Safe for several threads.

    Args:
        reader: The source's store.
        repository: The source's repository.
        target: The target's repository; its tag and digest are ignored.
        luck: Counts results at the target, shared by all copies to it.
        stop: Set it to stop the running copies with `StoppedError`.
    """

    def __init__(
        self,
        reader: Reader,
        repository: str,
        target: Location,
        *,
        luck: TargetLuck | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self._reader = reader
        self._repository = repository
        self._target = target
        self._luck = luck or TargetLuck()
        self._stop = stop

    def run(
        self,
        digest: Digest,
        *,
        known: Descriptor | None = None,
        progress: ProgressHook | None = None,
    ) -> Descriptor:
        """Copy the blob `digest`; `known` is its descriptor in a manifest, if there is one."""
        done = self._mount(digest) or self._find(digest, known)
        if done is None:
            done = self._stream(digest, known, progress)
            self._luck.note_sent(done.size)
            return done
        if progress is not None:
            progress(done.size, done.size)
        return done

    def _mount(self, digest: Digest) -> Descriptor | None:
        """Return the mounted blob; `None` if it cannot be mounted."""
        registry, repository = self._target.registry, self._target.repository
        if not same_store(self._reader, registry) or not self._luck.lasts("mount"):
            return None
        try:
            done = registry.mount_blob(repository, digest, source=self._repository)
        except AuthError:
            done = None  # the target's login may not read the source, but the source's login may
        self._luck.note("mount", good=done is not None)
        return done

    def _find(self, digest: Digest, known: Descriptor | None) -> Descriptor | None:
        """Return the blob's descriptor at the target; `None` if missing or not requested."""
        if not self._luck.worth_asking(None if known is None else known.size):
            return None
        done = _found(self._target, digest, known)
        self._luck.note("find", good=done is not None)
        return done

    def _stream(
        self, digest: Digest, known: Descriptor | None, progress: ProgressHook | None
    ) -> Descriptor:
        registry, repository = self._target.registry, self._target.repository
        data = None if known is None else known.inline()
        if known is not None and data is not None:
            bare = known.bare()
            return registry.push_blob(repository, bare, lambda: io.BytesIO(data), progress=progress)
        opener = BlobOpener(
            self._reader,
            self._repository,
            digest,
            size=None if known is None else known.size,
            stop=self._stop,
        )
        try:
            return registry.push_blob(repository, opener.descriptor, opener, progress=progress)
        except SourceError as failed:
            raise failed.error from None
        finally:
            opener.close()


def has_blob(target: Location, descriptor: Descriptor) -> bool:
    """Return whether the blob is in the target's repository, with this size."""
    return _found(target, descriptor.digest, descriptor) is not None


def _found(target: Location, digest: Digest, known: Descriptor | None) -> Descriptor | None:
    """Return the blob's descriptor at the target; `None` if it is missing or has another size."""
    try:
        found = direct(target.registry).resolve_blob(target.repository, digest)
    except NotFoundError:
        return None
    return found if known is None or known.size == found.size else None


def _get(location: Location, kind: Kind) -> BlobReader:
    registry, repository = location.registry, location.repository
    if kind == "blob":
        return registry.get_blob(repository, location.blob_digest())
    return location.open()


def _head(location: Location, kind: Kind) -> BlobReader:
    """Return an empty reader with the object's descriptor."""
    registry, repository = location.registry, location.repository
    if kind == "blob":
        found = registry.resolve_blob(repository, location.blob_digest())
    else:
        found = location.resolve()
    return BytesReader(b"", found)

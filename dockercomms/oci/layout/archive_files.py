"""The files of an image layout in a tar: read in place, written beside it, replaced as a whole.

```
FILE.tar                     the layout; under this name it is always whole
.FILE.tar.work/              a layout with the additions of this run, and blobs of a killed one
    .dockercomms/...         as in `oci.layout.files`; a writer holds its lock until it is done
```

The archive is never unpacked, and no name in the tar is used as a path: members are found by their
offsets. The first write makes the folder beside the tar, for new content and the new index.
`commit` writes a new tar from both and renames it over the old one. A killed run leaves the folder;
the next run that writes begins with the archive's index, and reuses those blobs that it needs.
Source: image-spec v1.1.1, image-layout.md.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from dockercomms.errors import BlobUnknown, LimitError, LocalIOError, NameUnknown, ProtocolError
from dockercomms.oci.layout.changes import Change
from dockercomms.oci.layout.files import (
    LAYOUT_BYTES,
    LOCK_WAIT_SECONDS,
    MAX_INDEX_BYTES,
    MAX_LAYOUT_FILE_BYTES,
    LayoutFiles,
    NewFile,
    check_layout_version,
)
from dockercomms.oci.layout.index import LayoutIndex, parse_layout_index
from dockercomms.oci.model import READ_BYTES, Digest
from dockercomms.oci.reference import is_valid_digest
from dockercomms.oci.tar import BLOCK_BYTES, SeekableArchive
from dockercomms.platforms.files import (
    LOCK_POLL_SECONDS,
    holder_of,
    local_errors,
    make_folder,
    open_regular,
    read_at,
)
from dockercomms.platforms.records import dataclass

if TYPE_CHECKING:
    from filelock import FileLock

MAX_ARCHIVE_ENTRIES = 500_000
"""Members of one archive. The largest index lists fewer messages than that."""

_DOCKER_SAVE = re.compile(r"manifest\.json|repositories|[0-9a-f]{64}/(?:layer\.tar|json|VERSION)")
"""Members of a tar of `docker save`. Since Docker 25 the tar also holds an image layout.
Source: moby image/spec/v1.2.md, "Combined Image JSON + Filesystem Changeset Format"."""

_BLOB = re.compile(r"blobs/([a-z0-9]+(?:[+._-][a-z0-9]+)*)/([0-9a-zA-Z=_-]+)")
_END_BYTES = 2 * BLOCK_BYTES


@dataclass(slots=True)
class ArchiveTable:
    """The places of the contents of a tar."""

    blobs: dict[Digest, tuple[int, int]] = field(default_factory=dict)
    """Offset and size of each content."""
    index: bytes | None = None
    layout: bytes | None = None


def read_table(stream: BinaryIO, *, where: str) -> ArchiveTable:
    """Return the places of all contents of the tar `stream`; errors name it `where`.

    Reads all headers before any content is used, so that truncated and hostile tars are found
    first. Ignores members that do not belong to an image layout.

    Raises:
        ProtocolError: the tar is compressed, truncated, or has links, two indexes or names that
            lead out of it; or the stream is no tar.
        LimitError: more members than `MAX_ARCHIVE_ENTRIES`, or the index is too large.
    """
    table = ArchiveTable()
    link, is_docker = "", False
    archive = SeekableArchive(stream, MAX_ARCHIVE_ENTRIES)
    for member in archive:
        name = member.name.removeprefix("./")
        is_docker = is_docker or _DOCKER_SAVE.fullmatch(name) is not None
        if member.kind == "link":
            link = link or member.name
            continue
        if name.startswith("/") or ".." in name.split("/"):
            raise ProtocolError(f"{where}: entry {member.name!r:.200} is outside of the archive")
        match = _BLOB.fullmatch(name)
        digest = "" if match is None else f"{match[1]}:{match[2]}"
        if member.kind != "file" or not (name in {"index.json", "oci-layout"} or match):
            continue
        if is_valid_digest(digest):
            table.blobs[Digest(digest)] = archive.offset, member.size
        elif name == "index.json":
            if table.index is not None:
                raise ProtocolError(f"{where}: two entries index.json; one expected")
            if member.size > MAX_INDEX_BYTES:
                raise ProtocolError(
                    f"{where}: index.json: {member.size} bytes; at most {MAX_INDEX_BYTES}"
                )
            table.index = archive.read(member.size)
        elif name == "oci-layout":
            table.layout = archive.read(min(member.size, MAX_LAYOUT_FILE_BYTES))
    if is_docker and table.index is None:  # it has links, too
        raise ProtocolError(
            f"{where}: 'docker save' of Docker 24 or older wrote it; an OCI image layout expected",
            hint="save it with Docker 25 or newer, or convert it: "
            "skopeo copy docker-archive:OLD.tar oci-archive:NEW.tar",
        )
    if link:
        raise ProtocolError(f"{where}: entry {link!r:.200} is a link")
    return table


class ArchiveFiles(LayoutFiles):
    """The files of one archive. Safe for several threads; one process at a time writes.

    Args:
        file: The path of the archive.
        create: Whether the first write may make a missing archive.
        lock_wait_seconds: Longest wait for another process that writes.
    """

    def __init__(
        self, file: Path, *, create: bool, lock_wait_seconds: float = LOCK_WAIT_SECONDS
    ) -> None:
        work = file.parent / f".{file.name}.work"
        super().__init__(work, create=True, lock_wait_seconds=lock_wait_seconds)
        self.file = file
        self._may_create = create
        self._stream: BinaryIO | None = None
        self._table: ArchiveTable | None = None
        self._index: LayoutIndex | None = None
        self._removed: set[Digest] = set()
        self._changed = False
        self._lock_file: FileLock | None = None
        self._unused: set[Digest] = set()
        """Contents that a killed run left, and this run has not needed."""
        self._mutex = threading.RLock()

    # --- reading ---------------------------------------------------------------------------------

    def exists(self) -> bool:
        """Return whether the archive exists, or this run has begun to make it."""
        if self._lock_file is not None:
            return True
        with local_errors(str(self.file)):
            return self.file.exists()

    def index(self) -> LayoutIndex:
        """See `LayoutFiles.index`."""
        with self._mutex:
            if self._batch is not None:
                return self._batch
            if self._index is None:
                self._index = self._base_index()
            return self._index

    def open_blob(self, digest: Digest) -> tuple[BinaryIO, int]:
        """See `LayoutFiles.open_blob`."""
        if self._is_added(digest):
            return super().open_blob(digest)
        found = self._in_base(digest)
        if found is None:
            raise self._missing(digest)
        offset, size = found
        return io.BufferedReader(_Part(self._base(), offset, size), READ_BYTES), size

    def blob_size(self, digest: Digest) -> int:
        """See `LayoutFiles.blob_size`."""
        if self._is_added(digest):
            return super().blob_size(digest)
        found = self._in_base(digest)
        if found is None:
            raise self._missing(digest)
        return found[1]

    def has_blob(self, digest: Digest) -> bool:
        """See `LayoutFiles.has_blob`."""
        return self._is_added(digest) or self._in_base(digest) is not None

    def _is_added(self, digest: Digest) -> bool:
        if self._lock_file is None or not super().has_blob(digest):
            return False
        self._unused.discard(digest)
        return True

    def _missing(self, digest: Digest) -> BlobUnknown | NameUnknown:
        if not self.exists():
            return NameUnknown(f"{self.file}: archive not found")
        return BlobUnknown(f"{self.file}: no blob {digest}")

    def _in_base(self, digest: Digest) -> tuple[int, int] | None:
        with self._mutex:
            if digest in self._removed or not self._has_base():
                return None
            return self._read_table().blobs.get(digest)

    def _has_base(self) -> bool:
        with local_errors(str(self.file)):
            return self._stream is not None or self.file.exists()

    def _base(self) -> BinaryIO:
        """Return the archive as it was at the first access."""
        if self._stream is None:
            with local_errors(str(self.file)):
                try:
                    self._stream = open_regular(self.file)
                except (FileNotFoundError, NotADirectoryError):
                    raise NameUnknown(f"{self.file}: archive not found") from None
        return self._stream

    def _read_table(self) -> ArchiveTable:
        if self._table is None:
            stream = self._base()
            try:
                with local_errors(str(self.file)):
                    stream.seek(0)
                    table = read_table(stream, where=str(self.file))
            except (ProtocolError, LimitError) as error:
                text = error.message
                where = "" if text.startswith(str(self.file)) else f"{self.file}: "
                raise type(error)(where + text, hint=error.hint or _HINT) from error
            if table.index is None or table.layout is None:
                raise ProtocolError(f"{self.file}: it contains no OCI image layout", hint=_HINT)
            check_layout_version(table.layout, where=f"{self.file}: oci-layout")
            self._table = table
        return self._table

    def _base_index(self) -> LayoutIndex:
        self._base()
        data = self._read_table().index
        if data is None:
            raise AssertionError("internal: a table without its index")
        return parse_layout_index(data, where=f"{self.file}: index.json")

    # --- writing ---------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Make the folder beside the archive, or take that of a killed run.

        Raises:
            LocalIOError: the folder cannot be made; another process is writing; or the archive is
                missing and must not be made.
            ProtocolError: the file is not an archive of an image layout.
        """
        with self._mutex:
            if self._lock_file is not None:
                return
            if self._has_base():
                self._read_table()
            elif not self._may_create:
                raise LocalIOError(f"{self.file}: archive not found")
            self._enter(self._acquired())

    def _enter(self, lock: FileLock) -> None:
        self._lock_file = lock
        try:
            if self._was_replaced():
                self._forget()
            self._begin()
        except BaseException:
            self._release()
            raise

    def _acquired(self) -> FileLock:
        from filelock import FileLock, Timeout  # noqa: PLC0415 - as in `files`

        lock_file = self._private / "lock"
        lock = FileLock(lock_file)
        with local_errors(f"{self.file}: archive cannot be written"):
            while True:
                for name in ("incoming", "uploads"):
                    make_folder(self._private / name)
                try:
                    lock.acquire(timeout=self._lock_wait_seconds, poll_interval=LOCK_POLL_SECONDS)
                except FileNotFoundError:
                    continue  # the holder has removed the folder
                except Timeout as error:
                    raise LocalIOError(
                        f"{self.file}: {holder_of(lock_file)} has been writing it for "
                        f"{self._lock_wait_seconds:.0f} s"
                    ) from error
                if (self._private / "incoming").is_dir():
                    return lock
                lock.release()

    def _was_replaced(self) -> bool:
        """Return whether another process has replaced the archive since the first access."""
        if self._stream is None:
            return False
        with local_errors(str(self.file)):
            return not self.file.exists() or not os.path.samestat(
                self.file.stat(), os.fstat(self._stream.fileno())
            )

    def _begin(self) -> None:
        """Begin with the archive's index, beside the contents that a killed run left."""
        with local_errors(f"{self.file}: archive cannot be written"):
            self._unused = {digest for digest, _ in super().contents()}
            self._index_path.unlink(missing_ok=True)
            self._write(self.folder / "oci-layout", LAYOUT_BYTES)
            if self._index is None:
                self._index = self._base_index() if self._has_base() else LayoutIndex(())
            self._write_index(self._index)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Exclude other threads; `prepare` has already excluded other processes."""
        with self._mutex:
            yield

    def publish_blob(self, new: NewFile, digest: Digest) -> None:
        """See `LayoutFiles.publish_blob`."""
        super().publish_blob(new, digest)
        with self._mutex:
            self._removed.discard(digest)
            self._unused.discard(digest)
            self._changed = True

    def remove_blob(self, digest: Digest) -> None:
        """See `LayoutFiles.remove_blob`."""
        with self._mutex:
            self._removed.add(digest)
            self._changed = True
        super().remove_blob(digest)

    def change(self, change: Change) -> bool:
        """See `LayoutFiles.change`."""
        with self._mutex:
            return super().change(change)

    def _store(self, index: LayoutIndex, changes: Sequence[Change]) -> None:
        super()._store(index, changes)
        self._index = index
        self._changed = True

    def settle(self) -> None:
        """Do nothing: `commit` writes the index into the archive."""

    def mark_changed(self) -> None:
        """Have `commit` write the archive even without changes."""
        with self._mutex:
            self._changed = True

    # --- the end ---------------------------------------------------------------------------------

    def commit(self) -> None:
        """Replace the archive by the new one if there are changes.

        Raises:
            LocalIOError: the archive cannot be written; it and the additions stay as they are.
        """
        with self._mutex:
            if self._lock_file is None:
                return
            if self._changed:
                with local_errors(str(self.file)), self.new_file() as new:
                    for piece in self._pieces():
                        new.write(piece)
                    new.publish(self.file)
                self._changed = False
            self._release(done=True)

    def abandon(self) -> None:
        """Leave the archive as it is, and the added contents for a later run."""
        with self._mutex:
            if self._lock_file is not None:
                self._release(done=not self._changed)
            elif self._stream is not None:
                self._forget()

    def _release(self, *, done: bool = False) -> None:
        lock, self._lock_file = self._lock_file, None
        try:
            if done:
                shutil.rmtree(self.folder, ignore_errors=True)
        finally:
            self._forget()
            if lock is not None:
                lock.release()

    def _forget(self) -> None:
        if self._stream is not None:
            self._stream.close()
        self._stream = self._table = self._index = self._cached = None
        self._removed.clear()
        self._unused.clear()
        self._changed = False

    def _pieces(self) -> Iterator[bytes]:
        """Yield the bytes of the new archive: `oci-layout` and index first, then the contents."""
        index = self.index().to_bytes()
        yield from _member("oci-layout", len(LAYOUT_BYTES), (LAYOUT_BYTES,))
        yield from _member("index.json", len(index), (index,))
        for digest, _ in sorted(self.contents()):
            stream, size = self.open_blob(digest)
            with stream:
                name = f"blobs/{digest.replace(':', '/')}"
                yield from _member(name, size, _read_in_pieces(stream))
        yield bytes(_END_BYTES)

    def contents(self) -> Iterator[tuple[Digest, float]]:
        """See `LayoutFiles.contents`; contents of the archive have the archive's age."""
        added = {one: age for one, age in super().contents() if one not in self._unused}
        yield from added.items()
        if not self._has_base():
            return
        with local_errors(str(self.file)), self.new_file() as new:
            age = new.stat().st_mtime - os.fstat(self._base().fileno()).st_mtime
        for digest in self._read_table().blobs:
            if digest not in added and digest not in self._removed:
                yield digest, age


_HINT = "an uncompressed tar of an OCI image layout is expected, as 'dockercomms export' writes it"


class _Part(io.RawIOBase):
    """A part of a file as a stream of its own; several parts can be read at once."""

    def __init__(self, stream: BinaryIO, offset: int, size: int) -> None:
        super().__init__()
        self._handle = os.dup(stream.fileno())
        self._start = offset
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        wanted = max(0, min(len(buffer), self._size - self._at))
        count = read_at(self._handle, buffer[:wanted], self._start + self._at)
        self._at += count
        return count

    def close(self) -> None:
        if not self.closed:
            os.close(self._handle)
        super().close()


def _read_in_pieces(stream: BinaryIO) -> Iterator[bytes]:
    while piece := stream.read(READ_BYTES):
        yield piece


def _member(name: str, size: int, content: Iterable[bytes]) -> Iterator[bytes]:
    """Yield one regular file of a tar: owner 0, time 0, so that equal layouts are equal files."""
    import tarfile  # noqa: PLC0415 - for writers alone

    info = tarfile.TarInfo(name)
    info.size = size
    yield info.tobuf(format=tarfile.GNU_FORMAT)
    yield from content
    yield bytes(-size % BLOCK_BYTES)

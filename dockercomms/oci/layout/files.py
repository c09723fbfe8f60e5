"""The files of an image layout: finding, writing and locking them.

```
FOLDER/oci-layout            {"imageLayoutVersion":"1.0.0"}
FOLDER/index.json            replaced as a whole, under the lock
FOLDER/blobs/<alg>/<hex>     content, renamed into place when it is whole and on the disk
FOLDER/.dockercomms/         for this program only; other tools do not need it
    lock                     held while a process changes index.json or removes a blob
    changes                  changes that index.json of a large layout does not have yet
    incoming/                content that is being written
    uploads/<id>             upload sessions
```

Readers take no lock: they open one whole generation of `index.json`, add the lines of `changes`,
and read content whose name is its digest. A crash at any point leaves either the old or the new
index, and at most a file in `incoming`, which a later writer removes.

An `index.json` of up to `SMALL_INDEX_BYTES` is written with each push. A larger one is written when
the layout is closed; until then pushes append to `changes`, at the same cost for any number of
manifests (see `oci.layout.changes`).
Source: image-spec v1.1.1, image-layout.md.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from dockercomms.errors import (
    BlobUnknown,
    DigestInvalid,
    DockerCommsError,
    LimitError,
    LocalIOError,
    NameUnknown,
    ProtocolError,
    RangeInvalid,
    UploadUnknown,
)
from dockercomms.oci.content import blob_descriptor
from dockercomms.oci.layout.changes import Change, ChangesFile, ReadChanges, encoded_size
from dockercomms.oci.layout.index import EMPTY_INDEX, LayoutIndex, parse_layout_index
from dockercomms.oci.model import READ_BYTES, Descriptor, Digest, parse_digest
from dockercomms.oci.reference import is_valid_digest
from dockercomms.oci.strict_json import parse_json
from dockercomms.platforms.files import (
    acquire_lock,
    create_new,
    holder_of,
    local_errors,
    make_folder,
    open_regular,
    share_like,
    sync_file,
    sync_folder,
    tolerated,
    write_all,
)

LAYOUT_BYTES = b'{"imageLayoutVersion":"1.0.0"}'
PRIVATE_FOLDER = ".dockercomms"

LOCK_WAIT_SECONDS = 60.0
"""Longest wait for another process that holds the lock; a change takes milliseconds."""

MAX_INDEX_BYTES = 64 * 2**20
"""The largest index.json: some 150,000 manifests. A larger one takes seconds to read."""

SMALL_INDEX_BYTES = 16 * 2**10
"""Up to this size, about 40 manifests, each push writes the whole index.json, and each other
process reads all of it again. With 250 manifests that makes a push of four concurrent senders
three times as expensive."""

CHANGES_SHARE = 8
"""index.json is written when the changes have grown to one part in this number of its size. On
average a push into a layout of any size then writes this multiple of its own entry."""

_READ_ATTEMPTS = 100

INCOMING_SECONDS = 24 * 3600.0
"""A file in `incoming` that did not grow for this time belongs to a dead process."""

UPLOAD_SECONDS = 7 * 24 * 3600.0
"""The lifetime of an unfinished upload session; distribution also purges after a week."""

_FILE_MODE = 0o666
_SESSION = re.compile(r"[0-9a-f]{32}")
MAX_LAYOUT_FILE_BYTES = 4096
"""The largest `oci-layout`: it contains only a version."""


def check_layout_version(data: bytes, *, where: str) -> None:
    """Refuse the content of an `oci-layout` of another version.

    Raises:
        ProtocolError: it is no JSON object with a version, or the version is another one.

    Source: image-spec v1.1.1, image-layout.md, "oci-layout file".
    """
    fields = parse_json(data, where=where)
    version = fields.get("imageLayoutVersion") if isinstance(fields, dict) else None
    if not isinstance(version, str) or not version.startswith("1."):
        raise ProtocolError(f"{where}: image layout version {version!r:.50}; expected 1.0.0")


class NewFile:
    """A file that gets its name only when it is whole and on the disk.

    It is removed if the block ends without `publish`.

    Args:
        folder: The folder for the unfinished file.
        like: The shared folder from which the file takes its permissions.
    """

    def __init__(self, folder: Path, *, like: Path) -> None:
        self.path = folder / _random_name()
        self._handle = create_new(self.path, mode=_FILE_MODE)
        share_like(self._handle, like)

    def write(self, data: bytes | memoryview) -> None:
        """Add `data`."""
        write_all(self._handle, data)

    def stat(self) -> os.stat_result:
        """Return the file's status."""
        return os.fstat(self._handle)

    def publish(self, target: Path) -> None:
        """Make the content durable, then name it `target`, replacing an existing file."""
        sync_file(self._handle)
        self.path.replace(target)
        sync_folder(target.parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._handle)
        self.path.unlink(missing_ok=True)


class LayoutFiles:
    """The files of one layout; safe for several threads and several processes.

    Args:
        folder: The path of the layout.
        create: Whether the first write may make a missing layout.
        private: Whether only this user may access a new layout.
        lock_wait_seconds: Longest wait for another process that holds the lock.
    """

    def __init__(
        self,
        folder: Path,
        *,
        create: bool,
        private: bool = False,
        lock_wait_seconds: float = LOCK_WAIT_SECONDS,
    ) -> None:
        self.folder = folder
        self._for_owner = private
        self._create = create
        self._lock_wait_seconds = lock_wait_seconds
        self._ready = False
        self._lock = threading.Lock()
        self._cached: tuple[tuple[int, int, int], ReadChanges, LayoutIndex] | None = None
        self._batch: LayoutIndex | None = None
        self._batch_changes: list[Change] = []
        self._batch_thread: int | None = None
        self._batch_removed: set[Digest] = set()
        self._index_path = folder / "index.json"
        self._private = folder / PRIVATE_FOLDER
        self._changes = ChangesFile(self._private / "changes", like=folder)
        self._index_lock = threading.RLock()
        self._debt: weakref.finalize[..., LayoutFiles] | None = None
        """Writes changes to `index.json` at the end of the process, unless the caller closes."""

    # --- reading ---------------------------------------------------------------------------------

    def exists(self) -> bool:
        """Return whether the layout exists."""
        with local_errors(str(self._index_path)):
            return self._index_path.exists()

    def index(self) -> LayoutIndex:
        """Return the current index; parses it only after a change.

        Raises:
            NameUnknown: there is no layout.
            ProtocolError: `index.json` or `oci-layout` is malformed; the error names the file.
        """
        if self._batch is not None:
            return self._batch
        with local_errors(str(self._index_path)):
            for _ in range(_READ_ATTEMPTS):
                with self._index_lock:
                    found = self._read_index()
                    if found is not None:
                        self._cached = found
                        return found[2]
        raise LocalIOError(
            f"{self._index_path}: other programs change it faster than it can be read"
        )

    def _read_index(self) -> tuple[tuple[int, int, int], ReadChanges, LayoutIndex] | None:
        """Return `index.json` with the changes beside it; `None` if both changed meanwhile."""
        try:
            state = self._index_path.stat()
        except (FileNotFoundError, NotADirectoryError):
            raise self._no_layout() from None
        cached = self._cached
        if cached is not None and cached[0] == _generation(state):
            read = self._changes.read(cached[1])
            if read.name == cached[1].name or not cached[1].name:
                return (cached[0], _bare(read), _changed(cached[2], read.changes))
        # Read the changes first: a writer of index.json removes them afterwards.
        read = self._changes.read()
        generation, index = self._parse_index()
        if self._changes.read(read).name != read.name:
            return None
        return (generation, _bare(read), _changed(index, read.changes))

    def _parse_index(self) -> tuple[tuple[int, int, int], LayoutIndex]:
        try:
            stream = open_regular(self._index_path)
        except (FileNotFoundError, NotADirectoryError):
            raise self._no_layout() from None
        with stream:
            state = os.fstat(stream.fileno())
            if state.st_size > MAX_INDEX_BYTES:
                raise ProtocolError(
                    f"{self._index_path}: {state.st_size} bytes; at most {MAX_INDEX_BYTES}"
                )
            data = stream.read(MAX_INDEX_BYTES)
        self._check_version()
        return _generation(state), parse_layout_index(data, where=str(self._index_path))

    def blob_path(self, digest: Digest) -> Path:
        """Return the path of the content with `digest`, which may be missing.

        Source: image-spec v1.1.1, image-layout.md, "Blobs".
        """
        algorithm, _, encoded = parse_digest(digest).partition(":")
        return self.folder / "blobs" / algorithm / encoded

    def open_blob(self, digest: Digest) -> tuple[BinaryIO, int]:
        """Return a stream of the content with `digest`, unchecked, and its size.

        Raises:
            BlobUnknown, NameUnknown: there is no such content.
        """
        if digest in self._batch_removed:
            raise self._missing(digest)
        with local_errors(f"{self.folder}: {digest}"):
            try:
                stream = open_regular(self.blob_path(digest))
            except (FileNotFoundError, NotADirectoryError):
                raise self._missing(digest) from None
            return stream, os.fstat(stream.fileno()).st_size

    def blob_size(self, digest: Digest) -> int:
        """Return the size of the content with `digest`.

        Raises:
            BlobUnknown, NameUnknown: there is no such content.
        """
        if digest in self._batch_removed:
            raise self._missing(digest)
        with local_errors(f"{self.folder}: {digest}"):
            try:
                return self.blob_path(digest).stat().st_size
            except (FileNotFoundError, NotADirectoryError):
                raise self._missing(digest) from None

    def has_blob(self, digest: Digest) -> bool:
        """Return whether the layout has content with `digest`."""
        with local_errors(f"{self.folder}: {digest}"):
            return digest not in self._batch_removed and self.blob_path(digest).exists()

    def _missing(self, digest: Digest) -> BlobUnknown | NameUnknown:
        if not self.exists():
            return self._no_layout()
        return BlobUnknown(f"{self.folder}: no blob {digest}")

    def _no_layout(self) -> NameUnknown:
        """Return the error for a missing layout; folders of other programs get a hint."""
        what, hint = "image layout not found", None
        if os.path.isfile(self.folder / "manifest.json"):  # noqa: PTH113 - never an error itself
            if os.path.isfile(self.folder / "version"):  # noqa: PTH113 - the same
                what += ", but a folder that skopeo wrote as dir:"
                hint = "convert it: skopeo copy dir:OLD oci:NEW"
            else:
                what += ", but what a tar of 'docker save' holds"
                hint = "convert the tar: skopeo copy docker-archive:OLD.tar oci-archive:NEW.tar"
        return NameUnknown(f"{self.folder}: {what}", hint=hint)

    def _check_version(self) -> None:
        path = self.folder / "oci-layout"
        try:
            with open_regular(path) as stream:
                data = stream.read(MAX_LAYOUT_FILE_BYTES)
        except FileNotFoundError:
            raise ProtocolError(
                f"{path} is missing: {self.folder} is not an image layout"
            ) from None
        check_layout_version(data, where=str(path))

    # --- writing ---------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Make a missing layout if this is allowed; writers call it before each write.

        Raises:
            LocalIOError: the layout is missing, and must not or cannot be made.
            ProtocolError: the folder holds an `index.json` of another kind.
        """
        if self._ready:
            return
        if self.exists():
            self.index()
        elif not self._create:
            raise LocalIOError(f"{self.folder}: image layout not found")
        with local_errors(f"{self.folder}: image layout cannot be written"):
            if self._for_owner:
                make_folder(self.folder, mode=0o700)
            for name in ("incoming", "uploads"):
                make_folder(self._private / name, like=self.folder)
            self._sweep()
        with self.locked():
            with contextlib.suppress(OSError):
                share_like(self._private / "lock", self.folder)
            if not self.exists():
                self._make()
        self._ready = True

    def _make(self) -> None:
        with local_errors(f"{self.folder}: image layout cannot be made"):
            make_folder(self.folder / "blobs" / "sha256", like=self.folder)
            self._write(self.folder / "oci-layout", LAYOUT_BYTES)
            # Write the index last: a folder that has one is a whole layout.
            self._write(self._index_path, EMPTY_INDEX.to_bytes())

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock, so that other writers wait.

        Raises:
            LocalIOError: another process held it for `LOCK_WAIT_SECONDS`, or it cannot be made.
        """
        if self._batch_thread == threading.get_ident():
            yield
            return
        # Readers do not need it, and its import takes as long as the rest of the layout's.
        from filelock import Timeout  # noqa: PLC0415

        with self._lock:
            with local_errors(f"{self.folder}: image layout cannot be locked"):
                # All users who may write in the folder may take the lock.
                mode = self.folder.stat().st_mode & _FILE_MODE
                lock_file = self._private / "lock"
                try:
                    lock = acquire_lock(lock_file, mode=mode, timeout=self._lock_wait_seconds)
                except Timeout as error:
                    raise LocalIOError(
                        f"{self.folder}: image layout locked by {holder_of(lock_file)} "
                        f"for {self._lock_wait_seconds:.0f} s"
                    ) from error
            try:
                yield
            finally:
                lock.release()

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """Write all changes of the index in the block once, at its end, even after an error.

        Only this thread may change the index meanwhile, and other processes wait for the lock, so
        keep the block short. A process that is killed within the block leaves the old index.
        """
        self.prepare()
        with self.locked():
            before = self._batch = self.index()
            self._batch_thread = threading.get_ident()
            try:
                yield
            finally:
                after, self._batch, self._batch_thread = self._batch, None, None
                removed, self._batch_removed = self._batch_removed, set()
                changes, self._batch_changes = self._batch_changes, []
                if after is not before:
                    self._store(after, changes)
                for digest in removed:
                    self.remove_blob(digest)

    def new_file(self) -> NewFile:
        """Return a new file, to be published under its final name; see `prepare`."""
        return NewFile(self._private / "incoming", like=self.folder)

    def publish_blob(self, new: NewFile, digest: Digest) -> None:
        """Name `new` as the content with `digest`, which the caller has checked."""
        target = self.blob_path(digest)
        make_folder(target.parent, like=self.folder)
        self._batch_removed.discard(digest)
        new.publish(target)

    def write_blob(self, digest: Digest, data: bytes) -> None:
        """Store `data` as the content with `digest`, which the caller has checked."""
        with local_errors(f"{self.folder}: {digest}"), self.new_file() as new:
            new.write(data)
            self.publish_blob(new, digest)

    def remove_blob(self, digest: Digest) -> None:
        """Remove the content with `digest`, if it exists."""
        if self._batch is not None:
            self._batch_removed.add(digest)  # after a crash, each entry must still have its content
            return
        with local_errors(f"{self.folder}: {digest}"):
            self.blob_path(digest).unlink(missing_ok=True)

    def contents(self) -> Iterator[tuple[Digest, float]]:
        """Yield each content's digest and its age in seconds, by the file system's clock."""
        with local_errors(str(self.folder)):
            with self.new_file() as new:
                now = new.stat().st_mtime
            for path in (self.folder / "blobs").glob("*/*"):
                digest = f"{path.parent.name}:{path.name}"
                if is_valid_digest(digest):
                    with contextlib.suppress(FileNotFoundError):
                        yield Digest(digest), now - path.stat().st_mtime

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the lock of an existing layout; see `locked`."""
        self.prepare()
        with self.locked():
            yield

    def change(self, change: Change) -> bool:
        """Make a change of the index durable; the caller holds the lock.

        Returns:
            False if the index already was so.

        Raises:
            LimitError: `index.json` would be larger than `MAX_INDEX_BYTES`.
        """
        with self._index_lock:
            before = self.index()
            index = before.changed_by(change)
        if index is before:
            return False
        if self._batch is None:
            self._store(index, [change])
        else:
            self._batch = index
            self._batch_changes.append(change)
        return True

    def _store(self, index: LayoutIndex, changes: Sequence[Change]) -> None:
        """Append to `changes`, or write the whole `index.json`."""
        cached = self._cached
        if cached is None:
            raise AssertionError("internal: an index that was not read")
        generation, read, _ = cached
        size = generation[2]
        waiting = read.end + encoded_size(changes)
        if (
            size <= SMALL_INDEX_BYTES
            or waiting > size // CHANGES_SHARE
            or size + waiting > MAX_INDEX_BYTES
        ):
            self._write_index(index)
            return
        try:
            read = self._changes.append(changes, read)
        except OSError:  # perhaps the file of another user, without write permission
            self._write_index(index)
            return
        if self._debt is None:
            self._debt = weakref.finalize(self, _settle, self.folder)
        self._cached = (generation, read, index)

    def _write_index(self, index: LayoutIndex) -> None:
        data = index.to_bytes()
        if len(data) > MAX_INDEX_BYTES:
            raise LimitError(f"{self._index_path}: {len(data)} bytes; at most {MAX_INDEX_BYTES}")
        with local_errors(str(self._index_path)):
            generation = self._write(self._index_path, data)
            self._changes.remove()
        self._cached = (generation, ReadChanges(), index)

    def settle(self) -> None:
        """Write the changes of this process to `index.json`, for other tools.

        Raises:
            LocalIOError, LimitError: it cannot be written; our own readers still see the changes.
        """
        debt, self._debt = self._debt, None
        if debt is not None and debt.detach():
            self.write_changes()

    def write_changes(self) -> None:
        """Write the changes of all processes to `index.json`, if there are any.

        Raises:
            LocalIOError, LimitError, NameUnknown: it cannot be written.
        """
        with self.locked():
            index = self.index()
            if self._cached is not None and self._cached[1].name:
                self._write_index(index)

    def _write(self, path: Path, data: bytes) -> tuple[int, int, int]:
        """Replace a small file as a whole; return its generation."""
        with self.new_file() as new:
            new.write(data)
            with contextlib.suppress(FileNotFoundError):
                # To `index`, two generations look the same if they fall within one tick of the file
                # system's clock and the second reuses the inode of the first.
                before = path.stat().st_mtime_ns
                now = new.stat()
                if now.st_mtime_ns <= before:
                    with tolerated("setting file times"):
                        os.utime(new.path, ns=(now.st_atime_ns, before + 1))
            generation = _generation(new.stat())
            new.publish(path)
        return generation

    def _sweep(self) -> None:
        """Remove files of dead processes, by comparison with a new file: the server's clock."""
        with self.new_file() as new:
            now = new.stat().st_mtime
        for name, seconds in (("incoming", INCOMING_SECONDS), ("uploads", UPLOAD_SECONDS)):
            for path in (self._private / name).iterdir():
                # Another process may sweep at the same time, or a file may belong to another user.
                with contextlib.suppress(OSError):
                    if now - path.stat().st_mtime > seconds:
                        path.unlink()

    # --- upload sessions -------------------------------------------------------------------------

    def start_upload(self) -> LayoutSession:
        """Return a new upload session; see `prepare`."""
        session = LayoutSession(self, _random_name())
        with local_errors(f"{self.folder}: upload"):
            handle = create_new(self.upload_path(session.id), mode=_FILE_MODE)
            share_like(handle, self.folder)
            os.close(handle)
        return session

    def upload_path(self, session: str) -> Path:
        """Return the file of an upload session.

        Raises:
            UploadUnknown: no session has such a name.
        """
        if _SESSION.fullmatch(session) is None:
            raise UploadUnknown(f"not an upload session: {session!r:.100}")
        return self._private / "uploads" / session


class LayoutSession:
    """An upload session in a file; see `oci.content.UploadSession`."""

    def __init__(self, files: LayoutFiles, session: str) -> None:
        self.id = session
        self._files = files
        self._path = files.upload_path(session)

    def size(self) -> int:
        """Return the number of bytes received."""
        with self._errors():
            return self._path.stat().st_size

    def append(self, data: bytes, offset: int) -> None:
        """Add all of `data` at `offset`; if that fails, add no byte of it."""
        with self._errors():
            handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | getattr(os, "O_CLOEXEC", 0))
            try:
                size = os.fstat(handle).st_size
                if size != offset:
                    raise RangeInvalid(
                        f"upload {self.id}: byte {size} expected, byte {offset} received"
                    )
                try:
                    write_all(handle, data)
                except OSError:
                    # A full disk stores a part of the data. Without it the session can continue
                    # later.
                    os.ftruncate(handle, offset)
                    raise
            finally:
                os.close(handle)

    def finish(self, digest: Digest) -> Descriptor:
        """Make the bytes received a blob and end the session."""
        with self._errors(), open_regular(self._path) as stream:
            hashed = hashlib.new(digest.partition(":")[0])
            while piece := stream.read(READ_BYTES):
                hashed.update(piece)
            if f"{hashed.name}:{hashed.hexdigest()}" != digest:
                self._path.unlink(missing_ok=True)
                raise DigestInvalid(
                    f"upload {self.id}: {digest} expected, {hashed.name}:{hashed.hexdigest()} "
                    "received"
                )
            size = stream.tell()
            sync_file(stream.fileno())
            target = self._files.blob_path(digest)
            make_folder(target.parent, like=self._files.folder)
            self._path.replace(target)
            sync_folder(target.parent)
        return blob_descriptor(digest, size)

    def discard(self) -> None:
        """End the session, if it exists."""
        with self._errors():
            self._path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        with local_errors(f"upload {self.id}"):
            try:
                yield
            except FileNotFoundError as error:
                raise UploadUnknown(f"upload {self.id}: no such session") from error


def _random_name() -> str:
    return os.urandom(16).hex()


def _settle(folder: Path) -> None:
    """Write the index of a layout that the caller did not close."""
    with contextlib.suppress(DockerCommsError):
        LayoutFiles(folder, create=False).write_changes()


def _bare(read: ReadChanges) -> ReadChanges:
    return ReadChanges(read.name, read.end)


def _changed(index: LayoutIndex, changes: Sequence[Change]) -> LayoutIndex:
    for change in changes:
        index = index.changed_by(change)
    return index


def _generation(state: os.stat_result) -> tuple[int, int, int]:
    return (state.st_ino, state.st_mtime_ns, state.st_size)

"""Extraction of one file from an artifact: a layer with a title, or an entry of a layer's tar.

The file goes to a temporary. The caller gets it only after the whole layer was read and its digest
proven. Names in an archive are compared, never used as paths.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Literal, cast

from dockercomms.errors import LimitError, NotFoundError, ProtocolError, UsageError
from dockercomms.oci.content import ByteStream, StoredReader
from dockercomms.oci.interface import BlobReader, ProgressHook, Reader
from dockercomms.oci.model import (
    ANNOTATION_TITLE,
    ANNOTATION_UNPACK,
    READ_BYTES,
    Descriptor,
    Manifest,
)
from dockercomms.oci.tar import MAX_UNPACKED_BYTES, Member, is_archive_type, open_archive
from dockercomms.platforms.files import create_new, local_errors, rename_new, sync_file, sync_folder
from dockercomms.platforms.records import dataclass

MAX_FILE_BYTES = 4 * 2**30
"""The largest extracted file unless the caller sets another limit."""

Rank = Literal["exact", "name", "unsafe"]
"""The same path; another path with the same last part; such a path that leads out of its root."""


@dataclass(frozen=True, slots=True)
class FileQuery:
    """The name and folder of the wanted file."""

    name: str
    """The file name without folders."""
    folder: str = ""
    """The folder, with `/` between its parts; it begins with `/` if the path is absolute."""

    def __post_init__(self) -> None:
        parts = self.folder.split("/")
        if self.name in ("", ".", "..") or "\0" in self.name + self.folder or ".." in parts:
            raise UsageError(f"not the name of a file: {self.folder}/{self.name}"[:300])

    @classmethod
    def of(cls, name: str, folder: str = "") -> FileQuery:
        """Return the query for `name` in `folder`; `name` may contain folders.

        Raises:
            UsageError: `name` is no file name.
        """
        path = f"{folder}/{name}" if folder else name
        above, slash, last = path.rpartition("/")
        return cls(last, above + slash)

    @property
    def parts(self) -> tuple[str, ...]:
        """The folders and the name."""
        return (*_parts(self.folder), self.name)

    def rank(self, written: str) -> Rank | None:
        """Return how well a path in an archive, or a title, fits; `None` if it does not.

        A guess by the last part alone never takes an absolute path or one with `..`.
        """
        parts = _parts(written)
        if not parts or parts[-1] != self.name:
            return None
        absolute = written.startswith("/")
        if parts == self.parts and (not absolute or self.folder.startswith("/")):
            return "exact"
        return "unsafe" if absolute or ".." in parts else "name"


@dataclass(frozen=True, slots=True)
class ExtractedFile:
    """The place of an extracted file."""

    layer: Descriptor
    member: str | None
    """The entry of the layer's tar; `None` if the layer itself is the file."""
    size: int
    """In bytes."""


def extract_file(
    reader: Reader,
    repository: str,
    manifest: Manifest,
    writer: BinaryIO,
    *,
    name: str | None = None,
    path: str = "",
    limit: int = MAX_FILE_BYTES,
    max_unpacked: int = MAX_UNPACKED_BYTES,
    progress: ProgressHook | None = None,
) -> ExtractedFile:
    """Write one file of an artifact to `writer`, after all of its bytes are verified.

    Takes the first of these: a layer whose title is the path; a layer whose title ends in the name;
    a regular file with the path in a layer's tar; the first regular file with the name. Ignores
    links, because they may lead to any path.

    Args:
        reader: The store.
        repository: The repository's name.
        manifest: The artifact's manifest.
        writer: Receives the file's bytes.
        name: The file, perhaps with folders; `None`: the only layer, if it is no archive.
        path: The file's folder.
        limit: The largest file, in bytes.
        max_unpacked: Largest decompressed size of a layer, in bytes.
        progress: Called with the number of bytes read of the layers.

    Raises:
        UsageError: `name` is no file name, or is `None` though it is needed.
        NotFoundError: the file or a layer is missing.
        LimitError: the file, or a decompressed layer, is too large.
        ProtocolError: the archive is damaged, or has the file only under an unsafe name.
        IntegrityError: a layer has another digest or size than in the manifest.
        LocalIOError: the temporary or `writer` cannot be written.
    """
    with local_errors("temporary file"):
        opened = tempfile.TemporaryFile()  # noqa: SIM115 - closed by the next statement
    with opened as spool:
        extraction = _Extraction(reader, repository, cast("BinaryIO", spool), limit, max_unpacked)
        found = extraction.run(manifest, name, path, progress)
        with local_errors(f"writing {name or found.layer.digest}"):
            spool.seek(0)
            shutil.copyfileobj(spool, writer, READ_BYTES)
    return found


def save_file(
    reader: Reader,
    repository: str,
    manifest: Manifest,
    target: Path,
    *,
    name: str | None = None,
    path: str = "",
    overwrite: bool = False,
    limit: int = MAX_FILE_BYTES,
    max_unpacked: int = MAX_UNPACKED_BYTES,
    progress: ProgressHook | None = None,
) -> ExtractedFile:
    """Extract a file as `extract_file` into `target`, which appears when it is whole and durable.

    Args:
        reader: The store.
        repository: The repository's name.
        manifest: The artifact's manifest.
        target: The path of the new file; its folder must exist.
        name: The file in the artifact; `None`: as for `extract_file`.
        path: The file's folder in the artifact.
        overwrite: Whether to replace an existing `target`.
        limit: The largest file, in bytes.
        max_unpacked: Largest decompressed size of a layer, in bytes.
        progress: Called with the number of bytes read of the layers.

    Raises:
        LocalIOError: `target` exists, or cannot be written. UsageError, NotFoundError, LimitError,
            ProtocolError, IntegrityError: as `extract_file`.
    """
    with new_file(target, overwrite=overwrite) as stream:
        extraction = _Extraction(reader, repository, stream, limit, max_unpacked)
        return extraction.run(manifest, name, path, progress)


@contextlib.contextmanager
def new_file(target: Path, *, overwrite: bool = False) -> Iterator[BinaryIO]:
    """Yield a temporary beside `target`, renamed to `target` when the block ends without error.

    The block may `finish` it before it ends.

    Raises:
        LocalIOError: `target` exists, or cannot be written.
    """
    with local_errors(str(target)):
        if not overwrite and os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        temporary = target.parent / f".dockercomms-{secrets.token_hex(8)}.part"
        handle = create_new(temporary, mode=0o666)
    try:
        with os.fdopen(handle, "w+b") as stream:
            yield stream
            finish(stream, str(target))
        with local_errors(str(target)):
            if overwrite:
                temporary.replace(target)
            else:
                rename_new(temporary, target)
            sync_folder(target.parent)
    finally:
        with local_errors(str(temporary)):
            temporary.unlink(missing_ok=True)


def finish(stream: BinaryIO, what: str) -> None:
    """Make a local file durable and close it, unless it is closed already.

    Raises:
        LocalIOError: it cannot be written; the error names `what`.
    """
    if not stream.closed:
        with local_errors(what), stream:
            stream.flush()
            sync_file(stream.fileno())


def open_layer(reader: Reader, repository: str, layer: Descriptor) -> BlobReader:
    """Return a checked reader of a layer, or of the descriptor's own `data` if it is there.

    Raises:
        BlobUnknown: there is no such blob.
        IntegrityError: the content has another digest or size.

    Source: image-spec v1.1.1, layer.md; RFC 1952 (gzip); RFC 8878 (zstd).
    """
    data = layer.inline()
    if data is not None:
        return StoredReader(io.BytesIO(data), layer)
    return reader.get_blob(repository, layer.digest, size=layer.size)


def is_folder(layer: Descriptor) -> bool:
    """Return whether a layer is the tar of the folder that its title names.

    Source: oras-go v2, content/file, `AnnotationUnpack`.
    """
    wanted = layer.annotations.get(ANNOTATION_UNPACK) == "true"
    return wanted and bool(layer.annotations.get(ANNOTATION_TITLE))


def copy_stream(source: ByteStream, target: BinaryIO, what: str) -> None:
    """Copy all of `source` into the local file `target`.

    Raises:
        LocalIOError: `target` cannot be written; the error names `what`.
    """
    while piece := source.read(READ_BYTES):
        with local_errors(what):
            target.write(piece)


class ReadProgress:
    """Reports the bytes read of several streams to a hook; the number never decreases.

    Args:
        hook: The hook, if there is one.
        total: Size of all streams together, in bytes.
    """

    def __init__(self, hook: ProgressHook | None, total: int) -> None:
        self._hook = hook
        self._total = total
        self._done = 0

    def of(self, source: ByteStream) -> ByteStream:
        """Return a stream that counts the bytes read of `source`."""
        return _CountedStream(source, self.add)

    def add(self, size: int) -> None:
        """Count `size` more bytes."""
        self._done += size
        if self._hook is not None and size:
            self._hook(min(self._done, self._total), self._total)

    def finish(self) -> None:
        """Count the bytes that need not be read."""
        self.add(self._total - self._done)


@dataclass(frozen=True, slots=True)
class _CountedStream:
    source: ByteStream
    count: Callable[[int], None]

    def read(self, size: int = -1, /) -> bytes:
        data = self.source.read(size)
        self.count(len(data))
        return data


class _Extraction:
    """The search for one file, which it leaves in `spool`."""

    def __init__(
        self, reader: Reader, repository: str, spool: BinaryIO, limit: int, max_unpacked: int
    ) -> None:
        self._reader = reader
        self._repository = repository
        self._spool = spool
        self._limit = limit
        self._max_unpacked = max_unpacked
        self._found: ExtractedFile | None = None
        self._unsafe: str | None = None
        self._link: str | None = None
        self._progress = ReadProgress(None, 0)

    def run(
        self, manifest: Manifest, name: str | None, path: str, hook: ProgressHook | None
    ) -> ExtractedFile:
        """Search the file and return its place."""
        self._progress = ReadProgress(hook, sum(layer.size for layer in manifest.layers))
        found = self._find(manifest, name, path)
        self._progress.finish()
        return found

    def _find(self, manifest: Manifest, name: str | None, path: str) -> ExtractedFile:
        if name is None:
            return self._whole(_only_layer(manifest))
        query = FileQuery.of(name, path)
        titles: list[tuple[Rank | None, Descriptor]] = [
            (query.rank(layer.annotations.get(ANNOTATION_TITLE, "")), layer)
            for layer in manifest.layers
        ]
        for wanted in ("exact", "name"):
            for rank, layer in titles:
                if rank == wanted and not is_folder(layer):
                    return self._whole(layer)
        for layer in manifest.layers:
            if self._search(layer, query):
                break
        if self._found is not None:
            return self._found
        if self._unsafe is not None:
            raise ProtocolError(
                f"{name!r:.200}: found only under the unsafe name {self._unsafe!r:.200}"
            )
        if any(rank == "exact" for rank, _ in titles):
            raise UsageError(
                f"{name!r:.200} is a folder", hint="get the whole folder with: dockercomms reg get"
            )
        note = f", but a link {self._link!r:.200}" if self._link else ""
        raise NotFoundError(
            f"{self._repository}: no file {name!r:.200} in {len(manifest.layers)} layers{note}"
        )

    def _whole(self, layer: Descriptor) -> ExtractedFile:
        self._check_size(layer.digest, layer.size)
        with open_layer(self._reader, self._repository, layer) as blob:
            copy_stream(self._progress.of(blob), self._spool, "temporary file")
        return ExtractedFile(layer, None, layer.size)

    def _search(self, layer: Descriptor, query: FileQuery) -> bool:
        """Return whether the layer has the exact path; meanwhile keep a file with the same name."""
        exact = False
        with open_layer(self._reader, self._repository, layer) as blob:
            stream = self._progress.of(blob)
            archive = open_archive(stream, layer.media_type, max_unpacked=self._max_unpacked)
            if archive is None:
                return False
            for member in archive:  # reads to the end, to prove the layer's digest
                rank = query.rank(member.name)
                if rank is None or exact:
                    continue
                if member.kind != "file":
                    self._link = member.name if member.kind == "link" else self._link
                elif rank == "unsafe":
                    self._unsafe = member.name
                elif rank == "exact" or self._found is None:
                    self._keep(layer, member, archive)
                    exact = rank == "exact"
        return exact

    def _keep(self, layer: Descriptor, member: Member, content: ByteStream) -> None:
        self._check_size(member.name, member.size)
        with local_errors("temporary file"):
            self._spool.seek(0)
            self._spool.truncate()
        copy_stream(content, self._spool, "temporary file")
        self._found = ExtractedFile(layer, member.name, member.size)

    def _check_size(self, what: str, size: int) -> None:
        if size > self._limit:
            raise LimitError(f"{what!r:.200}: {size} bytes; at most {self._limit}")


def _only_layer(manifest: Manifest) -> Descriptor:
    if len(manifest.layers) != 1:
        raise UsageError(
            f"the artifact has {len(manifest.layers)} layers; one expected",
            hint="name the file to get",
        )
    (layer,) = manifest.layers
    if is_archive_type(layer.media_type):
        raise UsageError(
            f"layer {layer.digest} is an archive ({layer.media_type})", hint="name a file in it"
        )
    return layer


def _parts(path: str) -> tuple[str, ...]:
    return tuple(part for part in path.split("/") if part not in ("", "."))

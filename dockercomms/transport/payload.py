"""Payloads of messages: a file, several files, a folder, standard input or another pipe, a note.

Each is a stream of bytes with a name. It knows its length, if that is known without a read,
whether it can be read again, and whether its source changed while it was read.

Source: SPEC.md section 3.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
from collections.abc import Generator, Sequence
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol, cast

from dockercomms.errors import LocalIOError, UsageError
from dockercomms.platforms.files import local_errors
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.header import CONTENT_TYPE_FILES_TAR, NOTE_FILENAME
from dockercomms.transport.files import (
    FilesPlan,
    Identity,
    Packing,
    changed,
    check_ends,
    check_unchanged,
    identity_of,
    open_unchanged,
    pack_files,
    plan_files,
)
from dockercomms.transport.names import (
    MAX_FULL_NAME_BYTES,
)

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

STDIN = "-"
TAR_SUFFIX = ".tar"
SEVERAL_NAME = "files"
"""The name of the tar of several files."""
CONTENT_TYPE_TEXT = "text/plain; charset=utf-8"


class Payload(Protocol):
    """A stream of bytes to be sent."""

    @property
    def filename(self) -> str:
        """The name of the receiver's file; shorten it for the wire with `wire_filename`."""
        ...

    @property
    def content_type(self) -> str | None:
        """The media type of the bytes, if it is known."""
        ...

    @property
    def files_count(self) -> int | None:
        """The number of files in a tar of files; None for all other payloads."""
        ...

    @property
    def total_bytes(self) -> int | None:
        """The length; None if only a read shows it."""
        ...

    @property
    def source_id(self) -> str | None:
        """Equal for two payloads of the same unchanged source; None if it cannot be read again."""
        ...

    def open(self) -> BinaryIO:
        """Return the bytes from their start; the caller closes the stream.

        Raises:
            LocalIOError: it is not readable, has changed, or was a pipe that was read already.
            UsageError: on the first read, if standard input is empty.
        """
        ...

    def check_unchanged(self) -> None:
        """Check, after reading, that the source has not changed.

        Raises:
            LocalIOError: a file changed.
        """
        ...


@dataclass(frozen=True, slots=True)
class FilePayload:
    """One regular file."""

    path: Path
    filename: str
    identity: Identity
    content_type: None = None
    files_count: None = None

    @property
    def total_bytes(self) -> int:
        """The size by the status in `identity`."""
        return self.identity[2]

    @property
    def source_id(self) -> str:
        """A hash of path, name and `identity`."""
        return _source_id("file", os.path.abspath(self.path), self.filename, self.identity)  # noqa: PTH100 - no resolving of links

    def open(self) -> BinaryIO:
        """Open the file, which must be unchanged."""
        return open_unchanged(self.path, self.identity, follow=True)

    def check_unchanged(self) -> None:
        """Check that the file is unchanged."""
        with local_errors(str(self.path)):
            status = self.path.stat()
        if identity_of(status) != self.identity:
            raise changed(self.path)
        with self.open() as stream:
            stream.seek(self.total_bytes)
            check_ends(stream, self.path, self.total_bytes)


@dataclass(frozen=True, slots=True)
class FilesPayload:
    """Several files or a folder, as one tar."""

    plan: FilesPlan
    filename: str
    total_bytes: int
    source_id: str
    """A hash of all paths and identities."""
    content_type: str = CONTENT_TYPE_FILES_TAR

    @property
    def files_count(self) -> int:
        """The number of files and links."""
        return self.plan.files_count

    def open(self) -> BinaryIO:
        """Return the tar, made while it is read."""
        return cast("BinaryIO", io.BufferedReader(_PieceReader(pack_files(self.plan))))

    def check_unchanged(self) -> None:
        """Check that all files are unchanged."""
        check_unchanged(self.plan)


@dataclass(frozen=True, slots=True)
class NotePayload:
    """A text without a file."""

    data: bytes
    filename: str = NOTE_FILENAME
    content_type: str = CONTENT_TYPE_TEXT
    files_count: None = None

    @property
    def total_bytes(self) -> int:
        """The length of the text in UTF-8."""
        return len(self.data)

    @property
    def source_id(self) -> str:
        """A hash of the text."""
        return _source_id("note", self.filename, hashlib.sha256(self.data).hexdigest())

    def open(self) -> BinaryIO:
        """Return the text in UTF-8."""
        return io.BytesIO(self.data)

    def check_unchanged(self) -> None:
        """Do nothing: the text cannot change."""


@dataclass(slots=True)
class StreamPayload:
    """Standard input or another pipe: read once, of unknown length."""

    stream: BinaryIO | Path
    """An open stream, or a path: `open` waits for a writer to it."""
    filename: str
    content_type: None = None
    files_count: None = None
    total_bytes: None = None
    source_id: None = None
    _read: bool = field(default=False, init=False)

    def open(self) -> BinaryIO:
        """Return the stream, once."""
        if self._read:
            raise LocalIOError(
                f"{self.filename}: a stream cannot be read a second time",
                hint="save it to a file and send the file",
            )
        self._read = True
        if isinstance(self.stream, Path):
            with local_errors(str(self.stream)):
                return self.stream.open("rb", buffering=0)
        return cast("BinaryIO", _Borrowed(self.stream))

    def check_unchanged(self) -> None:
        """Do nothing: a pipe cannot be compared."""


def payload_of(
    paths: Sequence[Path],
    *,
    name: str | None = None,
    stdin: BinaryIO | None = None,
    text: str | None = None,
    packing: Packing | None = None,
) -> Payload:
    """Return the payload for the arguments of a send.

    One regular file is itself; a folder, or several paths, are a tar; `-` is `stdin` and a pipe
    is a stream, and both need a name; a text without a path is a note.

    Args:
        paths: The files to send.
        name: The name for the receiver, instead of the file's own; a tar's gets `.tar`.
        stdin: The stream for `-`.
        text: The note; ignored with a path.
        packing: Options for packing a folder or several files.

    Raises:
        UsageError: no payload, no name although one is needed, or a kind of file that cannot be
            sent.
        LimitError: too many files, or too deep.
        LocalIOError: a file is missing or not readable.
    """
    _check_name(name)
    if not paths:
        if text is None:
            raise UsageError("nothing to send", hint="name a file or folder, or give --text")
        return NotePayload(text.encode("utf-8", "replace"), name or NOTE_FILENAME)
    if len(paths) > 1:
        if any(str(path) == STDIN for path in paths):
            raise UsageError("- (standard input) cannot be sent with other files")
        return _files(paths, name or SEVERAL_NAME, packing)
    return _one(paths[0], name, stdin, packing)


def _one(path: Path, name: str | None, stdin: BinaryIO | None, packing: Packing | None) -> Payload:
    if str(path) == STDIN:
        if stdin is None:
            raise UsageError("no standard input to read for -")
        return StreamPayload(stdin, _needed_name(name, "standard input"))
    with local_errors(str(path)):
        status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        own = os.path.basename(os.path.abspath(path))  # noqa: PTH100, PTH119 - no resolving of links
        return _files([path], name or own or SEVERAL_NAME, packing)
    if stat.S_ISREG(status.st_mode):
        payload = FilePayload(path, name or path.name, identity_of(status))
        with payload.open() as stream:  # fail before a login if it is not readable
            if not payload.total_bytes and stream.read(1):
                return StreamPayload(path, payload.filename)  # /proc: only a read shows the size
        return payload
    if stat.S_ISFIFO(status.st_mode):
        return StreamPayload(path, _needed_name(name, str(path)))
    raise UsageError(
        f"{path}: neither file, folder nor pipe",
        hint="read it with another program, and send its output: ... | dockercomms send - --name N",
    )


def _files(paths: Sequence[Path], name: str, packing: Packing | None) -> FilesPayload:
    plan = plan_files(paths, packing)
    filename = name if name.endswith(TAR_SUFFIX) else name + TAR_SUFFIX
    tops = [os.path.abspath(entry.source) for entry in plan.entries if entry.is_top]  # noqa: PTH100 - no resolving of links
    files = [
        (entry.member.path, entry.member.mtime, entry.identity)
        if entry.content is None
        else (entry.member.path, entry.member.mtime, hashlib.sha256(entry.content).hexdigest())
        for entry in plan.entries
    ]
    return FilesPayload(
        plan, filename, plan.total_bytes, source_id=_source_id("files", filename, tops, files)
    )


def _check_name(name: str | None) -> None:
    if name is None:
        return
    if not name.strip() or name in (".", "..") or any(mark in name for mark in "/\0"):
        raise UsageError(f"name {name!r:.100}: a file name expected, not a path")
    if len(name.encode("utf-8", "replace")) > MAX_FULL_NAME_BYTES:
        raise UsageError(f"name of {len(name)} characters: at most {MAX_FULL_NAME_BYTES} bytes")


def _needed_name(name: str | None, what: str) -> str:
    if name is None:
        raise UsageError(f"{what}: missing file name", hint="give --name")
    return name


def _source_id(*values: object) -> str:
    text = json.dumps(values, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


class _PieceReader(io.RawIOBase):
    """A generator of byte strings as a readable stream."""

    def __init__(self, pieces: Generator[bytes, None, None]) -> None:
        super().__init__()
        self._pieces = pieces
        self._piece = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        done = 0
        with memoryview(buffer).cast("B") as room:
            while done < len(room):
                if not self._piece:
                    piece = next(self._pieces, None)
                    if piece is None:
                        break
                    self._piece = memoryview(piece)
                    continue
                count = min(len(room) - done, len(self._piece))
                room[done : done + count] = self._piece[:count]
                self._piece = self._piece[count:]
                done += count
        return done

    def close(self) -> None:
        """Close the file that the generator reads, too."""
        self._pieces.close()
        super().close()


class _Borrowed(io.RawIOBase):
    """Standard input that must not be empty; closing this object leaves it open."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__()
        self._stream = stream
        self._is_empty = True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        with memoryview(buffer).cast("B") as room, local_errors("standard input"):
            asked = len(room)
            data = self._stream.read(asked)
            room[: len(data)] = data
        if not data and self._is_empty and asked:
            raise UsageError(
                "standard input is closed or empty: nothing was sent",
                hint="a job of cron or systemd has no standard input; to send an empty file, name"
                " its path",
            )
        self._is_empty = False
        return len(data)

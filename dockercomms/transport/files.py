"""Several files or a folder as one deterministic tar, and back into a folder.

The same tree gives the same bytes: entries in bytewise order of their paths, two modes, no
owners, no times (or whole seconds, if asked). The length is known before a byte is read.

Source: SPEC.md sections 3 and 8.

Example:
    >>> import io, pathlib, tempfile
    >>> from dockercomms.transport.files import pack_files, plan_files, unpack_files
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> (folder / "a").mkdir()
    >>> _ = (folder / "a" / "b.txt").write_text("hello")
    >>> plan = plan_files([folder / "a"])
    >>> data = b"".join(pack_files(plan))
    >>> len(data) == plan.total_bytes
    True
    >>> out = pathlib.Path(tempfile.mkdtemp())
    >>> [str(path.relative_to(out)) for path in unpack_files(io.BytesIO(data), out)]
    ['a', 'a/b.txt']
"""

from __future__ import annotations

import os
import stat
from collections.abc import Generator, Iterator, Sequence
from dataclasses import field
from pathlib import Path
from typing import BinaryIO

from dockercomms.errors import LimitError, LocalIOError, UsageError
from dockercomms.oci.model import READ_BYTES
from dockercomms.platforms import local_error, local_errors
from dockercomms.protocol import MAX_FILES_DEPTH, MAX_FILES_ENTRIES, MAX_FILES_PATH_BYTES
from dockercomms.records import dataclass
from dockercomms.transport.links import resolve_link
from dockercomms.transport.names import collision_key
from dockercomms.transport.tar import (
    END,
    MODE_EXECUTABLE,
    MODE_FILE,
    TYPE_FILE,
    TYPE_FOLDER,
    TYPE_LINK,
    TarMember,
    header_bytes,
    padding_bytes,
    write_header,
)
from dockercomms.transport.unpacking import unpack_files as unpack_files  # noqa: PLC0414 - inverse

_SMALL_BYTES = 64 * 2**10
"""Up to this a file is read at once, and goes on with its header."""

Identity = tuple[int, int, int, int, int]
"""Device, inode, size, and the times of the last change of content and of status."""


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One entry of the tar, and what on disk it is made of."""

    member: TarMember
    source: str
    """Its path: a string, of which there may be very many."""
    identity: Identity

    @property
    def is_top(self) -> bool:
        """Whether the user named it; what is named may be a link, which is followed."""
        return "/" not in self.member.path


@dataclass(frozen=True, slots=True)
class FilesPlan:
    """All entries in the order in which they are written."""

    entries: tuple[PlannedFile, ...]

    @property
    def total_bytes(self) -> int:
        """The length of the whole tar."""
        return len(END) + sum(
            header_bytes(entry.member) + entry.member.size + padding_bytes(entry.member.size)
            for entry in self.entries
        )

    @property
    def files_count(self) -> int:
        """How many entries are no folders."""
        return sum(entry.member.type != TYPE_FOLDER for entry in self.entries)


def identity_of(status: os.stat_result) -> Identity:
    """Return what changes when a file's content does."""
    return (
        status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns,
    )  # fmt: skip


def plan_files(
    paths: Sequence[Path], *, keep_mtime: bool = False, max_entries: int = MAX_FILES_ENTRIES
) -> FilesPlan:
    """Return what a tar of `paths` holds; folders are walked, links at the top are followed.

    Raises:
        UsageError: a socket, pipe or device; a link that leads out; a name that is not Unicode;
            two paths that some file system takes for the same.
        LimitError: more entries, deeper, or longer paths than a receiver takes.
        LocalIOError: something cannot be read.
    """
    planner = _Planner(keep_mtime=keep_mtime, max_entries=max_entries)
    for path in paths:
        planner.add_top(path)
    planner.check_links()
    entries = sorted(planner.entries.values(), key=lambda item: item.member.path.encode("utf-8"))
    return FilesPlan(tuple(entries))


@dataclass(slots=True)
class _Planner:
    """Collects entries by their paths in the tar."""

    keep_mtime: bool
    max_entries: int
    entries: dict[str, PlannedFile] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)

    def add_top(self, path: Path) -> None:
        """Add a path the user named, and all below it."""
        name = os.path.basename(os.path.abspath(path))  # noqa: PTH100, PTH119 - no resolving of links
        with local_errors(str(path)):
            status = path.stat()
        pending = [(str(path), name or "root", status)]
        while pending:
            source, inside, status = pending.pop()
            self._add(source, inside, status)
            if stat.S_ISDIR(status.st_mode):
                pending += _children(source, inside)

    def _add(self, source: str, inside: str, status: os.stat_result) -> None:
        self._check_path(source, inside)
        mtime = max(0, int(status.st_mtime)) if self.keep_mtime else 0
        mode, size, target = MODE_EXECUTABLE, 0, ""
        if stat.S_ISREG(status.st_mode):
            kind, size = TYPE_FILE, status.st_size
            mode = MODE_EXECUTABLE if status.st_mode & stat.S_IXUSR else MODE_FILE
        elif stat.S_ISDIR(status.st_mode):
            kind = TYPE_FOLDER
        elif stat.S_ISLNK(status.st_mode):
            kind = TYPE_LINK
            with local_errors(source):
                target = os.readlink(source)  # noqa: PTH115 - the text itself, not a Path of it
        else:
            raise UsageError(
                f"{source}: neither file, folder nor symbolic link",
                hint="a pipe can be sent by itself, with --name",
            )
        _check_unicode(source, target)
        member = TarMember(
            path=inside, type=kind, size=size, mode=mode, mtime=mtime, link_target=target
        )
        self.entries[inside] = PlannedFile(member, source, identity_of(status))

    def _check_path(self, source: str, inside: str) -> None:
        """Refuse what no receiver would take, and what two file systems see differently."""
        _check_unicode(source, inside)
        other = self.keys.setdefault(collision_key(inside), inside)
        if other in self.entries:
            raise UsageError(
                f"{source}: would be {inside!r} beside {other!r}, the same name on some systems"
            )
        size = len(inside.encode("utf-8"))
        if size > MAX_FILES_PATH_BYTES:
            raise LimitError(f"{source}: path of {size} bytes; at most {MAX_FILES_PATH_BYTES}")
        if inside.count("/") >= MAX_FILES_DEPTH:
            raise LimitError(f"{source}: more than {MAX_FILES_DEPTH} folders deep")
        if len(self.entries) >= self.max_entries:
            raise LimitError(f"{source}: more than {self.max_entries} files and folders")

    def check_links(self) -> None:
        """Refuse links that lead out of the tree, by whatever other links they pass."""
        links = {
            inside: entry.member.link_target
            for inside, entry in self.entries.items()
            if entry.member.type == TYPE_LINK
        }
        for inside, target in links.items():
            leads_to = resolve_link(inside, target, links)
            if leads_to is None or leads_to.partition("/")[0] not in self.entries:
                raise UsageError(
                    f"{self.entries[inside].source}: symbolic link to {target!r}, which is not"
                    " among what is sent",
                    hint="send the file it points at, or leave the link out",
                )


def _children(source: str, inside: str) -> list[tuple[str, str, os.stat_result]]:
    """Return what is in a folder, with the status of links themselves."""
    with local_errors(source), os.scandir(source) as entries:
        return [
            (entry.path, f"{inside}/{entry.name}", entry.stat(follow_symlinks=False))
            for entry in entries
        ]


def _check_unicode(source: str, text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError(f"{source:.200}: a name that is not UTF-8") from error


def pack_files(plan: FilesPlan) -> Generator[bytes, None, None]:
    """Yield the bytes of the tar, in pieces of at most 1 MiB.

    Raises:
        LocalIOError: a file cannot be read, or is no longer the one that was planned.
    """
    for entry in plan.entries:
        header, size = write_header(entry.member), entry.member.size
        if entry.member.type != TYPE_FILE:
            yield header
        elif size <= _SMALL_BYTES:
            yield b"".join((header, _small_content(entry), bytes(padding_bytes(size))))
        else:
            yield header
            yield from _content(entry)
            yield bytes(padding_bytes(size))
    yield END


_OPEN = (
    os.O_RDONLY
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
    | getattr(os, "O_NONBLOCK", 0)
)
"""How a file is opened: one that was swapped for a pipe must not block."""
_OPEN_NO_LINK = _OPEN | getattr(os, "O_NOFOLLOW", 0)
"""Nor one that was swapped for a link lead on."""


def open_unchanged(path: Path | str, identity: Identity, *, follow: bool) -> BinaryIO:
    """Open a file that must still be the one with `identity`.

    Raises:
        LocalIOError: it cannot be opened, or is another.
    """
    with local_errors(str(path)):
        stream = os.fdopen(os.open(path, _OPEN if follow else _OPEN_NO_LINK), "rb", buffering=0)
    if identity_of(os.fstat(stream.fileno())) != identity:
        stream.close()
        raise changed(path)
    return stream


def changed(path: Path | str) -> LocalIOError:
    """Return the error for a file that did not hold still."""
    return LocalIOError(
        f"{path}: changed while it was sent; nothing was published",
        hint="send it again when nothing writes to it, or send a copy",
    )


def check_unchanged(plan: FilesPlan) -> None:
    """Check that everything planned is still as it was.

    Raises:
        LocalIOError: something is not.
    """
    for entry in plan.entries:
        try:
            status = os.stat(entry.source, follow_symlinks=entry.is_top)  # noqa: PTH116 - of a string
        except OSError as error:
            raise local_error(error, entry.source) from error
        if identity_of(status) != entry.identity:
            raise changed(entry.source)


def _small_content(entry: PlannedFile) -> bytes:
    """Return all of a file, by four calls of the system: there may be very many of them."""
    try:
        handle = os.open(entry.source, _OPEN if entry.is_top else _OPEN_NO_LINK)
        try:
            identity = identity_of(os.fstat(handle))
            data = os.read(handle, entry.member.size)
        finally:
            os.close(handle)
    except OSError as error:
        raise local_error(error, entry.source) from error
    if identity != entry.identity or len(data) != entry.member.size:
        raise changed(entry.source)
    return data


def _content(entry: PlannedFile) -> Iterator[bytes]:
    left = entry.member.size
    with open_unchanged(entry.source, entry.identity, follow=entry.is_top) as stream:
        while left:
            with local_errors(entry.source):
                piece = stream.read(min(left, READ_BYTES))
            if not piece:
                raise changed(entry.source)
            left -= len(piece)
            yield piece

"""Several files or a folder as one deterministic tar.

The same tree gives the same bytes: entries in bytewise order of their paths, two modes, no
owners, no times (or whole seconds, if asked). The length is known before the first read.

Source: SPEC.md sections 3 and 8.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Generator, Iterator, Sequence
from dataclasses import field
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal

from dockercomms.errors import LimitError, LocalIOError, UsageError
from dockercomms.oci.model import READ_BYTES
from dockercomms.platforms.files import local_error, local_errors
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.header import MAX_FILES_DEPTH, MAX_FILES_ENTRIES, MAX_FILES_PATH_BYTES
from dockercomms.transport.names import resolve_link, safe_path
from dockercomms.transport.tar import (
    END,
    MAX_NUMBER,
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

_SMALL_BYTES = 64 * 2**10
"""Files up to this size are read in one call, and yielded together with their header."""

MAX_UNSIZED_BYTES = 16 * 2**20
"""Most content, of all files together, whose size the file system gives as 0. It is kept in memory,
because a tar has the size of a file before its content."""

Identity = tuple[int, int, int, int, int]
"""Device, inode, size, and the times of the last change of content and of status."""


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One entry of the tar, and its source on disk."""

    member: TarMember
    source: str
    """Its path: a string, because there may be very many."""
    identity: Identity
    content: bytes | None = field(default=None, repr=False)
    """Content of a file with size 0 on disk that has content all the same (/proc)."""

    follow: bool = True
    """True to follow a symbolic link at `source`, as for a path that the user named."""

    @property
    def is_top(self) -> bool:
        """True if the user named the path."""
        return "/" not in self.member.path


@dataclass(frozen=True, slots=True)
class FilesPlan:
    """All entries in the order of the tar."""

    entries: tuple[PlannedFile, ...]

    @property
    def total_bytes(self) -> int:
        """The length of the tar."""
        return len(END) + sum(
            header_bytes(entry.member) + entry.member.size + padding_bytes(entry.member.size)
            for entry in self.entries
        )

    @property
    def files_count(self) -> int:
        """The number of entries that are not folders."""
        return sum(entry.member.type != TYPE_FOLDER for entry in self.entries)


def identity_of(status: os.stat_result) -> Identity:
    """Return values that change when a file's content changes."""
    return (
        status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns,
    )  # fmt: skip


Links = Literal["keep", "skip", "follow"]
"""Symbolic links in a folder: kept as links, skipped, or replaced by their targets."""

MAX_NAMED = 10
"""Entries that one error names; it counts the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """Options for packing a folder."""

    keep_mtime: bool = False
    """Keep the times of files, in whole seconds."""
    exclude: tuple[str, ...] = ()
    """Patterns of entries to leave out, folders with their content (see `_Excluded`)."""
    links: Links = "keep"
    max_entries: int = MAX_FILES_ENTRIES


def plan_files(paths: Sequence[Path], packing: Packing | None = None) -> FilesPlan:
    """Return the plan of a tar of `paths`; walk folders, follow links that `paths` name.

    Raises:
        UsageError: entries that cannot be sent (all are named): a socket, pipe or device, a link
            that leads out, a name that is not Unicode, names that are equal at the receiver.
        LimitError: more entries, deeper folders or longer paths than a receiver accepts.
        LocalIOError: a file or folder is not readable.
    """
    planner = _Planner(packing or Packing())
    for path in paths:
        planner.add_top(path)
    planner.check_links()
    planner.check_all_can_travel()
    entries = sorted(planner.entries.values(), key=lambda item: item.member.path.encode("utf-8"))
    return FilesPlan(tuple(entries))


@dataclass(slots=True)
class _Planner:
    """Collects entries by their paths in the tar."""

    packing: Packing
    entries: dict[str, PlannedFile] = field(default_factory=dict)
    arriving: dict[str, str] = field(default_factory=dict)
    """The path that a receiver writes to, and the entry for it."""
    refused: list[str] = field(default_factory=list)
    """An entry that cannot be sent, and the reason."""
    unsized_bytes: int = 0
    """Bytes of content kept of files without a size."""

    def add_top(self, path: Path) -> None:
        """Add a path that the user named, and all entries below it."""
        name = os.path.basename(os.path.abspath(path)) or "root"  # noqa: PTH100, PTH119 - no resolving of links
        with local_errors(str(path)):
            status = path.stat()
        follow = self.packing.links == "follow"
        pending = [(str(path), name, status, frozenset[tuple[int, int]]())]
        while pending:
            source, inside, status, above = pending.pop()
            if self._is_excluded(inside) or not self._add(source, inside, status):
                continue
            if stat.S_ISDIR(status.st_mode):
                here = (status.st_dev, status.st_ino)
                if here in above:
                    self.refused.append(f"{source}: symbolic link to a folder that it is in")
                    continue
                children = _children(source, inside, follow=follow)
                above = above | {here} if follow else above
                pending += [(*child, above) for child in children]

    def _is_excluded(self, inside: str) -> bool:
        """Return whether a pattern matches: the last components, or after `/` the whole path."""
        return any(
            PurePosixPath("/", inside).match(pattern.rstrip("/") or pattern)
            for pattern in self.packing.exclude
        )

    def _add(self, source: str, inside: str, status: os.stat_result) -> bool:
        """Add one entry; return False if it is skipped or refused."""
        if stat.S_ISLNK(status.st_mode) and self.packing.links == "skip":
            return False
        reason = self._reason_against(inside, status)
        if reason is None:
            member, content = self._member(source, inside, status)
            if not _is_unicode(member.link_target):
                reason = "symbolic link to a name that is not UTF-8"
        if reason is not None:
            self.refused.append(f"{source}: {reason}")
            return False
        follow = self.packing.links == "follow" or "/" not in inside
        self.entries[inside] = PlannedFile(member, source, identity_of(status), content, follow)
        return True

    def _reason_against(self, inside: str, status: os.stat_result) -> str | None:
        """Return the reason why an entry cannot be sent, if there is one.

        Raises:
            LimitError: every receiver would refuse it.
        """
        if not _is_unicode(inside):
            return "a name that is not UTF-8"
        mode = status.st_mode
        if stat.S_ISLNK(mode) and self.packing.links == "follow":
            return "broken symbolic link"
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
            return _KINDS.get(stat.S_IFMT(mode), "neither file, folder nor symbolic link")
        size = len(inside.encode("utf-8"))
        if size > MAX_FILES_PATH_BYTES:
            raise LimitError(f"{inside}: path of {size} bytes; at most {MAX_FILES_PATH_BYTES}")
        if inside.count("/") >= MAX_FILES_DEPTH:
            raise LimitError(f"{inside}: more than {MAX_FILES_DEPTH} folders deep")
        if len(self.entries) >= self.packing.max_entries:
            raise LimitError(f"{inside}: more than {self.packing.max_entries} files and folders")
        arrives = safe_path(inside)
        other = self.arriving.setdefault(arrives, inside)
        if other in self.entries:
            return f"arrives as {arrives!r}, as {other!r} does"
        return None

    def _member(
        self, source: str, inside: str, status: os.stat_result
    ) -> tuple[TarMember, bytes | None]:
        """Return the entry, with its content if only a read shows its size."""
        kind, mode, size, target, content = TYPE_FOLDER, MODE_EXECUTABLE, 0, "", None
        if stat.S_ISREG(status.st_mode):
            content = None if status.st_size else self._read_unsized(source)
            kind, size = TYPE_FILE, status.st_size if content is None else len(content)
            mode = MODE_EXECUTABLE if status.st_mode & stat.S_IXUSR else MODE_FILE
        elif stat.S_ISLNK(status.st_mode):
            kind = TYPE_LINK
            with local_errors(source):
                target = os.readlink(source)  # noqa: PTH115 - the text itself, not a Path of it
        mtime = status.st_mtime_ns // 10**9 if self.packing.keep_mtime else 0
        if abs(mtime) > MAX_NUMBER:
            mtime = 0  # receivers cannot set such times
        member = TarMember(
            path=inside, type=kind, size=size, mode=mode, mtime=mtime, link_target=target
        )
        return member, content

    def _read_unsized(self, source: str) -> bytes | None:
        """Return the content of a file with size 0 on disk, None if it is empty."""
        left = MAX_UNSIZED_BYTES - self.unsized_bytes
        with local_errors(source), os.fdopen(os.open(source, _OPEN), "rb") as stream:
            content = stream.read(left + 1)
        if len(content) > left:
            raise LimitError(
                f"{source}: the file system reports no size for it; at most {MAX_UNSIZED_BYTES} "
                "bytes of such files expected",
                hint="send it by itself, or send a copy",
            )
        self.unsized_bytes += len(content)
        return content or None

    def check_links(self) -> None:
        """Note links that lead out of the tree, alone or through other links."""
        links = {
            inside: entry.member.link_target
            for inside, entry in self.entries.items()
            if entry.member.type == TYPE_LINK
        }
        for inside, target in links.items():
            leads_to = resolve_link(inside, target, links)
            if leads_to is None or leads_to.partition("/")[0] not in self.entries:
                self.refused.append(
                    f"{self.entries[inside].source}: symbolic link to {target!r}, which is not"
                    " among what is sent"
                )

    def check_all_can_travel(self) -> None:
        """Refuse to send less than the user asked for.

        Raises:
            UsageError: some entries cannot be sent, or no entry is left.
        """
        if self.refused:
            more = len(self.refused) - MAX_NAMED
            named = self.refused[:MAX_NAMED] + ([f"and {more} more"] if more > 0 else [])
            raise UsageError(
                "; ".join(named),
                hint="leave them out with --exclude PATTERN; symbolic links also with"
                " --links skip, or send what they point at with --links follow",
            )
        if not self.entries:
            raise UsageError("nothing to send: --exclude excludes everything")


_KINDS = {
    stat.S_IFSOCK: "a socket",
    stat.S_IFIFO: "a pipe, which can be sent only by itself, with --name",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
}


def _children(source: str, inside: str, *, follow: bool) -> list[tuple[str, str, os.stat_result]]:
    """Return the entries of a folder, with the status of links themselves unless `follow`."""
    with local_errors(source), os.scandir(source) as entries:
        return [
            (entry.path, f"{inside}/{entry.name}", _status(entry, follow=follow))
            for entry in entries
        ]


def _status(entry: os.DirEntry[str], *, follow: bool) -> os.stat_result:
    if follow and entry.is_symlink():
        try:
            return entry.stat()
        except OSError:  # a link to a missing file, or in a circle
            pass
    return entry.stat(follow_symlinks=False)


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def pack_files(plan: FilesPlan) -> Generator[bytes, None, None]:
    """Yield the bytes of the tar, in pieces of at most 1 MiB.

    Raises:
        LocalIOError: a file is not readable, or is not the planned one any more.
    """
    for entry in plan.entries:
        header, size = write_header(entry.member), entry.member.size
        if entry.member.type != TYPE_FILE:
            yield header
        elif entry.content is not None:
            yield b"".join((header, entry.content, bytes(padding_bytes(size))))
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
"""Flags to open a file: opening must not block if a pipe took its place."""
_OPEN_NO_LINK = _OPEN | getattr(os, "O_NOFOLLOW", 0)
"""The same, without following a link that took its place."""


def open_unchanged(path: Path | str, identity: Identity, *, follow: bool) -> BinaryIO:
    """Open a file that must still be the one with `identity`.

    Raises:
        LocalIOError: it is not readable, or is another file.
    """
    with local_errors(str(path)):
        stream = os.fdopen(os.open(path, _OPEN if follow else _OPEN_NO_LINK), "rb", buffering=0)
    if identity_of(os.fstat(stream.fileno())) != identity:
        stream.close()
        raise changed(path)
    return stream


def changed(path: Path | str) -> LocalIOError:
    """Return the error for a file that changed."""
    return LocalIOError(
        f"{path}: changed while it was sent; nothing was published",
        hint="send it again when no program writes to it, or send a copy",
    )


def wrong_size(path: Path | str, size: int, read: str) -> LocalIOError:
    """Return the error for a file with more or less content than its size (FUSE, /sys)."""
    return LocalIOError(
        f"{path}: {size} bytes expected by its size, {read} read; nothing was published",
        hint="if a program writes to it, send it again when none does; if its file system gives "
        "a wrong size, send a copy",
    )


def check_ends(stream: BinaryIO, path: Path | str, size: int) -> None:
    """Check that a file ends at `size` bytes, the position of `stream`.

    Raises:
        LocalIOError: there is more.
    """
    with local_errors(str(path)):
        more = stream.read(1)
    if more:
        raise wrong_size(path, size, "more")


def check_unchanged(plan: FilesPlan) -> None:
    """Check that all planned entries are unchanged.

    Raises:
        LocalIOError: one has changed.
    """
    for entry in plan.entries:
        if entry.content is not None:
            continue  # its content was read for the plan
        try:
            status = os.stat(entry.source, follow_symlinks=entry.follow)  # noqa: PTH116 - of a string
        except OSError as error:
            raise local_error(error, entry.source) from error
        if identity_of(status) != entry.identity:
            raise changed(entry.source)


def _small_content(entry: PlannedFile) -> bytes:
    """Return the content of a small file with four system calls: there may be very many."""
    try:
        handle = os.open(entry.source, _OPEN if entry.follow else _OPEN_NO_LINK)
        try:
            identity = identity_of(os.fstat(handle))
            data = os.read(handle, entry.member.size + 1)
        finally:
            os.close(handle)
    except OSError as error:
        raise local_error(error, entry.source) from error
    if identity != entry.identity:
        raise changed(entry.source)
    if len(data) != entry.member.size:
        more = len(data) > entry.member.size
        raise wrong_size(entry.source, entry.member.size, "more" if more else str(len(data)))
    return data


def _content(entry: PlannedFile) -> Iterator[bytes]:
    left = entry.member.size
    with open_unchanged(entry.source, entry.identity, follow=entry.follow) as stream:
        while left:
            with local_errors(entry.source):
                piece = stream.read(min(left, READ_BYTES))
            if not piece:
                raise wrong_size(entry.source, entry.member.size, str(entry.member.size - left))
            left -= len(piece)
            yield piece
        check_ends(stream, entry.source, entry.member.size)

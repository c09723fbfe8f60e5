"""A tar of files unpacked member by member, under rules of its own.

Nothing in the tar is believed: not a path, not a link, not a type, not a count. The standard
library's `data` filter is asked as well, as the second line.

Source: SPEC.md sections 3 and 8.

Example:
    >>> import io, pathlib, tempfile
    >>> from dockercomms.transport.tar import END, TarMember, write_header
    >>> from dockercomms.transport.unpacking import unpack_files
    >>> out = pathlib.Path(tempfile.mkdtemp())
    >>> data = write_header(TarMember(path="../escape")) + END
    >>> unpack_files(io.BytesIO(data), out)
    Traceback (most recent call last):
    dockercomms.errors.ProtocolError: files: path '../escape' is not one inside a folder
"""

from __future__ import annotations

import os
import tarfile
from dataclasses import field
from pathlib import Path
from typing import BinaryIO

from dockercomms.errors import ProtocolError
from dockercomms.oci.model import READ_BYTES
from dockercomms.platforms import create_new, local_errors, sync_folder
from dockercomms.protocol import MAX_FILES_DEPTH, MAX_FILES_ENTRIES, MAX_FILES_PATH_BYTES
from dockercomms.records import dataclass
from dockercomms.transport.chunks import write_all
from dockercomms.transport.links import resolve_link
from dockercomms.transport.names import collision_key, safe_component, safe_filename
from dockercomms.transport.tar import (
    MODE_EXECUTABLE,
    MODE_FILE,
    TYPE_FILE,
    TYPE_FOLDER,
    TYPE_LINK,
    TarMember,
    read_member,
    read_padding,
)

_OWNER_EXECUTES = 0o100


def unpack_files(
    tar: BinaryIO, folder: Path, *, max_entries: int = MAX_FILES_ENTRIES
) -> list[Path]:
    """Unpack a tar into `folder`, which exists and is nobody else's; return what was made.

    In the order of the tar, folders included. Names are made safe, which nobody else may be
    called already. Everything is durable when this returns; on an error it is the caller's to
    throw the folder away.

    Raises:
        ProtocolError: a path, link, type or number that breaks the rules, or a damaged tar.
        LocalIOError: it cannot be written.
    """
    unpacker = _Unpacker(folder, max_entries)
    while (member := read_member(tar)) is not None:
        unpacker.take(member, tar)
    unpacker.make_links()
    unpacker.make_durable()
    return [folder / path for path in unpacker.made]


@dataclass(slots=True)
class _Unpacker:
    folder: Path
    max_entries: int
    made: dict[str, TarMember] = field(default_factory=dict)
    """Safe path to member, in the order of the tar."""
    keys: dict[str, str] = field(default_factory=dict)
    """Collision key to safe path."""

    def take(self, member: TarMember, tar: BinaryIO) -> None:
        """Make one member, of which `tar` holds the content next; links are only noted."""
        if len(self.made) >= self.max_entries:
            raise ProtocolError(f"files: more than {self.max_entries} entries")
        if member.type not in (TYPE_FILE, TYPE_FOLDER, TYPE_LINK):
            raise ProtocolError(f"files: {member.path!r:.100} is of type {member.type!r}")
        if member.type != TYPE_FILE and member.size:
            raise ProtocolError(f"files: {member.path!r:.100} has content, but is no file")
        path = self._claim(member)
        if member.type != TYPE_LINK:
            _second_line(member, path, self.folder)
        if member.type == TYPE_FOLDER:
            with local_errors(path):
                (self.folder / path).mkdir(MODE_EXECUTABLE)
        elif member.type == TYPE_FILE:
            self._write(path, member, tar)

    def _claim(self, member: TarMember) -> str:
        """Return the safe path of `member`, with its folders made and its name taken."""
        parts = _checked_parts(member.path)
        safe = [safe_filename(parts[0]), *map(safe_component, parts[1:])]
        path = "/".join(safe)
        other = self.keys.setdefault(collision_key(path), path)
        if other in self.made:
            raise ProtocolError(f"files: {member.path!r:.100} has the name of another entry")
        for depth in range(1, len(safe)):
            self._need_folder("/".join(safe[:depth]))
        self.made[path] = member
        return path

    def _need_folder(self, path: str) -> None:
        """Make sure that `path` is a folder of this tar; writers may leave its entry out."""
        known = self.made.get(path)
        if known is None:
            other = self.keys.setdefault(collision_key(path), path)
            if other != path:
                raise ProtocolError(f"files: folder {path!r:.100} has the name of another entry")
            known = self.made[path] = TarMember(path=path, type=TYPE_FOLDER)
            with local_errors(path):
                (self.folder / path).mkdir(MODE_EXECUTABLE)
        if known.type != TYPE_FOLDER:
            raise ProtocolError(f"files: {path!r:.100} is no folder, but has something in it")

    def _write(self, path: str, member: TarMember, tar: BinaryIO) -> None:
        mode = MODE_EXECUTABLE if member.mode & _OWNER_EXECUTES else MODE_FILE
        with (
            local_errors(path),
            os.fdopen(create_new(self.folder / path, mode=mode), "wb", buffering=0) as out,
        ):
            left = member.size
            while left:
                piece = tar.read(min(left, READ_BYTES))
                if not piece:
                    raise ProtocolError(f"files: {member.path!r:.100} ends {left} bytes early")
                write_all(out, piece)
                left -= len(piece)
        read_padding(tar, member.size)

    def make_links(self) -> None:
        """Make the links, last of all, so that nothing was ever written through one."""
        links = {
            path: member.link_target
            for path, member in self.made.items()
            if member.type == TYPE_LINK
        }
        for path, target in links.items():
            if resolve_link(path, target, links) is None:
                raise ProtocolError(f"files: link {path!r:.100} leads out: {target!r:.100}")
        for path, target in links.items():
            _second_line(self.made[path], path, self.folder)
            with local_errors(path):
                (self.folder / path).symlink_to(target)

    def make_durable(self) -> None:
        """Write everything through to the disk, content before the names that lead to it."""
        for path, member in reversed(self.made.items()):
            place = self.folder / path
            with local_errors(path):
                if member.mtime and member.type != TYPE_LINK:
                    os.utime(place, (member.mtime, member.mtime))
                if member.type == TYPE_FOLDER:
                    sync_folder(place)
                elif member.type == TYPE_FILE:
                    _sync_file(place)
        with local_errors(str(self.folder)):
            sync_folder(self.folder)


def _checked_parts(path: str) -> list[str]:
    """Return the components of a member's path."""
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise ProtocolError(f"files: path {path!r:.100} is not one inside a folder")
    if len(parts) > MAX_FILES_DEPTH:
        raise ProtocolError(f"files: path {path!r:.100} is more than {MAX_FILES_DEPTH} deep")
    if len(path.encode("utf-8")) > MAX_FILES_PATH_BYTES:
        raise ProtocolError(f"files: path {path!r:.100} is longer than {MAX_FILES_PATH_BYTES}")
    return parts


def _second_line(member: TarMember, path: str, folder: Path) -> None:
    """Ask the standard library's filter (Python 3.11.4 and later) about what we let pass."""
    data_filter = getattr(tarfile, "data_filter", None)
    if data_filter is None:
        return
    info = tarfile.TarInfo(path)
    info.type, info.size, info.mode = member.type, member.size, member.mode
    info.linkname = member.link_target
    try:
        data_filter(info, os.fspath(folder))
    except tarfile.TarError as error:
        raise ProtocolError(f"files: {member.path!r:.100}: {error}") from error


def _sync_file(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

"""Extraction of a tar of files, entry by entry, under strict rules.

Every path, link, type and number of the tar is checked, in addition by the standard library's
`data` filter.

Source: SPEC.md sections 3 and 8.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import field, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

from dockercomms.errors import DigestMismatch, LocalIOError, ProtocolError
from dockercomms.oci.content import ByteStream
from dockercomms.oci.model import (
    ANNOTATION_TITLE,
    ANNOTATION_UNPACKED_DIGEST,
    READ_BYTES,
    Descriptor,
    parse_digest,
)
from dockercomms.oci.tar import MAX_UNPACKED_BYTES, decompressed
from dockercomms.platforms.files import local_errors, rename_new, sync_file, tolerated
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.header import MAX_FILES_DEPTH, MAX_FILES_ENTRIES, MAX_FILES_PATH_BYTES
from dockercomms.transport.chunks import write_all
from dockercomms.transport.folders import Folder
from dockercomms.transport.merging import check_merge, merge_folder
from dockercomms.transport.names import (
    collision_key,
    numbered,
    resolve_link,
    safe_component,
    safe_filename,
    safe_path,
)
from dockercomms.transport.tar import (
    MODE_EXECUTABLE,
    MODE_FILE,
    TYPE_FILE,
    TYPE_FOLDER,
    TYPE_LINK,
    TarMember,
    padding_bytes,
    read_member,
    read_padding,
)
from dockercomms.transport.window import Stop, looped, run_window

_OWNER_EXECUTES = 0o100
_SYNCS = 8
"""Syncs under way at once: the journal of a file system commits all that wait together. 10,000
empty
files are on the disk in 1.3 s instead of 43 s (ext4)."""
_DOTS = re.compile(r"^(?:\./)*(?:\.$)?")
_TIMES_BY_HANDLE = os.utime in os.supports_fd


def unpack_files(
    tar: BinaryIO,
    folder: Path | Folder,
    *,
    max_entries: int = MAX_FILES_ENTRIES,
    dotted: bool = False,
) -> list[Path]:
    """Unpack a tar into `folder`, which exists and only the caller uses; return the new paths.

    Paths are in the order of the tar, folders included. Names are made safe, and unique if two
    become equal. Folders are entered by their descriptor, never through a link that another
    program puts there. All content is durable on return; on an error the caller deletes the
    folder.

    Args:
        tar: Positioned at its first header. It is read twice: first to count the entries.
        folder: The target.
        max_entries: The most entries.
        dotted: Accept paths that begin with `./`, and the entry `.`, as other programs write.

    Raises:
        ProtocolError: a path, link, type or number that breaks the rules, or a damaged tar.
        LocalIOError: `folder` is not writable.
    """
    if isinstance(folder, Path):
        with local_errors(str(folder)):
            opened = Folder.open(folder)
        with opened:
            return unpack_files(tar, opened, max_entries=max_entries, dotted=dotted)
    _check_count(tar, max_entries)
    unpacker = _Unpacker(folder, max_entries)
    with contextlib.closing(unpacker):
        while (member := read_member(tar)) is not None:
            if dotted:
                member = replace(member, path=_DOTS.sub("", member.path))
                if not member.path and member.type == TYPE_FOLDER:
                    continue
            unpacker.take(member, tar)
        unpacker.make_links()
        unpacker.make_durable()
    return [folder.path / path for path in unpacker.made]


@contextlib.contextmanager
def unpacked_layer(
    blob: ByteStream,
    layer: Descriptor,
    target: Path,
    *,
    overwrite: bool = False,
    max_unpacked: int = MAX_UNPACKED_BYTES,
) -> Iterator[None]:
    """Unpack the folder in a layer beside `target`; give it that name when the block ends.

    All entries must be in a folder with the layer's title, or its last component, as name. If the
    title is `.` (the folder of all files), they are at the top of the tar. A present `target` is
    merged into; its files are replaced only with `overwrite`.

    Args:
        blob: A checked reader of the layer; it is read to its end before the unpacking starts.
        layer: Its descriptor; title and digest of the tar are used.
        target: The folder; its parent exists.
        overwrite: Replace present files.
        max_unpacked: The most bytes that the layer may unpack to.

    Raises:
        ProtocolError: no tar, or one that breaks the rules of `unpack_files`, or of another name.
        LimitError: it unpacks to more.
        IntegrityError: the layer or the tar does not have its digest.
        PlaceError, LocalIOError: a file is present, or the folder is not writable.

    Source: oras-go v2, content/file: `tarDirectory` and `extractTarGzip`.
    """
    title = layer.annotations[ANNOTATION_TITLE].rstrip("/")
    inside = title in ("", ".")
    above = target if inside else target.parent
    with contextlib.ExitStack() as stack:
        with local_errors(str(target)):
            if not (inside or overwrite) and os.path.lexists(target):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            place = Path(tempfile.mkdtemp(prefix=".dockercomms-", suffix=".part", dir=above))
            stack.callback(shutil.rmtree, place, ignore_errors=True)
            tar = cast("BinaryIO", stack.enter_context(tempfile.TemporaryFile(dir=place)))
        _spool(blob, layer, tar, max_unpacked)
        with local_errors(str(place)):
            (place / "new").mkdir()
        try:
            unpack_files(tar, place / "new", dotted=True)
        except ProtocolError as error:
            raise ProtocolError(
                f"folder {title!r:.100}: {error.message}",
                hint=f"get its tar with: dockercomms reg blob REPO@{layer.digest} -o FILE",
            ) from error
        root = place / "new" if inside else _titled(place / "new", title)
        new, outer = (stack.enter_context(_opened(path)) for path in (root, above))
        with local_errors(str(target)):
            there = outer if inside else None
            if there is None and os.path.lexists(target):
                there = stack.enter_context(outer.enter(target.name))
            if there is not None:
                taken = () if overwrite else (name for name in new.names() if there.status(name))
                for name in taken:
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
                check_merge(new, there)
        yield
        with local_errors(str(target)):
            if there is None:
                rename_new(root, target)
                outer.sync()
            else:
                merge_folder(new, there)


def _opened(path: Path) -> Folder:
    with local_errors(str(path)):
        return Folder.open(path)


def _spool(blob: ByteStream, layer: Descriptor, tar: BinaryIO, max_unpacked: int) -> None:
    """Write the tar in a layer to `tar`, check both digests, and seek to its start."""
    said = layer.annotations.get(ANNOTATION_UNPACKED_DIGEST)
    digest = None if not said else parse_digest(said)
    hashed = hashlib.new(digest.partition(":")[0] if digest else "sha256")
    stream = decompressed(blob, layer.media_type, max_unpacked)
    while piece := stream.read(READ_BYTES):
        hashed.update(piece)
        with local_errors("unpacking"):
            tar.write(piece)
    while blob.read(READ_BYTES):  # bytes after the last frame; the end verifies the layer
        pass
    if digest is not None and hashed.hexdigest() != digest.partition(":")[2]:
        raise DigestMismatch(
            f"{layer.digest}: unpacks to {hashed.name}:{hashed.hexdigest()}; {digest} expected"
        )
    tar.seek(0)


def _titled(folder: Path, title: str) -> Path:
    """Return the only folder in `folder`, named as a layer's title, or its last component.

    Raises:
        ProtocolError: there is another entry.
    """
    for name in dict.fromkeys((title, title.rpartition("/")[2])):
        place = folder
        for part in safe_path(name).split("/"):
            if os.listdir(place) != [part]:  # noqa: PTH208 - names
                break
            place /= part
        else:
            if place.is_dir() and not place.is_symlink():
                return place
    raise ProtocolError(f"folder {title!r:.100}: its tar has entries outside of that folder")


@dataclass(slots=True)
class _Unpacker:
    folder: Folder
    max_entries: int
    made: dict[str, TarMember] = field(default_factory=dict)
    """Safe path to member, in the order of the tar."""
    placed: dict[str, str] = field(default_factory=dict)
    """The path in the tar to the safe path."""
    keys: set[str] = field(default_factory=set)
    """Equal for paths that are the same on some file system."""
    numbers: dict[str, int] = field(default_factory=dict)
    """The number of entries with the same safe path before numbering."""
    entered: list[tuple[str, Folder]] = field(default_factory=list)
    """The open folders on the way to the last entry, each with its name."""

    def close(self) -> None:
        """Close the folders that it entered."""
        while self.entered:
            self.entered.pop()[1].close()

    def take(self, member: TarMember, tar: BinaryIO) -> None:
        """Create one member, whose content is next in `tar`; links are only noted."""
        if len(self.made) >= self.max_entries:  # counts folders without an entry too
            raise ProtocolError(f"files: more than {self.max_entries} entries")
        if member.type not in (TYPE_FILE, TYPE_FOLDER, TYPE_LINK):
            raise ProtocolError(f"files: {member.path!r:.100} is of type {member.type!r}")
        if member.type != TYPE_FILE and member.size:
            raise ProtocolError(f"files: {member.path!r:.100} has content, but is not a file")
        parts = _checked_parts(member.path)
        if member.path in self.placed:
            raise ProtocolError(f"files: {member.path!r:.100} has two entries; one expected")
        for depth in range(1, len(parts)):
            self._need_folder("/".join(parts[:depth]))
        self._make(member, tar)

    def _need_folder(self, path: str) -> None:
        """Check that `path` is a folder of this tar; create it if it has no entry."""
        known = self.placed.get(path)
        if known is None:
            self._make(TarMember(path=path, type=TYPE_FOLDER))
        elif self.made[known].type != TYPE_FOLDER:
            raise ProtocolError(f"files: {path!r:.100} is not a folder, but has entries below it")

    def _make(self, member: TarMember, tar: BinaryIO | None = None) -> None:
        """Create `member` under its safe name, with a number if another entry has that name.

        Names that differ only by case or normalisation are the same on some file systems: there the
        second one gets a number, too.
        """
        above, _, last = member.path.rpartition("/")
        folder = f"{self.placed[above]}/" if above else ""
        safe = folder + (safe_component(last) if above else safe_filename(last))
        while True:
            number = self.numbers[safe] = self.numbers.get(safe, 0) + 1
            name = numbered(safe[len(folder) :], number, folder=member.type == TYPE_FOLDER)
            path = folder + name
            if path in self.made:
                continue
            try:
                self._write(path, member, tar)
            except LocalIOError as error:
                is_twin = isinstance(error.__cause__, FileExistsError)
                if not is_twin or collision_key(path) not in self.keys:
                    raise
            else:
                break
        self.keys.add(collision_key(path))
        self.made[path] = member
        self.placed[member.path] = path

    def _place(self, path: str) -> tuple[Folder, str]:
        """Return the open folder that `path` is in, and its name there."""
        *above, name = path.split("/")
        for depth, (known, _) in enumerate(self.entered):
            if above[depth : depth + 1] != [known]:
                for _, left in reversed(self.entered[depth:]):
                    left.close()
                del self.entered[depth:]
                break
        for part in above[len(self.entered) :]:
            here = self.entered[-1][1] if self.entered else self.folder
            self.entered.append((part, here.enter(part)))
        return (self.entered[-1][1] if self.entered else self.folder), name

    def _write(self, path: str, member: TarMember, tar: BinaryIO | None) -> None:
        """Create a folder, or a file with its content; links are created later."""
        if member.type == TYPE_LINK:
            return
        _second_line(member, path)
        mode = MODE_EXECUTABLE if member.mode & _OWNER_EXECUTES else MODE_FILE
        with local_errors(path):
            parent, name = self._place(path)
            if member.type == TYPE_FOLDER:
                parent.mkdir(name, MODE_EXECUTABLE)
                return
            handle = parent.create(name, mode=mode)
        with local_errors(path), os.fdopen(handle, "wb", buffering=0) as out:
            left = member.size
            while tar is not None and left:
                piece = tar.read(min(left, READ_BYTES))
                if not piece:
                    raise ProtocolError(f"files: {member.path!r:.100} ends {left} bytes early")
                write_all(out, piece)
                left -= len(piece)
            # Before the sync: a later change would cost the file system a commit of its own.
            _set_time(out.fileno() if _TIMES_BY_HANDLE else parent.path / name, member)
        if tar is not None:
            read_padding(tar, member.size)

    def make_links(self) -> None:
        """Create the links last, so that no file is written through one, to entries' safe names."""
        said = {
            path: self.made[place].link_target
            for path, place in self.placed.items()
            if self.made[place].type == TYPE_LINK
        }
        _check_inside(said)
        links = {
            self.placed[path]: self._target_here(path, target, said)
            for path, target in said.items()
        }
        _check_inside(links)
        for path, target in links.items():
            _second_line(replace(self.made[path], link_target=target), path)
            with local_errors(path):
                parent, name = self._place(path)
                parent.symlink(target, name)

    def _target_here(self, path: str, target: str, links: Mapping[str, str]) -> str:
        """Return the target of the link at `path`, in the safe names of the entries."""
        above = path.split("/")[:-1]
        words: list[str] = []
        for part in target.split("/"):
            words.append(part)
            if part in ("", "."):
                continue
            if part == "..":
                above.pop()
                continue
            at = "/".join([*above, part])
            here = self.placed.get(at)
            words[-1] = safe_component(part) if here is None else here.rpartition("/")[2]
            leads_to = resolve_link(at, links[at], links) if at in links else at
            above = leads_to.split("/") if leads_to else []
        return "/".join(words)

    def make_durable(self) -> None:
        """Sync all entries to the disk, in any order: the folder has no final name yet."""
        alone = len(self.made) <= _SYNCS
        window = run_window(self._syncs(), concurrency=_SYNCS, stop=Stop(), alone=alone)
        with looped(window) as syncs:
            for _ in syncs:
                pass
        with local_errors(str(self.folder.path)):
            self.folder.sync()

    def _syncs(self) -> Iterator[Callable[[], None]]:
        """Yield the sync of each file and folder, which is open already."""
        for path, member in reversed(self.made.items()):
            if member.type == TYPE_LINK:
                continue
            with local_errors(path):
                parent, name = self._place(path)
                opened = (
                    parent.enter(name) if member.type == TYPE_FOLDER else parent.open_file(name)
                )
                if isinstance(opened, Folder):
                    _set_time(opened.path if opened.handle is None else opened.handle, member)
            yield partial(_sync, path, opened)


def _check_count(tar: BinaryIO, max_entries: int) -> None:
    """Refuse a tar of more than `max_entries`; keep its position."""
    start, count = tar.tell(), 0
    while (member := read_member(tar)) is not None:
        count += 1
        if count > max_entries:
            raise ProtocolError(f"files: more than {max_entries} entries")
        tar.seek(member.size + padding_bytes(member.size), os.SEEK_CUR)
    tar.seek(start)


def _sync(path: str, opened: int | Folder) -> None:
    """Make an open file or folder durable, and close it."""
    with local_errors(path):
        if isinstance(opened, Folder):
            with opened:
                opened.sync()
            return
        try:
            sync_file(opened)
        finally:
            os.close(opened)


def _check_inside(links: Mapping[str, str]) -> None:
    """Refuse links that lead out of the tree.

    Raises:
        ProtocolError: a link leads out.
    """
    for path, target in links.items():
        if resolve_link(path, target, links) is None:
            raise ProtocolError(
                f"files: link {path!r:.100} points outside of the folder: {target!r:.100}"
            )


def _checked_parts(path: str) -> list[str]:
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise ProtocolError(f"files: path {path!r:.100} is not inside the folder")
    if len(parts) > MAX_FILES_DEPTH:
        raise ProtocolError(f"files: path {path!r:.100} is more than {MAX_FILES_DEPTH} deep")
    if len(path.encode("utf-8")) > MAX_FILES_PATH_BYTES:
        raise ProtocolError(f"files: path {path!r:.100} is longer than {MAX_FILES_PATH_BYTES}")
    return parts


_NOWHERE = os.path.join(os.path.abspath(os.sep), "nonexistent", "dockercomms")  # noqa: PTH100, PTH118 - of strings
"""A folder that does not exist. The filter judges the tar with it: the real folder's content, by
other
programs, must not change the result."""


def _second_line(member: TarMember, path: str) -> None:
    """Check an entry by the standard library's filter (Python 3.11.4 and later)."""
    data_filter = getattr(tarfile, "data_filter", None)
    if data_filter is None:
        return
    info = tarfile.TarInfo(path)
    info.type, info.size, info.mode = member.type, member.size, member.mode
    info.linkname = member.link_target
    try:
        data_filter(info, _NOWHERE)
    except tarfile.TarError as error:
        raise ProtocolError(f"files: {member.path!r:.100}: {error}") from error


def _set_time(place: int | Path, member: TarMember) -> None:
    if member.mtime:
        with tolerated("setting file times"):
            os.utime(place, (member.mtime, member.mtime))

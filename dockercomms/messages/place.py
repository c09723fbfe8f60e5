"""The places of payloads on disk: temporaries and final names.

The path of a temporary is recorded on disk before it is created, under the key of its delivery. The
process that creates it holds the lock of that key. So the next run that gets the lock finds and
removes temporaries left by a killed process or a power failure, in any folder.

Source: SPEC.md section 8.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from dockercomms.errors import LocalIOError
from dockercomms.oci.model import READ_BYTES, Digest
from dockercomms.platforms.files import (
    free_bytes,
    holder_of,
    local_errors,
    open_regular,
    sync_file,
    sync_folder,
)
from dockercomms.platforms.records import dataclass
from dockercomms.state.locks import try_lock
from dockercomms.transport.folders import Folder
from dockercomms.transport.merging import check_links, check_replace, links_below, replace
from dockercomms.transport.names import numbered

TEMPORARY = re.compile(r"\.dockercomms-[0-9a-f]{16}\.part")
"""The names of temporaries; files with other names are never removed."""

MAX_NUMBER = 10_000
"""The most numbered names that are tried for a file in a folder."""

_MAKES: dict[str, Literal["temporary", "folder"]] = {"t": "temporary", "d": "folder"}


@dataclass(frozen=True, slots=True)
class Leftovers:
    """The files that deliveries create, recorded in notes beside the state. Thread safe.

    Args:
        folder: The folder of locks and notes; created when needed.
        kept: Returns the temporary that the next run continues, if a delivery has one.
    """

    folder: Path
    kept: Callable[[str], Path | None] = lambda key: None  # noqa: ARG005 - keeps no temporary

    @contextlib.contextmanager
    def claim(self, key: str) -> Iterator[bool]:
        """Lock the delivery `key`; yield False if another process holds the lock.

        Removes the temporaries of earlier runs, and at the end those of this one, except one to
        continue (`kept`).
        """
        with try_lock(self.folder / f"{key}.lock") as held:
            if not held:
                yield False
                return
            self._remove(key)
            try:
                yield True
            finally:
                self._remove(key)

    def holder(self, key: str) -> str:
        """Return the words for the process that holds the lock of `key`."""
        return holder_of(self.folder / f"{key}.lock")

    def sweep(self) -> None:
        """Remove the temporaries of all deliveries whose process has ended."""
        with local_errors(str(self.folder)):
            keys = {path.stem for path in self.folder.glob("*.*")}
        for key in sorted(keys):
            with try_lock(self.folder / f"{key}.lock") as held:
                if held:
                    self._remove(key)

    def new_file(self, key: str, folder: Folder) -> tuple[str, int]:
        """Create a temporary file in `folder`; return its name and descriptor.

        Raises:
            LocalIOError: it cannot be created.
        """
        name = self._name_temporary(key, folder)
        with local_errors(str(folder.path / name)):
            return name, folder.create(name, mode=0o666)

    def new_folder(self, key: str, folder: Folder) -> str:
        """Create a temporary folder in `folder`; return its name.

        Raises:
            LocalIOError: it cannot be created.
        """
        name = self._name_temporary(key, folder)
        with local_errors(str(folder.path / name)):
            folder.mkdir(name)
        return name

    def _name_temporary(self, key: str, folder: Folder) -> str:
        name = f".dockercomms-{secrets.token_hex(8)}.part"
        self._note(key, folder.path / name)
        return name

    def _note(self, key: str, temporary: Path) -> None:
        """Record, durably, the path of a temporary before it is created."""
        note = self.folder / f"{key}.made"
        with local_errors(str(note)):
            is_new = not note.exists()
            with note.open("ab") as out:
                out.write(b"t" + os.fsencode(temporary.absolute()) + b"\0")
                out.flush()
                sync_file(out.fileno())
            if is_new:
                sync_folder(self.folder)

    def reopen(self, folder: Folder, name: str) -> int | None:
        """Return a descriptor of a kept temporary; None if it does not exist or is unsafe.

        It must be a regular file with one link, owned by this user: another user could change it
        after the content is verified. The caller verifies the content.
        """
        if not TEMPORARY.fullmatch(name):
            return None
        try:
            handle = folder.open_file(name, os.O_RDWR)
        except OSError:
            return None
        status = os.fstat(handle)
        mine = not hasattr(os, "geteuid") or status.st_uid == os.geteuid()
        if stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and mine:
            return handle
        os.close(handle)
        return None

    def _remove(self, key: str) -> None:
        """Remove the temporaries recorded under `key`, the newest first, then the note.

        The temporary to continue stays, with its folder. Those that cannot be removed now stay
        recorded.
        """
        note = self.folder / f"{key}.made"
        with contextlib.suppress(OSError):
            lines = note.read_bytes().split(b"\0")[:-1]
            kept = self.kept(key)
            stays = []
            for line in filter(None, reversed(lines)):  # a power failure may leave zeros
                path, kind = Path(os.fsdecode(line[1:])), _MAKES.get(chr(line[0]))
                if kept is not None and kept in (path, path / kept.name) and kept.exists():
                    stays.append(line)
                elif _remove_made(path, kind):
                    sync_folder(path.parent)  # first: a temporary without a note is never removed
            if not stays:
                note.unlink(missing_ok=True)
            elif len(stays) < len(lines):
                fresh = note.with_suffix(".new")
                with fresh.open("wb") as out:
                    out.write(b"".join(line + b"\0" for line in reversed(stays)))
                    out.flush()
                    sync_file(out.fileno())
                fresh.replace(note)


def _remove_made(path: Path, kind: Literal["temporary", "folder"] | None) -> bool:
    """Remove a temporary, or an empty folder; return whether it existed."""
    if not os.path.lexists(path):
        return False
    if kind == "folder":
        with contextlib.suppress(OSError):  # not empty, or removed meanwhile
            path.rmdir()
            return True
    elif kind == "temporary" and TEMPORARY.fullmatch(path.name):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        return True
    return False


def delivery_key(me: str, digest: Digest) -> str:
    """Return the name of a delivery's lock and notes."""
    return hashlib.sha256(f"{me}\0{digest}".encode("utf-8", "surrogatepass")).hexdigest()[:32]


def is_own_folder(folder: Path, short_id: str) -> bool:
    """Return whether a folder has the name of one created for the message `short_id`."""
    return re.fullmatch(rf"{re.escape(short_id)}(?: \(\d+\))?", folder.name) is not None


def need_space(folder: Path, needed_bytes: int, what: str) -> None:
    """Check that the disk has room.

    Raises:
        LocalIOError: fewer bytes are free than needed.
    """
    with local_errors(str(folder)):
        free = free_bytes(folder)
    if free is not None and free < needed_bytes:
        raise LocalIOError(
            f"{what}: {needed_bytes} bytes needed in {folder}, {free} free",
            hint="free some space, or choose another folder with --out",
        )


def put_in_place(
    source: Folder,
    temporary: str,
    folder: Folder,
    name: str,
    *,
    overwrite: bool = False,
    announce: Callable[[Path], None],
) -> Path:
    """Rename a temporary file or folder to a final name in `folder`; return its path.

    Without `overwrite` an existing file stays, and the next free number is appended to the name.
    With it a file replaces a file or link, and a folder is merged into a folder (`merge_folder`).

    Args:
        source: The folder that contains the temporary.
        temporary: The name of the temporary, which is complete and durable.
        folder: The destination.
        name: The wanted name.
        overwrite: See above.
        announce: Called with the final path before the rename.

    Raises:
        PlaceError: the existing file or folder cannot be replaced.
    """
    with local_errors(str(folder.path / name)):
        is_folder = source.is_folder(temporary)
        for number in range(1, MAX_NUMBER + 1):
            final = numbered(name, number, folder=is_folder)
            if not overwrite and folder.status(final) is not None:
                continue
            if overwrite:
                check_replace(source, temporary, folder, final)
            announce(folder.path / final)
            try:
                if overwrite:
                    replace(source, temporary, folder, final)
                else:
                    source.rename_new(temporary, folder, final)
            except FileExistsError:
                if not overwrite and source.status(temporary) is not None:
                    continue  # another process took the name
                # A network file system may rename and lose the answer; the next run checks it.
                raise
            folder.sync()
            return folder.path / final
    raise LocalIOError(f"{folder.path / name}: {MAX_NUMBER} files of that name are there already")


def check_alone(folder: Folder, name: str) -> None:
    """Check that no link in the folder `name` leads out of it, as it is moved without the rest.

    Raises:
        PlaceError: a link leads out.
        LocalIOError: the folder cannot be read.
    """
    with local_errors(str(folder.path / name)):
        check_links(links_below(folder.path / name), {}, name)


def sync_in_place(final: Path) -> None:
    """Make a delivery at `final` durable, with all names below it if it is a folder.

    The same delivery may have created the parent folder, so its parent is synced too.

    Raises:
        LocalIOError: a folder cannot be synced.
    """
    with local_errors(str(final)):
        if final.is_dir() and not final.is_symlink():
            for folder, _, _ in os.walk(final, topdown=False):
                sync_folder(Path(folder))
        sync_folder(final.parent)
        sync_folder(final.parent.parent)


def file_digest(path: Path) -> Digest:
    """Return the sha256 digest of a regular file's content.

    Raises:
        LocalIOError: it is no regular file, or cannot be read.
    """
    hashed = hashlib.sha256()
    with local_errors(str(path)), open_regular(path) as stream:
        while piece := stream.read(READ_BYTES):
            hashed.update(piece)
    return Digest(f"sha256:{hashed.hexdigest()}")


def tree_digest(folder: Path) -> Digest:
    """Return a digest over the names, kinds, sizes and link targets below `folder`.

    Without the content: a folder gets its name only after all its content is durable, so a tree
    with this digest is complete.

    Raises:
        LocalIOError: it cannot be read.
    """
    hashed = hashlib.sha256()
    with local_errors(str(folder)):
        for path in tree(folder):
            status = path.lstat()
            line = [
                os.fsencode(path.relative_to(folder)),
                str(stat.S_IFMT(status.st_mode)).encode(),
            ]
            if stat.S_ISLNK(status.st_mode):
                line.append(os.fsencode(path.readlink()))
            elif stat.S_ISREG(status.st_mode):
                line.append(str(status.st_size).encode())
            hashed.update(b"\0".join(line) + b"\0\0")
    return Digest(f"sha256:{hashed.hexdigest()}")


def tree(folder: Path) -> list[Path]:
    """Return the paths of all files and folders below `folder`, sorted, without following links.

    Raises:
        OSError: it cannot be read.
    """
    found: list[Path] = []
    for parent, folders, files in os.walk(folder, onerror=_raise):
        found += [Path(parent, name) for name in (*folders, *files)]
    return sorted(found)


def _raise(error: OSError) -> None:
    raise error


def is_in_place(path: Path, digest: Digest) -> bool:
    """Return whether a complete delivery with `digest` is at `path`."""
    if path.is_symlink():
        return False
    try:
        return (tree_digest(path) if path.is_dir() else file_digest(path)) == digest
    except LocalIOError:
        return False

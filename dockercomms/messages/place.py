"""Where a payload lands: temporaries that never stay for ever, and names nothing is replaced at.

A temporary is written down, on the disk, before it is made, under the key of its delivery, whose
lock its maker holds while it lives. So what a killed process or a power failure left behind is
known, and is removed by the next run that gets the lock, in whatever folder it is.

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

from dockercomms.errors import LocalIOError, PlaceError
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
from dockercomms.transport.merging import check_links, check_merge, links_below, merge_folder
from dockercomms.transport.names import numbered

TEMPORARY = re.compile(r"\.dockercomms-[0-9a-f]{16}\.part")
"""What a temporary is called; nothing else is ever removed as one."""

MAX_NUMBER = 10_000
"""So many files of one name in a folder are not a coincidence."""

_MAKES: dict[str, Literal["temporary", "folder"]] = {"t": "temporary", "d": "folder"}


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What deliveries make on disk, written down in files beside the state. Thread safe.

    Args:
        folder: Where locks and notes are kept; made when it is needed.
        kept: Gives the temporary of a delivery that the next run goes on with, if there is one.
    """

    folder: Path
    kept: Callable[[str], Path | None] = lambda key: None  # noqa: ARG005 - nothing is kept

    @contextlib.contextmanager
    def claim(self, key: str) -> Iterator[bool]:
        """Yield whether the delivery `key` is ours alone; what an earlier run left is removed.

        What this block leaves behind by an error is removed as well. What is to be gone on with
        stays either way.
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
        """Return who has claimed the delivery `key`, in words."""
        return holder_of(self.folder / f"{key}.lock")

    def sweep(self) -> None:
        """Remove what deliveries left behind whose maker does not live any more."""
        with local_errors(str(self.folder)):
            keys = {path.stem for path in self.folder.glob("*.*")}
        for key in sorted(keys):
            with try_lock(self.folder / f"{key}.lock") as held:
                if held:
                    self._remove(key)

    def new_file(self, key: str, folder: Folder) -> tuple[str, int]:
        """Return the name of a new temporary file in `folder`, and its descriptor.

        Raises:
            LocalIOError: it cannot be made.
        """
        name = self._name_temporary(key, folder)
        with local_errors(str(folder.path / name)):
            return name, folder.create(name, mode=0o666)

    def new_folder(self, key: str, folder: Folder) -> str:
        """Return the name of a new temporary folder in `folder`.

        Raises:
            LocalIOError: it cannot be made.
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
        """Write down, durably, what is to be made next."""
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
        """Return a descriptor of a temporary that was kept; None if it is not there any more.

        Nothing is believed of what is in it. It has to be a file of the right name, of this user
        alone: whoever else could write to it could do so after it is proven.
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
        """Remove all that is noted under `key`, the newest first, then the note.

        What is to be gone on with stays, and its folder, and both stay noted; so does what cannot
        be removed now, and stops nothing.
        """
        note = self.folder / f"{key}.made"
        with contextlib.suppress(OSError):
            lines = note.read_bytes().split(b"\0")[:-1]
            kept = self.kept(key)
            stays = []
            for line in filter(None, reversed(lines)):  # zeros are what a power failure left of it
                path, kind = Path(os.fsdecode(line[1:])), _MAKES.get(chr(line[0]))
                if kept is not None and kept in (path, path / kept.name) and kept.exists():
                    stays.append(line)
                elif _remove_made(path, kind):
                    sync_folder(path.parent)  # before its note goes: it must not come back
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
    """Remove a temporary, or a folder if nothing is in it; return whether it was there."""
    if not os.path.lexists(path):
        return False
    if kind == "folder":
        with contextlib.suppress(OSError):  # somebody else uses it by now, or removed it
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
    """Return what one delivery is called beside the state."""
    return hashlib.sha256(f"{me}\0{digest}".encode("utf-8", "surrogatepass")).hexdigest()[:32]


def is_own_folder(folder: Path, short_id: str) -> bool:
    """Return whether a folder is called as one that a message with `short_id` gets for itself."""
    return re.fullmatch(rf"{re.escape(short_id)}(?: \(\d+\))?", folder.name) is not None


def need_space(folder: Path, needed_bytes: int, what: str) -> None:
    """Refuse to begin what the disk has no room for.

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
    """Give a temporary file or folder its final name in `folder`, and return that path.

    Without `overwrite` nothing that is there is touched: the next free number is taken. With it
    a file replaces a file or link, and a folder is merged into a folder (`merge_folder`).

    Args:
        source: The folder that the temporary is in.
        temporary: Its name; it is complete and durable.
        folder: Where it goes.
        name: What it is to be called.
        overwrite: See above.
        announce: Called with the final path before anything is there.

    Raises:
        PlaceError: what is there does not let itself be replaced.
        LocalIOError: it cannot be renamed.
    """
    with local_errors(str(folder.path / name)):
        is_folder = source.is_folder(temporary)
        for number in range(1, MAX_NUMBER + 1):
            final = numbered(name, number, folder=is_folder)
            if not overwrite and folder.status(final) is not None:
                continue
            if overwrite:
                _check_fits(source, temporary, folder, final)
            announce(folder.path / final)
            try:
                if overwrite:
                    _replace(source, temporary, folder, final)
                else:
                    source.rename_new(temporary, folder, final)
            except FileExistsError:
                if not overwrite and source.status(temporary) is not None:
                    continue  # somebody was faster
                # A network file system may rename and lose the answer; the next run settles it.
                raise
            folder.sync()
            return folder.path / final
    raise LocalIOError(f"{folder.path / name}: {MAX_NUMBER} files of that name are there already")


def _check_fits(source: Folder, temporary: str, folder: Folder, name: str) -> None:
    """Check that `_replace` may do its work."""
    found, place = folder.status(name), folder.path / name
    if found is None:
        return
    if not source.is_folder(temporary):
        if folder.is_folder(name):
            raise PlaceError(f"{place}: a folder, and a file does not replace it")
    elif folder.is_folder(name):
        with source.enter(temporary) as new, folder.enter(name) as there:
            check_merge(new, there)
    else:
        kind = "a link" if stat.S_ISLNK(found.st_mode) else "no folder"
        raise PlaceError(f"{place}: {kind}, and a folder does not replace it")


def _replace(source: Folder, temporary: str, folder: Folder, name: str) -> None:
    """Put a file in the place of a file or link, or the files of a folder into a folder."""
    if not source.is_folder(temporary):
        source.replace(temporary, folder, name)
    elif folder.status(name) is None:
        source.rename_new(temporary, folder, name)
    else:
        with source.enter(temporary) as new, folder.enter(name) as there:
            merge_folder(new, there)


def check_alone(folder: Folder, name: str) -> None:
    """Check that no link in the folder `name` leads out of it: it is to stand without the rest.

    Raises:
        PlaceError: one does.
        LocalIOError: it cannot be read.
    """
    with local_errors(str(folder.path / name)):
        check_links(links_below(folder.path / name), {}, name)


def sync_in_place(final: Path) -> None:
    """Make the path `final` of a delivery durable, and all names in it if it is a folder.

    A file's own folder got its name in the same delivery, so two folders above are synced.

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
        LocalIOError: it is none, or cannot be read.
    """
    hashed = hashlib.sha256()
    with local_errors(str(path)), open_regular(path) as stream:
        while piece := stream.read(READ_BYTES):
            hashed.update(piece)
    return Digest(f"sha256:{hashed.hexdigest()}")


def tree_digest(folder: Path) -> Digest:
    """Return a digest over the names, kinds, sizes and link targets below `folder`.

    Content is left out: a folder gets its name only when all that is in it is durable, so a tree
    of the right shape is the whole one.

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
    """Return all that is below `folder`, sorted; links are not followed.

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
    """Return whether what was to be delivered to `path` is there, and whole."""
    if path.is_symlink():
        return False
    try:
        return (tree_digest(path) if path.is_dir() else file_digest(path)) == digest
    except LocalIOError:
        return False

"""A merge of one folder into another, file by file, and never through a link.

Both folders are checked before the first move: the kinds of entries must match, and each new link
is resolved among the links of its new place. A file or link replaces a file or link by renaming,
so the merge never writes to another name of the replaced file or to the target of the link.

Source: SPEC.md section 8.5.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from dockercomms.errors import PlaceError
from dockercomms.transport.folders import Folder
from dockercomms.transport.names import climbs_first, collision_key, resolve_link


def check_merge(new: Folder, there: Folder) -> None:
    """Check that all entries of `new` can be moved into `there`; common folders are merged.

    Raises:
        PlaceError: a folder would replace a file or link, or the reverse; a link would lead out of
            `there`, or make another link lead out.
        OSError: an entry is not readable.
    """
    _check_kinds(new, there)
    links = links_below(new.path)
    if links:
        what = there.path.name
        for path, target in links.items():
            # Such a link stays inside whatever is merged at the same time.
            if not climbs_first(target):
                raise PlaceError(
                    f"{what}: link {path!r:.100}: its target has '..' after a name: {target!r:.100}"
                )
        check_links(links, links_below(there.path), what)


def check_replace(new: Folder, name: str, there: Folder, target: str) -> None:
    """Check that the entry `name` of `new` can become `target` in `there`; see `replace`.

    Raises:
        PlaceError, OSError: as `check_merge`.
    """
    if _merges(new, name, there, target):
        with new.enter(name) as inner, there.enter(target) as place:
            check_merge(inner, place)


def merge_folder(new: Folder, there: Folder) -> None:
    """Move all entries of `new` into `there`, durably; call `check_merge` before.

    Raises:
        OSError: a move failed; some entries are moved.
    """
    for name in new.names():
        replace(new, name, there, name)
    there.sync()


def replace(new: Folder, name: str, there: Folder, target: str) -> None:
    """Replace a file or link by a file, or merge a folder into a folder.

    Raises:
        OSError: as `merge_folder`.
    """
    if not new.is_folder(name):
        new.replace(name, there, target)
    elif there.status(target) is None:
        new.rename_new(name, there, target)
    else:
        with new.enter(name) as inner, there.enter(target) as place:
            merge_folder(inner, place)


def check_links(new: Mapping[str, str], there: Mapping[str, str], what: str) -> None:
    """Refuse links that would lead out of a folder, or would make its present links lead out.

    Paths that differ only in case or Unicode normalisation count as equal, as on some file systems.

    Args:
        new: Path in the folder to target, of the new links.
        there: The same for the present links.
        what: The name of the folder in errors.

    Raises:
        PlaceError: a link would lead out.
    """
    before = {collision_key(path): collision_key(target) for path, target in there.items()}
    names = {collision_key(path): path for path in (*there, *new)}
    come = {collision_key(path): collision_key(target) for path, target in new.items()}
    after = before | come
    for path, target in after.items():
        if resolve_link(path, target, after) is not None:
            continue
        if path in come or resolve_link(path, target, before) is not None:
            shown = new.get(names[path], target)
            raise PlaceError(
                f"{what}: link {names[path]!r:.100} would point outside of it: {shown!r:.100}"
            )


def links_below(folder: Path) -> dict[str, str]:
    """Return path and target of every link below `folder`, without following links.

    Raises:
        OSError: a folder is not readable.
    """
    return {
        path.relative_to(folder).as_posix(): os.readlink(path)  # noqa: PTH115 - a target, verbatim
        for path in _entries(folder)
        if path.is_symlink()
    }


def _entries(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder, onerror=_raise):
        for name in (*folders, *files):
            yield Path(parent, name)


def _raise(error: OSError) -> None:
    raise error


def _check_kinds(new: Folder, there: Folder) -> None:
    """Refuse a folder in place of a file or link, and the reverse."""
    for name in new.names():
        if _merges(new, name, there, name):
            with new.enter(name) as inner, there.enter(name) as place:
                _check_kinds(inner, place)


def _merges(new: Folder, name: str, there: Folder, target: str) -> bool:
    """Return whether `name` is a folder that is merged into a folder `target`.

    Raises:
        PlaceError: a folder would replace a file or link, or the reverse.
    """
    found, place = there.status(target), there.path / target
    if not new.is_folder(name):
        if there.is_folder(target):
            raise PlaceError(f"{place}: a folder, and a file does not replace it")
        return False
    if found is not None and not there.is_folder(target):
        kind = "a link" if stat.S_ISLNK(found.st_mode) else "no folder"
        raise PlaceError(f"{place}: {kind}, and a folder does not replace it")
    return found is not None

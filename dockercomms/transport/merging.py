"""A folder merged into one that is there already, file by file, and never through a link.

Both sides are judged together before anything moves: kinds have to fit, and each link is read where
it will stand, among the links that are there. A file or link takes the place of a file or link, by
renaming, so that neither another name of that file nor the target of that link is written to.

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
    """Check that all that is in `new` can be moved into `there`; folders in both are merged.

    Raises:
        PlaceError: a folder would take the place of something else, or the reverse; a link would
            lead out of `there`, or have another lead out.
        OSError: it cannot be read.
    """
    _check_kinds(new, there)
    links = links_below(new.path)
    if links:
        what = there.path.name
        for path, target in links.items():
            # Whatever is merged beside it meanwhile, such a link does not lead out
            if not climbs_first(target):
                raise PlaceError(
                    f"{what}: link {path!r:.100} has '..' after a name: {target!r:.100}"
                )
        check_links(links, links_below(there.path), what)


def merge_folder(new: Folder, there: Folder) -> None:
    """Move all that is in `new` into `there`, which `check_merge` has let pass, durably.

    Raises:
        OSError: it cannot be moved; a part is moved.
    """
    for name in new.names():
        if new.is_folder(name) and there.is_folder(name):
            with new.enter(name) as inner, there.enter(name) as place:
                merge_folder(inner, place)
        elif new.is_folder(name):
            new.rename_new(name, there, name)
        else:
            new.replace(name, there, name)
    there.sync()


def check_links(new: Mapping[str, str], there: Mapping[str, str], what: str) -> None:
    """Refuse links that would lead out of a folder, or would have links that are there do so.

    Paths that only differ in case or in Unicode normalisation count as the same: some file systems
    take them for the same.

    Args:
        new: Path in the folder to target, of the links that come.
        there: The same of those that are there.
        what: The folder, for the error.

    Raises:
        PlaceError: one would.
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
                f"{what}: link {names[path]!r:.100} would lead out of it: {shown!r:.100}"
            )


def links_below(folder: Path) -> dict[str, str]:
    """Return path and target of every link below `folder`; none is followed.

    Raises:
        OSError: it cannot be read.
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
    """Refuse a folder in the place of anything but a folder, and the reverse."""
    for name in new.names():
        found = there.status(name)
        if found is None:
            continue
        place = there.path / name
        if not new.is_folder(name):
            if there.is_folder(name):
                raise PlaceError(f"{place}: a folder is there, and no file or link replaces it")
        elif there.is_folder(name):
            with new.enter(name) as inner, there.enter(name) as place_there:
                _check_kinds(inner, place_there)
        else:
            kind = "a link" if stat.S_ISLNK(found.st_mode) else "something else"
            raise PlaceError(f"{place}: {kind} is there, and no folder replaces it")

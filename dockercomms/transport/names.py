"""File names: as they travel, and as they may be written.

What a sender calls a file is text of a stranger's choosing. On the wire it is shortened so that
1.0 receivers can write it; on arrival it is made a plain, visible, ordinary name.

Source: SPEC.md sections 3 and 8.

Where a symbolic link in a tree leads, worked out on names alone.

Both sides ask it: the sender before it packs a link, the receiver before it makes one. Nothing
on disk is looked at, so nothing on disk can change the answer.

Source: SPEC.md section 3.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Mapping
from itertools import dropwhile

from dockercomms.protocol.header import MAX_FILENAME_BYTES

MAX_LINK_STEPS = 40
"""As many links on one path as Linux follows."""


def resolve_link(path: str, target: str, links: Mapping[str, str]) -> str | None:
    """Return the path in the tree that a link at `path` leads to, "" for the tree itself.

    Args:
        path: The link's own path in the tree.
        target: What it says.
        links: Every link of the tree and what it says.

    Returns:
        None if it leads out, if only on the way, or in circles.
    """
    here = path.split("/")[:-1]
    ahead = target.split("/")[::-1]
    steps = 0
    if not target or target.startswith("/"):
        return None
    while ahead:
        part = ahead.pop()
        if part in ("", "."):
            continue
        if part == "..":
            if not here:
                return None
            here.pop()
            continue
        link = links.get("/".join([*here, part]))
        if link is None:
            here.append(part)
            continue
        steps += 1
        if steps > MAX_LINK_STEPS or link.startswith("/"):
            return None
        ahead.extend(reversed(link.split("/")))
    return "/".join(here)


def climbs_first(target: str) -> bool:
    """Return whether a relative target goes up before it names anything, and never after.

    From a folder that is no link itself, such links lead to the same depth whatever other links
    are on their way, as long as those are of this kind too.
    """
    parts = [part for part in target.split("/") if part not in ("", ".")]
    below = list(dropwhile(lambda part: part == "..", parts))
    return not target.startswith("/") and ".." not in below


MAX_DISK_NAME_BYTES = 255
"""What common file systems hold in one name."""
MAX_FULL_NAME_BYTES = 1024
"""What is kept of a name that is too long for the wire, in an annotation of its own."""
NAMELESS = "file"
"""What a file is called whose name has nothing usable in it (1.0 does the same)."""
REPLACEMENT = "_"

_MAX_EXTENSION_BYTES = 32
"""A longer ending is no file type, and is cut like the rest."""
_JOINERS = "\u200c\u200d"
"""Format characters that words of several scripts, and emoji, need."""
_WINDOWS_CHARACTERS = frozenset('<>:"|?*')
_RESERVED = re.compile(
    r"(?:con|prn|aux|nul|conin\$|conout\$|com[0-9\u00b9\u00b2\u00b3]|lpt[0-9\u00b9\u00b2\u00b3])"
    r" *(?:\..*)?",
    re.IGNORECASE | re.DOTALL,
)
"""Device names of Windows, which open a device with any extension and in any folder."""


_PLAIN = re.compile(
    r"(?:(?:^|/)(?!con|prn|aux|nul|com|lpt)[\w-](?:[\w.-]*[\w-])?)+", re.ASCII | re.IGNORECASE
)
"""Most paths: they are safe on every system, and to look at each character takes 10 us."""


def wire_filename(name: str) -> tuple[str, str | None]:
    """Return `name` as it travels, and whole where it had to be shortened, else None.

    The first is at most 237 bytes of UTF-8: a 1.0 receiver adds 18, and one name above 255
    stops its whole inbox. NUL and what is not Unicode is replaced. The second is cut at
    `MAX_FULL_NAME_BYTES`.
    """
    name = _unicode(name).replace("\0", REPLACEMENT)
    short = shorten(name, MAX_FILENAME_BYTES)
    return short, None if short == name else shorten(name, MAX_FULL_NAME_BYTES)


def safe_path(path: str) -> str:
    """Return the path at which an entry of a tar of files arrives, in the receiver's folder."""
    if len(path) <= MAX_DISK_NAME_BYTES and _PLAIN.fullmatch(path):
        return path
    first, *rest = path.split("/")
    return "/".join([safe_filename(first), *map(safe_component, rest)])


def safe_filename(name: str, *, windows: bool = os.name == "nt") -> str:
    """Return the name under which a file that its sender calls `name` may be written.

    The last component of a path; control, bidi and other invisible characters, backslashes,
    and on Windows its own, replaced; spaces around it and dots after it removed; a leading dot
    made visible; a device name of Windows made an ordinary one; at most 255 bytes; never empty.
    """
    name = safe_component(name.rstrip("/").rpartition("/")[2], windows=windows)
    return _fit(REPLACEMENT + name) if name.startswith(".") else name


def safe_component(name: str, *, windows: bool = os.name == "nt") -> str:
    """Return `name` as one component of a path inside a folder, where leading dots may stay.

    As `safe_filename` otherwise.
    """
    characters = (
        REPLACEMENT if _is_unsafe(character, windows=windows) else character
        for character in _unicode(name)
    )
    name = "".join(characters).strip().rstrip(". ")
    if _RESERVED.fullmatch(name):
        name = REPLACEMENT + name
    return _fit(name) or NAMELESS


def shorten(name: str, limit_bytes: int) -> str:
    """Return `name` cut to at most `limit_bytes` of UTF-8, its extension kept where it is short."""
    if len(name.encode("utf-8")) <= limit_bytes:
        return name
    stem, dot, extension = name.rpartition(".")
    ending = dot + extension
    if not stem or len(ending.encode("utf-8")) > min(_MAX_EXTENSION_BYTES, limit_bytes - 1):
        stem, ending = name, ""
    room = limit_bytes - len(ending.encode("utf-8"))
    return stem.encode("utf-8")[:room].decode("utf-8", "ignore") + ending


def numbered(name: str, number: int, *, folder: bool = False) -> str:
    """Return the `number`-th name to try for `name`; a file keeps its ending."""
    if number == 1:
        return name
    stem, dot, ending = ("", "", "") if folder else name.rpartition(".")
    if not stem:
        stem, dot, ending = name, "", ""
    tail = f" ({number}){dot}{ending}"
    return shorten(stem, MAX_DISK_NAME_BYTES - len(tail.encode("utf-8"))) + tail


def collision_key(path: str) -> str:
    """Return what is equal for paths that some file system takes for the same."""
    folded = unicodedata.normalize("NFC", path).casefold()
    return unicodedata.normalize("NFC", folded)


def _fit(name: str) -> str:
    return shorten(name, MAX_DISK_NAME_BYTES).rstrip(". ")


def _is_unsafe(character: str, *, windows: bool) -> bool:
    """Return whether a character hides, reorders or separates."""
    if character in "/\\" or (windows and character in _WINDOWS_CHARACTERS):
        return True
    return character not in _JOINERS and unicodedata.category(character) in {
        "Cc", "Cf", "Cs", "Zl", "Zp",
    }  # fmt: skip


def _unicode(name: str) -> str:
    """Return `name` with what has no UTF-8 form (bytes of no encoding) replaced."""
    return name.encode("utf-8", "replace").decode("utf-8")

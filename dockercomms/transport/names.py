"""File names on the wire and on disk, and targets of symbolic links.

A sender chooses a file's name freely. On the wire the name is shortened so that 1.0 receivers can
write it; the receiver changes it to a plain, visible, ordinary name. Links are resolved by names
alone, without reading the disk, so sender (before packing) and receiver (before creating) agree.

Source: SPEC.md sections 3 and 8.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Mapping
from itertools import dropwhile

from dockercomms.protocol.header import MAX_FILENAME_BYTES

MAX_LINK_STEPS = 40
"""The most links on one path, as in Linux."""


def resolve_link(path: str, target: str, links: Mapping[str, str]) -> str | None:
    """Return the path in the tree that a link at `path` leads to, "" for the tree itself.

    Args:
        path: The link's own path in the tree.
        target: The link's target.
        links: Path to target of every link in the tree.

    Returns:
        None if the link leads out, even only on the way, or in a circle.
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
    """Return whether all `..` of a relative target come first.

    From a folder that is not a link, such links lead to the same depth through any other links
    of this form.
    """
    parts = [part for part in target.split("/") if part not in ("", ".")]
    below = list(dropwhile(lambda part: part == "..", parts))
    return not target.startswith("/") and ".." not in below


MAX_DISK_NAME_BYTES = 255
"""The limit of common file systems for one name."""
MAX_FULL_NAME_BYTES = 1024
"""The most bytes of a long name in its own annotation."""
NAMELESS = "file"
"""The name of a file whose own name has no usable character (1.0 does the same)."""
REPLACEMENT = "_"

_MAX_EXTENSION_BYTES = 32
"""A longer ending is not an extension, and is cut with the rest."""
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
"""Most paths: they are safe on every system, and a check of each character takes 10 us."""


def wire_filename(name: str) -> tuple[str, str | None]:
    """Return `name` for the wire, and the full name if it had to be shortened, else None.

    The first is at most 237 bytes of UTF-8: a 1.0 receiver adds 18, and a name above 255 bytes
    stops its whole inbox. NUL and characters without a UTF-8 form are replaced. The second is cut
    at `MAX_FULL_NAME_BYTES`.
    """
    name = _unicode(name).replace("\0", REPLACEMENT)
    short = shorten(name, MAX_FILENAME_BYTES)
    return short, None if short == name else shorten(name, MAX_FULL_NAME_BYTES)


def safe_path(path: str) -> str:
    """Return the path in the receiver's folder for an entry of a tar of files."""
    if len(path) <= MAX_DISK_NAME_BYTES and _PLAIN.fullmatch(path):
        return path
    first, *rest = path.split("/")
    return "/".join([safe_filename(first), *map(safe_component, rest)])


def safe_filename(name: str, *, windows: bool = os.name == "nt") -> str:
    """Return a safe name for a file that its sender calls `name`.

    It is the last component of the path. Control, bidi and other invisible characters,
    backslashes, and on Windows its reserved ones, are replaced; spaces around it and dots after it
    are removed; a leading dot gets `_` before it; a device name of Windows is changed. The result
    has 1 to 255 bytes.
    """
    name = safe_component(name.rstrip("/").rpartition("/")[2], windows=windows)
    return _fit(REPLACEMENT + name) if name.startswith(".") else name


def safe_component(name: str, *, windows: bool = os.name == "nt") -> str:
    """Return `name` as one component of a path, as `safe_filename`, but with leading dots."""
    characters = (
        REPLACEMENT if _is_unsafe(character, windows=windows) else character
        for character in _unicode(name)
    )
    name = "".join(characters).strip().rstrip(". ")
    if _RESERVED.fullmatch(name):
        name = REPLACEMENT + name
    return _fit(name) or NAMELESS


def shorten(name: str, limit_bytes: int) -> str:
    """Return `name` cut to at most `limit_bytes` of UTF-8; a short extension stays."""
    if len(name.encode("utf-8")) <= limit_bytes:
        return name
    stem, dot, extension = name.rpartition(".")
    ending = dot + extension
    if not stem or len(ending.encode("utf-8")) > min(_MAX_EXTENSION_BYTES, limit_bytes - 1):
        stem, ending = name, ""
    room = limit_bytes - len(ending.encode("utf-8"))
    return stem.encode("utf-8")[:room].decode("utf-8", "ignore") + ending


def numbered(name: str, number: int, *, folder: bool = False) -> str:
    """Return the `number`-th alternative for `name`; a file keeps its extension."""
    if number == 1:
        return name
    stem, dot, ending = ("", "", "") if folder else name.rpartition(".")
    if not stem:
        stem, dot, ending = name, "", ""
    tail = f" ({number}){dot}{ending}"
    return shorten(stem, MAX_DISK_NAME_BYTES - len(tail.encode("utf-8"))) + tail


def collision_key(path: str) -> str:
    """Return a key that is equal for paths that are the same on some file system."""
    folded = unicodedata.normalize("NFC", path).casefold()
    return unicodedata.normalize("NFC", folded)


def _fit(name: str) -> str:
    return shorten(name, MAX_DISK_NAME_BYTES).rstrip(". ")


def _is_unsafe(character: str, *, windows: bool) -> bool:
    """Return whether a character is invisible, reorders text or separates paths."""
    if character in "/\\" or (windows and character in _WINDOWS_CHARACTERS):
        return True
    return character not in _JOINERS and unicodedata.category(character) in {
        "Cc", "Cf", "Cs", "Zl", "Zp",
    }  # fmt: skip


def _unicode(name: str) -> str:
    """Return `name` with characters replaced that have no UTF-8 form (undecodable bytes)."""
    return name.encode("utf-8", "replace").decode("utf-8")

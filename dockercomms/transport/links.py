"""Where a symbolic link in a tree leads, worked out on names alone.

Both sides ask it: the sender before it packs a link, the receiver before it makes one. Nothing
on disk is looked at, so nothing on disk can change the answer.

Source: SPEC.md section 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import dropwhile

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

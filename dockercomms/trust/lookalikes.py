"""Names that look like other names: which ones are not trusted on first use.

A person reads a name; the policy compares bytes. A new name is pinned by itself only if nobody can
take it for a name that is known already. What cannot be judged without the tables of Unicode is
left to `trust add`. Why there is no table here: spec/decisions/018-names-that-look-alike.md.

Source: UTS 39 (Unicode security mechanisms), section 4; UAX 15 (NFKC).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

_SAME_SHAPE = str.maketrans("i1|0", "lllo")
"""Of the ASCII letters, folded: UTS 39's confusables, and the i that a capital I becomes."""

_FIRST_PRINTABLE, _LAST_PRINTABLE = " ", "~"


def reason_not_to_pin(name: str, *, known: Iterable[str]) -> str | None:
    """Return why `name` is not trusted on first use, None if it may be.

    Args:
        name: As a message says it.
        known: Our own names, and those of the policy.
    """
    if name != name.strip() or not name:
        return "it is empty, or begins or ends with space"
    if unicodedata.normalize("NFKC", name) != name:
        return "it is written with compatibility characters (not in NFKC)"
    for character in name:
        if not _is_plain(character):
            code = f"U+{ord(character):04X}"
            return f"it has {code}, which may look like another character or like nothing"
    shape = _shape(name)
    for other in known:
        if other != name and _may_be_taken(shape, _shape(other)):
            return f"it looks like {other!r:.100}"
    return None


def _is_plain(character: str) -> bool:
    """Return whether a character is printable ASCII, or a letter of it with accents."""
    decomposed = unicodedata.normalize("NFD", character)
    base, marks = decomposed[0], decomposed[1:]
    if marks:
        return base.isalpha() and base.isascii() and all(map(unicodedata.combining, marks))
    return _FIRST_PRINTABLE <= base <= _LAST_PRINTABLE


def _shape(name: str) -> str:
    """Return what names that a person may confuse have in common."""
    folded = unicodedata.normalize("NFD", unicodedata.normalize("NFKC", name).casefold())
    bare = "".join(one for one in folded if not unicodedata.combining(one))
    return " ".join(bare.translate(_SAME_SHAPE).replace("rn", "m").replace("vv", "w").split())


def _may_be_taken(shape: str, known: str) -> bool:
    """Return whether `shape` looks like `known`, of which what is not plain may be 0 to 2 letters.

    All ways to read it are followed at once: a pattern would try them one after another, and a
    stranger chooses the name.
    """
    ends = {0}
    for one in known:
        if _FIRST_PRINTABLE <= one <= _LAST_PRINTABLE:
            ends = {end + 1 for end in ends if shape[end : end + 1] == one}
        else:
            ends = {end + more for end in ends for more in (0, 1, 2) if end + more <= len(shape)}
    return len(shape) in ends

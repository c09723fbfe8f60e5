"""Putting a manifest whose blobs the registry denies, although they were there a moment ago.

They were collected meanwhile, or somebody else writes the same blob this moment: distribution 2.8
and 3.1 deny it while they do (measured).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from dockercomms.errors import ManifestBlobUnknown, NotFoundError, RegistryError

T = TypeVar("T")

_MISSING_STATUSES = frozenset({400, 404})
"""How registries refuse a manifest whose blobs they do not have (measured: 400 on most)."""


def lacks_blobs(error: RegistryError) -> bool:
    """Return whether a manifest may have been refused for blobs that are not there."""
    return error.status in _MISSING_STATUSES or isinstance(
        error, ManifestBlobUnknown | NotFoundError
    )


def put_or_repair(put: Callable[[], T], repair: Callable[[], object]) -> T:
    """Return what `put` does; where it lacks blobs, once more after `repair` has brought them back.

    Raises:
        RegistryError: refused for something else, or again. As `put` and `repair`.
    """
    try:
        return put()
    except RegistryError as error:
        if not lacks_blobs(error):
            raise
        repair()
        return put()

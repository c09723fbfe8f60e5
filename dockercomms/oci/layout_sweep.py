"""Removing from a layout what nothing in it refers to any more.

A registry has its own garbage collection; a folder has only its users. What is younger than a day
stays: somebody may be about to refer to it, and a send that was interrupted is continued for so
long. Whoever finds an old blob there and refers to it a moment later gets the store's "unknown
blob", as at a registry, and sends it again.

Source: image-spec v1.1.1, image-layout.md.
"""

from __future__ import annotations

from dockercomms.errors import BlobUnknown, NameUnknown
from dockercomms.oci.layout import LayoutRegistry
from dockercomms.records import dataclass

SWEEP_SECONDS = 24 * 3600.0
"""How old content has to be: an interrupted send is continued for a day."""


@dataclass(frozen=True, slots=True)
class Swept:
    """What was removed."""

    blobs: int = 0
    bytes: int = 0


def sweep_layout(layout: LayoutRegistry, *, older_than_seconds: float = SWEEP_SECONDS) -> Swept:
    """Remove the content that no manifest of the layout refers to; nothing from a missing layout.

    Args:
        layout: The layout, or an archive. Other writers wait meanwhile.
        older_than_seconds: What is younger stays.

    Raises:
        IntegrityError, ProtocolError: a manifest is damaged, so that nobody knows what it needs;
            nothing was removed.
        LocalIOError: it cannot be read or written.
    """
    try:
        layout.needed()  # read and remembered, before anybody has to wait
    except NameUnknown:
        return Swept()
    blobs = size = 0
    with layout.files.exclusive():
        needed = layout.needed()
        for digest, age in layout.files.contents():
            if digest in needed or age <= older_than_seconds:
                continue
            try:
                size += layout.files.blob_size(digest)
            except BlobUnknown:
                continue
            layout.files.remove_blob(digest)
            blobs += 1
    return Swept(blobs, size)

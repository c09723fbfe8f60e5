"""Making sure that content is somewhere: look up, ensure, copy, push images and indexes.

The parts: `oci.location` (where), `oci.ensure` (one object), `oci.trees` (what a copy has to move)
and `oci.copying` (moving it). All of them take any store: a registry, a layout, memory, and any two
of those.
"""

from __future__ import annotations

from dockercomms.oci.copying import (
    CONCURRENCY,
    copy_manifest,
    ensure_manifest,
    push_image,
    push_index,
)
from dockercomms.oci.ensure import copy_blob, ensure_blob, fetch_bytes, lookup
from dockercomms.oci.location import Location
from dockercomms.oci.trees import MAX_TREE_MANIFESTS, Sources

__all__ = [
    "CONCURRENCY",
    "MAX_TREE_MANIFESTS",
    "Location",
    "Sources",
    "copy_blob",
    "copy_manifest",
    "ensure_blob",
    "ensure_manifest",
    "fetch_bytes",
    "lookup",
    "push_image",
    "push_index",
]

"""Images and indexes: which entry runs here, what is in it, and an index where there is none.

The parts: `oci.selection` (index to manifest), `oci.inspection` (look at it) and `oci.synthesis`
(make an index). All of them take any `Reader`: a registry, a layout, memory.
"""

from __future__ import annotations

from dockercomms.oci.inspection import (
    Image,
    ImageConfig,
    Inspection,
    Layer,
    get_image,
    inspect,
    parse_image_config,
)
from dockercomms.oci.model import Platform
from dockercomms.oci.selection import (
    MAX_INDEX_DEPTH,
    Fallback,
    ManifestContent,
    ResolvedManifest,
    get_content,
    get_reference,
    is_attestation,
    resolve_content,
    resolve_manifest,
    select,
)
from dockercomms.oci.synthesis import ANNOTATION_BASHBREW_ARCH, bashbrew_arch, synthesize_index

__all__ = [
    "ANNOTATION_BASHBREW_ARCH",
    "MAX_INDEX_DEPTH",
    "Fallback",
    "Image",
    "ImageConfig",
    "Inspection",
    "Layer",
    "ManifestContent",
    "Platform",
    "ResolvedManifest",
    "bashbrew_arch",
    "get_content",
    "get_image",
    "get_reference",
    "inspect",
    "is_attestation",
    "parse_image_config",
    "resolve_content",
    "resolve_manifest",
    "select",
    "synthesize_index",
]

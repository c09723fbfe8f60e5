"""The names of operating systems, architectures and variants, as image indexes use them.

They are Go's names (GOOS, GOARCH); people, kernels and other tools write `x86_64`, `aarch64` or
`armhf`. Sources: image-spec v1.1.1, image-index.md, "Image Index Property Descriptions" (the table
of variants); Go's `go tool dist list`.
"""

from __future__ import annotations

import platform
import re

from dockercomms.errors import UsageError

Names = tuple[str, str, str]
"""Operating system, architecture and variant; the variant may be empty."""

_SYSTEMS = {"macos": "darwin"}
_ARCHITECTURES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "i386": ("386", ""),
    "i486": ("386", ""),
    "i586": ("386", ""),
    "i686": ("386", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv5tel": ("arm", "v5"),
    "armv6l": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "armv8l": ("arm", "v7"),  # 32 bits on a 64-bit processor: indexes have v7 for it
    "loongarch64": ("loong64", ""),
    "mips64el": ("mips64le", ""),
    "mipsel": ("mipsle", ""),
}
"""What kernels and people call them: architecture and the variant that the name implies."""

_DEFAULT_VARIANTS = {"arm": "v7", "arm64": "v8"}
"""What an entry without a variant is."""

_BASELINES = {("amd64", "v1")}
"""Variants that are the architecture itself, and are not written."""

_BARE_VARIANT = re.compile(r"[0-9]+")
_PART = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MIN_PARTS = 2
_MAX_PARTS = 3


def split_names(text: str) -> Names:
    """Return the names in `os/architecture[/variant]`; what is not written stays empty.

    Raises:
        UsageError: not two or three parts of letters, digits, `_`, `.` and `-`.
    """
    parts = text.split("/")
    if not _MIN_PARTS <= len(parts) <= _MAX_PARTS or not all(map(_PART.fullmatch, parts)):
        raise UsageError(
            f"not a platform: {text!r:.200}", hint="write os/architecture, such as linux/arm64"
        )
    return canonical_names(parts[0], parts[1], parts[2] if len(parts) == _MAX_PARTS else "")


def canonical_names(os: str, architecture: str, variant: str) -> Names:
    """Return the names as indexes write them, without filling a variant in."""
    os, architecture, variant = os.lower(), architecture.lower(), variant.lower()
    architecture, implied = _ARCHITECTURES.get(architecture, (architecture, ""))
    variant = (variant or implied).removesuffix(".0")
    if architecture in _DEFAULT_VARIANTS and _BARE_VARIANT.fullmatch(variant):
        variant = f"v{variant}"
    if (architecture, variant) in _BASELINES:
        variant = ""
    return _SYSTEMS.get(os, os), architecture, variant


def normalize_names(os: str, architecture: str, variant: str) -> Names:
    """Return the names as indexes write them, with the variant that an unnamed one is."""
    os, architecture, variant = canonical_names(os, architecture, variant)
    return os, architecture, variant or _DEFAULT_VARIANTS.get(architecture, "")


def host_names() -> Names:
    """Return the names of this machine."""
    return normalize_names(platform.system(), platform.machine(), "")

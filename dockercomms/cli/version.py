"""`version`: what takes part, for a report of a defect."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import TYPE_CHECKING

from dockercomms.cli.options import verb

if TYPE_CHECKING:
    from dockercomms.cli.session import Session

SCHEMA = "dockercomms/version/v1"
PARTS = ("click", "cryptography", "oras", "rich", "sigstore", "zstandard", "isal")
"""Distributions whose version matters when something goes wrong; isal may be absent."""


@verb("version", example="dockercomms version --json")
def version_command(session: Session) -> None:
    """Print the versions of all that takes part.

    No package is imported and no configuration is read for it.
    """
    from dockercomms import __version__
    from dockercomms.protocol import PROTOCOL_VERSION

    parts = {name: _installed(name) for name in PARTS}
    record = {
        "schema": SCHEMA,
        "version": __version__,
        "protocol": PROTOCOL_VERSION,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": parts,
    }
    rows = [
        ("dockercomms", __version__),
        ("protocol", PROTOCOL_VERSION),
        ("python", platform.python_version()),
        ("platform", platform.platform()),
        *((name, version or "-") for name, version in parts.items()),
    ]
    session.screen_of(session.plain_style).details(record, rows)


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None

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

    And how old the public Sigstore's root is. No package is imported and no configuration is read.
    """
    from dockercomms import __version__
    from dockercomms.cli.trust import public_root
    from dockercomms.protocol import PROTOCOL_VERSION, format_time

    parts = {name: _installed(name) for name in PARTS}
    age, root = public_root(session)
    record = {
        "schema": SCHEMA,
        "version": __version__,
        "protocol": PROTOCOL_VERSION,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": parts,
        "sigstore_root": None
        if root is None
        else {
            "updated_at": None if root.updated is None else format_time(root.updated),
            "newest_key_at": format_time(root.newest),
        },
    }
    rows = [
        ("dockercomms", __version__),
        ("protocol", PROTOCOL_VERSION),
        ("python", platform.python_version()),
        ("platform", platform.platform()),
        *((name, version or "-") for name, version in parts.items()),
        ("root", age),
    ]
    session.screen_of(session.plain_style).details(record, rows)


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None

"""Credential programs for tests: small shell scripts on a PATH of their own.

Each appends the host that it was asked for to the file `asked` in its folder.
"""

from __future__ import annotations

import shlex
from pathlib import Path

_SCRIPT = """#!/bin/sh
read -r server || :
echo "$0 $1 $server" >> {log}
{body}
"""


def install_program(folder: Path, suffix: str, body: str) -> Path:
    """Write `docker-credential-<suffix>`, which runs the shell lines `body`; returns its path."""
    path = folder / f"docker-credential-{suffix}"
    path.write_text(_SCRIPT.format(log=shlex.quote(str(folder / "asked")), body=body))
    path.chmod(0o755)
    return path


def answer(username: str, secret: str) -> str:
    """Return the shell line of a program that has this login."""
    text = f'{{"ServerURL":"x","Username":"{username}","Secret":"{secret}"}}'
    return f"printf '%s' {shlex.quote(text)}"


NOT_FOUND = "echo 'credentials not found in native keychain'; exit 1"
FAILS = "echo boom; exit 1"


def asked(folder: Path) -> list[tuple[str, str, str]]:
    """Return program, verb and server of each call so far."""
    log = folder / "asked"
    if not log.exists():
        return []
    lines = [line.split(" ", 2) for line in log.read_text().splitlines()]
    return [(Path(path).name.split("-", 2)[2], verb, server) for path, verb, server in lines]

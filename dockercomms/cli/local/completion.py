"""`completion` prints a shell's completion script; `version` prints the versions for a report."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import TYPE_CHECKING

import click

from dockercomms.cli.options import verb

if TYPE_CHECKING:
    from dockercomms.cli.session import Session

SCHEMA = "dockercomms/version/v1"
PARTS = ("click", "cryptography", "oras", "rich", "sigstore", "zstandard", "isal")
"""Distributions that a report of a defect names; isal may be absent."""


@verb("version", example="dockercomms version --json")
def version_command(session: Session) -> None:
    """Print the versions of dockercomms and its dependencies.

    Also prints the age of the public Sigstore's root. Reads no configuration.
    """
    from dockercomms import __version__
    from dockercomms.protocol.fields import format_time
    from dockercomms.protocol.header import PROTOCOL_VERSION

    parts = {name: _installed(name) for name in PARTS}
    age, root = session.public_root()
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


SHELLS = ("bash", "zsh", "fish")


@verb(
    "completion",
    example='eval "$(dockercomms completion bash)"\n'
    "dockercomms completion fish > ~/.config/fish/completions/dockercomms.fish",
)
@click.argument("shell", type=click.Choice(SHELLS))
def completion_command(session: Session, *, shell: str) -> None:
    """Print a shell completion script.

    Completion uses no network and reads no mailbox.
    """
    from click.shell_completion import get_completion_class

    from dockercomms.cli.program import COMPLETE_VARIABLE, PROGRAM_NAME, program

    cls = get_completion_class(shell)
    if cls is None:
        raise AssertionError(f"internal: no completion for {shell}")
    # `source()` would start a bash to ask for its version.
    maker = cls(program(), {}, PROGRAM_NAME, COMPLETE_VARIABLE)
    session.screen_of("text").data((maker.source_template % maker.source_vars()).strip("\n"))

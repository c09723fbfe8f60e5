"""`config`: the project files that may name the repository."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import click

from dockercomms.cli.options import VerbTable, verb
from dockercomms.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from dockercomms.cli.session import Session

VERBS: Mapping[str, tuple[str, str]] = MappingProxyType({
    "allow": ("local.config", "Allow a project file to set the repository."),
    "deny": ("local.config", "Stop a project file from setting the repository."),
})  # fmt: skip

config_command = VerbTable(
    name="config",
    verbs=VERBS,
    example="dockercomms config allow\ndockercomms config deny src/app/.dockercomms.toml",
    nested=True,
    help="Allow or deny project files that set the repository.",
    no_args_is_help=True,
)

_file = click.argument("file", required=False, metavar="[FILE]")


@verb("allow", example="dockercomms config allow")
@_file
def allow_command(session: Session, *, file: str | None) -> None:
    """Allow a project file to set the repository, as long as it does not change.

    FILE defaults to the .dockercomms.toml of this folder, or of one above it in the same checkout.
    Read FILE before you allow it: your messages go to the repository that it sets.
    """
    from dockercomms.cli.config import project_repo

    path = _path(session, file)
    data, repo = project_repo(path)
    if repo is None:
        raise UsageError(f"{path}: the file sets no repository, so there is nothing to allow")
    session.allowed_files.allow(path, data)
    session.screen_of("text").note(f"allowed {path}: repository {repo}")


@verb("deny", example="dockercomms config deny")
@_file
def deny_command(session: Session, *, file: str | None) -> None:
    """Stop a project file from setting the repository.

    FILE defaults to the same file as for 'config allow'.
    """
    path = _path(session, file)
    if not session.allowed_files.forget(path):
        raise NotFoundError(f"{path}: this file is not allowed", hint="there is nothing to do")
    session.screen_of("text").note(f"no longer allowed: {path}")


def _path(session: Session, file: str | None) -> Path:
    from dockercomms.cli.config import PROJECT_FILE, project_file
    from dockercomms.platforms.files import expand_home

    if file is not None:
        return session.folder / expand_home(file)
    found = project_file(session.folder, session.environ)
    if found is None:
        raise NotFoundError(
            f"{session.folder}: no {PROJECT_FILE} in this folder or above it in the same checkout",
            hint="give the FILE",
        )
    return found

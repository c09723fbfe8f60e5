"""`completion`: the script that makes a shell complete verbs and options."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dockercomms.cli.options import verb

if TYPE_CHECKING:
    from dockercomms.cli.session import Session

SHELLS = ("bash", "zsh", "fish")


@verb(
    "completion",
    example='eval "$(dockercomms completion bash)"\n'
    "dockercomms completion fish > ~/.config/fish/completions/dockercomms.fish",
)
@click.argument("shell", type=click.Choice(SHELLS))
def completion_command(session: Session, *, shell: str) -> None:
    """Print the completion script of a shell.

    Completing needs no network and reads no mailbox.
    """
    from click.shell_completion import get_completion_class

    from dockercomms.cli.program import COMPLETE_VARIABLE, PROGRAM_NAME, program

    cls = get_completion_class(shell)
    if cls is None:
        raise AssertionError(f"internal: no completion for {shell}")
    # Not `source()`: for bash it starts a bash to ask for its version.
    maker = cls(program(), {}, PROGRAM_NAME, COMPLETE_VARIABLE)
    session.screen_of("text").data((maker.source_template % maker.source_vars()).strip("\n"))

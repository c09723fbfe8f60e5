"""`reg ref`: references in their short and full form. Asks no registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dockercomms.cli.reg import reg_verb
from dockercomms.cli.render import to_json

if TYPE_CHECKING:
    from dockercomms.cli.session import Session

FORMS = ("parse", "short", "full")


@reg_verb(
    "ref", example="dockercomms reg ref full alpine:3.22\ndockercomms reg ref parse alpine --json"
)
@click.argument("form", type=click.Choice(FORMS))
@click.argument("text")
def ref_command(session: Session, *, form: str, text: str) -> None:
    """Take a reference apart, or write it short or full.

    By the rules of docker: without a host it is on docker.io (or --default-registry), and
    there in 'library' if it has no other folder. No registry is asked.
    """
    from dockercomms.cli.reg_records import record
    from dockercomms.oci.reference import DEFAULT_HOST, Reference

    host = session.settings.default_registry or DEFAULT_HOST
    found = Reference.parse(text, default_host=host)
    row = record(
        "ref",
        text=text,
        host=found.host,
        repository=found.repository,
        tag=found.tag,
        digest=found.digest,
        short=str(found),
        full=found.full(),
    )
    screen = session.screen
    if screen.is_json:
        screen.data(to_json(row))
    elif form == "parse":
        names = ("host", "repository", "tag", "digest", "short", "full")
        screen.details(row, [(name, str(row[name] or "")) for name in names])
    else:
        screen.row((str(row[form]),))

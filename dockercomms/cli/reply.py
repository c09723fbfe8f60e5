"""`reply`: an answer to a message, to its sender, in its conversation."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import click

from dockercomms.cli.options import (
    DURATION,
    NAME,
    form_option,
    index_option,
    option,
    packing_options,
    verb,
)
from dockercomms.cli.progress import meter_for
from dockercomms.cli.send import check_sources, report, source_of, wait_for_answers
from dockercomms.cli.trust_options import (
    identity_options,
    sign_options,
    trust_options,
    warn_unverified,
)

if TYPE_CHECKING:
    from dockercomms.cli.session import Session
    from dockercomms.transport.files import Links


@verb(
    "reply",
    example="dockercomms reply 1a2b3c4d signed.pdf --text 'see page 3'",
    no_args_is_help=True,
)
@click.argument("message", metavar="ID")
@click.argument("paths", nargs=-1, type=click.Path(readable=False), metavar="[PATH]...")
@option("--text", metavar="T", help="A note, beside the files or instead of them.")
@option("--title", metavar="T", help="[default: the message's, after 'Re: ']")
@option("--name", type=NAME, metavar="N", help="The file's name at the recipient's.")
@option("--ttl", "ttl_seconds", former=("--ttl-seconds",), type=DURATION, metavar="T",
        help="How long it can be received.  [default: 7d]")  # fmt: skip
@option("--wait", "wait_seconds", type=DURATION, metavar="T",
        help="Wait for the answer: exit 10 rejected, 11 none.")  # fmt: skip
@packing_options
@index_option()
@form_option()
@trust_options
@sign_options
@identity_options
def reply_command(
    session: Session,
    *,
    message: str,
    paths: tuple[str, ...],
    text: str | None,
    title: str | None,
    name: str | None,
    exclude: tuple[str, ...],
    links: Links,
    wait_seconds: int | None,
    no_verify: bool,
    offline: bool,
) -> int:
    """Answer a message: files or a note to its sender.

    ID is any unambiguous beginning of its id or digest. The answer carries the conversation that
    'inbox --threads' shows. It goes where the trust file says that the sender receives, else to
    the repository that the message is in.
    """
    from dockercomms.cli.trust_options import refuse_network
    from dockercomms.listing import answer_to

    warn_unverified(session, no_verify=no_verify)
    refuse_network(session, offline=offline)
    sources = tuple(map(source_of, paths))
    check_sources(session, sources, recipients=("",), text=text)
    chosen = session.settings
    with meter_for(session.screen, session.clock, "sending") as meter, ExitStack() as opened:
        box = opened.enter_context(session.mailbox(meter, verify=not no_verify))
        answer = answer_to(box.show(message))
        address = session.address_of(answer.to)
        if address is not None:
            box = opened.enter_context(
                session.mailbox(meter, address=address, verify=not no_verify)
            )
        sent = box.send(
            sources,
            to=answer.to,
            sender=answer.sender,
            title=answer.title if title is None else title,
            text=text,
            name=name,
            stdin=session.stdin,
            ttl_seconds=chosen.ttl_seconds,
            compress=chosen.compress,
            chunk_bytes=chosen.chunk_bytes,
            concurrency=chosen.concurrency,
            keep_mtime=chosen.keep_mtime,
            exclude=exclude,
            links=links,
            thread_id=answer.thread_id,
            in_reply_to=answer.in_reply_to,
        )
        meter.finish()
        report(session, sent, dry_run=False)
        if wait_seconds is not None:
            return wait_for_answers(session, [(box, sent)], wait_seconds)
        session.interrupts.release()
        return 0

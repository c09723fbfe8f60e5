"""`recv`: receive new messages, or the named ones."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from dockercomms.cli.failures import is_hang_up
from dockercomms.cli.mail.received import Tally, explain, message_name, place_of
from dockercomms.cli.options import (
    MAX_CONCURRENCY,
    SINCE,
    clock_option,
    discovery_option,
    index_option,
    option,
    verb,
)
from dockercomms.cli.progress import meter_for
from dockercomms.cli.render import human_bytes, shown_sender, visible
from dockercomms.cli.trust_options import (
    pin_option,
    refuse_network,
    sign_options,
    trust_options,
    warn_unverified,
)
from dockercomms.errors import (
    UsageError,
)

if TYPE_CHECKING:
    from datetime import datetime

    from dockercomms.cli.render import Listing, Screen
    from dockercomms.cli.session import Session
    from dockercomms.messages.receive import Received


@verb(
    "recv",
    example="dockercomms recv --out incoming\ndockercomms recv 1a2b3c4d --stdout | psql shop",
)
@click.argument("ids", nargs=-1, metavar="[ID]...")
@option("--out", type=click.Path(readable=False), metavar="DIR",
        help="Create the message folders in DIR.  [default: .]")  # fmt: skip
@option("--max", "limit", type=click.IntRange(1), metavar="N", help="Receive at most N messages.")
@option("--since", type=SINCE, metavar="T",
        help="Only messages since: 2d, a date, RFC 3339 time.")  # fmt: skip
@option("--all", "include_all", is_flag=True, help="Include messages delivered before or expired.")
@option("--redeliver", is_flag=True,
        help="Include messages received elsewhere.")  # fmt: skip
@option("--stdout", "to_stdout", is_flag=True, help="Write the content to standard output.")
@option("--flat", is_flag=True, default=None, help="Write into DIR, without a folder per message.")
@option("--overwrite", is_flag=True, help="With --flat: replace existing files.")
@option("--receipt/--no-receipt", former=("--write-receipt/--no-write-receipt",), default=None,
        help="Send a receipt.  [default: yes]")  # fmt: skip
@option("--concurrency", former=("--parallel",), type=click.IntRange(1, MAX_CONCURRENCY),
        metavar="N", help="Parallel downloads.  [default: 4]")  # fmt: skip
@option("--complete", is_flag=True, help="Check the whole inbox, not only recent messages.")
@option("--fail-empty", is_flag=True, help="Exit 12 if there are no new messages.")
@option("--strict", is_flag=True, help="Exit 2 if the policy holds a message.")
@discovery_option()
@clock_option()
@index_option()
@pin_option()
@trust_options
@sign_options
def recv_command(
    session: Session,
    *,
    ids: tuple[str, ...],
    limit: int | None,
    since: datetime | None,
    include_all: bool,
    redeliver: bool,
    to_stdout: bool,
    overwrite: bool,
    complete: bool,
    fail_empty: bool,
    strict: bool,
    no_verify: bool,
    accept_new: bool,
    offline: bool,
) -> int:
    """Receive new messages, or the messages named.

    ID is a unique prefix of an id or digest. Files are written to DIR/<8 digits of the id>/<name>.
    Piped, a line holds: id, status, from, bytes, path. Receipts are signed.
    """
    warn_unverified(session, no_verify=no_verify, accept_new=accept_new)
    refuse_network(session, offline=offline)
    sink = _sink(session) if to_stdout else None
    chosen = session.settings
    screen = session.screen if sink is None else session.screen_on(session.stderr)
    tally = Tally(asked=bool(ids))
    with (
        meter_for(screen, session.clock, "receiving") as meter,
        session.mailbox(meter, verify=not no_verify, accept_new=accept_new) as mailbox,
        screen.listing(()) as listing,
    ):
        for received in mailbox.receive(
            ids,
            out=Path(chosen.out),
            max=limit,
            since=since,
            all=include_all,
            stdout=sink,
            flat=chosen.flat,
            overwrite=overwrite,
            receipt=chosen.receipt,
            complete=complete,
            redeliver=redeliver,
            concurrency=chosen.concurrency,
        ):
            meter.finish()
            if received.error is not None and is_hang_up(received.error):
                raise received.error
            received = tally.add(received)
            _report(screen, listing, received)
            if ids or not tally.is_alike(received):
                explain(session, received)
        poll = mailbox.last_poll
        session.tell_poll(poll)
        session.tell_defects(mailbox)
        tally.failed += mailbox.defects
        if strict:
            tally.add_held_before(mailbox.held_before)
    for line in tally.alike_lines():
        screen.note(line)
    waiting = mailbox.waiting
    session.tell_waiting(waiting)
    nothing = "no messages received yet" if waiting else "no new messages"
    screen.note(str(tally) or f"{nothing} for {', '.join(session.names)}")
    return tally.exit_code(poll, fail_empty=fail_empty and not waiting, strict=strict)


def _sink(session: Session) -> BinaryIO:
    """Return standard output for bytes.

    Raises:
        UsageError: standard output is a terminal, and the bytes may control it.
    """
    if session.stdout.isatty():
        raise UsageError(
            "--stdout does not write to a terminal: the content may be binary",
            hint="dockercomms recv ID --stdout > FILE, or dockercomms recv ID --stdout | less",
        )
    return session.stdout.buffer


def _report(screen: Screen, listing: Listing, received: Received) -> None:
    from dockercomms.cli.records import received_record

    place = place_of(received.files)
    cells = (
        received.id,
        received.status,
        received.sender,
        str(received.bytes),
        place,
    )
    listing.add(received_record(received), cells)
    if screen.is_table and received.status == "received":
        where = f": {os.path.relpath(place)}" if place else ""
        size = human_bytes(received.bytes)
        sender = shown_sender(received.sender, received.signer)
        screen.data(visible(f"{message_name(received)} from {sender}{where} ({size})"))

"""`recv`: what is new in the inbox, or the messages named, onto this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from dockercomms.cli.failures import exit_code_of, exit_code_of_poll, exit_code_of_some, is_hang_up
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
from dockercomms.cli.render import SHORT_ID_CHARACTERS, count_of, human_bytes, shown_sender, visible
from dockercomms.cli.trust_options import (
    pin_option,
    refuse_network,
    sign_options,
    trust_options,
    warn_unverified,
)
from dockercomms.errors import (
    DockerCommsError,
    InternalError,
    NothingNewError,
    PartialError,
    UsageError,
    VerificationError,
)

if TYPE_CHECKING:
    from datetime import datetime

    from dockercomms.cli.render import Listing, Screen
    from dockercomms.cli.session import Session
    from dockercomms.inbox.poll import PollResult
    from dockercomms.messages.receive import Received


SHOWN_ALIKE = 5
"""So many messages that failed alike are named; data on standard output names all."""


@verb(
    "recv",
    example="dockercomms recv --out incoming\ndockercomms recv 1a2b3c4d --stdout | psql shop",
)
@click.argument("ids", nargs=-1, metavar="[ID]...")
@option("--out", type=click.Path(readable=False), metavar="DIR",
        help="Where the folders of the messages are made.  [default: .]")  # fmt: skip
@option("--max", "limit", type=click.IntRange(1), metavar="N", help="Receive at most N messages.")
@option("--since", type=SINCE, metavar="T",
        help="Only what was sent since: 2d ago, a date, or an RFC 3339 time.")  # fmt: skip
@option("--all", "include_all", is_flag=True, help="Also what was delivered before or expired.")
@option("--redeliver", is_flag=True,
        help="Also what another machine or a lost state received.")  # fmt: skip
@option("--stdout", "to_stdout", is_flag=True, help="Write the content to standard output.")
@option("--flat", is_flag=True, default=None, help="Leave out the folder of each message.")
@option("--overwrite", is_flag=True, help="With --flat: replace files that are there.")
@option("--receipt/--no-receipt", former=("--write-receipt/--no-write-receipt",), default=None,
        help="Tell the sender that it arrived.  [default: tell]")  # fmt: skip
@option("--concurrency", former=("--parallel",), type=click.IntRange(1, MAX_CONCURRENCY),
        metavar="N", help="Pieces received at once.  [default: 4]")  # fmt: skip
@option("--complete", is_flag=True, help="Look through the whole inbox, however old.")
@option("--fail-empty", is_flag=True, help="Exit 12 if there is nothing new.")
@option("--strict", is_flag=True, help="Exit 2 if the policy holds a message back.")
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
    """Receive what is new, or the messages named.

    ID is any unambiguous beginning of an id or digest. Files land in DIR/<8 digits of the
    id>/<name>. Piped, a line holds: id, status, from, bytes, path. Receipts are signed.
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
    nothing = "nothing received yet" if waiting else "no new messages"
    screen.note(str(tally) or f"{nothing} for {', '.join(session.names)}")
    return tally.exit_code(poll, fail_empty=fail_empty and not waiting, strict=strict)


class Tally:
    """What came of the messages, and the exit code it adds up to.

    Args:
        asked: Whether the messages were named. One that nobody asked for and that does not
            satisfy the policy has not failed: it is held back.
    """

    def __init__(self, *, asked: bool) -> None:
        self._asked = asked
        self.received = 0
        self.skipped = 0
        self.failed: list[DockerCommsError] = []
        self.withheld: list[DockerCommsError] = []
        self._alike: dict[tuple[str, str], list[str]] = {}

    def add(self, received: Received) -> Received:
        """Count one message; returns it as it counts: skipped, if it is held back."""
        error = received.error
        if received.status == "received":
            self.received += 1
            if isinstance(error, InternalError):  # at its receipt, or its command
                self.failed.append(error)
        elif received.status == "skipped":
            self.skipped += 1
        elif isinstance(error, VerificationError) and not self._asked:
            self.withheld.append(error)
            return replace(received, status="skipped")
        else:
            self.failed.append(error or DockerCommsError("no reason given"))
        return received

    def is_alike(self, received: Received) -> bool:
        """Return whether a message failed as one before it, whose error was told."""
        if received.error is None:
            return False
        names = self._alike.setdefault((received.status, received.error.kind), [])
        names.append(message_name(received))
        return len(names) > 1

    def alike_lines(self) -> Iterator[str]:
        """Yield a line for each kind of failure that several messages had: it was told once."""
        for (status, kind), (_, *others) in self._alike.items():
            if others:
                what = "failed" if status == "failed" else "are held"
                names = ", ".join(others[:SHOWN_ALIKE]) + ", ..." * (len(others) > SHOWN_ALIKE)
                yield f"{count_of(len(others), 'more message')} {what} alike ({kind}): {names}"

    def add_held_before(self, held: Sequence[Received]) -> None:
        """Count what is held back still, though it was reported by an earlier run."""
        self.withheld += [received.error for received in held if received.error is not None]

    def exit_code(self, poll: PollResult | None, *, fail_empty: bool, strict: bool) -> int:
        """Return the code: 0 if nothing failed, else that of the one class of all, else 7.

        A look that could not be made everywhere has failed as well.
        """
        if self.failed:
            others = self.received + self.skipped + len(self.withheld)
            return exit_code_of_some(self.failed, others=bool(others))
        if strict and self.withheld:
            return exit_code_of(self.withheld)
        if self.received:
            return PartialError.exit_code if exit_code_of_poll(poll) else 0
        return exit_code_of_poll(poll) or (NothingNewError.exit_code if fail_empty else 0)

    def __str__(self) -> str:
        """Return the counts in words, "" if there is nothing to count."""
        counts = (
            (self.received, "received"),
            (len(self.failed), "failed"),
            (self.skipped, "skipped"),
            (len(self.withheld), "held back by your policy ('dockercomms inbox --all' shows why)"),
        )
        return ", ".join(f"{number} {what}" for number, what in counts if number)


def _sink(session: Session) -> BinaryIO:
    """Return standard output for bytes.

    Raises:
        UsageError: it is a terminal, which would obey what a stranger wrote.
    """
    if session.stdout.isatty():
        raise UsageError(
            "--stdout does not write to a terminal: the content may be binary",
            hint="dockercomms recv ID --stdout > FILE, or dockercomms recv ID --stdout | less",
        )
    return session.stdout.buffer


def _report(screen: Screen, listing: Listing, received: Received) -> None:
    """Write one message's line of data."""
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


def place_of(files: Sequence[Path]) -> str:
    """Return where a message is: its file, or the folder that holds all its files."""
    if not files:
        return ""
    return os.path.commonpath([path.absolute() for path in files])


def explain(session: Session, received: Received) -> None:
    """Say what went wrong with a message, or why nothing happened to it."""
    name = message_name(received)
    error = received.error
    if received.status == "failed":
        sender = f" from {received.sender}" if received.sender else ""
        failure = error or DockerCommsError("no reason given")
        session.tell_failure(f"message {name}{sender}", failure)
    elif received.status == "received" and error is not None:
        session.screen.warn(f"message {name} is here, but its receipt has to wait: {error}")
    elif error is not None:
        session.tell_withheld(f"message {name} from {received.sender}", error)
    elif received.status == "skipped":
        session.screen.note(f"message {name} skipped: {received.reason}")


def message_name(received: Received) -> str:
    """Return what a message is called: the start of its id, or of its digest without one."""
    digest = (received.digest or "").partition(":")[2]
    return (received.id or digest)[:SHORT_ID_CHARACTERS] or "?"

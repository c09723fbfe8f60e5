"""`watch`: receive messages as they arrive, and run a command for each."""

from __future__ import annotations

import contextlib
import io
import os
import select
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, TextIO

import click

from dockercomms.cli.failures import is_hang_up
from dockercomms.cli.mail.received import Tally, explain, message_name, place_of
from dockercomms.cli.options import (
    DURATION,
    MAX_CONCURRENCY,
    clock_option,
    discovery_option,
    index_option,
    option,
    verb,
)
from dockercomms.cli.progress import Meter, meter_for
from dockercomms.cli.render import count_of, human_bytes, shown_sender, visible
from dockercomms.cli.trust_options import (
    pin_option,
    refuse_network,
    sign_options,
    trust_options,
    warn_unverified,
)

if TYPE_CHECKING:
    from dockercomms.cli.render import Listing, Screen
    from dockercomms.cli.session import Session
    from dockercomms.inbox.poll import PollResult
    from dockercomms.messages.watch import Ack, Watched

ACKS = ("always", "on-success", "never")


@verb(
    "watch",
    example="dockercomms watch --out incoming\n"
    "dockercomms watch --exec 'deploy --from {dir}' --exec-timeout 10m | tee -a log.jsonl",
)
@option("--interval", "interval_seconds", type=DURATION, metavar="T",
        help="Polling interval; longer while the inbox is idle.  [default: 30s]")  # fmt: skip
@option("--exec", "command", metavar="CMD",
        help="Run CMD for each message, without a shell; {dir} is its folder.")  # fmt: skip
@option("--exec-timeout", "timeout_seconds", type=DURATION, metavar="T",
        help="Stop CMD after this time.  [default: 1h]")  # fmt: skip
@option("--exec-env", "secrets", multiple=True, metavar="NAME",
        help="Pass variable NAME to CMD even if it holds a secret.")  # fmt: skip
@option("--ack", type=click.Choice(ACKS), default="always", metavar="WHEN",
        help="Send receipts: always, on-success, never.  [default: always]")  # fmt: skip
@option("--once", is_flag=True, help="Check once and exit, as recv does.")
@option("--redeliver", is_flag=True,
        help="Include messages received elsewhere.")  # fmt: skip
@option("--out", type=click.Path(readable=False), metavar="DIR",
        help="Create the message folders in DIR.  [default: .]")  # fmt: skip
@option("--concurrency", former=("--parallel",), type=click.IntRange(1, MAX_CONCURRENCY),
        metavar="N", help="Parallel downloads.  [default: 4]")  # fmt: skip
@discovery_option()
@clock_option()
@index_option()
@pin_option()
@trust_options
@sign_options
def watch_command(
    session: Session,
    *,
    interval_seconds: int | None,
    command: str | None,
    timeout_seconds: int | None,
    secrets: tuple[str, ...],
    ack: Ack,
    once: bool,
    redeliver: bool,
    no_verify: bool,
    accept_new: bool,
    offline: bool,
) -> int:
    """Receive messages as they arrive, and run a command for each.

    CMD finds its message in variables such as DOCKERCOMMS_MSG_ID, and gets no registry password.
    Exit code 0 accepts the message, any other rejects it. CMD runs at least once per message.
    SIGTERM ends the watch after the current message. Piped, each message is a line of JSON.
    """
    from dockercomms.messages.command import DEFAULT_TIMEOUT_SECONDS, parse_command
    from dockercomms.protocol.header import DEFAULT_INTERVAL_SECONDS

    warn_unverified(session, no_verify=no_verify, accept_new=accept_new)
    refuse_network(session, offline=offline)
    interval = interval_seconds or DEFAULT_INTERVAL_SECONDS
    run = None
    if command is not None:
        timeout = timeout_seconds or DEFAULT_TIMEOUT_SECONDS
        path = session.environ.get("PATH")
        run = parse_command(command, timeout_seconds=timeout, secrets=secrets, path=path)
    chosen, screen = session.settings, _screen(session)
    totals = Totals()
    meter = meter_for(screen, session.clock, "receiving") if screen.moves() else Meter()
    with (
        stopping() as stop,
        meter,
        session.mailbox(meter, verify=not no_verify, accept_new=accept_new) as mailbox,
        screen.listing(()) as listing,
    ):
        if not once:
            names = ", ".join(session.names)
            screen.note(f"watching {mailbox.repo} for {names} every {interval} s; stop with Ctrl-C")
        for watched in mailbox.watch(
            out=Path(chosen.out),
            interval_seconds=interval,
            command=run,
            ack=ack,
            once=once,
            stop=stop,
            flat=chosen.flat,
            redeliver=redeliver,
            concurrency=chosen.concurrency,
            output=descriptor_of(session.stderr),
            on_poll=PollTeller(session).tell,
        ):
            meter.finish()
            error = watched.received.error
            if error is not None and is_hang_up(error):
                raise error
            tally = totals.last if once else Tally(asked=False)
            _report(session, listing, watched, tally)
            totals.add(tally)
    if not once:
        screen.note(f"stopped; {totals}")
        return 0
    screen.note(str(totals.last) or f"no new messages for {', '.join(session.names)}")
    return totals.last.exit_code(mailbox.last_poll, fail_empty=False, strict=False)


class Totals:
    """The numbers of received and failed messages. It keeps no names: a watch may run for years."""

    def __init__(self) -> None:
        self.last = Tally(asked=False)
        """The tally of the last poll."""
        self._received = 0
        self._failed = 0

    def add(self, tally: Tally) -> None:
        """Add the tally of one message."""
        self._received += tally.received
        self._failed += len(tally.failed)

    def __str__(self) -> str:
        """Return the numbers as text."""
        failed = f", {self._failed} failed" if self._failed else ""
        return f"{count_of(self._received, 'message')} received{failed}"


class PollTeller:
    """Reports failures of polls; the same failure once, until it is over."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._told: object = None

    def tell(self, poll: PollResult) -> None:
        """Report the failures of a poll, if they differ from the last ones."""
        errors = tuple((way, type(error)) for way, error in poll.errors)
        found = (poll.repository_missing, poll.clocks_differ, errors)
        if found != self._told:
            self._told = found
            self._session.tell_poll(poll)


class SignalStop:
    """An event for signal handlers; it ends waits early.

    `threading.Event` takes a lock to be set, which the interrupted code may hold.
    """

    def __init__(self) -> None:
        self._set = False
        self._reads, self._writes = socket.socketpair()
        self._writes.setblocking(False)  # noqa: FBT003 - the standard library's own

    def set(self) -> None:
        """End current and later waits."""
        self._set = True
        with contextlib.suppress(OSError):  # full: an earlier byte ends the wait
            self._writes.send(b"!")

    def is_set(self) -> bool:
        """Return whether a signal arrived."""
        return self._set

    def wait(self, timeout: float) -> bool:
        """Wait `timeout` seconds, or until a signal arrives; return whether it did."""
        if not self._set:
            select.select([self._reads], [], [], timeout)
        return self._set

    def close(self) -> None:
        """Release its two sockets."""
        self._reads.close()
        self._writes.close()


@contextlib.contextmanager
def stopping() -> Iterator[SignalStop]:
    """Yield an event that SIGTERM and Ctrl-C set; the second signal interrupts at once."""
    stop = SignalStop()

    def ask(_number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    former = {}
    if threading.current_thread() is threading.main_thread():  # other threads cannot
        former = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
        stop.close()


def descriptor_of(stream: TextIO) -> int | None:
    """Return the descriptor of a stream, if it has one."""
    try:
        return stream.fileno()
    except (OSError, ValueError, io.UnsupportedOperation):
        return None


def _screen(session: Session) -> Screen:
    """Return the screen; for piped output, JSON lines unless the user chose a format."""
    screen = session.screen
    if "format" not in session.settings.origins and not session.stdout.isatty():
        screen.style = "jsonl"
    return screen


def _report(session: Session, listing: Listing, watched: Watched, tally: Tally) -> None:
    from dataclasses import replace

    from dockercomms.cli.records import watched_record

    received, refusal, screen = tally.add(watched.received), watched.error, session.screen
    watched = replace(watched, received=received)
    if refusal is not None:
        tally.received -= 1
        tally.failed.append(refusal)
    code = "" if watched.outcome is None else str(watched.outcome.exit_code)
    place = place_of(received.files)
    cells = (
        received.id,
        received.status,
        received.sender,
        str(received.bytes),
        place,
        code,
        watched.status or "",
    )
    listing.add(watched_record(watched), cells)
    if screen.is_table and received.status == "received":
        sender = shown_sender(received.sender, received.signer)
        told = f", {watched.status}" if watched.status else ""
        where = f": {os.path.relpath(place)}" if place else ""
        size = human_bytes(received.bytes)
        screen.data(visible(f"{message_name(received)} from {sender}{where} ({size}){told}"))
    explain(session, received)
    if refusal is not None:
        session.tell_failure(f"message {message_name(received)} from {received.sender}", refusal)

"""`inbox` and `show`: list messages without receiving them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dockercomms.cli.failures import exit_code_of_poll
from dockercomms.cli.options import SINCE, clock_option, discovery_option, option, verb
from dockercomms.cli.render import (
    SHORT_ID_CHARACTERS,
    count_of,
    human_bytes,
    human_time,
    shown_sender,
)
from dockercomms.cli.trust_options import refuse_network, trust_options, warn_unverified

if TYPE_CHECKING:
    from datetime import datetime

    from dockercomms.cli.session import Session
    from dockercomms.inbox.listing import InboxEntry

MAX_SHOWN_DEPTH = 8
"""The deepest indentation of replies."""

COLUMNS = ("ID", "FROM", "WHAT", "SIZE", "SENT", "STATE")


@verb("inbox", example="dockercomms inbox --since 2d\ndockercomms inbox --all --format jsonl")
@option("--since", type=SINCE, metavar="T",
        help="Only messages since: 2d, a date, RFC 3339 time.")  # fmt: skip
@option("--all", "include_all", is_flag=True,
        help="Include delivered, expired, held and refused messages.")  # fmt: skip
@option("--threads", "threads", is_flag=True, help="Group answers below their message.")
@discovery_option()
@clock_option()
@trust_options
def inbox_command(
    session: Session,
    *,
    since: datetime | None,
    include_all: bool,
    threads: bool,
    no_verify: bool,
    offline: bool,
) -> int:
    """List the messages sent to you.

    Piped, a line holds: id, state, from, file name, bytes, created, expires, title, reason, and
    the state of the signature; with --threads also the conversation and the message answered.
    """
    from dockercomms.cli.records import inbox_record, time_or_none
    from dockercomms.inbox.listing import by_thread

    warn_unverified(session, no_verify=no_verify)
    refuse_network(session, offline=offline)
    with (
        session.mailbox(verify=not no_verify) as mailbox,
        session.screen.listing(COLUMNS) as listing,
    ):
        entries = mailbox.inbox(since=since, all=include_all)
        session.tell_poll(mailbox.last_poll)
        for depth, entry in by_thread(entries) if threads else ((0, one) for one in entries):
            cells = (
                entry.id,
                entry.state,
                entry.sender,
                entry.filename,
                "" if entry.bytes is None else str(entry.bytes),
                time_or_none(entry.created_at) or "",
                time_or_none(entry.expires_at) or "",
                entry.title or "",
                entry.reason,
                entry.signature_status,
                *((entry.thread, entry.in_reply_to or "") if threads else ()),
            )
            listing.add(inbox_record(entry), cells, _row(entry, depth))
        session.tell_waiting(mailbox.waiting)
        for gap in mailbox.gaps:
            session.screen.warn(
                f"{gap.sender}: {count_of(gap.missing, 'message')} missing before "
                f"{gap.message[:SHORT_ID_CHARACTERS]}"
            )
        code = session.tell_defects(mailbox)
        if entries or code:
            return code
        session.screen.note(f"no messages for {', '.join(session.names)}")
        return exit_code_of_poll(mailbox.last_poll)


def _row(entry: InboxEntry, depth: int) -> tuple[str, ...]:
    indent = "  " * min(depth, MAX_SHOWN_DEPTH)
    return (
        entry.id[:SHORT_ID_CHARACTERS],
        shown_sender(entry.sender, entry.signer),
        indent + (f"{entry.title} ({entry.filename})" if entry.title else entry.filename),
        _size(entry),
        human_time(entry.created_at),
        _state(entry),
    )


def _size(entry: InboxEntry) -> str:
    return "-" if entry.bytes is None else human_bytes(entry.bytes)


def _state(entry: InboxEntry) -> str:
    words: list[str] = ["received elsewhere" if entry.state == "elsewhere" else entry.state]
    if entry.expired:
        words.append("expired")
    state = ", ".join(words)
    return f"{state}: {entry.reason}" if entry.reason else state


@verb("show", example="dockercomms show 1a2b3c4d")
@click.argument("message", metavar="ID")
@trust_options
def show_command(session: Session, *, message: str, no_verify: bool, offline: bool) -> None:
    """Show one message without receiving it.

    ID is a unique prefix of the message's id or digest.
    """
    from dockercomms.cli.records import show_record

    warn_unverified(session, no_verify=no_verify)
    refuse_network(session, offline=offline)
    with session.mailbox(verify=not no_verify) as mailbox:
        entry = mailbox.show(message)
    rows = [
        ("id", entry.id),
        ("digest", entry.digest or ""),
        ("from", shown_sender(entry.sender, entry.signer)),
        ("title", entry.title or ""),
        ("file", entry.filename),
        ("size", _size(entry)),
        ("sent", human_time(entry.created_at)),
        ("expires", human_time(entry.expires_at)),
        ("state", _state(entry)),
        *((("answers", entry.in_reply_to),) if entry.in_reply_to else ()),
        ("signature", " ".join(filter(None, (entry.signature_status, entry.signer)))),
        *(("note", line) for line in (entry.text or "").splitlines()),
    ]
    session.screen.details(show_record(entry), rows)

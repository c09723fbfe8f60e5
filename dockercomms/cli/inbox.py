"""`inbox` and `show`: what has been sent to me, without receiving it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dockercomms.cli.failures import exit_code_of_poll
from dockercomms.cli.options import SINCE, option, verb
from dockercomms.cli.render import SHORT_ID_CHARACTERS, human_bytes, human_time

if TYPE_CHECKING:
    from datetime import datetime

    from dockercomms.cli.session import Session
    from dockercomms.mailbox import InboxEntry

COLUMNS = ("ID", "FROM", "WHAT", "SIZE", "SENT", "STATE")


@verb("inbox", example="dockercomms inbox --since 2d\ndockercomms inbox --all --format jsonl")
@option("--since", type=SINCE, metavar="T",
        help="Only what was sent since: 2d ago, a date, or an RFC 3339 time.")  # fmt: skip
@option("--all", "include_all", is_flag=True,
        help="Also what is delivered, expired, held or refused.")  # fmt: skip
def inbox_command(session: Session, *, since: datetime | None, include_all: bool) -> int:
    """List what has been sent to you.

    Piped, a line holds: id, state, from, file name, bytes, created, expires, title, reason.
    """
    from dockercomms.cli.records import inbox_record, time_or_none

    with session.mailbox() as mailbox, session.screen.listing(COLUMNS) as listing:
        entries = mailbox.inbox(since=since, all=include_all)
        session.tell_poll(mailbox.last_poll)
        for entry in entries:
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
            )
            listing.add(inbox_record(entry), cells, _row(entry))
        if entries:
            return 0
        session.screen.note(f"no messages for {session.settings.me}")
        return exit_code_of_poll(mailbox.last_poll)


def _row(entry: InboxEntry) -> tuple[str, ...]:
    return (
        entry.id[:SHORT_ID_CHARACTERS],
        entry.sender,
        f"{entry.title} ({entry.filename})" if entry.title else entry.filename,
        _size(entry),
        human_time(entry.created_at),
        _state(entry),
    )


def _size(entry: InboxEntry) -> str:
    return "-" if entry.bytes is None else human_bytes(entry.bytes)


def _state(entry: InboxEntry) -> str:
    words: list[str] = [entry.state]
    if entry.expired:
        words.append("expired")
    state = ", ".join(words)
    return f"{state}: {entry.reason}" if entry.reason else state


@verb("show", example="dockercomms show 1a2b3c4d")
@click.argument("message", metavar="ID")
def show_command(session: Session, *, message: str) -> None:
    """Show one message without receiving it.

    ID is any unambiguous beginning of its id or digest.
    """
    from dockercomms.cli.records import show_record

    with session.mailbox() as mailbox:
        entry = mailbox.show(message)
    rows = [
        ("id", entry.id),
        ("digest", entry.digest or ""),
        ("from", entry.sender),
        ("title", entry.title or ""),
        ("file", entry.filename),
        ("size", _size(entry)),
        ("sent", human_time(entry.created_at)),
        ("expires", human_time(entry.expires_at)),
        ("state", _state(entry)),
        ("signature", " ".join(filter(None, (entry.signature_status, entry.signer)))),
        *(("note", line) for line in (entry.text or "").splitlines()),
    ]
    session.screen.details(show_record(entry), rows)

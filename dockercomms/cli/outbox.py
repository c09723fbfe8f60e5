"""`outbox`: what was sent from here, and what became of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dockercomms.cli.options import option, verb
from dockercomms.cli.render import SHORT_ID_CHARACTERS, count_of, human_bytes, human_time
from dockercomms.cli.trust_options import refuse_network, trust_options, warn_unverified

if TYPE_CHECKING:
    from dockercomms.cli.session import Session
    from dockercomms.outbox import OutboxEntry

COLUMNS = ("ID", "TO", "WHAT", "SIZE", "SENT", "STATE", "REASON")
FATES = ("accepted", "rejected", "silent", "expired")


@verb("outbox", example="dockercomms outbox\ndockercomms outbox --only silent --only rejected")
@option("--only", "fates", type=click.Choice(FATES), multiple=True,
        help="Only what came to this; may be given several times.")  # fmt: skip
@trust_options
def outbox_command(
    session: Session, *, fates: tuple[str, ...], no_verify: bool, offline: bool
) -> int:
    """List what you sent from here, and what became of it.

    accepted and rejected are what the recipient says, proven if the signature is valid; silent is
    what nobody answered so far, expired what nobody can receive any more. Piped, a line holds: id,
    state, to, file name, bytes, sent, expires, title, reason, and the state of the signature.
    """
    from dockercomms.cli.records import outbox_record
    from dockercomms.protocol import format_time

    warn_unverified(session, no_verify=no_verify)
    refuse_network(session, offline=offline)
    with (
        session.mailbox(verify=not no_verify) as mailbox,
        session.screen.listing(COLUMNS) as listing,
    ):
        found = [one for one in mailbox.outbox() if not fates or one.fate in fates]
        for entry in found:
            receipt = entry.receipt
            cells = (
                entry.id,
                entry.fate,
                entry.recipient,
                entry.filename,
                str(entry.bytes),
                format_time(entry.published_at),
                format_time(entry.expires_at),
                entry.title,
                "" if receipt is None else receipt.reason,
                "" if receipt is None else receipt.signature_status,
            )
            listing.add(outbox_record(entry), cells, _row(entry))
        if not found:
            session.screen.note(
                "nothing was sent from here" if not fates else "nothing of the kind"
            )
        for repo, number in mailbox.sent_elsewhere().items():
            session.screen.note(f"{count_of(number, 'message')} more: --repo {repo}")
        return session.tell_defects(mailbox)


def _row(entry: OutboxEntry) -> tuple[str, ...]:
    claimed = ""
    if entry.receipt is not None and not entry.proven:
        said = "" if entry.fate == entry.receipt.status else f"{entry.receipt.status} "
        claimed = f" ({said}claimed)"
    return (
        entry.id[:SHORT_ID_CHARACTERS],
        entry.recipient,
        f"{entry.title} ({entry.filename})" if entry.title else entry.filename,
        human_bytes(entry.bytes),
        human_time(entry.published_at),
        f"{entry.fate}{claimed}",
        "" if entry.receipt is None else entry.receipt.reason,
    )

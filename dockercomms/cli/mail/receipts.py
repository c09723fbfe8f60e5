"""`ack` and `receipts`: publish and list receipts. `outbox`: list sent messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dockercomms.cli.options import index_option, option, verb
from dockercomms.cli.render import (
    SHORT_ID_CHARACTERS,
    count_of,
    human_bytes,
    human_time,
    shown_sender,
)
from dockercomms.cli.trust_options import (
    identity_options,
    refuse_network,
    sign_options,
    trust_options,
    warn_unverified,
)

if TYPE_CHECKING:
    from typing import Literal

    from dockercomms.cli.session import Session
    from dockercomms.messages.outbox import OutboxEntry
    from dockercomms.messages.receipts_list import ReceiptEntry

OUTBOX_COLUMNS = ("ID", "TO", "WHAT", "SIZE", "SENT", "STATE", "REASON")
FATES = ("accepted", "rejected", "silent", "expired")
SHOWN_FATES = {"silent": "no answer yet"}
"""States that a person reads in other words than `--only` and JSON have."""


@verb("outbox", example="dockercomms outbox\ndockercomms outbox --only silent --only rejected")
@option("--only", "fates", type=click.Choice(FATES), multiple=True,
        help="Show only messages in this state (repeatable).")  # fmt: skip
@trust_options
def outbox_command(
    session: Session, *, fates: tuple[str, ...], no_verify: bool, offline: bool
) -> int:
    """List the messages sent from this machine, and their state.

    accepted and rejected come from the recipient's receipt, proven if its signature is valid.
    silent: no answer yet. expired: the message can no longer be received. Piped, a line holds: id,
    state, to, file name, bytes, sent, expires, title, reason, and the state of the signature.
    """
    from dockercomms.cli.records import outbox_record
    from dockercomms.protocol.fields import format_time

    warn_unverified(session, no_verify=no_verify)
    refuse_network(session, offline=offline)
    with (
        session.mailbox(verify=not no_verify) as mailbox,
        session.screen.listing(OUTBOX_COLUMNS) as listing,
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
            listing.add(outbox_record(entry), cells, _outbox_row(entry))
        if not found:
            session.screen.note(
                "no messages sent from this machine" if not fates else "no messages in this state"
            )
        for repo, number in mailbox.sent_elsewhere().items():
            session.screen.note(
                f"{count_of(number, 'message')} sent to another repository: --repo {repo}"
            )
        return session.tell_defects(mailbox)


def _outbox_row(entry: OutboxEntry) -> tuple[str, ...]:
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
        f"{SHOWN_FATES.get(entry.fate, entry.fate)}{claimed}",
        "" if entry.receipt is None else entry.receipt.reason,
    )


COLUMNS = ("MESSAGE", "FROM", "STATUS", "WHEN", "REASON", "SIGNATURE")


@verb("ack", example="dockercomms ack 1a2b3c4d --status rejected --reason 'checksum of page 3'")
@click.argument("message", metavar="ID")
@option("--status", type=click.Choice(["accepted", "rejected"]), required=True,
        help="Status to report to the sender.")  # fmt: skip
@option("--reason", default="", metavar="T", help="Reason, which the sender reads.")
@index_option()
@sign_options
@identity_options
def ack_command(
    session: Session, *, message: str, status: Literal["accepted", "rejected"], reason: str
) -> None:
    """Accept or reject a message you received.

    ID is a unique prefix of the message's id or digest.
    """
    from dockercomms.cli.records import acknowledged_record

    with session.mailbox() as mailbox:
        entry = mailbox.show(message)
        receipt = mailbox.acknowledge(entry.digest or message, status, reason=reason)
    record = acknowledged_record(entry, receipt, status, reason)
    rows = [("message", entry.id), ("status", status), ("receipt", receipt)]
    session.screen.details(record, rows)


@verb("receipts", example="dockercomms receipts --me alice\ndockercomms receipts 1a2b3c4d")
@click.argument("message", metavar="[ID]", required=False)
@trust_options
def receipts_command(
    session: Session, *, message: str | None, no_verify: bool, offline: bool
) -> int:
    """List the receipts for the messages you sent.

    ID is a unique prefix of a message's id or digest. Rely on a receipt only if its signature is
    valid. Piped, a line holds: message id, from, status, time, reason, receipt's digest, message's
    digest, and the state of the signature.
    """
    from dockercomms.cli.records import receipt_record, time_or_none

    warn_unverified(session, no_verify=no_verify)
    refuse_network(session, offline=offline)
    with (
        session.mailbox(verify=not no_verify) as mailbox,
        session.screen.listing(COLUMNS) as listing,
    ):
        receipts = mailbox.receipts(message)
        for receipt in receipts:
            cells = (
                receipt.id,
                receipt.sender,
                receipt.status,
                time_or_none(receipt.created_at) or "",
                receipt.reason,
                receipt.digest,
                receipt.message,
                receipt.signature_status,
            )
            listing.add(receipt_record(receipt), cells, _row(receipt))
        if not receipts:
            session.screen.note("no receipts yet")
        return session.tell_defects(mailbox)


def _row(receipt: ReceiptEntry) -> tuple[str, ...]:
    return (
        receipt.id[:SHORT_ID_CHARACTERS],
        shown_sender(receipt.sender, receipt.signer),
        receipt.status if receipt.signature_status == "valid" else f"{receipt.status} (claimed)",
        human_time(receipt.created_at),
        receipt.reason,
        receipt.signature_status,
    )

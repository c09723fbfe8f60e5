"""`ack` and `receipts`: saying what became of a message, and hearing it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dockercomms.cli.options import index_option, option, verb
from dockercomms.cli.render import SHORT_ID_CHARACTERS, human_time, shown_sender
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
    from dockercomms.receipts import ReceiptEntry

COLUMNS = ("MESSAGE", "FROM", "STATUS", "WHEN", "REASON", "SIGNATURE")


@verb("ack", example="dockercomms ack 1a2b3c4d --status rejected --reason 'checksum of page 3'")
@click.argument("message", metavar="ID")
@option("--status", type=click.Choice(["accepted", "rejected"]), required=True,
        help="What became of it.")  # fmt: skip
@option("--reason", default="", metavar="T", help="Why; the sender reads it.")
@index_option()
@sign_options
@identity_options
def ack_command(
    session: Session, *, message: str, status: Literal["accepted", "rejected"], reason: str
) -> None:
    """Accept or reject a message you received.

    ID is any unambiguous beginning of its id or digest.
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
    """List what became of the messages you sent.

    ID is any unambiguous beginning of a message's id or digest. A receipt proves something if its
    signature is valid. Piped, a line holds: message id, from, status, time, reason, receipt's
    digest, message's digest, and the state of the signature.
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

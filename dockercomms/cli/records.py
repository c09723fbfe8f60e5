"""The JSON objects that the verbs print, one function for each: `spec/schema` describes them.

Their keys are a promise: other programs parse them. A key may be added within `/v1`, none is
renamed or removed.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from dockercomms.protocol import format_time

if TYPE_CHECKING:
    from dockercomms.errors import DockerCommsError
    from dockercomms.mailbox import InboxEntry
    from dockercomms.receipts import ReceiptEntry
    from dockercomms.receiving import Received
    from dockercomms.sending import Sent

Record = Mapping[str, object]


def time_or_none(moment: datetime | None) -> str | None:
    """Return `moment` as it stands on the wire, None for None."""
    return None if moment is None else format_time(moment)


def sent_record(sent: Sent) -> Record:
    """Return the object of `send`."""
    by = sent.signed
    signed = None if by is None else {"kind": by.kind, "signer": by.signer}
    return {
        "schema": "dockercomms/send/v1",
        "id": sent.id,
        "digest": sent.digest,
        "repo": sent.repo,
        "tag": sent.tag,
        "to": sent.recipient,
        "from": sent.sender,
        "bytes": sent.total_bytes,
        "chunks": sent.chunks,
        "reused_chunks": sent.reused_chunks,
        "sealed": sent.sealed,
        "signed": signed,
        "expires_at": format_time(sent.expires_at),
    }


def inbox_record(entry: InboxEntry) -> Record:
    """Return an object of `inbox`."""
    return {
        "schema": "dockercomms/inbox/v1",
        "id": entry.id,
        "digest": entry.digest,
        "tag": entry.tag,
        "from": entry.sender,
        "title": entry.title,
        "filename": entry.filename,
        "bytes": entry.bytes,
        "created_at": time_or_none(entry.created_at),
        "expires_at": time_or_none(entry.expires_at),
        "state": entry.state,
        "expired": entry.expired,
        "reason": entry.reason,
        "signature": {"status": entry.signature_status, "signer": entry.signer},
    }


def show_record(entry: InboxEntry) -> Record:
    """Return the object of `show`: that of `inbox` and the note."""
    return {**inbox_record(entry), "schema": "dockercomms/show/v1", "text": entry.text}


def received_record(received: Received) -> Record:
    """Return an object of `recv`."""
    return {
        "schema": "dockercomms/recv/v1",
        "id": received.id,
        "digest": received.digest,
        "status": received.status,
        "from": received.sender,
        "signer": received.signer,
        "files": [str(path.absolute()) for path in received.files],
        "bytes": received.bytes,
        "receipt": received.receipt,
        "error": None if received.error is None else error_record(received.error),
    }


def error_record(error: DockerCommsError) -> Record:
    """Return what a message that failed says under `error`."""
    return {"exit_code": error.exit_code, "kind": error.kind, "message": error.message}


def acknowledged_record(entry: InboxEntry, receipt: str, status: str, reason: str) -> Record:
    """Return the object of `ack`."""
    return {
        "schema": "dockercomms/ack/v1",
        "digest": receipt,
        "message": entry.digest,
        "id": entry.id,
        "status": status,
        "reason": reason,
    }


def receipt_record(receipt: ReceiptEntry) -> Record:
    """Return an object of `receipts`."""
    return {
        "schema": "dockercomms/receipts/v1",
        "digest": receipt.digest,
        "message": receipt.message,
        "id": receipt.id,
        "from": receipt.sender,
        "status": receipt.status,
        "claimed_verified": receipt.claimed_verified,
        "reason": receipt.reason,
        "created_at": time_or_none(receipt.created_at),
        "signature": {"status": receipt.signature_status, "signer": receipt.signer},
    }

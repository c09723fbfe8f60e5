"""The JSON objects that the verbs print, one function for each.

Other programs parse them, so their keys are stable: within `/v1` a key may be added, but not
renamed or removed. Source: `spec/schema`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from dockercomms.protocol.fields import format_time

if TYPE_CHECKING:
    from dockercomms.errors import DockerCommsError
    from dockercomms.inbox.listing import InboxEntry
    from dockercomms.messages.draft import Sent
    from dockercomms.messages.outbox import OutboxEntry
    from dockercomms.messages.receipts_list import ReceiptEntry
    from dockercomms.messages.receive import Received
    from dockercomms.messages.sign import Signature, Verification
    from dockercomms.messages.watch import Watched
    from dockercomms.relay.carry import Relayed
    from dockercomms.relay.gc import Collected
    from dockercomms.trust.keys import StoredKey
    from dockercomms.trust.policy import Sender

Record = Mapping[str, object]


def time_or_none(moment: datetime | None) -> str | None:
    """Return `moment` in the format of the protocol, if there is one."""
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
        "sent_before": sent.sent_before,
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
        "to": entry.recipient,
        "thread": entry.thread,
        "in_reply_to": entry.in_reply_to,
        "missing_before": entry.missing_before,
    }


def outbox_record(entry: OutboxEntry) -> Record:
    """Return an object of `outbox`."""
    receipt = entry.receipt
    return {
        "schema": "dockercomms/outbox/v1",
        "id": entry.id,
        "digest": entry.digest,
        "repo": entry.repo,
        "tag": entry.tag,
        "to": entry.recipient,
        "from": entry.sender,
        "title": entry.title or None,
        "filename": entry.filename,
        "bytes": entry.bytes,
        "thread": entry.thread,
        "sent_at": format_time(entry.published_at),
        "expires_at": format_time(entry.expires_at),
        "state": entry.fate,
        "reason": "" if receipt is None else receipt.reason,
        "receipt": None if receipt is None else receipt.digest,
        "answered_at": None if receipt is None else time_or_none(receipt.created_at),
        "signature": None
        if receipt is None
        else {"status": receipt.signature_status, "signer": receipt.signer},
    }


def show_record(entry: InboxEntry) -> Record:
    """Return the object of `show`: that of `inbox`, and the note."""
    return {**inbox_record(entry), "schema": "dockercomms/show/v1", "text": entry.text}


def received_record(received: Received) -> Record:
    """Return an object of `recv`."""
    wait = None
    if received.status == "received" and received.error is not None:
        next_try = time_or_none(received.receipt_next_try)
        wait = {"reason": received.error.message, "next_try": next_try}
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
        "receipt_wait": wait,
        "error": None if received.error is None else error_record(received.error),
    }


def watched_record(watched: Watched) -> Record:
    """Return an object of `watch`: that of `recv`, and the command's result."""
    received, outcome = watched.received, watched.outcome
    command = None
    if outcome is not None:
        command = {
            "exit_code": outcome.exit_code,
            "timed_out": outcome.timed_out,
            "seconds": round(outcome.seconds, 3),
            "reason": outcome.reason,
        }
    return {
        **received_record(received),
        "schema": "dockercomms/watch/v1",
        "to": received.recipient,
        "command": command,
        "told": watched.status,
    }


def error_record(error: DockerCommsError) -> Record:
    """Return the value of `error` for a failed message."""
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


def relayed_record(done: Relayed, verb: str) -> Record:
    """Return an object of `relay`, `export` or `import`; `verb` says which."""
    return {
        "schema": f"dockercomms/{verb}/v1",
        "kind": done.kind,
        "status": done.status,
        "digest": done.digest,
        "id": done.id,
        "from": done.sender,
        "to": done.recipient,
        "tag": done.tag,
        "bytes": done.bytes,
        "error": None if done.error is None else error_record(done.error),
    }


def collected_record(done: Collected) -> Record:
    """Return an object of `gc`."""
    return {
        "schema": "dockercomms/gc/v1",
        "kind": done.kind,
        "status": done.status,
        "digest": done.digest,
        "tag": done.tag,
        "id": done.id,
        "from": done.sender,
        "to": done.recipient,
        "expired_at": time_or_none(done.expired_at),
        "error": None if done.error is None else error_record(done.error),
    }


def verification_record(found: Verification) -> Record:
    """Return the object of `verify`."""
    by = found.verified
    return {
        "schema": "dockercomms/verify/v1",
        "what": found.what,
        "digest": found.digest,
        "id": found.id,
        "to": found.recipient,
        "signer": by.name,
        "kind": by.kind,
        "key_or_identity": by.signer,
        "issuer": by.issuer,
        "signed_at": time_or_none(by.signed_at),
        "own": by.own,
        "approval": by.approval,
    }


def signature_record(done: Signature, file: str | None) -> Record:
    """Return the object of `sign`."""
    return {
        "schema": "dockercomms/sign/v1",
        "subject": done.subject,
        "signed": {"kind": done.signed_by.kind, "signer": done.signed_by.signer},
        "attached": done.attached,
        "file": file,
    }


def key_record(key: StoredKey) -> Record:
    """Return an object of `keys`."""
    return {
        "schema": "dockercomms/keys/v1",
        "name": key.name,
        "file": str(key.path),
        "algorithm": key.public.algorithm,
        "spki_sha256": key.public.spki_sha256,
        "private": key.private,
        "encrypted": key.encrypted,
    }


def sender_record(sender: Sender) -> Record:
    """Return an object of `trust`."""
    return {
        "schema": "dockercomms/trust/v1",
        "name": sender.name,
        "keys": [
            {
                "algorithm": item.key.algorithm,
                "spki_sha256": item.key.spki_sha256,
                "valid_after": time_or_none(item.valid_after),
                "valid_before": time_or_none(item.valid_before),
            }
            for item in sender.keys
        ],
        "identities": [
            {"identity": item.identity, "issuer": item.issuer, "root": item.root}
            for item in sender.identities
        ],
        "kinds": list(sender.kinds),
        "recipients": list(sender.recipients),
        "repositories": list(sender.repositories),
        "address": sender.address,
        "allow_unsigned": sender.allow_unsigned,
    }

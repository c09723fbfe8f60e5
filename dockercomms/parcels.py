"""What is carried in one piece, and what becomes of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from dockercomms.errors import DockerCommsError
from dockercomms.inventory import Attached
from dockercomms.manifest import Message, Receipt
from dockercomms.oci.model import Digest
from dockercomms.records import dataclass

RelayedKind = Literal["message", "bundle", "receipt"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Relayed:
    """One object that was put at the target, or could not be."""

    kind: RelayedKind
    status: Literal["relayed", "failed"]
    digest: Digest | None = None
    """None where nothing could be read."""
    id: str = ""
    """Of the message that it is, or is about."""
    sender: str = ""
    """Of that message."""
    recipient: str = ""
    """Of that message."""
    tag: str | None = None
    """Its tag at the target; at the source where it failed."""
    bytes: int = 0
    """Of a message's payload."""
    error: DockerCommsError | None = None


@dataclass(slots=True)
class Totals:
    """What a relay came to so far."""

    messages: int = 0
    bundles: int = 0
    """Bundles of messages that were there before."""
    receipts: int = 0
    present: int = 0
    """Messages that were there already."""
    expired: int = 0
    """Messages and receipts that `gc` would remove, and that are left where they are."""
    failed: int = 0
    blobs: int = 0
    """Blobs whose bytes were moved."""
    blob_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Parcel:
    """What is carried in one piece: a message with what is about it, or what came later."""

    digest: Digest
    """Of the message."""
    tag: str | None
    """At the source."""
    attached: tuple[Attached, ...] = ()
    message: Message | None = None
    """None: the target has it."""
    data: bytes = b""

    def manifests(self) -> Iterator[bytes]:
        """Yield all manifests."""
        if self.message is not None:
            yield self.data
        yield from (item.data for item in self.attached)

    def bundles(self) -> list[Attached]:
        """Return the bundles."""
        return [item for item in self.attached if not isinstance(item.what, Receipt)]

    def receipts(self) -> list[tuple[Receipt, bytes]]:
        """Return the receipts with their manifests."""
        found = ((item.what, item.data) for item in self.attached)
        return [(what, data) for what, data in found if isinstance(what, Receipt)]

    def failed(self, error: DockerCommsError) -> Iterator[Relayed]:
        """Yield what to say when it could not be carried."""
        if self.message is not None:
            yield message_relayed(self.message, tag=self.tag, error=error)
            return
        for item in self.attached:
            if isinstance(item.what, Receipt):
                yield receipt_relayed(item.what, tag=self.tag, error=error)
            else:
                yield Relayed(kind="bundle", status="failed", digest=item.digest, error=error)


def receipt_relayed(
    receipt: Receipt, *, tag: str | None = None, error: DockerCommsError | None = None
) -> Relayed:
    """Return what became of a receipt; it failed if there is an `error`."""
    return Relayed(
        kind="receipt",
        status="relayed" if error is None else "failed",
        digest=receipt.descriptor.digest,
        id=receipt.message_id,
        sender=receipt.sender,
        recipient=receipt.recipient,
        tag=tag,
        error=error,
    )


def message_relayed(
    message: Message | None, *, tag: str | None, error: DockerCommsError | None = None
) -> Relayed:
    """Return what became of a message, None where it could not be read."""
    status: Literal["relayed", "failed"] = "relayed" if error is None else "failed"
    if message is None:
        return Relayed(kind="message", status=status, tag=tag, error=error)
    header = message.header
    return Relayed(
        kind="message",
        status=status,
        digest=message.digest,
        id=header.id,
        sender=header.sender,
        recipient=header.recipient,
        tag=tag,
        bytes=header.total_bytes,
        error=error,
    )

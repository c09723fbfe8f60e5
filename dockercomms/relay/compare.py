"""The tags of two repositories, compared to find the objects that the target lacks.

Tags are cheap to list, and suffice to skip objects that the target has. A tag is not proof of
the content under it: callers read the manifest before they rely on it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import field
from datetime import UTC, datetime, time

from dockercomms.errors import AuthError, Unsupported
from dockercomms.oci.model import Digest
from dockercomms.oci.stores import Store
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.manifest import Receipt
from dockercomms.protocol.tags import bell_tag, receipt_id, recipient_tag
from dockercomms.relay.inventory import HeldTag, list_tags, message_about

Key = tuple[str, str]
"""The recipient tag and the head of the digest; for a 1.0 message the whole tag instead."""


@dataclass(slots=True)
class TagsThere:
    """The objects that the tags of the target name."""

    listed: bool = True
    """False if the target refused to list its tags."""
    messages: dict[Key, str] = field(default_factory=dict)
    bundles: set[tuple[str, str]] = field(default_factory=set)
    """By the head of the message's digest and the head of the layer's digest."""
    receipts: set[tuple[str, str]] = field(default_factory=set)
    """By the head of the message's digest and the head of the rid."""
    bulk: set[tuple[str, str]] = field(default_factory=set)
    """By the message's sender and the rid."""

    @classmethod
    def at(cls, target: Store, rts: Sequence[str]) -> TagsThere:
        """Return the objects that the tags of `target` name.

        Args:
            target: The repository.
            rts: The recipient tags of the inboxes; empty: all.

        Raises:
            RegistryError, NetworkError, LimitError: the store does not list its tags.
        """
        found = cls()
        try:
            for prefix in (*_prefixes(rts), "bundle-", "receipt"):
                for tag in list_tags(target.registry, target.repository, prefix):
                    found.add(tag)
        except (AuthError, Unsupported):
            found.listed = False
        return found

    def add(self, tag: HeldTag) -> None:
        """Note a tag."""
        if tag.kind == "message" and tag.head is not None:
            self.messages[tag.rt, tag.head] = tag.name
        elif tag.kind == "bundle":
            self.bundles.add((tag.about, tag.tail))
        elif tag.kind == "receipt":
            self.receipts.add((tag.about, tag.tail))
        elif tag.kind == "receipts":
            self.bulk.add((tag.rt, tag.head or ""))

    def has(self, tag: HeldTag) -> bool:
        """Return whether a tag like `tag` names a receipt."""
        if not self.listed:
            return True
        if tag.kind == "receipts":
            return (tag.rt, tag.head or "") in self.bulk
        return (tag.about, tag.tail) in self.receipts

    def has_receipt(self, receipt: Receipt) -> bool:
        """Return whether both tags of `receipt` name one."""
        rid = receipt_id(receipt.message, receipt.recipient, receipt.status)
        in_bulk = (recipient_tag(receipt.sender), rid) in self.bulk
        alone = (message_about(receipt.message), rid[:6]) in self.receipts
        return not self.listed or (in_bulk and alone)


@dataclass(slots=True)
class TagsHere:
    """The source's tags of bundles and receipts."""

    bundles: dict[str, list[HeldTag]] = field(default_factory=dict)
    """By the head of the digest of the message that they are about."""
    receipts: dict[str, list[HeldTag]] = field(default_factory=dict)
    """By the head of the same digest."""
    bulk: list[HeldTag] = field(default_factory=list)
    """The receipts' tags for the senders of messages."""

    def about(self, message: Digest) -> list[str]:
        """Return the tags of the bundles and receipts that may be about a message."""
        head = message_about(message)
        return [tag.name for tag in (*self.bundles.get(head, ()), *self.receipts.get(head, ()))]

    @classmethod
    def at(cls, source: Store) -> TagsHere:
        """Return the tags of all bundles and receipts.

        Raises:
            AuthError, Unsupported: the registry does not allow us to list tags.
            RegistryError, NetworkError, LimitError: the store does not list its tags.
        """
        found = cls()
        for prefix in ("bundle-", "receipt"):
            for tag in list_tags(source.registry, source.repository, prefix):
                if tag.kind == "receipts":
                    found.bulk.append(tag)
                else:
                    group = found.bundles if tag.kind == "bundle" else found.receipts
                    group.setdefault(tag.about, []).append(tag)
        return found

    def receipt_tags(self, rts: Collection[str], heads: Collection[str] | None) -> list[HeldTag]:
        """Return the tags of the wanted receipts: one for each receipt, as far as tags show it.

        The two tags of a receipt have the same moment and the same head of the rid. A 1.0 program
        writes no tag for the message's sender.

        Args:
            rts: Recipient tags of the senders whose receipts are wanted.
            heads: Heads of messages whose receipts are wanted as well; None: all receipts.
        """
        bulk, about = self.bulk, self.receipts
        if heads is not None:
            bulk = [tag for tag in bulk if tag.rt in rts]
            about = {head: self.receipts.get(head, []) for head in heads}
        paired = {
            (int(tag.published.timestamp()), (tag.head or "")[:6])
            for tag in bulk
            if tag.published is not None
        }
        single = (tag for group in about.values() for tag in group)
        return [*bulk, *(tag for tag in single if (tag.seconds, tag.tail) not in paired)]


def message_tags(source: Store, rts: Sequence[str]) -> dict[Key, HeldTag]:
    """Return the source's messages by their tags, oldest first, each once.

    Args:
        source: The repository.
        rts: The recipient tags; empty: all.

    Raises:
        AuthError, Unsupported: the registry does not allow us to list tags.
        RegistryError, NetworkError, LimitError: the store does not list its tags.
    """
    found: dict[Key, HeldTag] = {}
    for prefix in _prefixes(rts):
        for tag in list_tags(source.registry, source.repository, prefix):
            if tag.kind == "message":
                found.setdefault((tag.rt, tag.head or tag.name), tag)
    return dict(sorted(found.items(), key=lambda item: _published(item[1])))


def _prefixes(rts: Sequence[str]) -> list[str]:
    return [f"{bell_tag(rt)}-" for rt in rts] or ["inbox-"]


def _published(tag: HeldTag) -> datetime:
    """Return the moment in a tag, for a 1.0 tag the start of its day, else the minimum."""
    if tag.published is not None:
        return tag.published
    if tag.day is not None:
        return datetime.combine(tag.day, time(0), tzinfo=UTC)
    return datetime.min.replace(tzinfo=UTC)

"""The tags of two repositories, compared to find the objects that the target lacks.

Tags are cheap to list, and suffice to skip objects that the target has. A tag is not proof of
the content under it: callers read the manifest before they rely on it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import field
from datetime import UTC, datetime, time

from dockercomms.errors import AuthError, Unsupported
from dockercomms.oci.model import Digest
from dockercomms.oci.stores import Store
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.manifest import Receipt
from dockercomms.protocol.tags import bell_tag, receipt_id, recipient_tag
from dockercomms.relay.inventory import HeldTag, Key, TagKind, list_tags, message_about


def bulk_key(receipt: Receipt) -> Key:
    """Return the key of the tags by which the message's sender finds a receipt or a like one."""
    rid = receipt_id(receipt.message, receipt.recipient, receipt.status)
    return "receipts", recipient_tag(receipt.sender), rid


@dataclass(frozen=True, slots=True)
class TagsThere:
    """The objects that the tags of the target name."""

    listed: bool = True
    """False if the target refused to list its tags."""
    names: dict[Key, str] = field(default_factory=dict, hash=False)

    @classmethod
    def at(cls, target: Store, rts: Sequence[str]) -> TagsThere:
        """Return the objects that the tags of `target` name.

        Args:
            target: The repository.
            rts: The recipient tags of the inboxes; empty: all.

        Raises:
            RegistryError, NetworkError, LimitError: the store does not list its tags.
        """
        try:
            found = _tags(target, (*_prefixes(rts), "bundle-", "receipt"))
            return cls(names={tag.key: tag.name for tag in found})
        except (AuthError, Unsupported):
            return cls(listed=False)

    def has(self, *keys: Key) -> bool:
        """Return whether tags name all these objects, or may name them."""
        return not self.listed or all(key in self.names for key in keys)

    def has_receipt(self, receipt: Receipt) -> bool:
        """Return whether both tags of `receipt` name one."""
        bulk = bulk_key(receipt)
        return self.has(bulk, ("receipt", message_about(receipt.message), bulk[2][:6]))


@dataclass(frozen=True, slots=True)
class AttachedTags:
    """The tags of all bundles and receipts of a repository."""

    about: dict[str, list[HeldTag]] = field(default_factory=dict, hash=False)
    """Bundles, then receipts, by the head of the digest of the message that they are about."""
    bulk: dict[Key, list[HeldTag]] = field(default_factory=dict, hash=False)
    """The receipts' tags for the senders of messages, by their key."""

    @classmethod
    def at(cls, store: Store) -> AttachedTags:
        """Return the tags of all bundles and receipts.

        Raises:
            AuthError, Unsupported: the registry does not allow us to list tags.
            RegistryError, NetworkError, LimitError: the store does not list its tags.
        """
        found = cls()
        for tag in _tags(store, ("bundle-", "receipt")):
            if tag.kind == "receipts":
                found.bulk.setdefault(tag.key, []).append(tag)
            else:
                found.about.setdefault(tag.about, []).append(tag)
        return found

    def of(self, message: Digest, kind: TagKind | None = None) -> list[HeldTag]:
        """Return the tags of one `kind`, or of all, that may be about a message."""
        tags = self.about.get(message_about(message), ())
        return [tag for tag in tags if kind in (None, tag.kind)]

    def receipt_tags(self, rts: Collection[str], heads: Collection[str] | None) -> list[HeldTag]:
        """Return the tags of the wanted receipts: one for each receipt, as far as tags show it.

        The two tags of a receipt have the same moment and the same head of the rid. A 1.0 program
        writes no tag for the message's sender.

        Args:
            rts: Recipient tags of the senders whose receipts are wanted.
            heads: Heads of messages whose receipts are wanted as well; None: all receipts.
        """
        bulk = [tag for tags in self.bulk.values() for tag in tags]
        about = self.about if heads is None else {head: self.about.get(head, []) for head in heads}
        if heads is not None:
            bulk = [tag for tag in bulk if tag.rt in rts]
        paired = {
            (int(tag.published.timestamp()), (tag.head or "")[:6])
            for tag in bulk
            if tag.published is not None
        }
        single = (tag for tags in about.values() for tag in tags if tag.kind == "receipt")
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
    for tag in _tags(source, _prefixes(rts)):
        if tag.kind == "message":
            found.setdefault(tag.key, tag)
    return dict(sorted(found.items(), key=lambda item: _published(item[1])))


def _tags(store: Store, prefixes: Sequence[str]) -> Iterator[HeldTag]:
    for prefix in prefixes:
        yield from list_tags(store.registry, store.repository, prefix)


def _prefixes(rts: Sequence[str]) -> list[str]:
    return [f"{bell_tag(rt)}-" for rt in rts] or ["inbox-"]


def _published(tag: HeldTag) -> datetime:
    """Return the moment in a tag, for a 1.0 tag the start of its day, else the minimum."""
    if tag.published is not None:
        return tag.published
    if tag.day is not None:
        return datetime.combine(tag.day, time(0), tzinfo=UTC)
    return datetime.min.replace(tzinfo=UTC)

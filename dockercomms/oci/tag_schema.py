"""The referrers tag schema, and pushes of manifests whose blobs the registry lost.

At registries without a referrers API, an index under the tag `sha256-<hex>` lists the referrers.
Clients read, change and write it without a lock: with 16 concurrent senders 83 to 97 % of the
entries were lost (measured). So this package never relies on it alone.

A registry may deny blobs that it had a moment ago: it collected them, or (distribution 2.8 and 3.1,
measured) another client is writing the same blob at this moment.
Source: distribution-spec v1.1.1, "Referrers Tag Schema".
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from dockercomms.errors import (
    ManifestBlobUnknown,
    ManifestUnknown,
    NameUnknown,
    NotFoundError,
    ProtocolError,
    RegistryError,
)
from dockercomms.oci.interface import Reader, Registry, read_all
from dockercomms.oci.model import (
    MAX_MANIFEST_BYTES,
    MEDIA_TYPE_INDEX,
    Descriptor,
    Digest,
    Index,
    Listed,
    parse_digest,
    parse_listed,
)
from dockercomms.oci.reference import referrers_tag
from dockercomms.oci.strict_json import canonical_json

T = TypeVar("T")

_MISSING_STATUSES = frozenset({400, 404})
"""The answers to a manifest whose blobs are missing (measured: 400 on most registries)."""


def lacks_blobs(error: RegistryError) -> bool:
    """Return whether missing blobs may be the reason that the registry refused a manifest."""
    return error.status in _MISSING_STATUSES or isinstance(
        error, ManifestBlobUnknown | NotFoundError
    )


def put_or_repair(put: Callable[[], T], repair: Callable[[], object]) -> T:
    """Return the result of `put`; if blobs are missing, call `repair` and repeat `put` once.

    Raises:
        RegistryError: another refusal, or a second one; also the errors of `put` and `repair`.
    """
    try:
        return put()
    except RegistryError as error:
        if not lacks_blobs(error):
            raise
        repair()
        return put()


_log = logging.getLogger("dockercomms.oci")

MAX_ENTRIES = 500
"""Entries up to which we extend the tag schema's index: each push writes all of it again."""


def tag_schema_entries(
    reader: Reader, repository: str, digest: Digest, *, limit: int = MAX_MANIFEST_BYTES
) -> tuple[Descriptor, ...]:
    """Return the entries of the tag schema's index for `digest`; () if there is no such tag.

    Leaves out entries that are no descriptors; the log counts them. GitLab takes the tag for the
    digest itself and returns the subject, which may be an index but is no list of its referrers.

    Args:
        reader: The store.
        repository: The repository's name.
        digest: The subject.
        limit: Largest index to read, in bytes.

    Raises:
        NameUnknown: no such repository.
        ProtocolError: the content under the tag is no index, or is too large.
    """
    data = _tag_schema_index(reader, repository, digest, limit)
    if data is None:
        return ()
    listed = _parsed(data, repository, digest)
    if listed.problem is not None:
        _log.warning("%s", listed.problem)
    return tuple(entry for entry, _ in listed.entries)


def _tag_schema_index(
    reader: Reader, repository: str, digest: Digest, limit: int = MAX_MANIFEST_BYTES
) -> bytes | None:
    try:
        data, found = read_all(reader.get_tag(repository, referrers_tag(digest)), limit)
    except ManifestUnknown:
        return None
    return None if found.digest == digest else data


def _parsed(data: bytes, repository: str, digest: Digest) -> Listed:
    return parse_listed(data, where=f"{repository}:{referrers_tag(digest)}")


def append_entry(
    registry: Registry,
    repository: str,
    subject: Digest,
    *entries: Descriptor,
    max_entries: int | None = MAX_ENTRIES,
) -> bool:
    """Add `entries` to the tag schema's index of `subject`; return whether it has them now.

    Sends one GET, and one PUT if entries are missing. If another client writes the index in
    between, its entries or these are lost. Entries of others stay as they are, readable or not.

    Returns:
        False if the index would have more than `max_entries`; then it is not written.

    Raises:
        ProtocolError: the content under the tag is no index; it stays as it is.
    """
    try:
        data = _tag_schema_index(registry, repository, subject)
    except NameUnknown:
        data = None
    if data is None:
        put_index(registry, repository, subject, entries)
        return True
    digests, unread = _listed_digests(data), 0
    if digests is None:
        listed = _parsed(data, repository, subject)
        data, unread = _written(listed, listed.entries), len(listed.unread)
        digests = {known.digest for known, _ in listed.entries}
    new = [entry for entry in entries if entry.digest not in digests]
    if not new:
        return True
    if max_entries is not None and len(digests) + unread + len(new) > max_entries:
        return False
    data = data.removesuffix(_END) + (b"" if data == _START + _END else b",")
    data += b",".join(canonical_json(entry.to_json()) for entry in new) + _END
    _push_index(registry, repository, subject, data)
    return True


def _written(listed: Listed, left: Iterable[tuple[Descriptor, object]]) -> bytes:
    """Return an index of ours with the entries `left` and the unreadable ones.

    Raises:
        ProtocolError: an unreadable entry cannot be written unchanged.
    """
    raw = [*(item for _, item in left), *listed.unread]
    for item in raw:
        if isinstance(item, ProtocolError):
            raise item
    return _START + b",".join(map(canonical_json, raw)) + _END


_START = Index(manifests=()).to_bytes().removesuffix(b"]}")
_END = b"]}"


def _is_ours(data: bytes) -> bool:
    """Return whether an index begins and ends as ours do, so that an entry can be inserted."""
    return data.startswith(_START) and data.endswith(_END)


def _listed_digests(data: bytes) -> set[Digest] | None:
    """Return the digests in an index; `None` if it is not exactly in our form.

    A sender extends an index of hundreds of entries with each message. Full parsing took most of
    its time (28 µs an entry, measured), and is not needed, because readers check the entries.
    """
    if not _is_ours(data):
        return None
    try:
        index = json.loads(data)
        if list(index) != ["schemaVersion", "mediaType", "manifests"]:
            return None
        return {parse_digest(entry["digest"]) for entry in index["manifests"]}
    except (ValueError, TypeError, KeyError, RecursionError, ProtocolError):
        return None  # `parse_listed` will report the error


def remove_entry(registry: Registry, repository: str, subject: Digest, digest: Digest) -> bool:
    """Remove the entry of `digest` from the tag schema's index of `subject`, if it is there.

    Removing the last entry deletes the index. As with `append_entry`, there is no lock.

    Returns:
        Whether the entry was there.

    Raises:
        ProtocolError: the content under the tag is no index; it stays as it is.
    """
    try:
        data = _tag_schema_index(registry, repository, subject)
    except NameUnknown:
        return False
    if data is None:
        return False
    listed = _parsed(data, repository, subject)
    left = tuple(item for item in listed.entries if item[0].digest != digest)
    if left == listed.entries:
        return False
    if left or listed.unread:
        _push_index(registry, repository, subject, _written(listed, left))
    else:
        index = registry.resolve_tag(repository, referrers_tag(subject))
        registry.delete_manifest(repository, index.digest)
    return True


def put_index(
    registry: Registry, repository: str, subject: Digest, entries: Sequence[Descriptor]
) -> None:
    """Write the tag schema's index of `subject` with exactly `entries`."""
    _push_index(registry, repository, subject, Index(manifests=tuple(entries)).to_bytes())


def _push_index(registry: Registry, repository: str, subject: Digest, data: bytes) -> None:
    registry.push_manifest(repository, data, MEDIA_TYPE_INDEX, tags=(referrers_tag(subject),))

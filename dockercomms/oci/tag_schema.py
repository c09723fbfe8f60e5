"""What refers to a manifest, where there is no referrers API: an index under a tag.

The index under `sha256-<hex>` is written by reading, changing and writing it, without any lock:
of 16 senders at once 83 to 97 % of the entries were lost (measured), so it is never the truth.

Source: distribution-spec v1.1.1, "Referrers Tag Schema".
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from dockercomms.errors import ManifestUnknown, NameUnknown, ProtocolError
from dockercomms.oci.interface import Reader, Registry, read_all
from dockercomms.oci.model import (
    MAX_MANIFEST_BYTES,
    MEDIA_TYPE_INDEX,
    Descriptor,
    Digest,
    Index,
    canonical_json,
    parse_digest,
    parse_index,
)
from dockercomms.oci.reference import referrers_tag

MAX_ENTRIES = 500
"""Entries up to which the tag schema's index is added to: each addition rewrites all of it."""


def tag_schema_entries(
    reader: Reader, repository: str, digest: Digest, *, limit: int = MAX_MANIFEST_BYTES
) -> tuple[Descriptor, ...]:
    """Return the entries of the tag schema's index for `digest`, none if there is no such tag.

    GitLab reads the tag as the digest itself: the subject, which may be an index, is no list of its
    referrers.

    Args:
        reader: The store.
        repository: The repository's name.
        digest: The subject.
        limit: Bytes of the index that are read at most.

    Raises:
        NameUnknown: no such repository.
        ProtocolError: what the tag points at is no index, or is too large.
    """
    data = _tag_schema_index(reader, repository, digest, limit)
    return () if data is None else _parsed(data, repository, digest)


def _tag_schema_index(
    reader: Reader, repository: str, digest: Digest, limit: int = MAX_MANIFEST_BYTES
) -> bytes | None:
    try:
        data, found = read_all(reader.get_tag(repository, referrers_tag(digest)), limit)
    except ManifestUnknown:
        return None
    return None if found.digest == digest else data


def _parsed(data: bytes, repository: str, digest: Digest) -> tuple[Descriptor, ...]:
    return parse_index(data, where=f"{repository}:{referrers_tag(digest)}").manifests


def append_entry(
    registry: Registry,
    repository: str,
    subject: Digest,
    entry: Descriptor,
    *,
    max_entries: int = MAX_ENTRIES,
) -> bool:
    """Add `entry` to the tag schema's index of `subject`; returns whether it is in there now.

    One GET and one PUT, none if it is there already. Somebody else's entry that is written in
    between is lost, and so may this one be.

    Returns:
        False if the index has `max_entries`, so that nothing was written.

    Raises:
        ProtocolError: what the tag points at is no index; it is left alone.
    """
    try:
        data = _tag_schema_index(registry, repository, subject)
    except NameUnknown:
        data = None
    if data is None:
        put_index(registry, repository, subject, (entry,))
        return True
    listed = _listed_digests(data)
    if listed is None:
        entries = _parsed(data, repository, subject)
        data = Index(manifests=entries).to_bytes()  # as we write it
        listed = {known.digest for known in entries}
    if entry.digest in listed:
        return True
    if len(listed) >= max_entries:
        return False
    comma = b"," if listed else b""
    data = data.removesuffix(_END) + comma + canonical_json(entry.to_json()) + _END
    _push_index(registry, repository, subject, data)
    return True


_START = Index(manifests=()).to_bytes().removesuffix(b"]}")
_END = b"]}"


def _is_ours(data: bytes) -> bool:
    """Return whether an index begins and ends as we write one, so that an entry can be put in."""
    return data.startswith(_START) and data.endswith(_END)


def _listed_digests(data: bytes) -> set[Digest] | None:
    """Return what an index lists, None if it is not of our making or not quite one.

    A sender adds to an index of hundreds with every message: checking each word of each entry took
    most of its time (28 µs an entry, measured), and proves nothing, since who reads it checks it.
    """
    if not _is_ours(data):
        return None
    try:
        index = json.loads(data)
        if list(index) != ["schemaVersion", "mediaType", "manifests"]:
            return None
        return {parse_digest(entry["digest"]) for entry in index["manifests"]}
    except (ValueError, TypeError, KeyError, RecursionError, ProtocolError):
        return None  # `parse_index` will say what is wrong


def remove_entry(registry: Registry, repository: str, subject: Digest, digest: Digest) -> bool:
    """Take the entry of `digest` out of the tag schema's index of `subject`, if it is in there.

    The last one takes the index with it. As with `append_entry`, there is no lock.

    Returns:
        Whether it was in there.

    Raises:
        ProtocolError: what the tag points at is no index; it is left alone.
    """
    try:
        entries = tag_schema_entries(registry, repository, subject)
    except NameUnknown:
        return False
    left = tuple(entry for entry in entries if entry.digest != digest)
    if left == entries:
        return False
    if left:
        put_index(registry, repository, subject, left)
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

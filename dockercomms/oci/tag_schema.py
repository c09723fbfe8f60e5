"""What refers to a manifest, where there is no referrers API: an index under a tag.

The index under `sha256-<hex>` is written by reading, changing and writing it, without any lock:
of 16 senders at once 83 to 97 % of the entries were lost (measured), so it is never the truth.

Source: distribution-spec v1.1.1, "Referrers Tag Schema".

Putting a manifest whose blobs the registry denies, although they were there a moment ago.

They were collected meanwhile, or somebody else writes the same blob this moment: distribution 2.8
and 3.1 deny it while they do (measured).
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
"""How registries refuse a manifest whose blobs they do not have (measured: 400 on most)."""


def lacks_blobs(error: RegistryError) -> bool:
    """Return whether a manifest may have been refused for blobs that are not there."""
    return error.status in _MISSING_STATUSES or isinstance(
        error, ManifestBlobUnknown | NotFoundError
    )


def put_or_repair(put: Callable[[], T], repair: Callable[[], object]) -> T:
    """Return what `put` does; where it lacks blobs, once more after `repair` has brought them back.

    Raises:
        RegistryError: refused for something else, or again. As `put` and `repair`.
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
"""Entries up to which the tag schema's index is added to: each addition rewrites all of it."""


def tag_schema_entries(
    reader: Reader, repository: str, digest: Digest, *, limit: int = MAX_MANIFEST_BYTES
) -> tuple[Descriptor, ...]:
    """Return the entries of the tag schema's index for `digest`, none if there is no such tag.

    Those that are no descriptors are left out, and counted in the log.

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
    """Add `entries` to the tag schema's index of `subject`; returns whether they are in there now.

    One GET and one PUT, none if they are there already. Somebody else's entry that is written in
    between is lost, and so may these be. Entries of others stay as they are, readable or not.

    Returns:
        False if the index would have more than `max_entries`, so that nothing was written.

    Raises:
        ProtocolError: what the tag points at is no index; it is left alone.
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
    """Return an index as we write it: with the entries `left`, and those that cannot be read.

    Raises:
        ProtocolError: one of those cannot be written as it is.
    """
    raw = [*(item for _, item in left), *listed.unread]
    for item in raw:
        if isinstance(item, ProtocolError):
            raise item
    return _START + b",".join(map(canonical_json, raw)) + _END


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
        return None  # `parse_listed` will say what is wrong


def remove_entry(registry: Registry, repository: str, subject: Digest, digest: Digest) -> bool:
    """Take the entry of `digest` out of the tag schema's index of `subject`, if it is in there.

    The last one takes the index with it. As with `append_entry`, there is no lock.

    Returns:
        Whether it was in there.

    Raises:
        ProtocolError: what the tag points at is no index; it is left alone.
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

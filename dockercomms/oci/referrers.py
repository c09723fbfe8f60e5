"""What refers to a manifest: the referrers API where there is one, else the tag schema.

The index under `sha256-<hex>` is written by reading, changing and writing it, without any lock:
of 16 senders at once 83 to 97 % of the entries were lost (measured), so it is never the truth.

Source: distribution-spec v1.1.1, "Listing Referrers", "Referrers Tag Schema".
"""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Iterator, Sequence
from urllib.parse import urlencode

from dockercomms.errors import (
    ManifestUnknown,
    NameUnknown,
    NotFoundError,
    ProtocolError,
    RegistryError,
    Unsupported,
)
from dockercomms.oci.exchange import Request, Sender, api_path, fetch, redact_url
from dockercomms.oci.headers import next_link
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
from dockercomms.oci.scope import Scope
from dockercomms.records import dataclass

MAX_PAGES = 1000
"""Pages of one listing; more is a server that goes round in circles."""

MAX_LIST_BYTES = 32 * 2**20
"""One page of a listing: zot sends 10,000 referrers in one answer of 6.6 MB (measured)."""

MAX_ENTRIES = 500
"""Entries up to which the tag schema's index is added to: each addition rewrites all of it."""

ZERO_DIGEST = Digest("sha256:" + "0" * 64)
"""A subject that nobody has: asking for its referrers asks for the API and nothing else."""

_BAD_REQUEST = 400


class ReferrersAPI:
    """The referrers API of one registry, and whether it has one. Safe for several threads."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._lock = threading.Lock()
        self._known: dict[str, bool] = {}

    def supported(self, repository: str) -> bool:
        """Return whether `repository` has the API; asks once, but again while it does not exist.

        A 404 means no only if it is not NAME_UNKNOWN, which registries with the API say of a
        repository that is not there yet (ggcr, ocimem).

        Raises:
            RegistryError, NetworkError: the answer decides nothing.
        """
        with self._lock:
            known = self._known.get(repository)
        if known is not None:
            return known
        try:
            return self._ask(repository, self._path(repository, ZERO_DIGEST)) is not None
        except NameUnknown:
            return True

    def entries(
        self, repository: str, digest: Digest, artifact_type: str | None = None
    ) -> Iterator[Descriptor] | None:
        """Return the entries of all pages, which the registry may or may not filter.

        Returns:
            None where there is no API. The first answer tells, so that nothing else is asked.

        Raises:
            NameUnknown: no such repository.
            ProtocolError: an answer that is no index, or pages without end.
        """
        with self._lock:
            if self._known.get(repository) is False:
                return None
        query = "" if artifact_type is None else "?" + urlencode({"artifactType": artifact_type})
        first = self._ask(repository, self._path(repository, digest) + query)
        return None if first is None else self._pages(repository, first)

    def _pages(self, repository: str, page: _Page) -> Iterator[Descriptor]:
        seen: set[str] = set()
        while True:
            yield from page.entries
            url = page.next_url
            if url is None:
                return
            if url in seen or len(seen) >= MAX_PAGES:
                raise ProtocolError(f"{redact_url(url)}: pages of referrers without end")
            seen.add(url)
            page = self._fetch(repository, self._sender.adopt(url))

    def _ask(self, repository: str, url: str) -> _Page | None:
        """Return the first page, None where there is no API; remembers which it was."""
        try:
            page = self._fetch(repository, url)
        except NameUnknown:
            raise
        except RegistryError as error:
            no = isinstance(error, NotFoundError | Unsupported) or error.status == _BAD_REQUEST
            if not no:
                raise
            if not isinstance(error, ManifestUnknown):  # that may be about the subject alone
                self._remember(repository, supported=False)
            return None
        self._remember(repository, supported=True)
        return page

    def _fetch(self, repository: str, url: str) -> _Page:
        request = Request(
            method="GET",
            url=url,
            scope=Scope.pull(repository),
            headers={"Accept": MEDIA_TYPE_INDEX},
        )
        response, data = fetch(self._sender, request, MAX_LIST_BYTES)
        where = redact_url(response.url)
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise Unsupported(f"GET {where}: a page for people", status=response.status)
        entries = parse_index(data, where=where).manifests
        return _Page(entries, next_link(response))

    def _remember(self, repository: str, *, supported: bool) -> None:
        with self._lock:
            self._known.setdefault(repository, supported)

    def _path(self, repository: str, digest: Digest) -> str:
        return api_path(repository, "referrers", parse_digest(digest))


@dataclass(frozen=True, slots=True)
class _Page:
    entries: tuple[Descriptor, ...]
    next_url: str | None


def tag_schema_entries(
    reader: Reader, repository: str, digest: Digest, *, limit: int = MAX_MANIFEST_BYTES
) -> tuple[Descriptor, ...]:
    """Return the entries of the tag schema's index for `digest`, none if there is no such tag.

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
        return read_all(reader.get_tag(repository, referrers_tag(digest)), limit)[0]
    except ManifestUnknown:
        return None


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
    listed: Collection[str] | None = _listed_digests(data)
    if listed is None:
        data = Index(manifests=_parsed(data, repository, subject)).to_bytes()  # as we write it
        listed = _listed_digests(data) or ()
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


def _listed_digests(data: bytes) -> set[str] | None:
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

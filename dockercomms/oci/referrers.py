"""What refers to a manifest, where a registry has the referrers API; `tag_schema` has the rest.

Source: distribution-spec v1.1.1, "Listing Referrers".
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
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
from dockercomms.oci.model import (
    MEDIA_TYPE_INDEX,
    Descriptor,
    Digest,
    parse_digest,
    parse_index,
)
from dockercomms.oci.scope import Scope
from dockercomms.records import dataclass

MAX_PAGES = 1000
"""Pages of one listing; more is a server that goes round in circles."""

MAX_LIST_BYTES = 32 * 2**20
"""One page of a listing: zot sends 10,000 referrers in one answer of 6.6 MB (measured)."""

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

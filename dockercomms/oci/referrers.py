"""What refers to a manifest, where a registry has the referrers API; `tag_schema` has the rest.

Source: distribution-spec v1.1.1, "Listing Referrers".
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from urllib.parse import urlencode

from dockercomms.errors import (
    BadAnswer,
    DockerCommsError,
    ManifestUnknown,
    NameUnknown,
    NetworkError,
    NotFoundError,
    ProtocolError,
    RegistryError,
    UnreadableEntries,
    Unsupported,
)
from dockercomms.oci.exchange import Request, Sender, api_path, bad_answers, fetch, redact_url
from dockercomms.oci.headers import next_link
from dockercomms.oci.model import (
    MEDIA_TYPE_INDEX,
    Descriptor,
    Digest,
    parse_digest,
    parse_json,
    parse_listed,
)
from dockercomms.oci.retry import RetryPolicy
from dockercomms.oci.scope import Scope
from dockercomms.records import dataclass

MAX_PAGES = 1000
"""Pages of one listing; more is a server that goes round in circles."""

MAX_LIST_BYTES = 32 * 2**20
"""One page of a listing: zot sends 10,000 referrers in one answer of 6.6 MB (measured)."""

ABSENT_SECONDS = 86_400.0
"""How long a registry counts as one without the API: registries are upgraded, and failures pass."""

MAX_LIST_VALUES = 1_000_000
"""Values in one page: ten million empty lists fit into 32 MiB, and take 800 MiB when parsed."""

ZERO_DIGEST = Digest("sha256:" + "0" * 64)
"""A subject that nobody has: asking for its referrers asks for the API and nothing else."""

_BAD_REQUEST = 400


class ReferrersAPI:
    """The referrers API of one registry, and whether it has one. Safe for several threads."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._lock = threading.Lock()
        self._known: dict[str, tuple[bool, float]] = {}

    def supported(self, repository: str) -> bool:
        """Return whether `repository` has the API; asks once, but again while it does not exist.

        Any answer that is no index says no: registries without the API redirect to a web page
        (GHCR), refuse, or fail. Only a 404 with NAME_UNKNOWN decides nothing: registries with the
        API say it of a repository that is not there yet (ggcr, ocimem).

        Source: distribution-spec v1.1.1, "Unavailable Referrers API"; SPEC.md 7.2.
        """
        known = self._known_of(repository)
        if known is not None:
            return known
        try:
            return self._first(repository, self._path(repository, ZERO_DIGEST)) is not None
        except (NameUnknown, ProtocolError):  # the second: an index that breaks a rule
            return True

    def entries(
        self, repository: str, digest: Digest, artifact_type: str | None = None
    ) -> Iterator[Descriptor] | None:
        """Return the entries of all pages, which the registry may or may not filter.

        Returns:
            None where there is no API, or it says that there is no such repository. The first
            answer tells, so that nothing else is asked.

        Raises:
            BadAnswer: an index that breaks the rules, or pages without end.
            UnreadableEntries: behind the last entry, if some are no descriptors.
            NetworkError, RegistryError: the API has answered before, and does not now.
        """
        if self._known_of(repository) is False:
            return None
        query = "" if artifact_type is None else "?" + urlencode({"artifactType": artifact_type})
        try:
            first = self._first(repository, self._path(repository, digest) + query)
        except NameUnknown:
            return None
        return None if first is None else self._pages(repository, first)

    def _pages(self, repository: str, page: _Page) -> Iterator[Descriptor]:
        seen: set[str] = set()
        problems: list[UnreadableEntries] = []
        while True:
            yield from page.entries
            if page.problem is not None:
                problems.append(page.problem)
            url = page.next_url
            if url is None:
                if problems:
                    others = f" (and on {len(problems) - 1} more pages)" if problems[1:] else ""
                    raise UnreadableEntries(f"{problems[0]}{others}")
                return
            if url in seen or len(seen) >= MAX_PAGES:
                raise BadAnswer(f"{redact_url(url)}: pages of referrers without end")
            seen.add(url)
            page = self._fetch(repository, self._sender.adopt(url))

    def _first(self, repository: str, url: str) -> _Page | None:
        """Return the first page, None where there is no API; remembers which it was.

        As long as the API has not shown itself, each question is asked once: a registry without it
        may answer 503 or 429 for ever.
        """
        known = self._known_of(repository)
        retry = None if known else self._sender.retry.for_probes()
        try:
            page = self._fetch(repository, url, retry)
        except NameUnknown:
            raise
        except (RegistryError, NetworkError) as error:
            if self._known_of(repository) and not _is_no(error):
                raise
            if not isinstance(error, ManifestUnknown):  # that may be about the subject alone
                self._remember(repository, supported=False)
            return None
        self._remember(repository, supported=True)
        return page

    def _fetch(self, repository: str, url: str, retry: RetryPolicy | None = None) -> _Page:
        request = Request(
            method="GET",
            url=url,
            scope=Scope.pull(repository),
            headers={"Accept": MEDIA_TYPE_INDEX},
            retry=retry,
            redirects=True,
        )
        response, data = fetch(self._sender, request, MAX_LIST_BYTES)
        where = redact_url(response.url)
        check_values(data, where)
        try:
            with bad_answers(where):
                listed = parse_listed(data, where=where)
        except BadAnswer:
            if _is_index(data):  # somebody pushed what is wrong in it: the API is there
                self._remember(repository, supported=True)
            raise
        entries = tuple(entry for entry, _ in listed.entries)
        return _Page(entries, listed.problem, next_link(response))

    def _known_of(self, repository: str) -> bool | None:
        with self._lock:
            supported, until = self._known.get(repository, (None, 0.0))
        return supported if self._sender.clock.monotonic() < until else None

    def _remember(self, repository: str, *, supported: bool) -> None:
        """Keep the answer: that there is an API for good, that there is none for a day."""
        if self._known_of(repository) is None:
            lasts = math.inf if supported else ABSENT_SECONDS
            with self._lock:
                self._known[repository] = supported, self._sender.clock.monotonic() + lasts

    def _path(self, repository: str, digest: Digest) -> str:
        return api_path(repository, "referrers", parse_digest(digest))


def check_values(data: bytes, where: str) -> None:
    """Refuse a page of a list with more than `MAX_LIST_VALUES` values, before it is parsed.

    Raises:
        BadAnswer: there are more.
    """
    if data.count(b",") > MAX_LIST_VALUES:
        raise BadAnswer(f"{where}: a list of more than {MAX_LIST_VALUES} values")


def _is_no(error: DockerCommsError) -> bool:
    """Return whether an error says that there is no API, from a registry that had one."""
    return isinstance(error, NotFoundError | Unsupported) or (
        isinstance(error, RegistryError) and error.status == _BAD_REQUEST
    )


def _is_index(data: bytes) -> bool:
    """Return whether `data` has the shape of an index, whatever its entries are."""
    try:
        value = parse_json(data)
    except ProtocolError:
        return False
    return isinstance(value, dict) and isinstance(value.get("manifests", ""), list | None)


@dataclass(frozen=True, slots=True)
class _Page:
    entries: tuple[Descriptor, ...]
    problem: UnreadableEntries | None
    next_url: str | None

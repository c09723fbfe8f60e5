"""Lists over HTTP: tags, repositories, and the referrers of a manifest.

Registries differ in these ways (measured on six): some ignore `n` and `last`, some send the whole
list again for a `last` behind its end, some send no `Link`, one refuses a `last` that is no tag,
Quay and ECR refuse an `n` that is too large, and ECR a `last` from another list. A page seen before
ends every list. `tag_schema` finds referrers in registries without the referrers API.

Source: distribution-spec v1.1.1, "Listing Tags", "Listing Referrers".
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import field, replace
from itertools import islice, pairwise
from urllib.parse import parse_qs, urlencode, urlsplit

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
from dockercomms.oci.auth.token import Scope
from dockercomms.oci.interface import TagPage
from dockercomms.oci.model import MEDIA_TYPE_INDEX, Descriptor, Digest, parse_digest, parse_listed
from dockercomms.oci.remote.exchange import (
    ANY_STATUS,
    Request,
    Response,
    Sender,
    api_path,
    bad_answers,
    fetch,
    next_link,
    redact_url,
    settle,
)
from dockercomms.oci.remote.read import HTTPReader
from dockercomms.oci.remote.retry import RetryPolicy
from dockercomms.oci.strict_json import parse_json
from dockercomms.oci.tag_schema import tag_schema_entries
from dockercomms.platforms.clock import Clock
from dockercomms.platforms.records import dataclass

MAX_PAGES = 1000
"""The maximum number of pages of one list; a longer list repeats itself without end."""

MAX_LIST_BYTES = 32 * 2**20
"""The largest page of a list: zot sends 10,000 referrers in one response of 6.6 MB (measured)."""

ABSENT_SECONDS = 86_400.0
"""The time for which a registry counts as one without the API: registries are upgraded, and
failures pass."""

MAX_LIST_VALUES = 1_000_000
"""Values in one page: ten million empty lists fit into 32 MiB, and take 800 MiB when parsed."""

ZERO_DIGEST = Digest("sha256:" + "0" * 64)
"""A subject without content: a request for its referrers tests only for the API."""


class ReferrersAPI:
    """The referrers API of one registry, if it has one. Safe for several threads."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._lock = threading.Lock()
        self._known: dict[str, tuple[bool, float]] = {}

    def supported(self, repository: str) -> bool:
        """Return whether `repository` has the API; the result is kept once the repository exists.

        Any response without an index means no: registries without the API redirect to a web page
        (GHCR), refuse, or fail. A 404 with NAME_UNKNOWN decides neither way: registries with the
        API send it for a repository that does not exist yet (ggcr, ocimem).

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
            `None` if the registry has no API, or says that the repository does not exist. The first
            response tells, so that no other request is needed.

        Raises:
            BadAnswer: an index that breaks the rules, or pages without end.
            UnreadableEntries: after the last entry, if some are no descriptors.
            NetworkError, RegistryError: the API has answered before, and fails now.
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
        """Return the first page, `None` without an API; record whether there is one.

        Before the first response of the API, each request is sent once: a registry without it may
        answer 503 or 429 for ever.
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
            if _is_index(data):  # somebody pushed a bad entry: the API is there
                self._remember(repository, supported=True)
            raise
        entries = tuple(entry for entry, _ in listed.entries)
        return _Page(entries, listed.problem, next_link(response))

    def _known_of(self, repository: str) -> bool | None:
        with self._lock:
            supported, until = self._known.get(repository, (None, 0.0))
        return supported if self._sender.clock.monotonic() < until else None

    def _remember(self, repository: str, *, supported: bool) -> None:
        """Record whether there is an API: for good if there is one, else for a day."""
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
    """Return whether an error means that a registry that had the API has lost it."""
    return isinstance(error, NotFoundError | Unsupported) or (
        isinstance(error, RegistryError) and error.status == _BAD_REQUEST
    )


def _is_index(data: bytes) -> bool:
    """Return whether `data` has the shape of an index, with any entries."""
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


LIST_SECONDS = 600.0
"""The time limit for a whole list, all pages together."""

MAX_WHOLE_LIST_BYTES = 256 * 2**20
"""The limit of all pages of a list together: a million tags of 250 bytes."""

_BAD_REQUEST = 400
_NOT_FOUND = 404
_NOT_ALLOWED = 405
_TOO_LARGE = 413


class HTTPLister(HTTPReader):
    """`Lister` over HTTP. Safe for several threads."""

    _referrers_api: ReferrersAPI

    def tags(
        self,
        repository: str,
        *,
        start_after: str | None = None,
        page_size: int | None = None,
        limit: int | None = None,
    ) -> Iterator[str]:
        """Yield tags; see `Lister.tags`."""
        pages = self.tag_pages(repository, start_after=start_after, page_size=page_size)
        return _each_once(pages, limit)

    def tag_pages(
        self, repository: str, *, start_after: str | None = None, page_size: int | None = None
    ) -> Iterator[TagPage]:
        """Yield the pages of the tag list; see `Lister.tag_pages`.

        A 404 without an OCI code needs a second request: a web server answers it to every address.

        Source: distribution-spec v1.1.1, "Listing Tags".
        """
        request = Request(
            method="GET",
            url=api_path(repository, "tags", "list"),
            scope=Scope.pull(repository),
            not_found=NameUnknown,
            redirects=True,
        )
        try:
            yield from _Listing(self._sender, request, "tags").pages(start_after, page_size)
        except NameUnknown as error:
            if b'"errors"' in error.body or self._is_registry(repository):
                raise
            raise BadAnswer(
                f"{error.url.partition('/v2/')[0]}/v2/: 404 too, so there is no registry",
                status=error.status,
                hint="check the host and port in --repo",
            ) from error

    def _is_registry(self, repository: str) -> bool:
        """Return whether a registry answers at the one address that every registry has.

        Source: distribution-spec v1.1.1, "Determining Support".
        """
        request = Request(
            method="GET", url="/v2/", scope=Scope.pull(repository), ok=ANY_STATUS, redirects=True
        )
        return settle(self._sender, request).status != _NOT_FOUND

    def repositories(
        self,
        *,
        start_after: str | None = None,
        page_size: int | None = None,
        limit: int | None = None,
    ) -> Iterator[str]:
        """Yield the registry's repositories; see `Lister.repositories`."""
        request = Request(method="GET", url="/v2/_catalog", scope=Scope.catalog())
        pages = _Listing(self._sender, request, "repositories").pages(start_after, page_size)
        names = _each_once(pages, limit)
        try:
            yield from names
        except NotFoundError as error:
            raise Unsupported(
                error.message, status=error.status, method=error.method, url=error.url
            ) from error

    def referrers(
        self, repository: str, digest: Digest, *, artifact_type: str | None = None
    ) -> Iterator[Descriptor]:
        """Yield the referrers of `digest`; see `Lister.referrers`.

        Source: distribution-spec v1.1.1, "Listing Referrers", "Unavailable Referrers API".
        """
        found = self._referrers_api.entries(repository, digest, artifact_type)
        if found is None:
            found = iter(tag_schema_entries(self, repository, digest))
        for entry in found:
            if artifact_type is None or entry.artifact_type == artifact_type:
                yield entry

    def referrers_supported(self, repository: str) -> bool:
        """Return whether the registry has the referrers API; see `Lister.referrers_supported`."""
        return self._referrers_api.supported(repository)


def _each_once(pages: Iterator[TagPage], limit: int | None) -> Iterator[str]:
    def names() -> Iterator[str]:
        seen: set[str] = set()
        for page in pages:
            for name in page.tags:
                if name not in seen:
                    seen.add(name)
                    yield name

    return islice(names(), limit)


def _asks_behind(url: str, name: str) -> bool:
    """Return whether a `Link` asks for the names after `name`."""
    return parse_qs(urlsplit(url).query).get("last") == [name]


@dataclass(slots=True)
class _Bounds:
    """The limits of one whole list; only the time spent waiting for the registry counts."""

    clock: Clock
    what: str
    _seconds: float = field(default=0.0, init=False)
    _bytes: int = field(default=0, init=False)
    _since: float = field(default=0.0, init=False)

    def begin(self) -> None:
        self._since = self.clock.monotonic()

    def check(self, count: int) -> None:
        """Count the bytes that came.

        Raises:
            NetworkError: the list takes too long.
            BadAnswer: the list is too large.
        """
        now = self.clock.monotonic()
        self._seconds += now - self._since
        self._since = now
        self._bytes += count
        if self._seconds > LIST_SECONDS:
            raise NetworkError(
                f"{self.what}: the list takes more than {LIST_SECONDS:.0f} s", retryable=False
            )
        if self._bytes > MAX_WHOLE_LIST_BYTES:
            raise BadAnswer(f"{self.what}: a list of more than {MAX_WHOLE_LIST_BYTES} bytes")


@dataclass(frozen=True, slots=True)
class _Listing:
    """One list of names that comes in pages."""

    sender: Sender
    request: Request
    key: str
    """The member of the response that holds the names."""

    def pages(self, last: str | None, size: int | None) -> Iterator[TagPage]:
        """Yield the pages, each once.

        1. Request the first page; from the start if the registry refuses `last`; with half the page
           size while the registry refuses the size.
        2. Follow `Link` if there is one.
        3. Else continue after the last name while pages are full: some registries send no `Link`
           (ggcr), and one that ignores `n` (docker-registry 2.8) has sent the whole list.

        A page seen before ends the list in two cases: step 3 asked for it (ggcr starts again after
        its last name), or a `Link` of an ordered list asked for the names after the last one, and
        the list started again. After any other `Link`, a page seen before is an error, as the rest
        cannot be read.

        Raises:
            BadAnswer: such a `Link`, or pages without end.
            NetworkError: the whole list takes more than `LIST_SECONDS`.
        """
        seen: set[tuple[str, ...]] = set()
        bounds = _Bounds(self.sender.clock, f"GET {self.request.url}")
        start = last
        url, first, before, ordered, anew = "", "", "", True, False
        for number in range(MAX_PAGES):
            if number == 0:
                response, names, size, start = self._first_page(last, size, bounds)
            else:
                response, names = self._page(url, last, size, bounds)
            if url and ordered and names and _asks_behind(url, before):
                anew = names[0] == first or (start is not None and names[0] <= start)
                if anew and before in names:
                    return
            if names in seen:
                if url and names and not anew:
                    raise BadAnswer(f"{redact_url(url)}: Link leads back to a page that was read")
                return
            seen.add(names)
            yield TagPage(names, "Link" in response.headers)
            if names:
                first = first or names[0]
                ordered = ordered and all(a < b for a, b in pairwise((before, *names)))
                before = names[-1]
            link = next_link(response)
            if link is not None:
                url = self.sender.adopt(link)
            elif size and len(names) == size:
                url, last = "", names[-1]
            else:
                return
        raise BadAnswer(f"{self.request.url}: more than {MAX_PAGES} pages")

    def _first_page(
        self, last: str | None, size: int | None, bounds: _Bounds
    ) -> tuple[Response, tuple[str, ...], int | None, str | None]:
        """Return the response, its names, and the page size and the `last` that were accepted."""
        while True:
            try:
                response, names = self._page("", last, size, bounds)
            except RegistryError as error:
                if error.status in {_BAD_REQUEST, _NOT_ALLOWED} and last is not None:
                    last = None
                elif error.status == _NOT_ALLOWED and size:
                    size = None
                elif error.status in {_BAD_REQUEST, _TOO_LARGE} and size:
                    size = size // 2 or None
                else:
                    raise
            else:
                return response, names, size, last

    def _page(
        self, url: str, last: str | None, size: int | None, bounds: _Bounds
    ) -> tuple[Response, tuple[str, ...]]:
        """Return the response and its names; `url` is from a `Link`, or ""."""
        # Some registries close the connection on n=0 (olareg, measured)
        query = {"n": size or None, "last": last}
        text = urlencode({name: value for name, value in query.items() if value is not None})
        target = url or f"{self.request.url}{'?' if text else ''}{text}"
        bounds.begin()
        request = replace(self.request, url=target)
        response, data = fetch(self.sender, request, MAX_LIST_BYTES, check=bounds.check)
        return response, self._names(data, redact_url(response.url))

    def _names(self, data: bytes, where: str) -> tuple[str, ...]:
        check_values(data, where)
        with bad_answers(where):
            value = parse_json(data, where=where)
        names = value.get(self.key) if isinstance(value, dict) else value
        is_list = isinstance(value, dict) and not value.keys().isdisjoint({self.key, "name"})
        if not is_list or not isinstance(names, list | None):
            raise BadAnswer(f"{where}: no list of {self.key} in the answer")
        found: Sequence[object] = names or ()
        if not all(isinstance(name, str) for name in found):
            raise BadAnswer(f"{where}: {self.key} that are no strings")
        return tuple(str(name) for name in found)

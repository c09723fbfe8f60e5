"""Listing over HTTP: tags, repositories, and what refers to a manifest.

Registries differ here in every way they can (measured on six): some ignore `n` and `last`, some
send the whole list again for a `last` behind its end, some give no `Link`, one refuses a `last`
that is no tag, Quay and ECR refuse an `n` that is too large, and ECR a `last` that is none of its
own. A page seen before ends every listing.

Source: distribution-spec v1.1.1, "Listing Tags", "Listing Referrers".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import field, replace
from itertools import islice, pairwise
from urllib.parse import parse_qs, urlencode, urlsplit

from dockercomms.errors import (
    BadAnswer,
    NameUnknown,
    NetworkError,
    NotFoundError,
    RegistryError,
    Unsupported,
)
from dockercomms.oci.exchange import (
    ANY_STATUS,
    Request,
    Response,
    Sender,
    api_path,
    bad_answers,
    fetch,
    redact_url,
    settle,
)
from dockercomms.oci.headers import next_link
from dockercomms.oci.interface import TagPage
from dockercomms.oci.model import Descriptor, Digest, parse_json
from dockercomms.oci.reading import HTTPReader
from dockercomms.oci.referrers import MAX_LIST_BYTES, MAX_PAGES, ReferrersAPI, check_values
from dockercomms.oci.scope import Scope
from dockercomms.oci.tag_schema import tag_schema_entries
from dockercomms.platforms import Clock
from dockercomms.records import dataclass

LIST_SECONDS = 600.0
"""How long a registry may take for a whole list, all pages together."""

MAX_WHOLE_LIST_BYTES = 256 * 2**20
"""All pages of a list together: a million tags of 250 bytes."""

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

        A 404 that no registry writes is looked into: a web server says it of everything.

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
        """Return whether a registry answers, by the one address that every registry has.

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
        """Yield what refers to `digest`; see `Lister.referrers`.

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
    """Return whether a `Link` asks for what comes behind `name`."""
    return parse_qs(urlsplit(url).query).get("last") == [name]


@dataclass(slots=True)
class _Bounds:
    """The bounds of one whole list; only the time that the registry takes counts."""

    clock: Clock
    what: str
    _seconds: float = field(default=0.0, init=False)
    _bytes: int = field(default=0, init=False)
    _since: float = field(default=0.0, init=False)

    def begin(self) -> None:
        """Begin with a page."""
        self._since = self.clock.monotonic()

    def check(self, count: int) -> None:
        """Note that so many bytes came.

        Raises:
            NetworkError: the list takes too long.
            BadAnswer: it is too large.
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
    """The member of the answer that holds the names."""

    def pages(self, last: str | None, size: int | None) -> Iterator[TagPage]:
        """Yield the pages, each once.

        1. Ask; from the start where the registry refuses `last`; halve the page size while it
           finds that too large.
        2. Follow `Link` where there is one.
        3. Else go on behind the last name while pages come full: registries without `Link` exist
           (ggcr), and one that ignores `n` (docker-registry 2.8) has sent everything.

        A page that came before ends the list where we asked for it ourselves (ggcr begins anew
        behind its last name), and where a `Link` asked a list in order for what comes behind the
        last name, and the list began anew; where another `Link` led to it, the rest cannot be had.

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
        """Return the response, its names, and the page size and the `last` that were taken."""
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
        """Return the response and its names; `url` is where a `Link` led, or ""."""
        # n=0 is a question that some answer by closing the connection (olareg, measured)
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

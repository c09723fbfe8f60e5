"""Tags by their prefix, listed from the first mark that will do."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from itertools import pairwise

from dockercomms.errors import LimitError, NotFoundError, RegistryError
from dockercomms.oci.interface import Lister, TagPage
from dockercomms.protocol import MAX_PAGES, TAG_PAGE_SIZE

LISTING_FORBIDDEN = frozenset({401, 403, 404, 405, 501})
"""What a registry answers that does not let tags be listed."""

_BAD_REQUEST = 400


def seek_tags(
    lister: Lister, repository: str, prefix: str, *, start_after: Sequence[str] = ()
) -> Iterator[str]:
    """Yield the tags that begin with `prefix` and come after the first mark that will do.

    Args:
        lister: The store.
        repository: The repository.
        prefix: What the tags begin with.
        start_after: Marks, tried in turn: zot answers 404 unless the tag exists. Where none will
            do, the list is read from its start. Tags before a mark may be yielded all the same.

    Raises:
        NameUnknown: no such repository.
        LimitError: more than `MAX_PAGES` pages.
        RegistryError, NetworkError, ProtocolError: the registry cannot tell, or may not.
    """
    for start in start_after:
        try:
            complete = yield from _pages_with(lister, repository, prefix, start)
        except NotFoundError:
            continue
        except RegistryError as error:
            if error.status != _BAD_REQUEST:
                raise
            break  # `last` is an opaque token on this server
        if complete:
            return
        break
    yield from _pages_with(lister, repository, prefix, None)


def _pages_with(
    lister: Lister, repository: str, prefix: str, start: str | None
) -> Generator[str, None, bool]:
    """Yield from the pages after `start`; return False if there may be more than was listed.

    A page is judged as a whole: docker-registry 2.8 sorts nothing and ignores `last`, and
    go-containerregistry starts anew behind its last tag.
    """
    ordered, last, start_shown = True, "", start is None
    pages = lister.tag_pages(repository, start_after=start, page_size=TAG_PAGE_SIZE)
    for number, page in enumerate(pages):
        if number >= MAX_PAGES:
            raise LimitError(f"{repository}: more than {MAX_PAGES} pages of tags")
        ordered = ordered and all(a < b for a, b in pairwise((last, *page.tags)))
        start_shown = start_shown or start in page.tags
        yield from (tag for tag in page.tags if tag.startswith(prefix))
        if not ordered and not start_shown:
            return False
        if _is_last(page, prefix, ordered=ordered):
            return True
        last = page.tags[-1] if page.tags else last
    return True


def _is_last(page: TagPage, prefix: str, *, ordered: bool) -> bool:
    if not page.has_link and len(page.tags) > TAG_PAGE_SIZE:
        return True  # this server does not page, and gave the whole list
    if not ordered or not page.tags:
        return False
    return page.tags[-1] > prefix and not page.tags[-1].startswith(prefix)

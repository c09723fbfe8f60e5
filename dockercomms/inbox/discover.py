"""The three ways to find messages in a repository: referrers, the tag schema, and tags.

Referrers and the tag schema may lose entries or lag. Tag lists are complete (measured: 320 of 320
concurrent messages, on every registry). These functions keep no state between calls.

Source: SPEC.md section 7.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import field
from datetime import date
from itertools import pairwise, product
from typing import Literal, Protocol

from dockercomms.errors import LimitError, NotFoundError, RegistryError
from dockercomms.oci.interface import Lister, Reader, TagPage, readable
from dockercomms.oci.model import Descriptor, Digest
from dockercomms.oci.reference import is_valid_tag
from dockercomms.oci.tag_schema import tag_schema_entries
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.header import (
    ARTIFACT_TYPE_MESSAGE,
    MAX_PAGES,
    MESSAGE_ID,
    TAG_PAGE_SIZE,
    UNTELLING_TYPES,
    ManifestForm,
)
from dockercomms.protocol.manifest import ManifestBuilder
from dockercomms.protocol.tags import MessageRef, bell_tag, parse_tag

LISTING_FORBIDDEN = frozenset({401, 403, 404, 405, 501})
"""The statuses of a registry that does not allow listing tags."""

_BAD_REQUEST = 400


@dataclass(slots=True)
class TagsSeen:
    """The findings of a tag list besides the tags that were asked for."""

    anchors: set[date] = field(default_factory=set)
    """Days that have an anchor tag, or a message tag that names the day."""
    ordered: bool = True
    """All tags came in byte order, so this server can start a list after a tag."""
    anything: bool = False
    """The repository has a tag, of any recipient."""


def seek_tags(
    lister: Lister,
    repository: str,
    prefix: str,
    *,
    start_after: Sequence[str] = (),
    whole: bool = False,
    seen: TagsSeen | None = None,
) -> Iterator[str]:
    """Yield the tags that begin with `prefix`, listed after the first mark that the store accepts.

    Args:
        lister: The store.
        repository: The repository.
        prefix: The start of the tags.
        start_after: Marks, tried in turn: zot answers 404 unless the tag exists. If the store
            accepts no mark, the list is read from its start. Tags before a mark may be yielded too.
        whole: Read to the end of the list even if tags come in order.
        seen: Receives the order of the tags. A list that starts again after tags out of order is
            read to its end.

    Raises:
        NameUnknown: no such repository.
        LimitError: more than `MAX_PAGES` pages.
        RegistryError, NetworkError, ProtocolError: the registry cannot or may not list tags.
    """

    def listed(start: str | None) -> Generator[str, None, bool]:
        found = TagsSeen() if seen is None else seen
        return _pages_with(lister, repository, prefix, start, whole=whole, seen=found)

    for start in start_after:
        try:
            complete = yield from listed(start)
        except NotFoundError:
            continue
        except RegistryError as error:
            if error.status != _BAD_REQUEST:
                raise
            break  # `last` is an opaque token on this server
        if complete:
            return
        break
    yield from listed(None)


def _pages_with(
    lister: Lister,
    repository: str,
    prefix: str,
    start: str | None,
    *,
    whole: bool,
    seen: TagsSeen,
) -> Generator[str, None, bool]:
    """Yield from the pages after `start`; return False if tags after `start` may be missing.

    The order of a whole page decides: docker-registry 2.8 ignores `n` and `last` and does not
    sort; go-containerregistry starts again after its last tag.
    """
    last, start_shown = "", start is None
    pages = lister.tag_pages(repository, start_after=start, page_size=TAG_PAGE_SIZE)
    for number, page in enumerate(pages):
        if number >= MAX_PAGES:
            raise LimitError(f"{repository}: more than {MAX_PAGES} pages of tags")
        seen.ordered = seen.ordered and all(a < b for a, b in pairwise((last, *page.tags)))
        seen.anything = seen.anything or bool(page.tags)
        start_shown = start_shown or start in page.tags
        yield from (tag for tag in page.tags if tag.startswith(prefix))
        if not seen.ordered and not start_shown:
            # This server's order is its own: tags that sort after `start` may stand before it.
            return False
        if _is_last_page(page, prefix, ordered=seen.ordered and not whole):
            return True
        last = page.tags[-1] if page.tags else last
    return True


def _is_last_page(page: TagPage, prefix: str, *, ordered: bool) -> bool:
    if not page.has_link and len(page.tags) > TAG_PAGE_SIZE:
        return True  # this server does not page: it sent the whole list
    if not ordered or not page.tags:
        return False
    return page.tags[-1] > prefix and not page.tags[-1].startswith(prefix)


Way = Literal["referrers", "tag-schema", "tags"]


class ListingReader(Reader, Lister, Protocol):
    """A store that can be read and listed."""


def anchor_digest(recipient_tag: str, day: date, form: ManifestForm = "artifact") -> Digest:
    """Return the digest of a day's anchor in one form. It is the same for every sender."""
    return ManifestBuilder.inbox_anchor(recipient_tag, day, form=form).build()[1].digest


def discover_by_referrers(
    lister: Lister,
    repository: str,
    recipient_tag: str,
    days: Iterable[date],
    forms: Sequence[ManifestForm] = ("artifact",),
) -> Iterator[MessageRef]:
    """Yield the referrers of the anchors of `days` in `forms`, tagged or not.

    The request names no artifact type: only messages have an anchor as their subject, and some
    registries (go-containerregistry) answer with the config's media type instead, so a filter
    would drop every message.

    Raises:
        RegistryError, NetworkError, ProtocolError: the registry cannot list referrers.
    """
    for day, form in product(days, forms):
        try:
            subject = anchor_digest(recipient_tag, day, form)
            for entry in readable(lister.referrers(repository, subject)):
                if _may_be_message(entry):
                    yield MessageRef(digest=entry.digest)
        except NotFoundError:
            continue  # no such anchor


def discover_by_tag_schema(
    reader: Reader,
    repository: str,
    recipient_tag: str,
    days: Iterable[date],
    forms: Sequence[ManifestForm] = ("artifact",),
) -> Iterator[MessageRef]:
    """Yield the entries of the `sha256-` indexes for the anchors of `days`, tagged or not.

    For registries without the referrers API. Senders that write at the same time lose entries of
    each other, and every client that can push can list digests that do not exist.

    Raises:
        RegistryError, NetworkError, ProtocolError: the registry cannot read the index.
    """
    for day, form in product(days, forms):
        subject = anchor_digest(recipient_tag, day, form)
        try:
            entries = tag_schema_entries(reader, repository, subject)
        except NotFoundError:
            continue  # no such repository
        for entry in entries:
            if _may_be_message(entry):
                yield MessageRef(digest=entry.digest)


def discover_by_tags(
    lister: Lister,
    repository: str,
    recipient_tag: str,
    *,
    start_after: Sequence[str] = (),
    whole: bool = False,
    seen: TagsSeen | None = None,
) -> Iterator[MessageRef]:
    """Yield every message tag of the recipient that the tag list shows.

    Args:
        lister: The store.
        repository: The repository.
        recipient_tag: The recipient's part of tags.
        start_after: Tags after which to start, tried in turn: zot answers 404 unless the tag
            exists. If the store accepts no tag, the list is read from its start.
        whole: Read to the end of the list even if tags come in order.
        seen: Receives the anchors and the order of the tags.

    Raises:
        NameUnknown: no such repository.
        LimitError: more than `MAX_PAGES` pages.
        RegistryError, NetworkError, ProtocolError: the registry cannot or may not list tags.
    """
    prefix, seen = f"{bell_tag(recipient_tag)}-", seen or TagsSeen()
    for tag in seek_tags(
        lister, repository, prefix, start_after=start_after, whole=whole, seen=seen
    ):
        if not is_valid_tag(tag):
            continue
        said = parse_tag(tag)
        if said is not None and said.day is not None and said.kind != "message-1.0":
            seen.anchors.add(said.day)
        if said is None or said.kind != "anchor":
            yield MessageRef(tag=tag)


def _may_be_message(entry: Descriptor) -> bool:
    """Return whether an entry is marked as a message, or has neither a type nor annotations."""
    if entry.artifact_type == ARTIFACT_TYPE_MESSAGE or MESSAGE_ID in entry.annotations:
        return True
    return entry.artifact_type in UNTELLING_TYPES and not entry.annotations

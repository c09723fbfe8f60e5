"""Finding receipts: in bulk for all that somebody sent, or for one message.

In bulk they are found by their tags, as messages are, and kept in the state: a tag is read once. A
receipt is its writer's claim until its signature is verified.

Source: SPEC.md section 10.

Example:
    >>> from dockercomms.oci.memory import MemoryRegistry
    >>> from dockercomms.oci.model import MEDIA_TYPE_INDEX, Index
    >>> from dockercomms.receipts_listing import seek_tags
    >>> registry = MemoryRegistry()
    >>> _ = registry.push_manifest(
    ...     "team/box", Index().to_bytes(), MEDIA_TYPE_INDEX, tags=("a", "b-1", "b-2", "c")
    ... )
    >>> list(seek_tags(registry, "team/box", "b-", start_after=["b"]))
    ['b-1', 'b-2']
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import islice, pairwise
from typing import Literal

from dockercomms.errors import (
    IntegrityError,
    LimitError,
    NotFoundError,
    ProtocolError,
    RegistryError,
    UsageError,
)
from dockercomms.manifest import Receipt, parse_receipt
from dockercomms.oci.interface import BlobReader, Lister, Registry, TagPage, read_all
from dockercomms.oci.model import (
    MAX_MANIFEST_BYTES,
    MEDIA_TYPE_EMPTY_CONFIG,
    Descriptor,
    Digest,
)
from dockercomms.oci.reference import is_valid_digest
from dockercomms.platforms import Clock
from dockercomms.protocol import (
    ARTIFACT_TYPE_RECEIPT,
    FULL_PASS_SECONDS,
    MAX_FETCHED_MANIFESTS,
    MAX_PAGES,
    RECEIPT_FOR,
    TAG_PAGE_SIZE,
    ReceiptStatus,
    parse_tag,
    receipt_id,
    receipts_anchor_tag,
    recipient_tag,
)
from dockercomms.state import State
from dockercomms.state.receipt_rows import ReceiptsProgress

_BAD_REQUEST = 400
_HEAD_DIGITS = 12
"""Hex digits of the message's digest in a receipt's tag."""

_OLDER_MARKS = 2
"""Anchors tried before the list is read from further back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptEntry:
    """A receipt, as its writer claims it."""

    digest: Digest
    message: Digest
    id: str
    """The message's id; "" from 1.0 programs."""
    sender: str
    """Who wrote the receipt: the message's recipient."""
    status: ReceiptStatus
    claimed_verified: bool
    reason: str
    created_at: datetime | None
    signature_status: Literal["none", "unchecked", "valid", "invalid", "untrusted"] = "none"
    signer: str | None = None


def list_receipts(
    registry: Registry,
    repository: str,
    *,
    repo: str,
    me: str,
    state: State,
    clock: Clock,
    message: str | None = None,
) -> list[ReceiptEntry]:
    """Return the receipts for what `me` sent, oldest first, one for each outcome.

    Args:
        registry: The store.
        repository: The repository's name in it.
        repo: The repository's full name, under which the state knows it.
        me: The sender of the messages.
        state: What is remembered between runs.
        clock: Ours.
        message: Only those for one message: a prefix of its id or digest. A whole digest is
            looked for without knowing it.

    Raises:
        NotFoundError: no message that was sent begins so.
        UsageError: several do.
        RegistryError, NetworkError: the registry cannot tell.
    """
    search = _Search(registry, repository, repo, me, state, clock)
    if message is None:
        return _fold(search.in_bulk())
    if not message:
        raise UsageError("message: empty; the start of its id or digest expected")
    digest = Digest(message) if is_valid_digest(message) else search.resolve(message)
    return _fold(search.for_message(digest))


def _fold(receipts: Iterable[Receipt]) -> list[ReceiptEntry]:
    """Return one entry for each outcome, the newest, since several machines may write one each."""
    newest: dict[str, Receipt] = {}
    for receipt in receipts:
        rid = receipt_id(receipt.message, receipt.recipient, receipt.status)
        known = newest.get(rid)
        if known is None or _age(receipt) > _age(known):
            newest[rid] = receipt
    return [_entry(receipt) for receipt in sorted(newest.values(), key=_age)]


def _age(receipt: Receipt) -> tuple[datetime, str]:
    return receipt.created_at or datetime.min.replace(tzinfo=UTC), receipt.descriptor.digest


def _entry(receipt: Receipt) -> ReceiptEntry:
    return ReceiptEntry(
        digest=receipt.descriptor.digest,
        message=receipt.message,
        id=receipt.message_id,
        sender=receipt.recipient,
        status=receipt.status,
        claimed_verified=receipt.verified,
        reason=receipt.reason,
        created_at=receipt.created_at,
        signature_status="unchecked" if receipt.layers else "none",
    )


@dataclass(frozen=True, slots=True)
class _Search:
    """One call of `list_receipts`."""

    registry: Registry
    repository: str
    repo: str
    me: str
    state: State
    clock: Clock

    # --- in bulk ---------------------------------------------------------------------------------

    def in_bulk(self) -> list[Receipt]:
        """Return every receipt under a tag for `me`, reading only those not read before.

        1. the tags since the day before the last complete pass; once a day all of them
        2. what is under the new ones
        3. rows first, then how far the search got
        """
        rows = self.state.receipts
        progress = rows.progress(self.repo, self.me)
        known = rows.known_tags(self.repo, self.me)
        whole = self._is_due(progress)
        tags, today = self._tags(progress, known, whole=whole)
        fresh = [tag for tag in tags if tag not in known]
        rows.add_found(self.repo, self.me, self._read_new(fresh[:MAX_FETCHED_MANIFESTS]))
        if len(fresh) <= MAX_FETCHED_MANIFESTS:
            if whole:
                rows.drop_found(self.repo, self.me, known.difference(tags))
            full_pass_at = self.clock.now() if whole else progress.full_pass_at
            rows.set_progress(
                self.repo, self.me, ReceiptsProgress(day=today, full_pass_at=full_pass_at)
            )
        return [parse_receipt(data) for data in rows.found(self.repo, self.me) if data]

    def _is_due(self, progress: ReceiptsProgress) -> bool:
        """Return whether all tags are to be listed again."""
        if progress.full_pass_at is None or progress.day is None:
            return True
        age = self.clock.now() - progress.full_pass_at
        return age >= timedelta(seconds=FULL_PASS_SECONDS)

    def _tags(
        self, progress: ReceiptsProgress, known: frozenset[str], *, whole: bool
    ) -> tuple[list[str], date]:
        """Return the tags of receipts for `me`, and the registry's day before they were listed."""
        rt = recipient_tag(self.me)
        marks = [f"receipts-{rt}"]
        if progress.day is not None and not whole:
            since = progress.day - timedelta(days=1)
            days = {said.day for tag in known if (said := parse_tag(tag)) and said.day}
            older = sorted((day for day in days if day < since), reverse=True)[:_OLDER_MARKS]
            marks = [receipts_anchor_tag(rt, day) for day in (since, *older)] + marks
        before = self.registry.server_time()
        try:
            listed = dict.fromkeys(
                seek_tags(self.registry, self.repository, f"receipts-{rt}-", start_after=marks)
            )
        except NotFoundError:
            listed = {}  # no such repository: nobody has sent anything yet
        today = (before or self.registry.server_time() or self.clock.now()).date()
        tags = [tag for tag in listed if (said := parse_tag(tag)) and said.kind == "receipts"]
        return tags, today

    def _read_new(self, tags: Iterable[str]) -> dict[str, bytes]:
        """Return what is under `tags`; nothing for what is no receipt for `me`, for good."""
        found: dict[str, bytes] = {}
        for tag in tags:
            data = self._read_tag(tag)
            if data is not None:
                receipt = _parsed(data)
                found[tag] = data if receipt is not None and receipt.sender == self.me else b""
        return found

    # --- for one message -------------------------------------------------------------------------

    def for_message(self, message: Digest) -> list[Receipt]:
        """Return the receipts of one message: what refers to it, and what is tagged for it."""
        found: dict[Digest, Receipt] = {}
        for data in self._referring(message):
            _keep(found, data, message)
        prefix = f"receipt-{message.partition(':')[2][:_HEAD_DIGITS]}-"
        try:
            tags = dict.fromkeys(
                seek_tags(self.registry, self.repository, prefix, start_after=[prefix[:-1]])
            )
        except NotFoundError:
            tags = {}
        for tag in islice(tags, MAX_FETCHED_MANIFESTS):
            _keep(found, self._read_tag(tag), message)
        return list(found.values())

    def resolve(self, prefix: str) -> Digest:
        """Return the digest of the one sent message whose id or digest begins with `prefix`."""
        found = {
            row.digest: row.id
            for row in self.state.sends.published(self.repo, prefix)
            if row.digest is not None
        }
        if not found:
            bare = prefix.lower()
            found = {
                receipt.message: receipt.message_id
                for receipt in self.in_bulk()
                if receipt.message_id.lower().startswith(bare)
                or receipt.message.startswith((bare, f"sha256:{bare}"))
            }
        if len(found) > 1:
            listed = ", ".join(sorted(found.values())[:5])
            raise UsageError(f"{prefix!r:.100}: {len(found)} messages begin so: {listed}")
        for digest in found:
            return digest
        raise NotFoundError(
            f"{self.repo}: nothing sent by {self.me!r:.100} from here begins with {prefix!r:.100}",
            hint="give the message's whole digest to look for its receipts all the same",
        )

    def _referring(self, message: Digest) -> Iterator[bytes | None]:
        try:
            for entry in self.registry.referrers(self.repository, message):
                if _may_be_receipt(entry):
                    yield self._read_digest(entry.digest)
        except NotFoundError:
            return  # neither the repository nor the message need to be there

    def _read_tag(self, tag: str) -> bytes | None:
        try:
            return _read_manifest(self.registry.get_tag(self.repository, tag))
        except (NotFoundError, IntegrityError):
            return None  # removed meanwhile, or damaged on its way: looked at by the next run

    def _read_digest(self, digest: Digest) -> bytes | None:
        try:
            return _read_manifest(self.registry.get_manifest(self.repository, digest))
        except (NotFoundError, IntegrityError):
            return None  # an index may name what is not there


def _read_manifest(reader: BlobReader) -> bytes:
    return read_all(reader, MAX_MANIFEST_BYTES)[0]


def _keep(found: dict[Digest, Receipt], data: bytes | None, message: Digest) -> None:
    receipt = None if data is None else _parsed(data)
    if receipt is not None and receipt.message == message:
        found[receipt.descriptor.digest] = receipt


def _parsed(data: bytes) -> Receipt | None:
    try:
        return parse_receipt(data)
    except ProtocolError:
        return None


def _may_be_receipt(entry: Descriptor) -> bool:
    """Return whether an entry says that it is a receipt, or says nothing at all.

    go-containerregistry gives the config's media type for the artifact type.
    """
    if entry.artifact_type == ARTIFACT_TYPE_RECEIPT or RECEIPT_FOR in entry.annotations:
        return True
    return entry.artifact_type in (None, MEDIA_TYPE_EMPTY_CONFIG) and not entry.annotations


# --- tags by prefix ------------------------------------------------------------------------------


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

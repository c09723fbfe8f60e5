"""The messages, bundles and receipts of a repository, found by tags and read by digest.

Every object of ours has a tag (SPEC.md section 5). This module keeps no state between calls, and
takes a tag only as a hint until the bytes under it were read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta
from itertools import islice
from typing import Literal, TypeVar

from dockercomms.errors import (
    AuthError,
    BadAnswer,
    DockerCommsError,
    IntegrityError,
    InternalError,
    ManifestInvalid,
    NotFoundError,
    ProtocolError,
    RegistryError,
    Unsupported,
    guarded,
)
from dockercomms.inbox.discover import ListingReader, seek_tags
from dockercomms.oci.content import read_facts
from dockercomms.oci.interface import Reader, read_all, readable
from dockercomms.oci.model import MAX_MANIFEST_BYTES, Descriptor, Digest, digest_of
from dockercomms.oci.reference import is_valid_tag
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.header import (
    ARTIFACT_TYPE_BUNDLE,
    ARTIFACT_TYPE_RECEIPT,
    RECEIPT_FOR,
    UNTELLING_TYPES,
)
from dockercomms.protocol.manifest import (
    Bundle,
    Message,
    Receipt,
    parse_bundle,
    parse_message,
    parse_receipt,
)
from dockercomms.protocol.tags import parse_tag
from dockercomms.transport.window import workers

T = TypeVar("T")
U = TypeVar("U")

HEAD_DIGITS = 16
"""Hex digits of a message's digest in its tag."""

ABOUT_DIGITS = 12
"""Hex digits of the message's digest in the tag of a bundle or receipt."""

MAX_ATTACHED = 1000
"""Most bundles and receipts read for one message: anyone with push access can add some."""

READERS = 8
"""Manifests read at once."""

_READ_AHEAD = 64
"""Most results that wait for the caller, which bounds memory."""

_ABOUT = re.compile(
    r"(?:bundle|receipt)-(?P<about>[0-9a-f]{12})-(?P<at>[0-9]{1,12})-(?P<tail>[0-9a-f]{6})"
)

GRACE = timedelta(days=1)
"""Time that a message stays after its expiry: clocks differ, and late receivers get a reason."""

LOCAL_BATCH = 64
"""Messages per index.json write (the cost of a write is proportional to its size)."""

TagKind = Literal["message", "anchor", "receipts", "bundle", "receipt"]
Key = tuple[str, str, str]
"""The kind of an object, and the parts of its tag that are the same in every repository."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldTag:
    """A tag of a message, anchor, bundle or receipt."""

    name: str
    kind: TagKind
    rt: str = ""
    """The recipient tag: of the inbox, or of the sender who gets the receipts."""
    day: date | None = None
    published: datetime | None = None
    head: str | None = None
    """Of a message's digest or a receipt's rid; None in a 1.0 message's tag."""
    about: str = ""
    """The head of the digest of the message that a bundle or receipt is about."""
    tail: str = ""
    """The head of the digest of the bundle's layer, or of the rid."""
    seconds: int = 0
    """The Unix time at which a bundle or receipt was published."""

    @property
    def key(self) -> Key:
        """The key of the object: a 1.0 message's has the whole tag."""
        if self.kind in {"bundle", "receipt"}:
            return self.kind, self.about, self.tail
        return self.kind, self.rt, self.head or self.name


def digest_at(reader: Reader, repository: str, tag: str) -> Digest | None:
    """Return the digest under a tag, None if there is no such tag."""
    try:
        return reader.resolve_tag(repository, tag).digest
    except NotFoundError:
        return None


def list_tags(
    lister: ListingReader, repository: str, prefix: str, *, start_after: Sequence[str] = ()
) -> Iterator[HeldTag]:
    """Yield the tags of ours that begin with `prefix`, each once; a missing repository is empty.

    Raises:
        AuthError, Unsupported: the registry does not allow us to list tags; with a hint.
        LimitError: the listing has too many pages.
        RegistryError, NetworkError, ProtocolError: the registry does not answer as it must.
    """
    seen: set[str] = set()
    try:
        for name in seek_tags(
            lister, repository, prefix, start_after=[*start_after, prefix.removesuffix("-")]
        ):
            if name not in seen and is_valid_tag(name):
                seen.add(name)
                found = read_tag(name)
                if found is not None:
                    yield found
    except NotFoundError:
        return
    except RegistryError as error:
        raise _unlistable(error, repository) from error


def _unlistable(error: RegistryError, repository: str) -> DockerCommsError:
    """Return the error with advice, if the registry does not allow us to list tags."""
    hint = "use credentials that may list tags: without the list nobody knows what is there"
    if isinstance(error, AuthError):
        return type(error)(
            f"{repository}: tags cannot be listed: {error.message}",
            code=error.code,
            status=error.status,
            method=error.method,
            url=error.url,
            hint=hint,
        )
    if isinstance(error, Unsupported) or error.status in {405, 501}:
        return Unsupported(
            f"{repository}: tags cannot be listed: {error.message}", status=error.status, hint=hint
        )
    return error


def read_tag(name: str) -> HeldTag | None:
    """Parse a tag; return None for newest-message tags (bells) and tags of other programs."""
    match = _ABOUT.fullmatch(name)
    if match is not None:
        kind: TagKind = "bundle" if name.startswith("bundle-") else "receipt"
        return HeldTag(
            name=name,
            kind=kind,
            about=match["about"],
            tail=match["tail"],
            seconds=int(match["at"]),
        )
    said = parse_tag(name)
    if said is None or said.kind in {"bell", "receipts-anchor"}:
        return None
    kinds: dict[str, TagKind] = {
        "anchor": "anchor",
        "message": "message",
        "message-1.0": "message",
        "receipts": "receipts",
    }
    return HeldTag(
        name=name,
        kind=kinds[said.kind],
        rt=said.recipient_tag,
        day=said.day,
        published=said.published,
        head=said.head,
    )


def message_head(digest: Digest) -> str:
    """Return the part of a message's digest that its tag has."""
    return digest.partition(":")[2][:HEAD_DIGITS]


def message_about(digest: Digest) -> str:
    """Return the part of a message's digest that the tags of its bundles and receipts have."""
    return digest.partition(":")[2][:ABOUT_DIGITS]


def fetch(reader: Reader, repository: str, ref: str) -> bytes:
    """Return the manifest under the tag or digest `ref`.

    Raises:
        NotFoundError: there is no manifest.
        IntegrityError: the content does not have the digest.
        ProtocolError: it is larger than the limit for manifests.
        RegistryError, NetworkError: the registry refuses or is not reachable.
    """
    if ":" in ref:  # no tag has a colon
        return read_all(reader.get_manifest(repository, Digest(ref)), MAX_MANIFEST_BYTES)[0]
    return read_all(reader.get_tag(repository, ref), MAX_MANIFEST_BYTES)[0]


@dataclass(frozen=True, slots=True)
class Fetched:
    """The bytes of the manifest under a tag or digest, or the error of reading it."""

    ref: str
    data: bytes = b""
    error: DockerCommsError | None = None

    @property
    def digest(self) -> Digest:
        """The digest of the bytes."""
        return digest_of(self.data)

    @property
    def is_tag(self) -> bool:
        """True if `ref` is a tag; no tag has a colon."""
        return ":" not in self.ref


def fetch_all(reader: Reader, repository: str, refs: Iterable[str]) -> Iterator[Fetched]:
    """Yield the manifest under each of `refs` in their order; several are read at once.

    A result's `error` says why its manifest was not read. A refusing or unreachable registry ends
    the iteration.

    Raises:
        AuthError, NetworkError, TooManyRequests, LocalIOError: the first failure in the order.
    """
    failed: dict[int, DockerCommsError] = {}

    def get(item: tuple[int, str]) -> Fetched | DockerCommsError:
        number, ref = item
        if failed and number > min(failed):  # the caller needs only earlier ones
            return failed[min(failed)]
        try:
            with guarded(ref):
                return Fetched(ref, fetch(reader, repository, ref))
        except (NotFoundError, ProtocolError, BadAnswer, InternalError) as error:
            return Fetched(ref, error=error)
        except DockerCommsError as error:
            failed[number] = error
            return error

    waiting = enumerate(refs)
    while some := list(islice(waiting, _READ_AHEAD)):
        for found in in_threads(get, some):
            if isinstance(found, DockerCommsError):
                raise found
            yield found


def in_threads(work: Callable[[T], U], items: Iterable[T]) -> list[U]:
    """Return the results of `work` for all items; `READERS` run at once.

    The threads end here. An iterator over them would join them in its finalizer, which can deadlock
    if the garbage collector runs it.
    """
    with workers(READERS) as pool:
        return list(pool.map(work, items))


def subject_of(data: bytes) -> Digest | None:
    """Return the subject of a manifest, even if the rest is malformed."""
    try:
        return read_facts(data, "manifest").subject
    except ManifestInvalid:
        return None


@dataclass(frozen=True, slots=True)
class Attached:
    """A message, or a bundle or receipt about one, with its manifest's bytes and known tags."""

    what: Message | Bundle | Receipt
    data: bytes
    tags: tuple[str, ...] = ()

    @property
    def digest(self) -> Digest:
        """The manifest's digest."""
        return self.what.descriptor.digest


def parse_attached(data: bytes, message: Digest | None = None) -> Attached | None:
    """Return the bundle or receipt in `data`, if it is one (of that `message`)."""
    what: Bundle | Receipt
    try:
        what = parse_receipt(data)
    except ProtocolError:
        try:
            what = parse_bundle(data)
        except ProtocolError:
            return None
    return Attached(what, data) if message in (None, message_of(what)) else None


def message_of(what: Message | Bundle | Receipt) -> Digest:
    """Return the digest of a message, or of the one that a bundle or receipt is about."""
    if isinstance(what, Message):
        return what.digest
    return what.message if isinstance(what, Receipt) else what.subject.digest


def attached_to(
    reader: ListingReader, repository: str, message: Digest, tags: Iterable[str] = ()
) -> list[Attached]:
    """Return the bundles and receipts of a message: its referrers, and those that have tags.

    Args:
        reader: The store.
        repository: The repository.
        message: The message.
        tags: Tags of bundles and receipts that may be about it.

    Raises:
        RegistryError, NetworkError, LocalIOError: the store refuses or is not reachable.
    """
    refs: dict[str, None] = {}
    try:
        for entry in readable(reader.referrers(repository, message)):
            if _may_be_attached(entry):
                refs[entry.digest] = None
    except NotFoundError:
        pass
    found: dict[Digest, Attached] = {}
    for fetched in fetch_all(reader, repository, islice((*refs, *tags), MAX_ATTACHED)):
        if fetched.error is not None:
            continue  # an index may name manifests that are gone
        digest = fetched.digest
        try:
            with guarded(fetched.ref):
                known = found.get(digest) or parse_attached(fetched.data, message)
        except InternalError:
            continue  # the error is in the log
        if known is not None:
            own = (fetched.ref,) if fetched.is_tag else ()
            found[digest] = replace(known, tags=(*known.tags, *own))
    return list(found.values())


def _may_be_attached(entry: Descriptor) -> bool:
    """Return whether an entry's artifact type is a bundle's or receipt's, or is missing."""
    if entry.artifact_type in (ARTIFACT_TYPE_BUNDLE, ARTIFACT_TYPE_RECEIPT):
        return True
    if RECEIPT_FOR in entry.annotations or any(
        key.startswith("dev.sigstore.bundle.") for key in entry.annotations
    ):
        return True
    return entry.artifact_type in UNTELLING_TYPES and not entry.annotations


def read_message(fetched: Fetched, tag: HeldTag | None) -> Message:
    """Return the message in `fetched`, and check that `tag` has its digest.

    Raises:
        DockerCommsError: it was not fetched.
        IntegrityError: the tag has another digest.
        ProtocolError: it is not a message that this program can read.
    """
    if fetched.error is not None:
        raise fetched.error
    if tag is not None and tag.head not in (None, message_head(fetched.digest)):
        raise IntegrityError(f"tag {tag.name}: the manifest under it is {fetched.digest}")
    return parse_message(fetched.data)


def is_past(message: Message, now: datetime) -> bool:
    """Return whether a message expired, by its annotation, more than a day before `now`.

    Source: SPEC.md section 11.
    """
    expires = message.header.expires
    return expires is not None and now - GRACE > expires

"""What a repository holds of messages, by its tags; and one manifest of it, read and proven.

Tags are the ground truth (SPEC.md section 5): everything of ours has one. Nothing here remembers
anything, and nothing that a tag says is believed before the bytes were read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date, datetime, timedelta
from itertools import islice
from typing import Literal

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

HEAD_DIGITS = 16
"""Hex digits of a message's digest in its tag."""

ABOUT_DIGITS = 12
"""Hex digits of the message's digest in the tag of a bundle or receipt."""

MAX_ATTACHED = 1000
"""Bundles and receipts of one message that are looked at; anybody who may push can add some."""

READERS = 8
"""Manifests that are read at once."""

_READ_AHEAD = 64
"""Results that may wait for whoever takes them, so that memory is bounded."""

_ABOUT = re.compile(
    r"(?:bundle|receipt)-(?P<about>[0-9a-f]{12})-(?P<at>[0-9]{1,12})-(?P<tail>[0-9a-f]{6})"
)

GRACE = timedelta(days=1)
"""How long after its expiry a message stays: clocks differ, and a late receiver is told why."""

TagKind = Literal["message", "anchor", "receipts", "bundle", "receipt"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldTag:
    """One tag of ours."""

    name: str
    kind: TagKind
    rt: str = ""
    """Whose inbox, or whose receipts."""
    day: date | None = None
    published: datetime | None = None
    head: str | None = None
    """Of a message's digest, of a receipt's rid; None in a 1.0 message's tag."""
    about: str = ""
    """The head of the digest of the message that a bundle or receipt is about."""
    tail: str = ""
    """The head of the bundle's layer, or of the rid."""
    seconds: int = 0
    """When a bundle or receipt was published, as a unix time."""


def digest_at(reader: Reader, repository: str, tag: str) -> Digest | None:
    """Return what a tag points at, None if it is not there."""
    try:
        return reader.resolve_tag(repository, tag).digest
    except NotFoundError:
        return None


def list_tags(
    lister: ListingReader, repository: str, prefix: str, *, start_after: Sequence[str] = ()
) -> Iterator[HeldTag]:
    """Yield the tags of ours that begin with `prefix`, each once; nothing of a missing repository.

    Raises:
        AuthError, Unsupported: tags cannot be listed there; with a hint.
        LimitError: more pages than are read.
        RegistryError, NetworkError, ProtocolError: the registry cannot tell.
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
    """Return the error with what can be done, where it is that tags may not be listed."""
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
    """Return what a tag is to us, None if it is none of ours; bells are none that is held."""
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
        NotFoundError: not there.
        IntegrityError: other content than a digest says.
        ProtocolError: larger than any manifest.
        RegistryError, NetworkError: the registry cannot tell.
    """
    if ":" in ref:  # no tag has a colon
        return read_all(reader.get_manifest(repository, Digest(ref)), MAX_MANIFEST_BYTES)[0]
    return read_all(reader.get_tag(repository, ref), MAX_MANIFEST_BYTES)[0]


@dataclass(frozen=True, slots=True)
class Fetched:
    """What was under a tag or digest: the manifest's bytes, or why there are none."""

    ref: str
    data: bytes = b""
    error: DockerCommsError | None = None

    @property
    def digest(self) -> Digest:
        """The digest of the bytes."""
        return digest_of(self.data)

    @property
    def is_tag(self) -> bool:
        """Whether it was asked for by a tag; no tag has a colon."""
        return ":" not in self.ref


def fetch_all(reader: Reader, repository: str, refs: Iterable[str]) -> Iterator[Fetched]:
    """Yield what is under each of `refs`, in their order, several read at once.

    What one cannot be read for is in its `error`; a registry that refuses or is not there ends it.

    Raises:
        AuthError, NetworkError, TooManyRequests, LocalIOError: for whichever comes first.
    """
    failed: list[int] = []

    def get(number: int, ref: str) -> Fetched | None:
        if failed and number > min(failed):  # those before it are read: the caller gets them
            return None
        try:
            with guarded(ref):
                return Fetched(ref, fetch(reader, repository, ref))
        except (NotFoundError, ProtocolError, BadAnswer, InternalError) as error:
            return Fetched(ref, error=error)
        except DockerCommsError:
            failed.append(number)
            raise

    waiting = enumerate(refs)
    while some := list(islice(waiting, _READ_AHEAD)):
        # No thread lives while the caller has its turn: who leaves a generator to the collector
        # would have it wait for threads at a moment when nothing may be waited for.
        with ThreadPoolExecutor(READERS, thread_name_prefix="dockercomms-read") as executor:
            asked = [executor.submit(get, number, ref) for number, ref in some]
        for one in asked:
            found = one.result()
            if found is None:
                raise AssertionError("internal: what failed before it was not raised")
            yield found


def subject_of(data: bytes) -> Digest | None:
    """Return what a manifest has as its subject, however malformed it is otherwise."""
    try:
        return read_facts(data, "manifest").subject
    except ManifestInvalid:
        return None


@dataclass(frozen=True, slots=True)
class Attached:
    """A bundle or a receipt of a message, its manifest's bytes, and the tags that are known."""

    what: Bundle | Receipt
    data: bytes
    tags: tuple[str, ...] = ()

    @property
    def digest(self) -> Digest:
        """The manifest's digest."""
        return self.what.descriptor.digest


def parse_attached(data: bytes, message: Digest | None = None) -> Attached | None:
    """Return the bundle or receipt in `data` if it is one, and of that message."""
    what: Bundle | Receipt
    try:
        what = parse_receipt(data)
    except ProtocolError:
        try:
            what = parse_bundle(data)
        except ProtocolError:
            return None
    return Attached(what, data) if message in (None, message_of(what)) else None


def message_of(what: Bundle | Receipt) -> Digest:
    """Return the digest of the message that a bundle or receipt is about."""
    return what.message if isinstance(what, Receipt) else what.subject.digest


def attached_to(
    reader: ListingReader, repository: str, message: Digest, tags: Iterable[str] = ()
) -> list[Attached]:
    """Return the bundles and receipts of a message: what refers to it, and what is tagged for it.

    Args:
        reader: The store.
        repository: The repository.
        message: The message.
        tags: Tags of bundles and receipts that may be about it.

    Raises:
        RegistryError, NetworkError, LocalIOError: the store cannot tell.
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
            continue  # an index may name what is not there
        digest = fetched.digest
        try:
            with guarded(fetched.ref):
                known = found.get(digest) or parse_attached(fetched.data, message)
        except InternalError:
            continue  # the log tells of it
        if known is not None:
            own = (fetched.ref,) if fetched.is_tag else ()
            found[digest] = replace(known, tags=(*known.tags, *own))
    return list(found.values())


def _may_be_attached(entry: Descriptor) -> bool:
    """Return whether an entry says that it is a bundle or receipt, or says nothing at all."""
    if entry.artifact_type in (ARTIFACT_TYPE_BUNDLE, ARTIFACT_TYPE_RECEIPT):
        return True
    if RECEIPT_FOR in entry.annotations or any(
        key.startswith("dev.sigstore.bundle.") for key in entry.annotations
    ):
        return True
    return entry.artifact_type in UNTELLING_TYPES and not entry.annotations


def read_message(fetched: Fetched, tag: HeldTag | None) -> Message:
    """Return the message that was fetched, which has to be the one that its tag speaks of.

    Raises:
        DockerCommsError: it could not be fetched.
        IntegrityError: the tag speaks of another digest.
        ProtocolError: not a message that this program can read.
    """
    if fetched.error is not None:
        raise fetched.error
    if tag is not None and tag.head not in (None, message_head(fetched.digest)):
        raise IntegrityError(f"tag {tag.name}: the manifest under it is {fetched.digest}")
    return parse_message(fetched.data)


def is_past(message: Message, now: datetime) -> bool:
    """Return whether a message expired, as annotated, more than a day before `now`.

    Source: SPEC.md section 11.
    """
    expires = message.header.expires
    return expires is not None and now - GRACE > expires

"""The bundles of a message: what refers to it first, then what is tagged for it.

Anybody who may write to the repository can add bundles, so each look takes a limited number of
them, and the next one goes on behind: `mark` says where. What cannot be read is told and counts as
tried; nothing here says what a bundle is worth.

Source: SPEC.md sections 2, 5 and 8.

Example:
    >>> from dockercomms.bundles import BundleFinder
    >>> from dockercomms.oci.memory import MemoryRegistry
    >>> from dockercomms.oci.model import digest_of
    >>> finder = BundleFinder(MemoryRegistry(), "team/box")
    >>> finder.look("tags", digest_of(b"a message")).bundles
    ()
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Collection, Iterable, Iterator
from dataclasses import field
from typing import Literal

from dockercomms.discovery import ListingReader
from dockercomms.errors import (
    AuthError,
    IntegrityError,
    LimitError,
    NotFoundError,
    ProtocolError,
    RegistryError,
)
from dockercomms.manifest import parse_bundle
from dockercomms.oci.interface import BlobReader, Reader, read_all
from dockercomms.oci.model import MEDIA_TYPE_EMPTY_CONFIG, Descriptor, Digest
from dockercomms.oci.tag_schema import tag_schema_entries
from dockercomms.protocol import ARTIFACT_TYPE_BUNDLE, PREDICATE_TYPE_MESSAGE
from dockercomms.records import dataclass
from dockercomms.seeking import seek_tags
from dockercomms.trust.bundle import MAX_BUNDLE_BYTES
from dockercomms.trust.checks import MAX_BUNDLES

BUNDLE_CONTENT = "dev.sigstore.bundle.content"
BUNDLE_PREDICATE_TYPE = "dev.sigstore.bundle.predicateType"
"""What cosign writes beside a bundle, and looks for (SPEC.md section 2)."""

Source = Literal["referrers", "tags"]
SOURCES: tuple[Source, ...] = ("referrers", "tags")

_HEAD_DIGITS = 12
"""Hex digits of the message's digest in a bundle's tag."""

_FORBIDDEN = frozenset({401, 403, 404, 405, 501})
"""What a registry answers that does not let tags be listed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What one look at one source brought."""

    bundles: tuple[bytes, ...] = field(default=(), repr=False)
    """Sigstore bundles as JSON, at most `MAX_BUNDLES`, none above `MAX_BUNDLE_BYTES`."""
    problems: tuple[str, ...] = ()
    """Why others could not be read."""
    curable: bool = False
    """One of these is not there, or came as other bytes than were asked for, which may pass."""
    tried: frozenset[Digest] = frozenset()
    """The manifests of all of these."""
    mark: str = ""
    """Where the next look goes on; "" if there is nothing behind."""


@dataclass(frozen=True, slots=True)
class BundleFinder:
    """Finds bundles in one repository. Thread safe.

    Args:
        registry: The store.
        repository: The repository's name in it.
        has_referrers: False where the registry is known to have no referrers API, which saves
            asking for it.
    """

    registry: ListingReader
    repository: str
    has_referrers: bool | None = None

    def look(
        self,
        source: Source,
        subject: Digest,
        *,
        after: str = "",
        known: Collection[Digest] = (),
    ) -> Look:
        """Return the next bundles of `subject` in one of the two sources.

        Args:
            source: Where to look.
            subject: The message.
            after: The `mark` of an earlier look; "" begins anew.
            known: Manifests of bundles that need not be read again.

        Raises:
            AuthError, NetworkError, RegistryError, LocalIOError: the store cannot tell.
            ProtocolError: what it tells is no list.
        """
        refs: Iterator[tuple[str, Digest | str]]
        if source == "referrers":
            refs = ((_rank(entry), entry.digest) for entry in self._referring(subject))
        else:
            refs = ((tag, tag) for tag in self._tags(subject))
        wanted, mark = _next(refs, after)
        bundles, problems, tried, curable = [], [], set(), False
        for ref in wanted:
            try:
                with self._open(ref) as reader:
                    digest = reader.descriptor.digest
                    tried.add(digest)
                    if digest not in known:
                        bundles.append(self._read(reader, subject))
            except (NotFoundError, ProtocolError, LimitError) as error:
                problems.append(f"{ref}: {error.message}")
                curable |= isinstance(error, NotFoundError | IntegrityError)
        return Look(
            bundles=tuple(bundles),
            problems=tuple(problems),
            curable=curable,
            tried=frozenset(tried),
            mark=mark,
        )

    # --- where they are --------------------------------------------------------------------------

    def _referring(self, subject: Digest) -> Iterator[Descriptor]:
        """Yield the entries that may be bundles; an index may name what is not there."""
        try:
            if self.has_referrers is False:
                entries = iter(tag_schema_entries(self.registry, self.repository, subject))
            else:
                # A filter would take all where entries have their config's type (ggcr).
                entries = self.registry.referrers(self.repository, subject)
            yield from filter(_may_be_bundle, entries)
        except NotFoundError:
            return

    def _tags(self, subject: Digest) -> Iterator[str]:
        """Yield the tags of bundles; none where tags cannot be listed."""
        prefix = f"bundle-{subject.partition(':')[2][:_HEAD_DIGITS]}-"
        try:
            yield from seek_tags(
                self.registry, self.repository, prefix, start_after=[prefix.removesuffix("-")]
            )
        except LimitError:
            return  # more tags than anybody can list
        except RegistryError as error:
            if not isinstance(error, AuthError | NotFoundError) and error.status not in _FORBIDDEN:
                raise

    # --- what they are ---------------------------------------------------------------------------

    def _open(self, ref: Digest | str) -> BlobReader:
        if ":" in ref:  # no tag has a colon
            return self.registry.get_manifest(self.repository, Digest(ref))
        return self.registry.get_tag(self.repository, ref)

    def _read(self, reader: BlobReader, subject: Digest) -> bytes:
        """Return the bundle in a manifest, from its layer's descriptor if it stands there.

        Raises:
            ProtocolError: it is no bundle of `subject`, or too large.
            NotFoundError: its blob is missing.
        """
        bundle = parse_bundle(reader_bytes(reader))
        if bundle.subject.digest != subject:
            raise ProtocolError(f"its subject is {bundle.subject.digest}")
        if bundle.layer.size > MAX_BUNDLE_BYTES:
            raise ProtocolError(f"{bundle.layer.size} bytes; at most {MAX_BUNDLE_BYTES} are read")
        return layer_content(self.registry, self.repository, bundle.layer)


def reader_bytes(reader: BlobReader) -> bytes:
    """Return a manifest's bytes, proven to be those of its digest.

    Raises:
        IntegrityError: they are not, or there are more than any bundle needs.
    """
    data, _ = read_all(reader, MAX_BUNDLE_BYTES)
    return data


def layer_content(reader: Reader, repository: str, layer: Descriptor) -> bytes:
    """Return the content of a layer, proven by its digest; without a request if it is inline.

    Raises:
        NotFoundError: there is no such blob.
        IntegrityError: other content came.
    """
    inline = layer.inline()
    if inline is not None:
        return inline
    data, _ = read_all(reader.get_blob(repository, layer.digest, size=layer.size), layer.size)
    return data


def _next(refs: Iterable[tuple[str, Digest | str]], after: str) -> tuple[list[Digest | str], str]:
    """Return the next refs behind the key `after`, by their keys, and the mark for those behind.

    Where nothing is behind it, the look begins anew: something may have come in between. Of a
    list of any length no more is kept than is taken.
    """
    first: list[tuple[str, Digest | str]] = []
    behind: list[tuple[str, Digest | str]] = []
    for ref in refs:
        for kept in (first, behind) if ref[0] > after else (first,):
            if ref not in kept:
                insort(kept, ref)
                del kept[MAX_BUNDLES + 1 :]
    chosen = behind or first
    taken = chosen[:MAX_BUNDLES]
    return [ref for _, ref in taken], taken[-1][0] if len(chosen) > len(taken) else ""


def _may_be_bundle(entry: Descriptor) -> bool:
    """Return whether an entry says that it is a bundle of a message, or says nothing at all."""
    predicate = entry.annotations.get(BUNDLE_PREDICATE_TYPE)
    if entry.artifact_type == ARTIFACT_TYPE_BUNDLE or predicate is not None:
        return True
    return entry.artifact_type in (None, MEDIA_TYPE_EMPTY_CONFIG) and not entry.annotations


def _rank(entry: Descriptor) -> str:
    """Return what sorts entries: first what says that it is a message's, then bundles of others."""
    if entry.annotations.get(BUNDLE_PREDICATE_TYPE) == PREDICATE_TYPE_MESSAGE:
        rank = 0
    else:
        rank = 1 if entry.artifact_type == ARTIFACT_TYPE_BUNDLE else 2
    return f"{rank} {entry.digest}"

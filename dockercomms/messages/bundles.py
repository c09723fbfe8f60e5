"""The bundles of a message, found by its referrers and by their tags.

Every client that can write to the repository can add bundles. So bundles that name a trusted key
are read first, and one run reads a limited number; `Look.mark` tells the next run where to
continue. A bundle that cannot be read is reported and not read again. This module does not verify
bundles.

Source: SPEC.md sections 2, 5 and 8.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import field, replace
from typing import Literal

from dockercomms.errors import (
    AuthError,
    BadAnswer,
    DockerCommsError,
    IntegrityError,
    InternalError,
    LimitError,
    NotFoundError,
    ProtocolError,
    RegistryError,
    UnknownSender,
    VerificationError,
    guarded,
)
from dockercomms.inbox.discover import LISTING_FORBIDDEN, ListingReader, seek_tags
from dockercomms.oci.interface import BlobReader, Reader, read_all, readable
from dockercomms.oci.model import Descriptor, Digest
from dockercomms.oci.tag_schema import tag_schema_entries
from dockercomms.platforms.clock import Clock
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.header import (
    ARTIFACT_TYPE_BUNDLE,
    PREDICATE_TYPE_MESSAGE,
    UNTELLING_TYPES,
)
from dockercomms.protocol.manifest import Receipt, parse_bundle
from dockercomms.protocol.tags import (
    bundle_prefix,
)
from dockercomms.transport.window import workers
from dockercomms.trust.bundle import (
    BUNDLE_PREDICATE_TYPE,
    BUNDLE_SIGNER,
    MAX_BUNDLE_BYTES,
)
from dockercomms.trust.checks import MAX_BUNDLES, RULES, Rules, check_age, check_not_future
from dockercomms.trust.owner import SignatureStatus, Trust
from dockercomms.trust.verifier import Verified, verify_receipt

BUNDLES_A_RUN = 20_000
"""The most bundles that one run reads for a message in each source, and as many more that name a
trusted key. Each costs one request and 0.1 ms (SPEC.md 8.4)."""

Source = Literal["referrers", "tags"]
SOURCES: tuple[Source, ...] = ("referrers", "tags")


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Some of the bundles of one source."""

    bundles: tuple[bytes, ...] = field(default=(), repr=False)
    """Sigstore bundles as JSON: at most `MAX_BUNDLES` of at most `MAX_BUNDLE_BYTES`."""
    problems: tuple[str, ...] = ()
    """The errors of bundles that could not be read."""
    curable: bool = False
    """A later run may read one of these: it was missing or damaged."""
    defect: InternalError | None = None
    """A defect of ours that one of them met."""
    tried: frozenset[Digest] = frozenset()
    """The manifests of all bundles tried."""
    mark: str = ""
    """The position where the next look continues; "" at the end."""


@dataclass(frozen=True, slots=True)
class BundleFinder:
    """Finds bundles in one repository. Thread safe.

    Args:
        registry: The store.
        repository: The repository's name in it.
        has_referrers: False if the registry is known to have no referrers API.
    """

    registry: ListingReader
    repository: str
    has_referrers: bool | None = None

    def looks(
        self,
        source: Source,
        subject: Digest,
        *,
        after: str = "",
        known: Collection[Digest] = (),
        signers: Collection[str] = (),
        limit: int = BUNDLES_A_RUN,
        concurrency: int = 4,
    ) -> Iterator[Look]:
        """Yield the next bundles of `subject` in one source, part by part.

        Lists once; reads the bundles of a part only when the caller asks for it.

        Args:
            source: The way to find them.
            subject: The message.
            after: The `mark` of an earlier look; "" starts from the beginning.
            known: Manifests of bundles that need not be read again.
            signers: The `spki_sha256` of keys: bundles that name one come first.
            limit: The most bundles that name one of these keys, and the most others.
            concurrency: The number of bundles read at the same time.

        Raises:
            AuthError, NetworkError, RegistryError, LocalIOError: the store cannot list them.
            ProtocolError: the store's answer is no list.
        """
        if source == "referrers":
            keys = (f"{_rank(item, signers)} {item.digest}" for item in self._referring(subject))
        else:
            keys = (f"{_TAGGED} {tag}" for tag in self._tags(subject))
        known = set(known)
        marks = _Marks.of(after)
        wanted, more = _next(keys, marks, limit)
        for start in range(0, len(wanted), MAX_BUNDLES):
            part = wanted[start : start + MAX_BUNDLES]
            look = self._look([key.partition(" ")[2] for key in part], subject, known, concurrency)
            known |= look.tried
            marks = marks.moved(part)
            has_more = more or start + MAX_BUNDLES < len(wanted)
            yield replace(look, mark=str(marks) if has_more else "")

    def _look(
        self, refs: Sequence[str], subject: Digest, known: Collection[Digest], concurrency: int
    ) -> Look:
        if len(refs) == 1:  # starting a thread takes longer than many requests to a folder
            found = [self._try(refs[0], subject, known)]
        else:
            with workers(concurrency) as pool:
                found = list(pool.map(lambda ref: self._try(ref, subject, known), refs))
        return Look(
            bundles=tuple(data for _, data, _ in found if data is not None),
            problems=tuple(f"{ref}: {e.message}" for ref, (_, _, e) in zip(refs, found) if e),  # noqa: B905
            curable=any(
                isinstance(e, NotFoundError | IntegrityError | BadAnswer | InternalError)
                or (e is not None and ":" not in ref)  # a tag does not name its digest
                for ref, (_, _, e) in zip(refs, found, strict=True)
            ),
            defect=next((e for _, _, e in found if isinstance(e, InternalError)), None),
            tried=frozenset(digest for digest, _, _ in found if digest is not None),
        )

    def _try(
        self, ref: str, subject: Digest, known: Collection[Digest]
    ) -> tuple[Digest | None, bytes | None, DockerCommsError | None]:
        """Return the digest and the content of a bundle, or the error of reading it."""
        digest: Digest | None = None
        try:
            with guarded(ref), self._open(ref) as reader:
                digest = reader.descriptor.digest
                data = None if digest in known else self._read(reader, subject)
        except (NotFoundError, ProtocolError, LimitError, BadAnswer, InternalError) as error:
            return digest, None, error
        return digest, data, None

    # --- listing ---------------------------------------------------------------------------------

    def _referring(self, subject: Digest) -> Iterator[Descriptor]:
        """Yield the entries that may be bundles. An index may list missing manifests."""
        try:
            if self.has_referrers is False:
                entries = iter(tag_schema_entries(self.registry, self.repository, subject))
            else:
                # No filter: go-containerregistry gives the config's media type as artifact type.
                entries = readable(self.registry.referrers(self.repository, subject))
            yield from filter(_may_be_bundle, entries)
        except NotFoundError:
            return

    def _tags(self, subject: Digest) -> Iterator[str]:
        """Yield the tags of bundles, unless the registry does not allow listing them."""
        prefix = bundle_prefix(subject)
        try:
            yield from seek_tags(
                self.registry, self.repository, prefix, start_after=[prefix.removesuffix("-")]
            )
        except LimitError:
            return  # more pages of tags than we read
        except RegistryError as error:
            known = isinstance(error, AuthError | NotFoundError)
            if not known and error.status not in LISTING_FORBIDDEN:
                raise

    # --- reading ---------------------------------------------------------------------------------

    def _open(self, ref: str) -> BlobReader:
        if ":" in ref:  # no tag has a colon
            return self.registry.get_manifest(self.repository, Digest(ref))
        return self.registry.get_tag(self.repository, ref)

    def _read(self, reader: BlobReader, subject: Digest) -> bytes:
        """Return the bundle in a manifest, from its layer's descriptor if it is inline.

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
    """Return a manifest's bytes, verified by its digest.

    Raises:
        IntegrityError: another digest, or more than `MAX_BUNDLE_BYTES`.
    """
    data, _ = read_all(reader, MAX_BUNDLE_BYTES)
    return data


def layer_content(reader: Reader, repository: str, layer: Descriptor) -> bytes:
    """Return the content of a layer, verified by its digest, without a request if it is inline.

    Raises:
        NotFoundError: the blob does not exist.
        IntegrityError: the store sent other content.
    """
    inline = layer.inline()
    if inline is not None:
        return inline
    data, _ = read_all(reader.get_blob(repository, layer.digest, size=layer.size), layer.size)
    return data


@dataclass(frozen=True, slots=True)
class _Marks:
    """The last keys read: of the bundles that name a trusted key, and of the others."""

    named: str = ""
    others: str = ""

    @classmethod
    def of(cls, text: str) -> _Marks:
        """Parse marks; `str` is the inverse."""
        named, _, others = text.partition("\n")
        return cls(named, others)

    def __str__(self) -> str:
        return f"{self.named}\n{self.others}"

    def moved(self, keys: Iterable[str]) -> _Marks:
        """Return the marks after `keys`, which are in order."""
        marks = self
        for key in keys:
            is_named = key.startswith(_NAMED)
            marks = replace(marks, named=key) if is_named else replace(marks, others=key)
        return marks


def _next(keys: Iterable[str], after: _Marks, limit: int) -> tuple[list[str], bool]:
    """Return the next keys in order, at most `limit` of each kind, and whether there are more.

    After the last key it starts from the beginning, since new keys may have been added. It holds
    at most 2 x `limit` keys of each kind in memory.
    """
    first: tuple[set[str], set[str]] = (set(), set())
    behind: tuple[set[str], set[str]] = (set(), set())
    for key in keys:
        kind = 0 if key.startswith(_NAMED) else 1
        is_behind = key > (after.others if kind else after.named)
        for kept in (first, behind) if is_behind else (first,):
            kept[kind].add(key)
            if len(kept[kind]) > 2 * limit:
                kept[kind].difference_update(sorted(kept[kind])[limit + 1 :])
    named, others = map(sorted, behind if any(behind) else first)
    return [*named[:limit], *others[:limit]], max(len(named), len(others)) > limit


def _may_be_bundle(entry: Descriptor) -> bool:
    """Return whether an entry is marked as a bundle, or has neither a type nor annotations."""
    predicate = entry.annotations.get(BUNDLE_PREDICATE_TYPE)
    if entry.artifact_type == ARTIFACT_TYPE_BUNDLE or predicate is not None:
        return True
    return entry.artifact_type in UNTELLING_TYPES and not entry.annotations


_NAMED, _TAGGED = "0", "1"
"""The ranks of bundles that name a trusted key, and of tags, which name no key."""


def _rank(entry: Descriptor, signers: Collection[str]) -> str:
    """Return the rank of an entry: trusted signers, bundles of messages, other bundles, unknown."""
    if entry.annotations.get(BUNDLE_SIGNER) in signers:
        return _NAMED
    if entry.annotations.get(BUNDLE_PREDICATE_TYPE) == PREDICATE_TYPE_MESSAGE:
        return "1"
    return "2" if entry.artifact_type == ARTIFACT_TYPE_BUNDLE else "3"


class ReceiptVerifier:
    """A verifier of receipts. A receipt is proof only if the policy trusts its signer for it.

    Args:
        repo: The whole name of the repository that holds them.
        clock: The clock of this machine.
        registry: The store, if its clock is to judge besides this machine's.
        trust: Our names, keys and policy.
        rules: The checks of a signature.
    """

    def __init__(
        self,
        *,
        repo: str,
        clock: Clock,
        registry: Reader | None = None,
        trust: Trust,
        rules: Rules = RULES,
    ) -> None:
        self._repo = repo
        self._clock = clock
        self._registry = registry
        self._trust = trust
        # Both rules protect an inbox. A proof does not expire, and it stays a proof if the clock
        # of the receiver was ahead.
        self._rules = rules.without(check_age).without(check_not_future)

    def prove(self, receipt: Receipt, bundle: bytes, *, is_ours: bool = False) -> Verified:
        """Return the proven signer of a receipt.

        Args:
            receipt: The receipt.
            bundle: Its signature.
            is_ours: We wrote it, perhaps under a name that is no longer ours.

        Raises:
            UnknownSender: the policy does not say how its recipient signs.
            VerificationError: the bundle is no signature of the recipient.
            ConfigError, LocalIOError: a root cannot be read.
        """
        theirs = None if self._registry is None else self._registry.server_time()
        terms = self._trust.terms(self._repo, self._clock, theirs)
        if is_ours:
            terms = replace(terms, own_names=(*(terms.own_names or ()), receipt.recipient))
        return verify_receipt(receipt, [bundle], terms, rules=self._rules)

    def verify(
        self, receipt: Receipt, bundle: bytes, *, is_ours: bool = False
    ) -> tuple[SignatureStatus, Verified | None]:
        """Return the status of a receipt's signature, and the signer if it is valid.

        Takes the arguments of `prove`.

        Raises:
            ConfigError, LocalIOError: a root or the policy cannot be read.
        """
        try:
            return "valid", self.prove(receipt, bundle, is_ours=is_ours)
        except UnknownSender:
            return "untrusted", None
        except VerificationError:
            return "invalid", None

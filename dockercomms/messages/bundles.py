"""The bundles of a message: what refers to it first, then what is tagged for it.

Anybody who may write to the repository can add bundles. One listing is read in parts, those first
that name a key which may prove the message; a run reads a limited number, and the next run goes on
behind: `mark` says where. What cannot be read is told and counts as tried; nothing here says what a
bundle is worth.

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
from dockercomms.inbox.discover import ListingReader, seek_tags
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
from dockercomms.trust.bundle import MAX_BUNDLE_BYTES, SigstoreBundle
from dockercomms.trust.checks import MAX_BUNDLES, RULES, Rules, check_age, check_not_future
from dockercomms.trust.owner import SignatureStatus, Trust
from dockercomms.trust.verifier import Verified, verify_receipt

BUNDLE_CONTENT = "dev.sigstore.bundle.content"
BUNDLE_PREDICATE_TYPE = "dev.sigstore.bundle.predicateType"
"""What cosign writes beside a bundle, and looks for (SPEC.md section 2)."""
BUNDLE_SIGNER = "dockercomms.signer"
"""The `spki_sha256` of the signing key: its bundle is found among many (SPEC.md section 2)."""

BUNDLES_A_RUN = 20_000
"""So many bundles of each source are read for one message in a run, and as many more that name a
key which may prove it: each costs one request and 0.1 ms (SPEC.md 8.4)."""

Source = Literal["referrers", "tags"]
SOURCES: tuple[Source, ...] = ("referrers", "tags")


_FORBIDDEN = frozenset({401, 403, 404, 405, 501})
"""What a registry answers that does not let tags be listed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Some of the bundles of one source."""

    bundles: tuple[bytes, ...] = field(default=(), repr=False)
    """Sigstore bundles as JSON, at most `MAX_BUNDLES`, none above `MAX_BUNDLE_BYTES`."""
    problems: tuple[str, ...] = ()
    """Why others could not be read."""
    curable: bool = False
    """One of these is not there, or came as other bytes than were asked for, which may pass."""
    defect: InternalError | None = None
    """A defect of ours that one of them brought out."""
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
        """Yield the next bundles of `subject` in one of the two sources, part by part.

        One listing is made; the bundles of a part are read when it is asked for.

        Args:
            source: Where to look.
            subject: The message.
            after: The `mark` of an earlier look; "" begins anew.
            known: Manifests of bundles that need not be read again.
            signers: The `spki_sha256` of keys: bundles that name one come first.
            limit: At most so many that name one of these keys, and as many others.
            concurrency: How many are read at the same time.

        Raises:
            AuthError, NetworkError, RegistryError, LocalIOError: the store cannot tell.
            ProtocolError: what it tells is no list.
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
        """Read the bundles under tags or digests."""
        if len(refs) == 1:  # a thread takes longer than many a request to a folder
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
        """Return the digest and the content of a bundle, and why it cannot be read."""
        digest: Digest | None = None
        try:
            with guarded(ref), self._open(ref) as reader:
                digest = reader.descriptor.digest
                data = None if digest in known else self._read(reader, subject)
        except (NotFoundError, ProtocolError, LimitError, BadAnswer, InternalError) as error:
            return digest, None, error
        return digest, data, None

    # --- where they are --------------------------------------------------------------------------

    def _referring(self, subject: Digest) -> Iterator[Descriptor]:
        """Yield the entries that may be bundles; an index may name what is not there."""
        try:
            if self.has_referrers is False:
                entries = iter(tag_schema_entries(self.registry, self.repository, subject))
            else:
                # A filter would take all where entries have their config's type (ggcr).
                entries = readable(self.registry.referrers(self.repository, subject))
            yield from filter(_may_be_bundle, entries)
        except NotFoundError:
            return

    def _tags(self, subject: Digest) -> Iterator[str]:
        """Yield the tags of bundles; none where tags cannot be listed."""
        prefix = bundle_prefix(subject)
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

    def _open(self, ref: str) -> BlobReader:
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


@dataclass(frozen=True, slots=True)
class _Marks:
    """How far the bundles were read that name a key which is asked for, and how far all others."""

    named: str = ""
    others: str = ""

    @classmethod
    def of(cls, text: str) -> _Marks:
        """Return the marks in `text`; `str` is the inverse."""
        named, _, others = text.partition("\n")
        return cls(named, others)

    def __str__(self) -> str:
        """Return the text that the state keeps."""
        return f"{self.named}\n{self.others}"

    def moved(self, keys: Iterable[str]) -> _Marks:
        """Return the marks behind `keys`, which are in their order."""
        marks = self
        for key in keys:
            is_named = key.startswith(_NAMED)
            marks = replace(marks, named=key) if is_named else replace(marks, others=key)
        return marks


def _next(keys: Iterable[str], after: _Marks, limit: int) -> tuple[list[str], bool]:
    """Return the next keys in their order, at most `limit` of either kind, and if there are more.

    Where nothing is behind the marks, the look begins anew: something may have come in between. Of
    a list of any length no more is kept than may be taken, twice.
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


def named_signer(bundle: SigstoreBundle) -> dict[str, str]:
    """Return the annotation that names the key which signed; none where a certificate did."""
    return {BUNDLE_SIGNER: bundle.hint} if bundle.hint else {}


def _may_be_bundle(entry: Descriptor) -> bool:
    """Return whether an entry says that it is a bundle of a message, or says nothing at all."""
    predicate = entry.annotations.get(BUNDLE_PREDICATE_TYPE)
    if entry.artifact_type == ARTIFACT_TYPE_BUNDLE or predicate is not None:
        return True
    return entry.artifact_type in UNTELLING_TYPES and not entry.annotations


_NAMED, _TAGGED = "0", "1"
"""The ranks of bundles that name a key which is asked for, and of tags, which tell nothing."""


def _rank(entry: Descriptor, signers: Collection[str]) -> str:
    """Return what sorts entries: named signers, messages' bundles, others, what says nothing."""
    if entry.annotations.get(BUNDLE_SIGNER) in signers:
        return _NAMED
    if entry.annotations.get(BUNDLE_PREDICATE_TYPE) == PREDICATE_TYPE_MESSAGE:
        return "1"
    return "2" if entry.artifact_type == ARTIFACT_TYPE_BUNDLE else "3"


class ReceiptVerifier:
    """Judges receipts: one counts as proof only if its signer satisfies its recipient's entry.

    Args:
        repo: The whole name of the repository they are in.
        clock: The time.
        registry: Where they are; by its clock they may be judged as well. None: by ours alone.
        trust: Whom we believe.
        rules: What is checked.
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
        # Proof does not grow old, and a receiver's clock that was ahead makes it no less a proof:
        # both rules are about what is let in.
        self._rules = rules.without(check_age).without(check_not_future)

    def prove(self, receipt: Receipt, bundle: bytes, *, is_ours: bool = False) -> Verified:
        """Return who signed a receipt.

        Args:
            receipt: The receipt.
            bundle: Its signature.
            is_ours: It was written here, perhaps under a name that is not among ours today.

        Raises:
            UnknownSender: the policy does not say how its recipient signs.
            VerificationError: the bundle does not prove that they wrote it.
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
        """Return what the bundle of a receipt proves, and who signed it if that is trusted.

        Args are those of `prove`.

        Raises:
            ConfigError, LocalIOError: a root, or the policy, cannot be read.
        """
        try:
            return "valid", self.prove(receipt, bundle, is_ours=is_ours)
        except UnknownSender:
            return "untrusted", None
        except VerificationError:
            return "invalid", None

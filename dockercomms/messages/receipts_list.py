"""The search for receipts: for all messages of a sender, or for one message.

A search for all lists tags and keeps their receipts in the state, so each tag is read once. A
receipt is its writer's claim. It is proof only if its signature satisfies the trust entry of the
message's recipient.

Source: SPEC.md section 10.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from functools import partial
from itertools import islice

from dockercomms.errors import (
    BadAnswer,
    IntegrityError,
    InternalError,
    NotFoundError,
    ProtocolError,
    RegistryError,
    UsageError,
    guarded,
)
from dockercomms.inbox.discover import LISTING_FORBIDDEN, seek_tags
from dockercomms.messages.bundles import ReceiptVerifier, layer_content
from dockercomms.oci.interface import BlobReader, read_all, readable
from dockercomms.oci.model import MAX_MANIFEST_BYTES, Descriptor, Digest, digest_of
from dockercomms.oci.reference import is_valid_digest
from dockercomms.oci.stores import Store
from dockercomms.platforms.clock import Clock
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.header import (
    ARTIFACT_TYPE_RECEIPT,
    FULL_PASS_SECONDS,
    MAX_FETCHED_MANIFESTS,
    RECEIPT_FOR,
    UNTELLING_TYPES,
)
from dockercomms.protocol.manifest import Receipt, parse_receipt
from dockercomms.protocol.tags import (
    RECEIPT_PREFIX,
    ReceiptStatus,
    parse_tag,
    receipt_id,
    receipt_prefix,
    receipts_anchor_tag,
    recipient_tag,
)
from dockercomms.state import State
from dockercomms.state.receipts import ReceiptsProgress
from dockercomms.trust.bundle import MAX_BUNDLE_BYTES
from dockercomms.trust.owner import SignatureStatus
from dockercomms.trust.verifier import Verified

MAX_ASKED_MESSAGES = 500
"""The most messages to ask for one by one, the newest: two requests each."""

ProblemHook = Callable[[str], None]
"""Takes the error of a receipt that cannot be read."""


_OLDER_MARKS = 2
"""Older anchors tried as marks before the list is read from further back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptEntry:
    """A receipt, with its writer's claims."""

    digest: Digest
    message: Digest
    id: str
    """The message's id; "" if a 1.0 program left it out and we did not send the message."""
    sender: str
    """The writer of the receipt: the message's recipient."""
    status: ReceiptStatus
    claimed_verified: bool
    reason: str
    created_at: datetime | None
    signature_status: SignatureStatus = "none"
    signer: str | None = None
    """The verified name of the writer; None: the receipt is a claim."""


def list_receipts(
    store: Store,
    *,
    me: str,
    state: State,
    clock: Clock,
    message: str | None = None,
    wanted: Collection[Digest] | None = None,
    verifier: ReceiptVerifier | None = None,
    on_problem: ProblemHook | None = None,
    on_defect: Callable[[InternalError], object] | None = None,
) -> list[ReceiptEntry]:
    """Return the receipts for the messages of `me`, oldest first, one for each outcome.

    Verified receipts and claims are listed beside each other. If the registry does not list tags,
    each message sent from here is asked for its referrers.

    Args:
        store: The repository.
        me: The sender of the messages.
        state: The state of this machine.
        clock: The clock of this machine.
        message: Only receipts of this message: a prefix of its id or digest. A whole digest need
            not be known here.
        wanted: Without `message`: only receipts of these messages.
        verifier: Verifies signatures, which stay unchecked without it.
        on_problem: Called for a receipt that cannot be read.
        on_defect: Called if a receipt met a defect of ours; the others are listed.

    Raises:
        NotFoundError: no sent message begins with the prefix.
        UsageError: several messages begin with it.
        RegistryError, NetworkError: the registry cannot list them.
    """
    search = _Search(store, me, state, clock, on_problem=on_problem, on_defect=on_defect)
    if message is None:
        found = [one for one in search.in_bulk(wanted) if wanted is None or one.message in wanted]
    elif message:
        digest = Digest(message) if is_valid_digest(message) else search.resolve(message)
        found = search.for_message(digest)
    else:
        raise UsageError("message: empty; the start of its id or digest expected")
    return _fold(search.entry(receipt, verifier) for receipt in found)


def _fold(entries: Iterable[ReceiptEntry]) -> list[ReceiptEntry]:
    """Return the newest entry of each outcome and signature status, oldest first.

    Several machines may write one each. An unverified receipt must not replace a verified one.
    """
    newest: dict[tuple[str, SignatureStatus], ReceiptEntry] = {}
    for entry in entries:
        key = (receipt_id(entry.message, entry.sender, entry.status), entry.signature_status)
        known = newest.get(key)
        if known is None or _age(entry) > _age(known):
            newest[key] = entry
    return sorted(newest.values(), key=_age)


def _age(entry: ReceiptEntry) -> tuple[datetime, str]:
    return entry.created_at or datetime.min.replace(tzinfo=UTC), entry.digest


@dataclass(frozen=True, slots=True)
class _Search:
    """One call of `list_receipts`."""

    store: Store
    me: str
    state: State
    clock: Clock
    on_problem: ProblemHook | None = None
    on_defect: Callable[[InternalError], object] | None = None

    def _meet(self, defect: InternalError) -> None:
        if self.on_defect is not None:
            self.on_defect(defect)

    # --- in bulk ---------------------------------------------------------------------------------

    def in_bulk(self, wanted: Collection[Digest] | None = None) -> list[Receipt]:
        """Return the receipts for `me` by tags, or one by one if the registry lists no tags."""
        rows = self.state.outbox.rows(self.store.repo)
        sent = [row.digest for row in rows if row.sender == self.me]
        try:
            found = self._by_tags()
        except RegistryError as error:
            asked = [digest for digest in sent if wanted is None or digest in wanted]
            if error.status not in LISTING_FORBIDDEN or not asked:
                raise
            return [found for one in asked[-MAX_ASKED_MESSAGES:] for found in self.for_message(one)]
        if wanted is None:  # a caller that waits for a proof needs no 1.0 claims
            answered = {one.message for one in found if one.subject is not None}
            found += self._of_1_0([one for one in sent if one not in answered])
        return found

    def _of_1_0(self, unanswered: Sequence[Digest]) -> list[Receipt]:
        """Return the receipts of 1.0 programs, whose tags name only the message.

        Lists the tags of receipts once, from the first message on.
        """
        asked = [receipt_prefix(one) for one in unanswered[-MAX_ASKED_MESSAGES:]]
        if not asked:
            return []
        tags: list[str] = []
        with suppress(NotFoundError):
            tags += seek_tags(
                self.store.registry,
                self.store.repository,
                asked[0] if len(asked) == 1 else RECEIPT_PREFIX,
                start_after=[min(asked)[:-1]],
            )
        known = self.state.receipts.known_tags(self.store.repo, self.me)
        mine = [tag for tag in dict.fromkeys(tags) if tag.startswith(tuple(asked))]
        fresh = [tag for tag in mine if tag not in known][:MAX_FETCHED_MANIFESTS]
        read = self._read_new(fresh, messages=frozenset(unanswered))
        self.state.receipts.add_found(self.store.repo, self.me, read)
        return list(self._kept(read.values()))

    def _by_tags(self) -> list[Receipt]:
        """Return every receipt under a tag for `me`, reading only new tags.

        1. List the tags since the day before the last complete pass; once a day list all.
        2. Read the new ones.
        3. Write the rows, then the progress.
        """
        rows = self.state.receipts
        progress = rows.progress(self.store.repo, self.me)
        known = rows.known_tags(self.store.repo, self.me)
        whole = self._is_due(progress)
        tags, today = self._tags(progress, known, whole=whole)
        fresh = [tag for tag in tags if tag not in known]
        rows.add_found(self.store.repo, self.me, self._read_new(fresh[:MAX_FETCHED_MANIFESTS]))
        if len(fresh) <= MAX_FETCHED_MANIFESTS:
            if whole:
                rows.drop_found(self.store.repo, self.me, known.difference(tags))
            full_pass_at = self.clock.now() if whole else progress.full_pass_at
            rows.set_progress(
                self.store.repo, self.me, ReceiptsProgress(day=today, full_pass_at=full_pass_at)
            )
        return list(self._kept(rows.found(self.store.repo, self.me)))

    def _kept(self, found: Iterable[bytes]) -> Iterator[Receipt]:
        """Yield the receipts of the state, except those that this release cannot parse."""
        for data in found:
            try:
                with guarded("a receipt in the state"):
                    receipt = self._parsed(data, digest_of(data)) if data else None
                if receipt is not None:
                    yield receipt
            except InternalError as error:
                self._meet(error)

    def _is_due(self, progress: ReceiptsProgress) -> bool:
        """Return whether all tags must be listed again."""
        if progress.full_pass_at is None or progress.day is None:
            return True
        age = (self.clock.now() - progress.full_pass_at).total_seconds()
        return not 0 <= age < FULL_PASS_SECONDS  # below 0 our clock was set back

    def _tags(
        self, progress: ReceiptsProgress, known: frozenset[str], *, whole: bool
    ) -> tuple[list[str], date]:
        """Return the tags of receipts for `me`, and the registry's day before they were listed."""
        rt = recipient_tag(self.me)
        marks = [f"receipts-{rt}"]
        before = self.store.registry.server_time()
        if progress.day is not None and not whole:
            # A clock that was ahead once must not hide later receipts
            today = (before or self.clock.now()).date()
            since = min(progress.day, today) - timedelta(days=1)
            days = {said.day for tag in known if (said := parse_tag(tag)) and said.day}
            older = sorted((day for day in days if day < since), reverse=True)[:_OLDER_MARKS]
            marks = [receipts_anchor_tag(rt, day) for day in (since, *older)] + marks
        try:
            listed = dict.fromkeys(
                seek_tags(
                    self.store.registry, self.store.repository, f"receipts-{rt}-", start_after=marks
                )
            )
        except NotFoundError:
            listed = {}  # no such repository: it has no receipts yet
        today = (before or self.store.registry.server_time() or self.clock.now()).date()
        tags = [tag for tag in listed if (said := parse_tag(tag)) and said.kind == "receipts"]
        return tags, today

    def _read_new(
        self, tags: Iterable[str], messages: frozenset[Digest] = frozenset()
    ) -> dict[str, bytes]:
        """Return the manifests of receipts under `tags`; b"" for those that are no receipt of ours.

        A receipt is ours if its sender is `me`, or if it is for one of `messages`. The tag does not
        name the digest, so b"" needs a second answer with the same digest. Without it the next run
        reads the tag again.
        """
        found: dict[str, bytes] = {}
        for tag in tags:
            try:
                with guarded(tag):
                    data = self._read_tag(tag)
                    receipt = None if data is None else self._parsed(data, tag)
            except InternalError as error:
                self._meet(error)
                continue
            except BadAnswer as error:  # the receipt may be sound: the next run reads it again
                self._report(tag, error)
                continue
            if data is None:
                continue
            if receipt is not None and (receipt.sender == self.me or receipt.message in messages):
                found[tag] = data
            elif self._is_confirmed(tag, data):
                found[tag] = b""
        return found

    def _is_confirmed(self, tag: str, data: bytes) -> bool:
        try:
            with guarded(tag):
                return self.store.registry.resolve_tag(
                    self.store.repository, tag
                ).digest == digest_of(data)
        except (RegistryError, ProtocolError, InternalError):
            return False

    def _parsed(self, data: bytes, ref: str) -> Receipt | None:
        """Parse the receipt in `data`; report a failure."""
        try:
            return parse_receipt(data)
        except ProtocolError as error:
            self._report(ref, error)
            return None

    def _report(self, ref: str, error: ProtocolError | BadAnswer) -> None:
        if self.on_problem is not None:
            self.on_problem(
                f"{self.store.repo}: {ref}: no receipt that can be read: {error.message}"
            )

    # --- verifying -------------------------------------------------------------------------------

    def entry(self, receipt: Receipt, verifier: ReceiptVerifier | None) -> ReceiptEntry:
        """Return the entry of a receipt, verified if there is a verifier."""
        status: SignatureStatus = "unchecked" if receipt.layers else "none"
        verified: Verified | None = None
        if receipt.layers and verifier is not None:
            try:
                with guarded(receipt.descriptor.digest):
                    status, verified = self._verify(receipt, verifier)
            except InternalError as error:
                self._meet(error)
        return ReceiptEntry(
            digest=receipt.descriptor.digest,
            message=receipt.message,
            id=receipt.message_id or self._sent_id(receipt.message),
            sender=receipt.recipient,
            status=receipt.status,
            claimed_verified=receipt.verified,
            reason=receipt.reason,
            created_at=receipt.created_at,
            signature_status=status,
            signer=None if verified is None else verified.name,
        )

    def _sent_id(self, message: Digest) -> str:
        """Return the id of a message that was sent from here, else ""."""
        return next((row.id for row in self.state.sends.published(self.store.repo, message)), "")

    def _verify(
        self, receipt: Receipt, verifier: ReceiptVerifier
    ) -> tuple[SignatureStatus, Verified | None]:
        if len(receipt.layers) != 1 or receipt.layers[0].size > MAX_BUNDLE_BYTES:
            return "invalid", None
        if not self._is_recipients(receipt):
            return "invalid", None
        try:
            bundle = layer_content(self.store.registry, self.store.repository, receipt.layers[0])
        except (NotFoundError, ProtocolError):
            return "invalid", None
        is_ours = self.state.receipts.has_written(receipt.descriptor.digest)
        return verifier.verify(receipt, bundle, is_ours=is_ours)

    def _is_recipients(self, receipt: Receipt) -> bool:
        """Return whether we sent the message, as far as we know, to the writer of the receipt.

        Another trusted sender can sign a receipt for any message in their own name.
        """
        sent = self.state.sends.published(self.store.repo, receipt.message)
        said = (receipt.message_id, receipt.recipient)
        return all((row.id, row.recipient) == said for row in sent)

    # --- for one message -------------------------------------------------------------------------

    def for_message(self, message: Digest) -> list[Receipt]:
        """Return the receipts of one message, found by its referrers and by their tags."""
        found: dict[Digest, Receipt] = {}
        for digest in self._referring(message):
            self._keep(found, partial(self._read_digest, digest), digest, message)
        prefix = receipt_prefix(message)
        try:
            tags = dict.fromkeys(
                seek_tags(
                    self.store.registry, self.store.repository, prefix, start_after=[prefix[:-1]]
                )
            )
        except NotFoundError:
            tags = {}
        except RegistryError as error:
            if error.status not in LISTING_FORBIDDEN:
                raise
            tags = {}  # the referrers were listed before
        for tag in islice(tags, MAX_FETCHED_MANIFESTS):
            self._keep(found, partial(self._read_tag, tag), tag, message)
        return list(found.values())

    def _keep(
        self,
        found: dict[Digest, Receipt],
        read: Callable[[], bytes | None],
        ref: str,
        message: Digest,
    ) -> None:
        """Add the result of `read` to `found`, if it is a receipt of that message."""
        try:
            with guarded(ref):
                data = read()
                receipt = None if data is None else self._parsed(data, ref)
        except InternalError as error:
            self._meet(error)
            return
        if receipt is not None and receipt.message == message:
            found[receipt.descriptor.digest] = receipt

    def resolve(self, prefix: str) -> Digest:
        """Return the digest of the one sent message whose id or digest begins with `prefix`."""
        found = {
            row.digest: row.id
            for row in self.state.sends.published(self.store.repo, prefix)
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
            f"{self.store.repo}: nothing sent by {self.me!r:.100} from here begins with "
            f"{prefix!r:.100}",
            hint="give the message's whole digest to look for its receipts all the same",
        )

    def _referring(self, message: Digest) -> Iterator[Digest]:
        try:
            with guarded(f"the referrers of {message}"):
                for entry in readable(
                    self.store.registry.referrers(self.store.repository, message)
                ):
                    if _may_be_receipt(entry):
                        yield entry.digest
        except NotFoundError:
            return  # the repository or the message was deleted
        except InternalError as error:
            self._meet(error)

    def _read_tag(self, tag: str) -> bytes | None:
        try:
            return _read_manifest(self.store.registry.get_tag(self.store.repository, tag))
        except NotFoundError:
            return None  # deleted meanwhile
        except IntegrityError as error:
            self._report(tag, error)  # damaged on the way: the next run reads it again
            return None

    def _read_digest(self, digest: Digest) -> bytes | None:
        try:
            return _read_manifest(self.store.registry.get_manifest(self.store.repository, digest))
        except NotFoundError:
            return None  # an index may list missing manifests
        except IntegrityError as error:
            self._report(digest, error)
            return None


def _read_manifest(reader: BlobReader) -> bytes:
    return read_all(reader, MAX_MANIFEST_BYTES)[0]


def _may_be_receipt(entry: Descriptor) -> bool:
    """Return whether an entry is marked as a receipt, or has neither a type nor annotations.

    go-containerregistry gives the config's media type as the artifact type.
    """
    if entry.artifact_type == ARTIFACT_TYPE_RECEIPT or RECEIPT_FOR in entry.annotations:
        return True
    return entry.artifact_type in UNTELLING_TYPES and not entry.annotations

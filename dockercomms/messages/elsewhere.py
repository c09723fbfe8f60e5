"""The first look at an inbox, which leaves out messages that we received elsewhere.

A state without rows of an inbox is new, or its file was lost. Another machine of ours, or this one
before the loss, may have received the messages. Receipts signed by our keys prove that:

1. List all tags of receipts once, and read those that may answer these messages. If the registry
   does not list tags, ask for the referrers of each message.
2. Verify each receipt; only our own keys and the policy's entry for our own name count.
3. Give each message with a valid receipt the state `elsewhere`.

Source: SPEC.md section 7.7.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

from dockercomms.errors import (
    DockerCommsError,
    LimitError,
    NetworkError,
    NotFoundError,
    Notice,
    NoticeHook,
    ProtocolError,
    RegistryError,
    TooManyRequests,
    VerificationError,
)
from dockercomms.inbox.discover import seek_tags
from dockercomms.inbox.entries import Entry
from dockercomms.inbox.inbox import Inbox
from dockercomms.messages.bundles import layer_content
from dockercomms.oci.interface import read_all, readable
from dockercomms.oci.model import MAX_MANIFEST_BYTES, Digest
from dockercomms.oci.stores import Store
from dockercomms.platforms.clock import Clock
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.header import ARTIFACT_TYPE_RECEIPT, MAX_FETCHED_MANIFESTS, RECEIPT_FOR
from dockercomms.protocol.manifest import Receipt, parse_receipt
from dockercomms.protocol.tags import (
    RECEIPT_PREFIX,
    ReceiptStatus,
    bell_tag,
    digest_head,
    receipt_id,
    recipient_tag,
)
from dockercomms.transport.window import workers
from dockercomms.trust.bundle import MAX_BUNDLE_BYTES
from dockercomms.trust.checks import MAX_BUNDLES, RULES, check_age, check_not_future
from dockercomms.trust.owner import Trust
from dockercomms.trust.verifier import Verified, verify_receipt

MAX_ASKED_MESSAGES = 500
"""The most messages whose referrers one look asks for, if the registry does not list tags."""

MAX_FAILED_MESSAGES = 3
"""After so many failures of the network, one look reads no more receipts."""

_TAG = re.compile(r"receipt-(?P<head>[0-9a-f]{12})-.*-(?P<rid>[0-9a-f]{6})")
_STATUSES: tuple[ReceiptStatus, ...] = ("accepted", "rejected")

_RULES = RULES.without(check_age).without(check_not_future)
"""A proof does not expire, and our own clock may have been wrong."""


@dataclass(frozen=True, slots=True)
class FirstLook:
    """The result of a first look at the entries of an inbox."""

    left: Sequence[Entry]
    """Entries to receive."""
    elsewhere: Sequence[Entry] = ()
    """Entries with a valid receipt of ours."""
    waiting: Sequence[tuple[Entry, DockerCommsError]] = ()
    """Entries whose receipts cannot be read now, with the error: not received yet."""
    unproven: int = 0
    """The number of messages whose receipts have no valid signature of ours."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """The receipts of one message, judged."""

    proof: tuple[Receipt, Verified] | None = None
    claimed: bool = False
    """A receipt exists, by any writer."""
    error: DockerCommsError | None = None
    asked: bool = True
    """False if this look sent no request for it, because of a limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnReceipts:
    """A search for messages of an inbox that our keys have acknowledged."""

    store: Store
    clock: Clock
    trusts: Callable[[], Sequence[Trust]]
    """Returns a trust for each of our keys; called when a receipt is to be verified."""
    concurrency: int = 4

    def look(self, inbox: Inbox, entries: Sequence[Entry], *, complete: bool) -> FirstLook:
        """Return the entries to receive, and mark the others as received elsewhere.

        After the first look, which may take several runs, all entries are returned.

        Args:
            inbox: The inbox.
            entries: Its entries, read.
            complete: The inbox was polled completely, and `entries` has all its entries.

        Raises:
            ConfigError, LocalIOError, UsageError: the policy, the keys or the state.
        """
        if not inbox.is_first_look:
            return FirstLook(entries)
        unread = [entry for entry in entries if entry.state == "new" and entry.header is None]
        asked = {
            entry.digest: entry
            for entry in entries
            if entry.digest is not None and entry.header is not None and entry.state != "refused"
            # `ack` of a message that was only listed does not mean that another machine has it
            if not inbox.has_answered(entry.digest)
        }
        answers = self._answers(inbox, list(asked)) if asked else {}
        found: list[Entry] = []
        for digest, answer in answers.items():
            if answer.proof is not None:
                inbox.set_elsewhere(digest, _reason(*answer.proof))
                found.append(asked[digest])
        waiting = [(asked[digest], one.error) for digest, one in answers.items() if one.error]
        out = {digest for digest, one in answers.items() if one.proof or one.error or not one.asked}
        # Rows left unread by the limit of a run are not checked yet; `fetch` raises failures
        late = {entry.key for entry in unread if not inbox.has_failed(entry)}
        complete = complete and not inbox.waiting and len(asked) < MAX_FETCHED_MANIFESTS
        if complete and not waiting and not unread and all(one.asked for one in answers.values()):
            inbox.end_first_look()
        return FirstLook(
            [entry for entry in entries if entry.digest not in out and entry.key not in late],
            found,
            waiting,
            sum(one.claimed and one.proof is None for one in answers.values()),
        )

    def _answers(self, inbox: Inbox, messages: Sequence[Digest]) -> dict[Digest, _Answer]:
        refs: dict[Digest, list[str] | None]
        try:
            refs = {**self._tagged(inbox, messages)}
        except (NetworkError, RegistryError, ProtocolError, LimitError):
            refs = dict.fromkeys(messages[:MAX_ASKED_MESSAGES])  # ask for each one's referrers
        if not refs:
            return {}
        trusts = self.trusts()
        failed: list[Digest] = []

        def answer(item: tuple[Digest, list[str] | None]) -> _Answer:
            message, tags = item
            if len(failed) >= MAX_FAILED_MESSAGES:
                return _Answer(asked=False)
            try:
                if tags is None:
                    return self._judge(inbox, message, self._referring(message), trusts)
                return self._judge(inbox, message, self._read(tags), trusts, claimed=True)
            except DockerCommsError as error:
                if isinstance(error, NetworkError | TooManyRequests):
                    failed.append(message)
                return _Answer(error=error)

        with workers(self.concurrency) as pool:
            wanted = list(islice(refs.items(), MAX_FETCHED_MANIFESTS))
            answers = dict(zip(refs, pool.map(answer, wanted), strict=False))
        left = set(refs if None not in refs.values() else messages) - set(answers)
        return {**answers, **{message: _Answer(asked=False) for message in left}}

    # --- listing ---------------------------------------------------------------------------------

    def _tagged(self, inbox: Inbox, messages: Sequence[Digest]) -> dict[Digest, list[str]]:
        """Return the tags that may be receipts of messages, from one listing."""
        by_head: dict[str, list[Digest]] = {}
        for message in messages:
            by_head.setdefault(digest_head(message), []).append(message)
        tags: dict[Digest, list[str]] = {}
        marks = [RECEIPT_PREFIX.rstrip("-"), bell_tag(recipient_tag(inbox.me))]
        try:
            for tag in seek_tags(
                self.store.registry, self.store.repository, RECEIPT_PREFIX, start_after=marks
            ):
                match = _TAG.fullmatch(tag)
                for message in () if match is None else by_head.get(match["head"], ()):
                    tags.setdefault(message, []).append(tag)
        except NotFoundError:
            return {}  # the repository was deleted
        # Tags that end like ours come first, since only `MAX_BUNDLES` of a message are read.
        return {
            message: [tag for _, tag in sorted((tag[-6:] not in ours, tag) for tag in found)]
            for message, found in tags.items()
            for ours in (_rids(message, inbox.me),)
        }

    def _read(self, tags: Sequence[str]) -> Iterator[Receipt]:
        """Yield the receipts under tags, without repeats."""
        seen: set[Digest] = set()
        for tag in tags[:MAX_BUNDLES]:
            try:
                data, found = read_all(
                    self.store.registry.get_tag(self.store.repository, tag), MAX_MANIFEST_BYTES
                )
                if found.digest not in seen:
                    seen.add(found.digest)
                    yield parse_receipt(data)
            except (NotFoundError, ProtocolError):
                continue  # deleted meanwhile, damaged on the way, or no receipt

    def _referring(self, message: Digest) -> Iterator[Receipt]:
        """Yield the receipts that refer to a message."""
        try:
            entries = [
                entry
                for entry in readable(self.store.registry.referrers(self.store.repository, message))
                if entry.artifact_type == ARTIFACT_TYPE_RECEIPT or RECEIPT_FOR in entry.annotations
            ]
        except NotFoundError:
            return
        for entry in entries[:MAX_BUNDLES]:
            try:
                reader = self.store.registry.get_manifest(self.store.repository, entry.digest)
                yield parse_receipt(read_all(reader, MAX_MANIFEST_BYTES)[0])
            except (NotFoundError, ProtocolError):
                continue

    # --- verifying -------------------------------------------------------------------------------

    def _judge(
        self,
        inbox: Inbox,
        message: Digest,
        receipts: Iterator[Receipt],
        trusts: Sequence[Trust],
        *,
        claimed: bool = False,
    ) -> _Answer:
        """Return the first proof among the receipts."""
        for receipt in receipts:
            claimed = True
            if receipt.message == message and receipt.recipient == inbox.me:
                verified = self._proof(inbox.repo, receipt, trusts)
                if verified is not None:
                    return _Answer((receipt, verified), claimed)
        return _Answer(claimed=claimed)

    def _proof(self, repo: str, receipt: Receipt, trusts: Sequence[Trust]) -> Verified | None:
        """Return our key or identity that signed a receipt, if one did."""
        if len(receipt.layers) != 1 or receipt.layers[0].size > MAX_BUNDLE_BYTES:
            return None
        try:
            bundle = layer_content(self.store.registry, self.store.repository, receipt.layers[0])
        except (NotFoundError, ProtocolError):
            return None
        for trust in trusts:
            # We wrote a receipt to the sender of its message, whatever that name is.
            terms = replace(trust, me=(*trust.me, receipt.sender)).terms(repo, self.clock)
            try:
                return verify_receipt(receipt, [bundle], terms, rules=_RULES)
            except VerificationError:
                continue
        return None


def _rids(message: Digest, me: str) -> frozenset[str]:
    """Return the ends of the tags of our own receipts for a message."""
    return frozenset(receipt_id(message, me, status)[:6] for status in _STATUSES)


def _reason(receipt: Receipt, verified: Verified) -> str:
    """Return the text of the proof that a message was received elsewhere."""
    when = "" if receipt.created_at is None else f" {receipt.created_at:%Y-%m-%d %H:%MZ}"
    return f"{receipt.status}{when}, says a receipt signed by {verified.signer}"


def tell_first_look(look: FirstLook, inbox: Inbox, on_notice: NoticeHook | None) -> None:
    """Report the result of a first look, unless it is empty."""
    if on_notice is None:
        return
    if look.elsewhere:
        number = len(look.elsewhere)
        on_notice(
            Notice(
                "elsewhere",
                f"received elsewhere: {number} for {inbox.me}, according to receipts signed with "
                "your keys; not received again. List them with 'dockercomms inbox --all', receive "
                "one with 'dockercomms recv ID' or all with --redeliver",
            )
        )
    if look.unproven:
        on_notice(
            Notice(
                "elsewhere",
                f"{look.unproven} new for {inbox.me} with a receipt that none of your keys "
                "signed (unsigned, or signed with a key that is not here); they count as new",
            )
        )
    for entry, error in look.waiting:
        on_notice(
            Notice(
                "elsewhere",
                f"{entry.digest}: it may have been received elsewhere, and its receipts cannot be "
                f"read now: {error}",
            )
        )

"""Verifying and signing objects by themselves: messages, receipts, any manifest, and files.

What is no message of ours is approved of: the statement that `cosign sign` writes, which says that
its signer vouches for the content, and not to whom it is sent.

Source: SPEC.md section 9.

Example:
    >>> import pathlib, tempfile
    >>> from dockercomms.messages.sign import sign_file, verify_file
    >>> from dockercomms.platforms.clock import SystemClock
    >>> from dockercomms.trust.keys import PrivateKey
    >>> from dockercomms.trust.signing import KeySigner
    >>> from dockercomms.trust.owner import Trust
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "a.txt"
    >>> _ = path.write_text("hello")
    >>> key = PrivateKey.generate()
    >>> bundle = sign_file(path, KeySigner(key)).bundle
    >>> trust = Trust(me=("alice",), own_key=key.public_key())
    >>> verify_file(path, bundle, trust=trust, clock=SystemClock()).verified.own
    True

"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from dockercomms.errors import (
    NoticeHook,
    ProtocolError,
    RegistryError,
    UnknownSender,
    Unsigned,
    UsageError,
    VerificationError,
)
from dockercomms.inbox.discover import ListingReader
from dockercomms.messages.bundles import SOURCES, BundleFinder, ReceiptVerifier, layer_content
from dockercomms.messages.publish import FormChoice, Publisher, ReferrersIndex
from dockercomms.messages.verify import MessageVerifier, Withheld
from dockercomms.oci.interface import Registry, read_all
from dockercomms.oci.model import MAX_MANIFEST_BYTES, READ_BYTES, Descriptor, Digest
from dockercomms.platforms.clock import Clock
from dockercomms.platforms.files import local_errors
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.header import (
    ARTIFACT_TYPE_MESSAGE,
    ARTIFACT_TYPE_RECEIPT,
    PREDICATE_TYPE_MESSAGE,
    MessageHeader,
)
from dockercomms.protocol.manifest import Message, Receipt, kind_of, parse_message, parse_receipt
from dockercomms.state import State
from dockercomms.trust import bundle as dsse
from dockercomms.trust.approvals import verify_approval
from dockercomms.trust.checks import MAX_BUNDLES
from dockercomms.trust.owner import Trust
from dockercomms.trust.signing import SignedBy, Signer
from dockercomms.trust.statement import PREDICATE_TYPE_COSIGN_SIGN
from dockercomms.trust.verifier import Verified

What = Literal["message", "receipt", "object", "file"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """Who signed an object, proven."""

    what: What
    digest: Digest
    verified: Verified
    id: str = ""
    """Of a message or receipt: the message's id."""
    recipient: str = ""
    """For whom it is; not necessarily for us."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What was signed, and by whom."""

    subject: Digest
    signed_by: SignedBy
    bundle: bytes
    """The Sigstore bundle, as JSON."""
    attached: Digest | None = None
    """The manifest that holds the bundle and refers to the subject; None for a file."""
    header: MessageHeader | None = None
    """What the signed message says of itself; None: it is no message."""


@dataclass(frozen=True, slots=True)
class _Found:
    """A manifest that was fetched, and what it is."""

    descriptor: Descriptor
    data: bytes
    message: Message | None = None
    receipt: Receipt | None = None


def _fetch(registry: ListingReader, repository: str, reference: str) -> _Found:
    """Return what a tag or digest names.

    Raises:
        NotFoundError: it is not there. ProtocolError: it calls itself ours, and is malformed.
    """
    if ":" in reference:
        reader = registry.get_manifest(repository, Digest(reference))
    else:
        reader = registry.get_tag(repository, reference)
    data, descriptor = read_all(reader, MAX_MANIFEST_BYTES)
    kind = kind_of(data, reference)
    if kind == ARTIFACT_TYPE_MESSAGE:
        return _Found(descriptor, data, message=parse_message(data))
    if kind == ARTIFACT_TYPE_RECEIPT:
        return _Found(descriptor, data, receipt=parse_receipt(data))
    return _Found(descriptor, data)


# --- verifying -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectVerifier:
    """Says who signed the objects of one repository, whoever they are for."""

    registry: ListingReader
    repository: str
    """The repository's name in the store."""
    repo: str
    """Its whole name."""
    state: State
    clock: Clock
    trust: Trust
    words: tuple[str, ...] = ()
    """What the command lines in hints repeat: who we are, and where."""

    def verify(self, reference: str) -> Verification:
        """Return who signed what a tag or digest names.

        A message or receipt for somebody else is verified as they would, by our policy.

        Raises:
            Unsigned, UnknownSender, VerificationError: nobody whom the policy trusts.
            NotFoundError: it is not there.
            ProtocolError: it calls itself a message or receipt, and is malformed.
            RegistryError, NetworkError: the registry cannot tell.
        """
        found = _fetch(self.registry, self.repository, reference)
        if found.message is not None:
            return self.verify_message(found.message)
        if found.receipt is not None:
            return self._verify_receipt(found.receipt)
        return self._verify_foreign(found.descriptor)

    def verify_message(self, message: Message) -> Verification:
        """Return who signed a message that was fetched; see `verify`."""
        header = message.header
        verifier = MessageVerifier(
            self.registry,
            self.repository,
            repo=self.repo,
            me=header.recipient,
            state=self.state,
            clock=self.clock,
            trust=self._trust_of(header.recipient),
            words=self.words,
        )
        verdict = verifier.judge(message)
        if isinstance(verdict, Withheld):
            raise verdict.error
        if verdict.verified is None:
            raise Unsigned(
                f"message {header.id!r:.60}: the policy takes it without a signature; that "
                f"{header.sender!r:.100} sent it is a claim"
            )
        return Verification(
            what="message",
            digest=message.digest,
            verified=verdict.verified,
            id=header.id,
            recipient=header.recipient,
        )

    def _trust_of(self, recipient: str) -> Trust:
        return replace(self.trust, me=(*self.trust.me, recipient), own_names=self.trust.me)

    def _verify_receipt(self, receipt: Receipt) -> Verification:
        if len(receipt.layers) != 1:
            raise Unsigned(f"receipt of {receipt.recipient!r:.100}: not signed")
        bundle = layer_content(self.registry, self.repository, receipt.layers[0])
        trust = self._trust_of(receipt.sender)
        is_ours = self.state.receipts.has_written(receipt.descriptor.digest)
        verifier = ReceiptVerifier(
            repo=self.repo, clock=self.clock, registry=self.registry, trust=trust
        )
        return Verification(
            what="receipt",
            digest=receipt.descriptor.digest,
            verified=verifier.prove(receipt, bundle, is_ours=is_ours),
            id=receipt.message_id,
            recipient=receipt.sender,
        )

    def _verify_foreign(self, subject: Descriptor) -> Verification:
        """Return who approves of a manifest that is none of ours."""
        terms = self.trust.terms(self.repo, self.clock)
        finder = BundleFinder(self.registry, self.repository)
        failures: list[VerificationError | ProtocolError] = []
        known: frozenset[Digest] = frozenset()
        for source in SOURCES:
            for look in finder.looks(source, subject.digest, known=known, signers=self._signers()):
                known |= look.tried
                reasons: list[VerificationError | ProtocolError] = [
                    ProtocolError(problem) for problem in look.problems
                ]
                for bundle in look.bundles:
                    try:
                        verified = verify_approval(
                            bundle, subject.digest, terms, title=subject.digest
                        )
                    except (VerificationError, ProtocolError) as error:
                        reasons.append(error)
                        continue
                    return Verification(what="object", digest=subject.digest, verified=verified)
                failures = [*failures, *reasons][:MAX_BUNDLES]
        raise _nobody(subject.digest, failures)

    def _signers(self) -> frozenset[str]:
        """Return the `spki_sha256` of every key whose approval counts."""
        keys = [key.key for sender in self.trust.policy.senders for key in sender.keys]
        own = [] if self.trust.own_key is None else [self.trust.own_key]
        return frozenset(key.spki_sha256 for key in (*keys, *own))


def verify(
    registry: ListingReader,
    repository: str,
    reference: str,
    *,
    repo: str,
    state: State,
    clock: Clock,
    trust: Trust,
) -> Verification:
    """Return who signed what a tag or digest names; see `ObjectVerifier.verify`."""
    verifier = ObjectVerifier(
        registry=registry, repository=repository, repo=repo, state=state, clock=clock, trust=trust
    )
    return verifier.verify(reference)


def _nobody(
    digest: Digest, failures: Sequence[VerificationError | ProtocolError]
) -> VerificationError:
    """Return the error about an object that nobody whom the policy trusts has signed."""
    if not failures:
        return Unsigned(f"{digest}: not signed")
    strangers = all(isinstance(error, UnknownSender) for error in failures)
    kind = UnknownSender if strangers else VerificationError
    reasons = "".join(f"\n  {error.message}" for error in failures)
    return kind(f"{digest}: no signature of anybody whom the policy trusts{reasons}")


def verify_file(path: Path, bundle: bytes, *, trust: Trust, clock: Clock) -> Verification:
    """Return who approves of the file `path`, by the Sigstore bundle `bundle`. Asks no network.

    Raises:
        UnknownSender, VerificationError: nobody whom the policy trusts.
        VerificationError: the file begins as the signed bytes of an envelope do: with one key, the
            signature of a message would count as that of a file.
        ProtocolError: not a bundle.
        LocalIOError: the file cannot be read.
    """
    with local_errors(str(path)), path.open("rb") as file:
        start = file.read(len(dsse.SIGNED_PREFIX))
        hashed = hashlib.sha256(start)
        while piece := file.read(READ_BYTES):
            hashed.update(piece)
    if start == dsse.SIGNED_PREFIX:
        raise VerificationError(
            f"{path.name}: begins with {start.decode()!r}, as the signed bytes of a message do: a "
            "message's signature would pass for one of this file"
        )
    digest = Digest(f"sha256:{hashed.hexdigest()}")
    verified = verify_approval(bundle, digest, trust.terms("", clock), title=path.name)
    return Verification(what="file", digest=digest, verified=verified)


# --- signing -------------------------------------------------------------------------------------


def sign(
    registry: Registry,
    repository: str,
    reference: str,
    *,
    repo: str,
    state: State,
    clock: Clock,
    signer: Signer,
    names: Sequence[str] = (),
    is_message: bool = False,
    index: ReferrersIndex = "auto",
    manifest_form: FormChoice = "auto",
    on_notice: NoticeHook | None = None,
) -> Signature:
    """Sign what a tag or digest names, and attach the signature to it.

    A message that one of `names` sent is signed as its sender does; anything else is approved of.

    Args:
        registry: The store.
        repository: The repository's name in it.
        reference: A tag or digest.
        repo: The repository's whole name.
        state: Whose journal says what was sent from here.
        clock: The time.
        signer: Signs.
        names: Our own names.
        is_message: The caller knows that it is a message, and means to sign it.
        index: Whether the fallback index is written.
        manifest_form: The form of the signature's manifest; auto: that of a message that is signed,
            or the one that the registry takes.
        on_notice: Called with what the user may want to know.

    Raises:
        UsageError: a message that was not sent from here, and `is_message` is not said.
        NotFoundError: it is not there.
        SigningError, VerificationError: nothing was signed, and nothing attached.
        RegistryError, NetworkError: the registry refused, or did not answer.
    """
    publisher = Publisher(
        registry=registry,
        repository=repository,
        repo=repo,
        state=state,
        clock=clock,
        on_notice=on_notice,
        manifest_form=manifest_form,
    )
    found = _fetch(registry, repository, reference)
    message, subject = found.message, found.descriptor
    if message is not None and not is_message:
        _need_own(message, state)
    if message is not None and message.header.sender in names:
        bundle, predicate_type = signer.sign(message, found.data), PREDICATE_TYPE_MESSAGE
    else:
        bundle = signer.approve(f"{repo}@{subject.digest}", subject.digest)
        predicate_type = PREDICATE_TYPE_COSIGN_SIGN
    if manifest_form == "auto" and message is not None:
        publisher = replace(publisher, manifest_form=message.form)

    def attach() -> Digest:
        publisher.ensure_config()
        return publisher.push_bundle(
            subject.bare(), bundle, predicate_type=predicate_type, index=index, fresh=False
        )

    try:
        attached = attach()
    except RegistryError as error:
        if not publisher.learns_image_form(error):
            raise
        attached = attach()
    return Signature(
        subject=subject.digest,
        signed_by=signer.signed_by,
        bundle=bundle,
        attached=attached,
        header=None if message is None else message.header,
    )


def _need_own(message: Message, state: State) -> None:
    """Refuse a message that was not sent from here: whoever can move a tag chooses what it is.

    Raises:
        UsageError: it was not.
    """
    header = message.header
    if state.outbox.sender_of(header.id, message.digest) == header.sender:
        return
    raise UsageError(
        f"{message.digest}: a message that was not sent from here: from {header.sender!r:.100} to "
        f"{header.recipient!r:.100}, {header.display_name!r:.100}, {header.total_bytes} bytes",
        hint="if you mean to sign that you sent or approve of it: add --message",
    )


def sign_file(path: Path, signer: Signer) -> Signature:
    """Approve of the file `path`.

    Raises:
        SigningError, VerificationError: nothing was signed.
        LocalIOError: the file cannot be read.
    """
    from dockercomms.messages.place import file_digest  # noqa: PLC0415 - `send` signs no file

    digest = file_digest(path)
    bundle = signer.approve(path.name, digest)
    return Signature(subject=digest, signed_by=signer.signed_by, bundle=bundle)

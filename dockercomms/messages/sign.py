"""Signing and verification of single objects: messages, receipts, other manifests and files.

A message of ours is signed with its own statement. Other objects get an approval: the statement of
`cosign sign`, by which the signer vouches for the content without naming a recipient.

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
from dockercomms.messages.bundles import SOURCES, BundleFinder, ReceiptVerifier, layer_content
from dockercomms.messages.publish import FormChoice, Publisher, ReferrersIndex
from dockercomms.messages.verify import MessageVerifier, Withheld
from dockercomms.oci.interface import Registry, read_all
from dockercomms.oci.model import MAX_MANIFEST_BYTES, READ_BYTES, Descriptor, Digest
from dockercomms.oci.stores import Store
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
from dockercomms.trust.approvals import verify_approval
from dockercomms.trust.bundle import SIGNED_PREFIX
from dockercomms.trust.checks import MAX_BUNDLES
from dockercomms.trust.owner import Trust
from dockercomms.trust.signing import SignedBy, Signer
from dockercomms.trust.statement import PREDICATE_TYPE_COSIGN_SIGN
from dockercomms.trust.verifier import Verified

What = Literal["message", "receipt", "object", "file"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The proven signer of an object."""

    what: What
    digest: Digest
    verified: Verified
    id: str = ""
    """The message's id, also for a receipt."""
    recipient: str = ""
    """The recipient's name, not necessarily ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """A signature that we made."""

    subject: Digest
    signed_by: SignedBy
    bundle: bytes
    """The Sigstore bundle, as JSON."""
    attached: Digest | None = None
    """The manifest that holds the bundle and refers to the subject; None for a file."""
    header: MessageHeader | None = None
    """The header of a signed message; None for other objects."""


@dataclass(frozen=True, slots=True)
class _Found:
    """A fetched manifest, parsed if it is a message or receipt."""

    descriptor: Descriptor
    data: bytes
    message: Message | None = None
    receipt: Receipt | None = None


def _fetch(store: Store, reference: str) -> _Found:
    """Fetch the manifest of a tag or digest.

    Raises:
        NotFoundError: it does not exist. ProtocolError: it is marked as ours, but malformed.
    """
    if ":" in reference:
        reader = store.registry.get_manifest(store.repository, Digest(reference))
    else:
        reader = store.registry.get_tag(store.repository, reference)
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
    """A verifier of the objects of one repository, for any recipient."""

    store: Store
    state: State
    clock: Clock
    trust: Trust
    words: tuple[str, ...] = ()
    """The options that command lines in hints repeat: our name and the repository."""

    def verify(self, reference: str) -> Verification:
        """Return the proven signer of the manifest of a tag or digest.

        Verifies messages and receipts for other recipients as those would, by our policy.

        Raises:
            Unsigned, UnknownSender, VerificationError: no signature that the policy trusts.
            NotFoundError: it does not exist.
            ProtocolError: it is marked as a message or receipt, but malformed.
            RegistryError, NetworkError: the registry did not send it or its bundles.
        """
        found = _fetch(self.store, reference)
        if found.message is not None:
            return self.verify_message(found.message)
        if found.receipt is not None:
            return self._verify_receipt(found.receipt)
        return self._verify_foreign(found.descriptor)

    def verify_message(self, message: Message) -> Verification:
        """Return the proven signer of a fetched message; see `verify`."""
        header = message.header
        verifier = MessageVerifier(
            self.store,
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
        bundle = layer_content(self.store.registry, self.store.repository, receipt.layers[0])
        trust = self._trust_of(receipt.sender)
        is_ours = self.state.receipts.has_written(receipt.descriptor.digest)
        verifier = ReceiptVerifier(
            repo=self.store.repo, clock=self.clock, registry=self.store.registry, trust=trust
        )
        return Verification(
            what="receipt",
            digest=receipt.descriptor.digest,
            verified=verifier.prove(receipt, bundle, is_ours=is_ours),
            id=receipt.message_id,
            recipient=receipt.sender,
        )

    def _verify_foreign(self, subject: Descriptor) -> Verification:
        """Return the proven signer of a manifest that is no message or receipt."""
        terms = self.trust.terms(self.store.repo, self.clock)
        finder = BundleFinder(self.store.registry, self.store.repository)
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
    registry: Registry,
    repository: str,
    reference: str,
    *,
    repo: str,
    state: State,
    clock: Clock,
    trust: Trust,
) -> Verification:
    """Return the proven signer of the manifest of a tag or digest; see `ObjectVerifier.verify`."""
    store = Store(registry, repository, repo)
    return ObjectVerifier(store=store, state=state, clock=clock, trust=trust).verify(reference)


def _nobody(
    digest: Digest, failures: Sequence[VerificationError | ProtocolError]
) -> VerificationError:
    """Return the error of an object without a trusted signature."""
    if not failures:
        return Unsigned(f"{digest}: not signed")
    strangers = all(isinstance(error, UnknownSender) for error in failures)
    kind = UnknownSender if strangers else VerificationError
    reasons = "".join(f"\n  {error.message}" for error in failures)
    return kind(f"{digest}: no signature of a trusted sender{reasons}")


def verify_file(path: Path, bundle: bytes, *, trust: Trust, clock: Clock) -> Verification:
    """Verify the bundle of the file `path`; return its signer. Sends no request.

    Raises:
        UnknownSender, VerificationError: no signature that the policy trusts.
        VerificationError: the file begins like the signed bytes of an envelope: the signature of a
            message by the same key would verify as one of this file.
        ProtocolError: not a bundle.
        LocalIOError: the file cannot be read.
    """
    with local_errors(str(path)), path.open("rb") as file:
        start = file.read(len(SIGNED_PREFIX))
        hashed = hashlib.sha256(start)
        while piece := file.read(READ_BYTES):
            hashed.update(piece)
    if start == SIGNED_PREFIX:
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
    """Sign the manifest of a tag or digest, and attach the signature to it.

    Signs a message of one of `names` as its sender; approves any other object.

    Args:
        registry: The store.
        repository: The repository's name in it.
        reference: A tag or digest.
        repo: The repository's whole name.
        state: The state, whose outbox has the messages that were sent from here.
        clock: The clock of this machine.
        signer: The signer.
        names: Our own names.
        is_message: The caller knows that it is a message, and wants to sign it.
        index: When to write the fallback index.
        manifest_form: The form of the signature's manifest; auto: that of the signed message, or
            the one that the registry accepts.
        on_notice: Called with notices for the user.

    Raises:
        UsageError: a message that was not sent from here, without `is_message`.
        NotFoundError: it does not exist.
        SigningError, VerificationError: the signing failed, and no signature is attached.
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
    found = _fetch(Store(registry, repository, repo), reference)
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
    """Check that a message was sent from here: the owner of a tag can point it at any message.

    Raises:
        UsageError: it was not sent from here.
    """
    header = message.header
    if state.outbox.sender_of(header.id, message.digest) == header.sender:
        return
    raise UsageError(
        f"{message.digest}: this machine did not send this message: from {header.sender!r:.100} to "
        f"{header.recipient!r:.100}, {header.display_name!r:.100}, {header.total_bytes} bytes",
        hint="to sign it as sent or approved by you: add --message",
    )


def sign_file(path: Path, signer: Signer) -> Signature:
    """Sign an approval of the file `path`.

    Raises:
        SigningError, VerificationError: the signing failed.
        LocalIOError: the file cannot be read.
    """
    from dockercomms.messages.place import file_digest  # noqa: PLC0415 - `send` signs no file

    digest = file_digest(path)
    bundle = signer.approve(path.name, digest)
    return Signature(subject=digest, signed_by=signer.signed_by, bundle=bundle)

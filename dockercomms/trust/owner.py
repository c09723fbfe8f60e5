"""The owner of a mailbox: names, signing key and trusted senders.

Keys and the trust file are read on first use. The default key is created on first use, with a
notice. This module also decides which new senders are trusted on first use: a person reads a name,
but the policy compares bytes, so a name that looks like a known one is not pinned, nor is a name
that only the tables of Unicode could judge (spec/decisions/018-names-that-look-alike.md).

Example:
    >>> from dockercomms.trust.policy import Policy, Sender
    >>> from dockercomms.trust.owner import Trust
    >>> trust = Trust(me=("bob",))
    >>> trusting = Trust(me=("bob",), policy=Policy(senders=(Sender(name="alice"),)))
    >>> trust.fingerprint() == trusting.fingerprint()
    False

Source: UTS 39 (Unicode security mechanisms), section 4; UAX 15 (NFKC).
"""

from __future__ import annotations

import getpass
import hashlib
import os
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Literal

from dockercomms.errors import (
    LocalIOError,
    NoHomeError,
    Notice,
    NoticeHook,
    UnknownSender,
    UsageError,
)
from dockercomms.oci.model import Digest
from dockercomms.platforms.arguments import check_fields
from dockercomms.platforms.clock import Clock, ClockChoice
from dockercomms.platforms.files import base_folder, local_errors
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.manifest import Message, Receipt
from dockercomms.trust.checks import Claim, Terms
from dockercomms.trust.keyless import KeylessOptions, KeylessSigner, SigstoreRoots, timestamp_source
from dockercomms.trust.keys import DEFAULT_KEY, KeyStore, PublicKey, default_keys_folder
from dockercomms.trust.policy import Policy
from dockercomms.trust.policy_file import load_policy
from dockercomms.trust.signing import KeySigner, SignedBy, Signer
from dockercomms.trust.verifier import Verified

SignatureStatus = Literal["none", "unchecked", "valid", "invalid", "untrusted"]
"""none: not signed · unchecked: not verified · valid: signed by a sender of the policy · invalid:
no signature satisfies the policy · untrusted: signed by a sender who is not in the policy."""

Identity = Verified
"""The verified signer of an object."""

Pin = Callable[[Claim, PublicKey, str], Policy]
"""Adds the key of a claim's author in a repository to the policy, and returns the policy.

Raises UnknownSender if that name must not be pinned on first use.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """The trust policy, with the user's names and own key."""

    policy: Policy = field(default_factory=Policy)
    me: tuple[str, ...]
    """The user's own names."""
    own_key: PublicKey | None = None
    """The user's own key, trusted for the user's own names."""
    own_names: tuple[str, ...] | None = None
    """The names that the own key may sign as; default: those in `me`."""
    roots: SigstoreRoots = field(default_factory=SigstoreRoots, repr=False)

    def terms(
        self,
        repo: str,
        clock: Clock,
        registry_now: datetime | None = None,
        choice: ClockChoice = "both",
    ) -> Terms:
        """Return the terms for claims found in `repo`, by the local clock and the registry's."""
        return Terms(
            policy=self.policy,
            me=self.me,
            repo=repo,
            own_key=self.own_key,
            own_names=self.me if self.own_names is None else self.own_names,
            now=clock.now(),
            registry_now=registry_now,
            choice=choice,
            roots=self.roots,
        )

    def fingerprint(self) -> str:
        """Return a hash that changes with every value that verification depends on.

        Raises:
            LocalIOError: the file of a root is not readable.
        """
        hashed = hashlib.sha256(repr((self.policy, self.own_key, self.me, self.own_names)).encode())
        for root in self.policy.roots.values():
            if root.path is not None:
                with local_errors(f"root {root.name}: {root.path}"):
                    hashed.update(hashlib.sha256(root.path.read_bytes()).digest())
        return hashed.hexdigest()


_SAME_SHAPE = str.maketrans("i1|0", "lllo")
"""Folded ASCII letters: UTS 39's confusables, and the i that a capital I becomes."""

_FIRST_PRINTABLE, _LAST_PRINTABLE = " ", "~"


def reason_not_to_pin(name: str, *, known: Iterable[str]) -> str | None:
    """Return the reason why `name` is not trusted on first use, if there is one.

    Args:
        name: The name in a message.
        known: The user's own names, and those of the policy.
    """
    if name != name.strip() or not name:
        return "it is empty, or begins or ends with space"
    if unicodedata.normalize("NFKC", name) != name:
        return "it is written with compatibility characters (not in NFKC)"
    for character in name:
        if not _is_plain(character):
            code = f"U+{ord(character):04X}"
            return f"it has {code}, which may look like another character or like nothing"
    shape = _shape(name)
    for other in known:
        if other != name and _may_be_taken(shape, _shape(other)):
            return f"it looks like {other!r:.100}"
    return None


def _is_plain(character: str) -> bool:
    """Return whether a character is printable ASCII, or a letter of it with accents."""
    decomposed = unicodedata.normalize("NFD", character)
    base, marks = decomposed[0], decomposed[1:]
    if marks:
        return base.isalpha() and base.isascii() and all(map(unicodedata.combining, marks))
    return _FIRST_PRINTABLE <= base <= _LAST_PRINTABLE


def _shape(name: str) -> str:
    """Return a key that is equal for names that a person may confuse."""
    folded = unicodedata.normalize("NFD", unicodedata.normalize("NFKC", name).casefold())
    bare = "".join(one for one in folded if not unicodedata.combining(one))
    return " ".join(bare.translate(_SAME_SHAPE).replace("rn", "m").replace("vv", "w").split())


def _may_be_taken(shape: str, known: str) -> bool:
    """Return whether `shape` looks like `known`, whose other characters may be 0 to 2 letters.

    It follows all readings at once: a pattern would try them one after another, and the name comes
    from outside.
    """
    ends = {0}
    for one in known:
        if _FIRST_PRINTABLE <= one <= _LAST_PRINTABLE:
            ends = {end + 1 for end in ends if shape[end : end + 1] == one}
        else:
            ends = {end + more for end in ends for more in (0, 1, 2) if end + more <= len(shape)}
    return len(shape) in ends


Passphrase = Callable[[str], str | None]
"""Asks for the passphrase of the key with that name; returns None if there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningOptions:
    """Options for signing messages and receipts."""

    sign: bool = True
    key: str = DEFAULT_KEY
    """The name of the key; the default one is created on first use."""
    passphrase: Passphrase | None = field(default=None, repr=False)
    """Called only for an encrypted key."""
    keyless: KeylessOptions | None = None
    """Sign as an identity instead of with a key."""
    timestamp: str | None = None
    """Address of an RFC 3161 authority that attests to the time of each signature."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustOptions:
    """Options for verifying senders."""

    file: Path | None = None
    """The trust file; default: `$XDG_CONFIG_HOME/dockercomms/trust.toml`."""
    policy: Policy | None = None
    """Instead of a file."""
    verify: bool = True
    """False: accept all messages without verification."""
    accept_new: bool = False
    """Trust the key of a sender who is not in the file from the first message on."""
    words: tuple[str, ...] = ()
    """The user's options for names and repository, repeated in the commands of hints."""

    def __post_init__(self) -> None:
        check_fields(self)


class Owner:
    """The person who owns a mailbox. Not safe for several threads.

    Args:
        me: The name, or several; default: those in the trust file, else the login name.
        keys: The keys folder; default: `$XDG_DATA_HOME/dockercomms/keys`.
        signing: Options for signing.
        trust: Options for verifying.
        on_notice: Called with notes for the user.

    Raises:
        UsageError: an empty name, or no name and no login name; or new senders are to be trusted
            without a trust file.
    """

    def __init__(
        self,
        me: str | Sequence[str] | None = None,
        *,
        keys: Path | None = None,
        signing: SigningOptions | None = None,
        trust: TrustOptions | None = None,
        on_notice: NoticeHook | None = None,
    ) -> None:
        self._signing = signing or SigningOptions()
        self._options = trust or TrustOptions()
        if self._options.accept_new and self._options.policy is not None:
            raise UsageError("accept_new needs a policy file; a policy without a file was given")
        self._keys_folder = keys
        self._on_notice = on_notice
        self._signer: Signer | None = None
        self._given = (me,) if isinstance(me, str) else tuple(me or ())
        if "" in self._given:
            raise UsageError("me: empty; a name expected")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names to receive as; the first one is the one to send as.

        Raises:
            ConfigError, LocalIOError: the trust file is invalid, or not readable.
            UsageError: there is no name.
        """
        return self._given or self.policy().me or (_login_name(),)

    @cached_property
    def _keys(self) -> KeyStore:
        """The keys; NoHomeError if the user has no folder for them."""
        return KeyStore(self._keys_folder or default_keys_folder(os.environ))

    @cached_property
    def _file(self) -> Path:
        """The trust file; NoHomeError if the user has no folder for it."""
        return self._options.file or default_trust_file(os.environ)

    @property
    def verifies(self) -> bool:
        """True if senders are verified."""
        return self._options.verify

    @property
    def words(self) -> tuple[str, ...]:
        """The words to repeat in the commands of hints."""
        return self._options.words

    # --- verifying -------------------------------------------------------------------------------

    def policy(self) -> Policy:
        """Return the current policy.

        Raises:
            ConfigError, LocalIOError: the trust file is invalid, or not readable.
        """
        given = self._options.policy
        if given is not None:
            return given
        try:
            return load_policy(self._file)
        except NoHomeError:
            return Policy()

    def trust(self) -> Trust:
        """Return the current policy with the user's names and key.

        Raises:
            As `policy`; UsageError: the own key is not readable.
        """
        policy = self.policy()
        try:
            names = self.names
        except UsageError:
            names = ()  # no recipient to check, for example of an object
        return Trust(
            policy=policy,
            me=tuple(dict.fromkeys((*names, *policy.me))),
            own_key=self.own_key(),
            roots=self._roots,
        )

    @cached_property
    def _roots(self) -> SigstoreRoots:
        return SigstoreRoots()

    def own_key(self) -> PublicKey | None:
        """Return the public key of the user's signatures, if there is a key already.

        Raises:
            UsageError, LocalIOError: it is not readable.
        """
        try:
            found = self._keys.find(self._signing.key)
        except NoHomeError:
            return None
        return found.public if found is not None and found.private else None

    def own_keys(self) -> tuple[PublicKey, ...]:
        """Return all public keys of the user; skip files that are not keys.

        Raises:
            UsageError, LocalIOError: the key that signs is not readable.
        """
        try:
            return tuple(key.public for key in self._keys.list() if key.private)
        except (UsageError, LocalIOError, NoHomeError):
            own = self.own_key()
            return () if own is None else (own,)

    @property
    def pin(self) -> Pin | None:
        """A function that pins a new sender's key; None if new senders are not trusted."""
        return self._pin if self._options.accept_new else None

    def _pin(self, claim: Claim, key: PublicKey, repo: str) -> Policy:
        """Trust the key of a message's author, for messages to this recipient in `repo`."""
        policy, name = self.policy(), claim.name
        known = [*self.names, *policy.me, *(sender.name for sender in policy.senders)]
        reason = reason_not_to_pin(name, known=known)
        if name in {*self.names, *policy.me}:
            reason = "it is your own name"
        if claim.kind != "message" or reason is not None:
            raise UnknownSender(
                f"{claim.title}: cannot trust this name on first use: "
                f"{reason or 'that is for senders of messages only'}"
            )
        from dockercomms.trust.address_book import AddressBook  # noqa: PLC0415 - rarely needed

        AddressBook(self._file).pin(name, key, recipient=claim.recipient, repo=repo)
        others = [*policy.names_of(key), *(self.names[:1] if key == self.own_key() else ())]
        also = "" if not others else f" WARNING: {others[0]!r:.100} signs with the same key."
        self._notify(
            Notice(
                "pinned",
                f"New sender {name!r:.100}: trusted its key {key.spki_sha256} for messages to "
                f"{claim.recipient!r:.100} in {repo}. Recorded in {self._file}.{also}",
            )
        )
        return self.policy()

    # --- signing ---------------------------------------------------------------------------------

    def signer(self) -> Signer | None:
        """Return the signer; it creates or opens its key when it is first used."""
        if not self._signing.sign:
            return None
        if self._signer is None:
            keyless = self._signing.keyless
            made = self._key_signer if keyless is None else lambda: KeylessSigner(keyless)
            self._signer = _LazySigner(made)
        return self._signer

    def known_signer(self) -> SignedBy | None:
        """Return the signing key or identity, if it is known without creating it or signing in."""
        key = self.own_key() if self._signing.sign and self._signing.keyless is None else None
        return None if key is None else SignedBy("key", key.spki_sha256)

    def _key_signer(self) -> Signer:
        name, ask = self._signing.key, self._signing.passphrase
        key, created = self._keys.ensure(name)
        if created:
            self._notify(
                Notice(
                    "key-created",
                    f"Created your signing key {key.path} (fingerprint {key.public.spki_sha256})",
                )
            )
        passphrase = ask(name) if ask is not None and key.encrypted else None
        url = self._signing.timestamp
        source = None if url is None else timestamp_source(url)
        return KeySigner(self._keys.private_key(name, passphrase=passphrase), timestamp=source)

    def _notify(self, notice: Notice) -> None:
        if self._on_notice is not None:
            self._on_notice(notice)


class _LazySigner:
    """A signer that is made when it is first used; see `trust.signing.Signer`."""

    def __init__(self, make: Callable[[], Signer]) -> None:
        self._make = make

    @cached_property
    def _real(self) -> Signer:
        return self._make()

    @property
    def signed_by(self) -> SignedBy:
        """The key or identity."""
        return self._real.signed_by

    def sign(self, message: Message, manifest: bytes) -> bytes:
        """Return a bundle about a message."""
        return self._real.sign(message, manifest)

    def sign_receipt(self, receipt: Receipt) -> bytes:
        """Return a bundle about a receipt."""
        return self._real.sign_receipt(receipt)

    def approve(self, name: str, digest: Digest) -> bytes:
        """Return a bundle that approves of `digest`."""
        return self._real.approve(name, digest)


def default_trust_file(environ: Mapping[str, str]) -> Path:
    """Return the path of the trust file: `$XDG_CONFIG_HOME/dockercomms/trust.toml`.

    Raises:
        NoHomeError: as `platforms.files.base_folder`.
    """
    return base_folder("XDG_CONFIG_HOME", environ) / "dockercomms" / "trust.toml"


def _login_name() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError) as error:
        raise UsageError(f"no login name: {error}", hint="give your name with --me") from error

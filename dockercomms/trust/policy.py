"""The policy of `trust.toml`: trusted senders, their keys, and their permissions.

The default policy trusts no sender. A name is bound to keys, or to exact identities of exact
issuers. The file says whether messages of unknown senders, and those without a signature, are held
or rejected. Names and identities are compared exactly: patterns invite mistakes.

Example:
    >>> from dockercomms.trust.policy import Policy, Sender
    >>> policy = Policy(senders=(Sender(name="alice", recipients=("bob",)),))
    >>> alice = policy.sender("alice")
    >>> alice.may("message", recipient="bob", repo="r.example/box"), policy.sender("Alice")
    (True, None)

Source: SPEC.md sections 7 to 10. `policy_file` reads the file, `address_book` changes it.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from dockercomms.platforms.records import dataclass
from dockercomms.trust.keys import PublicKey

DEFAULT_CLOCK_SKEW = timedelta(minutes=5)
PUBLIC_ROOT = "public"
"""The name of the public good instance's root, which needs no declaration."""

Kind = Literal["message", "receipt"]
Verdict = Literal["reject", "hold"]
Timestamp = Literal["required", "if-present"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """A trusted root of a Sigstore instance."""

    name: str
    path: Path | None = None
    """Default: the public good instance's root in the sigstore package."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedIdentity:
    """An identity that a certificate of one root must hold, exactly."""

    identity: str
    issuer: str
    root: str = PUBLIC_ROOT


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedKey:
    """A public key, and the time in which it may sign."""

    key: PublicKey
    valid_after: datetime | None = None
    valid_before: datetime | None = None
    timestamp: Timestamp = "if-present"

    def valid_at(self, moment: datetime) -> bool:
        """Return whether the key may have signed at `moment`."""
        return (self.valid_after is None or moment >= self.valid_after) and (
            self.valid_before is None or moment < self.valid_before
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """One name of the address book, with its keys and identities."""

    name: str
    identities: tuple[TrustedIdentity, ...] = ()
    keys: tuple[TrustedKey, ...] = ()
    recipients: tuple[str, ...] = ()
    """The names that it may write to; empty: all of `me`."""
    repositories: tuple[str, ...] = ()
    """The repositories that it may use, with `*` as wildcard; empty: all."""
    kinds: tuple[Kind, ...] = ("message", "receipt")
    address: str | None = None
    """The sender's own inbox: host/path."""
    allow_unsigned: bool = False

    def may(self, kind: Kind, *, recipient: str, repo: str) -> bool:
        """Return whether this name may send such an object to `recipient` in `repo`."""
        return (
            kind in self.kinds
            and (not self.recipients or recipient in self.recipients)
            and (
                not self.repositories
                or any(matches_pattern(repo, item) for item in self.repositories)
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """A revoked key or identity, entirely or from a time on."""

    spki_sha256: str | None = None
    identity: str | None = None
    since: datetime | None = None
    reason: str = ""

    def is_of(self, key: PublicKey) -> bool:
        """Return whether it revokes `key`; it compares digests, not their spelling."""
        if self.spki_sha256 is None:
            return False
        with suppress(binascii.Error, ValueError):
            return b64decode(self.spki_sha256) == b64decode(key.spki_sha256)
        return False

    def covers(self, signed_at: datetime | None) -> bool:
        """Return whether it voids a signature of `signed_at`; None (not proven) counts as late."""
        return self.since is None or signed_at is None or signed_at >= self.since


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxRule:
    """An inbox in which unsigned messages are accepted, as claims."""

    repository: str
    accept_unsigned: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A parsed trust.toml. The empty policy trusts no sender."""

    me: tuple[str, ...] = ()
    unsigned: Verdict = "hold"
    unknown_sender: Verdict = "hold"
    max_age: timedelta | None = None
    clock_skew: timedelta = DEFAULT_CLOCK_SKEW
    audiences: tuple[str, ...] = ()
    accept_cosign_sign: bool = False
    roots: Mapping[str, Root] = field(
        default_factory=lambda: {PUBLIC_ROOT: Root(name=PUBLIC_ROOT)}, hash=False
    )
    senders: tuple[Sender, ...] = ()
    revoked: tuple[Revocation, ...] = ()
    inboxes: tuple[InboxRule, ...] = ()

    def sender(self, name: str) -> Sender | None:
        """Return the entry of `name`, compared byte by byte."""
        return next((sender for sender in self.senders if sender.name == name), None)

    def names_of(self, key: PublicKey) -> tuple[str, ...]:
        """Return the names that may sign with `key`."""
        return tuple(
            sender.name
            for sender in self.senders
            if any(trusted.key == key for trusted in sender.keys)
        )

    def accepts_unsigned(self, name: str, repo: str) -> bool:
        """Return whether an unsigned message in the name of `name` is accepted, as a claim."""
        sender = self.sender(name)
        if sender is not None and sender.allow_unsigned:
            return True
        return any(rule.accept_unsigned and rule.repository == repo for rule in self.inboxes)

    def revocation_of_key(self, key: PublicKey, signed_at: datetime | None) -> Revocation | None:
        """Return the revocation that voids a signature of `key`, if there is one."""
        for item in self.revoked:
            if item.is_of(key) and item.covers(signed_at):
                return item
        return None

    def revocation_of_identity(
        self, identity: str, signed_at: datetime | None
    ) -> Revocation | None:
        """Return the revocation that voids a signature of `identity`, if there is one."""
        for item in self.revoked:
            if item.identity == identity and item.covers(signed_at):
                return item
        return None


def matches_pattern(repo: str, pattern: str) -> bool:
    """Return whether `repo` matches `pattern`, whose only wildcard is `*`.

    The brackets of other pattern languages would not match the address of an IPv6 host.
    """
    parts = (re.escape(part) for part in pattern.split("*"))
    return re.fullmatch(".*".join(parts), repo, re.DOTALL) is not None


PolicySource = Callable[[], Policy]
"""Reads the policy anew in each call, so that a running watch sees a changed file."""

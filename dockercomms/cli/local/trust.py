"""`trust`: the addresses of senders, and the keys and identities that sign for them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import click

from dockercomms.cli.options import NAME, SINCE, VerbTable, option, verb
from dockercomms.cli.render import count_of
from dockercomms.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from datetime import datetime

    from dockercomms.cli.session import Session
    from dockercomms.trust.address_book import AddressBook
    from dockercomms.trust.keys import PublicKey
    from dockercomms.trust.policy import Policy, Sender

VERBS: Mapping[str, tuple[str, str]] = MappingProxyType({
    "add": ("local.trust", "Trust a sender by key or identity."),
    "list": ("local.trust", "List trusted senders."),
    "remove": ("local.trust", "Stop trusting a sender."),
    "revoke": ("local.trust", "Revoke a key or identity."),
    "root": ("local.trust", "Update the trusted root of the public Sigstore."),
    "test": ("local.trust", "Check a trust file and report its errors."),
})  # fmt: skip
ROOT_VERBS: Mapping[str, tuple[str, str]] = MappingProxyType({
    "update": ("local.trust", "Download the current trusted root of the public Sigstore."),
})  # fmt: skip

COLUMNS = ("NAME", "SIGNS WITH", "MAY", "ADDRESS")

trust_command = VerbTable(
    name="trust",
    verbs=VERBS,
    example="dockercomms trust add alice alice.pub\n"
    "dockercomms trust add ci --identity https://example.com/ci --issuer https://example.com",
    nested=True,
    help="Manage trusted senders and their keys or identities.",
    no_args_is_help=True,
)

root_command = VerbTable(
    name="root",
    verbs=ROOT_VERBS,
    example="dockercomms trust root update",
    nested=True,
    help="Update the trusted root of the public Sigstore, which identities are verified with.",
    no_args_is_help=True,
)


def _book(session: Session) -> AddressBook:
    from dockercomms.trust.address_book import AddressBook

    return AddressBook(session.trust_file)


@verb("add", example="dockercomms trust add alice alice.pub", no_args_is_help=True)
@click.argument("name", type=NAME, metavar="NAME")
@click.argument("key_file", required=False, metavar="[KEYFILE]")
@option("--identity", type=NAME, metavar="I", help="Identity in the sender's certificate.")
@option("--issuer", type=NAME, metavar="U", help="Issuer of that identity.")
@option("--root", type=click.Path(readable=False), metavar="FILE",
        help="Trusted root of the sender's Sigstore.  [default: the public one]")  # fmt: skip
@option("--address", type=NAME, metavar="R", help="Repository to which answers are sent.")
@option("--allow-unsigned", is_flag=True, help="Accept unsigned messages too (sender unverified).")
def add_command(
    session: Session,
    *,
    name: str,
    key_file: str | None,
    identity: str | None,
    issuer: str | None,
    root: str | None,
    address: str | None,
    allow_unsigned: bool,
) -> None:
    """Trust a sender by key or identity.

    NAME is the sender's name in messages. KEYFILE is a public key (PEM, DER, OpenSSH), `-` for
    standard input, or the name of a key that `keys import` stored. Existing entries for NAME are
    kept.
    """
    key = None if key_file is None else _public_key(session, key_file)
    _book(session).add(
        name,
        key=key,
        identity=identity,
        issuer=issuer,
        root=None if root is None else Path(root),
        address=None if address is None else _repository(address),
        allow_unsigned=allow_unsigned,
    )
    _show(session, name)
    others = [] if key is None else [n for n in session.policy().names_of(key) if n != name]
    for other in others:
        session.screen.warn(f"{other} signs with the same key")


def _public_key(session: Session, word: str) -> PublicKey:
    """Return the key in a file or on standard input, or an imported key of that name."""
    from dockercomms.trust.keys import (
        MAX_KEY_FILE_BYTES,
        KeyStore,
        PublicKey,
        default_keys_folder,
        read_key_file,
    )

    if word == "-":
        data = session.stdin.read(MAX_KEY_FILE_BYTES)
        return PublicKey.parse(data, where="standard input")
    if not Path(word).exists() and "/" not in word:
        found = KeyStore(default_keys_folder(session.environ)).find(word)
        if found is not None:
            return found.public
    return PublicKey.parse(read_key_file(Path(word)), where=word)


def _repository(address: str) -> str:
    from dockercomms.oci.stores import parse_repo

    return parse_repo(address).repo


@verb("list", example="dockercomms trust list")
def list_command(session: Session) -> None:
    """List trusted senders.

    Piped, a line holds: name, keys and identities, permissions, address.
    """
    from dockercomms.cli.records import sender_record

    policy = session.policy()
    with session.screen.listing(COLUMNS) as listing:
        for sender in policy.senders:
            cells = (sender.name, "; ".join(_proofs(sender)), _rights(sender), sender.address or "")
            listing.add(sender_record(sender), cells, cells)
    _note_rest(session, policy)
    session.screen.note(f"the public Sigstore's root: {session.public_root()[0]}")


@verb("remove", example="dockercomms trust remove alice", no_args_is_help=True)
@click.argument("name", type=NAME, metavar="NAME")
def remove_command(session: Session, *, name: str) -> None:
    """Stop trusting a sender.

    Messages from that sender are held from now on. For a stolen key use `trust revoke`.
    """
    _book(session).remove(name)
    session.screen.note(f"stopped trusting {name}")


@verb("revoke", example="dockercomms trust revoke alice --since 2026-06-01 --reason 'laptop lost'")
@click.argument("name", required=False, metavar="[NAME]")
@option("--spki", type=NAME, metavar="SHA256",
        help="Fingerprint of the key, from 'dockercomms keys list'.")  # fmt: skip
@option("--identity", type=NAME, metavar="I", help="Identity to revoke.")
@option("--since", type=SINCE, metavar="T",
        help="Revoke from T on; signatures without a proven time count as later.")  # fmt: skip
@option("--reason", default="", metavar="T", help="Reason, shown when a signature is refused.")
def revoke_command(
    session: Session,
    *,
    name: str | None,
    spki: str | None,
    identity: str | None,
    since: datetime | None,
    reason: str,
) -> None:
    """Revoke a key or identity.

    NAME revokes all keys and identities of its entry.
    """
    if sum(given is not None for given in (name, spki, identity)) != 1:
        raise UsageError(
            "give a NAME, --spki or --identity to revoke",
            hint="list keys and identities with: dockercomms trust list",
        )
    keys, identities = _revoked(session, name, spki, identity)
    book = _book(session)
    for key in keys:
        book.revoke(spki_sha256=key, since=since, reason=reason)
    for item in identities:
        book.revoke(identity=item, since=since, reason=reason)
    for item in (*keys, *identities):
        session.screen.note(f"revoked {item}")


def _revoked(
    session: Session, name: str | None, spki: str | None, identity: str | None
) -> tuple[Sequence[str], Sequence[str]]:
    if name is None:
        return [] if spki is None else [spki], [] if identity is None else [identity]
    sender = session.policy().sender(name)
    if sender is None:
        raise NotFoundError(
            f"{session.trust_file}: no entry for {name!r:.100}",
            hint="list the names with: dockercomms trust list\n"
            "give a key as --spki, an identity as --identity",
        )
    keys = [key.key.spki_sha256 for key in sender.keys]
    identities = [item.identity for item in sender.identities]
    if not keys and not identities:
        raise UsageError(
            f"{session.trust_file}: {name!r:.100} has neither a key nor an identity to revoke",
            hint=f"to stop trusting them: dockercomms trust remove {shlex.quote(name)}",
        )
    return keys, identities


@verb("test", example="dockercomms trust test new-trust.toml", no_args_is_help=True)
@click.argument("file", type=click.Path(readable=False), metavar="FILE")
def test_command(session: Session, *, file: str) -> None:
    """Check a trust file and report its errors.

    Checks FILE as if it were $XDG_CONFIG_HOME/dockercomms/trust.toml, without installing it.
    """
    from dockercomms.cli.records import sender_record
    from dockercomms.trust.policy_file import load_policy

    path = Path(file)
    if not path.exists():
        raise UsageError(f"{path}: no such file")
    policy = load_policy(path)
    with session.screen.listing(COLUMNS) as listing:
        for sender in policy.senders:
            cells = (sender.name, "; ".join(_proofs(sender)), _rights(sender), sender.address or "")
            listing.add(sender_record(sender), cells, cells)
    session.screen.note(f"{path}: no errors")
    _note_rest(session, policy)


@verb("update", example="dockercomms trust root update\n"
      "dockercomms trust root update --from trusted_root.json")  # fmt: skip
@option("--from", "source", type=click.Path(readable=False), metavar="FILE",
        help="Read this file.  [default: download from the public Sigstore]")  # fmt: skip
def update_command(session: Session, *, source: str | None) -> None:
    """Download the current trusted root of the public Sigstore.

    The root names the certificate authorities and logs to trust. It is stored beside the trust file
    as sigstore-root.json. Delete that file to use the root of the sigstore package again.
    """
    import os

    from dockercomms.platforms.files import local_errors, make_folder
    from dockercomms.trust.address_book import replace_file
    from dockercomms.trust.keyless import check_root, fetch_public_root
    from dockercomms.trust.roots import updated_root

    if source is None:
        data = fetch_public_root()
    else:
        with local_errors(source):
            data = Path(source).read_bytes()
    check_root(data, where=source or "the public Sigstore's root")
    before = session.public_root()[1]
    target, now = updated_root(session.environ), session.clock.now().timestamp()
    with local_errors(str(target), base="XDG_CONFIG_HOME"):
        make_folder(target.parent, mode=0o700)
        replace_file(target, data)
        os.utime(target, (now, now))
    words, after = session.public_root()
    session.screen.note(f"{target}: {words}")
    if before is not None and after is not None and after.newest < before.newest:
        session.screen.warn(f"the previous root had a newer key, of {before.newest:%Y-%m-%d}")


def _show(session: Session, name: str) -> None:
    from dockercomms.cli.records import sender_record

    sender = session.policy().sender(name)
    if sender is None:
        raise AssertionError("internal: an entry that was just written")
    rows = [
        ("name", sender.name),
        *(("signs with", proof) for proof in _proofs(sender)),
        ("may", _rights(sender)),
        *((("address", sender.address),) if sender.address else ()),
    ]
    session.screen.details(sender_record(sender), rows)


def _proofs(sender: Sender) -> list[str]:
    """Return the keys and identities of an entry, for people."""
    keys = [f"{item.key.algorithm} {item.key.spki_sha256}" for item in sender.keys]
    return keys + [f"{item.identity} of {item.issuer}" for item in sender.identities]


def _rights(sender: Sender) -> str:
    may = "send and acknowledge" if len(sender.kinds) > 1 else f"write a {sender.kinds[0]}"
    to = f" to {', '.join(sender.recipients)}" if sender.recipients else ""
    where = f" in {', '.join(sender.repositories)}" if sender.repositories else ""
    return f"{may}{to}{where}{', also unsigned' * sender.allow_unsigned}"


def _note_rest(session: Session, policy: Policy) -> None:
    """Print the other settings of the trust file."""
    counts = [count_of(len(policy.senders), "name")]
    if policy.revoked:
        counts.append(f"{len(policy.revoked)} revoked")
    session.screen.note(", ".join(counts))

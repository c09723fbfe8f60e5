"""`keys`: the user's signing keys, and the public keys of others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import click

from dockercomms.cli.options import NAME, VerbTable, option, verb
from dockercomms.errors import UsageError

if TYPE_CHECKING:
    from dockercomms.cli.session import Session
    from dockercomms.trust.keys import KeyStore, StoredKey

VERBS: Mapping[str, tuple[str, str]] = MappingProxyType({
    "generate": ("local.keys", "Create a signing key."),
    "list": ("local.keys", "List your keys, and the public keys of others."),
    "export": ("local.keys", "Print your public key, so that others can trust you."),
    "import": ("local.keys", "Import another person's public key, or a key pair."),
})  # fmt: skip

COLUMNS = ("NAME", "KIND", "ALGORITHM", "SHA-256 OF THE KEY")

keys_command = VerbTable(
    name="keys",
    verbs=VERBS,
    example="dockercomms keys export --public > alice.pub\ndockercomms keys generate --name work",
    nested=True,
    help="Create, list, export and import signing keys.",
    no_args_is_help=True,
)


def _store(session: Session) -> KeyStore:
    from dockercomms.trust.keys import KeyStore, default_keys_folder

    return KeyStore(default_keys_folder(session.environ))


@verb("generate", example="dockercomms keys generate --name work --passphrase")
@option("--name", type=NAME, metavar="NAME", help="Name of the key.  [default: default]")
@option("--passphrase", is_flag=True, help="Encrypt it with DOCKERCOMMS_PASSPHRASE, or ask.")
def generate_command(session: Session, *, name: str | None, passphrase: bool) -> None:
    """Create a signing key.

    The first send creates a key called `default` if you have none.
    """
    from dockercomms.trust.keys import DEFAULT_KEY

    name = name or DEFAULT_KEY
    secret = session.passphrase(name, new=True) if passphrase else None
    if passphrase and not secret:
        raise UsageError(
            "--passphrase: no passphrase given",
            hint="set DOCKERCOMMS_PASSPHRASE, or run the command on a terminal",
        )
    _show(session, _store(session).generate(name, passphrase=secret))


@verb("list", example="dockercomms keys list")
def list_command(session: Session) -> None:
    """List your keys, and the public keys of others.

    Piped, a line holds: name, key pair or public key, algorithm, SHA-256 of the key, file.
    """
    from dockercomms.cli.records import key_record
    from dockercomms.errors import NoHomeError

    try:
        keys = _store(session).list()
    except NoHomeError:
        keys = ()
    with session.screen.listing(COLUMNS) as listing:
        for key in keys:
            shown = (key.name, _kind(key), key.public.algorithm, key.public.spki_sha256)
            listing.add(key_record(key), (*shown, str(key.path)), shown)


@verb("export", example="dockercomms keys export --public > alice.pub")
@option("--public", is_flag=True, help="Print the public key.")
@option("--private", is_flag=True, help="Print the key pair (with --i-know).")
@option("--i-know", "i_know", is_flag=True,
        help="Accept that another program's signature may pass as your message.")  # fmt: skip
@option("--name", type=NAME, metavar="NAME", help="Name of the key.  [default: default]")
def export_command(
    session: Session, *, public: bool, private: bool, i_know: bool, name: str | None
) -> None:
    """Print your public key, so that others can trust you.

    Others trust it with: dockercomms trust add YOU FILE
    """
    from dockercomms.trust.keys import DEFAULT_KEY

    name = name or DEFAULT_KEY
    store = _store(session)
    found = store.find(name)
    if found is None:
        raise UsageError(
            f"no key called {name!r} in {store.folder}",
            hint=f"dockercomms keys generate --name {name}",
        )
    if public == private:
        raise UsageError("give --public or --private", hint="dockercomms keys export --public")
    if private:
        _export_private(session, found, i_know=i_know)
        return
    for line in found.public.to_pem().splitlines():
        session.screen.data(line)


def _export_private(session: Session, key: StoredKey, *, i_know: bool) -> None:
    """Print a key pair for use in another program.

    Raises:
        UsageError: it is another person's public key, or the user did not accept the risk.
    """
    from dockercomms.trust.keys import read_key_file

    if not key.private:
        raise UsageError(f"{key.path}: a public key; no key pair is called {key.name!r}")
    if not i_know:
        raise UsageError(
            "use this key for messages only: a signature that another program makes with it, "
            "such as `cosign sign-blob`, could pass as a message of yours",
            hint="use another key for that program; to export this one: --private --i-know",
        )
    session.screen.warn(
        f"keep this key secret: whoever has it can sign messages as you: {key.path}"
    )
    for line in read_key_file(key.path).decode("ascii", "replace").splitlines():
        session.screen.data(line)


@verb("import", example="dockercomms keys import alice.pub", no_args_is_help=True)
@click.argument("file", type=click.Path(readable=False), metavar="FILE")
@option("--name", type=NAME, metavar="NAME", help="Name of the key.  [default: file name]")
def import_command(session: Session, *, file: str, name: str | None) -> None:
    """Import another person's public key, or a key pair.

    FILE is a private key (P-256, Ed25519; PEM or OpenSSH) or a public key (P-256, Ed25519, RSA;
    PEM, DER or OpenSSH). Importing a public key does not trust its owner; for that use:
    dockercomms trust add NAME FILE
    """
    from dockercomms.trust.keys import is_encrypted, read_key_file

    path = Path(file)
    name = name or path.stem
    secret = session.passphrase(name) if is_encrypted(read_key_file(path)) else None
    _show(session, _store(session).bring_in(path, name, passphrase=secret))


def _show(session: Session, key: StoredKey) -> None:
    from dockercomms.cli.records import key_record

    rows = [
        ("name", key.name),
        ("kind", _kind(key)),
        ("algorithm", key.public.algorithm),
        ("sha256", key.public.spki_sha256),
        ("file", str(key.path)),
    ]
    session.screen.details(key_record(key), rows)


def _kind(key: StoredKey) -> str:
    if not key.private:
        return "public key"
    return "key pair, encrypted" if key.encrypted else "key pair"

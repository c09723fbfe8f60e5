"""Trusted roots: the files that say which certificates, logs and time stamps to believe.

A root is JSON of the Sigstore trust root format. That of the public good instance is the one that
`trust root update` has put beside the trust file, else the one that the installed sigstore package
carries, found without importing that package. Neither is ever refreshed by itself, so that nothing
here depends on a network.

Source: sigstore protobuf-specs v0.5.0, `sigstore_trustroot.proto`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path

from dockercomms.errors import ConfigError, NoHomeError, ProtocolError
from dockercomms.oci.strict_json import parse_json
from dockercomms.platforms.clock import moment_of
from dockercomms.platforms.files import base_folder, local_errors
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.fields import parse_rfc3339
from dockercomms.trust.keys import who_else_can_change
from dockercomms.trust.policy import PUBLIC_ROOT, Root
from dockercomms.trust.statement import json_list, json_object

MAX_ROOT_BYTES = 2**20
"""The public good instance's is 7 KB."""

_EMBEDDED = Path("_store", "https%3A%2F%2Ftuf-repo-cdn.sigstore.dev")
"""Where the sigstore package keeps what it was released with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeylessProof:
    """What a keyless bundle proves, by one root: who had the certificate, and when it was used."""

    root: str
    identities: tuple[str, ...]
    """The subject alternative names of the certificate: mail addresses, URIs."""
    issuer: str
    """Who vouched for them."""
    signed_at: datetime


@dataclass(frozen=True, slots=True)
class RootAge:
    """Where the public good instance's root comes from, and how old it is."""

    path: Path
    updated: datetime | None
    """When `trust root update` put it there; None: it is the sigstore package's."""
    newest: datetime
    """Since when its newest key or certificate is valid."""


def root_path(root: Root, environ: Mapping[str, str] | None = None) -> Path:
    """Return the file of `root`; the public one is looked for in `environ`, None: the process's.

    Raises:
        ConfigError: others than the user can write the one that was updated.
    """
    if root.path is not None:
        return root.path
    try:
        path = updated_root(os.environ if environ is None else environ)
    except NoHomeError:
        return embedded("trusted_root.json")
    with local_errors(str(path)):
        if not path.is_file():
            return embedded("trusted_root.json")
    unguarded = who_else_can_change(path)
    if unguarded is not None:
        raise ConfigError(f"root {root.name}: {unguarded.reason}", hint=unguarded.hint)
    return path


def updated_root(environ: Mapping[str, str]) -> Path:
    """Return where `trust root update` puts the public good instance's root: by the trust file.

    Raises:
        NoHomeError: as `platforms.base_folder`.
    """
    return base_folder("XDG_CONFIG_HOME", environ) / "dockercomms" / "sigstore-root.json"


def public_root_age(environ: Mapping[str, str]) -> RootAge:
    """Return which root of the public good instance is in use, and how old it is.

    Raises:
        ConfigError: it is no trusted root, or others can write it. LocalIOError: it cannot be read.
    """
    root = Root(name=PUBLIC_ROOT)
    path = root_path(root, environ)
    own = path != embedded("trusted_root.json")
    with local_errors(str(path)):
        updated = moment_of(path.stat().st_mtime) if own else None
    return RootAge(path, updated, newest_key(read_json(path, f"root {root.name}"), path))


def newest_key(value: Mapping[str, object], path: Path) -> datetime:
    """Return since when the newest key or certificate of a trusted root is valid.

    Raises:
        ConfigError: none says.
    """
    found: list[datetime] = []
    try:
        for kind in ("tlogs", "ctlogs", "certificateAuthorities", "timestampAuthorities"):
            for item in json_list(value.get(kind, []), kind):
                one = json_object(item, kind)
                holder = json_object(one.get("publicKey", one), kind)
                start = json_object(holder.get("validFor", {}), kind).get("start")
                found += [parse_rfc3339(start)] if isinstance(start, str) else []
        return max(found)
    except (ProtocolError, ValueError) as error:
        raise ConfigError(f"{path}: not a trusted root: no key of it has a time") from error


def embedded(name: str) -> Path:
    """Return the file `name` of the public good instance, as the sigstore package carries it.

    Raises:
        ConfigError: the package is not there, or carries no such file.
    """
    spec = find_spec("sigstore")
    folders = () if spec is None else spec.submodule_search_locations or ()
    for folder in folders:
        path = Path(folder) / _EMBEDDED / name
        if path.is_file():
            return path
    raise ConfigError(f"the sigstore package with its {name} is not installed")


def read_root(root: Root) -> Mapping[str, object]:
    """Return the JSON of `root`.

    Raises:
        ConfigError: it is not such a file. LocalIOError: it cannot be read.
    """
    return read_json(root_path(root), f"root {root.name}")


def read_json(path: Path, what: str) -> Mapping[str, object]:
    """Return the JSON object in the file `path`; `what` names it in errors.

    Raises:
        ConfigError: it is no such file. LocalIOError: it cannot be read.
    """
    with local_errors(f"{what}: {path}"), path.open("rb") as file:
        data = file.read(MAX_ROOT_BYTES + 1)
    if len(data) > MAX_ROOT_BYTES:
        raise ConfigError(f"{what}: {path}: more than {MAX_ROOT_BYTES} bytes")
    try:
        where = f"{what}: {path}"
        return json_object(parse_json(data, where=where), where)
    except ProtocolError as error:
        raise ConfigError(error.message) from error

"""Trusted roots: files with the certificates, logs and timestamp authorities to trust.

A root is JSON of the Sigstore trust root format. For the public good instance it is the file that
`trust root update` has put beside the trust file, else the one in the installed sigstore package,
found without importing that package. This module never updates a root, so it needs no network.

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
"""The public good instance's has 7 KB."""

_EMBEDDED = Path("_store", "https%3A%2F%2Ftuf-repo-cdn.sigstore.dev")
"""The folder of the sigstore package with the files of its release."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeylessProof:
    """The proof of a keyless bundle by one root: the certificate's owner, and the time."""

    root: str
    identities: tuple[str, ...]
    """The subject alternative names of the certificate: mail addresses, URIs."""
    issuer: str
    """The issuer that vouched for them."""
    signed_at: datetime


@dataclass(frozen=True, slots=True)
class RootAge:
    """The source and the age of the public good instance's root."""

    path: Path
    updated: datetime | None
    """The time of `trust root update`; None: it is the sigstore package's."""
    newest: datetime
    """Start of validity of its newest key or certificate."""


def root_path(root: Root, environ: Mapping[str, str] | None = None) -> Path:
    """Return the file of `root`; the public one is found by `environ` (default: the process's).

    Raises:
        ConfigError: other users can write the updated one.
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
    """Return the path for the updated root of the public good instance, beside the trust file.

    Raises:
        NoHomeError: as `platforms.files.base_folder`.
    """
    return base_folder("XDG_CONFIG_HOME", environ) / "dockercomms" / "sigstore-root.json"


def public_root_age(environ: Mapping[str, str]) -> RootAge:
    """Return the source and the age of the public good instance's root in use.

    Raises:
        ConfigError: it is not a trusted root, or other users can write it. LocalIOError: it is not
            readable.
    """
    root = Root(name=PUBLIC_ROOT)
    path = root_path(root, environ)
    own = path != embedded("trusted_root.json")
    with local_errors(str(path)):
        updated = moment_of(path.stat().st_mtime) if own else None
    return RootAge(path, updated, newest_key(read_json(path, f"root {root.name}"), path))


def newest_key(value: Mapping[str, object], path: Path) -> datetime:
    """Return the start of validity of the newest key or certificate of a trusted root.

    Raises:
        ConfigError: the root does not say it.
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
        raise ConfigError(
            f"{path}: not a trusted root: none of its keys has a validity period"
        ) from error


def embedded(name: str) -> Path:
    """Return the file `name` of the public good instance in the sigstore package.

    Raises:
        ConfigError: the package is not installed, or has no such file.
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
        ConfigError: it is not such a file. LocalIOError: it is not readable.
    """
    return read_json(root_path(root), f"root {root.name}")


def read_json(path: Path, what: str) -> Mapping[str, object]:
    """Return the JSON object in the file `path`; `what` names it in errors.

    Raises:
        ConfigError: it is not such a file. LocalIOError: it is not readable.
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

"""Trusted roots: the files that say which certificates, logs and time stamps to believe.

A root is JSON of the Sigstore trust root format. That of the public good instance is the one that
the installed sigstore package carries, found without importing that package; it is never refreshed
by itself, so that nothing here depends on a network.

Source: sigstore protobuf-specs v0.5.0, `sigstore_trustroot.proto`.

Example:
    >>> from dockercomms.trust.policy import PUBLIC_ROOT, Root
    >>> from dockercomms.trust.roots import read_root
    >>> read_root(Root(name=PUBLIC_ROOT))["mediaType"]
    'application/vnd.dev.sigstore.trustedroot+json;version=0.1'
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path

from dockercomms.errors import ConfigError, ProtocolError
from dockercomms.oci.model import parse_json
from dockercomms.platforms import local_errors
from dockercomms.records import dataclass
from dockercomms.trust.members import json_object
from dockercomms.trust.policy import Root

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


def root_path(root: Root) -> Path:
    """Return the file of `root`."""
    return embedded("trusted_root.json") if root.path is None else root.path


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

"""Changes of `trust.toml`: senders are added and removed, and comments stay.

A change is parsed before it replaces the file, so an invalid file is never written. Public keys
and trusted roots are copied beside the file: later changes of the originals have no effect.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import stat
import tomllib
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dockercomms.errors import ConfigError, NotFoundError, UsageError
from dockercomms.platforms.files import (
    acquire_lock,
    create_new,
    local_errors,
    make_folder,
    sync_file,
    sync_folder,
    write_all,
)
from dockercomms.platforms.records import dataclass
from dockercomms.trust.keys import PublicKey, write_new
from dockercomms.trust.policy import PUBLIC_ROOT, Policy, Root, Sender, TrustedKey
from dockercomms.trust.policy_file import load_policy, parse_policy, read_policy_text
from dockercomms.trust.roots import MAX_ROOT_BYTES, read_json

if TYPE_CHECKING:
    from tomlkit import TOMLDocument

_FIRST_LINES = """\
# Who may write to me, and how they prove it. Nobody else is trusted. See docs/trust.md.
version = 1
"""
_FILE_MODE = 0o600
_COPY_MODE = 0o644
_COPY_DIGITS = 16
"""Hex digits of the SHA-256 in the names of copies."""


@dataclass(frozen=True, slots=True)
class AddressBook:
    """The trust file `path`, which need not exist yet."""

    path: Path

    def add(
        self,
        name: str,
        *,
        key: PublicKey | None = None,
        identity: str | None = None,
        issuer: str | None = None,
        root: Path | None = None,
        address: str | None = None,
        allow_unsigned: bool = False,
    ) -> None:
        """Trust `name` to sign with a key or an identity, in addition to its present ones.

        Args:
            name: The name, byte for byte as in its messages.
            key: The sender's public key.
            identity: Or: the identity in its certificates, exactly.
            issuer: The issuer of that identity, exactly.
            root: The trusted root of the identity's Sigstore instance; default: the public one.
            address: The sender's own inbox: host/path.
            allow_unsigned: Accept its messages without a signature too, as claims.

        Raises:
            UsageError: no argument gives a change, or an identity without its issuer.
            ConfigError: the file is invalid, or other users can write it.
            LocalIOError: it is not readable or not writable.
        """
        if not name:
            raise UsageError("empty name")
        if (identity is None) != (issuer is None):
            raise UsageError("an identity needs its issuer, and an issuer its identity")
        if root is not None and identity is None:
            raise UsageError("a trusted root needs an identity; none was given")
        if key is None and identity is None and not allow_unsigned:
            raise UsageError("a key, an identity or --allow-unsigned is needed to trust somebody")

        def change(document: TOMLDocument, policy: Policy) -> None:
            entry = _entry(document, name)
            if address is not None:
                entry["address"] = address
            if allow_unsigned:
                entry["allow_unsigned"] = True
            if key is not None:
                self._add_key(entry, policy, name, key)
            if identity is not None:
                root_name = self._root_name(document, policy, root)
                values = {"identity": identity, "issuer": issuer, "root": root_name}
                if not any(
                    item.unwrap() == _given(values) for item in _tables(entry.get("identity"))
                ):
                    _append(entry, "identity", **values)

        self._change(change)

    def pin(self, name: str, key: PublicKey, *, recipient: str, repo: str) -> None:
        """Trust the new sender `name` to sign with `key` messages for `recipient`.

        It changes no entry if another process has just added the same sender.

        Args:
            name: The sender.
            key: Its key.
            recipient: The name that it may write to.
            repo: The repository that it may use.

        Raises:
            ConfigError: there is another entry of that name; only the user may change it.
            LocalIOError: as `add`.
        """

        def change(document: TOMLDocument, policy: Policy) -> None:
            known = policy.sender(name)
            pinned = Sender(
                name=name,
                keys=(TrustedKey(key=key),),
                recipients=(recipient,),
                repositories=(repo,),
            )
            if known == pinned:
                return
            if known is not None:
                raise ConfigError(f"{self.path}: it has an entry for {name!r:.100} already")
            entry = _entry(document, name)
            entry["recipients"] = [recipient]
            entry["repositories"] = [repo]
            self._add_key(entry, policy, name, key)

        self._change(change)

    def remove(self, name: str) -> None:
        """Stop trusting the sender `name`.

        Raises:
            NotFoundError: there is no such entry.
            ConfigError, LocalIOError: as `add`.
        """

        def change(document: TOMLDocument, policy: Policy) -> None:
            if policy.sender(name) is None:
                raise NotFoundError(
                    f"{self.path}: no entry for {name!r:.100}",
                    hint="list the names with: dockercomms trust list",
                )
            entries: Any = document["sender"]
            names = [entry["name"] for entry in _tables(entries)]
            del entries[names.index(name)]
            if not _tables(entries):
                del document["sender"]

        self._change(change)

    def revoke(
        self,
        *,
        spki_sha256: str | None = None,
        identity: str | None = None,
        since: datetime | None = None,
        reason: str = "",
    ) -> None:
        """Revoke a key or an identity.

        Args:
            spki_sha256: The key.
            identity: Or the identity.
            since: Start of the revocation; signatures without a proven time are void too.
                Default: all signatures are void.
            reason: Shown in the errors about it.

        Raises:
            ConfigError: not exactly one of key and identity, or the file is invalid.
            LocalIOError: as `add`.
        """
        values: dict[str, object] = {"spki_sha256": spki_sha256, "identity": identity}
        values |= {"from": since, "reason": reason or None}
        self._change(lambda document, _: _append(document, "revoked", **values))

    def _change(self, change: Callable[[TOMLDocument, Policy], None]) -> None:
        """Read, change, check and replace the file under a lock."""
        import tomlkit  # noqa: PLC0415 - 0.04 s, for the few runs that write

        target = self.path.resolve()  # the file may be a link
        with local_errors(str(target), base="XDG_CONFIG_HOME"):
            make_folder(target.parent, mode=0o700)
        denied = local_errors(str(target), base="XDG_CONFIG_HOME")
        with denied, acquire_lock(target.with_name(f".{target.name}.lock")):
            text = read_policy_text(target)
            document = tomlkit.parse(_FIRST_LINES if text is None else text)
            change(document, load_policy(target))
            changed = _spaced(document.as_string())
            parse_policy(changed, where=f"{target}, as it would be", folder=target.parent)
            replace_file(target, changed.encode("utf-8"))

    def _add_key(self, entry: Any, policy: Policy, name: str, key: PublicKey) -> None:
        known = policy.sender(name)
        if known is not None and any(item.key == key for item in known.keys):
            return
        path = self._copy("keys", ".pub", key.spki, key.to_pem().encode("ascii"))
        _append(entry, "key", public_key=path, spki_sha256=key.spki_sha256)

    def _root_name(self, document: TOMLDocument, policy: Policy, path: Path | None) -> str | None:
        """Return the name of the root in the file `path`; declare a new one."""
        if path is None:
            return None
        read_json(path, "trusted root")
        with local_errors(f"trusted root: {path}"), path.open("rb") as file:
            data = file.read(MAX_ROOT_BYTES)
        for known in policy.roots.values():
            if _holds(known, data):
                return known.name
        copy = self._copy("roots", ".json", data, data)
        stem = re.sub(r"[^A-Za-z0-9_-]", "-", path.stem) or "root"
        names = (stem, *(f"{stem}-{number}" for number in range(2, len(policy.roots) + 3)))
        name = next(name for name in names if name not in policy.roots and name != PUBLIC_ROOT)
        declared: Any = document.setdefault("roots", {})
        declared[name] = {"source": "file", "path": copy}
        return name

    def _copy(self, folder: str, suffix: str, named_by: bytes, data: bytes) -> str:
        """Write a copy beside the file, and return its relative path."""
        name = f"{folder}/{hashlib.sha256(named_by).hexdigest()[:_COPY_DIGITS]}{suffix}"
        path = self.path.resolve().parent / name
        with local_errors(str(path)):
            there = path.read_bytes() if path.exists() else None
        if there is None:
            write_new(path, data, mode=_COPY_MODE)
        elif there != data:
            raise ConfigError(f"{path}: its key has another fingerprint than its name; remove it")
        return name


def _entry(document: TOMLDocument, name: str) -> Any:
    """Return the entry of `name`, or a new one at the end."""
    for entry in _tables(document.get("sender")):
        if entry["name"] == name:
            return entry
    return _append(document, "sender", name=name)


def _append(parent: Any, word: str, **values: object) -> Any:
    """Add a table to the array `word` in `parent`, without None values; return it."""
    import tomlkit  # noqa: PLC0415 - 0.04 s, for the few runs that write

    table = tomlkit.table()
    table.update(_given(values))
    if word not in parent:
        parent[word] = tomlkit.aot()
    if not hasattr(parent[word], "body"):
        raise ConfigError(f"{word} is written in one line; write it as [[{word}]] tables")
    parent[word].append(table)
    return parent[word][-1]


def _given(values: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in values.items() if value is not None}


def _tables(value: Any) -> list[Any]:
    return [] if value is None else list(value)


def _spaced(text: str) -> str:
    """Return `text` with an empty line before each top-level table."""
    spaced = re.sub(
        r"(?<=[^\n]\n)(?=\[\[?\s*(?:sender|revoked|inbox|roots)\b(?!\.\w+\]\]))", "\n", text
    )
    return spaced if tomllib.loads(spaced) == tomllib.loads(text) else text


def _holds(root: Root, data: bytes) -> bool:
    if root.path is None:
        return False
    with local_errors(f"root {root.name}: {root.path}"), root.path.open("rb") as file:
        return file.read(MAX_ROOT_BYTES + 1) == data


def replace_file(path: Path, data: bytes) -> None:
    """Write `data` to `path` durably and atomically.

    Raises:
        OSError: it is not writable.
    """
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else _FILE_MODE
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    handle = create_new(part, mode=mode)
    try:
        try:
            write_all(handle, data)
            sync_file(handle)
        finally:
            os.close(handle)
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)

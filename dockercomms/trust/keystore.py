"""The folder of keys: one file each, found by name.

`NAME.key` is a key pair of the user's own, `NAME.pub` the public key of somebody else, kept at
hand for the address book. Nobody trusts a key because it is here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from dockercomms.errors import UsageError
from dockercomms.platforms import base_folder, local_errors
from dockercomms.records import dataclass
from dockercomms.trust.keys import PrivateKey, PublicKey, is_encrypted, read_key_file, write_new

DEFAULT_KEY = "default"
PUBLIC_KEY_MODE = 0o644

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
_PRIVATE, _PUBLIC = ".key", ".pub"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredKey:
    """A key of the folder."""

    name: str
    path: Path
    public: PublicKey
    private: bool
    """Whether it can sign."""
    encrypted: bool = False


@dataclass(frozen=True, slots=True)
class KeyStore:
    """The keys in `folder`, which is made with the first one."""

    folder: Path

    def list(self) -> tuple[StoredKey, ...]:
        """Return every key, by name.

        Raises:
            UsageError: a file of the folder is no such key. LocalIOError: it cannot be read.
        """
        with local_errors(str(self.folder), base="XDG_DATA_HOME"):
            try:
                paths = sorted(self.folder.iterdir())
            except FileNotFoundError:
                return ()
        return tuple(
            self._describe(path)
            for path in paths
            if path.suffix in (_PRIVATE, _PUBLIC) and _NAME.fullmatch(path.stem)
        )

    def find(self, name: str = DEFAULT_KEY) -> StoredKey | None:
        """Return the key called `name`, None if there is none.

        Raises:
            UsageError: not a name, or not a key. LocalIOError: it cannot be read.
        """
        for suffix in (_PRIVATE, _PUBLIC):
            path = self._path(name, suffix)
            if self._is_there(path):
                return self._describe(path)
        return None

    def _is_there(self, path: Path) -> bool:
        with local_errors(str(path), base="XDG_DATA_HOME"):
            return path.exists()

    def generate(self, name: str = DEFAULT_KEY, *, passphrase: str | None = None) -> StoredKey:
        """Make a key pair called `name`, encrypted if there is a passphrase.

        Raises:
            UsageError: not a name, or there is a key of that name. LocalIOError: it cannot be kept.
        """
        path = self._free_path(name, _PRIVATE)
        PrivateKey.generate().save(path, passphrase=passphrase)
        return self._describe(path)

    def ensure(
        self, name: str = DEFAULT_KEY, *, passphrase: str | None = None
    ) -> tuple[StoredKey, bool]:
        """Return the key pair called `name`, and whether it had to be made.

        Only the default one is: another name was given by somebody who means a key that is there.

        Raises:
            UsageError: there is none, or that name is somebody else's public key.
            LocalIOError: it cannot be kept.
        """
        found = self.find(name)
        if found is None and name != DEFAULT_KEY:
            raise self._missing(name)
        if found is None:
            try:
                return self.generate(name, passphrase=passphrase), True
            except UsageError:
                found = self.find(name)  # another process was faster
                if found is None:
                    raise
        if not found.private:
            raise UsageError(f"{found.path}: a public key; it cannot sign")
        return found, False

    def private_key(self, name: str = DEFAULT_KEY, *, passphrase: str | None = None) -> PrivateKey:
        """Return the key that signs as `name`.

        Raises:
            UsageError: there is none, or the passphrase is missing or wrong.
            LocalIOError: it cannot be read, or others can read it.
        """
        path = self._path(name, _PRIVATE)
        if not self._is_there(path):
            raise self._missing(name)
        return PrivateKey.load(path, passphrase=passphrase)

    def bring_in(self, source: Path, name: str, *, passphrase: str | None = None) -> StoredKey:
        """Keep the PEM key in the file `source` as `name`: a key pair, or a public key.

        Args:
            source: PEM: a P-256 private key, which stays encrypted with its passphrase, or a
                public key (P-256, Ed25519, RSA).
            name: What it is called here.
            passphrase: Of the private key.

        Raises:
            UsageError: not such a key, a name that is taken, or a wrong passphrase.
            LocalIOError: it cannot be read or kept, or others can read the private key.
        """
        data = read_key_file(source)
        if b"PRIVATE KEY-----" in data:
            path = self._free_path(name, _PRIVATE)
            key = PrivateKey.load(source, passphrase=passphrase)
            key.save(path, passphrase=passphrase if is_encrypted(data) else None)
        else:
            path = self._free_path(name, _PUBLIC)
            pem = PublicKey.from_pem(data, where=str(source)).to_pem()
            write_new(path, pem.encode("ascii"), mode=PUBLIC_KEY_MODE)
        return self._describe(path)

    def _missing(self, name: str) -> UsageError:
        path = self._path(name, _PRIVATE)
        return UsageError(
            f"{path}: there is no key called {name!r}",
            hint=f"dockercomms keys generate --name {name}",
        )

    def _describe(self, path: Path) -> StoredKey:
        private = path.suffix == _PRIVATE
        data = read_key_file(path)
        encrypted = private and is_encrypted(data)
        if private and b"PUBLIC KEY-----" not in data:
            if encrypted:
                raise UsageError(
                    f"{path}: the public key is not beside the private one",
                    hint=f"move it away, then: dockercomms keys import FILE --name {path.stem}",
                )
            public = PrivateKey.load(path).public_key()
        else:
            # Ours is trusted for every name: a file that others can write is refused.
            public = PublicKey.load(path, secured=True)
        return StoredKey(
            name=path.stem, path=path, public=public, private=private, encrypted=encrypted
        )

    def _path(self, name: str, suffix: str) -> Path:
        if _NAME.fullmatch(name) is None:
            raise UsageError(
                f"{name!r:.100}: not the name of a key: letters, digits and . _ @ + - expected"
            )
        return self.folder / f"{name}{suffix}"

    def _free_path(self, name: str, suffix: str) -> Path:
        for taken in (_PRIVATE, _PUBLIC):
            if self._is_there(self._path(name, taken)):
                raise UsageError(f"{self._path(name, taken)}: there is a key of that name already")
        return self._path(name, suffix)


def default_keys_folder(environ: Mapping[str, str]) -> Path:
    """Return where the user's keys are: `$XDG_DATA_HOME/dockercomms/keys`.

    Raises:
        NoHomeError: as `platforms.base_folder`.
    """
    return base_folder("XDG_DATA_HOME", environ) / "dockercomms" / "keys"

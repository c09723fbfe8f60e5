"""Key files: ECDSA P-256 and Ed25519 to sign; these and RSA to verify.

A key's fingerprint is the SHA-256 of its DER SubjectPublicKeyInfo in base64: the hint that cosign 3
writes into a bundle. The private key is PKCS#8 PEM in a file of mode 0600, encrypted if there is a
passphrase. In the keys folder `NAME.key` is a key pair of the user, and `NAME.pub` a public key of
another person, kept for `trust add`; a key in the folder is not trusted by that.

Files that decide about trust must be safe as for ssh (OpenSSH 9.9, misc.c, `safe_path`): only the
user and root may own or write the file and every folder above it, up to the home folder. In a
folder with the sticky bit, such as /tmp, only its owner can replace a file.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Callable, Mapping
from dataclasses import field
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from dockercomms.errors import LocalIOError, UsageError
from dockercomms.platforms.files import (
    base_folder,
    create_new,
    home_folder,
    local_errors,
    make_folder,
    open_regular,
    rename_new,
    sync_file,
    sync_folder,
)
from dockercomms.platforms.records import dataclass

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, slots=True)
class Unguarded:
    """A file or folder that other users can change."""

    reason: str
    """The problem, with the path."""
    hint: str = field(repr=False)
    """The command that solves it."""


def who_else_can_change(
    path: Path, *, uid: int | None = None, home: Path | None = None
) -> Unguarded | None:
    """Return the reason why other users can change the file `path`, if they can.

    On Windows it is always None: file modes have no meaning there.

    Args:
        path: The file; links are followed.
        uid: The owner that is accepted besides root; default: this process's user.
        home: The folder at which the check of parents stops; default: the user's home.

    Raises:
        LocalIOError: a folder on the way is not readable.
    """
    if os.name == "nt":
        return None
    uid = os.geteuid() if uid is None else uid
    with local_errors(str(path)):
        real = path.resolve(strict=True)
        top = _home() if home is None else home.resolve()
        for place in (real, *real.parents):
            found = _unguarded(place, place.stat(), uid)
            if found is not None or place == top:
                return found
    return None


def _unguarded(place: Path, status: os.stat_result, uid: int) -> Unguarded | None:
    if status.st_uid not in (0, uid):
        return Unguarded(
            f"{place}: belongs to user {status.st_uid}: not to you ({uid}) or root",
            f"chown {uid} {place}",
        )
    mode = stat.S_IMODE(status.st_mode)
    if mode & _OTHERS_WRITE and not (stat.S_ISDIR(status.st_mode) and mode & stat.S_ISVTX):
        return Unguarded(f"{place}: mode {mode:04o}: others can write it", f"chmod go-w {place}")
    return None


def _home() -> Path | None:
    home = home_folder(os.environ)
    try:
        return None if home is None else home.resolve()
    except (RuntimeError, OSError):
        return None  # without a home folder all parents up to / are checked


PRIVATE_KEY_MODE = 0o600
MAX_KEY_FILE_BYTES = 64 * 1024
"""Far above any PEM key; a wrong path must not read a disk image."""
MIN_RSA_BITS = 2048

_BEGIN_PUBLIC = b"-----BEGIN PUBLIC KEY-----"
_BEGIN_OPENSSH = b"-----BEGIN OPENSSH PRIVATE KEY-----"
_END_PRIVATE = b"PRIVATE KEY-----"
_SSH_KINDS = (b"ssh-", b"ecdsa-sha2-", b"sk-")
_DER_SEQUENCE = b"\x30"
_OPENSSH_UNENCRYPTED = b"openssh-key-v1\0\0\0\0\x04none"

_PublicTypes = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that verifies. Two are equal if their DER forms are."""

    spki: bytes
    """DER SubjectPublicKeyInfo."""

    def __post_init__(self) -> None:
        _load_public(self.spki)

    @classmethod
    def from_pem(cls, data: bytes, *, where: str) -> PublicKey:
        """Return the key in PEM `data`; `where` names its file in errors.

        Text before it is skipped, so the file of a key pair can be used too.

        Raises:
            UsageError: not a PEM public key, or of a kind that is not supported.
        """
        start = max(data.find(_BEGIN_PUBLIC), 0)
        try:
            return cls._of(serialization.load_pem_public_key, data[start:], where, "a PEM")
        except UsageError as error:
            hint = "export one with: dockercomms keys export --public"
            raise UsageError(error.message, hint=hint) from error

    @classmethod
    def parse(cls, data: bytes, *, where: str) -> PublicKey:
        """Return the public key in `data`: PEM, DER, or a line of OpenSSH.

        Args:
            data: The content of a file.
            where: Its name in errors.

        Raises:
            UsageError: a private key, no key, or one of a kind that is not supported.
        """
        if _END_PRIVATE in data:
            raise UsageError(
                f"{where}: a private key: only its owner may have it; a public key expected",
                hint="your own public key: dockercomms keys export --public\n"
                f"that of an OpenSSH key: ssh-keygen -y -f {where}",
            )
        lines = [line for line in map(bytes.strip, data.splitlines()) if line[:1] not in b"#"]
        if lines and lines[0].startswith(_SSH_KINDS):
            return cls._of(serialization.load_ssh_public_key, lines[0], where, "an OpenSSH")
        if data.startswith(_DER_SEQUENCE):
            return cls._of(serialization.load_der_public_key, data, where, "a DER")
        return cls.from_pem(data, where=where)

    @classmethod
    def _of(
        cls, load: Callable[[bytes], PublicKeyTypes], data: bytes, where: str, form: str
    ) -> PublicKey:
        try:
            return cls(
                load(data).public_bytes(
                    serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
                )
            )
        except (ValueError, UnsupportedAlgorithm) as error:
            raise UsageError(f"{where}: not {form} public key: {error}") from error
        except UsageError as error:
            raise UsageError(f"{where}: {error.message}") from error

    @classmethod
    def load(cls, path: Path, *, secured: bool = False) -> PublicKey:
        """Return the key in the PEM file `path`.

        Args:
            path: The file.
            secured: Refuse a file that other users can write.

        Raises:
            LocalIOError: the file is not readable, or is not secured.
            UsageError: it holds no such key.
        """
        data, _ = _read(path)
        if secured:
            _need_guarded(path)
        return cls.from_pem(data, where=str(path))

    def to_pem(self) -> str:
        """Return the key as PEM; `from_pem` is its inverse."""
        key = _load_public(self.spki)
        return key.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ).decode("ascii")

    @property
    def spki_sha256(self) -> str:
        """Base64 of the SHA-256 of `spki`; cosign 3 writes it as a bundle's hint."""
        return base64.b64encode(hashlib.sha256(self.spki).digest()).decode("ascii")

    @property
    def algorithm(self) -> str:
        """`ecdsa-p256`, `ed25519` or `rsa-<bits>`."""
        key = _load_public(self.spki)
        if isinstance(key, ec.EllipticCurvePublicKey):
            return "ecdsa-p256"
        if isinstance(key, ed25519.Ed25519PublicKey):
            return "ed25519"
        return f"rsa-{key.key_size}"

    def verifies(self, signature: bytes, data: bytes) -> bool:
        """Return whether this key made `signature` over `data`.

        ECDSA and RSA PKCS#1 v1.5 with SHA-256, as cosign signs with such keys.
        """
        key = _load_public(self.spki)
        if not isinstance(key, ed25519.Ed25519PublicKey):
            return self.verifies_sha256(signature, hashlib.sha256(data).digest())
        try:
            key.verify(signature, data)
        except InvalidSignature:
            return False
        return True

    def verifies_sha256(self, signature: bytes, digest: bytes) -> bool:
        """Return whether this key made `signature` over the data with the SHA-256 `digest`.

        False for Ed25519, which signs the data themselves.
        """
        key, hashed = _load_public(self.spki), Prehashed(hashes.SHA256())
        try:
            if isinstance(key, ec.EllipticCurvePublicKey):
                key.verify(signature, digest, ec.ECDSA(hashed))
            elif isinstance(key, rsa.RSAPublicKey):
                key.verify(signature, digest, padding.PKCS1v15(), hashed)
            else:
                return False
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class PrivateKey:
    """A key that signs. Its text form shows the public part only."""

    key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

    @classmethod
    def generate(cls) -> PrivateKey:
        """Return a new ECDSA P-256 key: the kind that every cosign verifies by default."""
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def load(cls, path: Path, *, passphrase: str | None = None) -> PrivateKey:
        """Return the key in the file `path`, PEM or of OpenSSH.

        Raises:
            LocalIOError: the file is not readable, or other users can read it.
            UsageError: not an ECDSA P-256 or Ed25519 key, or the passphrase is missing or wrong.
        """
        data, mode = _read(path)
        if os.name != "nt" and mode & 0o077:
            raise LocalIOError(
                f"{path}: mode {mode:04o}: others can read this private key",
                hint=f"chmod 600 {path}",
            )
        _need_guarded(path)
        secret = passphrase.encode("utf-8") if passphrase else None
        if not is_encrypted(data):
            secret = None  # a passphrase in the environment does not apply to unencrypted keys
        load = serialization.load_pem_private_key
        if _BEGIN_OPENSSH in data:
            load = serialization.load_ssh_private_key
        if is_encrypted(data) and secret is None:
            raise UsageError(
                f"{path}: the key is encrypted and no passphrase was given",
                hint="set DOCKERCOMMS_PASSPHRASE, or run it on a terminal to be asked",
            )
        try:
            key = load(data, secret)
        except UnsupportedAlgorithm as error:
            raise UsageError(
                f"{path}: the private key cannot be read: {error}",
                hint="convert a copy of an OpenSSH key: ssh-keygen -p -m PKCS8 -f COPY",
            ) from error
        except ValueError as error:
            reason = "wrong passphrase, or " if secret is not None else ""
            raise UsageError(f"{path}: {reason}not a PKCS#8 or OpenSSH private key") from error
        match key:
            case ed25519.Ed25519PrivateKey():
                found = cls(key)
            case ec.EllipticCurvePrivateKey() if key.curve.name == "secp256r1":
                found = cls(key)
            case _:
                raise UsageError(
                    f"{path}: an ECDSA P-256 or Ed25519 private key expected, another kind found"
                )
        if (
            _BEGIN_PUBLIC in data
            and PublicKey.from_pem(data, where=str(path)) != found.public_key()
        ):
            raise UsageError(f"{path}: its public key does not belong to its private key")
        return found

    def save(self, path: Path, *, passphrase: str | None = None) -> None:
        """Write the key to the new file `path`, mode 0600, encrypted if there is a passphrase.

        The public key follows it, so that it is readable without the passphrase.

        Raises:
            UsageError: `path` exists: a key is never overwritten.
            LocalIOError: the file is not writable.
        """
        encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if passphrase:
            encryption = serialization.BestAvailableEncryption(passphrase.encode("utf-8"))
        data = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
        )
        data += self.public_key().to_pem().encode("ascii")
        write_new(path, data, mode=PRIVATE_KEY_MODE)

    def public_key(self) -> PublicKey:
        """Return the key that verifies this key's signatures."""
        return PublicKey(
            self.key.public_key().public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )

    def sign(self, data: bytes) -> bytes:
        """Return the signature over `data`: ECDSA over its SHA-256, in DER, or Ed25519."""
        if isinstance(self.key, ed25519.Ed25519PrivateKey):
            return self.key.sign(data)
        return self.key.sign(data, ec.ECDSA(hashes.SHA256()))

    def __repr__(self) -> str:
        return f"PrivateKey({self.public_key().spki_sha256})"


def is_encrypted(data: bytes) -> bool:
    """Return whether `data` holds a private key that needs a passphrase."""
    if _BEGIN_OPENSSH in data:
        body = data.partition(_BEGIN_OPENSSH)[2].partition(b"-----")[0]
        try:
            return not base64.b64decode(body).startswith(_OPENSSH_UNENCRYPTED)
        except ValueError:
            return False
    return b"ENCRYPTED" in data  # in the first line of PKCS#8, in a header of older forms


def read_key_file(path: Path) -> bytes:
    """Return the content of the key file `path`.

    Raises:
        LocalIOError: it is not readable. UsageError: it is too long for a key.
    """
    return _read(path)[0]


def write_new(path: Path, data: bytes, *, mode: int) -> None:
    """Write `data` durably to the new file `path`; remove the file if that fails.

    Raises:
        UsageError: `path` exists. LocalIOError: it is not writable.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    with local_errors(str(path), base="XDG_DATA_HOME"):
        make_folder(path.parent, mode=0o700)
        handle = create_new(part, mode=mode)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                sync_file(file.fileno())
            rename_new(part, path)
        except FileExistsError:
            raise UsageError(
                f"{path}: the file exists already; dockercomms does not overwrite keys"
            ) from None
        finally:
            part.unlink(missing_ok=True)
        sync_folder(path.parent)


def _load_public(spki: bytes) -> _PublicTypes:
    try:
        key = serialization.load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UsageError(f"not a public key: {error}") from error
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp256r1":
        return key
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= MIN_RSA_BITS:
        return key
    raise UsageError(
        "ECDSA P-256, Ed25519 or RSA of at least 2048 bits expected, another key found"
    )


def _need_guarded(path: Path) -> None:
    unguarded = who_else_can_change(path)
    if unguarded is not None:
        raise LocalIOError(unguarded.reason, hint=unguarded.hint)


def _read(path: Path) -> tuple[bytes, int]:
    """Return the content and the mode of the file `path`, both from one descriptor."""
    with local_errors(str(path)), open_regular(path) as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        data = file.read(MAX_KEY_FILE_BYTES + 1)
    if len(data) > MAX_KEY_FILE_BYTES:
        raise UsageError(f"{path}: too long for a key: more than {MAX_KEY_FILE_BYTES} bytes")
    return data, mode


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
    """True if it can sign."""
    encrypted: bool = False


@dataclass(frozen=True, slots=True)
class KeyStore:
    """The keys in `folder`, which is created with the first one."""

    folder: Path

    def list(self) -> tuple[StoredKey, ...]:
        """Return every key, by name.

        Raises:
            UsageError: a file of the folder is not such a key. LocalIOError: it is not readable.
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
        """Return the key called `name`, None if it does not exist.

        Raises:
            UsageError: not a name, or not a key. LocalIOError: it is not readable.
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
        """Create a key pair called `name`, encrypted if there is a passphrase.

        Raises:
            UsageError: not a name, or there is a key of that name. LocalIOError: it is not
                writable.
        """
        path = self._free_path(name, _PRIVATE)
        PrivateKey.generate().save(path, passphrase=passphrase)
        return self._describe(path)

    def ensure(
        self, name: str = DEFAULT_KEY, *, passphrase: str | None = None
    ) -> tuple[StoredKey, bool]:
        """Return the key pair called `name`, and whether it was just created.

        Only the default key is created: with another name the user means an existing key.

        Raises:
            UsageError: it does not exist, or it is another person's public key.
            LocalIOError: the folder is not writable.
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
            raise UsageError(f"{found.path}: a private key expected, a public key received")
        return found, False

    def private_key(self, name: str = DEFAULT_KEY, *, passphrase: str | None = None) -> PrivateKey:
        """Return the key that signs as `name`.

        Raises:
            UsageError: it does not exist, or the passphrase is missing or wrong.
            LocalIOError: it is not readable, or other users can read it.
        """
        path = self._path(name, _PRIVATE)
        if not self._is_there(path):
            raise self._missing(name)
        return PrivateKey.load(path, passphrase=passphrase)

    def bring_in(self, source: Path, name: str, *, passphrase: str | None = None) -> StoredKey:
        """Copy the key in the file `source` into the folder as `name`.

        Args:
            source: A private key (P-256, Ed25519; PEM or OpenSSH), which stays encrypted with its
                passphrase, or a public key (P-256, Ed25519, RSA; PEM, DER or OpenSSH).
            name: Its name in the folder.
            passphrase: Of the private key.

        Raises:
            UsageError: not such a key, a name that is taken, or a wrong passphrase.
            LocalIOError: a file is not readable or not writable, or other users can read the
                private
                key.
        """
        data = read_key_file(source)
        if _END_PRIVATE in data:
            path = self._free_path(name, _PRIVATE)
            key = PrivateKey.load(source, passphrase=passphrase)
            key.save(path, passphrase=passphrase if is_encrypted(data) else None)
        else:
            path = self._free_path(name, _PUBLIC)
            pem = PublicKey.parse(data, where=str(source)).to_pem()
            write_new(path, pem.encode("ascii"), mode=PUBLIC_KEY_MODE)
        return self._describe(path)

    def _missing(self, name: str) -> UsageError:
        path = self._path(name, _PRIVATE)
        return UsageError(
            f"{path}: no key named {name!r}",
            hint=f"create it with: dockercomms keys generate --name {name}",
        )

    def _describe(self, path: Path) -> StoredKey:
        private = path.suffix == _PRIVATE
        data = read_key_file(path)
        encrypted = private and is_encrypted(data)
        if private and b"PUBLIC KEY-----" not in data:
            if encrypted:
                raise UsageError(
                    f"{path}: the file of its public key is missing",
                    hint=f"move it away, then: dockercomms keys import FILE --name {path.stem}",
                )
            public = PrivateKey.load(path).public_key()
        else:
            # The own key is trusted for every name: refuse a file that other users can write.
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
                raise UsageError(f"{self._path(name, taken)}: a key with that name exists already")
        return self._path(name, suffix)


def default_keys_folder(environ: Mapping[str, str]) -> Path:
    """Return the user's keys folder: `$XDG_DATA_HOME/dockercomms/keys`.

    Raises:
        NoHomeError: as `platforms.files.base_folder`.
    """
    return base_folder("XDG_DATA_HOME", environ) / "dockercomms" / "keys"

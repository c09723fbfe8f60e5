"""Key pairs: ECDSA P-256 to sign with; P-256, Ed25519 and RSA to verify with.

A key is named by the SHA-256 of its DER SubjectPublicKeyInfo in base64: the hint that cosign 3
writes into a bundle. The private key is PKCS#8 PEM in a file of mode 0600, encrypted if there is a
passphrase.
"""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
import stat
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from dockercomms.errors import LocalIOError, UsageError
from dockercomms.platforms import (
    create_new,
    local_errors,
    make_folder,
    open_regular,
    rename_new,
    sync_file,
    sync_folder,
)
from dockercomms.records import dataclass
from dockercomms.trust.guarded import who_else_can_change

PRIVATE_KEY_MODE = 0o600
MAX_KEY_FILE_BYTES = 64 * 1024
"""Far above any PEM key; a wrong path must not read a disk image."""
MIN_RSA_BITS = 2048

_BEGIN_PUBLIC = b"-----BEGIN PUBLIC KEY-----"

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

        What stands before it is skipped, so that the file of a key pair will do.

        Raises:
            UsageError: not a PEM public key, or not of a kind that is supported.
        """
        try:
            key = serialization.load_pem_public_key(data[max(data.find(_BEGIN_PUBLIC), 0) :])
            spki = key.public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            return cls(spki)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise UsageError(
                f"{where}: not a PEM public key: {error}",
                hint="export one with: dockercomms keys export --public",
            ) from error
        except UsageError as error:
            raise UsageError(f"{where}: {error.message}") from error

    @classmethod
    def load(cls, path: Path, *, secured: bool = False) -> PublicKey:
        """Return the key in the PEM file `path`.

        Args:
            path: The file.
            secured: Refuse a file that others can write: nothing else vouches for the key.

        Raises:
            LocalIOError: the file cannot be read, or is not secured.
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
        """Base64 of the SHA-256 of `spki`: what cosign 3 writes as a bundle's hint."""
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
        """Return whether `signature` is this key's over `data`.

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
        """Return whether `signature` is this key's over the data with the SHA-256 `digest`.

        Never for Ed25519, which signs the data themselves.
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

    key: ec.EllipticCurvePrivateKey

    @classmethod
    def generate(cls) -> PrivateKey:
        """Return a new ECDSA P-256 key: the kind that every cosign verifies by default."""
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def load(cls, path: Path, *, passphrase: str | None = None) -> PrivateKey:
        """Return the key in the PEM file `path`.

        Raises:
            LocalIOError: the file cannot be read, or others can read it.
            UsageError: not an ECDSA P-256 key, or the passphrase is missing or wrong.
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
            secret = None  # a passphrase in the environment is for those keys that have one
        try:
            key = serialization.load_pem_private_key(data, secret)
        except TypeError as error:
            raise UsageError(
                f"{path}: the key is encrypted and no passphrase was given",
                hint="set DOCKERCOMMS_PASSPHRASE, or run it on a terminal to be asked",
            ) from error
        except (ValueError, UnsupportedAlgorithm) as error:
            reason = "wrong passphrase, or " if secret is not None else ""
            raise UsageError(f"{path}: {reason}not a PKCS#8 PEM private key") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
            raise UsageError(f"{path}: an ECDSA P-256 private key expected, another kind found")
        found = cls(key)
        if (
            _BEGIN_PUBLIC in data
            and PublicKey.from_pem(data, where=str(path)) != found.public_key()
        ):
            raise UsageError(f"{path}: the public key in it is not that of the private key")
        return found

    def save(self, path: Path, *, passphrase: str | None = None) -> None:
        """Write the key to the new file `path`, mode 0600, encrypted if there is a passphrase.

        The public key stands behind it, so that it can be read without the passphrase.

        Raises:
            UsageError: something is at `path`: a key is never overwritten.
            LocalIOError: the file cannot be written.
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
        """Return the key that verifies what this one signs."""
        return PublicKey(
            self.key.public_key().public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )

    def sign(self, data: bytes) -> bytes:
        """Return the ECDSA signature over the SHA-256 of `data`, in DER."""
        return self.key.sign(data, ec.ECDSA(hashes.SHA256()))

    def __repr__(self) -> str:
        return f"PrivateKey({self.public_key().spki_sha256})"


def is_encrypted(data: bytes) -> bool:
    """Return whether PEM `data` holds a private key that needs a passphrase."""
    return b"ENCRYPTED" in data  # in the first line of PKCS#8, in a header of older forms


def read_key_file(path: Path) -> bytes:
    """Return what is in the key file `path`.

    Raises:
        LocalIOError: it cannot be read. UsageError: it is too long for a key.
    """
    return _read(path)[0]


def write_new(path: Path, data: bytes, *, mode: int) -> None:
    """Write `data` durably to the new file `path`; nothing is left where that fails.

    Raises:
        UsageError: something is at `path`. LocalIOError: it cannot be written.
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
            raise UsageError(f"{path}: there is a file already; keys are not overwritten") from None
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
    """Return what is in the file `path`, and its mode; both of the same file."""
    with local_errors(str(path)), open_regular(path) as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        data = file.read(MAX_KEY_FILE_BYTES + 1)
    if len(data) > MAX_KEY_FILE_BYTES:
        raise UsageError(f"{path}: too long for a key: more than {MAX_KEY_FILE_BYTES} bytes")
    return data, mode

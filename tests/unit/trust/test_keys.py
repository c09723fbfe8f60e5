from __future__ import annotations

import base64
import errno
import hashlib
import stat

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from dockercomms.errors import LocalIOError, UsageError
from dockercomms.trust.keys import (
    MAX_KEY_FILE_BYTES,
    PrivateKey,
    PublicKey,
    is_encrypted,
    write_new,
)
from tests.unit.trust.signed import ALICE, BOB, KEYS, foreign_keys, public, public_of


def write(path, data, mode=0o600):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    path.chmod(mode)
    return path


def pem_of(key, encryption=None, kind=PrivateFormat.PKCS8) -> bytes:
    return key.private_bytes(Encoding.PEM, kind, encryption or NoEncryption())


# --- public keys ---------------------------------------------------------------------------------


def test_public_key_is_named_as_cosign_names_it():
    key = public(ALICE)
    assert key.spki_sha256 == base64.b64encode(hashlib.sha256(key.spki).digest()).decode()
    assert key.algorithm == "ecdsa-p256"


@pytest.mark.parametrize("kind", ["ed25519", "rsa-2048"])
def test_public_key_verifies_the_other_kinds(kind):
    private = foreign_keys()[kind]
    key = public_of(private)
    if kind == "ed25519":
        signature = private.sign(b"data")
    else:
        signature = private.sign(b"data", padding.PKCS1v15(), hashes.SHA256())
    assert key.algorithm == kind
    assert key.verifies(signature, b"data")
    assert not key.verifies(signature, b"other")
    assert not key.verifies(signature[:-1], b"data")
    hashed = hashlib.sha256(b"data").digest()
    assert key.verifies_sha256(signature, hashed) is (kind != "ed25519")


def test_public_key_pem_is_its_inverse():
    key = public(ALICE)
    assert PublicKey.from_pem(key.to_pem().encode(), where="x") == key
    assert PublicKey.from_pem(b"comment\n" + key.to_pem().encode(), where="x") == key


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(public_exponent=65537, key_size=1024),  # noqa: S505 - refused
    ],
    ids=["p-384", "rsa-1024"],
)
def test_public_key_of_another_kind_is_refused(key):
    with pytest.raises(UsageError, match="ECDSA P-256, Ed25519 or RSA of at least 2048 bits"):
        public_of(key)


@pytest.mark.parametrize("data", [b"", b"junk", b"-----BEGIN PUBLIC KEY-----\n"])
def test_public_key_of_junk_is_refused(data):
    with pytest.raises(UsageError, match=r"^x: not a PEM public key"):
        PublicKey.from_pem(data, where="x")
    with pytest.raises(UsageError, match="not a public key"):
        PublicKey(data)


def test_public_key_of_an_unsupported_kind_names_the_file(tmp_path):
    from cryptography.hazmat.primitives.serialization import PublicFormat

    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    path = write(tmp_path / "k.pub", pem)
    with pytest.raises(UsageError, match=rf"^{path}: ECDSA P-256"):
        PublicKey.load(path)


def test_public_key_that_others_can_write_is_refused_where_nothing_else_vouches_for_it(tmp_path):
    path = write(tmp_path / "k.pub", public(ALICE).to_pem(), 0o664)
    assert PublicKey.load(path) == public(ALICE)
    with pytest.raises(LocalIOError, match="mode 0664: others can write it") as caught:
        PublicKey.load(path, secured=True)
    assert caught.value.hint == f"chmod go-w {path}"
    path.chmod(0o644)
    assert PublicKey.load(path, secured=True) == public(ALICE)


def test_public_key_file_is_missing_too_long_or_none(tmp_path):
    with pytest.raises(LocalIOError, match="No such file"):
        PublicKey.load(tmp_path / "missing")
    with pytest.raises(LocalIOError, match="not a regular file"):
        PublicKey.load(tmp_path)
    path = write(tmp_path / "long", b" " * (MAX_KEY_FILE_BYTES + 1))
    with pytest.raises(UsageError, match="too long for a key"):
        PublicKey.load(path)


SSH_KEYS = [ed25519.Ed25519PrivateKey.generate(), KEYS[ALICE].key]
SSH_IDS = ["ed25519", "ecdsa"]


@pytest.mark.parametrize("private", SSH_KEYS, ids=SSH_IDS)
@pytest.mark.parametrize("form", ["ssh", "ssh with comments", "der", "pem"])
def test_public_key_is_read_in_the_forms_that_people_have(private, form):
    key = private.public_key()
    line = key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    data = {
        "ssh": line,
        "ssh with comments": b"# of alice\n\n  " + line + b" alice@laptop\n",
        "der": public_of(private).spki,
        "pem": public_of(private).to_pem().encode(),
    }[form]
    assert PublicKey.parse(data.lstrip() if form == "ssh" else data, where="x") == public_of(
        private
    )


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.OpenSSH])
def test_public_key_in_the_file_of_a_private_key_is_refused(form):
    data = pem_of(KEYS[ALICE].key, kind=form) + public(ALICE).to_pem().encode()
    with pytest.raises(UsageError, match="x: a private key: only its owner may have it") as caught:
        PublicKey.parse(data, where="x")
    assert "ssh-keygen -y -f x" in caught.value.hint


@pytest.mark.parametrize(
    "data",
    [b"", b"#", b"ssh-ed25519", b"ssh-ed25519 AAAA", b"ssh-dss AAAAB3NzaC1kc3M= x", b"0", b"0\x82"],
)
def test_public_key_of_junk_in_any_form_is_refused(data):
    with pytest.raises(UsageError, match="x: not a"):
        PublicKey.parse(data, where="x")


# --- private keys --------------------------------------------------------------------------------


@pytest.mark.parametrize("passphrase", [None, "", "open sesame", "\u00fcml\u00e4ut"])
def test_private_key_is_read_back(tmp_path, passphrase):
    path = tmp_path / "folder" / "a.key"
    KEYS[ALICE].save(path, passphrase=passphrase)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert (b"ENCRYPTED" in path.read_bytes()) is bool(passphrase)
    found = PrivateKey.load(path, passphrase=passphrase)
    assert found.public_key() == public(ALICE)
    assert public(ALICE).verifies(found.sign(b"data"), b"data")


def test_private_key_file_shows_its_public_key_without_the_passphrase(tmp_path):
    KEYS[ALICE].save(tmp_path / "a.key", passphrase="secret")
    assert PublicKey.load(tmp_path / "a.key", secured=True) == public(ALICE)


def test_private_key_needs_its_passphrase(tmp_path):
    path = tmp_path / "a.key"
    KEYS[ALICE].save(path, passphrase="secret")
    for none in (None, ""):
        with pytest.raises(UsageError, match="encrypted and no passphrase was given") as caught:
            PrivateKey.load(path, passphrase=none)
        assert "DOCKERCOMMS_PASSPHRASE" in str(caught.value.hint)
    with pytest.raises(UsageError, match="wrong passphrase"):
        PrivateKey.load(path, passphrase="Secret")


def test_private_key_without_a_passphrase_ignores_one(tmp_path):
    KEYS[ALICE].save(tmp_path / "a.key")
    assert PrivateKey.load(tmp_path / "a.key", passphrase="of another key").public_key()


def test_private_key_of_an_older_form_is_read(tmp_path):
    form = PrivateFormat.TraditionalOpenSSL
    path = write(
        tmp_path / "a.key", pem_of(KEYS[ALICE].key, BestAvailableEncryption(b"secret"), form)
    )
    assert PrivateKey.load(path, passphrase="secret").public_key() == public(ALICE)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_private_key_that_others_can_read_is_refused(tmp_path, mode):
    path = write(tmp_path / "a.key", pem_of(KEYS[ALICE].key), mode)
    with pytest.raises(LocalIOError, match=f"mode {mode:04o}: others can read") as caught:
        PrivateKey.load(path)
    assert caught.value.hint == f"chmod 600 {path}"


@pytest.mark.parametrize(
    "key",
    [rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1())],
    ids=["rsa", "p-384"],
)
def test_private_key_of_another_kind_is_refused(tmp_path, key):
    path = write(tmp_path / "a.key", pem_of(key))
    with pytest.raises(UsageError, match="an ECDSA P-256 or Ed25519 private key expected"):
        PrivateKey.load(path)


@pytest.mark.parametrize("private", SSH_KEYS, ids=SSH_IDS)
@pytest.mark.parametrize("form", [PrivateFormat.OpenSSH, PrivateFormat.PKCS8])
def test_private_key_of_ssh_signs(tmp_path, private, form):
    found = PrivateKey.load(write(tmp_path / "id", pem_of(private, kind=form)))
    assert found.public_key() == public_of(private)
    assert found.public_key().verifies(found.sign(b"data"), b"data")
    found.save(tmp_path / "copy.key", passphrase="secret")
    again = PrivateKey.load(tmp_path / "copy.key", passphrase="secret")
    assert again.public_key() == found.public_key()


ENCRYPTED_SSH_KEY = b"""\
-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAACmFlczI1Ni1jdHIAAAAGYmNyeXB0AAAAGAAAABDF
-----END OPENSSH PRIVATE KEY-----
"""
"""The first bytes of a key with a passphrase, which say so."""


def test_private_key_of_ssh_needs_its_passphrase(tmp_path):
    path = write(tmp_path / "id", ENCRYPTED_SSH_KEY)
    assert is_encrypted(ENCRYPTED_SSH_KEY)
    assert not is_encrypted(pem_of(KEYS[ALICE].key, kind=PrivateFormat.OpenSSH))
    with pytest.raises(UsageError, match="encrypted and no passphrase was given"):
        PrivateKey.load(path)
    with pytest.raises(UsageError, match="private key"):
        PrivateKey.load(path, passphrase="secret")


def test_private_key_of_junk_is_refused(tmp_path):
    path = write(tmp_path / "a.key", b"junk")
    with pytest.raises(UsageError, match=r"a\.key: not a PKCS#8 or OpenSSH private key"):
        PrivateKey.load(path, passphrase="any")


def test_private_key_beside_another_public_key_is_refused(tmp_path):
    data = pem_of(KEYS[ALICE].key) + public(BOB).to_pem().encode()
    with pytest.raises(UsageError, match="does not belong to its private key"):
        PrivateKey.load(write(tmp_path / "a.key", data))


def test_private_key_is_never_overwritten(tmp_path):
    path = tmp_path / "a.key"
    KEYS[ALICE].save(path)
    with pytest.raises(UsageError, match="does not overwrite keys"):
        KEYS[BOB].save(path)
    assert PrivateKey.load(path).public_key() == public(ALICE)
    assert [item.name for item in tmp_path.iterdir()] == ["a.key"]


def test_private_key_does_not_show_itself():
    assert repr(KEYS[ALICE]) == f"PrivateKey({public(ALICE).spki_sha256})"
    assert KEYS[ALICE] != KEYS[BOB]


def test_write_new_leaves_nothing_where_the_disk_fails(tmp_path, monkeypatch):
    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(LocalIOError, match="Input/output error"):
        write_new(tmp_path / "a", b"data", mode=0o600)
    assert list(tmp_path.iterdir()) == []


def test_write_new_below_a_file_is_a_local_error(tmp_path):
    write(tmp_path / "file", b"")
    with pytest.raises(LocalIOError):
        write_new(tmp_path / "file" / "a", b"data", mode=0o600)

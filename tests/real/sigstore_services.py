"""A real Sigstore on loopback: Fulcio, the transparency log of rekor-tiles, the time stamp authority.

    with sigstore(tmp_path) as instance:
        ...  # instance.token("alice@example.com"), .trusted_root, .signing_config

The issuer of identities and the certificate log, of which there are no servers to be had, are those
of the stub. Fulcio and the time stamp authority open a port for their metrics on every interface,
the latter always 2112: so this runs only where there is no interface but loopback, in a network
namespace of its own, and only once there: another process that wants it waits for its turn.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID
from filelock import FileLock

from tests.fakes.sigstore import SigstoreStub
from tests.fakes.sigstore_certificates import Holder, spki
from tests.fakes.sigstore_config import Instance
from tests.fakes.sigstore_identity import Issuer
from tests.fakes.sigstore_log import ORIGIN, base64_of
from tests.real.launch import LaunchError, binary, stop

START_SECONDS = 30.0
TURN_SECONDS = 300.0
"""Longer than all the tests of another process that need it."""
_POLL_SECONDS = 0.02
_KEY_PASSWORD = b"only for tests"


@dataclass(frozen=True, slots=True, kw_only=True)
class RealSigstore:
    """Running services, and the files that tell a client about them."""

    folder: Path
    issuer: Issuer
    instance: Instance
    trusted_root: Path
    signing_config: Path

    def token(self, email: str, **claims: object) -> str:
        """Return an identity token; see `Issuer.token`."""
        return self.issuer.token(email, **claims)  # type: ignore[arg-type]


def is_alone() -> bool:
    """Return whether there is no network interface but loopback."""
    return {name for _, name in socket.if_nameindex()} == {"lo"}


@contextlib.contextmanager
def sigstore(folder: Path) -> Iterator[RealSigstore]:
    """Run all of it.

    Raises:
        LaunchError: a program is missing or does not start, or there are other interfaces.
    """
    if not is_alone():
        raise LaunchError(
            "Sigstore's servers run only where loopback is the only interface; scripts/test makes "
            "such a namespace, and so does: unshare -rn sh -c 'ip link set lo up && exec pytest ...'"
        )
    namespace = Path("/proc/self/ns/net").stat().st_ino
    turn = FileLock(Path(tempfile.gettempdir()) / f"sigstore-{namespace}.lock")
    with (
        turn.acquire(TURN_SECONDS),
        SigstoreStub(folder / "stub") as stub,
        contextlib.ExitStack() as running,
    ):
        fulcio, authorities = running.enter_context(_fulcio(folder, stub))
        rekor, log_key = running.enter_context(_rekor(folder))
        tsa, clocks = running.enter_context(_timestamp_authority(folder))
        instance = Instance(
            fulcio_url=fulcio,
            rekor_url=rekor,
            tsa_url=f"{tsa}/api/v1/timestamp",
            issuer_url=stub.issuer.url,
            certificate_log_url=stub.instance.fulcio_url,
            log_key=log_key,
            certificate_log=stub.certificate_log,
            authorities=authorities,
            clock_authorities=clocks,
        )
        root, config = instance.write(folder)
        yield RealSigstore(
            folder=folder,
            issuer=stub.issuer,
            instance=instance,
            trusted_root=root,
            signing_config=config,
        )


@contextlib.contextmanager
def _fulcio(folder: Path, stub: SigstoreStub) -> Iterator[tuple[str, Sequence[Holder]]]:
    root = Holder.root("root")
    authority = root.issue("authority", depth=0, usage=ExtendedKeyUsageOID.CODE_SIGNING)
    chain, key, ct, config = (
        folder / name for name in ("ca.pem", "ca.key", "ct.pub", "fulcio.yaml")
    )
    chain.write_bytes(authority.pem + root.pem)
    key.write_bytes(
        authority.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,  # what Fulcio reads
            serialization.BestAvailableEncryption(_KEY_PASSWORD),
        )
    )
    ct.write_bytes(_public_pem(stub.certificate_log.key))
    url = stub.issuer.url
    issuers = {url: {"IssuerURL": url, "ClientID": "sigstore", "Type": "email"}}
    config.write_text(json.dumps({"OIDCIssuers": issuers}))  # JSON is YAML
    port, grpc = _free_ports(2)
    arguments = [
        "serve",
        "--host=127.0.0.1",
        f"--port={port}",
        "--grpc-host=127.0.0.1",
        f"--grpc-port={grpc}",
        "--metrics-port=0",
        f"--legacy-unix-domain-socket={folder}/fulcio.sock",
        f"--config-path={config}",
        "--ca=fileca",
        f"--fileca-cert={chain}",
        f"--fileca-key={key}",
        f"--fileca-key-passwd={_KEY_PASSWORD.decode()}",
        "--fileca-watch=false",
        f"--ct-log-url={stub.instance.fulcio_url}",
        f"--ct-log-public-key-path={ct}",
    ]
    with _running("fulcio", arguments, folder, f"http://127.0.0.1:{port}", "/healthz") as address:
        yield address, (authority, root)


@contextlib.contextmanager
def _rekor(folder: Path) -> Iterator[tuple[str, ed25519.Ed25519PublicKey]]:
    key = ed25519.Ed25519PrivateKey.generate()
    path = folder / "rekor.key"
    path.write_bytes(_private_pem(key))
    port, grpc, metrics = _free_ports(3)
    arguments = [
        "serve",
        "--http-address=127.0.0.1",
        f"--http-port={port}",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={grpc}",
        f"--http-metrics-port={metrics}",
        f"--hostname={ORIGIN}",
        f"--storage-dir={folder / 'rekor'}",
        f"--signer-filepath={path}",
        # Its own 10 s make each signature take 11 s; below 200 ms nothing is gained.
        "--checkpoint-interval=200ms",
        "--batch-max-age=50ms",
    ]
    address = f"http://127.0.0.1:{port}"
    with _running("rekor-server-posix", arguments, folder, address, "/healthz"):
        _take_first_entry(address)
        yield address, key.public_key()


@contextlib.contextmanager
def _timestamp_authority(folder: Path) -> Iterator[tuple[str, Sequence[Holder]]]:
    root = Holder.root("clock root", depth=0)
    clock = root.issue("clock", depth=None, usage=ExtendedKeyUsageOID.TIME_STAMPING, critical=True)
    key, chain = folder / "clock.key", folder / "clock.pem"
    key.write_bytes(_private_pem(clock.key))
    chain.write_bytes(clock.pem + root.pem)
    (port,) = _free_ports(1)
    arguments = [
        "serve",
        "--host=127.0.0.1",
        f"--port={port}",
        "--disable-ntp-monitoring",
        "--timestamp-signer=file",
        f"--file-signer-key-path={key}",
        f"--certificate-chain-path={chain}",
    ]
    address = f"http://127.0.0.1:{port}"
    with _running("timestamp-server", arguments, folder, address, "/ping"):
        yield address, (clock, root)


def _private_pem(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _public_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _free_ports(count: int) -> list[int]:
    """Return ports that were free a moment ago: these programs cannot say which they got."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [item.getsockname()[1] for item in sockets]


@contextlib.contextmanager
def _running(
    name: str, arguments: Sequence[str], folder: Path, address: str, probe: str
) -> Iterator[str]:
    """Run a program until the block ends; its block begins once it answers at `probe`."""
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(binary(name)), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**os.environ, "HOME": str(folder)},
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(address, probe):
            told = log.read_text(errors="replace")[-1000:]
            if process.poll() is not None:
                raise LaunchError(f"{name} ended with {process.returncode}: {told}")
            if time.monotonic() > deadline:
                raise LaunchError(f"{name} is not ready after {START_SECONDS:.0f} s: {told}")
            time.sleep(_POLL_SECONDS)
        yield address
    finally:
        stop(process)


def _answers(address: str, path: str) -> bool:
    try:
        return _ask(address, "GET", path) == http.client.OK
    except (OSError, http.client.HTTPException):
        return False


def _ask(address: str, method: str, path: str, body: Mapping[str, object] | None = None) -> int:
    """Return the status of the answer to a request."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=20)
    try:
        content = None if body is None else json.dumps(body)
        connection.request(method, path, content, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def _take_first_entry(address: str) -> None:
    """Take index 0: real logs leave it out of their answers, and sigstore cannot read that."""
    key = ec.generate_private_key(ec.SECP256R1())
    signature = key.sign(b"first", ec.ECDSA(hashes.SHA256()))
    public = base64.b64encode(spki(key.public_key())).decode()
    request = {
        "digest": base64_of(hashlib.sha256(b"first").digest()),
        "signature": {
            "content": base64_of(signature),
            "verifier": {
                "publicKey": {"rawBytes": public},
                "keyDetails": "PKIX_ECDSA_P256_SHA_256",
            },
        },
    }
    status = _ask(address, "POST", "/api/v2/log/entries", {"hashedRekordRequestV002": request})
    if status != http.client.CREATED:
        raise LaunchError(f"rekor-server-posix: the first entry was answered {status}")

"""A Sigstore in this process: certificates, a transparency log, time stamps, identities.

What the services return is real: a certificate with its time stamp inside, an inclusion proof
against a signed checkpoint, an RFC 3161 response. They refuse less than the real ones would. The
real Fulcio can use the issuer of identities and the certificate log here.

Example:
    with SigstoreStub(tmp_path) as sigstore:
        options = KeylessOptions(
            token=sigstore.token("alice@example.com"),
            trusted_root=sigstore.trusted_root,
            signing_config=sigstore.signing_config,
        )
        bundle = KeylessSigner(options).sign(message, manifest)
"""

from __future__ import annotations

import base64
import json
import threading
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.fakes.sigstore_certificates import (
    CertificateLog,
    Holder,
    Issuance,
    issue_for_identity,
)
from tests.fakes.sigstore_config import Instance
from tests.fakes.sigstore_identity import Issuer, TokenRefused
from tests.fakes.sigstore_log import TransparencyLog
from tests.fakes.sigstore_time import time_stamp


class SigstoreStub(AbstractContextManager["SigstoreStub"]):
    """The services, each under its path of one server.

    Args:
        folder: Where the trusted root and the signing config are written.
        fresh_log: The first entry gets index 0.

    Attributes:
        shift: By how much the clock of a service (fulcio, tsa) is ahead.
        fail: Names of the services that answer 500: fulcio, rekor, tsa.
        failure: What they say then.
        silent: Names of those that do not answer at all.
        garbage: Names of those that answer with nonsense.
        asked: The services, in the order in which they were asked.
    """

    def __init__(self, folder: Path, *, fresh_log: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.shift: dict[str, timedelta] = {}
        self.fail: set[str] = set()
        self.failure = b'{"message":"asked to fail"}'
        self.silent: set[str] = set()
        self.garbage: set[str] = set()
        self.asked: list[str] = []
        self.issuer = Issuer()
        self.log = TransparencyLog(fresh=fresh_log)
        self.certificate_log = CertificateLog()
        root, clock_root = Holder.root("root"), Holder.root("clock root", depth=0)
        self.authority = root.issue("authority", depth=0, usage=ExtendedKeyUsageOID.CODE_SIGNING)
        self.clock = clock_root.issue(
            "clock", depth=None, usage=ExtendedKeyUsageOID.TIME_STAMPING, critical=True
        )
        self._chains = ((self.authority, root), (self.clock, clock_root))
        self._over = threading.Event()
        self._server = _Server(("127.0.0.1", 0), self)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        base = f"http://127.0.0.1:{self._server.server_port}"
        self.issuer.url = f"{base}/oidc"
        self.instance = Instance(
            fulcio_url=base,  # clients put their own path after the host
            rekor_url=f"{base}/rekor",
            tsa_url=f"{base}/tsa",
            issuer_url=self.issuer.url,
            certificate_log_url=f"{base}/ct",
            log_key=self.log.key.public_key(),
            certificate_log=self.certificate_log,
            authorities=self._chains[0],
            clock_authorities=self._chains[1],
        )
        self.trusted_root, self.signing_config = self.instance.write(self.folder)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def now(self, service: str) -> datetime:
        """Return the time by the clock of `service`."""
        return datetime.now(UTC) + self.shift.get(service, timedelta())

    def token(self, email: str, **claims: Any) -> str:
        """Return an identity token; see `Issuer.token`."""
        return self.issuer.token(email, **claims)

    def time_stamp(self, request: bytes) -> bytes:
        """Return the time stamp that `request` asks for."""
        return time_stamp(request, self.clock, self.now("tsa"))

    # --- the services ----------------------------------------------------------------------------

    def answer(self, path: str, body: bytes, token: str) -> tuple[int, bytes]:
        """Return status and body of the answer to a request."""
        if path == "/ct/v1/add-pre-chain":
            found = self.certificate_log.add_pre_chain(json.loads(body)["chain"])
            return 200, json.dumps(found).encode()
        name = {"/api/v2/signingCert": "fulcio", "/tsa": "tsa"}.get(path, "rekor")
        self.asked.append(name)
        if name in self.silent:
            self._over.wait()
        if name in self.silent or name in self.fail:
            return 500, self.failure
        if name in self.garbage:
            return 200, b"[null]"
        if name == "tsa":
            return 200, self.time_stamp(body)
        try:
            if name == "fulcio":
                return 200, json.dumps(self._certify(json.loads(body), token)).encode()
            return 201, json.dumps(self.log.create(json.loads(body))).encode()
        except TokenRefused as error:
            return 400, json.dumps({"message": str(error)}).encode()

    def _certify(self, request: dict[str, Any], token: str) -> dict[str, Any]:
        """Return the certificate for whom the token names, with its chain."""
        claims = self.issuer.claims(token or request["credentials"]["oidcIdentityToken"])
        if "certificateSigningRequest" in request:
            pem = base64.b64decode(request["certificateSigningRequest"])
            key: Any = x509.load_pem_x509_csr(pem).public_key()
        else:
            pem = request["publicKeyRequest"]["publicKey"]["content"].encode()
            key = load_pem_public_key(pem)
        wanted = Issuance(key, claims.get("email") or claims["sub"], claims["iss"])
        leaf = issue_for_identity(wanted, self.authority, self.certificate_log, self.now("fulcio"))
        chain = [leaf, *(holder.certificate for holder in self._chains[0])]
        pems = [item.public_bytes(Encoding.PEM).decode() for item in chain]
        return {"signedCertificateEmbeddedSct": {"chain": {"certificates": pems}}}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], owner: SigstoreStub) -> None:
        self.owner = owner
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that gives up is part of some tests."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    wbufsize = 65_536  # one packet for head and body, or clients wait 40 ms for the second

    def do_GET(self) -> None:
        issuer = self.server.owner.issuer
        found = {
            "/oidc/.well-known/openid-configuration": issuer.discovery,
            "/oidc/keys": issuer.keys,
        }.get(self.path)
        self._send(404 if found is None else 200, json.dumps(found() if found else {}).encode())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        self._send(*self.server.owner.answer(self.path, body, token))

    def _send(self, status: int, body: bytes) -> None:
        kind = "application/timestamp-reply" if self.path == "/tsa" else "application/json"
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""

"""The files that tell a client whom to believe and whom to ask: of the stub, and of real servers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ed25519

from tests.fakes.sigstore_certificates import AnyPublicKey, CertificateLog, Holder, spki
from tests.fakes.sigstore_log import base64_of, log_id_of

_BACKDATED = timedelta(days=30)
"""Tests sign in the past, too."""


def instant(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A Sigstore: where its services are, and their keys."""

    fulcio_url: str
    rekor_url: str
    tsa_url: str
    issuer_url: str
    certificate_log_url: str
    log_key: ed25519.Ed25519PublicKey
    certificate_log: CertificateLog
    authorities: Sequence[Holder]
    """The issuing one first, the root last."""
    clock_authorities: Sequence[Holder]
    """The signer of time stamps first, the root last."""

    @property
    def _valid(self) -> dict[str, str]:
        return {"start": instant(datetime.now(UTC) - _BACKDATED)}

    def trusted_root(self) -> dict[str, Any]:
        """Return whom a client believes."""
        return {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [
                self._log(self.rekor_url, self.log_key, "PKIX_ED25519", log_id_of(self.log_key))
            ],
            "certificateAuthorities": [self._authority(self.fulcio_url, self.authorities)],
            "ctlogs": [
                self._log(
                    self.certificate_log_url,
                    self.certificate_log.key.public_key(),
                    "PKIX_ECDSA_P256_SHA_256",
                    self.certificate_log.log_id,
                )
            ],
            "timestampAuthorities": [self._authority(self.tsa_url, self.clock_authorities)],
        }

    def signing_config(self) -> dict[str, Any]:
        """Return whom a client asks."""
        return {
            "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
            "caUrls": self._service(self.fulcio_url, 1),
            "oidcUrls": self._service(self.issuer_url, 1),
            "rekorTlogUrls": self._service(self.rekor_url, 2),
            "rekorTlogConfig": {"selector": "ANY"},
            "tsaUrls": self._service(self.tsa_url, 1),
            "tsaConfig": {"selector": "ANY"},
        }

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write both files, and return where they are."""
        root, config = folder / "trusted_root.json", folder / "signing_config.json"
        root.write_text(json.dumps(self.trusted_root()))
        config.write_text(json.dumps(self.signing_config()))
        for path in (root, config):
            path.chmod(0o644)
        return root, config

    def _log(self, url: str, key: AnyPublicKey, kind: str, log_id: bytes) -> dict[str, Any]:
        public = {"rawBytes": base64_of(spki(key)), "keyDetails": kind, "validFor": self._valid}
        return {
            "baseUrl": url,
            "hashAlgorithm": "SHA2_256",
            "logId": {"keyId": base64_of(log_id)},
            "publicKey": public,
        }

    def _authority(self, url: str, chain: Sequence[Holder]) -> dict[str, Any]:
        certificates = [{"rawBytes": base64_of(item.der)} for item in chain]
        return {
            "subject": {"organization": "stub", "commonName": "stub"},
            "uri": url,
            "certChain": {"certificates": certificates},
            "validFor": self._valid,
        }

    def _service(self, url: str, version: int) -> list[dict[str, Any]]:
        return [
            {
                "url": url,
                "majorApiVersion": version,
                "operator": "stub",
                "validFor": self._valid,
            }
        ]

"""Checks that sigstore 4.5 leaves to its caller; this module does not import it.

- sigstore ignores when a certificate authority or log stopped being valid: `narrow`
- it refuses bundles in which Go left zero values out: `with_zero_values`
- its policies compare an identity with an expected one, but do not return it: `Holder`
- it does not read the log entries that cosign 2 and the npm registry made of envelopes:
  `check_intoto_entry`
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from dockercomms.errors import VerificationError
from dockercomms.oci.strict_json import parse_json
from dockercomms.platforms.records import dataclass
from dockercomms.trust.statement import base64_bytes, json_list, json_object, json_text

if TYPE_CHECKING:
    from cryptography.x509 import Certificate
    from sigstore.models import Bundle, TrustedRoot  # noqa: TID251 - types only

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_ISSUER_OID = "1.3.6.1.4.1.57264.1.1"
_ISSUER_V2_OID = "1.3.6.1.4.1.57264.1.8"
_OTHER_NAME_OID = "1.3.6.1.4.1.57264.1.7"
"""Source: sigstore/fulcio, docs/oid-info.md."""


def narrow(root: TrustedRoot, bundle: Bundle) -> TrustedRoot:
    """Return `root` with only the parts that were valid at every time that `bundle` claims.

    The times are verified afterwards, by the remaining parts. By the specification the last moment
    of a timestamp authority counts; for sigstore 4.5 it does not, so the end is moved by the
    smallest step.
    """
    stamps = bundle.verification_material.timestamp_verification_data
    times = [stamp.tst_info.gen_time for stamp in stamps.rfc3161_timestamps] if stamps else []
    entry = bundle.log_entry._inner  # noqa: SLF001 - there is no public way
    if entry.integrated_time and entry.inclusion_promise:
        # Not `fromtimestamp`: its OSError for absurd times would look like that of a file.
        times.append(_EPOCH + timedelta(seconds=entry.integrated_time))

    def was_valid(period: Any) -> bool:
        return period is not None and all(
            period.start <= time and (period.end is None or time <= period.end) for time in times
        )

    inner = root._inner.model_copy(deep=True)  # noqa: SLF001 - there is no public way
    inner.tlogs = [log for log in inner.tlogs if was_valid(log.public_key.valid_for)]
    inner.ctlogs = [log for log in inner.ctlogs if was_valid(log.public_key.valid_for)]
    inner.certificate_authorities = [
        authority for authority in inner.certificate_authorities if was_valid(authority.valid_for)
    ]
    for authority in inner.timestamp_authorities:
        if authority.valid_for.end is not None:
            authority.valid_for.end += timedelta(microseconds=1)
    return type(root)(inner)


def with_zero_values(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the bundle `value` with the zero values of its log entries that Go leaves out.

    Source: sigstore-models 0.0.6 requires them; protobuf's JSON mapping lets writers omit them.
    """
    value = copy.deepcopy(dict(value))
    material = value.get("verificationMaterial")
    entries = material.get("tlogEntries") if isinstance(material, dict) else None
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict):
            entry.setdefault("logIndex", "0")
            proof = entry.get("inclusionProof")
            if isinstance(proof, dict):
                for name, zero in (("logIndex", "0"), ("treeSize", "0"), ("hashes", [])):
                    proof.setdefault(name, zero)
    return value


INTOTO_ENTRY = ("intoto", "0.0.2")
"""Kind and version of a log entry about an envelope, before Rekor had `dsse`."""


@contextmanager
def as_dsse_entry(bundle: Bundle) -> Iterator[bool]:
    """Make sigstore read an `intoto` entry as a `dsse` one; yield whether it is one.

    sigstore refuses the log's signed time for kinds that it does not read. The kind beside an entry
    is not signed; `check_intoto_entry` compares the one in its body.
    """
    inner = bundle.log_entry._inner  # noqa: SLF001 - there is no public way
    kept = inner.kind_version
    if (kept.kind, kept.version) != INTOTO_ENTRY:
        yield False
        return
    inner.kind_version = kept.model_copy(update={"kind": "dsse", "version": "0.0.1"})
    try:
        yield True
    finally:
        inner.kind_version = kept


def check_intoto_entry(
    body: bytes,
    *,
    payload_type: str,
    payload: bytes,
    signatures: Sequence[bytes],
    certificate: Certificate,
) -> None:
    """Check that the body of an `intoto` 0.0.2 log entry is about this envelope and signer.

    It does not compare the hash of the whole envelope, which is over JSON in the writer's own form,
    but all values: type and hash of the payload, each signature, and the signer.

    Source: sigstore/rekor, pkg/types/intoto/v0.0.2/intoto_v0_0_2_schema.json, which encodes payload
    and signatures in base64 twice.

    Raises:
        VerificationError: it is about another one. ProtocolError: it is not such an entry.
    """
    from cryptography.x509 import load_pem_x509_certificate  # noqa: PLC0415 - only here

    where = "log entry"
    top = json_object(parse_json(body, where=where), where)
    content = json_object(json_object(top.get("spec"), where).get("content"), where)
    logged = json_object(content.get("envelope"), where)
    hashed = json_object(content.get("payloadHash"), where)
    found = [json_object(item, where) for item in json_list(logged.get("signatures"), where)]
    said = (
        (top.get("kind"), top.get("apiVersion")),
        json_text(logged.get("payloadType"), where),
        (json_text(hashed.get("algorithm"), where), json_text(hashed.get("value"), where)),
        [
            base64_bytes(base64_bytes(item.get("sig"), where).decode("ascii"), where)
            for item in found
        ],
        {load_pem_x509_certificate(base64_bytes(i.get("publicKey"), where)) for i in found},
    )
    if said != (
        INTOTO_ENTRY,
        payload_type,
        ("sha256", hashlib.sha256(payload).hexdigest()),
        list(signatures),
        {certificate},
    ):
        raise VerificationError("the log entry is for another envelope")


@dataclass(slots=True)
class Holder:
    """Reads identities and issuer of a verified certificate, in place of a sigstore policy.

    It accepts every certificate: the caller decides about trust.
    """

    identities: tuple[str, ...] = ()
    issuer: str = ""

    def verify(self, cert: Certificate) -> None:
        """Read the certificate; sigstore calls this."""
        from cryptography import x509  # noqa: PLC0415 - only here
        from cryptography.hazmat import asn1  # noqa: PLC0415 - only here

        names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found = (
            *names.get_values_for_type(x509.RFC822Name),
            *names.get_values_for_type(x509.UniformResourceIdentifier),
            *(
                asn1.decode_der(str, name.value)
                for name in names.get_values_for_type(x509.OtherName)
                if name.type_id.dotted_string == _OTHER_NAME_OID
            ),
        )
        issuers = set()
        for extension in cert.extensions:
            if not isinstance(extension.value, x509.UnrecognizedExtension):
                continue
            if extension.oid.dotted_string == _ISSUER_OID:
                issuers.add(extension.value.value.decode())
            elif extension.oid.dotted_string == _ISSUER_V2_OID:
                issuers.add(asn1.decode_der(str, extension.value.value))
        if len(issuers) != 1:
            raise VerificationError(f"{len(issuers)} issuers in the certificate; one expected")
        self.identities, self.issuer = found, issuers.pop()

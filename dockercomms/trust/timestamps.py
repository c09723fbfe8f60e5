"""RFC 3161 timestamps: proofs, by an authority of a root, that a signature existed at a time.

Source: RFC 3161; sigstore protobuf-specs v0.5.0, `CertificateAuthority`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from dockercomms.errors import ConfigError, ProtocolError
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.fields import parse_rfc3339
from dockercomms.trust.statement import base64_bytes, json_list, json_object, json_text

_SHORTEST_CHAIN = 2
"""The authority's own certificate, and a root."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimestampAuthority:
    """A timestamp authority, and the time in which it is trusted."""

    chain: tuple[bytes, ...]
    """DER certificates: its own first, the root last."""
    valid_from: datetime
    valid_until: datetime | None = None
    """Inclusive, by the sigstore client specification."""

    def covers(self, moment: datetime) -> bool:
        """Return whether the authority is trusted for `moment`."""
        return self.valid_from <= moment and (
            self.valid_until is None or moment <= self.valid_until
        )


def authorities_of(root: Mapping[str, object], *, where: str) -> tuple[TimestampAuthority, ...]:
    """Return the timestamp authorities of a trusted root; `where` names it in errors.

    Raises:
        ConfigError: one is malformed.
    """
    try:
        return tuple(
            _authority(json_object(item, "authority"))
            for item in json_list(root.get("timestampAuthorities"), "authorities")
        )
    except ProtocolError as error:
        raise ConfigError(f"{where}: time stamp authority: {error.message}") from error


def _authority(fields: Mapping[str, object]) -> TimestampAuthority:
    chain = json_object(fields.get("certChain"), "certChain")
    certificates = json_list(chain.get("certificates"), "certificates")
    valid = json_object(fields.get("validFor"), "validFor")
    end = valid.get("end")
    return TimestampAuthority(
        chain=tuple(
            base64_bytes(json_object(item, "certificate").get("rawBytes"), "rawBytes")
            for item in certificates
        ),
        valid_from=parse_rfc3339(json_text(valid.get("start"), "validFor")),
        valid_until=None if end is None else parse_rfc3339(json_text(end, "validFor")),
    )


def earliest_time(
    tokens: Iterable[bytes], signature: bytes, authorities: Iterable[TimestampAuthority]
) -> datetime | None:
    """Return the earliest time that one of `authorities` attests to `signature`, if any.

    Args:
        tokens: DER timestamp responses.
        signature: The signature.
        authorities: The trusted authorities.
    """
    known = tuple(authorities)
    times = (_attested(token, signature, known) for token in tokens)
    return min((time for time in times if time is not None), default=None)


def _attested(
    token: bytes, signature: bytes, authorities: tuple[TimestampAuthority, ...]
) -> datetime | None:
    for authority in authorities:
        try:
            moment = _verify(token, signature, authority)
        except hostile_input_errors():
            continue
        if authority.covers(moment):
            return moment
    return None


def _verify(token: bytes, signature: bytes, authority: TimestampAuthority) -> datetime:
    """Return the time in `token`, which `authority` made for `signature`.

    Raises:
        One of `hostile_input_errors`: it did not.
    """
    from cryptography.x509 import load_der_x509_certificate  # noqa: PLC0415 - 0.1 s, for few
    from rfc3161_client import VerifierBuilder, decode_timestamp_response  # noqa: PLC0415 - the same

    if len(authority.chain) < _SHORTEST_CHAIN:
        raise ValueError("a certificate chain up to a root expected")
    leaf, *between, top = (load_der_x509_certificate(der) for der in authority.chain)
    builder = VerifierBuilder().tsa_certificate(leaf).add_root_certificate(top)
    for certificate in between:
        builder = builder.add_intermediate_certificate(certificate)
    response = decode_timestamp_response(token)
    builder.build().verify_message(response, signature)
    return response.tst_info.gen_time


def hostile_input_errors() -> tuple[type[Exception], ...]:
    """Return all classes of errors for invalid certificates, keys and times from outside.

    Besides those of the libraries there are Python's own, for input that they do not expect.
    """
    from cryptography import exceptions, x509  # noqa: PLC0415 - 0.1 s, for few
    from rfc3161_client import VerificationError  # noqa: PLC0415 - the same

    return (
        VerificationError,
        exceptions.InvalidSignature,
        exceptions.UnsupportedAlgorithm,
        x509.ExtensionNotFound,
        x509.DuplicateExtension,
        x509.InvalidVersion,
        x509.UnsupportedGeneralNameType,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    )

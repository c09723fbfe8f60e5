"""The in-toto statements of a message and of a receipt: built, parsed, and compared.

The signer of a message states its sender and recipients; the signer of a receipt states that the
message arrived, and its status. Each statement repeats the manifest's annotations, and a verifier
compares the values. This module also has the readers for members of JSON objects from outside; in
all of them `where` names the place in errors: `bundle: material: publicKey`.

Source: in-toto attestation framework v1.1.0, `spec/v1/statement.md`; SPEC.md section 9.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import field, fields

from dockercomms.errors import ProtocolError
from dockercomms.oci.model import Digest, parse_digest
from dockercomms.oci.strict_json import canonical_json, parse_json
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.fields import format_time, parse_time
from dockercomms.protocol.header import PREDICATE_TYPE_MESSAGE, PREDICATE_TYPE_RECEIPT
from dockercomms.protocol.manifest import Message, Receipt


def json_object(
    value: object, where: str, *, known: frozenset[str] | None = None
) -> Mapping[str, object]:
    """Return `value`, an object, whose members must be among `known` (None: any).

    Raises:
        ProtocolError: it is not an object, or has another member.
    """
    if not isinstance(value, dict):
        raise ProtocolError(f"{where}: a JSON object expected")
    unknown = sorted(set(value) - known) if known is not None else []
    if unknown:
        raise ProtocolError(f"{where}: unknown member {unknown[0]!r:.100}")
    return value


def json_list(value: object, where: str) -> list[object]:
    """Return `value`, a list; a missing one is empty.

    Raises:
        ProtocolError: it is not a list.
    """
    if value is None:
        return []
    if not isinstance(value, list):
        raise ProtocolError(f"{where}: a list expected")
    return value


def json_text(value: object, where: str) -> str:
    """Return `value`, a string.

    Raises:
        ProtocolError: it is not a string.
    """
    if not isinstance(value, str):
        raise ProtocolError(f"{where}: a string expected")
    return value


def base64_bytes(value: object, where: str) -> bytes:
    """Return the bytes of the string `value` in standard base64.

    Raises:
        ProtocolError: it is not such a string.
    """
    try:
        return base64.b64decode(json_text(value, where), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ProtocolError(f"{where}: not base64: {error}") from error


def base64_text(data: bytes) -> str:
    """Return `data` in standard base64; `base64_bytes` is its inverse."""
    return base64.b64encode(data).decode("ascii")


STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE_COSIGN_SIGN = "https://sigstore.dev/cosign/sign/v1"
"""The type of `cosign sign`: an approval of the bytes, without sender or recipient."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MessagePredicate:
    """The statement of a message's signer."""

    id: str
    sender: str
    recipients: tuple[str, ...]
    created: str
    """`created_at` of the manifest; compared as an instant."""
    expires: str
    """The effective expiry: RFC 3339, UTC, three fraction digits."""
    audience: str | None = None
    sequence: str | None = None
    """The annotation of that name, verbatim."""
    signer_spki: bytes | None = field(default=None, repr=False)
    """DER SubjectPublicKeyInfo of a key signer; used only to pin a new sender's key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptPredicate:
    """The statement of a receipt's signer."""

    message: Digest
    id: str
    sender: str
    recipient: str
    status: str
    reason: str
    verified: bool
    created: str
    signer_spki: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ForeignPredicate:
    """A predicate of another type, such as cosign's; its content is ignored."""


OwnPredicate = MessagePredicate | ReceiptPredicate
Predicate = OwnPredicate | ForeignPredicate


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A parsed statement with its one subject, not verified."""

    subject_name: str
    subject: Digest
    predicate_type: str
    predicate: Predicate


def message_predicate(message: Message, *, signer_spki: bytes | None = None) -> MessagePredicate:
    """Return the statement of the sender of `message`.

    Raises:
        ProtocolError: the message has no time (some 1.0 messages), so it cannot be signed.
    """
    header = message.header
    if header.created_at is None or header.expires is None:
        raise ProtocolError(f"message {message.digest}: no created_at, so it cannot be signed")
    return MessagePredicate(
        id=header.id,
        sender=header.sender,
        recipients=(header.recipient,),
        created=format_time(header.created_at),
        expires=format_time(header.expires),
        audience=header.audience,
        sequence=None if header.sequence is None else str(header.sequence),
        signer_spki=signer_spki,
    )


def receipt_predicate(receipt: Receipt, *, signer_spki: bytes | None = None) -> ReceiptPredicate:
    """Return the statement of a message's recipient: the values in the manifest of `receipt`.

    Raises:
        ProtocolError: the receipt has no time (some 1.0 receipts), so it cannot be signed.
    """
    if receipt.created_at is None:
        raise ProtocolError(f"receipt for {receipt.message}: no created_at, so it cannot be signed")
    return ReceiptPredicate(
        message=receipt.message,
        id=receipt.message_id,
        sender=receipt.sender,
        recipient=receipt.recipient,
        status=receipt.status,
        reason=receipt.reason,
        verified=receipt.verified,
        created=format_time(receipt.created_at),
        signer_spki=signer_spki,
    )


def difference(expected: OwnPredicate, actual: Predicate) -> str | None:
    """Describe how the statement's values differ from the manifest's; None if they do not.

    Times are compared as instants. The signer's key is not compared.
    """
    if type(actual) is not type(expected):
        return "the statement is of another type than the object"
    for item in fields(expected):
        ours, theirs = getattr(expected, item.name), getattr(actual, item.name)
        if item.name in _TIMES:
            ours, theirs = parse_time(ours), parse_time(theirs)
        if item.name != "signer_spki" and ours != theirs:
            return (
                f"the statement's {item.name} is {theirs!r:.100}; the manifest says {ours!r:.100}"
            )
    return None


_TIMES = frozenset({"created", "expires"})


def build_statement(subject_name: str, subject: Digest, predicate: Predicate) -> bytes:
    """Return the statement as compact UTF-8 JSON; `parse_statement` is its inverse.

    A foreign predicate becomes cosign's approval of the subject, which has no content.
    """
    content: dict[str, object]
    if isinstance(predicate, MessagePredicate):
        predicate_type, content = PREDICATE_TYPE_MESSAGE, _message_fields(predicate)
    elif isinstance(predicate, ReceiptPredicate):
        predicate_type, content = PREDICATE_TYPE_RECEIPT, _receipt_fields(predicate)
    else:
        predicate_type, content = PREDICATE_TYPE_COSIGN_SIGN, {}
    algorithm, _, encoded = subject.partition(":")
    return canonical_json(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": subject_name, "digest": {algorithm: encoded}}],
            "predicateType": predicate_type,
            "predicate": content,
        }
    )


def parse_statement(data: bytes, *, where: str = "statement") -> Statement:
    """Return the statement in `data`; `where` names it in errors.

    It needs all required keys, ignores unknown ones, and needs exactly one subject with a sha256
    digest.

    Raises:
        ProtocolError: not such a statement.
    """
    return statement_of(parse_json(data, where=where), where=where)


def statement_of(value: object, *, where: str = "statement") -> Statement:
    """Return the statement in a parsed JSON value; see `parse_statement`."""
    top = json_object(value, where)
    if top.get("_type") != STATEMENT_TYPE:
        raise ProtocolError(f"{where}: type {top.get('_type')!r:.100}; {STATEMENT_TYPE} expected")
    subjects = json_list(top.get("subject"), f"{where}: subject")
    if len(subjects) != 1:
        raise ProtocolError(f"{where}: {len(subjects)} subjects; exactly one expected")
    subject = json_object(subjects[0], f"{where}: subject")
    digests = json_object(subject.get("digest"), f"{where}: subject digest")
    encoded = json_text(digests.get("sha256"), f"{where}: subject sha256")
    predicate_type = json_text(top.get("predicateType"), f"{where}: predicateType")
    return Statement(
        # cosign's own statements have no name.
        subject_name=json_text(subject.get("name", ""), f"{where}: subject name"),
        subject=parse_digest(f"sha256:{encoded}"),
        predicate_type=predicate_type,
        predicate=_parse_predicate(predicate_type, top.get("predicate"), f"{where}: predicate"),
    )


def _message_fields(predicate: MessagePredicate) -> dict[str, object]:
    content: dict[str, object] = {
        "id": predicate.id,
        "sender": predicate.sender,
        "recipients": list(predicate.recipients),
        "created": predicate.created,
        "expires": predicate.expires,
    }
    if predicate.audience is not None:
        content["audience"] = predicate.audience
    if predicate.sequence is not None:
        content["sequence"] = predicate.sequence
    return content | _signer_fields(predicate.signer_spki)


def _receipt_fields(predicate: ReceiptPredicate) -> dict[str, object]:
    return {
        "message": predicate.message,
        "id": predicate.id,
        "sender": predicate.sender,
        "recipient": predicate.recipient,
        "status": predicate.status,
        "reason": predicate.reason,
        "verified": predicate.verified,
        "created": predicate.created,
    } | _signer_fields(predicate.signer_spki)


def _signer_fields(spki: bytes | None) -> dict[str, object]:
    return {} if spki is None else {"signer": {"spki": base64_text(spki)}}


def _parse_predicate(predicate_type: str, value: object, where: str) -> Predicate:
    if predicate_type == PREDICATE_TYPE_MESSAGE:
        return _parse_message(json_object(value, where), where)
    if predicate_type == PREDICATE_TYPE_RECEIPT:
        return _parse_receipt(json_object(value, where), where)
    return ForeignPredicate()


def _parse_message(content: Mapping[str, object], where: str) -> MessagePredicate:
    recipients = json_list(content.get("recipients"), f"{where}: recipients")
    if len(recipients) != 1:
        raise ProtocolError(f"{where}: {len(recipients)} recipients; exactly one expected")
    audience, sequence = content.get("audience"), content.get("sequence")
    return MessagePredicate(
        id=json_text(content.get("id"), f"{where}: id"),
        sender=json_text(content.get("sender"), f"{where}: sender"),
        recipients=(json_text(recipients[0], f"{where}: recipients"),),
        created=_time(content.get("created"), f"{where}: created"),
        expires=_time(content.get("expires"), f"{where}: expires"),
        audience=None if audience is None else json_text(audience, f"{where}: audience"),
        sequence=None if sequence is None else json_text(sequence, f"{where}: sequence"),
        signer_spki=_signer(content, where),
    )


def _parse_receipt(content: Mapping[str, object], where: str) -> ReceiptPredicate:
    verified = content.get("verified")
    if not isinstance(verified, bool):
        raise ProtocolError(f"{where}: verified: true or false expected")
    return ReceiptPredicate(
        message=parse_digest(json_text(content.get("message"), f"{where}: message")),
        id=json_text(content.get("id"), f"{where}: id"),
        sender=json_text(content.get("sender"), f"{where}: sender"),
        recipient=json_text(content.get("recipient"), f"{where}: recipient"),
        status=json_text(content.get("status"), f"{where}: status"),
        reason=json_text(content.get("reason"), f"{where}: reason"),
        verified=verified,
        created=_time(content.get("created"), f"{where}: created"),
        signer_spki=_signer(content, where),
    )


def _signer(content: Mapping[str, object], where: str) -> bytes | None:
    if "signer" not in content:
        return None
    signer = json_object(content["signer"], f"{where}: signer")
    return base64_bytes(signer.get("spki"), f"{where}: spki")


def _time(value: object, where: str) -> str:
    text = json_text(value, where)
    parse_time(text)
    return text

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from dockercomms.errors import ProtocolError
from dockercomms.protocol.header import PREDICATE_TYPE_MESSAGE, PREDICATE_TYPE_RECEIPT
from dockercomms.trust.statement import (
    PREDICATE_TYPE_COSIGN_SIGN,
    ForeignPredicate,
    build_statement,
    difference,
    message_predicate,
    parse_statement,
    receipt_predicate,
)
from tests.unit.trust.signed import ALICE, legacy_message, legacy_receipt, message, public, receipt


def message_statement() -> bytes:
    about = message()
    return build_statement(about.header.id, about.digest, message_predicate(about))


def changed(data: bytes, **changes: object) -> bytes:
    return json.dumps({**json.loads(data), **changes}).encode()


def test_message_statement_is_compact_and_in_its_order():
    about = message(audience="r.example/box")
    predicate = message_predicate(about, signer_spki=b"spki")
    assert build_statement("id", about.digest, predicate).decode() == (
        '{"_type":"https://in-toto.io/Statement/v1",'
        f'"subject":[{{"name":"id","digest":{{"sha256":"{about.digest[7:]}"}}}}],'
        '"predicateType":"https://dockercomms.dev/message/v1","predicate":{'
        f'"id":"{about.header.id}","sender":"alice@example.com","recipients":["bob@example.com"],'
        '"created":"2026-11-20T12:00:00.000Z","expires":"2026-11-27T12:00:00.000Z",'
        '"audience":"r.example/box","signer":{"spki":"c3BraQ=="}}}'
    )


def test_receipt_statement_is_about_the_message():
    about = receipt()
    data = build_statement(about.message_id, about.message, receipt_predicate(about))
    value = json.loads(data)
    assert value["subject"] == [{"name": about.message_id, "digest": {"sha256": about.message[7:]}}]
    assert value["predicateType"] == PREDICATE_TYPE_RECEIPT
    assert value["predicate"] == {
        "message": about.message,
        "id": about.message_id,
        "sender": "alice@example.com",
        "recipient": "bob@example.com",
        "status": "accepted",
        "reason": "looks good",
        "verified": True,
        "created": "2026-11-20T12:02:00.000Z",
    }


@pytest.mark.parametrize("spki", [None, public(ALICE).spki], ids=["none", "of-alice"])
def test_parse_is_the_inverse_of_build(spki):
    about, told = message(audience="r.example/box"), receipt()
    for predicate, kind in (
        (message_predicate(about, signer_spki=spki), PREDICATE_TYPE_MESSAGE),
        (receipt_predicate(told, signer_spki=spki), PREDICATE_TYPE_RECEIPT),
        (ForeignPredicate(), PREDICATE_TYPE_COSIGN_SIGN),
    ):
        found = parse_statement(build_statement("name", about.digest, predicate))
        assert (found.subject_name, found.subject) == ("name", about.digest)
        assert (found.predicate_type, found.predicate) == (kind, predicate)


def test_parse_ignores_members_that_it_does_not_know():
    value = json.loads(message_statement())
    value["predicate"]["new"] = value["new"] = 1
    value["subject"][0] |= {"annotations": {}}
    value["subject"][0]["digest"]["sha512"] = "x"
    assert parse_statement(json.dumps(value).encode()) == parse_statement(message_statement())


def test_parse_reads_a_subject_without_a_name_as_cosign_writes_it():
    value = json.loads(message_statement())
    del value["subject"][0]["name"]
    assert parse_statement(json.dumps(value).encode()).subject_name == ""


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"_type": "https://in-toto.io/Statement/v0.1"}, "type 'https"),
        ({"_type": None}, "type None"),
        ({"subject": None}, "0 subjects"),
        ({"subject": []}, "0 subjects"),
        ({"subject": [{}, {}]}, "2 subjects"),
        ({"subject": [{}]}, "subject digest: a JSON object expected"),
        ({"subject": [{"digest": {}}]}, "subject sha256: a string expected"),
        ({"subject": [{"digest": {"sha256": "ab"}}]}, "sha256:ab"),
        ({"predicateType": None}, "predicateType: a string expected"),
        ({"predicate": None}, "predicate: a JSON object expected"),
    ],
)
def test_parse_refuses(changes, text):
    with pytest.raises(ProtocolError, match=text):
        parse_statement(changed(message_statement(), **changes))


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("recipients", [], "0 recipients"),
        ("recipients", ["a", "b"], "2 recipients"),
        ("recipients", "a", "a list expected"),
        ("recipients", [1], "a string expected"),
        ("id", None, "id: a string"),
        ("created", "yesterday", "not an RFC 3339 time"),
        ("audience", 1, "audience: a string"),
        ("signer", None, "signer: a JSON object"),
        ("signer", {}, "spki: a string"),
    ],
)
def test_parse_refuses_a_message_predicate(field, value, text):
    given = json.loads(message_statement())
    given["predicate"][field] = value
    with pytest.raises(ProtocolError, match=text):
        parse_statement(json.dumps(given).encode())


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [("verified", "true", "true or false"), ("message", "x", "x"), ("status", 1, "a string")],
)
def test_parse_refuses_a_receipt_predicate(field, value, text):
    about = receipt()
    given = json.loads(build_statement("x", about.message, receipt_predicate(about)))
    given["predicate"][field] = value
    with pytest.raises(ProtocolError, match=text):
        parse_statement(json.dumps(given).encode())


def test_what_has_no_time_cannot_be_signed():
    with pytest.raises(ProtocolError, match="no created_at"):
        message_predicate(legacy_message())
    with pytest.raises(ProtocolError, match="no created_at"):
        receipt_predicate(legacy_receipt())


def test_difference_does_not_look_at_who_signed():
    predicate = message_predicate(message())
    assert difference(predicate, replace(predicate, signer_spki=b"x")) is None


def test_difference_between_kinds():
    assert difference(message_predicate(message()), ForeignPredicate()) == (
        "the statement is of another type than the object"
    )

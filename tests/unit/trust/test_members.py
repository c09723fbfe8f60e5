from __future__ import annotations

import pytest

from dockercomms.errors import ProtocolError
from dockercomms.trust.statement import base64_bytes, base64_text, json_list, json_object, json_text


def test_json_object_refuses_what_is_none_and_members_it_does_not_know():
    assert json_object({"a": 1}, "x") == {"a": 1}
    assert json_object({"a": 1}, "x", known=frozenset("ab")) == {"a": 1}
    for value in (None, [], "text", 1):
        with pytest.raises(ProtocolError, match="x: a JSON object expected"):
            json_object(value, "x")
    with pytest.raises(ProtocolError, match="x: unknown member 'b'"):
        json_object({"c": 1, "b": 1, "a": 1}, "x", known=frozenset("a"))


def test_json_list_takes_a_missing_one_for_empty():
    assert json_list([1], "x") == [1]
    assert json_list(None, "x") == []
    with pytest.raises(ProtocolError, match="x: a list expected"):
        json_list({}, "x")


def test_json_text_refuses_what_is_none():
    assert json_text("a", "x") == "a"
    with pytest.raises(ProtocolError, match="x: a string expected"):
        json_text(1, "x")


def test_base64_is_the_standard_one():
    assert base64_bytes(base64_text(b"\xfb\xff"), "x") == b"\xfb\xff"
    for value in ("-_8=", "a", "aGk=\n", "\u00e9"):
        with pytest.raises(ProtocolError, match="x: not base64"):
            base64_bytes(value, "x")

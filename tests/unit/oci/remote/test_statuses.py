"""The error class of each refusal."""

from __future__ import annotations

import json

import pytest

from dockercomms.errors import (
    OCI_ERROR_CLASSES,
    BlobUnknown,
    Denied,
    ManifestUnknown,
    NameUnknown,
    NotFoundError,
    RangeInvalid,
    RegistryError,
    TooManyRequests,
    Unauthorized,
    Unsupported,
)
from dockercomms.oci.remote.errors import MAX_ERROR_BODY_BYTES, check_response, error_from_response
from tests.unit.oci.remote.test_exchange import Answer


def errors(*codes: str, message: str = "m", detail: object = None) -> bytes:
    return json.dumps(
        {"errors": [{"code": code, "message": message, "detail": detail} for code in codes]}
    ).encode()


@pytest.mark.parametrize(("code", "cls"), OCI_ERROR_CLASSES.items())
def test_error_from_response_class_follows_the_code(code, cls):
    error = error_from_response(Answer(errors(code), status=400))
    assert type(error) is cls
    assert error.code == code
    assert error.status == 400


@pytest.mark.parametrize(
    ("status", "cls"),
    [
        (400, RegistryError),
        (401, Unauthorized),
        (403, Denied),
        (404, NotFoundError),
        (405, Unsupported),
        (416, RangeInvalid),
        (418, RegistryError),
        (429, TooManyRequests),
        (500, RegistryError),
        (501, Unsupported),
        (599, RegistryError),
    ],
)
def test_error_from_response_class_follows_the_status_where_there_is_no_code(status, cls):
    for body in (b"", b"<h1>no</h1>", b'{"errors":[]}', b'{"errors":1}', b"[]", b"{", b"\xff"):
        assert type(error_from_response(Answer(body, status=status))) is cls


def test_error_from_response_of_head_reads_nothing():
    answer = Answer(b"never read", method="HEAD", status=404)
    error = error_from_response(answer, not_found=BlobUnknown)
    assert type(error) is BlobUnknown
    assert error.body == b""
    assert type(error_from_response(Answer(method="HEAD", status=400))) is Unsupported


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("MANIFEST_UNKNOWN", BlobUnknown),
        ("NOT_FOUND", BlobUnknown),
        ("", BlobUnknown),
        ("NAME_UNKNOWN", NameUnknown),
        ("DENIED", BlobUnknown),
        ("UNAUTHORIZED", BlobUnknown),
        ("UNSUPPORTED", Unsupported),
    ],
)
def test_error_from_response_missing_things_are_what_was_asked_for(code, expected):
    body = errors(code) if code else b""
    answer = Answer(body, status=404)
    assert type(error_from_response(answer, not_found=BlobUnknown)) is expected


def test_error_from_response_416_is_always_the_range():
    error = error_from_response(Answer(errors("MANIFEST_UNKNOWN"), status=416))
    assert type(error) is RangeInvalid


def test_error_from_response_first_known_code_decides_and_all_texts_are_said():
    error = error_from_response(Answer(errors("MY_OWN", "DENIED", "BLOB_UNKNOWN"), status=400))
    assert type(error) is Denied
    assert "my own: m; denied: m; blob unknown: m" in error.message
    assert error_from_response(Answer(errors("MY_OWN"), status=400)).code == "MY_OWN"


def test_error_from_response_says_what_was_asked_and_what_came():
    error = error_from_response(
        Answer(errors("MANIFEST_UNKNOWN", message="no t", detail={"tag": "t"}), status=404)
    )
    assert error.message == (
        'GET https://h.example/v2/x: 404 not found: manifest unknown: no t ({"tag": "t"})'
    )
    assert (error.method, error.url) == ("GET", "https://h.example/v2/x")
    assert error.detail == '{"tag": "t"}'
    assert error.retry_after_seconds is None


def test_error_from_response_parts_that_are_no_text_are_left_out():
    body = b'{"errors":[{"code":1,"message":2},{"code":"DENIED"},"x",null]}'
    error = error_from_response(Answer(body, status=400))
    assert type(error) is Denied
    assert error.message.endswith("400 bad request: denied")


def test_error_from_response_bounds_and_cleans_what_it_shows():
    error = error_from_response(Answer(b"a\x1b[31m\n b" + b"x" * 5000, status=599))
    assert error.message.startswith("GET https://h.example/v2/x: 599: a?[31m bxxx")
    assert len(error.message) < 700
    assert len(error.body) <= MAX_ERROR_BODY_BYTES


def test_error_from_response_body_too_large_is_not_parsed():
    body = errors("DENIED", message="x" * MAX_ERROR_BODY_BYTES)
    error = error_from_response(Answer(body, status=400))
    assert type(error) is RegistryError
    assert "error body too large" in error.message
    assert len(error.body) == MAX_ERROR_BODY_BYTES


def test_error_from_response_body_that_breaks_is_none():
    assert type(error_from_response(Answer(b"x", status=416, breaks=True))) is RangeInvalid


def test_error_from_response_keeps_retry_after():
    error = error_from_response(Answer(status=503, Retry_After="4"))
    assert error.retry_after_seconds == 4


def test_error_from_response_hints():
    assert "docker login h.example" in str(error_from_response(Answer(status=401)).hint)
    assert error_from_response(Answer(status=429)).hint is not None
    assert error_from_response(Answer(status=500)).hint is None


@pytest.mark.parametrize(
    ("status", "ok", "accepted"),
    [
        (200, (), True),
        (299, (), True),
        (300, (), False),
        (202, (201,), False),
        (404, (200, 404), True),
    ],
)
def test_check_response_takes_what_is_listed(status, ok, accepted):
    answer = Answer(status=status)
    if accepted:
        check_response(answer, *ok)
        assert not answer.closed
        return
    with pytest.raises(RegistryError) as caught:
        check_response(answer, *ok)
    assert caught.value.status == status
    assert answer.closed


def test_check_response_says_what_is_missing():
    with pytest.raises(ManifestUnknown):
        check_response(Answer(status=404), not_found=ManifestUnknown)


def test_error_from_response_not_found_for_want_of_a_login_says_how_to_log_in():
    error = error_from_response(Answer(errors("DENIED"), status=404), not_found=BlobUnknown)
    assert error.code == "DENIED"
    assert "docker login h.example" in str(error.hint)

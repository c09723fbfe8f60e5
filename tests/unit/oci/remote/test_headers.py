"""The header fields of responses, parsed."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from dockercomms.errors import BadAnswer
from dockercomms.oci.remote.exchange import (
    content_digest,
    content_length,
    content_range,
    location,
    next_link,
    response_time,
    retry_after,
    upload_offset,
)
from tests.unit.oci.remote.test_exchange import Answer

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0-99", 100),
        ("bytes=0-99", 100),
        ("0-0", 0),
        ("0--1", 0),
        (" 0-1 ", 2),
    ],
)
def test_upload_offset_is_what_the_session_holds(text, expected):
    assert upload_offset(text) == expected


@pytest.mark.parametrize(
    "text", ["", "0", "0-", "5-9", "-1", "0-x", "0-9/10", "0--2", "0-" + "9" * 20]
)
def test_upload_offset_refuses_anything_else(text):
    with pytest.raises(BadAnswer, match="Range is"):
        upload_offset(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bytes 5-6/20", (5, 7, 20)),
        ("bytes 0-0/1", (0, 1, 1)),
        ("bytes 20-19/20", (20, 20, 20)),
        ("bytes 21-19/20", (21, 20, 20)),
    ],
)
def test_content_range_is_first_end_and_size(text, expected):
    assert content_range(Answer(Content_Range=text)) == expected


@pytest.mark.parametrize(
    "text", ["bytes 5-6", "bytes 5-6/*", "bytes */20", "bytes 0-20/20", "5-6/7"]
)
def test_content_range_refuses_anything_else(text):
    with pytest.raises(BadAnswer, match="Content-Range is"):
        content_range(Answer(Content_Range=text))
    with pytest.raises(BadAnswer, match="Content-Range is ''"):
        content_range(Answer())


def test_content_length_is_a_number_or_nothing():
    assert content_length(Answer()) is None
    assert content_length(Answer(Content_Length="0")) == 0
    for text in ("-1", "1.5", "x", "", "9" * 20):
        with pytest.raises(BadAnswer, match="Content-Length"):
            content_length(Answer(Content_Length=text))


def test_content_digest_is_a_digest_or_nothing():
    assert content_digest(Answer()) is None
    assert content_digest(Answer(Docker_Content_Digest=f" {DIGEST} ")) == DIGEST
    with pytest.raises(BadAnswer):
        content_digest(Answer(Docker_Content_Digest="sha256:xyz"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/v2/y?a=b", "https://h.example/v2/y?a=b"),
        ("y", "https://h.example/v2/y"),
        ("http://other.example/z", "http://other.example/z"),
    ],
)
def test_location_is_made_absolute(text, expected):
    assert location(Answer(Location=text)) == expected


def test_location_that_is_missing_is_refused():
    for answer in (Answer(), Answer(Location=" ")):
        with pytest.raises(BadAnswer, match="no Location"):
            location(answer)


NO_ADDRESSES = [
    "http://[::1/v2/x",
    "https://[v.x]/",
    "//[",
    "https://h\u2100.example/x",
    "http://]",
]


@pytest.mark.parametrize("text", NO_ADDRESSES)
def test_location_that_is_no_address_is_refused(text):
    with pytest.raises(BadAnswer, match="not an address"):
        location(Answer(Location=text + "?token=hush"))


@pytest.mark.parametrize("text", NO_ADDRESSES)
def test_next_link_that_is_no_address_is_refused(text):
    with pytest.raises(BadAnswer, match="not an address") as caught:
        next_link(Answer(Link=f'<{text}?token=hush>; rel="next"'))
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('</v2/y>; rel="next"', "https://h.example/v2/y"),
        ("</v2/y>;rel=next", "https://h.example/v2/y"),
        ("</v2/y>", "https://h.example/v2/y"),
        ('<y?last=a&n=5>; rel="next"', "https://h.example/v2/y?last=a&n=5"),
        ('</v2/y>; title="x"; rel="next"', "https://h.example/v2/y"),
        ('</first>; rel="first", </v2/y>; rel="next"', "https://h.example/v2/y"),
        ('<https://o.example/y>; rel="next"', "https://o.example/y"),
        ('</first>; rel="first"', None),
        ("", None),
    ],
)
def test_next_link_is_the_next_page(text, expected):
    assert next_link(Answer(Link=text)) == expected
    assert next_link(Answer()) is None


@pytest.mark.parametrize("text", ["</v2/r", "/v2/r", "x"])
def test_next_link_malformed_is_refused(text):
    with pytest.raises(BadAnswer, match="Link is"):
        next_link(Answer(Link=text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Fri, 20 Nov 2026 20:44:40 GMT", datetime(2026, 11, 20, 20, 44, 40, tzinfo=UTC)),
        ("Fri, 20 Nov 2026 20:44:40 -0000", datetime(2026, 11, 20, 20, 44, 40, tzinfo=UTC)),
        ("Fri, 20 Nov 2026 21:44:40 +0100", datetime(2026, 11, 20, 20, 44, 40, tzinfo=UTC)),
        ("yesterday", None),
        ("", None),
        (" ", None),
        ("Fri, 31 Dec 9999 23:59:59 -2359", None),
        ("Thu, 31 Dec 9998 23:59:59 -0001", None),
        ("Mon, 01 Jan 1000 00:00:00 +2359", None),
        ("Wed, 31 Dec 1969 23:59:59 GMT", None),
        ("Fri, 20 Nov 2026 20:44:40 +9999", None),
        ("Fri, 20 Nov 2026 20:44:40 -99999999999999999999", None),
        ("Fri, \xb2 Nov 2026 20:44:40 GMT", None),
        ("Fri, 20 Nov 2026 " + "9" * 5000 + ":44:40 GMT", None),
        ("Fri, 20 Nov 2026 20:44:99 GMT", None),
        ("\0" * 3, None),
    ],
)
def test_response_time_is_utc_or_nothing(text, expected):
    assert response_time(Answer(Date=text)) == expected


def test_retry_after_is_seconds_or_a_date_by_the_registrys_own_clock():
    assert retry_after(Answer()) is None
    assert retry_after(Answer(Retry_After="7")) == 7
    answer = Answer(
        Date="Fri, 20 Nov 2020 12:00:00 GMT", Retry_After="Fri, 20 Nov 2020 12:00:09 GMT"
    )
    assert retry_after(answer) == 9


@pytest.mark.parametrize(
    "text",
    [
        "Fri, 31 Dec 9999 23:59:59 GMT",
        "Fri, 31 Dec 9999 23:59:59 -2359",
        "Wed, 31 Dec 1969 23:59:59 GMT",
        "yesterday",
        "9" * 300,
    ],
)
def test_response_time_that_nobody_can_mean_is_none(text):
    assert response_time(Answer(Date=text)) is None

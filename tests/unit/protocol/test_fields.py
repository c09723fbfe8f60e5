"""Times and numbers in annotations."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from dockercomms.errors import ProtocolError
from dockercomms.protocol.fields import (
    format_time,
    parse_chunk_index,
    parse_count,
    parse_rfc3339,
    parse_time,
)


def test_time_is_written_in_utc():
    moment = datetime(2026, 11, 20, 21, 44, 40, 5000, timezone(timedelta(hours=1)))
    assert format_time(moment) == "2026-11-20T20:44:40.005Z"


def test_time_digits_below_microseconds_are_dropped():
    assert parse_time("2026-11-20T20:44:40.123456789Z") == datetime(
        2026, 11, 20, 20, 44, 40, 123456, UTC
    )


@pytest.mark.parametrize("text", ["", "now", "2026-02-30T00:00:00Z", "0001-01-01T00:00:00+23:59"])
def test_time_that_is_none_is_refused(text):
    with pytest.raises(ProtocolError):
        parse_time(text)


@pytest.mark.parametrize(
    "text",
    [
        "0001-01-01T00:04:59Z",
        "1969-12-31T23:59:59.999999Z",
        "1970-01-01T00:00:00+00:01",
        "9998-12-31T23:59:59-00:01",
        "9999-01-01T00:00:00Z",
        "9999-12-31T23:59:59.999Z",
    ],
)
def test_time_outside_of_1970_to_9998_is_refused(text):
    with pytest.raises(ProtocolError, match="from 1970 to 9998"):
        parse_time(text)
    assert parse_rfc3339(text) is not None or text[0] == "0"


@pytest.mark.parametrize("text", ["1970-01-01T00:00:00Z", "9998-12-31T23:59:59.999Z"])
def test_time_at_the_ends_is_read(text):
    assert parse_time(text).year in {1970, 9998}


@pytest.mark.parametrize("index", [0, 1, 9999])
def test_chunk_index_is_read(index):
    assert parse_chunk_index(str(index)) == index


@pytest.mark.parametrize(
    "text", ["", "00", "01", "-1", "+1", " 1", "1 ", "10000", "0x1", "1.0", "٣"]
)
def test_chunk_index_that_is_none_is_refused(text):
    with pytest.raises(ProtocolError):
        parse_chunk_index(text)


def test_count_has_a_limit():
    assert parse_count("7", "x", limit=7) == 7
    with pytest.raises(ProtocolError, match="x: a number from 0 to 7 expected, '8' received"):
        parse_count("8", "x", limit=7)

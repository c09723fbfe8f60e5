"""Reads of parts of blobs by docker/oci's client, compared with ours."""

from __future__ import annotations

import re
from typing import Any

import pytest

from dockercomms.errors import BadAnswer, DockerCommsError, RangeInvalid
from dockercomms.oci.interface import read_all
from tests.fakes.scripted import Reply
from tests.vectors.ociclient import CONTENT, DIGEST, headers_of, replaying, rows

ROWS = rows("ranges", {"name", "note", "error", "http_status", "is", "result", "requests"})

DIFFERENCES: dict[str, tuple[bytes | type[Exception], str]] = {
    "range 7,3 of 20 bytes": (ValueError, "not a range: nothing is asked"),
    "fake: server ignores Range and sends 200, range 5,7": (
        CONTENT[5:7],
        "the part is cut out of the whole, which the original handed out",
    ),
}
"""Row: what ours gives or raises in place of it, and why."""


def _replies(row: dict[str, Any]) -> list[Reply]:
    asked = row["requests"][0]
    headers, status = headers_of(asked), asked["status"]
    if status == 416:
        # its size is asked for, in case the registry refuses an end behind the last byte
        return [Reply(416, b"", headers), Reply(200, CONTENT)]
    if status == 200:
        return [Reply(200, CONTENT, headers)]
    match = re.match(r"bytes (\d+)-(\d+)", headers.get("Content-Range", ""))
    body = CONTENT[int(match[1]) : int(match[2]) + 1] if match else CONTENT[5:7]
    return [Reply(status, body, headers)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["name"])
def test_range_is_what_was_measured(row: dict[str, Any]) -> None:
    match = re.search(r"range (\d+),(-?\d+)", row["name"])
    assert match is not None
    start, end = int(match[1]), int(match[2])
    expected: bytes | type[Exception]
    if row["name"] in DIFFERENCES:
        expected = DIFFERENCES[row["name"]][0]
    elif "error" in row:
        expected = RangeInvalid if "is" in row else BadAnswer
    else:
        expected = row["result"]["content"].encode()
    with replaying(*_replies(row)) as (registry, server):
        if isinstance(expected, type):
            with pytest.raises(expected):
                registry.get_blob_range("r", DIGEST, start, None if end < 0 else end)
        else:
            reader = registry.get_blob_range("r", DIGEST, start, None if end < 0 else end)
            data, descriptor = read_all(reader, 100)
            assert data == expected
            assert descriptor.size == len(CONTENT)
        asked = row["requests"][0]["request_headers"].get("Range")
        if expected is not ValueError:
            assert server.requests[0].headers.get("range") == asked


def test_range_that_is_empty_asks_for_the_size_alone() -> None:
    with replaying(Reply(200, CONTENT, {})) as (registry, server):
        data, descriptor = read_all(registry.get_blob_range("r", DIGEST, 3, 3), 100)
        assert (data, descriptor.size) == (b"", len(CONTENT))
        assert [request.method for request in server.requests] == ["HEAD"]


@pytest.mark.parametrize("text", ["bytes 5-6/*", "", "bytes 4-6/20", "bytes 5-6/6", "5-6/20"])
def test_range_answered_by_another_part_is_refused(text: str) -> None:
    headers = {"Content-Range": text} if text else {}
    with (
        replaying(Reply(206, b"56", headers)) as (registry, _),
        pytest.raises(DockerCommsError) as caught,
    ):
        registry.get_blob_range("r", DIGEST, 5, 7)
    assert isinstance(caught.value, BadAnswer | RangeInvalid)

"""Reads and refusals of docker/oci's client, compared with ours."""

from __future__ import annotations

import re
from typing import Any

import pytest

from dockercomms.errors import (
    BadAnswer,
    DockerCommsError,
    IntegrityError,
    NetworkError,
    ProtocolError,
)
from dockercomms.oci.interface import read_all
from dockercomms.oci.model import MEDIA_TYPE_MANIFEST, Descriptor, digest_of
from dockercomms.oci.remote.registry import HTTPRegistry
from tests.fakes.scripted import Reply
from tests.vectors.ociclient import CONTENT, DIGEST, headers_of, replaying, rows

ROWS = rows("reading", {"name", "note", "error", "is", "result", "requests"})
LARGE = 4 * 2**20

DIFFERENCES: dict[str, tuple[type[DockerCommsError] | None, str]] = {
    "ResolveManifest, other digest in header": (
        IntegrityError,
        "the digest that was asked for counts, not the one that the answer says",
    ),
    "GetBlob, unknown length (chunked)": (
        None,
        "the size is asked for by HEAD; here the script goes on with one",
    ),
    "GetTag, unknown length (chunked)": (None, "a manifest is read whole, so its size is known"),
    "GetBlob, length too long": (NetworkError, "an answer that ends early is asked for again"),
    "GetTag, length too long": (NetworkError, "the same"),
    "GetTag, no digest header": (BadAnswer, "without a digest only a manifest counts as one"),
    "GetTag, no digest header, 4194304 bytes": (BadAnswer, "the same"),
}
"""Row: what ours raises in place of it, None for nothing, and why."""

BAD_HEADERS = re.compile(
    r"(bad digest|unknown algorithm in digest) header|^ResolveManifest, unknown"
)
"""Rows whose headers cannot be used: they prove nothing about the content (SPEC section 7.4)."""


def _call(registry: HTTPRegistry, name: str) -> tuple[bytes, Descriptor]:
    if name.startswith("GetBlob"):
        return read_all(registry.get_blob("r", DIGEST), LARGE)
    if name.startswith("GetTag"):
        return read_all(registry.get_tag("r", "t"), LARGE)
    assert name.startswith("ResolveManifest")
    return b"", registry.resolve_manifest("r", DIGEST)


def _reply(row: dict[str, Any]) -> Reply:
    name, headers = row["name"], headers_of(row["requests"][0])
    if "no content type" not in name:
        headers["Content-Type"] = MEDIA_TYPE_MANIFEST
    if match := re.search(r"(\d+) bytes", name):
        return Reply(200, b"x" * int(match[1]), {})
    body = b"X" + CONTENT[1:] if "content changed" in name else CONTENT
    if "unknown length" in name:
        return Reply(200, body, headers, length=None)
    lengths = {"length too long": 21, "length too short": 19}
    length = next((number for text, number in lengths.items() if text in name), "true")
    return Reply(200, body, headers, length=length)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["name"])
def test_reading_is_what_was_measured(row: dict[str, Any]) -> None:
    name = row["name"]
    expected: type[DockerCommsError] | None = None
    if "error" in row:
        expected = BadAnswer if BAD_HEADERS.search(name) else ProtocolError
    if name in DIFFERENCES:
        expected = DIFFERENCES[name][0]
    head = Reply(200, CONTENT, {"Docker-Content-Digest": DIGEST})
    with replaying(_reply(row), head) as (registry, server):
        if expected is not None:
            with pytest.raises(expected):
                _call(registry, name)
            return
        data, descriptor = _call(registry, name)
    asked = row["requests"][0]
    assert (server.requests[0].method, server.requests[0].target) == (
        asked["method"],
        asked["path"],
    )
    if not name.startswith("ResolveManifest") and "bytes" not in name:
        assert data == CONTENT
    if name in DIFFERENCES:
        return
    measured = row["result"].get("descriptor", row["result"])
    assert (descriptor.media_type, descriptor.digest, descriptor.size) == (
        measured["mediaType"],
        measured["digest"],
        measured["size"],
    )


def test_reading_asks_for_the_same_media_types() -> None:
    asked = next(row for row in ROWS if row["name"] == "GetTag, good")["requests"][0]
    with replaying(Reply(200, CONTENT, {"Docker-Content-Digest": DIGEST})) as (registry, server):
        registry.get_tag("r", "t")
        ours = server.requests[0].headers["accept"]
    theirs = asked["request_headers"]["Accept"]
    assert {item.strip() for item in ours.split(",")} == {
        item.strip() for item in theirs.split(",")
    }


def test_reading_other_digest_with_its_content_is_refused() -> None:
    """The original's hole: the answer's own digest and content were believed."""
    other = b"other content entirely"
    reply = Reply(200, other, {"Docker-Content-Digest": digest_of(other)})
    for call in ("get_blob", "get_manifest"):
        with replaying(reply) as (registry, _), pytest.raises(IntegrityError):
            read_all(getattr(registry, call)("r", DIGEST), LARGE)

"""Upload sessions of docker/oci's client, its defects, and our behaviour."""

from __future__ import annotations

import hashlib
import io
import re
from typing import Any

import pytest

from dockercomms.errors import BadAnswer, DigestInvalid, RangeInvalid
from dockercomms.oci.auth.credentials import DockerConfig
from dockercomms.oci.model import Descriptor, Digest, digest_of
from dockercomms.oci.remote.registry import HTTPRegistry
from dockercomms.oci.remote.retry import RetryPolicy
from tests.fakes.clock import FakeClock
from tests.fakes.registry import DISTRIBUTION, FakeRegistry
from tests.fakes.scripted import Reply
from tests.vectors.ociclient import headers_of, replaying, rows

ROWS = rows("chunked", {"name", "note", "error", "http_status", "is", "result", "requests"})
FAKE_ROWS = rows("chunked_fake", {"name", "note", "error", "result", "requests"})

DEFECTS = {
    name: "the closing PUT without a body carried a Content-Range, which was refused"
    for name in (
        "chunk=0 writes=[]",
        "chunk=100 writes=[101]",
        "chunk=100 writes=[50 51]",
        "chunk=100 writes=[300]",
        "resume offset from Size() after 60 bytes, chunk=100",
        "resume offset -1 after 150 bytes, chunk=100",
    )
} | {"resume offset -1 after 1 bytes, chunk=100": "0-0 was taken for 0 bytes only"}
"""Rows that failed in the original although it was used rightly: ours succeed."""


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def _written(registry: HTTPRegistry, name: str) -> Descriptor:
    chunk = _numbers(name.partition(" ")[0])[0]
    upload = registry.upload("ch/plain", chunk_size=chunk)
    hashed = hashlib.sha256()
    for length in _numbers(name.partition("writes=")[2]):
        data = bytes(i % 251 for i in range(length))
        assert upload.write(data) == length
        hashed.update(data)
    assert upload.chunk_size == (chunk or 4 * 2**20)
    return upload.commit(Digest(f"sha256:{hashed.hexdigest()}"))


def _resumed(registry: HTTPRegistry, name: str) -> Descriptor:
    first = _numbers(name.partition("after ")[2])[0]
    data = bytes(i % 251 for i in range(400))
    upload = registry.upload("ch/resume", chunk_size=100)
    upload.write(data[:first])
    upload.close()
    offset = {"-1": None, "Size()": first, "0": 0, "far": first + 7}[
        next(word for word in name.split() if word in {"-1", "Size()", "0", "far"})
    ]
    again = registry.resume_upload("ch/resume", upload.id, offset=offset, chunk_size=100)
    again.write(data[again.size :])
    return again.commit(digest_of(data))


def _call(registry: HTTPRegistry, name: str) -> Descriptor | None:
    if name.startswith("chunk="):
        return _written(registry, name)
    if name.startswith("resume offset"):
        return _resumed(registry, name)
    if name == "resume: empty id":
        registry.resume_upload("ch/resume", "")
    elif name == "resume: relative id":
        registry.resume_upload("ch/resume", "x")
    elif name == "commit: wrong digest":
        upload = registry.upload("ch/plain")
        upload.write(b"abc")
        upload.commit(digest_of(b"other"))
    else:
        assert name == "PushBlob 1 bytes"
        data = b"0"
        return registry.push_blob(
            "ch/mono", Descriptor.of(data, "application/octet-stream"), lambda: io.BytesIO(data)
        )
    return None


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["name"])
def test_upload_is_what_was_measured_without_the_defects(row: dict[str, Any]) -> None:
    name = row["name"]
    expected: type[Exception] | None = None
    if "error" in row and name not in DEFECTS:
        expected = {"RANGE_INVALID": RangeInvalid, "DIGEST_INVALID": DigestInvalid}.get(
            (row.get("is") or [""])[0], ValueError
        )
    with (
        FakeRegistry(DISTRIBUTION) as server,
        HTTPRegistry(
            server.host, auth=DockerConfig(), retry=RetryPolicy.none(), clock=FakeClock()
        ) as registry,
    ):
        if expected is not None:
            with pytest.raises(expected):
                _call(registry, name)
            return
        descriptor = _call(registry, name)
        assert descriptor is not None
        if name not in DEFECTS:
            assert descriptor.size == row["result"].get("size", 1)
        assert (
            registry.resolve_blob(
                "ch/plain"
                if name.startswith("chunk=")
                else "ch/mono"
                if name.startswith("PushBlob")
                else "ch/resume",
                descriptor.digest,
            ).size
            == descriptor.size
        )
        closing = [item for item in server.asked("PUT") if "/blobs/uploads/" in item.target][-1]
        if closing.request_bytes == 0:
            assert "content-range" not in closing.headers


@pytest.mark.parametrize(
    "row",
    [row for row in FAKE_ROWS if row["name"].startswith("chunked")],
    ids=lambda row: row["name"],
)
def test_upload_follows_the_newest_location(row: dict[str, Any]) -> None:
    writes = (100, 400, 100)
    data = b"".join(bytes([65 + i]) * length for i, length in enumerate(writes))
    script = {item["method"]: item for item in row["requests"]}
    with replaying() as (registry, server):

        def answer(seen: Any) -> Reply:
            item = script[seen.method]
            headers = headers_of(item)
            if seen.method == "PATCH" and seen.target != script["PATCH"]["path"].rstrip("?"):
                headers["Location"] = headers_of(script["PATCH"])["Location"]
            return Reply(item["status"], b"", headers)

        server.add(*[answer] * 9)
        upload = registry.upload("r", chunk_size=100)
        assert upload.chunk_size == row["result"]["chunk_size"]
        at = 0
        for length in writes:
            upload.write(data[at : at + length])
            at += length
        before = upload.id
        upload.commit(digest_of(data))
        patches = [seen for seen in server.requests if seen.method == "PATCH"]
        assert all(len(seen.body) == row["result"]["chunk_size"] for seen in patches)
        assert patches[0].target.rstrip("?") == script["PATCH"]["path"].rstrip("?")
        assert b"".join(seen.body for seen in server.requests) == data
        last = script["PUT"]["path"].partition("digest=")[0]
        assert server.requests[-1].target.partition("digest=")[0] == last
        assert before == server.url + last.rstrip("?&")


@pytest.mark.parametrize(
    "row",
    [row for row in FAKE_ROWS if row["name"].startswith("resume")],
    ids=lambda row: row["name"],
)
def test_upload_resumes_where_the_registry_says(row: dict[str, Any]) -> None:
    item = row["requests"][0]
    with replaying(Reply(item["status"], b"", headers_of(item))) as (registry, server):
        session = server.url + item["path"]
        if "error" in row:
            with pytest.raises(BadAnswer):
                registry.resume_upload("r", session)
        else:
            assert registry.resume_upload("r", session).size == row["result"]
        assert server.requests[0].target == item["path"]
        assert server.requests[0].method == "GET"

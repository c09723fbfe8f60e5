"""Lists and pushes of docker/oci's client, compared with ours."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dockercomms.errors import BadAnswer, DockerCommsError, NameUnknown, RegistryError
from dockercomms.oci.model import EMPTY_CONFIG_BYTES, MEDIA_TYPE_INDEX, MEDIA_TYPE_MANIFEST
from dockercomms.oci.remote.registry import HTTPRegistry
from tests.fakes.scripted import Reply
from tests.vectors.ociclient import CONTENT, DIGEST, OTHER_HOST, headers_of, replaying, rows

ROWS = rows(
    "listing_and_push", {"name", "note", "error", "http_status", "is", "result", "requests"}
)


def _names(key: str, *names: str) -> bytes:
    return json.dumps({"name": "r", key: names}).encode()


def _index(*types: str, digest: str = DIGEST) -> bytes:
    entries = [
        {"mediaType": MEDIA_TYPE_MANIFEST, "digest": digest, "size": 20, "artifactType": kind}
        for kind in types
    ]
    return json.dumps(
        {"schemaVersion": 2, "mediaType": MEDIA_TYPE_INDEX, "manifests": entries}
    ).encode()


UNKNOWN = b'{"errors":[{"code":"%s","message":"x"}]}'
BODIES: dict[str, list[bytes]] = {
    "tags, one page, no Link": [_names("tags", "a", "b"), _names("tags")],
    "tags, relative Link": [_names("tags", "a"), _names("tags", "b")],
    "tags, absolute Link to another host": [_names("tags", "a"), _names("tags")],
    "tags, Link without >": [_names("tags", "a")],
    "tags, limit 0": [_names("tags")],
    "tags, 404": [UNKNOWN % b"NAME_UNKNOWN"],
    "repositories, two pages": [
        _names("repositories", "a", "b"),
        _names("repositories", "c"),
        _names("repositories"),
    ],
    "referrers, API, no filter": [_index("x", "y", "x")],
    "referrers, API, OCI-Filters-Applied: artifactType": [_index("x", "y")],
    "referrers, API, filter empties the first page, Link to a second": [_index("y"), _index("x")],
    "referrers, 404, tag schema index": [b"404 page not found\n", _index("x", "y")],
    "referrers, 404, tag missing MANIFEST_UNKNOWN": [b"", UNKNOWN % b"MANIFEST_UNKNOWN"],
    "referrers, 405": [b"", UNKNOWN % b"MANIFEST_UNKNOWN"],
    "referrers, entry with a bad digest": [_index("x", digest="sha256:xyz")],
    "PushManifest, one tag, registry without ?tag=": [b""],
    "PushManifest, two tags, second fails": [b"", b""],
}

DIFFERENCES: dict[str, tuple[list[str] | type[DockerCommsError], str]] = {
    "referrers, API, OCI-Filters-Applied: artifactType": (
        ["x"],
        "a registry's own filter is not believed",
    ),
    "referrers, API, filter empties the first page, Link to a second": (
        ["x"],
        "a page that the filter empties does not end the listing",
    ),
    "referrers, 405": ([], "no such API either: the tag schema is asked"),
}
"""Row: what ours gives or raises in place of it, and why."""

REQUESTS: dict[str, tuple[int, str]] = {
    "tags, one page, no Link": (1, "no next page is said and no page size was asked: that is all"),
    "repositories, two pages": (2, "the same"),
    "referrers, API, filter empties the first page, Link to a second": (2, "the second is read"),
    "referrers, 405": (2, "the tag schema is asked"),
    "PushManifest, one tag, registry without ?tag=": (1, "no ?tag=, which most ignore"),
    "PushManifest, two tags, second fails": (2, "the same"),
}
"""Row: how many requests ours makes in place of the original's, and why."""


def _call(registry: HTTPRegistry, name: str) -> list[str]:
    if name == "tags, limit 0":
        return list(registry.tags("r", page_size=0))
    if name.startswith("tags"):
        return list(registry.tags("r"))
    if name.startswith("repositories"):
        return list(registry.repositories())
    if name.startswith("referrers"):
        wanted = "x" if "ilter" in name and "no filter" not in name else None
        found = registry.referrers("r", DIGEST, artifact_type=wanted)
        return [str(entry.artifact_type) for entry in found]
    tags = ("a", "b") if "two tags" in name else ("a",)
    pushed = registry.push_manifest("r", EMPTY_CONFIG_BYTES, MEDIA_TYPE_MANIFEST, tags=tags)
    return [pushed.media_type, pushed.digest, str(pushed.size)]


def _replies(row: dict[str, Any]) -> list[Reply]:
    asked = [item for item in row["requests"] if "?tag=" not in item["path"]]
    replies = []
    for number, body in enumerate(BODIES[row["name"]]):
        item = asked[number] if number < len(asked) else {"status": 200}
        if row["name"] == "referrers, 405" and number:
            item = {"status": 404}
        headers = headers_of(item)
        if body.startswith(b"{"):
            headers["Content-Type"] = MEDIA_TYPE_INDEX if b"manifests" in body else "text/json"
        if OTHER_HOST in headers.get("Link", ""):
            # another origin that is there to be asked: the same server by another name
            headers["Link"] = "<http://localhost:PORT/v2/r/tags/list?last=b>"
        replies.append(Reply(item["status"], body, headers))
    return replies


def _expected(row: dict[str, Any]) -> list[str] | type[DockerCommsError]:
    if row["name"] in DIFFERENCES:
        return DIFFERENCES[row["name"]][0]
    if "error" in row:
        if row.get("is") == ["NAME_UNKNOWN"]:
            return NameUnknown
        return RegistryError if "http_status" in row else BadAnswer
    if isinstance(row["result"], dict):
        return [str(row["result"][key]) for key in ("mediaType", "digest", "size")]
    return list(row["result"] or [])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["name"])
def test_listing_is_what_was_measured(row: dict[str, Any]) -> None:
    expected = _expected(row)
    with replaying() as (registry, server):
        port = server.host.rpartition(":")[2]
        for reply in _replies(row):
            link = reply.headers.get("Link")
            headers = dict(reply.headers)
            if link is not None:
                headers["Link"] = link.replace("PORT", port)
            server.add(Reply(reply.status, reply.body, headers))
        if isinstance(expected, type):
            with pytest.raises(expected):
                _call(registry, row["name"])
        else:
            assert _call(registry, row["name"]) == expected
        count = REQUESTS.get(row["name"], (len(row["requests"]), ""))[0]
        assert len(server.requests) == count
        assert server.beyond == 0
        assert "n=0" not in "".join(seen.target for seen in server.requests)
        if row["name"] in REQUESTS:
            return
        ours = [seen.target for seen in server.requests]
        theirs = [item["path"].replace("?n=0", "") for item in row["requests"]]
        assert ours == theirs


def test_listing_gives_what_came_before_a_malformed_link() -> None:
    reply = Reply(200, _names("tags", "a"), {"Link": "</v2/r"})
    with replaying(reply) as (registry, _):
        names = registry.tags("r")
        assert next(names) == "a"
        with pytest.raises(BadAnswer):
            next(names)


def test_listing_content_is_only_a_list_of_names() -> None:
    for body in (b"[]", b'{"tags":1}', b'{"tags":[1]}', b"nonsense", CONTENT):
        with replaying(Reply(200, body)) as (registry, _), pytest.raises(BadAnswer):
            list(registry.tags("r"))

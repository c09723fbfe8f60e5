"""Statuses and bodies as docker/oci's client reads them, compared with ours."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dockercomms.errors import (
    BadAnswer,
    DigestMismatch,
    DockerCommsError,
    ManifestUnknown,
    NetworkError,
    RegistryError,
    Unsupported,
)
from dockercomms.oci.remote.registry import HTTPRegistry
from tests.fakes.scripted import Reply
from tests.vectors.ociclient import DIGEST, replaying, rows

ROWS = rows("errors", {"name", "note", "error", "http_status", "is", "result", "requests"})


def _errors(*pairs: tuple[str, str]) -> bytes:
    return json.dumps(
        {"errors": [{"code": code, "message": text} for code, text in pairs]}
    ).encode()


BODIES = {
    "none": (b"", ""),
    "text": (b"some body", "text/plain"),
    "html": (b"<h1>x</h1>", "text/html; charset=utf-8"),
    "json one": (_errors(("MANIFEST_UNKNOWN", "m")), "application/json"),
    "json two": (_errors(("BLOB_UNKNOWN", "b"), ("DENIED", "d")), "application/json"),
    "json custom code": (_errors(("MY_OWN_CODE", "hello")), "application/json"),
    "json no message": (b'{"errors":[{"code":"NAME_INVALID"}]}', "application/json"),
    "json empty list": (b'{"errors":[]}', "application/json"),
    "json other": (b'{"a":1}', "application/json"),
    "json broken": (b'{"errors":', "application/json"),
    "json without type": (_errors(("DENIED", "d")), ""),
    "8193 bytes": (b"x" * 8193, "application/json"),
}

DIFFERENCES: dict[str, tuple[type[DockerCommsError] | None, str]] = {
    "DeleteManifest 204": (None, "deleting succeeded, whichever 2xx says so"),
    "GetManifest 202, body none": (DigestMismatch, "another 2xx is taken, its content is not"),
    "GetManifest 202, body text": (DigestMismatch, "the same"),
    "GetManifest 204, body none": (DigestMismatch, "the same"),
    "GetManifest 204, body text": (DigestMismatch, "the same"),
    "GetManifest 301, body none": (BadAnswer, "redirects are followed, this one to nowhere"),
    "GetManifest 301, body text": (BadAnswer, "the same"),
    "MountBlob 405": (None, "a store that does not mount is no error: the blob is to be pushed"),
    "ResolveTag (HEAD) 405": (RegistryError, "the manifest is asked for in place of its head"),
    "GetManifest 500, body json two": (
        ManifestUnknown,
        "the first code decides; of a manifest request a missing blob is a missing manifest",
    ),
}
"""Row: what ours raises in place of it, None for nothing, and why."""


def _call(registry: HTTPRegistry, name: str) -> object:
    if name.startswith("GetManifest"):
        return registry.get_manifest("r", DIGEST)
    if name.startswith("DeleteManifest"):
        return registry.delete_manifest("r", DIGEST)
    if name.startswith("ResolveTag"):
        return registry.resolve_tag("r", "t")
    assert name.startswith("MountBlob")
    return registry.mount_blob("b", DIGEST, source="a")


def _reply(row: dict[str, Any]) -> Reply:
    assert len(row["requests"]) == 1
    _, _, label = row["name"].partition(", body ")
    body, kind = BODIES[label or "none"]
    headers = {"Content-Type": kind} if kind else {}
    status = row["requests"][0]["status"]
    return Reply(status, b"" if status in {204, 304} else body, headers)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["name"])
def test_error_is_what_was_measured(row: dict[str, Any]) -> None:
    expected: type[DockerCommsError] | None = RegistryError if "error" in row else None
    different = row["name"] in DIFFERENCES
    if different:
        expected = DIFFERENCES[row["name"]][0]
    with replaying(_reply(row)) as (registry, server):
        if expected is None:
            _call(registry, row["name"])
            return
        with pytest.raises(expected) as caught:
            _call(registry, row["name"])
    asked = server.requests[0]
    assert (asked.method, asked.target.partition("?")[0]) == (
        row["requests"][0]["method"],
        row["requests"][0]["path"].partition("?")[0],
    )
    error = caught.value
    if different or not isinstance(error, RegistryError):
        return
    assert error.status == row["http_status"]
    if "is" in row:
        assert error.code in row["is"]
    assert len(error.body) <= 8192


def test_error_status_decides_where_no_code_does() -> None:
    """More than docker/oci: a 404 or 401 is one without a body as well."""
    with (
        replaying(Reply(404), Reply(401), Reply(405)) as (registry, _),
        pytest.raises(ManifestUnknown),
    ):
        registry.get_manifest("r", DIGEST)
    with (
        replaying(Reply(405)) as (registry, _),
        pytest.raises(Unsupported),
    ):
        registry.delete_manifest("r", DIGEST)


def test_error_of_a_broken_answer_is_the_networks() -> None:
    with replaying(Reply(200, b"abc", length=10)) as (registry, _), pytest.raises(NetworkError):
        registry.get_manifest("r", DIGEST)

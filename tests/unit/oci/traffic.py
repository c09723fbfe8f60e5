"""Blobs to send and to fetch, which requests are meant, and what a fake registry was asked."""

from __future__ import annotations

from typing import Any

from dockercomms.oci.interface import BlobReader
from dockercomms.oci.model import Descriptor, Digest, digest_of
from dockercomms.oci.remote.push import ONE_REQUEST_BYTES
from dockercomms.oci.remote.retry import RetryPolicy
from tests.fakes.registry import FakeRegistry
from tests.fakes.scripted import Reply
from tests.unit.oci.registries import R, content

DATA = content(100_000)
DIGEST = digest_of(DATA)
UNKNOWN = Digest("sha256:" + "0" * 64)
LARGE = ONE_REQUEST_BYTES + 300_000
"""Too large for one request."""
UPLOADS = "/blobs/uploads/"
NOT_THERE = Reply(404)
NO_RETRY = RetryPolicy.none()


def is_get(request: Any) -> bool:
    return bool(request.method == "GET")


def is_head(request: Any) -> bool:
    return bool(request.method == "HEAD")


def is_patch(request: Any) -> bool:
    return bool(request.method == "PATCH")


def is_post(request: Any) -> bool:
    return bool(request.method == "POST")


def is_put(request: Any) -> bool:
    return bool(request.method == "PUT")


def stored(server: FakeRegistry, descriptor: Descriptor) -> bytes:
    """Return what the server holds of a blob."""
    return server.repository(R).blobs[descriptor.digest].data


def methods(server: FakeRegistry) -> list[str]:
    return [record.method for record in server.requests]


def whole(reader: BlobReader, size: int = -1) -> bytes:
    """Return all that a reader gives, read `size` bytes at a time."""
    with reader:
        parts = []
        while part := reader.read(size):
            parts.append(part)
        return b"".join(parts)

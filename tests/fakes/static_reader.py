"""Readers that record their calls."""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from dockercomms.errors import BlobUnknown, ManifestUnknown
from dockercomms.oci.content import StoredReader, check_range, open_range
from dockercomms.oci.interface import BlobReader, Registry
from dockercomms.oci.model import Descriptor, Digest, parse_digest


class StaticReader:
    """A `Reader` of one repository that believes whatever it was given, as a bad registry would.

    `requests` holds lines such as `GET manifests/latest 200`, as a registry's log would.
    """

    def __init__(self) -> None:
        self.manifests: dict[str, tuple[Descriptor, bytes]] = {}
        self.blobs: dict[str, tuple[Descriptor, bytes]] = {}
        self.tags: dict[str, str] = {}
        self.requests: list[str] = []

    @classmethod
    def of_fixture(cls, fixture: Mapping[str, Any]) -> StaticReader:
        """Return the reader of a fixture in `index_synthesis.json`."""
        assert set(fixture) == {"objects", "tags"}
        reader = cls()
        for name, item in fixture["objects"].items():
            assert set(item) == {"kind", "mediaType", "digest", "size", "data"}
            assert item["digest"] == name
            descriptor = Descriptor(
                media_type=item["mediaType"], digest=parse_digest(name), size=item["size"]
            )
            held = reader.manifests if item["kind"] == "manifest" else reader.blobs
            held[name] = (descriptor, item["data"].encode())
        reader.tags = dict(fixture["tags"])
        return reader

    def add_manifest(self, data: bytes, media_type: str, *tags: str) -> Descriptor:
        """Put a manifest there."""
        descriptor = Descriptor.of(data, media_type)
        self.manifests[descriptor.digest] = (descriptor, data)
        for tag in tags:
            self.tags[tag] = descriptor.digest
        return descriptor

    def add_blob(self, data: bytes, media_type: str = "application/octet-stream") -> Descriptor:
        """Put a blob there."""
        descriptor = Descriptor.of(data, media_type)
        self.blobs[descriptor.digest] = (descriptor, data)
        return descriptor

    def get_blob(self, repository: str, digest: Digest, *, size: int | None = None) -> BlobReader:
        descriptor, data = self._blob("GET", digest)
        return StoredReader(io.BytesIO(data), descriptor)

    def get_blob_range(
        self, repository: str, digest: Digest, start: int, end: int | None = None
    ) -> BlobReader:
        check_range(start, end)
        _, data = self._blob("GET", digest)
        return open_range(io.BytesIO(data), digest, len(data), start, end)

    def get_manifest(self, repository: str, digest: Digest) -> BlobReader:
        descriptor, data = self._manifest("GET", digest, digest)
        return StoredReader(io.BytesIO(data), descriptor)

    def get_tag(self, repository: str, tag: str) -> BlobReader:
        descriptor, data = self._manifest("GET", tag, self.tags.get(tag, ""))
        return StoredReader(io.BytesIO(data), descriptor)

    def resolve_blob(self, repository: str, digest: Digest) -> Descriptor:
        return self._blob("HEAD", digest)[0]

    def resolve_manifest(self, repository: str, digest: Digest) -> Descriptor:
        return self._manifest("HEAD", digest, digest)[0]

    def resolve_tag(self, repository: str, tag: str) -> Descriptor:
        return self._manifest("HEAD", tag, self.tags.get(tag, ""))[0]

    def server_time(self) -> datetime | None:
        return None

    def _blob(self, method: str, digest: str) -> tuple[Descriptor, bytes]:
        found = self.blobs.get(digest)
        self.requests.append(f"{method} blobs/{digest} {404 if found is None else 200}")
        if found is None:
            raise BlobUnknown(f"{digest}: no such blob")
        return found

    def _manifest(self, method: str, name: str, digest: str) -> tuple[Descriptor, bytes]:
        found = self.manifests.get(digest)
        self.requests.append(f"{method} manifests/{name} {404 if found is None else 200}")
        if found is None:
            raise ManifestUnknown(f"{name}: no such manifest")
        return found


class CountingRegistry:
    """Any registry, with the names of the methods that were called in `calls`."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._lock = threading.Lock()
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._registry, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            with self._lock:
                self.calls.append(name)
            return method(*args, **kwargs)

        return counted

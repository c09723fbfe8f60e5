"""The content of a fake registry: plain dicts, in which tests plant objects."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


def sha256(data: bytes | bytearray) -> str:
    """Return the digest of `data`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass(slots=True)
class StoredBlob:
    """A blob; `data` need not fit the digest it is stored under."""

    data: bytes
    stored_at: float


@dataclass(slots=True)
class StoredManifest:
    """A manifest; `data` need not fit the digest it is stored under."""

    data: bytes
    media_type: str
    stored_at: float
    digest_header: str | None = None
    """Said instead of the digest."""
    listed_at: float | None = None
    """The time when the referrers API starts to list it; `None`: never."""
    parsed: dict[str, Any] = field(init=False)
    """The manifest's object, an empty one if it is not JSON."""
    subject: str | None = field(init=False)
    """The subject's digest."""

    def __post_init__(self) -> None:
        try:
            value = json.loads(self.data)
        except (ValueError, RecursionError):
            value = {}
        self.parsed = value if isinstance(value, dict) else {}
        subject = self.parsed.get("subject")
        self.subject = subject.get("digest") if isinstance(subject, dict) else None

    def names(self, *keys: str) -> Iterator[str]:
        """Yield the digests of the descriptors under `keys`."""
        for key in keys:
            value = self.parsed.get(key)
            for entry in value if isinstance(value, list) else [value]:
                if isinstance(entry, dict) and isinstance(entry.get("digest"), str):
                    yield entry["digest"]


@dataclass(slots=True)
class Upload:
    """An upload session."""

    repository: str
    data: bytearray = field(default_factory=bytearray)
    patched: bool = False
    spoilt: bool = False
    first: int = 0
    """Bytes after the first piece."""


@dataclass(slots=True)
class Repository:
    """One repository's content."""

    blobs: dict[str, StoredBlob] = field(default_factory=dict)
    manifests: dict[str, StoredManifest] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    ghosts: dict[str, StoredManifest] = field(default_factory=dict)
    """Manifests that answer under a tag or digest that is not theirs any more, or never was."""

    def ghost_tags(self) -> list[str]:
        """Return the tags that only a ghost answers."""
        return [name for name in self.ghosts if ":" not in name and name not in self.tags]

    def tagged(self) -> set[str]:
        """Return the digests that a tag points at."""
        return set(self.tags.values())

    def referrers(self, digest: str) -> Iterator[tuple[str, StoredManifest]]:
        """Yield the manifests whose subject is `digest`."""
        for own, manifest in self.manifests.items():
            if manifest.subject == digest:
                yield own, manifest


@dataclass(slots=True)
class Store:
    """All repositories and upload sessions."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    uploads: dict[str, Upload] = field(default_factory=dict)
    subjects_pushed: int = 0
    failed_posts: dict[str, int] = field(default_factory=dict)

    def repository(self, name: str) -> Repository:
        """Return a repository, made if it is not there."""
        return self.repositories.setdefault(name, Repository())

    def open_upload(self, repository: str) -> str:
        """Start a session and return its id."""
        session = uuid.uuid4().hex
        self.uploads[session] = Upload(repository)
        return session

    def collect_blobs(self, older_than: float) -> None:
        """Forget blobs stored before `older_than` that no manifest names."""
        for repository in self.repositories.values():
            named = {
                digest
                for manifest in repository.manifests.values()
                for digest in manifest.names("config", "layers")
            }
            for digest, blob in list(repository.blobs.items()):
                if blob.stored_at < older_than and digest not in named:
                    del repository.blobs[digest]

    def collect_untagged(self) -> list[str]:
        """Delete every untagged manifest, even one with a living subject; return their digests.

        distribution's `garbage-collect --delete-untagged` does this, as measured.
        """
        gone = []
        for repository in self.repositories.values():
            tagged = repository.tagged()
            for digest in list(repository.manifests):
                if digest not in tagged:
                    del repository.manifests[digest]
                    gone.append(digest)
        return gone

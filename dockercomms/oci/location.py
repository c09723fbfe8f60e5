"""Where an object is: a store, a repository in it, and a tag or digest.

A `Reference` says it in words; a `Location` also holds the store that is spoken to, so that the
functions of `oci.copy` work between registries, layouts and memory in any combination. The store
has to be open as long as the location is used, and is closed by whoever made it.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, replace

from dockercomms.errors import DigestMismatch, UsageError
from dockercomms.oci.http_registry import HTTPRegistry
from dockercomms.oci.interface import Reader, Registry
from dockercomms.oci.model import Digest
from dockercomms.oci.reference import Reference, is_valid_digest, is_valid_tag
from dockercomms.records import dataclass


@dataclass(frozen=True, slots=True)
class Location:
    """A repository in a store, or with a tag, a digest or both an object in it."""

    registry: Registry
    repository: str
    """Its name; a store of one repository, such as a layout, ignores it."""
    _: KW_ONLY
    tag: str | None = None
    digest: Digest | None = None

    def __post_init__(self) -> None:
        if self.tag is not None and not is_valid_tag(self.tag):
            raise UsageError(f"not a tag: {self.tag!r:.200}")
        if self.digest is not None and not is_valid_digest(self.digest):
            raise UsageError(f"not a digest: {self.digest!r:.200}")

    @classmethod
    def of(cls, registry: Registry, reference: Reference) -> Location:
        """Return where `reference` is in `registry`, whose host is not compared with it."""
        return cls(registry, reference.repository, tag=reference.tag, digest=reference.digest)

    @property
    def tag_or_latest(self) -> str:
        """The tag, `latest` where there is none."""
        return self.tag or "latest"

    @property
    def tags(self) -> tuple[str, ...]:
        """The tag, if there is one, as `Writer.push_manifest` takes it."""
        return () if self.tag is None else (self.tag,)

    def at(self, digest: Digest) -> Location:
        """Return the object with `digest` in the same repository, without a tag."""
        return replace(self, tag=None, digest=digest)

    def __str__(self) -> str:
        """Return the place as a reference says it; the host is there for a registry over HTTP."""
        host = f"{self.registry.endpoint.host}/" if isinstance(self.registry, HTTPRegistry) else ""
        tag = f":{self.tag}" if self.tag else ""
        return f"{host}{self.repository}{tag}{f'@{self.digest}' if self.digest else ''}"

    def blob_digest(self) -> Digest:
        """Return the digest of what can only be named by one.

        Raises:
            UsageError: there is none.
        """
        if self.digest is None:
            raise UsageError(f"{self}: a blob's digest is missing")
        return self.digest

    def refuse_tag(self) -> None:
        """Refuse a tag, which blobs do not have.

        Raises:
            UsageError: there is one.
        """
        if self.tag is not None:
            raise UsageError(f"{self}: blobs have no tags")

    def refuse_other(self, digest: Digest) -> None:
        """Refuse content that is not what this location names.

        Raises:
            DigestMismatch: it names another digest.
        """
        if self.digest is not None and self.digest != digest:
            raise DigestMismatch(f"{self}: the content is {digest}")


def same_store(one: Reader, other: Reader) -> bool:
    """Return whether both are one registry, in which a blob can be mounted without moving it."""
    if one is other:
        return True
    return (
        isinstance(one, HTTPRegistry)
        and isinstance(other, HTTPRegistry)
        and one.endpoint.base_url == other.endpoint.base_url
    )

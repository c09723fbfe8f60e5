"""Clients of registries: `Client` for one repository, `ClientPool`, and the rules of Docker Hub.

The first request opens the connection and imports urllib3.

For many pulls from Docker Hub, a pull-through cache can stand between (`HubProxy`): reads and lists
go to it; writes, deletions, and reads that decide about a write go to the Hub itself. The proxy
gets the credentials of its own host.

Example:
    >>> from dockercomms.oci.client import Client
    >>> client = Client("registry.example/team/box:v1")
    >>> client.reference.tag
    'v1'
    >>> client.close()
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import TracebackType

from dockercomms.errors import NotFoundError
from dockercomms.oci.auth.credentials import Credentials, DockerConfig
from dockercomms.oci.hub import HubProxy, hub_registry
from dockercomms.oci.interface import (
    BlobReader,
    BlobSource,
    ProgressHook,
    Registry,
    TagPage,
    read_all,
)
from dockercomms.oci.model import (
    EMPTY_CONFIG,
    EMPTY_CONFIG_BYTES,
    MANIFEST_MEDIA_TYPES,
    MAX_MANIFEST_BYTES,
    Descriptor,
    Digest,
    digest_of,
    matches,
    parse_digest,
)
from dockercomms.oci.reference import DEFAULT_HOST, HUB_HOSTS, Reference
from dockercomms.oci.remote.registry import HTTPRegistry as HTTPRegistry  # noqa: PLC0414 - public here
from dockercomms.oci.remote.retry import RetryHook, RetryPolicy
from dockercomms.oci.remote.session import TIMEOUT_SECONDS
from dockercomms.platforms.clock import Clock

BLOB_SIZE_WORTH_HEAD = 65535
"""Pushes ask for larger blobs first; for smaller ones a request costs as much as the push."""


class ClientPool(AbstractContextManager["ClientPool"]):
    """One `HTTPRegistry` for each host, with shared connections and tokens. Thread-safe.

    Args:
        make: Makes the registry of a host. Default: `hub_registry` for Docker Hub, with the proxy
            in the environment, and `HTTPRegistry` for other hosts.
    """

    def __init__(self, make: Callable[[str], HTTPRegistry] | None = None) -> None:
        self._make = make or _default_registry
        self._lock = threading.Lock()
        self._known: dict[str, HTTPRegistry] = {}

    def client_for(self, host: str) -> HTTPRegistry:
        """Return the registry of `host`; Docker Hub's names are one host."""
        name = DEFAULT_HOST if host in HUB_HOSTS else host
        with self._lock:
            if name not in self._known:
                self._known[name] = self._make(name)
            return self._known[name]

    def close(self) -> None:
        """Close all registries of the pool."""
        with self._lock:
            known, self._known = tuple(self._known.values()), {}
        for registry in known:
            registry.close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def client_for(host: str, pool: ClientPool) -> HTTPRegistry:
    """Return the registry of `host` from `pool`."""
    return pool.client_for(host)


def _default_registry(host: str) -> HTTPRegistry:
    if host == DEFAULT_HOST:
        return hub_registry(proxy=HubProxy.from_env())
    return HTTPRegistry(host)


class Client(AbstractContextManager["Client"]):
    """A registry bound to one repository, with the tag or digest of the reference as default.

    Args:
        reference: `host/repository[:tag][@digest]`, or a `Reference`.
        registry: The store; `None`: `HTTPRegistry` for the reference's host.

    The other arguments are those of `HTTPRegistry`.

    Raises:
        UsageError: `reference` is no reference, or has no host.
    """

    def __init__(
        self,
        reference: Reference | str,
        *,
        registry: Registry | None = None,
        plain_http: bool | None = None,
        insecure: bool = False,
        ca_file: str | None = None,
        timeout: float = TIMEOUT_SECONDS,
        auth: DockerConfig | None = None,
        credentials: Credentials | None = None,
        retry: RetryPolicy | None = None,
        clock: Clock | None = None,
        on_retry: RetryHook | None = None,
    ) -> None:
        if isinstance(reference, str):
            reference = Reference.parse(reference, default_host=None)
        self.reference = reference
        self.registry: Registry = registry or HTTPRegistry(
            reference.host,
            plain_http=plain_http,
            insecure=insecure,
            ca_file=ca_file,
            timeout=timeout,
            auth=auth,
            credentials=credentials,
            retry=retry,
            clock=clock,
            on_retry=on_retry,
        )

    @property
    def repository(self) -> str:
        """The repository's name."""
        return self.reference.repository

    def ensure_empty_config(self) -> Descriptor:
        """Push the two bytes `{}` unless they are there; return their descriptor."""
        if not self.exists(EMPTY_CONFIG):
            self.push_blob(EMPTY_CONFIG, EMPTY_CONFIG_BYTES)
        return EMPTY_CONFIG

    def exists(self, descriptor: Descriptor) -> bool:
        """Return whether the blob or manifest, according to its media type, exists."""
        try:
            if descriptor.media_type in MANIFEST_MEDIA_TYPES:
                self.registry.resolve_manifest(self.repository, descriptor.digest)
            else:
                self.registry.resolve_blob(self.repository, descriptor.digest)
        except NotFoundError:
            return False
        return True

    def fetch_blob(self, descriptor: Descriptor) -> BlobReader:
        """Return a checked reader of the blob.

        Raises:
            BlobUnknown: there is no such blob.
        """
        return self.registry.get_blob(self.repository, descriptor.digest, size=descriptor.size)

    def fetch_manifest(self, name: str | None = None) -> BlobReader:
        """Return a reader of the manifest under a tag or digest; default: the reference's own.

        Raises:
            ManifestUnknown: there is no such manifest.
        """
        tag, digest = self._named(name)
        if digest is not None:
            return self.registry.get_manifest(self.repository, digest)
        return self.registry.get_tag(self.repository, tag)

    def resolve(self, name: str | None = None) -> Descriptor:
        """Return the manifest's descriptor under a tag or digest; default: the reference's own.

        Raises:
            ManifestUnknown: there is no such manifest.
        """
        tag, digest = self._named(name)
        if digest is not None:
            return self.registry.resolve_manifest(self.repository, digest)
        return self.registry.resolve_tag(self.repository, tag)

    def push_blob(
        self,
        descriptor: Descriptor,
        content: bytes | BlobSource,
        *,
        force: bool = False,
        progress: ProgressHook | None = None,
    ) -> Descriptor:
        """Push a blob unless it is there; up to 65,535 bytes, push it without asking.

        Args:
            descriptor: The descriptor of `content`.
            content: The bytes, or a function that opens them.
            force: Push it in any case.
            progress: Called with the number of bytes sent.
        """
        if not force and descriptor.size > BLOB_SIZE_WORTH_HEAD and self.exists(descriptor):
            return descriptor
        source = (lambda: io.BytesIO(content)) if isinstance(content, bytes) else content
        return self.registry.push_blob(self.repository, descriptor, source, progress=progress)

    def push_manifest(self, data: bytes, media_type: str, *tags: str) -> Descriptor:
        """Push a manifest under each of `tags`; without tags, by its digest.

        Its own digest in `tags` counts as no tag.

        Raises:
            ValueError: `tags` contains the digest of another manifest.
        """
        digests = [parse_digest(tag) for tag in tags if ":" in tag]
        for digest in digests:
            if not matches(data, digest):
                raise ValueError(
                    f"{digest} is not the digest of the manifest, {digest_of(data)} is"
                )
        return self.registry.push_manifest(
            self.repository, data, media_type, tags=[tag for tag in tags if ":" not in tag],
            digest=digests[0] if digests else None,
        )  # fmt: skip

    def tag(self, source: str, *tags: str) -> Descriptor:
        """Put each of `tags` on the manifest under the tag or digest `source`.

        Raises:
            ManifestUnknown: there is no such manifest.
        """
        data, descriptor = read_all(self.fetch_manifest(source), MAX_MANIFEST_BYTES)
        return self.push_manifest(data, descriptor.media_type, *tags)

    def tags(self, last: str | None = None, *, limit: int | None = None) -> Iterator[str]:
        """Yield the repository's tags; behind `last`, if the registry supports that."""
        return self.registry.tags(self.repository, start_after=last, limit=limit)

    def pages(self, last: str | None = None, *, size: int | None = None) -> Iterator[TagPage]:
        """Yield the pages of the tag list as the registry returns them."""
        return self.registry.tag_pages(self.repository, start_after=last, page_size=size)

    def referrers(
        self, descriptor: Descriptor, artifact_type: str | None = None
    ) -> Iterator[Descriptor]:
        """Yield the referrers of the manifest: by the referrers API, else by the tag schema."""
        return self.registry.referrers(
            self.repository, descriptor.digest, artifact_type=artifact_type
        )

    def referrers_supported(self) -> bool:
        """Return whether the registry has the referrers API; the tag schema does not count."""
        return self.registry.referrers_supported(self.repository)

    def close(self) -> None:
        """Close the registry."""
        self.registry.close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _named(self, name: str | None) -> tuple[str, Digest | None]:
        if name is None:
            return self.reference.tag_or_latest, self.reference.digest
        if ":" in name:
            return "", parse_digest(name)
        return name, None

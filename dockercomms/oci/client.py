"""`HTTPRegistry`: the registry interface over HTTP; `Client`: the same bound to one repository.

Nothing is asked of the network, and requests is not imported, before the first request.

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
from dockercomms.oci.auth import Credentials, DockerConfig
from dockercomms.oci.http_registry import HTTPRegistry as HTTPRegistry  # noqa: PLC0414 - offered here
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
from dockercomms.oci.retry import RetryHook, RetryPolicy
from dockercomms.oci.session import TIMEOUT_SECONDS
from dockercomms.platforms import Clock

BLOB_SIZE_WORTH_HEAD = 65535
"""Larger blobs are looked for before they are pushed; smaller ones cost as much to push."""


class ClientPool(AbstractContextManager["ClientPool"]):
    """One `HTTPRegistry` for each host, so that connections and tokens are shared. Thread-safe.

    Args:
        make: Makes the registry of a host; None: as `HTTPRegistry`, for Docker Hub as
            `hub_registry`, with the proxy that the environment names.
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
        """Close all that was made."""
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
    """Return the registry of `host` out of `pool`."""
    return pool.client_for(host)


def _default_registry(host: str) -> HTTPRegistry:
    if host == DEFAULT_HOST:
        return hub_registry(proxy=HubProxy.from_env())
    return HTTPRegistry(host)


class Client(AbstractContextManager["Client"]):
    """A registry bound to one repository; what a reference says besides is the default object.

    Args:
        reference: `host/repository[:tag][@digest]`, or a `Reference`.
        registry: The store; None: `HTTPRegistry` for the reference's host.

    The other arguments are those of `HTTPRegistry`.

    Raises:
        UsageError: not a reference, or one without a host.
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
        """Push the two bytes `{}` unless they are there; returns their descriptor."""
        if not self.exists(EMPTY_CONFIG):
            self.push_blob(EMPTY_CONFIG, EMPTY_CONFIG_BYTES)
        return EMPTY_CONFIG

    def exists(self, descriptor: Descriptor) -> bool:
        """Return whether the blob or manifest is there, told apart by its media type."""
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
            BlobUnknown: not there.
        """
        return self.registry.get_blob(self.repository, descriptor.digest, size=descriptor.size)

    def fetch_manifest(self, name: str | None = None) -> BlobReader:
        """Return a reader of the manifest under a tag or digest; None: the reference's own.

        Raises:
            ManifestUnknown: not there.
        """
        tag, digest = self._named(name)
        if digest is not None:
            return self.registry.get_manifest(self.repository, digest)
        return self.registry.get_tag(self.repository, tag)

    def resolve(self, name: str | None = None) -> Descriptor:
        """Return the descriptor of the manifest under a tag or digest; None: the reference's own.

        Raises:
            ManifestUnknown: not there.
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
        """Push a blob unless it is there; up to 65,535 bytes it is pushed without asking.

        Args:
            descriptor: What the content is.
            content: The bytes, or what opens them.
            force: Push it in any case.
            progress: Told how far it is.
        """
        if not force and descriptor.size > BLOB_SIZE_WORTH_HEAD and self.exists(descriptor):
            return descriptor
        source = (lambda: io.BytesIO(content)) if isinstance(content, bytes) else content
        return self.registry.push_blob(self.repository, descriptor, source, progress=progress)

    def push_manifest(self, data: bytes, media_type: str, *tags: str) -> Descriptor:
        """Store a manifest under each of `tags`, or by its digest if there are none.

        Its own digest among them stands for no tag.

        Raises:
            ValueError: the digest of another manifest.
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
        """Put each of `tags` on the manifest that the tag or digest `source` names.

        Raises:
            ManifestUnknown: not there.
        """
        data, descriptor = read_all(self.fetch_manifest(source), MAX_MANIFEST_BYTES)
        return self.push_manifest(data, descriptor.media_type, *tags)

    def tags(self, last: str | None = None, *, limit: int | None = None) -> Iterator[str]:
        """Yield the repository's tags, as far as the registry obeys behind `last`."""
        return self.registry.tags(self.repository, start_after=last, limit=limit)

    def pages(self, last: str | None = None, *, size: int | None = None) -> Iterator[TagPage]:
        """Yield the pages of the tag list as they come."""
        return self.registry.tag_pages(self.repository, start_after=last, page_size=size)

    def referrers(
        self, descriptor: Descriptor, artifact_type: str | None = None
    ) -> Iterator[Descriptor]:
        """Yield what refers to the manifest: by the referrers API, else by the tag schema."""
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
        """Return the tag, and the digest where that is what `name` or the reference says."""
        if name is None:
            return self.reference.tag_or_latest, self.reference.digest
        if ":" in name:
            return "", parse_digest(name)
        return name, None

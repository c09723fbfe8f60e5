"""Docker Hub: its rate, its retry policy, and a proxy that is read from in its place.

Those who pull from the Hub a lot put a pull-through cache between: what is read and listed comes
from there, what is written and deleted goes to the Hub itself, and so does every question that
decides about a write. Credentials for the proxy are those of the proxy's own host.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from dockercomms.errors import ConfigError
from dockercomms.oci.credentials import Credentials, DockerConfig
from dockercomms.oci.exchange import redact_url
from dockercomms.oci.http_registry import HTTPRegistry
from dockercomms.oci.interface import BlobReader, Registry, TagPage
from dockercomms.oci.model import Descriptor, Digest
from dockercomms.oci.reference import DEFAULT_HOST, is_valid_host
from dockercomms.oci.retry import RateLimiter, RetryHook, RetryPolicy
from dockercomms.oci.session import TIMEOUT_SECONDS
from dockercomms.platforms import Clock, SystemClock
from dockercomms.records import dataclass

if TYPE_CHECKING:
    import requests  # noqa: TID251 - a type only

PROXY_VARIABLE = "DOCKERHUB_PUBLIC_PROXY"
PROXY_HOST_VARIABLE = "DOCKERHUB_PUBLIC_PROXY_HOST"


@dataclass(frozen=True, slots=True)
class HubProxy:
    """A registry that has what Docker Hub has."""

    host: str
    plain_http: bool = False

    def __post_init__(self) -> None:
        if not is_valid_host(self.host):
            shown = self.host.rpartition("@")[2]  # before it stands a password, perhaps
            raise ConfigError(f"proxy for Docker Hub: not a host: {shown!r:.200}")

    @classmethod
    def parse(cls, address: str) -> HubProxy:
        """Return the proxy at `address`: `https://host`, `http://host`, or `//host` for https.

        Raises:
            ConfigError: anything else, also with a path, a user or a query.
        """
        try:
            parts = urlsplit(address)
        except ValueError as error:
            raise ConfigError(f"proxy for Docker Hub: not an address: {error}") from None
        plain = {"http": True, "https": False, "": False}.get(parts.scheme)
        if not parts.netloc or plain is None:
            raise ConfigError(
                f"proxy for Docker Hub: not an address: {redact_url(address)!r:.200}",
                hint="write https://host, or http://host",
            )
        if parts.path not in {"", "/"} or parts.query or parts.fragment:
            raise ConfigError(
                f"proxy for Docker Hub: more than a host: {redact_url(address)!r:.200}",
                hint="a registry is at the root of its host",
            )
        return cls(parts.netloc, plain)

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> HubProxy | None:
        """Return the proxy that `env` (None: this process's environment) names, None for none.

        DOCKERHUB_PUBLIC_PROXY is an address, DOCKERHUB_PUBLIC_PROXY_HOST a host alone; the first
        wins.

        Raises:
            ConfigError: not such an address, or not a host.
        """
        environment = os.environ if env is None else env
        if address := environment.get(PROXY_VARIABLE):
            return cls.parse(address)
        if host := environment.get(PROXY_HOST_VARIABLE):
            return cls(host)
        return None


class ProxiedRegistry(HTTPRegistry):
    """A registry that is read and listed through another one, and written to directly.

    Args:
        direct: The registry itself; what it was made with is kept.
        proxy: Where reads and lists go.

    Both are closed with this.
    """

    def __init__(self, direct: HTTPRegistry, proxy: HTTPRegistry) -> None:
        # What writes works through the attributes of `direct`; what reads is replaced below.
        self.endpoint = direct.endpoint
        self._sender = self._lazy = direct._lazy  # noqa: SLF001 - of its own class
        self._referrers_api = direct._referrers_api  # noqa: SLF001 - of its own class
        self.pieces = direct.pieces
        self.direct = direct
        self.proxy = proxy

    def get_blob(self, repository: str, digest: Digest, *, size: int | None = None) -> BlobReader:
        """Return a reader of the proxy's blob; see `Reader.get_blob`."""
        return self.proxy.get_blob(repository, digest, size=size)

    def get_blob_unchecked(
        self, repository: str, digest: Digest, *, size: int | None = None
    ) -> BlobReader:
        """Return a reader of the proxy's blob; see `HTTPReader.get_blob_unchecked`."""
        return self.proxy.get_blob_unchecked(repository, digest, size=size)

    def get_blob_range(
        self, repository: str, digest: Digest, start: int, end: int | None = None
    ) -> BlobReader:
        """Return a reader of a part of the proxy's blob; see `Reader.get_blob_range`."""
        return self.proxy.get_blob_range(repository, digest, start, end)

    def get_manifest(self, repository: str, digest: Digest) -> BlobReader:
        """Return a reader of the proxy's manifest; see `Reader.get_manifest`."""
        return self.proxy.get_manifest(repository, digest)

    def get_tag(self, repository: str, tag: str) -> BlobReader:
        """Return a reader of the manifest under the proxy's tag; see `Reader.get_tag`."""
        return self.proxy.get_tag(repository, tag)

    def resolve_blob(self, repository: str, digest: Digest) -> Descriptor:
        """Return the descriptor of the proxy's blob; see `Reader.resolve_blob`."""
        return self.proxy.resolve_blob(repository, digest)

    def resolve_manifest(self, repository: str, digest: Digest) -> Descriptor:
        """Return the descriptor of the proxy's manifest; see `Reader.resolve_manifest`."""
        return self.proxy.resolve_manifest(repository, digest)

    def resolve_tag(self, repository: str, tag: str) -> Descriptor:
        """Return what the proxy's tag points at; see `Reader.resolve_tag`."""
        return self.proxy.resolve_tag(repository, tag)

    def tags(
        self,
        repository: str,
        *,
        start_after: str | None = None,
        page_size: int | None = None,
        limit: int | None = None,
    ) -> Iterator[str]:
        """Yield the proxy's tags; see `Lister.tags`."""
        return self.proxy.tags(
            repository, start_after=start_after, page_size=page_size, limit=limit
        )

    def tag_pages(
        self, repository: str, *, start_after: str | None = None, page_size: int | None = None
    ) -> Iterator[TagPage]:
        """Yield the pages of the proxy's tag list; see `Lister.tag_pages`."""
        return self.proxy.tag_pages(repository, start_after=start_after, page_size=page_size)

    def repositories(
        self,
        *,
        start_after: str | None = None,
        page_size: int | None = None,
        limit: int | None = None,
    ) -> Iterator[str]:
        """Yield the proxy's repositories; see `Lister.repositories`."""
        return self.proxy.repositories(start_after=start_after, page_size=page_size, limit=limit)

    def referrers(
        self, repository: str, digest: Digest, *, artifact_type: str | None = None
    ) -> Iterator[Descriptor]:
        """Yield what refers to `digest` at the proxy; see `Lister.referrers`."""
        return self.proxy.referrers(repository, digest, artifact_type=artifact_type)

    def referrers_supported(self, repository: str) -> bool:
        """Return whether the proxy has the referrers API; see `Lister.referrers_supported`."""
        return self.proxy.referrers_supported(repository)

    def server_time(self) -> datetime | None:
        """Return the clock of whichever of the two has answered, the registry's own first."""
        return self.direct.server_time() or self.proxy.server_time()

    def close(self) -> None:
        """Close the connections to both."""
        self.direct.close()
        self.proxy.close()


def direct(registry: Registry) -> Registry:
    """Return what to ask before a write: a proxied registry itself, not what stands in its place.

    A cache may say that a tag is where it was an hour ago.
    """
    return registry.direct if isinstance(registry, ProxiedRegistry) else registry


def hub_registry(
    *,
    proxy: HubProxy | None = None,
    timeout: float = TIMEOUT_SECONDS,
    user_agent: str | None = None,
    transport: requests.adapters.BaseAdapter | None = None,
    auth: DockerConfig | None = None,
    credentials: Credentials | None = None,
    limiter: RateLimiter | None = None,
    debug_id: str | None = None,
    clock: Clock | None = None,
    on_retry: RetryHook | None = None,
) -> HTTPRegistry:
    """Return Docker Hub as it wants to be spoken to: 300 requests at once, then 5 a second.

    429 is waited for, at most five minutes; of other passing failures there are three tries.

    Args:
        proxy: Where reads and lists go; under the same limits. None: to the Hub.
        timeout: See `HTTPRegistry`, as for the others.
        user_agent: The same.
        transport: The same.
        auth: The same; the Hub's other names are looked up too, in sorted order.
        credentials: For the Hub itself; never sent to the proxy.
        limiter: None: a new `RateLimiter.hub()`.
        debug_id: See `HTTPRegistry`.
        clock: The same.
        on_retry: The same.
    """
    time = SystemClock() if clock is None else clock
    shared = RateLimiter.hub(clock=time) if limiter is None else limiter

    def registry(
        host: str, *, plain_http: bool | None, credentials: Credentials | None
    ) -> HTTPRegistry:
        return HTTPRegistry(
            host,
            plain_http=plain_http,
            timeout=timeout,
            user_agent=user_agent,
            transport=transport,
            auth=auth,
            credentials=credentials,
            retry=RetryPolicy.hub(),
            limiter=shared,
            debug_id=debug_id,
            clock=time,
            on_retry=on_retry,
        )

    hub = registry(DEFAULT_HOST, plain_http=None, credentials=credentials)
    if proxy is None:
        return hub
    stand_in = registry(proxy.host, plain_http=proxy.plain_http, credentials=None)
    return ProxiedRegistry(hub, stand_in)

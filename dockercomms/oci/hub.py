"""Docker Hub: its rate limit, its retries, and a proxy that answers its reads."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from dockercomms.errors import ConfigError
from dockercomms.oci.auth.credentials import Credentials, DockerConfig
from dockercomms.oci.interface import (
    BlobReader,
    Registry,
    TagPage,
)
from dockercomms.oci.model import (
    Descriptor,
    Digest,
)
from dockercomms.oci.reference import DEFAULT_HOST, is_valid_host
from dockercomms.oci.remote.exchange import redact_url
from dockercomms.oci.remote.registry import HTTPRegistry
from dockercomms.oci.remote.retry import RateLimiter, RetryHook, RetryPolicy
from dockercomms.oci.remote.session import TIMEOUT_SECONDS
from dockercomms.platforms.clock import Clock, SystemClock
from dockercomms.platforms.records import dataclass

if TYPE_CHECKING:
    from dockercomms.oci.remote.session import Transport

PROXY_VARIABLE = "DOCKERHUB_PUBLIC_PROXY"


PROXY_HOST_VARIABLE = "DOCKERHUB_PUBLIC_PROXY_HOST"


@dataclass(frozen=True, slots=True)
class HubProxy:
    """A registry that mirrors Docker Hub."""

    host: str
    plain_http: bool = False

    def __post_init__(self) -> None:
        if not is_valid_host(self.host):
            shown = self.host.rpartition("@")[2]  # there may be a password before the @
            raise ConfigError(f"proxy for Docker Hub: not a host: {shown!r:.200}")

    @classmethod
    def parse(cls, address: str) -> HubProxy:
        """Return the proxy at `address`: `https://host`, `http://host`, or `//host` for https.

        Raises:
            ConfigError: `address` is anything else, or has a path, a user or a query.
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
                f"proxy for Docker Hub: a host without path expected: {redact_url(address)!r:.200}",
                hint="leave out what follows the host",
            )
        return cls(parts.netloc, plain)

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> HubProxy | None:
        """Return the proxy that `env` (default: the process's environment) names, if there is one.

        DOCKERHUB_PUBLIC_PROXY is an address, DOCKERHUB_PUBLIC_PROXY_HOST only a host; the first has
        precedence.

        Raises:
            ConfigError: the value is no such address, or no host.
        """
        environment = os.environ if env is None else env
        if address := environment.get(PROXY_VARIABLE):
            return cls.parse(address)
        if host := environment.get(PROXY_HOST_VARIABLE):
            return cls(host)
        return None


class ProxiedRegistry(HTTPRegistry):
    """A registry with reads and lists through a proxy, and writes directly.

    Args:
        direct: The registry itself; writes use its settings.
        proxy: The registry for reads and lists.

    `close` closes both.
    """

    def __init__(self, direct: HTTPRegistry, proxy: HTTPRegistry) -> None:
        # Writing methods use the attributes of `direct`; the reading ones are replaced below.
        self.endpoint = direct.endpoint
        self._sender = self.session = direct.session
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
        """Return the descriptor of the proxy's manifest under a tag; see `Reader.resolve_tag`."""
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
        """Yield the referrers of `digest` at the proxy; see `Lister.referrers`."""
        return self.proxy.referrers(repository, digest, artifact_type=artifact_type)

    def referrers_supported(self, repository: str) -> bool:
        """Return whether the proxy has the referrers API; see `Lister.referrers_supported`."""
        return self.proxy.referrers_supported(repository)

    def server_time(self) -> datetime | None:
        """Return the server time of the registry itself, else that of the proxy."""
        return self.direct.server_time() or self.proxy.server_time()

    def close(self) -> None:
        """Close the connections to both."""
        self.direct.close()
        self.proxy.close()


def direct(registry: Registry) -> Registry:
    """Return the registry itself if `registry` has a proxy, for reads before a write.

    A cache may return the target that a tag had an hour ago.
    """
    return registry.direct if isinstance(registry, ProxiedRegistry) else registry


def hub_registry(
    *,
    proxy: HubProxy | None = None,
    timeout: float = TIMEOUT_SECONDS,
    user_agent: str | None = None,
    transport: Transport | None = None,
    auth: DockerConfig | None = None,
    credentials: Credentials | None = None,
    limiter: RateLimiter | None = None,
    debug_id: str | None = None,
    clock: Clock | None = None,
    on_retry: RetryHook | None = None,
) -> HTTPRegistry:
    """Return Docker Hub with its rate limit: 300 requests at once, then 5 a second.

    After status 429 it waits, at most five minutes; after other temporary failures it makes three
    attempts in all.

    Args:
        proxy: The registry for reads and lists, under the same limits; `None`: the Hub.
        timeout: See `HTTPRegistry`, as for the others.
        user_agent: The same.
        transport: The same.
        auth: The same; also looks up the Hub's other names, in sorted order.
        credentials: For the Hub itself; never sent to the proxy.
        limiter: `None`: a new `RateLimiter.hub()`.
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

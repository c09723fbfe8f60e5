"""The registries and folders that one command opens."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING

from dockercomms.errors import UsageError
from dockercomms.oci.hub import HubProxy, ProxiedRegistry
from dockercomms.oci.images.cache import CachedRegistry
from dockercomms.oci.interface import Registry
from dockercomms.oci.layout.registry import LayoutRegistry
from dockercomms.oci.model import Digest, Platform
from dockercomms.oci.reference import DEFAULT_HOST, HUB_HOSTS, Reference
from dockercomms.oci.remote.retry import RateLimiter, RetryPolicy
from dockercomms.oci.stores import Location, Place, Store, open_local, open_registry, parse_place
from dockercomms.platforms.records import dataclass

if TYPE_CHECKING:
    from dockercomms.cli.session import Session
    from dockercomms.oci.images.select import ResolvedManifest
    from dockercomms.oci.remote.registry import HTTPRegistry

LAYOUT_HOST = "oci-layout"
"""The host in a `Reference` to a folder."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A reference on the command line, and the store that has it."""

    place: Place
    registry: Registry

    def __str__(self) -> str:
        """Return the canonical form of the reference."""
        return str(self.place)

    @property
    def repository(self) -> str:
        """The repository's name in the store."""
        return self.place.repository

    @property
    def store(self) -> Store:
        """The place as a `Store`."""
        return Store(self.registry, self.repository, self.place.repo)

    @property
    def reference(self) -> Reference:
        """The place as a `Reference`."""
        place = self.place
        return Reference(
            host=place.host or LAYOUT_HOST,
            repository=place.repository,
            tag=place.tag,
            digest=place.digest,
        )

    @property
    def location(self) -> Location:
        """The place as a `Location`."""
        place = self.place
        # A layout ignores the repository's name; pass the folder's name, for errors.
        name = place.repository if place.folder is None else place.repo
        return Location(self.registry, name, tag=place.tag, digest=place.digest)

    def at(self, digest: Digest) -> Opened:
        """Return the object with `digest` in the same repository."""
        return replace(self, place=replace(self.place, tag=None, digest=digest))

    def need_digest(self) -> Digest:
        """Return the digest.

        Raises:
            UsageError: the reference has no digest, or a tag as well.
        """
        place = self.place
        if place.digest is None or place.tag is not None:
            raise UsageError(
                f"{self}: a digest is needed, without a tag",
                hint="write REPO@sha256:...; 'dockercomms reg manifest REF' shows a manifest's "
                "digests",
            )
        return place.digest


class Stores(AbstractContextManager["Stores"]):
    """Opens the references of a command line, each host and folder once, and closes them.

    Args:
        session: The command.
        cached: Cache the answers of registries about content with a digest.
    """

    def __init__(self, session: Session, *, cached: bool = False) -> None:
        self._session = session
        self._settings = session.settings
        self._connection = session.connection()
        self._cached = cached
        self._hosts: dict[str, HTTPRegistry] = {}
        self._stores: dict[str, Registry] = {}

    def place(self, text: str) -> Place:
        """Parse a reference without opening its store.

        Raises:
            UsageError: the reference is malformed.
        """
        return parse_place(text, default_host=self._settings.default_registry)

    def open(self, text: str, *, create: bool = False, plain_http: bool | None = None) -> Opened:
        """Parse a reference and open its store, as `open_place`.

        Raises:
            UsageError: the reference is malformed.
        """
        return self.open_place(self.place(text), create=create, plain_http=plain_http)

    def source(self, text: str, *, plain_http: bool | None = None) -> Opened:
        """Open a reference to read from it.

        A layout without a tag or digest means its tag `latest`, or else the only manifest in its
        `index.json`: skopeo, crane and podman write such layouts.

        Raises:
            UsageError: as `open`.
            ProtocolError: `index.json` is damaged.
        """
        opened = self.open(text, plain_http=plain_http)
        place, store = opened.place, opened.registry
        if place.tag is not None or place.digest is not None:
            return opened
        if not isinstance(store, LayoutRegistry) or not store.exists():
            return opened
        listed = store.listed()
        if len(listed) != 1 or "latest" in listed[0].names:
            return opened
        return opened.at(listed[0].digest)

    def open_place(
        self, place: Place, *, create: bool = False, plain_http: bool | None = None
    ) -> Opened:
        """Open the store of `place`, without a request to a registry.

        Args:
            place: The parsed reference.
            create: Let the first write create a missing folder.
            plain_http: As in `ConnectionSettings`. Default: by the settings.

        Raises:
            UsageError: a second registry, with a login on the command line that is for one.
        """
        key = place.host or place.repo
        if key not in self._stores:
            if place.folder is not None:
                self._stores[key] = open_local(
                    place.folder,
                    is_archive=place.is_archive,
                    create=create,
                    clock=self._session.clock,
                )
            else:
                registry = self.registry(place.host, plain_http=plain_http)
                # Answers of a proxy must not decide whether to write to the registry: see
                # hub.direct.
                keep = self._cached and not isinstance(registry, ProxiedRegistry)
                self._stores[key] = CachedRegistry(registry) if keep else registry
        return Opened(place, self._stores[key])

    def repository(
        self, text: str, *, create: bool = False, plain_http: bool | None = None
    ) -> Opened:
        """Open the repository that `text` names, as `open`.

        Raises:
            UsageError: also for a tag or digest.
        """
        opened = self.open(text, create=create, plain_http=plain_http)
        if opened.place.tag is not None or opened.place.digest is not None:
            raise UsageError(f"{text!r:.300}: a repository expected, without tag or digest")
        return opened

    def registry(self, host: str, *, plain_http: bool | None = None) -> HTTPRegistry:
        """Return the registry of `host`.

        Raises:
            UsageError: not a host, or a second registry with a login for one.
        """
        name = DEFAULT_HOST if host in HUB_HOSTS else host
        if name not in self._hosts:
            self._refuse_second_login(name)
            self._hosts[name] = self._make(name, plain_http)
        return self._hosts[name]

    def close(self) -> None:
        """Close all registries and folders."""
        for registry in (*self._hosts.values(), *self._stores.values()):
            registry.close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _refuse_second_login(self, host: str) -> None:
        """Refuse to send the password for one registry to another."""
        if self._hosts and self._connection.username is not None:
            raise UsageError(
                f"one user name and password, and two registries: {next(iter(self._hosts))} "
                f"and {host}",
                hint="docker login HOST, for each of them",
            )

    def _make(self, host: str, plain_http: bool | None) -> HTTPRegistry:
        connection = self._connection
        if plain_http is not None:
            connection = replace(connection, plain_http=plain_http)
        clock, on_retry = self._session.clock, self._session.tell_retry
        if host != DEFAULT_HOST:
            policy = self._limited(RetryPolicy.requests())
            return open_registry(host, connection, retry=policy, clock=clock, on_retry=on_retry)
        policy, limiter = self._limited(RetryPolicy.hub()), RateLimiter.hub(clock=clock)
        hub = open_registry(
            host, connection, retry=policy, limiter=limiter, clock=clock, on_retry=on_retry
        )
        proxy = self._proxy()
        if proxy is None:
            return hub
        stand_in = open_registry(
            proxy.host,
            replace(connection, plain_http=proxy.plain_http or None, username=None, password=None),
            retry=policy,
            limiter=limiter,
            clock=clock,
            on_retry=on_retry,
        )
        return ProxiedRegistry(hub, stand_in)

    def _proxy(self) -> HubProxy | None:
        chosen = self._settings.hub_proxy
        if chosen is not None:
            return HubProxy.parse(chosen)
        return HubProxy.from_env(self._session.environ)

    def _limited(self, policy: RetryPolicy) -> RetryPolicy:
        seconds = self._settings.retry_seconds
        return policy if seconds is None else replace(policy, max_elapsed=float(seconds))


def parse_platform(text: str | None) -> Platform | None:
    """Return the platform of `--platform`, if the option was given.

    Raises:
        UsageError: not a platform.
    """
    return None if text is None else Platform.parse(text)


def resolve_opened(opened: Opened, platform: str | None) -> ResolvedManifest:
    """Return the manifest; for an index, the entry for `platform`, or for this machine.

    Raises:
        NotFoundError: the manifest does not exist, or no entry fits the platform.
    """
    from dockercomms.oci.images.select import get_reference, resolve_content

    content = get_reference(opened.registry, opened.reference)
    want = parse_platform(platform)
    return resolve_content(opened.registry, opened.repository, content, platform=want)

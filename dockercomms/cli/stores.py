"""The registries and folders that one command of `reg` works with."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING

from dockercomms.errors import UsageError
from dockercomms.oci.client import HubProxy, ProxiedRegistry
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
"""What stands for the host where a folder has to be named by a `Reference`."""


@dataclass(frozen=True, slots=True)
class Opened:
    """What a word of the command line names, and the store that it is in."""

    place: Place
    registry: Registry

    def __str__(self) -> str:
        """Return the one way to write it."""
        return str(self.place)

    @property
    def repository(self) -> str:
        """The repository's name in the store."""
        return self.place.repository

    @property
    def store(self) -> Store:
        """The same, for what works with messages."""
        return Store(self.registry, self.repository, self.place.repo)

    @property
    def reference(self) -> Reference:
        """The same, for what works with references."""
        place = self.place
        return Reference(
            host=place.host or LAYOUT_HOST,
            repository=place.repository,
            tag=place.tag,
            digest=place.digest,
        )

    @property
    def location(self) -> Location:
        """The same, for what works with locations."""
        place = self.place
        # A folder ignores the repository's name, so its own is used: errors name it then.
        name = place.repository if place.folder is None else place.repo
        return Location(self.registry, name, tag=place.tag, digest=place.digest)

    def at(self, digest: Digest) -> Opened:
        """Return what has `digest` in the same repository."""
        return replace(self, place=replace(self.place, tag=None, digest=digest))

    def need_digest(self) -> Digest:
        """Return the digest.

        Raises:
            UsageError: there is none, or there is a tag, which says another thing.
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
    """Opens what the words of a command line name; each host and folder once. Closes all.

    Args:
        session: The command.
        cached: Whether to remember what registries said of content under a digest.
    """

    def __init__(self, session: Session, *, cached: bool = False) -> None:
        self._session = session
        self._settings = session.settings
        self._connection = session.connection()
        self._cached = cached
        self._hosts: dict[str, HTTPRegistry] = {}
        self._stores: dict[str, Registry] = {}

    def place(self, text: str) -> Place:
        """Return what `text` names, without opening it.

        Raises:
            UsageError: it names nothing.
        """
        return parse_place(text, default_host=self._settings.default_registry)

    def open(self, text: str, *, create: bool = False, plain_http: bool | None = None) -> Opened:
        """Return what `text` names, as `open_place`.

        Raises:
            UsageError: it names nothing.
        """
        return self.open_place(self.place(text), create=create, plain_http=plain_http)

    def source(self, text: str, *, plain_http: bool | None = None) -> Opened:
        """Return what `text` names, to be read.

        A layout without a tag or digest behind it means its `latest` or, where it has none, the
        one manifest that its `index.json` lists: skopeo, crane and podman write such layouts.

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
        """Return what is at `place`; nothing is asked of a registry yet.

        Args:
            place: Where.
            create: Whether a folder that is missing is made by the first write.
            plain_http: As in `ConnectionSettings`; None: as the settings say.

        Raises:
            UsageError: a second registry while a login for one is given.
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
                # What is read through a proxy must not decide what is written: see hub.direct
                keep = self._cached and not isinstance(registry, ProxiedRegistry)
                self._stores[key] = CachedRegistry(registry) if keep else registry
        return Opened(place, self._stores[key])

    def repository(
        self, text: str, *, create: bool = False, plain_http: bool | None = None
    ) -> Opened:
        """Return the repository that `text` names, as `open`.

        Raises:
            UsageError: also for a tag or digest.
        """
        opened = self.open(text, create=create, plain_http=plain_http)
        if opened.place.tag is not None or opened.place.digest is not None:
            raise UsageError(f"{text!r:.300}: a tag or digest; a repository is without")
        return opened

    def registry(self, host: str, *, plain_http: bool | None = None) -> HTTPRegistry:
        """Return the registry of `host`.

        Raises:
            UsageError: not a host, or a second registry while a login for one is given.
        """
        name = DEFAULT_HOST if host in HUB_HOSTS else host
        if name not in self._hosts:
            self._refuse_second_login(name)
            self._hosts[name] = self._make(name, plain_http)
        return self._hosts[name]

    def close(self) -> None:
        """Close all that was opened."""
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
        """Keep the password of one registry from being sent to another."""
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
    """Return the platform of `--platform`, None for None.

    Raises:
        UsageError: not a platform.
    """
    return None if text is None else Platform.parse(text)


def resolve_opened(opened: Opened, platform: str | None) -> ResolvedManifest:
    """Return the manifest; of an index, that for `platform`, or for this machine.

    Raises:
        NotFoundError: nothing is there, or not for the platform.
    """
    from dockercomms.oci.images.select import get_reference, resolve_content

    content = get_reference(opened.registry, opened.reference)
    want = parse_platform(platform)
    return resolve_content(opened.registry, opened.repository, content, platform=want)

"""Stores and locations: from the text for a repository or an object to an open store.

A `Reference` is only a name. A `Location` also holds the store, so that the functions of
`oci.images` work between registries, layouts and memory in any combination. Its maker closes the
store, after the last use of the location.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import KW_ONLY, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dockercomms.errors import DigestMismatch, UsageError
from dockercomms.oci.interface import BlobReader, Reader, Registry
from dockercomms.oci.model import Descriptor, Digest
from dockercomms.oci.reference import Reference, is_valid_digest, is_valid_tag
from dockercomms.platforms.arguments import check_fields
from dockercomms.platforms.clock import Clock, SystemClock
from dockercomms.platforms.files import base_folder, expand_home
from dockercomms.platforms.records import dataclass

if TYPE_CHECKING:
    from dockercomms.oci.auth.credentials import Credentials
    from dockercomms.oci.layout.registry import LayoutRegistry
    from dockercomms.oci.remote.registry import HTTPRegistry
    from dockercomms.oci.remote.retry import RateLimiter, RetryHook, RetryPolicy
    from dockercomms.oci.remote.session import Endpoint


@dataclass(frozen=True, slots=True)
class Location:
    """A repository in a store; with a tag, a digest or both, an object in it."""

    registry: Registry
    repository: str
    """The repository's name; a layout, which has one repository, ignores it."""
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
        """Return the location of `reference` in `registry`, whose host is not compared with it."""
        return cls(registry, reference.repository, tag=reference.tag, digest=reference.digest)

    @property
    def tags(self) -> tuple[str, ...]:
        """The tag, if there is one, as `Writer.push_manifest` takes it."""
        return () if self.tag is None else (self.tag,)

    def at(self, digest: Digest) -> Location:
        """Return the object with `digest` in the same repository, without a tag."""
        return replace(self, tag=None, digest=digest)

    def open(self) -> BlobReader:
        """Open the manifest with the digest, else under the tag, else under `latest`."""
        if self.digest is not None:
            return self.registry.get_manifest(self.repository, self.digest)
        return self.registry.get_tag(self.repository, self.tag or "latest")

    def resolve(self) -> Descriptor:
        """Return the descriptor of the manifest that `open` opens."""
        if self.digest is not None:
            return self.registry.resolve_manifest(self.repository, self.digest)
        return self.registry.resolve_tag(self.repository, self.tag or "latest")

    def __str__(self) -> str:
        """Return the location as a reference; it includes the host of a registry over HTTP."""
        endpoint = _endpoint_of(self.registry)
        host = "" if endpoint is None else f"{endpoint.host}/"
        tag = f":{self.tag}" if self.tag else ""
        return f"{host}{self.repository}{tag}{f'@{self.digest}' if self.digest else ''}"

    def blob_digest(self) -> Digest:
        """Return the digest.

        Raises:
            UsageError: the location has none.
        """
        if self.digest is None:
            raise UsageError(f"{self}: a blob's digest is missing")
        return self.digest

    def refuse_tag(self) -> None:
        """Refuse a location with a tag, since blobs have no tags.

        Raises:
            UsageError: the location has a tag.
        """
        if self.tag is not None:
            raise UsageError(f"{self}: blobs have no tags")

    def refuse_other(self, digest: Digest) -> None:
        """Refuse content with another digest than the location's.

        Raises:
            DigestMismatch: the location names another digest.
        """
        if self.digest is not None and self.digest != digest:
            raise DigestMismatch(f"{self}: the content has the digest {digest}")


def same_store(one: Reader, other: Reader) -> bool:
    """Return whether both are one registry, which can mount blobs without moving them."""
    if one is other:
        return True
    endpoint, far = _endpoint_of(one), _endpoint_of(other)
    return endpoint is not None and far is not None and endpoint.base_url == far.base_url


def _endpoint_of(registry: Reader) -> Endpoint | None:
    return getattr(registry, "endpoint", None)  # an `HTTPRegistry` has it


DEFAULT_TIMEOUT_SECONDS = 60.0
"""Longest time without a byte from a registry: some collect garbage for half a minute."""

LAYOUT_REPOSITORY = "mailbox"
"""The name of a layout's repository; layouts themselves have no such name."""

_LAYOUT_PREFIXES = ("oci-layout:", "ocidir://", "oci:")
_ARCHIVE_PREFIX = "oci-archive:"
_REGISTRY_PREFIX = "oci://"
_DIGESTS = ("sha256:", "sha384:", "sha512:")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:(?://|.*archive)|docker-archive:", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionSettings:
    """Settings for the connection to a registry; folders ignore them."""

    plain_http: bool | None = None
    """`None`: only on this machine's loopback."""
    insecure: bool = False
    """Do not verify the registry's certificate."""
    ca_file: str | None = None
    authfile: str | None = None
    """The only file of logins to read, instead of those of docker and podman."""
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    timeout: float = DEFAULT_TIMEOUT_SECONDS
    """Seconds without a byte after which a request fails."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True)
class Place:
    """The parsed text for a repository or an object: a folder, or a registry's host and a name."""

    repo: str
    """The canonical text for the repository, by which the state finds it."""
    repository: str
    folder: Path | None = None
    """The folder of a layout, or the file of an archive."""
    is_archive: bool = False
    host: str = ""
    tag: str | None = None
    digest: Digest | None = None

    def __str__(self) -> str:
        """Return the canonical text for the repository or the object in it."""
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.repo}{tag}{f'@{self.digest}' if self.digest else ''}"


@dataclass(frozen=True, slots=True)
class Store:
    """An open repository."""

    registry: Registry
    repository: str
    repo: str

    def is_missing_folder(self) -> bool:
        """Return whether the store is a folder that does not exist before the first write."""
        exists = getattr(self.registry, "exists", None)  # a `LayoutRegistry` has it
        return exists is not None and not exists()


def default_mailbox(environ: Mapping[str, str]) -> Path:
    """Return the user's own mailbox folder.

    Raises:
        NoHomeError: as `platforms.files.base_folder`.
    """
    return base_folder("XDG_DATA_HOME", environ) / "dockercomms" / "mailbox"


def parse_repo(text: str) -> Place:
    """Return the repository written in `text`.

    Args:
        text: `host[:port]/path`, `oci://host/path`; a folder: `oci-layout:DIR`, `oci:DIR`,
            `ocidir://DIR`; or a tar of one: `oci-archive:FILE`.

    Raises:
        UsageError: `text` is anything else, or has a tag or digest.
    """
    place = parse_place(text)
    if place.tag is None and place.digest is None:
        return place
    if place.folder is None:
        raise UsageError(f"{text!r:.300}: a repository expected, without tag or digest")
    raise UsageError(
        f"{text!r:.300}: a folder without tag or digest expected (the layout is one repository)"
    )


def parse_place(text: str, *, default_host: str | None = None) -> Place:
    """Return the repository, or the object in a repository, that is written in `text`.

    Args:
        text: As for `parse_repo`, followed by `:tag`, `@digest` or both. In a folder's name, the
            text after a colon is the tag.
        default_host: The host of a reference without one; `None` makes that an error.

    Raises:
        UsageError: `text` is anything else.
    """
    if text.startswith(_REGISTRY_PREFIX):
        return _parse_registry(text.removeprefix(_REGISTRY_PREFIX), None)
    if text.startswith(_ARCHIVE_PREFIX):
        return _parse_folder(text, text.removeprefix(_ARCHIVE_PREFIX), is_archive=True)
    for prefix in _LAYOUT_PREFIXES:
        if text.startswith(prefix):
            return _parse_folder(text, text.removeprefix(prefix))
    if _SCHEME.match(text):
        scheme, mark, rest = text.partition("://")
        if mark and scheme.lower() in ("http", "https"):
            raise UsageError(
                f"{text!r:.300}: a repository has no {scheme}://",
                hint=f'leave out "{scheme}://": --repo {rest:.300}',
            )
        raise UsageError(
            f"{text!r:.300}: unknown kind of repository",
            hint="write host/path, oci://host/path, oci-layout:FOLDER, or oci-archive:FILE.tar",
        )
    return _parse_registry(text, default_host)


def _parse_folder(text: str, rest: str, *, is_archive: bool = False) -> Place:
    path, digest = rest, None
    head, at, tail = rest.rpartition("@")
    if at and tail.startswith(_DIGESTS):  # else the sign is a part of the folder's name
        if not is_valid_digest(tail):
            raise UsageError(f"{text!r:.300}: not a digest after @: {tail!r:.200}")
        path, digest = head, Digest(tail)
    above, slash, last = path.rpartition("/")
    name, colon, tag = last.partition(":")
    if colon and not is_valid_tag(tag):
        raise UsageError(f"{text!r:.300}: not a tag: {tag!r:.200}")
    path = above + slash + name
    if not path:
        raise UsageError(f"{text!r:.300}: missing {'file' if is_archive else 'folder'}")
    try:
        folder = expand_home(path).resolve()
    except (
        ValueError,
        RuntimeError,
        OSError,
    ) as error:  # a NUL, an unknown user, links in a circle
        raise UsageError(f"{text!r:.300}: not a path: {error}") from error
    return Place(
        f"{_ARCHIVE_PREFIX if is_archive else _LAYOUT_PREFIXES[0]}{folder}",
        LAYOUT_REPOSITORY,
        folder=folder,
        is_archive=is_archive,
        tag=tag if colon else None,
        digest=digest,
    )


def _parse_registry(reference: str, default_host: str | None) -> Place:
    parsed = Reference.parse(reference, default_host=default_host)
    return Place(
        f"{parsed.host}/{parsed.repository}",
        parsed.repository,
        host=parsed.host,
        tag=parsed.tag,
        digest=parsed.digest,
    )


def open_store(
    repo: str,
    settings: ConnectionSettings | None = None,
    *,
    clock: Clock | None = None,
    on_retry: RetryHook | None = None,
    create: bool = False,
    private: bool = False,
) -> Store:
    """Return the store of `repo`; makes no request yet.

    Args:
        repo: See `parse_repo`.
        settings: Settings for the connection to a registry.
        clock: Our clock.
        on_retry: Called before each retry of a request; False stops the retries.
        create: Whether the first write makes a missing folder.
        private: Whether only this user may access a new folder.

    Raises:
        UsageError: `repo` is no repository.
        ConfigError: the file of logins is invalid.
    """
    place = parse_repo(repo)
    clock = clock or SystemClock()
    registry: Registry
    if place.folder is not None:
        registry = open_local(
            place.folder, is_archive=place.is_archive, create=create, private=private, clock=clock
        )
    else:
        registry = open_registry(place.host, settings, clock=clock, on_retry=on_retry)
    return Store(registry, place.repository, place.repo)


def open_local(
    path: Path,
    *,
    is_archive: bool = False,
    create: bool = False,
    private: bool = False,
    clock: Clock | None = None,
) -> LayoutRegistry:
    """Return the store in a layout folder, or in a tar of one.

    Args:
        path: The folder or the file.
        is_archive: Whether it is a tar.
        create: Whether the first write makes a missing one.
        private: Whether only this user may access a new folder.
        clock: Our clock.
    """
    if is_archive:
        from dockercomms.oci.layout.archive import ArchiveRegistry  # noqa: PLC0415 - rarely wanted

        return ArchiveRegistry(path, create=create, clock=clock)
    from dockercomms.oci.layout.registry import LayoutRegistry  # noqa: PLC0415 - of no use over HTTP

    return LayoutRegistry(path, create=create, private=private, clock=clock)


def open_registry(
    host: str,
    settings: ConnectionSettings | None = None,
    *,
    retry: RetryPolicy | None = None,
    limiter: RateLimiter | None = None,
    clock: Clock | None = None,
    on_retry: RetryHook | None = None,
) -> HTTPRegistry:
    """Return the registry at `host`; makes no request yet.

    Args:
        host: The host, with its port if needed.
        settings: Settings for the connection.
        retry: The policy of single requests; `None`: `RetryPolicy.requests()`.
        limiter: Delays the requests.
        clock: Our clock.
        on_retry: Called before each retry of a request; False stops the retries.

    Raises:
        UsageError: `host` is no host, or there is a password without a user name.
        ConfigError: the file of logins is invalid.
    """
    from dockercomms.oci.auth.credentials import DockerConfig  # noqa: PLC0415 - the same
    from dockercomms.oci.remote.registry import HTTPRegistry  # noqa: PLC0415 - folders do not need it
    from dockercomms.oci.remote.retry import RetryPolicy  # noqa: PLC0415 - the same

    settings = settings or ConnectionSettings()
    return HTTPRegistry(
        host,
        plain_http=settings.plain_http,
        insecure=settings.insecure,
        ca_file=settings.ca_file,
        timeout=settings.timeout,
        auth=None if settings.authfile is None else DockerConfig.load(authfile=settings.authfile),
        credentials=_credentials(settings),
        retry=retry or RetryPolicy.requests(),
        limiter=limiter,
        clock=clock or SystemClock(),
        on_retry=on_retry,
    )


def _credentials(settings: ConnectionSettings) -> Credentials | None:
    if settings.username is None:
        if settings.password is not None:
            raise UsageError("a password without a user name", hint="give --username")
        return None
    from dockercomms.oci.auth.credentials import Credentials  # noqa: PLC0415 - the same

    return Credentials(
        username=settings.username, password=settings.password or "", source="--username"
    )

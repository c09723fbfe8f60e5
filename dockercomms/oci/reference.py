"""References: `host[:port]/repository[:tag][@digest]`, and the rules of Docker Hub.

A typing error must never become an address on Docker Hub. So text that does not parse is an error,
and `localhost/foo/bar` begins with a host, as for docker, distribution and podman.

Example:
    >>> from dockercomms.oci.reference import Reference
    >>> Reference.parse("registry.example:5000/team/box:v1").repository
    'team/box'
    >>> str(Reference.parse("alpine"))
    'alpine'
    >>> Reference.parse("alpine").full()
    'docker.io/library/alpine'

Source: distribution-spec v1.1.1, "Pulling manifests" (tag and repository grammar); the Docker
reference grammar (hosts).
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from ipaddress import IPv6Address

from dockercomms.errors import ProtocolError, UsageError
from dockercomms.oci.model import Digest, parse_digest
from dockercomms.platforms.records import dataclass

DEFAULT_HOST = "docker.io"
HUB_HOSTS = frozenset(
    {"docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"}
)
"""All names of Docker Hub; the normal one is docker.io."""

HUB_CONNECT_HOST = "registry-1.docker.io"
HUB_NAMESPACE = "library/"
MAX_REPOSITORY_LENGTH = 255

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_HOST_LABEL = r"(?:[A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9-]{0,61}[A-Za-z0-9])"
"""At most 63 characters, as in DNS (RFC 1035 section 2.3.4)."""
_HOST = re.compile(
    rf"(?P<name>{_HOST_LABEL}(?:\.{_HOST_LABEL})*|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{{1,5}}))?"
)
_MAX_PORT = 65535


def is_valid_host(text: str) -> bool:
    """Return whether `text` is `name`, `name:port`, `[v6]` or `[v6]:port`."""
    match = _HOST.fullmatch(text)
    if match is None or (match["port"] is not None and not 0 < int(match["port"]) <= _MAX_PORT):
        return False
    if match["name"].startswith("["):
        try:
            IPv6Address(match["name"][1:-1])
        except ValueError:
            return False
    return True


def is_valid_repository(text: str) -> bool:
    """Return whether `text` is a repository name of at most 255 characters.

    Source: distribution-spec v1.1.1, "Pulling manifests".
    """
    return len(text) <= MAX_REPOSITORY_LENGTH and _REPOSITORY.fullmatch(text) is not None


def is_valid_tag(text: str) -> bool:
    """Return whether `text` is a tag of at most 128 characters.

    Source: distribution-spec v1.1.1, "Pulling manifests".
    """
    return _TAG.fullmatch(text) is not None


def is_valid_digest(text: str) -> bool:
    """Return whether `text` is a sha256, sha384 or sha512 digest.

    Source: image-spec v1.1.1, descriptor.md, "Digests".
    """
    try:
        parse_digest(text)
    except ProtocolError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Return whether `host` (with or without a port) names this machine's loopback."""
    name = host.rpartition(":")[0] if re.search(r":[0-9]+$", host) else host
    return (
        name == "localhost"
        or name.endswith(".localhost")
        or name == "[::1]"
        or re.fullmatch(r"127(?:\.[0-9]{1,3}){3}", name) is not None
    )


def connect_host(host: str) -> str:
    """Return the host to connect to: registry-1.docker.io for docker.io, else `host`."""
    return HUB_CONNECT_HOST if host == DEFAULT_HOST else host


def referrers_tag(digest: str) -> str:
    """Return the tag of the referrers index of `digest` at registries without a referrers API.

    The hex part is cut to 64 characters.
    Source: distribution-spec v1.1.1, "Referrers Tag Schema".
    """
    algorithm, _, encoded = parse_digest(digest).partition(":")
    return f"{algorithm}-{encoded[:64]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A registry host, a repository, and a tag, a digest, both or neither."""

    host: str
    repository: str
    tag: str | None = None
    digest: Digest | None = None

    def __post_init__(self) -> None:
        if not is_valid_host(self.host):
            raise UsageError(f"not a registry host: {self.host!r:.200}")
        if not is_valid_repository(self.repository):
            raise UsageError(
                f"not a repository name: {self.repository!r:.300}; "
                "lower-case letters, digits, single . _ - and / expected"
            )
        if self.tag is not None and not is_valid_tag(self.tag):
            raise UsageError(f"not a tag: {self.tag!r:.200}")
        if self.digest is not None and not is_valid_digest(self.digest):
            raise UsageError(f"not a digest: {self.digest!r:.200}")

    @classmethod
    def parse(
        cls, text: str, *, default_host: str | None = DEFAULT_HOST, localhost_is_host: bool = True
    ) -> Reference:
        """Return the reference written in `text`.

        Args:
            text: `[host/]repository[:tag][@digest]`, without scheme or white space.
            default_host: The host of a reference without one; `None` makes that an error.
            localhost_is_host: Whether `localhost/x` is a host and a repository, as docker reads it,
                or a repository on the default host.

        Raises:
            UsageError: `text` is anything else; the error names the wrong part.
        """
        rest, at, digest = text.partition("@")
        if at and not is_valid_digest(digest):
            raise UsageError(f"{text!r:.300}: not a digest after @: {digest!r:.200}")
        head, slash, last = rest.rpartition("/")
        last, colon, tag = last.partition(":")
        name = head + slash + last
        if not name and colon:
            raise UsageError(f"{text!r:.300}: missing repository before the tag")
        first, slash, path = name.partition("/")
        explicit = bool(slash) and (
            any(mark in first for mark in ".:[") or (localhost_is_host and first == "localhost")
        )
        if not explicit and default_host is None:
            if not slash and any(mark in rest for mark in ".:"):
                raise UsageError(
                    f"{text!r:.300}: missing repository path", hint=f"use {text:.300}/NAME"
                )
            raise UsageError(
                f"{text!r:.300}: missing registry host before the first /",
                hint="write host/path, such as registry.example/team/box",
            )
        host, repository = (first, path) if explicit else (default_host or "", name)
        if host in HUB_HOSTS:
            host = DEFAULT_HOST
            if "/" not in repository and repository:
                if len(repository) > MAX_REPOSITORY_LENGTH - len(HUB_NAMESPACE):
                    raise UsageError(f"{text!r:.300}: repository name is too long")
                repository = HUB_NAMESPACE + repository
        try:
            return cls(
                host=host,
                repository=repository,
                tag=tag if colon else None,
                digest=Digest(digest) if at else None,
            )
        except UsageError as error:
            raise UsageError(f"{text!r:.300}: {error.message}", hint=error.hint) from None

    @property
    def tag_or_latest(self) -> str:
        """The tag, or `latest`."""
        return self.tag or "latest"

    def full(self) -> str:
        """Return host, repository, tag and digest without abbreviation."""
        return f"{self.host}/{self.repository}{self._suffix()}"

    def __str__(self) -> str:
        """Return the short form, which parses back to this reference.

        It omits docker.io, and `library/` before a single component.
        """
        if self.host != DEFAULT_HOST:
            return self.full()
        name = self.repository
        short = name.removeprefix(HUB_NAMESPACE)
        if short != name and "/" not in short:
            return short + self._suffix()
        first, slash, _ = name.partition("/")
        if not slash or "." in first or first == "localhost":
            return self.full()
        return name + self._suffix()

    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def normalized(self) -> Reference:
        """Return this reference with docker.io in place of Docker Hub's other names."""
        return Reference.parse(self.full())

    def qualified(self, default: str) -> Reference:
        """Return this reference at the host `default` if its short form has no host.

        So only references to docker.io change. To read a text without a host, use `parse` with a
        `default_host`.

        Args:
            default: A host; "" leaves the reference as it is.

        Raises:
            UsageError: `default` is no host.
        """
        if self.host != DEFAULT_HOST or not default:
            return self
        repository = self.repository.removeprefix(HUB_NAMESPACE)
        alone = "/" not in repository
        return replace(self, host=default, repository=repository if alone else self.repository)

    def without_digest(self, digest: str) -> Reference:
        """Return this reference without its digest if that equals `digest`, else itself."""
        return replace(self, digest=None) if self.digest == digest else self

    def to_text(self) -> str:
        """Return the short form as text; `from_text` is its inverse."""
        return str(self)

    @classmethod
    def from_text(cls, text: str) -> Reference:
        """Return the reference in `text`; the inverse of `to_text`.

        Raises:
            UsageError: `text` is no reference.
        """
        return cls.parse(text)

    def to_json(self) -> str:
        """Return the short form as a JSON string; `from_json` is its inverse."""
        return json.dumps(str(self))

    @classmethod
    def from_json(cls, text: str) -> Reference:
        """Return the reference in the JSON string `text`; the inverse of `to_json`.

        Raises:
            UsageError: `text` is no JSON string, or no reference.
        """
        try:
            value = json.loads(text)
        except ValueError as error:
            raise UsageError(f"not a JSON string: {text!r:.200}") from error
        if not isinstance(value, str):
            raise UsageError(f"not a JSON string: {text!r:.200}")
        return cls.parse(value)

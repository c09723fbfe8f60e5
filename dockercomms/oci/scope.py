"""What a token is good for: actions on repositories, in the registries' own notation.

Source: distribution's "Token Scope Documentation".
"""

from __future__ import annotations

import re
from dataclasses import field

from dockercomms.records import dataclass

_WORD = re.compile(r"[\x21-\x7e]+")
_ANY = "*"


@dataclass(frozen=True, slots=True)
class Scope:
    """A set of actions on resources. Equal sets are equal however they were written.

    Source: distribution v3.1.2, docs/content/spec/auth/scope.md.
    """

    access: frozenset[tuple[str, str, str]] = frozenset()
    """Triples of resource type, resource name and action."""
    repository: str = field(default="", compare=False)
    """The repository whose login is used; "" for the registry as a whole."""

    def __post_init__(self) -> None:
        for triple in self.access:
            if not all(_WORD.fullmatch(word) for word in triple):
                raise ValueError(f"not a scope: {triple!r:.300}")

    @classmethod
    def _of(cls, repository: str, *actions: str) -> Scope:
        return cls(frozenset(("repository", repository, action) for action in actions), repository)

    @classmethod
    def pull(cls, repository: str) -> Scope:
        """Return the scope of reading from `repository`."""
        return cls._of(repository, "pull")

    @classmethod
    def push(cls, repository: str) -> Scope:
        """Return the scope of writing to `repository`, which includes reading."""
        return cls._of(repository, "pull", "push")

    @classmethod
    def mount(cls, repository: str, source: str) -> Scope:
        """Return the scope of mounting a blob of `source` into `repository`."""
        return cls.push(repository) | cls.pull(source)

    @classmethod
    def delete(cls, repository: str) -> Scope:
        """Return the scope of deleting from `repository`."""
        return cls._of(repository, "delete")

    @classmethod
    def catalog(cls) -> Scope:
        """Return the scope of listing the registry's repositories."""
        return cls(frozenset({("registry", "catalog", _ANY)}))

    @classmethod
    def parse(cls, text: str) -> Scope:
        """Return the scope in a challenge's notation; pieces that are no scope are left out."""
        access: set[tuple[str, str, str]] = set()
        for piece in text.split():
            kind, _, rest = piece.partition(":")
            # a resource's name may hold colons (a host with its port), an action may not
            name, colon, actions = rest.rpartition(":")
            if not (colon and kind and name and _WORD.fullmatch(piece)):
                continue
            access.update((kind, name, action) for action in actions.split(",") if action)
        return cls(frozenset(access))

    def __or__(self, other: Scope) -> Scope:
        """Return the union, with this scope's repository."""
        return Scope(self.access | other.access, self.repository or other.repository)

    def covers(self, other: Scope) -> bool:
        """Return whether a token for this scope will do for `other`."""
        return all(
            triple in self.access or (triple[0], triple[1], _ANY) in self.access
            for triple in other.access
        )

    def resources(self) -> tuple[str, ...]:
        """Return the scope resource by resource, sorted: `repository:team/box:pull,push`."""
        actions: dict[tuple[str, str], list[str]] = {}
        for kind, name, action in sorted(self.access):
            actions.setdefault((kind, name), []).append(action)
        return tuple(f"{kind}:{name}:{','.join(found)}" for (kind, name), found in actions.items())

    def __str__(self) -> str:
        """Return the notation of challenges and token requests."""
        return " ".join(self.resources())

"""The plan of a copy of a manifest, made before the first write.

A manifest is the top of a tree: an index has manifests, those have a config and layers. Wanted
referrers (signatures, receipts) are trees beside it, with referrers of their own. Reading all
manifests first shows the size of the copy, and finds missing ones before the target changes.

1. Level by level, read and check the manifests that the target lacks.
2. Take the subject of a referrer only from its own content.

Source: image-spec v1.1.1, image-index.md; distribution-spec v1.1.1, "Listing Referrers".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import field

from dockercomms.errors import LimitError, ManifestUnknown, NotFoundError, ProtocolError
from dockercomms.oci.content import ManifestFacts, read_facts
from dockercomms.oci.hub import direct
from dockercomms.oci.images.select import (
    IMAGE_MEDIA_TYPES,
    MAX_INDEX_DEPTH,
    ManifestContent,
    get_content,
)
from dockercomms.oci.interface import readable
from dockercomms.oci.model import MANIFEST_MEDIA_TYPES, Descriptor, Digest, parse_children
from dockercomms.oci.stores import Location
from dockercomms.platforms.records import dataclass

MAX_TREE_MANIFESTS = 10_000
"""Manifests of one copy: an index of 20 platforms has 40, a message with all its receipts fewer."""

MAX_TREE_BYTES = 256 * 2**20
"""Size of all manifests of one copy, which are in memory together."""

Sources = Mapping[str, Location]
"""Locations of children by digest; under "" that of all other children."""


@dataclass(frozen=True, slots=True)
class Node:
    """One manifest of the plan."""

    content: ManifestContent
    origin: Location
    """The location of the manifest and its blobs."""
    present: bool
    """True if the target has it, by digest."""
    blobs: tuple[Descriptor, ...] = ()
    """The blobs that the target needs before the manifest."""
    needs: tuple[Digest, ...] = ()
    """The manifests that the target needs first: its children, and its subject."""
    subject: Digest | None = None
    """Its subject, if it was found as a referrer."""
    facts: ManifestFacts | None = field(default=None, hash=False)
    """For a referrer: the facts that the referrers API lists."""

    @property
    def digest(self) -> Digest:
        """The manifest's digest."""
        return self.content.descriptor.digest


@dataclass(slots=True)
class Plan:
    """The manifests and blobs of one copy."""

    nodes: dict[Digest, Node] = field(default_factory=dict)
    """The manifests read, the top first."""
    blobs: dict[Digest, tuple[Descriptor, Location]] = field(default_factory=dict)
    """Each blob once, with its location."""

    def waves(self) -> Iterator[tuple[Node, ...]]:
        """Yield the manifests that the target lacks; each wave needs only earlier ones."""
        heights: dict[Digest, int] = {}

        def height(digest: Digest) -> int:
            node = self.nodes.get(digest)
            if node is None or node.present:
                return 0
            if digest not in heights:
                # A digest cannot be in its own content, so this ends
                heights[digest] = 1 + max(map(height, node.needs), default=0)
            return heights[digest]

        for digest in self.nodes:
            height(digest)
        for level in range(1, max(heights.values(), default=0) + 1):
            yield tuple(self.nodes[digest] for digest, at in heights.items() if at == level)

    def referrers(self) -> dict[Digest, list[Node]]:
        """Return the referrers of each subject."""
        found: dict[Digest, list[Node]] = {}
        for node in self.nodes.values():
            if node.subject is not None:
                found.setdefault(node.subject, []).append(node)
        return found


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A manifest to visit."""

    descriptor: Descriptor
    origin: Location
    depth: int = 0
    subject: Digest | None = None
    top: bool = False

    @property
    def plain(self) -> bool:
        """True if its content is not needed when the target has it and it is no index."""
        return not self.top and self.subject is None


@dataclass(frozen=True, slots=True)
class _Visited:
    """The results of a visit."""

    node: Node | None = None
    loose_blob: tuple[Descriptor, Location] | None = None
    """An index's entry that is no manifest."""
    wanted: tuple[_Wanted, ...] = ()


class Planner:
    """Reads trees at their sources and compares them with a target. Used once, by one thread.

    Args:
        target: The target's repository.
        origin: The location of children that `sources` does not name.
        sources: Locations of single children.
        referrers: Whether the plan includes referrers.
        executor: Sends several requests at once.
        max_manifests: Number of visited manifests.
        max_bytes: Size of the manifests in memory.

    Raises (from `plan` and `plan_children`):
        LimitError: a limit is exceeded.
        ProtocolError: content is no manifest, or manifests are nested too deep.
        ManifestUnknown: a child is missing at its source.
    """

    def __init__(
        self,
        target: Location,
        origin: Location,
        sources: Sources | None,
        *,
        referrers: bool,
        executor: Executor,
        max_manifests: int = MAX_TREE_MANIFESTS,
        max_bytes: int = MAX_TREE_BYTES,
    ) -> None:
        self._target = target
        self._origin = origin
        self._sources = sources or {}
        self._referrers = referrers
        self._executor = executor
        self._max_manifests = max_manifests
        self._max_bytes = max_bytes
        self._plan = Plan()
        self._bytes = 0

    def plan(self, top: Descriptor) -> Plan:
        """Return the plan for the manifest `top`, which is read even if the target has it."""
        return self._walk([_Wanted(top, self._origin, top=True)])

    def plan_children(self, children: tuple[Descriptor, ...]) -> Plan:
        """Return the plan for the manifests `children` of one index."""
        return self._walk([self._child(child, self._origin, 1) for child in children])

    def source_of(self, digest: str, parent: Location) -> Location:
        """Return the location of the child `digest` of a manifest from `parent`."""
        return self._sources.get(digest) or self._sources.get("") or parent

    def _walk(self, wanted: list[_Wanted]) -> Plan:
        """Visit `wanted` and all manifests found from there, each once."""
        seen: set[Digest] = set()
        while wanted:
            level = []
            for item in wanted:
                if item.descriptor.digest not in seen:
                    seen.add(item.descriptor.digest)
                    level.append(item)
            if len(seen) > self._max_manifests:
                raise LimitError(f"{self._origin}: more than {self._max_manifests} manifests")
            wanted = []
            for visited in self._executor.map(self._visit, level):
                self._take(visited)
                wanted.extend(visited.wanted)
        return self._plan

    def _take(self, visited: _Visited) -> None:
        if visited.loose_blob is not None:
            descriptor, origin = visited.loose_blob
            self._plan.blobs.setdefault(descriptor.digest, (descriptor, origin))
        node = visited.node
        if node is None:
            return
        self._bytes += len(node.content.data)
        if self._bytes > self._max_bytes:
            raise LimitError(f"{self._origin}: more than {self._max_bytes} bytes of manifests")
        self._plan.nodes[node.digest] = node
        for blob in node.blobs:
            self._plan.blobs.setdefault(
                blob.digest, (blob, self.source_of(blob.digest, node.origin))
            )

    def _visit(self, wanted: _Wanted) -> _Visited:
        """Visit one manifest; several threads call this at once."""
        digest, origin = wanted.descriptor.digest, wanted.origin
        present = has_manifest(self._target, digest)
        if present and not wanted.top and not self._referrers:
            return _Visited()
        if present and wanted.descriptor.media_type in IMAGE_MEDIA_TYPES and wanted.plain:
            return _Visited(wanted=self._referring(wanted))
        try:
            content = get_content(origin.registry, origin.repository, wanted.descriptor)
        except ManifestUnknown:
            if wanted.subject is not None:
                return _Visited()  # listed, but deleted since
            if wanted.descriptor.media_type in MANIFEST_MEDIA_TYPES:
                raise
            # BuildKit's caches list blobs in an index
            return _Visited(loose_blob=(wanted.descriptor, origin))
        node = self._node(wanted, content, present=present)
        if node is None:
            return _Visited()
        return _Visited(node, wanted=(*self._children(wanted, node), *self._referring(wanted)))

    def _node(self, wanted: _Wanted, content: ManifestContent, *, present: bool) -> Node | None:
        """Return the node; `None` for a referrer with another subject."""
        facts = None
        if wanted.subject is not None:
            facts = read_facts(content.data, wanted.descriptor.digest)
            if facts.subject != wanted.subject:
                return None
        children = parse_children(content.data, where=content.descriptor.digest)
        needs = [child.digest for child in children.manifests]
        if wanted.subject is not None:
            needs.append(wanted.subject)
        return Node(
            content,
            wanted.origin,
            present=present,
            blobs=() if present else children.blobs,
            needs=tuple(needs),
            subject=wanted.subject,
            facts=facts,
        )

    def _children(self, wanted: _Wanted, node: Node) -> tuple[_Wanted, ...]:
        if node.present and not self._referrers:
            return ()
        children = parse_children(node.content.data).manifests
        return tuple(self._child(child, wanted.origin, wanted.depth + 1) for child in children)

    def _child(self, child: Descriptor, parent: Location, depth: int) -> _Wanted:
        if depth > MAX_INDEX_DEPTH:
            raise ProtocolError(
                f"{child.digest}: indexes are nested more than {MAX_INDEX_DEPTH} deep"
            )
        return _Wanted(child, self.source_of(child.digest, parent), depth)

    def _referring(self, wanted: _Wanted) -> tuple[_Wanted, ...]:
        if not self._referrers:
            return ()
        origin, digest = wanted.origin, wanted.descriptor.digest
        found = tuple(
            _Wanted(entry, origin, wanted.depth + 1, subject=digest)
            for entry in readable(origin.registry.referrers(origin.repository, digest))
        )
        if found and wanted.depth >= MAX_INDEX_DEPTH:
            raise ProtocolError(f"{digest}: referrers are nested more than {MAX_INDEX_DEPTH} deep")
        return found


def has_manifest(target: Location, digest: Digest) -> bool:
    """Return whether the target's repository has the manifest."""
    try:
        direct(target.registry).resolve_manifest(target.repository, digest)
    except NotFoundError:
        return False
    return True

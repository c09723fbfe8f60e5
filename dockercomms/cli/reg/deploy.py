"""The list of `reg ensure --from-json`: its format, and the order of its jobs.

A stream of JSON objects; an object follows its parts:

    {"type": "manifest" or "blob",
     "refs": ["host/repository:tag", "host/repository@digest", ...],
     "lookup": {"sha256:...": "host/repository", "": "host/other"},
     "data": {...} or "base64" or null}

`reg ensure` pushes `data` to all `refs`: an object as `jq .` prints it, a string decoded from
base64. Without `data` it copies the object from the entry of `lookup` with the digest of `refs`,
else from the only entry, else from the entry "". `lookup` also locates missing parts. The deploy
command of Docker's official images reads the same format.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field, replace
from typing import Literal

from dockercomms.errors import ProtocolError, UsageError
from dockercomms.oci.model import Digest, digest_of, parse_children, parse_digest
from dockercomms.oci.stores import Place
from dockercomms.oci.strict_json import parse_json
from dockercomms.platforms.records import dataclass

MAX_INPUT_BYTES = 256 * 2**20
"""The largest list; it is held in memory with the blobs in it."""

Kind = Literal["manifest", "blob"]
_MEMBERS = {"type", "refs", "lookup", "data"}
ParsePlace = Callable[[str], Place]


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One object of the list, with defaults filled in."""

    kind: Kind
    targets: tuple[Place, ...]
    """The places to push or copy it to, with its digest if that is known."""
    sources: Mapping[str, Place] = field(hash=False)
    """The repository of each part, by digest; the entry "" serves the other parts."""
    data: bytes | None = field(default=None, repr=False)
    """The content to push; `None` for an object to copy."""
    media_type: str = ""
    """The media type of a manifest to push."""
    origin: Place | None = None
    """The object to copy."""


@dataclass(frozen=True, slots=True)
class Job:
    """One object and one target."""

    item: Item
    target: Place
    after: frozenset[int]
    """The numbers of the jobs to wait for; all are lower than this job's number."""


def parse_items(data: bytes, parse_place: ParsePlace, *, where: str) -> tuple[Item, ...]:
    """Return the objects of a list; `where` names it in errors.

    Raises:
        UsageError: the list is malformed; names the object.
    """
    items = []
    for number, value in enumerate(_documents(data, where), 1):
        try:
            items.append(_item(value, parse_place))
        except (UsageError, ProtocolError) as error:
            raise UsageError(
                f"{where}: object {number}: {error.message}", hint=error.hint
            ) from error
    return tuple(items)


def plan(items: Sequence[Item]) -> tuple[Job, ...]:
    """Return the jobs in order: a job waits for earlier jobs that push its parts or its source."""
    jobs: list[Job] = []
    makers: dict[tuple[str, str], int] = {}
    for item in items:
        needs = _reads(item)
        for target in item.targets:
            parts = {(target.repo, digest) for digest in _parts(item)}
            makes = {(target.repo, name) for name in (target.tag, target.digest) if name}
            before = {makers[key] for key in needs | parts | makes if key in makers}
            makers |= dict.fromkeys(makes, len(jobs))
            jobs.append(Job(item, target, frozenset(before)))
    return tuple(jobs)


def _parts(item: Item) -> set[str]:
    """Return the digests of the parts of an item with data."""
    if item.data is None or item.kind == "blob":
        return set()
    children = parse_children(item.data)
    return {child.digest for child in (*children.manifests, *children.blobs)}


def _reads(item: Item) -> set[tuple[str, str]]:
    """Return the repositories and names that an item may be read from, for any target."""
    parts = _parts(item)
    keys = {(place.repo, digest) for digest, place in item.sources.items() if digest}
    fallback = item.sources.get("")
    if fallback is not None:
        keys |= {(fallback.repo, digest) for digest in parts}
    origin = item.origin
    if origin is not None:
        keys |= {(origin.repo, name) for name in (origin.tag, origin.digest) if name}
    return keys


def _documents(data: bytes, where: str) -> Iterator[object]:
    """Yield the JSON values that follow each other in `data`.

    Raises:
        UsageError: malformed JSON.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{where}: not UTF-8: {error.reason} at byte {error.start}") from error
    decoder, at = json.JSONDecoder(), 0
    while at < len(text):
        if text[at] in " \t\r\n":
            at += 1
            continue
        try:
            _, end = decoder.raw_decode(text, at)
            yield parse_json(text[at:end].encode(), where=where)
        except json.JSONDecodeError as error:
            line = text.count("\n", 0, error.pos) + 1
            raise UsageError(f"{where}: line {line}: not JSON: {error.msg}") from error
        except ValueError as error:  # a number of more digits than Python reads
            raise UsageError(f"{where}: {error}") from error
        except RecursionError as error:
            raise UsageError(f"{where}: too deeply nested") from error
        except ProtocolError as error:
            raise UsageError(error.message) from error
        at = end


def _item(value: object, parse_place: ParsePlace) -> Item:
    fields = _object(value, "an object")
    unknown = set(fields) - _MEMBERS
    if unknown:
        raise UsageError(f"unknown member {min(unknown)!r:.100}")
    kind = fields.get("type")
    if kind not in ("manifest", "blob"):
        raise UsageError(f'type {kind!r:.100}; "manifest" or "blob" expected')
    targets, digest = _targets(fields.get("refs"), parse_place, blob=kind == "blob")
    lookup = _lookup(fields.get("lookup"), parse_place)
    if fields.get("data") is None:
        return _copied(kind, targets, digest, lookup)
    data = _data(fields["data"])
    found = digest_of(data)
    if digest not in (None, found):
        raise UsageError(f"refs say {digest}, the data is {found}")
    return Item(
        kind=kind,
        targets=tuple(replace(target, digest=found) for target in targets),
        sources=_repositories(lookup),
        data=data,
        media_type=_media_type(data) if kind == "manifest" else "",
    )


def _targets(
    value: object, parse_place: ParsePlace, *, blob: bool
) -> tuple[tuple[Place, ...], Digest | None]:
    """Return the targets of an object, and their common digest, if they have one."""
    if not isinstance(value, list) or not value:
        raise UsageError("refs: a list of at least one reference expected")
    targets = tuple(parse_place(_string(text, "refs")) for text in value)
    digests = {target.digest for target in targets} - {None}
    if len(digests) > 1:
        raise UsageError(f"refs: different digests: {', '.join(sorted(map(str, digests)))}")
    tagged = [target for target in targets if target.tag is not None]
    if blob and tagged:
        raise UsageError(f"refs: {tagged[0]}: blobs have no tags")
    return targets, next(iter(digests), None)


def _lookup(value: object, parse_place: ParsePlace) -> dict[str, Place]:
    """Return `lookup`; each place has the digest of its key."""
    found = {}
    for key, text in ({} if value is None else _object(value, "lookup: an object")).items():
        place = parse_place(_string(text, "lookup"))
        if key:
            digest = parse_digest(key)
            if place.digest not in (None, digest):
                raise UsageError(f"lookup: {place} under another digest, {key}")
            place = replace(place, digest=digest)
        found[key] = place
    return found


def _copied(
    kind: Kind, targets: tuple[Place, ...], digest: Digest | None, lookup: Mapping[str, Place]
) -> Item:
    origin = _origin(digest, lookup)
    if digest is not None and origin.digest not in (None, digest):
        raise UsageError(f"refs say {digest}, lookup {origin}")
    known = digest or origin.digest
    if kind == "blob" and known is None:
        raise UsageError(f"{origin}: a blob's digest is missing")
    if digest is not None:
        origin = replace(origin, digest=digest)
    return Item(
        kind=kind,
        targets=tuple(replace(target, digest=known) for target in targets),
        sources=_repositories({"": origin, **lookup}),
        origin=replace(origin, tag=None) if kind == "blob" else origin,
    )


def _origin(digest: Digest | None, lookup: Mapping[str, Place]) -> Place:
    if digest is not None and digest in lookup:
        return lookup[digest]
    if len(lookup) == 1:
        (only,) = lookup.values()
        if only.digest is not None or only.tag is not None:
            return only
    if digest is not None and "" in lookup:
        return replace(lookup[""], digest=digest)
    raise UsageError(
        "neither data nor what to copy: lookup needs the digest of refs, or a single entry"
    )


def _repositories(lookup: Mapping[str, Place]) -> dict[str, Place]:
    return {key: replace(place, tag=None, digest=None) for key, place in lookup.items()}


def _data(value: object) -> bytes:
    """Return the bytes of `data`.

    For an object or list these are the bytes that jq prints, because its digest refers to them.
    """
    if isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except binascii.Error as error:
            raise UsageError(f"data: not base64: {error}") from error
    text = json.dumps(value, indent=2, ensure_ascii=False).replace("\x7f", "\\u007f")
    try:
        return f"{text}\n".encode()
    except UnicodeEncodeError as error:
        raise UsageError("data: half a surrogate pair") from error


def _media_type(data: bytes) -> str:
    """Return the media type in a manifest; without one, clients may read it as another type."""
    fields = _object(parse_json(data, where="data"), "data: an object")
    said = fields.get("mediaType")
    if not isinstance(said, str) or not said:
        raise UsageError("data: a manifest without mediaType")
    return said


def _object(value: object, what: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise UsageError(f"{what} expected")
    return value


def _string(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{where}: a string expected")
    return value

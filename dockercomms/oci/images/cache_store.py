"""The memory of a cache, and the joining of concurrent requests."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from typing import Generic, Literal, TypeVar

from dockercomms.errors import DockerCommsError
from dockercomms.oci.content import StoredReader
from dockercomms.oci.interface import BlobReader
from dockercomms.oci.model import Descriptor, Digest
from dockercomms.platforms.records import dataclass

MAX_DESCRIPTORS = 100_000
"""Largest number of descriptors, and of tags: some 50 MB at most."""

Key = tuple[Literal["blob", "manifest"], str, Digest]
"""The kind, repository and digest of an object."""

_Result = TypeVar("_Result")
_K = TypeVar("_K")
_V = TypeVar("_V")


@dataclass(frozen=True, slots=True)
class Content:
    """The whole content of an object."""

    data: bytes
    descriptor: Descriptor

    def open(self) -> BlobReader:
        """Return a reader of the content."""
        return StoredReader(io.BytesIO(self.data), self.descriptor)


class Flights(Generic[_Result]):
    """Calls `load` once for all concurrent callers of a key; all get its result or error."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flying: dict[Hashable, Future[_Result]] = {}

    def once(self, key: Hashable, load: Callable[[], _Result]) -> _Result:
        """Return the result of `load`, or of a running call of the same key."""
        while True:
            with self._lock:
                flight = self._flying.get(key)
                if flight is None:
                    own = self._flying[key] = Future()
            if flight is None:
                return self._lead(key, own, load)
            with suppress(CancelledError):  # the running call was interrupted: try again
                return flight.result()

    def _lead(self, key: Hashable, own: Future[_Result], load: Callable[[], _Result]) -> _Result:
        try:
            result = load()
            own.set_result(result)
        except DockerCommsError as error:
            own.set_exception(error)
            raise
        finally:
            with self._lock:
                del self._flying[key]
            own.cancel()  # wakes the waiting callers if `load` was interrupted
        return result


class _Recent(Generic[_K, _V]):
    """A dict of at most `limit` entries; the least recently used goes first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: OrderedDict[_K, _V] = OrderedDict()

    def get(self, key: _K) -> _V | None:
        value = self._entries.get(key)
        if value is not None:
            self._entries.move_to_end(key)
        return value

    def put(self, key: _K, value: _V) -> None:
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._limit:
            self._entries.popitem(last=False)

    def pop(self, key: _K) -> None:
        self._entries.pop(key, None)

    def keys_of(self, wanted: Callable[[_V], bool]) -> list[_K]:
        return [key for key, value in self._entries.items() if wanted(value)]


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment between changes: an answer to an earlier request is not cached after a change."""

    tags: int = 0
    deletes: int = 0


class Held:
    """The cached objects and tags. Safe for several threads.

    Args:
        max_total: All content, in bytes.
        max_descriptors: Number of descriptors, and of tags.
    """

    def __init__(self, max_total: int, *, max_descriptors: int = MAX_DESCRIPTORS) -> None:
        self._lock = threading.Lock()
        self._max_total = max_total
        self._total = 0
        self._contents: OrderedDict[Digest, bytes] = OrderedDict()
        self._known: _Recent[Key, Descriptor] = _Recent(max_descriptors)
        self._tags: _Recent[tuple[str, str], tuple[Descriptor, float]] = _Recent(max_descriptors)
        self._mark = Mark()

    def mark(self) -> Mark:
        """Return the present moment, for `keep` and `keep_tag`."""
        with self._lock:
            return self._mark

    def descriptor(self, key: Key) -> Descriptor | None:
        """Return the descriptor of an object that is known to be in the repository."""
        with self._lock:
            return self._known.get(key)

    def content(self, key: Key) -> Content | None:
        """Return content that is known to be in the repository, perhaps read from another one."""
        with self._lock:
            descriptor = self._known.get(key)
            data = self._contents.get(key[2])
            if descriptor is None or data is None:
                return None
            self._contents.move_to_end(key[2])
            return Content(data, descriptor)

    def tag(self, repository: str, tag: str, now: float) -> Descriptor | None:
        """Return the target of the tag if it is still cached at the time `now`."""
        with self._lock:
            found = self._tags.get((repository, tag))
            return None if found is None or found[1] <= now else found[0]

    def keep(self, key: Key, descriptor: Descriptor, data: bytes | None, since: Mark) -> None:
        """Cache `descriptor`, and `data` if given, unless there was a deletion after `since`."""
        with self._lock:
            if since.deletes != self._mark.deletes:
                return
            self._known.put(key, descriptor)
            if data is None or key[2] in self._contents:
                return
            self._contents[key[2]] = data
            self._total += len(data)
            while self._total > self._max_total:
                _, dropped = self._contents.popitem(last=False)
                self._total -= len(dropped)

    def keep_tag(
        self, repository: str, tag: str, descriptor: Descriptor, until: float, since: Mark
    ) -> None:
        """Cache the tag until the time `until`, unless there was a change after `since`."""
        with self._lock:
            if since == self._mark:
                self._tags.put((repository, tag), (descriptor, until))

    def change_tags(self, repository: str, tags: Sequence[str]) -> Mark:
        """Forget `tags` and return the moment; call this before and after they are written."""
        with self._lock:
            self._mark = Mark(self._mark.tags + 1, self._mark.deletes)
            for tag in tags:
                self._tags.pop((repository, tag))
            return self._mark

    def delete(self, key: Key) -> None:
        """Forget an object and its tags; call this before and after it is deleted."""
        with self._lock:
            self._mark = Mark(self._mark.tags + 1, self._mark.deletes + 1)
            self._known.pop(key)
            _, repository, digest = key
            for tag in self._tags.keys_of(lambda held: held[0].digest == digest):
                if tag[0] == repository:
                    self._tags.pop(tag)

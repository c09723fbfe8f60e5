from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from dockercomms.errors import ManifestUnknown
from dockercomms.oci.images.cache_store import Flights, Held, Key, Mark
from dockercomms.oci.model import MEDIA_TYPE_OCTET_STREAM, Descriptor

THREADS = 20


def content(text: str) -> tuple[Key, Descriptor, bytes]:
    descriptor = Descriptor.of(text.encode(), MEDIA_TYPE_OCTET_STREAM)
    return ("blob", "a", descriptor.digest), descriptor, text.encode()


# --- flights ---


def joined(results: list[object], errors: type[BaseException]) -> list[object]:
    """Return what one thread that leads, and nineteen that follow, get.

    The flight ends with the first of `results`; a thread that comes too late leads another one.
    """
    flights: Flights[str] = Flights()
    seen: list[object] = []
    started, release, waiting = threading.Event(), threading.Event(), threading.Barrier(THREADS)

    def load() -> str:
        started.set()
        assert release.wait(10)
        result = results.pop(0)
        if isinstance(result, BaseException):
            raise result
        return str(result)

    def follow() -> str:
        waiting.wait(10)
        return flights.once("key", load)

    with ThreadPoolExecutor(THREADS) as pool:
        leader = pool.submit(flights.once, "key", load)
        assert started.wait(10)
        followers = [pool.submit(follow) for _ in range(THREADS - 1)]
        waiting.wait(10)
        release.set()
        for future in (leader, *followers):
            try:
                seen.append(future.result(10))
            except errors as error:
                seen.append(error)
    return seen


def test_flights_give_one_result_to_all() -> None:
    seen = joined(["only", *["late"] * THREADS], ManifestUnknown)
    assert len(seen) == THREADS
    assert seen[0] == "only"
    assert set(seen) <= {"only", "late"}


def test_flights_give_one_error_to_all() -> None:
    error = ManifestUnknown("gone")
    seen = joined([error, *["late"] * THREADS], ManifestUnknown)
    assert seen[0] is error
    assert all(other is error or other == "late" for other in seen)


def test_flights_keep_no_error() -> None:
    flights: Flights[str] = Flights()

    def fail() -> str:
        raise ManifestUnknown("gone")

    with pytest.raises(ManifestUnknown):
        flights.once("key", fail)
    assert flights.once("key", lambda: "again") == "again"


def test_flights_try_again_when_the_first_was_interrupted() -> None:
    seen = joined([KeyboardInterrupt(), *["late"] * THREADS], KeyboardInterrupt)
    assert isinstance(seen[0], KeyboardInterrupt)
    assert set(seen[1:]) == {"late"}


def test_flights_of_other_keys_do_not_wait() -> None:
    flights: Flights[str] = Flights()
    assert flights.once("a", lambda: flights.once("b", lambda: "inner")) == "inner"


# --- held ---


def test_held_drops_what_was_not_used_for_longest() -> None:
    held = Held(10)
    first, second, third = content("12345"), content("67890"), content("abcde")
    for key, descriptor, data in (first, second):
        held.keep(key, descriptor, data, Mark())
    assert held.content(first[0]) is not None
    held.keep(*third, Mark())
    assert held.content(second[0]) is None
    assert held.descriptor(second[0]) == second[1]
    assert held.content(first[0]) is not None
    assert held.content(third[0]) is not None


def test_held_counts_content_once() -> None:
    held = Held(5)
    key, descriptor, data = content("12345")
    for repository in ("a", "b"):
        held.keep(("blob", repository, descriptor.digest), descriptor, data, Mark())
    for repository in ("a", "b"):
        assert held.content(("blob", repository, descriptor.digest)) is not None
    assert held.content(("manifest", "a", descriptor.digest)) is None
    assert key[1] == "a"


def test_held_bounds_descriptors() -> None:
    held = Held(100, max_descriptors=2)
    for text in ("a", "b", "c"):
        key, descriptor, _ = content(text)
        held.keep(key, descriptor, None, Mark())
        held.keep_tag("a", text, descriptor, 1.0, Mark())
    assert [held.descriptor(content(text)[0]) is not None for text in "abc"] == [False, True, True]
    assert [held.tag("a", text, 0.0) is not None for text in "abc"] == [False, True, True]


def test_held_believes_a_tag_up_to_its_time() -> None:
    held = Held(100)
    _, descriptor, _ = content("a")
    held.keep_tag("a", "v1", descriptor, 10.0, held.mark())
    assert held.tag("a", "v1", 9.9) == descriptor
    assert held.tag("a", "v1", 10.0) is None
    assert held.tag("b", "v1", 9.9) is None


def test_held_keeps_nothing_that_was_asked_for_before_a_change() -> None:
    held = Held(100)
    key, descriptor, data = content("a")
    before = held.mark()
    held.change_tags("a", ())
    held.keep_tag("a", "v1", descriptor, 10.0, before)
    assert held.tag("a", "v1", 0.0) is None
    held.keep(key, descriptor, data, before)
    assert held.content(key) is not None
    held.delete(key)
    held.keep(key, descriptor, data, before)
    assert held.descriptor(key) is None


def test_held_forgets_the_tags_on_what_is_deleted() -> None:
    held = Held(100)
    key, descriptor, _ = content("a")
    other = content("b")[1]
    for repository, tag, target in (("a", "v1", descriptor), ("a", "v2", other), ("b", "v1", descriptor)):  # fmt: skip
        held.keep_tag(repository, tag, target, 10.0, held.mark())
    held.delete(key)
    assert held.tag("a", "v1", 0.0) is None
    assert held.tag("a", "v2", 0.0) == other
    assert held.tag("b", "v1", 0.0) == descriptor

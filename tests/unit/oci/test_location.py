"""Locations of objects."""

from __future__ import annotations

import json

import pytest

from dockercomms.errors import DigestMismatch, UsageError
from dockercomms.oci.memory import MemoryRegistry
from dockercomms.oci.model import MEDIA_TYPE_INDEX, Digest, digest_of
from dockercomms.oci.reference import Reference
from dockercomms.oci.remote.registry import HTTPRegistry
from dockercomms.oci.stores import Location, same_store

DIGEST = digest_of(b"x")


def test_location_says_what_a_reference_says() -> None:
    with HTTPRegistry("registry.example:5000") as registry:
        text = f"registry.example:5000/team/box:v1@{DIGEST}"
        place = Location.of(registry, Reference.parse(text))
        assert str(place) == text
        assert (place.tag, place.tags, place.digest) == ("v1", ("v1",), DIGEST)
    assert str(Location(MemoryRegistry(), "team/box")) == "team/box"


def test_location_opens_its_digest_its_tag_or_latest() -> None:
    registry = MemoryRegistry()
    tagged = {tag: json.dumps({"schemaVersion": 2, "mediaType": MEDIA_TYPE_INDEX,
              "manifests": [], "annotations": {"tag": tag}}).encode()
              for tag in ("latest", "v1")}  # fmt: skip
    pushed = {
        tag: registry.push_manifest("a", data, MEDIA_TYPE_INDEX, tags=(tag,))
        for tag, data in tagged.items()
    }
    place = Location(registry, "a")
    assert place.tags == ()
    for location, tag in (
        (place, "latest"),
        (Location(registry, "a", tag="v1"), "v1"),
        (Location(registry, "a", tag="v1").at(pushed["latest"].digest), "latest"),
    ):
        assert location.resolve().digest == pushed[tag].digest
        with location.open() as opened:
            assert opened.read() == tagged[tag]


def test_location_at_a_digest_has_no_tag() -> None:
    place = Location(MemoryRegistry(), "a", tag="v1").at(DIGEST)
    assert (place.tag, place.digest) == (None, DIGEST)


def test_location_cannot_be_wrong() -> None:
    with pytest.raises(UsageError, match="not a tag"):
        Location(MemoryRegistry(), "a", tag="a/b")
    with pytest.raises(UsageError, match="not a digest"):
        Location(MemoryRegistry(), "a", digest=Digest("sha256:x"))


def test_location_refuses_content_it_does_not_name() -> None:
    place = Location(MemoryRegistry(), "a", digest=DIGEST)
    place.refuse_other(DIGEST)
    Location(MemoryRegistry(), "a").refuse_other(DIGEST)
    with pytest.raises(DigestMismatch, match="the content has the digest sha256:"):
        place.refuse_other(digest_of(b"y"))


def test_same_store_is_one_registry_however_often_it_is_opened() -> None:
    memory = MemoryRegistry()
    with (
        HTTPRegistry("one.example") as one,
        HTTPRegistry("one.example") as again,
        HTTPRegistry("other.example") as other,
        HTTPRegistry("one.example", plain_http=True) as plain,
    ):
        assert same_store(memory, memory)
        assert same_store(one, again)
        assert not same_store(one, other)
        assert not same_store(one, plain)
        assert not same_store(one, memory)
        assert not same_store(memory, MemoryRegistry())

from __future__ import annotations

import json

import pytest

from dockercomms.errors import ProtocolError
from dockercomms.oci.layout.index import (
    ANNOTATION_SUBJECT,
    EMPTY_INDEX,
    LayoutIndex,
    parse_layout_index,
)
from dockercomms.oci.model import (
    ANNOTATION_REF_NAME,
    MEDIA_TYPE_INDEX,
    MEDIA_TYPE_MANIFEST,
    Descriptor,
    digest_of,
)

ONE = Descriptor.of(b"one", MEDIA_TYPE_MANIFEST, artifact_type="a/b")
TWO = Descriptor.of(b"two", MEDIA_TYPE_MANIFEST)


def written(index: LayoutIndex) -> list[dict[str, object]]:
    """Return the entries as they stand in the file."""
    entries: list[dict[str, object]] = json.loads(index.to_bytes())["manifests"]
    return entries


def test_layout_index_without_entries_is_an_image_index() -> None:
    assert json.loads(EMPTY_INDEX.to_bytes()) == {
        "schemaVersion": 2,
        "mediaType": MEDIA_TYPE_INDEX,
        "manifests": [],
    }


def test_layout_index_entry_says_what_the_manifest_is_and_refers_to() -> None:
    index = EMPTY_INDEX.with_manifest(ONE, ("v1",), subject=TWO.digest)
    assert written(index) == [
        {
            "mediaType": MEDIA_TYPE_MANIFEST,
            "digest": ONE.digest,
            "size": 3,
            "annotations": {ANNOTATION_SUBJECT: TWO.digest, ANNOTATION_REF_NAME: "v1"},
            "artifactType": "a/b",
        }
    ]
    (entry,) = parse_layout_index(index.to_bytes(), where="it").entries
    assert (entry.tag, entry.subject, entry.digest) == ("v1", TWO.digest, ONE.digest)


def test_layout_index_entry_without_tag_or_subject_has_no_annotations() -> None:
    assert written(EMPTY_INDEX.with_manifest(TWO, ())) == [
        {"mediaType": MEDIA_TYPE_MANIFEST, "digest": TWO.digest, "size": 3}
    ]


def test_layout_index_is_itself_where_a_push_changes_nothing() -> None:
    index = EMPTY_INDEX.with_manifest(ONE, ("a", "b"))
    assert index.with_manifest(ONE, ("b",)) is index
    assert index.with_manifest(ONE, ()) is index
    assert index.with_manifest(ONE, ("c",)) is not index
    untagged = EMPTY_INDEX.with_manifest(ONE, ())
    assert untagged.with_manifest(ONE, ()) is untagged


def test_layout_index_gives_an_untagged_manifest_its_tag() -> None:
    index = EMPTY_INDEX.with_manifest(ONE, ()).with_manifest(ONE, ("v1",))
    assert [entry.tag for entry in index.entries] == ["v1"]


def test_layout_index_takes_the_newest_media_type() -> None:
    other = Descriptor.of(b"one", "application/vnd.docker.distribution.manifest.v2+json")
    index = EMPTY_INDEX.with_manifest(ONE, ("v1",)).with_manifest(other, ("v1",))
    assert [entry.descriptor.media_type for entry in index.entries] == [other.media_type]


def test_layout_index_keeps_what_a_moved_tag_leaves() -> None:
    index = EMPTY_INDEX.with_manifest(ONE, ("bell",)).with_manifest(TWO, ("bell",))
    assert [(entry.digest, entry.tag) for entry in index.entries] == [
        (ONE.digest, None),
        (TWO.digest, "bell"),
    ]
    assert index.manifest(ONE.digest) is not None
    again = index.with_manifest(ONE, ("bell",))
    assert [(entry.digest, entry.tag) for entry in again.entries] == [
        (TWO.digest, None),
        (ONE.digest, "bell"),
    ]


def test_layout_index_takes_a_tag_named_twice_once() -> None:
    assert [entry.tag for entry in EMPTY_INDEX.with_manifest(ONE, ("a", "a")).entries] == ["a"]


def test_layout_index_without_a_tag_that_is_not_there_is_the_same() -> None:
    index = EMPTY_INDEX.with_manifest(ONE, ("v1",))
    assert index.without_tag("v2").to_bytes() == index.to_bytes()


def foreign() -> bytes:
    """Return an index as another tool may write it, with members that are not ours."""
    entry = {
        "mediaType": MEDIA_TYPE_MANIFEST,
        "digest": ONE.digest,
        "size": 3,
        "platform": {"architecture": "amd64", "os": "linux"},
        "urls": ["https://example.com"],
        "annotations": {ANNOTATION_REF_NAME: "v1", "theirs": "kept"},
    }
    bare = {"mediaType": MEDIA_TYPE_MANIFEST, "digest": TWO.digest, "size": 3, "new": [1]}
    return json.dumps(
        {
            "schemaVersion": 2,
            "manifests": [entry, bare, bare],
            "annotations": {"of": "the index"},
            "unknown": {"a": 1},
        }
    ).encode()


def test_layout_index_keeps_what_others_wrote() -> None:
    index = parse_layout_index(foreign(), where="it")
    third = Descriptor.of(b"three", MEDIA_TYPE_MANIFEST)
    changed = json.loads(index.with_manifest(third, ("v2",)).to_bytes())
    before = json.loads(foreign())
    assert changed["manifests"][:3] == before["manifests"]
    assert {key: changed[key] for key in before if key != "manifests"} == {
        key: before[key] for key in before if key != "manifests"
    }


def test_layout_index_takes_only_the_tag_from_what_others_wrote() -> None:
    index = parse_layout_index(foreign(), where="it").without_tag("v1")
    (entry,) = (entry for entry in written(index) if entry["digest"] == ONE.digest)
    assert entry["annotations"] == {"theirs": "kept"}
    assert entry["urls"] == ["https://example.com"]
    assert entry["platform"] == {"architecture": "amd64", "os": "linux"}


def test_layout_index_lets_the_later_of_two_entries_have_the_tag() -> None:
    entries = [
        {
            "mediaType": MEDIA_TYPE_MANIFEST,
            "digest": digest_of(name),
            "size": 1,
            "annotations": {ANNOTATION_REF_NAME: "v1"},
        }
        for name in (b"1", b"2")
    ]
    data = json.dumps({"schemaVersion": 2, "manifests": entries}).encode()
    index = parse_layout_index(data, where="it")
    found = index.tagged("v1")
    assert found is not None
    assert found.digest == digest_of(b"2")
    assert index.tags() == ["v1"]
    moved = index.with_manifest(ONE, ("v1",))
    assert [entry.tag for entry in moved.entries] == [None, None, "v1"]


def test_layout_index_without_manifests_may_say_null() -> None:
    index = parse_layout_index(b'{"schemaVersion":2,"manifests":null}', where="it")
    assert index.entries == ()
    assert json.loads(index.to_bytes()) == {"schemaVersion": 2, "manifests": []}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"schemaVersion":2}',
        b'{"schemaVersion":1,"manifests":[]}',
        b'{"schemaVersion":true,"manifests":[]}',
        b'{"manifests":[]}',
        b'{"schemaVersion":2,"manifests":{}}',
        b'{"schemaVersion":2,"manifests":[{"a":1,"a":2}]}',
        b'{"schemaVersion":2,"manifests":[],"manifests":[]}',
    ],
)
def test_layout_index_that_is_malformed_names_its_file(data: bytes) -> None:
    with pytest.raises(ProtocolError, match=r"box/index\.json"):
        parse_layout_index(data, where="box/index.json")


def test_layout_index_keeps_entries_that_it_cannot_read(caplog: pytest.LogCaptureFixture) -> None:
    bad = [7, None, {}, {"digest": "sha256:short", "size": "1"}]
    good = Descriptor.of(b"{}", MEDIA_TYPE_MANIFEST)
    listed = {"schemaVersion": 2, "manifests": [*bad, good.to_json()]}
    index = parse_layout_index(json.dumps(listed).encode(), where="box/index.json")
    assert [entry.digest for entry in index.entries] == [good.digest]
    assert "box/index.json: 4 of 5 entries cannot be read" in caplog.text
    changed = index.with_manifest(good, ("v1",)).without_tag("v1").with_manifest(good, ("v2",))
    assert written(changed.without_manifest(good.digest)) == bad

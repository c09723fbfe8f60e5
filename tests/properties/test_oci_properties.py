"""Properties of the content model, of references, and of a layout's index."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dockercomms.errors import IntegrityError, UsageError
from dockercomms.oci.content import VerifyingReader
from dockercomms.oci.layout.index import EMPTY_INDEX, LayoutIndex, parse_layout_index
from dockercomms.oci.memory import MemoryRegistry
from dockercomms.oci.model import (
    ANNOTATION_REF_NAME,
    MEDIA_TYPE_MANIFEST,
    MEDIA_TYPE_OCTET_STREAM,
    Descriptor,
    Digest,
    Index,
    Platform,
    digest_of,
    parse_index,
)
from dockercomms.oci.reference import Reference, is_valid_tag
from dockercomms.oci.strict_json import canonical_json, parse_json
from tests.fakes.examples import examples

quick = settings(max_examples=examples(60))
"""Enough to find a broken rule in each, and a second in all."""

TEXT = st.text(max_size=20)
"""Any text but lone surrogates, which UTF-8 cannot carry."""


def digests(algorithm: str, size: int) -> st.SearchStrategy[Digest]:
    return st.binary(min_size=size, max_size=size).map(
        lambda raw: Digest(f"{algorithm}:{raw.hex()}")
    )


DIGESTS = digests("sha256", 32) | digests("sha384", 48) | digests("sha512", 64)
PLATFORMS = st.builds(Platform, TEXT, TEXT, TEXT, TEXT, st.lists(TEXT, max_size=3).map(tuple))
DESCRIPTORS = st.builds(
    Descriptor,
    media_type=st.text(min_size=1, max_size=20),
    digest=DIGESTS,
    size=st.integers(0, 2**63 - 1),
    annotations=st.dictionaries(TEXT, TEXT, max_size=4),
    data=st.none() | st.binary(max_size=20),
    platform=st.none() | PLATFORMS,
    artifact_type=st.none() | st.text(min_size=1, max_size=20),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)
COMPONENTS = st.from_regex(r"[a-z0-9]{1,5}((\.|_|__|-{1,3})[a-z0-9]{1,5}){0,2}", fullmatch=True)
REPOSITORIES = st.lists(COMPONENTS, min_size=1, max_size=4).map("/".join)
TAGS = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,20}", fullmatch=True)
HOSTS = st.sampled_from(
    ["docker.io", "index.docker.io", "localhost", "localhost:5000", "reg.example", "[::1]:80"]
) | st.from_regex(r"[a-z0-9]{1,5}\.[a-z0-9]{1,5}(:[1-9][0-9]{0,3})?", fullmatch=True)
REFERENCES = st.builds(
    Reference,
    host=HOSTS,
    repository=REPOSITORIES,
    tag=st.none() | TAGS,
    digest=st.none() | DIGESTS,
)


@quick
@given(JSON)
def test_canonical_json_reads_back_as_what_it_was(value: object) -> None:
    assert parse_json(canonical_json(value)) == value


@quick
@given(DESCRIPTORS)
def test_descriptor_reads_back_as_what_it_was(descriptor: Descriptor) -> None:
    assert (
        Descriptor.from_json(parse_json(canonical_json(descriptor.to_json())), "it") == descriptor
    )


@quick
@given(st.lists(DESCRIPTORS, max_size=3), st.none() | DESCRIPTORS, st.dictionaries(TEXT, TEXT))
def test_index_reads_back_as_what_it_was(
    entries: list[Descriptor], subject: Descriptor | None, annotations: dict[str, str]
) -> None:
    index = Index(manifests=tuple(entries), subject=subject, annotations=annotations)
    assert parse_index(index.to_bytes()) == index


@quick
@given(REFERENCES)
def test_reference_reads_back_as_what_it_was(reference: Reference) -> None:
    normalized = reference.normalized()
    assert Reference.parse(str(reference)) == normalized
    assert Reference.parse(reference.full()) == normalized
    assert Reference.from_text(normalized.to_text()) == normalized
    assert Reference.from_json(normalized.to_json()) == normalized
    assert normalized.normalized() == normalized


@quick
@given(st.text(max_size=40) | st.from_regex(r"[a-z.:/@\[\]A-Z0-9_-]{0,30}"))
def test_reference_parse_gives_a_reference_or_a_usage_error(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except UsageError:
        return
    assert Reference.parse(str(reference)) == reference


@quick
@given(REFERENCES, st.booleans())
def test_reference_without_its_digest_has_none(reference: Reference, other: bool) -> None:
    digest = digest_of(b"another") if other or reference.digest is None else reference.digest
    left = reference.without_digest(digest)
    assert left.digest == (reference.digest if reference.digest != digest else None)
    assert (left.host, left.repository, left.tag) == (
        reference.host,
        reference.repository,
        reference.tag,
    )


@quick
@given(st.binary(max_size=200), st.binary(max_size=200), st.integers(1, 300))
def test_verifying_reader_takes_no_content_for_another(
    promised: bytes, given_: bytes, step: int
) -> None:
    checked = VerifyingReader(io.BytesIO(given_), Descriptor.of(promised, "text/plain"))
    received = bytearray()

    def read_out() -> None:
        while piece := checked.read(step):
            received.extend(piece)

    if promised == given_:
        read_out()
        assert received == promised
    else:
        with pytest.raises(IntegrityError):
            read_out()
        assert len(received) < len(promised) or not promised


@quick
@given(st.binary(min_size=1, max_size=100), st.data())
def test_get_blob_range_is_a_slice(content: bytes, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(content) - 1))
    end = data.draw(st.none() | st.integers(start, 200))
    registry = MemoryRegistry()
    descriptor = Descriptor.of(content, MEDIA_TYPE_OCTET_STREAM)
    registry.push_blob("a", descriptor, lambda: io.BytesIO(content))
    with registry.get_blob_range("a", descriptor.digest, start, end) as reader:
        assert reader.read() == content[start:end]


MANIFESTS = [Descriptor.of(bytes([number]), MEDIA_TYPE_MANIFEST) for number in range(4)]
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("push"),
            st.sampled_from(MANIFESTS),
            st.lists(st.sampled_from("abc"), max_size=3),
        ),
        st.tuples(st.just("untag"), st.sampled_from("abc")),
        st.tuples(st.just("delete"), st.sampled_from(MANIFESTS)),
    ),
    max_size=12,
)


@quick
@given(STEPS, st.booleans())
def test_layout_index_is_a_map_of_tags_and_a_set_of_manifests(
    steps: list[tuple[Any, ...]], anew: bool
) -> None:
    index: LayoutIndex = EMPTY_INDEX
    tags: dict[str, Digest] = {}
    held: set[Digest] = set()
    for step in steps:
        if step[0] == "push":
            _, manifest, names = step
            index = index.with_manifest(manifest, names)
            tags.update(dict.fromkeys(names, manifest.digest))
            held.add(manifest.digest)
        elif step[0] == "untag":
            index = index.without_tag(step[1])
            tags.pop(step[1], None)
        else:
            index = index.without_manifest(step[1].digest)
            held.discard(step[1].digest)
            tags = {tag: digest for tag, digest in tags.items() if digest != step[1].digest}
        data = index.to_bytes()
        again = parse_layout_index(data, where="index.json")
        assert_same(again, index)
        if anew:
            index = again
        assert index.tags() == sorted(tags)
        assert {tag: index.tagged(tag).digest for tag in tags} == tags  # type: ignore[union-attr]
        assert {entry.digest for entry in index.manifests()} == held
        # One entry a tag, and one without a tag for each manifest that has none.
        assert len(index.entries) == len(tags) + len(held - set(tags.values()))


ODD = st.sampled_from(
    [
        {"urls": ["},{"]},
        {"x": [{}, {}]},
        {"annotations": {"a": '"},{"', "b": "\u2028\\"}},
        {"data": "e30=", "x": "]}"},
        {"annotations": {ANNOTATION_REF_NAME: "v1"}},
    ]
)
"""Members of an entry that look like the end of it."""
FRAMES = st.sampled_from(
    [
        {"schemaVersion": 2, "mediaType": "m"},
        {"schemaVersion": 2, "manifests": None, "annotations": {"manifests": "},{"}},
        {"manifests": None, "schemaVersion": 2},
    ]
)


@quick
@given(FRAMES, st.lists(ODD, max_size=6))
def test_layout_index_keeps_what_others_wrote(
    frame: dict[str, Any], items: list[dict[str, Any]]
) -> None:
    entries = [
        {"mediaType": MEDIA_TYPE_MANIFEST, "digest": digest_of(b"%d" % number), "size": 1, **more}
        for number, more in enumerate(items)
    ]
    data = canonical_json({**frame, "manifests": entries})
    index = parse_layout_index(data, where="index.json")
    assert parse_json(index.to_bytes()) == parse_json(data)


def assert_same(one: LayoutIndex, other: LayoutIndex) -> None:
    assert [entry.fields for entry in one.entries] == [entry.fields for entry in other.entries]
    assert [entry.descriptor for entry in one.entries] == [e.descriptor for e in other.entries]
    assert one.tags() == other.tags()
    assert [one.tagged(tag).digest for tag in one.tags()] == [  # type: ignore[union-attr]
        other.tagged(tag).digest
        for tag in other.tags()  # type: ignore[union-attr]
    ]
    assert [e.digest for e in one.manifests()] == [e.digest for e in other.manifests()]
    assert parse_json(one.to_bytes()) == parse_json(other.to_bytes())


@quick
@given(st.text(max_size=10))
def test_layout_index_lists_only_what_can_be_a_tag(name: str) -> None:
    index = EMPTY_INDEX.with_manifest(MANIFESTS[0], (name,))
    again = parse_layout_index(index.to_bytes(), where="index.json")
    assert again.tags() == ([name] if is_valid_tag(name) else [])
    found = again.tagged(name)
    assert found is not None
    assert found.digest == MANIFESTS[0].digest

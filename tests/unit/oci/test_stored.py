from __future__ import annotations

import hashlib
import io
import json

import pytest

from dockercomms.errors import (
    LimitError,
    LocalIOError,
    ManifestInvalid,
    NameInvalid,
    RangeInvalid,
    SizeMismatch,
    Truncated,
)
from dockercomms.oci.content import (
    StoredRange,
    StoredReader,
    check_manifest,
    check_range,
    check_repository,
    open_blob,
    open_range,
    read_facts,
    referrer_entry,
    tag_pages,
)
from dockercomms.oci.interface import TagPage
from dockercomms.oci.model import (
    EMPTY_CONFIG,
    MAX_MANIFEST_BYTES,
    MEDIA_TYPE_INDEX,
    MEDIA_TYPE_MANIFEST,
    MEDIA_TYPE_OCTET_STREAM,
    Descriptor,
    Digest,
    digest_of,
)

BLOB = Descriptor.of(b"twelve bytes", MEDIA_TYPE_OCTET_STREAM)


class BrokenDisk(io.BytesIO):
    def read(self, size: int | None = -1, /) -> bytes:
        raise OSError(5, "Input/output error")


def test_stored_reader_maps_a_failing_disk() -> None:
    with StoredReader(BrokenDisk(b"data"), BLOB) as reader, pytest.raises(LocalIOError):
        reader.read()
    with StoredRange(BrokenDisk(b"data"), BLOB, 3) as part, pytest.raises(LocalIOError):
        part.read()


def test_stored_range_notices_that_the_blob_became_shorter() -> None:
    with (
        StoredRange(io.BytesIO(b"twelve"), BLOB, 12) as part,
        pytest.raises(Truncated, match="6 bytes early"),
    ):
        part.read()


def test_open_blob_closes_what_has_another_size() -> None:
    stream = io.BytesIO(b"twelve bytes")
    with pytest.raises(SizeMismatch, match="11 bytes expected, 12 stored"):
        open_blob(stream, BLOB.digest, 12, 11)
    assert stream.closed


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [(0, None, b"twelve bytes"), (0, 0, b""), (12, 12, b""), (99, 99, b""), (11, 99, b"s")],
)
def test_open_range_cuts(start: int, end: int | None, expected: bytes) -> None:
    stream = io.BytesIO(b"twelve bytes")
    with open_range(stream, BLOB.digest, 12, start, end) as part:
        assert part.read() == expected
    assert stream.closed


def test_open_range_of_an_empty_blob_is_empty() -> None:
    with open_range(io.BytesIO(b""), digest_of(b""), 0, 0, None) as part:
        assert part.read() == b""


@pytest.mark.parametrize(("start", "end"), [(12, None), (12, 13), (13, None), (13, 20)])
def test_open_range_behind_the_end_is_invalid(start: int, end: int | None) -> None:
    stream = io.BytesIO(b"twelve bytes")
    with pytest.raises(RangeInvalid):
        open_range(stream, BLOB.digest, 12, start, end)
    assert stream.closed


def test_check_range_takes_empty_ranges() -> None:
    check_range(0, None)
    check_range(5, 5)
    with pytest.raises(ValueError, match="not a byte range: 5 to 4"):
        check_range(5, 4)


def test_check_repository_refuses_what_is_no_name() -> None:
    check_repository("team/box")
    with pytest.raises(NameInvalid, match="'Team/Box'"):
        check_repository("Team/Box")


def test_read_facts_finds_what_a_manifest_refers_to() -> None:
    layer, subject = (Descriptor.of(name, "text/plain") for name in (b"layer", b"subject"))
    facts = read_facts(
        json.dumps(
            {
                "mediaType": MEDIA_TYPE_MANIFEST,
                "artifactType": "a/b",
                "config": EMPTY_CONFIG.to_json(),
                "layers": [layer.to_json()],
                "subject": subject.to_json(),
                "annotations": {"kept": "yes", "odd": 7},
            }
        ).encode(),
        "it",
    )
    assert facts.media_type == MEDIA_TYPE_MANIFEST
    assert facts.artifact_type == "a/b"
    assert facts.blobs == (EMPTY_CONFIG.digest, layer.digest)
    assert facts.manifests == ()
    assert facts.subject == subject.digest
    assert facts.annotations == {"kept": "yes"}


def test_read_facts_takes_the_config_for_the_artifact_type() -> None:
    facts = read_facts(json.dumps({"config": EMPTY_CONFIG.to_json()}).encode(), "it")
    assert facts.artifact_type == EMPTY_CONFIG.media_type
    assert read_facts(b'{"manifests":[]}', "it").artifact_type is None
    assert read_facts(b'{"config":{"digest":"%s"}}' % BLOB.digest.encode(), "it").blobs == (
        BLOB.digest,
    )


@pytest.mark.parametrize(
    "data",
    [
        b"{}",
        b'{"layers":null}',
        b'{"layers":{}}',
        b'{"subject":null,"config":null}',
        b'{"annotations":[]}',
        b'{"artifactType":7,"mediaType":""}',
        b'{"layers":[null]}',
    ],
)
def test_read_facts_takes_what_says_nothing(data: bytes) -> None:
    facts = read_facts(data, "it")
    assert (facts.media_type, facts.artifact_type, facts.subject) == (None, None, None)
    assert (facts.blobs, facts.manifests, facts.annotations) == ((), (), {})


def test_read_facts_lets_the_last_of_two_equal_keys_win() -> None:
    first, last = (Descriptor.of(name, "text/plain").digest for name in (b"1", b"2"))
    data = f'{{"subject":{{"digest":"{first}"}},"subject":{{"digest":"{last}"}}}}'
    assert read_facts(data.encode(), "it").subject == last


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[]",
        b"7",
        b"[" * 100_000,
        b'{"config":{}}',
        b'{"config":7}',
        b'{"layers":["sha256:1"]}',
        b'{"subject":{"digest":"latest"}}',
        b'{"manifests":[{"digest":null}]}',
    ],
    ids=lambda data: repr(data[:40]),
)
def test_read_facts_refuses(data: bytes) -> None:
    with pytest.raises(ManifestInvalid, match="it: "):
        read_facts(data, "it")


def test_referrer_entry_carries_what_the_manifest_says() -> None:
    facts = read_facts(b'{"artifactType":"a/b","annotations":{"k":"v"}}', "it")
    entry = referrer_entry(BLOB, facts)
    assert (entry.bare(), entry.artifact_type, entry.annotations) == (BLOB, "a/b", {"k": "v"})


def test_check_manifest_refuses_another_media_type_than_its_own() -> None:
    data = json.dumps({"mediaType": MEDIA_TYPE_INDEX}).encode()
    with pytest.raises(ManifestInvalid, match="pushed as"):
        check_manifest(data, MEDIA_TYPE_MANIFEST, tags=(), digest=None, what="it")
    stored, _ = check_manifest(data, MEDIA_TYPE_INDEX, tags=("v1",), digest=None, what="it")
    assert stored == Descriptor.of(data, MEDIA_TYPE_INDEX)


def test_check_manifest_keeps_the_digest_that_was_asked_for() -> None:
    sha512 = Digest("sha512:" + hashlib.sha512(b"{}").hexdigest())
    stored, _ = check_manifest(b"{}", MEDIA_TYPE_MANIFEST, tags=(), digest=sha512, what="it")
    assert stored.digest == sha512


def test_check_manifest_refuses_a_bad_tag_and_a_large_manifest() -> None:
    with pytest.raises(ManifestInvalid, match="not a tag: '-x'"):
        check_manifest(b"{}", MEDIA_TYPE_MANIFEST, tags=("ok", "-x"), digest=None, what="it")
    with pytest.raises(LimitError, match="at most 4194304"):
        check_manifest(
            b" " * (MAX_MANIFEST_BYTES + 1), MEDIA_TYPE_MANIFEST, tags=(), digest=None, what="it"
        )


def test_tag_pages_asks_anew_for_each_page() -> None:
    asked: list[str] = []

    def after(last: str) -> list[str]:
        asked.append(last)
        return [tag for tag in "abcde" if tag > last]

    pages = list(tag_pages(after, "a", 2))
    assert pages == [TagPage(("b", "c"), has_link=True), TagPage(("d", "e"), has_link=False)]
    assert asked == ["a", "c"]


def test_tag_pages_refuses_an_empty_page() -> None:
    with pytest.raises(ValueError, match="a page of 0 tags"):
        list(tag_pages(lambda _: [], None, 0))

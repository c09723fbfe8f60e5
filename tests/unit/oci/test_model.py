from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Mapping

import pytest

from dockercomms.errors import DigestMismatch, ProtocolError, TrailingData, Truncated
from dockercomms.oci.content import VerifyingReader
from dockercomms.oci.model import (
    EMPTY_CONFIG,
    EMPTY_CONFIG_BYTES,
    MEDIA_TYPE_DOCKER_LIST,
    MEDIA_TYPE_DOCKER_MANIFEST,
    MEDIA_TYPE_INDEX,
    MEDIA_TYPE_MANIFEST,
    READ_BYTES,
    Descriptor,
    Digest,
    Index,
    Platform,
    digest_of,
    matches,
    parse_digest,
    parse_index,
    parse_manifest,
    sorted_annotations,
)
from dockercomms.oci.strict_json import MAX_JSON_DEPTH, canonical_json, parse_json

LAYER = Descriptor.of(b"layer", "application/vnd.example.layer")


def fields(**changes: object) -> bytes:
    """Return a manifest with `changes`; a change of ... takes the member away."""
    whole: dict[str, object] = {
        "schemaVersion": 2,
        "mediaType": MEDIA_TYPE_MANIFEST,
        "artifactType": "application/vnd.example.v1",
        "config": EMPTY_CONFIG.to_json(),
        "layers": [LAYER.to_json()],
        "subject": LAYER.to_json(),
        "annotations": {"a": "b"},
    }
    whole.update(changes)
    return json.dumps({key: value for key, value in whole.items() if value is not ...}).encode()


def test_parse_digest_takes_three_algorithms() -> None:
    for algorithm, digits in (("sha256", 64), ("sha384", 96), ("sha512", 128)):
        text = f"{algorithm}:{'0a' * (digits // 2)}"
        assert parse_digest(text) == text
        for wrong in (text[:-1], text + "0", text.upper(), f"md5:{text}", text + "\n"):
            with pytest.raises(ProtocolError, match="not a digest"):
                parse_digest(wrong)


def test_digest_of_and_matches_agree() -> None:
    assert matches(b"data", digest_of(b"data"))
    assert not matches(b"Data", digest_of(b"data"))
    assert matches(b"data", Digest("sha512:" + hashlib.sha512(b"data").hexdigest()))


def test_platform_prints_what_it_has() -> None:
    assert str(Platform("linux", "arm64", "v8")) == "linux/arm64/v8"
    assert str(Platform("linux", "amd64")) == "linux/amd64"


@pytest.mark.parametrize(
    "platform",
    [
        Platform("linux", "amd64"),
        Platform("windows", "amd64", os_version="10.0", os_features=("win32k",)),
        Platform("linux", "arm", "v7"),
    ],
)
def test_platform_reads_what_it_writes(platform: Platform) -> None:
    assert Platform.from_json(platform.to_json(), "here") == platform


def test_platform_keeps_the_order_of_the_go_types() -> None:
    platform = Platform("windows", "arm64", "v8", "10.0", ("a", "b"))
    assert list(platform.to_json()) == [
        "architecture",
        "os",
        "os.version",
        "os.features",
        "variant",
    ]


@pytest.mark.parametrize(
    "value", [[], "linux", {"os": 1}, {"os.features": ["a", 1]}, {"os.features": "a"}]
)
def test_platform_of_another_shape_is_refused(value: object) -> None:
    with pytest.raises(ProtocolError, match="here"):
        Platform.from_json(value, "here")


def test_descriptor_of_bytes() -> None:
    made = Descriptor.of(b"data", "text/plain", annotations={"k": "v"}, artifact_type="a/b")
    assert (made.digest, made.size, made.media_type) == (digest_of(b"data"), 4, "text/plain")
    assert made.annotations == {"k": "v"}
    assert made.artifact_type == "a/b"
    assert made.bare() == Descriptor.of(b"data", "text/plain")


@pytest.mark.parametrize(
    "wrong", [{"digest": "sha256:1"}, {"size": -1}, {"size": True}, {"media_type": ""}], ids=str
)
def test_descriptor_that_is_none_cannot_be_made(wrong: dict[str, object]) -> None:
    parts = {"media_type": "text/plain", "digest": digest_of(b""), "size": 0, **wrong}
    with pytest.raises(ProtocolError):
        Descriptor(**parts)  # type: ignore[arg-type]


def test_descriptor_can_be_hashed() -> None:
    assert len({LAYER, LAYER.bare(), Descriptor.of(b"layer", LAYER.media_type)}) == 1


def test_descriptor_writes_its_members_in_order() -> None:
    full = Descriptor(
        media_type="text/plain",
        digest=digest_of(b"data"),
        size=4,
        annotations={"b": "2", "a": "1"},
        data=b"data",
        platform=Platform("linux", "amd64"),
        artifact_type="a/b",
    )
    written = full.to_json()
    assert list(written) == [
        "mediaType",
        "digest",
        "size",
        "annotations",
        "data",
        "platform",
        "artifactType",
    ]
    assert list(written["annotations"]) == ["a", "b"]  # type: ignore[call-overload]
    assert Descriptor.from_json(written, "here") == full
    assert list(LAYER.to_json()) == ["mediaType", "digest", "size"]


def test_descriptor_inline_gives_data_only_if_it_is_the_content() -> None:
    assert LAYER.inline() is None
    right = Descriptor.from_json({**LAYER.to_json(), "data": "bGF5ZXI="}, "here")
    assert right.inline() == b"layer"
    for other in (b"Layer", b"layer and more"):
        text = base64.b64encode(other).decode()
        wrong = Descriptor.from_json({**LAYER.to_json(), "data": text}, "here")
        with pytest.raises(DigestMismatch, match="has another digest"):
            wrong.inline()


@pytest.mark.parametrize(
    "change",
    [
        {"mediaType": ...},
        {"mediaType": 7},
        {"mediaType": ""},
        {"digest": ...},
        {"digest": "latest"},
        {"digest": None},
        {"size": ...},
        {"size": "4"},
        {"size": 4.0},
        {"size": True},
        {"size": -1},
        {"annotations": []},
        {"annotations": {"k": 1}},
        {"data": "no base64!"},
        {"data": 1},
        {"platform": "linux"},
        {"artifactType": 1},
        {"MEDIATYPE": "text/plain"},
        {"Digest": "x"},
    ],
    ids=str,
)
def test_descriptor_of_another_shape_is_refused(change: Mapping[str, object]) -> None:
    value = {**LAYER.to_json(), **change}
    value = {key: item for key, item in value.items() if item is not ...}
    with pytest.raises(ProtocolError):
        Descriptor.from_json(value, "here")


def test_descriptor_members_that_are_null_are_absent() -> None:
    nothing = dict.fromkeys(("annotations", "data", "platform", "artifactType"))
    assert Descriptor.from_json({**LAYER.to_json(), **nothing}, "here") == LAYER


def test_annotation_that_is_null_is_empty() -> None:
    value = {**LAYER.to_json(), "annotations": {"a": None, "b": "x"}}
    assert Descriptor.from_json(value, "here").annotations == {"a": "", "b": "x"}


def test_descriptor_ignores_members_it_does_not_know() -> None:
    assert Descriptor.from_json({**LAYER.to_json(), "urls": ["https://x"], "x": 1}, "h") == LAYER


@pytest.mark.parametrize("value", [None, [], "text", 7, True])
def test_descriptor_that_is_no_object_is_refused(value: object) -> None:
    with pytest.raises(ProtocolError, match="here: a JSON object expected"):
        Descriptor.from_json(value, "here")


def test_empty_config_is_that_of_the_specification() -> None:
    assert EMPTY_CONFIG == Descriptor.of(EMPTY_CONFIG_BYTES, EMPTY_CONFIG.media_type)


def test_parse_manifest_reads_every_member() -> None:
    manifest = parse_manifest(fields())
    assert manifest.config == EMPTY_CONFIG
    assert manifest.layers == (LAYER,)
    assert manifest.subject == LAYER
    assert manifest.artifact_type == "application/vnd.example.v1"
    assert manifest.annotations == {"a": "b"}
    assert manifest.media_type == MEDIA_TYPE_MANIFEST


@pytest.mark.parametrize("layers", [..., None, []])
def test_parse_manifest_takes_no_layers_in_three_forms(layers: object) -> None:
    assert parse_manifest(fields(layers=layers)).layers == ()


def test_parse_manifest_takes_what_may_be_absent() -> None:
    manifest = parse_manifest(fields(mediaType=..., artifactType=..., subject=..., annotations=...))
    assert (manifest.media_type, manifest.artifact_type) == (None, None)
    assert manifest.subject is None
    assert manifest.annotations == {}
    assert parse_manifest(fields(mediaType=MEDIA_TYPE_DOCKER_MANIFEST)).layers == (LAYER,)
    assert parse_manifest(fields(subject=None, unknown=[1])).subject is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        fields(config=...),
        fields(config=[]),
        fields(schemaVersion=...),
        fields(schemaVersion=1),
        fields(schemaVersion=True),
        fields(schemaVersion="2"),
        fields(mediaType=MEDIA_TYPE_INDEX),
        fields(mediaType=2),
        fields(manifests=[]),
        fields(layers={}),
        fields(layers=["x"]),
        fields(layers=[{}]),
        fields(subject={}),
        fields(annotations={"a": 1}),
        fields(artifactType=1),
        fields(LAYERS=[]),
        fields(Config={}),
    ],
    ids=lambda data: data.decode()[:40],
)
def test_parse_manifest_refuses(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="here"):
        parse_manifest(data, where="here")


def test_parse_manifest_names_the_layer_that_is_wrong() -> None:
    with pytest.raises(ProtocolError, match="layer 1"):
        parse_manifest(fields(layers=[LAYER.to_json(), {}]))


def test_index_reads_what_it_writes() -> None:
    index = Index(
        manifests=(LAYER, EMPTY_CONFIG),
        artifact_type="a/b",
        subject=LAYER,
        annotations={"b": "<&>", "a": "é"},
    )
    data = index.to_bytes()
    assert parse_index(data) == index
    assert list(json.loads(data)) == [
        "schemaVersion",
        "mediaType",
        "artifactType",
        "manifests",
        "subject",
        "annotations",
    ]
    empty = Index().to_bytes()
    assert empty == (
        b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}'
    )
    assert parse_index(empty) == Index()


def test_parse_index_takes_what_may_be_absent() -> None:
    assert parse_index(b'{"schemaVersion":2,"manifests":null}') == Index(media_type=None)
    docker = {"schemaVersion": 2, "mediaType": MEDIA_TYPE_DOCKER_LIST, "manifests": []}
    assert parse_index(json.dumps(docker).encode()).media_type == MEDIA_TYPE_DOCKER_LIST
    assert Index(media_type=None).to_bytes() == Index().to_bytes()


@pytest.mark.parametrize(
    "data",
    [
        b"{}",
        b"[]",
        b'{"schemaVersion":2}',
        b'{"schemaVersion":1,"manifests":[]}',
        b'{"schemaVersion":2,"manifests":{}}',
        b'{"schemaVersion":2,"manifests":[],"Manifests":[]}',
        b'{"schemaVersion":2,"manifests":[],"mediaType":"application/json"}',
        b'{"schemaVersion":2,"manifests":[{}]}',
    ],
)
def test_parse_index_refuses(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="here"):
        parse_index(data, where="here")


@pytest.mark.parametrize(
    "data",
    [
        b"{",
        b"",
        b"\xff",
        b"\xef\xbb\xbf{}",
        b"NaN",
        b"[Infinity]",
        b'{"a":1,"a":1}',
        b'{"x":{"a":1,"b":2,"a":3}}',
        b"[1,]",
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
    ids=lambda data: repr(data[:20]),
)
def test_parse_json_is_strict(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="here: not valid JSON"):
        parse_json(data, where="here")


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_parse_json_bounds_nesting(opening: bytes, closing: bytes) -> None:
    deepest = opening * MAX_JSON_DEPTH + b"1" + closing * MAX_JSON_DEPTH
    if opening == b"[":
        assert canonical_json(parse_json(deepest)) == deepest
    parse_json(b'["[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["]')
    with pytest.raises(ProtocolError, match="deeper than 64"):
        parse_json(b"[" + deepest + b"]")


@pytest.mark.parametrize(
    "data",
    [
        rb'"\ud800"',
        rb'{"a":["\uDFFFx"]}',
        rb'{"\udc80":1}',
        rb'"\udbff\ud800\udc00"',
        rb'["\uD83D"]',
    ],
)
def test_parse_json_refuses_half_a_surrogate_pair(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="here: a lone surrogate"):
        parse_json(data, where="here")


def test_parse_json_takes_whole_pairs_and_what_only_looks_like_half_of_one() -> None:
    assert parse_json(rb'"\ud83d\ude00"') == "\U0001f600"
    assert parse_json(rb'"\\ud800"') == r"\ud800"


@pytest.mark.parametrize(
    "number", [b"18446744073709551616", b"-9223372036854775809", b"1e999", b"-1e309", b"1" * 5000]
)
def test_parse_json_refuses_numbers_of_more_than_64_bits(number: bytes) -> None:
    with pytest.raises(ProtocolError, match="not valid JSON"):
        parse_json(b'{"size":' + number + b"}")


def test_parse_json_takes_every_number_of_64_bits() -> None:
    data = b"[18446744073709551615,-9223372036854775808,1.5,0]"
    assert parse_json(data) == [2**64 - 1, -(2**63), 1.5, 0]


@pytest.mark.parametrize("data", ["ü", "\u00e4AAA", "AA==\uff1d", "A", "AA=A", "a b=", 7, ["AA=="]])
def test_descriptor_refuses_data_that_is_not_base64(data: object) -> None:
    value = {"mediaType": "text/plain", "digest": "sha256:" + "a" * 64, "size": 1, "data": data}
    with pytest.raises(ProtocolError, match="it: data"):
        Descriptor.from_json(value, "it")


@pytest.mark.parametrize("size", [2**63, 2**64 - 1, -1, True, 1.0, None])
def test_descriptor_refuses_a_size_that_no_reader_can_hold(size: object) -> None:
    with pytest.raises(ProtocolError, match="size"):
        Descriptor.from_json(
            {"mediaType": "text/plain", "digest": "sha256:" + "a" * 64, "size": size}, "it"
        )


def test_canonical_json_escapes_like_go() -> None:
    value = {"b": '<a href="x">&\u2028\u2029\x7fé\ud800', "a": [1, None, True]}
    assert (
        canonical_json(value)
        == (
            '{"b":"\\u003ca href=\\"x\\"\\u003e\\u0026\\u2028\\u2029\x7fé\\ufffd","a":[1,null,true]}'
        ).encode()
    )


def test_sorted_annotations_are_in_order_of_their_bytes() -> None:
    # U+FFFD sorts before U+10000 as UTF-8, and behind it as UTF-16.
    assert list(sorted_annotations({"\U00010000": "", "\ufffd": "", "b": "", "B": ""})) == [
        "B",
        "b",
        "\ufffd",
        "\U00010000",
    ]


class Stream:
    """A stream that gives at most `step` bytes at once, whatever is asked for."""

    def __init__(self, data: bytes, step: int) -> None:
        self._inner = io.BytesIO(data)
        self._step = step
        self.taken = 0

    def read(self, size: int = -1, /) -> bytes:
        data = self._inner.read(min(size, self._step))
        self.taken += len(data)
        return data


def reader(promised: bytes, given: bytes, step: int = 7) -> tuple[VerifyingReader, Stream]:
    stream = Stream(given, step)
    return VerifyingReader(stream, Descriptor.of(promised, "text/plain"), what="it"), stream


def read_out(checked: VerifyingReader, ask: int) -> bytes:
    return b"".join(iter(lambda: checked.read(ask), b""))


@pytest.mark.parametrize("size", [0, 1, 6, 7, 8, 1000])
@pytest.mark.parametrize("ask", [1, 7, 1000, -1])
def test_verifying_reader_gives_what_was_promised(size: int, ask: int) -> None:
    data = bytes(size % 251 for size in range(size))
    checked, _ = reader(data, data)
    assert read_out(checked, ask) == data
    assert checked.read(ask) == b""
    assert checked.read() == b""


def test_verifying_reader_read_of_nothing_checks_nothing() -> None:
    checked, stream = reader(b"data", b"")
    assert checked.read(0) == b""
    assert stream.taken == 0


def test_verifying_reader_iterates_in_pieces() -> None:
    data = bytes(READ_BYTES + 5)
    checked, _ = reader(data, data, step=READ_BYTES)
    assert [len(piece) for piece in checked] == [READ_BYTES, 5]


@pytest.mark.parametrize("ask", [3, 100, -1])
def test_verifying_reader_notices_an_early_end(ask: int) -> None:
    checked, _ = reader(b"twelve bytes", b"twelve")
    with pytest.raises(Truncated, match="it: 12 bytes expected, 6 received"):
        read_out(checked, ask)


@pytest.mark.parametrize("ask", [3, 100, -1])
def test_verifying_reader_notices_a_late_end_and_takes_one_byte_of_it(ask: int) -> None:
    checked, stream = reader(b"twelve", b"twelve bytes" * 100)
    with pytest.raises(TrailingData, match="it: more than 6 bytes received"):
        read_out(checked, ask)
    assert stream.taken <= 7


def test_verifying_reader_holds_the_last_bytes_back_until_they_are_proven() -> None:
    checked, _ = reader(b"right bytes", b"wrong bytes", step=100)
    assert checked.read(10) == b"wrong byte"
    with pytest.raises(DigestMismatch, match=r"it: sha256:[0-9a-f]{64} expected, sha256:"):
        checked.read(10)
    with pytest.raises(DigestMismatch):
        checked.read(10)


def test_verifying_reader_notices_a_stream_that_gives_more_than_asked_for() -> None:
    class Generous:
        def read(self, size: int = -1, /) -> bytes:
            return b"x" * (size + 1)

    checked = VerifyingReader(Generous(), Descriptor.of(b"data", "text/plain"))
    with pytest.raises(TrailingData, match="sha256:"):
        checked.read()


def test_verifying_reader_proves_an_empty_promise() -> None:
    with pytest.raises(TrailingData):
        reader(b"", b"x")[0].read()
    wrong = Descriptor(media_type="text/plain", digest=digest_of(b"x"), size=0)
    with pytest.raises(DigestMismatch):
        VerifyingReader(io.BytesIO(b""), wrong).read()


def test_verifying_reader_uses_the_algorithm_of_the_digest() -> None:
    digest = Digest("sha512:" + hashlib.sha512(b"data").hexdigest())
    descriptor = Descriptor(media_type="text/plain", digest=digest, size=4)
    assert VerifyingReader(io.BytesIO(b"data"), descriptor).read() == b"data"

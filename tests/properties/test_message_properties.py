"""Properties of every payload, layer, header and tree."""

from __future__ import annotations

import io
import os
import tempfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from dockercomms.errors import ProtocolError
from dockercomms.oci.memory import MemoryRegistry
from dockercomms.oci.model import EMPTY_CONFIG, EMPTY_CONFIG_BYTES, Descriptor, Digest
from dockercomms.protocol.header import (
    CHUNK_INDEX,
    CHUNK_MEDIA_TYPES,
    CHUNK_SIZE,
    MAX_FILENAME_BYTES,
    MessageHeader,
)
from dockercomms.protocol.manifest import ManifestBuilder, parse_message
from dockercomms.protocol.tags import message_tag, recipient_tag
from dockercomms.transport.chunks import Chunk, join, split
from dockercomms.transport.files import pack_files, plan_files
from dockercomms.transport.layer import decode, encode
from dockercomms.transport.names import collision_key, safe_component, safe_filename
from dockercomms.transport.payload import payload_of
from dockercomms.transport.pull import pull_payload
from dockercomms.transport.push import push_payload
from dockercomms.transport.unpack import unpack_files
from tests.fakes.examples import examples
from tests.reader10 import read10
from tests.unit.transport.stores import LyingRegistry, message_of

FAST = settings(
    max_examples=examples(60),
    suppress_health_check=[HealthCheck.too_slow],
    database=None,
)
COMPRESSIONS = st.sampled_from(["zstd", "gzip"])
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
NAMES = TEXT.filter(lambda name: name and "\0" not in name and len(name.encode()) <= 200)
MOMENTS = st.datetimes(
    min_value=datetime(1970, 1, 1),
    max_value=datetime(9000, 1, 1),
    timezones=st.just(UTC),
).map(lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000))
DIGESTS = st.binary(min_size=32, max_size=32).map(lambda raw: Digest("sha256:" + raw.hex()))


def encoded(data: bytes, index: int, compression) -> bytes:
    return bytes(encode(Chunk.of(data), index, compression).content)


@FAST
@given(st.binary(max_size=3000), st.integers(1, 1000))
def test_join_undoes_split(data, chunk_bytes):
    chunks = list(split(io.BytesIO(data), chunk_bytes))
    assert all(chunk.size == chunk_bytes for chunk in chunks[:-1])
    sink = io.BytesIO()
    join((chunk.data for chunk in chunks), sink)
    assert sink.getvalue() == data


@FAST
@given(st.binary(max_size=3000), st.integers(0, 9999), COMPRESSIONS)
def test_decode_undoes_encode(data, index, compression):
    layer = io.BytesIO(encoded(data, index, compression))
    pieces = decode(layer, compression, index, limit=len(data), exact=True)
    assert b"".join(pieces) == data


@FAST
@given(st.binary(max_size=200), COMPRESSIONS, st.integers(0, 2**20), st.integers(1, 255))
def test_decode_of_a_changed_layer_gives_the_same_or_nothing(data, compression, place, change):
    layer = bytearray(encoded(data, 0, compression))
    layer[place % len(layer)] ^= change
    # Some bits carry no content (a gzip header's time and system); everything else is caught.
    try:
        pieces = list(decode(io.BytesIO(layer), compression, 0, limit=len(data), exact=True))
    except ProtocolError:
        return
    assert b"".join(pieces) == data


@FAST
@given(
    st.binary(min_size=1, max_size=5000), COMPRESSIONS, st.integers(0, 2**20), st.integers(1, 255)
)
def test_pull_of_a_changed_layer_fails(data, compression, place, change):
    def changed(layer: bytes) -> bytes:
        at = place % len(layer)
        return layer[:at] + bytes([layer[at] ^ change]) + layer[at + 1 :]

    registry = LyingRegistry(changed)
    payload = payload_of([Path("-")], name="n", stdin=io.BytesIO(data))
    pushed = push_payload(registry, "mail", payload, compress=compression)
    layers = tuple(replace(layer, data=None) for layer in pushed.layers)  # the blobs alone
    with pytest.raises(ProtocolError):
        pull_payload(registry, "mail", message_of(replace(pushed, layers=layers)), io.BytesIO())


def pushed_to(registry, data, **options):
    """Push standard input; an empty one is refused, so then an empty file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path("-") if data else Path(folder, "n")
        if not data:
            path.touch()
        payload = payload_of([path], name="n", stdin=io.BytesIO(data))
        return push_payload(registry, "mail", payload, **options)


@FAST
@given(st.binary(max_size=5000), COMPRESSIONS, st.integers(1, 2000), st.integers(1, 5))
def test_pull_undoes_push(data, compression, chunk_bytes, concurrency):
    registry = MemoryRegistry()
    pushed = pushed_to(
        registry, data, compress=compression, chunk_bytes=chunk_bytes, concurrency=concurrency
    )
    for version in ("1.1", "1.0"):
        sink = io.BytesIO()
        pull_payload(registry, "mail", message_of(pushed, version=version), sink)
        assert sink.getvalue() == data


@FAST
@given(st.binary(max_size=3000), COMPRESSIONS, st.integers(1, 2000), NAMES)
def test_reader10_receives_what_we_send(data, compression, chunk_bytes, name):
    registry = MemoryRegistry()
    pushed = pushed_to(registry, data, compress=compression, chunk_bytes=chunk_bytes)
    registry.push_blob("mail", EMPTY_CONFIG, lambda: io.BytesIO(EMPTY_CONFIG_BYTES))
    message = message_of(pushed, filename=name)
    manifest, descriptor = ManifestBuilder.message(
        message.header.to_annotations(), [chunk.descriptor for chunk in message.chunks]
    ).build()
    tag = message_tag(recipient_tag("bob"), datetime(2026, 11, 20, tzinfo=UTC), descriptor.digest)
    registry.push_manifest("mail", manifest, descriptor.media_type, tags=[tag])
    with tempfile.TemporaryDirectory() as out:
        result = read10(registry, "mail", "bob", Path(out))
        assert (result.exit, result.text) == (0, "")
        assert [path.read_bytes() for path in result.delivered] == [data]


@st.composite
def headers(draw) -> MessageHeader:
    optional = {
        "filename_full": TEXT,
        "content_type": TEXT,
        "title": TEXT,
        "text": TEXT,
        "session_id": TEXT,
        "thread_id": TEXT,
        "in_reply_to": DIGESTS,
        "expires_at": MOMENTS,
        "audience": TEXT,
        "encryption": TEXT,
        "files_count": st.integers(0, 100_000),
    }
    total = draw(st.integers(0, 10_000))
    return MessageHeader(
        id=str(draw(st.uuids())),
        sender=draw(TEXT),
        recipient=draw(TEXT),
        created_at=draw(MOMENTS),
        ttl_seconds=draw(st.integers(1, 10**12)),
        filename=draw(NAMES.filter(lambda name: len(name.encode()) <= MAX_FILENAME_BYTES)),
        total_bytes=total,
        chunk_bytes=max(1, total),
        chunk_count=1,
        compression=draw(COMPRESSIONS),
        payload_digest=draw(DIGESTS),
        critical=tuple(draw(st.lists(st.sampled_from(["dockercomms.title", CHUNK_SIZE])))),
        **{key: draw(st.none() | values) for key, values in optional.items()},
    )


@FAST
@given(headers(), DIGESTS)
def test_parse_undoes_build(header, digest):
    layer = Descriptor(
        media_type=CHUNK_MEDIA_TYPES[header.compression],
        digest=digest,
        size=100,
        annotations={CHUNK_INDEX: "0", CHUNK_SIZE: str(header.total_bytes)},
    )
    data, descriptor = ManifestBuilder.message(header.to_annotations(), [layer]).build()
    message = parse_message(data)
    assert message.header == header
    assert message.descriptor == descriptor
    assert [chunk.descriptor for chunk in message.chunks] == [layer]


@FAST
@given(headers(), st.integers(0, 2**20), st.integers(1, 255))
def test_changed_manifest_has_another_digest_or_is_refused(header, place, change):
    layer = Descriptor(
        media_type=CHUNK_MEDIA_TYPES[header.compression],
        digest=Digest("sha256:" + "0" * 64),
        size=100,
        annotations={CHUNK_INDEX: "0", CHUNK_SIZE: str(header.total_bytes)},
    )
    data, descriptor = ManifestBuilder.message(header.to_annotations(), [layer]).build()
    changed = bytearray(data)
    changed[place % len(data)] ^= change
    try:
        message = parse_message(bytes(changed))
    except ProtocolError:
        return
    assert message.digest != descriptor.digest


COMPONENTS = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Cf", "Zl", "Zp"], exclude_characters="/\\"),
    min_size=1,
    max_size=20,
).filter(lambda name: safe_component(name) == name and len(name.encode()) <= 60)
TREES = st.recursive(
    st.binary(max_size=1500) | st.tuples(st.just("run"), st.binary(max_size=10)),
    lambda inner: st.dictionaries(COMPONENTS, inner, max_size=4),
    max_leaves=10,
)


def write_tree(place: Path, tree) -> None:
    if isinstance(tree, dict):
        place.mkdir()
        for name, inner in tree.items():
            write_tree(place / name, inner)
    elif isinstance(tree, tuple):
        place.write_bytes(tree[1])
        place.chmod(0o755)
    else:
        place.write_bytes(tree)


def read_tree(place: Path):
    if place.is_dir():
        return {inner.name: read_tree(inner) for inner in place.iterdir()}
    if place.stat().st_mode & 0o100:
        return ("run", place.read_bytes())
    return place.read_bytes()


def collides(tree) -> bool:
    if not isinstance(tree, dict):
        return False
    keys = {collision_key(name) for name in tree}
    return len(keys) < len(tree) or any(map(collides, tree.values()))


@FAST
@given(COMPONENTS, TREES)
def test_unpack_undoes_pack(name, tree):
    assume(safe_filename(name) == name and not collides(tree))
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "source"), Path(folder, "target")
        source.mkdir()
        target.mkdir()
        write_tree(source / name, tree)
        plan = plan_files([source / name])
        data = b"".join(pack_files(plan))
        assert len(data) == plan.total_bytes
        unpack_files(io.BytesIO(data), target)
        assert os.listdir(target) == [name]
        assert read_tree(target / name) == tree


@FAST
@given(st.binary(max_size=600), st.integers(0, 2**20), st.integers(1, 255))
def test_unpack_of_a_changed_tar_stays_inside_or_fails(content, place, change):
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "source"), Path(folder, "deep", "target")
        write_tree(source, {"f": content, "d": {"g": b""}})
        data = bytearray(b"".join(pack_files(plan_files([source]))))
        data[place % len(data)] ^= change
        target.mkdir(parents=True)
        try:
            unpack_files(io.BytesIO(data), target)
        except ProtocolError:
            pass
        assert sorted(os.listdir(folder)) == ["deep", "source"]
        assert os.listdir(Path(folder, "deep")) == ["target"]


@FAST
@given(MOMENTS, DIGESTS)
def test_message_tag_sorts_by_its_moment(moment, digest):
    earlier = moment - timedelta(milliseconds=1)
    assume(earlier.year >= 1000)
    assert message_tag("r" * 26, earlier, digest) < message_tag("r" * 26, moment, digest)

"""Manifests: what the vectors do not say."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest

from dockercomms.errors import LimitError, ProtocolError
from dockercomms.oci.model import EMPTY_CONFIG, MAX_MANIFEST_BYTES, Descriptor, digest_of
from dockercomms.protocol import header as protocol
from dockercomms.protocol.manifest import (
    ChunkLayer,
    ManifestBuilder,
    max_layer_bytes,
    parse_anchor,
    parse_message,
    parse_receipt,
)
from tests.unit.protocol.test_header import header

LAYER = Descriptor(
    media_type=protocol.MEDIA_TYPE_CHUNK_ZSTD,
    digest=digest_of(b"layer"),
    size=93,
    annotations={protocol.CHUNK_INDEX: "0", protocol.CHUNK_SIZE: "5"},
)


def test_message_comes_back_from_its_bytes():
    anchor = ManifestBuilder.inbox_anchor("a" * 26, date(2026, 11, 20)).build()[1]
    data, descriptor = ManifestBuilder.message(
        header().to_annotations(), [LAYER], subject=anchor
    ).build()
    message = parse_message(data)
    assert message.header == header()
    assert message.descriptor == descriptor
    assert message.digest == digest_of(data)
    assert message.subject == anchor.bare()
    assert message.chunks == (ChunkLayer(LAYER, 0, 5),)


def test_message_chunks_are_in_the_order_of_their_indexes():
    layers = [
        replace(LAYER, annotations={protocol.CHUNK_INDEX: str(index), protocol.CHUNK_SIZE: "1"})
        for index in (2, 0, 1)
    ]
    made = header(total_bytes=3, chunk_count=3)
    data, _ = ManifestBuilder.message(made.to_annotations(), layers).build()
    assert [chunk.index for chunk in parse_message(data).chunks] == [0, 1, 2]


def test_message_keeps_small_content_in_its_descriptor():
    layer = replace(LAYER, data=b"layer", size=5)
    data, _ = ManifestBuilder.message(header().to_annotations(), [layer]).build()
    assert parse_message(data).chunks[0].descriptor.inline() == b"layer"


@pytest.mark.parametrize("layers", [None, [], [EMPTY_CONFIG], [LAYER, EMPTY_CONFIG]])
def test_message_without_chunks_is_never_built(layers):
    with pytest.raises(ProtocolError, match="empty descriptor"):
        ManifestBuilder.message(header().to_annotations(), layers).build()


def test_manifest_that_registries_refuse_is_never_built():
    layers = [LAYER] * 14_000
    with pytest.raises(LimitError, match="at most 3145728"):
        ManifestBuilder.message({}, layers).build()
    assert ManifestBuilder.message({}, layers).build(compat=True)


def test_manifest_of_ten_thousand_chunks_fits():
    layers = [
        replace(
            LAYER,
            size=2**40,
            annotations={protocol.CHUNK_INDEX: str(index), protocol.CHUNK_SIZE: str(2**30)},
        )
        for index in range(10_000)
    ]
    annotations = header(total_bytes=10_000 * 2**30).to_annotations()
    data, _ = ManifestBuilder.message(annotations, layers).build()
    assert len(data) < protocol.MAX_SENT_MANIFEST_BYTES


def test_manifest_above_four_mib_is_not_read():
    with pytest.raises(ProtocolError, match="at most 4194304"):
        parse_message(b" " * (MAX_MANIFEST_BYTES + 1))


def test_receipt_has_the_empty_layer_and_gives_none_back():
    message = ManifestBuilder.message(header().to_annotations(), [LAYER]).build()[1]
    annotations = {
        protocol.VERSION: "1.1",
        protocol.RECEIPT_FOR: message.digest,
        protocol.RECEIPT_STATUS: "accepted",
    }
    data, _ = ManifestBuilder.receipt(annotations, subject=message).build()
    assert b'"layers":[{"mediaType":"application/vnd.oci.empty.v1+json"' in data
    receipt = parse_receipt(data)
    assert receipt.layers == ()
    assert receipt.message == message.digest
    assert not receipt.verified
    assert receipt.created_at is None


def test_receipt_of_1_0_at_no_time_is_read():
    annotations = {
        protocol.VERSION: "1.0",
        protocol.RECEIPT_FOR: LAYER.digest,
        protocol.RECEIPT_STATUS: "accepted",
        protocol.CREATED_AT: "yesterday",
    }
    data, _ = ManifestBuilder.receipt(annotations).build(compat=True)
    assert parse_receipt(data).created_at is None


def test_receipts_anchor_has_its_kind():
    data, _ = ManifestBuilder.inbox_anchor("a" * 26, date(2026, 1, 2), "receipts").build()
    assert parse_anchor(data).kind == "receipts"


@pytest.mark.parametrize(
    ("chunk_bytes", "total", "bound"), [(0, 7, 7), (-1, 7, 7), (3, 7, 3), (9, 7, 7)]
)
def test_chunk_of_1_0_is_bounded_by_the_size_of_chunks_or_else_the_total(chunk_bytes, total, bound):
    chunk = ChunkLayer(LAYER, 0, None)
    assert chunk.bound(header(chunk_bytes=chunk_bytes, total_bytes=total)) == bound


def test_chunk_that_says_its_size_is_bounded_by_it():
    assert ChunkLayer(LAYER, 0, 2).bound(header()) == 2


def test_layer_may_be_somewhat_larger_than_its_chunk():
    assert max_layer_bytes(0) == 65_536
    assert max_layer_bytes(2**20) == 2**20 + 2**18 + 65_536

"""The manifests of the 1.0 program's own builder, byte for byte."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dockercomms.errors import ProtocolError
from dockercomms.oci.model import Descriptor, digest_of
from dockercomms.protocol.manifest import ManifestBuilder, parse_bundle

ROWS = json.loads(
    (Path(__file__).parents[2] / "spec/vectors/seeds/dockercomms_manifests.json").read_text("utf-8")
)
WITHOUT_MEDIA_TYPE = "layer without media type"


def descriptor(value: dict | None, name: str) -> Descriptor | None:
    if value is None:
        return None
    if name == WITHOUT_MEDIA_TYPE:  # which no Descriptor can be; see the test below
        made = object.__new__(Descriptor)
        fields = {"media_type": value["mediaType"], "digest": value["digest"]}
        fields |= {"size": value["size"], "annotations": {}, "data": None}
        for key, item in (fields | {"platform": None, "artifact_type": None}).items():
            object.__setattr__(made, key, item)
        return made
    return Descriptor.from_json(value, name)


def builder(row: dict) -> ManifestBuilder:
    annotations = dict(row["annotations"] or {})
    if "bad" in annotations:  # bytes that are no UTF-8, which the row's own JSON could not hold
        annotations["bad"] = "\udcff\udcfe"
    layers = row["layers"]
    layers = None if layers is None else [descriptor(item, row["name"]) for item in layers]
    subject = descriptor(row.get("subject"), row["name"])
    if row["kind"] == "message":
        return ManifestBuilder.message(annotations, layers, subject=subject)
    if row["kind"] == "receipt":
        return ManifestBuilder.receipt(annotations, layers=layers, subject=subject)
    return ManifestBuilder.bundle(subject, annotations, layers[0])


def test_rows_are_all_there():
    assert len(ROWS) == 14
    assert {key for row in ROWS for key in row} <= {
        "name", "kind", "annotations", "layers", "subject", "manifest_bytes", "descriptor",
    }  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["name"])
def test_builder_gives_the_bytes_of_the_1_0_program(row):
    data, made = builder(row).build(compat=True)
    assert data == row["manifest_bytes"].encode("utf-8")
    assert {
        "mediaType": made.media_type,
        "digest": made.digest,
        "size": made.size,
    } == row["descriptor"]


def test_descriptor_without_media_type_cannot_be_made_by_accident():
    row = next(row for row in ROWS if row["name"] == WITHOUT_MEDIA_TYPE)
    with pytest.raises(ProtocolError):
        Descriptor.from_json(row["layers"][0], "layer")


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row["kind"] == "bundle"], ids=lambda row: row["name"]
)
def test_bundle_of_1_0_is_read(row):
    data = row["manifest_bytes"].encode("utf-8")
    bundle = parse_bundle(data)
    assert bundle.descriptor.digest == digest_of(data)
    assert bundle.subject.digest == row["subject"]["digest"]
    assert bundle.layer.digest == row["layers"][0]["digest"]

"""The schemas of manifests: strict for what is written, lenient for what is read."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from jsonschema import Draft202012Validator

from dockercomms.oci.model import Descriptor, Digest
from dockercomms.protocol.header import CHUNK_INDEX, CHUNK_MEDIA_TYPES, CHUNK_SIZE
from dockercomms.protocol.manifest import ManifestBuilder
from tests.properties.test_message_properties import DIGESTS, FAST, headers
from tests.vectors import go_v1

SPEC = Path(__file__).parents[2] / "spec"
KINDS = ("message", "receipt", "bundle", "anchor")
MANIFESTS = json.loads((SPEC / "vectors" / "manifests.json").read_text("utf-8"))["cases"]
GOLDEN = [row for row in MANIFESTS if row["name"].endswith(("of 1.1", "an anchor"))]
READ = [row for row in MANIFESTS if row["expect"] == "read"]
BUNDLES = [
    row
    for row in json.loads(
        (SPEC / "vectors" / "seeds" / "dockercomms_manifests.json").read_text("utf-8")
    )
    if row["kind"] == "bundle"
]


def schema(kind: str) -> dict:
    return json.loads((SPEC / "schema" / f"{kind}-manifest.json").read_text("utf-8"))


def written(kind: str) -> Draft202012Validator:
    return Draft202012Validator(schema(kind))


def read(kind: str) -> Draft202012Validator:
    whole = schema(kind)
    return Draft202012Validator({"$ref": "#/$defs/read", "$defs": whole["$defs"]})


def by_name(rows):
    return pytest.mark.parametrize("row", rows, ids=lambda row: row["name"])


@pytest.mark.parametrize("kind", KINDS)
def test_schema_is_one(kind):
    Draft202012Validator.check_schema(schema(kind))


@by_name(GOLDEN)
def test_what_we_write_keeps_the_strict_schema(row):
    written(row["kind"]).validate(json.loads(row["bytes"]))


def test_golden_manifests_are_of_every_kind():
    assert {row["kind"] for row in GOLDEN} == set(KINDS)


@by_name(READ)
def test_what_is_read_keeps_the_lenient_schema(row):
    read(row["kind"]).validate(json.loads(row["bytes"]))


@pytest.mark.parametrize("output", go_v1.outputs(), ids=lambda output: output.name)
def test_what_1_0_wrote_keeps_the_lenient_schema_only(output):
    kind = next((kind for kind in KINDS if kind in output.artifact_type), None)
    if kind is None:
        return  # an index
    value = json.loads(output.manifest)
    read(kind).validate(value)
    assert not written(kind).is_valid(value)


@by_name(BUNDLES)
def test_bundle_of_1_0_keeps_the_lenient_schema(row):
    read("bundle").validate(json.loads(row["manifest_bytes"]))


@pytest.mark.parametrize("case", go_v1.deviations(), ids=lambda case: case.name)
def test_deviation_that_is_delivered_keeps_the_lenient_schema(case):
    if case.expect in ("deliver", "deliver-renamed"):
        read("message").validate(json.loads(case.manifest))


@pytest.mark.parametrize(
    "name",
    [
        "artifactType absent", "artifactType receipt", "version 2.0", "version None",
        "total missing", "total abc", "layer mt unknown gzip", "idxsplus0", "ann noid",
        "ann recnone", "config other type", "oci index w annotations",
        "empty oci-empty layer idx0",
    ],
)  # fmt: skip
def test_deviation_that_one_value_condemns_breaks_the_lenient_schema(name):
    case = next(case for case in go_v1.deviations() if case.name == name)
    assert case.expect == "refuse"
    assert not read("message").is_valid(json.loads(case.manifest))


@FAST
@given(headers(), DIGESTS)
def test_every_message_we_can_build_keeps_the_strict_schema(header, digest):
    layer = Descriptor(
        media_type=CHUNK_MEDIA_TYPES[header.compression],
        digest=digest,
        size=100,
        annotations={CHUNK_INDEX: "0", CHUNK_SIZE: str(header.total_bytes)},
    )
    anchor = ManifestBuilder.inbox_anchor("a" * 26, date(2026, 11, 20)).build()[1]
    builder = ManifestBuilder.message(header.to_annotations(), [layer], subject=anchor)
    value = json.loads(builder.build()[0])
    written("message").validate(value)
    read("message").validate(value)


def test_strict_schema_knows_every_member():
    value = json.loads(GOLDEN[0]["bytes"])
    for place in (value, value["config"], value["layers"][0], value["annotations"]):
        place["x"] = "y"
        assert not written("message").is_valid(value)
        del place["x"]
    assert written("message").is_valid(value)
    assert Digest(value["layers"][0]["digest"])

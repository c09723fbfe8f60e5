"""The golden cases in spec/vectors: every file whole, and no key that is not understood."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import stat
from datetime import date, datetime
from pathlib import Path

import pytest
import zstandard

from dockercomms.errors import IntegrityError, ProtocolError
from dockercomms.oci.model import digest_of
from dockercomms.protocol import header, tags
from dockercomms.protocol.fields import StreamPosition, format_time
from dockercomms.protocol.header import MessageHeader
from dockercomms.protocol.manifest import (
    ManifestBuilder,
    parse_anchor,
    parse_bundle,
    parse_message,
    parse_receipt,
)
from dockercomms.protocol.tags import parse_tag, recipient_tag
from dockercomms.transport.chunks import Chunk
from dockercomms.transport.files import pack_files, plan_files
from dockercomms.transport.layer import decode, encode
from dockercomms.transport.names import safe_filename, wire_filename
from dockercomms.transport.unpack import unpack_files

FOLDER = Path(__file__).parents[2] / "spec" / "vectors"
PARSE = {
    "message": parse_message,
    "receipt": parse_receipt,
    "bundle": parse_bundle,
    "anchor": parse_anchor,
}


def load(name: str, *parts: str) -> list:
    """The lists of one file, which has nothing else but `about` and, for headers, `base`."""
    data = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    assert set(data) == {"about", *parts}
    return [data[part] for part in parts]


def cases(rows: list, key: str = "name"):
    return pytest.mark.parametrize("row", rows, ids=lambda row: str(row[key])[:60])


def check_keys(row: dict, required: str, optional: str = "") -> None:
    assert set(required.split()) <= set(row) <= {*required.split(), *optional.split()}


(ANCHORS,) = load("anchors", "cases")
BUILD, PARSED_TAGS, RIDS = load("tags", "build", "parse", "receipt_ids")
BASE, HEADERS = load("headers", "base", "cases")
TARS, LAYERS = load("layers", "tars", "cases")
(NAMES,) = load("names", "cases")
TREES, UNPACK = load("files", "trees", "unpack")
IMAGE, MANIFESTS = load("manifests", "image_config", "cases")


@cases(ANCHORS, "digest")
def test_anchor(row):
    check_keys(row, "recipient recipient_tag day tag digest size bytes", "kind form")
    day, kind, form = date.fromisoformat(row["day"]), row.get("kind"), row.get("form", "artifact")
    rt = recipient_tag(row["recipient"])
    data, descriptor = ManifestBuilder.inbox_anchor(rt, day, kind, form=form).build()
    assert rt == row["recipient_tag"]
    assert data == row["bytes"].encode("utf-8")
    assert (descriptor.digest, descriptor.size) == (row["digest"], row["size"])
    anchor = parse_anchor(data)
    assert (anchor.recipient_tag, anchor.day, anchor.kind, anchor.form) == (rt, day, kind, form)
    tag = tags.receipts_anchor_tag(rt, day) if kind else tags.anchor_tag(rt, day)
    assert tag == row["tag"]


@cases(BUILD, "tag")
def test_tag_is_built(row):
    check_keys(row, "what tag", "recipient at digest rid message")
    rt = recipient_tag(row.get("recipient", ""))
    at = datetime.fromisoformat(row.get("at", "2000-01-01T00:00:00Z"))
    made = {
        "bell": lambda: tags.bell_tag(rt),
        "anchor": lambda: tags.anchor_tag(rt, at.date()),
        "receipts-anchor": lambda: tags.receipts_anchor_tag(rt, at.date()),
        "message": lambda: tags.message_tag(rt, at, row["digest"]),
        "receipts": lambda: tags.receipts_tag(rt, at, row["rid"]),
        "receipt": lambda: tags.receipt_tag(row["message"], at, row["rid"]),
        "bundle": lambda: tags.bundle_tag(row["message"], at, row["digest"]),
    }[row["what"]]()
    assert made == row["tag"]


@cases(PARSED_TAGS, "tag")
def test_tag_is_parsed(row):
    check_keys(row, "tag expect")
    found = parse_tag(row["tag"])
    if row["expect"] is None:
        assert found is None
        return
    check_keys(row["expect"], "kind recipient_tag", "day milliseconds head")
    assert found is not None
    assert found.kind == row["expect"]["kind"]
    assert found.recipient_tag == row["expect"]["recipient_tag"]
    assert (found.day and found.day.isoformat()) == row["expect"].get("day")
    assert found.milliseconds == row["expect"].get("milliseconds")
    assert found.head == row["expect"].get("head")


@cases(RIDS, "rid")
def test_receipt_id(row):
    check_keys(row, "message recipient status rid")
    assert tags.receipt_id(row["message"], row["recipient"], row["status"]) == row["rid"]


@cases(HEADERS)
def test_header(row):
    check_keys(row, "name base expect", "set unset header")
    annotations = BASE[row["base"]] | row.get("set", {})
    for key in row.get("unset", ()):
        del annotations[key]
    if row["expect"] == "refuse":
        with pytest.raises(ProtocolError):
            MessageHeader.from_annotations(annotations)
        return
    assert row["expect"] == "read"
    header = MessageHeader.from_annotations(annotations)
    for key, expected in row.get("header", {}).items():
        value = getattr(header, key)
        if isinstance(value, datetime):
            value = format_time(value)
        if isinstance(value, StreamPosition):
            value = str(value)
        assert (list(value) if isinstance(value, tuple) else value) == expected, key


@cases(TARS, "tar_sha256")
def test_chunk_tar(row):
    check_keys(row, "index payload tar_bytes tar_sha256")
    layer = encode(Chunk.of(base64.b64decode(row["payload"])), row["index"], "zstd")
    tar = zstandard.ZstdDecompressor().decompress(bytes(layer.content))
    assert (len(tar), hashlib.sha256(tar).hexdigest()) == (row["tar_bytes"], row["tar_sha256"])


@pytest.mark.parametrize("engine", ["isal", "zlib"])
@cases(LAYERS)
def test_layer(row, engine):
    check_keys(row, "name compression index limit exact layer expect", "payload")
    pieces = decode(
        io.BytesIO(base64.b64decode(row["layer"])),
        row["compression"],
        row["index"],
        limit=row["limit"],
        exact=row["exact"],
        engine=engine,
    )
    if row["expect"] == "refuse":
        with pytest.raises(ProtocolError) as caught:
            list(pieces)
        # What is wrong in proven bytes is no fault of the transport.
        assert not isinstance(caught.value, IntegrityError)
        return
    assert row["expect"] == "deliver"
    assert b"".join(pieces) == base64.b64decode(row["payload"])


@cases(NAMES)
def test_name(row):
    check_keys(row, "name safe", "wire full")
    assert safe_filename(row["name"], windows=False) == row["safe"]
    assert safe_filename(row["safe"], windows=False) == row["safe"]
    assert 0 < len(row["safe"].encode("utf-8")) <= 255
    if "wire" in row:
        assert wire_filename(row["name"]) == (row["wire"], row.get("full"))
        assert len(row["wire"].encode("utf-8")) <= 237


def make_tree(root: Path, entries: list) -> None:
    for path, kind, *content in entries:
        place = root / path
        if kind == "folder":
            place.mkdir()
        elif kind == "link":
            place.symlink_to(content[0])
        else:
            place.write_text(content[0])
            place.chmod(0o700 if kind == "executable" else 0o640)


@cases(TREES)
def test_tree_becomes_these_bytes(row, tmp_path):
    check_keys(row, "name tree total_bytes sha256")
    make_tree(tmp_path, row["tree"])
    plan = plan_files([tmp_path / row["tree"][0][0]])
    data = b"".join(pack_files(plan))
    assert plan.total_bytes == len(data) == row["total_bytes"]
    assert hashlib.sha256(data).hexdigest() == row["sha256"]


@cases(TREES)
def test_tree_comes_back(row, tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    make_tree(source, row["tree"])
    data = b"".join(pack_files(plan_files([source / row["tree"][0][0]])))
    made = unpack_files(io.BytesIO(data), target)
    assert {str(path.relative_to(target)) for path in made} == {
        entry[0].rstrip("/") for entry in row["tree"]
    }
    for path, kind, *content in row["tree"]:
        place = target / path
        if kind == "folder":
            assert place.is_dir()
        elif kind == "link":
            assert str(place.readlink()) == content[0]
        else:
            assert place.read_text() == content[0]
            assert bool(place.stat().st_mode & stat.S_IXUSR) == (kind == "executable")


@cases(UNPACK)
def test_unpack(row, tmp_path):
    check_keys(row, "name tar expect", "made")
    tar = io.BytesIO(zstandard.ZstdDecompressor().decompress(base64.b64decode(row["tar"])))
    folder = tmp_path / "in" / "here"
    folder.mkdir(parents=True)
    if row["expect"] == "refuse":
        with pytest.raises(ProtocolError):
            unpack_files(tar, folder)
    else:
        assert row["expect"] == "deliver"
        made = unpack_files(tar, folder)
        assert [str(path.relative_to(folder)) for path in made] == row["made"]
        for path in made:
            assert not path.lstat().st_mode & (stat.S_ISUID | stat.S_ISGID)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["here"]


@cases(MANIFESTS)
def test_manifest(row):
    check_keys(row, "name kind bytes digest expect")
    data = row["bytes"].encode("utf-8")
    assert digest_of(data) == row["digest"]
    parse = PARSE[row["kind"]]
    if row["expect"] == "refuse":
        with pytest.raises(ProtocolError):
            parse(data)
        return
    assert row["expect"] == "read"
    assert parse(data).descriptor.digest == row["digest"]


def test_config_of_the_image_form():
    check_keys(IMAGE, "bytes digest size")
    data = IMAGE["bytes"].encode("utf-8")
    assert data == header.IMAGE_CONFIG_BYTES
    assert (digest_of(data), len(data)) == (IMAGE["digest"], IMAGE["size"])


@pytest.mark.parametrize("name", ["a message of 1.1", "a message in image form of 1.1"])
def test_written_message_is_the_golden_one(name):
    (row,) = [row for row in MANIFESTS if row["name"] == name]
    message = parse_message(row["bytes"].encode("utf-8"))
    layers = [chunk.descriptor for chunk in message.chunks]
    builder = ManifestBuilder.message(
        message.header.to_annotations(), layers, subject=message.subject
    )
    data, descriptor = builder.in_form(message.form).build()
    assert data == row["bytes"].encode("utf-8")
    assert descriptor == message.descriptor

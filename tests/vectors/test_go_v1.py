"""Messages and results of the 1.0 program: read, decoded, and verified."""

from __future__ import annotations

import hashlib
import io
import json
from datetime import datetime, timedelta

import pytest

from dockercomms.errors import IntegrityError, ProtocolError
from dockercomms.oci.memory import MemoryRegistry
from dockercomms.oci.model import Descriptor, digest_of, parse_index
from dockercomms.protocol.header import MAX_FUTURE_SECONDS
from dockercomms.protocol.manifest import ManifestBuilder, parse_message, parse_receipt
from dockercomms.protocol.tags import parse_tag, recipient_tag
from dockercomms.transport.names import safe_filename
from dockercomms.transport.pull import pull_payload
from tests.reader10 import read10, sha256_12
from tests.vectors import go_v1

DEVIATIONS = go_v1.deviations()
OUTPUTS = go_v1.outputs()
MESSAGES = [output for output in OUTPUTS if output.payload_sha256]
RECEIPTS = [output for output in OUTPUTS if "receipt" in output.name]
MEANS = {
    "accept": {"deliver"},
    "accept-with-safe-name": {"deliver-renamed"},
    "reject-or-skip": {"refuse", "hold", "not-mine"},
    "filtered-by-since": {"deliver"},
}


def named(cases):
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


def stored(case) -> MemoryRegistry:
    registry = MemoryRegistry()
    go_v1.put(case, registry)
    return registry


def pulled(registry: MemoryRegistry, manifest: bytes) -> bytes:
    sink = io.BytesIO()
    pull_payload(registry, "mail", parse_message(manifest), sink)
    return sink.getvalue()


def test_deviations_are_all_there():
    assert len(DEVIATIONS) == 61


@named(DEVIATIONS)
def test_deviation_departs_from_its_proposal_only_with_a_reason(case):
    assert case.expect in {"deliver", "deliver-renamed", "refuse", "hold", "not-mine"}
    assert case.reason or case.expect in MEANS[case.proposed_v1_1]


@named(DEVIATIONS)
def test_reader10_gives_the_verdict_of_the_1_0_program(case, tmp_path):
    since = datetime.fromisoformat(case.recv_args[1]) if case.recv_args else None
    result = read10(stored(case), "mail", "bob", tmp_path, since=since)
    got = [
        {"name": path.name, "size": path.stat().st_size, "sha256_12": sha256_12(path)}
        for path in result.delivered
    ]
    assert (result.exit, got) == (case.go["exit"], case.go["delivered"])


def verdict(case: go_v1.Deviation) -> str:
    """Return the verdict of a receiver called bob, by the rules of this level alone."""
    tag = parse_tag(case.tag)
    if tag is None or tag.recipient_tag != recipient_tag("bob"):
        return "not-mine"
    try:
        message = parse_message(case.manifest)
    except ProtocolError:
        return "refuse"
    header = message.header
    if header.recipient != "bob":
        return "not-mine"
    if header.created_at is not None and header.created_at > case.now + timedelta(
        seconds=MAX_FUTURE_SECONDS
    ):
        return "hold"
    assert header.expires is None or header.expires > case.now
    try:
        pulled(stored(case), case.manifest)
    except IntegrityError:
        return "hold"
    except ProtocolError:
        return "refuse"
    return "deliver" if safe_filename(header.filename) == header.filename else "deliver-renamed"


@named(DEVIATIONS)
def test_deviation_is_judged_as_expected(case):
    assert verdict(case) == case.expect


@named([case for case in DEVIATIONS if case.expect == "deliver" and case.go["delivered"]])
def test_delivered_deviation_has_the_content_the_1_0_program_saw(case):
    content = pulled(stored(case), case.manifest)
    assert hashlib.sha256(content).hexdigest()[:12] == case.go["delivered"][0]["sha256_12"]


@named(OUTPUTS)
def test_output_has_the_digest_it_was_recorded_with(case):
    assert digest_of(case.manifest) == case.manifest_digest


@named(MESSAGES)
def test_message_of_1_0_is_received(case):
    message = parse_message(case.manifest)
    content = pulled(stored(case), case.manifest)
    assert message.digest == case.manifest_digest
    assert message.header.version == "1.0"
    assert message.header.filename == case.filename
    assert hashlib.sha256(content).hexdigest() == case.payload_sha256
    assert len(content) == message.header.total_bytes == case.payload_size


@named(MESSAGES)
def test_message_of_1_0_is_built_again_byte_for_byte(case):
    message = parse_message(case.manifest)
    annotations = message.header.to_annotations(compat=True)
    layers = [chunk.descriptor for chunk in message.chunks]
    assert ManifestBuilder.message(annotations, layers).build(compat=True)[0] == case.manifest


@named(MESSAGES)
def test_reader10_receives_what_the_1_0_program_sent(case, tmp_path):
    me = parse_message(case.manifest).header.recipient
    result = read10(stored(case), "mail", me, tmp_path)
    assert [path.name for path in result.delivered] == [case.filename]
    assert hashlib.sha256(result.delivered[0].read_bytes()).hexdigest() == case.payload_sha256


@named(RECEIPTS)
def test_receipt_of_1_0_is_read(case):
    receipt = parse_receipt(case.manifest)
    assert receipt.status in case.name
    assert case.tag.startswith(f"receipt-{receipt.message[7:19]}-")
    assert receipt.layers == ()
    annotations = receipt.descriptor.annotations
    assert ManifestBuilder.receipt(annotations).build(compat=True)[0] == case.manifest


def test_index_of_1_0_is_read():
    index = next(output for output in OUTPUTS if output.name == "go-referrers-tag-schema-index")
    entry = parse_index(index.manifest).manifests[0]
    assert isinstance(entry, Descriptor)
    assert entry.annotations == {"dockercomms.version": "1.0"}
    assert entry.artifact_type == "application/vnd.dev.sigstore.bundle.v0.3+json"


@pytest.mark.parametrize(
    "case",
    json.loads((go_v1.FOLDER / "recipient-tags.json").read_text("utf-8"))["cases"],
    ids=lambda case: case["tag"],
)
def test_recipient_tag_is_that_of_1_0(case):
    assert recipient_tag(case["recipient"]) == case["tag"]

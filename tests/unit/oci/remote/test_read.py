"""Reading blobs whole, manifests and tags: what is asked for counts."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from dockercomms.errors import (
    BadAnswer,
    BlobUnknown,
    DigestMismatch,
    IntegrityError,
    ManifestUnknown,
    NameInvalid,
    ProtocolError,
    RegistryError,
    SizeMismatch,
    TrailingData,
    Unsupported,
)
from dockercomms.oci.model import (
    MAX_MANIFEST_BYTES,
    MEDIA_TYPE_DOCKER_SCHEMA1_SIGNED,
    MEDIA_TYPE_MANIFEST,
    MEDIA_TYPE_OCTET_STREAM,
    digest_of,
)
from tests.fakes.clock import FakeClock
from tests.fakes.registry import DISTRIBUTION, DOCKER_REGISTRY_2_8, GGCR, OCI, Fault
from tests.fakes.scripted import Reply, ScriptedServer
from tests.unit.oci.registries import MIB, R, client, serving
from tests.unit.oci.traffic import DATA, DIGEST, NO_RETRY, UNKNOWN, is_get, is_head, whole


@pytest.mark.parametrize("size", [-1, 1000, 10**9])
def test_get_blob_gives_it_checked(size):
    with serving() as (server, registry):
        server.put_blob_raw(R, DATA)
        reader = registry.get_blob(R, DIGEST, size=len(DATA))
        assert (reader.descriptor.digest, reader.descriptor.size) == (DIGEST, len(DATA))
        assert reader.descriptor.media_type == MEDIA_TYPE_OCTET_STREAM
        assert whole(reader, size) == DATA


def test_get_blob_unchecked_leaves_the_digest_to_the_caller():
    with serving() as (server, registry):
        server.put_blob_raw(R, b"X" + DATA[1:], digest=DIGEST)
        assert whole(registry.get_blob_unchecked(R, DIGEST)) == b"X" + DATA[1:]
        with pytest.raises(SizeMismatch):
            registry.get_blob_unchecked(R, DIGEST, size=5)


def test_get_blob_of_no_bytes():
    with serving() as (server, registry):
        server.put_blob_raw(R, b"")
        with registry.get_blob(R, digest_of(b""), size=0) as reader:
            assert reader.read() == b""
            assert reader.read(0) == b""
        assert whole(registry.get_blob_range(R, digest_of(b""), 0)) == b""


def test_get_blob_other_content_is_refused_before_its_last_bytes():
    with serving() as (server, registry):
        server.put_blob_raw(R, b"X" + DATA[1:], digest=DIGEST)
        with registry.get_blob(R, DIGEST) as reader:
            got = reader.read(len(DATA) - 1)
            assert len(got) == len(DATA) - 1
            with pytest.raises(DigestMismatch):
                reader.read(1)


@pytest.mark.parametrize("fault", [Fault.longer(), Fault.shorter()], ids=["longer", "shorter"])
def test_get_blob_of_another_size_is_refused_at_once(fault):
    with serving() as (server, registry):
        server.put_blob_raw(R, DATA)
        server.fail_when(is_get, fault)
        with pytest.raises(SizeMismatch):
            registry.get_blob(R, DIGEST, size=len(DATA))


def test_get_blob_longer_than_said_is_refused():
    with ScriptedServer(Reply(200, b"abcd", length=None)) as server:
        with client(server.host) as registry:
            with registry.get_blob(R, digest_of(b"abc"), size=3) as reader:
                with pytest.raises(TrailingData):
                    reader.read()


def test_get_blob_header_of_other_content_is_refused():
    with serving() as (server, registry):
        server.put_blob_raw(R, DATA)
        server.fail_when(is_get, Fault.wrong_digest())
        with pytest.raises(DigestMismatch, match="announced"):
            registry.get_blob(R, DIGEST)


def test_get_blob_header_of_another_algorithm_says_nothing():
    headers = {"Docker-Content-Digest": "sha512:" + "0" * 128}
    with ScriptedServer(Reply(200, b"abc", headers)) as server, client(server.host) as registry:
        assert whole(registry.get_blob(R, digest_of(b"abc"))) == b"abc"


def test_get_blob_without_length_asks_for_it():
    with serving(replace(OCI, chunked_answers=True)) as (server, registry):
        server.put_blob_raw(R, DATA)
        assert whole(registry.get_blob(R, DIGEST, size=len(DATA))) == DATA
        assert server.count("HEAD") == 0
    with ScriptedServer(Reply(200, b"abc", length=None), Reply(200, b"abc")) as server:
        with client(server.host) as registry:
            assert whole(registry.get_blob(R, digest_of(b"abc"))) == b"abc"
        assert [seen.method for seen in server.requests] == ["GET", "HEAD"]


def test_get_blob_that_is_missing():
    with serving() as (server, registry):
        server.repository(R)
        with pytest.raises(BlobUnknown) as caught:
            registry.get_blob(R, UNKNOWN)
        assert caught.value.exit_code == 5


@pytest.mark.parametrize("digest", ["", "sha256:abc", "../../etc", "sha256:" + "0" * 63 + "G"])
def test_get_blob_wants_a_digest(digest):
    with serving() as (server, registry), pytest.raises(ProtocolError):
        registry.get_blob(R, digest)
    assert server.requests == []


@pytest.mark.parametrize("repository", ["", "UP", "a/../b", "a//b", "a b", "a?b"])
def test_get_blob_wants_a_repository(repository):
    with serving() as (server, registry), pytest.raises(NameInvalid):
        registry.get_blob(repository, DIGEST)
    assert server.requests == []


def test_get_blob_follows_redirects_to_storage_without_credentials():
    with serving(replace(OCI, redirect_blobs=True)) as (server, registry):
        server.put_blob_raw(R, DATA)
        assert whole(registry.get_blob(R, DIGEST, size=len(DATA))) == DATA
        assert whole(registry.get_blob_range(R, DIGEST, 5, 9)) == DATA[5:9]
        assert len(server.storage_requests) == 2


def test_get_blob_reader_is_closed_early_without_harm():
    with serving() as (server, registry):
        server.put_blob_raw(R, DATA)
        reader = registry.get_blob(R, DIGEST)
        reader.read(1)
        reader.close()
        reader.close()
        assert whole(registry.get_blob(R, DIGEST)) == DATA


MANIFEST = b'{"schemaVersion":2}'


def test_get_manifest_and_tag_give_it_checked():
    with serving() as (server, registry):
        digest = server.put_manifest_raw(R, MANIFEST, tag="v1")
        for reader in (registry.get_manifest(R, digest), registry.get_tag(R, "v1")):
            assert reader.descriptor.digest == digest
            assert reader.descriptor.media_type == MEDIA_TYPE_MANIFEST
            assert whole(reader) == MANIFEST
        assert whole(registry.get_tag(R, "v1"), 3) == MANIFEST


def test_get_manifest_reads_the_whole_again_after_a_break():
    with serving() as (server, registry):
        digest = server.put_manifest_raw(R, MANIFEST)
        server.fail_when(is_get, Fault.cut_body())
        assert whole(registry.get_manifest(R, digest)) == MANIFEST


def test_get_manifest_other_content_is_refused():
    with serving() as (server, registry):
        server.put_manifest_raw(R, MANIFEST, digest=UNKNOWN, tag="v1")
        for call in (
            lambda: registry.get_manifest(R, UNKNOWN),
            lambda: registry.get_tag(R, "v1"),
        ):
            with pytest.raises(DigestMismatch):
                call()


def test_get_tag_without_a_digest_header_computes_it():
    with serving(replace(OCI, digest_header=False)) as (server, registry):
        digest = server.put_manifest_raw(R, MANIFEST, tag="v1")
        assert registry.get_tag(R, "v1").descriptor.digest == digest
        assert registry.resolve_tag(R, "v1").digest == digest


def test_get_tag_takes_the_headers_algorithm_when_it_is_right():
    digest = "sha512:" + hashlib.sha512(MANIFEST).hexdigest()
    with ScriptedServer(Reply(200, MANIFEST, {"Docker-Content-Digest": digest})) as server:
        with client(server.host) as registry:
            assert registry.get_tag(R, "v1").descriptor.digest == digest


@pytest.mark.parametrize("length", [MAX_MANIFEST_BYTES, MAX_MANIFEST_BYTES + 1, 6 * MIB])
def test_get_manifest_is_at_most_four_mib(length):
    data = bytes(length)
    with serving() as (server, registry):
        digest = server.put_manifest_raw(R, data)
        if length <= MAX_MANIFEST_BYTES:
            assert len(whole(registry.get_manifest(R, digest))) == length
            return
        with pytest.raises(IntegrityError, match="larger than"):
            registry.get_manifest(R, digest)


def test_get_manifest_signed_schema_1_is_not_read():
    with serving() as (server, registry):
        digest = server.put_manifest_raw(R, MANIFEST, media_type=MEDIA_TYPE_DOCKER_SCHEMA1_SIGNED)
        with pytest.raises(Unsupported):
            registry.get_manifest(R, digest)


def test_get_manifest_and_tag_that_are_missing():
    with serving() as (server, registry):
        server.repository(R)
        for call in (
            lambda: registry.get_manifest(R, UNKNOWN),
            lambda: registry.get_tag(R, "none"),
            lambda: registry.get_tag(R, "not/a tag"),
            lambda: registry.resolve_manifest(R, UNKNOWN),
            lambda: registry.resolve_tag(R, "none"),
            lambda: registry.resolve_tag(R, "../x"),
        ):
            with pytest.raises(ManifestUnknown):
                call()
        assert "not" not in "".join(record.target for record in server.requests)


def test_resolve_reads_no_content():
    with serving(DISTRIBUTION) as (server, registry):
        digest = server.put_manifest_raw(R, MANIFEST, tag="v1")
        server.put_blob_raw(R, DATA)
        assert registry.resolve_tag(R, "v1").size == len(MANIFEST)
        assert registry.resolve_tag(R, "v1").digest == digest
        assert registry.resolve_manifest(R, digest).media_type == MEDIA_TYPE_MANIFEST
        assert registry.resolve_blob(R, DIGEST).size == len(DATA)
        assert {record.method for record in server.requests} == {"HEAD"}


def test_resolve_blob_that_is_missing_is_so_by_the_request_alone():
    with serving(GGCR) as (server, registry):
        server.repository(R)
        with pytest.raises(BlobUnknown):
            registry.resolve_blob(R, UNKNOWN)


@pytest.mark.parametrize("status", [400, 405])
def test_resolve_tag_asks_for_the_manifest_where_heads_are_refused(status):
    with serving() as (server, registry):
        digest = server.put_manifest_raw(R, MANIFEST, tag="v1")
        server.fail_when(is_head, Fault.answer(status))
        assert registry.resolve_tag(R, "v1").digest == digest


def test_resolve_tag_asks_for_the_manifest_where_the_head_has_no_length():
    headers = {"Docker-Content-Digest": digest_of(MANIFEST)}
    with ScriptedServer(Reply(200, b"", headers, length=None), Reply(200, MANIFEST)) as server:
        with client(server.host) as registry:
            assert registry.resolve_tag(R, "v1").size == len(MANIFEST)


MANIFEST_TYPE = {"Content-Type": MEDIA_TYPE_MANIFEST}


def test_resolve_manifest_without_a_length_is_refused():
    with (
        ScriptedServer(Reply(200, headers=MANIFEST_TYPE, length=None)) as server,
        client(server.host) as registry,
        pytest.raises(BadAnswer, match="no Content-Length"),
    ):
        registry.resolve_manifest(R, UNKNOWN)


def test_resolve_manifest_of_other_content_is_refused():
    with serving() as (server, registry):
        digest = server.put_manifest_raw(R, MANIFEST, digest_header=UNKNOWN)
        with pytest.raises(DigestMismatch):
            registry.resolve_manifest(R, digest)


def test_reading_server_time_is_the_registrys():
    clock = FakeClock()
    quirks = replace(OCI, date_skew_seconds=3600.0)
    with serving(quirks, clock=clock) as (server, registry):
        assert registry.server_time() is None
        server.put_blob_raw(R, DATA)
        registry.resolve_blob(R, DIGEST)
        now = registry.server_time()
        assert now is not None
        assert abs((now - server.clock.now()).total_seconds() - 3600) < 5


def test_reading_errors_that_are_no_answers_stay_what_they_are():
    with serving(DOCKER_REGISTRY_2_8, retry=NO_RETRY) as (server, registry):
        server.fail_when(is_get, Fault.answer(500), times=9)
        with pytest.raises(RegistryError) as caught:
            registry.get_tag(R, "v1")
        assert caught.value.status == 500

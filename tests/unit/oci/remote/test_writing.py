"""Manifests put, blobs mounted, things deleted."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from dockercomms.errors import (
    BlobUnknown,
    Denied,
    DigestMismatch,
    LimitError,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NetworkError,
    ProtocolError,
    RegistryError,
    Unsupported,
)
from dockercomms.oci.model import (
    EMPTY_CONFIG,
    EMPTY_CONFIG_BYTES,
    MAX_MANIFEST_BYTES,
    MEDIA_TYPE_MANIFEST,
    Digest,
    digest_of,
)
from dockercomms.oci.remote.registry import describe
from dockercomms.oci.remote.retry import RetryPolicy
from dockercomms.oci.strict_json import canonical_json
from tests.fakes.registry import (
    DOCKER_REGISTRY_2_8,
    GHCR,
    OCI,
    OCIMEM,
    OLAREG,
    PRESETS,
    ZOT,
    Fault,
)
from tests.fakes.scripted import Reply, ScriptedServer
from tests.unit.oci.registries import R, client, content, described, serving
from tests.unit.oci.traffic import UNKNOWN, is_put

MANIFEST = canonical_json(
    {
        "schemaVersion": 2,
        "mediaType": MEDIA_TYPE_MANIFEST,
        "config": EMPTY_CONFIG.to_json(),
        "layers": [EMPTY_CONFIG.to_json()],
    }
)


def push_config(registry) -> None:
    descriptor, source = described(EMPTY_CONFIG_BYTES)
    registry.push_blob(R, descriptor, source)


# --- manifests -----------------------------------------------------------------------------------


def test_push_manifest_puts_the_bytes_under_each_tag():
    with serving() as (server, registry):
        push_config(registry)
        server.forget_requests()
        found = registry.push_manifest(R, MANIFEST, MEDIA_TYPE_MANIFEST, tags=("a", "b"))
        assert (found.digest, found.size) == (digest_of(MANIFEST), len(MANIFEST))
        assert [record.method for record in server.requests] == ["PUT", "PUT"]
        assert server.requests[0].headers["content-type"] == MEDIA_TYPE_MANIFEST
        assert server.repository(R).manifests[found.digest].data == MANIFEST
        assert set(server.repository(R).tags) == {"a", "b"}


def test_push_manifest_without_tags_is_put_by_its_digest():
    with serving() as (server, registry):
        push_config(registry)
        registry.push_manifest(R, MANIFEST, MEDIA_TYPE_MANIFEST, digest=digest_of(MANIFEST))
        assert server.requests[-1].target.endswith(f"/manifests/{digest_of(MANIFEST)}")
        assert not server.repository(R).tags


def test_push_manifest_under_a_digest_of_another_algorithm():
    digest = Digest("sha512:" + hashlib.sha512(MANIFEST).hexdigest())
    said = {"Docker-Content-Digest": digest}
    with ScriptedServer(Reply(201, headers=said)) as server, client(server.host) as registry:
        found = registry.push_manifest(R, MANIFEST, MEDIA_TYPE_MANIFEST, digest=digest)
        assert found.digest == digest
        assert server.requests[0].target.endswith(digest)


def test_push_manifest_wants_its_own_digest():
    with serving() as (server, registry), pytest.raises(ValueError, match="is not the digest"):
        registry.push_manifest(R, MANIFEST, MEDIA_TYPE_MANIFEST, digest=UNKNOWN)
    assert server.requests == []


def test_push_manifest_wants_a_media_type():
    with serving() as (_, registry), pytest.raises(ValueError, match="no media type"):
        registry.push_manifest(R, MANIFEST, "")


@pytest.mark.parametrize("tag", ["", "a/b", "-x", "a" * 129, "a b"])
def test_push_manifest_wants_tags(tag):
    with serving() as (server, registry), pytest.raises(ManifestInvalid, match="not a tag"):
        registry.push_manifest(R, MANIFEST, MEDIA_TYPE_MANIFEST, tags=("good", tag))
    assert server.requests == []


def test_push_manifest_refuses_what_registries_refuse():
    with serving() as (server, registry):
        with pytest.raises(LimitError) as caught:
            registry.push_manifest(R, bytes(MAX_MANIFEST_BYTES + 1), MEDIA_TYPE_MANIFEST)
        assert caught.value.exit_code == 9
        assert server.requests == []


def test_push_manifest_too_large_for_this_registry_is_a_limit():
    with serving(replace(ZOT, manifest_limit_bytes=100)) as (_, registry):
        push_config(registry)
        with pytest.raises(LimitError):
            registry.push_manifest(R, MANIFEST, MEDIA_TYPE_MANIFEST, tags=("a",))


def test_push_manifest_naming_what_is_not_there():
    with serving() as (_, registry), pytest.raises(ManifestBlobUnknown):
        registry.push_manifest(R, MANIFEST, MEDIA_TYPE_MANIFEST, tags=("a",))


def test_push_manifest_is_sent_again_after_a_break():
    for fault in (Fault.drop_after(), Fault.answer(500), Fault.cut_request(10)):
        with serving() as (server, registry):
            push_config(registry)
            server.fail_when(is_put, fault)
            registry.push_manifest(R, MANIFEST, MEDIA_TYPE_MANIFEST, tags=("a",))
            assert server.repository(R).manifests[digest_of(MANIFEST)].data == MANIFEST


def test_push_manifest_stored_as_something_else_is_said():
    with serving() as (server, registry):
        push_config(registry)
        server.fail_when(is_put, Fault.wrong_digest())
        with pytest.raises(DigestMismatch, match="was stored"):
            registry.push_manifest(R, MANIFEST, MEDIA_TYPE_MANIFEST, tags=("a",))


@pytest.mark.parametrize("status", [400, 403, 409, 412])
def test_push_manifest_of_an_immutable_tag_is_an_error_of_that_status(status):
    with serving(replace(OCI, immutable_tags=status)) as (_, registry):
        push_config(registry)
        registry.push_manifest(R, MANIFEST, MEDIA_TYPE_MANIFEST, tags=("a",))
        with pytest.raises(RegistryError) as caught:
            registry.push_manifest(R, MANIFEST, MEDIA_TYPE_MANIFEST, tags=("a",))
        assert caught.value.status == status


# --- mounting ------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
def test_mount_blob_gives_the_blob_or_says_no(preset):
    data = content(1000)
    with serving(PRESETS[preset]) as (server, registry):
        server.put_blob_raw("other/one", data)
        found = registry.mount_blob(R, digest_of(data), source="other/one")
        if PRESETS[preset].mount == "mount":
            assert found is not None
            assert (found.digest, found.size) == (digest_of(data), 1000)
            assert registry.resolve_blob(R, digest_of(data)).size == 1000
        else:
            assert found is None
            # the session that was opened in its place is not left behind
            assert server.count("DELETE") == 1


@pytest.mark.parametrize("quirks", [OCI, OCIMEM])
def test_mount_blob_that_the_source_does_not_have(quirks):
    with serving(quirks) as (server, registry):
        server.put_blob_raw("other/one", b"x")
        assert registry.mount_blob(R, UNKNOWN, source="other/one") is None


def test_mount_blob_asks_for_both_scopes():
    with serving() as (server, registry):
        server.put_blob_raw("other/one", b"x")
        registry.mount_blob(R, digest_of(b"x"), source="other/one")
        asked = server.requests[0]
        assert asked.query == {"mount": [digest_of(b"x")], "from": ["other/one"]}


def test_mount_blob_wants_repositories():
    for repository, source in (("UP", "a"), ("a", "UP")):
        with serving() as (server, registry), pytest.raises(NameInvalid):
            registry.mount_blob(repository, UNKNOWN, source=source)
        assert server.requests == []


def test_mount_blob_denied_is_an_error():
    with ScriptedServer(Reply(403)) as server, client(server.host) as registry:
        with pytest.raises(Denied):
            registry.mount_blob(R, UNKNOWN, source="other/one")


# --- deleting ------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 202, 204])
def test_delete_succeeds_whichever_success_is_said(status):
    with ScriptedServer(rest=Reply(status)) as server, client(server.host) as registry:
        registry.delete_blob(R, UNKNOWN)
        registry.delete_manifest(R, UNKNOWN)
        registry.delete_tag(R, "a")
        assert [seen.target for seen in server.requests] == [
            f"/v2/{R}/blobs/{UNKNOWN}",
            f"/v2/{R}/manifests/{UNKNOWN}",
            f"/v2/{R}/manifests/a",
        ]


def test_delete_tag_leaves_the_manifest():
    with serving() as (server, registry):
        push_config(registry)
        registry.push_manifest(R, MANIFEST, MEDIA_TYPE_MANIFEST, tags=("a", "b"))
        registry.delete_tag(R, "a")
        assert set(server.repository(R).tags) == {"b"}
        registry.delete_manifest(R, digest_of(MANIFEST))
        assert not server.repository(R).manifests


def test_delete_of_what_is_missing():
    with serving() as (server, registry):
        server.repository(R)
        with pytest.raises(BlobUnknown):
            registry.delete_blob(R, UNKNOWN)
        with pytest.raises(ManifestUnknown):
            registry.delete_manifest(R, UNKNOWN)
        with pytest.raises(ManifestUnknown):
            registry.delete_tag(R, "a")
        with pytest.raises(ManifestUnknown):
            registry.delete_tag(R, "../x")


def test_delete_that_the_registry_does_not_do():
    with serving(DOCKER_REGISTRY_2_8) as (server, registry):
        server.put_manifest_raw(R, MANIFEST, tag="a")
        with pytest.raises(Unsupported):
            registry.delete_tag(R, "a")
    with serving(OLAREG) as (server, registry):
        server.put_blob_raw(R, b"x")
        with pytest.raises(Unsupported):
            registry.delete_blob(R, digest_of(b"x"))
    with serving(GHCR) as (server, registry):
        digest = server.put_manifest_raw(R, MANIFEST, tag="a")
        with pytest.raises(Unsupported):
            registry.delete_manifest(R, digest)


def test_delete_of_a_tag_that_may_not_be_deleted_is_denied():
    with ScriptedServer(Reply(403)) as server, client(server.host) as registry:
        with pytest.raises(Denied):
            registry.delete_tag(R, "a")


def test_delete_wants_digests():
    with serving() as (server, registry):
        for call in (registry.delete_blob, registry.delete_manifest):
            with pytest.raises(ProtocolError):
                call(R, "latest")
        assert server.requests == []


# --- other ---------------------------------------------------------------------------------------


def test_describe_reads_the_source_once():
    data = content(3_000_000)
    expected, source = described(data)
    assert describe(source) == expected


def test_request_returns_any_answer():
    with serving(retry=RetryPolicy.none()) as (server, registry):
        server.put_manifest_raw(R, MANIFEST, tag="a")
        with_body = registry.request("GET", f"/v2/{R}/manifests/a")
        assert (with_body.status, with_body.read()) == (200, MANIFEST)
        with_body.close()
        missing = registry.request("GET", "/v2/no/such/thing")
        assert missing.status == 404
        missing.close()
        server.fail_when(lambda request: True, Fault.answer(503))
        busy = registry.request("GET", "/v2/", headers={"X-Test": "1"})
        assert busy.status == 503
        busy.close()
        assert server.requests[-1].headers["x-test"] == "1"
        with pytest.raises(RegistryError):
            registry.request("GET", "/v2/no/such/thing", ok=(200,))


def test_request_that_gets_no_answer_is_a_network_error():
    with serving(retry=RetryPolicy.none()) as (server, registry):
        server.fail_when(lambda request: True, Fault.drop_before())
        with pytest.raises(NetworkError):
            registry.request("GET", "/v2/")

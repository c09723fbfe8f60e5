"""The contract of manifests and tags: push, get, resolve, delete."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from dockercomms.errors import (
    DockerCommsError,
    LimitError,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameUnknown,
    Unsupported,
)
from dockercomms.oci.interface import Registry, read_all
from dockercomms.oci.model import (
    MAX_MANIFEST_BYTES,
    MEDIA_TYPE_INDEX,
    MEDIA_TYPE_MANIFEST,
    Descriptor,
    digest_of,
)
from tests.contract.capabilities import (
    Capabilities,
    index_bytes,
    manifest_bytes,
    push,
    push_empty_config,
    push_manifest,
)

MISSING_MANIFEST = (ManifestUnknown, NameUnknown)
REFUSED = (ManifestBlobUnknown, ManifestInvalid)


class ManifestContract:
    """The contract of every store for manifests and tags."""

    def test_push_manifest_by_tag_gives_back_its_bytes(
        self, registry: Registry, repository: str
    ) -> None:
        push_empty_config(registry, repository)
        # Bytes that no encoder of ours would write: they must come back as they went.
        data = json.dumps(json.loads(manifest_bytes("odd")), indent=7).encode() + b"\n"
        pushed = registry.push_manifest(repository, data, MEDIA_TYPE_MANIFEST, tags=("v1",))
        assert pushed.bare() == Descriptor.of(data, MEDIA_TYPE_MANIFEST)
        assert read_all(registry.get_tag(repository, "v1"), MAX_MANIFEST_BYTES) == (
            data,
            pushed.bare(),
        )
        assert read_all(registry.get_manifest(repository, pushed.digest), MAX_MANIFEST_BYTES) == (
            data,
            pushed.bare(),
        )

    def test_push_manifest_without_tags_is_found_by_digest(
        self, registry: Registry, repository: str
    ) -> None:
        push_empty_config(registry, repository)
        pushed = push_manifest(registry, repository, "untagged")
        assert registry.resolve_manifest(repository, pushed.digest) == pushed.bare()

    def test_push_manifest_under_several_tags(self, registry: Registry, repository: str) -> None:
        push_empty_config(registry, repository)
        pushed = push_manifest(registry, repository, "tagged", tags=("a", "B_2", "c.3-x"))
        for tag in ("a", "B_2", "c.3-x"):
            assert registry.resolve_tag(repository, tag) == pushed.bare()
        assert sorted(registry.tags(repository)) == ["B_2", "a", "c.3-x"]

    def test_push_manifest_with_its_digest(self, registry: Registry, repository: str) -> None:
        push_empty_config(registry, repository)
        data = manifest_bytes("known")
        pushed = registry.push_manifest(
            repository, data, MEDIA_TYPE_MANIFEST, digest=digest_of(data)
        )
        assert pushed.digest == digest_of(data)
        with pytest.raises(ValueError):
            registry.push_manifest(
                repository, data, MEDIA_TYPE_MANIFEST, digest=digest_of(b"another")
            )

    def test_push_manifest_twice_is_no_error(self, registry: Registry, repository: str) -> None:
        push_empty_config(registry, repository)
        first = push_manifest(registry, repository, "same", tags=("v1",))
        assert push_manifest(registry, repository, "same", tags=("v1",)) == first
        assert push_manifest(registry, repository, "same") == first
        assert list(registry.tags(repository)) == ["v1"]

    def test_push_manifest_moves_a_tag(
        self, registry: Registry, repository: str, capabilities: Capabilities
    ) -> None:
        push_empty_config(registry, repository)
        old = push_manifest(registry, repository, "old", tags=("bell", "kept"))
        new = push_manifest(registry, repository, "new", tags=("bell",))
        assert registry.resolve_tag(repository, "bell") == new.bare()
        assert registry.resolve_tag(repository, "kept") == old.bare()
        newest = push_manifest(registry, repository, "newest", tags=("bell",))
        assert registry.resolve_tag(repository, "bell") == newest.bare()
        if capabilities.keeps_untagged:
            assert registry.resolve_manifest(repository, new.digest) == new.bare()
        assert sorted(registry.tags(repository)) == ["bell", "kept"]

    def test_push_manifest_naming_an_unknown_layer_is_refused(
        self, registry: Registry, repository: str, capabilities: Capabilities
    ) -> None:
        if not capabilities.checks_blobs:
            pytest.skip("the store does not look")
        push_empty_config(registry, repository)
        missing = Descriptor.of(b"not there", "application/vnd.example.layer")
        for data in (
            manifest_bytes("layer", layers=(missing,)),
            manifest_bytes("config", config=missing),
        ):
            with pytest.raises(capabilities.refusal(*REFUSED)):
                registry.push_manifest(repository, data, MEDIA_TYPE_MANIFEST, tags=("broken",))
        with pytest.raises(MISSING_MANIFEST):
            registry.resolve_tag(repository, "broken")

    def test_push_manifest_may_name_an_unknown_subject(
        self, registry: Registry, repository: str
    ) -> None:
        push_empty_config(registry, repository)
        subject = Descriptor.of(b"pushed later, if ever", MEDIA_TYPE_MANIFEST)
        pushed = push_manifest(registry, repository, "early", subject=subject)
        assert registry.resolve_manifest(repository, pushed.digest) == pushed.bare()

    def test_push_manifest_takes_an_index_of_known_manifests(
        self, registry: Registry, repository: str, capabilities: Capabilities
    ) -> None:
        push_empty_config(registry, repository)
        child = push_manifest(registry, repository, "child")
        index = index_bytes([child])
        pushed = registry.push_manifest(repository, index, MEDIA_TYPE_INDEX, tags=("index",))
        assert registry.resolve_tag(repository, "index") == pushed.bare()
        assert pushed.media_type == MEDIA_TYPE_INDEX
        if capabilities.checks_manifests:
            broken = index_bytes([Descriptor.of(b"not there", MEDIA_TYPE_MANIFEST)])
            with pytest.raises(DockerCommsError):
                registry.push_manifest(repository, broken, MEDIA_TYPE_INDEX, tags=("broken",))

    @pytest.mark.parametrize("data", [b"", b"no json", b"[]", b'"text"'])
    def test_push_manifest_that_is_none_is_refused(
        self, registry: Registry, repository: str, capabilities: Capabilities, data: bytes
    ) -> None:
        if not capabilities.checks_json:
            pytest.skip("the store does not look")
        push_empty_config(registry, repository)
        with pytest.raises(DockerCommsError):
            registry.push_manifest(repository, data, MEDIA_TYPE_MANIFEST, tags=("broken",))
        with pytest.raises(MISSING_MANIFEST):
            registry.resolve_tag(repository, "broken")

    def test_push_manifest_above_the_limit_is_refused(
        self, registry: Registry, repository: str, capabilities: Capabilities
    ) -> None:
        if not capabilities.manifest_limit:
            pytest.skip("the store takes any size")
        push_empty_config(registry, repository)
        data = manifest_bytes("large", annotations={"filler": "x" * (MAX_MANIFEST_BYTES + 1)})
        with pytest.raises((LimitError, ManifestInvalid)):
            registry.push_manifest(repository, data, MEDIA_TYPE_MANIFEST)

    @pytest.mark.parametrize("exists", [True, False], ids=["manifest", "repository"])
    def test_get_manifest_unknown_is_not_found(
        self, registry: Registry, repository: str, exists: bool
    ) -> None:
        if exists:
            push_empty_config(registry, repository)
            push_manifest(registry, repository, "another", tags=("another",))
        expected = ManifestUnknown if exists else MISSING_MANIFEST
        missing = digest_of(b"not there")
        with pytest.raises(expected):
            registry.get_manifest(repository, missing)
        with pytest.raises(expected):
            registry.resolve_manifest(repository, missing)
        with pytest.raises(expected):
            registry.get_tag(repository, "missing")
        with pytest.raises(expected):
            registry.resolve_tag(repository, "missing")

    def test_get_manifest_does_not_take_a_blob_for_one(
        self, registry: Registry, repository: str, capabilities: Capabilities
    ) -> None:
        push_empty_config(registry, repository)
        push_manifest(registry, repository, "another", tags=("another",))
        blob = push(registry, repository, b"a blob")
        with pytest.raises(capabilities.refusal(ManifestUnknown)):
            registry.resolve_manifest(repository, blob.digest)

    def test_delete_manifest_takes_its_tags_along(
        self, registry: Registry, repository: str, capabilities: Capabilities
    ) -> None:
        push_empty_config(registry, repository)
        kept = push_manifest(registry, repository, "kept", tags=("kept",))
        gone = push_manifest(registry, repository, "gone", tags=("gone", "gone-too"))
        if not capabilities.delete_manifests:
            with pytest.raises(Unsupported):
                registry.delete_manifest(repository, gone.digest)
            return
        registry.delete_manifest(repository, gone.digest)
        if capabilities.delete_takes_tags:
            assert list(registry.tags(repository)) == ["kept"]
        assert registry.resolve_tag(repository, "kept") == kept.bare()
        with pytest.raises(ManifestUnknown):
            registry.get_manifest(repository, gone.digest)
        with pytest.raises(ManifestUnknown):
            registry.delete_manifest(repository, gone.digest)

    def test_delete_tag_takes_nothing_else(
        self, registry: Registry, repository: str, capabilities: Capabilities
    ) -> None:
        push_empty_config(registry, repository)
        pushed = push_manifest(registry, repository, "tagged", tags=("first", "second"))
        if not capabilities.delete_tags:
            with pytest.raises(Unsupported):
                registry.delete_tag(repository, "first")
            return
        registry.delete_tag(repository, "first")
        assert list(registry.tags(repository)) == ["second"]
        with pytest.raises(ManifestUnknown):
            registry.delete_tag(repository, "first")
        registry.delete_tag(repository, "second")
        assert list(registry.tags(repository)) == []
        if capabilities.keeps_untagged:
            assert registry.resolve_manifest(repository, pushed.digest) == pushed.bare()

    def test_delete_of_what_is_not_there_is_not_found(
        self, registry: Registry, repository: str, capabilities: Capabilities
    ) -> None:
        push_empty_config(registry, repository)
        push_manifest(registry, repository, "another", tags=("another",))
        if capabilities.delete_manifests:
            with pytest.raises(ManifestUnknown):
                registry.delete_manifest(repository, digest_of(b"not there"))
        if capabilities.delete_tags:
            with pytest.raises(ManifestUnknown):
                registry.delete_tag(repository, "missing")

    def test_server_time_is_in_utc(
        self, registry: Registry, repository: str, capabilities: Capabilities
    ) -> None:
        if capabilities.own_clock:
            assert registry.server_time() is not None
        push_empty_config(registry, repository)
        told = registry.server_time()
        assert isinstance(told, datetime)
        assert told.utcoffset() == timedelta(0)
        assert abs(told - datetime.now(UTC)) < timedelta(minutes=5)

    def test_registry_implements_the_interface(self, registry: Registry) -> None:
        assert isinstance(registry, Registry)

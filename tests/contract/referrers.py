"""The contract of referrers, with the API and without."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dockercomms.oci.interface import Registry
from dockercomms.oci.model import MEDIA_TYPE_INDEX, MEDIA_TYPE_MANIFEST, Descriptor, digest_of
from dockercomms.oci.reference import referrers_tag
from tests.contract.capabilities import (
    ARTIFACT_TYPE,
    Capabilities,
    index_bytes,
    manifest_bytes,
    push_empty_config,
)

OTHER_TYPE = "application/vnd.example.other.v1"
SUBJECT = Descriptor.of(b"a subject, there or not", MEDIA_TYPE_MANIFEST)
OTHER_SUBJECT = Descriptor.of(b"another subject", MEDIA_TYPE_MANIFEST)


def refer(
    registry: Registry,
    repository: str,
    name: str,
    *,
    subject: Descriptor = SUBJECT,
    artifact_type: str = ARTIFACT_TYPE,
) -> Descriptor:
    """Push a referrer of `subject`; returns its entry as the referrers API would list it."""
    annotations = {"example.name": name, "example.more": "<&> \u2028"}
    data = manifest_bytes(
        name, subject=subject, artifact_type=artifact_type, annotations=annotations
    )
    pushed = registry.push_manifest(repository, data, MEDIA_TYPE_MANIFEST)
    return replace(pushed.bare(), artifact_type=artifact_type, annotations=annotations)


def publish(
    registry: Registry,
    repository: str,
    capabilities: Capabilities,
    entries: list[Descriptor],
    *,
    subject: Descriptor = SUBJECT,
) -> None:
    """Without the API: write the index that clients keep in its place."""
    if not capabilities.referrers_api:
        registry.push_manifest(
            repository,
            index_bytes(entries),
            MEDIA_TYPE_INDEX,
            tags=(referrers_tag(subject.digest),),
        )


def by_digest(entries: list[Descriptor]) -> list[Descriptor]:
    return sorted(entries, key=lambda entry: entry.digest)


class ReferrersContract:
    """The contract of every store for referrers."""

    def test_referrers_supported_says_whether_there_is_the_api(
        self, registry: Registry, repository: str, capabilities: Capabilities
    ) -> None:
        push_empty_config(registry, repository)
        assert registry.referrers_supported(repository) is capabilities.referrers_api
        assert registry.referrers_supported(repository) is capabilities.referrers_api

    def test_referrers_lists_what_refers_to_a_manifest(
        self, registry: Registry, repository: str, capabilities: Capabilities
    ) -> None:
        push_empty_config(registry, repository)
        expected = [refer(registry, repository, f"r{number}") for number in range(5)]
        publish(registry, repository, capabilities, expected)
        other = refer(registry, repository, "other", subject=OTHER_SUBJECT)
        publish(registry, repository, capabilities, [other], subject=OTHER_SUBJECT)
        found = by_digest(list(registry.referrers(repository, SUBJECT.digest)))
        assert [entry.bare() for entry in found] == [entry.bare() for entry in by_digest(expected)]
        if capabilities.referrers_annotations:
            assert [e.annotations for e in found] == [e.annotations for e in by_digest(expected)]
        if capabilities.referrers_artifact_type:
            assert {entry.artifact_type for entry in found} == {ARTIFACT_TYPE}

    def test_referrers_are_filtered_by_artifact_type(
        self, registry: Registry, repository: str, capabilities: Capabilities
    ) -> None:
        if not capabilities.referrers_artifact_type:
            pytest.skip("the store does not tell the artifact type")
        push_empty_config(registry, repository)
        ours = refer(registry, repository, "ours")
        others = [
            refer(registry, repository, f"other{number}", artifact_type=OTHER_TYPE)
            for number in range(3)
        ]
        publish(registry, repository, capabilities, [*others[:2], ours, others[2]])

        def found(artifact_type: str) -> list[Descriptor]:
            entries = registry.referrers(repository, SUBJECT.digest, artifact_type=artifact_type)
            return by_digest([entry.bare() for entry in entries])

        assert found(ARTIFACT_TYPE) == [ours.bare()]
        assert found(OTHER_TYPE) == by_digest([entry.bare() for entry in others])
        assert found("application/vnd.example.none") == []

    def test_referrers_of_what_nothing_refers_to_are_none(
        self, registry: Registry, repository: str
    ) -> None:
        push_empty_config(registry, repository)
        refer(registry, repository, "other", subject=OTHER_SUBJECT)
        assert list(registry.referrers(repository, digest_of(b"lonely"))) == []

    def test_referrers_counts_an_index_too(
        self, registry: Registry, repository: str, capabilities: Capabilities
    ) -> None:
        push_empty_config(registry, repository)
        child = refer(registry, repository, "child", subject=OTHER_SUBJECT)
        index = registry.push_manifest(
            repository, index_bytes([child], subject=SUBJECT), MEDIA_TYPE_INDEX
        )
        publish(registry, repository, capabilities, [index])
        found = list(registry.referrers(repository, SUBJECT.digest))
        assert [entry.bare() for entry in found] == [index.bare()]

    def test_referrers_sees_a_later_push(
        self, registry: Registry, repository: str, capabilities: Capabilities
    ) -> None:
        push_empty_config(registry, repository)
        first = refer(registry, repository, "first")
        publish(registry, repository, capabilities, [first])
        assert len(list(registry.referrers(repository, SUBJECT.digest))) == 1
        second = refer(registry, repository, "second")
        publish(registry, repository, capabilities, [first, second])
        assert len(list(registry.referrers(repository, SUBJECT.digest))) == 2

    def test_referrers_forget_a_deleted_manifest(
        self, registry: Registry, repository: str, capabilities: Capabilities
    ) -> None:
        if not (capabilities.delete_manifests and capabilities.referrers_api):
            pytest.skip("the store does not delete, or its clients keep the index")
        push_empty_config(registry, repository)
        gone, kept = (refer(registry, repository, name) for name in ("gone", "kept"))
        registry.delete_manifest(repository, gone.digest)
        found = list(registry.referrers(repository, SUBJECT.digest))
        assert [entry.digest for entry in found] == [kept.digest]

    def test_referrers_do_not_need_their_subject(
        self, registry: Registry, repository: str, capabilities: Capabilities
    ) -> None:
        push_empty_config(registry, repository)
        data = manifest_bytes("subject")
        subject = Descriptor.of(data, MEDIA_TYPE_MANIFEST)
        early = refer(registry, repository, "early", subject=subject)
        publish(registry, repository, capabilities, [early], subject=subject)
        before = list(registry.referrers(repository, subject.digest))
        registry.push_manifest(repository, data, MEDIA_TYPE_MANIFEST, tags=("subject",))
        after = list(registry.referrers(repository, subject.digest))
        assert [entry.digest for entry in before] == [early.digest]
        assert before == after

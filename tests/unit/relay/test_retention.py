"""Hints for registries that forbid a request, and the end of a relay after their errors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from dockercomms.errors import DockerCommsError
from dockercomms.oci.remote.registry import HTTPRegistry
from dockercomms.oci.stores import Store
from dockercomms.relay.retention import advice_for
from tests.fakes.moving import Town, open_town
from tests.fakes.registry import OCI, FakeRegistry


@pytest.fixture
def town(tmp_path) -> Iterator[Town]:
    yield from open_town(tmp_path)


@pytest.mark.parametrize(
    ("repo", "word"),
    [
        ("ghcr.io/team/mail", "delete:packages"),
        ("123456789012.dkr.ecr.eu-west-1.amazonaws.com/team/mail", "put-lifecycle-policy"),
        ("public.ecr.aws/team/mail", "put-lifecycle-policy"),
        ("docker.io/team/mail", "Docker Hub"),
        ("index.docker.io/team/mail", "Docker Hub"),
        ("team.azurecr.io/mail", "az acr"),
        ("europe-docker.pkg.dev/team/mail", "set-cleanup-policies"),
        ("eu.gcr.io/team/mail", "set-cleanup-policies"),
        ("registry.gitlab.com/team/mail", "Maintainer"),
        ("quay.io/team/mail", "auto-prune"),
        ("registry.example:5000/team/mail", "REGISTRY_STORAGE_DELETE_ENABLED"),
        ("notghcr.io/team/mail", "REGISTRY_STORAGE_DELETE_ENABLED"),
    ],
)
def test_advice_is_that_of_the_registry_and_names_the_tags(repo: str, word: str) -> None:
    first, *rule = advice_for(repo).splitlines()

    assert word in first
    assert "inbox-*, bundle-*, receipt-*, receipts-* and sha256-*" in rule[0]


def test_a_registry_that_answers_with_errors_ends_a_relay_with_its_own(town: Town) -> None:
    here = town.memory("a")
    town.send(here)
    with FakeRegistry(replace(OCI, tag_limit=20), clock=town.clock) as registry:
        store = HTTPRegistry(registry.host, clock=town.clock)
        there = Store(store, "team/b", f"{registry.host}/team/b")
        (failed,) = town.relay(here, there)
        store.close()

    assert failed.status == "failed"
    assert isinstance(failed.error, DockerCommsError)

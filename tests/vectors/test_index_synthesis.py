"""Synthesised indexes against the measured behaviour of docker-library/meta-scripts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest

from dockercomms.errors import DockerCommsError, ManifestUnknown, ProtocolError
from dockercomms.oci.images.cache import CachedRegistry
from dockercomms.oci.images.synthesis import synthesize_index
from dockercomms.oci.interface import Registry
from dockercomms.oci.model import Index, parse_digest
from dockercomms.oci.reference import Reference
from tests.fakes.static_reader import StaticReader

FILE = Path(__file__).parents[2] / "spec" / "vectors" / "seeds" / "index_synthesis.json"
KEYS = {"name", "note", "ref", "fixture", "expected_index", "requests", "requests_on_second_call"}
ROWS: dict[str, dict[str, Any]] = {
    row["name"]: row
    for row in json.loads(FILE.read_text("utf-8"))
    if set(row) - {"expected_error"} == KEYS or pytest.fail(f"unknown keys in {row['name']}")
}

ERRORS: dict[str, type[DockerCommsError]] = {
    "unsupported-media-type": ProtocolError,
    "child-missing": ManifestUnknown,
}
"""The class of each error; its text is ours."""


def reference(text: str) -> Reference:
    """Return the reference; the vectors' host, REGISTRY, has no dot and is none for the parser."""
    name, _, digest = text.partition("@")
    host, _, rest = name.partition("/")
    repository, _, tag = rest.partition(":")
    return Reference(
        host=host,
        repository=repository,
        tag=tag or None,
        digest=parse_digest(digest) if digest else None,
    )


def logged(requests: list[dict[str, Any]]) -> list[str]:
    return [
        f"{row['method']} {row['path'].removeprefix('/v2/repo/')} {row['status']}"
        for row in requests
    ]


def as_json(index: Index | None) -> object:
    return None if index is None else json.loads(index.to_bytes())


@pytest.mark.parametrize("name", ROWS)
def test_synthesize_index_agrees_with_meta_scripts(name: str) -> None:
    row = ROWS[name]
    reader = StaticReader.of_fixture(row["fixture"])
    if "expected_error" in row:
        with pytest.raises(ERRORS[name]):
            synthesize_index(reader, reference(row["ref"]))
    else:
        index = synthesize_index(reader, reference(row["ref"]))
        assert as_json(index) == row["expected_index"]
    assert reader.requests == logged(row["requests"])


@pytest.mark.parametrize("name", ROWS)
def test_synthesize_index_asks_a_cache_as_meta_scripts_does(name: str) -> None:
    row = ROWS[name]
    reader = StaticReader.of_fixture(row["fixture"])
    cached = CachedRegistry(cast("Registry", reader), tag_ttl=60)
    for requests in (row["requests"], row["requests_on_second_call"]):
        reader.requests.clear()
        try:
            synthesize_index(cached, reference(row["ref"]))
        except DockerCommsError:
            assert name in ERRORS
        assert reader.requests == logged(requests)


def test_index_synthesis_vectors_are_all_there() -> None:
    assert len(ROWS) == 27
    assert {name for name, row in ROWS.items() if "expected_error" in row} == set(ERRORS)

"""Resolving and extracting against the measured behaviour of agentfile.

Its retries, in the same file of vectors, are held elsewhere.
"""

from __future__ import annotations

import base64
import io
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from dockercomms.errors import DockerCommsError, NotFoundError, PlatformNotFound, ProtocolError
from dockercomms.oci.images.pull import remote_puller
from dockercomms.oci.images.select import select
from dockercomms.oci.memory import MemoryRegistry
from dockercomms.oci.model import MEDIA_TYPE_MANIFEST, Descriptor, Index, Platform
from tests.contract.capabilities import manifest_bytes, push, push_empty_config

FILE = (
    Path(__file__).parents[2]
    / "spec"
    / "vectors"
    / "seeds"
    / "agentfile_retry_resolve_extract.json"
)
VECTORS: dict[str, Any] = json.loads(FILE.read_text("utf-8"))
RESOLVE: dict[str, dict[str, Any]] = {
    row["Name"]: row
    for row in VECTORS["resolve_index_seed_version"]
    if set(row) == {"Name", "Host", "Picked", "IsIndex", "Index"} or pytest.fail("unknown keys")
}
EXTRACT: dict[str, dict[str, Any]] = {
    row["name"]: row
    for row in VECTORS["extract_bin"]
    if set(row) - {"error"} == {"name", "manifest_annotations", "layers", "output"}
    or pytest.fail("unknown keys")
}
KEYS = ("vnd.openotters.bin.name", "vnd.openotters.bin.path")
TITLE = "org.opencontainers.image.title"

RESOLVE_ERRORS_HERE: dict[str, tuple[str, type[DockerCommsError]]] = {
    "empty": ("an empty index is no manifest, so nothing is picked from it", PlatformNotFound)
}
"""Differences in resolving: the reason and our error."""

ANOTHER_OUTPUT_HERE = {
    "tar, other directory, same basename": (
        "the very path comes before another file of the same name, wherever it stands",
        b"bin",
    ),
    "truncated tar": ("nothing is written before all of it is proven right", b""),
}
"""Differences in extracting: the reason and our output."""

EXTRACT_ERRORS = {
    "tar, only a directory of that name": NotFoundError,
    "not found": NotFoundError,
    "gzip media type, not gzip": ProtocolError,
    "truncated tar": ProtocolError,
}


@pytest.mark.parametrize("name", RESOLVE)
def test_select_with_fallback_agrees_with_agentfile(name: str) -> None:
    row = RESOLVE[name]
    index = Index(
        manifests=tuple(
            Descriptor.from_json(entry, name) for entry in row["Index"]["manifests"] or ()
        )
    )
    want = Platform.parse(row["Host"])
    if name in RESOLVE_ERRORS_HERE:
        with pytest.raises(RESOLVE_ERRORS_HERE[name][1]):
            select(index, want, fallback="first")
    else:
        assert select(index, want, fallback="first").annotations["n"] == row["Picked"]


@pytest.mark.parametrize("name", EXTRACT)
def test_remote_puller_agrees_with_agentfile(name: str) -> None:
    row = EXTRACT[name]
    registry = MemoryRegistry()
    push_empty_config(registry, "team/tool")
    layers = []
    for layer in row["layers"]:
        assert set(layer) == {"data_base64", "mediaType", "title"}
        data = base64.b64decode(layer["data_base64"])
        push(registry, "team/tool", data)
        annotations = {TITLE: layer["title"]} if layer["title"] else {}
        layers.append(Descriptor.of(data, layer["mediaType"], annotations=annotations))
    manifest = manifest_bytes("x", layers=layers, annotations=row["manifest_annotations"])
    registry.push_manifest("team/tool", manifest, MEDIA_TYPE_MANIFEST, tags=("latest",))

    pull = remote_puller(annotation_keys=KEYS, open_reader=lambda _: nullcontext(registry))
    out = io.BytesIO()
    if "error" in row:
        with pytest.raises(EXTRACT_ERRORS[name]):
            pull("registry.example/team/tool", out)
    else:
        pull("registry.example/team/tool", out)
    _, expected = ANOTHER_OUTPUT_HERE.get(name, ("", row["output"].encode()))
    assert out.getvalue() == expected


def test_agentfile_vectors_hold_the_deliberate_differences() -> None:
    assert set(VECTORS) == {
        "extract_bin",
        "resolve_index_seed_version",
        "retry",
        "retry_backoff_parameters",
    }
    assert (len(RESOLVE), len(EXTRACT)) == (5, 9)
    assert set(RESOLVE_ERRORS_HERE) <= set(RESOLVE)
    assert set(ANOTHER_OUTPUT_HERE) <= set(EXTRACT)
    assert {name for name, row in EXTRACT.items() if "error" in row} == set(EXTRACT_ERRORS)

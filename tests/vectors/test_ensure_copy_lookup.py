"""The requests of meta-scripts to ensure and copy objects, compared with ours.

The rows know most contents by their digests only (others are repeated letters), so ours have other
digests: `DIGESTS` maps the digests of the rows to ours.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dockercomms.errors import BlobUnknown, DockerCommsError, UsageError
from dockercomms.oci.auth.credentials import DockerConfig
from dockercomms.oci.images.cache import CachedRegistry
from dockercomms.oci.images.copy import copy_manifest, ensure_manifest
from dockercomms.oci.images.ensure import copy_blob, ensure_blob, lookup
from dockercomms.oci.interface import Registry, read_all
from dockercomms.oci.model import (
    MEDIA_TYPE_IMAGE_CONFIG,
    MEDIA_TYPE_IMAGE_LAYER_GZIP,
    MEDIA_TYPE_MANIFEST,
    Descriptor,
    Digest,
    Platform,
    digest_of,
)
from dockercomms.oci.remote.registry import HTTPRegistry
from dockercomms.oci.stores import Location
from dockercomms.oci.strict_json import canonical_json
from tests.fakes.clock import FakeClock
from tests.fakes.images import Built, index_of, push
from tests.fakes.registry import DISTRIBUTION, FakeRegistry

ROWS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "spec/vectors/seeds/ensure_copy_lookup.json").read_text()
)
MEMBERS = {"name", "note", "steps"}
STEP_MEMBERS = {"call", "result", "error", "requests"}
REQUEST_MEMBERS = {
    "server", "method", "path", "status", "content_range", "content_type", "content_length",
}  # fmt: skip


def image(architecture: str, layer: bytes) -> Built:
    config = canonical_json({"architecture": architecture, "os": "linux"})
    known = Descriptor.of(config, MEDIA_TYPE_IMAGE_CONFIG)
    blob = Descriptor.of(layer, MEDIA_TYPE_IMAGE_LAYER_GZIP)
    data = canonical_json(
        {
            "schemaVersion": 2,
            "mediaType": MEDIA_TYPE_MANIFEST,
            "config": known.to_json(),
            "layers": [blob.to_json()],
        }
    )
    return Built(data, ((known, config), (blob, layer)), platform=Platform("linux", architecture))


IMAGES = image("amd64", b"layer one"), image("arm64", b"layer two")
INDEX = index_of(*IMAGES)
APP = b"app"
SMALL, LARGE, LARGER = b"s" * 65535, b"L" * 65536, b"G" * 70000
KEPT, NOT_KEPT = b"B" * 4194304, b"B" * 4194305

DIGESTS: dict[str, bytes] = {
    "1e9d785c8396": IMAGES[0].data,
    "424bed002d12": IMAGES[1].data,
    "75e8e8daed41": INDEX.data,
    "e997ec0b5ffa": IMAGES[0].blobs[0][1],
    "f191e625176e": IMAGES[0].blobs[1][1],
    "ebdd9a60e554": IMAGES[1].blobs[0][1],
    "77c7ed05b2e4": IMAGES[1].blobs[1][1],
    "a89b36ade06b": APP,
    "2d711642b726": b"x",
    "5ad38304b535": b"absent",
    "8b4e6f3edbb8": SMALL,
    "ec884ed0adc0": LARGE,
    "4ba018371383": LARGER,
    "5947c00ce4da": KEPT,
    "cc44a41b773c": NOT_KEPT,
}
"""The first digits of a row's digest: what has it here."""

Asked = tuple[str, str, str, int]
"""Server, method, path and query with `<id>` for a session, status."""


@dataclass
class World:
    """Two registries as the originals were measured with."""

    servers: dict[str, FakeRegistry]
    stores: dict[str, Registry]
    sources: dict[str, int] = field(default_factory=dict)

    def at(self, text: str) -> Location:
        """Return the location of `A/src/img:v1@<first digits of a row's digest>`."""
        rest, _, digest = text.partition("@")
        server, _, name = rest.partition("/")
        repository, _, tag = name.partition(":")
        found = digest_of(DIGESTS[digest]) if digest else None
        return Location(self.stores[server], repository, tag=tag or None, digest=found)

    def asked(self) -> list[Asked]:
        """Return what was asked since the last time."""
        found = []
        for name, server in self.servers.items():
            for seen in server.asked():
                path = re.sub(r"/uploads/[^/?]+", "/uploads/<id>", seen.target)
                path = re.sub(r"\?_state=[^&]*&", "?", path)
                path = re.sub(r"\?_state=[^&]*$", "", path)
                found.append((name, seen.method, path, seen.status or 0))
            server.forget_requests()
        return found


@pytest.fixture
def world() -> Iterator[World]:
    with FakeRegistry(DISTRIBUTION) as one, FakeRegistry(DISTRIBUTION) as two:
        clients = {
            name: HTTPRegistry(server.host, auth=DockerConfig(), clock=FakeClock())
            for name, server in (("A", one), ("B", two))
        }
        for built in (*IMAGES, INDEX):
            push(clients["A"], "src/img", built)
        for tag, built in (("v1", INDEX), ("latest", IMAGES[0])):
            push(clients["A"], "src/img", built, tag)
        for repository, data in (
            ("src/app", APP),
            ("src/app", LARGER),
            ("eb/two", LARGE),
            ("src/img", KEPT),
            ("src/img", NOT_KEPT),
        ):
            one.put_blob_raw(repository, data)
        found = World({"A": one, "B": two}, dict(clients))
        found.asked()
        yield found
        for client in clients.values():
            client.close()


def blob_source(data: bytes) -> Callable[[], io.BytesIO]:
    return lambda: io.BytesIO(data)


def ensured(data: bytes, place: str) -> Callable[[World], object]:
    return lambda world: ensure_blob(world.at(place), len(data), blob_source(data))


def put(built: Built, place: str, fallback: str | None = None) -> Callable[[World], object]:
    def call(world: World) -> object:
        sources = None if fallback is None else {"": world.at(fallback)}
        return ensure_manifest(
            world.at(place), built.data, built.media_type, sources, concurrency=1
        )

    return call


def blob_copied(source: str, target: str) -> Callable[[World], object]:
    return lambda world: copy_blob(world.at(source), world.at(target))


def copied(source: str, target: str) -> Callable[[World], object]:
    return lambda world: copy_manifest(world.at(source), world.at(target), concurrency=1)


def read(place: str, *, head: bool = False) -> Callable[[World], object]:
    def call(world: World) -> object:
        if not isinstance(world.stores["A"], CachedRegistry):
            world.stores["A"] = CachedRegistry(world.stores["A"])
        reader = lookup(world.at(place), kind="blob", head=head)
        if reader is None:
            return None
        if head:
            return reader.descriptor
        return read_all(reader, 5_000_000)[1]

    return call


CALLS: dict[tuple[str, str], Callable[[World], object]] = {
    ("ensure_blob-small", "EnsureBlob(65535 bytes)"): ensured(SMALL, "A/eb/one@8b4e6f3edbb8"),
    ("ensure_blob-small", "EnsureBlob(65535 bytes) again"): ensured(SMALL, "A/eb/one@8b4e6f3edbb8"),
    ("ensure_blob-large-present-fresh-client", "EnsureBlob(65536 bytes)"): ensured(
        LARGE, "A/eb/two@ec884ed0adc0"
    ),
    ("copy_blob-same-host", "CopyBlob(A/src/app@d, A/dst/app)"): blob_copied(
        "A/src/app@a89b36ade06b", "A/dst/app"
    ),
    ("copy_blob-same-host", "CopyBlob of a blob the source lacks"): blob_copied(
        "A/src/app@5ad38304b535", "A/dst/app"
    ),
    ("copy_blob-cross-host-large", "CopyBlob"): blob_copied("A/src/app@4ba018371383", "B/dst/app"),
    ("copy_blob-errors", "no source digest"): blob_copied("A/src/app", "B/dst/app"),
    ("copy_blob-errors", "digests differ"): blob_copied(
        "A/src/app@a89b36ade06b", "B/dst/app@2d711642b726"
    ),
    ("copy_blob-errors", "source tag"): blob_copied("A/src/app:t@a89b36ade06b", "B/dst/app"),
    ("copy_blob-errors", "target tag"): blob_copied(
        "A/src/app@a89b36ade06b", "B/dst/app:t@a89b36ade06b"
    ),
    ("ensure_manifest-children-present", "new tag"): put(INDEX, "A/src/img:v2"),
    ("ensure_manifest-children-present", "tag moves to other content"): put(
        IMAGES[0], "A/src/img:v2"
    ),
    ("ensure_manifest-children-present", "tag and digest together"): put(
        IMAGES[0], "A/src/img:v3@1e9d785c8396"
    ),
    ("ensure_manifest-mount-children", "image"): put(IMAGES[0], "A/mnt/one:v1", "A/src/img"),
    ("ensure_manifest-index-recursion", "index"): put(INDEX, "A/mnt/three:v1", "A/src/img"),
    ("copy_manifest-cross-host-again", "CopyManifest"): copied("A/src/img:v1", "B/copy/img:v1"),
    ("copy_manifest-source-latest", "CopyManifest"): copied("A/src/img", "B/copy/img"),
    ("cache-limit", "GET 4194304 bytes"): read("A/src/img@5947c00ce4da"),
    ("cache-limit", "again"): read("A/src/img@5947c00ce4da"),
    ("cache-limit", "GET 4194305 bytes"): read("A/src/img@cc44a41b773c"),
    ("cache-limit", "HEAD 4194305 bytes"): read("A/src/img@cc44a41b773c", head=True),
    ("cache-limit", "same digest, other repository: not assumed present"): read(
        "A/src/app@5947c00ce4da"
    ),
}
AGAIN_LARGER = read("A/src/img@cc44a41b773c")
"""The second "again" of cache-limit."""

BEFORE: dict[str, tuple[str, str]] = {
    "copy_manifest-cross-host-again": ("A/src/img:v1", "B/copy/img:v1"),
    "copy_manifest-source-latest": ("A/src/img", "B/copy/img"),
}
"""The object that an earlier scenario copied."""


def _mounts(repository: str, *digests: str) -> list[str]:
    asked = []
    for digest in digests:
        asked += [
            f"A POST /v2/{repository}/blobs/uploads/?mount={digest}&from=src/img 201",
            f"A HEAD /v2/{repository}/blobs/{digest} 200",
        ]
    return asked


MOUNT_TELLS_NO_SIZE = "a HEAD more for each mount: the descriptor returned has the blob's size"

DIFFERENCES: dict[tuple[str, str], tuple[list[str], str]] = {
    ("copy_blob-same-host", "CopyBlob(A/src/app@d, A/dst/app)"): (
        [
            "A POST /v2/dst/app/blobs/uploads/?mount=a89b36ade06b&from=src/app 201",
            "A HEAD /v2/dst/app/blobs/a89b36ade06b 200",
        ],
        MOUNT_TELLS_NO_SIZE,
    ),
    ("copy_blob-same-host", "CopyBlob of a blob the source lacks"): (
        [
            "A POST /v2/dst/app/blobs/uploads/?mount=5ad38304b535&from=src/app 202",
            "A DELETE /v2/dst/app/blobs/uploads/<id> 204",
            "A HEAD /v2/dst/app/blobs/5ad38304b535 404",
            "A GET /v2/src/app/blobs/5ad38304b535 404",
        ],
        "a refused mount leaves no session behind, and is no error where the blob can be moved",
    ),
    ("copy_blob-cross-host-large", "CopyBlob"): (
        [
            "A GET /v2/src/app/blobs/4ba018371383 200",
            "B HEAD /v2/dst/app/blobs/4ba018371383 404",
            "B POST /v2/dst/app/blobs/uploads/ 202",
            "B PUT /v2/dst/app/blobs/uploads/<id>?digest=4ba018371383 201",
        ],
        "asked in another order: the target first, so that nothing is read if it is there",
    ),
    ("ensure_manifest-children-present", "tag moves to other content"): (
        ["A HEAD /v2/src/img/manifests/v2 200", "A PUT /v2/src/img/manifests/v2 201"],
        "where a tag points is not remembered for ever",
    ),
    ("ensure_manifest-mount-children", "image"): (
        [
            "A HEAD /v2/mnt/one/manifests/v1 404",
            "A PUT /v2/mnt/one/manifests/v1 400",
            *_mounts("mnt/one", "f191e625176e", "e997ec0b5ffa"),
            "A PUT /v2/mnt/one/manifests/v1 201",
        ],
        MOUNT_TELLS_NO_SIZE,
    ),
    ("ensure_manifest-index-recursion", "index"): (
        [
            "A HEAD /v2/mnt/three/manifests/v1 404",
            "A PUT /v2/mnt/three/manifests/v1 400",
            "A HEAD /v2/mnt/three/manifests/1e9d785c8396 404",
            "A GET /v2/src/img/manifests/1e9d785c8396 200",
            "A HEAD /v2/mnt/three/manifests/424bed002d12 404",
            "A GET /v2/src/img/manifests/424bed002d12 200",
            *_mounts("mnt/three", "e997ec0b5ffa", "ebdd9a60e554", "f191e625176e", "77c7ed05b2e4"),
            "A PUT /v2/mnt/three/manifests/1e9d785c8396 201",
            "A PUT /v2/mnt/three/manifests/424bed002d12 201",
            "A PUT /v2/mnt/three/manifests/v1 201",
        ],
        "children are put after their parts, not tried before: some registries take them without",
    ),
    ("copy_manifest-cross-host-again", "CopyManifest"): (
        ["A HEAD /v2/src/img/manifests/v1 200", "B HEAD /v2/copy/img/manifests/v1 200"],
        "the source's digest is enough to know that nothing is to be done",
    ),
    ("copy_manifest-source-latest", "CopyManifest"): (
        [
            "A HEAD /v2/src/img/manifests/latest 200",
            "B HEAD /v2/copy/img/manifests/1e9d785c8396 200",
        ],
        "the same",
    ),
}
"""Scenario and call: what ours asks, in any order, in place of what was measured, and why."""

ERRORS: dict[tuple[str, str], type[DockerCommsError]] = {
    ("copy_blob-same-host", "CopyBlob of a blob the source lacks"): BlobUnknown,
    **{key: UsageError for key in CALLS if key[0] == "copy_blob-errors"},
}


def ours(text: str) -> str:
    """Return `text` with our digests for those of the rows, whole or shortened."""
    for short, data in DIGESTS.items():
        text = re.sub(rf"(?:sha256:)?{short}[0-9a-f]*", digest_of(data), text)
    return text


def measured(step: dict[str, Any]) -> list[Asked]:
    return [
        (asked["server"], asked["method"], ours(asked["path"]), asked["status"])
        for asked in step["requests"] or []
    ]


def expected(key: tuple[str, str], step: dict[str, Any]) -> list[Asked]:
    if key not in DIFFERENCES:
        return measured(step)
    lines = [ours(line).rsplit(" ", 1) for line in DIFFERENCES[key][0]]
    found = []
    for line, status in lines:
        server, method, path = line.split(" ", 2)
        found.append((server, method, path, int(status)))
    return found


def check_result(key: tuple[str, str], step: dict[str, Any], result: object) -> None:
    said = json.loads(step["result"])
    if said is None:
        assert result is None
        return
    assert isinstance(result, Descriptor)
    measured_digest = said.get("descriptor", said)["digest"]
    assert result.digest == ours(measured_digest)
    data = DIGESTS[re.sub("sha256:", "", measured_digest)[:12]]
    assert result.size == len(data)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["name"])
def test_copy_asks_what_was_measured(row: dict[str, Any], world: World) -> None:
    assert set(row) <= MEMBERS
    if row["name"] in BEFORE:
        copied(*BEFORE[row["name"]])(world)
        world.asked()
    seen: set[str] = set()
    for step in row["steps"]:
        assert set(step) <= STEP_MEMBERS
        assert all(set(asked) <= REQUEST_MEMBERS for asked in step["requests"] or [])
        key = row["name"], step["call"]
        call = AGAIN_LARGER if step["call"] in seen else CALLS[key]
        seen.add(step["call"])
        if key in ERRORS:
            assert step["error"]
            with pytest.raises(ERRORS[key]):
                call(world)
        else:
            assert "error" not in step
            check_result(key, step, call(world))
        asked = world.asked()
        wanted = expected(key, step)
        if key in DIFFERENCES:
            assert sorted(asked) == sorted(wanted)
        else:
            assert asked == wanted


def test_differences_are_all_of_known_rows() -> None:
    known = {(row["name"], step["call"]) for row in ROWS for step in row["steps"]}
    assert set(DIFFERENCES) <= known
    assert set(CALLS) == known
    assert all(reason for _, reason in DIFFERENCES.values())


# --- the rest of what was measured, in words of SEEDS -------------------------------------------


def test_copy_whole_tree_then_only_descriptors(world: World) -> None:
    """Four blobs and three manifests from A to B; the second time nothing moves."""
    done = copy_manifest(world.at("A/src/img:v1"), world.at("B/copy/img:v1"))
    assert done == INDEX.descriptor
    asked = world.asked()
    assert sum(method == "PUT" and "/uploads/" in path for _, method, path, _ in asked) == 4
    assert [path for _, method, path, _ in asked if method == "PUT"][-1].endswith("/v1")
    assert all(status < 400 for server, _, _, status in asked if server == "A")
    copy_manifest(world.at("A/src/img:v1"), world.at("B/copy/img:v1"))
    assert [(server, method) for server, method, _, _ in world.asked()] == [
        ("A", "HEAD"),
        ("B", "HEAD"),
    ]


def test_ensure_manifest_without_any_source_is_an_error_and_no_crash(world: World) -> None:
    """The original panics with a nil map."""
    with pytest.raises(BlobUnknown):
        ensure_manifest(world.at("A/new/one:v1"), IMAGES[0].data, MEDIA_TYPE_MANIFEST)


def test_ensure_manifest_takes_each_child_from_its_own_source(world: World) -> None:
    """By digest, else from "", else from the repository itself."""
    copied("A/src/img:v1", "B/b/img:v1")(world)
    sources = {
        Digest(IMAGES[0].descriptor.digest): world.at("A/src/img"),
        "": world.at("B/b/img"),
    }
    world.asked()
    ensure_manifest(world.at("A/dst/img:v1"), INDEX.data, INDEX.media_type, sources, concurrency=1)
    gets = {(server, path) for server, method, path, _ in world.asked() if method == "GET"}
    assert ("A", f"/v2/src/img/manifests/{IMAGES[0].descriptor.digest}") in gets
    assert ("B", f"/v2/b/img/manifests/{IMAGES[1].descriptor.digest}") in gets

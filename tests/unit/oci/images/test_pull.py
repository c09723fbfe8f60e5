from __future__ import annotations

import errno
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from dockercomms.errors import (
    BlobUnknown,
    DockerCommsError,
    IntegrityError,
    LimitError,
    LocalIOError,
    ManifestUnknown,
    NameUnknown,
    NotFoundError,
    PlatformNotFound,
    ProtocolError,
    UsageError,
)
from dockercomms.oci.images.pull import (
    NoopPuller,
    RemotePuller,
    fetch_artifact,
    noop_puller,
    remote_puller,
    save_artifact,
)
from dockercomms.oci.layout.registry import LayoutRegistry
from dockercomms.oci.memory import MemoryRegistry
from dockercomms.oci.model import (
    ANNOTATION_TITLE,
    MEDIA_TYPE_INDEX,
    MEDIA_TYPE_MANIFEST,
    Descriptor,
    Platform,
)
from dockercomms.oci.reference import Reference
from dockercomms.oci.remote.registry import HTTPRegistry
from tests.contract.capabilities import index_bytes, manifest_bytes, push, push_empty_config
from tests.fakes.static_reader import CountingRegistry
from tests.fakes.tarballs import GZIP, Item, make_tar, pack

BOX = "team/tool"
REF = Reference(host="registry.example", repository=BOX, tag="v1")
NAME, FOLDER = "example.name", "example.path"


@pytest.fixture
def registry() -> MemoryRegistry:
    made = MemoryRegistry()
    push_empty_config(made, BOX)
    return made


def layer(data: bytes, title: str | None = None, media_type: str = "text/plain") -> Descriptor:
    annotations = {} if title is None else {ANNOTATION_TITLE: title}
    return replace(Descriptor.of(data, media_type, annotations=annotations), data=data)


def push_artifact(
    registry: MemoryRegistry,
    *layers: Descriptor,
    tag: str = "v1",
    annotations: dict[str, str] | None = None,
) -> Descriptor:
    """Push an artifact of layers that were made with `layer`."""
    for item in layers:
        if item.data is not None:
            push(registry, BOX, item.data)
    stored = [replace(item, data=None) for item in layers]
    fields = json.loads(manifest_bytes("x", layers=stored))
    fields["annotations"] = annotations or {}
    return registry.push_manifest(
        BOX, json.dumps(fields).encode(), MEDIA_TYPE_MANIFEST, tags=(tag,)
    )


# --- whole artifacts ---


def test_fetch_artifact_has_every_layer(registry: MemoryRegistry) -> None:
    pushed = push_artifact(registry, layer(b"one", "a"), layer(b"two"))
    found = fetch_artifact(registry, REF)
    assert found.descriptor == pushed
    assert [(item.title, item.data) for item in found.layers] == [("a", b"one"), (None, b"two")]
    assert [item.descriptor for item in found.layers] == list(found.manifest.layers)


def test_fetch_artifact_takes_the_latest_by_default(registry: MemoryRegistry) -> None:
    push_artifact(registry, layer(b"one"), tag="latest")
    assert fetch_artifact(registry, replace(REF, tag=None)).layers[0].data == b"one"


def test_fetch_artifact_works_on_a_layout(tmp_path: Path) -> None:
    layout = LayoutRegistry(tmp_path / "box", create=True)
    push_empty_config(layout, "")
    push(layout, "", b"one")
    data = manifest_bytes("x", layers=[replace(layer(b"one"), data=None)])
    layout.push_manifest("", data, MEDIA_TYPE_MANIFEST, tags=("v1",))
    assert fetch_artifact(layout, REF).layers[0].data == b"one"
    layout.close()


def test_fetch_artifact_takes_an_entry_of_an_index(registry: MemoryRegistry) -> None:
    ppc = replace(push_artifact(registry, layer(b"ppc")), platform=Platform("plan9", "ppc"))
    host = replace(push_artifact(registry, layer(b"host")), platform=Platform.host())
    registry.push_manifest(BOX, index_bytes([ppc, host]), MEDIA_TYPE_INDEX, tags=("v1",))
    assert fetch_artifact(registry, REF).layers[0].data == b"host"
    found = fetch_artifact(registry, REF, platform=Platform.parse("plan9/ppc"))
    assert (found.descriptor, found.layers[0].data) == (ppc, b"ppc")
    with pytest.raises(PlatformNotFound):
        fetch_artifact(registry, REF, platform=Platform.parse("linux/none"))
    found = fetch_artifact(registry, REF, platform=Platform.parse("linux/none"), fallback="first")
    assert found.layers[0].data == b"ppc"


def test_fetch_artifact_refuses_too_large_a_one_unread(registry: MemoryRegistry) -> None:
    push_artifact(registry, layer(b"12345"), layer(b"67890"))
    counted = CountingRegistry(registry)
    with pytest.raises(LimitError, match="10 bytes of layers; at most 9"):
        fetch_artifact(counted, REF, limit=9)
    assert counted.calls == ["get_tag"]
    assert len(fetch_artifact(registry, REF, limit=10).layers) == 2


@pytest.mark.parametrize("fetch", ["memory", "folder"])
def test_a_whole_artifact_needs_all_of_it(
    registry: MemoryRegistry, tmp_path: Path, fetch: str
) -> None:
    def get(ref: Reference) -> object:
        if fetch == "memory":
            return fetch_artifact(registry, ref)
        return save_artifact(registry, ref, tmp_path)

    lost = layer(b"two", "b")
    push_artifact(registry, layer(b"one", "a"), lost)
    registry.delete_blob(BOX, lost.digest)
    with pytest.raises(BlobUnknown):
        get(REF)
    with pytest.raises(ManifestUnknown):
        get(replace(REF, tag="other"))
    with pytest.raises(NameUnknown):
        get(replace(REF, repository="other"))
    push(registry, BOX, b"three")
    wrong = replace(layer(b"three", "c"), size=6, data=None)
    push_artifact(registry, layer(b"one", "a"), wrong)
    with pytest.raises(IntegrityError):
        get(REF)
    assert list(tmp_path.iterdir()) == []


def test_save_artifact_names_files_by_their_titles(
    registry: MemoryRegistry, tmp_path: Path
) -> None:
    untitled = layer(b"three")
    push_artifact(registry, layer(b"one", "a.txt"), layer(b"two", "docs/./more/b.txt"), untitled)
    steps: list[tuple[int, int]] = []
    saved = save_artifact(
        registry, REF, tmp_path, progress=lambda done, total: steps.append((done, total))
    )
    assert {
        item.path.relative_to(tmp_path).as_posix(): item.path.read_bytes() for item in saved
    } == {
        "a.txt": b"one",
        "docs/more/b.txt": b"two",
        untitled.digest.replace(":", "-"): b"three",
    }
    assert steps == [(3, 11), (6, 11), (11, 11)]
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 3


UNSAFE = ["/etc/x", "../x", "a/../x", "a//x", "a/", "a/.", ".", "..", "a\\x", "a\nb", "n" * 256]


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        *[("fine", title, "unsafe file name") for title in UNSAFE],
        ("a/x", "./a/x", "is used twice"),
        ("a", "a/b", "its folder is also a file"),
        ("a/b/c", "a", "its folder is also a file"),
    ],
)
def test_save_artifact_refuses_unsafe_names_and_those_that_exclude_each_other(
    registry: MemoryRegistry, tmp_path: Path, first: str, second: str, reason: str
) -> None:
    push_artifact(registry, layer(b"one", first), layer(b"two", second))
    with pytest.raises(ProtocolError, match=reason):
        save_artifact(registry, REF, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_save_artifact_follows_no_link(registry: MemoryRegistry, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "docs").symlink_to(outside)
    push_artifact(registry, layer(b"one", "new/a"), layer(b"two", "docs/b"))
    with pytest.raises(LocalIOError):
        save_artifact(registry, REF, inside)
    assert list(outside.iterdir()) == []
    assert [path.name for path in inside.iterdir()] == ["docs"]


def test_save_artifact_replaces_nothing_unless_it_is_told_to(
    registry: MemoryRegistry, tmp_path: Path
) -> None:
    push_artifact(registry, layer(b"one", "new/a"), layer(b"two", "b"))
    (tmp_path / "b").write_bytes(b"old")
    with pytest.raises(LocalIOError, match="exists"):
        save_artifact(registry, REF, tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["b"]
    assert (tmp_path / "b").read_bytes() == b"old"
    (tmp_path / "new").mkdir()
    save_artifact(registry, REF, tmp_path, overwrite=True)
    assert (tmp_path / "b").read_bytes() == b"two"
    assert (tmp_path / "new" / "a").read_bytes() == b"one"


def test_save_artifact_keeps_a_folder_that_is_used_by_now(
    registry: MemoryRegistry, tmp_path: Path
) -> None:
    lost = layer(b"two", "b")
    push_artifact(registry, layer(b"one", "new/a"), lost)

    class Busy(CountingRegistry):
        def get_blob(self, *args: object, **kwargs: object) -> object:
            if (tmp_path / "new").is_dir():
                (tmp_path / "new" / "another's").touch()
            return registry.get_blob(*args, **kwargs)  # type: ignore[arg-type]

    registry.delete_blob(BOX, lost.digest)
    with pytest.raises(BlobUnknown):
        save_artifact(Busy(registry), REF, tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["new", "another's"]


# --- pullers ---


def test_noop_puller_writes_ten_bytes() -> None:
    out = io.BytesIO()
    noop_puller()(REF, out)
    NoopPuller()("anything at all", out)
    assert out.getvalue() == b"#!/bin/sh\n" * 2


def test_noop_puller_tells_that_the_writer_failed() -> None:
    class Full(io.BytesIO):
        def write(self, data: object, /) -> int:
            raise OSError(errno.ENOSPC, "no space left on device")

    with pytest.raises(LocalIOError):
        noop_puller()(REF, Full())


def tool(name: str, data: bytes) -> Descriptor:
    return layer(pack(make_tar([Item("bin/" + name, data)]), GZIP), media_type=GZIP)


def test_remote_puller_gets_the_file_it_is_for(registry: MemoryRegistry) -> None:
    push_artifact(registry, tool("hello", b"binary"), layer(b"text", "notes"))
    hosts = []

    @contextmanager
    def opened(host: str) -> Iterator[MemoryRegistry]:
        hosts.append(f"open {host}")
        yield registry
        hosts.append(f"close {host}")

    pull = remote_puller(name="hello", path="/bin", open_reader=opened)
    out = io.BytesIO()
    pull(REF, out)
    pull(REF.full(), out)
    assert out.getvalue() == b"binary" * 2
    assert hosts == ["open registry.example", "close registry.example"] * 2


def test_remote_puller_lets_the_artifact_say_which_file(registry: MemoryRegistry) -> None:
    push_artifact(
        registry,
        tool("hello", b"binary"),
        layer(b"text", "notes"),
        annotations={NAME: "hello", FOLDER: "/bin"},
    )

    def pulled(**options: str) -> bytes:
        out = io.BytesIO()
        remote_puller(
            annotation_keys=(NAME, FOLDER), open_reader=lambda _: nullcontext(registry), **options
        )(REF, out)  # type: ignore[arg-type]
        return out.getvalue()

    assert pulled() == b"binary"
    assert pulled(name="notes") == b"text"
    assert pulled(path="elsewhere") == b"binary"
    push_artifact(registry, layer(b"only"))
    assert pulled() == b"only"


@pytest.mark.parametrize(
    ("ref", "error"),
    [
        ("tool:v1", UsageError),
        ("registry.example/team/tool:none", ManifestUnknown),
        ("registry.example/other:v1", NameUnknown),
        ("registry.example/team/tool:v1", NotFoundError),
    ],
)
def test_remote_puller_writes_nothing_when_it_fails(
    registry: MemoryRegistry, ref: str, error: type[DockerCommsError]
) -> None:
    push_artifact(registry, tool("other", b"binary"))
    out = io.BytesIO()
    with pytest.raises(error):
        remote_puller(name="hello", open_reader=lambda _: nullcontext(registry))(ref, out)
    assert out.getvalue() == b""


def test_remote_puller_has_a_largest_file(registry: MemoryRegistry) -> None:
    push_artifact(registry, tool("hello", b"binary"))
    pull = remote_puller(name="hello", limit=5, open_reader=lambda _: nullcontext(registry))
    with pytest.raises(LimitError):
        pull(REF, io.BytesIO())


def test_remote_puller_takes_the_options_of_a_registry() -> None:
    pull = remote_puller(name="hello", plain_http=True, timeout=5)
    assert isinstance(pull, RemotePuller)
    with pull.open_reader("registry.example:5000") as made:
        assert isinstance(made, HTTPRegistry)
        assert made.endpoint.plain_http is True
        assert made.endpoint.timeout == 5

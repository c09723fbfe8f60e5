from __future__ import annotations

import errno
import io
import os
import stat
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from dockercomms.errors import (
    BlobUnknown,
    DockerCommsError,
    IntegrityError,
    LimitError,
    LocalIOError,
    NotFoundError,
    ProtocolError,
    UsageError,
)
from dockercomms.oci.images.extract import FileQuery, extract_file, new_file, save_file
from dockercomms.oci.memory import MemoryRegistry
from dockercomms.oci.model import ANNOTATION_TITLE, EMPTY_CONFIG, Descriptor, Manifest
from tests.contract.capabilities import push
from tests.fakes.static_reader import CountingRegistry, StaticReader
from tests.fakes.tarballs import GZIP, PLAIN, ZSTD, Item, make_tar, pack

BOX = "team/tool"
TYPES = [GZIP, ZSTD, PLAIN]


@pytest.fixture
def registry() -> MemoryRegistry:
    return MemoryRegistry()


def layer(
    registry: MemoryRegistry, data: bytes, media_type: str, title: str | None = None
) -> Descriptor:
    push(registry, BOX, data)
    annotations = {} if title is None else {ANNOTATION_TITLE: title}
    return Descriptor.of(data, media_type, annotations=annotations)


def tar_layer(
    registry: MemoryRegistry, items: Sequence[Item], media_type: str = GZIP
) -> Descriptor:
    return layer(registry, pack(make_tar(items), media_type), media_type)


def extracted(
    registry: MemoryRegistry, *layers: Descriptor, name: str | None = "tool", path: str = ""
) -> bytes:
    out = io.BytesIO()
    manifest = Manifest(config=EMPTY_CONFIG, layers=layers)
    found = extract_file(registry, BOX, manifest, out, name=name, path=path)
    assert found.size == len(out.getvalue())
    assert found.layer in layers
    return out.getvalue()


# --- the query ---


@pytest.mark.parametrize(
    ("name", "folder", "written", "rank"),
    [
        ("tool", "", "tool", "exact"),
        ("tool", "", "./tool", "exact"),
        ("tool", "", "bin/tool", "name"),
        ("tool", "bin", "bin/tool", "exact"),
        ("tool", "/bin", "bin/tool", "exact"),
        ("tool", "/bin/", "./bin//tool", "exact"),
        ("tool", "bin", "tool", "name"),
        ("bin/tool", "", "bin/tool", "exact"),
        ("bin/tool", "usr", "usr/bin/tool", "exact"),
        ("tool", "", "tools", None),
        ("tool", "", "tool/x", None),
        ("tool", "", "", None),
        ("tool", "", "/", None),
        ("tool", "", "/tool", "unsafe"),
        ("tool", "bin", "/bin/tool", "unsafe"),
        ("tool", "/bin", "/bin/tool", "exact"),
        ("/bin/tool", "", "/bin/tool", "exact"),
        ("/bin/tool", "", "bin/tool", "exact"),
        ("tool", "", "../tool", "unsafe"),
        ("tool", "", "bin/../../tool", "unsafe"),
    ],
)
def test_file_query_ranks_what_is_written(
    name: str, folder: str, written: str, rank: str | None
) -> None:
    assert FileQuery.of(name, folder).rank(written) == rank


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("", ""),
        (".", ""),
        ("..", ""),
        ("bin/", ""),
        ("../tool", ""),
        ("tool", "a/.."),
        ("a\0b", ""),
        ("tool", "\0"),
        ("n" * 400 + "/..", ""),
    ],
)
def test_file_query_refuses_what_is_no_file_name(name: str, folder: str) -> None:
    with pytest.raises(UsageError):
        FileQuery.of(name, folder)


# --- where it is found ---


@pytest.mark.parametrize("title", ["tool", "bin/tool", "./tool", "opt/tool"])
def test_extract_file_takes_a_layer_by_its_title(registry: MemoryRegistry, title: str) -> None:
    other = layer(registry, b"other", "application/x", "other")
    wanted = layer(registry, b"binary", "application/x", title)
    assert extracted(registry, other, wanted, path="bin") == b"binary"


def test_extract_file_takes_the_very_title_before_another_of_that_name(
    registry: MemoryRegistry,
) -> None:
    first = layer(registry, b"first", "application/x", "opt/tool")
    exact = layer(registry, b"exact", "application/x", "bin/tool")
    assert extracted(registry, first, exact, path="bin") == b"exact"
    assert extracted(registry, first, exact) == b"first"


@pytest.mark.parametrize("media_type", TYPES)
def test_extract_file_takes_a_file_out_of_a_tar(registry: MemoryRegistry, media_type: str) -> None:
    items = [Item("bin/other", b"1"), Item("./bin/tool", b"binary" * 1000), Item("z", b"2")]
    made = tar_layer(registry, items, media_type)
    assert extracted(registry, made, path="bin") == b"binary" * 1000
    assert extracted(registry, made, name="bin/tool") == b"binary" * 1000


def test_extract_file_takes_the_very_path_wherever_it_stands(registry: MemoryRegistry) -> None:
    first = tar_layer(registry, [Item("opt/tool", b"far longer than it"), Item("lib/tool", b"3")])
    second = tar_layer(registry, [Item("a/tool", b"4"), Item("bin/tool", b"exact")], ZSTD)
    assert extracted(registry, first, second, path="/bin") == b"exact"
    assert extracted(registry, first, second, path="none") == b"far longer than it"


def test_extract_file_takes_the_first_of_equals(registry: MemoryRegistry) -> None:
    twice = tar_layer(registry, [Item("bin/tool", b"first"), Item("bin/tool", b"second")])
    again = tar_layer(registry, [Item("bin/tool", b"third")])
    assert extracted(registry, twice, again, path="bin") == b"first"


def test_extract_file_passes_over_layers_that_are_no_archives(registry: MemoryRegistry) -> None:
    notes = layer(registry, b"notes", "text/plain", "notes.txt")
    tar = tar_layer(registry, [Item("tool", b"binary")])
    assert extracted(registry, notes, tar) == b"binary"


def test_extract_file_reads_inline_layers(registry: MemoryRegistry) -> None:
    data = pack(make_tar([Item("tool", b"binary")]), GZIP)
    inline = replace(Descriptor.of(data, GZIP), data=data)
    counted = CountingRegistry(registry)
    out = io.BytesIO()
    manifest = Manifest(config=EMPTY_CONFIG, layers=(inline,))
    assert extract_file(counted, BOX, manifest, out, name="tool").member == "tool"
    assert counted.calls == []


def test_extract_file_without_a_name_takes_the_only_layer(registry: MemoryRegistry) -> None:
    only = layer(registry, b"binary", "application/x")
    assert extracted(registry, only, name=None) == b"binary"
    with pytest.raises(UsageError, match="2 layers"):
        extracted(registry, only, only, name=None)
    with pytest.raises(UsageError, match="0 layers"):
        extracted(registry, name=None)
    for media_type in (*TYPES, "application/gzip"):
        with pytest.raises(UsageError, match="is an archive"):
            extracted(registry, replace(only, media_type=media_type), name=None)


def test_extract_file_tells_how_far_it_is(registry: MemoryRegistry) -> None:
    notes = layer(registry, bytes(1000), "text/plain", "notes.txt")
    tar = tar_layer(registry, [Item("tool", os.urandom(3 * 2**20))])
    after = layer(registry, bytes(500), "text/plain")
    total = notes.size + tar.size + after.size
    for name in ("tool", "notes.txt"):
        steps: list[tuple[int, int]] = []
        extract_file(
            registry,
            BOX,
            Manifest(config=EMPTY_CONFIG, layers=(notes, tar, after)),
            io.BytesIO(),
            name=name,
            progress=lambda done, total: steps.append((done, total)),  # noqa: B023
        )
        assert {step[1] for step in steps} == {total}
        assert [step[0] for step in steps] == sorted({step[0] for step in steps})
        assert steps[-1] == (total, total)
        assert len(steps) > (3 if name == "tool" else 1)


# --- what is refused ---


def refused(
    registry: MemoryRegistry, error: type[DockerCommsError], *layers: Descriptor, path: str = ""
) -> str:
    """Extract `tool`, which must fail with exactly `error` and write nothing."""
    out = io.BytesIO()
    manifest = Manifest(config=EMPTY_CONFIG, layers=layers)
    with pytest.raises(error) as caught:
        extract_file(
            registry, BOX, manifest, out, name="tool", path=path, limit=10**5, max_unpacked=10**6
        )
    assert type(caught.value) is error
    assert out.getvalue() == b""
    return caught.value.message


@pytest.mark.parametrize(
    "items",
    [
        [],
        [Item("other", b"1")],
        [Item("tool", type=tarfile.DIRTYPE)],
        [Item("tool", type=tarfile.FIFOTYPE)],
    ],
)
def test_extract_file_that_is_not_there_is_not_found(
    registry: MemoryRegistry, items: list[Item]
) -> None:
    assert "no file 'tool' in 1 layers" in refused(
        registry, NotFoundError, tar_layer(registry, items)
    )


@pytest.mark.parametrize(
    "item",
    [
        Item("tool", type=tarfile.SYMTYPE, link="/etc/passwd"),
        Item("bin/tool", type=tarfile.SYMTYPE, link="../../etc/passwd"),
        Item("tool", type=tarfile.LNKTYPE, link="/etc/passwd"),
    ],
)
def test_extract_file_follows_no_link(registry: MemoryRegistry, item: Item) -> None:
    message = refused(registry, NotFoundError, tar_layer(registry, [item]))
    assert f"but a link '{item.name}'" in message


def test_extract_file_takes_a_file_behind_a_linked_folder_for_what_it_is(
    registry: MemoryRegistry,
) -> None:
    items = [Item("bin", type=tarfile.SYMTYPE, link="/etc"), Item("bin/tool", b"harmless")]
    assert extracted(registry, tar_layer(registry, items), path="bin") == b"harmless"


@pytest.mark.parametrize("name", ["/tool", "/etc/tool", "../tool", "bin/../../tool", "//tool"])
def test_extract_file_refuses_a_name_that_leads_out(registry: MemoryRegistry, name: str) -> None:
    made = tar_layer(registry, [Item(name, b"evil")])
    assert f"unsafe name {name!r}" in refused(registry, ProtocolError, made)
    safe = tar_layer(registry, [Item("opt/tool", b"safe")])
    assert extracted(registry, made, safe) == b"safe"


def test_extract_file_takes_an_absolute_path_that_was_asked_for(registry: MemoryRegistry) -> None:
    made = tar_layer(registry, [Item("/app/tool", b"binary")])
    assert extracted(registry, made, name="/app/tool") == b"binary"


@pytest.mark.parametrize("media_type", TYPES)
def test_extract_file_refuses_a_cut_tar(registry: MemoryRegistry, media_type: str) -> None:
    tar = make_tar([Item("tool", b"binary" * 500), Item("after", b"1" * 100)])
    for cut in (0, 100, 512, 1000, 3500, 4096, 4608):
        made = layer(registry, pack(tar[:cut], media_type), media_type)
        refused(registry, ProtocolError, made)


@pytest.mark.parametrize("media_type", [GZIP, ZSTD])
def test_extract_file_refuses_cut_compression(registry: MemoryRegistry, media_type: str) -> None:
    data = pack(make_tar([Item("tool", os.urandom(5000))]), media_type)
    for cut in (1, 10, 100, 3000):
        refused(registry, ProtocolError, layer(registry, data[:cut], media_type))


def test_extract_file_refuses_what_is_damaged_behind_the_file(registry: MemoryRegistry) -> None:
    tar = make_tar([Item("tool", b"binary")])[:1024]
    made = layer(registry, pack(tar + b"junk".ljust(512), GZIP), GZIP)
    refused(registry, ProtocolError, made)


def test_extract_file_refuses_too_large_a_file(registry: MemoryRegistry) -> None:
    large = tar_layer(registry, [Item("tool", bytes(10**5 + 1))])
    assert "100001 bytes; at most 100000" in refused(registry, LimitError, large)
    titled = layer(registry, bytes(10**5 + 1), "application/x", "tool")
    refused(registry, LimitError, titled)


@pytest.mark.parametrize("media_type", [GZIP, ZSTD])
@pytest.mark.parametrize("name", ["before", "tool", "z"])
def test_extract_file_refuses_a_bomb(registry: MemoryRegistry, media_type: str, name: str) -> None:
    items = sorted([Item("tool", b"x"), Item(name, bytes(2 * 10**6))], key=lambda item: item.name)
    made = tar_layer(registry, items, media_type)
    assert made.size < 10_000
    refused(registry, LimitError, made)


def test_extract_file_refuses_a_layer_that_is_not_what_the_manifest_says(
    registry: MemoryRegistry,
) -> None:
    data = pack(make_tar([Item("tool", b"binary")]), PLAIN)
    honest = layer(registry, data, PLAIN)
    with pytest.raises(IntegrityError):
        extracted(registry, replace(honest, size=honest.size + 1))

    class Lying(StaticReader):
        pass

    reader = Lying()
    for changed in (data[:-1] + b"x", data[:600] + b"X" + data[601:]):
        reader.blobs[honest.digest] = (honest, changed)
        out = io.BytesIO()
        manifest = Manifest(config=EMPTY_CONFIG, layers=(honest,))
        with pytest.raises(IntegrityError):
            extract_file(reader, BOX, manifest, out, name="tool")
        assert out.getvalue() == b""


def test_extract_file_of_a_missing_layer_is_not_found(registry: MemoryRegistry) -> None:
    push(registry, BOX, b"something")
    refused(registry, BlobUnknown, Descriptor.of(b"gone", GZIP))


def test_extract_file_tells_that_the_writer_failed(registry: MemoryRegistry) -> None:
    class Full(io.BytesIO):
        def write(self, data: object, /) -> int:
            raise OSError(errno.ENOSPC, "no space left on device")

    made = tar_layer(registry, [Item("tool", b"binary")])
    manifest = Manifest(config=EMPTY_CONFIG, layers=(made,))
    with pytest.raises(LocalIOError, match="no space"):
        extract_file(registry, BOX, manifest, Full(), name="tool")


# --- to a file ---


def test_save_file_makes_the_file_when_it_is_whole(
    registry: MemoryRegistry, tmp_path: Path
) -> None:
    made = tar_layer(registry, [Item("opt/tool", b"longer than it"), Item("bin/tool", b"binary")])
    manifest = Manifest(config=EMPTY_CONFIG, layers=(made,))
    found = save_file(registry, BOX, manifest, tmp_path / "out", name="tool", path="bin")
    assert (found.member, found.size) == ("bin/tool", 6)
    assert (tmp_path / "out").read_bytes() == b"binary"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not stat.S_IMODE((tmp_path / "out").stat().st_mode) & 0o111


def test_save_file_replaces_nothing_unless_it_is_told_to(
    registry: MemoryRegistry, tmp_path: Path
) -> None:
    made = layer(registry, b"new", "application/x", "tool")
    manifest = Manifest(config=EMPTY_CONFIG, layers=(made,))
    target = tmp_path / "out"
    target.write_bytes(b"old")
    counted = CountingRegistry(registry)
    with pytest.raises(LocalIOError, match="exists"):
        save_file(counted, BOX, manifest, target, name="tool")
    assert counted.calls == []
    assert target.read_bytes() == b"old"
    save_file(registry, BOX, manifest, target, name="tool", overwrite=True)
    assert target.read_bytes() == b"new"


@pytest.mark.parametrize("overwrite", [False, True])
def test_save_file_leaves_nothing_behind(
    registry: MemoryRegistry, tmp_path: Path, overwrite: bool
) -> None:
    tar = make_tar([Item("tool", b"binary" * 500)])[:2000]
    bad = layer(registry, pack(tar, GZIP), GZIP)
    manifest = Manifest(config=EMPTY_CONFIG, layers=(bad,))
    with pytest.raises(ProtocolError):
        save_file(registry, BOX, manifest, tmp_path / "out", name="tool", overwrite=overwrite)
    assert list(tmp_path.iterdir()) == []


def test_save_file_in_a_missing_folder_is_a_local_error(
    registry: MemoryRegistry, tmp_path: Path
) -> None:
    manifest = Manifest(config=EMPTY_CONFIG, layers=())
    with pytest.raises(LocalIOError):
        save_file(registry, BOX, manifest, tmp_path / "none" / "out", name="tool")


def test_new_file_replaces_nothing_that_appears_meanwhile(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with pytest.raises(LocalIOError, match="exists"), new_file(target):
        target.write_bytes(b"another's")
    assert target.read_bytes() == b"another's"
    assert list(tmp_path.iterdir()) == [target]


def test_new_file_never_writes_through_a_link(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LocalIOError), new_file(target):
        pass
    with new_file(target, overwrite=True) as stream:
        stream.write(b"new")
    assert not (tmp_path / "elsewhere").exists()
    assert target.read_bytes() == b"new"

"""Folders that oras pushed, unpacked with our checks; nothing is left where one of them fails."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path

import pytest

from dockercomms.errors import (
    DigestMismatch,
    DockerCommsError,
    IntegrityError,
    LimitError,
    LocalIOError,
    ProtocolError,
    UsageError,
)
from dockercomms.oci.images.extract import save_file
from dockercomms.oci.images.pull import save_artifact
from dockercomms.oci.memory import MemoryRegistry
from dockercomms.oci.model import (
    ANNOTATION_TITLE,
    ANNOTATION_UNPACK,
    ANNOTATION_UNPACKED_DIGEST,
    Descriptor,
    parse_manifest,
)
from dockercomms.oci.reference import Reference
from dockercomms.transport.unpack import unpacked_layer
from tests.contract.capabilities import manifest_bytes, push, push_empty_config
from tests.fakes.tarballs import GZIP, PLAIN, ZSTD, Item, make_tar, pack

BOX = "team/site"
REF = Reference(host="registry.example", repository=BOX, tag="v1")
PAGE = Item("site/index.html", b"page")
SITE = make_tar([Item("site", type=tarfile.DIRTYPE), PAGE])


@pytest.fixture
def registry() -> MemoryRegistry:
    made = MemoryRegistry()
    push_empty_config(made, BOX)
    return made


def put(registry: MemoryRegistry, *layers: tuple[str, bytes, str], **annotations: str) -> bytes:
    """Push an artifact of folders (title, tar, media type); tag it v1."""
    made = []
    for title, tar, media_type in layers:
        blob = pack(tar, media_type)
        marks = {ANNOTATION_TITLE: title, ANNOTATION_UNPACK: "true", **annotations}
        made.append(Descriptor.of(blob, media_type, annotations=marks))
        push(registry, BOX, blob)
    data = manifest_bytes("site", layers=made)
    registry.push_manifest(BOX, data, "application/vnd.oci.image.manifest.v1+json", tags=["v1"])
    return data


def get(registry: MemoryRegistry, folder: Path, *, overwrite: bool = False) -> dict[str, str]:
    """Return path and content of all files that are in the folder then."""
    save_artifact(registry, REF, folder, overwrite=overwrite, unpack=unpacked_layer)
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("media_type", [GZIP, ZSTD, PLAIN, "application/octet-stream"])
@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_folder_is_unpacked_whatever_it_is_packed_in(registry, tmp_path, media_type, form):
    tar = make_tar([Item("site", type=tarfile.DIRTYPE), PAGE], form=form)
    put(registry, ("site", tar, media_type))
    assert get(registry, tmp_path) == {"site/index.html": "page"}


@pytest.mark.parametrize(
    ("title", "items", "expected"),
    [
        ("a/b", [Item("a/b/f", b"1")], {"a/b/f": "1"}),
        ("a/b", [Item("b/f", b"1")], {"a/b/f": "1"}),
        ("site/", [PAGE], {"site/index.html": "page"}),
        (".", [Item("f", b"1"), Item("d/g", b"2")], {"f": "1", "d/g": "2"}),
        (".", [Item(".", type=tarfile.DIRTYPE), Item("./f", b"1")], {"f": "1"}),
        ("site", [Item("./", type=tarfile.DIRTYPE), Item("./site/f", b"1")], {"site/f": "1"}),
        (".github", [Item(".github/f", b"1")], {".github/f": "1"}),
        ("empty", [Item("empty", type=tarfile.DIRTYPE)], {}),
        (
            "l",
            [Item("l/f", b"1"), Item("l/to", type=tarfile.SYMTYPE, link="f")],
            {"l/f": "1", "l/to": "1"},
        ),
    ],
)
def test_folder_arrives_under_its_title(registry, tmp_path, title, items, expected):
    put(registry, (title, make_tar(items), GZIP))
    assert get(registry, tmp_path) == expected
    assert (tmp_path / title).is_dir()


def test_folder_beside_another_and_a_file(registry, tmp_path):
    other = make_tar([Item("docs/a.md", b"a")])
    put(registry, ("site", SITE, GZIP), ("docs", other, ZSTD))
    assert get(registry, tmp_path) == {"site/index.html": "page", "docs/a.md": "a"}


@pytest.mark.parametrize(
    ("title", "tar", "error"),
    [
        ("site", b"no tar at all", ProtocolError),
        ("site", SITE[:1000], ProtocolError),
        ("site", make_tar([Item("../out", b"x")]), ProtocolError),
        ("site", make_tar([Item("/site/out", b"x")]), ProtocolError),
        ("site", make_tar([PAGE, Item("other", b"x")]), ProtocolError),
        ("site", make_tar([Item("other/f", b"x")]), ProtocolError),
        ("site", make_tar([Item("site", b"a file")]), ProtocolError),
        ("site", make_tar([Item("site", type=tarfile.SYMTYPE, link="/etc")]), ProtocolError),
        ("site", make_tar([Item("site/l", type=tarfile.SYMTYPE, link="../..")]), ProtocolError),
        ("site", make_tar([PAGE, Item("site/h", type=tarfile.LNKTYPE, link="x")]), ProtocolError),
        ("site", make_tar([Item("site/dev", type=tarfile.CHRTYPE)]), ProtocolError),
        ("site", make_tar([PAGE, PAGE]), ProtocolError),
        ("site", make_tar([]), ProtocolError),
        ("../site", SITE, ProtocolError),
        ("/site", SITE, ProtocolError),
        ("..", SITE, ProtocolError),
        (".", make_tar([Item("../f", b"x")]), ProtocolError),
        (".", make_tar([Item("./../f", b"x")]), ProtocolError),
        (".", make_tar([Item(".", b"x")]), ProtocolError),
        (".", make_tar([Item(".//f", b"x")]), ProtocolError),
    ],
)
def test_folder_that_breaks_the_rules_is_refused_and_leaves_nothing(
    registry, tmp_path, title, tar, error
):
    (tmp_path / "in").mkdir()
    put(registry, (title, tar, GZIP))
    with pytest.raises(error):
        get(registry, tmp_path / "in")
    assert [path.name for path in tmp_path.rglob("*")] == ["in"]


@pytest.mark.parametrize(
    "titles", [("site", "site"), ("site", "site/"), (".", "site"), ("site", "site/docs")]
)
def test_folders_that_cannot_both_be_are_refused(registry, tmp_path, titles):
    put(registry, *((title, SITE, GZIP) for title in titles))
    with pytest.raises(ProtocolError):
        get(registry, tmp_path)
    assert not list(tmp_path.iterdir())


def test_digest_of_the_tar_is_proven(registry, tmp_path):
    for name in ("sha256", "sha512"):
        good = f"{name}:{hashlib.new(name, SITE).hexdigest()}"
        put(registry, ("site", SITE, GZIP), **{ANNOTATION_UNPACKED_DIGEST: good})
        assert get(registry, tmp_path, overwrite=True) == {"site/index.html": "page"}
    for bad in (f"sha256:{'0' * 64}", "sha256:junk", "md5:x"):
        put(registry, ("site", SITE, GZIP), **{ANNOTATION_UNPACKED_DIGEST: bad})
        with pytest.raises((DigestMismatch, ProtocolError)):
            get(registry, tmp_path, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


@pytest.mark.parametrize("media_type", [GZIP, ZSTD])
def test_bomb_stops_at_its_limit(media_type, tmp_path):
    blob = pack(bytes(2**22), media_type)
    layer = Descriptor.of(blob, media_type, annotations={ANNOTATION_TITLE: "site"})
    made = MemoryRegistry()
    push(made, BOX, blob)
    with (
        pytest.raises(LimitError),
        made.get_blob(BOX, layer.digest) as reader,
        unpacked_layer(reader, layer, tmp_path / "site", max_unpacked=2**20),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_other_bytes_than_the_layers_are_never_unpacked(tmp_path):
    blob = pack(SITE, GZIP)
    layer = Descriptor.of(blob, GZIP, annotations={ANNOTATION_TITLE: "site"})
    made = MemoryRegistry()
    push(made, BOX, blob)
    reader = made.get_blob(BOX, layer.digest)

    class Flipped:
        def read(self, size: int = -1) -> bytes:
            data = reader.read(size)
            if not data:
                raise IntegrityError("other content than its digest says")
            return data

    with pytest.raises(IntegrityError), unpacked_layer(Flipped(), layer, tmp_path / "site"):
        pass
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_replaced_only_where_that_is_wanted(registry, tmp_path):
    put(registry, ("site", SITE, GZIP))
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "mine").write_text("mine")
    (tmp_path / "site" / "index.html").write_text("old")
    with pytest.raises(LocalIOError):
        get(registry, tmp_path)
    assert get(registry, tmp_path, overwrite=True) == {
        "site/mine": "mine",
        "site/index.html": "page",
    }
    put(registry, (".", make_tar([Item("site/new", b"new")]), GZIP))
    with pytest.raises(LocalIOError):
        get(registry, tmp_path)
    assert get(registry, tmp_path, overwrite=True)["site/new"] == "new"


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_file_or_link_in_the_folders_place_is_never_followed(registry, tmp_path, kind):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    if kind == "file":
        (out / "site").write_text("mine")
    else:
        (out / "site").symlink_to(elsewhere)
    put(registry, ("site", SITE, GZIP))
    for overwrite in (False, True):
        with pytest.raises(DockerCommsError):
            get(registry, out, overwrite=overwrite)
    assert not list(elsewhere.iterdir())
    assert [path.name for path in out.iterdir()] == ["site"]


def test_one_file_of_a_folder_is_found_and_the_folder_is_no_file(registry, tmp_path):
    manifest = parse_manifest(put(registry, ("site", SITE, GZIP)))
    save_file(registry, BOX, manifest, tmp_path / "page", name="site/index.html")
    assert (tmp_path / "page").read_text() == "page"
    with pytest.raises(UsageError, match="'site' is a folder"):
        save_file(registry, BOX, manifest, tmp_path / "other", name="site")

from __future__ import annotations

import gzip
import io
import tarfile

import pytest
import zstandard

from dockercomms.errors import DockerCommsError, LimitError, ProtocolError, Truncated
from dockercomms.oci.content import VerifyingReader
from dockercomms.oci.model import Descriptor
from dockercomms.oci.tar import MAX_EXTENSION_BYTES, Archive, is_archive_type, open_archive
from tests.fakes.tarballs import GZIP, PLAIN, ZSTD, Item, header, make_tar, pack

END = bytes(1024)
TYPES = [GZIP, ZSTD, PLAIN]
ITEMS = [
    Item("bin", type=tarfile.DIRTYPE),
    Item("bin/tool", b"the tool" * 1000),
    Item("bin/alias", type=tarfile.SYMTYPE, link="/etc/passwd"),
    Item("bin/same", type=tarfile.LNKTYPE, link="bin/tool"),
    Item("dev/null", type=tarfile.CHRTYPE),
    Item("bin/empty"),
    Item("odd", b"contiguous", type=tarfile.CONTTYPE),
]


def opened(data: bytes, media_type: str = PLAIN, **options: int) -> Archive:
    found = open_archive(io.BytesIO(data), media_type, **options)
    assert found is not None
    return found


def listed(data: bytes, media_type: str = PLAIN) -> list[tuple[str, str, int]]:
    return [(member.name, member.kind, member.size) for member in opened(data, media_type)]


@pytest.mark.parametrize("media_type", TYPES)
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archive_lists_what_tarfile_wrote(media_type: str, form: int) -> None:
    assert listed(pack(make_tar(ITEMS, form=form), media_type), media_type) == [
        ("bin/", "other", 0),
        ("bin/tool", "file", 8000),
        ("bin/alias", "link", 0),
        ("bin/same", "link", 0),
        ("dev/null", "other", 0),
        ("bin/empty", "file", 0),
        ("odd", "file", 10),
    ]


@pytest.mark.parametrize("media_type", TYPES)
def test_archive_reads_the_member_at_hand(media_type: str) -> None:
    found = {}
    archive = opened(pack(make_tar(ITEMS), media_type), media_type)
    for member in archive:
        if member.kind == "file" and member.name != "odd":
            found[member.name] = archive.read(3) + archive.read()
            assert archive.read() == b""
    assert found == {"bin/tool": b"the tool" * 1000, "bin/empty": b""}


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archive_reads_long_names(form: int) -> None:
    name = "/".join(["folder" * 5] * 5) + "/file"
    longer = "n" * 300
    items = [Item(name, b"1"), *([] if form == tarfile.USTAR_FORMAT else [Item(longer, b"2")])]
    assert [entry[0] for entry in listed(make_tar(items, form=form))] == [
        item.name for item in items
    ]


def test_archive_reads_long_link_names_and_global_headers() -> None:
    made = io.BytesIO()
    pax = {"comment": "a global header"}
    with tarfile.open(fileobj=made, mode="w", pax_headers=pax) as tar:
        tar.addfile(tarfile.TarInfo("a"))
    assert listed(made.getvalue()) == [("a", "file", 0)]
    link = Item("a", type=tarfile.SYMTYPE, link="l" * 300)
    assert listed(make_tar([link], form=tarfile.GNU_FORMAT)) == [("a", "link", 0)]


def test_archive_keeps_names_that_are_not_utf8_apart() -> None:
    ((name, _, _),) = listed(header(b"caf\xe9") + END)
    assert name != "café"


def test_archive_takes_old_folders_for_folders() -> None:
    assert listed(header(b"old/", type=b"\0") + END) == [("old/", "other", 0)]


def test_archive_reads_a_binary_size() -> None:
    block = header(size=b"\x80" + bytes(10) + b"\x05")
    assert listed(block + b"12345".ljust(512, b"\0") + END) == [("x", "file", 5)]


def test_archive_reads_a_size_in_an_extension() -> None:
    record = header(type=b"x", size=b"%011o\0" % 9) + b"9 size=5\n".ljust(512, b"\0")
    assert listed(record + header() + b"12345".ljust(512, b"\0") + END) == [("x", "file", 5)]


def test_archive_reads_signed_checksums() -> None:
    block = bytearray(header(b"\xff"))
    signed = sum(block[:148] + b" " * 8 + block[156:]) - 256
    block[148:156] = b"%06o\0 " % signed
    assert len(listed(bytes(block) + END)) == 1


def test_archive_skips_sparse_files() -> None:
    sparse = header(type=b"S", size=b"%011o\0" % 512, extended=b"\1")
    maps = bytes(504) + b"\1" + bytes(7) + bytes(512)
    after = header(b"after") + END
    assert listed(sparse + maps + b"d" * 512 + after) == [
        ("x", "other", 512),
        ("after", "file", 0),
    ]
    record = b"GNU.sparse.major=1"
    pax = b"%d %s\n" % (len(record) + 4, record)
    new = header(type=b"x", size=b"%011o\0" % len(pax)) + pax.ljust(512, b"\0")
    assert listed(new + header(b"s") + END) == [("s", "other", 0)]


@pytest.mark.parametrize("media_type", TYPES)
def test_archive_may_be_empty(media_type: str) -> None:
    assert listed(pack(END, media_type), media_type) == []


@pytest.mark.parametrize("packed", [GZIP, ZSTD, PLAIN])
@pytest.mark.parametrize("media_type", ["application/octet-stream", PLAIN])
def test_open_archive_looks_where_the_media_type_does_not_tell(
    packed: str, media_type: str
) -> None:
    assert listed(pack(make_tar([Item("a")]), packed), media_type) == [("a", "file", 0)]


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (b"", "application/octet-stream"),
        (b"X", "application/x"),
        (bytes(2000), "application/octet-stream"),
        (b"\x7fELF" + bytes(2000), "application/x-executable"),
        (b"plain text" * 100, "application/vnd.example.target"),
        (gzip.compress(b"a page"), "application/gzip"),
    ],
)
def test_open_archive_is_none_for_what_is_not_said_to_be_one(data: bytes, media_type: str) -> None:
    assert open_archive(io.BytesIO(data), media_type) is None


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (b"", PLAIN),
        (b"plain", PLAIN),
        (b"plain" * 1000, PLAIN),
        (b"plain", GZIP),
        (b"", GZIP),
        (b"plain", ZSTD),
        (gzip.compress(b"plain"), GZIP),
        (gzip.compress(END), ZSTD),
        (zstandard.compress(b"plain"), ZSTD),
        (pack(END, ZSTD), GZIP),
    ],
)
def test_open_archive_refuses_what_is_not_what_it_is_said_to_be(
    data: bytes, media_type: str
) -> None:
    with pytest.raises(ProtocolError):
        open_archive(io.BytesIO(data), media_type)


@pytest.mark.parametrize("media_type", TYPES)
def test_archive_refuses_to_end_early_wherever_it_is_cut(media_type: str) -> None:
    tar = make_tar([Item("a", b"some content"), Item("b", b"more")])
    tar = tar[: 4 * 512 + 1024]  # without tarfile's padding
    data = pack(tar, media_type)
    last = len(data) if media_type != ZSTD else len(data) - 4  # libzstd ends without its checksum
    for cut in range(last):
        with pytest.raises(ProtocolError):
            listed(data[:cut], media_type)
    assert len(listed(data, media_type)) == 2


@pytest.mark.parametrize("media_type", [GZIP, ZSTD])
def test_archive_notices_damage(media_type: str) -> None:
    data = bytearray(pack(make_tar(ITEMS), media_type))
    data[-2] ^= 1
    with pytest.raises(ProtocolError):
        listed(bytes(data), media_type)


def test_archive_reads_its_stream_to_the_end() -> None:
    data = pack(make_tar([Item("a")]), GZIP)
    expected = Descriptor.of(data + b"x", GZIP)
    with pytest.raises((ProtocolError, Truncated)):
        list(open_archive(VerifyingReader(io.BytesIO(data), expected), GZIP) or ())


@pytest.mark.parametrize(
    "data",
    [
        header(b"a") + b"not a header".ljust(512) + END,
        header(b"a") + bytes(512) + header(b"b") + END,
        header(size=b"12345678x") + END,
        header(type=b"x", size=b"%011o\0" % 6) + b"6 a=b\n".ljust(512, b"\0") + END,
        header(type=b"x", size=b"%011o\0" % 5) + b"junk\n".ljust(512, b"\0") + header() + END,
        header(type=b"x", size=b"%011o\0" % 8) + b"8 size=\n".ljust(512, b"\0") + header() + END,
        header(type=b"x", size=b"%011o\0" % 10) + b"10 size=x\n".ljust(512, b"\0") + header() + END,
        header(type=b"x", size=b"%011o\0" % 6) + b"9 a=b\n".ljust(512, b"\0") + header() + END,
        header(type=b"L", size=b"%011o\0" % 2) + b"ab".ljust(512, b"\0") + END,
        header(size=b"\xff" * 12) + END,
    ],
)
def test_archive_refuses_a_damaged_tar(data: bytes) -> None:
    with pytest.raises(DockerCommsError) as caught:
        listed(data)
    assert caught.value.exit_code == 4


def test_archive_takes_an_empty_extension_for_none() -> None:
    assert listed(header(type=b"g") + header(b"a") + END) == [("a", "file", 0)]


def test_archive_bounds_extensions() -> None:
    big = header(type=b"x", size=b"%011o\0" % (MAX_EXTENSION_BYTES + 1))
    with pytest.raises(LimitError, match="extension"):
        listed(big + END)


def test_archive_bounds_its_entries() -> None:
    with pytest.raises(LimitError, match="more than 3 entries"):
        list(opened(make_tar([Item(str(number)) for number in range(4)]), max_members=3))
    sparse = header(type=b"S", extended=b"\1") + (bytes(504) + b"\1" + bytes(7)) * 4
    with pytest.raises(LimitError, match="more than 3 pieces"):
        list(opened(sparse + END, max_members=3))


@pytest.mark.parametrize("media_type", TYPES)
def test_archive_bounds_what_it_unpacks_to(media_type: str) -> None:
    tar = make_tar([Item("a", bytes(100_000))])
    data = pack(tar, media_type)
    with pytest.raises(LimitError, match="more than 99999 bytes"):
        for _ in opened(data, media_type, max_unpacked=99_999):
            pass
    assert len(list(opened(data, media_type, max_unpacked=len(tar)))) == 1


def test_archive_refuses_a_huge_zstd_window() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=28)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    data = stream.compress(END) + stream.flush()
    with pytest.raises(ProtocolError, match="zstd"):
        open_archive(io.BytesIO(data), ZSTD)


@pytest.mark.parametrize(
    ("media_type", "expected"),
    [
        (GZIP, True),
        (ZSTD, True),
        (PLAIN, True),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", True),
        ("application/x-tar", True),
        ("application/gzip", True),
        ("application/vnd.example.target", False),
        ("text/plain", False),
    ],
)
def test_is_archive_type_reads_the_words(media_type: str, expected: bool) -> None:
    assert is_archive_type(media_type) is expected

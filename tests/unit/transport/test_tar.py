"""Tar headers: what the vectors do not say."""

from __future__ import annotations

import io
import tarfile

import pytest

from dockercomms.errors import ProtocolError
from dockercomms.transport.tar import (
    END,
    TYPE_FILE,
    TYPE_FOLDER,
    TYPE_LINK,
    TarMember,
    padding_bytes,
    read_exactly,
    read_member,
    read_padding,
    write_header,
)

LONG = "d" * 90 + "/" + "f" * 90
MEMBERS = [
    TarMember(path="f", size=3),
    TarMember(path="run", size=0, mode=0o755),
    TarMember(path="folder", type=TYPE_FOLDER, mode=0o755),
    TarMember(path="link", type=TYPE_LINK, link_target="../f"),
    TarMember(path="x" * 100),
    TarMember(path="x" * 101),
    TarMember(path=LONG),
    TarMember(path="d" * 155 + "/" + "f" * 100),
    TarMember(path="d" * 156 + "/" + "f" * 100),
    TarMember(path="x" * 99, type=TYPE_FOLDER, mode=0o755),
    TarMember(path="x" * 100, type=TYPE_FOLDER, mode=0o755),
    TarMember(path="é"),
    TarMember(path="f", type=TYPE_LINK, link_target="x" * 101),
    TarMember(path="f", type=TYPE_LINK, link_target="日本"),
    TarMember(path="f", mtime=1_700_000_000),
    TarMember(path="f", mtime=2**33),
    TarMember(path="f", mtime=-5),
    TarMember(path="big", size=2**33),
]


@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: f"{member.path[:8]}")
def test_header_comes_back(member):
    stream = io.BytesIO(write_header(member))
    assert read_member(stream) == member
    assert stream.read() == b""


@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: f"{member.path[:8]}")
def test_header_is_understood_by_the_standard_library(member):
    data = write_header(member)
    if member.size < 2**20:
        data += bytes(member.size + padding_bytes(member.size)) + END
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        info = tar.next()
    assert info is not None
    assert (info.name, info.type, info.size, info.mode) == (
        member.path, member.type, member.size, member.mode,
    )  # fmt: skip
    assert (info.mtime, info.linkname) == (member.mtime, member.link_target)
    assert (info.uid, info.gid, info.uname, info.gname) == (0, 0, "", "")


def test_header_uses_pax_only_where_ustar_cannot_hold_it():
    assert len(write_header(TarMember(path=LONG))) == 512
    assert len(write_header(TarMember(path="é"))) == 3 * 512


@pytest.mark.parametrize("length", [90, 91, 92, 93, 94, 95, 984, 985, 986, 987, 988])
def test_pax_record_counts_its_own_length(length):
    member = TarMember(path="é" + "x" * length)
    assert read_member(io.BytesIO(write_header(member))) == member


class Drip(io.BytesIO):
    """Gives one byte at a time."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(size if size and size > 0 else 1, 1))


def test_tar_is_read_from_a_stream_that_gives_little():
    member = TarMember(path="é", size=0)
    stream = Drip(write_header(member) + END + bytes(100))
    assert read_member(stream) == member
    assert read_member(stream) is None
    assert stream.read() == b""


def test_tar_that_ends_early_is_refused():
    with pytest.raises(ProtocolError, match="ends early"):
        read_exactly(io.BytesIO(b"abc"), 4)


def test_padding_that_is_not_zero_is_refused():
    read_padding(io.BytesIO(bytes(511)), 1)
    read_padding(io.BytesIO(b""), 512)
    with pytest.raises(ProtocolError, match="not zero"):
        read_padding(io.BytesIO(bytes(510) + b"x"), 1)


def extension(records: bytes, kind: bytes = b"x", size: int | None = None) -> bytes:
    head = write_header(TarMember(path="x", type=kind, size=len(records) if size is None else size))
    return head + records + bytes(padding_bytes(len(records)))


def record(body: bytes) -> bytes:
    """A PAX record with the right length, for bodies below 95 bytes."""
    return b"%d %s\n" % (len(body) + 4, body)


@pytest.mark.parametrize(
    "records",
    [
        b"11 path=abc",
        b"x path=abc\n",
        b"\xb2 path=abc\n",
        b"999999 path=abc\n",
        b"8 path=\n\n",
        b"0 path=abc\n",
        record(b"pathabcd"),
        record(b"=abcdefgh"),
        record(b"path=\xff\xff\xff"),
        record(b"size=abc"),
        record(b"size=-1"),
        record(b"mtime=--1"),
        record(b"mtime=1.2.3"),
        record(b"size=9999999999999999999"),
        record(b"mtime=soon"),
        record(b"GNU.sparse.major=1"),
    ],
)
def test_pax_that_is_not_understood_is_refused(records):
    data = extension(records) + write_header(TarMember(path="f")) + END
    with pytest.raises(ProtocolError):
        read_member(io.BytesIO(data))


def test_pax_time_with_a_fraction_is_cut():
    records = b"22 mtime=1700000000.7\n"
    member = read_member(io.BytesIO(extension(records) + write_header(TarMember(path="f"))))
    assert member is not None
    assert member.mtime == 1_700_000_000


@pytest.mark.parametrize(
    "before",
    [
        extension(b"9 path=a\n") * 2,
        extension(b"x\0", kind=b"L") * 2,
        extension(b"9 path=a\n") + bytes(512),
    ],
)
def test_extensions_without_exactly_one_entry_are_refused(before):
    with pytest.raises(ProtocolError):
        read_member(io.BytesIO(before + write_header(TarMember(path="f")) + END))


def test_pax_and_a_gnu_long_name_may_stand_together():
    data = extension(b"a\0", kind=b"L") + extension(b"14 comment=xyz\n"[:15])
    with pytest.raises(ProtocolError):
        read_member(io.BytesIO(data + write_header(TarMember(path="f"))))
    data = extension(b"a\0", kind=b"L") + extension(b"15 comment=xyz\n")
    member = read_member(io.BytesIO(data + write_header(TarMember(path="f"))))
    assert member is not None
    assert member.path == "a"


def test_extension_above_its_limit_is_not_read():
    stream = io.BytesIO(extension(b"", size=16 * 2**10 + 1) + bytes(10**6))
    with pytest.raises(ProtocolError, match="at most 16384"):
        read_member(stream)
    assert stream.tell() == 512


def checked(block: bytearray) -> bytes:
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize(
    ("place", "field"),
    [
        (124, b"00000000008\0"),
        (124, b"0x000000005\0"),
        (136, b"-0000000005\0"),
        (124, b"\xff" * 12),
        (0, b"\xff\xfe"),
        (157, b"\xff"),
    ],
)
def test_header_with_a_field_that_is_not_understood_is_refused(place, field):
    block = bytearray(write_header(TarMember(path="f")))
    block[place : place + len(field)] = field
    with pytest.raises(ProtocolError):
        read_member(io.BytesIO(checked(block)))


def test_time_before_1970_is_read_as_gnu_writes_it():
    block = bytearray(write_header(TarMember(path="f")))
    block[136:148] = (-5).to_bytes(12, "big", signed=True)
    member = read_member(io.BytesIO(checked(block)))
    assert member is not None
    assert member.mtime == -5


def test_header_of_old_tars_has_no_prefix():
    block = bytearray(write_header(TarMember(path=LONG)))
    block[257:265] = b"ustar  \0"
    member = read_member(io.BytesIO(checked(block)))
    assert member is not None
    assert member.path == "f" * 90
    assert member.type == TYPE_FILE

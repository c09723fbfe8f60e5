"""Tar headers, written in one way and read strictly: ustar, with PAX if ustar has no room.

Our own writer, because the bytes decide digests: they must not change with a library. Our own
reader, because a foreign tar must not cost more memory than one block and one extension. `oci.tar`
reads image layers, and accepts sparse files, long extensions and names that are not UTF-8.

Source: SPEC.md sections 3 and 4; POSIX.1-2017, pax, "ustar Interchange Format".
"""

from __future__ import annotations

import re
from dataclasses import replace

from dockercomms.errors import ProtocolError
from dockercomms.oci.content import ByteStream
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.header import MAX_TAR_PADDING_BYTES

BLOCK_BYTES = 512
END = bytes(2 * BLOCK_BYTES)
"""The two zero blocks that end a tar."""

TYPE_FILE = b"0"
TYPE_LINK = b"2"
TYPE_FOLDER = b"5"
_TYPE_OLD_FILE = b"\0"
_TYPE_PAX = b"x"
_TYPE_GNU_LONG_NAME = b"L"
_EXTENSIONS = (_TYPE_PAX, _TYPE_GNU_LONG_NAME)

MODE_FILE = 0o644
MODE_EXECUTABLE = 0o755

_CHECKSUM_BYTES = 8
_NAME_BYTES = 100
_PREFIX_BYTES = 155
_MAX_OCTAL_SIZE = 0o77777777777
_MAX_EXTENSION_BYTES = 16 * 2**10
"""The reader refuses longer extensions. Two paths of 1,024 bytes and some numbers fit many times.
"""
_PAX_NAME = "././@PaxHeader"
MAX_NUMBER = 10**18 - 1
"""The largest size, and seconds of a time, in a header: no system call takes much more."""
_PAX_NUMBER = re.compile(r"(?P<sign>-?)(?P<whole>[0-9]{1,18})(?:\.(?P<fraction>[0-9]*))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class TarMember:
    """One entry of a tar."""

    path: str
    """Relative, with `/`; a folder has no `/` at its end."""
    type: bytes = TYPE_FILE
    size: int = 0
    mode: int = MODE_FILE
    mtime: int = 0
    """Whole seconds since 1970; negative before."""
    link_target: str = ""


def chunk_name(index: int) -> str:
    """Return the path of the entry that holds chunk `index`."""
    return f"chunk_{index}.bin"


def write_header(member: TarMember) -> bytes:
    """Return the header blocks of `member`: one, or three with PAX. It has no owner."""
    path = f"{member.path}/" if member.type == TYPE_FOLDER else member.path
    records: dict[str, str] = {}
    fields = _split_path(path)
    if fields is None:
        records["path"] = path
        fields = (_ascii(path), b"")
    link = member.link_target.encode("utf-8")
    if len(link) > _NAME_BYTES or not member.link_target.isascii():
        records["linkpath"] = member.link_target
        link = _ascii(member.link_target)
    size, mtime = member.size, member.mtime
    if size > _MAX_OCTAL_SIZE:
        records["size"], size = str(size), 0
    if not 0 <= mtime <= _MAX_OCTAL_SIZE:
        records["mtime"], mtime = str(mtime), 0
    header = _ustar(fields, member.type, size=size, mode=member.mode, mtime=mtime, link=link)
    if not records:
        return header
    extension = b"".join(_pax_record(key, records[key]) for key in sorted(records))
    before = _ustar(
        (_PAX_NAME.encode("ascii"), b""), _TYPE_PAX, size=len(extension), mode=MODE_FILE
    )
    return before + extension + bytes(padding_bytes(len(extension))) + header


def header_bytes(member: TarMember) -> int:
    """Return the length of `write_header(member)`, in most cases without making it."""
    plain = (
        len(member.path) < _NAME_BYTES
        and member.path.isascii()
        and not member.link_target
        and max(member.size, member.mtime) <= _MAX_OCTAL_SIZE
        and member.mtime >= 0
    )
    return BLOCK_BYTES if plain else len(write_header(member))


def padding_bytes(size: int) -> int:
    """Return the number of zero bytes that follow `size` bytes of content."""
    return -size % BLOCK_BYTES


def read_member(stream: ByteStream) -> TarMember | None:
    """Return the next entry of a tar, None at its end; leave its content in `stream`.

    PAX and GNU long names before an entry are applied to it. At the end both zero blocks and the
    padding after them have been read and checked.

    Raises:
        ProtocolError: not a tar header, an unknown one, or a tar without an end.
    """
    extension: TarMember | None = None
    records: dict[str, str] = {}
    while True:
        block = read_exactly(stream, BLOCK_BYTES)
        if not block.strip(b"\0"):
            if extension is not None:
                raise ProtocolError("tar: the entry after an extension header is missing")
            _read_end(stream)
            return None
        member = _parse_header(block)
        if member.type not in _EXTENSIONS:
            return _apply(member, records)
        if extension is not None and extension.type == member.type:
            raise ProtocolError("tar: two extension headers of one kind before an entry")
        records |= _read_extension(stream, member)
        extension = member


def read_padding(stream: ByteStream, size: int) -> None:
    """Read the zero bytes that follow content of `size` bytes.

    Raises:
        ProtocolError: they are missing or not zero.
    """
    if read_exactly(stream, padding_bytes(size)).strip(b"\0"):
        raise ProtocolError("tar: padding that is not zero")


def read_exactly(stream: ByteStream, size: int) -> bytes:
    """Return exactly `size` bytes of `stream`.

    Raises:
        ProtocolError: it is shorter.
    """
    data = b""
    while len(data) < size:
        piece = stream.read(size - len(data))
        if not piece:
            raise ProtocolError("tar: ends early")
        data = data + piece if data else piece
    return data


def _read_end(stream: ByteStream) -> None:
    """Read the second zero block and at most `MAX_TAR_PADDING_BYTES` more zeros, to the end."""
    left = BLOCK_BYTES + MAX_TAR_PADDING_BYTES
    data = read_exactly(stream, BLOCK_BYTES)
    while data:
        left -= len(data)
        if left < 0 or data.strip(b"\0"):
            raise ProtocolError("tar: bytes after its end")
        data = stream.read(left + 1)


def _split_path(path: str) -> tuple[bytes, bytes] | None:
    """Return name and prefix for ustar, None if they do not fit."""
    raw = path.encode("utf-8")
    if not path.isascii():
        return None  # ustar does not define the encoding of a name; PAX does
    if len(raw) <= _NAME_BYTES:
        return raw, b""
    cut = raw.find(b"/", max(0, len(raw) - _NAME_BYTES - 1), len(raw) - 1)
    if not 0 < cut <= _PREFIX_BYTES:
        return None
    return raw[cut + 1 :], raw[:cut]


def _ascii(text: str) -> bytes:
    """Return the text for a program that does not read PAX."""
    return text.encode("ascii", "replace")[:_NAME_BYTES]


def _ustar(
    fields: tuple[bytes, bytes],
    kind: bytes,
    *,
    size: int,
    mode: int,
    mtime: int = 0,
    link: bytes = b"",
) -> bytes:
    name, prefix = fields
    before = b"%s%07o\0%s%011o\0%011o\0" % (
        name.ljust(100, b"\0"), mode, b"0000000\0" * 2, size, mtime,
    )  # fmt: skip
    after = b"%s%sustar\00000%s%s%s%s" % (
        kind, link.ljust(100, b"\0"), bytes(64), b"0000000\0" * 2,
        prefix.ljust(155, b"\0"), bytes(12),
    )  # fmt: skip
    checksum = sum(before) + _CHECKSUM_BYTES * ord(" ") + sum(after)
    return b"%s%06o\0 %s" % (before, checksum, after)


def _pax_record(key: str, value: str) -> bytes:
    """Return a record, `LENGTH KEY=VALUE` and a newline; LENGTH counts itself too."""
    body = f" {key}={value}\n".encode()
    length = len(body)
    while len(str(length)) + len(body) != length:
        length = len(str(length)) + len(body)
    return str(length).encode("ascii") + body


def _parse_header(block: bytes) -> TarMember:
    if _number(block[148:156], "checksum") != sum(block) - sum(block[148:156]) + 8 * ord(" "):
        raise ProtocolError("tar: invalid header")
    name = _text(block[0:100])
    if block[257:265] == b"ustar\00000" and block[345]:
        name = f"{_text(block[345:500])}/{name}"
    kind = block[156:157]
    return TarMember(
        path=name,
        type=TYPE_FILE if kind == _TYPE_OLD_FILE else kind,
        size=_number(block[124:136], "size"),
        mode=_number(block[100:108], "mode"),
        mtime=_number(block[136:148], "mtime", signed=True),
        link_target=_text(block[157:257]),
    )


def _number(field: bytes, what: str, *, signed: bool = False) -> int:
    """Return an octal field, or a GNU binary one for numbers too large for octal."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big", signed=True)
        if field[0] == 0x80:  # noqa: PLR2004 - the other form, 0xff, is a negative number
            value += 0x80 << 8 * (len(field) - 1)
        if value < 0 and not signed:
            raise ProtocolError(f"tar: {what} is negative")
        if abs(value) > MAX_NUMBER:
            raise ProtocolError(f"tar: {what}: {value} is more than any file has")
        return value
    digits = field.strip(b" \0")
    if digits.strip(b"01234567"):
        raise ProtocolError(f"tar: {what}: {digits!r} is not an octal number")
    return int(digits or b"0", 8)


def _text(field: bytes) -> str:
    return _utf8(field.partition(b"\0")[0])


def _utf8(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ProtocolError("tar: a name that is not UTF-8") from error


def _read_extension(stream: ByteStream, member: TarMember) -> dict[str, str]:
    if member.size > _MAX_EXTENSION_BYTES:
        raise ProtocolError(
            f"tar: extension of {member.size} bytes; at most {_MAX_EXTENSION_BYTES}"
        )
    data = read_exactly(stream, member.size)
    read_padding(stream, member.size)
    if member.type == _TYPE_GNU_LONG_NAME:
        return {"path": _text(data)}
    return _parse_pax(data)


def _parse_pax(data: bytes) -> dict[str, str]:
    records: dict[str, str] = {}
    while data:
        head = data.partition(b" ")[0]
        length = int(head) if head.isdigit() and len(head) < 6 else 0  # noqa: PLR2004
        record, data = data[len(head) + 1 : length], data[length:]
        key, equals, value = record.removesuffix(b"\n").partition(b"=")
        if not (equals and key and record.endswith(b"\n")):
            raise ProtocolError("tar: malformed PAX record")
        records[_utf8(key)] = _utf8(value)
    return records


def _apply(member: TarMember, records: dict[str, str]) -> TarMember:
    """Return `member` with its extension's values instead of its own."""
    if any(key.startswith("GNU.sparse.") for key in records):
        raise ProtocolError("tar: a sparse file")
    path = records.get("path", member.path)
    return replace(
        member,
        path=path.removesuffix("/") if member.type == TYPE_FOLDER else path,
        link_target=records.get("linkpath", member.link_target),
        size=_pax_number(records, "size", member.size),
        mtime=_pax_number(records, "mtime", member.mtime),
    )


def _pax_number(records: dict[str, str], key: str, default: int) -> int:
    """Return a number rounded down: other writers give times a fraction, and times before 1970."""
    text = records.get(key)
    if text is None:
        return default
    found = _PAX_NUMBER.fullmatch(text)
    if found is None or (found["sign"] and key != "mtime"):
        raise ProtocolError(f"tar: PAX {key}: {text!r:.50} is not a number")
    whole = int(found["whole"])
    return -whole - bool((found["fraction"] or "").strip("0")) if found["sign"] else whole

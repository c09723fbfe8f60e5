"""Streaming readers of foreign layers: tar, plain or compressed by gzip or zstd.

They never write to a path from an archive. Memory is limited to one window, one extension and one
block; decompressed bytes are counted. `transport.tar` reads the tars of messages instead: it needs
modes, times and link targets, and refuses the oddities of foreign tars that this module accepts.
Source: image-spec v1.1.1, layer.md; POSIX.1-2017, pax; RFC 1952; RFC 8878.
"""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Iterator
from typing import BinaryIO, Literal, cast

import zstandard

from dockercomms.errors import LimitError, ProtocolError
from dockercomms.oci.content import ByteStream
from dockercomms.oci.model import READ_BYTES
from dockercomms.platforms.records import dataclass

MAX_UNPACKED_BYTES = 16 * 2**30
"""Largest decompressed size of a layer; the largest image layers seen have a few GiB. The layer's
own size is no limit: gzip shrinks zeros 1,000 times, zstd 30,000 times."""

MAX_MEMBERS = 1_000_000
"""Entries of one tar: the largest images have some 200,000."""

MAX_WINDOW_BYTES = 128 * 2**20
"""The largest window of a zstd frame, which is the zstd program's default limit."""

MAX_EXTENSION_BYTES = 2**20
"""One PAX or long-name extension, as in Go's archive/tar."""

_SAYS_TAR = re.compile(r"(?<![a-z])tar(?![a-z])")
_DECIMAL = re.compile(r"[0-9]{1,19}")
BLOCK_BYTES = 512
_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_CHECKSUM = slice(148, 156)
_ASCII = bytes(range(128))

_FILE_TYPES = b"0\0" + b"7"
_LINK_TYPES = b"12"
_WITHOUT_CONTENT = b"123456"
_PAX = b"x"
_GLOBAL_PAX = b"g"
_LONG_NAME = b"L"
_LONG_LINK = b"K"
_SPARSE = b"S"
_EXTENSIONS = (_PAX, _GLOBAL_PAX, _LONG_NAME, _LONG_LINK)


@dataclass(frozen=True, slots=True)
class Member:
    """One entry of a tar."""

    name: str
    """The name in the archive; it may be absolute or contain `..`."""
    kind: Literal["file", "link", "other"]
    """`link` is symbolic or hard; `other` is a folder, a device or a sparse file."""
    size: int
    """The size of the content in bytes."""


class Archive:
    """The members of a tar in their order; `read` reads the current one.

    Args:
        stream: The tar itself.
        first: Its first block, already read.
        max_members: Largest number of entries.
    """

    def __init__(self, stream: ByteStream, first: bytes, max_members: int = MAX_MEMBERS) -> None:
        self._stream = stream
        self._block = first
        self._max_members = max_members
        self._left = 0
        self._padding = 0

    def __iter__(self) -> Iterator[Member]:
        """Yield the members, then read the stream to its end.

        Raises:
            ProtocolError: it is no tar, or is truncated.
            LimitError: too many entries, or an extension is too large.
        """
        for _ in range(self._max_members):
            member = self._next()
            if member is None:
                while self._stream.read(READ_BYTES):
                    pass  # the compression's own checksum, and the digest, come at the end
                return
            yield member
            self._skip()
            self._block = b""
        raise LimitError(f"tar: more than {self._max_members} entries")

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes of the current member, b"" at its end.

        Raises:
            ProtocolError: the tar ends within it.
        """
        wanted = self._left if size < 0 else min(size, self._left)
        data = self._stream.read(wanted) if wanted else b""
        if wanted and not data:
            raise ProtocolError(f"tar: ends {self._left} bytes early, within a file")
        self._left -= len(data)
        return data

    def _skip(self) -> None:
        while self.read(READ_BYTES):
            pass
        _read_exactly(self._stream, self._padding)

    def _next(self) -> Member | None:
        """Return the next member with its extensions applied; `None` at the end."""
        records: dict[str, str] = {}
        while True:
            block = self._block or _read_exactly(self._stream, BLOCK_BYTES)
            self._block = b""
            if not block.strip(b"\0"):
                if records:
                    raise ProtocolError("tar: the entry after an extension header is missing")
                if _read_exactly(self._stream, BLOCK_BYTES).strip(b"\0"):
                    raise ProtocolError("tar: one empty block at its end; two expected")
                return None
            if not _is_header(block):
                raise ProtocolError("tar: invalid header")
            kind = block[156:157]
            if kind not in _EXTENSIONS:
                return self._enter(block, kind, records)
            records |= self._extension(kind, _number(block[124:136]))

    def _extension(self, kind: bytes, size: int) -> dict[str, str]:
        if size > MAX_EXTENSION_BYTES:
            raise LimitError(f"tar: extension of {size} bytes; at most {MAX_EXTENSION_BYTES}")
        data = _read_exactly(self._stream, size)
        _read_exactly(self._stream, -size % BLOCK_BYTES)
        if kind == _PAX:
            return _parse_pax(data)
        return {"path": _text(data)} if kind == _LONG_NAME else {}

    def _enter(self, block: bytes, kind: bytes, records: dict[str, str]) -> Member:
        size = _number(block[124:136])
        if "size" in records:
            if not _DECIMAL.fullmatch(records["size"]):
                raise ProtocolError(f"tar: PAX size: {records['size']!r:.50} is not a number")
            size = int(records["size"])
        if kind == _SPARSE and block[482]:
            self._skip_sparse_map()
        name = records.get("path") or _name(block)
        sparse = any(key.startswith("GNU.sparse.") for key in records)
        self._left = 0 if kind in _WITHOUT_CONTENT else size
        self._padding = -self._left % BLOCK_BYTES
        if kind in _LINK_TYPES:
            return Member(name, "link", 0)
        is_file = kind in _FILE_TYPES and not sparse and not name.endswith("/")
        return Member(name, "file" if is_file else "other", self._left)

    def _skip_sparse_map(self) -> None:
        for _ in range(self._max_members):
            if not _read_exactly(self._stream, BLOCK_BYTES)[504]:
                return
        raise LimitError(f"tar: a sparse file of more than {self._max_members} pieces")


class SeekableArchive(Archive):
    """The same over a file, whose contents are skipped without reading.

    Args:
        stream: The file, at the tar's first byte.
        max_members: Largest number of entries.

    Raises:
        ProtocolError: it is no uncompressed tar.
    """

    def __init__(self, stream: BinaryIO, max_members: int = MAX_MEMBERS) -> None:
        first = _read_up_to(stream, BLOCK_BYTES)
        for magic, name in ((_GZIP_MAGIC, "gzip"), (_ZSTD_MAGIC, "zstd")):
            if first.startswith(magic):
                raise ProtocolError(
                    f"an uncompressed tar expected, one compressed with {name} received"
                )
        if len(first) < BLOCK_BYTES or not (first == bytes(BLOCK_BYTES) or _is_header(first)):
            raise ProtocolError("not a tar")
        super().__init__(stream, first, max_members)
        self._file = stream
        self._end = stream.seek(0, io.SEEK_END)
        stream.seek(BLOCK_BYTES)

    @property
    def offset(self) -> int:
        """The offset of the current member's content, before it is read."""
        return self._file.tell()

    def _skip(self) -> None:
        if not self._left + self._padding:
            return
        at = self._file.tell() + self._left + self._padding
        if at > self._end:
            raise ProtocolError(f"tar: ends {at - self._end} bytes early, within a file")
        self._file.seek(at)
        self._left = 0


def is_archive_type(media_type: str) -> bool:
    """Return whether a media type is that of an archive or of compressed content."""
    return any(word in media_type for word in ("gzip", "zstd")) or (
        _SAYS_TAR.search(media_type) is not None
    )


def open_archive(
    stream: ByteStream,
    media_type: str,
    *,
    max_unpacked: int = MAX_UNPACKED_BYTES,
    max_members: int = MAX_MEMBERS,
) -> Archive | None:
    """Return the tar in `stream`; `None` if neither content nor media type is that of a tar.

    Args:
        stream: The layer.
        media_type: If it names gzip or zstd, `stream` must have that format; otherwise the first
            bytes decide.
        max_unpacked: Largest number of decompressed bytes, after which reading raises LimitError.
        max_members: Largest number of entries, after which iterating raises LimitError.

    Raises:
        ProtocolError: the content does not fit the media type.
    """
    plain = decompressed(stream, media_type, max_unpacked)
    first = _read_up_to(plain, BLOCK_BYTES)
    said = _SAYS_TAR.search(media_type) is not None
    empty = said and first == bytes(BLOCK_BYTES)
    if len(first) == BLOCK_BYTES and (empty or _is_header(first)):
        return Archive(plain, first, max_members)
    if said:
        raise ProtocolError(f"not a tar, though its media type is {media_type!r:.200}")
    return None


def decompressed(stream: ByteStream, media_type: str, max_unpacked: int) -> ByteStream:
    """Return the decompressed content of `stream`; reading raises as `open_archive`."""
    return _Unpacked(_decompressor(stream, media_type), max_unpacked)


def _decompressor(stream: ByteStream, media_type: str) -> ByteStream:
    """Return a decompressor of `stream`.

    libzstd does not notice that a frame lacks its last bytes, the checksum; the tar's end and the
    layer's digest show it.
    """
    head = _read_up_to(stream, len(_ZSTD_MAGIC))
    source = cast("BinaryIO", _Prefixed(head, stream))  # needs only `read`
    if "gzip" in media_type or (head.startswith(_GZIP_MAGIC) and "zstd" not in media_type):
        return gzip.GzipFile(fileobj=source, mode="rb")
    if "zstd" in media_type or head == _ZSTD_MAGIC:
        made: ByteStream = zstandard.ZstdDecompressor(
            max_window_size=MAX_WINDOW_BYTES
        ).stream_reader(source, read_across_frames=True, closefd=False)
        return made
    return source


class _Prefixed:
    """A stream whose first bytes were already read."""

    def __init__(self, head: bytes, stream: ByteStream) -> None:
        self._head = head
        self._stream = stream

    def read(self, size: int, /) -> bytes:
        if not self._head:
            return self._stream.read(size)
        data, self._head = self._head[:size], self._head[size:]
        return data


class _Unpacked:
    """A decompressed stream that counts its bytes and maps the errors."""

    def __init__(self, stream: ByteStream, limit: int) -> None:
        self._stream = stream
        self._limit = limit
        self._left = limit

    def read(self, size: int = -1, /) -> bytes:
        try:
            data = self._stream.read(size)
        except EOFError as error:
            raise ProtocolError("gzip: ends early") from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise ProtocolError(f"gzip: {error}") from error
        except zstandard.ZstdError as error:
            raise ProtocolError(f"zstd: {error}") from error
        self._left -= len(data)
        if self._left < 0:
            raise LimitError(f"layer unpacks to more than {self._limit} bytes")
        return data


def _read_up_to(stream: ByteStream, size: int) -> bytes:
    """Return `size` bytes, fewer only at the end."""
    data = b""
    while len(data) < size and (piece := stream.read(size - len(data))):
        data += piece
    return data


def _read_exactly(stream: ByteStream, size: int) -> bytes:
    data = _read_up_to(stream, size)
    if len(data) < size:
        raise ProtocolError("tar: ends early")
    return data


def _is_header(block: bytes) -> bool:
    """Return whether the checksum is right; old programs added the bytes up as signed ones."""
    digits = block[_CHECKSUM].strip(b" \0")
    if not digits or digits.strip(b"01234567"):
        return False
    rest = block[: _CHECKSUM.start] + b" " * 8 + block[_CHECKSUM.stop :]
    total = sum(rest)
    high = len(rest.translate(None, _ASCII))
    return int(digits, 8) in (total, total - 256 * high)


def _number(field: bytes) -> int:
    """Return an octal field, or a binary one for larger numbers."""
    if field[0] == 0x80:  # noqa: PLR2004 - GNU's mark; 0xff marks a negative number
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if digits.strip(b"01234567"):
        raise ProtocolError(f"tar: {digits!r:.50} is not an octal number")
    return int(digits or b"0", 8)


def _name(block: bytes) -> str:
    name = _text(block[:100])
    if block[257:263] == b"ustar\0" and block[345]:
        return f"{_text(block[345:500])}/{name}"
    return name


def _text(field: bytes) -> str:
    """Return a name; invalid UTF-8 becomes surrogates, which equal no requested name."""
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _parse_pax(data: bytes) -> dict[str, str]:
    """Return the records of a PAX extension: `LENGTH KEY=VALUE` and a newline each.

    Source: IEEE Std 1003.1-2017, "pax Interchange Format".
    """
    records: dict[str, str] = {}
    while data:
        head = data.partition(b" ")[0]
        length = int(head) if head.isdigit() and len(head) < 8 else 0  # noqa: PLR2004
        whole = 0 < length <= len(data)
        record, data = data[len(head) + 1 : length], data[length:]
        key, equals, value = record.removesuffix(b"\n").partition(b"=")
        if not (whole and equals and key and record.endswith(b"\n")):
            raise ProtocolError("tar: malformed PAX record")
        records[_text(key)] = value.decode("utf-8", "surrogateescape")
    return records

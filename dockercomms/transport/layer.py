"""One chunk as a layer: a tar with one entry, compressed; and back, with every bound enforced.

The same chunk, index and compression give the same bytes with the same release of this package
and of its compressor, so a second send finds its layers in the store. For gzip the compressor is
isal where it is installed and zlib elsewhere (`gzip_engine`); their bytes differ, and isal's may
differ between processors. zstd, the default, has one compressor.

Source: SPEC.md section 4.

Example:
    >>> import io
    >>> from dockercomms.transport.layer import decode, encode
    >>> from dockercomms.transport.chunks import Chunk
    >>> layer = encode(Chunk.of(b"hello"), 0, "zstd")
    >>> b"".join(decode(io.BytesIO(b"".join(layer.pieces)), "zstd", 0, limit=5))
    b'hello'
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import BinaryIO, Literal, Protocol, cast

import zstandard

from dockercomms.errors import ProtocolError
from dockercomms.oci.model import ByteStream, Digest
from dockercomms.protocol import MAX_ZSTD_WINDOW_BYTES, Compression
from dockercomms.transport.chunks import Chunk
from dockercomms.transport.pieces import PIECE_BYTES
from dockercomms.transport.tar import (
    BLOCK_BYTES,
    END,
    TYPE_FILE,
    TarMember,
    padding_bytes,
    read_member,
    read_padding,
    write_header,
)
from dockercomms.transport.zstd_frames import FrameReader


def _optional(name: str) -> ModuleType | None:
    try:
        return import_module(name)
    except ImportError:  # the extra `fast` is not installed
        return None


_ISAL = _optional("isal.isal_zlib")
GzipEngine = Literal["isal", "zlib"]

ZSTD_LEVEL = 3
"""Random bytes pass at 2 GB/s as raw blocks, text at 130 MB/s a core (measured on one core of a
2-core machine); level 1 is 1.8 times as fast on text and leaves 1.9 times as much."""
ISAL_LEVEL = 1
"""Measured: as small as zlib's level 6 on text, at 15 times its speed. Level 0 makes random
bytes 23 % larger."""
ZLIB_LEVEL = 1
_STORED = 0
_OUTPUT_BYTES = 2 * PIECE_BYTES
"""Room for what a piece of incompressible input becomes, so that one call takes all of it."""
_SAMPLE_BYTES = 16 * 2**10
_SAMPLES = 4
_SHRINKS = 0.97
"""What a sample must shrink to for zlib to be worth its time (40 MB/s on random bytes)."""

_GZIP_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
"""Deflate, no flags, time 0, operating system unknown."""
_RAW_DEFLATE = -15
_GZIP_WINDOW = 31


@dataclass(frozen=True, slots=True)
class Layer:
    """The bytes of a layer, and what its descriptor says about them."""

    pieces: list[bytes]
    digest: Digest
    size: int

    def let_go(self) -> None:
        """Give the memory back now, whoever may still refer to this."""
        self.pieces.clear()


def entry_name(index: int) -> str:
    """Return the name of the tar entry that holds chunk `index`."""
    return f"chunk_{index}.bin"


def gzip_engine() -> GzipEngine:
    """Return what compresses gzip here."""
    return "zlib" if _ISAL is None else "isal"


def _module(engine: GzipEngine | None) -> ModuleType:
    """Return isal where it is wanted and there, else zlib, which has the same interface."""
    return zlib if _ISAL is None or engine == "zlib" else _ISAL


def encode(
    chunk: Chunk, index: int, compression: Compression, *, engine: GzipEngine | None = None
) -> Layer:
    """Return the layer that holds `chunk`, whose pieces are used up on the way.

    Releases the interpreter lock while compressing.

    Args:
        chunk: The payload bytes.
        index: The chunk's index.
        compression: What the whole message is compressed with.
        engine: What compresses gzip, if not `gzip_engine()`.
    """
    compressed = _zstd(chunk, index) if compression == "zstd" else _gzip(chunk, index, engine)
    hashed = hashlib.sha256()
    pieces = []
    for piece in compressed:
        if piece:
            hashed.update(piece)
            pieces.append(piece)
    digest = Digest(f"sha256:{hashed.hexdigest()}")
    return Layer(pieces, digest, sum(len(piece) for piece in pieces))


def _tar(chunk: Chunk, index: int) -> Iterator[bytes]:
    """Yield the tar that holds `chunk`."""
    yield write_header(TarMember(path=entry_name(index), size=chunk.size))
    yield from chunk.take()
    yield bytes(padding_bytes(chunk.size)) + END


def _tar_bytes(chunk: Chunk) -> int:
    return BLOCK_BYTES + chunk.size + padding_bytes(chunk.size) + len(END)


def _zstd(chunk: Chunk, index: int) -> Iterator[bytes]:
    """Yield one frame with content size and checksum; raw blocks where nothing shrinks."""
    compressor = zstandard.ZstdCompressor(
        level=ZSTD_LEVEL, write_checksum=True, write_content_size=True
    ).compressobj(size=_tar_bytes(chunk))
    for piece in _tar(chunk, index):
        yield compressor.compress(piece)
    yield compressor.flush()


def _gzip(chunk: Chunk, index: int, wanted: GzipEngine | None) -> Iterator[bytes]:
    """Yield one gzip member; stored where zlib would only waste time."""
    engine = _module(wanted)
    level = ISAL_LEVEL if engine is not zlib else ZLIB_LEVEL if _shrinks(chunk) else _STORED
    compressor = engine.compressobj(level, zlib.DEFLATED, _RAW_DEFLATE)
    yield _GZIP_HEADER
    crc = 0
    size = _tar_bytes(chunk)
    for piece in _tar(chunk, index):
        crc = engine.crc32(piece, crc)
        yield compressor.compress(piece)
    yield compressor.flush() + struct.pack("<II", crc, size & 0xFFFFFFFF)


def _shrinks(chunk: Chunk) -> bool:
    """Return whether samples of `chunk` shrink: a property of its bytes alone."""
    step = max(1, len(chunk.pieces) // _SAMPLES)
    sample = b"".join(piece[:_SAMPLE_BYTES] for piece in list(chunk.pieces)[::step])
    return len(zlib.compress(sample, ZLIB_LEVEL)) < _SHRINKS * len(sample)


def decode(
    layer: ByteStream,
    compression: Compression,
    index: int,
    *,
    limit: int,
    exact: bool = False,
    engine: GzipEngine | None = None,
) -> Iterator[bytes]:
    """Yield the payload bytes in `layer`, each piece at most 512 KiB.

    Bounds hold before a byte is handed out; that all of it was right is known only when the
    iterator has ended: then `layer` has been read to its own end too.

    Args:
        layer: The compressed bytes.
        compression: What its media type says.
        index: The chunk's index, which its entry must be named for.
        limit: The most payload bytes it may hold.
        exact: It must hold exactly `limit` bytes.
        engine: What reads gzip, if not `gzip_engine()`.

    Raises:
        ProtocolError: any rule of SPEC.md section 4 is broken.
    """
    plain = _GzipReader(layer, _module(engine)) if compression == "gzip" else _ZstdReader(layer)
    member = read_member(plain)
    if member is None or member.type != TYPE_FILE or member.path != entry_name(index):
        found = "nothing" if member is None else f"{member.path!r:.100} of type {member.type!r}"
        raise ProtocolError(
            f"chunk {index}: the file {entry_name(index)!r} expected, {found} found"
        )
    if member.size > limit or (exact and member.size != limit):
        expected = f"{limit}" if exact else f"at most {limit}"
        raise ProtocolError(f"chunk {index}: {expected} bytes expected, {member.size} announced")
    left = member.size
    while left:
        piece = plain.read(min(left, _OUTPUT_BYTES))
        if not piece:
            raise ProtocolError(f"chunk {index}: ends {left} bytes early")
        left -= len(piece)
        yield piece
    read_padding(plain, member.size)
    if read_member(plain) is not None:
        raise ProtocolError(f"chunk {index}: a second entry")


class _Inflater(Protocol):
    """What zlib's and isal's decompression objects have in common."""

    eof: bool
    unused_data: bytes
    unconsumed_tail: bytes

    def decompress(self, data: bytes, max_length: int = 0, /) -> bytes: ...


class _GzipReader:
    """Reads gzip members one after another to the end of the source, checking each one's CRC."""

    def __init__(self, source: ByteStream, engine: ModuleType) -> None:
        self._source = source
        self._engine = engine
        self._member = self._new_member()
        self._input = b""

    def _new_member(self) -> _Inflater:
        inflater: _Inflater = self._engine.decompressobj(wbits=_GZIP_WINDOW)
        return inflater

    def read(self, size: int = -1, /) -> bytes:
        """Return 1 to `size` bytes, b"" at the proven end."""
        while True:
            data = self._input or self._source.read(PIECE_BYTES)
            if self._member.eof:
                if not data:
                    return b""
                self._member = self._new_member()
            try:
                out = self._member.decompress(data, size)
            except self._engine.error as error:
                raise ProtocolError(f"gzip: {error}") from error
            self._input = self._member.unused_data or self._member.unconsumed_tail
            if out:
                return out
            if not (data or self._member.eof):
                raise ProtocolError("gzip: ends early")


class _ZstdReader:
    """Reads zstd frames one after another to the end of the source, checking their checksums."""

    def __init__(self, source: ByteStream) -> None:
        self._frames = FrameReader(source, max_window_bytes=MAX_ZSTD_WINDOW_BYTES)
        self._stream = zstandard.ZstdDecompressor(
            max_window_size=MAX_ZSTD_WINDOW_BYTES
        ).stream_reader(cast("BinaryIO", self._frames), read_across_frames=True, closefd=False)

    def read(self, size: int = -1, /) -> bytes:
        """Return 1 to `size` bytes, b"" at the proven end."""
        try:
            out: bytes = self._stream.read(size)
        except zstandard.ZstdError as error:
            raise ProtocolError(f"zstd: {error}") from error
        if not out and size:
            self._frames.check_end()
        return out

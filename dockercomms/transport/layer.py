"""Conversion of a chunk to a layer (a compressed tar with one entry) and back, within limits.

The same chunk, index and compression give the same bytes with the same release of this package
and of its compressor, so a second send finds its layers in the store. For gzip the compressor is
isal if it is installed, else zlib (`gzip_engine`); their bytes differ, and isal's may differ
between processors. The default zstd has one compressor. Incompressible chunks become raw blocks.

Source: SPEC.md section 4.
"""

from __future__ import annotations

import contextlib
import hashlib
import struct
import zlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, BinaryIO, Literal, Protocol, cast

import zstandard

from dockercomms.errors import ProtocolError
from dockercomms.oci.content import ByteStream, HeldBlob, ProvenBlob
from dockercomms.oci.model import Digest
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.header import MAX_ZSTD_WINDOW_BYTES, Compression
from dockercomms.transport.chunks import Chunk, room_bytes
from dockercomms.transport.in_place import (
    RAW_BLOCK_BYTES,
    PlacedChunk,
    PlacedTar,
    optional_module,
    raw_frame,
)
from dockercomms.transport.tar import (
    BLOCK_BYTES,
    TYPE_FILE,
    TarMember,
    chunk_name,
    read_member,
    read_padding,
    write_header,
)
from dockercomms.transport.window import PIECE_BYTES, allocate

if TYPE_CHECKING:
    from hashlib import _Hash


_ISAL = optional_module("isal.isal_zlib")
GzipEngine = Literal["isal", "zlib"]

ZSTD_LEVEL = 1
"""Measured on one core of a 2-core machine: random bytes pass as raw blocks at 3 GB/s, source code
and logs at 0.4 to 0.7 GB/s; level 3 saves 10 % more of them, in twice the time."""
_FRAME_BYTES = 2**20
"""Bytes per frame: they shrink as much as in one frame (1:4.46 either way, measured)."""
ISAL_LEVEL = 1
"""Measured: as small as zlib's level 6 on text, at 15 times its speed. Level 0 makes random
bytes 23 % larger."""
ZLIB_LEVEL = 1
_GZIP_PIECE_BYTES = 2 * PIECE_BYTES
"""Random bytes in smaller pieces exceed `layer_bytes` with isal (200 MB, measured)."""
_STORED = 0
LEAST_RAW_BYTES = 2**18
"""Smaller chunks always go through zstd, without samples."""
_SAMPLE_BYTES = 8 * 2**10
_SAMPLES = 16
_MIDDLE_BYTES = 2**18
_SHRINKS = 0.98
"""A compressor is used if samples shrink to this: for 1 GiB of random bytes zlib takes 25 s, zstd
0.35 s, and the samples 0.03 s."""

_MOST_BYTES = 2**20
"""The most bytes that zstd asks its source for at once."""
_GZIP_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
"""Deflate, no flags, time 0, operating system unknown."""
_RAW_DEFLATE = -15
_GZIP_WINDOW = 31


@dataclass(frozen=True, slots=True)
class Layer:
    """The bytes of a layer, with the fields of its descriptor."""

    content: memoryview
    digest: Digest

    @property
    def size(self) -> int:
        """Its length in bytes."""
        return len(self.content)

    def blob(self, check: Callable[[], None]) -> ProvenBlob:
        """Return its bytes; `check` is called before each block."""
        return HeldBlob(self.content, check)


def gzip_engine() -> GzipEngine:
    """Return the name of the gzip compressor in use."""
    return "zlib" if _ISAL is None else "isal"


def _module(engine: GzipEngine | None) -> ModuleType:
    """Return isal if it is wanted and installed, else zlib, which has the same interface."""
    return zlib if _ISAL is None or engine == "zlib" else _ISAL


def layer_bytes(chunk_bytes: int) -> int:
    """Return the buffer size that the layer of any chunk of `chunk_bytes` needs.

    zstd grows by 3 bytes in 128 KiB and a few more, isal by 5 in 32 KiB, zlib by 5 in 16 KiB.
    """
    return room_bytes(chunk_bytes) + chunk_bytes // 2**11 + 2**10


def encode(
    chunk: Chunk | PlacedChunk,
    index: int,
    compression: Compression,
    *,
    engine: GzipEngine | None = None,
    into: memoryview | None = None,
) -> Layer:
    """Return the layer that holds `chunk`. Releases the interpreter lock while compressing.

    Args:
        chunk: The payload bytes; the rest of their buffer is overwritten.
        index: The chunk's index.
        compression: The compression of the whole message.
        engine: The gzip compressor; default `gzip_engine()`.
        into: A buffer for the layer, `layer_bytes` of the chunk's size or more; default: a new one.

    Raises:
        LocalIOError: the chunk's file is not readable, or shorter than it was.
    """
    room = allocate(layer_bytes(chunk.size)) if into is None else into
    tar = _tar(chunk, index) if isinstance(chunk, Chunk) else chunk.tar(index)
    hashed = hashlib.sha256()
    if compression == "zstd" and goes_raw(tar):
        size = _raw(tar, room, hashed)
    elif compression == "zstd":
        size = _zstd(tar, room, hashed)
    else:
        size = _gzip(tar, room, engine)
        hashed.update(room[:size])
    return Layer(room[:size], Digest(f"sha256:{hashed.hexdigest()}"))


def _tar(chunk: Chunk, index: int) -> memoryview:
    """Complete the tar around `chunk` in its buffer and return it."""
    end = BLOCK_BYTES + chunk.size
    tar = chunk.room[: room_bytes(chunk.size)]
    tar[:BLOCK_BYTES] = write_header(TarMember(path=chunk_name(index), size=chunk.size))
    tar[end:] = bytes(len(tar) - end)
    return tar


def goes_raw(tar: memoryview | PlacedTar) -> bool:
    """Return whether `tar` becomes a frame of raw blocks, without compression by zstd."""
    return len(tar) >= LEAST_RAW_BYTES and not shrinks(tar)


def _raw(tar: memoryview | PlacedTar, room: memoryview, hashed: _Hash) -> int:
    """Write one frame of raw blocks; hash each block while it is in the cache."""
    size = 0
    for part in raw_frame(_cut(tar, RAW_BLOCK_BYTES), len(tar)):
        room[size : size + len(part)] = part
        hashed.update(part)
        size += len(part)
    return size


def _zstd(tar: memoryview | PlacedTar, room: memoryview, hashed: _Hash) -> int:
    """Write a frame for each MiB, with content size and checksum, raw if it does not shrink.

    A frame made in one call takes 15 % less time than a streamed one.
    """
    compressor = zstandard.ZstdCompressor(
        level=ZSTD_LEVEL, write_checksum=True, write_content_size=True
    )
    size = 0
    for piece in _cut(tar, _FRAME_BYTES):
        frame = compressor.compress(piece)
        room[size : size + len(frame)] = frame
        hashed.update(frame)
        size += len(frame)
    return size


def _gzip(tar: memoryview | PlacedTar, room: memoryview, wanted: GzipEngine | None) -> int:
    """Write one gzip member; store the content if compressing it would not help."""
    engine = _module(wanted)
    level = ISAL_LEVEL if engine is not zlib else ZLIB_LEVEL if shrinks(tar) else _STORED
    compressor = engine.compressobj(level, zlib.DEFLATED, _RAW_DEFLATE)
    size = crc = 0

    def put(piece: bytes) -> None:
        nonlocal size
        room[size : size + len(piece)] = piece
        size += len(piece)

    put(_GZIP_HEADER)
    for piece in _cut(tar, _GZIP_PIECE_BYTES):
        crc = engine.crc32(piece, crc)
        put(compressor.compress(piece))
    put(compressor.flush() + struct.pack("<II", crc, len(tar) & 0xFFFFFFFF))
    return size


def _cut(tar: memoryview | PlacedTar, size: int) -> Iterator[memoryview]:
    """Yield `tar` in pieces of `size` bytes; each is valid until the next."""
    if isinstance(tar, memoryview):
        return (tar[at : at + size] for at in range(0, len(tar), size))
    return tar.pieces(size)


def shrinks(tar: memoryview | PlacedTar) -> bool:
    """Return whether samples of `tar` shrink; the result depends only on its bytes.

    16 short samples from all parts find a part that shrinks; a long one from the middle finds
    repetitions at a distance.
    """
    step = max(_SAMPLE_BYTES, len(tar) // _SAMPLES)
    spread = [_sample(tar, at, _SAMPLE_BYTES) for at in range(0, len(tar), step)]
    middle = _sample(tar, max(0, (len(tar) - _MIDDLE_BYTES) // 2), _MIDDLE_BYTES)
    compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL)
    return any(
        sum(len(compressor.compress(sample)) for sample in samples)
        < _SHRINKS * sum(len(sample) for sample in samples)
        for samples in (spread, [middle])
    )


def _sample(tar: memoryview | PlacedTar, at: int, size: int) -> memoryview:
    if isinstance(tar, memoryview):
        return tar[at : at + size]
    room = allocate(min(size, len(tar) - at))
    tar.fill(room, at)
    return room


def decode(
    layer: ByteStream,
    compression: Compression,
    index: int,
    *,
    limit: int,
    exact: bool = False,
    engine: GzipEngine | None = None,
    room: memoryview | None = None,
) -> Iterator[bytes | memoryview]:
    """Yield the payload bytes in `layer`, each piece at most 256 KiB or as long as `room`.

    Limits are checked before bytes are yielded. The layer is verified only when the iterator has
    ended; then `layer` has been read to its end.

    Args:
        layer: The compressed bytes.
        compression: The compression by its media type.
        index: The chunk's index, which must be the name of its entry.
        limit: The most payload bytes it may hold.
        exact: It must hold exactly `limit` bytes.
        engine: The gzip decompressor; default `gzip_engine()`.
        room: A buffer for each piece, which is valid until the next.

    Raises:
        ProtocolError: the layer breaks a rule of SPEC.md section 4.
    """
    plain = _GzipReader(layer, _module(engine)) if compression == "gzip" else _ZstdReader(layer)
    member = read_member(plain)
    if member is None or member.type != TYPE_FILE or member.path != chunk_name(index):
        found = "nothing" if member is None else f"{member.path!r:.100} of type {member.type!r}"
        raise ProtocolError(
            f"chunk {index}: the file {chunk_name(index)!r} expected, {found} found"
        )
    if member.size > limit or (exact and member.size != limit):
        expected = f"{limit}" if exact else f"at most {limit}"
        raise ProtocolError(f"chunk {index}: {expected} bytes expected, {member.size} announced")
    left = member.size
    while left:
        piece = _piece(plain, min(left, PIECE_BYTES if room is None else len(room)), room)
        if not piece:
            raise ProtocolError(f"chunk {index}: ends {left} bytes early")
        left -= len(piece)
        yield piece
    read_padding(plain, member.size)
    if read_member(plain) is not None:
        raise ProtocolError(f"chunk {index}: one tar entry expected, a second one received")


def _piece(
    plain: _GzipReader | _ZstdReader, size: int, room: memoryview | None
) -> bytes | memoryview:
    """Return 1 to `size` bytes, b"" at the end; in `room` if that saves a copy."""
    if room is None or isinstance(plain, _GzipReader):
        return plain.read(size)
    view = room[: min(size, len(room))]
    return view[: plain.readinto(view)]


class _Inflater(Protocol):
    """The common interface of zlib's and isal's decompression objects."""

    eof: bool
    unused_data: bytes
    unconsumed_tail: bytes

    def decompress(self, data: bytes, max_length: int = 0, /) -> bytes: ...


class _GzipReader:
    """Reads gzip members to the end of the source, and checks each one's CRC."""

    def __init__(self, source: ByteStream, engine: ModuleType) -> None:
        self._source = source
        self._engine = engine
        self._member = self._new_member()
        self._input = b""

    def _new_member(self) -> _Inflater:
        inflater: _Inflater = self._engine.decompressobj(wbits=_GZIP_WINDOW)
        return inflater

    def read(self, size: int = -1, /) -> bytes:
        """Return 1 to `size` bytes, b"" at the verified end."""
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
    """Reads zstd frames to the end of the source, and checks their checksums."""

    def __init__(self, source: ByteStream) -> None:
        from dockercomms.transport.zstd_frames import FrameReader  # noqa: PLC0415 - a sender reads none

        self._frames = FrameReader(source, max_window_bytes=MAX_ZSTD_WINDOW_BYTES)
        self._stream = zstandard.ZstdDecompressor(
            max_window_size=MAX_ZSTD_WINDOW_BYTES
        ).stream_reader(
            cast("BinaryIO", self._frames),
            read_size=_MOST_BYTES,
            read_across_frames=True,
            closefd=False,
        )

    def read(self, size: int = -1, /) -> bytes:
        """Return 1 to `size` bytes, b"" at the verified end."""
        with self._errors():
            out: bytes = self._stream.read(size)
        if not out and size:
            self._frames.check_end()
        return out

    def readinto(self, room: memoryview, /) -> int:
        """Put 1 or more bytes into `room`; return their number, 0 at the verified end."""
        with self._errors():
            count: int = self._stream.readinto(room)
        if not count and len(room):
            self._frames.check_end()
        return count

    @staticmethod
    @contextlib.contextmanager
    def _errors() -> Iterator[None]:
        try:
            yield
        except zstandard.ZstdError as error:
            raise ProtocolError(f"zstd: {error}") from error

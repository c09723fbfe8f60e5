"""A check of the boundaries of zstd frames, which the decompressor does not report.

libzstd's streaming reader ends without an error if its input stops in the middle of a frame, for
example before the checksum. This reader passes bytes through and follows the frame format. It
detects a cut, bytes after the last frame, and a window that is too large.

Source: RFC 8878 section 3.1.
"""

from __future__ import annotations

from collections.abc import Callable

from dockercomms.errors import ProtocolError
from dockercomms.oci.content import ByteStream

_MAGIC = b"\x28\xb5\x2f\xfd"
_MAGIC_BYTES = 4
_SKIPPABLE_MAGIC = b"\x2a\x4d\x18"
"""Bytes 2 to 4 of the magic number of a skippable frame; the first is 0x50 to 0x5f."""
_BLOCK_HEADER_BYTES = 3
_RLE_BLOCK = 1
_RESERVED_BLOCK = 3
_CHECKSUM_BYTES = 4
_DICTIONARY_ID_BYTES = (0, 1, 2, 4)
_CONTENT_SIZE_BYTES = (0, 2, 4, 8)
_TWO_BYTE_CONTENT_SIZE_OFFSET = 256
_MIN_WINDOW_LOG = 10


class FrameReader:
    """Passes a zstd stream through and knows whether it is at the end of a frame."""

    def __init__(self, source: ByteStream, *, max_window_bytes: int) -> None:
        self._source = source
        self._max_window_bytes = max_window_bytes
        self._skip = 0
        self._head = bytearray()
        self._need = _MAGIC_BYTES
        self._next: Callable[[bytes], None] = self._magic
        self._has_checksum = False
        self._frames = 0

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes of the source.

        Raises:
            ProtocolError: they are not zstd frames, or a window is too large.
        """
        data = self._source.read(size)
        self._follow(data)
        return data

    def check_end(self) -> None:
        """Check that the bytes read so far are complete frames.

        Raises:
            ProtocolError: they end in the middle of a frame, or there is none.
        """
        inside = self._skip or self._head or self._next != self._magic
        if inside or not self._frames or self.read(1):
            raise ProtocolError("zstd: ends early")

    def _follow(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            if self._skip:
                step = min(self._skip, len(data) - at)
                self._skip -= step
            else:
                step = min(self._need - len(self._head), len(data) - at)
                self._head += data[at : at + step]
                if len(self._head) == self._need:
                    head, self._head = bytes(self._head), bytearray()
                    self._next(head)
            at += step

    def _expect(self, need: int, then: Callable[[bytes], None]) -> None:
        self._need, self._next = need, then

    def _magic(self, head: bytes) -> None:
        if head == _MAGIC:
            self._expect(1, self._descriptor)
        elif head[1:] == _SKIPPABLE_MAGIC and head[0] >> 4 == 5:  # noqa: PLR2004 - 0x50 to 0x5f
            self._expect(4, self._skippable)
        else:
            raise ProtocolError("zstd: bytes outside of a frame")

    def _skippable(self, head: bytes) -> None:
        self._skip = int.from_bytes(head, "little")
        self._expect(_MAGIC_BYTES, self._magic)

    def _descriptor(self, head: bytes) -> None:
        flags = head[0]
        single = bool(flags & 0x20)
        self._has_checksum = bool(flags & 0x04)
        content = _CONTENT_SIZE_BYTES[flags >> 6] or (1 if single else 0)
        dictionary = _DICTIONARY_ID_BYTES[flags & 3]
        if flags & 0x08:
            raise ProtocolError("zstd: a reserved bit is set")

        def rest(fields: bytes) -> None:
            self._check_window(fields, single=single, content=content)
            self._expect(_BLOCK_HEADER_BYTES, self._block)

        self._expect((0 if single else 1) + dictionary + content, rest)

    def _check_window(self, fields: bytes, *, single: bool, content: int) -> None:
        if single:
            window = int.from_bytes(fields[len(fields) - content :], "little")
            window += _TWO_BYTE_CONTENT_SIZE_OFFSET if content == 2 else 0  # noqa: PLR2004
        else:
            base = 1 << (_MIN_WINDOW_LOG + (fields[0] >> 3))
            window = base + (base >> 3) * (fields[0] & 7)
        if window > self._max_window_bytes:
            raise ProtocolError(
                f"zstd: a window of {window} bytes; at most {self._max_window_bytes}"
            )

    def _block(self, head: bytes) -> None:
        value = int.from_bytes(head, "little")
        kind, size = value >> 1 & 3, value >> 3
        if kind == _RESERVED_BLOCK:
            raise ProtocolError("zstd: a reserved kind of block")
        self._skip = 1 if kind == _RLE_BLOCK else size
        if value & 1:
            self._frames += 1
            self._skip += _CHECKSUM_BYTES if self._has_checksum else 0
            self._expect(_MAGIC_BYTES, self._magic)

"""A little DER: enough to read certificate requests and to write time stamps.

Source: ITU-T X.690, sections 8 and 10.
"""

from __future__ import annotations

SEQUENCE, SET, OCTET_STRING, INTEGER, UTF8_STRING, TIME = 0x30, 0x31, 0x04, 0x02, 0x0C, 0x18
EXPLICIT_0, EXPLICIT_3 = 0xA0, 0xA3


def element(data: bytes, at: int) -> tuple[int, int, int]:
    """Return tag, start and end of the value of the element that begins at `at`."""
    tag, length, at = data[at], data[at + 1], at + 2
    if length & 0x80:
        size = length & 0x7F
        length, at = int.from_bytes(data[at : at + size], "big"), at + size
    return tag, at, at + length


def children(data: bytes) -> list[tuple[int, bytes]]:
    """Return tag and whole encoding of each element inside the first one of `data`."""
    _, at, end = element(data, 0)
    found = []
    while at < end:
        tag, _, stop = element(data, at)
        found.append((tag, data[at:stop]))
        at = stop
    return found


def wrap(tag: int, *parts: bytes) -> bytes:
    """Return an element with `parts` as its value."""
    value = b"".join(parts)
    if len(value) < 0x80:
        return bytes([tag, len(value)]) + value
    length = len(value).to_bytes((len(value).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + value


def sequence(*parts: bytes) -> bytes:
    return wrap(SEQUENCE, *parts)


def integer(number: int) -> bytes:
    return wrap(INTEGER, number.to_bytes(number.bit_length() // 8 + 1, "big"))

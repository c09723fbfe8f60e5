"""Tars as other programs make them, honest and hostile."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass

import zstandard

GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
PLAIN = "application/vnd.oci.image.layer.v1.tar"


@dataclass(frozen=True, slots=True)
class Item:
    """One entry."""

    name: str
    data: bytes = b""
    type: bytes = tarfile.REGTYPE
    link: str = ""


def make_tar(items: Sequence[Item], *, form: int = tarfile.PAX_FORMAT) -> bytes:
    """Return a tar of `items`."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=form) as tar:
        for item in items:
            info = tarfile.TarInfo(item.name)
            info.type, info.size, info.linkname = item.type, len(item.data), item.link
            tar.addfile(info, io.BytesIO(item.data))
    return made.getvalue()


def pack(tar: bytes, media_type: str) -> bytes:
    """Return `tar` as a layer of `media_type`."""
    if "gzip" in media_type:
        return gzip.compress(tar, mtime=0)
    if "zstd" in media_type:
        return zstandard.ZstdCompressor(write_checksum=True).compress(tar)
    return tar


def header(name: bytes = b"x", **fields: bytes) -> bytes:
    """Return one header block with a right checksum; `fields` overwrite parts of it."""
    places = {"size": 124, "type": 156, "magic": 257, "prefix": 345, "extended": 482}
    block = bytearray(512)
    block[: len(name)] = name
    block[124:136] = b"%011o\0" % 0
    block[156:157] = b"0"
    block[257:265] = b"ustar\00000"
    for key, value in fields.items():
        block[places[key] : places[key] + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)

"""The changes of an image layout that are not yet in its `index.json`.

A push into a large layout would have to write megabytes of `index.json`. Instead it appends one
line to this file, durably, before it returns. `LayoutFiles` writes `index.json` when the lines have
grown to a share of its size, and when the layout is closed.

```
<32 hex digits that no other file of changes has>
<CRC-32 of the rest, 8 hex digits> {"push":{...},"tags":["v1"],"subject":null}
<CRC-32 of the rest, 8 hex digits> {"untag":"v1"}
```

To apply a line twice changes no more than once. So a crash between the new `index.json` and the
removal of this file does no harm, and other tools may write `index.json`. Readers ignore a line
that a crash truncated, and the next writer overwrites it.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from dockercomms.errors import ProtocolError
from dockercomms.oci.strict_json import canonical_json, parse_json
from dockercomms.platforms.files import open_regular, share_like, sync_file, sync_folder, write_all
from dockercomms.platforms.records import dataclass

Change = Mapping[str, object]

_NAME_BYTES = 33
_NAME = re.compile(rb"[0-9a-f]{32}\n")
_CRC_CHARACTERS = 8
_MODE = 0o666


@dataclass(frozen=True, slots=True)
class ReadChanges:
    """The state of the file when it was read: its name, the length read, and the changes."""

    name: bytes = b""
    """The first line; empty if there is no file."""
    end: int = 0
    changes: tuple[Change, ...] = ()


class ChangesFile:
    """The file of changes; only the holder of the layout's lock may append or remove.

    Args:
        path: Its path; the file may be missing.
        like: The shared folder from which the file takes its permissions; `None`: the umask
            decides.
    """

    def __init__(self, path: Path, *, like: Path | None = None) -> None:
        self._path = path
        self._like = like

    def read(self, before: ReadChanges | None = None) -> ReadChanges:
        """Return the changes: only those behind `before` if that is a state of the same file.

        Raises:
            OSError: the file cannot be read.
        """
        try:
            stream = open_regular(self._path)
        except (FileNotFoundError, NotADirectoryError):
            return ReadChanges()
        with stream:
            name = stream.read(_NAME_BYTES)
            if _NAME.fullmatch(name) is None:
                return ReadChanges()  # a crash cut off the first line
            start = _NAME_BYTES
            if before is not None and before.name == name:
                start = stream.seek(before.end)
            data = stream.read()
        changes, length = _parsed(data)
        return ReadChanges(name, start + length, changes)

    def append(self, changes: Sequence[Change], read: ReadChanges) -> ReadChanges:
        """Append changes to the state `read`, durably; return the new state.

        Raises:
            OSError: the file cannot be written; it has none of the changes.
        """
        lines = b"".join(map(_line, changes))
        name = read.name or os.urandom(16).hex().encode() + b"\n"
        start = read.end if read.name else 0
        flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
        flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        handle = os.open(self._path, flags, _MODE)
        try:
            if self._like is not None and not read.name:
                share_like(handle, self._like)
            os.ftruncate(handle, start)
            os.lseek(handle, start, os.SEEK_SET)
            try:
                write_all(handle, lines if read.name else name + lines)
                sync_file(handle)
            except OSError:
                os.ftruncate(handle, start)
                raise
        finally:
            os.close(handle)
        if not read.name:
            sync_folder(self._path.parent)
        return ReadChanges(name, (start or _NAME_BYTES) + len(lines))

    def remove(self) -> None:
        """Remove the file, if there is one, because `index.json` has its changes now.

        Raises:
            OSError: the file cannot be removed.
        """
        self._path.unlink(missing_ok=True)


def encoded_size(changes: Sequence[Change]) -> int:
    """Return the number of bytes of the changes in the file."""
    return sum(len(_line(change)) for change in changes)


def _line(change: Change) -> bytes:
    text = canonical_json(change)
    return b"%08x " % zlib.crc32(text) + text + b"\n"


def _parsed(data: bytes) -> tuple[tuple[Change, ...], int]:
    """Return the changes in `data` before the first incomplete line, and their length."""
    changes: list[Change] = []
    length = 0
    for line in data.splitlines(keepends=True):
        crc, _, text = line[:-1].partition(b" ")
        if line[-1:] != b"\n" or len(crc) != _CRC_CHARACTERS or crc != b"%08x" % zlib.crc32(text):
            break
        try:
            changes.append(cast("Change", parse_json(text)))
        except ProtocolError:
            break
        length += len(line)
    return tuple(changes), length

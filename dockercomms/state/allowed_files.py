"""The project files that may name a repository, each allowed by the digest of its content.

The user allows a file again after each change of its content, as in direnv.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from pathlib import Path

from dockercomms.platforms.files import (
    create_new,
    local_errors,
    make_folder,
    sync_file,
    sync_folder,
)
from dockercomms.platforms.records import dataclass


@dataclass(frozen=True, slots=True)
class AllowedFiles:
    """A folder with one small record for each allowed project file.

    Args:
        folder: The first record creates it, for its owner alone.
    """

    folder: Path

    def allow(self, path: Path, data: bytes) -> None:
        """Write a record to disk that the file at `path` is allowed while it holds `data`.

        Raises:
            LocalIOError: the record cannot be written.
        """
        record = self._record(path)
        with local_errors(str(record)):
            make_folder(self.folder, mode=0o700)
            fresh = record.with_name(f".{record.name}.{secrets.token_hex(8)}.part")
            with os.fdopen(create_new(fresh), "wb") as file:
                file.write(_content(path, data))
                file.flush()
                sync_file(file.fileno())
            fresh.replace(record)
            sync_folder(self.folder)

    def allows(self, path: Path, data: bytes) -> bool:
        """Return whether the user allowed the file at `path` with exactly this content.

        Raises:
            LocalIOError: the record cannot be read.
        """
        record = self._record(path)
        with local_errors(str(record)), contextlib.suppress(FileNotFoundError):
            return record.read_bytes() == _content(path, data)
        return False

    def forget(self, path: Path) -> bool:
        """Remove the record of the file at `path`; return whether there was one.

        Raises:
            LocalIOError: the record cannot be removed.
        """
        record = self._record(path)
        with local_errors(str(record)), contextlib.suppress(FileNotFoundError):
            record.unlink()
            sync_folder(self.folder)
            return True
        return False

    def _record(self, path: Path) -> Path:
        return self.folder / hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]


def _content(path: Path, data: bytes) -> bytes:
    """Return a record's content: the digest, and the path for people who read the record."""
    digest = hashlib.sha256(data).hexdigest().encode("ascii")
    return digest + b" " + os.fsencode(path.resolve()) + b"\n"

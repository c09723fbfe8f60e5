"""A registry in a tar of an OCI image layout (`oci-archive:` of other tools).

Reads go to the tar. Writes go into a folder beside it, until `close` replaces the tar by a new one;
see `oci.layout.archive_files`.
"""

from __future__ import annotations

from pathlib import Path

from dockercomms.oci.layout.archive_files import ArchiveFiles
from dockercomms.oci.layout.registry import LayoutRegistry


class ArchiveRegistry(LayoutRegistry):
    """Implements `oci.interface.Registry` over a tar; see `LayoutRegistry` for the arguments.

    One process at a time writes; others wait for it for a minute.
    """

    _files: ArchiveFiles

    @staticmethod
    def _open_files(folder: Path, *, create: bool, private: bool) -> ArchiveFiles:  # noqa: ARG004 - a file is made as others are
        return ArchiveFiles(folder, create=create)

    def make(self) -> None:
        """Have `close` write an archive even if it stays empty."""
        if not self._files.exists():
            self._files.prepare()
            self._files.mark_changed()

    def close(self) -> None:
        """Write all changes into the archive; a second call does no harm.

        Raises:
            LocalIOError: the archive cannot be written. It stays as it was; the added contents stay
                beside it for the next run that writes.
        """
        try:
            self._files.commit()
        finally:
            self._files.abandon()

    def abandon(self) -> None:
        """Leave the archive as it was; the added contents stay beside it for a later run."""
        self._files.abandon()

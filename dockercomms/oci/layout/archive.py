"""A registry in a tar of an OCI image layout, as other tools call `oci-archive:`.

It is read in place. What is written waits beside it until `close`, which puts the whole new tar in
the place of the old one; see `oci.archive_files`.
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
        """Make sure that there will be an archive, if only an empty one."""
        if not self._files.exists():
            self._files.prepare()
            self._files.mark_changed()

    def close(self) -> None:
        """Put what was written into the archive; may be called again.

        Raises:
            LocalIOError: it cannot be written. The archive is as it was before, and what was
                written waits beside it for the next run that writes.
        """
        try:
            self._files.commit()
        finally:
            self._files.abandon()

    def abandon(self) -> None:
        """Leave the archive as it was, and what was written beside it for a later run."""
        self._files.abandon()
